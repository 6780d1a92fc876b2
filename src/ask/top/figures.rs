//! What the server answers, and what becomes of two answers: rates by the server's own clock.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::control::busiest::Peer;
use crate::control::client::{ClientError, text};

/// What is asked for by name.
type Counts = BTreeMap<String, u64>;

/// The part of `/api/v1/status` that is shown.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    version: String,
    state: String,
    now_ms: u64,
    uptime_s: u64,
    listeners: Vec<String>,
    now: Counts,
    totals: Counts,
    received: Counts,
    sent: Counts,
    drops: Counts,
    shards: Vec<Counts>,
}

/// Percentiles of one thing that is timed, in microseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Times {
    pub kind: String,
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct Second {
    times: Vec<Times>,
}

/// All that the server was asked.
#[derive(Clone, Debug)]
pub struct Answers {
    pub status: Status,
    /// The last second alone.
    pub last_second: Vec<Times>,
    pub since_start: Vec<Times>,
    pub peers: Vec<Peer>,
    pub trunks: Vec<TrunkAnswer>,
}

/// The part of a line of `/api/v1/trunks` that is shown.
#[derive(Clone, Debug, Deserialize)]
pub struct TrunkAnswer {
    trunk: String,
    destinations: Vec<DestinationAnswer>,
}

#[derive(Clone, Debug, Deserialize)]
struct DestinationAnswer {
    destination: String,
    state: String,
    for_s: Option<u64>,
    calls: u64,
    calls_started: u64,
    calls_failed: u64,
    round_trip_us: Option<u64>,
}

/// Peers that are asked for: more than a screen shows, so that it may sort them.
const PEERS: usize = 100;
/// Seconds that the busiest are busiest in.
pub const PEERS_SPAN_S: u64 = 10;

/// Asks the server at `socket`.
///
/// # Errors
/// It does not answer, or not as this version of the program does.
pub async fn ask(socket: &Path) -> Result<Answers, ClientError> {
    let peers = format!("/api/v1/peers?seconds={PEERS_SPAN_S}&count={PEERS}");
    let trunks = text(socket, "/api/v1/trunks").await?;
    let seconds: Vec<Second> = parse(&text(socket, "/api/v1/history?seconds=1").await?)?;
    Ok(Answers {
        status: parse(&text(socket, "/api/v1/status").await?)?,
        last_second: seconds
            .into_iter()
            .last()
            .map(|second| second.times)
            .unwrap_or_default(),
        since_start: parse(&text(socket, "/api/v1/histograms").await?)?,
        peers: text(socket, &peers)
            .await?
            .lines()
            .map(parse)
            .collect::<Result<_, _>>()?,
        trunks: trunks.lines().map(parse).collect::<Result<_, _>>()?,
    })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ClientError> {
    serde_json::from_str(text).map_err(|error| {
        ClientError::Local(format!(
            "the server's answer can't be read (is it of another version?): {error}"
        ))
    })
}

/// What a screen shows: rates a second of the time between two answers, and what there is now.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    pub at_ms: u64,
    pub version: String,
    pub state: String,
    pub uptime_s: u64,
    pub listeners: Vec<String>,
    pub rates: Rates,
    /// What there is now.
    pub now: Counts,
    /// Messages by kind.
    pub messages: Vec<Kind>,
    pub times_last_second: Vec<Times>,
    pub times_since_start: Vec<Times>,
    pub peers: Vec<Peer>,
    pub shards: Vec<Shard>,
    pub drops: Vec<Drops>,
    /// Destinations of trunks, trunk by trunk.
    pub destinations: Vec<Destination>,
}

/// How many of each a second.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Rates {
    pub received: f64,
    pub sent: f64,
    pub calls: f64,
    /// Requests that the proxy forwards with state.
    pub proxied: f64,
    /// REGISTER requests.
    pub registrations: f64,
    pub drops: f64,
    pub retransmissions: f64,
}

/// One kind of message.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Kind {
    pub kind: String,
    pub received_per_s: f64,
    pub sent_per_s: f64,
}

/// One shard beside the others.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Shard {
    /// Of the messages that all shards received, 0 to 1.
    pub share: f64,
    pub received_per_s: f64,
    pub sent_per_s: f64,
    pub turns_per_s: f64,
    pub mail_per_s: f64,
    pub calls: u64,
    pub registrations: u64,
    pub connections: u64,
    pub transactions: u64,
}

/// A destination of a trunk.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Destination {
    pub trunk: String,
    pub destination: String,
    pub state: String,
    /// How long it has been so.
    pub for_s: Option<u64>,
    pub calls: u64,
    pub calls_per_s: f64,
    pub failed_per_s: f64,
    /// Of its last OPTIONS.
    pub round_trip_us: Option<u64>,
}

/// What went nowhere for one reason.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Drops {
    pub reason: String,
    pub per_s: f64,
    pub count: u64,
}

impl Figures {
    /// `None`: the later answer is of another server, or there is no time between the two.
    pub fn between(before: &Answers, now: &Answers) -> Option<Figures> {
        let (then, status) = (&before.status, &now.status);
        let ms = status.now_ms.checked_sub(then.now_ms).filter(|&ms| ms > 0)?;
        if status.uptime_s < then.uptime_s || status.shards.len() != then.shards.len() {
            return None;
        }
        // A server that has begun anew in between counts from 0.
        let turns = |status: &Status| count(&status.totals, "turns");
        turns(status).checked_sub(turns(then))?;
        let per_s = |now: u64, then: u64| now.saturating_sub(then) as f64 * 1_000.0 / ms as f64;
        let named =
            |of: fn(&Status) -> &Counts, name: &str| per_s(count(of(status), name), count(of(then), name));
        let all = |of: fn(&Status) -> &Counts| per_s(of(status).values().sum(), of(then).values().sum());
        let rates = Rates {
            received: all(|status| &status.received),
            sent: all(|status| &status.sent),
            calls: named(|status| &status.totals, "calls_started"),
            proxied: named(|status| &status.totals, "proxied_requests_begun"),
            registrations: named(|status| &status.received, "REGISTER"),
            drops: all(|status| &status.drops),
            retransmissions: named(|status| &status.totals, "retransmissions_sent"),
        };
        let mut kinds: Vec<&String> = status.received.keys().chain(status.sent.keys()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let messages = kinds.into_iter().map(|kind| Kind {
            kind: kind.clone(),
            received_per_s: named(|status| &status.received, kind),
            sent_per_s: named(|status| &status.sent, kind),
        });
        let shards = status.shards.iter().zip(&then.shards).map(|(shard, then)| {
            let rate = |name| per_s(count(shard, name), count(then, name));
            Shard {
                share: 0.0,
                received_per_s: rate("received"),
                sent_per_s: rate("sent"),
                turns_per_s: rate("turns"),
                mail_per_s: rate("mailbox_sent"),
                calls: count(shard, "calls"),
                registrations: count(shard, "registrations"),
                connections: count(shard, "connections"),
                transactions: count(shard, "transactions"),
            }
        });
        let mut shards: Vec<Shard> = shards.collect();
        let received: f64 = shards.iter().map(|shard| shard.received_per_s).sum();
        if received > 0.0 {
            shards
                .iter_mut()
                .for_each(|shard| shard.share = shard.received_per_s / received);
        }
        let drops = status.drops.iter().map(|(reason, &count)| Drops {
            reason: reason.clone(),
            per_s: named(|status| &status.drops, reason),
            count,
        });
        let mut drops: Vec<Drops> = drops.collect();
        drops.sort_by(|a, b| b.per_s.total_cmp(&a.per_s).then(b.count.cmp(&a.count)));
        Some(Figures {
            at_ms: status.now_ms,
            version: status.version.clone(),
            state: status.state.clone(),
            uptime_s: status.uptime_s,
            listeners: status.listeners.clone(),
            rates,
            now: status.now.clone(),
            messages: messages.collect(),
            times_last_second: now.last_second.clone(),
            times_since_start: now.since_start.clone(),
            peers: now.peers.clone(),
            shards,
            drops,
            destinations: destinations(before, now, per_s),
        })
    }
}

fn destinations(before: &Answers, now: &Answers, per_s: impl Fn(u64, u64) -> f64) -> Vec<Destination> {
    let of = |answers: &Answers| -> Vec<(String, DestinationAnswer)> {
        let trunks = answers.trunks.iter();
        let all = trunks.flat_map(|one| one.destinations.iter().map(|to| (one.trunk.clone(), to.clone())));
        all.collect()
    };
    let before = of(before);
    let shown = of(now).into_iter().map(|(trunk, to)| {
        let then = before
            .iter()
            .find(|(of, then)| *of == trunk && then.destination == to.destination);
        Destination {
            calls_per_s: then.map_or(0.0, |(_, then)| per_s(to.calls_started, then.calls_started)),
            failed_per_s: then.map_or(0.0, |(_, then)| per_s(to.calls_failed, then.calls_failed)),
            trunk,
            destination: to.destination,
            state: to.state,
            for_s: to.for_s,
            calls: to.calls,
            round_trip_us: to.round_trip_us,
        }
    });
    shown.collect()
}

fn count(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// What a server with two shards under load says `seconds` after its start.
    pub fn answers(seconds: u64) -> Answers {
        let shard = |received: u64| {
            json!({
                "received": received * seconds, "sent": received * seconds, "turns": 900 * seconds, "mailbox_sent": 10 * seconds,
                "calls": 617, "registrations": 10_000, "connections": 3, "transactions": 4_021,
            })
        };
        let status = json!({
            "version": "0.1.0", "state": "serving", "now_ms": 1_800_000_000_000 + seconds * 1_000, "uptime_s": seconds,
            "listeners": ["udp:192.0.2.1:5060", "tcp:192.0.2.1:5060"],
            "now": {"calls": 1_234, "registrations": 20_000, "transactions": 8_042, "subscriptions": 12, "connections": 6},
            "totals": {"calls_started": 500 * seconds, "proxied_requests_begun": 20 * seconds, "retransmissions_sent": 2 * seconds, "turns": 1_800 * seconds},
            "received": {"INVITE": 500 * seconds, "REGISTER": 250 * seconds, "2xx": 1_250 * seconds},
            "sent": {"INVITE": 500 * seconds, "2xx": 1_500 * seconds},
            "drops": {"garbage": 7, "stray_response": 3 * seconds},
            "shards": [shard(1_500), shard(500)],
        });
        let times = |kind: &str, count: u64| json!({"kind": kind, "count": count, "p50_us": 24.1, "p90_us": 38.5, "p99_us": 101.2, "p999_us": 412.7, "max_us": 1_893.4});
        let peers = |last: u64| {
            json!({
                "peer": format!("192.0.2.{last}"), "received": 100 * last, "sent": 5_000 - 100 * last,
                "received_per_s": 10.0 * last as f64, "sent_per_s": 500.0 - 10.0 * last as f64,
            })
        };
        let read = |value: serde_json::Value| value.to_string();
        let destination = |last: u64, state: &str| {
            json!({
                "destination": format!("sip:10.0.0.{last}"), "state": state, "for_s": 75, "calls": 40 * last,
                "calls_started": 8 * last * seconds, "calls_failed": seconds, "round_trip_us": 450,
            })
        };
        let trunk =
            json!({"trunk": "carrier", "destinations": [destination(1, "up"), destination(2, "down")]});
        Answers {
            status: parse(&read(status)).expect("a status"),
            last_second: parse(&read(json!([times("INVITE", 500), times("REGISTER", 250)]))).expect("times"),
            since_start: parse(&read(json!([
                times("INVITE", 500 * seconds),
                times("answer", 400)
            ])))
            .expect("times"),
            peers: (10..30)
                .map(|last| parse(&read(peers(last))).expect("a peer"))
                .collect(),
            trunks: vec![parse(&read(trunk)).expect("a trunk")],
        }
    }

    #[test]
    fn rates_are_of_the_time_between_by_the_servers_clock() {
        let figures = Figures::between(&answers(10), &answers(14)).expect("one server");
        let rates = Rates {
            received: 2_000.0,
            sent: 2_000.0,
            calls: 500.0,
            registrations: 250.0,
            drops: 3.0,
            proxied: 20.0,
            retransmissions: 2.0,
        };
        assert_eq!(figures.rates, rates);
        assert_eq!(
            figures.shards.iter().map(|shard| shard.share).collect::<Vec<_>>(),
            [0.75, 0.25]
        );
        assert_eq!(
            (figures.shards[1].received_per_s, figures.shards[1].mail_per_s),
            (500.0, 10.0)
        );
        let reasons: Vec<&str> = figures.drops.iter().map(|drops| &drops.reason[..]).collect();
        assert_eq!(
            reasons,
            ["stray_response", "garbage"],
            "what is dropped now comes first"
        );
        let kinds: Vec<&str> = figures.messages.iter().map(|kind| &kind.kind[..]).collect();
        assert_eq!(kinds, ["2xx", "INVITE", "REGISTER"]);
        assert_eq!(figures.messages[2].received_per_s, 250.0);
        let second = &figures.destinations[1];
        assert_eq!(
            (
                &second.trunk[..],
                &second.state[..],
                second.calls_per_s,
                second.failed_per_s
            ),
            ("carrier", "down", 16.0, 1.0)
        );
    }

    #[test]
    fn two_servers_are_not_compared() {
        assert!(Figures::between(&answers(10), &answers(9)).is_none());
        assert!(
            Figures::between(&answers(10), &answers(10)).is_none(),
            "no time between them"
        );
        let (before, mut now) = (answers(1), answers(2));
        now.status.totals.insert("turns".to_owned(), 5);
        assert!(
            Figures::between(&before, &now).is_none(),
            "it counts from 0 again"
        );
    }
}
