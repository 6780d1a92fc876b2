//! Overload control: how many new requests a shard takes up, by how long what it reads has waited (RFC 6357, RFC 7415).
//!
//! A shard that gets more than it can do has a standing queue: datagrams that were old when they were read, although every turn
//! took a full batch; or bytes on connections that wait (`io::stream_wait`). While there is one, requests that begin something new are admitted at a rate, which falls while the
//! queue is longer than the target and rises while it is shorter. What is not admitted is answered 503, or dropped where
//! even that costs too much. What belongs to something admitted is never in question.
//!
//! A pure controller: ages and times in, decisions out.
//!
//! # Priority
//! All draw on one bucket that fills at the rate; each [`Class`] leaves as much in it as the ones above may want (RFC 7415 §3.5.2). So calls
//! are refused first, then MESSAGE, OPTIONS and what else makes no dialog, then SUBSCRIBE, then REGISTER, and emergency
//! calls last of all.

use std::time::Duration;

use crate::config;
use crate::time::Instant;

/// What a new request is, the first to be refused first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// INVITE without a To tag.
    Call,
    /// MESSAGE, OPTIONS and other requests that begin no dialog.
    Page,
    Subscribe,
    Register,
    /// INVITE to `urn:service:sos` (RFC 5031): refused only where emergency calls alone are too many.
    Emergency,
}

impl Class {
    /// What it costs to the end, in messages received and sent: the unit of the rate.
    pub(super) const fn cost(self) -> f64 {
        match self {
            Class::Call | Class::Emergency => 14.0,
            Class::Page => 4.0,
            Class::Subscribe => 4.0,
            Class::Register => 2.0,
        }
    }

    /// How far ahead of the rate a request of this class may be.
    const fn credit(self) -> Duration {
        match self {
            Class::Call => Duration::from_millis(2),
            Class::Page => Duration::from_millis(10),
            Class::Subscribe => Duration::from_millis(20),
            Class::Register => Duration::from_millis(40),
            // What stands before it in a whole second of emergency calls alone.
            Class::Emergency => Duration::from_secs(1),
        }
    }
}

/// What becomes of a new request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Admit,
    /// 503 with Retry-After.
    Refuse,
    /// Nothing: there are more to refuse than could be answered.
    Drop,
    /// Nothing: it is so old that its sender has sent it again.
    DropStale,
}

/// The controller looks at the queue so often.
const INTERVAL: Duration = Duration::from_millis(20);
/// A turn that read fewer datagrams emptied the sockets, however old they were: the shard had been kept from running.
const FULL_TURN: u32 = 60;
/// A queue counts as standing only if so many turns found one. Turns may be long, so an interval that has seen a queue waits for them,
const TURNS_MIN: u32 = 4;
/// so long at most; then two turns are enough.
const INTERVAL_MAX: Duration = Duration::from_millis(200);
/// The rate begins below what was admitted when the queue grew: most of those calls had not cost their part yet.
const FIRST_PART: f64 = 0.8;
/// Per interval and target's worth of excess, and at most.
const DECREASE: f64 = 0.04;
const DECREASE_MAX: f64 = 0.2;
/// The same while the queue is shorter than the target.
const INCREASE: f64 = 0.02;
/// The same when the sockets were empty: the shard had time left.
const INCREASE_IDLE: f64 = 0.10;
/// What the change of the queue over the last interval counts against its length.
const DAMPING: f64 = 2.0;
/// The lowest rate, messages a second: something always gets in.
const RATE_MIN: f64 = 500.0;
/// A queue of so many targets is drained before any call gets in.
const DRAIN_TARGETS: u32 = 4;
/// Nothing refused for so long: the load has gone.
const CALM: Duration = Duration::from_millis(500);

/// The overload control of one shard.
#[derive(Debug)]
pub struct Overload {
    is_enabled: bool,
    target: Duration,
    /// Older requests have been sent again by now: T1 (RFC 3261 §17.1.1.2).
    stale: Duration,
    /// 503s for each request that is admitted, at most.
    refusals_per_admitted: f64,
    /// `None`: everything is admitted.
    limit: Option<Limit>,
    turn: Turn,
    /// How long what came on connections in the last turn had waited.
    streams_wait: Duration,
    interval: Interval,
    /// The last interval's queue was longer than the target: one more, and it is no burst.
    was_long: bool,
    /// Share of the new requests that the last interval refused.
    loss: f64,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Messages a second.
    rate: f64,
    /// When the bucket is full again: the theoretical arrival time of a leaky bucket.
    filled_at: Instant,
    /// The same for what is answered 503.
    answers_filled_at: Instant,
    last_refusal: Instant,
    /// The queue at the end of the last interval.
    queue: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    at: Instant,
    datagrams: u32,
    oldest: Duration,
    /// The wait of what came on connections; `None`: nothing did.
    streams: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Interval {
    began: Instant,
    turns: u32,
    /// The shortest queue that a turn found.
    queue: Option<Duration>,
    offered: u32,
    admitted: u32,
    admitted_cost: f64,
}

impl Overload {
    pub fn new(cfg: &config::Overload, t1: Duration) -> Overload {
        Overload {
            is_enabled: cfg.enabled,
            target: cfg.target,
            stale: t1,
            refusals_per_admitted: f64::from(cfg.refusals_per_admitted),
            limit: None,
            turn: Turn::default(),
            streams_wait: Duration::ZERO,
            interval: Interval::default(),
            was_long: false,
            loss: 0.0,
        }
    }

    /// Goes by `cfg` from now on, from where it stands.
    pub fn configure(&mut self, cfg: &config::Overload, t1: Duration) {
        let fresh = Overload::new(cfg, t1);
        self.is_enabled = fresh.is_enabled;
        self.target = fresh.target;
        self.stale = fresh.stale;
        self.refusals_per_admitted = fresh.refusals_per_admitted;
        if !self.is_enabled {
            self.limit = None;
            self.loss = 0.0;
        }
    }

    /// A datagram was taken up at `now`, the time at which the turn began, having waited `age`.
    pub fn datagram(&mut self, now: Instant, age: Duration) {
        self.begin_turn(now);
        self.turn.datagrams += 1;
        self.turn.oldest = self.turn.oldest.max(age);
    }

    /// The turn that began at `now` took up bytes on connections, which had waited for `wait`: no time if it took all that there was.
    pub fn streams(&mut self, now: Instant, wait: Duration) {
        self.begin_turn(now);
        self.turn.streams = Some(wait);
        self.streams_wait = wait;
    }

    fn begin_turn(&mut self, now: Instant) {
        if now != self.turn.at {
            self.end_turn();
            self.turn = Turn {
                at: now,
                ..Turn::default()
            };
            self.tick(now);
        }
    }

    /// Share of new requests that are refused now, 0 to 1.
    pub const fn loss(&self) -> f64 {
        self.loss
    }

    pub const fn is_limiting(&self) -> bool {
        self.limit.is_some()
    }

    /// What is admitted a second, as [`Class::cost`] counts; `None`: everything.
    pub fn rate(&self) -> Option<f64> {
        self.limit.map(|limit| limit.rate)
    }

    /// What becomes of a request that begins something new. Only a datagram is ever dropped: on a reliable transport nobody would send
    /// it again.
    pub fn decide(&mut self, class: Class, age: Duration, may_drop: bool, now: Instant) -> Verdict {
        self.interval.offered += 1;
        // What comes on a connection says nothing of its age; it is about that of what came before it.
        let age = if may_drop { age } else { age.max(self.streams_wait) };
        let cost = class.cost();
        let (target, stale) = (self.target, self.stale);
        let verdict = match &mut self.limit {
            None => Verdict::Admit,
            Some(limit) => {
                let is_late = class == Class::Call && age > target * DRAIN_TARGETS;
                if class != Class::Emergency && may_drop && age > stale {
                    Verdict::DropStale
                } else if !is_late && limit.takes(class, now) {
                    Verdict::Admit
                } else if !may_drop || limit.answers(self.refusals_per_admitted, now) {
                    Verdict::Refuse
                } else {
                    Verdict::Drop
                }
            }
        };
        match verdict {
            Verdict::Admit => {
                self.interval.admitted += 1;
                self.interval.admitted_cost += cost;
            }
            Verdict::Refuse | Verdict::Drop | Verdict::DropStale => {
                if let Some(limit) = &mut self.limit {
                    limit.last_refusal = now;
                }
            }
        }
        verdict
    }

    fn end_turn(&mut self) {
        if self.turn.datagrams == 0 && self.turn.streams.is_none() {
            return;
        }
        let datagrams = if self.turn.datagrams < FULL_TURN {
            Duration::ZERO
        } else {
            self.turn.oldest
        };
        let queue = datagrams.max(self.turn.streams.unwrap_or_default());
        self.interval.turns += 1;
        self.interval.queue = Some(self.interval.queue.map_or(queue, |least| least.min(queue)));
    }

    /// Time goes by: also where no datagram comes, so that a limit ends.
    pub fn tick(&mut self, now: Instant) {
        let lasted = now.since(self.interval.began);
        let is_long = self.interval.queue.is_some_and(|queue| queue > self.target);
        let is_early = is_long && self.interval.turns < TURNS_MIN && lasted < INTERVAL_MAX;
        if lasted < INTERVAL || is_early {
            return;
        }
        let over = self.interval;
        self.interval = Interval {
            began: now,
            ..Interval::default()
        };
        self.loss = match over.offered {
            0 => 0.0,
            offered => f64::from(offered - over.admitted) / f64::from(offered),
        };
        if !self.is_enabled {
            return;
        }
        let has_lasted = over.turns >= TURNS_MIN || over.turns >= 2 && lasted >= INTERVAL_MAX;
        let standing = over.queue.filter(|_| has_lasted).unwrap_or_default();
        let target = self.target.as_secs_f64();
        match &mut self.limit {
            None if standing > self.target && !std::mem::replace(&mut self.was_long, true) => {}
            None if standing > self.target => {
                let rate = over.admitted_cost / lasted.as_secs_f64() * FIRST_PART;
                self.limit = Some(Limit {
                    rate: rate.max(RATE_MIN),
                    filled_at: now,
                    answers_filled_at: now,
                    last_refusal: now,
                    queue: standing,
                });
            }
            None => self.was_long = false,
            Some(limit) => {
                self.was_long = false;
                let excess = (standing.as_secs_f64() - target) / target;
                let change = (standing.as_secs_f64() - limit.queue.as_secs_f64()) / target;
                let pressure = excess + DAMPING * change;
                limit.queue = standing;
                let was_used = over.admitted < over.offered;
                if pressure > 0.0 {
                    limit.rate *= 1.0 - (DECREASE * pressure).min(DECREASE_MAX);
                } else if was_used {
                    let part = if standing.is_zero() {
                        INCREASE_IDLE
                    } else {
                        INCREASE
                    };
                    limit.rate *= 1.0 + part * (-pressure).min(1.0);
                }
                limit.rate = limit.rate.max(RATE_MIN);
                if now.since(limit.last_refusal) > CALM {
                    self.limit = None;
                }
            }
        }
    }
}

impl Limit {
    fn takes(&mut self, class: Class, now: Instant) -> bool {
        fill(&mut self.filled_at, now, class.cost() / self.rate, class.credit())
    }

    fn answers(&mut self, per_admitted: f64, now: Instant) -> bool {
        let each = Class::Call.cost() / (self.rate * per_admitted);
        fill(&mut self.answers_filled_at, now, each, Class::Call.credit())
    }
}

/// A leaky bucket in time: `true` and `seconds` more in it, if that keeps it within `credit`.
fn fill(filled_at: &mut Instant, now: Instant, seconds: f64, credit: Duration) -> bool {
    if filled_at.since(now) > credit {
        return false;
    }
    *filled_at = (*filled_at).max(now) + Duration::from_secs_f64(seconds);
    true
}

#[cfg(test)]
mod tests {
    use std::collections::{BinaryHeap, VecDeque};

    use super::*;

    fn controller() -> Overload {
        Overload::new(&config::Config::default().overload, Duration::from_millis(500))
    }

    /// What a step of a call, a refusal with its ACK, and a datagram that is dropped cost the model's server.
    const STEP_NS: u64 = 6_400;
    const STEPS: u8 = 7;
    const REFUSAL_NS: u64 = 3_500;
    const ACK_NS: u64 = 1_500;
    const DROP_NS: u64 = 1_500;
    /// Datagrams that fit into its socket.
    const SOCKET: usize = 4_000;
    const BATCH: usize = 64;
    const ROUND_TRIP_NS: u64 = 300_000;
    const CAPACITY: f64 = 1e9 / (STEP_NS * STEPS as u64) as f64;

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum Kind {
        Invite { tries: u8 },
        Step(u8),
        Ack,
    }

    /// A server of one core, what waits for it, and callers who send again.
    struct Model {
        overload: Overload,
        now: u64,
        coming: BinaryHeap<std::cmp::Reverse<(u64, Kind)>>,
        socket: VecDeque<(u64, Kind)>,
        next_call: f64,
        completed: u64,
        refused: u64,
        dropped: u64,
        lost: u64,
        oldest: u64,
    }

    impl Model {
        fn new() -> Model {
            Model {
                overload: controller(),
                now: 1_000_000_000_000,
                coming: BinaryHeap::new(),
                socket: VecDeque::new(),
                next_call: 1e12,
                completed: 0,
                refused: 0,
                dropped: 0,
                lost: 0,
                oldest: 0,
            }
        }

        fn arrive(&mut self, calls_per_s: f64) {
            while self.next_call <= self.now as f64 {
                self.coming.push(std::cmp::Reverse((
                    self.next_call as u64,
                    Kind::Invite { tries: 0 },
                )));
                self.next_call += 1e9 / calls_per_s;
            }
            while let Some(std::cmp::Reverse((at, kind))) = self.coming.peek().copied()
                && at <= self.now
            {
                self.coming.pop();
                if self.socket.len() < SOCKET {
                    self.socket.push_back((at, kind));
                } else {
                    self.lost += 1;
                    let again = match kind {
                        Kind::Invite { tries } => Kind::Invite { tries: tries + 1 },
                        Kind::Step(_) | Kind::Ack => kind,
                    };
                    self.send(at + 500_000_000, again);
                }
            }
        }

        fn send(&mut self, at: u64, kind: Kind) {
            if !matches!(kind, Kind::Invite { tries: 7.. }) {
                self.coming.push(std::cmp::Reverse((at, kind)));
            }
        }

        /// Runs for `ms` at `load` times what the server can do; gives the goodput as a part of that.
        fn run(&mut self, load: f64, ms: u64) -> f64 {
            let (until, before, began) = (self.now + ms * 1_000_000, self.completed, self.now);
            self.oldest = 0;
            while self.now < until {
                self.arrive(load * CAPACITY);
                if self.socket.is_empty() {
                    self.now += 20_000;
                    continue;
                }
                let turn = Instant::from_nanos(self.now);
                for _ in 0..BATCH.min(self.socket.len()) {
                    let (at, kind) = self.socket.pop_front().expect("it is not empty");
                    let age = turn.as_nanos().saturating_sub(at);
                    self.oldest = self.oldest.max(age);
                    let age = Duration::from_nanos(age);
                    self.overload.datagram(turn, age);
                    match kind {
                        Kind::Ack => self.now += ACK_NS,
                        Kind::Step(STEPS) => {
                            self.now += STEP_NS;
                            self.completed += 1;
                        }
                        Kind::Step(step) => {
                            self.now += STEP_NS;
                            self.send(self.now + ROUND_TRIP_NS, Kind::Step(step + 1));
                        }
                        Kind::Invite { tries } => match self.overload.decide(Class::Call, age, true, turn) {
                            Verdict::Admit => {
                                self.now += STEP_NS;
                                self.send(self.now + ROUND_TRIP_NS, Kind::Step(2));
                            }
                            Verdict::Refuse => {
                                self.refused += 1;
                                self.now += REFUSAL_NS;
                                self.send(self.now + ROUND_TRIP_NS, Kind::Ack);
                            }
                            Verdict::Drop | Verdict::DropStale => {
                                self.dropped += 1;
                                self.now += DROP_NS;
                                let wait = 500_000_000 << tries;
                                self.send(self.now + wait, Kind::Invite { tries: tries + 1 });
                            }
                        },
                    }
                }
            }
            (self.completed - before) as f64 / ((self.now - began) as f64 / 1e9) / CAPACITY
        }
    }

    #[test]
    fn what_the_server_can_do_is_never_refused() {
        let mut model = Model::new();
        for load in [0.1, 0.5, 0.9, 0.97] {
            model.run(load, 300);
        }
        assert_eq!((model.refused, model.dropped), (0, 0));
        assert!(!model.overload.is_limiting());
    }

    /// What is left for calls where `load` - goodput are answered 503, all in parts of what the server can do.
    fn possible(load: f64) -> f64 {
        let refusal = (REFUSAL_NS + ACK_NS) as f64 / (STEP_NS * u64::from(STEPS)) as f64;
        (1.0 - load * refusal) / (1.0 - refusal)
    }

    #[test]
    fn under_overload_the_server_does_nearly_all_that_refusing_leaves_time_for() {
        for load in [1.2, 1.5, 2.0, 4.0] {
            let mut model = Model::new();
            model.run(0.9, 200);
            let first = model.run(load, 500);
            let goodput = model.run(load, 1_000);
            println!(
                "{load} times: {first:.3}, then {goodput:.3} of {:.3}; oldest {} ms, refused {}, dropped {}, lost {}",
                possible(load),
                model.oldest / 1_000_000,
                model.refused,
                model.dropped,
                model.lost
            );
            assert!(goodput > 0.95 * possible(load), "{load}: {goodput}");
            // It begins with a socket full of what was sent before anybody noticed.
            assert!(load > 2.0 || first > 0.8 * possible(load), "{load}: {first}");
        }
    }

    #[test]
    fn ten_times_the_load_does_not_bring_the_server_down() {
        let mut model = Model::new();
        let goodput = model.run(10.0, 1_000);
        println!("10 times: {goodput:.3}");
        assert!(goodput > 0.05, "{goodput}");
        assert!(model.dropped > 0, "not all can be answered");
    }

    #[test]
    fn a_second_after_the_load_has_fallen_nothing_is_refused() {
        let mut model = Model::new();
        model.run(2.0, 800);
        model.run(0.7, 1_000);
        let refused = model.refused + model.dropped;
        model.run(0.7, 500);
        assert_eq!(model.refused + model.dropped, refused);
        assert!(!model.overload.is_limiting());
    }

    /// A controller that has seen two intervals of full turns with old datagrams.
    fn limiting() -> (Overload, Instant) {
        let mut overload = controller();
        let mut now = Instant::from_millis(1_000_000);
        for _ in 0..50 {
            now = now + Duration::from_millis(2);
            for _ in 0..64 {
                overload.datagram(now, Duration::from_millis(30));
                overload.decide(Class::Page, Duration::from_millis(30), true, now);
            }
        }
        assert!(overload.is_limiting());
        // What these have put into the bucket has run out of it.
        (overload, now + Duration::from_secs(1))
    }

    #[test]
    fn what_waited_because_the_shard_was_kept_from_running_is_no_overload() {
        let mut overload = controller();
        let mut now = Instant::from_millis(1_000_000);
        for _ in 0..200 {
            now = now + Duration::from_millis(2);
            for _ in 0..20 {
                overload.datagram(now, Duration::from_millis(30));
                assert_eq!(
                    overload.decide(Class::Call, Duration::from_millis(30), true, now),
                    Verdict::Admit
                );
            }
        }
        assert!(!overload.is_limiting());
    }

    #[test]
    fn calls_are_refused_first_and_emergency_calls_last() {
        let (mut overload, now) = limiting();
        let classes = [
            Class::Call,
            Class::Page,
            Class::Subscribe,
            Class::Register,
            Class::Emergency,
        ];
        let mut admitted = Vec::new();
        for class in classes {
            let count = (0..100_000)
                .take_while(|_| overload.decide(class, Duration::ZERO, false, now) == Verdict::Admit)
                .count();
            admitted.push(count);
        }
        // Each class finds room that the one before it had to leave.
        assert!(admitted[1..].iter().all(|count| *count > 0), "{admitted:?}");
        // And there is an end to all.
        assert!(admitted[4] < 100_000, "{admitted:?}");
    }

    #[test]
    fn what_is_stale_is_dropped_and_what_cannot_be_sent_again_is_answered() {
        let (mut overload, now) = limiting();
        let old = Duration::from_millis(600);
        assert_eq!(overload.decide(Class::Call, old, true, now), Verdict::DropStale);
        assert_eq!(overload.decide(Class::Call, old, false, now), Verdict::Refuse);
        let mut verdicts = (0..1_000).map(|_| overload.decide(Class::Call, Duration::ZERO, true, now));
        assert!(
            verdicts.any(|verdict| verdict == Verdict::Drop),
            "answers have an end"
        );
        let mut verdicts = (0..1_000).map(|_| overload.decide(Class::Call, Duration::ZERO, false, now));
        assert!(verdicts.all(|verdict| verdict == Verdict::Refuse));
    }

    #[test]
    fn connections_that_wait_are_a_queue_like_datagrams_that_do() {
        let mut overload = controller();
        let mut now = Instant::from_millis(1_000_000);
        let mut turns = |overload: &mut Overload, ms: u64, wait: Duration| {
            let until = now + Duration::from_millis(ms);
            while now < until {
                now = now + Duration::from_millis(1);
                overload.streams(now, wait);
                for _ in 0..10 {
                    overload.decide(Class::Call, Duration::ZERO, false, now);
                }
            }
            (overload.is_limiting(), overload.loss())
        };
        let calm = turns(&mut overload, 200, Duration::ZERO);
        assert_eq!(calm, (false, 0.0));
        // One long interval is a burst.
        assert!(!turns(&mut overload, 20, Duration::from_millis(15)).0);
        turns(&mut overload, 100, Duration::ZERO);
        assert!(turns(&mut overload, 100, Duration::from_millis(15)).0);
        let (_, pressed) = turns(&mut overload, 1_000, Duration::from_millis(15));
        assert!(pressed > 0.5, "{pressed}");
        // So long a queue is drained before any call gets in.
        assert_eq!(turns(&mut overload, 100, Duration::from_millis(90)).1, 1.0);
        // Time to spare: more and more get in again, in the end all.
        let (_, spare) = turns(&mut overload, 1_000, Duration::ZERO);
        assert!(spare < pressed, "{spare} of {pressed}");
        assert_eq!(turns(&mut overload, 10_000, Duration::ZERO), (false, 0.0));
    }

    #[test]
    fn turns_that_are_longer_than_an_interval_show_a_queue_too() {
        let mut overload = controller();
        let mut now = Instant::from_millis(1_000_000);
        for _ in 0..20 {
            now = now + Duration::from_millis(70);
            overload.streams(now, Duration::from_millis(200));
            overload.decide(Class::Call, Duration::ZERO, false, now);
        }
        assert!(overload.is_limiting());
        assert!(overload.loss() > 0.0);
    }

    #[test]
    fn one_that_is_switched_off_refuses_nothing() {
        let mut cfg = config::Config::default().overload;
        cfg.enabled = false;
        let mut overload = Overload::new(&cfg, Duration::from_millis(500));
        let mut now = Instant::from_millis(1_000_000);
        for _ in 0..100 {
            now = now + Duration::from_millis(2);
            for _ in 0..64 {
                overload.datagram(now, Duration::from_secs(2));
                assert_eq!(
                    overload.decide(Class::Call, Duration::from_secs(2), true, now),
                    Verdict::Admit
                );
            }
        }
        assert_eq!(overload.loss(), 0.0);
    }
}
