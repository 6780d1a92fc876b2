//! The one clock that is read: CLOCK_MONOTONIC with an offset to the Unix epoch taken once, so that all shards agree and
//! a step of the system's date moves nothing.

use std::time::Duration;

use crate::time::Instant;

/// Two clocks read further apart than this are read again, so often.
const PAIR_MAX: Duration = Duration::from_micros(5);
const PAIR_TRIES: usize = 3;

/// Reads the time. Copies of one clock agree; make one at start and hand it to every shard.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The Unix time in nanoseconds at which CLOCK_MONOTONIC stood at zero.
    epoch_offset_nanos: u64,
}

impl Clock {
    /// Anchors the monotonic clock to the system's date as it is now.
    pub fn start() -> Clock {
        Clock {
            epoch_offset_nanos: read(libc::CLOCK_REALTIME).saturating_sub(read(libc::CLOCK_MONOTONIC)),
        }
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
}
