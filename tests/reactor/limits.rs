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
