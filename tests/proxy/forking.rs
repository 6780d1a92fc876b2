//! Several places for one request: registered contacts by q, parallel, serial, redirections.

use bench_harness::sip::Message;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{CAROL, ack_of, ask, ends_empty, reply, within, world};

const REGISTERED: &str = "[[route]]\nmethod = [\"REGISTER\"]\naction = \"ims\"\n\
                          [[route]]\naction = \"proxy\"\nto = [\"registered\"]\nring_s = 10\n";

fn registers(world: &mut World, at: &str, q: &str) {
    let contact = format!("<sip:bob@{at}>;q={q}");
    let register = register("bob", at, &format!("r{at}")).setting("Contact", contact);
    world.udp(at, &register);
    world.response(at, 200);
}

fn table(to: &str, more: &str) -> String {
    format!("[[route]]\naction = \"proxy\"\nto = {to}\nring_s = 10\n{more}\n")
}

fn invites(world: &mut World) -> Message {
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

#[test]
fn who_is_not_there_is_said() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let invite = invites(&mut world);
        let failure = world.response(ALICE, 404);
        world.udp(ALICE, &ack_of(&invite, &failure));
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@elsewhere.example", "m1"));
        world.response(ALICE, 404);
        ends_empty(world);
    });
}

#[test]
fn a_registered_phone_is_reached_from_every_shard() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        registers(&mut world, BOB, "1");
        for id in ["a", "b", "c", "d", "e"] {
            world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net", id));
            let there = world.request(BOB, "MESSAGE");
            assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
            assert_eq!(there.get_all("Via").len(), 2);
            world.udp(BOB, &reply(&there, 200, "b", BOB));
            world.response(ALICE, 200);
        }
        // Registrations last; they are given up at the end of the world.
        world.advance(40_000);
        assert_eq!(world.contexts(), 0);
        world.end();
    });
}

#[test]
fn phones_of_one_q_ring_together_and_those_below_afterwards() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        registers(&mut world, BOB, "0.9");
        registers(&mut world, BOB_TABLET, "0.9");
        registers(&mut world, CAROL, "0.2");
        let invite = invites(&mut world);
        let (one, two) = (world.request(BOB, "INVITE"), world.request(BOB_TABLET, "INVITE"));
        assert_ne!(one.branch(), two.branch());
        // RFC 5393: the breadth is shared out, and something is left for the one below.
        assert_eq!((one.text("Max-Breadth"), two.text("Max-Breadth")), ("29", "30"));
        world.silent();
        world.udp(BOB, &reply(&one, 486, "b1", BOB));
        world.request(BOB, "ACK");
        world.udp(BOB_TABLET, &reply(&two, 180, "b2", BOB_TABLET));
        world.response(ALICE, 180);
        world.silent();
        // It rings long enough: the next is tried, and this one is cancelled.
        world.advance(10_100);
        let cancelled = world.request(BOB_TABLET, "CANCEL");
        let three = world.request(CAROL, "INVITE");
        assert_eq!(three.uri(), Some(&*format!("sip:bob@{CAROL}")));
        assert_eq!(three.text("X-Unknown"), invite.text("X-Unknown"));
        assert_eq!(three.get_all("Via")[1..], one.get_all("Via")[1..]);
        world.udp(BOB_TABLET, &reply(&cancelled, 200, "b2", BOB_TABLET));
        world.udp(BOB_TABLET, &reply(&two, 487, "b2", BOB_TABLET));
        world.request(BOB_TABLET, "ACK");
        world.udp(CAROL, &reply(&three, 200, "b3", CAROL));
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.request(CAROL, "ACK");
        world.advance(100_000);
        world.silent();
        assert_eq!(world.contexts(), 0);
        world.end();
    });
}

const PARALLEL: &str = "[\"sip:a@127.0.0.3:5063\", \"sip:b@127.0.0.4:5064\", \"sip:c@127.0.0.5:5065\"]";

fn all_three(world: &mut World) -> [Message; 3] {
    [BOB, BOB_TABLET, CAROL].map(|at| world.request(at, "INVITE"))
}

#[test]
fn the_first_200_cancels_the_others_and_a_second_one_goes_back_too() {
    let mut world = world(1, &table(PARALLEL, "fork = \"parallel\""));
    let invite = invites(&mut world);
    let [one, two, three] = all_three(&mut world);
    world.udp(BOB, &reply(&one, 180, "b1", BOB));
    world.udp(BOB_TABLET, &reply(&two, 180, "b2", BOB_TABLET));
    world.response(ALICE, 180);
    world.response(ALICE, 180);
    world.udp(BOB, &reply(&one, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    let cancelled = world.request(BOB_TABLET, "CANCEL");
    world.udp(BOB_TABLET, &reply(&cancelled, 200, "b2", BOB_TABLET));
    // RFC 3261 §16.7 step 5: a 200 that crosses the CANCEL goes back as well, and its ACK finds it.
    world.udp(BOB_TABLET, &reply(&two, 200, "b2", BOB_TABLET));
    let second = world.response(ALICE, 200);
    assert_ne!(ok.to_tag(), second.to_tag());
    for (ok, at) in [(&ok, BOB), (&second, BOB_TABLET)] {
        world.udp(
            ALICE,
            &within("ACK", 33302, &invite, ok).setting("Via", via(ALICE, at)),
        );
        world.request(at, "ACK");
    }
    // Carol has said nothing: she is cancelled as soon as she does.
    world.udp(CAROL, &reply(&three, 180, "b3", CAROL));
    let cancelled = world.request(CAROL, "CANCEL");
    world.udp(CAROL, &reply(&cancelled, 200, "b3", CAROL));
    world.udp(CAROL, &reply(&three, 487, "b3", CAROL));
    world.request(CAROL, "ACK");
    ends_empty(world);
}

#[test]
fn of_several_failures_the_best_goes_back() {
    for (statuses, best) in [
        ([486, 404, 480], 486),
        ([500, 486, 503], 486),
        ([503, 503, 503], 500),
        ([302, 486, 500], 302),
        ([486, 484, 500], 484),
        ([404, 407, 486], 407),
    ] {
        let mut world = world(1, &table(PARALLEL, "fork = \"parallel\""));
        let invite = invites(&mut world);
        let branches = all_three(&mut world);
        for ((branch, status), at) in branches.iter().zip(statuses).zip([BOB, BOB_TABLET, CAROL]) {
            world.silent();
            world.udp(at, &reply(branch, status, "b", at));
            world.request(at, "ACK");
        }
        let failure = world.response(ALICE, best);
        assert_eq!(failure.get_all("Via"), [invite.text("Via")]);
        world.udp(ALICE, &ack_of(&invite, &failure));
        ends_empty(world);
    }
}

#[test]
fn a_6xx_ends_the_search() {
    let mut world = world(1, &table(PARALLEL, "fork = \"serial\""));
    let invite = invites(&mut world);
    let one = world.request(BOB, "INVITE");
    world.udp(BOB, &reply(&one, 603, "b", BOB));
    world.request(BOB, "ACK");
    let failure = world.response(ALICE, 603);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);

    let mut world = crate::world(1, &table(PARALLEL, "fork = \"parallel\""));
    let invite = invites(&mut world);
    let [one, two, three] = all_three(&mut world);
    for (branch, at) in [(&two, BOB_TABLET), (&three, CAROL)] {
        world.udp(at, &reply(branch, 180, "b", at));
        world.response(ALICE, 180);
    }
    world.udp(BOB, &reply(&one, 600, "b", BOB));
    world.request(BOB, "ACK");
    for (branch, at) in [(&two, BOB_TABLET), (&three, CAROL)] {
        let cancelled = world.request(at, "CANCEL");
        world.udp(at, &reply(&cancelled, 200, "b", at));
        world.udp(at, &reply(branch, 487, "b", at));
        world.request(at, "ACK");
    }
    let failure = world.response(ALICE, 600);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

#[test]
fn challenges_of_all_branches_go_back_together() {
    for order in [[407, 401, 486], [486, 407, 401], [401, 486, 407]] {
        let mut world = world(1, &table(PARALLEL, "fork = \"parallel\""));
        let invite = invites(&mut world);
        let branches = all_three(&mut world);
        for ((branch, status), at) in branches.iter().zip(order).zip([BOB, BOB_TABLET, CAROL]) {
            let mut failure = reply(branch, status, "b", at);
            match status {
                401 => failure = failure.with("WWW-Authenticate", "Digest realm=\"one\", nonce=\"1\""),
                407 => failure = failure.with("Proxy-Authenticate", "Digest realm=\"two\", nonce=\"2\""),
                _ => {}
            }
            world.udp(at, &failure);
            world.request(at, "ACK");
        }
        let failure = world.next(ALICE);
        assert!(matches!(failure.status(), Some(401 | 407)), "{}", failure.title());
        assert_eq!(
            failure.get_all("WWW-Authenticate"),
            ["Digest realm=\"one\", nonce=\"1\""]
        );
        assert_eq!(
            failure.get_all("Proxy-Authenticate"),
            ["Digest realm=\"two\", nonce=\"2\""]
        );
        world.udp(ALICE, &ack_of(&invite, &failure));
        ends_empty(world);
    }
}

#[test]
fn places_are_tried_one_after_another() {
    let mut world = world(1, &table(PARALLEL, "fork = \"serial\""));
    let invite = invites(&mut world);
    let one = world.request(BOB, "INVITE");
    world.silent();
    world.udp(BOB, &reply(&one, 486, "b", BOB));
    world.request(BOB, "ACK");
    let two = world.request(BOB_TABLET, "INVITE");
    assert_eq!(two.uri(), Some("sip:b@127.0.0.4:5064"));
    assert_eq!(two.text("Max-Breadth"), "59", "one is left for the third");
    world.udp(BOB_TABLET, &reply(&two, 180, "b", BOB_TABLET));
    world.response(ALICE, 180);
    // The caller hangs up: the third is not tried any more.
    world.udp(ALICE, &cancel(&invite));
    world.response(ALICE, 200);
    let cancelled = world.request(BOB_TABLET, "CANCEL");
    world.udp(BOB_TABLET, &reply(&cancelled, 200, "b", BOB_TABLET));
    world.udp(BOB_TABLET, &reply(&two, 487, "b", BOB_TABLET));
    world.request(BOB_TABLET, "ACK");
    // §16.7 step 6: within a class the one that came first is as good.
    let failure = world.response(ALICE, 486);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

/// RFC 5393 §5.3.3: a branch has its share of the breadth until it has ended, and a phone takes its time to say that it does.
#[test]
fn the_next_place_does_not_wait_for_the_end_of_the_one_before() {
    let mut world = world(1, &table(PARALLEL, "fork = \"serial\""));
    let invite = invites(&mut world);
    let mut ringing = Vec::new();
    for at in [BOB, BOB_TABLET, CAROL] {
        let there = world.request(at, "INVITE");
        world.udp(at, &reply(&there, 180, "b", at));
        world.response(ALICE, 180);
        ringing.push((at, there));
        world.advance(10_100);
        if at != CAROL {
            world.request(at, "CANCEL");
        }
    }
    // As many as rang together are what the request may be in all.
    let breadths = ringing
        .iter()
        .map(|(_, there)| there.text("Max-Breadth").parse::<u32>().expect("a number"));
    assert_eq!(breadths.sum::<u32>(), 60);
    world.forget_waiting();
    world.udp(ALICE, &cancel(&invite));
    world.response(ALICE, 200);
    world.request(CAROL, "CANCEL");
    for (at, there) in ringing {
        world.udp(at, &reply(&there, 487, "b", at));
        world.request(at, "ACK");
    }
    let failure = world.response(ALICE, 487);
    world.udp(ALICE, &ack_of(&invite, &failure));
    world.advance(40_000);
    world.forget_waiting();
    ends_empty(world);
}

#[test]
fn a_request_ends_by_the_rule_that_it_began_by() {
    let more = "fork = \"serial\"\nset_header = [\"X-Rule: old\"]";
    let mut world = world(1, &table(PARALLEL, more));
    let invite = invites(&mut world);
    let one = world.request(BOB, "INVITE");
    assert_eq!(one.text("X-Rule"), "old");
    let rules = |text: &str| crate::routes_of(text);
    let new = rules(&table(
        "[\"sip:127.0.0.5:5065\"]",
        "set_header = [\"X-Rule: new\"]",
    ));
    world.reconfigure(|cfg| cfg.routes = new);
    world.udp(BOB, &reply(&one, 486, "b", BOB));
    world.request(BOB, "ACK");
    let two = world.request(BOB_TABLET, "INVITE");
    assert_eq!(two.text("X-Rule"), "old");
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net", "m1"));
    let by_new = world.request(CAROL, "MESSAGE");
    assert_eq!(by_new.text("X-Rule"), "new");
    world.udp(CAROL, &reply(&by_new, 200, "b", CAROL));
    world.response(ALICE, 200);
    // Long after, its table is no more: the rest of its places are still tried.
    for _ in 0..10 {
        world.reconfigure(|cfg| cfg.routes.clear());
    }
    world.udp(BOB_TABLET, &reply(&two, 486, "b", BOB_TABLET));
    world.request(BOB_TABLET, "ACK");
    let three = world.request(CAROL, "INVITE");
    assert_eq!(
        three.text("X-Rule"),
        "old",
        "what was written once is sent everywhere"
    );
    world.udp(CAROL, &reply(&three, 486, "b", CAROL));
    world.request(CAROL, "ACK");
    let failure = world.response(ALICE, 486);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

#[test]
fn breadth_bounds_what_is_tried_at_once() {
    let mut world = world(1, &table(PARALLEL, "fork = \"parallel\""));
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1").with("Max-Breadth", 2);
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let one = world.request(BOB, "INVITE");
    let two = world.request(BOB_TABLET, "INVITE");
    world.silent();
    assert_eq!((one.text("Max-Breadth"), two.text("Max-Breadth")), ("1", "1"));
    for (branch, at) in [(&one, BOB), (&two, BOB_TABLET)] {
        world.udp(at, &reply(branch, 486, "b", at));
        world.request(at, "ACK");
    }
    let three = world.request(CAROL, "INVITE");
    assert_eq!(three.text("Max-Breadth"), "2");
    world.udp(CAROL, &reply(&three, 486, "b", CAROL));
    world.request(CAROL, "ACK");
    let failure = world.response(ALICE, 486);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

#[test]
fn a_redirection_is_followed_where_a_rule_says_so() {
    for recurse in [false, true] {
        let to = "[\"sip:a@127.0.0.3:5063\"]";
        let mut world = world(1, &table(to, &format!("recurse = {recurse}")));
        let invite = invites(&mut world);
        let one = world.request(BOB, "INVITE");
        let mut moved = reply(&one, 302, "b", BOB).removing("Contact");
        for contact in ["<sip:c@127.0.0.5:5065>", "<sip:a@127.0.0.3:5063>;q=0.1"] {
            moved = moved.with("Contact", contact);
        }
        world.udp(BOB, &moved);
        world.request(BOB, "ACK");
        if !recurse {
            let failure = world.response(ALICE, 302);
            assert_eq!(failure.get_all("Contact").len(), 2);
            world.udp(ALICE, &ack_of(&invite, &failure));
            ends_empty(world);
            continue;
        }
        let two = world.request(CAROL, "INVITE");
        assert_eq!(two.uri(), Some("sip:c@127.0.0.5:5065"));
        world.udp(CAROL, &reply(&two, 200, "c", CAROL));
        let ok = world.response(ALICE, 200);
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        world.request(CAROL, "ACK");
        world.forget_waiting();
        world.advance(100_000);
        world.forget_waiting();
        world.advance(100_000);
        assert_eq!(world.contexts(), 0);
        world.end();
    }
}

/// RFC 3261 §16.6: what a redirection prefers is tried first, and the rest in turn.
#[test]
fn the_contacts_of_a_redirection_are_tried_by_their_q() {
    let mut world = world(1, &table("[\"sip:a@127.0.0.3:5063\"]", "recurse = true"));
    let invite = invites(&mut world);
    let one = world.request(BOB, "INVITE");
    let mut moved = reply(&one, 300, "b", BOB).removing("Contact");
    for contact in [
        "<sip:x@127.0.0.21>;q=0.2",
        "<sip:y@127.0.0.22>;q=0.2",
        "<sip:z@127.0.0.23>;q=0.7",
        "<sip:c@127.0.0.5:5065>",
    ] {
        moved = moved.with("Contact", contact);
    }
    world.udp(BOB, &moved);
    world.request(BOB, "ACK");
    let mut fails = |at: &str| {
        let there = world.request(at, "INVITE");
        world.silent();
        world.udp(at, &reply(&there, 486, "b", at));
        world.request(at, "ACK");
    };
    fails(CAROL);
    fails("127.0.0.23:5060");
    let both = ["127.0.0.21:5060", "127.0.0.22:5060"].map(|at| (at, world.request(at, "INVITE")));
    for (at, there) in both {
        world.udp(at, &reply(&there, 486, "b", at));
        world.request(at, "ACK");
    }
    let failure = world.response(ALICE, 486);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

/// RFC 3261 §16.6: who redirects when it is another's turn already brings nobody in before that is over.
#[test]
fn what_a_place_redirects_to_after_its_time_waits_for_who_rings_now() {
    let to = "[\"<sip:a@127.0.0.3:5063>;q=1\", \"<sip:b@127.0.0.4:5064>;q=0.5\"]";
    let mut world = world(1, &table(to, "recurse = true\nfork = \"by-q\""));
    let invite = invites(&mut world);
    let first = world.request(BOB, "INVITE");
    world.udp(BOB, &reply(&first, 180, "b", BOB));
    world.response(ALICE, 180);
    world.advance(10_000);
    let cancel = world.request(BOB, "CANCEL");
    world.udp(BOB, &reply(&cancel, 200, "b", BOB));
    let dave = "127.0.0.4:5064";
    let second = world.request(dave, "INVITE");
    world.udp(dave, &reply(&second, 180, "d", dave));
    world.response(ALICE, 180);
    let moved = reply(&first, 302, "b", BOB).setting("Contact", "<sip:c@127.0.0.5:5065>".to_owned());
    world.udp(BOB, &moved);
    world.request(BOB, "ACK");
    world.silent();
    world.udp(dave, &reply(&second, 486, "d", dave));
    world.request(dave, "ACK");
    let third = world.request(CAROL, "INVITE");
    world.udp(CAROL, &reply(&third, 486, "c", CAROL));
    world.request(CAROL, "ACK");
    let failure = world.response(ALICE, 486);
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}

/// RFC 3261 §16.5: a place stands in the target set once, so two that redirect to one another are tried once each.
#[test]
fn two_that_redirect_to_one_another_are_tried_once_each() {
    let to = "[\"sip:a@127.0.0.3:5063\"]";
    let mut world = world(1, &table(to, "recurse = true"));
    let invite = invites(&mut world);
    let one = world.request(BOB, "INVITE");
    let moved = |request: &Message, tag: &str, at: &str, to: &str| {
        reply(request, 302, tag, at).setting("Contact", format!("<{to}>"))
    };
    world.udp(BOB, &moved(&one, "b", BOB, "sip:c@127.0.0.5:5065"));
    world.request(BOB, "ACK");
    let two = world.request(CAROL, "INVITE");
    world.udp(CAROL, &moved(&two, "c", CAROL, "sip:a@127.0.0.3:5063"));
    world.request(CAROL, "ACK");
    let failure = world.response(ALICE, 302);
    assert_eq!(failure.text("Contact"), "<sip:a@127.0.0.3:5063>");
    world.udp(ALICE, &ack_of(&invite, &failure));
    ends_empty(world);
}
