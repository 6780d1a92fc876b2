//! Runs the simulator: `cargo run --release --example sim -- --seeds 1..100000`.
//!
//! Each seed is a run of its own: a server of 1, 2 or 4 shards, phones, and weather. One that finds something is printed with
//! what was found, the ladder of its calls, and how to replay it. The exit code is 1 if any did.

// How fast it goes is told by the clock on the wall.
#![allow(clippy::disallowed_methods)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use ringway::sim::{Counts, Mix, Outcome, Service, Totals, run};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Places calls over a seeded network and judges what came of it.
#[derive(Parser)]
struct Args {
    /// Which seeds: one number, or FROM..TO (TO is not among them).
    #[arg(long, default_value = "1..1001", value_parser = seeds)]
    seeds: std::ops::Range<u64>,
    /// Shards; drawn by each seed if not given.
    #[arg(long)]
    shards: Option<usize>,
    /// Datagrams lost, per mille; drawn by each seed if not given.
    #[arg(long, value_name = "PER_MILLE")]
    loss: Option<u32>,
    /// Calls a run.
    #[arg(long, default_value_t = 60)]
    calls: usize,
    /// Phones a run; two of three have a number of their own.
    #[arg(long, default_value_t = 10)]
    phones: usize,
    /// Only phones that obey the rules.
    #[arg(long)]
    polite: bool,
    /// What the server is: "phones" or "proxy"; drawn by each seed if not given.
    #[arg(long, value_parser = service)]
    service: Option<Service>,
    /// Whether places have names: "true" or "false"; drawn by each seed if not given.
    #[arg(long)]
    names: Option<bool>,
    /// Whether phones register flows: "true" or "false"; drawn by each seed if not given.
    #[arg(long)]
    flows: Option<bool>,
    /// Threads, each with runs of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print the whole ladder of each seed that finds something, or of any when there is only one.
    #[arg(long)]
    ladder: bool,
    /// Stop after so many seeds that find something.
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let number = |text: &str| {
        text.replace('_', "")
            .parse::<u64>()
            .map_err(|_| format!("{text:?} is no number"))
    };
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => number(text).map(|seed| seed..seed + 1),
    }
}

fn service(text: &str) -> Result<Service, String> {
    match text {
        "phones" => Ok(Service::Phones),
        "proxy" => Ok(Service::Proxy),
        _ => Err("phones or proxy".to_owned()),
    }
}

struct Sum {
    /// When it last said how far it is.
    told: Instant,
    seeds: u64,
    failed: Vec<u64>,
    totals: Totals,
    counts: Counts,
    simulated: Duration,
}

impl Sum {
    /// `since`: when it began, by the clock on the wall.
    fn line(&self, since: Instant) -> String {
        let (totals, counts) = (&self.totals, &self.counts);
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        format!(
            "{} seeds, {} calls ({} answered, {} cancelled, {} glares), {} messages, {} faults, {} h simulated; \
             {} s, {:.0} calls/s, {} seeds found something",
            self.seeds,
            totals.calls,
            totals.answered,
            totals.cancelled,
            totals.glares,
            counts.datagrams + counts.stream_messages,
            counts.faults(),
            self.simulated.as_secs() / 3_600,
            seconds.round(),
            totals.calls as f64 / seconds,
            self.failed.len(),
        )
    }

    /// What happened how often, by kind, and the seeds that found something.
    fn summary(&self, since: Instant) -> String {
        format!(
            "{}\nwhat phones did: {:#?}\nwhat the network did: {:#?}\nseeds that found something: {:?}",
            self.line(since),
            self.totals,
            self.counts,
            self.failed
        )
    }
}

/// How often it says how far it is, to a terminal and to anything else.
const PROGRESS_TERMINAL: Duration = Duration::from_millis(500);
const PROGRESS: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args = Args::parse();
    let mix = Mix {
        shards: args.shards,
        loss: args.loss,
        calls: args.calls,
        phones: args.phones,
        polite: args.polite,
        service: args.service,
        names: args.names,
        flows: args.flows,
    };
    let is_single = args.seeds.end - args.seeds.start == 1;
    let next = AtomicU64::new(args.seeds.start);
    let since = Instant::now();
    let (progress, line_end) = if std::io::stderr().is_terminal() {
        (PROGRESS_TERMINAL, '\r')
    } else {
        (PROGRESS, '\n')
    };
    let sum = Mutex::new(Sum {
        told: since,
        seeds: 0,
        failed: Vec::new(),
        totals: Totals::default(),
        counts: Counts::default(),
        simulated: Duration::ZERO,
    });
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                name_the_seed_of_a_panic();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.seeds.end {
                        return;
                    }
                    SEED.set(seed);
                    let outcome = run(seed, &mix);
                    let mut sum = sum.lock().expect("no thread panics with it");
                    sum.seeds += 1;
                    sum.totals.add(&outcome.totals);
                    sum.counts.add(&outcome.counts);
                    sum.simulated += outcome.simulated;
                    if is_single || !outcome.findings.is_empty() {
                        tell(&outcome, args.ladder || is_single);
                    }
                    if !outcome.findings.is_empty() {
                        sum.failed.push(seed);
                    }
                    if sum.failed.len() >= args.failures {
                        next.store(args.seeds.end, Ordering::Relaxed);
                    }
                    if sum.told.elapsed() >= progress {
                        sum.told = Instant::now();
                        eprint!("{}{line_end}", sum.line(since));
                        _ = std::io::stderr().flush();
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panics with it");
    println!("{}", sum.summary(since));
    if sum.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(outcome: &Outcome, with_ladder: bool) {
    println!("{}", outcome.report());
    if with_ladder {
        println!("{}", outcome.trace.ladder(|_| true));
    }
    println!(
        "replay with: cargo run --release --example sim -- --seeds {} (and the same options)\n",
        outcome.seed
    );
}

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn name_the_seed_of_a_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            eprintln!("seed {} panics", SEED.get());
            usual(panic);
        }));
    });
}
