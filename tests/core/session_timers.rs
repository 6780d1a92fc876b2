//! Session timers (RFC 4028) across a call: what is granted, who refreshes, and how a call ends whose phones have vanished.

use bench_harness::sip::Message;
use ringway::port::Tell;
use ringway::record::EndReason;

use crate::messages::*;
use crate::world::World;

/// A call of ALICE's whose INVITE has `asked` and whose 200 has `granted` of header lines; the INVITE as BOB got it, and the
/// 200 as ALICE did.
fn call_with(world: &mut World, asked: &[(&str, &str)], granted: &[(&str, &str)]) -> Standing {
    let mut invite_a = invite("alice", ALICE, "sip:bob@one.att.net", "timed");
    for (name, value) in asked {
        invite_a = invite_a.with(name, value);
    }
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 100);
    let invite_b = world.request(BOB, "INVITE");
    let mut ok_b = answer(&invite_b, 200, "OK", "b1", BOB);
    for (name, value) in granted {
        ok_b = ok_b.with(name, value);
    }
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    world.request(BOB, "ACK");
    // No retransmission can come any more.
    world.advance(40_000);
    world.silent();
    Standing {
        invite_a,
        invite_b,
        ok_a,
        ok_b,
    }
}

fn ends_on_both_legs(mut world: World) {
    for phone in [ALICE, BOB] {
        let bye = world.request(phone, "BYE");
        world.udp(phone, &answer(&bye, 200, "OK", "", phone));
    }
    assert_eq!(world.calls(), 0);
    world.end();
}

/// ALICE's UPDATE crosses to BOB, whose 200 has `granted`; the 200 as ALICE gets it.
fn refresh(world: &mut World, standing: &Standing, cseq: u32, granted: &[(&str, &str)]) -> Message {
    let update = in_dialog("UPDATE", cseq, ALICE, &standing.invite_a, &standing.ok_a)
        .with("Supported", "timer")
        .with("Session-Expires", "300;refresher=uac");
    world.udp(ALICE, &update);
    let there = world.request(BOB, "UPDATE");
    assert_eq!(there.text("Session-Expires"), "300;refresher=uac");
    let mut ok = answer(&there, 200, "OK", "", BOB);
    for (name, value) in granted {
        ok = ok.with(name, value);
    }
    world.udp(BOB, &ok);
    world.response(ALICE, 200)
}

const ASKED: &[(&str, &str)] = &[("Supported", "timer"), ("Session-Expires", "300")];
const GRANTED: &[(&str, &str)] = &[("Require", "timer"), ("Session-Expires", "300;refresher=uac")];

#[test]
fn a_call_that_is_not_refreshed_gets_a_bye_on_both_legs() {
    let mut world = with_bob(2);
    let standing = call_with(&mut world, ASKED, GRANTED);
    assert_eq!(standing.invite_b.text("Session-Expires"), "300");
    assert_eq!(standing.ok_a.text("Session-Expires"), "300;refresher=uac");
    // RFC 4028 §10: 32 s before the end of the 300, of which 40 are over.
    world.advance(300_000 - 32_000 - 40_000 - 1_000);
    world.silent();
    world.advance(2_000);
    ends_on_both_legs(world);
}

#[test]
fn a_short_interval_ends_a_third_of_it_early() {
    let mut world = with_bob(1);
    call_with(&mut world, ASKED, &[("Session-Expires", "90;refresher=uas")]);
    world.advance(60_000 - 40_000 - 1_000);
    world.silent();
    world.advance(2_000);
    ends_on_both_legs(world);
}

#[test]
fn the_record_of_a_call_says_that_nobody_refreshed_it() {
    let mut world = World::with(1, |cfg| cfg.records.directory = Some("anywhere".into()));
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    call_with(&mut world, ASKED, GRANTED);
    world.advance(300_000);
    for phone in [ALICE, BOB] {
        let bye = world.request(phone, "BYE");
        world.udp(phone, &answer(&bye, 200, "OK", "", phone));
    }
    let told = world.told(0);
    let Some((Tell::CallRecord(record), _)) = told else {
        panic!("{told:?}");
    };
    assert_eq!(record.reason, EndReason::NotRefreshed);
    world.end();
}

#[test]
fn refreshes_cross_and_each_keeps_the_call_for_one_more_interval() {
    let mut world = with_bob(2);
    let standing = call_with(&mut world, ASKED, GRANTED);
    for round in 0..5 {
        world.advance(150_000);
        let ok = refresh(&mut world, &standing, 33_303 + round, GRANTED);
        assert_eq!(ok.text("Session-Expires"), "300;refresher=uac");
    }
    world.advance(267_000);
    world.silent();
    world.advance(2_000);
    ends_on_both_legs(world);
}

#[test]
fn a_refresh_that_fails_or_is_of_another_kind_keeps_nothing() {
    let mut world = with_bob(1);
    let standing = call_with(&mut world, ASKED, GRANTED);
    world.advance(150_000);
    world.udp(
        ALICE,
        &in_dialog("INFO", 33_303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let info = world.request(BOB, "INFO");
    world.udp(BOB, &answer(&info, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    let update = in_dialog("UPDATE", 33_304, ALICE, &standing.invite_a, &standing.ok_a)
        .with("Supported", "timer")
        .with("Session-Expires", "300;refresher=uac");
    world.udp(ALICE, &update);
    let update = world.request(BOB, "UPDATE");
    world.udp(BOB, &answer(&update, 491, "Request Pending", "", BOB));
    world.response(ALICE, 491);
    world.advance(300_000 - 32_000 - 190_000 + 1_000);
    ends_on_both_legs(world);
}

#[test]
fn a_200_without_an_interval_to_a_phone_without_timers_takes_the_timer_away() {
    let mut world = with_bob(1);
    let standing = call_with(&mut world, ASKED, GRANTED);
    world.udp(
        ALICE,
        &in_dialog("UPDATE", 33_303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let update = world.request(BOB, "UPDATE");
    world.udp(BOB, &answer(&update, 200, "OK", "", BOB));
    assert!(!world.response(ALICE, 200).has("Session-Expires"));
    world.advance(3_600_000);
    world.silent();
    world.hang_up_all();
    ends_on_both_legs(world);
}

#[test]
fn where_only_the_caller_knows_timers_it_refreshes() {
    let mut world = with_bob(1);
    let standing = call_with(&mut world, ASKED, &[("Require", "100rel")]);
    assert_eq!(standing.ok_a.text("Session-Expires"), "300;refresher=uac");
    assert_eq!(standing.ok_a.get_all("Require"), ["100rel", "timer"]);
    world.advance(150_000);
    let ok = refresh(&mut world, &standing, 33_303, &[]);
    assert_eq!(
        (ok.text("Session-Expires"), ok.text("Require")),
        ("300;refresher=uac", "timer")
    );
    world.advance(267_000);
    world.silent();
    world.advance(2_000);
    ends_on_both_legs(world);
}

#[test]
fn where_nobody_speaks_of_timers_nothing_changes() {
    let mut world = with_bob(1);
    for supported in [&[][..], &[("Supported", "timer")]] {
        let standing = call_with(&mut world, supported, &[]);
        for message in [&standing.invite_b, &standing.ok_a] {
            for name in ["Session-Expires", "Min-SE", "Require"] {
                assert!(!message.has(name), "{name}");
            }
        }
        world.advance(3 * 3_600_000);
        world.silent();
        world.hang_up_all();
        for phone in [ALICE, BOB] {
            let bye = world.request(phone, "BYE");
            world.udp(phone, &answer(&bye, 200, "OK", "", phone));
        }
        world.advance(40_000);
    }
    world.end();
}

#[test]
fn a_timer_is_asked_for_where_the_configuration_says_so() {
    let mut world = World::with(1, |cfg| {
        cfg.session_timers.request = true;
        cfg.session_timers.interval_s = 600;
    });
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    let standing = call_with(&mut world, &[], &[("Session-Expires", "600;refresher=uas")]);
    // RFC 4028 §8.1: whoever stands on the way leaves the choice of the refresher.
    assert_eq!(standing.invite_b.text("Session-Expires"), "600");
    world.advance(600_000 - 32_000 - 40_000 + 1_000);
    ends_on_both_legs(world);
}

#[test]
fn a_timer_that_is_asked_for_obeys_the_min_se_of_the_caller() {
    let mut world = World::with(1, |cfg| cfg.session_timers.request = true);
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    let standing = call_with(&mut world, &[("Supported", "timer"), ("Min-SE", "2000")], &[]);
    assert_eq!(standing.invite_b.text("Session-Expires"), "2000");
    assert_eq!(standing.ok_a.text("Session-Expires"), "2000;refresher=uac");
    world.hang_up_all();
    ends_on_both_legs(world);
}

#[test]
fn too_short_an_interval_is_422_with_the_minimum() {
    let mut world = World::with(1, |cfg| cfg.session_timers.interval_min_s = 120);
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    let short = invite("alice", ALICE, "sip:bob@one.att.net", "short")
        .with("k", "timer")
        .with("x", "100;refresher=uac");
    world.udp(ALICE, &short);
    let refused = world.response(ALICE, 422);
    assert_eq!(refused.text("Min-SE"), "120");
    world.udp(ALICE, &failure_ack(&short, &refused));
    assert_eq!(world.calls(), 0);

    let standing = call_with(&mut world, ASKED, GRANTED);
    let update = in_dialog("UPDATE", 33_303, ALICE, &standing.invite_a, &standing.ok_a)
        .with("Supported", "timer")
        .with("Session-Expires", "90");
    world.udp(ALICE, &update);
    assert_eq!(world.response(ALICE, 422).text("Min-SE"), "120");
    world.silent();
    world.hang_up_all();
    ends_on_both_legs(world);
}

fn failure_ack(invite: &Message, refused: &Message) -> Message {
    Message::request("ACK", "sip:bob@one.att.net")
        .with("Via", invite.text("Via"))
        .with("From", invite.text("From"))
        .with("To", refused.text("To"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", "33302 ACK")
        .with("Content-Length", 0)
}

#[test]
fn too_short_an_interval_is_raised_where_the_phone_could_not_read_a_422() {
    let mut world = World::with(1, |cfg| cfg.session_timers.interval_min_s = 120);
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    let standing = call_with(&mut world, &[("Session-Expires", "100;refresher=uas")], &[]);
    assert_eq!(standing.invite_b.text("Session-Expires"), "120;refresher=uas");
    assert_eq!(standing.invite_b.text("Min-SE"), "120");
    assert!(!standing.ok_a.has("Session-Expires"));
    world.hang_up_all();
    ends_on_both_legs(world);
}

#[test]
fn switched_off_timers_are_between_the_phones_alone() {
    let mut world = World::with(1, |cfg| cfg.session_timers.enabled = false);
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    let standing = call_with(
        &mut world,
        &[("Supported", "timer"), ("Session-Expires", "10")],
        &[],
    );
    assert_eq!(standing.invite_b.text("Session-Expires"), "10");
    assert!(!standing.ok_a.has("Session-Expires"));
    world.advance(600_000);
    world.silent();
    world.hang_up_all();
    ends_on_both_legs(world);
}

#[test]
fn timers_may_be_asked_of_those_on_the_way() {
    for (enabled, status) in [(true, 100), (false, 420)] {
        let mut world = World::with(1, |cfg| cfg.session_timers.enabled = enabled);
        world.udp(BOB, &register("bob", BOB, "reg-bob"));
        world.response(BOB, 200);
        let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c").with("Proxy-Require", "timer");
        world.udp(ALICE, &invite);
        world.response(ALICE, status);
    }
}
