//! UDP, one path for all kernels from 5.10 on: a one-shot poll on the ring says that a socket is readable, `recvmmsg` takes up
//! to 64 datagrams a turn, and what a turn has to say through a listener leaves in `sendmmsg` of up to 64 entries, each one datagram
//! or a run of several to one peer ([`udp_runs`](super::udp_runs)).

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::arrival::Arrival;
use super::clock::Clock;
use super::notices::Notices;
use super::ring::Ring;
use super::socket_options;
use super::tag::{Op, Tag};
use super::udp_batch::{BATCH, ReceiveBatch, SendBatch, ToSend};
use super::udp_runs::{PLAN_MAX, Plan, Refusals, Shipment, Waiting};
use crate::metrics::{DropReason, Metrics};
use crate::pool::{BufId, Pool};
use crate::time::Instant;
use crate::wire::{CloseReason, Event, Flow, ListenerId, Transport, TxOp};

/// Datagrams that a turn takes from a listener where they come in runs, as the last turn foretells; at least so many runs.
const TURN: usize = 2 * BATCH;
const BATCH_MIN: usize = 4;

/// Bytes that may wait for a socket whose send buffer is full; what comes on top is dropped and counted.
const HELD_BYTES_MAX: usize = 4 << 20;

/// The UDP sockets of one shard.
pub(super) struct Udp {
    /// By listener; `None` where the listener is TCP, or closed.
    listeners: Vec<Option<UdpListener>>,
    /// Of those that are closed: which one sends in their place.
    successors: Vec<(ListenerId, ListenerId)>,
    has_stamps: bool,
    receive: ReceiveBatch,
    out: Out,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What sending takes, for all listeners of a shard in turn.
struct Out {
    batch: SendBatch,
    plan: Plan,
    /// Whether datagrams to one peer may leave together.
    makes_runs: bool,
    refusals: Refusals,
}

struct UdpListener {
    socket: UdpSocket,
    /// There may be datagrams: nothing has said yet that there are none.
    readable: bool,
    /// How much the next receive asks for: fewer where each is a run of many datagrams.
    batch: usize,
    arrival: Arrival,
    /// What this turn sends, in order.
    queue: Vec<Outgoing>,
    /// What found the send buffer full, copied out of the pool, in order.
    held: Held,
}

#[derive(Clone, Copy)]
struct Outgoing {
    peer: SocketAddr,
    buf: BufId,
    op: Option<TxOp>,
}

#[derive(Default)]
struct Held {
    datagrams: VecDeque<HeldDatagram>,
    bytes: usize,
}

struct HeldDatagram {
    peer: SocketAddr,
    op: Option<TxOp>,
    bytes: Box<[u8]>,
}

impl Udp {
    /// `makes_runs`: whether datagrams to one peer may leave together.
    /// `takes_runs`: whether what came together may be received together.
    /// `has_stamps`: the kernel can say when a datagram came in.
    pub(super) fn new(
        sockets: Vec<Option<UdpSocket>>,
        makes_runs: bool,
        takes_runs: bool,
        has_stamps: bool,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> io::Result<Udp> {
        let listeners = sockets
            .into_iter()
            .map(|socket| {
                socket
                    .map(|socket| UdpListener::new(socket, has_stamps, takes_runs))
                    .transpose()
            })
            .collect::<io::Result<_>>()?;
        Ok(Udp {
            listeners,
            successors: Vec::new(),
            has_stamps,
            receive: ReceiveBatch::new()?,
            out: Out {
                batch: SendBatch::new(),
                plan: Plan::new(),
                makes_runs,
                refusals: Refusals::default(),
            },
            clock,
            metrics,
        })
    }

    /// Listens on one more socket.
    pub(super) fn open(&mut self, index: usize, socket: UdpSocket) -> io::Result<()> {
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        // What came together is taken one by one here: that has to do with how the sockets of the start are steered.
        self.listeners[index] = Some(UdpListener::new(socket, self.has_stamps, false)?);
        Ok(())
    }

    /// Closes a socket. What waits for its send buffer is lost and counted.
    pub(super) fn close(
        &mut self,
        id: ListenerId,
        successor: Option<ListenerId>,
        ring: &mut Ring,
        notices: &mut Notices,
    ) {
        let index = usize::from(id.0);
        let Some(closed) = self.listeners.get_mut(index).and_then(Option::take) else {
            return;
        };
        if !closed.readable {
            ring.cancel(Tag::new(Op::UdpReadable, index as u32, 0));
        }
        if !closed.held.datagrams.is_empty() {
            ring.cancel(Tag::new(Op::UdpWritable, index as u32, 0));
        }
        for datagram in &closed.held.datagrams {
            let (flow, reason) = (flow_to(id, datagram.peer), CloseReason::ConnectFailed);
            self.metrics.dropped(DropReason::SendError);
            notices.send_failed(datagram.op, flow, &datagram.bytes, reason);
        }
        // One that was to send for others may go itself.
        self.successors.retain(|(_, by)| *by != id);
        if let Some(successor) = successor {
            self.successors.push((id, successor));
        }
    }

    /// Whether the next turn finds work without waiting.
    pub(super) fn is_readable(&self) -> bool {
        self.listeners.iter().flatten().any(|listener| listener.readable)
    }

    /// The poll of a listener completed. An error of the poll is looked into by the receive.
    pub(super) fn poll_completed(&mut self, tag: Tag) {
        if let Some(Some(listener)) = self.listeners.get_mut(tag.slot as usize) {
            listener.readable = true;
        }
    }

    /// Hands over what has arrived: at most one batch a listener, so that no listener starves another, or TCP.
    pub(super) fn receive(
        &mut self,
        ring: &mut Ring,
        sink: &mut dyn FnMut(Event<'_>, Instant),
        now: Instant,
    ) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener.as_mut().filter(|listener| listener.readable) else {
                continue;
            };
            let fd = listener.socket.as_raw_fd();
            let asked = listener.batch;
            let count = match self.receive.receive(fd, asked) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing there; or an error that the socket reported this way and has forgotten now. The poll tells what comes next.
                Err(_) => 0,
            };
            if count > 0 {
                let (read_at, date) = self.clock.now_and_date();
                listener.arrival.batch_read(read_at, date);
            }
            let id = ListenerId(index as u16);
            let mut datagrams = 0usize;
            for at in 0..count {
                let Some(received) = self.receive.received(at) else {
                    self.metrics.dropped(DropReason::Garbage);
                    datagrams += 1;
                    continue;
                };
                let flow = flow_to(id, received.peer);
                let received_at = listener.arrival.received_at(received.stamp).min(now);
                let before = datagrams;
                for bytes in received.datagrams() {
                    let event = Event::Datagram {
                        flow,
                        bytes,
                        received_at,
                    };
                    sink(event, now);
                    datagrams += 1;
                }
                if datagrams - before > 1 {
                    self.metrics.runs_in.inc();
                    self.metrics.run_datagrams_in.add((datagrams - before) as u64);
                }
            }
            self.metrics.datagrams_in.add(datagrams as u64);
            if let Some(each) = datagrams.checked_div(count) {
                listener.batch = (TURN / each.max(1)).clamp(BATCH_MIN, BATCH);
            }
            // A full batch means that there may be more, which the next turn takes. A short one means that the socket is empty: only
            // then is it worth a poll.
            if count < asked {
                listener.readable = false;
                listener.arrival.drained();
                ring.poll(fd, libc::POLLIN, Tag::new(Op::UdpReadable, index as u32, 0));
            }
        }
    }

    /// Takes a datagram into what this turn sends. The buffer's reference comes with it. `false`: there is no such listener, and the
    /// reference stays with the caller.
    #[must_use]
    pub(super) fn queue(
        &mut self,
        listener: ListenerId,
        peer: SocketAddr,
        buf: BufId,
        op: Option<TxOp>,
    ) -> bool {
        let is_here = matches!(self.listeners.get(usize::from(listener.0)), Some(Some(_)));
        let through = if is_here {
            listener
        } else {
            let successor = self.successors.iter().find(|(closed, _)| *closed == listener);
            successor.map_or(listener, |(_, successor)| *successor)
        };
        match self.listeners.get_mut(usize::from(through.0)) {
            Some(Some(listener)) => {
                listener.queue.push(Outgoing { peer, buf, op });
                true
            }
            Some(None) | None => false,
        }
    }

    /// Whether anything waits for [`Udp::flush`].
    pub(super) fn has_queued(&self) -> bool {
        self.listeners
            .iter()
            .flatten()
            .any(|listener| !listener.queue.is_empty())
    }

    /// Sends what was queued and releases the buffers.
    pub(super) fn flush(&mut self, pool: &mut Pool, ring: &mut Ring, notices: &mut Notices) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener.as_mut().filter(|listener| !listener.queue.is_empty()) else {
                continue;
            };
            let held_before = !listener.held.datagrams.is_empty();
            let id = ListenerId(index as u16);
            leave(id, listener, &mut self.out, pool, &self.metrics, notices);
            for outgoing in listener.queue.drain(..) {
                pool.release(outgoing.buf);
            }
            if !held_before && !listener.held.datagrams.is_empty() {
                await_room(ring, index, listener);
            }
        }
    }

    /// Cancels every request, for the end of the reactor's life.
    pub(super) fn cancel_all(&self, ring: &mut Ring) {
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(listener) = listener else {
                continue;
            };
            if !listener.readable {
                ring.cancel(Tag::new(Op::UdpReadable, index as u32, 0));
            }
            if !listener.held.datagrams.is_empty() {
                ring.cancel(Tag::new(Op::UdpWritable, index as u32, 0));
            }
        }
    }

    /// A socket whose send buffer was full takes datagrams again.
    pub(super) fn writable(&mut self, tag: Tag, ring: &mut Ring, notices: &mut Notices) {
        let Some(Some(listener)) = self.listeners.get_mut(tag.slot as usize) else {
            return;
        };
        let id = ListenerId(tag.slot as u16);
        let fd = listener.socket.as_raw_fd();
        let held = &mut listener.held;
        let (out, metrics) = (&mut self.out, &self.metrics);
        loop {
            let datagrams = held.datagrams.make_contiguous();
            let count = datagrams.len().min(PLAN_MAX);
            out.plan.singly(count);
            let index_of = |plan: &Plan, shipment: Shipment| {
                let index = plan.datagrams(shipment).next();
                index.expect("a shipment holds a datagram")
            };
            let done = send_all(
                &mut out.plan,
                |plan, shipments| {
                    out.batch.send(fd, shipments, |shipment| {
                        let datagram = &datagrams[index_of(plan, shipment)];
                        let to_send = ToSend {
                            bytes: &datagram.bytes,
                            padding_at: None,
                        };
                        (datagram.peer, std::iter::once(to_send))
                    })
                },
                |_, _, _| {},
                |plan, single, error| {
                    let datagram = &datagrams[index_of(plan, single)];
                    let flow = flow_to(id, datagram.peer);
                    refused(datagram.op, flow, &datagram.bytes, error, metrics, notices);
                },
                metrics,
            );
            for datagram in held.datagrams.drain(..done) {
                held.bytes -= datagram.bytes.len();
            }
            if done < count || held.datagrams.is_empty() {
                break;
            }
        }
        if !held.datagrams.is_empty() {
            await_room(ring, tag.slot as usize, listener);
        }
    }
}

impl UdpListener {
    fn new(socket: UdpSocket, has_stamps: bool, takes_runs: bool) -> io::Result<UdpListener> {
        let fd = socket.as_raw_fd();
        if has_stamps {
            socket_options::set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        }
        if takes_runs {
            socket_options::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        }
        Ok(UdpListener {
            socket,
            // The first turn looks for itself, and then has the ring watch.
            readable: true,
            batch: BATCH,
            queue: Vec::new(),
            arrival: Arrival::default(),
            held: Held::default(),
        })
    }
}

/// Has what a listener queued leave through its own socket: in runs where several datagrams wait for one peer, in as few
/// `sendmmsg` as there are batches; behind what is held already; held in turn when the send buffer is full.
fn leave(
    id: ListenerId,
    listener: &mut UdpListener,
    out: &mut Out,
    pool: &Pool,
    metrics: &Metrics,
    notices: &mut Notices,
) {
    let fd = listener.socket.as_raw_fd();
    for queued in listener.queue.chunks(PLAN_MAX) {
        let waiting = |index: usize| {
            let outgoing = &queued[index];
            let (bytes, marks) = (pool.get(outgoing.buf), pool.marks(outgoing.buf));
            Waiting {
                peer: outgoing.peer,
                len: bytes.len(),
                is_paddable: marks.padding().is_some(),
                call: marks.call(bytes),
            }
        };
        if out.makes_runs && queued.len() > 1 {
            out.plan.make(queued.len(), waiting, &out.refusals);
        } else {
            out.plan.singly(queued.len());
        }
        let sent = if listener.held.datagrams.is_empty() {
            let to_send = |index: usize| {
                let buf = queued[index].buf;
                ToSend {
                    bytes: pool.get(buf),
                    padding_at: pool.marks(buf).padding(),
                }
            };
            let of = |plan: &Plan, shipment: Shipment| {
                let first = plan.datagrams(shipment).next();
                &queued[first.expect("a shipment holds a datagram")]
            };
            send_all(
                &mut out.plan,
                |plan, shipments| {
                    out.batch.send(fd, shipments, |shipment| {
                        (of(plan, shipment).peer, plan.datagrams(shipment).map(to_send))
                    })
                },
                |plan, run, error| {
                    metrics.runs_refused.inc();
                    let peer = of(plan, run).peer;
                    if out.refusals.note(peer, error) {
                        tracing::info!(%peer, %error, "no datagrams together to this peer from now on");
                    }
                },
                |plan, single, error| {
                    let outgoing = of(plan, single);
                    let (flow, bytes) = (flow_to(id, outgoing.peer), pool.get(outgoing.buf));
                    refused(outgoing.op, flow, bytes, error, metrics, notices);
                },
                metrics,
            )
        } else {
            0
        };
        for &shipment in &out.plan.shipments[sent..] {
            for index in out.plan.datagrams(shipment) {
                let outgoing = &queued[index];
                let bytes = pool.get(outgoing.buf);
                if listener.held.push(outgoing.peer, bytes, outgoing.op) {
                    metrics.datagrams_held.inc();
                } else {
                    let (flow, reason) = (flow_to(id, outgoing.peer), CloseReason::Limit);
                    metrics.dropped(DropReason::SendError);
                    notices.send_failed(outgoing.op, flow, bytes, reason);
                }
            }
        }
    }
}

impl Held {
    fn push(&mut self, peer: SocketAddr, bytes: &[u8], op: Option<TxOp>) -> bool {
        if self.bytes + bytes.len() > HELD_BYTES_MAX {
            return false;
        }
        self.bytes += bytes.len();
        self.datagrams.push_back(HeldDatagram {
            peer,
            op,
            bytes: bytes.into(),
        });
        true
    }
}

/// Sends the shipments of `plan` by calls of `send`, which sends some of those that it is given and says how many. Gives how many
/// are dealt with: fewer than there are when the send buffer is full. A run that the kernel refuses is told to `refused` and leaves
/// at once as single datagrams; a single one goes to `failed`, and the rest goes on.
fn send_all(
    plan: &mut Plan,
    mut send: impl FnMut(&Plan, &[Shipment]) -> io::Result<usize>,
    mut refused: impl FnMut(&Plan, Shipment, &io::Error),
    mut failed: impl FnMut(&Plan, Shipment, &io::Error),
    metrics: &Metrics,
) -> usize {
    let mut at = 0;
    while at < plan.shipments.len() {
        match send(plan, &plan.shipments[at..]) {
            Ok(0) => break,
            Ok(count) => {
                for shipment in &plan.shipments[at..at + count] {
                    metrics.datagrams_out.add(u64::from(shipment.count));
                    if shipment.count > 1 {
                        metrics.runs_out.inc();
                        metrics.run_datagrams_out.add(u64::from(shipment.count));
                    }
                }
                at += count;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break,
                // sendmmsg reports an error only about the first entry of a call.
                _ if plan.shipments[at].count > 1 => {
                    refused(plan, plan.shipments[at], &error);
                    plan.split(at);
                }
                _ => {
                    failed(plan, plan.shipments[at], &error);
                    at += 1;
                }
            },
        }
    }
    at
}

const fn flow_to(listener: ListenerId, peer: SocketAddr) -> Flow {
    Flow {
        transport: Transport::Udp,
        listener,
        peer,
        conn: None,
    }
}

/// The kernel did not take a datagram. Where that is for want of memory it says nothing of the peer: the datagram counts as one that the
/// network has lost, and who sent it sends it again.
fn refused(
    op: Option<TxOp>,
    flow: Flow,
    bytes: &[u8],
    error: &io::Error,
    metrics: &Metrics,
    notices: &mut Notices,
) {
    metrics.dropped(DropReason::SendError);
    if !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) {
        notices.send_failed(op, flow, bytes, CloseReason::Reset);
    }
}

fn await_room(ring: &mut Ring, index: usize, listener: &UdpListener) {
    let tag = Tag::new(Op::UdpWritable, index as u32, 0);
    ring.poll(listener.socket.as_raw_fd(), libc::POLLOUT, tag);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of a plan: shipments dealt with, calls (how many shipments were left), errors about runs and single datagrams (by
    /// their first datagram), datagrams sent.
    type Played = (usize, Vec<usize>, Vec<usize>, Vec<usize>, u64);

    /// Plays a kernel that answers each call with the next of `answers`: a count, or an errno below zero.
    fn play(plan: &mut Plan, answers: &[i32]) -> Played {
        let (mut calls, mut refused, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let metrics = Metrics::default();
        let mut answers = answers.iter();
        let first = |plan: &Plan, shipment| plan.datagrams(shipment).next().expect("a datagram");
        let done = send_all(
            plan,
            |_, shipments| {
                calls.push(shipments.len());
                let answer = *answers.next().expect("no further call");
                usize::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer))
            },
            |plan, run, _| refused.push(first(plan, run)),
            |plan, single, _| failed.push(first(plan, single)),
            &metrics,
        );
        (done, calls, refused, failed, metrics.datagrams_out.get())
    }

    fn singles(count: usize) -> Plan {
        let mut plan = Plan::new();
        plan.singly(count);
        plan
    }

    #[test]
    fn a_refused_datagram_is_skipped_and_the_rest_goes_on() {
        let played = play(&mut singles(5), &[2, -libc::ENETUNREACH, -libc::EINTR, 2]);
        assert_eq!(played, (5, vec![5, 3, 2, 2], vec![], vec![2], 4));
    }

    #[test]
    fn a_full_send_buffer_leaves_the_rest_for_later() {
        let played = play(&mut singles(5), &[3, -libc::EAGAIN]);
        assert_eq!(played, (3, vec![5, 2], vec![], vec![], 3));
        let played = play(&mut singles(5), &[-libc::EAGAIN]);
        assert_eq!(played, (0, vec![5], vec![], vec![], 0));
    }

    #[test]
    fn a_refused_run_leaves_as_single_datagrams_at_once() {
        let mut plan = Plan::new();
        // One, then a run of three, then one.
        let waiting = |index: usize| Waiting {
            peer: (
                [127, 0, 0, 1],
                if (1..4).contains(&index) {
                    5062
                } else {
                    5060 + index as u16
                },
            )
                .into(),
            len: 400,
            is_paddable: false,
            call: b"",
        };
        plan.make(5, waiting, &Refusals::default());
        assert_eq!(plan.shipments.len(), 3);
        let played = play(&mut plan, &[1, -libc::EIO, 2, -libc::EPERM, 1]);
        assert_eq!(played, (5, vec![3, 2, 4, 2, 1], vec![1], vec![3], 4));
    }

    #[test]
    fn want_of_memory_says_nothing_of_a_peer() {
        let (metrics, mut notices) = (Metrics::default(), Notices::default());
        let op = Some(TxOp::Request {
            shard: crate::wire::ShardId(0),
            slot: 1,
            generation: 1,
        });
        let flow = flow_to(ListenerId(0), ([127, 0, 0, 1], 5060).into());
        for (errno, is_told) in [
            (libc::ENOBUFS, false),
            (libc::ENOMEM, false),
            (libc::ENETUNREACH, true),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            refused(op, flow, b"bytes", &error, &metrics, &mut notices);
            assert_eq!(notices.is_empty(), !is_told, "{error}");
        }
        assert_eq!(metrics.drops[DropReason::SendError as usize].get(), 3);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut held = Held::default();
        let peer = ([127, 0, 0, 1], 5060).into();
        let mut count = 0;
        while held.push(peer, &[0; 65_000], None) {
            count += 1;
        }
        assert_eq!(count, HELD_BYTES_MAX / 65_000);
        assert_eq!(held.bytes, count * 65_000);
    }
}
