//! What a rule changes in a request: its request URI, and header lines.

use crate::config::route::Rewrite;
use crate::msg::Span;
use crate::msg::build::Writer;
use crate::msg::edit::Edits;
use crate::msg::name::Name;
use crate::msg::scan::{Line, Message};
use crate::msg::uri::{Scheme, Uri};

/// Writes the request URI that `uri` becomes. One of a scheme without a user part that could be changed stays.
pub fn put_uri(rewrite: &Rewrite, uri: &Uri<'_>, w: &mut Writer<'_>) {
    let set_host = Some(rewrite.host.as_bytes()).filter(|host| !host.is_empty());
    match (uri.scheme, set_host) {
        (Scheme::Sip | Scheme::Sips, _) => {
            w.put(uri.scheme_text).put(b":");
            let before = w.len();
            put_user(rewrite, uri.user, w);
            if w.len() > before {
                if let Some(password) = uri.password {
                    w.put(b":").put(password);
                }
                w.put(b"@");
            }
            match (set_host, uri.port) {
                (Some(host), _) => _ = w.put(host),
                (None, None) => _ = w.put(uri.host),
                (None, Some(port)) => _ = w.put(uri.host).put(b":").num(u64::from(port)),
            }
            put_tail(uri, w);
        }
        (Scheme::Tel, None) => {
            w.put(uri.scheme_text).put(b":");
            let before = w.len();
            put_user(rewrite, uri.user, w);
            if w.len() == before {
                w.put(uri.user.unwrap_or_default());
            }
            put_tail(uri, w);
        }
        // RFC 3261 §19.1.6: a number at a host is a SIP URI with user=phone.
        (Scheme::Tel, Some(host)) => {
            w.put(b"sip:");
            let before = w.len();
            put_user(rewrite, uri.user, w);
            if w.len() == before {
                w.put(uri.user.unwrap_or_default());
            }
            if !uri.params.is_empty() {
                w.put(b";").put(uri.params);
            }
            w.put(b"@").put(host).put(b";user=phone");
        }
        (Scheme::Other, _) => _ = w.put(uri.raw),
    }
}

fn put_tail(uri: &Uri<'_>, w: &mut Writer<'_>) {
    if !uri.params.is_empty() {
        w.put(b";").put(uri.params);
    }
    if !uri.headers.is_empty() {
        w.put(b"?").put(uri.headers);
    }
}

fn put_user(rewrite: &Rewrite, user: Option<&[u8]>, w: &mut Writer<'_>) {
    if !rewrite.user.is_empty() {
        w.put(rewrite.user.as_bytes());
        return;
    }
    w.put(rewrite.prefix.as_bytes());
    w.put(stripped(user.unwrap_or_default(), rewrite.strip));
}

/// `user` without its first `count` characters; an escape is one.
fn stripped(user: &[u8], count: usize) -> &[u8] {
    let mut rest = user;
    for _ in 0..count {
        let len = if rest.first() == Some(&b'%') { 3 } else { 1 };
        rest = rest.get(len..).unwrap_or_default();
    }
    rest
}

/// Notes down the edits of the header lines that a rule changes.
pub fn edit_headers(rewrite: &Rewrite, msg: Message<'_>, edits: &mut Edits) {
    if !rewrite.changes_headers() {
        return;
    }
    for line in msg.lines() {
        let is_meant = |name: &String| is_named(msg, line, name);
        if rewrite.remove.iter().any(is_meant) || rewrite.set.iter().any(|set| is_meant(&set.name)) {
            edits.delete(Span::new(line.start, line.end));
        }
    }
    let mut piece = edits.insert(msg.lines_end());
    for line in rewrite.set.iter().chain(&rewrite.add) {
        piece
            .put(line.name.as_bytes())
            .put(b": ")
            .put(line.value.as_bytes())
            .put(b"\r\n");
    }
}

/// Header lines that a rule adds to an answer.
pub fn put_added(rewrite: &Rewrite, w: &mut Writer<'_>) {
    for line in &rewrite.add {
        w.put(line.name.as_bytes())
            .put(b": ")
            .put(line.value.as_bytes())
            .crlf();
    }
}

/// Lines that [`edit_headers`] may add.
pub fn lines_added(rewrite: &Rewrite) -> usize {
    rewrite.set.len() + rewrite.add.len()
}

/// Bytes that [`edit_headers`] and [`put_uri`] may add.
pub fn bytes_added(rewrite: &Rewrite) -> usize {
    const AROUND: usize = 4;
    let lines = rewrite.set.iter().chain(&rewrite.add);
    let of_lines: usize = lines
        .map(|line| line.name.len() + line.value.len() + AROUND)
        .sum();
    const SIP_AND_USER_PHONE: usize = 24;
    of_lines + rewrite.prefix.len() + rewrite.user.len() + rewrite.host.len() + SIP_AND_USER_PHONE
}

fn is_named(msg: Message<'_>, line: &Line, name: &str) -> bool {
    match Name::lookup(name.as_bytes()) {
        Name::Other => line.name == Name::Other && msg.name_bytes(line).eq_ignore_ascii_case(name.as_bytes()),
        known => line.name == known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route::HeaderLine;
    use crate::msg::scan::{Table, scan};

    fn rewrite(strip: usize, prefix: &str, user: &str, host: &str) -> Rewrite {
        Rewrite {
            strip,
            prefix: prefix.to_owned(),
            user: user.to_owned(),
            host: host.to_owned(),
            ..Rewrite::default()
        }
    }

    #[test]
    fn numbers_and_hosts_change_and_the_rest_stays() {
        for (rule, uri, expected) in [
            (
                rewrite(0, "", "", ""),
                "sip:a:pw@b:5070;x=y",
                "sip:a:pw@b:5070;x=y",
            ),
            (
                rewrite(1, "0049", "", ""),
                "sip:+4930@b;user=phone",
                "sip:00494930@b;user=phone",
            ),
            (rewrite(1, "", "", ""), "sip:%2B4930@b", "sip:4930@b"),
            (rewrite(9, "", "", ""), "sip:123@b", "sip:b"),
            (rewrite(0, "x", "", ""), "sip:b", "sip:x@b"),
            (rewrite(0, "", "op", "c:9"), "SIP:123@b:7;lr", "SIP:op@c:9;lr"),
            (rewrite(2, "+49", "", ""), "tel:0130;x=y", "tel:+4930;x=y"),
            (rewrite(9, "", "", ""), "tel:0130", "tel:0130"),
            (
                rewrite(0, "", "", "gw"),
                "tel:130;phone-context=b",
                "sip:130;phone-context=b@gw;user=phone",
            ),
            (rewrite(1, "a", "b", "c"), "urn:service:sos", "urn:service:sos"),
        ] {
            let mut buf = [0; 128];
            let mut w = Writer::new(&mut buf);
            put_uri(&rule, &Uri::parse(uri.as_bytes()).expect(uri), &mut w);
            let len = w.finish().expect("room");
            assert_eq!(String::from_utf8_lossy(&buf[..len]), expected, "{uri}");
            assert!(len <= uri.len() + bytes_added(&rule));
        }
    }

    #[test]
    fn lines_are_set_added_and_removed_each_once() {
        let line = |name: &str, value: &str| HeaderLine {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let rule = Rewrite {
            set: vec![line("X-A", "1"), line("Supported", "timer")],
            add: vec![line("x-b", "2")],
            remove: vec!["X-C".to_owned(), "x-a".to_owned(), "subject".to_owned()],
            ..Rewrite::default()
        };
        let text =
            b"BYE sip:a SIP/2.0\r\nx-a: 0\r\nX-B: 0\r\nX-C: 0\r\nk: 100rel\r\ns: hello\r\nX-A: 9\r\n\r\n";
        let mut table = Table::new();
        scan(text, &mut table).expect("well-formed");
        let mut edits = Edits::new();
        edit_headers(&rule, Message::new(text, &table), &mut edits);
        let mut buf = [0; 256];
        let len = edits.apply(text, &mut buf).expect("room");
        assert_eq!(
            String::from_utf8_lossy(&buf[..len]),
            "BYE sip:a SIP/2.0\r\nX-B: 0\r\nX-A: 1\r\nSupported: timer\r\nx-b: 2\r\n\r\n"
        );
    }
}
