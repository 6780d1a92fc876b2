//! Requests within early dialogs and after the 2xx: PRACK (RFC 3262) and UPDATE (RFC 3311) on their way through the proxy.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{TO_BOB, ack_of, ends_empty, from_callee, reply, within, world};

/// Two phones at once.
const TO_BOTH: &str = "[[route]]\naction = \"proxy\"\nfork = \"parallel\"\n\
                       to = [\"sip:bob@127.0.0.3:5063\", \"sip:bob@127.0.0.4:5064\"]\n";

/// ALICE calls, and says that she acknowledges provisional responses.
fn calls(world: &mut World) -> Message {
    let invite = invite("alice", ALICE, "sip:bob@example.com", "c1").inserting("Supported", "100rel");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

/// A provisional response that asks to be acknowledged: RFC 3262 §3.
fn reliable(there: &Message, tag: &str, at: &str, rseq: u32) -> Message {
    reply(there, 183, tag, at)
        .inserting("Require", "100rel")
        .inserting("RSeq", rseq)
}

fn prack(cseq: u32, invite: &Message, progress: &Message) -> Message {
    let rack = format!("{} {} INVITE", progress.text("RSeq"), invite.cseq().0);
    within("PRACK", cseq, invite, progress).inserting("RAck", rack)
}

/// A request of ALICE's goes to `at` and to nobody else, as it is but for what routing takes, and is answered from there.
#[track_caller]
fn reaches(world: &mut World, request: &Message, at: &str, status: u16) {
    let method = request.cseq().1.to_owned();
    world.udp(ALICE, request);
    let there = world.request(at, &method);
    world.silent();
    assert_eq!(there.uri(), Some(&*format!("sip:bob@{at}")), "its remote target");
    assert!(
        !there.has("Route") && !there.has("Record-Route"),
        "the route is used up, and records nothing anew:\n{there}"
    );
    for name in ["From", "To", "Call-ID", "CSeq", "RAck"] {
        assert_eq!(there.get_all(name), request.get_all(name), "{name}");
    }
    assert_eq!(there.get_all("Via").len(), 2);
    world.udp(at, &reply(&there, status, "", at));
    let back = world.response(ALICE, status);
    assert_eq!(back.get_all("Via"), [request.text("Via")]);
    assert_eq!(back.cseq().1, method);
    world.silent();
}

/// The same from a phone to ALICE.
#[track_caller]
fn reaches_alice(world: &mut World, request: &Message, at: &str, status: u16) {
    let method = request.cseq().1.to_owned();
    world.udp(at, request);
    let there = world.request(ALICE, &method);
    world.silent();
    assert_eq!(there.uri(), Some(&*format!("sip:alice@{ALICE}")));
    assert!(!there.has("Route"), "{there}");
    world.udp(ALICE, &reply(&there, status, "", ALICE));
    assert_eq!(world.response(at, status).get_all("Via"), [request.text("Via")]);
    world.silent();
}

#[test]
fn prack_and_update_go_by_the_route_of_the_early_dialog() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = calls(&mut world);
        let there = world.request(BOB, "INVITE");
        assert_eq!(there.text("Supported"), "100rel");
        let progress = reliable(&there, "b1", BOB, 4_711);
        world.udp(BOB, &progress);
        let heard = world.response(ALICE, 183);
        for name in ["Require", "RSeq", "Record-Route", "Contact", "To"] {
            assert_eq!(heard.text(name), progress.text(name), "{name}");
        }
        // RFC 3262 §3: it is sent again until the PRACK has come, and each copy goes back.
        world.udp(BOB, &progress);
        assert_eq!(world.response(ALICE, 183).to_bytes(), heard.to_bytes());
        reaches(&mut world, &prack(33303, &invite, &heard), BOB, 200);
        // A PRACK that came again is answered from its transaction.
        world.udp(ALICE, &prack(33303, &invite, &heard));
        world.response(ALICE, 200);
        world.silent();
        let update = within("UPDATE", 33304, &invite, &heard).with_body("application/sdp", "v=0\r\n");
        reaches(&mut world, &update, BOB, 200);
        reaches_alice(
            &mut world,
            &from_callee("UPDATE", 1, BOB, &there, &progress),
            BOB,
            200,
        );
        // RFC 3311 §5.2: both offer at once. What is refused refuses nothing of the call.
        reaches(&mut world, &within("UPDATE", 33305, &invite, &heard), BOB, 491);
        // A second reliable response, and its PRACK.
        world.udp(BOB, &reliable(&there, "b1", BOB, 4_712));
        let heard = world.response(ALICE, 183);
        reaches(&mut world, &prack(33306, &invite, &heard), BOB, 200);

        world.udp(BOB, &reply(&there, 200, "b1", BOB));
        let ok = world.response(ALICE, 200);
        // A PRACK may come after the 2xx: RFC 3262 §3.
        reaches(&mut world, &prack(33307, &invite, &heard), BOB, 481);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.request(BOB, "ACK");
        reaches(&mut world, &within("UPDATE", 33308, &invite, &ok), BOB, 200);
        reaches_alice(&mut world, &from_callee("UPDATE", 2, BOB, &there, &ok), BOB, 200);
        ends_empty(world);
    });
}

#[test]
fn each_early_dialog_of_a_fork_has_its_own_pracks_and_updates() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOTH);
        let invite = calls(&mut world);
        let there = [BOB, BOB_TABLET].map(|at| world.request(at, "INVITE"));
        let mut heard = Vec::new();
        for ((at, tag), there) in [(BOB, "b1"), (BOB_TABLET, "b2")].iter().zip(&there) {
            world.udp(at, &reliable(there, tag, at, 1));
            heard.push(world.response(ALICE, 183));
        }
        assert_ne!(heard[0].text("To"), heard[1].text("To"));
        // In the other order than they came, and across one another.
        reaches(&mut world, &prack(33303, &invite, &heard[1]), BOB_TABLET, 200);
        reaches(&mut world, &prack(33304, &invite, &heard[0]), BOB, 200);
        reaches(&mut world, &within("UPDATE", 33305, &invite, &heard[0]), BOB, 200);
        reaches(
            &mut world,
            &within("UPDATE", 33306, &invite, &heard[1]),
            BOB_TABLET,
            200,
        );
        for (place, at) in [BOB, BOB_TABLET].into_iter().enumerate() {
            let update = from_callee("UPDATE", 1, at, &there[place], &heard[place]);
            reaches_alice(&mut world, &update, at, 200);
        }
        // The one answers, and the other is cancelled: a PRACK of its dialog still finds it, and hears what it says.
        world.udp(BOB_TABLET, &reply(&there[1], 200, "b2", BOB_TABLET));
        let ok = world.response(ALICE, 200);
        let cancel = world.request(BOB, "CANCEL");
        reaches(&mut world, &prack(33307, &invite, &heard[0]), BOB, 481);
        world.udp(BOB, &reply(&cancel, 200, "b1", BOB));
        world.udp(BOB, &reply(&there[0], 487, "b1", BOB));
        world.request(BOB, "ACK");
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.request(BOB_TABLET, "ACK");
        reaches(
            &mut world,
            &within("UPDATE", 33308, &invite, &ok),
            BOB_TABLET,
            200,
        );
        let update = from_callee("UPDATE", 2, BOB_TABLET, &there[1], &ok);
        reaches_alice(&mut world, &update, BOB_TABLET, 200);
        ends_empty(world);
    });
}

#[test]
fn a_prack_without_an_answer_leaves_the_invite_as_it_is() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = calls(&mut world);
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reliable(&there, "b1", BOB, 1));
        let heard = world.response(ALICE, 183);
        world.udp(ALICE, &prack(33303, &invite, &heard));
        world.request(BOB, "PRACK");
        // RFC 4320 §4.2: whoever asked has given up by then too, and no 408 is sent.
        world.advance(33_000);
        while world.take_request(BOB, "PRACK").is_some() {}
        world.response(ALICE, 100);
        world.silent();
        // The call itself goes on.
        world.udp(BOB, &reply(&there, 180, "b1", BOB));
        world.response(ALICE, 180);
        world.udp(ALICE, &cancel(&invite));
        world.response(ALICE, 200);
        let cancel = world.request(BOB, "CANCEL");
        world.udp(BOB, &reply(&cancel, 200, "b1", BOB));
        world.udp(BOB, &reply(&there, 487, "b1", BOB));
        world.request(BOB, "ACK");
        let failure = world.response(ALICE, 487);
        world.udp(ALICE, &ack_of(&invite, &failure));
        ends_empty(world);
    });
}

/// The Route of one dialog lets no request of another through, and none that has no dialog (no To tag).
#[test]
fn a_prack_by_a_strangers_route_goes_by_the_table() {
    on_each_number_of_shards(|shards| {
        let table = format!("[[route]]\nmethod = [\"PRACK\"]\naction = \"reject\"\ncode = 403\n{TO_BOB}");
        let mut world = world(shards, &table);
        let invite = calls(&mut world);
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reliable(&there, "b1", BOB, 1));
        let heard = world.response(ALICE, 183);
        let own = prack(33303, &invite, &heard);
        for stranger in [
            own.clone()
                .setting("Call-ID", "c2")
                .setting("Via", via(ALICE, "s1")),
            own.clone()
                .setting("To", "<sip:bob@example.com>")
                .setting("Via", via(ALICE, "s2")),
        ] {
            world.udp(ALICE, &stranger);
            world.response(ALICE, 403);
        }
        reaches(&mut world, &own, BOB, 200);
        world.udp(BOB, &reply(&there, 486, "b1", BOB));
        world.request(BOB, "ACK");
        let failure = world.response(ALICE, 486);
        world.udp(ALICE, &ack_of(&invite, &failure));
        ends_empty(world);
    });
}
