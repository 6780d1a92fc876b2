//! What was timed, in all and second by second, and who was busy: made of what the shards hand over.

use std::collections::VecDeque;

use serde::Serialize;

use crate::metrics::{Histograms, Timed};
use crate::time::Instant;

use super::busiest::Busiest;

/// Seconds that are remembered one by one.
pub const SECONDS_MAX: usize = 600;

/// Percentiles of one histogram over one span of time. Times in microseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Percentiles {
    pub kind: &'static str,
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// One second.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Second {
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Messages; those sent again are left out.
    pub received_per_s: f64,
    pub sent_per_s: f64,
    /// Calls in progress at its end.
    pub calls: u64,
    pub times: Vec<Percentiles>,
}

/// What all shards together have counted since the start, and their calls now.
#[derive(Clone, Copy, Default)]
pub struct Sums {
    pub received: u64,
    pub sent: u64,
    pub calls: u64,
}

/// All of it.
#[derive(Default)]
pub struct History {
    total: Histograms<u64>,
    seconds: VecDeque<Second>,
    /// The sums at the end of the last second, and when that was.
    before: Option<(Sums, Instant)>,
    pub busiest: Busiest,
}

impl History {
    /// Takes in what all shards timed in the second that ended at `now`, and what they had counted then.
    pub fn add(&mut self, second: &Histograms<u64>, sums: Sums, now: Instant) {
        let (before, since) = self.before.replace((sums, now)).unwrap_or((sums, now));
        let s = now.since(since).as_secs_f64();
        let per_s = |now: u64, before: u64| {
            if s > 0.0 {
                now.saturating_sub(before) as f64 / s
            } else {
                0.0
            }
        };
        self.total.add(second);
        self.busiest.end_second(now);
        if self.seconds.len() == SECONDS_MAX {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second {
            at_ms: now.as_millis(),
            received_per_s: per_s(sums.received, before.received),
            sent_per_s: per_s(sums.sent, before.sent),
            calls: sums.calls,
            times: percentiles(second),
        });
    }

    pub fn total(&self) -> &Histograms<u64> {
        &self.total
    }

    /// The last `count` seconds, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Second> {
        self.seconds.range(self.seconds.len().saturating_sub(count)..)
    }
}

/// Percentiles of every histogram that is not empty.
pub fn percentiles(histograms: &Histograms<u64>) -> Vec<Percentiles> {
    let us = |ns: u64| ns as f64 / 1_000.0;
    Timed::all()
        .map(|timed| (timed, histograms.get(timed)))
        .filter(|(_, histogram)| !histogram.is_empty())
        .map(|(timed, histogram)| Percentiles {
            kind: timed.text(),
            count: histogram.len(),
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn seconds_are_told_apart_add_up_and_are_forgotten_in_turn() {
        let mut history = History::default();
        for second in 0..SECONDS_MAX as u64 + 5 {
            let mut recorded = Histograms::<u64>::default();
            recorded.record(Timed::Turn, Duration::from_micros(second + 1));
            let sums = Sums {
                received: second * 30,
                sent: second * 20,
                calls: second,
            };
            history.add(&recorded, sums, Instant::from_millis(second * 1_000));
        }
        assert_eq!(history.total().get(Timed::Turn).len(), SECONDS_MAX as u64 + 5);
        assert_eq!(history.last(usize::MAX).count(), SECONDS_MAX);
        let last: Vec<_> = history.last(2).collect();
        assert_eq!(last[1].at_ms, (SECONDS_MAX as u64 + 4) * 1_000);
        assert_eq!((last[1].received_per_s, last[1].sent_per_s), (30.0, 20.0));
        assert_eq!(last[1].calls, SECONDS_MAX as u64 + 4);
        let times = &last[1].times;
        assert_eq!((times.len(), times[0].kind, times[0].count), (1, "turn", 1));
        assert!((times[0].p50_us - (SECONDS_MAX as f64 + 5.0)).abs() < 1.0);
    }
}
