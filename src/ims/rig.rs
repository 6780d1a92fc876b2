//! The service of one shard without a shard: for tests that put messages in and look at what comes out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bench_harness::sip::Message;

use crate::b2bua::B2bua;
use crate::config::{Config, Listener};
use crate::location::{AorHasher, Location};
use crate::metrics::Metrics;
use crate::msg::request::{Request, Response};
use crate::msg::scan::{self, Table, scan};
use crate::pool::Pool;
use crate::time::Instant;
use crate::timer::TimerKind;
use crate::token::TokenKey;
use crate::transaction::key::Keyer;
use crate::transaction::{Known, Stack};
use crate::wire::{ConnId, Effect, Effects, Flow, ListenerId, ShardId, Transport};

use super::Ims;
use super::reg_event::RegEvent;

pub struct Rig {
    pub ims: Ims,
    pub stack: Stack,
    pub out: Effects,
    pub now: Instant,
}

/// A message that was sent, and over what.
#[derive(Debug)]
pub struct Sent {
    pub flow: Flow,
    pub message: Message,
}

pub const SERVER: &str = "10.88.120.110:5060";

impl Rig {
    /// On 10.88.120.110, UDP and TCP, for `one.att.net`.
    pub fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Rig {
        let listener = |transport| Listener {
            transport,
            addr: SERVER.parse().expect("an address"),
            advertised: SERVER.to_owned(),
            state: crate::config::ListenerState::Open,
        };
        let mut cfg = Config {
            listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
            domains: vec!["one.att.net".to_owned()],
            ..Config::default()
        };
        change(&mut cfg);
        let cfg = Arc::new(cfg);
        let now = Instant::from_millis(1_800_000_000_000);
        Rig {
            ims: Ims {
                aors: AorHasher::new([5; 8]),
                location: Location::new(&cfg),
                reg_event: RegEvent::new(&cfg),
                calls: B2bua::new(16),
            },
            stack: Stack::new(
                cfg,
                Arc::new(Metrics::default()),
                ShardId(0),
                TokenKey::new([9; 16]),
                Keyer::new([6; 8]),
                now,
            ),
            out: Effects::new(Pool::new(1 << 24)),
            now,
        }
    }

    /// A request over UDP. What it causes to be sent comes back, in order.
    pub fn udp(&mut self, peer: &str, request: &Message) -> Vec<Sent> {
        self.receive(Transport::Udp, peer, None, request)
    }

    /// A request over a connection, named by its slot.
    pub fn tcp(&mut self, peer: &str, slot: u32, request: &Message) -> Vec<Sent> {
        let conn = ConnId {
            shard: ShardId(0),
            slot,
            generation: 1,
        };
        self.receive(Transport::Tcp, peer, Some(conn), request)
    }

    fn receive(
        &mut self,
        transport: Transport,
        peer: &str,
        conn: Option<ConnId>,
        request: &Message,
    ) -> Vec<Sent> {
        let peer: SocketAddr = peer.parse().expect("an address");
        let flow = Flow {
            transport,
            listener: ListenerId(transport as u16),
            peer,
            conn,
        };
        let bytes = request.to_bytes();
        let mut table = Table::new();
        scan(&bytes, &mut table).expect("a message");
        let request = Request::check(scan::Message::new(&bytes, &table)).expect("a request");
        match self.stack.absorb(&request, self.now, &mut self.out) {
            Known::New(key) => {
                let look_up =
                    self.ims
                        .on_new_request(&mut self.stack, &request, key, flow, self.now, &mut self.out);
                assert!(look_up.is_none(), "a call");
            }
            Known::Absorbed => {}
            Known::AckForSuccess => panic!("a call"),
        }
        self.sent()
    }

    /// The answer to a request of ours.
    pub fn answer(&mut self, request: &Message, status: u16) -> Vec<Sent> {
        let mut response = Message::response(status, "Whatever");
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            response = response.with(name, request.text(name));
        }
        let bytes = response.with("Content-Length", 0).to_bytes();
        let mut table = Table::new();
        scan(&bytes, &mut table).expect("a message");
        let response = Response::check(scan::Message::new(&bytes, &table)).expect("a response");
        let token = response
            .via
            .branch
            .and_then(|branch| self.stack.key.parse_branch(branch))
            .expect("ours");
        if let Some(told) = self.stack.on_response(token, &response, self.now, &mut self.out) {
            self.ims
                .on_response(&mut self.stack, told, &response, self.now, &mut self.out);
        }
        self.sent()
    }

    /// Lets time pass; every timer runs at its time.
    pub fn advance(&mut self, ms: u64) -> Vec<Sent> {
        let until = self.now + Duration::from_millis(ms);
        let mut sent = Vec::new();
        while let Some(at) = self.stack.wheel.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            while let Some(timer) = self.stack.wheel.pop(self.now) {
                match timer.kind {
                    TimerKind::Transaction => {
                        let event =
                            self.stack
                                .on_timer(timer.slot, timer.generation, self.now, &mut self.out);
                        if let Some(event) = event {
                            self.ims
                                .on_user_event(&mut self.stack, event, self.now, &mut self.out);
                        }
                    }
                    TimerKind::Call
                    | TimerKind::Binding
                    | TimerKind::Subscription
                    | TimerKind::Aor
                    | TimerKind::Context
                    | TimerKind::Held
                    | TimerKind::Stream
                    | TimerKind::Question
                    | TimerKind::Address
                    | TimerKind::Ping
                    | TimerKind::TrunkCall
                    | TimerKind::ProxiedCall => {
                        self.ims.on_timer(&mut self.stack, timer, self.now, &mut self.out)
                    }
                }
            }
            sent.append(&mut self.sent());
        }
        self.now = until;
        sent
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut list = Vec::new();
        for index in 0..self.out.len() {
            match self.out.get(index).expect("an effect") {
                Effect::Send { flow, buf, .. } => {
                    let message =
                        Message::parse(self.out.pool.get(buf)).expect("what we send is well-formed");
                    list.push(Sent { flow, message });
                    self.out.pool.release(buf);
                }
                Effect::Nothing => {}
                other @ (Effect::Close { .. } | Effect::Wake { .. }) => panic!("{other:?}"),
            }
        }
        self.out.clear();
        list
    }

    /// Ends what still lives in good order; then nothing may be left.
    pub fn end(mut self) {
        self.ims.reg_event.clear(&mut self.stack, &mut self.out);
        self.ims.location.clear(&mut self.stack.wheel, &mut self.out.pool);
        self.stack.abandon_all(&mut self.out);
        self.stack.dns.clear(&mut self.stack.wheel);
        assert_eq!(
            (self.ims.reg_event.len(), self.ims.location.subscribers()),
            (0, 0)
        );
        assert_eq!(
            (self.stack.wheel.len(), self.stack.len(), self.out.pool.in_use()),
            (0, 0, 0)
        );
    }
}

/// A request of a phone at `host` (its address and port).
pub fn request(method: &str, uri: &str, host: &str, user: &str, call_id: &str, cseq: u32) -> Message {
    Message::request(method, uri)
        .with("Via", format!("SIP/2.0/UDP {host};branch=z9hG4bK{call_id}{cseq}"))
        .with("From", format!("<sip:{user}@one.att.net>;tag=f-{call_id}"))
        .with("To", format!("<sip:{user}@one.att.net>"))
        .with("Call-ID", call_id)
        .with("CSeq", format!("{cseq} {method}"))
        .with("Max-Forwards", 70)
}

/// REGISTER of `user` with a contact at `host`; `params` follow the contact.
pub fn register(user: &str, host: &str, cseq: u32, params: &str) -> Message {
    request(
        "REGISTER",
        "sip:one.att.net",
        host,
        user,
        &format!("reg-{user}"),
        cseq,
    )
    .with("Contact", format!("<sip:{user}@{host}>{params}"))
    .with("Content-Length", 0)
}

/// SUBSCRIBE of `user` to its own registration.
pub fn subscribe(user: &str, host: &str, call_id: &str, cseq: u32, expires: u32) -> Message {
    request(
        "SUBSCRIBE",
        &format!("sip:{user}@one.att.net"),
        host,
        user,
        call_id,
        cseq,
    )
    .with("Contact", format!("<sip:{user}@{host}>"))
    .with("Event", "reg")
    .with("Expires", expires)
    .with("Content-Length", 0)
}
