//! TCP connections of one shard: the table, how one comes and how one goes.
//!
//! Life of a connection: `Connecting` (ours only), `Open`, then `Draining` while what is queued still leaves, `Lingering` until the
//! peer has closed its side too (closing at once, with bytes unread, would make the kernel send a reset that can overtake what
//! we sent), and `Gone` once the core has been told, while requests for it are still on the ring. The slot is used again only
//! when none is, so that the kernel never holds a pointer into, or a completion for, somebody else's connection.
//!
//! Receiving is in `tcp_receive`, sending and connecting in `tcp_send`, accepting in `accept`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use io_uring::types::Timespec;
use slab::Slab;
use socket2::Socket;

use super::accept::Acceptor;
use super::addr::RawAddr;
use super::connections::{Connections, Seat};
use super::looks::Looks;
use super::notices::Notices;
use super::ring::Ring;
use super::send_queue::{SendQueue, Sending, Store};
use super::stalled::Stalled;
use super::stream_wait::StreamWait;
use super::tag::{Op, Tag};
use super::tcp_receive::Receiver;
use crate::config::Limits;
use crate::metrics::{DropReason, Metrics};
use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Flow, ListenerId, ShardId, Transport};

/// How long a connection that is being closed may take to send what is queued and to hear the peer's end.
pub(super) const CLOSING_MAX: Duration = Duration::from_secs(5);
/// An idle connection is found out at most this part of the idle time late.
const IDLE_LOOKS: u32 = 8;

/// What the handling of one event works with.
pub(super) struct Cx<'a> {
    pub ring: &'a mut Ring,
    pub notices: &'a mut Notices,
    pub now: Instant,
}

pub(super) struct Tcp {
    pub(super) shard: ShardId,
    /// By listener; `None` where the listener is UDP.
    pub(super) acceptors: Vec<Option<Acceptor>>,
    pub(super) connections: Slab<Box<Connection>>,
    generation: u32,
    /// The connection to use for a peer: the one that came last.
    pub(super) by_peer: AHashMap<(ListenerId, SocketAddr), u32>,
    pub(super) receiver: Receiver,
    pub(super) waits: StreamWait,
    /// Slots that were given something to send since the last flush.
    pub(super) dirty: Vec<u32>,
    /// Peers that closed their side in this turn. Ours is closed in the next, after the answers to what came before.
    pub(super) half_closed: Vec<ConnId>,
    idle: Looks,
    closing: Looks,
    pub(super) store: Store,
    /// Connections with something to send whose peers take nothing.
    pub(super) stalled: Stalled,
    pub(super) connection_idle: Duration,
    pub(super) connect_timeout: Duration,
    send_stalled: Duration,
    shards: usize,
    pub(super) shared: Arc<Connections>,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Connecting,
    Open,
    /// No new messages, what comes is thrown away; what is queued still leaves, until `until`.
    Draining {
        reason: CloseReason,
        until: Instant,
    },
    /// Our side is closed; the peer's end, or `until`, is waited for.
    Lingering {
        reason: CloseReason,
        until: Instant,
    },
    Gone,
}

pub(super) struct Connection {
    pub generation: u32,
    pub socket: Socket,
    /// With `conn` set.
    pub flow: Flow,
    pub phase: Phase,
    /// A RECV or a poll for reading is on the ring.
    pub receiving: bool,
    /// The CONNECT on the ring points to it.
    pub connecting: Option<Box<ConnectArgs>>,
    pub queue: SendQueue,
    /// The peer has closed its side.
    pub peer_done: bool,
    /// In the list of those that have something to send.
    pub dirty: bool,
    /// When bytes last came, or the connection was established.
    pub heard_at: Instant,
    /// `None` once the connection no longer counts.
    pub seat: Option<Seat>,
}

pub(super) struct ConnectArgs {
    pub addr: RawAddr,
    pub addr_len: libc::socklen_t,
    pub timeout: Timespec,
}

impl Connection {
    pub(super) fn tag(&self, op: Op, slot: u32) -> Tag {
        Tag::new(op, slot, self.generation)
    }

    fn is_on_ring(&self) -> bool {
        self.receiving || self.connecting.is_some() || self.queue.sending != Sending::Idle
    }

    /// Whether messages may be put on it.
    fn takes_messages(&self) -> bool {
        match self.phase {
            Phase::Connecting | Phase::Open => true,
            Phase::Draining { .. } | Phase::Lingering { .. } | Phase::Gone => false,
        }
    }
}

impl Tcp {
    pub(super) fn new(
        shard: ShardId,
        shards: usize,
        limits: &Limits,
        acceptors: Vec<Option<Acceptor>>,
        receiver: Receiver,
        shared: Arc<Connections>,
        metrics: Arc<Metrics>,
    ) -> Tcp {
        let mut tcp = Tcp {
            shard,
            acceptors,
            connections: Slab::new(),
            generation: 0,
            by_peer: AHashMap::new(),
            receiver,
            waits: StreamWait::default(),
            dirty: Vec::new(),
            half_closed: Vec::new(),
            idle: Looks::new(limits.connection_idle / IDLE_LOOKS),
            closing: Looks::new(CLOSING_MAX / 5),
            store: Store::default(),
            stalled: Stalled::default(),
            connection_idle: limits.connection_idle,
            connect_timeout: limits.connect_timeout,
            send_stalled: limits.send_stalled,
            shards,
            shared,
            metrics,
        };
        tcp.limit_store(limits);
        tcp
    }

    fn limit_store(&mut self, limits: &Limits) {
        let share = limits.send_queue_bytes_sum_max.div_ceil(self.shards);
        self.store.set_limits(limits.send_queue_bytes_max, share);
    }

    /// Goes by `limits` from now on. Connections beyond them stay; one that is being looked at is looked at as before.
    pub(super) fn configure(&mut self, limits: &Limits) {
        self.idle.set_interval(limits.connection_idle / IDLE_LOOKS);
        self.connection_idle = limits.connection_idle;
        self.connect_timeout = limits.connect_timeout;
        self.limit_store(limits);
        self.send_stalled = limits.send_stalled;
        self.shared.set_limits(limits);
    }

    /// Puts a connection into the table. The phase is `Connecting` or `Open`.
    pub(super) fn insert(
        &mut self,
        socket: Socket,
        listener: ListenerId,
        peer: SocketAddr,
        phase: Phase,
        seat: Seat,
        now: Instant,
    ) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.connections.vacant_entry();
        let slot = entry.key() as u32;
        let conn = ConnId {
            shard: self.shard,
            slot,
            generation: self.generation,
        };
        let flow = Flow {
            transport: Transport::Tcp,
            listener,
            peer,
            conn: Some(conn),
        };
        entry.insert(Box::new(Connection {
            generation: self.generation,
            socket,
            flow,
            phase,
            receiving: false,
            connecting: None,
            queue: SendQueue::new(),
            peer_done: false,
            dirty: false,
            heard_at: now,
            seat: Some(seat),
        }));
        self.by_peer.insert((listener, peer), slot);
        self.idle.watch(slot, now);
        slot
    }

    pub(super) fn connection(&mut self, slot: u32) -> Option<&mut Connection> {
        self.connections
            .get_mut(slot as usize)
            .map(|connection| &mut **connection)
    }

    /// The connection that a request was made for.
    pub(super) fn by_tag(&mut self, tag: Tag) -> Option<&mut Connection> {
        self.connection(tag.slot)
            .filter(|connection| tag.is_of(connection.generation))
    }

    /// The slot of a connection that takes messages.
    pub(super) fn find(&self, conn: ConnId) -> Option<u32> {
        if conn.shard != self.shard {
            return None;
        }
        self.connections
            .get(conn.slot as usize)
            .filter(|connection| connection.generation == conn.generation && connection.takes_messages())
            .map(|_| conn.slot)
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// The next time at which [`tick`](Self::tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let retries = self
            .acceptors
            .iter()
            .flatten()
            .filter_map(|acceptor| acceptor.retry_at);
        retries
            .chain(self.idle.next_due())
            .chain(self.closing.next_due())
            .chain(self.stalled.longest().map(|(_, since)| since + self.send_stalled))
            .min()
    }

    /// Closes what has been idle, stalled or closing for too long, and accepts again after a pause.
    pub(super) fn tick(&mut self, cx: &mut Cx<'_>) {
        while let Some(slot) = self.idle.pop_due(cx.now) {
            let idle = self.connection_idle;
            let Some(connection) = self.connection(slot) else {
                continue;
            };
            match connection.phase {
                Phase::Open if cx.now.since(connection.heard_at) >= idle => {
                    self.close(slot, CloseReason::Idle, cx);
                }
                Phase::Open | Phase::Connecting => self.idle.watch(slot, cx.now),
                // These end by themselves.
                Phase::Draining { .. } | Phase::Lingering { .. } | Phase::Gone => {}
            }
        }
        while let Some(slot) = self.closing.pop_due(cx.now) {
            match self.connection(slot).map(|connection| connection.phase) {
                Some(Phase::Draining { reason, until } | Phase::Lingering { reason, until }) => {
                    if cx.now >= until {
                        self.abort(slot, reason, cx);
                    } else {
                        self.closing.watch(slot, cx.now);
                    }
                }
                Some(Phase::Connecting | Phase::Open | Phase::Gone) | None => {}
            }
        }
        while let Some((slot, since)) = self.stalled.longest()
            && cx.now.since(since) >= self.send_stalled
        {
            self.give_up_stalled(slot, cx);
        }
        self.retry_accepts(cx);
    }

    /// Ends a connection whose peer takes nothing of what waits for it.
    pub(super) fn give_up_stalled(&mut self, slot: u32, cx: &mut Cx<'_>) {
        self.metrics.connections_stalled.inc();
        self.stalled.take_out(slot);
        self.abort(slot, CloseReason::SendStalled, cx);
    }

    /// Closes our side of the connections whose peers closed theirs in an earlier turn.
    pub(super) fn close_half_closed(&mut self, cx: &mut Cx<'_>) {
        for index in 0..self.half_closed.len() {
            if let Some(slot) = self.find(self.half_closed[index]) {
                self.close(slot, CloseReason::PeerClosed, cx);
            }
        }
        self.half_closed.clear();
    }

    /// Closes a connection after what is queued on it has been sent.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason, cx: &mut Cx<'_>) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        match connection.phase {
            Phase::Connecting => self.finish(slot, reason, cx),
            Phase::Open => {
                connection.phase = Phase::Draining {
                    reason,
                    until: cx.now + CLOSING_MAX,
                };
                let drained = connection.queue.is_empty();
                self.waits.ended(slot);
                self.forget_peer(slot);
                self.closing.watch(slot, cx.now);
                if drained {
                    self.drained(slot, cx);
                }
            }
            Phase::Draining { .. } | Phase::Lingering { .. } | Phase::Gone => {}
        }
    }

    /// Everything queued has been handed to the kernel: if the connection is being closed, its next step is due.
    pub(super) fn drained(&mut self, slot: u32, cx: &mut Cx<'_>) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        match connection.phase {
            Phase::Draining { reason, until } => {
                // If it fails the connection is broken, which the receive finds out too.
                let _ = connection.socket.shutdown(std::net::Shutdown::Write);
                connection.phase = Phase::Lingering { reason, until };
                if connection.peer_done {
                    self.finish(slot, reason, cx);
                }
            }
            Phase::Connecting | Phase::Open | Phase::Lingering { .. } | Phase::Gone => {}
        }
    }

    /// Ends a connection with a reset, so that the kernel too forgets what the peer hasn't taken.
    pub(super) fn abort(&mut self, slot: u32, reason: CloseReason, cx: &mut Cx<'_>) {
        if let Some(connection) = self.connection(slot) {
            let _ = connection.socket.set_linger(Some(Duration::ZERO));
        }
        self.finish(slot, reason, cx);
    }

    /// Ends a connection that failed: with the reason for which it was being closed, if it was.
    pub(super) fn fail(&mut self, slot: u32, observed: CloseReason, cx: &mut Cx<'_>) {
        let reason = match self.connection(slot).map(|connection| connection.phase) {
            Some(Phase::Draining { reason, .. } | Phase::Lingering { reason, .. }) => reason,
            Some(Phase::Connecting | Phase::Open | Phase::Gone) | None => observed,
        };
        self.finish(slot, reason, cx);
    }

    /// Tells the core that the connection is gone, with every message that was not sent, and lets go of it as soon as the
    /// ring has.
    pub(super) fn finish(&mut self, slot: u32, reason: CloseReason, cx: &mut Cx<'_>) {
        self.forget_peer(slot);
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if connection.phase == Phase::Gone {
            return;
        }
        // In the order in which they were sent.
        for op in connection.queue.take_unheard() {
            cx.notices.unheard(op, reason);
        }
        let flow = connection.flow;
        while let Some((op, bytes)) = connection.queue.take_failed() {
            self.metrics.dropped(DropReason::ConnectionLost);
            cx.notices.send_failed(op, flow, bytes, reason);
        }
        if let Some(conn) = connection.flow.conn {
            cx.notices.closed(conn, reason);
        }
        self.metrics.connections_closed.inc();
        connection.seat = None;
        connection.phase = Phase::Gone;
        connection.queue.release(&mut self.store);
        self.waits.ended(slot);
        self.stalled.take_out(slot);
        if connection.connecting.is_some() {
            cx.ring.cancel(connection.tag(Op::Connect, slot));
        }
        if connection.is_on_ring() {
            // Receives and polls on the ring end by it. An error means that the connection is broken, which ends them as well.
            let _ = connection.socket.shutdown(std::net::Shutdown::Both);
        }
        self.remove_if_done(slot);
    }

    /// Frees the slot of a connection that is gone, once no request for it is on the ring.
    pub(super) fn remove_if_done(&mut self, slot: u32) {
        let done = self
            .connection(slot)
            .is_some_and(|connection| connection.phase == Phase::Gone && !connection.is_on_ring());
        if done {
            let mut connection = self.connections.remove(slot as usize);
            connection.queue.release(&mut self.store);
        }
    }

    /// Cancels every request, for the end of the reactor's life.
    pub(super) fn cancel_all(&mut self, ring: &mut Ring) {
        self.cancel_accepts(ring);
        for (slot, connection) in &self.connections {
            let slot = slot as u32;
            if connection.receiving {
                let op = match self.receiver {
                    Receiver::Ring(_) => Op::Recv,
                    Receiver::Plain(_) => Op::RecvReady,
                };
                ring.cancel(connection.tag(op, slot));
            }
            match connection.queue.sending {
                Sending::AwaitRoom => ring.cancel(connection.tag(Op::SendReady, slot)),
                // It ends by itself when it is submitted.
                Sending::Submitted | Sending::Idle => {}
            }
            if connection.connecting.is_some() {
                ring.cancel(connection.tag(Op::Connect, slot));
            }
        }
    }

    fn forget_peer(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot as usize) else {
            return;
        };
        let key = (connection.flow.listener, connection.flow.peer);
        // A newer connection of the same peer stays.
        if self.by_peer.get(&key) == Some(&slot) {
            self.by_peer.remove(&key);
        }
    }
}
