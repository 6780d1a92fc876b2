//! What the control thread asks of a shard and is told by it, without either thread.

use ringway::json::Page;
use ringway::metrics::{MessageKind, Recorded, Timed};
use ringway::port::{Ask, Listing, RequestId, Tell};
use ringway::time::DateShift;
use ringway::wire::Transport;

use crate::messages::*;
use crate::world::World;

/// What the shard recorded since it was last asked.
fn recorded(world: &mut World, shard: usize, request: u32) -> Box<Recorded> {
    let request = RequestId(request);
    let empty = Box::default();
    let dates = DateShift::default();
    let ask = Ask::Recorded {
        request,
        empty,
        dates,
    };
    world.ask(shard, ask, b"");
    match world.told(shard) {
        Some((
            Tell::Recorded {
                request: of,
                recorded,
            },
            _,
        )) if of == request => recorded,
        other => panic!("{other:?}"),
    }
}

#[test]
fn histograms_are_swapped_for_empty_ones_and_every_message_is_in_one_of_them() {
    let mut world = with_bob(2);
    let mut counts = [0; 2];
    for round in 0..2 {
        let _standing = call(&mut world, &format!("c{round}"));
        for shard in 0..2 {
            let recorded = recorded(&mut world, shard, round * 2 + shard as u32);
            counts[round as usize] += recorded
                .histograms
                .get(Timed::InServer(MessageKind::Invite))
                .len();
        }
    }
    assert_eq!(counts, [1, 1], "one INVITE a round, on whichever shard owns it");
    assert!(world.told(0).is_none(), "nothing was told that was not asked");
    world.hang_up_all();
    world.end();
}

#[test]
fn a_call_is_timed_to_its_ringing_and_its_answer_and_so_are_its_transactions() {
    let mut world = with_bob(1);
    recorded(&mut world, 0, 1);
    let standing = call(&mut world, "timed");
    let up = recorded(&mut world, 0, 2);
    assert_eq!(
        (
            up.histograms.get(Timed::Ringing).len(),
            up.histograms.get(Timed::Answer).len()
        ),
        (1, 1)
    );
    world.udp(
        ALICE,
        &in_dialog("BYE", 33303, ALICE, &standing.invite_a, &standing.ok_a),
    );
    let bye = world.request(BOB, "BYE");
    world.advance(700);
    world.request(BOB, "BYE");
    world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
    world.response(ALICE, 200);
    world.advance(60_000);
    let over = recorded(&mut world, 0, 3);
    // INVITE and BYE on either leg, and the REGISTER before them. Timer J keeps the caller's BYE for 64*T1 after its answer (RFC 3261 §17.2.2), and timer M
    // and L what an INVITE was accepted by (RFC 6026): none is shorter than 5 s.
    let transactions = over.histograms.get(Timed::Transaction);
    assert_eq!(transactions.len(), 5);
    assert!(transactions.min() >= 5_000_000_000 && transactions.max() < 45_000_000_000);
    assert!(!over.histograms.get(Timed::Turn).is_empty());
    assert_eq!(over.histograms.get(Timed::Answer).len(), 0, "counted once");
    let metrics = &world.shards.metrics[0];
    let udp = |kind| {
        (
            metrics.received.get(Transport::Udp, kind),
            metrics.sent.get(Transport::Udp, kind),
        )
    };
    assert_eq!(udp(MessageKind::Bye), (1, 1), "a repeated one is not new");
    assert_eq!(metrics.retransmissions_sent.get(), 1);
    assert_eq!(metrics.received.get(Transport::Tcp, MessageKind::Bye), 0);
    world.silent();
    world.end();
}

#[test]
fn a_long_listing_comes_in_pages_of_bounded_work_and_holds_everybody_once() {
    let mut world = World::new(1);
    let mut expected = std::collections::BTreeSet::new();
    for number in 0..1_500 {
        let user = format!("user{number}");
        world.udp(ALICE, &register(&user, ALICE, &format!("r{number}")));
        world.response(ALICE, 200);
        expected.insert(format!("sip:{user}@one.att.net"));
    }
    let (mut cursor, mut found, mut pages) = (0, std::collections::BTreeSet::new(), 0);
    loop {
        let request = RequestId(pages);
        let ask = Ask::List {
            request,
            listing: Listing::Registrations,
            cursor,
            page: Box::new(Page::new(64 * 1_024)),
        };
        world.ask(0, ask, b"");
        let Some((
            Tell::Page {
                request: of,
                page,
                next,
            },
            _,
        )) = world.told(0)
        else {
            panic!("a page")
        };
        assert_eq!(of, request);
        assert!(page.entries() <= 256, "a turn is not held up");
        pages += 1;
        for line in String::from_utf8(page.into_bytes()).expect("text").lines() {
            let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let is_new = found.insert(entry["aor"].as_str().expect("an AoR").to_owned());
            assert!(is_new, "{line} came twice");
        }
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(found, expected);
    assert!(pages >= 6);
    world.end();
}

#[test]
fn contacts_of_one_subscriber_that_fill_more_than_a_page_are_all_listed() {
    let mut world = World::new(1);
    let mut expected = std::collections::BTreeSet::new();
    for number in 0..8u8 {
        let long = "x".repeat(300 + 500 * usize::from(number == 3));
        let contact = format!("sip:bob@{BOB};n={number};p={long}");
        let request = register("bob", BOB, &format!("c{number}"));
        world.udp(BOB, &request.setting("Contact", format!("<{contact}>")));
        world.response(BOB, 200);
        expected.insert(contact);
    }
    let (mut cursor, mut found, mut pages) = (0, std::collections::BTreeSet::new(), 0);
    loop {
        let ask = Ask::List {
            request: RequestId(pages),
            listing: Listing::Registrations,
            cursor,
            page: Box::new(Page::new(1_000)),
        };
        world.ask(0, ask, b"sip:bob@one.att.net");
        let Some((Tell::Page { page, next, .. }, _)) = world.told(0) else {
            panic!("a page")
        };
        pages += 1;
        for line in String::from_utf8(page.into_bytes()).expect("text").lines() {
            let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let contact = entry["contact"].as_str().expect("a contact");
            let whole = expected
                .iter()
                .find(|it| it.starts_with(contact.trim_end_matches('…')));
            let is_new = found.insert(whole.expect("a contact of bob's").clone());
            assert!(is_new, "{line} came twice");
        }
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(found, expected);
    assert!((4..=8).contains(&pages), "{pages}");
    world.end();
}

#[test]
fn messages_are_counted_by_the_address_of_the_other_end_on_whichever_shard() {
    let mut world = with_bob(2);
    let _standing = call(&mut world, "counted");
    let mut counts = std::collections::BTreeMap::new();
    for shard in 0..2 {
        for count in recorded(&mut world, shard, shard as u32).peers.iter() {
            let (received, sent) = counts.entry(count.ip.to_string()).or_insert((0, 0));
            *received += count.received;
            *sent += count.sent;
        }
        let again = recorded(&mut world, shard, 7);
        assert_eq!(again.peers.iter().count(), 0, "it was taken");
    }
    let alice = ("127.0.0.2".to_owned(), (2, 3));
    let bob = ("127.0.0.3".to_owned(), (4, 3));
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [alice, bob]);
    world.hang_up_all();
    world.end();
}

#[test]
fn a_call_whose_names_fill_more_than_a_page_is_listed_all_the_same() {
    let mut world = with_bob(1);
    let name = "\u{1}".repeat(50_000);
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "long")
        .setting("From", format!("\"{name}\" <sip:alice@one.att.net>;tag=f"));
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    world.request(BOB, "INVITE");
    for wanted in [&b""[..], b"long"] {
        let ask = Ask::List {
            request: RequestId(1),
            listing: Listing::Calls,
            cursor: 0,
            page: Box::new(Page::new(256 * 1_024)),
        };
        world.ask(0, ask, wanted);
        let Some((Tell::Page { page, next: None, .. }, _)) = world.told(0) else {
            panic!("one page")
        };
        let text = String::from_utf8(page.into_bytes()).expect("text");
        let call: serde_json::Value = serde_json::from_str(&text).expect("one call");
        let caller = &call["legs"][0];
        assert_eq!(caller["call_id"], "long");
        assert!(
            caller["remote"].as_str().is_some_and(|name| name.ends_with('…')),
            "{caller}"
        );
    }
    world.hang_up_all();
    world.end();
}

#[test]
fn a_date_that_is_set_is_followed_and_moves_no_registration() {
    let mut world = World::new(1);
    let registers = |world: &mut World, call_id: &str| {
        let contact = format!("<sip:bob@{BOB}>;expires=7200");
        world.udp(BOB, &register("bob", BOB, call_id).setting("Contact", contact));
        let ok = world.response(BOB, 200);
        (ok.text("Date").to_owned(), ok.text("Contact").to_owned())
    };
    let (before, contact) = registers(&mut world, "r1");
    assert_eq!(before, "Fri, 15 Jan 2027 08:00:00 GMT");
    let ask = Ask::Recorded {
        request: RequestId(1),
        empty: Box::default(),
        dates: DateShift::from_nanos(-86_400_000_000_000),
    };
    world.ask(0, ask, b"");
    assert_eq!(
        registers(&mut world, "r2"),
        ("Thu, 14 Jan 2027 08:00:00 GMT".to_owned(), contact)
    );
    // It ends when it would have ended, and not a day earlier or later.
    world.advance(7_199_000);
    let invite = calls_bob(&mut world, "c1");
    world.request(BOB, "INVITE");
    world.udp(ALICE, &cancel(&invite));
    world.response(ALICE, 200);
    world.response(ALICE, 487);
    world.advance(100_000);
    world.forget_waiting();
    calls_bob(&mut world, "c2");
    world.response(ALICE, 480);
    world.end_after_all_timers();
}
