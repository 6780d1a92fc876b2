//! A simulated phone: a small user agent with a transaction layer of its own ([`transaction`]), so that it repeats what is lost
//! and answers what comes again, and with manners that its seed draws, good or bad.
//!
//! [`caller`] places calls, [`callee`] answers them, [`in_call`] is what both do while a call stands, [`service`] is
//! what a phone says to the server itself.

mod callee;
mod caller;
mod in_call;
mod leg;
mod service;
mod transaction;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::{self, Message};

use super::book::Book;
use super::names::place_of;
use super::net::{Link, Net, PhoneEvent, SERVER, phone_addr};
use super::packet::{ID_HEADER, Packet};
use super::plan::Habits;
use super::rng::Rng;

pub use leg::{Leg, Role, Standing};
pub use transaction::{Client, Server};

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
    Ping,
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
                    self.flow_is_gone(cx);
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
            Due::Ping => self.ping(cx),
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

    // ---- Receiving -------------------------------------------------------------------------------------------------

    /// Whether it hears nothing now. What it does not hear can't be foretold.
    fn is_deaf(&self, packet: &Packet, cx: &mut Cx<'_>) -> bool {
        let Some((from, until)) = self.habits.deaf else {
            return false;
        };
        let is_deaf = (from..until).contains(&cx.net.now.since(cx.book.start));
        if is_deaf {
            cx.book.totals.unheard += 1;
            cx.book.excuse_call_of(packet);
        }
        is_deaf
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
    match addr.parse().ok().or_else(|| place_of(addr)).ok_or(()) {
        Ok(SERVER) if params.contains("transport=tcp") => Over::Tcp,
        Ok(SERVER) | Err(_) => Over::Udp,
        Ok(phone) => Over::To(phone),
    }
}
