//! How responses go back: RFC 3261 §16.7, with CANCEL (§16.10), Timer C (§16.8) and what could not be sent (§16.9).

use crate::key_index::Key;
use crate::metrics::DropReason;
use crate::msg::Span;
use crate::msg::build::{self, Load, Writer};
use crate::msg::edit::Edits;
use crate::msg::lex::Elements;
use crate::msg::message::VERSION;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::{Request, Response};
use crate::msg::scan::{Message, scan};
use crate::msg::status::reason_phrase;
use crate::msg::via::Via;
use crate::time::Instant;
use crate::transaction::{Notice, Stack};
use crate::trunk::standing::Outcome;
use crate::wire::{Effects, Flow};

use super::best::{Candidate, is_challenge};
use super::context::BranchPhase;
use super::record::tag_digest;
use super::validate::Refused;
use super::{BranchId, ContextId, Proxy};

/// What an answer of our own adds to the lines that it repeats.
const RESPONSE_SLACK: usize = 512;
/// Reason lines that a CANCEL hands on (RFC 3326).
const REASON_BYTES_MAX: usize = 1_024;

impl Proxy {
    /// A response on a branch.
    pub fn on_response(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        self.trunk_heard(stack, id, response, now, out);
        let Some(branch) = self.branches.get_mut(id) else {
            return;
        };
        let (context_id, is_cancelled) = (branch.context, branch.is_cancelled);
        let Some(tx) = branch.tx else {
            return;
        };
        let Some(context) = self.contexts.get(context_id) else {
            return;
        };
        let (server, is_answered, method) = (context.server, context.is_answered, context.method);
        if response.msg.elements(Name::Via).nth(1).is_none() {
            // §16.7 step 3: without a Via below ours it is for nobody else. What it ends must end all the same.
            stack.metrics.dropped(DropReason::BadResponse);
            if response.status >= 200 {
                self.failed(stack, id, Candidate::own(502), now, out);
            }
            return;
        }
        if method == Method::Invite && (101..300).contains(&response.status) {
            self.note_response(stack, id, response, now, out);
        }
        let Some(branch) = self.branches.get_mut(id) else {
            return;
        };
        match response.status {
            100..=199 => {
                branch.phase = BranchPhase::Provisional;
                if is_cancelled {
                    // §9.1: now that something has come back.
                    stack.cancel_invite(tx, b"", now, out);
                }
                // §16.7 step 5: a 100 goes no further than one hop.
                // RFC 4320 §4.1: nothing else but 100 is said to other requests than INVITE.
                if response.status > 100
                    && method == Method::Invite
                    && !is_answered
                    && let Some(buf) = self.write_back(stack, response, None, out)
                {
                    stack.send_response(server, response.status, buf, now, out);
                }
            }
            200..=299 => {
                if let Some(context) = self.contexts.get_mut(context_id) {
                    context.is_accepted = true;
                    if context.policy.is_trunk && context.begins_dialog {
                        let callee_tag = tag_digest(stack, response.to_tag);
                        stack.trunks.call_answered(context.trunk_call, callee_tag);
                    }
                }
                if method == Method::Invite {
                    if let Some(branch) = self.branches.get_mut(id) {
                        branch.phase = BranchPhase::Accepted;
                    }
                    // §16.7 step 5: every 2xx to INVITE goes back, whatever went before it.
                    if stack.flow_of(server).is_none() {
                        self.send_success_back(stack, response, out);
                    } else if let Some(buf) = self.write_back(stack, response, None, out) {
                        stack.forward_success(server, response.status, buf, now, out);
                    }
                } else {
                    let buf = self.write_back(stack, response, None, out);
                    self.remove_branch(stack, id, out);
                    match buf {
                        Some(buf) if !is_answered => {
                            stack.send_response(server, response.status, buf, now, out)
                        }
                        Some(buf) => out.pool.release(buf),
                        None if !is_answered => stack.abandon(server, out),
                        None => {}
                    }
                }
                // §16.7 step 10.
                self.cancel_branches(stack, context_id, b"", false, now, out);
                self.settle(stack, context_id, Some(response.status), out);
            }
            // RFC 3263 §4.3.
            503 if self.try_next_address(stack, id, now, out) => {}
            _ => self.failed(stack, id, Candidate::Received(response), now, out),
        }
    }

    /// What a client transaction says of itself.
    pub fn on_branch_event(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        notice: Notice,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get_mut(id) else {
            return;
        };
        match (notice, branch.phase) {
            (Notice::Message | Notice::Unanswered, _) => {}
            // Nothing was sent that could come to an end.
            (Notice::Timeout | Notice::Unreachable | Notice::Ended, BranchPhase::Resolving) => {}
            // §16.8: Timer C of a branch that rang.
            (Notice::Timeout, BranchPhase::Provisional)
                if (self.contexts.get(branch.context))
                    .is_some_and(|context| context.method == Method::Invite) =>
            {
                branch.is_cancelled = true;
                if let Some(tx) = branch.tx {
                    stack.cancel_invite(tx, b"", now, out);
                }
            }
            (Notice::Timeout, phase @ (BranchPhase::Sent | BranchPhase::Provisional)) => {
                if !branch.is_given_up {
                    self.trunk_failed(stack, id, Outcome::TimeOut, now);
                }
                // RFC 3263 §4.3: who has said something is there.
                if phase == BranchPhase::Provisional || !self.try_next_address(stack, id, now, out) {
                    self.failed(stack, id, Candidate::own(408), now, out);
                }
            }
            (Notice::Unreachable, BranchPhase::Sent | BranchPhase::Provisional) => {
                // §16.9: as if a 503 had come. What was to be cancelled as soon as it is heard of is not begun again.
                let is_wanted = !branch.is_cancelled;
                if !(is_wanted && self.send_over_udp(stack, id, now, out)) {
                    self.trunk_failed(stack, id, Outcome::Unreachable, now);
                    if !(is_wanted && self.try_next_address(stack, id, now, out)) {
                        self.failed(stack, id, Candidate::Own(Refused::UNREACHABLE), now, out);
                    }
                }
            }
            // §9.1: a cancelled INVITE that was never answered.
            (Notice::Ended, BranchPhase::Sent | BranchPhase::Provisional) => {
                self.failed(stack, id, Candidate::own(408), now, out);
            }
            (Notice::Timeout | Notice::Unreachable | Notice::Ended, BranchPhase::Accepted) => {
                let context = branch.context;
                self.remove_branch(stack, id, out);
                self.remove_if_over(stack, context, out);
            }
        }
    }

    /// What a context's server transaction says of itself: that nobody has answered a request other than INVITE for long, which is said then
    /// (RFC 4320 §4.1). It ends by itself.
    pub fn on_context_event(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        notice: Notice,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        let (server, is_answered) = (context.server, context.is_answered);
        if notice == Notice::Unanswered
            && !is_answered
            && let Some(buf) = self.write_own(stack, id, (100, reason_phrase(100)), |_| {}, out)
        {
            stack.send_response(server, 100, buf, now, out);
        }
    }

    /// A CANCEL for the INVITE of a context: RFC 3261 §16.10.
    #[allow(clippy::too_many_arguments)]
    pub fn cancel(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        cancel: &Request<'_>,
        key: Key,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) {
        // What is in progress can be ended without a place for that: the same again does no more, and gets the same answer (§8.2.7), also
        // where there is a place by then.
        let tag = stack.repeatable_tag(key);
        match stack.open_server(cancel, key, flow, now, &mut out.pool) {
            Some(tx) => stack.respond(tx, cancel, 200, Some(&tag), |_| {}, now, out),
            None => stack.respond_stateless(cancel, flow, (200, reason_phrase(200)), |_| {}, out),
        }
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        if context.is_answered {
            return;
        }
        let is_again = std::mem::replace(&mut context.is_cancelled, true);
        if let Some(targets) = context.targets.take() {
            out.pool.release(targets);
        }
        self.note_cancelled(id, &cancel.msg, now);
        let mut reasons = [0; REASON_BYTES_MAX];
        let mut w = Writer::new(&mut reasons);
        for line in cancel.msg.lines_of(Name::Reason) {
            w.put(cancel.msg.line_bytes(line));
        }
        let lines = w.finish().unwrap_or(0);
        self.cancel_branches(stack, id, &reasons[..lines], is_again, now, out);
        self.conclude_if_nothing_is_open(stack, id, None, now, out);
    }

    /// Cancels every branch that waits for a final response to INVITE. `is_again`: because the caller's CANCEL has come again.
    pub(super) fn cancel_branches(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        reasons: &[u8],
        is_again: bool,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        if context.method != Method::Invite {
            return;
        }
        let mut next = context.first_branch;
        while let Some((id, following)) = self.next_branch(next) {
            next = following;
            let Some(branch) = self.branches.get_mut(id) else {
                break;
            };
            match (branch.phase, branch.tx) {
                (BranchPhase::Resolving, _) | (_, None) => self.remove_branch(stack, id, out),
                (BranchPhase::Sent, Some(_)) => branch.is_cancelled = true,
                (BranchPhase::Provisional, Some(tx)) => {
                    branch.is_cancelled = true;
                    match is_again {
                        false => stack.cancel_invite(tx, reasons, now, out),
                        true => stack.cancel_invite_again(tx, reasons, now, out),
                    }
                }
                (BranchPhase::Accepted, Some(_)) => {}
            }
        }
    }

    // ---- Final responses that are no 2xx ---------------------------------------------------------------------------

    /// A branch has failed.
    pub(super) fn failed(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        candidate: Candidate<'_, '_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get(id) else {
            return;
        };
        let (context_id, device, breadth) = (branch.context, branch.device, branch.breadth);
        let is_given_up = branch.is_given_up;
        let is_over = branch.is_cancelled || is_given_up;
        let is_flow_failure = device > 0 && !branch.is_cancelled && candidate.is_of_flow();
        self.remove_branch(stack, id, out);
        let Some(context) = self.contexts.get_mut(context_id) else {
            return;
        };
        if context.is_answered {
            self.remove_if_over(stack, context_id, out);
            return;
        }
        if is_flow_failure && self.send_by_other_flow(stack, context_id, device, breadth, now, out) {
            return;
        }
        let Some(context) = self.contexts.get_mut(context_id) else {
            return;
        };
        let status = candidate.status();
        // RFC 5626 §11.5: a 430 is for whoever has the registration, and goes no further.
        let candidate = match candidate {
            Candidate::Received(_) if status == 430 && context.is_of_registered => Candidate::own(480),
            // It says so since it was cancelled, for a silence that nobody but we had enough of.
            Candidate::Received(_) if status == 487 && is_given_up => Candidate::own(408),
            // §5.3.1: whoever sent it by the token of a flow may know another.
            Candidate::Own(refused) if refused.could_not_be_sent() && context.is_by_token => {
                Candidate::own(430)
            }
            other => other,
        };
        let status = candidate.status();
        if status >= 600 {
            // §16.7 step 5: nothing else is tried after a 6xx.
            context.is_cancelled = true;
            if let Some(targets) = context.targets.take() {
                out.pool.release(targets);
            }
            self.cancel_branches(stack, context_id, b"", false, now, out);
        }
        let followed = match &candidate {
            Candidate::Received(response) if (300..400).contains(&status) => {
                self.follow(stack, context_id, response, out)
            }
            Candidate::Received(_) | Candidate::Own(_) => None,
        };
        let (is_open, _) = self.open(context_id);
        let waits = self
            .contexts
            .get(context_id)
            .is_some_and(|context| context.targets.is_some());
        if is_open || waits {
            if followed.is_none() {
                self.keep(stack, context_id, &candidate, out);
            }
            // Where others ring, what a redirection names waits with what is preferred as little as it is; and in any case where it is
            // now their turn, since whoever redirects had none any more.
            if !is_open || followed == Some(true) && !is_over {
                self.send_next_group(stack, context_id, now, out);
                self.conclude_if_nothing_is_open(stack, context_id, None, now, out);
            }
            return;
        }
        self.finish(stack, context_id, &candidate, now, out);
    }

    /// A response of our own, from what was forwarded or kept of its request.
    pub(super) fn write_own(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        (status, reason): (u16, &str),
        extra: impl FnOnce(&mut Writer<'_>),
        out: &mut Effects,
    ) -> Option<crate::pool::BufId> {
        let context = self.contexts.get(id)?;
        // What was forwarded has a Via of ours above the others; what came is as it came.
        let (kept, is_ours) = match (context.template, context.asked) {
            (Some(template), _) => (template, true),
            (None, Some(asked)) => (asked, false),
            (None, None) => return None,
        };
        let back = stack.way_back(stack.source_of(context.server)?);
        // A 100 makes no dialog, and has the Timestamp of its request (§8.2.6.1).
        let is_trying = status == 100;
        let fresh = stack.stateless_tag();
        let tag = (!is_trying).then_some(&fresh[..]);
        let mut table = self.table.take().expect("whoever takes the table puts it back");
        let len = out.pool.get(kept).len() + RESPONSE_SLACK;
        let written = stack.write(len, out, |w, pool| {
            let bytes = pool.get(kept);
            let Ok(request) =
                scan(bytes, &mut table).and_then(|()| Request::check(Message::new(bytes, &table)))
            else {
                return;
            };
            if !is_ours {
                build::response_head(w, &request, status, reason, tag, back);
            } else {
                build::status_line(w, status, reason);
                let ours = request.msg.lines_of(Name::Via).nth(1);
                for line in request.msg.lines_of(Name::Via).skip(1) {
                    let value = request.msg.value_of(line);
                    match (
                        back.load,
                        Via::parse(Elements::new(value).next().unwrap_or(value)),
                    ) {
                        (Some(load), Ok(via)) if ours == Some(line) && via.obeys_loss() => {
                            let via_at = request.msg.span_of(via.raw);
                            let bytes = request.msg.bytes;
                            w.put(&bytes[line.start as usize..via_at.start as usize]);
                            build::put_load(w, &via, load);
                            w.put(&bytes[via_at.end as usize..line.end as usize]);
                        }
                        (Some(_) | None, _) => _ = w.put(request.msg.line_bytes(line)),
                    }
                }
                for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
                    if let Some(line) = request.msg.line(name) {
                        w.put(&request.msg.bytes[line.start as usize..line.value.end as usize]);
                    }
                    if let (Name::To, None, Some(tag)) = (name, request.to_tag, tag) {
                        w.put(b";tag=").put(tag);
                    }
                    w.crlf();
                }
                if let (true, Some(line)) = (is_trying, request.msg.line(Name::Timestamp)) {
                    w.put(request.msg.line_bytes(line));
                }
            }
            extra(w);
            build::end(w);
        });
        self.table = Some(table);
        written
    }

    // ---- Writing ---------------------------------------------------------------------------------------------------

    /// A response as it goes back: without our Via. `challenges`: what comes in the place of its challenge lines.
    pub(super) fn write_back(
        &mut self,
        stack: &Stack,
        response: &Response<'_>,
        challenges: Option<&[u8]>,
        out: &mut Effects,
    ) -> Option<crate::pool::BufId> {
        let is_replaced = challenges.is_some() && is_challenge(response.status);
        edit_response(&mut self.edits, response, stack.load);
        if is_replaced {
            for name in [Name::WwwAuthenticate, Name::ProxyAuthenticate] {
                self.edits.delete_lines(response.msg, name);
            }
        }
        self.write_edits(stack, response, 0, out)
    }

    /// The response that came last, as it goes back, with the challenges of others.
    pub(super) fn write_last(
        &mut self,
        stack: &Stack,
        response: &Response<'_>,
        challenges: Option<&[u8]>,
        out: &mut Effects,
    ) -> Option<crate::pool::BufId> {
        edit_response(&mut self.edits, response, stack.load);
        let more = challenges.unwrap_or_default();
        self.edits.insert(response.msg.lines_end()).put(more);
        self.write_edits(stack, response, more.len(), out)
    }

    fn write_edits(
        &mut self,
        stack: &Stack,
        response: &Response<'_>,
        more: usize,
        out: &mut Effects,
    ) -> Option<crate::pool::BufId> {
        /// The load of this server, and a Content-Length.
        const SLACK: usize = 192;
        let Some(mut draft) = out.pool.draft(response.msg.len() + SLACK + more) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return None;
        };
        let written = self.edits.write_message(response.msg, &mut draft.bytes);
        stack.keep_written(draft, written.ok(), &mut out.pool)
    }

    /// The best failure, which was kept, with the challenges of all.
    pub(super) fn write_best(
        &mut self,
        stack: &Stack,
        id: ContextId,
        status: u16,
        out: &mut Effects,
    ) -> Option<crate::pool::BufId> {
        let context = self.contexts.get_mut(id)?;
        let kept = context.best.as_mut()?.response.take()?;
        let Some(challenges) = context.challenges.filter(|_| is_challenge(status)) else {
            return Some(kept);
        };
        let len = out.pool.get(kept).len() + out.pool.get(challenges).len();
        let mut table = self.table.take().expect("whoever takes the table puts it back");
        let written = stack.write(len, out, |w, pool| {
            let bytes = pool.get(kept);
            if scan(bytes, &mut table).is_err() {
                return;
            }
            let at = Message::new(bytes, &table).lines_end() as usize;
            w.put(&bytes[..at]).put(pool.get(challenges)).put(&bytes[at..]);
        });
        self.table = Some(table);
        out.pool.release(kept);
        written
    }
}

/// Notes down what changes in a response on its way back: §16.7 step 3.
fn edit_response(edits: &mut Edits, response: &Response<'_>, load: Option<Load>) {
    edits.clear();
    let msg = response.msg;
    if response.status == 503
        && let Some(line) = msg.bytes.get(..msg.first_line_start() as usize)
        && line.len() > msg.head_start() as usize
    {
        let start_line = Span::new(msg.head_start(), msg.first_line_start());
        edits
            .replace(start_line)
            .put(b"SIP/2.0 500 Server Internal Error\r\n");
    } else if let Some(version) = msg.unusual_version() {
        edits.replace(version).put(VERSION);
    }
    if let Some(line) = msg.line(Name::Via) {
        let mut elements = Elements::new(msg.value_of(line));
        elements.next();
        match elements.next() {
            None => edits.delete(Span::new(line.start, line.end)),
            Some(second) => edits.delete(Span::new(line.value.start, msg.span_of(second).start)),
        }
    }
    if let Some(load) = load
        && let Some(next) = msg.elements(Name::Via).nth(1)
        // A look saves the reading of what has none.
        && memchr::memmem::find(next, b"oc-algo").is_some()
        && let Ok(via) = Via::parse(next)
        && via.obeys_loss()
    {
        // RFC 7339 §5.2: whoever is next upstream is told of this server.
        let mut room = [0; build::VIA_BYTES_MAX];
        let mut w = Writer::new(&mut room);
        build::put_load(&mut w, &via, load);
        if let Some(len) = w.finish() {
            edits.replace(msg.span_of(via.raw)).put(&room[..len]);
        }
    }
    if let Some(line) = msg.line(Name::CallId) {
        edits.replace(line.value).call_id(msg.value_of(line));
    }
    if msg.line(Name::ContentLength).is_none() {
        // §18.3: a stream needs it, and a datagram may have come without.
        edits
            .insert(msg.lines_end())
            .put(b"Content-Length: ")
            .num(msg.body().len() as u64)
            .put(b"\r\n");
    }
}

/// The same for a response that is forwarded without state.
pub(super) fn edit_relayed(edits: &mut Edits, response: &Response<'_>, load: Option<Load>) {
    edit_response(edits, response, load);
}
