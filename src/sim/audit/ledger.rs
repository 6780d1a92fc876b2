//! A trace sorted into transactions: what the server asked and was answered, what it was asked and answered.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Instant;
use crate::wire::Transport;

use super::super::packet::Packet;
use super::super::trace::{Line, Step, Trace, What};
use super::Terms;

/// A request of the server's own.
#[derive(Default)]
pub struct Asked<'t> {
    /// Each time that it left.
    pub sent: Vec<&'t Step>,
    pub answers: Vec<&'t Step>,
    /// The ACKs under the same branch.
    pub acks: Vec<&'t Step>,
    /// The CANCELs under the same branch, each time that one left.
    pub cancels: Vec<&'t Step>,
    pub life: usize,
}

/// A request that the server has got.
#[derive(Default)]
pub struct Served<'t> {
    /// Each time that it came.
    pub got: Vec<&'t Step>,
    pub answers: Vec<&'t Step>,
    /// ACKs that came under the same branch.
    pub acks: Vec<&'t Step>,
    pub cancels: Vec<&'t Step>,
    pub life: usize,
}

impl<'t> Asked<'t> {
    pub fn first(&self) -> &'t Step {
        self.sent[0]
    }

    pub fn is(&self, method: &str) -> bool {
        self.first().packet.is_request(method)
    }

    pub fn first_final(&self) -> Option<&'t Step> {
        self.answers.iter().find(|step| step.packet.is_final()).copied()
    }
}

impl<'t> Served<'t> {
    pub fn first(&self) -> &'t Step {
        self.got[0]
    }

    pub fn is(&self, method: &str) -> bool {
        self.first().packet.is_request(method)
    }

    pub fn finals(&self) -> impl Iterator<Item = &'t Step> + '_ {
        self.answers.iter().copied().filter(|step| step.packet.is_final())
    }
}

/// Branch and method.
type Key<'t> = (usize, &'t str, &'t str);

pub struct Ledger<'t> {
    pub terms: Terms,
    /// What the server has sent and received, with the number of its life.
    pub steps: Vec<(usize, &'t Step)>,
    pub asked: Vec<Asked<'t>>,
    pub served: Vec<Served<'t>>,
    /// When each life of the server ended, or the trace did.
    ends: Vec<Instant>,
    by_server_key: BTreeMap<Key<'t>, usize>,
    by_call_id: BTreeMap<&'t str, Vec<usize>>,
}

/// How long before the end of a life nothing is asked of what began in it: a crash may have been quicker.
const UNFINISHED: Duration = Duration::from_millis(50);

impl<'t> Ledger<'t> {
    pub fn new(trace: &'t Trace, terms: Terms) -> Ledger<'t> {
        let mut ledger = Ledger {
            terms,
            steps: Vec::new(),
            asked: Vec::new(),
            served: Vec::new(),
            ends: Vec::new(),
            by_server_key: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
        };
        let mut by_client_key: BTreeMap<Key<'t>, usize> = BTreeMap::new();
        let mut life = 0;
        for line in &trace.lines {
            match line {
                Line::Step(step) => ledger.add(life, step, &mut by_client_key),
                Line::Crash(at) => {
                    ledger.ends.push(*at);
                    life += 1;
                }
                Line::Note(..) => {}
            }
        }
        ledger
            .ends
            .push(trace.lines.last().map_or(Instant::FAR_FUTURE, Line::at));
        ledger
    }

    fn add(&mut self, life: usize, step: &'t Step, by_client_key: &mut BTreeMap<Key<'t>, usize>) {
        let packet: &'t Packet = &step.packet;
        let is_sent = match step.what {
            What::Sent => true,
            What::Received => false,
            What::LostIn | What::LostOut => return,
        };
        let index = self.steps.len();
        self.steps.push((life, step));
        self.by_call_id.entry(&packet.call_id).or_default().push(index);
        let branch = packet.branch.as_str();
        let invite: Key<'t> = (life, branch, "INVITE");
        let own: Key<'t> = (life, branch, &packet.method);
        match (is_sent, packet.request()) {
            (true, Some("ACK")) => {
                if let Some(index) = by_client_key.get(&invite) {
                    self.asked[*index].acks.push(step);
                }
            }
            (true, Some(method)) => {
                if method == "CANCEL"
                    && let Some(index) = by_client_key.get(&invite)
                {
                    self.asked[*index].cancels.push(step);
                }
                let index = *by_client_key.entry(own).or_insert_with(|| {
                    self.asked.push(Asked {
                        life,
                        ..Asked::default()
                    });
                    self.asked.len() - 1
                });
                self.asked[index].sent.push(step);
            }
            (false, None) => {
                if let Some(index) = by_client_key.get(&own) {
                    self.asked[*index].answers.push(step);
                }
            }
            (false, Some("ACK")) => {
                if let Some(index) = self.by_server_key.get(&invite) {
                    self.served[*index].acks.push(step);
                }
            }
            (false, Some(method)) => {
                if method == "CANCEL"
                    && let Some(index) = self.by_server_key.get(&invite)
                {
                    self.served[*index].cancels.push(step);
                }
                let index = *self.by_server_key.entry(own).or_insert_with(|| {
                    self.served.push(Served {
                        life,
                        ..Served::default()
                    });
                    self.served.len() - 1
                });
                self.served[index].got.push(step);
            }
            (true, None) => {
                if let Some(index) = self.by_server_key.get(&own) {
                    self.served[*index].answers.push(step);
                }
            }
        }
    }

    /// The request that a response of the server's answers.
    pub fn served_by(&self, life: usize, response: &'t Packet) -> Option<&Served<'t>> {
        let key: Key<'t> = (life, &response.branch, &response.method);
        self.by_server_key.get(&key).map(|index| &self.served[*index])
    }

    /// Everything with that Call-ID in one life of the server.
    pub fn of_call(&self, life: usize, call_id: &str) -> impl Iterator<Item = &'t Step> + '_ {
        let indices = self.by_call_id.get(call_id).map_or(&[][..], Vec::as_slice);
        indices
            .iter()
            .map(|index| self.steps[*index])
            .filter(move |(own, _)| *own == life)
            .map(|(_, step)| step)
    }

    /// Whether the server lived on so far that what is due `at` can be asked of it.
    pub fn has_lived_to(&self, life: usize, at: Instant) -> bool {
        self.ends.get(life).is_some_and(|end| at + UNFINISHED < *end)
    }

    pub fn requests_sent(&self) -> impl Iterator<Item = (usize, &'t Step)> + '_ {
        self.steps
            .iter()
            .copied()
            .filter(|(_, step)| step.what == What::Sent && step.packet.request().is_some())
    }

    pub fn responses_sent(&self) -> impl Iterator<Item = (usize, &'t Step)> + '_ {
        self.steps
            .iter()
            .copied()
            .filter(|(_, step)| step.what == What::Sent && step.packet.status.is_some())
    }

    pub fn invites(&self) -> impl Iterator<Item = &Asked<'t>> {
        self.asked.iter().filter(|asked| asked.is("INVITE"))
    }

    pub fn others(&self) -> impl Iterator<Item = &Asked<'t>> {
        self.asked.iter().filter(|asked| !asked.is("INVITE"))
    }
}

pub fn is_udp(step: &Step) -> bool {
    step.transport == Transport::Udp
}
