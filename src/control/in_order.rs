//! Messages of a trace in the order of their times. Each shard tells of its own in order, and what one call says may be told by two: the shard
//! of the call, and that of a connection.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::capture::TraceSet;
use crate::control::traces::Traced;
use crate::time::Instant;

/// Bytes that may be held back; beyond that the oldest goes on at once.
const HELD_BYTES_MAX: usize = 16 << 20;
/// What a message is counted as beside its bytes.
const OVERHEAD_BYTES: usize = 256;

/// A message and the traces that it is of.
pub type Told = (Rc<Traced>, TraceSet);

/// Messages that are held back until those before them have been told too.
#[derive(Default)]
pub struct InOrder {
    held: BinaryHeap<Reverse<Held>>,
    bytes: usize,
    /// Of all that were told, so that those of one time keep their order.
    told: u64,
    /// The latest time told of since the last [`InOrder::pass`], and between that and the one before.
    newest: Instant,
    newest_before: Instant,
}

struct Held {
    key: (Instant, u64),
    told: Told,
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.key == other.key
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl InOrder {
    pub fn add(&mut self, traced: Rc<Traced>, traces: TraceSet) {
        let at = traced.message.at;
        self.newest = self.newest.max(at);
        self.bytes += size(&traced);
        self.told += 1;
        self.held.push(Reverse(Held {
            key: (at, self.told),
            told: (traced, traces),
        }));
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The first message, where there are more than may be held.
    pub fn too_many(&mut self) -> Option<Told> {
        (self.bytes > HELD_BYTES_MAX).then(|| self.first()).flatten()
    }

    /// The first message of all.
    pub fn first(&mut self) -> Option<Told> {
        let Reverse(held) = self.held.pop()?;
        self.bytes -= size(&held.told.0);
        Some(held.told)
    }

    /// Gives what was told before the last pass, and what belongs before that. A message is held for one to two of the times between them.
    pub fn pass(&mut self, mut give: impl FnMut(Told)) {
        while self
            .held
            .peek()
            .is_some_and(|Reverse(first)| first.key.0 <= self.newest_before)
            && let Some(told) = self.first()
        {
            give(told);
        }
        self.newest_before = std::mem::take(&mut self.newest);
    }
}

fn size(traced: &Traced) -> usize {
    traced.size() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Captured;
    use crate::wire::Transport;

    fn traced(at_ms: u64, number: u8, len: usize) -> Rc<Traced> {
        let message = Captured {
            at: Instant::from_millis(at_ms),
            transport: Transport::Tcp,
            from: ([127, 0, 0, 2], 5060).into(),
            to: ([127, 0, 0, 1], 5060).into(),
        };
        Rc::new(Traced {
            message,
            is_received: true,
            call: Box::default(),
            bytes: vec![number; len].into(),
        })
    }

    fn passed(order: &mut InOrder) -> Vec<u8> {
        let mut numbers = Vec::new();
        order.pass(|(traced, _)| numbers.push(traced.bytes[0]));
        numbers
    }

    #[test]
    fn what_is_told_a_little_late_comes_where_it_belongs_and_nothing_is_held_for_long() {
        let mut order = InOrder::default();
        let tell = |order: &mut InOrder, at_ms, number| order.add(traced(at_ms, number, 10), TraceSet(1));
        tell(&mut order, 100, 1);
        tell(&mut order, 102, 3);
        assert!(passed(&mut order).is_empty());
        tell(&mut order, 101, 2);
        tell(&mut order, 102, 4);
        tell(&mut order, 103, 5);
        assert_eq!(passed(&mut order), [1, 2, 3, 4]);
        // The date was set back meanwhile.
        tell(&mut order, 7, 6);
        assert_eq!(passed(&mut order), [6, 5]);
        assert!(order.is_empty() && order.bytes == 0);
        assert!(passed(&mut order).is_empty());
    }

    #[test]
    fn no_more_is_held_than_there_is_room_for() {
        let mut order = InOrder::default();
        let most = HELD_BYTES_MAX / (60_000 + OVERHEAD_BYTES);
        for number in 0..=most {
            assert!(order.too_many().is_none());
            order.add(traced(number as u64, number as u8, 60_000), TraceSet(1));
        }
        let (first, _) = order.too_many().expect("one too many");
        assert_eq!(first.bytes[0], 0);
        assert!(order.too_many().is_none());
    }
}
