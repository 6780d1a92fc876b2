//! The second reactor: what the core's loop asks of the outside, answered by the simulated network.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::io::reactor::Reactor;
use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Effect, Effects, Event, Flow, ShardId, Transport, TxOp};

use super::net::{Arrival, Happening, Net, UDP};
use super::trace::What;

/// Arrivals that one turn takes up, as one batch of datagrams does.
const BATCH: usize = 64;
/// How long a wake-up takes to another shard, microseconds.
const WAKE_US: (u64, u64) = (2, 60);

/// The outside of one shard.
pub(super) struct SimReactor {
    pub net: Rc<RefCell<Net>>,
    pub shard: usize,
    /// Phones that closed their side of a connection in the last turn.
    half_closed: Vec<u32>,
}

impl SimReactor {
    pub fn new(net: Rc<RefCell<Net>>, shard: usize) -> SimReactor {
        SimReactor {
            net,
            shard,
            half_closed: Vec::new(),
        }
    }

    /// Whether a turn would find something to do before its deadline.
    pub fn has_work(&self) -> bool {
        let net = self.net.borrow();
        !self.half_closed.is_empty() || net.is_woken[self.shard] || !net.inbox[self.shard].is_empty()
    }

    /// The bookkeeping of one arrival, and what the core is told of it.
    fn take(&mut self, arrival: &Arrival) -> Option<Flow> {
        let mut net = self.net.borrow_mut();
        match arrival {
            Arrival::Datagram { peer, load, .. } => {
                if let super::net::Load::Whole(packet) = load {
                    net.record(What::Received, Transport::Udp, *peer, None, packet);
                }
                Some(Flow {
                    transport: Transport::Udp,
                    listener: UDP,
                    peer: *peer,
                    conn: None,
                })
            }
            Arrival::Bytes { stream, whole, .. } => {
                if !net.is_open(*stream) {
                    return None;
                }
                let peer = net.peer_of(*stream);
                for packet in whole {
                    net.record(What::Received, Transport::Tcp, peer, Some(*stream), packet);
                }
                Some(net.streams[*stream as usize].flow(*stream))
            }
            Arrival::Fin { stream } => {
                self.half_closed.push(*stream);
                None
            }
            Arrival::Opened { stream } | Arrival::Closed { stream, .. } => {
                Some(net.streams[*stream as usize].flow(*stream))
            }
            Arrival::SendFailed { .. } => None,
        }
    }
}

impl Reactor for SimReactor {
    fn turn(
        &mut self,
        _deadline: Option<Instant>,
        sink: &mut dyn FnMut(Event<'_>, Instant),
    ) -> io::Result<Instant> {
        let (now, arrivals) = {
            let mut net = self.net.borrow_mut();
            for stream in std::mem::take(&mut self.half_closed) {
                net.close_half_closed(stream);
            }
            net.is_woken[self.shard] = false;
            let inbox = &mut net.inbox[self.shard];
            let count = inbox.len().min(BATCH);
            let arrivals: VecDeque<Arrival> = inbox.drain(..count).collect();
            (net.now, arrivals)
        };
        for arrival in arrivals {
            let flow = self.take(&arrival);
            let event = match (&arrival, flow) {
                (
                    Arrival::Datagram {
                        load, received_at, ..
                    },
                    Some(flow),
                ) => Event::Datagram {
                    flow,
                    bytes: load.bytes(),
                    received_at: *received_at,
                },
                (Arrival::Bytes { bytes, .. }, Some(flow)) => Event::Stream { flow, bytes },
                (Arrival::Opened { .. }, Some(flow)) => Event::Opened { flow },
                (Arrival::Closed { reason, .. }, Some(Flow { conn: Some(conn), .. })) => Event::Closed {
                    conn,
                    reason: *reason,
                },
                (Arrival::SendFailed { op, reason, was_sent }, _) => Event::SendFailed {
                    op: *op,
                    reason: *reason,
                    was_sent: *was_sent,
                },
                (
                    Arrival::Datagram { .. }
                    | Arrival::Bytes { .. }
                    | Arrival::Opened { .. }
                    | Arrival::Closed { .. }
                    | Arrival::Fin { .. },
                    _,
                ) => continue,
            };
            sink(event, now);
        }
        Ok(now)
    }

    fn flush(&mut self, effects: &mut Effects) {
        let mut net = self.net.borrow_mut();
        for index in 0..effects.len() {
            match effects.get(index) {
                Some(Effect::Send { flow, buf, op }) => {
                    let op = op.filter(|op| matches!(op, TxOp::Request { .. }));
                    match flow.transport {
                        Transport::Udp => {
                            if !net.send_datagram_out(flow.peer, effects.pool.get(buf))
                                && let Some(op) = op
                            {
                                let reason = CloseReason::Reset;
                                net.inbox[self.shard].push_back(Arrival::SendFailed {
                                    op,
                                    reason,
                                    was_sent: false,
                                });
                            }
                        }
                        Transport::Tcp => {
                            net.send_stream_out(self.shard, &flow, effects.pool.get(buf), op);
                        }
                    }
                    effects.pool.release(buf);
                }
                Some(Effect::Close { conn, reason }) => self.close(&mut net, conn, reason),
                Some(Effect::Wake { shard }) => {
                    let (low, high) = WAKE_US;
                    let after = Duration::from_micros(net.rng.between(low, high));
                    let at = net.now + after;
                    let shard = usize::from(shard.0);
                    net.at(at, Happening::Wake { shard });
                }
                Some(Effect::Nothing) | None => {}
            }
        }
        effects.clear();
    }

    fn now(&self) -> Instant {
        self.net.borrow().now
    }
}

impl SimReactor {
    fn close(&self, net: &mut Net, conn: ConnId, reason: CloseReason) {
        assert_eq!(
            conn.shard,
            ShardId(self.shard as u8),
            "only its own shard closes a connection"
        );
        net.close_out(conn, reason);
    }
}
