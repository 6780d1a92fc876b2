//! Keys of what may be used at most, and of what is done beyond that.

use std::time::Duration;

use crate::config::key::{Key, Kind};

use super::{COUNT_MAX, HOUR_MS, YEAR_S};

/// The pool names a buffer of the smallest class by 29 bits: 512 bytes each.
const BUFFER_BYTES_MAX: u64 = 1 << 38;

pub(super) static KEYS: &[Key] = &[
    Key {
        section: "limits",
        name: "message_bytes_max",
        unit: "bytes",
        kind: count!(limits.message_bytes_max, 1_024, 65_535),
        meaning: "One message, header section and body.",
    },
    Key {
        section: "limits",
        name: "body_bytes_max",
        unit: "bytes",
        kind: count!(limits.body_bytes_max, 0, 65_535),
        meaning: "The body of one message; beyond it the answer is 413.",
    },
    Key {
        section: "limits",
        name: "transactions_max",
        unit: "transactions",
        kind: count!(limits.transactions_max, 1, COUNT_MAX),
        meaning: "Transactions at a time. The last eighth of them is for what goes on already and for what ends it: a request that begins \
                  something gets 503 before.",
    },
    Key {
        section: "limits",
        name: "calls_max",
        unit: "calls",
        kind: count!(limits.calls_max, 1, COUNT_MAX),
        meaning: "Calls at a time, ringing ones included.",
    },
    Key {
        section: "limits",
        name: "call_duration_max_s",
        unit: "seconds",
        kind: seconds!(limits.call_duration_max, 1, YEAR_S),
        meaning: "How long an answered call may last before both sides get a BYE.",
    },
    Key {
        section: "limits",
        name: "forks_max",
        unit: "destinations",
        kind: count!(limits.forks_max, 1, 64),
        meaning: "Destinations that one request is forked to.",
    },
    Key {
        section: "limits",
        name: "aors_max",
        unit: "subscribers",
        kind: count!(limits.aors_max, 1, COUNT_MAX),
        meaning: "Subscribers that are registered or remembered.",
    },
    Key {
        section: "limits",
        name: "contacts_per_aor_max",
        unit: "contacts",
        kind: count!(limits.contacts_per_aor_max, 1, 64),
        meaning: "Contacts that one subscriber may register.",
    },
    Key {
        section: "limits",
        name: "subscriptions_max",
        unit: "subscriptions",
        kind: count!(limits.subscriptions_max, 1, COUNT_MAX),
        meaning: "Subscriptions at a time.",
    },
    Key {
        section: "limits",
        name: "subscriptions_per_aor_max",
        unit: "subscriptions",
        kind: count!(limits.subscriptions_per_aor_max, 1, 64),
        meaning: "Subscriptions to the state of one subscriber.",
    },
    Key {
        section: "limits",
        name: "connections_max",
        unit: "connections",
        kind: count!(limits.connections_max, 1, COUNT_MAX),
        meaning: "TCP connections at a time. Unless it is set, at most what the limit on open files leaves room for.",
    },
    Key {
        section: "limits",
        name: "connections_per_source_max",
        unit: "connections",
        kind: count!(limits.connections_per_source_max, 1, COUNT_MAX),
        meaning: "TCP connections from one IP address.",
    },
    Key {
        section: "limits",
        name: "send_queue_bytes_max",
        unit: "bytes",
        kind: count!(limits.send_queue_bytes_max, 4_096, 1 << 30),
        meaning: "What may wait to be sent on one TCP connection; beyond it the connection is closed.",
    },
    Key {
        section: "limits",
        name: "send_queue_bytes_sum_max",
        unit: "bytes",
        kind: count!(limits.send_queue_bytes_sum_max, 65_536, BUFFER_BYTES_MAX),
        meaning: "What may wait to be sent on all TCP connections together. Beyond it those whose peers have taken nothing for longest are closed, and where there is none a message is dropped, counted, and its sender told. Unless it is set, at most a sixteenth of the machine's memory.",
    },
    Key {
        section: "limits",
        name: "send_stalled_ms",
        unit: "milliseconds",
        kind: millis!(limits.send_stalled, 1, HOUR_MS),
        meaning: "A TCP connection whose peer takes nothing of what waits for it for so long is closed.",
    },
    Key {
        section: "limits",
        name: "connection_idle_s",
        unit: "seconds",
        kind: seconds!(limits.connection_idle, 1, YEAR_S),
        meaning: "A TCP connection that received nothing for so long is closed.",
    },
    Key {
        section: "limits",
        name: "message_partial_ms",
        unit: "milliseconds",
        kind: millis!(limits.message_partial, 1, HOUR_MS),
        meaning: "A message that was begun on a TCP connection must be whole after so long, or the connection is closed.",
    },
    Key {
        section: "limits",
        name: "connect_timeout_ms",
        unit: "milliseconds",
        kind: millis!(limits.connect_timeout, 1, HOUR_MS),
        meaning: "How long an attempt to connect may take.",
    },
    Key {
        section: "limits",
        name: "buffer_bytes_max",
        unit: "bytes",
        kind: count!(limits.buffer_bytes_max, 1 << 20, BUFFER_BYTES_MAX),
        meaning: "All message buffers of one shard. Unless it is set, at most the shard's part of half the machine's memory.",
    },
    Key {
        section: "limits",
        name: "mailbox_bytes",
        unit: "bytes",
        kind: count!(limits.mailbox_bytes, 4_096, 1 << 30),
        meaning: "What may wait in the mailbox from one shard to another. Each pair of shards has two, taken at start.",
    },
    Key {
        section: "overload",
        name: "enabled",
        unit: "",
        kind: switch!(overload.enabled),
        meaning: "Whether new requests are refused while datagrams wait too long.",
    },
    Key {
        section: "overload",
        name: "target_ms",
        unit: "milliseconds",
        kind: millis!(overload.target, 1, 1_000),
        meaning: "How long datagrams may wait in the socket. While they wait longer, fewer new requests are admitted. The socket's buffer \
                  must hold more than what comes in so long.",
    },
    Key {
        section: "overload",
        name: "retry_after_s",
        unit: "seconds",
        kind: count!(overload.retry_after_s, 1, 3_600),
        meaning: "The Retry-After of a 503 for overload, at least; up to twice as much, so that not all come back at once.",
    },
    Key {
        section: "overload",
        name: "refusals_per_admitted",
        unit: "answers",
        kind: count!(overload.refusals_per_admitted, 1, 1_000),
        meaning: "503s for each call that is admitted, at most. What is to be refused beyond that is dropped and counted, since answers \
                  cost time too; over TCP every refusal is answered.",
    },
    Key {
        section: "overload",
        name: "feedback",
        unit: "",
        kind: switch!(overload.feedback),
        meaning: "Whether answers to those who ask for it (RFC 7339: oc and oc-algo=\"loss\" in their Via) tell what part of their requests they \
                  should leave out. Nobody else is told.",
    },
];
