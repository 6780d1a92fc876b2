//! Names as the next hop of a leg. A request that has failed at one address of a name goes to the next: RFC 3263 §4.3, as it says for user agents too (RFC 3261 §8.1.2).

use crate::dns::plan::Targets;
use crate::dns::{Asker, Resolved, Untried};
use crate::metrics::DropReason;
use crate::msg::method::Method;
use crate::msg::scan::{Message, scan};
use crate::pool::BufId;
use crate::time::Instant;
use crate::token::Token;
use crate::transaction::destination::flow_to;
use crate::transaction::{Stack, TxId, User};
use crate::wire::{Effects, Flow};

use super::call::Elsewhere;
use super::write::{FORWARD_SLACK, write_again};
use super::{B2bua, BranchId, CallId, ExchangeId, LegId, token_of};

impl B2bua {
    /// The request `sent` of this client transaction may go to `untried` when it fails. They are taken, if there are any.
    pub(super) fn may_go_elsewhere(
        &mut self,
        stack: &Stack,
        tx: TxId,
        untried: &mut Option<Untried>,
        sent: BufId,
        out: &mut Effects,
    ) {
        if untried.is_none() {
            return;
        }
        if let Some(User::Branch { slot, generation }) = stack.user_of(tx)
            && let Some(branch) = self.branches.get_mut(BranchId::new(slot, generation))
            && let Some(untried) = untried.take()
        {
            let sent = out.pool.retain(sent);
            branch.elsewhere = Some(Elsewhere { untried, sent });
        }
    }

    /// Has the requests of a leg whose next hop is a name go to an address that the name has; the others that it has.
    pub(super) fn find_hop(&mut self, stack: &mut Stack, id: LegId, out: &Effects) -> Option<Targets> {
        let leg = self.legs.get_mut(id).filter(|leg| leg.hop.is_named)?;
        let parts = leg.dialog.parts(&out.pool);
        let dialog = (parts.next_hop(), parts.call_id);
        leg.hop.find(stack, dialog, &mut leg.flow, asker(id), out)
    }

    /// The next hop of a call's caller is a name.
    pub(super) fn name_caller_hop(&mut self, stack: &mut Stack, id: CallId, out: &Effects) {
        let Some(caller) = self.calls.get(id).map(|call| call.caller) else {
            return;
        };
        if let Some(leg) = self.legs.get_mut(caller) {
            leg.hop.is_named = true;
        }
        self.find_hop(stack, caller, out);
    }

    /// What came of the look-up of a leg's next hop.
    pub fn hop_found(&mut self, stack: &mut Stack, id: LegId, found: (Resolved, &Targets), out: &Effects) {
        let Some(leg) = self.legs.get_mut(id) else { return };
        let parts = leg.dialog.parts(&out.pool);
        let dialog = (parts.next_hop(), parts.call_id);
        leg.hop.found(stack, dialog, &mut leg.flow, asker(id), found, out);
    }

    /// The request `sent` of this client transaction went to one address of a name, and may go to `others` when it fails.
    pub(super) fn keep_other_addresses(
        &mut self,
        stack: &Stack,
        tx: TxId,
        others: Option<Targets>,
        sent: BufId,
        out: &mut Effects,
    ) {
        let mut untried = others.and_then(|others| Untried::keep(&others, 0, &mut out.pool));
        self.may_go_elsewhere(stack, tx, &mut untried, sent, out);
        if let Some(untried) = untried {
            untried.release(&mut out.pool);
        }
    }

    /// The request of a branch was accepted where it is.
    pub(super) fn stay_here(&mut self, id: BranchId, out: &mut Effects) {
        let branch = self.branches.get_mut(id);
        if let Some(elsewhere) = branch.and_then(|branch| branch.elsewhere.take()) {
            elsewhere.release(&mut out.pool);
        }
    }

    /// A branch has failed at one address, and another takes its place at the next. `false`: there is none, or nobody wants it any more.
    pub(super) fn try_next_address(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(branch) = self.branches.get_mut(id) else {
            return false;
        };
        let Some(mut elsewhere) = branch.elsewhere.take() else {
            return false;
        };
        let (exchange_id, leg, cseq) = (branch.exchange, branch.leg, branch.cseq);
        let is_cancelled = branch.is_cancelled;
        let exchange = self.exchanges.get(exchange_id);
        let wanted = exchange.filter(|exchange| !exchange.is_answered && !is_cancelled);
        let went = wanted.map(|exchange| exchange.method).and_then(|method| {
            let request = (exchange_id, leg, method, cseq);
            self.go_elsewhere(stack, request, &mut elsewhere, now, out)
        });
        let new = went.and_then(|branch| self.branches.get_mut(branch));
        match new {
            Some(new) => new.elsewhere = Some(elsewhere),
            None => elsewhere.release(&mut out.pool),
        }
        if went.is_some() {
            self.remove_branch(stack, id, out);
        }
        went.is_some()
    }

    /// Sends the request to the next address that can be reached, on a branch of its own.
    fn go_elsewhere(
        &mut self,
        stack: &mut Stack,
        (exchange, leg_id, method, cseq): (ExchangeId, LegId, Method, u32),
        elsewhere: &mut Elsewhere,
        now: Instant,
        out: &mut Effects,
    ) -> Option<BranchId> {
        let leg = self.legs.get_mut(leg_id)?;
        // A connection to one address is none to another.
        let like = Flow {
            conn: None,
            ..leg.flow
        };
        let flow = loop {
            let target = elsewhere.untried.next(&out.pool)?;
            if let Ok(flow) = flow_to(&stack.cfg, (target.transport, target.addr), Some(like)) {
                break flow;
            }
        };
        leg.flow = flow;
        let tx = self.open_branch(stack, exchange, leg_id, method, cseq, out)?;
        let Some(User::Branch { slot, generation }) = stack.user_of(tx) else {
            return None;
        };
        match self.write_again(stack, elsewhere.sent, flow, token_of(stack, tx), out) {
            Some(buf) => {
                tracing::debug!(peer = %flow.peer, transport = flow.transport.name(), "next address");
                self.count_request(stack, method, leg_id);
                stack.send_request(tx, buf, now, out);
                Some(BranchId::new(slot, generation))
            }
            None => {
                self.close_branch(stack, tx, out);
                None
            }
        }
    }

    fn write_again(
        &mut self,
        stack: &Stack,
        sent: BufId,
        flow: Flow,
        branch: Token,
        out: &mut Effects,
    ) -> Option<BufId> {
        let len = out.pool.get(sent).len() + FORWARD_SLACK;
        let Some(mut draft) = out.pool.draft(len) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return None;
        };
        let mut table = self.table.take().expect("whoever takes the table puts it back");
        let bytes = out.pool.get(sent);
        let written = scan(bytes, &mut table).ok().and_then(|()| {
            let sent = Message::new(bytes, &table);
            write_again(stack, sent, flow, branch, &mut draft.bytes)
        });
        self.table = Some(table);
        stack.keep_written(draft, written, &mut out.pool)
    }
}

const fn asker(id: LegId) -> Asker {
    Asker::Leg {
        slot: id.slot,
        generation: id.generation,
    }
}
