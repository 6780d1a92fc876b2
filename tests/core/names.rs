//! Contacts of the phone service whose host is a name with more than one address: RFC 3263 §4.3.

use bench_harness::sip::Message;
use ringway::config::Config;
use ringway::config::dns::{HostEntry, HostRecord};
use ringway::domain::{Answer, Record, RecordType};
use ringway::port::{Ask, Tell};

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

/// The name that a phone's Contact says within a call, when DNS has to be asked for it.
const SHELF: &str = "shelf.example:5091";
const SHELF_AT: [&str; 2] = ["127.0.0.31:5091", "127.0.0.32:5091"];

/// Answers whatever the shards ask: the shelf has two addresses, and nothing else has any. Gives how often that was asked.
fn dns_answers(world: &mut World, shards: usize) -> usize {
    let mut asked = 0;
    for shard in 0..shards {
        while let Some((tell, _)) = world.told(shard) {
            let Tell::Resolve(question) = tell else { continue };
            asked += 1;
            let is_shelf = question.name.as_str() == "shelf.example" && question.record_type == RecordType::A;
            let answer = match is_shelf {
                true => Answer::Records {
                    records: [31, 32].map(|last| Record::A([127, 0, 0, last].into())).into(),
                    ttl_s: 60,
                },
                false => Answer::Nothing { ttl_s: Some(60) },
            };
            world.ask(shard, Ask::Resolved(Box::new((*question, answer))), b"");
        }
    }
    asked
}

/// A call with BOB, whose 200 says that he is on the shelf; ALICE's ACK has gone the way that his 200 came.
fn call_to_shelf(world: &mut World, call_id: &str) -> Standing {
    let invite_a = calls_bob(world, call_id);
    let invite_b = world.request(BOB, "INVITE");
    let ok_b = answer(&invite_b, 200, "OK", "b1", SHELF);
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    Standing {
        invite_a,
        invite_b,
        ok_a,
        ok_b,
    }
}

#[test]
fn a_name_in_the_contact_of_a_dialog_is_looked_up_and_its_addresses_tried() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let standing = call_to_shelf(&mut world, "c1");
        // No request waits for DNS.
        world.request(BOB, "ACK");
        assert_eq!(dns_answers(&mut world, shards), 1, "asked once");
        let info = |cseq| in_dialog("INFO", cseq, ALICE, &standing.invite_a, &standing.ok_a);
        world.udp(ALICE, &info(33303));
        let first = world.request(SHELF_AT[0], "INFO");
        assert_eq!(first.uri(), Some(&*format!("sip:bob@{SHELF}")));
        world.undelivered(SHELF_AT[0], &first.to_bytes());
        let second = world.request(SHELF_AT[1], "INFO");
        assert_eq!(without_via(&second), without_via(&first));
        world.udp(SHELF_AT[1], &answer(&second, 200, "OK", "", SHELF));
        world.response(ALICE, 200);
        // The dialog stays where it was answered.
        world.udp(ALICE, &info(33304));
        let third = world.request(SHELF_AT[1], "INFO");
        world.udp(SHELF_AT[1], &answer(&third, 200, "OK", "", SHELF));
        world.response(ALICE, 200);
        world.hang_up_all();
        let bye = world.request(SHELF_AT[1], "BYE");
        world.udp(SHELF_AT[1], &answer(&bye, 503, "Busy", "", SHELF));
        let bye = world.request(SHELF_AT[0], "BYE");
        world.udp(SHELF_AT[0], &answer(&bye, 200, "OK", "", SHELF));
        let bye = world.request(ALICE, "BYE");
        world.udp(ALICE, &answer(&bye, 200, "OK", "", ALICE));
        world.silent();
        ends(world);
    });
}

#[test]
fn a_name_that_leads_nowhere_leaves_the_dialog_where_it_is() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        // ALICE's own Contact names a host that DNS does not know.
        let invite_a = invite("alice", ALICE, "sip:bob@one.att.net", "c1")
            .setting("Contact", "<sip:alice@attic.example:5062>");
        world.udp(ALICE, &invite_a);
        world.response(ALICE, 100);
        let invite_b = world.request(BOB, "INVITE");
        assert!(dns_answers(&mut world, shards) > 0);
        let ok_b = answer(&invite_b, 200, "OK", "b1", BOB);
        world.udp(BOB, &ok_b);
        let ok_a = world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
        world.request(BOB, "ACK");
        world.udp(BOB, &in_dialog_from_callee("BYE", 1, BOB, &invite_b, &ok_b));
        let bye = world.request(ALICE, "BYE");
        assert_eq!(bye.uri(), Some("sip:alice@attic.example:5062"));
        world.udp(ALICE, &answer(&bye, 200, "OK", "", ALICE));
        world.response(BOB, 200);
        world.silent();
        ends(world);
    });
}

/// BOB registers through an edge whose path is this name.
fn register_behind(world: &mut World, name: &str) {
    let register = forwarded(register("bob", BOB, "r-edge"), EDGE)
        .with("Supported", "path")
        .with("Path", format!("<sip:bob@{name};lr>"));
    world.udp(EDGE, &register);
    world.response(EDGE, 200);
}

const EDGE: &str = "127.0.0.6:5066";

/// RFC 3327 §5.4 has the path stand in Route, and RFC 3263 §4 what it names looked up.
#[test]
fn a_path_that_is_a_name_leads_where_the_name_does() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        register_behind(&mut world, SHELF);
        for call_id in ["c1", "c2"] {
            let invite_a = calls_bob(&mut world, call_id);
            // The call waits for DNS, the first time.
            dns_answers(&mut world, shards);
            let first = world.request(SHELF_AT[0], "INVITE");
            assert_eq!(first.uri(), Some(&*format!("sip:bob@{BOB}")));
            assert_eq!(first.get_all("Route"), [format!("<sip:bob@{SHELF};lr>")]);
            refuses(&mut world, SHELF_AT[0], &first, 503);
            let second = world.request(SHELF_AT[1], "INVITE");
            assert_eq!(without_via(&second), without_via(&first));
            refuses(&mut world, SHELF_AT[1], &second, 486);
            acknowledges(&mut world, &invite_a, 486);
            world.silent();
        }
        ends(world);
    });
}

#[test]
fn a_path_whose_name_nobody_knows_leads_where_its_register_came_from() {
    on_each_number_of_shards(|shards| {
        let mut world = World::new(shards);
        register_behind(&mut world, "attic.example");
        for call_id in ["c1", "c2"] {
            let invite_a = calls_bob(&mut world, call_id);
            while dns_answers(&mut world, shards) > 0 {}
            let there = world.request(EDGE, "INVITE");
            assert_eq!(there.get_all("Route"), ["<sip:bob@attic.example;lr>"]);
            refuses(&mut world, EDGE, &there, 486);
            acknowledges(&mut world, &invite_a, 486);
            world.silent();
        }
        ends(world);
    });
}

#[test]
fn who_watches_by_a_name_is_told_at_its_addresses() {
    on_each_number_of_shards(|shards| {
        let mut world = with_bob(shards);
        let subscribe = Message::request("SUBSCRIBE", "sip:bob@one.att.net")
            .with("Via", via(BOB, "s1"))
            .with("From", "<sip:bob@one.att.net>;tag=s1")
            .with("To", "<sip:bob@one.att.net>")
            .with("Call-ID", "s1")
            .with("CSeq", "1 SUBSCRIBE")
            .with("Contact", format!("<sip:bob@{SHELF}>"))
            .with("Event", "reg")
            .with("Expires", 600)
            .with("Content-Length", 0);
        world.udp(BOB, &subscribe);
        world.response(BOB, 200);
        let notify = world.request(BOB, "NOTIFY");
        world.udp(BOB, &answer(&notify, 200, "OK", "", BOB));
        dns_answers(&mut world, shards);
        world.udp(BOB_TABLET, &register("bob", BOB_TABLET, "reg-tablet"));
        world.response(BOB_TABLET, 200);
        let first = world.request(SHELF_AT[0], "NOTIFY");
        world.undelivered(SHELF_AT[0], &first.to_bytes());
        let second = world.request(SHELF_AT[1], "NOTIFY");
        assert!(String::from_utf8_lossy(&second.body).contains(BOB_TABLET));
        // Nobody is there either: nobody watches any more.
        world.undelivered(SHELF_AT[1], &second.to_bytes());
        world.silent();
        assert_eq!(world.shards.in_use().subscriptions, 0);
        ends(world);
    });
}
