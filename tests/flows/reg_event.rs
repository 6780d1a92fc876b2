//! Watching a registration (RFC 3680, RFC 6665).

use bench_harness::failure::{Failure, Outcome, no_faults};
use bench_harness::links::Received;
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::sip::Message;
use bench_harness::{captured, contract, sip};

use crate::support::{Setup, alive, nothing_more, on_every_server, register_contact, registered, scene};

on_every_server![a_change_is_told_to_who_watches];

/// A subscription as the subscriber sees it.
struct Watch {
    subscribe: Message,
    accepted: Received,
    cseq: u32,
}

impl Watch {
    /// Subscribes for so long, and takes the first NOTIFY.
    fn begin(phone: &mut Phone, expires_s: u32) -> Outcome<(Watch, Received)> {
        let subscribe = captured::subscribe(phone, Udp).setting("Expires", expires_s);
        let accepted = phone.ask_for(&subscribe, Udp, 200)?;
        assert_eq!(accepted.text("Expires"), expires_s.to_string());
        let cseq = subscribe.cseq().0;
        let watch = Watch {
            subscribe,
            accepted,
            cseq,
        };
        let notify = watch.notified(phone)?;
        Ok((watch, notify))
    }

    /// The next NOTIFY of this subscription, answered.
    fn notified(&self, phone: &mut Phone) -> Outcome<Received> {
        let call_id = self.subscribe.text("Call-ID");
        let notify = phone.wait_for("a NOTIFY", |r| {
            r.is_request("NOTIFY") && r.text("Call-ID") == call_id
        })?;
        assert_eq!(notify.from_tag(), self.accepted.to_tag());
        assert_eq!(notify.to_tag(), self.subscribe.from_tag());
        phone.answers(&notify, 200, "OK")?;
        Ok(notify)
    }

    /// A SUBSCRIBE in the dialog: refreshes, or ends it with 0.
    fn again(&mut self, phone: &mut Phone, expires_s: u32) -> Message {
        self.cseq += 1;
        self.subscribe
            .clone()
            .setting("Via", phone.via(Udp))
            .setting("To", self.accepted.text("To"))
            .setting("CSeq", format!("{} SUBSCRIBE", self.cseq))
            .setting("Expires", expires_s)
    }
}

/// What a reginfo document says, as far as these tests look: its version, and each contact's URI, state and event.
#[derive(Debug, PartialEq, Eq)]
struct RegInfo {
    version: u32,
    aor: String,
    registration: String,
    contacts: Vec<(String, String, String)>,
}

fn reginfo(notify: &Received) -> RegInfo {
    assert_eq!(notify.text("Content-Type"), "application/reginfo+xml");
    let xml = String::from_utf8(notify.body.clone()).expect("XML is UTF-8");
    assert!(xml.contains("xmlns=\"urn:ietf:params:xml:ns:reginfo\""), "{xml}");
    let root = element(&xml, "reginfo").expect(&xml);
    assert_eq!(attribute(root, "state"), "full", "{xml}");
    let registration = element(&xml, "registration").expect(&xml);
    let mut contacts = Vec::new();
    let mut rest = xml.as_str();
    while let Some(at) = rest.find("<contact ").or_else(|| rest.find("<contact\n")) {
        rest = &rest[at..];
        let tag = element(rest, "contact").expect(&xml);
        assert!(
            !attribute(tag, "id").is_empty(),
            "RFC 3680 §5.3.2: a contact has an id: {xml}"
        );
        let inside = &rest[..rest.find("</contact>").expect(&xml)];
        let uri = inside
            .split_once("<uri>")
            .and_then(|(_, u)| u.split_once("</uri>"));
        let (uri, _) = uri.expect(&xml);
        contacts.push((
            uri.to_owned(),
            attribute(tag, "state").to_owned(),
            attribute(tag, "event").to_owned(),
        ));
        rest = &rest[tag.len()..];
    }
    contacts.sort();
    RegInfo {
        version: attribute(root, "version").parse().expect("a number"),
        aor: attribute(registration, "aor").to_owned(),
        registration: attribute(registration, "state").to_owned(),
        contacts,
    }
}

/// The start tag of the first element of that name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let open = format!("<{name}");
    let at = xml.match_indices(&open).map(|(at, _)| at).find(|at| {
        matches!(
            xml.as_bytes().get(at + open.len()),
            Some(b' ' | b'\r' | b'\n' | b'\t' | b'>' | b'/')
        )
    })?;
    Some(&xml[at..=at + xml[at..].find('>')?])
}

fn attribute<'a>(tag: &'a str, name: &str) -> &'a str {
    let with_equals = format!("{name}=\"");
    let found = tag
        .match_indices(&with_equals)
        .find(|(at, _)| tag[..*at].ends_with([' ', '\n', '\t']));
    let value = found.map(|(at, _)| &tag[at + with_equals.len()..]);
    value.and_then(|v| v.split_once('"')).map_or("", |(v, _)| v)
}

fn contact(uri: &str, state: &str, event: &str) -> (String, String, String) {
    (uri.to_owned(), state.to_owned(), event.to_owned())
}

fn ended(notify: &Received, reason: &str) {
    let state = notify.text("Subscription-State");
    assert_eq!(state.split(';').next(), Some("terminated"), "{state}");
    assert_eq!(sip::param(state, "reason"), Some(reason), "{state}");
}

fn a_change_is_told_to_who_watches(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let (ip, own) = (s.ue2.addr().ip(), s.ue2.contact());
        let (watch, first) = Watch::begin(&mut s.ue2, 600)?;
        no_faults(contract::notify(
            &watch.subscribe,
            &watch.accepted,
            &first,
            1,
            600,
            s.server.udp,
        ))?;
        let info = reginfo(&first);
        assert_eq!((info.version, info.registration.as_str()), (0, "active"));
        assert_eq!(info.aor, s.ue2.aor());
        assert_eq!(info.contacts, [contact(&own, "active", "registered")]);

        let second_uri = format!("sip:second@{ip}:7001");
        register_contact(&mut s.ue2, &format!("<{second_uri}>"), Udp)?;
        let second = watch.notified(&mut s.ue2)?;
        no_faults(contract::notify(
            &watch.subscribe,
            &watch.accepted,
            &second,
            2,
            600,
            s.server.udp,
        ))?;
        let info = reginfo(&second);
        assert_eq!(info.version, 1);
        let uris: Vec<&str> = info.contacts.iter().map(|(uri, _, _)| uri.as_str()).collect();
        assert_eq!(uris.len(), 2);
        assert!(uris.contains(&second_uri.as_str()) && info.contacts.iter().all(|c| c.1 == "active"));

        register_contact(&mut s.ue2, &format!("<{second_uri}>;expires=0"), Udp)?;
        let third = watch.notified(&mut s.ue2)?;
        let info = reginfo(&third);
        assert_eq!((info.version, third.cseq().0), (2, 3));
        assert_eq!(info.registration, "active");
        assert!(
            info.contacts
                .contains(&contact(&second_uri, "terminated", "unregistered")),
            "{info:?}"
        );

        let star = captured::register(&mut s.ue2, Udp)
            .setting("Contact", "*")
            .setting("Expires", 0);
        s.ue2.ask_for(&star, Udp, 200)?;
        let fourth = watch.notified(&mut s.ue2)?;
        let info = reginfo(&fourth);
        assert_eq!((info.version, info.registration.as_str()), (3, "terminated"));
        assert!(
            info.contacts
                .contains(&contact(&own, "terminated", "unregistered")),
            "{info:?}"
        );
        Ok(())
    });
}

#[test]
fn a_refresh_prolongs_the_subscription_and_tells_the_state_again() {
    registered(Setup::new(), |s| {
        let (mut watch, _) = Watch::begin(&mut s.ue2, 600)?;
        let refresh = watch.again(&mut s.ue2, 900);
        let accepted = s.ue2.ask_for(&refresh, Udp, 200)?;
        assert_eq!(accepted.text("Expires"), "900");
        assert_eq!(accepted.text("To"), watch.accepted.text("To"), "the tag stays");
        let notify = watch.notified(&mut s.ue2)?;
        no_faults(contract::notify(
            &watch.subscribe,
            &watch.accepted,
            &notify,
            2,
            900,
            s.server.udp,
        ))?;
        assert_eq!(reginfo(&notify).version, 1);
        Ok(())
    });
}

#[test]
fn unsubscribing_brings_a_last_notify_and_then_silence() {
    // RFC 6665 §4.1.2.3 and §4.4.1.
    registered(Setup::new(), |s| {
        let (mut watch, _) = Watch::begin(&mut s.ue2, 600)?;
        let end = watch.again(&mut s.ue2, 0);
        let accepted = s.ue2.ask_for(&end, Udp, 200)?;
        assert_eq!(accepted.text("Expires"), "0");
        ended(&watch.notified(&mut s.ue2)?, "timeout");
        register_contact(&mut s.ue2, "<sip:second@127.0.0.9:7001>", Udp)?;
        alive(&mut s.ue2, Udp)?;
        nothing_more(&mut s.ue2)?;
        // The dialog is gone.
        let late = watch.again(&mut s.ue2, 600);
        s.ue2.ask_for(&late, Udp, 481)?;
        Ok(())
    });
}

#[test]
fn a_subscription_that_is_not_refreshed_ends_with_a_notify() {
    registered(Setup::new(), |s| {
        let (watch, _) = Watch::begin(&mut s.ue2, 1)?;
        ended(&watch.notified(&mut s.ue2)?, "timeout");
        Ok(())
    });
}

#[test]
fn the_state_is_fetched_once() {
    // RFC 6665 §4.4.3: SUBSCRIBE with an expiry of 0 outside a dialog.
    registered(Setup::new(), |s| {
        let (_, notify) = Watch::begin(&mut s.ue2, 0)?;
        ended(&notify, "timeout");
        assert_eq!(
            reginfo(&notify).contacts,
            [contact(&s.ue2.contact(), "active", "registered")]
        );
        Ok(())
    });
}

#[test]
fn a_subscriber_that_knows_nothing_of_it_is_not_told_again() {
    // RFC 6665 §4.2.2: a 481 to a NOTIFY ends the subscription.
    registered(Setup::new(), |s| {
        let subscribe = captured::subscribe(&mut s.ue2, Udp);
        s.ue2.ask_for(&subscribe, Udp, 200)?;
        let notify = s.ue2.expect("NOTIFY")?;
        s.ue2.answers(&notify, 481, "Subscription Does Not Exist")?;
        register_contact(&mut s.ue2, "<sip:second@127.0.0.9:7001>", Udp)?;
        alive(&mut s.ue2, Udp)?;
        nothing_more(&mut s.ue2)
    });
}

#[test]
fn who_is_not_registered_is_watched_all_the_same() {
    registered(Setup::new(), |s| {
        let gone = captured::register(&mut s.ue2, Tcp).setting("Expires", 0);
        s.ue2.ask_for(&gone, Tcp, 200)?;
        let (watch, first) = Watch::begin(&mut s.ue2, 600)?;
        let info = reginfo(&first);
        assert!(
            ["init", "terminated"].contains(&info.registration.as_str()),
            "{info:?}"
        );
        assert!(info.contacts.iter().all(|c| c.1 == "terminated"));
        let uri = s.ue2.contact();
        register_contact(&mut s.ue2, &format!("<{uri}>"), Udp)?;
        let info = reginfo(&watch.notified(&mut s.ue2)?);
        assert_eq!(info.registration, "active");
        assert!(
            info.contacts.contains(&contact(&uri, "active", "registered")),
            "{info:?}"
        );
        Ok(())
    });
}

#[test]
fn two_watch_the_same_registration() {
    registered(Setup::new(), |s| {
        let (first, _) = Watch::begin(&mut s.ue2, 600)?;
        let mut subscribe = captured::subscribe(&mut s.ue1, Udp).setting("To", format!("<{}>", s.ue2.aor()));
        subscribe.start = Message::request("SUBSCRIBE", &s.ue2.aor()).start;
        let accepted = s.ue1.ask_for(&subscribe, Udp, 200)?;
        let second = Watch {
            cseq: subscribe.cseq().0,
            subscribe,
            accepted,
        };
        second.notified(&mut s.ue1)?;
        register_contact(&mut s.ue2, "<sip:second@127.0.0.9:7001>", Udp)?;
        let (told_2, told_1) = (first.notified(&mut s.ue2)?, second.notified(&mut s.ue1)?);
        assert_eq!(reginfo(&told_1).contacts, reginfo(&told_2).contacts);
        assert_eq!(told_1.uri(), Some(s.ue1.contact().as_str()));
        Ok(())
    });
}

#[test]
fn a_contact_with_characters_that_xml_keeps_for_itself_is_escaped() {
    registered(Setup::new(), |s| {
        let (watch, _) = Watch::begin(&mut s.ue2, 600)?;
        register_contact(&mut s.ue2, "<sip:a&b@127.0.0.9:7001;x=1&2>", Udp)?;
        let info = reginfo(&watch.notified(&mut s.ue2)?);
        let uris: Vec<&str> = info.contacts.iter().map(|c| c.0.as_str()).collect();
        assert!(uris.contains(&"sip:a&amp;b@127.0.0.9:7001;x=1&amp;2"), "{uris:?}");
        Ok(())
    });
}

#[test]
fn other_events_are_not_known_here() {
    // RFC 6665 §4.2.1.1: 489 with Allow-Events.
    scene(Setup::new(), |s| {
        let subscribe = captured::subscribe(&mut s.ue1, Udp).setting("Event", "presence");
        let response = s.ue1.ask_for(&subscribe, Udp, 489)?;
        assert!(
            response.elements("Allow-Events").contains(&"reg"),
            "{}",
            response.message
        );
        Ok(())
    });
}

#[test]
fn too_short_a_subscription_is_refused_and_the_minimum_named() {
    registered(Setup::new().key("reg_event", "expires_min_s", "60"), |s| {
        let subscribe = captured::subscribe(&mut s.ue1, Udp).setting("Expires", 59);
        let response = s.ue1.ask_for(&subscribe, Udp, 423)?;
        assert_eq!(response.text("Min-Expires"), "60");
        Ok(())
    });
}

#[test]
fn a_notify_that_is_lost_comes_again() {
    registered(Setup::new(), |s| {
        let subscribe = captured::subscribe(&mut s.ue2, Udp);
        s.ue2.ask_for(&subscribe, Udp, 200)?;
        let notify = s.ue2.expect("NOTIFY")?;
        s.ue2.wait_duplicates("NOTIFY", 2)?;
        s.ue2.answers(&notify, 200, "OK")?;
        match s.ue2.leftovers().is_empty() {
            true => Ok(()),
            false => Err(Failure::new("a second NOTIFY came while the first was under way")),
        }
    });
}
