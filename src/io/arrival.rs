//! When a datagram reached the machine: the kernel's time stamp (SO_TIMESTAMPNS), told on our clock.
//!
//! The kernel stamps with the system's date, which may be set; our clock never steps. So both are read once a batch, and a stamp
//! counts by its age against the date as it is then. An age that can't be, and every age for as long as a datagram from before a
//! step of the date may still wait, counts for nothing: the time of the read stands in.

use std::time::Duration;

use crate::time::Instant;

/// Older than this is no age but a date that was set: whoever sent the datagram gave up long ago (RFC 3261 timers B and F: 32 s).
const AGE_MAX: Duration = Duration::from_secs(32);
/// A date that has moved by more than this against our clock since the last batch counts as set. After a long quiet time slewing alone
/// may do that, which costs one batch its stamps.
const STEP_MIN_NANOS: u64 = 5_000_000;

/// What is known of the date while one batch of a socket is handed over.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// Our clock and the date at the last batch.
    now: Instant,
    date: u64,
    /// The date was set, and datagrams stamped before that may still wait.
    stepped: bool,
}

impl Arrival {
    /// A batch was read at `now`, when the date was `date` (nanoseconds since 1970).
    pub(super) fn batch_read(&mut self, now: Instant, date: u64) {
        let went_by = now.as_nanos().wrapping_sub(self.now.as_nanos());
        let date_went_by = date.wrapping_sub(self.date);
        let drift = (date_went_by.wrapping_sub(went_by) as i64).unsigned_abs();
        // The first batch has nothing to compare with.
        self.stepped |= self.date != 0 && drift > STEP_MIN_NANOS;
        (self.now, self.date) = (now, date);
    }

    /// The socket is empty: whatever comes is stamped with the date as it is now.
    pub(super) fn drained(&mut self) {
        self.stepped = false;
    }

    /// When a datagram of this batch came in, by its stamp if it has one that can be believed.
    pub(super) fn received_at(&self, stamp: Option<u64>) -> Instant {
        let age = stamp
            .filter(|_| !self.stepped)
            .and_then(|stamp| self.date.checked_sub(stamp))
            .map(Duration::from_nanos)
            .filter(|age| *age <= AGE_MAX)
            .unwrap_or_default();
        Instant::from_nanos(self.now.as_nanos().saturating_sub(age.as_nanos() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: u64 = 1_800_000_000_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(1_000 * SECOND + nanos)
    }

    #[test]
    fn a_stamp_counts_by_its_age() {
        let mut arrival = Arrival::default();
        arrival.batch_read(at(0), DATE);
        assert_eq!(
            arrival.received_at(Some(DATE - 7_000)),
            Instant::from_nanos(at(0).as_nanos() - 7_000)
        );
        assert_eq!(arrival.received_at(None), at(0), "no stamp");
        assert_eq!(arrival.received_at(Some(DATE + 1)), at(0), "from the future");
        assert_eq!(
            arrival.received_at(Some(DATE - 33 * SECOND)),
            at(0),
            "older than any transaction"
        );
    }

    #[test]
    fn while_the_date_was_set_no_stamp_is_believed() {
        let mut arrival = Arrival::default();
        arrival.batch_read(at(0), DATE);
        // Slewed: 1 ms in a second.
        arrival.batch_read(at(SECOND), DATE + SECOND + 1_000_000);
        let date = DATE + SECOND + 1_000_000;
        assert_eq!(arrival.received_at(Some(date - 5)), at(SECOND - 5));
        for step in [2 * SECOND, 0u64.wrapping_sub(2 * SECOND)] {
            let date = arrival.date.wrapping_add(step).wrapping_add(10);
            let now = Instant::from_nanos(arrival.now.as_nanos() + 10);
            arrival.batch_read(now, date);
            assert_eq!(arrival.received_at(Some(date - 5)), now);
            // The next batch of the same queue may hold datagrams from before the step.
            arrival.batch_read(now, date);
            assert_eq!(arrival.received_at(Some(date - 5)), now);
            arrival.drained();
            arrival.batch_read(now, date);
            assert_eq!(arrival.received_at(Some(date - 5)).as_nanos(), now.as_nanos() - 5);
        }
    }
}
