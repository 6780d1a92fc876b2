//! An edge proxy between some phones and the server (RFC 5626 §5): without state (RFC 3261 §16.11), with the flow of a phone in the user
//! part of its URIs. Now and then it begins anew, and knows none of the flows that there were.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::{self, Header, Message};

use super::book::Book;
use super::names::place_of;
use super::net::{Link, Net, SERVER, phone_addr};
use super::packet::Packet;
use super::rng::Rng;

pub struct Edge {
    /// Its place among the parties.
    pub index: usize,
    /// When it begins anew, from the start of the run on.
    lapses: Vec<Duration>,
}

/// A flow as its URIs name it: whose it is, and since which new beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FlowToken {
    phone: usize,
    era: usize,
}

impl FlowToken {
    /// The token in an element of Route that is the edge's.
    fn of(route: &str) -> Option<FlowToken> {
        let user = sip::uri(route).strip_prefix("sip:edge.")?.split('@').next()?;
        let (phone, era) = user.split_once('.')?;
        Some(FlowToken {
            phone: phone.parse().ok()?,
            era: era.parse().ok()?,
        })
    }
}

/// Whether an element of Route, Record-Route or Path names the edge.
pub fn is_edges(route: &str) -> bool {
    FlowToken::of(route).is_some()
}

/// Whether a Via is the edge's.
pub fn is_edges_via(via: &str) -> bool {
    via.contains(BRANCH)
}

const BRANCH: &str = "branch=z9hG4bKedge";

impl Edge {
    pub fn draw(index: usize, seed: u64, span: Duration) -> Edge {
        let mut rng = Rng::part(seed, "edge");
        let lapses = (0..rng.below(4)).map(|_| rng.millis(1_000, span.as_millis() as u64 + 30_000));
        Edge {
            index,
            lapses: lapses.collect(),
        }
    }

    /// How often it has begun anew.
    fn era(&self, net: &Net, book: &Book) -> usize {
        let now = net.now.since(book.start);
        self.lapses.iter().filter(|at| **at <= now).count()
    }

    pub fn happens(&self, link: Link, packet: &Packet, net: &mut Net, book: &mut Book) {
        if packet.status.is_some() {
            self.pass_back(packet, net);
        } else {
            self.pass_on(link, packet, net, book);
        }
    }

    fn uri(&self, token: FlowToken, params: &str) -> String {
        let FlowToken { phone, era } = token;
        format!("<sip:edge.{phone}.{era}@{};lr{params}>", phone_addr(self.index))
    }

    fn pass_on(&self, link: Link, packet: &Packet, net: &mut Net, book: &mut Book) {
        let Ok(hops) = packet.message.text("Max-Forwards").parse::<u32>() else {
            return;
        };
        if hops == 0 {
            self.refuse(packet, (483, "Too Many Hops"), net);
            return;
        }
        let mut message = packet.message.clone();
        message.set("Max-Forwards", hops - 1);
        let from = match link {
            Link::Direct(phone) => Some(phone),
            Link::Udp | Link::Tcp(_) => None,
        };
        let era = self.era(net, book);
        if let (Some(phone), true) = (from, packet.is_request("REGISTER")) {
            // §5.1: the first hop says by which flow the phone is reached.
            net.counts.edge_registers += 1;
            let path = self.uri(FlowToken { phone, era }, ";ob");
            message.headers.insert(0, Header::new("Path", path));
            self.send(packet, message, SERVER, net);
            return;
        }
        let routes = packet.message.elements("Route");
        let Some((route, token)) = routes
            .first()
            .and_then(|route| Some((*route, FlowToken::of(route)?)))
        else {
            return;
        };
        pop_route(&mut message);
        if from == Some(token.phone) {
            // §5.3.2: it goes out, to where it says.
            let next = message
                .elements("Route")
                .first()
                .map(|route| sip::uri(route).to_owned());
            let next = next.or_else(|| message.uri().map(str::to_owned));
            if let Some(to) = next.as_deref().and_then(place_in) {
                self.send(packet, message, to, net);
            }
            return;
        }
        if token.era != era {
            self.flow_is_gone(packet, token.phone, net, book);
            return;
        }
        // §5.3.1: the dialog stays on the flow.
        if sip::param(sip::uri(route), "ob").is_some() && packet.to_tag.is_empty() {
            let record_route = self.uri(token, "");
            message
                .headers
                .insert(0, Header::new("Record-Route", record_route));
        }
        net.counts.edge_requests += 1;
        self.send(packet, message, phone_addr(token.phone), net);
    }

    /// §5.3.1: the flow no longer exists.
    fn flow_is_gone(&self, packet: &Packet, phone: usize, net: &mut Net, book: &mut Book) {
        // The ACK of its own answer.
        let is_own = packet.is_request("ACK") && packet.to_tag.starts_with("edge");
        // Within a dialog it leaves both sides without each other.
        let is_inside = !packet.to_tag.is_empty() && !is_own;
        // It knows no more that it has passed on the first transmission of an INVITE.
        let is_late = packet.is_request("INVITE") && book.has_rung(packet, phone);
        if is_inside || is_late || packet.is_request("CANCEL") {
            book.excuse_call_of(packet);
        }
        net.counts.edge_failures += 1;
        self.refuse(packet, (430, "Flow Failed"), net);
    }

    /// RFC 3261 §16.11, §8.2.7: an answer without a transaction, which is the same each time.
    fn refuse(&self, packet: &Packet, (status, reason): (u16, &str), net: &mut Net) {
        if packet.is_request("ACK") {
            return;
        }
        let message = &packet.message;
        let mut response = Message::response(status, reason);
        for via in message.lines("Via") {
            let (name, value) = via.split_once(':').unwrap_or(("Via", via));
            response = response.with(name, value.trim());
        }
        let to = if packet.to_tag.is_empty() {
            format!("{};tag=edge{}", message.text("To"), packet.cseq)
        } else {
            message.text("To").to_owned()
        };
        let response = response
            .with("From", message.text("From"))
            .with("To", to)
            .with("Call-ID", message.text("Call-ID"))
            .with("CSeq", message.text("CSeq"))
            .with("Content-Length", 0);
        self.answer(response, net);
    }

    fn pass_back(&self, packet: &Packet, net: &mut Net) {
        let mut message = packet.message.clone();
        let Some(own) = message.headers.iter().position(|header| header.is("Via")) else {
            return;
        };
        if is_edges_via(message.headers[own].value()) {
            message.headers.remove(own);
            self.answer(message, net);
        }
    }

    /// To where the topmost Via says.
    fn answer(&self, message: Message, net: &mut Net) {
        let sent_by = message.top_via().split_whitespace().nth(1).unwrap_or_default();
        let to = sent_by.split(';').next().and_then(|place| place.parse().ok());
        let packet = Rc::new(Packet::new(message));
        match to {
            Some(SERVER) => net.send_datagram(self.index, &packet),
            Some(phone) => net.send_direct(self.index, phone, &packet),
            None => {}
        }
    }

    fn send(&self, came: &Packet, mut message: Message, to: SocketAddr, net: &mut Net) {
        // The branch of who sent it names the transaction, so that an ACK and a CANCEL have that of their INVITE.
        let branch = came.branch.replacen("z9hG4bK", "", 1);
        let via = format!("SIP/2.0/UDP {};{BRANCH}{branch}", phone_addr(self.index));
        message.headers.insert(0, Header::new("Via", via));
        let packet = Rc::new(Packet::new(message));
        if to == SERVER {
            net.send_datagram(self.index, &packet);
        } else {
            net.send_direct(self.index, to, &packet);
        }
    }
}

/// Takes the first element off.
fn pop_route(message: &mut Message) {
    let Some(first) = message.headers.iter().position(|header| header.is("Route")) else {
        return;
    };
    let rest = sip::split_commas(message.headers[first].value())[1..].join(", ");
    if rest.is_empty() {
        message.headers.remove(first);
    } else {
        message.headers[first] = Header::new("Route", rest);
    }
}

/// Where a SIP URI leads.
fn place_in(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let place = rest.split_once('@').map_or(rest, |(_, place)| place);
    let place = place.split(';').next()?;
    place.parse().ok().or_else(|| place_of(place))
}
