//! Call records as the control thread is told them.

use bench_harness::sip::Message;
use ringway::metrics::TellKind;
use ringway::port::Tell;
use ringway::record::{CallRecord, EndReason, Texts};

use crate::messages::*;
use crate::world::World;

const SDP_OF_ALICE: &str = "v=0\r\nc=IN IP4 127.0.0.2\r\nm=audio 6000 RTP/AVP 0\r\n";
const SDP_OF_BOB: &str = "v=0\r\nc=IN IP4 127.0.0.3\r\nm=audio 7000 RTP/AVP 0\r\n";

fn keeping_records() -> World {
    let mut world = World::with(1, |cfg| cfg.records.directory = Some("anywhere".into()));
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    world.response(BOB, 200);
    world
}

/// The one record that was told, with its texts.
#[track_caller]
fn record(world: &mut World) -> (CallRecord, Vec<u8>) {
    let told = world.told(0);
    let Some((Tell::CallRecord(record), texts)) = told else {
        panic!("{told:?}");
    };
    assert!(world.told(0).is_none(), "one call, one record");
    (record, texts)
}

fn call_bob(world: &mut World) -> Message {
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1")
        .with("P-Preferred-Identity", "<sip:alice@one.att.net>")
        .with_body("application/sdp", SDP_OF_ALICE);
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

/// The INVITE that bob got, after he has rung for two seconds.
fn ring(world: &mut World) -> Message {
    let invite = world.request(BOB, "INVITE");
    world.advance(100);
    world.udp(BOB, &answer(&invite, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    world.advance(2_000);
    invite
}

#[test]
fn an_answered_call_says_who_when_and_where() {
    let mut world = keeping_records();
    let invite_a = call_bob(&mut world);
    let invite_b = ring(&mut world);
    let ok_b = answer(&invite_b, 200, "OK", "b1", BOB).with_body("application/sdp", SDP_OF_BOB);
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    world.request(BOB, "ACK");
    world.advance(60_000);
    let bye = in_dialog_from_callee("BYE", 1, BOB, &invite_b, &ok_b)
        .with("Reason", "SIP;cause=200, Q.850 ;cause=31;text=\"x\"");
    world.udp(BOB, &bye);
    let bye = world.request(ALICE, "BYE");
    world.udp(ALICE, &answer(&bye, 200, "OK", "", ALICE));
    world.response(BOB, 200);

    let (record, texts) = record(&mut world);
    assert_eq!(record.reason, EndReason::CalleeHungUp);
    assert_eq!((record.status, record.q850, record.rung), (200, Some(31), 1));
    assert_eq!(record.rang_after_ms, Some(100));
    assert_eq!(record.answered_after_ms, Some(2_100));
    assert_eq!(record.ended.since(record.began).as_millis(), 62_100);
    assert_eq!(record.caller.peer.to_string(), ALICE);
    assert_eq!(record.callee.map(|at| at.peer.to_string()), Some(BOB.into()));
    assert_eq!(record.caller_media.map(|at| at.port()), Some(6_000));
    assert_eq!(record.callee_media.map(|at| at.port()), Some(7_000));
    let texts = Texts::read(record.ends, &texts);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(texts.from), invite_a.text("From"));
    assert_eq!(text(texts.to), invite_a.text("To"));
    assert_eq!(text(texts.request_uri), "sip:bob@one.att.net");
    assert_eq!(text(texts.preferred_identity), "<sip:alice@one.att.net>");
    assert_eq!(text(texts.asserted_identity), "");
    assert_eq!(text(texts.caller_call_id), "c1");
    assert_eq!(text(texts.callee_call_id), invite_b.text("Call-ID"));
    assert_eq!(text(texts.caller_contact), format!("sip:alice@{ALICE}"));
    assert_eq!(text(texts.callee_contact), format!("sip:bob@{BOB}"));
    world.advance(40_000);
    world.end();
}

#[test]
fn a_delayed_offer_is_answered_in_the_ack() {
    let mut world = keeping_records();
    let invite_a = calls_bob(&mut world, "c1");
    let invite_b = world.request(BOB, "INVITE");
    let ok_b = answer(&invite_b, 200, "OK", "b1", BOB).with_body("application/sdp", SDP_OF_BOB);
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    let ack = in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a).with_body("application/sdp", SDP_OF_ALICE);
    world.udp(ALICE, &ack);
    world.request(BOB, "ACK");
    world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok_a));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    let (record, _) = record(&mut world);
    assert_eq!(record.reason, EndReason::CallerHungUp);
    assert_eq!((record.rang_after_ms, record.q850), (None, None));
    assert_eq!(record.caller_media.map(|at| at.port()), Some(6_000));
    assert_eq!(record.callee_media.map(|at| at.port()), Some(7_000));
}

#[test]
fn a_call_that_is_not_answered_says_why() {
    let mut world = keeping_records();
    call_bob(&mut world);
    let invite_b = ring(&mut world);
    world.udp(BOB, &answer(&invite_b, 486, "Busy Here", "b1", BOB));
    world.request(BOB, "ACK");
    world.response(ALICE, 486);
    let (busy, _) = record(&mut world);
    assert_eq!((busy.reason, busy.status), (EndReason::Rejected, 486));
    assert_eq!((busy.rang_after_ms, busy.answered_after_ms), (Some(100), None));
    assert_eq!(busy.ended.since(busy.began).as_millis(), 2_100);

    let invite_a = calls_bob(&mut world, "c2");
    let invite_b = ring(&mut world);
    let cancel = cancel(&invite_a).with("Reason", "Q.850;cause=127");
    world.udp(ALICE, &cancel);
    let cancel_b = world.request(BOB, "CANCEL");
    world.udp(BOB, &answer(&cancel_b, 200, "OK", "b1", BOB));
    world.udp(BOB, &answer(&invite_b, 487, "Request Terminated", "b1", BOB));
    let (cancelled, _) = record(&mut world);
    assert_eq!(
        (cancelled.reason, cancelled.status, cancelled.q850),
        (EndReason::Cancelled, 487, Some(127))
    );
    world.forget_waiting();

    world.udp(ALICE, &invite("alice", ALICE, "sip:nobody@one.att.net", "c3"));
    let (unknown, _) = record(&mut world);
    assert_eq!((unknown.reason, unknown.status), (EndReason::Refused, 404));
    assert_eq!((unknown.callee, unknown.rung), (None, 0));
    world.forget_waiting();

    world.udp(ALICE, &invite("alice", ALICE, "sip:bob@one.att.net", "c4"));
    world.advance(40_000);
    let (silent, _) = record(&mut world);
    assert_eq!((silent.reason, silent.status), (EndReason::NoAnswer, 408));
    world.forget_waiting();

    world.udp(ALICE, &invite("alice", ALICE, "sip:bob@one.att.net", "c5"));
    world.forget_waiting();
    world.hang_up_all();
    world.advance(240_000);
    let (stopped, _) = record(&mut world);
    assert_eq!((stopped.reason, stopped.status), (EndReason::Shutdown, 487));

    world.drain();
    world.udp(ALICE, &invite("alice", ALICE, "sip:bob@one.att.net", "c6"));
    let (late, texts) = record(&mut world);
    assert_eq!((late.reason, late.status), (EndReason::Shutdown, 503));
    assert_eq!(Texts::read(late.ends, &texts).caller_call_id, b"c6");
}

#[test]
fn without_records_nothing_is_told_and_too_many_are_counted() {
    let mut world = with_bob(1);
    world.udp(ALICE, &invite("alice", ALICE, "sip:nobody@one.att.net", "c1"));
    assert!(world.told(0).is_none());

    let mut world = World::with(1, |cfg| cfg.records.directory = Some("anywhere".into()));
    let dropped = |world: &World| world.shards.metrics[0].tells_dropped[TellKind::CallRecord as usize].get();
    for call in 0..20_000 {
        let invite = invite("alice", ALICE, "sip:nobody@one.att.net", &format!("c{call}"));
        world.udp(ALICE, &invite);
        world.forget_waiting();
        if dropped(&world) > 0 {
            break;
        }
    }
    assert_eq!(dropped(&world), 1);
}
