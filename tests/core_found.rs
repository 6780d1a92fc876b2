//! What the simulator has found, each as the short flow that shows it.

#[path = "core/messages.rs"]
mod messages;
#[path = "core/world.rs"]
mod world;

use bench_harness::sip::Message;
use messages::*;
use world::{World, on_each_number_of_shards};

/// Neither phone: a proxy between.
const CAROL: &str = "127.0.0.7:5072";

/// Alice calls Bob, who has two phones; both ring.
fn two_phones_ring(shards: usize) -> (World, Message, Message, Message) {
    let mut world = with_bob(shards);
    world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
    world.response(BOB_TABLET, 200);
    let invite_a = calls_bob(&mut world, "c1");
    let phone = world.request(BOB, "INVITE");
    let tablet = world.request(BOB_TABLET, "INVITE");
    let ring = |request: &Message, tag: &str, at: &str| {
        answer(request, 180, "Ringing", tag, at)
            .with("Require", "100rel")
            .with("RSeq", 7)
    };
    world.udp(BOB, &ring(&phone, "p1", BOB));
    world.udp(BOB_TABLET, &ring(&tablet, "t1", BOB_TABLET));
    world.response(ALICE, 180);
    world.response(ALICE, 180);
    (world, invite_a, phone, tablet)
}

/// RFC 3261 §18.3: bytes of a datagram beyond its Content-Length are no part of the message. On a stream they would be the
/// beginning of another.
#[test]
fn what_a_datagram_holds_beyond_its_length_goes_no_further() {
    let mut world = with_bob(1);
    let mut bytes = invite("alice", ALICE, "sip:bob@one.att.net", "c1").to_bytes();
    bytes.extend_from_slice(b"BYE sip:bob@one.att.net SIP/2.0\r\n");
    world.udp_bytes(ALICE, &bytes);
    world.response(ALICE, 100);
    // The reader of the world refuses a body of another length.
    let invite_b = world.request(BOB, "INVITE");
    assert_eq!(invite_b.body, b"v=0\r\n");
    let mut bytes = answer(&invite_b, 486, "Busy Here", "b1", BOB).to_bytes();
    bytes.extend_from_slice(b"more");
    world.udp_bytes(BOB, &bytes);
    assert_eq!(world.response(ALICE, 486).body, b"");
    world.request(BOB, "ACK");
    world.end();
}

/// RFC 3261 §8.2.7: without a transaction the same request gets the same answer, To tag and all.
#[test]
fn an_answer_without_state_has_the_same_tag_each_time() {
    let mut world = World::with(1, |cfg| cfg.limits.transactions_max = 1);
    let occupy = invite("alice", ALICE, "sip:bob@one.att.net", "c0");
    world.udp(ALICE, &occupy);
    world.response(ALICE, 100);
    world.response(ALICE, 404);
    let refused = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
    world.udp(ALICE, &refused);
    let first = world.response(ALICE, 503);
    world.udp(ALICE, &refused);
    assert_eq!(world.response(ALICE, 503).text("To"), first.text("To"));
    let unreadable = b"INVITE sip:bob@one.att.net SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.2:5062;branch=z9hG4bKbad\r\n\
        From: <sip:a@b>;tag=1\r\nTo: <sip:bob@one.att.net>\r\nCall-ID: c2\r\nCSeq: x INVITE\r\nContent-Length: 0\r\n\r\n";
    world.udp_bytes(ALICE, unreadable);
    let first = world.response(ALICE, 400);
    world.udp_bytes(ALICE, unreadable);
    assert_eq!(world.response(ALICE, 400).text("To"), first.text("To"));
    world.end();
}

/// RFC 3261 §13.2.2.4: the phone that answered too late has been told BYE; what it still says in its dialog is not for the
/// caller, who has none with it.
#[test]
fn a_phone_that_lost_the_race_does_not_reach_the_caller() {
    for shards in [1, 2, 4] {
        let (mut world, invite_a, phone, tablet) = two_phones_ring(shards);
        world.udp(BOB_TABLET, &answer(&tablet, 200, "OK", "t1", BOB_TABLET));
        let ok = world.response(ALICE, 200);
        world.request(BOB, "CANCEL");
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
        world.request(BOB_TABLET, "ACK");
        let late = answer(&phone, 200, "OK", "p1", BOB);
        world.udp(BOB, &late);
        world.request(BOB, "ACK");
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &in_dialog_from_callee("INFO", 1, BOB, &phone, &late));
        world.response(BOB, 481);
        world.udp(BOB, &in_dialog_from_callee("BYE", 2, BOB, &phone, &late));
        world.response(BOB, 200);
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.silent();
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok));
        let bye = world.request(BOB_TABLET, "BYE");
        world.udp(BOB_TABLET, &answer(&bye, 200, "OK", "", BOB_TABLET));
        world.response(ALICE, 200);
        world.advance(64_000);
        assert_eq!((world.calls(), world.parts()), (0, 0));
        world.end();
    }
}

/// RFC 3261 §13.2.2.4: a 2xx has its ACK, also when a BYE has gone before: the phone would repeat it for half a minute.
#[test]
fn the_ack_of_a_reinvite_goes_through_after_the_bye() {
    for shards in [1, 2, 4] {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let (a, ok_a) = (&standing.invite_a, &standing.ok_a);
        let reinvite = reinvite(33303, &standing)
            .removing("Content-Length")
            .with_body("application/sdp", "v=0\r\n");
        world.udp(ALICE, &reinvite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        world.udp(ALICE, &in_dialog("BYE", 33304, ALICE, a, ok_a));
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33303, ALICE, a, ok_a));
        assert_eq!(world.request(BOB, "ACK").text("CSeq"), "2 ACK");
        world.silent();
        assert_eq!(world.calls(), 0);
        world.end();
    }
}

/// The same where the ACK never comes: the call waits for it no longer than 64*T1.
#[test]
fn a_call_that_ended_does_not_wait_for_ever_for_an_ack() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let (a, ok_a) = (&standing.invite_a, &standing.ok_a);
    let reinvite = reinvite(33303, &standing);
    world.udp(ALICE, &reinvite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("BYE", 33304, ALICE, a, ok_a));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.advance(33_000);
    world.forget_waiting();
    assert_eq!((world.calls(), world.parts()), (0, 0));
    world.end();
}

/// RFC 3262 §3: a PRACK for an early dialog that a refusal has ended is answered 481, and never passed on with a number
/// that the phone has not used.
#[test]
fn a_prack_that_crosses_a_refusal_is_told_that_there_is_nothing_to_acknowledge() {
    let (mut world, invite_a, phone, tablet) = two_phones_ring(1);
    world.udp(BOB, &answer(&phone, 302, "Moved Temporarily", "p1", BOB));
    world.request(BOB, "ACK");
    let ringing = answer(&invite_a, 180, "Ringing", "p1", BOB).setting("Contact", "<sip:127.0.0.1:5060>");
    let prack = in_dialog("PRACK", 33303, ALICE, &invite_a, &ringing).with("RAck", "7 33302 INVITE");
    world.udp(ALICE, &prack);
    world.response(ALICE, 481);
    world.silent();
    world.udp(BOB_TABLET, &answer(&tablet, 486, "Busy Here", "t1", BOB_TABLET));
    world.end();
}

/// RFC 3261 §13.2.2.4: each 2xx that comes again is answered with the ACK of its own INVITE, however many have followed.
#[test]
fn each_2xx_that_comes_again_gets_its_own_ack() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let (a, ok_a) = (&standing.invite_a, &standing.ok_a);
    let mut oks = vec![standing.ok_b.clone()];
    for number in 33303..33306 {
        let reinvite = reinvite(number, &standing);
        world.udp(ALICE, &reinvite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        let ok = answer(&there, 200, "OK", "", BOB);
        world.udp(BOB, &ok);
        world.response(ALICE, 200);
        // Its ACK is still to come: there is none to repeat.
        world.udp(BOB, &ok);
        world.silent();
        world.udp(ALICE, &in_dialog("ACK", number, ALICE, a, ok_a));
        world.request(BOB, "ACK");
        oks.push(ok);
    }
    for ok in &oks {
        world.udp(BOB, ok);
        let ack = world.request(BOB, "ACK");
        assert_eq!(ack.cseq().0, ok.cseq().0);
        world.silent();
    }
    world.end();
}

/// RFC 3261 §13.2.2.4: a 2xx is acknowledged each time that it comes, for 64*T1, also when the call is over: its ACK may have been
/// lost, and whoever has not got it repeats itself all that time.
#[test]
fn a_2xx_that_comes_again_is_acknowledged_when_its_call_is_over() {
    for shards in [1, 2, 4] {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let (a, ok_a) = (&standing.invite_a, &standing.ok_a);
        let reinvite = reinvite(33303, &standing);
        world.udp(ALICE, &reinvite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        let again = answer(&there, 200, "OK", "", BOB);
        world.udp(BOB, &again);
        world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33303, ALICE, a, ok_a));
        let before = world.request(BOB, "ACK");
        world.udp(ALICE, &in_dialog("BYE", 33304, ALICE, a, ok_a));
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        assert_eq!(world.calls(), 0);
        for ok in [&standing.ok_b, &again, &again] {
            world.udp(BOB, ok);
            let ack = world.request(BOB, "ACK");
            assert_eq!(ack.cseq(), (ok.cseq().0, "ACK"));
            for name in ["From", "To", "Call-ID"] {
                assert_eq!(ack.text(name), ok.text(name));
            }
            assert_eq!(ack.uri(), before.uri());
            assert_ne!(
                ack.branch(),
                before.branch(),
                "§17.1.1.3: a transaction of its own"
            );
        }
        // A dialog that nobody would end is not made by an ACK either.
        let to = again.text("To").replace(";tag=", ";tag=another");
        world.udp(BOB, &again.clone().setting("To", to));
        world.silent();
        // RFC 6026 §7.2: Timer M.
        world.advance(33_000);
        world.udp(BOB, &again);
        world.silent();
        world.end();
    }
}

/// The same toward who called, by the route that the 2xx names.
#[test]
fn a_2xx_of_the_caller_that_comes_again_is_acknowledged_by_its_route() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let reinvite = in_dialog_from_callee("INVITE", 500, BOB, &standing.invite_b, &standing.ok_b)
        .with("Contact", format!("<sip:bob@{BOB}>"));
    world.udp(BOB, &reinvite);
    world.response(BOB, 100);
    let there = world.request(ALICE, "INVITE");
    let ok = answer(&there, 200, "OK", "", ALICE).with("Record-Route", format!("<sip:{CAROL};lr>"));
    world.udp(ALICE, &ok);
    world.response(BOB, 200);
    let ack = in_dialog_from_callee("ACK", 500, BOB, &standing.invite_b, &standing.ok_b);
    world.udp(BOB, &ack);
    world.request(ALICE, "ACK");
    let bye = in_dialog_from_callee("BYE", 501, BOB, &standing.invite_b, &standing.ok_b);
    world.udp(BOB, &bye);
    let bye = world.request(ALICE, "BYE");
    world.udp(ALICE, &answer(&bye, 200, "OK", "", ALICE));
    world.response(BOB, 200);
    world.udp(ALICE, &ok);
    let ack = world.request(CAROL, "ACK");
    assert_eq!(ack.text("Route"), format!("<sip:{CAROL};lr>"));
    assert_eq!(ack.cseq(), (ok.cseq().0, "ACK"));
    world.end();
}

/// RFC 3261 §9.1: once its INVITE has a final response a CANCEL has nothing left to do. An ACK that can't be sent ends the
/// transaction of the INVITE (§17.1.4), through which the answer to the CANCEL would be found: it went out again for 64*T1.
#[test]
fn a_cancel_ends_with_its_invite() {
    let mut world = with_bob(1);
    let invite_a = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 100);
    let invite_b = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&invite_b, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    world.udp(ALICE, &cancel(&invite_a));
    world.response(ALICE, 200);
    world.response(ALICE, 487);
    let cancel_b = world.request(BOB, "CANCEL");
    world.refuses_datagrams = true;
    world.udp(BOB, &answer(&invite_b, 487, "Request Terminated", "b1", BOB));
    world.refuses_datagrams = false;
    world.udp(BOB, &answer(&cancel_b, 200, "OK", "b1", BOB));
    world.advance(40_000);
    assert!(world.take_request(BOB, "CANCEL").is_none());
    world.forget_waiting();
    world.end();
}

/// RFC 3261 §7: whoever ends lines with LF alone is understood, and what is passed on ends them with CRLF, as every recipient
/// takes it.
#[test]
fn bare_line_feeds_go_no_further() {
    for shards in [1, 2, 4] {
        let mut world = with_bob(shards);
        let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1").to_bytes();
        let text = String::from_utf8(invite).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let bare = format!(
            "{}\n\n{body}",
            head.replace("\r\n", "\n").replace("X-Unknown: ", "X-Unknown:\n ")
        );
        world.udp_bytes(ALICE, bare.as_bytes());
        world.response(ALICE, 100);
        // The reader of the world takes nothing but CRLF.
        let invite_b = world.request(BOB, "INVITE");
        assert_eq!(invite_b.lines("X-Unknown"), ["X-Unknown:\r\n stays as it is"]);
        assert_eq!(invite_b.body, b"v=0\r\n");
        world.udp(BOB, &answer(&invite_b, 486, "Busy Here", "b1", BOB));
        world.response(ALICE, 486);
        world.request(BOB, "ACK");
        world.end();
    }
}

/// OPTIONS to the server itself, with a body of so many bytes.
fn long_options(at: &str, number: usize, body: usize) -> Vec<u8> {
    Message::request("OPTIONS", "sip:one.att.net")
        .with("Via", format!("SIP/2.0/TCP {at};branch=z9hG4bKo{number}"))
        .with("From", "<sip:alice@one.att.net>;tag=o")
        .with("To", "<sip:one.att.net>")
        .with("Call-ID", format!("o{number}"))
        .with("CSeq", "1 OPTIONS")
        .with_body("text/plain", "x".repeat(body))
        .to_bytes()
}

#[test]
fn long_messages_that_follow_one_another_are_heard_however_large_the_chunks_are() {
    for chunk in [4_096, 20_000, 65_536, 600_000] {
        let mut world = World::new(1);
        let bytes: Vec<u8> = (0..9)
            .flat_map(|number| long_options(ALICE, number, 60_000))
            .collect();
        for bytes in bytes.chunks(chunk) {
            world.tcp_bytes(ALICE, bytes);
        }
        for _ in 0..9 {
            world.response(ALICE, 200);
        }
        assert!(world.closed.is_empty());
        world.end();
    }
}

#[test]
fn line_ends_between_messages_begin_none() {
    let mut world = World::new(1);
    let options = |number| [&long_options(ALICE, number, 10)[..], b"\r\n"].concat();
    world.tcp_bytes(ALICE, &options(1));
    world.response(ALICE, 200);
    // Longer than a message may be in coming.
    world.advance(60_000);
    for piece in [&b"\r"[..], b"\n", b"\r", b"\n", b"\r\n"] {
        world.tcp_bytes(ALICE, piece);
        world.advance(60_000);
    }
    world.tcp_bytes(ALICE, &options(2));
    world.response(ALICE, 200);
    assert_eq!((world.closed.len(), world.pongs), (0, 2));
    world.end();
}

/// RFC 3261 §7.1: the version may come in any case, and is sent in upper case.
#[test]
fn the_version_goes_on_in_upper_case() {
    let mut world = with_bob(1);
    let odd = |message: Message| {
        let text = String::from_utf8(message.to_bytes()).expect("text");
        text.replacen("SIP/2.0", "SiP/2.0", 1)
    };
    let text = odd(invite("alice", ALICE, "sip:bob@one.att.net", "c1"));
    assert!(text.starts_with("INVITE sip:bob@one.att.net SiP/2.0\r\n"));
    world.udp_bytes(ALICE, text.as_bytes());
    world.response(ALICE, 100);
    // The reader of the world knows but one way to write it.
    let there = world.request(BOB, "INVITE");
    world.udp_bytes(BOB, odd(answer(&there, 486, "Busy Here", "b1", BOB)).as_bytes());
    world.request(BOB, "ACK");
    world.response(ALICE, 486);
    world.end();
}

/// RFC 3261 §13.2.2.4: of two phones behind one contact that have rung, each in a dialog of its own, the second that answers is hung up.
#[test]
fn who_has_rung_and_answers_second_behind_one_contact_is_acknowledged_and_hung_up() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(BOB, "INVITE");
        for tag in ["b1", "b2"] {
            world.udp(BOB, &answer(&invite_b, 180, "Ringing", tag, BOB));
            world.response(ALICE, 180);
        }
        world.udp(BOB, &answer(&invite_b, 200, "OK", "b2", BOB));
        let ok_a = world.response(ALICE, 200);
        let second = answer(&invite_b, 200, "OK", "b1", BOB);
        world.udp(BOB, &second);
        assert!(world.request(BOB, "ACK").text("To").ends_with(";tag=b1"));
        let bye = world.request(BOB, "BYE");
        assert!(bye.text("To").ends_with(";tag=b1"));
        // It comes again: no more than its ACK.
        world.udp(BOB, &second);
        assert!(world.request(BOB, "ACK").text("To").ends_with(";tag=b1"));
        world.silent();
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
        assert!(world.request(BOB, "ACK").text("To").ends_with(";tag=b2"));
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok_a));
        let bye = world.request(BOB, "BYE");
        assert!(bye.text("To").ends_with(";tag=b2"));
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}
