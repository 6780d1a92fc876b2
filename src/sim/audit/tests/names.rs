//! The same for the rules about host names.

use std::time::Duration;

use bench_harness::sip;

use super::*;
use crate::domain::{Answer, Record};
use crate::sim::exchange::{Dialled, Service};
use crate::sim::trace::{Heard, Line, Step};

/// Seeds whose traces hold, between them, all that the breaches below need.
const SEEDS: std::ops::Range<u64> = 20..30;

fn is_by_name(step: &Step) -> bool {
    let uri = step.packet.message.uri().unwrap_or_default();
    sends(step, "INVITE")
        && step.packet.message.elements("Via").len() > 1
        && Dialled::uri(uri) == Some(Dialled::Named)
}

fn parent(step: &Step) -> Option<&str> {
    sip::param(step.packet.message.elements("Via").get(1)?, "branch")
}

/// An INVITE for a name that went to one target and then to another.
fn both_targets(lines: &Lines) -> Option<(usize, usize)> {
    lines.find_both(is_by_name, |first, then| {
        is_by_name(then)
            && parent(first) == parent(then)
            && first.packet.message.uri() == then.packet.message.uri()
            && first.peer != then.peer
            && first.transport == then.transport
    })
}

fn dns(lines: &mut Lines) -> impl Iterator<Item = &mut Heard> {
    lines.0.iter_mut().filter_map(|line| match line {
        Line::Dns(heard) => Some(&mut **heard),
        Line::Step(_) | Line::Note(..) | Line::Crash(_) => None,
    })
}

pub const BREACHES: &[(&str, Breach)] = &[
    ("a_name_leads_to_its_addresses", |lines| {
        let Some(index) = lines.find(is_by_name) else {
            return false;
        };
        if let Line::Step(step) = &mut lines.0[index] {
            step.peer = ([192, 0, 2, 1], 5060).into();
        }
        true
    }),
    ("targets_are_tried_in_order", |lines| {
        let Some((first, _)) = both_targets(lines) else {
            return false;
        };
        let peer = lines.step(first).peer.ip();
        let is_there = |record: &Record| matches!(record, Record::A(ip) if *ip == peer);
        let mut hosts = Vec::new();
        for heard in dns(lines) {
            if let Some(Answer::Records { records, .. }) = &heard.answer
                && records.iter().any(is_there)
            {
                hosts.push(heard.question.name);
            }
        }
        hosts.retain(|host| host.as_str().ends_with(".carrier.test"));
        hosts.dedup();
        if hosts.len() != 1 {
            return false;
        }
        let mut has_services = false;
        for heard in dns(lines) {
            if let Some(Answer::Records { records, .. }) = &mut heard.answer {
                for record in records {
                    if let Record::Srv(srv) = record {
                        let is_first = srv.target.is_some_and(|target| hosts.contains(&target));
                        srv.priority = if is_first { 9 } else { 1 };
                        has_services = true;
                    }
                }
            }
        }
        has_services
    }),
    ("the_next_target_is_tried", |lines| {
        let Some((first, _)) = both_targets(lines) else {
            return false;
        };
        let first = lines.step(first).clone();
        // What DNS had told still held.
        for heard in dns(lines) {
            if let Some(Answer::Records { ttl_s, .. }) = &mut heard.answer {
                *ttl_s = 300;
            }
        }
        let upstream = parent(&first).unwrap_or_default().to_owned();
        let own = first.packet.branch.clone();
        let is_later = |step: &Step| {
            let is_branch = step.packet.message.elements("Via").len() > 1 && parent(step) == Some(&*upstream);
            is_branch && step.packet.branch != own
        };
        lines.remove(is_later);
        true
    }),
    ("a_question_is_asked_once", |lines| {
        let is_asked = |line: &Line| matches!(line, Line::Dns(heard) if heard.answer.is_none());
        let Some(index) = lines.0.iter().position(is_asked) else {
            return false;
        };
        let Line::Dns(heard) = &lines.0[index] else {
            return false;
        };
        let mut again = heard.clone();
        again.at = heard.at + Duration::from_millis(1);
        lines.0.insert(index + 1, Line::Dns(again));
        true
    }),
];

#[test]
fn each_rule_for_names_can_be_broken() {
    let mix = Mix {
        names: Some(true),
        ..plain(Service::Proxy)
    };
    break_each(BREACHES, mix, SEEDS);
}
