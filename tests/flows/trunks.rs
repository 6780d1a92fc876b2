//! Trunks as those see them who run the server: which destinations are up and why, their calls, the metrics, the log.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bench_harness::sip::Message;
use serde_json::Value;

use crate::admin::{
    asked_setup, checked_by_promtool, dashboard_and_alerts_speak_of_what_there_is, json, page_over_http,
    printed, ringway,
};
use crate::support::{Server, Setup, wait_until};

/// A server that answers OPTIONS with 200 and INVITE with 486, while it is to.
pub struct Peer {
    pub addr: SocketAddr,
    pub answers: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// `loss`: percent of the requests that its answers ask not to be sent.
    pub fn start(answers: bool, loss: Option<u8>) -> Peer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let tick = Duration::from_millis(50);
        socket.set_read_timeout(Some(tick)).expect("a time-out");
        let addr = socket.local_addr().expect("an address");
        let answers = Arc::new(AtomicBool::new(answers));
        let is_over = Arc::new(AtomicBool::new(false));
        let (answering, over) = (answers.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while !over.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                let request = Message::parse(&bytes[..len]).expect("a message");
                if !answering.load(Ordering::Relaxed) || request.is_request("ACK") {
                    continue;
                }
                let (status, reason) = match request.is_request("INVITE") {
                    true => (486, "Busy Here"),
                    false => (200, "OK"),
                };
                let mut answer = Message::response(status, reason);
                for via in request.get_all("Via") {
                    let told = loss.map_or(";oc".to_owned(), |loss| format!(";oc={loss};oc-validity=60000"));
                    answer = answer.with("Via", via.replace(";oc;", &format!("{told};")));
                }
                let answer = answer
                    .with("From", request.text("From"))
                    .with("To", format!("{};tag=p", request.text("To")))
                    .with("Call-ID", request.text("Call-ID"))
                    .with("CSeq", request.text("CSeq"))
                    .with("Content-Length", 0);
                socket.send_to(&answer.to_bytes(), from).expect("it is sent");
            }
        });
        Peer {
            addr,
            answers,
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Calls through the server, each to its final answer.
pub fn calls(server: &Server, name: &str, count: u32) -> Vec<u16> {
    let phone = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let patience = Duration::from_secs(20);
    phone.set_read_timeout(Some(patience)).expect("a time-out");
    let own = phone.local_addr().expect("an address");
    let mut bytes = [0; 4_096];
    let mut one = |n: u32| {
        let request = |method: &str| {
            Message::request(method, "sip:+4930123@example.com")
                .with("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bK{name}{n}"))
                .with("From", "<sip:alice@example.com>;tag=a1")
                .with("To", "<sip:+4930123@example.com>")
                .with("Call-ID", format!("{name}-{n}"))
                .with("CSeq", format!("1 {method}"))
                .with("Max-Forwards", 70)
                .with("Contact", format!("<sip:alice@{own}>"))
                .with("Content-Length", 0)
        };
        let send = |message: &Message| phone.send_to(&message.to_bytes(), server.udp).expect("sent");
        send(&request("INVITE"));
        loop {
            let len = phone.recv(&mut bytes).expect("an answer in time");
            let answer = Message::parse(&bytes[..len]).expect("a message");
            let status = answer.status().expect("a response");
            if status >= 200 && answer.text("Call-ID") == format!("{name}-{n}") {
                send(&request("ACK").setting("To", answer.text("To")));
                return status;
            }
        }
    };
    (0..count).map(&mut one).collect()
}

pub fn of_trunk(socket: &str) -> Value {
    json(socket, &["trunks"])[0].clone()
}

pub fn destination(trunk: &Value, peer: &Peer) -> Value {
    destination_at(trunk, peer.addr)
}

pub fn destination_at(trunk: &Value, addr: SocketAddr) -> Value {
    let uri = format!("sip:{addr}");
    let all = trunk["destinations"].as_array().expect("a list");
    let found = all.iter().find(|one| one["destination"] == uri.as_str());
    found.expect("it is listed").clone()
}

#[test]
fn who_is_up_since_when_and_why_is_shown_measured_and_logged() {
    let (here, silent, busy) = (
        Peer::start(true, None),
        Peer::start(false, None),
        Peer::start(true, Some(60)),
    );
    let (setup, socket) = asked_setup();
    let setup: Setup = setup.flags(&["--shards", "2"]).tables(&format!(
        "\n[[trunk]]\nname = \"carrier\"\nping_interval_ms = 1000\nping_timeout_ms = 900\nup_after = 1\ndown_after = 2\n\
         destinations = [\"sip:{} weight=5\", \"sip:{} priority=2\", \"sip:{} calls=40\"]\ncalls_max = 50\n\
         [[trunk]]\nname = \"quiet\"\ndestinations = [\"sip:{}\"]\n\
         [[route]]\naction = \"proxy\"\nto = [\"trunk:carrier\"]\n",
        here.addr, silent.addr, busy.addr, silent.addr,
    ));
    let mut server = Server::start(&setup);
    let state_is = |peer: &Peer, state: &str| destination(&of_trunk(&socket), peer)["state"] == state;
    wait_until("all are known", || {
        state_is(&here, "up") && state_is(&busy, "up") && state_is(&silent, "down")
    });
    let statuses = calls(&server, "c", 30);
    let failed = statuses.iter().filter(|status| **status == 503).count();
    assert!(
        statuses.iter().all(|status| [486, 503].contains(status)),
        "{statuses:?}"
    );

    let trunk = of_trunk(&socket);
    assert_eq!(
        (&trunk["trunk"], &trunk["select"]),
        (&"carrier".into(), &"round-robin".into())
    );
    assert_eq!((&trunk["calls"], &trunk["calls_max"]), (&0.into(), &50.into()));
    assert_eq!(trunk["calls_over_limit"], 0);
    let started = trunk["calls_started"].as_u64().expect("a count");
    assert_eq!(started as usize + failed, 30);
    let (one, other, down) = (
        destination(&trunk, &here),
        destination(&trunk, &busy),
        destination(&trunk, &silent),
    );
    assert_eq!(one["addresses"][0], format!("udp:{}", here.addr));
    assert_eq!(
        (&one["why"], &one["last_options"]),
        (&"200".into(), &"200".into())
    );
    assert_eq!(
        (&one["weight"], &other["calls_max"], &down["priority"]),
        (&5.into(), &40.into(), &2.into())
    );
    assert!(
        one["round_trip_us"].as_u64().is_some_and(|us| us > 0) && one["for_s"].is_u64(),
        "{one}"
    );
    assert_eq!(
        (&one["loss_percent"], &other["loss_percent"]),
        (&0.into(), &60.into())
    );
    assert!(other["calls_throttled"].as_u64() > Some(0), "{other}");
    assert_eq!(
        (&down["why"], &down["calls_started"]),
        (&"time-out".into(), &0.into())
    );
    assert!(down["options_failed"].as_u64() >= Some(2), "{down}");
    let sum = |one: &Value| one["calls_started"].as_u64().expect("a count");
    assert!(sum(&one) > 0 && sum(&other) > 0 && sum(&one) + sum(&other) >= started);

    // What sends no OPTIONS and was sent nothing is not known.
    let quiet = &json(&socket, &["trunks", "quiet"])[0];
    let it = &quiet["destinations"][0];
    assert_eq!(
        (&it["state"], &it["is_asked"]),
        (&"unknown".into(), &false.into())
    );
    assert!(it["why"].is_null() && it["round_trip_us"].is_null());
    assert_eq!(ringway(&socket, &["trunks", "nobody"]).status.code(), Some(4));
    let table = printed(&socket, &["trunks"]);
    assert!(
        table.contains("carrier: round-robin; calls 0/50 now") && table.contains("60 %"),
        "{table}"
    );

    // Prometheus reads it, and dashboard and alerts speak of it.
    let page = page_over_http(&server, "/metrics");
    checked_by_promtool(&page);
    dashboard_and_alerts_speak_of_what_there_is(&page);
    let is_in = |line: &str| page.lines().any(|l| l == line);
    let labels = |peer: &Peer| format!("trunk=\"carrier\",destination=\"sip:{}\"", peer.addr);
    for line in [
        format!(
            "ringway_trunk_destination_state{{{},state=\"down\"}} 1",
            labels(&silent)
        ),
        format!(
            "ringway_trunk_destination_state{{{},state=\"up\"}} 1",
            labels(&here)
        ),
        format!(
            "ringway_trunk_destination_state{{{},state=\"down\"}} 0",
            labels(&here)
        ),
        format!("ringway_trunk_destination_loss_ratio{{{}}} 0.6", labels(&busy)),
        format!("ringway_trunk_calls_started_total{{trunk=\"carrier\"}} {started}"),
        "ringway_trunk_calls{trunk=\"quiet\"} 0".to_owned(),
    ] {
        assert!(is_in(&line), "{line} in\n{page}");
    }

    // A change is told once, by whom, why, and from what.
    let lines = |peer: &Peer, words: &str| {
        let uri = format!("peer=\"sip:{}\"", peer.addr);
        let log = server.log();
        let found = log
            .lines()
            .filter(|line| line.contains(&uri) && line.contains(words));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    // Changes between two looks at the board share a line, so each is awaited before the next.
    wait_until("how it began is told", || {
        !lines(&silent, "peer down").is_empty() && !lines(&here, "peer up").is_empty()
    });
    silent.answers.store(true, Ordering::Relaxed);
    wait_until("it is up", || state_is(&silent, "up"));
    here.answers.store(false, Ordering::Relaxed);
    wait_until("it is down", || state_is(&here, "down"));
    wait_until("both are told", || {
        !lines(&silent, "peer up").is_empty() && !lines(&here, "peer down").is_empty()
    });
    let line = &lines(&here, "peer down")[0];
    assert!(
        line.contains("trunk=\"carrier\"") && line.contains("was=\"up\" why=\"time-out\""),
        "{line}"
    );
    assert!(!lines(&silent, "peer down").is_empty() && !lines(&here, "peer up").is_empty());
    server.stop();
}

#[test]
fn the_limit_of_a_trunk_is_told_like_any_other() {
    let peer = Peer::start(false, None);
    let (setup, socket) = asked_setup();
    let setup = setup.key("timers", "t1_ms", "100").tables(&format!(
        "\n[[trunk]]\nname = \"narrow\"\ncalls_per_second_max = 1\ndestinations = [\"sip:{}\"]\n\
         [[route]]\naction = \"proxy\"\nto = [\"trunk:narrow\"]\n",
        peer.addr,
    ));
    let mut server = Server::start(&setup);
    peer.answers.store(true, Ordering::Relaxed);
    let statuses = calls(&server, "n", 5);
    assert!(statuses.contains(&486) && statuses.contains(&503), "{statuses:?}");
    assert_eq!(server.logged("a limit was reached", "limit"), "trunk.narrow");
    assert!(of_trunk(&socket)["calls_over_limit"].as_u64() > Some(0));
    server.stop();
}
