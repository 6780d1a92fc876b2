//! Requests of the phone service of which the network says that they have reached nobody: RFC 3261 §18.4, §8.1.3.1.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

#[test]
fn a_phone_that_is_not_there_keeps_nobody_waiting() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        calls_bob(&mut world, "c1");
        let there = world.request(BOB, "INVITE");
        world.undelivered(BOB, &there.to_bytes());
        world.response(ALICE, 480);
        world.end_after_all_timers();
    });
}

#[test]
fn of_two_phones_that_ring_the_other_goes_on() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
        world.response(BOB_TABLET, 200);
        calls_bob(&mut world, "c1");
        let (there, other) = (world.request(BOB, "INVITE"), world.request(BOB_TABLET, "INVITE"));
        world.undelivered(BOB, &there.to_bytes());
        world.silent();
        world.udp(BOB_TABLET, &answer(&other, 200, "OK", "b2", BOB_TABLET));
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}

#[test]
fn the_next_flow_of_a_phone_is_tried_at_once() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        for (at, reg_id) in [(BOB, 1), (BOB_TABLET, 2)] {
            world.udp(at, &register_flow("udp", at, reg_id, &format!("r{reg_id}")));
            world.response(at, 200);
            world.advance(1_000);
        }
        calls_bob(&mut world, "c1");
        let there = world.request(BOB_TABLET, "INVITE");
        world.silent();
        world.undelivered(BOB_TABLET, &there.to_bytes());
        let next = world.request(BOB, "INVITE");
        world.udp(BOB, &answer(&next, 200, "OK", "b1", BOB));
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}

#[test]
fn who_can_be_told_nothing_watches_no_more() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let subscribe = Message::request("SUBSCRIBE", "sip:bob@one.att.net")
            .with("Via", via(BOB, "s1"))
            .with("From", "<sip:bob@one.att.net>;tag=s1")
            .with("To", "<sip:bob@one.att.net>")
            .with("Call-ID", "s1")
            .with("CSeq", "1 SUBSCRIBE")
            .with("Contact", format!("<sip:bob@{BOB}>"))
            .with("Event", "reg")
            .with("Expires", 600)
            .with("Content-Length", 0);
        world.udp(BOB, &subscribe);
        world.response(BOB, 200);
        let notify = world.request(BOB, "NOTIFY");
        assert_eq!(world.shards.in_use().subscriptions, 1);
        world.undelivered(BOB, &notify.to_bytes());
        assert_eq!(world.shards.in_use().subscriptions, 0);
        world.end_after_all_timers();
    });
}
