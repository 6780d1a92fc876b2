//! What a call is made of: a call has legs, one with the caller and one with each phone that it rings; requests cross it as
//! exchanges, each with a server transaction on one leg and branches with a client transaction each on others.

use crate::dialog::Dialog;
use crate::dns::Untried;
use crate::key_index::Key;
use crate::msg::method::Method;
use crate::pool::{BufId, Pool};
use crate::slots::Id;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::TxId;
use crate::transaction::hop::Hop;
use crate::wire::Flow;

use super::asked::Asked;
use super::session::Refresh;
use super::write::ContactPlace;

pub type CallId = Id<Call>;
pub type LegId = Id<Leg>;
pub type ExchangeId = Id<Exchange>;
pub type BranchId = Id<Branch>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The request waits for the answer to "who is this?".
    Locating,
    /// It went to one or more phones.
    Ringing,
    /// An INVITE was answered with a 2xx.
    Answered,
    /// A BYE has come or gone, or the request failed: the call is over when what is under way is.
    Ending,
}

pub struct Call {
    /// Call-ID and From tag of the request that began it.
    pub key: Key,
    pub phase: Phase,
    pub caller: LegId,
    /// The phones that it rang, newest first.
    pub first_callee: Option<LegId>,
    /// The leg whose 2xx went to the caller.
    pub answered: Option<LegId>,
    pub first_exchange: Option<ExchangeId>,
    pub exchanges: u16,
    /// Whether an INVITE began it; else it is one request with its answer (MESSAGE, OPTIONS, REFER).
    pub is_invite: bool,
    pub timer: Option<TimerId>,
    /// When an answered call has lasted as long as any may.
    pub ends_at: Instant,
    /// When it ends unless its session is refreshed (RFC 4028); far away where neither phone knows timers.
    pub session_ends_at: Instant,
    /// When the request that began it was received.
    pub begun_at: Instant,
    /// A 180 or 183 has gone back.
    pub has_rung: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Caller,
    Callee,
}

/// Our half of a dialog with one phone.
pub struct Leg {
    pub call: CallId,
    pub side: Side,
    pub dialog: Dialog,
    /// CSeq of the last request that we sent.
    pub local_cseq: u32,
    /// CSeq of the last request that came.
    pub remote_cseq: u32,
    /// CSeq of the last request that has moved the remote target.
    pub target_cseq: u32,
    /// Where requests to the phone go.
    pub flow: Flow,
    pub hop: Hop,
    /// The device that it rings, as the look-up has numbered it, and how many of its flows failed before (RFC 5626 §7).
    pub device: u8,
    pub flows_failed: u8,
    /// The number of an INVITE of ours that was answered with a 2xx for which no ACK went out yet.
    pub unacknowledged: Option<u32>,
    /// The ACKs that we sent last, the older first: a 2xx that comes again is answered with its own. A re-INVITE may follow an
    /// INVITE whose ACK was lost, and both 2xx come again then.
    pub acks: [Option<KeptAck>; 2],
    /// The REFERs that crossed to it, each by its two numbers.
    pub refers: Option<BufId>,
    pub next: Option<LegId>,
}

/// An ACK that may be needed again.
#[derive(Clone, Copy, Debug)]
pub struct KeptAck {
    /// The number of its INVITE.
    pub cseq: u32,
    pub buf: BufId,
}

impl Leg {
    /// The ACK of our INVITE with that number.
    pub fn ack_of(&self, cseq: u32) -> Option<BufId> {
        let mut kept = self.acks.iter().flatten();
        kept.find(|ack| ack.cseq == cseq).map(|ack| ack.buf)
    }
}

/// One request on its way across the call, until its final response has gone back; for an INVITE answered with a 2xx, until
/// no retransmission of that can come any more.
pub struct Exchange {
    pub call: CallId,
    /// `None` for a request of our own.
    pub server: Option<TxId>,
    /// For writing its responses; dropped once the final one was sent.
    pub asked: Option<Asked>,
    /// The request as received, while it waits for a look-up on another shard or for DNS, or may have to go to another flow.
    pub request: Option<BufId>,
    /// Where its Contact stands, if that has been read.
    pub contact: Option<ContactPlace>,
    /// The remote target that a re-INVITE or UPDATE names: it takes effect when the request is accepted.
    pub target: Option<BufId>,
    /// What the look-up found, while DNS is asked for host names in it, and where a device has more than one flow.
    pub contacts: Option<BufId>,
    pub method: Method,
    pub refresh: Refresh,
    /// The leg that it came on.
    pub from: LegId,
    /// Its CSeq number there.
    pub cseq: u32,
    pub first_branch: Option<BranchId>,
    pub next: Option<ExchangeId>,
    /// The best final failure so far, while other branches are open.
    pub best: Option<Best>,
    /// A final response has gone back.
    pub is_answered: bool,
}

/// A final failure that may be passed on: RFC 3261 §16.7 step 6.
#[derive(Clone, Copy, Debug)]
pub struct Best {
    pub status: u16,
    /// The response as received, or `None` for one of our own.
    pub response: Option<BufId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BranchPhase {
    /// Nothing came yet.
    Sent,
    /// A provisional response came.
    Provisional,
    /// A 2xx to INVITE came; its retransmissions may follow.
    Accepted,
}

/// One destination of an exchange.
pub struct Branch {
    pub exchange: ExchangeId,
    /// The leg that it went out on.
    pub leg: LegId,
    pub tx: TxId,
    /// The CSeq number there.
    pub cseq: u32,
    pub phase: BranchPhase,
    /// A CANCEL is wanted as soon as one may be sent (RFC 3261 §9.1).
    pub is_cancelled: bool,
    /// Where else it may go, if it went to an address of a name.
    pub elsewhere: Option<Elsewhere>,
    pub next: Option<BranchId>,
}

/// What a request goes on to the next address of a name with: RFC 3263 §4.3.
pub struct Elsewhere {
    pub untried: Untried,
    /// The request as it was sent.
    pub sent: BufId,
}

impl Elsewhere {
    pub fn release(self, pool: &mut Pool) {
        self.untried.release(pool);
        pool.release(self.sent);
    }
}
