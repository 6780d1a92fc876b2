//! Shards without sockets, and two phones that speak from prepared bytes: what the core does for a message can be watched
//! (counted, timed) without anything of the driver in it.
//!
//! Messages are templates in which only numbers change, answers are put together in a buffer that is used again, and what
//! the shards send is copied to a buffer of fixed size: once warm the driver allocates nothing either.

// Each of the programs and tests that include this takes what it needs.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bench_harness::captured;
use ringway::config::Config;
use ringway::config::route::{Action, Methods, Route, To};
use ringway::shard::Shard;
use ringway::time::Instant;
use ringway::wire::{Effect, Effects, Event};

#[path = "../tests/core/shards.rs"]
mod shards;

use shards::{Shards, datagrams_from};

pub const SERVER: &str = "182.0.0.1:5060";
pub const ALICE: &str = "182.0.123.56:5060";
pub const BOB: &str = "182.0.123.58:5060";
/// Ten bytes of a template that the number takes the place of.
const NUMBER: &str = "##########";
/// The first number: each has ten digits and is a valid CSeq.
const FIRST: u64 = 1_000_000_000;

/// What the core is given to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Invite,
    Trying,
    Ringing,
    Answer,
    Ack,
    Bye,
    ByeOk,
    Register,
    Options,
    Message,
    MessageOk,
    Subscribe,
    NotifyOk,
    /// Time passes, with all timers that are due.
    Timers,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::Invite,
        Kind::Trying,
        Kind::Ringing,
        Kind::Answer,
        Kind::Ack,
        Kind::Bye,
        Kind::ByeOk,
        Kind::Register,
        Kind::Options,
        Kind::Message,
        Kind::MessageOk,
        Kind::Subscribe,
        Kind::NotifyOk,
        Kind::Timers,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Kind::Invite => "INVITE",
            Kind::Trying => "100 (INVITE)",
            Kind::Ringing => "180",
            Kind::Answer => "200 (INVITE)",
            Kind::Ack => "ACK",
            Kind::Bye => "BYE",
            Kind::ByeOk => "200 (BYE)",
            Kind::Register => "REGISTER refresh",
            Kind::Options => "OPTIONS",
            Kind::Message => "MESSAGE",
            Kind::MessageOk => "200 (MESSAGE)",
            Kind::Subscribe => "SUBSCRIBE refresh",
            Kind::NotifyOk => "200 (NOTIFY)",
            Kind::Timers => "timers of a call",
        }
    }
}

/// Watches the core at work.
pub trait Probe {
    fn around(&mut self, kind: Kind, work: impl FnOnce());
}

/// Watches nothing.
pub struct Blind;

impl Probe for Blind {
    fn around(&mut self, _: Kind, work: impl FnOnce()) {
        work();
    }
}

/// A REGISTER of a phone of its own for every number.
pub struct Crowd(Template);

impl Crowd {
    pub fn new() -> Crowd {
        let domain = captured::DOMAIN;
        Crowd(Template::new(&format!(
            "REGISTER sip:{domain} SIP/2.0\r\n\
             From: <sip:{NUMBER}@{domain}>;tag=4VWkdTHOF9.Odc\r\n\
             To: <sip:{NUMBER}@{domain}>\r\n\
             Call-ID: XP0VHy4{NUMBER}@182.0.123.58\r\n\
             CSeq: 1 REGISTER\r\n\
             Via: SIP/2.0/UDP {BOB};branch=z9hG4bKLeyx3ZsUUn{NUMBER}\r\n\
             Max-Forwards: 70\r\n\
             Contact: <sip:{NUMBER}@{BOB}>;+g.3gpp.smsip;\
             +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video;\
             +g-3gpp-ps-data-off=\"inactive\";+sip.instance=\"<urn:gsma:imei:8653{NUMBER}-0>\"\r\n\
             Content-Length: 0\r\n\r\n"
        )))
    }

    pub fn register(&mut self, rig: &mut Rig, number: u64) {
        rig.deliver(&mut Blind, Kind::Register, addr(BOB), self.0.number(number));
        rig.sent(addr(BOB), b"SIP/2.0 200 ");
    }
}

/// A message in which each [`NUMBER`] gives way to a number.
struct Template {
    bytes: Vec<u8>,
    numbers: Vec<usize>,
}

impl Template {
    fn new(text: &str) -> Template {
        Template {
            numbers: text.match_indices(NUMBER).map(|(at, _)| at).collect(),
            bytes: text.as_bytes().to_vec(),
        }
    }

    fn number(&mut self, number: u64) -> &[u8] {
        let mut digits = [0; NUMBER.len()];
        let mut rest = FIRST + number;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        for &at in &self.numbers {
            self.bytes[at..at + digits.len()].copy_from_slice(&digits);
        }
        &self.bytes
    }
}

/// The shards and their network.
pub struct Rig {
    pub shards: Shards,
    sent: Vec<(SocketAddr, Range<usize>)>,
    sent_bytes: Vec<u8>,
}

impl Rig {
    pub fn new(shards: usize, change: impl FnOnce(&mut Config)) -> Rig {
        let mut cfg = shards::config(SERVER, shards);
        change(&mut cfg);
        let mut shards = Shards::new(&Arc::new(cfg));
        // Nobody asks, and nobody is told.
        for out in &mut shards.effects {
            out.teller = None;
        }
        Rig {
            shards,
            sent: Vec::with_capacity(64),
            sent_bytes: Vec::with_capacity(1 << 18),
        }
    }

    /// A datagram arrives, at the next shard in turn whoever owns it, and all that comes of it is done. What is sent can
    /// be looked at until the next one.
    pub fn deliver(&mut self, probe: &mut impl Probe, kind: Kind, from: SocketAddr, bytes: &[u8]) {
        let index = self.shards.next_arrival();
        let flow = datagrams_from(from);
        let now = self.shards.now;
        let (shards, effects) = (&mut self.shards.all[..], &mut self.shards.effects[..]);
        probe.around(kind, || {
            shards[index].handle(
                Event::Datagram {
                    flow,
                    bytes,
                    received_at: now,
                },
                now,
                &mut effects[index],
            );
            turn(shards, effects, now);
        });
        self.apply();
    }

    /// Lets time pass, with every timer that becomes due in one turn.
    pub fn advance(&mut self, probe: &mut impl Probe, ms: u64) {
        self.shards.now = self.shards.now + Duration::from_millis(ms);
        let now = self.shards.now;
        let (shards, effects) = (&mut self.shards.all[..], &mut self.shards.effects[..]);
        probe.around(Kind::Timers, || {
            for (shard, out) in shards.iter_mut().zip(effects.iter_mut()) {
                while shard.run_timers(now, out) {}
            }
            turn(shards, effects, now);
        });
        self.apply();
    }

    /// Does what the shards ask for: copies what is sent and gives its buffers back.
    fn apply(&mut self) {
        self.sent.clear();
        self.sent_bytes.clear();
        let now = self.shards.now;
        for (shard, out) in self.shards.all.iter_mut().zip(&mut self.shards.effects) {
            for index in 0..out.len() {
                match out.get(index) {
                    Some(Effect::Send { flow, buf, .. }) => {
                        let start = self.sent_bytes.len();
                        self.sent_bytes.extend_from_slice(out.pool.get(buf));
                        self.sent.push((flow.peer, start..self.sent_bytes.len()));
                        out.pool.release(buf);
                    }
                    Some(Effect::Close { .. } | Effect::Wake { .. } | Effect::Nothing) | None => {}
                }
            }
            out.clear();
            shard.record_handled(now, now);
        }
    }

    /// The one message that was sent to `to` and begins with `start`.
    #[track_caller]
    pub fn sent(&self, to: SocketAddr, start: &[u8]) -> &[u8] {
        let mut found = self
            .sent
            .iter()
            .filter(|(peer, _)| *peer == to)
            .map(|(_, range)| &self.sent_bytes[range.clone()])
            .filter(|bytes| bytes.starts_with(start));
        let first = found.next();
        match (first, found.next()) {
            (Some(bytes), None) => bytes,
            _ => panic!(
                "not one {} to {to} among: {}",
                start.escape_ascii(),
                self.sent_bytes.escape_ascii()
            ),
        }
    }

    #[track_caller]
    pub fn assert_sent(&self, messages: usize) {
        assert_eq!(self.sent.len(), messages, "{}", self.sent_bytes.escape_ascii());
    }

    pub fn pool_bytes(&self) -> usize {
        self.shards
            .effects
            .iter()
            .map(|out| out.pool.allocated_bytes())
            .sum()
    }

    pub fn calls(&self) -> usize {
        self.shards.all.iter().map(Shard::calls).sum()
    }
}

/// Mail until none is left; what a shard's loop does before its effects are applied.
fn turn(shards: &mut [Shard], effects: &mut [Effects], now: Instant) {
    // A letter is answered with a letter at most once (a look-up), and what comes of it stays.
    for _ in 0..if shards.len() == 1 { 1 } else { 3 } {
        for (shard, out) in shards.iter_mut().zip(effects.iter_mut()) {
            shard.read_mail(now, out);
            shard.export(now, out);
        }
    }
}

/// Alice and Bob, and what they say.
pub struct Phones {
    alice: SocketAddr,
    bob: SocketAddr,
    register: Template,
    invite: Template,
    ack: Template,
    bye: Template,
    options: Template,
    message: Template,
    /// To the subscription that stands, once it does.
    subscribe: Template,
    answer_sdp: String,
    reply: Vec<u8>,
    number: u64,
}

impl Phones {
    pub fn new() -> Phones {
        let (alice, bob) = (addr(ALICE), addr(BOB));
        let domain = captured::DOMAIN;
        let (caller, callee) = (captured::CALLER, captured::CALLEE);
        let features = captured::CALL_FEATURES;
        let register = format!(
            "REGISTER sip:{domain} SIP/2.0\r\n\
             From: <sip:{callee}@{domain}>;tag=4VWkdTHOF9.Odc\r\n\
             To: <sip:{callee}@{domain}>\r\n\
             Call-ID: XP0VHy42Rr8GeaFMRdy@182.0.123.58\r\n\
             CSeq: {NUMBER} REGISTER\r\n\
             Via: SIP/2.0/UDP {BOB};branch=z9hG4bKLeyx3ZsUUn{NUMBER}\r\n\
             Max-Forwards: 70\r\n\
             Contact: <sip:{callee}@{BOB}>;+g.3gpp.smsip;\
             +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video;\
             +g-3gpp-ps-data-off=\"inactive\";+sip.instance=\"<urn:gsma:imei:86539405-000273-0>\"\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let sdp = captured::offer(alice);
        let to = format!("tel:{callee};phone-context={domain}");
        let invite = format!(
            "INVITE {to} SIP/2.0\r\n\
             From: <sip:{caller}@{domain}>;tag=X6E3{NUMBER}\r\n\
             To: <{to}>\r\n\
             Call-ID: 0rSzxKYZqGFRahid{NUMBER}@182.0.123.56\r\n\
             CSeq: 33302 INVITE\r\n\
             Via: SIP/2.0/UDP {ALICE};branch=z9hG4bKb4MiHkghekvemEcWZot{NUMBER}\r\n\
             Max-Forwards: 70\r\n\
             Accept: application/sdp, application/3gpp-ims+xml\r\n\
             P-Preferred-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel\r\n\
             Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";video\r\n\
             Allow: INVITE,CANCEL,BYE,ACK,REFER,NOTIFY,MESSAGE,INFO,PRACK,UPDATE,OPTIONS\r\n\
             P-Access-Network-Info: 3GPP-NR-TDD;utran-cell-id-3gpp=0010100313200001c001\r\n\
             P-Early-Media: supported\r\n\
             P-Preferred-Identity: <sip:{caller}@{domain}>\r\n\
             Contact: <sip:{caller}@{ALICE}>;{features}\r\n\
             Content-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        let in_dialog = |method: &str, cseq: u32| {
            Template::new(&format!(
                "{method} sip:{SERVER};transport=UDP SIP/2.0\r\n\
                 Via: SIP/2.0/UDP {ALICE};branch=z9hG4bK{method}ekvemEcWZot{NUMBER}\r\n\
                 From: <sip:{caller}@{domain}>;tag=X6E3{NUMBER}\r\n\
                 To: <{to}>;tag=b8wJ{NUMBER}\r\n\
                 Call-ID: 0rSzxKYZqGFRahid{NUMBER}@182.0.123.56\r\n\
                 CSeq: {cseq} {method}\r\n\
                 Max-Forwards: 70\r\n\
                 Content-Length: 0\r\n\r\n"
            ))
        };
        let options = format!(
            "OPTIONS sip:{domain} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {ALICE};branch=z9hG4bKoptions{NUMBER}\r\n\
             From: <sip:{caller}@{domain}>;tag=o{NUMBER}\r\n\
             To: <sip:{domain}>\r\n\
             Call-ID: options{NUMBER}@182.0.123.56\r\n\
             CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        let message = format!(
            "MESSAGE sip:{callee}@{domain} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {ALICE};branch=z9hG4bKmessage{NUMBER}\r\n\
             From: <sip:{caller}@{domain}>;tag=m{NUMBER}\r\n\
             To: <sip:{callee}@{domain}>\r\n\
             Call-ID: message{NUMBER}@182.0.123.56\r\n\
             CSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\n\
             Content-Type: text/plain\r\nContent-Length: 11\r\n\r\nGood night."
        );
        Phones {
            alice,
            bob,
            register: Template::new(&register),
            invite: Template::new(&invite),
            ack: in_dialog("ACK", 33302),
            bye: in_dialog("BYE", 33303),
            options: Template::new(&options),
            message: Template::new(&message),
            subscribe: Template::new(""),
            answer_sdp: captured::answer(bob),
            reply: Vec::with_capacity(4_096),
            number: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Bob registers, for the first time or again.
    pub fn register(&mut self, rig: &mut Rig, probe: &mut impl Probe) {
        let number = self.next();
        rig.deliver(probe, Kind::Register, self.bob, self.register.number(number));
        rig.sent(self.bob, b"SIP/2.0 200 ");
        rig.assert_sent(1);
    }

    /// Bob asks for his own registration state for the first time, and is told.
    pub fn subscribe(&mut self, rig: &mut Rig) {
        let number = self.next();
        let text = subscribe_text("");
        rig.deliver(
            &mut Blind,
            Kind::Subscribe,
            self.bob,
            Template::new(&text).number(number),
        );
        let ok = rig.sent(self.bob, b"SIP/2.0 200 ");
        let to = std::str::from_utf8(line(ok, b"To:")).expect("text");
        let tag = to.trim_end().rsplit_once(";tag=").expect("a tag").1;
        self.subscribe = Template::new(&subscribe_text(&format!(";tag={tag}")));
        self.confirm_notify(rig, &mut Blind);
    }

    /// The same subscription again.
    pub fn resubscribe(&mut self, rig: &mut Rig, probe: &mut impl Probe) {
        let number = self.next();
        rig.deliver(probe, Kind::Subscribe, self.bob, self.subscribe.number(number));
        rig.sent(self.bob, b"SIP/2.0 200 ");
        rig.assert_sent(2);
        self.confirm_notify(rig, probe);
    }

    fn confirm_notify(&mut self, rig: &mut Rig, probe: &mut impl Probe) {
        reply(
            &mut self.reply,
            "200 OK",
            None,
            rig.sent(self.bob, b"NOTIFY "),
            "",
        );
        rig.deliver(probe, Kind::NotifyOk, self.bob, &self.reply);
        rig.assert_sent(0);
    }

    pub fn options(&mut self, rig: &mut Rig, probe: &mut impl Probe) {
        let number = self.next();
        rig.deliver(probe, Kind::Options, self.alice, self.options.number(number));
        rig.sent(self.alice, b"SIP/2.0 200 ");
        rig.assert_sent(1);
    }

    /// A short message from Alice to Bob.
    pub fn message(&mut self, rig: &mut Rig, probe: &mut impl Probe) {
        let number = self.next();
        rig.deliver(probe, Kind::Message, self.alice, self.message.number(number));
        rig.assert_sent(1);
        reply(
            &mut self.reply,
            "200 OK",
            Some(number),
            rig.sent(self.bob, b"MESSAGE "),
            "",
        );
        rig.deliver(probe, Kind::MessageOk, self.bob, &self.reply);
        rig.sent(self.alice, b"SIP/2.0 200 ");
        rig.assert_sent(1);
    }

    /// Alice calls Bob, up to the point where both talk. What it returns names the call for [`Phones::hang_up`].
    pub fn call(&mut self, rig: &mut Rig, probe: &mut impl Probe) -> u64 {
        let number = self.next();
        rig.deliver(probe, Kind::Invite, self.alice, self.invite.number(number));
        rig.sent(self.alice, b"SIP/2.0 100 ");
        rig.assert_sent(2);
        let mut invite = [0; 4_096];
        let sent = rig.sent(self.bob, b"INVITE ");
        let invite = &mut invite[..sent.len()];
        invite.copy_from_slice(sent);
        reply(&mut self.reply, "100 Trying", None, invite, "");
        rig.deliver(probe, Kind::Trying, self.bob, &self.reply);
        rig.assert_sent(0);
        reply(&mut self.reply, "180 Ringing", Some(number), invite, "");
        rig.deliver(probe, Kind::Ringing, self.bob, &self.reply);
        rig.sent(self.alice, b"SIP/2.0 180 ");
        rig.assert_sent(1);
        reply(&mut self.reply, "200 OK", Some(number), invite, &self.answer_sdp);
        rig.deliver(probe, Kind::Answer, self.bob, &self.reply);
        rig.sent(self.alice, b"SIP/2.0 200 ");
        rig.assert_sent(1);
        rig.deliver(probe, Kind::Ack, self.alice, self.ack.number(number));
        rig.sent(self.bob, b"ACK ");
        rig.assert_sent(1);
        number
    }

    /// The same by way of the proxy, which [`routes`] gives calls to: up to the 200 of the BYE.
    pub fn proxied_call(&mut self, rig: &mut Rig, probe: &mut impl Probe) {
        let number = self.next();
        rig.deliver(probe, Kind::Invite, self.alice, self.invite.number(number));
        rig.sent(self.alice, b"SIP/2.0 100 ");
        rig.assert_sent(2);
        let mut invite = [0; 4_096];
        let sent = rig.sent(self.bob, b"INVITE ");
        let invite = &mut invite[..sent.len()];
        invite.copy_from_slice(sent);
        for (kind, status, tag, sdp, back) in [
            (Kind::Trying, "100 Trying", None, "", 0),
            (Kind::Ringing, "180 Ringing", Some(number), "", 1),
            (Kind::Answer, "200 OK", Some(number), &*self.answer_sdp, 1),
        ] {
            reply(&mut self.reply, status, tag, invite, sdp);
            rig.deliver(probe, kind, self.bob, &self.reply);
            rig.assert_sent(back);
        }
        let recorded = line(invite, b"Record-Route:");
        for (kind, request) in [(Kind::Ack, &mut self.ack), (Kind::Bye, &mut self.bye)] {
            let request = request.number(number);
            let first = line(request, b"").len();
            self.reply.clear();
            // Within the dialog by the route that was recorded, to Bob's own contact.
            let (method, _) = request.split_at(request.iter().position(|b| *b == b' ').unwrap_or(0));
            self.reply.extend_from_slice(method);
            self.reply.extend_from_slice(b" sip:13800011103@");
            self.reply.extend_from_slice(BOB.as_bytes());
            self.reply.extend_from_slice(b" SIP/2.0\r\n");
            self.reply.extend_from_slice(&recorded["Record-".len()..]);
            self.reply.extend_from_slice(&request[first..]);
            rig.deliver(probe, kind, self.alice, &self.reply);
            rig.assert_sent(1);
        }
        reply(&mut self.reply, "200 OK", None, rig.sent(self.bob, b"BYE "), "");
        rig.deliver(probe, Kind::ByeOk, self.bob, &self.reply);
        rig.sent(self.alice, b"SIP/2.0 200 ");
        rig.assert_sent(1);
    }

    pub fn hang_up(&mut self, rig: &mut Rig, probe: &mut impl Probe, number: u64) {
        rig.deliver(probe, Kind::Bye, self.alice, self.bye.number(number));
        rig.assert_sent(1);
        reply(&mut self.reply, "200 OK", None, rig.sent(self.bob, b"BYE "), "");
        rig.deliver(probe, Kind::ByeOk, self.bob, &self.reply);
        rig.sent(self.alice, b"SIP/2.0 200 ");
        rig.assert_sent(1);
    }
}

impl Default for Phones {
    fn default() -> Phones {
        Phones::new()
    }
}

/// A routing table that has the proxy forward calls to registered phones; all else is the phone service's.
pub fn routes() -> Vec<Route> {
    let to_contacts = Route {
        action: Action::Proxy,
        to: To::Registered,
        methods: {
            let mut methods = Methods::default();
            methods.push("INVITE").expect("a method");
            methods
        },
        ..Route::default()
    };
    vec![to_contacts]
}

fn subscribe_text(to_tag: &str) -> String {
    let (callee, domain) = (captured::CALLEE, captured::DOMAIN);
    format!(
        "SUBSCRIBE sip:{callee}@{domain} SIP/2.0\r\n\
         From: <sip:{callee}@{domain}>;tag=ZkTGAlN2H5\r\n\
         To: <sip:{callee}@{domain}>{to_tag}\r\n\
         Call-ID: Nd3Rs8wJK6F2aG4ryvU9@182.0.123.58\r\n\
         CSeq: {NUMBER} SUBSCRIBE\r\n\
         Expires: 600000\r\n\
         Via: SIP/2.0/UDP {BOB};branch=z9hG4bKB18mqR9Q7j{NUMBER}\r\n\
         Max-Forwards: 70\r\n\
         Event: reg\r\n\
         Accept: application/reginfo+xml\r\n\
         Contact: <sip:{callee}@{BOB}>\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// Bob's answer to a request, with a To tag made of `tag` if there is one.
fn reply(into: &mut Vec<u8>, status: &str, tag: Option<u64>, request: &[u8], sdp: &str) {
    into.clear();
    into.extend_from_slice(b"SIP/2.0 ");
    into.extend_from_slice(status.as_bytes());
    into.extend_from_slice(b"\r\n");
    // One pass over the head: in a profile of the core its driver should not be seen.
    let mut to = &b""[..];
    let mut rest = request;
    while let Some(end) = memchr::memchr(b'\n', rest).filter(|end| *end > 1) {
        let (line, behind) = rest.split_at(end + 1);
        if [&b"Via:"[..], b"From:", b"Call-ID:", b"CSeq:"]
            .iter()
            .any(|name| line.starts_with(name))
        {
            into.extend_from_slice(line);
        } else if line.starts_with(b"To:") {
            to = line;
        }
        rest = behind;
    }
    into.extend_from_slice(&to[..to.len() - 2]);
    if let Some(tag) = tag {
        into.extend_from_slice(b";tag=b8wJ");
        put_number(into, FIRST + tag);
    }
    into.extend_from_slice(b"\r\nContact: <sip:13800011103@");
    into.extend_from_slice(BOB.as_bytes());
    into.extend_from_slice(b">;");
    into.extend_from_slice(captured::CALL_FEATURES.as_bytes());
    into.extend_from_slice(
        b"\r\nAllow: INVITE,CANCEL,BYE,ACK,REFER,NOTIFY,MESSAGE,INFO,PRACK,UPDATE,OPTIONS\r\n",
    );
    if !sdp.is_empty() {
        into.extend_from_slice(b"Content-Type: application/sdp\r\n");
    }
    into.extend_from_slice(b"Content-Length: ");
    put_number(into, sdp.len() as u64);
    into.extend_from_slice(b"\r\n\r\n");
    into.extend_from_slice(sdp.as_bytes());
}

fn put_number(into: &mut Vec<u8>, mut number: u64) {
    let start = into.len();
    loop {
        into.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into[start..].reverse();
}

/// The first header line that begins with `name`, with its line end.
fn line<'a>(message: &'a [u8], name: &[u8]) -> &'a [u8] {
    message
        .split_inclusive(|byte| *byte == b'\n')
        .find(|line| line.starts_with(name))
        .expect("the header line is there")
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}
