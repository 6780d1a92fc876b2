//! Outside a call: messages to a registered phone (RFC 3428), and what the server says of itself.

use bench_harness::failure::Outcome;
use bench_harness::links::Transport::{self, Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::{captured, sip};

use crate::support::{Setup, on_every_server, register, register_for_tcp, registered, scene};

on_every_server![a_message_reaches_a_registered_phone];

fn sends_a_message(
    from: &mut Phone,
    to: &mut Phone,
    uri: &str,
    transport: Transport,
    body: &[u8],
) -> Outcome {
    let message = from
        .request("MESSAGE", uri, transport)
        .with("P-Preferred-Identity", format!("<{}>", from.aor()))
        .with("X-Unknown", "kept ,as; \"it is\"")
        .with_body("text/plain;charset=utf-8", body);
    from.send(&message, transport)?;
    let got = to.expect("MESSAGE")?;
    assert_eq!(sip::uri(got.text("From")), from.aor());
    assert_eq!(got.from_tag(), message.from_tag());
    for name in [
        "Content-Type",
        "Content-Length",
        "P-Preferred-Identity",
        "X-Unknown",
    ] {
        assert_eq!(got.lines(name), message.lines(name), "{name}");
    }
    assert!(got.body == body, "the body is as it was sent");
    assert_eq!(got.cseq().1, "MESSAGE");
    let left: u32 = got.text("Max-Forwards").parse().expect("a number");
    assert!((1..70).contains(&left));
    let answer = to.answers(&got, 202, "Accepted")?;
    let response = from.response(&message, 202)?;
    for name in ["Via", "From", "Call-ID", "CSeq"] {
        assert_eq!(response.lines(name), message.lines(name), "{name}");
    }
    assert_eq!(response.reason(), answer.reason());
    assert_eq!(response.to_tag(), answer.to_tag());
    assert_eq!(sip::uri(response.text("To")), sip::uri(message.text("To")));
    Ok(())
}

fn a_message_reaches_a_registered_phone(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let aor = s.ue2.aor();
        sends_a_message(&mut s.ue1, &mut s.ue2, &aor, Udp, "\u{4f60}\u{597d}".as_bytes())?;
        sends_a_message(
            &mut s.ue1,
            &mut s.ue2,
            &aor,
            Tcp,
            b"NUL \0 and \r\n\r\n in the body",
        )?;
        let tel = s.ue1.tel();
        sends_a_message(&mut s.ue2, &mut s.ue1, &tel, Udp, b"")
    });
}

#[test]
fn a_message_reaches_a_phone_on_its_connection() {
    scene(Setup::new(), |s| {
        register(&mut s.ue1, Udp)?;
        register_for_tcp(&mut s.ue2)?;
        let aor = s.ue2.aor();
        sends_a_message(&mut s.ue1, &mut s.ue2, &aor, Udp, b"hello")
    });
}

#[test]
fn a_message_to_nobody_and_to_one_who_is_offline() {
    registered(Setup::new(), |s| {
        let nobody = s.ue1.request("MESSAGE", "sip:13800019999@one.att.net", Udp);
        s.ue1.ask_for(&nobody, Udp, 404)?;
        let gone = captured::register(&mut s.ue2, Tcp).setting("Expires", 0);
        s.ue2.ask_for(&gone, Tcp, 200)?;
        let offline = s.ue1.request("MESSAGE", &s.ue2.aor(), Udp);
        s.ue1.ask_for(&offline, Udp, 480)?;
        Ok(())
    });
}

#[test]
fn a_message_is_sent_again_until_the_phone_answers() {
    // RFC 3261 §17.1.2.2, timer E.
    registered(Setup::new(), |s| {
        let message = s.ue1.request("MESSAGE", &s.ue2.aor(), Udp);
        s.ue1.send(&message, Udp)?;
        let there = s.ue2.expect("MESSAGE")?;
        s.ue2.wait_duplicates("MESSAGE", 2)?;
        s.ue2.answers(&there, 200, "OK")?;
        s.ue1.response(&message, 200)?;
        Ok(())
    });
}

#[test]
fn the_server_says_what_it_can() {
    // RFC 3261 §11.2.
    scene(Setup::new(), |s| {
        for transport in [Udp, Tcp] {
            let options = s
                .ue1
                .request("OPTIONS", &s.ue1.registrar(), transport)
                .setting("Max-Forwards", 0);
            let response = s.ue1.ask_for(&options, transport, 200)?;
            let allowed = response.elements("Allow");
            for method in [
                "INVITE",
                "ACK",
                "BYE",
                "CANCEL",
                "OPTIONS",
                "REGISTER",
                "SUBSCRIBE",
                "MESSAGE",
            ] {
                assert!(allowed.contains(&method), "{method} is missing in {allowed:?}");
            }
            assert!(response.to_tag().is_some());
        }
        Ok(())
    });
}
