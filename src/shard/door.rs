//! The door: where a request that begins something new is refused before anything is known of it but its lines, when the shard
//! gets more than it can do ([`overload`](super::overload)).
//!
//! The shard that received it decides, whoever owns it. What comes again is treated as it was the first time: a table of fixed size
//! remembers the last requests by a hash of their topmost Via, Call-ID and CSeq: the branch alone is unique only since RFC 3261 (§8.1.1.7).

use crate::key_index::Key;
use crate::metrics::DropReason;
use crate::msg::Span;
use crate::msg::build::{self, Writer};
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::Salvage;
use crate::msg::scan::Message;
use crate::msg::via::Via;
use crate::time::Instant;
use crate::token::TokenKind;
use crate::wire::{Effects, Flow, Transport};

use super::Shard;
use super::overload::{Class, Verdict};

/// Requests remembered: 2^16 of 4 bytes. At 20,000 new ones a second that is three seconds, in which a retransmission comes three times.
const REMEMBERED: usize = 1 << 16;

/// What became of the last requests.
pub(super) struct Memory(Box<[u32]>);

/// What became of a request the last time it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    No,
    Admitted,
    Refused,
}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory(vec![0; REMEMBERED].into_boxed_slice())
    }

    /// The lowest bit says whether it was admitted, the others which it was.
    const fn mark(hash: u64, admitted: bool) -> u32 {
        (hash >> 32) as u32 & !1 | admitted as u32
    }

    const fn place(hash: u64) -> usize {
        hash as usize % REMEMBERED
    }

    fn known(&self, hash: u64) -> Known {
        match self.0[Self::place(hash)] {
            it if it == Self::mark(hash, true) => Known::Admitted,
            it if it == Self::mark(hash, false) => Known::Refused,
            _ => Known::No,
        }
    }

    fn remember(&mut self, hash: u64, admitted: bool) {
        self.0[Self::place(hash)] = Self::mark(hash, admitted);
    }
}

/// What a request begins; `None` if it belongs to something that there is, or ends it.
fn class_of(method: Method, uri: &[u8]) -> Option<Class> {
    const EMERGENCY: &[u8] = b"urn:service:sos";
    match method {
        Method::Invite => {
            let is_emergency = uri
                .get(..EMERGENCY.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(EMERGENCY));
            Some(if is_emergency {
                Class::Emergency
            } else {
                Class::Call
            })
        }
        Method::Message | Method::Options | Method::Refer | Method::Publish | Method::Other => {
            Some(Class::Page)
        }
        Method::Subscribe => Some(Class::Subscribe),
        Method::Register => Some(Class::Register),
        Method::Ack
        | Method::Bye
        | Method::Cancel
        | Method::Notify
        | Method::Info
        | Method::Update
        | Method::Prack => None,
    }
}

impl Shard {
    /// Whether a request may come in. One that may not has been dealt with.
    pub(super) fn admits(
        &mut self,
        msg: Message<'_>,
        (method, uri): (Method, Span),
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        if method == Method::Ack {
            return !self.is_ack_of_refusal(msg);
        }
        let Some(class) = class_of(method, uri.of(msg.bytes)) else {
            return true;
        };
        let (Some(via), Some(to)) = (msg.value(Name::Via), msg.value(Name::To)) else {
            return true;
        };
        // Most end with the bracket around their URI, and so have no tag. A URI may hold these bytes too: then it is let in, and
        // whoever does that gains nothing that a tag would not give.
        if to.last() != Some(&b'>') && memchr::memmem::find(to, b"tag=").is_some() {
            return true;
        }
        let call_id = msg.value(Name::CallId).unwrap_or(b"");
        let cseq = msg.value(Name::CSeq).unwrap_or(b"");
        let hash = self.stack.keyer.lines_hash(via, call_id, cseq);
        let may_drop = match flow.transport {
            Transport::Udp => true,
            Transport::Tcp => false,
        };
        let verdict = match self.memory.known(hash) {
            Known::Admitted if may_drop => return true,
            Known::Refused if may_drop && self.overload.is_limiting() => Verdict::Refuse,
            Known::Admitted | Known::Refused | Known::No => {
                self.overload
                    .decide(class, now.since(out.received_at), may_drop, now)
            }
        };
        // Looked for only where it counts.
        let obeys = self.overload.is_limiting()
            && memchr::memmem::find(via, b"oc-algo").is_some()
            && Via::top(msg).is_ok_and(|via| via.obeys_loss());
        self.feedback
            .offered(class.cost(), obeys, verdict == Verdict::Admit);
        self.tick_feedback(now);
        match verdict {
            Verdict::Admit => {
                self.memory.remember(hash, true);
                return true;
            }
            Verdict::Refuse => {
                self.memory.remember(hash, false);
                self.stack.metrics.overload_refused[class as usize].inc();
                let key = self.stack.keyer.lines(via, call_id, cseq);
                self.refuse_new(msg, key, flow, out);
            }
            Verdict::Drop => self.stack.metrics.dropped(DropReason::Overload),
            Verdict::DropStale => self.stack.metrics.dropped(DropReason::OverloadStale),
        }
        false
    }

    /// The ACK to a 503 of the door names a tag that means nothing but that. Told apart only where there are many.
    fn is_ack_of_refusal(&self, msg: Message<'_>) -> bool {
        if !self.overload.is_limiting() {
            return false;
        }
        let tag = msg.value(Name::To).and_then(|to| {
            let at = memchr::memmem::rfind(to, b"tag=")? + 4;
            let tag = &to[at..];
            Some(&tag[..tag.iter().position(|byte| *byte == b';').unwrap_or(tag.len())])
        });
        let is_ours = tag
            .and_then(|tag| self.stack.key.parse(tag))
            .is_some_and(|token| token.kind == TokenKind::Stateless);
        if is_ours {
            self.stack.metrics.overload_acks.inc();
        }
        is_ours
    }

    /// 503 with Retry-After (RFC 3261 §21.5.4), from the lines as they came.
    fn refuse_new(&mut self, msg: Message<'_>, key: Key, flow: Flow, out: &mut Effects) {
        let Ok(via) = Via::top(msg) else {
            self.stack.metrics.dropped(DropReason::UnanswerableRequest);
            return;
        };
        let salvage = Salvage {
            msg,
            via,
            to_takes_tag: true,
        };
        let Key(hash, _) = key;
        let least = u64::from(self.stack.cfg.overload.retry_after_s);
        // RFC 3261 §8.2.7: the same request, coming again, gets the same tag.
        let tag = self.stack.repeatable_tag(key);
        let back = self.stack.way_back(flow.peer);
        let buf = self.stack.write(msg.head_end() as usize + 320, out, |w, _| {
            let reason = |w: &mut Writer<'_>| _ = w.put(b"Overload");
            build::response_head_salvaged(w, &salvage, 503, reason, Some(&tag), back);
            w.put(b"Retry-After: ").num(least + hash % (least + 1)).crlf();
            build::end(w);
        });
        if let Some(buf) = buf {
            self.stack.count_response(503, flow.transport);
            out.send(salvage.reply_flow(flow), buf, None);
        }
    }
}
