//! Responses on their way back: RFC 3261 §13.2.2. [`learn`](super::learn) takes in what they say of the dialog,
//! [`pass_back`](super::pass_back) sends them on, [`best`](super::best) chooses among failures.

use crate::dialog::{Parts, ROUTES_BYTES_MAX, put_route_set, target_of};
use crate::metrics::{DropReason, Timed};
use crate::msg::build::Writer;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::request::Response;
use crate::record::EndReason;
use crate::time::Instant;
use crate::transaction::hop::known_flow;
use crate::transaction::{Notice, Stack, TxId};
use crate::wire::Effects;

use super::best::own_failure;
use super::call::{BranchPhase, Phase};
use super::in_dialog::next_hop_flow;
use super::write::{FORWARD_SLACK, put_own_request};
use super::{B2bua, BranchId, CallId, ExchangeId, LegId};

/// RFC 3326: why a phone that rang stops ringing.
const REASON_ELSEWHERE: &[u8] = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

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
                // RFC 3261 §16.7 step 5: a 100 goes no further than one hop. RFC 4320 §4.1: nothing else but 100 is said to other requests.
                if response.status == 100 || !is_invite {
                    return;
                }
                self.learn(stack, id, response, out);
                self.pass_back(stack, exchange_id, response, now, out);
                self.time_ringing(stack, exchange_id, response.status, out);
            }
            200..=299 if is_invite => {
                self.set_branch_phase(id, BranchPhase::Accepted);
                self.stay_here(id, out);
                self.learn(stack, id, response, out);
                self.accepted(stack, exchange_id, id, response, now, out);
            }
            200..=299 => {
                let (call, granted) = (exchange.call, exchange.refresh.granted(response));
                self.learn(stack, id, response, out);
                self.remove_branch(stack, id, out);
                if !self.is_answered(exchange_id) {
                    if self.pass_back(stack, exchange_id, response, now, out) {
                        self.refreshed(stack, call, granted, now);
                    } else {
                        // What can't be passed on is answered all the same: the exchange, and its call, wait for nothing else.
                        self.reject(stack, exchange_id, own_failure(500), b"", now, out);
                    }
                }
                self.finish(stack, exchange_id, out);
            }
            // RFC 3263 §4.3.
            503 if self.try_next_address(stack, id, now, out) => {}
            status => {
                self.remove_branch(stack, id, out);
                let leg = Some(leg).filter(|_| !is_cancelled);
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
        let wanted = Some(leg).filter(|_| !branch.is_cancelled);
        let status = match notice {
            Notice::Message | Notice::Unanswered => return,
            Notice::Timeout if stack.user_of(tx).is_some() => {
                self.rang_too_long(stack, id, now, out);
                return;
            }
            Notice::Timeout => 408,
            Notice::Unreachable => 480,
            // The wait for retransmitted 2xx is over, or a cancelled phone never said so.
            Notice::Ended => {
                self.remove_branch(stack, id, out);
                if phase == BranchPhase::Accepted {
                    self.forget_ack(leg, cseq, out);
                    self.finish(stack, exchange, out);
                } else {
                    self.failed(stack, exchange, wanted, 408, None, now, out);
                }
                return;
            }
        };
        // RFC 3263 §4.3: who has said something is there.
        if phase == BranchPhase::Sent && self.try_next_address(stack, id, now, out) {
            return;
        }
        self.remove_branch(stack, id, out);
        self.failed(stack, exchange, wanted, status, None, now, out);
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
        if !self.pass_back(stack, id, response, now, out) {
            if self.is_within_call(call_id, leg) {
                self.hang_up(stack, call_id, EndReason::Limit, now, out);
            } else {
                self.acknowledge_and_hang_up(stack, branch, now, out);
                self.failed(stack, id, Some(leg), 500, None, now, out);
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
            let is_anothers = self.calls.get(call_id).is_some_and(|call| {
                call.caller != known && call.answered.is_some_and(|answered| answered != known)
            });
            if let Some(ack) = leg.ack_of(cseq) {
                stack.metrics.retransmissions_sent.inc();
                out.send_kept(leg.flow, ack, None);
            } else if is_anothers {
                // It rang in a dialog of its own, and another has answered in its place: as below.
                self.acknowledge_and_hang_up_leg(stack, known, cseq, now, out);
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

    /// A 2xx has come again whose call is over: RFC 3261 §13.2.2.4 has each of them acknowledged, whatever became of the dialog,
    /// or the phone repeats it for half a minute. All that the ACK needs but its route stands in the 2xx.
    pub fn acknowledge_after_end(stack: &mut Stack, tx: TxId, response: &Response<'_>, out: &mut Effects) {
        let target = name_addr::first_uri(response.msg, Name::Contact).map(target_of);
        let (Some(flow), Some(target), true) =
            (stack.flow_of(tx), target, stack.is_of_ended_call(tx, response))
        else {
            stack.metrics.dropped(DropReason::StrayOk);
            return;
        };
        let mut routes = [0; ROUTES_BYTES_MAX];
        let mut w = Writer::new(&mut routes);
        let fits = match stack.routes_of_ended_call(tx) {
            // That to an INVITE within the dialog does not say which way it goes.
            Some(kept) => {
                w.put(out.pool.get(kept));
                true
            }
            None => put_route_set(&response.msg, true, &mut w),
        };
        let routes_len = w.finish().filter(|_| fits).unwrap_or(0);
        let parts = Parts {
            call_id: response.call_id,
            local: response.from.raw,
            local_tag: response.from_tag.unwrap_or(b""),
            remote: response.to.raw,
            remote_tag: response.to_tag.unwrap_or(b""),
            target,
            routes: &routes[..routes_len],
        };
        let flow = match next_hop_flow(stack, &parts, flow, flow) {
            // Nobody is left for whom DNS could be asked.
            (flow, true) => known_flow(stack, (parts.next_hop(), parts.call_id), flow, out),
            (flow, false) => flow,
        };
        let branch = stack.stateless_token();
        let Some(mut draft) = out.pool.draft(response.msg.len() + routes_len + FORWARD_SLACK) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return;
        };
        let mut w = Writer::new(&mut draft.bytes);
        let cseq = response.cseq.number;
        put_own_request(&mut w, stack, Method::Ack, &parts, b"", cseq, flow, branch);
        let written = w.written();
        if let Some(buf) = stack.keep_written(draft, written, &mut out.pool) {
            stack.metrics.retransmissions_absorbed.inc();
            stack.metrics.retransmissions_sent.inc();
            out.send(flow, buf, None);
        }
    }

    /// Whether the party that asked still owes the ACK of our 2xx.
    fn awaits_ack(&self, stack: &Stack, id: ExchangeId) -> bool {
        let server = self.exchanges.get(id).and_then(|exchange| exchange.server);
        server.is_some_and(|server| stack.awaits_ack(server))
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
}
