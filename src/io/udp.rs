//! UDP, one path for all kernels from 5.10 on: a one-shot poll on the ring says that a socket is readable, `recvmmsg` takes up
//! to 64 datagrams a turn, and what a turn has to say through a listener leaves together ([`udp_send`](super::udp_send)). Errors that came
//! back for datagrams ([`udp_errors`]) are looked for when the poll or a failed call says that there are some.

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
use super::udp_batch::{BATCH, ReceiveBatch};
use super::udp_errors::{self, TRIES_MAX, may_be_old};
use super::udp_send::{Out, Outbox, Outgoing, flow_to};
use crate::metrics::{DropReason, Metrics};
use crate::pool::{BufId, Pool};
use crate::time::Instant;
use crate::wire::{Event, ListenerId, TxOp};

/// Datagrams that a turn takes from a listener where they come in runs, as the last turn foretells; at least so many runs.
const TURN: usize = 2 * BATCH;
const BATCH_MIN: usize = 4;

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

struct UdpListener {
    socket: UdpSocket,
    /// There may be datagrams: nothing has said yet that there are none.
    readable: bool,
    /// How much the next receive asks for: fewer where each is a run of many datagrams.
    batch: usize,
    arrival: Arrival,
    /// Its error queue may hold something.
    has_errors: bool,
    outbox: Outbox,
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
            out: Out::new(makes_runs),
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
        if closed.outbox.is_held() {
            ring.cancel(Tag::new(Op::UdpWritable, index as u32, 0));
        }
        closed.outbox.give_up(id, &self.metrics, notices);
        succeed(&mut self.successors, id, successor);
    }

    /// Whether there may be datagrams that nothing has to be waited for.
    pub(super) fn is_readable(&self) -> bool {
        self.listeners.iter().flatten().any(|listener| listener.readable)
    }

    /// The same for errors.
    pub(super) fn has_errors(&self) -> bool {
        self.listeners
            .iter()
            .flatten()
            .any(|listener| listener.has_errors)
    }

    /// The poll of a listener completed with `events`.
    pub(super) fn poll_completed(&mut self, tag: Tag, events: i32) {
        if let Some(Some(listener)) = self.listeners.get_mut(tag.slot as usize) {
            listener.readable = true;
            listener.has_errors |= has_error(events);
        }
    }

    /// Hands over what has arrived: at most one batch a listener, so that no listener starves another, or TCP. Then the errors about
    /// datagrams, in the same measure: whoever has answered before his port was closed has answered.
    pub(super) fn receive(
        &mut self,
        ring: &mut Ring,
        sink: &mut dyn FnMut(Event<'_>, Instant),
        now: Instant,
    ) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener else { continue };
            let id = ListenerId(index as u16);
            if listener.readable {
                let (batch, clock, metrics) = (&mut self.receive, &self.clock, &self.metrics);
                listener.receive(id, batch, clock, metrics, sink, now);
                if !listener.readable {
                    let tag = Tag::new(Op::UdpReadable, index as u32, 0);
                    ring.poll(listener.socket.as_raw_fd(), libc::POLLIN, tag);
                }
            }
            if listener.has_errors {
                let fd = listener.socket.as_raw_fd();
                listener.has_errors = udp_errors::take((id, fd), &mut self.receive, &self.metrics, sink, now);
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
                listener.outbox.queue.push(Outgoing { peer, buf, op });
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
            .any(|listener| !listener.outbox.queue.is_empty())
    }

    /// Sends what was queued and releases the buffers.
    pub(super) fn flush(&mut self, pool: &mut Pool, ring: &mut Ring, notices: &mut Notices) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener
                .as_mut()
                .filter(|listener| !listener.outbox.queue.is_empty())
            else {
                continue;
            };
            let held_before = listener.outbox.is_held();
            let from = (ListenerId(index as u16), listener.socket.as_raw_fd());
            let outbox = &mut listener.outbox;
            listener.has_errors |= outbox.flush(from, &mut self.out, pool, &self.metrics, notices);
            if !held_before && listener.outbox.is_held() {
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
            if listener.outbox.is_held() {
                ring.cancel(Tag::new(Op::UdpWritable, index as u32, 0));
            }
        }
    }

    /// A socket whose send buffer was full takes datagrams again: its poll completed with `events`.
    pub(super) fn writable(&mut self, tag: Tag, events: i32, ring: &mut Ring, notices: &mut Notices) {
        let Some(Some(listener)) = self.listeners.get_mut(tag.slot as usize) else {
            return;
        };
        let from = (ListenerId(tag.slot as u16), listener.socket.as_raw_fd());
        let met_error = (listener.outbox).send_held(from, &mut self.out, &self.metrics, notices);
        listener.has_errors |= met_error | has_error(events);
        if listener.outbox.is_held() {
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
        udp_errors::keep_errors(&socket)?;
        Ok(UdpListener {
            socket,
            // The first turn looks for itself, and then has the ring watch.
            readable: true,
            batch: BATCH,
            arrival: Arrival::default(),
            has_errors: false,
            outbox: Outbox::default(),
        })
    }

    /// Hands over a batch of what has arrived.
    fn receive(
        &mut self,
        id: ListenerId,
        batch: &mut ReceiveBatch,
        clock: &Clock,
        metrics: &Metrics,
        sink: &mut dyn FnMut(Event<'_>, Instant),
        now: Instant,
    ) {
        let asked = self.batch;
        let Some(count) = self.read(asked, batch) else {
            return;
        };
        if count > 0 {
            let (read_at, date) = clock.now_and_date();
            self.arrival.batch_read(read_at, date);
        }
        let mut datagrams = 0usize;
        for at in 0..count {
            let Some(received) = batch.received(at) else {
                metrics.dropped(DropReason::Garbage);
                datagrams += 1;
                continue;
            };
            let flow = flow_to(id, received.peer);
            let received_at = self.arrival.received_at(received.stamp).min(now);
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
                metrics.runs_in.inc();
                metrics.run_datagrams_in.add((datagrams - before) as u64);
            }
        }
        metrics.datagrams_in.add(datagrams as u64);
        if let Some(each) = datagrams.checked_div(count) {
            self.batch = (TURN / each.max(1)).clamp(BATCH_MIN, BATCH);
        }
        // A full batch means that there may be more, which the next turn takes. A short one means that the socket is empty: only
        // then is it worth a poll.
        if count < asked {
            self.readable = false;
            self.arrival.drained();
        }
    }

    /// Reads up to `asked` datagrams, or runs of them. `None`: the next turn is to try again.
    fn read(&mut self, asked: usize, batch: &mut ReceiveBatch) -> Option<usize> {
        for _ in 0..TRIES_MAX {
            match batch.receive(self.socket.as_raw_fd(), asked) {
                Ok(count) => return Some(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
                Err(error) if may_be_old(&error) => self.has_errors = true,
                // There is nothing. The poll tells what comes next.
                Err(_) => return Some(0),
            }
        }
        None
    }
}

/// Whether a poll that completed with `events` has seen that the error queue is not empty. An error of the poll itself is looked into by what
/// it was for.
const fn has_error(events: i32) -> bool {
    events > 0 && events & libc::POLLERR as i32 != 0
}

fn await_room(ring: &mut Ring, index: usize, listener: &UdpListener) {
    let tag = Tag::new(Op::UdpWritable, index as u32, 0);
    ring.poll(listener.socket.as_raw_fd(), libc::POLLOUT, tag);
}

/// From now on `successor` sends in the place of `closed`, and in that of all that it has sent for.
fn succeed(
    successors: &mut Vec<(ListenerId, ListenerId)>,
    closed: ListenerId,
    successor: Option<ListenerId>,
) {
    match successor {
        Some(successor) => {
            let own = successors.iter_mut().filter(|(_, by)| *by == closed);
            own.for_each(|(_, by)| *by = successor);
            successors.push((closed, successor));
        }
        None => successors.retain(|(_, by)| *by != closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_for_others_is_succeeded_in_that_too() {
        let [a, b, c, d] = [0, 1, 2, 3].map(ListenerId);
        let mut successors = Vec::new();
        succeed(&mut successors, a, Some(b));
        succeed(&mut successors, b, Some(c));
        assert_eq!(successors, [(a, c), (b, c)]);
        succeed(&mut successors, d, None);
        assert_eq!(successors, [(a, c), (b, c)]);
        succeed(&mut successors, c, None);
        assert!(successors.is_empty());
    }
}
