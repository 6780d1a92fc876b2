//! What all shards know of the trunks: who is up, and how many calls there are.
//!
//! Counts are atomic numbers that all shards share, not shares of a limit: a limit of two calls can't be shared out to eight
//! shards, and the least loaded destination is the least of the whole process. A call costs a handful of atomic operations
//! in its whole life. One shard sends a destination its OPTIONS, so that it gets one and not one from each shard, and the
//! others read here what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::Config;
use crate::config::trunk::Trunk;
use crate::time::Instant;

use super::overload::Throttle;
use super::rate::Rate;
use super::select::stable_hash;

/// Longest Retry-After that is obeyed: one wrong header must not close a destination for good.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// All trunks, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Board {
    pub trunks: Vec<Arc<TrunkState>>,
}

#[derive(Debug)]
pub struct TrunkState {
    pub name: String,
    pub destinations: Vec<Arc<DestinationState>>,
    /// Calls now.
    pub calls: AtomicU32,
    /// Calls that were sent to a destination.
    pub calls_started: AtomicU64,
    /// Calls that a limit of the trunk, or the lack of a destination, refused.
    pub calls_refused: AtomicU64,
    /// Times that another destination was tried.
    pub failovers: AtomicU64,
    turn: AtomicU32,
    rate: Rate,
}

#[derive(Debug)]
pub struct DestinationState {
    pub uri: String,
    /// See [`stable_hash`].
    pub key: u64,
    pub is_down: AtomicBool,
    /// Calls now.
    pub calls: AtomicU32,
    pub calls_started: AtomicU64,
    /// Calls that it failed: silence, no way there, or a response that makes the next be tried.
    pub calls_failed: AtomicU64,
    /// Calls that were not sent because it asks for less (RFC 7339).
    pub calls_throttled: AtomicU64,
    pub pings_sent: AtomicU64,
    pub pings_failed: AtomicU64,
    pub throttle: Throttle,
    suspect_until_ns: AtomicU64,
    closed_until_ns: AtomicU64,
    rate: Rate,
}

/// Whether a destination may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usable {
    Yes,
    /// It kept silent lately: after all others.
    Suspect,
    /// Its OPTIONS are not answered, or it asked to be left alone.
    No,
}

impl Board {
    /// The board of `cfg`; what `before` knew of the same destinations goes on.
    pub fn new(cfg: &Config, before: Option<&Board>) -> Board {
        let known = |name: &str| before?.trunks.iter().find(|old| old.name == name);
        let trunks = cfg.trunks.iter().map(|trunk| {
            let old = known(&trunk.name);
            if let Some(old) = old
                && old.is_for(trunk)
            {
                return old.clone();
            }
            Arc::new(TrunkState::new(trunk, old))
        });
        Board {
            trunks: trunks.collect(),
        }
    }
}

impl TrunkState {
    fn new(trunk: &Trunk, before: Option<&Arc<TrunkState>>) -> TrunkState {
        let destination = |uri: &str| {
            before
                .and_then(|before| before.destinations.iter().find(|old| old.uri == uri))
                .cloned()
                .unwrap_or_else(|| Arc::new(DestinationState::new(uri)))
        };
        let count =
            |of: fn(&TrunkState) -> &AtomicU64| AtomicU64::new(before.map_or(0, |old| of(old).load(Relaxed)));
        TrunkState {
            name: trunk.name.clone(),
            destinations: trunk.destinations.iter().map(|d| destination(&d.uri)).collect(),
            // Calls that began under the old state end there: for a while both count their own.
            calls: AtomicU32::new(0),
            calls_started: count(|state| &state.calls_started),
            calls_refused: count(|state| &state.calls_refused),
            failovers: count(|state| &state.failovers),
            turn: AtomicU32::new(0),
            rate: Rate::default(),
        }
    }

    fn is_for(&self, trunk: &Trunk) -> bool {
        let uris = trunk
            .destinations
            .iter()
            .map(|destination| destination.uri.as_str());
        uris.eq(self.destinations.iter().map(|state| state.uri.as_str()))
    }

    /// Counts a call in if the limits of the trunk let it.
    pub(super) fn admit(&self, trunk: &Trunk, now: Instant) -> bool {
        let is_admitted = take_one(&self.calls, trunk.calls_max);
        if is_admitted && !self.rate.admits(trunk.calls_per_second_max, now) {
            give_back(&self.calls);
            return false;
        }
        is_admitted
    }

    pub(super) fn release(&self) {
        give_back(&self.calls);
    }

    pub(super) fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Relaxed)
    }
}

impl DestinationState {
    fn new(uri: &str) -> DestinationState {
        DestinationState {
            uri: uri.to_owned(),
            key: stable_hash(uri.as_bytes()),
            is_down: AtomicBool::new(false),
            calls: AtomicU32::new(0),
            calls_started: AtomicU64::new(0),
            calls_failed: AtomicU64::new(0),
            calls_throttled: AtomicU64::new(0),
            pings_sent: AtomicU64::new(0),
            pings_failed: AtomicU64::new(0),
            throttle: Throttle::default(),
            suspect_until_ns: AtomicU64::new(0),
            closed_until_ns: AtomicU64::new(0),
            rate: Rate::default(),
        }
    }

    pub fn usable(&self, now: Instant) -> Usable {
        let now = now.as_nanos();
        if self.is_down.load(Relaxed) || now < self.closed_until_ns.load(Relaxed) {
            Usable::No
        } else if now < self.suspect_until_ns.load(Relaxed) {
            Usable::Suspect
        } else {
            Usable::Yes
        }
    }

    /// Whether it asked to be left alone for a time that is not over.
    pub fn is_closed(&self, now: Instant) -> bool {
        now.as_nanos() < self.closed_until_ns.load(Relaxed)
    }

    pub(super) fn admit(&self, calls_max: u32, per_second_max: u32, now: Instant) -> bool {
        let is_admitted = take_one(&self.calls, calls_max);
        if is_admitted && !self.rate.admits(per_second_max, now) {
            give_back(&self.calls);
            return false;
        }
        is_admitted
    }

    pub(super) fn release(&self) {
        give_back(&self.calls);
    }

    /// It kept silent, or could not be reached.
    pub(super) fn suspect(&self, until: Instant) {
        self.suspect_until_ns.store(until.as_nanos(), Relaxed);
    }

    /// It answered.
    pub(super) fn trust(&self) {
        if self.suspect_until_ns.load(Relaxed) != 0 {
            self.suspect_until_ns.store(0, Relaxed);
        }
    }

    /// RFC 3261 §21.5.4: a 503 with Retry-After.
    pub(super) fn close(&self, retry_after: Duration, now: Instant) {
        let until = now + retry_after.min(RETRY_AFTER_MAX);
        self.closed_until_ns.store(until.as_nanos(), Relaxed);
    }
}

/// Adds one if that keeps to `most`; 0 is no limit.
fn take_one(count: &AtomicU32, most: u32) -> bool {
    let next = |now: u32| (most == 0 || now < most).then_some(now.saturating_add(1));
    count.fetch_update(Relaxed, Relaxed, next).is_ok()
}

fn give_back(count: &AtomicU32) {
    _ = count.fetch_update(Relaxed, Relaxed, |now| now.checked_sub(1));
}
