//! Shards with an application of the test's own in place of the core, each on a thread with its real reactor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use ringway::config::{Config, KernelLevel, Listener};
use ringway::io::clock::Clock;
use ringway::io::connections::Connections;
use ringway::io::probe::Features;
use ringway::io::reactor::Reactor;
use ringway::io::socket::{ShardSockets, bind_all};
use ringway::io::uring::Uring;
use ringway::io::waker::Wakers;
use ringway::metrics::Metrics;
use ringway::pool::{Marks, Pool, Written};
use ringway::time::Instant;
use ringway::wire::{
    CloseReason, ConnId, Effect, Effects, Event, Flow, ListenerId, ShardId, Transport, TxOp,
};

/// A kernel level as the tests write it; `None` is everything that is there.
pub type Level = Option<(u16, u16)>;

/// Everything that is there, and shards that look for more before they sleep.
pub const SPINNING: Level = Some((u16::MAX, 0));

/// What a test waits for comes within this time or never: it only bounds a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const LOOPBACK_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// An event as the application saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Datagram {
        flow: Flow,
        bytes: Vec<u8>,
        received_at: Instant,
    },
    Opened {
        flow: Flow,
    },
    Stream {
        flow: Flow,
        bytes: Vec<u8>,
    },
    Closed {
        conn: ConnId,
        reason: CloseReason,
    },
    SendFailed {
        op: TxOp,
        reason: CloseReason,
        was_sent: bool,
    },
    AnswerNotSent {
        flow: Flow,
        bytes: Vec<u8>,
        tried: u8,
        reason: CloseReason,
    },
    Undelivered {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// A turn that came back with nothing.
    Nothing,
    /// What came on connections in a turn had waited for so long.
    StreamsWait(Duration),
}

impl From<&Event<'_>> for Seen {
    fn from(event: &Event<'_>) -> Seen {
        match *event {
            Event::Datagram {
                flow,
                bytes,
                received_at,
            } => Seen::Datagram {
                flow,
                bytes: bytes.to_vec(),
                received_at,
            },
            Event::Opened { flow } => Seen::Opened { flow },
            Event::Stream { flow, bytes } => Seen::Stream {
                flow,
                bytes: bytes.to_vec(),
            },
            Event::Closed { conn, reason } => Seen::Closed { conn, reason },
            Event::SendFailed { op, reason, was_sent } => Seen::SendFailed { op, reason, was_sent },
            Event::AnswerNotSent {
                flow,
                bytes,
                tried,
                reason,
            } => Seen::AnswerNotSent {
                flow,
                bytes: bytes.to_vec(),
                tried,
                reason,
            },
            Event::Undelivered { flow, bytes } => Seen::Undelivered {
                flow,
                bytes: bytes.to_vec(),
            },
        }
    }
}

/// What a shard's application does with an event, besides being recorded.
pub type App = fn(&Event<'_>, &mut Effects);

/// Takes a millisecond for every 4 KiB of what comes on a connection, or a part of that.
pub fn slow(event: &Event<'_>, _: &mut Effects) {
    if let Event::Stream { bytes, .. } = event {
        std::thread::sleep(Duration::from_millis(bytes.len().div_ceil(4_096) as u64));
    }
}

/// Sends back whatever comes.
pub fn echo(event: &Event<'_>, out: &mut Effects) {
    match *event {
        Event::Datagram { flow, bytes, .. } | Event::Stream { flow, bytes } => {
            let buf = out.pool.put(bytes).expect("room in the pool");
            out.send(flow, buf, None);
        }
        Event::Opened { .. }
        | Event::Closed { .. }
        | Event::SendFailed { .. }
        | Event::AnswerNotSent { .. }
        | Event::Undelivered { .. } => {}
    }
}

/// Does nothing.
pub fn listen(_: &Event<'_>, _: &mut Effects) {}

/// What a test has a shard do.
pub enum Order {
    Send {
        flow: Flow,
        bytes: Vec<u8>,
        op: Option<TxOp>,
    },
    /// As the SIP core sends: with the place for padding and the call's name marked.
    SendMarked {
        flow: Flow,
        bytes: Vec<u8>,
        marks: Marks,
    },
    Close(ConnId, CloseReason),
    Wake(ShardId),
    /// Say that nothing is being done, and do nothing until the other end says something.
    Pause(Sender<()>, Receiver<()>),
    Stop,
}

pub struct Server {
    pub listeners: Vec<Listener>,
    pub wakers: Arc<Wakers>,
    pub connections: Arc<Connections>,
    pub clock: Clock,
    shards: Vec<Shard>,
}

/// A shard that does nothing.
pub struct Paused(Sender<()>);

impl Paused {
    pub fn go_on(self) {
        self.0.send(()).expect("the shard waits");
    }
}

struct Shard {
    orders: Sender<Vec<Order>>,
    seen: Receiver<Seen>,
    metrics: Arc<Metrics>,
    thread: Option<JoinHandle<usize>>,
}

/// A configuration with one UDP and one TCP listener on `ip`, on a port that the kernel chooses.
pub fn config(ip: IpAddr) -> Config {
    let addr = SocketAddr::new(ip, 0);
    let mut cfg = Config {
        listeners: [Transport::Udp, Transport::Tcp]
            .map(|transport| Listener {
                transport,
                addr,
                advertised: addr.to_string(),
                state: ringway::config::ListenerState::Open,
            })
            .to_vec(),
        ..Config::default()
    };
    cfg.limits.connections_max = 8_000;
    cfg
}

impl Server {
    pub fn start(level: Level, cfg: &Config, app: App) -> Server {
        let mut features = Features::probe().expect("io_uring");
        if let Some((major, minor)) = level {
            features = features.limited_to(KernelLevel { major, minor });
        }
        let mut cfg = cfg.clone();
        if level == SPINNING {
            cfg.spin = Duration::from_micros(200);
        }
        let cfg = &cfg;
        let (listeners, sockets) = bind_all(cfg).expect("sockets");
        let wakers = Arc::new(Wakers::new(cfg.shards).expect("eventfds"));
        let connections = Arc::new(Connections::new(&cfg.limits));
        let clock = Clock::start();
        let shards = (0u8..)
            .zip(sockets)
            .map(|(index, sockets)| {
                let (orders, orders_in) = mpsc::channel();
                let (seen_out, seen) = mpsc::channel();
                let metrics = Arc::new(Metrics::default());
                let job = Job {
                    cfg: cfg.clone(),
                    shard: ShardId(index),
                    sockets,
                    features,
                    connections: Arc::clone(&connections),
                    wakers: Arc::clone(&wakers),
                    metrics: Arc::clone(&metrics),
                    clock,
                };
                let (ready, is_ready) = mpsc::channel();
                let thread = std::thread::spawn(move || job.run(app, &orders_in, &seen_out, &ready));
                is_ready.recv_timeout(PATIENCE).expect("a reactor");
                Shard {
                    orders,
                    seen,
                    metrics,
                    thread: Some(thread),
                }
            })
            .collect();
        Server {
            listeners,
            wakers,
            connections,
            clock,
            shards,
        }
    }

    /// The address of the UDP and the TCP listener of [`config`].
    pub fn addr(&self) -> SocketAddr {
        self.listeners[0].addr
    }

    pub fn metrics(&self, shard: usize) -> &Metrics {
        &self.shards[shard].metrics
    }

    pub fn order(&self, shard: usize, orders: Vec<Order>) {
        self.shards[shard].orders.send(orders).expect("the shard runs");
        self.wakers.wake(ShardId(shard as u8));
    }

    /// Keeps a shard from doing anything until what is returned is told to go on, and then has it do `orders`. It does nothing
    /// already when this returns.
    pub fn pause(&self, shard: usize, orders: Vec<Order>) -> Paused {
        let (begun, has_begun) = mpsc::channel();
        let (go_on, until) = mpsc::channel();
        let pause = [Order::Pause(begun, until)];
        self.order(shard, pause.into_iter().chain(orders).collect());
        has_begun
            .recv_timeout(PATIENCE)
            .expect("a shard that can be paused");
        Paused(go_on)
    }

    /// The next event of a shard that `pick` wants; others are passed over.
    pub fn wait_for<T>(&self, shard: usize, mut pick: impl FnMut(&Seen) -> Option<T>) -> T {
        loop {
            let seen = self.shards[shard]
                .seen
                .recv_timeout(PATIENCE)
                .expect("an event that never came");
            if let Some(found) = pick(&seen) {
                return found;
            }
        }
    }

    pub fn opened(&self, shard: usize) -> Flow {
        self.wait_for(shard, |seen| match seen {
            Seen::Opened { flow } => Some(*flow),
            _ => None,
        })
    }

    pub fn closed(&self, shard: usize) -> (ConnId, CloseReason) {
        self.wait_for(shard, |seen| match seen {
            Seen::Closed { conn, reason } => Some((*conn, *reason)),
            _ => None,
        })
    }

    pub fn send_failed(&self, shard: usize) -> (TxOp, CloseReason) {
        self.wait_for(shard, |seen| match seen {
            Seen::SendFailed { op, reason, .. } => Some((*op, *reason)),
            _ => None,
        })
    }

    /// An answer that has come back: where it was to go, what it says, how often it was tried before, and why.
    pub fn answer_back(&self, shard: usize) -> (Flow, Vec<u8>, u8, CloseReason) {
        self.wait_for(shard, |seen| match seen {
            Seen::AnswerNotSent {
                flow,
                bytes,
                tried,
                reason,
            } => Some((*flow, bytes.clone(), *tried, *reason)),
            _ => None,
        })
    }

    /// One that its peer may have read.
    pub fn unheard(&self, shard: usize) -> (TxOp, CloseReason) {
        self.wait_for(shard, |seen| match seen {
            Seen::SendFailed {
                op,
                reason,
                was_sent: true,
            } => Some((*op, *reason)),
            _ => None,
        })
    }

    /// `len` bytes of the streams of a shard, all connections together.
    pub fn stream(&self, shard: usize, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            self.wait_for(shard, |seen| match seen {
                Seen::Stream { bytes, .. } => {
                    all.extend_from_slice(bytes);
                    Some(())
                }
                _ => None,
            });
        }
        all
    }

    /// Waits until `condition` holds, which the shards bring about.
    pub fn until(&self, what: &str, mut condition: impl FnMut(&Server) -> bool) {
        let mut left = PATIENCE;
        while !condition(self) {
            assert!(!left.is_zero(), "never came about: {what}");
            std::thread::sleep(Duration::from_millis(5));
            left = left.saturating_sub(Duration::from_millis(5));
        }
    }

    pub fn stop_shard(&mut self, shard: usize) {
        if let Some(thread) = self.shards[shard].thread.take() {
            self.order(shard, vec![Order::Stop]);
            let buffers = thread.join().expect("no panic in the shard");
            assert_eq!(buffers, 0, "buffers left over");
        }
    }

    /// Stops the shards, and checks that nothing is left over.
    pub fn stop(mut self) {
        for shard in 0..self.shards.len() {
            self.stop_shard(shard);
        }
        assert_eq!(self.connections.total(), 0, "connections left over");
    }
}

struct Job {
    cfg: Config,
    shard: ShardId,
    sockets: ShardSockets,
    features: Features,
    connections: Arc<Connections>,
    wakers: Arc<Wakers>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Job {
    /// Gives the number of buffers that are still in use at the end.
    fn run(self, app: App, orders: &Receiver<Vec<Order>>, seen: &Sender<Seen>, ready: &Sender<()>) -> usize {
        let mut reactor = Uring::new(
            &self.cfg,
            self.shard,
            self.sockets,
            self.features,
            self.connections,
            self.wakers,
            self.metrics,
            self.clock,
        )
        .expect("a reactor");
        ready.send(()).expect("the test waits");
        let mut effects = Effects::new(Pool::new(256 << 20));
        loop {
            let mut events = 0;
            let began = reactor
                .turn(None, &mut |event, now| {
                    events += 1;
                    effects.received_at = now;
                    // The test may have seen enough.
                    let _ = seen.send(Seen::from(&event));
                    app(&event, &mut effects);
                })
                .expect("a turn");
            assert!(began <= reactor.now());
            if events == 0 {
                let _ = seen.send(Seen::Nothing);
            }
            if let Some(wait) = reactor.streams_wait() {
                let _ = seen.send(Seen::StreamsWait(wait));
            }
            let mut stop = false;
            for order in orders.try_iter().flatten() {
                match order {
                    Order::Send { flow, bytes, op } => {
                        let buf = effects.pool.put(&bytes).expect("room in the pool");
                        effects.send(flow, buf, op);
                    }
                    Order::SendMarked { flow, bytes, marks } => {
                        let mut draft = effects.pool.draft(bytes.len()).expect("room in the pool");
                        draft.bytes[..bytes.len()].copy_from_slice(&bytes);
                        let len = bytes.len();
                        let buf = effects.pool.commit(draft, Written { len, marks });
                        effects.send(flow, buf, None);
                    }
                    Order::Close(conn, reason) => effects.push(Effect::Close { conn, reason }),
                    Order::Wake(shard) => effects.push(Effect::Wake { shard }),
                    Order::Pause(begun, until) => {
                        begun.send(()).expect("a test that waits for it");
                        until.recv_timeout(PATIENCE).expect("a word to go on");
                    }
                    Order::Stop => stop = true,
                }
            }
            reactor.flush(&mut effects);
            assert!(effects.is_empty());
            if stop {
                return effects.pool.in_use();
            }
        }
    }
}

pub const UDP: ListenerId = ListenerId(0);
pub const TCP: ListenerId = ListenerId(1);

/// A flow to `peer` that names no connection.
pub fn flow_to(transport: Transport, peer: SocketAddr) -> Flow {
    Flow {
        transport,
        listener: match transport {
            Transport::Udp => UDP,
            Transport::Tcp => TCP,
        },
        peer,
        conn: None,
    }
}

pub fn op(slot: u32) -> TxOp {
    TxOp::Request {
        shard: ShardId(0),
        slot,
        generation: 7,
    }
}

pub fn send(flow: Flow, bytes: &[u8], op: Option<TxOp>) -> Order {
    Order::Send {
        flow,
        bytes: bytes.to_vec(),
        op,
    }
}

pub fn udp_client(server: &Server) -> UdpSocket {
    let any: IpAddr = server.addr().ip();
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket.connect(server.addr()).expect("a peer");
    socket
}

pub fn tcp_client(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Whether the machine has IPv6, with a word when it has not.
pub fn has_ipv6() -> bool {
    let has = UdpSocket::bind((LOOPBACK_6, 0)).is_ok();
    if !has {
        eprintln!("skipped: this machine has no IPv6 loopback");
    }
    has
}

/// Bytes that show where they come from: any shift or swap is seen.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|at| ((at ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

/// Runs a test of this program again, by `command` (which is given the program and the test's name), with `mark` in its environment.
pub fn again(mut command: Command, module: &str, test: &str, level: Level, mark: &str) {
    let level = match level {
        SPINNING => "native_that_spins".to_owned(),
        Some((major, minor)) => format!("linux_{major}_{minor}"),
        None => "native".to_owned(),
    };
    let output = command
        .arg(std::env::current_exe().expect("this program"))
        .arg(format!("{module}::{level}::{test}"))
        .env(mark, "1")
        .output()
        .expect("a process");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}\n{err}"
    );
}
