//! The caller's half: starts, answers, what is sent again and what is lost.

use super::super::plan::Side;
use super::super::stats::{Count, Metric};
use super::super::wire::{self, Field, Name, Scan, Values, digits10, from_hex8, hex8, user};
use super::{Due, Engine, Job, class};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Free,
    /// INVITE sent.
    Inviting,
    /// ACK sent, the call holds.
    Held,
    /// BYE sent.
    Leaving,
    /// A request that makes no call.
    Asking,
}

/// One call or other transaction that was started.
pub struct Attempt {
    pub generation: u32,
    pub state: State,
    job: Job,
    /// Counts its transactions, so that a timer of an earlier one is ignored.
    step: u8,
    provisional: bool,
    trying: bool,
    ringing: bool,
    caller: u32,
    callee: u32,
    /// What its latencies count from.
    intended: u64,
    deadline: u64,
    /// To the next retransmission.
    interval: u64,
    request: Vec<u8>,
    ack: Vec<u8>,
    to: Vec<u8>,
    target: Vec<u8>,
    routes: Vec<u8>,
}

/// Tells the requests of one attempt apart in their branches.
mod mark {
    pub const INVITE: u8 = b'i';
    pub const ACK: u8 = b'a';
    pub const BYE: u8 = b'b';
    pub const OTHER: u8 = b'o';
}

/// Subscribers not seen before that have numbers; then they begin anew.
const FRESH_MAX: u64 = 9_000_000;

/// What is unique of an attempt: run, attempt, generation, then a mark.
const IDENTITY: usize = 25;

impl Engine {
    fn identity(&self, attempt: u32, generation: u32, mark: u8) -> [u8; IDENTITY] {
        let mut text = [mark; IDENTITY];
        text[..8].copy_from_slice(&self.run);
        text[8..16].copy_from_slice(&hex8(attempt));
        text[16..24].copy_from_slice(&hex8(generation));
        text
    }

    fn take_attempt(&mut self) -> u32 {
        self.active += 1;
        if let Some(free) = self.free_attempts.pop() {
            return free;
        }
        self.attempts.push(Attempt {
            generation: 1,
            state: State::Free,
            job: Job::Call,
            step: 0,
            provisional: false,
            trying: false,
            ringing: false,
            caller: 0,
            callee: 0,
            intended: 0,
            deadline: 0,
            interval: 0,
            request: Vec::new(),
            ack: Vec::new(),
            to: Vec::new(),
            target: Vec::new(),
            routes: Vec::new(),
        });
        self.attempts.len() as u32 - 1
    }

    fn release(&mut self, attempt: u32, how: Count) {
        let it = &mut self.attempts[attempt as usize];
        it.state = State::Free;
        it.generation = it.generation.wrapping_add(1);
        self.free_attempts.push(attempt);
        self.active -= 1;
        if self.in_time && how == Count::Completed {
            self.stats.count(Count::InTime);
        }
        match (self.preloading, how == Count::Completed) {
            (false, _) => self.stats.count(how),
            (true, true) => self.stats.count(Count::Preloaded),
            (true, false) => self.stats.count(Count::NotPreloaded),
        }
    }

    /// Starts what was intended for `intended`: `phone` names the phone to register, else the next in turn is taken.
    pub(super) fn start(&mut self, job: Job, phone: Option<u32>, intended: u64, now: u64) {
        if !self.preloading {
            self.stats.count(Count::Started);
            self.record(Metric::Late, now.saturating_sub(intended));
        }
        let attempt = self.take_attempt();
        let phone = phone.unwrap_or_else(|| {
            let phone = self.next_phone;
            self.next_phone = (phone + 1) % self.phones;
            phone
        });
        let generation = self.attempts[attempt as usize].generation;
        let call = job == Job::Call;
        let fresh =
            job == Job::Register && !self.preloading && self.draw() % 100 < u64::from(self.plan.fresh);
        let identity = self.identity(attempt, generation, if call { mark::INVITE } else { mark::OTHER });
        let number = self.number(phone);
        let caller = user(b'1', number);
        let mut callee = user(self.plan.callee_prefix(), number);
        let mut values = Values::default()
            .with(Field::Branch, &identity)
            .with(Field::CallId, &identity[..24])
            .with(Field::FromTag, &identity[8..24])
            .with(Field::Caller, &caller)
            .with(Field::Local, self.callers.text(phone));
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        let side = if job == Job::Register {
            Side::Callee
        } else {
            Side::Caller
        };
        match job {
            Job::Call => {
                self.stats.count(Count::Calls);
                self.texts
                    .invite
                    .write(&values.with(Field::Callee, &callee), &mut out);
            }
            Job::Message => self
                .texts
                .message
                .write(&values.with(Field::Callee, &callee), &mut out),
            Job::Options => self.texts.options.write(&values, &mut out),
            Job::Register => {
                // RFC 3261 §10.2.4: a phone's registrations share a Call-ID and count up its CSeq.
                let mut call_id = [b'r'; 16];
                call_id[..8].copy_from_slice(&self.run);
                self.register_cseq += 1;
                let cseq = digits10(self.register_cseq);
                if fresh {
                    // Threads take turns, so that none comes to the numbers of another.
                    let number = u64::from(self.next_fresh) * self.plan.threads as u64 + self.thread as u64;
                    callee = user(b'3', (number % FRESH_MAX) as u32);
                    self.next_fresh = self.next_fresh.wrapping_add(1);
                }
                call_id[8..].copy_from_slice(&callee);
                values = values
                    .with(Field::Callee, &callee)
                    .with(Field::CallId, &call_id)
                    .with(Field::Local, self.callees.text(phone))
                    .with(Field::Cseq, &cseq)
                    .with(Field::Expires, b"3600");
                self.texts.register.write(&values, &mut out);
            }
        }
        let deadline = now + self.plan.timeout_ns();
        let it = &mut self.attempts[attempt as usize];
        (it.state, it.job, it.step) = (if call { State::Inviting } else { State::Asking }, job, 0);
        (it.caller, it.callee, it.intended, it.deadline) = (phone, phone, intended, deadline);
        (it.provisional, it.trying, it.ringing) = (false, false, false);
        it.request.clear();
        it.request.extend_from_slice(&out);
        self.send(side, phone, class::REQUEST, &out);
        self.scratch = out;
        self.await_answer(attempt, now);
    }

    /// Sets the timer of the request that was just sent (RFC 3261 §17.1.1.2, §17.1.2.2).
    fn await_answer(&mut self, attempt: u32, now: u64) {
        let interval = self.plan.t1 * 1_000_000;
        let it = &mut self.attempts[attempt as usize];
        it.interval = interval;
        let what = Due::Again {
            attempt,
            generation: it.generation,
            step: it.step,
        };
        self.wheel.set((now + interval).min(it.deadline), what);
    }

    pub(super) fn again(&mut self, attempt: u32, generation: u32, step: u8, now: u64) {
        if !self.attempt_is(attempt, generation) || self.attempts[attempt as usize].step != step {
            return;
        }
        let it = &self.attempts[attempt as usize];
        let side = if it.job == Job::Register {
            Side::Callee
        } else {
            Side::Caller
        };
        let lost = match it.state {
            State::Free | State::Held => return,
            State::Inviting => Count::TimedOutInvite,
            State::Leaving => Count::TimedOutBye,
            State::Asking => Count::TimedOutOther,
        };
        if now >= it.deadline {
            self.release(attempt, lost);
            return;
        }
        let inviting = it.state == State::Inviting;
        let reliable = self.plan.is_tcp(side);
        let next = if reliable || (inviting && it.provisional) {
            it.deadline
        } else {
            let request = std::mem::take(&mut self.attempts[attempt as usize].request);
            let phone = self.attempts[attempt as usize].caller;
            self.send(side, phone, class::REQUEST, &request);
            self.stats.count(Count::SentAgain);
            let longest = if inviting {
                u64::MAX
            } else {
                8 * self.plan.t1 * 1_000_000
            };
            let it = &mut self.attempts[attempt as usize];
            it.request = request;
            it.interval = (it.interval * 2).min(longest);
            (now + it.interval).min(it.deadline)
        };
        self.wheel.set(
            next,
            Due::Again {
                attempt,
                generation,
                step,
            },
        );
    }

    pub(super) fn response(&mut self, code: u16, message: &[u8], scan: &Scan, now: u64) {
        let identity = scan.value(message, Name::Via).and_then(wire::branch_of);
        let identity = identity.and_then(|branch| branch.strip_prefix(b"z9hG4bK"));
        let Some(identity) = identity.filter(|it| it.len() == IDENTITY && it[..8] == self.run) else {
            self.stats.count(Count::Strays);
            return;
        };
        let (attempt, generation) = (from_hex8(&identity[8..16]), from_hex8(&identity[16..24]));
        let (Some(attempt), Some(generation)) = (attempt, generation) else {
            self.stats.count(Count::ParseFailures);
            return;
        };
        if !self.attempt_is(attempt, generation) {
            self.stats.count(Count::Strays);
            return;
        }
        match (self.attempts[attempt as usize].state, identity[24]) {
            (State::Inviting, mark::INVITE) => self.invite_answered(attempt, code, message, scan, now),
            (State::Held | State::Leaving, mark::INVITE) if (200..300).contains(&code) => {
                // RFC 3261 §13.2.2.4: every 2xx is acknowledged, the repeated ones too.
                self.stats.count(Count::CameAgain);
                let ack = std::mem::take(&mut self.attempts[attempt as usize].ack);
                let phone = self.attempts[attempt as usize].caller;
                self.send(Side::Caller, phone, class::ACK, &ack);
                self.attempts[attempt as usize].ack = ack;
            }
            (State::Leaving, mark::BYE) => self.ended(attempt, code, Metric::Bye, now),
            (State::Asking, mark::OTHER) => {
                let metric = match self.attempts[attempt as usize].job {
                    Job::Register => Metric::Register,
                    Job::Message => Metric::Message,
                    Job::Options | Job::Call => Metric::Options,
                };
                self.ended(attempt, code, metric, now);
            }
            (State::Free | State::Inviting | State::Held | State::Leaving | State::Asking, _) => {
                self.stats.count(Count::Strays);
            }
        }
    }

    /// A response to what is no INVITE.
    fn ended(&mut self, attempt: u32, code: u16, metric: Metric, now: u64) {
        match code {
            0..200 => {}
            200..300 => {
                self.record(
                    metric,
                    now.saturating_sub(self.attempts[attempt as usize].intended),
                );
                self.release(attempt, Count::Completed);
            }
            300.. => self.refused(attempt, code),
        }
    }

    fn refused(&mut self, attempt: u32, code: u16) {
        if let Some(count) = self.stats.statuses.get_mut(usize::from(code)) {
            *count += 1;
        }
        self.release(attempt, Count::BadStatus);
    }

    fn invite_answered(&mut self, attempt: u32, code: u16, message: &[u8], scan: &Scan, now: u64) {
        let it = &mut self.attempts[attempt as usize];
        let taken = now.saturating_sub(it.intended);
        if code < 200 {
            it.provisional = true;
            if code == 100 {
                // The answer to an INVITE that was sent again says nothing of the first one's time.
                if !std::mem::replace(&mut it.trying, true) {
                    self.record(Metric::To100, taken);
                }
            } else if !std::mem::replace(&mut it.ringing, true) {
                self.record(Metric::To180, taken);
            }
            return;
        }
        let Some(to) = scan.value(message, Name::To) else {
            return;
        };
        it.to.clear();
        it.to.extend_from_slice(to);
        it.target.clear();
        it.routes.clear();
        if code >= 300 {
            // RFC 3261 §17.1.1.3: the ACK of a refusal is of the INVITE's transaction and goes where that went.
            it.target.extend_from_slice(b"sip:");
            let callee = it.callee;
            let number = self.number(callee);
            let it = &mut self.attempts[attempt as usize];
            it.target
                .extend_from_slice(&user(self.plan.callee_prefix(), number));
            it.target.push(b'@');
            it.target.extend_from_slice(self.texts.domain.as_bytes());
            self.acknowledge(attempt, mark::INVITE);
            self.refused(attempt, code);
            return;
        }
        let Some(contact) = scan.value(message, Name::Contact) else {
            self.stats.count(Count::ParseFailures);
            return;
        };
        it.target.extend_from_slice(wire::uri_of(contact));
        wire::write_routes(message, scan, &mut self.spans, &mut it.routes);
        it.state = State::Held;
        let generation = it.generation;
        self.record(Metric::To200, taken);
        self.acknowledge(attempt, mark::ACK);
        if self.plan.hold == 0 {
            self.hang_ups.push_back((attempt, generation));
        } else {
            self.wheel.set(
                now + self.plan.hold * 1_000_000,
                Due::HangUp { attempt, generation },
            );
        }
    }

    /// Writes a request of the attempt's dialog to `self.scratch`.
    fn write_later(&mut self, attempt: u32, mark: u8) {
        let it = &self.attempts[attempt as usize];
        let identity = self.identity(attempt, it.generation, mark);
        let call_id = self.identity(attempt, it.generation, mark::INVITE);
        let caller = user(b'1', self.number(it.caller));
        let values = Values::default()
            .with(Field::Target, &it.target)
            .with(Field::Routes, &it.routes)
            .with(Field::Branch, &identity)
            .with(Field::CallId, &call_id[..24])
            .with(Field::FromTag, &call_id[8..24])
            .with(Field::Caller, &caller)
            .with(Field::To, &it.to)
            .with(Field::Local, self.callers.text(it.caller));
        let template = if mark == mark::BYE {
            &self.texts.bye
        } else {
            &self.texts.ack
        };
        self.scratch.clear();
        template.write(&values, &mut self.scratch);
    }

    fn acknowledge(&mut self, attempt: u32, mark: u8) {
        self.write_later(attempt, mark);
        let out = std::mem::take(&mut self.scratch);
        let it = &mut self.attempts[attempt as usize];
        it.ack.clear();
        it.ack.extend_from_slice(&out);
        let phone = it.caller;
        self.send(Side::Caller, phone, class::ACK, &out);
        self.scratch = out;
    }

    /// Ends the call with a BYE that was due at `due`.
    pub(super) fn hang_up(&mut self, attempt: u32, generation: u32, due: u64, now: u64) {
        if !self.attempt_is(attempt, generation) || self.attempts[attempt as usize].state != State::Held {
            return;
        }
        self.write_later(attempt, mark::BYE);
        let out = std::mem::take(&mut self.scratch);
        let deadline = now + self.plan.timeout_ns();
        let it = &mut self.attempts[attempt as usize];
        it.state = State::Leaving;
        it.step += 1;
        (it.intended, it.deadline) = (due, deadline);
        it.request.clear();
        it.request.extend_from_slice(&out);
        let phone = it.caller;
        self.send(Side::Caller, phone, class::BYE, &out);
        self.scratch = out;
        self.await_answer(attempt, now);
    }
}
