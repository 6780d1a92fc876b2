//! The routing table and the proxy over real sockets: a caller on TCP, a callee on UDP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use bench_harness::sip::Message;

use crate::support::{Server, Setup, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

fn invite(via: &str, call_id: &str) -> Message {
    Message::request("INVITE", "sip:bob@one.att.net")
        .with("Via", format!("SIP/2.0/{via};branch=z9hG4bK{call_id}"))
        .with("From", "<sip:alice@one.att.net>;tag=a1")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", call_id)
        .with("CSeq", "1 INVITE")
        .with("Max-Forwards", 70)
        .with("Contact", "<sip:alice@127.0.0.1:9>")
        .with("Content-Length", 0)
}

/// The next message on a connection; each of these tests gets few and whole ones.
pub fn read_message(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Message {
    loop {
        if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
            let message = Message::parse(&rest[..end + 4]).expect("a message");
            rest.drain(..end + 4);
            return message;
        }
        let mut chunk = [0; 4_096];
        let len = stream.read(&mut chunk).expect("an answer in time");
        assert!(len > 0, "the connection is closed");
        rest.extend_from_slice(&chunk[..len]);
    }
}

#[test]
fn a_call_is_forwarded_from_tcp_to_udp_and_back() {
    let callee = UdpSocket::bind("127.0.0.1:0").expect("a port");
    callee.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let at = callee.local_addr().expect("an address");
    let rule = format!("\n[[route]]\naction = \"proxy\"\nto = [\"sip:{at}\"]\n");
    let server = Server::start(&Setup::new().tables(&rule));
    let mut caller = TcpStream::connect(server.tcp).expect("a connection");
    caller.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut rest = Vec::new();
    let sent = invite("TCP 127.0.0.1:9", "tcp-udp");
    caller.write_all(&sent.to_bytes()).expect("it is sent");
    assert_eq!(read_message(&mut caller, &mut rest).status(), Some(100));
    let mut bytes = [0; 4_096];
    let (len, from) = callee.recv_from(&mut bytes).expect("an INVITE in time");
    let there = Message::parse(&bytes[..len]).expect("a message");
    assert_eq!(from, server.udp);
    assert_eq!(there.get_all("Record-Route").len(), 2);
    let mut busy = Message::response(486, "Busy Here");
    for via in there.get_all("Via") {
        busy = busy.with("Via", via);
    }
    let busy = busy
        .with("From", there.text("From"))
        .with("To", format!("{};tag=b1", there.text("To")))
        .with("Call-ID", there.text("Call-ID"))
        .with("CSeq", there.text("CSeq"))
        .with("Content-Length", 0);
    callee.send_to(&busy.to_bytes(), from).expect("it is sent");
    let back = read_message(&mut caller, &mut rest);
    assert_eq!((back.status(), back.get_all("Via").len()), (Some(486), 1));
    let ack = loop {
        let len = callee.recv(&mut bytes).expect("an ACK in time");
        let message = Message::parse(&bytes[..len]).expect("a message");
        // The INVITE may have come again before it was answered.
        if !message.is_request("INVITE") {
            break message;
        }
    };
    assert!(ack.is_request("ACK"), "{ack}");
}

/// RFC 5658: a URI of ours in Record-Route for each side, in its own address family, so that each side's requests come back to it.
#[test]
fn a_call_crosses_from_ipv6_to_ipv4_and_so_do_the_requests_of_its_dialog() {
    let Ok(caller) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    };
    let callee = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for socket in [&caller, &callee] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    }
    let [here, there] = [&caller, &callee].map(|socket| socket.local_addr().expect("an address"));
    let rule = format!("\n[[route]]\naction = \"proxy\"\nto = [\"sip:{there}\"]\n");
    let server = Server::start(&Setup::new().tables(&rule).flags(&["--listen", "[::1]:0"]));
    let six = server.logged("transport=\"udp\" addr=[::1]", "addr");
    let six: SocketAddr = six.parse().expect("an address");
    let next = |socket: &UdpSocket| {
        let mut bytes = [0; 4_096];
        let (len, from) = socket.recv_from(&mut bytes).expect("a message in time");
        (Message::parse(&bytes[..len]).expect("a message"), from)
    };
    let ok = |request: &Message, contact: SocketAddr| {
        let mut ok = Message::response(200, "OK");
        for name in ["Via", "Record-Route"] {
            for value in request.get_all(name) {
                ok = ok.with(name, value);
            }
        }
        let to = request.text("To");
        let to = match to.contains(";tag=") {
            true => to.to_owned(),
            false => format!("{to};tag=b1"),
        };
        ok.with("From", request.text("From"))
            .with("To", to)
            .with("Call-ID", request.text("Call-ID"))
            .with("CSeq", request.text("CSeq"))
            .with("Contact", format!("<sip:x@{contact}>"))
            .with("Content-Length", 0)
    };
    let invite = invite(&format!("UDP {here}"), "six").setting("Contact", format!("<sip:a@{here}>"));
    caller.send_to(&invite.to_bytes(), six).expect("sent");
    let (asked, from) = next(&callee);
    assert_eq!((from, asked.is_request("INVITE")), (server.udp, true));
    let routes = asked.get_all("Record-Route");
    let [outer, inner] = routes[..] else {
        panic!("{routes:?}");
    };
    assert!(outer.starts_with(&format!("<sip:{};lr;", server.udp)), "{outer}");
    assert!(inner.starts_with(&format!("<sip:{six};lr;")), "{inner}");
    callee.send_to(&ok(&asked, there).to_bytes(), from).expect("sent");
    let answered = loop {
        let (answer, from) = next(&caller);
        assert_eq!(from, six);
        if answer.status() == Some(200) {
            break answer;
        }
    };
    // One within the dialog from either side, by the routes as that side has them.
    let request = |method: &str, to: SocketAddr, from: SocketAddr, routes: [&str; 2], names: [&str; 2]| {
        Message::request(method, &format!("sip:x@{to}"))
            .with("Via", format!("SIP/2.0/UDP {from};branch=z9hG4bK{method}"))
            .with("Route", routes[0])
            .with("Route", routes[1])
            .with("From", names[0])
            .with("To", names[1])
            .with("Call-ID", "six")
            .with("CSeq", format!("1 {method}"))
            .with("Max-Forwards", 70)
            .with("Content-Length", 0)
    };
    let [alice, bob] = [answered.text("From"), answered.text("To")];
    let ack = request("ACK", there, here, [inner, outer], [alice, bob]);
    caller.send_to(&ack.to_bytes(), six).expect("sent");
    let (ack, from) = next(&callee);
    assert_eq!((from, ack.is_request("ACK")), (server.udp, true), "{ack}");
    assert!(ack.get_all("Route").is_empty(), "{ack}");
    let bye = request("BYE", here, there, [outer, inner], [bob, alice]);
    callee.send_to(&bye.to_bytes(), server.udp).expect("sent");
    let (bye, from) = next(&caller);
    assert_eq!((from, bye.is_request("BYE")), (six, true), "{bye}");
    caller.send_to(&ok(&bye, here).to_bytes(), six).expect("sent");
    let (over, from) = next(&callee);
    assert_eq!((from, over.status()), (server.udp, Some(200)), "{over}");
}

#[test]
fn rules_answer_and_the_rest_is_the_phone_services() {
    let rules = "\n[[route]]\nuser = [\"bob\"]\naction = \"reject\"\ncode = 480\nretry_after_s = 9\n";
    let server = Server::start(&Setup::new().tables(rules));
    let phone = UdpSocket::bind("127.0.0.1:0").expect("a port");
    phone.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let own = format!("UDP {}", phone.local_addr().expect("an address"));
    let mut bytes = [0; 4_096];
    let mut ask = |message: Message| {
        phone
            .send_to(&message.to_bytes(), server.udp)
            .expect("it is sent");
        let len = phone.recv(&mut bytes).expect("an answer in time");
        Message::parse(&bytes[..len]).expect("a message")
    };
    let refused = ask(invite(&own, "refused"));
    assert_eq!((refused.status(), refused.text("Retry-After")), (Some(480), "9"));
    let options = Message::request("OPTIONS", "sip:one.att.net")
        .with("Via", format!("SIP/2.0/{own};branch=z9hG4bKo"))
        .with("From", "<sip:alice@one.att.net>;tag=a2")
        .with("To", "<sip:one.att.net>")
        .with("Call-ID", "options")
        .with("CSeq", "1 OPTIONS")
        .with("Max-Forwards", 70)
        .with("Content-Length", 0);
    assert_eq!(ask(options).status(), Some(200));
}

/// RFC 3261 §16.4: a listener that is bound to all addresses is named by each that this machine has.
#[test]
fn a_route_may_name_any_address_that_reaches_us() {
    let callee = UdpSocket::bind("127.0.0.1:0").expect("a port");
    callee.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let at = callee.local_addr().expect("an address");
    let rule = format!("\n[[route]]\naction = \"proxy\"\nto = [\"sip:{at}\"]\n");
    let setup = Setup::new()
        .tables(&rule)
        .key("", "advertise", "[\"0.0.0.0:0=127.0.0.1\"]")
        .flags(&["--listen", "udp:0.0.0.0:0", "--open-registrar"]);
    let server = Server::start(&setup);
    let log = server.log();
    let port = log
        .lines()
        .filter(|line| line.contains("listening"))
        .find_map(|line| {
            line.split_once("addr=0.0.0.0:")?
                .1
                .split_ascii_whitespace()
                .next()
        })
        .expect("it listens on all addresses");
    let phone = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let own = phone.local_addr().expect("an address");
    let mut named = vec!["127.0.0.1".to_owned(), "127.0.0.99".to_owned()];
    let all = ringway::io::interfaces::local_addresses().expect("the kernel tells them");
    named.extend(all.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string));
    let mut bytes = [0; 4_096];
    for (n, name) in named.iter().enumerate() {
        let message = Message::request("MESSAGE", "sip:bob@one.att.net")
            .with("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bKw{n}"))
            .with("Route", format!("<sip:{name}:{port};lr>"))
            .with("From", "<sip:alice@one.att.net>;tag=a1")
            .with("To", "<sip:bob@one.att.net>")
            .with("Call-ID", format!("named-{n}"))
            .with("CSeq", "1 MESSAGE")
            .with("Max-Forwards", 70)
            .with("Content-Length", 0);
        let to: std::net::SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
        phone.send_to(&message.to_bytes(), to).expect("it is sent");
        let there = loop {
            let len = callee.recv(&mut bytes).expect("the request in time");
            let there = Message::parse(&bytes[..len]).expect("a message");
            // Those before may come again.
            if there.text("Call-ID") == format!("named-{n}") {
                break there;
            }
        };
        assert!(!there.has("Route"), "{name}: {}", there.text("Route"));
    }
}

/// RFC 3263 §5: the host that asked has gone, and another behind the name of its Via takes the answer.
#[test]
fn an_answer_goes_to_another_host_of_the_name_when_the_one_that_asked_has_gone() {
    let callee = UdpSocket::bind("127.0.0.1:0").expect("a port");
    callee.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let at = callee.local_addr().expect("an address");
    // Nobody listens at this port of the first host, which the request comes from.
    let other = TcpListener::bind("127.0.0.22:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    let tables = format!(
        "\n[hosts]\n\"cluster.example\" = [\"127.0.0.1\", \"127.0.0.22\"]\n\
         [[route]]\naction = \"proxy\"\nto = [\"sip:{at}\"]\n"
    );
    let server = Server::start(&Setup::new().tables(&tables));
    let mut caller = TcpStream::connect(server.tcp).expect("a connection");
    let sent = invite(&format!("TCP cluster.example:{port}"), "gone");
    caller.write_all(&sent.to_bytes()).expect("it is sent");
    let mut bytes = [0; 4_096];
    let (len, from) = callee.recv_from(&mut bytes).expect("the request in time");
    let there = Message::parse(&bytes[..len]).expect("a message");
    drop(caller);
    let mut ok = Message::response(200, "OK");
    for via in there.get_all("Via") {
        ok = ok.with("Via", via);
    }
    let ok = ok
        .with("From", there.text("From"))
        .with("To", format!("{};tag=b1", there.text("To")))
        .with("Call-ID", there.text("Call-ID"))
        .with("CSeq", there.text("CSeq"))
        .with("Content-Length", 0);
    // As a callee that hears no ACK does: the first may be written to the connection before its end is known.
    other.set_nonblocking(true).expect("an option");
    let mut accepted = None;
    wait_until("the other host is connected to", || {
        callee.send_to(&ok.to_bytes(), from).expect("it is sent");
        accepted = other.accept().ok();
        accepted.is_some()
    });
    let (mut stream, _) = accepted.expect("a connection");
    stream.set_nonblocking(false).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let back = read_message(&mut stream, &mut Vec::new());
    assert_eq!((back.status(), back.text("Call-ID")), (Some(200), "gone"));
    assert!(back.text("Via").ends_with(";received=127.0.0.1"), "{back}");
}
