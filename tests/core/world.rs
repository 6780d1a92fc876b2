//! Shards without sockets: a clock that is set by hand, and a network that is a map of who was sent what.

// Each test takes what it needs.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bench_harness::sip::Message;
use ringway::config::Config;
use ringway::metrics::{DropReason, in_all};
use ringway::port::{Ask, ConfigId, PORT_BYTES_MAX, Tell};
use ringway::shard::Shard;
use ringway::wire::{CloseReason, ConnId, Effect, Event, Flow, Transport, TxOp};

#[path = "shards.rs"]
mod shards;

use shards::Shards;

pub const SERVER: &str = "127.0.0.1:5060";

pub struct World {
    pub shards: Shards,
    /// All that a shard may still have, as the control thread holds them; the last is the present one.
    configs: Vec<Arc<Config>>,
    inbox: BTreeMap<SocketAddr, VecDeque<Message>>,
    /// Connections that phones have closed.
    gone: Vec<ConnId>,
    /// The last request that went to an address over TCP, and from which shard.
    asked: BTreeMap<SocketAddr, (usize, TxOp)>,
    /// Connections that the shards have asked to be closed.
    pub closed: Vec<ConnId>,
    /// Damaged messages go round: what a strict reader can't make out of them is passed over.
    pub is_damaged: bool,
    /// Answers to keep-alives on connections.
    pub pongs: usize,
    /// How long datagrams have waited in the socket when a shard reads them.
    pub age: Duration,
    /// What goes over TCP to somebody who has no connection does not arrive.
    pub refuses_connections: bool,
    /// The kernel takes no datagram of a request.
    pub refuses_datagrams: bool,
    /// Nothing can be sent to these but on a connection that there is.
    pub unreachable: Vec<SocketAddr>,
}

/// Whether a flow is a connection that is no more, and there is nobody to connect to in its place.
fn is_gone(gone: &[ConnId], flow: &Flow) -> bool {
    flow.peer.port() == 0 && flow.conn.is_some_and(|conn| gone.contains(&conn))
}

impl World {
    pub fn new(shards: usize) -> World {
        World::with(shards, |_| {})
    }

    pub fn with(shards: usize, change: impl FnOnce(&mut Config)) -> World {
        let mut cfg = shards::config(SERVER, shards);
        change(&mut cfg);
        let cfg = Arc::new(cfg);
        World {
            shards: Shards::new(&cfg),
            configs: vec![cfg],
            inbox: BTreeMap::new(),
            gone: Vec::new(),
            asked: BTreeMap::new(),
            closed: Vec::new(),
            is_damaged: false,
            pongs: 0,
            age: Duration::ZERO,
            refuses_connections: false,
            refuses_datagrams: false,
            unreachable: Vec::new(),
        }
    }

    /// A datagram from `from`. Each arrives at the next shard in turn, whoever owns it.
    pub fn udp(&mut self, from: &str, message: &Message) {
        self.udp_bytes(from, &message.to_bytes());
    }

    pub fn udp_bytes(&mut self, from: &str, bytes: &[u8]) {
        self.shards.datagram(addr(from), bytes, self.age);
        self.settle();
    }

    /// Bytes on the connection of `from`, which is opened if there is none.
    pub fn tcp_bytes(&mut self, from: &str, bytes: &[u8]) {
        self.shards.stream(addr(from), bytes);
        self.settle();
    }

    pub fn tcp(&mut self, from: &str, message: &Message) {
        self.tcp_bytes(from, &message.to_bytes());
    }

    /// The phone closes its connection.
    pub fn close(&mut self, from: &str) {
        let conn = self.shards.close(addr(from)).expect("it has one");
        self.gone.push(conn);
        self.settle();
    }

    /// The connection over which the last request went to `peer` ends, and nothing has come back on it.
    pub fn ends_unheard(&mut self, peer: &str) {
        let (index, op) = self.asked.remove(&addr(peer)).expect("it was asked");
        let event = Event::SendFailed {
            op,
            reason: CloseReason::PeerClosed,
            was_sent: true,
        };
        self.shards.handle(index, event);
        self.settle();
    }

    /// The network says that a datagram to `peer`, which begins with `bytes`, has reached nobody. The error arrives at the next shard in turn,
    /// whoever has sent it.
    pub fn undelivered(&mut self, peer: &str, bytes: &[u8]) {
        let index = self.shards.next_arrival();
        let flow = shards::datagrams_from(addr(peer));
        self.shards.handle(index, Event::Undelivered { flow, bytes });
        self.settle();
    }

    /// Lets time pass, with every timer at its time.
    pub fn advance(&mut self, ms: u64) {
        let until = self.shards.now + Duration::from_millis(ms);
        while let Some(at) = self.shards.next_deadline(until) {
            self.shards.run_timers(at);
            self.settle();
        }
        self.shards.now = until;
    }

    /// Mail and effects until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for index in 0..self.shards.all.len() {
                self.shards.read(index);
                moved |= self.turn(index);
            }
            if !moved {
                return;
            }
        }
    }

    /// Does what a shard wants done. Gives whether that was anything.
    fn turn(&mut self, index: usize) -> bool {
        let now = self.shards.now;
        let (shard, out) = (&mut self.shards.all[index], &mut self.shards.effects[index]);
        shard.export(now, out);
        let moved = !out.is_empty();
        let mut failed = Vec::new();
        for index in 0..out.len() {
            match out.get(index) {
                Some(Effect::Send {
                    flow,
                    buf,
                    op: Some(op),
                }) if match flow.transport {
                    Transport::Udp => {
                        self.refuses_datagrams && matches!(op, TxOp::Request { .. })
                            || self.unreachable.contains(&flow.peer)
                    }
                    Transport::Tcp => {
                        self.refuses_connections && flow.conn.is_none()
                            || is_gone(&self.gone, &flow)
                            || flow.conn.is_none_or(|conn| self.gone.contains(&conn))
                                && self.unreachable.contains(&flow.peer)
                    }
                } =>
                {
                    failed.push((op, flow, out.pool.get(buf).to_vec()));
                    out.pool.release(buf);
                }
                Some(Effect::Send { flow, buf, op }) => {
                    if let (Transport::Tcp, Some(op @ TxOp::Request { .. })) = (flow.transport, op) {
                        self.asked.insert(flow.peer, (usize::from(shard.id().0), op));
                    }
                    let bytes = out.pool.get(buf).to_vec();
                    out.pool.release(buf);
                    if let Some(conn) = flow.conn {
                        assert_eq!(conn.shard, shard.id(), "only its own shard sends on a connection");
                    }
                    if bytes == b"\r\n" {
                        self.pongs += 1;
                        continue;
                    }
                    // What goes over a flow alone says nothing of where else its phone might be.
                    let mut conns = self.shards.conns.iter().filter(|_| flow.peer.port() == 0);
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
        for (op, flow, bytes) in failed {
            let reason = CloseReason::ConnectFailed;
            let event = match op {
                TxOp::Request { .. } => Event::SendFailed {
                    op,
                    reason,
                    was_sent: false,
                },
                TxOp::Answer { tried } => Event::AnswerNotSent {
                    flow,
                    bytes: &bytes,
                    tried,
                    reason,
                },
            };
            shard.handle(event, now, out);
        }
        shard.record_handled(now, now);
        moved
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
        self.shards.all.iter().map(Shard::calls).sum()
    }

    /// Response contexts of the proxy, and messages that it holds without one.
    pub fn contexts(&self) -> usize {
        let in_use = self.shards.in_use();
        in_use.contexts + in_use.held
    }

    /// Parts of calls: legs, exchanges, branches.
    pub fn parts(&self) -> usize {
        self.shards.all.iter().map(Shard::call_parts).sum()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        in_all(&self.shards.metrics, |m| m.drops[reason as usize].get())
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
        self.shards.board = self.shards.boards.of(id, &config);
        let ids = self.shards.metrics.iter().map(|metrics| metrics.config_id.get());
        assert!(ids.into_iter().all(|of_shard| of_shard == u64::from(id.0)));
    }

    /// How many configurations some shard still has.
    pub fn configs_in_use(&self) -> usize {
        let in_use = |config: &&Arc<Config>| Arc::strong_count(config) > 1;
        self.configs.iter().filter(in_use).count()
    }

    fn ask_all(&mut self, ask: impl Fn() -> Ask) {
        for shard in 0..self.shards.all.len() {
            self.ask(shard, ask(), b"");
        }
    }

    /// Asks one shard, as the control thread does.
    pub fn ask(&mut self, shard: usize, ask: Ask, bytes: &[u8]) {
        self.shards.ports[shard]
            .ask(ask, bytes)
            .expect("the shard has time");
        self.settle();
    }

    /// What a shard told the control thread next, with its bytes.
    pub fn told(&mut self, shard: usize) -> Option<(Tell, Vec<u8>)> {
        let mut bytes = vec![0; PORT_BYTES_MAX];
        let (tell, len) = self.shards.ports[shard].next_tell(&mut bytes)?;
        bytes.truncate(len);
        Some((tell, bytes))
    }

    /// Ends the shards: nothing may be left over.
    #[track_caller]
    pub fn end(self) {
        self.shards.end();
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
