//! A message sent on: the received bytes, with a short list of spans to drop or replace and points to insert at.
//!
//! Whatever no edit names is copied byte for byte: so RFC 3261 §16.6 asks of a proxy, and so the header fields that we don't
//! know survive. A [`Rewrite`] takes edits in the order of their places and writes straight into the buffer that is sent;
//! [`Edits`] collects them in any order first.

use core::fmt;

use super::Span;
use super::build::Writer;
use super::lex;
use super::name::Name;
use super::scan::Message;
use crate::pool::Written;

/// Edits that one message may need.
pub const EDITS_MAX: usize = 128;
/// Bytes that all insertions and replacements of one message may have together.
pub const SCRATCH_BYTES: usize = 16 * 1024;

/// Why edits can't be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EditError {
    /// Two edits touch the same byte, or one inserts in the middle of what another removes.
    Overlap,
    /// The result, or the text to insert, is larger than its room.
    Full,
    /// More than [`EDITS_MAX`].
    TooManyEdits,
    /// An edit names bytes that the message does not have.
    OutOfRange,
}

/// Replace `source` with `text` of the scratch. An insertion has an empty `source`, a deletion an empty `text`.
#[derive(Clone, Copy)]
struct Op {
    source: Span,
    text: Span,
    mark: Mark,
}

/// What is marked in the text of an edit.
#[derive(Clone, Copy)]
enum Mark {
    None,
    /// [`Writer::padding`] after so many bytes.
    Padding(u16),
    /// [`Writer::call_id_line`]: the text is one.
    CallIdLine,
    /// [`Writer::call_id`]: the text is one.
    CallId,
}

/// A list of edits. 18 KiB: box it once a shard and use it again.
pub struct Edits {
    /// In the order of the places they change; at one place insertions first, as they came.
    ops: [Op; EDITS_MAX],
    op_count: usize,
    scratch: [u8; SCRATCH_BYTES],
    scratch_len: usize,
    error: Option<EditError>,
}

impl Edits {
    pub const fn new() -> Edits {
        const NONE: Op = Op {
            source: Span::new(0, 0),
            text: Span::new(0, 0),
            mark: Mark::None,
        };
        Edits {
            ops: [NONE; EDITS_MAX],
            op_count: 0,
            scratch: [0; SCRATCH_BYTES],
            scratch_len: 0,
            error: None,
        }
    }

    pub fn clear(&mut self) {
        self.op_count = 0;
        self.scratch_len = 0;
        self.error = None;
    }

    pub const fn is_empty(&self) -> bool {
        self.op_count == 0 && self.error.is_none()
    }

    /// Leaves `span` out. An empty one changes nothing.
    pub fn delete(&mut self, span: Span) {
        if !span.is_empty() || span.start > span.end {
            self.add(span);
        }
    }

    /// Puts what is written to the piece in the place of `span`.
    pub fn replace(&mut self, span: Span) -> Piece<'_> {
        let op = self.add(span);
        Piece { edits: self, op }
    }

    /// Puts what is written to the piece before the byte at `at`. Several insertions at one place keep their order, and come
    /// before what replaces the bytes from there on.
    pub fn insert(&mut self, at: u32) -> Piece<'_> {
        self.replace(Span::new(at, at))
    }

    /// Leaves every line of that name out.
    pub fn delete_lines(&mut self, msg: Message<'_>, name: Name) {
        for line in msg.lines_of(name) {
            self.delete(Span::new(line.start, line.end));
        }
    }

    /// Index of the new edit; `EDITS_MAX` when there is no room, or it is not one.
    fn add(&mut self, source: Span) -> usize {
        if source.start > source.end {
            self.fail(EditError::OutOfRange);
            return EDITS_MAX;
        }
        if self.op_count == EDITS_MAX {
            self.fail(EditError::TooManyEdits);
            return EDITS_MAX;
        }
        // Most edits come in the order of their places: looking from the end finds the place at once.
        let key = |op: &Op| (op.source.start, !op.source.is_empty());
        let text = Span::new(self.scratch_len as u32, self.scratch_len as u32);
        let new = Op {
            source,
            text,
            mark: Mark::None,
        };
        let mut index = self.op_count;
        while index > 0 && key(&self.ops[index - 1]) > key(&new) {
            self.ops[index] = self.ops[index - 1];
            index -= 1;
        }
        self.ops[index] = new;
        self.op_count += 1;
        index
    }

    fn fail(&mut self, error: EditError) {
        self.error.get_or_insert(error);
    }

    /// Writes `src` with all edits to `dst`; returns how many bytes that are.
    pub fn apply(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, EditError> {
        self.write(src, dst).map(|written| written.len)
    }

    /// The same for a message without what its datagram holds before the start line and after the body, with what was marked in the edits.
    /// They count their places from the start of `msg.bytes`, as everywhere.
    pub fn write_message(&self, msg: Message<'_>, dst: &mut [u8]) -> Result<Written, EditError> {
        let mut written = self.write_range(msg.bytes, msg.head_start() as usize, msg.len(), dst)?;
        written.marks.keep_place();
        Ok(written)
    }

    /// Writes `src` with all edits to `dst`, and keeps what was marked in them.
    pub fn write(&self, src: &[u8], dst: &mut [u8]) -> Result<Written, EditError> {
        self.write_range(src, 0, src.len(), dst)
    }

    fn write_range(
        &self,
        src: &[u8],
        start: usize,
        end: usize,
        dst: &mut [u8],
    ) -> Result<Written, EditError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut rewrite = Rewrite::new(src, start, end, dst);
        for op in &self.ops[..self.op_count] {
            let w = rewrite.replace(op.source);
            let text = op.text.of(&self.scratch);
            match op.mark {
                Mark::None => _ = w.put(text),
                Mark::Padding(after) => {
                    let (before, behind) = text.split_at(usize::from(after).min(text.len()));
                    w.put(before).padding().put(behind);
                }
                Mark::CallIdLine => _ = w.call_id_line(text, lex::value_of_line(text)),
                Mark::CallId => _ = w.call_id(text),
            }
        }
        rewrite.finish()
    }
}

/// A message on its way into the buffer that is sent. Edits come in the order of their places: what lies between one and the
/// next is copied as it is. Each costs a copy or two and nothing else: no list, no text kept on the side.
pub struct Rewrite<'s, 'w> {
    /// As far as it is written.
    src: &'s [u8],
    /// What comes next of `src`.
    at: usize,
    start: usize,
    w: Writer<'w>,
    error: Option<EditError>,
}

impl<'s, 'w> Rewrite<'s, 'w> {
    /// Of `src` from `start` to `end`; places count from its first byte all the same.
    pub fn new(src: &'s [u8], start: usize, end: usize, dst: &'w mut [u8]) -> Rewrite<'s, 'w> {
        Rewrite {
            src: src.get(..end).unwrap_or(src),
            at: start,
            start,
            w: Writer::new(dst),
            error: None,
        }
    }

    /// Of a message without what its datagram holds before the start line and after the body.
    pub fn of_message(msg: Message<'s>, dst: &'w mut [u8]) -> Rewrite<'s, 'w> {
        Rewrite::new(msg.bytes, msg.head_start() as usize, msg.len(), dst)
    }

    /// What is written next stands in the place of `span`.
    #[inline]
    pub fn replace(&mut self, span: Span) -> &mut Writer<'w> {
        let (from, to) = (span.start as usize, span.end as usize);
        match (self.src.get(from..to), self.src.get(self.at..from)) {
            (Some(_), Some(kept)) => {
                self.at = to;
                self.w.put(kept);
            }
            (Some(_) | None, _) => self.refuse(from, to),
        }
        &mut self.w
    }

    /// What is written next stands before the byte at `at`.
    #[inline]
    pub fn insert(&mut self, at: u32) -> &mut Writer<'w> {
        self.replace(Span::new(at, at))
    }

    /// Leaves `span` out.
    #[inline]
    pub fn delete(&mut self, span: Span) {
        self.replace(span);
    }

    #[cold]
    fn refuse(&mut self, from: usize, to: usize) {
        let is_outside = from < self.start || from > to || to > self.src.len();
        self.error.get_or_insert(if is_outside {
            EditError::OutOfRange
        } else {
            EditError::Overlap
        });
    }

    /// Copies what is left; returns what was written in all, with its marks.
    pub fn finish(mut self) -> Result<Written, EditError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.w.put(self.src.get(self.at..).ok_or(EditError::OutOfRange)?);
        self.w.written().ok_or(EditError::Full)
    }
}

impl Default for Edits {
    fn default() -> Edits {
        Edits::new()
    }
}

/// Takes the text of one edit. `write!` works on it too.
pub struct Piece<'e> {
    edits: &'e mut Edits,
    op: usize,
}

impl Piece<'_> {
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let Edits {
            ops,
            scratch,
            scratch_len,
            ..
        } = &mut *self.edits;
        // Without an op the edit has failed already.
        let Some(op) = ops.get_mut(self.op) else {
            return self;
        };
        match scratch.get_mut(*scratch_len..*scratch_len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                *scratch_len += bytes.len();
                // No other piece can have been written to since this one was made.
                op.text.end = *scratch_len as u32;
            }
            None => self.edits.fail(EditError::Full),
        }
        self
    }

    /// As [`Writer::padding`]: at this place of the text.
    pub fn padding(&mut self) -> &mut Self {
        let written = self
            .edits
            .ops
            .get(self.op)
            .map_or(0, |op| op.text.end - op.text.start);
        self.mark(u16::try_from(written).map_or(Mark::None, Mark::Padding))
    }

    /// As [`Writer::call_id`]: the whole text.
    pub fn call_id(&mut self, value: &[u8]) -> &mut Self {
        self.mark(Mark::CallId).put(value)
    }

    /// As [`Writer::call_id_line`]: the whole text.
    pub fn call_id_line(&mut self, line: &[u8]) -> &mut Self {
        self.mark(Mark::CallIdLine).put(line)
    }

    fn mark(&mut self, mark: Mark) -> &mut Self {
        if let Some(op) = self.edits.ops.get_mut(self.op) {
            op.mark = mark;
        }
        self
    }

    /// A number in decimal.
    pub fn num(&mut self, value: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut w = Writer::new(&mut digits);
        w.num(value);
        let len = w.len();
        self.put(&digits[..len])
    }

    /// A whole header line.
    pub fn header(&mut self, name: Name, value: &[u8]) -> &mut Self {
        self.put(name.text().as_bytes())
            .put(b": ")
            .put(value)
            .put(b"\r\n")
    }
}

impl fmt::Write for Piece<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write as _;

    use super::super::scan::{Table, scan};
    use super::*;

    fn applied(edits: &Edits, src: &[u8]) -> Result<String, EditError> {
        let mut dst = [0; 256];
        let len = edits.apply(src, &mut dst)?;
        Ok(String::from_utf8_lossy(&dst[..len]).into_owned())
    }

    #[test]
    fn edits_in_any_order_are_applied_in_theirs() {
        let mut edits = Edits::new();
        edits.replace(Span::new(8, 10)).put(b"IJ").num(7);
        edits.insert(0).put(b"<");
        edits.delete(Span::new(2, 4));
        edits.insert(2).put(b"1");
        edits.insert(10).put(b">");
        let _ = write!(edits.insert(2), "{}", 2);
        edits.insert(4).put(b"3");
        assert_eq!(applied(&edits, b"abcdefghij"), Ok("<ab123efghIJ7>".to_owned()));
        edits.clear();
        assert_eq!(applied(&edits, b"abc"), Ok("abc".to_owned()));
    }

    #[test]
    fn edits_that_touch_the_same_byte_are_refused() {
        for (one, two) in [
            ((0, 4), (3, 5)),
            ((0, 4), (0, 4)),
            ((0, 4), (1, 2)),
            ((0, 4), (2, 2)),
            ((2, 4), (0, 3)),
        ] {
            let mut edits = Edits::new();
            edits.delete(Span::new(one.0, one.1));
            edits.replace(Span::new(two.0, two.1));
            assert_eq!(
                applied(&edits, b"abcdef"),
                Err(EditError::Overlap),
                "{one:?} {two:?}"
            );
        }
    }

    #[test]
    fn a_message_leaves_what_its_datagram_holds_around_it() {
        let src = b"\r\nBYE sip:a SIP/2.0\r\nTo: b\r\nl: 1\r\n\r\nxyz";
        let mut table = Table::new();
        scan(src, &mut table).expect("well-formed");
        let msg = Message::new(src, &table);
        let mut edits = Edits::new();
        edits.insert(msg.first_line_start()).header(Name::Via, b"v");
        edits.delete_lines(msg, Name::To);
        let mut dst = [0; 64];
        let written = edits.write_message(msg, &mut dst).expect("room");
        assert_eq!(
            &dst[..written.len],
            b"BYE sip:a SIP/2.0\r\nVia: v\r\nl: 1\r\n\r\nx"
        );
        for outside in [
            Span::new(0, 1),
            Span::new(1, 1),
            Span::new(msg.len() as u32, src.len() as u32),
        ] {
            let mut edits = Edits::new();
            edits.replace(outside).put(b"z");
            assert_eq!(edits.write_message(msg, &mut dst), Err(EditError::OutOfRange));
        }
    }

    #[test]
    fn what_is_marked_is_found_in_what_is_written() {
        let src = b"Via: theirs\r\nContact: <a>\r\nCall-ID: one\r\n\r\n";
        let mut edits = Edits::new();
        edits.insert(22).padding();
        edits
            .replace(Span::new(0, 13))
            .put(b"Via: ")
            .padding()
            .put(b"ours\r\n");
        edits.replace(Span::new(27, 41)).call_id_line(b"i : two\r\n");
        let mut dst = [0; 64];
        let written = edits.write(src, &mut dst).expect("room");
        let text = &dst[..written.len];
        assert_eq!(text, b"Via: ours\r\nContact: <a>\r\ni : two\r\n\r\n");
        // The first place stays: behind the colon of our own line.
        assert_eq!(written.marks.padding(), Some(5));
        assert_eq!(written.marks.call(text), b"two");
        edits.clear();
        edits.replace(Span::new(36, 39)).call_id(b"three");
        edits.insert(22).padding();
        let written = edits.write(src, &mut dst).expect("room");
        assert_eq!(&dst[22..25], b"<a>");
        assert_eq!(written.marks.padding(), Some(22));
        assert_eq!(written.marks.call(&dst[..written.len]), b"three");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut edits = Edits::new();
        edits.delete(Span::new(2, 7));
        assert_eq!(applied(&edits, b"abcdef"), Err(EditError::OutOfRange));
        edits.clear();
        edits.delete(Span::new(3, 2));
        assert_eq!(applied(&edits, b"abcdef"), Err(EditError::OutOfRange));
        edits.clear();
        edits.insert(0).put(&[0; SCRATCH_BYTES]).put(b"x");
        assert_eq!(applied(&edits, b"abcdef"), Err(EditError::Full));
        edits.clear();
        edits.insert(1).put(&[b'x'; 300]);
        assert_eq!(applied(&edits, b"abcdef"), Err(EditError::Full));
        edits.clear();
        for _ in 0..=EDITS_MAX {
            edits.insert(1).put(b"x");
        }
        assert_eq!(applied(&edits, b"abcdef"), Err(EditError::TooManyEdits));
    }
}
