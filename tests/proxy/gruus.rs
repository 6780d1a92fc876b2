//! Requests to GRUUs through the proxy: RFC 5627 §6.1.

use crate::messages::*;
use crate::world::on_each_number_of_shards;
use crate::{REGISTERED, ask, ends_empty, reply, world};

const EDGE: &str = "127.0.0.6:5066";

#[test]
fn a_gruu_leads_to_one_phone() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let mut gruus = Vec::new();
        for (at, device) in [(BOB, 1), (BOB_TABLET, 2)] {
            world.udp(at, &register_device(at, device, &format!("r{device}"), 1));
            let ok = world.response(at, 200);
            let contacts = ok.get_all("Contact");
            let own = contacts
                .iter()
                .find(|contact| contact.contains(&format!("@{at}>")));
            let own = own.expect("its contact");
            gruus.push((at, quoted_uri(own, "pub-gruu").expect("a GRUU")));
            gruus.push((at, quoted_uri(own, "temp-gruu").expect("a GRUU")));
        }
        for (number, (at, uri)) in gruus.iter().enumerate() {
            world.udp(ALICE, &ask("MESSAGE", uri, &number.to_string()));
            let there = world.request(at, "MESSAGE");
            assert_eq!(there.uri(), Some(&*format!("sip:bob@{at}")));
            world.silent();
            world.udp(at, &reply(&there, 200, "b", at));
            world.response(ALICE, 200);
        }
        world.udp(ALICE, &ask("MESSAGE", "sip:bob@one.att.net;gr", "x"));
        world.response(ALICE, 404);
        world.udp(
            ALICE,
            &ask("MESSAGE", "sip:bob@one.att.net;gr=urn:uuid:other", "y"),
        );
        world.response(ALICE, 480);
        ends_empty(world);
    });
}

#[test]
fn within_a_dialog_the_route_decides_and_not_the_path() {
    on_each_number_of_shards(|shards| {
        let mut world = world(shards, REGISTERED);
        let register = register_device(BOB, 1, "r1", 1)
            .setting("Supported", "gruu, path")
            .inserting("Path", format!("<sip:{EDGE};lr>"));
        world.udp(EDGE, &forwarded(register, EDGE));
        let ok = world.response(EDGE, 200);
        let gruu = quoted_uri(ok.text("Contact"), "pub-gruu").expect("a GRUU");
        world.udp(ALICE, &ask("MESSAGE", &gruu, "1"));
        let there = world.request(EDGE, "MESSAGE");
        assert_eq!(there.get_all("Route"), [format!("<sip:{EDGE};lr>")]);
        world.udp(EDGE, &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        let other = "<sip:127.0.0.8:5068;lr>";
        world.udp(ALICE, &ask("MESSAGE", &gruu, "2").with("Route", other));
        let there = world.request("127.0.0.8:5068", "MESSAGE");
        assert_eq!(there.get_all("Route"), [other]);
        assert_eq!(there.uri(), Some(&*format!("sip:bob@{BOB}")));
        world.udp("127.0.0.8:5068", &reply(&there, 200, "b", BOB));
        world.response(ALICE, 200);
        ends_empty(world);
    });
}
