//! Instructions of the whole core for one kind of message, for `perf/instructions`, which runs this under callgrind: only
//! what happens within [`collected`] is counted. Without callgrind it does the same work and counts nothing.
//!
//! `instructions KIND`: the number of the kind in [`rig::Kind::ALL`]; prints its name and how many there were.
//! `instructions time SECONDS`: calls from INVITE to the 200 of the BYE for so long; prints nanoseconds a call.

mod rig;

use rig::{Kind, Phones, Probe, Rig};

struct Only {
    kind: Kind,
    seen: u64,
}

impl Probe for Only {
    fn around(&mut self, kind: Kind, work: impl FnOnce()) {
        if self.seen_one_of(kind) {
            collected(work);
        } else {
            work();
        }
    }
}

impl Only {
    fn seen_one_of(&mut self, kind: Kind) -> bool {
        let is_one = kind == self.kind;
        self.seen += u64::from(is_one);
        is_one
    }
}

/// Callgrind collects from here on until it returns: `--toggle-collect`.
#[inline(never)]
fn collected(work: impl FnOnce()) {
    work();
    // The work is no tail call: the end of this function is the end of what is counted.
    std::hint::black_box(());
}

/// Seconds that pass between one of everything and the next: so the timers of a call that was are among the next one's.
const STEP_MS: u64 = 1_000;
const WARM: usize = 50;
const MEASURED: usize = 100;

fn everything(phones: &mut Phones, rig: &mut Rig, probe: &mut impl Probe) {
    let call = phones.call(rig, probe);
    phones.hang_up(rig, probe, call);
}

fn forwarded(phones: &mut Phones, rig: &mut Rig, probe: &mut Only) {
    phones.proxied_call(rig, probe);
}

fn beside(phones: &mut Phones, rig: &mut Rig, probe: &mut impl Probe) {
    phones.register(rig, probe);
    phones.options(rig, probe);
    phones.message(rig, probe);
    phones.resubscribe(rig, probe);
}

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    // `proxy` first: calls go by way of the proxy rather than the phone service.
    let is_proxied = args.next_if_eq("proxy").is_some();
    let mut rig = Rig::new(1, |cfg| {
        if is_proxied {
            cfg.routes = rig::routes();
        }
    });
    let mut phones = Phones::new();
    phones.register(&mut rig, &mut rig::Blind);
    phones.subscribe(&mut rig);
    let everything = if is_proxied { forwarded } else { everything };
    let first = args.next().unwrap_or_default();
    if first == "time" {
        time(
            &mut phones,
            &mut rig,
            args.next().and_then(|s| s.parse().ok()).unwrap_or(1.0),
        );
        return;
    }
    let Some(&kind) = first.parse::<usize>().ok().and_then(|index| Kind::ALL.get(index)) else {
        println!("{}", Kind::ALL.len());
        return;
    };
    let is_of_calls = !matches!(
        kind,
        Kind::Register | Kind::Options | Kind::Message | Kind::MessageOk | Kind::Subscribe | Kind::NotifyOk
    );
    let mut only = Only { kind, seen: 0 };
    for round in 0..WARM + MEASURED {
        let run = |probe: &mut Only| {
            if is_of_calls {
                everything(&mut phones, &mut rig, probe);
            } else {
                beside(&mut phones, &mut rig, probe);
            }
            rig.advance(probe, STEP_MS);
        };
        if round < WARM {
            warm(run, kind);
        } else {
            let mut run = run;
            run(&mut only);
        }
    }
    println!("{}\t{}", only.seen, kind.text());
}

/// One round of which nothing is counted.
fn warm(mut run: impl FnMut(&mut Only), kind: Kind) {
    // Any other kind than the one wanted and those that occur in the same round.
    let other = match kind {
        Kind::Register
        | Kind::Options
        | Kind::Message
        | Kind::MessageOk
        | Kind::Subscribe
        | Kind::NotifyOk => Kind::Invite,
        _ => Kind::Register,
    };
    run(&mut Only { kind: other, seen: 0 });
}

// A loop that is timed needs a clock; the core itself is given the time.
#[allow(clippy::disallowed_methods)]
fn time(phones: &mut Phones, rig: &mut Rig, seconds: f64) {
    let calls_at_once = 1_000;
    let begin = std::time::Instant::now();
    let mut calls = 0u64;
    while begin.elapsed().as_secs_f64() < seconds {
        for _ in 0..calls_at_once {
            everything(phones, rig, &mut rig::Blind);
            rig.advance(&mut rig::Blind, 1);
        }
        calls += calls_at_once;
    }
    println!("{}", begin.elapsed().as_nanos() as f64 / calls as f64);
}
