//! What went over the wire as the server's sockets saw it, and what became of the rest; drawn as a ladder.

use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::domain::{Answer, Question};
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
    /// The server was told that it could not be sent.
    Unsent,
    /// The server was told that its connection has ended, and nobody may have read it.
    Unheard,
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

/// What a shard asks DNS, or is told by it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Instant,
    pub shard: usize,
    pub question: Question,
    /// `None`: it is asked.
    pub answer: Option<Answer>,
}

/// One line of the record.
#[derive(Clone, Debug)]
pub enum Line {
    Step(Step),
    /// Something else that happened: a reset, a crash.
    Note(Instant, String),
    Dns(Box<Heard>),
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
            Line::Note(..) | Line::Dns(_) | Line::Crash(_) => None,
        })
    }

    /// The ladder of the lines that `wanted` picks, with what else happened between the first and the last of them.
    pub fn ladder(&self, wanted: impl Fn(&Step) -> bool) -> String {
        let start = self.lines.first().map_or(Instant::default(), Line::at);
        let mut text = String::new();
        let mut times = self.steps().filter(|step| wanted(step)).map(|step| step.at);
        let first = times.next().unwrap_or(start);
        let span = first..=times.last().unwrap_or(first);
        for line in self.lines.iter().filter(|line| span.contains(&line.at())) {
            let ms = line.at().since(start).as_secs_f64() * 1e3;
            match line {
                Line::Step(step) if wanted(step) => {
                    let (left, right, lost) = match step.what {
                        What::Received => ("──", "─▶ ringway", ""),
                        What::LostIn => ("──", "─✗ ringway", "  lost"),
                        What::Sent => ("◀─", "── ringway", ""),
                        What::LostOut => ("✗─", "── ringway", "  lost"),
                        What::Unsent => ("✗─", "── ringway", "  unsent"),
                        What::Unheard => ("✗─", "── ringway", "  unheard"),
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
                Line::Dns(heard) => {
                    let Heard {
                        shard,
                        question,
                        answer,
                        ..
                    } = &**heard;
                    let (name, kind) = (question.name, question.record_type);
                    _ = match answer {
                        None => writeln!(text, "{ms:12.1} -- shard {shard} asks for {kind:?} of {name}"),
                        Some(answer) => {
                            writeln!(
                                text,
                                "{ms:12.1} -- shard {shard} is told {answer:?} for {kind:?} of {name}"
                            )
                        }
                    };
                }
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
            Line::Dns(heard) => heard.at,
            Line::Note(at, _) | Line::Crash(at) => *at,
        }
    }
}
