//! Where a NOTIFY goes, and what it says of whence it comes.

use crate::wire::Transport;

use super::*;

#[test]
fn the_event_goes_back_with_its_id() {
    let mut rig = Rig::new();
    let sent = rig.udp(
        UE,
        &subscribe(USER, UE, "s1", 1, 600_000).setting("Event", "Reg ; id=77"),
    );
    assert_eq!(sent[1].message.text("Event"), "Reg ; id=77");
    rig.end();
}

#[test]
fn the_route_set_of_the_subscriber_is_followed() {
    let mut rig = Rig::new();
    let routed = subscribe(USER, "phone.example", "s1", 1, 600_000)
        .with("Record-Route", "<sip:192.0.2.1:5070;lr>, <sip:192.0.2.2;lr>")
        .with("Record-Route", "<sip:192.0.2.3;lr>");
    let sent = rig.udp(UE, &routed);
    let notify = &sent[1];
    assert_eq!(
        notify.message.start.to_string(),
        format!("NOTIFY sip:{USER}@phone.example SIP/2.0")
    );
    assert_eq!(
        notify.message.text("Route"),
        "<sip:192.0.2.1:5070;lr>, <sip:192.0.2.2;lr>, <sip:192.0.2.3;lr>"
    );
    assert_eq!(notify.flow.peer.to_string(), "192.0.2.1:5070");
    rig.end();
}

#[test]
fn a_contact_that_is_a_name_is_reached_the_way_that_it_came_until_dns_has_answered() {
    let mut rig = Rig::new();
    let sent = rig.udp(UE, &subscribe(USER, "phone.example", "s1", 1, 600_000));
    assert_eq!(sent[1].flow, sent[0].flow);
    assert_eq!(rig.stack.dns.waiting(), 1);
    rig.end();
}

#[test]
fn a_notify_goes_over_the_subscribers_connection_where_its_contact_asks_for_tcp() {
    let tcp = |contact: &str| {
        subscribe(USER, UE, "s1", 1, 600_000)
            .setting("Via", format!("SIP/2.0/TCP {UE};branch=z9hG4bK1"))
            .setting("Contact", contact)
    };
    let mut rig = Rig::new();
    let sent = rig.tcp("182.0.123.58:40001", 7, &tcp("<sip:a@10.0.0.1;transport=tcp>"));
    assert_eq!(sent[0].flow.conn, sent[1].flow.conn);
    assert!(sent[1].flow.conn.is_some());
    assert!(sent[1].message.text("Via").starts_with("SIP/2.0/TCP "));
    rig.end();
    // The capture: what came over TCP is told over UDP when the contact does not say otherwise.
    let mut rig = Rig::new();
    let sent = rig.tcp("182.0.123.58:40001", 7, &tcp("<sip:a@182.0.123.58:5060>"));
    assert_eq!(
        (sent[1].flow.transport, sent[1].flow.conn),
        (Transport::Udp, None)
    );
    assert!(sent[1].message.text("Via").starts_with("SIP/2.0/UDP "));
    rig.end();
    // A proxy's connection is not the subscriber's.
    let mut rig = Rig::new();
    let proxied = tcp("<sip:a@10.0.0.1;transport=tcp>").with("Via", "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK2");
    let sent = rig.tcp("182.0.123.58:40001", 7, &proxied);
    assert_eq!(
        (sent[1].flow.peer.to_string().as_str(), sent[1].flow.conn),
        ("10.0.0.1:5060", None)
    );
    rig.end();
}

#[test]
fn the_contact_of_ours_is_the_address_that_was_asked_for() {
    let mut rig = Rig::new();
    for (uri, contact) in [
        ("sip:13800011103@one.att.net", "<sip:13800011103@one.att.net>"),
        (
            "tel:138-0001-1103;phone-context=one.att.net",
            "<sip:13800011103@one.att.net>",
        ),
        (
            "sip:13800011103;phone-context=one.att.net@one.att.net;user=phone",
            "<sip:13800011103@one.att.net>",
        ),
        ("sip:a%20b@10.88.120.110:5060", "<sip:a%20b@10.88.120.110:5060>"),
    ] {
        let asked = subscribe(USER, UE, uri, 1, 600_000);
        let asked = Message {
            start: Message::request("SUBSCRIBE", uri).start,
            ..asked.setting("Call-ID", uri.len())
        };
        let sent = rig.udp(
            UE,
            &asked.setting("Via", format!("SIP/2.0/UDP {UE};branch=z9hG4bK{}", uri.len())),
        );
        assert_eq!(sent[0].message.text("Contact"), contact, "{uri}");
        assert_eq!(sent[1].message.text("Contact"), contact, "{uri}");
    }
    rig.end();
    let mut rig = Rig::with(|cfg| cfg.domains.clear());
    for (uri, contact) in [
        ("tel:911;phone-context=any.example", "<sip:911@any.example>"),
        ("tel:+49-30", "<sip:+4930@10.88.120.110:5060>"),
    ] {
        let asked = Message {
            start: Message::request("SUBSCRIBE", uri).start,
            ..subscribe(USER, UE, "s1", 1, 600_000)
        };
        let sent = rig.udp(
            UE,
            &asked.setting("Via", format!("SIP/2.0/UDP {UE};branch=z9hG4bK{}", uri.len())),
        );
        assert_eq!(sent[0].message.text("Contact"), contact, "{uri}");
    }
    rig.end();
}
