//! What a trace sees of the messages of a shard.

use bench_harness::sip::Message;
use ringway::capture::{Filter, TraceSet, TraceSlot};
use ringway::metrics::TellKind;
use ringway::port::{Ask, RequestId, Tell};

use crate::messages::*;
use crate::world::{SERVER, World, on_each_number_of_shards};

const SLOT: TraceSlot = TraceSlot(0);

fn trace(world: &mut World, filter: Filter) {
    for shard in 0..world.shards.ports.len() {
        let ask = Ask::Trace {
            request: RequestId(7),
            slot: SLOT,
            filter: Box::new(filter.clone()),
        };
        world.ask(shard, ask, b"");
        // From here on it sees everything, and says so.
        let begun = world.told(shard);
        assert!(matches!(
            begun,
            Some((
                Tell::Done {
                    request: RequestId(7),
                    ..
                },
                _
            ))
        ));
    }
}

/// Each captured message: from, to, first line; and the Call-ID that all of them go by.
fn captured(world: &mut World) -> Vec<(String, String, String, String)> {
    let mut all = Vec::new();
    let told = (0..world.shards.ports.len())
        .map(|shard| std::iter::from_fn(|| world.told(shard)).collect::<Vec<_>>())
        .collect::<Vec<_>>();
    for (tell, bytes) in told.into_iter().flatten() {
        let Tell::Captured {
            message,
            is_received,
            traces,
            call_len,
        } = tell
        else {
            panic!("{tell:?}");
        };
        assert_eq!(traces, TraceSet::of(SLOT));
        let (call, bytes) = bytes.split_at(call_len as usize);
        let parsed = Message::parse(bytes).expect("a message");
        let ours = if is_received { message.to } else { message.from };
        assert_eq!(ours.to_string(), SERVER);
        all.push((
            message.from.to_string(),
            message.to.to_string(),
            parsed.title(),
            String::from_utf8_lossy(call).into_owned(),
        ));
    }
    all
}

fn whole_call(world: &mut World, call_id: &str) {
    let standing = call(world, call_id);
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.response(ALICE, 200);
}

#[test]
fn a_trace_of_one_call_sees_both_legs_and_nothing_else() {
    for filter in [
        Filter::CallId("c1".into()),
        Filter::Aor {
            user: "alice".into(),
            host: None,
        },
        Filter::Aor {
            user: "bob".into(),
            host: Some("one.att.net".into()),
        },
        Filter::Peer {
            ip: [127, 0, 0, 2].into(),
            port: Some(5062),
        },
        Filter::Sample { per_myriad: 10_000 },
    ] {
        let mut world = with_bob(1);
        trace(&mut world, filter.clone());
        whole_call(&mut world, "c1");
        let seen = captured(&mut world);
        let of = |from: &str, to: &str| {
            let there = seen.iter().filter(|m| (&*m.0, &*m.1) == (from, to));
            there.map(|m| m.2.clone()).collect::<Vec<_>>()
        };
        let is_of_alice = |titles: Vec<String>, wanted: &[&str]| {
            assert_eq!(titles.len(), wanted.len(), "{filter:?}: {titles:?}");
            for (title, wanted) in titles.iter().zip(wanted) {
                assert!(title.starts_with(wanted), "{filter:?}: {title} is no {wanted}");
            }
        };
        is_of_alice(of(ALICE, SERVER), &["INVITE", "ACK", "BYE"]);
        is_of_alice(of(SERVER, ALICE), &["100", "180", "200", "200"]);
        is_of_alice(of(SERVER, BOB), &["INVITE", "ACK", "BYE"]);
        is_of_alice(of(BOB, SERVER), &["100", "180", "200", "200"]);
        assert!(seen.iter().all(|m| m.3 == "c1"), "{filter:?}: one call");
        assert!(seen[0].2.starts_with("INVITE") && seen[1].2.starts_with("100"));

        world.ask(0, Ask::EndTrace { slot: SLOT }, b"");
        whole_call(&mut world, "c2");
        assert_eq!(captured(&mut world), []);
    }
}

#[test]
fn a_trace_that_begins_in_the_middle_of_a_call_sees_both_legs_too() {
    let mut world = with_bob(1);
    let standing = call(&mut world, "c1");
    trace(&mut world, Filter::CallId("c1".into()));
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    let seen = captured(&mut world);
    for (from, to, title) in [
        (ALICE, SERVER, "BYE"),
        (SERVER, BOB, "BYE"),
        (BOB, SERVER, "200"),
        (SERVER, ALICE, "200"),
    ] {
        let is_there = seen
            .iter()
            .any(|m| (&*m.0, &*m.1) == (from, to) && m.2.starts_with(title));
        assert!(is_there, "{title} from {from} to {to}: {seen:?}");
    }
    assert!(seen.iter().all(|m| m.3 == "c1"), "one call: {seen:?}");
}

#[test]
fn what_no_trace_asks_for_is_not_told_and_what_does_not_fit_is_counted() {
    let mut world = with_bob(1);
    trace(&mut world, Filter::CallId("c1".into()));
    whole_call(&mut world, "c2");
    assert_eq!(captured(&mut world), []);
    trace(&mut world, Filter::Sample { per_myriad: 0 });
    whole_call(&mut world, "c3");
    assert_eq!(captured(&mut world), []);

    trace(&mut world, Filter::Sample { per_myriad: 10_000 });
    let dropped = |world: &World| world.shards.metrics[0].tells_dropped[TellKind::Captured as usize].get();
    for call in 0..10_000 {
        let invite = invite("alice", ALICE, "sip:nobody@one.att.net", &format!("n{call}"));
        world.udp(ALICE, &invite);
        world.forget_waiting();
        if dropped(&world) > 0 {
            break;
        }
    }
    assert!(dropped(&world) > 0);
}

/// A flow may name another port than its connection has, for when that is gone, or none; and the shard of the call need not be that of the
/// connection.
#[test]
fn what_goes_over_a_connection_goes_to_the_other_end_of_it() {
    on_each_number_of_shards(|shards| {
        for is_flow in [true, false] {
            let mut world = World::new(shards);
            // Where he can be connected to, and where what goes over his own connection is found here.
            const OTHER: &str = "127.0.0.3:5199";
            let (register, at) = match is_flow {
                true => (register_flow("tcp", BOB, 1, "r1"), BOB),
                false => (
                    register("bob", BOB, "r1")
                        .setting("Via", format!("SIP/2.0/TCP {OTHER};branch=z9hG4bKr1"))
                        .setting("Contact", format!("<sip:bob@{OTHER};transport=tcp>")),
                    OTHER,
                ),
            };
            world.tcp(BOB, &register);
            world.response(at, 200);
            let ip = [127, 0, 0, 3].into();
            trace(&mut world, Filter::Peer { ip, port: None });
            for call_id in ["c1", "c2", "c3", "c4"] {
                calls_bob(&mut world, call_id);
                let invite = world.request(at, "INVITE");
                // Of his own he asks over the same connection, and names another port in his Via.
                let via = format!("SIP/2.0/TCP {OTHER};branch=z9hG4bKo{call_id}");
                let options = Message::request("OPTIONS", "sip:one.att.net")
                    .with("Via", via)
                    .with("From", "<sip:bob@one.att.net>;tag=o")
                    .with("To", "<sip:one.att.net>")
                    .with("Call-ID", format!("o-{call_id}"))
                    .with("CSeq", "1 OPTIONS")
                    .with("Content-Length", 0);
                world.tcp(BOB, &options);
                world.forget_waiting();
                world.tcp(BOB, &answer(&invite, 180, "Ringing", "b1", BOB));
                world.response(ALICE, 180);
                let seen = captured(&mut world);
                for (from, to, title) in [
                    (SERVER, BOB, "INVITE"),
                    (BOB, SERVER, "180"),
                    (SERVER, ALICE, "180"),
                    (BOB, SERVER, "OPTIONS"),
                    (SERVER, BOB, "200"),
                ] {
                    let found = seen.iter().filter(|m| m.2.starts_with(title) && m.0 == from);
                    let to_whom: Vec<_> = found.map(|m| &*m.1).collect();
                    assert_eq!(to_whom, [to], "{title} once: {seen:?}");
                }
            }
            world.forget_waiting();
        }
    });
}

#[test]
fn a_call_that_takes_the_place_of_another_is_seen_whole() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        for number in 0..4 {
            let standing = call(&mut world, &format!("c{number}"));
            let ip = [127, 0, 0, 5].into();
            trace(&mut world, Filter::Peer { ip, port: None });
            let tag = |party: &str| party.rsplit_once(";tag=").expect("a tag").1.to_owned();
            let replaces = format!(
                "c{number};to-tag={};from-tag={}",
                tag(standing.ok_a.text("To")),
                tag(standing.invite_a.text("From"))
            );
            let carol = "127.0.0.5:5065";
            let invite = invite("carol", carol, "sip:bob@one.att.net", &format!("r{number}"))
                .with("Replaces", replaces);
            world.tcp(carol, &invite);
            world.response(carol, 100);
            let there = world.request(BOB, "INVITE");
            assert!(there.has("Replaces"));
            let seen = captured(&mut world);
            let sent = seen.iter().filter(|m| (&*m.0, &*m.1) == (SERVER, BOB));
            assert_eq!(sent.count(), 1, "{seen:?}");
        }
    });
}
