//! What all shards know of the trunks: who is up, and how many calls there are.
//!
//! Counts are atomic numbers that all shards share, not shares of a limit: a limit of two calls can't be shared out to eight
//! shards, and the least loaded destination is the least of the whole process. A call costs a handful of atomic operations
//! in its whole life. One shard sends a destination its OPTIONS, so that it gets one and not one from each shard, and the
//! others read here what came of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Config;
use crate::config::trunk::Trunk;
use crate::port::ConfigId;
use crate::time::Instant;

use super::overload::Throttle;
use super::rate::Rate;
use super::select::stable_hash;
use super::standing::{Known, Standing};

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
    /// Calls that a limit of the trunk refused.
    pub calls_over_limit: AtomicU64,
    /// Calls for which there was no destination that may be used.
    pub calls_without_destination: AtomicU64,
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
    pub known: Known,
    /// Calls now.
    pub calls: AtomicU32,
    pub calls_started: AtomicU64,
    /// Calls that a limit of its own kept from it.
    pub calls_over_limit: AtomicU64,
    /// Calls that it failed: silence, no way there, or a response that makes the next be tried.
    pub calls_failed: AtomicU64,
    /// Calls that were not sent because it asks for less (RFC 7339).
    pub calls_throttled: AtomicU64,
    pub pings_sent: AtomicU64,
    pub pings_failed: AtomicU64,
    pub throttle: Throttle,
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

/// The boards of the last few configurations: shards take a new one up one after the other, each with its board.
#[derive(Debug, Default)]
pub struct Boards(Mutex<VecDeque<(ConfigId, Arc<Board>)>>);

/// Boards that are kept: a shard is never further behind.
const BOARDS_MAX: usize = 8;

impl Boards {
    /// The board of the configuration `id`, which is `cfg`: the same for everybody who asks. Whoever asks first makes it, of what the one
    /// before it knew.
    pub fn of(&self, id: ConfigId, cfg: &Config) -> Arc<Board> {
        let mut boards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, board)) = boards.iter().find(|(of, _)| *of == id) {
            return board.clone();
        }
        let before = boards.back().map(|(_, board)| board.as_ref());
        let board = Arc::new(Board::new(cfg, before));
        if boards.len() == BOARDS_MAX {
            boards.pop_front();
        }
        boards.push_back((id, board.clone()));
        board
    }
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
            calls_over_limit: count(|state| &state.calls_over_limit),
            calls_without_destination: count(|state| &state.calls_without_destination),
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
            known: Known::default(),
            calls: AtomicU32::new(0),
            calls_started: AtomicU64::new(0),
            calls_over_limit: AtomicU64::new(0),
            calls_failed: AtomicU64::new(0),
            calls_throttled: AtomicU64::new(0),
            pings_sent: AtomicU64::new(0),
            pings_failed: AtomicU64::new(0),
            throttle: Throttle::default(),
            rate: Rate::default(),
        }
    }

    pub fn usable(&self, now: Instant) -> Usable {
        match self.known.standing(now) {
            Standing::Unknown | Standing::Up => Usable::Yes,
            Standing::Suspect => Usable::Suspect,
            Standing::Closed | Standing::Down => Usable::No,
        }
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
}

/// Adds one if that keeps to `most`; 0 is no limit.
fn take_one(count: &AtomicU32, most: u32) -> bool {
    let next = |now: u32| (most == 0 || now < most).then_some(now.saturating_add(1));
    count.fetch_update(Relaxed, Relaxed, next).is_ok()
}

fn give_back(count: &AtomicU32) {
    _ = count.fetch_update(Relaxed, Relaxed, |now| now.checked_sub(1));
}
