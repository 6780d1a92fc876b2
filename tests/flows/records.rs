//! What call records are there when the server has ended.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::Tcp;
use bench_harness::sip::Message;

use crate::support::{Server, Setup, refused, registered};

/// A place of its own, which is not there yet.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn keeping_records(directory: &Path) -> Setup {
    Setup::new().key("records", "directory", &format!("{directory:?}"))
}

/// All lines of all files.
fn lines(directory: &Path) -> Vec<serde_json::Value> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("text"));
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .collect()
}

#[test]
fn each_call_leaves_a_line_and_the_last_ones_are_written_at_the_end() {
    let directory = directory("records");
    registered(keeping_records(&directory).flags(&["--shards", "2"]), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        let invite = captured::invite(&mut s.ue1, "13800019999", Tcp);
        s.ue1.send(&invite, Tcp)?;
        refused(&mut s.ue1, &invite, 404, Tcp)?;
        let standing = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        s.server.terminate();
        // Two signals that are not taken apart are one.
        s.server.logged("draining", "calls");
        s.server.terminate();
        for phone in [&mut s.ue1, &mut s.ue2] {
            let bye = phone.expect("BYE")?;
            phone.answers(&bye, 200, "OK")?;
        }
        drop(standing);
        s.server.wait();
        Ok(())
    });
    let mut lines = lines(&directory);
    lines.sort_by_key(|line| line["began"].as_str().map(str::to_owned));
    let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("reason"), ["callee_hung_up", "refused", "shutdown"]);
    assert_eq!(of("status"), [200, 404, 200]);
    assert_eq!(lines[0]["q850_cause"], 16);
    assert_eq!(lines[1]["q850_cause"], 1);
    assert!(lines[1]["callee"].is_null());
    let (caller, callee) = (&lines[0]["caller"], &lines[0]["callee"]);
    assert_eq!(caller["transport"], "TCP");
    assert!(
        caller["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.2:"))
    );
    assert!(
        callee["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.3:"))
    );
    assert_ne!(caller["call_id"], callee["call_id"]);
    assert!(caller["media"].is_string() && callee["media"].is_string());
    assert!(lines[0]["answered"].is_string() && lines[0]["talk_ms"].is_u64());
    std::fs::remove_dir_all(&directory).expect("to be removed");
}

#[test]
fn calls_go_on_while_records_cant_be_written_and_records_follow_when_they_can() {
    let directory = directory("records-lost");
    registered(keeping_records(&directory), |s| {
        std::fs::remove_dir_all(&directory).expect("to be removed");
        std::fs::write(&directory, "in the way").expect("a file");
        for _ in 0..3 {
            let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        }
        let deadline = std::time::Instant::now() + s.ue1.patience;
        while !s.server.log().contains("call records can't be written") {
            assert!(std::time::Instant::now() < deadline, "{}", s.server.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::fs::remove_file(&directory).expect("to be removed");
        while !s.server.log().contains("call records are written again") {
            assert!(std::time::Instant::now() < deadline, "{}", s.server.log());
            let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        }
        assert_eq!(s.server.log().matches("can't be written").count(), 1);
        Ok(())
    });
    let lines = lines(&directory);
    assert!(lines.iter().all(|line| line["reason"] == "caller_hung_up"));
    assert!(!lines.is_empty());
    std::fs::remove_dir_all(&directory).expect("to be removed");
}

const CALLEE: &str = "sip:bob@example.com";

/// Two user agents that a proxy rule brings together.
struct Proxied {
    server: Server,
    caller: UdpSocket,
    callee: UdpSocket,
}

impl Proxied {
    fn start(directory: &Path, rule: &str) -> Proxied {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let patience = std::time::Duration::from_secs(20);
            socket.set_read_timeout(Some(patience)).expect("a time-out");
            socket
        };
        let (caller, callee) = (socket(), socket());
        let at = callee.local_addr().expect("an address");
        let setup = keeping_records(directory)
            .flags(&["--shards", "2"])
            .tables(&format!(
                "\n[[route]]\naction = \"proxy\"\nto = [\"sip:{at}\"]\n{rule}"
            ));
        Proxied {
            server: Server::start(&setup),
            caller,
            callee,
        }
    }

    fn request(&self, method: &str, uri: &str, number: u32, call_id: &str) -> Message {
        let own = self.caller.local_addr().expect("an address");
        Message::request(method, uri)
            .with(
                "Via",
                format!("SIP/2.0/UDP {own};branch=z9hG4bK{call_id}{number}"),
            )
            .with("From", "<sip:alice@example.com>;tag=a1")
            .with("To", "<sip:bob@example.com>")
            .with("Call-ID", call_id)
            .with("CSeq", format!("{number} {method}"))
            .with("Max-Forwards", 70)
            .with("Contact", format!("<sip:alice@{own}>"))
    }

    fn next(socket: &UdpSocket, what: impl Fn(&Message) -> bool) -> (Message, SocketAddr) {
        let mut bytes = [0; 8_192];
        loop {
            let (len, from) = socket.recv_from(&mut bytes).expect("a message in time");
            let message = Message::parse(&bytes[..len]).expect("a message");
            if what(&message) {
                return (message, from);
            }
        }
    }

    fn send(socket: &UdpSocket, message: &Message, to: SocketAddr) {
        socket.send_to(&message.to_bytes(), to).expect("it is sent");
    }

    /// The callee answers the next request of this kind; what the caller gets of it.
    fn answers(&self, method: &str, status: u16) -> Message {
        let (request, from) = Self::next(&self.callee, |message| message.is_request(method));
        let own = self.callee.local_addr().expect("an address");
        let mut answer = Message::response(status, "Whatever");
        for name in ["Via", "Record-Route"] {
            for value in request.get_all(name) {
                answer = answer.with(name, value);
            }
        }
        let to = request.text("To").to_owned();
        let to = if to.contains(";tag=") {
            to
        } else {
            format!("{to};tag=b1")
        };
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.3\r\ns=-\r\nc=IN IP4 127.0.0.3\r\nt=0 0\r\nm=audio 7000 RTP/AVP 8\r\n";
        let answer = answer
            .with("From", request.text("From"))
            .with("To", to)
            .with("Call-ID", request.text("Call-ID"))
            .with("CSeq", request.text("CSeq"))
            .with("Contact", format!("<sip:bob@{own}>"));
        Self::send(&self.callee, &answer.with_body("application/sdp", sdp), from);
        Self::next(&self.caller, |message| message.status() == Some(status)).0
    }

    /// A call to its final answer, acknowledged by the way that was recorded, or else directly.
    fn calls(&self, call_id: &str, status: u16) -> Message {
        Self::send(
            &self.caller,
            &self.request("INVITE", CALLEE, 1, call_id),
            self.server.udp,
        );
        let answer = self.answers("INVITE", status);
        let (ack, to) = self.within("ACK", 1, call_id, &answer);
        Self::send(
            &self.caller,
            &ack,
            if status < 300 { to } else { self.server.udp },
        );
        answer
    }

    fn within(&self, method: &str, number: u32, call_id: &str, answer: &Message) -> (Message, SocketAddr) {
        let callee = self.callee.local_addr().expect("an address");
        let mut request = self
            .request(method, &format!("sip:bob@{callee}"), number, call_id)
            .setting("To", answer.text("To"));
        let routes = answer.get_all("Record-Route");
        for route in routes.iter().rev() {
            request = request.with("Route", route);
        }
        let to = if routes.is_empty() {
            callee
        } else {
            self.server.udp
        };
        (request, to)
    }

    fn ends(mut self, directory: &Path) -> Vec<serde_json::Value> {
        self.server.stop();
        let mut lines = lines(directory);
        lines.sort_by_key(|line| line["began"].as_str().map(str::to_owned));
        std::fs::remove_dir_all(directory).expect("to be removed");
        lines
    }
}

#[test]
fn a_proxied_call_leaves_a_line_when_its_bye_has_come_by() {
    let directory = directory("records-proxied");
    let calls = Proxied::start(&directory, "");
    let ok = calls.calls("talked", 200);
    let (bye, to) = calls.within("BYE", 2, "talked", &ok);
    Proxied::send(&calls.caller, &bye.with("Reason", "Q.850;cause=16"), to);
    calls.answers("BYE", 200);
    calls.calls("busy", 486);
    calls.calls("standing", 200);
    let lines = calls.ends(&directory);
    let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("reason"), ["caller_hung_up", "rejected", "shutdown"]);
    assert_eq!(of("status"), [200, 486, 200]);
    assert_eq!(
        of("q850_cause"),
        [serde_json::json!(16), 17.into(), serde_json::Value::Null]
    );
    assert_eq!(of("service"), ["proxy"; 3]);
    assert_eq!(of("extent"), ["whole_call"; 3]);
    let talked = &lines[0];
    assert_eq!(talked["from"], "<sip:alice@example.com>;tag=a1");
    assert_eq!(talked["caller"]["call_id"], talked["callee"]["call_id"]);
    assert_eq!(talked["callee"]["media"], "127.0.0.3:7000");
    assert!(
        talked["talk_ms"].is_u64() && talked["answered"].is_string(),
        "{talked}"
    );
    assert!(lines[1]["answered"].is_null() && lines[1]["talk_ms"].is_null());
}

#[test]
fn a_proxied_call_that_does_not_pass_here_any_more_says_so() {
    let directory = directory("records-unrouted");
    let calls = Proxied::start(&directory, "record_route = false\n");
    let ok = calls.calls("talked", 200);
    assert_eq!(ok.get_all("Record-Route").len(), 0);
    let lines = calls.ends(&directory);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&line["reason"], &line["extent"]),
        (&"answered".into(), &"until_answer".into())
    );
    assert_eq!(line["status"], 200);
    assert!(
        line["answered"].is_string() && line["talk_ms"].is_null(),
        "{line}"
    );
}
