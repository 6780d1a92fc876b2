//! What a server does with more than it can do: its goodput at multiples of its highest rate.
//!
//! Goodput is what was completed a second while calls were offered; what completes only when the rush is over does not count. RFC 7502 stops at the highest rate; what comes beyond decides
//! whether a network gets over a rush.

use std::fmt::Write as _;
use std::io;

use super::plan::{Plan, Scenario, Side};
use super::report;
use super::run::{Meter, Outcome, run};
use super::stats::{Count, Metric};

/// The multiples that are run unless others are asked for. The last comes after the rush and shows whether it is over.
pub const MULTIPLES: [f64; 6] = [1.0, 1.2, 1.5, 2.0, 5.0, 10.0];
/// What is offered once the rush is over.
const AFTERWARDS: f64 = 0.8;
/// A caller waits no longer for a call to be set up, as in the search for the highest rate.
const TIMEOUT_MS: u64 = 4_000;

/// One multiple, and what came of it.
pub struct Step {
    pub multiple: f64,
    pub offered: f64,
    pub seconds: f64,
    pub outcome: Outcome,
}

impl Step {
    /// Completed a second of the time in which calls were started, within that time: what an end of the rush saves does not count.
    pub fn goodput(&self) -> f64 {
        self.outcome.stats.get(Count::InTime) as f64 / self.seconds
    }

    /// Answered 503.
    pub fn refused(&self) -> u64 {
        self.outcome.stats.statuses[503]
    }

    /// Neither completed nor refused: what hurts.
    pub fn lost(&self) -> u64 {
        self.outcome.stats.lost().saturating_sub(self.refused())
    }
}

/// Runs at `rate` times each of `multiples`, then once below it.
pub fn steps(
    plan: &Plan,
    scenario: Scenario,
    meter: &Meter,
    rate: f64,
    multiples: &[f64],
) -> io::Result<Vec<Step>> {
    let mut at = plan.clone();
    (at.hlog, at.json, at.html, at.quiet) = (None, None, None, true);
    at.rate = rate * multiples.iter().copied().fold(AFTERWARDS, f64::max);
    // As many at every multiple, so that nothing but the rate changes.
    at.phones = at.phones_of_a_thread();
    if at.timeout == 0 {
        at.timeout = TIMEOUT_MS;
    }
    let mut steps = Vec::new();
    for multiple in multiples.iter().copied().chain([AFTERWARDS]) {
        at.rate = rate * multiple;
        let outcome = run(&at, scenario, meter)?;
        // On UDP the addresses stay, so the registrations do; TCP connections are new each time.
        at.no_register |= !at.is_tcp(Side::Callee);
        steps.push(Step {
            multiple,
            offered: at.rate,
            seconds: at.duration,
            outcome,
        });
    }
    Ok(steps)
}

/// The steps as a table; percentages are of `rate`.
pub fn table(rate: f64, steps: &[Step]) -> String {
    let mut out = format!(
        "{:>9}{:>12}{:>12}{:>10}{:>12}{:>10}{:>12}{:>14}\n",
        "", "offered/s", "goodput/s", "of max", "503", "lost", "sent again", "to 200, p99"
    );
    for step in steps {
        let stats = &step.outcome.stats;
        let _ = writeln!(
            out,
            "{:>7.1} x{:>12.0}{:>12.0}{:>8.1} %{:>12}{:>10}{:>12}{:>14}{}",
            step.multiple,
            step.offered,
            step.goodput(),
            step.goodput() / rate * 100.0,
            step.refused(),
            step.lost(),
            stats.get(Count::SentAgain),
            report::time(stats.histograms[Metric::To200 as usize].value_at_quantile(0.99)),
            stats
                .own_limit()
                .map_or(String::new(), |why| format!("  the generator: {why}")),
        );
    }
    out
}

/// The same as one JSON object.
pub fn json(rate: f64, steps: &[Step]) -> String {
    let steps = steps.iter().map(|step| {
        format!(
            "{{\"multiple\": {}, \"offered_per_second\": {:.1}, \"goodput_per_second\": {:.1}, \"refused\": {}, \"lost\": {}, \
             \"own_limit\": {}}}",
            step.multiple,
            step.offered,
            step.goodput(),
            step.refused(),
            step.lost(),
            step.outcome.stats.own_limit().is_some(),
        )
    });
    format!(
        "{{\n  \"highest_per_second\": {rate:.1},\n  \"steps\": [\n    {}\n  ]\n}}\n",
        steps.collect::<Vec<_>>().join(",\n    ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::stats::Stats;
    use super::*;

    #[test]
    fn what_was_refused_is_not_lost_and_goodput_counts_from_when_calls_were_started() {
        let mut stats = Stats::new();
        for _ in 0..100 {
            stats.count(Count::Started);
        }
        for _ in 0..60 {
            stats.count(Count::Completed);
            stats.count(Count::InTime);
        }
        stats.statuses[503] = 30;
        let step = Step {
            multiple: 2.0,
            offered: 50.0,
            seconds: 2.0,
            outcome: Outcome {
                stats,
                server_cpu: None,
                // It took longer until the last was over.
                seconds: 9.0,
            },
        };
        assert_eq!((step.refused(), step.lost()), (30, 10));
        assert!((step.goodput() - 30.0).abs() < 1e-9);
        let steps = [step];
        let shown = table(40.0, &steps);
        assert!(shown.contains("75.0 %") && shown.contains("2.0 x"), "{shown}");
        assert!(json(40.0, &steps).contains("\"goodput_per_second\": 30.0"));
    }
}
