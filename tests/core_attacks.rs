//! Peers that mean harm, or send what nobody expects, against the sans-IO core: each test is a way in which a call, a
//! transaction or a limit could be made to go wrong.

#[path = "core/messages.rs"]
mod messages;
#[path = "core/world.rs"]
mod world;

use bench_harness::sip::Message;
use messages::*;
use world::World;

/// An answer with header lines that our own may not have room for.
fn padded(mut message: Message, name: &str, lines: usize) -> Message {
    for i in 0..lines {
        message = message.with(name, format!("<sip:127.0.0.{};lr>", i % 250 + 1));
    }
    message
}

#[test]
fn an_answer_that_cannot_be_passed_back_is_a_500_and_leaves_no_call_behind() {
    let mut world = with_bob(1);
    let message = Message::request("MESSAGE", "sip:bob@one.att.net")
        .with("Via", via(ALICE, "m1"))
        .with("From", "<sip:alice@one.att.net>;tag=m1")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", "m1")
        .with("CSeq", "7 MESSAGE")
        .with_body("text/plain", "hello");
    world.udp(ALICE, &message);
    let there = world.request(BOB, "MESSAGE");
    // More edits than one message may need.
    world.udp(
        BOB,
        &padded(answer(&there, 200, "OK", "b1", BOB), "Record-Route", 200),
    );
    world.response(ALICE, 500);
    assert_eq!(world.calls(), 0);

    let standing = call(&mut world, "c1");
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let bye = world.request(BOB, "BYE");
    world.udp(
        BOB,
        &padded(answer(&bye, 200, "OK", "", BOB), "Record-Route", 200),
    );
    world.response(ALICE, 500);
    assert_eq!(world.calls(), 0);
    world.advance(40_000);
    world.silent();
    world.end();
}

#[test]
fn an_invite_is_never_the_answer_to_a_failure() {
    // So many lines that those which we add are too many for us to read again.
    let mut world = with_bob(1);
    let mut invite_a = Message::request("INVITE", "sip:bob@one.att.net")
        .with("Via", via(ALICE, "many"))
        .with("From", "<sip:alice@one.att.net>;tag=f")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", "many")
        .with("CSeq", "1 INVITE")
        .with("Contact", format!("<sip:alice@{ALICE}>"));
    for _ in 0..250 {
        invite_a = invite_a.with("X-Pad", "x");
    }
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 100);
    world.response(ALICE, 513);
    world.silent();
    world.end();

    // A contact whose URI has headers: they are not for a Request-URI (RFC 3261 §19.1.1, table 1).
    let mut world = World::new(1);
    let bob = register("bob", BOB, "reg").setting("Contact", format!("<sip:bob@{BOB}?Subject=x>"));
    world.udp(BOB, &bob);
    world.response(BOB, 200);
    world.udp(ALICE, &invite("alice", ALICE, "sip:bob@one.att.net", "c1"));
    world.response(ALICE, 100);
    let invite_b = world.request(BOB, "INVITE");
    assert_eq!(invite_b.uri(), Some(&*format!("sip:bob@{BOB}")));
    for _ in 0..3 {
        world.udp(BOB, &answer(&invite_b, 486, "Busy Here", "b1", BOB));
        world.request(BOB, "ACK");
    }
    world.response(ALICE, 486);
    world.silent();
    world.end();
}
