//! `application/reginfo+xml`: RFC 3680 §5, always with full state.
//!
//! Everything that a phone wrote passes through [`put_text`], so that no name or parameter of a contact can become markup.

use crate::location::{Binding, BindingId, ContactEvent, Fresh, Location, Removed, gruu, seconds_left};
use crate::msg::build::Writer;
use crate::msg::params::Params;
use crate::pool::Pool;
use crate::time::Instant;

use crate::location::AorKey;

pub const CONTENT_TYPE: &[u8] = b"application/reginfo+xml";

/// Most bytes of one document.
pub const DOCUMENT_MAX: usize = 32_768;

/// What a document is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The address-of-record as a URI.
    pub aor: &'a [u8],
    pub key: AorKey,
    /// §5.1: 0 in the first document of a subscription, one more in each.
    pub version: u32,
    /// `contact` elements of bindings that are no more: what [`put_removed`] wrote.
    pub gone: &'a [u8],
}

/// How much is said of a contact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Detail {
    /// With its parameters.
    Full,
    /// Its URI and state, where all parameters of all contacts are too much for one document.
    Brief,
}

const TAIL: &[u8] = b"</registration>\n</reginfo>\n";

/// Writes the document for `subject` into `buf` and returns its length, and how many contacts there was no room for.
pub fn write(
    subject: &Subject<'_>,
    location: &Location,
    pool: &Pool,
    now: Instant,
    buf: &mut [u8],
) -> (usize, usize) {
    match attempt(subject, Detail::Full, location, pool, now, buf) {
        (len, 0) => (len, 0),
        (_, _) => attempt(subject, Detail::Brief, location, pool, now, buf),
    }
}

fn attempt(
    subject: &Subject<'_>,
    detail: Detail,
    location: &Location,
    pool: &Pool,
    now: Instant,
    buf: &mut [u8],
) -> (usize, usize) {
    let contacts = || {
        location
            .bindings_of(subject.key)
            .filter(|(_, binding)| binding.said.expires_at > now)
    };
    // §4.7.1: without a contact it is `init`, but for the one document that says how the last of them went.
    let state: &[u8] = if contacts().next().is_some() {
        b"active"
    } else if subject.gone.is_empty() {
        b"init"
    } else {
        b"terminated"
    };
    let room = buf.len().saturating_sub(TAIL.len());
    let mut w = Writer::new(&mut buf[..room]);
    w.put(b"<?xml version=\"1.0\"?>\n<reginfo xmlns=\"urn:ietf:params:xml:ns:reginfo\" version=\"");
    w.num(u64::from(subject.version))
        .put(b"\" state=\"full\">\n<registration aor=\"");
    put_text(subject.aor, &mut w);
    // §5.1: the id must be unique within the subscription, which is about one registration.
    w.put(b"\" id=\"r\" state=\"").put(state).put(b"\">\n");
    let mut len = w.len();
    let mut left_out = 0;
    let mut element = |write: &dyn Fn(&mut Writer<'_>)| {
        let mut w = Writer::new(&mut buf[len..room]);
        write(&mut w);
        match w.finish() {
            Some(more) => len += more,
            None => left_out += 1,
        }
    };
    for (id, binding) in contacts() {
        element(&|w| put_contact(subject.aor, id, binding, binding.event, detail, pool, now, w));
    }
    element(&|w| _ = w.put(subject.gone));
    buf[len..len + TAIL.len()].copy_from_slice(TAIL);
    (len + TAIL.len(), left_out)
}

/// Writes the `contact` element of a binding that is no more.
pub fn put_removed(removed: &Removed, pool: &Pool, now: Instant, w: &mut Writer<'_>) {
    put_contact(
        b"",
        removed.id,
        &removed.binding,
        removed.event,
        Detail::Full,
        pool,
        now,
        w,
    );
}

#[allow(clippy::too_many_arguments)]
fn put_contact(
    aor: &[u8],
    id: BindingId,
    binding: &Binding,
    event: ContactEvent,
    detail: Detail,
    pool: &Pool,
    now: Instant,
    w: &mut Writer<'_>,
) {
    let is_active = match event {
        ContactEvent::Registered | ContactEvent::Refreshed => true,
        ContactEvent::Expired | ContactEvent::Unregistered | ContactEvent::Deactivated => false,
    };
    let said = &binding.said;
    // §5.1: the id of a contact stays the same as long as its URI does.
    w.put(b"<contact id=\"c")
        .num(u64::from(id.slot))
        .put(b"-")
        .num(u64::from(id.generation));
    w.put(if is_active {
        b"\" state=\"active\" event=\""
    } else {
        b"\" state=\"terminated\" event=\""
    });
    w.put(event.text().as_bytes()).put(b"\" duration-registered=\"");
    w.num(binding.registered_for(now).as_secs());
    if is_active {
        w.put(b"\" expires=\"").num(seconds_left(said.expires_at, now));
    }
    let params = || Params::new(said.text.params(pool).get(1..).unwrap_or_default());
    if let Some(q) = params().find(|param| param.is(b"q")) {
        w.put(b"\" q=\"");
        put_text(q.value.unwrap_or_default(), w);
    }
    w.put(b"\">\n<uri>");
    put_text(said.text.uri(pool), w);
    w.put(b"</uri>\n");
    match detail {
        Detail::Brief => {}
        Detail::Full => {
            // §5.1: those that RFC 3261 itself defines have attributes.
            for param in params().filter(|param| !param.is(b"q")) {
                w.put(b"<unknown-param name=\"");
                put_text(param.name, w);
                w.put(b"\">");
                put_text(param.value.unwrap_or_default(), w);
                w.put(b"</unknown-param>\n");
            }
        }
    }
    if !aor.is_empty() {
        put_public_gruu(aor, said, pool, w);
    }
    w.put(b"</contact>\n");
}

/// RFC 5628 §5: the public GRUU of a contact that has one. The temporary ones are for the phone alone, which gets them in its 200.
fn put_public_gruu(aor: &[u8], said: &Fresh, pool: &Pool, w: &mut Writer<'_>) {
    let mut uri = [0; 1_024];
    let mut gruu = Writer::new(&mut uri);
    if gruu::put_public(said, pool, aor, &mut gruu)
        && let Some(len) = gruu.finish()
    {
        w.put(b"<gr:pub-gruu xmlns:gr=\"urn:ietf:params:xml:ns:gruuinfo\" uri=\"");
        put_text(&uri[..len], w);
        w.put(b"\"/>\n");
    }
}

/// Writes `text` as XML character data or attribute value. What is not UTF-8, and characters that XML 1.0 §2.2 does not
/// allow, become U+FFFD.
pub fn put_text(text: &[u8], w: &mut Writer<'_>) {
    let mut rest = text;
    while !rest.is_empty() {
        // What stands for itself goes in one piece. It is ASCII, so no character of more bytes is cut in two.
        let plain = rest.iter().position(|byte| !is_plain(*byte));
        let (run, odd) = rest.split_at(plain.unwrap_or(rest.len()));
        w.put(run);
        let odd_len = odd.iter().position(|byte| is_plain(*byte));
        let (odd, after) = odd.split_at(odd_len.unwrap_or(odd.len()));
        put_escaped(odd, w);
        rest = after;
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'<' | b'>' | b'&' | b'"' | b'\'')
}

fn put_escaped(text: &[u8], w: &mut Writer<'_>) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '<' => w.put(b"&lt;"),
                '>' => w.put(b"&gt;"),
                '&' => w.put(b"&amp;"),
                '"' => w.put(b"&quot;"),
                '\'' => w.put(b"&apos;"),
                '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'.. => {
                    w.put(c.encode_utf8(&mut [0; 4]).as_bytes())
                }
                '\0'.. => w.put("\u{fffd}".as_bytes()),
            };
        }
        if !chunk.invalid().is_empty() {
            w.put("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut buf = [0; 2_048];
        let mut w = Writer::new(&mut buf);
        put_text(bytes, &mut w);
        let len = w.finish().expect("room");
        String::from_utf8(buf[..len].to_vec()).expect("UTF-8")
    }

    #[test]
    fn what_a_phone_wrote_never_becomes_markup() {
        assert_eq!(text(b"\"<urn:x>\""), "&quot;&lt;urn:x&gt;&quot;");
        assert_eq!(text(b"a&b'c"), "a&amp;b&apos;c");
        assert_eq!(
            text(b"a\x00b\x1b\xff\xfec\r\n\t"),
            "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c\r\n\t"
        );
        assert_eq!(
            text("gr\u{fc}n \u{ffff}\u{1f4de}".as_bytes()),
            "gr\u{fc}n \u{fffd}\u{1f4de}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_become_characters_that_xml_allows(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = text(&bytes);
            for c in text.chars() {
                let allowed = matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
                prop_assert!(allowed && !matches!(c, '<' | '>' | '"' | '\''), "{c:?}");
            }
            for (at, _) in text.match_indices('&') {
                let known = ["&lt;", "&gt;", "&amp;", "&quot;", "&apos;"];
                prop_assert!(known.iter().any(|entity| text[at..].starts_with(entity)));
            }
        }
    }
}
