//! Flows: RFC 5626 §6.

use super::*;

const DEVICE: &str = "+sip.instance=\"<urn:uuid:1>\"";
const VIA: &str = "Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK2";
const OUTBOUND: &str = "Supported: path, outbound";

fn contact(uri: &str, reg_id: &str) -> String {
    format!("Contact: <{uri}>;{DEVICE};reg-id={reg_id};expires=600")
}

/// What a 200 to a request with these lines says of it.
fn said(cfg: &Config, lines: &[&str]) -> String {
    let mut text = String::from(
        "REGISTER sip:one.att.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=f\r\n\
         To: <sip:a@b>\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\n",
    );
    for line in lines {
        text += line;
        text += "\r\n";
    }
    text += "\r\n";
    let mut table = Table::new();
    scan(text.as_bytes(), &mut table).expect("a message");
    let request = Request::check(Message::new(text.as_bytes(), &table)).expect("a request");
    let mut buf = [0; 256];
    let mut w = Writer::new(&mut buf);
    put_outbound(cfg, &request, &mut w);
    let len = w.finish().expect("room");
    String::from_utf8(buf[..len].to_vec()).expect("ASCII")
}

#[test]
fn a_flow_is_named_by_device_and_number_and_each_stays_beside_the_others() {
    let mut rig = Rig::new();
    rig.register_as(ALICE, "c1", 1, &[&contact("sip:a@192.0.2.1", "1")])
        .expect("registered");
    rig.register_as(ALICE, "c2", 1, &[&contact("sip:a@192.0.2.1", "2")])
        .expect("a second flow");
    assert_eq!(rig.look_up(ALICE).1, ["sip:a@192.0.2.1", "sip:a@192.0.2.1"]);
    // §6: it is the same binding whatever its URI is now.
    rig.register_as(ALICE, "c2", 2, &[&contact("sip:a@192.0.2.7", "2")])
        .expect("refreshed");
    let mut set = ContactSet::new();
    rig.location.look_up(rig.key(ALICE), &rig.pool, rig.now, &mut set);
    let found: Vec<_> = set.iter().map(|contact| (contact.uri, contact.is_flow)).collect();
    assert_eq!(
        found,
        [(&b"sip:a@192.0.2.7"[..], true), (&b"sip:a@192.0.2.1"[..], true)]
    );
    let contacts: Vec<_> = set.iter().collect();
    assert!(set.is_first_of_device(0, &contacts[0]) && !set.is_first_of_device(1, &contacts[1]));
    assert_eq!(
        set.others_of(contacts[0].device).collect::<Vec<_>>(),
        [contacts[1]]
    );
    assert_eq!(set.others_of(0).count(), 0);
}

#[test]
fn a_number_that_is_none_or_without_a_device_is_passed_over() {
    for params in [
        format!("{DEVICE};reg-id=0"),
        format!("{DEVICE};reg-id=2147483648"),
        format!("{DEVICE};reg-id=x"),
        "reg-id=1".to_owned(),
    ] {
        let mut rig = Rig::new();
        let line = format!("Contact: <sip:a@192.0.2.1>;{params}");
        rig.register(1, &[&line, OUTBOUND]).expect("registered");
        let mut set = ContactSet::new();
        rig.location.look_up(rig.key(ALICE), &rig.pool, rig.now, &mut set);
        assert!(set.iter().all(|contact| !contact.is_flow), "{params}");
        assert_eq!(said(&rig.cfg, &[&line, OUTBOUND]), "", "{params}");
    }
}

#[test]
fn the_first_hop_must_know_of_flows() {
    let line = contact("sip:a@192.0.2.1", "1");
    let mut rig = Rig::new();
    assert_eq!(
        rig.register(1, &[VIA, &line, OUTBOUND]),
        Err(Refusal::FirstHopLacksOutbound)
    );
    let lacks = "Path: <sip:p@192.0.2.9;lr>";
    assert_eq!(
        rig.register(1, &[VIA, &line, OUTBOUND, lacks]),
        Err(Refusal::FirstHopLacksOutbound)
    );
    // Who does not insist is registered as ever.
    rig.register(1, &[VIA, &line]).expect("registered");
    rig.register_as(ALICE, "c2", 1, &[VIA, &contact("sip:a@192.0.2.1", "2")])
        .expect("the same contact");
    assert_eq!(rig.look_up(ALICE).1.len(), 1);
    let mut rig = Rig::new();
    let knows = "Path: <sip:p@192.0.2.8;lr>, <sip:token@192.0.2.9;lr;ob>";
    rig.register(1, &[VIA, &line, OUTBOUND, knows])
        .expect("registered");
    let mut set = ContactSet::new();
    rig.location.look_up(rig.key(ALICE), &rig.pool, rig.now, &mut set);
    let found: Vec<_> = set
        .iter()
        .map(|contact| (contact.is_flow, contact.path.len()))
        .collect();
    assert_eq!(
        found,
        [(false, knows.len() - "Path: ".len())],
        "the path leads there"
    );
}

#[test]
fn a_flow_is_registered_alone() {
    let flow = contact("sip:a@192.0.2.1", "1");
    let mut rig = Rig::new();
    let other = "Contact: <sip:a@192.0.2.2>;expires=600";
    assert_eq!(rig.register(1, &[other, &flow]), Err(Refusal::SeveralWithFlow));
    assert_eq!(rig.pool.in_use(), 0);
    let gone = "Contact: <sip:a@192.0.2.2>;expires=0";
    rig.register(1, &[gone, &flow])
        .expect("others may go at the same time");
    assert_eq!(rig.look_up(ALICE).1, ["sip:a@192.0.2.1"]);
}

#[test]
fn a_phone_hears_that_its_flow_is_kept_if_it_understands() {
    let line = contact("sip:a@192.0.2.1", "1");
    let mut cfg = Config::default();
    assert_eq!(said(&cfg, &[&line]), "");
    assert_eq!(said(&cfg, &[OUTBOUND]), "", "a query registers nothing");
    assert_eq!(said(&cfg, &[&line, OUTBOUND]), "Require: outbound\r\n");
    cfg.registrar.flow_timer_s = 120;
    assert_eq!(
        said(&cfg, &[&line, OUTBOUND]),
        "Require: outbound\r\nFlow-Timer: 120\r\n"
    );
}
