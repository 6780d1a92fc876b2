//! What a SUBSCRIBE may ask for.

use crate::ims::rig::request;

use super::*;

#[test]
fn what_cannot_be_a_subscription_is_refused_with_what_would_help() {
    let plain = || subscribe(USER, UE, "s1", 1, 600_000);
    let cases: [(Message, u16, &str, &str); 13] = [
        (plain().removing("Event"), 489, "Allow-Events", "reg"),
        (plain().setting("Event", "presence"), 489, "Allow-Events", "reg"),
        (
            plain().with("Accept", "application/pidf+xml, text/*"),
            406,
            "Accept",
            "application/reginfo+xml",
        ),
        (plain().setting("Expires", 59), 423, "Min-Expires", "60"),
        (plain().removing("Contact"), 400, "Content-Length", "0"),
        (
            plain().with("Contact", "<sip:b@192.0.2.1>"),
            400,
            "Content-Length",
            "0",
        ),
        (plain().setting("Contact", "*"), 400, "Content-Length", "0"),
        (
            plain().setting("Contact", "<sips:b@192.0.2.1>"),
            400,
            "Content-Length",
            "0",
        ),
        (
            plain().setting("Contact", "<sip:b@192.0.2.1;transport=sctp>"),
            400,
            "Content-Length",
            "0",
        ),
        (
            plain().setting("Contact", format!("<sip:b@{SERVER}>")),
            400,
            "Content-Length",
            "0",
        ),
        (
            plain().with("Record-Route", format!("<sip:192.0.2.1;x={}>", "y".repeat(4_500))),
            400,
            "Content-Length",
            "0",
        ),
        (
            plain().setting("To", format!("<sip:{USER}@one.att.net>;tag=nobody")),
            481,
            "Content-Length",
            "0",
        ),
        (
            subscribe(USER, UE, "s1", 1, 60).setting("From", format!("<sip:{}@x>;tag=1", "y".repeat(7_000))),
            400,
            "Content-Length",
            "0",
        ),
    ];
    for (asked, status, name, value) in cases {
        let mut rig = Rig::new();
        let sent = rig.udp(UE, &asked);
        assert_eq!(sent.len(), 1, "{asked:?}");
        assert_eq!(sent[0].message.status(), Some(status), "{asked:?}");
        assert_eq!(sent[0].message.text(name), value);
        assert!(sent[0].message.to_tag().is_some());
        rig.end();
    }
    for (uri, status) in [("sip:a@elsewhere.example", 404), ("sip:one.att.net", 404)] {
        let mut rig = Rig::new();
        let asked = request("SUBSCRIBE", uri, UE, USER, "s1", 1)
            .with("Event", "reg")
            .with("Contact", "<sip:a@192.0.2.1>");
        assert_eq!(rig.udp(UE, &asked)[0].message.status(), Some(status), "{uri}");
        rig.end();
    }
}

#[test]
fn an_accept_that_takes_the_document_will_do() {
    for accept in [
        "application/reginfo+xml",
        "text/plain, Application/RegInfo+XML;q=0.5",
        "application/*",
        "*/*",
    ] {
        let mut rig = Rig::new();
        let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000).with("Accept", accept));
        assert_eq!(sent[0].message.status(), Some(200), "{accept}");
        rig.end();
    }
    let mut rig = without_body();
    let sent = rig.udp(
        UE,
        &subscribe(USER, UE, "s1", 1, 600_000).with("Accept", "text/plain"),
    );
    assert_eq!(sent[0].message.status(), Some(200), "an empty body is of no type");
    rig.end();
}

#[test]
fn the_expiry_is_cut_and_has_a_default() {
    let mut rig = Rig::new();
    let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 1).removing("Expires"));
    assert_eq!(
        (sent[0].message.text("Expires"), state(&sent[1])),
        ("600000", "active;expires=599999")
    );
    let sent = rig.udp(UE, &subscribe(USER, UE, "s2", 1, 600_001));
    assert_eq!(sent[0].message.text("Expires"), "600000");
    let sent = rig.udp(
        UE,
        &subscribe(USER, UE, "s3", 1, 0)
            .removing("Expires")
            .with("expires", "0700"),
    );
    assert!(
        sent[0].message.lines("Expires").contains(&"expires: 0700"),
        "as it came: {:?}",
        sent[0]
    );
    rig.end();
}
