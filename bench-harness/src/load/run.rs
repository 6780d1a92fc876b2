//! Carries out one run: threads, progress line, and what they told put together.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::cpu;
use super::engine::{Engine, PAUSE, Report};
use super::plan::{Plan, Scenario};
use super::report;
use super::stats::{COUNTS, Count, METRICS, Metric, Stats};
use super::sys;

/// What came of a run.
pub struct Outcome {
    pub stats: Stats,
    /// Nanoseconds of CPU time that the server used from the first start to the last answer, if its processes are known.
    pub server_cpu: Option<u64>,
    /// Seconds from the first start to the last answer.
    pub seconds: f64,
}

impl Outcome {
    /// Microseconds of server CPU for one of what was completed.
    pub fn cpu_each(&self) -> Option<f64> {
        let completed = self.stats.get(Count::Completed);
        self.server_cpu
            .filter(|_| completed > 0)
            .map(|cpu| cpu as f64 / 1000.0 / completed as f64)
    }
}

/// Where the server's CPU time is read.
#[derive(Clone, Debug)]
pub enum Meter {
    None,
    Processes(Vec<i32>),
    /// Threads of this process.
    Threads(Vec<i32>),
}

impl Meter {
    pub fn of(plan: &Plan) -> Meter {
        if plan.server_pid.is_empty() {
            Meter::None
        } else {
            Meter::Processes(cpu::family(&plan.server_pid))
        }
    }

    fn read(&self) -> Option<u64> {
        match self {
            Meter::None => None,
            Meter::Processes(pids) => Some(cpu::time_of_processes(pids)),
            Meter::Threads(threads) => Some(threads.iter().map(|it| cpu::time_of_thread(*it)).sum()),
        }
    }
}

/// Runs `scenario` to its end.
pub fn run(plan: &Plan, scenario: Scenario, meter: &Meter) -> io::Result<Outcome> {
    sys::raise_open_files();
    let (reports, told) = channel();
    let barrier = Arc::new(Barrier::new(plan.threads + 1));
    let is_given_up = Arc::new(AtomicBool::new(false));
    // Runs of one process differ by the clock, runs of two by the number of the process.
    let tag = (sys::now() / 1000) as u32 ^ std::process::id().rotate_left(16);
    let mut spares = Vec::new();
    let mut threads = Vec::new();
    for number in 0..plan.threads {
        let engine = Engine::new(plan, scenario, number, tag)?;
        let (spare, for_engine): (Sender<Box<Stats>>, Receiver<Box<Stats>>) = channel();
        spares.push(spare);
        let cpu = (!plan.cpus.is_empty()).then(|| plan.cpus[number % plan.cpus.len()]);
        let (reports, barrier) = (reports.clone(), Arc::clone(&barrier));
        let is_given_up = Arc::clone(&is_given_up);
        threads.push(
            thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(move || {
                    if let Some(cpu) = cpu
                        && let Err(error) = sys::pin(cpu)
                    {
                        eprintln!("thread {number} could not be bound to CPU {cpu}: {error}");
                    }
                    sys::fire_timers_sharply();
                    engine.run(&reports, &for_engine, &barrier, &is_given_up);
                })?,
        );
    }
    drop(reports);
    let mut log = plan
        .hlog
        .as_deref()
        .map(report::IntervalLog::create)
        .transpose()?;
    let live = !plan.quiet && io::stderr().is_terminal();
    let mut total = Stats::new();
    let (mut ready, mut ended) = (0, 0);
    let mut phones = (0, 0);
    let (mut before, mut began) = (None, sys::now());
    while ended < plan.threads {
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok(Report::Ready { registered, refused }) => {
                ready += 1;
                phones = (phones.0 + registered, phones.1 + refused);
                if ready == plan.threads {
                    is_given_up.store(phones.0 == 0 && phones.1 > 0, Ordering::Relaxed);
                    barrier.wait();
                    (before, began) = (meter.read(), sys::now() + PAUSE);
                    for spare in &spares {
                        // A thread that has ended needs none.
                        let _ = spare.send(Box::new(Stats::new()));
                    }
                }
            }
            Ok(Report::Interval(thread, mut stats)) => {
                total.add(&stats);
                if let Some(log) = &mut log {
                    log.write(&stats)?;
                }
                if live {
                    progress(&total, &stats, began);
                }
                stats.clear();
                // For the next second of the same thread, unless it has ended.
                let _ = spares[thread].send(stats);
            }
            Ok(Report::Ended(stats)) => {
                ended += 1;
                total.add(&stats);
                if let Some(log) = &mut log {
                    log.write(&stats)?;
                }
            }
            Err(_) if threads.iter().all(|it| it.is_finished()) => break,
            Err(_) => {}
        }
    }
    let server_cpu = meter
        .read()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    let seconds = sys::now().saturating_sub(began) as f64 / 1e9;
    if live {
        eprint!("\r\x1b[K");
    }
    for it in threads {
        it.join()
            .map_err(|_| io::Error::other("a load thread came to grief"))?;
    }
    if is_given_up.load(Ordering::Relaxed) {
        return Err(io::Error::other(format!(
            "none of {} phones could be registered at {}: does a registrar for {} listen there?",
            phones.1, plan.target, plan.domain
        )));
    }
    Ok(Outcome {
        stats: total,
        server_cpu,
        seconds,
    })
}

fn progress(total: &Stats, last: &Stats, began: u64) {
    let seconds = sys::now().saturating_sub(began) as f64 / 1e9;
    let busiest = METRICS.iter().filter(|(metric, _)| *metric != Metric::Late);
    let busiest = busiest.max_by_key(|(metric, _)| last.histograms[*metric as usize].len());
    let (metric, name) = busiest.copied().unwrap_or(METRICS[0]);
    let histogram = &last.histograms[metric as usize];
    let bad: u64 = COUNTS.iter().filter(|it| it.3).map(|it| total.get(it.0)).sum();
    eprint!(
        "\r\x1b[K{seconds:4.0} s  {:>8} a second  {name} p50 {} p99 {}  {bad} failed  {} sent again  load {:.0} % busy",
        last.get(Count::Completed),
        report::time(histogram.value_at_quantile(0.5)),
        report::time(histogram.value_at_quantile(0.99)),
        total.get(Count::SentAgain),
        last.busy_part() * 100.0,
    );
    let _ = io::stderr().flush();
}
