//! Calls that are handed on by REFER: its events are told apart by its number (RFC 3515 §2.4.6), which is another one on each leg.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

const CAROL: &str = "<sip:carol@one.att.net>";

/// ALICE refers BOB to somebody: the number that her REFER has there.
#[track_caller]
fn refers_bob(world: &mut World, cseq: u32, standing: &Standing) -> u32 {
    let refer = in_dialog("REFER", cseq, ALICE, &standing.invite_a, &standing.ok_a)
        .with("Refer-To", CAROL)
        .with("Contact", format!("<sip:alice@{ALICE}>"));
    world.udp(ALICE, &refer);
    let there = world.request(BOB, "REFER");
    world.udp(BOB, &answer(&there, 202, "Accepted", "", BOB));
    world.response(ALICE, 202);
    let (number, _) = there.text("CSeq").split_once(' ').expect("a number and a method");
    number.parse().expect("a number")
}

fn notify(cseq: u32, event: &str, standing: &Standing) -> Message {
    in_dialog_from_callee("NOTIFY", cseq, BOB, &standing.invite_b, &standing.ok_b)
        .with("Event", event)
        .with("Subscription-State", "active;expires=60")
        .with("Contact", format!("<sip:bob@{BOB}>"))
        .with_body("message/sipfrag", "SIP/2.0 100 Trying\r\n")
}

/// BOB says `event`, and ALICE hears this.
#[track_caller]
fn is_heard(world: &mut World, cseq: u32, event: &str, heard: &str, standing: &Standing) {
    world.udp(BOB, &notify(cseq, event, standing));
    let there = world.request(ALICE, "NOTIFY");
    assert_eq!(there.get_all("Event"), [heard]);
    world.udp(ALICE, &answer(&there, 200, "OK", "", ALICE));
    world.response(BOB, 200);
    world.silent();
}

#[test]
fn what_becomes_of_a_refer_is_told_by_the_number_that_it_had() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let first = refers_bob(&mut world, 33303, &standing);
        let second = refers_bob(&mut world, 33304, &standing);
        assert_ne!(first, 33303);
        is_heard(
            &mut world,
            1,
            &format!("refer;id={second}"),
            "refer;id=33304",
            &standing,
        );
        is_heard(
            &mut world,
            2,
            &format!("Refer ; x=\"id=7\" ;ID={first};y"),
            "Refer ; x=\"id=7\" ;ID=33303;y",
            &standing,
        );
        // Of the first it need not say which, of others than REFERs nothing is known.
        for (cseq, event) in [
            "refer",
            "refer;id=4711",
            "refer;id",
            "refer;id=x",
            "presence;id=2",
        ]
        .into_iter()
        .enumerate()
        {
            is_heard(&mut world, 3 + cseq as u32, event, event, &standing);
        }
        // ALICE wants to hear no more of the second.
        let subscribe = in_dialog("SUBSCRIBE", 33305, ALICE, &standing.invite_a, &standing.ok_a)
            .with("Event", "refer;id=33304")
            .with("Expires", 0)
            .with("Contact", format!("<sip:alice@{ALICE}>"));
        world.udp(ALICE, &subscribe);
        let there = world.request(BOB, "SUBSCRIBE");
        assert_eq!(there.text("Event"), format!("refer;id={second}"));
        world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        // BOB's own REFER has a number of his.
        let refer = in_dialog_from_callee("REFER", 8, BOB, &standing.invite_b, &standing.ok_b)
            .with("Refer-To", CAROL)
            .with("Contact", format!("<sip:bob@{BOB}>"));
        world.udp(BOB, &refer);
        let there = world.request(ALICE, "REFER");
        let number = there.text("CSeq").replace(" REFER", "");
        world.udp(ALICE, &answer(&there, 202, "Accepted", "", ALICE));
        world.response(BOB, 202);
        let notify = in_dialog("NOTIFY", 33306, ALICE, &standing.invite_a, &standing.ok_a)
            .with("Event", format!("refer;id={number}"))
            .with("Subscription-State", "terminated;reason=noresource")
            .with("Contact", format!("<sip:alice@{ALICE}>"));
        world.udp(ALICE, &notify);
        let there = world.request(BOB, "NOTIFY");
        assert_eq!(there.text("Event"), "refer;id=8");
        world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.hang_up_all();
        world.forget_waiting();
        world.end_after_all_timers();
    });
}

#[test]
fn of_many_refers_the_last_eight_are_known_and_of_two_events_the_first_counts() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    let numbers: Vec<u32> = (0..9)
        .map(|i| refers_bob(&mut world, 33303 + i, &standing))
        .collect();
    for (i, number) in numbers.iter().enumerate() {
        let known = if i == 0 { *number } else { 33303 + i as u32 };
        let (said, heard) = (format!("refer;id={number}"), format!("refer;id={known}"));
        is_heard(&mut world, 1 + i as u32, &said, &heard, &standing);
    }
    let twice = notify(10, &format!("refer;id={}", numbers[8]), &standing).with("Event", "refer;id=1");
    world.udp(BOB, &twice);
    let there = world.request(ALICE, "NOTIFY");
    assert_eq!(there.get_all("Event"), ["refer;id=33311", "refer;id=1"]);
    world.udp(ALICE, &answer(&there, 200, "OK", "", ALICE));
    world.response(BOB, 200);
    world.hang_up_all();
    world.forget_waiting();
    world.end_after_all_timers();
}
