//! Phones that are reached over the flows which they registered, through the proxy: RFC 5626 §7.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{CAROL, ack_of, ask, ends_empty, reply, world};

const REGISTERED: &str = r#"
    [[route]]
    method = ["REGISTER"]
    action = "ims"
    [[route]]
    action = "proxy"
    to = ["registered"]
    fork = "parallel"
"#;

/// Two flows of one phone, the one from BOB_TABLET the younger, and another phone of the same subscriber.
fn with_flows(shards: usize) -> World {
    let mut world = world(shards, REGISTERED);
    for (at, reg_id) in [(BOB, 1), (BOB_TABLET, 2)] {
        world.tcp(at, &register_flow("tcp", at, reg_id, &format!("r{reg_id}")));
        assert_eq!(world.response(at, 200).text("Require"), "outbound");
        world.advance(1_000);
    }
    world.udp(CAROL, &register("bob", CAROL, "r3"));
    world.response(CAROL, 200);
    world
}

fn calls_bob(world: &mut World) -> Message {
    let invite = ask("INVITE", "sip:bob@one.att.net", "1").with("Contact", format!("<sip:alice@{ALICE}>"));
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

#[test]
fn one_flow_of_a_device_is_tried_at_a_time() {
    on_each_number_of_shards(|shards| {
        let mut world = with_flows(shards);
        let invite = calls_bob(&mut world);
        let there = world.request(BOB_TABLET, "INVITE");
        assert_eq!(there.uri(), Some("sip:bob@192.0.2.5:5099;transport=tcp;ob"));
        let also = world.request(CAROL, "INVITE");
        world.silent();
        world.tcp(BOB_TABLET, &reply(&there, 430, "x", BOB));
        world.request(BOB_TABLET, "ACK");
        let there = world.request(BOB, "INVITE");
        world.tcp(BOB, &reply(&there, 486, "b", BOB));
        world.request(BOB, "ACK");
        world.udp(CAROL, &reply(&also, 404, "c", CAROL));
        world.request(CAROL, "ACK");
        let failure = world.response(ALICE, 486);
        world.udp(ALICE, &ack_of(&invite, &failure));
        ends_empty(world);
    });
}

#[test]
fn a_connection_that_is_gone_is_a_flow_that_has_failed() {
    on_each_number_of_shards(|shards| {
        let mut world = with_flows(shards);
        world.close(BOB_TABLET);
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net", "2"));
        let also = world.request(CAROL, "MESSAGE");
        let there = world.request(BOB, "MESSAGE");
        world.udp(CAROL, &reply(&also, 404, "c", CAROL));
        world.tcp(BOB, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        ends_empty(world);
    });
}

#[test]
fn without_a_flow_left_the_device_is_unavailable() {
    let mut world = with_flows(1);
    world.close(BOB_TABLET);
    let invite = calls_bob(&mut world);
    let also = world.request(CAROL, "INVITE");
    let there = world.request(BOB, "INVITE");
    world.udp(CAROL, &reply(&also, 408, "c", CAROL));
    world.request(CAROL, "ACK");
    world.tcp(BOB, &reply(&there, 430, "x", BOB));
    world.request(BOB, "ACK");
    let failure = world.response(ALICE, 480);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}
