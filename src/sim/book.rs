//! The reference model: what was said by whom, and so what each party may come to see. The phones tell it what they do and
//! show it what they get; what does not follow from what was said before is a finding.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bench_harness::sip::Message;

use crate::time::Instant;

use super::edge::is_edges_via;
use super::exchange::{Dialled, Exchange};
use super::net::SERVER;
use super::packet::Packet;
use super::passage;
use super::phone::{Phone, Purpose, Role, Standing};
use super::plan::{Acknowledge, Verdict};
use super::rng::Rng;
use super::tally::tally;

#[derive(Clone, Debug)]
pub struct Finding {
    pub at: Instant,
    pub text: String,
    /// Tags of the dialogs that it is about.
    pub tags: Vec<String>,
}

tally! {
    /// What a run was made of.
    pub struct Totals {
        calls,
        answered,
        cancelled,
        refused,
        hung_up,
        messages,
        registrations,
        unregistrations,
        subscriptions,
        notifies,
        options,
        texts,
        reinvites,
        updates,
        infos,
        texts_in_calls,
        /// PRACKs that a callee got.
        pracks,
        /// 302 of a callee.
        redirections,
        /// 401 and 407.
        challenges,
        /// 503 of a callee.
        overloads,
        /// 6xx.
        declines,
        /// Flows that were registered, and 430 of a phone.
        flows,
        flow_failures,
        /// Dialogs with phones that want them on their flows.
        ob_dialogs,
        /// GRUUs that phones were given, and calls to them; those that were temporary among these, and REGISTERs under another Call-ID,
        /// which end them.
        gruus,
        calls_to_gruus,
        temporary_gruus,
        calls_to_temporary_gruus,
        other_call_ids,
        /// Re-INVITEs that met another.
        glares,
        /// A BYE that met a BYE.
        crossed_byes,
        /// A 2xx that met the CANCEL of its INVITE, on purpose or not.
        answers_after_cancel,
        /// CANCELs sent before anything had come back.
        early_cancels,
        /// CANCELs that the callee takes no notice of.
        ignored_cancels,
        /// INVITEs that a phone says nothing more to.
        never_answered,
        /// Final responses after another.
        answered_twice,
        /// 2xx that their caller never acknowledges, late, or twice.
        never_acknowledged,
        late_acks,
        double_acks,
        /// 2xx from another place than the first.
        other_answers,
        wrong_tags,
        /// Requests of a call that is long over.
        stale,
        /// Messages that a phone without ears did not hear.
        unheard,
    }
}

/// One call, from outside.
struct Call {
    caller: usize,
    callee: String,
    /// The caller's, which all its legs bear.
    tag: String,
    is_cancelled: bool,
    /// The final response that the caller got: its status, and who made it.
    outcome: Option<(u16, Option<u64>)>,
    rung: Vec<usize>,
    picked_up: Vec<usize>,
    is_answered: bool,
    /// Somebody in it breaks the rules: what becomes of it can't be foretold.
    is_excused: bool,
    /// The phone whose GRUU was called.
    device: Option<usize>,
}

/// How far what happens can be foretold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Foresight {
    /// Everything arrives once, in order.
    Calm,
    /// Everything arrives sooner or later.
    Fair,
    /// Things are lost for good.
    Rough,
    /// What is said may turn into something else on the way.
    Damaged,
}

pub struct Book {
    made: Vec<Option<Rc<Packet>>>,
    /// By phone: the public GRUU that it was given.
    gruus: BTreeMap<usize, String>,
    /// The temporary GRUUs that phones were given, with their phones.
    temporary_gruus: Vec<(usize, String)>,
    users: Vec<String>,
    calls: Vec<Call>,
    by_invite: BTreeMap<u64, usize>,
    pub findings: Vec<Finding>,
    pub totals: Totals,
    foresight: Foresight,
    /// Where the server is a proxy: its routing table.
    exchange: Option<Exchange>,
    pub start: Instant,
    /// DNS may take its time.
    pub has_names: bool,
}

impl Book {
    pub fn new(users: Vec<String>, foresight: Foresight, exchange: Option<Exchange>, start: Instant) -> Book {
        Book {
            made: Vec::new(),
            gruus: BTreeMap::new(),
            temporary_gruus: Vec::new(),
            users,
            calls: Vec::new(),
            by_invite: BTreeMap::new(),
            findings: Vec::new(),
            totals: Totals::default(),
            foresight,
            exchange,
            start,
            has_names: false,
        }
    }

    fn is_calm(&self) -> bool {
        self.foresight == Foresight::Calm
    }

    fn is_fair(&self) -> bool {
        matches!(self.foresight, Foresight::Calm | Foresight::Fair)
    }

    pub fn find(&mut self, at: Instant, tags: &[&str], text: impl FnOnce() -> String) {
        if self.foresight != Foresight::Damaged {
            let tags = tags.iter().filter(|tag| !tag.is_empty());
            self.findings.push(Finding {
                at,
                text: text(),
                tags: tags.map(|tag| (*tag).to_owned()).collect(),
            });
        }
    }

    fn find_in(&mut self, call: usize, at: Instant, text: impl FnOnce() -> String) {
        let tag = self.calls[call].tag.clone();
        self.find(at, &[&tag], text);
    }

    /// What must not be, whatever the weather.
    pub fn leftover(&mut self, at: Instant, text: String) {
        let tags = Vec::new();
        self.findings.push(Finding { at, text, tags });
    }

    pub fn next_id(&self) -> u64 {
        self.made.len() as u64
    }

    /// A phone has made a message; it bears the id given out last.
    pub fn made(&mut self, packet: Rc<Packet>) {
        self.totals.messages += 1;
        self.made.push(Some(packet));
    }

    fn made_as(&self, id: u64) -> Option<Rc<Packet>> {
        self.made.get(id as usize).cloned().flatten()
    }

    /// Whether what is sent to others goes through a proxy rather than the phone service.
    pub fn is_proxied(&self) -> bool {
        self.exchange.is_some()
    }

    /// Whether a request goes through without a transaction.
    pub fn is_stateless(&self, request: &Packet) -> bool {
        let uri = request.message.uri().unwrap_or_default();
        self.is_proxied() && Dialled::uri(uri) == Some(Dialled::Stateless)
    }

    /// Whom a call or message is for.
    pub fn some_number(&self, rng: &mut Rng) -> String {
        match &self.exchange {
            None => self.some_user(rng),
            Some(exchange) => exchange.some_number(&self.users, rng),
        }
    }

    /// The Contacts of a 302.
    pub fn elsewhere(&self, rng: &mut Rng) -> Vec<String> {
        let Some(exchange) = &self.exchange else {
            return vec!["<sip:elsewhere@192.0.2.7:5060>".to_owned()];
        };
        (0..=rng.below(3))
            .map(|nth| format!("<{}>;q=0.{nth}", exchange.elsewhere(&self.users, rng)))
            .collect()
    }

    fn some_user(&self, rng: &mut Rng) -> String {
        // Now and then one that nobody has.
        if rng.one_in(25) {
            return "13800099999".to_owned();
        }
        self.users[rng.below(self.users.len())].clone()
    }

    // ---- What phones get -------------------------------------------------------------------------------------------

    /// A phone has got `response` to `request`.
    pub fn check_answer(&mut self, phone: usize, request: &Packet, response: &Packet, at: Instant) {
        let title = response.message.title();
        let mut wrong = Vec::new();
        // RFC 3261 §8.2.6.2: these are the request's.
        for name in ["From", "Call-ID", "CSeq"] {
            if request.message.get_all(name) != response.message.get_all(name) {
                wrong.push(format!("{name} is not the request's"));
            }
        }
        let via = response.message.elements("Via");
        if !passage::are_completed(&request.message.elements("Via"), &via) {
            wrong.push(format!("Via is {via:?}"));
        }
        let (asked, got) = (request.message.text("To"), response.message.text("To"));
        let is_kept = got == asked
            || (request.to_tag.is_empty()
                && got
                    .strip_prefix(asked)
                    .is_some_and(|rest| rest.starts_with(";tag=")));
        if !is_kept {
            wrong.push(format!("To is {got:?} where {asked:?} was asked"));
        }
        match response.id {
            Some(id) => match self.made_as(id) {
                Some(made) => {
                    // RFC 3261 §16.7 step 6: a proxy does not pass a 503 on.
                    let is_turned =
                        self.is_proxied() && (made.status, response.status) == (Some(503), Some(500));
                    if (made.status != response.status && !is_turned) || made.method != response.method {
                        wrong.push(format!("it was {} when it was sent", made.message.title()));
                    }
                    wrong.extend(if self.is_proxied() {
                        passage::response(&made.message, &response.message)
                    } else {
                        passage::b2bua(&made.message, &response.message)
                    });
                }
                None => wrong.push(format!("nobody has made #{id}")),
            },
            // The server's own answers.
            None => {
                let status = response.status.unwrap_or(0);
                let is_for_server = matches!(
                    response.method.as_str(),
                    "REGISTER" | "SUBSCRIBE" | "OPTIONS" | "CANCEL"
                ) || (response.method == "BYE" && !self.is_proxied());
                let uri = request.message.uri().unwrap_or_default();
                let is_redirected =
                    self.is_proxied() && status == 302 && Dialled::uri(uri) == Some(Dialled::Redirected);
                if !(status == 100 || status >= 400 || (status == 200 && is_for_server) || is_redirected) {
                    wrong.push("no phone has said so".to_owned());
                }
            }
        }
        let tags = [&*response.from_tag, &*response.to_tag];
        for what in wrong {
            self.find(at, &tags, || format!("phone {phone} got {title}: {what}"));
        }
    }

    /// A phone has got `request`.
    pub fn check_request(&mut self, phone: usize, request: &Packet, at: Instant) {
        let mut wrong = Vec::new();
        let title = request.message.title();
        let mut via = request.message.elements("Via");
        if via.first().is_some_and(|via| is_edges_via(via)) {
            via.remove(0);
        }
        if !self.is_proxied() && (via.len() != 1 || !via[0].contains(&SERVER.to_string())) {
            wrong.push(format!("Via is {via:?}: a B2BUA's own alone"));
        }
        match request.id {
            Some(id) => match self.made_as(id) {
                Some(made) if self.is_proxied() => {
                    if made.request() != request.request() {
                        wrong.push(format!("it was {} when it was sent", made.message.title()));
                    }
                    wrong.extend(passage::request(&made, request));
                }
                Some(made) => {
                    if made.request() != request.request() {
                        wrong.push(format!("it was {} when it was sent", made.message.title()));
                    }
                    let hops = |message: &Message| message.text("Max-Forwards").parse::<u32>().ok();
                    match (hops(&made.message), hops(&request.message)) {
                        (Some(before), Some(after)) if after < before => {}
                        (before, after) => wrong.push(format!("Max-Forwards: {before:?}, then {after:?}")),
                    }
                    if made.call_id == request.call_id && made.to_tag.is_empty() {
                        wrong.push("a leg of its own has a Call-ID of its own".to_owned());
                    }
                    wrong.extend(passage::b2bua(&made.message, &request.message));
                }
                None => wrong.push(format!("nobody has made #{id}")),
            },
            None => {
                let is_its_own = match request.method.as_str() {
                    "ACK" | "CANCEL" | "NOTIFY" => true,
                    "BYE" => !self.is_proxied(),
                    // To the destinations of a trunk.
                    "OPTIONS" => self.is_proxied(),
                    _ => false,
                };
                if !is_its_own {
                    wrong.push("no phone has sent it".to_owned());
                }
            }
        }
        let tags = [&*request.from_tag, &*request.to_tag];
        for what in wrong {
            self.find(at, &tags, || format!("phone {phone} got {title}: {what}"));
        }
    }

    // ---- What phones do --------------------------------------------------------------------------------------------

    pub fn begin_call(&mut self, caller: usize, callee: &str) -> usize {
        self.totals.calls += 1;
        self.calls.push(Call {
            caller,
            callee: callee.to_owned(),
            tag: String::new(),
            is_cancelled: false,
            outcome: None,
            rung: Vec::new(),
            picked_up: Vec::new(),
            is_answered: false,
            is_excused: false,
            device: None,
        });
        self.calls.len() - 1
    }

    /// A phone has learnt its public GRUU.
    pub fn learns_gruu(&mut self, phone: usize, gruu: &str) {
        self.totals.gruus += 1;
        self.gruus.insert(phone, gruu.to_owned());
    }

    /// A phone has learnt another temporary GRUU.
    pub fn learns_temporary_gruu(&mut self, phone: usize, gruu: &str) {
        self.totals.temporary_gruus += 1;
        self.temporary_gruus.push((phone, gruu.to_owned()));
    }

    /// The GRUU of some phone, and whose it is.
    pub fn some_gruu(&self, rng: &mut Rng) -> Option<(usize, String)> {
        if self.gruus.is_empty() || !rng.one_in(4) {
            return None;
        }
        // Half of the calls are for temporary ones: any that was ever given, or one of the last.
        let temporary = &self.temporary_gruus;
        if !temporary.is_empty() && rng.one_in(2) {
            let among = if rng.one_in(2) {
                temporary.len()
            } else {
                temporary.len().min(20)
            };
            let nth = temporary.len() - 1 - rng.below(among);
            return Some(temporary[nth].clone());
        }
        let (phone, gruu) = self.gruus.iter().nth(rng.below(self.gruus.len()))?;
        Some((*phone, gruu.clone()))
    }

    /// A call is for one device alone.
    pub fn is_for_device(&mut self, call: usize, phone: usize) {
        self.totals.calls_to_gruus += 1;
        self.totals.calls_to_temporary_gruus += u64::from(self.calls[call].callee.starts_with("tgruu."));
        self.calls[call].device = Some(phone);
    }

    /// A phone says that the flow has failed on which an INVITE came: RFC 5626 §11.5.
    pub fn flow_failed(&mut self, invite: &Packet) {
        self.totals.flow_failures += 1;
        if let Some(call) = invite.id.and_then(|id| self.by_invite.get(&id)) {
            self.calls[*call].is_excused = true;
        }
    }

    pub fn invited(&mut self, call: usize, invite: &Packet) {
        self.calls[call].tag.clone_from(&invite.from_tag);
        if let Some(id) = invite.id {
            self.by_invite.insert(id, call);
        }
    }

    /// A phone has got the INVITE of a call. Gives the number of the call.
    pub fn rung(&mut self, invite: &Packet, phone: usize, is_rude: bool) -> usize {
        let call = invite.id.and_then(|id| self.by_invite.get(&id)).copied();
        let Some(call) = call else {
            self.find(Instant::default(), &[&invite.from_tag], || {
                format!("phone {phone} is rung by an INVITE of nobody")
            });
            return self.begin_call(phone, "nobody");
        };
        let known = &mut self.calls[call];
        known.is_excused |= is_rude || known.rung.contains(&phone);
        known.rung.push(phone);
        // A redirection, or another number that the way there makes of it, may lead anywhere.
        let strays = known.device.is_some_and(|device| device != phone);
        if strays && self.exchange.is_none() {
            self.find_in(call, Instant::default(), || {
                format!("phone {phone} is rung by the GRUU of another: RFC 5627 §6.1")
            });
        }
        call
    }

    /// Whether a phone has got the INVITE of a call before.
    pub fn has_rung(&self, invite: &Packet, phone: usize) -> bool {
        let call = invite.id.and_then(|id| self.by_invite.get(&id));
        call.is_some_and(|call| self.calls[*call].rung.contains(&phone))
    }

    pub fn cancelled(&mut self, call: usize) {
        self.totals.cancelled += 1;
        self.calls[call].is_cancelled = true;
    }

    /// Somebody did not hear a message of a call.
    pub fn excuse_call_of(&mut self, packet: &Packet) {
        let mine = |call: &&mut Call| call.tag == packet.from_tag || call.tag == packet.to_tag;
        for call in self.calls.iter_mut().filter(mine) {
            call.is_excused = true;
        }
    }

    pub fn excuse(&mut self, call: usize) {
        self.calls[call].is_excused = true;
    }

    pub fn picked_up(&mut self, call: usize, phone: usize) {
        self.calls[call].picked_up.push(phone);
    }

    pub fn answered(&mut self, call: usize, packet: &Packet) {
        self.totals.answered += 1;
        self.calls[call].is_answered = true;
        self.calls[call].outcome = packet.status.map(|status| (status, packet.id));
    }

    pub fn refused(&mut self, call: usize, packet: Option<&Packet>) {
        self.totals.refused += 1;
        self.calls[call].outcome = packet.and_then(|packet| Some((packet.status?, packet.id)));
    }

    pub fn hung_up(&mut self, _call: usize) {
        self.totals.hung_up += 1;
    }

    /// A phone has answered and nobody has said ACK for 64*T1.
    pub fn never_acknowledged(&mut self, call: usize, phone: usize, at: Instant) {
        if self.is_fair() && !self.calls[call].is_excused && !self.is_cut_off(call) {
            self.find_in(call, at, || {
                format!("phone {phone} has answered call {call} and never got an ACK")
            });
        }
    }

    /// Whether a call that goes round by another element was refused there: a 2xx that comes behind that finds a transaction
    /// which takes 2xx in its states Calling and Proceeding alone (RFC 3261 §17.1.1.2 as RFC 6026 has it).
    fn is_cut_off(&self, call: usize) -> bool {
        let call = &self.calls[call];
        let goes_round = matches!(
            Dialled::number(&call.callee),
            Some(Dialled::Loop | Dialled::Spiral)
        );
        let is_refused = call.outcome.is_some_and(|(status, _)| status >= 300);
        self.is_proxied() && goes_round && is_refused
    }

    /// A request within a call got no answer for 64*T1.
    pub fn in_call_silent(&mut self, call: usize, key: &str, at: Instant) {
        if self.is_fair() && !self.calls[call].is_excused {
            self.find_in(call, at, || format!("in call {call} nobody has answered {key}"));
        }
    }

    pub fn in_call_answered(&mut self, call: usize, request: &Packet, response: &Packet, at: Instant) {
        let status = response.status.unwrap_or(0);
        // 481: the other side has hung up meanwhile. 487: the server ends the call. 491: glare. 500: overtaken, on the way or by going over
        // TCP for its size.
        let may_overtake = !self.is_calm() || self.exchange.is_some_and(|exchange| exchange.splits_dialogs());
        let is_usual = matches!(status, 200 | 408 | 481 | 487 | 491) || (status == 500 && may_overtake);
        if self.is_fair() && !is_usual && !self.calls[call].is_excused {
            self.find_in(call, at, || {
                format!(
                    "in call {call} {} got {}",
                    request.method,
                    response.message.title()
                )
            });
        }
    }

    pub fn register_refused(&mut self, phone: usize, packet: &Packet, at: Instant) {
        if self.is_calm() {
            self.find(at, &[&packet.from_tag], || {
                format!("phone {phone} may not register: {}", packet.message.title())
            });
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------------

    /// Long after the last word: what must have come to an end has.
    pub fn settle(&mut self, phones: &[Phone], into_nowhere: &BTreeSet<u64>, at: Instant) {
        if !self.is_fair() {
            return;
        }
        for phone in phones {
            for leg in &phone.legs {
                let call = &self.calls[leg.call];
                let is_excused = call.is_excused || leg.caller.acknowledge == Acknowledge::Never;
                let (index, number) = (phone.index, leg.call);
                let client = phone.clients.get(&leg.invite_key);
                match (leg.standing, leg.role) {
                    (Standing::Up, _) if !is_excused => {
                        self.find_in(number, at, || format!("phone {index} is still in call {number}"));
                    }
                    // Who gave up before anything came is out of it.
                    (Standing::Early, Role::Caller)
                        if client.is_some_and(|client| {
                            // Nobody says again over TCP what it did not hear.
                            let is_deaf = call.is_excused && phone.habits.deaf.is_some();
                            client.has_provisional && !self.is_stateless(&client.packet) && !is_deaf
                        }) =>
                    {
                        self.find_in(number, at, || {
                            format!("phone {index} never heard what became of call {number}")
                        });
                    }
                    (Standing::Early, Role::Callee) if !is_excused && !self.is_stateless(&leg.invite) => {
                        self.find_in(number, at, || {
                            format!("phone {index} still rings for call {number}")
                        });
                    }
                    (Standing::Up | Standing::Early | Standing::Ended, _) => {}
                }
            }
        }
        if !self.is_calm() {
            return;
        }
        for phone in phones {
            for (key, client) in &phone.clients {
                let is_rude = client.purpose == Purpose::Rude;
                // Without a transaction in between nobody makes up for one who never answers.
                let is_stateless = self.is_stateless(&client.packet);
                // RFC 4320 §4.2: nothing is said of other requests than INVITE where the place that is tried first keeps silent.
                let is_silenced = !client.packet.is_request("INVITE")
                    && client.packet.id.is_some_and(|id| into_nowhere.contains(&id));
                if client.last.is_none() && !is_rude && !is_stateless && !is_silenced {
                    let tag = client.packet.from_tag.clone();
                    self.find(at, &[&tag], || {
                        format!("phone {} got no answer to {key}", phone.index)
                    });
                }
            }
        }
        for index in 0..self.calls.len() {
            self.settle_call(index, phones, at);
        }
    }

    /// In calm weather a call comes out as its callees have decided.
    fn settle_call(&mut self, index: usize, phones: &[Phone], at: Instant) {
        let call = &self.calls[index];
        let Some((status, id)) = call.outcome else { return };
        if call.is_excused || id.is_some() {
            return;
        }
        // The server has answered itself.
        let legs = phones
            .iter()
            .flat_map(|phone| &phone.legs)
            .filter(|leg| leg.call == index && leg.role == Role::Callee);
        let never_answers = legs.into_iter().any(|leg| leg.callee.verdict == Verdict::Never);
        let dialled = self.exchange.and_then(|_| Dialled::number(&call.callee));
        let is_right = match status {
            482 => {
                matches!(dialled, Some(Dialled::Loop | Dialled::Itself))
                    || dialled.is_some() && !call.rung.is_empty()
            }
            483 | 420 | 440 if dialled.is_some() => true,
            302 => dialled == Some(Dialled::Redirected),
            // The trunk's limits; and redirections lead anywhere.
            503 | 504 | 480 | 404 | 408 | 500 | 502 | 400 if dialled.is_some() => true,
            503 if self.has_names => true,
            487 => call.is_cancelled,
            408 => never_answers,
            404 | 480 => call.rung.is_empty(),
            _ => false,
        };
        // A proxy passes every 2xx on, also behind a CANCEL: RFC 3261 §16.7 step 5.
        let counts = !call.is_cancelled || self.is_proxied();
        let has_answered = call.picked_up.iter().any(|phone| *phone != call.caller) && counts;
        if !is_right || (has_answered && !call.is_answered) {
            let callee = call.callee.clone();
            let rung = call.rung.clone();
            self.find_in(index, at, || {
                format!("call {index} to {callee} got {status} from the server; rung: {rung:?}")
            });
        }
    }
}
