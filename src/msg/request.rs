//! Proofs: a request or response whose mandatory parts are there once and well-formed (RFC 3261 §8.1.1, §8.2.2), parsed once
//! and then carried along; and what can be saved of a request that fails.

use super::cseq::CSeq;
use super::error::{ErrorKind, ParseError};
use super::lex::{self, LWS};
use super::method::Method;
use super::name::Name;
use super::name_addr::NameAddr;
use super::scan::{Line, Message, Start};
use super::start::is_status_line;
use super::uri::Uri;
use super::via::Via;

/// A request that can be handled and answered.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub msg: Message<'a>,
    pub method: Method,
    pub method_text: &'a [u8],
    /// The request URI as received.
    pub uri: &'a [u8],
    /// The same in its parts. Its scheme may be one that nobody here serves (416).
    pub request_uri: Uri<'a>,
    /// The topmost Via.
    pub via: Via<'a>,
    pub from: NameAddr<'a>,
    pub to: NameAddr<'a>,
    /// Never empty. RFC 2543 clients send none.
    pub from_tag: Option<&'a [u8]>,
    /// Never empty.
    pub to_tag: Option<&'a [u8]>,
    pub call_id: &'a [u8],
    /// Its method is the request's.
    pub cseq: CSeq<'a>,
    pub max_forwards: Option<u8>,
}

/// A response that can be matched.
#[derive(Clone, Copy)]
pub struct Response<'a> {
    pub msg: Message<'a>,
    /// 100 to 699.
    pub status: u16,
    pub reason: &'a [u8],
    pub via: Via<'a>,
    pub from: NameAddr<'a>,
    pub to: NameAddr<'a>,
    pub from_tag: Option<&'a [u8]>,
    pub to_tag: Option<&'a [u8]>,
    pub call_id: &'a [u8],
    pub cseq: CSeq<'a>,
}

impl<'a> Request<'a> {
    /// `msg` must have been scanned without error.
    pub fn check(msg: Message<'a>) -> Result<Request<'a>, ParseError> {
        let (method, method_span, uri_span) = match msg.start() {
            Start::Request {
                method,
                method_span,
                uri,
            } => (method, method_span, uri),
            Start::Response { .. } | Start::Unreadable => {
                return Err(ParseError::new(ErrorKind::StartLine, msg.head_start()));
            }
        };
        let uri = uri_span.of(msg.bytes);
        let request_uri = Uri::parse(uri).map_err(|m| m.within(ErrorKind::BadUri, uri_span.start))?;
        // RFC 3261 §19.1.1, table 1: a request URI has no headers.
        if !request_uri.headers.is_empty() {
            let at = msg.span_of(request_uri.headers).start;
            return Err(ParseError::new(ErrorKind::BadUri, at));
        }
        let common = Common::check(msg)?;
        let method_text = method_span.of(msg.bytes);
        // RFC 3261 §8.1.1.5: the CSeq's method is the request's; methods compare with case.
        if common.cseq.method_text != method_text {
            let at = msg.span_of(common.cseq.method_text).start;
            return Err(ParseError::new(ErrorKind::CSeqMethodMismatch, at));
        }
        Ok(Request {
            msg,
            method,
            method_text,
            uri,
            request_uri,
            via: common.via,
            from: common.from,
            to: common.to,
            from_tag: common.from_tag,
            to_tag: common.to_tag,
            call_id: common.call_id,
            cseq: common.cseq,
            max_forwards: max_forwards(msg)?,
        })
    }
}

impl<'a> Response<'a> {
    /// `msg` must have been scanned without error.
    pub fn check(msg: Message<'a>) -> Result<Response<'a>, ParseError> {
        let (status, reason) = match msg.start() {
            Start::Response { status, reason } => (status, reason),
            Start::Request { .. } | Start::Unreadable => {
                return Err(ParseError::new(ErrorKind::StartLine, msg.head_start()));
            }
        };
        let common = Common::check(msg)?;
        Ok(Response {
            msg,
            status,
            reason: reason.of(msg.bytes),
            via: common.via,
            from: common.from,
            to: common.to,
            from_tag: common.from_tag,
            to_tag: common.to_tag,
            call_id: common.call_id,
            cseq: common.cseq,
        })
    }
}

/// What requests and responses have in common.
struct Common<'a> {
    via: Via<'a>,
    from: NameAddr<'a>,
    to: NameAddr<'a>,
    from_tag: Option<&'a [u8]>,
    to_tag: Option<&'a [u8]>,
    call_id: &'a [u8],
    cseq: CSeq<'a>,
}

impl<'a> Common<'a> {
    #[inline(always)]
    fn check(msg: Message<'a>) -> Result<Common<'a>, ParseError> {
        let via = Via::top(msg)?;
        let (from, from_tag) = party(msg, Name::From)?;
        let (to, to_tag) = party(msg, Name::To)?;
        let call_id_line = single(msg, Name::CallId)?;
        let call_id = msg.value_of(call_id_line);
        let visible_len = lex::visible_len(call_id);
        if call_id.is_empty() || visible_len < call_id.len() {
            let at = call_id_line.value.start + visible_len as u32;
            return Err(ParseError::new(ErrorKind::BadCallId, at));
        }
        let cseq_line = single(msg, Name::CSeq)?;
        let cseq =
            CSeq::parse(msg.value_of(cseq_line)).map_err(|error| error.shifted(cseq_line.value.start))?;
        Ok(Common {
            via,
            from,
            to,
            from_tag,
            to_tag,
            call_id,
            cseq,
        })
    }
}

/// The line of a header field that stands once (RFC 3261 §7.3.1; RFC 4475 §3.3.8).
fn single<'a>(msg: Message<'a>, name: Name) -> Result<&'a Line, ParseError> {
    let mut lines = msg.lines_of(name);
    let line = lines
        .next()
        .ok_or(ParseError::new(ErrorKind::Missing(name), msg.head_end()))?;
    match lines.next() {
        None => Ok(line),
        Some(second) => Err(ParseError::new(ErrorKind::DuplicateHeader(name), second.start)),
    }
}

/// From or To, and its tag.
#[inline(always)]
fn party<'a>(msg: Message<'a>, name: Name) -> Result<(NameAddr<'a>, Option<&'a [u8]>), ParseError> {
    let line = single(msg, name)?;
    let address = NameAddr::parse(msg.value_of(line))
        .map_err(|m| m.within(ErrorKind::BadNameAddr(name), line.value.start))?;
    match address.tag() {
        Some([]) => Err(ParseError::new(ErrorKind::BadTag, line.value.start)),
        tag => Ok((address, tag)),
    }
}

/// RFC 3261 §20.22: 0 to 255, once.
fn max_forwards(msg: Message<'_>) -> Result<Option<u8>, ParseError> {
    if msg.line(Name::MaxForwards).is_none() {
        return Ok(None);
    }
    let line = single(msg, Name::MaxForwards)?;
    match lex::number(msg.value_of(line)).map(u8::try_from) {
        Some(Ok(hops)) => Ok(Some(hops)),
        Some(Err(_)) | None => Err(ParseError::new(ErrorKind::BadMaxForwards, line.value.start)),
    }
}

/// The seconds in a `delta-seconds` value, as Expires (RFC 3261 §20.19) and Min-Expires hold it; `None` when it is none.
/// A number that is too large for 32 bits counts as the largest, which the registrar's own limit brings down.
pub fn delta_seconds(value: &[u8]) -> Option<u32> {
    lex::number(value)
}

/// The value of the Expires header field, `Ok(None)` when there is none.
pub fn expires(msg: Message<'_>) -> Result<Option<u32>, ParseError> {
    match msg.line(Name::Expires) {
        None => Ok(None),
        Some(line) => match delta_seconds(msg.value_of(line)) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(ParseError::new(ErrorKind::BadExpires, line.value.start)),
        },
    }
}

/// What a 400 or 505 to a request that fails [`scan`](super::scan::scan) or [`Request::check`] can be built from: a Via that
/// says where to send it, and whatever of From, To, Call-ID and CSeq is there (RFC 4475 §3.3.1: a request without them is
/// answered all the same, if possible).
#[derive(Clone, Copy)]
pub struct Salvage<'a> {
    pub msg: Message<'a>,
    pub via: Via<'a>,
    /// To has no tag yet and is well-formed, so one can be added.
    pub to_takes_tag: bool,
}

impl<'a> Salvage<'a> {
    /// `None` when the message is a response or an ACK, which are never answered (RFC 3261 §17.1.1.3, §18.3), or when there is
    /// no top Via that can be read.
    pub fn of(msg: Message<'a>) -> Option<Salvage<'a>> {
        let answerable = match msg.start() {
            Start::Request { method, .. } => method != Method::Ack,
            Start::Response { .. } => false,
            // The line begins as a request's does, and may be one: what it asks for stands in the CSeq too.
            Start::Unreadable => {
                let line = msg.start_line();
                !is_status_line(line) && !line.starts_with(b"ACK ")
            }
        };
        let method = msg
            .value(Name::CSeq)
            .and_then(|cseq| cseq.rsplit(|&byte| lex::is(byte, LWS)).next());
        if !answerable || method == Some(b"ACK") {
            return None;
        }
        // Nothing of ours carries a CR that ends no line: the next reader might take it for a line end.
        let copied = [
            Name::Via,
            Name::From,
            Name::To,
            Name::CallId,
            Name::CSeq,
            Name::Timestamp,
        ];
        let mut lines = copied.into_iter().flat_map(|name| msg.lines_of(name));
        if lines.any(|line| has_bare_cr(msg.line_bytes(line))) {
            return None;
        }
        let to = msg.value(Name::To).map(NameAddr::parse);
        Some(Salvage {
            msg,
            via: Via::top(msg).ok()?,
            to_takes_tag: to.is_some_and(|to| to.is_ok_and(|to| to.tag().is_none())),
        })
    }
}

fn has_bare_cr(line: &[u8]) -> bool {
    memchr::memchr_iter(b'\r', line).any(|at| line.get(at + 1) != Some(&b'\n'))
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Table, scan};
    use super::*;

    const HEAD: &str = "Via: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@a>;tag=1\r\nTo: sip:b@b;tag=2\r\n\
        Call-ID: x@y\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\n";

    fn request(start: &str, lines: &str) -> Result<(Option<u8>, Vec<u8>), ParseError> {
        let text = format!("{start}\r\n{lines}\r\n");
        let mut table = Table::new();
        scan(text.as_bytes(), &mut table)?;
        let request = Request::check(Message::new(text.as_bytes(), &table))?;
        Ok((request.max_forwards, request.to_tag.unwrap_or_default().to_vec()))
    }

    #[test]
    fn a_request_with_all_it_needs_passes() {
        assert_eq!(
            request("OPTIONS sip:b@b SIP/2.0", HEAD),
            Ok((Some(70), b"2".to_vec()))
        );
    }

    #[test]
    fn each_missing_or_double_header_field_is_named() {
        for name in [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq] {
            let without: String = HEAD
                .split_inclusive("\r\n")
                .filter(|line| !line.starts_with(name.text()))
                .collect();
            let kind = |lines: &str| request("OPTIONS sip:b@b SIP/2.0", lines).map_err(|error| error.kind);
            assert_eq!(kind(&without), Err(ErrorKind::Missing(name)));
            if name != Name::Via {
                let line = HEAD
                    .split_inclusive("\r\n")
                    .find(|line| line.starts_with(name.text()))
                    .expect("there");
                assert_eq!(
                    kind(&format!("{HEAD}{line}")),
                    Err(ErrorKind::DuplicateHeader(name))
                );
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_value_is_named() {
        for (from, to, kind) in [
            ("sip:a@a>", "sip:a@a", ErrorKind::BadNameAddr(Name::From)),
            ("tag=2", "tag=", ErrorKind::BadTag),
            ("x@y", "x y", ErrorKind::BadCallId),
            ("x@y", "", ErrorKind::BadCallId),
            ("1 OPTIONS", "1 INVITE", ErrorKind::CSeqMethodMismatch),
            ("1 OPTIONS", "1 options", ErrorKind::CSeqMethodMismatch),
            ("1 OPTIONS", "2147483648 OPTIONS", ErrorKind::CSeqOverflow),
            ("70", "256", ErrorKind::BadMaxForwards),
            ("70", "", ErrorKind::BadMaxForwards),
            ("UDP a", "UDP", ErrorKind::BadVia),
        ] {
            let lines = HEAD.replacen(from, to, 1);
            assert_ne!(lines, HEAD);
            let error = request("OPTIONS sip:b@b SIP/2.0", &lines).map_err(|error| error.kind);
            assert_eq!(error, Err(kind), "{to}");
        }
        let uri = request("OPTIONS <sip:b@b> SIP/2.0", HEAD).map_err(|error| error.kind);
        assert_eq!(uri, Err(ErrorKind::BadUri));
    }

    #[test]
    fn only_what_may_be_answered_is_salvaged() {
        for (start, lines, salvaged) in [
            ("OPTIONS sip:b@b SIP/9.0", HEAD.to_owned(), true),
            ("OPTIONS  sip:b@b SIP/2.0", HEAD.to_owned(), true),
            ("ACK sip:b@b SIP/9.0", HEAD.to_owned(), false),
            ("ACK  sip:b@b SIP/2.0", HEAD.to_owned(), false),
            (
                "OPTIONS  sip:b@b SIP/2.0",
                HEAD.replace("1 OPTIONS", "1 ACK"),
                false,
            ),
            ("SIP/9.0 200 OK", HEAD.to_owned(), false),
            ("SIP/2.0 200 OK", HEAD.to_owned(), false),
            ("OPTIONS sip:b@b SIP/9.0", HEAD.replace("UDP a", "UDP"), false),
            ("OPTIONS sip:b@b SIP/2.0", HEAD.replace("CSeq:", "X:"), true),
            ("OPTIONS sip:b@b SIP/2.0", HEAD.replace("To:", "X:"), true),
            ("OPTIONS sip:b@b SIP/2.0", HEAD.replace("Via:", "X:"), false),
            ("OPTIONS sip:b@b SIP/2.0", HEAD.replace("x@y", "x\ry"), false),
            ("OPTIONS sip:b@b SIP/9.0", HEAD.replace("CSeq: 1", "CSeq:"), true),
            (
                "OPTIONS sip:b@b SIP/2.0",
                HEAD.replace("Call-ID:", "X:").replace("To:", "X:"),
                true,
            ),
        ] {
            let text = format!("{start}\r\n{lines}\r\n");
            let mut table = Table::new();
            let _ = scan(text.as_bytes(), &mut table);
            assert_eq!(
                Salvage::of(Message::new(text.as_bytes(), &table)).is_some(),
                salvaged,
                "{text}"
            );
        }
    }

    #[test]
    fn an_expiry_is_digits_or_a_mistake() {
        for (lines, expiry) in [
            ("", Ok(None)),
            ("Expires: 0\r\n", Ok(Some(0))),
            ("EXPIRES : 600000\r\n", Ok(Some(600_000))),
            ("Expires: 99999999999999\r\n", Ok(Some(u32::MAX))),
            ("Expires:\r\n", Err(ErrorKind::BadExpires)),
            ("Expires: -1\r\n", Err(ErrorKind::BadExpires)),
            (
                "Expires: Thu, 01 Dec 1994 16:00:00 GMT\r\n",
                Err(ErrorKind::BadExpires),
            ),
        ] {
            let text = format!("REGISTER sip:b SIP/2.0\r\n{lines}\r\n");
            let mut table = Table::new();
            scan(text.as_bytes(), &mut table).expect("well-formed");
            let found = expires(Message::new(text.as_bytes(), &table));
            assert_eq!(found.map_err(|error| error.kind), expiry, "{lines}");
        }
    }
}
