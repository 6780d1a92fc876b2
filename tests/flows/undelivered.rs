//! Hosts that answer a datagram with an ICMP error, and people who forge such errors.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use bench_harness::sip::Message;
use socket2::{Domain, Protocol, Socket, Type};

use crate::admin::{asked_setup, json, page_over_http};
use crate::support::{Server, Setup, wait_until};
use crate::trunks::{Peer, calls, destination, destination_at, of_trunk};

/// Calls go to the first of the two while it may be there. Whatever waits for a timer waits for longer than a call has.
fn trunk(setup: Setup, first: SocketAddr, second: SocketAddr) -> Setup {
    let setup = setup.flags(&["--shards", "2"]);
    let setup = setup
        .key("timers", "t1_ms", "60_000")
        .key("timers", "t2_ms", "60_000");
    setup.tables(&format!(
        "\n[[trunk]]\nname = \"carrier\"\nanswer_timeout_ms = 64_000\n\
         destinations = [\"sip:{first} priority=1\", \"sip:{second} priority=2\"]\nhold_down_ms = 0\n\
         [[route]]\naction = \"proxy\"\nto = [\"trunk:carrier\"]\n"
    ))
}

fn count(socket: &str, of: &str, name: &str) -> u64 {
    json(socket, &["status"])[0][of][name].as_u64().unwrap_or(0)
}

#[test]
fn a_call_goes_on_to_the_next_destination_where_the_first_has_no_such_port() {
    let here = Peer::start(true, None);
    let nobody = UdpSocket::bind("127.0.0.9:0").and_then(|socket| socket.local_addr());
    let nobody = nobody.expect("a port");
    let (setup, socket) = asked_setup();
    let mut server = Server::start(&trunk(setup, nobody, here.addr));
    assert_eq!(calls(&server, "u", 8), [486; 8]);
    let trunk = of_trunk(&socket);
    let first = destination_at(&trunk, nobody);
    assert_eq!(first["last_failure"], "unreachable", "{first}");
    assert_eq!(destination(&trunk, &here)["calls_started"], 8);
    assert_eq!(count(&socket, "icmp_errors", "port_unreachable"), 8);
    assert_eq!(count(&socket, "undelivered", "failed"), 8);
    assert_eq!(count(&socket, "drops", "send_error"), 0);
    let page = page_over_http(&server, "/metrics");
    for line in [
        "ringway_icmp_errors_total{kind=\"port_unreachable\"} 8",
        "ringway_icmp_errors_total{kind=\"time_exceeded\"} 0",
        "ringway_undelivered_total{result=\"failed\"} 8",
        "ringway_undelivered_total{result=\"unknown\"} 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
    server.stop();
}

/// An ICMP error, type 3 and code 3, about a datagram from `from` to `to` that began with `quoted`: RFC 792.
fn port_unreachable(from: SocketAddr, to: SocketAddr, quoted: &[u8]) -> Vec<u8> {
    let len = |bytes: usize| (bytes as u16).to_be_bytes();
    let octets = |addr: SocketAddr| match addr {
        SocketAddr::V4(addr) => addr.ip().octets(),
        SocketAddr::V6(_) => panic!("{addr}"),
    };
    let udp = [
        &from.port().to_be_bytes()[..],
        &to.port().to_be_bytes(),
        &len(8 + quoted.len()),
        &[0; 2],
        quoted,
    ]
    .concat();
    let ip = [
        &[0x45, 0][..],
        &len(20 + udp.len()),
        &[0, 0, 0, 0, 64, 17, 0, 0],
        &octets(from),
        &octets(to),
        &udp,
    ]
    .concat();
    let mut icmp = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &ip].concat();
    let words = icmp.chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    icmp
}

#[test]
fn an_error_that_somebody_made_up_changes_nothing() {
    let Ok(forger) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) else {
        eprintln!("skipped: it takes the right to send ICMP (CAP_NET_RAW)");
        return;
    };
    let first = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let patience = Duration::from_secs(20);
    first.set_read_timeout(Some(patience)).expect("a time-out");
    let there = first.local_addr().expect("an address");
    let second = Peer::start(true, None);
    let (setup, socket) = asked_setup();
    let mut server = Server::start(&trunk(setup, there, second.addr));
    let statuses = std::thread::scope(|scope| {
        let caller = scope.spawn(|| calls(&server, "f", 1));
        let mut bytes = [0; 4_096];
        let (len, from) = first.recv_from(&mut bytes).expect("an INVITE");
        let sent = &bytes[..len];
        let invite = Message::parse(sent).expect("a message");
        assert!(invite.is_request("INVITE"), "{}", invite.title());
        // Whoever is not on the way knows addresses and the shape of what we send.
        let branch = sent.windows(7).position(|at| at == b"z9hG4bK").expect("a branch") + 7;
        let mut guessed = sent[..500.min(len)].to_vec();
        guessed[branch..branch + 32].copy_from_slice(b"0123456789abcdef0123456789abcdef");
        let forgeries = [
            (there, guessed),
            (there, Vec::new()),
            (there, vec![b'x'; 500]),
            // It was not sent there.
            (second.addr, sent[..500.min(len)].to_vec()),
        ];
        for (to, quoted) in &forgeries {
            let icmp = port_unreachable(server.udp, *to, quoted);
            forger.send_to(&icmp, &server.udp.into()).expect("sent");
        }
        let count_is = |of: &str, name: &str| count(&socket, of, name) == forgeries.len() as u64;
        wait_until("all are seen", || {
            count_is("icmp_errors", "port_unreachable") && count_is("undelivered", "unknown")
        });
        let mut answer = Message::response(486, "Busy Here");
        for via in invite.get_all("Via") {
            answer = answer.with("Via", via);
        }
        let answer = answer
            .with("From", invite.text("From"))
            .with("To", format!("{};tag=p", invite.text("To")))
            .with("Call-ID", invite.text("Call-ID"))
            .with("CSeq", invite.text("CSeq"))
            .with("Content-Length", 0);
        first.send_to(&answer.to_bytes(), from).expect("sent");
        caller.join().expect("an answer")
    });
    assert_eq!(statuses, [486]);
    assert_eq!(count(&socket, "undelivered", "failed"), 0);
    let trunk = of_trunk(&socket);
    assert_eq!(destination(&trunk, &second)["calls_started"], 0);
    assert!(destination_at(&trunk, there)["last_failure"].is_null());
    server.stop();
}
