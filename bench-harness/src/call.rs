//! Whole calls between two phones through ringway, step by step, each step checked for being there.

use crate::captured;
use crate::contract::InDialog;
use crate::dialog::Dialog;
use crate::failure::Outcome;
use crate::links::{Received, Transport};
use crate::phone::Phone;
use crate::sip::{self, Message};

/// An answered call, with everything that was said on the way.
#[derive(Clone, Debug)]
pub struct Call {
    /// As the caller sent it.
    pub invite: Message,
    /// As the callee got it.
    pub leg_b: Received,
    pub trying: Received,
    /// What the callee sent, and what the caller got of it.
    pub ringing: (Message, Received),
    pub accepted: (Message, Received),
    /// What the caller sent, and what the callee got of it.
    pub ack: (Message, Received),
    pub caller: Dialog,
    pub callee: Dialog,
    /// The Contact URIs that the two gave.
    pub caller_target: String,
    pub callee_target: String,
}

impl Call {
    /// What the callee expects of a request that the caller sends in the dialog.
    pub fn at_callee(&self, cseq: Option<u32>) -> InDialog<'_> {
        InDialog {
            target: &self.callee_target,
            call_id: &self.callee.call_id,
            from: &self.callee.remote,
            to: &self.callee.local,
            cseq,
        }
    }

    /// What the caller expects of a request that the callee sends in the dialog.
    pub fn at_caller(&self, cseq: Option<u32>) -> InDialog<'_> {
        InDialog {
            target: &self.caller_target,
            call_id: &self.caller.call_id,
            from: &self.caller.remote,
            to: &self.caller.local,
            cseq,
        }
    }
}

/// The callee's 180 or 200 to an INVITE: with its Contact, and from 200 on with an answer to the offer.
pub fn invite_reply(callee: &mut Phone, invite: &Received, status: u16, reason: &str) -> Message {
    let contact = format!(
        "<{}>;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\"",
        callee.contact()
    );
    let reply = callee.reply(invite, status, reason).inserting("Contact", contact);
    if (200..300).contains(&status) && !invite.body.is_empty() {
        return reply.with_body("application/sdp", captured::answer(callee.addr()));
    }
    reply
}

/// Places the captured call: INVITE, 100, 180, 200, ACK. The caller's INVITE goes over `transport`, its ACK over UDP.
pub fn place(caller: &mut Phone, callee: &mut Phone, transport: Transport) -> Outcome<Call> {
    let invite = captured::invite(caller, callee.user(), transport);
    place_with(caller, callee, invite, transport)
}

/// The same with an INVITE of the caller's making.
pub fn place_with(
    caller: &mut Phone,
    callee: &mut Phone,
    invite: Message,
    transport: Transport,
) -> Outcome<Call> {
    caller.send(&invite, transport)?;
    let leg_b = callee.expect("INVITE")?;
    callee.answers(&leg_b, 100, "Trying")?;
    let trying = caller.response(&invite, 100)?;
    let ringing = invite_reply(callee, &leg_b, 180, "Ringing");
    callee.respond(&leg_b, &ringing)?;
    let ringing = (ringing, caller.response(&invite, 180)?);
    let accepted = invite_reply(callee, &leg_b, 200, "OK");
    callee.respond(&leg_b, &accepted)?;
    let accepted = (accepted, caller.response(&invite, 200)?);
    let caller_side = Dialog::of_caller(&invite, &accepted.1, transport);
    let callee_side = Dialog::of_callee(&leg_b, &accepted.0, leg_b.transport);
    let mut ack = caller.ack_in(&caller_side, &invite);
    ack.set("Via", caller.via(Transport::Udp));
    caller.send(&ack, Transport::Udp)?;
    let got = callee.wait_for("the ACK", |r| {
        r.is_request("ACK") && r.text("Call-ID") == leg_b.text("Call-ID")
    })?;
    Ok(Call {
        caller_target: sip::uri(invite.text("Contact")).to_owned(),
        callee_target: sip::uri(accepted.0.text("Contact")).to_owned(),
        caller: caller_side,
        callee: callee_side,
        invite,
        leg_b,
        trying,
        ringing,
        accepted,
        ack: (ack, got),
    })
}

/// A request in the dialog and its 200: what was sent, what the other side got, what it answered, and what came back.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub request: Message,
    pub passed: Received,
    pub answer: Message,
    pub response: Received,
}

/// Sends `request` from one phone in a dialog and has the other answer it with `status`.
pub fn exchange(
    from: &mut Phone,
    to: &mut Phone,
    request: Message,
    transport: Transport,
    (status, reason): (u16, &str),
) -> Outcome<Exchange> {
    from.send(&request, transport)?;
    let passed = to.expect(request.method().unwrap_or_default())?;
    let answer = to.answers(&passed, status, reason)?;
    let response = from.response(&request, status)?;
    Ok(Exchange {
        request,
        passed,
        answer,
        response,
    })
}

/// BYE from the side whose dialog is given; the other side accepts it.
pub fn hang_up(from: &mut Phone, to: &mut Phone, dialog: &mut Dialog) -> Outcome<Exchange> {
    let bye = from.request_in(dialog, "BYE");
    exchange(from, to, bye, dialog.transport, (200, "OK"))
}
