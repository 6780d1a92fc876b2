//! What one connection has yet to send. Bytes of one turn are gathered and leave in one SEND; while that is on the ring, what
//! comes after gathers for the next. One queue has a limit, and all queues of the shard have one together.

use std::collections::VecDeque;

use crate::wire::TxOp;

/// Buffers up to this capacity are kept for the next connection that needs one.
const SPARE_BYTES_MAX: usize = 64 << 10;
/// How many of them.
const SPARES_MAX: usize = 256;

/// What all send queues of the shard hold together, and empty buffers and lists for them, so that nothing is allocated once
/// warm, and idle connections own none.
#[derive(Default)]
pub(super) struct Store {
    /// What one queue may hold, and all of them.
    bytes_max_each: usize,
    bytes_max: usize,
    /// What all of them hold.
    bytes: usize,
    buffers: Vec<Vec<u8>>,
    lists: Vec<VecDeque<Message>>,
}

/// Why a message was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// The connection has as much as one may have.
    Queue,
    /// All connections together have.
    Store,
}

impl Store {
    /// What one queue may hold from now on, and all of them. What is beyond it already stays.
    pub(super) fn set_limits(&mut self, bytes_max_each: usize, bytes_max: usize) {
        self.bytes_max_each = bytes_max_each;
        self.bytes_max = bytes_max;
    }

    /// Bytes that all queues hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

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
    /// What the queue counts for in the store.
    held: usize,
    /// What goes next.
    gathering: Vec<u8>,
    /// Messages not yet sent whole, in order.
    messages: VecDeque<Message>,
    /// Bytes ever queued and ever sent: positions in the stream.
    queued_total: u64,
    sent_total: u64,
    /// Where the first of `messages` begins.
    unsent_from: u64,
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
            held: 0,
            gathering: Vec::new(),
            messages: VecDeque::new(),
            queued_total: 0,
            sent_total: 0,
            unsent_from: 0,
            unheard: [None; UNHEARD_MAX],
        }
    }

    /// Appends a message, or changes nothing where that would be more than may wait.
    pub(super) fn push(&mut self, bytes: &[u8], op: Option<TxOp>, store: &mut Store) -> Result<(), Full> {
        if bytes.is_empty() {
            return Ok(());
        }
        // What is known of a message counts too: it is more than the two bytes of an answer to a ping.
        if self.unsent() + self.messages_bytes() + bytes.len() > store.bytes_max_each {
            return Err(Full::Queue);
        }
        if store.bytes + bytes.len() + size_of::<Message>() > store.bytes_max {
            return Err(Full::Store);
        }
        if self.gathering.capacity() == 0 {
            self.gathering = store.buffers.pop().unwrap_or_default();
        }
        if self.messages.capacity() == 0 {
            self.messages = store.lists.pop().unwrap_or_default();
        }
        self.gathering.extend_from_slice(bytes);
        self.queued_total += bytes.len() as u64;
        self.messages.push_back(Message {
            end: self.queued_total,
            op,
        });
        self.account(store);
        Ok(())
    }

    fn messages_bytes(&self) -> usize {
        self.messages.len() * size_of::<Message>()
    }

    /// Has the store count what the queue holds now. Bytes that were sent are held until all that was begun is.
    fn account(&mut self, store: &mut Store) {
        let held = self.leaving.len() + self.gathering.len() + self.messages_bytes();
        store.bytes = store.bytes - self.held + held;
        self.held = held;
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
    pub(super) fn sent(&mut self, count: usize, store: &mut Store) -> bool {
        debug_assert!(self.sending != Sending::Submitted);
        let count = count.min(self.leaving.len() - self.sent);
        self.sent += count;
        self.sent_total += count as u64;
        while self
            .messages
            .front()
            .is_some_and(|message| message.end <= self.sent_total)
        {
            let Some(message) = self.messages.pop_front() else {
                break;
            };
            self.unsent_from = message.end;
            if let Some(op @ TxOp::Request { .. }) = message.op {
                self.unheard.rotate_left(1);
                self.unheard[UNHEARD_MAX - 1] = Some(op);
            }
        }
        let whole = self.sent == self.leaving.len();
        if whole {
            self.sent = 0;
            store.give_buffer(std::mem::take(&mut self.leaving));
        }
        if self.is_empty() {
            store.give_buffer(std::mem::take(&mut self.gathering));
            store.give_list(std::mem::take(&mut self.messages));
        }
        self.account(store);
        whole
    }

    /// The next message that was not sent whole, after which it is forgotten. Bytes that the kernel may still read stay in place.
    pub(super) fn take_failed(&mut self) -> Option<(Option<TxOp>, &[u8])> {
        let message = self.messages.pop_front()?;
        let from = std::mem::replace(&mut self.unsent_from, message.end);
        // A message lies in one piece: what is gathered leaves as a whole.
        let leaving_from = self.sent_total - self.sent as u64;
        let gathering_from = leaving_from + self.leaving.len() as u64;
        let (bytes, at) = match from.checked_sub(gathering_from) {
            Some(at) => (&self.gathering, at),
            None => (&self.leaving, from - leaving_from),
        };
        let (at, len) = (at as usize, (message.end - from) as usize);
        Some((message.op, &bytes[at..at + len]))
    }

    /// Bytes came from the peer: it was alive, and what it was sent has most likely arrived.
    pub(super) fn heard(&mut self) {
        self.unheard = [None; UNHEARD_MAX];
    }

    /// Requests that were sent whole and that the peer may not have read, now that the connection has ended.
    pub(super) fn take_unheard(&mut self) -> [Option<TxOp>; UNHEARD_MAX] {
        std::mem::take(&mut self.unheard)
    }

    /// Gives back what is held, unless the kernel may still read it: the connection has ended.
    pub(super) fn release(&mut self, store: &mut Store) {
        if self.sending == Sending::Submitted {
            return;
        }
        store.give_buffer(std::mem::take(&mut self.leaving));
        store.give_buffer(std::mem::take(&mut self.gathering));
        store.give_list(std::mem::take(&mut self.messages));
        self.sent = 0;
        self.account(store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(slot: u32) -> Option<TxOp> {
        Some(TxOp::Request {
            shard: crate::wire::ShardId(0),
            slot,
            generation: 0,
        })
    }

    fn store(bytes_max_each: usize, bytes_max: usize) -> Store {
        let mut store = Store::default();
        store.set_limits(bytes_max_each, bytes_max);
        store
    }

    const EACH: usize = size_of::<Message>();

    #[test]
    fn what_gathers_during_a_send_leaves_in_one_piece_after_it() {
        let (mut queue, mut store) = (SendQueue::new(), store(1_000, 1_000));
        assert_eq!(queue.push(b"one", op(1), &mut store), Ok(()));
        assert_eq!(queue.next(), b"one");
        assert_eq!(queue.push(b"two", op(2), &mut store), Ok(()));
        assert_eq!(queue.push(b"three", op(3), &mut store), Ok(()));
        assert!(!queue.sent(2, &mut store), "a byte is left");
        assert_eq!(queue.next(), b"e");
        assert!(queue.sent(1, &mut store));
        assert_eq!(queue.next(), b"twothree");
        assert!(!queue.sent(4, &mut store));
        assert_eq!(
            store.bytes(),
            8 + EACH,
            "what is being sent is held until all of it is"
        );
        assert_eq!(queue.push(b"four", op(4), &mut store), Ok(()));
        assert_eq!(
            queue.take_failed(),
            Some((op(3), &b"three"[..])),
            "the first not sent whole, from its beginning on"
        );
        assert_eq!(queue.take_failed(), Some((op(4), &b"four"[..])));
        assert_eq!(queue.take_failed(), None);
        queue.release(&mut store);
        assert_eq!(store.bytes(), 0);
    }

    #[test]
    fn a_queue_takes_exactly_its_limit_and_an_empty_one_owns_nothing() {
        let (mut queue, mut store) = (SendQueue::new(), store(100 + EACH, 1_000));
        assert_eq!(queue.push(&[1; 60], None, &mut store), Ok(()));
        assert_eq!(queue.push(&[2; 41], None, &mut store), Err(Full::Queue));
        assert_eq!(queue.push(&[3; 40], None, &mut store), Ok(()));
        assert_eq!((queue.unsent(), queue.next().len()), (100, 100));
        assert!(queue.sent(100, &mut store));
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
            (store.buffers.len(), store.lists.len(), store.bytes()),
            (1, 1, 0),
            "the next connection gets them"
        );
    }

    #[test]
    fn many_small_messages_meet_the_limit_by_what_is_kept_of_each() {
        let (mut queue, mut store) = (SendQueue::new(), store(100 * EACH, 1_000_000));
        let taken = (0..).find(|_| queue.push(b"\r\n", None, &mut store) == Err(Full::Queue));
        assert!(taken.is_some_and(|taken| taken <= 100), "{taken:?}");
        assert!(store.bytes() <= 101 * EACH);
    }

    #[test]
    fn all_queues_together_have_a_limit() {
        let mut store = store(1_000, 250 + 3 * EACH);
        let mut queues = [SendQueue::new(), SendQueue::new(), SendQueue::new()];
        for queue in &mut queues[..2] {
            assert_eq!(queue.push(&[0; 100], None, &mut store), Ok(()));
        }
        assert_eq!(queues[2].push(&[0; 51], None, &mut store), Err(Full::Store));
        assert_eq!(queues[2].push(&[0; 50], None, &mut store), Ok(()));
        assert_eq!(store.bytes(), 250 + 3 * EACH);
        queues[0].release(&mut store);
        assert_eq!(queues[2].push(&[0; 100], None, &mut store), Ok(()));
        // What the kernel may still read is held until it has been.
        queues[1].next();
        queues[1].sending = Sending::Submitted;
        queues[1].release(&mut store);
        assert_eq!(store.bytes(), 250 + 3 * EACH);
        queues[1].sending = Sending::Idle;
        for queue in &mut queues {
            queue.release(&mut store);
        }
        assert_eq!(store.bytes(), 0);
    }

    #[test]
    fn an_empty_message_counts_as_sent() {
        let (mut queue, mut store) = (SendQueue::new(), store(100, 100));
        assert_eq!(queue.push(b"", op(1), &mut store), Ok(()));
        assert!(queue.is_empty());
        assert_eq!(queue.take_failed(), None);
    }
}
