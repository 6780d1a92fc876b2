//! Peers that mean harm, or send what nobody expects: the proxy answers, counts or drops it, and nothing is left.

use bench_harness::sip::Message;
use ringway::metrics::DropReason;

use crate::messages::*;
use crate::world::{SERVER, World};
use crate::{CAROL, TO_BOB, ack_of, ask, ends_empty, reply, tables_of, takes_the_cancel, within, world};

fn begins(world: &mut World) -> (Message, Message) {
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    (invite, there)
}

#[test]
fn a_response_with_no_way_back_is_not_passed_on() {
    for status in [180, 200, 486] {
        let mut world = world(1, TO_BOB);
        let (invite, there) = begins(&mut world);
        let mut response = reply(&there, status, "b1", BOB).removing("Via");
        response.insert("Via", there.top_via());
        world.udp(BOB, &response);
        assert_eq!(world.drops(DropReason::BadResponse), 1);
        if status == 180 {
            world.silent();
            world.udp(BOB, &reply(&there, 486, "b1", BOB));
            world.request(BOB, "ACK");
            let failure = world.response(ALICE, 486);
            world.udp(ALICE, &ack_of(&invite, &failure));
        } else {
            if status == 486 {
                world.request(BOB, "ACK");
            }
            let failure = world.response(ALICE, 502);
            world.udp(ALICE, &ack_of(&invite, &failure));
        }
        ends_empty(world);
    }
}

/// RFC 3261 §18.2.2: a response goes to the one who asked. The Via below ours is what the server has sent back, and it may say anything.
#[test]
fn without_state_no_response_goes_to_many_hosts_or_to_none() {
    let mut world = world(1, &format!("{TO_BOB}mode = \"stateless\"\n"));
    let asked = ask("MESSAGE", "sip:bob@example.com", "m1");
    world.udp(ALICE, &asked);
    let there = world.request(BOB, "MESSAGE");
    let places = [
        "224.0.0.1:5060",
        "255.255.255.255:5060",
        "0.0.0.0:5060",
        "127.0.0.9:0",
        "127.0.0.9;received=239.1.2.3",
        "127.0.0.9;rport=0",
    ];
    for place in places {
        let mut response = reply(&there, 200, "b1", BOB).removing("Via");
        response.insert("Via", there.top_via());
        response.insert("Via", format!("SIP/2.0/UDP {place};branch=z9hG4bKx"));
        world.udp(BOB, &response);
        world.silent();
    }
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}

/// RFC 3261 §7.1: the version may come in any case, and is sent in upper case.
#[test]
fn the_version_goes_on_in_upper_case() {
    let odd = |message: &Message| {
        let text = String::from_utf8(message.to_bytes()).expect("text");
        text.replacen("SIP/2.0", "sip/2.0", 1).into_bytes()
    };
    for mode in ["", "mode = \"stateless\"\n"] {
        let mut world = world(1, &format!("{TO_BOB}{mode}"));
        world.udp_bytes(ALICE, &odd(&ask("MESSAGE", "sip:bob@example.com", "m1")));
        // The reader of the world knows but one way to write it.
        let there = world.request(BOB, "MESSAGE");
        world.udp_bytes(BOB, &odd(&reply(&there, 200, "b1", BOB)));
        world.response(ALICE, 200);
        ends_empty(world);
    }
}

#[test]
fn responses_to_nothing_are_dropped() {
    let mut world = world(1, TO_BOB);
    let (invite, there) = begins(&mut world);
    let ours = there.top_via().to_owned();
    let forged = |kind: char| {
        let at = ours.find("z9hG4bK").expect("a branch") + "z9hG4bK".len() + 1;
        let mut text = ours.clone();
        text.replace_range(at..=at, &kind.to_string());
        text
    };
    // The token of another kind, one without its digest, and one of nobody.
    for top in [
        forged('6'),
        forged('7'),
        forged('2'),
        ours[..ours.len() - 2].to_owned(),
        via(SERVER, "x"),
    ] {
        let mut stray = reply(&there, 200, "b9", BOB).removing("Via");
        stray.insert("Via", top);
        stray.insert("Via", invite.text("Via"));
        world.udp(BOB, &stray);
        world.silent();
    }
    assert_eq!(world.drops(DropReason::StrayResponse), 5);
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(BOB, "ACK");
    world.advance(40_000);
    // Long after the transaction.
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    world.silent();
    ends_empty(world);
}

#[test]
fn what_grows_too_large_is_refused() {
    let mut world = world(1, &format!("{TO_BOB}recurse = true\nadd_header = [\"X-A: b\"]\n"));
    let mut many = ask("INVITE", "sip:bob@example.com", "many");
    for _ in 0..245 {
        many = many.with("X-Pad", "x");
    }
    world.udp(ALICE, &many);
    world.response(ALICE, 100);
    let failure = world.response(ALICE, 513);
    world.udp(ALICE, &ack_of(&many, &failure));
    let long = format!("sip:{}@example.com", "b".repeat(20_000));
    world.udp(ALICE, &ask("OPTIONS", &long, "long"));
    world.response(ALICE, 414);
    // Just what a datagram takes, and no more after it has grown.
    let full = ask("MESSAGE", "sip:bob@example.com", "full").with_body("text/plain", "x".repeat(64_900));
    world.udp(ALICE, &full);
    let there = world.request(BOB, "MESSAGE");
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}

#[test]
fn redirections_end() {
    let mut world = world(1, &format!("{TO_BOB}recurse = true\n"));
    let (invite, there) = begins(&mut world);
    let mut moved = reply(&there, 302, "b", BOB).removing("Contact");
    for n in 0..100 {
        moved = moved.with("Contact", format!("<sip:c{n}@{CAROL}>"));
    }
    // Places that lead back here, or nowhere.
    for place in [
        format!("<sip:bob@{SERVER}>"),
        "<tel:+1>".to_owned(),
        "<sip:x@[ff02::1]>".to_owned(),
    ] {
        moved = moved.with("Contact", place);
    }
    world.udp(BOB, &moved);
    world.request(BOB, "ACK");
    // limits.forks_max is 8: so many places are tried in all.
    let tried: Vec<Message> = (0..7).map(|_| world.request(CAROL, "INVITE")).collect();
    world.silent();
    for (n, there) in tried.iter().enumerate() {
        let again = reply(there, 302, "c", CAROL).setting("Contact", format!("<sip:again{n}@{CAROL}>"));
        world.udp(CAROL, &again);
        world.request(CAROL, "ACK");
    }
    let failure = world.response(ALICE, 302);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

#[test]
fn a_proxy_that_is_its_own_next_hop_says_so() {
    let mut world = world(1, "[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n");
    world.udp(ALICE, &ask("MESSAGE", &format!("sip:bob@{SERVER}"), "m1"));
    world.response(ALICE, 482);
    for nobody in [
        "sip:bob@255.255.255.255",
        "sip:bob@0.0.0.0",
        "sip:bob@224.0.0.1",
        "sip:bob@127.0.0.3:0",
    ] {
        world.udp(ALICE, &ask("MESSAGE", nobody, nobody));
        world.response(ALICE, 502);
    }
    world.udp(ALICE, &ask("MESSAGE", "tel:+4930", "m2"));
    world.response(ALICE, 416);
    ends_empty(world);
}

#[test]
fn a_route_header_is_no_way_past_the_table() {
    let mut world = world(1, "[[route]]\naction = \"reject\"\n");
    for route in [
        format!("<sip:{BOB};lr>"),
        format!("<sip:{SERVER};lr>, <sip:{BOB};lr>"),
        format!("<sip:{SERVER};lr;rw=05000000000000000000000000000000>, <sip:{BOB};lr>"),
        "<sip:".to_owned() + &"x".repeat(3_000) + ";lr>",
        "garbage".to_owned(),
    ] {
        let request =
            ask("MESSAGE", "sip:bob@example.com", &format!("m{}", route.len())).with("Route", &route);
        world.udp(ALICE, &request.setting("To", "<sip:bob@example.com>;tag=b"));
        world.response(ALICE, 403);
    }
    ends_empty(world);
}

#[test]
fn a_storm_of_challenges_is_bounded() {
    let places: Vec<String> = (1..=8).map(|n| format!("\"sip:127.0.9.{n}:5060\"")).collect();
    let table = format!(
        "[[route]]\naction = \"proxy\"\nfork = \"parallel\"\nto = [{}]\n",
        places.join(", ")
    );
    let mut world = world(1, &table);
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    for n in 1..=8 {
        let at = format!("127.0.9.{n}:5060");
        let there = world.request(&at, "INVITE");
        let mut failure = reply(&there, 407, "b", &at);
        for _ in 0..6 {
            failure = failure.with(
                "Proxy-Authenticate",
                format!("Digest realm=\"{}\"", "x".repeat(900)),
            );
        }
        world.udp(&at, &failure);
        world.request(&at, "ACK");
    }
    let failure = world.response(ALICE, 407);
    let challenges = failure.get_all("Proxy-Authenticate").len();
    assert!((12..=30).contains(&challenges), "{challenges}");
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

#[test]
fn cancels_of_all_kinds_leave_nothing() {
    let mut world = world(1, TO_BOB);
    let (invite, there) = begins(&mut world);
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    for _ in 0..3 {
        world.udp(ALICE, &cancel(&invite));
        world.response(ALICE, 200);
    }
    let cancelled = world.request(BOB, "CANCEL");
    world.silent();
    world.udp(BOB, &reply(&cancelled, 481, "b1", BOB));
    // It never answers its INVITE: RFC 3261 §9.1 gives up after 64*T1.
    world.advance(33_000);
    let failure = world.response(ALICE, 487);
    world.udp(ALICE, &ack_of(&invite, &failure));
    // After the end.
    world.udp(ALICE, &cancel(&invite).setting("CSeq", "33302 CANCEL"));
    world.forget_waiting();
    world.advance(40_000);
    world.forget_waiting();
    ends_empty(world);
}

/// RFC 3261 §16.10: a CANCEL goes on where its INVITE may have gone without state; what goes to one of several never does.
#[test]
fn a_cancel_of_nothing_goes_on_or_is_told_so() {
    let trunk = "[[trunk]]\nname = \"t\"\ndestinations = [\"sip:127.0.0.3:5063\"]\n\
                 [[route]]\naction = \"proxy\"\nto = [\"trunk:t\"]\n";
    let registered = "[[route]]\naction = \"proxy\"\nto = [\"registered\"]\n";
    for table in [trunk, registered] {
        let mut world = world(1, table);
        world.udp(
            ALICE,
            &cancel(&invite("alice", ALICE, "sip:bob@one.att.net", "c1")),
        );
        world.response(ALICE, 481);
        ends_empty(world);
    }
    let mut world = world(1, TO_BOB);
    world.udp(
        ALICE,
        &cancel(&invite("alice", ALICE, "sip:bob@one.att.net", "c1")),
    );
    let there = world.request(BOB, "CANCEL");
    world.udp(BOB, &reply(&there, 481, "b1", BOB));
    world.response(ALICE, 481);
    ends_empty(world);
}

fn with_places(transactions_max: usize) -> World {
    with_places_for(TO_BOB, transactions_max)
}

fn with_places_for(table: &str, transactions_max: usize) -> World {
    let tables = tables_of(table);
    World::with(1, |cfg| {
        cfg.routes = tables.routes;
        cfg.limits.transactions_max = transactions_max;
    })
}

/// RFC 3261 §9.2, §16.10: where no place is left what is in progress can be ended all the same, and that takes none.
#[test]
fn a_cancel_takes_effect_at_the_limit_of_transactions() {
    let mut world = with_places(2);
    let (invite, there) = begins(&mut world);
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m1"));
    world.response(ALICE, 503);
    world.udp(ALICE, &cancel(&invite));
    let first = world.response(ALICE, 200);
    let cancelled = world.request(BOB, "CANCEL");
    assert_eq!(cancelled.top_via(), there.top_via());
    // One of the two may be lost: the caller's comes again, and so does ours.
    world.udp(ALICE, &cancel(&invite));
    assert_eq!(world.response(ALICE, 200).text("To"), first.text("To"));
    world.request(BOB, "CANCEL");
    takes_the_cancel(&mut world, &cancelled, &there, &invite);
    ends_empty(world);
}

/// RFC 3261 §9.2, §8.2.7: a CANCEL that found no place has one answer, also when it comes again and there is a place by then.
#[test]
fn a_cancel_has_one_answer_with_a_place_and_without() {
    let mut world = with_places(3);
    let (invite, there) = begins(&mut world);
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    // The last place, for 64*T1 (Timer J).
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m1"));
    world.response(ALICE, 503);
    world.advance(20_000);
    world.udp(ALICE, &cancel(&invite));
    let first = world.response(ALICE, 200);
    let cancelled = world.request(BOB, "CANCEL");
    world.advance(11_000);
    world.udp(ALICE, &cancel(&invite));
    let without = world.response(ALICE, 200);
    world.request(BOB, "CANCEL");
    assert_eq!(world.shards.in_use().transactions, 3, "there is no place yet");
    world.advance(2_000);
    world.udp(ALICE, &cancel(&invite));
    let with = world.response(ALICE, 200);
    world.request(BOB, "CANCEL");
    assert_eq!(
        world.shards.in_use().transactions,
        3,
        "it has taken the place that is free by now"
    );
    for again in [without, with] {
        assert_eq!(again.text("To"), first.text("To"));
    }
    takes_the_cancel(&mut world, &cancelled, &there, &invite);
    ends_empty(world);
}

/// RFC 3261 §9.1: a CANCEL that had no place of its own is not sent anew for every reason that there is to cancel.
#[test]
fn a_cancel_that_left_alone_is_repeated_for_the_caller_only() {
    let both = "[[route]]\naction = \"proxy\"\nring_s = 1\nfork = \"by-q\"\nto = [\"<sip:bob@127.0.0.3:5063>;q=1\", \
                \"<sip:carol@127.0.0.5:5065>;q=1\", \"<sip:dave@127.0.0.4:5064>;q=0.5\"]\n";
    let mut world = with_places_for(both, 3);
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let [one, two] = [BOB, CAROL].map(|at| {
        let there = world.request(at, "INVITE");
        world.udp(at, &reply(&there, 180, "b1", at));
        world.response(ALICE, 180);
        there
    });
    world.advance(1_500);
    for (at, there) in [(BOB, &one), (CAROL, &two)] {
        let cancel = world.request(at, "CANCEL");
        assert_eq!(cancel.top_via(), there.top_via());
    }
    world.udp(CAROL, &reply(&two, 200, "b1", CAROL));
    let ok = world.response(ALICE, 200);
    world.silent();
    world.udp(BOB, &reply(&one, 487, "b1", BOB));
    world.request(BOB, "ACK");
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(CAROL, "ACK");
    ends_empty(world);
}

#[test]
fn a_call_can_be_ended_where_nothing_new_can_begin() {
    let mut world = with_places(16);
    let (invite, there) = begins(&mut world);
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(BOB, "ACK");
    world.advance(40_000);
    // Each has a place on either side, and the last two are for what goes on.
    for i in 0..7 {
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", &format!("m{i}")));
        world.request(BOB, "MESSAGE");
    }
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m7"));
    world.response(ALICE, 503);
    world.udp(ALICE, &within("BYE", 33303, &invite, &ok));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &reply(&bye, 200, "b1", BOB));
    world.response(ALICE, 200);
    world.advance(40_000);
    world.forget_waiting();
    ends_empty(world);
}

#[test]
fn a_server_that_stops_takes_no_new_calls_and_lets_dialogs_end() {
    let mut world = world(1, TO_BOB);
    let (invite, there) = begins(&mut world);
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(BOB, "ACK");
    world.drain();
    world.udp(ALICE, &crate::ask("INVITE", "sip:bob@example.com", "c2"));
    world.response(ALICE, 503);
    world.udp(ALICE, &within("BYE", 33303, &invite, &ok));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &reply(&bye, 200, "", BOB));
    world.response(ALICE, 200);
    world.forget_waiting();
    world.advance(40_000);
    world.forget_waiting();
    ends_empty(world);
}

#[test]
fn a_recorded_route_is_no_way_past_the_table_for_a_new_request() {
    for mode in ["stateful", "stateless"] {
        let table = format!(
            "[[route]]\nuser = [\"bob\"]\naction = \"proxy\"\nto = [\"sip:{BOB}\"]\nmode = \"{mode}\"\n"
        );
        let mut world = world(1, &format!("{table}[[route]]\naction = \"reject\"\n"));
        world.udp(ALICE, &invite("alice", ALICE, "sip:bob@example.com", "c1"));
        if mode == "stateful" {
            world.response(ALICE, 100);
        }
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reply(&there, 180, "b1", BOB));
        let ringing = world.response(ALICE, 180);
        let route = ringing.text("Record-Route").to_owned();
        // The same Call-ID, so that the route is good for it, but nobody's tag: it begins something.
        for method in ["INVITE", "MESSAGE"] {
            let dear = ask(method, &format!("sip:+1900@{CAROL}"), "c1").with("Route", &route);
            world.udp(ALICE, &dear);
            world.response(ALICE, 403);
        }
        world.udp(BOB, &reply(&there, 486, "b1", BOB));
        world.forget_waiting();
        world.advance(70_000);
        world.forget_waiting();
        ends_empty(world);
    }
}

#[test]
fn the_ack_of_an_answer_without_a_transaction_goes_no_further() {
    let table =
        format!("[[route]]\nmethod = [\"INVITE\"]\nuser = [\"nobody\"]\naction = \"reject\"\n{TO_BOB}");
    let mut world = world(1, &table);
    let invite = ask("INVITE", "sip:nobody@example.com", "c1");
    world.udp(ALICE, &invite);
    let failure = world.response(ALICE, 403);
    // By the table it would be Bob's: the rule that answered is for INVITE alone.
    world.udp(ALICE, &ack_of(&invite, &failure));
    world.silent();
    assert_eq!(world.drops(DropReason::StrayAck), 1);
    ends_empty(world);
}

/// Whoever has got one Via of ours can put it into a response as often as one holds: each would lead it to us once more.
#[test]
fn without_state_no_response_goes_round_through_ourselves() {
    let mut world = world(1, &format!("{TO_BOB}mode = \"stateless\"\n"));
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m1"));
    let there = world.request(BOB, "MESSAGE");
    let own = there.top_via().to_owned();
    for below in [
        own.clone(),
        own.replace(SERVER, "elsewhere.example:5060") + ";received=127.0.0.1",
        own.replace(SERVER, "[::ffff:127.0.0.1]:5060"),
    ] {
        let mut response = reply(&there, 200, "b1", BOB).removing("Via");
        response.insert("Via", &own);
        for _ in 0..50 {
            response.insert("Via", &below);
        }
        let before = world.drops(DropReason::StrayResponse);
        world.udp(BOB, &response);
        world.silent();
        assert_eq!(world.drops(DropReason::StrayResponse), before + 1, "{below}");
    }
    // What comes by them in order still does.
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}

/// RFC 4291 §2.5.5.2: an IPv4 address in the clothes of IPv6 is the same host, ourselves included.
#[test]
fn our_address_is_known_in_the_clothes_of_ipv6() {
    let table = "[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n";
    let mut world = world(1, table);
    for (id, uri) in [
        ("o1", "sip:bob@[::ffff:127.0.0.1]"),
        ("o2", "sip:bob@[::FFFF:7F00:1]:5060"),
    ] {
        world.udp(ALICE, &ask("OPTIONS", uri, id));
        world.response(ALICE, 482);
    }
    // And so is another's; a Route of ours is used up.
    let options = ask("OPTIONS", "sip:bob@[::ffff:127.0.0.3]:5063", "o4")
        .with("Route", "<sip:[::ffff:127.0.0.1]:5060;lr>");
    world.udp(ALICE, &options);
    let there = world.request(BOB, "OPTIONS");
    assert!(!there.has("Route"), "{there}");
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}
