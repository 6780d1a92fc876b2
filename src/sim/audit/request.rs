//! Rules for each single request that the server sends: RFC 3261 §8.1.1, §12.2.1.1, §18.1.1.

use std::collections::BTreeMap;

use bench_harness::sip;

use super::super::net::SERVER;
use super::super::trace::{Step, What};
use super::Found;
use super::ledger::{Ledger, is_udp};

/// To, From with a tag, CSeq, Call-ID, Max-Forwards, Via.
pub fn request_has_what_it_must(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.requests_sent() {
        for name in ["To", "From", "CSeq", "Call-ID", "Max-Forwards", "Via"] {
            let count = step.packet.message.get_all(name).len();
            if count == 0 || (count > 1 && name != "Via") {
                found.at(step, || format!("{count} lines of {name}"));
            }
        }
        if step.packet.from_tag.is_empty() {
            found.at(step, || "From without a tag".to_owned());
        }
    }
}

pub fn branch_begins_with_the_cookie(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.requests_sent() {
        if !step.packet.branch.starts_with("z9hG4bK") {
            found.at(step, || format!("branch {:?}", step.packet.branch));
        }
    }
}

pub fn cseq_says_the_method(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.requests_sent() {
        if step.packet.request() != Some(&*step.packet.method) {
            found.at(step, || format!("CSeq says {}", step.packet.method));
        }
    }
}

/// A request of our own begins with 70; what is passed on has one less than it came with, and phones begin with 70 at most.
pub fn max_forwards_is_at_most_70(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.requests_sent() {
        let hops = step.packet.message.text("Max-Forwards").parse::<u32>();
        // Without an id it is the server's own.
        let most = if step.packet.id.is_some() { 69 } else { 70 };
        if hops.as_ref().map_or(true, |hops| *hops > most) {
            found.at(step, || format!("Max-Forwards is {hops:?}"));
        }
    }
}

/// The Via names the transport that is used and an address where answers are waited for.
pub fn via_says_where_and_how(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.requests_sent() {
        let wanted = format!("SIP/2.0/{} {SERVER};", step.transport.name());
        let via = step.packet.message.top_via();
        if !via.starts_with(&wanted) {
            found.at(step, || format!("Via is {via:?} over {}", step.transport.name()));
        }
    }
}

/// A request that can make a dialog says where it is reached, with one SIP URI.
pub fn invite_has_one_contact(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        let contacts = asked.first().packet.message.elements("Contact");
        if contacts.len() != 1 || !sip::uri(contacts[0]).starts_with("sip:") {
            found.at(asked.first(), || format!("Contact is {contacts:?}"));
        }
    }
}

/// Outside a dialog there is no tag to put into To.
pub fn first_invite_has_no_to_tag(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        let packet = &asked.first().packet;
        // Something came in that dialog before: it is one.
        let is_known = ledger
            .of_call(asked.life, &packet.call_id)
            .take_while(|step| step.at <= asked.first().at)
            .any(|step| step.what == What::Received);
        if !packet.to_tag.is_empty() && !is_known {
            found.at(asked.first(), || format!("To has the tag {}", packet.to_tag));
        }
    }
}

/// In each direction of a dialog every new request has a higher number than the one before; ACK and CANCEL have that of
/// their INVITE.
pub fn cseq_rises_within_a_dialog(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let mut last: BTreeMap<(usize, &str, &str, &str), &Step> = BTreeMap::new();
    for asked in &ledger.asked {
        let packet = &asked.first().packet;
        // What a proxy passes on has the number that others gave it.
        if packet.to_tag.is_empty() || packet.method == "CANCEL" || asked.is_forwarded() {
            continue;
        }
        let dialog = (asked.life, &*packet.call_id, &*packet.from_tag, &*packet.to_tag);
        if let Some(before) = last.insert(dialog, asked.first())
            && before.packet.cseq >= packet.cseq
        {
            found.at(asked.first(), || {
                format!("number {} after {}", packet.cseq, before.packet.cseq)
            });
        }
    }
}

/// The number of an ACK is that of the INVITE that it acknowledges.
pub fn ack_has_the_number_of_an_invite(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.requests_sent() {
        let is_passed_on = step.packet.message.elements("Via").len() > 1;
        if !step.packet.is_request("ACK") || is_passed_on {
            continue;
        }
        let has_invite = ledger.of_call(life, &step.packet.call_id).any(|other| {
            other.what == What::Sent
                && other.packet.is_request("INVITE")
                && other.packet.cseq == step.packet.cseq
        });
        if !has_invite {
            found.at(step, || format!("number {} of no INVITE", step.packet.cseq));
        }
    }
}

/// On a stream the length of the body must be said.
pub fn stream_says_the_length(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in &ledger.steps {
        if step.what == What::Sent && !is_udp(step) && !step.packet.message.has("Content-Length") {
            found.at(step, || "no Content-Length on a stream".to_owned());
        }
    }
}

/// CANCEL, 100 and the ACK of a failure carry none.
pub fn these_have_no_body(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let acks = ledger.invites().flat_map(|asked| asked.acks.iter().copied());
    let cancels = ledger.invites().flat_map(|asked| asked.cancels.iter().copied());
    let trying = ledger
        .responses_sent()
        .map(|(_, step)| step)
        .filter(|step| step.packet.status == Some(100));
    for step in acks.chain(cancels).chain(trying) {
        if !step.packet.message.body.is_empty() {
            found.at(step, || "has a body".to_owned());
        }
    }
}

/// A BYE is sent within a dialog only: both tags are there.
pub fn bye_ends_a_dialog(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.requests_sent() {
        if step.packet.is_request("BYE") && step.packet.to_tag.is_empty() {
            found.at(step, || "To without a tag".to_owned());
        }
    }
}
