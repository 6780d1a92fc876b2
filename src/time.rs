//! The one clock type of the core. Time is always an argument; only the reactor reads a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds on a clock that never steps, anchored to the Unix epoch when the process started. It orders events, and
/// with a [`DateShift`] it dates them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// Later than every deadline that can be set.
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    pub const fn from_millis(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn unix_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// Time since `earlier`, or zero when `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// By how much the system's date has been set since the process started: what is shown of a time, in a `Date`, a record or a file, follows
/// it, and no timer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DateShift {
    nanos: i64,
}

impl DateShift {
    /// The date was set forward by so many nanoseconds, or back where they are below 0.
    pub const fn from_nanos(nanos: i64) -> DateShift {
        DateShift { nanos }
    }

    pub const fn as_nanos(self) -> i64 {
        self.nanos
    }

    /// What the clock would have shown at `at` had its start been dated as the system's date is now; 1970 at the earliest.
    pub const fn date(self, at: Instant) -> Instant {
        Instant(at.0.saturating_add_signed(self.nanos))
    }
}

/// Year, month (1 to 12) and day (1 to 31) of the Gregorian calendar, `days` after 1 January 1970.
pub const fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from 1 March, so that the leap day is the last of its year; 719468 days lie between 1 March of
    // year 0 and 1970, and 400 years have 146097 days.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March to July and August to December both run 31 30 31 30 31: 153 days in five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}
