//! Where a request for a host name goes: RFC 3263 over DNS (RFC 2782, RFC 3403), without a socket.
//!
//! [`plan`](plan::plan) is the RFC as a function of what is known. [`Resolver`] keeps what is known for its time ([`cache`]),
//! lets the configured table of hosts speak first ([`hosts`]), and has each question that is missing asked once:
//! [`Resolver::next_question`] hands it out, [`Resolver::answered`] takes its answer in, whoever waited comes out of
//! [`Resolver::next_finished`]. A look-up whose answers are known takes no turn and allocates nothing.

mod cache;
mod hosts;
pub mod order;
pub mod plan;
#[cfg(test)]
mod tests;
mod untried;

use std::collections::VecDeque;
use std::time::Duration;

use ahash::RandomState;

use crate::config::Config;
use crate::domain::{Answer, Question};
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::timer::{Timer, TimerKind, Wheel};

use cache::Cache;
use hosts::Hosts;
use order::Random;
use plan::{Answers, Known, Plan, Questions, Speaks, Targets, Wanted, plan};

pub use untried::Untried;

pub type LookUpId = Id<LookUp>;

/// Whom to tell what came of a look-up. Slots and generations mean something to that one alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A destination of a trunk, by its number among all destinations.
    Destination { index: u16, generation: u32 },
    /// A branch of the proxy.
    Branch { slot: u32, generation: u32 },
    /// A message that the proxy holds, to forward it without state.
    Held { slot: u32, generation: u32 },
    /// A request of the B2BUA for a subscriber.
    Exchange { slot: u32, generation: u32 },
    /// The next hop of a leg of the B2BUA.
    Leg { slot: u32, generation: u32 },
    /// That of a subscription.
    Subscription { slot: u32, generation: u32 },
    /// An answer that can't go back where its request came from.
    Answer { slot: u32, generation: u32 },
}

/// A look-up that waits for an answer.
pub struct LookUp {
    wanted: Wanted,
    asker: Asker,
    seed: u64,
    /// Answers that held then, or came later, hold for this look-up: one with a short time can't run in circles.
    began_at: Instant,
    /// Which of all: those that began earlier have lower ones.
    serial: u64,
    /// Answers that were waited for.
    rounds: u8,
    /// The next that waits for the same question.
    next: Option<LookUpId>,
}

/// What became of a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// The targets are in the list that was handed over.
    Targets,
    /// DNS knows no address for this that ringway has a listener for.
    NoAddress,
    /// DNS did not answer, or not in time.
    Failed,
    /// Too many look-ups or questions wait already.
    Full,
    /// It comes out of [`Resolver::next_finished`].
    Waiting(LookUpId),
}

/// All look-ups of one shard.
pub struct Resolver {
    hosts: Hosts,
    cache: Cache<LookUpId>,
    look_ups: Slots<LookUp>,
    speaks: Speaks,
    /// To be asked.
    questions: VecDeque<Question>,
    /// Those whose answer has come.
    ready: VecDeque<LookUpId>,
    question_timeout: Duration,
    /// Of the look-up that began last.
    serial: u64,
}

/// What the control thread may need beyond the time-out of a question before it says so.
const QUESTION_GRACE: Duration = Duration::from_millis(500);

/// Answers that one look-up waits for at most, one after another. A plan needs fewer; only a cache that is too small for it
/// has to ask the same again.
const ROUNDS_MAX: u8 = 64;

/// The table first, then what DNS has answered.
struct Lookout<'a> {
    hosts: &'a Hosts,
    cache: &'a Cache<LookUpId>,
    at: Instant,
}

impl Answers for Lookout<'_> {
    fn known(&self, question: &Question) -> Known<'_> {
        self.hosts
            .known(question)
            .unwrap_or_else(|| self.cache.known(question, self.at))
    }
}

impl Resolver {
    /// The limits of `cfg` are shared out evenly to the shards.
    pub fn new(cfg: &Config, hasher: RandomState) -> Resolver {
        let look_ups_max = cfg.dns.look_ups_max.div_ceil(cfg.shards);
        Resolver {
            hosts: Hosts::new(&cfg.hosts, hasher.clone()),
            cache: Cache::new(&cfg.dns, cfg.dns.cache_max.div_ceil(cfg.shards), hasher),
            look_ups: Slots::new(look_ups_max),
            speaks: Speaks::of(&cfg.listeners),
            questions: VecDeque::new(),
            ready: VecDeque::new(),
            question_timeout: cfg.dns.timeout + QUESTION_GRACE,
            serial: 0,
        }
    }

    /// Another table of hosts, and what else of `cfg` may change while running. Answers of DNS are kept.
    pub fn reload(&mut self, cfg: &Config, hasher: RandomState) {
        self.hosts = Hosts::new(&cfg.hosts, hasher);
        self.speaks = Speaks::of(&cfg.listeners);
        self.question_timeout = cfg.dns.timeout + QUESTION_GRACE;
    }

    /// Forgets what waits: the server stops.
    pub fn clear(&mut self, wheel: &mut Wheel<Timer>) {
        self.cache.forget_asked(wheel);
        self.look_ups = Slots::new(0);
        self.questions.clear();
        self.ready.clear();
    }

    /// Look-ups that wait.
    pub fn waiting(&self) -> usize {
        self.look_ups.len()
    }

    /// Answers that are kept, and questions that are out.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// The targets of `wanted` in order, into `targets`, or the word that `asker` will be told. `seed` decides among equals.
    pub fn resolve(
        &mut self,
        wheel: &mut Wheel<Timer>,
        wanted: &Wanted,
        asker: Asker,
        seed: u64,
        now: Instant,
        targets: &mut Targets,
    ) -> Resolved {
        self.serial += 1;
        let look_up = LookUp {
            serial: self.serial,
            wanted: *wanted,
            asker,
            seed,
            began_at: now,
            rounds: 0,
            next: None,
        };
        let mut questions = Questions::default();
        if let Some(done) = self.try_plan(&look_up, now, targets, &mut questions) {
            return done;
        }
        match self.look_ups.insert(look_up) {
            Some(id) if self.wait(wheel, id, &questions, now) => Resolved::Waiting(id),
            Some(id) => {
                self.look_ups.remove(id);
                Resolved::Full
            }
            None => Resolved::Full,
        }
    }

    /// As [`Resolver::resolve`], with what is known alone: `None` where DNS would have to be asked.
    #[must_use]
    pub fn resolve_known(
        &self,
        wanted: &Wanted,
        seed: u64,
        now: Instant,
        targets: &mut Targets,
    ) -> Option<Resolved> {
        self.plan(wanted, seed, now, targets, &mut Questions::default())
    }

    /// Until when the answers hold that targets of `wanted` came from. `None`: for good, or not known.
    pub fn holds_until(&self, wanted: &Wanted, now: Instant) -> Option<Instant> {
        let until = std::cell::Cell::new(None);
        let watch = Watch {
            lookout: self.lookout(now),
            until: &until,
        };
        _ = plan(
            wanted,
            self.speaks,
            &watch,
            &mut Random::new(0),
            &mut Targets::default(),
            &mut Questions::default(),
        );
        until.get()
    }

    /// A question for DNS, to be asked once.
    pub fn next_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// Puts back what could not be handed on yet.
    pub fn put_back(&mut self, question: Question) {
        self.questions.push_front(question);
    }

    /// The answer to a question of [`Resolver::next_question`].
    pub fn answered(&mut self, wheel: &mut Wheel<Timer>, question: &Question, answer: Answer, now: Instant) {
        // Late answers, and those to nobody's question, find nothing.
        let Some((waiting, timer)) = self.cache.answered(question, answer, now) else {
            return;
        };
        wheel.cancel(timer);
        self.wake(waiting);
    }

    /// The time for a question is over.
    pub fn on_timer(&mut self, timer: Timer, now: Instant) {
        let Some(question) = self.cache.asked_at(timer.slot) else {
            return;
        };
        self.questions.retain(|waiting| *waiting != question);
        if let Some((waiting, _)) = self.cache.answered(&question, Answer::Failed, now) {
            self.wake(waiting);
        }
    }

    /// In the order in which they began: what follows another request of its dialog must not overtake it.
    fn wake(&mut self, first: Option<LookUpId>) {
        let before = self.ready.len();
        let mut next = first;
        while let Some(id) = next {
            next = self.look_ups.get(id).and_then(|look_up| look_up.next);
            self.ready.push_back(id);
        }
        let look_ups = &self.look_ups;
        self.ready.make_contiguous()[before..]
            .sort_unstable_by_key(|id| look_ups.get(*id).map(|look_up| look_up.serial));
    }

    /// The next look-up that has come to an end, and for [`Resolved::Targets`] its targets.
    pub fn next_finished(
        &mut self,
        wheel: &mut Wheel<Timer>,
        now: Instant,
        targets: &mut Targets,
    ) -> Option<(Asker, Resolved)> {
        while let Some(id) = self.ready.pop_front() {
            let Some(look_up) = self.look_ups.remove(id) else {
                continue;
            };
            *targets = Targets::default();
            let mut questions = Questions::default();
            if let Some(done) = self.try_plan(&look_up, look_up.began_at, targets, &mut questions) {
                return Some((look_up.asker, done));
            }
            let asker = look_up.asker;
            // Its place has just become free.
            let look_up = LookUp {
                next: None,
                rounds: look_up.rounds + 1,
                ..look_up
            };
            if look_up.rounds == ROUNDS_MAX {
                return Some((asker, Resolved::Full));
            }
            match self.look_ups.insert(look_up) {
                Some(id) if self.wait(wheel, id, &questions, now) => {}
                Some(id) => {
                    self.look_ups.remove(id);
                    return Some((asker, Resolved::Full));
                }
                None => return Some((asker, Resolved::Full)),
            }
        }
        None
    }

    fn lookout(&self, at: Instant) -> Lookout<'_> {
        Lookout {
            hosts: &self.hosts,
            cache: &self.cache,
            at,
        }
    }

    fn try_plan(
        &self,
        look_up: &LookUp,
        at: Instant,
        targets: &mut Targets,
        questions: &mut Questions,
    ) -> Option<Resolved> {
        self.plan(&look_up.wanted, look_up.seed, at, targets, questions)
    }

    fn plan(
        &self,
        wanted: &Wanted,
        seed: u64,
        at: Instant,
        targets: &mut Targets,
        questions: &mut Questions,
    ) -> Option<Resolved> {
        let mut random = Random::new(seed);
        match plan(
            wanted,
            self.speaks,
            &self.lookout(at),
            &mut random,
            targets,
            questions,
        ) {
            Plan::Ready => Some(Resolved::Targets),
            Plan::NoAddress => Some(Resolved::NoAddress),
            Plan::Failed => Some(Resolved::Failed),
            Plan::Ask => None,
        }
    }

    /// Has the questions asked that are not out yet, and lets the look-up wait for the first: when its answer comes the plan
    /// is made again, and waits for the next that is missing then. `false`: there is no room.
    fn wait(&mut self, wheel: &mut Wheel<Timer>, id: LookUpId, questions: &Questions, now: Instant) -> bool {
        for question in questions.iter() {
            if self.cache.waiting_mut(&question).is_some() {
                continue;
            }
            let at = now + self.question_timeout;
            let timer = |slot| {
                let kind = TimerKind::Question;
                // Cancelled before its place is used again, so it needs no generation.
                wheel.insert(
                    at,
                    Timer {
                        kind,
                        slot,
                        generation: 0,
                    },
                )
            };
            if self.cache.ask(&question, timer).is_none() {
                return false;
            }
            self.questions.push_back(question);
        }
        let Some(waiting) = questions.get(0).and_then(|first| self.cache.waiting_mut(&first)) else {
            return false;
        };
        let next = waiting.replace(id);
        if let Some(look_up) = self.look_ups.get_mut(id) {
            look_up.next = next;
        }
        true
    }
}

/// Notes the earliest end of the answers that a plan looks at.
struct Watch<'a> {
    lookout: Lookout<'a>,
    until: &'a std::cell::Cell<Option<Instant>>,
}

impl Answers for Watch<'_> {
    fn known(&self, question: &Question) -> Known<'_> {
        if let Some(known) = self.lookout.hosts.known(question) {
            return known;
        }
        if let Some(until) = self.lookout.cache.until(question) {
            let earliest = self.until.get().map_or(until, |earlier| earlier.min(until));
            self.until.set(Some(earliest));
        }
        self.lookout.cache.known(question, self.lookout.at)
    }
}
