//! Messages that somebody wants to see: which, and what is said of each.

use std::net::{IpAddr, SocketAddr};

use crate::time::Instant;
use crate::wire::Transport;

/// What a trace is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filter {
    /// Calls and requests from or to this user: From, To, Request-URI or an identity names it. Lower case; the host only where it
    /// matters.
    Aor { user: Box<str>, host: Option<Box<str>> },
    /// The call with this Call-ID, that of the caller or of a leg.
    CallId(Box<str>),
    /// What comes from there, and the calls that it belongs to.
    Peer { ip: IpAddr, port: Option<u16> },
    /// So many of 10,000 calls, chosen by their Call-ID.
    Sample { per_myriad: u16 },
}

/// Which of the traces at a time: a number below [`TRACES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TraceSlot(pub u8);

/// Traces that can go on at a time.
pub const TRACES_MAX: usize = 8;

/// A set of traces.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TraceSet(pub u8);

const _: () = assert!(TRACES_MAX <= u8::BITS as usize);

impl TraceSet {
    pub const fn of(slot: TraceSlot) -> TraceSet {
        TraceSet(1 << slot.0)
    }

    pub const fn has(self, slot: TraceSlot) -> bool {
        self.0 & TraceSet::of(slot).0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn add(&mut self, other: TraceSet) {
        self.0 |= other.0;
    }

    pub fn remove(&mut self, slot: TraceSlot) {
        self.0 &= !TraceSet::of(slot).0;
    }
}

/// One message that crossed the wire, beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Captured {
    /// When it was received, or handed to the kernel.
    pub at: Instant,
    pub transport: Transport,
    pub from: SocketAddr,
    pub to: SocketAddr,
}
