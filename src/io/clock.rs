//! The one clock that is read: CLOCK_MONOTONIC with an offset to the Unix epoch taken once, so that all shards agree and
//! a step of the system's date moves nothing but the dates that are shown.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::time::{DateShift, Instant};

/// Two clocks read further apart than this are read again, so often.
const PAIR_MAX: Duration = Duration::from_micros(5);
const PAIR_TRIES: usize = 3;

/// A smaller difference between the two clocks is taken for one of their being read.
const STEP_MIN: Duration = Duration::from_millis(100);

/// Reads the time. Copies of one clock agree; make one at start and hand it to every shard.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The Unix time in nanoseconds at which CLOCK_MONOTONIC stood at zero.
    epoch_offset_nanos: u64,
    /// By how many nanoseconds the date has been set since, as [`Clock::follow_date`] has seen.
    shift: &'static AtomicI64,
}

impl Clock {
    /// Anchors the monotonic clock to the system's date as it is now.
    pub fn start() -> Clock {
        Clock {
            epoch_offset_nanos: read(libc::CLOCK_REALTIME).saturating_sub(read(libc::CLOCK_MONOTONIC)),
            // There is one clock in a process.
            shift: Box::leak(Box::default()),
        }
    }

    /// As if the system's date had been so many seconds ahead, or behind, when the process started.
    #[cfg(test)]
    pub fn start_ahead_by(seconds: i64) -> Clock {
        let clock = Clock::start();
        let ahead = seconds * 1_000_000_000;
        Clock {
            epoch_offset_nanos: clock.epoch_offset_nanos.saturating_add_signed(ahead),
            ..clock
        }
    }

    /// What dates are shown by.
    pub fn date_shift(self) -> DateShift {
        DateShift::from_nanos(self.shift.load(Ordering::Relaxed))
    }

    /// Has dates follow the system's date, if that was set since the last call: by how many seconds.
    pub fn follow_date(self) -> Option<f64> {
        let (now, date) = self.now_and_date();
        let shift = date.cast_signed().wrapping_sub(now.as_nanos().cast_signed());
        let step = shift - self.shift.load(Ordering::Relaxed);
        if Duration::from_nanos(step.unsigned_abs()) < STEP_MIN {
            return None;
        }
        self.shift.store(shift, Ordering::Relaxed);
        Some(step as f64 / 1e9)
    }

    pub fn now(self) -> Instant {
        Instant::from_nanos(self.epoch_offset_nanos + read(libc::CLOCK_MONOTONIC))
    }

    /// The time, and the system's date at the same moment in nanoseconds since 1970: for stamps that the kernel takes of the date.
    pub(super) fn now_and_date(self) -> (Instant, u64) {
        let mut now = self.now();
        for _ in 0..PAIR_TRIES {
            let date = read(libc::CLOCK_REALTIME);
            let after = self.now();
            if after.since(now) <= PAIR_MAX {
                return (now, date);
            }
            // Interrupted in between.
            now = after;
        }
        (now, read(libc::CLOCK_REALTIME))
    }

    /// What CLOCK_MONOTONIC shows at `instant`: for time-outs that the kernel keeps.
    pub(super) fn monotonic(self, instant: Instant) -> Duration {
        Duration::from_nanos(instant.as_nanos().saturating_sub(self.epoch_offset_nanos))
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `spec` is a valid timespec to write to; both clocks exist on every Linux.
    let result = unsafe { libc::clock_gettime(clock, &mut spec) };
    assert_eq!(result, 0, "the kernel has CLOCK_MONOTONIC and CLOCK_REALTIME");
    // A date before 1970 counts as 1970.
    u64::try_from(spec.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(spec.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back_and_shows_the_date() {
        let clock = Clock::start();
        let first = clock.now();
        let second = clock.now();
        assert!(second >= first);
        let date = read(libc::CLOCK_REALTIME) / 1_000_000_000;
        assert!(second.unix_secs().abs_diff(date) <= 1);
        assert!(clock.monotonic(second).as_nanos() as u64 <= read(libc::CLOCK_MONOTONIC));
    }

    #[test]
    fn dates_follow_the_systems_and_the_clock_does_not() {
        // As if the date had been an hour behind when the process started, and an hour ahead.
        for hour in [-3_600_i64, 3_600] {
            let clock = Clock::start_ahead_by(hour);
            let before = clock.now();
            assert_eq!(clock.date_shift(), DateShift::default());
            let step = clock.follow_date().expect("it was set");
            assert!((step + hour as f64).abs() < 1.0, "{step}");
            assert!(clock.now().since(before) < Duration::from_secs(60));
            let date = clock.date_shift().date(clock.now()).unix_secs();
            assert!(date.abs_diff(read(libc::CLOCK_REALTIME) / 1_000_000_000) <= 1);
            assert_eq!(clock.follow_date(), None, "once");
        }
    }
}
