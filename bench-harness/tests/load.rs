//! The load generator against itself: its callers call its callees through its own relay, no server between.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bench_harness::load::plan::{Plan, Scenario};
use bench_harness::load::relay;
use bench_harness::load::run::{Meter, Outcome, run};
use bench_harness::load::search;
use bench_harness::load::stats::{Count, Metric};
use clap::{Args, FromArgMatches};

/// The plan that a command line of options makes.
fn plan(options: &[&str]) -> Plan {
    let command = Plan::augment_args(clap::Command::new("load").no_binary_name(true));
    Plan::from_arg_matches(&command.get_matches_from(options)).unwrap()
}

/// A second of calls through a relay, which loses none.
fn second_of_calls(port: u16, tcp: bool, options: &[&str]) -> Outcome {
    second_of_calls_through(1, port, tcp, options)
}

/// The same through a relay of `threads` for UDP.
fn second_of_calls_through(threads: u32, port: u16, tcp: bool, options: &[&str]) -> Outcome {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let (target, other) = if tcp {
        let (one, two) = (TcpListener::bind(any).unwrap(), TcpListener::bind(any).unwrap());
        let ports = (
            one.local_addr().unwrap().to_string(),
            two.local_addr().unwrap().to_string(),
        );
        thread::spawn(move || relay::tcp(&one, &two, &flag));
        ports
    } else {
        let sockets = relay::sockets(any, threads).unwrap();
        let at = sockets[0].local_addr().unwrap().to_string();
        for socket in sockets {
            let flag = Arc::clone(&stop);
            thread::spawn(move || relay::udp(&socket, port, true, &flag));
        }
        (at.clone(), at)
    };
    let port = port.to_string();
    let mut all = vec![
        "--target",
        &target,
        "--callee-target",
        &other,
        "--port",
        &port,
        "--rate",
        "200",
        "--duration",
        "1",
    ];
    all.extend(["--no-register", "--sleep", "--quiet"]);
    all.extend(options);
    let plan = plan(&all);
    plan.check().unwrap();
    let outcome = run(&plan, Scenario::Call, &Meter::None).unwrap();
    stop.store(true, Ordering::Relaxed);
    outcome
}

fn all_completed(outcome: &Outcome) {
    let stats = &outcome.stats;
    assert_eq!(stats.get(Count::Started), 200);
    assert_eq!(stats.get(Count::Completed), 200);
    assert_eq!(stats.histograms[Metric::To180 as usize].len(), 200);
    assert_eq!(stats.histograms[Metric::To200 as usize].len(), 200);
    assert_eq!(stats.histograms[Metric::Bye as usize].len(), 200);
    assert_eq!(stats.get(Count::UnackedAnswers), 0);
    assert_eq!(stats.get(Count::Unexpected), 0);
}

#[test]
fn a_second_of_calls_between_trunks_completes() {
    let outcome = second_of_calls(26_100, false, &["--calls", "200", "--hold", "20", "--ring", "5"]);
    all_completed(&outcome);
}

#[test]
fn a_relay_of_four_threads_carries_the_same_calls() {
    let options = ["--calls", "200", "--hold", "20", "--ring", "5"];
    all_completed(&second_of_calls_through(4, 26_140, false, &options));
}

#[test]
fn a_second_of_calls_between_phones_of_their_own_addresses_completes() {
    all_completed(&second_of_calls(
        26_110,
        false,
        &["--calls", "200", "--peers", "phones", "--phones", "100"],
    ));
}

#[test]
fn a_second_of_calls_over_streams_completes() {
    all_completed(&second_of_calls(
        26_120,
        true,
        &["--calls", "200", "--transport", "tcp"],
    ));
}

#[test]
fn calls_that_nobody_answers_are_counted_as_lost_and_as_sent_again() {
    // A socket that is bound and never read.
    let silent = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = silent.local_addr().unwrap().to_string();
    let plan = plan(&[
        "--target",
        &target,
        "--port",
        "26130",
        "--rate",
        "100",
        "--duration",
        "1",
        "--calls",
        "10",
        "--t1",
        "10",
        "--timeout",
        "100",
        "--no-register",
        "--sleep",
        "--quiet",
    ]);
    let stats = run(&plan, Scenario::Call, &Meter::None).unwrap().stats;
    assert_eq!(stats.get(Count::Started), 10);
    assert_eq!(stats.get(Count::TimedOutInvite), 10);
    assert_eq!(stats.lost(), 10);
    assert!(stats.get(Count::SentAgain) >= 10);
    assert!(stats.failed());
}

#[test]
fn a_run_ends_before_it_begins_where_nobody_registers_anyone() {
    let silent = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = silent.local_addr().unwrap().to_string();
    let mut options = vec![
        "--target",
        &target,
        "--port",
        "26160",
        "--timeout",
        "100",
        "--t1",
        "10",
    ];
    options.extend([
        "--phones",
        "3000",
        "--threads",
        "2",
        "--duration",
        "30",
        "--quiet",
    ]);
    let error = run(&plan(&options), Scenario::Call, &Meter::None).err();
    let told = error.expect("nothing to run").to_string();
    // The callees of both threads.
    assert!(
        told.contains(&format!("none of 6000 phones could be registered at {target}")),
        "{told}"
    );
}

#[test]
fn what_is_out_of_range_is_refused_before_anything_is_sent() {
    for (option, most) in [
        ("--hold", "3600000"),
        ("--ring", "3600000"),
        ("--timeout", "3600000"),
        ("--t1", "56250"),
    ] {
        assert_eq!(plan(&[option, most]).check(), Ok(()));
        let more = (most.parse::<u64>().unwrap() + 1).to_string();
        for wrong in [&more, "18446744073709551615"] {
            let told = plan(&[option, wrong]).check().expect_err("out of range");
            assert!(told.contains(option), "{told}");
        }
    }
}

#[test]
fn threads_share_out_the_starts_that_are_asked_for() {
    for (threads, calls) in [("1", "7"), ("3", "100"), ("4", "2")] {
        let plan = plan(&["--threads", threads, "--calls", calls]);
        let sum: u64 = (0..plan.threads).map(|it| plan.calls_of_thread(it)).sum();
        assert_eq!(sum.to_string(), calls);
    }
    assert_eq!(plan(&[]).calls_of_thread(0), u64::MAX);
}

#[test]
fn a_search_whose_trials_start_nothing_finds_nothing() {
    let silent = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = silent.local_addr().unwrap().to_string();
    let plan = plan(&["--target", &target, "--port", "26170", "--rate", "20", "--sleep"]);
    for seconds in [0.0, -1.0, f64::NAN] {
        let told = search::find_max(&plan, Scenario::Options, &Meter::None, seconds, &[]).err();
        assert!(told.expect("no time").to_string().contains("seconds of a trial"));
    }
    // A billionth of a second: the first start is its end.
    let found = search::find_max(&plan, Scenario::Options, &Meter::None, 1e-10, &[]).unwrap();
    assert_eq!(found.rate, 0.0);
}

#[test]
fn every_thread_tells_the_log_of_its_seconds() {
    let silent = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = silent.local_addr().unwrap().to_string();
    let path = std::env::temp_dir().join(format!("ringway-load-threads-{}.hlog", std::process::id()));
    let mut options = vec![
        "--target",
        &target,
        "--port",
        "26180",
        "--hlog",
        path.to_str().unwrap(),
    ];
    options.extend([
        "--threads",
        "2",
        "--rate",
        "40",
        "--duration",
        "6",
        "--timeout",
        "50",
    ]);
    options.extend(["--sleep", "--quiet"]);
    let _ = run(&plan(&options), Scenario::Options, &Meter::None).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("Tag=(own-lateness)"));
    // Six seconds of two threads; of one and what is left of the other there are nine at most.
    let count = lines.count();
    assert!(count >= 10, "{count}: {text}");
}

#[test]
fn a_hundred_that_comes_again_is_timed_once() {
    let server = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = server.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut room = [0; 4096];
        while let Ok((length, source)) = server.recv_from(&mut room) {
            let text = String::from_utf8_lossy(&room[..length]);
            let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
            let lines = text
                .lines()
                .filter(|line| copied.iter().any(|it| line.starts_with(it)));
            let lines = lines.map(|line| format!("{line}\r\n")).collect::<String>();
            let trying = format!("SIP/2.0 100 Trying\r\n{lines}Content-Length: 0\r\n\r\n");
            for _ in 0..2 {
                server.send_to(trying.as_bytes(), source).unwrap();
            }
        }
    });
    let mut options = vec!["--target", &target, "--port", "26190", "--calls", "3"];
    options.extend(["--timeout", "300", "--no-register", "--sleep", "--quiet"]);
    let stats = run(&plan(&options), Scenario::Call, &Meter::None).unwrap().stats;
    assert_eq!(stats.histograms[Metric::To100 as usize].len(), 3);
    assert_eq!((stats.lost(), stats.get(Count::ParseFailures)), (3, 0));
}
