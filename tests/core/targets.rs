//! When the remote target of a leg moves: RFC 6141 §4.6 to §4.9 in the place of RFC 3261 §12.2.2.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

/// Where ALICE goes to, and where BOB does.
const AWAY: &str = "127.0.0.12:5072";
const AWAY_TOO: &str = "127.0.0.13:5073";

/// ALICE's request, which says that she is reached at `at`.
fn moves_to(method: &str, cseq: u32, at: &str, standing: &Standing) -> Message {
    in_dialog(method, cseq, ALICE, &standing.invite_a, &standing.ok_a)
        .with("Contact", format!("<sip:alice@{at}>"))
}

/// BOB accepts ALICE's UPDATE, by which she is at `at`.
#[track_caller]
fn updates_to(world: &mut World, at: &str, cseq: u32, standing: &Standing) {
    world.udp(ALICE, &moves_to("UPDATE", cseq, at, standing));
    let there = world.request(BOB, "UPDATE");
    world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
    world.response(ALICE, 200);
}

/// A request of BOB's finds ALICE here, and nowhere else.
#[track_caller]
fn alice_is_at(world: &mut World, at: &str, cseq: u32, standing: &Standing) {
    let info = in_dialog_from_callee("INFO", cseq, BOB, &standing.invite_b, &standing.ok_b);
    world.udp(BOB, &info);
    let there = world.request(at, "INFO");
    assert_eq!(there.uri(), Some(&*format!("sip:alice@{at}")));
    world.udp(at, &answer(&there, 200, "OK", "", at));
    world.response(BOB, 200);
    world.silent();
}

/// The same of ALICE's: BOB is here.
#[track_caller]
fn bob_is_at(world: &mut World, at: &str, cseq: u32, standing: &Standing) {
    let info = in_dialog("INFO", cseq, ALICE, &standing.invite_a, &standing.ok_a);
    world.udp(ALICE, &info);
    let there = world.request(at, "INFO");
    assert_eq!(there.uri(), Some(&*format!("sip:bob@{at}")));
    world.udp(at, &answer(&there, 200, "OK", "", at));
    world.response(ALICE, 200);
    world.silent();
}

#[track_caller]
fn ends(mut world: World) {
    world.hang_up_all();
    world.advance(70_000);
    world.forget_waiting();
    assert_eq!((world.calls(), world.parts()), (0, 0));
    world.end();
}

#[test]
fn a_refresh_that_is_rejected_moves_nothing() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let reinvite = moves_to("INVITE", 33303, AWAY, &standing);
        world.udp(ALICE, &reinvite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        // While nobody has accepted it she is where she was.
        alice_is_at(&mut world, ALICE, 1, &standing);
        world.udp(BOB, &answer(&there, 488, "Not Acceptable Here", "", BOB));
        world.request(BOB, "ACK");
        let failure = world.response(ALICE, 488);
        let ack = in_dialog(
            "ACK",
            33303,
            ALICE,
            &standing.invite_a,
            &failure.with("Contact", "<sip:x@y>"),
        );
        world.udp(ALICE, &ack.setting("Via", reinvite.text("Via")));
        alice_is_at(&mut world, ALICE, 2, &standing);
        world.udp(ALICE, &moves_to("UPDATE", 33304, AWAY, &standing));
        let there = world.request(BOB, "UPDATE");
        world.udp(BOB, &answer(&there, 504, "Server Time-out", "", BOB));
        world.response(ALICE, 504);
        alice_is_at(&mut world, ALICE, 3, &standing);
        ends(world);
    });
}

#[test]
fn a_refresh_moves_its_sender_when_it_is_accepted() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let reinvite = moves_to("INVITE", 33303, AWAY, &standing);
        world.udp(ALICE, &reinvite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        // An UPDATE meanwhile is accepted first, and was sent later.
        updates_to(&mut world, AWAY_TOO, 33304, &standing);
        alice_is_at(&mut world, AWAY_TOO, 1, &standing);
        world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33303, ALICE, &standing.invite_a, &ok));
        world.request(BOB, "ACK");
        alice_is_at(&mut world, AWAY_TOO, 2, &standing);
        updates_to(&mut world, AWAY, 33305, &standing);
        alice_is_at(&mut world, AWAY, 3, &standing);
        ends(world);
    });
}

#[test]
fn a_provisional_response_moves_its_sender_where_it_is_reliable() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let reinvite = moves_to("INVITE", 33303, AWAY, &standing).with("Supported", "100rel");
        world.udp(ALICE, &reinvite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        let progress = |at: &str| answer(&there, 183, "Session Progress", "", at);
        world.udp(BOB, &progress(AWAY_TOO));
        world.response(ALICE, 183);
        bob_is_at(&mut world, BOB, 33304, &standing);
        alice_is_at(&mut world, ALICE, 1, &standing);
        let reliable = progress(AWAY_TOO).with("Require", "100rel").with("RSeq", 1);
        world.udp(BOB, &reliable);
        world.response(ALICE, 183);
        bob_is_at(&mut world, AWAY_TOO, 33305, &standing);
        // It has accepted where she says that she is, and what comes of the session does not take that back.
        alice_is_at(&mut world, AWAY, 2, &standing);
        world.udp(BOB, &answer(&there, 488, "Not Acceptable Here", "", BOB));
        world.request(BOB, "ACK");
        world.response(ALICE, 488);
        alice_is_at(&mut world, AWAY, 3, &standing);
        ends(world);
    });
}
