//! Calls a second, counted by all shards together: the generic cell rate algorithm in one atomic number.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::time::Instant;

/// When the next call would come if all kept to the rate, nanoseconds.
#[derive(Debug, Default)]
pub struct Rate(AtomicU64);

/// What may come at once: the calls of this time.
const BURST_NS: u64 = 100_000_000;

impl Rate {
    /// Takes one call in. `false`: it would be too many. `per_second` of 0 takes all in.
    pub fn admits(&self, per_second: u32, now: Instant) -> bool {
        if per_second == 0 {
            return true;
        }
        let interval = 1_000_000_000 / u64::from(per_second);
        let now = now.as_nanos();
        // However low the rate, one call may come.
        let latest = now + BURST_NS.saturating_sub(interval);
        let next = |due: u64| (due <= latest).then_some(due.max(now) + interval);
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_is_kept_over_time_with_a_small_burst() {
        for per_second in [1, 5, 50, 1_000] {
            let rate = Rate::default();
            let mut now = Instant::from_millis(5_000);
            let mut admitted = 0;
            for _ in 0..100_000 {
                admitted += u32::from(rate.admits(per_second, now));
                now = now + Duration::from_micros(100);
            }
            let most = per_second * 10 + per_second / 10 + 1;
            assert!(
                (per_second * 10..=most).contains(&admitted),
                "{admitted} in 10 s at {per_second}/s"
            );
        }
        let rate = Rate::default();
        assert!((0..1_000).all(|_| rate.admits(0, Instant::from_millis(1))));
    }

    #[test]
    fn a_quiet_time_is_not_saved_up() {
        let rate = Rate::default();
        assert!(rate.admits(100, Instant::from_millis(1_000)));
        let later = Instant::from_millis(3_600_000);
        let at_once = (0..1_000).filter(|_| rate.admits(100, later)).count();
        assert_eq!(at_once, 10);
    }
}
