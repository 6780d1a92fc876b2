//! Requests other than INVITE whose phone says nothing: RFC 3261 §17.1.2.2, timer F; RFC 4320 §4.2.

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

#[test]
fn nothing_is_said_of_a_message_that_the_phone_never_answers() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.udp(ALICE, &message("m1"));
        world.request(BOB, "MESSAGE");
        world.advance(TIMER_F_MS);
        while world.take_request(BOB, "MESSAGE").is_some() {}
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
        world.silent();
        // RFC 3261 §12.2.1.2: the time-out ended the dialog.
        assert_eq!(world.calls(), 0);
        world.udp(ALICE, &bye);
        world.response(ALICE, 481);
        world.end_after_all_timers();
    });
}
