//! The reactor of one shard on its io_uring.
//!
//! A turn: submit and wait; hand over what earlier flushes found out; each completion; one batch of datagrams a listener; what
//! is due. In between the core's effects are flushed: sends on connections go onto the ring, are submitted together and seen to have
//! ended at once; datagrams leave after them.
//!
//! # What the kernel may touch, and until when
//! - SEND: non-blocking by its flags, so it completes inside the `io_uring_enter` that submits it. Until its completion is seen, the
//!   connection keeps the bytes.
//! - CONNECT, LINK_TIMEOUT, TIMEOUT: read while being submitted (IORING_FEAT_SUBMIT_STABLE).
//! - RECV: writes to the buffer ring until its last completion.
//! - Polls and accepts touch no memory of ours, but hold on to the sockets.
//!
//! Closing a ring only starts the end of its requests; the kernel finishes it later, when it likes. So the drop first cancels every
//! request and waits for its last completion, then closes the ring, then frees memory and sockets: when it returns, nothing is
//! written to any more and the addresses can be bound again. Should a receive not end, its buffers are leaked rather than freed.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::accept::Acceptor;
use super::buf_ring::BufRing;
use super::clock::Clock;
use super::connections::Connections;
use super::notices::Notices;
use super::probe::{Feature, Features};
use super::reactor::Reactor;
use super::relisten::{Change, Changes};
use super::ring::{Completion, Ring, Wait};
use super::socket::{BoundSocket, ShardSockets};
use super::tag::{Op, Tag};
use super::tcp::{Cx, Tcp};
use super::tcp_receive::Receiver;
use super::udp::Udp;
use super::waker::Wakers;
use crate::config::{Config, Gro, Limits, Segment};
use crate::metrics::{DropReason, Metrics};
use crate::time::Instant;
use crate::wire::{CloseReason, Effect, Effects, Event, ListenerId, SHARDS_MAX, ShardId, Transport};

/// How long the drop waits for requests to end, which they do in microseconds, and its pause between looks.
const QUIESCE_MAX: Duration = Duration::from_secs(2);
const QUIESCE_PAUSE: Duration = Duration::from_millis(1);

/// The ring, sockets and connections of one shard.
///
/// It belongs to the thread that made it (IORING_SETUP_SINGLE_ISSUER), and so is not `Send`.
pub struct Uring {
    // Dropped first: see the drop below.
    ring: Ring,
    tcp: Tcp,
    udp: Udp,
    notices: Notices,
    /// What the last flush found completed beside its sends, for the next turn. Empty from there to the next flush.
    completions: Vec<Completion>,
    /// Sends that completed in the last flush: they count among the completions of the next turn.
    sends_completed: usize,
    /// Of the last turn.
    streams_wait: Option<Duration>,
    shard: ShardId,
    wakers: Arc<Wakers>,
    messages: bool,
    /// The kernel has multishot ACCEPT.
    accepts_by_ring: bool,
    changes: Arc<Changes>,
    /// Shards to wake at the end of the flush, one bit each: one wake-up is as good as many.
    to_wake: u64,
    /// Other shards share this one's process.
    has_others: bool,
    /// What others had posted when the last turn began.
    posted: u32,
    /// How long it looks for more before it sleeps.
    spin: Duration,
    clock: Clock,
    now: Instant,
    metrics: Arc<Metrics>,
    thread_bound: PhantomData<*const ()>,
}

impl Uring {
    /// The reactor of `shard`, on the thread that will run it. `sockets` are the shard's own from
    /// [`bind_all`](super::socket::bind_all); `shared`, `wakers` and `clock` are those of the process.
    ///
    /// # Errors
    /// The ring can't be set up; the text says what to change.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a thing of its own, named once, at start"
    )]
    pub fn new(
        cfg: &Config,
        shard: ShardId,
        sockets: ShardSockets,
        features: Features,
        shared: Arc<Connections>,
        wakers: Arc<Wakers>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> io::Result<Uring> {
        assert!(
            usize::from(shard.0) < SHARDS_MAX,
            "a shard is one bit of `to_wake`"
        );
        let ring = Ring::new(&features, clock, Arc::clone(&metrics))?;
        let (mut datagrams, mut acceptors) = (Vec::new(), Vec::new());
        for socket in sockets.sockets {
            let (udp, tcp) = match socket {
                BoundSocket::Udp(socket) => (Some(socket), None),
                BoundSocket::Tcp(socket) => (
                    None,
                    Some(Acceptor::new(socket, features.has(Feature::MultishotAccept))?),
                ),
            };
            datagrams.push(udp);
            acceptors.push(tcp);
        }
        let receiver = if features.receives_by_ring() {
            // SAFETY: the drop gives it back only when no request can fill a buffer, and the ring is closed before it.
            Receiver::Ring(unsafe { BufRing::register(ring.inner()) }?)
        } else {
            Receiver::plain()
        };
        let makes_runs = features.has(Feature::UdpSegment) && cfg.udp.segment == Segment::Auto;
        // What is gathered goes to one shard as a whole: to that of its first datagram, where the kernel looks for each one's.
        let takes_runs = features.has(Feature::UdpGro) && cfg.udp.gro == Gro::Auto && !sockets.is_steered;
        let udp = Udp::new(
            datagrams,
            makes_runs,
            takes_runs,
            features.has(Feature::TimestampNs),
            clock,
            Arc::clone(&metrics),
        )?;
        let tcp = Tcp::new(
            shard,
            cfg.shards,
            &cfg.limits,
            acceptors,
            receiver,
            shared,
            Arc::clone(&metrics),
        );
        let mut uring = Uring {
            ring,
            tcp,
            udp,
            notices: Notices::default(),
            completions: Vec::new(),
            sends_completed: 0,
            streams_wait: None,
            shard,
            wakers,
            messages: features.has(Feature::MsgRing),
            accepts_by_ring: features.has(Feature::MultishotAccept),
            changes: Arc::default(),
            to_wake: 0,
            has_others: cfg.shards > 1,
            posted: 0,
            spin: cfg.spin,
            clock,
            now: clock.now(),
            metrics,
            thread_bound: PhantomData,
        };
        uring.tcp.arm_accepts(&mut uring.ring);
        uring.arm_wake();
        if uring.messages {
            uring.wakers.set_ring(shard, Some(uring.ring.fd()));
        }
        Ok(uring)
    }

    /// Where the control thread puts listeners that come and go while this runs.
    pub fn set_changes(&mut self, changes: Arc<Changes>) {
        self.changes = changes;
    }

    /// Takes up what has changed of the listeners.
    fn relisten(&mut self) {
        for change in self.changes.take() {
            match change {
                Change::Open(id, socket) => {
                    if let Err(error) = self.open(id, socket) {
                        tracing::error!(shard = self.shard.0, listener = id.0, %error, "a listener can't be served");
                    }
                }
                Change::StopAccepting(id) => self.tcp.stop_accepting(usize::from(id.0), &mut self.ring),
                Change::Close(id, successor) => {
                    self.udp.close(id, successor, &mut self.ring, &mut self.notices);
                }
            }
        }
    }

    fn open(&mut self, id: ListenerId, socket: BoundSocket) -> io::Result<()> {
        let index = usize::from(id.0);
        match socket {
            BoundSocket::Udp(socket) => self.udp.open(index, socket),
            BoundSocket::Tcp(socket) => {
                let acceptor = Acceptor::new(socket, self.accepts_by_ring)?;
                self.tcp.start_accepting(index, acceptor, &mut self.ring);
                Ok(())
            }
        }
    }

    fn arm_wake(&mut self) {
        if let Some(fd) = self.wakers.event_fd(self.shard) {
            self.ring.poll(fd, libc::POLLIN, Tag::new(Op::WakeReady, 0, 0));
        }
    }

    /// How long the turn may wait.
    fn wait(&self, deadline: Option<Instant>) -> Wait {
        let has_work = !self.notices.is_empty()
            || !self.completions.is_empty()
            || self.udp.is_readable()
            || self.tcp.waits.is_to_be_told()
            || self.udp.has_errors()
            || self.ring.has_overdue()
            || self.to_wake & 1 << self.shard.0 != 0;
        if has_work {
            return Wait::No;
        }
        match deadline.into_iter().chain(self.tcp.next_deadline()).min() {
            None => Wait::Forever,
            Some(at) if at <= self.clock.now() => Wait::No,
            Some(at) => Wait::Until(at),
        }
    }

    /// Looks for a while whether something comes that the shard would otherwise be woken for. How long to wait after that.
    fn spin(&mut self, wait: Wait) -> io::Result<Wait> {
        if self.spin.is_zero() || wait == Wait::No {
            return Ok(wait);
        }
        // What is queued goes out first: it is what events are asked for with.
        self.ring.enter(Wait::No)?;
        let until = self.clock.now() + self.spin;
        loop {
            let now = self.clock.now();
            let is_due = matches!(wait, Wait::Until(deadline) if deadline <= now);
            let is_posted = self.has_others && self.wakers.posted(self.shard) != self.posted;
            if is_due || is_posted || self.ring.has_completions() {
                return Ok(Wait::No);
            }
            if now >= until {
                return Ok(wait);
            }
            std::hint::spin_loop();
        }
    }

    /// Waits, unless another shard has posted something since the last turn began; from there on, and until it ends, whoever posts wakes
    /// this shard.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let wait = self.spin(wait)?;
        if !self.has_others {
            return self.ring.enter(wait);
        }
        let sleeps = wait != Wait::No && self.wakers.fall_asleep(self.shard, self.posted);
        let entered = self.ring.enter(if sleeps { wait } else { Wait::No });
        if sleeps {
            self.wakers.awake(self.shard);
        }
        // What is posted from here on may or may not be read in this turn: it keeps the next one from waiting.
        self.posted = self.wakers.posted(self.shard);
        entered
    }

    fn complete(&mut self, completion: Completion, sink: &mut dyn FnMut(Event<'_>, Instant)) {
        let cx = &mut Cx {
            ring: &mut self.ring,
            notices: &mut self.notices,
            now: self.now,
        };
        match completion.tag.op {
            Op::WakeReady => {
                self.wakers.clear(self.shard);
                self.arm_wake();
            }
            Op::WakeMessage => {}
            Op::WakeSent => {
                if completion.result < 0 {
                    // The other ring is full, or gone: its eventfd always works.
                    self.wakers.wake(ShardId(completion.tag.slot as u8));
                }
            }
            Op::Timeout => self.ring.timeout_fired(completion.tag),
            Op::TimeoutRemove | Op::ConnectTimeout | Op::Cancel => {}
            Op::UdpReadable => self.udp.poll_completed(completion.tag, completion.result),
            Op::UdpWritable => {
                let events = completion.result;
                self.udp.writable(completion.tag, events, cx.ring, cx.notices);
            }
            Op::Accept => self.tcp.accept_completed(completion, cx),
            Op::AcceptReady => self.tcp.accept_ready(completion, cx),
            Op::Recv => self.tcp.recv_completed(completion, cx, sink),
            Op::RecvReady => self.tcp.recv_ready(completion, cx, sink),
            Op::Send => self.tcp.send_completed(completion, cx),
            Op::SendReady => self.tcp.send_ready(completion, cx),
            Op::Connect => self.tcp.connect_completed(completion, cx),
            Op::Lag => self.tcp.waits.probed(self.clock.now()),
        }
    }

    /// Takes note of the sends that the flush submitted, which have completed: they would have the next turn wake for nothing else.
    /// What completed before one of them comes first, in the next turn.
    fn complete_sends(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions);
        let sends = completions
            .iter()
            .take_while(|completion| completion.tag.op == Op::Send)
            .count();
        let cx = &mut Cx {
            ring: &mut self.ring,
            notices: &mut self.notices,
            now: self.now,
        };
        for completion in completions.drain(..sends) {
            self.tcp.send_completed(completion, cx);
        }
        self.sends_completed += sends;
        self.completions = completions;
    }

    /// `true`: there are wake-ups to be submitted.
    fn wake_others(&mut self) -> bool {
        // Our own bit stays: it keeps the next turn from waiting.
        let mut shards = self.to_wake & !(1 << self.shard.0);
        self.to_wake &= 1 << self.shard.0;
        let mut has_wakes = false;
        while shards != 0 {
            let shard = ShardId(shards.trailing_zeros() as u8);
            shards &= shards - 1;
            if !self.wakers.post(shard) {
                continue;
            }
            match self.wakers.ring(shard).filter(|_| self.messages) {
                Some(ring) => {
                    let message = Tag::new(Op::WakeMessage, 0, 0);
                    let tag = Tag::new(Op::WakeSent, u32::from(shard.0), 0);
                    self.ring.send_message(ring, message, tag);
                    has_wakes = true;
                }
                None => self.wakers.wake(shard),
            }
        }
        has_wakes
    }

    /// Ends every request on the ring, and waits until all have ended. `false`: some have not.
    fn quiesce(&mut self) -> bool {
        self.tcp.cancel_all(&mut self.ring);
        self.udp.cancel_all(&mut self.ring);
        self.ring.cancel(Tag::new(Op::WakeReady, 0, 0));
        self.ring.cancel_timeouts();
        let give_up_at = self.clock.now() + QUIESCE_MAX;
        loop {
            // A send that is still queued is submitted, and so completes, before the connection goes.
            // A time-out would be one more request to end.
            let waited = self.ring.enter(Wait::No);
            // The first time with what the last flush left for a turn.
            self.ring.reap(&mut self.completions);
            for completion in &self.completions {
                match completion.tag.op {
                    Op::Recv => self.tcp.recv_ended(*completion),
                    Op::Accept if completion.result >= 0 => {
                        // SAFETY: the kernel has given us this descriptor, and nobody else has it.
                        drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
                    }
                    Op::Accept
                    | Op::WakeReady
                    | Op::WakeMessage
                    | Op::WakeSent
                    | Op::Timeout
                    | Op::TimeoutRemove
                    | Op::UdpReadable
                    | Op::UdpWritable
                    | Op::AcceptReady
                    | Op::RecvReady
                    | Op::Send
                    | Op::SendReady
                    | Op::Connect
                    | Op::ConnectTimeout
                    | Op::Cancel
                    | Op::Lag => {}
                }
            }
            self.completions.clear();
            if self.ring.in_flight() == 0 {
                return true;
            }
            if waited.is_err() || self.clock.now() >= give_up_at {
                return false;
            }
            std::thread::sleep(QUIESCE_PAUSE);
        }
    }
}

impl Reactor for Uring {
    fn turn(
        &mut self,
        deadline: Option<Instant>,
        sink: &mut dyn FnMut(Event<'_>, Instant),
    ) -> io::Result<Instant> {
        self.notices.begin_turn();
        self.tcp.close_half_closed(&mut Cx {
            ring: &mut self.ring,
            notices: &mut self.notices,
            now: self.now,
        });
        let wait = self.wait(deadline);
        self.to_wake = 0;
        self.enter(wait)?;
        self.now = self.clock.now();
        self.metrics.turns.inc();
        self.notices.deliver(sink, self.now);

        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions);
        for &completion in &completions {
            self.complete(completion, sink);
            // In order: a connection's bytes come after its opening and before its end.
            self.notices.deliver(sink, self.now);
        }
        let completed = completions.len() + std::mem::take(&mut self.sends_completed);
        completions.clear();
        self.completions = completions;
        self.streams_wait = self
            .tcp
            .end_receiving(completed, &mut self.ring, &self.clock, self.now);

        self.udp.receive(&mut self.ring, sink, self.now);
        self.tcp.tick(&mut Cx {
            ring: &mut self.ring,
            notices: &mut self.notices,
            now: self.now,
        });
        self.notices.deliver(sink, self.now);
        self.tcp.receiver.end_turn();
        self.metrics.connections.set(self.tcp.len() as u64);
        self.metrics.send_queue_bytes.set(self.tcp.store.bytes() as u64);
        Ok(self.now)
    }

    fn flush(&mut self, effects: &mut Effects) {
        let mut index = 0;
        while let Some(effect) = effects.get(index) {
            index += 1;
            let cx = &mut Cx {
                ring: &mut self.ring,
                notices: &mut self.notices,
                now: self.now,
            };
            match effect {
                Effect::Send { flow, buf, op } => match flow.transport {
                    Transport::Udp => {
                        if !self.udp.queue(flow.listener, flow.peer, buf, op) {
                            // It is closed, and there is none in its place.
                            self.metrics.dropped(DropReason::SendError);
                            let bytes = effects.pool.get(buf);
                            cx.notices
                                .send_failed(op, flow, bytes, CloseReason::ConnectFailed);
                            effects.pool.release(buf);
                        }
                    }
                    Transport::Tcp => {
                        self.tcp.send(&flow, effects.pool.get(buf), op, cx);
                        effects.pool.release(buf);
                    }
                },
                Effect::Close { conn, reason } => {
                    if let Some(slot) = self.tcp.find(conn) {
                        self.tcp.close(slot, reason, cx);
                    }
                }
                Effect::Nothing => {}
                Effect::Wake { shard } => self.to_wake |= 1u64.checked_shl(u32::from(shard.0)).unwrap_or(0),
            }
        }
        effects.clear();
        // Streams and wake-ups leave before the datagrams, whose sends take the longest: a caller's 100 does not wait for
        // them, and neither does another shard. Where there are none, nothing is submitted before the next turn does.
        let has_streams = self.tcp.flush(&mut self.ring);
        let has_wakes = self.wake_others();
        if has_streams || has_wakes && self.udp.has_queued() {
            match self.ring.enter(Wait::No) {
                Ok(()) => self.complete_sends(),
                // What is queued stays so, and the next turn meets the same error with somebody to tell.
                Err(error) => tracing::debug!(%error, "an early submission failed"),
            }
        }
        self.udp
            .flush(&mut effects.pool, &mut self.ring, &mut self.notices);
    }

    fn streams_wait(&self) -> Option<Duration> {
        self.streams_wait
    }

    fn leaves_datagrams(&self) -> bool {
        self.udp.is_readable()
    }

    fn configure(&mut self, limits: &Limits) {
        self.tcp.configure(limits);
        self.relisten();
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Nobody is to send a message to a ring that is closed, or to one that has got its descriptor since.
        self.wakers.set_ring(self.shard, None);
        if !self.quiesce() {
            tracing::warn!(
                "{} requests of shard {} did not end; the kernel ends them later",
                self.ring.in_flight(),
                self.shard.0
            );
            if self.tcp.is_receiving_by_ring() {
                self.tcp.leak_buffers();
            }
        }
    }
}
