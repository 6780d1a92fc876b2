//! SIPp and a server for it to play with.

// Processes are waited for in real time; each suite takes what it needs.
#![allow(clippy::disallowed_methods, dead_code)]

use std::collections::BTreeMap;
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
    /// Stands in scenarios for the domain that they are written for.
    domain: String,
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
        domain: setup.domain(),
        out,
        users,
        calls,
    };
    story(&stage);
}

impl Stage {
    /// Binds every callee to `contact_port` on this machine, to be reached over `contact`.
    pub fn register(&self, over: Over, contact_port: u16, contact: Over) {
        self.part("register")
            .over(over)
            .key("contact_port", &contact_port.to_string())
            .key("contact_params", contact.contact_params())
            .start()
            .succeeds();
    }

    /// A SIPp that is called, then one that calls it.
    pub fn calls(&self, [caller, callee]: [&str; 2], from: Over, to: Over) {
        let callee_port = free_port();
        self.register(Over::Tcp, callee_port, to);
        let called = self.part(callee).over(to).at(callee_port).start();
        called.wait_listening();
        self.part(caller).over(from).start().succeeds();
        called.succeeds();
    }

    /// One of our scenarios: over UDP to the stage's server, from a port of its own, unless something else is said.
    pub fn part(&self, scenario: &str) -> Part<'_> {
        Part {
            stage: self,
            scenario: scenario.to_owned(),
            name: scenario.to_owned(),
            is_built_in: false,
            edits: vec![("one.att.net".to_owned(), self.domain.clone())],
            server: None,
            over: Over::Udp,
            port: None,
            calls: Some(self.calls),
            more: Vec::new(),
        }
    }

    /// One of SIPp's own.
    pub fn built_in(&self, scenario: &str) -> Part<'_> {
        Part {
            is_built_in: true,
            ..self.part(scenario)
        }
    }
}

/// A SIPp that has not started yet.
pub struct Part<'a> {
    stage: &'a Stage,
    scenario: String,
    name: String,
    is_built_in: bool,
    edits: Vec<(String, String)>,
    server: Option<SocketAddr>,
    over: Over,
    port: Option<u16>,
    calls: Option<usize>,
    more: Vec<String>,
}

impl Part<'_> {
    /// Its files are called so: for parts that play one scenario.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// A text of the scenario stands for another.
    pub fn with(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }

    /// The status that the scenario leaves to the test.
    pub fn of_status(self, status: u16) -> Self {
        self.with("STATUS", &status.to_string())
    }

    /// Another server than the stage's.
    pub fn to(mut self, server: SocketAddr) -> Self {
        self.server = Some(server);
        self
    }

    pub fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }

    pub fn at(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub fn calls(mut self, calls: usize) -> Self {
        self.calls = Some(calls);
        self
    }

    /// It takes calls until it is stopped.
    pub fn endless(mut self) -> Self {
        self.calls = None;
        self
    }

    /// So many of its calls at once.
    pub fn at_once(self, calls: usize) -> Self {
        self.more(&["-l", &calls.to_string()])
    }

    /// What `[name]` stands for in the scenario.
    pub fn key(self, name: &str, value: &str) -> Self {
        self.more(&["-key", name, value])
    }

    fn more(mut self, flags: &[&str]) -> Self {
        self.more.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    pub fn start(self) -> Sipp {
        let stage = self.stage;
        let file = |what: &str| stage.out.join(format!("{}.{what}", self.name));
        let mut command = Command::new("sipp");
        let server = self.server.unwrap_or(match self.over {
            Over::Udp => stage.server.udp,
            Over::Tcp => stage.server.tcp,
        });
        command.current_dir(&stage.out).arg(server.to_string());
        if self.is_built_in {
            command.args(["-sn", &self.scenario]);
        } else {
            let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp");
            let source = scenarios.join(format!("{}.xml", self.scenario));
            let mut text = fs::read_to_string(source).expect("the scenario is there");
            for (from, to) in &self.edits {
                text = text.replace(from, to);
            }
            let edited = file("xml");
            fs::write(&edited, text).expect("the scenario is written");
            command.arg("-sf").arg(edited);
        }
        command.arg("-inf").arg(&stage.users);
        let port = self.port.unwrap_or_else(free_port);
        let at = ["-i", "127.0.0.1", "-bind_local", "-p", &port.to_string()];
        command.args(["-t", self.over.flag()]).args(at);
        if let Some(calls) = self.calls {
            command.args(["-m", &calls.to_string()]);
        }
        let rate = CALLS_PER_SECOND.to_string();
        command.args(["-r", &rate, "-l", &stage.calls.to_string()]);
        let seconds = format!("{}s", PATIENCE.as_secs());
        command.args(["-timeout", &seconds, "-timeout_error", "-nostdin"]);
        command.args(["-trace_stat", "-fd", "1", "-stf"]).arg(file("csv"));
        command.args(["-trace_err", "-error_file"]).arg(file("errors"));
        // SIPp goes by the last of two.
        command.args(&self.more);
        let screen = File::create(file("screen")).expect("a file for SIPp's screen");
        let process = command
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .stderr(screen.try_clone().expect("a second handle"))
            .stdout(screen)
            .spawn()
            .expect("sipp starts");
        Sipp {
            process,
            port,
            name: self.name,
            calls: self.calls,
            out: stage.out.clone(),
        }
    }

    /// Starts it and waits until it can be called.
    pub fn listens(self) -> Sipp {
        let sipp = self.start();
        sipp.wait_listening();
        sipp
    }
}

/// One SIPp process; it ends with its test.
pub struct Sipp {
    process: Child,
    port: u16,
    name: String,
    /// How many it makes or takes, where that is known.
    calls: Option<usize>,
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
    pub fn succeeds(self) {
        self.ends();
    }

    /// Asks it to end once no call is up, which must all have gone well; what it counted.
    pub fn stop(self) -> Counted {
        let killed = Command::new("sh")
            .args(["-c", "kill -USR1 \"$0\"", &self.process.id().to_string()])
            .status();
        assert!(killed.is_ok_and(|s| s.success()), "sipp was still there");
        self.ends()
    }

    /// The same at the end that it comes to by itself.
    pub fn ends(mut self) -> Counted {
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
        let counted = Counted {
            by_name: names
                .split(';')
                .zip(last.split(';'))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        for (name, value) in &counted.by_name {
            // (C) counts from the beginning, (P) the last period.
            let is_bad = ["Failed", "OutOfCall", "DeadCall"]
                .iter()
                .any(|bad| name.starts_with(bad));
            let wrong = is_bad && name.ends_with("(C)");
            if wrong && value != "0" {
                self.fails(&format!("counted {value} for {name}"));
            }
        }
        let succeeded = counted.get("SuccessfulCall(C)");
        if self.calls.is_some_and(|calls| calls != succeeded) {
            self.fails(&format!("counted {succeeded} successful calls"));
        }
        counted
    }

    fn file(&self, what: &str) -> String {
        let bytes = fs::read(self.out.join(format!("{}.{what}", self.name))).unwrap_or_default();
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
            self.name
        );
    }
}

/// What a SIPp counted from its beginning to its end.
pub struct Counted {
    by_name: BTreeMap<String, String>,
}

impl Counted {
    /// A column of its statistics.
    fn get(&self, name: &str) -> usize {
        let value = self.by_name.get(name).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("sipp counts no {name}: {:?}", self.by_name.keys()))
    }

    /// Messages at which the scenario says `counter="NUMBER"`.
    pub fn counter(&self, number: u8) -> usize {
        self.get(&format!("GenericCounter{number}(C)"))
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
