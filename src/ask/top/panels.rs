//! The tables of the screen: what stands in them, before anybody knows how much room there is.

use crate::control::tables::duration;
use crate::trunk::standing::Standing;

use super::figures::{Figures, PEERS_SPAN_S, Times};
use super::view::{Part, Sort, Span, View};

/// A column: what it is called, and how wide it is.
pub struct Column {
    pub name: &'static str,
    pub width: u16,
    pub is_number: bool,
}

/// A row; `is_alarm`: somebody should look at it.
pub struct Row {
    pub cells: Vec<String>,
    pub is_alarm: bool,
}

/// A table with a title. Where there is no room for all of it, the last columns and the last rows are left out.
pub struct Panel {
    pub title: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

const fn text(name: &'static str, width: u16) -> Column {
    Column {
        name,
        width,
        is_number: false,
    }
}

const fn number(name: &'static str, width: u16) -> Column {
    Column {
        name,
        width,
        is_number: true,
    }
}

fn plain(cells: Vec<String>) -> Row {
    Row {
        cells,
        is_alarm: false,
    }
}

/// Cells of a bar.
const BAR_WIDTH: u16 = 10;
/// An IPv6 address at its longest.
const PEER_WIDTH_MAX: usize = 39;

pub fn panel(part: Part, figures: &Figures, view: &View) -> Panel {
    match part {
        Part::Times => times(figures, view.span),
        Part::Messages => messages(figures),
        Part::Peers => peers(view),
        Part::Shards => shards(figures),
        Part::Drops => drops(figures),
        Part::Trunks => trunks(figures),
    }
}

fn times(figures: &Figures, span: Span) -> Panel {
    let (times, of) = match span {
        Span::LastSecond => (&figures.times_last_second, "in the last second"),
        Span::SinceStart => (&figures.times_since_start, "since the start"),
    };
    let row = |row: &Times| {
        let percentiles = [row.p50_us, row.p90_us, row.p99_us, row.p999_us, row.max_us];
        let mut cells = vec![row.kind.clone(), whole(row.count)];
        cells.extend(percentiles.map(time));
        plain(cells)
    };
    Panel {
        title: format!("Times {of}"),
        columns: vec![
            text("Kind", 11),
            number("Times", 8),
            number("p50", 7),
            number("p90", 7),
            number("p99", 7),
            number("p99.9", 7),
            number("max", 7),
        ],
        rows: times.iter().map(row).collect(),
    }
}

fn messages(figures: &Figures) -> Panel {
    let rows = figures.messages.iter().map(|kind| {
        plain(vec![
            kind.kind.clone(),
            rate(kind.received_per_s),
            rate(kind.sent_per_s),
        ])
    });
    Panel {
        title: "Messages by kind".to_owned(),
        columns: vec![text("Kind", 11), number("In/s", 9), number("Out/s", 9)],
        rows: rows.collect(),
    }
}

fn peers(view: &View) -> Panel {
    let peers = view.peers();
    let all: u64 = peers.iter().map(|peer| peer.received + peer.sent).sum();
    let by = match view.sort {
        Sort::Sum => "",
        Sort::Received => ", by what they send",
        Sort::Sent => ", by what they get",
        Sort::Address => ", by address",
    };
    let rows: Vec<Row> = peers
        .iter()
        .map(|peer| {
            plain(vec![
                peer.peer.to_string(),
                rate(peer.received_per_s),
                rate(peer.sent_per_s),
                bar((peer.received + peer.sent) as f64 / all.max(1) as f64),
            ])
        })
        .collect();
    let widest = rows
        .iter()
        .map(|row| row.cells[0].len())
        .max()
        .unwrap_or_default();
    Panel {
        title: format!("Busiest peers in {PEERS_SPAN_S} s{by}"),
        columns: vec![
            text("Peer", widest.clamp(15, PEER_WIDTH_MAX) as u16),
            number("In/s", 9),
            number("Out/s", 9),
            text("Share", BAR_WIDTH),
        ],
        rows,
    }
}

fn shards(figures: &Figures) -> Panel {
    let rows = figures.shards.iter().enumerate().map(|(index, shard)| {
        plain(vec![
            index.to_string(),
            format!("{:.0} %", shard.share * 100.0),
            bar(shard.share),
            rate(shard.received_per_s),
            rate(shard.sent_per_s),
            whole(shard.calls),
            whole(shard.registrations),
            rate(shard.mail_per_s),
            rate(shard.turns_per_s),
            whole(shard.transactions),
            whole(shard.connections),
        ])
    });
    Panel {
        title: "Shards".to_owned(),
        columns: vec![
            number("Shard", 5),
            number("In", 5),
            text("", BAR_WIDTH),
            number("In/s", 9),
            number("Out/s", 9),
            number("Calls", 7),
            number("Reg.", 9),
            number("Mail/s", 7),
            number("Turns/s", 7),
            number("Trans.", 7),
            number("Conn.", 7),
        ],
        rows: rows.collect(),
    }
}

fn drops(figures: &Figures) -> Panel {
    let mut rows: Vec<Row> = figures
        .drops
        .iter()
        .map(|drops| Row {
            cells: vec![
                drops.reason.replace('_', " "),
                rate(drops.per_s),
                whole(drops.count),
            ],
            is_alarm: drops.per_s > 0.0,
        })
        .collect();
    if rows.is_empty() {
        rows.push(plain(vec!["none".to_owned(), String::new(), String::new()]));
    }
    Panel {
        title: "Drops by reason".to_owned(),
        columns: vec![text("Reason", 27), number("Per s", 9), number("Since start", 11)],
        rows,
    }
}

fn trunks(figures: &Figures) -> Panel {
    let rows = figures.destinations.iter().map(|to| Row {
        cells: vec![
            to.trunk.clone(),
            to.destination.clone(),
            to.state.clone(),
            to.for_s.map_or(String::new(), duration),
            whole(to.calls),
            rate(to.calls_per_s),
            rate(to.failed_per_s),
            to.round_trip_us.map_or(String::new(), |us| time(us as f64)),
        ],
        is_alarm: to.state == Standing::Down.text(),
    });
    Panel {
        title: "Trunks".to_owned(),
        columns: vec![
            text("Trunk", 10),
            text("Destination", 22),
            text("State", 7),
            number("For", 8),
            number("Calls", 7),
            number("Calls/s", 7),
            number("Failed/s", 8),
            number("OPTIONS", 7),
        ],
        rows: rows.collect(),
    }
}

/// The figures above the tables: what they are called, and what they are.
pub fn headline(figures: &Figures) -> Vec<(&'static str, String)> {
    let now = |name| whole(figures.now.get(name).copied().unwrap_or_default());
    let rates = &figures.rates;
    vec![
        ("Calls", now("calls")),
        ("Calls/s", rate(rates.calls)),
        ("In/s", rate(rates.received)),
        ("Out/s", rate(rates.sent)),
        ("Drops/s", rate(rates.drops)),
        ("Proxied/s", rate(rates.proxied)),
        ("Registrations", now("registrations")),
        ("REGISTER/s", rate(rates.registrations)),
        ("Transactions", now("transactions")),
        ("Subscriptions", now("subscriptions")),
        ("Connections", now("connections")),
        ("Sent again/s", rate(rates.retransmissions)),
    ]
}

/// The server in one line.
pub fn server(figures: &Figures) -> String {
    let (version, up) = (&figures.version, duration(figures.uptime_s));
    format!("{version} · up {up} · {}", figures.listeners.join(", "))
}

/// `1234567` as `1,234,567`.
fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate: small ones with a digit behind the point.
fn rate(per_s: f64) -> String {
    if per_s == 0.0 {
        "0".to_owned()
    } else if per_s < 99.95 {
        format!("{per_s:.1}")
    } else {
        whole(per_s.round() as u64)
    }
}

/// A time of `us` microseconds, in the unit that three digits are enough in.
fn time(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    match value {
        value if value < 9.95 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

fn bar(share: f64) -> String {
    "▇".repeat((share * f64::from(BAR_WIDTH)).round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [0, 7, 999, 1_000, 1_234_567].map(whole),
            ["0", "7", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.0, 0.25, 99.9, 100.0, 12_345.6].map(rate),
            ["0", "0.2", "99.9", "100", "12,346"]
        );
        let times = [0.0, 8.31, 24.1, 999.4, 1_893.4, 25_300.0, 999_999.0, 60_000_000.0].map(time);
        assert_eq!(
            times,
            [
                "0.0 µs", "8.3 µs", "24 µs", "999 µs", "1.9 ms", "25 ms", "1.0 s", "60 s"
            ]
        );
        assert_eq!(
            (bar(0.0), bar(0.5), bar(1.0)),
            (String::new(), "▇".repeat(5), "▇".repeat(10))
        );
    }
}
