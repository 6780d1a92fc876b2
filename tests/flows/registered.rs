//! Registrations through proxies and over flows, on real sockets: RFC 3327, RFC 3608, RFC 5626.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use bench_harness::sip::{Header, Message};

use crate::proxy::read_message;
use crate::support::{Server, Setup, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that speaks SIP.
struct Peer {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Peer {
    fn new(server: &Server) -> Peer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Peer {
            socket,
            server: server.udp,
        }
    }

    fn at(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    fn send(&self, message: &Message) {
        self.socket
            .send_to(&message.to_bytes(), self.server)
            .expect("it is sent");
    }

    fn next(&self) -> Message {
        let mut bytes = [0; 65_536];
        let len = self.socket.recv(&mut bytes).expect("a message in time");
        Message::parse(&bytes[..len]).expect("a message")
    }

    fn request(&self, method: &str, uri: &str, user: &str, call_id: &str) -> Message {
        let at = self.at();
        Message::request(method, uri)
            .with("Via", format!("SIP/2.0/UDP {at};branch=z9hG4bK{method}{call_id}"))
            .with("From", format!("<sip:{user}@one.att.net>;tag=f{call_id}"))
            .with("To", "<sip:bob@one.att.net>")
            .with("Call-ID", call_id)
            .with("CSeq", format!("1 {method}"))
            .with("Max-Forwards", 70)
            .with("Contact", format!("<sip:{user}@{at}>"))
            .with("Content-Length", 0)
    }

    fn reply(&self, request: &Message, status: u16) -> Message {
        let mut response = Message::response(status, "Whatever");
        for via in request.get_all("Via") {
            response = response.with("Via", via);
        }
        response
            .with("From", request.text("From"))
            .with("To", format!("{};tag=t1", request.text("To")))
            .with("Call-ID", request.text("Call-ID"))
            .with("CSeq", request.text("CSeq"))
            .with("Content-Length", 0)
    }
}

#[test]
fn a_call_reaches_a_phone_by_the_path_that_it_registered_through() {
    let server =
        Server::start(&Setup::new().key("registrar", "service_route", "[\"sip:orig@one.att.net;lr\"]"));
    let (edge, caller) = (Peer::new(&server), Peer::new(&server));
    let path = format!("<sip:token@{};lr;ob>", edge.at());
    let mut register = edge
        .request("REGISTER", "sip:one.att.net", "bob", "r1")
        .setting("Contact", "<sip:bob@192.0.2.77:5099>")
        .with("Supported", "path")
        .with("Path", &path);
    let phone = "SIP/2.0/UDP 192.0.2.77:5099;branch=z9hG4bKphone";
    register.headers.insert(1, Header::new("Via", phone));
    edge.send(&register);
    let ok = edge.next();
    assert_eq!((ok.status(), ok.text("Path")), (Some(200), &*path));
    assert_eq!(ok.text("Service-Route"), "<sip:orig@one.att.net;lr>");
    assert_eq!(ok.get_all("Via").len(), 2);
    caller.send(&caller.request("INVITE", "sip:bob@one.att.net", "alice", "c1"));
    assert_eq!(caller.next().status(), Some(100));
    let there = edge.next();
    assert_eq!(
        (there.uri(), there.text("Route")),
        (Some("sip:bob@192.0.2.77:5099"), &*path)
    );
    edge.send(&edge.reply(&there, 486));
    assert_eq!(edge.next().text("Route"), path, "the ACK goes the same way");
    assert_eq!(caller.next().status(), Some(486));
}

#[test]
fn a_keepalive_learns_the_address_that_it_came_from() {
    let server = Server::start(&Setup::new());
    let phone = Peer::new(&server);
    let id: [u8; 12] = *b"transaction!";
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &id].concat();
    phone.socket.send_to(&request, server.udp).expect("it is sent");
    let mut bytes = [0; 512];
    let (len, from) = phone.socket.recv_from(&mut bytes).expect("an answer in time");
    assert_eq!((len, from), (32, server.udp));
    assert_eq!(bytes[..8], [1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42]);
    assert_eq!(bytes[8..20], id);
    assert_eq!(bytes[20..26], [0, 0x20, 0, 8, 0, 1]);
    let port = u16::from_be_bytes([bytes[26] ^ 0x21, bytes[27] ^ 0x12]);
    let ip: Vec<u8> = bytes[28..32]
        .iter()
        .zip([0x21, 0x12, 0xa4, 0x42])
        .map(|(a, b)| a ^ b)
        .collect();
    assert_eq!((port, ip), (phone.at().port(), vec![127, 0, 0, 1]));
    // SIP goes on beside it.
    phone.send(&phone.request("OPTIONS", "sip:one.att.net", "bob", "o1"));
    assert_eq!(phone.next().status(), Some(200));
}

/// Two servers: an edge that phones register through, and the registrar behind it.
#[test]
fn an_edge_and_a_registrar_reach_a_phone_over_the_connection_that_it_opened() {
    let registrar = Server::start(&Setup::new());
    let rule = format!(
        "\n[[route]]\naction = \"proxy\"\nto = [\"sip:{}\"]\nadd_path = true\n",
        registrar.udp
    );
    let edge = Server::start(&Setup::new().tables(&rule));
    let caller = Peer::new(&registrar);
    let mut phone = TcpStream::connect(edge.tcp).expect("a connection");
    phone.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut rest = Vec::new();
    let contact = "<sip:bob@192.0.2.77:5099;transport=tcp;ob>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"";
    let register = Message::request("REGISTER", "sip:one.att.net")
        .with("Via", "SIP/2.0/TCP 192.0.2.77:5099;branch=z9hG4bKr1;rport")
        .with("From", "<sip:bob@one.att.net>;tag=r1")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", "r1")
        .with("CSeq", "1 REGISTER")
        .with("Max-Forwards", 70)
        .with("Contact", contact)
        .with("Supported", "path, outbound, gruu")
        .with("Content-Length", 0);
    phone.write_all(&register.to_bytes()).expect("it is sent");
    let ok = read_message(&mut phone, &mut rest);
    assert_eq!((ok.status(), ok.text("Require")), (Some(200), "outbound"));
    assert!(ok.text("Path").ends_with(";lr;ob>"), "{}", ok.text("Path"));
    let (_, gruu) = ok.text("Contact").split_once(";pub-gruu=\"").expect("a GRUU");
    let (gruu, _) = gruu.split_once('"').expect("a quoted string");
    // By the address-of-record, and by the phone's own URI.
    for (number, uri) in ["sip:bob@one.att.net", gruu].into_iter().enumerate() {
        let call_id = format!("m{number}");
        caller.send(&caller.request("MESSAGE", uri, "alice", &call_id));
        let there = read_message(&mut phone, &mut rest);
        assert_eq!(there.uri(), Some("sip:bob@192.0.2.77:5099;transport=tcp;ob"));
        let answer = caller.reply(&there, 200);
        phone.write_all(&answer.to_bytes()).expect("it is sent");
        assert_eq!(caller.next().status(), Some(200));
    }
    // A keepalive over TCP, and then the end of the flow.
    phone.write_all(b"\r\n\r\n").expect("it is sent");
    let mut pong = [0; 2];
    phone.read_exact(&mut pong).expect("a pong in time");
    assert_eq!(&pong, b"\r\n");
    drop(phone);
    let mut number = 0;
    wait_until("the edge to see that the flow is gone", || {
        number += 1;
        let message = caller.request("MESSAGE", "sip:bob@one.att.net", "alice", &format!("n{number}"));
        caller.send(&message);
        caller.next().status() == Some(480)
    });
}
