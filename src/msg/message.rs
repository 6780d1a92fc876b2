//! A scanned message, seen through its table: lines by name, comma lists, body.

use super::Span;
use super::lex::Elements;
use super::name::Name;
use super::params;
use super::scan::{Line, Table};
use super::start::Start;

/// As it must be sent: RFC 3261 §7.1.
pub const VERSION: &[u8] = b"SIP/2.0";

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

    /// Whether a line of the head ends with LF alone.
    pub const fn has_bare_lf(&self) -> bool {
        self.table.has_bare_lf
    }

    /// The first line without its line end.
    pub fn start_line(&self) -> &'a [u8] {
        self.table.start_line.of(self.bytes)
    }

    /// The version, where it came in another case than the one in which it must be sent (RFC 3261 §7.1): whoever sends the message
    /// on puts [`VERSION`] in its place.
    #[inline]
    pub fn unusual_version(&self) -> Option<Span> {
        let Span { start, end } = self.table.start_line;
        let len = VERSION.len() as u32;
        let span = match self.start() {
            Start::Response { .. } => Span::new(start, end.min(start + len)),
            Start::Request { .. } | Start::Unreadable => Span::new(start.max(end.saturating_sub(len)), end),
        };
        (span.of(self.bytes) != VERSION).then_some(span)
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

    /// `line` from its name to the end of its value.
    #[inline]
    pub fn text_of(&self, line: &Line) -> &'a [u8] {
        Span::new(line.start, line.value.end).of(self.bytes)
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
            .any(|element| params::split(element).0.eq_ignore_ascii_case(token))
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
        Span::new(start as u32, (start + part.len()) as u32)
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
