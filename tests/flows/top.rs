//! `ringway top` on a terminal: `script` makes one, and what is written to it is read as a terminal does.

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::Tcp;
use ringway::ask::top::Screen;

use crate::admin::{asked_setup, json, printed, ringway};
use crate::support::{registered, wait_until};

const ROWS: NonZero<u16> = NonZero::new(45).expect("it is 45");
const COLUMNS: NonZero<u16> = NonZero::new(150).expect("it is 150");

/// `ringway top` with a terminal of its own.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
    files: PathBuf,
}

impl Terminal {
    fn open(socket: &str) -> Terminal {
        let program = env!("CARGO_BIN_EXE_ringway");
        let command = format!("{program} top --socket {socket} --interval 0.2");
        Terminal::of(&command, PathBuf::from(format!("{socket}.terminal")))
    }

    /// A terminal on which `command` runs. What is to be known of both is put into files of the directory `files`.
    fn of(command: &str, files: PathBuf) -> Terminal {
        std::fs::create_dir_all(&files).expect("a directory");
        let path = files.display();
        let shell = format!(
            "stty rows {ROWS} cols {COLUMNS}; stty -a >{path}/before; \
             sh -c 'echo $$ >{path}/pid; exec {command}'; code=$?; \
             stty -a >{path}/after; exit $code"
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &shell, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script is installed (Debian package bsdutils)");
        let keys = script.stdin.take().expect("a pipe");
        let mut output = script.stdout.take().expect("a pipe");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let drawn = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(len @ 1..) = output.read(&mut bytes) {
                drawn
                    .lock()
                    .expect("nobody panics with it")
                    .process(&bytes[..len]);
            }
        });
        Terminal {
            script,
            keys,
            screen,
            reader: Some(reader),
            files,
        }
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).expect("it is there");
        self.keys.flush().expect("it is there");
    }

    fn is_taken(&self) -> bool {
        let screen = self.screen.lock().expect("nobody panics with it");
        screen.screen().alternate_screen()
    }

    /// What stands on the screen, words set apart by one space.
    fn words(&self) -> String {
        let screen = self.screen.lock().expect("nobody panics with it");
        let contents = screen.screen().contents();
        contents.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn shows(&self, wanted: &str) {
        wait_until(&format!("{wanted:?} on the screen"), || {
            self.words().contains(wanted)
        });
    }

    fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.files.join("pid")).expect("it has begun");
        pid.trim().to_owned()
    }

    /// Its exit code. The terminal must be as it was.
    fn end(self) -> Option<i32> {
        self.end_showing("")
    }

    /// Its exit code. The terminal must be as it was, with `wanted` on it.
    fn end_showing(mut self, wanted: &str) -> Option<i32> {
        let status = self.script.wait().expect("a child can be waited for");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it reads to the end");
        }
        let words = self.words();
        assert!(words.contains(wanted), "{words}");
        let screen = self.screen.lock().expect("nobody panics with it");
        let screen = screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor());
        let modes = |name: &str| std::fs::read_to_string(self.files.join(name)).expect("stty was there");
        assert_eq!(modes("after"), modes("before"));
        let _ = std::fs::remove_dir_all(&self.files);
        status.code()
    }
}

#[test]
fn a_screen_shows_live_numbers_survives_the_server_and_gives_the_terminal_back() {
    let (setup, socket) = asked_setup();
    registered(setup, |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let mut terminal = Terminal::open(&socket);
        terminal.shows("ringway serving");
        terminal.shows("Calls 1 ");
        terminal.shows("Registrations 2 ");
        // A little load, until it is seen.
        let mut asked = 0;
        let mut peer = String::new();
        wait_until("busy peers", || {
            let peers = json(&socket, &["peers", "--seconds", "60"]);
            peer = peers.first().map_or(String::new(), |first| {
                first["peer"].as_str().unwrap_or_default().to_owned()
            });
            !peer.is_empty()
        });
        let is_loaded = |words: &str| {
            words.contains("OPTIONS") && words.contains(&format!("{peer} ")) && !words.contains(" In/s 0 ")
        };
        while !is_loaded(&terminal.words()) {
            let options = s
                .ue1
                .request("OPTIONS", &format!("sip:{}", captured::DOMAIN), Tcp);
            s.ue1.ask_for(&options, Tcp, 200)?;
            asked += 1;
            assert!(asked < 5_000, "{}", terminal.words());
        }
        terminal.press("t");
        terminal.shows("Times since the start");
        terminal.shows("INVITE 1 ");
        terminal.press("p");
        terminal.shows("paused");
        terminal.press("p");
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        terminal.shows("Calls 0 ");
        printed(&socket, &["drain"]);
        s.server.wait();
        terminal.shows("no server answers");
        terminal.press("q");
        assert_eq!(terminal.end(), Some(0));
        Ok(())
    });
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let (setup, socket) = asked_setup();
    registered(setup, |_| {
        for signal in ["-TERM", "-HUP"] {
            let terminal = Terminal::open(&socket);
            terminal.shows("ringway serving");
            let sent = Command::new("kill").args([signal, &terminal.pid()]).status();
            assert!(sent.expect("kill runs").success());
            assert_eq!(terminal.end(), Some(0), "{signal}");
        }
        let mut terminal = Terminal::open(&socket);
        terminal.shows("ringway serving");
        terminal.press("\u{3}");
        assert_eq!(terminal.end(), Some(0), "Ctrl-C");
        Ok(())
    });
}

const DEFECT: &str = "a defect that nobody knew of";

/// What `ringway top` does with its terminal when it panics; in a process of its own, on the terminal of the next test.
#[test]
#[ignore = "it panics, and is run by a_panic_gives_the_terminal_back_and_can_be_read"]
fn panics_with_the_screen_in_hand() {
    let screen = Screen::take().expect("there is a terminal");
    // A release build ends where it panics: nothing is dropped on the way.
    std::mem::forget(screen);
    // One key, without a line end: the terminal is raw.
    std::io::stdin().read_exact(&mut [0; 1]).expect("a key");
    panic!("{DEFECT}");
}

#[test]
fn a_panic_gives_the_terminal_back_and_can_be_read() {
    let tests = std::env::current_exe().expect("these tests are a program");
    let command = format!(
        "{} --ignored --exact --nocapture top::panics_with_the_screen_in_hand",
        tests.display()
    );
    let files = std::env::temp_dir().join(format!("ringway-panic-{}.terminal", std::process::id()));
    let mut terminal = Terminal::of(&command, files);
    wait_until("the screen is taken", || terminal.is_taken());
    terminal.press("x");
    // What it panicked with stands where it can be read once the screen is gone. 101: as Rust's programs end by a panic.
    assert_eq!(terminal.end_showing(DEFECT), Some(101));
}

#[test]
fn without_a_terminal_it_prints_one_screen_or_json_and_says_what_it_lacks() {
    let (setup, socket) = asked_setup();
    registered(setup, |s| {
        let screen = printed(&socket, &["top", "--once", "--interval", "0.3"]);
        for wanted in [
            "ringway serving",
            "Calls",
            "Shards",
            "Busiest peers",
            "Drops by reason",
        ] {
            assert!(screen.contains(wanted), "{wanted} in\n{screen}");
        }
        assert!(!screen.contains('\u{1b}'), "text alone");
        let lines = json(&socket, &["top", "--once", "--interval", "0.3"]);
        assert_eq!(lines.len(), 1);
        let figures = &lines[0];
        assert_eq!(
            (
                figures["now"]["registrations"].as_u64(),
                figures["rates"]["calls"].as_f64()
            ),
            (Some(2), Some(0.0))
        );
        assert!(
            figures["shards"]
                .as_array()
                .is_some_and(|shards| !shards.is_empty())
        );

        let refused = ringway(&socket, &["top"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--once"));
        assert_eq!(
            ringway(&socket, &["top", "--interval", "0"]).status.code(),
            Some(2)
        );

        let mut lines = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["top", "--json", "--interval", "0.1", "--socket", &socket])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ringway runs");
        let mut first = [0; 1];
        let mut printed = lines.stdout.take().expect("a pipe");
        printed.read_exact(&mut first).expect("it has begun");
        s.server.stop();
        let mut rest = String::new();
        printed.read_to_string(&mut rest).expect("text");
        let ended = lines.wait_with_output().expect("it ends with the server");
        assert_eq!(ended.status.code(), Some(3), "{rest}");
        assert_eq!(
            ringway(&socket, &["top", "--once"]).status.code(),
            Some(3),
            "nobody is there any more"
        );
        Ok(())
    });
}
