//! Calls through the sans-IO core, with one shard and with several: no socket, no clock, no thread.

#[path = "core/control.rs"]
mod control;
#[path = "core/gruus.rs"]
mod gruus;
#[path = "core/messages.rs"]
mod messages;
#[path = "core/names.rs"]
mod names;
#[path = "core/outbound.rs"]
mod outbound;
#[path = "core/overload.rs"]
mod overload;
#[path = "core/paths.rs"]
mod paths;
#[path = "core/records.rs"]
mod records;
#[path = "core/refers.rs"]
mod refers;
#[path = "core/reload.rs"]
mod reload;
#[path = "core/session_timers.rs"]
mod session_timers;
#[path = "core/targets.rs"]
mod targets;
#[path = "core/traces.rs"]
mod traces;
#[path = "core/unanswered.rs"]
mod unanswered;
#[path = "core/undelivered.rs"]
mod undelivered;
#[path = "core/world.rs"]
mod world;

use bench_harness::sip::Message;
use messages::*;
use ringway::metrics::DropReason;
use world::{SERVER, World, on_each_number_of_shards};

#[test]
fn a_call_goes_through_and_leaves_nothing_behind() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let (a, b) = (&standing.invite_a, &standing.invite_b);
        assert_eq!(b.uri(), Some(&*format!("sip:bob@{BOB}")));
        assert_eq!(b.text("From"), a.text("From"));
        assert_eq!(b.text("To"), format!("<sip:bob@{BOB}>"));
        assert_ne!(b.text("Call-ID"), a.text("Call-ID"));
        assert_eq!(b.text("CSeq"), "1 INVITE");
        assert_eq!(b.get_all("Via").len(), 1);
        assert_eq!(b.text("Max-Forwards"), "69");
        assert_eq!(
            b.text("Contact"),
            format!("<sip:{SERVER};transport=UDP>;+g.3gpp.mid-call;audio")
        );
        assert_eq!(b.text("X-Unknown"), "stays as it is");
        assert_eq!(standing.ok_a.text("Via"), a.text("Via"));
        assert_eq!(standing.ok_a.text("From"), a.text("From"));
        assert_eq!(standing.ok_a.text("To"), format!("{};tag=b1", a.text("To")));
        assert_eq!(standing.ok_a.text("CSeq"), "33302 INVITE");
        assert_eq!(
            standing.ok_a.text("Contact"),
            format!("<sip:{SERVER};transport=UDP>;video")
        );

        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, a, &standing.ok_a));
        let bye = world.request(BOB, "BYE");
        assert_eq!(
            (bye.text("CSeq"), bye.text("Call-ID")),
            ("2 BYE", b.text("Call-ID"))
        );
        assert_eq!(bye.text("To"), standing.ok_b.text("To"));
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        assert_eq!(world.calls(), 0);
        world.advance(40_000);
        world.silent();
        world.end();
    });
}

#[test]
fn the_callee_hangs_up() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        let bye = in_dialog_from_callee("BYE", 1, BOB, &standing.invite_b, &standing.ok_b);
        world.udp(BOB, &bye);
        let bye = world.request(ALICE, "BYE");
        assert_eq!(bye.uri(), Some(&*format!("sip:alice@{ALICE}")));
        assert_eq!(bye.text("From"), standing.ok_a.text("To"));
        assert_eq!(bye.text("To"), standing.invite_a.text("From"));
        assert_eq!(bye.text("Call-ID"), "c1");
        world.udp(ALICE, &answer(&bye, 200, "OK", "", ALICE));
        world.response(BOB, 200);
        assert_eq!(world.calls(), 0);
        world.end();
    });
}

#[test]
fn requests_cross_a_call_both_ways_with_numbers_of_their_own() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call(&mut world, "c1");
        for (i, method) in [
            "INFO",
            "UPDATE",
            "REFER",
            "MESSAGE",
            "OPTIONS",
            "NOTIFY",
            "FROBNICATE",
        ]
        .iter()
        .enumerate()
        {
            let number = 33303 + i as u32;
            world.udp(
                ALICE,
                &in_dialog(method, number, ALICE, &standing.invite_a, &standing.ok_a),
            );
            let there = world.request(BOB, method);
            assert_eq!(there.text("CSeq"), format!("{} {method}", i + 2));
            world.udp(BOB, &answer(&there, 202, "Accepted", "", BOB));
            let back = world.response(ALICE, 202);
            assert_eq!(back.text("CSeq"), format!("{number} {method}"));
            let reverse =
                in_dialog_from_callee(method, 500 + i as u32, BOB, &standing.invite_b, &standing.ok_b);
            world.udp(BOB, &reverse);
            let there = world.request(ALICE, method);
            assert_eq!(there.text("CSeq"), format!("{} {method}", i + 1));
            world.udp(ALICE, &answer(&there, 200, "OK", "", ALICE));
            let back = world.response(BOB, 200);
            assert_eq!(back.text("CSeq"), reverse.text("CSeq"));
        }
        world.end();
    });
}

#[test]
fn a_retransmitted_200_is_answered_with_the_ack_again_and_a_lost_ack_ends_the_call() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    world.udp(BOB, &standing.ok_b);
    world.request(BOB, "ACK");
    world.udp(ALICE, &standing.invite_a);
    world.silent();

    let mut world = with_bob(1);
    calls_bob(&mut world, "c2");
    let invite_b = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&invite_b, 200, "OK", "b1", BOB));
    // RFC 3261 §13.3.1.4: at T1, doubling up to T2, for 64*T1.
    world.response(ALICE, 200);
    world.advance(31_000);
    for _ in 0..9 {
        world.response(ALICE, 200);
    }
    world.advance(1_100);
    world.response(ALICE, 200);
    world.request(ALICE, "BYE");
    world.request(BOB, "ACK");
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.forget_waiting();
    world.advance(40_000);
    assert_eq!(
        world.calls(),
        0,
        "the caller that never answers its BYE is given up"
    );
    world.end();
}

#[test]
fn a_cancelled_call_stops_ringing() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let invite_a = calls_bob(&mut world, "c1");
        let invite_b = world.request(BOB, "INVITE");
        world.udp(BOB, &answer(&invite_b, 180, "Ringing", "b1", BOB));
        world.response(ALICE, 180);
        let cancel = cancel(&invite_a).with("Reason", "SIP;cause=487;text=\"changed my mind\"");
        world.udp(ALICE, &cancel);
        let ok = world.response(ALICE, 200);
        let terminated = world.response(ALICE, 487);
        assert_eq!(terminated.text("To"), ok.text("To"), "RFC 3261 §9.2");
        let cancel_b = world.request(BOB, "CANCEL");
        assert_eq!(cancel_b.text("Via"), invite_b.text("Via"));
        assert_eq!(cancel_b.text("CSeq"), "1 CANCEL");
        assert_eq!(cancel_b.text("Reason"), cancel.text("Reason"));
        world.udp(BOB, &answer(&cancel_b, 200, "OK", "b1", BOB));
        world.udp(BOB, &answer(&invite_b, 487, "Request Terminated", "b1", BOB));
        world.request(BOB, "ACK");
        assert_eq!(world.calls(), 0);
        world.forget_waiting();
        world.advance(40_000);
        world.end();
    });
}

#[test]
fn a_200_that_crosses_the_cancel_is_acknowledged_and_hung_up() {
    let mut world = with_bob(1);
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    let cancel = cancel(&invite_a);
    world.udp(ALICE, &cancel);
    world.response(ALICE, 200);
    world.response(ALICE, 487);
    // RFC 3261 §9.1: no CANCEL before a provisional response.
    world.silent();
    world.udp(BOB, &answer(&invite_b, 200, "OK", "b1", BOB));
    world.request(BOB, "ACK");
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    assert_eq!(world.calls(), 0);
    world.end();
}

#[test]
fn failures_are_passed_on_and_acknowledged() {
    for (status, reason) in [
        (302, "Moved Temporarily"),
        (486, "Busy Here"),
        (500, "Oops"),
        (603, "Decline"),
    ] {
        let mut world = with_bob(1);
        calls_bob(&mut world, "c1");
        let invite_b = world.request(BOB, "INVITE");
        let failure = answer(&invite_b, status, reason, "b1", BOB);
        world.udp(BOB, &failure);
        let ack = world.request(BOB, "ACK");
        assert_eq!(
            (ack.text("CSeq"), ack.text("Via")),
            ("1 ACK", invite_b.text("Via"))
        );
        let got = world.response(ALICE, status);
        assert_eq!(got.reason(), Some(reason));
        if status == 302 {
            assert_eq!(
                got.text("Contact"),
                failure.text("Contact"),
                "where to is not ours to change"
            );
        }
        // Repeated, it is acknowledged again and not passed on again.
        world.udp(BOB, &failure);
        world.request(BOB, "ACK");
        assert_eq!(world.calls(), 0);
        world.forget_waiting();
        world.advance(40_000);
        world.end();
    }
}

#[test]
fn an_unknown_callee_is_404_an_offline_one_480_and_a_silent_one_408() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.udp(ALICE, &invite("alice", ALICE, "sip:nobody@one.att.net", "c1"));
        world.response(ALICE, 100);
        world.response(ALICE, 404);
        world.udp(ALICE, &invite("alice", ALICE, "sip:bob@elsewhere.example", "c2"));
        world.response(ALICE, 404);
        calls_bob(&mut world, "c3");
        world.forget_waiting();
        world.advance(33_000);
        let mut last = world.next(ALICE);
        while last.status() != Some(408) {
            last = world.next(ALICE);
        }
        world.forget_waiting();
        let gone = register("bob", BOB, "reg-bob")
            .setting("Contact", "*")
            .setting("CSeq", "2 REGISTER");
        let gone = gone.with("Expires", 0).setting("Via", via(BOB, "gone"));
        world.udp(BOB, &gone);
        world.response(BOB, 200);
        world.forget_waiting();
        calls_bob(&mut world, "c4");
        world.response(ALICE, 480);
        assert_eq!(world.calls(), 0);
        world.forget_waiting();
        world.advance(40_000);
        world.end();
    });
}

#[test]
fn a_phone_that_rings_for_ever_is_stopped_by_timer_c() {
    let mut world = with_bob(1);
    calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&invite_b, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    world.advance(182_000);
    world.request(BOB, "CANCEL");
    world.response(ALICE, 408);
    world.udp(BOB, &answer(&invite_b, 487, "Request Terminated", "b1", BOB));
    assert_eq!(world.calls(), 0);
    world.forget_waiting();
    world.advance(40_000);
    world.end();
}

#[test]
fn all_contacts_ring_the_first_answer_wins_and_the_others_are_cancelled() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
        world.response(BOB_TABLET, 200);
        let invite_a = calls_bob(&mut world, "c1");
        let phone = world.request(BOB, "INVITE");
        let tablet = world.request(BOB_TABLET, "INVITE");
        assert_ne!(phone.text("Call-ID"), tablet.text("Call-ID"));
        world.udp(BOB, &answer(&phone, 180, "Ringing", "p1", BOB));
        world.udp(BOB_TABLET, &answer(&tablet, 180, "Ringing", "t1", BOB_TABLET));
        world.response(ALICE, 180);
        world.response(ALICE, 180);
        world.udp(BOB_TABLET, &answer(&tablet, 200, "OK", "t1", BOB_TABLET));
        let ok = world.response(ALICE, 200);
        assert!(ok.text("To").ends_with(";tag=t1"));
        let cancel = world.request(BOB, "CANCEL");
        assert!(cancel.text("Reason").contains("cause=200"));
        world.udp(BOB, &answer(&cancel, 200, "OK", "p1", BOB));
        world.udp(BOB, &answer(&phone, 487, "Request Terminated", "p1", BOB));
        world.request(BOB, "ACK");
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
        world.request(BOB_TABLET, "ACK");
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok));
        let bye = world.request(BOB_TABLET, "BYE");
        world.udp(BOB_TABLET, &answer(&bye, 200, "OK", "", BOB_TABLET));
        world.response(ALICE, 200);
        world.silent();
        assert_eq!(world.calls(), 0);
        world.end();
    });
}

#[test]
fn of_several_failures_the_best_goes_back_when_the_last_has_come() {
    let mut world = with_bob(1);
    world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
    world.response(BOB_TABLET, 200);
    calls_bob(&mut world, "c1");
    let phone = world.request(BOB, "INVITE");
    let tablet = world.request(BOB_TABLET, "INVITE");
    world.udp(BOB, &answer(&phone, 486, "Busy Here", "p1", BOB));
    world.request(BOB, "ACK");
    world.silent();
    world.udp(BOB_TABLET, &answer(&tablet, 500, "Oops", "t1", BOB_TABLET));
    world.request(BOB_TABLET, "ACK");
    world.response(ALICE, 486);
    assert_eq!(world.calls(), 0);
    world.end();
}

#[test]
fn a_message_reaches_a_phone_outside_any_call() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let message = Message::request("MESSAGE", "sip:bob@one.att.net")
            .with("Via", via(ALICE, "m1"))
            .with("From", "<sip:alice@one.att.net>;tag=m1")
            .with("To", "<sip:bob@one.att.net>")
            .with("Call-ID", "m1")
            .with("CSeq", "7 MESSAGE")
            .with_body("text/plain", "hello\0world");
        world.udp(ALICE, &message);
        let there = world.request(BOB, "MESSAGE");
        assert_eq!(there.body, b"hello\0world");
        world.udp(BOB, &answer(&there, 200, "OK", "b1", BOB));
        let back = world.response(ALICE, 200);
        assert_eq!(back.text("CSeq"), "7 MESSAGE");
        assert_eq!(world.calls(), 0);
        world.advance(40_000);
        world.silent();
        world.end();
    });
}

#[test]
fn requests_are_repeated_over_udp_and_their_repetitions_absorbed() {
    let mut world = with_bob(1);
    let invite_a = calls_bob(&mut world, "c1");
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 100);
    let first = world.request(BOB, "INVITE");
    // RFC 3261 §17.1.1.2: 500 ms, then 1 s, then 2 s.
    world.advance(499);
    world.silent();
    world.advance(2);
    assert_eq!(world.request(BOB, "INVITE").to_bytes(), first.to_bytes());
    world.advance(1_000);
    world.request(BOB, "INVITE");
    world.silent();
    world.udp(BOB, &answer(&first, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    world.advance(60_000);
    world.silent();
    world.udp(ALICE, &invite_a);
    world.response(ALICE, 180);
    world.end();
}

#[test]
fn garbage_is_counted_and_a_bad_request_is_told_what_is_wrong() {
    let mut world = with_bob(1);
    for garbage in [
        &b"\0\x01\x02"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"INVITE",
        b"SIP/2.0 200 OK\r\n\r\n",
    ] {
        world.udp_bytes(ALICE, garbage);
    }
    world.silent();
    assert!(world.drops(DropReason::Garbage) + world.drops(DropReason::UnanswerableRequest) >= 3);
    assert_eq!(world.drops(DropReason::BadResponse), 1);
    let bad = invite("alice", ALICE, "sip:bob@one.att.net", "c1").setting("CSeq", "1 BYE");
    world.udp(ALICE, &bad);
    let refused = world.response(ALICE, 400);
    assert!(
        refused.reason().is_some_and(|reason| reason.contains("CSeq")),
        "{:?}",
        refused.reason()
    );
    world.end();
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let bytes = register("bob", BOB, "tcp-1").to_bytes();
    let bytes = String::from_utf8(bytes)
        .expect("text")
        .replace("SIP/2.0/UDP", "SIP/2.0/TCP")
        .into_bytes();
    let mut both = bytes.clone();
    both.extend_from_slice(
        &String::from_utf8(bytes.clone())
            .expect("text")
            .replace("z9hG4bK", "z9hG4bK2")
            .into_bytes(),
    );
    for cut in 1..both.len() {
        let mut world = World::new(1);
        world.tcp_bytes(BOB, &both[..cut]);
        world.tcp_bytes(BOB, &both[cut..]);
        world.response(BOB, 200);
        world.response(BOB, 200);
        world.silent();
        world.end();
    }
    let mut world = World::new(2);
    for byte in &bytes {
        world.tcp_bytes(BOB, &[*byte]);
    }
    world.response(BOB, 200);
    world.end();
}

#[test]
fn draining_refuses_new_calls_and_hanging_up_ends_the_old() {
    let mut world = with_bob(2);
    let standing = call(&mut world, "c1");
    world.drain();
    world.udp(ALICE, &invite("alice", ALICE, "sip:bob@one.att.net", "c2"));
    let refused = world.response(ALICE, 503);
    assert!(refused.has("Retry-After"));
    world.udp(
        ALICE,
        &in_dialog("INFO", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    world.request(BOB, "INFO");
    world.hang_up_all();
    // RFC 3261 §15.1.2: what is still unanswered when the dialog ends gets 487.
    world.response(ALICE, 487);
    let bye_a = world.request(ALICE, "BYE");
    let bye_b = world.request(BOB, "BYE");
    world.udp(ALICE, &answer(&bye_a, 200, "OK", "", ALICE));
    world.udp(BOB, &answer(&bye_b, 200, "OK", "", BOB));
    world.forget_waiting();
    world.advance(40_000);
    assert_eq!(world.calls(), 0);
    world.end();
}
