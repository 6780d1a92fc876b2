//! Listeners that a reload adds and takes out: nothing that goes on elsewhere notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::Tcp;
use bench_harness::sip::Message;

use crate::support::{Setup, alive, bindings, on_every_server, registered, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);
const CAROL: &str = "13800011109";

on_every_server![listeners_come_and_go_and_nobody_is_lost];

fn file(listen: &str) -> String {
    format!(
        "listen = [{listen}]\ndomains = [\"{}\"]\ndrain_s = 8\n",
        captured::DOMAIN
    )
}

/// An address that nobody has, on a loopback address of its own.
fn free_address() -> SocketAddr {
    let taken = std::net::TcpListener::bind("127.0.0.9:0").expect("a port");
    taken.local_addr().expect("an address")
}

fn request(method: &str, own: &str, number: u32) -> Message {
    Message::request(method, &format!("sip:{}", captured::DOMAIN))
        .with("Via", format!("SIP/2.0/{own};branch=z9hG4bK{method}{number}"))
        .with(
            "From",
            format!("<sip:{CAROL}@{}>;tag=c{number}", captured::DOMAIN),
        )
        .with("To", format!("<sip:{CAROL}@{}>", captured::DOMAIN))
        .with("Call-ID", format!("carol-{method}-{number}"))
        .with("CSeq", format!("1 {method}"))
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// Sends it, and gives the status of its answer.
fn ask_udp(socket: &UdpSocket, message: &Message, to: SocketAddr) -> Option<u16> {
    socket.send_to(&message.to_bytes(), to).expect("it is sent");
    let mut bytes = [0; 4_096];
    let len = socket.recv(&mut bytes).expect("an answer in time");
    Message::parse(&bytes[..len]).expect("a message").status()
}

fn ask_tcp(stream: &mut TcpStream, number: u32) -> Option<u16> {
    let own = format!("TCP {}", stream.local_addr().expect("an address"));
    stream
        .write_all(&request("OPTIONS", &own, number).to_bytes())
        .expect("it is sent");
    let mut text = Vec::new();
    while !text.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut bytes = [0; 4_096];
        let len = stream.read(&mut bytes).expect("an answer in time");
        assert!(len > 0, "the connection is closed");
        text.extend_from_slice(&bytes[..len]);
    }
    Message::parse(&text).expect("a message").status()
}

fn listeners_come_and_go_and_nobody_is_lost(flags: &[&str]) {
    let at_first = file("\"127.0.0.1:0\"");
    let setup = Setup::of_file(&at_first).flags(flags);
    let with = |listen: &str| Setup::of_file(&file(listen)).toml();
    registered(setup, |s| {
        let mut standing = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;

        // A file that wants what nobody can have changes nothing.
        let blocker = UdpSocket::bind("127.0.0.9:0").expect("a port");
        let taken = blocker.local_addr().expect("an address");
        let told = s
            .server
            .reload_text(&with(&format!("\"127.0.0.1:0\", \"udp:{taken}\"")));
        assert!(told.contains("not reloaded"), "{told}");
        assert!(s.server.log().contains("address in use"), "{}", s.server.log());
        drop(blocker);

        // One more listener, over UDP and TCP.
        let new = free_address();
        let told = s
            .server
            .reload_text(&with(&format!("\"127.0.0.1:0\", \"{new}\"")));
        assert!(
            told.contains(" reloaded: ") && !told.contains("not reloaded"),
            "{told}"
        );
        let carol = UdpSocket::bind("127.0.0.4:0").expect("a port");
        carol.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let own = format!("UDP {}", carol.local_addr().expect("an address"));
        for number in 0..8 {
            // Whichever shard gets it.
            assert_eq!(ask_udp(&carol, &request("OPTIONS", &own, number), new), Some(200));
        }
        let mut streams: Vec<TcpStream> = (0..4)
            .map(|_| TcpStream::connect(new).expect("a connection"))
            .collect();
        for stream in &mut streams {
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            assert_eq!(ask_tcp(stream, 20), Some(200));
        }
        let contact = format!("<sip:carol@{}>", carol.local_addr().expect("an address"));
        let register = request("REGISTER", &own, 30)
            .with("Contact", contact)
            .with("Expires", 600);
        assert_eq!(ask_udp(&carol, &register, new), Some(200));

        // It is taken out: no connection any more, those that there are go on; datagrams are served for a while.
        let told = s.server.reload_text(&with("\"127.0.0.1:0\""));
        assert!(
            told.contains(" reloaded: ") && !told.contains("not reloaded"),
            "{told}"
        );
        assert_eq!(ask_udp(&carol, &request("OPTIONS", &own, 40), new), Some(200));
        wait_until("no connection is accepted", || {
            TcpStream::connect(new).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        assert_eq!(ask_tcp(&mut streams[0], 41), Some(200));
        s.server.logged("no longer listening", "addr");
        let stranger = UdpSocket::bind("127.0.0.4:0").expect("a port");
        stranger
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a time-out");
        stranger.connect(new).expect("an address");
        wait_until("nobody is there", || {
            let mut bytes = [0; 64];
            let sent = stranger.send(b"\r\n\r\n");
            let heard = sent.and_then(|_| stranger.recv(&mut bytes));
            heard.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        for stream in &mut streams {
            assert_eq!(ask_tcp(stream, 42), Some(200));
        }

        // Who registered there is called from elsewhere, and the standing call has noticed nothing.
        let invite = captured::invite(&mut s.ue1, CAROL, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let mut bytes = [0; 8_192];
        let (len, from) = carol.recv_from(&mut bytes).expect("an INVITE in time");
        let there = Message::parse(&bytes[..len]).expect("a message");
        assert!(there.is_request("INVITE"), "{}", there.title());
        assert_eq!(from, s.server.udp);
        assert!(
            there.top_via().contains(&s.server.udp.to_string()),
            "{}",
            there.top_via()
        );
        let mut busy = Message::response(486, "Busy Here");
        for name in ["Via", "From", "Call-ID", "CSeq"] {
            busy = busy.with(name, there.text(name));
        }
        let busy = busy
            .with("To", format!("{};tag=c", there.text("To")))
            .with("Content-Length", 0);
        carol.send_to(&busy.to_bytes(), from).expect("it is sent");
        crate::support::refused(&mut s.ue1, &invite, 486, Tcp)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut standing.caller)?;
        alive(&mut s.ue1, Tcp)?;
        assert_eq!(bindings(&mut s.ue1)?.len(), 1);

        // The address can be had again.
        let told = s
            .server
            .reload_text(&with(&format!("\"127.0.0.1:0\", \"{new}\"")));
        assert!(
            told.contains(" reloaded: ") && !told.contains("not reloaded"),
            "{told}"
        );
        let last = UdpSocket::bind("127.0.0.4:0").expect("a port");
        last.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let own = format!("UDP {}", last.local_addr().expect("an address"));
        assert_eq!(ask_udp(&last, &request("OPTIONS", &own, 50), new), Some(200));
        let mut again = TcpStream::connect(new).expect("a connection");
        again.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        assert_eq!(ask_tcp(&mut again, 51), Some(200));
        Ok(())
    });
}
