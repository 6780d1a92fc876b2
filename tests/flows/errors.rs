//! Wrong input: the status that the RFCs name, and a reason phrase that says what was wrong.

use bench_harness::captured;
use bench_harness::failure::Outcome;
use bench_harness::links::Received;
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::sip::{Message, Start};

use crate::support::{Setup, alive, nothing_more, on_every_server, refused, register, registered, scene};

on_every_server![a_malformed_request_gets_a_400_that_names_the_header];

/// The bytes of an OPTIONS in which a line is written otherwise.
fn options_with(phone: &mut Phone, line: &str, instead: &str) -> (Message, Vec<u8>) {
    let options = phone.request("OPTIONS", &phone.registrar(), Udp);
    let text = options.to_string();
    let old = text
        .lines()
        .find(|l| l.starts_with(line))
        .expect("the line is there")
        .to_owned();
    let instead = if instead.is_empty() {
        String::new()
    } else {
        format!("{instead}\r\n")
    };
    let changed = text.replacen(&format!("{old}\r\n"), &instead, 1);
    (options, changed.into_bytes())
}

fn a_malformed_request_gets_a_400_that_names_the_header(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        let tagged = "<sip:a@one.att.net>;tag=x";
        for (line, instead, named) in [
            ("CSeq", "CSeq: OPTIONS", "CSeq"),
            ("CSeq", "CSeq: 1 INVITE", "CSeq"),
            ("CSeq", "CSeq: 4294967296 OPTIONS", "CSeq"),
            ("CSeq", "CSeq: 2147483648 OPTIONS", "CSeq"),
            ("From", "From: <sip:a@one.att.net;tag=x", "From"),
            ("To", "To: \"unclosed <sip:a@one.att.net>", "To"),
            ("Max-Forwards", "Max-Forwards: many", "Max-Forwards"),
            ("Content-Length", "Content-Length: some", "Content-Length"),
            ("Content-Length", "Content-Length: -1", "Content-Length"),
            (
                "Content-Length",
                "Content-Length: 0\r\nContent-Length: 5",
                "Content-Length",
            ),
            ("From", &format!("From: {tagged}\r\nFrom: {tagged}2"), "From"),
        ] {
            is_refused_naming(&mut s.ue1, line, instead, named)?;
        }
        alive(&mut s.ue1, Udp)?;
        Ok(())
    });
}

/// An OPTIONS in which a line is written otherwise gets a 400 whose reason names that header.
fn is_refused_naming(phone: &mut Phone, line: &str, instead: &str, named: &str) -> Outcome {
    let (options, bytes) = options_with(phone, line, instead);
    phone.send_bytes(&bytes, Udp)?;
    // Its CSeq may be missing in the answer too: the branch says whose it is.
    let what = format!("an answer to {instead:?} for {line}");
    let got = phone.wait_for(&what, |r| r.branch() == options.branch())?;
    assert_eq!(got.status(), Some(400), "{instead:?} for {line}: {}", got.message);
    let reason = got.reason().unwrap_or_default();
    assert!(
        reason.contains(named),
        "{instead:?} for {line}: the reason {reason:?} names no {named}"
    );
    Ok(())
}

#[test]
fn a_request_without_a_mandatory_header_gets_a_400() {
    // RFC 4475 §3.3.1: "Ideally, it will respond with a 400 Bad Request error".
    scene(Setup::new(), |s| {
        for missing in ["CSeq", "From", "To", "Call-ID"] {
            is_refused_naming(&mut s.ue1, missing, "", missing)?;
        }
        Ok(())
    });
}

#[test]
fn a_body_that_ends_before_its_length_gets_a_400() {
    // RFC 3261 §18.3: a datagram that ends before the body does.
    scene(Setup::new(), |s| {
        let (options, mut bytes) = options_with(&mut s.ue1, "Content-Length", "Content-Length: 10");
        bytes.extend_from_slice(b"123456789");
        s.ue1.send_bytes(&bytes, Udp)?;
        s.ue1.response(&options, 400)?;
        // What is beyond the length is ignored.
        let (options, mut bytes) = options_with(&mut s.ue1, "Content-Length", "Content-Length: 3");
        bytes.extend_from_slice(b"123 and more");
        s.ue1.send_bytes(&bytes, Udp)?;
        s.ue1.response(&options, 200)?;
        Ok(())
    });
}

#[test]
fn an_invite_that_is_malformed_is_refused_and_its_ack_absorbed() {
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp).setting("Max-Forwards", "x");
        s.ue1.send(&invite, Udp)?;
        let response = s.ue1.response(&invite, 400)?;
        let ack = Phone::ack_of(&invite, &response);
        s.ue1.send(&ack, Udp)?;
        alive(&mut s.ue1, Udp)?;
        Ok(())
    });
}

/// A request with another URI, method or version in its request line.
fn starting(message: Message, method: &str, uri: &str) -> Message {
    let mut message = message;
    message.start = Start::Request {
        method: method.to_owned(),
        uri: uri.to_owned(),
    };
    message
}

#[test]
fn a_method_that_is_known_but_not_served_gets_a_405_with_allow() {
    // RFC 3261 §8.2.1 and §21.4.6.
    registered(Setup::new(), |s| {
        let publish = s
            .ue1
            .request("PUBLISH", &s.ue2.aor(), Udp)
            .inserting("Event", "presence");
        let response = s.ue1.ask_for(&publish, Udp, 405)?;
        let allowed = response.elements("Allow");
        assert!(
            allowed.contains(&"INVITE") && !allowed.contains(&"PUBLISH"),
            "{allowed:?}"
        );
        Ok(())
    });
}

#[test]
fn a_method_that_nobody_knows_gets_a_501() {
    // RFC 3261 §21.5.2.
    scene(Setup::new(), |s| {
        let unknown = s.ue1.request("FROBNICATE", &s.ue1.registrar(), Udp);
        s.ue1.ask_for(&unknown, Udp, 501)?;
        // Methods are told by case (§7.1).
        let unknown = s.ue1.request("options", &s.ue1.registrar(), Udp);
        s.ue1.ask_for(&unknown, Udp, 501)?;
        Ok(())
    });
}

#[test]
fn a_body_beyond_the_limit_gets_a_413() {
    registered(Setup::new().key("limits", "body_bytes_max", "2000"), |s| {
        for transport in [Udp, Tcp] {
            let big = s
                .ue1
                .request("MESSAGE", &s.ue2.aor(), transport)
                .with_body("text/plain", vec![b'x'; 2_001]);
            s.ue1.ask_for(&big, transport, 413)?;
        }
        let fits = s
            .ue1
            .request("MESSAGE", &s.ue2.aor(), Udp)
            .with_body("text/plain", vec![b'x'; 2_000]);
        s.ue1.send(&fits, Udp)?;
        let got = s.ue2.expect("MESSAGE")?;
        s.ue2.answers(&got, 200, "OK")?;
        s.ue1.response(&fits, 200)?;
        Ok(())
    });
}

#[test]
fn a_message_beyond_the_limit_gets_a_513() {
    scene(Setup::new().key("limits", "message_bytes_max", "4000"), |s| {
        for transport in [Udp, Tcp] {
            let big = s.ue1.request("OPTIONS", &s.ue1.registrar(), transport);
            let big = big.inserting("X-Padding", "x".repeat(4_000));
            s.ue1.ask_for(&big, transport, 513)?;
        }
        // That connection may be closed now; the next is served.
        s.ue1.connect_anew()?;
        alive(&mut s.ue1, Tcp)?;
        Ok(())
    });
}

#[test]
fn a_body_that_the_server_cannot_read_gets_a_415() {
    // RFC 3261 §8.2.3: with Accept, or Accept-Encoding where that is the matter.
    registered(Setup::new(), |s| {
        let subscribe = captured::subscribe(&mut s.ue1, Udp).with_body("application/x-unheard-of", "?");
        let response = s.ue1.ask_for(&subscribe, Udp, 415)?;
        assert!(response.has("Accept"), "{}", response.message);
        let register = captured::register(&mut s.ue1, Udp)
            .inserting("Content-Encoding", "x-unheard-of")
            .with_body("application/sdp", "?");
        let response = s.ue1.ask_for(&register, Udp, 415)?;
        assert!(response.has("Accept-Encoding"), "{}", response.message);
        Ok(())
    });
}

#[test]
fn a_uri_of_a_scheme_that_is_not_served_gets_a_416() {
    // RFC 3261 §8.2.2.1.
    registered(Setup::new(), |s| {
        for uri in ["http://one.att.net/", "mailto:13800011103@one.att.net"] {
            let invite = starting(captured::invite(&mut s.ue1, captured::CALLEE, Tcp), "INVITE", uri);
            s.ue1.send(&invite, Tcp)?;
            refused(&mut s.ue1, &invite, 416, Tcp)?;
        }
        Ok(())
    });
}

#[test]
fn an_extension_that_is_required_and_unknown_gets_a_420() {
    // RFC 3261 §8.2.2.3 and §16.3 step 5: Unsupported names it.
    registered(Setup::new(), |s| {
        let register = captured::register(&mut s.ue1, Udp).inserting("Require", "path, x-unheard-of");
        let response = s.ue1.ask_for(&register, Udp, 420)?;
        assert!(
            response.elements("Unsupported").contains(&"x-unheard-of"),
            "{}",
            response.message
        );
        let invite =
            captured::invite(&mut s.ue1, captured::CALLEE, Tcp).inserting("Proxy-Require", "x-unheard-of");
        s.ue1.send(&invite, Tcp)?;
        let response = refused(&mut s.ue1, &invite, 420, Tcp)?;
        assert_eq!(response.elements("Unsupported"), ["x-unheard-of"]);
        // §9.2 and §8.2.2.3: neither a CANCEL nor an ACK is refused for that.
        let cancel = Phone::cancel_of(&invite).inserting("Require", "x-unheard-of");
        let response = s.ue1.ask(&cancel, Tcp)?;
        assert_ne!(response.status(), Some(420));
        Ok(())
    });
}

#[test]
fn an_extension_that_the_caller_must_support_gets_a_421() {
    // RFC 3261 §21.4.15: Require names it.
    registered(
        Setup::new().key("", "extensions_required", "[\"x-needed\"]"),
        |s| {
            let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp).inserting("Supported", "timer");
            s.ue1.send(&invite, Tcp)?;
            let response = refused(&mut s.ue1, &invite, 421, Tcp)?;
            assert_eq!(response.elements("Require"), ["x-needed"]);
            let invite =
                captured::invite(&mut s.ue1, captured::CALLEE, Tcp).inserting("Supported", "timer, x-needed");
            s.ue1.send(&invite, Tcp)?;
            let leg_b = s.ue2.expect("INVITE")?;
            s.ue2.answers(&leg_b, 486, "Busy Here")?;
            s.ue2.expect("ACK")?;
            refused(&mut s.ue1, &invite, 486, Tcp)?;
            Ok(())
        },
    );
}

#[test]
fn what_belongs_to_no_dialog_or_transaction_gets_a_481() {
    // RFC 3261 §12.2.2 and §9.2.
    registered(Setup::new(), |s| {
        for method in ["BYE", "INFO", "UPDATE", "NOTIFY", "PRACK", "REFER", "FROBNICATE"] {
            let mut stray = s.ue1.request(method, &format!("sip:{}", s.server.udp), Udp);
            stray.set("To", format!("<{}>;tag=of-nobody", s.ue2.aor()));
            s.ue1.ask_for(&stray, Udp, 481)?;
        }
        let mut subscribe = captured::subscribe(&mut s.ue1, Udp);
        subscribe.set("To", format!("<{}>;tag=of-nobody", s.ue1.aor()));
        s.ue1.ask_for(&subscribe, Udp, 481)?;
        let mut invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        invite.set("To", format!("<{}>;tag=of-nobody", s.ue2.aor()));
        s.ue1.send(&invite, Udp)?;
        refused(&mut s.ue1, &invite, 481, Udp)?;
        let cancel = Phone::cancel_of(&captured::invite(&mut s.ue1, captured::CALLEE, Udp));
        s.ue1.ask_for(&cancel, Udp, 481)?;
        // An ACK is never answered.
        let mut ack = s.ue1.request("ACK", &format!("sip:{}", s.server.udp), Udp);
        ack.set("To", format!("<{}>;tag=of-nobody", s.ue2.aor()));
        s.ue1.send(&ack, Udp)?;
        alive(&mut s.ue1, Udp)?;
        nothing_more(&mut s.ue1)?;
        nothing_more(&mut s.ue2)
    });
}

#[test]
fn the_same_invite_by_another_way_gets_a_482() {
    // RFC 3261 §8.2.2.2: same From tag, Call-ID and CSeq, another branch: a merged request.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        s.ue1.send(&invite, Udp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        s.ue2.answers(&leg_b, 100, "Trying")?;
        let merged = invite.clone().setting("Via", s.ue1.via(Udp));
        s.ue1.send(&merged, Udp)?;
        refused(&mut s.ue1, &merged, 482, Udp)?;
        s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        refused(&mut s.ue1, &invite, 486, Udp)?;
        Ok(())
    });
}

#[test]
fn a_request_that_may_go_no_further_gets_a_483() {
    // RFC 3261 §16.3 step 3.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp).setting("Max-Forwards", 0);
        s.ue1.send(&invite, Tcp)?;
        refused(&mut s.ue1, &invite, 483, Tcp)?;
        let message = s
            .ue1
            .request("MESSAGE", &s.ue2.aor(), Udp)
            .setting("Max-Forwards", 0);
        s.ue1.ask_for(&message, Udp, 483)?;
        nothing_more(&mut s.ue2)
    });
}

#[test]
fn another_version_gets_a_505() {
    // RFC 3261 §21.5.6.
    scene(Setup::new(), |s| {
        let options = s.ue1.request("OPTIONS", &s.ue1.registrar(), Udp);
        let text = options.to_string().replacen(" SIP/2.0\r\n", " SIP/3.0\r\n", 1);
        s.ue1.send_bytes(text.as_bytes(), Udp)?;
        s.ue1.response(&options, 505)?;
        Ok(())
    });
}

#[test]
fn calls_beyond_the_limit_get_a_503_that_says_when_to_try_again() {
    registered(
        Setup::new()
            .flags(&["--shards", "1"])
            .key("limits", "calls_max", "1"),
        |s| {
            let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
            s.ue1.send(&invite, Tcp)?;
            let leg_b = s.ue2.expect("INVITE")?;
            s.ue2.answers(&leg_b, 100, "Trying")?;
            let second = captured::invite(&mut s.ue2, captured::CALLER, Udp);
            s.ue2.send(&second, Udp)?;
            let response = refused(&mut s.ue2, &second, 503, Udp)?;
            has_retry_after(&response);
            s.ue2.answers(&leg_b, 486, "Busy Here")?;
            s.ue2.expect("ACK")?;
            refused(&mut s.ue1, &invite, 486, Tcp)?;
            Ok(())
        },
    );
}

/// RFC 3261 §20.33: seconds.
pub fn has_retry_after(response: &Received) {
    let seconds = response
        .text("Retry-After")
        .split([';', ' ', '('])
        .next()
        .unwrap_or_default();
    assert!(seconds.parse::<u32>().is_ok(), "{}", response.message);
}

#[test]
fn garbage_is_not_answered_and_does_no_harm() {
    scene(Setup::new(), garbage);
}

fn garbage(s: &mut crate::support::Scene) -> Outcome {
    register(&mut s.ue1, Udp)?;
    let response = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:1;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
        To: <sip:a@b>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    let no_via = "OPTIONS sip:one.att.net SIP/2.0\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: x\r\n\
        CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    for rubbish in [
        &b""[..],
        b"\0",
        b"\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.att.net\r\n\r\n",
        b"\xff\xfe\xfd\0\0\0\x01\x80",
        b"INVITE",
        b"INVITE sip:a@b SIP/2.0",
        b"INVITE sip:a@b SIP/2.0\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"ACK sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP\r\n\r\n",
        response.as_bytes(),
        no_via.as_bytes(),
        &[b'a'; 65_507],
        &[b'\n'; 10_000],
    ] {
        s.ue1.send_bytes(rubbish, Udp)?;
        alive(&mut s.ue1, Udp)?;
    }
    // Noise from the same generator every time.
    for n in 0..200 {
        let length = (s.ue1.ids().number() % 300) as usize;
        let noise: Vec<u8> = (0..length).map(|_| s.ue1.ids().number() as u8).collect();
        s.ue1.send_bytes(&noise, Udp)?;
        if n % 20 == 0 {
            alive(&mut s.ue1, Udp)?;
        }
    }
    alive(&mut s.ue1, Udp)?;
    nothing_more(&mut s.ue1)?;
    for rubbish in [
        &b"GET / HTTP/1.1\r\nHost: one.att.net\r\n\r\n"[..],
        b"\xff\xfe\xfd\0\0\0\x01\x80\r\n\r\n",
    ] {
        s.ue1.connect_anew()?;
        s.ue1.send_bytes(rubbish, Tcp)?;
        // Whatever becomes of that connection, the next is served.
        s.ue1.connect_anew()?;
        alive(&mut s.ue1, Tcp)?;
    }
    Ok(())
}
