//! The side that calls: INVITE, CANCEL, ACK, and what it makes of the answers.

use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::Message;

use crate::sim::names::host_of;
use crate::sim::net::{inner_addr, phone_addr};
use crate::sim::packet::Packet;
use crate::sim::plan::{Acknowledge, CalleePlan, CallerPlan};
use crate::sim::rng::Rng;

use super::{Act, Cx, DOMAIN, Due, Leg, Over, Phone, Purpose, Role, Standing, uri_in, way};

impl Phone {
    pub(super) fn over(&mut self) -> Over {
        if self.rng.permille(self.habits.tcp) {
            Over::Tcp
        } else {
            Over::Udp
        }
    }

    pub(super) fn own_contact(&self) -> String {
        let host = self.own_host();
        if self.habits.has_ob {
            return format!("<sip:{}@{host};ob>", self.user);
        }
        let transport = if self.habits.contact_tcp {
            ";transport=tcp"
        } else {
            ""
        };
        format!("<sip:{}@{host}{transport}>", self.user)
    }

    /// Where its Contact says that it is: with its name some say the port too, which rules SRV out (RFC 3263 §4.2).
    pub(super) fn own_host(&self) -> String {
        if self.habits.has_ob {
            return inner_addr(self.index).to_string();
        }
        match (self.habits.has_name, self.index % 2) {
            (false, _) => phone_addr(self.index).to_string(),
            (true, 0) => host_of(self.index),
            (true, _) => format!("{}:5060", host_of(self.index)),
        }
    }

    pub(super) fn place_call(&mut self, cx: &mut Cx<'_>) {
        let (is_rude, supports) = (self.habits.is_rude, self.habits.supports_100rel);
        let plan = CallerPlan::draw(is_rude, supports, &mut self.rng);
        let gruu = cx.book.some_gruu(&mut self.rng);
        let callee = match &gruu {
            Some((_, gruu)) => user_of(gruu),
            None => cx.book.some_number(&mut self.rng),
        };
        let call = cx.book.begin_call(self.index, &callee);
        if let Some((phone, _)) = gruu {
            cx.book.is_for_device(call, phone);
        }
        if plan.acknowledge != Acknowledge::Prompt || self.habits.is_rude {
            cx.book.excuse(call);
        }
        let uri = match gruu {
            Some((_, gruu)) => gruu,
            None if plan.is_tel => format!("tel:{callee};phone-context={DOMAIN}"),
            None => format!("sip:{callee}@{DOMAIN}"),
        };
        cx.book.totals.ob_dialogs += u64::from(self.habits.has_ob);
        let over = self.over();
        let tag = self.word("a");
        let local = format!("\"Phone {}\" <{}>;tag={tag}", self.index, self.aor());
        let call_id = format!("{}@{}", self.word("call"), phone_addr(self.index).ip());
        let cseq = self.rng.between(1, 90_000) as u32;
        let mut invite = self.request("INVITE", &uri, over);
        if plan.has_record_route {
            invite = invite.with("Record-Route", format!("<sip:{};lr>", phone_addr(self.index)));
        }
        let is_proxied = cx.book.is_proxied();
        let hops = if is_proxied && self.rng.one_in(12) {
            self.rng.between(0, 3)
        } else {
            self.rng.between(5, 70)
        };
        if is_proxied && self.rng.one_in(40) {
            invite = invite.with("Proxy-Require", "sec-agree");
        }
        if is_proxied && self.rng.one_in(20) {
            invite = invite.with("Max-Breadth", self.rng.between(0, 3));
        }
        invite = invite
            .with("Max-Forwards", hops)
            .with("From", &local)
            .with("To", format!("<{uri}>"))
            .with("Call-ID", &call_id)
            .with("CSeq", format!("{cseq} INVITE"))
            .with(
                "Contact",
                format!("{};audio;+g.3gpp.icsi-ref=\"urn%3Aurn-7\"", self.own_contact()),
            );
        if plan.supports_100rel {
            invite = invite.with("k", "100rel, timer");
        }
        invite = with_strange_headers(invite, &mut self.rng);
        let invite = invite.with_body("application/sdp", sdp(&mut self.rng));
        let leg = self.legs.len();
        let key = self.ask(invite, over, Purpose::Call(leg), cx);
        let invite = self.clients[&key].packet.clone();
        cx.book.invited(call, &invite);
        if let Some(after) = plan.cancel_after {
            self.after(after, Due::Leg(leg, Act::Cancel), cx);
        }
        self.legs.push(Leg {
            role: Role::Caller,
            call,
            standing: Standing::Early,
            invite_key: key,
            invite,
            call_id,
            local,
            local_tag: tag,
            remote: format!("<{uri}>"),
            remote_tag: String::new(),
            target: uri,
            routes: Vec::new(),
            cseq,
            remote_cseq: 0,
            over,
            is_inviting: false,
            is_invited: None,
            byes: Vec::new(),
            is_confirmed: false,
            rseq: None,
            pracked: Vec::new(),
            is_cancelled: false,
            wants_cancel: false,
            caller: plan,
            callee: CalleePlan::draw(false, &mut Rng::new(0)),
            is_twin: false,
        });
    }

    /// The time of this call's CANCEL has come: RFC 3261 §9.1 has it wait for a provisional response.
    pub(super) fn cancel(&mut self, leg: usize, cx: &mut Cx<'_>) {
        let key = self.legs[leg].invite_key.clone();
        let Some(client) = self.clients.get(&key) else {
            return;
        };
        if client.last.is_some() || self.legs[leg].is_cancelled || client.has_timed_out {
            return;
        }
        if !client.has_provisional && !self.legs[leg].caller.cancels_early {
            self.legs[leg].wants_cancel = true;
            return;
        }
        let (invite, over) = (client.packet.clone(), client.over);
        cx.book.totals.early_cancels += u64::from(!client.has_provisional);
        self.legs[leg].is_cancelled = true;
        cx.book.cancelled(self.legs[leg].call);
        let message = &invite.message;
        let cancel = Message::request("CANCEL", message.uri().unwrap_or_default())
            .with("Via", message.top_via())
            .with("Max-Forwards", 70)
            .with("From", message.text("From"))
            .with("To", message.text("To"))
            .with("Call-ID", &invite.call_id)
            .with("CSeq", format!("{} CANCEL", invite.cseq))
            .with("Reason", "SIP;cause=487;text=\"changed my mind\"");
        self.ask(cancel, over, Purpose::Cancel, cx);
    }

    pub(super) fn on_ringing(
        &mut self,
        leg: usize,
        request: &Rc<Packet>,
        packet: &Rc<Packet>,
        cx: &mut Cx<'_>,
    ) {
        if self.legs[leg].wants_cancel {
            self.legs[leg].wants_cancel = false;
            self.cancel(leg, cx);
        }
        // RFC 3262 §4: a reliable provisional is acknowledged by a PRACK in its early dialog.
        let Some(rseq) = packet.message.get("RSeq") else {
            return;
        };
        let rack = format!("{rseq} {} INVITE", request.cseq);
        let said = format!("{rack} {}", packet.to_tag);
        if self.legs[leg].pracked.contains(&said) {
            return;
        }
        self.legs[leg].pracked.push(said);
        let target = uri_in(&packet.message, "Contact");
        let own = phone_addr(self.index).to_string();
        let is_proxied = cx.book.is_proxied();
        let mut routes: Vec<String> = (packet.message.elements("Record-Route").into_iter().rev())
            .filter(|route| !(is_proxied && route.contains(&own)))
            .map(str::to_owned)
            .collect();
        let over = if is_proxied {
            way(&routes, &target)
        } else {
            self.legs[leg].over
        };
        let head = self.request("PRACK", &target, over);
        let leg_mut = &mut self.legs[leg];
        leg_mut.cseq += 1;
        let mut prack = head.with("Max-Forwards", 70);
        for route in routes.drain(..) {
            prack = prack.with("Route", route);
        }
        let prack = prack
            .with("From", &leg_mut.local)
            .with("To", packet.message.text("To"))
            .with("Call-ID", &leg_mut.call_id)
            .with("CSeq", format!("{} PRACK", leg_mut.cseq))
            .with("RAck", rack);
        self.ask(prack, over, Purpose::InCall(leg), cx);
    }

    /// The first 2xx.
    pub(super) fn on_answered(&mut self, leg: usize, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let mut routes: Vec<String> = packet
            .message
            .elements("Record-Route")
            .into_iter()
            .map(str::to_owned)
            .collect();
        routes.reverse();
        let is_proxied = cx.book.is_proxied();
        if is_proxied {
            // It is at the place that it put there itself.
            routes.retain(|route| !route.contains(&phone_addr(self.index).to_string()));
        }
        let side = &mut self.legs[leg];
        cx.book.totals.answers_after_cancel += u64::from(side.is_cancelled);
        side.standing = Standing::Up;
        side.remote = packet.message.text("To").to_owned();
        side.remote_tag.clone_from(&packet.to_tag);
        side.target = uri_in(&packet.message, "Contact");
        side.routes = routes;
        if is_proxied {
            side.over = way(&side.routes, &side.target);
        }
        let (call, has_bye) = (side.call, side.byes.contains(&packet.to_tag));
        let (acknowledge, acts) = (side.caller.acknowledge, side.caller.acts.clone());
        cx.book.answered(call, packet);
        if has_bye {
            self.acknowledge(leg, cx);
            self.end_leg(leg);
            return;
        }
        match acknowledge {
            Acknowledge::Prompt => self.acknowledge(leg, cx),
            Acknowledge::Late(after) => {
                cx.book.totals.late_acks += 1;
                self.after(after, Due::Leg(leg, Act::Ack), cx);
            }
            Acknowledge::Twice => {
                cx.book.totals.double_acks += 1;
                self.acknowledge(leg, cx);
                self.after(Duration::from_millis(700), Due::Leg(leg, Act::Ack), cx);
            }
            Acknowledge::Never => cx.book.totals.never_acknowledged += 1,
        }
        for (after, act) in acts {
            self.after(after, Due::Leg(leg, act), cx);
        }
    }

    /// RFC 3261 §13.2.2.4: each 2xx from another place makes a dialog of its own. It is not wanted any more: acknowledged and
    /// ended.
    pub(super) fn on_another_answer(&mut self, leg: usize, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let side = &self.legs[leg];
        let is_known = self
            .legs
            .iter()
            .any(|own| own.invite_key == side.invite_key && own.remote_tag == packet.to_tag);
        if is_known {
            return;
        }
        cx.book.totals.other_answers += 1;
        let mut twin = side.clone();
        twin.is_twin = true;
        twin.caller.acknowledge = Acknowledge::Prompt;
        twin.caller.acts = Vec::new();
        twin.is_inviting = false;
        twin.is_invited = None;
        let leg = self.legs.len();
        self.legs.push(twin);
        self.on_answered(leg, packet, cx);
        if self.legs[leg].standing == Standing::Up {
            self.act(leg, Act::Bye, cx);
        }
    }

    /// RFC 3261 §13.2.2.4: the ACK of a 2xx is a request of its own in the dialog, with the number of the INVITE.
    pub(super) fn acknowledge(&mut self, leg: usize, cx: &mut Cx<'_>) {
        let key = self.legs[leg].invite_key.clone();
        let cseq = self.legs[leg].invite.cseq;
        self.acknowledge_invite(leg, &key, cseq, cx);
    }

    pub(super) fn acknowledge_invite(&mut self, leg: usize, key: &str, cseq: u32, cx: &mut Cx<'_>) {
        let ack = self
            .request_in(leg, "ACK", cx)
            .setting("CSeq", format!("{cseq} ACK"));
        let ack = self.sealed(ack, cx);
        let over = self.legs[leg].over;
        self.transmit(&ack, over, cx);
        self.keep_ack(key, ack, over);
        if key == self.legs[leg].invite_key {
            self.legs[leg].is_confirmed = true;
        }
    }

    /// The call has come to nothing: by that response, or without any.
    pub(super) fn call_failed(&mut self, leg: usize, packet: Option<&Packet>, cx: &mut Cx<'_>) {
        cx.book.refused(self.legs[leg].call, packet);
        self.end_leg(leg);
        if self.legs[leg]
            .caller
            .acts
            .iter()
            .any(|(_, act)| *act == Act::Stale)
        {
            self.after(Duration::from_secs(3), Due::Leg(leg, Act::Stale), cx);
        }
    }

    pub(super) fn end_leg(&mut self, leg: usize) {
        self.legs[leg].standing = Standing::Ended;
    }
}

/// The user part of a SIP URI.
fn user_of(uri: &str) -> String {
    let user = uri.strip_prefix("sip:").and_then(|rest| rest.split_once('@'));
    user.map_or(uri, |(user, _)| user).to_owned()
}

/// Headers that no server knows, in forms that no server writes: they must pass byte for byte.
fn with_strange_headers(mut message: Message, rng: &mut Rng) -> Message {
    let strange = [
        ("P-Early-Media", "supported"),
        ("p-preferred-IDENTITY", "<sip:+49 30 1@one.att.net>"),
        ("X-Folded", "one\r\n\ttwo  three"),
        ("Subject ", "\"quoted, comma\"; <angle>"),
        (
            "Accept-Contact",
            "*;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\"",
        ),
        ("X-Empty", ""),
        ("X-Utf8", "grüße, 你好"),
        ("Allow", "INVITE, ACK, BYE, CANCEL"),
    ];
    for _ in 0..rng.below(4) {
        let (name, value) = rng.pick(&strange);
        message = message.with(name, value);
    }
    message
}

/// Something like a session description, of any length.
pub(super) fn sdp(rng: &mut Rng) -> Vec<u8> {
    let mut text = format!("v=0\r\no=- {} 1 IN IP4 10.9.8.7\r\ns=-\r\n", rng.draw() >> 32);
    let most = rng.pick(&[0, 5, 40]);
    for line in 0..rng.below(most + 1) {
        text.push_str(&format!("a=fmtp:{} mode-set={}\r\n", 96 + line, rng.below(8)));
    }
    text.into_bytes()
}
