//! What both sides do while a call stands, and at its end.

use std::rc::Rc;
use std::time::Duration;

use crate::sim::packet::Packet;
use crate::sim::trace::What;

use super::caller::sdp;
use super::{Act, Cx, Due, Over, Phone, Purpose, Role, Standing, uri_in};

/// RFC 3261 §14.1: how long after a 491 whoever made the Call-ID waits, and whoever did not.
const GLARE_OWNER_MS: (u64, u64) = (2_100, 4_000);
const GLARE_OTHER_MS: (u64, u64) = (0, 2_000);

impl Phone {
    pub(super) fn act(&mut self, leg: usize, act: Act, cx: &mut Cx<'_>) {
        let standing = self.legs[leg].standing;
        match (act, standing) {
            (Act::Ring, Standing::Early) => self.ring(leg, cx),
            (Act::Reliable, Standing::Early) => self.ring_again(leg, cx),
            (Act::Answer, Standing::Early) => self.decide(leg, cx),
            (Act::AnswerAgain, _) => self.answer_again(leg, cx),
            (Act::Cancel, Standing::Early) => self.cancel(leg, cx),
            (Act::Ack, Standing::Up) => self.acknowledge(leg, cx),
            (Act::Bye, Standing::Up) => self.hang_up(leg, cx),
            (Act::Reinvite, Standing::Up) => self.reinvite(leg, cx),
            (Act::Update, Standing::Up) => {
                cx.book.totals.updates += 1;
                let update = self
                    .request_in(leg, "UPDATE", cx)
                    .with("Contact", self.own_contact());
                self.ask_in(leg, update, cx);
            }
            (Act::Info, Standing::Up) => {
                cx.book.totals.infos += 1;
                let info = self
                    .request_in(leg, "INFO", cx)
                    .with("Info-Package", "dtmf")
                    .with_body("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n");
                self.ask_in(leg, info, cx);
            }
            (Act::Message, Standing::Up) => {
                cx.book.totals.texts_in_calls += 1;
                let message = self
                    .request_in(leg, "MESSAGE", cx)
                    .with_body("text/plain", "are you still there?");
                self.ask_in(leg, message, cx);
            }
            (Act::WrongTag, Standing::Up) => {
                cx.book.totals.wrong_tags += 1;
                let tag = self.word("nobody");
                let uri = self.legs[leg].target.clone();
                let bye = self.request_in(leg, "BYE", cx);
                let to = format!("<{uri}>;tag={tag}");
                let over = self.legs[leg].over;
                self.ask(bye.setting("To", to), over, Purpose::Rude, cx);
            }
            (Act::Stale, Standing::Ended) => {
                cx.book.totals.stale += 1;
                self.say_it_again(leg, cx);
            }
            // The call has moved on: what was planned no longer fits.
            (
                Act::Ring
                | Act::Reliable
                | Act::Answer
                | Act::Cancel
                | Act::Ack
                | Act::Bye
                | Act::Reinvite
                | Act::Update
                | Act::Info
                | Act::Message
                | Act::WrongTag
                | Act::Stale,
                Standing::Early | Standing::Up | Standing::Ended,
            ) => {}
        }
    }

    fn ask_in(&mut self, leg: usize, message: bench_harness::sip::Message, cx: &mut Cx<'_>) -> String {
        let over = self.legs[leg].over;
        self.ask(message, over, Purpose::InCall(leg), cx)
    }

    fn hang_up(&mut self, leg: usize, cx: &mut Cx<'_>) {
        // RFC 3261 §15: a callee must not hang up before its 2xx has its ACK, or has waited in vain.
        let bye = self.request_in(leg, "BYE", cx).with("Reason", "Q.850;cause=16");
        self.ask_in(leg, bye, cx);
        cx.book.hung_up(self.legs[leg].call);
        self.end_leg(leg);
    }

    fn reinvite(&mut self, leg: usize, cx: &mut Cx<'_>) {
        let side = &self.legs[leg];
        // RFC 3261 §14.1: not while another is under way, or before the ACK of the first.
        if side.is_inviting || side.is_invited.is_some() || !side.is_confirmed {
            return;
        }
        cx.book.totals.reinvites += 1;
        let contact = self.own_contact();
        let invite = self
            .request_in(leg, "INVITE", cx)
            .with("Contact", contact)
            .with_body("application/sdp", sdp(&mut self.rng));
        self.legs[leg].is_inviting = true;
        self.ask_in(leg, invite, cx);
    }

    /// Long after the end: the INVITE once more, and a BYE that was answered long ago.
    fn say_it_again(&mut self, leg: usize, cx: &mut Cx<'_>) {
        if self.legs[leg].role == Role::Caller && self.is_still_known(leg, cx) {
            let invite = self.legs[leg].invite.clone();
            let client = self.clients.get(&self.legs[leg].invite_key);
            let over = client.map_or(Over::Udp, |client| client.over);
            self.transmit(&invite, over, cx);
        }
        let uri = self.legs[leg].target.clone();
        if !uri.starts_with("tel:") && !self.legs[leg].remote_tag.is_empty() {
            let bye = self.request_in(leg, "BYE", cx);
            let over = self.legs[leg].over;
            self.ask(bye, over, Purpose::Rude, cx);
        }
    }

    /// Whether the server still has the transaction of the call's INVITE (Timers I and L), with time to spare for the way:
    /// later it would be a new call.
    fn is_still_known(&self, leg: usize, cx: &Cx<'_>) -> bool {
        let Some(client) = self.clients.get(&self.legs[leg].invite_key) else {
            return false;
        };
        // Its timers run from the first that left, which need not be the first that was heard.
        let answered_at = (cx.net.trace.steps())
            .find(|step| {
                step.what == What::Sent
                    && step.packet.is_final()
                    && step.packet.method == "INVITE"
                    && step.packet.branch == client.packet.branch
            })
            .map(|step| step.at);
        match (&client.last, answered_at) {
            _ if cx.net.counts.crashes > 0 => false,
            (Some(last), Some(at)) if last.is_success() => cx.net.now.since(at) < Duration::from_secs(25),
            (Some(_), Some(at)) => client.over == Over::Udp && cx.net.now.since(at) < Duration::from_secs(4),
            (None, _) | (_, None) => false,
        }
    }

    // ---- What comes ------------------------------------------------------------------------------------------------

    /// A request that should belong to a call.
    pub(super) fn on_in_call(&mut self, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let Some(leg) = self.leg_of(packet) else {
            // A proxy passes wrong tags on as they are.
            if !packet.to_tag.is_empty()
                && !cx.book.is_proxied()
                && self.legs.iter().any(|leg| leg.call_id == packet.call_id)
            {
                cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                    format!(
                        "phone {} got a {} of its call under tags of no dialog: {}/{}",
                        self.index, packet.method, packet.from_tag, packet.to_tag
                    )
                });
            }
            let tag = self.word("t");
            let response = self.answer(packet, 481, "Call Does Not Exist", &tag);
            self.respond(key, response, cx);
            return;
        };
        let side = &mut self.legs[leg];
        // RFC 3261 §12.2.2: requests may overtake each other on the way; a number that is lower is out of order.
        if packet.cseq < side.remote_cseq {
            let response = self.answer(packet, 500, "Out Of Order", "");
            self.respond(key, response, cx);
            return;
        }
        side.remote_cseq = packet.cseq;
        match packet.method.as_str() {
            "BYE" => self.on_bye(leg, key, packet, cx),
            "PRACK" => self.on_prack(leg, key, packet, cx),
            "INVITE" => self.on_reinvite(leg, key, packet, cx),
            _ if self.legs[leg].standing == Standing::Ended => {
                let response = self.answer(packet, 481, "Call Does Not Exist", "");
                self.respond(key, response, cx);
            }
            _ => {
                let response = self.answer(packet, 200, "OK", "").with("X-Done", &packet.method);
                let response = if packet.method == "UPDATE" {
                    response.with("Contact", self.own_contact())
                } else {
                    response
                };
                self.respond(key, response, cx);
            }
        }
    }

    fn on_bye(&mut self, leg: usize, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let has_crossed = self.clients.values().any(|client| {
            client.purpose == Purpose::InCall(leg)
                && client.packet.is_request("BYE")
                && client.last.is_none()
                && !client.has_timed_out
        });
        cx.book.totals.crossed_byes += u64::from(has_crossed);
        let response = self.answer(packet, 200, "OK", "");
        self.respond(key, response, cx);
        let side = &mut self.legs[leg];
        side.byes.push(packet.from_tag.clone());
        match (side.standing, side.role) {
            // Its 2xx is still to come.
            (Standing::Early, Role::Caller) => {}
            (Standing::Early, Role::Callee) | (Standing::Up | Standing::Ended, _) => {
                // Whoever hangs up has heard the 2xx that began the call. That to a re-INVITE may still be lost, and goes out again until its
                // ACK has come: RFC 3261 §13.3.1.4.
                if side.role == Role::Callee
                    && !side.is_twin
                    && let Some(server) = self.servers.get_mut(&side.invite_key)
                {
                    server.is_acknowledged = true;
                }
                self.end_leg(leg);
            }
        }
    }

    fn on_prack(&mut self, leg: usize, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        cx.book.totals.pracks += 1;
        let side = &mut self.legs[leg];
        let wanted = side
            .rseq
            .map(|rseq| format!("{rseq} {} INVITE", side.invite.cseq));
        let rack = packet.message.text("RAck");
        if wanted.as_deref() != Some(rack) {
            cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                format!("a PRACK for {rack:?} where {wanted:?} was said: RFC 3262 §7.2")
            });
        }
        let invite = side.invite_key.clone();
        if let Some(server) = self.servers.get_mut(&invite)
            && server.last.as_ref().is_none_or(|last| !last.is_final())
        {
            self.legs[leg].rseq = None;
        }
        let response = self.answer(packet, 200, "OK", "");
        self.respond(key, response, cx);
    }

    fn on_reinvite(&mut self, leg: usize, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        if let Some(server) = self.servers.get_mut(key) {
            server.leg = Some(leg);
        }
        let side = &mut self.legs[leg];
        if side.standing == Standing::Ended {
            let response = self.answer(packet, 481, "Call Does Not Exist", "");
            self.respond(key, response, cx);
        } else if side.is_inviting || side.is_invited.is_some() {
            // RFC 3261 §14.2: glare.
            cx.book.totals.glares += 1;
            let response = self.answer(packet, 491, "Request Pending", "");
            self.respond(key, response, cx);
        } else {
            side.is_invited = Some(key.to_owned());
            side.target = uri_in(&packet.message, "Contact");
            let response = self
                .answer(packet, 200, "OK", "")
                .with("Contact", self.own_contact())
                .with_body("application/sdp", sdp(&mut self.rng));
            self.respond(key, response, cx);
        }
    }

    /// A request of ours within a call has its answer.
    pub(super) fn on_in_call_final(
        &mut self,
        leg: usize,
        key: &str,
        request: &Rc<Packet>,
        packet: &Rc<Packet>,
        cx: &mut Cx<'_>,
    ) {
        cx.book
            .in_call_answered(self.legs[leg].call, request, packet, cx.net.now);
        if request.method == "INVITE" {
            self.legs[leg].is_inviting = false;
            if packet.is_success() {
                self.legs[leg].target = uri_in(&packet.message, "Contact");
                self.acknowledge_invite(leg, key, request.cseq, cx);
            }
            if packet.status == Some(491) {
                let (low, high) = match self.legs[leg].role {
                    Role::Caller => GLARE_OWNER_MS,
                    Role::Callee => GLARE_OTHER_MS,
                };
                let after = self.rng.millis(low, high);
                self.after(after, Due::Leg(leg, Act::Reinvite), cx);
            }
        }
        // RFC 3261 §12.2.1.2: these end the dialog, and whoever hears them says so with a BYE (§15).
        if matches!(packet.status, Some(408 | 481)) && self.legs[leg].standing == Standing::Up {
            self.hang_up(leg, cx);
        }
    }

    pub(super) fn in_call_timed_out(&mut self, leg: usize, key: &str, cx: &mut Cx<'_>) {
        let is_bye = key.starts_with("BYE");
        let id = self.clients.get(key).and_then(|client| client.packet.id);
        if id.is_none_or(|id| !cx.net.thrown_away.contains(&id)) {
            cx.book.in_call_silent(self.legs[leg].call, key, cx.net.now);
        }
        self.legs[leg].is_inviting = false;
        if !is_bye && self.legs[leg].standing == Standing::Up {
            self.hang_up(leg, cx);
        }
    }
}
