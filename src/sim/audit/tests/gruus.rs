//! The same for the rules about GRUUs.

use bench_harness::sip::{self, Header, Message, Start};

use super::flows::{registers, uri};
use super::*;
use crate::sim::exchange::Service;
use crate::sim::trace::{Line, Step};

/// Seeds whose traces hold, between them, all that the breaches below need.
const SEEDS: std::ops::Range<u64> = 1..60;

fn set_uri(message: &mut Message, to: String) {
    if let Start::Request { uri, .. } = &mut message.start {
        *uri = to;
    }
}

/// The temporary GRUU that a REGISTER was given.
fn temporary(step: &Step) -> Option<&str> {
    Some(sip::param(step.packet.message.get("Contact")?, "temp-gruu")?.trim_matches('"'))
}

/// A temporary GRUU that was given over UDP, and an INVITE to it soon behind that.
fn called_soon(lines: &Lines) -> Option<(usize, usize)> {
    let is_given = |step: &Step| registers(step) && is_udp(step) && temporary(step).is_some();
    lines.find_both(is_given, |given, call| {
        let is_soon = call.at.since(given.at) < Duration::from_secs(20);
        let is_later = call.at.since(given.at) > Duration::from_secs(3);
        gets(call, "INVITE") && temporary(given) == Some(uri(call)) && is_soon && is_later
    })
}

pub const BREACHES: &[(&str, Breach)] = &[
    ("an_instance_has_gruus", |lines| {
        change(lines, registers, |message| {
            set_param(message, "Contact", "pub-gruu", "not-gruu")
        })
    }),
    ("a_gruu_leads_to_its_device", |lines| {
        let is_for_device = |step: &Step| gets(step, "INVITE") && uri(step).contains(";gr=");
        let is_child = |came: &Step, sent: &Step| {
            let below = sent.packet.message.elements("Via");
            sends(sent, "INVITE") && below.get(1).is_some_and(|via| via.contains(&came.packet.branch))
        };
        let Some((came, _)) = lines.find_both(is_for_device, is_child) else {
            return false;
        };
        let other = uri(lines.step(came)).replace("urn:uuid:", "urn:uuid:other-");
        lines.edit(came, |message| set_uri(message, other));
        true
    }),
    ("each_register_gives_another_temporary_gruu", |lines| {
        let Some((first, then)) = lines.find_both(registers, |first, then| {
            registers(then) && temporary(then).is_some() && temporary(first) != temporary(then)
        }) else {
            return false;
        };
        let (Some(before), Some(own)) = (temporary(lines.step(first)), temporary(lines.step(then))) else {
            return false;
        };
        let (before, own) = (before.to_owned(), own.to_owned());
        lines.edit(then, |message| set_in_all(message, &own, &before));
        true
    }),
    ("a_temporary_gruu_lasts_as_long_as_its_registration", |lines| {
        let Some((_, call)) = called_soon(lines) else {
            return false;
        };
        let branch = lines.step(call).packet.branch.clone();
        let is_end = |step: &Step| answers(step, "INVITE", 200..700) && step.packet.branch == branch;
        change(lines, is_end, |message| {
            set_status(message, 404);
            message.remove("X-Id");
        })
    }),
    ("a_temporary_gruu_ends_with_its_registration", |lines| {
        let Some((_, call)) = called_soon(lines) else {
            return false;
        };
        let branch = lines.step(call).packet.branch.clone();
        let is_rung = |step: &Step| {
            let below = step.packet.message.elements("Via");
            sends(step, "INVITE") && below.get(1).is_some_and(|via| via.contains(&branch))
        };
        if lines.find(is_rung).is_none() {
            return false;
        }
        // All that were granted are over when they have hardly begun.
        for index in 0..lines.0.len() {
            if matches!(&lines.0[index], Line::Step(step) if registers(step)) {
                lines.edit(index, |message| set_in_all(message, "expires=", "expires=1;was="));
            }
        }
        true
    }),
];

/// Changes a text in every Contact.
fn set_in_all(message: &mut Message, from: &str, to: &str) {
    for header in message.headers.iter_mut().filter(|header| header.is("Contact")) {
        *header = Header::new("Contact", header.value().replace(from, to));
    }
}

#[test]
fn each_rule_for_gruus_can_be_broken() {
    let mix = Mix {
        flows: Some(true),
        ..plain(Service::Proxy)
    };
    break_each(BREACHES, mix, SEEDS);
}
