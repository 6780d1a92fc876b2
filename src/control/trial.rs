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
    let mut text = match find_index(cfg, &request, flow) {
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
    let _ = write!(text, "\n{}", outcome(cfg, flow, &bytes));
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
fn outcome(cfg: &Config, flow: Flow, bytes: &[u8]) -> String {
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
    shard.end(&mut out);
    text
}
