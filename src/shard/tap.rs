//! What a trace sees of a shard: messages as they come to the shard that owns them, and what leaves in the turn. While there is no
//! trace, that is one look a message and one a turn.

use std::net::SocketAddr;

use crate::capture::{Captured, TraceSet};
use crate::msg::scan::Message;
use crate::port::Tell;
use crate::tap::Tap;
use crate::time::Instant;
use crate::wire::{Effect, Effects, Flow};

use super::Shard;

impl Shard {
    /// A message that this shard owns has come.
    pub(super) fn tap_received(&mut self, msg: &Message<'_>, call_id: &[u8], flow: Flow, out: &mut Effects) {
        let Some(mut tap) = self.stack.tap.take() else {
            return;
        };
        let leg = self.stack.key.parse(call_id);
        // A leg is followed with its call, which may have been forgotten for others since.
        match leg.and_then(|leg| self.ims.calls.caller_call_id(leg, &out.pool)) {
            Some(caller) => {
                tap.look_at(msg, caller, flow.peer, false);
                tap.link(caller, call_id);
            }
            None => tap.look_at(msg, call_id, flow.peer, leg.is_some()),
        }
        let captured = Captured {
            at: out.received_at,
            transport: flow.transport,
            from: flow.peer,
            to: self.local_addr(flow),
        };
        tell(&mut tap, captured, true, call_id, &msg.bytes[..msg.len()], out);
        self.stack.tap = Some(tap);
    }

    /// What is about to leave.
    pub(super) fn tap_sent(&mut self, now: Instant, out: &mut Effects) {
        let Some(mut tap) = self.stack.tap.take() else {
            return;
        };
        let mut message = std::mem::take(&mut self.letter);
        for index in 0..out.len() {
            match out.get(index) {
                Some(Effect::Send { flow, buf, op: _ }) => {
                    let bytes = out.pool.get(buf);
                    let (len, marks) = (bytes.len(), out.pool.marks(buf));
                    message[..len].copy_from_slice(bytes);
                    // A keep-alive has none.
                    let call_id = marks.call(&message[..len]);
                    let peer = self.peer_of(flow);
                    let leg = self.stack.key.parse(call_id);
                    // A trace that began in the middle of the call may know one leg alone.
                    match leg.and_then(|leg| self.ims.calls.caller_call_id(leg, &out.pool)) {
                        Some(caller) => {
                            tap.look_at_sent(caller, peer);
                            tap.link(caller, call_id);
                        }
                        None => tap.look_at_sent(call_id, peer),
                    }
                    let captured = Captured {
                        at: now,
                        transport: flow.transport,
                        from: self.local_addr(flow),
                        to: peer,
                    };
                    // The shard of its connection tells of it when it leaves there.
                    if flow.conn.is_none_or(|conn| conn.shard == self.stack.shard) {
                        tell(&mut tap, captured, false, call_id, &message[..len], out);
                    }
                }
                Some(Effect::Close { .. } | Effect::Wake { .. } | Effect::Nothing) | None => {}
            }
        }
        self.letter = message;
        self.stack.tap = Some(tap);
    }

    /// What another shard has sent on a connection of this one, and what its traces call its call.
    pub(super) fn tap_mailed(
        &self,
        flow: Flow,
        traces: TraceSet,
        call: &[u8],
        bytes: &[u8],
        now: Instant,
        out: &mut Effects,
    ) {
        if traces.is_empty() {
            return;
        }
        let message = Captured {
            at: now,
            transport: flow.transport,
            from: self.local_addr(flow),
            to: self.peer_of(flow),
        };
        let tell = Tell::Captured {
            message,
            is_received: false,
            traces,
            call_len: call.len() as u32,
        };
        out.tell(tell, &[call, bytes].concat());
    }

    /// The other end of a flow: that of its connection while this shard has it, since a flow may name another port for the time after that.
    fn peer_of(&self, flow: Flow) -> SocketAddr {
        let stream = flow.conn.and_then(|conn| self.by_conn.get(&conn));
        stream
            .and_then(|id| self.streams.get(*id))
            .map_or(flow.peer, |stream| stream.flow.peer)
    }

    fn local_addr(&self, flow: Flow) -> SocketAddr {
        let listener = self.stack.cfg.listeners.get(usize::from(flow.listener.0));
        let unknown = SocketAddr::from(([0; 4], 0));
        listener.map_or(unknown, |listener| {
            // What it listens on may be every address: then what it says of itself is nearer.
            match listener.advertised.parse() {
                Ok(advertised) if listener.addr.ip().is_unspecified() => advertised,
                Ok(_) | Err(_) => listener.addr,
            }
        })
    }
}

fn tell(
    tap: &mut Tap,
    message: Captured,
    is_received: bool,
    call_id: &[u8],
    bytes: &[u8],
    out: &mut Effects,
) {
    let mut told = std::mem::take(&mut tap.scratch);
    told.clear();
    let mut traces = TraceSet::default();
    if let Some((of, call)) = tap.traces_of(call_id) {
        traces = of;
        told.extend_from_slice(call);
    }
    if !traces.is_empty() {
        let call_len = told.len() as u32;
        told.extend_from_slice(bytes);
        let tell = Tell::Captured {
            message,
            is_received,
            traces,
            call_len,
        };
        out.tell(tell, &told);
    }
    tap.scratch = told;
}
