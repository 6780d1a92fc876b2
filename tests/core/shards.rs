//! The shards of a server without a thread, a socket or a clock of their own: joined by their mail, with their ends of the ports,
//! at a time that is set by hand. What the tests of the core, the fuzz target and the measuring programs stand on.

// Each of them takes what it needs.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway::config::{Config, Listener, ListenerState};
use ringway::location::AorHasher;
use ringway::metrics::Metrics;
use ringway::owner::OwnerKey;
use ringway::pool::{CLASS_BYTES, Draft, Pool};
use ringway::port::{ConfigId, ControlPort, port};
use ringway::shard::{Keys, Leftovers, Mail, Shard};
use ringway::time::Instant;
use ringway::token::TokenKey;
use ringway::trunk::board::{Board, Boards};
use ringway::wire::{CloseReason, ConnId, Effects, Event, Flow, ListenerId, ShardId, Transport};

/// A server at `addr`, over UDP (the first listener) and TCP (the second).
pub fn config(addr: &str, shards: usize) -> Config {
    let listener = |transport| Listener {
        transport,
        addr: addr.parse().expect("an address"),
        advertised: addr.to_owned(),
        state: ListenerState::Open,
    };
    Config {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        domains: vec!["one.att.net".to_owned()],
        shards,
        ..Config::default()
    }
}

pub struct Shards {
    pub all: Vec<Shard>,
    /// Of each shard.
    pub effects: Vec<Effects>,
    pub ports: Vec<ControlPort>,
    pub metrics: Vec<Arc<Metrics>>,
    pub boards: Arc<Boards>,
    pub board: Arc<Board>,
    pub now: Instant,
    /// Connections that peers have, by the peer's address.
    pub conns: BTreeMap<SocketAddr, ConnId>,
    conn_serial: u32,
    arrivals: usize,
    /// How many buffers each step of a shard finds free, rather than all.
    pub buffers_per_step: Option<usize>,
}

impl Shards {
    pub fn new(cfg: &Arc<Config>) -> Shards {
        let keys = Keys {
            token: TokenKey::new([9; 16]),
            owner: OwnerKey::new([4; 16]),
            aors: AorHasher::new([5; 8]),
            tables: [6; 8],
        };
        let now = Instant::from_millis(1_800_000_000_000);
        let boards = Arc::new(Boards::default());
        let board = boards.of(ConfigId::FIRST, cfg);
        let mut shards = Shards {
            all: Vec::new(),
            effects: Vec::new(),
            ports: Vec::new(),
            metrics: Vec::new(),
            boards,
            board,
            now,
            conns: BTreeMap::new(),
            conn_serial: 0,
            arrivals: 0,
            buffers_per_step: None,
        };
        let mails = Mail::of_all(cfg.shards, cfg.limits.mailbox_bytes);
        for (index, mut mail) in mails.into_iter().enumerate() {
            let metrics = Arc::new(Metrics::default());
            let (control, asks, teller) = port(metrics.clone());
            mail.asks = Some(asks);
            let mut out = Effects::new(Pool::new(cfg.limits.buffer_bytes_max));
            out.teller = Some(teller);
            let id = ShardId(index as u8);
            let mut shard = Shard::new(cfg.clone(), metrics.clone(), id, keys.clone(), mail, now);
            shard.start_trunks(shards.boards.clone(), now);
            shards.all.push(shard);
            shards.effects.push(out);
            shards.ports.push(control);
            shards.metrics.push(metrics);
        }
        shards
    }

    /// Where the next datagram or connection arrives: each shard in turn, whoever owns what comes.
    pub fn next_arrival(&mut self) -> usize {
        let index = self.arrivals % self.all.len();
        self.arrivals += 1;
        index
    }

    /// A datagram from `peer` that waited in the socket for `age`.
    pub fn datagram(&mut self, peer: SocketAddr, bytes: &[u8], age: Duration) {
        let index = self.next_arrival();
        let flow = datagrams_from(peer);
        let received_at = Instant::from_nanos(self.now.as_nanos() - age.as_nanos() as u64);
        let event = Event::Datagram {
            flow,
            bytes,
            received_at,
        };
        self.handle(index, event);
    }

    /// Bytes on the connection of `peer`, which is opened if there is none.
    pub fn stream(&mut self, peer: SocketAddr, bytes: &[u8]) {
        let conn = match self.conns.get(&peer) {
            Some(conn) => *conn,
            None => {
                let index = self.next_arrival();
                self.open(peer, index)
            }
        };
        let flow = connection_of(peer, conn);
        self.handle(usize::from(conn.shard.0), Event::Stream { flow, bytes });
    }

    fn open(&mut self, peer: SocketAddr, index: usize) -> ConnId {
        self.conn_serial += 1;
        let conn = ConnId {
            shard: ShardId(index as u8),
            slot: self.conn_serial,
            generation: 1,
        };
        self.conns.insert(peer, conn);
        let flow = connection_of(peer, conn);
        self.handle(index, Event::Opened { flow });
        conn
    }

    /// A peer closes its connection, if it has one.
    pub fn close(&mut self, peer: SocketAddr) -> Option<ConnId> {
        let conn = self.conns.remove(&peer)?;
        let reason = CloseReason::PeerClosed;
        self.handle(usize::from(conn.shard.0), Event::Closed { conn, reason });
        Some(conn)
    }

    pub fn handle(&mut self, index: usize, event: Event<'_>) {
        let now = self.now;
        self.step(index, |shard, out| shard.handle(event, now, out));
    }

    /// Mail and asks.
    pub fn read(&mut self, index: usize) {
        let now = self.now;
        self.step(index, |shard, out| {
            while shard.read_mail(now, out) {}
            while shard.read_asks(now, out) {}
        });
    }

    /// One step of a shard, with no more buffers than it may have.
    fn step(&mut self, index: usize, work: impl FnOnce(&mut Shard, &mut Effects)) {
        let out = &mut self.effects[index];
        let taken = withhold(out, self.buffers_per_step);
        work(&mut self.all[index], out);
        for draft in taken {
            out.pool.discard(draft);
        }
    }

    /// When the next timer fires, if that is not after `until`.
    pub fn next_deadline(&self, until: Instant) -> Option<Instant> {
        let next = self.all.iter().filter_map(Shard::next_deadline).min();
        next.filter(|at| *at <= until)
    }

    /// Fires the timers of `at`, which is now from then on.
    pub fn run_timers(&mut self, at: Instant) {
        self.now = at.max(self.now + Duration::from_micros(1));
        let now = self.now;
        for index in 0..self.all.len() {
            self.step(index, |shard, out| while shard.run_timers(now, out) {});
        }
    }

    /// What all shards hold together.
    pub fn in_use(&self) -> Leftovers {
        let mut sum = Leftovers::default();
        for (shard, out) in self.all.iter().zip(&self.effects) {
            sum.add(&shard.in_use(&out.pool));
        }
        sum
    }

    /// Ends the shards: nothing may be left over.
    #[track_caller]
    pub fn end(self) {
        for (shard, mut out) in self.all.into_iter().zip(self.effects) {
            let left = shard.end(&mut out);
            assert!(left.is_none(), "after its end a shard holds {left:?}");
        }
    }
}

/// The way that datagrams of `peer` come.
pub fn datagrams_from(peer: SocketAddr) -> Flow {
    Flow {
        transport: Transport::Udp,
        listener: ListenerId(0),
        peer,
        conn: None,
    }
}

fn connection_of(peer: SocketAddr, conn: ConnId) -> Flow {
    Flow {
        transport: Transport::Tcp,
        listener: ListenerId(1),
        peer,
        conn: Some(conn),
    }
}

/// Leaves a shard so many buffers: the others are taken away.
fn withhold(out: &mut Effects, left: Option<usize>) -> Vec<Draft> {
    let Some(left) = left else { return Vec::new() };
    // The largest stand in for every size once the pool is at its limit.
    let mut taken = Vec::new();
    for bytes in CLASS_BYTES.iter().rev() {
        while let Some(draft) = out.pool.draft(*bytes) {
            taken.push(draft);
        }
    }
    for _ in 0..left.min(taken.len()) {
        out.pool.discard(taken.remove(0));
    }
    taken
}
