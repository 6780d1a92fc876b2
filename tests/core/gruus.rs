//! URIs of one phone among those of a subscriber: RFC 5627, in the phone service.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

/// The public and the temporary GRUU that the phone is given.
fn registers(world: &mut World, at: &str, device: u8, call_id: &str, cseq: u32) -> (String, String) {
    world.udp(at, &register_device(at, device, call_id, cseq));
    let ok = world.response(at, 200);
    let contact = *ok
        .get_all("Contact")
        .iter()
        .find(|contact| contact.contains(&format!("@{at}>")))
        .expect("its contact");
    let public = quoted_uri(contact, "pub-gruu").expect("a public GRUU");
    let temporary = quoted_uri(contact, "temp-gruu").expect("a temporary GRUU");
    assert!(!ok.has("Require"), "RFC 5627 §5.2");
    (public, temporary)
}

fn message_to(uri: &str, call_id: &str) -> Message {
    Message::request("MESSAGE", uri)
        .with("Via", via(ALICE, &format!("m{call_id}")))
        .with("From", format!("<sip:alice@one.att.net>;tag=f{call_id}"))
        .with("To", format!("<{uri}>"))
        .with("Call-ID", call_id)
        .with("CSeq", "1 MESSAGE")
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// What ALICE is answered; a phone that gets the request takes it.
fn status_of(world: &mut World, uri: &str, at: &str, call_id: &str) -> u16 {
    world.udp(ALICE, &message_to(uri, call_id));
    if let Some(message) = world.take_request(at, "MESSAGE") {
        assert_eq!(
            message.uri(),
            Some(&*format!("sip:bob@{at}")),
            "the contact, without gr"
        );
        world.udp(at, &answer(&message, 200, "OK", "m1", at));
    }
    world.next(ALICE).status().expect("a response")
}

#[test]
fn temporary_gruus_gather_until_another_call_id_or_the_end_of_the_registration() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        let (public, first) = registers(&mut world, BOB, 1, "r1", 1);
        assert_eq!(
            public,
            "sip:bob@one.att.net;gr=urn:uuid:00000000-0000-1000-8000-000000000001"
        );
        assert!(
            first.starts_with("sip:tgruu.") && first.ends_with("@one.att.net;gr"),
            "{first}"
        );
        let (again, second) = registers(&mut world, BOB, 1, "r1", 2);
        assert_eq!(again, public);
        assert_ne!(first, second);
        for (uri, call_id) in [(&public, "m1"), (&first, "m2"), (&second, "m3")] {
            assert_eq!(status_of(&mut world, uri, BOB, call_id), 200, "{uri}");
        }
        // §5.1: another Call-ID makes all that were there invalid.
        let (again, third) = registers(&mut world, BOB, 1, "r2", 1);
        assert_eq!(again, public);
        let expected = [(&public, 200), (&first, 404), (&second, 404), (&third, 200)];
        for (number, (uri, status)) in expected.into_iter().enumerate() {
            let call_id = format!("n{number}");
            assert_eq!(status_of(&mut world, uri, BOB, &call_id), status, "{uri}");
        }
        // §5.3: without a contact the public one is still known.
        let gone = register_device(BOB, 1, "r2", 2).inserting("Expires", 0);
        world.udp(BOB, &gone);
        world.response(BOB, 200);
        assert_eq!(status_of(&mut world, &public, BOB, "o1"), 480);
        assert_eq!(status_of(&mut world, &third, BOB, "o2"), 404);
        let (again, fourth) = registers(&mut world, BOB, 1, "r2", 3);
        assert_eq!(again, public);
        assert_eq!(status_of(&mut world, &third, BOB, "o3"), 404);
        assert_eq!(status_of(&mut world, &fourth, BOB, "o4"), 200);
        world.end_after_all_timers();
    });
}

/// §5.2: the temporary GRUU in a 200 is the one that was made last, also where two were made in one turn.
#[test]
fn registers_of_one_turn_have_a_temporary_gruu_each() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        let mut given = Vec::new();
        for (cseq, at) in [BOB, BOB_TABLET, BOB, BOB_TABLET, BOB_TABLET, BOB]
            .into_iter()
            .enumerate()
        {
            let (_, temporary) = registers(&mut world, at, 1, "r1", cseq as u32 + 1);
            assert!(!given.contains(&temporary), "{temporary} was given before");
            given.push(temporary);
        }
        for (number, temporary) in given.iter().enumerate() {
            // Both contacts are of one device, of which the one that was registered last is tried.
            let status = status_of(&mut world, temporary, BOB, &format!("m{number}"));
            assert_eq!(status, 200, "{temporary}");
        }
        world.end_after_all_timers();
    });
}

#[test]
fn a_gruu_rings_one_phone_and_the_address_of_record_all() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        let (bob, bob_temporary) = registers(&mut world, BOB, 1, "r1", 1);
        let (tablet, _) = registers(&mut world, BOB_TABLET, 2, "r2", 1);
        assert_ne!(bob, tablet);
        let upper = bob.replace("urn:uuid:", "URN:UUID:");
        for (uri, at, call_id) in [
            (&bob, BOB, "m1"),
            (&tablet, BOB_TABLET, "m2"),
            (&bob_temporary, BOB, "m3"),
            (&upper, BOB, "m4"),
        ] {
            assert_eq!(status_of(&mut world, uri, at, call_id), 200, "{uri}");
            world.silent();
        }
        world.udp(ALICE, &message_to("sip:bob@one.att.net", "m5"));
        let there = world.request(BOB, "MESSAGE");
        let also = world.request(BOB_TABLET, "MESSAGE");
        world.udp(BOB, &answer(&there, 200, "OK", "t", BOB));
        world.udp(BOB_TABLET, &answer(&also, 200, "OK", "t", BOB));
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}

#[test]
fn what_is_no_gruu_of_ours_is_not_found() {
    let mut world = World::new(1);
    let (_, temporary) = registers(&mut world, BOB, 1, "r1", 1);
    let forged = temporary.replacen("tgruu.", "tgruu.0", 1);
    let flipped = match temporary.as_bytes()["sip:tgruu.".len()] {
        b'0' => temporary.replacen("tgruu.0", "tgruu.1", 1),
        digit => temporary.replacen(&format!("tgruu.{}", char::from(digit)), "tgruu.0", 1),
    };
    for (number, (uri, status)) in [
        (&*forged, 404),
        (&flipped, 404),
        ("sip:bob@one.att.net;gr", 404),
        ("sip:bob@one.att.net;gr=urn:uuid:other", 480),
        ("sip:nobody@one.att.net;gr=urn:uuid:other", 404),
        ("sip:tgruu.1@elsewhere.example;gr", 404),
    ]
    .into_iter()
    .enumerate()
    {
        let call_id = format!("m{number}");
        assert_eq!(status_of(&mut world, uri, BOB, &call_id), status, "{uri}");
    }
    world.end_after_all_timers();
}

#[test]
fn only_a_phone_that_asks_gets_gruus_and_none_may_choose_its_own() {
    let mut world = World::new(1);
    let own = ";pub-gruu=\"sip:bob@evil.example;gr=1\";temp-gruu=\"sip:x@evil.example;gr\"";
    let plain = register_device(BOB, 1, "r1", 1).removing("Supported");
    let contact = format!("{}{own}", plain.text("Contact"));
    world.udp(BOB, &plain.setting("Contact", &contact));
    let ok = world.response(BOB, 200);
    assert!(!ok.text("Contact").contains("gruu"), "{}", ok.text("Contact"));
    let asks = register_device(BOB, 1, "r1", 2).setting("Contact", &contact);
    world.udp(BOB, &asks.inserting("Require", "gruu"));
    let ok = world.response(BOB, 200);
    let contact = ok.text("Contact");
    assert_eq!(contact.matches("gruu=").count(), 2, "{contact}");
    assert!(!contact.contains("evil"), "{contact}");
    // One without a device has none.
    world.udp(BOB, &register("carol", BOB, "r2").inserting("Supported", "gruu"));
    assert!(!world.response(BOB, 200).text("Contact").contains("gruu"));
    world.end_after_all_timers();
}

#[test]
fn a_contact_that_leads_back_is_refused() {
    let mut world = World::new(1);
    let (public, temporary) = registers(&mut world, BOB, 1, "r1", 1);
    let contacts = [
        "sip:bob@one.att.net".to_owned(),
        "sip:b%6fb@ONE.att.net:5060".to_owned(),
        public,
        temporary,
        "tel:+4930123".to_owned(),
        "mailto:bob@one.att.net".to_owned(),
    ];
    for (number, uri) in contacts.iter().enumerate() {
        let contact = format!("<{uri}>;+sip.instance=\"<urn:uuid:1>\"");
        let register = register_device(BOB, 1, &format!("c{number}"), 1).setting("Contact", contact);
        world.udp(BOB, &register);
        let refused = world.next(BOB).status();
        // A port makes it another URI than the address-of-record (RFC 3261 §19.1.4).
        assert_eq!(refused, Some(if number == 1 { 200 } else { 403 }), "{uri}");
    }
    world.end_after_all_timers();
}

#[test]
fn a_phone_that_answers_with_its_gruu_is_reached_where_it_was_rung() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        let (_, temporary) = registers(&mut world, BOB, 1, "r1", 1);
        let invite_a = invite("alice", ALICE, &temporary, "c1");
        world.udp(ALICE, &invite_a);
        world.response(ALICE, 100);
        let invite_b = world.request(BOB, "INVITE");
        let ok = answer(&invite_b, 200, "OK", "b1", BOB).setting("Contact", format!("<{temporary}>"));
        world.udp(BOB, &ok);
        let ok_a = world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
        assert_eq!(world.request(BOB, "ACK").uri(), Some(&*format!("sip:bob@{BOB}")));
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok_a));
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&bye, 200, "OK", "b1", BOB));
        world.response(ALICE, 200);
        world.end_after_all_timers();
    });
}

#[test]
fn flows_of_one_phone_share_its_gruus_and_are_tried_in_turn() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        let mut gruus = Vec::new();
        for (at, reg_id) in [(BOB, 1), (BOB_TABLET, 2)] {
            let register = register_flow("tcp", at, reg_id, &format!("r{reg_id}"));
            world.tcp(at, &register.setting("Supported", "path, outbound, gruu"));
            let ok = world.response(at, 200);
            let contact = ok.get_all("Contact").concat();
            gruus.push(quoted_uri(&contact, "temp-gruu").expect("a GRUU"));
            world.advance(1_000);
        }
        assert_ne!(gruus[0], gruus[1]);
        // §4.2: the one that the first flow got stays when that flow goes.
        world.close(BOB_TABLET);
        for (number, uri) in gruus.iter().enumerate() {
            world.udp(ALICE, &message_to(uri, &format!("m{number}")));
            let there = world.request(BOB, "MESSAGE");
            world.tcp(BOB, &answer(&there, 200, "OK", "t", BOB));
            world.response(ALICE, 200);
        }
        world.end_after_all_timers();
    });
}

#[test]
fn who_watches_learns_the_public_gruu() {
    let mut world = World::new(1);
    let (public, temporary) = registers(&mut world, BOB, 1, "r1", 1);
    let subscribe = Message::request("SUBSCRIBE", "sip:bob@one.att.net")
        .with("Via", via(BOB, "s1"))
        .with("From", "<sip:bob@one.att.net>;tag=s1")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", "s1")
        .with("CSeq", "1 SUBSCRIBE")
        .with("Contact", format!("<sip:bob@{BOB}>"))
        .with("Event", "reg")
        .with("Expires", 600)
        .with("Content-Length", 0);
    world.udp(BOB, &subscribe);
    world.response(BOB, 200);
    let notify = world.request(BOB, "NOTIFY");
    let body = String::from_utf8(notify.body.clone()).expect("XML");
    assert!(body.contains(&format!(" uri=\"{public}\"/>")), "{body}");
    assert!(!body.contains(&temporary), "{body}");
    world.udp(BOB, &answer(&notify, 200, "OK", "", BOB));
    world.end_after_all_timers();
}
