//! A bounded way from one thread to one other: a ring of small values, and a ring of the bytes that go with them.
//!
//! Both are pushed whole or not at all, the bytes first, so a value that can be taken has its bytes there. Neither side ever
//! waits for the other.

use rtrb::{Consumer, Producer, RingBuffer};

pub struct Sender<T> {
    values: Producer<(T, u32)>,
    bytes: Producer<u8>,
}

pub struct Receiver<T> {
    values: Consumer<(T, u32)>,
    bytes: Consumer<u8>,
}

/// Room for `values_max` values and `bytes_max` bytes.
pub fn channel<T>(values_max: usize, bytes_max: usize) -> (Sender<T>, Receiver<T>) {
    let (value_in, value_out) = RingBuffer::new(values_max);
    let (byte_in, byte_out) = RingBuffer::new(bytes_max);
    (
        Sender {
            values: value_in,
            bytes: byte_in,
        },
        Receiver {
            values: value_out,
            bytes: byte_out,
        },
    )
}

impl<T> Sender<T> {
    /// # Errors
    /// The channel is full, and nothing was put into it: the value comes back.
    pub fn push(&mut self, value: T, bytes: &[u8]) -> Result<(), T> {
        if self.values.is_full() || self.bytes.slots() < bytes.len() {
            return Err(value);
        }
        let Ok(mut chunk) = self.bytes.write_chunk(bytes.len()) else {
            return Err(value);
        };
        let (first, second) = chunk.as_mut_slices();
        let (head, tail) = bytes.split_at(first.len());
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
        chunk.commit_all();
        self.values
            .push((value, bytes.len() as u32))
            .map_err(|rtrb::PushError::Full((value, _))| value)
    }

    /// As [`push`](Self::push), and so that `places` values still fit afterwards, with `room` bytes in all.
    ///
    /// # Errors
    /// The channel is too full, and nothing was put into it: the value comes back.
    pub fn push_leaving(&mut self, (places, room): (usize, usize), value: T, bytes: &[u8]) -> Result<(), T> {
        if self.values.slots() > places && self.bytes.slots() >= room.saturating_add(bytes.len()) {
            self.push(value, bytes)
        } else {
            Err(value)
        }
    }
}

impl<T> Receiver<T> {
    /// The next value, with its bytes in `into`, which must take the longest.
    pub fn pop(&mut self, into: &mut [u8]) -> Option<(T, usize)> {
        let (value, len) = self.values.pop().ok()?;
        let len = len as usize;
        let chunk = self.bytes.read_chunk(len).ok()?;
        let (first, second) = chunk.as_slices();
        into[..first.len()].copy_from_slice(first);
        into[first.len()..len].copy_from_slice(second);
        chunk.commit_all();
        Some((value, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_in_order_with_their_bytes_and_a_full_channel_says_no() {
        let (mut sender, mut receiver) = channel(8, 128 * 1_024);
        let mut into = vec![0; 70_000];
        for round in 0..50u32 {
            // 60 kB at a time walk round the end of the byte ring.
            let bytes = vec![round as u8; 60_000];
            assert_eq!(sender.push(round, &bytes), Ok(()));
            assert_eq!(sender.push(round + 1_000, b""), Ok(()));
            assert_eq!(sender.push(round + 2_000, &bytes), Ok(()));
            assert_eq!(sender.push(round, &bytes), Err(round), "no third one fits");
            for (wanted, len_wanted) in [(round, 60_000), (round + 1_000, 0), (round + 2_000, 60_000)] {
                let (value, len) = receiver.pop(&mut into).expect("a value");
                assert_eq!((value, len), (wanted, len_wanted));
                assert!(into[..len].iter().all(|byte| *byte == round as u8));
            }
            assert!(receiver.pop(&mut into).is_none());
        }
    }

    #[test]
    fn values_without_bytes_are_bounded_too() {
        let (mut sender, mut receiver) = channel(2, 0);
        assert_eq!(sender.push('a', b""), Ok(()));
        assert_eq!(sender.push('b', b"x"), Err('b'), "no room for a byte");
        assert_eq!(sender.push('b', b""), Ok(()));
        assert_eq!(sender.push('c', b""), Err('c'));
        assert_eq!(receiver.pop(&mut []), Some(('a', 0)));
    }

    #[test]
    fn places_can_be_kept_free() {
        let (mut sender, mut receiver) = channel(3, 0);
        assert_eq!(sender.push_leaving((1, 0), 'a', b""), Ok(()));
        assert_eq!(sender.push_leaving((1, 0), 'b', b""), Ok(()));
        assert_eq!(sender.push_leaving((1, 0), 'c', b""), Err('c'));
        assert_eq!(sender.push_leaving((0, 0), 'c', b""), Ok(()));
        assert_eq!(sender.push_leaving((0, 0), 'd', b""), Err('d'));
        let _ = receiver.pop(&mut []);
        assert_eq!(
            sender.push_leaving((1, 0), 'd', b""),
            Err('d'),
            "one place alone is free"
        );
    }

    #[test]
    fn bytes_can_be_kept_free() {
        let (mut sender, _receiver) = channel(8, 10);
        assert_eq!(sender.push_leaving((0, 4), 'a', b"12345"), Ok(()));
        assert_eq!(sender.push_leaving((0, 4), 'b', b"12"), Err('b'));
        assert_eq!(sender.push_leaving((0, 4), 'b', b"1"), Ok(()));
        assert_eq!(sender.push_leaving((0, 4), 'c', b""), Ok(()), "it takes no byte");
        assert_eq!(sender.push_leaving((0, 0), 'c', b"1234"), Ok(()));
    }
}
