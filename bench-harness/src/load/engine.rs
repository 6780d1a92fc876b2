//! One thread of the load: its callers, its callees and every call between them.
//!
//! The caller's half of a transaction is found by what its branch holds (RFC 3261 §17.1.3), the callee's half of a call by
//! what its tag holds, so that neither needs a table. Only an INVITE that comes again is found by its Call-ID.

mod callee;
mod caller;
mod texts;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use super::lane::Lane;
use super::plan::{Plan, Scenario, Side};
use super::stats::{Count, Metric, Stats};
use super::sys::{self, Inbox};
use super::wheel::{Timer, Wheel};
use super::wire::{self, Span, Start, hex8};

use callee::Answer;
use caller::{Attempt, State};
use texts::Texts;

/// What a thread tells.
pub enum Report {
    /// Phones are registered; load is about to start, unless nobody is there to take it.
    Ready { registered: u64, refused: u64 },
    /// What the last second brought to a thread, by its number.
    Interval(usize, Box<Stats>),
    /// All is over; the rest of the numbers.
    Ended(Box<Stats>),
}

/// What a start is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    Call,
    Register,
    Message,
    Options,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    /// A request of a caller's attempt may have to be sent again.
    Again {
        attempt: u32,
        generation: u32,
        step: u8,
    },
    HangUp {
        attempt: u32,
        generation: u32,
    },
    /// A callee's 200 is to be sent, for the first time or again.
    Answer {
        answer: u32,
        generation: u32,
    },
}

/// Messages of one turn leave in this order, whatever their length.
mod class {
    pub const REQUEST: u8 = 0;
    pub const ACK: u8 = 1;
    pub const BYE: u8 = 2;
    pub const PROVISIONAL: u8 = 3;
    pub const FINAL: u8 = 4;
}

/// Starts in one turn at most, so that answers are not kept waiting by starts.
const STARTS_A_TURN: u32 = 64;
/// Transactions that wait for an answer while phones are registered.
const PRELOAD_WINDOW: u32 = 128;
const INTERVAL: u64 = 1_000_000_000;
/// From the last registration to the first start, in which a reading of the server's CPU time is taken.
pub const PAUSE: u64 = 100_000_000;

pub struct Engine {
    plan: Plan,
    scenario: Scenario,
    thread: usize,
    phones: u32,
    /// Differs from run to run, so that the server does not take this run's transactions for the last one's.
    run: [u8; 8],
    texts: Texts,
    callers: Lane,
    callees: Lane,
    attempts: Vec<Attempt>,
    free_attempts: Vec<u32>,
    active: u32,
    answers: Vec<Answer>,
    free_answers: Vec<u32>,
    by_call_id: HashMap<u64, u32>,
    wheel: Wheel<Due>,
    /// BYEs that follow their ACK at the next turn.
    hang_ups: VecDeque<(u32, u32)>,
    stats: Box<Stats>,
    random: u64,
    next_phone: u32,
    next_fresh: u32,
    register_cseq: u32,
    preloading: bool,
    /// The time in which calls are started is not over.
    in_time: bool,
    scratch: Vec<u8>,
    second_scratch: Vec<u8>,
    spans: Vec<Span>,
}

impl Engine {
    /// Opens the sockets.
    pub fn new(plan: &Plan, scenario: Scenario, thread: usize, run: u32) -> io::Result<Engine> {
        Ok(Engine {
            thread,
            scenario,
            phones: plan.phones_of_a_thread(),
            run: hex8(run),
            texts: Texts::new(plan),
            callers: Lane::open(plan, Side::Caller, thread)?,
            callees: Lane::open(plan, Side::Callee, thread)?,
            attempts: Vec::new(),
            free_attempts: Vec::new(),
            active: 0,
            answers: Vec::new(),
            free_answers: Vec::new(),
            by_call_id: HashMap::new(),
            wheel: Wheel::new(sys::now()),
            hang_ups: VecDeque::new(),
            stats: Box::new(Stats::new()),
            random: (u64::from(run) << 20) | (thread as u64 + 1),
            next_phone: 0,
            next_fresh: 0,
            register_cseq: 1_000_000_000,
            preloading: false,
            in_time: false,
            scratch: Vec::new(),
            second_scratch: Vec::new(),
            spans: Vec::new(),
            plan: plan.clone(),
        })
    }

    /// Registers the phones, then runs the load to its end.
    /// `is_given_up` is looked at when all are ready: nothing is sent then.
    pub fn run(
        mut self,
        reports: &Sender<Report>,
        spares: &Receiver<Box<Stats>>,
        start: &Barrier,
        is_given_up: &AtomicBool,
    ) {
        let mut inbox = Inbox::new();
        let needs_phones = self.scenario != Scenario::Options && !self.plan.no_register;
        if needs_phones {
            self.preload(&mut inbox);
        }
        // What was measured while registering is not of the load.
        let (done, failed) = (
            self.stats.get(Count::Preloaded),
            self.stats.get(Count::NotPreloaded),
        );
        self.stats.clear();
        self.stats.counts[Count::Preloaded as usize] = done;
        self.stats.counts[Count::NotPreloaded as usize] = failed;
        // The receiver lives as long as the threads; nothing is lost by a failed send.
        let _ = reports.send(Report::Ready {
            registered: done,
            refused: failed,
        });
        start.wait();
        if !is_given_up.load(Ordering::Relaxed) {
            self.load(&mut inbox, reports, spares);
        }
        let _ = reports.send(Report::Ended(self.stats));
    }

    fn preload(&mut self, inbox: &mut Inbox) {
        self.preloading = true;
        let mut next = 0;
        loop {
            let now = sys::now();
            // So many in vain are enough to know that nobody is there.
            let is_vain = self.stats.get(Count::Preloaded) == 0
                && self.stats.get(Count::NotPreloaded) >= u64::from(PRELOAD_WINDOW);
            if is_vain {
                self.stats.counts[Count::NotPreloaded as usize] += u64::from(self.phones - next);
                next = self.phones;
            }
            while next < self.phones && self.active < PRELOAD_WINDOW {
                self.start(Job::Register, Some(next), now, now);
                next += 1;
            }
            if !self.turn(inbox, now) {
                self.rest(now + 1_000_000, now);
            }
            if next == self.phones && self.active == 0 {
                break;
            }
        }
        self.preloading = false;
    }

    fn load(&mut self, inbox: &mut Inbox, reports: &Sender<Report>, spares: &Receiver<Box<Stats>>) {
        let gap = 1e9 * self.plan.threads as f64 / self.plan.rate;
        let begin = sys::now() + PAUSE;
        let end = begin + (self.plan.duration * 1e9) as u64;
        let most = self.plan.calls_of_thread(self.thread);
        let drain = self.plan.timeout_ns() * 2 + (self.plan.hold + self.plan.ring) * 1_000_000 + INTERVAL;
        let mut due = begin as f64 + gap * self.thread as f64 / self.plan.threads as f64;
        let mut started = 0;
        let mut tell = begin + INTERVAL;
        let mut turn_began = sys::now();
        loop {
            let now = turn_began;
            self.in_time = now < end;
            let mut batch = 0;
            while due as u64 <= now && (due as u64) < end && started < most && batch < STARTS_A_TURN {
                let job = self.job();
                self.start(job, None, due as u64, now);
                due += if self.plan.poisson {
                    gap * self.exponential()
                } else {
                    gap
                };
                (started, batch) = (started + 1, batch + 1);
            }
            let worked = self.turn(inbox, now) || batch > 0;
            let starting = (due as u64) < end && started < most;
            if !starting && (self.active == 0 || now > end + drain) {
                self.stats.counts[Count::Unfinished as usize] += u64::from(self.active);
                return;
            }
            if now >= tell {
                tell = now + INTERVAL;
                if let Ok(spare) = spares.try_recv() {
                    let full = std::mem::replace(&mut self.stats, spare);
                    let _ = reports.send(Report::Interval(self.thread, full));
                }
            }
            if !worked {
                let next = if starting { due as u64 } else { now + 1_000_000 };
                self.rest(next.min(tell), now);
            }
            let over = sys::now();
            if now >= begin {
                self.stats.elapsed += over - now;
                self.stats.busy += if worked { over - now } else { 0 };
            }
            turn_began = over;
        }
    }

    /// One turn: what is due, what came, and all that comes of it sent together. Whether there was anything to do.
    fn turn(&mut self, inbox: &mut Inbox, now: u64) -> bool {
        let mut worked = false;
        for _ in 0..self.hang_ups.len() {
            if let Some((attempt, generation)) = self.hang_ups.pop_front() {
                self.hang_up(attempt, generation, now, now);
                worked = true;
            }
        }
        let mut due: Vec<Timer<Due>> = Vec::new();
        self.wheel.advance(now, &mut due);
        for timer in &due {
            self.timer(timer, now);
            worked = true;
        }
        worked |= self.receive(Side::Callee, inbox);
        worked |= self.receive(Side::Caller, inbox);
        worked |= self.callers.is_queued() || self.callees.is_queued();
        let refused = self.callers.flush() + self.callees.flush();
        self.stats.counts[Count::SendRefused as usize] += refused;
        worked
    }

    /// Nothing to do: spins once, or sleeps until `next` or until something comes.
    fn rest(&mut self, next: u64, now: u64) {
        if !self.plan.sleep && !self.preloading {
            std::hint::spin_loop();
            return;
        }
        // Timers have a millisecond's grain.
        let longest = (next.saturating_sub(now)).min(1_000_000);
        sys::wait(&[self.callers.fd(), self.callees.fd()], longest);
    }

    fn timer(&mut self, timer: &Timer<Due>, now: u64) {
        match timer.what {
            Due::Again {
                attempt,
                generation,
                step,
            } => self.again(attempt, generation, step, now),
            Due::HangUp { attempt, generation } => self.hang_up(attempt, generation, timer.at, now),
            Due::Answer { answer, generation } => self.answer_again(answer, generation, now),
        }
    }

    fn lane(&mut self, side: Side) -> &mut Lane {
        match side {
            Side::Caller => &mut self.callers,
            Side::Callee => &mut self.callees,
        }
    }

    fn send(&mut self, side: Side, phone: u32, class: u8, message: &[u8]) {
        self.stats.count(Count::Sent);
        self.lane(side).send(phone, class, message);
    }

    /// Takes what came on one side. Whether anything did.
    fn receive(&mut self, side: Side, inbox: &mut Inbox) -> bool {
        if self.lane(side).tcp {
            return self.receive_streams(side);
        }
        let count = inbox.receive(self.lane(side).fd());
        let now = if count > 0 { sys::now() } else { 0 };
        for at in 0..count {
            match inbox.datagram(at) {
                Some(message) => self.message(side, None, message, now),
                None => self.stats.count(Count::ParseFailures),
            }
        }
        count > 0
    }

    fn receive_streams(&mut self, side: Side) -> bool {
        let mut ready = Vec::new();
        self.lane(side).epoll.ready(&mut ready);
        let now = sys::now();
        for key in &ready {
            let connection = *key as u32;
            let (bytes, ended) = self.lane(side).read(connection);
            if ended {
                self.stats.count(Count::ConnectionLost);
            }
            let mut used = 0;
            loop {
                // Line ends before a message are keep-alives (RFC 3261 §7.5, RFC 5626 §3.5.1).
                while bytes[used..].starts_with(b"\r\n") {
                    used += 2;
                }
                match wire::framed(&bytes[used..]) {
                    Ok(Some(length)) if bytes.len() - used >= length => {
                        self.message(side, Some(connection), &bytes[used..used + length], now);
                        used += length;
                    }
                    Ok(_) => break,
                    Err(_) => {
                        self.stats.count(Count::ParseFailures);
                        used = bytes.len();
                        break;
                    }
                }
            }
            self.lane(side).keep(connection, bytes, used);
        }
        !ready.is_empty()
    }

    fn message(&mut self, side: Side, connection: Option<u32>, message: &[u8], now: u64) {
        self.stats.count(Count::Received);
        if message.starts_with(b"\r\n\r\n") {
            // A keep-alive (RFC 5626 §3.5.1), or what stands for a 100 in the relay.
            return;
        }
        let Ok(scan) = wire::scan(message) else {
            self.stats.count(Count::ParseFailures);
            return;
        };
        match scan.start {
            Start::Response(code) => self.response(code, message, &scan, now),
            Start::Request { method, uri } => {
                let phone = self.phone_at(uri.of(message));
                // On a stream the answer leaves by the connection that the request came on.
                self.request(
                    side,
                    method,
                    phone,
                    connection.unwrap_or(phone),
                    message,
                    &scan,
                    now,
                );
            }
        }
    }

    /// Which of this thread's phones a URI means; phone 0 for a URI that is not of a phone.
    fn phone_at(&self, uri: &[u8]) -> u32 {
        let first = self.thread as u32 * self.phones;
        let phone = wire::phone_of(uri).and_then(|number| number.checked_sub(first));
        phone.filter(|phone| *phone < self.phones).unwrap_or(0)
    }

    /// A number that differs for every phone of the process.
    fn number(&self, phone: u32) -> u32 {
        self.thread as u32 * self.phones + phone
    }

    fn job(&mut self) -> Job {
        match self.scenario {
            Scenario::Call => Job::Call,
            Scenario::Register => Job::Register,
            Scenario::Message => Job::Message,
            Scenario::Options => Job::Options,
            Scenario::Mixed => match self.draw() % 100 {
                0..50 => Job::Register,
                50..80 => Job::Call,
                80..95 => Job::Message,
                _ => Job::Options,
            },
        }
    }

    /// Xorshift64*: good enough to spread load.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// Exponentially distributed, of mean 1.
    fn exponential(&mut self) -> f64 {
        let unit = (self.draw() + 1) as f64 / (1u64 << 53) as f64;
        -unit.ln()
    }

    fn record(&mut self, metric: Metric, nanoseconds: u64) {
        if !self.preloading {
            self.stats.record(metric, nanoseconds);
        }
    }

    /// Whether the attempt is still the one that `generation` means.
    fn attempt_is(&self, attempt: u32, generation: u32) -> bool {
        self.attempts
            .get(attempt as usize)
            .is_some_and(|it| it.generation == generation && it.state != State::Free)
    }
}
