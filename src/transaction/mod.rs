//! The transaction layer: RFC 3261 §17 with RFC 6026.
//!
//! The four machines (`ict`, `nict`, `ist`, `nist`) are pure tables: state and input to a [`Step`]. [`Stack`] holds the
//! transactions of one shard, finds them, runs their timers and carries the steps out.

pub mod destination;
pub mod hop;
pub mod ict;
pub mod ist;
pub mod key;
pub mod nict;
pub mod nist;
mod stack;
mod unsent;

use std::net::SocketAddr;

use crate::key_index::Key;
use crate::pool::BufId;
use crate::slots::Id;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::wire::Flow;

pub use stack::{Known, Stack, reply_flow, request_kind};
pub use unsent::UnsentId;

/// What a step sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// What the transaction keeps for retransmission.
    Kept,
    /// What the user hands over; it is kept from now on.
    New,
    /// The ACK for a 300 to 699 (RFC 3261 §17.1.1.3); it is kept from now on.
    Ack,
}

/// What the transaction user is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The response at hand is the user's business.
    Message,
    /// Timer B, C or F; or the ACK of a 2xx that never came.
    Timeout,
    /// A request other than INVITE has had no answer for so long that its client's Timer E is at T2: RFC 4320 §4.1 has it answered 100.
    Unanswered,
    /// The request could not be sent.
    Unreachable,
    /// Nothing more will come of it.
    Ended,
}

/// What becomes of the retransmission timer (A, E, G).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retransmit {
    Keep,
    Stop,
    /// From T1, over an unreliable transport.
    Start,
    /// From T1, over any transport (a 2xx to INVITE).
    StartAlways,
    Double,
    DoubleToT2,
    AtT2,
}

/// What becomes of the timer that bounds the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Keep,
    /// 64*T1: B, F, H, L, M.
    Timeout,
    /// T1: a round trip for what may still come.
    RoundTrip,
    TimerC,
    /// Zero over a reliable transport, as are I, J and K.
    TimerD,
    TimerI,
    TimerJ,
    TimerK,
}

/// One step of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Step<S> {
    pub next: S,
    pub send: Option<Output>,
    pub notice: Option<Notice>,
    pub retransmit: Retransmit,
    pub end: End,
    /// The kept message will not be sent again: its buffer can go.
    pub drop_kept: bool,
}

impl<S> Step<S> {
    fn stay(state: S) -> Step<S> {
        Step {
            next: state,
            send: None,
            notice: None,
            retransmit: Retransmit::Keep,
            end: End::Keep,
            drop_kept: false,
        }
    }

    fn to(self, next: S) -> Step<S> {
        Step { next, ..self }
    }

    fn send(self, output: Output) -> Step<S> {
        Step {
            send: Some(output),
            ..self
        }
    }

    fn notify(self, notice: Notice) -> Step<S> {
        Step {
            notice: Some(notice),
            ..self
        }
    }

    fn retransmit(self, retransmit: Retransmit) -> Step<S> {
        Step { retransmit, ..self }
    }

    fn end(self, end: End) -> Step<S> {
        Step { end, ..self }
    }

    fn drop_kept(self) -> Step<S> {
        Step {
            drop_kept: true,
            ..self
        }
    }

    fn map<T>(self, wrap: impl FnOnce(S) -> T) -> Step<T> {
        Step {
            next: wrap(self.next),
            send: self.send,
            notice: self.notice,
            retransmit: self.retransmit,
            end: self.end,
            drop_kept: self.drop_kept,
        }
    }
}

/// Who is told what becomes of a transaction. Slots and generations mean something to that user alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    None,
    /// One branch of a request that a B2BUA carries across.
    Branch {
        slot: u32,
        generation: u32,
    },
    /// The server side of a request that a B2BUA carries across.
    Exchange {
        slot: u32,
        generation: u32,
    },
    /// An OPTIONS to a destination of a trunk.
    Ping {
        slot: u32,
        generation: u32,
    },
    /// One branch of a request that a proxy forwards.
    ProxyBranch {
        slot: u32,
        generation: u32,
    },
    /// The server side of it.
    ProxyContext {
        slot: u32,
        generation: u32,
    },
    /// A NOTIFY of a subscription.
    Subscription {
        slot: u32,
        generation: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    Ict(ict::State),
    Nict(nict::State),
    Ist(ist::State),
    Nist(nist::State),
}

impl Machine {
    fn is_terminated(self) -> bool {
        match self {
            Machine::Ict(state) => state == ict::State::Terminated,
            Machine::Nict(state) => state == nict::State::Terminated,
            Machine::Ist(state) => state == ist::State::Terminated,
            Machine::Nist(state) => state == nist::State::Terminated,
        }
    }
}

pub type TxId = Id<Transaction>;

/// Whether an INVITE client transaction has had its CANCEL sent: RFC 3261 §9.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cancel {
    NotSent,
    /// By this transaction. It shares the branch, so its response is found through the INVITE's.
    By(TxId),
    /// Without one, for want of room: it is repeated when whoever wanted it does so again, with reasons where it had them.
    Alone {
        has_reasons: bool,
    },
}

/// One transaction.
pub struct Transaction {
    machine: Machine,
    user: User,
    flow: Flow,
    /// Where a request really came from, whatever its Via says.
    source: SocketAddr,
    /// How requests find a server transaction. Of an INVITE client transaction that has outlived the call: the dialog whose
    /// 2xx it still acknowledges.
    key: Option<Key>,
    /// What is sent again: the request or ACK of a client, the last response of a server.
    kept: Option<BufId>,
    /// The CANCEL of an INVITE client transaction.
    cancel: Cancel,
    timer: Option<TimerId>,
    /// When `timer` fires: at or before the earlier of the two below.
    timer_at: Instant,
    retransmit_at: Instant,
    end_at: Instant,
    interval_ms: u32,
    /// When its request came, or went out.
    begun_at: Instant,
}

/// What the transaction layer tells a user about a transaction, without a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserEvent {
    pub user: User,
    pub tx: TxId,
    pub notice: Notice,
}
