//! Responses on their way back, and the choice among those of several phones: RFC 3261 §13.2.2, §16.7.

use crate::dialog::{Change, Dialog, Parts, ROUTES_BYTES_MAX, put_route_set, target_of};
use crate::location::gruu;
use crate::metrics::{DropReason, Timed};
use crate::msg::build::Writer;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::request::Response;
use crate::msg::scan::{Message, scan};
use crate::pool::BufId;
use crate::record::EndReason;
use crate::time::Instant;
use crate::transaction::{Notice, Stack};
use crate::wire::{Effects, Flow};

use super::asked::Asked;
use super::call::{Best, BranchPhase, Phase, Side};
use super::in_dialog::is_target_refresh;
use super::session::Granted;
use super::write::{FORWARD_SLACK, write_response};
use super::{B2bua, BranchId, CallId, ExchangeId, LegId};

/// RFC 3326: why a phone that rang stops ringing.
const REASON_ELSEWHERE: &[u8] = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

/// Dialogs that the phones of one call may make beside those of their contacts, by answering with tag after tag.
const TWINS_PER_CALL_MAX: usize = 16;

impl B2bua {
    /// A response on a branch.
    pub fn on_response(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get(id) else {
            return;
        };
        let (exchange_id, leg, tx) = (branch.exchange, branch.leg, branch.tx);
        let (phase, is_cancelled) = (branch.phase, branch.is_cancelled);
        let Some(exchange) = self.exchanges.get(exchange_id) else {
            return;
        };
        let is_invite = exchange.method == Method::Invite;
        if phase == BranchPhase::Accepted {
            if (200..300).contains(&response.status) {
                self.repeat_ack(stack, id, response, now, out);
            }
            return;
        }
        match response.status {
            100..=199 => {
                self.set_branch_phase(id, BranchPhase::Provisional);
                if is_cancelled {
                    stack.cancel_invite(tx, b"", now, out);
                }
                // call-flows: the phone's 100 goes no further.
                if response.status == 100 {
                    return;
                }
                self.learn(stack, id, response, out);
                self.pass_back(stack, exchange_id, leg, response, now, out);
                self.time_ringing(stack, exchange_id, response.status, out);
            }
            200..=299 if is_invite => {
                self.set_branch_phase(id, BranchPhase::Accepted);
                self.learn(stack, id, response, out);
                self.accepted(stack, exchange_id, id, response, now, out);
            }
            200..=299 => {
                let (call, granted) = (exchange.call, exchange.refresh.granted(response));
                self.learn(stack, id, response, out);
                self.remove_branch(stack, id);
                if !self.is_answered(exchange_id) {
                    if self.pass_back(stack, exchange_id, leg, response, now, out) {
                        self.refreshed(stack, call, granted, now);
                    } else {
                        // What can't be passed on is answered all the same: the exchange, and its call, wait for nothing else.
                        self.reject(stack, exchange_id, own_failure(500), b"", now, out);
                    }
                }
                self.finish(stack, exchange_id, out);
            }
            status => {
                self.remove_branch(stack, id);
                self.failed(stack, exchange_id, leg, status, Some(response), now, out);
            }
        }
    }

    /// The caller hears it ring for the first time (180), or hears something else (183).
    fn time_ringing(&mut self, stack: &mut Stack, id: ExchangeId, status: u16, out: &Effects) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        if let Some(call) = self.calls.get_mut(exchange.call)
            && matches!(status, 180 | 183)
            && call.phase == Phase::Ringing
            && !call.has_rung
        {
            call.has_rung = true;
            stack
                .recorded
                .histograms
                .record(Timed::Ringing, out.received_at.since(call.begun_at));
        }
    }

    /// A branch ended without a response.
    pub fn on_branch_event(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        notice: Notice,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get(id) else {
            return;
        };
        let (exchange, leg, tx, phase) = (branch.exchange, branch.leg, branch.tx, branch.phase);
        let cseq = branch.cseq;
        let status = match notice {
            Notice::Message => return,
            Notice::Timeout if stack.user_of(tx).is_some() => {
                self.rang_too_long(stack, id, now, out);
                return;
            }
            Notice::Timeout => 408,
            Notice::Unreachable => 480,
            // The wait for retransmitted 2xx is over, or a cancelled phone never said so.
            Notice::Ended => {
                self.remove_branch(stack, id);
                if phase == BranchPhase::Accepted {
                    self.forget_ack(leg, cseq, out);
                    self.finish(stack, exchange, out);
                } else {
                    self.failed(stack, exchange, leg, 408, None, now, out);
                }
                return;
            }
        };
        self.remove_branch(stack, id);
        self.failed(stack, exchange, leg, status, None, now, out);
    }

    /// No 2xx to the request of ours with the number `cseq` can come again: the ACK that would answer it goes.
    fn forget_ack(&mut self, leg: LegId, cseq: u32, out: &mut Effects) {
        let Some(leg) = self.legs.get_mut(leg) else { return };
        for kept in &mut leg.acks {
            if let Some(ack) = kept.take_if(|ack| ack.cseq == cseq) {
                out.pool.release(ack.buf);
            }
        }
    }

    /// Timer C (RFC 3261 §16.8): the phone is told to stop ringing. Its branch stays for what it says to that, which may
    /// still be a 2xx.
    fn rang_too_long(&mut self, stack: &mut Stack, id: BranchId, now: Instant, out: &mut Effects) {
        let Some(branch) = self.branches.get_mut(id) else {
            return;
        };
        branch.is_cancelled = true;
        let exchange_id = branch.exchange;
        stack.cancel_invite(branch.tx, b"", now, out);
        let Some(exchange) = self.exchanges.get(exchange_id) else {
            return;
        };
        let call_id = exchange.call;
        let mut next = exchange.first_branch;
        while let Some(branch) = next.and_then(|id| self.branches.get(id)) {
            if !branch.is_cancelled {
                return;
            }
            next = branch.next;
        }
        if !exchange.is_answered {
            self.note_end(call_id, EndReason::TimerC, None, now);
            self.reject(stack, exchange_id, own_failure(408), b"", now, out);
            if let Some(call) = self.calls.get_mut(call_id)
                && call.phase == Phase::Ringing
            {
                call.phase = Phase::Ending;
            }
        }
    }

    fn set_branch_phase(&mut self, id: BranchId, phase: BranchPhase) {
        if let Some(branch) = self.branches.get_mut(id) {
            branch.phase = phase;
        }
    }

    fn is_answered(&self, id: ExchangeId) -> bool {
        self.exchanges.get(id).is_none_or(|exchange| exchange.is_answered)
    }

    // ---- 2xx to INVITE ---------------------------------------------------------------------------------------------

    /// The first 2xx of a branch.
    fn accepted(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        branch: BranchId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some((leg, cseq)) = self.branches.get(branch).map(|branch| (branch.leg, branch.cseq)) else {
            return;
        };
        if let Some(leg) = self.legs.get_mut(leg) {
            leg.unacknowledged = Some(cseq);
        }
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let call_id = exchange.call;
        if exchange.is_answered || exchange.server.is_none() {
            // Another phone was faster, or the caller has given up: this one is told at once (RFC 3261 §13.2.2.4, §15).
            // Within a call that stands one side has accepted what the other took back: no session is left that both mean.
            if self.is_within_call(call_id, leg) {
                self.hang_up(stack, call_id, EndReason::Crossed, now, out);
            } else {
                self.acknowledge_and_hang_up(stack, branch, now, out);
            }
            return;
        }
        let granted = exchange.refresh.granted(response);
        if !self.pass_back(stack, id, leg, response, now, out) {
            if self.is_within_call(call_id, leg) {
                self.hang_up(stack, call_id, EndReason::Limit, now, out);
            } else {
                self.acknowledge_and_hang_up(stack, branch, now, out);
                self.failed(stack, id, leg, 500, None, now, out);
            }
            return;
        }
        self.cancel_branches(stack, id, Some(branch), REASON_ELSEWHERE, now, out);
        self.drop_request(id, out);
        if let Some(call) = self.calls.get_mut(call_id)
            && call.phase == Phase::Ringing
        {
            call.phase = Phase::Answered;
            call.answered = Some(leg);
            call.ends_at = now + stack.cfg.limits.call_duration_max;
            let limit = call.ends_at;
            stack
                .recorded
                .histograms
                .record(Timed::Answer, out.received_at.since(call.begun_at));
            stack.metrics.calls_answered.inc();
            self.set_call_timer(stack, call_id, limit);
        }
        self.refreshed(stack, call_id, granted, now);
    }

    /// Whether a 2xx on this leg is to an INVITE within a call that stands, rather than to the one that began it.
    fn is_within_call(&self, id: CallId, leg: LegId) -> bool {
        self.calls.get(id).is_some_and(|call| {
            call.phase == Phase::Answered && (call.answered == Some(leg) || call.caller == leg)
        })
    }

    /// A 2xx has come again, or a second phone behind the same contact has answered.
    fn repeat_ack(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get(id) else {
            return;
        };
        let (leg_id, cseq, exchange) = (branch.leg, branch.cseq, branch.exchange);
        let Some(leg) = self.legs.get(leg_id) else { return };
        let (call_id, flow) = (leg.call, leg.flow);
        let tag = response.to_tag.unwrap_or(b"");
        let known = if leg.dialog.remote_tag(&out.pool) == tag {
            Some(leg_id)
        } else {
            let Some(call) = self.calls.get(call_id) else {
                return;
            };
            self.callee_with_tag(call, tag, Some(response.call_id), &out.pool)
        };
        if let Some(known) = known {
            stack.metrics.retransmissions_absorbed.inc();
            let Some(leg) = self.legs.get(known) else { return };
            if let Some(ack) = leg.ack_of(cseq) {
                stack.metrics.retransmissions_sent.inc();
                out.send_kept(leg.flow, ack, None);
            } else if !self.awaits_ack(stack, exchange) {
                // It had one, which later ACKs have taken the place of.
                self.acknowledge(stack, known, cseq, out);
            }
            // Before the caller's own ACK there is none to repeat; the phone will ask again.
            return;
        }
        // RFC 3261 §13.2.2.4: a 2xx of another dialog gets an ACK and, as we have our answer, a BYE.
        match self.add_twin(stack, leg_id, call_id, cseq, flow, response, out) {
            Some(other) => self.acknowledge_and_hang_up_leg(stack, other, cseq, now, out),
            None => stack.metrics.dropped(DropReason::StrayOk),
        }
    }

    /// Whether the party that asked still owes the ACK of our 2xx.
    fn awaits_ack(&self, stack: &Stack, id: ExchangeId) -> bool {
        let server = self.exchanges.get(id).and_then(|exchange| exchange.server);
        server.is_some_and(|server| stack.awaits_ack(server))
    }

    /// The dialog that a response with another To tag makes beside a leg's own.
    fn twin(&self, stack: &Stack, leg: LegId, response: &Response<'_>, out: &mut Effects) -> Option<Dialog> {
        let leg = self.legs.get(leg)?;
        let remote_tag = response.to_tag?;
        let target = first_contact(stack, response);
        let mut routes = [0; ROUTES_BYTES_MAX];
        let mut w = Writer::new(&mut routes);
        let fits = put_route_set(&response.msg, true, &mut w);
        let routes_len = w.finish().filter(|_| fits).unwrap_or(0);
        let len = leg.dialog.len()
            + response.to.raw.len()
            + remote_tag.len()
            + target.map_or(0, <[u8]>::len)
            + routes_len;
        let mut draft = out.pool.draft(len)?;
        let parts = leg.dialog.parts(&out.pool);
        let ends = Parts {
            remote: response.to.raw,
            remote_tag,
            target: target.unwrap_or(parts.target),
            routes: &routes[..routes_len],
            ..parts
        }
        .copy_into(&mut draft.bytes);
        Some(Dialog::commit(draft, ends, &mut out.pool))
    }

    // ---- Failures --------------------------------------------------------------------------------------------------

    /// A branch has ended in a final failure. The best of them goes back when no branch is open any more.
    #[allow(clippy::too_many_arguments)]
    fn failed(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        leg: LegId,
        status: u16,
        response: Option<&Response<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        if exchange.is_answered {
            self.finish(stack, id, out);
            return;
        }
        if is_flow_failure(status, response.is_some()) && self.ring_next_flow(stack, id, leg, now, out) {
            return;
        }
        // RFC 5626 §11.5: a phone never gets a 430.
        let (status, response) = match status {
            430 => (480, None),
            _ => (status, response),
        };
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let is_open = self.has_open_branch(exchange);
        let is_better = exchange.best.is_none_or(|best| rank(status) < rank(best.status));
        if is_open {
            if is_better {
                let response =
                    response.and_then(|response| out.pool.put(&response.msg.bytes[..response.msg.len()]));
                self.set_best(id, Some(Best { status, response }), out);
            }
            // RFC 3261 §16.7 step 5: a 6xx ends the search.
            if status >= 600 {
                self.cancel_branches(stack, id, None, b"", now, out);
            }
            return;
        }
        let best = exchange.best;
        match (is_better, response, best) {
            (true, Some(response), _) => {
                if !self.pass_back(stack, id, leg, response, now, out) {
                    self.reject(stack, id, (500, "Server Internal Error"), b"", now, out);
                }
            }
            (
                false,
                _,
                Some(Best {
                    response: Some(buf), ..
                }),
            ) => self.pass_back_kept(stack, id, leg, buf, now, out),
            (true, None, _) => {
                self.note_no_answer(id, status, now);
                self.reject(stack, id, own_failure(status), b"", now, out);
            }
            (
                false,
                _,
                Some(Best {
                    response: None,
                    status,
                }),
            ) => {
                self.note_no_answer(id, status, now);
                self.reject(stack, id, own_failure(status), b"", now, out);
            }
            (false, _, None) => {}
        }
        self.finish(stack, id, out);
    }

    fn set_best(&mut self, id: ExchangeId, best: Option<Best>, out: &mut Effects) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut exchange.best, best).and_then(|best| best.response) {
            out.pool.release(old);
        }
    }

    /// Cancels the branches of an exchange that have no final response, but for `except`: RFC 3261 §9.1.
    pub(super) fn cancel_branches(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        except: Option<BranchId>,
        reason_lines: &[u8],
        now: Instant,
        out: &mut Effects,
    ) {
        let mut next = self.exchanges.get(id).and_then(|exchange| exchange.first_branch);
        while let Some(branch_id) = next {
            let Some(branch) = self.branches.get_mut(branch_id) else {
                return;
            };
            next = branch.next;
            if Some(branch_id) == except {
                continue;
            }
            match branch.phase {
                BranchPhase::Sent => branch.is_cancelled = true,
                BranchPhase::Provisional => {
                    branch.is_cancelled = true;
                    stack.cancel_invite(branch.tx, reason_lines, now, out);
                }
                BranchPhase::Accepted => {}
            }
        }
    }

    /// Forgets an exchange that has nothing more to do, and its call if that was the last of it.
    pub(super) fn finish(&mut self, stack: &mut Stack, id: ExchangeId, out: &mut Effects) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let call_id = exchange.call;
        // While the ACK of our 2xx is awaited the exchange is needed: for the ACK, or for hanging up without one.
        let awaits_ack = exchange.server.is_some_and(|server| stack.awaits_ack(server));
        if exchange.is_answered && exchange.first_branch.is_none() && !awaits_ack {
            let is_first = self.calls.get(call_id).is_some_and(|call| match call.phase {
                Phase::Locating | Phase::Ringing => true,
                Phase::Answered | Phase::Ending => false,
            });
            let begins_call = self
                .calls
                .get(call_id)
                .is_some_and(|call| call.caller == exchange.from)
                && exchange.next.is_none();
            self.remove_exchange(stack, id, out);
            // The request that began the call is over and no 2xx made a dialog: so is the call.
            if is_first
                && begins_call
                && let Some(call) = self.calls.get_mut(call_id)
            {
                call.phase = Phase::Ending;
            }
        }
        self.remove_if_over(stack, call_id, out);
    }

    // ---- Passing back ----------------------------------------------------------------------------------------------

    /// What a response of the phone says of the dialog: its tag, target and route set (RFC 3261 §12.1.2, §12.2.1.2).
    fn learn(&mut self, stack: &Stack, id: BranchId, response: &Response<'_>, out: &mut Effects) {
        let Some(branch) = self.branches.get(id) else {
            return;
        };
        let (leg_id, cseq) = (branch.leg, branch.cseq);
        let Some(method) = self
            .exchanges
            .get(branch.exchange)
            .map(|exchange| exchange.method)
        else {
            return;
        };
        let (Some(tag), Some(leg)) = (response.to_tag, self.legs.get(leg_id)) else {
            return;
        };
        let Some(call) = self.calls.get(leg.call) else {
            return;
        };
        let (call_id, flow) = (leg.call, leg.flow);
        let target = first_contact(stack, response);
        let remote_tag = leg.dialog.remote_tag(&out.pool);
        let (is_known, is_new) = (remote_tag == tag, remote_tag.is_empty());
        let begins_dialog =
            method == Method::Invite && leg.side == Side::Callee && call.answered != Some(leg_id);
        // §13.2.2.4: the 2xx says the route set of its dialog anew.
        if is_known && !(begins_dialog && response.status >= 200) {
            if let Some(target) = target
                && is_target_refresh(method)
            {
                self.set_target(stack, leg_id, target, None, out);
            }
            return;
        }
        if !begins_dialog {
            return;
        }
        if !is_known && !is_new {
            // §12.1: another tag is another dialog: the phone's contact has forked. The branch goes on in it.
            let other = match self.callee_with_tag(call, tag, Some(response.call_id), &out.pool) {
                Some(known) => Some(known),
                None => self.add_twin(stack, leg_id, call_id, cseq, flow, response, out),
            };
            match (other, self.branches.get_mut(id)) {
                (Some(other), Some(branch)) => branch.leg = other,
                // One too many: only an answer takes the place of what was there.
                (None, _) if response.status < 200 => return,
                (None | Some(_), _) => {}
            }
        }
        let Some(leg_id) = self.branches.get(id).map(|branch| branch.leg) else {
            return;
        };
        let Some(leg) = self.legs.get_mut(leg_id) else {
            return;
        };
        let before = leg.dialog.parts(&out.pool);
        // What a phone says in its 180 it says again in its 200, and its Contact is mostly the one that was rung.
        let has_moved = target.is_some_and(|target| target != before.target)
            || !before.routes.is_empty()
            || response.msg.line(Name::RecordRoute).is_some();
        if !has_moved && before.remote == response.to.raw && before.remote_tag == tag {
            return;
        }
        let change = Change {
            remote: Some(response.to.raw),
            remote_tag: Some(tag),
            target,
            routes: Some(b""),
        };
        let changed = if response.msg.line(Name::RecordRoute).is_none() {
            leg.dialog.change(&change, &mut out.pool)
        } else {
            let mut routes = [0; ROUTES_BYTES_MAX];
            let mut w = Writer::new(&mut routes);
            let fits = put_route_set(&response.msg, true, &mut w);
            let routes_len = w.finish().filter(|_| fits).unwrap_or(0);
            let routes = Some(&routes[..routes_len]);
            leg.dialog.change(&Change { routes, ..change }, &mut out.pool)
        };
        if !changed {
            stack.metrics.dropped(DropReason::NoBuffer);
            return;
        }
        if has_moved && let Some(target) = target {
            self.set_target(stack, leg_id, target, None, out);
        }
    }

    /// A leg for the dialog that a response with another To tag makes beside a leg's own. `None`: no room, or too many.
    #[allow(clippy::too_many_arguments)]
    fn add_twin(
        &mut self,
        stack: &Stack,
        leg: LegId,
        call_id: CallId,
        cseq: u32,
        flow: Flow,
        response: &Response<'_>,
        out: &mut Effects,
    ) -> Option<LegId> {
        let mut callees = 0;
        let mut next = self.calls.get(call_id)?.first_callee;
        while let Some(leg) = next.and_then(|id| self.legs.get(id)) {
            callees += 1;
            next = leg.next;
        }
        if callees >= stack.cfg.limits.forks_max + TWINS_PER_CALL_MAX || self.legs.is_full() {
            return None;
        }
        let dialog = self.twin(stack, leg, response, out)?;
        let id = self.insert_callee(call_id, dialog, flow, cseq)?;
        if let Some(target) = first_contact(stack, response) {
            self.set_target(stack, id, target, None, out);
        }
        Some(id)
    }

    /// Sends a response back on the server transaction of its exchange. `false`: it could not be written.
    fn pass_back(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        _leg: LegId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(exchange) = self.exchanges.get(id) else {
            return false;
        };
        if exchange.is_answered {
            return true;
        }
        let Some(server) = exchange.server else {
            self.mark_answered(id, response.status, out);
            return true;
        };
        let Some(asked) = exchange.asked else {
            return false;
        };
        let from = exchange.from;
        let granted = match response.status {
            200..=299 => exchange.refresh.granted(response),
            _ => Granted::Unchanged,
        };
        let Some(buf) = self.write_back(stack, &asked, from, granted, response, out) else {
            return false;
        };
        self.note_response(id, response, now);
        self.mark_answered(id, response.status, out);
        stack.send_response(server, response.status, buf, now, out);
        true
    }

    fn mark_answered(&mut self, id: ExchangeId, status: u16, out: &mut Effects) {
        if status < 200 {
            return;
        }
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.is_answered = true;
        }
        self.drop_request(id, out);
    }

    fn drop_request(&mut self, id: ExchangeId, out: &mut Effects) {
        if let Some(asked) = self
            .exchanges
            .get_mut(id)
            .and_then(|exchange| exchange.asked.take())
        {
            asked.release(&mut out.pool);
        }
    }

    fn write_back(
        &mut self,
        stack: &Stack,
        asked: &Asked,
        from: LegId,
        granted: Granted,
        response: &Response<'_>,
        out: &mut Effects,
    ) -> Option<BufId> {
        let flow = self.legs.get(from)?.flow;
        let len = response.msg.len() + asked.len() + FORWARD_SLACK;
        let mut draft = out.pool.draft(len)?;
        match write_response(
            stack,
            response,
            &asked.lines(&out.pool),
            flow,
            granted,
            &mut draft.bytes,
        ) {
            Some(written) => Some(out.pool.commit(draft, written)),
            None => {
                out.pool.discard(draft);
                stack.metrics.dropped(DropReason::TooLarge);
                None
            }
        }
    }

    /// Sends back a response that was kept while other phones rang.
    fn pass_back_kept(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        leg: LegId,
        buf: BufId,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(mut table) = self.second_table.take() else {
            return;
        };
        let copy: Box<[u8]> = out.pool.get(buf).into();
        let passed = scan(&copy, &mut table).is_ok()
            && Response::check(Message {
                bytes: &copy,
                table: &table,
            })
            .is_ok_and(|response| self.pass_back(stack, id, leg, &response, now, out));
        self.second_table = Some(table);
        if !passed {
            self.reject(stack, id, (500, "Server Internal Error"), b"", now, out);
        }
    }
}

/// Where the phone says that it is reached. RFC 5627 §4.4: a GRUU of ours leads to where it was rung.
fn first_contact<'a>(stack: &Stack, response: &Response<'a>) -> Option<&'a [u8]> {
    let uri = name_addr::first_uri(response.msg, Name::Contact).map(target_of);
    uri.filter(|uri| !gruu::is_ours(uri, &stack.cfg))
}

/// Whether a failure says that a flow is no more, or nothing at all, rather than what the device behind it says: RFC 5626 §7. Our own
/// 480 is that of a place that could not be reached.
const fn is_flow_failure(status: u16, is_received: bool) -> bool {
    matches!((status, is_received), (408 | 430, _) | (480, false))
}

/// RFC 3261 §16.7 step 6: 6xx first, then the lowest class; within a class what a user can act on first.
fn rank(status: u16) -> u16 {
    match status {
        600.. => 0,
        401 | 407 | 415 | 420 | 484 => 400,
        408 => 499,
        other => other.max(1),
    }
}

/// A failure that no phone has sent.
fn own_failure(status: u16) -> (u16, &'static str) {
    match status {
        408 => (408, "Request Timeout"),
        480 => (480, "Temporarily Unavailable"),
        _ => (500, "Server Internal Error"),
    }
}
