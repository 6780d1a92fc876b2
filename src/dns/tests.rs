//! Plans against a table of answers, and look-ups with their questions, answers and time-outs.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::{HostEntry, HostRecord};
use crate::msg::uri::Uri;
use crate::wire::Transport;

use super::plan::{BadTarget, Target};
use super::*;
use crate::domain::DomainName;
use crate::domain::{Naptr, Record, RecordType, Srv};

fn name(text: &str) -> DomainName {
    DomainName::new(text.as_bytes()).expect("a name")
}

fn question(record_type: RecordType, text: &str) -> Question {
    Question {
        name: name(text),
        record_type,
    }
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    Record::Srv(Srv {
        priority,
        weight,
        port,
        target: DomainName::new(target.as_bytes()),
    })
}

fn naptr(order: u16, preference: u16, transport: Transport, replacement: &str) -> Record {
    Record::Naptr(Naptr {
        order,
        preference,
        transport,
        replacement: name(replacement),
    })
}

fn ip(text: &str) -> Record {
    match text.parse().expect("an address") {
        IpAddr::V4(ip) => Record::A(ip),
        IpAddr::V6(ip) => Record::Aaaa(ip),
    }
}

fn wanted(uri: &str) -> Result<Wanted, BadTarget> {
    Wanted::of_uri(&Uri::parse(uri.as_bytes()).expect("a URI"))
}

/// `udp 127.0.0.1:5060` and so on.
fn shown(targets: &Targets) -> Vec<String> {
    targets
        .iter()
        .map(|Target { transport, addr }| format!("{} {addr}", transport.name()))
        .collect()
}

/// All that there is; a question that is not in it has the answer that there is nothing.
#[derive(Default)]
struct Zone {
    records: HashMap<Question, Vec<Record>>,
    silent: Vec<Question>,
}

impl Zone {
    fn with(mut self, record_type: RecordType, name: &str, records: &[Record]) -> Zone {
        self.records.insert(question(record_type, name), records.to_vec());
        self
    }

    fn silent_on(mut self, record_type: RecordType, name: &str) -> Zone {
        self.silent.push(question(record_type, name));
        self
    }
}

impl Answers for Zone {
    fn known(&self, question: &Question) -> Known<'_> {
        if self.silent.contains(question) {
            return Known::Failed;
        }
        self.records
            .get(question)
            .map_or(Known::Nothing, |records| Known::Records(records))
    }
}

const V4: Speaks = Speaks {
    udp_v4: true,
    tcp_v4: true,
    udp_v6: false,
    tcp_v6: false,
};
const ALL: Speaks = Speaks {
    udp_v6: true,
    tcp_v6: true,
    ..V4
};

fn planned(zone: &Zone, speaks: Speaks, uri: &str, seed: u64) -> (Plan, Vec<String>) {
    let mut targets = Targets::default();
    let mut random = Random::new(seed);
    let plan = plan(
        &wanted(uri).expect("a target"),
        speaks,
        zone,
        &mut random,
        &mut targets,
        &mut Questions::default(),
    );
    (plan, shown(&targets))
}

fn ready(zone: &Zone, uri: &str) -> Vec<String> {
    let (plan, targets) = planned(zone, V4, uri, 0);
    assert_eq!(plan, Plan::Ready, "{uri}");
    targets
}

#[test]
fn an_address_is_its_own_target() {
    let zone = Zone::default();
    for (uri, target) in [
        ("sip:a@192.0.2.1", "UDP 192.0.2.1:5060"),
        ("sip:192.0.2.1:5070", "UDP 192.0.2.1:5070"),
        ("sip:192.0.2.1;transport=tcp", "TCP 192.0.2.1:5060"),
        (
            "sip:pbx.example;maddr=192.0.2.9;transport=UDP",
            "UDP 192.0.2.9:5060",
        ),
    ] {
        assert_eq!(ready(&zone, uri), [target], "{uri}");
    }
    assert_eq!(
        planned(&zone, ALL, "sip:[2001:db8::1]", 0).1,
        ["UDP [2001:db8::1]:5060"]
    );
    assert_eq!(
        planned(&zone, V4, "sip:[2001:db8::1]", 0).0,
        Plan::NoAddress,
        "no listener to send from"
    );
    for nobody in ["sip:0.0.0.0", "sip:255.255.255.255", "sip:224.0.1.75"] {
        assert_eq!(planned(&zone, V4, nobody, 0).0, Plan::NoAddress, "{nobody}");
    }
}

#[test]
fn what_leads_nowhere_is_said() {
    assert_eq!(wanted("sips:pbx.example"), Err(BadTarget::Scheme));
    assert_eq!(wanted("tel:+4930123"), Err(BadTarget::Scheme));
    assert_eq!(wanted("sip:pbx.example;transport=tls"), Err(BadTarget::Transport));
    assert_eq!(wanted("sip:pbx.example;maddr=..."), Err(BadTarget::Host));
}

#[test]
fn a_port_rules_srv_out() {
    let zone = Zone::default()
        .with(
            RecordType::Naptr,
            "pbx.example",
            &[naptr(1, 1, Transport::Tcp, "_sip._tcp.pbx.example")],
        )
        .with(
            RecordType::Srv,
            "_sip._udp.pbx.example",
            &[srv(1, 1, 5099, "other.example")],
        )
        .with(RecordType::A, "pbx.example", &[ip("192.0.2.1"), ip("192.0.2.2")]);
    assert_eq!(
        ready(&zone, "sip:pbx.example:5070"),
        ["UDP 192.0.2.1:5070", "UDP 192.0.2.2:5070"]
    );
    assert_eq!(
        ready(&zone, "sip:pbx.example:5070;transport=tcp")[0],
        "TCP 192.0.2.1:5070"
    );
}

#[test]
fn naptr_chooses_the_transport_by_order_and_preference() {
    let zone = Zone::default()
        .with(
            RecordType::Naptr,
            "example.com",
            &[
                naptr(20, 1, Transport::Udp, "_sip._udp.late.example.com"),
                naptr(10, 50, Transport::Udp, "_sip._udp.example.com"),
                naptr(10, 20, Transport::Tcp, "_sip._tcp.example.com"),
            ],
        )
        .with(
            RecordType::Srv,
            "_sip._tcp.example.com",
            &[srv(1, 0, 5061, "a.example.com")],
        )
        .with(
            RecordType::Srv,
            "_sip._udp.example.com",
            &[srv(2, 0, 5062, "b.example.com"), srv(1, 0, 5063, "a.example.com")],
        )
        .with(
            RecordType::Srv,
            "_sip._udp.late.example.com",
            &[srv(1, 0, 5064, "a.example.com")],
        )
        .with(RecordType::A, "a.example.com", &[ip("192.0.2.1")])
        .with(RecordType::A, "b.example.com", &[ip("192.0.2.2")]);
    assert_eq!(
        ready(&zone, "sip:example.com"),
        ["TCP 192.0.2.1:5061", "UDP 192.0.2.1:5063", "UDP 192.0.2.2:5062"]
    );
    // With a transport in the URI NAPTR is not looked at.
    assert_eq!(
        ready(&zone, "sip:example.com;transport=udp")[0],
        "UDP 192.0.2.1:5063"
    );
    let udp_alone = Speaks { tcp_v4: false, ..V4 };
    assert_eq!(
        planned(&zone, udp_alone, "sip:example.com", 0).1[0],
        "UDP 192.0.2.1:5063"
    );
}

#[test]
fn without_naptr_each_transport_is_asked_for_and_without_srv_the_host_itself() {
    let zone = Zone::default()
        .with(
            RecordType::Srv,
            "_sip._tcp.example.com",
            &[srv(1, 0, 5061, "a.example.com")],
        )
        .with(RecordType::A, "a.example.com", &[ip("192.0.2.1")])
        .with(RecordType::A, "plain.example", &[ip("192.0.2.7")])
        .silent_on(RecordType::Naptr, "plain.example");
    assert_eq!(ready(&zone, "sip:example.com"), ["TCP 192.0.2.1:5061"]);
    assert_eq!(ready(&zone, "sip:plain.example"), ["UDP 192.0.2.7:5060"]);
    assert_eq!(
        ready(&zone, "sip:plain.example;transport=tcp"),
        ["TCP 192.0.2.7:5060"]
    );
    assert_eq!(planned(&zone, V4, "sip:nobody.example", 0).0, Plan::NoAddress);
}

#[test]
fn a_domain_may_say_that_it_has_no_such_service() {
    let zone = Zone::default()
        .with(RecordType::Srv, "_sip._udp.example.com", &[srv(0, 0, 0, "")])
        .with(RecordType::A, "example.com", &[ip("192.0.2.1")]);
    assert_eq!(planned(&zone, V4, "sip:example.com", 0).0, Plan::NoAddress);
}

#[test]
fn silence_is_not_the_word_that_there_is_nothing() {
    let zone = Zone::default()
        .silent_on(RecordType::Srv, "_sip._udp.example.com")
        .with(RecordType::A, "example.com", &[ip("192.0.2.1")]);
    // The host might be another one than the service's: nobody is tried.
    assert_eq!(planned(&zone, V4, "sip:example.com", 0).0, Plan::Failed);
}

#[test]
fn both_families_are_tried_where_there_are_listeners_for_both() {
    let zone = Zone::default()
        .with(RecordType::A, "pbx.example", &[ip("192.0.2.1")])
        .with(RecordType::Aaaa, "pbx.example", &[ip("2001:db8::1")]);
    assert_eq!(
        planned(&zone, ALL, "sip:pbx.example:5060", 0).1,
        ["UDP [2001:db8::1]:5060", "UDP 192.0.2.1:5060"]
    );
    assert_eq!(ready(&zone, "sip:pbx.example:5060"), ["UDP 192.0.2.1:5060"]);
}

// ---- Look-ups ------------------------------------------------------------------------------------------------------

struct Rig {
    resolver: Resolver,
    wheel: Wheel<Timer>,
    now: Instant,
    /// By the question's text.
    asked: Vec<Question>,
    finished: Vec<(u16, Resolved, Vec<String>)>,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Config)) -> Rig {
        let mut cfg = Config::default();
        change(&mut cfg);
        let now = Instant::from_millis(1_000_000);
        Rig {
            resolver: Resolver::new(&cfg, RandomState::with_seeds(1, 2, 3, 4)),
            wheel: Wheel::new(now, 64),
            now,
            asked: Vec::new(),
            finished: Vec::new(),
        }
    }

    fn resolve(&mut self, index: u16, uri: &str) -> (Resolved, Vec<String>) {
        let mut targets = Targets::default();
        let asker = Asker::Destination { index, generation: 0 };
        let wanted = wanted(uri).expect("a target");
        let resolved = self
            .resolver
            .resolve(&mut self.wheel, &wanted, asker, 7, self.now, &mut targets);
        self.drain();
        (resolved, shown(&targets))
    }

    fn is_waiting(&mut self, index: u16, uri: &str) -> bool {
        matches!(self.resolve(index, uri).0, Resolved::Waiting(_))
    }

    fn drain(&mut self) {
        while let Some(question) = self.resolver.next_question() {
            self.asked.push(question);
        }
        let mut targets = Targets::default();
        while let Some((Asker::Destination { index, .. }, resolved)) =
            self.resolver
                .next_finished(&mut self.wheel, self.now, &mut targets)
        {
            let targets = if resolved == Resolved::Targets {
                shown(&targets)
            } else {
                Vec::new()
            };
            self.finished.push((index, resolved, targets));
            while let Some(question) = self.resolver.next_question() {
                self.asked.push(question);
            }
        }
        while let Some(question) = self.resolver.next_question() {
            self.asked.push(question);
        }
    }

    fn answer(&mut self, question: Question, answer: Answer) {
        self.resolver
            .answered(&mut self.wheel, &question, answer, self.now);
        self.drain();
    }

    /// Answers all that is asked out of the zone until nothing is.
    fn serve(&mut self, zone: &Zone, ttl_s: u32) -> usize {
        let mut served = 0;
        while let Some(question) = self.asked.pop() {
            served += 1;
            let answer = match zone.known(&question) {
                Known::Records(records) => Answer::Records {
                    records: records.into(),
                    ttl_s,
                },
                Known::Nothing => Answer::Nothing { ttl_s: Some(ttl_s) },
                Known::Failed | Known::Unknown => Answer::Failed,
            };
            self.answer(question, answer);
        }
        served
    }

    fn advance(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        while let Some(timer) = self.wheel.pop(self.now) {
            assert_eq!(timer.kind, TimerKind::Question);
            self.resolver.on_timer(timer, self.now);
        }
        self.drain();
    }
}

fn full_zone() -> Zone {
    Zone::default()
        .with(
            RecordType::Naptr,
            "example.com",
            &[naptr(1, 1, Transport::Udp, "_sip._udp.example.com")],
        )
        .with(
            RecordType::Srv,
            "_sip._udp.example.com",
            &[srv(1, 1, 5060, "a.example.com"), srv(2, 1, 5060, "b.example.com")],
        )
        .with(RecordType::A, "a.example.com", &[ip("192.0.2.1")])
        .with(RecordType::A, "b.example.com", &[ip("192.0.2.2")])
}

#[test]
fn a_look_up_asks_step_by_step_and_what_it_learned_serves_the_next_at_once() {
    let mut rig = Rig::new(|_| {});
    assert!(rig.is_waiting(1, "sip:bob@example.com"));
    assert_eq!(rig.asked, [question(RecordType::Naptr, "example.com")]);
    assert_eq!(
        rig.serve(&full_zone(), 60),
        4,
        "NAPTR, SRV and an address for each host"
    );
    let targets = vec!["UDP 192.0.2.1:5060".to_owned(), "UDP 192.0.2.2:5060".to_owned()];
    assert_eq!(rig.finished, [(1, Resolved::Targets, targets.clone())]);
    assert_eq!(rig.resolve(2, "sip:example.com"), (Resolved::Targets, targets));
    assert!(rig.asked.is_empty());
    assert_eq!(
        (rig.resolver.waiting(), rig.wheel.len()),
        (0, 0),
        "nothing is left over"
    );
    rig.advance(60_000);
    assert!(
        rig.is_waiting(3, "sip:example.com"),
        "the time of the answers is over"
    );
}

#[test]
fn identical_questions_are_asked_once_and_all_who_wait_are_told() {
    let mut rig = Rig::new(|_| {});
    for index in 0..100 {
        assert!(rig.is_waiting(index, "sip:example.com"));
    }
    assert_eq!(rig.asked.len(), 1);
    assert_eq!(rig.serve(&full_zone(), 1), 4);
    let mut told: Vec<u16> = rig.finished.iter().map(|(index, ..)| *index).collect();
    told.sort_unstable();
    assert_eq!(told, (0..100).collect::<Vec<_>>());
    assert!(
        rig.finished
            .iter()
            .all(|(_, resolved, _)| *resolved == Resolved::Targets)
    );
}

#[test]
fn who_waits_longest_for_an_answer_is_told_first() {
    let mut rig = Rig::new(|cfg| cfg.listeners.retain(|listener| listener.addr.is_ipv4()));
    for index in 0..5 {
        assert!(rig.is_waiting(index, "sip:nobody.example:5060"));
    }
    assert_eq!(rig.serve(&full_zone(), 1), 1);
    let told: Vec<u16> = rig.finished.iter().map(|(index, ..)| *index).collect();
    assert_eq!(told, [0, 1, 2, 3, 4]);
}

#[test]
fn that_there_is_nothing_is_remembered_for_its_time() {
    let mut rig = Rig::new(|cfg| cfg.dns.negative_ttl_max = Duration::from_secs(20));
    assert!(rig.is_waiting(1, "sip:nobody.example:5060"));
    rig.serve(&Zone::default(), 3_600);
    assert_eq!(rig.finished, [(1, Resolved::NoAddress, Vec::new())]);
    rig.advance(19_000);
    assert_eq!(rig.resolve(2, "sip:nobody.example:5060").0, Resolved::NoAddress);
    rig.advance(1_000);
    assert!(rig.is_waiting(3, "sip:nobody.example:5060"), "20 s at most");
}

#[test]
fn a_question_without_an_answer_ends_by_itself_and_a_late_answer_finds_nobody() {
    let mut rig = Rig::new(|_| {});
    assert!(rig.is_waiting(1, "sip:slow.example:5060"));
    let asked = rig.asked.pop().expect("a question");
    rig.advance(3_499);
    assert!(rig.finished.is_empty());
    rig.advance(2);
    assert_eq!(rig.finished, [(1, Resolved::Failed, Vec::new())]);
    let records = [ip("192.0.2.1")].into();
    rig.answer(asked, Answer::Records { records, ttl_s: 60 });
    assert_eq!(
        rig.resolve(2, "sip:slow.example:5060").0,
        Resolved::Failed,
        "for a short time"
    );
    rig.advance(5_000);
    assert!(
        rig.is_waiting(3, "sip:slow.example:5060"),
        "then it is asked again"
    );
}

#[test]
fn answers_of_no_time_at_all_still_make_a_plan() {
    let mut rig = Rig::new(|_| {});
    assert!(rig.is_waiting(1, "sip:example.com"));
    let mut steps = 0;
    while let Some(question) = rig.asked.pop() {
        steps += 1;
        rig.advance(2_000);
        let records = match full_zone().known(&question) {
            Known::Records(records) => records.into(),
            other => panic!("{other:?}"),
        };
        rig.answer(question, Answer::Records { records, ttl_s: 0 });
    }
    assert_eq!((steps, rig.finished.len()), (4, 1));
    assert_eq!(rig.finished[0].1, Resolved::Targets);
}

#[test]
fn what_waits_is_bounded_and_so_is_what_is_kept() {
    let mut rig = Rig::new(|cfg| {
        cfg.dns.look_ups_max = 64;
        cfg.dns.cache_max = 1_024;
    });
    for index in 0..64 {
        assert!(rig.is_waiting(index, &format!("sip:h{index}.example:5060")));
    }
    assert_eq!(rig.resolve(64, "sip:h64.example:5060").0, Resolved::Full);
    let zone = Zone::default();
    rig.serve(&zone, 60);
    for index in 0..5_000u16 {
        assert!(rig.is_waiting(index, &format!("sip:n{index}.example:5060")));
        rig.serve(&zone, 60);
    }
    assert_eq!(rig.resolver.cached(), 1_024);
    assert_eq!((rig.resolver.waiting(), rig.wheel.len()), (0, 0));
}

#[test]
fn the_table_of_hosts_wins_and_speaks_for_the_name_as_a_whole() {
    let address = |text: &str| HostRecord::Address(text.parse().expect("an address"));
    let mut rig = Rig::new(|cfg| {
        cfg.hosts = vec![
            HostEntry {
                name: "pbx.example".to_owned(),
                records: vec![address("127.0.0.2"), address("127.0.0.3")],
            },
            HostEntry {
                name: "_sip._udp.lab.example".to_owned(),
                records: vec![HostRecord::Service {
                    priority: 1,
                    weight: 1,
                    port: 5077,
                    target: "pbx.example".to_owned(),
                }],
            },
        ]
    });
    let both = |port| vec![format!("UDP 127.0.0.2:{port}"), format!("UDP 127.0.0.3:{port}")];
    assert_eq!(
        rig.resolve(1, "sip:PBX.example."),
        (Resolved::Targets, both(5060))
    );
    assert_eq!(rig.resolve(1, "sip:lab.example"), (Resolved::Targets, both(5077)));
    assert_eq!(rig.resolve(1, "sip:lab.example:5060").0, Resolved::NoAddress);
    assert!(rig.asked.is_empty(), "{:?}", rig.asked);
    assert!(rig.is_waiting(1, "sip:other.example"));
}
