//! What went over the wire, drawn as a ladder: one phone on the left, ringway in the middle, the others on the right.
//!
//! ```text
//!       ms   UE1                          ringway                          UE2
//!      0.0   │── INVITE ────────── tcp ──▶│                                │
//!      0.4   │◀─ 100 Trying ────── tcp ───│                                │
//! ```

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::links::Transport;
use crate::sip::Message;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// By the phone, to ringway.
    Sent,
    /// By the phone, from ringway.
    Received,
}

/// One message on the wire.
#[derive(Clone, Debug)]
pub struct Step {
    /// Since the trace began.
    pub at: Duration,
    /// The phone's number, from 0; phone 0 stands on the left.
    pub phone: usize,
    pub direction: Direction,
    pub transport: Transport,
    pub bytes: Vec<u8>,
}

impl Step {
    /// Method, or status and reason; what can't be read is shown as so many bytes.
    pub fn title(&self) -> String {
        match Message::parse(&self.bytes) {
            Ok(message) => message.title(),
            Err(_) => format!("({} bytes)", self.bytes.len()),
        }
    }
}

/// Collects the steps of several phones. Clones share what they collect.
#[derive(Clone, Debug)]
pub struct Trace {
    start: Instant,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace {
            start: Instant::now(),
            steps: Arc::default(),
        }
    }
}

impl Trace {
    pub fn record(&self, phone: usize, direction: Direction, transport: Transport, bytes: &[u8]) {
        let mut steps = self.steps.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        steps.push(Step {
            // Read under the lock, so that the steps stand in the order of their times.
            at: self.start.elapsed(),
            phone,
            direction,
            transport,
            bytes: bytes.to_vec(),
        });
    }

    /// The steps from number `from` on.
    pub fn steps_from(&self, from: usize) -> Vec<Step> {
        let steps = self.steps.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        steps.get(from..).unwrap_or_default().to_vec()
    }
}

/// Columns between two of the vertical lines.
const LANE: usize = 34;

/// Draws steps. `plain` keeps to ASCII.
#[derive(Clone, Debug)]
pub struct Ladder {
    names: Vec<String>,
    plain: bool,
    drawn: usize,
}

impl Ladder {
    /// `names` are the phones', in the order of their numbers.
    pub fn new(names: &[&str], plain: bool) -> Ladder {
        Ladder {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            plain,
            drawn: 0,
        }
    }

    /// The line that names the columns.
    pub fn heading(&self) -> String {
        let left = self.names.first().map_or("", String::as_str);
        let right = self.names.get(1..).unwrap_or_default().join(", ");
        format!("{:>9}   {left:<w$}{:<w$}{right}", "ms", "ringway", w = LANE + 1)
    }

    /// A line that says what the next steps are about.
    pub fn chapter(&self, text: &str) -> String {
        let bar = if self.plain { '|' } else { '│' };
        let mut line = format!("{:>9}   {bar}{:w$}{bar}{:w$}{bar}", "", "", "", w = LANE);
        line.push_str("   ");
        line.push_str(text);
        line
    }

    /// What `trace` got since the last call, a line a step.
    pub fn news(&mut self, trace: &Trace) -> Vec<String> {
        let steps = trace.steps_from(self.drawn);
        self.drawn += steps.len();
        steps.iter().map(|step| self.line(step)).collect()
    }

    /// The whole of `trace`, with its heading.
    pub fn draw(&self, trace: &Trace) -> String {
        let mut lines = vec![self.heading()];
        lines.extend(trace.steps_from(0).iter().map(|step| self.line(step)));
        lines.join("\n")
    }

    fn line(&self, step: &Step) -> String {
        let bar = if self.plain { '|' } else { '│' };
        let empty = " ".repeat(LANE);
        // A phone on the left sends rightwards, one on the right leftwards.
        let on_left = step.phone == 0;
        let rightwards = on_left == (step.direction == Direction::Sent);
        let arrow = self.arrow(step, rightwards);
        let (left, right) = if on_left {
            (&arrow, &empty)
        } else {
            (&empty, &arrow)
        };
        let milliseconds = step.at.as_secs_f64() * 1e3;
        format!("{milliseconds:9.1}   {bar}{left}{bar}{right}{bar}")
    }

    /// `── INVITE ───── tcp ──▶`, [`LANE`] columns wide.
    fn arrow(&self, step: &Step, rightwards: bool) -> String {
        let (dash, tip_left, tip_right) = if self.plain {
            ('-', '<', '>')
        } else {
            ('─', '◀', '▶')
        };
        let mut title = step.title();
        if self.names.len() > 2 && step.phone > 0 {
            let name = self.names.get(step.phone).map_or("?", String::as_str);
            title = format!("{title} {name}");
        }
        let transport = step.transport.name().to_lowercase();
        // Two ends of three columns, blanks around title and transport, and at least one dash between them.
        let room = LANE - 6 - 4 - 1 - transport.len();
        let title: String = title.chars().take(room).collect();
        let dashes: String = std::iter::repeat_n(dash, room - title.chars().count() + 1).collect();
        let (begin, end) = if rightwards {
            (format!("{dash}{dash}"), format!("{dash}{dash}{dash}{tip_right}"))
        } else {
            (format!("{tip_left}{dash}"), format!("{dash}{dash}{dash}{dash}"))
        };
        format!("{begin} {title} {dashes} {transport} {end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let trace = Trace::default();
        let invite = Message::request("INVITE", "sip:a@b").to_bytes();
        let long = Message::response(480, "Temporarily Unavailable For A Very Long Reason")
            .with("CSeq", "1 INVITE")
            .to_bytes();
        trace.record(0, Direction::Sent, Transport::Tcp, &invite);
        trace.record(1, Direction::Received, Transport::Udp, &invite);
        trace.record(1, Direction::Sent, Transport::Udp, &long);
        trace.record(0, Direction::Received, Transport::Tcp, b"rubbish");
        trace
    }

    #[test]
    fn every_line_of_a_ladder_is_equally_wide_and_arrows_point_to_the_receiver() {
        for plain in [true, false] {
            let ladder = Ladder::new(&["UE1", "UE2"], plain);
            let text = ladder.draw(&trace());
            let lines: Vec<&str> = text.lines().collect();
            let width = lines[1].chars().count();
            assert!(lines[1..].iter().all(|l| l.chars().count() == width), "{text}");
            assert!(lines[1].find("INVITE").unwrap() < lines[0].find("ringway").unwrap());
            let tips: Vec<char> = lines[1..]
                .iter()
                .flat_map(|l| l.chars().filter(|c| ['<', '>', '◀', '▶'].contains(c)))
                .collect();
            let (left, right) = if plain { ('<', '>') } else { ('◀', '▶') };
            assert_eq!(tips, [right, right, left, left], "{text}");
        }
    }

    #[test]
    fn news_are_told_once() {
        let (mut ladder, trace) = (Ladder::new(&["UE1", "UE2"], true), trace());
        assert_eq!(ladder.news(&trace).len(), 4);
        assert_eq!(ladder.news(&trace).len(), 0);
    }
}
