//! The simulator in the test command: some hundred seeds, and those that once found something.
//!
//! `SIM_SEEDS=from..to cargo test --test sim` runs others; `cargo run --release --example sim` runs them by the thousand.

use ringway::sim::{Counts, Mix, Service, Totals, run};

/// Seeds that have found something, with what that was. They find nothing any more.
const KEPT: &[(u64, &str)] = &[
    (
        5,
        "a phone that lost the race to answer reached the caller in a dialog of its own",
    ),
    (
        7,
        "a PRACK that crossed a 2xx went on with the caller's number in its RAck",
    ),
    (33, "an answer without a transaction had another To tag each time"),
    (88, "bytes behind the Content-Length of a datagram were passed on"),
    (
        154,
        "the ACK of a re-INVITE was lost when a BYE had come before it",
    ),
    (
        340,
        "a 2xx that came again was answered with the ACK of a later INVITE",
    ),
    (
        342,
        "a PRACK that crossed a refusal went on with the caller's number in its RAck",
    ),
    (
        1_000_643,
        "a 2xx to a re-INVITE whose ACK was lost was not acknowledged again when the call was over",
    ),
    (
        1_001_410,
        "a SUBSCRIBE that found no room first and was accepted when it came again counted as refused",
    ),
    (
        1_001_571,
        "a CANCEL was repeated for 64*T1 when the ACK of its INVITE could not be sent",
    ),
    (
        1_001_764,
        "the ACK of the caller's 2xx was lost, and not sent again when the call was over",
    ),
    (
        1_001_861,
        "a 2xx for a connection that was refused counted from when the next one was open",
    ),
    (
        2_000_319,
        "a phone took the NOTIFY of a server that had begun anew for one of the dialog before",
    ),
];

/// The same, where the server is a proxy.
const KEPT_OF_PROXY: &[(u64, &str)] = &[
    (
        11_027_492,
        "a MESSAGE that came when its transaction had been given up was to be one that came again",
    ),
    (
        11_009_666,
        "a CANCEL that another shard read in the turn of its INVITE was no reason to cancel branches",
    ),
    (96, "a redirection to a place that was tried before was followed"),
    (
        2_027,
        "an INVITE whose connection failed went out over UDP although another place had answered",
    ),
    (
        2_072,
        "an INVITE whose connection failed went out over UDP when its turn was over",
    ),
    (
        2_516,
        "a CANCEL that came before its INVITE was looked up in DNS, and refused when it had long had its 200",
    ),
    (2_589, "the same where the server had crashed in between"),
    (
        2_000_121,
        "without state an INVITE behind its own CANCEL counted as another request under one branch",
    ),
    (
        2_000_154,
        "a 2xx to an INVITE that had been refused was lost when its server transaction was over",
    ),
    (
        2_000_579,
        "what came long after Timer B counted among what a proxy has to choose from",
    ),
    (
        2_000_821,
        "a turn that began over TCP, and went on over UDP, counted from when it went on",
    ),
    (
        2_000_923,
        "a 180 that came while a CANCEL was on its way between shards was waited for",
    ),
    (
        2_001_788,
        "an INVITE said again after Timer L, by a phone that had heard its answer late, counted as known",
    ),
    (
        2_000_009,
        "a 487 that was overtaken by the 2xx of another place counted as a second answer",
    ),
    (
        3_001_139,
        "a place that redirected after its time brought in another beside who rang then",
    ),
    (
        3_001_490,
        "a CANCEL that found no place left again when another place answered",
    ),
    (
        3_001_209,
        "a phone that got a BYE no longer repeated its 2xx to a re-INVITE, which was lost",
    ),
    (
        3_001_489,
        "a CANCEL was told that there is no INVITE while there was no room for that, and counted as the end of it",
    ),
    (
        2_011_558,
        "a 180 that the final response overtook on its way from another shard was waited for",
    ),
    (
        4_004_292,
        "a CANCEL without a transaction went out for each copy of the caller's and counted as one that is repeated",
    ),
    (
        4_004_447,
        "a 503 for want of room came behind the answer that its repetition had got",
    ),
    (
        6_000_634,
        "the 481 to a CANCEL that had gone round by another element counted as the server's own",
    ),
    (
        6_001_403,
        "what came on a branch counted although the server had been told that its INVITE could not be sent",
    ),
    (6_001_894, "a request whose version came in lower case went on so"),
    (
        6_008_333,
        "a 503 that is repeated until its ACK counted as one without a transaction",
    ),
    (
        6_009_402,
        "without state a request that came over another connection counted as a repetition",
    ),
    (
        6_010_054,
        "a phone with two dialogs of one Call-ID took the ACK of one for that of the other",
    ),
    (
        7_000_747,
        "the 2xx to a call that went round by another element, and was refused there, was waited for",
    ),
    (
        7_009_401,
        "a 2xx that a refusal had overtaken on its way from another shard was waited for",
    ),
    (
        8_003_907,
        "a CANCEL that found no place had another To tag when it came again and found one",
    ),
];

/// The same, where places have names.
const KEPT_WITH_NAMES: &[(u64, &str)] = &[
    (
        12_033_467,
        "the 2xx of a re-INVITE that came again after the call was acknowledged past the proxy before its phone",
    ),
    (
        12_003_777,
        "a BYE that came on a connection whose server's side was closed was to be answered",
    ),
    (
        11_018_656,
        "the second address of a name was to ring for as long as the first",
    ),
    (
        11_029_665,
        "a phone was to hear why nobody answers its OPTIONS, of which nothing is to be said",
    ),
    (
        12_004_202,
        "addresses that had been determined were judged by what DNS said later",
    ),
    (
        11_007_716,
        "a CANCEL without a transaction, which waited for DNS, was to have had a 100",
    ),
    (
        20,
        "a request that went over TCP for its size, and then over UDP, forgot the other targets of its name",
    ),
    (
        270,
        "a BYE overtook the INVITE that waited for the same answer of DNS before it",
    ),
    (
        358,
        "a CANCEL that waited for DNS was refused when it had had its 200, for its INVITE had come meanwhile",
    ),
    (
        672,
        "one address over UDP and TCP counted as one place where both took TCP for their size",
    ),
    (
        832,
        "answers of DNS that took more than five seconds together counted as no reason for a 503",
    ),
    (
        2_809,
        "a re-INVITE that asked DNS anew for what had expired overtook a PRACK that had asked before it",
    ),
    (
        3_841,
        "a redirection to the same host counted as the next target of its name",
    ),
    (
        9_206_303,
        "a CANCEL that found a place when it came again counted as one that is repeated from its first time on",
    ),
    (
        9_308_165,
        "a CANCEL before its INVITE that could not go where that would have gone counted as answered for good",
    ),
    (
        8_008_524,
        "an address that DNS has for TCP too counted as a target that comes earlier",
    ),
];

/// The same, where phones register flows.
const KEPT_WITH_FLOWS: &[(u64, &str)] = &[
    (
        12_000_471,
        "an edge that forgot a flow between two sends of an INVITE was to bring the ACK of its phone's answer",
    ),
    (
        9_209_151,
        "a 2xx over another connection than its INVITE, which had ended, counted as one that comes too late",
    ),
    (
        9_303_111,
        "a flow that failed when its phone had rung for its time was to be followed by the other",
    ),
    (
        60,
        "two REGISTERs of one phone that came in one turn were given the same temporary GRUU",
    ),
    (
        32,
        "a phone that called itself over one flow was sent the requests of its call past that",
    ),
    (
        96,
        "a call without state was to stay on the flow of who had begun it",
    ),
];

#[track_caller]
fn finds_nothing(seed: u64, mix: &Mix, about: &str) {
    let outcome = run(seed, mix);
    assert!(
        outcome.findings.is_empty(),
        "{about}\n{}\nreplay with: cargo run --release --example sim -- --seeds {seed} --calls {}",
        outcome.report(),
        mix.calls
    );
}

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SIM_SEEDS").unwrap_or_else(|_| "10_000..10_200".to_owned());
    let (from, to) = text.split_once("..").expect("SIM_SEEDS=from..to");
    let number = |text: &str| text.replace('_', "").parse().expect("a number");
    number(from)..number(to)
}

/// A quarter of the seeds each, so that the tests share the cores.
fn quarter(nth: u64) {
    let mix = Mix {
        calls: 12,
        ..Mix::default()
    };
    for seed in seeds().filter(|seed| seed % 4 == nth) {
        finds_nothing(seed, &mix, "");
    }
}

#[test]
fn a_first_quarter_of_the_seeds_finds_nothing() {
    quarter(0);
}

#[test]
fn a_second_quarter_of_the_seeds_finds_nothing() {
    quarter(1);
}

#[test]
fn a_third_quarter_of_the_seeds_finds_nothing() {
    quarter(2);
}

#[test]
fn a_fourth_quarter_of_the_seeds_finds_nothing() {
    quarter(3);
}

#[test]
fn what_was_found_once_is_not_found_again() {
    for (seed, what) in KEPT {
        let mix = Mix {
            service: Some(Service::Phones),
            names: Some(false),
            flows: Some(false),
            ..Mix::default()
        };
        finds_nothing(*seed, &mix, what);
    }
    for (seed, what) in KEPT_OF_PROXY {
        let mix = Mix {
            service: Some(Service::Proxy),
            names: Some(false),
            flows: Some(false),
            ..Mix::default()
        };
        finds_nothing(*seed, &mix, what);
    }
    for (seed, what) in KEPT_WITH_NAMES {
        let mix = Mix {
            names: Some(true),
            ..Mix::default()
        };
        finds_nothing(*seed, &mix, what);
    }
    for (seed, what) in KEPT_WITH_FLOWS {
        let mix = Mix {
            service: Some(Service::Proxy),
            flows: Some(true),
            ..Mix::default()
        };
        finds_nothing(*seed, &mix, what);
    }
}

/// Whatever can happen in a run happens now and then: a rule about what never does would prove nothing.
#[test]
fn every_kind_of_event_is_among_what_happens() {
    let (mut totals, mut counts) = (Totals::default(), Counts::default());
    for seed in 20_000..20_060 {
        let mix = Mix {
            names: (seed % 2 == 0).then_some(true),
            flows: (seed % 3 == 0).then_some(true),
            ..Mix::default()
        };
        let outcome = run(seed, &mix);
        totals.add(&outcome.totals);
        counts.add(&outcome.counts);
    }
    let unseen = |kinds: &[(&'static str, u64)]| -> Vec<&'static str> {
        kinds
            .iter()
            .filter(|kind| kind.1 == 0)
            .map(|kind| kind.0)
            .collect()
    };
    let all: Vec<_> = totals.kinds().chain(counts.kinds()).collect();
    assert!(unseen(&all).is_empty(), "never seen: {:?}", unseen(&all));
}

/// A run follows from its seed alone.
#[test]
fn a_seed_means_the_same_each_time() {
    let mix = Mix {
        calls: 15,
        ..Mix::default()
    };
    for seed in 1..6 {
        let (one, other) = (run(seed, &mix), run(seed, &mix));
        assert_eq!(
            one.trace.ladder(|_| true),
            other.trace.ladder(|_| true),
            "seed {seed}"
        );
        assert!(one.totals.calls > 0 && one.trace.steps().count() > 0);
    }
}
