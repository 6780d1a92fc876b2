//! What one connection has yet to send. Bytes of one turn are gathered and leave in one SEND; while that is on the ring, what
//! comes after gathers for the next.

use std::collections::VecDeque;

use crate::wire::TxOp;

/// Buffers up to this capacity are kept for the next connection that needs one.
const SPARE_BYTES_MAX: usize = 64 << 10;
/// How many of them.
const SPARES_MAX: usize = 256;

/// Empty buffers and lists of the shard, so that nothing is allocated once warm, and idle connections own none.
#[derive(Default)]
pub(super) struct Spares {
    buffers: Vec<Vec<u8>>,
    lists: Vec<VecDeque<Message>>,
}

impl Spares {
    fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() != 0 && buffer.capacity() <= SPARE_BYTES_MAX && self.buffers.len() < SPARES_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    fn give_list(&mut self, mut list: VecDeque<Message>) {
        if list.capacity() != 0
            && list.capacity() * size_of::<Message>() <= SPARE_BYTES_MAX
            && self.lists.len() < SPARES_MAX
        {
            list.clear();
            self.lists.push(list);
        }
    }
}

/// What the connection's sending waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sending {
    /// Nothing: the next flush may submit.
    Idle,
    /// A SEND is on the ring: the kernel may read the bytes.
    Submitted,
    /// The socket is full: a poll is on the ring.
    AwaitRoom,
}

/// Bytes to send, and which messages they are.
pub(super) struct SendQueue {
    pub(super) sending: Sending,
    /// What is being sent: `leaving[sent..]`. Not touched while a SEND is on the ring.
    leaving: Vec<u8>,
    sent: usize,
    /// What goes next.
    gathering: Vec<u8>,
    /// Messages not yet sent whole, in order.
    messages: VecDeque<Message>,
    /// Bytes ever queued and ever sent: positions in the stream.
    queued_total: u64,
    sent_total: u64,
    /// The last requests that were sent since anything was heard from the peer, oldest first.
    unheard: [Option<TxOp>; UNHEARD_MAX],
}

/// A peer that closes its connection may never have read what was sent last. Of so many requests their senders are told,
/// which then need not wait for a time-out (RFC 3261 §18.4); a phone has seldom more than one under way.
const UNHEARD_MAX: usize = 4;

pub(super) struct Message {
    /// Position in the stream after the message's last byte.
    end: u64,
    op: Option<TxOp>,
}

impl SendQueue {
    pub(super) fn new() -> SendQueue {
        SendQueue {
            sending: Sending::Idle,
            leaving: Vec::new(),
            sent: 0,
            gathering: Vec::new(),
            messages: VecDeque::new(),
            queued_total: 0,
            sent_total: 0,
            unheard: [None; UNHEARD_MAX],
        }
    }

    /// Appends a message. `false`, with nothing changed, if more than `bytes_max` would then wait.
    #[must_use]
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        op: Option<TxOp>,
        bytes_max: usize,
        spares: &mut Spares,
    ) -> bool {
        if self.unsent() + bytes.len() > bytes_max {
            return false;
        }
        if bytes.is_empty() {
            return true;
        }
        if self.gathering.capacity() == 0 {
            self.gathering = spares.buffers.pop().unwrap_or_default();
        }
        if self.messages.capacity() == 0 {
            self.messages = spares.lists.pop().unwrap_or_default();
        }
        self.gathering.extend_from_slice(bytes);
        self.queued_total += bytes.len() as u64;
        self.messages.push_back(Message {
            end: self.queued_total,
            op,
        });
        true
    }

    /// Bytes that wait.
    pub(super) fn unsent(&self) -> usize {
        self.leaving.len() - self.sent + self.gathering.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unsent() == 0
    }

    /// What is to be sent now: what was begun, else everything gathered since. The bytes stay in place until
    /// [`sent`](Self::sent) or [`take_failed`](Self::take_failed).
    pub(super) fn next(&mut self) -> &[u8] {
        debug_assert!(self.sending != Sending::Submitted);
        if self.sent == self.leaving.len() {
            std::mem::swap(&mut self.leaving, &mut self.gathering);
            self.gathering.clear();
            self.sent = 0;
        }
        &self.leaving[self.sent..]
    }

    /// The kernel took `count` bytes. Gives whether that was all that was asked for.
    pub(super) fn sent(&mut self, count: usize, spares: &mut Spares) -> bool {
        debug_assert!(self.sending != Sending::Submitted);
        let count = count.min(self.leaving.len() - self.sent);
        self.sent += count;
        self.sent_total += count as u64;
        while self
            .messages
            .front()
            .is_some_and(|message| message.end <= self.sent_total)
        {
            if let Some(Message { op: Some(op), .. }) = self.messages.pop_front() {
                self.unheard.rotate_left(1);
                self.unheard[UNHEARD_MAX - 1] = Some(op);
            }
        }
        let whole = self.sent == self.leaving.len();
        if whole {
            self.sent = 0;
            spares.give_buffer(std::mem::take(&mut self.leaving));
        }
        if self.is_empty() {
            spares.give_buffer(std::mem::take(&mut self.gathering));
            spares.give_list(std::mem::take(&mut self.messages));
        }
        whole
    }

    /// The next message that was not sent whole, after which it is forgotten. Bytes that the kernel may still read stay in place.
    pub(super) fn take_failed(&mut self) -> Option<Option<TxOp>> {
        let message = self.messages.pop_front()?;
        Some(message.op)
    }

    /// Bytes came from the peer: it was alive, and what it was sent has most likely arrived.
    pub(super) fn heard(&mut self) {
        self.unheard = [None; UNHEARD_MAX];
    }

    /// Requests that were sent whole and that the peer may not have read, now that the connection has ended.
    pub(super) fn take_unheard(&mut self) -> [Option<TxOp>; UNHEARD_MAX] {
        std::mem::take(&mut self.unheard)
    }

    /// Gives the buffers back: nothing is on the ring any more.
    pub(super) fn release(self, spares: &mut Spares) {
        debug_assert!(self.sending != Sending::Submitted);
        spares.give_buffer(self.leaving);
        spares.give_buffer(self.gathering);
        spares.give_list(self.messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(slot: u32) -> Option<TxOp> {
        Some(TxOp {
            shard: crate::wire::ShardId(0),
            slot,
            generation: 0,
        })
    }

    #[test]
    fn what_gathers_during_a_send_leaves_in_one_piece_after_it() {
        let (mut queue, mut spares) = (SendQueue::new(), Spares::default());
        assert!(queue.push(b"one", op(1), 100, &mut spares));
        assert_eq!(queue.next(), b"one");
        assert!(queue.push(b"two", op(2), 100, &mut spares));
        assert!(queue.push(b"three", op(3), 100, &mut spares));
        assert!(!queue.sent(2, &mut spares), "a byte is left");
        assert_eq!(queue.next(), b"e");
        assert!(queue.sent(1, &mut spares));
        assert_eq!(queue.next(), b"twothree");
        assert!(!queue.sent(4, &mut spares));
        assert_eq!(queue.take_failed(), Some(op(3)), "the only one not sent whole");
        assert_eq!(queue.take_failed(), None);
    }

    #[test]
    fn a_queue_takes_exactly_its_limit_and_an_empty_one_owns_nothing() {
        let (mut queue, mut spares) = (SendQueue::new(), Spares::default());
        assert!(queue.push(&[1; 60], None, 100, &mut spares));
        assert!(!queue.push(&[2; 41], None, 100, &mut spares));
        assert!(queue.push(&[3; 40], None, 100, &mut spares));
        assert_eq!((queue.unsent(), queue.next().len()), (100, 100));
        assert!(queue.sent(100, &mut spares));
        assert!(queue.is_empty());
        assert_eq!(
            (
                queue.leaving.capacity(),
                queue.gathering.capacity(),
                queue.messages.capacity()
            ),
            (0, 0, 0)
        );
        assert_eq!(
            (spares.buffers.len(), spares.lists.len()),
            (1, 1),
            "the next connection gets them"
        );
    }

    #[test]
    fn an_empty_message_counts_as_sent() {
        let (mut queue, mut spares) = (SendQueue::new(), Spares::default());
        assert!(queue.push(b"", op(1), 100, &mut spares));
        assert!(queue.is_empty());
        assert_eq!(queue.take_failed(), None);
    }
}
