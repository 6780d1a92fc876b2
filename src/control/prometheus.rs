//! `/metrics`: the text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};
use std::sync::Arc;

use crate::metrics::{
    DropReason, Histograms, IcmpError, MessageKind, Messages, Metrics, OVERLOAD_CLASSES, TellKind, Timed,
    Undelivered, in_all,
};
use crate::trunk::standing::Standing;
use crate::wire::Transport;

use super::limits;
use super::status::{Facts, Gauges, Sent, TOTALS};
use super::trunks::{DestinationView, TrunkView};

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
    let shards = &facts.metrics[..];
    page.family("info", "gauge", "The version that runs.");
    page.line("info", &label("version", env!("CARGO_PKG_VERSION")), 1);
    let draining = u64::from(facts.is_draining());
    page.single(
        "draining",
        "gauge",
        "1 while new calls are refused because the server stops.",
        draining,
    );
    let uptime = (facts.now)().since(facts.started).as_secs_f64();
    page.single("uptime_seconds", "gauge", "Time since the start.", uptime);
    page.single(
        "admin_connections",
        "gauge",
        "Connections of the admin server now, those of the command line included.",
        facts.admin.now(),
    );
    for &(name, pick) in Gauges::NAMES {
        let help = format!("{} now, by shard.", capital(name));
        page.by_shard(shards, name, "gauge", &help, |m| pick(m).get());
    }
    page.by_shard(
        shards,
        "overload_loss_ratio",
        "gauge",
        "Share of the new requests that are refused because of overload, by shard.",
        |m| m.overload_loss_permille.get() as f64 / 1_000.0,
    );
    for &(name, pick) in TOTALS {
        let help = format!("{} since the start, by shard.", capital(name));
        page.by_shard(shards, &format!("{name}_total"), "counter", &help, |m| {
            pick(m).get()
        });
    }
    page.messages(shards, "messages_received_total", "received", |m| &m.received);
    page.messages(
        shards,
        "messages_sent_total",
        "sent, those sent again left out",
        |m| &m.sent,
    );
    page.counts(
        "drops_total",
        "What went nowhere, by reason.",
        "reason",
        DropReason::ALL.iter().map(|&reason| {
            let count = in_all(shards, |m| m.drops[reason as usize].get());
            (reason.text(), count)
        }),
    );
    page.counts(
        "limits_reached_total",
        "How often something was refused or dropped at a limit, by the key of the configuration that sets it.",
        "limit",
        limits::reached(shards).chain(facts.limits_reached()),
    );
    page.counts(
        "not_told_total",
        "What shards could not tell the control thread for want of room, by kind.",
        "kind",
        TellKind::ALL.iter().map(|&kind| {
            let count = in_all(shards, |m| m.tells_dropped[kind as usize].get());
            (kind.text(), count)
        }),
    );
    page.counts(
        "icmp_errors_total",
        "Errors that came back from the network for datagrams sent, by kind.",
        "kind",
        IcmpError::ALL.iter().map(|&kind| {
            let count = in_all(shards, |m| m.icmp_errors[kind as usize].get());
            (kind.text(), count)
        }),
    );
    page.counts(
        "undelivered_total",
        "Messages of which the network says that they reached nobody, by what became of them.",
        "result",
        Undelivered::ALL.iter().map(|&what| {
            let count = in_all(shards, |m| m.undelivered[what as usize].get());
            (what.text(), count)
        }),
    );
    page.counts(
        "overload_refused_total",
        "New requests refused with 503 because of overload, by class.",
        "class",
        (OVERLOAD_CLASSES.into_iter().enumerate())
            .map(|(class, name)| (name, in_all(shards, |m| m.overload_refused[class].get()))),
    );
    page.counts(
        "requests_rejected_total",
        "Requests that the server itself answered with a failure, by status class.",
        "class",
        (["4xx", "5xx", "6xx"].into_iter().enumerate())
            .map(|(class, name)| (name, in_all(shards, |m| m.rejected[class].get()))),
    );
    if let Some(records) = &facts.outlets.records {
        page.outlet(
            records,
            "call_records_written_total",
            "call_records_lost_total",
            "Call records",
        );
    }
    if let Some(hep) = &facts.outlets.hep {
        let what = "Messages for the HEP collector";
        page.outlet(hep, "hep_messages_sent_total", "hep_messages_lost_total", what);
    }
    page.trunks(&facts.trunks.view((facts.now)()));
    page.family(
        "time_in_server_seconds",
        "histogram",
        "From when a message was received to after the send of what came of it, by kind of message.",
    );
    for &kind in MessageKind::ALL {
        let label = format!("kind=\"{}\"", kind.text());
        let timed = Timed::InServer(kind);
        page.histogram("time_in_server_seconds", &label, histograms, timed);
    }
    for &(name, help, timed) in TIMED {
        page.family(name, "histogram", help);
        page.histogram(name, "", histograms, timed);
    }
    page.text
}

/// What is timed beside messages.
const TIMED: &[(&str, &str, Timed)] = &[
    (
        "call_ringing_seconds",
        "From an INVITE that begins a call to the first 180 or 183 that goes back.",
        Timed::Ringing,
    ),
    (
        "call_answer_seconds",
        "From an INVITE that begins a call to the 2xx that goes back.",
        Timed::Answer,
    ),
    (
        "transaction_seconds",
        "The life of a transaction.",
        Timed::Transaction,
    ),
    (
        "turn_seconds",
        "A turn of a shard's loop, its wait left out.",
        Timed::Turn,
    ),
    (
        "mailbox_wait_seconds",
        "How long a message waited for another shard.",
        Timed::Mailbox,
    ),
];

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

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        writeln!(self.text, "ringway_{name}{labels} {value}").expect(ENDLESS);
    }

    /// A family of one line.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(name, "", value);
    }

    /// A family of a line a shard.
    fn by_shard<V: Display>(
        &mut self,
        shards: &[Arc<Metrics>],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&Metrics) -> V,
    ) {
        self.family(name, kind, help);
        for (shard, metrics) in shards.iter().enumerate() {
            self.line(name, &label("shard", shard), value(metrics));
        }
    }

    /// A family of counts over all shards, by the values of one label.
    fn counts(
        &mut self,
        name: &str,
        help: &str,
        key: &str,
        counts: impl Iterator<Item = (&'static str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (value, count) in counts {
            self.line(name, &label(key, value), count);
        }
    }

    fn messages(&mut self, shards: &[Arc<Metrics>], name: &str, what: &str, pick: fn(&Metrics) -> &Messages) {
        let help = format!("Messages {what}, by transport and method or status class.");
        self.family(name, "counter", &help);
        for transport in Transport::ALL {
            for &kind in MessageKind::ALL {
                let labels = format!(
                    "{{transport=\"{}\",kind=\"{}\"}}",
                    transport.name().to_ascii_lowercase(),
                    kind.text()
                );
                let count = in_all(shards, |m| pick(m).get(transport, kind));
                self.line(name, &labels, count);
            }
        }
    }

    fn outlet(&mut self, counts: &Sent, sent: &str, lost: &str, what: &str) {
        let help = format!("{what} that were written or sent.");
        self.single(sent, "counter", &help, Sent::get(&counts.sent));
        let help = format!("{what} that were lost.");
        self.single(lost, "counter", &help, Sent::get(&counts.lost));
    }

    fn trunks(&mut self, trunks: &[TrunkView]) {
        for &(name, kind, help, pick) in OF_TRUNK {
            self.family(name, kind, help);
            for trunk in trunks {
                self.line(name, &label("trunk", &trunk.trunk), pick(trunk));
            }
        }
        let each = || {
            trunks.iter().flat_map(|trunk| {
                let labels = |one: &DestinationView| {
                    let destination = escaped(&one.destination);
                    format!("trunk=\"{}\",destination=\"{destination}\"", trunk.trunk)
                };
                trunk.destinations.iter().map(move |one| (labels(one), one))
            })
        };
        for &(name, kind, help, pick) in OF_DESTINATION {
            self.family(name, kind, help);
            for (labels, one) in each() {
                self.line(name, &format!("{{{labels}}}"), pick(one));
            }
        }
        let state = "trunk_destination_state";
        self.family(
            state,
            "gauge",
            "1 for the state that a destination is in, by trunk, destination and state.",
        );
        for (labels, one) in each() {
            for standing in Standing::ALL {
                let is_here = u64::from(standing.text() == one.state);
                self.line(
                    state,
                    &format!("{{{labels},state=\"{}\"}}", standing.text()),
                    is_here,
                );
            }
        }
        let time = "trunk_options_round_trip_seconds";
        self.family(
            time,
            "gauge",
            "From the last OPTIONS that a destination answered to its answer.",
        );
        for (labels, one) in each() {
            if let Some(us) = one.round_trip_us {
                self.line(time, &format!("{{{labels}}}"), us as f64 / 1e6);
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

/// Name, kind, help, and the value of a trunk or destination.
type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

macro_rules! families {
    ($($kind:ident $name:ident, $help:literal, $value:expr;)+) => {
        &[$((stringify!($name), stringify!($kind), $help, $value),)+]
    };
}

const OF_TRUNK: &[Family<TrunkView>] = families! {
    gauge trunk_calls, "Calls now, by trunk.", |t| t.calls.into();
    counter trunk_calls_started_total, "Calls that were sent to a destination, by trunk.", |t| t.calls_started as f64;
    counter trunk_calls_over_limit_total, "Calls that a limit of the trunk refused, by trunk.",
        |t| t.calls_over_limit as f64;
    counter trunk_calls_without_destination_total, "Calls for which no destination could be used, by trunk.",
        |t| t.calls_without_destination as f64;
    counter trunk_failovers_total, "Times that another destination was tried, by trunk.", |t| t.failovers as f64;
};

const OF_DESTINATION: &[Family<DestinationView>] = families! {
    gauge trunk_destination_calls, "Calls now, by destination.", |d| d.calls.into();
    counter trunk_destination_calls_started_total, "Calls that were sent to a destination.", |d| d.calls_started as f64;
    counter trunk_destination_calls_failed_total,
        "Calls that a destination failed: silence, no way there, or a response that makes the next be tried.",
        |d| d.calls_failed as f64;
    counter trunk_destination_calls_over_limit_total, "Calls that a limit of the destination kept from it.",
        |d| d.calls_over_limit as f64;
    counter trunk_destination_calls_throttled_total,
        "Requests that were not sent because the destination asks for less (RFC 7339).", |d| d.calls_throttled as f64;
    gauge trunk_destination_loss_ratio,
        "Share of the requests that the destination asks not to be sent (RFC 7339).",
        |d| f64::from(d.loss_percent) / 100.0;
    counter trunk_options_sent_total, "OPTIONS that were sent to a destination.", |d| d.options_sent as f64;
    counter trunk_options_failed_total,
        "OPTIONS to a destination that were not answered, or by a status that is not alive.",
        |d| d.options_failed as f64;
};

/// The labels of a line that has one, whose value needs no escaping.
fn label(key: &str, value: impl Display) -> String {
    format!("{{{key}=\"{value}\"}}")
}

/// A label's value: quotes, backslashes and line ends escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
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
    use crate::config::Config;
    use crate::control::status::Outlets;
    use crate::control::trunks::Trunks;
    use crate::time::Instant;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn buckets_hold_what_is_at_most_their_bound_and_the_last_holds_all() {
        let metrics: Arc<Metrics> = Arc::default();
        metrics.dropped(DropReason::StrayAck);
        metrics.dialogs_begun.follow(3);
        metrics.dialogs_begun.follow(7);
        metrics.overload_refused[3].add(2);
        let trunks = Arc::new(Trunks::new(&Config::default(), Arc::default()));
        let outlets = Outlets {
            records: Some(Arc::default()),
            hep: None,
        };
        let now = || Instant::from_millis(5_000);
        let facts = Facts::new(
            vec![metrics],
            Vec::new,
            trunks,
            outlets,
            now,
            crate::time::DateShift::default,
        );
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
            "ringway_dialogs_begun_total{shard=\"0\"} 7",
            "ringway_overload_refused_total{class=\"register\"} 2",
            "ringway_call_records_lost_total 0",
            "ringway_messages_received_total{transport=\"udp\",kind=\"INVITE\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
