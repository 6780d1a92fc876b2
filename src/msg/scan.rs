//! One pass over the received bytes: where the start line, every header line and the body lie (RFC 3261 §7).
//!
//! Lines end with CRLF. A bare LF is taken as a line end too, because some senders write nothing else and no recipient reads
//! it in another way. A CR without LF is an error: we would carry it on as part of a value, and the next hop might take it
//! for a line end and see a header field that we have not seen.
//!
//! RFC 4475 §3.1.2 settles what the start line may look like: one space between its parts, none at its ends.

use memchr::memchr2;

use super::Span;
use super::error::{ErrorKind, ParseError};
use super::lex::{self, Elements, LWS, TOKEN, VISIBLE};
use super::method::Method;
use super::name::Name;

/// Header lines that one message may have.
pub const LINES_MAX: usize = 256;

/// Bytes that one message may have: positions are kept in 32 bits with room to add two of them.
pub const BYTES_MAX: usize = 1 << 30;

/// One header field line, with the lines that it is folded over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    pub name: Name,
    /// Index of the next line of that name in the table, 0 for none (line 0 is never the next).
    next: u8,
    /// First byte of the name.
    pub start: u32,
    /// One past the name's last byte.
    pub name_end: u32,
    /// Without LWS at its ends; folds inside stay.
    pub value: Span,
    /// One past the line end.
    pub end: u32,
}

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

/// Where everything lies in the message scanned last. 6 KiB, filled again for each message and never cleared as a whole:
/// only `present` says which of the rest counts.
pub struct Table {
    lines: [Line; LINES_MAX],
    line_count: u16,
    /// A bit for each [`Name`] that has a line.
    present: u128,
    /// Index of the first and last line of each name that is present.
    first: [u8; Name::COUNT],
    last: [u8; Name::COUNT],
    start: Start,
    /// The first line without its line end.
    start_line: Span,
    body: Span,
}

impl Table {
    pub const fn new() -> Table {
        const NONE: Line = Line {
            name: Name::Other,
            next: 0,
            start: 0,
            name_end: 0,
            value: Span::new(0, 0),
            end: 0,
        };
        Table {
            lines: [NONE; LINES_MAX],
            line_count: 0,
            present: 0,
            first: [0; Name::COUNT],
            last: [0; Name::COUNT],
            start: Start::Unreadable,
            start_line: Span::new(0, 0),
            body: Span::new(0, 0),
        }
    }

    fn clear(&mut self) {
        self.line_count = 0;
        self.present = 0;
        self.start = Start::Unreadable;
        self.start_line = Span::default();
        self.body = Span::default();
    }

    /// `false` when the table is full.
    #[inline]
    fn push(&mut self, line: Line) -> bool {
        let index = usize::from(self.line_count);
        let Some(slot) = self.lines.get_mut(index) else {
            return false;
        };
        *slot = line;
        self.line_count += 1;
        let name = line.name as usize;
        let bit = 1 << name;
        if self.present & bit == 0 {
            self.present |= bit;
            self.first[name] = index as u8;
        } else {
            self.lines[usize::from(self.last[name])].next = index as u8;
        }
        self.last[name] = index as u8;
        true
    }

    fn lines(&self) -> &[Line] {
        &self.lines[..usize::from(self.line_count)]
    }

    fn first(&self, name: Name) -> Option<&Line> {
        if self.present & 1 << name as usize == 0 {
            return None;
        }
        self.lines.get(usize::from(self.first[name as usize]))
    }

    fn after(&self, line: &Line) -> Option<&Line> {
        match line.next {
            0 => None,
            next => self.lines.get(usize::from(next)),
        }
    }
}

impl Default for Table {
    fn default() -> Table {
        Table::new()
    }
}

/// The first mistake found; later ones are likely to follow from it.
struct FirstError(Option<ParseError>);

impl FirstError {
    fn set(&mut self, kind: ErrorKind, at: usize) {
        if self.0.is_none() {
            self.0 = Some(ParseError::new(kind, at as u32));
        }
    }
}

/// Fills `table` with what lies where in `bytes`, which is one datagram or one frame of a stream.
///
/// CR and LF before the start line are passed over (RFC 3261 §7.5). On `Err` the table holds every line that could be read,
/// also those behind the mistake, so that an answer can be built from them.
pub fn scan(bytes: &[u8], table: &mut Table) -> Result<(), ParseError> {
    table.clear();
    let mut error = FirstError(None);
    if bytes.len() > BYTES_MAX {
        return Err(ParseError::new(ErrorKind::NotSip, BYTES_MAX as u32));
    }
    let start = leading_line_ends(bytes);
    let Some(first) = line_end(bytes, start, &mut error) else {
        return Err(ParseError::new(ErrorKind::NotSip, start as u32));
    };
    table.start_line = span(start, first.content_end);
    table.start = match start_line(bytes, start, first.content_end) {
        Ok(start) => start,
        Err((start, found)) => {
            error.0 = Some(found);
            start
        }
    };
    let head_end = header_lines(bytes, first.next, table, &mut error);
    table.body = span(head_end, bytes.len());
    if let Some(len) = content_length(bytes, table, &mut error) {
        if len > bytes.len() - head_end {
            // RFC 3261 §18.3: a datagram that ends before its body does is an error, answered with 400.
            error.set(ErrorKind::BodyTruncated, head_end);
        } else {
            // RFC 3261 §18.3: bytes beyond the body are discarded.
            table.body.end = (head_end + len) as u32;
        }
    }
    match error.0 {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

#[inline]
const fn span(start: usize, end: usize) -> Span {
    Span::new(start as u32, end as u32)
}

/// How many CR and LF bytes stand at the start.
pub(super) fn leading_line_ends(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|&byte| byte != b'\r' && byte != b'\n')
        .unwrap_or(bytes.len())
}

struct LineEnd {
    /// One past the last byte before CRLF or LF.
    content_end: usize,
    /// First byte of the next line.
    next: usize,
}

/// The end of the line that `from` lies in, `None` when the bytes end before it does.
#[inline]
fn line_end(bytes: &[u8], from: usize, error: &mut FirstError) -> Option<LineEnd> {
    let mut at = from;
    loop {
        at += memchr2(b'\r', b'\n', &bytes[at..])?;
        if bytes[at] == b'\n' {
            return Some(LineEnd {
                content_end: at,
                next: at + 1,
            });
        }
        match bytes.get(at + 1) {
            Some(b'\n') => {
                return Some(LineEnd {
                    content_end: at,
                    next: at + 2,
                });
            }
            Some(_) => error.set(ErrorKind::HeaderLine, at),
            None => return None,
        }
        at += 1;
    }
}

/// Reads all header lines from `at` on; returns the first byte of the body.
fn header_lines(bytes: &[u8], mut at: usize, table: &mut Table, error: &mut FirstError) -> usize {
    // A start line is not folded: what continues it belongs to nothing.
    if matches!(bytes.get(at), Some(b' ' | b'\t')) {
        error.set(ErrorKind::HeaderLine, at);
    }
    loop {
        let Some(mut end) = line_end(bytes, at, error) else {
            error.set(ErrorKind::HeadUnterminated, bytes.len());
            return bytes.len();
        };
        if end.content_end == at {
            return end.next;
        }
        let unfolded_end = end.content_end;
        // RFC 3261 §7.3.1: a line that begins with a space or tab continues the one before it.
        while matches!(bytes.get(end.next), Some(b' ' | b'\t')) {
            match line_end(bytes, end.next, error) {
                Some(further) => end = further,
                None => {
                    error.set(ErrorKind::HeadUnterminated, bytes.len());
                    return bytes.len();
                }
            }
        }
        match header_line(bytes, at, unfolded_end, &end) {
            Some(line) => {
                if !table.push(line) {
                    error.set(ErrorKind::TooManyHeaders, at);
                }
            }
            None => error.set(ErrorKind::HeaderLine, at),
        }
        at = end.next;
    }
}

/// `name *( SP / HTAB ) ":" SWS value`. The colon is on the first of the folded lines.
#[inline]
fn header_line(bytes: &[u8], start: usize, unfolded_end: usize, end: &LineEnd) -> Option<Line> {
    let colon = start + find_colon(&bytes[start..unfolded_end])?;
    let mut name_end = colon;
    while name_end > start && matches!(bytes[name_end - 1], b' ' | b'\t') {
        name_end -= 1;
    }
    let text = &bytes[start..name_end];
    let name = Name::lookup(text);
    if name == Name::Other && !lex::is_token(text) {
        return None;
    }
    let content = &bytes[..end.content_end];
    let value_end = lex::trim_end(&content[colon + 1..]).len() + colon + 1;
    let value_start = lex::skip(content, colon + 1, LWS).min(value_end);
    Some(Line {
        name,
        next: 0,
        start: start as u32,
        name_end: name_end as u32,
        value: span(value_start, value_end),
        end: end.next as u32,
    })
}

/// Index of the first colon. Names are short: eight bytes at a time find it without a call.
#[inline]
fn find_colon(line: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some(chunk) = line[at..].first_chunk::<8>() {
        let differs = u64::from_le_bytes(*chunk) ^ (ONES * b':' as u64);
        // The lowest byte that is zero gets its top bit set; higher ones may be wrong and are not looked at.
        let zero = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if zero != 0 {
            return Some(at + zero.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + line[at..].iter().position(|&byte| byte == b':')?)
}

/// RFC 3261 §7.1, §7.2. On `Err` also what could be read all the same.
fn start_line(bytes: &[u8], start: usize, end: usize) -> Result<Start, (Start, ParseError)> {
    let line = &bytes[start..end];
    if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
        status_line(line, start)
    } else {
        request_line(line, start)
    }
}

fn status_line(line: &[u8], start: usize) -> Result<Start, (Start, ParseError)> {
    let unreadable = |kind, at: usize| (Start::Unreadable, ParseError::new(kind, (start + at) as u32));
    let version_end = memchr::memchr(b' ', line).unwrap_or(line.len());
    match version(&line[..version_end]) {
        Some(true) => {}
        Some(false) => return Err(unreadable(ErrorKind::Version, 0)),
        None => return Err(unreadable(ErrorKind::StartLine, 0)),
    }
    let code = line.get(version_end + 1..version_end + 4).and_then(lex::number);
    let reason_start = match line.get(version_end + 4) {
        Some(b' ') => version_end + 5,
        // The space before an empty reason phrase is mandatory, and some leave it away.
        None => line.len(),
        Some(_) => return Err(unreadable(ErrorKind::StartLine, version_end + 4)),
    };
    match code {
        Some(status @ 100..=699) => Ok(Start::Response {
            status: status as u16,
            reason: span(start + reason_start, start + line.len()),
        }),
        Some(_) | None => Err(unreadable(ErrorKind::StartLine, version_end + 1)),
    }
}

fn request_line(line: &[u8], start: usize) -> Result<Start, (Start, ParseError)> {
    let fail = |read, kind, at: usize| Err((read, ParseError::new(kind, (start + at) as u32)));
    let method_end = lex::skip(line, 0, TOKEN);
    let last_space = memchr::memrchr(b' ', line);
    if method_end == 0 || line.get(method_end) != Some(&b' ') {
        let kind = if means_sip(line) {
            ErrorKind::StartLine
        } else {
            ErrorKind::NotSip
        };
        return fail(Start::Unreadable, kind, method_end);
    }
    let uri_start = method_end + 1;
    let uri_end = lex::skip(line, uri_start, VISIBLE);
    if uri_end == uri_start || last_space != Some(uri_end) {
        let kind = if means_sip(line) {
            ErrorKind::StartLine
        } else {
            ErrorKind::NotSip
        };
        return fail(Start::Unreadable, kind, uri_end);
    }
    let method_text = &line[..method_end];
    let read = Start::Request {
        method: Method::lookup(method_text),
        method_span: span(start, start + method_end),
        uri: span(start + uri_start, start + uri_end),
    };
    match version(&line[uri_end + 1..]) {
        Some(true) => Ok(read),
        Some(false) => fail(read, ErrorKind::Version, uri_end + 1),
        None if means_sip(line) => fail(Start::Unreadable, ErrorKind::StartLine, uri_end + 1),
        None => fail(Start::Unreadable, ErrorKind::NotSip, uri_end + 1),
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
fn version(text: &[u8]) -> Option<bool> {
    if text.eq_ignore_ascii_case(b"SIP/2.0") {
        return Some(true);
    }
    let (protocol, number) = text.split_at_checked(4)?;
    let dot = memchr::memchr(b'.', number)?;
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    (protocol.eq_ignore_ascii_case(b"SIP/") && digits(&number[..dot]) && digits(&number[dot + 1..]))
        .then_some(false)
}

/// The number in the Content-Length lines, `None` when there is none that can be relied on.
fn content_length(bytes: &[u8], table: &Table, error: &mut FirstError) -> Option<usize> {
    let first = table.first(Name::ContentLength)?;
    let mut len = None;
    let mut next = Some(first);
    while let Some(line) = next {
        let Some(this) = lex::number(line.value.of(bytes)) else {
            error.set(ErrorKind::BadContentLength, line.value.start as usize);
            return None;
        };
        if len.is_some_and(|len| len != this) {
            // RFC 4475 §3.3.9: the end of the body can't be known.
            error.set(ErrorKind::ContentLengthMismatch, line.value.start as usize);
            return None;
        }
        len = Some(this);
        next = table.after(line);
    }
    len.map(|len| len as usize)
}

/// A scanned message: the bytes and the table that was filled from them, which belong together.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    pub bytes: &'a [u8],
    pub table: &'a Table,
}

impl<'a> Message<'a> {
    pub const fn new(bytes: &'a [u8], table: &'a Table) -> Message<'a> {
        Message { bytes, table }
    }

    pub const fn start(&self) -> Start {
        self.table.start
    }

    /// The first line without its line end.
    pub fn start_line(&self) -> &'a [u8] {
        self.table.start_line.of(self.bytes)
    }

    /// All header lines in the order received.
    pub fn lines(&self) -> &'a [Line] {
        self.table.lines()
    }

    /// The first line of that name.
    #[inline]
    pub fn line(&self, name: Name) -> Option<&'a Line> {
        self.table.first(name)
    }

    /// Every line of that name, in order.
    #[inline]
    pub fn lines_of(&self, name: Name) -> LinesOf<'a> {
        LinesOf {
            table: self.table,
            next: self.table.first(name),
        }
    }

    /// The value of the first line of that name.
    #[inline]
    pub fn value(&self, name: Name) -> Option<&'a [u8]> {
        self.line(name).map(|line| line.value.of(self.bytes))
    }

    /// The name as received.
    pub fn name_bytes(&self, line: &Line) -> &'a [u8] {
        Span::new(line.start, line.name_end).of(self.bytes)
    }

    /// The value of `line`.
    #[inline]
    pub fn value_of(&self, line: &Line) -> &'a [u8] {
        line.value.of(self.bytes)
    }

    /// The first line whose name is `text` in any case: for header fields that [`Name`] does not know.
    pub fn line_named(&self, text: &[u8]) -> Option<&'a Line> {
        match Name::lookup(text) {
            Name::Other => self
                .lines_of(Name::Other)
                .find(|line| self.name_bytes(line).eq_ignore_ascii_case(text)),
            known => self.line(known),
        }
    }

    /// The comma-separated elements of all lines of that name, in order, trimmed.
    pub fn elements(&self, name: Name) -> ElementsOf<'a> {
        ElementsOf {
            bytes: self.bytes,
            lines: self.lines_of(name),
            current: Elements::new(b""),
        }
    }

    /// Whether `token` (any case) is an element of the lists of that name; an element's parameters don't count.
    pub fn has_token(&self, name: Name, token: &[u8]) -> bool {
        self.elements(name)
            .any(|element| super::params::split(element).0.eq_ignore_ascii_case(token))
    }

    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.table.body.of(self.bytes)
    }

    /// Offset of the first byte of the body.
    #[inline]
    pub const fn head_end(&self) -> u32 {
        self.table.body.start
    }

    /// Offset of the first byte of the start line: 0, or more when line ends precede it.
    #[inline]
    pub const fn head_start(&self) -> u32 {
        self.table.start_line.start
    }

    /// Offset one past the last header line, where the empty line begins that ends the header section: the place to add a
    /// line behind all others.
    pub fn lines_end(&self) -> u32 {
        match self.lines().last() {
            Some(line) => line.end,
            None => self.first_line_start(),
        }
    }

    /// Offset of the first header line: the place to add a line before all others.
    pub fn first_line_start(&self) -> u32 {
        let end = self.table.start_line.end as usize;
        let line_end = match self.bytes.get(end) {
            Some(b'\r') => 2,
            Some(_) => 1,
            None => 0,
        };
        (end + line_end) as u32
    }

    /// Offset one past the body.
    #[inline]
    pub const fn len(&self) -> usize {
        self.table.body.end as usize
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message from its start line to the end of its body, without what a datagram holds before and after.
    pub fn whole(&self) -> &'a [u8] {
        Span::new(self.head_start(), self.table.body.end).of(self.bytes)
    }

    /// The line as received, with its folds and its line end.
    pub fn line_bytes(&self, line: &Line) -> &'a [u8] {
        Span::new(line.start, line.end).of(self.bytes)
    }

    /// Where `part`, a sub-slice of the message's bytes, lies in them.
    ///
    /// # Panics
    /// When `part` is no part of them: that is our mistake, never a peer's.
    pub fn span_of(&self, part: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        assert!(
            start <= self.bytes.len() && part.len() <= self.bytes.len() - start,
            "a span of something else"
        );
        span(start, start + part.len())
    }
}

/// Iterator of [`Message::lines_of`].
#[derive(Clone)]
pub struct LinesOf<'a> {
    table: &'a Table,
    next: Option<&'a Line>,
}

impl<'a> Iterator for LinesOf<'a> {
    type Item = &'a Line;

    #[inline]
    fn next(&mut self) -> Option<&'a Line> {
        let line = self.next?;
        self.next = self.table.after(line);
        Some(line)
    }
}

/// Iterator of [`Message::elements`].
#[derive(Clone)]
pub struct ElementsOf<'a> {
    bytes: &'a [u8],
    lines: LinesOf<'a>,
    current: Elements<'a>,
}

impl<'a> Iterator for ElementsOf<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(element) = self.current.next() {
                return Some(element);
            }
            self.current = Elements::new(self.lines.next()?.value.of(self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] = b"\r\nINVITE sip:bob@b.example SIP/2.0\r\n\
        Via: SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/TCP b\r\n\
        v : SIP/2.0/UDP c\r\n\
        X-Odd:\r\n\
        Subject: one\r\n \ttwo\r\n\
        \x20\r\n\
        sUPPORTED: 100rel;x=1,\r\n timer\r\n\
        l: 4\r\n\
        \r\nabcdEXTRA";

    #[test]
    fn every_part_is_where_the_table_says() {
        let mut table = Table::new();
        scan(INVITE, &mut table).expect("well-formed");
        let msg = Message::new(INVITE, &table);
        let Start::Request {
            method,
            method_span,
            uri,
        } = msg.start()
        else {
            panic!("a request");
        };
        assert_eq!((method, method_span.of(INVITE)), (Method::Invite, &b"INVITE"[..]));
        assert_eq!(uri.of(INVITE), b"sip:bob@b.example");
        assert_eq!(msg.lines().len(), 6);
        assert_eq!(msg.lines_of(Name::Via).count(), 2);
        assert_eq!(
            msg.elements(Name::Via).collect::<Vec<_>>(),
            [
                &b"SIP/2.0/UDP a;branch=z9hG4bK1"[..],
                b"SIP/2.0/TCP b",
                b"SIP/2.0/UDP c"
            ]
        );
        assert_eq!(msg.value(Name::Subject), Some(&b"one\r\n \ttwo"[..]));
        let odd = msg.line_named(b"x-odd").expect("there");
        assert_eq!(
            (msg.value_of(odd), msg.line_bytes(odd)),
            (&b""[..], &b"X-Odd:\r\n"[..])
        );
        assert!(msg.has_token(Name::Supported, b"100REL") && msg.has_token(Name::Supported, b"timer"));
        assert!(!msg.has_token(Name::Supported, b"100") && !msg.has_token(Name::Require, b"timer"));
        assert_eq!(msg.body(), b"abcd");
        assert_eq!(msg.whole().len() + 2, msg.len());
        assert_eq!(
            &INVITE[msg.lines_end() as usize..msg.head_end() as usize],
            b"\r\n"
        );
        assert_eq!(msg.first_line_start(), msg.lines()[0].start);
        assert_eq!(
            msg.span_of(msg.body()),
            Span::new(msg.head_end(), msg.len() as u32)
        );
    }

    fn kind_of(bytes: &[u8]) -> Option<ErrorKind> {
        scan(bytes, &mut Table::new()).err().map(|error| error.kind)
    }

    #[test]
    fn the_start_line_takes_one_space_and_version_2_0() {
        for (line, kind) in [
            ("INVITE sip:b SIP/2.0", None),
            ("NEWMETHOD.!%*_+`'~-x tel:1 sip/2.0", None),
            ("SIP/2.0 200 OK", None),
            ("SIP/2.0 100 ", None),
            ("SIP/2.0 100", None),
            ("INVITE  sip:b SIP/2.0", Some(ErrorKind::StartLine)),
            ("INVITE sip:b  SIP/2.0", Some(ErrorKind::StartLine)),
            ("INVITE sip:b SIP/2.0 ", Some(ErrorKind::StartLine)),
            (" INVITE sip:b SIP/2.0", Some(ErrorKind::StartLine)),
            ("INVITE sip:b; lr SIP/2.0", Some(ErrorKind::StartLine)),
            ("INV<TE sip:b SIP/2.0", Some(ErrorKind::StartLine)),
            ("INVITE sip:b SIP/x", Some(ErrorKind::StartLine)),
            ("INVITE sip:b SIP/7.0", Some(ErrorKind::Version)),
            ("INVITE sip:b SIP/2.00", Some(ErrorKind::Version)),
            ("SIP/3.0 200 OK", Some(ErrorKind::Version)),
            ("SIP/2.0 4294967301 better", Some(ErrorKind::StartLine)),
            ("SIP/2.0 99 low", Some(ErrorKind::StartLine)),
            ("SIP/2.0 700 high", Some(ErrorKind::StartLine)),
            ("SIP/2.0  200 OK", Some(ErrorKind::StartLine)),
            ("GET / HTTP/1.1", Some(ErrorKind::NotSip)),
            ("hello", Some(ErrorKind::NotSip)),
        ] {
            assert_eq!(kind_of(format!("{line}\r\n\r\n").as_bytes()), kind, "{line}");
        }
        for bytes in [
            &b""[..],
            b"\r\n\r\n",
            b"INVITE sip:b SIP/2.0",
            b"\x00\x01\x00\x00\x21\x12\xa4\x42",
        ] {
            assert_eq!(kind_of(bytes), Some(ErrorKind::NotSip));
        }
    }

    #[test]
    fn a_mistake_leaves_the_lines_behind_it_readable() {
        let bytes = b"INVITE sip:b SIP/7.0\r\nnonsense\r\nCall-ID: 1\r\n: x\r\nC Seq: 1\r\nTo: <sip:b>\nFrom: a\rb\r\n\r\n";
        let mut table = Table::new();
        let error = scan(bytes, &mut table).expect_err("malformed");
        assert_eq!(error, ParseError::new(ErrorKind::Version, 13));
        let msg = Message::new(bytes, &table);
        assert!(matches!(
            msg.start(),
            Start::Request {
                method: Method::Invite,
                ..
            }
        ));
        assert_eq!(msg.lines().len(), 3);
        assert_eq!(msg.value(Name::CallId), Some(&b"1"[..]));
        assert_eq!(msg.value(Name::To), Some(&b"<sip:b>"[..]));
    }

    #[test]
    fn mistakes_in_the_header_section_are_named() {
        for (lines, kind) in [
            ("To: a\r\n\r\n", None),
            ("To: a\n\n", None),
            ("To: a\rb\r\n\r\n", Some(ErrorKind::HeaderLine)),
            ("To a\r\n\r\n", Some(ErrorKind::HeaderLine)),
            (" folded: start\r\n\r\n", Some(ErrorKind::HeaderLine)),
            ("To: a\r\n", Some(ErrorKind::HeadUnterminated)),
            ("To: a\r\n b", Some(ErrorKind::HeadUnterminated)),
            ("l: 0\r\nContent-Length: 00\r\n\r\n", None),
            (
                "l: 0\r\nContent-Length: 1\r\n\r\nx",
                Some(ErrorKind::ContentLengthMismatch),
            ),
            ("l: -1\r\n\r\n", Some(ErrorKind::BadContentLength)),
            ("l: \r\n\r\n", Some(ErrorKind::BadContentLength)),
            ("l: 5, 5\r\n\r\n12345", Some(ErrorKind::BadContentLength)),
            ("l: 6\r\n\r\n12345", Some(ErrorKind::BodyTruncated)),
            (
                "l: 99999999999999999999\r\n\r\n12345",
                Some(ErrorKind::BodyTruncated),
            ),
            ("l:\r\n 5\r\n\r\n12345", None),
        ] {
            let bytes = format!("OPTIONS sip:b SIP/2.0\r\n{lines}");
            assert_eq!(kind_of(bytes.as_bytes()), kind, "{lines:?}");
        }
    }

    #[test]
    fn lines_beyond_the_table_are_an_error_and_not_a_panic() {
        for (count, kind) in [
            (LINES_MAX, None),
            (LINES_MAX + 3, Some(ErrorKind::TooManyHeaders)),
        ] {
            let mut bytes = b"OPTIONS sip:b SIP/2.0\r\n".to_vec();
            for _ in 0..count {
                bytes.extend_from_slice(b"Z: y\r\n");
            }
            bytes.extend_from_slice(b"\r\nbody");
            let mut table = Table::new();
            assert_eq!(scan(&bytes, &mut table).err().map(|error| error.kind), kind);
            let msg = Message::new(&bytes, &table);
            assert_eq!(
                (msg.lines_of(Name::Other).count(), msg.body()),
                (LINES_MAX, &b"body"[..])
            );
        }
    }

    #[test]
    fn a_table_used_again_remembers_nothing() {
        let mut table = Table::new();
        scan(INVITE, &mut table).expect("well-formed");
        let short = b"SIP/2.0 200 OK\r\nTo: b\r\n\r\n";
        scan(short, &mut table).expect("well-formed");
        let msg = Message::new(short, &table);
        assert_eq!(msg.lines().len(), 1);
        assert!(msg.line(Name::Via).is_none() && msg.line(Name::Other).is_none());
        assert!(scan(b"", &mut table).is_err());
        assert!(Message::new(b"", &table).lines().is_empty());
    }
}
