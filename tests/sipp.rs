//! SIPp against the real binary: a thousand calls of every kind, with no failed call and no unexpected message.
//!
//! The scenarios in `tests/sipp` are our own. Each test starts a server, registers a thousand callees by SIPp, and lets a
//! SIPp that calls and one that is called play with each other through the server.

// Processes are waited for in real time.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::{Server, Setup};

#[path = "flows/support.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

const CALLS: usize = 1_000;
const CALLS_PER_SECOND: usize = 250;
/// Far more than it takes; a SIPp that waits for what never comes gives up then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two cores don't carry several suites at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// SIPp's name of a transport with one socket for all calls, and what a contact for it says.
#[derive(Clone, Copy)]
enum Over {
    Udp,
    Tcp,
}

impl Over {
    fn flag(self) -> &'static str {
        match self {
            Over::Udp => "u1",
            Over::Tcp => "t1",
        }
    }

    fn contact_params(self) -> &'static str {
        match self {
            Over::Udp => "",
            Over::Tcp => ";transport=tcp",
        }
    }
}

#[test]
fn a_thousand_phones_register_over_udp() {
    play("register-udp", |stage| stage.register(Over::Udp, 5060, Over::Udp));
}

#[test]
fn a_thousand_phones_register_over_tcp() {
    play("register-tcp", |stage| stage.register(Over::Tcp, 5060, Over::Udp));
}

#[test]
fn a_thousand_calls_from_tcp_to_udp() {
    play("tcp-udp", |stage| {
        stage.calls(["caller", "callee"], Over::Tcp, Over::Udp)
    });
}

#[test]
fn a_thousand_calls_from_udp_to_udp() {
    play("udp-udp", |stage| {
        stage.calls(["caller", "callee"], Over::Udp, Over::Udp)
    });
}

#[test]
fn a_thousand_calls_from_tcp_to_tcp() {
    play("tcp-tcp", |stage| {
        stage.calls(["caller", "callee"], Over::Tcp, Over::Tcp)
    });
}

#[test]
fn a_thousand_calls_are_cancelled() {
    play("cancel", |stage| {
        stage.calls(["caller_cancels", "callee_is_cancelled"], Over::Tcp, Over::Udp)
    });
}

#[test]
fn a_thousand_calls_find_busy() {
    play("busy", |stage| {
        stage.calls(["caller_finds_busy", "callee_is_busy"], Over::Udp, Over::Udp)
    });
}

#[test]
fn a_thousand_messages_arrive() {
    play("message", |stage| {
        stage.calls(["sends_message", "takes_message"], Over::Udp, Over::Udp)
    });
}

/// A server, a directory for what SIPp writes, and a thousand pairs of users.
struct Stage {
    server: Server,
    out: PathBuf,
    users: PathBuf,
}

fn play(name: &str, story: impl FnOnce(&Stage)) {
    let version = Command::new("sipp").arg("-v").stdin(Stdio::null()).output();
    assert!(
        version.is_ok(),
        "there is no sipp: install the Debian package sip-tester"
    );
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sipp").join(name);
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).expect("a directory for SIPp");
    let users = out.join("users.csv");
    let mut lines = "SEQUENTIAL\n".to_owned();
    for n in 0..CALLS {
        writeln!(lines, "13800{n:06};13900{n:06};").expect("a String takes everything");
    }
    fs::write(&users, lines).expect("the users are written");
    let stage = Stage {
        server: Server::start(&Setup::of_production()),
        out,
        users,
    };
    story(&stage);
}

impl Stage {
    /// Binds every callee to `contact_port` on this machine, to be reached over `contact`.
    fn register(&self, over: Over, contact_port: u16, contact: Over) {
        let port = contact_port.to_string();
        let keys = [
            "-key",
            "contact_port",
            &port,
            "-key",
            "contact_params",
            contact.contact_params(),
        ];
        self.sipp("register", over, free_port(), &keys).succeeds();
    }

    /// A SIPp that is called, then one that calls it `CALLS` times.
    fn calls(&self, [caller, callee]: [&str; 2], from: Over, to: Over) {
        let callee_port = free_port();
        self.register(Over::Tcp, callee_port, to);
        let called = self.sipp(callee, to, callee_port, &[]);
        called.wait_listening();
        self.sipp(caller, from, free_port(), &[]).succeeds();
        called.succeeds();
    }

    fn sipp(&self, scenario: &str, over: Over, port: u16, more: &[&str]) -> Sipp {
        let server: SocketAddr = match over {
            Over::Udp => self.server.udp,
            Over::Tcp => self.server.tcp,
        };
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp");
        let file = |what: &str| self.out.join(format!("{scenario}.{what}"));
        let screen = File::create(file("screen")).expect("a file for SIPp's screen");
        let seconds = format!("{}s", PATIENCE.as_secs());
        let process = Command::new("sipp")
            .current_dir(&self.out)
            .arg(server.to_string())
            .arg("-sf")
            .arg(scenarios.join(format!("{scenario}.xml")))
            .arg("-inf")
            .arg(&self.users)
            .args([
                "-t",
                over.flag(),
                "-i",
                "127.0.0.1",
                "-bind_local",
                "-p",
                &port.to_string(),
            ])
            .args([
                "-m",
                &CALLS.to_string(),
                "-r",
                &CALLS_PER_SECOND.to_string(),
                "-l",
                &CALLS.to_string(),
            ])
            .args([
                "-timeout",
                &seconds,
                "-timeout_error",
                "-nostdin",
                "-trace_stat",
                "-fd",
                "1",
                "-stf",
            ])
            .arg(file("csv"))
            .args(["-trace_err", "-error_file"])
            .arg(file("errors"))
            .args(more)
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .stderr(screen.try_clone().expect("a second handle"))
            .stdout(screen)
            .spawn()
            .expect("sipp starts");
        Sipp {
            process,
            port,
            scenario: scenario.to_owned(),
            out: self.out.clone(),
        }
    }
}

/// One SIPp process; it ends with its test.
struct Sipp {
    process: Child,
    port: u16,
    scenario: String,
    out: PathBuf,
}

impl Sipp {
    /// Waits until its port is taken, as the kernel's tables show it.
    fn wait_listening(&self) {
        let wanted = format!(":{:04X}", self.port);
        let taken = || {
            let tables =
                ["/proc/net/udp", "/proc/net/tcp"].map(|t| fs::read_to_string(t).unwrap_or_default());
            tables.concat().lines().any(|line| {
                let local = line.split_ascii_whitespace().nth(1);
                local.is_some_and(|local| local.ends_with(&wanted))
            })
        };
        let deadline = Instant::now() + PATIENCE;
        while !taken() {
            assert!(Instant::now() < deadline, "sipp never took port {}", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; every call went as its scenario says and nothing else came.
    fn succeeds(mut self) {
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(10);
        let status = loop {
            match self.process.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() > deadline => self.fails("does not end"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if !status.success() {
            self.fails(&format!("ended with {status}"));
        }
        let statistics = self.file("csv");
        let mut lines = statistics.lines();
        let (Some(names), Some(last)) = (lines.next(), lines.last()) else {
            self.fails("wrote no statistics");
        };
        let mut succeeded = None;
        for (name, value) in names.split(';').zip(last.split(';')) {
            // (C) counts from the beginning, (P) the last period.
            let is_bad = ["Failed", "OutOfCall", "DeadCall"]
                .iter()
                .any(|bad| name.starts_with(bad));
            let wrong = is_bad && name.ends_with("(C)");
            if wrong && value != "0" {
                self.fails(&format!("counted {value} for {name}"));
            }
            if name == "SuccessfulCall(C)" {
                succeeded = value.parse().ok();
            }
        }
        if succeeded != Some(CALLS) {
            self.fails(&format!("counted {succeeded:?} successful calls"));
        }
    }

    fn file(&self, what: &str) -> String {
        let bytes = fs::read(self.out.join(format!("{}.{what}", self.scenario))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn fails(&self, how: &str) -> ! {
        let (errors, screen) = (self.file("errors"), self.file("screen"));
        let errors: String = errors.chars().take(4_000).collect();
        let screen: String = screen
            .chars()
            .rev()
            .take(4_000)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        panic!(
            "sipp {} {how}\n---- errors ----\n{errors}\n---- screen ----\n{screen}",
            self.scenario
        );
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has for UDP or TCP just now. It lies below those that the kernel gives to whoever asks for any, so
/// that it is still free when SIPp takes it; every call gives another.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id() as u16).wrapping_mul(64).wrapping_add(n) % 20_000;
        let addr = ("127.0.0.1", port);
        if UdpSocket::bind(addr).is_ok() && TcpListener::bind(addr).is_ok() {
            return port;
        }
    }
}
