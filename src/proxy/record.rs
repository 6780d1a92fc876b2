//! Call records of calls that the proxy forwards, told to the control thread when they are over.
//!
//! The proxy keeps no dialogs, so the notes on a call stand in a table of their own, by the digest of its Call-ID, from the INVITE to
//! the BYE that comes by. That needs our Record-Route: without it nothing of the call passes here after its answer, where the record
//! then ends. The table is bounded (`records.proxied_calls_max`). Without records there is no table, and each place that would note
//! something down asks for it and goes on.

use std::collections::HashMap;

use ahash::RandomState;

use crate::config::Config;
use crate::config::route::To;
use crate::metrics::Limit;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::reason::q850_cause;
use crate::msg::request::{Request, Response};
use crate::msg::scan::Message;
use crate::msg::sdp::media_address;
use crate::pool::BufId;
use crate::port::Tell;
use crate::record::{CallRecord, EndReason, Ends, Extent, Place, Texts};
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::timer::{Timer, TimerId, TimerKind};
use crate::transaction::{Stack, TxId};
use crate::wire::{Effects, Flow};

use super::trunk::ends_dialog;
use super::{BranchId, ContextId, Policy, Proxy};

/// The notes on all calls of a shard that the proxy has forwarded.
pub struct Notes {
    calls: Slots<Note>,
    by_dialog: HashMap<u64, Id<Note>, RandomState>,
    /// For the texts of the record that is being told.
    texts: Box<[u8]>,
}

struct Note {
    /// The digest of the Call-ID.
    dialog: u64,
    /// The context of the INVITE, which alone says what became of it.
    context: ContextId,
    /// What is known so far; its texts are those of the INVITE.
    record: CallRecord,
    /// Why and when it was over before the INVITE had its answer.
    ended: Option<(EndReason, Instant)>,
    /// The BYE of an answered call, until it is known what becomes of it.
    hung_up: Option<HungUp>,
    /// Digests of the tags: who hangs up, and of which of several answers.
    caller_tag: u64,
    callee_tag: u64,
    /// What stood in the INVITE; `None` where there was no buffer.
    texts: Option<BufId>,
    /// The Contact of the answer.
    callee_contact: Option<BufId>,
    timer: TimerId,
}

#[derive(Clone, Copy)]
struct HungUp {
    reason: EndReason,
    at: Instant,
    q850: Option<u8>,
    /// It has ended nothing.
    has_failed: bool,
}

/// Longest texts of one record; one that does not fit is left out.
const TEXTS_BYTES_MAX: usize = 1_536;
/// The same with the Contact of whoever answered.
const TOLD_BYTES_MAX: usize = 2 * TEXTS_BYTES_MAX;

impl Notes {
    fn note(&mut self, dialog: u64) -> Option<&mut Note> {
        self.calls.get_mut(*self.by_dialog.get(&dialog)?)
    }

    /// The note on the call whose INVITE this context is.
    fn of_context(&mut self, dialog: u64, context: ContextId) -> Option<&mut Note> {
        self.note(dialog).filter(|note| note.context == context)
    }
}

impl Proxy {
    /// From now on calls leave a record.
    pub fn keep_records(&mut self, cfg: &Config, hasher: RandomState) {
        self.notes = Some(Box::new(Notes {
            calls: Slots::new(cfg.records.proxied_calls_max.div_ceil(cfg.shards)),
            by_dialog: HashMap::with_hasher(hasher),
            texts: vec![0; TOLD_BYTES_MAX].into_boxed_slice(),
        }));
    }

    /// Calls of which a record will be told.
    pub fn noted_calls(&self) -> usize {
        self.notes.as_ref().map_or(0, |notes| notes.calls.len())
    }

    /// An INVITE that begins a call is about to be forwarded.
    pub(super) fn note_begun(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        request: &Request<'_>,
        policy: Policy,
        now: Instant,
        out: &mut Effects,
    ) {
        let (Some(notes), Some(context)) = (&mut self.notes, self.contexts.get(id)) else {
            return;
        };
        let dialog = context.dialog;
        // The same call on its way through here once more is one call.
        if !begins_call(request) || notes.by_dialog.contains_key(&dialog) {
            return;
        }
        let Some(caller) = place_of(stack, context.server) else {
            return;
        };
        if notes.calls.is_full() {
            stack.metrics.limit_reached(Limit::ProxiedCallRecords);
            return;
        }
        let (texts, ends) = match out.pool.draft(TEXTS_BYTES_MAX) {
            Some(mut draft) => {
                let ends = texts_of(stack, request, policy).put(&mut draft.bytes[..TEXTS_BYTES_MAX]);
                (Some(out.pool.commit(draft, ends.len())), ends)
            }
            None => (None, Ends::default()),
        };
        let next = notes.calls.next_id();
        let timer = Timer {
            kind: TimerKind::ProxiedCall,
            slot: next.slot,
            generation: next.generation,
        };
        let note = Note {
            dialog,
            context: id,
            record: CallRecord {
                extent: if policy.record_route {
                    Extent::WholeCall
                } else {
                    Extent::UntilAnswer
                },
                is_proxied: true,
                ends,
                ..CallRecord::begun(now, caller, media_address(request.msg.body()))
            },
            ended: None,
            hung_up: None,
            caller_tag: tag_digest(stack, request.from_tag),
            callee_tag: 0,
            texts,
            callee_contact: None,
            timer: stack
                .wheel
                .insert(now + stack.cfg.limits.call_duration_max, timer),
        };
        if let Some(id) = notes.calls.insert(note) {
            notes.by_dialog.insert(dialog, id);
        }
    }

    /// The INVITE went to one more place.
    pub(super) fn note_rung(&mut self, id: ContextId, flow: Flow) {
        let (Some(notes), Some(context)) = (&mut self.notes, self.contexts.get(id)) else {
            return;
        };
        if let Some(note) = notes.of_context(context.dialog, id) {
            note.record.rung = note.record.rung.saturating_add(1);
            note.record.callee.get_or_insert(Place {
                transport: flow.transport,
                peer: flow.peer,
            });
        }
    }

    /// A response to the INVITE is on its way back.
    pub(super) fn note_response(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let (Some(notes), Some(branch)) = (&mut self.notes, self.branches.get(id)) else {
            return;
        };
        let Some(context) = self.contexts.get(branch.context) else {
            return;
        };
        let dialog = context.dialog;
        let Some(note) = notes.of_context(dialog, branch.context) else {
            return;
        };
        // A further 2xx is that of another phone: the first is the call.
        if note.record.answered_after_ms.is_some() {
            return;
        }
        let media = media_address(response.msg.body());
        note.record.note_response(response.status, media, now);
        if !(200..300).contains(&response.status) {
            return;
        }
        note.record.callee = Some(Place {
            transport: branch.flow.transport,
            peer: branch.flow.peer,
        });
        note.callee_tag = tag_digest(stack, response.to_tag);
        // Whoever took the call back was too late.
        note.ended = None;
        note.record.q850 = None;
        if let Some(Ok(contact)) = name_addr::first(response.msg, Name::Contact)
            && contact.uri.len() <= TOLD_BYTES_MAX - TEXTS_BYTES_MAX
        {
            note.callee_contact = out.pool.put(contact.uri);
        }
        if note.record.extent == Extent::UntilAnswer {
            self.tell_record(stack, dialog, EndReason::Answered, now, out);
        }
    }

    /// A final response that is no 2xx goes back, and the call is over. `is_received`: it is that of a phone, which may have said why.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn note_failed(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        status: u16,
        is_received: bool,
        said: Option<&Message<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        let (Some(notes), Some(context)) = (&mut self.notes, self.contexts.get(id)) else {
            return;
        };
        let (dialog, tried) = (context.dialog, context.tried);
        let Some(note) = notes.of_context(dialog, id) else {
            return;
        };
        note.record.status = status;
        note.record.q850 = note.record.q850.or_else(|| said.and_then(q850_cause));
        let reason = match status {
            _ if is_received => EndReason::Rejected,
            408 if note.record.rang_after_ms.is_some() => EndReason::TimerC,
            408 => EndReason::NoAnswer,
            487 => EndReason::Cancelled,
            500 | 503 if tried > 0 => EndReason::Unreachable,
            500.. => EndReason::Limit,
            _ => EndReason::Refused,
        };
        self.tell_record(stack, dialog, reason, now, out);
    }

    /// The caller takes the call back.
    pub(super) fn note_cancelled(&mut self, id: ContextId, cancel: &Message<'_>, now: Instant) {
        let (Some(notes), Some(context)) = (&mut self.notes, self.contexts.get(id)) else {
            return;
        };
        if let Some(note) = notes.of_context(context.dialog, id) {
            note.ended.get_or_insert((EndReason::Cancelled, now));
            note.record.q850 = q850_cause(cancel);
        }
    }

    /// A BYE comes by.
    pub(super) fn note_bye(&mut self, stack: &Stack, bye: &Request<'_>, now: Instant) {
        let Some(notes) = &mut self.notes else { return };
        let dialog = stack.key.digest(&[bye.call_id]);
        let Some(note) = notes.note(dialog) else { return };
        let (from, to) = (tag_digest(stack, bye.from_tag), tag_digest(stack, bye.to_tag));
        let reason = if from == note.caller_tag {
            EndReason::CallerHungUp
        } else {
            EndReason::CalleeHungUp
        };
        if note.record.answered_after_ms.is_none() {
            // RFC 3261 §15: of an early dialog; the INVITE has its answer yet to come.
            note.ended.get_or_insert((reason, now));
            return;
        }
        let is_of_the_answer = [from, to] == [note.caller_tag, note.callee_tag]
            || [to, from] == [note.caller_tag, note.callee_tag];
        if is_of_the_answer && note.hung_up.is_none_or(|before| before.has_failed) {
            note.hung_up = Some(HungUp {
                reason,
                at: now,
                q850: q850_cause(&bye.msg),
                has_failed: false,
            });
        }
    }

    /// What has become of a BYE: the call is over, or goes on.
    pub(super) fn note_bye_over(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        received: Option<u16>,
        out: &mut Effects,
    ) {
        let (Some(notes), Some(context)) = (&mut self.notes, self.contexts.get(id)) else {
            return;
        };
        if context.method != Method::Bye {
            return;
        }
        let dialog = context.dialog;
        let Some(note) = notes.note(dialog) else { return };
        let Some(hung_up) = &mut note.hung_up else { return };
        if !ends_dialog(received) {
            hung_up.has_failed = true;
            return;
        }
        let HungUp { reason, at, q850, .. } = *hung_up;
        note.record.q850 = q850;
        self.tell_record(stack, dialog, reason, at, out);
    }

    /// The ACK to the answer: RFC 3264 §4 lets it bear the caller's session, when the INVITE had none.
    pub(super) fn note_ack(&mut self, stack: &Stack, ack: &Request<'_>) {
        let Some(notes) = &mut self.notes else { return };
        let dialog = stack.key.digest(&[ack.call_id]);
        if let Some(note) = notes
            .note(dialog)
            .filter(|note| note.record.caller_media.is_none())
        {
            note.record.caller_media = media_address(ack.msg.body());
        }
    }

    /// The timer of kind [`TimerKind::ProxiedCall`] fired: a call may last no longer, so its end was not seen.
    pub fn on_record_timer(&mut self, stack: &mut Stack, timer: Timer, now: Instant, out: &mut Effects) {
        let id = Id::new(timer.slot, timer.generation);
        let dialog = self.notes.as_ref().and_then(|notes| notes.calls.get(id));
        if let Some(dialog) = dialog.map(|note| note.dialog) {
            self.tell_record(stack, dialog, EndReason::NotSeen, now, out);
        }
    }

    /// The server stops: what goes on goes on without it.
    pub(super) fn tell_all_records(&mut self, stack: &mut Stack, out: &mut Effects) {
        let now = out.received_at;
        let slots = self.notes.as_ref().map_or(0, |notes| notes.calls.slots());
        for slot in 0..slots {
            let dialog = self.notes.as_ref().and_then(|notes| {
                let id = notes.calls.id_at(slot)?;
                notes.calls.get(id).map(|note| note.dialog)
            });
            if let Some(dialog) = dialog {
                self.tell_record(stack, dialog, EndReason::Shutdown, now, out);
            }
        }
    }

    /// The call is over: what is known of it is told and forgotten. An earlier end that was noted stands.
    fn tell_record(
        &mut self,
        stack: &mut Stack,
        dialog: u64,
        reason: EndReason,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(notes) = &mut self.notes else { return };
        let Some(note) = notes
            .by_dialog
            .remove(&dialog)
            .and_then(|id| notes.calls.remove(id))
        else {
            return;
        };
        stack.wheel.cancel(note.timer);
        let (reason, ended) = note.ended.unwrap_or((reason, now));
        let known = note.texts.map_or(&b""[..], |buf| out.pool.get(buf));
        let contact = note.callee_contact.map_or(&b""[..], |buf| out.pool.get(buf));
        let mut texts = Texts::read(note.record.ends, known);
        if note.record.answered_after_ms.is_some() {
            texts.callee_call_id = texts.caller_call_id;
            texts.callee_contact = contact;
        }
        let record = CallRecord {
            ended,
            reason,
            ends: texts.put(&mut notes.texts),
            ..note.record
        };
        out.tell(Tell::CallRecord(record), &notes.texts[..record.ends.len()]);
        for buf in [note.texts, note.callee_contact].into_iter().flatten() {
            out.pool.release(buf);
        }
    }

    /// An INVITE that is refused before it is forwarded.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn tell_refused(
        &mut self,
        stack: &Stack,
        tx: TxId,
        request: &Request<'_>,
        policy: Policy,
        status: u16,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(notes) = &mut self.notes else { return };
        let (true, Some(caller)) = (begins_call(request), place_of(stack, tx)) else {
            return;
        };
        let ends = texts_of(stack, request, policy).put(&mut notes.texts);
        let record = CallRecord {
            reason: match status {
                503 if self.is_draining => EndReason::Shutdown,
                500.. => EndReason::Limit,
                _ => EndReason::Refused,
            },
            status,
            is_proxied: true,
            ends,
            ..CallRecord::begun(now, caller, media_address(request.msg.body()))
        };
        out.tell(Tell::CallRecord(record), &notes.texts[..ends.len()]);
    }
}

fn begins_call(request: &Request<'_>) -> bool {
    request.method == Method::Invite && request.to_tag.is_none()
}

/// Where a request really came from.
fn place_of(stack: &Stack, server: TxId) -> Option<Place> {
    Some(Place {
        transport: stack.flow_of(server)?.transport,
        peer: stack.source_of(server)?,
    })
}

pub(super) fn tag_digest(stack: &Stack, tag: Option<&[u8]>) -> u64 {
    stack.key.digest(&[tag.unwrap_or_default()])
}

fn texts_of<'a>(stack: &'a Stack, request: &Request<'a>, policy: Policy) -> Texts<'a> {
    let value = |name| request.msg.value(name).unwrap_or(b"");
    let contact = match name_addr::first(request.msg, Name::Contact) {
        Some(Ok(contact)) => contact.uri,
        Some(Err(_)) | None => b"",
    };
    let trunk = match policy.rule(stack).map(|route| &route.to) {
        Some(To::Trunk(name)) => name.as_bytes(),
        Some(To::Nowhere | To::Registered | To::RequestUri | To::Uris(_)) | None => b"",
    };
    Texts {
        from: request.from.raw,
        to: request.to.raw,
        request_uri: request.uri,
        asserted_identity: value(Name::PAssertedIdentity),
        preferred_identity: value(Name::PPreferredIdentity),
        caller_call_id: request.call_id,
        caller_contact: contact,
        trunk,
        ..Texts::default()
    }
}
