//! Answers that could not leave by the way that their requests came: RFC 3261 §18.2.2, RFC 3263 §5.
//!
//! The connection of the request comes first, then a new one to the host that it came from, then wherever the sent-by of its Via leads: a
//! name's addresses one after the other, looked up in DNS. All that this takes stands in the answer, and how far it has come goes with it
//! ([`TxOp::Answer`]): so nothing is kept of an answer but while DNS is asked, and no answer is tried without end.

use std::net::SocketAddr;

use crate::dns::plan::{Host, TARGETS_MAX, Targets, Wanted, transport_named};
use crate::dns::{Asker, Resolved};
use crate::metrics::DropReason;
use crate::msg::request::Response;
use crate::msg::scan::{Message, Table, scan};
use crate::msg::via::Via;
use crate::pool::{BufId, Stay};
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::wire::{CloseReason, Effects, Flow, Transport, TxOp};

use super::Stack;
use super::destination::flow_to;

/// The ways before the addresses of sent-by: back by the flow of the request, and by a new connection to its host.
const WAYS_BACK: u8 = 2;
/// Addresses of sent-by that are tried, those that come first: a host that keeps silent holds a connection until it is given up
/// (`limits.connect_timeout_ms`), and whoever asked has given up after 64*T1.
const ADDRESSES_MAX: usize = 4;
const _: () = assert!(ADDRESSES_MAX <= TARGETS_MAX);

/// RFC 3261 §18.2.2: the port of a Via that names none.
const PORT_DEFAULT: u16 = 5060;

/// Answers that wait for DNS.
pub struct Unsent(Slots<Waiting>);

pub type UnsentId = Id<Waiting>;

pub struct Waiting {
    buf: BufId,
    flow: Flow,
    /// The address to begin with.
    first: usize,
}

impl Unsent {
    pub fn new(look_ups_max: usize) -> Unsent {
        Unsent(Slots::new(look_ups_max))
    }

    fn clear(&mut self, out: &mut Effects) {
        for slot in 0..self.0.slots() {
            if let Some(waiting) = self.0.id_at(slot).and_then(|id| self.0.remove(id)) {
                out.pool.release(waiting.buf);
            }
        }
    }
}

impl Stack {
    /// An answer of ours could not leave by `flow`, after it had been tried in `tried` ways before: it is sent by the next.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub fn answer_not_sent(
        &mut self,
        flow: Flow,
        bytes: &[u8],
        tried: u8,
        reason: CloseReason,
        now: Instant,
        out: &mut Effects,
    ) {
        // Whether its connection ended or no new one was to be had.
        let ended = flow.transport == Transport::Tcp && reason != CloseReason::ConnectFailed;
        let way = match tried {
            0 if ended => 1,
            0 => WAYS_BACK,
            tried => tried.saturating_add(1),
        };
        if !out.pool.takes_in(Stay::Partial) {
            return self.metrics.dropped(DropReason::NoBuffer);
        }
        match out.pool.put(bytes) {
            Some(buf) => self.send_answer_by(way, flow, buf, None, now, out),
            None => self.metrics.dropped(DropReason::NoBuffer),
        }
    }

    /// Sends an answer where the sent-by of its topmost Via leads (RFC 3263 §5); its reference goes with it. `like`: what came over what
    /// the request came over.
    pub fn send_by_sent_by(&mut self, like: Flow, buf: BufId, now: Instant, out: &mut Effects) {
        self.send_answer_by(WAYS_BACK, like, buf, None, now, out);
    }

    /// What came of the look-up that an answer waits for.
    pub fn answer_resolved(
        &mut self,
        id: UnsentId,
        resolved: Resolved,
        targets: &Targets,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(Waiting { buf, flow, first }) = self.unsent.0.remove(id) else {
            return;
        };
        match resolved {
            Resolved::Targets => {
                let way = WAYS_BACK + first.min(ADDRESSES_MAX) as u8;
                self.send_answer_by(way, flow, buf, Some(targets), now, out);
            }
            Resolved::NoAddress | Resolved::Failed | Resolved::Full | Resolved::Waiting(_) => {
                out.pool.release(buf);
            }
        }
    }

    /// Forgets what waits: the server stops.
    pub fn forget_unsent(&mut self, out: &mut Effects) {
        self.unsent.clear(out);
    }

    /// Sends the answer in `buf` by this way, or by the next one that there is; its reference goes with it. `known`: the addresses of
    /// its sent-by.
    fn send_answer_by(
        &mut self,
        way: u8,
        flow: Flow,
        buf: BufId,
        known: Option<&Targets>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(mut table) = self.scratch.take() else {
            return out.pool.release(buf);
        };
        let next = self.next_way(way, flow, out.pool.get(buf), &mut table, known, now);
        self.scratch = Some(table);
        match next {
            Next::Way { flow, way } => {
                self.metrics.answers_rerouted.inc();
                out.send(flow, buf, Some(TxOp::Answer { tried: way }));
            }
            Next::Ask { wanted, seed, first } => {
                self.ask_for_sent_by(flow, buf, &wanted, seed, first, now, out)
            }
            Next::Nowhere => out.pool.release(buf),
        }
    }

    fn next_way(
        &self,
        way: u8,
        flow: Flow,
        bytes: &[u8],
        table: &mut Table,
        known: Option<&Targets>,
        now: Instant,
    ) -> Next {
        if scan(bytes, table).is_err() {
            return Next::Nowhere;
        }
        let Ok(answer) = Response::check(Message { bytes, table }) else {
            return Next::Nowhere;
        };
        let via = &answer.via;
        // Nobody misses a 100 for long.
        if answer.status == 100 {
            return Next::Nowhere;
        }
        let back = host_of_request(via, flow.transport);
        let new = Flow { conn: None, ..flow };
        if let (true, Some(peer)) = (way < WAYS_BACK, back) {
            return match flow_to(&self.cfg, (flow.transport, peer), Some(new)) {
                Ok(flow) => Next::Way { flow, way },
                Err(_) => Next::Nowhere,
            };
        }
        if !self.cfg.dns.response_failover {
            return Next::Nowhere;
        }
        let (Some(host), Some(transport)) = (Host::parse(via.host), transport_named(via.transport)) else {
            return Next::Nowhere;
        };
        // With a port A and AAAA, without one SRV of this transport: what §4.2 does where a URI names a transport.
        let wanted = Wanted {
            host,
            port: via.port,
            transport: Some(transport),
        };
        // RFC 3263 §4.4: every answer of a call takes the same way.
        let seed = self.key.digest(&[answer.call_id]);
        let first = usize::from(way.saturating_sub(WAYS_BACK));
        let mut looked_up = Targets::default();
        let targets = match known {
            Some(known) => known,
            None => match self.dns.resolve_known(&wanted, seed, now, &mut looked_up) {
                Some(Resolved::Targets) => &looked_up,
                Some(_) => return Next::Nowhere,
                None => return Next::Ask { wanted, seed, first },
            },
        };
        for (place, target) in targets.iter().enumerate().take(ADDRESSES_MAX).skip(first) {
            // What was tried first is not tried again.
            if Some(target.addr) == back && target.transport == flow.transport {
                continue;
            }
            if let Ok(flow) = flow_to(&self.cfg, (target.transport, target.addr), Some(new)) {
                let way = WAYS_BACK + place as u8;
                return Next::Way { flow, way };
            }
        }
        Next::Nowhere
    }

    #[allow(clippy::too_many_arguments)]
    fn ask_for_sent_by(
        &mut self,
        flow: Flow,
        buf: BufId,
        wanted: &Wanted,
        seed: u64,
        first: usize,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(id) = self.unsent.0.insert(Waiting { buf, flow, first }) else {
            return out.pool.release(buf);
        };
        let asker = Asker::Answer {
            slot: id.slot,
            generation: id.generation,
        };
        let mut targets = Targets::default();
        let asked = (self.dns).resolve(&mut self.wheel, wanted, asker, seed, now, &mut targets);
        match asked {
            Resolved::Waiting(_) => {}
            Resolved::Targets | Resolved::NoAddress | Resolved::Failed | Resolved::Full => {
                self.unsent.0.remove(id);
                out.pool.release(buf);
            }
        }
    }
}

/// Where an answer goes next.
#[allow(clippy::large_enum_variant)]
enum Next {
    Way {
        flow: Flow,
        way: u8,
    },
    /// DNS must be asked.
    Ask {
        wanted: Wanted,
        seed: u64,
        first: usize,
    },
    Nowhere,
}

/// The host that the request came from, as its Via says since it came, and the port for answers there. `None`: it does not say.
fn host_of_request(via: &Via<'_>, transport: Transport) -> Option<SocketAddr> {
    let ip = via.received_ip().or_else(|| via.host_ip())?;
    let port = match transport {
        // RFC 3581 §4.
        Transport::Udp => via.rport.flatten().or(via.port),
        Transport::Tcp => via.port,
    };
    Some(SocketAddr::new(ip, port.unwrap_or(PORT_DEFAULT)))
}
