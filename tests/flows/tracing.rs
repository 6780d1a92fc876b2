//! What is seen of messages from outside: HEP datagrams to a collector, pcapng files, and `ringway trace`.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bench_harness::call::{self, Call};
use bench_harness::captured;
use bench_harness::links::Transport::Tcp;
use bench_harness::sip::Message;
use ringway::capture::Captured;
use ringway::control::capture::pcapng;
use ringway::wire::Transport;

use crate::support::{Scene, Setup, on_every_server, registered, wait_until};

/// How long a datagram may take. Only a broken server needs as long.
const PATIENCE: Duration = Duration::from_secs(20);
const PASSWORD: &str = "a secret";
const CAPTURE_ID: u32 = 2_001;

/// One message as HEPv3 has it: EEP/HEP specification, revision 36.
struct Hep {
    captured: Captured,
    correlation: String,
    message: Message,
    bytes: Vec<u8>,
}

fn decode(datagram: &[u8]) -> Hep {
    assert_eq!(&datagram[..4], b"HEP3");
    let mut chunks = std::collections::BTreeMap::new();
    let mut rest = &datagram[6..usize::from(u16::from_be_bytes([datagram[4], datagram[5]]))];
    while !rest.is_empty() {
        let len = usize::from(u16::from_be_bytes([rest[4], rest[5]]));
        assert_eq!(&rest[..2], [0, 0], "the vendor of all");
        chunks.insert(u16::from_be_bytes([rest[2], rest[3]]), &rest[6..len]);
        rest = &rest[len..];
    }
    let number = |kind: u16| {
        chunks[&kind]
            .iter()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte))
    };
    let address = |ip: u16, port: u16| {
        let ip: [u8; 4] = chunks[&ip].try_into().expect("an IPv4 address");
        SocketAddr::new(IpAddr::from(Ipv4Addr::from(ip)), number(port) as u16)
    };
    assert_eq!((number(0x01), number(0x0b)), (2, 1), "IPv4, SIP");
    assert_eq!(number(0x0c), u64::from(CAPTURE_ID));
    assert_eq!(chunks[&0x0e], PASSWORD.as_bytes());
    Hep {
        captured: Captured {
            at: ringway::time::Instant::from_nanos((number(0x09) * 1_000_000 + number(0x0a)) * 1_000),
            transport: match number(0x02) {
                17 => Transport::Udp,
                6 => Transport::Tcp,
                other => panic!("protocol {other}"),
            },
            from: address(0x03, 0x07),
            to: address(0x04, 0x08),
        },
        correlation: String::from_utf8(chunks[&0x11].to_vec()).expect("text"),
        message: Message::parse(chunks[&0x0f]).expect("a message"),
        bytes: chunks[&0x0f].to_vec(),
    }
}

fn exporting(collector: &UdpSocket, flags: &[&str]) -> Setup {
    let addr = collector.local_addr().expect("an address");
    Setup::new()
        .flags(flags)
        .key("hep", "collector", &format!("\"udp:{addr}\""))
        .key("hep", "capture_id", &CAPTURE_ID.to_string())
        .key("hep", "password", &format!("{PASSWORD:?}"))
}

fn collector() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}

/// What comes until both sides of the BYE's answer are there.
fn collect_call(collector: &UdpSocket, call_id: &str) -> Vec<Hep> {
    let mut all = Vec::new();
    let mut datagram = vec![0; 65_536];
    let is_bye_ok = |hep: &&Hep| hep.message.status() == Some(200) && hep.message.cseq().1 == "BYE";
    while all.iter().filter(is_bye_ok).count() < 2 {
        let len = collector.recv(&mut datagram).expect("a datagram");
        let hep = decode(&datagram[..len]);
        if hep.correlation == call_id {
            all.push(hep);
        }
    }
    all
}

fn whole_call(s: &mut Scene) -> bench_harness::failure::Outcome<Call> {
    let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
    call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
    Ok(call)
}

on_every_server![a_collector_gets_every_message_of_both_legs];

fn a_collector_gets_every_message_of_both_legs(flags: &[&str]) {
    let collector = collector();
    registered(exporting(&collector, flags), |s| {
        let call = whole_call(s)?;
        let call_id = call.caller.call_id.clone();
        let all = collect_call(&collector, &call_id);
        let (ue1, ue2) = (IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3]));
        let titles = |is_it: &dyn Fn(&Captured) -> bool| {
            let there = all.iter().filter(|hep| is_it(&hep.captured));
            there.map(|hep| hep.message.title()).collect::<Vec<_>>()
        };
        let (heard, said) = (titles(&|c| c.from.ip() == ue1), titles(&|c| c.to.ip() == ue2));
        for method in ["INVITE", "ACK", "BYE"] {
            assert!(heard.iter().any(|title| title == method), "{heard:?}");
            assert!(said.iter().any(|title| title == method), "{said:?}");
        }
        let back = titles(&|c| c.to.ip() == ue1);
        for answer in ["180 Ringing (INVITE)", "200 OK (INVITE)", "200 OK (BYE)"] {
            assert!(back.iter().any(|title| title == answer), "{back:?}");
        }
        tshark_reads_it(&all, s)?;
        Ok(())
    });
}

/// The same messages as a pcapng file: tshark takes them for SIP, and shows where each came from and went.
fn tshark_reads_it(all: &[Hep], s: &mut Scene) -> bench_harness::failure::Outcome {
    let mut file = Vec::new();
    pcapng::put_header(&mut file);
    for hep in all {
        pcapng::put_packet(&mut file, &hep.captured, &hep.bytes);
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "trace-{}-{}.pcapng",
        std::process::id(),
        s.server.udp.port()
    ));
    std::fs::write(&path, &file).expect("the file is written");
    let shown = Command::new("tshark")
        .arg("-r")
        .arg(&path)
        .args(["-T", "fields", "-E", "separator=|"])
        .args(["-e", "_ws.col.Source", "-e", "_ws.col.Destination"])
        .args(["-e", "sip.Method", "-e", "sip.Status-Code", "-e", "sip.Call-ID"])
        .output()
        .expect("tshark is there (Debian package tshark)");
    assert!(
        shown.status.success(),
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    let shown = String::from_utf8(shown.stdout).expect("text");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), all.len(), "{shown}");
    for (line, hep) in lines.iter().zip(all) {
        let status = hep.message.status().map(|status| status.to_string());
        let method = match status {
            Some(_) => String::new(),
            None => hep.message.title(),
        };
        let wanted = format!(
            "{}|{}|{method}|{}|{}",
            hep.captured.from.ip(),
            hep.captured.to.ip(),
            status.unwrap_or_default(),
            hep.message.text("Call-ID")
        );
        assert_eq!(*line, wanted);
    }
    std::fs::remove_file(&path).expect("to be removed");
    Ok(())
}

#[test]
fn a_sample_takes_whole_calls_or_nothing_of_them() {
    let collector = collector();
    collector
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a time-out");
    let setup = exporting(&collector, &[]).key("hep", "sample_percent", "50");
    registered(setup, |s| {
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(whole_call(s)?.caller.call_id.clone());
        }
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        let mut datagram = vec![0; 65_536];
        loop {
            match collector.recv(&mut datagram) {
                Ok(len) => *counts.entry(decode(&datagram[..len]).correlation).or_default() += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let of_calls: Vec<usize> = ids.iter().filter_map(|id| counts.get(id).copied()).collect();
        // 1 of 2^19 runs has all or none.
        assert!(!of_calls.is_empty() && of_calls.len() < ids.len(), "{of_calls:?}");
        assert!(
            of_calls.iter().all(|count| *count >= 14),
            "whole calls: {of_calls:?}"
        );
        Ok(())
    });
}

#[test]
fn nobody_at_the_collector_s_address_is_told_once_and_harms_no_call() {
    let gone = collector();
    let setup = exporting(&gone, &[]);
    drop(gone);
    registered(setup, |s| {
        for _ in 0..3 {
            whole_call(s)?;
        }
        let deadline = Instant::now() + PATIENCE;
        let told = |log: &str| log.matches("messages do not reach the HEP collector").count();
        while told(&s.server.log()) == 0 {
            assert!(Instant::now() < deadline, "{}", s.server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(told(&s.server.log()), 1);
        Ok(())
    });
}

/// Whether a UDP socket is bound to `addr`, by the kernel's table.
fn is_bound(addr: SocketAddr) -> bool {
    let wanted = format!("0100007F:{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/udp").expect("the kernel's table");
    table
        .lines()
        .any(|line| line.split_ascii_whitespace().nth(1) == Some(&wanted))
}

/// The process of this program that has `path` among its arguments.
fn pid_of(program: &str, path: &Path) -> Option<String> {
    let processes = std::fs::read_dir("/proc").expect("the kernel's table").flatten();
    let is_it = |of: &Path| {
        let (first, arguments) = (
            std::fs::read_to_string(of.join("comm")).unwrap_or_default(),
            std::fs::read_to_string(of.join("cmdline")).unwrap_or_default(),
        );
        first.trim() == program && arguments.split('\0').any(|argument| Path::new(argument) == path)
    };
    let found = processes.map(|entry| entry.path()).find(|of| is_it(of))?;
    Some(found.file_name()?.to_string_lossy().into_owned())
}

#[test]
fn sngrep_takes_it_for_its_own() {
    let socket = collector();
    let (addr, setup) = (socket.local_addr().expect("an address"), exporting(&socket, &[]));
    drop(socket);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sngrep-{}.pcap", std::process::id()));
    // It wants a terminal, also where it draws nothing.
    let command = format!("sngrep -F -L udp:{addr} -N -q -O '{}'", path.display());
    let mut sngrep = Command::new("timeout")
        .args(["60", "script", "-qec", &command, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("timeout and script are there");
    wait_until("sngrep (Debian package sngrep) to listen", || is_bound(addr));
    registered(setup, |s| {
        whole_call(s)?;
        Ok(())
    });
    // Both legs. It writes what it has as it gets it.
    let read = || String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
    for line in ["INVITE ", "SIP/2.0 180", "ACK ", "BYE "] {
        wait_until(&format!("both legs' {line:?} in sngrep's file"), || {
            read().matches(line).count() >= 2
        });
    }
    // The tools that it runs under end with it. It need not end well: at times its own end hangs.
    let own = pid_of("sngrep", &path).expect("it runs");
    let ended = Command::new("kill").args(["-KILL", &own]).status();
    assert!(ended.is_ok_and(|status| status.success()));
    sngrep.wait().expect("it ends");
    std::fs::remove_file(&path).expect("to be removed");
}

/// `ringway trace`, from when it says that it has begun.
struct Watching {
    child: Child,
    /// What it says on standard error from then on.
    said: BufReader<ChildStderr>,
}

fn watch(socket: &str, args: &[&str]) -> Watching {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .arg("trace")
        .args(args)
        .args(["--socket", socket])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ringway runs");
    let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says something");
    assert!(line.contains("tracing"), "{line}");
    Watching { child, said }
}

impl Watching {
    /// All that it printed when it has ended by itself.
    fn output(mut self) -> String {
        let mut text = String::new();
        let mut out = self.child.stdout.take().expect("stdout is a pipe");
        out.read_to_string(&mut text).expect("text");
        let mut error = String::new();
        self.said.read_to_string(&mut error).expect("text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success() && error.is_empty(), "{status}: {error}");
        text
    }
}

/// A server that can be asked, at this socket.
fn asked(flags: &[&str]) -> (Setup, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let socket = format!("/tmp/ringway-trace-{}-{number}.sock", std::process::id());
    let setup = Setup::new()
        .flags(flags)
        .key("admin", "socket", &format!("{socket:?}"));
    (setup, socket)
}

on_every_server![a_call_is_watched_and_written_for_wireshark];

fn a_call_is_watched_and_written_for_wireshark(flags: &[&str]) {
    let (setup, socket) = asked(flags);
    let path = PathBuf::from(format!("{socket}.pcapng"));
    registered(setup, |s| {
        let file = path.to_string_lossy().into_owned();
        // INVITE, 100, INVITE, 100?, 180 and 200 on both legs, ACK twice, BYE and its 200 twice: more than these.
        let args = ["--aor", captured::CALLER, "--count", "12", "--write", &file];
        let watching = watch(&socket, &args);
        whole_call(s)?;
        let shown = watching.output();
        let rungs: Vec<&str> = shown.lines().filter(|line| line.contains(" ringway")).collect();
        assert_eq!(rungs.len(), 12, "{shown}");
        // Whichever shards tell of them.
        assert!(rungs.is_sorted_by_key(|rung| rung[..12].to_owned()), "{shown}");
        assert!(
            rungs[0].contains("127.0.0.2:") && rungs[0].contains(" INVITE "),
            "{shown}"
        );
        assert!(
            rungs
                .iter()
                .any(|rung| rung.contains("127.0.0.3:") && rung.contains(" INVITE ")),
            "both legs: {shown}"
        );
        assert!(shown.contains("\n    Call-ID: "), "the messages: {shown}");
        let tshark = Command::new("tshark")
            .args(["-r", &file, "-T", "fields", "-E", "separator=|"])
            .args([
                "-e",
                "_ws.col.Source",
                "-e",
                "sip.Method",
                "-e",
                "sip.Status-Code",
            ])
            .output()
            .expect("tshark is there (Debian package tshark)");
        let read = String::from_utf8_lossy(&tshark.stdout).into_owned();
        assert_eq!(read.lines().count(), 12, "{read}");
        assert_eq!(read.lines().next(), Some("127.0.0.2|INVITE|"), "{read}");
        for line in [
            "127.0.0.1|INVITE|",
            "127.0.0.3||180",
            "127.0.0.1||200",
            "127.0.0.2|ACK|",
        ] {
            assert!(read.lines().any(|there| there == line), "{line}: {read}");
        }
        Ok(())
    });
    std::fs::remove_file(&path).expect("to be removed");
}

#[test]
fn a_trace_is_of_one_call_or_of_one_peer_and_ends_when_nobody_watches() {
    let (setup, socket) = asked(&["--shards", "2"]);
    registered(setup, |s| {
        let other = watch(&socket, &["--peer", "127.0.0.3", "--count", "6", "--ladder"]);
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        let call_id = invite.text("Call-ID").to_owned();
        let one = watch(&socket, &["--call-id", &call_id, "--count", "2", "--json"]);
        whole_call(s)?;
        s.ue1.send(&invite, Tcp)?;
        s.ue1.response(&invite, 100)?;
        let leg_b = s.ue2.expect("INVITE")?;
        for line in one.output().lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["call"], *call_id);
        }
        assert_eq!(other.output().lines().count(), 6);
        s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        crate::support::refused(&mut s.ue1, &invite, 486, Tcp)?;
        // Those that go away make room: more than can go on at a time, one after the other.
        for _ in 0..12 {
            let mut watching = watch(&socket, &["--aor", "nobody"]);
            watching.child.kill().expect("it was there");
            watching.child.wait().expect("it ends");
            wait_until("the trace to end", || {
                let status = Command::new(env!("CARGO_BIN_EXE_ringway"))
                    .args(["trace", "--aor", "nobody", "--count", "0", "--socket", &socket])
                    .output()
                    .expect("ringway runs");
                status.status.success()
            });
        }
        Ok(())
    });
}

#[test]
fn what_can_t_be_traced_is_said() {
    let (setup, socket) = asked(&[]);
    registered(setup, |_| {
        for (args, code, says) in [
            (&["--peer", "phone.example"][..], 1, "no IP address"),
            (
                &["--aor", "alice", "--write", "/nowhere/x.pcapng"][..],
                1,
                "/nowhere/x.pcapng",
            ),
            (&[][..], 2, "required"),
        ] {
            let output = Command::new(env!("CARGO_BIN_EXE_ringway"))
                .arg("trace")
                .args(args)
                .args(["--socket", &socket])
                .output()
                .expect("ringway runs");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{error}");
            assert!(error.contains(says), "{error}");
        }
        Ok(())
    });
}
