//! A server of its own for every test, and two phones beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench_harness::failure::{Failure, Outcome, no_faults};
use bench_harness::ladder::{Ladder, Trace};
use bench_harness::links::{Received, Transport};
use bench_harness::phone::{Account, Phone};
use bench_harness::sip::Message;
use bench_harness::{captured, contract};

/// How long the server may take to start or to stop. Only a broken one needs as long.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

/// Flags and configuration of one server. The timers are small, so that nothing waits long: T1 is 50 ms, a transaction
/// gives up after 3.2 s.
#[derive(Clone)]
pub struct Setup {
    /// A whole file, which says itself where to listen and for which domains.
    file: Option<String>,
    flags: Vec<String>,
    keys: BTreeMap<(String, String), String>,
    tables: String,
    env: Vec<(String, String)>,
    ip: IpAddr,
}

impl Setup {
    /// The defaults, as in production; calls that are still up may take 20 s to end.
    pub fn of_production() -> Setup {
        let setup = Setup {
            file: None,
            flags: Vec::new(),
            keys: BTreeMap::new(),
            tables: String::new(),
            env: Vec::new(),
            ip: Ipv4Addr::LOCALHOST.into(),
        };
        // So many servers at once can't share one admin address; whose test asks for one gives it its own.
        setup
            .key("", "drain_s", "20")
            .key("admin", "listen", "\"\"")
            .key("admin", "socket", "\"\"")
    }

    pub fn new() -> Setup {
        Setup::of_production()
            .key("timers", "t1_ms", "50")
            .key("timers", "t2_ms", "400")
            .key("timers", "t4_ms", "500")
            .key("timers", "timer_d_ms", "3200")
            .key("registrar", "expires_min_s", "1")
            .key("reg_event", "expires_min_s", "1")
    }

    /// A file as somebody wrote it. It may not have an `[admin]` table of its own.
    #[allow(dead_code)] // Not every suite has whole files.
    pub fn of_file(text: &str) -> Setup {
        let mut setup = Setup::of_production();
        // A key without a table would have to come before those of the file.
        setup.keys.retain(|(section, _), _| !section.is_empty());
        setup.file = Some(text.to_owned());
        setup
    }

    /// The domain that its subscribers belong to.
    #[allow(dead_code)]
    pub fn domain(&self) -> String {
        let line = |text: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix("domains = [\""))?;
            Some(value.split_once('"')?.0.to_owned())
        };
        self.file
            .as_deref()
            .and_then(line)
            .unwrap_or_else(|| captured::DOMAIN.to_owned())
    }

    /// What follows all keys in the configuration file: tables such as `[[route]]`.
    pub fn tables(mut self, text: &str) -> Setup {
        self.tables.push_str(text);
        self
    }

    /// One key of the configuration file; `section` is empty for the keys above all sections.
    pub fn key(mut self, section: &str, key: &str, value: &str) -> Setup {
        self.keys
            .insert((section.to_owned(), key.to_owned()), value.to_owned());
        self
    }

    pub fn flags(mut self, flags: &[&str]) -> Setup {
        self.flags.extend(flags.iter().map(|f| (*f).to_owned()));
        self
    }

    /// A variable of the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Server and phones on `::1`.
    pub fn ipv6(mut self) -> Setup {
        self.ip = Ipv6Addr::LOCALHOST.into();
        self
    }

    /// Where to listen and for whom, unless a file says so.
    fn flags_without_file(&self) -> Vec<String> {
        if self.file.is_some() {
            return Vec::new();
        }
        let listen = SocketAddr::new(self.ip, 0).to_string();
        ["--listen", &listen, "--domain", captured::DOMAIN]
            .map(str::to_owned)
            .into()
    }

    /// Flags and values from `RINGWAY_TEST_FLAGS`, without those that this test decides itself.
    fn flags_of_all(&self) -> Vec<String> {
        let all = std::env::var("RINGWAY_TEST_FLAGS").unwrap_or_default();
        let words: Vec<&str> = all.split_ascii_whitespace().collect();
        let pairs = words
            .chunks(2)
            .filter(|pair| !self.flags.iter().any(|f| f == pair[0]));
        pairs.flatten().map(|word| (*word).to_owned()).collect()
    }

    /// Its keys as a file; tables may be added at the end.
    pub fn toml(&self) -> String {
        let mut text = self.file.clone().unwrap_or_default();
        let mut last = "";
        for ((section, key), value) in &self.keys {
            if section != last {
                writeln!(text, "[{section}]").expect("a String takes everything");
                last = section;
            }
            writeln!(text, "{key} = {value}").expect("a String takes everything");
        }
        text.push_str(&self.tables);
        text
    }
}

/// A running `ringway run`.
pub struct Server {
    child: Child,
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    log: Arc<Mutex<String>>,
    config: PathBuf,
    stopped: bool,
}

impl Server {
    pub fn start(setup: &Setup) -> Server {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("flows-{}-{number}.toml", std::process::id()));
        std::fs::write(&config, setup.toml()).expect("the configuration is written");
        let more = setup.flags_of_all();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["run", "-c"])
            .arg(&config)
            .args(setup.flags_without_file())
            .args(&setup.flags)
            .args(more)
            .env("NO_COLOR", "1")
            .envs(setup.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ringway starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let kept = log.clone();
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line = without_colours(&line);
                writeln!(kept.lock().unwrap(), "{line}").expect("a String takes everything");
                // Nobody listens once the server is ready.
                let _ = tell.send(line);
            }
        });
        let mut server = Server {
            child,
            udp: SocketAddr::new(setup.ip, 0),
            tcp: SocketAddr::new(setup.ip, 0),
            log,
            config,
            stopped: false,
        };
        let deadline = Instant::now() + SERVER_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                panic!("ringway never said that it is ready");
            };
            if line.contains("listening") {
                let addr = field(&line, "addr").and_then(|a| a.parse::<SocketAddr>().ok());
                let addr = addr.unwrap_or_else(|| panic!("no address in {line:?}"));
                // Further listeners are their tests' concern.
                if addr.ip() != setup.ip {
                    continue;
                }
                match field(&line, "transport")
                    .unwrap_or_default()
                    .to_lowercase()
                    .as_str()
                {
                    "udp" => server.udp = addr,
                    "tcp" => server.tcp = addr,
                    other => panic!("listening on transport {other:?}: {line:?}"),
                }
            } else if line.split_ascii_whitespace().any(|word| word == "ready") {
                break;
            }
        }
        assert!(
            server.udp.port() > 0 && server.tcp.port() > 0,
            "UDP and TCP are served"
        );
        server
    }

    /// Asks it to stop, as a service manager does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Holds it still while `f` runs: what comes meanwhile, its next turn finds together.
    pub fn while_held<T>(&self, f: impl FnOnce() -> T) -> T {
        self.signal("STOP");
        let result = f();
        self.signal("CONT");
        result
    }

    fn signal(&self, name: &str) {
        // std has no kill(2), and the shell's own needs no package.
        let killed = Command::new("sh")
            .args(["-c", "kill -\"$1\" \"$0\"", &self.child.id().to_string(), name])
            .status();
        assert!(killed.is_ok_and(|s| s.success()), "ringway was still there");
    }

    /// Writes other keys into its file and has it read them; waits until the log says what came of it, and returns that line.
    pub fn reload(&self, setup: &Setup) -> String {
        self.reload_text(&setup.toml())
    }

    /// Writes its file anew, which it does not know yet.
    pub fn write_config(&self, toml: &str) {
        std::fs::write(&self.config, toml).expect("the configuration is written");
    }

    pub fn reload_text(&self, toml: &str) -> String {
        self.write_config(toml);
        let before = self.reloads().len();
        self.signal("HUP");
        let deadline = Instant::now() + SERVER_PATIENCE;
        loop {
            if let Some(line) = self.reloads().get(before) {
                return line.clone();
            }
            assert!(Instant::now() < deadline, "nothing came of SIGHUP");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The lines that say what came of each reload: the last of each has the word by whom.
    fn reloads(&self) -> Vec<String> {
        let log = self.log();
        let ends = log
            .lines()
            .filter(|line| line.contains("reloaded: ") && line.contains("by=\"SIGHUP\""));
        ends.map(str::to_owned).collect()
    }

    /// From now on nobody reads what it prints on stdout.
    pub fn close_stdout(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Waits for its end; returns what it printed on stdout.
    pub fn wait(&mut self) -> String {
        self.stopped = true;
        let deadline = Instant::now() + SERVER_PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = self.child.kill();
                    panic!("ringway did not stop {SERVER_PATIENCE:?} after SIGTERM");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut summary = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut summary).expect("the summary is text");
        }
        assert!(
            status.success(),
            "ringway ended with {status}; it printed:\n{summary}"
        );
        summary
    }

    /// Stops it; it must end well with nothing left over.
    pub fn stop(&mut self) {
        self.terminate();
        let summary = self.wait();
        let clean = summary.lines().any(|line| line.trim() == "leftovers: none");
        assert!(clean, "something is left over:\n{summary}");
    }

    /// The value of `name=value` in a line of the log that holds `words`, once there is one.
    pub fn logged(&self, words: &str, name: &str) -> String {
        let deadline = Instant::now() + SERVER_PATIENCE;
        loop {
            let log = self.log();
            let mut lines = log.lines().filter(|line| line.contains(words));
            if let Some(value) = lines.find_map(|line| field(line, name)) {
                return value.to_owned();
            }
            assert!(Instant::now() < deadline, "{words}: never logged");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

/// Waits for what comes soon or never.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SERVER_PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("---- log of the server ----\n{}", self.log());
        } else if !self.stopped {
            self.stop();
        }
        let _ = std::fs::remove_file(&self.config);
    }
}

/// The value of `name=value` in a log line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"'))
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}

/// A server, two phones that are not registered yet, and everything that they said.
pub struct Scene {
    pub ue1: Phone,
    pub ue2: Phone,
    pub server: Server,
    trace: Trace,
    names: Vec<String>,
    setup: Setup,
}

/// Plays `story` with a server of its own. It fails if the story does, if a phone got something that the story did not ask
/// for, or if the server does not end well.
pub fn scene(setup: Setup, story: impl FnOnce(&mut Scene) -> Outcome) {
    let mut scene = Scene::new(setup);
    if let Err(failure) = story(&mut scene) {
        panic!("{failure}");
    }
    let phones = [&mut scene.ue1, &mut scene.ue2];
    for phone in phones {
        if let Err(failure) = nothing_more(phone) {
            panic!("{failure}");
        }
    }
}

/// The same with both phones registered over TCP, the way the capture shows it.
pub fn registered(setup: Setup, story: impl FnOnce(&mut Scene) -> Outcome) {
    scene(setup, |s| {
        register(&mut s.ue1, Transport::Tcp)?;
        register(&mut s.ue2, Transport::Tcp)?;
        story(s)
    });
}

impl Scene {
    fn new(setup: Setup) -> Scene {
        let server = Server::start(&setup);
        let trace = Trace::default();
        let start = |name: &str, user: &str, number: usize| {
            start_phone(&server, &setup, name, user, number, &trace).expect("a phone starts")
        };
        Scene {
            ue1: start("UE1", captured::CALLER, 0),
            ue2: start("UE2", captured::CALLEE, 1),
            names: vec!["UE1".to_owned(), "UE2".to_owned()],
            server,
            trace,
            setup,
        }
    }

    /// A further phone, with a name and a user of its own.
    pub fn phone(&mut self, name: &str, user: &str) -> Outcome<Phone> {
        let number = self.names.len();
        self.names.push(name.to_owned());
        Ok(start_phone(
            &self.server,
            &self.setup,
            name,
            user,
            number,
            &self.trace,
        )?)
    }
}

fn start_phone(
    server: &Server,
    setup: &Setup,
    name: &str,
    user: &str,
    number: usize,
    trace: &Trace,
) -> std::io::Result<Phone> {
    // Loopback has many IPv4 addresses: one for each phone.
    let ip = match setup.ip {
        IpAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 2 + number as u8).into(),
        IpAddr::V6(ip) => ip.into(),
    };
    let mut account = Account::new(name, user, captured::DOMAIN, ip, server.udp, 1 + number as u64);
    account.server_tcp = server.tcp;
    Phone::start(account, Some((trace.clone(), number)))
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            eprintln!("{}", Ladder::new(&names, false).draw(&self.trace));
            for step in self.trace.steps_from(0).iter().rev().take(6).rev() {
                let phone = names.get(step.phone).unwrap_or(&"?");
                let text = String::from_utf8_lossy(&step.bytes[..step.bytes.len().min(2_000)]);
                eprintln!(
                    "---- {phone} {:?} over {} ----\n{text}",
                    step.direction, step.transport
                );
            }
        }
    }
}

// What many stories begin with ----------------------------------------------------------------------------------------

/// Registers as the capture does: no expiry asked for, one contact without a transport.
pub fn register(phone: &mut Phone, transport: Transport) -> Outcome<Received> {
    let request = captured::register(phone, transport);
    let response = phone.ask_for(&request, transport, 200)?;
    no_faults(contract::register_ok(&request, &response, captured::EXPIRES_S))?;
    Ok(response)
}

/// Registers with that Contact value.
pub fn register_contact(phone: &mut Phone, contact: &str, transport: Transport) -> Outcome<Received> {
    let request = captured::register(phone, transport).setting("Contact", contact);
    phone.ask_for(&request, transport, 200)
}

/// Registers with a contact that is to be reached over the connection that registers it.
pub fn register_for_tcp(phone: &mut Phone) -> Outcome<Received> {
    let contact = format!("<{}>;{}", phone.contact_tcp(), captured::register_features(phone));
    register_contact(phone, &contact, Transport::Tcp)
}

/// The Contacts that the registrar holds, asked for by a REGISTER without any (RFC 3261 §10.2.3).
pub fn bindings(phone: &mut Phone) -> Outcome<Vec<String>> {
    let query = captured::register(phone, Transport::Udp).removing("Contact");
    let response = phone.ask_for(&query, Transport::Udp, 200)?;
    Ok(response
        .elements("Contact")
        .into_iter()
        .map(str::to_owned)
        .collect())
}

/// Waits until the last binding has expired.
pub fn wait_until_offline(phone: &mut Phone) -> Outcome {
    let deadline = Instant::now() + phone.patience;
    while !bindings(phone)?.is_empty() {
        if Instant::now() > deadline {
            return Err(phone.failure("waited for its bindings to expire"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The server has answered everything that came before on this transport, and this phone got nothing more.
pub fn nothing_more(phone: &mut Phone) -> Outcome {
    let extra = phone.leftovers();
    match extra.first() {
        None => Ok(()),
        Some(first) => {
            let titles: Vec<String> = extra.iter().map(|r| r.title()).collect();
            Err(Failure::new(format!(
                "{} got what nobody asked for: {titles:?}\n{}",
                phone.name(),
                first.message
            )))
        }
    }
}

/// Asks the server whether it is there. Its answer comes after whatever it did about what was sent before.
pub fn alive(phone: &mut Phone, transport: Transport) -> Outcome<Received> {
    let options = phone.request("OPTIONS", &phone.registrar(), transport);
    phone.ask_for(&options, transport, 200)
}

/// A final response above 299 to an INVITE is acknowledged in the INVITE's transaction.
pub fn refused(phone: &mut Phone, invite: &Message, status: u16, transport: Transport) -> Outcome<Received> {
    let response = phone.response(invite, status)?;
    let ack = Phone::ack_of(invite, &response);
    phone.send(&ack, transport)?;
    Ok(response)
}

/// Runs a story on one shard, on two and on four, and with the fallbacks for Linux 5.10.
macro_rules! on_every_server {
    ($($story:ident),* $(,)?) => { $(
        mod $story {
            #[test]
            fn on_one_shard() {
                super::$story(&["--shards", "1"]);
            }
            #[test]
            fn on_two_shards() {
                super::$story(&["--shards", "2"]);
            }
            #[test]
            fn on_four_shards() {
                super::$story(&["--shards", "4"]);
            }
            #[test]
            fn with_the_fallbacks_for_linux_5_10() {
                super::$story(&["--kernel-level", "5.10"]);
            }
        }
    )* };
}
pub(crate) use on_every_server;
