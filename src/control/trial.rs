//! What would become of a request: `ringway route`. The request goes through a shard without sockets, so that what is shown is
//! what the server does; nothing is started or sent.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::config::route::{Action, To};
use crate::domain;
use crate::io::interfaces::local_addresses;
use crate::location::AorHasher;
use crate::metrics::{DropReason, Metrics};
use crate::msg::name_addr::NameAddr;
use crate::msg::request::Request;
use crate::msg::scan::{Message, Table, scan};
use crate::owner::OwnerKey;
use crate::pool::Pool;
use crate::port::{ControlPort, PORT_BYTES_MAX, Tell, port};
use crate::routing::{explain, find_index};
use crate::shard::{Keys, Mail, Shard};
use crate::time::Instant;
use crate::token::TokenKey;
use crate::wire::{ConnId, Effect, Effects, Event, Flow, ListenerId, ShardId, Transport};

/// A request as `ringway route` is told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// `METHOD URI`.
    pub request: String,
    /// Where it comes from.
    pub from: SocketAddr,
    pub transport: Transport,
    /// The address that it arrives at; `None`: that of the first listener that fits.
    pub at: Option<SocketAddr>,
    /// The URI of its From.
    pub caller: String,
    /// Further header lines.
    pub headers: Vec<String>,
}

/// Buffers for one request and all that comes of it.
const POOL_BYTES: usize = 4 << 20;

/// Which rule the request goes by, and what would be sent where.
///
/// # Errors
/// Why it is no request, or can't arrive as it is told.
pub fn route(cfg: &Config, question: &Question) -> Result<String, String> {
    let flow = arrival(cfg, question)?;
    let bytes = written(question)?;
    let mut table = Table::new();
    let request = scan(&bytes, &mut table)
        .and_then(|()| Request::check(Message::new(&bytes, &table)))
        .map_err(|error| {
            format!(
                "{:?} is no request that can be routed: {}",
                question.request, error.kind
            )
        })?;
    let index = find_index(cfg, &request, flow);
    let to = index.map_or(&To::Nowhere, |index| &cfg.routes[index].to);
    let mut text = match index {
        None if cfg.routes.is_empty() => "no rule: every request goes to the phone service\n".to_owned(),
        None => "no rule matches: the request goes to the phone service\n".to_owned(),
        Some(index) => {
            let route = &cfg.routes[index];
            let (title, condition) = (explain::title(route, index), explain::condition(route));
            let outcome = explain::outcome(route);
            let mut text = format!("rule {title}, {condition}:\n  {outcome}\n");
            if (route.action, &route.to) == (Action::Proxy, &To::Registered) {
                text.push_str("  (nobody is registered while it is tried out)\n");
            }
            text
        }
    };
    let _ = write!(text, "\n{}", outcome(cfg, flow, &bytes, to));
    Ok(text)
}

fn arrival(cfg: &Config, question: &Question) -> Result<Flow, String> {
    let transport = question.transport;
    let is_meant = |index: &usize| {
        let listener = &cfg.listeners[*index];
        listener.transport == transport
            && match question.at {
                Some(at) => listener.addr == at,
                None => listener.addr.is_ipv4() == question.from.is_ipv4(),
            }
    };
    let index = (0..cfg.listeners.len()).find(is_meant).ok_or_else(|| {
        let at = question.at.map_or_else(String::new, |at| format!(" {at}"));
        let family = if question.from.is_ipv4() { "IPv4" } else { "IPv6" };
        format!(
            "ringway does not listen on{at} over {} and {family}",
            transport.name()
        )
    })?;
    let conn = match transport {
        Transport::Udp => None,
        Transport::Tcp => Some(ConnId {
            shard: ShardId(0),
            slot: 0,
            generation: 0,
        }),
    };
    Ok(Flow {
        transport,
        listener: ListenerId(index as u16),
        peer: question.from,
        conn,
    })
}

fn written(question: &Question) -> Result<Vec<u8>, String> {
    let Some((method, uri)) = question.request.trim().split_once(' ') else {
        return Err(format!(
            "expected a method and a URI such as \"INVITE sip:+4930123@example.com\", found {:?}",
            question.request
        ));
    };
    if NameAddr::parse(format!("<{}>", question.caller).as_bytes()).is_err() {
        return Err(format!(
            "expected a URI for the caller, found {:?}",
            question.caller
        ));
    }
    let (from, caller) = (question.from, &question.caller);
    let transport = question.transport.name();
    let mut text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {from};rport;branch=z9hG4bKtrial\r\nMax-Forwards: 70\r\n\
         From: <{caller}>;tag=trial\r\nTo: <{uri}>\r\nCall-ID: trial\r\nCSeq: 1 {method}\r\nContact: <{caller}>\r\n"
    );
    for line in &question.headers {
        if !line.contains(':') || line.contains(['\r', '\n']) {
            return Err(format!("expected a header line \"NAME: VALUE\", found {line:?}"));
        }
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("Content-Length: 0\r\n\r\n");
    Ok(text.into_bytes())
}

/// What a shard makes of the request.
fn outcome(cfg: &Config, flow: Flow, bytes: &[u8], to: &To) -> String {
    let metrics: Arc<Metrics> = Arc::default();
    // Nothing that is made here is ever met again: the keys need not be secret.
    let keys = Keys {
        token: TokenKey::new([0; 16]),
        owner: OwnerKey::new([0; 16]),
        aors: AorHasher::new([0; 8]),
        tables: [0; 8],
    };
    let mut cfg = cfg.clone();
    cfg.shards = 1;
    // As a server on this machine would know them.
    cfg.local_addresses = local_addresses().unwrap_or_default();
    let now = Instant::from_millis(1_000);
    let mut shard = Shard::new(
        Arc::new(cfg.clone()),
        metrics.clone(),
        ShardId(0),
        keys,
        Mail::default(),
        now,
    );
    let mut out = Effects::new(Pool::new(POOL_BYTES));
    let (mut control, _asks, teller) = port(metrics.clone());
    out.teller = Some(teller);
    shard.start_trunks(Arc::default(), now);
    shard.export(now, &mut out);
    // Of all trunks, asked for as long as a server runs.
    let of_trunks = questions(&mut control);
    match flow.transport {
        Transport::Udp => {
            let received_at = now;
            let event = Event::Datagram {
                flow,
                bytes,
                received_at,
            };
            shard.handle(event, now, &mut out);
        }
        Transport::Tcp => {
            shard.handle(Event::Opened { flow }, now, &mut out);
            shard.handle(Event::Stream { flow, bytes }, now, &mut out);
        }
    }
    shard.export(now, &mut out);
    let mut text = String::new();
    for index in 0..out.len() {
        if let Some(Effect::Send { flow: to, buf, .. }) = out.get(index) {
            let message = String::from_utf8_lossy(out.pool.get(buf)).into_owned();
            let verb = if message.starts_with("SIP/") {
                "answer"
            } else {
                "send"
            };
            let over = to.transport.name().to_ascii_lowercase();
            let own = cfg
                .listeners
                .get(usize::from(to.listener.0))
                .map_or_else(String::new, |listener| listener.addr.to_string());
            let _ = writeln!(text, "{verb} {over} {} from {own}", to.peer);
            for line in message.lines() {
                let _ = writeln!(text, "  {line}");
            }
            out.pool.release(buf);
        }
    }
    out.clear();
    for &reason in DropReason::ALL {
        if metrics.drops[reason as usize].get() > 0 {
            let _ = writeln!(text, "dropped, counted as {}", reason.text());
        }
    }
    let unknown = match to {
        To::Trunk(name) => {
            let trunk = cfg.trunks.iter().find(|trunk| trunk.name == *name);
            let uris = trunk.iter().flat_map(|trunk| &trunk.destinations);
            let hosts: Vec<&str> = uris.map(|destination| destination.uri.as_str()).collect();
            let is_of_trunk = |question: &domain::Question| {
                let name = question.name.to_string();
                hosts.iter().any(|host| host.contains(&name))
            };
            of_trunks.into_iter().filter(is_of_trunk).collect()
        }
        To::Nowhere | To::Registered | To::RequestUri | To::Uris(_) => questions(&mut control),
    };
    for question in unknown {
        let kind = format!("{:?}", question.record_type).to_uppercase();
        let _ = writeln!(
            text,
            "where it goes DNS would say, asked for {kind} of {} first; nobody is asked now",
            question.name
        );
    }
    shard.end(&mut out);
    text
}

/// What a shard asks of DNS.
fn questions(control: &mut ControlPort) -> Vec<domain::Question> {
    let mut bytes = vec![0; PORT_BYTES_MAX];
    let mut all = Vec::new();
    while let Some((tell, _)) = control.next_tell(&mut bytes) {
        if let Tell::Resolve(question) = tell {
            all.push(*question);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load};

    fn told(table: &str, request: &str) -> String {
        let text = format!("listen = [\"127.0.0.1:5060\"]\n{table}");
        let loaded = load(Some(("r.toml".as_ref(), &text)), &[], &Machine::read());
        let question = Question {
            request: request.to_owned(),
            from: ([127, 0, 0, 2], 5060).into(),
            transport: Transport::Udp,
            at: None,
            caller: "sip:trial@trial.invalid".to_owned(),
            headers: Vec::new(),
        };
        route(&loaded.expect("a good table").config, &question).expect("a request")
    }

    #[test]
    fn what_goes_to_a_trunk_is_shown_with_where_it_would_be_sent() {
        let table = |host: &str| {
            format!(
                "[[trunk]]\nname = \"t\"\ndestinations = [\"sip:{host} priority=1\", \"sip:192.0.2.9 priority=2\"]\n\
                 [[trunk]]\nname = \"other\"\ndestinations = [\"sip:gw.other.example\"]\n\
                 [[route]]\naction = \"proxy\"\nto = [\"trunk:t\"]\n"
            )
        };
        let text = told(&table("192.0.2.10"), "INVITE sip:+49@example.com");
        assert!(
            text.contains("\nsend udp 192.0.2.10:5060 from 127.0.0.1:5060\n"),
            "{text}"
        );
        assert!(!text.contains("DNS"), "{text}");
        let text = told(&table("gw.carrier.example"), "INVITE sip:+49@example.com");
        assert!(
            text.contains("asked for NAPTR of gw.carrier.example first"),
            "{text}"
        );
        assert!(!text.contains("gw.other.example"), "{text}");
    }

    #[test]
    fn what_goes_to_a_name_says_what_dns_would_be_asked() {
        let text = told(
            "[[route]]\naction = \"proxy\"\nto = [\"sip:gw.example\"]\n",
            "MESSAGE sip:a@example.com",
        );
        assert!(text.contains("asked for NAPTR of gw.example first"), "{text}");
        let known = "[[route]]\naction = \"proxy\"\nto = [\"sip:gw.example\"]\n[hosts]\n\"gw.example\" = [\"192.0.2.7\"]\n";
        let text = told(known, "MESSAGE sip:a@example.com");
        assert!(text.contains("\nsend udp 192.0.2.7:5060 from"), "{text}");
    }
}
