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
/// A turn that read fewer datagrams emptied the sockets, however old they were: the shard had been kept from running. Unless it says that it
/// left some: where datagrams come in runs it asks for as few as it expects to be enough.
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
    /// There were more datagrams than it took.
    leaves_some: bool,
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

    /// The turn that began at `now` left datagrams in the sockets, as far as it knows.
    pub fn datagrams_left(&mut self, now: Instant) {
        self.begin_turn(now);
        self.turn.leaves_some = true;
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
        let is_full = self.turn.leaves_some || self.turn.datagrams >= FULL_TURN;
        let datagrams = if is_full { self.turn.oldest } else { Duration::ZERO };
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
mod tests;
