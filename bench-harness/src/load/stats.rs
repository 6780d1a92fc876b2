//! What a run counts and measures.

use hdrhistogram::Histogram;

/// What is timed. From the intended start, except BYE: from when it was due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    To100,
    To180,
    To200,
    Bye,
    Register,
    Message,
    Options,
    /// Not a latency of the server: how late the generator itself started.
    Late,
}

pub const METRICS: [(Metric, &str); 8] = [
    (Metric::To100, "INVITE to 100"),
    (Metric::To180, "INVITE to 180"),
    (Metric::To200, "INVITE to 200"),
    (Metric::Bye, "BYE to 200"),
    (Metric::Register, "REGISTER to 200"),
    (Metric::Message, "MESSAGE to 200"),
    (Metric::Options, "OPTIONS to 200"),
    (Metric::Late, "(own lateness)"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    Started,
    Completed,
    TimedOutInvite,
    TimedOutBye,
    TimedOutOther,
    BadStatus,
    ConnectionLost,
    Unfinished,
    UnackedAnswers,
    SentAgain,
    CameAgain,
    ParseFailures,
    Strays,
    Unexpected,
    SendRefused,
    Sent,
    Received,
    Calls,
    Preloaded,
    NotPreloaded,
    /// Completed before the time for starts was over.
    InTime,
}

/// Key in JSON, words in the table, whether one means that the run failed.
pub const COUNTS: [(Count, &str, &str, bool); 21] = [
    (Count::Started, "started", "started", false),
    (Count::Completed, "completed", "completed", false),
    (
        Count::TimedOutInvite,
        "timeout_invite",
        "lost: INVITE without a final answer",
        true,
    ),
    (
        Count::TimedOutBye,
        "timeout_bye",
        "lost: BYE without an answer",
        true,
    ),
    (
        Count::TimedOutOther,
        "timeout_other",
        "lost: other request without an answer",
        true,
    ),
    (Count::BadStatus, "bad_status", "lost: answered 300 to 699", true),
    (
        Count::ConnectionLost,
        "connection_lost",
        "TCP connections lost",
        true,
    ),
    (
        Count::Unfinished,
        "unfinished",
        "lost: not over when the run was",
        true,
    ),
    (
        Count::UnackedAnswers,
        "unacked",
        "answers that no ACK came for",
        true,
    ),
    (Count::SentAgain, "retransmitted", "sent again (T1)", false),
    (Count::CameAgain, "came_again", "came again", false),
    (Count::ParseFailures, "parse_failures", "not understood", true),
    (Count::Strays, "strays", "of no call", false),
    (Count::Unexpected, "unexpected", "requests not expected", false),
    (
        Count::SendRefused,
        "send_refused",
        "sends that the kernel refused",
        true,
    ),
    (Count::Sent, "sent", "messages sent", false),
    (Count::Received, "received", "messages received", false),
    (Count::Calls, "calls", "of these, calls", false),
    (Count::Preloaded, "preloaded", "registered before", false),
    (
        Count::NotPreloaded,
        "not_preloaded",
        "could not be registered before",
        true,
    ),
    (
        Count::InTime,
        "in_time",
        "completed while others were started",
        false,
    ),
];

/// A histogram of nanoseconds from 100 ns to four hours at three digits: longer than ringing and its time-out may take.
pub type Latencies = Histogram<u64>;

pub fn latencies() -> Latencies {
    // The bounds are constants that the crate takes.
    Histogram::new_with_bounds(100, 4 * 3_600 * 1_000_000_000, 3)
        .unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// What one thread, one interval, or the whole run saw.
#[derive(Clone)]
pub struct Stats {
    pub histograms: Vec<Latencies>,
    pub counts: [u64; COUNTS.len()],
    /// By status code, of what was not 1xx or 2xx.
    pub statuses: Vec<u64>,
    /// Nanoseconds in which a thread had something to do, and in all.
    pub busy: u64,
    pub elapsed: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

impl Stats {
    pub fn new() -> Stats {
        Stats {
            histograms: METRICS.iter().map(|_| latencies()).collect(),
            counts: [0; COUNTS.len()],
            statuses: vec![0; 700],
            busy: 0,
            elapsed: 0,
        }
    }

    #[inline]
    pub fn record(&mut self, metric: Metric, nanoseconds: u64) {
        self.histograms[metric as usize].saturating_record(nanoseconds.max(1));
    }

    #[inline]
    pub fn count(&mut self, count: Count) {
        self.counts[count as usize] += 1;
    }

    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    pub fn add(&mut self, other: &Stats) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            // Same bounds: nothing can be out of range.
            let _ = mine.add(theirs);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.statuses.iter_mut().zip(&other.statuses) {
            *mine += theirs;
        }
        self.busy += other.busy;
        self.elapsed += other.elapsed;
    }

    pub fn clear(&mut self) {
        for histogram in &mut self.histograms {
            histogram.reset();
        }
        self.counts = [0; COUNTS.len()];
        self.statuses.fill(0);
        (self.busy, self.elapsed) = (0, 0);
    }

    /// Calls and transactions that did not come to their end.
    pub fn lost(&self) -> u64 {
        self.get(Count::Started)
            .saturating_sub(self.get(Count::Completed))
    }

    /// Whether anything happened that must not.
    pub fn failed(&self) -> bool {
        self.lost() > 0
            || COUNTS
                .iter()
                .any(|(count, _, _, bad)| *bad && self.get(*count) > 0)
    }

    /// Part of the time in which the generator had something to do, 0 to 1.
    pub fn busy_part(&self) -> f64 {
        if self.elapsed == 0 {
            0.0
        } else {
            self.busy as f64 / self.elapsed as f64
        }
    }

    /// Why the generator itself was the limit, if it was.
    pub fn own_limit(&self) -> Option<String> {
        let late = self.histograms[Metric::Late as usize].value_at_quantile(0.99);
        if late > 1_000_000 {
            return Some(format!(
                "it started calls late: p99 of {:.1} ms",
                late as f64 / 1e6
            ));
        }
        (self.busy_part() > 0.95)
            .then(|| format!("it was busy {:.0} % of the time", self.busy_part() * 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_the_order_of_their_enums() {
        assert!(
            METRICS
                .iter()
                .enumerate()
                .all(|(at, (metric, _))| *metric as usize == at)
        );
        assert!(
            COUNTS
                .iter()
                .enumerate()
                .all(|(at, (count, ..))| *count as usize == at)
        );
    }

    #[test]
    fn a_call_that_did_not_complete_makes_the_run_a_failed_one() {
        let mut stats = Stats::new();
        stats.count(Count::Started);
        assert!(stats.failed());
        stats.count(Count::Completed);
        assert!(!stats.failed());
        stats.count(Count::ParseFailures);
        assert!(stats.failed());
    }

    #[test]
    fn a_late_start_is_told_as_the_generators_own_limit() {
        let mut stats = Stats::new();
        stats.record(Metric::Late, 900_000);
        assert_eq!(stats.own_limit(), None);
        stats.record(Metric::Late, 2_000_000);
        assert!(stats.own_limit().is_some());
        stats.clear();
        (stats.busy, stats.elapsed) = (96, 100);
        assert!(stats.own_limit().is_some());
    }
}
