//! Errors that come back from the network for datagrams (ICMP), and who must not feel them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ringway::config::Segment;
use ringway::metrics::{DropReason, IcmpError};
use ringway::wire::Transport;

use crate::at_every_level;
use crate::harness::*;

at_every_level!(
    an_error_says_where_a_datagram_went_and_how_it_began,
    a_shard_hears_of_what_it_sent,
    errors_cost_nobody_else_a_datagram,
    errors_are_taken_a_bounded_number_a_turn,
);

/// Errors that a turn takes from a listener.
const TURN: u64 = 64;

/// An address where nobody listens.
fn nobody(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).expect("a port");
    socket.local_addr().expect("an address")
}

fn undelivered(server: &Server, shard: usize) -> (SocketAddr, Vec<u8>) {
    server.wait_for(shard, |seen| match seen {
        Seen::Undelivered { flow, bytes } => {
            assert_eq!(
                (flow.transport, flow.listener, flow.conn),
                (Transport::Udp, UDP, None)
            );
            Some((flow.peer, bytes.clone()))
        }
        Seen::SendFailed { .. } => panic!("it was sent"),
        _ => None,
    })
}

fn port_unreachable(server: &Server, shard: usize) -> u64 {
    server.metrics(shard).icmp_errors[IcmpError::PortUnreachable as usize].get()
}

fn an_error_says_where_a_datagram_went_and_how_it_began(level: Level) {
    for ip in [LOOPBACK, LOOPBACK_6] {
        if ip == LOOPBACK_6 && !has_ipv6() {
            continue;
        }
        let server = Server::start(level, &config(ip), listen);
        // Empty ones, and more than an error quotes.
        for (number, len) in [600, 2_500, 0, 20, 65_000].into_iter().enumerate() {
            let (peer, sent) = (nobody(ip), pattern(len, number as u64));
            server.order(
                0,
                vec![send(
                    flow_to(Transport::Udp, peer),
                    &sent,
                    Some(op(number as u32)),
                )],
            );
            let (to, quoted) = undelivered(&server, 0);
            assert_eq!(to, peer);
            assert!(
                sent.starts_with(&quoted) && quoted.len() >= len.min(500),
                "{}",
                quoted.len()
            );
        }
        server.until("counted", |server| port_unreachable(server, 0) == 5);
        assert_eq!(server.metrics(0).drops[DropReason::SendError as usize].get(), 0);
        server.stop();
    }
}

/// The kernel gives an error to any socket of the port: what is told of is told by one of the shards.
fn a_shard_hears_of_what_it_sent(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.shards = 2;
    let server = Server::start(level, &cfg, listen);
    for number in 0..32u8 {
        let flow = flow_to(Transport::Udp, nobody(LOOPBACK));
        server.order(0, vec![send(flow, &[number; 10], Some(op(1)))]);
        server.until("told", |server| {
            port_unreachable(server, 0) + port_unreachable(server, 1) == u64::from(number) + 1
        });
    }
    server.stop();
}

fn errors_cost_nobody_else_a_datagram(level: Level) {
    for segment in [Segment::Auto, Segment::Off] {
        let mut cfg = config(LOOPBACK);
        cfg.udp.segment = segment;
        let server = Server::start(level, &cfg, listen);
        let (client, other) = (udp_client(&server), udp_client(&server));
        let flow = flow_to(Transport::Udp, client.local_addr().expect("an address"));
        for round in 0..10u8 {
            let mut orders = Vec::new();
            // To nobody and to somebody in turn, singly and in runs.
            let dead = [0, 1].map(|_| flow_to(Transport::Udp, nobody(LOOPBACK)));
            for number in 0..100u8 {
                orders.push(send(flow, &[round, number], Some(op(2))));
                // So many stand before the last of a call of `sendmmsg`, whose error is there when the next call begins.
                if number < 62 {
                    continue;
                }
                orders.push(send(dead[0], &[number; 100], Some(op(1))));
                if number % 10 == 3 {
                    orders.push(send(dead[1], &[number; 50], Some(op(3))));
                }
            }
            let paused = server.pause(0, orders);
            // What comes in meanwhile is read when the errors are there.
            for number in 0..100u8 {
                other.send(&[round, number, 0]).expect("sent");
            }
            paused.go_on();
            for number in 0..100u8 {
                let mut back = [0; 16];
                assert_eq!(client.recv(&mut back).expect("a datagram"), 2);
                assert_eq!(back[..2], [round, number]);
            }
            let mut next = 0;
            while next < 100 {
                let number = server.wait_for(0, |seen| match seen {
                    Seen::Datagram { bytes, .. } => Some(bytes[1]),
                    Seen::SendFailed { .. } => panic!("it was sent"),
                    _ => None,
                });
                assert_eq!(number, next);
                next += 1;
            }
        }
        // Over loopback a run is one packet, and has one error.
        let all = match segment {
            Segment::Off => 420,
            Segment::Auto => 20,
        };
        server.until("told", |server| port_unreachable(server, 0) >= all);
        let metrics = server.metrics(0);
        assert_eq!(metrics.drops[DropReason::SendError as usize].get(), 0);
        assert_eq!(metrics.runs_refused.get(), 0, "no old error is about a run");
        assert_eq!(metrics.datagrams_out.get(), 1_420);
        server.stop();
    }
}

fn errors_are_taken_a_bounded_number_a_turn(level: Level) {
    const COUNT: u64 = 150;
    let mut cfg = config(LOOPBACK);
    cfg.udp.segment = Segment::Off;
    let server = Server::start(level, &cfg, listen);
    server.until("the first turn", |server| server.metrics(0).turns.get() > 0);
    let before = server.metrics(0).turns.get();
    let flow = flow_to(Transport::Udp, nobody(LOOPBACK));
    let orders = (0..COUNT).map(|number| send(flow, &[number as u8; 20], Some(op(1))));
    server.order(0, orders.collect());
    server.until("told", |server| port_unreachable(server, 0) == COUNT);
    let turns = server.metrics(0).turns.get() - before;
    assert!(turns >= COUNT.div_ceil(TURN), "{turns}");
    server.stop();
}
