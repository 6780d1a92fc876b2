//! Answers that can't go back where their request came from: RFC 3261 §18.2.2, RFC 3263 §5.

use std::net::SocketAddr;

use bench_harness::sip::Message;
use ringway::domain::{Answer, Record};
use ringway::metrics::in_all;

use crate::messages::*;
use crate::names::Zone;
use crate::world::{SERVER, World, on_each_number_of_shards};
use crate::{TO_BOB, ask, ends_empty, reply, world};

/// One host of a cluster sends a request, and is gone before the answer.
const SOURCE: &str = "127.0.0.2:40000";
const SOURCE_HOST: &str = "127.0.0.2";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn via(transport: &str, sent_by: &str, branch: &str) -> String {
    format!("SIP/2.0/{transport} {sent_by};branch=z9hG4bK{branch}")
}

/// The request of a host that has gone since; BOB has it. Nothing but its answers is under way.
fn asked_by_the_gone(world: &mut World, sent_by: &str, call_id: &str) -> Message {
    let request = ask("MESSAGE", "sip:bob@example.com", call_id).setting("Via", via("TCP", sent_by, call_id));
    world.tcp(SOURCE, &request);
    world.close(SOURCE);
    let port = sent_by.split_once(':').map_or("5060", |(_, port)| port);
    world.unreachable.push(addr(&format!("{SOURCE_HOST}:{port}")));
    world.request(BOB, "MESSAGE")
}

fn rerouted(world: &World) -> u64 {
    in_all(&world.shards.metrics, |m| m.answers_rerouted.get())
}

#[test]
fn the_host_that_asked_is_connected_to_first() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let there = asked_by_the_gone(&mut world, "cluster.example:5080", "w1");
        world.unreachable.clear();
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        let ok = world.response("127.0.0.2:5080", 200);
        assert!(
            ok.text("Via").contains(";received=127.0.0.2"),
            "{}",
            ok.text("Via")
        );
        let mut zone = Zone::default();
        zone.serve(&mut world, shards);
        assert_eq!((rerouted(&world), zone.asked), (0, 0));
        ends_empty(world);
    });
}

#[test]
fn a_name_with_a_port_is_looked_up_and_its_addresses_are_tried_in_turn() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let mut zone = Zone::default().with(
            "cluster.example",
            &[2, 21, 22, 23].map(|last| Record::A([127, 0, 0, last].into())),
        );
        let there = asked_by_the_gone(&mut world, "cluster.example:5080", "w1");
        world.unreachable.push(addr("127.0.0.21:5080"));
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.silent();
        zone.serve(&mut world, shards);
        let ok = world.response("127.0.0.22:5080", 200);
        assert_eq!(ok.get_all("Via").len(), 1);
        world.silent();
        assert_eq!(
            rerouted(&world),
            2,
            "the source, which is one of them, is not tried again"
        );
        // What DNS said is known to the shard: the next goes at once.
        let asked = zone.asked;
        let there = asked_by_the_gone(&mut world, "cluster.example:5080", "w2");
        world.udp(BOB, &reply(&there, 404, "b", BOB));
        if shards > 1 {
            zone.serve(&mut world, shards);
        }
        world.response("127.0.0.22:5080", 404);
        assert_eq!(rerouted(&world), 4);
        assert!(shards > 1 || zone.asked == asked);
        ends_empty(world);
    });
}

#[test]
fn a_name_without_a_port_is_looked_up_as_a_service_of_its_transport() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let mut zone = Zone::default()
            .service("_sip._udp.cluster.example", &[(1, 5077, "a.example")])
            .service(
                "_sip._tcp.cluster.example",
                &[(1, 5071, "a.example"), (2, 5072, "b.example")],
            )
            .host("a.example", 21)
            .host("b.example", 22);
        let there = asked_by_the_gone(&mut world, "cluster.example", "w1");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        world.response("127.0.0.21:5071", 200);
        world.unreachable.push(addr("127.0.0.21:5071"));
        let there = asked_by_the_gone(&mut world, "cluster.example", "w2");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        world.response("127.0.0.22:5072", 200);
        // Where there is no such service: the name itself, at the default port.
        let mut zone = Zone::default().host("lone.example", 23);
        let there = asked_by_the_gone(&mut world, "lone.example", "w3");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        world.response("127.0.0.23:5060", 200);
        ends_empty(world);
    });
}

#[test]
fn an_address_that_is_not_the_source_is_the_last_try() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let there = asked_by_the_gone(&mut world, "127.0.0.24:5084", "w1");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.response("127.0.0.24:5084", 200);
        // Nobody is left: not the source, not ourselves, no group of hosts.
        for (call_id, sent_by) in [
            ("w2", "127.0.0.2:5080"),
            ("w3", SERVER),
            ("w4", "224.0.1.75:5060"),
            ("w5", "0.0.0.0:5060"),
            ("w6", "127.0.0.24:0"),
        ] {
            let there = asked_by_the_gone(&mut world, sent_by, call_id);
            world.udp(BOB, &reply(&there, 200, "b", BOB));
            world.silent();
        }
        assert_eq!(rerouted(&world), 1);
        ends_empty(world);
    });
}

#[test]
fn the_answers_of_an_invite_go_elsewhere_too() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let mut zone = Zone::default().host("cluster.example", 21);
        let invite = invite("alice", ALICE, "sip:bob@example.com", "w1")
            .setting("Via", via("TCP", "cluster.example:5080", "w1"));
        world.tcp(SOURCE, &invite);
        world.response("127.0.0.2:5080", 100);
        world.close(SOURCE);
        world.unreachable.push(addr("127.0.0.2:5080"));
        let there = world.request(BOB, "INVITE");
        world.udp(BOB, &reply(&there, 180, "b", BOB));
        zone.serve(&mut world, shards);
        world.response("127.0.0.21:5080", 180);
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.response("127.0.0.21:5080", 200);
        // The copy that BOB sends for want of an ACK, too.
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.response("127.0.0.21:5080", 200);
        // A 100 is not worth the way, and the INVITE may come again from the other host, over any connection.
        ends_empty(world);
    });
}

#[test]
fn what_is_forwarded_without_state_comes_back_so_too() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, &format!("{TO_BOB}mode = \"stateless\"\n"));
        let mut zone = Zone::default().host("cluster.example", 21);
        let there = asked_by_the_gone(&mut world, "cluster.example:5080", "w1");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        world.response("127.0.0.21:5080", 200);
        // Somebody on the way took `received` out: the name is all that is left.
        let request = ask("MESSAGE", "sip:bob@example.com", "w2")
            .setting("Via", via("UDP", "cluster.example:5081", "w2"));
        world.udp("127.0.0.2:5081", &request);
        let there = world.request(BOB, "MESSAGE");
        let vias = there.get_all("Via");
        let mut ok = reply(&there, 200, "b", BOB);
        ok.remove("Via");
        ok.insert("Via", vias[0]);
        ok.insert("Via", request.text("Via"));
        world.udp(BOB, &ok);
        zone.serve(&mut world, shards);
        world.response("127.0.0.21:5081", 200);
        ends_empty(world);
    });
}

#[test]
fn a_datagram_that_the_kernel_has_no_way_for_goes_elsewhere() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let mut zone = Zone::default()
            .service("_sip._udp.cluster.example", &[(1, 5071, "a.example")])
            .host("a.example", 21);
        let request = ask("MESSAGE", "sip:bob@example.com", "w1")
            .setting("Via", via("UDP", "cluster.example;rport", "w1"));
        world.udp(SOURCE, &request);
        world.unreachable.push(addr(SOURCE));
        let there = world.request(BOB, "MESSAGE");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        world.response("127.0.0.21:5071", 200);
        ends_empty(world);
    });
}

#[test]
fn tries_have_an_end_whatever_dns_says() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let hosts: Vec<Record> = (100..140)
            .map(|last| Record::A([127, 0, 0, last].into()))
            .collect();
        for last in 100..140 {
            world.unreachable.push(addr(&format!("127.0.0.{last}:5080")));
        }
        let mut zone = Zone::default().with("cluster.example", &hosts);
        let there = asked_by_the_gone(&mut world, "cluster.example:5080", "w1");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        world.silent();
        assert_eq!(rerouted(&world), 4);
        // DNS knows nothing, or is silent: nothing is kept.
        let there = asked_by_the_gone(&mut world, "nobody.example:5080", "w2");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.serve(&mut world, shards);
        let there = asked_by_the_gone(&mut world, "mute.example:5080", "w3");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        zone.answer(&mut world, shards, |_, _| Answer::Failed);
        let there = asked_by_the_gone(&mut world, "silent.example:5080", "w4");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.silent();
        assert_eq!(rerouted(&world), 4);
        ends_empty(world);
    });
}

#[test]
fn an_answer_that_waits_for_dns_is_given_up_with_the_server() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        let there = asked_by_the_gone(&mut world, "cluster.example:5080", "w1");
        world.udp(BOB, &reply(&there, 200, "b", BOB));
        world.silent();
        world.end();
    });
}

#[test]
fn nothing_is_connected_to_by_sent_by_where_that_is_off() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, TO_BOB);
        world.reconfigure(|cfg| cfg.dns.response_failover = false);
        let mut zone = Zone::default().host("cluster.example", 21);
        for (call_id, sent_by) in [("w1", "cluster.example:5080"), ("w2", "127.0.0.24:5084")] {
            let there = asked_by_the_gone(&mut world, sent_by, call_id);
            world.udp(BOB, &reply(&there, 200, "b", BOB));
            zone.serve(&mut world, shards);
        }
        world.silent();
        assert_eq!((rerouted(&world), zone.asked), (0, 0));
        ends_empty(world);
    });
}

#[test]
fn what_is_refused_without_state_is_not_carried_elsewhere() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, "[[route]]\naction = \"reject\"\ncode = 403\n");
        world.unreachable.push(addr("127.0.0.2:5080"));
        world.unreachable.push(addr(SOURCE));
        let request = ask("MESSAGE", "sip:bob@example.com", "w1")
            .setting("Via", via("UDP", "127.0.0.24:5084;rport", "w1"));
        world.udp(SOURCE, &request);
        assert_eq!(rerouted(&world), 0);
        world.forget_waiting();
        ends_empty(world);
    });
}
