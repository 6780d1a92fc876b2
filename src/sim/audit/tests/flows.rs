//! The same for the rules about flows.

use bench_harness::sip;

use super::*;
use crate::sim::exchange::Service;
use crate::sim::trace::{Line, Step};

/// Seeds whose traces hold, between them, all that the breaches below need.
const SEEDS: std::ops::Range<u64> = 1..60;

pub fn uri(step: &Step) -> &str {
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

pub fn registers(step: &Step) -> bool {
    answers(step, "REGISTER", 200..201) && step.packet.message.elements("Require").contains(&"outbound")
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
    ("a_path_is_the_way_to_its_contact", |lines| {
        let is_by_path = |step: &Step| is_to_flow(step) && step.packet.message.has("Route");
        change(lines, is_by_path, |message| message.remove("Route"))
    }),
    ("the_path_is_returned", |lines| {
        let has_path = |step: &Step| registers(step) && step.packet.message.has("Path");
        change(lines, has_path, |message| message.remove("Path"))
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
    ("a_dialog_stays_on_its_flow", |lines| {
        let wants_flow = |step: &Step| {
            let contact = step.packet.message.get("Contact").map(sip::uri);
            contact.is_some_and(|uri| sip::param(uri, "ob").is_some())
        };
        let begins = |step: &Step| {
            let is_first_hop = step.packet.message.elements("Via").len() == 1;
            gets(step, "INVITE")
                && wants_flow(step)
                && is_first_hop
                && !step.packet.message.has("Record-Route")
        };
        // What the other side says by the route that was recorded.
        let is_by_route = |sent: &Step| {
            let came = lines.find(|step| gets(step, "BYE") && step.packet.id == sent.packet.id);
            came.is_some_and(|index| lines.step(index).packet.message.text("Route").contains('@'))
        };
        let Some((_, index)) = lines.find_both(begins, |first, then| {
            let is_toward = then.packet.to_tag == first.packet.from_tag;
            sends(then, "BYE")
                && then.packet.call_id == first.packet.call_id
                && is_toward
                && is_by_route(then)
        }) else {
            return false;
        };
        if let Line::Step(step) = &mut lines.0[index] {
            step.peer.set_port(5099);
        }
        true
    }),
    ("a_flow_is_acknowledged_by_require", |lines| {
        change(lines, registers, |message| message.set("Require", "nothing"))
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
