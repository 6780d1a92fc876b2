//! What a trace sees of calls that the proxy forwards.

use ringway::capture::{Filter, TraceSet, TraceSlot};
use ringway::port::{Ask, RequestId, Tell};

use crate::messages::*;
use crate::world::{SERVER, World};
use crate::{CAROL, ask, ends_empty, reply, within, world};

const SLOT: TraceSlot = TraceSlot(3);

/// From where to where, and the first line, of each message told of since.
fn captured(world: &mut World) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    while let Some((tell, bytes)) = world.told(0) {
        let Tell::Captured {
            message,
            traces,
            call_len,
            ..
        } = tell
        else {
            continue;
        };
        assert_eq!(traces, TraceSet::of(SLOT));
        let (call, bytes) = bytes.split_at(call_len as usize);
        assert_eq!(call, b"c1");
        let line = bytes.split(|byte| *byte == b'\r').next().expect("a line");
        let words: Vec<_> = std::str::from_utf8(line).expect("text").split(' ').collect();
        let title = if words[0] == "SIP/2.0" { words[1] } else { words[0] };
        all.push((message.from.to_string(), message.to.to_string(), title.to_owned()));
    }
    all
}

#[test]
fn every_message_that_is_forwarded_is_seen_as_it_came_and_as_it_left() {
    let both = "[[route]]\naction = \"proxy\"\nto = [\"<sip:bob@127.0.0.3:5063>\", \"<sip:carol@127.0.0.5:5065>\"]\n";
    let mut world = world(1, both);
    let ask_trace = Ask::Trace {
        request: RequestId(1),
        slot: SLOT,
        filter: Box::new(Filter::CallId("c1".into())),
    };
    world.ask(0, ask_trace, b"");
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", "c1");
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    let [there, other] = [BOB, CAROL].map(|at| world.request(at, "INVITE"));
    world.udp(BOB, &reply(&there, 180, "b1", BOB));
    world.response(ALICE, 180);
    world.udp(BOB, &reply(&there, 200, "b1", BOB));
    let ok = world.response(ALICE, 200);
    world.udp(CAROL, &reply(&other, 180, "c", CAROL));
    world.request(CAROL, "CANCEL");
    world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
    world.request(BOB, "ACK");
    world.udp(ALICE, &within("BYE", 33303, &invite, &ok));
    let bye = world.request(BOB, "BYE");
    world.udp(BOB, &reply(&bye, 200, "b1", BOB));
    world.response(ALICE, 200);
    let mut seen = captured(&mut world);
    let mut wanted: Vec<(String, String, String)> = [
        (ALICE, SERVER, "INVITE"),
        (SERVER, ALICE, "100"),
        (SERVER, BOB, "INVITE"),
        (SERVER, CAROL, "INVITE"),
        (BOB, SERVER, "180"),
        (SERVER, ALICE, "180"),
        (BOB, SERVER, "200"),
        (SERVER, ALICE, "200"),
        (CAROL, SERVER, "180"),
        (SERVER, CAROL, "CANCEL"),
        (ALICE, SERVER, "ACK"),
        (SERVER, BOB, "ACK"),
        (ALICE, SERVER, "BYE"),
        (SERVER, BOB, "BYE"),
        (BOB, SERVER, "200"),
        (SERVER, ALICE, "200"),
    ]
    .map(|(from, to, title)| (from.to_owned(), to.to_owned(), title.to_owned()))
    .into();
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted);
    // Another call is none of it.
    world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net", "m1"));
    assert!(captured(&mut world).is_empty());
    world.ask(0, Ask::EndTrace { slot: SLOT }, b"");
    world.advance(100_000);
    world.forget_waiting();
    ends_empty(world);
}
