//! Requests to registered contacts that are reached by a path: RFC 3327 §5.4; and the service route of RFC 3608.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::names::Zone;
use crate::world::{World, on_each_number_of_shards};
use crate::{CAROL, REGISTERED, ask, ends_empty, reply, routes_of, within, world};

/// The proxy that BOB registers through.
const EDGE: &str = "127.0.0.6:5066";

fn register_behind(world: &mut World, at: &str, call_id: &str, q: &str) {
    let contact = format!("<sip:bob@{at}>;q={q}");
    let register = forwarded(register("bob", at, call_id), EDGE)
        .setting("Contact", contact)
        .with("Supported", "path")
        .with("Path", format!("<sip:{call_id}@{EDGE};lr>"));
    world.udp(EDGE, &register);
    let ok = world.response(EDGE, 200);
    assert_eq!(ok.text("Path"), format!("<sip:{call_id}@{EDGE};lr>"));
}

#[test]
fn the_path_stands_before_what_is_left_of_the_route() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        register_behind(&mut world, BOB, "one", "1");
        let message = ask("MESSAGE", "sip:bob@one.att.net", "1").with("Route", "<sip:127.0.0.8:5068;lr>");
        world.udp(ALICE, &message);
        let there = world.request(EDGE, "MESSAGE");
        assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
        assert_eq!(
            there.get_all("Route"),
            [&*format!("<sip:one@{EDGE};lr>"), "<sip:127.0.0.8:5068;lr>"]
        );
        world.udp(EDGE, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        ends_empty(world);
    });
}

#[test]
fn each_contact_is_tried_by_its_own_path() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        register_behind(&mut world, BOB, "one", "0.9");
        register_behind(&mut world, BOB_TABLET, "two", "0.5");
        let direct = register("bob", CAROL, "three").setting("Contact", format!("<sip:bob@{CAROL}>;q=0.1"));
        world.udp(CAROL, &direct);
        world.response(CAROL, 200);
        let invite =
            ask("INVITE", "sip:bob@one.att.net", "1").with("Contact", format!("<sip:alice@{ALICE}>"));
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        for (at, call_id) in [(BOB, "one"), (BOB_TABLET, "two")] {
            let there = world.request(EDGE, "INVITE");
            assert_eq!(there.uri(), Some(&*format!("sip:bob@{at}")));
            assert_eq!(there.get_all("Route"), [format!("<sip:{call_id}@{EDGE};lr>")]);
            world.udp(EDGE, &reply(&there, 486, "b", at));
            // RFC 3261 §17.1.1.3: the ACK of a failure has the route of its INVITE.
            assert_eq!(
                world.request(EDGE, "ACK").get_all("Route"),
                there.get_all("Route")
            );
        }
        let there = world.request(CAROL, "INVITE");
        assert!(!there.has("Route"), "the last one is near");
        let ok = reply(&there, 200, "c", CAROL);
        world.udp(CAROL, &ok);
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &within("ACK", 7, &invite, &ok));
        world.request(CAROL, "ACK");
        ends_empty(world);
    });
}

#[test]
fn a_route_that_we_told_phones_to_use_is_ours() {
    let mut world = World::with(1, |cfg| {
        cfg.routes = routes_of(REGISTERED);
        cfg.registrar.service_route = vec!["sip:orig@proxy.one.att.net;lr".to_owned()];
    });
    world.udp(BOB, &register("bob", BOB, "r1"));
    let ok = world.response(BOB, 200);
    assert_eq!(ok.text("Service-Route"), "<sip:orig@proxy.one.att.net;lr>");
    let message: Message =
        ask("MESSAGE", "sip:bob@one.att.net", "1").with("Route", "<sip:orig@PROXY.one.att.net;lr>");
    world.udp(ALICE, &message);
    let there = world.request(BOB, "MESSAGE");
    assert!(!there.has("Route"));
    let busy = reply(&there, 486, "b", BOB);
    world.udp(BOB, &busy);
    world.response(ALICE, 486);
    ends_empty(world);
}

/// BOB registers through an edge whose path is a name, over the transport that it asks for.
fn register_behind_a_name(world: &mut World) {
    let register = forwarded(register("bob", BOB, "named"), EDGE)
        .with("Supported", "path")
        .with("Path", "<sip:bob@edge.example;lr>");
    world.udp(EDGE, &register);
    world.response(EDGE, 200);
}

/// RFC 3327 §5.4 has the path stand in Route, and RFC 3263 §4 what it names looked up.
#[test]
fn a_path_that_is_a_name_leads_where_the_name_does() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let mut zone = Zone::default()
            .service(
                "_sip._udp.edge.example",
                &[(1, 5070, "a.example"), (2, 5071, "b.example")],
            )
            .host("a.example", 11)
            .host("b.example", 12);
        register_behind_a_name(&mut world);
        for call_id in ["1", "2"] {
            world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net", call_id));
            zone.serve(&mut world, shards);
            let first = world.request("127.0.0.11:5070", "MESSAGE");
            assert_eq!(first.uri(), Some(&*format!("sip:bob@{BOB}")));
            assert_eq!(first.get_all("Route"), ["<sip:bob@edge.example;lr>"]);
            world.udp("127.0.0.11:5070", &reply(&first, 503, "b", EDGE));
            let second = world.request("127.0.0.12:5071", "MESSAGE");
            assert_eq!(second.get_all("Route"), first.get_all("Route"));
            world.udp("127.0.0.12:5071", &reply(&second, 200, "b", BOB));
            world.response(ALICE, 200);
            world.silent();
        }
        ends_empty(world);
    });
}

#[test]
fn a_path_whose_name_nobody_knows_leads_where_its_register_came_from() {
    on_each_number_of_shards(|shards| {
        let (mut world, mut zone) = (world(shards, REGISTERED), Zone::default());
        register_behind_a_name(&mut world);
        for call_id in ["1", "2"] {
            world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net", call_id));
            zone.serve(&mut world, shards);
            let there = world.request(EDGE, "MESSAGE");
            assert_eq!(there.get_all("Route"), ["<sip:bob@edge.example;lr>"]);
            // There is no other place.
            world.udp(EDGE, &reply(&there, 503, "b", EDGE));
            world.response(ALICE, 500);
            world.silent();
        }
        assert!(zone.asked > 0);
        ends_empty(world);
    });
}
