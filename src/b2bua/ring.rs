//! How phones are rung: each contact that a look-up has found on a leg of its own, and another flow of a phone where one has
//! failed.

use crate::dialog::{Dialog, Parts, target_of};
use crate::dns::Untried;
use crate::location::{Contact, ContactSet, Outcome};
use crate::metrics::{DropReason, Limit};
use crate::msg::build::Writer;
use crate::msg::request::Request;
use crate::msg::scan::{Message, scan};
use crate::msg::uri::Uri;
use crate::pool::{BufId, Pool};
use crate::time::Instant;
use crate::token::{TOKEN_LEN, Token, TokenKind};
use crate::transaction::Stack;
use crate::transaction::destination::{RouteError, destination, flow_to, path_flow, path_hop, to_path};
use crate::transaction::hop::Hop;
use crate::wire::{Effects, Flow, Transport};

use super::call::{Leg, Phase, Side};
use super::names::way_to_name;
use super::setup::{LOOK_UP_TIMEOUT, RETRY_AFTER};
use super::write::{FORWARD_SLACK, Mentions};
use super::{B2bua, CallId, ExchangeId, LegId, token_of};

impl B2bua {
    /// The answer to the look-up that `id` waits for. `request` is the request itself where it is still at hand.
    pub fn found(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        contacts: &ContactSet,
        request: Option<&Request<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        let kept = exchange.request.take();
        self.found_with(stack, id, contacts, request, kept, now, out);
        if let Some(kept) = kept {
            out.pool.release(kept);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn found_with(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        contacts: &ContactSet,
        request: Option<&Request<'_>>,
        kept: Option<BufId>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let (call_id, is_answered) = (exchange.call, exchange.is_answered);
        let Some(call) = self.calls.get(call_id) else {
            return;
        };
        let is_over = is_answered || call.phase != Phase::Locating;
        let is_timed = call.timer.is_some();
        if !is_over && self.waits_for_names(stack, id, contacts, request, kept, now, out) {
            // The call's timer bounds this wait as well; there is none yet where the subscriber is this shard's own.
            if !is_timed {
                self.set_call_timer(stack, call_id, now + LOOK_UP_TIMEOUT);
            }
            return;
        }
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        if let Some(timer) = call.timer.take() {
            stack.wheel.cancel(timer);
        }
        if is_over {
            // Cancelled meanwhile.
            self.remove_if_over(stack, call_id, out);
            return;
        }
        call.phase = Phase::Ringing;
        let refusal = match contacts.outcome() {
            Outcome::Unknown => Some((404, "Not Found")),
            Outcome::Offline => Some((480, "Temporarily Unavailable")),
            // RFC 3891 §3, RFC 3911 §4.
            Outcome::NoDialog => Some((481, "No Such Dialog")),
            Outcome::Contacts | Outcome::Dialog => {
                let mentions = Mentions {
                    dialog: contacts.dialog(),
                    ..Mentions::default()
                };
                let mut refusal = Some((480, "No Contact Can Be Reached"));
                let (mut rung, mut has_others) = (0, false);
                for (place, contact) in contacts.iter().enumerate() {
                    if !contacts.is_first_of_device(place, &contact) {
                        has_others = true;
                        continue;
                    }
                    if rung == stack.cfg.limits.forks_max {
                        break;
                    }
                    rung += 1;
                    match self.ring(stack, id, &contact, 0, mentions, request, kept, now, out) {
                        Ok(()) => refusal = None,
                        Err(Failed::Route(RouteError::Ourselves)) => {
                            refusal = refusal.map(|_| (482, "Loop Detected"));
                        }
                        Err(Failed::Route(
                            RouteError::Scheme
                            | RouteError::HostName
                            | RouteError::Transport
                            | RouteError::NoListener
                            | RouteError::NotOneHost,
                        )) => {}
                        Err(Failed::Full) => refusal = refusal.map(|_| (503, "Limit Reached")),
                        Err(Failed::TooLarge) => {
                            stack.metrics.dropped(DropReason::TooLarge);
                            refusal = refusal.map(|_| (513, "Message Too Large"));
                        }
                    }
                }
                if has_others && refusal.is_none() {
                    self.keep_others(id, contacts, request, kept, out);
                }
                refusal
            }
        };
        if let Some(status) = refusal {
            self.fail(stack, id, status, now, out);
        }
    }

    /// Keeps what is needed to try another flow of a device. Without a buffer the first one is all there is.
    fn keep_others(
        &mut self,
        id: ExchangeId,
        contacts: &ContactSet,
        request: Option<&Request<'_>>,
        kept: Option<BufId>,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        exchange.contacts = out.pool.put(contacts.as_bytes());
        exchange.request = match (request, kept) {
            (_, Some(kept)) => Some(out.pool.retain(kept)),
            (Some(request), None) => out.pool.put(&request.msg.bytes[..request.msg.len()]),
            (None, None) => None,
        };
    }

    /// RFC 5626 §7: a flow has failed, and the device that it led to has said nothing: its next one is tried. `false`: there is none.
    pub(super) fn ring_next_flow(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        leg: LegId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let (Some(exchange), Some(leg)) = (self.exchanges.get(id), self.legs.get(leg)) else {
            return false;
        };
        let (device, failed, call) = (leg.device, leg.flows_failed, leg.call);
        let (Some(kept), Some(found), false) = (exchange.request, exchange.contacts, exchange.is_answered)
        else {
            return false;
        };
        // A call that was answered, or is over, rings nobody.
        if self
            .calls
            .get(call)
            .is_none_or(|call| call.phase != Phase::Ringing)
        {
            return false;
        }
        let mut contacts = self
            .contacts
            .take()
            .expect("whoever takes the contacts puts them back");
        contacts.set_from_bytes(out.pool.get(found));
        let mut is_rung = false;
        for (number, contact) in contacts.others_of(device).enumerate().skip(usize::from(failed)) {
            let failed = u8::try_from(number + 1).unwrap_or(u8::MAX);
            let mentions = Mentions::default();
            is_rung = self
                .ring(stack, id, &contact, failed, mentions, None, Some(kept), now, out)
                .is_ok();
            if is_rung {
                break;
            }
        }
        self.contacts = Some(contacts);
        is_rung
    }

    /// The look-up could not be made.
    pub fn not_found(&mut self, stack: &mut Stack, id: ExchangeId, now: Instant, out: &mut Effects) {
        self.fail(stack, id, (503, "Look-up Failed"), now, out);
    }

    /// Answers the exchange that began a call with a failure of our own; the call is over.
    pub(super) fn fail(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        status: (u16, &str),
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(call) = self.exchanges.get(id).map(|exchange| exchange.call) else {
            return;
        };
        let extra: &[u8] = if status.0 == 503 { RETRY_AFTER } else { b"" };
        self.reject(stack, id, status, extra, now, out);
        self.remove_exchange(stack, id, out);
        if let Some(call) = self.calls.get_mut(call) {
            call.phase = Phase::Ending;
        }
        self.remove_if_over(stack, call, out);
    }

    /// Sends the request, which is at hand or in the buffer `kept`, to one contact, on a leg of its own. `flows_failed`: other flows of
    /// its device that were tried before.
    #[allow(clippy::too_many_arguments)]
    fn ring(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        contact: &Contact<'_>,
        flows_failed: u8,
        mentions: Mentions<'_>,
        request: Option<&Request<'_>>,
        kept: Option<BufId>,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Failed> {
        let target = match contact.is_at_peer {
            true => contact.uri,
            false => target_of(contact.uri),
        };
        let mut way = way_of(stack, id, contact, target, now, &mut out.pool).map_err(Failed::Route)?;
        let to = (contact, target);
        let rung = self.ring_over(
            stack,
            id,
            to,
            &mut way,
            flows_failed,
            mentions,
            request,
            kept,
            now,
            out,
        );
        if let Some(untried) = way.untried {
            untried.release(&mut out.pool);
        }
        rung
    }

    /// The same where the way to the contact is known. Where else it may be is taken from there, if that is kept.
    #[allow(clippy::too_many_arguments)]
    fn ring_over(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        (contact, target): (&Contact<'_>, &[u8]),
        way: &mut Way,
        flows_failed: u8,
        mentions: Mentions<'_>,
        request: Option<&Request<'_>>,
        kept: Option<BufId>,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Failed> {
        let exchange = self.exchanges.get(id).ok_or(Failed::Full)?;
        let (call, method) = (exchange.call, exchange.method);
        let mentions = Mentions {
            contact: exchange.contact,
            ..mentions
        };
        let leg = self
            .add_callee(stack, call, target, contact.path, way.flow, out)
            .ok_or(Failed::Full)?;
        if let Some(leg) = self.legs.get_mut(leg) {
            (leg.device, leg.flows_failed) = (contact.device, flows_failed);
            leg.hop.is_named = way.is_named;
        }
        let received = match (request, kept) {
            (Some(request), _) => request.msg.len(),
            (None, Some(kept)) => out.pool.get(kept).len(),
            (None, None) => 0,
        };
        let len = received + FORWARD_SLACK + 4 * target.len() + contact.path.len();
        let mut draft = out.pool.draft(len).ok_or(Failed::Full)?;
        let Some(tx) = self.open_branch(stack, id, leg, method, 1, out) else {
            out.pool.discard(draft);
            return Err(Failed::Full);
        };
        let branch = token_of(stack, tx);
        let (pool, dst) = (&out.pool, &mut draft.bytes[..]);
        let written = match (request, kept) {
            (Some(request), _) => {
                self.write_forward(stack, request, leg, b"", 1, branch, &mentions, pool, dst)
            }
            (None, Some(kept)) => {
                let mut table = self.table.take().expect("whoever takes the table puts it back");
                let bytes = pool.get(kept);
                let written = scan(bytes, &mut table)
                    .and_then(|()| Request::check(Message { bytes, table: &table }))
                    .ok()
                    .and_then(|request| {
                        self.write_forward(stack, &request, leg, b"", 1, branch, &mentions, pool, dst)
                    });
                self.table = Some(table);
                written
            }
            (None, None) => None,
        };
        match written {
            Some(written) => {
                let buf = out.pool.commit(draft, written);
                self.log_leg(leg, &out.pool);
                self.tap_leg(stack, leg, &out.pool);
                self.count_request(stack, method, leg);
                self.may_go_elsewhere(stack, tx, &mut way.untried, buf, out);
                stack.send_request(tx, buf, now, out);
                Ok(())
            }
            None => {
                out.pool.discard(draft);
                self.close_branch(stack, tx, out);
                Err(Failed::TooLarge)
            }
        }
    }

    /// Says in the log which Call-ID goes with which: a call is followed by the caller's from here to its legs.
    fn log_leg(&self, leg: LegId, pool: &Pool) {
        let Some(leg) = self.legs.get(leg) else { return };
        let Some(caller) = self
            .calls
            .get(leg.call)
            .and_then(|call| self.legs.get(call.caller))
        else {
            return;
        };
        tracing::debug!(
            call_id = %caller.dialog.call_id(pool).escape_ascii(),
            leg_call_id = %leg.dialog.call_id(pool).escape_ascii(),
            target = %leg.dialog.target(pool).escape_ascii(),
            peer = %leg.flow.peer,
            transport = leg.flow.transport.name(),
            "leg"
        );
    }

    /// What is traced of a call is traced of its leg too.
    fn tap_leg(&self, stack: &mut Stack, leg: LegId, pool: &Pool) {
        let Some(tap) = &mut stack.tap else { return };
        let Some(leg) = self.legs.get(leg) else { return };
        let caller = self
            .calls
            .get(leg.call)
            .and_then(|call| self.legs.get(call.caller));
        if let Some(caller) = caller {
            tap.link(caller.dialog.call_id(pool), leg.dialog.call_id(pool));
        }
    }

    /// The leg to a phone that is about to be rung. Its Call-ID is its own token, From is the caller's, To the contact. `routes`
    /// leads there until the phone's answer says which route the dialog has (RFC 3261 §12.1.2).
    fn add_callee(
        &mut self,
        stack: &Stack,
        call_id: CallId,
        target: &[u8],
        routes: &[u8],
        flow: Flow,
        out: &mut Effects,
    ) -> Option<LegId> {
        if self.legs.is_full() {
            stack.metrics.limit_reached(Limit::Calls);
            return None;
        }
        let id = self.legs.next_id();
        let token = Token {
            kind: TokenKind::Leg,
            shard: stack.shard,
            slot: id.slot,
            generation: id.generation,
        };
        let mut scratch = self
            .scratch
            .take()
            .expect("whoever takes the scratch puts it back");
        let mut w = Writer::new(&mut scratch);
        // To is the contact itself, in angle brackets, as in the captured flows.
        w.put(b"<").put(target).put(b">");
        let remote_len = w.finish();
        let dialog = remote_len.and_then(|remote_len| {
            let caller = &self.legs.get(self.calls.get(call_id)?.caller)?.dialog;
            let len = caller.len() + TOKEN_LEN + 2 * remote_len + routes.len();
            let mut draft = out.pool.draft(len)?;
            let parts = Parts {
                call_id: &stack.key.text(token),
                local: caller.remote(&out.pool),
                local_tag: caller.remote_tag(&out.pool),
                remote: &scratch[..remote_len],
                remote_tag: b"",
                target,
                routes,
            };
            let ends = parts.copy_into(&mut draft.bytes);
            Some(Dialog::commit(draft, ends, &mut out.pool))
        });
        self.scratch = Some(scratch);
        self.insert_callee(call_id, dialog?, flow, 1)
    }

    /// Adds a leg with a phone to a call that there is room for.
    #[inline(always)]
    pub(super) fn insert_callee(
        &mut self,
        call_id: CallId,
        dialog: Dialog,
        flow: Flow,
        local_cseq: u32,
    ) -> Option<LegId> {
        let call = self.calls.get_mut(call_id)?;
        let leg = self.legs.insert(Leg {
            call: call_id,
            side: Side::Callee,
            dialog,
            local_cseq,
            remote_cseq: 0,
            target_cseq: 0,
            flow,
            hop: Hop::default(),
            device: 0,
            flows_failed: 0,
            unacknowledged: None,
            acks: [None; 2],
            refers: None,
            next: call.first_callee,
        })?;
        call.first_callee = Some(leg);
        Some(leg)
    }
}

/// The way to a contact.
struct Way {
    flow: Flow,
    /// Where else it may be, where its host is a name.
    untried: Option<Untried>,
    is_named: bool,
}

impl Way {
    fn there(flow: Flow) -> Way {
        Way {
            flow,
            untried: None,
            is_named: false,
        }
    }
}

/// Over what a request to `contact`, whose remote target is `target`, is sent.
fn way_of(
    stack: &Stack,
    id: ExchangeId,
    contact: &Contact<'_>,
    target: &[u8],
    now: Instant,
    pool: &mut Pool,
) -> Result<Way, RouteError> {
    let cfg = &stack.cfg;
    if !contact.path.is_empty() {
        let (hop, came_over) = (path_hop(contact.path)?, contact.flow);
        return match path_flow(cfg, &hop, came_over) {
            // Where nothing is known of the name it is mostly who sent the REGISTER.
            Err(RouteError::HostName) => Ok(way_to_name(stack, id, &hop, came_over, now, pool).map_or(
                Way::there(came_over),
                |(flow, untried)| Way {
                    flow: to_path(flow, came_over),
                    untried,
                    is_named: false,
                },
            )),
            known => known.map(Way::there),
        };
    }
    if contact.is_flow {
        // RFC 5626 §7: over the very flow that was registered.
        return Ok(Way::there(contact.flow.alone()));
    }
    let to = if contact.is_at_peer {
        (Transport::Udp, contact.flow.peer)
    } else {
        let uri = Uri::parse(target).map_err(|_| RouteError::Scheme)?;
        match destination(&uri) {
            Err(RouteError::HostName) => {
                let (flow, untried) = way_to_name(stack, id, &uri, contact.flow, now, pool)?;
                return Ok(Way {
                    flow,
                    untried,
                    is_named: true,
                });
            }
            known => known?,
        }
    };
    flow_to(cfg, to, Some(contact.flow)).map(Way::there)
}

/// Why a contact could not be rung.
enum Failed {
    Route(RouteError),
    /// A table or the pool is at its limit.
    Full,
    TooLarge,
}
