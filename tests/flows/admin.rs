//! The running server as those see it who run it: the command line, the HTTP API and the metrics.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::Tcp;
use serde_json::Value;

use crate::support::{Scene, Server, Setup, register, registered, scene, wait_until};

/// A server that can be asked: its own socket and its own port.
pub fn asked_setup() -> (Setup, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // A path of a unix socket is short.
    let socket = format!("/tmp/ringway-admin-{}-{number}.sock", std::process::id());
    let setup = Setup::new().key("admin", "listen", "\"127.0.0.1:0\"").key(
        "admin",
        "socket",
        &format!("\"{socket}\""),
    );
    (setup, socket)
}

pub fn ringway(socket: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(args)
        .args(["--socket", socket])
        .output()
        .expect("ringway runs")
}

/// What a command prints; it must succeed.
pub fn printed(socket: &str, args: &[&str]) -> String {
    let output = ringway(socket, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

pub fn json(socket: &str, args: &[&str]) -> Vec<Value> {
    let args = [args, &["--json"]].concat();
    printed(socket, &args)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{args:?}: {error}: {line}")))
        .collect()
}

/// The status and the body of an answer over HTTP.
pub fn http(s: &Scene, request: &str) -> (u16, String) {
    http_of(&s.server, request)
}

/// What a path holds; it must be there.
pub fn page_over_http(server: &Server, path: &str) -> String {
    let (status, page) = http_of(server, &format!("GET {path} HTTP/1.1"));
    assert_eq!(status, 200, "{path}: {page}");
    page
}

fn http_of(server: &Server, request: &str) -> (u16, String) {
    let addr = server.logged("admin server", "addr");
    let mut stream = TcpStream::connect(&addr).expect("the admin server answers");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time-out");
    write!(stream, "{request}\r\nHost: {addr}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

#[test]
fn a_call_can_be_seen_and_ended_from_the_command_line() {
    let (setup, socket) = asked_setup();
    registered(setup, |s| {
        let call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let status = &json(&socket, &["status"])[0];
        assert_eq!(
            (status["state"].as_str(), status["now"]["calls"].as_u64()),
            (Some("serving"), Some(1))
        );
        let registrations = json(&socket, &["registrations"]);
        assert_eq!(registrations.len(), 2);
        let aor = format!("sip:{}@{}", captured::CALLEE, captured::DOMAIN);
        let of_callee = json(&socket, &["registrations", &aor]);
        assert_eq!(
            (of_callee.len(), of_callee[0]["aor"].as_str()),
            (1, Some(&aor[..]))
        );
        assert_eq!(
            json(&socket, &["registrations", captured::CALLEE]),
            of_callee,
            "the short name"
        );
        assert!(printed(&socket, &["registrations"]).contains(&aor));

        let calls = json(&socket, &["calls"]);
        assert_eq!((calls.len(), calls[0]["state"].as_str()), (1, Some("answered")));
        let legs = calls[0]["legs"].as_array().expect("legs");
        assert_eq!((legs.len(), legs[0]["side"].as_str()), (2, Some("caller")));
        for leg in legs {
            let call_id = leg["call_id"].as_str().expect("a Call-ID");
            assert_eq!(
                json(&socket, &["call", call_id]).len(),
                1,
                "either leg's Call-ID finds it"
            );
        }
        let call_id = legs[0]["call_id"].as_str().expect("a Call-ID").to_owned();
        assert_eq!(
            ringway(&socket, &["hangup", "nobody@nowhere"]).status.code(),
            Some(4)
        );
        printed(&socket, &["hangup", &call_id]);
        for phone in [&mut s.ue1, &mut s.ue2] {
            let bye = phone.expect("BYE")?;
            phone.answers(&bye, 200, "OK")?;
        }
        drop(call);
        assert_eq!(
            ringway(&socket, &["hangup", &call_id]).status.code(),
            Some(4),
            "it is over"
        );

        assert_eq!(json(&socket, &["unregister", &aor])[0]["count"].as_u64(), Some(1));
        assert_eq!(ringway(&socket, &["registrations", &aor]).status.code(), Some(4));
        assert_eq!(json(&socket, &["registrations"]).len(), 1);
        Ok(())
    });
}

#[test]
fn times_counts_and_the_log_can_be_asked_for() {
    let (setup, socket) = asked_setup();
    registered(setup, |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        // They are gathered once a second; the answer is the last that is asked for here to be timed.
        while json(&socket, &["histogram", "answer"])[0]["count"].as_u64() == Some(0) {
            std::thread::sleep(Duration::from_millis(100));
        }
        // Gathered with them.
        let peers = json(&socket, &["peers", "--seconds", "60"]);
        for peer in &peers {
            assert!(
                peer["received"].as_u64() > Some(0) && peer["sent"].as_u64() > Some(0),
                "{peer}"
            );
        }
        let peer = peers[0]["peer"].as_str().expect("an address").to_owned();
        assert!(printed(&socket, &["peers"]).contains(&peer));
        let curve = json(&socket, &["histogram", "invite"]);
        assert_eq!(curve[0]["kind"].as_str(), Some("INVITE"));
        assert!(printed(&socket, &["histogram", "ringing"]).contains("p50"));
        assert!(printed(&socket, &["histogram"]).contains("transaction"));
        assert!(printed(&socket, &["histogram", "answer", "--hlog"]).contains("\nTag=answer,"));
        assert_eq!(ringway(&socket, &["histogram", "invites"]).status.code(), Some(4));

        printed(&socket, &["log", "debug"]);
        seed_options(s)?;
        assert_eq!(s.server.logged("request call_id", "method"), "OPTIONS");
        assert_eq!(ringway(&socket, &["log", "loud"]).status.code(), Some(1));

        let (status, page) = http(s, "GET /metrics HTTP/1.1");
        assert_eq!(status, 200);
        assert!(
            page.contains("ringway_calls_answered_total{shard=\"0\"}"),
            "{page}"
        );
        for (name, least) in [
            ("transactions_begun_total", 4.0),
            ("dialogs_begun_total", 2.0),
            ("subscriptions_begun_total", 0.0),
            ("proxied_requests_begun_total", 0.0),
            ("ring_submissions_total", 1.0),
            ("ring_completions_total", 1.0),
        ] {
            let start = format!("ringway_{name}{{");
            let values = page.lines().filter(|line| line.starts_with(&start));
            let values: Vec<f64> = values
                .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
                .collect();
            assert!(
                !values.is_empty() && values.iter().sum::<f64>() >= least,
                "{name} {values:?}"
            );
        }
        checked_by_promtool(&page);
        dashboard_and_alerts_speak_of_what_there_is(&page);
        assert_eq!(http(s, "GET /readyz HTTP/1.1").0, 200);
        assert_eq!(http(s, "GET /api/v1/nothing HTTP/1.1").0, 404);
        assert_eq!(http(s, "GET /api/v1/histograms/x HTTP/1.1").0, 404);
        assert_eq!(http(s, "DELETE /api/v1/status HTTP/1.1").0, 405);

        let mut slow = TcpStream::connect(s.server.logged("admin server", "addr")).expect("it answers");
        slow.write_all(b"GET /api/v1/st").expect("sent");
        printed(&socket, &["drain"]);
        let summary = s.server.wait();
        assert!(summary.contains("leftovers: none"), "{summary}");
        let row = summary
            .lines()
            .find(|line| line.trim_start().starts_with("INVITE"));
        assert!(
            row.is_some(),
            "what was gathered is on the last page too:\n{summary}"
        );
        assert_eq!(
            ringway(&socket, &["status"]).status.code(),
            Some(3),
            "nobody is there any more"
        );
        Ok(())
    });
}

fn seed_options(s: &mut Scene) -> bench_harness::failure::Outcome {
    let options = s
        .ue1
        .request("OPTIONS", &format!("sip:{}", captured::DOMAIN), Tcp);
    s.ue1.ask_for(&options, Tcp, 200)?;
    Ok(())
}

/// Every metric that the dashboard and the alerts name is one of the page.
pub fn dashboard_and_alerts_speak_of_what_there_is(page: &str) {
    let named_in = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("ringway_"))
            .map(str::to_owned)
            .collect()
    };
    let there = named_in(page);
    for text in [
        include_str!("../../packaging/grafana/ringway.json"),
        include_str!("../../packaging/prometheus/ringway.rules.yml"),
    ] {
        let named = named_in(text);
        assert!(named.len() > 5, "{named:?}");
        let unknown: Vec<_> = named.difference(&there).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn the_alerts_are_rules_of_prometheus_and_fire_when_they_should() {
    for args in [
        ["check", "rules", "ringway.rules.yml"],
        ["test", "rules", "ringway.rules.test.yml"],
    ] {
        let output = Command::new("promtool")
            .args(args)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus"))
            .output()
            .expect("promtool is installed (Debian package prometheus)");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    }
}

/// What Prometheus itself thinks of the page.
pub fn checked_by_promtool(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian package prometheus)");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(page.as_bytes()).expect("taken");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_reload_says_what_came_of_it_and_who_wanted_it() {
    let (setup, socket) = asked_setup();
    registered(setup.clone(), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        assert_eq!(printed(&socket, &["reload"]), "nothing changed\n");
        let changed = setup.clone().key("limits", "calls_max", "64");
        s.server
            .write_config(&changed.key("udp", "segment", "\"off\"").toml());
        let told = &json(&socket, &["reload"])[0];
        let change = |kind: &str| {
            let part = |part: &str| told[kind][0][part].as_str().unwrap_or_default().to_owned();
            (part("key"), part("from"), part("to"))
        };
        let expected = |key: &str, from: &str, to: &str| (key.to_owned(), from.to_owned(), to.to_owned());
        assert_eq!(change("changed"), expected("limits.calls_max", "1_000_000", "64"));
        assert_eq!(change("waiting"), expected("udp.segment", "\"auto\"", "\"off\""));
        let table = printed(&socket, &["reload"]);
        assert!(table.starts_with("at the next start  udp.segment"), "{table}");

        s.server.write_config("[limits]\ncalls_max = \"many\"\n");
        let output = ringway(&socket, &["reload"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(".toml:2:13: limits.calls_max: expected an integer"),
            "{error}"
        );
        let (status, body) = http(s, "POST /api/v1/reload HTTP/1.1\r\nContent-Length: 0");
        assert_eq!(status, 422, "{body}");
        assert_eq!(http(s, "GET /api/v1/reload HTTP/1.1").0, 405);

        let by_whom = |by: &str| {
            let log = s.server.log();
            log.lines()
                .any(|line| line.contains("reloaded: ") && line.contains(by))
        };
        for by in ["by=\"uid ", "by=\"127.0.0.1:"] {
            wait_until(by, || by_whom(by));
        }

        // While it drains nothing is read, and the call in progress keeps it there to say so.
        printed(&socket, &["drain"]);
        s.server.logged("draining", "by");
        let output = ringway(&socket, &["reload"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the server is draining"), "{error}");
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        let summary = s.server.wait();
        assert!(summary.contains("leftovers: none"), "{summary}");
        assert_eq!(ringway(&socket, &["reload"]).status.code(), Some(3));
        Ok(())
    });
}

#[test]
fn who_asks_over_http_must_bear_the_token() {
    let (setup, socket) = asked_setup();
    scene(setup.key("admin", "token", "\"s3cret\""), |s| {
        register(&mut s.ue1, Tcp)?;
        assert_eq!(http(s, "GET /api/v1/status HTTP/1.1").0, 401);
        assert_eq!(
            http(s, "GET /metrics HTTP/1.1\r\nAuthorization: Bearer s3creT").0,
            401
        );
        assert_eq!(
            http(s, "GET /metrics HTTP/1.1\r\nAuthorization: Bearer s3cret").0,
            200
        );
        assert_eq!(http(s, "GET /healthz HTTP/1.1").0, 200, "health tells nothing");
        assert_eq!(
            json(&socket, &["registrations"]).len(),
            1,
            "the socket is its user's alone"
        );
        Ok(())
    });
}

#[test]
fn an_answer_that_no_file_has_room_for_is_a_failure_and_one_that_nobody_reads_is_none() {
    let (setup, socket) = asked_setup();
    let run = |to: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["status", "--socket", &socket])
            .stdout(to)
            .output()
            .expect("ringway runs")
    };
    scene(setup, |_| {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("a device");
        let output = run(full.into());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("can't be written"), "{told}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = run(writer.into());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        Ok(())
    });
}
