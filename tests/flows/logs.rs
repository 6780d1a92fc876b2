//! What an operator reads in the log.

use std::time::{Duration, Instant};

use bench_harness::call;
use bench_harness::links::Transport::Udp;
use bench_harness::seed;

use crate::support::{Setup, refused, registered};

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
        let invite = seed::invite(&mut s.ue1, seed::CALLEE, Udp);
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
