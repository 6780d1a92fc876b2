//! Host names, with a DNS server of the test's own: RFC 3263 through the whole program.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use bench_harness::sip::Message;
use hickory_resolver::proto::rr::RecordType;

use crate::dns_server::DnsServer;
use crate::support::{Server, Setup, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// Whoever sends and gets datagrams.
struct Peer {
    socket: UdpSocket,
    at: SocketAddr,
}

impl Peer {
    fn new(ip: impl Into<IpAddr>) -> Peer {
        let socket = UdpSocket::bind((ip.into(), 0)).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let at = socket.local_addr().expect("an address");
        Peer { socket, at }
    }

    fn next(&self) -> (Message, SocketAddr) {
        let mut bytes = [0; 8_192];
        let (len, from) = self.socket.recv_from(&mut bytes).expect("a message in time");
        (Message::parse(&bytes[..len]).expect("a message"), from)
    }

    /// The next of what came that is this request, or a response of this status.
    fn request(&self, method: &str) -> (Message, SocketAddr) {
        loop {
            let (message, from) = self.next();
            if message.is_request(method) {
                return (message, from);
            }
        }
    }

    fn response(&self, status: u16) -> Message {
        loop {
            let (message, _) = self.next();
            if message.status() == Some(status) {
                return message;
            }
            assert!(
                message.status().is_some_and(|status| status < 200),
                "waited for {status}:\n{message}"
            );
        }
    }

    fn send(&self, message: &Message, to: SocketAddr) {
        self.socket.send_to(&message.to_bytes(), to).expect("it is sent");
    }

    fn answers(&self, method: &str, status: u16) -> Message {
        let (request, from) = self.request(method);
        self.send(&reply(&request, status, self.at), from);
        request
    }

    fn requests(&self, method: &str, uri: &str, call_id: &str) -> Message {
        Message::request(method, uri)
            .with(
                "Via",
                format!("SIP/2.0/UDP {};branch=z9hG4bK{method}{call_id}", self.at),
            )
            .with("From", "<sip:alice@one.att.net>;tag=a1")
            .with("To", format!("<{uri}>"))
            .with("Call-ID", call_id)
            .with("CSeq", format!("1 {method}"))
            .with("Max-Forwards", 70)
            .with("Contact", format!("<sip:alice@{}>", self.at))
            .with("Content-Length", 0)
    }
}

fn reply(request: &Message, status: u16, at: SocketAddr) -> Message {
    let mut reply = Message::response(status, "Whatever");
    for name in ["Via", "Record-Route"] {
        for value in request.get_all(name) {
            reply = reply.with(name, value);
        }
    }
    reply
        .with("From", request.text("From"))
        .with("To", format!("{};tag=b1", request.text("To")))
        .with("Call-ID", request.text("Call-ID"))
        .with("CSeq", request.text("CSeq"))
        .with("Contact", format!("<sip:bob@{at}>"))
        .with("Content-Length", 0)
}

fn ack_of(invite: &Message, failure: &Message) -> Message {
    Message::request("ACK", invite.uri().expect("a request"))
        .with("Via", invite.text("Via"))
        .with("From", invite.text("From"))
        .with("To", failure.text("To"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", "1 ACK")
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// A proxy that sends requests where they say.
fn proxy(dns: &DnsServer) -> Setup {
    let setup = dns.serves(Setup::new());
    setup.tables("\n[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n")
}

fn alice() -> Peer {
    Peer::new(Ipv4Addr::LOCALHOST)
}

/// Sends OPTIONS there; they come to an end with this status.
fn asks(alice: &Peer, server: &Server, uri: &str, call_id: &str, status: u16) -> Message {
    alice.send(&alice.requests("OPTIONS", uri, call_id), server.udp);
    alice.response(status)
}

#[test]
fn naptr_leads_to_srv_and_that_to_an_address() {
    let dns = DnsServer::start();
    let ip = Ipv4Addr::new(127, 0, 0, 31);
    let listener = TcpListener::bind((ip, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    dns.pointer("carrier.example", 20, "SIP+D2U", "_sip._udp.carrier.example")
        .pointer("carrier.example", 10, "SIP+D2T", "_sip._tcp.else.example")
        .pointer("carrier.example", 5, "SIPS+D2T", "_sips._tcp.carrier.example")
        .service("_sip._tcp.else.example", 60, (1, 1), port, "a.else.example")
        .host("a.else.example", 60, ip);
    let server = Server::start(&proxy(&dns));
    let alice = alice();
    let options = alice.requests("OPTIONS", "sip:bob@carrier.example", "naptr");
    alice.send(&options, server.udp);
    listener.set_nonblocking(true).expect("it can be set");
    let mut accepted = None;
    wait_until("a connection", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut stream, _) = accepted.expect("it has come");
    stream.set_nonblocking(false).expect("it can be set");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut chunk = [0; 4_096];
        let len = stream.read(&mut chunk).expect("an OPTIONS in time");
        assert!(len > 0, "the connection is closed");
        bytes.extend_from_slice(&chunk[..len]);
    }
    let there = Message::parse(&bytes).expect("a message");
    assert_eq!(there.uri(), options.uri());
    let ok = reply(&there, 200, alice.at);
    stream.write_all(&ok.to_bytes()).expect("it is sent");
    alice.response(200);
    assert_eq!(dns.asked("carrier.example", RecordType::NAPTR), 1);
    assert_eq!(dns.asked("_sip._udp.carrier.example", RecordType::SRV), 0);
}

#[test]
fn ipv6_comes_first_where_there_is_a_listener_for_it() {
    let dns = DnsServer::start();
    let (six, four) = (
        Peer::new(Ipv6Addr::LOCALHOST),
        Peer::new(Ipv4Addr::new(127, 0, 0, 32)),
    );
    dns.host_v6("both.example", 60, Ipv6Addr::LOCALHOST).host(
        "both.example",
        60,
        Ipv4Addr::new(127, 0, 0, 32),
    );
    let server = Server::start(&proxy(&dns).flags(&["--listen", "[::1]:0"]));
    let alice = alice();
    for (peer, call_id) in [(&six, "six"), (&four, "four")] {
        let uri = format!("sip:bob@both.example:{}", peer.at.port());
        // Nobody has the second port of ::1, so the other address is tried after it.
        let answer = ends(&alice, &server, &uri, call_id, &[peer], &mut [Calls::new()]);
        assert_eq!(answer.status(), Some(200));
    }
}

/// Two of priority 1 and different weight, one of priority 2; each at an address and a port of its own.
fn three(dns: &DnsServer, ttl_s: u32) -> [Peer; 3] {
    let peers = [41, 42, 43].map(|last| Peer::new(Ipv4Addr::new(127, 0, 0, last)));
    for (peer, (priority, weight)) in peers.iter().zip([(1, 1), (1, 20), (2, 1)]) {
        let SocketAddr::V4(at) = peer.at else {
            panic!("{} is no IPv4 address", peer.at)
        };
        let host = format!("h{}.example", at.ip().octets()[3]);
        dns.service(
            "_sip._udp.carrier.example",
            ttl_s,
            (priority, weight),
            at.port(),
            &host,
        )
        .host(&host, ttl_s, *at.ip());
    }
    peers
}

/// Calls by their Call-IDs: on a busy machine a request may come more than once.
type Calls = BTreeSet<String>;

/// Sends OPTIONS there and has the peers answer whatever they get, which is noted; the answer that comes back.
fn ends(
    alice: &Peer,
    server: &Server,
    uri: &str,
    call_id: &str,
    peers: &[&Peer],
    got: &mut [Calls],
) -> Message {
    alice.send(&alice.requests("OPTIONS", uri, call_id), server.udp);
    let mut bytes = [0; 8_192];
    for peer in peers.iter().chain([&alice]) {
        peer.socket.set_nonblocking(true).expect("it can be set");
    }
    let mut answer = None;
    wait_until("an answer", || {
        for (peer, got) in peers.iter().zip(&mut *got) {
            while let Ok((len, from)) = peer.socket.recv_from(&mut bytes) {
                let request = Message::parse(&bytes[..len]).expect("a message");
                peer.send(&reply(&request, 200, peer.at), from);
                got.insert(request.text("Call-ID").to_owned());
            }
        }
        if let Ok(len) = alice.socket.recv(&mut bytes) {
            let message = Message::parse(&bytes[..len]).expect("a message");
            answer = Some(message).filter(|message| message.text("Call-ID") == call_id);
        }
        answer.is_some()
    });
    answer.expect("it has come")
}

#[test]
fn srv_priorities_and_weights_decide_and_whoever_is_gone_is_passed_over() {
    let dns = DnsServer::start();
    let peers = three(&dns, 60);
    let server = Server::start(&proxy(&dns));
    let alice = alice();
    let requests = |name: &str, count: usize, peers: &[&Peer], got: &mut [Calls]| {
        for n in 0..count {
            let (uri, call_id) = ("sip:bob@carrier.example", format!("{name}-{n}"));
            let answer = ends(&alice, &server, uri, &call_id, peers, got);
            assert_eq!(answer.status(), Some(200));
        }
    };
    let mut got = [(); 3].map(|()| Calls::new());
    let [first, second, third] = &peers;
    requests("all", 60, &[first, second, third], &mut got);
    let [light, heavy, spare] = got.map(|calls| calls.len());
    assert!(heavy > light && spare == 0, "{light}, {heavy}, {spare}");
    // Each shard has looked it up once.
    assert!(dns.asked("_sip._udp.carrier.example", RecordType::SRV) <= 2);
    assert!(dns.asked("h41.example", RecordType::A) <= 2);
    // Those of priority 1 have gone, and keep silent for the time of a transaction.
    let [first, second, third] = peers;
    drop((first, second));
    let mut got = [Calls::new()];
    requests("spare", 1, &[&third], &mut got);
    assert_eq!(got[0].len(), 1);
}

#[test]
fn a_503_leads_to_the_next_target_and_busy_does_not() {
    let dns = DnsServer::start();
    let (first, second) = (
        Peer::new(Ipv4Addr::new(127, 0, 0, 51)),
        Peer::new(Ipv4Addr::new(127, 0, 0, 52)),
    );
    for (peer, priority, host) in [(&first, 1, "first.example"), (&second, 2, "second.example")] {
        let SocketAddr::V4(at) = peer.at else {
            panic!("{} is no IPv4 address", peer.at)
        };
        dns.service("_sip._udp.pair.example", 60, (priority, 1), at.port(), host)
            .host(host, 60, *at.ip());
    }
    let server = Server::start(&proxy(&dns));
    let alice = alice();
    let invite = alice.requests("INVITE", "sip:bob@pair.example", "call");
    alice.send(&invite, server.udp);
    first.answers("INVITE", 503);
    second.answers("INVITE", 486);
    alice.send(&ack_of(&invite, &alice.response(486)), server.udp);
    let invite = alice.requests("INVITE", "sip:bob@pair.example", "busy");
    alice.send(&invite, server.udp);
    first.answers("INVITE", 486);
    alice.send(&ack_of(&invite, &alice.response(486)), server.udp);
    second.request("ACK");
}

#[test]
fn answers_are_kept_for_their_time_and_no_longer() {
    let dns = DnsServer::start();
    let bob = Peer::new(Ipv4Addr::new(127, 0, 0, 61));
    dns.host("long.example", 600, Ipv4Addr::new(127, 0, 0, 61)).host(
        "short.example",
        1,
        Ipv4Addr::new(127, 0, 0, 61),
    );
    let server = Server::start(&proxy(&dns).flags(&["--shards", "1"]));
    let alice = alice();
    let mut calls = 0;
    let mut asks = |host: &str| {
        calls += 1;
        let uri = format!("sip:bob@{host}.example:{}", bob.at.port());
        let call_id = format!("c{calls}");
        let answer = ends(&alice, &server, &uri, &call_id, &[&bob], &mut [Calls::new()]);
        assert_eq!(answer.status(), Some(200));
    };
    for _ in 0..20 {
        asks("long");
    }
    asks("short");
    wait_until("a second question", || {
        asks("short");
        dns.asked("short.example", RecordType::A) == 2
    });
    assert_eq!(dns.asked("long.example", RecordType::A), 1);
    // A port is given: nothing else is asked.
    assert_eq!(dns.asked_of("long.example"), 1);
}

#[test]
fn that_there_is_nothing_is_kept_too() {
    let dns = DnsServer::start();
    let bob = Peer::new(Ipv4Addr::new(127, 0, 0, 62));
    let server = Server::start(&proxy(&dns).flags(&["--shards", "1"]));
    let alice = alice();
    let uri = format!("sip:bob@nowhere.example:{}", bob.at.port());
    for n in 0..5 {
        let failure = asks(&alice, &server, &uri, &format!("n{n}"), 502);
        assert_eq!(failure.reason(), Some("Host Name Has No Address"));
    }
    assert_eq!(dns.asked_of("nowhere.example"), 1);
    // RFC 2308 §5: for the time that the SOA says.
    dns.set_negative_ttl(1);
    let uri = format!("sip:bob@soon.example:{}", bob.at.port());
    asks(&alice, &server, &uri, "early", 502);
    dns.host("soon.example", 60, Ipv4Addr::new(127, 0, 0, 62));
    let mut calls = 0;
    wait_until("the name to be known", || {
        calls += 1;
        let answer = ends(
            &alice,
            &server,
            &uri,
            &format!("s{calls}"),
            &[&bob],
            &mut [Calls::new()],
        );
        answer.status() == Some(200)
    });
}

#[test]
fn dns_that_fails_or_keeps_silent_ends_in_an_answer_with_its_reason() {
    let dns = DnsServer::start();
    dns.fails("failing.example");
    dns.is_silent("silent.example");
    let trunk = "\n[[trunk]]\nname = \"carrier\"\ndestinations = [\"sip:silent.example\"]\n\
                 [[route]]\nuser = [\"trunk\"]\naction = \"proxy\"\nto = [\"trunk:carrier\"]\n\
                 [[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n";
    let setup = dns.serves(Setup::new()).key("dns", "timeout_ms", "400");
    let server = Server::start(&setup.tables(trunk));
    let alice = alice();
    let failure = asks(&alice, &server, "sip:bob@failing.example:5060", "f", 504);
    assert_eq!(failure.reason(), Some("DNS Did Not Answer"));
    // NAPTR, SRV and addresses are asked one after another, all in vain.
    for n in 0..20 {
        let uri = format!("sip:bob@n{n}.silent.example");
        alice.send(&alice.requests("INVITE", &uri, &format!("i{n}")), server.udp);
    }
    for _ in 0..20 {
        let failure = alice.response(504);
        assert_eq!(failure.reason(), Some("DNS Did Not Answer"));
        let number = failure.text("Call-ID").trim_start_matches('i').to_owned();
        let uri = format!("sip:bob@n{number}.silent.example");
        let invite = alice.requests("INVITE", &uri, failure.text("Call-ID"));
        alice.send(&ack_of(&invite, &failure), server.udp);
    }
    let failure = asks(&alice, &server, "sip:trunk@one.att.net", "t", 503);
    assert_eq!(failure.reason(), Some("No Destination Up"));
}

#[test]
fn who_hangs_up_while_dns_is_asked_is_told_so() {
    let dns = DnsServer::start();
    dns.is_silent("silent.example");
    let server = Server::start(&proxy(&dns));
    let alice = alice();
    let invite = alice.requests("INVITE", "sip:bob@silent.example", "gone");
    alice.send(&invite, server.udp);
    alice.response(100);
    let cancel = alice
        .requests("CANCEL", "sip:bob@silent.example", "gone")
        .setting("Via", invite.text("Via"));
    alice.send(&cancel, server.udp);
    alice.response(200);
    alice.send(&ack_of(&invite, &alice.response(487)), server.udp);
}

/// The phone service, whose subscriber has registered a contact with a host name.
#[test]
fn a_phone_may_register_its_host_name() {
    let dns = DnsServer::start();
    let bob = Peer::new(Ipv4Addr::new(127, 0, 0, 71));
    dns.host("phone.example", 60, Ipv4Addr::new(127, 0, 0, 71));
    for shards in ["1", "2"] {
        let server = Server::start(&dns.serves(Setup::new()).flags(&["--shards", shards]));
        let alice = alice();
        let port = bob.at.port();
        let register = bob
            .requests("REGISTER", "sip:one.att.net", "reg")
            .setting("From", "<sip:bob@one.att.net>;tag=r1")
            .setting("To", "<sip:bob@one.att.net>")
            .setting("Contact", format!("<sip:bob@phone.example:{port}>"));
        bob.send(&register, server.udp);
        bob.response(200);
        for n in 0..2 {
            let call_id = format!("named{n}");
            let invite = alice.requests("INVITE", "sip:bob@one.att.net", &call_id);
            alice.send(&invite, server.udp);
            let there = bob.answers("INVITE", 486);
            let uri = format!("sip:bob@phone.example:{port}");
            assert_eq!(there.uri(), Some(uri.as_str()));
            bob.request("ACK");
            alice.send(&ack_of(&invite, &alice.response(486)), server.udp);
        }
    }
    assert!(dns.asked("phone.example", RecordType::A) > 0);
}

#[test]
fn names_that_dns_keeps_silent_about_do_not_keep_others_waiting() {
    let dns = DnsServer::start();
    dns.is_silent("dead.example");
    dns.host("alive.example", 60, Ipv4Addr::LOCALHOST);
    let setup = proxy(&dns)
        .key("dns", "questions_max", "4")
        .key("dns", "timeout_ms", "300")
        .key("dns", "failure_ttl_s", "1");
    let server = Server::start(&setup);
    let (crowd, alice) = (alice(), alice());
    // Some minutes' worth of questions.
    for number in 0..4_000 {
        let uri = format!("sip:bob@n{number}.dead.example:5060");
        crowd.send(
            &crowd.requests("OPTIONS", &uri, &format!("d{number}")),
            server.udp,
        );
    }
    // Nobody but those who ask for such names has to wait for them: some time before, what was asked meanwhile may be newer.
    let uri = format!("sip:bob@alive.example:{}", alice.at.port());
    let patience = Duration::from_millis(500);
    alice.socket.set_read_timeout(Some(patience)).expect("a time-out");
    let mut tries = 0;
    wait_until("a name is found", || {
        tries += 1;
        alice.send(&alice.requests("OPTIONS", &uri, &format!("a{tries}")), server.udp);
        // A datagram among so many may be lost.
        let mut bytes = [0; 8_192];
        let len = alice.socket.recv(&mut bytes).unwrap_or(0);
        Message::parse(&bytes[..len]).is_ok_and(|message| message.is_request("OPTIONS"))
    });
}
