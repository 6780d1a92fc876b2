//! Requests to a trunk: which destination gets them, who comes next when it fails, and what limits do.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bench_harness::sip::Message;
use ringway::domain::{Answer, RecordType};
use ringway::port::{Ask, Tell};

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{CAROL, ack_of, ask, ends_empty, reply, tables_of, within, world};

const ONE: &str = "127.0.0.11:5060";
const TWO: &str = "127.0.0.12:5060";
const THREE: &str = "127.0.0.13:5060";
const ALL: [&str; 3] = [ONE, TWO, THREE];

fn trunk(more: &str) -> String {
    format!(
        "[[trunk]]\nname = \"carrier\"\n{more}\n\
         [[route]]\naction = \"proxy\"\nto = [\"trunk:carrier\"]\n"
    )
}

fn three(more: &str) -> String {
    trunk(&format!(
        "destinations = [\"sip:{ONE}\", \"sip:{TWO}\", \"sip:{THREE}\"]\n{more}"
    ))
}

fn invites(world: &mut World, call_id: &str) -> Message {
    let invite = invite("alice", ALICE, "sip:+4930123@example.com", call_id);
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

/// Which of the servers was asked.
fn asked(world: &mut World, method: &str) -> (&'static str, Message) {
    let all = ALL
        .into_iter()
        .find_map(|server| Some((server, world.take_request(server, method)?)));
    all.unwrap_or_else(|| panic!("nobody got the {method}"))
}

fn fails(world: &mut World, invite: &Message, status: u16) -> Message {
    let failure = world.response(ALICE, status);
    world.udp(ALICE, &ack_of(invite, &failure));
    failure
}

fn calls(world: &World) -> u32 {
    let trunk = &world.shards.board.trunks[0];
    let sum: u32 = trunk.destinations.iter().map(|one| one.calls.load(Relaxed)).sum();
    assert_eq!(sum, trunk.calls.load(Relaxed));
    sum
}

#[test]
fn calls_take_turns_and_the_request_uri_stays_what_it_was() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three(""));
        let mut shares = BTreeMap::new();
        for n in 0..12 {
            let invite = invites(&mut world, &format!("c{n}"));
            let (server, there) = asked(&mut world, "INVITE");
            assert_eq!(there.uri(), invite.uri());
            *shares.entry(server).or_insert(0) += 1;
            let busy = reply(&there, 486, "b", server);
            world.udp(server, &busy);
            world.request(server, "ACK");
            // Busy is busy: nobody else is tried.
            fails(&mut world, &invite, 486);
            world.silent();
        }
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [4, 4, 4]);
        assert_eq!(calls(&world), 0);
        ends_empty(world);
    });
}

#[test]
fn a_503_makes_the_next_one_be_tried_and_retry_after_closes_who_says_it() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three(""));
        let invite = invites(&mut world, "c1");
        let (first, there) = asked(&mut world, "INVITE");
        world.udp(
            first,
            &reply(&there, 503, "x", first).with("Retry-After", "30 (maintenance);duration=60"),
        );
        world.request(first, "ACK");
        let (second, there) = asked(&mut world, "INVITE");
        assert_ne!(first, second);
        assert_eq!(there.uri(), invite.uri());
        let ok_there = reply(&there, 200, "b", second);
        world.udp(second, &ok_there);
        let ok = world.response(ALICE, 200);
        assert_eq!(calls(&world), 1);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.request(second, "ACK");
        world.udp(ALICE, &within("BYE", 33303, &invite, &ok));
        let bye = world.request(second, "BYE");
        assert_eq!(calls(&world), 1);
        world.udp(second, &reply(&bye, 200, "b", second));
        world.response(ALICE, 200);
        assert_eq!(calls(&world), 0, "the BYE ends what was counted");
        let gets_calls = |world: &mut World, from: u32| {
            (from..from + 9).any(|n| {
                let invite = invites(world, &format!("d{n}"));
                let (server, there) = asked(world, "INVITE");
                world.udp(server, &reply(&there, 404, "b", server));
                world.request(server, "ACK");
                fails(world, &invite, 404);
                server == first
            })
        };
        assert!(!gets_calls(&mut world, 0), "it asked to be left alone");
        world.advance(30_000);
        assert!(gets_calls(&mut world, 100), "its time is over");
        ends_empty(world);
    });
}

#[test]
fn what_a_caller_sends_without_the_recorded_route_goes_to_the_server_of_its_call() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three(""));
        for n in 0..4 {
            let invite = invites(&mut world, &format!("c{n}"));
            let (server, there) = asked(&mut world, "INVITE");
            world.udp(server, &reply(&there, 200, "b", server));
            let ok = world.response(ALICE, 200);
            let parties = [invite.text("From"), ok.text("To")];
            let unrouted =
                |method, cseq| crate::in_dialog(method, cseq, ALICE, &ok, std::iter::empty(), parties);
            world.udp(ALICE, &unrouted("ACK", 33302));
            world.request(server, "ACK");
            for (method, cseq) in [("INFO", 33303), ("BYE", 33304)] {
                world.udp(ALICE, &unrouted(method, cseq));
                let met = world.request(server, method);
                world.udp(server, &reply(&met, 200, "b", server));
                world.response(ALICE, 200);
            }
            assert_eq!(calls(&world), 0);
            // Its call is over: nobody is known to await this one.
            world.udp(ALICE, &unrouted("ACK", 33302));
            world.silent();
        }
        ends_empty(world);
    });
}

#[test]
fn when_all_say_503_that_goes_back_as_the_rfc_has_it() {
    let mut world = world(2, &three(""));
    let invite = invites(&mut world, "c1");
    for _ in 0..3 {
        let (server, there) = asked(&mut world, "INVITE");
        world.udp(server, &reply(&there, 503, "x", server));
        world.request(server, "ACK");
    }
    // RFC 3261 §16.7 step 6: a 503 says nothing about us, and becomes 500.
    fails(&mut world, &invite, 500);
    assert_eq!(
        (
            calls(&world),
            world.shards.board.trunks[0].failovers.load(Relaxed)
        ),
        (0, 2)
    );
    ends_empty(world);
}

#[test]
fn who_keeps_silent_is_left_soon_and_comes_last_for_a_while() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three("answer_timeout_ms = 1_000\nhold_down_ms = 60_000"));
        let invite = invites(&mut world, "c1");
        let (silent, _) = asked(&mut world, "INVITE");
        world.advance(1_001);
        while world.take_request(silent, "INVITE").is_some() {}
        let (second, there) = asked(&mut world, "INVITE");
        assert_ne!(silent, second);
        world.udp(second, &reply(&there, 180, "b", second));
        world.response(ALICE, 180);
        world.advance(5_000);
        while world.take_request(silent, "INVITE").is_some() {}
        world.silent();
        world.udp(second, &reply(&there, 486, "b", second));
        world.request(second, "ACK");
        // The final answer does not wait for the one that says nothing.
        fails(&mut world, &invite, 486);
        for n in 0..6 {
            while world.take_request(silent, "INVITE").is_some() {}
            let invite = invites(&mut world, &format!("d{n}"));
            let (server, there) = asked(&mut world, "INVITE");
            assert_ne!(server, silent);
            world.udp(server, &reply(&there, 404, "b", server));
            world.request(server, "ACK");
            fails(&mut world, &invite, 404);
        }
        world.advance(40_000);
        while world.take_request(silent, "INVITE").is_some() {}
        ends_empty(world);
    });
}

/// Whoever is told to stop since he was too late has no say in who else is tried, and none in how long the next one may keep silent.
#[test]
fn who_was_left_for_his_silence_decides_nothing_any_more() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three("answer_timeout_ms = 1_000"));
        let invite = invites(&mut world, "c1");
        let (late, first) = asked(&mut world, "INVITE");
        world.advance(1_001);
        while world.take_request(late, "INVITE").is_some() {}
        let (second, _) = asked(&mut world, "INVITE");
        world.advance(400);
        world.udp(late, &reply(&first, 100, "b", late));
        let cancelled = world.request(late, "CANCEL");
        world.udp(late, &reply(&cancelled, 200, "b", late));
        world.udp(late, &reply(&first, 487, "b", late));
        world.request(late, "ACK");
        world.advance(601);
        while world.take_request(second, "INVITE").is_some() {}
        let (third, there) = asked(&mut world, "INVITE");
        assert!(third != late && third != second);
        world.udp(third, &reply(&there, 503, "b", third));
        world.request(third, "ACK");
        // The caller has taken nothing back.
        fails(&mut world, &invite, 408);
        world.advance(40_000);
        while world.take_request(second, "INVITE").is_some() {}
        ends_empty(world);
    });
}

/// A 487 that answers our own CANCEL is no word of the caller's.
#[test]
fn who_was_left_and_cancelled_counts_as_silent() {
    let two = format!("destinations = [\"sip:{ONE}\", \"sip:{TWO}\"]\nanswer_timeout_ms = 1_000");
    let mut world = world(1, &trunk(&two));
    let invite = invites(&mut world, "c1");
    let (late, first) = asked(&mut world, "INVITE");
    world.advance(1_001);
    while world.take_request(late, "INVITE").is_some() {}
    let (second, there) = asked(&mut world, "INVITE");
    world.udp(late, &reply(&first, 100, "b", late));
    let cancelled = world.request(late, "CANCEL");
    world.udp(late, &reply(&cancelled, 200, "b", late));
    world.udp(late, &reply(&first, 487, "b", late));
    world.request(late, "ACK");
    world.udp(second, &reply(&there, 503, "b", second));
    world.request(second, "ACK");
    fails(&mut world, &invite, 408);
    ends_empty(world);
}

#[test]
fn priorities_and_a_hash_of_the_call_id() {
    let backup = trunk(&format!(
        "destinations = [\"sip:{ONE} priority=2\", \"sip:{TWO} priority=1\"]\nfailover = [\"503\", \"404\"]"
    ));
    let mut world = world(1, &backup);
    for n in 0..5 {
        let invite = invites(&mut world, &format!("c{n}"));
        let there = world.request(TWO, "INVITE");
        world.udp(TWO, &reply(&there, 404, "b", TWO));
        world.request(TWO, "ACK");
        let there = world.request(ONE, "INVITE");
        world.udp(ONE, &reply(&there, 603, "b", ONE));
        world.request(ONE, "ACK");
        fails(&mut world, &invite, 603);
    }
    ends_empty(world);
    let mut servers = Vec::new();
    for _ in 0..2 {
        let mut world = crate::world(2, &three("select = \"hash\""));
        let mut chosen = Vec::new();
        for n in 0..20 {
            let invite = invites(&mut world, &format!("c{n}"));
            let (server, there) = asked(&mut world, "INVITE");
            chosen.push(server);
            world.udp(server, &reply(&there, 404, "b", server));
            world.request(server, "ACK");
            fails(&mut world, &invite, 404);
        }
        servers.push(chosen);
        ends_empty(world);
    }
    assert_eq!(servers[0], servers[1], "a Call-ID always leads to one server");
    assert!(
        ALL.iter().all(|server| servers[0].contains(server)),
        "{servers:?}"
    );
}

#[test]
fn limits_hold_for_all_shards_together() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three("calls_max = 3"));
        let mut standing = Vec::new();
        for n in 0..3 {
            let invite = invites(&mut world, &format!("c{n}"));
            let (server, there) = asked(&mut world, "INVITE");
            world.udp(server, &reply(&there, 180, "b", server));
            world.response(ALICE, 180);
            standing.push((invite, server, there));
        }
        let refused = invites(&mut world, "more");
        let failure = fails(&mut world, &refused, 503);
        assert_eq!(failure.reason(), Some("Trunk Full"));
        assert_eq!(
            failure.get("Retry-After"),
            None,
            "there are other trunks, and phones"
        );
        world.silent();
        // One hangs up: there is room for one.
        let (invite, server, there) = standing.pop().expect("a call");
        world.udp(ALICE, &cancel(&invite));
        world.response(ALICE, 200);
        let cancelled = world.request(server, "CANCEL");
        world.udp(server, &reply(&cancelled, 200, "b", server));
        world.udp(server, &reply(&there, 487, "b", server));
        world.request(server, "ACK");
        fails(&mut world, &invite, 487);
        let invite = invites(&mut world, "again");
        let (server, there) = asked(&mut world, "INVITE");
        world.udp(server, &reply(&there, 404, "b", server));
        world.request(server, "ACK");
        fails(&mut world, &invite, 404);
        for (invite, server, there) in standing {
            world.udp(server, &reply(&there, 486, "b", server));
            world.request(server, "ACK");
            fails(&mut world, &invite, 486);
        }
        assert_eq!(calls(&world), 0);
        ends_empty(world);
    });
}

#[test]
fn a_full_destination_is_passed_over() {
    let mut world = world(
        2,
        &trunk(&format!(
            "destinations = [\"sip:{ONE} calls=1\", \"sip:{TWO} priority=2\"]"
        )),
    );
    let first = invites(&mut world, "c1");
    let there_one = world.request(ONE, "INVITE");
    let second = invites(&mut world, "c2");
    let there_two = world.request(TWO, "INVITE");
    for (invite, server, there) in [(first, ONE, there_one), (second, TWO, there_two)] {
        world.udp(server, &reply(&there, 404, "b", server));
        world.request(server, "ACK");
        fails(&mut world, &invite, 404);
    }
    ends_empty(world);
}

/// RFC 3261 §21.5.4: with Retry-After nothing at all would be sent here, for other trunks and phones either.
#[test]
fn what_a_trunk_refuses_says_when_to_try_again_where_it_is_told_to() {
    for (key, said) in [("", None), ("retry_after_s = 7", Some("7"))] {
        on_each_number_of_shards(|shards| {
            let destinations = format!("destinations = [\"sip:{ONE} calls=1\"]\ncalls_max = 2\n{key}");
            let mut world = world(shards, &trunk(&destinations));
            let first = invites(&mut world, "c1");
            let there = world.request(ONE, "INVITE");
            let second = invites(&mut world, "c2");
            let failure = fails(&mut world, &second, 503);
            assert_eq!(failure.reason(), Some("Destination Full"));
            assert_eq!(failure.get("Retry-After"), said);
            world.reconfigure(|cfg| cfg.trunks[0].calls_max = 1);
            let second = invites(&mut world, "c3");
            let failure = fails(&mut world, &second, 503);
            assert_eq!(failure.reason(), Some("Trunk Full"));
            assert_eq!(failure.get("Retry-After"), said);
            // What the server as a whole can't take says so as ever.
            world.drain();
            let third = invite("alice", ALICE, "sip:+4930123@example.com", "c4");
            world.udp(ALICE, &third);
            let failure = fails(&mut world, &third, 503);
            assert_eq!(failure.get("Retry-After"), Some("5"));
            world.udp(ONE, &reply(&there, 404, "b", ONE));
            world.request(ONE, "ACK");
            fails(&mut world, &first, 404);
            ends_empty(world);
        });
    }
}

#[test]
fn options_tell_who_is_up_and_one_shard_asks() {
    on_each_number_of_shards(|shards| {
        let mut world = world(
            shards,
            &three("ping_interval_ms = 10_000\nping_timeout_ms = 500\nup_after = 2\ndown_after = 2"),
        );
        let round = |world: &mut World, seconds: u32, answers: [Option<u16>; 3]| {
            for _ in 0..10 * seconds {
                world.advance(100);
                for (server, status) in ALL.into_iter().zip(answers) {
                    while let Some(ping) = world.take_request(server, "OPTIONS") {
                        if let Some(status) = status {
                            world.udp(server, &reply(&ping, status, "p", server));
                        }
                    }
                }
            }
        };
        let down = |world: &World| {
            let all = world.shards.board.trunks[0].destinations.iter();
            all.map(|one| one.known.is_down()).collect::<Vec<_>>()
        };
        round(&mut world, 5, [Some(200), Some(404), None]);
        assert_eq!(down(&world), [false; 3], "one failure is not enough");
        for one in &world.shards.board.trunks[0].destinations {
            assert!(one.pings_sent.load(Relaxed) <= 2, "from one shard alone");
        }
        round(&mut world, 33, [Some(200), Some(503), None]);
        assert_eq!(down(&world), [false, true, true]);
        for n in 0..4 {
            let invite = invites(&mut world, &format!("c{n}"));
            let there = world.request(ONE, "INVITE");
            world.udp(ONE, &reply(&there, 404, "b", ONE));
            world.request(ONE, "ACK");
            fails(&mut world, &invite, 404);
        }
        round(&mut world, 33, [None, Some(200), None]);
        assert_eq!(down(&world), [true, false, true]);
        round(&mut world, 33, [None; 3]);
        let invite = invites(&mut world, "late");
        let failure = fails(&mut world, &invite, 503);
        assert_eq!(failure.reason(), Some("No Destination Up"));
        assert_eq!(failure.get("Retry-After"), None);
        world.advance(10_000);
        for server in ALL {
            while world.take_request(server, "OPTIONS").is_some() {}
        }
        world.end();
    });
}

#[test]
fn a_destination_that_asks_for_less_gets_less() {
    let mut world = world(2, &trunk(&format!("destinations = [\"sip:{ONE}\"]")));
    let mut sent = 0;
    let mut refused = 0;
    for n in 0..300 {
        world.udp(ALICE, &ask("MESSAGE", "sip:+49@example.com", &format!("m{n}")));
        let Some(there) = world.take_request(ONE, "MESSAGE") else {
            world.response(ALICE, 503);
            refused += 1;
            continue;
        };
        sent += 1;
        let vias = there.get_all("Via");
        assert!(vias[0].ends_with(";oc;oc-algo=\"loss\""), "{}", vias[0]);
        let answer = reply(&there, 200, "b", ONE);
        let told = vias[0].replace(
            ";oc;oc-algo=\"loss\"",
            &format!(";oc=50;oc-algo=\"loss\";oc-validity=60000;oc-seq={n}.5"),
        );
        let text = String::from_utf8(answer.to_bytes()).expect("text");
        world.udp_bytes(ONE, text.replace(vias[0], &told).as_bytes());
        world.response(ALICE, 200);
    }
    assert!((100..200).contains(&refused), "{refused} of {}", sent + refused);
    world.advance(61_000);
    for n in 0..20 {
        world.udp(ALICE, &ask("MESSAGE", "sip:+49@example.com", &format!("late{n}")));
        let there = world.request(ONE, "MESSAGE");
        world.udp(ONE, &reply(&there, 200, "b", ONE));
        world.response(ALICE, 200);
    }
    ends_empty(world);
}

#[test]
fn the_table_of_hosts_gives_a_destination_several_addresses() {
    let table = format!(
        "[hosts]\n\"_sip._udp.carrier.example\" = [\"1 0 5060 a.example\", \"2 0 5060 b.example\"]\n\
         \"a.example\" = [\"127.0.0.11\"]\n\"b.example\" = [\"127.0.0.12\"]\n{}",
        trunk("destinations = [\"sip:carrier.example\"]")
    );
    let mut world = world(1, &table);
    let invite = invites(&mut world, "c1");
    let there = world.request(ONE, "INVITE");
    world.udp(ONE, &reply(&there, 503, "x", ONE));
    world.request(ONE, "ACK");
    let there = world.request(TWO, "INVITE");
    world.udp(TWO, &reply(&there, 486, "x", TWO));
    world.request(TWO, "ACK");
    fails(&mut world, &invite, 486);
    ends_empty(world);
}

#[test]
fn names_of_destinations_are_asked_of_dns_again_when_their_time_is_over() {
    let mut world = world(2, &trunk("destinations = [\"sip:carrier.example:5060\"]"));
    let answer = |world: &mut World, last: u8| {
        let mut asked = 0;
        for shard in 0..2 {
            while let Some((tell, _)) = world.told(shard) {
                let Tell::Resolve(question) = tell else {
                    panic!("{tell:?}")
                };
                assert_eq!(question.name.as_str(), "carrier.example");
                assert_eq!(question.record_type, RecordType::A);
                asked += 1;
                let records = [ringway::domain::Record::A([127, 0, 0, last].into())].into();
                let answer = Answer::Records { records, ttl_s: 20 };
                world.ask(shard, Ask::Resolved(Box::new((*question, answer))), b"");
            }
        }
        asked
    };
    world.advance(1);
    let refused = invites(&mut world, "early");
    fails(&mut world, &refused, 503);
    assert_eq!(answer(&mut world, 11), 2, "each shard asks once");
    let busy = |world: &mut World, id: &str, server: &str| {
        let invite = invites(world, id);
        let there = world.request(server, "INVITE");
        world.udp(server, &reply(&there, 486, "x", server));
        world.request(server, "ACK");
        fails(world, &invite, 486);
    };
    busy(&mut world, "c1", ONE);
    world.advance(Duration::from_secs(21).as_millis() as u64);
    // While it is asked again the old address serves.
    busy(&mut world, "c2", ONE);
    assert_eq!(answer(&mut world, 12), 2);
    busy(&mut world, "c3", TWO);
    world.end();
}

/// RFC 3261 §18.1.1: the rule says so, and the destination does not name its transport.
#[test]
fn a_large_request_takes_tcp_to_a_trunk_too() {
    let large = |call_id: &str| {
        let body = "x".repeat(1_200);
        invite("alice", ALICE, "sip:+4930123@example.com", call_id).with_body("application/sdp", body)
    };
    for (destination, first) in [("", "SIP/2.0/TCP"), (";transport=udp", "SIP/2.0/UDP")] {
        let table = format!(
            "{}tcp_when_large = true\n",
            trunk(&format!("destinations = [\"sip:{ONE}{destination}\"]"))
        );
        let mut world = world(1, &table);
        let invite = large("c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(ONE, "INVITE");
        assert!(there.top_via().starts_with(first), "{}", there.top_via());
        world.udp(ONE, &reply(&there, 486, "b", ONE));
        world.request(ONE, "ACK");
        fails(&mut world, &invite, 486);
        // Where TCP is refused it goes over UDP after all, to the same destination.
        world.refuses_connections = true;
        let invite = large("c2");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(ONE, "INVITE");
        assert!(there.top_via().starts_with("SIP/2.0/UDP"), "{}", there.top_via());
        world.udp(ONE, &reply(&there, 486, "b", ONE));
        world.request(ONE, "ACK");
        fails(&mut world, &invite, 486);
        assert_eq!(calls(&world), 0);
        world.forget_waiting();
        world.advance(40_000);
        world.forget_waiting();
        ends_empty(world);
    }
}

#[test]
fn calls_of_one_call_id_count_each_and_a_bye_that_does_not_pass_frees_no_place() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three("calls_max = 2"));
        let of = |n: usize| {
            ask("INVITE", "sip:bob@example.com", "one")
                .setting("From", format!("<sip:alice@one.att.net>;tag=t{n}"))
                .setting("Via", via(ALICE, &format!("one{n}")))
                .with("Contact", format!("<sip:alice@{ALICE}>"))
        };
        let mut oks = Vec::new();
        for n in 0..2 {
            world.udp(ALICE, &of(n));
            world.response(ALICE, 100);
            let (server, there) = asked(&mut world, "INVITE");
            world.udp(server, &reply(&there, 200, "b", server));
            let ok = world.response(ALICE, 200);
            world.udp(ALICE, &within("ACK", 7, &of(n), &ok));
            asked(&mut world, "ACK");
            oks.push(ok);
        }
        assert_eq!(calls(&world), 2);
        world.udp(ALICE, &of(2));
        world.response(ALICE, 100);
        fails(&mut world, &of(2), 503);
        // No hops left, and no dialog.
        let bye = |n: usize| within("BYE", 8 + n as u32, &of(n), &oks[n]);
        world.udp(ALICE, &bye(0).setting("Max-Forwards", 0));
        world.response(ALICE, 483);
        assert_eq!(calls(&world), 2);
        for n in 0..2 {
            world.udp(ALICE, &bye(n).setting("Via", via(ALICE, &format!("bye{n}"))));
            let (server, there) = asked(&mut world, "BYE");
            world.udp(server, &reply(&there, 200, "", server));
            world.response(ALICE, 200);
        }
        assert_eq!(calls(&world), 0);
        world.advance(40_000);
        world.forget_waiting();
        ends_empty(world);
    });
}

/// RFC 3261 §12.2.1.2: a BYE ends the call of the two whom it names, when who it is for takes it or is not there.
#[test]
fn a_bye_that_ends_nothing_frees_no_place() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &three("calls_max = 1"));
        let invite = invites(&mut world, "c1");
        let (server, there) = asked(&mut world, "INVITE");
        world.udp(server, &reply(&there, 200, "b", server));
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        asked(&mut world, "ACK");
        let bye =
            |n: u32| within("BYE", 33303 + n, &invite, &ok).setting("Via", via(CAROL, &format!("forged{n}")));
        // The caller's tag and nobody's; those of both, from who can't prove to be one of them; and once to somebody else, who takes it.
        let another = ok.text("To").replace(";tag=b", ";tag=x");
        for (n, to, status) in [
            (0, another.as_str(), 481),
            (1, ok.text("To"), 403),
            (2, ok.text("To"), 401),
            (3, another.as_str(), 200),
        ] {
            world.udp(CAROL, &bye(n).setting("To", to));
            let (server, there) = asked(&mut world, "BYE");
            assert_eq!(calls(&world), 1, "nothing is known yet");
            world.udp(server, &reply(&there, status, "", server));
            world.response(CAROL, status);
            assert_eq!(calls(&world), 1, "{status}");
        }
        let refused = invites(&mut world, "c2");
        fails(&mut world, &refused, 503);
        // Nobody is there: whoever hung up is gone all the same.
        let last = within("BYE", 33310, &invite, &ok);
        world.udp(ALICE, &last);
        asked(&mut world, "BYE");
        world.advance(40_000);
        world.forget_waiting();
        assert_eq!(calls(&world), 0);
        ends_empty(world);
    });
}

#[test]
fn trunks_change_while_calls_go_on_and_what_is_known_of_a_destination_stays() {
    on_each_number_of_shards(|shards| {
        let pinged = "ping_interval_ms = 10_000\nping_timeout_ms = 500\nup_after = 1\ndown_after = 1";
        let both = format!("destinations = [\"sip:{ONE}\", \"sip:{TWO}\"]\n{pinged}");
        let mut world = world(shards, &trunk(&both));
        let round = |world: &mut World| {
            for _ in 0..120 {
                world.advance(100);
                while let Some(ping) = world.take_request(ONE, "OPTIONS") {
                    world.udp(ONE, &reply(&ping, 200, "p", ONE));
                }
                for silent in [TWO, THREE] {
                    while world.take_request(silent, "OPTIONS").is_some() {}
                }
            }
        };
        round(&mut world);
        let down = |world: &World| {
            let all = world.shards.board.trunks[0].destinations.iter();
            all.map(|one| one.known.is_down()).collect::<Vec<_>>()
        };
        assert_eq!(down(&world), [false, true]);
        let invite = invites(&mut world, "c1");
        let there = world.request(ONE, "INVITE");
        world.udp(ONE, &reply(&there, 200, "b", ONE));
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &within("ACK", 1, &invite, &ok));
        world.request(ONE, "ACK");
        assert_eq!(calls(&world), 1);

        let wanted = tables_of(&trunk(&format!(
            "destinations = [\"sip:{TWO}\", \"sip:{THREE}\"]\n{pinged}"
        )));
        world.reconfigure(|cfg| {
            cfg.trunks = wanted.trunks;
            cfg.routes = wanted.routes;
        });
        assert_eq!(
            down(&world),
            [true, false],
            "what was known of the one that stays goes on"
        );
        // The old call ends where it began, and a new one finds the new destination.
        world.udp(ALICE, &within("BYE", 2, &invite, &ok));
        let bye = world.request(ONE, "BYE");
        world.udp(ONE, &reply(&bye, 200, "b", ONE));
        world.response(ALICE, 200);
        let invite = invites(&mut world, "c2");
        let there = world.request(THREE, "INVITE");
        world.udp(THREE, &reply(&there, 486, "x", THREE));
        world.request(THREE, "ACK");
        fails(&mut world, &invite, 486);
        assert_eq!(calls(&world), 0);
        // One that was down comes up again by its answers.
        for _ in 0..250 {
            world.advance(100);
            while let Some(ping) = world.take_request(TWO, "OPTIONS") {
                world.udp(TWO, &reply(&ping, 200, "p", TWO));
            }
            for other in [ONE, THREE] {
                while world.take_request(other, "OPTIONS").is_some() {}
            }
        }
        assert!(!down(&world)[0]);
        world.advance(10_000);
        for server in ALL {
            while world.take_request(server, "OPTIONS").is_some() {}
        }
        world.end();
    });
}

/// RFC 3261 §16.7 step 9: a 2xx goes back also when the server transaction of its INVITE is over, as it would without state. Whoever
/// has answered would repeat it for half a minute, in a call that nobody ends.
/// What a reload changes is for the calls that come: one that is being set up goes on to the next as it would have.
#[test]
fn a_call_fails_over_as_its_trunk_was_when_it_came() {
    on_each_number_of_shards(|shards| {
        let more = "answer_timeout_ms = 1_000\nfailover = [\"500\"]";
        let mut world = world(shards, &three(more));
        let invite = invites(&mut world, "c1");
        let (first, there) = asked(&mut world, "INVITE");
        let other = tables_of(&trunk(&format!(
            "destinations = [\"sip:{THREE}\", \"sip:{ONE}\"]"
        )));
        world.reconfigure(|cfg| cfg.trunks = other.trunks);
        world.udp(first, &reply(&there, 500, "b", first));
        world.request(first, "ACK");
        let (second, _) = asked(&mut world, "INVITE");
        world.advance(1_001);
        while world.take_request(second, "INVITE").is_some() {}
        let (third, there) = asked(&mut world, "INVITE");
        assert!(third != first && third != second);
        world.udp(third, &reply(&there, 486, "b", third));
        world.request(third, "ACK");
        fails(&mut world, &invite, 486);
        world.advance(40_000);
        while world.take_request(second, "INVITE").is_some() {}
        ends_empty(world);
    });
}

#[test]
fn an_answer_goes_back_when_its_server_transaction_is_over() {
    let table = format!(
        "[[trunk]]\nname = \"carrier\"\ndestinations = [\"sip:{BOB}\", \"sip:{CAROL} priority=2\"]\nanswer_timeout_ms = 300\n\
         [[route]]\naction = \"proxy\"\nto = [\"trunk:carrier\"]\n"
    );
    for shards in [1, 2, 4] {
        let mut world = world(shards, &table);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        world.udp(ALICE, &cancel(&invite));
        world.response(ALICE, 200);
        world.advance(400);
        let refused = world.response(ALICE, 487);
        world.udp(ALICE, &ack_of(&invite, &refused));
        // Timer I.
        world.advance(6_000);
        world.forget_waiting();
        for _ in 0..2 {
            world.udp(BOB, &reply(&there, 200, "b1", BOB));
            assert_eq!(world.response(ALICE, 200).get_all("Via").len(), 1);
        }
        world.advance(40_000);
        world.forget_waiting();
        ends_empty(world);
    }
}
