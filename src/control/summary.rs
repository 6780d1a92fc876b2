//! The last page: what the server did, in one screen.

use std::fmt;
use std::sync::Arc;

use crate::metrics::{Counter, DropReason, Histograms, MessageKind, Metrics, Timed, in_all};
use crate::shard::Leftovers;

/// What the whole server did.
pub struct Report {
    pub metrics: Vec<Arc<Metrics>>,
    pub histograms: Histograms<u64>,
    pub leftovers: Leftovers,
}

/// Prints a [`Report`].
pub struct Summary<'a>(pub &'a Report);

/// Prints the percentiles of the time in the server, a row a message kind that was seen.
pub struct Percentiles<'a>(pub &'a Histograms<u64>);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = &self.0.metrics;
        let sum = |pick: fn(&Metrics) -> &Counter| in_all(metrics, |m| pick(m).get());
        writeln!(f, "messages")?;
        for &kind in MessageKind::ALL {
            let received = in_all(metrics, |m| m.received.sum(kind));
            let sent = in_all(metrics, |m| m.sent.sum(kind));
            if received + sent > 0 {
                writeln!(
                    f,
                    "  {:<10} received {received:>10}   sent {sent:>10}",
                    kind.text()
                )?;
            }
        }
        writeln!(
            f,
            "  retransmissions: {} sent, {} absorbed",
            sum(|m| &m.retransmissions_sent),
            sum(|m| &m.retransmissions_absorbed)
        )?;
        writeln!(
            f,
            "calls: {} begun, {} answered, {} ended",
            sum(|m| &m.calls_started),
            sum(|m| &m.calls_answered),
            sum(|m| &m.calls_ended)
        )?;
        let refused = in_all(metrics, |m| m.overload_refused.iter().map(Counter::get).sum());
        if refused > 0 {
            writeln!(f, "overload: {refused} refused")?;
        }
        writeln!(
            f,
            "connections: {} accepted, {} opened, {} closed",
            sum(|m| &m.connections_accepted),
            sum(|m| &m.connections_opened),
            sum(|m| &m.connections_closed)
        )?;
        writeln!(
            f,
            "datagrams: {} in, {} out, of these {} in {} runs; {} runs refused",
            sum(|m| &m.datagrams_in),
            sum(|m| &m.datagrams_out),
            sum(|m| &m.run_datagrams_out),
            sum(|m| &m.runs_out),
            sum(|m| &m.runs_refused)
        )?;
        if metrics.len() > 1 {
            writeln!(f, "mail between shards: {}", sum(|m| &m.mailbox_sent))?;
        }
        writeln!(f, "time in the server")?;
        write!(f, "{}", Percentiles(&self.0.histograms))?;
        let mut has_drops = false;
        for &reason in DropReason::ALL {
            let count = in_all(metrics, |m| m.drops[reason as usize].get());
            if count > 0 {
                if !has_drops {
                    writeln!(f, "drops")?;
                }
                has_drops = true;
                writeln!(f, "  {:<28} {count:>10}", reason.text())?;
            }
        }
        if !has_drops {
            writeln!(f, "drops: none")?;
        }
        if self.0.leftovers.is_none() {
            writeln!(f, "leftovers: none")
        } else {
            writeln!(f, "leftovers: {:?}", self.0.leftovers)
        }
    }
}

impl fmt::Display for Percentiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "µs", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for &kind in MessageKind::ALL {
            let histogram = self.0.get(Timed::InServer(kind));
            if histogram.is_empty() {
                continue;
            }
            let us = |ns: u64| ns as f64 / 1_000.0;
            writeln!(
                f,
                "  {:<10} {:>10} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
                kind.text(),
                histogram.len(),
                us(histogram.value_at_quantile(0.5)),
                us(histogram.value_at_quantile(0.9)),
                us(histogram.value_at_quantile(0.99)),
                us(histogram.value_at_quantile(0.999)),
                us(histogram.max()),
            )?;
        }
        Ok(())
    }
}
