//! What the server is doing now, in numbers: for the API, the command line and the live page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::config::{Listener, ListenerState};
use crate::metrics::{Counter, DropReason, IcmpError, MessageKind, Metrics, TellKind, Undelivered, in_all};
use crate::time::{DateShift, Instant};

use super::places::Counts;
use super::trunks::Trunks;

/// What leaves by other ways than SIP, and what became of it; `None` where it is not configured.
#[derive(Clone, Default)]
pub struct Outlets {
    pub records: Option<Arc<Sent>>,
    pub hep: Option<Arc<Sent>>,
}

/// Counts of what was to leave.
#[derive(Default, Debug)]
pub struct Sent {
    pub sent: AtomicU64,
    /// There was no room for it, or no way.
    pub lost: AtomicU64,
}

impl Sent {
    pub fn add(count: &AtomicU64, n: u64) {
        count.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }
}

/// What is known of the running server without asking a shard.
pub struct Facts {
    pub metrics: Vec<Arc<Metrics>>,
    /// What is listened on, by place; those that are closed included.
    listeners: Box<dyn Fn() -> Vec<Listener> + Send + Sync>,
    pub trunks: Arc<Trunks>,
    pub outlets: Outlets,
    /// Connections of the admin server.
    pub admin: Arc<Counts>,
    pub started: Instant,
    pub now: Box<dyn Fn() -> Instant + Send + Sync>,
    /// What times are dated by.
    pub dates: Box<dyn Fn() -> DateShift + Send + Sync>,
    is_draining: AtomicBool,
}

impl Facts {
    pub fn new(
        metrics: Vec<Arc<Metrics>>,
        listeners: impl Fn() -> Vec<Listener> + Send + Sync + 'static,
        trunks: Arc<Trunks>,
        outlets: Outlets,
        now: impl Fn() -> Instant + Send + Sync + 'static,
        dates: impl Fn() -> DateShift + Send + Sync + 'static,
    ) -> Facts {
        Facts {
            metrics,
            listeners: Box::new(listeners),
            trunks,
            outlets,
            admin: Arc::default(),
            started: now(),
            now: Box::new(now),
            dates: Box::new(dates),
            is_draining: AtomicBool::new(false),
        }
    }

    pub fn set_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Limits of the process that are reached elsewhere than in a shard, by the key that sets them, and how often.
    pub fn limits_reached(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        std::iter::once(("admin.connections_max", self.admin.given_up()))
    }

    pub fn status(&self) -> Status {
        let now = (self.now)();
        let sum = |pick: Pick| in_all(&self.metrics, |m| pick(m).get());
        Status {
            version: env!("CARGO_PKG_VERSION"),
            state: if self.is_draining() { "draining" } else { "serving" },
            now_ms: now.as_millis(),
            uptime_s: now.since(self.started).as_secs(),
            listeners: (self.listeners)().iter().filter_map(shown).collect(),
            now: Gauges::NAMES
                .iter()
                .map(|&(name, pick)| (name, sum(pick)))
                .collect(),
            totals: TOTALS.iter().map(|&(name, pick)| (name, sum(pick))).collect(),
            received: seen(MessageKind::ALL, MessageKind::text, |kind| {
                in_all(&self.metrics, |m| m.received.sum(kind))
            }),
            sent: seen(MessageKind::ALL, MessageKind::text, |kind| {
                in_all(&self.metrics, |m| m.sent.sum(kind))
            }),
            drops: seen(DropReason::ALL, DropReason::text, |reason| {
                in_all(&self.metrics, |m| m.drops[reason as usize].get())
            }),
            not_told: seen(TellKind::ALL, TellKind::text, |kind| {
                in_all(&self.metrics, |m| m.tells_dropped[kind as usize].get())
            }),
            icmp_errors: seen(IcmpError::ALL, IcmpError::text, |kind| {
                in_all(&self.metrics, |m| m.icmp_errors[kind as usize].get())
            }),
            undelivered: seen(Undelivered::ALL, Undelivered::text, |what| {
                in_all(&self.metrics, |m| m.undelivered[what as usize].get())
            }),
            shards: self.metrics.iter().map(|metrics| Gauges::of(metrics)).collect(),
        }
    }
}

/// The counts that are not 0, by the names of what they count.
fn seen<K: Copy>(
    kinds: &[K],
    name: fn(K) -> &'static str,
    count: impl Fn(K) -> u64,
) -> BTreeMap<&'static str, u64> {
    let all = kinds.iter().map(|&kind| (name(kind), count(kind)));
    all.filter(|&(_, count)| count > 0).collect()
}

/// As people read it: `udp:127.0.0.1:5060`, and whether it leaves. A closed one is none.
fn shown(listener: &Listener) -> Option<String> {
    let leaves = match listener.state {
        ListenerState::Open => "",
        ListenerState::Leaving => " (leaves)",
        ListenerState::Closed => return None,
    };
    let transport = listener.transport.name().to_ascii_lowercase();
    Some(format!("{transport}:{}{leaves}", listener.addr))
}

/// The answer of `/api/v1/status`.
#[derive(Serialize)]
pub struct Status {
    pub version: &'static str,
    pub state: &'static str,
    pub now_ms: u64,
    pub uptime_s: u64,
    pub listeners: Vec<String>,
    /// What there is now.
    pub now: BTreeMap<&'static str, u64>,
    /// What there was since the start.
    pub totals: BTreeMap<&'static str, u64>,
    /// Messages by method or status class.
    pub received: BTreeMap<&'static str, u64>,
    pub sent: BTreeMap<&'static str, u64>,
    pub drops: BTreeMap<&'static str, u64>,
    /// What shards could not tell the control thread for want of room.
    pub not_told: BTreeMap<&'static str, u64>,
    /// Errors that came back from the network for datagrams, and what became of the messages of those that are fatal.
    pub icmp_errors: BTreeMap<&'static str, u64>,
    pub undelivered: BTreeMap<&'static str, u64>,
    pub shards: Vec<Gauges>,
}

/// One shard.
#[derive(Serialize)]
pub struct Gauges {
    pub calls: u64,
    pub transactions: u64,
    pub registrations: u64,
    pub subscriptions: u64,
    pub connections: u64,
    pub buffers: u64,
    pub timers: u64,
    pub received: u64,
    pub sent: u64,
    pub turns: u64,
    pub mailbox_sent: u64,
    pub mailbox_received: u64,
}

type Pick = fn(&Metrics) -> &Counter;

impl Gauges {
    /// What there is now, by the name that people see.
    pub const NAMES: &[(&str, Pick)] = &[
        ("calls", |m| &m.calls),
        ("transactions", |m| &m.transactions),
        ("dialogs", |m| &m.dialogs),
        ("proxied_requests", |m| &m.contexts),
        ("proxied_calls_noted", |m| &m.proxied_calls_noted),
        ("registrations", |m| &m.bindings),
        ("subscriptions", |m| &m.subscriptions),
        ("connections", |m| &m.connections),
        ("send_queue_bytes", |m| &m.send_queue_bytes),
        ("buffers", |m| &m.buffers),
        ("timers", |m| &m.timers),
    ];

    pub fn of(metrics: &Metrics) -> Gauges {
        let all = |count: fn(&Metrics, MessageKind) -> u64| {
            MessageKind::ALL.iter().map(|&kind| count(metrics, kind)).sum()
        };
        Gauges {
            calls: metrics.calls.get(),
            transactions: metrics.transactions.get(),
            registrations: metrics.bindings.get(),
            subscriptions: metrics.subscriptions.get(),
            connections: metrics.connections.get(),
            buffers: metrics.buffers.get(),
            timers: metrics.timers.get(),
            received: all(|metrics, kind| metrics.received.sum(kind)),
            sent: all(|metrics, kind| metrics.sent.sum(kind)),
            turns: metrics.turns.get(),
            mailbox_sent: metrics.mailbox_sent.get(),
            mailbox_received: metrics.mailbox_received.get(),
        }
    }
}

/// What there was since the start, by the name that people see; with `_total` behind it the name in the metrics.
pub const TOTALS: &[(&str, Pick)] = &[
    ("calls_started", |m| &m.calls_started),
    ("calls_answered", |m| &m.calls_answered),
    ("calls_ended", |m| &m.calls_ended),
    ("transactions_begun", |m| &m.transactions_begun),
    ("dialogs_begun", |m| &m.dialogs_begun),
    ("proxied_requests_begun", |m| &m.contexts_begun),
    ("subscriptions_begun", |m| &m.subscriptions_begun),
    ("registrations_added", |m| &m.registrations_added),
    ("registrations_removed", |m| &m.registrations_removed),
    ("retransmissions_sent", |m| &m.retransmissions_sent),
    ("retransmissions_absorbed", |m| &m.retransmissions_absorbed),
    ("keepalives", |m| &m.keepalives),
    ("overload_acks", |m| &m.overload_acks),
    ("reloads", |m| &m.config_id),
    ("connections_accepted", |m| &m.connections_accepted),
    ("connections_opened", |m| &m.connections_opened),
    ("connections_closed", |m| &m.connections_closed),
    ("connections_stalled", |m| &m.connections_stalled),
    ("answers_rerouted", |m| &m.answers_rerouted),
    ("mailbox_letters_sent", |m| &m.mailbox_sent),
    ("mailbox_letters_received", |m| &m.mailbox_received),
    ("datagrams_received", |m| &m.datagrams_in),
    ("datagrams_sent", |m| &m.datagrams_out),
    ("datagrams_held", |m| &m.datagrams_held),
    ("runs_received", |m| &m.runs_in),
    ("run_datagrams_received", |m| &m.run_datagrams_in),
    ("runs_sent", |m| &m.runs_out),
    ("run_datagrams_sent", |m| &m.run_datagrams_out),
    ("runs_refused", |m| &m.runs_refused),
    ("stream_received_bytes", |m| &m.stream_bytes_in),
    ("stream_sent_bytes", |m| &m.stream_bytes_out),
    ("turns", |m| &m.turns),
    ("ring_completions", |m| &m.ring_completions),
    ("ring_submissions", |m| &m.ring_submissions),
    ("ring_multishot_rearmed", |m| &m.multishot_rearmed),
    ("ring_buffers_empty", |m| &m.buffer_ring_empty),
    ("ring_overflows", |m| &m.overflows),
];
