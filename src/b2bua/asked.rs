//! What is kept of a request so that its responses can be written when they come: RFC 3261 §8.2.6.2.

use core::ops::Range;

use crate::msg::build::{self, WayBack, Writer};
use crate::msg::message::Message;
use crate::msg::name::Name;
use crate::msg::request::Request;
use crate::msg::scan::Line;
use crate::pool::{BufId, Pool};

/// The header lines that a response takes over, in one buffer of the pool, which must be given back with
/// [`Asked::release`]. Nothing needs to be scanned again to use them.
///
/// A request that gets a 100 at once has them in that 100: it is written anyway, and kept by its server transaction.
#[derive(Clone, Copy)]
pub struct Asked {
    text: BufId,
    /// Where the first of the lines begins.
    start: u16,
    /// Where each ends: Via, From, To, Call-ID, CSeq, Timestamp.
    ends: [u16; LINES],
    /// Where in its line the Call-ID begins.
    call_id_at: u16,
    has_to_tag: bool,
    /// What a response that makes a dialog repeats beside them; most requests have none.
    record_routes: Option<BufId>,
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
    /// Where in `call_id` its value stands.
    pub call_id_value: Range<usize>,
    pub cseq: &'a [u8],
    /// RFC 3261 §8.2.6.1: for a 100. Most requests have none.
    pub timestamp: &'a [u8],
    pub has_to_tag: bool,
}

/// What completing the topmost Via may add to it: `received`, a port behind `rport`.
const VIA_SLACK: usize = 64;
/// And the load of this server.
const LOAD_SLACK: usize = 112;
/// What a 100 has beside these lines and the URI of its Contact.
const TRYING_BYTES: usize = 64;

impl Asked {
    /// `back`: as it is when the request comes, for all its answers: RFC 7339 §4.4 tells old values by their number. `trying`: the URI
    /// of our Contact where [`Asked::text`] is to be the 100 that the request gets. `None` when the pool has no buffer.
    pub fn keep(
        request: &Request<'_>,
        back: WayBack,
        trying: Option<&[u8]>,
        pool: &mut Pool,
    ) -> Option<Asked> {
        let msg = request.msg;
        let single = |name| msg.line(name);
        let (from, to) = (single(Name::From)?, single(Name::To)?);
        let (call_id, cseq) = (single(Name::CallId)?, single(Name::CSeq)?);
        let timestamp = single(Name::Timestamp);
        let vias: usize = msg.lines_of(Name::Via).map(line_room).sum();
        let others = [Some(from), Some(to), Some(call_id), Some(cseq), timestamp];
        let others: usize = others.into_iter().flatten().map(line_room).sum();
        let around = trying.map_or(0, |contact_uri| TRYING_BYTES + contact_uri.len());
        let load = match back.load {
            Some(_) if request.via.has_oc => LOAD_SLACK,
            Some(_) | None => 0,
        };
        let mut draft = pool.draft(VIA_SLACK + load + vias + others + around)?;
        let mut w = Writer::new(&mut draft.bytes);
        if trying.is_some() {
            w.put(b"SIP/2.0 100 Trying\r\n");
        }
        let start = w.len() as u16;
        build::put_via_lines(&mut w, request, back);
        let mut ends = [w.len() as u16; LINES];
        put_line(&mut w, msg, from);
        ends[1] = w.len() as u16;
        put_line(&mut w, msg, to);
        ends[2] = w.len() as u16;
        w.call_id_line(msg.text_of(call_id), call_id.value_in_text())
            .crlf();
        ends[3] = w.len() as u16;
        put_line(&mut w, msg, cseq);
        ends[4] = w.len() as u16;
        // RFC 3261 §8.2.6.1: a 100 carries the Timestamp of its request.
        if let Some(line) = timestamp {
            put_line(&mut w, msg, line);
        }
        ends[5] = w.len() as u16;
        if let Some(contact_uri) = trying {
            w.put(b"Contact: <").put(contact_uri).put(b">\r\n");
            build::end(&mut w);
        }
        // Places have 16 bits.
        let Some(written) = w.written().filter(|written| written.len <= usize::from(u16::MAX)) else {
            pool.discard(draft);
            return None;
        };
        let text = pool.commit(draft, written);
        let Ok(record_routes) = keep_record_routes(request, pool) else {
            pool.release(text);
            return None;
        };
        Some(Asked {
            text,
            start,
            ends,
            call_id_at: call_id.value_in_text().start as u16,
            has_to_tag: request.to_tag.is_some(),
            record_routes,
        })
    }

    pub fn lines<'p>(&self, pool: &'p Pool) -> Lines<'p> {
        let text = pool.get(self.text);
        let start = usize::from(self.start);
        let [vias, from, to, call_id, cseq, timestamp] = self.ends.map(usize::from);
        Lines {
            record_routes: self.record_routes.map_or(b"", |lines| pool.get(lines)),
            vias_from_to: &text[start..to],
            vias: &text[start..vias],
            from: &text[vias..from],
            to: text[from..to].strip_suffix(b"\r\n").unwrap_or_default(),
            call_id: &text[to..call_id],
            call_id_value: usize::from(self.call_id_at)..call_id - to - 2,
            cseq: &text[call_id..cseq],
            timestamp: &text[cseq..timestamp],
            has_to_tag: self.has_to_tag,
        }
    }

    /// The buffer that the lines are in.
    pub fn text(&self) -> BufId {
        self.text
    }

    /// Bytes of all lines, those of Record-Route included, or some more.
    pub fn len(&self, pool: &Pool) -> usize {
        let record_routes = self.record_routes.map_or(0, |lines| pool.get(lines).len());
        usize::from(self.ends[LINES - 1]) + record_routes
    }

    pub fn has_to_tag(&self) -> bool {
        self.has_to_tag
    }

    pub fn release(self, pool: &mut Pool) {
        pool.release(self.text);
        if let Some(lines) = self.record_routes {
            pool.release(lines);
        }
    }
}

/// Within a dialog they count no more (RFC 3261 §12.2). `Err`: there is no buffer.
fn keep_record_routes(request: &Request<'_>, pool: &mut Pool) -> Result<Option<BufId>, ()> {
    let msg = request.msg;
    if request.to_tag.is_some() || msg.line(Name::RecordRoute).is_none() {
        return Ok(None);
    }
    let room = msg.lines_of(Name::RecordRoute).map(line_room).sum();
    let mut draft = pool.draft(room).ok_or(())?;
    let mut w = Writer::new(&mut draft.bytes);
    for line in msg.lines_of(Name::RecordRoute) {
        put_line(&mut w, msg, line);
    }
    match w.finish() {
        Some(len) => Ok(Some(pool.commit(draft, len))),
        None => {
            pool.discard(draft);
            Err(())
        }
    }
}

/// What a line takes at most, however it ended.
fn line_room(line: &Line) -> usize {
    line.span().len() + 2
}

fn put_line(w: &mut Writer<'_>, msg: Message<'_>, line: &Line) {
    w.put(msg.text_of(line)).crlf();
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
        w.call_id_line(self.call_id, self.call_id_value.clone())
            .put(self.cseq);
    }
}
