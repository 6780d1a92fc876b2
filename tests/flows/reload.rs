//! SIGHUP: the file is read again, a good one takes effect, a bad one changes nothing, and no call or registration ends by it.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::{Tcp, Udp};

use crate::support::{Server, Setup, alive, bindings, on_every_server, refused, registered};

on_every_server![calls_and_registrations_outlast_reloads];

fn calls_and_registrations_outlast_reloads(flags: &[&str]) {
    let setup = Setup::new().flags(flags);
    registered(setup.clone(), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let told =
            s.server
                .reload(&setup.clone().key("limits", "calls_max", "64").key(
                    "limits",
                    "body_bytes_max",
                    "500",
                ));
        assert!(told.contains("2 changes"), "{told}");
        // What is new goes by it, on whichever shard: the first body has 1,466 bytes.
        for _ in 0..8 {
            let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
            s.ue1.send(&invite, Udp)?;
            refused(&mut s.ue1, &invite, 413, Udp)?;
        }
        // A bad file changes nothing, and says where and why.
        let told = s
            .server
            .reload_text("domains = [\"one.att.net\"]\n[limits]\ncalls_max = \"many\"\n");
        assert!(told.contains("not reloaded"), "{told}");
        let log = s.server.log();
        assert!(
            log.lines()
                .any(|line| line.contains(".toml:3:13: limits.calls_max: expected an integer")),
            "{log}"
        );
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        s.ue1.send(&invite, Udp)?;
        refused(&mut s.ue1, &invite, 413, Udp)?;
        // And back: the call goes on, and its end is as ever.
        let told = s.server.reload(&setup);
        assert!(told.contains("2 changes"), "{told}");
        let info = s.ue2.request_in(&mut call.callee, "INFO");
        call::exchange(&mut s.ue2, &mut s.ue1, info, Udp, (200, "OK"))?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        assert_eq!(bindings(&mut s.ue2)?.len(), 1);
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        Ok(())
    });
}

#[test]
fn routes_change_while_it_serves_and_what_waits_for_a_restart_is_named() {
    let setup = Setup::new();
    registered(setup.clone(), |s| {
        alive(&mut s.ue1, Udp)?;
        let toml =
            "[udp]\nsteering = \"off\"\n[[route]]\nmethod = [\"OPTIONS\"]\naction = \"reject\"\ncode = 488\n";
        let told = s.server.reload_text(&(setup.toml() + toml));
        assert!(told.contains("1 more at the next start"), "{told}");
        let log = s.server.log();
        assert!(
            log.lines()
                .any(|line| line.contains("changes at the next start") && line.contains("udp.steering")),
            "{log}"
        );
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Udp);
        s.ue1.ask_for(&options, Udp, 488)?;
        s.server.reload(&setup);
        alive(&mut s.ue1, Udp)?;
        Ok(())
    });
}

/// Whoever reads the file again keeps off the CPUs of the shards by then.
#[test]
fn cpus_of_shards_are_no_change_and_no_mistake() {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let cpus = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = cpus.and_then(|list| list.trim().split([',', '-']).next());
    let first = first.expect("a CPU to run on");
    for flags in [&["--shards", "1"][..], &["--shards", "1", "--cpus", first]] {
        let setup = Setup::new().flags(flags);
        registered(setup.clone(), |s| {
            let told = s.server.reload(&setup);
            assert!(told.contains("reloaded: nothing changed"), "{told}");
            assert!(!told.contains("next start"), "{told}");
            Ok(())
        });
    }
}

#[test]
fn the_log_level_changes_while_it_serves() {
    let setup = Setup::new();
    registered(setup.clone(), |s| {
        let is_told = |log: &str| log.lines().any(|line| line.contains("DEBUG"));
        alive(&mut s.ue1, Udp)?;
        assert!(!is_told(&s.server.log()));
        s.server.reload(&setup.clone().key("log", "level", "\"debug\""));
        let invite = captured::invite(&mut s.ue1, "13800011199", Udp);
        s.ue1.send(&invite, Udp)?;
        refused(&mut s.ue1, &invite, 404, Udp)?;
        // What was told before this reload stands before its line.
        s.server.reload(&setup);
        assert!(is_told(&s.server.log()), "{}", s.server.log());
        Ok(())
    });
}

#[test]
fn the_service_manager_hears_of_a_reload_and_of_its_end() {
    // A path of a unix socket is short.
    let path = PathBuf::from(format!("/tmp/ringway-reload-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path).expect("a socket for the words");
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time-out");
    let setup = Setup::new().env("NOTIFY_SOCKET", &path.to_string_lossy());
    let mut server = Server::start(&setup);
    let hears = |words: &[&str]| {
        let mut said = [0; 4_096];
        let len = manager
            .recv(&mut said)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let said = String::from_utf8_lossy(&said[..len]).into_owned();
        for word in words {
            assert!(
                said.lines().any(|line| line.starts_with(word)),
                "{word} in {said}"
            );
        }
    };
    hears(&["READY=1"]);
    server.reload(&setup);
    // Newer managers tell an answer to a reload of theirs by its time.
    hears(&["RELOADING=1", "MONOTONIC_USEC="]);
    hears(&["READY=1", "STATUS=serving; reloaded: nothing changed"]);
    server.reload_text("nonsense");
    hears(&["RELOADING=1", "MONOTONIC_USEC="]);
    hears(&["READY=1", "STATUS=serving; not reloaded"]);
    server.stop();
    let _ = std::fs::remove_file(&path);
}
