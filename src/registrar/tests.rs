use crate::location::{Aor, AorHasher, ContactEvent, ContactSet, Outcome};
use crate::msg::scan::{Message, Table, scan};
use crate::wire::{ConnId, ListenerId, ShardId};

use super::*;

mod limits;
mod model;
mod outbound;
mod paths;

/// A registrar without anything around it.
struct Rig {
    cfg: Config,
    location: Location,
    aors: AorHasher,
    wheel: Wheel<Timer>,
    pool: Pool,
    now: Instant,
    flow: Flow,
}

const ALICE: &str = "sip:alice@one.att.net";

impl Rig {
    fn new() -> Rig {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Rig {
        let mut cfg = Config {
            domains: vec!["one.att.net".into()],
            ..Config::default()
        };
        change(&mut cfg);
        let now = Instant::from_millis(1_800_000_000_000);
        Rig {
            location: Location::new(&cfg),
            cfg,
            aors: AorHasher::new([1, 2, 3, 4, 5, 6, 7, 8]),
            wheel: Wheel::new(now, 64),
            pool: Pool::new(1 << 24),
            now,
            flow: Flow {
                transport: Transport::Udp,
                listener: ListenerId(0),
                peer: "192.0.2.1:5060".parse().expect("an address"),
                conn: None,
            },
        }
    }

    fn key(&self, aor: &str) -> AorKey {
        let uri = Uri::parse(aor.as_bytes()).expect("a URI");
        self.aors
            .key(&Aor::from_uri(&uri, &self.cfg).expect("a subscriber of ours"))
    }

    /// A REGISTER of `aor` with Call-ID and CSeq number; `lines` are the header lines that matter.
    fn register_as(
        &mut self,
        aor: &str,
        call_id: &str,
        cseq: u32,
        lines: &[&str],
    ) -> Result<Committed, Refusal> {
        let mut text = format!(
            "REGISTER sip:one.att.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <{aor}>;tag=f\r\n\
             To: <{aor}>\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n"
        );
        for line in lines {
            text += line;
            text += "\r\n";
        }
        text += "\r\n";
        let mut table = Table::new();
        scan(text.as_bytes(), &mut table).expect("a message");
        let request = Request::check(Message::new(text.as_bytes(), &table)).expect("a request");
        let key = self.key(aor);
        let Rig {
            cfg,
            location,
            wheel,
            pool,
            now,
            flow,
            ..
        } = self;
        process(
            location,
            cfg,
            &request,
            key,
            (*flow, flow.peer),
            wheel,
            pool,
            *now,
        )
    }

    /// For a subscriber and Call-ID that don't matter. What went is forgotten.
    fn register(&mut self, cseq: u32, lines: &[&str]) -> Result<Committed, Refusal> {
        let done = self.register_as(ALICE, "c1", cseq, lines);
        self.location.release_removed(&mut self.pool);
        done
    }

    /// What a 200 would say.
    fn contacts(&self) -> Vec<String> {
        self.contacts_of(ALICE)
    }

    fn contacts_of(&self, aor: &str) -> Vec<String> {
        let key = self.key(aor);
        let mut buf = [0; 16_384];
        let mut w = Writer::new(&mut buf);
        put_contacts(&self.location, key, None, &self.pool, self.now, &mut w);
        let len = w.finish().expect("room");
        assert!(len <= contacts_size(&self.location, key, None, &self.pool, self.now));
        let text = String::from_utf8(buf[..len].to_vec()).expect("ASCII");
        text.lines()
            .map(|line| line.strip_prefix("Contact: ").expect("a Contact").to_owned())
            .collect()
    }

    /// What a caller would find, in the order of ringing.
    fn look_up(&self, aor: &str) -> (Outcome, Vec<String>) {
        let mut set = ContactSet::new();
        self.location
            .look_up(self.key(aor), &self.pool, self.now, &mut set);
        let uris = set
            .iter()
            .map(|contact| String::from_utf8_lossy(contact.uri).into_owned());
        (set.outcome(), uris.collect())
    }

    /// Lets time pass and runs the timers; counts the bindings that expired.
    fn advance(&mut self, seconds: u64) -> usize {
        let mut expired = 0;
        self.now = self.now + Duration::from_secs(seconds);
        while let Some(timer) = self.wheel.pop(self.now) {
            let key = self.location.on_timer(timer, &mut self.wheel, self.now);
            assert_eq!(key.is_some(), !self.location.removed().is_empty());
            expired += self.location.removed().len();
            self.location.release_removed(&mut self.pool);
        }
        expired
    }
}

const REFUSED: [(Refusal, u16); 14] = [
    (Refusal::ContentEncoding, 415),
    (Refusal::MalformedContact, 400),
    (Refusal::Star, 400),
    (Refusal::ContactTooLong, 400),
    (Refusal::IntervalTooBrief, 423),
    (Refusal::OutOfOrder, 500),
    (Refusal::TooManyContacts, 403),
    (Refusal::Full, 503),
    (Refusal::PathNotSupported, 420),
    (Refusal::MalformedPath, 400),
    (Refusal::PathTooLong, 400),
    (Refusal::FirstHopLacksOutbound, 439),
    (Refusal::SeveralWithFlow, 400),
    (Refusal::Circular, 403),
];

#[test]
fn every_refusal_has_its_status_and_the_headers_that_go_with_it() {
    for (refusal, status) in REFUSED {
        assert_eq!(refusal.status(), status);
        let mut buf = [0; 128];
        let mut w = Writer::new(&mut buf);
        refusal.put_headers(60, &mut w);
        let headers = match status {
            415 => "Accept-Encoding: identity\r\n",
            420 => "Unsupported: path\r\n",
            423 => "Min-Expires: 60\r\n",
            503 => "Retry-After: 60\r\n",
            _ => "",
        };
        let len = w.finish().expect("room");
        assert_eq!(&buf[..len], headers.as_bytes());
    }
}

#[test]
fn the_contact_of_the_capture_comes_back_with_all_its_feature_parameters() {
    let mut rig = Rig::new();
    let contact = "Contact: <sip:13800011103@182.0.123.58:5060>;+g.3gpp.smsip;\
        +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video;\
        +g-3gpp-ps-data-off=\"inactive\";+sip.instance=\"<urn:gsma:imei:86539405-000273-0>\"";
    let done = rig.register(1, &[contact]).expect("registered");
    assert_eq!(
        done,
        Committed {
            added: 1,
            removed: 0,
            changed: true
        }
    );
    assert_eq!(
        rig.contacts(),
        [
            "<sip:13800011103@182.0.123.58:5060>;expires=600000;+g.3gpp.smsip;\
            +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video;\
            +g-3gpp-ps-data-off=\"inactive\";+sip.instance=\"<urn:gsma:imei:86539405-000273-0>\""
        ]
    );
}

#[test]
fn parameters_go_back_once_and_without_the_expiry_that_was_asked_for() {
    let mut rig = Rig::new();
    rig.register(
        1,
        &["m: \"A, B\" <sip:a@192.0.2.1>;Expires=700000 ; q = 0.5;\r\n x=\"a;expires=1\";Q=0.7;ob"],
    )
    .expect("registered");
    assert_eq!(
        rig.contacts(),
        ["<sip:a@192.0.2.1>;expires=600000;q=0.5;x=\"a;expires=1\";ob"]
    );
    assert_eq!(
        rig.register(2, &[]),
        Ok(Committed::default()),
        "a query changes nothing"
    );
    assert_eq!(rig.contacts().len(), 1);
}

#[test]
fn the_expiry_is_the_parameters_then_the_headers_then_the_default() {
    for (contact, header, granted) in [
        (";expires=90", "Expires: 100", 90),
        ("", "Expires: 100", 100),
        ("", "X: y", 600_000),
        (";expires=\"120\"", "Expires: 100", 120),
        (";expires=9999999999", "X: y", 600_000),
        // RFC 3261 §20.10: malformed is as good as the default.
        (";expires=soon", "Expires: 100", 600_000),
        ("", "Expires: Thu, 01 Dec 2044 16:00:00 GMT", 600_000),
        ("", "Expires: -1", 600_000),
    ] {
        let mut rig = Rig::new();
        rig.register(1, &[&format!("Contact: <sip:a@192.0.2.1>{contact}"), header])
            .expect("registered");
        assert_eq!(
            rig.contacts(),
            [format!("<sip:a@192.0.2.1>;expires={granted}")],
            "{contact} {header}"
        );
    }
}

#[test]
fn an_interval_below_the_minimum_is_refused_unless_it_is_an_hour() {
    let mut rig = Rig::new();
    for brief in [
        "Contact: <sip:a@192.0.2.1>;expires=59",
        "Contact: <sip:a@192.0.2.1>;expires=1",
    ] {
        assert_eq!(rig.register(1, &[brief]), Err(Refusal::IntervalTooBrief));
    }
    assert!(
        rig.register(1, &["Contact: <sip:a@192.0.2.1>;expires=60"])
            .is_ok()
    );
    let mut rig = Rig::with(|cfg| cfg.registrar.expires_min_s = 7_200);
    assert_eq!(
        rig.register(1, &["Contact: <sip:a@192.0.2.1>", "Expires: 3599"]),
        Err(Refusal::IntervalTooBrief)
    );
    assert!(
        rig.register(1, &["Contact: <sip:a@192.0.2.1>", "Expires: 3600"])
            .is_ok()
    );
}

#[test]
fn contacts_are_rung_by_q_and_the_newest_first_among_equals() {
    let mut rig = Rig::new();
    rig.register(
        1,
        &["Contact: <sip:a@192.0.2.1>;q=0.5, <sip:b@192.0.2.1>;q=1.000, <sip:c@192.0.2.1>;q=0.501"],
    )
    .expect("registered");
    rig.advance(1);
    rig.register(
        2,
        &[
            "Contact: <sip:d@192.0.2.1>, <sip:e@192.0.2.1>;q=0",
            "Contact: <sip:f@192.0.2.1>;q=high",
        ],
    )
    .expect("registered");
    let order = ["f", "d", "b", "c", "a", "e"].map(|user| format!("sip:{user}@192.0.2.1"));
    assert_eq!(rig.look_up(ALICE), (Outcome::Contacts, order.to_vec()));
    rig.advance(1);
    rig.register(3, &["Contact: <sip:b@192.0.2.1>"])
        .expect("refreshed");
    assert_eq!(rig.look_up(ALICE).1[0], "sip:b@192.0.2.1");
    assert_eq!(
        rig.contacts().len(),
        6,
        "all of them, in the order of registering"
    );
    assert_eq!(rig.contacts()[0], "<sip:a@192.0.2.1>;expires=599998;q=0.5");
}

#[test]
fn a_refresh_is_found_by_the_comparison_of_uris() {
    let mut rig = Rig::new();
    rig.register(
        1,
        &["Contact: <sip:a@Phone.example:5070;transport=udp;x=1>;audio"],
    )
    .expect("registered");
    rig.advance(100);
    let refreshed = rig.register(
        2,
        &["Contact: <sip:%61@phone.EXAMPLE:5070;y=2;Transport=UDP>;audio"],
    );
    assert_eq!(
        refreshed,
        Ok(Committed {
            added: 0,
            removed: 0,
            changed: true
        }),
        "its words differ"
    );
    assert_eq!(
        rig.contacts(),
        ["<sip:%61@phone.EXAMPLE:5070;y=2;Transport=UDP>;expires=600000;audio"]
    );
    let refreshed = rig.register(
        3,
        &["Contact: <sip:%61@phone.EXAMPLE:5070;y=2;Transport=UDP>;expires=100;audio"],
    );
    assert_eq!(
        refreshed,
        Ok(Committed {
            added: 0,
            removed: 0,
            changed: false
        }),
        "only its time does"
    );
    let other = rig.register(4, &["Contact: <sip:a@phone.example;transport=udp>"]);
    assert_eq!(other.map(|done| done.added), Ok(1), "no port is another port");
}

#[test]
fn a_contact_spelled_as_before_is_refreshed_as_any_other() {
    for contact in [
        "<sip:alice@192.0.2.1>",
        "<sip:alice@192.0.2.1;transport=tcp>;audio",
        "<sip:alice@192.0.2.1:5060>;audio;q=0.7;+sip.instance=\"<urn:x:1>\"",
        "<sip:alice@192.0.2.1>;reg-id=1;+sip.instance=\"<urn:x:1>\"",
        "<sip:alice@192.0.2.1>;+sip.instance=\"<urn:x:1>\";+sip.instance=\"<urn:x:2>\"",
        "<sip:alice@192.0.2.1>;video;expires=7200;Q=0.5",
        "<sip:alice@192.0.2.1>;video ;audio",
    ] {
        for expiry in ["Expires: 7200", "Expires: 30", "Expires: 0", "Subject: none"] {
            let refreshed = |spelled: &str| {
                let mut rig = Rig::new();
                let first = rig.register(1, &[&format!("Contact: {contact}")]);
                assert_eq!(first.expect("a contact").added, 1);
                rig.advance(10);
                let done = rig
                    .register(2, &[&format!("Contact: {spelled}"), expiry])
                    .map(|done| (done.added, done.removed, done.changed));
                let in_use = rig.pool.in_use();
                let other = rig.register(3, &["Contact: <sip:alice@192.0.2.9>;+sip.instance=\"<urn:x:1>\""]);
                (done, in_use, other.is_ok(), rig.contacts(), rig.look_up(ALICE))
            };
            let as_before = refreshed(contact);
            assert_eq!(
                as_before,
                refreshed(&format!("\"\" {contact}")),
                "{contact} {expiry}"
            );
        }
    }
}

#[test]
fn a_contact_is_removed_by_a_zero_and_all_by_a_star() {
    let mut rig = Rig::new();
    let three = "Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>, <sip:c@192.0.2.1>";
    rig.register(1, &[three]).expect("registered");
    let done = rig.register(
        2,
        &["Contact: <sip:b@192.0.2.1>;expires=0, <sip:x@192.0.2.1>;expires=0"],
    );
    assert_eq!(
        done,
        Ok(Committed {
            added: 0,
            removed: 1,
            changed: true
        })
    );
    assert_eq!(rig.contacts().len(), 2);
    // RFC 3261 §10.3 step 6.
    for bad in [
        &["Contact: *"][..],
        &["Contact: *", "Expires: 1"],
        &["Contact: *", "Expires: x"],
    ] {
        assert_eq!(rig.register(3, bad), Err(Refusal::Star), "{bad:?}");
    }
    for bad in ["Contact: *, <sip:a@192.0.2.1>", "Contact: <sip:a@192.0.2.1>, *"] {
        assert!(rig.register(3, &[bad, "Expires: 0"]).is_err(), "{bad}");
    }
    assert_eq!(
        rig.register(1, &["Contact: *", "Expires: 0"]),
        Err(Refusal::OutOfOrder)
    );
    assert_eq!(rig.contacts().len(), 2);
    let done = rig.register(3, &["Contact: *", "Expires: 0"]);
    assert_eq!(
        done,
        Ok(Committed {
            added: 0,
            removed: 2,
            changed: true
        })
    );
    assert_eq!(rig.look_up(ALICE), (Outcome::Offline, vec![]));
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn a_star_from_another_boot_of_the_phone_needs_no_higher_cseq() {
    let mut rig = Rig::new();
    rig.register_as(ALICE, "c1", 900, &["Contact: <sip:a@192.0.2.1>"])
        .expect("registered");
    assert!(
        rig.register_as(ALICE, "c2", 1, &["Contact: *", "Expires: 0"])
            .is_ok()
    );
    assert!(rig.contacts().is_empty());
}

#[test]
fn an_older_request_of_the_same_phone_changes_nothing_at_all() {
    let mut rig = Rig::new();
    rig.register(5, &["Contact: <sip:a@192.0.2.1>;expires=1000"])
        .expect("registered");
    let before = rig.contacts();
    let late = ["Contact: <sip:new@192.0.2.1>, <sip:a@192.0.2.1>;expires=0"];
    assert_eq!(rig.register(4, &late), Err(Refusal::OutOfOrder));
    assert_eq!(
        rig.register(5, &late),
        Err(Refusal::OutOfOrder),
        "the same number says something else"
    );
    assert_eq!(rig.contacts(), before);
    assert_eq!(rig.pool.in_use(), 1);
    // Another Call-ID is another boot of the phone: its numbers begin anew.
    assert!(
        rig.register_as(ALICE, "c2", 1, &["Contact: <sip:a@192.0.2.1>;expires=0"])
            .is_ok()
    );
}

#[test]
fn the_very_same_request_again_is_answered_and_moves_nothing() {
    let mut rig = Rig::new();
    let lines = ["Contact: <sip:a@192.0.2.1>;expires=1000;audio"];
    rig.register(5, &lines).expect("registered");
    rig.advance(400);
    assert_eq!(rig.register(5, &lines), Ok(Committed::default()));
    assert_eq!(rig.contacts(), ["<sip:a@192.0.2.1>;expires=600;audio"]);
    assert_eq!(rig.pool.in_use(), 1);
}

#[test]
fn a_request_is_carried_out_whole_or_not_at_all() {
    let mut rig = Rig::new();
    rig.register(1, &["Contact: <sip:a@192.0.2.1>"])
        .expect("registered");
    let before = rig.contacts();
    let long = format!(
        "Contact: <sip:b@192.0.2.1>, <sip:c@192.0.2.1>;x=\"{}\"",
        "y".repeat(1_600)
    );
    for (bad, refusal) in [
        (
            "Contact: <sip:a@192.0.2.1>;expires=0, <sip:b@192.0.2.1>;expires=5",
            Refusal::IntervalTooBrief,
        ),
        (
            "Contact: <sip:a@192.0.2.1>;expires=0, <sip:b@192.0.2.1",
            Refusal::MalformedContact,
        ),
        ("Contact: <sip:b@192.0.2.1>, <sip:@:>", Refusal::MalformedContact),
        (&long, Refusal::ContactTooLong),
    ] {
        assert_eq!(rig.register(2, &[bad]), Err(refusal), "{bad}");
        assert_eq!((rig.contacts(), rig.pool.in_use()), (before.clone(), 1), "{bad}");
    }
    assert_eq!(
        rig.register(2, &["Contact: <sip:b@192.0.2.1>", "Content-Encoding: gzip"]),
        Err(Refusal::ContentEncoding)
    );
    assert!(
        rig.register(2, &["Contact: <sip:b@192.0.2.1>", "Content-Encoding: identity"])
            .is_ok()
    );
}

#[test]
fn the_same_contact_twice_in_one_request_counts_as_it_stands_last() {
    let mut rig = Rig::new();
    rig.register(
        1,
        &["Contact: <sip:a@192.0.2.1>;expires=100;x=1, <sip:a@192.0.2.1>;expires=200;x=2"],
    )
    .expect("registered");
    assert_eq!(rig.contacts(), ["<sip:a@192.0.2.1>;expires=200;x=2"]);
    rig.register(
        2,
        &["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>, <sip:b@192.0.2.1>;expires=0"],
    )
    .expect("refreshed");
    assert_eq!(rig.contacts(), ["<sip:a@192.0.2.1>;expires=600000"]);
    rig.register(3, &["Contact: <sip:a@192.0.2.1>, <sip:a@192.0.2.1>;expires=0"])
        .expect("removed");
    assert!(rig.contacts().is_empty());
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn a_device_that_comes_back_elsewhere_takes_the_place_of_its_old_contact() {
    let mut rig = Rig::new();
    let at = |host: &str, more: &str| format!("Contact: <sip:a@{host}>;+sip.instance=\"<urn:uuid:1>\"{more}");
    rig.register_as(ALICE, "boot1", 1, &[&at("192.0.2.1", "")])
        .expect("registered");
    let done = rig.register_as(ALICE, "boot2", 1, &[&at("192.0.2.2", "")]);
    assert_eq!(
        done,
        Ok(Committed {
            added: 1,
            removed: 1,
            changed: true
        })
    );
    let removed = rig.location.removed();
    assert_eq!(removed[0].event, ContactEvent::Unregistered);
    assert_eq!(removed[0].binding.said.text.uri(&rig.pool), b"sip:a@192.0.2.1");
    rig.location.release_removed(&mut rig.pool);
    assert_eq!(rig.look_up(ALICE).1, ["sip:a@192.0.2.2"]);
    // Another device of the same subscriber stays.
    rig.register_as(
        ALICE,
        "other",
        1,
        &["Contact: <sip:a@192.0.2.3>;+sip.instance=\"<urn:uuid:2>\""],
    )
    .expect("registered");
    assert_eq!(rig.look_up(ALICE).1.len(), 2);
    // A device may take its binding away from where it is now.
    rig.register_as(ALICE, "boot3", 1, &[&at("192.0.2.9", ";expires=0")])
        .expect("removed");
    assert_eq!(rig.look_up(ALICE).1, ["sip:a@192.0.2.3"]);
}

#[test]
fn a_device_may_register_two_contacts_in_one_request() {
    let mut rig = Rig::new();
    let both = |cseq: u32| {
        let contact = |transport: &str| {
            format!("<sip:a@192.0.2.1;transport={transport}>;+sip.instance=\"<urn:uuid:1>\";x={cseq}")
        };
        format!("Contact: {}, {}", contact("udp"), contact("tcp"))
    };
    rig.register(1, &[&both(1)]).expect("registered");
    assert_eq!(rig.contacts().len(), 2);
    assert_eq!(
        rig.register(2, &[&both(2)]),
        Ok(Committed {
            added: 0,
            removed: 0,
            changed: true
        })
    );
    assert_eq!(rig.contacts().len(), 2);
}

#[test]
fn the_flows_of_one_device_are_told_apart_by_reg_id() {
    let mut rig = Rig::new();
    let flow = |reg_id: u32, x: u32| {
        format!(
            "Contact: <sip:a@192.0.2.1;transport=tcp>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id};x={x}"
        )
    };
    rig.register_as(ALICE, "f1", 1, &[&flow(1, 1)])
        .expect("registered");
    rig.register_as(ALICE, "f2", 1, &[&flow(2, 1)])
        .expect("registered");
    assert_eq!(rig.contacts().len(), 2, "one URI, two flows");
    rig.register_as(ALICE, "f3", 1, &[&flow(2, 7)])
        .expect("refreshed");
    let contacts = rig.contacts();
    assert_eq!(contacts.len(), 2);
    assert!(
        contacts[0].ends_with("x=1") && contacts[1].ends_with("x=7"),
        "{contacts:?}"
    );
}

#[test]
fn what_a_phone_registered_through_is_found_with_its_contact() {
    let mut rig = Rig::new();
    let conn = ConnId {
        shard: ShardId(1),
        slot: 2,
        generation: 3,
    };
    rig.flow = Flow {
        transport: Transport::Tcp,
        conn: Some(conn),
        ..rig.flow
    };
    rig.register(
        1,
        &["Contact: <sip:a@192.0.2.1>, <sip:a@192.0.2.1;Transport=TCP>;q=0.1"],
    )
    .expect("registered");
    let mut set = ContactSet::new();
    rig.location.look_up(rig.key(ALICE), &rig.pool, rig.now, &mut set);
    let found: Vec<_> = set
        .iter()
        .map(|contact| (contact.tcp, contact.flow, contact.q))
        .collect();
    assert_eq!(found, [(false, rig.flow, 1_000), (true, rig.flow, 100)]);
}
