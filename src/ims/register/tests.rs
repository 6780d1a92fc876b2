use bench_harness::sip::Message;

use crate::ims::rig::{Rig, Sent, register, request};
use crate::location::{Aor, ContactSet, Outcome};
use crate::msg::uri::Uri;

const UE: &str = "182.0.123.58:5060";
const USER: &str = "13800011103";

fn lines(sent: &Sent) -> Vec<String> {
    let headers = sent.message.headers.iter().map(|header| header.line().to_owned());
    std::iter::once(sent.message.start.to_string())
        .chain(headers)
        .collect()
}

/// The status that the one answer to `message` has, and its reason phrase.
fn answered(rig: &mut Rig, message: &Message) -> (u16, String) {
    let sent = rig.udp(UE, message);
    assert_eq!(sent.len(), 1, "{sent:?}");
    let answer = &sent[0].message;
    assert!(answer.to_tag().is_some());
    (
        answer.status().expect("a response"),
        answer.reason().expect("a response").to_owned(),
    )
}

fn outcome(rig: &Rig, uri: &str) -> Outcome {
    let uri = Uri::parse(uri.as_bytes()).expect("a URI");
    let key = rig
        .ims
        .aors
        .key(&Aor::from_uri(&uri, &rig.stack.cfg).expect("a subscriber"));
    let mut set = ContactSet::new();
    rig.ims.location.look_up(key, &rig.out.pool, rig.now, &mut set);
    set.outcome()
}

#[test]
fn the_200_is_that_of_the_capture() {
    let mut rig = Rig::new();
    let params = ";+g.3gpp.smsip;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video;\
        +g-3gpp-ps-data-off=\"inactive\";+sip.instance=\"<urn:gsma:imei:86539405-000273-0>\"";
    let from = "<sip:13800011103@one.att.net>;tag=4VWkdTHOF9.Odc";
    let via = "SIP/2.0/TCP 182.0.123.58:5060;branch=z9hG4bKLeyx3ZsUUnRM5mcCeQo69uP";
    let asked = Message::request("REGISTER", "sip:one.att.net")
        .with("From", from)
        .with("To", "<sip:13800011103@one.att.net>")
        .with("Call-ID", "XP0VHy42Rr8GeaFMRdy@182.0.123.58")
        .with("CSeq", "1 REGISTER")
        .with("Via", via)
        .with("Contact", format!("<sip:13800011103@182.0.123.58:5060>{params}"))
        .with("Content-Length", 0);
    let sent = rig.tcp("182.0.123.58:40001", 3, &asked);
    assert_eq!(sent.len(), 1);
    assert_eq!(
        sent[0].flow.conn.map(|conn| conn.slot),
        Some(3),
        "on the same connection"
    );
    let tag = sent[0].message.to_tag().expect("a tag");
    assert_eq!(
        lines(&sent[0]),
        [
            "SIP/2.0 200 OK",
            &format!("Via: {via}"),
            &format!("From: {from}"),
            &format!("To: <sip:13800011103@one.att.net>;tag={tag}"),
            "Call-ID: XP0VHy42Rr8GeaFMRdy@182.0.123.58",
            "CSeq: 1 REGISTER",
            &format!("Contact: <sip:13800011103@182.0.123.58:5060>;expires=600000{params}"),
            "Date: Fri, 15 Jan 2027 08:00:00 GMT",
            "Content-Length: 0",
        ]
    );
    assert_eq!(rig.stack.metrics.registrations_added.get(), 1);
    rig.end();
}

#[test]
fn a_retransmission_gets_the_same_answer() {
    let mut rig = Rig::new();
    let asked = register(USER, UE, 1, "");
    let first = rig.udp(UE, &asked);
    let again = rig.udp(UE, &asked);
    assert_eq!(lines(&first[0]), lines(&again[0]));
    rig.end();
}

#[test]
fn a_domain_that_is_not_served_here_is_not_found() {
    let mut rig = Rig::new();
    let not_served = (404, "Domain Not Served Here".to_owned());
    let to = |text: &str| register(USER, UE, 1, "").setting("To", text);
    let at = |uri: &str| {
        let start = Message::request("REGISTER", uri).start;
        Message {
            start,
            ..register(USER, UE, 1, "")
        }
        .setting("Via", format!("SIP/2.0/UDP {UE};branch=z9hG4bK{uri}"))
    };
    assert_eq!(answered(&mut rig, &at("sip:elsewhere.example")), not_served);
    for (asked, expected) in [
        (to("<sip:a@elsewhere.example>"), not_served.clone()),
        (to("<sip:one.att.net>"), (404, "No User In URI".into())),
        (
            to("<mailto:a@one.att.net>"),
            (400, "Unsupported URI Scheme".into()),
        ),
        (
            to(&format!("<sip:{}@one.att.net>", "a".repeat(128))),
            (400, "User And Domain Too Long".into()),
        ),
    ] {
        let mut rig = Rig::new();
        assert_eq!(answered(&mut rig, &asked), expected);
        rig.end();
    }
    for uri in [
        "sip:ONE.att.net.",
        "sip:10.88.120.110",
        "sip:one.att.net;transport=tcp",
    ] {
        assert_eq!(answered(&mut rig, &at(uri)).0, 200, "{uri}");
    }
    rig.end();
}

#[test]
fn a_refusal_says_why_and_what_would_do() {
    let mut rig = Rig::new();
    let sent = rig.udp(UE, &register(USER, UE, 1, ";expires=10"));
    assert_eq!(
        (sent[0].message.status(), sent[0].message.text("Min-Expires")),
        (Some(423), "60")
    );
    assert_eq!(answered(&mut rig, &register(USER, UE, 5, "")).0, 200);
    let late = register(USER, UE, 4, ";expires=0");
    assert_eq!(answered(&mut rig, &late), (500, "CSeq Out Of Order".into()));
    let zipped = register(USER, UE, 6, "").with("Content-Encoding", "gzip");
    let sent = rig.udp(UE, &zipped);
    assert_eq!(
        (sent[0].message.status(), sent[0].message.text("Accept-Encoding")),
        (Some(415), "identity")
    );
    assert_eq!(outcome(&rig, "tel:13800011103"), Outcome::Contacts);
    rig.end();
}

#[test]
fn one_may_register_for_another_and_the_number_is_a_name_of_the_same_subscriber() {
    let mut rig = Rig::new();
    let asked =
        register("operator", UE, 1, "").setting("To", "<tel:138-0001-1103;phone-context=one.att.net>");
    assert_eq!(answered(&mut rig, &asked).0, 200);
    assert_eq!(outcome(&rig, "sip:13800011103@one.att.net"), Outcome::Contacts);
    assert_eq!(outcome(&rig, "sip:operator@one.att.net"), Outcome::Unknown);
    let all_off = register(USER, UE, 1, "")
        .setting("Contact", "*")
        .with("Expires", 0);
    assert_eq!(answered(&mut rig, &all_off).0, 200);
    assert_eq!(outcome(&rig, "sip:13800011103@one.att.net"), Outcome::Offline);
    assert_eq!(rig.stack.metrics.registrations_removed.get(), 1);
    rig.end();
}

#[test]
fn a_query_gets_every_contact_however_long_they_are() {
    let mut rig = Rig::new();
    for n in 0..8 {
        let params = format!(";n={n};x=\"{}\"", "y".repeat(1_300));
        let asked = register(USER, &format!("182.0.123.58:{}", 6_000 + n), n + 1, &params);
        assert_eq!(rig.udp(UE, &asked)[0].message.status(), Some(200));
    }
    let query = request("REGISTER", "sip:one.att.net", UE, USER, "other", 1).with("Content-Length", 0);
    let sent = rig.udp(UE, &query);
    let contacts = sent[0].message.get_all("Contact");
    assert_eq!(contacts.len(), 8);
    assert!(
        contacts
            .iter()
            .all(|contact| contact.contains(";expires=600000;n=") && contact.len() > 1_300)
    );
    rig.end();
}
