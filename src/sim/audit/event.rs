//! Rules for subscriptions and registrations: RFC 6665, RFC 3261 §10.3.

use std::time::Duration;

use bench_harness::sip;

use super::super::packet::Packet;
use super::super::trace::{Step, What};
use super::ledger::{Asked, Ledger, Served};
use super::{Found, SLACK};

/// Each SUBSCRIBE that was accepted, with its 2xx. One that found no room, and was refused without a trace of it, may be
/// accepted when it comes again.
fn accepted<'l, 't>(ledger: &'l Ledger<'t>) -> impl Iterator<Item = (&'l Served<'t>, &'t Step)> {
    ledger
        .served
        .iter()
        .filter(|served| served.is("SUBSCRIBE"))
        .filter_map(|served| {
            let success = served.finals().find(|step| step.packet.is_success())?;
            Some((served, success))
        })
}

fn notifies<'l, 't>(ledger: &'l Ledger<'t>) -> impl Iterator<Item = &'l Asked<'t>> {
    ledger.asked.iter().filter(|asked| asked.is("NOTIFY"))
}

/// The SUBSCRIBE that began the dialog of a NOTIFY, with its 2xx: one Call-ID, and the notifier's tag.
fn subscription_of<'l, 't>(ledger: &'l Ledger<'t>, notify: &Asked<'t>) -> Option<(&'l Served<'t>, &'t Step)> {
    let packet = &notify.first().packet;
    accepted(ledger).find(|(served, success)| {
        served.life == notify.life
            && success.packet.call_id == packet.call_id
            && success.packet.to_tag == packet.from_tag
    })
}

fn seconds(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// The Subscription-State of a NOTIFY: its word and how long it has left.
fn state(packet: &Packet) -> (&str, Option<u64>) {
    let value = packet.message.text("Subscription-State");
    let word = value.split(';').next().unwrap_or_default().trim();
    (word, sip::param(value, "expires").and_then(seconds))
}

/// A NOTIFY follows the 2xx to a SUBSCRIBE at once, also to one that only asks (Expires: 0).
pub fn subscription_has_a_notify_at_once(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for (served, success) in accepted(ledger) {
        let has_notify = notifies(ledger).any(|notify| {
            let first = notify.first();
            let is_soon = first.at >= served.first().at && first.at <= success.at + SLACK;
            first.packet.call_id == success.packet.call_id && is_soon
        });
        if !has_notify && ledger.has_lived_to(served.life, success.at + SLACK) {
            found.at(success, || "no NOTIFY follows".to_owned());
        }
    }
}

pub fn notify_comes_after_the_success(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, success) in accepted(ledger) {
        let early = ledger
            .of_call(served.life, &success.packet.call_id)
            .take_while(|step| !std::ptr::eq(*step, success))
            .find(|step| step.what == What::Sent && step.packet.is_request("NOTIFY"));
        if let Some(early) = early {
            found.at(early, || "before the 2xx to its SUBSCRIBE".to_owned());
        }
    }
}

pub fn notify_says_the_state(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for notify in notifies(ledger) {
        let (word, left) = state(&notify.first().packet);
        let is_right = match word {
            "active" | "pending" => left.is_some(),
            "terminated" => true,
            _ => false,
        };
        if !is_right {
            found.at(notify.first(), || {
                format!(
                    "Subscription-State is {:?}",
                    notify.first().packet.message.text("Subscription-State")
                )
            });
        }
    }
}

/// The Event of a NOTIFY is that of the SUBSCRIBE, `id` and all.
pub fn notify_says_the_event(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for notify in notifies(ledger) {
        if let Some((served, _)) = subscription_of(ledger, notify) {
            let asked = served.first().packet.message.text("Event");
            let said = notify.first().packet.message.text("Event");
            if asked != said {
                found.at(notify.first(), || {
                    format!("Event is {said:?}, asked was {asked:?}")
                });
            }
        }
    }
}

/// Call-ID and tags are those of a subscription that was accepted.
pub fn notify_is_in_the_dialog_of_its_subscription(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for notify in notifies(ledger).filter(|notify| notify.first().packet.id.is_none()) {
        let is_right = subscription_of(ledger, notify)
            .is_some_and(|(served, _)| served.first().packet.from_tag == notify.first().packet.to_tag);
        if !is_right {
            found.at(notify.first(), || "in the dialog of no subscription".to_owned());
        }
    }
}

/// The 2xx says how long, which is never longer than was asked.
pub fn subscription_has_an_expiry(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, success) in accepted(ledger) {
        let asked = seconds(served.first().packet.message.text("Expires"));
        let granted = seconds(success.packet.message.text("Expires"));
        let is_right = granted.is_some_and(|granted| asked.is_none_or(|asked| granted <= asked));
        if !is_right {
            found.at(success, || format!("Expires is {granted:?}, asked was {asked:?}"));
        }
    }
}

/// A NOTIFY says no more time than is left of what the last 2xx in its dialog granted.
pub fn notify_has_no_more_time_than_was_granted(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for notify in notifies(ledger) {
        let first = notify.first();
        let ("active", Some(left)) = state(&first.packet) else {
            continue;
        };
        let last = accepted(ledger)
            .filter(|(served, success)| {
                served.life == notify.life
                    && success.packet.call_id == first.packet.call_id
                    && success.at <= first.at
            })
            .last();
        let Some((_, success)) = last else { continue };
        let granted = seconds(success.packet.message.text("Expires")).unwrap_or(0);
        let until = success.at + Duration::from_secs(granted);
        if first.at + Duration::from_secs(left) > until + SLACK {
            found.at(first, || {
                format!("says {left} s of the {granted} s that were granted")
            });
        }
    }
}

pub fn nothing_is_notified_after_the_end(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for notify in notifies(ledger) {
        let first = notify.first();
        if state(&first.packet).0 != "terminated" {
            continue;
        }
        let late = ledger
            .of_call(notify.life, &first.packet.call_id)
            .filter(|step| step.what == What::Sent && step.packet.is_request("NOTIFY"))
            .find(|step| step.packet.cseq > first.packet.cseq);
        if let Some(late) = late {
            found.at(late, || "after the NOTIFY that ended its subscription".to_owned());
        }
    }
}

/// A 2xx to REGISTER lists all bindings, each with the time that it has left.
pub fn registration_lists_its_contacts(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.served.iter().filter(|served| served.is("REGISTER")) {
        let Some(success) = served.finals().find(|step| step.packet.is_success()) else {
            continue;
        };
        let contacts = success.packet.message.elements("Contact");
        if let Some(bare) = contacts
            .iter()
            .find(|contact| sip::param(contact, "expires").is_none())
        {
            found.at(success, || format!("{bare:?} has no time"));
        }
        let request = &served.first().packet.message;
        let is_wanted = request.text("Expires") != "0";
        let own = sip::uri(request.text("Contact"));
        let is_listed = contacts.iter().any(|contact| sip::uri(contact) == own);
        // A repetition of an older REGISTER may come behind a newer one.
        if is_wanted && !is_listed && served.got.len() == 1 && ledger.terms.is_whole {
            found.at(success, || format!("{own} is not listed"));
        }
    }
}
