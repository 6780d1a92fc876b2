//! Trunks as people see them: for the API, the command line, the metrics and the log.
//!
//! All of it is read from the board that the shards share ([`crate::trunk::board`]), so what is shown is of the whole process: counts are
//! sums over all shards, and a destination is up or down for all of them at once. Addresses are those of the shard that sends it its
//! OPTIONS; each shard asks DNS by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::config::Config;
use crate::config::trunk::{Destination, Trunk};
use crate::time::Instant;
use crate::trunk::board::{Board, DestinationState, TrunkState};
use crate::trunk::standing::Standing;

use super::lock;

/// The trunks that are served: what the configuration says of them, and what is known.
pub struct Trunks(Mutex<(Vec<Trunk>, Arc<Board>)>);

/// A trunk, as `/api/v1/trunks` has it.
#[derive(Serialize)]
pub struct TrunkView {
    pub trunk: String,
    pub select: &'static str,
    /// Calls now, and the most that there may be; 0: no limit.
    pub calls: u32,
    pub calls_max: u32,
    pub calls_per_second_max: u32,
    pub calls_started: u64,
    pub calls_over_limit: u64,
    pub calls_without_destination: u64,
    pub failovers: u64,
    pub destinations: Vec<DestinationView>,
}

/// A destination of a trunk.
#[derive(Serialize)]
pub struct DestinationView {
    pub destination: String,
    /// `udp:10.0.0.1:5060`, in the order in which they are tried. Empty: none is known.
    pub addresses: Vec<String>,
    pub state: &'static str,
    /// How long it has been so; nothing when nothing has been heard yet.
    pub for_s: Option<u64>,
    /// What brought it there: a status code, `time-out`, `unreachable`, `not sent`.
    pub why: Option<String>,
    /// How long it is still left alone because it asked for that.
    pub closed_for_s: Option<u64>,
    pub priority: u16,
    pub weight: u16,
    pub calls: u32,
    /// 0: no limit of its own.
    pub calls_max: u32,
    pub calls_per_second_max: u32,
    pub calls_started: u64,
    pub calls_failed: u64,
    pub calls_over_limit: u64,
    pub calls_throttled: u64,
    /// How the last call failed that did.
    pub last_failure: Option<String>,
    /// Whether it is sent OPTIONS.
    pub is_asked: bool,
    pub options_sent: u64,
    pub options_failed: u64,
    pub last_options: Option<String>,
    pub round_trip_us: Option<u64>,
    /// RFC 7339: whether it may ask for less, and percent of the requests that it does not want now.
    pub overload_control: bool,
    pub loss_percent: u32,
}

impl Trunks {
    pub fn new(cfg: &Config, board: Arc<Board>) -> Trunks {
        Trunks(Mutex::new((cfg.trunks.clone(), board)))
    }

    /// From now on these are served.
    pub fn set(&self, cfg: &Config, board: Arc<Board>) {
        *lock(&self.0) = (cfg.trunks.clone(), board);
    }

    pub fn board(&self) -> Arc<Board> {
        lock(&self.0).1.clone()
    }

    /// All trunks, in the order of the configuration.
    pub fn view(&self, now: Instant) -> Vec<TrunkView> {
        let (trunks, board) = &*lock(&self.0);
        trunks
            .iter()
            .zip(&board.trunks)
            .map(|(settings, state)| trunk_view(settings, state, now))
            .collect()
    }
}

fn trunk_view(settings: &Trunk, state: &TrunkState, now: Instant) -> TrunkView {
    let destinations = settings.destinations.iter().zip(&state.destinations);
    TrunkView {
        trunk: settings.name.clone(),
        select: settings.select.text(),
        calls: now_of(&state.calls),
        calls_max: settings.calls_max,
        calls_per_second_max: settings.calls_per_second_max,
        calls_started: all_of(&state.calls_started),
        calls_over_limit: all_of(&state.calls_over_limit),
        calls_without_destination: all_of(&state.calls_without_destination),
        failovers: all_of(&state.failovers),
        destinations: destinations
            .map(|(one, state)| destination_view(settings, one, state, now))
            .collect(),
    }
}

fn destination_view(
    trunk: &Trunk,
    settings: &Destination,
    state: &DestinationState,
    now: Instant,
) -> DestinationView {
    let known = &state.known;
    let addresses = known.addresses();
    DestinationView {
        destination: settings.uri.clone(),
        addresses: addresses
            .iter()
            .map(|target| format!("{}:{}", target.transport.name().to_ascii_lowercase(), target.addr))
            .collect(),
        state: known.standing(now).text(),
        for_s: known.since(now).map(|since| now.since(since).as_secs()),
        why: why(state, known.standing(now)),
        closed_for_s: known.closed_until(now).map(|until| until.since(now).as_secs()),
        priority: settings.priority,
        weight: settings.weight,
        calls: now_of(&state.calls),
        calls_max: settings.calls_max,
        calls_per_second_max: settings.calls_per_second_max,
        calls_started: all_of(&state.calls_started),
        calls_failed: all_of(&state.calls_failed),
        calls_over_limit: all_of(&state.calls_over_limit),
        calls_throttled: all_of(&state.calls_throttled),
        last_failure: known.last_failure().map(|outcome| outcome.to_string()),
        is_asked: !trunk.ping_interval.is_zero(),
        options_sent: all_of(&state.pings_sent),
        options_failed: all_of(&state.pings_failed),
        last_options: known.last_options().map(|outcome| outcome.to_string()),
        round_trip_us: known.round_trip().map(|time| time.as_micros() as u64),
        overload_control: trunk.overload_control,
        loss_percent: state.throttle.loss(now),
    }
}

/// The limits of the trunks and their destinations, and how often each refused a call.
pub fn limits_reached(board: &Board) -> impl Iterator<Item = (String, u64)> {
    board.trunks.iter().flat_map(|trunk| {
        let own = (format!("trunk.{}", trunk.name), all_of(&trunk.calls_over_limit));
        let each = trunk.destinations.iter().map(|one| {
            let key = format!("trunk.{} {}", trunk.name, one.uri);
            (key, all_of(&one.calls_over_limit))
        });
        std::iter::once(own).chain(each)
    })
}

/// What brought a destination where it stands.
fn why(state: &DestinationState, standing: Standing) -> Option<String> {
    let known = &state.known;
    let outcome = match standing {
        Standing::Unknown => None,
        Standing::Up | Standing::Down => known.last_options(),
        Standing::Suspect => known.last_failure(),
        Standing::Closed => return Some("503 with Retry-After".to_owned()),
    };
    outcome.map(|outcome| outcome.to_string())
}

fn now_of(count: &AtomicU32) -> u32 {
    count.load(Relaxed)
}

fn all_of(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

// ---- The log -----------------------------------------------------------------------------------------------------------

/// Tells when a destination goes up or down, or reaches a limit of its trunk.
#[derive(Default)]
pub struct TrunkWatch {
    told: HashMap<(String, String), Told>,
}

/// What was told last of one destination.
#[derive(Clone, Copy)]
struct Told {
    standing: Standing,
    changes: u32,
}

impl TrunkWatch {
    /// Looks at every destination, and tells each change once. What came and went between two looks shows in `changes`.
    pub fn look(&mut self, board: &Board, now: Instant) {
        for change in self.changes(board, now) {
            change.log();
        }
        // Those of an older configuration are forgotten.
        if self.told.len() > board.trunks.iter().map(|trunk| trunk.destinations.len()).sum() {
            self.told.retain(|(name, uri), _| {
                let trunk = board.trunks.iter().find(|trunk| trunk.name == *name);
                trunk.is_some_and(|trunk| trunk.destinations.iter().any(|one| one.uri == *uri))
            });
        }
    }

    fn changes(&mut self, board: &Board, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for trunk in &board.trunks {
            for state in &trunk.destinations {
                let here = Told {
                    standing: state.known.standing(now),
                    changes: state.known.changes(),
                };
                let key = (trunk.name.clone(), state.uri.clone());
                let before = self.told.insert(key, here).unwrap_or(Told {
                    standing: Standing::Unknown,
                    changes: 0,
                });
                if before.standing == here.standing && before.changes == here.changes {
                    continue;
                }
                changes.push(Change {
                    trunk: trunk.name.clone(),
                    peer: state.uri.clone(),
                    from: before.standing,
                    to: here.standing,
                    why: why(state, here.standing),
                    closed_for_s: state
                        .known
                        .closed_until(now)
                        .map(|until| until.since(now).as_secs()),
                    changes: here.changes.wrapping_sub(before.changes).max(1),
                });
            }
        }
        changes
    }
}

/// One line of the log.
#[derive(PartialEq, Eq, Debug)]
struct Change {
    trunk: String,
    peer: String,
    from: Standing,
    to: Standing,
    why: Option<String>,
    closed_for_s: Option<u64>,
    changes: u32,
}

impl Change {
    fn log(&self) {
        let (trunk, peer, changes) = (&self.trunk, &self.peer, self.changes);
        let (was, why) = (self.from.text(), self.why.as_deref().unwrap_or("-"));
        match self.to {
            Standing::Up | Standing::Unknown => tracing::info!(trunk, peer, was, why, changes, "peer up"),
            Standing::Suspect => tracing::warn!(trunk, peer, was, why, changes, "peer silent: tried last"),
            Standing::Closed => {
                let closed_for_s = self.closed_for_s.unwrap_or_default();
                tracing::warn!(
                    trunk,
                    peer,
                    was,
                    why,
                    closed_for_s,
                    changes,
                    "peer asks to be left alone"
                );
            }
            Standing::Down => tracing::warn!(trunk, peer, was, why, changes, "peer down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Machine, load};
    use crate::trunk::standing::Outcome;

    fn config() -> Config {
        let text = "[[trunk]]\nname = \"carrier\"\nping_interval_ms = 1000\n\
                    destinations = [\"sip:10.0.0.1 priority=2 calls=7\", \"sip:10.0.0.2 weight=5\"]";
        load(Some(("r.toml".as_ref(), text)), &[], &Machine::read())
            .expect("a good file")
            .config
    }

    #[test]
    fn a_change_is_told_once_and_one_that_nobody_saw_is_counted() {
        let board = Board::new(&config(), None);
        let mut watch = TrunkWatch::default();
        let at = Instant::from_millis;
        let known = &board.trunks[0].destinations[1].known;
        let mut told = |ms| {
            let changes = watch.changes(&board, at(ms));
            changes
                .into_iter()
                .map(|one| (one.peer, one.to.text(), one.why, one.changes))
                .collect::<Vec<_>>()
        };
        let change = |to, why: &str, changes| ("sip:10.0.0.2".to_owned(), to, Some(why.to_owned()), changes);
        assert_eq!(told(1), []);
        known.options_came_to(Outcome::Status(200), None);
        known.trust(at(10));
        assert_eq!(told(20), [change("up", "200", 1)]);
        assert_eq!(told(30), []);
        known.options_came_to(Outcome::TimeOut, None);
        known.set_down(true, at(40));
        assert_eq!(told(50), [change("down", "time-out", 1)]);
        known.options_came_to(Outcome::Status(404), None);
        known.set_down(false, at(60));
        known.set_down(true, at(61));
        assert_eq!(told(70), [change("down", "404", 2)]);
        known.set_down(false, at(80));
        assert_eq!(told(90), [change("up", "404", 1)]);
        known.call_failed(Outcome::Unreachable);
        known.suspect(at(200), at(100));
        assert_eq!(told(110), [change("suspect", "unreachable", 1)]);
        assert_eq!(told(250), [change("up", "404", 1)], "its time is over");
        known.close(Duration::from_secs(5), at(300));
        assert_eq!(told(310), [change("closed", "503 with Retry-After", 1)]);
    }

    #[test]
    fn a_view_joins_what_was_configured_and_what_is_known() {
        let cfg = config();
        let board = Arc::new(Board::new(&cfg, None));
        let trunks = Trunks::new(&cfg, board.clone());
        let state = &board.trunks[0].destinations[0];
        state.calls_started.store(9, Relaxed);
        state.known.trust(Instant::from_millis(1_000));
        let now = Instant::from_millis(61_000);
        let views = trunks.view(now);
        let [view] = &views[..] else { panic!("one trunk") };
        assert_eq!((view.trunk.as_str(), view.destinations.len()), ("carrier", 2));
        let one = &view.destinations[0];
        assert_eq!(
            (one.state, one.for_s, one.priority, one.calls_max),
            ("up", Some(60), 2, 7)
        );
        assert_eq!((one.calls_started, one.is_asked), (9, true));
        let two = &view.destinations[1];
        assert_eq!((two.state, two.for_s, two.weight), ("unknown", None, 5));
    }

    #[test]
    fn limits_of_trunks_are_named_by_trunk_and_destination() {
        let board = Board::new(&config(), None);
        board.trunks[0].calls_over_limit.store(3, Relaxed);
        board.trunks[0].destinations[1].calls_over_limit.store(4, Relaxed);
        let reached: Vec<_> = limits_reached(&board).filter(|(_, count)| *count > 0).collect();
        let expected = [("trunk.carrier", 3), ("trunk.carrier sip:10.0.0.2", 4)];
        assert_eq!(reached, expected.map(|(key, count)| (key.to_owned(), count)));
    }
}
