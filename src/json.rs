//! JSON as a shard writes it for the control thread: objects, one a line, into a page that never grows.

use std::fmt;
use std::io::Write;

/// What the control thread sends along with a question for its answer to be written in. A shard allocates nothing: what does
/// not fit into the page goes into the next.
#[derive(Default)]
pub struct Page {
    out: Out,
    entries: usize,
}

impl Page {
    /// A page for `capacity` bytes.
    pub fn new(capacity: usize) -> Page {
        Page {
            out: Out {
                bytes: Vec::with_capacity(capacity),
                ..Out::default()
            },
            entries: 0,
        }
    }

    /// Writes one object and a line end. `false`: it does not fit, and nothing was written.
    #[must_use]
    pub fn entry(&mut self, write: impl FnOnce(&mut Object<'_>)) -> bool {
        let before = self.out.bytes.len();
        self.out.put(b"{");
        write(&mut Object::new(&mut self.out));
        self.out.put(b"}\n");
        if std::mem::take(&mut self.out.is_full) {
            self.out.bytes.truncate(before);
            return false;
        }
        self.entries += 1;
        true
    }

    /// From now on texts longer than this are cut, with "…" in the place of what is left out; `None`: they are whole.
    pub fn cut_texts(&mut self, bytes_max: Option<usize>) {
        self.out.text_bytes_max = bytes_max;
    }

    pub fn entries(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The lines.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out.bytes
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Page({} entries, {} bytes)",
            self.entries,
            self.out.bytes.len()
        )
    }
}

/// Bytes up to the capacity that is there.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    is_full: bool,
    text_bytes_max: Option<usize>,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) {
        if self.is_full || self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.is_full = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// RFC 8259 §7. What is no UTF-8 shows as U+FFFD.
    fn put_text(&mut self, text: &[u8]) {
        let shown = match self.text_bytes_max {
            Some(max) => text.get(..max).unwrap_or(text),
            None => text,
        };
        self.put(b"\"");
        for chunk in shown.utf8_chunks() {
            let valid = chunk.valid().as_bytes();
            let mut rest = valid;
            while let Some(at) = rest
                .iter()
                .position(|&byte| byte < 0x20 || matches!(byte, b'"' | b'\\'))
            {
                self.put(&rest[..at]);
                match rest[at] {
                    byte @ (b'"' | b'\\') => self.put(&[b'\\', byte]),
                    byte => {
                        let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                        self.put(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
                    }
                }
                rest = &rest[at + 1..];
            }
            self.put(rest);
            if !chunk.invalid().is_empty() {
                self.put("\u{fffd}".as_bytes());
            }
        }
        if shown.len() < text.len() {
            self.put("…".as_bytes());
        }
        self.put(b"\"");
    }

    fn put_display(&mut self, value: impl fmt::Display) {
        // Addresses and numbers: 64 bytes hold the longest.
        let mut text = [0; 64];
        let mut rest = &mut text[..];
        let fits = write!(rest, "{value}").is_ok();
        let left = rest.len();
        let len = text.len() - left;
        self.is_full |= !fits;
        self.put(&text[..len]);
    }
}

/// An object that is being written.
pub struct Object<'a> {
    out: &'a mut Out,
    is_first: bool,
}

impl<'a> Object<'a> {
    fn new(out: &'a mut Out) -> Object<'a> {
        Object { out, is_first: true }
    }

    fn name(&mut self, name: &str) -> &mut Out {
        if !self.is_first {
            self.out.put(b",");
        }
        self.is_first = false;
        self.out.put(b"\"");
        self.out.put(name.as_bytes());
        self.out.put(b"\":");
        self.out
    }

    pub fn text(&mut self, name: &str, text: &[u8]) {
        self.name(name).put_text(text);
    }

    /// A value whose `Display` is at most 64 bytes with nothing to escape, in quotes: an address.
    pub fn shown(&mut self, name: &str, value: impl fmt::Display) {
        let out = self.name(name);
        out.put(b"\"");
        out.put_display(value);
        out.put(b"\"");
    }

    pub fn number(&mut self, name: &str, number: u64) {
        self.name(name).put_display(number);
    }

    /// A list of objects, which `write` adds one by one.
    pub fn list(&mut self, name: &str, write: impl FnOnce(&mut List<'_>)) {
        let out = self.name(name);
        out.put(b"[");
        write(&mut List { out, is_first: true });
        out.put(b"]");
    }
}

/// A list that is being written.
pub struct List<'a> {
    out: &'a mut Out,
    is_first: bool,
}

impl List<'_> {
    pub fn object(&mut self, write: impl FnOnce(&mut Object<'_>)) {
        self.out.put(if self.is_first { b"{" } else { b",{" });
        self.is_first = false;
        write(&mut Object::new(self.out));
        self.out.put(b"}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_lines_of_json_whatever_the_texts_are() {
        let mut page = Page::new(1_000);
        assert!(page.entry(|entry| {
            entry.text("name", b"a\"b\\c\n\xff\xc3\xa9");
            entry.number("count", 7);
            entry.list("legs", |legs| {
                legs.object(|leg| leg.shown("peer", "[::1]:5060"));
                legs.object(|leg| leg.number("n", 1));
            });
        }));
        assert!(page.entry(|_| {}));
        assert_eq!(page.entries(), 2);
        let text = String::from_utf8(page.into_bytes()).expect("UTF-8");
        assert_eq!(
            text,
            "{\"name\":\"a\\\"b\\\\c\\u000a\u{fffd}é\",\"count\":7,\"legs\":[{\"peer\":\"[::1]:5060\"},{\"n\":1}]}\n{}\n"
        );
    }

    #[test]
    fn a_text_that_is_cut_says_so() {
        let mut page = Page::new(100);
        page.cut_texts(Some(3));
        assert!(page.entry(|entry| {
            entry.text("short", b"abc");
            entry.text("long", "ab\u{e9}c".as_bytes());
        }));
        let text = String::from_utf8(page.into_bytes()).expect("UTF-8");
        assert_eq!(text, "{\"short\":\"abc\",\"long\":\"ab\u{fffd}…\"}\n");
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace_and_the_page_does_not_grow() {
        let mut page = Page::new(40);
        assert!(page.entry(|entry| entry.text("a", b"0123456789")));
        let before = page.out.bytes.len();
        assert!(!page.entry(|entry| entry.text("a", &[b'x'; 40])));
        assert_eq!((page.out.bytes.len(), page.out.bytes.capacity()), (before, 40));
        assert!(page.entry(|entry| entry.number("b", 1)));
    }
}
