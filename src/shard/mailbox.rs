//! Mail between shards: one [`mod@channel`] for each ordered pair. A letter is a small plain value; the bytes that go
//! with it are a message or a set of contacts.

use std::net::SocketAddr;

use crate::capture::TraceSet;
use crate::channel::{self, channel};
use crate::location::{Asker, Whom};
use crate::msg::method::Method;
use crate::time::Instant;
use crate::token::Token;
use crate::wire::{CloseReason, ConnId, Flow, ShardId, TxOp};

/// What a letter says. The bytes that go with it are named at each.
#[derive(Clone, Copy, Debug)]
pub enum Letter {
    /// A message that came in over there; this shard owns it. Bytes: the message.
    Message {
        flow: Flow,
        received_at: Instant,
        posted_at: Instant,
    },
    /// To be sent on a connection of this shard. Bytes: the message, and what the `traces` that it is of call its call, of this length.
    Send {
        flow: Flow,
        op: Option<TxOp>,
        traces: TraceSet,
        call_len: u32,
    },
    /// A `Send` failed.
    SendFailed {
        op: TxOp,
        reason: CloseReason,
        was_sent: bool,
    },
    /// The network says that a request of this shard's, which was sent `to` there, has reached nobody.
    Undelivered {
        token: Token,
        method: Method,
        to: SocketAddr,
    },
    /// To be closed: a connection of this shard.
    Close { conn: ConnId, reason: CloseReason },
    /// To be told of when it ends: a connection of this shard.
    Watch { conn: ConnId, from: ShardId },
    /// A connection that was to be told of has ended.
    FlowEnded { conn: ConnId },
    /// Who is this? Bytes: the names of the dialog where it is for one.
    LookUp { from: ShardId, asker: Asker, whom: Whom },
    /// The answer to a question for `whom`. Bytes: a set of contacts.
    Found { asker: Asker, whom: Whom },
}

/// Letters that can wait in one mailbox, besides the limit of bytes.
const LETTERS_MAX: usize = 8_192;

pub type Sender = channel::Sender<Letter>;
pub type Receiver = channel::Receiver<Letter>;

/// A mailbox for `bytes_max` bytes, at least those of one message.
pub fn mailbox(bytes_max: usize) -> (Sender, Receiver) {
    channel(LETTERS_MAX, bytes_max.max(128 * 1_024))
}
