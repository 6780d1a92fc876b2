//! Mail between shards: one bounded single-producer ring for each ordered pair.
//!
//! A letter is a small plain value; the bytes that go with it (a message, a set of contacts) travel in a byte ring beside it.
//! Both are pushed whole or not at all, the bytes first, so a letter that can be taken has its bytes there.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::b2bua::ExchangeId;
use crate::location::AorKey;
use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Flow, ShardId, TxOp};

/// What a letter says. The bytes that go with it are named at each.
#[derive(Clone, Copy, Debug)]
pub enum Letter {
    /// A message that came in over there; this shard owns it. Bytes: the message.
    Message { flow: Flow, received_at: Instant },
    /// To be sent on a connection of this shard. Bytes: the message.
    Send { flow: Flow, op: Option<TxOp> },
    /// A `Send` failed.
    SendFailed { op: TxOp, reason: CloseReason },
    /// To be closed: a connection of this shard.
    Close { conn: ConnId, reason: CloseReason },
    /// Who is this subscriber of yours?
    LookUp {
        from: ShardId,
        exchange: ExchangeId,
        aor: AorKey,
    },
    /// The answer. Bytes: a set of contacts.
    Found { exchange: ExchangeId },
}

/// Letters that can wait in one mailbox, besides the limit of bytes.
const LETTERS_MAX: usize = 8_192;

pub struct Sender {
    letters: Producer<(Letter, u32)>,
    bytes: Producer<u8>,
}

pub struct Receiver {
    letters: Consumer<(Letter, u32)>,
    bytes: Consumer<u8>,
}

/// A mailbox for `bytes_max` bytes, at least those of one message.
pub fn mailbox(bytes_max: usize) -> (Sender, Receiver) {
    let (letter_in, letter_out) = RingBuffer::new(LETTERS_MAX);
    let (byte_in, byte_out) = RingBuffer::new(bytes_max.max(128 * 1_024));
    (
        Sender {
            letters: letter_in,
            bytes: byte_in,
        },
        Receiver {
            letters: letter_out,
            bytes: byte_out,
        },
    )
}

impl Sender {
    /// `false`: the mailbox is full, and nothing was put into it.
    #[must_use]
    pub fn push(&mut self, letter: Letter, bytes: &[u8]) -> bool {
        if self.letters.is_full() || self.bytes.slots() < bytes.len() {
            return false;
        }
        let Ok(mut chunk) = self.bytes.write_chunk(bytes.len()) else {
            return false;
        };
        let (first, second) = chunk.as_mut_slices();
        let (head, tail) = bytes.split_at(first.len());
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
        chunk.commit_all();
        self.letters.push((letter, bytes.len() as u32)).is_ok()
    }
}

impl Receiver {
    /// The next letter, with its bytes in `into`, which must take the longest.
    pub fn pop(&mut self, into: &mut [u8]) -> Option<(Letter, usize)> {
        let (letter, len) = self.letters.pop().ok()?;
        let len = len as usize;
        let chunk = self.bytes.read_chunk(len).ok()?;
        let (first, second) = chunk.as_slices();
        into[..first.len()].copy_from_slice(first);
        into[first.len()..len].copy_from_slice(second);
        chunk.commit_all();
        Some((letter, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_out_in_order_with_their_bytes_and_a_full_box_says_no() {
        let (mut sender, mut receiver) = mailbox(0);
        let letter = |slot| Letter::Found {
            exchange: ExchangeId::new(slot, 1),
        };
        let mut into = vec![0; 70_000];
        for round in 0..50u32 {
            // 60 kB at a time walk round the end of the byte ring.
            let bytes = vec![round as u8; 60_000];
            assert!(sender.push(letter(round), &bytes));
            assert!(sender.push(letter(round + 1_000), b""));
            assert!(sender.push(letter(round), &bytes));
            assert!(
                !sender.push(letter(round), &bytes),
                "a third message does not fit"
            );
            for wanted in [60_000, 0, 60_000] {
                let (_, len) = receiver.pop(&mut into).expect("a letter");
                assert_eq!(len, wanted);
                assert!(into[..len].iter().all(|byte| *byte == round as u8));
            }
            assert!(receiver.pop(&mut into).is_none());
        }
    }
}
