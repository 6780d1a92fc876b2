//! What went over the wire as the server's sockets saw it, and what became of the rest; drawn as a ladder.

use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::time::Instant;
use crate::wire::Transport;

use super::packet::Packet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The server has received it.
    Received,
    /// The server has sent it: has handed it over, for a connection that may have to be opened first.
    Sent,
    /// It was lost on its way to the server.
    LostIn,
    /// It was lost on its way to the phone.
    LostOut,
    /// The server was told that it could not be sent, or that its connection has ended and nobody may have read it.
    Unsent,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub at: Instant,
    pub what: What,
    pub transport: Transport,
    /// The other side.
    pub peer: SocketAddr,
    /// The connection that it went over.
    pub conn: Option<u32>,
    pub packet: Rc<Packet>,
}

/// One line of the record.
#[derive(Clone, Debug)]
pub enum Line {
    Step(Step),
    /// Something else that happened: a reset, a crash.
    Note(Instant, String),
    /// The server is gone with all it knew. What follows is another's life.
    Crash(Instant),
}

#[derive(Clone, Default, Debug)]
pub struct Trace {
    pub lines: Vec<Line>,
}

impl Trace {
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.lines.iter().filter_map(|line| match line {
            Line::Step(step) => Some(step),
            Line::Note(..) | Line::Crash(_) => None,
        })
    }

    /// The ladder of the lines that `wanted` picks; notes and crashes are always among them.
    pub fn ladder(&self, wanted: impl Fn(&Step) -> bool) -> String {
        let start = self.lines.first().map_or(Instant::default(), Line::at);
        let mut text = String::new();
        for line in &self.lines {
            let ms = line.at().since(start).as_secs_f64() * 1e3;
            match line {
                Line::Step(step) if wanted(step) => {
                    let (left, right, lost) = match step.what {
                        What::Received => ("──", "─▶ ringway", ""),
                        What::LostIn => ("──", "─✗ ringway", "  lost"),
                        What::Sent => ("◀─", "── ringway", ""),
                        What::LostOut => ("✗─", "── ringway", "  lost"),
                        What::Unsent => ("✗─", "── ringway", "  unsent"),
                    };
                    let packet = &step.packet;
                    let title = packet.message.title();
                    let transport = step.transport.name().to_ascii_lowercase();
                    let id = packet.id.map(|id| format!(" #{id}")).unwrap_or_default();
                    _ = writeln!(
                        text,
                        "{ms:12.1} {:>21} {left} {transport} {title:<34} {right}  cseq {} call {} tags {}/{}{id}{lost}",
                        step.peer.to_string(),
                        packet.cseq,
                        packet.call_id,
                        packet.from_tag,
                        packet.to_tag,
                    );
                }
                Line::Step(_) => {}
                Line::Note(_, note) => _ = writeln!(text, "{ms:12.1} -- {note}"),
                Line::Crash(_) => _ = writeln!(text, "{ms:12.1} ======== the server crashes"),
            }
        }
        text
    }
}

impl Line {
    pub fn at(&self) -> Instant {
        match self {
            Line::Step(step) => step.at,
            Line::Note(at, _) | Line::Crash(at) => *at,
        }
    }
}
