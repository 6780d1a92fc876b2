//! Rules for the server's own transactions as a client: RFC 3261 §17.1, §9.1, §13.2.2.4.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::packet::Packet;
use super::super::trace::{Step, What};
use super::ledger::{Asked, Ledger, is_udp};
use super::{Found, SLACK, T1, TIMEOUT, doubling_to_t2, is_on_time};

/// Over UDP an INVITE without any answer is sent again after T1, then after twice as long each time.
pub fn invite_is_repeated_at_timer_a(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites().filter(|asked| is_udp(asked.first())) {
        let intervals = std::iter::successors(Some(T1), |interval| Some(*interval * 2));
        repeated_at(ledger, asked, &asked.sent, intervals, found);
    }
}

/// Any other request likewise, but at most every T2; and every T2 once a provisional response has come.
pub fn request_is_repeated_at_timer_e(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (asked, sent) in ledger.others().filter(|(asked, _)| is_udp(asked.first())) {
        if !asked.answers.iter().any(|step| !step.packet.is_final()) {
            repeated_at(ledger, asked, sent, doubling_to_t2(), found);
        }
    }
}

/// Whether a request was repeated at those intervals, and was at each until it had an answer.
fn repeated_at(
    ledger: &Ledger<'_>,
    asked: &Asked<'_>,
    sent: &[&Step],
    intervals: impl Iterator<Item = Duration>,
    found: &mut Found<'_>,
) {
    let mut before = sent[0];
    let mut repetitions = sent[1..].iter();
    for interval in intervals {
        match repetitions.next() {
            Some(step) => {
                let after = step.at.since(before.at);
                if !is_on_time(interval, after) {
                    found.at(step, || {
                        format!("repeated after {after:?} instead of {interval:?}")
                    });
                    return;
                }
                before = step;
            }
            None => {
                let due = before.at + interval;
                let is_answered = asked.answers.first().is_some_and(|step| step.at < due + SLACK);
                let is_over = due.since(sent[0].at) >= TIMEOUT;
                // The OPTIONS by which a trunk knows its destinations end with the patience of the trunk.
                let is_ping = asked.is("OPTIONS") && asked.first().packet.id.is_none();
                if ledger.terms.is_whole
                    && !is_answered
                    && !is_over
                    && !is_ping
                    && ledger.has_lived_to(asked.life, due + SLACK)
                {
                    found.at(before, || format!("not repeated {interval:?} later"));
                }
                return;
            }
        }
    }
}

/// The first answer, of whatever kind, ends the repetition of an INVITE.
pub fn invite_is_not_repeated_once_answered(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        if let Some(answer) = asked.answers.first() {
            nothing_after(&asked.sent, answer, "answered", found);
        }
    }
}

/// The final answer ends the repetition of any other request.
pub fn request_is_not_repeated_once_answered(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (asked, sent) in ledger.others() {
        if let Some(answer) = asked.first_final() {
            nothing_after(sent, answer, "answered", found);
        }
    }
}

fn nothing_after(sent: &[&Step], end: &Step, how: &str, found: &mut Found<'_>) {
    if let Some(late) = sent.iter().find(|step| step.at > end.at + SLACK) {
        let after = late.at.since(end.at);
        found.at(late, || format!("sent {after:?} after it was {how}"));
    }
}

/// Timer B: 64*T1 after it was first sent an INVITE is given up.
pub fn invite_is_given_up_at_timer_b(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    ledger.invites().for_each(|asked| given_up(&asked.sent, found));
}

/// Timer F: so is any other request.
pub fn request_is_given_up_at_timer_f(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    ledger.others().for_each(|(_, sent)| given_up(sent, found));
}

fn given_up(sent: &[&Step], found: &mut Found<'_>) {
    let first = sent[0];
    if let Some(late) = sent.iter().find(|step| step.at.since(first.at) > TIMEOUT) {
        let after = late.at.since(first.at);
        found.at(late, || format!("sent {after:?} after it first was"));
    }
}

/// A reliable transport does the repeating itself.
pub fn request_is_not_repeated_over_tcp(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let invites = ledger.invites().map(|asked| &asked.sent[..]);
    for sent in invites.chain(ledger.others().map(|(_, sent)| sent)) {
        if let Some(again) = sent[1..].iter().find(|step| !is_udp(step)) {
            found.at(again, || "sent again over TCP".to_owned());
        }
    }
}

/// What is sent again is the same, byte for byte.
pub fn repetition_is_the_same_request(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in &ledger.asked {
        let first = &asked.first().packet.bytes;
        if let Some(other) = asked.sent.iter().find(|step| step.packet.bytes != *first) {
            found.at(other, || "under the branch of another request".to_owned());
        }
    }
}

/// A 300 to 699 gets an ACK each time that it comes, while Timer D runs.
pub fn failure_is_acknowledged_each_time(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for asked in ledger.invites() {
        let Some(first) = asked.first_final().filter(|step| step.packet.is_failure()) else {
            continue;
        };
        // Of two answers that came at one time, on two shards, either may have been read first; behind a 2xx a failure is nothing.
        let is_second = (asked.answers.iter()).any(|step| step.packet.is_success() && step.at == first.at);
        if is_second {
            continue;
        }
        // Without a wait over TCP: there the transaction is over with its ACK.
        let ends = if is_udp(asked.first()) {
            first.at + TIMEOUT
        } else {
            first.at
        };
        // Timer B may have ended it before the failure came.
        let has_provisional = asked
            .answers
            .iter()
            .any(|step| step.at < asked.first().at + TIMEOUT && !step.packet.is_final());
        if !has_provisional && first.at.since(asked.first().at) > TIMEOUT - SLACK {
            continue;
        }
        for failure in asked.answers.iter().filter(|step| step.packet.is_failure()) {
            let due = failure.at + SLACK;
            let is_acked = asked.acks.iter().any(|ack| ack.at >= failure.at && ack.at <= due);
            if failure.at <= ends
                && !is_acked
                && ledger.has_lived_to(asked.life, due)
                && !was_cancelled_long_ago(asked, failure)
            {
                found.at(failure, || "not acknowledged".to_owned());
            }
        }
    }
}

/// §9.1: 64*T1 after its CANCEL an INVITE without a final answer is taken for cancelled.
fn was_cancelled_long_ago(asked: &Asked<'_>, step: &Step) -> bool {
    asked
        .cancels
        .first()
        .is_some_and(|cancel| step.at.since(cancel.at) > TIMEOUT - SLACK)
}

/// The ACK of a 300 to 699 has the Request-URI, Call-ID, From, number, Route and the one Via of its INVITE, and the To of
/// the response.
pub fn ack_of_failure_is_made_from_its_invite(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        let Some(failure) = asked.first_final().filter(|step| step.packet.is_failure()) else {
            continue;
        };
        for ack in &asked.acks {
            copied(asked.first(), ack, &["From", "Call-ID", "Route"], found);
            if ack.packet.message.text("To") != failure.packet.message.text("To") {
                found.at(ack, || {
                    format!("To is not that of {}", failure.packet.message.title())
                });
            }
        }
    }
}

/// The CANCEL of an INVITE has its Request-URI, Call-ID, To, From, number, Route and the one Via.
pub fn cancel_is_made_from_its_invite(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        for cancel in &asked.cancels {
            copied(asked.first(), cancel, &["From", "To", "Call-ID", "Route"], found);
        }
    }
}

fn copied(invite: &Step, copy: &Step, headers: &[&str], found: &mut Found<'_>) {
    let (from, to) = (&invite.packet, &copy.packet);
    if from.message.uri() != to.message.uri() {
        found.at(copy, || "for another Request-URI than its INVITE".to_owned());
    }
    if from.cseq != to.cseq {
        found.at(copy, || {
            format!("number {} where its INVITE has {}", to.cseq, from.cseq)
        });
    }
    for name in headers {
        if from.message.get_all(name) != to.message.get_all(name) {
            found.at(copy, || format!("{name} is not that of its INVITE"));
        }
    }
    // A proxy's INVITE has the Vias of others below its own; what it sends for itself has none.
    let (vias, own) = (from.message.elements("Via"), to.message.elements("Via"));
    if own.len() != 1 || own.first() != vias.first() {
        found.at(copy, || format!("Via is {own:?} where its INVITE has {vias:?}"));
    }
}

/// The ACK of a 2xx is a transaction of its own.
pub fn ack_of_success_has_a_branch_of_its_own(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        let is_accepted = asked.success().is_some();
        if let Some(ack) = asked.acks.first().filter(|_| is_accepted) {
            found.at(ack, || {
                "under the branch of the INVITE that a 2xx has answered".to_owned()
            });
        }
    }
}

/// Once a 2xx has had its ACK, it gets it again each time that it comes.
pub fn success_is_acknowledged_each_time(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    // What a proxy passes on is acknowledged by whoever asked.
    for asked in ledger.invites().filter(|asked| !asked.is_forwarded()) {
        let Some(first) = asked.first_final().filter(|step| step.packet.is_success()) else {
            continue;
        };
        let acks: Vec<&Step> = ledger
            .of_call(asked.life, &asked.first().packet.call_id)
            .filter(|step| step.what == What::Sent && step.packet.is_request("ACK"))
            .filter(|step| step.packet.cseq == asked.first().packet.cseq)
            .collect();
        let again = asked
            .answers
            .iter()
            .filter(|step| step.packet.is_success() && step.at > first.at);
        for success in again {
            let mut own = acks
                .iter()
                .filter(|ack| ack.packet.to_tag == success.packet.to_tag);
            let is_known = own.clone().any(|ack| ack.at < success.at);
            // RFC 6026 §7.2: Timer M.
            let is_late = success.at.since(first.at) + SLACK > TIMEOUT;
            let due = success.at + SLACK;
            if is_known
                && !is_late
                && !own.any(|ack| ack.at >= success.at && ack.at <= due)
                && ledger.has_lived_to(asked.life, due)
            {
                found.at(success, || "came again and was not acknowledged again".to_owned());
            }
        }
    }
}

/// A CANCEL waits for a provisional response: before it the INVITE may not have arrived.
pub fn cancel_comes_after_a_provisional(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        let Some(cancel) = asked.cancels.first() else {
            continue;
        };
        let has_provisional = asked
            .answers
            .iter()
            .any(|step| !step.packet.is_final() && step.at <= cancel.at);
        if !has_provisional {
            found.at(cancel, || "before any provisional response".to_owned());
        }
    }
}

/// A CANCEL has no effect, and is not to be sent, once there is a final response.
pub fn cancel_comes_before_the_final(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in ledger.invites() {
        if let (Some(cancel), Some(last)) = (asked.cancels.first(), asked.first_final())
            && cancel.at > last.at + SLACK
        {
            found.at(cancel, || format!("after {}", last.packet.message.title()));
        }
    }
}

/// A branch is unique across space and time, but for the CANCEL and the ACK of a failure.
pub fn branch_names_one_request(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let mut owners: BTreeMap<(usize, &str), &Step> = BTreeMap::new();
    for (life, step) in ledger.requests_sent() {
        let packet = &step.packet;
        let owner = owners.entry((life, &packet.branch)).or_insert(step);
        let (own, first) = (packet, &owner.packet);
        // Without state a CANCEL may go on before its INVITE: they have one branch whichever is first.
        let is_of_invite = |packet: &Packet| matches!(packet.method.as_str(), "INVITE" | "CANCEL" | "ACK");
        let is_kin = own.method == first.method || is_of_invite(own) && is_of_invite(first);
        if !is_kin || own.call_id != first.call_id || own.cseq != first.cseq {
            found.at(step, || format!("under the branch of {}", first.message.title()));
        }
    }
}
