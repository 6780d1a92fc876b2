//! Dialogs: RFC 3261 §12. What a dialog remembers as text lies in one buffer of the pool; the numbers stand beside it.

use crate::msg::Span;
use crate::msg::build::Writer;
use crate::msg::lanes;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::scan::Message;
use crate::msg::uri::Uri;
use crate::pool::{BufId, Draft, Pool};

/// The text of a dialog, each part raw as it stands in a message. Parts may be empty.
#[derive(Clone, Copy, Default)]
pub struct Parts<'a> {
    pub call_id: &'a [u8],
    /// Our side's name-addr with its parameters, the tag included where it is known.
    pub local: &'a [u8],
    pub local_tag: &'a [u8],
    /// The peer's name-addr with its parameters, the tag included where it is known.
    pub remote: &'a [u8],
    pub remote_tag: &'a [u8],
    /// The remote target URI (§12.1).
    pub target: &'a [u8],
    /// The route set in order of use, comma-separated.
    pub routes: &'a [u8],
}

/// Parts to put in the place of others.
#[derive(Clone, Copy, Default)]
pub struct Change<'a> {
    pub remote: Option<&'a [u8]>,
    pub remote_tag: Option<&'a [u8]>,
    pub target: Option<&'a [u8]>,
    pub routes: Option<&'a [u8]>,
}

const PARTS: usize = 7;

/// The text of one dialog in the pool. It must be given back with [`Dialog::release`].
pub struct Dialog {
    text: BufId,
    ends: Ends,
}

/// Where each part ends in the text of a dialog.
#[derive(Clone, Copy)]
pub struct Ends([u32; PARTS]);

impl Dialog {
    /// `None` when the pool has no buffer.
    pub fn new(parts: &Parts<'_>, pool: &mut Pool) -> Option<Dialog> {
        let mut draft = pool.draft(parts.len())?;
        let ends = parts.copy_into(&mut draft.bytes);
        Some(Dialog::commit(draft, ends, pool))
    }

    /// The dialog whose parts [`Parts::copy_into`] has put into `draft`: for parts that come from the pool themselves.
    pub fn commit(draft: Draft, ends: Ends, pool: &mut Pool) -> Dialog {
        Dialog {
            text: pool.commit(draft, ends.0[PARTS - 1] as usize),
            ends,
        }
    }

    /// Bytes of all parts.
    pub fn len(&self) -> usize {
        self.ends.0[PARTS - 1] as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For who needs one part: the others are not looked at.
    pub fn call_id<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        self.part(0, pool.get(self.text))
    }

    pub fn local_tag<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        self.part(2, pool.get(self.text))
    }

    pub fn remote<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        self.part(3, pool.get(self.text))
    }

    pub fn remote_tag<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        self.part(4, pool.get(self.text))
    }

    pub fn target<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        self.part(5, pool.get(self.text))
    }

    pub fn parts<'p>(&self, pool: &'p Pool) -> Parts<'p> {
        let text = pool.get(self.text);
        Parts {
            call_id: self.part(0, text),
            local: self.part(1, text),
            local_tag: self.part(2, text),
            remote: self.part(3, text),
            remote_tag: self.part(4, text),
            target: self.part(5, text),
            routes: self.part(6, text),
        }
    }

    #[inline(always)]
    fn part<'p>(&self, i: usize, text: &'p [u8]) -> &'p [u8] {
        let start = if i == 0 { 0 } else { self.ends.0[i - 1] };
        let end = self.ends.0[i];
        Span { start, end }.of(text)
    }

    /// Writes the text anew with `change`. `false` when the pool has no buffer: then nothing has changed.
    #[must_use]
    pub fn change(&mut self, change: &Change<'_>, pool: &mut Pool) -> bool {
        let longest = |new: Option<&[u8]>| new.map_or(0, <[u8]>::len);
        let len_max = pool.get(self.text).len()
            + longest(change.remote)
            + longest(change.remote_tag)
            + longest(change.target)
            + longest(change.routes);
        let Some(mut draft) = pool.draft(len_max) else {
            return false;
        };
        let old = self.parts(pool);
        let parts = Parts {
            remote: change.remote.unwrap_or(old.remote),
            remote_tag: change.remote_tag.unwrap_or(old.remote_tag),
            target: change.target.unwrap_or(old.target),
            routes: change.routes.unwrap_or(old.routes),
            ..old
        };
        let ends = parts.copy_into(&mut draft.bytes);
        let new = Dialog::commit(draft, ends, pool);
        std::mem::replace(self, new).release(pool);
        true
    }

    pub fn release(self, pool: &mut Pool) {
        pool.release(self.text);
    }
}

impl<'a> Parts<'a> {
    fn array(&self) -> [&'a [u8]; PARTS] {
        [
            self.call_id,
            self.local,
            self.local_tag,
            self.remote,
            self.remote_tag,
            self.target,
            self.routes,
        ]
    }

    /// Length of all parts.
    pub fn len(&self) -> usize {
        self.array().iter().map(|part| part.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts the parts one behind the other. `bytes` must have room for [`Parts::len`].
    pub fn copy_into(&self, bytes: &mut [u8]) -> Ends {
        let mut ends = [0; PARTS];
        let mut at = 0;
        for (part, end) in self.array().iter().zip(&mut ends) {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
            *end = at as u32;
        }
        Ends(ends)
    }

    /// The URI that decides where a request of this dialog goes: the first route, else the target (§12.2.1.1).
    pub fn next_hop(&self) -> &'a [u8] {
        self.first_route().map_or(self.target, |route| route.uri)
    }

    /// The Request-URI (§12.2.1.1): the target, or the first route where that is a strict router's.
    pub fn request_uri(&self) -> &'a [u8] {
        if self.routes.is_empty() {
            return self.target;
        }
        match self.strict_route() {
            Some(route) => route.uri,
            None => self.target,
        }
    }

    /// Writes the Route line, if there is a route set.
    pub fn put_routes(&self, w: &mut Writer<'_>) {
        if self.routes.is_empty() {
            return;
        }
        w.put(b"Route: ");
        match self.strict_route() {
            // §12.2.1.1: a strict router takes the Request-URI's place, and the target comes last.
            Some(first) => {
                let rest = self.routes.get(first.raw.len()..).unwrap_or(b"");
                let rest = rest
                    .trim_ascii_start()
                    .strip_prefix(b",")
                    .unwrap_or(rest)
                    .trim_ascii_start();
                if !rest.is_empty() {
                    w.put(rest).put(b", ");
                }
                w.put(b"<").put(self.target).put(b">");
            }
            None => {
                w.put(self.routes);
            }
        }
        w.crlf();
    }

    fn first_route(&self) -> Option<NameAddr<'a>> {
        let first = crate::msg::lex::Elements::new(self.routes).next()?;
        NameAddr::parse(first).ok()
    }

    fn strict_route(&self) -> Option<NameAddr<'a>> {
        let first = self.first_route()?;
        let is_loose = first.uri().is_ok_and(|uri| uri.param(b"lr").is_some());
        if is_loose { None } else { Some(first) }
    }
}

/// What of a Contact's URI is a remote target: RFC 3261 §19.1.1, table 1 keeps headers out of a Request-URI.
pub fn target_of(uri: &[u8]) -> &[u8] {
    // Nearly all have none, which is seen without reading the URI.
    if lanes::find(uri, |block| block.eq(b'?')) == uri.len() {
        return uri;
    }
    match Uri::parse(uri) {
        Ok(parsed) if !parsed.headers.is_empty() => {
            let before = uri.len() - parsed.headers.len();
            uri[..before].strip_suffix(b"?").unwrap_or(uri)
        }
        Ok(_) | Err(_) => uri,
    }
}

/// Longest route set that is kept, bytes and elements: those of as many hops as Max-Forwards allows where nobody sets it lower
/// (RFC 3261 §8.1.1.6).
pub const ROUTES_BYTES_MAX: usize = 4_096;
const ROUTES_MAX: usize = 70;

/// Writes the route set that `message` gives its receiver: the Record-Route elements in order for who received the request
/// (§12.1.1), in reverse for who sent it (§12.1.2). Returns `false` when there are more than can be kept.
#[must_use]
pub fn put_route_set(message: &Message<'_>, reverse: bool, w: &mut Writer<'_>) -> bool {
    let mut routes: [&[u8]; ROUTES_MAX] = [b""; ROUTES_MAX];
    let mut count = 0;
    for element in message.elements(Name::RecordRoute) {
        let Some(place) = routes.get_mut(count) else {
            return false;
        };
        *place = element;
        count += 1;
    }
    let routes = &mut routes[..count];
    if reverse {
        routes.reverse();
    }
    for (i, route) in routes.iter().enumerate() {
        if i > 0 {
            w.put(b", ");
        }
        w.put(route);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>() -> Parts<'a> {
        Parts {
            call_id: b"c1",
            local: b"<sip:a@one.att.net>;tag=l",
            local_tag: b"l",
            remote: b"<sip:b@one.att.net>",
            remote_tag: b"",
            target: b"sip:b@127.0.0.9:5070",
            routes: b"",
        }
    }

    #[test]
    fn a_change_keeps_the_other_parts_and_leaves_no_buffer_behind() {
        let mut pool = Pool::new(1 << 20);
        let mut dialog = Dialog::new(&parts(), &mut pool).expect("room");
        let change = Change {
            remote: Some(b"<sip:b@one.att.net>;tag=r"),
            remote_tag: Some(b"r"),
            routes: Some(b"<sip:127.0.0.7;lr>"),
            ..Change::default()
        };
        assert!(dialog.change(&change, &mut pool));
        let now = dialog.parts(&pool);
        assert_eq!(
            (now.call_id, now.local_tag, now.remote_tag),
            (&b"c1"[..], &b"l"[..], &b"r"[..])
        );
        assert_eq!(now.target, b"sip:b@127.0.0.9:5070");
        assert_eq!(now.next_hop(), b"sip:127.0.0.7;lr");
        assert_eq!(now.request_uri(), b"sip:b@127.0.0.9:5070");
        dialog.release(&mut pool);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_strict_router_takes_the_request_uri() {
        let parts = Parts {
            routes: b"<sip:127.0.0.7>, <sip:127.0.0.8;lr>",
            ..parts()
        };
        assert_eq!(parts.request_uri(), b"sip:127.0.0.7");
        let mut bytes = [0; 256];
        let mut w = Writer::new(&mut bytes);
        parts.put_routes(&mut w);
        let len = w.finish().expect("it fits");
        assert_eq!(
            &bytes[..len],
            b"Route: <sip:127.0.0.8;lr>, <sip:b@127.0.0.9:5070>\r\n"
        );
    }
}
