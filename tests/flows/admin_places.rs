//! The admin server among those who hold its connections and want nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::admin::{asked_setup, page_over_http};
use crate::support::{Server, Setup, wait_until};

/// Nothing ends by itself, so that what is answered has taken a place from somebody.
fn patient_setup(connections_max: u32) -> Setup {
    let (setup, _) = asked_setup();
    setup.key("admin", "head_timeout_ms", "3_600_000").key(
        "admin",
        "connections_max",
        &connections_max.to_string(),
    )
}

/// A connection from 127.0.0.`last` that has said `text`.
fn said(server: &Server, last: u8, text: &str) -> TcpStream {
    let to: SocketAddr = server.logged("admin server", "addr").parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from(([127, 0, 0, last], 0));
    socket.bind(&from.into()).expect("bound");
    // What is not taken soon stands with the server, and not in the kernel.
    socket.set_recv_buffer_size(4_096).expect("a size");
    socket.connect(&to.into()).expect("the admin server is there");
    let mut stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time-out");
    stream.write_all(text.as_bytes()).expect("sent");
    stream
}

/// The status line of what comes.
fn status_of(stream: TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_))
}

const HALF_A_HEAD: &str = "GET /healthz HTTP/1.1\r\nHost: 127";
const ITS_REST: &str = ".0.0.1\r\n\r\n";

#[test]
fn more_halves_of_heads_than_places_keep_nobody_from_health() {
    let mut server = Server::start(&patient_setup(64));
    // Somebody slow, who means it, and longest there.
    let mut slow = said(&server, 3, HALF_A_HEAD);
    let mut flood: Vec<TcpStream> = (0..400).map(|_| said(&server, 2, HALF_A_HEAD)).collect();
    assert_eq!(page_over_http(&server, "/healthz"), "ok\n");
    assert!(is_closed(&mut flood[0]), "the oldest has made room");
    slow.write_all(ITS_REST.as_bytes()).expect("its place is its own");
    assert!(status_of(slow).contains(" 200 "));
    // The youngest as well: nobody went for nothing.
    let mut last = flood.pop().expect("400 of them");
    last.write_all(ITS_REST.as_bytes()).expect("it has a place");
    assert!(status_of(last).contains(" 200 "));

    let reached = |page: &str| {
        let line =
            |line: &&str| line.starts_with("ringway_limits_reached_total{limit=\"admin.connections_max\"}");
        let line = page.lines().find(line).expect("it is counted");
        line.rsplit(' ')
            .next()
            .and_then(|count| count.parse::<u32>().ok())
    };
    assert!(reached(&page_over_http(&server, "/metrics")) >= Some(336));
    wait_until("the limit in the log", || {
        server
            .log()
            .contains("a limit was reached limit=\"admin.connections_max\"")
    });
    drop(flood);
    server.stop();
}

#[test]
fn idle_connections_and_those_that_take_no_answer_make_room() {
    let mut server = Server::start(&patient_setup(8));
    let whole = HALF_A_HEAD.to_owned() + ITS_REST;
    let mut idle: Vec<TcpStream> = (0..8).map(|_| said(&server, 1, &whole)).collect();
    for stream in &mut idle {
        assert!(stream.read(&mut [0; 1_024]).expect("an answer") > 0);
    }
    assert_eq!(page_over_http(&server, "/healthz"), "ok\n");

    // They ask until the server stops reading, and take nothing of what it answers.
    let many = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(400);
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let mut stream = said(&server, 1, "");
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .expect("a time-out");
        while stream.write_all(many.as_bytes()).is_ok() {}
        greedy.push(stream);
    }
    assert_eq!(page_over_http(&server, "/healthz"), "ok\n");

    // A body that never comes whole.
    let half_a_body = "POST /api/v1/log HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\ninfo";
    let bodies: Vec<TcpStream> = (0..8).map(|_| said(&server, 1, half_a_body)).collect();
    assert_eq!(page_over_http(&server, "/healthz"), "ok\n");
    drop((idle, greedy, bodies));
    server.stop();
}

#[test]
fn whoever_watches_on_every_place_keeps_nobody_from_health() {
    let mut server = Server::start(&patient_setup(4));
    let trace = "GET /api/v1/trace?peer=127.0.0.9 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let mut watchers: Vec<TcpStream> = (0..4).map(|_| said(&server, 2, trace)).collect();
    for stream in &mut watchers {
        assert!(stream.read(&mut [0; 1_024]).expect("it has begun") > 0);
    }
    assert_eq!(page_over_http(&server, "/healthz"), "ok\n");
    drop(watchers);
    server.stop();
}
