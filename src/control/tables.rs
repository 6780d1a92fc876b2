//! The command line's tables: what the API answers, for people to read.

use std::fmt::Write;

use serde_json::Value;

use crate::msg::name_addr::NameAddr;

use super::printable;

/// A column: its heading, and how wide it is at least.
pub struct Column {
    pub name: &'static str,
    pub width: usize,
    pub of: fn(&Value) -> String,
}

fn text(value: &Value) -> String {
    match value {
        // Peers have chosen many of these texts, and a quoted string may hold any byte.
        Value::String(text) => text.chars().map(printable).collect(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Seconds as people say them: `47 s`, `12 min`, `3 h 05`, `6 d 22 h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h {:02}", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn duration_of(value: &Value) -> String {
    value.as_u64().map_or(String::new(), duration)
}

pub const REGISTRATIONS: &[Column] = &[
    Column {
        name: "AOR",
        width: 34,
        of: |v| text(&v["aor"]),
    },
    Column {
        name: "CONTACT",
        width: 40,
        of: |v| text(&v["contact"]),
    },
    Column {
        name: "VIA",
        width: 4,
        of: |v| text(&v["transport"]),
    },
    Column {
        name: "FROM",
        width: 21,
        of: |v| text(&v["peer"]),
    },
    Column {
        name: "EXPIRES",
        width: 9,
        of: |v| duration_of(&v["expires_s"]),
    },
];

pub const CALLS: &[Column] = &[
    Column {
        name: "CALL-ID",
        width: 34,
        of: |v| text(&v["legs"][0]["call_id"]),
    },
    Column {
        name: "CALLER",
        width: 30,
        of: |v| uri_of(&text(&v["legs"][0]["remote"])),
    },
    Column {
        name: "CALLEE",
        width: 30,
        of: |v| uri_of(&text(&v["legs"][0]["local"])),
    },
    Column {
        name: "STATE",
        width: 8,
        of: |v| text(&v["state"]),
    },
    Column {
        name: "AGE",
        width: 8,
        of: |v| duration_of(&v["age_s"]),
    },
];

pub const SUBSCRIPTIONS: &[Column] = &[
    Column {
        name: "AOR",
        width: 34,
        of: |v| text(&v["aor"]),
    },
    Column {
        name: "SUBSCRIBER",
        width: 40,
        of: |v| text(&v["subscriber"]),
    },
    Column {
        name: "VIA",
        width: 4,
        of: |v| text(&v["transport"]),
    },
    Column {
        name: "EXPIRES",
        width: 9,
        of: |v| duration_of(&v["expires_s"]),
    },
];

pub const CONNECTIONS: &[Column] = &[
    Column {
        name: "PEER",
        width: 24,
        of: |v| text(&v["peer"]),
    },
    Column {
        name: "VIA",
        width: 4,
        of: |v| text(&v["transport"]),
    },
    Column {
        name: "SHARD",
        width: 5,
        of: |v| text(&v["shard"]),
    },
    Column {
        name: "IDLE",
        width: 9,
        of: |v| duration_of(&v["idle_s"]),
    },
];

pub const PEERS: &[Column] = &[
    Column {
        name: "PEER",
        width: 39,
        of: |v| text(&v["peer"]),
    },
    Column {
        name: "IN/S",
        width: 9,
        of: |v| rate(&v["received_per_s"]),
    },
    Column {
        name: "OUT/S",
        width: 9,
        of: |v| rate(&v["sent_per_s"]),
    },
    Column {
        name: "IN",
        width: 9,
        of: |v| text(&v["received"]),
    },
    Column {
        name: "OUT",
        width: 9,
        of: |v| text(&v["sent"]),
    },
];

fn rate(value: &Value) -> String {
    value.as_f64().map_or(String::new(), |rate| format!("{rate:.1}"))
}

/// The URI of a name-addr with its parameters. The name before it may look like one.
fn uri_of(name_addr: &str) -> String {
    let uri = NameAddr::uri_of(name_addr.as_bytes());
    uri.map_or(name_addr.into(), String::from_utf8_lossy).into_owned()
}

/// The headings.
pub fn heading(columns: &[Column]) -> String {
    row(columns, |column| column.name.to_owned())
}

/// A line of the API as a row; a line that is none as it is.
pub fn line(columns: &[Column], json: &str) -> String {
    match serde_json::from_str::<Value>(json) {
        Ok(value) => row(columns, |column| (column.of)(&value)),
        Err(_) => json.to_owned(),
    }
}

fn row(columns: &[Column], cell: impl Fn(&Column) -> String) -> String {
    let mut line = String::new();
    for column in columns {
        write!(line, "{:<width$}  ", cell(column), width = column.width).expect(ENDLESS);
    }
    line.truncate(line.trim_end().len());
    line
}

const ENDLESS: &str = "a String takes everything";

/// `ringway reload`.
pub fn reload(value: &Value) -> String {
    let mut page = String::new();
    for (kind, title) in [("changed", "changed"), ("waiting", "at the next start")] {
        for change in value[kind].as_array().into_iter().flatten() {
            let [key, from, to] = ["key", "from", "to"].map(|part| text(&change[part]));
            writeln!(page, "{title:<18} {key:<32} {from} -> {to}").expect(ENDLESS);
        }
    }
    if page.is_empty() {
        page.push_str("nothing changed\n");
    }
    page
}

/// `ringway status`.
pub fn status(value: &Value) -> String {
    let mut page = String::new();
    let mut put = |name: &str, value: String| writeln!(page, "{name:<14} {value}").expect(ENDLESS);
    put(
        "ringway",
        format!("{}, {}", text(&value["version"]), text(&value["state"])),
    );
    put("up for", duration_of(&value["uptime_s"]));
    let listeners = value["listeners"].as_array().into_iter().flatten().map(text);
    put("listening", listeners.collect::<Vec<_>>().join(", "));
    for name in [
        "calls",
        "registrations",
        "subscriptions",
        "connections",
        "transactions",
    ] {
        put(name, text(&value["now"][name]));
    }
    let counts = |value: &Value| {
        let pairs = value.as_object().into_iter().flatten();
        pairs
            .map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    put("received", counts(&value["received"]));
    put("sent", counts(&value["sent"]));
    let drops = counts(&value["drops"]);
    put(
        "drops",
        if drops.is_empty() {
            "none".to_owned()
        } else {
            drops
        },
    );
    for (shard, gauges) in value["shards"].as_array().into_iter().flatten().enumerate() {
        put(
            &format!("shard {shard}"),
            format!(
                "calls {}, registrations {}, received {}, sent {}",
                gauges["calls"], gauges["registrations"], gauges["received"], gauges["sent"]
            ),
        );
    }
    page
}

/// `ringway call`: the call and its legs.
pub fn call(json: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(json) else {
        return json.to_owned();
    };
    let mut page = format!(
        "{}, for {}\n",
        text(&value["state"]),
        duration_of(&value["age_s"])
    );
    for leg in value["legs"].as_array().into_iter().flatten() {
        writeln!(
            page,
            "  {:<7} {} {}\n          Call-ID  {}\n          remote   {}\n          local    {}\n          contact  {}",
            text(&leg["side"]),
            text(&leg["transport"]),
            text(&leg["peer"]),
            text(&leg["call_id"]),
            text(&leg["remote"]),
            text(&leg["local"]),
            text(&leg["target"]),
        )
        .expect(ENDLESS);
    }
    page
}

const DESTINATIONS: &[Column] = &[
    Column {
        name: "DESTINATION",
        width: 30,
        of: |v| text(&v["destination"]),
    },
    Column {
        name: "STATE",
        width: 7,
        of: |v| text(&v["state"]),
    },
    Column {
        name: "FOR",
        width: 8,
        of: |v| duration_of(&v["for_s"]),
    },
    Column {
        name: "WHY",
        width: 11,
        of: |v| match v["closed_for_s"].as_u64() {
            Some(left) => format!("{}, {} left", text(&v["why"]), duration(left)),
            None => text(&v["why"]),
        },
    },
    Column {
        name: "PRIO",
        width: 4,
        of: |v| text(&v["priority"]),
    },
    Column {
        name: "WEIGHT",
        width: 6,
        of: |v| text(&v["weight"]),
    },
    Column {
        name: "CALLS",
        width: 8,
        of: |v| of_at_most(&v["calls"], &v["calls_max"]),
    },
    Column {
        name: "IN ALL",
        width: 8,
        of: |v| text(&v["calls_started"]),
    },
    Column {
        name: "FAILED",
        width: 8,
        of: |v| text(&v["calls_failed"]),
    },
    Column {
        name: "OPTIONS",
        width: 9,
        of: |v| match v["round_trip_us"].as_u64() {
            Some(us) => format!("{:.1} ms", us as f64 / 1_000.0),
            None if v["is_asked"] == true => text(&v["last_options"]),
            None => "not sent".to_owned(),
        },
    },
    Column {
        name: "LESS",
        width: 4,
        of: |v| match v["loss_percent"].as_u64() {
            None | Some(0) => "-".to_owned(),
            Some(percent) => format!("{percent} %"),
        },
    },
];

/// `3`, or `3/10` where there is a limit.
fn of_at_most(count: &Value, max: &Value) -> String {
    match max.as_u64() {
        None | Some(0) => text(count),
        Some(max) => format!("{}/{max}", text(count)),
    }
}

/// `ringway trunks`: a trunk, and a row for each of its destinations, with the addresses below that it is reached at.
pub fn trunk(json: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(json) else {
        return json.to_owned();
    };
    let mut page = format!(
        "{}: {}; calls {} now, {} in all, {} over a limit, {} without a destination; {} failovers\n",
        text(&value["trunk"]),
        text(&value["select"]),
        of_at_most(&value["calls"], &value["calls_max"]),
        value["calls_started"],
        value["calls_over_limit"],
        value["calls_without_destination"],
        value["failovers"],
    );
    writeln!(page, "  {}", heading(DESTINATIONS)).expect(ENDLESS);
    for one in value["destinations"].as_array().into_iter().flatten() {
        writeln!(page, "  {}", row(DESTINATIONS, |column| (column.of)(one))).expect(ENDLESS);
        let addresses: Vec<String> = one["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        match &addresses[..] {
            [] => page.push_str("    no address is known\n"),
            addresses => writeln!(page, "    at {}", addresses.join(", ")).expect(ENDLESS),
        }
    }
    page
}

/// `ringway histogram`: percentiles of everything that was timed.
pub fn histograms(value: &Value) -> String {
    let mut page = format!(
        "{:<12} {:>12} {:>10} {:>10} {:>10} {:>10} {:>12}\n",
        "µs", "count", "p50", "p90", "p99", "p99.9", "max"
    );
    for one in value.as_array().into_iter().flatten() {
        let us = |name: &str| one[name].as_f64().unwrap_or_default();
        writeln!(
            page,
            "{:<12} {:>12} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>12.1}",
            text(&one["kind"]),
            text(&one["count"]),
            us("p50_us"),
            us("p90_us"),
            us("p99_us"),
            us("p999_us"),
            us("max_us"),
        )
        .expect(ENDLESS);
    }
    page
}

/// `ringway histogram KIND`: the percentiles that people ask for, and the curve as bars.
pub fn histogram(value: &Value) -> String {
    let mut page = format!(
        "{}: {} times, mean {:.1} µs\n",
        text(&value["kind"]),
        value["count"],
        value["mean_us"].as_f64().unwrap_or_default()
    );
    let points: Vec<(f64, f64)> = value["points"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|point| Some((point["quantile"].as_f64()?, point["us"].as_f64()?)))
        .collect();
    let greatest = points.last().map_or(1.0, |point| point.1.max(1.0));
    for wanted in [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0] {
        let Some(&(_, us)) = points.iter().find(|(quantile, _)| *quantile >= wanted) else {
            continue;
        };
        // Times differ by orders of magnitude: the bar is of their logarithm.
        let bar = (us.max(1.0).ln() / greatest.ln().max(1.0) * 40.0).round() as usize;
        writeln!(
            page,
            "  p{:<7} {us:>12.1} µs  {}",
            wanted * 100.0,
            "▇".repeat(bar)
        )
        .expect(ENDLESS);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_row_under_its_headings() {
        let json = r#"{"aor":"sip:a@b","contact":"sip:a@c:5060","transport":"UDP","peer":"127.0.0.1:5060","expires_s":599999}"#;
        let (heading, row) = (heading(REGISTRATIONS), line(REGISTRATIONS, json));
        for (name, cell) in [("AOR", "sip:a@b"), ("VIA", "UDP"), ("EXPIRES", "6 d 22 h")] {
            assert_eq!(heading.find(name), row.find(cell), "{heading}\n{row}");
        }
        assert_eq!(uri_of("\"A\" <sip:a@b;x=y>;tag=1"), "sip:a@b;x=y");
        assert_eq!(uri_of("\"<sip:c@d>\" <sip:a@b>;tag=1"), "sip:a@b");
        assert_eq!(uri_of("\"open"), "\"open");
    }

    #[test]
    fn nothing_that_a_peer_sends_commands_the_terminal() {
        let json = r#"{"aor":"sip:a@b","contact":"sip:\u001b[2J@c","peer":"127.0.0.1:5060","state":"talking","legs":[{"side":"caller",
            "call_id":"\u001b]0;x\u0007","remote":"\"\u009b31m\r\u007f\" <sip:a@b>","local":"<sip:\u001bc@d>"}]}"#;
        for page in [line(REGISTRATIONS, json), line(CALLS, json), call(json)] {
            let commands = page.chars().filter(|c| c.is_control() && *c != '\n');
            assert_eq!(commands.count(), 0, "{page:?}");
        }
    }

    #[test]
    fn a_trunk_is_a_line_and_its_destinations_are_rows() {
        let json = r#"{"trunk":"carrier","select":"weight","calls":3,"calls_max":10,"calls_started":7,
            "calls_over_limit":1,"calls_without_destination":0,"failovers":2,"destinations":[
            {"destination":"sip:gw.example","addresses":["udp:10.0.0.1:5060"],"state":"up","for_s":300,"why":"200",
             "closed_for_s":null,"priority":1,"weight":5,"calls":3,"calls_max":0,"calls_started":7,"calls_failed":0,
             "round_trip_us":1500,"is_asked":true,"loss_percent":20},
            {"destination":"sip:lost.example","addresses":[],"state":"closed","for_s":2,"why":"503 with Retry-After",
             "closed_for_s":58,"priority":2,"weight":1,"calls":0,"calls_max":4,"calls_started":0,"calls_failed":9,
             "round_trip_us":null,"is_asked":false,"loss_percent":0}]}"#;
        let page = trunk(json);
        let lines: Vec<&str> = page.lines().collect();
        assert!(
            lines[0].starts_with("carrier: weight; calls 3/10 now, 7 in all"),
            "{page}"
        );
        for (name, cell) in [
            ("STATE", "up"),
            ("FOR", "5 min"),
            ("OPTIONS", "1.5 ms"),
            ("LESS", "20 %"),
        ] {
            assert_eq!(lines[1].find(name), lines[2].find(cell), "{page}");
        }
        assert_eq!(lines[3], "    at udp:10.0.0.1:5060");
        assert!(
            lines[4].contains("503 with Retry-After, 58 s left") && lines[4].contains("0/4"),
            "{page}"
        );
        assert_eq!(lines[5], "    no address is known");
    }
}
