//! The live page, in a real browser without a screen.

use std::process::Command;

use bench_harness::call;
use bench_harness::links::Transport::Tcp;

use crate::admin::http;
use crate::support::{Setup, registered, wait_until};

/// What Chromium makes of the page after some seconds of its own time, and what it said meanwhile.
fn rendered(url: &str) -> (String, String) {
    let profile = std::env::temp_dir().join(format!("ringway-page-{}", std::process::id()));
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--enable-logging=stderr",
            "--v=0",
            "--virtual-time-budget=6000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(url)
        .output()
        .expect("chromium is installed (Debian package chromium)");
    let _ = std::fs::remove_dir_all(profile);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn the_page_shows_live_numbers_and_a_browser_has_nothing_to_complain_of() {
    let setup = Setup::new().key("admin", "listen", "\"127.0.0.1:0\"");
    registered(setup, |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let addr = s.server.logged("admin server", "addr");
        // They are gathered once a second.
        wait_until("busy peers", || {
            http(s, "GET /api/v1/peers HTTP/1.1").1.contains("received_per_s")
        });
        let (page, said) = rendered(&format!("http://{addr}/"));
        let complaints: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        let words = words_of(&page);
        for wanted in ["serving", "Calls now 1", "Registrations 2", "Drops/s 0"] {
            assert!(words.contains(wanted), "{wanted} in\n{words}");
        }
        assert!(
            words.contains("Busiest peers in the last minute Peer In/s Out/s In Out 127.0.0."),
            "{words}"
        );
        assert!(
            words.contains("INVITE") && page.contains("<svg"),
            "charts and kinds: {words}"
        );
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

/// What a reader sees: the text without tags, words set apart by one space.
fn words_of(html: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for char in html.chars() {
        match char {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                text.push(' ');
            }
            _ if !is_tag => text.push(char),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
