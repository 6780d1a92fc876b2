//! The edge between phones and a registrar: Path with flow tokens (RFC 5626 §5), and dialogs that stay on their flows.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{SERVER, World, on_each_number_of_shards};
use crate::{REGISTERED, TO_BOB, ack_of, ask, ends_empty, reply, within, world};

/// Everything goes on to the registrar, and comes back from there.
const TO_REGISTRAR: &str = r#"
    [[route]]
    action = "proxy"
    to = ["sip:127.0.0.9:5069"]
    add_path = true
"#;
const REGISTRAR: &str = "127.0.0.9:5069";
/// Where BOB says that he is, in the network behind his NAT.
const CONTACT: &str = "sip:bob@192.0.2.5:5099;transport=udp;ob";

/// BOB's REGISTER as it reaches the registrar.
fn registers(world: &mut World, register: &Message) -> Message {
    world.udp(BOB, register);
    let there = world.request(REGISTRAR, "REGISTER");
    world.udp(REGISTRAR, &reply(&there, 200, "r", BOB));
    world.response(BOB, 200);
    there
}

fn path_of(register: &Message) -> String {
    bench_harness::sip::uri(register.text("Path")).to_owned()
}

/// A request that the registrar sends to BOB by the path.
fn by_path(method: &str, path: &str, call_id: &str) -> Message {
    Message::request(method, CONTACT)
        .with("Via", via(REGISTRAR, &format!("{method}{call_id}")))
        .with("Route", format!("<{path}>"))
        .with("From", format!("<sip:alice@one.att.net>;tag=f{call_id}"))
        .with("To", "<sip:bob@one.att.net>")
        .with("Call-ID", call_id)
        .with("CSeq", format!("7 {method}"))
        .with("Max-Forwards", 70)
        .with("Contact", format!("<sip:alice@{ALICE}>"))
        .with("Content-Length", 0)
}

#[test]
fn the_first_hop_puts_the_flow_into_the_path_and_calls_come_back_over_it() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_REGISTRAR);
        let there = registers(&mut world, &register_flow("udp", BOB, 1, "r1"));
        let path = path_of(&there);
        assert!(
            path.starts_with("sip:") && path.ends_with(&format!("@{SERVER};lr;ob")),
            "{path}"
        );
        assert_eq!(there.get_all("Path").len(), 1);
        let invite = by_path("INVITE", &path, "c1");
        world.udp(REGISTRAR, &invite);
        world.response(REGISTRAR, 100);
        let at_bob = world.request(BOB, "INVITE");
        assert_eq!((at_bob.uri(), at_bob.has("Route")), (Some(CONTACT), false));
        // RFC 5626 §5.3.1: the dialog stays on the flow.
        let recorded = at_bob.get_all("Record-Route");
        assert_eq!(recorded.len(), 1);
        let ok = reply(&at_bob, 200, "b", BOB).setting("Contact", format!("<{CONTACT}>"));
        world.udp(BOB, &ok);
        let ok = world.response(REGISTRAR, 200);
        let inside = |method: &str, cseq: u32| {
            let request = within(method, cseq, &invite, &ok);
            request.setting("Via", via(REGISTRAR, &format!("{method}{cseq}c1")))
        };
        world.udp(REGISTRAR, &inside("ACK", 7));
        assert_eq!(world.request(BOB, "ACK").uri(), Some(CONTACT));
        // What BOB sends by the same route goes out, to where it says.
        let bye = Message::request("BYE", &format!("sip:alice@{ALICE}"))
            .with("Via", via(BOB, "byebob"))
            .with("Route", at_bob.text("Record-Route"))
            .with("From", ok.text("To"))
            .with("To", ok.text("From"))
            .with("Call-ID", "c1")
            .with("CSeq", "1 BYE")
            .with("Max-Forwards", 70)
            .with("Content-Length", 0);
        world.udp(BOB, &bye);
        let at_alice = world.request(ALICE, "BYE");
        world.udp(ALICE, &reply(&at_alice, 200, "a", ALICE));
        world.response(BOB, 200);
        ends_empty(world);
    });
}

#[test]
fn only_a_phone_that_knows_of_paths_gets_one_and_only_the_first_hop_knows_the_flow() {
    let mut world = world(1, TO_REGISTRAR);
    let plain = register("bob", BOB, "r1");
    assert!(!registers(&mut world, &plain).has("Path"));
    let path = path_of(&registers(
        &mut world,
        &register("bob", BOB, "r2").inserting("Supported", "path"),
    ));
    assert!(
        path.len() > 90 && path.ends_with(&format!("@{SERVER};lr")),
        "a flow, although none was asked for: {path}"
    );
    let behind = forwarded(register_flow("udp", BOB, 1, "r3"), BOB_TABLET)
        .inserting("Path", format!("<sip:{BOB_TABLET};lr;ob>"));
    world.udp(BOB_TABLET, &behind);
    let there = world.request(REGISTRAR, "REGISTER");
    assert_eq!(
        there.get_all("Path"),
        [format!("<sip:{SERVER};lr>"), format!("<sip:{BOB_TABLET};lr;ob>")]
    );
    world.udp(REGISTRAR, &reply(&there, 200, "r", BOB));
    world.response(BOB_TABLET, 200);
    ends_empty(world);
}

#[test]
fn a_flow_that_is_gone_is_said_to_be_and_a_token_that_is_not_ours_is_forbidden() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_REGISTRAR);
        world.tcp(BOB, &register_flow("tcp", BOB, 1, "r1"));
        let there = world.request(REGISTRAR, "REGISTER");
        let path = path_of(&there);
        world.udp(REGISTRAR, &reply(&there, 200, "r", BOB));
        world.response(BOB, 200);
        world.udp(REGISTRAR, &by_path("MESSAGE", &path, "m1"));
        let at_bob = world.request(BOB, "MESSAGE");
        world.tcp(BOB, &reply(&at_bob, 200, "b", BOB));
        world.response(REGISTRAR, 200);
        let digit = path.as_bytes()[4];
        let other = if digit == b'0' { "1" } else { "0" };
        let forged = format!("sip:{other}{}", &path[5..]);
        world.udp(REGISTRAR, &by_path("MESSAGE", &forged, "m2"));
        world.response(REGISTRAR, 403);
        world.close(BOB);
        world.udp(REGISTRAR, &by_path("MESSAGE", &path, "m3"));
        world.response(REGISTRAR, 430);
        let invite = by_path("INVITE", &path, "c1");
        world.udp(REGISTRAR, &invite);
        world.response(REGISTRAR, 100);
        let failure = world.response(REGISTRAR, 430);
        world.udp(REGISTRAR, &ack_of(&invite, &failure));
        ends_empty(world);
    });
}

#[test]
fn both_phones_of_a_proxied_call_are_reached_over_their_flows() {
    const ALICE_SAYS: &str = "sip:alice@192.0.2.6:5098;ob";
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        world.udp(BOB, &register_flow("udp", BOB, 1, "r1"));
        world.response(BOB, 200);
        let invite = ask("INVITE", "sip:bob@one.att.net", "c1").with("Contact", format!("<{ALICE_SAYS}>"));
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        let at_bob = world.request(BOB, "INVITE");
        assert_eq!(at_bob.get_all("Record-Route").len(), 2);
        let ok = reply(&at_bob, 200, "b", BOB).setting("Contact", format!("<{CONTACT}>"));
        world.udp(BOB, &ok);
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &within("ACK", 7, &invite, &ok));
        let ack = world.request(BOB, "ACK");
        assert_eq!((ack.uri(), ack.has("Route")), (Some(CONTACT), false));
        let mut bye = Message::request("BYE", ALICE_SAYS).with("Via", via(BOB, "byebob"));
        for route in at_bob.get_all("Record-Route") {
            bye = bye.with("Route", route);
        }
        let bye = bye
            .with("From", ok.text("To"))
            .with("To", ok.text("From"))
            .with("Call-ID", "c1")
            .with("CSeq", "1 BYE")
            .with("Max-Forwards", 70)
            .with("Content-Length", 0);
        world.udp(BOB, &bye);
        let at_alice = world.request(ALICE, "BYE");
        assert_eq!((at_alice.uri(), at_alice.has("Route")), (Some(ALICE_SAYS), false));
        world.udp(ALICE, &reply(&at_alice, 200, "a", ALICE));
        world.response(BOB, 200);
        ends_empty(world);
    });
}

/// RFC 5626 §5.3: who sends by the flow of both sides has the first token as its own, and the other leads on, be it the same.
#[test]
fn two_phones_behind_one_flow_reach_each_other() {
    const ALICE_SAYS: &str = "sip:alice@192.0.2.6:5098;ob";
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        world.udp(BOB, &register_flow("udp", BOB, 1, "r1"));
        world.response(BOB, 200);
        let by_bob = |request: Message, branch: &str| request.setting("Via", via(BOB, branch));
        let invite = ask("INVITE", "sip:bob@one.att.net", "c1").with("Contact", format!("<{ALICE_SAYS}>"));
        let invite = by_bob(invite, "inviteofalice");
        world.udp(BOB, &invite);
        world.response(BOB, 100);
        let at_bob = world.request(BOB, "INVITE");
        let ok = reply(&at_bob, 200, "b", BOB).setting("Contact", format!("<{CONTACT}>"));
        world.udp(BOB, &ok);
        let ok = world.response(BOB, 200);
        world.udp(BOB, &by_bob(within("ACK", 7, &invite, &ok), "ackofalice"));
        assert_eq!(world.request(BOB, "ACK").uri(), Some(CONTACT));
        let mut bye = Message::request("BYE", ALICE_SAYS).with("Via", via(BOB, "byebob"));
        for route in at_bob.get_all("Record-Route") {
            bye = bye.with("Route", route);
        }
        let bye = bye
            .with("From", ok.text("To"))
            .with("To", ok.text("From"))
            .with("Call-ID", "c1")
            .with("CSeq", "1 BYE")
            .with("Max-Forwards", 70)
            .with("Content-Length", 0);
        world.udp(BOB, &bye);
        let at_alice = world.request(BOB, "BYE");
        assert_eq!(at_alice.uri(), Some(ALICE_SAYS));
        world.udp(BOB, &reply(&at_alice, 200, "a", BOB));
        world.response(BOB, 200);
        ends_empty(world);
    });
}

/// What a rule forwards without state has the caller's flow in its Record-Route all the same: nothing is kept for that.
#[test]
fn a_caller_behind_a_stateless_rule_is_reached_over_its_flow() {
    const ALICE_SAYS: &str = "sip:alice@192.0.2.6:5098;transport=tcp;ob";
    for (method, answer) in [("INVITE", 200), ("SUBSCRIBE", 202)] {
        on_each_number_of_shards(|shards| {
            let mut world = world(shards, &format!("{TO_BOB}mode = \"stateless\"\n"));
            let request = ask(method, "sip:bob@one.att.net", "c1").with("Contact", format!("<{ALICE_SAYS}>"));
            let request = request.setting("Via", format!("SIP/2.0/TCP {ALICE};branch=z9hG4bKob;rport"));
            world.tcp(ALICE, &request);
            let at_bob = world.request(BOB, method);
            let recorded: Vec<String> = at_bob
                .get_all("Record-Route")
                .into_iter()
                .map(Into::into)
                .collect();
            assert_eq!(recorded.len(), 2, "{at_bob}");
            assert!(recorded[1].len() > recorded[0].len() + 60, "a flow: {at_bob}");
            let ok = reply(&at_bob, answer, "b", BOB);
            world.udp(BOB, &ok);
            let ok = world.response(ALICE, answer);
            let mut info = Message::request("INFO", ALICE_SAYS).with("Via", via(BOB, "infobob"));
            for route in &recorded {
                info = info.with("Route", route);
            }
            let info = info
                .with("From", ok.text("To"))
                .with("To", ok.text("From"))
                .with("Call-ID", "c1")
                .with("CSeq", "1 INFO")
                .with("Max-Forwards", 70)
                .with("Content-Length", 0);
            world.udp(BOB, &info);
            let at_alice = world.request(ALICE, "INFO");
            assert_eq!((at_alice.uri(), at_alice.has("Route")), (Some(ALICE_SAYS), false));
            world.tcp(ALICE, &reply(&at_alice, 200, "a", ALICE));
            world.response(BOB, 200);
            // Hers go out by the same route.
            let back = within("INFO", 8, &request, &ok);
            world.tcp(
                ALICE,
                &back.setting("Via", format!("SIP/2.0/TCP {ALICE};branch=z9hG4bKb;rport")),
            );
            let there = world.request(BOB, "INFO");
            assert!(!there.has("Route"), "{there}");
            world.udp(BOB, &reply(&there, 200, "b", BOB));
            world.response(ALICE, 200);
            ends_empty(world);
        });
    }
}
