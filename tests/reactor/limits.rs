//! Limits of connections, idle time, descriptors.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ringway::metrics::DropReason;
use ringway::wire::{CloseReason, Transport};

use crate::at_every_level;
use crate::harness::*;

at_every_level!(
    a_source_over_its_limit_is_turned_away_and_others_are_not,
    connections_over_the_limit_in_all_are_turned_away,
    our_own_connections_count_against_the_limit_in_all,
    an_idle_connection_is_closed_and_a_busy_one_is_not,
    a_connection_attempt_without_an_answer_times_out,
    a_peer_that_never_closes_its_side_does_not_keep_a_closed_connection,
    more_events_at_once_than_the_queues_hold_are_all_delivered,
    accepting_goes_on_when_descriptors_are_free_again,
);

/// Whether the server keeps the connection: one turned away ends at once.
fn is_served(client: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    client.write_all(b"ping").is_ok() && client.read_exact(&mut back).is_ok() && &back == b"ping"
}

fn client_from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((ip, 0)).into())
        .expect("an address of the loopback network");
    socket.connect(&to.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

fn a_source_over_its_limit_is_turned_away_and_others_are_not(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.connections_per_source_max = 3;
    let server = Server::start(level, &cfg, echo);
    let mut kept: Vec<_> = (0..3)
        .map(|_| client_from([127, 0, 0, 1], server.addr()))
        .collect();
    assert!(kept.iter_mut().all(is_served));
    assert!(!is_served(&mut client_from([127, 0, 0, 1], server.addr())));
    assert!(is_served(&mut client_from([127, 0, 0, 9], server.addr())));
    let dropped = &server.metrics(0).drops[DropReason::ConnectionsPerSourceFull as usize];
    assert_eq!(dropped.get(), 1);
    kept.pop();
    server.until("a seat is free", |server| server.connections.total() <= 2);
    assert!(is_served(&mut client_from([127, 0, 0, 1], server.addr())));
    server.stop();
}

fn connections_over_the_limit_in_all_are_turned_away(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.connections_max = 2;
    let server = Server::start(level, &cfg, echo);
    let mut kept = [
        client_from([127, 0, 0, 1], server.addr()),
        client_from([127, 0, 0, 2], server.addr()),
    ];
    assert!(kept.iter_mut().all(is_served));
    assert!(!is_served(&mut client_from([127, 0, 0, 3], server.addr())));
    assert_eq!(
        server.metrics(0).drops[DropReason::ConnectionsFull as usize].get(),
        1
    );
    assert!(kept.iter_mut().all(is_served), "those that were there stay");
    server.stop();
}

fn our_own_connections_count_against_the_limit_in_all(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.connections_max = 1;
    let server = Server::start(level, &cfg, echo);
    let mut kept = client_from([127, 0, 0, 1], server.addr());
    assert!(is_served(&mut kept));
    let flow = flow_to(Transport::Tcp, ([127, 0, 0, 1], 5).into());
    server.order(0, vec![send(flow, b"no", Some(op(1)))]);
    assert_eq!(server.send_failed(0), (op(1), CloseReason::Limit));
    server.stop();
}

fn an_idle_connection_is_closed_and_a_busy_one_is_not(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.connection_idle = Duration::from_millis(400);
    let server = Server::start(level, &cfg, echo);
    let mut idle = tcp_client(&server);
    let idle_conn = server.opened(0).conn.expect("a connection");
    // A client that speaks all the time; whatever the machine does meanwhile, it is the idle one that goes first.
    let mut busy = tcp_client(&server);
    let talking = std::thread::spawn({
        let mut busy = busy.try_clone().expect("a second handle");
        move || {
            while busy.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let mut end = Vec::new();
    idle.read_to_end(&mut end).expect("an orderly end");
    assert!(end.is_empty());
    drop(idle);
    assert_eq!(server.closed(0), (idle_conn, CloseReason::Idle));
    busy.read_exact(&mut [0; 1]).expect("the busy connection lives");
    busy.shutdown(std::net::Shutdown::Both).expect("closed");
    talking.join().expect("talked");
    server.stop();
}

fn a_connection_attempt_without_an_answer_times_out(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.connect_timeout = Duration::from_millis(200);
    let server = Server::start(level, &cfg, listen);
    // A listener whose queue is full answers nobody.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from((LOOPBACK, 0)).into())
        .expect("an address");
    full.listen(0).expect("a queue of one");
    let addr = full.local_addr().expect("an address").as_socket().expect("IPv4");
    let _first = TcpStream::connect(addr).expect("the one place");
    let flow = flow_to(Transport::Tcp, addr);
    server.order(0, vec![send(flow, b"anybody?", Some(op(1)))]);
    assert_eq!(server.send_failed(0), (op(1), CloseReason::ConnectFailed));
    assert_eq!(server.closed(0).1, CloseReason::ConnectFailed);
    assert_eq!(server.connections.total(), 0);
    server.stop();
}

fn a_peer_that_never_closes_its_side_does_not_keep_a_closed_connection(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let mut client = tcp_client(&server);
    let conn = server.opened(0).conn.expect("a connection");
    server.order(0, vec![Order::Close(conn, CloseReason::Framing)]);
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    // The client does nothing, and yet it ends.
    assert_eq!(server.closed(0), (conn, CloseReason::Framing));
    assert_eq!(server.connections.total(), 0);
    server.stop();
}

/// More events at once than the completion queue (1,024 on 5.10), the submission queue or the buffer ring (1,024) holds.
const CROWD: usize = 1_500;

fn more_events_at_once_than_the_queues_hold_are_all_delivered(level: Level) {
    let _one = crowd();
    let server = Server::start(level, &config(LOOPBACK), echo);
    let mut clients: Vec<TcpStream> = (0..CROWD).map(|_| tcp_client(&server)).collect();
    server.until("all accepted", |server| server.connections.total() == CROWD);
    // Everybody speaks while the shard is busy with something else.
    let paused = server.pause(0, Vec::new());
    for (number, client) in (0u64..).zip(&mut clients) {
        client.write_all(&pattern(300, number)).expect("sent");
    }
    paused.go_on();
    for (number, client) in (0u64..).zip(&mut clients) {
        let mut back = [0; 300];
        client.read_exact(&mut back).expect("an echo");
        assert!(back[..] == pattern(300, number), "stream {number} changed");
    }
    let metrics = server.metrics(0);
    match level {
        // A poll a connection is more than the queue holds.
        Some((5, 10)) => assert!(metrics.overflows.get() > 0, "the queue was large enough"),
        // A buffer a connection is more than there are.
        Some((6, 0)) => {
            let features = ringway::io::probe::Features::probe().expect("io_uring");
            if features.has(ringway::io::probe::Feature::MultishotRecv) {
                assert!(metrics.buffer_ring_empty.get() > 0, "the ring had enough buffers");
                assert!(metrics.multishot_rearmed.get() >= metrics.buffer_ring_empty.get());
            }
        }
        // With DEFER_TASKRUN completions come a few at a time.
        Some(_) | None => {}
    }
    server.stop();
}

fn crowd() -> std::sync::MutexGuard<'static, ()> {
    // One level at a time: each holds thousands of descriptors.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Set in the process that may open few files.
const FEW_FILES: &str = "RINGWAY_TEST_FEW_FILES";

fn accepting_goes_on_when_descriptors_are_free_again(level: Level) {
    if std::env::var_os(FEW_FILES).is_none() {
        let name = "accepting_goes_on_when_descriptors_are_free_again";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -n 60 && exec \"$0\" --exact --nocapture \"$1\""]);
        return again(command, "limits", name, level, FEW_FILES);
    }
    let server = Server::start(level, &config(LOOPBACK), echo);
    let mut served = tcp_client(&server);
    assert!(is_served(&mut served));
    // Sockets first, so that connecting needs no descriptor later.
    let waiting = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let hoard: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(!hoard.is_empty());
    waiting
        .connect(&server.addr().into())
        .expect("the kernel connects it");
    let mut waiting = TcpStream::from(waiting);
    waiting.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    waiting.write_all(b"ping").expect("sent");
    // Nothing spins meanwhile: a turn or two for each pause of 100 ms, and some for the rest.
    let turns = server.metrics(0).turns.get();
    for _ in 0..100 {
        assert!(is_served(&mut served), "who is there is served");
    }
    assert_eq!(server.metrics(0).connections_accepted.get(), 1);
    std::thread::sleep(Duration::from_millis(300));
    let turns = server.metrics(0).turns.get() - turns;
    assert!(turns < 2_000, "{turns} turns");
    // A connection of our own has no descriptor either, and says so.
    let flow = flow_to(Transport::Tcp, ([127, 0, 0, 1], 5).into());
    server.order(0, vec![send(flow, b"no", Some(op(1)))]);
    assert_eq!(server.send_failed(0), (op(1), CloseReason::Limit));
    drop(hoard);
    let mut back = [0; 4];
    waiting.read_exact(&mut back).expect("served in the end");
    assert_eq!(&back, b"ping");
    server.stop();
}
