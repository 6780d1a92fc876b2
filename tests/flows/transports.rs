//! Datagrams and streams: sizes, splits, keepalives, addresses, and connections that die (RFC 3261 §18, RFC 3581).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use bench_harness::call::{self, invite_reply};
use bench_harness::dialog::Dialog;
use bench_harness::failure::{Outcome, no_faults};
use bench_harness::links::Transport::{self, Tcp, Udp};
use bench_harness::phone::{Account, Phone};
use bench_harness::sip::{self, Message};
use bench_harness::{captured, contract};

use crate::support::{
    Scene, Setup, alive, nothing_more, on_every_server, register, register_contact, register_for_tcp,
    registered, scene, wait_until,
};

on_every_server![
    a_message_is_found_wherever_the_stream_is_split,
    pipelined_requests_are_answered_in_order,
    a_keepalive_is_answered,
    the_largest_datagram_is_taken_whole,
    a_call_over_ipv6,
    the_caller_loses_its_connection_in_the_middle_of_a_call,
];

fn a_message_is_found_wherever_the_stream_is_split(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        let length = s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp).to_bytes().len();
        for split in 1..length {
            let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp);
            let bytes = options.to_bytes();
            let (begin, end) = bytes.split_at(split.min(bytes.len() - 1));
            s.ue1.send_pieces(&[begin, end])?;
            s.ue1.response(&options, 200)?;
        }
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp);
        let bytes = options.to_bytes();
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        s.ue1.send_pieces(&bytewise)?;
        s.ue1.response(&options, 200)?;
        Ok(())
    });
}

fn pipelined_requests_are_answered_in_order(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        let requests: Vec<Message> = (0..100)
            .map(|_| s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp))
            .collect();
        // One Call-ID: one shard's work, so the order is that of the stream.
        let call_id = requests[0].text("Call-ID").to_owned();
        let requests: Vec<Message> = requests
            .into_iter()
            .map(|r| r.setting("Call-ID", &call_id))
            .collect();
        let stream: Vec<u8> = requests.iter().flat_map(Message::to_bytes).collect();
        s.ue1.send_bytes(&stream, Tcp)?;
        for request in &requests {
            let got = s.ue1.wait_for("the next answer", |_| true)?;
            assert_eq!(got.branch(), request.branch());
            assert_eq!(got.status(), Some(200));
        }
        // The same again in pieces that end anywhere.
        let requests: Vec<Message> = requests
            .into_iter()
            .map(|r| r.setting("Via", s.ue1.via(Tcp)))
            .collect();
        let stream: Vec<u8> = requests.iter().flat_map(Message::to_bytes).collect();
        let pieces: Vec<&[u8]> = stream.chunks(997).collect();
        s.ue1.send_pieces(&pieces)?;
        for request in &requests {
            s.ue1.response(request, 200)?;
        }
        Ok(())
    });
}

fn a_keepalive_is_answered(flags: &[&str]) {
    // RFC 5626 §3.5.1: a double CRLF gets a single one.
    scene(Setup::new().flags(flags), |s| {
        s.ue1.send_bytes(b"\r\n\r\n", Tcp)?;
        s.ue1.wait_crlfs(1)?;
        s.ue1.send_pieces(&[b"\r", b"\n\r", b"\n"])?;
        s.ue1.wait_crlfs(2)?;
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp);
        s.ue1
            .send_bytes(&[b"\r\n\r\n", &options.to_bytes()[..]].concat(), Tcp)?;
        s.ue1.response(&options, 200)?;
        s.ue1.wait_crlfs(3)
    });
}

fn the_largest_datagram_is_taken_whole(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Udp);
        let head = options.clone().with_body("text/plain", "").to_bytes().len();
        // "0" gives way to five digits.
        let whole = options.with_body("text/plain", vec![b'x'; 65_507 - head - 4]);
        assert_eq!(whole.to_bytes().len(), 65_507);
        s.ue1.ask_for(&whole, Udp, 200)?;
        Ok(())
    });
}

#[test]
fn a_long_message_goes_through_over_either_transport() {
    scene(Setup::new(), |s| {
        register(&mut s.ue1, Udp)?;
        register_for_tcp(&mut s.ue2)?;
        let (aor_1, aor_2) = (s.ue1.aor(), s.ue2.aor());
        let body: Vec<u8> = (0..60_000_u32).map(|n| n as u8).collect();
        let message = s
            .ue1
            .request("MESSAGE", &aor_2, Udp)
            .with_body("application/octet-stream", body.clone());
        s.ue1.send(&message, Udp)?;
        let got = s.ue2.expect("MESSAGE")?;
        assert!(got.body == body, "every byte of it");
        s.ue2.answers(&got, 200, "OK")?;
        s.ue1.response(&message, 200)?;
        let message = s
            .ue2
            .request("MESSAGE", &aor_1, Tcp)
            .with_body("application/octet-stream", body.clone());
        s.ue2.send(&message, Tcp)?;
        let got = s.ue1.expect("MESSAGE")?;
        assert!(got.body == body, "every byte of it");
        s.ue1.answers(&got, 200, "OK")?;
        s.ue2.response(&message, 200)?;
        Ok(())
    });
}

fn a_call_over_ipv6(flags: &[&str]) {
    registered(Setup::new().flags(flags).ipv6(), |s| {
        let server = s.server.udp;
        let contact = s.ue2.contact();
        assert!(contact.contains("@[::1]:"));
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        no_faults(contract::leg_b_invite(
            &call.invite,
            &call.leg_b,
            &contact,
            server,
        ))?;
        no_faults(contract::passed_response(
            &call.invite,
            &call.accepted.0,
            &call.accepted.1,
            server,
        ))?;
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        let mut call = call::place(&mut s.ue2, &mut s.ue1, Udp)?;
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.caller)?;
        Ok(())
    });
}

#[test]
fn one_server_listens_on_both_address_families() {
    let setup = Setup::new().flags(&["--listen", "[::1]:0"]);
    scene(setup, |s| {
        let log = s.server.log();
        let told: Vec<&str> = log.lines().filter(|l| l.contains("listening")).collect();
        assert_eq!(told.len(), 4, "UDP and TCP on either: {told:?}");
        let other: SocketAddr = told
            .iter()
            .filter_map(|line| line.split("addr=").nth(1)?.split(' ').next()?.parse().ok())
            .find(SocketAddr::is_ipv6)
            .expect("one of them is IPv6");
        // A phone on IPv6 calls one on IPv4 and the other way round.
        register(&mut s.ue1, Tcp)?;
        let account = Account::new("UE6", "13800011106", captured::DOMAIN, other.ip(), other, 6);
        let mut ue6 = Phone::start(account, None)?;
        register(&mut ue6, Udp)?;
        let mut call = call::place(&mut ue6, &mut s.ue1, Udp)?;
        call::hang_up(&mut ue6, &mut s.ue1, &mut call.caller)?;
        let mut call = call::place(&mut s.ue1, &mut ue6, Tcp)?;
        call::hang_up(&mut ue6, &mut s.ue1, &mut call.callee)?;
        Ok(())
    });
}

#[test]
fn the_answer_goes_where_the_via_says_and_where_the_request_came_from() {
    scene(Setup::new(), |s| {
        // RFC 3261 §18.2.2: without rport, to the source address, but to the port of sent-by.
        let stranger = UdpSocket::bind((s.ue1.addr().ip(), 0))?;
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Udp);
        stranger.send_to(&options.to_bytes(), s.server.udp)?;
        let response = s.ue1.response(&options, 200)?;
        assert_eq!(response.from, s.server.udp);
        assert_eq!(response.lines("Via"), options.lines("Via"), "nothing to add");

        // RFC 3581 §4: with rport, back to where it came from.
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Udp);
        let via = format!("SIP/2.0/UDP 192.0.2.1:5070;rport;branch={};x=y", options.branch());
        s.ue1.send(&options.clone().setting("Via", via), Udp)?;
        let response = s.ue1.response(&options, 200)?;
        let (ip, port) = (s.ue1.addr().ip().to_string(), s.ue1.addr().port().to_string());
        assert_eq!(
            sip::param(response.top_via(), "rport"),
            Some(port.as_str()),
            "{}",
            response.top_via()
        );
        assert_eq!(
            sip::param(response.top_via(), "received"),
            Some(ip.as_str()),
            "{}",
            response.top_via()
        );
        assert_eq!(sip::param(response.top_via(), "x"), Some("y"));
        assert!(response.top_via().starts_with("SIP/2.0/UDP 192.0.2.1:5070;"));

        // §18.2.1: received is added where sent-by names another host, by name too.
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Udp);
        let via = format!("SIP/2.0/UDP phone.invalid:{port};branch={}", options.branch());
        s.ue1.send(&options.clone().setting("Via", via), Udp)?;
        let response = s.ue1.response(&options, 200)?;
        assert_eq!(
            sip::param(response.top_via(), "received"),
            Some(ip.as_str()),
            "{}",
            response.top_via()
        );
        Ok(())
    });
}

#[test]
fn every_via_comes_back_in_order() {
    scene(Setup::new(), |s| {
        let options = s
            .ue1
            .request("OPTIONS", &s.ue1.registrar(), Udp)
            .inserting(
                "v",
                "SIP/2.0/TCP first.example.org;branch=z9hG4bK1 , SIP / 2.0 / UDP second:7;branch=z9hG4bK2",
            )
            .inserting("Via", "SIP/2.0/TLS third;branch=z9hG4bK3");
        let response = s.ue1.ask_for(&options, Udp, 200)?;
        assert_eq!(response.lines("Via"), options.lines("Via"));
        Ok(())
    });
}

fn the_caller_loses_its_connection_in_the_middle_of_a_call(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        // The caller comes back on another connection and goes on.
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        s.ue1.reset_connection();
        let info = s.ue1.request_in(&mut call.caller, "INFO");
        call::exchange(&mut s.ue1, &mut s.ue2, info, Tcp, (200, "OK"))?;
        s.ue1.reset_connection();
        // It is reached at its contact.
        let said = call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        assert_eq!(said.passed.uri(), Some(s.ue1.contact().as_str()));
        Ok(())
    });
}

#[test]
fn an_answer_finds_the_caller_whose_connection_died_while_it_rang() {
    // RFC 3261 §18.2.2: a new connection to the address in the Via.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        let ringing = invite_reply(&mut s.ue2, &leg_b, 180, "Ringing");
        s.ue2.respond(&leg_b, &ringing)?;
        s.ue1.response(&invite, 180)?;
        s.ue1.hang_up_connection()?;
        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK");
        s.ue2.respond(&leg_b, &accepted)?;
        let ok = s.ue1.response(&invite, 200)?;
        assert_eq!(ok.transport, Tcp);
        let mut dialog = Dialog::of_caller(&invite, &ok, Tcp);
        let ack = s.ue1.ack_in(&dialog, &invite);
        s.ue1.send(&ack, Udp)?;
        s.ue2.expect("ACK")?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut dialog)?;
        Ok(())
    });
}

#[test]
fn a_phone_whose_connection_died_is_called_at_its_contact() {
    scene(Setup::new(), |s| {
        register(&mut s.ue1, Tcp)?;
        register_for_tcp(&mut s.ue2)?;
        let old = s.ue2.connection()?;
        s.ue2.hang_up_connection()?;
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        assert_eq!(call.leg_b.transport, Tcp);
        assert_ne!(call.leg_b.conn, Some(old));
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

#[test]
fn many_connections_are_told_apart() {
    scene(Setup::new(), |s| {
        let mut sent = Vec::new();
        for _ in 0..50 {
            let conn = s.ue1.connect_anew()?;
            let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp);
            s.ue1.send(&options, Tcp)?;
            sent.push((conn, options));
        }
        for (conn, options) in &sent {
            let response = s.ue1.response(options, 200)?;
            assert_eq!(response.conn, Some(*conn));
        }
        Ok(())
    });
}

#[test]
fn connections_beyond_the_limit_of_one_source_are_closed() {
    let setup = Setup::new()
        .flags(&["--shards", "1"])
        .key("limits", "connections_per_source_max", "2");
    scene(setup, |s| {
        for _ in 0..2 {
            s.ue1.connect_anew()?;
            alive(&mut s.ue1, Tcp)?;
        }
        let third = s.ue1.connect_anew()?;
        s.ue1.wait_closed(third)?;
        // Others are not concerned.
        alive(&mut s.ue2, Tcp)?;
        Ok(())
    });
}

/// The callee as a phone that registers over TCP and then reads nothing more: not one of ours, those always read.
fn stalled_callee(s: &mut Scene) -> Outcome<TcpStream> {
    let mut stalled = TcpStream::connect(s.server.tcp)?;
    let contact = format!(
        "<sip:{}@{};transport=tcp>",
        captured::CALLEE,
        stalled.local_addr()?
    );
    let register = captured::register(&mut s.ue2, Tcp).setting("Contact", contact);
    stalled.write_all(&register.to_bytes())?;
    let mut answer = [0; 12];
    stalled.read_exact(&mut answer)?;
    assert_eq!(&answer, b"SIP/2.0 200 ");
    Ok(stalled)
}

/// Reads what a stalled phone has been sent, to the end of its connection, and gives how much that was.
fn read_to_the_end(mut stalled: TcpStream, patience: Duration) -> Outcome<usize> {
    stalled.set_read_timeout(Some(patience))?;
    let mut rest = Vec::new();
    match stalled.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is still there: {error}"),
    }
    Ok(rest.len())
}

/// What is sent to phones that do not read: far more than the kernel's own buffers of a connection take.
const MESSAGES: usize = 400;
const MESSAGE_BYTES: usize = 60_000;

/// Sends them all, while another phone is answered over `others`. What can't be sent is answered with a failure, the last of all in any
/// case; of what the kernel took, and the phone did not, nothing is said (RFC 4320 §4.2).
fn large_messages_fail(s: &mut Scene, others: Transport) -> Outcome {
    let mut last = None;
    for _ in 0..MESSAGES {
        let message = s
            .ue1
            .request("MESSAGE", &s.ue2.aor(), Udp)
            .with_body("application/octet-stream", vec![b'x'; MESSAGE_BYTES]);
        s.ue1.send(&message, Udp)?;
        alive(&mut s.ue1, others)?;
        last = Some(message);
    }
    let end = s.ue1.final_response(&last.expect("some were sent"))?;
    for end in s.ue1.leftovers().iter().chain([&end]) {
        // Of those, and when they have waited for long, no more than that they have arrived (§4.1).
        let is_trying = end.status() == Some(100);
        assert!(is_trying || end.status() >= Some(400), "{}", end.message);
    }
    Ok(())
}

#[test]
fn a_phone_that_stops_reading_costs_one_connection() {
    let setup = Setup::new().key("limits", "send_queue_bytes_max", "65536");
    scene(setup, |s| {
        register(&mut s.ue1, Udp)?;
        let stalled = stalled_callee(s)?;
        large_messages_fail(s, Udp)?;
        let read = read_to_the_end(stalled, s.ue1.patience)?;
        assert!(read < MESSAGES * MESSAGE_BYTES, "everything was kept for it");
        Ok(())
    });
}

#[test]
fn phones_that_stop_reading_have_one_limit_together_and_others_are_served() {
    let setup = Setup::new()
        .flags(&["--shards", "1"])
        .key("limits", "send_queue_bytes_max", "400_000")
        .key("limits", "send_queue_bytes_sum_max", "400_000");
    scene(setup, |s| {
        register(&mut s.ue1, Udp)?;
        let stalled = [stalled_callee(s)?, stalled_callee(s)?, stalled_callee(s)?];
        // Whoever reads its connection is answered, although the queues of the others are full.
        large_messages_fail(s, Tcp)?;
        for stalled in stalled {
            read_to_the_end(stalled, s.ue1.patience)?;
        }
        Ok(())
    });
}

#[test]
fn what_a_phone_does_not_take_in_time_costs_its_connection() {
    // Much may wait, but not for long.
    let setup = Setup::new()
        .key("limits", "send_queue_bytes_max", "100_000_000")
        .key("limits", "send_stalled_ms", "300");
    scene(setup, |s| {
        register(&mut s.ue1, Udp)?;
        let stalled = stalled_callee(s)?;
        large_messages_fail(s, Udp)?;
        let read = read_to_the_end(stalled, s.ue1.patience)?;
        assert!(read < MESSAGES * MESSAGE_BYTES, "everything was kept for it");
        Ok(())
    });
}

#[test]
fn half_a_message_costs_one_connection() {
    let setup = Setup::new().key("limits", "message_partial_ms", "200");
    scene(setup, |s| {
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Tcp).to_bytes();
        let conn = s.ue1.connection()?;
        s.ue1.send_bytes(&options[..100], Tcp)?;
        alive(&mut s.ue2, Tcp)?;
        s.ue1.wait_closed(conn)?;
        alive(&mut s.ue2, Tcp)?;
        Ok(())
    });
}

#[test]
fn halves_of_messages_leave_room_for_whole_ones() {
    // Halves may begin to take buffers while less than half of all is in use: fourteen of the largest, 73,728 bytes.
    let setup = Setup::new()
        .flags(&["--shards", "1"])
        .key("limits", "buffer_bytes_max", "2_064_384")
        .key("limits", "message_partial_ms", "60_000");
    scene(setup, |s| {
        // Together far more than all buffers.
        let mut halves = Vec::new();
        for number in 0..60 {
            let mut half = TcpStream::connect(s.server.tcp)?;
            let head = format!(
                "OPTIONS sip:{} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKhalf{number}\r\nContent-Length: 60000\r\n\r\n",
                captured::DOMAIN
            );
            half.write_all(head.as_bytes())?;
            // One that is closed for want of room may say so here already.
            let _ = half.write_all(&[b'x'; 50_000]);
            halves.push(half);
        }
        register(&mut s.ue1, Udp)?;
        register_for_tcp(&mut s.ue2)?;
        let message = s
            .ue1
            .request("MESSAGE", &s.ue2.aor(), Udp)
            .with_body("application/octet-stream", vec![b'x'; 40_000]);
        s.ue1.send(&message, Udp)?;
        let got = s.ue2.expect("MESSAGE")?;
        s.ue2.answers(&got, 200, "OK")?;
        s.ue1.response(&message, 200)?;
        // Who waits for the rest of a message still has what was begun; most are turned away, each once it is read to where
        // the room ends.
        for half in &halves {
            half.set_read_timeout(Some(Duration::from_millis(1)))?;
        }
        wait_until("most are turned away", || {
            halves.retain_mut(|half| {
                let end = half.read(&mut [0; 1]);
                end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
            });
            halves.len() <= 14
        });
        let kept = halves.len();
        assert!((1..=14).contains(&kept), "{kept}");
        Ok(())
    });
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    scene(Setup::new().key("limits", "connection_idle_s", "1"), |s| {
        alive(&mut s.ue1, Tcp)?;
        let conn = s.ue1.connection()?;
        s.ue1.wait_closed(conn)
    });
}

#[test]
fn a_contact_that_nobody_answers_at_is_a_failed_call() {
    // RFC 3261 §8.1.3.1 and §18.4: a transport error is a 503 of the client transaction, or a 408 in the end.
    registered(Setup::new(), |s| {
        let nobody = format!("<sip:{}@127.0.0.99:9;transport=tcp>", captured::CALLEE);
        register_contact(&mut s.ue2, &nobody, Udp)?;
        let own = format!("<{}>;expires=0", s.ue2.contact());
        register_contact(&mut s.ue2, &own, Udp)?;
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let failed = s.ue1.final_response(&invite)?;
        assert!(failed.status() >= Some(400), "{}", failed.message);
        s.ue1.send(&Phone::ack_of(&invite, &failed), Tcp)?;
        nothing_more(&mut s.ue2)
    });
}
