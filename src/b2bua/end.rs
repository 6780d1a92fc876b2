//! How calls end: CANCEL, BYE of our own, limits of time, and a server that stops.

use crate::metrics::DropReason;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::Request;
use crate::record::EndReason;
use crate::time::Instant;
use crate::transaction::{Notice, Stack, TxId, User};
use crate::wire::Effects;

use super::call::{Exchange, Phase};
use super::session::Refresh;
use super::setup::RETRY_AFTER;
use super::{B2bua, BranchId, CallId, ExchangeId, LegId, token_of};

impl B2bua {
    /// What a CANCEL does to the INVITE that it names: RFC 3261 §9.2. It has its own answer, under `tag`.
    pub fn cancel(
        &mut self,
        stack: &mut Stack,
        invite: TxId,
        request: &Request<'_>,
        tag: &[u8],
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(User::Exchange { slot, generation }) = stack.user_of(invite) else {
            return;
        };
        let id = ExchangeId::new(slot, generation);
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        if exchange.is_answered {
            // §9.2: a CANCEL has no effect on a request that has its final response.
            return;
        }
        // RFC 3326: the reason goes on to the phones that ring.
        let mut reason = [0; 512];
        let mut w = crate::msg::build::Writer::new(&mut reason);
        for line in request.msg.lines_of(Name::Reason) {
            w.put(request.msg.line_bytes(line));
        }
        let reason_len = w.finish().unwrap_or(0);
        let call = exchange.call;
        self.note_end(call, EndReason::Cancelled, Some(&request.msg), now);
        self.reject_as(stack, id, (487, "Request Terminated"), tag, b"", now, out);
        self.cancel_branches(stack, id, None, &reason[..reason_len], now, out);
        if let Some(call) = self.calls.get_mut(call)
            && call.phase == Phase::Ringing
        {
            call.phase = Phase::Ending;
        }
        self.finish(stack, id, out);
    }

    /// The server side of an exchange has something to say: that no ACK came for a 2xx (RFC 3261 §13.3.1.4), or that nobody has answered
    /// another request for long (RFC 4320 §4.1).
    pub fn on_exchange_event(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        notice: Notice,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        match notice {
            Notice::Timeout => {
                let call = exchange.call;
                self.hang_up(stack, call, EndReason::NoAck, now, out);
                // A call that had ended before has waited for this ACK alone.
                self.finish(stack, id, out);
            }
            Notice::Unanswered => self.say_trying(stack, id, now, out),
            Notice::Message | Notice::Unreachable | Notice::Ended => {}
        }
    }

    /// A call's own timer: the look-up took too long, the call has lasted as long as it may, or its session was not refreshed
    /// (RFC 4028 §10).
    pub fn on_call_timer(&mut self, stack: &mut Stack, id: CallId, now: Instant, out: &mut Effects) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.timer = None;
        match call.phase {
            Phase::Locating => {
                if let Some(exchange) = call.first_exchange {
                    self.fail(stack, exchange, (503, "Look-up Timed Out"), now, out);
                }
            }
            Phase::Answered => {
                let reason = if call.session_ends_at < call.ends_at {
                    EndReason::NotRefreshed
                } else {
                    EndReason::DurationLimit
                };
                self.hang_up(stack, id, reason, now, out);
            }
            Phase::Ringing | Phase::Ending => {}
        }
    }

    /// Ends a call from the middle: a BYE to both sides, and no answer to whoever still waits for one but 487.
    pub fn hang_up(
        &mut self,
        stack: &mut Stack,
        id: CallId,
        reason: EndReason,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        if call.phase == Phase::Ending {
            return;
        }
        call.phase = Phase::Ending;
        let (caller, answered) = (call.caller, call.answered);
        self.note_end(id, reason, None, now);
        // An exchange that goes takes its place in the list with it, so the next is noted first.
        let mut next = self.calls.get(id).and_then(|call| call.first_exchange);
        while let Some(exchange_id) = next {
            let Some(exchange) = self.exchanges.get(exchange_id) else {
                break;
            };
            next = exchange.next;
            if !exchange.is_answered {
                self.reject(stack, exchange_id, (487, "Request Terminated"), b"", now, out);
                self.cancel_branches(stack, exchange_id, None, b"", now, out);
            }
        }
        if let Some(callee) = answered {
            for leg in [callee, caller] {
                // RFC 3261 §13.2.2.4: every 2xx gets its ACK, also when a BYE follows.
                if let Some(cseq) = self.legs.get(leg).and_then(|leg| leg.unacknowledged) {
                    self.acknowledge(stack, leg, cseq, out);
                }
                self.send_bye(stack, leg, now, out);
            }
        }
        self.remove_if_over(stack, id, out);
    }

    /// A phone has answered a call that has no use for it.
    pub(super) fn acknowledge_and_hang_up(
        &mut self,
        stack: &mut Stack,
        branch: BranchId,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some((leg, cseq)) = self.branches.get(branch).map(|branch| (branch.leg, branch.cseq)) else {
            return;
        };
        self.acknowledge_and_hang_up_leg(stack, leg, cseq, now, out);
    }

    pub(super) fn acknowledge_and_hang_up_leg(
        &mut self,
        stack: &mut Stack,
        leg: LegId,
        cseq: u32,
        now: Instant,
        out: &mut Effects,
    ) {
        self.acknowledge(stack, leg, cseq, out);
        self.send_bye(stack, leg, now, out);
    }

    /// An ACK of our own for a 2xx whose INVITE had the number `cseq` on this leg.
    pub(super) fn acknowledge(&mut self, stack: &mut Stack, leg: LegId, cseq: u32, out: &mut Effects) {
        self.find_hop(stack, leg, out);
        let branch = stack.stateless_token();
        match self.write_own(stack, leg, Method::Ack, cseq, branch, out) {
            Some(buf) => {
                self.count_request(stack, Method::Ack, leg);
                self.send_ack(leg, cseq, buf, out);
            }
            None => stack.metrics.dropped(DropReason::NoBuffer),
        }
    }

    /// A BYE of our own: an exchange without a server side.
    pub(super) fn send_bye(&mut self, stack: &mut Stack, leg_id: LegId, now: Instant, out: &mut Effects) {
        let Some(leg) = self.legs.get_mut(leg_id) else {
            return;
        };
        leg.local_cseq += 1;
        let (call, cseq) = (leg.call, leg.local_cseq);
        let exchange = self.add_exchange(Exchange {
            call,
            server: None,
            asked: None,
            request: None,
            contact: None,
            target: None,
            contacts: None,
            method: Method::Bye,
            refresh: Refresh::No,
            from: leg_id,
            cseq,
            first_branch: None,
            next: None,
            best: None,
            is_answered: false,
        });
        let others = self.find_hop(stack, leg_id, out);
        let sent = exchange.and_then(|exchange| {
            let tx = self.open_branch(stack, exchange, leg_id, Method::Bye, cseq, out)?;
            match self.write_own(stack, leg_id, Method::Bye, cseq, token_of(stack, tx), out) {
                Some(buf) => {
                    self.count_request(stack, Method::Bye, leg_id);
                    self.keep_other_addresses(stack, tx, others, buf, out);
                    stack.send_request(tx, buf, now, out);
                    Some(())
                }
                None => {
                    self.close_branch(stack, tx, out);
                    None
                }
            }
        });
        if sent.is_none() {
            stack.metrics.dropped(DropReason::NoBuffer);
            if let Some(exchange) = exchange {
                self.remove_exchange(stack, exchange, out);
            }
        }
    }

    /// Ends a call because somebody who runs the server says so. `false`: it is over already.
    pub fn end_call(&mut self, stack: &mut Stack, id: CallId, now: Instant, out: &mut Effects) -> bool {
        match self.calls.get(id).map(|call| call.phase) {
            Some(Phase::Locating | Phase::Ringing | Phase::Answered) => {
                self.hang_up(stack, id, EndReason::Operator, now, out);
                true
            }
            Some(Phase::Ending) | None => false,
        }
    }

    /// Hangs up every call: the time for draining is over.
    pub fn hang_up_all(&mut self, stack: &mut Stack, now: Instant, out: &mut Effects) {
        for slot in 0..self.calls.slots() {
            let Some(id) = self.calls.id_at(slot) else {
                continue;
            };
            match self.calls.get(id).map(|call| (call.phase, call.first_exchange)) {
                Some((Phase::Locating, Some(exchange))) => {
                    self.note_end(id, EndReason::Shutdown, None, now);
                    self.reject(stack, exchange, (503, "Server Stopping"), RETRY_AFTER, now, out);
                    self.hang_up(stack, id, EndReason::Shutdown, now, out);
                }
                Some((Phase::Locating | Phase::Ringing | Phase::Answered, _)) => {
                    self.hang_up(stack, id, EndReason::Shutdown, now, out)
                }
                Some((Phase::Ending, _)) | None => {}
            }
        }
    }

    /// Forgets every call without a word: the last thing before the process ends.
    pub fn forget_all(&mut self, stack: &mut Stack, out: &mut Effects) {
        for slot in 0..self.calls.slots() {
            if let Some(id) = self.calls.id_at(slot) {
                self.remove_call(stack, id, out);
            }
        }
    }
}
