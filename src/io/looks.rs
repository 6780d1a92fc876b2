//! Coarse deadlines of connections: every slot that is watched is looked at once an interval, and the look decides.
//! One entry a slot at most, however often the slot changes hands, so that churn costs no memory.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

/// A zero interval would make every turn look at everything.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Slots in the order in which they are to be looked at.
pub(super) struct Looks {
    interval: Duration,
    due: VecDeque<(Instant, u32)>,
    /// Whether a slot is in `due`.
    watched: Vec<bool>,
}

impl Looks {
    pub(super) fn new(interval: Duration) -> Looks {
        Looks {
            interval: interval.max(INTERVAL_MIN),
            due: VecDeque::new(),
            watched: Vec::new(),
        }
    }

    /// Another interval from now on. Slots that are watched are looked at when they would have been, and keep those behind them
    /// waiting until then.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.max(INTERVAL_MIN);
    }

    /// Has `slot` looked at after one interval, or earlier if it is being watched already.
    pub(super) fn watch(&mut self, slot: u32, now: Instant) {
        let index = slot as usize;
        if index >= self.watched.len() {
            self.watched.resize(index + 1, false);
        }
        if !self.watched[index] {
            self.watched[index] = true;
            // The interval is the same for all, so that the queue stays in order.
            self.due.push_back((now + self.interval, slot));
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.front().map(|&(at, _)| at)
    }

    /// The next slot whose time has come. It is watched no longer.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, slot) = self.due.front()?;
        if at > now {
            return None;
        }
        self.due.pop_front();
        self.watched[slot as usize] = false;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_looked_at_once_an_interval_however_often_it_is_watched() {
        let mut looks = Looks::new(Duration::from_millis(10));
        for _ in 0..3 {
            looks.watch(4, Instant::from_millis(0));
        }
        looks.watch(2, Instant::from_millis(5));
        assert_eq!(looks.next_due(), Some(Instant::from_millis(10)));
        assert_eq!(looks.pop_due(Instant::from_millis(9)), None);
        assert_eq!(looks.pop_due(Instant::from_millis(12)), Some(4));
        assert_eq!(looks.pop_due(Instant::from_millis(12)), None);
        looks.watch(4, Instant::from_millis(12));
        assert_eq!(looks.pop_due(Instant::from_millis(100)), Some(2));
        assert_eq!(looks.pop_due(Instant::from_millis(100)), Some(4));
        assert_eq!(looks.next_due(), None);
    }
}
