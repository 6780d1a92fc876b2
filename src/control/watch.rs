//! A trace on its way to whoever watches it: a line of JSON a message, over the admin server.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::capture::{Captured, Filter};
use crate::metrics::{Metrics, TellKind};
use crate::time::Instant;
use crate::wire::Transport;

use super::traces::{Trace, Traced};

/// Lines that may wait for the connection of who watches; beyond that they wait in the trace, and then are dropped and counted.
const LINES_WAITING_MAX: usize = 64;
/// Longest trace: a connection does not last longer.
const WATCH_MAX: Duration = Duration::from_secs(3_600);

/// What is asked for.
#[derive(Deserialize, Serialize, Clone, Default, Debug)]
pub struct Wanted {
    pub aor: Option<String>,
    pub call_id: Option<String>,
    /// An address, with a port or without.
    pub peer: Option<String>,
    /// The trace ends after so many messages.
    pub count: Option<u64>,
    /// Or after so long.
    pub seconds: Option<u64>,
}

impl Wanted {
    /// # Errors
    /// It names none of the three, or several, or what is no address; the text says so.
    pub fn filter(&self) -> Result<Filter, String> {
        match (&self.aor, &self.call_id, &self.peer) {
            (Some(aor), None, None) => aor_filter(aor).ok_or_else(|| format!("{aor:?} names no user")),
            (None, Some(call_id), None) => Ok(Filter::CallId(call_id.as_str().into())),
            (None, None, Some(peer)) => {
                let with_port = peer.parse::<SocketAddr>().ok();
                let (ip, port) = match with_port {
                    Some(addr) => (addr.ip(), Some(addr.port())),
                    None => match peer.trim_start_matches('[').trim_end_matches(']').parse() {
                        Ok(ip) => (ip, None),
                        Err(_) => return Err(format!("{peer:?} is no IP address, with a port or without")),
                    },
                };
                Ok(Filter::Peer {
                    ip: ip.to_canonical(),
                    port,
                })
            }
            _ => Err("one of aor, call_id and peer is wanted".to_owned()),
        }
    }
}

/// `sip:USER@HOST`, `USER@HOST`, `tel:NUMBER` or `USER`.
fn aor_filter(aor: &str) -> Option<Filter> {
    let aor = aor.to_ascii_lowercase();
    let rest = ["sip:", "sips:", "tel:"]
        .iter()
        .find_map(|scheme| aor.strip_prefix(scheme))
        .unwrap_or(&aor);
    let (user, host) = match rest.split_once('@') {
        Some((user, host)) => (user, Some(host)),
        None => (rest, None),
    };
    (!user.is_empty()).then(|| Filter::Aor {
        user: user.into(),
        host: host.map(Into::into),
    })
}

/// One line of a trace. The first has no message: it says that the trace has begun.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Line {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Messages that were not shown so far, because they came too fast. All traces that go on share the way from the shards.
    pub dropped: u64,
    #[serde(flatten)]
    pub message: Option<LineMessage>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct LineMessage {
    /// `UDP` or `TCP`.
    pub transport: String,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub is_received: bool,
    /// The Call-ID of the caller's leg.
    pub call: String,
    /// The message, base64.
    pub bytes: String,
}

impl LineMessage {
    /// The message with what is said of it. `None`: that is no line of ours.
    pub fn decode(&self, at_ns: u64) -> Option<(Captured, Vec<u8>)> {
        let transport = [Transport::Udp, Transport::Tcp]
            .into_iter()
            .find(|transport| transport.name() == self.transport)?;
        let captured = Captured {
            at: Instant::from_nanos(at_ns),
            transport,
            from: self.from,
            to: self.to,
        };
        Some((captured, BASE64_STANDARD.decode(&self.bytes).ok()?))
    }
}

/// Shows a trace that goes on, until it ends or nobody watches any more.
pub fn show(
    mut trace: Trace,
    wanted: &Wanted,
    now: Instant,
    metrics: Vec<Arc<Metrics>>,
) -> mpsc::Receiver<Bytes> {
    let (lines, watched) = mpsc::channel(LINES_WAITING_MAX);
    let for_so_long = wanted
        .seconds
        .map_or(WATCH_MAX, |seconds| Duration::from_secs(seconds).min(WATCH_MAX));
    let count = wanted.count.unwrap_or(u64::MAX);
    tokio::task::spawn_local(async move {
        let not_told = move || {
            let of = |metrics: &Arc<Metrics>| metrics.tells_dropped[TellKind::Captured as usize].get();
            metrics.iter().map(of).sum::<u64>()
        };
        let not_told_before = not_told();
        let begun = line(now, 0, None);
        if lines.send(begun).await.is_err() {
            return;
        }
        let until = tokio::time::sleep(for_so_long);
        tokio::pin!(until);
        for _ in 0..count {
            let traced = tokio::select! {
                traced = trace.next() => traced,
                () = &mut until => None,
                () = lines.closed() => None,
            };
            let Some(traced) = traced else { return };
            let dropped = trace.dropped() + not_told().saturating_sub(not_told_before);
            let line = line(traced.message.at, dropped, Some(&traced));
            if lines.send(line).await.is_err() {
                return;
            }
        }
    });
    watched
}

fn line(at: Instant, dropped: u64, traced: Option<&Rc<Traced>>) -> Bytes {
    let line = Line {
        at_ns: at.as_nanos(),
        dropped,
        message: traced.map(|traced| LineMessage {
            transport: traced.message.transport.name().to_owned(),
            from: traced.message.from,
            to: traced.message.to,
            is_received: traced.is_received,
            call: String::from_utf8_lossy(&traced.call).into_owned(),
            bytes: BASE64_STANDARD.encode(&traced.bytes),
        }),
    };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(aor: Option<&str>, call_id: Option<&str>, peer: Option<&str>) -> Result<Filter, String> {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Wanted {
            aor: text(aor),
            call_id: text(call_id),
            peer: text(peer),
            ..Wanted::default()
        }
        .filter()
    }

    #[test]
    fn a_filter_is_one_thing_written_as_people_write_it() {
        let of_user = |user: &str, host: Option<&str>| {
            Ok(Filter::Aor {
                user: user.into(),
                host: host.map(Into::into),
            })
        };
        assert_eq!(
            filter(Some("sip:Alice@One.att.net"), None, None),
            of_user("alice", Some("one.att.net"))
        );
        assert_eq!(filter(Some("tel:+4930"), None, None), of_user("+4930", None));
        assert_eq!(filter(Some("alice"), None, None), of_user("alice", None));
        assert!(filter(Some("sip:"), None, None).is_err());
        assert_eq!(
            filter(None, Some("c1@x"), None),
            Ok(Filter::CallId("c1@x".into()))
        );
        let of_peer = |ip: &str, port| {
            let ip = ip.parse().expect("an address");
            Ok(Filter::Peer { ip, port })
        };
        assert_eq!(filter(None, None, Some("127.0.0.2")), of_peer("127.0.0.2", None));
        assert_eq!(
            filter(None, None, Some("127.0.0.2:5060")),
            of_peer("127.0.0.2", Some(5060))
        );
        assert_eq!(filter(None, None, Some("[::1]")), of_peer("::1", None));
        assert_eq!(
            filter(None, None, Some("::ffff:127.0.0.2")),
            of_peer("127.0.0.2", None)
        );
        assert!(filter(None, None, Some("phone.example")).is_err());
        assert!(filter(None, None, None).is_err());
        assert!(filter(Some("alice"), Some("c1"), None).is_err());
    }
}
