//! What the reactor alone costs a message: an echo without any SIP, at each kernel level, in CPU time of its thread.
//!
//! `cargo run --release --example reactor_cost [ROUNDS [SECONDS [LOAD [LEVEL]]]]`: 5 rounds of 2 seconds of all loads whose name
//! contains LOAD, at all levels or the one. The reactor is pinned to the first CPU, the load to the second; levels take turns
//! within a round, and the median of the rounds is shown. Run it on a machine that does nothing else. The last lines are memory
//! of idle connections, without the kernel's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ringway::config::{Config, KernelLevel, Listener, Segment};
use ringway::io::affinity::pin_to;
use ringway::io::clock::Clock;
use ringway::io::connections::Connections;
use ringway::io::probe::Features;
use ringway::io::reactor::Reactor;
use ringway::io::socket::bind_all;
use ringway::io::uring::Uring;
use ringway::io::waker::Wakers;
use ringway::metrics::Metrics;
use ringway::pool::Pool;
use ringway::wire::{Effect, Effects, Event, ShardId, Transport};

const MESSAGE_BYTES: usize = 600;
/// Datagrams under way in the saturated case.
const WINDOW: usize = 64;
const CONNECTIONS: usize = 1_000;
const PIPELINED: usize = 16;

/// Who serves the load.
#[derive(Clone, Copy)]
enum Subject {
    /// One blocking `recvfrom` and `sendto` a datagram: what there is to compare with. UDP only.
    Blocking,
    Reactor(Option<(u16, u16)>),
}

const SUBJECTS: [(&str, Subject); 5] = [
    ("blocking", Subject::Blocking),
    ("5.10", Subject::Reactor(Some((5, 10)))),
    ("5.19", Subject::Reactor(Some((5, 19)))),
    ("6.0", Subject::Reactor(Some((6, 0)))),
    ("native", Subject::Reactor(None)),
];

#[derive(Clone, Copy)]
enum Load {
    UdpSaturated,
    /// The same without runs (UDP_SEGMENT).
    UdpSingly,
    /// One datagram at a time: every message finds the reactor asleep.
    UdpPingPong,
    /// Messages on many connections.
    Tcp,
    /// Several messages at once on each of some connections.
    TcpPipelined,
    /// Two shards that wake each other in turn.
    Wake,
}

const LOADS: [(&str, Load); 6] = [
    ("UDP, 64 under way", Load::UdpSaturated),
    ("UDP, 64 under way, singly", Load::UdpSingly),
    ("UDP, one at a time", Load::UdpPingPong),
    ("TCP, 1,000 connections", Load::Tcp),
    ("TCP, 16 messages at once", Load::TcpPipelined),
    ("wake-ups between shards", Load::Wake),
];

struct Measured {
    cpu_ns: u64,
    messages_a_second: u64,
    turns_a_message: f64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default| {
        args.next()
            .map_or(default, |arg| arg.parse::<u64>().expect("a number").max(1))
    };
    let (rounds, time) = (number(5), Duration::from_secs(number(2)));
    let (only_load, only_level) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let features = Features::probe().expect("io_uring");
    println!(
        "{:<26} {:<8} {:>10} {:>12} {:>14}",
        "load", "level", "CPU ns", "messages/s", "turns/message"
    );
    for (load_name, load) in LOADS.into_iter().filter(|(name, _)| name.contains(&only_load)) {
        let mut measured: [Vec<Measured>; SUBJECTS.len()] = Default::default();
        for _ in 0..rounds {
            for (&(name, subject), measured) in SUBJECTS.iter().zip(&mut measured) {
                if name.contains(&only_level) {
                    measured.extend(measure(features, subject, load, time));
                }
            }
        }
        for ((level, _), mut measured) in SUBJECTS.iter().zip(measured) {
            measured.sort_by_key(|measured| measured.cpu_ns);
            let Some(median) = measured.get(measured.len() / 2) else {
                continue;
            };
            println!(
                "{load_name:<26} {level:<8} {:>10} {:>12} {:>14.3}",
                median.cpu_ns, median.messages_a_second, median.turns_a_message
            );
        }
    }
    if !only_load.is_empty() {
        return;
    }
    for (level, subject) in SUBJECTS {
        if let Subject::Reactor(limit) = subject {
            println!(
                "an idle TCP connection at level {level}: {} bytes",
                idle_bytes(limited(features, limit))
            );
        }
    }
}

fn limited(features: Features, limit: Option<(u16, u16)>) -> Features {
    limit.map_or(features, |(major, minor)| {
        features.limited_to(KernelLevel { major, minor })
    })
}

/// `None` where the subject can't serve the load.
fn measure(features: Features, subject: Subject, load: Load, time: Duration) -> Option<Measured> {
    match (subject, load) {
        (Subject::Blocking, Load::UdpSaturated | Load::UdpSingly | Load::UdpPingPong) => {
            Some(measure_blocking(load, time))
        }
        (Subject::Blocking, Load::Tcp | Load::TcpPipelined | Load::Wake) => None,
        (Subject::Reactor(limit), Load::Wake) => Some(measure_wakes(limited(features, limit), time)),
        (
            Subject::Reactor(limit),
            Load::UdpSaturated | Load::UdpSingly | Load::UdpPingPong | Load::Tcp | Load::TcpPipelined,
        ) => Some(measure_reactor(limited(features, limit), load, time)),
    }
}

fn measure_blocking(load: Load, time: Duration) -> Measured {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let addr = socket.local_addr().expect("an address");
    let (cpu_out, cpu) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let _ = pin_to(0);
        let mut bytes = [0; 2_000];
        loop {
            let (count, peer) = socket.recv_from(&mut bytes).expect("a datagram");
            if count == 0 {
                return;
            }
            if count == 1 {
                cpu_out.send(thread_cpu_ns()).expect("the load waits");
            }
            socket.send_to(&bytes[..count], peer).expect("sent");
        }
    });
    let measured = drive(load, time, addr, &cpu, || 0);
    let end = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    end.send_to(&[], addr).expect("sent");
    server.join().expect("no panic");
    measured
}

fn config() -> Config {
    let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let listener = |transport| Listener {
        transport,
        addr,
        advertised: String::new(),
        state: ringway::config::ListenerState::Open,
    };
    Config {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        ..Config::default()
    }
}

/// Each shard's turn ends with waking the other, by a ball that only one of them has.
fn measure_wakes(features: Features, time: Duration) -> Measured {
    let cfg = Config {
        shards: 2,
        ..config()
    };
    let (_, sockets) = bind_all(&cfg).expect("sockets");
    let wakers = Arc::new(Wakers::new(2).expect("eventfds"));
    let stop = Arc::new(AtomicBool::new(false));
    // Whose turn it is, and how often the ball was passed.
    let (holder, passes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let clock = Clock::start();
    let threads: Vec<_> = (0u8..)
        .zip(sockets)
        .map(|(index, sockets)| {
            let (cfg, wakers, stop) = (cfg.clone(), Arc::clone(&wakers), Arc::clone(&stop));
            let (holder, passes) = (Arc::clone(&holder), Arc::clone(&passes));
            std::thread::spawn(move || {
                let _ = pin_to(usize::from(index));
                let connections = Arc::new(Connections::new(&cfg.limits));
                let metrics = Arc::new(Metrics::default());
                let shard = ShardId(index);
                let mut reactor = Uring::new(
                    &cfg,
                    shard,
                    sockets,
                    features,
                    connections,
                    wakers,
                    metrics,
                    clock,
                )
                .expect("a reactor");
                let mut effects = Effects::new(Pool::new(1 << 20));
                while !stop.load(Ordering::Relaxed) {
                    reactor.turn(None, &mut |_, _| {}).expect("a turn");
                    if holder.load(Ordering::Acquire) == u64::from(index) {
                        passes.fetch_add(1, Ordering::Relaxed);
                        holder.store(1 - u64::from(index), Ordering::Release);
                        effects.push(Effect::Wake {
                            shard: ShardId(1 - index),
                        });
                    }
                    reactor.flush(&mut effects);
                }
                thread_cpu_ns()
            })
        })
        .collect();
    std::thread::sleep(time);
    let messages = passes.load(Ordering::Relaxed).max(1);
    stop.store(true, Ordering::Relaxed);
    for shard in [0, 1] {
        wakers.wake(ShardId(shard));
    }
    let cpu: u64 = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .sum();
    Measured {
        cpu_ns: cpu / messages,
        messages_a_second: (messages as f64 / time.as_secs_f64()) as u64,
        turns_a_message: 1.0,
    }
}

/// Memory of this process for a connection that has spoken once and is silent now.
fn idle_bytes(features: Features) -> usize {
    const COUNT: usize = 8_000;
    let cfg = config();
    let (listeners, mut sockets) = bind_all(&cfg).expect("sockets");
    let wakers = Arc::new(Wakers::new(1).expect("an eventfd"));
    let (connections, metrics) = (
        Arc::new(Connections::new(&cfg.limits)),
        Arc::new(Metrics::default()),
    );
    let clock = Clock::start();
    let mut reactor = Uring::new(
        &cfg,
        ShardId(0),
        sockets.remove(0),
        features,
        connections,
        wakers,
        metrics,
        clock,
    )
    .expect("a reactor");
    let mut effects = Effects::new(Pool::new(1 << 30));
    let mut clients = Vec::with_capacity(COUNT);
    let mut before = 0;
    for number in 0..COUNT {
        let mut client = TcpStream::connect(listeners[1].addr).expect("a connection");
        client.write_all(&[7; MESSAGE_BYTES]).expect("sent");
        let mut echoed = false;
        while !echoed {
            reactor
                .turn(None, &mut |event, _| {
                    if let Event::Stream { flow, bytes } = event {
                        let buf = effects.pool.put(bytes).expect("room in the pool");
                        effects.send(flow, buf, None);
                        echoed = true;
                    }
                })
                .expect("a turn");
            reactor.flush(&mut effects);
        }
        // What the first connections have warmed up serves all.
        if number == COUNT / 8 {
            before = resident_bytes();
        }
        clients.push(client);
    }
    (resident_bytes() - before) / (COUNT - COUNT / 8)
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|number| number.parse::<usize>().ok());
    pages.expect("a number") * 4_096
}

fn measure_reactor(features: Features, load: Load, time: Duration) -> Measured {
    let mut cfg = config();
    if let Load::UdpSingly = load {
        cfg.udp.segment = Segment::Off;
    }
    let (listeners, mut sockets) = bind_all(&cfg).expect("sockets");
    let addr = listeners[0].addr;
    let sockets = sockets.remove(0);
    let metrics = Arc::new(Metrics::default());
    let wakers = Arc::new(Wakers::new(1).expect("an eventfd"));
    let clock = Clock::start();
    let stop = Arc::new(AtomicBool::new(false));
    let (cpu_out, cpu) = mpsc::channel();
    let shard = std::thread::spawn({
        let (metrics, wakers, stop) = (Arc::clone(&metrics), Arc::clone(&wakers), Arc::clone(&stop));
        move || {
            let _ = pin_to(0);
            let connections = Arc::new(Connections::new(&cfg.limits));
            let mut reactor = Uring::new(
                &cfg,
                ShardId(0),
                sockets,
                features,
                connections,
                wakers,
                metrics,
                clock,
            )
            .expect("a reactor");
            let mut effects = Effects::new(Pool::new(1 << 30));
            while !stop.load(Ordering::Relaxed) {
                // A deadline like that of a shard with nothing special to do.
                let deadline = reactor.now() + Duration::from_millis(500);
                reactor
                    .turn(Some(deadline), &mut |event, _| match event {
                        Event::Datagram { flow, bytes, .. } | Event::Stream { flow, bytes } => {
                            // One byte asks for the CPU time used so far.
                            if bytes.len() == 1 {
                                cpu_out.send(thread_cpu_ns()).expect("the load waits");
                            }
                            let buf = effects.pool.put(bytes).expect("room in the pool");
                            effects.send(flow, buf, None);
                        }
                        Event::Opened { .. }
                        | Event::Closed { .. }
                        | Event::SendFailed { .. }
                        | Event::AnswerNotSent { .. }
                        | Event::Undelivered { .. } => {}
                    })
                    .expect("a turn");
                reactor.flush(&mut effects);
            }
        }
    });
    let measured = drive(load, time, addr, &cpu, || metrics.turns.get());
    stop.store(true, Ordering::Relaxed);
    wakers.wake(ShardId(0));
    shard.join().expect("no panic");
    measured
}

/// Loads whoever serves `addr`, who sends the CPU time used so far to `cpu` when a datagram of one byte comes.
fn drive(
    load: Load,
    time: Duration,
    addr: SocketAddr,
    cpu: &mpsc::Receiver<u64>,
    turns: impl Fn() -> u64,
) -> Measured {
    let _ = pin_to(1);
    let clock = Clock::start();
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let cpu_now = || {
        probe.send_to(b"?", addr).expect("sent");
        let _ = probe.recv(&mut [0; 10]).expect("an echo");
        cpu.recv().expect("a CPU time")
    };
    let mut run = Run::new(load, addr);
    run.once();
    let (cpu_before, turns_before, start) = (cpu_now(), turns(), clock.now());
    let mut messages = 0;
    while clock.now().since(start) < time {
        messages += run.once();
    }
    let elapsed = clock.now().since(start);
    let (cpu_after, turns) = (cpu_now(), turns() - turns_before);
    Measured {
        cpu_ns: (cpu_after - cpu_before) / messages,
        messages_a_second: (messages as f64 / elapsed.as_secs_f64()) as u64,
        turns_a_message: turns as f64 / messages as f64,
    }
}

/// The load's side.
enum Run {
    Udp { socket: UdpSocket, window: usize },
    Tcp { streams: Vec<TcpStream>, bytes: usize },
}

impl Run {
    fn new(load: Load, addr: SocketAddr) -> Run {
        let udp = |window| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.connect(addr).expect("a peer");
            // A datagram that is lost is missed for so long, and the next window is a full one again.
            socket
                .set_read_timeout(Some(Duration::from_millis(50)))
                .expect("a time-out");
            Run::Udp { socket, window }
        };
        let tcp = |connections, messages| Run::Tcp {
            streams: (0..connections)
                .map(|_| {
                    let stream = TcpStream::connect(addr).expect("a connection");
                    stream.set_nodelay(true).expect("an option");
                    stream
                })
                .collect(),
            bytes: messages * MESSAGE_BYTES,
        };
        match load {
            Load::UdpSaturated | Load::UdpSingly => udp(WINDOW),
            Load::UdpPingPong => udp(1),
            Load::Tcp => tcp(CONNECTIONS, 1),
            Load::TcpPipelined => tcp(WINDOW, PIPELINED),
            Load::Wake => unreachable!("it has no load from outside"),
        }
    }

    /// Sends some messages and waits for their echoes. Gives how many there were.
    fn once(&mut self) -> u64 {
        match self {
            Run::Udp { socket, window } => {
                let message = [7; MESSAGE_BYTES];
                let mut back = [0; 2_000];
                for _ in 0..*window {
                    socket.send(&message).expect("sent");
                }
                let mut count = 0;
                // After the window is full, one goes out for each that comes in.
                for _ in 0..if *window == 1 { 1 } else { 20 * *window } {
                    if socket.recv(&mut back).is_err() {
                        return count;
                    }
                    count += 1;
                    if *window > 1 {
                        socket.send(&message).expect("sent");
                    }
                }
                for _ in 0..if *window == 1 { 0 } else { *window } {
                    count += u64::from(socket.recv(&mut back).is_ok());
                }
                count
            }
            Run::Tcp { streams, bytes } => {
                // Each message in a write of its own, as phones send them.
                for stream in &mut *streams {
                    for _ in 0..*bytes / MESSAGE_BYTES {
                        stream.write_all(&[7; MESSAGE_BYTES]).expect("sent");
                    }
                }
                let mut back = vec![0; *bytes];
                for stream in &mut *streams {
                    stream.read_exact(&mut back).expect("an echo");
                }
                (streams.len() * *bytes / MESSAGE_BYTES) as u64
            }
        }
    }
}

/// CPU time of this thread, nanoseconds.
fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel tells");
    let first = text.split(' ').next().and_then(|number| number.parse().ok());
    first.expect("a number")
}
