//! The side that is called: it rings, answers, refuses, takes its time, or says one thing and then another.

use std::rc::Rc;
use std::time::Duration;

use crate::sim::packet::Packet;
use crate::sim::plan::{CalleePlan, CallerPlan, OnCancel, Verdict};
use crate::sim::rng::Rng;

use super::caller::sdp;
use super::{Act, Cx, Due, Leg, Over, Phone, Role, Server, Standing, T1, uri_in, way};
use crate::wire::Transport;

impl Phone {
    pub(super) fn on_invite(&mut self, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let mut plan = CalleePlan::draw(self.habits.is_rude, &mut self.rng);
        if cx.book.is_proxied() {
            plan = plan.behind_proxy(&mut self.rng);
        }
        let call = cx.book.rung(packet, self.index, self.habits.is_rude);
        let tag = self.word("b");
        let leg = self.legs.len();
        let is_reliable = packet.message.elements("Supported").contains(&"100rel") && self.rng.one_in(2);
        if is_reliable && plan.verdict_after < Duration::from_secs(1) {
            plan.verdict_after += Duration::from_secs(1);
        }
        if let Some(server) = self.servers.get_mut(key) {
            server.leg = Some(leg);
        }
        let message = &packet.message;
        let target = uri_in(message, "Contact");
        let routes: Vec<String> = message
            .elements("Record-Route")
            .into_iter()
            .map(str::to_owned)
            .collect();
        // An edge proxy stands in the route set of the phone service, too.
        let over = if cx.book.is_proxied() || !routes.is_empty() {
            way(&routes, &target)
        } else if self.habits.has_flows && self.servers.get(key).is_some_and(is_over_tcp)
            || !self.habits.has_flows && self.habits.contact_tcp
        {
            Over::Tcp
        } else {
            Over::Udp
        };
        cx.book.totals.ob_dialogs += u64::from(self.habits.has_ob);
        self.legs.push(Leg {
            role: Role::Callee,
            call,
            standing: Standing::Early,
            invite_key: key.to_owned(),
            invite: packet.clone(),
            call_id: packet.call_id.clone(),
            local: format!("{};tag={tag}", message.text("To")),
            local_tag: tag,
            remote: message.text("From").to_owned(),
            remote_tag: packet.from_tag.clone(),
            target,
            routes,
            cseq: self.rng.between(0, 500) as u32,
            remote_cseq: packet.cseq,
            over,
            is_inviting: false,
            is_invited: None,
            byes: Vec::new(),
            is_confirmed: false,
            rseq: is_reliable.then(|| self.rng.between(1, 1_000_000) as u32),
            pracked: Vec::new(),
            is_cancelled: false,
            wants_cancel: false,
            caller: CallerPlan::draw(false, false, &mut Rng::new(0)),
            callee: plan.clone(),
            is_twin: false,
        });
        if plan.has_trying {
            let trying = self.answer(packet, 100, "Trying", "");
            self.respond(key, trying, cx);
        }
        if let Some(after) = plan.ring_after {
            self.after(after, Due::Leg(leg, Act::Ring), cx);
        }
        match plan.verdict {
            Verdict::Answer | Verdict::Refuse(..) => {
                self.after(plan.verdict_after, Due::Leg(leg, Act::Answer), cx);
            }
            Verdict::Never => cx.book.totals.never_answered += 1,
        }
    }

    fn is_open(&self, leg: usize) -> bool {
        self.servers
            .get(&self.legs[leg].invite_key)
            .is_some_and(|server| server.last.as_ref().is_none_or(|last| !last.is_final()))
    }

    fn say(&mut self, leg: usize, status: u16, reason: &str, tag: &str, cx: &mut Cx<'_>) {
        let side = &self.legs[leg];
        let (key, invite, rseq) = (side.invite_key.clone(), side.invite.clone(), side.rseq);
        let mut response = self.answer(&invite, status, reason, tag);
        if status == 302 {
            for contact in cx.book.elsewhere(&mut self.rng) {
                response = response.with("Contact", contact);
            }
        } else if status > 100 && status < 300 {
            response = response.with("Contact", format!("{};video", self.own_contact()));
        }
        let totals = &mut cx.book.totals;
        match status {
            302 => totals.redirections += 1,
            401 | 407 => totals.challenges += 1,
            503 => totals.overloads += 1,
            600.. => totals.declines += 1,
            _ => {}
        }
        let challenge = format!("Digest realm=\"phone {}\", nonce=\"{tag}\"", self.index);
        match status {
            401 => response = response.with("WWW-Authenticate", challenge),
            407 => response = response.with("Proxy-Authenticate", challenge),
            503 if self.rng.one_in(2) => {
                response = response.with("Retry-After", self.rng.between(1, 30));
            }
            _ => {}
        }
        if let (180, Some(rseq)) = (status, rseq) {
            response = response.with("Require", "100rel").with("RSeq", rseq);
        }
        if (200..300).contains(&status) {
            response = response
                .with("X-Answerer", format!("phone {}", self.index))
                .with_body("application/sdp", sdp(&mut self.rng));
        }
        self.respond(&key, response, cx);
    }

    pub(super) fn ring(&mut self, leg: usize, cx: &mut Cx<'_>) {
        if !self.is_open(leg) {
            return;
        }
        let tag = self.legs[leg].local_tag.clone();
        self.say(leg, 180, "Ringing", &tag, cx);
        if self.legs[leg].rseq.is_some() {
            self.after(T1, Due::Leg(leg, Act::Reliable), cx);
        }
    }

    /// RFC 3262 §3: a reliable provisional goes out again until its PRACK comes.
    pub(super) fn ring_again(&mut self, leg: usize, cx: &mut Cx<'_>) {
        let key = self.legs[leg].invite_key.clone();
        let Some(server) = self.servers.get(&key) else {
            return;
        };
        if server.is_acknowledged || self.legs[leg].rseq.is_none() || !self.is_open(leg) {
            return;
        }
        let (link, until) = (server.link, server.until);
        let Some(last) = server.last.clone() else { return };
        if cx.net.now >= until {
            return;
        }
        self.send_back(&last, link, cx);
        self.after(T1 * 4, Due::Leg(leg, Act::Reliable), cx);
    }

    /// The final response that was planned.
    pub(super) fn decide(&mut self, leg: usize, cx: &mut Cx<'_>) {
        if !self.is_open(leg) {
            return;
        }
        let tag = self.legs[leg].local_tag.clone();
        match self.legs[leg].callee.verdict {
            Verdict::Answer => {
                cx.book.picked_up(self.legs[leg].call, self.index);
                self.pick_up(leg, cx);
            }
            Verdict::Refuse(status, reason) => {
                self.say(leg, status, reason, &tag, cx);
                self.end_leg(leg);
            }
            Verdict::Never => {}
        }
        if self.legs[leg].callee.again.is_some() {
            let after = self.rng.millis(0, 3_000);
            self.after(after, Due::Leg(leg, Act::AnswerAgain), cx);
        }
    }

    fn pick_up(&mut self, leg: usize, cx: &mut Cx<'_>) {
        let tag = self.legs[leg].local_tag.clone();
        self.legs[leg].standing = Standing::Up;
        self.say(leg, 200, "OK", &tag, cx);
    }

    /// It changes its mind after its final response, as no phone should.
    pub(super) fn answer_again(&mut self, leg: usize, cx: &mut Cx<'_>) {
        let Some((status, reason)) = self.legs[leg].callee.again else {
            return;
        };
        cx.book.excuse(self.legs[leg].call);
        cx.book.totals.answered_twice += 1;
        let tag = self.word("c");
        let side = &self.legs[leg];
        let (key, invite) = (side.invite_key.clone(), side.invite.clone());
        if status == 200 {
            // A second dialog of the same INVITE, which the caller can't want: it is to be acknowledged and ended.
            let twin = Leg {
                standing: Standing::Up,
                local: format!("{};tag={tag}", invite.message.text("To")),
                local_tag: tag.clone(),
                is_twin: true,
                cseq: 0,
                callee: CalleePlan {
                    acts: Vec::new(),
                    again: None,
                    ..side.callee.clone()
                },
                routes: side.routes.clone(),
                caller: side.caller.clone(),
                call_id: side.call_id.clone(),
                invite: invite.clone(),
                invite_key: key.clone(),
                remote: side.remote.clone(),
                remote_tag: side.remote_tag.clone(),
                target: side.target.clone(),
                is_invited: None,
                pracked: Vec::new(),
                byes: Vec::new(),
                ..*side
            };
            self.legs.push(twin);
        }
        let mut response = self.answer(&invite, status, reason, &tag);
        if status < 300 {
            response = response.with("Contact", self.own_contact());
        }
        let packet = self.sealed(response, cx);
        let link = self.servers.get(&key).map(|server| server.link);
        if let Some(link) = link {
            self.send_back(&packet, link, cx);
        }
    }

    /// RFC 3261 §9.2.
    pub(super) fn on_cancel(&mut self, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let invite_key = format!("INVITE {}", packet.branch);
        let leg = self.servers.get(&invite_key).and_then(|server| server.leg);
        let Some(leg) = leg else {
            // The INVITE has not come, or was lost.
            let tag = self.word("t");
            let response = self.answer(packet, 481, "Call Does Not Exist", &tag);
            self.respond(key, response, cx);
            return;
        };
        let tag = self.legs[leg].local_tag.clone();
        let response = self.answer(packet, 200, "OK", &tag);
        self.respond(key, response, cx);
        if !self.is_open(leg) {
            return;
        }
        match self.legs[leg].callee.on_cancel {
            OnCancel::Obey => {
                self.say(leg, 487, "Request Terminated", &tag, cx);
                self.end_leg(leg);
            }
            OnCancel::AnswerAllTheSame => self.pick_up(leg, cx),
            OnCancel::Ignore => cx.book.totals.ignored_cancels += 1,
        }
    }

    /// RFC 3261 §17.2.1 for a refusal, §13.3.1.4 for a 2xx.
    pub(super) fn on_ack(&mut self, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let key = format!("INVITE {}", packet.branch);
        if let Some(server) = self.servers.get_mut(&key) {
            server.is_acknowledged = true;
            return;
        }
        let Some(leg) = self.leg_of(packet) else {
            cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                format!("phone {} got an ACK for a call that it does not have", self.index)
            });
            return;
        };
        let side = &mut self.legs[leg];
        if packet.cseq == side.invite.cseq && side.role == Role::Callee {
            let is_first = !side.is_confirmed;
            side.is_confirmed = true;
            let (key, acts) = (side.invite_key.clone(), side.callee.acts.clone());
            let is_twin = side.is_twin;
            if let Some(server) = self.servers.get_mut(&key)
                && !is_twin
            {
                server.is_acknowledged = true;
            }
            if is_first && !is_twin {
                for (after, act) in acts {
                    self.after(after, Due::Leg(leg, act), cx);
                }
            }
            return;
        }
        let invite = self.servers.values_mut().find(|server| {
            server.packet.method == "INVITE"
                && server.packet.cseq == packet.cseq
                && server.packet.call_id == packet.call_id
                // One Call-ID may have several dialogs.
                && server.packet.from_tag == packet.from_tag
        });
        match invite {
            Some(server) => server.is_acknowledged = true,
            None => cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                format!(
                    "phone {} got an ACK with a number of no INVITE: {}",
                    self.index, packet.cseq
                )
            }),
        }
        self.legs[leg].is_invited = None;
    }

    /// No ACK for a 2xx: RFC 3261 §13.3.1.4 has the call end with a BYE.
    pub(super) fn never_acknowledged(&mut self, leg: usize, cx: &mut Cx<'_>) {
        cx.book
            .never_acknowledged(self.legs[leg].call, self.index, cx.net.now);
        if self.legs[leg].standing == Standing::Up {
            self.act(leg, Act::Bye, cx);
        }
    }
}

/// RFC 5626 §4.3: a dialog that began over a flow stays on it.
fn is_over_tcp(invite: &Server) -> bool {
    invite.link.transport() == Transport::Tcp
}
