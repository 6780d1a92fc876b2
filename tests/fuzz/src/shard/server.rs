//! Shards without sockets, with all that stands around them: a clock that is set, connections, the control thread's orders.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringway::config::{Config, Machine, load};
use ringway::json::Page;
use ringway::msg::scan::{Table, scan};
use ringway::port::{Ask, ConfigId, Listing, PORT_BYTES_MAX, RequestId};
use ringway::wire::{CloseReason, Effect, Event, Flow, Transport, TxOp};

#[path = "../../../core/shards.rs"]
mod shards;

use shards::Shards;

pub const SERVER: &str = "10.0.0.1:5060";
pub const PEERS: usize = 4;
/// What the server has sent that can be referred to; the oldest goes.
const HEARD_MAX: usize = 48;
/// Turns of mail and effects that one event may take.
const TURNS_MAX: usize = 10_000;

/// Somebody outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Peer(pub usize);

impl Peer {
    pub fn addr(self) -> SocketAddr {
        SocketAddr::from(([10, 0, 1, self.0 as u8 + 1], 5060))
    }
}

/// Every kind of rule, each for the numbers that begin with its digit; everything else is for the phone service.
const TABLE: &str = r#"
[[trunk]]
name = "carrier"
destinations = ["sip:10.0.1.3:5060 calls=2", "sip:10.0.1.4:5060;transport=tcp"]
failover = ["503", "408"]
calls_max = 3
answer_timeout_ms = 500

[[route]]
user_prefix = ["2"]
action = "proxy"
to = ["trunk:carrier"]

[[route]]
user_prefix = ["3"]
action = "proxy"
to = ["<sip:a@10.0.1.2:5060>;q=0.5", "<sip:b@10.0.1.3:5060;transport=tcp>;q=0.5", "<sip:c@10.0.1.4:5060>;q=0.2"]
recurse = true
tcp_when_large = true
ring_s = 1

[[route]]
user_prefix = ["4"]
action = "proxy"
to = ["sip:10.0.1.2:5060"]
mode = "stateless"

[[route]]
user_prefix = ["5"]
action = "proxy"
to = ["registered"]
fork = "parallel"
strip = 1

[[route]]
user_prefix = ["6"]
action = "proxy"
to = ["request-uri"]
record_route = false

[[route]]
user_prefix = ["7"]
action = "redirect"
to = ["sip:x@10.0.1.2"]

[[route]]
user_prefix = ["8"]
action = "ims"
strip = 1
set_header = ["X-Set: by the table"]
"#;

/// What the server has sent.
#[derive(Clone)]
pub struct Heard {
    pub by: Peer,
    pub bytes: Vec<u8>,
}

pub struct Server {
    shards: Shards,
    configs: Vec<Arc<Config>>,
    table: Box<Table>,
    told: Box<[u8]>,
    pub heard: Vec<Heard>,
    pub refuses_connections: bool,
    pub fails_sends: bool,
}

impl Server {
    /// The bits of `kind`: two shards, no routing table, scarce limits.
    pub fn new(kind: usize) -> Server {
        let shards = 1 + (kind & 1);
        let machine = Machine {
            cpus: Vec::new(),
            parallelism: 1,
            memory_bytes: None,
            files_max: None,
            primary_v4: None,
            primary_v6: None,
        };
        let table = if kind & 2 == 0 { TABLE } else { "" };
        let loaded = load(Some((Path::new("table.toml"), table)), &[], &machine);
        let mut cfg = loaded.unwrap_or_else(|errors| panic!("{errors}")).config;
        let plain = shards::config(SERVER, shards);
        cfg.listeners = plain.listeners;
        cfg.domains = plain.domains;
        cfg.shards = shards;
        cfg.overload.enabled = false;
        cfg.session_timers.request = kind & 8 != 0;
        cfg.registrar.expires_max_s = 300;
        cfg.registrar.expires_default_s = 300;
        cfg.registrar.offline_memory = Duration::from_secs(60);
        cfg.reg_event.expires_max_s = 300;
        cfg.reg_event.expires_default_s = 300;
        let limits = &mut cfg.limits;
        limits.call_duration_max = Duration::from_secs(500);
        limits.connection_idle = Duration::from_secs(200);
        limits.mailbox_bytes = 256 * 1_024;
        let is_scarce = kind & 4 != 0;
        limits.transactions_max = if is_scarce { 8 * shards } else { 2_000 };
        limits.calls_max = if is_scarce { 2 * shards } else { 500 };
        limits.aors_max = if is_scarce { 2 * shards } else { 500 };
        limits.subscriptions_max = if is_scarce { 2 * shards } else { 500 };
        limits.buffer_bytes_max = if is_scarce { 300_000 } else { 2 << 20 };
        let cfg = Arc::new(cfg);
        Server {
            shards: Shards::new(&cfg),
            configs: vec![cfg],
            table: Box::default(),
            told: vec![0; PORT_BYTES_MAX].into_boxed_slice(),
            heard: Vec::new(),
            refuses_connections: false,
            fails_sends: false,
        }
    }

    /// Bytes from a peer: as a datagram (0), or on its connection, which is opened where there is none.
    pub fn receive(&mut self, peer: Peer, bytes: &[u8], over: usize) {
        if over == 0 {
            self.shards.datagram(peer.addr(), bytes, Duration::ZERO);
        } else {
            self.shards.stream(peer.addr(), bytes);
        }
        self.settle();
    }

    /// The network says that a datagram to `peer`, which begins with `bytes`, has reached nobody.
    pub fn undelivered(&mut self, peer: Peer, bytes: &[u8]) {
        let index = self.shards.next_arrival();
        let flow = shards::datagrams_from(peer.addr());
        self.shards.handle(index, Event::Undelivered { flow, bytes });
        self.settle();
    }

    /// A peer closes its connection.
    pub fn close(&mut self, peer: Peer) {
        if self.shards.close(peer.addr()).is_some() {
            self.settle();
        }
    }

    /// Each step of a shard finds so many buffers free, rather than all.
    pub fn set_buffers_per_step(&mut self, buffers: Option<usize>) {
        self.shards.buffers_per_step = buffers;
    }

    pub fn advance(&mut self, ms: u64) {
        let until = self.shards.now + Duration::from_millis(ms);
        while let Some(at) = self.shards.next_deadline(until) {
            self.shards.run_timers(at);
            self.settle();
        }
        self.shards.now = self.shards.now.max(until);
    }

    /// Mail and effects until nothing moves.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut moved = false;
            for index in 0..self.shards.all.len() {
                self.shards.read(index);
                moved |= self.turn(index);
            }
            if !moved {
                return;
            }
        }
        panic!("one event keeps the shards busy for ever");
    }

    fn turn(&mut self, index: usize) -> bool {
        let now = self.shards.now;
        let (shard, out) = (&mut self.shards.all[index], &mut self.shards.effects[index]);
        _ = shard.take_new_config();
        shard.export(now, out);
        let mut failed: Vec<(TxOp, Flow, Vec<u8>)> = Vec::new();
        let mut closed = Vec::new();
        let moved = !out.is_empty();
        for effect in 0..out.len() {
            match out.get(effect) {
                Some(Effect::Send { flow, buf, op }) => {
                    let bytes = out.pool.get(buf).to_vec();
                    out.pool.release(buf);
                    let is_new = flow.transport == Transport::Tcp
                        && !flow
                            .conn
                            .is_some_and(|conn| self.shards.conns.values().any(|own| *own == conn));
                    if self.fails_sends || (is_new && self.refuses_connections) {
                        failed.extend(op.map(|op| (op, flow, bytes)));
                        continue;
                    }
                    if bytes != b"\r\n" {
                        assert!(
                            scan(&bytes, &mut self.table).is_ok(),
                            "what was sent can't be read: {}",
                            bytes.escape_ascii()
                        );
                        let peer = (0..PEERS)
                            .map(Peer)
                            .find(|peer| peer.addr().ip() == flow.peer.ip());
                        if let Some(by) = peer {
                            self.heard.push(Heard { by, bytes });
                        }
                    }
                }
                Some(Effect::Close { conn, .. }) => closed.push(conn),
                Some(Effect::Wake { .. } | Effect::Nothing) | None => {}
            }
        }
        out.clear();
        if self.heard.len() > HEARD_MAX {
            self.heard.drain(..self.heard.len() - HEARD_MAX);
        }
        for (op, flow, bytes) in &failed {
            let reason = CloseReason::ConnectFailed;
            let event = match *op {
                TxOp::Request { slot, .. } => Event::SendFailed {
                    op: *op,
                    reason,
                    // Now and then its peer may have read it.
                    was_sent: slot % 4 == 0,
                },
                TxOp::Answer { tried } => Event::AnswerNotSent {
                    flow: *flow,
                    bytes,
                    tried,
                    reason,
                },
            };
            shard.handle(event, now, out);
        }
        for conn in closed.iter().copied() {
            // As the ring does: what was asked to be closed is closed, once.
            if self.shards.conns.values().any(|own| *own == conn) {
                self.shards.conns.retain(|_, own| *own != conn);
                let reason = CloseReason::Idle;
                shard.handle(Event::Closed { conn, reason }, now, out);
            }
        }
        shard.record_handled(now, now);
        while self.shards.ports[index].next_tell(&mut self.told).is_some() {}
        moved || !failed.is_empty() || !closed.is_empty()
    }

    /// An order or a question of the control thread.
    pub fn ask(&mut self, what: usize, detail: usize) {
        let request = RequestId(detail as u32);
        let users: [&[u8]; 3] = [
            b"sip:1001@one.att.net",
            b"sip:1002@one.att.net",
            b"no address-of-record",
        ];
        let user = users[detail % 3];
        if what == 4 {
            // The same configuration, or one with other limits and no table.
            let mut cfg = Config::clone(&self.configs[0]);
            if detail & 1 != 0 {
                cfg.routes.clear();
                cfg.limits.forks_max = 1 + detail % 8;
            }
            self.configs.push(Arc::new(cfg));
        }
        for index in 0..self.shards.all.len() {
            let (ask, bytes): (Ask, &[u8]) = match what {
                // A server that drains takes nothing new: not the rule.
                0 if detail < 16 => (Ask::Drain, b""),
                0 | 1 => (Ask::HangUpAll, b""),
                2 | 3 => (Ask::Unregister { request }, user),
                4 => {
                    let id = ConfigId(self.configs.len() as u32 - 1);
                    let config = self.configs[self.configs.len() - 1].clone();
                    (Ask::Config { id, config }, b"")
                }
                5 => {
                    let (slot, generation) = (detail as u32 % 4, detail as u32 / 4 % 4);
                    let ask = Ask::HangUp {
                        request,
                        slot,
                        generation,
                    };
                    (ask, b"")
                }
                _ => {
                    let all = [
                        Listing::Registrations,
                        Listing::Calls,
                        Listing::Subscriptions,
                        Listing::Connections,
                    ];
                    let ask = Ask::List {
                        request,
                        listing: all[detail % 4],
                        cursor: 0,
                        page: Box::new(Page::new(4_096)),
                    };
                    (ask, b"")
                }
            };
            _ = self.shards.ports[index].ask(ask, bytes);
        }
        self.settle();
    }

    /// No table has more than its limit, and the trunk no more calls.
    pub fn check_limits(&self) {
        let cfg = &self.configs[0];
        let sum = self.shards.in_use();
        let limits = &cfg.limits;
        assert!(
            sum.transactions <= limits.transactions_max
                && sum.contexts <= limits.transactions_max
                && sum.branches <= limits.transactions_max
                && sum.held <= limits.transactions_max
                && sum.calls <= limits.calls_max
                && sum.subscribers <= limits.aors_max
                && sum.subscriptions <= limits.subscriptions_max
                && sum.streams <= PEERS,
            "{sum:?}"
        );
        for (trunk, settings) in self.shards.board.trunks.iter().zip(&cfg.trunks) {
            assert!(trunk.calls.load(Relaxed) <= settings.calls_max);
        }
    }

    /// Nobody says anything any more, for as long as the server may remember anything.
    pub fn be_quiet(&mut self, ms: u64) {
        self.shards.buffers_per_step = None;
        for peer in (0..PEERS).map(Peer) {
            self.close(peer);
        }
        self.advance(ms);
        let left = self.shards.in_use();
        assert!(left.is_none(), "long after the last word there is left {left:?}");
        for trunk in &self.shards.board.trunks {
            let calls = trunk
                .destinations
                .iter()
                .map(|destination| destination.calls.load(Relaxed));
            assert!(
                trunk.calls.load(Relaxed) == 0 && calls.sum::<u32>() == 0,
                "calls count for ever"
            );
        }
    }

    pub fn end(self) {
        self.shards.end();
    }
}
