//! What systemd hears: READY, signs of life, STOPPING (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Server, Setup};

/// How long a word may take. Only a broken server needs as long.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_service_manager_hears_when_it_serves_that_it_lives_and_when_it_drains() {
    // A path of a unix socket is short.
    let path = PathBuf::from(format!("/tmp/ringway-notify-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path).expect("a socket for the words");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let setup = Setup::new()
        .env("NOTIFY_SOCKET", &path.to_string_lossy())
        .env("WATCHDOG_USEC", "2000000");
    let mut server = Server::start(&setup);
    let hears = |word: &str| {
        let mut said = [0; 4_096];
        loop {
            let len = manager
                .recv(&mut said)
                .unwrap_or_else(|error| panic!("{word}: {error}"));
            let said = String::from_utf8_lossy(&said[..len]);
            if said.lines().any(|line| line == word) {
                break;
            }
        }
    };
    hears("READY=1");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    server.terminate();
    hears("STOPPING=1");
    server.wait();
    let _ = std::fs::remove_file(&path);
}
