//! The message code of the load generator: scan what came, write what goes.
//!
//! A message is scanned once into spans over its own bytes and written from a template whose literal parts were joined at
//! start (RFC 3261 §7). Nothing here allocates once its buffers have grown, and nothing is a `String`.

use memchr::{memchr, memmem};

/// Header lines that a scan keeps: what a response copies (RFC 3261 §8.2.6.2, §12.1.1) and what a dialog needs.
const LINES_MAX: usize = 40;

/// A part of the message, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Span {
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes of this span of `message`; nothing if the span is not of this message.
    pub fn of<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }
}

/// What a kept header line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    Via,
    From,
    To,
    CallId,
    Cseq,
    Contact,
    RecordRoute,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Register,
    Message,
    Options,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Request {
        method: Method,
        uri: Span,
    },
    /// 100 to 699.
    Response(u16),
}

/// Why a message is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Neither a request line nor a status line.
    Start,
    /// No empty line ends the header section.
    Unended,
    /// A header that every message must have (RFC 3261 §8.1.1) is missing.
    Missing,
    /// More header lines of the kinds that are kept than there is room for.
    TooMany,
    /// Content-Length is no number or says more than there is.
    Length,
}

/// One scanned message.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    pub start: Start,
    /// Header section with its empty line.
    pub head_length: u32,
    pub body_length: u32,
    lines: [(Name, Span); LINES_MAX],
    count: usize,
}

impl Scan {
    /// The kept lines in the order they came in, each with its line end.
    pub fn lines(&self) -> &[(Name, Span)] {
        &self.lines[..self.count]
    }

    /// What follows the colon of the first line called `name`.
    pub fn value<'a>(&self, message: &'a [u8], name: Name) -> Option<&'a [u8]> {
        let (_, span) = self.lines().iter().find(|(it, _)| *it == name)?;
        Some(line_value(span.of(message)))
    }
}

/// What a header line says after its colon, without the white space around it.
pub fn line_value(line: &[u8]) -> &[u8] {
    match memchr(b':', line) {
        Some(colon) => line[colon + 1..].trim_ascii(),
        None => &[],
    }
}

/// The header's meaning, by its long or compact name (RFC 3261 §7.3.3, §20).
fn name_of(name: &[u8]) -> Option<Name> {
    let is = |long: &[u8]| name.eq_ignore_ascii_case(long);
    match name.len() {
        1 => match name[0] | 0x20 {
            b'v' => Some(Name::Via),
            b'f' => Some(Name::From),
            b't' => Some(Name::To),
            b'i' => Some(Name::CallId),
            b'm' => Some(Name::Contact),
            _ => None,
        },
        2 if is(b"To") => Some(Name::To),
        3 if is(b"Via") => Some(Name::Via),
        4 if is(b"From") => Some(Name::From),
        4 if is(b"CSeq") => Some(Name::Cseq),
        7 if is(b"Call-ID") => Some(Name::CallId),
        7 if is(b"Contact") => Some(Name::Contact),
        12 if is(b"Record-Route") => Some(Name::RecordRoute),
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    text.iter().try_fold(0u32, |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0'))
    })
}

fn start_of(line: &[u8]) -> Option<Start> {
    if let Some(rest) = line.strip_prefix(b"SIP/2.0 ") {
        let code = number(rest.get(..3)?)?;
        return (100..700).contains(&code).then_some(Start::Response(code as u16));
    }
    let space = memchr(b' ', line)?;
    let method = match &line[..space] {
        b"INVITE" => Method::Invite,
        b"ACK" => Method::Ack,
        b"BYE" => Method::Bye,
        b"REGISTER" => Method::Register,
        b"MESSAGE" => Method::Message,
        b"OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    let length = memchr(b' ', &line[space + 1..])?;
    let uri = Span::new(space + 1, space + 1 + length);
    line.ends_with(b" SIP/2.0")
        .then_some(Start::Request { method, uri })
}

/// Scans the message that `bytes` begin with. A datagram may end in bytes that Content-Length doesn't count (RFC 3261
/// §18.3 has them discarded).
pub fn scan(bytes: &[u8]) -> Result<Scan, Fault> {
    let first = memchr(b'\n', bytes).ok_or(Fault::Start)?;
    let line = bytes[..first].strip_suffix(b"\r").unwrap_or(&bytes[..first]);
    let start = start_of(line).ok_or(Fault::Start)?;
    let mut scan = Scan {
        start,
        head_length: 0,
        body_length: 0,
        lines: [(Name::Via, Span::default()); LINES_MAX],
        count: 0,
    };
    let mut length = None;
    let mut seen = 0u8;
    let mut kept = false;
    let mut at = first + 1;
    loop {
        let end = at + memchr(b'\n', &bytes[at..]).ok_or(Fault::Unended)? + 1;
        let line = &bytes[at..end];
        if line == b"\r\n" || line == b"\n" {
            at = end;
            break;
        }
        if line[0] == b' ' || line[0] == b'\t' {
            // A folded line belongs to the one before it.
            if kept && scan.count > 0 {
                scan.lines[scan.count - 1].1.end = end as u32;
            }
            at = end;
            continue;
        }
        let colon = memchr(b':', line).ok_or(Fault::Start)?;
        let name = line[..colon].trim_ascii_end();
        kept = false;
        if let Some(name) = name_of(name) {
            if scan.count == LINES_MAX {
                return Err(Fault::TooMany);
            }
            seen |= 1 << name as u8;
            scan.lines[scan.count] = (name, Span::new(at, end));
            scan.count += 1;
            kept = true;
        } else if name.eq_ignore_ascii_case(b"Content-Length") || name.eq_ignore_ascii_case(b"l") {
            length = Some(number(line[colon + 1..].trim_ascii()).ok_or(Fault::Length)?);
        }
        at = end;
    }
    let mandatory = [Name::Via, Name::From, Name::To, Name::CallId, Name::Cseq];
    if mandatory.iter().any(|name| seen & (1 << *name as u8) == 0) {
        return Err(Fault::Missing);
    }
    scan.head_length = at as u32;
    scan.body_length = length.unwrap_or((bytes.len() - at) as u32);
    if scan.body_length as usize > bytes.len() - at {
        return Err(Fault::Length);
    }
    Ok(scan)
}

/// How long the message is that a stream's `bytes` begin with: `None` until its header section is whole. On a stream a
/// message without Content-Length has no body (RFC 3261 §18.3 has it mandatory).
pub fn framed(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(head) = memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = head + 4;
    let mut length = 0;
    for line in bytes[..head].split(|byte| *byte == b'\n') {
        let Some(colon) = memchr(b':', line) else { continue };
        let name = line[..colon].trim_ascii_end();
        if name.eq_ignore_ascii_case(b"Content-Length") || name.eq_ignore_ascii_case(b"l") {
            length = number(line[colon + 1..].trim_ascii()).ok_or(Fault::Length)? as usize;
        }
    }
    Ok(Some(head + length))
}

/// The URI of a Contact, To or Route value: between its brackets, or up to the first parameter.
pub fn uri_of(value: &[u8]) -> &[u8] {
    if let Some(open) = memchr(b'<', value) {
        let rest = &value[open + 1..];
        return &rest[..memchr(b'>', rest).unwrap_or(rest.len())];
    }
    value[..memchr(b';', value).unwrap_or(value.len())].trim_ascii()
}

/// The tag of a From or To value: what follows `tag=` outside the brackets.
pub fn tag_of(value: &[u8]) -> Option<&[u8]> {
    let rest = &value[memchr(b'>', value).map_or(0, |close| close + 1)..];
    let at = memmem::find(rest, b";tag=")? + 5;
    let tag = &rest[at..];
    Some(
        &tag[..tag
            .iter()
            .position(|byte| matches!(byte, b';' | b' ' | b'\r'))
            .unwrap_or(tag.len())],
    )
}

/// The branch of a Via value.
pub fn branch_of(value: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(value, b"branch=")? + 7;
    let branch = &value[at..];
    Some(
        &branch[..branch
            .iter()
            .position(|byte| matches!(byte, b';' | b',' | b' ' | b'\r'))
            .unwrap_or(branch.len())],
    )
}

/// The user part's digits after its first character: which phone a URI of ours means.
pub fn phone_of(uri: &[u8]) -> Option<u32> {
    let user = uri.strip_prefix(b"sip:")?;
    number(user[..memchr(b'@', user)?].get(1..)?)
}

/// Appends the Route headers of a caller's dialog: the Record-Route values of the 2xx, last first (RFC 3261 §12.1.2).
/// `spans` is scratch room.
pub fn write_routes(message: &[u8], scan: &Scan, spans: &mut Vec<Span>, out: &mut Vec<u8>) {
    spans.clear();
    for (_, line) in scan.lines().iter().filter(|(name, _)| *name == Name::RecordRoute) {
        let Some(colon) = memchr(b':', line.of(message)) else {
            continue;
        };
        let start = line.start as usize + colon + 1;
        let (mut begin, mut bracketed) = (start, false);
        for (at, byte) in message.iter().enumerate().take(line.end as usize).skip(start) {
            match byte {
                b'<' => bracketed = true,
                b'>' => bracketed = false,
                b',' if !bracketed => {
                    spans.push(Span::new(begin, at));
                    begin = at + 1;
                }
                _ => {}
            }
        }
        spans.push(Span::new(begin, line.end as usize));
    }
    for span in spans.iter().rev() {
        out.extend_from_slice(b"Route: ");
        out.extend_from_slice(span.of(message).trim_ascii());
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the response that a callee gives: every Via, Record-Route, From, To, Call-ID and CSeq as they came (RFC 3261
/// §8.2.6.2, §12.1.1), `tag` put to a To that has none, then `rest`, which begins with a header and holds the empty line.
pub fn write_response(
    message: &[u8],
    scan: &Scan,
    status: &[u8],
    tag: &[u8],
    rest: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"SIP/2.0 ");
    out.extend_from_slice(status);
    out.extend_from_slice(b"\r\n");
    for (name, line) in scan.lines() {
        let line = line.of(message);
        match name {
            Name::Contact => {}
            Name::To if tag_of(line_value(line)).is_none() => {
                out.extend_from_slice(line.trim_ascii_end());
                out.extend_from_slice(b";tag=");
                out.extend_from_slice(tag);
                out.extend_from_slice(b"\r\n");
            }
            Name::Via | Name::From | Name::To | Name::CallId | Name::Cseq | Name::RecordRoute => {
                out.extend_from_slice(line);
            }
        }
    }
    out.extend_from_slice(rest);
}

/// What differs between two messages of one template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The request URI of a request within a dialog.
    Target,
    /// Route lines, whole.
    Routes,
    /// `address:port` that the phone is reached at.
    Local,
    Branch,
    /// Both users with their prefixes.
    Caller,
    Callee,
    CallId,
    FromTag,
    /// The whole To value, tag included.
    To,
    Cseq,
    Expires,
}

pub const FIELDS: usize = 11;
const FIELD_NAMES: [(&str, Field); FIELDS] = [
    ("{target}", Field::Target),
    ("{routes}", Field::Routes),
    ("{local}", Field::Local),
    ("{branch}", Field::Branch),
    ("{caller}", Field::Caller),
    ("{callee}", Field::Callee),
    ("{call-id}", Field::CallId),
    ("{from-tag}", Field::FromTag),
    ("{to}", Field::To),
    ("{cseq}", Field::Cseq),
    ("{expires}", Field::Expires),
];

/// What a template's fields are in one message.
#[derive(Clone, Copy, Default)]
pub struct Values<'a>([&'a [u8]; FIELDS]);

impl<'a> Values<'a> {
    pub fn with(mut self, field: Field, value: &'a [u8]) -> Values<'a> {
        self.0[field as usize] = value;
        self
    }
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Vec<u8>),
    Field(Field),
}

/// A message with fields, made once at start from text with `{field}`s.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    pub fn new(text: &str) -> Template {
        let mut pieces = Vec::new();
        let mut rest = text;
        loop {
            let next = FIELD_NAMES
                .iter()
                .filter_map(|(name, field)| Some((rest.find(name)?, *name, *field)))
                .min_by_key(|it| it.0);
            let Some((at, name, field)) = next else { break };
            pieces.push(Piece::Literal(rest.as_bytes()[..at].to_vec()));
            pieces.push(Piece::Field(field));
            rest = &rest[at + name.len()..];
        }
        pieces.push(Piece::Literal(rest.as_bytes().to_vec()));
        Template { pieces }
    }

    /// Appends the message.
    pub fn write(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Field(field) => out.extend_from_slice(values.0[*field as usize]),
            }
        }
    }
}

/// Eight hexadecimal digits.
pub fn hex8(value: u32) -> [u8; 8] {
    std::array::from_fn(|at| b"0123456789abcdef"[(value >> (28 - 4 * at)) as usize & 15])
}

/// The number that eight hexadecimal digits mean.
pub fn from_hex8(text: &[u8]) -> Option<u32> {
    if text.len() != 8 {
        return None;
    }
    text.iter()
        .try_fold(0u32, |sum, byte| Some(sum << 4 | (*byte as char).to_digit(16)?))
}

/// A user of ours: a prefix and seven digits.
pub fn user(prefix: u8, phone: u32) -> [u8; 8] {
    let mut text = [prefix; 8];
    let mut rest = phone;
    for digit in text[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

/// Ten digits, for a CSeq that is as long in every message.
pub fn digits10(value: u32) -> [u8; 10] {
    let mut text = [b'0'; 10];
    let mut rest = value;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"SIP/2.0 200 OK\r\nv: SIP/2.0/UDP 127.0.0.1:6000;branch=z9hG4bKabc;received=127.0.0.1\r\n\
        Record-Route: <sip:a;lr>, <sip:b,c;lr>\r\nRecord-Route: <sip:d;lr>\r\nf: <sip:1@x>;tag=q\r\nTo: <sip:2@x>\r\n ;tag=w\r\n\
        Call-ID: k\r\nCSeq: 1 INVITE\r\nm: \"tag=z\" <sip:2@y;x=1>;q=1\r\nl: 3\r\n\r\nabcrest";

    #[test]
    fn a_response_is_scanned_with_compact_names_folded_lines_and_what_follows_its_body() {
        let scan = scan(OK).unwrap();
        assert_eq!(scan.start, Start::Response(200));
        assert_eq!(scan.body_length, 3);
        assert_eq!(OK.len() - scan.head_length as usize, 7);
        assert_eq!(
            branch_of(scan.value(OK, Name::Via).unwrap()),
            Some(&b"z9hG4bKabc"[..])
        );
        assert_eq!(tag_of(scan.value(OK, Name::To).unwrap()), Some(&b"w"[..]));
        assert_eq!(uri_of(scan.value(OK, Name::Contact).unwrap()), b"sip:2@y;x=1");
        assert_eq!(framed(OK), Ok(Some(OK.len() - 4)));
    }

    #[test]
    fn the_route_set_of_a_caller_is_the_record_routes_backwards() {
        let mut out = Vec::new();
        write_routes(OK, &scan(OK).unwrap(), &mut Vec::new(), &mut out);
        assert_eq!(
            out,
            b"Route: <sip:d;lr>\r\nRoute: <sip:b,c;lr>\r\nRoute: <sip:a;lr>\r\n"
        );
    }

    #[test]
    fn a_request_tells_its_method_and_its_phone() {
        let message = b"BYE sip:20000042@127.0.0.1 SIP/2.0\r\nVia: x\r\nFrom: x\r\nTo: x\r\nCall-ID: x\r\nCSeq: 2 BYE\r\n\r\n";
        let Start::Request { method, uri } = scan(message).unwrap().start else {
            panic!("a response")
        };
        assert_eq!(method, Method::Bye);
        assert_eq!(phone_of(uri.of(message)), Some(42));
        assert_eq!(phone_of(b"sip:@127.0.0.1"), None);
    }

    #[test]
    fn what_is_no_message_is_refused_by_its_fault() {
        assert_eq!(scan(b"").unwrap_err(), Fault::Start);
        assert_eq!(scan(b"HELLO\r\n\r\n").unwrap_err(), Fault::Start);
        assert_eq!(scan(b"SIP/2.0 999 Odd\r\n\r\n").unwrap_err(), Fault::Start);
        assert_eq!(scan(b"SIP/2.0 200 OK\r\nVia: x\r\n").unwrap_err(), Fault::Unended);
        assert_eq!(
            scan(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n").unwrap_err(),
            Fault::Missing
        );
        let short = b"SIP/2.0 200 OK\r\nv: x\r\nf: x\r\nt: x\r\ni: x\r\nCSeq: 1 A\r\nl: 9\r\n\r\nabc";
        assert_eq!(scan(short).unwrap_err(), Fault::Length);
        assert_eq!(framed(&short[..40]), Ok(None));
        for cut in 0..OK.len() {
            let _ = (scan(&OK[..cut]), framed(&OK[..cut]));
        }
    }

    #[test]
    fn a_response_copies_what_it_must_and_tags_the_to_that_has_no_tag() {
        let message =
            b"INVITE sip:2@x SIP/2.0\r\nVia: one\r\nVia: two\r\nRecord-Route: <sip:p;lr>\r\nSubject: no\r\n\
            From: a;tag=1\r\nTo: <sip:2@x>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:1@y>\r\n\r\n";
        let mut out = Vec::new();
        write_response(
            message,
            &scan(message).unwrap(),
            b"200 OK",
            b"t9",
            b"Content-Length: 0\r\n\r\n",
            &mut out,
        );
        assert_eq!(
            out,
            b"SIP/2.0 200 OK\r\nVia: one\r\nVia: two\r\nRecord-Route: <sip:p;lr>\r\nFrom: a;tag=1\r\n\
            To: <sip:2@x>;tag=t9\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn a_template_puts_every_value_where_its_field_was() {
        let template = Template::new("A {caller} b{callee}{caller}\r\n{cseq}");
        let mut out = Vec::new();
        let values = Values::default()
            .with(Field::Caller, b"x")
            .with(Field::Callee, b"yy")
            .with(Field::Cseq, b"7");
        template.write(&values, &mut out);
        assert_eq!(out, b"A x byyx\r\n7");
    }

    #[test]
    fn numbers_come_back_as_they_were_written() {
        for value in [0, 1, 0xdead_beef, u32::MAX] {
            assert_eq!(from_hex8(&hex8(value)), Some(value));
        }
        assert_eq!(from_hex8(b"0123456g"), None);
        assert_eq!(&user(b'2', 1_234_567), b"21234567");
        assert_eq!(&digits10(4_000_000_001), b"4000000001");
    }
}
