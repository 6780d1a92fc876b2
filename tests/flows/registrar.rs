//! The registrar (RFC 3261 §10.3): what is bound, for how long, and in which order.

use bench_harness::failure::Outcome;
use bench_harness::links::Received;
use bench_harness::links::Transport::{self, Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::sip::Message;
use bench_harness::{captured, sip};

use crate::support::{Setup, bindings, register_contact, registered, scene, wait_until_offline};

/// A registration that goes on: the same Call-ID, the CSeq counting up.
struct Registration {
    first: Message,
    cseq: u32,
}

impl Registration {
    fn new(phone: &mut Phone) -> Registration {
        Registration {
            first: captured::register(phone, Udp),
            cseq: 0,
        }
    }

    /// The next REGISTER, with that Contact value if any.
    fn next(&mut self, phone: &mut Phone, contact: &str) -> Message {
        self.cseq += 1;
        let next = self.first.clone().removing("Contact");
        let next = next
            .setting("Via", phone.via(Udp))
            .setting("CSeq", format!("{} REGISTER", self.cseq));
        match contact {
            "" => next,
            _ => next.inserting("Contact", contact),
        }
    }
}

/// The contact with that URI in a response, and its `expires`.
fn granted(response: &Message, uri: &str) -> Option<u32> {
    let contacts = response.elements("Contact");
    let contact = contacts.into_iter().find(|c| sip::uri(c) == uri)?;
    sip::param(contact, "expires")?.parse().ok()
}

fn ask(phone: &mut Phone, register: &Message) -> Outcome<Received> {
    phone.ask_for(register, Udp, 200)
}

#[test]
fn the_time_that_is_granted_is_what_was_asked_for_within_limits() {
    let setup =
        Setup::new()
            .key("registrar", "expires_min_s", "60")
            .key("registrar", "expires_max_s", "7200");
    scene(setup.key("registrar", "expires_default_s", "1800"), |s| {
        let contact = s.ue1.contact();
        let mut registration = Registration::new(&mut s.ue1);
        for (header, parameter, expected) in [
            (None, None, 1_800),
            (Some(600), None, 600),
            // §10.2.1.1: the parameter is for this contact, the header for those without.
            (Some(600), Some(900), 900),
            (None, Some(60), 60),
            (Some(7_201), None, 7_200),
            (None, Some(4_294_967_295_u32), 7_200),
        ] {
            let parameter = parameter.map(|p| format!(";expires={p}")).unwrap_or_default();
            let mut register = registration.next(&mut s.ue1, &format!("<{contact}>{parameter}"));
            if let Some(header) = header {
                register.insert("Expires", header);
            }
            let response = ask(&mut s.ue1, &register)?;
            assert_eq!(
                granted(&response, &contact),
                Some(expected),
                "{}",
                response.message
            );
        }
        Ok(())
    });
}

#[test]
fn too_short_a_time_is_refused_and_the_minimum_named() {
    // §10.3 step 7: 423 with Min-Expires.
    scene(Setup::new().key("registrar", "expires_min_s", "60"), |s| {
        let register = captured::register(&mut s.ue1, Udp).setting("Expires", 59);
        let response = s.ue1.ask_for(&register, Udp, 423)?;
        assert_eq!(response.text("Min-Expires"), "60");
        let register = captured::register(&mut s.ue1, Udp).setting("Contact", "<sip:a@127.0.0.1>;expires=1");
        s.ue1.ask_for(&register, Udp, 423)?;
        assert!(bindings(&mut s.ue1)?.is_empty());
        Ok(())
    });
}

#[test]
fn a_refresh_keeps_one_binding_and_a_date_comes_with_every_answer() {
    scene(Setup::new(), |s| {
        let contact = format!("<{}>", s.ue1.contact());
        let mut registration = Registration::new(&mut s.ue1);
        for _ in 0..3 {
            let register = registration.next(&mut s.ue1, &contact);
            let response = ask(&mut s.ue1, &register)?;
            assert_eq!(response.elements("Contact").len(), 1);
            // §10.3 step 8: the 200 should have a Date. RFC 3261 §20.17: it is always GMT.
            let date = response.text("Date");
            assert!(
                date.ends_with(" GMT") && date.len() == "Sat, 13 Nov 2010 23:29:00 GMT".len(),
                "{date:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_registration_is_removed() {
    registered(Setup::new(), |s| {
        let register = captured::register(&mut s.ue1, Tcp).setting("Expires", 0);
        let response = s.ue1.ask_for(&register, Tcp, 200)?;
        assert!(response.get_all("Contact").is_empty(), "{}", response.message);
        assert!(bindings(&mut s.ue1)?.is_empty());
        // Removing what is not there is no mistake.
        let register = captured::register(&mut s.ue1, Tcp).setting("Expires", 0);
        s.ue1.ask_for(&register, Tcp, 200)?;
        assert_eq!(bindings(&mut s.ue2)?.len(), 1, "nobody else's is touched");
        Ok(())
    });
}

#[test]
fn several_contacts_are_bound_and_returned_with_q_and_parameters() {
    scene(Setup::new(), |s| {
        let ip = s.ue1.addr().ip();
        let one = format!("\"One, of; two\" <sip:one@{ip}:7001>;q=0.7;audio;+sip.instance=\"<urn:uuid:1>\"");
        let two = format!("<sip:two@{ip}:7002;transport=tcp>;q=0.3;+g.oma.sip-im");
        let both = format!("{one}, {two}");
        let mut registration = Registration::new(&mut s.ue1);
        let register = registration.next(&mut s.ue1, &both);
        let response = ask(&mut s.ue1, &register)?;
        assert_eq!(response.elements("Contact").len(), 2, "{}", response.message);
        for (sent, uri) in [
            (&one, format!("sip:one@{ip}:7001")),
            (&two, format!("sip:two@{ip}:7002;transport=tcp")),
        ] {
            let held = bindings(&mut s.ue1)?;
            let held = held.iter().find(|c| sip::uri(c) == uri).expect("it is bound");
            let held = sip::params(held);
            for parameter in sip::params(sent) {
                assert!(held.contains(&parameter), "{parameter:?} is lost in {held:?}");
            }
        }
        // One goes, the other stays.
        let register = registration.next(&mut s.ue1, &format!("<sip:one@{ip}:7001>;expires=0"));
        let response = ask(&mut s.ue1, &register)?;
        assert_eq!(
            granted(&response, &format!("sip:two@{ip}:7002;transport=tcp")),
            Some(600_000)
        );
        assert_eq!(response.elements("Contact").len(), 1);
        Ok(())
    });
}

#[test]
fn a_star_removes_everything_and_only_with_an_expiry_of_zero() {
    // §10.2.2 and §10.3 step 6.
    registered(Setup::new(), |s| {
        let ip = s.ue1.addr().ip();
        register_contact(&mut s.ue1, &format!("<sip:second@{ip}:7001>"), Udp)?;
        assert_eq!(bindings(&mut s.ue1)?.len(), 2);
        let mut bad = captured::register(&mut s.ue1, Udp).setting("Contact", "*");
        s.ue1.ask_for(&bad, Udp, 400)?;
        bad = captured::register(&mut s.ue1, Udp)
            .setting("Contact", "*")
            .setting("Expires", 60);
        s.ue1.ask_for(&bad, Udp, 400)?;
        bad = captured::register(&mut s.ue1, Udp)
            .setting("Contact", "*")
            .setting("Expires", 0);
        bad.insert("Contact", "<sip:third@127.0.0.1>");
        s.ue1.ask_for(&bad, Udp, 400)?;
        assert_eq!(bindings(&mut s.ue1)?.len(), 2);
        let star = captured::register(&mut s.ue1, Udp)
            .setting("Contact", "*")
            .setting("Expires", 0);
        let response = s.ue1.ask_for(&star, Udp, 200)?;
        assert!(response.get_all("Contact").is_empty());
        assert!(bindings(&mut s.ue1)?.is_empty());
        Ok(())
    });
}

#[test]
fn an_older_register_of_the_same_call_id_changes_nothing() {
    // §10.3 step 7: the update is aborted, and all of the request with it; the status for that is 500.
    scene(Setup::new(), |s| {
        let contact = format!("<{}>", s.ue1.contact());
        let mut registration = Registration::new(&mut s.ue1);
        registration.cseq = 10;
        let register = registration.next(&mut s.ue1, &contact);
        ask(&mut s.ue1, &register)?;
        for cseq in [11, 10] {
            registration.cseq = cseq - 1;
            let late = registration.next(&mut s.ue1, &contact).setting("Expires", 0);
            s.ue1.ask_for(&late, Udp, 500)?;
        }
        assert_eq!(bindings(&mut s.ue1)?.len(), 1);
        // A phone that starts anew has another Call-ID and may begin at 1 again.
        let fresh = captured::register(&mut s.ue1, Udp).setting("Expires", 0);
        ask(&mut s.ue1, &fresh)?;
        assert!(bindings(&mut s.ue1)?.is_empty());
        Ok(())
    });
}

#[test]
fn all_of_a_register_is_done_or_nothing() {
    // §10.3 step 7: bindings are committed if and only if all of them succeed.
    scene(Setup::new(), |s| {
        let ip = s.ue1.addr().ip();
        let mut registration = Registration::new(&mut s.ue1);
        registration.cseq = 5;
        let register = registration.next(&mut s.ue1, &format!("<sip:one@{ip}:7001>"));
        ask(&mut s.ue1, &register)?;
        registration.cseq = 0;
        let late = registration.next(&mut s.ue1, &format!("<sip:two@{ip}:7002>, <sip:one@{ip}:7001>"));
        s.ue1.ask_for(&late, Udp, 500)?;
        assert_eq!(bindings(&mut s.ue1)?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_device_that_registers_from_a_new_address_replaces_its_old_binding() {
    // RFC 5626 §6: +sip.instance names the device.
    registered(Setup::new(), |s| {
        let ip = s.ue1.addr().ip();
        let moved = format!("<sip:moved@{ip}:7001>;{}", captured::register_features(&s.ue1));
        let response = register_contact(&mut s.ue1, &moved, Udp)?;
        assert_eq!(response.elements("Contact").len(), 1, "{}", response.message);
        assert_eq!(sip::uri(response.text("Contact")), format!("sip:moved@{ip}:7001"));
        let other = format!("<sip:other@{ip}:7002>;+sip.instance=\"<urn:gsma:imei:86539405-111111-0>\"");
        let response = register_contact(&mut s.ue1, &other, Udp)?;
        assert_eq!(response.elements("Contact").len(), 2);
        Ok(())
    });
}

#[test]
fn a_binding_is_recognised_however_its_uri_is_spelled() {
    // §19.1.4: scheme, host and parameter names in any case; escapes and what they stand for are the same.
    scene(Setup::new(), |s| {
        register_contact(
            &mut s.ue1,
            "<sip:alice@Phone.Example.COM:5070;Transport=udp>",
            Udp,
        )?;
        let same = register_contact(
            &mut s.ue1,
            "<SIP:%61lice@phone.example.com:5070;transport=UDP>",
            Udp,
        )?;
        assert_eq!(same.elements("Contact").len(), 1, "{}", same.message);
        let other = register_contact(
            &mut s.ue1,
            "<sip:Alice@phone.example.com:5070;transport=udp>",
            Udp,
        )?;
        assert_eq!(other.elements("Contact").len(), 2, "user parts do differ by case");
        Ok(())
    });
}

#[test]
fn a_binding_ends_when_its_time_is_up() {
    scene(Setup::new(), |s| {
        let register = captured::register(&mut s.ue1, Udp).setting("Expires", 1);
        let response = ask(&mut s.ue1, &register)?;
        assert_eq!(granted(&response, &s.ue1.contact()), Some(1));
        wait_until_offline(&mut s.ue1)
    });
}

#[test]
fn nobody_registers_for_another_domain() {
    // §10.3 step 5: an address of record that is not of this domain gets a 404.
    scene(Setup::new(), |s| {
        let foreign = captured::register(&mut s.ue1, Udp).setting("To", "<sip:13800011101@example.org>");
        s.ue1.ask_for(&foreign, Udp, 404)?;
        Ok(())
    });
}

#[test]
fn to_names_who_is_registered_and_from_who_does_it() {
    // §10.2: third-party registration.
    scene(Setup::new(), |s| {
        let (aor, contact) = (s.ue2.aor(), format!("<{}>", s.ue2.contact()));
        let register = captured::register(&mut s.ue1, Udp)
            .setting("To", format!("<{aor}>"))
            .setting("Contact", contact);
        ask(&mut s.ue1, &register)?;
        assert_eq!(bindings(&mut s.ue2)?.len(), 1);
        assert!(bindings(&mut s.ue1)?.is_empty());
        Ok(())
    });
}

#[test]
fn contacts_beyond_the_limit_are_refused() {
    scene(Setup::new().key("limits", "contacts_per_aor_max", "2"), |s| {
        let ip = s.ue1.addr().ip();
        for port in [7001, 7002] {
            register_contact(&mut s.ue1, &format!("<sip:x@{ip}:{port}>"), Udp)?;
        }
        let third = captured::register(&mut s.ue1, Udp).setting("Contact", format!("<sip:x@{ip}:7003>"));
        let refused = s.ue1.ask(&third, Udp)?;
        assert!(refused.status() >= Some(400), "{}", refused.message);
        assert_eq!(bindings(&mut s.ue1)?.len(), 2);
        Ok(())
    });
}

#[test]
fn the_registrar_is_asked_over_either_transport_and_answers_there() {
    scene(Setup::new(), |s| {
        for transport in [Tcp, Udp] {
            let response = register_over(&mut s.ue1, transport)?;
            assert_eq!(response.transport, transport);
        }
        Ok(())
    });
}

fn register_over(phone: &mut Phone, transport: Transport) -> Outcome<Received> {
    let register = captured::register(phone, transport);
    phone.ask_for(&register, transport, 200)
}
