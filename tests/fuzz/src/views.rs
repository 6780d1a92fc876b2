//! The typed views: what they point at lies in the message, reads the same again, and gives answers that can be read.

use std::net::SocketAddr;

use ringway::msg::build::{Writer, end, http_date, response_head, response_head_salvaged};
use ringway::msg::cseq::CSeq;
use ringway::msg::lex::Elements;
use ringway::msg::name::Name;
use ringway::msg::name_addr::{Contacts, NameAddr, contacts};
use ringway::msg::named_dialog::NamedDialog;
use ringway::msg::params::{Params, split};
use ringway::msg::quoted::Quoted;
use ringway::msg::reason::q850_cause;
use ringway::msg::request::{Request, Response, Salvage, expires};
use ringway::msg::scan::{Message, Table, scan};
use ringway::msg::sdp::media_address;
use ringway::msg::uri::{Uri, unescaped};
use ringway::msg::via::Via;

pub fn check(data: &[u8], table: &mut Table, out: &mut [u8]) {
    // Views of any bytes, not only of those that stand in a message.
    all_views(data, |_| ());
    view_quoted(data);
    media_address(data);
    let scanned = scan(data, table);
    let msg = Message::new(data, table);
    for line in msg.lines() {
        // `span_of` panics when a part is not one of the message.
        all_views(msg.value_of(line), |part| {
            msg.span_of(part);
        });
    }
    for name in Name::ALL {
        for element in msg.elements(name) {
            assert!(!element.is_empty());
            msg.has_token(name, element);
        }
    }
    match contacts(msg) {
        // None at all where the lines are empty.
        Ok(Contacts::List(list)) => assert_eq!(list.count(), msg.elements(Name::Contact).count()),
        Ok(Contacts::None | Contacts::Star) => assert!(msg.elements(Name::Contact).count() < 2),
        Err(error) => assert!((error.at as usize) < data.len()),
    }
    let _ = expires(msg);
    q850_cause(&msg);
    media_address(msg.body());
    let peers: [SocketAddr; 2] = [
        SocketAddr::from(([192, 0, 2, 1], 5_062)),
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 65_535)),
    ];
    let peer = peers[data.len() % 2];
    let error = match (scanned, Request::check(msg)) {
        (Ok(()), Ok(request)) => return answer(&request, peer, out),
        (Err(error), _) | (Ok(()), Err(error)) => error,
    };
    assert!(error.at as usize <= data.len());
    if scanned.is_ok()
        && let Ok(response) = Response::check(msg)
    {
        assert!((100..700).contains(&response.status));
        assert!(response.cseq.number < CSeq::NUMBER_END);
        return;
    }
    if let Some(salvage) = Salvage::of(msg) {
        let mut w = Writer::new(out);
        response_head_salvaged(
            &mut w,
            &salvage,
            error.status(),
            |w| error.reason(w),
            Some(b"x"),
            peer,
        );
        end(&mut w);
        let len = w.finish().expect("room for any message");
        let mut table = Table::new();
        scan(&out[..len], &mut table).expect("an answer to what is malformed is well-formed in itself");
    }
}

/// Parses `bytes` as everything that there is.
fn all_views(bytes: &[u8], inside: impl Fn(&[u8])) {
    let mut elements = Vec::new();
    for element in Elements::new(bytes) {
        inside(element);
        elements.push(element);
    }
    // Elements joined again come apart in the same places, unless one holds a quote or bracket that does not close.
    let joined = elements.join(&b", "[..]);
    if !bytes.contains(&b'"') && !bytes.contains(&b'<') {
        assert_eq!(Elements::new(&joined).collect::<Vec<_>>(), elements);
    }
    for part in elements.into_iter().chain([bytes]) {
        if let Ok(address) = NameAddr::parse(part) {
            for piece in [address.raw, address.display, address.uri, address.params] {
                inside(piece);
            }
            assert_eq!(NameAddr::parse(address.raw), Ok(address));
            let mut found = None;
            for param in address.params_iter() {
                inside(param.raw);
                inside(param.name);
                inside(param.value_or_empty());
                let again: Vec<_> = Params::new(param.raw).collect();
                assert_eq!(again, [param]);
                if found.is_none() && param.is(b"tag") {
                    found = Some(param.value_or_empty());
                }
            }
            assert_eq!(address.tag(), found);
            assert_eq!(address.param(b"tag"), found);
            if let Ok(uri) = address.uri() {
                view_uri(uri, &inside);
            }
        }
        if let Ok(via) = Via::parse(part) {
            for piece in [via.raw, via.transport, via.sent_by, via.host, via.params] {
                inside(piece);
            }
            assert_eq!(Via::parse(via.raw), Ok(via));
            assert_eq!(via.param(b"branch"), via.branch);
            assert_eq!(via.param(b"received").is_some(), via.has_received);
            assert!(via.branch.is_none_or(|branch| !branch.is_empty()));
            via.host_ip();
            via.received_ip();
        }
        if let Ok(uri) = Uri::parse(part) {
            assert_eq!(uri.raw, part);
            view_uri(uri, &inside);
        }
        if let Ok(cseq) = CSeq::parse(part) {
            assert!(cseq.number < CSeq::NUMBER_END && !cseq.method_text.is_empty());
            inside(cseq.method_text);
        }
        let (first, params) = split(part);
        inside(first);
        inside(params);
        for name in [Name::Replaces, Name::Join, Name::TargetDialog] {
            if let Some(dialog) = NamedDialog::parse(name, part) {
                for piece in [dialog.call_id, dialog.local_tag, dialog.remote_tag] {
                    inside(piece);
                }
                let mut text = vec![0; dialog.text_len()];
                dialog.put_text(&mut text);
                assert_eq!(NamedDialog::from_text(&text), Some(dialog));
            }
        }
    }
}

/// What is known again of the beginning of a message is known again of more of it.
fn view_quoted(bytes: &[u8]) {
    let whole = Quoted::read(bytes);
    for len in [bytes.len() / 2, bytes.len() - bytes.len() / 4] {
        if let Some(known) = Quoted::read(&bytes[..len]) {
            assert_eq!(whole, Some(known));
        }
    }
}

fn view_uri(uri: Uri<'_>, inside: &impl Fn(&[u8])) {
    for piece in [uri.raw, uri.scheme_text, uri.host, uri.params, uri.headers] {
        inside(piece);
    }
    if let Some(user) = uri.user {
        inside(user);
        assert!(unescaped(user).count() <= user.len());
    }
    for (name, value) in uri.params_iter().chain(uri.headers_iter()) {
        inside(name);
        inside(value.unwrap_or(&name[name.len()..]));
    }
    assert_eq!(Uri::parse(uri.raw), Ok(uri));
    assert!(uri.matches(&uri) || repeats_a_param(&uri));
    uri.host_ip();
    uri.transport();
}

/// A parameter that is there twice may differ from itself.
fn repeats_a_param(uri: &Uri<'_>) -> bool {
    let name_of = |(name, _): (&[u8], Option<&[u8]>)| {
        unescaped(name)
            .map(|byte| byte.to_ascii_lowercase())
            .collect::<Vec<u8>>()
    };
    let mut names: Vec<_> = uri.params_iter().map(name_of).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    names.len() < count
}

/// The answer to a request is a response that matches it.
fn answer(request: &Request<'_>, peer: SocketAddr, out: &mut [u8]) {
    let mut w = Writer::new(out);
    response_head(&mut w, request, 200, "OK", Some(b"our-tag"), peer);
    w.put(b"Date: ");
    http_date(&mut w, u64::from(request.cseq.number) * 100);
    w.crlf();
    end(&mut w);
    let len = w.finish().expect("room for any message");
    let mut table = Table::new();
    scan(&out[..len], &mut table).expect("our answer is well-formed");
    let msg = Message::new(&out[..len], &table);
    let response = Response::check(msg).expect("our answer is whole");
    assert_eq!(response.status, 200);
    assert_eq!(response.cseq, request.cseq);
    assert_eq!(response.call_id, request.call_id);
    assert_eq!(response.from, request.from);
    assert_eq!(response.from_tag, request.from_tag);
    assert_eq!(response.to_tag, Some(request.to_tag.unwrap_or(b"our-tag")));
    assert_eq!(response.to.uri, request.to.uri);
    let (asked, answered) = (request.via, response.via);
    assert_eq!(answered.branch, asked.branch);
    assert_eq!(answered.sent_by, asked.sent_by);
    // RFC 3581 §4, RFC 3261 §18.2.1.
    assert_eq!(answered.rport, asked.rport.map(|_| Some(peer.port())));
    if asked.rport.is_some() || asked.host_ip() != Some(peer.ip()) {
        assert_eq!(answered.received_ip(), Some(peer.ip()));
    } else {
        assert!(!answered.has_received);
    }
    let vias = |msg: Message<'_>| {
        msg.elements(Name::Via)
            .skip(1)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    assert_eq!(vias(msg), vias(request.msg), "the other Vias are untouched");
}
