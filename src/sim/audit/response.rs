//! Rules for each single response that the server sends: RFC 3261 §8.2.6, §12.1.1, §18.2.

use bench_harness::sip;

use super::super::passage;
use super::super::trace::Step;
use super::Found;
use super::ledger::{Ledger, Served, is_udp};

fn each(ledger: &Ledger<'_>, mut check: impl FnMut(&Served<'_>, &Step)) {
    for (life, step) in ledger.responses_sent() {
        if let Some(served) = ledger.served_by(life, &step.packet) {
            check(served, step);
        }
    }
}

pub fn response_was_asked_for(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.responses_sent() {
        let is_asked = ledger
            .served_by(life, &step.packet)
            .is_some_and(|served| served.first().at <= step.at);
        if !is_asked {
            found.at(step, || "answers no request".to_owned());
        }
    }
}

/// From, Call-ID, CSeq and all Vias are the request's; what §18.2.1 adds to the topmost Via stands behind it.
pub fn response_has_the_requests_headers(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    each(ledger, |served, step| {
        let (asked, said) = (&served.first().packet.message, &step.packet.message);
        for name in ["From", "Call-ID", "CSeq"] {
            if asked.get_all(name) != said.get_all(name) {
                found.at(step, || format!("{name} is not the request's"));
            }
        }
        let (before, after) = (asked.elements("Via"), said.elements("Via"));
        if !passage::are_completed(&before, &after) {
            found.at(step, || format!("Via was {before:?} and is {after:?}"));
        }
    });
}

/// In every response but 100.
pub fn to_has_a_tag(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.responses_sent() {
        if step.packet.status > Some(100) && step.packet.to_tag.is_empty() {
            found.at(step, || "To without a tag".to_owned());
        }
    }
}

/// The To of a request that has a tag is the response's; else the tag alone is added.
pub fn to_is_kept(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    each(ledger, |served, step| {
        let asked = &served.first().packet;
        let (before, after) = (asked.message.text("To"), step.packet.message.text("To"));
        let is_kept = match asked.to_tag.as_str() {
            "" => {
                before == after
                    || after
                        .strip_prefix(before)
                        .is_some_and(|rest| rest.starts_with(";tag="))
            }
            _ => before == after,
        };
        if !is_kept {
            found.at(step, || format!("To was {before:?} and is {after:?}"));
        }
    });
}

pub fn ack_is_never_answered(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.responses_sent() {
        if step.packet.method == "ACK" {
            found.at(step, || "an ACK has no response".to_owned());
        }
    }
}

/// Over UDP to the source address: its port if `rport` asks for that, else that of the Via. Over TCP on the connection that
/// the request came on, while that lives.
pub fn response_goes_back_where_it_came_from(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    each(ledger, |served, step| {
        let is_right = served.got.iter().any(|got| match (is_udp(got), is_udp(step)) {
            (true, true) => got.peer == step.peer,
            // Another connection to the same phone: whether the first still lived is not in the trace.
            (false, false) => got.conn == step.conn || got.peer.ip() == step.peer.ip(),
            (true, false) | (false, true) => false,
        });
        if !is_right {
            found.at(step, || format!("the request came from {}", served.first().peer));
        }
    });
}

/// Whoever asks for it learns its source address and port.
pub fn rport_is_filled_in(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    each(ledger, |served, step| {
        let asked = served.first().packet.message.top_via();
        if sip::param(asked, "rport") != Some("") {
            return;
        }
        let via = step.packet.message.top_via();
        let rport = sip::param(via, "rport").and_then(|port| port.parse().ok());
        let is_right = served.got.iter().any(|got| {
            rport == Some(got.peer.port()) && sip::param(via, "received") == Some(&*got.peer.ip().to_string())
        });
        if !is_right {
            found.at(step, || format!("Via is {via:?}"));
        }
    });
}

/// A response that makes a dialog carries the Record-Route of its request.
pub fn record_route_is_returned(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    each(ledger, |served, step| {
        let asked = &served.first().packet;
        let makes_dialog = asked.is_request("INVITE")
            && asked.to_tag.is_empty()
            && step
                .packet
                .status
                .is_some_and(|status| (101..300).contains(&status));
        let (before, after) = (
            asked.message.elements("Record-Route"),
            step.packet.message.elements("Record-Route"),
        );
        // A proxy's own stand above those that came.
        let is_returned = if served.is_forwarded() {
            after.ends_with(&before)
        } else {
            before == after
        };
        if makes_dialog && !is_returned {
            found.at(step, || format!("Record-Route was {before:?} and is {after:?}"));
        }
    });
}

/// A 2xx that makes a dialog says where it is reached.
pub fn success_says_the_contact(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.responses_sent() {
        let makes_dialog = matches!(step.packet.method.as_str(), "INVITE" | "SUBSCRIBE");
        if makes_dialog && step.packet.is_success() && step.packet.message.elements("Contact").len() != 1 {
            found.at(step, || "not one Contact".to_owned());
        }
    }
}

/// 405 lists what is allowed, 420 what is not supported, 423 the shortest time.
pub fn refusal_says_what_would_do(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (_, step) in ledger.responses_sent() {
        let needed = match step.packet.status {
            Some(405) => "Allow",
            Some(420) => "Unsupported",
            Some(423) => "Min-Expires",
            _ => continue,
        };
        if !step.packet.message.has(needed) {
            found.at(step, || format!("without {needed}"));
        }
    }
}
