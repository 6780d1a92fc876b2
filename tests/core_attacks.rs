//! Peers that mean harm, or send what nobody expects, against the sans-IO core: each test is a way in which a call, a
//! transaction or a limit could be made to go wrong.

#[path = "core/messages.rs"]
mod messages;
#[path = "core/world.rs"]
mod world;

use bench_harness::sip::Message;
use messages::*;
use world::{SERVER, World};

/// An answer with header lines that our own may not have room for.
fn padded(mut message: Message, name: &str, lines: usize) -> Message {
    for i in 0..lines {
        message = message.with(name, format!("<sip:127.0.0.{};lr>", i % 250 + 1));
    }
    message
}

/// An answer that grows on its way by more than there is room for: each of its many contacts is replaced by a longer one of
/// the server's, and it nearly fills a buffer as it is.
fn swelling(message: Message) -> Message {
    padded(message, "Contact", 200).with("X-Long", "x".repeat(8_600))
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
    world.udp(BOB, &swelling(answer(&there, 200, "OK", "b1", BOB)));
    world.response(ALICE, 500);
    assert_eq!(world.calls(), 0);

    let standing = call(&mut world, "c1");
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &swelling(answer(&bye, 200, "OK", "", BOB)));
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
    calls_bob(&mut world, "c1");
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

#[test]
fn a_phone_that_answers_with_tag_after_tag_is_told_to_stop_and_takes_no_more_room() {
    let mut world = with_bob(1);
    calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    for i in 0..200 {
        let early = answer(&invite_b, 180, "Ringing", &format!("e{i}"), BOB);
        world.udp(BOB, &early);
    }
    world.udp(BOB, &answer(&invite_b, 200, "OK", "b", BOB));
    world.forget_waiting();
    let before = world.parts();
    for i in 0..2_000 {
        world.udp(BOB, &answer(&invite_b, 200, "OK", &format!("t{i}"), BOB));
    }
    assert!(world.parts() - before <= 64, "{} after {before}", world.parts());
    world.forget_waiting();
    world.advance(100_000);
    assert_eq!(world.calls(), 0);
    world.end();
}

#[test]
fn each_early_dialog_of_a_contact_that_forks_is_one_of_its_own() {
    for shards in [1, 2, 4] {
        let mut world = with_bob(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(BOB, "INVITE");
        let ring = |tag: &str, at: &str| {
            answer(&invite_b, 183, "Progress", tag, at)
                .with("Require", "100rel")
                .with("RSeq", 7)
        };
        world.udp(BOB, &ring("one", BOB_TABLET));
        let first = world.response(ALICE, 183);
        world.udp(BOB, &ring("two", BOB));
        let second = world.response(ALICE, 183);
        for (number, early, at) in [
            (33303, &first, BOB_TABLET),
            (33304, &second, BOB),
            (33305, &first, BOB_TABLET),
        ] {
            let prack = in_dialog("PRACK", number, ALICE, &invite_a, early).with("RAck", "7 33302 INVITE");
            world.udp(ALICE, &prack);
            let prack = world.request(at, "PRACK");
            // RFC 3262 §7.2: the INVITE's number on that leg.
            assert_eq!(prack.text("RAck"), "7 1 INVITE");
            assert_eq!(
                prack.text("To").rsplit(';').next(),
                early.text("To").rsplit(';').next()
            );
            world.udp(at, &answer(&prack, 200, "OK", "", at));
            world.response(ALICE, 200);
        }
        world.udp(BOB, &answer(&invite_b, 200, "OK", "one", BOB_TABLET));
        let ok = world.response(ALICE, 200);
        assert!(ok.text("To").ends_with(";tag=one"));
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
        let ack = world.request(BOB_TABLET, "ACK");
        assert_eq!(ack.text("CSeq"), "1 ACK");
        assert!(ack.text("To").ends_with(";tag=one"));
        world.udp(ALICE, &in_dialog("BYE", 33306, ALICE, &invite_a, &ok));
        let bye = world.request(BOB_TABLET, "BYE");
        assert_eq!(bye.text("CSeq"), "4 BYE");
        world.udp(BOB_TABLET, &answer(&bye, 200, "OK", "", BOB_TABLET));
        world.response(ALICE, 200);
        assert_eq!(world.calls(), 0);
        world.silent();
        world.end();
    }
}

#[test]
fn a_bye_before_the_answer_ends_one_early_dialog_and_not_the_other_phones() {
    let mut world = with_bob(1);
    world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
    world.response(BOB_TABLET, 200);
    let invite_a = calls_bob(&mut world, "c1");
    let phone = world.request(BOB, "INVITE");
    let tablet = world.request(BOB_TABLET, "INVITE");
    world.udp(BOB, &answer(&phone, 180, "Ringing", "p1", BOB));
    let ringing = world.response(ALICE, 180);
    world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ringing));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    world.udp(BOB, &answer(&phone, 487, "Request Terminated", "p1", BOB));
    world.request(BOB, "ACK");
    world.udp(BOB_TABLET, &answer(&tablet, 200, "OK", "t1", BOB_TABLET));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
    world.request(BOB_TABLET, "ACK");
    world.advance(60_000);
    world.silent();
    world.udp(ALICE, &in_dialog("INFO", 33304, ALICE, &invite_a, &ok));
    world.request(BOB_TABLET, "INFO");
    world.end();
}

#[test]
fn a_reinvite_is_told_at_once_that_it_is_under_way() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let reinvite = reinvite(33303, &standing);
    world.udp(ALICE, &reinvite);
    let trying = world.response(ALICE, 100);
    assert_eq!(trying.text("CSeq"), "33303 INVITE");
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&there, 100, "Trying", "", BOB));
    world.silent();
    world.udp(BOB, &answer(&there, 488, "Not Acceptable Here", "", BOB));
    world.response(ALICE, 488);
    world.request(BOB, "ACK");
    assert_eq!(world.calls(), 1);
    world.end();
}

#[test]
fn a_reinvite_that_was_cancelled_and_accepted_ends_the_call_on_both_sides() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let reinvite = reinvite(33303, &standing);
    world.udp(ALICE, &reinvite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    let mut cancel =
        Message::request("CANCEL", reinvite.uri().expect("a request")).with("CSeq", "33303 CANCEL");
    for name in ["Via", "From", "To", "Call-ID"] {
        cancel = cancel.with(name, reinvite.text(name));
    }
    world.udp(ALICE, &cancel);
    world.response(ALICE, 200);
    world.response(ALICE, 487);
    world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
    let ack = world.request(BOB, "ACK");
    assert_eq!(ack.text("CSeq"), "2 ACK");
    let bye_b = world.request(BOB, "BYE");
    let bye_a = world.request(ALICE, "BYE");
    world.udp(ALICE, &answer(&bye_a, 200, "OK", "", ALICE));
    world.udp(BOB, &answer(&bye_b, 200, "OK", "", BOB));
    assert_eq!(world.calls(), 0);
    world.end();
}

#[test]
fn requests_to_the_caller_take_the_way_that_its_invite_came() {
    const PROXY: &str = "127.0.0.9:5069";
    let mut world = with_bob(1);
    let invite_a =
        invite("alice", ALICE, "sip:bob@one.att.net", "c1").with("Record-Route", format!("<sip:{PROXY};lr>"));
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 100);
    let invite_b = world.request(BOB, "INVITE");
    let ok_b = answer(&invite_b, 200, "OK", "b1", BOB);
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    assert_eq!(ok_a.text("Record-Route"), invite_a.text("Record-Route"));
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    world.request(BOB, "ACK");
    world.udp(BOB, &in_dialog_from_callee("BYE", 1, BOB, &invite_b, &ok_b));
    let bye = world.request(PROXY, "BYE");
    assert_eq!(bye.uri(), Some(&*format!("sip:alice@{ALICE}")));
    assert_eq!(bye.text("Route"), invite_a.text("Record-Route"));
    world.end();
}

#[test]
fn the_route_set_of_a_call_is_that_of_its_200() {
    const PROXY: &str = "127.0.0.9:5069";
    let mut world = with_bob(1);
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&invite_b, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    let ok = answer(&invite_b, 200, "OK", "b1", BOB)
        .with("Record-Route", format!("<sip:{PROXY};lr>, <sip:127.0.0.8;lr>"));
    world.udp(BOB, &ok);
    let ok_a = world.response(ALICE, 200);
    assert!(!ok_a.has("Record-Route"), "the caller's leg has none of them");
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    // RFC 3261 §12.1.2: in reverse.
    let ack = world.request("127.0.0.8:5060", "ACK");
    assert_eq!(ack.text("Route"), format!("<sip:127.0.0.8;lr>, <sip:{PROXY};lr>"));
    assert_eq!(ack.uri(), Some(&*format!("sip:bob@{BOB}")));
    world.end();
}

#[test]
fn a_200_without_a_contact_is_given_ours() {
    let mut world = with_bob(1);
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&invite_b, 200, "OK", "b1", BOB).removing("Contact"));
    let ok = world.response(ALICE, 200);
    assert_eq!(ok.text("Contact"), format!("<sip:{SERVER};transport=UDP>"));
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
    world.request(BOB, "ACK");
    world.end();
}

#[test]
fn a_call_full_of_requests_and_huge_tags_can_still_be_hung_up() {
    let mut world = with_bob(1);
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    let tag = "t".repeat(6_000);
    world.udp(BOB, &answer(&invite_b, 200, "OK", &tag, BOB));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
    world.request(BOB, "ACK");
    for i in 0..70 {
        world.udp(ALICE, &in_dialog("INFO", 33303 + i, ALICE, &invite_a, &ok));
    }
    for _ in 0..63 {
        world.request(BOB, "INFO");
    }
    for _ in 0..7 {
        world.response(ALICE, 503);
    }
    world.hang_up_all();
    for _ in 0..63 {
        world.response(ALICE, 487);
    }
    let bye = world.request(ALICE, "BYE");
    assert!(bye.text("From").ends_with(&tag));
    world.request(BOB, "BYE");
    world.forget_waiting();
    world.advance(40_000);
    assert_eq!(world.calls(), 0);
    world.end();
}

#[test]
fn a_chunk_of_keepalives_is_answered_once() {
    let mut world = World::new(1);
    world.tcp_bytes(ALICE, &b"\r\n\r\n".repeat(1_000));
    assert_eq!(world.pongs, 1);
    world.tcp_bytes(ALICE, b"\r\n\r\n");
    assert_eq!(world.pongs, 2);
    world.end();
}

#[test]
fn a_call_is_not_taken_over_by_an_invite_with_its_names_and_a_later_number() {
    for shards in [1, 2] {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        for number in 33_400..33_500 {
            let again = invite("alice", ALICE, "sip:bob@one.att.net", "c1")
                .setting("Via", via(ALICE, &format!("again{number}")))
                .setting("CSeq", format!("{number} INVITE"));
            world.udp(ALICE, &again);
            world.response(ALICE, 482);
        }
        world.udp(
            ALICE,
            &in_dialog("BYE", 33_303, ALICE, &standing.invite_a, &standing.ok_a),
        );
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        assert_eq!(world.calls(), 0);
        // The names are free again.
        world.udp(
            ALICE,
            &invite("alice", ALICE, "sip:bob@one.att.net", "c1").setting("Via", via(ALICE, "later")),
        );
        world.response(ALICE, 100);
        world.request(BOB, "INVITE");
        world.end();
    }
}

#[test]
fn messages_with_one_call_id_and_rising_numbers_each_have_their_answer() {
    let mut world = with_bob(1);
    let mut there = Vec::new();
    for number in 1..=50 {
        let message = Message::request("MESSAGE", "sip:bob@one.att.net")
            .with("Via", via(ALICE, &format!("m{number}")))
            .with("From", "<sip:alice@one.att.net>;tag=m1")
            .with("To", "<sip:bob@one.att.net>")
            .with("Call-ID", "m1")
            .with("CSeq", format!("{number} MESSAGE"))
            .with_body("text/plain", "hello");
        world.udp(ALICE, &message);
        there.push(world.request(BOB, "MESSAGE"));
    }
    for (message, number) in there.iter().zip(1..) {
        world.udp(BOB, &answer(message, 200, "OK", "b1", BOB));
        assert_eq!(
            world.response(ALICE, 200).text("CSeq"),
            format!("{number} MESSAGE")
        );
    }
    assert_eq!(world.calls(), 0);
    world.end();
}

#[test]
fn a_bye_that_cannot_be_passed_on_ends_the_call_on_both_sides() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let mut bye = in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a);
    for _ in 0..248 {
        bye = bye.with("X-Pad", "x");
    }
    world.udp(ALICE, &bye);
    world.response(ALICE, 200);
    let bye = world.request(BOB, "BYE");
    assert!(!bye.has("X-Pad"), "one of the server's own");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.silent();
    assert_eq!(world.calls(), 0);
    world.advance(40_000);
    world.end();
}

#[test]
fn seventy_hops_are_remembered_and_what_is_longer_is_refused() {
    let hop = |n: usize| format!("<sip:127.0.1.{n};lr>");
    let through = |hops: usize, call_id: &str| {
        (1..=hops).fold(
            invite("alice", ALICE, "sip:bob@one.att.net", call_id),
            |invite, n| invite.with("Record-Route", hop(n)),
        )
    };
    let mut world = with_bob(1);
    let invite_a = through(70, "c1");
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 100);
    let invite_b = world.request(BOB, "INVITE");
    let ok_b = answer(&invite_b, 200, "OK", "b1", BOB);
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    assert_eq!(ok_a.get_all("Record-Route").len(), 70);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    world.request(BOB, "ACK");
    world.udp(BOB, &in_dialog_from_callee("BYE", 1, BOB, &invite_b, &ok_b));
    let bye = world.request("127.0.1.1:5060", "BYE");
    assert_eq!(bye.elements("Route"), (1..=70).map(hop).collect::<Vec<_>>());
    world.udp("127.0.1.1:5060", &answer(&bye, 200, "OK", "", ALICE));
    world.response(BOB, 200);
    // RFC 3261 §12.1.1: a route set that is cut short leads nowhere.
    world.udp(ALICE, &through(71, "c2"));
    world.response(ALICE, 513);
    world.advance(70_000);
    world.forget_waiting();
    world.end();
}

/// RFC 3261 §9.2: the caller can take a call back where no place is left, and hears so where there is none to take back.
#[test]
fn a_call_can_be_taken_back_at_the_limit_of_transactions() {
    let mut world = World::with(1, |cfg| cfg.limits.transactions_max = 2);
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    world.advance(40_000);
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&there, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    let cancel = |via: &str| {
        let cancel = Message::request("CANCEL", "sip:bob@one.att.net").with("Via", via);
        cancel
            .with("From", invite.text("From"))
            .with("To", invite.text("To"))
            .with("Call-ID", invite.text("Call-ID"))
            .with("CSeq", "33302 CANCEL")
            .with("Content-Length", 0)
    };
    world.udp(ALICE, &cancel(&via(ALICE, "of-nothing")));
    world.response(ALICE, 481);
    world.udp(ALICE, &cancel(invite.text("Via")));
    let ok = world.response(ALICE, 200);
    let terminated = world.response(ALICE, 487);
    assert_eq!(terminated.text("To"), ok.text("To"));
    world.request(BOB, "CANCEL");
    world.udp(BOB, &answer(&there, 487, "Request Terminated", "b1", BOB));
    world.request(BOB, "ACK");
    // As it comes again over UDP.
    world.udp(ALICE, &cancel(invite.text("Via")));
    assert_eq!(world.response(ALICE, 200).text("To"), ok.text("To"));
    let ack = cancel(invite.text("Via")).setting("CSeq", "33302 ACK");
    let ack = ack.setting("To", terminated.text("To"));
    world.udp_bytes(
        ALICE,
        &String::from_utf8(ack.to_bytes())
            .expect("text")
            .replacen("CANCEL", "ACK", 1)
            .into_bytes(),
    );
    world.advance(40_000);
    world.silent();
    assert_eq!((world.calls(), world.parts()), (0, 0));
    world.end();
}
