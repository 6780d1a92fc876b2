//! What the routing table and Route header fields make of a request.

use std::net::Ipv4Addr;

use bench_harness::sip::Message;
use ringway::metrics::DropReason;

use crate::messages::*;
use crate::world::{SERVER, World, on_each_number_of_shards};
use crate::{TO_BOB, ask, call_of_bob, ends_empty, reply, tables_of, within, world};

const TABLE: &str = r#"
    [[route]]
    method = ["REGISTER"]
    action = "ims"
    [[route]]
    user = ["nobody"]
    action = "reject"
    code = 404
    reason = "Nobody Here"
    [[route]]
    user = ["busy"]
    action = "reject"
    code = 503
    retry_after_s = 120
    add_header = ["Warning: 399 ringway later"]
    [[route]]
    user = ["moved"]
    action = "redirect"
    to = ["<sip:new@192.0.2.1>;q=0.25", "sip:newer@192.0.2.1"]
    [[route]]
    header = ["X-Spam: yes"]
    action = "drop"
    [[route]]
    user_prefix = ["+49"]
    action = "proxy"
    to = ["sip:127.0.0.3:5063"]
    strip = 3
    prefix = "0"
    set_host = "gw.example:5080"
    set_header = ["X-Tenant: gold"]
    add_header = ["X-Way: north"]
    remove_header = ["X-Unknown"]
    [[route]]
    user = ["fixed"]
    action = "proxy"
    to = ["sip:bob@127.0.0.3:5063;x=y"]
    [[route]]
    host = ["127.0.0.3"]
    action = "proxy"
    to = ["request-uri"]
    record_route = false
    [[route]]
    user = ["name"]
    action = "proxy"
    to = ["request-uri"]
    [[route]]
    user = ["short"]
    action = "ims"
    set_user = "bob"
    remove_header = ["X-Unknown"]
"#;

#[test]
fn each_rule_does_what_it_says() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TABLE);
        world.udp(ALICE, &ask("OPTIONS", "sip:nobody@one.att.net", "1"));
        let refused = world.response(ALICE, 404);
        assert_eq!(refused.reason(), Some("Nobody Here"));
        world.udp(ALICE, &ask("INVITE", "sip:busy@one.att.net", "2"));
        let refused = world.response(ALICE, 503);
        assert_eq!(
            (refused.text("Retry-After"), refused.text("Warning")),
            ("120", "399 ringway later")
        );
        world.udp(ALICE, &ask("INVITE", "sip:moved@one.att.net", "3"));
        let moved = world.response(ALICE, 302);
        // The rule forks by q: what is preferred comes first.
        assert_eq!(
            moved.get_all("Contact"),
            ["<sip:newer@192.0.2.1>", "<sip:new@192.0.2.1>;q=0.250"]
        );
        world.udp(
            ALICE,
            &ask("INVITE", "sip:x@one.att.net", "4").with("X-Spam", "yes"),
        );
        world.silent();
        assert_eq!(world.drops(DropReason::Rule), 1);
        world.udp(
            ALICE,
            &ask("MESSAGE", "sip:+4930123@one.att.net;user=phone", "5").with("X-Unknown", "gone"),
        );
        let there = world.request(BOB, "MESSAGE");
        assert_eq!(there.uri(), Some("sip:030123@gw.example:5080;user=phone"));
        assert_eq!((there.text("X-Tenant"), there.text("X-Way")), ("gold", "north"));
        assert!(!there.has("X-Unknown") && !there.has("Record-Route"));
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        world.udp(ALICE, &ask("MESSAGE", "sip:fixed@one.att.net", "6"));
        let there = world.request(BOB, "MESSAGE");
        assert_eq!(there.uri(), Some("sip:bob@127.0.0.3:5063;x=y"));
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        world.udp(ALICE, &ask("INVITE", &format!("sip:any@{BOB}"), "7"));
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        assert!(!there.has("Record-Route"));
        world.udp(BOB, &reply(&there, 486, "b", BOB));
        world.request(BOB, "ACK");
        let failure = world.response(ALICE, 486);
        world.udp(
            ALICE,
            &crate::ack_of(&there, &failure).setting("Via", via(ALICE, "INVITE7")),
        );
        // What no rule matches is the phone service's.
        world.udp(ALICE, &ask("OPTIONS", &format!("sip:{SERVER}"), "8"));
        assert!(world.response(ALICE, 200).text("Allow-Events").contains("reg"));
        ends_empty(world);
    });
}

#[test]
fn a_rule_changes_what_the_phone_service_sees() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TABLE);
        world.udp(BOB, &register("bob", BOB, "r1"));
        world.response(BOB, 200);
        let invite = invite("alice", ALICE, "sip:short@one.att.net", "c1");
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let there = world.request(BOB, "INVITE");
        assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
        assert!(
            !there.has("X-Unknown") && there.get_all("Via").len() == 1,
            "a B2BUA's"
        );
        world.udp(BOB, &answer(&there, 200, "OK", "b1", BOB));
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite, &ok));
        world.request(BOB, "ACK");
        // Within the call no rule is asked.
        let bye = in_dialog("BYE", 33303, ALICE, &invite, &ok).with("X-Spam", "yes");
        world.udp(ALICE, &bye);
        let bye = world.request(BOB, "BYE");
        world.udp(BOB, &answer(&bye, 200, "OK", "", BOB));
        world.response(ALICE, 200);
        world.advance(40_000);
        world.end();
    });
}

#[test]
fn a_call_of_the_phone_service_stays_there_whatever_the_table_says() {
    let table = format!("[[route]]\nmethod = [\"REGISTER\", \"INVITE\"]\naction = \"ims\"\n{TO_BOB}");
    let mut world = world(1, &table);
    world.udp(BOB, &register("bob", BOB, "r1"));
    world.response(BOB, 200);
    let standing = call(&mut world, "c1");
    for (method, cseq) in [("INFO", 33303), ("BYE", 33304)] {
        world.udp(
            ALICE,
            &in_dialog(method, cseq, ALICE, &standing.invite_a, &standing.ok_a),
        );
        let there = world.request(BOB, method);
        assert_eq!(there.text("Call-ID"), standing.invite_b.text("Call-ID"));
        world.udp(BOB, &answer(&there, 200, "OK", "", BOB));
        world.response(ALICE, 200);
    }
    world.advance(40_000);
    world.end();
}

#[test]
fn a_route_is_followed_and_ours_is_left_out() {
    let mut world = world(1, "[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n");
    let options = |id: &str| ask("OPTIONS", "sip:bob@far.example", id);
    // Loose: RFC 3261 §16.6 step 7.
    world.udp(
        ALICE,
        &options("1").with(
            "Route",
            format!("<sip:{SERVER};lr>, <sip:{BOB};lr>, <sip:last.example;lr>"),
        ),
    );
    let there = world.request(BOB, "OPTIONS");
    assert_eq!(there.uri(), Some("sip:bob@far.example"));
    assert_eq!(
        there.elements("Route"),
        [format!("<sip:{BOB};lr>"), "<sip:last.example;lr>".to_owned()]
    );
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    // A phone may name its proxy by the domain.
    for (n, ours) in ["one.att.net", "ONE.att.net:5060"].into_iter().enumerate() {
        let route = format!("<sip:{ours};lr>, <sip:{BOB};lr>");
        world.udp(ALICE, &options(&format!("d{n}")).with("Route", route));
        let there = world.request(BOB, "OPTIONS");
        assert_eq!(there.elements("Route"), [format!("<sip:{BOB};lr>")]);
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
    }
    // At another port that name is somebody else's: it is looked up, and DNS keeps silent here.
    world.udp(ALICE, &options("d9").with("Route", "<sip:one.att.net:5999;lr>"));
    world.advance(10_000);
    world.response(ALICE, 100);
    world.response(ALICE, 504);
    // Strict: §16.6 step 6.
    world.udp(
        ALICE,
        &options("2")
            .with("Route", format!("<sip:{SERVER};lr>"))
            .with("Route", format!("<sip:{BOB}>, <sip:last.example;lr>")),
    );
    let there = world.request(BOB, "OPTIONS");
    assert_eq!(there.uri(), Some(&*format!("sip:{BOB}")));
    assert_eq!(
        there.elements("Route"),
        ["<sip:last.example;lr>", "<sip:bob@far.example>"]
    );
    world.udp(BOB, &reply(&there, 200, "b", BOB));
    world.response(ALICE, 200);
    ends_empty(world);
}

/// RFC 3261 §16.4: a listener that is bound to all addresses is reached by each that the machine has.
#[test]
fn a_route_may_name_us_by_any_address_that_reaches_us() {
    let tables = tables_of(TO_BOB);
    let mut world = World::with(1, |cfg| {
        cfg.routes = tables.routes;
        for listener in &mut cfg.listeners {
            listener.addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
        }
        cfg.local_addresses = vec![Ipv4Addr::new(10, 9, 8, 7).into()];
    });
    let to_us = ["10.9.8.7", "127.0.0.77", "10.9.8.7:5060;transport=tcp"];
    for (n, own) in to_us.into_iter().enumerate() {
        let request = ask("MESSAGE", "sip:bob@example.com", &format!("m{n}"));
        world.udp(ALICE, &request.with("Route", format!("<sip:{own};lr>")));
        let there = world.request(BOB, "MESSAGE");
        assert!(!there.has("Route"), "{own}");
        world.udp(BOB, &reply(&there, 200, "b1", BOB));
        world.response(ALICE, 200);
    }
    // Another port, and another machine.
    for (n, other) in ["10.9.8.7:5070", "10.9.8.8"].into_iter().enumerate() {
        let request = ask("MESSAGE", "sip:bob@example.com", &format!("o{n}"));
        world.udp(ALICE, &request.with("Route", format!("<sip:{other};lr>")));
        let at = if other.contains(':') {
            other.to_owned()
        } else {
            format!("{other}:5060")
        };
        let there = world.request(&at, "MESSAGE");
        world.udp(&at, &reply(&there, 200, "b1", &at));
        world.response(ALICE, 200);
    }
    world.advance(40_000);
    ends_empty(world);
}

/// RFC 3261 §16.4: what has led a request here says nothing of where it goes on.
#[test]
fn a_maddr_that_names_us_is_left_out_and_another_decides() {
    let mut world = world(1, "[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n");
    for (n, (uri, at, there)) in [
        (
            "sip:bob@127.0.0.3;x=y;maddr=127.0.0.1;transport=UDP;lr",
            "127.0.0.3:5060",
            "sip:bob@127.0.0.3;x=y;lr",
        ),
        (
            "sip:bob@127.0.0.3:5060;maddr=one.att.net",
            "127.0.0.3:5060",
            "sip:bob@127.0.0.3",
        ),
        (
            "sip:bob@127.0.0.3;maddr=127.0.0.5",
            "127.0.0.5:5060",
            "sip:bob@127.0.0.3;maddr=127.0.0.5",
        ),
        // Not what it came to.
        (
            "sip:bob@127.0.0.3:5070;maddr=127.0.0.1",
            "127.0.0.1:5070",
            "sip:bob@127.0.0.3:5070;maddr=127.0.0.1",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        world.udp(ALICE, &ask("MESSAGE", uri, &format!("m{n}")));
        let request = world.request(at, "MESSAGE");
        assert_eq!(request.uri(), Some(there));
        world.udp(at, &reply(&request, 200, "b1", at));
        world.response(ALICE, 200);
    }
    ends_empty(world);
}

#[test]
fn a_strict_router_before_us_is_understood() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let [invite, _, ok] = call_of_bob(&mut world);
        // §16.4: it has put our own URI in the place of the request URI, and that at the end of the route.
        let ours = bench_harness::sip::uri(ok.text("Record-Route")).to_owned();
        let info = within("INFO", 33303, &invite, &ok).removing("Route");
        let text = String::from_utf8(info.to_bytes()).expect("text");
        let text = text.replacen(&format!("INFO sip:bob@{BOB}"), &format!("INFO {ours}"), 1);
        let info = Message::parse(text.as_bytes())
            .expect("a message")
            .with("Route", format!("<sip:bob@{BOB}>"));
        world.udp(ALICE, &info);
        let there = world.request(BOB, "INFO");
        assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
        assert!(!there.has("Route"));
        world.udp(BOB, &reply(&there, 200, "", BOB));
        world.response(ALICE, 200);
        ends_empty(world);
    });
}

#[test]
fn a_recorded_route_lets_its_own_dialog_through_and_nothing_else() {
    let table = format!(
        "[[route]]\nheader = [\"X-First\"]\naction = \"proxy\"\nto = [\"sip:{BOB}\"]\n\
                         [[route]]\naction = \"reject\"\n"
    );
    let mut world = world(1, &table);
    let invite = ask("INVITE", "sip:bob@example.com", "c1").with("X-First", "yes");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let there = world.request(BOB, "INVITE");
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    let info = within("INFO", 8, &invite, &ok);
    world.udp(ALICE, &info);
    let there = world.request(BOB, "INFO");
    world.udp(BOB, &reply(&there, 200, "", BOB));
    world.response(ALICE, 200);
    // Another Call-ID, or a token with a digit changed, is asked for at the table.
    let route = info.text("Route").to_owned();
    world.udp(
        ALICE,
        &info
            .clone()
            .setting("Call-ID", "c2")
            .setting("Via", via(ALICE, "other")),
    );
    world.response(ALICE, 403);
    let forged = match route.contains("rw=0") {
        true => route.replace("rw=0", "rw=1"),
        false => panic!("{route}"),
    };
    world.udp(
        ALICE,
        &info.setting("Route", forged).setting("Via", via(ALICE, "forged")),
    );
    world.response(ALICE, 403);
    ends_empty(world);
}
