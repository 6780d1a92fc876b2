//! One shard: the whole SIP core of one thread. Events go in, effects come out; no socket, no clock, no thread.
//!
//! A message belongs to the shard that its token names, else to that of its subscriber (REGISTER, `reg`), else to that of its
//! Call-ID. One that arrives elsewhere goes there by mail.

mod asks;
mod dispatch;
mod door;
pub mod feedback;
mod flows;
mod listing;
mod look_up;
pub mod mailbox;
mod names;
pub mod overload;
mod receive;
mod streams;
mod tap;
mod undelivered;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;

use crate::b2bua::B2bua;
use crate::capture::TraceSet;
use crate::config::Config;
use crate::ims::Ims;
use crate::ims::reg_event::RegEvent;
use crate::location::{AorHasher, ContactSet, Location, LookUp};
use crate::metrics::{DropReason, MessageKind, Metrics, Recorded, Timed};
use crate::msg::edit::Edits;
use crate::msg::scan::Table;
use crate::owner::OwnerKey;
use crate::pool::{BufId, CLASS_BYTES, Pool};
use crate::port::Asks;
use crate::proxy::{BranchId, ContextId, HeldId, Proxy};
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::timer::TimerKind;
use crate::token::TokenKey;
use crate::transaction::key::Keyer;
use crate::transaction::{Stack, TxId, User, UserEvent};
use crate::trunk::board::Boards;
use crate::trunk::ping;
use crate::wire::{ConnId, Effect, Effects, Event, Flow, ShardId, TxOp};

use door::Memory;
use feedback::Feedback;
use mailbox::{Letter, Receiver, Sender, mailbox};
use overload::Overload;
use streams::{Stream, StreamId};

/// The keys that all shards of one process share, drawn once from the system's random source.
#[derive(Clone)]
pub struct Keys {
    pub token: TokenKey,
    /// Which shard owns a Call-ID.
    pub owner: OwnerKey,
    /// Which shard owns a subscriber.
    pub aors: AorHasher,
    /// For each shard's own tables.
    pub tables: [u64; 8],
}

/// The mail of one shard: for each other one a mailbox to it and one from it; none for itself. And what the control thread
/// asks, where there is one.
#[derive(Default)]
pub struct Mail {
    pub to: Vec<Option<Sender>>,
    pub from: Vec<Option<Receiver>>,
    pub asks: Option<Asks>,
}

impl Mail {
    /// The mail of each of so many shards: a mailbox for `bytes_max` bytes to every other one.
    pub fn of_all(shards: usize, bytes_max: usize) -> Vec<Mail> {
        let mut all: Vec<Mail> = (0..shards).map(|_| Mail::default()).collect();
        for from in 0..shards {
            for to in 0..shards {
                let (sender, receiver) = mailbox(bytes_max);
                let is_other = from != to;
                all[from].to.push(is_other.then_some(sender));
                all[to].from.push(is_other.then_some(receiver));
            }
        }
        all
    }
}

/// For a shard's own maps, which no peer may aim at.
fn hasher(keys: &Keys) -> RandomState {
    let [a, b, c, d, ..] = keys.tables;
    RandomState::with_seeds(a, b, c, d)
}

/// What is left of a shard that has ended; all zero when nothing leaked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leftovers {
    pub transactions: usize,
    pub calls: usize,
    pub call_parts: usize,
    /// Response contexts of the proxy, and their branches.
    pub contexts: usize,
    pub branches: usize,
    /// Messages that the proxy holds for a look-up, without a context.
    pub held: usize,
    /// Calls that are counted for a trunk.
    pub trunk_calls: usize,
    /// Look-ups that wait for DNS.
    pub look_ups: usize,
    pub subscribers: usize,
    pub subscriptions: usize,
    pub streams: usize,
    pub timers: usize,
    pub buffers: usize,
}

impl Leftovers {
    pub fn is_none(&self) -> bool {
        *self == Leftovers::default()
    }

    pub fn add(&mut self, other: &Leftovers) {
        self.transactions += other.transactions;
        self.calls += other.calls;
        self.call_parts += other.call_parts;
        self.contexts += other.contexts;
        self.branches += other.branches;
        self.held += other.held;
        self.trunk_calls += other.trunk_calls;
        self.look_ups += other.look_ups;
        self.subscribers += other.subscribers;
        self.subscriptions += other.subscriptions;
        self.streams += other.streams;
        self.timers += other.timers;
        self.buffers += other.buffers;
    }
}

pub struct Shard {
    stack: Stack,
    ims: Ims,
    proxy: Proxy,
    /// For a request that a rule changes before the phone service has it.
    rewriting: Option<Rewriting>,
    keys: Keys,
    mail: Mail,
    /// `None` while a message is being handled.
    table: Option<Box<Table>>,
    contacts: Option<Box<ContactSet>>,
    /// Bytes of a letter, or of a stream's message that came in pieces.
    letter: Box<[u8]>,
    streams: Slots<Stream>,
    by_conn: HashMap<ConnId, StreamId, RandomState>,
    woken: u64,
    overload: Overload,
    feedback: Feedback,
    memory: Memory,
    /// Connections that have ended, with the shards that are still to be told.
    ended_flows: Vec<(ConnId, u64)>,
    /// Kinds and receive times of the messages of this turn, for the time in the server.
    handled: Vec<(MessageKind, Instant)>,
    is_stopping: bool,
    /// The configuration is new to those outside of the core.
    is_reconfigured: bool,
    /// What is shared of the trunks, by configuration.
    boards: Arc<Boards>,
}

/// Where a request is written anew and read again.
type Rewriting = (Box<Table>, Box<Edits>, Box<[u8]>);

/// Letters taken from one mailbox in a turn, so that a busy neighbour does not starve the sockets.
const LETTERS_PER_TURN: usize = 256;
/// Timers that run in one turn, for the same reason.
const TIMERS_PER_TURN: usize = 4_096;

impl Shard {
    pub fn new(
        cfg: Arc<Config>,
        metrics: Arc<Metrics>,
        id: ShardId,
        keys: Keys,
        mail: Mail,
        now: Instant,
    ) -> Shard {
        let shards = cfg.shards;
        let limits = &cfg.limits;
        let keyer = Keyer::new(keys.tables);
        let overload = Overload::new(&cfg.overload, cfg.timers.t1);
        let feedback = Feedback::new(cfg.overload.feedback, now);
        let mut calls = B2bua::new(limits.calls_max.div_ceil(shards));
        let mut proxy = Proxy::new(limits.transactions_max.div_ceil(shards));
        if cfg.records.directory.is_some() {
            calls.keep_records();
            proxy.keep_records(&cfg, hasher(&keys));
        }
        let mut shard = Shard {
            ims: Ims {
                aors: keys.aors.clone(),
                location: Location::new(&cfg),
                reg_event: RegEvent::new(&cfg),
                calls,
            },
            proxy,
            rewriting: Some((
                Box::new(Table::new()),
                Box::new(Edits::new()),
                vec![0; CLASS_BYTES[CLASS_BYTES.len() - 1]].into_boxed_slice(),
            )),
            streams: Slots::new(limits.connections_max),
            stack: Stack::new(cfg, metrics, id, keys.token, keyer, now),
            by_conn: HashMap::with_hasher(hasher(&keys)),
            keys,
            mail,
            table: Some(Box::new(Table::new())),
            contacts: Some(Box::new(ContactSet::new())),
            letter: vec![0; CLASS_BYTES[CLASS_BYTES.len() - 1]].into_boxed_slice(),
            woken: 0,
            overload,
            feedback,
            memory: Memory::new(),
            handled: Vec::with_capacity(1_024),
            ended_flows: Vec::new(),
            is_stopping: false,
            is_reconfigured: false,
            boards: Arc::default(),
        };
        shard.stack.load = shard.feedback.load();
        shard
    }

    /// Has the system provide the memory that the first messages would wait for: some 40 MiB with the default limits. Before the first of
    /// them.
    pub fn make_ready(&mut self) {
        self.stack.make_ready();
        self.ims.location.make_ready();
        self.ims.calls.make_ready();
        self.ims.reg_event.make_ready();
    }

    pub fn id(&self) -> ShardId {
        self.stack.shard
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.stack.metrics
    }

    /// One thing that happened outside.
    pub fn handle(&mut self, event: Event<'_>, now: Instant, out: &mut Effects) {
        match event {
            Event::Datagram {
                flow,
                bytes,
                received_at,
            } => {
                out.received_at = received_at;
                self.overload.datagram(now, now.since(received_at));
                // Whatever it is: floods of what is no SIP have an origin too.
                self.stack.recorded.peers.received(flow.peer.ip());
                self.on_message(bytes, flow, receive::Framed::Datagram, now, out);
            }
            Event::Opened { flow } => self.on_opened(flow, now),
            Event::Stream { flow, bytes } => {
                out.received_at = now;
                self.on_stream(flow, bytes, now, out);
            }
            Event::Closed { conn, reason: _ } => self.on_closed(conn, out),
            Event::SendFailed { op, reason, was_sent } => {
                let TxOp::Request {
                    shard,
                    slot,
                    generation,
                } = op
                else {
                    return;
                };
                if shard == self.stack.shard {
                    let id = TxId::new(slot, generation);
                    if let Some(event) = self.stack.on_send_failed(id, was_sent, now, out) {
                        self.on_user_event(event, now, out);
                    }
                } else {
                    let letter = Letter::SendFailed { op, reason, was_sent };
                    self.post(shard, letter, b"");
                }
            }
            Event::AnswerNotSent {
                flow,
                bytes,
                tried,
                reason,
            } => {
                out.received_at = now;
                self.stack.answer_not_sent(flow, bytes, tried, reason, now, out);
            }
            Event::Undelivered { flow, bytes } => self.on_undelivered(flow, bytes, now, out),
        }
    }

    /// The turn of `now` took as many datagrams as a turn takes, and there may be more.
    pub fn note_datagrams_left(&mut self, now: Instant) {
        self.overload.datagrams_left(now);
    }

    /// The bytes on connections that the turn of `now` took up had waited for `wait`.
    pub fn note_streams_wait(&mut self, now: Instant, wait: Duration) {
        self.overload.streams(now, wait);
    }

    fn tick_feedback(&mut self, now: Instant) {
        if self.feedback.tick(self.overload.rate(), now) {
            self.stack.load = self.feedback.load();
        }
    }

    /// Timers that are due. `true`: more may be.
    pub fn run_timers(&mut self, now: Instant, out: &mut Effects) -> bool {
        self.overload.tick(now);
        self.tick_feedback(now);
        for _ in 0..TIMERS_PER_TURN {
            let Some(timer) = self.stack.wheel.pop(now) else {
                return false;
            };
            out.received_at = now;
            match timer.kind {
                TimerKind::Transaction => {
                    let event = self.stack.on_timer(timer.slot, timer.generation, now, out);
                    if let Some(event) = event {
                        self.on_user_event(event, now, out);
                    }
                }
                TimerKind::Context => {
                    let id = ContextId::new(timer.slot, timer.generation);
                    self.proxy.on_timer(&mut self.stack, id, now, out);
                }
                TimerKind::Held => {
                    let id = HeldId::new(timer.slot, timer.generation);
                    self.proxy.on_held_timer(&mut self.stack, id, out);
                }
                TimerKind::Stream => self.on_stream_timer(Id::new(timer.slot, timer.generation), now, out),
                TimerKind::Question => {
                    self.stack.dns.on_timer(timer, now);
                    self.finish_look_ups(now, out);
                }
                TimerKind::Address => {
                    let stack = &mut self.stack;
                    stack
                        .trunks
                        .on_address_timer(timer, &mut stack.dns, &mut stack.wheel, now);
                }
                TimerKind::Ping => ping::on_timer(&mut self.stack, timer, now, out),
                TimerKind::TrunkCall => self.stack.trunks.on_call_timer(timer),
                TimerKind::ProxiedCall => self.proxy.on_record_timer(&mut self.stack, timer, now, out),
                TimerKind::Call | TimerKind::Binding | TimerKind::Subscription | TimerKind::Aor => {
                    self.ims.on_timer(&mut self.stack, timer, now, out)
                }
            }
        }
        true
    }

    /// What a transaction says of itself, to whom it concerns.
    fn on_user_event(&mut self, event: UserEvent, now: Instant, out: &mut Effects) {
        match event.user {
            User::ProxyBranch { slot, generation } => {
                let id = BranchId::new(slot, generation);
                self.proxy
                    .on_branch_event(&mut self.stack, id, event.notice, now, out);
            }
            User::ProxyContext { slot, generation } => {
                let id = ContextId::new(slot, generation);
                self.proxy
                    .on_context_event(&mut self.stack, id, event.notice, now, out);
            }
            User::None
            | User::Branch { .. }
            | User::Exchange { .. }
            | User::Ping { .. }
            | User::Subscription { .. } => {
                self.ims.on_user_event(&mut self.stack, event, now, out);
            }
        }
    }

    /// Letters from other shards. `true`: more may be waiting.
    pub fn read_mail(&mut self, now: Instant, out: &mut Effects) -> bool {
        let mut more = false;
        for from in 0..self.mail.from.len() {
            for taken in 0.. {
                if taken == LETTERS_PER_TURN {
                    more = true;
                    break;
                }
                let mut letter_bytes = std::mem::take(&mut self.letter);
                let letter = self.mail.from[from]
                    .as_mut()
                    .and_then(|mail| mail.pop(&mut letter_bytes));
                if let Some((letter, len)) = letter {
                    self.stack.metrics.mailbox_received.inc();
                    self.on_letter(letter, &letter_bytes[..len], now, out);
                }
                self.letter = letter_bytes;
                if letter.is_none() {
                    break;
                }
            }
        }
        more
    }

    fn on_letter(&mut self, letter: Letter, bytes: &[u8], now: Instant, out: &mut Effects) {
        out.received_at = now;
        match letter {
            Letter::Message {
                flow,
                received_at,
                posted_at,
            } => {
                out.received_at = received_at;
                self.stack
                    .recorded
                    .histograms
                    .record(Timed::Mailbox, now.since(posted_at));
                self.on_message(bytes, flow, receive::Framed::Mail, now, out);
            }
            Letter::Send {
                flow,
                op,
                traces,
                call_len,
            } => {
                let (bytes, call) = bytes.split_at(bytes.len() - call_len as usize);
                match out.pool.put(bytes) {
                    Some(buf) => {
                        self.tap_mailed(flow, traces, call, bytes, now, out);
                        out.send(flow, buf, op);
                    }
                    None => self.stack.metrics.dropped(DropReason::NoBuffer),
                }
            }
            Letter::SendFailed { op, reason, was_sent } => {
                let event = Event::SendFailed { op, reason, was_sent };
                self.handle(event, now, out);
            }
            Letter::Undelivered { token, method, to } => {
                self.on_request_undelivered(token, method, to, now, out);
            }
            Letter::Close { conn, reason } => out.push(Effect::Close { conn, reason }),
            Letter::Watch { conn, from } => self.watch_flow(conn, from),
            Letter::FlowEnded { conn } => {
                crate::ims::register::on_flow_end(&mut self.ims, &mut self.stack, conn, now, out);
            }
            Letter::LookUp { from, asker, whom } => {
                self.answer_look_up(from, LookUp { whom, asker }, bytes, now, out);
            }
            Letter::Found { asker, whom } => self.on_found(LookUp { whom, asker }, bytes, now, out),
        }
    }

    /// The shard that owns a Call-ID.
    fn owner_of(&self, call_id: &[u8]) -> ShardId {
        if self.stack.shards == 1 {
            return self.stack.shard;
        }
        self.keys.owner.shard(call_id, self.stack.shards)
    }

    fn post(&mut self, to: ShardId, letter: Letter, bytes: &[u8]) -> bool {
        let pushed = self
            .mail
            .to
            .get_mut(usize::from(to.0))
            .and_then(Option::as_mut)
            .is_some_and(|mail| mail.push(letter, bytes).is_ok());
        if pushed {
            self.stack.metrics.mailbox_sent.inc();
            self.woken |= 1 << to.0;
        } else {
            self.stack.metrics.dropped(DropReason::MailboxFull);
        }
        pushed
    }

    /// Before the effects of a turn are applied: what belongs on a connection of another shard goes there by mail, shards that have
    /// mail are woken, and what leaves here is counted to whom it goes.
    pub fn export(&mut self, now: Instant, out: &mut Effects) {
        self.carry_flows(now, out);
        if self.stack.tap.is_some() {
            self.tap_sent(now, out);
        }
        self.tell_questions(out);
        self.export_to_shards(out);
        for effect in out.iter() {
            if let Effect::Send { flow, .. } = effect {
                self.stack.recorded.peers.sent(flow.peer.ip());
            }
        }
    }

    fn export_to_shards(&mut self, out: &mut Effects) {
        let own = self.stack.shard;
        if self.stack.shards > 1 {
            for index in 0..out.len() {
                let Some(effect) = out.get(index) else { break };
                match effect {
                    Effect::Send { flow, buf, op } => {
                        if let Some(conn) = flow.conn.filter(|conn| conn.shard != own) {
                            self.mail_to_flow(conn.shard, flow, buf, op, out);
                            out.take(index);
                            out.pool.release(buf);
                        }
                    }
                    Effect::Close { conn, reason } if conn.shard != own => {
                        self.post(conn.shard, Letter::Close { conn, reason }, b"");
                        out.take(index);
                    }
                    Effect::Close { .. } | Effect::Wake { .. } | Effect::Nothing => {}
                }
            }
            let mut woken = std::mem::take(&mut self.woken);
            while woken != 0 {
                let shard = ShardId(woken.trailing_zeros() as u8);
                woken &= woken - 1;
                out.push(Effect::Wake { shard });
            }
        }
    }

    /// Has the shard of a flow's connection send what is in `buf`. Where it leads, as a trace shows it, is known there.
    fn mail_to_flow(&mut self, to: ShardId, flow: Flow, buf: BufId, op: Option<TxOp>, out: &Effects) {
        let bytes = out.pool.get(buf);
        let letter = |traces: TraceSet, call: &[u8]| Letter::Send {
            flow,
            op,
            traces,
            call_len: call.len() as u32,
        };
        let traced = (self.stack.tap.as_ref()).and_then(|tap| tap.traces_of(out.pool.marks(buf).call(bytes)));
        // Whoever reads a letter has room for one message of the largest size.
        match traced.filter(|(_, call)| bytes.len() + call.len() <= self.letter.len()) {
            None => self.post(to, letter(TraceSet::default(), b""), bytes),
            Some((traces, call)) => {
                let both = [bytes, call].concat();
                self.post(to, letter(traces, call), &both)
            }
        };
    }

    /// The effects of the turn that began to work at `woken_at` have been applied: what was handled has left the server.
    pub fn record_handled(&mut self, woken_at: Instant, sent_at: Instant) {
        let histograms = &mut self.stack.recorded.histograms;
        histograms.record(Timed::Turn, sent_at.since(woken_at));
        for (kind, received_at) in self.handled.drain(..) {
            histograms.record(Timed::InServer(kind), sent_at.since(received_at));
        }
    }

    /// When [`Shard::run_timers`] wants to run again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.stack.wheel.next_deadline()
    }

    /// Publishes what there is now.
    pub fn publish(&self, pool: &Pool) {
        let metrics = &self.stack.metrics;
        metrics.transactions_begun.follow(self.stack.begun());
        metrics.dialogs_begun.follow(self.ims.calls.dialogs_begun());
        metrics.contexts_begun.follow(self.proxy.begun());
        metrics.subscriptions_begun.follow(self.ims.reg_event.begun());
        metrics.transactions.set(self.stack.len() as u64);
        metrics.dialogs.set(self.ims.calls.dialogs() as u64);
        metrics.contexts.set(self.proxy.contexts() as u64);
        metrics.proxied_calls_noted.set(self.proxy.noted_calls() as u64);
        metrics.calls.set(self.ims.calls.len() as u64);
        metrics.bindings.set(self.ims.location.bindings() as u64);
        metrics.subscriptions.set(self.ims.reg_event.len() as u64);
        metrics.connections.set(self.streams.len() as u64);
        metrics.buffers.set(pool.in_use() as u64);
        metrics.buffers_refused.set(pool.refused());
        metrics.timers.set(self.stack.wheel.len() as u64);
        metrics
            .overload_loss_permille
            .set((self.overload.loss() * 1_000.0) as u64);
    }

    // ---- Stopping --------------------------------------------------------------------------------------------------

    pub fn calls(&self) -> usize {
        self.ims.calls.len()
    }

    /// Legs, exchanges and branches of those calls.
    pub fn call_parts(&self) -> usize {
        self.ims.calls.parts_in_use()
    }

    /// What was recorded since the control thread last asked.
    pub fn take_recorded(&mut self) -> Box<Recorded> {
        std::mem::take(&mut self.stack.recorded)
    }

    /// Gives back all that the shard holds in good order, and says what is left over then.
    pub fn end(mut self, out: &mut Effects) -> Leftovers {
        self.ims.calls.forget_all(&mut self.stack, out);
        self.proxy.forget_all(&mut self.stack, out);
        self.ims.reg_event.clear(&mut self.stack, out);
        let stack = &mut self.stack;
        stack.trunks.clear(&mut stack.wheel);
        stack.dns.clear(&mut stack.wheel);
        stack.forget_unsent(out);
        self.ims.location.clear(&mut self.stack.wheel, &mut out.pool);
        self.stack.abandon_all(out);
        self.forget_streams(out);
        self.in_use(&out.pool)
    }

    /// What the shard holds now, of every kind that it can run out of.
    pub fn in_use(&self, pool: &Pool) -> Leftovers {
        Leftovers {
            transactions: self.stack.len(),
            calls: self.ims.calls.len(),
            call_parts: self.ims.calls.parts_in_use(),
            contexts: self.proxy.contexts(),
            branches: self.proxy.branches(),
            held: self.proxy.held(),
            trunk_calls: self.stack.trunks.calls(),
            look_ups: self.stack.dns.waiting(),
            subscribers: self.ims.location.subscribers(),
            subscriptions: self.ims.reg_event.len(),
            streams: self.streams.len(),
            timers: self.stack.wheel.len(),
            buffers: pool.in_use(),
        }
    }
}
