//! OPTIONS to the destinations of trunks, by which is known whether they are up. RFC 3261 §11.
//!
//! A destination has one timer, which means what its [`State`] says: time to ask, or time that the answer has come.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::msg::build;
use crate::msg::method::Method;
use crate::pool::BufId;
use crate::time::Instant;
use crate::timer::{Timer, TimerKind};
use crate::transaction::destination::listener_for;
use crate::transaction::{Stack, TxId, User};
use crate::wire::{Effects, Flow, Transport};

use super::health::Change;
use super::standing::Outcome;
use super::{DestinationId, timer};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The next OPTIONS is sent when the timer fires.
    Due,
    /// One is out, since then.
    Waiting(TxId, Instant),
    /// It has come to something; the timer that bounds the wait runs on.
    Heard,
}

/// The most that one OPTIONS takes: the names in it are bounded.
const OPTIONS_BYTES: usize = 2_048;

/// The timer of kind [`TimerKind::Ping`] fired.
pub fn on_timer(stack: &mut Stack, fired: Timer, now: Instant, out: &mut Effects) {
    let id = DestinationId {
        index: fired.slot as u16,
        generation: fired.generation,
    };
    let Some(destination) = stack.trunks.get(id) else {
        return;
    };
    let state = destination.ping;
    let Some(settings) = stack.cfg.trunks.get(usize::from(destination.trunk)) else {
        return;
    };
    let (interval, timeout) = (settings.ping_interval, settings.ping_timeout);
    let timeout = timeout.min(interval);
    let wait = match state {
        State::Due => {
            if send(stack, id, now, out).is_none() {
                // No address, or no room: nobody is there to answer.
                hear(stack, id, false, Outcome::NotSent, None, now);
            }
            timeout
        }
        State::Waiting(tx, _) => {
            stack.abandon(tx, out);
            hear(stack, id, false, Outcome::TimeOut, None, now);
            rest(stack, id, interval, timeout)
        }
        State::Heard => rest(stack, id, interval, timeout),
    };
    let timer = stack.wheel.insert(now + wait, timer(TimerKind::Ping, id));
    if let Some(destination) = stack.trunks.get_mut(id) {
        destination.ping_timer = Some(timer);
    }
}

/// The next is due when the interval is over, give or take a tenth: servers that were started at one time would otherwise ask
/// at one time for ever.
fn rest(stack: &mut Stack, id: DestinationId, interval: Duration, timeout: Duration) -> Duration {
    if let Some(destination) = stack.trunks.get_mut(id) {
        destination.ping = State::Due;
    }
    let percent = 90 + stack.trunks.random.up_to(20);
    (interval * percent / 100).saturating_sub(timeout)
}

/// A response to an OPTIONS, or the word that none can come.
pub fn on_answer(stack: &mut Stack, slot: u32, generation: u32, outcome: Outcome, now: Instant) {
    let id = DestinationId {
        index: slot as u16,
        generation,
    };
    if matches!(outcome, Outcome::Status(..200)) {
        return;
    }
    let Some(destination) = stack.trunks.get(id) else {
        return;
    };
    let State::Waiting(_, sent_at) = destination.ping else {
        return;
    };
    let Some(settings) = stack.cfg.trunks.get(usize::from(destination.trunk)) else {
        return;
    };
    let (is_alive, round_trip) = match outcome {
        Outcome::Status(status) => (settings.ping_alive.contains(status), Some(now.since(sent_at))),
        Outcome::TimeOut | Outcome::Unreachable | Outcome::NotSent => (false, None),
    };
    hear(stack, id, is_alive, outcome, round_trip, now);
}

fn hear(
    stack: &mut Stack,
    id: DestinationId,
    is_alive: bool,
    outcome: Outcome,
    round_trip: Option<Duration>,
    now: Instant,
) {
    let cfg = stack.cfg.clone();
    let Some(destination) = stack.trunks.get_mut(id) else {
        return;
    };
    destination.ping = State::Heard;
    let Some(settings) = cfg.trunks.get(usize::from(destination.trunk)) else {
        return;
    };
    let change = destination
        .health
        .hear(is_alive, settings.up_after, settings.down_after);
    if !is_alive && destination.hops.len() > 1 {
        // Another of its addresses may answer.
        destination.hops.rotate_left(1);
    }
    let Some(state) = stack.trunks.state(id) else {
        return;
    };
    state.known.options_came_to(outcome, round_trip);
    if is_alive {
        state.known.trust(now);
    } else {
        state.pings_failed.fetch_add(1, Relaxed);
    }
    match change {
        None => {}
        Some(Change::Up) => state.known.set_down(false, now),
        Some(Change::Down) => state.known.set_down(true, now),
    }
}

fn send(stack: &mut Stack, id: DestinationId, now: Instant, out: &mut Effects) -> Option<()> {
    let target = stack.trunks.get(id)?.hops.first()?.target;
    let listener = listener_for(&stack.cfg, target.transport, target.addr.ip(), None)?;
    let flow = Flow {
        transport: target.transport,
        listener,
        peer: target.addr,
        conn: None,
    };
    let user = User::Ping {
        slot: u32::from(id.index),
        generation: id.generation,
    };
    let tx = stack.open_client(user, Method::Options, flow)?;
    let Some(buf) = write(stack, tx, flow, out) else {
        stack.abandon(tx, out);
        return None;
    };
    if let Some(state) = stack.trunks.state(id) {
        state.pings_sent.fetch_add(1, Relaxed);
    }
    stack.trunks.get_mut(id)?.ping = State::Waiting(tx, now);
    stack.send_request(tx, buf, now, out);
    Some(())
}

fn write(stack: &mut Stack, tx: TxId, flow: Flow, out: &mut Effects) -> Option<BufId> {
    let (call_id, from_tag) = (stack.stateless_tag(), stack.stateless_tag());
    let mut addr = [0; 64];
    let mut text = std::io::Cursor::new(&mut addr[..]);
    std::io::Write::write_fmt(&mut text, format_args!("{}", flow.peer)).ok()?;
    let len = text.position() as usize;
    let peer = &addr[..len];
    let advertised = stack.advertised(flow).to_owned();
    stack.write(OPTIONS_BYTES, out, |w, _| {
        w.put(b"OPTIONS sip:").put(peer);
        match flow.transport {
            Transport::Udp => {}
            Transport::Tcp => _ = w.put(b";transport=tcp"),
        }
        w.put(b" SIP/2.0\r\n");
        stack.put_via(tx, w);
        w.put(b"Max-Forwards: 70\r\nFrom: <sip:ping@")
            .put(advertised.as_bytes());
        w.put(b">;tag=").put(&from_tag);
        w.put(b"\r\nTo: <sip:")
            .put(peer)
            .put(b">\r\nCall-ID: ")
            .put(&call_id);
        w.put(b"\r\nCSeq: 1 OPTIONS\r\nAccept: application/sdp\r\n");
        build::end(w);
    })
}
