//! Phones behind proxies that put themselves into the Path of their registrations: RFC 3327, and RFC 3608 beside it.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

/// The proxy that BOB registers through; a second one stands before it.
const EDGE: &str = "127.0.0.6:5066";
const PATH: &str = "<sip:127.0.0.6:5066;lr>, <sip:inner@127.0.0.7:5067;lr>";

/// BOB's REGISTER as it comes from the proxy.
fn through_edge(call_id: &str) -> Message {
    forwarded(register("bob", BOB, call_id), EDGE)
        .with("Supported", "path")
        .with("Path", "<sip:127.0.0.6:5066;lr>")
        .with("Path", "<sip:inner@127.0.0.7:5067;lr>")
}

fn with_bob_behind(shards: usize) -> World {
    let mut world = World::new(shards);
    world.udp(EDGE, &through_edge("reg-bob"));
    let ok = world.response(EDGE, 200);
    assert_eq!(
        ok.get_all("Path"),
        ["<sip:127.0.0.6:5066;lr>", "<sip:inner@127.0.0.7:5067;lr>"]
    );
    world
}

#[test]
fn a_call_goes_by_the_path_and_its_dialog_by_what_the_answer_recorded() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob_behind(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(EDGE, "INVITE");
        assert_eq!(invite_b.uri(), Some(&*format!("sip:bob@{BOB}")));
        assert_eq!(invite_b.get_all("Route"), [PATH]);
        let recorded = "<sip:127.0.0.6:5066;lr;x=1>";
        let ok = answer(&invite_b, 200, "OK", "b1", BOB).with("Record-Route", recorded);
        world.udp(EDGE, &ok);
        let ok_a = world.response(ALICE, 200);
        assert!(!ok_a.has("Record-Route"), "that leg has no proxy");
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
        assert_eq!(world.request(EDGE, "ACK").get_all("Route"), [recorded]);
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok_a));
        let bye = world.request(EDGE, "BYE");
        assert_eq!(bye.get_all("Route"), [recorded]);
        world.udp(EDGE, &answer(&bye, 200, "OK", "b1", BOB));
        world.response(ALICE, 200);
        world.advance(40_000);
        world.end();
    });
}

#[test]
fn a_dialog_that_nobody_recorded_goes_to_the_phone_itself() {
    let mut world = with_bob_behind(1);
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(EDGE, "INVITE");
    world.udp(EDGE, &answer(&invite_b, 200, "OK", "b1", BOB));
    let ok_a = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    // RFC 3261 §12.1.2: an answer without Record-Route makes an empty route set.
    assert!(!world.request(BOB, "ACK").has("Route"));
    world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok_a));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "b1", BOB));
    world.response(ALICE, 200);
    world.advance(40_000);
    world.end();
}

#[test]
fn what_follows_an_invite_hop_by_hop_goes_by_the_path_too() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob_behind(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(EDGE, "INVITE");
        world.udp(EDGE, &answer(&invite_b, 180, "Ringing", "b1", BOB));
        world.response(ALICE, 180);
        let cancel = cancel(&invite_a);
        world.udp(ALICE, &cancel);
        world.response(ALICE, 200);
        world.response(ALICE, 487);
        let cancel = world.request(EDGE, "CANCEL");
        assert_eq!(cancel.get_all("Route"), [PATH]);
        world.udp(EDGE, &answer(&cancel, 200, "OK", "b1", BOB));
        world.udp(EDGE, &answer(&invite_b, 487, "Request Terminated", "b1", BOB));
        assert_eq!(world.request(EDGE, "ACK").get_all("Route"), [PATH]);
        world.forget_waiting();
        world.end_after_all_timers();
    });
}

#[test]
fn a_registrar_understands_what_it_lists_and_says_what_it_does_not() {
    let mut world = World::new(1);
    let asks = |tags: &str, call_id: &str| register("bob", BOB, call_id).with("Require", tags);
    world.udp(BOB, &asks("path", "r1"));
    assert!(!world.response(BOB, 200).has("Service-Route"), "not configured");
    world.udp(BOB, &asks("path, telepathy, 100rel", "r2"));
    assert_eq!(world.response(BOB, 420).text("Unsupported"), "telepathy, 100rel");
    let unasked = register("bob", BOB, "r3").with("Path", "<sip:127.0.0.6:5066;lr>");
    world.udp(BOB, &unasked);
    assert_eq!(world.response(BOB, 420).text("Unsupported"), "path");
    world.end();
}

#[test]
fn phones_are_told_the_service_route_and_a_route_of_it_is_behind_us_when_it_comes() {
    let mut world = World::with(1, |cfg| {
        let route = ["sip:orig@scscf.one.att.net;lr", "sip:127.0.0.9:5069;lr"];
        cfg.registrar.service_route = route.map(str::to_owned).into();
    });
    world.udp(BOB, &register("bob", BOB, "r1"));
    let ok = world.response(BOB, 200);
    assert_eq!(
        ok.get_all("Service-Route"),
        ["<sip:orig@scscf.one.att.net;lr>, <sip:127.0.0.9:5069;lr>"]
    );
    let routed =
        invite("alice", ALICE, "sip:bob@one.att.net", "c1").with("Route", "<sip:orig@scscf.one.att.net;lr>");
    world.udp(ALICE, &routed);
    world.response(ALICE, 100);
    let invite_b = world.request(BOB, "INVITE");
    assert!(!invite_b.has("Route"));
    world.udp(BOB, &answer(&invite_b, 486, "Busy Here", "b1", BOB));
    world.request(BOB, "ACK");
    world.response(ALICE, 486);
    world.end_after_all_timers();
}

/// RFC 3261 §13.2.2.4, §12.2.1.1: the route set is that of the dialog, which a 2xx within it does not say again.
#[test]
fn an_answer_within_the_dialog_that_comes_again_after_its_end_is_acknowledged_by_the_route() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob_behind(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(EDGE, "INVITE");
        let recorded = "<sip:127.0.0.6:5066;lr;x=1>";
        let ok_b = answer(&invite_b, 200, "OK", "b1", BOB).with("Record-Route", recorded);
        world.udp(EDGE, &ok_b);
        let ok_a = world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
        world.request(EDGE, "ACK");
        let standing = Standing {
            invite_a,
            invite_b,
            ok_a,
            ok_b,
        };
        world.udp(ALICE, &reinvite(33303, &standing));
        world.response(ALICE, 100);
        let again = world.request(EDGE, "INVITE");
        assert_eq!(again.get_all("Route"), [recorded]);
        let ok_again = answer(&again, 200, "OK", "", BOB);
        world.udp(EDGE, &ok_again);
        world.response(ALICE, 200);
        world.udp(
            ALICE,
            &in_dialog("ACK", 33303, ALICE, &standing.invite_a, &standing.ok_a),
        );
        world.request(EDGE, "ACK");
        world.udp(
            ALICE,
            &in_dialog("BYE", 33304, ALICE, &standing.invite_a, &standing.ok_a),
        );
        let bye = world.request(EDGE, "BYE");
        world.udp(EDGE, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        assert_eq!(world.calls(), 0);
        // That ACK was lost.
        world.udp(EDGE, &ok_again);
        let ack = world.request(EDGE, "ACK");
        assert_eq!(ack.get_all("Route"), [recorded]);
        assert_eq!(
            ack.text("CSeq").split(' ').next(),
            again.text("CSeq").split(' ').next()
        );
        world.advance(40_000);
        world.end();
    });
}
