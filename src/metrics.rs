//! What one shard counts. The owner writes plainly, anyone may read: a counter is an atomic that only its shard stores to,
//! so counting costs a load and a store in the shard's own memory and no locked instruction.

mod histograms;
mod peers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use histograms::{Histograms, Timed};
pub use peers::{PEERS_MAX, PeerCount, Peers};

use crate::wire::Transport;

/// A count written by one thread and read by any.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    /// For gauges: what there is now.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// For a count that is kept elsewhere, modulo 2^32, and read again before it has gone round.
    pub fn follow(&self, count: u32) {
        self.add(u64::from(count.wrapping_sub(self.get() as u32)));
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares a fieldless enum with all its values and their names as metrics and logs show them.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
            pub const COUNT: usize = Self::ALL.len();

            pub const fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    };
}

named_enum! {
    /// Why something that arrived, or was to be sent, went nowhere. One counter each; nothing vanishes without one.
    DropReason {
        /// A datagram that is no SIP message and can't be answered.
        Garbage = "garbage",
        /// A malformed response: RFC 3261 §18.1.2 has nobody to tell.
        BadResponse = "bad_response",
        /// A response whose top Via is not ours, or names no transaction of ours.
        StrayResponse = "stray_response",
        /// An ACK that belongs to no transaction and no call (RFC 3261 §17: never answered).
        StrayAck = "stray_ack",
        /// A malformed request that lacks what an answer needs, or a malformed ACK.
        UnanswerableRequest = "unanswerable_request",
        /// No buffer: the pool is at `limits.buffer_bytes_max`.
        NoBuffer = "no_buffer",
        /// The mailbox of the shard that owns the message is full.
        MailboxFull = "mailbox_full",
        /// The kernel refused to send (no route, message too long, ...).
        SendError = "send_error",
        /// The connection to send on could not be had, or its queue was full.
        ConnectionLost = "connection_lost",
        /// A message for a connection while all send queues together were full: `limits.send_queue_bytes_sum_max`.
        SendQueuesFull = "send_queues_full",
        /// What we forward would be larger than the transport takes.
        TooLarge = "too_large",
        /// A connection refused: `limits.connections_max`.
        ConnectionsFull = "connections_full",
        /// A connection refused: `limits.connections_per_source_max`.
        ConnectionsPerSourceFull = "connections_per_source_full",
        /// A connection closed that left a message half sent.
        PartialMessage = "partial_message",
        /// A stream that is not SIP.
        Framing = "framing",
        /// A transaction table at its limit: a request that got 503 without one, or one of ours that was not sent.
        TransactionsFull = "transactions_full",
        /// A rule of the routing table said so.
        Rule = "rule",
        /// A 2xx for an INVITE that nobody waits for any more.
        StrayOk = "stray_ok",
        /// A new request that could be neither taken up nor answered: the shard gets more than it can do.
        Overload = "overload",
        /// A new request that had waited for longer than T1 by then: its sender has sent it again.
        OverloadStale = "overload_stale",
    }
}

named_enum! {
    /// The kinds of message that time in the server is recorded for.
    MessageKind {
        Register = "REGISTER",
        Subscribe = "SUBSCRIBE",
        Notify = "NOTIFY",
        Invite = "INVITE",
        Ack = "ACK",
        Bye = "BYE",
        Cancel = "CANCEL",
        Message = "MESSAGE",
        Options = "OPTIONS",
        OtherRequest = "other",
        Provisional = "1xx",
        Success = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
        GlobalFailure = "6xx",
    }
}

impl MessageKind {
    /// The kind of a response with this status code, 100 to 699.
    pub const fn of_status(status: u16) -> MessageKind {
        match status {
            0..=199 => MessageKind::Provisional,
            200..=299 => MessageKind::Success,
            300..=399 => MessageKind::Redirection,
            400..=499 => MessageKind::ClientError,
            500..=599 => MessageKind::ServerError,
            600.. => MessageKind::GlobalFailure,
        }
    }
}

/// Messages by transport and kind.
#[derive(Default, Debug)]
pub struct Messages([[Counter; MessageKind::COUNT]; Transport::ALL.len()]);

impl Messages {
    pub fn count(&self, transport: Transport, kind: MessageKind) {
        self.0[transport as usize][kind as usize].inc();
    }

    pub fn get(&self, transport: Transport, kind: MessageKind) -> u64 {
        self.0[transport as usize][kind as usize].get()
    }

    /// Over all transports.
    pub fn sum(&self, kind: MessageKind) -> u64 {
        Transport::ALL
            .iter()
            .map(|&transport| self.get(transport, kind))
            .sum()
    }
}

named_enum! {
    /// Limits that refuse something, by the key that sets them. Where something arrives and is dropped instead there is a
    /// [`DropReason`].
    Limit {
        Calls = "limits.calls_max",
        /// Transactions, and what the proxy keeps of a request that it forwards.
        Transactions = "limits.transactions_max",
        Aors = "limits.aors_max",
        ContactsPerAor = "limits.contacts_per_aor_max",
        Subscriptions = "limits.subscriptions_max",
        SubscriptionsPerAor = "limits.subscriptions_per_aor_max",
        /// A proxied call goes on without a record.
        ProxiedCallRecords = "records.proxied_calls_max",
    }
}

named_enum! {
    /// Errors that came back from the network for datagrams of ours (ICMP, ICMPv6), by what they say.
    IcmpError {
        PortUnreachable = "port_unreachable",
        /// With a host that may not be reached.
        HostUnreachable = "host_unreachable",
        /// With a network that may not be reached.
        NetworkUnreachable = "network_unreachable",
        ProtocolUnreachable = "protocol_unreachable",
        ParameterProblem = "parameter_problem",
        TimeExceeded = "time_exceeded",
        /// Longer than a packet may be on its way: the kernel cuts what follows.
        TooLarge = "too_large",
        /// What has no name here, and what the kernel says by itself.
        Other = "other",
    }
}

impl IcmpError {
    /// Whether the datagram has failed: RFC 3261 §18.4.
    pub const fn is_fatal(self) -> bool {
        match self {
            IcmpError::PortUnreachable
            | IcmpError::HostUnreachable
            | IcmpError::NetworkUnreachable
            | IcmpError::ProtocolUnreachable
            | IcmpError::ParameterProblem => true,
            IcmpError::TimeExceeded | IcmpError::TooLarge | IcmpError::Other => false,
        }
    }
}

named_enum! {
    /// What became of a message that, as the network says, has reached nobody.
    Undelivered {
        /// A request that had heard nothing: it goes elsewhere, or has failed.
        Failed = "failed",
        /// A request that has been answered meanwhile: it goes on.
        Answered = "answered",
        /// An answer, an ACK or a CANCEL: it is sent again, or not missed.
        NotAwaited = "not_awaited",
        /// Nothing that is known here: an old message, too little of it to tell, or a forgery.
        Unknown = "unknown",
    }
}

named_enum! {
    /// What a shard tells the control thread.
    TellKind {
        Recorded = "recorded",
        CallRecord = "call_record",
        Captured = "captured",
        Page = "page",
        Done = "done",
        Resolve = "resolve",
    }
}

/// What one shard records for the control thread to take: each time it hands over an empty one for the full one.
#[derive(Default, Debug)]
pub struct Recorded {
    pub histograms: Histograms,
    pub peers: Peers,
}

impl Recorded {
    /// Takes everything out.
    pub fn reset(&mut self) {
        self.histograms.reset();
        self.peers.reset();
    }
}

/// What new requests are told apart by when there are too many: `shard::overload::Class`, in its order.
pub const OVERLOAD_CLASSES: [&str; 5] = ["call", "page", "subscribe", "register", "emergency"];

/// All counters of one shard.
#[derive(Default, Debug)]
pub struct Metrics {
    pub received: Messages,
    /// New ones; those sent again are counted apart.
    pub sent: Messages,
    pub drops: [Counter; DropReason::COUNT],
    /// What the control thread was not told because it had not yet read so much.
    pub tells_dropped: [Counter; TellKind::COUNT],
    pub limits_reached: [Counter; Limit::COUNT],
    /// Buffers that were wanted while the pool was at `limits.buffer_bytes_max`; set once a turn.
    pub buffers_refused: Counter,
    /// Requests answered by us with 4xx to 6xx, by the hundreds digit less 4.
    pub rejected: [Counter; 3],
    pub retransmissions_sent: Counter,
    pub retransmissions_absorbed: Counter,
    /// New requests answered 503 because the shard gets more than it can do, by `shard::overload::Class`.
    pub overload_refused: [Counter; OVERLOAD_CLASSES.len()],
    /// The ACKs to those.
    pub overload_acks: Counter,
    pub calls_started: Counter,
    pub calls_answered: Counter,
    pub calls_ended: Counter,
    pub registrations_added: Counter,
    pub registrations_removed: Counter,
    pub mailbox_sent: Counter,
    pub mailbox_received: Counter,
    pub keepalives: Counter,
    pub connections_accepted: Counter,
    pub connections_opened: Counter,
    pub connections_closed: Counter,
    /// Closed because the peer took nothing of what waited for it.
    pub connections_stalled: Counter,
    /// Answers that were sent by another way because one had failed (RFC 3261 §18.2.2), once for each further way.
    pub answers_rerouted: Counter,
    pub datagrams_in: Counter,
    pub datagrams_out: Counter,
    /// Receives of several datagrams of one peer at once (UDP_GRO), and the datagrams in them.
    pub runs_in: Counter,
    pub run_datagrams_in: Counter,
    /// Sends of several datagrams to one peer at once (UDP_SEGMENT), and the datagrams in them.
    pub runs_out: Counter,
    pub run_datagrams_out: Counter,
    /// Such sends that the kernel refused; their datagrams left singly.
    pub runs_refused: Counter,
    /// Datagrams that waited because the socket's send buffer was full.
    pub datagrams_held: Counter,
    pub icmp_errors: [Counter; IcmpError::COUNT],
    /// Of those that are fatal.
    pub undelivered: [Counter; Undelivered::COUNT],
    pub stream_bytes_in: Counter,
    pub stream_bytes_out: Counter,
    pub turns: Counter,
    pub ring_completions: Counter,
    pub ring_submissions: Counter,
    pub multishot_rearmed: Counter,
    pub buffer_ring_empty: Counter,
    pub overflows: Counter,
    /// The configuration that the shard goes by: the number of reloads before it.
    pub config_id: Counter,
    // What there was in all, set once a turn by the shard.
    pub transactions_begun: Counter,
    pub dialogs_begun: Counter,
    pub contexts_begun: Counter,
    pub subscriptions_begun: Counter,
    // What there is now, set once a turn by the shard.
    pub transactions: Counter,
    /// Legs of calls: each is a dialog with a phone, or becomes one.
    pub dialogs: Counter,
    /// Response contexts of the proxy.
    pub contexts: Counter,
    /// Proxied calls of which a record will be told.
    pub proxied_calls_noted: Counter,
    pub calls: Counter,
    pub bindings: Counter,
    pub subscriptions: Counter,
    pub connections: Counter,
    /// What waits to be sent on connections.
    pub send_queue_bytes: Counter,
    pub buffers: Counter,
    pub timers: Counter,
    /// Share of the new requests that are refused for overload, thousandths (RFC 7339 calls it `oc` in hundredths).
    pub overload_loss_permille: Counter,
}

/// A count over all shards.
pub fn in_all(shards: &[Arc<Metrics>], count: impl Fn(&Metrics) -> u64) -> u64 {
    shards.iter().map(|metrics| count(metrics)).sum()
}

impl Metrics {
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].inc();
    }

    pub fn limit_reached(&self, limit: Limit) {
        self.limits_reached[limit as usize].inc();
    }
}
