//! A trace sorted into transactions: what the server asked and was answered, what it was asked and answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::RecordType;
use crate::time::Instant;
use crate::wire::Transport;

use bench_harness::sip;

use super::super::exchange::Dialled;
use super::super::packet::Packet;
use super::super::trace::{Heard, Line, Step, Trace, What};
use super::{EARLY, SLACK, T1, Terms, doubling_to_t2, is_on_time};

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
    /// What it was forwarded for: the request that its second Via names.
    pub parent: Option<usize>,
    /// It is forwarded without a transaction.
    pub is_stateless: bool,
    /// When the server was told that it could not be sent, once or again: then its transaction ends (RFC 3261 §17.1.4).
    unsent: Option<Instant>,
    /// When it was told that the connection has ended that it went over: whoever has read it answers over another (§18.2.2).
    unheard: Option<Instant>,
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
    /// What it was forwarded as.
    pub children: Vec<usize>,
    /// It goes on without a transaction.
    pub is_stateless: bool,
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

    /// The 2xx that has answered it. Where a refusal came right behind, it may have been the first at the shard that has the
    /// transaction.
    pub fn success(&self) -> Option<&'t Step> {
        let first = self.first_final().filter(|step| step.packet.is_success())?;
        let is_refusal = |step: &&&'t Step| step.packet.is_failure() && step.at <= first.at + EARLY;
        self.answers.iter().find(is_refusal).is_none().then_some(first)
    }

    /// From when on it may count as one that could not be sent: where nobody may have read it, when T1 has passed without an answer.
    pub fn unsent(&self) -> Option<Instant> {
        let in_vain = self.unheard.map(|at| at + (T1 - SLACK));
        let in_vain = in_vain.filter(|end| !self.answers.iter().any(|step| step.at <= *end));
        self.unsent.or(in_vain)
    }

    /// Whether it is somebody else's, passed on by a proxy: below our Via stands another.
    pub fn is_forwarded(&self) -> bool {
        self.first().packet.message.elements("Via").len() > 1
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

    /// The final responses from when it was taken in, or those that say that there is no room where it never was.
    pub fn known_finals(&self) -> impl Iterator<Item = &'t Step> + '_ {
        let answers = self.answers.iter().copied();
        let known = answers.skip_while(|step| has_no_room(step));
        known.filter(|step| step.packet.is_final())
    }

    /// When it was first known to be taken in: it had an answer other than that there is no room, after which nothing is
    /// known of it.
    pub fn begun(&self) -> Option<Instant> {
        let answer = self.answers.iter().find(|step| !has_no_room(step))?;
        Some(answer.at)
    }

    /// Whether a proxy has passed it on.
    pub fn is_forwarded(&self) -> bool {
        !self.children.is_empty()
    }

    /// The rule that it goes by, where the server is a proxy and it belongs to no dialog.
    pub fn dialled(&self, terms: Terms) -> Option<Dialled> {
        terms.exchange?;
        let packet = &self.first().packet;
        let is_outside =
            packet.to_tag.is_empty() && !matches!(packet.method.as_str(), "REGISTER" | "SUBSCRIBE");
        is_outside.then(|| Dialled::uri(packet.message.uri()?)).flatten()
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
    by_client_key: BTreeMap<Key<'t>, usize>,
    by_call_id: BTreeMap<&'t str, Vec<usize>>,
    /// What DNS was asked and has told, with the number of the life, and the places of each name in it.
    pub dns: Vec<(usize, &'t Heard)>,
    by_name: BTreeMap<&'t str, Vec<usize>>,
    /// By life and shard.
    asked_dns_at: BTreeMap<(usize, usize), Vec<Instant>>,
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
            by_client_key: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
            dns: Vec::new(),
            by_name: BTreeMap::new(),
            asked_dns_at: BTreeMap::new(),
        };
        let mut life = 0;
        for line in &trace.lines {
            match line {
                Line::Step(step) => ledger.add(life, step),
                Line::Crash(at) => {
                    ledger.ends.push(*at);
                    life += 1;
                }
                Line::Dns(heard) => ledger.add_dns(life, heard),
                Line::Note(..) => {}
            }
        }
        ledger
            .ends
            .push(trace.lines.last().map_or(Instant::FAR_FUTURE, Line::at));
        ledger
    }

    fn add(&mut self, life: usize, step: &'t Step) {
        let packet: &'t Packet = &step.packet;
        let is_sent = match step.what {
            What::Sent => true,
            What::Received => false,
            What::LostIn | What::LostOut => return,
            What::Unsent | What::Unheard => {
                self.note_unsent(life, step);
                return;
            }
        };
        let index = self.steps.len();
        self.steps.push((life, step));
        self.by_call_id.entry(&packet.call_id).or_default().push(index);
        let branch = packet.branch.as_str();
        let invite: Key<'t> = (life, branch, "INVITE");
        let own: Key<'t> = (life, branch, &packet.method);
        match (is_sent, packet.request()) {
            (true, Some("ACK")) => {
                if let Some(index) = self.by_client_key.get(&invite) {
                    self.asked[*index].acks.push(step);
                }
            }
            (true, Some(method)) => {
                if method == "CANCEL"
                    && let Some(index) = self.by_client_key.get(&invite)
                {
                    self.asked[*index].cancels.push(step);
                }
                let parent = below(packet)
                    .and_then(|branch| self.by_server_key.get(&(life, branch, method)))
                    .copied();
                let index = *self.by_client_key.entry(own).or_insert_with(|| {
                    let index = self.asked.len();
                    // A CANCEL whose INVITE is not known goes on without a transaction too.
                    let is_stateless = parent.is_some_and(|parent| {
                        let served = &mut self.served[parent];
                        served.children.push(index);
                        served.is_stateless |= method == "CANCEL";
                        served.is_stateless
                    });
                    self.asked.push(Asked {
                        life,
                        parent,
                        is_stateless,
                        ..Asked::default()
                    });
                    index
                });
                self.asked[index].sent.push(step);
            }
            (false, None) => {
                if let Some(index) = self.by_client_key.get(&own) {
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
                // A CANCEL that another shard has read in the same turn may stand before its INVITE.
                let cancel = self.by_server_key.get(&(life, branch, "CANCEL"));
                let ahead: Vec<&Step> = cancel
                    .into_iter()
                    .flat_map(|index| &self.served[*index].got)
                    .filter(|cancel| cancel.at == step.at)
                    .copied()
                    .collect();
                let index = *self.by_server_key.entry(own).or_insert_with(|| {
                    let mut served = Served {
                        life,
                        got: vec![step],
                        ..Served::default()
                    };
                    // A redirection by the table is an answer without a transaction.
                    served.is_stateless = matches!(
                        served.dialled(self.terms),
                        Some(Dialled::Stateless | Dialled::Redirected)
                    );
                    served.got.clear();
                    if method == "INVITE" {
                        served.cancels.extend(ahead);
                    }
                    self.served.push(served);
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

    fn add_dns(&mut self, life: usize, heard: &'t Heard) {
        let index = self.dns.len();
        self.dns.push((life, heard));
        if heard.answer.is_none() {
            let times = self.asked_dns_at.entry((life, heard.shard)).or_default();
            times.push(heard.at);
        } else {
            let name = heard.question.name.as_str();
            self.by_name.entry(name).or_default().push(index);
        }
    }

    fn told_of<'l>(
        &'l self,
        life: usize,
        name: &str,
    ) -> impl DoubleEndedIterator<Item = &'t Heard> + use<'l, 't> {
        let indices = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        let all = indices.iter().map(|index| self.dns[*index]);
        all.filter(move |(own, _)| *own == life).map(|(_, heard)| heard)
    }

    /// What DNS has told a shard last about a name, by that time.
    pub fn told_last(
        &self,
        life: usize,
        shard: usize,
        name: &str,
        record_type: RecordType,
        at: Instant,
    ) -> Option<&'t Heard> {
        self.told_of(life, name).rfind(|heard| {
            heard.shard == shard && heard.question.record_type == record_type && heard.at <= at
        })
    }

    /// The shards that DNS has told anything about a host, or its services.
    pub fn shards_that_know(&self, life: usize, host: &str) -> BTreeSet<usize> {
        ["", "_sip._udp.", "_sip._tcp."]
            .iter()
            .flat_map(|prefix| self.told_of(life, &format!("{prefix}{host}")))
            .map(|heard| heard.shard)
            .collect()
    }

    /// Whether a shard has asked DNS anything in the time before `at`.
    pub fn has_asked(&self, life: usize, shard: usize, at: Instant, within: Duration) -> bool {
        let times = self
            .asked_dns_at
            .get(&(life, shard))
            .map_or(&[][..], Vec::as_slice);
        let last = times.partition_point(|asked| *asked <= at);
        last > 0 && times[last - 1] + within >= at
    }

    fn note_unsent(&mut self, life: usize, step: &'t Step) {
        let Some(method) = step.packet.request() else {
            return;
        };
        let own: Key<'t> = (life, &step.packet.branch, method);
        if let Some(index) = self.by_client_key.get(&own) {
            let asked = &mut self.asked[*index];
            let is_unheard = step.what == What::Unheard;
            let told = if is_unheard {
                &mut asked.unheard
            } else {
                &mut asked.unsent
            };
            told.get_or_insert(step.at);
        }
    }

    /// The request that a response of the server's answers.
    pub fn served_by(&self, life: usize, response: &'t Packet) -> Option<&Served<'t>> {
        let key: Key<'t> = (life, &response.branch, &response.method);
        self.by_server_key.get(&key).map(|index| &self.served[*index])
    }

    /// The request that came under a branch.
    pub fn served_as(&self, life: usize, branch: &str, method: &str) -> Option<&Served<'t>> {
        let index = self.by_server_key.get(&(life, branch, method))?;
        Some(&self.served[*index])
    }

    /// Whether a CANCEL has ended its INVITE: it was answered with a 200 of the server's own.
    pub fn was_taken(&self, life: usize, cancel: &Step) -> bool {
        let own = self.served_as(life, &cancel.packet.branch, "CANCEL");
        own.is_some_and(|own| {
            own.finals().any(|step| {
                let is_its_answer = step.at >= cancel.at && step.at <= cancel.at + SLACK;
                is_its_answer && step.packet.is_success() && self.is_own(life, step)
            })
        })
    }

    /// Whether a response is one that the server has made itself: no phone has, nor has it come from one that it had been sent to before.
    pub fn is_own(&self, life: usize, response: &Step) -> bool {
        let vias = response.packet.message.elements("Via");
        response.packet.id.is_none()
            && !self.of_call(life, &response.packet.call_id).any(|other| {
                other.what == What::Received
                    && other.at <= response.at
                    && other.packet.status == response.packet.status
                    && other.packet.to_tag == response.packet.to_tag
                    && other.packet.message.elements("Via")[1..] == vias[..]
            })
    }

    /// The request that was forwarded under a branch of ours.
    pub fn parent_of(&self, life: usize, branch: &str, method: &str) -> Option<&Served<'t>> {
        let index = self.by_client_key.get(&(life, branch, method))?;
        Some(&self.served[self.asked[*index].parent?])
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

    /// The INVITEs that have a client transaction.
    pub fn invites(&self) -> impl Iterator<Item = &Asked<'t>> {
        self.asked
            .iter()
            .filter(|asked| asked.is("INVITE") && !asked.is_stateless)
    }

    /// The other requests that have one, with the times that they left by it.
    pub fn others(&self) -> impl Iterator<Item = (&Asked<'t>, &[&'t Step])> {
        (self.asked.iter())
            .filter(|asked| !asked.is("INVITE"))
            .filter_map(|asked| Some((asked, self.sent_by_transaction(asked)?)))
    }

    /// What a client transaction has sent of a request, if it has one. A CANCEL that finds no place for one goes out once for each time
    /// that the caller's comes, as it does without state (RFC 3261 §16.11), until there is a place.
    fn sent_by_transaction<'l>(&self, asked: &'l Asked<'t>) -> Option<&'l [&'t Step]> {
        if asked.is_stateless {
            return None;
        }
        if self.terms.is_whole || !asked.is("CANCEL") {
            return Some(&asked.sent);
        }
        let first = asked.first();
        let parent = self.parent_of(asked.life, &first.packet.branch, "INVITE");
        let of_caller = parent.map_or(&[][..], |served| &served.cancels);
        let is_passed_on =
            |step: &Step| (of_caller.iter()).any(|came| step.at >= came.at && step.at <= came.at + SLACK);
        let again = &asked.sent[1..];
        let passed_on = again.iter().take_while(|step| is_passed_on(step)).count();
        if passed_on == again.len() && passed_on > 0 {
            return None;
        }
        // The caller repeats its own at the same times, so that the last of these need not be the first of a transaction.
        let is_schedule = |sent: &[&Step]| {
            let gaps = sent.windows(2).map(|pair| pair[1].at.since(pair[0].at));
            gaps.zip(doubling_to_t2()).all(|(gap, due)| is_on_time(due, gap))
        };
        let mut begins = (0..=passed_on).map(|begin| &asked.sent[begin..]);
        begins.find(|sent| is_schedule(sent)).or(Some(&asked.sent))
    }

    /// The requests that have a server transaction.
    pub fn stateful(&self) -> impl Iterator<Item = &Served<'t>> {
        self.served.iter().filter(|served| !served.is_stateless)
    }

    /// Whether it is the ACK of a failure, or a CANCEL: part of the transaction of an INVITE of the server's.
    pub fn is_of_invite(&self, life: usize, request: &Packet) -> bool {
        let is_of_invite = matches!(request.request(), Some("ACK" | "CANCEL"));
        is_of_invite
            && self
                .by_client_key
                .contains_key(&(life, &*request.branch, "INVITE"))
    }

    /// What a request was forwarded as, in turn.
    pub fn children<'l>(&'l self, served: &'l Served<'t>) -> impl Iterator<Item = &'l Asked<'t>> + Clone {
        served.children.iter().map(|index| &self.asked[*index])
    }
}

/// Whether it says that there is no room: without a transaction, so that whoever asks again may be luckier.
pub fn has_no_room(step: &Step) -> bool {
    step.packet.status == Some(503) && step.packet.id.is_none()
}

/// The branch of the Via below ours.
fn below(packet: &Packet) -> Option<&str> {
    sip::param(packet.message.elements("Via").get(1)?, "branch")
}

pub fn is_udp(step: &Step) -> bool {
    step.transport == Transport::Udp
}
