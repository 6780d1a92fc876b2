//! Another configuration while calls are up, transactions run and phones are registered: nothing ends by it, and what is new goes by it.

use std::time::Duration;

use crate::messages::*;
use crate::world::on_each_number_of_shards;

#[test]
fn a_call_goes_on_under_limits_that_would_not_let_it_begin() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        world.reconfigure(|cfg| {
            cfg.limits.calls_max = 0;
            cfg.limits.aors_max = 0;
            cfg.registrar.expires_max_s = 100;
            cfg.registrar.expires_default_s = 100;
        });
        let refused = invite("alice", ALICE, "sip:bob@one.att.net", "c2");
        world.udp(ALICE, &refused);
        let unavailable = world.next(ALICE);
        let unavailable = match unavailable.status() {
            Some(100) => world.next(ALICE),
            _ => unavailable,
        };
        assert_eq!(unavailable.status(), Some(503), "{}", unavailable.title());
        let mut ack = refused.clone().setting("CSeq", "33302 ACK");
        ack = ack.setting("To", unavailable.text("To"));
        let ack = ack.to_string().replacen("INVITE", "ACK", 1);
        world.udp_bytes(ALICE, ack.as_bytes());
        // Who is registered stays so, and a refresh gets the new time.
        world.udp(
            BOB,
            &register("bob", BOB, "reg-bob")
                .setting("CSeq", "2 REGISTER")
                .setting("Via", via(BOB, "again")),
        );
        let ok = world.response(BOB, 200);
        assert!(
            ok.text("Contact").contains(";expires=100"),
            "{}",
            ok.text("Contact")
        );
        world.reconfigure(|cfg| cfg.limits.calls_max = 1_000);
        world.udp(
            ALICE,
            &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
        );
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        let second = call(&mut world, "c3");
        world.udp(
            ALICE,
            &in_dialog("BYE", 33303, ALICE, &second.invite_a, &second.ok_a),
        );
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.advance(200_000);
        world.end();
    });
}

#[test]
fn timers_that_run_keep_their_time_and_new_ones_go_by_the_new() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    world.request(BOB, "BYE");
    world.reconfigure(|cfg| cfg.timers.t1 = Duration::from_secs(3));
    world.advance(499);
    world.silent();
    world.advance(2);
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    let second = call(&mut world, "c2");
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &second.invite_a, &second.ok_a),
    );
    world.request(BOB, "BYE");
    world.advance(2_990);
    world.silent();
    world.advance(20);
    let bye = world.request(BOB, "BYE");
    // Timer E would have come to T2 (RFC 4320 §4.1).
    world.response(ALICE, 100);
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    world.advance(400_000);
    world.end();
}

#[test]
fn a_shard_gives_old_configurations_up() {
    let mut world = with_bob(2);
    for t1_ms in 1..100 {
        world.reconfigure(|cfg| cfg.timers.t1 = Duration::from_millis(t1_ms));
    }
    assert_eq!(
        world.configs_in_use(),
        5,
        "the present one, and four for what began under them"
    );
    world.end();
}
