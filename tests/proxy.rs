//! The proxy through the sans-IO core (RFC 3261 §16), with one shard and with several: no socket, no clock, no thread.

#[path = "core/messages.rs"]
mod messages;
#[path = "core/world.rs"]
mod world;

#[path = "proxy/attacks.rs"]
mod attacks;
#[path = "proxy/early.rs"]
mod early;
#[path = "proxy/edge.rs"]
mod edge;
#[path = "proxy/forking.rs"]
mod forking;
#[path = "proxy/gruus.rs"]
mod gruus;
#[path = "proxy/names.rs"]
mod names;
#[path = "proxy/outbound.rs"]
mod outbound;
#[path = "proxy/paths.rs"]
mod paths;
#[path = "proxy/records.rs"]
mod records;
#[path = "proxy/routes.rs"]
mod routes;
#[path = "proxy/traces.rs"]
mod traces;
#[path = "proxy/trunks.rs"]
mod trunks;
#[path = "proxy/undelivered.rs"]
mod undelivered;
#[path = "proxy/way_back.rs"]
mod way_back;

use std::path::Path;

use bench_harness::sip::Message;
use messages::*;
use ringway::config::route::Route;
use ringway::config::{Config, Machine, load};
use ringway::metrics::DropReason;
use world::{SERVER, World, on_each_number_of_shards};

pub const CAROL: &str = "127.0.0.5:5065";

/// Shards with this routing table, its trunks and names.
pub fn world(shards: usize, table: &str) -> World {
    let tables = tables_of(table);
    World::with(shards, |cfg| {
        cfg.routes = tables.routes;
        cfg.trunks = tables.trunks;
        cfg.hosts = tables.hosts;
    })
}

/// A routing table as the file has it.
pub fn routes_of(table: &str) -> Vec<Route> {
    tables_of(table).routes
}

pub fn tables_of(table: &str) -> Config {
    let machine = Machine {
        cpus: Vec::new(),
        parallelism: 1,
        memory_bytes: None,
        files_max: None,
        primary_v4: None,
        primary_v6: None,
    };
    let loaded = load(Some((Path::new("r.toml"), table)), &[], &machine);
    loaded.unwrap_or_else(|errors| panic!("{errors}")).config
}

/// Phones register here, and everything else is for their contacts.
pub const REGISTERED: &str = r#"
    [[route]]
    method = ["REGISTER"]
    action = "ims"
    [[route]]
    action = "proxy"
    to = ["registered"]
"#;

/// All that is for Bob's address goes there, with no registration.
pub const TO_BOB: &str = "[[route]]\naction = \"proxy\"\nto = [\"sip:127.0.0.3:5063\"]\n";

pub fn ask(method: &str, uri: &str, call_id: &str) -> Message {
    Message::request(method, uri)
        .with("Via", via(ALICE, &format!("{method}{call_id}")))
        .with("From", format!("<sip:alice@one.att.net>;tag=f{call_id}"))
        .with("To", format!("<{uri}>"))
        .with("Call-ID", call_id)
        .with("CSeq", format!("7 {method}"))
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// The answer of a phone that copies what must be copied, Record-Route included.
pub fn reply(request: &Message, status: u16, tag: &str, at: &str) -> Message {
    let mut response = Message::response(status, "Whatever");
    for name in ["Via", "Record-Route"] {
        for value in request.get_all(name) {
            response = response.with(name, value);
        }
    }
    let to = request.text("To");
    let to = if to.contains(";tag=") || status == 100 {
        to.to_owned()
    } else {
        format!("{to};tag={tag}")
    };
    response
        .with("From", request.text("From"))
        .with("To", to)
        .with("Call-ID", request.text("Call-ID"))
        .with("CSeq", request.text("CSeq"))
        .with("Contact", format!("<sip:bob@{at}>"))
        .with("Content-Length", 0)
}

/// A request within the dialog of `invite` and `ok`, as the caller sends it: by the route that was recorded.
pub fn within(method: &str, cseq: u32, invite: &Message, ok: &Message) -> Message {
    let route = ok.get_all("Record-Route").into_iter().rev();
    let [from, to] = [invite.text("From"), ok.text("To")];
    in_dialog(method, cseq, ALICE, ok, route, [from, to])
}

/// A request from `at` to the Contact of `met`, in whose dialog it is.
fn in_dialog<'m>(
    method: &str,
    cseq: u32,
    at: &str,
    met: &Message,
    routes: impl Iterator<Item = &'m str>,
    [from, to]: [&str; 2],
) -> Message {
    let call_id = met.text("Call-ID");
    let target = bench_harness::sip::uri(met.text("Contact"));
    let mut request =
        Message::request(method, target).with("Via", via(at, &format!("{method}{cseq}{call_id}")));
    for route in routes {
        request = request.with("Route", route);
    }
    request
        .with("From", from)
        .with("To", to)
        .with("Call-ID", call_id)
        .with("CSeq", format!("{cseq} {method}"))
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// The ACK of a failure: RFC 3261 §17.1.1.3.
pub fn ack_of(invite: &Message, failure: &Message) -> Message {
    Message::request("ACK", invite.uri().expect("a request"))
        .with("Via", invite.text("Via"))
        .with("From", invite.text("From"))
        .with("To", failure.text("To"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", format!("{} ACK", invite.cseq().0))
        .with("Content-Length", 0)
}

/// A request of the callee within the dialog that `there`, an INVITE as it reached him, and his answer make: by what was recorded.
pub fn from_callee(method: &str, cseq: u32, at: &str, there: &Message, answer: &Message) -> Message {
    let route = there.get_all("Record-Route").into_iter();
    let [from, to] = [answer.text("To"), there.text("From")];
    in_dialog(method, cseq, at, there, route, [from, to]).with("Contact", format!("<sip:bob@{at}>"))
}

/// A call that was answered and acknowledged: its INVITE, that as it reached the callee, and its 200.
pub fn call_of_bob(world: &mut World) -> [Message; 3] {
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(BOB, "ACK");
    [invite, there, ok]
}

/// A request that has reached `at` comes back from there, for `uri`.
pub fn comes_back(there: &Message, at: &str, uri: &str) -> Message {
    let text = there.to_string();
    let (line, rest) = text.split_once("\r\n").expect("lines");
    let method = line.split(' ').next().expect("a method");
    let via = via(at, &format!("again{}", uri.len()));
    let text = format!("{method} {uri} SIP/2.0\r\nVia: {via}\r\n{rest}");
    Message::parse(text.as_bytes()).expect("a message")
}

/// BOB takes the CANCEL and ends his INVITE with 487, which the caller hears.
#[track_caller]
pub fn takes_the_cancel(world: &mut World, cancel: &Message, there: &Message, invite: &Message) {
    world.udp(BOB, &reply(cancel, 200, "b1", BOB));
    world.udp(BOB, &reply(there, 487, "b1", BOB));
    world.request(BOB, "ACK");
    let failure = world.response(ALICE, 487);
    world.udp(ALICE, &ack_of(invite, &failure));
}

#[track_caller]
pub fn ends_empty(mut world: World) {
    world.advance(100_000);
    world.silent();
    assert_eq!(world.contexts(), 0, "response contexts are left");
    world.end();
}

#[test]
fn a_call_goes_through_as_it_is_but_for_what_a_proxy_changes() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1").setting("Max-Forwards", 5);
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        assert_eq!(there.uri(), invite.uri());
        for name in [
            "From",
            "To",
            "Call-ID",
            "CSeq",
            "Contact",
            "X-Unknown",
            "Content-Type",
            "Content-Length",
        ] {
            assert_eq!(there.text(name), invite.text(name), "{name}");
        }
        assert_eq!(
            (there.text("Max-Forwards"), there.text("Max-Breadth")),
            ("4", "60")
        );
        let vias = there.get_all("Via");
        assert_eq!(vias.len(), 2);
        assert!(
            vias[0].starts_with(&format!("SIP/2.0/UDP {SERVER};branch=z9hG4bK")),
            "{}",
            vias[0]
        );
        assert_eq!(vias[1], invite.text("Via"), "it came from where it says");
        let recorded = there.text("Record-Route");
        assert!(
            recorded.starts_with(&format!("<sip:{SERVER};lr;rw=")),
            "{recorded}"
        );

        world.udp(BOB, &reply(&there, 100, "", BOB));
        world.silent();
        world.udp(BOB, &reply(&there, 180, "b1", BOB));
        let ringing = world.response(ALICE, 180);
        assert_eq!(ringing.get_all("Via"), [invite.text("Via")]);
        let ok_b = reply(&there, 200, "b1", BOB);
        world.udp(BOB, &ok_b);
        let ok = world.response(ALICE, 200);
        for name in ["From", "To", "Call-ID", "CSeq", "Contact", "Record-Route"] {
            assert_eq!(ok.text(name), ok_b.text(name), "{name}");
        }
        // RFC 6026: a 2xx that comes again goes back again, and is not repeated by a proxy itself.
        world.udp(BOB, &ok_b);
        world.response(ALICE, 200);
        world.advance(5_000);
        world.silent();
        // A retransmitted INVITE is absorbed.
        world.udp(ALICE, &invite);
        world.silent();

        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        let ack = world.request(BOB, "ACK");
        assert!(!ack.has("Route") && ack.get_all("Via").len() == 2);
        for (cseq, method) in ["PRACK", "UPDATE", "INFO", "BYE"].iter().enumerate() {
            world.udp(ALICE, &within(method, 33303 + cseq as u32, &invite, &ok));
            let there = world.request(BOB, method);
            assert!(!there.has("Route") && !there.has("Record-Route"), "{method}");
            assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
            world.udp(BOB, &reply(&there, 200, "b1", BOB));
            let back = world.response(ALICE, 200);
            assert_eq!(back.get_all("Via").len(), 1);
        }
        ends_empty(world);
    });
}

#[test]
fn the_callee_reaches_the_caller_by_the_same_route() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reply(&there, 200, "b1", BOB));
        let ok = world.response(ALICE, 200);
        let bye = Message::request("BYE", &format!("sip:alice@{ALICE}"))
            .with("Via", via(BOB, "byeb"))
            .with("Route", there.text("Record-Route"))
            .with("From", ok.text("To"))
            .with("To", invite.text("From"))
            .with("Call-ID", "c1")
            .with("CSeq", "1 BYE")
            .with("Max-Forwards", 70)
            .with("Content-Length", 0);
        world.udp(BOB, &bye);
        let bye = world.request(ALICE, "BYE");
        assert!(!bye.has("Route"));
        world.udp(ALICE, &reply(&bye, 200, "", ALICE));
        world.response(BOB, 200);
        ends_empty(world);
    });
}

#[test]
fn a_failure_goes_back_and_is_acknowledged_hop_by_hop() {
    on_each_number_of_shards(|shards| {
        for (status, seen) in [(486, 486), (302, 302), (603, 603), (503, 500)] {
            let mut world = world(shards, TO_BOB);
            let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
            world.udp(ALICE, &invite);
            world.response(ALICE, 100);
            let there = world.request(BOB, "INVITE");
            world.udp(BOB, &reply(&there, status, "b1", BOB));
            let ack = world.request(BOB, "ACK");
            assert_eq!(ack.get_all("Via"), there.get_all("Via")[..1], "a single Via");
            let failure = world.response(ALICE, seen);
            assert_eq!(failure.get_all("Via").len(), 1);
            world.udp(ALICE, &ack_of(&invite, &failure));
            ends_empty(world);
        }
    });
}

#[test]
fn a_call_is_cancelled() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        // Nothing came back from Bob yet: the CANCEL waits.
        let cancel = cancel(&invite).with("Reason", "SIP;cause=487");
        world.udp(ALICE, &cancel);
        world.response(ALICE, 200);
        world.silent();
        world.udp(BOB, &reply(&there, 180, "b1", BOB));
        let cancel_b = world.request(BOB, "CANCEL");
        assert_eq!(cancel_b.get_all("Via"), there.get_all("Via")[..1]);
        assert_eq!(cancel_b.uri(), there.uri());
        world.response(ALICE, 180);
        takes_the_cancel(&mut world, &cancel_b, &there, &invite);
        ends_empty(world);
    });
}

#[test]
fn a_cancel_after_ringing_goes_on_at_once_with_its_reason() {
    let mut world = world(1, TO_BOB);
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    world.udp(ALICE, &cancel(&invite).with("Reason", "SIP;cause=487"));
    world.response(ALICE, 200);
    let cancel_b = world.request(BOB, "CANCEL");
    assert_eq!(cancel_b.text("Reason"), "SIP;cause=487");
    // The 200 of Bob crosses it: RFC 3261 §9.1, the call stands.
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(BOB, "ACK");
    world.udp(BOB, &reply(&cancel_b, 200, "b1", BOB));
    ends_empty(world);
}

#[test]
fn nobody_answers() {
    let mut world = world(1, TO_BOB);
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let first = world.request(BOB, "INVITE");
    world.advance(31_900);
    for _ in 0..6 {
        assert_eq!(world.request(BOB, "INVITE").branch(), first.branch());
    }
    world.silent();
    world.advance(200);
    let timeout = world.response(ALICE, 408);
    assert_eq!(timeout.get_all("Via"), [invite.text("Via")]);
    assert!(timeout.to_tag().is_some());
    world.udp(ALICE, &ack_of(&invite, &timeout));
    ends_empty(world);
}

#[test]
fn a_request_that_is_no_invite_and_is_not_answered_ends_in_silence() {
    // RFC 4320 §4.2.
    let mut world = world(1, TO_BOB);
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m1"));
    world.request(BOB, "MESSAGE");
    world.advance(40_000);
    for _ in 0..10 {
        world.request(BOB, "MESSAGE");
    }
    world.response(ALICE, 100);
    ends_empty(world);
}

/// RFC 4320 §4.1: when Timer E of the client has come to T2, and not before.
#[test]
fn a_request_that_is_no_invite_is_told_late_that_it_has_arrived() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let message = ask("MESSAGE", "sip:bob@example.com", "m1").inserting("Timestamp", "54.5");
        world.udp(ALICE, &message);
        let there = world.request(BOB, "MESSAGE");
        for status in [100, 183] {
            world.udp(BOB, &reply(&there, status, "b1", BOB));
        }
        world.advance(3_499);
        while world.take_request(BOB, "MESSAGE").is_some() {}
        world.silent();
        world.advance(2);
        let trying = world.response(ALICE, 100);
        assert_eq!(trying.text("Timestamp"), "54.5");
        assert_eq!(trying.text("Via"), message.text("Via"));
        assert_eq!(trying.text("To"), message.text("To"));
        world.udp(ALICE, &message);
        world.response(ALICE, 100);
        world.udp(BOB, &reply(&there, 200, "b1", BOB));
        world.response(ALICE, 200);
        world.advance(40_000);
        world.silent();
        ends_empty(world);
    });
}

#[test]
fn ringing_ends_with_timer_c() {
    let mut world = world(1, TO_BOB);
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    world.advance(100_000);
    world.udp(BOB, &reply(&there, 183, "b1", BOB));
    world.response(ALICE, 183);
    world.advance(180_000);
    world.silent();
    world.advance(1_100);
    let cancel = world.request(BOB, "CANCEL");
    takes_the_cancel(&mut world, &cancel, &there, &invite);
    ends_empty(world);
}

#[test]
fn what_may_not_be_forwarded_is_answered() {
    let mut world = world(1, TO_BOB);
    let options = |call_id: &str| ask("OPTIONS", "sip:bob@example.com", call_id);
    world.udp(ALICE, &options("o1").setting("Max-Forwards", 0));
    world.response(ALICE, 483);
    world.udp(
        ALICE,
        &options("o2")
            .with("Proxy-Require", "foo, bar")
            .with("Require", "baz"),
    );
    let refused = world.response(ALICE, 420);
    assert_eq!(
        refused.text("Unsupported"),
        "foo, bar",
        "Require is for the phones"
    );
    for (call_id, breadth) in [("o3", "0"), ("o3a", "00")] {
        world.udp(ALICE, &options(call_id).with("Max-Breadth", breadth));
        world.response(ALICE, 440);
    }
    world.udp(
        ALICE,
        &options("o4").with("Require", "baz").with("Max-Breadth", 100),
    );
    let there = world.request(BOB, "OPTIONS");
    assert_eq!(
        (there.text("Require"), there.get_all("Max-Breadth")),
        ("baz", vec!["60"])
    );
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}

#[test]
fn a_request_that_comes_back_is_a_loop_and_one_for_another_place_a_spiral() {
    let mut world = world(1, TO_BOB);
    world.udp(ALICE, &ask("OPTIONS", "sip:bob@example.com", "o1"));
    let there = world.request(BOB, "OPTIONS");
    world.udp(BOB, &comes_back(&there, BOB, "sip:bob@example.com"));
    world.response(BOB, 482);
    world.udp(BOB, &comes_back(&there, BOB, "sip:robert@example.com"));
    let spiral = world.request(BOB, "OPTIONS");
    assert_eq!(spiral.get_all("Via").len(), 4);
    world.udp(BOB, &reply(&spiral, 200, "b", BOB));
    world.response(BOB, 200);
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}

#[test]
fn where_a_request_came_from_stands_in_its_via() {
    let mut world = world(1, TO_BOB);
    let options = ask("OPTIONS", "sip:bob@example.com", "o1")
        .setting("Via", "SIP/2.0/UDP phone.example:5099;rport;branch=z9hG4bKx");
    world.udp(ALICE, &options);
    let there = world.request(BOB, "OPTIONS");
    assert_eq!(
        there.get_all("Via")[1],
        "SIP/2.0/UDP phone.example:5099;rport=5062;branch=z9hG4bKx;received=127.0.0.2"
    );
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    let back = world.response(ALICE, 200);
    assert_eq!(back.get_all("Via")[0], there.get_all("Via")[1]);
    ends_empty(world);
}

#[test]
fn between_transports_both_sides_are_recorded() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1")
            .setting("Via", format!("SIP/2.0/TCP {ALICE};branch=z9hG4bKt"));
        world.tcp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        let recorded = there.get_all("Record-Route");
        assert_eq!(recorded.len(), 2);
        assert!(!recorded[0].contains("transport"), "the side of Bob comes first");
        assert!(recorded[1].contains(";transport=tcp"));
        world.udp(BOB, &reply(&there, 200, "b1", BOB));
        let ok = world.response(ALICE, 200);
        let ack = within("ACK", 33302, &invite, &ok);
        assert_eq!(ack.get_all("Route").len(), 2);
        world.tcp(ALICE, &ack);
        let ack = world.request(BOB, "ACK");
        assert!(!ack.has("Route"), "both were ours");
        ends_empty(world);
    });
}

#[test]
fn a_proxy_without_state_forwards_each_message_alone() {
    on_each_number_of_shards(|shards| {
        let table = format!("{TO_BOB}mode = \"stateless\"\n");
        let mut world = world(shards, &table);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
        world.udp(ALICE, &invite);
        let first = world.request(BOB, "INVITE");
        world.udp(ALICE, &invite);
        let second = world.request(BOB, "INVITE");
        assert_eq!(
            first.to_bytes(),
            second.to_bytes(),
            "RFC 3261 §16.11: the same branch each time"
        );
        world.udp(BOB, &reply(&first, 180, "b1", BOB));
        assert_eq!(world.response(ALICE, 180).get_all("Via"), [invite.text("Via")]);
        world.udp(ALICE, &cancel(&invite));
        let cancel_b = world.request(BOB, "CANCEL");
        assert_eq!(cancel_b.branch(), first.branch());
        world.udp(BOB, &reply(&cancel_b, 200, "b1", BOB));
        world.response(ALICE, 200);
        world.udp(BOB, &reply(&first, 487, "b1", BOB));
        let failure = world.response(ALICE, 487);
        world.udp(ALICE, &ack_of(&invite, &failure));
        assert_eq!(world.request(BOB, "ACK").branch(), first.branch());
        assert_eq!(world.contexts(), 0);
        ends_empty(world);
    });
}

/// Without state too, what circles is not led round until its Max-Forwards is used up: RFC 5393 §4.2.
#[test]
fn what_comes_back_to_a_proxy_without_state_is_a_loop() {
    on_each_number_of_shards(|shards| {
        // A CANCEL whose INVITE is not known here goes on alone, whatever the rule says.
        for mode in ["stateless", "stateful"] {
            let mut world = world(shards, &format!("{TO_BOB}mode = \"{mode}\"\n"));
            let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
            world.udp(ALICE, &cancel(&invite));
            let there = world.request(BOB, "CANCEL");
            world.udp(BOB, &comes_back(&there, BOB, "sip:bob@example.com"));
            world.response(BOB, 482);
            world.udp(BOB, &comes_back(&there, BOB, "sip:robert@example.com"));
            assert_eq!(world.request(BOB, "CANCEL").get_all("Via").len(), 4, "a spiral");
            world.silent();
            ends_empty(world);
        }
        let mut world = world(shards, &format!("{TO_BOB}mode = \"stateless\"\n"));
        for (method, id) in [("INVITE", "c1"), ("MESSAGE", "m1"), ("ACK", "a1")] {
            world.udp(ALICE, &ask(method, "sip:bob@example.com", id));
            let there = world.request(BOB, method);
            world.udp(BOB, &comes_back(&there, BOB, "sip:bob@example.com"));
            if method != "ACK" {
                world.response(BOB, 482);
            }
            world.silent();
        }
        ends_empty(world);
    });
}

#[test]
fn a_proxy_without_state_answers_on_the_connection() {
    on_each_number_of_shards(|shards| {
        let table = format!("{TO_BOB}mode = \"stateless\"\n");
        let mut world = world(shards, &table);
        let options = ask("OPTIONS", "sip:bob@example.com", "o1")
            .setting("Via", "SIP/2.0/TCP 127.0.0.2:9;branch=z9hG4bKt");
        world.tcp(ALICE, &options);
        let there = world.request(BOB, "OPTIONS");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        // The world hands what is sent on a connection to the Via's port, which the connection has not.
        world.response("127.0.0.2:9", 200);
        ends_empty(world);
    });
}

#[test]
fn a_large_request_takes_tcp_where_a_rule_says_so() {
    let table = format!("{TO_BOB}tcp_when_large = true\n");
    let mut world = world(1, &table);
    let large = ask("MESSAGE", "sip:bob@example.com", "m1").with_body("text/plain", "x".repeat(1_200));
    world.udp(ALICE, &large);
    let there = world.request(BOB, "MESSAGE");
    assert!(there.top_via().starts_with("SIP/2.0/TCP"), "{}", there.top_via());
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    // TCP is refused: RFC 3261 §18.1.1 goes back to UDP.
    let large = ask("MESSAGE", "sip:bob@example.com", "m2").with_body("text/plain", "x".repeat(1_200));
    world.refuses_connections = true;
    world.udp(ALICE, &large);
    let there = world.request(BOB, "MESSAGE");
    assert!(there.top_via().starts_with("SIP/2.0/UDP"), "{}", there.top_via());
    assert_eq!(there.get_all("Via").len(), 2);
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    let small = ask("MESSAGE", "sip:bob@example.com", "m3");
    world.udp(ALICE, &small);
    assert!(world.request(BOB, "MESSAGE").top_via().starts_with("SIP/2.0/UDP"));
    world.forget_waiting();
    world.advance(40_000);
    world.forget_waiting();
    ends_empty(world);
}

/// RFC 3261 §18.1.1 holds for the requests of a dialog too: its route says that its rule wants it so, in both directions.
#[test]
fn a_large_request_within_a_dialog_takes_tcp_where_its_rule_said_so() {
    let large = "x".repeat(1_200);
    for (rule, transport) in [("tcp_when_large = true\n", "SIP/2.0/TCP"), ("", "SIP/2.0/UDP")] {
        on_each_number_of_shards(|shards| {
            let mut world = world(shards, &format!("{TO_BOB}{rule}"));
            let [invite, there, ok] = call_of_bob(&mut world);
            let info = within("INFO", 33303, &invite, &ok);
            world.udp(ALICE, &info.with_body("text/plain", large.as_str()));
            let there_b = world.request(BOB, "INFO");
            assert!(there_b.top_via().starts_with(transport), "{}", there_b.top_via());
            world.udp(BOB, &reply(&there_b, 200, "b1", BOB));
            world.response(ALICE, 200);
            // From the other side, and by UDP after all where TCP is refused.
            for (cseq, is_refused) in [(1, true), (2, false)] {
                world.refuses_connections = is_refused;
                let info = from_callee("INFO", cseq, BOB, &there, &ok);
                world.udp(BOB, &info.with_body("text/plain", large.as_str()));
                let there_a = world.request(ALICE, "INFO");
                let expected = if is_refused { "SIP/2.0/UDP" } else { transport };
                assert!(there_a.top_via().starts_with(expected), "{}", there_a.top_via());
                world.udp(ALICE, &reply(&there_a, 200, "fc1", ALICE));
                world.response(BOB, 200);
            }
            // What is small goes as ever.
            world.udp(ALICE, &within("INFO", 33304, &invite, &ok));
            let there_b = world.request(BOB, "INFO");
            assert!(
                there_b.top_via().starts_with("SIP/2.0/UDP"),
                "{}",
                there_b.top_via()
            );
            world.udp(BOB, &reply(&there_b, 200, "b1", BOB));
            world.response(ALICE, 200);
            ends_empty(world);
        });
    }
}

#[test]
fn a_place_that_cannot_be_connected_to_is_unavailable() {
    let table = TO_BOB.replace("5063", "5063;transport=tcp");
    let mut world = world(1, &table);
    world.refuses_connections = true;
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    // RFC 3261 §16.9 and §16.7 step 6: whoever asked may ask for others.
    let failure = world.response(ALICE, 500);
    assert_eq!(failure.get("Retry-After"), None);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

/// RFC 3261 §18.2.2: who has read a request answers over another connection where the first has ended.
#[test]
fn the_end_of_a_connection_does_not_come_before_the_answer_over_another() {
    on_each_number_of_shards(|shards| {
        let table = TO_BOB.replace("5063", "5063;transport=tcp");
        let mut world = world(shards, &table);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        world.ends_unheard(BOB);
        world.silent();
        world.tcp(BOB, &reply(&there, 180, "b1", BOB));
        world.response(ALICE, 180);
        // It has read it: how long it rings is its own business.
        world.advance(10_000);
        world.tcp(BOB, &reply(&there, 486, "b1", BOB));
        world.request(BOB, "ACK");
        let failure = world.response(ALICE, 486);
        world.udp(ALICE, &ack_of(&invite, &failure));
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m1"));
        let there = world.request(BOB, "MESSAGE");
        world.ends_unheard(BOB);
        world.advance(400);
        world.tcp(BOB, &reply(&there, 200, "b1", BOB));
        world.response(ALICE, 200);
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m3"));
        let there = world.request(BOB, "MESSAGE");
        world.ends_unheard(BOB);
        world.tcp(BOB, &reply(&there, 100, "b1", BOB));
        // It has read this one too, and has its 32 seconds.
        world.advance(10_000);
        world.response(ALICE, 100);
        world.tcp(BOB, &reply(&there, 200, "b1", BOB));
        world.response(ALICE, 200);
        // Nothing comes: a round trip later it is as if it could not be sent.
        for (method, id) in [("INVITE", "c2"), ("MESSAGE", "m2")] {
            let silent = ask(method, "sip:bob@example.com", id);
            world.udp(ALICE, &silent);
            if method == "INVITE" {
                world.response(ALICE, 100);
            }
            world.request(BOB, method);
            world.ends_unheard(BOB);
            world.advance(499);
            world.silent();
            world.advance(2);
            let failure = world.response(ALICE, 500);
            if method == "INVITE" {
                world.udp(ALICE, &ack_of(&silent, &failure));
            }
        }
        ends_empty(world);
    });
}

#[test]
fn at_its_limits_it_answers_503_and_leaves_nothing() {
    let machine_full = |change: fn(&mut ringway::config::Config)| {
        let routes = {
            let machine = Machine {
                cpus: Vec::new(),
                parallelism: 1,
                memory_bytes: None,
                files_max: None,
                primary_v4: None,
                primary_v6: None,
            };
            load(Some((Path::new("r.toml"), TO_BOB)), &[], &machine)
                .expect("a table")
                .config
                .routes
        };
        World::with(1, |cfg| {
            cfg.routes = routes;
            change(cfg);
        })
    };
    // Room for the server's side of a request and not for the client's.
    let mut world = machine_full(|cfg| cfg.limits.transactions_max = 1);
    for call_id in ["m1", "m2"] {
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", call_id));
        assert_eq!(world.response(ALICE, 503).text("Retry-After"), "5");
    }
    assert_eq!(world.drops(DropReason::TransactionsFull), 1);
    ends_empty(world);
}

/// RFC 7339 §5.2: whoever asks is told of this server, by what it says itself and by what others answer.
#[test]
fn who_asks_for_the_load_is_told_of_it_hop_by_hop() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        world.advance(1_000);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "c1");
        let via = format!("{};oc;oc-algo=\"loss\"", invite.text("Via"));
        let invite = invite.setting("Via", &via);
        let told = |answer: &Message| {
            let via = answer.top_via();
            assert!(
                via.contains(";oc=0;oc-algo=\"loss\";oc-validity=0;oc-seq="),
                "{via}"
            );
            assert_eq!(answer.get_all("Via").len(), 1);
            assert_eq!(via.matches("oc-algo").count(), 1, "{via}");
        };
        world.udp(ALICE, &invite);
        told(&world.response(ALICE, 100));
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reply(&there, 180, "b", BOB));
        told(&world.response(ALICE, 180));
        // What came from further down says nothing here.
        let busy = reply(&there, 486, "b", BOB);
        let text = String::from_utf8(busy.to_bytes()).expect("text");
        let text = text.replace(
            ";oc;oc-algo=\"loss\"",
            ";oc=77;oc-algo=\"loss\";oc-seq=9.5;oc-validity=9",
        );
        world.udp_bytes(BOB, text.as_bytes());
        world.request(BOB, "ACK");
        let busy = world.response(ALICE, 486);
        told(&busy);
        world.udp(ALICE, &ack_of(&invite, &busy));
        // An answer of our own, from what was forwarded.
        let silent = messages::invite("alice", ALICE, "sip:bob@example.com", "c2");
        let via = format!("{};oc;oc-algo=\"loss\"", silent.text("Via"));
        let silent = silent.setting("Via", &via);
        world.udp(ALICE, &silent);
        told(&world.response(ALICE, 100));
        world.advance(33_000);
        let late = world.response(ALICE, 408);
        told(&late);
        world.udp(ALICE, &ack_of(&silent, &late));
        world.forget_waiting();
        ends_empty(world);
    });
}
