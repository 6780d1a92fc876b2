//! What an operator reads in the log.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::Udp;

use crate::support::{Setup, refused, registered, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_log_begins_with_the_whole_configuration_and_tells_a_limit_that_was_reached() {
    let setup = Setup::new()
        .flags(&["--shards", "1"])
        .key("limits", "calls_max", "1");
    registered(setup, |s| {
        let log = s.server.log();
        let start = log
            .lines()
            .find(|line| line.contains("starting"))
            .expect("a line at the start");
        for part in ["shards=1", "limits.calls_max=1", "registrar.expires_min_s="] {
            assert!(start.contains(part), "{part} in {start}");
        }
        assert!(!log.contains("a limit was reached"), "{log}");
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Udp)?;
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        s.ue1.send(&invite, Udp)?;
        refused(&mut s.ue1, &invite, 503, Udp)?;
        let until = Instant::now() + PATIENCE;
        while !s
            .server
            .log()
            .lines()
            .any(|line| line.contains("a limit was reached") && line.contains("limits.calls_max"))
        {
            assert!(Instant::now() < until, "{}", s.server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

/// What the log begins with when standard error is a file and `JOURNAL_STREAM` says `stream` of that file's device and inode.
fn begins(name: &str, stream: impl Fn(u64, u64) -> String) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.log", std::process::id()));
    let file = File::create(&path).expect("a file");
    let metadata = file.metadata().expect("of a file");
    let config = path.with_extension("toml");
    std::fs::write(&config, "[admin]\nlisten = \"\"\nsocket = \"\"\n").expect("it is written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(["run", "--listen", "127.0.0.1:0", "--shards", "1", "-c"])
        .arg(&config)
        .env("JOURNAL_STREAM", stream(metadata.dev(), metadata.ino()))
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .expect("ringway starts");
    let text = || std::fs::read_to_string(&path).expect("text");
    wait_until("it is ready", || {
        text().lines().any(|line| line.ends_with(" ready"))
    });
    let killed = Command::new("sh")
        .args(["-c", "kill \"$0\"", &child.id().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let _ = child.wait();
    let text = text();
    for path in [path, config] {
        std::fs::remove_file(path).expect("to be removed");
    }
    text
}

#[test]
fn lines_to_the_journal_bear_their_priority_and_leave_the_time_to_it() {
    let text = begins("journal", |device, inode| format!("{device}:{inode}"));
    let ready = text
        .lines()
        .find(|line| line.ends_with(" ready"))
        .expect("it is there");
    assert!(ready.starts_with("<6> INFO ringway::"), "{ready}");
    assert!(text.lines().all(|line| line.starts_with('<')), "{text}");
    // Standard error may have been sent elsewhere than where the service manager had it lead.
    let text = begins("no-journal", |device, inode| format!("{device}:{}", inode + 1));
    let ready = text
        .lines()
        .find(|line| line.ends_with(" ready"))
        .expect("it is there");
    assert!(ready.starts_with("20") && ready.contains("Z "), "{ready}");
}
