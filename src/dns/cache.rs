//! Answers by question, each for its time, at most so many; and which questions are out.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use ahash::RandomState;

use crate::config::Dns;
use crate::time::Instant;
use crate::timer::{Timer, TimerId, Wheel};

use super::plan::Known;
use crate::domain::{Answer, Question};

/// What stands for one question.
enum State<W> {
    /// Asked and not answered. `waiting`: the first of those who wait for it.
    Asked {
        waiting: Option<W>,
        timer: TimerId,
    },
    Answered {
        answer: Answer,
        until: Instant,
    },
}

struct Entry<W> {
    question: Question,
    state: State<W>,
    /// Looked at since the hand passed last.
    is_used: Cell<bool>,
}

/// `W` heads the list of those who wait for an answer.
pub struct Cache<W> {
    by_question: HashMap<Question, usize, RandomState>,
    entries: Vec<Entry<W>>,
    /// The hand of the clock that finds an entry to give up.
    hand: usize,
    entries_max: usize,
    ttl_min: Duration,
    ttl_max: Duration,
    negative_ttl_max: Duration,
    failure_ttl: Duration,
}

/// Entries that the hand passes at most to find one that may go.
const HAND_STEPS_MAX: usize = 64;

impl<W: Copy> Cache<W> {
    pub fn new(cfg: &Dns, entries_max: usize, hasher: RandomState) -> Cache<W> {
        Cache {
            by_question: HashMap::with_hasher(hasher),
            entries: Vec::new(),
            hand: 0,
            entries_max: entries_max.max(1),
            ttl_min: cfg.ttl_min,
            ttl_max: cfg.ttl_max,
            negative_ttl_max: cfg.negative_ttl_max,
            failure_ttl: cfg.failure_ttl,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is known and holds after `at`.
    pub fn known(&self, question: &Question, at: Instant) -> Known<'_> {
        let Some(entry) = self
            .by_question
            .get(question)
            .and_then(|at| self.entries.get(*at))
        else {
            return Known::Unknown;
        };
        entry.is_used.set(true);
        match &entry.state {
            State::Answered { answer, until } if *until > at => match answer {
                Answer::Records { records, .. } => Known::Records(records),
                Answer::Nothing { .. } => Known::Nothing,
                Answer::Failed => Known::Failed,
            },
            State::Answered { .. } | State::Asked { .. } => Known::Unknown,
        }
    }

    /// Until when an answer holds; `None` without one.
    pub fn until(&self, question: &Question) -> Option<Instant> {
        let entry = self.entries.get(*self.by_question.get(question)?)?;
        match entry.state {
            State::Answered { until, .. } => Some(until),
            State::Asked { .. } => None,
        }
    }

    /// Notes that `question` is out, with the timer that bounds the wait for it. Returns where it is kept.
    /// `None`: there is no room.
    pub fn ask(&mut self, question: &Question, timer: impl FnOnce(u32) -> TimerId) -> Option<()> {
        let at = match self.by_question.get(question) {
            Some(at) => *at,
            None if self.entries.len() < self.entries_max => self.entries.len(),
            None => self.find_victim()?,
        };
        let state = State::Asked {
            waiting: None,
            timer: timer(at as u32),
        };
        let entry = Entry {
            question: *question,
            state,
            is_used: Cell::new(true),
        };
        match self.entries.get_mut(at) {
            Some(place) => {
                self.by_question.remove(&place.question);
                *place = entry;
            }
            None => self.entries.push(entry),
        }
        self.by_question.insert(*question, at);
        Some(())
    }

    /// The question that is kept at `at`, if it is still out.
    pub fn asked_at(&self, at: u32) -> Option<Question> {
        let entry = self.entries.get(at as usize)?;
        match entry.state {
            State::Asked { .. } => Some(entry.question),
            State::Answered { .. } => None,
        }
    }

    /// An answer that nobody looked at since the hand came by last; where all were looked at, the first that the hand passes.
    fn find_victim(&mut self) -> Option<usize> {
        let mut used = None;
        for _ in 0..HAND_STEPS_MAX {
            let at = self.hand % self.entries.len();
            self.hand = at + 1;
            let entry = &self.entries[at];
            match entry.state {
                State::Asked { .. } => {}
                State::Answered { .. } if entry.is_used.replace(false) => used = used.or(Some(at)),
                State::Answered { .. } => return Some(at),
            }
        }
        used
    }

    /// The head of the list of those who wait for `question`, to be changed; `None` when it is not out.
    pub fn waiting_mut(&mut self, question: &Question) -> Option<&mut Option<W>> {
        match &mut self.entry_mut(question)?.state {
            State::Asked { waiting, .. } => Some(waiting),
            State::Answered { .. } => None,
        }
    }

    /// Takes an answer in; gives back who waits for it and the timer of the question. An answer that nobody asked for, or a
    /// second one, is not taken.
    pub fn answered(
        &mut self,
        question: &Question,
        answer: Answer,
        now: Instant,
    ) -> Option<(Option<W>, TimerId)> {
        let ttl = match &answer {
            Answer::Records { ttl_s, .. } => {
                Duration::from_secs(u64::from(*ttl_s)).clamp(self.ttl_min, self.ttl_max)
            }
            // RFC 2308 §5: the SOA's time, and not for long in any case.
            Answer::Nothing { ttl_s } => ttl_s
                .map_or(self.negative_ttl_max, |ttl_s| {
                    Duration::from_secs(u64::from(ttl_s))
                })
                .clamp(self.ttl_min.min(self.negative_ttl_max), self.negative_ttl_max),
            // RFC 2308 §7: at most five minutes; the range of the key sees to it.
            Answer::Failed => self.failure_ttl,
        };
        let until = now + ttl;
        let entry = self.entry_mut(question)?;
        let State::Asked { waiting, timer } = entry.state else {
            return None;
        };
        entry.state = State::Answered { answer, until };
        Some((waiting, timer))
    }

    /// Nobody waits any more.
    pub fn forget_asked(&mut self, wheel: &mut Wheel<Timer>) {
        for entry in &self.entries {
            if let State::Asked { timer, .. } = entry.state {
                wheel.cancel(timer);
            }
        }
        self.entries.clear();
        self.by_question.clear();
    }

    fn entry_mut(&mut self, question: &Question) -> Option<&mut Entry<W>> {
        let entry = self.entries.get_mut(*self.by_question.get(question)?)?;
        entry.is_used.set(true);
        Some(entry)
    }
}
