//! Rules for what comes back to a proxy, and for its branches: RFC 3261 §16.7 to §16.11.

use std::time::Duration;

use super::super::exchange::Dialled;
use super::super::trace::{Step, What};
use super::forward::end_of_search;
use super::ledger::{Asked, Ledger, Served};
use super::{EARLY, Found, SLACK, TIMEOUT, names};
use crate::time::Instant;

/// RFC 3261 §16.6 step 11: more than three minutes.
const TIMER_C: Duration = Duration::from_secs(180);
/// As it is by default, and how late it may be.
const TIMER_C_DUE: Duration = Duration::from_secs(181 + 1);

/// What was forwarded with a transaction.
fn forwarded<'l, 't>(ledger: &'l Ledger<'t>) -> impl Iterator<Item = &'l Served<'t>> {
    ledger.stateful().filter(|served| served.is_forwarded())
}

fn invites<'l, 't>(ledger: &'l Ledger<'t>) -> impl Iterator<Item = &'l Served<'t>> {
    forwarded(ledger).filter(|served| served.is("INVITE"))
}

/// Whether a response that has come on a branch went back by then. One that is the best of several may be another's copy.
fn goes_back(served: &Served<'_>, came: &Step) -> bool {
    served.answers.iter().any(|step| {
        let due = came.at + SLACK;
        step.packet.id == came.packet.id
            && step.packet.to_tag == came.packet.to_tag
            && step.at >= came.at
            && step.at <= due
    })
}

/// What a proxy passes back has come to it, under one Via more.
pub fn own_via_is_taken_off(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.responses_sent() {
        let is_proxied = ledger
            .served_by(life, &step.packet)
            .is_some_and(|served| served.is_forwarded());
        if !is_proxied || step.packet.id.is_none() {
            continue;
        }
        let vias = step.packet.message.elements("Via");
        let has_come = ledger.of_call(life, &step.packet.call_id).any(|other| {
            other.what == What::Received
                && other.at <= step.at
                && other.packet.id == step.packet.id
                && other.packet.message.elements("Via")[1..] == vias[..]
        });
        if !has_come {
            found.at(step, || format!("did not come with another Via above {vias:?}"));
        }
    }
}

/// A 100 is of one hop alone: what a proxy says is its own.
pub fn trying_is_its_own(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.responses_sent() {
        let is_stateful = ledger
            .served_by(life, &step.packet)
            .is_some_and(|served| !served.is_stateless);
        if is_stateful && step.packet.status == Some(100) && step.packet.id.is_some() {
            found.at(step, || "of somebody else".to_owned());
        }
    }
}

/// Every other provisional response goes back at once, until a final one has.
pub fn provisional_goes_back(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in invites(ledger) {
        for child in ledger.children(served) {
            for came in &child.answers {
                let is_ringing = came
                    .packet
                    .status
                    .is_some_and(|status| (101..200).contains(&status));
                let late = came.at + SLACK;
                let is_over = served.finals().next().is_some_and(|last| last.at <= late)
                    // What ended the branch may have overtaken it on the way from another shard.
                    || child.first_final().is_some_and(|last| last.at <= came.at + EARLY)
                    // Whoever hung up hears no more of how it rings. The CANCEL may have been decided on, at another shard than the
                    // one that heard it ring, before that was known there.
                    || child.cancels.first().is_some_and(|cancel| cancel.at <= late)
                    || was_given_up(child, came);
                if is_ringing
                    && !is_over
                    && !goes_back(served, came)
                    && ledger.has_lived_to(served.life, late)
                {
                    found.at(came, || "does not go back".to_owned());
                }
            }
        }
    }
}

/// Whether the transaction of a branch had ended before that came: 64*T1 after it was sent, or after its CANCEL, or when it could
/// not be sent.
pub fn was_given_up(child: &Asked<'_>, came: &Step) -> bool {
    let is_silent = !child
        .answers
        .iter()
        .any(|step| step.at < came.at && step.at < child.first().at + TIMEOUT);
    let is_cancelled = child
        .cancels
        .first()
        .is_some_and(|cancel| cancel.at + TIMEOUT <= came.at + SLACK);
    let is_unsent = child.unsent().is_some_and(|at| at <= came.at);
    (is_silent && came.at + SLACK >= child.first().at + TIMEOUT) || is_cancelled || is_unsent
}

/// Every 2xx to INVITE goes back each time that it comes, whatever went before it.
pub fn each_success_goes_back(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in invites(ledger) {
        for child in ledger.children(served) {
            let Some(first) = child.success() else {
                continue;
            };
            for came in child.answers.iter().filter(|step| step.packet.is_success()) {
                // RFC 6026 §7.2: Timer M.
                let is_late = came.at + SLACK >= first.at + TIMEOUT || was_given_up(child, first);
                let due = came.at + SLACK;
                if !is_late && !goes_back(served, came) && ledger.has_lived_to(served.life, due) {
                    found.at(came, || "does not go back".to_owned());
                }
            }
        }
    }
}

/// The first 2xx to any other request goes back at once.
pub fn other_success_goes_back(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in forwarded(ledger).filter(|served| !served.is("INVITE")) {
        let successes = ledger.children(served).filter_map(|child| {
            let last = child.first_final().filter(|step| step.packet.is_success())?;
            // Timer F, at both ends.
            let is_late = last.at + SLACK >= child.first().at + TIMEOUT;
            (!is_late).then_some(last)
        });
        let Some(first) = successes.min_by_key(|step| step.at) else {
            continue;
        };
        let due = first.at + SLACK;
        let is_answered = served.finals().any(|step| step.at <= due);
        if !is_answered && !goes_back(served, first) && ledger.has_lived_to(served.life, due) {
            found.at(first, || "does not go back".to_owned());
        }
    }
}

/// At most one final response goes back that is no 2xx, and none behind a 2xx.
pub fn one_failure_goes_back(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in forwarded(ledger) {
        // What had no room was refused without a trace of it.
        let mut finals = served.known_finals();
        let Some(first) = finals.next() else { continue };
        let another = |step: &&Step| step.packet.is_failure() && step.packet.bytes != first.packet.bytes;
        if let Some(other) = finals.find(another) {
            found.at(other, || format!("behind {}", first.packet.message.title()));
        }
    }
}

/// The failure that went back, with those that had come on branches by then.
fn refused<'l, 't>(
    ledger: &'l Ledger<'t>,
    served: &'l Served<'t>,
) -> Option<(&'t Step, impl Iterator<Item = &'t Step> + Clone + use<'l, 't>)> {
    let last = served.finals().next().filter(|last| last.packet.is_failure())?;
    // What comes when its branch has long been given up is nobody's.
    let came = ledger
        .children(served)
        .filter_map(|child| child.first_final().filter(|step| !was_given_up(child, step)))
        .filter(move |step| step.at <= last.at && step.packet.is_failure());
    Some((last, came))
}

/// A failure of the lowest class of all goes back. A 3xx whose contacts were tried is none.
pub fn the_best_failure_goes_back(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in forwarded(ledger) {
        let Some((last, came)) = refused(ledger, served) else {
            continue;
        };
        let class = |step: &Step| step.packet.status.unwrap_or(0) / 100;
        let recurses = served
            .dialled(ledger.terms)
            .zip(ledger.terms.exchange)
            .and_then(|(dialled, exchange)| exchange.rule(dialled).copied())
            .is_some_and(|rule| rule.recurse);
        let best = came
            .filter(|step| !(recurses && class(step) == 3))
            // RFC 5626 §7: for it the next flow was tried, and what that says counts.
            .filter(|step| step.packet.status != Some(430))
            .map(class)
            .min();
        let is_own = last.packet.id.is_none();
        if best.is_some_and(|best| best < class(last)) && class(last) != 6 {
            found.at(last, || format!("where {best:?}xx had come (own: {is_own})"));
        }
    }
}

/// Whoever speaks for all devices of a user is heard first.
pub fn a_6xx_is_the_best(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in forwarded(ledger) {
        let Some((last, mut came)) = refused(ledger, served) else {
            continue;
        };
        let six = came.find(|step| step.packet.status >= Some(600));
        if let Some(six) = six
            && last.packet.status < Some(600)
        {
            found.at(last, || format!("where {} had come", six.packet.message.title()));
        }
    }
}

/// A 503 says that one server can't serve anything, which is nothing to say of those before it.
pub fn a_503_stays_here(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.responses_sent() {
        let is_stateful = ledger
            .served_by(life, &step.packet)
            .is_some_and(|served| served.is_forwarded());
        if is_stateful && step.packet.status == Some(503) && step.packet.id.is_some() {
            found.at(step, || "of somebody else".to_owned());
        }
    }
}

/// A challenge goes back with those of all other branches.
pub fn challenges_go_back_together(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in forwarded(ledger) {
        let Some((last, came)) = refused(ledger, served) else {
            continue;
        };
        if !matches!(last.packet.status, Some(401 | 407)) {
            continue;
        }
        for step in came.filter(|step| matches!(step.packet.status, Some(401 | 407))) {
            for name in ["WWW-Authenticate", "Proxy-Authenticate"] {
                let all = last.packet.message.lines(name);
                if let Some(line) =
                    (step.packet.message.lines(name).into_iter()).find(|line| !all.contains(line))
                {
                    found.at(last, || format!("without {line:?} of {}", step.peer));
                }
            }
        }
    }
}

/// A 2xx or 6xx on one branch: every other that rings is cancelled, and one that does not yet as soon as it does.
pub fn the_end_cancels_other_branches(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    cancelled_after(ledger, found, |step| step.packet.status.is_some());
}

/// The caller's CANCEL goes to every branch that rings, and to one that does not yet as soon as it does.
pub fn a_cancel_reaches_every_branch(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    cancelled_after(ledger, found, |step| step.packet.status.is_none());
}

fn cancelled_after(ledger: &Ledger<'_>, found: &mut Found<'_>, wanted: impl Fn(&Step) -> bool) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in invites(ledger) {
        let Some(end) = end_of_search(ledger, served).filter(|end| wanted(end)) else {
            continue;
        };
        // Answered before: there was nothing left to cancel.
        if served.finals().next().is_some_and(|last| last.at < end.at) {
            continue;
        }
        for child in ledger.children(served) {
            let Some(rings) = child.answers.first().filter(|step| !step.packet.is_final()) else {
                continue;
            };
            let from = rings.at.max(end.at);
            let due = from + SLACK;
            let is_over = child.first_final().is_some_and(|last| last.at <= due);
            let is_cancelled = child.cancels.first().is_some_and(|cancel| cancel.at <= due);
            if !is_over
                && !is_cancelled
                && !was_given_up(child, rings)
                && ledger.has_lived_to(served.life, due)
            {
                found.at(child.first(), || {
                    format!("not cancelled after {}", end.packet.message.title())
                });
            }
        }
    }
}

/// The CANCEL of a request that is being forwarded is answered by the proxy itself.
pub fn a_cancel_is_answered_at_once(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in invites(ledger) {
        let Some(begun) = served.begun() else { continue };
        for cancel in served.cancels.iter().filter(|cancel| cancel.at >= begun) {
            let due = cancel.at + SLACK;
            let is_forgotten = served.finals().next().is_some_and(|last| cancel.at >= last.at);
            let is_taken = ledger.was_taken(served.life, cancel);
            if !is_taken && !is_forgotten && ledger.has_lived_to(served.life, due) {
                found.at(cancel, || "not answered with 200".to_owned());
            }
        }
    }
}

/// A branch that rings for more than three minutes without another word is cancelled.
pub fn timer_c_cancels_a_branch(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in invites(ledger) {
        for child in ledger.children(served) {
            let Some(rings) = child.answers.iter().rfind(|step| !step.packet.is_final()) else {
                continue;
            };
            let due = rings.at + TIMER_C_DUE;
            let is_over = child.first_final().is_some_and(|last| last.at <= due);
            let is_cancelled = child.cancels.first().is_some_and(|cancel| cancel.at <= due);
            if !is_over
                && !is_cancelled
                && !was_given_up(child, rings)
                && ledger.has_lived_to(served.life, due)
            {
                found.at(child.first(), || "rings for ever".to_owned());
            }
        }
    }
}

/// A CANCEL on a branch follows from one of the caller's, a 2xx or 6xx elsewhere, the end of its turn, or Timer C.
pub fn a_branch_is_cancelled_for_a_reason(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in invites(ledger) {
        let end = end_of_search(ledger, served);
        for child in ledger.children(served) {
            let Some(cancel) = child.cancels.first() else {
                continue;
            };
            let rings = child
                .answers
                .iter()
                .rfind(|step| !step.packet.is_final() && step.at <= cancel.at);
            let is_ended = end.is_some_and(|end| end.at <= cancel.at);
            let is_timer_c = rings.is_some_and(|rings| cancel.at.since(rings.at) >= TIMER_C);
            if !is_ended && !is_timer_c && !is_turn_over(ledger, served, child, cancel.at) {
                found.at(cancel, || "nothing asks for it".to_owned());
            }
        }
    }
}

/// Whether a branch has rung for as long as its rule has it, by then.
pub fn is_turn_over(ledger: &Ledger<'_>, served: &Served<'_>, child: &Asked<'_>, at: Instant) -> bool {
    let Some(dialled) = served.dialled(ledger.terms) else {
        return false;
    };
    let Some((rule, exchange)) =
        (ledger.terms.exchange.as_ref()).and_then(|exchange| Some((exchange.rule(dialled)?, exchange)))
    else {
        return false;
    };
    let ring = Duration::from_secs(u64::from(rule.ring_s));
    let is_trunk = dialled == Dialled::Trunk;
    let turn = if is_trunk {
        ring.min(exchange.answer_timeout)
    } else {
        ring
    };
    // RFC 3261 §18.1.1: what could not be sent over TCP goes out over UDP, in the same turn.
    let place = |other: &Asked<'_>| {
        let first = other.first();
        // The flows of one device have one turn: RFC 5626 §7.
        let uri = first.packet.message.uri().unwrap_or_default();
        match uri.split_once(";flow=") {
            Some((device, _)) => (device.replace(";transport=tcp", ""), None),
            None => (uri.replace(";transport=tcp", ""), Some(first.peer.ip())),
        }
    };
    let is_by_name = names::is_by_name(ledger, served, child);
    let is_same = |other: &&Asked<'_>| {
        let ((uri, ip), (own_uri, own_ip)) = (place(other), place(child));
        // And so have the addresses of a name: RFC 3263 §4.3.
        uri == own_uri && (is_by_name || ip == own_ip)
    };
    let begun = (ledger.children(served))
        .filter(is_same)
        .map(|other| other.first().at)
        .min();
    begun.is_some_and(|begun| {
        // It runs while DNS is asked where the place is.
        let early = if is_by_name { names::LOOK_UP_MAX } else { EARLY };
        at.since(begun) + early >= turn
    })
}

/// A 408 to anything but INVITE comes too late for everybody.
pub fn no_timeout_is_said_to_other_requests(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.responses_sent() {
        let is_own = step.packet.status == Some(408) && step.packet.id.is_none();
        if is_own && step.packet.method != "INVITE" {
            found.at(step, || "to anything but INVITE".to_owned());
        }
    }
}

/// Without state nothing is said of one's own but that a request can't go on; no 100 above all.
pub fn stateless_means_silent(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.responses_sent() {
        let is_stateless = ledger
            .served_by(life, &step.packet)
            .is_some_and(|served| served.is_stateless);
        // A CANCEL may have come before its INVITE and once more behind it.
        let is_cancel = step.packet.method == "CANCEL";
        if is_stateless && !is_cancel && step.packet.id.is_none() && step.packet.status < Some(300) {
            found.at(step, || "said by a proxy without state".to_owned());
        }
    }
}
