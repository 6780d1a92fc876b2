//! What is kept of a request so that its responses can be written when they come: RFC 3261 §8.2.6.2.

use crate::msg::build::{self, WayBack, Writer};
use crate::msg::name::Name;
use crate::msg::request::Request;
use crate::pool::{BufId, Pool};

/// The header lines that a response takes over, in one buffer of the pool, which must be given back with
/// [`Asked::release`]. Nothing needs to be scanned again to use them.
#[derive(Clone, Copy)]
pub struct Asked {
    text: BufId,
    /// Where each of [`Lines`] ends.
    ends: [u16; LINES],
    has_to_tag: bool,
}

const LINES: usize = 6;

/// The lines, each spelled as it came and ending in CRLF, but for `to`.
pub struct Lines<'a> {
    /// The topmost completed for the way back (RFC 3261 §18.2.1, RFC 3581 §4).
    pub vias: &'a [u8],
    pub record_routes: &'a [u8],
    /// As they stand in an answer that adds no tag.
    vias_from_to: &'a [u8],
    pub from: &'a [u8],
    /// Without its line end: a tag may follow.
    pub to: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: &'a [u8],
    pub has_to_tag: bool,
}

/// What completing the topmost Via may add to it: `received`, a port behind `rport`, and the load of this server.
const VIA_SLACK: usize = 160;

impl Asked {
    /// `back`: as it is when the request comes, for all its answers: RFC 7339 §4.4 tells old values by their number. `None` when the pool has no buffer.
    pub fn keep(request: &Request<'_>, back: WayBack, pool: &mut Pool) -> Option<Asked> {
        const NAMES: [Name; LINES] = [
            Name::RecordRoute,
            Name::Via,
            Name::From,
            Name::To,
            Name::CallId,
            Name::CSeq,
        ];
        let msg = &request.msg;
        let len = |name| {
            msg.lines_of(name)
                .map(|line| line.span().len() + 2)
                .sum::<usize>()
        };
        let room = VIA_SLACK + NAMES.into_iter().map(len).sum::<usize>();
        let mut draft = pool.draft(room)?;
        let mut w = Writer::new(&mut draft.bytes);
        let mut ends = [0; LINES];
        for (name, end) in NAMES.into_iter().zip(&mut ends) {
            match name {
                Name::Via => build::put_via_lines(&mut w, request, back),
                _ => {
                    for line in msg.lines_of(name) {
                        w.put(&msg.bytes[line.start as usize..line.value.end as usize])
                            .crlf();
                    }
                }
            }
            // More than a header section has; the writer is full long before.
            *end = u16::try_from(w.len()).unwrap_or(u16::MAX);
        }
        match w.finish().filter(|len| *len <= usize::from(u16::MAX)) {
            Some(len) => Some(Asked {
                text: pool.commit(draft, len),
                ends,
                has_to_tag: request.to_tag.is_some(),
            }),
            None => {
                pool.discard(draft);
                None
            }
        }
    }

    pub fn lines<'p>(&self, pool: &'p Pool) -> Lines<'p> {
        let text = pool.get(self.text);
        let [record_routes, vias, from, to, call_id, cseq] = self.ends.map(usize::from);
        Lines {
            record_routes: &text[..record_routes],
            vias_from_to: &text[record_routes..to],
            vias: &text[record_routes..vias],
            from: &text[vias..from],
            to: text[from..to].strip_suffix(b"\r\n").unwrap_or_default(),
            call_id: &text[to..call_id],
            cseq: &text[call_id..cseq],
            has_to_tag: self.has_to_tag,
        }
    }

    /// Bytes of all lines.
    pub fn len(&self) -> usize {
        usize::from(self.ends[LINES - 1])
    }

    pub fn has_to_tag(&self) -> bool {
        self.has_to_tag
    }

    pub fn release(self, pool: &mut Pool) {
        pool.release(self.text);
    }
}

impl Lines<'_> {
    /// Begins a response of our own: status line and the lines that it takes over. `to_tag` may be empty.
    pub fn put_head(&self, w: &mut Writer<'_>, (status, reason): (u16, &str), to_tag: &[u8]) {
        build::status_line(w, status, reason);
        if to_tag.is_empty() {
            w.put(self.vias_from_to);
        } else {
            w.put(self.vias).put(self.from).put(self.to);
            w.put(b";tag=").put(to_tag).crlf();
        }
        w.call_id_line(self.call_id).put(self.cseq);
    }
}
