//! The message layer against the torture messages of RFC 4475 and RFC 5118, and against the messages of the phones that the
//! call flows were captured from. The files are bit-exact and double as a fuzz corpus.

use std::fs;
use std::path::Path;

use ringway::msg::Span;
use ringway::msg::error::{ErrorKind, ParseError};
use ringway::msg::method::Method;
use ringway::msg::name::Name;
use ringway::msg::name_addr::{Contacts, contacts};
use ringway::msg::request::{Request, Response, Salvage};
use ringway::msg::scan::{Message, Start, Table, scan};
use ringway::msg::uri::{Scheme, unescaped};
use ringway::msg::via::Via;

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus/scan")
        .join(format!("{name}.sip"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a server does first: scan, then prove, then look at the contacts.
fn verdict(bytes: &[u8]) -> Result<(), ParseError> {
    let mut table = Table::new();
    scan(bytes, &mut table)?;
    let msg = Message::new(bytes, &table);
    match msg.start() {
        Start::Request { .. } => {
            Request::check(msg)?;
        }
        Start::Response { .. } => {
            Response::check(msg)?;
        }
        Start::Unreadable => panic!("scan says that it is readable"),
    }
    if let Contacts::List(list) = contacts(msg)? {
        for contact in list {
            contact?;
        }
    }
    Ok(())
}

fn with_request<T>(bytes: &[u8], look: impl FnOnce(Request<'_>) -> T) -> T {
    let mut table = Table::new();
    scan(bytes, &mut table).expect("well-formed");
    look(Request::check(Message::new(bytes, &table)).expect("whole"))
}

#[test]
fn messages_of_rfc_4475_get_the_verdicts_that_it_names() {
    use ErrorKind::*;
    for (name, kind) in [
        // §3.1.1, valid.
        ("wsinv", None),
        ("intmeth", None),
        ("esc01", None),
        ("escnull", None),
        ("esc02", None),
        ("lwsdisp", None),
        ("longreq", None),
        ("dblreq", None),
        ("semiuri", None),
        ("transports", None),
        ("mpart01", None),
        ("unreason", None),
        ("noreason", None),
        // §3.1.2, invalid.
        ("badinv01", Some(BadVia)),
        ("clerr", Some(BodyTruncated)),
        ("ncl", Some(BadContentLength)),
        ("scalar02", Some(CSeqOverflow)),
        ("scalarlg", Some(CSeqOverflow)),
        ("quotbal", Some(BadNameAddr(Name::To))),
        ("ltgtruri", Some(BadUri)),
        ("lwsruri", Some(StartLine)),
        ("lwsstart", Some(StartLine)),
        ("trws", Some(StartLine)),
        ("escruri", Some(BadUri)),
        // Its Date is in no zone that SIP has, which is for those to mind who read it.
        ("baddate", None),
        ("regbadct", Some(BadNameAddr(Name::Contact))),
        ("badaspec", Some(BadNameAddr(Name::To))),
        ("baddn", Some(BadNameAddr(Name::From))),
        ("badvers", Some(Version)),
        ("mismatch01", Some(CSeqMethodMismatch)),
        ("mismatch02", Some(CSeqMethodMismatch)),
        ("bigcode", Some(StartLine)),
        // §3.2 to §3.4: well-formed, whatever a server then thinks of them, but for these three.
        ("badbranch", None),
        ("insuf", Some(Missing(Name::From))),
        ("unkscm", None),
        ("novelsc", None),
        ("unksm2", None),
        ("bext01", None),
        ("invut", None),
        ("regaut01", None),
        ("multi01", Some(DuplicateHeader(Name::From))),
        ("mcl01", Some(ContentLengthMismatch)),
        ("bcast", None),
        ("zeromf", None),
        ("cparam01", None),
        ("cparam02", None),
        ("regescrt", None),
        ("sdp01", None),
        ("inv2543", None),
    ] {
        let mut bytes = file(&format!("rfc4475-{name}"));
        if name == "baddn" {
            // The archive's file lacks the empty line that the text of the RFC has.
            bytes.extend(b"\r\n");
        }
        let found = verdict(&bytes).err().map(|error| error.kind);
        assert_eq!(found, kind, "{name}");
    }
}

#[test]
fn every_malformed_request_of_rfc_4475_can_be_answered() {
    for name in [
        "badinv01",
        "clerr",
        "ncl",
        "scalar02",
        "quotbal",
        "ltgtruri",
        "lwsruri",
        "lwsstart",
        "trws",
        "escruri",
        "badaspec",
        "baddn",
        "badvers",
        "mismatch01",
        "mismatch02",
        "insuf",
        "multi01",
        "mcl01",
    ] {
        let bytes = file(&format!("rfc4475-{name}"));
        let mut table = Table::new();
        let _ = scan(&bytes, &mut table);
        let salvaged = Salvage::of(Message::new(&bytes, &table)).is_some();
        // What badinv01 gets wrong is the Via itself: nobody knows where an answer would go.
        assert_eq!(salvaged, name != "badinv01", "{name}");
    }
    for name in ["scalarlg", "bigcode"] {
        let bytes = file(&format!("rfc4475-{name}"));
        let mut table = Table::new();
        let _ = scan(&bytes, &mut table);
        assert!(
            Salvage::of(Message::new(&bytes, &table)).is_none(),
            "a response has no answer"
        );
    }
}

#[test]
fn a_tortuous_invite_reads_as_what_it_says() {
    with_request(&file("rfc4475-wsinv"), |request| {
        assert_eq!(request.method, Method::Invite);
        assert_eq!(request.request_uri.param(b"unknownparam"), Some(&b""[..]));
        assert_eq!(request.to.uri, b"sip:vivekg@chair-dnrc.example.com");
        assert_eq!(request.to_tag, Some(&b"1918181833n"[..]));
        assert_eq!(request.from.display, br#""J Rosenberg \\\"""#);
        assert_eq!(request.from_tag, Some(&b"98asjd8"[..]));
        assert_eq!((request.max_forwards, request.cseq.number), (Some(68), 9));
        assert_eq!(
            (request.via.transport, request.via.host),
            (&b"UDP"[..], &b"192.0.2.2"[..])
        );
        let vias: Vec<_> = request
            .msg
            .elements(Name::Via)
            .map(|element| Via::parse(element).expect("well-formed"))
            .map(|via| (via.transport, via.host, via.branch.expect("there")))
            .collect();
        assert_eq!(
            vias,
            [
                (&b"UDP"[..], &b"192.0.2.2"[..], &b"390skdjuw"[..]),
                (b"TCP", b"spindle.example.com", b"z9hG4bK9ikj8"),
                (b"UDP", b"192.168.255.111", b"z9hG4bK30239"),
            ]
        );
        assert_eq!(request.msg.value(Name::Subject), Some(&b""[..]));
        let route = request.msg.value(Name::Route).expect("there");
        assert_eq!(
            route,
            b"<sip:services.example.com;lr;unknownwith=value;unknown-no-value>"
        );
        let Ok(Contacts::List(mut list)) = contacts(request.msg) else {
            panic!("a contact");
        };
        let contact = list.next().expect("there").expect("well-formed");
        assert_eq!(contact.display, br#""Quoted string \"\"""#);
        assert_eq!(
            (contact.param(b"q"), contact.param(b"secondparam")),
            (Some(&b"0.33"[..]), Some(&b""[..]))
        );
        assert_eq!(request.msg.body().len(), 150);
    });
}

#[test]
fn wide_ranges_of_characters_are_read() {
    with_request(&file("rfc4475-intmeth"), |request| {
        assert_eq!(
            request.method_text,
            b"!interesting-Method0123456789_*+`.%indeed'~"
        );
        let uri = request.request_uri;
        assert_eq!(
            uri.user,
            Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..])
        );
        assert_eq!(
            uri.password,
            Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..])
        );
        assert_eq!(uri.host, b"example.com");
        assert_eq!(request.to.display, b"\"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7F\"");
        assert_eq!(request.from.display, b"token1~` token2'+_ token3*%!.-");
        assert!(request.from_tag.is_some());
        assert_eq!(request.call_id, b"intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{");
    });
    with_request(&file("rfc4475-semiuri"), |request| {
        let uri = request.request_uri;
        assert_eq!(
            (uri.user, uri.host),
            (Some(&b"user;par=u%40example.net"[..]), &b"example.com"[..])
        );
    });
    with_request(&file("rfc4475-escnull"), |request| {
        let to = request.to.uri().expect("well-formed");
        assert_eq!(
            unescaped(to.user.expect("there")).collect::<Vec<_>>(),
            b"null-\0-null"
        );
    });
}

#[test]
fn parameters_belong_to_whom_the_brackets_say() {
    let contact_params = |name: &str| {
        with_request(&file(name), |request| {
            let Ok(Contacts::List(mut list)) = contacts(request.msg) else {
                panic!("a contact");
            };
            let contact = list.next().expect("there").expect("well-formed");
            let uri = contact.uri().expect("well-formed");
            (
                contact.param(b"unknownparam").is_some(),
                uri.param(b"unknownparam").is_some(),
            )
        })
    };
    assert_eq!(contact_params("rfc4475-cparam01"), (true, false));
    assert_eq!(contact_params("rfc4475-cparam02"), (false, true));
}

#[test]
fn a_datagram_holds_one_message_and_the_rest_is_left() {
    let bytes = file("rfc4475-dblreq");
    let mut table = Table::new();
    scan(&bytes, &mut table).expect("well-formed");
    let msg = Message::new(&bytes, &table);
    assert_eq!(msg.body(), b"");
    assert!(msg.len() < bytes.len());
    assert!(bytes[msg.len()..].trim_ascii_start().starts_with(b"INVITE"));
}

#[test]
fn schemes_that_nobody_serves_are_well_formed() {
    for (name, scheme) in [
        ("rfc4475-unkscm", Scheme::Other),
        ("rfc4475-novelsc", Scheme::Other),
        ("seed-invite", Scheme::Tel),
        ("seed-register", Scheme::Sip),
    ] {
        with_request(&file(name), |request| {
            assert_eq!(request.request_uri.scheme, scheme, "{name}")
        });
    }
}

#[test]
fn ipv6_messages_of_rfc_5118_get_the_verdicts_that_it_names() {
    let message = |uri: &str, via: &str| {
        format!(
            "REGISTER {uri} SIP/2.0\r\nTo: sip:user@example.com\r\nFrom: sip:user@example.com;tag=81x2\r\nVia: {via}\r\n\
             Call-ID: SSG9559905523997077@hlau_4100\r\nMax-Forwards: 70\r\n\
             Contact: \"Caller\" <sip:caller@[2001:db8::1]>\r\nCSeq: 98176 REGISTER\r\nContent-Length: 0\r\n\r\n"
        )
    };
    const VIA: &str = "SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111";
    for (uri, port, ip) in [
        ("sip:[2001:db8::10]", None, Some("2001:db8::10")),
        ("sip:[2001:db8::10:5070]", None, Some("2001:db8::10:5070")),
        ("sip:[2001:db8::10]:5070", Some(5070), Some("2001:db8::10")),
        (
            "sip:user@[2001:db8::192.0.2.1]",
            None,
            Some("2001:db8::192.0.2.1"),
        ),
        // §4.10: three colons come from a mistake in RFC 3261's grammar; the message passes, the address is none.
        ("sip:user@[2001:db8:::192.0.2.1]", None, None),
    ] {
        with_request(message(uri, VIA).as_bytes(), |request| {
            assert_eq!(request.request_uri.port, port, "{uri}");
            assert_eq!(
                request.request_uri.host_ip(),
                ip.map(|ip| ip.parse().expect("an address")),
                "{uri}"
            );
        });
    }
    let bad = verdict(message("sip:2001:db8::10", VIA).as_bytes());
    assert_eq!(bad.map_err(|error| error.kind), Err(ErrorKind::BadUri));
    for received in ["[2001:db8::9:255]", "2001:db8::9:255"] {
        let via = format!("SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3-111");
        with_request(message("sip:a", &via).as_bytes(), |request| {
            assert_eq!(request.via.received_ip(), "2001:db8::9:255".parse().ok());
            assert_eq!(request.via.branch, Some(&b"z9hG4bKas3-111"[..]));
        });
    }
}

#[test]
fn messages_of_the_phones_read_as_what_they_say() {
    for name in [
        "seed-register",
        "seed-register-200",
        "seed-subscribe",
        "seed-notify",
        "seed-invite",
        "seed-invite-leg-b",
        "seed-invite-100",
    ] {
        assert_eq!(verdict(&file(name)), Ok(()), "{name}");
    }
    with_request(&file("seed-register"), |request| {
        assert_eq!((request.method, request.cseq.number), (Method::Register, 1));
        assert_eq!((request.to_tag, request.max_forwards), (None, None));
        let Ok(Contacts::List(mut list)) = contacts(request.msg) else {
            panic!("a contact");
        };
        let contact = list.next().expect("there").expect("well-formed");
        assert_eq!(contact.uri, b"sip:13800011103@182.0.123.58:5060");
        let names: Vec<_> = contact.params_iter().map(|param| param.name).collect();
        assert_eq!(
            names,
            [
                &b"+g.3gpp.smsip"[..],
                b"+g.3gpp.icsi-ref",
                b"audio",
                b"video",
                b"+g-3gpp-ps-data-off",
                b"+sip.instance"
            ]
        );
        assert_eq!(
            contact.param(b"+sip.instance"),
            Some(&b"\"<urn:gsma:imei:86539405-000273-0>\""[..])
        );
        assert!(list.next().is_none());
    });
    with_request(&file("seed-invite"), |request| {
        assert_eq!(request.request_uri.user, Some(&b"13800011103"[..]));
        assert_eq!(
            request.request_uri.param(b"phone-context"),
            Some(&b"one.att.net"[..])
        );
        assert_eq!(request.to.uri, b"tel:13800011103;phone-context=one.att.net");
        assert_eq!(request.from_tag, Some(&b"X6E3R9v"[..]));
        assert_eq!(
            request.via.branch,
            Some(&b"z9hG4bKb4MiHkghekvemEcWZotV2Pm9uu."[..])
        );
        assert_eq!(
            (request.max_forwards, request.msg.body().len()),
            (Some(70), 1_466)
        );
        assert!(request.msg.has_token(Name::Allow, b"prack"));
        assert!(request.msg.has_token(Name::AcceptContact, b"*"));
        let span = request.msg.span_of(request.call_id);
        assert_eq!(
            Span::of(span, request.msg.bytes),
            b"0rSzxKYZqGFRahidYb8I3Dc3doGY@182.0.123.56"
        );
    });
}
