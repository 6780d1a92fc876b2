//! How long bytes on connections wait until they are taken up: what tells a shard whose traffic comes over TCP that it gets more than it
//! can do. Datagrams carry a time stamp of the kernel's; what a RECV brings does not. Two things are known instead.
//!
//! - **The lag of completions.** Connections that become readable queue up in the ring, first come first served. A TIMEOUT of a
//!   millisecond joins that queue at a time that is known; when it is seen tells how long the queue is. It is armed only after turns
//!   that were full, one at a time, so an idle shard is not woken by it.
//! - **The backlog of single connections.** A connection that brings whole buffers may have more waiting in its socket. How much
//!   (FIONREAD), over the bytes a second that the shard gets through, is how long that will take. What is left when a connection ends
//!   is read by nobody and goes with it.

use std::time::Duration;

use crate::time::Instant;

/// A turn with fewer completions had taken all that there was, however late: the shard had been kept from running.
const FULL_TURN: usize = 16;
/// Connections whose backlog is asked for in a turn.
const FILLED_MAX: usize = 8;
/// The rate is that of so long, or of a little more.
const RATE_WINDOW: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct StreamWait {
    /// When the TIMEOUT that is on the ring was to be seen at the earliest.
    due: Option<Instant>,
    /// What the last one told.
    lag: Duration,
    /// Bytes taken up in this turn; `None`: nothing was heard on a connection.
    heard: Option<usize>,
    /// Slots of connections whose last receive of this turn brought a whole buffer; more than there is room for are left out.
    filled: Slots,
    /// Those that the last turn left bytes in.
    behind: Slots,
    /// Since when turns have been leaving bytes behind, and what they have taken up since.
    behind_since: Option<Instant>,
    taken: usize,
    /// What the last turn that heard anything came to.
    told: Duration,
}

/// A few connections.
#[derive(Default)]
struct Slots {
    slots: [u32; FILLED_MAX],
    len: usize,
}

impl Slots {
    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots[..self.len].iter().copied()
    }

    /// What there is no room for is left out.
    fn add(&mut self, slot: u32) {
        if self.len < FILLED_MAX && self.iter().all(|known| known != slot) {
            self.slots[self.len] = slot;
            self.len += 1;
        }
    }

    /// Whether it was there.
    fn remove(&mut self, slot: u32) -> bool {
        let known = self.iter().position(|known| known == slot);
        if let Some(at) = known {
            self.len -= 1;
            self.slots[at] = self.slots[self.len];
        }
        known.is_some()
    }
}

/// What a turn amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TurnWait {
    /// How long the bytes that were taken up had waited; none at all where the turn was not full.
    pub wait: Duration,
    /// Whether a TIMEOUT is to be put on the ring.
    pub probes: bool,
}

impl StreamWait {
    /// A receive of `slot` brought `bytes`: so many that more may be waiting, if `is_full`.
    pub(super) fn heard(&mut self, slot: u32, bytes: usize, is_full: bool) {
        self.heard = Some(self.heard.unwrap_or(0) + bytes);
        if is_full {
            self.filled.add(slot);
        } else {
            self.filled.remove(slot);
        }
    }

    /// Nobody listens to the connection in `slot` any more.
    pub(super) fn ended(&mut self, slot: u32) {
        self.filled.remove(slot);
        if self.behind.remove(slot) && self.behind.len == 0 {
            self.caught_up();
        }
    }

    fn caught_up(&mut self) {
        self.behind_since = None;
        self.taken = 0;
    }

    /// Whether a turn in which nothing comes has something to tell: that the wait which was told last is over.
    pub(super) fn is_to_be_told(&self) -> bool {
        self.told > Duration::ZERO && self.behind.len == 0
    }

    /// The TIMEOUT was put on the ring, to fire at `due`.
    pub(super) fn probing(&mut self, due: Instant) {
        self.due = Some(due);
    }

    /// The TIMEOUT was seen.
    pub(super) fn probed(&mut self, now: Instant) {
        if let Some(due) = self.due.take() {
            self.lag = now.since(due);
        }
    }

    /// A turn that began at `began` has taken up all of its `completions`. `pending` gives the bytes that wait in a connection's
    /// socket. `None`: nothing was heard on connections, and that is no news.
    pub(super) fn end_turn(
        &mut self,
        began: Instant,
        completions: usize,
        mut pending: impl FnMut(u32) -> usize,
    ) -> Option<TurnWait> {
        let Some(bytes) = self.heard.take() else {
            // Nothing comes and nothing is left: who comes next waits for nothing, whatever was told of those before.
            let is_over = completions < FULL_TURN && self.is_to_be_told();
            return is_over.then(|| {
                (self.lag, self.told) = (Duration::ZERO, Duration::ZERO);
                TurnWait {
                    wait: Duration::ZERO,
                    probes: false,
                }
            });
        };
        self.behind = Slots::default();
        let mut backlog = 0;
        for slot in std::mem::take(&mut self.filled).iter() {
            let waiting = pending(slot);
            backlog += waiting;
            if waiting > 0 {
                self.behind.add(slot);
            }
        }
        let is_full = completions >= FULL_TURN;
        let queued = match self.behind_since {
            Some(since) if backlog > 0 && self.taken > 0 => {
                let lasted = began.since(since).as_secs_f64();
                Duration::from_secs_f64(backlog as f64 * lasted / self.taken as f64)
            }
            Some(_) | None => Duration::ZERO,
        };
        match self.behind_since {
            _ if backlog == 0 => self.caught_up(),
            None => {
                self.behind_since = Some(began);
                self.taken = bytes;
            }
            Some(since) => {
                let lasted = began.since(since);
                if lasted > RATE_WINDOW {
                    // Half of what was is forgotten, so that the rate is a recent one.
                    self.behind_since = Some(since + lasted / 2);
                    self.taken /= 2;
                }
                self.taken += bytes;
            }
        }
        let lag = if is_full {
            self.lag
                .max(self.due.map_or(Duration::ZERO, |due| began.since(due)))
        } else {
            self.lag = Duration::ZERO;
            Duration::ZERO
        };
        self.told = lag.max(queued);
        Some(TurnWait {
            wait: self.told,
            probes: is_full && self.due.is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Instant {
        Instant::from_millis(1_000 + ms)
    }

    #[test]
    fn a_turn_without_streams_says_nothing_and_a_short_one_waited_for_nothing() {
        let mut waits = StreamWait::default();
        assert_eq!(waits.end_turn(at(0), 100, |_| 0), None);
        waits.heard(1, 500, false);
        let turn = waits.end_turn(at(1), FULL_TURN - 1, |_| 0).expect("heard");
        assert_eq!((turn.wait, turn.probes), (Duration::ZERO, false));
    }

    #[test]
    fn full_turns_probe_one_at_a_time_and_tell_what_the_probe_told() {
        let mut waits = StreamWait::default();
        let turn = |waits: &mut StreamWait, now, completions| {
            waits.heard(1, 500, false);
            waits.end_turn(now, completions, |_| 0).expect("heard")
        };
        assert!(turn(&mut waits, at(0), FULL_TURN).probes);
        waits.probing(at(1));
        // It is not seen yet: so long at least.
        let waiting = turn(&mut waits, at(6), FULL_TURN);
        assert_eq!((waiting.wait, waiting.probes), (5 * MS, false));
        waits.probed(at(13));
        let told = turn(&mut waits, at(14), FULL_TURN);
        assert_eq!((told.wait, told.probes), (12 * MS, true));
        // The next one has just been armed, and the queue is what it was.
        waits.probing(at(15));
        assert_eq!(turn(&mut waits, at(15), FULL_TURN).wait, 12 * MS);
        // A turn that took all there was has no queue behind it.
        assert_eq!(turn(&mut waits, at(16), 3).wait, Duration::ZERO);
        waits.probed(at(17));
        assert_eq!(turn(&mut waits, at(18), FULL_TURN).wait, 2 * MS);
    }

    #[test]
    fn a_queue_is_over_when_a_turn_finds_nothing() {
        let mut waits = StreamWait::default();
        waits.heard(1, 500, false);
        waits.end_turn(at(0), FULL_TURN, |_| 0);
        waits.probing(at(1));
        waits.heard(1, 500, false);
        let full = waits.end_turn(at(6), FULL_TURN, |_| 0).expect("heard");
        assert_eq!(full.wait, 5 * MS);
        assert_eq!(
            waits.end_turn(at(7), FULL_TURN, |_| 0),
            None,
            "it was full of what else there is"
        );
        let over = waits.end_turn(at(8), 2, |_| 0).expect("news");
        assert_eq!((over.wait, over.probes), (Duration::ZERO, false));
        assert_eq!(waits.end_turn(at(9), 2, |_| 0), None);
    }

    #[test]
    fn what_one_connection_has_waiting_takes_as_long_as_the_shard_takes_for_it() {
        let mut waits = StreamWait::default();
        let turn = |waits: &mut StreamWait, now, pending: usize| {
            waits.heard(7, 50_000, true);
            let asked = |slot| {
                assert_eq!(slot, 7);
                pending
            };
            waits.end_turn(now, 4, asked).expect("heard").wait
        };
        assert_eq!(
            turn(&mut waits, at(0), 500_000),
            Duration::ZERO,
            "no rate is known yet"
        );
        assert_eq!(turn(&mut waits, at(5), 500_000), 50 * MS, "50 kB in 5 ms");
        for round in 2..100 {
            let wait = turn(&mut waits, at(5 * round), 500_000);
            assert!((49 * MS..=51 * MS).contains(&wait), "{wait:?}");
        }
        assert_eq!(turn(&mut waits, at(500), 0), Duration::ZERO);
    }

    #[test]
    fn what_a_connection_left_behind_when_it_ended_takes_no_time() {
        let mut waits = StreamWait::default();
        let turn = |waits: &mut StreamWait, now, slot| {
            waits.heard(slot, 50_000, true);
            waits.end_turn(now, 4, |_| 500_000).expect("heard").wait
        };
        for round in 0..3 {
            turn(&mut waits, at(5 * round), 7);
        }
        waits.ended(7);
        // Nothing was heard, but that has changed.
        let over = waits.end_turn(at(15), 1, |_| unreachable!("nothing is left"));
        assert_eq!(over.map(|turn| turn.wait), Some(Duration::ZERO));
        assert_eq!(waits.end_turn(at(16), 1, |_| 0), None);
        // At the rate of a whole minute what is left of this one would take a minute too.
        assert_eq!(turn(&mut waits, at(60_000), 8), Duration::ZERO);
        assert_eq!(turn(&mut waits, at(60_005), 8), 50 * MS);
        // One of two goes: the other goes on waiting.
        waits.heard(9, 50_000, true);
        turn(&mut waits, at(60_010), 8);
        waits.ended(8);
        assert_eq!(waits.end_turn(at(60_011), 1, |_| 0), None, "the other is behind");
        assert!(turn(&mut waits, at(60_015), 9) > Duration::ZERO);
        // One that ends in the turn in which it was heard is not asked.
        waits.heard(3, 50_000, true);
        waits.ended(3);
        let asked = |slot| -> usize { panic!("{slot} was asked") };
        waits.ended(9);
        assert_eq!(
            waits.end_turn(at(60_020), 4, asked).map(|turn| turn.wait),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_connection_that_ended_with_less_has_nothing_waiting() {
        let mut waits = StreamWait::default();
        for slot in 0..20 {
            waits.heard(slot, 4_096, true);
        }
        waits.heard(3, 4_096, true);
        waits.heard(5, 12, false);
        let mut asked = Vec::new();
        waits.end_turn(at(0), 40, |slot| {
            asked.push(slot);
            0
        });
        asked.sort_unstable();
        assert_eq!(
            asked,
            [0, 1, 2, 3, 4, 6, 7],
            "as many as there is room for, but the one that was emptied"
        );
    }
}
