//! What a listener's datagrams leave by: `sendmmsg` of up to 64 entries, each one datagram or a run of several to one peer
//! ([`udp_runs`](super::udp_runs)); what finds the send buffer full waits here.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::notices::Notices;
use super::udp_batch::{BATCH, SendBatch, ToSend};
use super::udp_errors::{TRIES_MAX, may_be_old};
use super::udp_runs::{PLAN_MAX, Plan, Refusals, Shipment, Waiting};
use crate::metrics::{DropReason, Metrics};
use crate::pool::{BufId, Pool};
use crate::wire::{CloseReason, Flow, ListenerId, Transport, TxOp};

/// Bytes that may wait for a socket whose send buffer is full; what comes on top is dropped and counted.
const HELD_BYTES_MAX: usize = 4 << 20;

/// What sending takes, for all listeners of a shard in turn.
pub(super) struct Out {
    batch: SendBatch,
    plan: Plan,
    /// Whether datagrams to one peer may leave together.
    makes_runs: bool,
    refusals: Refusals,
}

impl Out {
    pub(super) fn new(makes_runs: bool) -> Out {
        Out {
            batch: SendBatch::new(),
            plan: Plan::new(),
            makes_runs,
            refusals: Refusals::default(),
        }
    }
}

/// What one listener has to send.
#[derive(Default)]
pub(super) struct Outbox {
    /// What this turn sends, in order.
    pub queue: Vec<Outgoing>,
    /// What found the send buffer full, copied out of the pool, in order.
    held: Held,
}

#[derive(Clone, Copy)]
pub(super) struct Outgoing {
    pub peer: SocketAddr,
    pub buf: BufId,
    pub op: Option<TxOp>,
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

/// What became of the shipments of a plan.
struct Sent {
    /// How many are dealt with: fewer than there are when the send buffer is full.
    count: usize,
    /// A call has failed with what may be an old error: the socket's error queue is to be looked at.
    met_error: bool,
}

impl Outbox {
    /// Whether something waits for room in the send buffer.
    pub(super) fn is_held(&self) -> bool {
        !self.held.datagrams.is_empty()
    }

    /// Tells of everything that waits that it was not sent: the listener `id` is closed.
    pub(super) fn give_up(&self, id: ListenerId, metrics: &Metrics, notices: &mut Notices) {
        for datagram in &self.held.datagrams {
            let (flow, reason) = (flow_to(id, datagram.peer), CloseReason::ConnectFailed);
            metrics.dropped(DropReason::SendError);
            notices.send_failed(datagram.op, flow, &datagram.bytes, reason);
        }
    }

    /// Has what was queued leave through the listener's socket and releases its buffers: in runs where several datagrams wait for one peer,
    /// in as few `sendmmsg` as there are batches; behind what is held already; held in turn when the send buffer is full. `true`: the
    /// error queue is to be looked at.
    pub(super) fn flush(
        &mut self,
        (id, fd): (ListenerId, RawFd),
        out: &mut Out,
        pool: &mut Pool,
        metrics: &Metrics,
        notices: &mut Notices,
    ) -> bool {
        let mut met_error = false;
        for queued in self.queue.chunks(PLAN_MAX) {
            let waiting = |index: usize| {
                let outgoing = &queued[index];
                let (bytes, marks) = (pool.get(outgoing.buf), pool.marks(outgoing.buf));
                Waiting {
                    peer: outgoing.peer,
                    len: bytes.len(),
                    is_paddable: marks.padding().is_some(),
                    call: marks.order(bytes),
                }
            };
            if out.makes_runs && queued.len() > 1 {
                out.plan.make(queued.len(), waiting, &out.refusals);
            } else {
                out.plan.singly(queued.len());
            }
            let mut sent = 0;
            if self.held.datagrams.is_empty() {
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
                let done = send_all(
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
                    |plan, single| {
                        let outgoing = of(plan, single);
                        let (flow, bytes) = (flow_to(id, outgoing.peer), pool.get(outgoing.buf));
                        notices.send_failed(outgoing.op, flow, bytes, CloseReason::Reset);
                    },
                    metrics,
                );
                (sent, met_error) = (done.count, met_error | done.met_error);
            }
            for &shipment in &out.plan.shipments[sent..] {
                for index in out.plan.datagrams(shipment) {
                    let outgoing = &queued[index];
                    let bytes = pool.get(outgoing.buf);
                    if self.held.push(outgoing.peer, bytes, outgoing.op) {
                        metrics.datagrams_held.inc();
                    } else {
                        let (flow, reason) = (flow_to(id, outgoing.peer), CloseReason::Limit);
                        metrics.dropped(DropReason::SendError);
                        notices.send_failed(outgoing.op, flow, bytes, reason);
                    }
                }
            }
        }
        for outgoing in self.queue.drain(..) {
            pool.release(outgoing.buf);
        }
        met_error
    }

    /// Sends what is held, now that there is room again. `true`: the error queue is to be looked at.
    pub(super) fn send_held(
        &mut self,
        (id, fd): (ListenerId, RawFd),
        out: &mut Out,
        metrics: &Metrics,
        notices: &mut Notices,
    ) -> bool {
        let held = &mut self.held;
        let mut met_error = false;
        loop {
            let datagrams = held.datagrams.make_contiguous();
            let count = datagrams.len().min(PLAN_MAX);
            out.plan.singly(count);
            let index_of = |plan: &Plan, shipment: Shipment| {
                let index = plan.datagrams(shipment).next();
                index.expect("a shipment holds a datagram")
            };
            let sent = send_all(
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
                |plan, single| {
                    let datagram = &datagrams[index_of(plan, single)];
                    let flow = flow_to(id, datagram.peer);
                    notices.send_failed(datagram.op, flow, &datagram.bytes, CloseReason::Reset);
                },
                metrics,
            );
            met_error |= sent.met_error;
            for datagram in held.datagrams.drain(..sent.count) {
                held.bytes -= datagram.bytes.len();
            }
            if sent.count < count || held.datagrams.is_empty() {
                return met_error;
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

/// Sends the shipments of `plan` by calls of `send`, which sends some of those that it is given and says how many. A run that the kernel
/// refuses is told to `refused` and leaves at once as single datagrams; a single one that it refuses goes to `failed`, and the rest goes
/// on. What failed only because an old error was waiting is sent again.
fn send_all(
    plan: &mut Plan,
    mut send: impl FnMut(&Plan, &[Shipment]) -> io::Result<usize>,
    mut refused: impl FnMut(&Plan, Shipment, &io::Error),
    mut failed: impl FnMut(&Plan, Shipment),
    metrics: &Metrics,
) -> Sent {
    let mut at = 0;
    let mut met_error = false;
    let (mut tries, mut was_short) = (0, false);
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
                // An error behind others is not told, and one that is told no second time was an old one.
                met_error |= was_short;
                was_short = count < (plan.shipments.len() - at).min(BATCH);
                tries = 0;
                at += count;
                continue;
            }
            // sendmmsg reports an error only about the first entry of a call.
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break,
                _ if may_be_old(&error) && tries < TRIES_MAX => {
                    tries += 1;
                    met_error = true;
                }
                _ if is_loss(&error) => {
                    let lost = u64::from(plan.shipments[at].count);
                    metrics.drops[DropReason::SendError as usize].add(lost);
                    tries = 0;
                    at += 1;
                }
                _ if plan.shipments[at].count > 1 => {
                    refused(plan, plan.shipments[at], &error);
                    plan.split(at);
                }
                _ => {
                    metrics.dropped(DropReason::SendError);
                    failed(plan, plan.shipments[at]);
                    tries = 0;
                    at += 1;
                }
            },
        }
        was_short = false;
    }
    Sent { count: at, met_error }
}

/// Whether the kernel did not take a datagram for reasons that say nothing of its peer. It counts as one that the network has lost, and who
/// sent it sends it again. ECONNREFUSED is never about what is being sent: one old error after the other was in the way.
fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOBUFS | libc::ENOMEM | libc::ECONNREFUSED)
    )
}

pub(super) const fn flow_to(listener: ListenerId, peer: SocketAddr) -> Flow {
    Flow {
        transport: Transport::Udp,
        listener,
        peer,
        conn: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of a plan: shipments dealt with, calls (how many shipments were left), errors about runs and single datagrams (by
    /// their first datagram), datagrams sent.
    type Played = (usize, Vec<usize>, Vec<usize>, Vec<usize>, u64);

    /// Plays a kernel that answers each call with the next of `answers`: a count, or an errno below zero.
    fn play(plan: &mut Plan, answers: &[i32]) -> Played {
        play_with(plan, answers, &Metrics::default())
    }

    fn play_with(plan: &mut Plan, answers: &[i32], metrics: &Metrics) -> Played {
        let (mut calls, mut refused, mut failed) = (Vec::new(), Vec::new(), Vec::new());
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
            |plan, single| failed.push(first(plan, single)),
            metrics,
        );
        (done.count, calls, refused, failed, metrics.datagrams_out.get())
    }

    /// Datagrams of one length, the next to each of `ports`.
    fn to_ports(index: usize, ports: &[u16]) -> Waiting<'static> {
        Waiting {
            peer: ([127, 0, 0, 1], ports[index]).into(),
            len: 400,
            is_paddable: false,
            call: b"",
        }
    }

    fn singles(count: usize) -> Plan {
        let mut plan = Plan::new();
        plan.singly(count);
        plan
    }

    #[test]
    fn a_refused_datagram_is_skipped_and_the_rest_goes_on() {
        let played = play(&mut singles(5), &[2, -libc::EINVAL, -libc::EINTR, 2]);
        assert_eq!(played, (5, vec![5, 3, 2, 2], vec![], vec![2], 4));
        // What may be an old error is about this one when it does not go away.
        let mut answers = vec![2];
        answers.extend([-libc::ENETUNREACH; TRIES_MAX + 1]);
        answers.push(2);
        let (done, calls, refused, failed, sent) = play(&mut singles(5), &answers);
        assert_eq!((done, refused, failed, sent), (5, vec![], vec![2], 4));
        assert_eq!(calls.len(), answers.len());
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
        let ports = [5060, 5062, 5062, 5062, 5064];
        plan.make(5, |index| to_ports(index, &ports), &Refusals::default());
        assert_eq!(plan.shipments.len(), 3);
        let played = play(&mut plan, &[1, -libc::EIO, 2, -libc::EPERM, 1]);
        assert_eq!(played, (5, vec![3, 2, 4, 2, 1], vec![1], vec![3], 4));
    }

    #[test]
    fn want_of_memory_says_nothing_of_a_peer() {
        let mut plan = Plan::new();
        plan.make(
            4,
            |index| to_ports(index, &[5060, 5061, 5061, 5062]),
            &Refusals::default(),
        );
        let metrics = Metrics::default();
        let answers = [-libc::ENOBUFS, -libc::ENOMEM, 1];
        let played = play_with(&mut plan, &answers, &metrics);
        assert_eq!(played, (3, vec![3, 2, 1], vec![], vec![], 1));
        assert_eq!(metrics.drops[DropReason::SendError as usize].get(), 3);
    }

    #[test]
    fn what_an_old_error_has_stopped_is_sent_again() {
        // A run is not taken for one that the way can't carry.
        for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::EMSGSIZE] {
            let mut plan = Plan::new();
            plan.make(
                4,
                |index| to_ports(index, &[5060, 5061, 5061, 5062]),
                &Refusals::default(),
            );
            let played = play(&mut plan, &[-errno, 1, -errno, -errno, 2]);
            assert_eq!(played, (3, vec![3, 3, 2, 2, 2], vec![], vec![], 4));
        }
    }

    #[test]
    fn one_old_error_after_another_fails_nobody() {
        let metrics = Metrics::default();
        let mut answers = vec![-libc::ECONNREFUSED; TRIES_MAX + 1];
        answers.push(1);
        let played = play_with(&mut singles(2), &answers, &metrics);
        assert_eq!((played.0, played.3, played.4), (2, vec![], 1));
        assert_eq!(metrics.drops[DropReason::SendError as usize].get(), 1);
    }

    #[test]
    fn an_old_error_is_a_reason_to_look_into_the_error_queue() {
        for (answers, met_error) in [
            (&[4][..], false),
            // The buffer is full.
            (&[2, -libc::EAGAIN], false),
            (&[2, -libc::EINVAL, 1], false),
            (&[-libc::ECONNREFUSED, 4], true),
            // It was swallowed behind two others.
            (&[2, 2], true),
        ] {
            let mut answers_left = answers.iter();
            let sent = send_all(
                &mut singles(4),
                |_, _| {
                    let answer = *answers_left.next().expect("no further call");
                    usize::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer))
                },
                |_, _, _| {},
                |_, _| {},
                &Metrics::default(),
            );
            assert_eq!(sent.met_error, met_error, "{answers:?}");
        }
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
