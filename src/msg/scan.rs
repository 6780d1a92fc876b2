//! One pass over the received bytes: where the start line, every header line and the body lie (RFC 3261 §7).
//!
//! Lines end with CRLF. A bare LF is taken as a line end too, because some senders write nothing else and no recipient reads
//! it in another way; what is sent on has CRLF in its place ([`with_line_ends`]), for not every recipient takes it. A CR without
//! LF is an error: we would carry it on as part of a value, and the next hop might take it for a line end and see a header
//! field that we have not seen.

use super::Span;
use super::build::Writer;
use super::error::{ErrorKind, ParseError};
use super::lanes::{self, Block, LANES, Set};
use super::lex;
use super::name::{Name, WINDOW};
use super::start::start_line;

pub use super::message::{ElementsOf, LinesOf, Message};
pub use super::start::Start;

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

impl Line {
    /// The whole line, with its line end.
    pub const fn span(&self) -> Span {
        Span::new(self.start, self.end)
    }

    /// Where the value stands in the text of the line.
    pub const fn value_in_text(&self) -> core::ops::Range<usize> {
        (self.value.start - self.start) as usize..(self.value.end - self.start) as usize
    }
}

/// Where everything lies in the message scanned last. 6 KiB, filled again for each message and never cleared: box it once.
pub struct Table {
    lines: [Line; LINES_MAX],
    line_count: u16,
    /// Index of the first and last line of each name. They count only where the line at `first` is in use and has that name
    /// (a sparse set): what an earlier message left there is never taken for true.
    first: [u8; Name::COUNT],
    last: [u8; Name::COUNT],
    pub(super) start: Start,
    /// The first line without its line end.
    pub(super) start_line: Span,
    pub(super) body: Span,
    /// A line of the head ends with LF alone.
    pub(super) has_bare_lf: bool,
}

// An index into the lines is a byte.
const _: () = assert!(LINES_MAX <= 256);

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
            first: [0; Name::COUNT],
            last: [0; Name::COUNT],
            start: Start::Unreadable,
            start_line: Span::new(0, 0),
            body: Span::new(0, 0),
            has_bare_lf: false,
        }
    }

    fn clear(&mut self) {
        self.line_count = 0;
        self.start = Start::Unreadable;
        self.start_line = Span::default();
        self.body = Span::default();
        self.has_bare_lf = false;
    }

    #[inline]
    fn push(&mut self, line: Line) -> Result<(), ErrorKind> {
        let index = usize::from(self.line_count);
        let name = line.name as usize;
        if index >= LINES_MAX {
            return Err(ErrorKind::TooManyHeaders);
        }
        if self.first(line.name).is_some() {
            self.lines[usize::from(self.last[name])].next = index as u8;
        } else {
            self.first[name] = index as u8;
        }
        self.last[name] = index as u8;
        self.lines[index] = line;
        self.line_count += 1;
        Ok(())
    }

    #[inline]
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines[..usize::from(self.line_count)]
    }

    #[inline]
    pub(super) fn first(&self, name: Name) -> Option<&Line> {
        let index = self.first[name as usize];
        let line = &self.lines[usize::from(index)];
        (u16::from(index) < self.line_count && line.name == name).then_some(line)
    }

    #[inline]
    pub(super) fn after(&self, line: &Line) -> Option<&Line> {
        match line.next {
            0 => None,
            next => Some(&self.lines[usize::from(next)]),
        }
    }
}

impl Default for Table {
    fn default() -> Table {
        Table::new()
    }
}

/// The mistake that stands first in the message: the others may follow from it.
struct FirstError {
    first: Option<ParseError>,
    /// A line ends with LF alone: no error, but to be remembered.
    has_bare_lf: bool,
}

impl FirstError {
    #[cold]
    #[inline(never)]
    fn set(&mut self, kind: ErrorKind, at: usize) {
        let error = ParseError::new(kind, at as u32);
        if self.first.is_none_or(|first| error.at < first.at) {
            self.first = Some(error);
        }
    }
}

/// Fills `table` with what lies where in `bytes`, which is one datagram or one frame of a stream.
///
/// CR and LF before the start line are passed over (RFC 3261 §7.5). On `Err` the table holds every line that could be read,
/// also those behind the mistake, so that an answer can be built from them.
pub fn scan(bytes: &[u8], table: &mut Table) -> Result<(), ParseError> {
    table.clear();
    if bytes.len() > BYTES_MAX {
        return Err(ParseError::new(ErrorKind::NotSip, BYTES_MAX as u32));
    }
    let start = leading_line_ends(bytes);
    let mut bare_cr = FirstError {
        first: None,
        has_bare_lf: false,
    };
    let Some(first) = line_end(bytes, start, &mut bare_cr) else {
        return Err(ParseError::new(ErrorKind::NotSip, start as u32));
    };
    table.start_line = span(start, first.content_end);
    let read = start_line(&bytes[start..first.content_end], start as u32);
    table.start = read.start;
    let mut error = FirstError {
        first: read.error,
        has_bare_lf: bare_cr.has_bare_lf,
    };
    // A request line that holds a CR is malformed no later than there: so this says what is wrong with a status line.
    if let Some(bare_cr) = bare_cr.first {
        error.set(ErrorKind::StartLine, bare_cr.at as usize);
    }
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
    table.has_bare_lf = error.has_bare_lf;
    match error.first {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// Copies a message that was scanned into `dst` with CRLF at the end of each line of its head. Returns its length, or `None`
/// when it does not fit.
#[cold]
pub fn with_line_ends(msg: Message<'_>, dst: &mut [u8]) -> Option<usize> {
    let mut w = Writer::new(dst);
    let (head, body) = (&msg.bytes[..msg.head_end() as usize], msg.body());
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        match line {
            [content @ .., b'\r', b'\n'] | [content @ .., b'\n'] => w.put(content).crlf(),
            content => w.put(content),
        };
    }
    w.put(body);
    w.finish()
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

#[derive(Clone, Copy)]
struct LineEnd {
    /// One past the last byte before CRLF or LF.
    content_end: usize,
    /// First byte of the next line.
    next: usize,
}

/// The end of the line that begins at `from`, `None` when the bytes end before it does.
#[inline(always)]
fn line_end(bytes: &[u8], from: usize, error: &mut FirstError) -> Option<LineEnd> {
    let at = find_in(bytes, from, suspects_in)?;
    if let Some([b'\r', b'\n']) = bytes.get(at..at + 2) {
        return Some(LineEnd {
            content_end: at,
            next: at + 2,
        });
    }
    unusual_line_end(bytes, at, error)
}

/// Index of the first byte from `from` on that is one of `stops`. Lines are some sixty bytes long: inlined, this takes half of what a
/// call of memchr2 does.
#[inline(always)]
fn find_in(bytes: &[u8], from: usize, stops: impl Fn(Block) -> Set) -> Option<usize> {
    let mut rest = bytes.get(from..)?;
    while let Some((chunk, behind)) = rest.split_first_chunk() {
        let found = stops(Block::load(chunk)).bits();
        if found != 0 {
            return Some(bytes.len() - rest.len() + found.trailing_zeros() as usize);
        }
        rest = behind;
    }
    cr_or_lf_near_end(rest).map(|at| bytes.len() - rest.len() + at)
}

/// CR, LF, and what is below CR and hardly ever there, as a tab: a step less to look for.
#[inline(always)]
fn suspects_in(block: Block) -> Set {
    block.within(0, b'\r')
}

#[inline(always)]
fn ends_in(block: Block) -> Set {
    block.eq(b'\r') | block.eq(b'\n')
}

/// The same for fewer bytes than a block: the last lines of a message without a body.
#[inline(never)]
fn cr_or_lf_near_end(rest: &[u8]) -> Option<usize> {
    let at = lanes::find(rest, ends_in);
    (at < rest.len()).then_some(at)
}

/// `bytes[at]` may end a line, and is no CRLF.
#[cold]
#[inline(never)]
fn unusual_line_end(bytes: &[u8], at: usize, error: &mut FirstError) -> Option<LineEnd> {
    let mut content_end = at;
    loop {
        match bytes[content_end..] {
            [b'\r', b'\n', ..] => {
                return Some(LineEnd {
                    content_end,
                    next: content_end + 2,
                });
            }
            [b'\n', ..] => {
                error.has_bare_lf = true;
                return Some(LineEnd {
                    content_end,
                    next: content_end + 1,
                });
            }
            // It may be half of a CRLF: then all that is wrong is that the head does not end.
            [_] | [] => return None,
            [b'\r', ..] => error.set(ErrorKind::HeaderLine, content_end),
            // A tab, say.
            [..] => {}
        }
        content_end = find_in(bytes, content_end + 1, ends_in)?;
    }
}

/// Reads all header lines from `at` on; returns the first byte of the body.
fn header_lines(bytes: &[u8], mut at: usize, table: &mut Table, error: &mut FirstError) -> usize {
    // A start line is not folded: what continues it belongs to nothing.
    if is_fold(bytes, at) {
        error.set(ErrorKind::HeaderLine, at);
    }
    loop {
        let Some(first) = line_end(bytes, at, error) else {
            error.set(ErrorKind::HeadUnterminated, bytes.len());
            return bytes.len();
        };
        if first.content_end == at {
            return first.next;
        }
        let mut end = first;
        // RFC 3261 §7.3.1: a line that begins with a space or tab continues the one before it.
        while is_fold(bytes, end.next) {
            let Some(further) = line_end(bytes, end.next, error) else {
                error.set(ErrorKind::HeadUnterminated, bytes.len());
                return bytes.len();
            };
            end = further;
        }
        if let Err(kind) = header_line(table, bytes, at, first.content_end, end) {
            error.set(kind, at);
        }
        at = end.next;
    }
}

#[inline]
fn is_fold(bytes: &[u8], at: usize) -> bool {
    matches!(bytes.get(at), Some(b' ' | b'\t'))
}

/// Puts `name *( SP / HTAB ) ":" SWS value`, which begins at `start`, into the table. The colon is on the first of the lines
/// that it is folded over, which ends at `first_end`.
#[inline(always)]
fn header_line(
    table: &mut Table,
    bytes: &[u8],
    start: usize,
    first_end: usize,
    end: LineEnd,
) -> Result<(), ErrorKind> {
    let parts = match usual_parts(&bytes[start..], end.content_end - start) {
        Some(parts) => parts,
        None => unusual_parts(&bytes[start..end.content_end], first_end - start)?,
    };
    table.push(Line {
        name: parts.name,
        next: 0,
        start: start as u32,
        name_end: (start + parts.name_end) as u32,
        value: span(start + parts.value_start, start + parts.value_end),
        end: end.next as u32,
    })
}

/// The name of a header line, and offsets in it.
struct LineParts {
    name: Name,
    name_end: usize,
    value_start: usize,
    value_end: usize,
}

/// The parts of the line of `len` bytes that `rest` begins with, if it is spelled as nearly all are: a short name, colon, one
/// space, value. `None`: it must be looked at closely.
#[inline(always)]
fn usual_parts(rest: &[u8], len: usize) -> Option<LineParts> {
    // What the window holds of the next line does no harm: its colon is beyond this one's end.
    let padded;
    let window = match rest.first_chunk() {
        Some(window) => window,
        None => {
            padded = padded_window(rest);
            &padded
        }
    };
    let colon = first_colon(window)?;
    let line = &rest[..len];
    let &[_, space, value_first] = line.get(colon..)?.first_chunk()?;
    let value_last = *line.last()?;
    let name = Name::at_start(window, colon);
    // The value's ends are visible or beyond ASCII: in any case no LWS.
    (space == b' '
        && value_first > b' '
        && value_last > b' '
        && (name != Name::Other || lex::is_token(&line[..colon])))
    .then_some(LineParts {
        name,
        name_end: colon,
        value_start: colon + 2,
        value_end: len,
    })
}

/// Fewer bytes than a window, with zeros behind them: the last line of a message without a body.
#[inline(never)]
fn padded_window(rest: &[u8]) -> [u8; WINDOW] {
    let mut window = [0; WINDOW];
    if let Some(room) = window.get_mut(..rest.len()) {
        room.copy_from_slice(rest);
    }
    window
}

#[inline(always)]
fn first_colon(window: &[u8; WINDOW]) -> Option<usize> {
    let (blocks, _) = window.as_chunks();
    let mut colons = Block::load(&blocks[0]).eq(b':').bits();
    if colons == 0 {
        colons = Block::load(&blocks[1]).eq(b':').bits() << LANES;
    }
    (colons != 0).then(|| colons.trailing_zeros() as usize)
}

/// The same for any line. The colon must stand among its first `first_len` bytes.
#[inline(never)]
fn unusual_parts(line: &[u8], first_len: usize) -> Result<LineParts, ErrorKind> {
    let colon = line[..first_len]
        .iter()
        .position(|&byte| byte == b':')
        .ok_or(ErrorKind::HeaderLine)?;
    let mut name = &line[..colon];
    while let [rest @ .., b' ' | b'\t'] = name {
        name = rest;
    }
    if !lex::is_token(name) {
        return Err(ErrorKind::HeaderLine);
    }
    let value_start = lex::skip_lws(line, colon + 1);
    Ok(LineParts {
        name: Name::lookup(name),
        name_end: name.len(),
        value_start,
        value_end: value_start + lex::trim_end(&line[value_start..]).len(),
    })
}

/// The number in the Content-Length lines, `None` when there is none that can be relied on.
fn content_length(bytes: &[u8], table: &Table, error: &mut FirstError) -> Option<usize> {
    let mut len = None;
    let mut next = table.first(Name::ContentLength);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::method::Method;

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
    fn what_has_no_start_line_is_not_sip() {
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
