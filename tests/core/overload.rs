//! What a shard that gets more than it can do refuses at the door, and what never.

use std::time::Duration;

use bench_harness::sip::Message;
use ringway::metrics::DropReason;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

/// Full turns of datagrams that have waited for 30 ms, for a tenth of a second.
fn flood(world: &mut World, shards: usize) {
    world.age = Duration::from_millis(30);
    for _ in 0..50 {
        world.advance(2);
        for _ in 0..64 * shards {
            world.udp_bytes(ALICE, b"\r\n\r\n");
        }
    }
}

/// Calls until one is refused; gives the 503, with the INVITE that it answers.
fn first_refused(world: &mut World) -> (Message, Message) {
    for number in 0..1_000 {
        let invite = invite("alice", ALICE, "sip:bob@one.att.net", &format!("o{number}"));
        world.udp(ALICE, &invite);
        let response = world.next(ALICE);
        if response.status() != Some(100) {
            return (response, invite);
        }
        world.request(BOB, "INVITE");
    }
    panic!("all were admitted");
}

#[test]
fn a_new_call_is_refused_at_the_door_and_leaves_no_trace() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        flood(&mut world, shards);
        let (refused, invite) = first_refused(&mut world);
        let calls = world.calls();
        assert_eq!(refused.status(), Some(503));
        let seconds: u32 = refused.text("Retry-After").parse().expect("seconds");
        assert!((5..=10).contains(&seconds), "{seconds}");
        assert!(
            refused
                .text("To")
                .starts_with(&format!("{};tag=", invite.text("To")))
        );
        for name in ["Via", "From", "Call-ID", "CSeq"] {
            assert_eq!(refused.text(name), invite.text(name));
        }
        // The same again is refused again, and its ACK is expected.
        world.udp(ALICE, &invite);
        world.response(ALICE, 503);
        let ack = Message::request("ACK", "sip:bob@one.att.net")
            .with("Via", invite.text("Via"))
            .with("From", invite.text("From"))
            .with("To", refused.text("To"))
            .with("Call-ID", invite.text("Call-ID"))
            .with("CSeq", "33302 ACK")
            .with("Content-Length", 0);
        world.udp(ALICE, &ack);
        world.silent();
        assert_eq!(world.calls(), calls);
        assert_eq!(world.drops(DropReason::StrayAck), 0);
        let sum = |of: fn(&ringway::metrics::Metrics) -> u64| {
            world.shards.metrics.iter().map(|m| of(m)).sum::<u64>()
        };
        assert_eq!(
            sum(|m| m.overload_refused.iter().map(|count| count.get()).sum()),
            2
        );
        assert_eq!(sum(|m| m.overload_acks.get()), 1);
        world.end();
    });
}

#[test]
fn a_standing_call_goes_on_and_what_was_admitted_is_absorbed() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "standing");
    flood(&mut world, 1);
    let (_, _) = first_refused(&mut world);
    // The first of the flood was admitted: it comes again and is no new call.
    let calls = world.calls();
    calls_bob(&mut world, "o0");
    assert_eq!(world.calls(), calls);
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    world.request(BOB, "BYE");
    world.end();
}

#[test]
fn a_register_gets_in_where_calls_do_not_and_an_emergency_call_is_not_refused() {
    let mut world = with_bob(1);
    flood(&mut world, 1);
    let (refused, _) = first_refused(&mut world);
    assert_eq!(refused.status(), Some(503));
    world.udp(BOB, &register("bob", BOB, "again"));
    world.response(BOB, 200);
    world.udp(ALICE, &invite("alice", ALICE, "urn:service:sos", "help"));
    // Nobody here takes them, but that is another answer.
    assert_ne!(world.next(ALICE).status(), Some(503));
    world.end();
}

#[test]
fn what_is_older_than_t1_is_dropped_since_it_comes_again() {
    let mut world = with_bob(1);
    flood(&mut world, 1);
    world.age = Duration::from_millis(600);
    world.udp(ALICE, &invite("alice", ALICE, "sip:bob@one.att.net", "old"));
    world.silent();
    assert_eq!(world.drops(DropReason::OverloadStale), 1);
    world.end();
}

#[test]
fn over_tcp_every_refusal_is_answered() {
    let mut world = with_bob(1);
    flood(&mut world, 1);
    _ = first_refused(&mut world);
    for number in 0..100 {
        let invite = invite("alice", ALICE, "sip:bob@one.att.net", &format!("t{number}"));
        world.tcp(ALICE, &invite);
        world.response(ALICE, 503);
    }
    assert_eq!(world.drops(DropReason::Overload), 0);
    world.end();
}

#[test]
fn when_the_load_has_gone_calls_get_in_again() {
    let mut world = with_bob(1);
    flood(&mut world, 1);
    _ = first_refused(&mut world);
    world.age = Duration::ZERO;
    for _ in 0..30 {
        world.advance(20);
        world.udp_bytes(ALICE, b"\r\n\r\n");
    }
    for number in 0..200 {
        world.udp(
            ALICE,
            &invite("alice", ALICE, "sip:bob@one.att.net", &format!("l{number}")),
        );
        world.response(ALICE, 100);
        world.request(BOB, "INVITE");
    }
    world.end();
}

/// Who asks for the load of the server: RFC 7339 §4.1.
fn asking(invite: Message) -> Message {
    let via = format!("{};oc;oc-algo=\"loss,A\"", invite.text("Via"));
    invite.setting("Via", via)
}

/// What an answer says: `oc`, `oc-validity`, `oc-seq`.
fn told(answer: &Message) -> (u32, u32, f64) {
    let via = answer.top_via().to_owned();
    assert!(via.contains(";oc-algo=\"loss\";"), "{via}");
    let value = |name: &str| {
        let start = via.find(name).unwrap_or_else(|| panic!("{name}: {via}")) + name.len();
        let rest = &via[start..];
        rest[..rest.find(';').unwrap_or(rest.len())].to_owned()
    };
    let number = |name: &str| value(name).parse().expect("a number");
    let seq = value(";oc-seq=").parse().expect("a number with a fraction");
    (number(";oc="), number(";oc-validity="), seq)
}

#[test]
fn who_asks_is_told_how_much_less_to_send_and_nobody_else() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.advance(1_000);
        let silent = invite("alice", ALICE, "sip:bob@one.att.net", "silent");
        world.udp(ALICE, &silent);
        assert_eq!(world.response(ALICE, 100).text("Via"), silent.text("Via"));
        world.request(BOB, "INVITE");
        let calm = asking(invite("alice", ALICE, "sip:bob@one.att.net", "calm"));
        world.udp(ALICE, &calm);
        let trying = world.response(ALICE, 100);
        assert_eq!((told(&trying).0, told(&trying).1), (0, 0));
        // What a phone answers goes back with it as well.
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &answer(&there, 180, "Ringing", "b", BOB));
        assert_eq!(told(&world.response(ALICE, 180)).0, 0);
        // An algorithm that is not ours is not answered.
        let rate = invite("alice", ALICE, "sip:bob@one.att.net", "rate");
        let via = format!("{};oc;oc-algo=\"rate\"", rate.text("Via"));
        let rate = rate.setting("Via", via);
        world.udp(ALICE, &rate);
        assert_eq!(world.response(ALICE, 100).text("Via"), rate.text("Via"));
        world.request(BOB, "INVITE");
        // Overload: the door refuses, and those who ask are told.
        flood(&mut world, shards);
        let mut last = told(&trying);
        for round in 0..3 {
            for number in 0..200 * shards {
                let name = format!("r{round}-{number}");
                world.udp(
                    ALICE,
                    &asking(invite("alice", ALICE, "sip:bob@one.att.net", &name)),
                );
            }
            world.advance(210);
            flood(&mut world, shards);
            world.forget_waiting();
        }
        let late = asking(invite("alice", ALICE, "sip:bob@one.att.net", "late"));
        world.udp(ALICE, &late);
        let refused = world.next(ALICE);
        let now = told(&refused);
        assert!(
            now.0 > 0 && now.0 <= 95 && now.1 == 500 && now.2 > last.2,
            "{now:?} after {last:?}"
        );
        last = now;
        // The load has gone.
        world.age = Duration::ZERO;
        world.advance(64_000);
        world.forget_waiting();
        let calm = asking(invite("alice", ALICE, "sip:bob@one.att.net", "again"));
        world.udp(ALICE, &calm);
        let again = told(&world.response(ALICE, 100));
        assert!(
            again.0 == 0 && again.1 == 0 && again.2 > last.2,
            "{again:?} after {last:?}"
        );
        world.forget_waiting();
        world.end();
    });
}

#[test]
fn where_it_is_switched_off_nobody_is_told() {
    let mut world = World::with(1, |cfg| cfg.overload.feedback = false);
    let asked = asking(invite("alice", ALICE, "sip:nobody@one.att.net", "off"));
    world.udp(ALICE, &asked);
    assert_eq!(world.response(ALICE, 100).text("Via"), asked.text("Via"));
    assert_eq!(world.response(ALICE, 404).text("Via"), asked.text("Via"));
    world.end();
}
