//! The back-to-back user agent: a call comes in on one leg and goes out on others, each a dialog of its own.
//!
//! RFC 3261 §6 (B2BUA), §12 to §15; RFC 3262 (PRACK), RFC 3311 (UPDATE), RFC 3326 (Reason). The header table that it obeys
//! is in [`mod@write`]. [`setup`] begins calls, [`ring`] rings phones, [`in_dialog`] carries requests across, [`answer`]
//! carries responses back, [`elsewhere`] goes on to the next address of a name, [`session`] keeps the timers that end dead calls,
//! [`end`] cancels, hangs up and forgets.

mod answer;
mod asked;
mod best;
mod call;
mod elsewhere;
mod end;
mod in_dialog;
mod learn;
mod names;
mod other_side;
mod pass_back;
mod record;
mod refer;
mod ring;
mod session;
mod setup;
mod view;
mod write;

use crate::dialog::ROUTES_BYTES_MAX;
use crate::key_index::{Key, KeyIndex};
use crate::location::ContactSet;
use crate::msg::build::{self, Writer};
use crate::msg::method::Method;
use crate::msg::named_dialog::NamedDialog;
use crate::msg::request::Request;
use crate::msg::scan::Table;
use crate::msg::seen::Seen;
use crate::pool::{BufId, CLASS_BYTES, Pool, Written};
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::timer::{Timer, TimerKind};
use crate::token::{Token, TokenKind};
use crate::transaction::{Stack, TxId, User};
use crate::wire::Effects;

pub use call::{BranchId, CallId, ExchangeId, LegId, Phase, Side};
pub use setup::Begun;
pub use view::{CallView, LegView};

use call::{Branch, BranchPhase, Call, Exchange, Leg};
use record::Notes;
use write::{Mentions, Outgoing};

/// Requests under way at once in one call; more get 503.
pub const EXCHANGES_PER_CALL_MAX: u16 = 64;

/// All calls of one shard.
pub struct B2bua {
    calls: Slots<Call>,
    legs: Slots<Leg>,
    exchanges: Slots<Exchange>,
    branches: Slots<Branch>,
    by_key: KeyIndex,
    /// For a message that is read again from its buffer, and a second one beside it.
    table: Option<Box<Table>>,
    second_table: Option<Box<Table>>,
    /// A copy of a request whose buffer can't stay borrowed, and header lines on their way from one message to another.
    scratch: Option<Box<[u8]>>,
    /// The contacts of a subscriber one of whose flows has failed.
    contacts: Option<Box<ContactSet>>,
    /// Feature parameters of callers.
    features: Box<Seen>,
    /// For call records, where they are kept.
    notes: Option<Box<Notes>>,
    /// No new calls: the server stops.
    pub is_draining: bool,
}

/// Legs, exchanges and branches for each call, at most on average.
const PARTS_PER_CALL: usize = 4;

impl B2bua {
    /// At most `calls_max` calls, with the legs and exchanges that they may need.
    pub fn new(calls_max: usize) -> B2bua {
        B2bua {
            calls: Slots::new(calls_max),
            legs: Slots::new(calls_max.saturating_mul(PARTS_PER_CALL)),
            exchanges: Slots::new(calls_max.saturating_mul(PARTS_PER_CALL)),
            branches: Slots::new(calls_max.saturating_mul(PARTS_PER_CALL)),
            by_key: KeyIndex::new(calls_max),
            table: Some(Box::new(Table::new())),
            second_table: Some(Box::new(Table::new())),
            scratch: Some(vec![0; CLASS_BYTES[CLASS_BYTES.len() - 1]].into_boxed_slice()),
            contacts: Some(Box::default()),
            features: Box::default(),
            notes: None,
            is_draining: false,
        }
    }

    /// Has the system provide the memory that the first calls would wait for. Before the first of them.
    pub fn make_ready(&mut self) {
        self.by_key.make_ready();
    }

    /// Another limit from now on; calls beyond it go on.
    pub fn set_limit(&mut self, calls_max: usize) {
        let parts_max = calls_max.saturating_mul(PARTS_PER_CALL);
        self.calls.set_limit(calls_max);
        self.by_key.set_slots(calls_max);
        self.legs.set_limit(parts_max);
        self.exchanges.set_limit(parts_max);
        self.branches.set_limit(parts_max);
    }

    /// Legs now: each is a dialog with a phone, or becomes one.
    pub fn dialogs(&self) -> usize {
        self.legs.len()
    }

    /// Legs that there were, modulo 2^32.
    pub fn dialogs_begun(&self) -> u32 {
        self.legs.inserted()
    }

    /// Calls now.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Legs, exchanges and branches now; zero when no call is left.
    pub fn parts_in_use(&self) -> usize {
        self.legs.len() + self.exchanges.len() + self.branches.len()
    }

    // ---- Finding ---------------------------------------------------------------------------------------------------

    /// The Call-ID of the caller in the call of a leg whose Call-ID is one that we made.
    pub fn caller_call_id<'p>(&self, token: Token, pool: &'p Pool) -> Option<&'p [u8]> {
        let leg = self.legs.get(self.leg_by_token(token)?)?;
        let caller = self.legs.get(self.calls.get(leg.call)?.caller)?;
        Some(caller.dialog.call_id(pool))
    }

    /// The leg of a request whose Call-ID is one that we made.
    fn leg_by_token(&self, token: Token) -> Option<LegId> {
        if token.kind != TokenKind::Leg {
            return None;
        }
        let id = Id::new(token.slot, token.generation);
        self.legs.get(id).map(|_| id)
    }

    /// The leg that an in-dialog request came on and the one that it goes to: RFC 3261 §12.2.2.
    fn find_dialog(&self, stack: &Stack, request: &Request<'_>, pool: &Pool) -> Option<(LegId, LegId)> {
        let names = NamedDialog {
            call_id: request.call_id,
            local_tag: request.to_tag?,
            remote_tag: request.from_tag?,
        };
        self.find_named(stack, &names, pool)
    }

    /// The leg of the dialog with these names, and the one on the other side.
    fn find_named(&self, stack: &Stack, names: &NamedDialog<'_>, pool: &Pool) -> Option<(LegId, LegId)> {
        let (call_id, from_tag, to_tag) = (names.call_id, names.remote_tag, names.local_tag);
        if let Some(token) = stack.key.parse(call_id) {
            let id = self.leg_by_token(token)?;
            let call = self.calls.get(self.legs.get(id)?.call)?;
            // The phone may have answered with more than one tag: each is a leg of its own under one Call-ID.
            let id = self.callee_with_tag(call, from_tag, Some(call_id), pool)?;
            let leg = self.legs.get(id)?;
            let is_ours = leg.dialog.local_tag(pool) == to_tag;
            return is_ours.then_some((id, call.caller));
        }
        let call = self.call_by_key(stack.keyer.dialog(call_id, from_tag))?;
        let callee = self.callee_with_tag(call, to_tag, None, pool)?;
        Some((call.caller, callee))
    }

    /// Whether an in-dialog request belongs to a call here.
    pub fn has_dialog(&self, stack: &Stack, request: &Request<'_>, pool: &Pool) -> bool {
        self.find_dialog(stack, request, pool).is_some()
    }

    /// The call whose first request had this Call-ID and From tag.
    fn call_by_key(&self, key: Key) -> Option<&Call> {
        self.calls.get(self.calls.id_at(self.by_key.get(key)?)?)
    }

    fn callee_with_tag(&self, call: &Call, tag: &[u8], call_id: Option<&[u8]>, pool: &Pool) -> Option<LegId> {
        let mut next = call.first_callee;
        while let Some(id) = next {
            let leg = self.legs.get(id)?;
            let dialog = &leg.dialog;
            if dialog.remote_tag(pool) == tag && call_id.is_none_or(|call_id| call_id == dialog.call_id(pool))
            {
                return Some(id);
            }
            next = leg.next;
        }
        None
    }

    // ---- Making and unmaking ---------------------------------------------------------------------------------------

    /// Adds an exchange to a call. `None`: a limit is reached.
    #[inline(always)]
    fn add_exchange(&mut self, exchange: Exchange) -> Option<ExchangeId> {
        let call_id = exchange.call;
        let call = self.calls.get_mut(call_id)?;
        // What a peer asks for is bounded; a BYE of ours is not among it, or a busy call could not be ended.
        if exchange.server.is_some() && call.exchanges >= EXCHANGES_PER_CALL_MAX {
            return None;
        }
        let next = call.first_exchange;
        let id = self.exchanges.insert(Exchange { next, ..exchange })?;
        let call = self.calls.get_mut(call_id)?;
        call.first_exchange = Some(id);
        call.exchanges += 1;
        Some(id)
    }

    /// Adds a branch to an exchange and makes it the user of its client transaction.
    #[inline(always)]
    fn add_branch(&mut self, stack: &mut Stack, branch: Branch) -> Option<BranchId> {
        let exchange_id = branch.exchange;
        let tx = branch.tx;
        let next = self.exchanges.get(exchange_id)?.first_branch;
        let id = self.branches.insert(Branch { next, ..branch })?;
        self.exchanges.get_mut(exchange_id)?.first_branch = Some(id);
        stack.set_user(
            tx,
            User::Branch {
                slot: id.slot,
                generation: id.generation,
            },
        );
        Some(id)
    }

    /// Forgets a branch; its client transaction ends by itself.
    fn remove_branch(&mut self, stack: &mut Stack, id: BranchId, out: &mut Effects) {
        let Some(branch) = self.branches.remove(id) else {
            return;
        };
        if let Some(elsewhere) = branch.elsewhere {
            elsewhere.release(&mut out.pool);
        }
        stack.set_user(branch.tx, User::None);
        let Some(exchange) = self.exchanges.get_mut(branch.exchange) else {
            return;
        };
        if exchange.first_branch == Some(id) {
            exchange.first_branch = branch.next;
            return;
        }
        let mut at = exchange.first_branch;
        while let Some(previous) = at.and_then(|at| self.branches.get_mut(at)) {
            if previous.next == Some(id) {
                previous.next = branch.next;
                return;
            }
            at = previous.next;
        }
    }

    /// A branch that was answered with a 2xx goes before that can no longer come again: its transaction remembers of which
    /// dialog it is.
    fn leave_to_transaction(&self, stack: &mut Stack, id: BranchId, out: &mut Effects) {
        if let Some(branch) = self.branches.get(id)
            && branch.phase == BranchPhase::Accepted
            && let Some(leg) = self.legs.get(branch.leg)
        {
            let parts = leg.dialog.parts(&out.pool);
            let key = stack.dialog_key(parts.call_id, parts.remote_tag);
            let routes = match parts.routes.len() {
                0 => None,
                len => {
                    // Of its own, since the pool is both read and written.
                    let mut room = [0; ROUTES_BYTES_MAX];
                    let text = room.get_mut(..len);
                    let text = text.map(|text| {
                        text.copy_from_slice(parts.routes);
                        &*text
                    });
                    text.and_then(|text| out.pool.put(text))
                }
            };
            stack.outlives_call(branch.tx, key, routes, &mut out.pool);
        }
    }

    /// Forgets an exchange with its branches and buffers; its transactions end by themselves.
    fn remove_exchange(&mut self, stack: &mut Stack, id: ExchangeId, out: &mut Effects) {
        while let Some(branch) = self.exchanges.get(id).and_then(|exchange| exchange.first_branch) {
            self.leave_to_transaction(stack, branch, out);
            self.remove_branch(stack, branch, out);
        }
        let Some(exchange) = self.exchanges.remove(id) else {
            return;
        };
        if let Some(server) = exchange.server {
            stack.set_user(server, User::None);
        }
        let kept = [exchange.request, exchange.target, exchange.contacts];
        for kept in kept.into_iter().flatten() {
            out.pool.release(kept);
        }
        if let Some(asked) = exchange.asked {
            asked.release(&mut out.pool);
        }
        if let Some(response) = exchange.best.and_then(|best| best.response) {
            out.pool.release(response);
        }
        let Some(call) = self.calls.get_mut(exchange.call) else {
            return;
        };
        call.exchanges -= 1;
        if call.first_exchange == Some(id) {
            call.first_exchange = exchange.next;
            return;
        }
        let mut at = call.first_exchange;
        while let Some(previous) = at.and_then(|at| self.exchanges.get_mut(at)) {
            if previous.next == Some(id) {
                previous.next = exchange.next;
                return;
            }
            at = previous.next;
        }
    }

    /// Forgets a call with all that belongs to it.
    fn remove_call(&mut self, stack: &mut Stack, id: CallId, out: &mut Effects) {
        while let Some(exchange) = self.calls.get(id).and_then(|call| call.first_exchange) {
            self.remove_exchange(stack, exchange, out);
        }
        self.tell_record(id, out);
        let Some(call) = self.calls.remove(id) else { return };
        self.by_key.remove(call.key, id.slot);
        if let Some(caller) = self.legs.get(call.caller) {
            let call_id = caller.dialog.call_id(&out.pool);
            tracing::debug!(call_id = %call_id.escape_ascii(), "call over");
        }
        if let Some(timer) = call.timer {
            stack.wheel.cancel(timer);
        }
        self.remove_leg(call.caller, out);
        let mut next = call.first_callee;
        while let Some(leg) = next {
            next = self.legs.get(leg).and_then(|leg| leg.next);
            self.remove_leg(leg, out);
        }
        if call.is_invite {
            stack.metrics.calls_ended.inc();
        }
    }

    fn remove_leg(&mut self, id: LegId, out: &mut Effects) {
        let Some(leg) = self.legs.remove(id) else { return };
        for ack in leg.acks.into_iter().flatten() {
            out.pool.release(ack.buf);
        }
        if let Some(refers) = leg.refers {
            out.pool.release(refers);
        }
        leg.dialog.release(&mut out.pool);
    }

    /// Forgets the call when it is over and nothing is under way in it.
    fn remove_if_over(&mut self, stack: &mut Stack, id: CallId, out: &mut Effects) {
        let Some(call) = self.calls.get(id) else { return };
        match call.phase {
            Phase::Locating | Phase::Ringing | Phase::Answered => return,
            Phase::Ending => {}
        }
        let mut next = call.first_exchange;
        while let Some(exchange) = next.and_then(|id| self.exchanges.get(id)) {
            if !self.is_settled(stack, exchange) {
                return;
            }
            next = exchange.next;
        }
        self.remove_call(stack, id, out);
    }

    /// Whether a final response has gone back, every branch has had one, and nothing more is to be carried across: the ACK of
    /// a 2xx may come after a BYE (RFC 3261 §13.2.2.4), and whoever answered repeats its 2xx until it gets it.
    fn is_settled(&self, stack: &Stack, exchange: &Exchange) -> bool {
        let awaits_ack = exchange.server.is_some_and(|server| stack.awaits_ack(server));
        exchange.is_answered && !self.has_open_branch(exchange) && !awaits_ack
    }

    fn has_open_branch(&self, exchange: &Exchange) -> bool {
        let mut next = exchange.first_branch;
        while let Some(branch) = next.and_then(|id| self.branches.get(id)) {
            match branch.phase {
                BranchPhase::Sent | BranchPhase::Provisional => return true,
                BranchPhase::Accepted => {}
            }
            next = branch.next;
        }
        false
    }

    // ---- Common ----------------------------------------------------------------------------------------------------

    /// A request of ours leaves on a leg.
    fn count_request(&self, stack: &Stack, method: Method, leg: LegId) {
        if let Some(leg) = self.legs.get(leg) {
            stack.count_request(method, leg.flow.transport);
        }
    }

    /// Has the call's own timer fire at `at`.
    fn set_call_timer(&mut self, stack: &mut Stack, id: CallId, at: Instant) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        if let Some(timer) = call.timer.take() {
            stack.wheel.cancel(timer);
        }
        let timer = Timer {
            kind: TimerKind::Call,
            slot: id.slot,
            generation: id.generation,
        };
        call.timer = Some(stack.wheel.insert(at, timer));
    }

    /// Answers an exchange with a failure of our own, under a fresh To tag.
    fn reject(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        status: (u16, &str),
        extra: &[u8],
        now: Instant,
        out: &mut Effects,
    ) {
        let tag = stack.stateless_tag();
        self.reject_as(stack, id, status, &tag, extra, now, out);
    }

    /// As [`B2bua::reject`], with `tag` for a To that has none.
    #[allow(clippy::too_many_arguments)]
    fn reject_as(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        status: (u16, &str),
        tag: &[u8],
        extra: &[u8],
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        exchange.is_answered = true;
        self.note_failure(id, status.0, now);
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        let method = exchange.method;
        let (Some(server), Some(asked)) = (exchange.server, exchange.asked.take()) else {
            return;
        };
        if status.0 == 408 && method != Method::Invite {
            // RFC 4320 §4.2: a 408 to anything but INVITE comes too late for everybody.
            asked.release(&mut out.pool);
            stack.abandon(server, out);
            return;
        }
        let to_tag = if asked.has_to_tag() { b"" } else { tag };
        let len = asked.len(&out.pool) + write::FORWARD_SLACK;
        let written = stack.write(len, out, |w, pool| {
            asked.lines(pool).put_head(w, status, to_tag);
            w.put(extra);
            build::end(w);
        });
        asked.release(&mut out.pool);
        match written {
            Some(buf) => stack.send_response(server, status.0, buf, now, out),
            None => stack.abandon(server, out),
        }
    }

    /// 100 to a request other than INVITE.
    fn say_trying(&mut self, stack: &mut Stack, id: ExchangeId, now: Instant, out: &mut Effects) {
        let exchange = self.exchanges.get(id).filter(|exchange| !exchange.is_answered);
        let Some((server, asked)) = exchange.and_then(|exchange| exchange.server.zip(exchange.asked)) else {
            return;
        };
        let len = asked.len(&out.pool) + write::FORWARD_SLACK;
        let written = stack.write(len, out, |w, pool| {
            let lines = asked.lines(pool);
            lines.put_head(w, (100, "Trying"), b"");
            w.put(lines.timestamp);
            build::end(w);
        });
        if let Some(buf) = written {
            stack.send_response(server, 100, buf, now, out);
        }
    }

    /// Opens a client transaction toward a leg's phone and makes it a branch of the exchange.
    fn open_branch(
        &mut self,
        stack: &mut Stack,
        exchange: ExchangeId,
        leg: LegId,
        method: Method,
        cseq: u32,
        out: &mut Effects,
    ) -> Option<TxId> {
        let flow = self.legs.get(leg)?.flow;
        let tx = stack.open_client(User::None, method, flow)?;
        let phase = BranchPhase::Sent;
        let branch = Branch {
            exchange,
            leg,
            tx,
            cseq,
            phase,
            is_cancelled: false,
            elsewhere: None,
            next: None,
        };
        match self.add_branch(stack, branch) {
            Some(_) => Some(tx),
            None => {
                stack.abandon(tx, out);
                None
            }
        }
    }

    /// Takes back [`B2bua::open_branch`]: nothing was sent.
    fn close_branch(&mut self, stack: &mut Stack, tx: TxId, out: &mut Effects) {
        if let Some(User::Branch { slot, generation }) = stack.user_of(tx) {
            self.remove_branch(stack, Id::new(slot, generation), out);
        }
        stack.abandon(tx, out);
    }

    /// Writes `request`, as it came on the other leg, as it goes out on `leg_id`. `tag_leg` is the callee's leg of the dialog
    /// pair. Returns the length, or `None` when it does not fit `dst`.
    #[allow(clippy::too_many_arguments)]
    fn write_forward(
        &self,
        stack: &Stack,
        request: &Request<'_>,
        leg_id: LegId,
        from_tag: &[u8],
        cseq: u32,
        branch: Token,
        mentions: &Mentions<'_>,
        pool: &Pool,
        dst: &mut [u8],
    ) -> Option<Written> {
        let leg = self.legs.get(leg_id)?;
        let parts = leg.dialog.parts(pool);
        let outgoing = Outgoing {
            dialog: &parts,
            from_tag,
            cseq,
            flow: leg.flow,
            branch,
            mentions,
        };
        write::write_request(stack, request, &outgoing, dst)
    }

    /// Writes an ACK or BYE of our own on a leg. `branch` is the client transaction's, or a stateless one for an ACK.
    fn write_own(
        &self,
        stack: &Stack,
        leg_id: LegId,
        method: Method,
        cseq: u32,
        branch: Token,
        out: &mut Effects,
    ) -> Option<BufId> {
        let leg = self.legs.get(leg_id)?;
        let tag_leg = self.tag_leg(leg);
        let tag_len = tag_leg.map_or(0, |callee| callee.dialog.remote_tag(&out.pool).len());
        let len = write::FORWARD_SLACK + 2 * leg.dialog.len() + tag_len;
        let mut draft = out.pool.draft(len)?;
        let mut w = Writer::new(&mut draft.bytes);
        let parts = leg.dialog.parts(&out.pool);
        let tag = tag_leg.map_or(&b""[..], |callee| callee.dialog.remote_tag(&out.pool));
        write::put_own_request(&mut w, stack, method, &parts, tag, cseq, leg.flow, branch);
        match w.written() {
            Some(written) => Some(out.pool.commit(draft, written)),
            None => {
                out.pool.discard(draft);
                None
            }
        }
    }

    /// The callee's leg whose remote tag is our own tag on `leg`: toward the caller we bear the tag of the phone that
    /// answered, since the responses that made that dialog bore it.
    fn tag_leg(&self, leg: &Leg) -> Option<&Leg> {
        match leg.side {
            Side::Caller => {
                let call = self.calls.get(leg.call)?;
                self.legs.get(call.answered.or(call.first_callee)?)
            }
            Side::Callee => None,
        }
    }
}

/// The branch token of a client transaction.
fn token_of(stack: &Stack, tx: TxId) -> Token {
    Token {
        kind: TokenKind::Transaction,
        shard: stack.shard,
        slot: tx.slot,
        generation: tx.generation,
    }
}
