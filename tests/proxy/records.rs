//! Call records of proxied calls, as the control thread is told them.

use std::sync::Arc;

use bench_harness::sip::Message;
use ringway::config::Config;
use ringway::metrics::Limit;
use ringway::port::Tell;
use ringway::record::{CallRecord, EndReason, Extent, Texts};

use crate::messages::*;
use crate::world::World;
use crate::{TO_BOB, ack_of, reply, tables_of, within};

const SDP_OF_ALICE: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.2\r\ns=-\r\nc=IN IP4 127.0.0.2\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8\r\n";
const SDP_OF_BOB: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.3\r\ns=-\r\nc=IN IP4 127.0.0.3\r\nt=0 0\r\nm=audio 7000 RTP/AVP 8\r\n";
const BOBS_URI: &str = "sip:bob@example.com";

fn keeping(shards: usize, table: &str, change: impl FnOnce(&mut Config)) -> World {
    let tables = tables_of(table);
    World::with(shards, |cfg| {
        cfg.routes = tables.routes;
        cfg.trunks = tables.trunks;
        cfg.records.directory = Some("anywhere".into());
        change(cfg);
    })
}

/// The records that were told, in the order of their shards.
fn records(world: &mut World) -> Vec<(CallRecord, Vec<u8>)> {
    let mut all = Vec::new();
    for shard in 0..world.shards.metrics.len() {
        while let Some((tell, bytes)) = world.told(shard) {
            let Tell::CallRecord(record) = tell else {
                panic!("{tell:?}")
            };
            all.push((record, bytes));
        }
    }
    all
}

fn record(world: &mut World) -> (CallRecord, Vec<u8>) {
    let mut all = records(world);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Alice's call is answered after two seconds; what she sent, and what she got.
fn answered(world: &mut World, call_id: &str) -> (Message, Message) {
    let invite = invite("alice", ALICE, BOBS_URI, call_id).with_body("application/sdp", SDP_OF_ALICE);
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.advance(100);
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    world.advance(1_900);
    let ok = reply(&there, 200, "b1", BOB).with_body("application/sdp", SDP_OF_BOB);
    world.udp(BOB, &ok);
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &within("ACK", 1, &invite, &ok));
    world.request(BOB, "ACK");
    (invite, ok)
}

fn hang_up(world: &mut World, invite: &Message, ok: &Message) {
    world.udp(
        ALICE,
        &within("BYE", 2, invite, ok).with("Reason", "Q.850;cause=31"),
    );
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &reply(&bye, 200, "b1", BOB));
    world.response(ALICE, 200);
}

#[test]
fn a_call_that_is_recorded_by_route_has_a_record_from_its_invite_to_its_bye() {
    crate::on_each_number_of_shards(|shards| {
        let table = "[[trunk]]\nname = \"office\"\ndestinations = [\"sip:127.0.0.3:5063\"]\n\
                     [[route]]\naction = \"proxy\"\nto = [\"trunk:office\"]\n";
        let mut world = keeping(shards, table, |_| {});
        let (invite, ok) = answered(&mut world, "c1");
        assert_eq!(records(&mut world).len(), 0, "it goes on");
        world.advance(60_000);
        hang_up(&mut world, &invite, &ok);
        let (record, texts) = record(&mut world);
        assert!(record.is_proxied);
        assert_eq!(
            (record.reason, record.extent),
            (EndReason::CallerHungUp, Extent::WholeCall)
        );
        assert_eq!((record.status, record.q850, record.rung), (200, Some(31), 1));
        assert_eq!(
            (record.rang_after_ms, record.answered_after_ms),
            (Some(100), Some(2_000))
        );
        assert_eq!(record.ended.since(record.began).as_millis(), 62_000);
        assert_eq!(record.caller.peer.to_string(), ALICE);
        assert_eq!(record.callee.map(|at| at.peer.to_string()), Some(BOB.into()));
        assert_eq!(record.caller_media.map(|at| at.port()), Some(6_000));
        assert_eq!(record.callee_media.map(|at| at.port()), Some(7_000));
        let texts = Texts::read(record.ends, &texts);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(texts.from), invite.text("From"));
        assert_eq!(
            (text(texts.request_uri), text(texts.trunk)),
            (BOBS_URI.into(), "office".into())
        );
        assert_eq!(
            (text(texts.caller_call_id), text(texts.callee_call_id)),
            ("c1".into(), "c1".into())
        );
        assert_eq!(text(texts.callee_contact), format!("sip:bob@{BOB}"));
        world.advance(40_000);
        world.end();
    });
}

#[test]
fn the_callee_hangs_up_and_a_bye_of_another_dialog_says_nothing() {
    let mut world = keeping(1, TO_BOB, |_| {});
    let (invite, ok) = answered(&mut world, "c1");
    let from_bob = |tag: &str| {
        let mut bye = Message::request("BYE", bench_harness::sip::uri(invite.text("Contact")))
            .with("Via", via(BOB, &format!("bye{tag}")));
        for route in ok.get_all("Record-Route") {
            bye = bye.with("Route", route);
        }
        let from = ok.text("To").replace("tag=b1", &format!("tag={tag}"));
        bye.with("From", from)
            .with("To", invite.text("From"))
            .with("Call-ID", "c1")
            .with("CSeq", "1 BYE")
            .with("Max-Forwards", 70)
            .with("Content-Length", 0)
    };
    // One of another dialog, one that is refused, and the one that ends the call.
    for (tag, cseq, status, told) in [("b2", 1, 200, 0), ("b1", 2, 403, 0), ("b1", 3, 200, 1)] {
        let branch = via(BOB, &format!("bye{cseq}"));
        let bye = from_bob(tag).setting("CSeq", format!("{cseq} BYE"));
        world.udp(BOB, &bye.setting("Via", branch));
        let bye = world.request(ALICE, "BYE");
        assert_eq!(records(&mut world).len(), 0, "nothing is known yet");
        world.udp(ALICE, &reply(&bye, status, "", ALICE));
        world.response(BOB, status);
        let all = records(&mut world);
        assert_eq!(all.len(), told, "{tag}");
        assert!(
            all.iter()
                .all(|(record, _)| record.reason == EndReason::CalleeHungUp)
        );
    }
    world.advance(40_000);
    world.end();
}

#[test]
fn without_record_route_the_record_ends_at_the_answer_and_says_so() {
    let mut world = keeping(1, &format!("{TO_BOB}record_route = false\n"), |_| {});
    let invite = invite("alice", ALICE, BOBS_URI, "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.advance(500);
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    world.response(ALICE, 200);
    let (record, _) = record(&mut world);
    assert_eq!(
        (record.reason, record.extent),
        (EndReason::Answered, Extent::UntilAnswer)
    );
    assert_eq!((record.status, record.answered_after_ms), (200, Some(500)));
    world.advance(40_000);
    assert_eq!(records(&mut world).len(), 0);
    world.end();
}

#[test]
fn a_call_that_is_not_answered_says_why() {
    let mut world = keeping(1, TO_BOB, |_| {});
    let begin = |world: &mut World, call_id: &str| {
        let invite = invite("alice", ALICE, BOBS_URI, call_id);
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        (invite, there)
    };
    let (call, there) = begin(&mut world, "busy");
    world.udp(
        BOB,
        &reply(&there, 486, "b", BOB).with("Reason", "Q.850;cause=17"),
    );
    world.request(BOB, "ACK");
    let busy = world.response(ALICE, 486);
    world.udp(ALICE, &ack_of(&call, &busy));
    let (one, _) = record(&mut world);
    assert_eq!(
        (one.reason, one.status, one.q850),
        (EndReason::Rejected, 486, Some(17))
    );

    let (call, there) = begin(&mut world, "cancelled");
    world.udp(BOB, &reply(&there, 180, "b", BOB));
    world.response(ALICE, 180);
    world.udp(ALICE, &cancel(&call));
    world.response(ALICE, 200);
    let back = world.request(BOB, "CANCEL");
    world.udp(BOB, &reply(&back, 200, "b", BOB));
    world.udp(BOB, &reply(&there, 487, "b", BOB));
    world.request(BOB, "ACK");
    let gone = world.response(ALICE, 487);
    world.udp(ALICE, &ack_of(&call, &gone));
    let (one, _) = record(&mut world);
    assert_eq!((one.reason, one.status), (EndReason::Cancelled, 487));

    let (call, _) = begin(&mut world, "silent");
    world.advance(32_100);
    while world.take_request(BOB, "INVITE").is_some() {}
    let late = world.response(ALICE, 408);
    world.udp(ALICE, &ack_of(&call, &late));
    let (one, _) = record(&mut world);
    assert_eq!((one.reason, one.status, one.rung), (EndReason::NoAnswer, 408, 1));

    let mut looping = invite("alice", ALICE, BOBS_URI, "hops");
    looping.set("Max-Forwards", 0);
    world.udp(ALICE, &looping);
    let refused = world.response(ALICE, 483);
    world.udp(ALICE, &ack_of(&looping, &refused));
    let (one, _) = record(&mut world);
    assert_eq!((one.reason, one.status, one.rung), (EndReason::Refused, 483, 0));
    world.advance(40_000);
    world.end();
}

#[test]
fn a_call_whose_end_nobody_sees_has_a_record_when_its_time_is_over() {
    let mut world = keeping(1, TO_BOB, |cfg| {
        cfg.limits.call_duration_max = std::time::Duration::from_secs(300);
    });
    answered(&mut world, "c1");
    world.advance(299_000);
    let (record, _) = record(&mut world);
    assert_eq!((record.reason, record.status), (EndReason::NotSeen, 200));
    world.end();
}

#[test]
fn the_table_is_bounded_what_is_beyond_is_counted_and_the_end_of_the_server_ends_records() {
    let mut world = keeping(1, TO_BOB, |cfg| cfg.records.proxied_calls_max = 2);
    let calls: Vec<_> = ["c1", "c2", "c3"].map(|id| answered(&mut world, id)).into();
    let metrics = Arc::clone(&world.shards.metrics[0]);
    let full = || metrics.limits_reached[Limit::ProxiedCallRecords as usize].get();
    assert_eq!(full(), 1);
    let (invite, ok) = &calls[2];
    hang_up(&mut world, invite, ok);
    assert_eq!(records(&mut world).len(), 0, "it had no room");
    let (invite, ok) = &calls[0];
    hang_up(&mut world, invite, ok);
    assert_eq!(records(&mut world).len(), 1);
    answered(&mut world, "c4");
    assert_eq!(full(), 1, "there is room again");
    world.advance(40_000);
    world.end();
}

#[test]
fn without_records_nothing_is_noted() {
    let tables = tables_of(TO_BOB);
    let mut world = World::with(1, |cfg| cfg.routes = tables.routes);
    let (invite, ok) = answered(&mut world, "c1");
    hang_up(&mut world, &invite, &ok);
    assert_eq!(records(&mut world).len(), 0);
    world.advance(40_000);
    world.end();
}
