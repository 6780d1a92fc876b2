//! A phone's transactions (RFC 3261 §17): what it asks and answers is repeated until it has been heard, and what comes again
//! gets what was said.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::Message;

use super::super::net::Link;
use super::super::packet::Packet;
use super::{Cx, Due, Over, Phone, Purpose, T1, T2, TIMEOUT};
use crate::time::Instant;
use crate::wire::Transport;

/// A request of ours.
pub struct Client {
    pub packet: Rc<Packet>,
    pub over: Over,
    pub purpose: Purpose,
    interval: Duration,
    pub sent_at: Instant,
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
    pub(super) link: Link,
    /// The last response.
    pub last: Option<Rc<Packet>>,
    interval: Duration,
    pub(super) until: Instant,
    /// An INVITE's final response has its ACK, or a reliable provisional its PRACK.
    pub is_acknowledged: bool,
    pub leg: Option<usize>,
}

impl Phone {
    /// Sends a new request and waits for its answer.
    pub(super) fn ask(&mut self, message: Message, over: Over, purpose: Purpose, cx: &mut Cx<'_>) -> String {
        let packet = self.sealed(message, cx);
        let key = key(&packet);
        self.transmit(&packet, over, cx);
        let client = Client {
            packet,
            over,
            purpose,
            interval: T1,
            sent_at: cx.net.now,
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
    pub(super) fn client_due(&mut self, key: &str, cx: &mut Cx<'_>) {
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
    pub(super) fn server_due(&mut self, key: &str, cx: &mut Cx<'_>) {
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
    pub(super) fn respond(&mut self, key: &str, message: Message, cx: &mut Cx<'_>) {
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

    pub(super) fn on_response(&mut self, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
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
            // What has no room is refused without a trace of it: the next of its kind may be luckier. Either may come first here; in which
            // order they left is audited where they did.
            let has_no_room = |answer: &Packet| answer.status == Some(503) && answer.id.is_none();
            let is_stateless = has_no_room(&first) || has_no_room(packet);
            // Each place that a proxy has forked an INVITE to may answer it (RFC 3261 §16.7 step 5), whatever was said before.
            // A CANCEL that comes before its INVITE is told that there is none, by the server or by whom it goes on to, or that it can't go
            // there, and is answered 200 once that has come.
            let found_nothing =
                |answer: &Packet| answer.status == Some(481) || answer.is_failure() && answer.id.is_none();
            let is_early_cancel =
                packet.method == "CANCEL" && (found_nothing(&first) || found_nothing(packet));
            let is_another_answer = cx.book.is_proxied() && packet.is_success() && packet.method == "INVITE";
            // One that left before the 2xx of another place may come behind it, and RFC 6026 §7.2 absorbs it. In which order
            // they left is audited where they did.
            let is_overtaken = cx.book.is_proxied()
                && packet.method == "INVITE"
                && first.is_success()
                && packet.is_failure();
            if (first.status != packet.status || first.to_tag != packet.to_tag)
                && !is_stateless
                && !is_another_answer
                && !is_overtaken
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
    pub(super) fn keep_ack(&mut self, key: &str, ack: Rc<Packet>, over: Over) {
        if let Some(client) = self.clients.get_mut(key) {
            client.acks.insert(ack.to_tag.clone(), (ack, over));
        }
    }

    pub(super) fn on_request(&mut self, link: Link, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
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
            "INVITE" if packet.to_tag.is_empty() && self.habits.has_flows && self.rng.one_in(8) => {
                // RFC 5626 §11.5: as an edge proxy would that has lost the phone.
                cx.book.flow_failed(packet);
                let tag = self.word("t");
                let response = self.answer(packet, 430, "Flow Failed", &tag);
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
            let has_failed = server.last.as_ref().is_some_and(|last| last.status == Some(430));
            other != key
                && !has_failed
                && own.method == packet.method
                && own.call_id == packet.call_id
                && own.from_tag == packet.from_tag
                && own.cseq == packet.cseq
        })
    }
}

/// RFC 3261 §17.1.3, §17.2.3: what names a transaction.
fn key(packet: &Packet) -> String {
    format!("{} {}", packet.method, packet.branch)
}
