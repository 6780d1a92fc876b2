//! A trace as people read it while it goes on: the server in the middle, who began a call on its left, everybody else on its right.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;

use crate::capture::Captured;

use super::printable;

/// Calls whose caller is remembered; beyond that all are forgotten, and whoever speaks next is on the left.
const CALLS_MAX: usize = 4_096;
/// Width of an address: that of most IPv4 addresses with their ports.
const ADDRESS: usize = 21;
/// Width of an arrow with what it says.
const ARROW: usize = 30;

/// What is drawn so far, as far as the next line depends on it.
#[derive(Default)]
pub struct Ladder {
    /// Who began the call of that Call-ID: a phone may use several ports.
    callers: HashMap<String, IpAddr>,
}

impl Ladder {
    /// One message as a line.
    pub fn line(&mut self, captured: &Captured, is_received: bool, call: &str, bytes: &[u8]) -> String {
        let peer = if is_received { captured.from } else { captured.to };
        if self.callers.len() >= CALLS_MAX {
            self.callers.clear();
        }
        // Allocates for the first message of a call alone.
        let caller = match self.callers.get(call) {
            Some(caller) => *caller,
            None => *self.callers.entry(call.to_owned()).or_insert(peer.ip()),
        };
        let is_left = peer.ip() == caller;
        let mut line = time_of_day(captured);
        let arrow = arrow(&title(bytes), is_left == is_received);
        let pad = " ".repeat(ADDRESS + ARROW + 2);
        let _ = match is_left {
            true => write!(line, "  {:>ADDRESS$} {arrow} ringway", peer.to_string()),
            false => write!(line, "  {pad}ringway {arrow} {}", peer),
        };
        line
    }
}

/// What stands on the arrow: the method, or the status and what it answers.
fn title(bytes: &[u8]) -> String {
    let first = bytes.split(|byte| *byte == b'\r').next().unwrap_or(b"");
    let first = String::from_utf8_lossy(first);
    let mut words = first.split(' ');
    let text = match (words.next(), words.next()) {
        (Some("SIP/2.0"), Some(status)) => {
            let reason = words.collect::<Vec<_>>().join(" ");
            match cseq_method(bytes) {
                Some(method) if method != "INVITE" => format!("{status} {reason} ({method})"),
                Some(_) | None => format!("{status} {reason}"),
            }
        }
        (Some(method), _) => method.to_owned(),
        (None, _) => String::new(),
    };
    text.chars().map(printable).take(ARROW - 6).collect()
}

fn cseq_method(bytes: &[u8]) -> Option<String> {
    let line = bytes
        .split(|byte| *byte == b'\n')
        .find(|line| line.len() > 5 && line[..5].eq_ignore_ascii_case(b"cseq:"))?;
    Some(
        String::from_utf8_lossy(line)
            .split_ascii_whitespace()
            .last()?
            .to_owned(),
    )
}

fn arrow(title: &str, is_to_the_right: bool) -> String {
    let dashes = ARROW.saturating_sub(title.chars().count() + 5);
    let (before, after) = ("─".repeat(dashes / 2), "─".repeat(dashes - dashes / 2));
    if is_to_the_right {
        format!("─{before} {title} {after}─▶")
    } else {
        format!("◀─{before} {title} {after}─")
    }
}

/// Of the day in UTC, as the log and the call records have it.
fn time_of_day(captured: &Captured) -> String {
    let ms = captured.at.as_millis() % 86_400_000;
    let (s, ms) = (ms / 1_000, ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3_600, s / 60 % 60, s % 60)
}

/// The message below its line.
pub fn message(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let line = line.trim_end_matches('\r').chars();
        let shown = line.map(|c| if c == '\t' { c } else { printable(c) });
        text.push_str("    ");
        text.extend(shown);
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;
    use crate::wire::Transport;

    fn captured(from: &str, to: &str) -> Captured {
        Captured {
            at: Instant::from_millis(1_800_000_000_123),
            transport: Transport::Udp,
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
        }
    }

    #[test]
    fn the_caller_is_on_the_left_and_everybody_else_on_the_right() {
        let (alice, server, bob) = ("127.0.0.2:5062", "127.0.0.1:5060", "127.0.0.3:5063");
        let mut ladder = Ladder::default();
        let mut line = |from: &str, to: &str, text: &str| {
            ladder.line(&captured(from, to), to == server, "c1", text.as_bytes())
        };
        let lines = [
            line(alice, server, "INVITE sip:bob@one.att.net SIP/2.0\r\n"),
            line(server, bob, "INVITE sip:bob@127.0.0.3 SIP/2.0\r\n"),
            line(bob, server, "SIP/2.0 180 Ringing\r\nCSeq: 1 INVITE\r\n\r\n"),
            line(server, alice, "SIP/2.0 200 OK\r\nCSeq: 2 BYE\r\n\r\n"),
        ];
        let wanted = [
            "08:00:00.123         127.0.0.2:5062 ────────── INVITE ───────────▶ ringway",
            "08:00:00.123                                                       ringway ────────── INVITE ───────────▶ 127.0.0.3:5063",
            "08:00:00.123                                                       ringway ◀──────── 180 Ringing ──────── 127.0.0.3:5063",
            "08:00:00.123         127.0.0.2:5062 ◀─────── 200 OK (BYE) ──────── ringway",
        ];
        for (line, wanted) in lines.iter().zip(wanted) {
            assert_eq!(line, wanted);
        }
    }

    #[test]
    fn nothing_that_a_peer_sends_commands_the_terminal() {
        let bytes = b"SIP/2.0 200 \x1b[2J\r\nX: \x1b]0;x\x07\r\n\r\n";
        let line = Ladder::default().line(&captured("127.0.0.2:1", "127.0.0.1:2"), true, "c", bytes);
        for text in [line, message(bytes)] {
            assert!(!text.contains(['\x1b', '\x07', '\r']), "{text:?}");
        }
    }
}
