//! Rules for the server's transactions as a server: RFC 3261 §17.2, §13.3.1.4, §9.2.

use std::cmp::Ordering;
use std::time::Duration;

use super::super::trace::{Step, What};
use super::ledger::{Ledger, Served, has_no_room, is_udp};
use super::{EARLY, Found, SLACK, TIMEOUT, UNTIL_T2, is_on_time, schedule_to_t2};
use crate::time::Instant;

/// How long an INVITE may wait for its first response.
const TRYING_WITHIN: Duration = Duration::from_millis(200);
/// The longest that a request may take: Timer C, the wait after its CANCEL, and a look-up.
const ANSWERED_WITHIN: Duration = Duration::from_secs(181 + 32 + 5);
/// Eight places one after another, each silent for as long as it may ring.
const TRIED_IN_TURN: Duration = Duration::from_secs(8 * 40);
const OTHERS_ANSWERED_WITHIN: Duration = Duration::from_secs(32 + 1);

/// 100, or something better, within 200 ms.
pub fn invite_has_an_answer_within_200_ms(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful().filter(|served| served.is("INVITE")) {
        let due = served.first().at + TRYING_WITHIN;
        let is_answered = served.answers.first().is_some_and(|step| step.at <= due);
        if !is_answered && ledger.terms.is_whole && ledger.has_lived_to(served.life, due) {
            found.at(served.first(), || "no answer within 200 ms".to_owned());
        }
    }
}

/// One final response a request, however often that comes.
pub fn request_has_one_final_response(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    // Several 2xx to a forwarded INVITE are several callees'.
    let single = |served: &&Served<'_>| !(served.is_forwarded() && served.is("INVITE"));
    for served in ledger.stateful().filter(single) {
        let known = served
            .known_finals()
            .skip_while(|step| is_passing(ledger, served, step));
        one_of(known, found);
    }
    // A CANCEL that went on without a transaction has the answers of others too.
    let passed_on = |served: &&Served<'_>| served.is("CANCEL") && served.is_stateless;
    for served in ledger.served.iter().filter(passed_on) {
        let own = served.finals().filter(|step| ledger.is_own(served.life, step));
        let known = own.skip_while(|step| is_passing(ledger, served, step));
        one_of(known, found);
    }
}

/// Whether the answer holds only until the same comes again: there was no room, or a CANCEL came before its INVITE was taken in, and
/// either there is none or it could not go where that would have gone (§8.2.7: without a transaction nothing is known of what was said).
fn is_passing(ledger: &Ledger<'_>, served: &Served<'_>, step: &Step) -> bool {
    let is_early = || {
        let invite = ledger.served_as(served.life, &step.packet.branch, "INVITE");
        let begun = invite.and_then(Served::begun);
        begun.is_none_or(|begun| begun >= step.at)
    };
    has_no_room(step) || served.is("CANCEL") && step.packet.is_failure() && is_early()
}

/// All are the first once more.
fn one_of<'t>(mut finals: impl Iterator<Item = &'t Step>, found: &mut Found<'_>) {
    let Some(first) = finals.next() else { return };
    if let Some(other) = finals.find(|step| step.packet.bytes != first.packet.bytes) {
        found.at(other, || format!("after {}", first.packet.message.title()));
    }
}

pub fn nothing_provisional_after_the_final(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful() {
        let Some(first) = served.known_finals().next() else {
            continue;
        };
        let late = served
            .answers
            .iter()
            .skip_while(|step| !std::ptr::eq(**step, first))
            .find(|step| !step.packet.is_final());
        if let Some(late) = late {
            found.at(late, || format!("after {}", first.packet.message.title()));
        }
    }
}

/// The repetitions of a final response that the server sent by itself, not because the request came again.
fn repeated<'s, 't>(served: &'s Served<'t>) -> impl Iterator<Item = &'t Step> + 's {
    let first = served.finals().next();
    let is_same = move |step: &&Step| first.is_some_and(|first| first.packet.bytes == step.packet.bytes);
    served.finals().skip(1).filter(is_same).filter(|step| {
        !served
            .got
            .iter()
            .any(|got| got.at <= step.at && step.at.since(got.at) <= SLACK)
    })
}

/// Over UDP a 300 to 699 goes out again at T1, doubling up to T2, until its ACK.
pub fn failure_is_repeated_at_timer_g(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in refused(ledger).filter(|served| is_udp(served.first())) {
        let end = served.acks.first().copied();
        on_schedule(ledger, served, end, found);
    }
}

/// A 2xx goes out again at T1, doubling up to T2, over any transport, until its ACK.
pub fn success_is_repeated_until_its_ack(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in accepted(ledger) {
        on_schedule(ledger, served, ack_of(ledger, served), found);
    }
}

fn on_schedule(ledger: &Ledger<'_>, served: &Served<'_>, end: Option<&Step>, found: &mut Found<'_>) {
    let Some(first) = served.finals().next() else {
        return;
    };
    for step in repeated(served) {
        let after = step.at.since(first.at);
        // What is sent at the end of its time is that of another rule.
        if !schedule_to_t2().any(|at| is_on_time(at, after)) && after <= TIMEOUT {
            found.at(step, || format!("repeated after {after:?}"));
            return;
        }
    }
    if !ledger.terms.is_whole {
        return;
    }
    for at in schedule_to_t2() {
        let late = first.at + at + SLACK;
        if end.is_some_and(|ack| ack.at < late) || !ledger.has_lived_to(served.life, late) {
            return;
        }
        let is_sent = served
            .finals()
            .any(|step| is_on_time(at, step.at.since(first.at)));
        if !is_sent {
            found.at(first, || {
                format!("not repeated {at:?} later, and not acknowledged")
            });
            return;
        }
    }
}

fn refused<'l, 't>(ledger: &'l Ledger<'t>) -> impl Iterator<Item = &'l Served<'t>> {
    ledger.stateful().filter(|served| {
        served.is("INVITE")
            && served
                .finals()
                .next()
                .is_some_and(|step| step.packet.is_failure() && step.packet.status != Some(503))
    })
}

fn accepted<'l, 't>(ledger: &'l Ledger<'t>) -> impl Iterator<Item = &'l Served<'t>> {
    // Whoever has answered repeats it, which is not a proxy.
    ledger.stateful().filter(|served| {
        served.is("INVITE")
            && !served.is_forwarded()
            && served
                .finals()
                .next()
                .is_some_and(|step| step.packet.is_success())
    })
}

/// The first ACK of a 2xx: another transaction in the same dialog.
fn ack_of<'t>(ledger: &Ledger<'t>, served: &Served<'t>) -> Option<&'t Step> {
    let last = served.finals().next()?;
    ledger
        .of_call(served.life, &last.packet.call_id)
        .filter(|step| step.what == What::Received && step.packet.is_request("ACK"))
        .find(|step| step.packet.cseq == last.packet.cseq && step.packet.to_tag == last.packet.to_tag)
}

pub fn failure_is_not_repeated_once_acknowledged(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in refused(ledger) {
        if let Some(ack) = served.acks.first() {
            silent_after(served, ack, found);
        }
    }
}

pub fn success_is_not_repeated_once_acknowledged(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in accepted(ledger) {
        if let Some(ack) = ack_of(ledger, served) {
            silent_after(served, ack, found);
        }
    }
}

fn silent_after(served: &Served<'_>, ack: &Step, found: &mut Found<'_>) {
    if let Some(late) = repeated(served).find(|step| step.at > ack.at + SLACK) {
        found.at(late, || format!("{:?} after its ACK", late.at.since(ack.at)));
    }
}

/// Timer H: an ACK is waited for 64*T1.
pub fn failure_is_given_up_at_timer_h(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    refused(ledger).for_each(|served| given_up(served, found));
}

pub fn success_is_given_up_after_64_t1(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    accepted(ledger).for_each(|served| given_up(served, found));
}

fn given_up(served: &Served<'_>, found: &mut Found<'_>) {
    let Some(first) = served.finals().next() else {
        return;
    };
    if let Some(late) = repeated(served).find(|step| step.at.since(first.at) > TIMEOUT) {
        found.at(late, || {
            format!("{:?} after it was sent first", late.at.since(first.at))
        });
    }
}

/// A reliable transport repeats by itself what is no 2xx.
pub fn failure_is_not_repeated_over_tcp(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in refused(ledger) {
        if let Some(again) = repeated(served).find(|step| !is_udp(step)) {
            found.at(again, || "sent again over TCP".to_owned());
        }
    }
}

/// A request that comes again gets the last response again: any of an INVITE but a 2xx, and the final one of others.
pub fn repeated_request_has_the_last_response_again(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in ledger.stateful() {
        for again in &served.got[1..] {
            let said = served.answers.iter().rfind(|step| step.at < again.at);
            let Some(said) = said else { continue };
            let is_invite = served.is("INVITE");
            // RFC 6026 §7.1: absorbed after a 2xx; after its ACK nothing is said to a repeated INVITE.
            let is_absorbed = is_invite
                && (said.packet.is_success() || served.acks.iter().any(|ack| ack.at <= again.at + SLACK));
            // Timer J; and Timer G ends a refused INVITE after as long.
            let is_over = said.packet.is_final() && again.at.since(said.at) > TIMEOUT - SLACK;
            let is_over = is_over || given_up_at(served).is_some_and(|at| again.at + SLACK >= at);
            let due = again.at + SLACK;
            let is_said = served
                .answers
                .iter()
                .any(|step| step.at >= again.at && step.at <= due);
            let is_udp = is_udp(served.first());
            if is_udp && !is_absorbed && !is_over && !is_said && ledger.has_lived_to(served.life, due) {
                found.at(again, || {
                    format!("came again after {} and got nothing", said.packet.message.title())
                });
            }
        }
    }
}

/// When a request other than INVITE that was passed on, and that nobody has answered, is given up without a word (RFC 4320 §4.2). What is late on
/// its way comes as a new one then.
pub fn given_up_at(served: &Served<'_>) -> Option<Instant> {
    let at = served.first().at + TIMEOUT;
    let is_silent = !served.is("INVITE") && served.is_forwarded() && served.finals().all(|last| last.at > at);
    is_silent.then_some(at)
}

/// Every request but ACK has a final response in the end; what is passed on, and is no INVITE, if whoever it was for has said any.
pub fn every_request_is_answered(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    // RFC 4320 §4.2: nothing is said of others that nobody has answered.
    let is_due = |served: &&Served<'_>| served.is("INVITE") || !served.is_forwarded();
    for served in ledger.stateful().filter(is_due) {
        let within = if served.is_forwarded() {
            ANSWERED_WITHIN + TRIED_IN_TURN
        } else if served.is("INVITE") {
            ANSWERED_WITHIN
        } else {
            OTHERS_ANSWERED_WITHIN
        };
        let due = last_provisional(served).at + within;
        let is_answered = served.finals().next().is_some_and(|step| step.at <= due);
        let is_silence = || !served.is("INVITE") && is_passed_on_in_vain(ledger, served);
        if !is_answered && ledger.has_lived_to(served.life, due) && !is_silence() {
            found.at(served.first(), || "never answered".to_owned());
        }
    }
}

/// Whether the phone service has brought it to the other phone of the call, which has not answered it.
fn is_passed_on_in_vain(ledger: &Ledger<'_>, served: &Served<'_>) -> bool {
    let id = served.first().packet.id;
    let mut passed_on = (ledger.asked.iter())
        .filter(|asked| id.is_some() && asked.life == served.life && asked.first().packet.id == id)
        .peekable();
    passed_on.peek().is_some() && passed_on.all(|asked| asked.first_final().is_none())
}

/// Each provisional response starts Timer C anew (§16.7 step 2).
fn last_provisional<'t>(served: &Served<'t>) -> &'t Step {
    served
        .answers
        .iter()
        .rfind(|step| !step.packet.is_final())
        .copied()
        .unwrap_or(served.first())
}

/// A CANCEL that finds its INVITE unanswered is answered 200 and ends it.
pub fn cancel_ends_its_invite(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    let is_own = |served: &&Served<'_>| served.is("INVITE") && !served.is_forwarded();
    for served in ledger.stateful().filter(is_own) {
        let Some(cancel) = served.cancels.first() else {
            continue;
        };
        // One that came before its INVITE was told that there is none, and is told so again. Which of two that came at one time, on two
        // shards, was read first shows by that.
        let is_behind = |own: &Served<'_>| match own.first().at.cmp(&served.first().at) {
            Ordering::Less => false,
            Ordering::Equal => own
                .finals()
                .next()
                .is_none_or(|step| step.packet.status != Some(481)),
            Ordering::Greater => true,
        };
        if !ledger
            .served_by(served.life, &cancel.packet)
            .is_some_and(is_behind)
        {
            continue;
        }
        let due = cancel.at + SLACK;
        let is_answered = served.finals().next().is_some_and(|step| step.at <= due);
        if !is_answered && ledger.has_lived_to(served.life, due) {
            found.at(cancel, || "its INVITE has no final response".to_owned());
        }
    }
}

/// Only an INVITE is told how far it has come.
pub fn nothing_provisional_to_other_requests(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.responses_sent() {
        if !step.packet.is_final() && step.packet.method != "INVITE" && step.packet.status != Some(100) {
            found.at(step, || "only 100 may be said, and late".to_owned());
        }
    }
}

/// That, while Timer E of its client still grows, would have it wait longer for what may be lost.
pub fn other_requests_hear_no_100_early(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful().filter(|served| !served.is("INVITE")) {
        for step in served.answers.iter().filter(|step| !step.packet.is_final()) {
            if step.at + EARLY < served.first().at + UNTIL_T2 {
                found.at(step, || {
                    "while the client repeats it more often than every T2".to_owned()
                });
            }
        }
    }
}

/// Whoever asks for something else, and has heard nothing when Timer E is at T2, is told that the request has arrived.
pub fn other_requests_hear_that_they_have_arrived(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    // A CANCEL is answered at once, or has no transaction here, and waits for DNS to go on without one (RFC 3261 §16.10).
    let is_due = |served: &&Served<'_>| !["INVITE", "ACK", "CANCEL"].iter().any(|method| served.is(method));
    for served in ledger.stateful().filter(is_due) {
        let due = served.first().at + UNTIL_T2 + SLACK;
        let is_told = served.answers.iter().any(|step| step.at <= due);
        if !is_told && ledger.has_lived_to(served.life, due) {
            found.at(served.first(), || "no 100 after 3.5 s".to_owned());
        }
    }
}
