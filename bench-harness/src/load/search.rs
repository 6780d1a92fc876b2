//! The highest rate without a failure, RFC 7502 §4.2 and its session establishment rate (registration rate for REGISTER).
//!
//! The rate is raised by half until an attempt fails, then the gap between what passed and what failed is halved until it is
//! below 3 %. What was found has to pass once more, or a little less has; after some tries it is told as not confirmed, since a machine
//! that does other things as well can make any rate fail. A passing trial has started something, has no failed attempt, and at
//! most one message for a thousand starts was sent again, since with a T1 of half a second a server far behind would otherwise pass.

use std::io;

use super::plan::{Plan, Scenario};
use super::report;
use super::run::{Meter, Outcome, run};
use super::stats::{Count, Metric};

/// What a search found.
pub struct Found {
    /// Starts a second; 0 if not even the first rate passed.
    pub rate: f64,
    /// Whether it passed once more.
    pub confirmed: bool,
    /// Whether the generator, not the server, ended the search.
    pub own_limit: bool,
    /// Part of the highest rate, and the run at it.
    pub at_part: Vec<(f64, Outcome)>,
}

/// RFC 7502 calls it the establishment threshold: an attempt that takes longer has failed.
const THRESHOLD_MS: u64 = 4000;

/// Tries to have what was found pass once more, each with 3 % less.
const CONFIRMATIONS_MAX: usize = 6;
/// The first rate is raised so often: to 3,000 times itself.
const RAISES_MAX: usize = 20;

fn passes(outcome: &Outcome) -> bool {
    let stats = &outcome.stats;
    let started = stats.get(Count::Started);
    started > 0 && stats.get(Count::SentAgain) * 1000 <= started && !stats.failed()
}

/// The parts of the highest rate at which latency is measured, unless only the rate is asked for.
pub const PARTS: [f64; 4] = [0.25, 0.5, 0.75, 0.9];

/// Searches from `plan.rate` upwards, then runs at `parts` of what was found; each trial and run takes `seconds`.
pub fn find_max(
    plan: &Plan,
    scenario: Scenario,
    meter: &Meter,
    seconds: f64,
    parts: &[f64],
) -> io::Result<Found> {
    let mut trial = plan.clone();
    trial.duration = seconds;
    trial.check().map_err(|why| {
        let why = why.replace("--duration", "the seconds of a trial");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })?;
    trial.quiet = true;
    trial.phones = plan.phones_of_a_thread();
    if trial.timeout == 0 {
        trial.timeout = THRESHOLD_MS;
    }
    (trial.hlog, trial.json, trial.html) = (None, None, None);
    let mut own_limit = false;
    let mut attempt = |rate: f64, own_limit: &mut bool| -> io::Result<bool> {
        trial.rate = rate;
        let outcome = run(&trial, scenario, meter)?;
        // On UDP the addresses stay, so the registrations do; TCP connections are new each time.
        trial.no_register |= !trial.is_tcp(super::plan::Side::Callee);
        let late = outcome.stats.own_limit();
        let passed = passes(&outcome);
        if !passed {
            *own_limit = late.is_some();
        }
        let stats = &outcome.stats;
        println!(
            "{rate:>10.0} a second: {}  lost {} of {}, sent again {}, INVITE to 200 p99 {}{}{}",
            if passed { "passed" } else { "failed" },
            stats.lost(),
            stats.get(Count::Started),
            stats.get(Count::SentAgain),
            report::time(stats.histograms[Metric::To200 as usize].value_at_quantile(0.99)),
            outcome
                .cpu_each()
                .map_or(String::new(), |each| format!(", server CPU {each:.1} µs each")),
            late.map_or(String::new(), |why| format!("; the generator: {why}")),
        );
        Ok(passed)
    };
    let (mut low, mut high) = (0.0, plan.rate);
    let mut raised = 0;
    while raised < RAISES_MAX && attempt(high, &mut own_limit)? {
        low = high;
        high *= 1.5;
        raised += 1;
    }
    if low == 0.0 {
        // The first rate was too much: look below it.
        while low == 0.0 && high > 10.0 {
            high /= 2.0;
            if attempt(high, &mut own_limit)? {
                (low, high) = (high, high * 2.0);
            }
        }
    }
    while low > 0.0 && high / low > 1.03 {
        let middle = (low * high).sqrt();
        if attempt(middle, &mut own_limit)? {
            low = middle
        } else {
            high = middle
        }
    }
    // Chance may have let it pass: it has to do so again.
    let mut confirmed = false;
    for _ in 0..CONFIRMATIONS_MAX {
        if low <= 0.0 {
            break;
        }
        confirmed = attempt(low, &mut own_limit)?;
        if confirmed {
            break;
        }
        low *= 0.97;
    }
    let mut at_part = Vec::new();
    for &part in parts {
        if low <= 0.0 {
            break;
        }
        let mut at = trial.clone();
        at.rate = low * part;
        at_part.push((part, run(&at, scenario, meter)?));
    }
    Ok(Found {
        rate: low,
        confirmed,
        own_limit,
        at_part,
    })
}
