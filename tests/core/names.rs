//! Contacts of the phone service whose host is a name with more than one address: RFC 3263 §4.3.

use bench_harness::sip::Message;
use ringway::config::Config;
use ringway::config::dns::{HostEntry, HostRecord};

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};

/// Where the desk may be, in the order in which its name says so.
const DESK: [&str; 3] = ["127.0.0.21:5081", "127.0.0.22:5082", "127.0.0.23:5083"];

/// The name of the desk leads to these.
fn leads_to(cfg: &mut Config, places: &[&str]) {
    cfg.hosts.clear();
    for transport in ["udp", "tcp"] {
        let mut services = Vec::new();
        for (priority, place) in places.iter().enumerate() {
            let (ip, port) = place.split_once(':').expect("an address and a port");
            let target = format!("h{port}.example");
            cfg.hosts.push(HostEntry {
                name: target.clone(),
                records: vec![HostRecord::Address(ip.parse().expect("an address"))],
            });
            services.push(HostRecord::Service {
                priority: priority as u16,
                weight: 0,
                port: port.parse().expect("a port"),
                target,
            });
        }
        cfg.hosts.push(HostEntry {
            name: format!("_sip._{transport}.desk.example"),
            records: services,
        });
    }
}

/// BOB has registered a contact with a name, of which so many places are known.
fn with_desk(shards: usize, places: usize, transport: &str) -> World {
    let mut world = World::with(shards, |cfg| leads_to(cfg, &DESK[..places]));
    let contact = format!("<sip:bob@desk.example;transport={transport}>");
    world.udp(BOB, &register("bob", BOB, "reg-desk").setting("Contact", contact));
    world.response(BOB, 200);
    world
}

#[track_caller]
fn refuses(world: &mut World, at: &str, invite: &Message, status: u16) {
    world.udp(at, &answer(invite, status, "Not Here", "no", at));
    world.request(at, "ACK");
}

fn message(call_id: &str) -> Message {
    Message::request("MESSAGE", "sip:bob@one.att.net")
        .with("Via", via(ALICE, call_id))
        .with("From", "<sip:alice@one.att.net>;tag=m")
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", call_id)
        .with("CSeq", "1 MESSAGE")
        .with("Max-Forwards", 70)
        .with_body("text/plain", "hello")
}

/// ALICE is told that her call has failed.
#[track_caller]
fn acknowledges(world: &mut World, invite: &Message, status: u16) {
    let failure = world.response(ALICE, status);
    let ack = Message::request("ACK", "sip:bob@one.att.net")
        .with("Via", invite.text("Via"))
        .with("From", invite.text("From"))
        .with("To", failure.text("To"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", "33302 ACK")
        .with("Content-Length", 0);
    world.udp(ALICE, &ack);
}

/// INVITEs that are repeated while nothing comes back.
fn forgets_repeats(world: &mut World, at: &str) {
    while world.take_request(at, "INVITE").is_some() {}
}

/// What stands in a request but for its Via.
fn without_via(request: &Message) -> Vec<&str> {
    let lines = request.headers.iter().filter(|header| !header.is("Via"));
    lines.map(|header| header.line()).collect()
}

#[track_caller]
fn ends(mut world: World) {
    world.hang_up_all();
    world.advance(100_000);
    world.forget_waiting();
    assert_eq!((world.calls(), world.parts()), (0, 0));
    world.end();
}

#[test]
fn a_phone_that_says_503_is_rung_at_its_next_address_by_the_same_request() {
    on_each_number_of_shards(|shards| {
        let mut world = with_desk(shards, 2, "udp");
        let invite_a = calls_bob(&mut world, "c1");
        let first = world.request(DESK[0], "INVITE");
        world.silent();
        // It had rung there before.
        world.udp(DESK[0], &answer(&first, 180, "Ringing", "early", DESK[0]));
        world.response(ALICE, 180);
        refuses(&mut world, DESK[0], &first, 503);
        let second = world.request(DESK[1], "INVITE");
        assert_eq!(second.uri(), first.uri());
        assert_eq!(without_via(&second), without_via(&first));
        assert_eq!(second.body, first.body);
        assert_ne!(second.text("Via"), first.text("Via"));
        world.silent();
        world.udp(DESK[1], &answer(&second, 200, "OK", "b1", DESK[1]));
        let ok = world.response(ALICE, 200);
        assert!(ok.text("To").ends_with(";tag=b1"));
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok));
        world.request(DESK[1], "ACK");
        world.udp(ALICE, &in_dialog("BYE", 33303, ALICE, &invite_a, &ok));
        let bye = world.request(DESK[1], "BYE");
        world.udp(DESK[1], &answer(&bye, 200, "OK", "", DESK[1]));
        world.response(ALICE, 200);
        world.silent();
        ends(world);
    });
}

#[test]
fn an_address_that_keeps_silent_or_is_not_there_is_left_for_the_next() {
    on_each_number_of_shards(|shards| {
        let mut world = with_desk(shards, 3, "udp");
        calls_bob(&mut world, "c1");
        let first = world.request(DESK[0], "INVITE");
        world.undelivered(DESK[0], &first.to_bytes());
        // What DNS says now is for later requests.
        world.reconfigure(|cfg| leads_to(cfg, &[DESK[0], DESK[1]]));
        let second = world.request(DESK[1], "INVITE");
        world.advance(31_000);
        forgets_repeats(&mut world, DESK[1]);
        world.silent();
        world.advance(2_000);
        forgets_repeats(&mut world, DESK[1]);
        let third = world.request(DESK[2], "INVITE");
        forgets_repeats(&mut world, DESK[2]);
        assert_eq!(without_via(&third), without_via(&second));
        world.silent();
        refuses(&mut world, DESK[2], &third, 503);
        // Each was tried once.
        world.response(ALICE, 503);
        world.silent();
        ends(world);
    });
}

#[test]
fn a_connection_that_is_refused_leads_on() {
    on_each_number_of_shards(|shards| {
        let mut world = with_desk(shards, 2, "tcp");
        world.unreachable.push(DESK[0].parse().expect("an address"));
        calls_bob(&mut world, "c1");
        let there = world.request(DESK[1], "INVITE");
        assert!(there.text("Via").contains("SIP/2.0/TCP"));
        assert!(there.text("Contact").contains("transport=TCP"), "{there}");
        world.silent();
        ends(world);
    });
}

#[test]
fn other_requests_go_on_too() {
    on_each_number_of_shards(|shards| {
        let mut world = with_desk(shards, 2, "udp");
        world.udp(ALICE, &message("m1"));
        let first = world.request(DESK[0], "MESSAGE");
        world.udp(DESK[0], &answer(&first, 503, "Busy", "x", DESK[0]));
        let second = world.request(DESK[1], "MESSAGE");
        world.udp(DESK[1], &answer(&second, 200, "OK", "x", DESK[1]));
        world.response(ALICE, 200);
        world.silent();
        // Who has said something is there: its silence afterwards leads nowhere else.
        world.udp(ALICE, &message("m2"));
        let first = world.request(DESK[0], "MESSAGE");
        world.udp(DESK[0], &answer(&first, 100, "Trying", "", DESK[0]));
        world.advance(40_000);
        assert!(world.take_request(DESK[1], "MESSAGE").is_none());
        world.forget_waiting();
        ends(world);
    });
}

#[test]
fn who_has_answered_or_is_wanted_no_more_leads_nowhere_else() {
    on_each_number_of_shards(|shards| {
        let mut world = with_desk(shards, 2, "udp");
        let invite_a = calls_bob(&mut world, "busy");
        let first = world.request(DESK[0], "INVITE");
        refuses(&mut world, DESK[0], &first, 486);
        acknowledges(&mut world, &invite_a, 486);
        // Silent, and then cancelled: nobody else is rung when the first address has been silent for long enough.
        let invite_a = calls_bob(&mut world, "gone");
        world.request(DESK[0], "INVITE");
        world.udp(ALICE, &cancel(&invite_a));
        world.response(ALICE, 200);
        acknowledges(&mut world, &invite_a, 487);
        world.advance(40_000);
        forgets_repeats(&mut world, DESK[0]);
        world.silent();
        // It rings, and then says nothing for the time that a phone may ring: it was there.
        calls_bob(&mut world, "rings");
        let first = world.request(DESK[0], "INVITE");
        world.udp(DESK[0], &answer(&first, 180, "Ringing", "r", DESK[0]));
        world.response(ALICE, 180);
        world.advance(200_000);
        world.request(DESK[0], "CANCEL");
        world.response(ALICE, 408);
        assert!(world.take_request(DESK[1], "INVITE").is_none());
        world.forget_waiting();
        ends(world);
    });
}
