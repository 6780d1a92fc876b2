//! Datagrams that wait for one peer together: in runs (UDP_SEGMENT) or not, each arrives whole, and those of a call in order.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use bench_harness::sip::Message;

use crate::support::{Server, Setup};

/// Requests that find the server held still.
const REQUESTS: usize = 60;

/// Two OPTIONS in each of many calls, whose Call-IDs are of different lengths; the answers in the order in which they came.
fn answers(server: &Server) -> Vec<String> {
    let trunk = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    trunk
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time-out");
    let here = trunk.local_addr().expect("an address");
    server.while_held(|| {
        for number in 0..REQUESTS {
            let (call, cseq) = (number / 2, 1 + number % 2);
            let padding = "x".repeat(call);
            let request = format!(
                "OPTIONS sip:one.att.net SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{number}\r\n\
                 From: <sip:trunk@{here}>;tag=t\r\nTo: <sip:one.att.net>\r\nCall-ID: {call}-{padding}\r\n\
                 CSeq: {cseq} OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
            );
            trunk.send_to(request.as_bytes(), server.udp).expect("sent");
        }
    });
    let mut bytes = [0; 65_536];
    (0..REQUESTS)
        .map(|_| {
            let count = trunk.recv(&mut bytes).expect("an answer");
            String::from_utf8(bytes[..count].to_vec()).expect("text")
        })
        .collect()
}

/// How many datagrams the server says that it sent in runs, and how many runs were refused.
fn run_counts(mut server: Server) -> (u64, u64) {
    server.terminate();
    let summary = server.wait();
    let line = summary
        .lines()
        .find(|line| line.starts_with("datagrams:"))
        .expect("a line on datagrams");
    let numbers: Vec<u64> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    (numbers[2], numbers[4])
}

fn check(answers: &[String]) {
    let mut last_cseq = BTreeMap::new();
    for answer in answers {
        let message = Message::parse(answer.as_bytes()).expect("a whole message");
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\n"),
            "cut or with a part of another: {answer:?}"
        );
        assert_eq!(answer.matches("SIP/2.0 200").count(), 1, "{answer}");
        assert_eq!(message.get("Content-Length").map(str::trim), Some("0"));
        let call = message.get("Call-ID").expect("a Call-ID").to_owned();
        let cseq = message.get("CSeq").expect("a CSeq").to_owned();
        // 1 before 2 in each call.
        assert!(
            last_cseq
                .insert(call, cseq.clone())
                .is_none_or(|before: String| before < cseq)
        );
    }
    assert_eq!(last_cseq.len(), REQUESTS / 2, "an answer to each call");
    assert!(last_cseq.values().all(|cseq| cseq.starts_with('2')));
}

#[test]
fn answers_that_wait_for_one_peer_leave_together_and_arrive_whole_and_in_order() {
    let server = Server::start(&Setup::new().flags(&["--shards", "1"]));
    let answers = answers(&server);
    check(&answers);
    // Where lengths differ, white space of ours makes up for it.
    assert!(
        answers
            .iter()
            .any(|answer| answer.contains("\r\nContent-Length:  "))
    );
    let (together, refused) = run_counts(server);
    assert!(together >= REQUESTS as u64 / 2, "only {together} left together");
    assert_eq!(refused, 0);
}

#[test]
fn segment_off_has_each_datagram_leave_alone_and_as_it_was_written() {
    let setup = Setup::new()
        .flags(&["--shards", "1"])
        .key("udp", "segment", "\"off\"");
    let server = Server::start(&setup);
    let answers = answers(&server);
    check(&answers);
    assert!(
        answers
            .iter()
            .all(|answer| answer.contains("\r\nContent-Length: 0\r\n"))
    );
    assert_eq!(run_counts(server), (0, 0));
}
