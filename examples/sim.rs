//! Runs the simulator: `cargo run --release --example sim -- --seeds 1..100000`.
//!
//! Each seed is a run of its own: a server of 1, 2 or 4 shards, phones, and weather. One that finds something is printed with
//! what was found, the ladder of its calls, and how to replay it. The exit code is 1 if any did.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use ringway::sim::{Counts, Mix, Outcome, Service, Totals, run};

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

#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: Vec<u64>,
    totals: Totals,
    counts: Counts,
    simulated: Duration,
}

impl Sum {
    fn line(&self) -> String {
        let (totals, counts) = (&self.totals, &self.counts);
        format!(
            "{} seeds, {} calls ({} answered, {} cancelled, {} glares), {} messages, {} h simulated, {} faults",
            self.seeds,
            totals.calls,
            totals.answered,
            totals.cancelled,
            totals.glares,
            counts.datagrams + counts.stream_messages,
            self.simulated.as_secs() / 3_600,
            counts.faults(),
        )
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mix = Mix {
        shards: args.shards,
        loss: args.loss,
        calls: args.calls,
        phones: args.phones,
        polite: args.polite,
        service: args.service,
    };
    let is_single = args.seeds.end - args.seeds.start == 1;
    let next = AtomicU64::new(args.seeds.start);
    let sum = Mutex::new(Sum::default());
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
                    let is_terminal = std::io::stderr().is_terminal();
                    if sum.seeds.is_multiple_of(if is_terminal { 50 } else { 5_000 }) {
                        let end = if is_terminal { '\r' } else { '\n' };
                        eprint!("{}{end}", sum.line());
                        _ = std::io::stderr().flush();
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panics with it");
    println!("{}", sum.line());
    println!("{:?}", sum.counts);
    if sum.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seeds that found something: {:?}", sum.failed);
    ExitCode::FAILURE
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
