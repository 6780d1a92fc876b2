//! Bytes that come in on connections: by multishot RECV into the buffer ring, or, on older kernels, by readiness and a plain
//! receive into one buffer for all. Either way a connection that says nothing owns no buffer.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::buf_ring::{self, BufRing};
use super::clock::Clock;
use super::ring::{Completion, LAG_PROBE, Ring};
use super::tag::Op;
use super::tcp::{Connection, Cx, Phase, Tcp};
use crate::time::Instant;
use crate::wire::{CloseReason, Event};

/// Bytes that one plain receive takes.
const PLAIN_BYTES: usize = 64 << 10;

/// How bytes are received.
pub(super) enum Receiver {
    /// Multishot RECV, 6.0+.
    Ring(BufRing),
    /// A one-shot poll a connection, then a plain receive into this.
    Plain(Box<[u8]>),
}

impl Receiver {
    pub(super) fn plain() -> Receiver {
        Receiver::Plain(vec![0; PLAIN_BYTES].into_boxed_slice())
    }

    /// Gives the kernel back the buffers of this turn.
    pub(super) fn end_turn(&self) {
        match self {
            Receiver::Ring(buf_ring) => buf_ring.publish(),
            Receiver::Plain(_) => {}
        }
    }
}

/// What a receive found.
enum Found<'a> {
    Bytes(&'a [u8]),
    End,
    /// Nothing to tell: it is to be tried again.
    Nothing,
    Broken,
}

impl Tcp {
    /// Puts a receive for the connection on the ring, unless one is there or nothing more can come.
    pub(super) fn start_receive(&mut self, slot: u32, ring: &mut Ring) {
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        let wanted = match connection.phase {
            // While closing, receiving goes on to see the peer's end.
            Phase::Open | Phase::Draining { .. } | Phase::Lingering { .. } => !connection.peer_done,
            Phase::Connecting | Phase::Gone => false,
        };
        if !wanted || connection.receiving {
            return;
        }
        connection.receiving = true;
        let fd = connection.socket.as_raw_fd();
        match &self.receiver {
            // SAFETY: the buffer ring is given back only after all receives have ended, else leaked: see `Uring`'s drop.
            Receiver::Ring(_) => unsafe {
                ring.recv_multi(fd, buf_ring::GROUP, connection.tag(Op::Recv, slot));
            },
            Receiver::Plain(_) => ring.poll(fd, libc::POLLIN, connection.tag(Op::RecvReady, slot)),
        }
    }

    /// A RECV has bytes, or came to an end.
    pub(super) fn recv_completed(
        &mut self,
        completion: Completion,
        cx: &mut Cx<'_>,
        sink: &mut dyn FnMut(Event<'_>, Instant),
    ) {
        let slot = completion.tag.slot;
        let ended = !completion.more();
        // Split, because the bytes are in the receiver while the connection is worked on.
        let Tcp {
            connections,
            receiver: Receiver::Ring(buf_ring),
            metrics,
            half_closed,
            waits,
            ..
        } = self
        else {
            return;
        };
        let buffer = io_uring::cqueue::buffer_select(completion.flags);
        let connection = connections
            .get_mut(slot as usize)
            .filter(|connection| completion.tag.is_of(connection.generation));
        let mut broken = false;
        if let Some(connection) = connection {
            connection.receiving &= !ended;
            let found = match usize::try_from(completion.result) {
                Ok(0) => Found::End,
                Ok(count) => match buffer.and_then(|id| buf_ring.filled(id, count)) {
                    Some(bytes) => Found::Bytes(bytes),
                    None => Found::Broken,
                },
                Err(_) => match -completion.result {
                    libc::ENOBUFS => {
                        metrics.buffer_ring_empty.inc();
                        Found::Nothing
                    }
                    libc::EAGAIN | libc::EINTR => Found::Nothing,
                    _ => Found::Broken,
                },
            };
            if let Found::Bytes(_) | Found::Nothing = found
                && ended
            {
                metrics.multishot_rearmed.inc();
            }
            if let Found::Bytes(bytes) = found {
                metrics.stream_bytes_in.add(bytes.len() as u64);
                // What is thrown away waits for nothing.
                if connection.phase == Phase::Open {
                    waits.heard(slot, bytes.len(), bytes.len() >= buf_ring::BUFFER_BYTES);
                }
            }
            broken = hand_over(connection, found, half_closed, cx.now, sink);
        }
        if let Some(id) = buffer {
            buf_ring.give_back(id);
        }
        self.received(slot, broken, cx);
    }

    /// A connection has bytes to read, or its end.
    pub(super) fn recv_ready(
        &mut self,
        completion: Completion,
        cx: &mut Cx<'_>,
        sink: &mut dyn FnMut(Event<'_>, Instant),
    ) {
        let slot = completion.tag.slot;
        let Tcp {
            connections,
            receiver: Receiver::Plain(buffer),
            metrics,
            half_closed,
            waits,
            ..
        } = self
        else {
            return;
        };
        let connection = connections
            .get_mut(slot as usize)
            .filter(|connection| completion.tag.is_of(connection.generation));
        let mut broken = false;
        if let Some(connection) = connection {
            connection.receiving = false;
            if connection.phase != Phase::Gone {
                // One receive a turn: a connection that sends without end doesn't starve the others.
                let found = match receive(connection.socket.as_raw_fd(), buffer) {
                    Ok(0) => Found::End,
                    Ok(count) => {
                        metrics.stream_bytes_in.add(count as u64);
                        if connection.phase == Phase::Open {
                            waits.heard(slot, count, count >= buf_ring::BUFFER_BYTES);
                        }
                        Found::Bytes(&buffer[..count])
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Found::Nothing,
                        _ => Found::Broken,
                    },
                };
                broken = hand_over(connection, found, half_closed, cx.now, sink);
            }
        }
        self.received(slot, broken, cx);
    }

    /// All `completions` of a turn that began at `now` have been handled: how long what came on connections had waited.
    pub(super) fn end_receiving(
        &mut self,
        completions: usize,
        ring: &mut Ring,
        clock: &Clock,
        now: Instant,
    ) -> Option<Duration> {
        let connections = &self.connections;
        let pending = |slot: u32| {
            connections
                .get(slot as usize)
                .map_or(0, |connection| pending_bytes(connection.socket.as_raw_fd()))
        };
        let turn = self.waits.end_turn(now, completions, pending)?;
        if turn.probes {
            self.waits.probing(clock.now() + LAG_PROBE);
            ring.probe_lag();
        }
        Some(turn.wait)
    }

    /// Whether a RECV is on the ring that may still write to a buffer.
    pub(super) fn is_receiving_by_ring(&self) -> bool {
        match self.receiver {
            Receiver::Ring(_) => self
                .connections
                .iter()
                .any(|(_, connection)| connection.receiving),
            Receiver::Plain(_) => false,
        }
    }

    /// A RECV ended, or had bytes that nobody is left to hear.
    pub(super) fn recv_ended(&mut self, completion: Completion) {
        if let Some(connection) = self.by_tag(completion.tag) {
            connection.receiving &= completion.more();
        }
    }

    /// Never gives the buffers back: receives into them could not be ended.
    pub(super) fn leak_buffers(&mut self) {
        match std::mem::replace(&mut self.receiver, Receiver::Plain(Box::default())) {
            Receiver::Ring(buf_ring) => buf_ring.leak(),
            Receiver::Plain(_) => {}
        }
    }

    /// What follows a receive.
    fn received(&mut self, slot: u32, broken: bool, cx: &mut Cx<'_>) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        match connection.phase {
            Phase::Gone => self.remove_if_done(slot),
            _ if broken => self.fail(slot, CloseReason::Reset, cx),
            Phase::Lingering { reason, .. } if connection.peer_done => self.finish(slot, reason, cx),
            Phase::Connecting | Phase::Open | Phase::Draining { .. } | Phase::Lingering { .. } => {
                self.start_receive(slot, cx.ring);
            }
        }
    }
}

/// Gives what was found to the core, if it still listens to the connection. `true`: the connection is broken.
fn hand_over(
    connection: &mut Connection,
    found: Found<'_>,
    half_closed: &mut Vec<crate::wire::ConnId>,
    now: Instant,
    sink: &mut dyn FnMut(Event<'_>, Instant),
) -> bool {
    match found {
        Found::Bytes(bytes) => {
            connection.heard_at = now;
            connection.queue.heard();
            // What comes while the connection is being closed is thrown away.
            if connection.phase == Phase::Open {
                let flow = connection.flow;
                sink(Event::Stream { flow, bytes }, now);
            }
            false
        }
        Found::End => {
            connection.peer_done = true;
            // RFC 9293 §3.6: the peer sends nothing more but may still read. What this turn has to answer still leaves.
            if connection.phase == Phase::Open {
                half_closed.extend(connection.flow.conn);
            }
            false
        }
        Found::Nothing => false,
        Found::Broken => true,
    }
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for writes of its whole length.
    let count = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Bytes that wait in a socket to be received.
fn pending_bytes(fd: RawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one integer, to a place of ours.
    let done = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) };
    if done == 0 {
        usize::try_from(count).unwrap_or(0)
    } else {
        0
    }
}
