//! The same for the rules about flows and GRUUs.

use bench_harness::sip::{self, Message, Start};

use super::*;
use crate::sim::exchange::Service;
use crate::sim::trace::{Line, Step};

/// Seeds whose traces hold, between them, all that the breaches below need.
const SEEDS: std::ops::Range<u64> = 1..60;

fn uri(step: &Step) -> &str {
    step.packet.message.uri().unwrap_or_default()
}

/// An INVITE to a flow.
fn is_to_flow(step: &Step) -> bool {
    sends(step, "INVITE") && uri(step).contains(";flow=")
}

/// An INVITE to one flow of a device, and then to the other.
fn both_flows(lines: &Lines) -> Option<(usize, usize)> {
    let parent = |step: &Step| Some(step.packet.message.elements("Via").get(1)?.to_string());
    let device = |step: &Step| uri(step).split(';').next().unwrap_or_default().to_owned();
    lines.find_both(is_to_flow, |first, then| {
        is_to_flow(then)
            && parent(first) == parent(then)
            && device(first) == device(then)
            && uri(first) != uri(then)
    })
}

fn registers(step: &Step) -> bool {
    answers(step, "REGISTER", 200..201) && step.packet.message.elements("Require").contains(&"outbound")
}

fn set_uri(message: &mut Message, to: String) {
    if let Start::Request { uri, .. } = &mut message.start {
        *uri = to;
    }
}

pub const BREACHES: &[(&str, Breach)] = &[
    ("a_flow_is_what_its_register_came_over", |lines| {
        let Some(index) = lines.find(is_to_flow) else {
            return false;
        };
        if let Line::Step(step) = &mut lines.0[index] {
            step.conn = Some(9_999);
        }
        true
    }),
    ("one_flow_of_a_device_at_a_time", |lines| {
        let Some((first, then)) = both_flows(lines) else {
            return false;
        };
        lines.again(then, first, 1);
        true
    }),
    ("another_flow_is_tried", |lines| {
        let Some((_, then)) = both_flows(lines) else {
            return false;
        };
        let branch = lines.step(then).packet.branch.clone();
        lines.remove(|step| step.packet.branch == branch);
        true
    }),
    ("a_flow_is_acknowledged_by_require", |lines| {
        change(lines, registers, |message| message.set("Require", "nothing"))
    }),
    ("an_instance_has_gruus", |lines| {
        change(lines, registers, |message| {
            set_param(message, "Contact", "pub-gruu", "not-gruu")
        })
    }),
    ("a_gruu_leads_to_its_device", |lines| {
        let is_for_device = |step: &Step| gets(step, "INVITE") && sip::param(uri(step), "gr").is_some();
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
];

#[test]
fn each_rule_for_flows_can_be_broken() {
    let mix = Mix {
        flows: Some(true),
        ..plain(Service::Proxy)
    };
    break_each(BREACHES, mix, SEEDS);
}
