//! Host names on the way of a request: in its URI, its route, a contact, a redirection. RFC 3263.

use std::collections::BTreeMap;

use bench_harness::sip::Message;
use ringway::domain::{Answer, DomainName, Naptr, Question, Record, RecordType, Srv};
use ringway::metrics::DropReason;
use ringway::port::{Ask, Tell};
use ringway::wire::Transport;

use crate::messages::*;
use crate::world::{World, on_each_number_of_shards};
use crate::{ack_of, ask, ends_empty, reply, within, world};

const ONE: &str = "127.0.0.11:5070";
const TWO: &str = "127.0.0.12:5071";

/// All requests go where they say.
const ANYWHERE: &str = "[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\n";

/// DNS, as the control thread asks it.
#[derive(Default)]
pub struct Zone {
    answers: BTreeMap<(String, u8), Answer>,
    pub asked: usize,
}

fn name(text: &str) -> DomainName {
    DomainName::new(text.as_bytes()).expect("a name")
}

impl Zone {
    pub fn with(mut self, name: &str, records: &[Record]) -> Zone {
        let record_type = match records[0] {
            Record::A(_) => RecordType::A,
            Record::Aaaa(_) => RecordType::Aaaa,
            Record::Srv(_) => RecordType::Srv,
            Record::Naptr(_) => RecordType::Naptr,
        };
        let answer = Answer::Records {
            records: records.into(),
            ttl_s: 60,
        };
        self.answers.insert((name.to_owned(), record_type as u8), answer);
        self
    }

    pub fn host(self, host: &str, last: u8) -> Zone {
        self.with(host, &[Record::A([127, 0, 0, last].into())])
    }

    pub fn service(self, service: &str, hosts: &[(u16, u16, &str)]) -> Zone {
        let records: Vec<Record> = hosts
            .iter()
            .map(|(priority, port, host)| {
                Record::Srv(Srv {
                    priority: *priority,
                    weight: 0,
                    port: *port,
                    target: Some(name(host)),
                })
            })
            .collect();
        self.with(service, &records)
    }

    /// Two servers at ports of their own, the first before the second.
    fn two() -> Zone {
        Zone::default()
            .service(
                "_sip._udp.carrier.example",
                &[(1, 5070, "a.example"), (2, 5071, "b.example")],
            )
            .host("a.example", 11)
            .host("b.example", 12)
    }

    fn of(&self, question: &Question) -> Answer {
        let key = (question.name.as_str().to_owned(), question.record_type as u8);
        let nothing = Answer::Nothing { ttl_s: Some(60) };
        self.answers.get(&key).cloned().unwrap_or(nothing)
    }

    /// Answers whatever the shards ask, and what follows from that.
    pub fn serve(&mut self, world: &mut World, shards: usize) {
        self.answer(world, shards, |zone, question| zone.of(question));
    }

    pub fn answer(&mut self, world: &mut World, shards: usize, of: impl Fn(&Zone, &Question) -> Answer) {
        loop {
            let before = self.asked;
            for shard in 0..shards {
                while let Some((tell, _)) = world.told(shard) {
                    let Tell::Resolve(question) = tell else {
                        continue;
                    };
                    self.asked += 1;
                    let answer = of(self, &question);
                    world.ask(shard, Ask::Resolved(Box::new((*question, answer))), b"");
                }
            }
            if self.asked == before {
                return;
            }
        }
    }
}

fn invites(world: &mut World, uri: &str, call_id: &str) -> Message {
    let invite = invite("alice", ALICE, uri, call_id);
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

fn refuses(world: &mut World, at: &str, status: u16) {
    let there = world.request(at, "INVITE");
    world.udp(at, &reply(&there, status, "b", at));
    world.request(at, "ACK");
}

fn fails(world: &mut World, invite: &Message, status: u16) -> Message {
    let failure = world.response(ALICE, status);
    world.udp(ALICE, &ack_of(invite, &failure));
    failure
}

#[test]
fn a_request_uri_with_a_name_waits_for_dns_and_the_next_one_does_not() {
    on_each_number_of_shards(|shards| {
        let (mut world, mut zone) = (world(shards, ANYWHERE), Zone::two());
        let uri = "sip:bob@carrier.example";
        let invite = invites(&mut world, uri, "c1");
        world.silent();
        // It comes again meanwhile: one look-up, one INVITE in the end.
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        zone.serve(&mut world, shards);
        assert!(zone.asked > 0);
        let there = world.request(ONE, "INVITE");
        assert_eq!(there.uri(), Some(uri));
        assert_eq!(there.body, invite.body);
        let ok_there = reply(&there, 200, "b", "carrier.example");
        world.udp(ONE, &ok_there);
        let ok = world.response(ALICE, 200);
        // The contact is a name, so an ACK and a BYE find their way by it.
        world.udp(ALICE, &within("ACK", 33302, &invite, &ok));
        zone.serve(&mut world, shards);
        world.request(ONE, "ACK");
        world.udp(ALICE, &within("BYE", 33303, &invite, &ok));
        zone.serve(&mut world, shards);
        let bye = world.request(ONE, "BYE");
        world.udp(ONE, &reply(&bye, 200, "b", ONE));
        world.response(ALICE, 200);
        ends_empty(world);
    });
}

#[test]
fn when_one_address_fails_the_next_is_tried() {
    // RFC 3263 §4.3: a 503, a time-out, no way there.
    for how in ["503", "time-out", "refused"] {
        let (mut world, mut zone) = (world(1, ANYWHERE), Zone::two());
        if how == "refused" {
            zone = Zone::default()
                .service("_sip._tcp.carrier.example", &[(1, 5070, "a.example")])
                .service("_sip._udp.carrier.example", &[(2, 5071, "b.example")])
                .with(
                    "carrier.example",
                    &[
                        Record::Naptr(Naptr {
                            order: 1,
                            preference: 1,
                            transport: Transport::Tcp,
                            replacement: name("_sip._tcp.carrier.example"),
                        }),
                        Record::Naptr(Naptr {
                            order: 1,
                            preference: 2,
                            transport: Transport::Udp,
                            replacement: name("_sip._udp.carrier.example"),
                        }),
                    ],
                )
                .host("a.example", 11)
                .host("b.example", 12);
            world.refuses_connections = true;
        }
        let invite = invites(&mut world, "sip:bob@carrier.example", "c1");
        zone.serve(&mut world, 1);
        match how {
            "503" => refuses(&mut world, ONE, 503),
            "time-out" => {
                world.request(ONE, "INVITE");
                // Timer B.
                world.advance(32_001);
                while world.take_request(ONE, "INVITE").is_some() {}
            }
            _ => {}
        }
        refuses(&mut world, TWO, 486);
        fails(&mut world, &invite, 486);
        world.silent();
        ends_empty(world);
    }
}

/// RFC 3263 §4.3: what DNS says once the first target was tried changes nothing of the others.
#[test]
fn the_targets_are_tried_as_they_were_determined() {
    on_each_number_of_shards(|shards| {
        let of = |hosts: &[(u16, u16, &str)]| {
            Zone::default()
                .service("_sip._udp.carrier.example", hosts)
                .host("a.example", 11)
                .host("b.example", 12)
                .host("c.example", 13)
        };
        let all = [
            (1, 5070, "a.example"),
            (2, 5071, "b.example"),
            (3, 5072, "c.example"),
        ];
        let mut zone = of(&all);
        let mut world = world(shards, ANYWHERE);
        let invite = invites(&mut world, "sip:bob@carrier.example", "c1");
        zone.serve(&mut world, shards);
        let asked = zone.asked;
        // Another server stands first, the second is gone, and soon nothing is known of any.
        let mut changed = of(&[(1, 5072, "c.example"), (2, 5070, "a.example")]);
        for at in [ONE, TWO] {
            let there = world.request(at, "INVITE");
            world.udp(at, &reply(&there, 180, "b", at));
            world.response(ALICE, 180);
            // Longer than what DNS had said holds.
            world.advance(61_000);
            world.udp(at, &reply(&there, 503, "b", at));
            world.request(at, "ACK");
            if at == ONE {
                changed.serve(&mut world, shards);
            } else {
                zone.answer(&mut world, shards, |_, _| Answer::Failed);
            }
        }
        refuses(&mut world, "127.0.0.13:5072", 503);
        fails(&mut world, &invite, 500);
        world.silent();
        assert_eq!((zone.asked, changed.asked), (asked, 0), "DNS is not asked again");
        ends_empty(world);
    });
}

#[test]
fn busy_is_busy_at_every_address() {
    let (mut world, mut zone) = (world(1, ANYWHERE), Zone::two());
    let invite = invites(&mut world, "sip:bob@carrier.example", "c1");
    zone.serve(&mut world, 1);
    refuses(&mut world, ONE, 486);
    fails(&mut world, &invite, 486);
    world.silent();
    ends_empty(world);
}

#[test]
fn a_route_a_rule_a_contact_and_a_redirection_may_name_hosts() {
    let registered = "[[route]]\nmethod = [\"REGISTER\"]\naction = \"ims\"\n\
                      [[route]]\naction = \"proxy\"\nto = [\"registered\"]\n";
    on_each_number_of_shards(|shards| {
        // A Route header field.
        let (mut there, mut zone) = (world(shards, ANYWHERE), Zone::two());
        let mut routed = invite("alice", ALICE, "sip:bob@127.0.0.99", "route");
        routed.insert("Route", "<sip:carrier.example;lr>");
        there.udp(ALICE, &routed);
        there.response(ALICE, 100);
        zone.serve(&mut there, shards);
        refuses(&mut there, ONE, 486);
        fails(&mut there, &routed, 486);
        ends_empty(there);
        // A rule's next hop.
        let rule = "[[route]]\naction = \"proxy\"\nto = [\"sip:carrier.example\"]\n";
        let (mut there, mut zone) = (world(shards, rule), Zone::two());
        let ruled = invites(&mut there, "sip:+49@elsewhere.example", "rule");
        zone.serve(&mut there, shards);
        refuses(&mut there, ONE, 486);
        fails(&mut there, &ruled, 486);
        ends_empty(there);
        // A registered contact, beside one that is an address: both ring.
        let (mut there, mut zone) = (world(shards, registered), Zone::two());
        for (number, contact) in ["<sip:bob@carrier.example>", "<sip:bob@127.0.0.12:5071>"]
            .into_iter()
            .enumerate()
        {
            let register = register("bob", BOB, &format!("r{number}")).setting("Contact", contact);
            there.udp(BOB, &register);
            there.response(BOB, 200);
        }
        let called = invites(&mut there, "sip:bob@one.att.net", "contact");
        there.request(TWO, "INVITE");
        zone.serve(&mut there, shards);
        there.request(ONE, "INVITE");
        there.udp(ALICE, &cancel(&called));
        there.response(ALICE, 200);
        there.advance(64_000);
        there.forget_waiting();
        there.end();
        // Where a call is redirected to.
        let rule = "[[route]]\naction = \"proxy\"\nto = [\"sip:127.0.0.12:5071\"]\nrecurse = true\n";
        let (mut there, mut zone) = (world(shards, rule), Zone::two());
        let moved = invites(&mut there, "sip:bob@one.att.net", "moved");
        let first = there.request(TWO, "INVITE");
        let moves = reply(&first, 302, "b", TWO).setting("Contact", "<sip:new@carrier.example>");
        there.udp(TWO, &moves);
        there.request(TWO, "ACK");
        zone.serve(&mut there, shards);
        refuses(&mut there, ONE, 486);
        fails(&mut there, &moved, 486);
        ends_empty(there);
    });
}

#[test]
fn without_an_address_the_caller_is_told_so() {
    let (mut world, mut zone) = (world(1, ANYWHERE), Zone::default());
    let unknown = invites(&mut world, "sip:bob@nowhere.example", "c1");
    zone.serve(&mut world, 1);
    let failure = fails(&mut world, &unknown, 502);
    assert_eq!(failure.reason(), Some("Host Name Has No Address"));
    // It is known now.
    let asked = zone.asked;
    let again = invites(&mut world, "sip:bob@nowhere.example", "c2");
    fails(&mut world, &again, 502);
    zone.serve(&mut world, 1);
    assert_eq!(zone.asked, asked);
    // DNS fails.
    let failing = invites(&mut world, "sip:bob@failing.example", "c3");
    zone.answer(&mut world, 1, |_, _| Answer::Failed);
    let failure = fails(&mut world, &failing, 504);
    assert_eq!(failure.reason(), Some("DNS Did Not Answer"));
    // DNS keeps silent: each question has its time, and the caller an answer.
    let silent = invites(&mut world, "sip:bob@silent.example;transport=udp", "c4");
    world.advance(10_000);
    let failure = fails(&mut world, &silent, 504);
    assert_eq!(failure.reason(), Some("DNS Did Not Answer"));
    // It was sent more than once meanwhile.
    world.forget_waiting();
    // A transport that nobody speaks here, and a name that leads back here.
    let odd = invites(&mut world, "sip:bob@carrier.example;transport=sctp", "c5");
    fails(&mut world, &odd, 502);
    let port = crate::world::SERVER.rsplit_once(':').expect("a port").1;
    let ourselves = invites(&mut world, &format!("sip:bob@us.example:{port}"), "c6");
    let mut zone = Zone::default().host("us.example", 1);
    zone.serve(&mut world, 1);
    fails(&mut world, &ourselves, 482);
    while world.told(0).is_some() {}
    ends_empty(world);
}

#[test]
fn who_hangs_up_while_dns_is_asked_ends_the_call() {
    on_each_number_of_shards(|shards| {
        let (mut world, mut zone) = (world(shards, ANYWHERE), Zone::two());
        let invite = invites(&mut world, "sip:bob@carrier.example", "c1");
        world.udp(ALICE, &cancel(&invite));
        world.response(ALICE, 200);
        fails(&mut world, &invite, 487);
        // The answer comes for nobody.
        zone.serve(&mut world, shards);
        world.silent();
        ends_empty(world);
    });
}

#[test]
fn one_of_two_that_answers_leaves_the_name_alone() {
    let rule = "[[route]]\naction = \"proxy\"\nfork = \"parallel\"\n\
                to = [\"sip:a@127.0.0.12:5071\", \"sip:b@carrier.example\"]\n";
    let (mut world, mut zone) = (world(1, rule), Zone::two());
    let options = ask("OPTIONS", "sip:bob@one.att.net", "o1");
    world.udp(ALICE, &options);
    let there = world.request(TWO, "OPTIONS");
    world.udp(TWO, &reply(&there, 200, "b", TWO));
    world.response(ALICE, 200);
    zone.serve(&mut world, 1);
    world.silent();
    ends_empty(world);
}

#[test]
fn a_message_without_state_is_held_for_dns() {
    let table = format!("{ANYWHERE}mode = \"stateless\"\n");
    on_each_number_of_shards(|shards| {
        let (mut world, mut zone) = (world(shards, &table), Zone::two());
        let message = ask("MESSAGE", "sip:bob@carrier.example", "m1");
        world.udp(ALICE, &message);
        world.silent();
        zone.serve(&mut world, shards);
        let there = world.request(ONE, "MESSAGE");
        world.udp(ONE, &reply(&there, 200, "b", ONE));
        world.response(ALICE, 200);
        let unknown = ask("MESSAGE", "sip:bob@nowhere.example", "m2");
        world.udp(ALICE, &unknown);
        zone.serve(&mut world, shards);
        world.response(ALICE, 502);
        ends_empty(world);
    });
}

/// A CANCEL that overtook its INVITE waits for DNS; when the INVITE has come it is answered, and no second time for what DNS says.
#[test]
fn a_cancel_that_is_held_is_answered_once() {
    on_each_number_of_shards(|shards| {
        let invite = invite("alice", ALICE, "sip:bob@carrier.example", "c1");
        // It has come again, and was answered then.
        let mut world = world(shards, ANYWHERE);
        world.udp(ALICE, &cancel(&invite));
        world.silent();
        world.udp(ALICE, &invite);
        world.response(ALICE, 100);
        world.udp(ALICE, &cancel(&invite));
        world.response(ALICE, 200);
        let failure = world.response(ALICE, 487);
        world.udp(ALICE, &ack_of(&invite, &failure));
        Zone::default().answer(&mut world, shards, |_, _| Answer::Failed);
        world.silent();
        ends_empty(world);
    });
    on_each_number_of_shards(|shards| {
        let invite = invite("alice", ALICE, "sip:bob@carrier.example", "c1");
        // It has not: what was held finds the INVITE. DNS knows the name, or does not answer.
        for is_known in [true, false] {
            let (mut world, mut zone) = (world(shards, ANYWHERE), Zone::two());
            world.udp(ALICE, &cancel(&invite));
            world.udp(ALICE, &invite);
            world.response(ALICE, 100);
            world.advance(400);
            zone.answer(&mut world, shards, |zone, question| match is_known {
                true => zone.of(question),
                false => Answer::Failed,
            });
            let mut answers = [world.next(ALICE), world.next(ALICE)];
            answers.sort_by_key(|answer| answer.cseq().1 == "INVITE");
            let [of_cancel, of_invite] = answers;
            assert_eq!(
                (of_cancel.cseq().1, of_cancel.status()),
                ("CANCEL", Some(200)),
                "{of_cancel}"
            );
            // It came first, and is the first to go on.
            assert_eq!(of_invite.status(), Some(487));
            // Timer G counts from what DNS said, not from what came last.
            world.advance(490);
            world.silent();
            world.advance(20);
            world.response(ALICE, 487);
            world.udp(ALICE, &ack_of(&invite, &of_invite));
            world.silent();
            ends_empty(world);
        }
    });
}

#[test]
fn what_waits_for_dns_when_the_server_stops_is_given_up() {
    let mut stateful = world(2, ANYWHERE);
    invites(&mut stateful, "sip:bob@carrier.example", "c1");
    stateful.end();
    let table = format!("{ANYWHERE}mode = \"stateless\"\n");
    let mut stateless = world(2, &table);
    stateless.udp(ALICE, &ask("MESSAGE", "sip:bob@carrier.example", "m1"));
    assert_eq!(stateless.drops(DropReason::NoBuffer), 0);
    stateless.end();
}
