//! Requests to GRUUs through the proxy: RFC 5627 §6.1.

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{REGISTERED, ask, ends_empty, reply, within, world};

const EDGE: &str = "127.0.0.6:5066";

#[test]
fn a_gruu_leads_to_one_phone() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let mut gruus = Vec::new();
        for (at, device) in [(BOB, 1), (BOB_TABLET, 2)] {
            world.udp(at, &register_device(at, device, &format!("r{device}"), 1));
            let ok = world.response(at, 200);
            let contacts = ok.get_all("Contact");
            let own = contacts
                .iter()
                .find(|contact| contact.contains(&format!("@{at}>")));
            let own = own.expect("its contact");
            gruus.push((at, quoted_uri(own, "pub-gruu").expect("a GRUU")));
            gruus.push((at, quoted_uri(own, "temp-gruu").expect("a GRUU")));
        }
        for (number, (at, uri)) in gruus.iter().enumerate() {
            world.udp(ALICE, &ask("MESSAGE", uri, &number.to_string()));
            let there = world.request(at, "MESSAGE");
            assert_eq!(there.uri(), Some(&*format!("sip:bob@{at}")));
            world.silent();
            world.udp(at, &reply(&there, 200, "b", at));
            world.response(ALICE, 200);
        }
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net;gr", "x"));
        world.response(ALICE, 404);
        world.udp(
            ALICE,
            &ask("MESSAGE", "sip:bob@one.att.net;gr=urn:uuid:other", "y"),
        );
        world.response(ALICE, 480);
        ends_empty(world);
    });
}

#[test]
fn within_a_dialog_the_route_decides_and_not_the_path() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let register = register_device(BOB, 1, "r1", 1)
            .setting("Supported", "gruu, path")
            .inserting("Path", format!("<sip:{EDGE};lr>"));
        world.udp(EDGE, &forwarded(register, EDGE));
        let ok = world.response(EDGE, 200);
        let gruu = quoted_uri(ok.text("Contact"), "pub-gruu").expect("a GRUU");
        world.udp(ALICE, &ask("MESSAGE", &gruu, "1"));
        let there = world.request(EDGE, "MESSAGE");
        assert_eq!(there.get_all("Route"), [format!("<sip:{EDGE};lr>")]);
        world.udp(EDGE, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        let other = "<sip:127.0.0.8:5068;lr>";
        world.udp(ALICE, &ask("MESSAGE", &gruu, "2").with("Route", other));
        let there = world.request("127.0.0.8:5068", "MESSAGE");
        assert_eq!(there.get_all("Route"), [other]);
        assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
        world.udp("127.0.0.8:5068", &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        ends_empty(world);
    });
}

/// BOB's phone registers, and its public GRUU.
fn with_gruu(world: &mut World, call_id: &str, cseq: u32, at: &str) -> String {
    world.udp(at, &register_device(at, 1, call_id, cseq));
    let ok = world.response(at, 200);
    quoted_uri(ok.text("Contact"), "pub-gruu").expect("a GRUU")
}

/// RFC 5627 §6.1: the route of the dialog ends here, and where its URI leads is known here alone. That of the ACK of a 2xx too.
#[test]
fn a_dialog_with_a_phone_that_is_reached_by_its_gruu_finds_it() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let gruu = with_gruu(&mut world, "r1", 1, BOB);
        for call_id in ["c1", "c2", "c3", "c4"] {
            // As the callee of one dialog.
            let invite = invite("alice", ALICE, "sip:bob@one.att.net", call_id);
            world.udp(ALICE, &invite);
            world.response(ALICE, 100);
            let there = world.request(BOB, "INVITE");
            world.udp(
                BOB,
                &reply(&there, 200, "b", BOB).setting("Contact", format!("<{gruu}>")),
            );
            let ok = world.response(ALICE, 200);
            assert_eq!(bench_harness::sip::uri(ok.text("Contact")), gruu);
            for method in ["ACK", "INFO", "BYE"] {
                let cseq = if method == "ACK" { 33302 } else { 33303 };
                world.udp(ALICE, &within(method, cseq, &invite, &ok));
                let there = world.request(BOB, method);
                assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")), "{method}");
                assert!(!there.has("Route"));
                if method != "ACK" {
                    world.udp(BOB, &reply(&there, 200, "b", BOB));
                    world.response(ALICE, 200);
                }
                world.silent();
            }
        }
        world.advance(100_000);
        ends_empty(world);
    });
}

#[test]
fn a_gruu_in_a_dialog_leads_to_where_its_phone_is_by_then() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let gruu = with_gruu(&mut world, "r1", 1, BOB);
        let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        world.udp(
            BOB,
            &reply(&there, 200, "b", BOB).setting("Contact", format!("<{gruu}>")),
        );
        let ok = world.response(ALICE, 200);
        // The phone has moved.
        assert_eq!(with_gruu(&mut world, "r1", 2, BOB_TABLET), gruu);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.request(BOB_TABLET, "ACK");
        // And is gone: the ACK is for nobody, and is not answered.
        let gone = register_device(BOB_TABLET, 1, "r1", 3).setting("Expires", 0);
        world.udp(BOB_TABLET, &gone.setting("Contact", "*"));
        world.response(BOB_TABLET, 200);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.silent();
        world.udp(ALICE, &within("BYE", 33303, &invite, &ok));
        world.response(ALICE, 480);
        world.advance(100_000);
        ends_empty(world);
    });
}
