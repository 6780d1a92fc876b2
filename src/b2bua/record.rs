//! What a call record is made of: noted down while the call lives, told to the control thread when it is over. Without records
//! no notes are kept, and each place that would note something down asks for them and goes on.

use crate::msg::name::Name;
use crate::msg::reason::q850_cause;
use crate::msg::request::{Request, Response};
use crate::msg::scan::Message;
use crate::msg::sdp::media_address;
use crate::pool::BufId;
use crate::port::Tell;
use crate::record::{CallRecord, EndReason, Place, Texts};
use crate::time::Instant;
use crate::transaction::{Stack, TxId};
use crate::wire::Effects;

use super::{B2bua, CallId, ExchangeId, Method};

/// The notes on all calls of a shard.
#[derive(Default)]
pub struct Notes {
    /// By the slot of the call; `None` where no call is.
    by_slot: Vec<Option<Note>>,
    /// For the texts of the record that is being told.
    texts: Box<[u8]>,
}

/// What of a call is not known any more when it is over.
struct Note {
    /// What is known so far. The caller is where the INVITE really came from, whatever its Contact says of where it is reached.
    record: CallRecord,
    /// Why and when it was over; what still was under way then says nothing new.
    ended: Option<(EndReason, Instant)>,
    /// Request-URI and identities of the INVITE, one behind the other; `None` where there was no buffer.
    texts: Option<BufId>,
    request_uri_len: u16,
    asserted_len: u16,
}

/// Room for the texts of one record; one that does not fit is left out.
const TEXTS_BYTES_MAX: usize = 16_384;

impl B2bua {
    /// From now on calls leave a record.
    pub fn keep_records(&mut self) {
        self.notes = Some(Box::new(Notes {
            by_slot: Vec::new(),
            texts: vec![0; TEXTS_BYTES_MAX].into_boxed_slice(),
        }));
    }

    fn note(&mut self, id: CallId) -> Option<&mut Note> {
        self.notes.as_mut()?.by_slot.get_mut(id.slot as usize)?.as_mut()
    }

    /// An INVITE has begun a call.
    pub(super) fn note_begun(
        &mut self,
        id: CallId,
        request: &Request<'_>,
        source: Place,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(notes) = &mut self.notes else { return };
        let (asserted, preferred) = identities(&request.msg);
        let texts = out
            .pool
            .draft(request.uri.len() + asserted.len() + preferred.len())
            .map(|mut draft| {
                let mut len = 0;
                for text in [request.uri, asserted, preferred] {
                    draft.bytes[len..len + text.len()].copy_from_slice(text);
                    len += text.len();
                }
                out.pool.commit(draft, len)
            });
        let note = Note {
            record: CallRecord::begun(now, source, media_address(request.msg.body())),
            ended: None,
            texts,
            request_uri_len: request.uri.len() as u16,
            asserted_len: asserted.len() as u16,
        };
        let slot = id.slot as usize;
        if notes.by_slot.len() <= slot {
            notes.by_slot.resize_with(slot + 1, || None);
        }
        notes.by_slot[slot] = Some(note);
    }

    /// The call whose first INVITE this exchange is, while that has no answer.
    fn begins(&self, id: ExchangeId) -> Option<CallId> {
        let exchange = self.exchanges.get(id)?;
        let call = self.calls.get(exchange.call)?;
        let is_first = exchange.method == Method::Invite
            && exchange.from == call.caller
            && exchange.server.is_some()
            && call.answered.is_none();
        is_first.then_some(exchange.call)
    }

    /// A response of a phone is on its way to who asked.
    pub(super) fn note_response(&mut self, id: ExchangeId, response: &Response<'_>, now: Instant) {
        if self.notes.is_none() {
            return;
        }
        let Some(note) = self.begins(id).and_then(|call| self.note(call)) else {
            return;
        };
        let media = media_address(response.msg.body());
        note.record.note_response(response.status, media, now);
        match response.status {
            // A BYE may have come before the answer: it did not end the call after all.
            200..=299 => note.ended = None,
            300.. => {
                note.record.status = response.status;
                note.record.q850 = note.record.q850.or_else(|| q850_cause(&response.msg));
                note.ended = note.ended.or(Some((EndReason::Rejected, now)));
            }
            _ => {}
        }
    }

    /// The server itself answers with a failure.
    pub(super) fn note_failure(&mut self, id: ExchangeId, status: u16, now: Instant) {
        if self.notes.is_none() {
            return;
        }
        let Some(note) = self.begins(id).and_then(|call| self.note(call)) else {
            return;
        };
        note.record.status = status;
        let reason = match status {
            500.. => EndReason::Limit,
            _ => EndReason::Refused,
        };
        note.ended = note.ended.or(Some((reason, now)));
    }

    /// No phone has answered, and `status` says why not.
    pub(super) fn note_no_answer(&mut self, id: ExchangeId, status: u16, now: Instant) {
        if self.notes.is_none() {
            return;
        }
        let reason = match status {
            408 => EndReason::NoAnswer,
            480 => EndReason::Unreachable,
            _ => EndReason::Limit,
        };
        if let Some(call) = self.begins(id) {
            self.note_end(call, reason, None, now);
        }
    }

    /// The call is over, or about to be. `said_by`: the message that ended it.
    pub(super) fn note_end(
        &mut self,
        id: CallId,
        reason: EndReason,
        said_by: Option<&Message<'_>>,
        now: Instant,
    ) {
        let Some(note) = self.note(id) else { return };
        if note.ended.is_none() {
            note.ended = Some((reason, now));
            note.record.q850 = said_by.and_then(q850_cause);
        }
    }

    /// The ACK to the answer: RFC 3264 §4 lets it bear the caller's session, when the INVITE had none.
    pub(super) fn note_ack(&mut self, id: CallId, request: &Request<'_>) {
        if let Some(note) = self.note(id).filter(|note| note.record.caller_media.is_none()) {
            note.record.caller_media = media_address(request.msg.body());
        }
    }

    /// A call is about to be forgotten.
    pub(super) fn tell_record(&mut self, id: CallId, out: &mut Effects) {
        let Some(notes) = &mut self.notes else { return };
        let taken = notes.by_slot.get_mut(id.slot as usize).and_then(Option::take);
        let Some(note) = taken else { return };
        let mut texts_bytes = std::mem::take(&mut notes.texts);
        let record = self.write_record(id, &note, &mut texts_bytes, out);
        if let Some(buf) = note.texts {
            out.pool.release(buf);
        }
        if let Some(record) = record {
            out.tell(Tell::CallRecord(record), &texts_bytes[..record.ends.len()]);
        }
        if let Some(notes) = &mut self.notes {
            notes.texts = texts_bytes;
        }
    }

    fn write_record(&self, id: CallId, note: &Note, into: &mut [u8], out: &Effects) -> Option<CallRecord> {
        let call = self.calls.get(id)?;
        let caller = self.legs.get(call.caller)?;
        let callee = call
            .answered
            .or(call.first_callee)
            .and_then(|leg| self.legs.get(leg));
        let mut rung = 0;
        let mut next = call.first_callee;
        while let Some(leg) = next.and_then(|leg| self.legs.get(leg)) {
            rung += 1;
            next = leg.next;
        }
        let noted = note.texts.map_or(&b""[..], |buf| out.pool.get(buf));
        let (request_uri, identities) = noted.split_at_checked(usize::from(note.request_uri_len))?;
        let (asserted_identity, preferred_identity) =
            identities.split_at_checked(usize::from(note.asserted_len))?;
        let caller_parts = caller.dialog.parts(&out.pool);
        let callee_parts = callee.map(|leg| leg.dialog.parts(&out.pool)).unwrap_or_default();
        let texts = Texts {
            from: caller_parts.remote,
            to: caller_parts.local,
            request_uri,
            asserted_identity,
            preferred_identity,
            caller_call_id: caller_parts.call_id,
            caller_contact: caller_parts.target,
            callee_call_id: callee_parts.call_id,
            callee_contact: callee_parts.target,
            trunk: b"",
        };
        let (reason, ended) = note.ended.unwrap_or((EndReason::Shutdown, out.received_at));
        Some(CallRecord {
            ended,
            reason,
            rung,
            callee: callee.map(|leg| Place {
                transport: leg.flow.transport,
                peer: leg.flow.peer,
            }),
            ends: texts.put(into),
            ..note.record
        })
    }

    /// An INVITE for which there was no room, or that came while the server stops: no call was begun.
    pub(super) fn tell_turned_away(
        &mut self,
        stack: &Stack,
        tx: TxId,
        request: &Request<'_>,
        status: u16,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(notes) = &mut self.notes else { return };
        let (Some(flow), Some(peer), Method::Invite) =
            (stack.flow_of(tx), stack.source_of(tx), request.method)
        else {
            return;
        };
        let (asserted_identity, preferred_identity) = identities(&request.msg);
        let texts = Texts {
            from: request.from.raw,
            to: request.to.raw,
            request_uri: request.uri,
            asserted_identity,
            preferred_identity,
            caller_call_id: request.call_id,
            ..Texts::default()
        };
        let ends = texts.put(&mut notes.texts);
        let caller = Place {
            transport: flow.transport,
            peer,
        };
        let record = CallRecord {
            reason: if self.is_draining {
                EndReason::Shutdown
            } else {
                EndReason::Limit
            },
            status,
            ends,
            ..CallRecord::begun(now, caller, media_address(request.msg.body()))
        };
        out.tell(Tell::CallRecord(record), &notes.texts[..ends.len()]);
    }
}

/// P-Asserted-Identity and P-Preferred-Identity (RFC 3325 §9): the first line of each.
fn identities<'a>(msg: &Message<'a>) -> (&'a [u8], &'a [u8]) {
    let value = |name| msg.value(name).unwrap_or(b"");
    (value(Name::PAssertedIdentity), value(Name::PPreferredIdentity))
}
