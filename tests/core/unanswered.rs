//! Requests other than INVITE whose phone says nothing: RFC 3261 §17.1.2.2, timer F; RFC 4320 §4.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::on_each_number_of_shards;

/// 64*T1, and a moment.
const TIMER_F_MS: u64 = 32_100;

fn message(call_id: &str) -> Message {
    Message::request("MESSAGE", "sip:bob@one.att.net")
        .with("Via", via(ALICE, &format!("message{call_id}")))
        .with("Max-Forwards", 70)
        .with("From", "<sip:alice@one.att.net>;tag=a1")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", call_id)
        .with("CSeq", "1 MESSAGE")
        .with("Content-Length", 0)
}

/// RFC 4320 §4.1: when Timer E of the client has come to T2, and not before.
#[test]
fn what_is_not_answered_in_time_is_told_that_it_has_arrived() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let message = message("m1").inserting("Timestamp", "54.5");
        world.udp(ALICE, &message);
        let there = world.request(BOB, "MESSAGE");
        // Whatever the phone says of how far it has come is for its own server alone.
        for status in [100, 183] {
            world.udp(BOB, &answer(&there, status, "Whatever", "b1", BOB));
        }
        world.advance(3_499);
        while world.take_request(BOB, "MESSAGE").is_some() {}
        world.silent();
        world.advance(2);
        let trying = world.response(ALICE, 100);
        assert_eq!(trying.text("Timestamp"), "54.5");
        assert_eq!(trying.text("Via"), message.text("Via"));
        assert_eq!(trying.text("To"), message.text("To"), "no dialog");
        world.udp(ALICE, &message);
        world.response(ALICE, 100);
        world.udp(BOB, &answer(&there, 183, "Session Progress", "b1", BOB));
        world.silent();
        world.udp(BOB, &answer(&there, 200, "OK", "b1", BOB));
        assert!(!world.response(ALICE, 200).has("Timestamp"));
        world.udp(ALICE, &message);
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}

#[test]
fn what_is_answered_in_time_or_came_over_tcp_is_told_no_more_than_that() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let info = |cseq| in_dialog("INFO", cseq, ALICE, &standing.invite_a, &standing.ok_a);
        world.udp(ALICE, &info(33303));
        let there = world.request(BOB, "INFO");
        world.advance(400);
        world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.advance(10_000);
        world.silent();
        let over_tcp = format!("SIP/2.0/TCP {ALICE};branch=z9hG4bKtcp");
        world.tcp(ALICE, &info(33304).setting("Via", over_tcp));
        world.request(BOB, "INFO");
        world.advance(3_501);
        world.response(ALICE, 100);
        while world.take_request(BOB, "INFO").is_some() {}
        world.silent();
        world.advance(100_000);
        world.hang_up_all();
        world.end_after_all_timers();
    });
}

#[test]
fn nothing_is_said_of_a_message_that_the_phone_never_answers() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.udp(ALICE, &message("m1"));
        world.request(BOB, "MESSAGE");
        world.advance(TIMER_F_MS);
        while world.take_request(BOB, "MESSAGE").is_some() {}
        world.response(ALICE, 100);
        // Whoever sent it has given up by then, too.
        world.silent();
        world.end_after_all_timers();
    });
}

#[test]
fn what_one_phone_has_said_goes_back_when_the_other_never_does() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
        world.response(BOB_TABLET, 200);
        world.udp(ALICE, &message("m1"));
        let (_, there) = (
            world.request(BOB, "MESSAGE"),
            world.request(BOB_TABLET, "MESSAGE"),
        );
        world.udp(BOB_TABLET, &answer(&there, 486, "Busy Here", "b2", BOB_TABLET));
        world.advance(TIMER_F_MS);
        while world.take_request(BOB, "MESSAGE").is_some() {}
        world.response(ALICE, 100);
        world.response(ALICE, 486);
        world.end_after_all_timers();
    });
}

#[test]
fn a_callee_that_vanished_does_not_keep_the_caller_from_hanging_up() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let bye = in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a);
        world.udp(ALICE, &bye);
        world.request(BOB, "BYE");
        world.advance(TIMER_F_MS);
        while world.take_request(BOB, "BYE").is_some() {}
        world.response(ALICE, 100);
        world.silent();
        // RFC 3261 §12.2.1.2: the time-out ended the dialog.
        assert_eq!(world.calls(), 0);
        world.udp(ALICE, &bye);
        world.response(ALICE, 481);
        world.end_after_all_timers();
    });
}
