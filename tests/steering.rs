//! Shards of a whole server, and which of them the kernel brings a datagram to. What comes from one address belongs to all
//! shards; steered, none of it travels by mail.
//!
//! Steering needs CAP_BPF: without it these tests say so and are skipped. The program itself is tested in `src/io/steer.rs`.

use std::io::Write;
use std::net::SocketAddr;

use bench_harness::call::{hang_up, place};
use bench_harness::captured;
use bench_harness::links::Transport::Udp;
use bench_harness::phone::{Account, Phone};
use ringway::config::{Config, Listener, Steering};
use ringway::io::probe::Feature;
use ringway::metrics::Metrics;
use ringway::run::Server;
use ringway::wire::Transport;

const SHARDS: usize = 4;

/// `None`, with a word, where the kernel does not steer.
fn start(steering: Steering) -> Option<Server> {
    let addr: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut cfg = Config {
        listeners: [Transport::Udp, Transport::Tcp]
            .map(|transport| Listener {
                transport,
                addr,
                advertised: addr.to_string(),
                state: ringway::config::ListenerState::Open,
            })
            .into(),
        domains: vec![captured::DOMAIN.to_owned()],
        shards: SHARDS,
        ..Config::default()
    };
    cfg.udp.steering = steering;
    let server = Server::start(cfg).expect("a server");
    if steering == Steering::Off || server.features.has(Feature::ReuseportEbpf) {
        return Some(server);
    }
    // Past the test harness, which keeps what a passing test prints to itself.
    writeln!(
        std::io::stderr(),
        "skipped: no permission to load an eBPF program"
    )
    .expect("standard error");
    server.stop().expect("it stops");
    None
}

fn phone(server: &Server, name: &str, user: &str, number: u8) -> Phone {
    let udp = server.listening()[0].addr;
    let ip = [127, 0, 0, number].into();
    let account = Account::new(name, user, captured::DOMAIN, ip, udp, number.into());
    Phone::start(account, None).expect("a phone")
}

fn each(server: &Server, pick: impl Fn(&Metrics) -> u64) -> Vec<u64> {
    server.metrics.iter().map(|metrics| pick(metrics)).collect()
}

fn stop(server: Server) {
    let report = server.stop().expect("it stops");
    assert!(report.leftovers.is_none(), "{:?}", report.leftovers);
}

/// Sends OPTIONS with a Call-ID each from one address; gives how many datagrams came to each shard, and how many went on by mail.
fn ask_options(steering: Steering, count: u64) -> Option<(Vec<u64>, u64)> {
    let server = start(steering)?;
    let mut phone = phone(&server, "UE1", captured::CALLER, 2);
    for _ in 0..count {
        let options = phone.request("OPTIONS", &phone.registrar(), Udp);
        phone.ask_for(&options, Udp, 200).expect("an answer");
    }
    let came = each(&server, |metrics| metrics.datagrams_in.get());
    let mailed = each(&server, |metrics| metrics.mailbox_sent.get()).iter().sum();
    stop(server);
    Some((came, mailed))
}

#[test]
fn requests_from_one_address_come_to_their_owners_without_mail() {
    let Some((came, mailed)) = ask_options(Steering::Auto, 200) else {
        return;
    };
    assert_eq!((came.iter().sum::<u64>(), mailed), (200, 0), "{came:?}");
    // Under the worst of keys some 20 of the 50 expected: 5 standard deviations.
    assert!(came.iter().all(|&count| count > 20), "{came:?}");
}

#[test]
fn unsteered_they_come_to_one_shard_and_go_on_by_mail() {
    let Some((came, mailed)) = ask_options(Steering::Off, 200) else {
        return;
    };
    assert!(came.contains(&200), "{came:?}");
    assert!((100..200).contains(&mailed), "{mailed}");
}

#[test]
fn of_a_call_nothing_goes_by_mail_but_the_question_who_the_callee_is() {
    const CALLS: u64 = 40;
    let Some(server) = start(Steering::Auto) else {
        return;
    };
    let mut caller = phone(&server, "UE1", captured::CALLER, 3);
    let mut callee = phone(&server, "UE2", captured::CALLEE, 4);
    for phone in [&mut caller, &mut callee] {
        let register = captured::register(phone, Udp);
        phone.ask_for(&register, Udp, 200).expect("registered");
    }
    let mailed = |server: &Server| {
        each(server, |metrics| metrics.mailbox_sent.get())
            .iter()
            .sum::<u64>()
    };
    let before = mailed(&server);
    for number in 0..CALLS {
        let mut call = place(&mut caller, &mut callee, Udp).expect("a call");
        // Either side ends it: in-dialog requests and responses of both go both ways.
        if number % 2 == 0 {
            hang_up(&mut caller, &mut callee, &mut call.caller).expect("a BYE");
        } else {
            hang_up(&mut callee, &mut caller, &mut call.callee).expect("a BYE");
        }
    }
    let calls = each(&server, |metrics| metrics.calls_started.get());
    let letters = mailed(&server) - before;
    stop(server);
    assert_eq!(calls.iter().sum::<u64>(), CALLS);
    // The question and its answer, from every shard but that of the callee.
    let questions: Vec<u64> = calls.iter().map(|own| 2 * (CALLS - own)).collect();
    assert!(questions.contains(&letters), "{letters} letters, calls {calls:?}");
}
