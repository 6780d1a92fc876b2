//! How a destination stands, for choosing and for people: what its OPTIONS and its calls came to last, and since when.
//!
//! Any shard writes here and any thread reads. The numbers of one destination are written one after another, so whoever reads while one
//! shard writes may see a new state with the old reason; the next look has both.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::dns::plan::Target;
use crate::time::Instant;

/// Longest Retry-After that is obeyed: one wrong header must not close a destination for good.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What became of an OPTIONS or of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A final response with this status.
    Status(u16),
    /// Nothing came in time.
    TimeOut,
    /// The transport could not bring it there.
    Unreachable,
    /// Nobody knows an address of it, or there was no room to ask.
    NotSent,
}

impl Outcome {
    const NONE: u32 = 0;
    const TIME_OUT: u32 = 1;
    const UNREACHABLE: u32 = 2;
    const NOT_SENT: u32 = 3;

    const fn code(self) -> u32 {
        match self {
            Outcome::Status(status) => status as u32,
            Outcome::TimeOut => Outcome::TIME_OUT,
            Outcome::Unreachable => Outcome::UNREACHABLE,
            Outcome::NotSent => Outcome::NOT_SENT,
        }
    }

    const fn of(code: u32) -> Option<Outcome> {
        match code {
            Outcome::NONE => None,
            Outcome::TIME_OUT => Some(Outcome::TimeOut),
            Outcome::UNREACHABLE => Some(Outcome::Unreachable),
            Outcome::NOT_SENT => Some(Outcome::NotSent),
            status => Some(Outcome::Status(status as u16)),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Status(status) => write!(f, "{status}"),
            Outcome::TimeOut => f.write_str("time-out"),
            Outcome::Unreachable => f.write_str("unreachable"),
            Outcome::NotSent => f.write_str("not sent"),
        }
    }
}

/// How a destination stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has not been heard yet: it is used like one that is up.
    Unknown,
    Up,
    /// A call found it silent or out of reach: it comes after all others for `hold_down_ms`.
    Suspect,
    /// It asked to be left alone for a time: 503 with Retry-After.
    Closed,
    /// Its OPTIONS fail: it is not used.
    Down,
}

impl Standing {
    pub const ALL: [Standing; 5] = [
        Standing::Unknown,
        Standing::Up,
        Standing::Suspect,
        Standing::Closed,
        Standing::Down,
    ];

    pub const fn text(self) -> &'static str {
        match self {
            Standing::Unknown => "unknown",
            Standing::Up => "up",
            Standing::Suspect => "suspect",
            Standing::Closed => "closed",
            Standing::Down => "down",
        }
    }
}

/// What is known of a destination's health.
#[derive(Debug, Default)]
pub struct Known {
    is_down: AtomicBool,
    /// It has answered something since it is known.
    is_heard: AtomicBool,
    suspect_until_ns: AtomicU64,
    closed_until_ns: AtomicU64,
    /// When the last of these changed.
    changed_ns: AtomicU64,
    /// Changes so far.
    changes: AtomicU32,
    last_options: AtomicU32,
    last_failure: AtomicU32,
    round_trip_us: AtomicU32,
    /// Written by the shard that sends the OPTIONS, when they change; never read by a shard.
    addresses: Mutex<Vec<Target>>,
}

impl Known {
    pub fn standing(&self, now: Instant) -> Standing {
        let now = now.as_nanos();
        if self.is_down.load(Relaxed) {
            Standing::Down
        } else if now < self.closed_until_ns.load(Relaxed) {
            Standing::Closed
        } else if now < self.suspect_until_ns.load(Relaxed) {
            Standing::Suspect
        } else if self.is_heard.load(Relaxed) {
            Standing::Up
        } else {
            Standing::Unknown
        }
    }

    /// Since when it stands so. `None`: nothing has changed yet.
    pub fn since(&self, now: Instant) -> Option<Instant> {
        // A time that ran out ended its state by itself.
        let ended = [&self.closed_until_ns, &self.suspect_until_ns]
            .into_iter()
            .map(|until| until.load(Relaxed))
            .filter(|until| *until <= now.as_nanos());
        let last = ended.chain([self.changed_ns.load(Relaxed)]).max();
        last.filter(|ns| *ns != 0).map(Instant::from_nanos)
    }

    /// Counts up with every change, also of those that nobody saw.
    pub fn changes(&self) -> u32 {
        self.changes.load(Relaxed)
    }

    pub fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    /// Until when it asked to be left alone, if that is not over.
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        let until = self.closed_until_ns.load(Relaxed);
        (until > now.as_nanos()).then(|| Instant::from_nanos(until))
    }

    /// What the last OPTIONS came to.
    pub fn last_options(&self) -> Option<Outcome> {
        Outcome::of(self.last_options.load(Relaxed))
    }

    /// How the last call failed that did.
    pub fn last_failure(&self) -> Option<Outcome> {
        Outcome::of(self.last_failure.load(Relaxed))
    }

    /// From the last OPTIONS that was answered to its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        let us = self.round_trip_us.load(Relaxed);
        (us != 0).then(|| Duration::from_micros(us.into()))
    }

    pub fn addresses(&self) -> Vec<Target> {
        self.addresses
            .lock()
            .map(|addresses| addresses.clone())
            .unwrap_or_default()
    }

    pub fn set_addresses(&self, addresses: impl Iterator<Item = Target>) {
        if let Ok(mut known) = self.addresses.lock() {
            *known = addresses.collect();
        }
    }

    pub fn options_came_to(&self, outcome: Outcome, round_trip: Option<Duration>) {
        self.last_options.store(outcome.code(), Relaxed);
        if let Some(time) = round_trip {
            let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            self.round_trip_us.store(us.max(1), Relaxed);
        }
    }

    pub fn set_down(&self, is_down: bool, now: Instant) {
        if self.is_down.swap(is_down, Relaxed) != is_down {
            self.changed(now);
        }
    }

    pub fn call_failed(&self, outcome: Outcome) {
        self.last_failure.store(outcome.code(), Relaxed);
    }

    /// It kept silent, or could not be reached.
    pub fn suspect(&self, until: Instant, now: Instant) {
        let before = self.suspect_until_ns.swap(until.as_nanos(), Relaxed);
        if before <= now.as_nanos() && until > now {
            self.changed(now);
        }
    }

    /// It answered.
    pub fn trust(&self, now: Instant) {
        if self.suspect_until_ns.load(Relaxed) != 0 {
            let until = self.suspect_until_ns.swap(0, Relaxed);
            if until > now.as_nanos() {
                self.changed(now);
            } else {
                // It ended by itself: that it did so is not forgotten with it.
                self.changed_ns.fetch_max(until, Relaxed);
            }
        }
        if !self.is_heard.load(Relaxed) && !self.is_heard.swap(true, Relaxed) {
            self.changed(now);
        }
    }

    /// RFC 3261 §21.5.4: a 503 with Retry-After.
    pub fn close(&self, retry_after: Duration, now: Instant) {
        let until = now + retry_after.min(RETRY_AFTER_MAX);
        let before = self.closed_until_ns.swap(until.as_nanos(), Relaxed);
        if before <= now.as_nanos() {
            self.changed(now);
        }
    }

    fn changed(&self, now: Instant) {
        self.changed_ns.store(now.as_nanos(), Relaxed);
        self.changes.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_counted_once_and_has_its_time() {
        let known = Known::default();
        let at = Instant::from_millis;
        let stands = |ms| (known.standing(at(ms)), known.since(at(ms)), known.changes());
        assert_eq!(stands(1), (Standing::Unknown, None, 0));
        known.trust(at(10));
        known.trust(at(20));
        assert_eq!(stands(30), (Standing::Up, Some(at(10)), 1));
        known.suspect(at(100), at(40));
        known.suspect(at(140), at(50));
        assert_eq!(stands(60), (Standing::Suspect, Some(at(40)), 2));
        assert_eq!(stands(150), (Standing::Up, Some(at(140)), 2), "its time is over");
        known.trust(at(160));
        assert_eq!(stands(170), (Standing::Up, Some(at(140)), 2));
        known.suspect(at(300), at(200));
        known.trust(at(210));
        assert_eq!(stands(220), (Standing::Up, Some(at(210)), 4));
        known.close(Duration::from_millis(100), at(300));
        assert_eq!(stands(310), (Standing::Closed, Some(at(300)), 5));
        assert_eq!(known.closed_until(at(310)), Some(at(400)));
        known.set_down(true, at(320));
        known.set_down(true, at(330));
        assert_eq!(stands(340), (Standing::Down, Some(at(320)), 6));
        known.set_down(false, at(500));
        assert_eq!(stands(510), (Standing::Up, Some(at(500)), 7));
        assert_eq!(known.closed_until(at(510)), None);
    }

    #[test]
    fn outcomes_come_back_as_they_were_written() {
        let known = Known::default();
        assert_eq!((known.last_options(), known.last_failure()), (None, None));
        for outcome in [
            Outcome::Status(200),
            Outcome::TimeOut,
            Outcome::Unreachable,
            Outcome::NotSent,
        ] {
            known.options_came_to(outcome, None);
            known.call_failed(outcome);
            assert_eq!(known.last_options(), Some(outcome));
            assert_eq!(known.last_failure(), Some(outcome));
        }
        assert_eq!(known.round_trip(), None);
        known.options_came_to(Outcome::Status(200), Some(Duration::from_nanos(10)));
        assert_eq!(known.round_trip(), Some(Duration::from_micros(1)));
    }
}
