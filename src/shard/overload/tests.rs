//! The controller against a model of a server and of callers who send again, and step by step.

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
fn a_small_turn_that_leaves_datagrams_found_a_queue() {
    for leaves_some in [false, true] {
        let mut overload = controller();
        let mut now = Instant::from_millis(1_000_000);
        for _ in 0..200 {
            now = now + Duration::from_millis(2);
            for _ in 0..4 {
                overload.datagram(now, Duration::from_millis(30));
                overload.decide(Class::Call, Duration::from_millis(30), true, now);
            }
            if leaves_some {
                overload.datagrams_left(now);
            }
        }
        assert_eq!(overload.is_limiting(), leaves_some);
    }
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
