//! Shards without sockets: a clock that is set by hand, and a network that is a map of who was sent what.

// Each test takes what it needs.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bench_harness::sip::Message;
use ringway::config::{Config, Listener};
use ringway::location::AorHasher;
use ringway::metrics::{DropReason, Metrics};
use ringway::owner::OwnerKey;
use ringway::pool::{CLASS_BYTES, Draft, Pool};
use ringway::port::{Ask, ConfigId, ControlPort, PORT_BYTES_MAX, Tell, port};
use ringway::shard::mailbox::mailbox;
use ringway::shard::{Keys, Mail, Shard};
use ringway::time::Instant;
use ringway::token::TokenKey;
use ringway::trunk::board::{Board, Boards};
use ringway::wire::{CloseReason, ConnId, Effect, Effects, Event, Flow, ListenerId, ShardId, Transport};

pub const SERVER: &str = "127.0.0.1:5060";

pub struct World {
    shards: Vec<Shard>,
    /// All that a shard may still have, as the control thread holds them; the last is the present one.
    configs: Vec<Arc<Config>>,
    effects: Vec<Effects>,
    ports: Vec<ControlPort>,
    pub board: Arc<Board>,
    boards: Arc<Boards>,
    pub metrics: Vec<Arc<Metrics>>,
    now: Instant,
    inbox: BTreeMap<SocketAddr, VecDeque<Message>>,
    /// Connections that phones have, by the phone's address.
    conns: BTreeMap<SocketAddr, ConnId>,
    /// Connections that phones have closed.
    gone: Vec<ConnId>,
    pub closed: Vec<ConnId>,
    next_arrival: usize,
    /// Damaged messages go round: what a strict reader can't make out of them is passed over.
    pub is_damaged: bool,
    /// Answers to keep-alives on connections.
    pub pongs: usize,
    /// How long datagrams have waited in the socket when a shard reads them.
    pub age: Duration,
    /// What goes over TCP to somebody who has no connection does not arrive.
    pub refuses_connections: bool,
    /// How many buffers each step of a shard finds free, rather than all.
    pub buffers_per_step: Option<usize>,
}

/// Leaves a shard so many buffers for one step: the others are taken away, and come back when this is given to [`restore`].
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

/// Whether a flow is a connection that is no more, and there is nobody to connect to in its place.
fn is_gone(gone: &[ConnId], flow: &Flow) -> bool {
    flow.peer.port() == 0 && flow.conn.is_some_and(|conn| gone.contains(&conn))
}

fn restore(out: &mut Effects, taken: Vec<Draft>) {
    for draft in taken {
        out.pool.discard(draft);
    }
}

impl World {
    pub fn new(shards: usize) -> World {
        World::with(shards, |_| {})
    }

    pub fn with(shards: usize, change: impl FnOnce(&mut Config)) -> World {
        let addr: SocketAddr = SERVER.parse().expect("an address");
        let listener = |transport| Listener {
            transport,
            addr,
            advertised: SERVER.to_owned(),
            state: ringway::config::ListenerState::Open,
        };
        let mut cfg = Config {
            listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
            domains: vec!["one.att.net".to_owned()],
            shards,
            ..Config::default()
        };
        change(&mut cfg);
        let cfg = Arc::new(cfg);
        let keys = Keys {
            token: TokenKey::new([9; 16]),
            owner: OwnerKey::new([4; 16]),
            aors: AorHasher::new([5; 8]),
            tables: [6; 8],
        };
        let now = Instant::from_millis(1_800_000_000_000);
        let mut mails: Vec<Mail> = (0..shards).map(|_| Mail::default()).collect();
        for from in 0..shards {
            for to in 0..shards {
                let (sender, receiver) = mailbox(cfg.limits.mailbox_bytes);
                mails[from].to.push((from != to).then_some(sender));
                mails[to].from.push((from != to).then_some(receiver));
            }
        }
        let metrics: Vec<Arc<Metrics>> = (0..shards).map(|_| Arc::default()).collect();
        let mut ports = Vec::new();
        let mut effects = Vec::new();
        for (mail, metrics) in mails.iter_mut().zip(&metrics) {
            let (control, asks, teller) = port(metrics.clone());
            mail.asks = Some(asks);
            let mut out = Effects::new(Pool::new(cfg.limits.buffer_bytes_max));
            out.teller = Some(teller);
            ports.push(control);
            effects.push(out);
        }
        let boards = Arc::new(Boards::default());
        let board = boards.of(ConfigId::FIRST, &cfg);
        let shard = |(index, mail)| {
            let metrics: &Arc<Metrics> = &metrics[index];
            let mut shard = Shard::new(
                cfg.clone(),
                metrics.clone(),
                ShardId(index as u8),
                keys.clone(),
                mail,
                now,
            );
            shard.start_trunks(boards.clone(), now);
            shard
        };
        World {
            shards: mails.into_iter().enumerate().map(shard).collect(),
            configs: vec![cfg],
            board,
            boards,
            effects,
            ports,
            metrics,
            now,
            inbox: BTreeMap::new(),
            conns: BTreeMap::new(),
            gone: Vec::new(),
            closed: Vec::new(),
            next_arrival: 0,
            is_damaged: false,
            pongs: 0,
            age: Duration::ZERO,
            refuses_connections: false,
            buffers_per_step: None,
        }
    }

    /// A datagram from `from`. Each arrives at the next shard in turn, whoever owns it.
    pub fn udp(&mut self, from: &str, message: &Message) {
        self.udp_bytes(from, &message.to_bytes());
    }

    pub fn udp_bytes(&mut self, from: &str, bytes: &[u8]) {
        let index = self.next_arrival % self.shards.len();
        self.next_arrival += 1;
        let flow = Flow {
            transport: Transport::Udp,
            listener: ListenerId(0),
            peer: addr(from),
            conn: None,
        };
        let out = &mut self.effects[index];
        let taken = withhold(out, self.buffers_per_step);
        self.shards[index].handle(
            Event::Datagram {
                flow,
                bytes,
                received_at: Instant::from_nanos(self.now.as_nanos() - self.age.as_nanos() as u64),
            },
            self.now,
            out,
        );
        restore(out, taken);
        self.settle();
    }

    /// Bytes on the connection of `from`, which is opened if there is none.
    pub fn tcp_bytes(&mut self, from: &str, bytes: &[u8]) {
        let peer = addr(from);
        let known = self.conns.get(&peer).copied();
        let conn = known.unwrap_or_else(|| {
            let index = self.next_arrival % self.shards.len();
            self.next_arrival += 1;
            ConnId {
                shard: ShardId(index as u8),
                slot: self.next_arrival as u32,
                generation: 1,
            }
        });
        let index = usize::from(conn.shard.0);
        let flow = Flow {
            transport: Transport::Tcp,
            listener: ListenerId(1),
            peer,
            conn: Some(conn),
        };
        if known.is_none() {
            self.conns.insert(peer, conn);
            self.shards[index].handle(Event::Opened { flow }, self.now, &mut self.effects[index]);
        }
        let out = &mut self.effects[index];
        let taken = withhold(out, self.buffers_per_step);
        self.shards[index].handle(Event::Stream { flow, bytes }, self.now, out);
        restore(out, taken);
        self.settle();
    }

    pub fn tcp(&mut self, from: &str, message: &Message) {
        self.tcp_bytes(from, &message.to_bytes());
    }

    /// The phone closes its connection.
    pub fn close(&mut self, from: &str) {
        let conn = self.conns.remove(&addr(from)).expect("it has one");
        self.gone.push(conn);
        let index = usize::from(conn.shard.0);
        let reason = CloseReason::PeerClosed;
        self.shards[index].handle(Event::Closed { conn, reason }, self.now, &mut self.effects[index]);
        self.settle();
    }

    /// Lets time pass, with every timer at its time.
    pub fn advance(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        loop {
            let next = self
                .shards
                .iter()
                .filter_map(Shard::next_deadline)
                .min()
                .filter(|at| *at <= until);
            let Some(at) = next else { break };
            self.now = at.max(self.now + Duration::from_micros(1));
            for (shard, out) in self.shards.iter_mut().zip(&mut self.effects) {
                let taken = withhold(out, self.buffers_per_step);
                while shard.run_timers(self.now, out) {}
                restore(out, taken);
            }
            self.settle();
        }
        self.now = until;
    }

    /// Mail and effects until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            let mut failed = Vec::new();
            for (shard, out) in self.shards.iter_mut().zip(&mut self.effects) {
                let taken = withhold(out, self.buffers_per_step);
                shard.read_mail(self.now, out);
                shard.read_asks(self.now, out);
                restore(out, taken);
                shard.export(self.now, out);
                for index in 0..out.len() {
                    moved = true;
                    match out.get(index) {
                        Some(Effect::Send {
                            flow,
                            buf,
                            op: Some(op),
                        }) if flow.transport == Transport::Tcp
                            && (self.refuses_connections && flow.conn.is_none()
                                || is_gone(&self.gone, &flow)) =>
                        {
                            out.pool.release(buf);
                            failed.push(op);
                        }
                        Some(Effect::Send { flow, buf, .. }) => {
                            let bytes = out.pool.get(buf).to_vec();
                            out.pool.release(buf);
                            if let Some(conn) = flow.conn {
                                assert_eq!(
                                    conn.shard,
                                    shard.id(),
                                    "only its own shard sends on a connection"
                                );
                            }
                            if bytes == b"\r\n" {
                                self.pongs += 1;
                                continue;
                            }
                            // What goes over a flow alone says nothing of where else its phone might be.
                            let mut conns = self.conns.iter().filter(|_| flow.peer.port() == 0);
                            let on_conn = conns.find(|(_, conn)| Some(**conn) == flow.conn);
                            let peer = on_conn.map_or(flow.peer, |(peer, _)| *peer);
                            match Message::parse(&bytes) {
                                Ok(message) => self.inbox.entry(peer).or_default().push_back(message),
                                Err(_) if self.is_damaged => {}
                                Err(error) => panic!("{error}: {}", bytes.escape_ascii()),
                            }
                        }
                        Some(Effect::Close { conn, .. }) => self.closed.push(conn),
                        Some(Effect::Wake { .. } | Effect::Nothing) | None => {}
                    }
                }
                out.clear();
                for op in failed.drain(..) {
                    let reason = CloseReason::ConnectFailed;
                    shard.handle(Event::SendFailed { op, reason }, self.now, out);
                }
                shard.record_handled(self.now, self.now);
            }
            if !moved {
                return;
            }
        }
    }

    /// The next message that was sent to `to`.
    #[track_caller]
    pub fn next(&mut self, to: &str) -> Message {
        match self.inbox.get_mut(&addr(to)).and_then(VecDeque::pop_front) {
            Some(message) => message,
            None => panic!("nothing was sent to {to}; waiting: {:?}", self.waiting()),
        }
    }

    #[track_caller]
    pub fn response(&mut self, to: &str, status: u16) -> Message {
        let message = self.next(to);
        assert_eq!(message.status(), Some(status), "{}", message.title());
        message
    }

    #[track_caller]
    pub fn request(&mut self, to: &str, method: &str) -> Message {
        let message = self.next(to);
        assert!(
            message.is_request(method),
            "{} instead of {method}",
            message.title()
        );
        message
    }

    #[track_caller]
    pub fn silent(&self) {
        assert!(self.waiting().is_empty(), "{:?}", self.waiting());
    }

    /// The next message for `to` if it is a request of this method.
    pub fn take_request(&mut self, to: &str, method: &str) -> Option<Message> {
        let waiting = self.inbox.get_mut(&addr(to))?;
        if !waiting.front()?.is_request(method) {
            return None;
        }
        waiting.pop_front()
    }

    /// Any message that waits, with whom it was sent to.
    pub fn take_any(&mut self) -> Option<(SocketAddr, Message)> {
        let (to, queue) = self.inbox.iter_mut().find(|(_, queue)| !queue.is_empty())?;
        queue.pop_front().map(|message| (*to, message))
    }

    pub fn forget_waiting(&mut self) {
        self.inbox.clear();
    }

    fn waiting(&self) -> Vec<(SocketAddr, String)> {
        let each = |(to, queue): (&SocketAddr, &VecDeque<Message>)| {
            queue
                .iter()
                .map(|message| (*to, message.title()))
                .collect::<Vec<_>>()
        };
        self.inbox.iter().flat_map(each).collect()
    }

    pub fn calls(&self) -> usize {
        self.shards.iter().map(Shard::calls).sum()
    }

    /// Response contexts of the proxy.
    pub fn contexts(&self) -> usize {
        self.shards.iter().map(Shard::contexts).sum()
    }

    /// Parts of calls: legs, exchanges, branches.
    pub fn parts(&self) -> usize {
        self.shards.iter().map(Shard::call_parts).sum()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.metrics
            .iter()
            .map(|metrics| metrics.drops[reason as usize].get())
            .sum()
    }

    pub fn drain(&mut self) {
        self.ask_all(|| Ask::Drain);
    }

    pub fn hang_up_all(&mut self) {
        self.ask_all(|| Ask::HangUpAll);
    }

    /// Has every shard go by another configuration.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut cfg = Config::clone(self.configs.last().expect("one from the start"));
        change(&mut cfg);
        let config = Arc::new(cfg);
        let id = ConfigId(self.configs.len() as u32);
        self.configs.push(config.clone());
        self.ask_all(|| Ask::Config {
            id,
            config: config.clone(),
        });
        self.board = self.boards.of(id, &config);
        let ids = self.metrics.iter().map(|metrics| metrics.config_id.get());
        assert!(ids.into_iter().all(|of_shard| of_shard == u64::from(id.0)));
    }

    /// How many configurations some shard still has.
    pub fn configs_in_use(&self) -> usize {
        let in_use = |config: &&Arc<Config>| Arc::strong_count(config) > 1;
        self.configs.iter().filter(in_use).count()
    }

    fn ask_all(&mut self, ask: impl Fn() -> Ask) {
        for shard in 0..self.shards.len() {
            self.ask(shard, ask(), b"");
        }
    }

    /// Asks one shard, as the control thread does.
    pub fn ask(&mut self, shard: usize, ask: Ask, bytes: &[u8]) {
        self.ports[shard].ask(ask, bytes).expect("the shard has time");
        self.settle();
    }

    /// What a shard told the control thread next, with its bytes.
    pub fn told(&mut self, shard: usize) -> Option<(Tell, Vec<u8>)> {
        let mut bytes = vec![0; PORT_BYTES_MAX];
        let (tell, len) = self.ports[shard].next_tell(&mut bytes)?;
        bytes.truncate(len);
        Some((tell, bytes))
    }

    /// Ends the shards: nothing may be left over.
    #[track_caller]
    pub fn end(self) {
        for (shard, mut out) in self.shards.into_iter().zip(self.effects) {
            let leftovers = shard.end(&mut out);
            assert!(leftovers.is_none(), "{leftovers:?}");
        }
    }

    /// The same once every timer has run out, whatever is said meanwhile.
    #[track_caller]
    pub fn end_after_all_timers(mut self) {
        self.advance(100_000);
        self.forget_waiting();
        self.end();
    }
}

pub fn on_each_number_of_shards(test: impl Fn(usize)) {
    for shards in [1, 2, 4] {
        test(shards);
    }
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}
