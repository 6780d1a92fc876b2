//! UDP, one path for all kernels from 5.10 on: a one-shot poll on the ring says that a socket is readable, `recvmmsg` takes up
//! to 64 datagrams a turn, and what a turn has to say leaves in `sendmmsg` of up to 64, one run a listener.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::notices::Notices;
use super::ring::Ring;
use super::tag::{Op, Tag};
use super::udp_batch::{BATCH, ReceiveBatch, SendBatch};
use crate::metrics::{DropReason, Metrics};
use crate::pool::{BufId, Pool};
use crate::time::Instant;
use crate::wire::{CloseReason, Event, Flow, ListenerId, Transport, TxOp};

/// Bytes that may wait for a socket whose send buffer is full; what comes on top is dropped and counted.
const HELD_BYTES_MAX: usize = 4 << 20;

/// The UDP sockets of one shard.
pub(super) struct Udp {
    /// By listener; `None` where the listener is TCP.
    listeners: Vec<Option<UdpListener>>,
    receive: ReceiveBatch,
    send: SendBatch,
    metrics: Arc<Metrics>,
}

struct UdpListener {
    socket: UdpSocket,
    /// There may be datagrams: nothing has said yet that there are none.
    readable: bool,
    /// What this turn sends, in order.
    run: Vec<Outgoing>,
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
    pub(super) fn new(sockets: Vec<Option<UdpSocket>>, metrics: Arc<Metrics>) -> io::Result<Udp> {
        let listeners = sockets
            .into_iter()
            .map(|socket| {
                socket.map(|socket| UdpListener {
                    socket,
                    // The first turn looks for itself, and then has the ring watch.
                    readable: true,
                    run: Vec::new(),
                    held: Held::default(),
                })
            })
            .collect();
        Ok(Udp {
            listeners,
            receive: ReceiveBatch::new()?,
            send: SendBatch::new(),
            metrics,
        })
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
            let count = match self.receive.receive(fd) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing there; or an error that the socket reported this way and has forgotten now. The poll tells what comes next.
                Err(_) => 0,
            };
            self.metrics.datagrams_in.add(count as u64);
            let id = ListenerId(index as u16);
            for datagram in 0..count {
                match self.receive.datagram(datagram) {
                    Some(received) => {
                        let flow = Flow {
                            transport: Transport::Udp,
                            listener: id,
                            peer: received.peer,
                            conn: None,
                        };
                        sink(
                            Event::Datagram {
                                flow,
                                bytes: received.bytes,
                            },
                            now,
                        );
                    }
                    None => self.metrics.dropped(DropReason::Garbage),
                }
            }
            // A full batch means that there may be more, which the next turn takes. A short one means that the socket is empty: only
            // then is it worth a poll.
            if count < BATCH {
                listener.readable = false;
                ring.poll(fd, libc::POLLIN, Tag::new(Op::UdpReadable, index as u32, 0));
            }
        }
    }

    /// Takes a datagram into this turn's run. The buffer's reference comes with it. `false`: there is no such listener, and the
    /// reference stays with the caller.
    #[must_use]
    pub(super) fn queue(
        &mut self,
        listener: ListenerId,
        peer: SocketAddr,
        buf: BufId,
        op: Option<TxOp>,
    ) -> bool {
        match self.listeners.get_mut(usize::from(listener.0)) {
            Some(Some(listener)) => {
                listener.run.push(Outgoing { peer, buf, op });
                true
            }
            Some(None) | None => false,
        }
    }

    /// Sends what was queued and releases the buffers.
    pub(super) fn flush(&mut self, pool: &mut Pool, ring: &mut Ring, notices: &mut Notices) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener.as_mut().filter(|listener| !listener.run.is_empty()) else {
                continue;
            };
            let held_before = !listener.held.datagrams.is_empty();
            leave(listener, &mut self.send, pool, &self.metrics, notices);
            for outgoing in listener.run.drain(..) {
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
        let fd = listener.socket.as_raw_fd();
        let held = &mut listener.held;
        let (sent, metrics) = (&mut self.send, &self.metrics);
        let datagrams = held.datagrams.make_contiguous();
        let done = send_all(
            datagrams.len(),
            |from| sent.send(fd, datagrams[from..].iter().map(|held| (held.peer, &*held.bytes))),
            |index| not_sent(datagrams[index].op, metrics, notices),
            metrics,
        );
        for datagram in held.datagrams.drain(..done) {
            held.bytes -= datagram.bytes.len();
        }
        if !held.datagrams.is_empty() {
            await_room(ring, tag.slot as usize, listener);
        }
    }
}

/// Decides how a run of datagrams leaves: all through the listener's own socket, in order, in as few `sendmmsg` as there are
/// batches; behind what is held already; held in turn when the send buffer is full.
///
/// Trains (UDP_SEGMENT) and connected sockets for busy peers would divide the run here.
fn leave(
    listener: &mut UdpListener,
    batch: &mut SendBatch,
    pool: &Pool,
    metrics: &Metrics,
    notices: &mut Notices,
) {
    let fd = listener.socket.as_raw_fd();
    let run = &listener.run;
    let sent = if listener.held.datagrams.is_empty() {
        send_all(
            run.len(),
            |from| batch.send(fd, run[from..].iter().map(|out| (out.peer, pool.get(out.buf)))),
            |index| not_sent(run[index].op, metrics, notices),
            metrics,
        )
    } else {
        0
    };
    for out in &run[sent..] {
        if listener.held.push(out.peer, pool.get(out.buf), out.op) {
            metrics.datagrams_held.inc();
        } else {
            not_sent(out.op, metrics, notices);
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

/// Sends datagrams `0..len` by calls of `send(from)`, which sends some from there on and says how many. Gives how many are dealt
/// with: fewer than `len` when the send buffer is full. A datagram that the kernel refuses goes to `failed`, and the rest goes on.
fn send_all(
    len: usize,
    mut send: impl FnMut(usize) -> io::Result<usize>,
    mut failed: impl FnMut(usize),
    metrics: &Metrics,
) -> usize {
    let mut at = 0;
    while at < len {
        match send(at) {
            Ok(0) => break,
            Ok(count) => {
                metrics.datagrams_out.add(count as u64);
                at += count;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break,
                // sendmmsg reports an error only about the first datagram of a call.
                _ => {
                    failed(at);
                    at += 1;
                }
            },
        }
    }
    at
}

fn not_sent(op: Option<TxOp>, metrics: &Metrics, notices: &mut Notices) {
    metrics.dropped(DropReason::SendError);
    notices.send_failed(op, CloseReason::Reset);
}

fn await_room(ring: &mut Ring, index: usize, listener: &UdpListener) {
    let tag = Tag::new(Op::UdpWritable, index as u32, 0);
    ring.poll(listener.socket.as_raw_fd(), libc::POLLOUT, tag);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a kernel that answers each call with the next of `answers`: a count, or an errno below zero.
    fn play(len: usize, answers: &[i32]) -> (usize, Vec<usize>, Vec<usize>, u64) {
        let (mut calls, mut failed) = (Vec::new(), Vec::new());
        let metrics = Metrics::default();
        let mut answers = answers.iter();
        let done = send_all(
            len,
            |from| {
                calls.push(from);
                let answer = *answers.next().expect("no further call");
                usize::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer))
            },
            |index| failed.push(index),
            &metrics,
        );
        (done, calls, failed, metrics.datagrams_out.get())
    }

    #[test]
    fn a_refused_datagram_is_skipped_and_the_rest_goes_on() {
        let played = play(5, &[2, -libc::ENETUNREACH, -libc::EINTR, 2]);
        assert_eq!(played, (5, vec![0, 2, 3, 3], vec![2], 4));
    }

    #[test]
    fn a_full_send_buffer_leaves_the_rest_for_later() {
        assert_eq!(play(5, &[3, -libc::EAGAIN]), (3, vec![0, 3], vec![], 3));
        assert_eq!(play(5, &[-libc::EAGAIN]), (0, vec![0], vec![], 0));
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
