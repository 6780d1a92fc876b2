//! Requests of which the network says that they have reached nobody: RFC 3261 §18.4, §16.9, RFC 3263 §4.3.

use bench_harness::sip::Message;
use ringway::metrics::{Undelivered, in_all};

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{CAROL, TO_BOB, ack_of, ask, ends_empty, reply, world};

const ONE: &str = "127.0.0.11:5060";
const TWO: &str = "127.0.0.12:5060";

/// What a Linux host quotes of a datagram over IPv4.
const QUOTED: usize = 520;

fn table(to: &str) -> String {
    format!("[[route]]\naction = \"proxy\"\nto = {to}\n")
}

fn two(more: &str) -> String {
    format!(
        "[[trunk]]\nname = \"carrier\"\ndestinations = [\"sip:{ONE}\", \"sip:{TWO} priority=2\"]\n{more}\n{}",
        table("[\"trunk:carrier\"]")
    )
}

fn invites(world: &mut World) -> Message {
    let invite = invite("alice", ALICE, "sip:+4930123@example.com", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

fn quoted(message: &Message) -> Vec<u8> {
    let mut bytes = message.to_bytes();
    bytes.truncate(QUOTED);
    bytes
}

/// Failed, answered, not awaited, unknown.
fn counts(world: &World) -> [u64; 4] {
    let count = |what: Undelivered| in_all(&world.shards.metrics, |m| m.undelivered[what as usize].get());
    std::array::from_fn(|index| count(Undelivered::ALL[index]))
}

/// The call of [`invites`] is answered there, and this is all that is left of it.
fn is_busy(world: &mut World, invite: &Message, at: &str, there: &Message) {
    world.udp(at, &reply(there, 486, "b", at));
    world.request(at, "ACK");
    fails(world, invite, 486);
    world.silent();
}

fn fails(world: &mut World, invite: &Message, status: u16) -> Message {
    let failure = world.response(ALICE, status);
    world.udp(ALICE, &ack_of(invite, &failure));
    failure
}

#[test]
fn the_next_destination_of_a_trunk_is_tried_at_once() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &two(""));
        let invite = invites(&mut world);
        let there = world.request(ONE, "INVITE");
        world.undelivered(ONE, &quoted(&there));
        let next = world.request(TWO, "INVITE");
        assert_eq!(counts(&world), [1, 0, 0, 0]);
        // The same error again is about nothing any more.
        world.undelivered(ONE, &quoted(&there));
        assert_eq!(counts(&world), [1, 0, 0, 1]);
        is_busy(&mut world, &invite, TWO, &next);
        ends_empty(world);
    });
}

#[test]
fn an_options_that_reaches_nobody_counts_as_failed_at_once() {
    on_each_number_of_shards(|shards| {
        let pinged = "ping_interval_ms = 60_000\nping_timeout_ms = 32_000\nup_after = 1\ndown_after = 1";
        let mut world = world(shards, &two(pinged));
        let mut pings = Vec::new();
        for _ in 0..50 {
            world.advance(100);
            pings.extend(world.take_request(ONE, "OPTIONS"));
            if let Some(ping) = world.take_request(TWO, "OPTIONS") {
                world.udp(TWO, &reply(&ping, 200, "p", TWO));
            }
        }
        let is_down = |world: &World| world.shards.board.trunks[0].destinations[0].known.is_down();
        assert!(!is_down(&world));
        world.undelivered(ONE, &quoted(&pings[0]));
        assert!(is_down(&world));
        let invite = invites(&mut world);
        let there = world.request(TWO, "INVITE");
        is_busy(&mut world, &invite, TWO, &there);
        world.end();
    });
}

#[test]
fn the_next_address_of_a_name_is_tried_at_once() {
    on_each_number_of_shards(|shards| {
        let table = format!(
            "[hosts]\n\"_sip._udp.there.example\" = [\"1 0 5060 a.example\", \"2 0 5060 b.example\"]\n\
             \"a.example\" = [\"127.0.0.11\"]\n\"b.example\" = [\"127.0.0.12\"]\n{}",
            table("[\"sip:there.example\"]")
        );
        let mut world = world(shards, &table);
        let invite = invites(&mut world);
        let there = world.request(ONE, "INVITE");
        world.undelivered(ONE, &quoted(&there));
        let next = world.request(TWO, "INVITE");
        is_busy(&mut world, &invite, TWO, &next);
        ends_empty(world);
    });
}

#[test]
fn of_several_branches_one_fails_and_the_others_go_on() {
    on_each_number_of_shards(|shards| {
        let to = format!("[\"sip:a@{BOB}\", \"sip:b@{CAROL}\"]\nfork = \"parallel\"");
        let mut world = world(shards, &table(&to));
        let invite = invites(&mut world);
        let (there, other) = (world.request(BOB, "INVITE"), world.request(CAROL, "INVITE"));
        world.undelivered(BOB, &quoted(&there));
        world.silent();
        is_busy(&mut world, &invite, CAROL, &other);
        assert_eq!(counts(&world), [1, 0, 0, 0]);
        ends_empty(world);
    });
}

#[test]
fn where_nobody_else_is_left_it_is_as_if_a_503_had_come() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = invites(&mut world);
        let there = world.request(BOB, "INVITE");
        world.undelivered(BOB, &quoted(&there));
        let failure = fails(&mut world, &invite, 500);
        assert_eq!(failure.get("Retry-After"), None, "others can be reached");
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@example.com", "m1"));
        let there = world.request(BOB, "MESSAGE");
        world.undelivered(BOB, &quoted(&there));
        world.response(ALICE, 500);
        assert_eq!(counts(&world), [2, 0, 0, 0]);
        ends_empty(world);
    });
}

#[test]
fn who_has_said_anything_was_there() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let invite = invites(&mut world);
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reply(&there, 100, "", BOB));
        world.undelivered(BOB, &quoted(&there));
        assert_eq!(counts(&world), [0, 1, 0, 0]);
        world.silent();
        world.udp(BOB, &reply(&there, 486, "b", BOB));
        let ack = world.request(BOB, "ACK");
        fails(&mut world, &invite, 486);
        // Of an ACK that is lost the failure comes again, and so does the ACK.
        world.undelivered(BOB, &quoted(&ack));
        assert_eq!(counts(&world), [0, 1, 1, 0]);
        world.udp(BOB, &reply(&there, 486, "b", BOB));
        world.request(BOB, "ACK");
        ends_empty(world);
    });
}

#[test]
fn what_is_forged_changes_nothing() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &two(""));
        let invite = invites(&mut world);
        let there = world.request(ONE, "INVITE");
        let via = there.text("Via").to_owned();
        let digit = via.find("branch=z9hG4bK").expect("a branch of ours") + "branch=z9hG4bK".len();
        let changed = |at: usize| {
            let mut via = via.clone().into_bytes();
            via[at] = if via[at] == b'0' { b'1' } else { b'0' };
            String::from_utf8(via).expect("digits")
        };
        let branches = (digit..digit + 32).map(|at| there.clone().setting("Via", changed(at)));
        let mut forgeries: Vec<Vec<u8>> = branches.map(|message| quoted(&message)).collect();
        let whole = there.to_bytes();
        let via_at = whole
            .windows(4)
            .position(|four| four == b"Via:")
            .expect("it has one");
        forgeries.extend((0..via_at + 5).map(|len| whole[..len].to_vec()));
        forgeries.push(quoted(&ask("INVITE", "sip:+4930123@example.com", "c1")));
        forgeries.push(b"\0\x01\0\0".to_vec());
        // The transaction is of another method.
        forgeries.push(
            String::from_utf8(quoted(&there))
                .expect("text")
                .replacen("INVITE", "OPTIONS", 1)
                .into(),
        );
        let count = forgeries.len() as u64;
        for forged in forgeries {
            world.undelivered(ONE, &forged);
        }
        // It was sent to nobody else.
        for other in [TWO, "127.0.0.11:5061", "[::1]:5060"] {
            world.undelivered(other, &quoted(&there));
        }
        assert_eq!(counts(&world), [0, 0, 0, count + 3]);
        let cancel = String::from_utf8(quoted(&there))
            .expect("text")
            .replacen("INVITE", "CANCEL", 1);
        world.undelivered(ONE, cancel.as_bytes());
        world.undelivered(ONE, &quoted(&reply(&there, 200, "b", ONE)));
        assert_eq!(counts(&world), [0, 0, 2, count + 3]);
        world.silent();
        is_busy(&mut world, &invite, ONE, &there);
        ends_empty(world);
    });
}
