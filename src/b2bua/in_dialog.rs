//! Requests within a call: carried from the leg that they came on to the other, with CSeq numbers of that leg.

use crate::dialog::{Change, Parts, target_of};
use crate::location::gruu;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::request::Request;
use crate::msg::uri::Uri;
use crate::pool::Pool;
use crate::record::EndReason;
use crate::time::Instant;
use crate::transaction::destination::{RouteError, route, wants_flow};
use crate::transaction::{Stack, TxId, User};
use crate::wire::{Effects, Flow};

use super::asked::Asked;
use super::call::{Exchange, KeptAck, Leg, Phase, Side};
use super::session::Refresh;
use super::setup::RETRY_AFTER;
use super::write::{FORWARD_SLACK, FORWARD_SLACK_USUAL, Mentions, rack_cseq};
use super::{B2bua, CallId, ExchangeId, LegId, token_of};

impl B2bua {
    /// A request with a To tag, on its server transaction. `false`: no dialog here has it.
    pub fn in_dialog(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some((from, to)) = self.find_dialog(stack, request, &out.pool) else {
            return false;
        };
        let Some(call_id) = self.legs.get(from).map(|leg| leg.call) else {
            return false;
        };
        if !self.is_joined(call_id, from, to) {
            // The caller has no dialog with this phone, or none any more. §15.1.2: its BYE is right, for it meets ours.
            let is_bye = request.method == Method::Bye;
            if is_bye {
                stack.respond(tx, request, 200, None, |_| {}, now, out);
            }
            return is_bye;
        }
        let Some(leg) = self.legs.get_mut(from) else {
            return false;
        };
        // RFC 3261 §12.2.2: a number lower than the last is out of order.
        if request.cseq.number < leg.remote_cseq {
            stack.respond_because(tx, request, (500, "CSeq Out Of Order"), None, |_| {}, now, out);
            return true;
        }
        leg.remote_cseq = request.cseq.number;
        if self.refuses_interval(stack, request, tx, now, out) {
            return true;
        }
        let is_bye = request.method == Method::Bye;
        let mut ends_call = false;
        match self.calls.get_mut(call_id) {
            // Only BYEs may still cross each other once the call is ending.
            Some(call) if call.phase == Phase::Ending && !is_bye => return false,
            Some(call) => {
                // §15.1.1: before the answer a BYE ends its early dialog; what becomes of the INVITE decides about the call.
                let is_callers = call.caller == from;
                let is_answered = call.phase == Phase::Answered;
                if is_bye && is_answered {
                    call.phase = Phase::Ending;
                    ends_call = true;
                }
                if is_bye && (is_answered || is_callers) {
                    let reason = match (is_answered, is_callers) {
                        (true, true) => EndReason::CallerHungUp,
                        (true, false) => EndReason::CalleeHungUp,
                        (false, _) => EndReason::Cancelled,
                    };
                    self.note_end(call_id, reason, Some(&request.msg), now);
                }
            }
            None => return false,
        }
        match self.carry(stack, request, tx, from, to, now, out) {
            // §17.2.1: the other phone may take its time, and its own 100 goes no further.
            Ok(()) if request.method == Method::Invite => {
                stack.respond(tx, request, 100, None, |_| {}, now, out);
            }
            Ok(()) => stack.awaits_answer(tx),
            // §15.1.2: whoever hung up has left the call, and the other phone is told so all the same.
            Err(_) if ends_call => {
                stack.respond(tx, request, 200, None, |_| {}, now, out);
                self.send_bye(stack, to, now, out);
                self.remove_if_over(stack, call_id, out);
            }
            Err(status) => {
                let extra: &[u8] = if status.0 == 503 { RETRY_AFTER } else { b"" };
                stack.respond_because(tx, request, status, None, |w| _ = w.put(extra), now, out);
                self.remove_if_over(stack, call_id, out);
            }
        }
        true
    }

    /// Whether what comes on one of these legs of a call is for the other: while it rings any early dialog is, then that of the
    /// phone that answered alone (RFC 3261 §13.2.2.4: the others are over).
    fn is_joined(&self, id: CallId, from: LegId, to: LegId) -> bool {
        self.calls.get(id).is_some_and(|call| match call.phase {
            Phase::Locating | Phase::Ringing => true,
            Phase::Answered | Phase::Ending => {
                call.answered == Some(if from == call.caller { to } else { from })
            }
        })
    }

    /// Makes the exchange and its one branch, and sends the request on.
    #[allow(clippy::too_many_arguments)]
    fn carry(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        from: LegId,
        to: LegId,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), (u16, &'static str)> {
        const FULL: (u16, &str) = (503, "Limit Reached");
        const NO_INVITE: (u16, &str) = (481, "Call/Transaction Does Not Exist");
        let call = self.legs.get(from).ok_or(FULL)?.call;
        let mut mentions = Mentions::default();
        match request.method {
            // RFC 3262 §7.2: RAck names the INVITE by its number on this leg; on the other it has another.
            Method::Prack => {
                if let Some(cseq) = rack_cseq(request) {
                    // §3: what it acknowledges is over, or never was.
                    let there = self.invite_cseq(from, to, cseq, &out.pool);
                    mentions.rack_cseq = Some(there.ok_or(NO_INVITE)?);
                }
            }
            Method::Notify | Method::Subscribe => {
                mentions.refer_id = self.refer_across(request, from, to, &out.pool);
            }
            _ => {}
        }
        let other = self.legs.get_mut(to).ok_or(FULL)?;
        other.local_cseq += 1;
        let cseq = other.local_cseq;
        if request.method == Method::Refer {
            self.note_refer(to, request.cseq.number, cseq, out);
        }
        let source = stack.source_of(tx).ok_or(FULL)?;
        let target = match new_target(stack, request) {
            Some(target) => Some(out.pool.put(target).ok_or(FULL)?),
            None => None,
        };
        let Some(asked) = Asked::keep(request, stack.way_back(source), None, &mut out.pool) else {
            if let Some(target) = target {
                out.pool.release(target);
            }
            return Err(FULL);
        };
        let exchange = self.add_exchange(Exchange {
            call,
            server: Some(tx),
            asked: Some(asked),
            request: None,
            contact: None,
            target,
            contacts: None,
            method: request.method,
            refresh: Refresh::of(&stack.cfg.session_timers, request),
            from,
            cseq: request.cseq.number,
            first_branch: None,
            next: None,
            best: None,
            is_answered: false,
        });
        let Some(exchange) = exchange else {
            asked.release(&mut out.pool);
            if let Some(target) = target {
                out.pool.release(target);
            }
            return Err(FULL);
        };
        let sent = self.send_on(stack, request, exchange, to, cseq, &mentions, now, out);
        match sent {
            Ok(()) => {
                stack.set_user(
                    tx,
                    User::Exchange {
                        slot: exchange.slot,
                        generation: exchange.generation,
                    },
                );
                Ok(())
            }
            Err(status) => {
                self.remove_exchange(stack, exchange, out);
                Err(status)
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn send_on(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        exchange: ExchangeId,
        to: LegId,
        cseq: u32,
        mentions: &Mentions<'_>,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), (u16, &'static str)> {
        let others = self.find_hop(stack, to, out);
        let client = self
            .open_branch(stack, exchange, to, request.method, cseq, out)
            .ok_or((503, "Limit Reached"))?;
        let branch = token_of(stack, client);
        match self.write_across(stack, request, to, cseq, branch, mentions, out) {
            Some(buf) => {
                self.count_request(stack, request.method, to);
                self.keep_other_addresses(stack, client, others, buf, out);
                stack.send_request(client, buf, now, out);
                Ok(())
            }
            None => {
                self.close_branch(stack, client, out);
                Err((513, "Message Too Large"))
            }
        }
    }

    /// Writes a received request for the leg `to`, into a buffer of its own.
    #[allow(clippy::too_many_arguments)]
    fn write_across(
        &mut self,
        stack: &Stack,
        request: &Request<'_>,
        to: LegId,
        cseq: u32,
        branch: crate::token::Token,
        mentions: &Mentions<'_>,
        out: &mut Effects,
    ) -> Option<crate::pool::BufId> {
        let leg = self.legs.get(to)?;
        let most = request.msg.len() + FORWARD_SLACK + 2 * leg.dialog.len();
        // Toward the caller we bear the tag of the callee that the request came from.
        let from_tag = match leg.side {
            Side::Caller => request.from_tag.unwrap_or(b""),
            Side::Callee => b"",
        };
        let sizes = (request.msg.len() + FORWARD_SLACK_USUAL, most);
        stack.write_fitting(sizes, &mut out.pool, |dst, pool| {
            self.write_forward(stack, request, to, from_tag, cseq, branch, mentions, pool, dst)
        })
    }

    /// The number that the INVITE with `cseq` on leg `from` has on leg `to`.
    fn invite_cseq(&self, from: LegId, to: LegId, cseq: u32, pool: &Pool) -> Option<u32> {
        let exchange = self.find_invite_exchange(from, cseq)?;
        // A branch made several dialogs where its phone's contact forked: they share its Call-ID.
        let call_id = |leg: LegId| self.legs.get(leg).map(|leg| leg.dialog.call_id(pool));
        let mut next = self.exchanges.get(exchange)?.first_branch;
        while let Some(branch) = next.and_then(|id| self.branches.get(id)) {
            if branch.leg == to || call_id(branch.leg) == call_id(to) {
                return Some(branch.cseq);
            }
            next = branch.next;
        }
        None
    }

    fn find_invite_exchange(&self, from: LegId, cseq: u32) -> Option<ExchangeId> {
        let mut next = self.calls.get(self.legs.get(from)?.call)?.first_exchange;
        while let Some((id, exchange)) =
            next.and_then(|id| self.exchanges.get(id).map(|exchange| (id, exchange)))
        {
            if exchange.method == Method::Invite && exchange.from == from && exchange.cseq == cseq {
                return Some(id);
            }
            next = exchange.next;
        }
        None
    }

    /// The ACK of a 2xx, over whatever transport it came: phones send an INVITE over TCP and its ACK over UDP. `false`: no
    /// call here waits for it.
    pub fn ack(&mut self, stack: &mut Stack, request: &Request<'_>, now: Instant, out: &mut Effects) -> bool {
        let Some((from, to)) = self.find_dialog(stack, request, &out.pool) else {
            return false;
        };
        let Some(exchange) = self.find_invite_exchange(from, request.cseq.number) else {
            return false;
        };
        let Some(server) = self.exchanges.get(exchange).and_then(|exchange| exchange.server) else {
            return false;
        };
        // §13.2.2.4: the ACK bears the number of the INVITE on its leg.
        let Some(cseq) = self.invite_cseq(from, to, request.cseq.number, &out.pool) else {
            return false;
        };
        if !stack.awaits_ack(server) {
            // It came before: the phone behind answers for itself when it repeats its 2xx.
            stack.metrics.retransmissions_absorbed.inc();
            return true;
        }
        self.find_hop(stack, to, out);
        let branch = stack.stateless_token();
        let Some(buf) = self.write_across(stack, request, to, cseq, branch, &Mentions::default(), out) else {
            // Nothing has been acknowledged: the 2xx goes out again, and its ACK comes again.
            return true;
        };
        if let Some(call) = self.exchanges.get(exchange).map(|exchange| exchange.call) {
            self.note_ack(call, request);
        }
        stack.acknowledged(server, now, out);
        self.count_request(stack, Method::Ack, to);
        self.send_ack(to, cseq, buf, out);
        // The phone's side of it may have been over before.
        self.finish(stack, exchange, out);
        true
    }

    /// Sends the ACK of our INVITE with the number `cseq` on a leg, and keeps it there for a 2xx that comes again.
    pub(super) fn send_ack(&mut self, leg: LegId, cseq: u32, buf: crate::pool::BufId, out: &mut Effects) {
        let Some(leg) = self.legs.get_mut(leg) else {
            out.pool.release(buf);
            return;
        };
        leg.unacknowledged = None;
        out.send_kept(leg.flow, buf, None);
        let oldest = leg.acks[0].take();
        leg.acks = [leg.acks[1].take(), Some(KeptAck { cseq, buf })];
        if let Some(oldest) = oldest {
            out.pool.release(oldest.buf);
        }
    }

    /// The flow of the leg that a request came on, as it is once the request is accepted: with the target that it names, if any.
    pub(super) fn flow_when_accepted(&self, stack: &Stack, exchange: &Exchange, pool: &Pool) -> Option<Flow> {
        let leg = self.legs.get(exchange.from)?;
        Some(match exchange.target {
            Some(target) if exchange.cseq >= leg.target_cseq => {
                let source = exchange.server.and_then(|server| stack.flow_of(server));
                flow_toward(stack, leg, pool.get(target), source.unwrap_or(leg.flow), pool).0
            }
            Some(_) | None => leg.flow,
        })
    }

    /// A request was accepted: RFC 6141 §4.6 has the remote target of the leg that it came on move now and not before, so that one that
    /// is rejected moves nothing. §4.8: what was sent earlier does not undo what was sent later.
    pub(super) fn take_new_target(&mut self, stack: &mut Stack, id: ExchangeId, out: &mut Effects) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        let (leg_id, cseq, server) = (exchange.from, exchange.cseq, exchange.server);
        let Some(kept) = exchange.target.take() else {
            return;
        };
        if let Some(leg) = self.legs.get_mut(leg_id).filter(|leg| cseq >= leg.target_cseq) {
            leg.target_cseq = cseq;
            let mut scratch = self
                .scratch
                .take()
                .expect("whoever takes the scratch puts it back");
            let len = out.pool.get(kept).len();
            scratch[..len].copy_from_slice(out.pool.get(kept));
            let source = server.and_then(|server| stack.flow_of(server));
            self.set_target(stack, leg_id, &scratch[..len], source, out);
            self.scratch = Some(scratch);
        }
        out.pool.release(kept);
    }

    /// Moves a leg's remote target, and with it the flow of its requests.
    pub(super) fn set_target(
        &mut self,
        stack: &mut Stack,
        id: LegId,
        target: &[u8],
        source: Option<Flow>,
        out: &mut Effects,
    ) {
        let Some(leg) = self.legs.get_mut(id) else { return };
        let (flow, is_named) = flow_toward(stack, leg, target, source.unwrap_or(leg.flow), &out.pool);
        if leg.dialog.target(&out.pool) != target {
            let change = Change {
                target: Some(target),
                ..Change::default()
            };
            if !leg.dialog.change(&change, &mut out.pool) {
                return;
            }
        }
        leg.flow = flow;
        leg.hop.is_named = is_named;
        self.find_hop(stack, id, out);
    }
}

/// Where requests on a leg go when its remote target is this one, and whether that is a name. `like`: what its phone used last.
fn flow_toward(stack: &Stack, leg: &Leg, target: &[u8], like: Flow, pool: &Pool) -> (Flow, bool) {
    let parts = Parts {
        target,
        ..leg.dialog.parts(pool)
    };
    next_hop_flow(stack, &parts, like, leg.flow)
}

/// Over what a request goes to a dialog's next hop, and whether that is a name, whose addresses [`B2bua::find_hop`] finds. `like`: what its
/// phone used last; `known`: what holds where the URI leads nowhere.
pub(super) fn next_hop_flow(stack: &Stack, parts: &Parts<'_>, like: Flow, known: Flow) -> (Flow, bool) {
    match Uri::parse(parts.next_hop()) {
        Ok(uri) if wants_flow(&uri) => (like, false),
        Ok(uri) => match route(&stack.cfg, &uri, Some(like)) {
            Ok(flow) => (flow, false),
            Err(error) => (known, error == RouteError::HostName),
        },
        Err(_) => (known, false),
    }
}

/// RFC 3261 §12.2.2: the remote target that a target refresh request names.
fn new_target<'a>(stack: &Stack, request: &Request<'a>) -> Option<&'a [u8]> {
    if !is_target_refresh(request.method) {
        return None;
    }
    let contact = name_addr::first(request.msg, Name::Contact)?.ok()?;
    // RFC 5627: a GRUU of ours is no place to send to; where it leads is known already.
    let is_place = !gruu::is_ours(contact.uri, &stack.cfg);
    is_place.then(|| target_of(contact.uri))
}

/// RFC 3261 §12.2, RFC 3311 §5.1.
pub(super) fn is_target_refresh(method: Method) -> bool {
    matches!(method, Method::Invite | Method::Update)
}
