//! The first line: request line or status line (RFC 3261 §7.1, §7.2).
//!
//! RFC 4475 §3.1.2 settles how strict it is: one space between the parts and none at the ends. What a recipient guesses
//! about a line with more spaces, the next one may guess otherwise.

use super::Span;
use super::error::{ErrorKind, ParseError};
use super::lanes;
use super::lex::{self, TOKEN};
use super::method::Method;

/// What the first line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Request {
        method: Method,
        method_span: Span,
        uri: Span,
    },
    Response {
        status: u16,
        reason: Span,
    },
    Unreadable,
}

/// A start line as far as it could be read, and what is wrong with it.
pub(super) struct StartLine {
    pub start: Start,
    pub error: Option<ParseError>,
}

/// Reads `line`, which begins at byte `at` of the message and has lost its line end.
pub(super) fn start_line(line: &[u8], at: u32) -> StartLine {
    if is_status_line(line) {
        status_line(line, at)
    } else {
        request_line(line, at)
    }
}

/// A method is a token, which `/` is not: so this settles what the line is meant to be.
pub(super) fn is_status_line(line: &[u8]) -> bool {
    line.get(..4)
        .is_some_and(|word| word.eq_ignore_ascii_case(b"SIP/"))
}

/// Offsets in the line as a span of the message.
const fn span(at: u32, start: usize, end: usize) -> Span {
    Span::new(at + start as u32, at + end as u32)
}

#[cold]
const fn fail(start: Start, kind: ErrorKind, at: u32, offset: usize) -> StartLine {
    StartLine {
        start,
        error: Some(ParseError::new(kind, at + offset as u32)),
    }
}

/// `SIP-Version SP Status-Code SP Reason-Phrase`
fn status_line(line: &[u8], at: u32) -> StartLine {
    let version_end = lanes::find(line, |block| block.eq(b' '));
    match version(&line[..version_end]) {
        Some(true) => {}
        Some(false) => return fail(Start::Unreadable, ErrorKind::Version, at, 0),
        None => return fail(Start::Unreadable, ErrorKind::StartLine, at, 0),
    }
    let code_start = version_end + 1;
    let code_end = version_end + 4;
    let reason_start = match line.get(code_end) {
        Some(b' ') => code_end + 1,
        // The space before an empty reason phrase is mandatory, and some leave it away.
        None => line.len(),
        Some(_) => return fail(Start::Unreadable, ErrorKind::StartLine, at, code_end),
    };
    match line.get(code_start..code_end).and_then(lex::number) {
        // RFC 3261 §7.2: the classes are 1xx to 6xx.
        Some(status @ 100..=699) => StartLine {
            start: Start::Response {
                status: status as u16,
                reason: span(at, reason_start, line.len()),
            },
            error: None,
        },
        Some(_) | None => fail(Start::Unreadable, ErrorKind::StartLine, at, code_start),
    }
}

/// `Method SP Request-URI SP SIP-Version`
fn request_line(line: &[u8], at: u32) -> StartLine {
    let malformed = |offset| {
        let kind = if means_sip(line) {
            ErrorKind::StartLine
        } else {
            ErrorKind::NotSip
        };
        fail(Start::Unreadable, kind, at, offset)
    };
    let method_end = lanes::find(line, |block| block.eq(b' '));
    let method_text = &line[..method_end];
    let method = Method::lookup(method_text);
    if method == Method::Other && !lex::is_token(method_text) {
        return malformed(lex::skip(line, 0, TOKEN));
    }
    let uri_start = method_end + 1;
    if uri_start > line.len() {
        return malformed(method_end);
    }
    let uri_len = lex::visible_len(&line[uri_start..]);
    let uri_end = uri_start + uri_len;
    if uri_len == 0 || line.get(uri_end) != Some(&b' ') {
        return malformed(uri_end);
    }
    let start = Start::Request {
        method,
        method_span: span(at, 0, method_end),
        uri: span(at, uri_start, uri_end),
    };
    match version(&line[uri_end + 1..]) {
        Some(true) => StartLine { start, error: None },
        Some(false) => fail(start, ErrorKind::Version, at, uri_end + 1),
        None => malformed(uri_end + 1),
    }
}

/// Whether a line that is no request line was meant as one of SIP: the protocol's name stands in it behind a space.
fn means_sip(line: &[u8]) -> bool {
    memchr::memchr_iter(b' ', line).any(|at| {
        line.get(at + 1..at + 5)
            .is_some_and(|word| word.eq_ignore_ascii_case(b"SIP/"))
    })
}

/// `SIP/1*DIGIT.1*DIGIT` in any case (RFC 3261 §7.1): whether it is 2.0; `None` when it is no version at all.
#[inline]
fn version(text: &[u8]) -> Option<bool> {
    if text == b"SIP/2.0" {
        return Some(true);
    }
    unusual_version(text)
}

#[inline(never)]
fn unusual_version(text: &[u8]) -> Option<bool> {
    if text.eq_ignore_ascii_case(b"SIP/2.0") {
        return Some(true);
    }
    let (protocol, number) = text.split_at_checked(4)?;
    let dot = memchr::memchr(b'.', number)?;
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    (protocol.eq_ignore_ascii_case(b"SIP/") && digits(&number[..dot]) && digits(&number[dot + 1..]))
        .then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_both_kinds_of_line_are_found() {
        let line = b"NEW!%*_+`'~.-x tel:1;a=b sip/2.0";
        let Start::Request {
            method,
            method_span,
            uri,
        } = start_line(line, 0).start
        else {
            panic!("a request");
        };
        assert_eq!(
            (method, method_span.of(line)),
            (Method::Other, &b"NEW!%*_+`'~.-x"[..])
        );
        assert_eq!(uri.of(line), b"tel:1;a=b");
        let line = b"SIP/2.0 486 Busy  \xC3\x9F ";
        let Start::Response { status, reason } = start_line(line, 0).start else {
            panic!("a response");
        };
        assert_eq!((status, reason.of(line)), (486, &b"Busy  \xC3\x9F "[..]));
    }

    #[test]
    fn one_space_and_version_2_0_are_asked_for() {
        for (line, wrong) in [
            ("INVITE sip:b SIP/2.0", None),
            ("SIP/2.0 200 OK", None),
            ("SIP/2.0 100 ", None),
            ("SIP/2.0 100", None),
            ("INVITE  sip:b SIP/2.0", Some((ErrorKind::StartLine, 7))),
            ("INVITE sip:b  SIP/2.0", Some((ErrorKind::StartLine, 13))),
            ("INVITE sip:b SIP/2.0 ", Some((ErrorKind::StartLine, 13))),
            (" INVITE sip:b SIP/2.0", Some((ErrorKind::StartLine, 0))),
            ("INVITE sip:b; lr SIP/2.0", Some((ErrorKind::StartLine, 14))),
            ("INVITE\tsip:b SIP/2.0", Some((ErrorKind::StartLine, 6))),
            ("INV<TE sip:b SIP/2.0", Some((ErrorKind::StartLine, 3))),
            ("INVITE sip:b SIP/x", Some((ErrorKind::StartLine, 13))),
            ("INVITE sip:b SIP/2.0x", Some((ErrorKind::StartLine, 13))),
            ("INVITE sip:b SIP/7.0", Some((ErrorKind::Version, 13))),
            ("INVITE sip:b SIP/2.00", Some((ErrorKind::Version, 13))),
            ("SIP/3.0 200 OK", Some((ErrorKind::Version, 0))),
            ("SIP/2 200 OK", Some((ErrorKind::StartLine, 0))),
            ("SIP/2.0 4294967301 better", Some((ErrorKind::StartLine, 11))),
            ("SIP/2.0 099 low", Some((ErrorKind::StartLine, 8))),
            ("SIP/2.0 700 high", Some((ErrorKind::StartLine, 8))),
            ("SIP/2.0  200 OK", Some((ErrorKind::StartLine, 11))),
            ("SIP/2.0 +20 OK", Some((ErrorKind::StartLine, 8))),
            ("SIP/2.0", Some((ErrorKind::StartLine, 8))),
            ("GET / HTTP/1.1", Some((ErrorKind::NotSip, 6))),
            ("hello", Some((ErrorKind::NotSip, 5))),
            ("", Some((ErrorKind::NotSip, 0))),
        ] {
            let error = wrong.map(|(kind, at)| ParseError::new(kind, 100 + at));
            assert_eq!(start_line(line.as_bytes(), 100).error, error, "{line}");
        }
    }

    #[test]
    fn a_request_of_another_version_is_read_all_the_same() {
        let read = start_line(b"ACK sip:b SIP/7.0", 0).start;
        assert!(matches!(
            read,
            Start::Request {
                method: Method::Ack,
                ..
            }
        ));
    }
}
