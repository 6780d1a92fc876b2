//! A simulated phone: a small user agent with a transaction layer of its own, so that it repeats what is lost and answers
//! what comes again, and with manners that its seed draws, good or bad.
//!
//! [`caller`] places calls, [`callee`] answers them, [`in_call`] is what both do while a call stands, [`service`] is
//! what a phone says to the server itself.

mod callee;
mod caller;
mod in_call;
mod leg;
mod service;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::{self, Message};

use crate::time::Instant;
use crate::wire::Transport;

use super::book::Book;
use super::net::{Link, Net, PhoneEvent, SERVER, phone_addr};
use super::packet::{ID_HEADER, Packet};
use super::plan::Habits;
use super::rng::Rng;

pub use leg::{Leg, Role, Standing};
use service::Registration;

pub const T1: Duration = Duration::from_millis(500);
pub const T2: Duration = Duration::from_secs(4);
/// 64*T1: Timers B, F, H, J and their like.
pub const TIMEOUT: Duration = Duration::from_secs(32);
pub const DOMAIN: &str = "one.att.net";

/// What a phone works with while something happens to it.
pub struct Cx<'a> {
    pub net: &'a mut Net,
    pub book: &'a mut Book,
}

/// How a request leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    Udp,
    Tcp,
    /// Past the server, to another phone: over UDP.
    To(SocketAddr),
}

/// Why a request was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Register,
    Subscribe,
    Options,
    Message,
    /// The INVITE that begins a call, of that leg.
    Call(usize),
    /// Within a call.
    InCall(usize),
    Cancel,
    /// A phone that gets it wrong on purpose: whatever is answered is right.
    Rude,
}

/// A request of ours.
pub struct Client {
    pub packet: Rc<Packet>,
    pub over: Over,
    pub purpose: Purpose,
    interval: Duration,
    pub sent_at: Instant,
    pub answered_at: Instant,
    until: Instant,
    pub has_provisional: bool,
    pub last: Option<Rc<Packet>>,
    /// By the To tag of what they acknowledge, and how they left.
    acks: BTreeMap<String, (Rc<Packet>, Over)>,
    pub has_timed_out: bool,
}

/// A request of somebody else's.
pub struct Server {
    pub packet: Rc<Packet>,
    link: Link,
    /// The last response.
    pub last: Option<Rc<Packet>>,
    interval: Duration,
    until: Instant,
    /// An INVITE's final response has its ACK, or a reliable provisional its PRACK.
    pub is_acknowledged: bool,
    pub leg: Option<usize>,
}

/// What a timer is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Due {
    Client(String),
    Server(String),
    Place,
    Register,
    Unregister,
    Subscribe,
    Options,
    Message,
    Leg(usize, Act),
}

/// What happens in a call at its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Ring,
    Answer,
    AnswerAgain,
    Cancel,
    Ack,
    Bye,
    Reinvite,
    Update,
    Info,
    Message,
    /// A BYE under a tag that nobody has.
    WrongTag,
    /// What was said before is said again, long after.
    Stale,
    /// The reliable provisional once more.
    Reliable,
}

pub struct Phone {
    pub index: usize,
    pub user: String,
    pub rng: Rng,
    pub habits: Habits,
    serial: u64,
    timers: BTreeMap<u64, Due>,
    pub clients: BTreeMap<String, Client>,
    pub servers: BTreeMap<String, Server>,
    pub legs: Vec<Leg>,
    pub registration: Registration,
    stream: Option<u32>,
}

impl Phone {
    pub fn new(index: usize, user: String, seed: u64, habits: Habits) -> Phone {
        let mut rng = Rng::part(seed, &format!("phone {index}"));
        let registration = Registration::new(&mut rng);
        Phone {
            index,
            user,
            rng,
            habits,
            serial: 0,
            timers: BTreeMap::new(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            legs: Vec::new(),
            registration,
            stream: None,
        }
    }

    pub fn aor(&self) -> String {
        format!("sip:{}@{DOMAIN}", self.user)
    }

    pub fn happens(&mut self, event: PhoneEvent, cx: &mut Cx<'_>) {
        match event {
            PhoneEvent::Timer(token) => {
                if let Some(due) = self.timers.remove(&token) {
                    self.due(due, cx);
                }
            }
            PhoneEvent::Closed { stream } => {
                if self.stream == Some(stream) {
                    self.stream = None;
                }
            }
            PhoneEvent::Packet { packet, .. } if self.is_deaf(&packet, cx) => {}
            PhoneEvent::Packet { link, packet } => {
                if packet.status.is_some() {
                    self.on_response(&packet, cx);
                } else {
                    self.on_request(link, &packet, cx);
                }
            }
        }
    }

    fn due(&mut self, due: Due, cx: &mut Cx<'_>) {
        match due {
            Due::Client(key) => self.client_due(&key, cx),
            Due::Server(key) => self.server_due(&key, cx),
            Due::Place => self.place_call(cx),
            Due::Register => self.register(cx),
            Due::Unregister => self.unregister(cx),
            Due::Subscribe => self.subscribe(cx),
            Due::Options => self.options(cx),
            Due::Message => self.send_message(cx),
            Due::Leg(leg, act) => self.act(leg, act, cx),
        }
    }

    pub fn after(&mut self, after: Duration, due: Due, cx: &mut Cx<'_>) {
        self.serial += 1;
        self.timers.insert(self.serial, due);
        cx.net.timer(self.index, after, self.serial);
    }

    fn word(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}{}x{:x}", self.index, self.serial)
    }

    // ---- Writing ---------------------------------------------------------------------------------------------------

    /// The head of a request: all that every one has.
    fn request(&mut self, method: &str, uri: &str, over: Over) -> Message {
        let transport = match over {
            Over::Udp | Over::To(_) => "UDP",
            Over::Tcp => "TCP",
        };
        let branch = self.word("z9hG4bK");
        let rport = if self.habits.rport { ";rport" } else { "" };
        let addr = phone_addr(self.index);
        Message::request(method, uri).with(
            "Via",
            format!("SIP/2.0/{transport} {addr};branch={branch}{rport}"),
        )
    }

    /// The last touch: a number by which it is known wherever it turns up.
    fn sealed(&mut self, message: Message, cx: &mut Cx<'_>) -> Rc<Packet> {
        let id = cx.book.next_id();
        let message = message.inserting(ID_HEADER, id);
        let message = if message.has("Content-Length") {
            message
        } else {
            message.with("Content-Length", 0)
        };
        let packet = Rc::new(Packet::new(message));
        cx.book.made(packet.clone());
        packet
    }

    /// A response to `request`; `tag` for a To that has none.
    fn answer(&mut self, request: &Packet, status: u16, reason: &str, tag: &str) -> Message {
        let message = &request.message;
        let mut response = Message::response(status, reason);
        for via in message.lines("Via") {
            let (name, value) = via.split_once(':').unwrap_or(("Via", via));
            response = response.with(name, value.trim());
        }
        for record_route in message.get_all("Record-Route") {
            if (101..300).contains(&status) && request.to_tag.is_empty() {
                response = response.with("Record-Route", record_route);
            }
        }
        let to = message.text("To");
        let to = if status == 100 || !request.to_tag.is_empty() || tag.is_empty() {
            to.to_owned()
        } else {
            format!("{to};tag={tag}")
        };
        response
            .with("From", message.text("From"))
            .with("To", to)
            .with("Call-ID", message.text("Call-ID"))
            .with("CSeq", message.text("CSeq"))
    }

    // ---- Sending ---------------------------------------------------------------------------------------------------

    fn transmit(&mut self, packet: &Rc<Packet>, over: Over, cx: &mut Cx<'_>) {
        match over {
            Over::Udp => cx.net.send_datagram(self.index, packet),
            Over::To(phone) => cx.net.send_direct(self.index, phone, packet),
            Over::Tcp => {
                let stream = match self.stream.filter(|stream| cx.net.is_open(*stream)) {
                    Some(stream) => stream,
                    None => cx.net.connect(self.index),
                };
                self.stream = Some(stream);
                // A phone that loses its network in the middle of a word.
                let keep = self
                    .rng
                    .permille(self.habits.cut)
                    .then(|| self.rng.below(packet.bytes.len()));
                cx.net.send_stream(stream, packet, keep);
            }
        }
    }

    fn send_back(&mut self, packet: &Rc<Packet>, link: Link, cx: &mut Cx<'_>) {
        match link {
            Link::Udp => cx.net.send_datagram(self.index, packet),
            Link::Direct(phone) => cx.net.send_direct(self.index, phone_addr(phone), packet),
            Link::Tcp(stream) if cx.net.is_open(stream) => cx.net.send_stream(stream, packet, None),
            // RFC 3261 §18.2.2: the connection is gone: to the address of the Via, over another.
            Link::Tcp(_) => self.transmit(packet, Over::Tcp, cx),
        }
    }

    /// Sends a new request and waits for its answer.
    fn ask(&mut self, message: Message, over: Over, purpose: Purpose, cx: &mut Cx<'_>) -> String {
        let packet = self.sealed(message, cx);
        let key = key(&packet);
        self.transmit(&packet, over, cx);
        let client = Client {
            packet,
            over,
            purpose,
            interval: T1,
            sent_at: cx.net.now,
            answered_at: cx.net.now,
            until: cx.net.now + TIMEOUT,
            has_provisional: false,
            last: None,
            acks: BTreeMap::new(),
            has_timed_out: false,
        };
        self.clients.insert(key.clone(), client);
        let after = match over {
            Over::Udp | Over::To(_) => T1,
            Over::Tcp => TIMEOUT,
        };
        self.after(after, Due::Client(key.clone()), cx);
        key
    }

    /// Timers A and E, B and F.
    fn client_due(&mut self, key: &str, cx: &mut Cx<'_>) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if client.last.is_some() {
            return;
        }
        let is_invite = client.packet.method == "INVITE";
        if is_invite && client.has_provisional {
            return;
        }
        let (over, purpose) = (client.over, client.purpose);
        if cx.net.now >= client.until {
            client.has_timed_out = true;
            self.gave_up(key.to_owned(), purpose, cx);
            return;
        }
        client.interval = match (is_invite, client.has_provisional) {
            (true, _) => client.interval * 2,
            (false, true) => T2,
            (false, false) => (client.interval * 2).min(T2),
        };
        let left = client.until - cx.net.now;
        let after = client.interval.min(left);
        let packet = client.packet.clone();
        self.transmit(&packet, over, cx);
        self.after(after, Due::Client(key.to_owned()), cx);
    }

    /// Timer G, and the repetition of a 2xx.
    fn server_due(&mut self, key: &str, cx: &mut Cx<'_>) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let Some(last) = server.last.clone() else { return };
        if server.is_acknowledged || server.packet.method != "INVITE" {
            return;
        }
        if cx.net.now >= server.until {
            if last.is_success()
                && let Some(leg) = server.leg
            {
                self.never_acknowledged(leg, cx);
            }
            return;
        }
        server.interval = (server.interval * 2).min(T2);
        let (link, after) = (server.link, server.interval.min(server.until - cx.net.now));
        self.send_back(&last, link, cx);
        self.after(after, Due::Server(key.to_owned()), cx);
    }

    /// Sends a response on a server transaction.
    fn respond(&mut self, key: &str, message: Message, cx: &mut Cx<'_>) {
        let packet = self.sealed(message, cx);
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let was_final = server.last.as_ref().is_some_and(|last| last.is_final());
        let link = server.link;
        let is_reliable = link.transport() == Transport::Tcp;
        let is_first_final = packet.is_final() && !was_final;
        if !was_final {
            server.last = Some(packet.clone());
        }
        if is_first_final {
            server.interval = T1;
            server.until = cx.net.now + TIMEOUT;
        }
        let repeats =
            is_first_final && server.packet.method == "INVITE" && (packet.is_success() || !is_reliable);
        self.send_back(&packet, link, cx);
        if repeats {
            self.after(T1, Due::Server(key.to_owned()), cx);
        }
    }

    // ---- Receiving -------------------------------------------------------------------------------------------------

    fn on_response(&mut self, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let key = key(packet);
        let Some(client) = self.clients.get_mut(&key) else {
            cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                format!(
                    "phone {} asked nothing that {} answers",
                    self.index,
                    packet.message.title()
                )
            });
            return;
        };
        cx.book
            .check_answer(self.index, &client.packet, packet, cx.net.now);
        let (purpose, request, over) = (client.purpose, client.packet.clone(), client.over);
        if !packet.is_final() {
            if client.last.is_none() {
                client.has_provisional = true;
                self.on_provisional(purpose, &request, packet, cx);
            }
            return;
        }
        if let Some(first) = client.last.clone() {
            // A server that has crashed knows nothing of the first.
            // What has no room is refused without a trace of it: the next of its kind may be luckier.
            let is_stateless = first.status == Some(503) && first.id.is_none();
            // Each place that a proxy has forked an INVITE to may answer it (RFC 3261 §16.7 step 5), whatever was said before.
            // A CANCEL that comes before its INVITE goes on without one, and is answered by the proxy once that has come.
            let is_early_cancel = cx.book.is_proxied() && packet.method == "CANCEL";
            let is_another_answer = cx.book.is_proxied() && packet.is_success() && packet.method == "INVITE";
            if (first.status != packet.status || first.to_tag != packet.to_tag)
                && !is_stateless
                && !is_another_answer
                && !is_early_cancel
                && !cx.book.is_stateless(&request)
                && cx.net.counts.crashes == 0
            {
                let (a, b) = (first.message.title(), packet.message.title());
                cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                    format!(
                        "phone {} got two final responses to one request: {a}, then {b}",
                        self.index
                    )
                });
            }
            // The ACK was lost, or has not been sent yet.
            if let Some((ack, over)) = client.acks.get(&packet.to_tag).cloned() {
                self.transmit(&ack, over, cx);
            } else if is_another_answer && let Purpose::Call(leg) = purpose {
                self.on_another_answer(leg, packet, cx);
            }
            return;
        }
        client.last = Some(packet.clone());
        client.answered_at = cx.net.now;
        if packet.method == "INVITE" && packet.is_failure() {
            // RFC 3261 §17.1.1.3.
            let mut ack = Message::request("ACK", request.message.uri().unwrap_or_default());
            ack = ack.with("Via", request.message.top_via());
            let ack = ack
                .with("Max-Forwards", 70)
                .with("From", request.message.text("From"))
                .with("To", packet.message.text("To"))
                .with("Call-ID", &request.call_id)
                .with("CSeq", format!("{} ACK", request.cseq))
                .with("Content-Length", 0);
            let ack = Rc::new(Packet::new(ack));
            client.acks.insert(packet.to_tag.clone(), (ack.clone(), over));
            self.transmit(&ack, over, cx);
        }
        self.on_final(&key, purpose, &request, packet, cx);
    }

    /// The ACK of a 2xx, which is sent again whenever that comes again.
    fn keep_ack(&mut self, key: &str, ack: Rc<Packet>, over: Over) {
        if let Some(client) = self.clients.get_mut(key) {
            client.acks.insert(ack.to_tag.clone(), (ack, over));
        }
    }

    /// Whether it hears nothing now. What it does not hear can't be foretold.
    fn is_deaf(&self, packet: &Packet, cx: &mut Cx<'_>) -> bool {
        let Some((from, until)) = self.habits.deaf else {
            return false;
        };
        let is_deaf = (from..until).contains(&cx.net.now.since(cx.book.start));
        if is_deaf {
            cx.book.excuse_call_of(packet);
        }
        is_deaf
    }

    fn on_request(&mut self, link: Link, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        cx.book.check_request(self.index, packet, cx.net.now);
        if packet.is_request("ACK") {
            self.on_ack(packet, cx);
            return;
        }
        let key = key(packet);
        if let Some(server) = self.servers.get_mut(&key) {
            server.link = link;
            if let Some(last) = server.last.clone() {
                // RFC 6026 §7.1: an INVITE that comes again after a 2xx is absorbed.
                if !(last.is_success() && last.method == "INVITE") {
                    self.send_back(&last, link, cx);
                }
            }
            return;
        }
        let server = Server {
            packet: packet.clone(),
            link,
            last: None,
            interval: T1,
            until: cx.net.now + TIMEOUT,
            is_acknowledged: false,
            leg: None,
        };
        self.servers.insert(key.clone(), server);
        match packet.method.as_str() {
            "CANCEL" => self.on_cancel(&key, packet, cx),
            "INVITE" if packet.to_tag.is_empty() && self.has_merged(packet, &key) => {
                // RFC 3261 §8.2.2.2: it has come by another way already.
                let tag = self.word("t");
                let response = self.answer(packet, 482, "Merged Request", &tag);
                self.respond(&key, response, cx);
            }
            "INVITE" if packet.to_tag.is_empty() => self.on_invite(&key, packet, cx),
            "NOTIFY" => self.on_notify(&key, packet, cx),
            "OPTIONS" | "MESSAGE" if packet.to_tag.is_empty() => {
                let tag = self.word("t");
                let response = self.answer(packet, 200, "OK", &tag);
                self.respond(&key, response, cx);
            }
            _ => self.on_in_call(&key, packet, cx),
        }
    }

    fn has_merged(&self, packet: &Packet, key: &str) -> bool {
        self.servers.iter().any(|(other, server)| {
            let own = &server.packet;
            other != key
                && own.method == packet.method
                && own.call_id == packet.call_id
                && own.from_tag == packet.from_tag
                && own.cseq == packet.cseq
        })
    }

    fn gave_up(&mut self, key: String, purpose: Purpose, cx: &mut Cx<'_>) {
        match purpose {
            Purpose::Register => self.registration_failed(cx),
            Purpose::Call(leg) => self.call_failed(leg, None, cx),
            Purpose::InCall(leg) => self.in_call_timed_out(leg, &key, cx),
            Purpose::Subscribe | Purpose::Options | Purpose::Message | Purpose::Cancel | Purpose::Rude => {}
        }
    }

    fn on_provisional(
        &mut self,
        purpose: Purpose,
        request: &Rc<Packet>,
        packet: &Rc<Packet>,
        cx: &mut Cx<'_>,
    ) {
        match purpose {
            Purpose::Call(leg) => self.on_ringing(leg, request, packet, cx),
            Purpose::Register
            | Purpose::Subscribe
            | Purpose::Options
            | Purpose::Message
            | Purpose::InCall(_)
            | Purpose::Cancel
            | Purpose::Rude => {}
        }
    }

    fn on_final(
        &mut self,
        key: &str,
        purpose: Purpose,
        request: &Rc<Packet>,
        packet: &Rc<Packet>,
        cx: &mut Cx<'_>,
    ) {
        match purpose {
            Purpose::Register => self.on_registered(request, packet, cx),
            Purpose::Subscribe => self.on_subscribed(packet, cx),
            Purpose::Call(leg) if packet.is_success() => self.on_answered(leg, packet, cx),
            Purpose::Call(leg) => self.call_failed(leg, Some(packet), cx),
            Purpose::InCall(leg) => self.on_in_call_final(leg, key, request, packet, cx),
            Purpose::Options | Purpose::Message | Purpose::Cancel | Purpose::Rude => {}
        }
    }
}

/// RFC 3261 §17.1.3, §17.2.3: what names a transaction.
pub fn key(packet: &Packet) -> String {
    format!("{} {}", packet.method, packet.branch)
}

/// The URI of a Contact, or of whatever else names a place.
fn uri_in(message: &Message, header: &str) -> String {
    sip::uri(message.text(header)).to_owned()
}

/// Where a request of a dialog goes first: RFC 3261 §12.2.1.1, §8.1.2.
fn way(routes: &[String], target: &str) -> Over {
    let hop = routes.first().map_or(target, |route| sip::uri(route));
    let after_user = hop.rsplit_once('@').map_or(hop, |(_, rest)| rest);
    let place = after_user.strip_prefix("sip:").unwrap_or(after_user);
    let (addr, params) = place.split_once(';').unwrap_or((place, ""));
    match addr.parse() {
        Ok(SERVER) if params.contains("transport=tcp") => Over::Tcp,
        Ok(SERVER) | Err(_) => Over::Udp,
        Ok(phone) => Over::To(phone),
    }
}
