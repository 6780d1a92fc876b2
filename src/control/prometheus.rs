//! `/metrics`: the text format of Prometheus, version 0.0.4.

use std::fmt::Write;

use crate::metrics::{DropReason, Histograms, MessageKind, Metrics, TellKind, Timed};
use crate::wire::Transport;

use super::limits;
use super::status::{Facts, Gauges, TOTALS};

/// Upper bounds of the buckets, microseconds: close enough together from 10 µs to 60 s that percentiles can be drawn.
const BUCKETS_US: &[u64] = &[
    10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000,
    20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000,
    30_000_000, 60_000_000,
];

/// All metrics.
pub fn render(facts: &Facts, histograms: &Histograms<u64>) -> String {
    let mut page = Page {
        text: String::with_capacity(64 * 1_024),
    };
    page.family("info", "gauge", "The version that runs.");
    page.line(
        "info",
        &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")),
        1,
    );
    page.family(
        "draining",
        "gauge",
        "1 while new calls are refused because the server stops.",
    );
    page.line("draining", "", u64::from(facts.is_draining()));
    let uptime = (facts.now)().since(facts.started);
    page.family("uptime_seconds", "gauge", "Time since the start.");
    page.line("uptime_seconds", "", uptime.as_secs_f64());
    for &(name, pick) in Gauges::NAMES {
        page.family(name, "gauge", &format!("{} now, by shard.", capital(name)));
        for (shard, metrics) in facts.metrics.iter().enumerate() {
            page.line(name, &format!("{{shard=\"{shard}\"}}"), pick(metrics).get());
        }
    }
    let loss = "overload_loss_ratio";
    page.family(
        loss,
        "gauge",
        "Share of the new requests that are refused because of overload, by shard.",
    );
    for (shard, metrics) in facts.metrics.iter().enumerate() {
        let share = metrics.overload_loss_permille.get() as f64 / 1_000.0;
        page.line(loss, &format!("{{shard=\"{shard}\"}}"), share);
    }
    for &(name, pick) in TOTALS {
        let family = format!("{name}_total");
        page.family(
            &family,
            "counter",
            &format!("{} since the start, by shard.", capital(name)),
        );
        for (shard, metrics) in facts.metrics.iter().enumerate() {
            page.line(&family, &format!("{{shard=\"{shard}\"}}"), pick(metrics).get());
        }
    }
    page.messages(
        facts,
        "messages_received_total",
        "received",
        |metrics, transport, kind| metrics.received.get(transport, kind),
    );
    page.messages(
        facts,
        "messages_sent_total",
        "sent, those sent again left out",
        |metrics, transport, kind| metrics.sent.get(transport, kind),
    );
    page.family("drops_total", "counter", "What went nowhere, by reason.");
    for &reason in DropReason::ALL {
        let count: u64 = facts.metrics.iter().map(|m| m.drops[reason as usize].get()).sum();
        page.line("drops_total", &format!("{{reason=\"{}\"}}", reason.text()), count);
    }
    page.family(
        "limits_reached_total",
        "counter",
        "How often something was refused or dropped at a limit, by the key of the configuration that sets it.",
    );
    for (limit, count) in limits::reached(&facts.metrics) {
        page.line("limits_reached_total", &format!("{{limit=\"{limit}\"}}"), count);
    }
    page.family(
        "not_told_total",
        "counter",
        "What shards could not tell the control thread for want of room, by kind.",
    );
    for &kind in TellKind::ALL {
        let count: u64 = facts
            .metrics
            .iter()
            .map(|m| m.tells_dropped[kind as usize].get())
            .sum();
        page.line("not_told_total", &format!("{{kind=\"{}\"}}", kind.text()), count);
    }
    page.family(
        "time_in_server_seconds",
        "histogram",
        "From when a message was received to after the send of what came of it, by kind of message.",
    );
    for &kind in MessageKind::ALL {
        let label = format!("kind=\"{}\"", kind.text());
        page.histogram(
            "time_in_server_seconds",
            &label,
            histograms,
            Timed::InServer(kind),
        );
    }
    for (timed, name, help) in [
        (
            Timed::Ringing,
            "call_ringing_seconds",
            "From an INVITE that begins a call to the first 180 or 183 that goes back.",
        ),
        (
            Timed::Answer,
            "call_answer_seconds",
            "From an INVITE that begins a call to the 2xx that goes back.",
        ),
        (
            Timed::Transaction,
            "transaction_seconds",
            "The life of a transaction.",
        ),
        (
            Timed::Turn,
            "turn_seconds",
            "A turn of a shard's loop, its wait left out.",
        ),
        (
            Timed::Mailbox,
            "mailbox_wait_seconds",
            "How long a message waited for another shard.",
        ),
    ] {
        page.family(name, "histogram", help);
        page.histogram(name, "", histograms, timed);
    }
    page.text
}

struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(
            self.text,
            "# HELP ringway_{name} {help}\n# TYPE ringway_{name} {kind}"
        )
        .expect(ENDLESS);
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        writeln!(self.text, "ringway_{name}{labels} {value}").expect(ENDLESS);
    }

    fn messages(
        &mut self,
        facts: &Facts,
        name: &str,
        what: &str,
        count: fn(&Metrics, Transport, MessageKind) -> u64,
    ) {
        let help = format!("Messages {what}, by transport and method or status class.");
        self.family(name, "counter", &help);
        for transport in Transport::ALL {
            for &kind in MessageKind::ALL {
                let sum: u64 = facts
                    .metrics
                    .iter()
                    .map(|metrics| count(metrics, transport, kind))
                    .sum();
                let labels = format!(
                    "{{transport=\"{}\",kind=\"{}\"}}",
                    transport.name().to_ascii_lowercase(),
                    kind.text()
                );
                self.line(name, &labels, sum);
            }
        }
    }

    fn histogram(&mut self, name: &str, label: &str, histograms: &Histograms<u64>, timed: Timed) {
        let histogram = histograms.get(timed);
        let comma = if label.is_empty() { "" } else { "," };
        let braces = if label.is_empty() {
            String::new()
        } else {
            format!("{{{label}}}")
        };
        let mut recorded = histogram.iter_recorded().peekable();
        let (mut count, mut sum_ns) = (0, 0u128);
        let mut take_up_to = |bound_ns: u64| {
            while let Some(bucket) = recorded.next_if(|bucket| bucket.value_iterated_to() <= bound_ns) {
                count += bucket.count_since_last_iteration();
                sum_ns +=
                    u128::from(bucket.value_iterated_to()) * u128::from(bucket.count_since_last_iteration());
            }
            (count, sum_ns)
        };
        let mut text = String::new();
        for &bound_us in BUCKETS_US {
            let (count, _) = take_up_to(bound_us * 1_000);
            let bound = bound_us as f64 / 1e6;
            writeln!(
                text,
                "ringway_{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}"
            )
            .expect(ENDLESS);
        }
        let (count, sum_ns) = take_up_to(u64::MAX);
        let sum = sum_ns as f64 / 1e9;
        writeln!(
            text,
            "ringway_{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}\nringway_{name}_sum{braces} {sum}\n\
             ringway_{name}_count{braces} {count}"
        )
        .expect(ENDLESS);
        self.text.push_str(&text);
    }
}

const ENDLESS: &str = "a String takes everything";

fn capital(name: &str) -> String {
    let text = name.replace('_', " ");
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn buckets_hold_what_is_at_most_their_bound_and_the_last_holds_all() {
        let metrics: Arc<Metrics> = Arc::default();
        metrics.dropped(DropReason::StrayAck);
        let facts = Facts::new(vec![metrics], Vec::new(), || Instant::from_millis(5_000));
        let mut histograms = Histograms::<u64>::default();
        for us in [9, 12, 12, 900, 70_000_000] {
            histograms.record(Timed::Answer, Duration::from_micros(us));
        }
        let text = render(&facts, &histograms);
        for line in [
            "ringway_call_answer_seconds_bucket{le=\"0.00001\"} 1",
            "ringway_call_answer_seconds_bucket{le=\"0.000015\"} 3",
            "ringway_call_answer_seconds_bucket{le=\"0.001\"} 4",
            "ringway_call_answer_seconds_bucket{le=\"30\"} 4",
            "ringway_call_answer_seconds_bucket{le=\"+Inf\"} 5",
            "ringway_call_answer_seconds_count 5",
            "ringway_drops_total{reason=\"stray_ack\"} 1",
            "ringway_calls{shard=\"0\"} 0",
            "ringway_messages_received_total{transport=\"udp\",kind=\"INVITE\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
