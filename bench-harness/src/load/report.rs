//! How a run is shown: a plain table, JSON, and an interval log that HdrHistogram's tools read.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::run::Outcome;
use super::stats::{COUNTS, Count, METRICS, Stats};

pub const QUANTILES: [(f64, &str); 5] = [
    (0.5, "p50"),
    (0.9, "p90"),
    (0.99, "p99"),
    (0.999, "p99.9"),
    (1.0, "max"),
];

/// Nanoseconds for people: three digits and a unit.
pub fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0 => "-".to_string(),
        1..100_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} µs", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.2} s", nanoseconds as f64 / 1e9),
    }
}

/// The table at the end of a run.
pub fn table(title: &str, outcome: &Outcome) -> String {
    let stats = &outcome.stats;
    let mut out = format!("{title}\n\n{:18}{:>10}", "", "count");
    for (_, name) in QUANTILES {
        let _ = write!(out, "{name:>10}");
    }
    out.push('\n');
    for (metric, name) in METRICS {
        let histogram = &stats.histograms[metric as usize];
        if histogram.is_empty() {
            continue;
        }
        let _ = write!(out, "{name:18}{:>10}", histogram.len());
        for (quantile, _) in QUANTILES {
            let _ = write!(out, "{:>10}", time(histogram.value_at_quantile(quantile)));
        }
        out.push('\n');
    }
    out.push('\n');
    for (count, _, words, bad) in COUNTS {
        let value = stats.get(count);
        if value > 0 {
            let _ = writeln!(out, "{value:>12}  {}{words}", if bad { "! " } else { "" });
        }
    }
    for (code, count) in stats.statuses.iter().enumerate().filter(|(_, count)| **count > 0) {
        let _ = writeln!(out, "{count:>12}  ! answered {code}");
    }
    let rate = stats.get(Count::Completed) as f64 / outcome.seconds.max(1e-9);
    let _ = writeln!(
        out,
        "\n{rate:>12.0}  completed a second, over {:.1} s",
        outcome.seconds
    );
    if let (Some(cpu), Some(each)) = (outcome.server_cpu, outcome.cpu_each()) {
        let part = cpu as f64 / 1e7 / outcome.seconds.max(1e-9);
        let _ = writeln!(
            out,
            "{each:>12.2}  µs of server CPU for each ({part:.0} % of one CPU)"
        );
    }
    let _ = writeln!(
        out,
        "{:>12.0}  % of the time the generator was busy",
        stats.busy_part() * 100.0
    );
    if let Some(why) = stats.own_limit() {
        let _ = writeln!(
            out,
            "\nThe generator itself was the limit: {why}. The latencies are partly its own."
        );
    }
    let lost = stats.lost();
    if lost > 0 {
        let _ = writeln!(
            out,
            "\nLOST: {lost} of {} did not complete.",
            stats.get(Count::Started)
        );
    } else if stats.failed() {
        let _ = writeln!(out, "\nFAILED: see the lines marked with !");
    }
    out
}

/// Text in JSON's quotes.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character < ' ' => {
                let _ = write!(out, "\\u{:04x}", character as u32);
            }
            character => out.push(character),
        }
    }
    out + "\""
}

/// The result as one JSON object. Times are nanoseconds.
pub fn json(title: &str, rate: f64, outcome: &Outcome) -> String {
    let stats = &outcome.stats;
    let latencies = METRICS
        .iter()
        .filter(|(metric, _)| !stats.histograms[*metric as usize].is_empty())
        .map(|(metric, name)| {
            let histogram = &stats.histograms[*metric as usize];
            let values = QUANTILES.map(|(quantile, name)| {
                format!("{}: {}", quoted(name), histogram.value_at_quantile(quantile))
            });
            format!(
                "{}: {{\"count\": {}, {}}}",
                quoted(name),
                histogram.len(),
                values.join(", ")
            )
        });
    let counts = COUNTS.map(|(count, key, _, _)| format!("{}: {}", quoted(key), stats.get(count)));
    let statuses = stats.statuses.iter().enumerate().filter(|(_, count)| **count > 0);
    format!(
        "{{\n  \"title\": {},\n  \"offered_per_second\": {rate},\n  \"seconds\": {:.3},\n  \"failed\": {},\n  \"lost\": {},\n  \
        \"own_limit\": {},\n  \"busy\": {:.3},\n  \"server_cpu_us_each\": {},\n  \"latency_ns\": {{\n    {}\n  }},\n  \
        \"counts\": {{{}}},\n  \"statuses\": {{{}}}\n}}\n",
        quoted(title),
        outcome.seconds,
        stats.failed(),
        stats.lost(),
        stats.own_limit().map_or("null".to_string(), |why| quoted(&why)),
        stats.busy_part(),
        outcome
            .cpu_each()
            .map_or("null".to_string(), |each| format!("{each:.3}")),
        latencies.collect::<Vec<_>>().join(",\n    "),
        counts.join(", "),
        statuses
            .map(|(code, count)| format!("\"{code}\": {count}"))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

/// An HdrHistogram interval log, version 2: one line a metric a second, tagged with its name.
pub struct IntervalLog {
    file: BufWriter<File>,
    began: SystemTime,
    last: Duration,
}

impl IntervalLog {
    pub fn create(path: &Path) -> io::Result<IntervalLog> {
        let began = SystemTime::now();
        let mut file = BufWriter::new(File::create(path)?);
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment("nanoseconds; each tag is a request and its answer")
            .with_start_time(began)
            .with_base_time(began)
            .begin_log_with(&mut file, &mut serializer)?;
        Ok(IntervalLog {
            file,
            began,
            last: Duration::ZERO,
        })
    }

    pub fn write(&mut self, stats: &Stats) -> io::Result<()> {
        let end = self.began.elapsed().unwrap_or(self.last);
        let mut serializer = V2DeflateSerializer::new();
        // A builder whose header was written already continues the log.
        let mut lines = Vec::new();
        let mut writer = IntervalLogWriterBuilder::new().begin_log_with(&mut lines, &mut serializer)?;
        for (metric, name) in METRICS {
            let histogram = &stats.histograms[metric as usize];
            let tag = name.replace([' ', ','], "-");
            if let (false, Some(tag)) = (histogram.is_empty(), Tag::new(&tag)) {
                let length = end.saturating_sub(self.last);
                writer
                    .write_histogram(histogram, self.last, length, Some(tag))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        self.last = end;
        // The header of the second writer is left out.
        let text = String::from_utf8_lossy(&lines);
        for line in text.lines().filter(|line| line.starts_with("Tag=")) {
            io::Write::write_all(&mut self.file, line.as_bytes())?;
            io::Write::write_all(&mut self.file, b"\n")?;
        }
        io::Write::flush(&mut self.file)
    }
}

pub fn write_file(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::super::stats::{Count, Metric, Stats};
    use super::*;

    fn outcome() -> Outcome {
        let mut stats = Stats::new();
        stats.count(Count::Started);
        stats.record(Metric::To200, 1_234_567);
        stats.statuses[486] = 1;
        Outcome {
            stats,
            server_cpu: Some(5000),
            seconds: 1.0,
        }
    }

    #[test]
    fn the_table_says_that_a_call_was_lost_and_how_it_was_answered() {
        let table = table("a run", &outcome());
        assert!(table.contains("LOST: 1 of 1"), "{table}");
        assert!(table.contains("answered 486"), "{table}");
        assert!(table.contains("1.23 ms"), "{table}");
    }

    #[test]
    fn json_quotes_its_texts_and_has_every_count() {
        let json = json("a \"run\"\n", 5.0, &outcome());
        assert!(json.contains(r#""title": "a \"run\"\u000a""#), "{json}");
        assert!(
            json.contains(r#""lost": 1,"#) && json.contains(r#""486": 1"#),
            "{json}"
        );
        for (_, key, ..) in COUNTS {
            assert!(json.contains(&format!("\"{key}\":")), "{key}");
        }
    }

    #[test]
    fn the_interval_log_can_be_read_back() {
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let path = std::env::temp_dir().join(format!("ringway-load-{}.hlog", std::process::id()));
        let mut log = IntervalLog::create(&path).unwrap();
        log.write(&outcome().stats).unwrap();
        log.write(&outcome().stats).unwrap();
        drop(log);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let entries: Vec<_> = IntervalLogIterator::new(&bytes)
            .map(|entry| entry.unwrap())
            .collect();
        let intervals = entries
            .iter()
            .filter(|entry| matches!(entry, LogEntry::Interval(_)))
            .count();
        assert_eq!(intervals, 2);
    }
}
