//! SIPp and a server for it to play with.

// Processes are waited for in real time; each suite takes what it needs.
#![allow(clippy::disallowed_methods, dead_code)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::{Server, Setup};

const CALLS_PER_SECOND: usize = 250;
/// Far more than it takes; a SIPp that waits for what never comes gives up then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two cores don't carry several suites at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// SIPp's name of a transport with one socket for all calls, and what a contact for it says.
#[derive(Clone, Copy)]
pub enum Over {
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

/// A server, a directory for what SIPp writes, and a pair of users for each call.
pub struct Stage {
    pub server: Server,
    out: PathBuf,
    users: PathBuf,
    calls: usize,
}

/// Plays one story, whose every SIPp makes or takes so many calls.
pub fn play(name: &str, setup: &Setup, calls: usize, story: impl FnOnce(&Stage)) {
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
    for n in 0..calls {
        writeln!(lines, "13800{n:06};13900{n:06};").expect("a String takes everything");
    }
    fs::write(&users, lines).expect("the users are written");
    let stage = Stage {
        server: Server::start(setup),
        out,
        users,
        calls,
    };
    story(&stage);
}

impl Stage {
    /// Binds every callee to `contact_port` on this machine, to be reached over `contact`.
    pub fn register(&self, over: Over, contact_port: u16, contact: Over) {
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

    /// A SIPp that is called, then one that calls it.
    pub fn calls(&self, [caller, callee]: [&str; 2], from: Over, to: Over) {
        let callee_port = free_port();
        self.register(Over::Tcp, callee_port, to);
        let called = self.sipp(callee, to, callee_port, &[]);
        called.wait_listening();
        self.sipp(caller, from, free_port(), &[]).succeeds();
        called.succeeds();
    }

    pub fn sipp(&self, scenario: &str, over: Over, port: u16, more: &[&str]) -> Sipp {
        let server: SocketAddr = match over {
            Over::Udp => self.server.udp,
            Over::Tcp => self.server.tcp,
        };
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp");
        let path = scenarios.join(format!("{scenario}.xml"));
        self.sipp_with(
            server,
            scenario,
            ["-sf".as_ref(), path.as_ref()],
            over,
            port,
            more,
        )
    }

    /// The same with the status that the scenario leaves to the test, over UDP.
    pub fn sipp_of_status(&self, server: SocketAddr, scenario: &str, status: u16, port: u16) -> Sipp {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sipp/{scenario}.xml"));
        let text = fs::read_to_string(source).expect("the scenario is there");
        let path = self.out.join(format!("{scenario}.xml"));
        // The first is in its comment.
        fs::write(&path, text.replace("STATUS", &status.to_string())).expect("the scenario is written");
        self.sipp_with(
            server,
            scenario,
            ["-sf".as_ref(), path.as_ref()],
            Over::Udp,
            port,
            &[],
        )
    }

    /// One of SIPp's own scenarios, over UDP.
    pub fn sipp_built_in(&self, scenario: &str, port: u16) -> Sipp {
        let built_in = ["-sn".as_ref(), scenario.as_ref()];
        self.sipp_with(self.server.udp, scenario, built_in, Over::Udp, port, &[])
    }

    pub fn sipp_with(
        &self,
        server: SocketAddr,
        scenario: &str,
        source: [&OsStr; 2],
        over: Over,
        port: u16,
        more: &[&str],
    ) -> Sipp {
        let file = |what: &str| self.out.join(format!("{scenario}.{what}"));
        let screen = File::create(file("screen")).expect("a file for SIPp's screen");
        let seconds = format!("{}s", PATIENCE.as_secs());
        let process = Command::new("sipp")
            .current_dir(&self.out)
            .arg(server.to_string())
            .args(source)
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
                &self.calls.to_string(),
                "-r",
                &CALLS_PER_SECOND.to_string(),
                "-l",
                &self.calls.to_string(),
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
            calls: self.calls,
            out: self.out.clone(),
        }
    }
}

/// One SIPp process; it ends with its test.
pub struct Sipp {
    process: Child,
    port: u16,
    scenario: String,
    calls: usize,
    out: PathBuf,
}

impl Sipp {
    /// Waits until its port is taken, as the kernel's tables show it.
    pub fn wait_listening(&self) {
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
    pub fn succeeds(mut self) {
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
        if succeeded != Some(self.calls) {
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
pub fn free_port() -> u16 {
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
