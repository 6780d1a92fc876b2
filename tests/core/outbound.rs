//! Phones that are reached over the flows which they registered: RFC 5626 §6 and §7, in the phone service.

use ringway::config::dns::{HostEntry, HostRecord};

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

const CONTACT: &str = "sip:bob@192.0.2.5:5099;transport=tcp;ob";
const CAROL: &str = "127.0.0.5:5065";
const EDGE: &str = "127.0.0.6:5066";
const OTHER_EDGE: &str = "127.0.0.7:5067";

/// Two flows of one phone: the one from BOB_TABLET is younger, and so tried first.
fn with_two_flows(shards: usize) -> World {
    let mut world = World::with(shards, |cfg| cfg.registrar.flow_timer_s = 120);
    for (at, reg_id) in [(BOB, 1), (BOB_TABLET, 2)] {
        world.tcp(at, &register_flow("tcp", at, reg_id, &format!("r{reg_id}")));
        let ok = world.response(at, 200);
        assert_eq!((ok.text("Require"), ok.text("Flow-Timer")), ("outbound", "120"));
        world.advance(1_000);
    }
    world
}

#[test]
fn a_call_and_all_its_requests_go_over_the_flow() {
    on_each_number_of_shards(|shards| {
        let mut world = with_two_flows(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(BOB_TABLET, "INVITE");
        assert_eq!(invite_b.uri(), Some(CONTACT));
        world.silent();
        let ok = answer(&invite_b, 200, "OK", "b1", BOB).setting("Contact", format!("<{CONTACT}>"));
        world.tcp(BOB_TABLET, &ok);
        let ok_a = world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
        world.request(BOB_TABLET, "ACK");
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok_a));
        let bye = world.request(BOB_TABLET, "BYE");
        world.tcp(BOB_TABLET, &answer(&bye, 200, "OK", "b1", BOB));
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}

#[test]
fn when_a_flow_is_gone_the_next_one_of_the_device_is_rung() {
    on_each_number_of_shards(|shards| {
        let mut world = with_two_flows(shards);
        world.close(BOB_TABLET);
        calls_bob(&mut world, "c1");
        let invite_b = world.request(BOB, "INVITE");
        world.tcp(BOB, &answer(&invite_b, 486, "Busy Here", "b1", BOB));
        world.request(BOB, "ACK");
        world.response(ALICE, 486);
        world.close(BOB);
        calls_bob(&mut world, "c2");
        world.response(ALICE, 480);
        world.end_after_all_timers();
    });
}

#[test]
fn when_a_connection_ends_its_flows_are_no_more() {
    on_each_number_of_shards(|shards| {
        let mut world = with_two_flows(shards);
        let count = |world: &mut World, call_id: &str| {
            world.udp(ALICE, &register("bob", ALICE, call_id).removing("Contact"));
            world.response(ALICE, 200).get_all("Contact").len()
        };
        assert_eq!(count(&mut world, "q1"), 2);
        world.close(BOB_TABLET);
        assert_eq!(count(&mut world, "q2"), 1);
        // What is refreshed over another connection lies there from then on.
        let again = register_flow("tcp", BOB_TABLET, 1, "r9").setting("CSeq", "2 REGISTER");
        world.tcp(BOB_TABLET, &again);
        world.response(BOB_TABLET, 200);
        world.close(BOB);
        assert_eq!(count(&mut world, "q3"), 1);
        world.close(BOB_TABLET);
        assert_eq!(count(&mut world, "q4"), 0);
        calls_bob(&mut world, "c1");
        world.response(ALICE, 480);
        world.end_after_all_timers();
    });
}

#[test]
fn what_the_device_answers_is_its_answer_on_every_flow() {
    let mut world = with_two_flows(1);
    calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB_TABLET, "INVITE");
    world.tcp(BOB_TABLET, &answer(&invite_b, 603, "Decline", "b1", BOB));
    world.request(BOB_TABLET, "ACK");
    world.response(ALICE, 603);
    world.silent();
    world.end_after_all_timers();
}

#[test]
fn a_proxy_that_says_a_flow_has_failed_has_the_next_one_tried() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        for (edge, reg_id) in [(EDGE, 1), (OTHER_EDGE, 2)] {
            let path = format!("<sip:token{reg_id}@{edge};lr;ob>");
            let register = register_flow("udp", BOB, reg_id, &format!("r{reg_id}"));
            world.udp(edge, &forwarded(register, edge).inserting("Path", path));
            assert_eq!(world.response(edge, 200).text("Require"), "outbound");
            world.advance(1_000);
        }
        calls_bob(&mut world, "c1");
        let first = world.request(OTHER_EDGE, "INVITE");
        assert_eq!(first.text("Route"), format!("<sip:token2@{OTHER_EDGE};lr;ob>"));
        world.udp(OTHER_EDGE, &answer(&first, 430, "Flow Failed", "x", BOB));
        world.request(OTHER_EDGE, "ACK");
        let second = world.request(EDGE, "INVITE");
        assert_eq!(second.text("Route"), format!("<sip:token1@{EDGE};lr;ob>"));
        assert_eq!(second.body, first.body);
        world.udp(EDGE, &answer(&second, 430, "Flow Failed", "y", BOB));
        world.request(EDGE, "ACK");
        // §11.5: a phone never gets a 430.
        world.response(ALICE, 480);
        world.end_after_all_timers();
    });
}

#[test]
fn a_flow_that_a_proxy_keeps_outlives_the_connection_of_the_proxy() {
    on_each_number_of_shards(|shards| {
        let mut world = World::with(shards, |cfg| {
            cfg.hosts.push(HostEntry {
                name: "edge.example".to_owned(),
                records: vec![HostRecord::Address([127, 0, 0, 7].into())],
            });
        });
        // One edge that says where it is reached by an address, one by a name.
        for (edge, host, reg_id) in [(EDGE, EDGE, 1), (OTHER_EDGE, "edge.example:5067", 2)] {
            let register = register_flow("tcp", BOB, reg_id, &format!("r{reg_id}"));
            let path = format!("<sip:token{reg_id}@{host};transport=tcp;lr;ob>");
            world.tcp(edge, &forwarded(register, edge).inserting("Path", path));
            assert_eq!(world.response(edge, 200).text("Require"), "outbound");
            world.advance(1_000);
            world.close(edge);
        }
        world.udp(ALICE, &register("bob", ALICE, "q1").removing("Contact"));
        assert_eq!(world.response(ALICE, 200).get_all("Contact").len(), 2);
        calls_bob(&mut world, "c1");
        let first = world.request(OTHER_EDGE, "INVITE");
        assert_eq!(
            first.text("Route"),
            "<sip:token2@edge.example:5067;transport=tcp;lr;ob>"
        );
        world.tcp(OTHER_EDGE, &answer(&first, 430, "Flow Failed", "x", BOB));
        world.request(OTHER_EDGE, "ACK");
        let second = world.request(EDGE, "INVITE");
        world.tcp(EDGE, &answer(&second, 486, "Busy Here", "y", BOB));
        world.request(EDGE, "ACK");
        world.response(ALICE, 486);
        world.end_after_all_timers();
    });
}

#[test]
fn each_of_several_flows_on_one_connection_ends_with_it() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        for reg_id in [1, 2] {
            world.tcp(BOB, &register_flow("tcp", BOB, reg_id, &format!("r{reg_id}")));
            world.response(BOB, 200);
        }
        // The second moves away; the first is where it was.
        let moved = register_flow("tcp", BOB_TABLET, 2, "r2").setting("CSeq", "2 REGISTER");
        world.tcp(BOB_TABLET, &moved);
        world.response(BOB_TABLET, 200);
        world.close(BOB);
        world.udp(ALICE, &register("bob", ALICE, "q1").removing("Contact"));
        assert_eq!(world.response(ALICE, 200).get_all("Contact").len(), 1);
        world.end_after_all_timers();
    });
}

#[test]
fn a_cancelled_call_tries_no_other_flow() {
    let mut world = with_two_flows(1);
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB_TABLET, "INVITE");
    world.tcp(BOB_TABLET, &answer(&invite_b, 100, "Trying", "", BOB));
    let cancel = cancel(&invite_a);
    world.udp(ALICE, &cancel);
    world.response(ALICE, 200);
    world.response(ALICE, 487);
    world.request(BOB_TABLET, "CANCEL");
    world.tcp(BOB_TABLET, &answer(&invite_b, 430, "Flow Failed", "x", BOB));
    world.request(BOB_TABLET, "ACK");
    world.silent();
    world.end_after_all_timers();
}

/// RFC 3261 §16.7 step 5: a 6xx says that nobody else is to be rung, by whatever flow.
#[test]
fn a_call_that_was_declined_tries_no_other_flow() {
    let mut world = with_two_flows(1);
    world.udp(CAROL, &register_device(CAROL, 1, "d1", 1));
    world.response(CAROL, 200);
    let invite_a = calls_bob(&mut world, "c1");
    let flow = world.request(BOB_TABLET, "INVITE");
    let other = world.request(CAROL, "INVITE");
    world.tcp(BOB_TABLET, &answer(&flow, 100, "Trying", "", BOB));
    world.udp(CAROL, &answer(&other, 603, "Decline", "b2", CAROL));
    world.request(CAROL, "ACK");
    world.request(BOB_TABLET, "CANCEL");
    world.tcp(BOB_TABLET, &answer(&flow, 430, "Flow Failed", "x", BOB));
    world.request(BOB_TABLET, "ACK");
    let declined = world.response(ALICE, 603);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &declined));
    world.silent();
    world.end_after_all_timers();
}

#[test]
fn a_flow_that_a_proxy_knows_nothing_of_is_refused() {
    let mut world = World::new(1);
    world.udp(EDGE, &forwarded(register_flow("udp", BOB, 1, "r1"), EDGE));
    let refused = world.response(EDGE, 439);
    assert_eq!(refused.reason(), Some("First Hop Lacks Outbound Support"));
    world.end();
}
