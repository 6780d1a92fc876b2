//! What a phone's responses say of the dialog with it: its tag, where it is reached, and the dialogs that a forked request
//! makes beside each other (RFC 3261 §12.1.2, §12.2.1.2, §13.2.2.4).

use crate::dialog::{Change, Dialog, Parts, ROUTES_BYTES_MAX, put_route_set, target_of};
use crate::location::gruu;
use crate::metrics::DropReason;
use crate::msg::build::Writer;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::request::Response;
use crate::transaction::Stack;
use crate::wire::{Effects, Flow};

use super::call::Side;
use super::in_dialog::is_target_refresh;
use super::{B2bua, BranchId, CallId, LegId};

/// Dialogs that the phones of one call may make beside those of their contacts, by answering with tag after tag.
const TWINS_PER_CALL_MAX: usize = 16;

impl B2bua {
    /// The dialog that a response with another To tag makes beside a leg's own.
    fn twin(&self, stack: &Stack, leg: LegId, response: &Response<'_>, out: &mut Effects) -> Option<Dialog> {
        let leg = self.legs.get(leg)?;
        let remote_tag = response.to_tag?;
        let target = first_contact(stack, response, b"");
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

    /// What a response of the phone says of the dialog: its tag, target and route set (RFC 3261 §12.1.2, §12.2.1.2).
    pub(super) fn learn(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        response: &Response<'_>,
        out: &mut Effects,
    ) {
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
        let target = first_contact(stack, response, leg.dialog.target(&out.pool));
        let remote_tag = leg.dialog.remote_tag(&out.pool);
        let (is_known, is_new) = (remote_tag == tag, remote_tag.is_empty());
        let begins_dialog =
            method == Method::Invite && leg.side == Side::Callee && call.answered != Some(leg_id);
        // §13.2.2.4: the 2xx says the route set of its dialog anew.
        if is_known && !(begins_dialog && response.status >= 200) {
            // RFC 6141 §4.7: what is not sure to arrive moves nothing.
            if let Some(target) = target
                && is_target_refresh(method)
                && is_acceptance(response)
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
    pub(super) fn add_twin(
        &mut self,
        stack: &mut Stack,
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
        if let Some(target) = first_contact(stack, response, b"") {
            self.set_target(stack, id, target, None, out);
        }
        Some(id)
    }
}

/// Whether a response accepts what its request says of the dialog: a 2xx, or a provisional one that is sent reliably (RFC 6141 §4.6).
pub(super) fn is_acceptance(response: &Response<'_>) -> bool {
    match response.status {
        101..=199 => {
            response.msg.line(Name::RSeq).is_some() && response.msg.has_token(Name::Require, b"100rel")
        }
        status => (200..300).contains(&status),
    }
}

/// Where the phone says that it is reached. RFC 5627 §4.4: a GRUU of ours leads to where it was rung. `known`: the target that it has,
/// which mostly comes again.
fn first_contact<'a>(stack: &Stack, response: &Response<'a>, known: &[u8]) -> Option<&'a [u8]> {
    let uri = name_addr::first_uri(response.msg, Name::Contact)?;
    if uri == known {
        return Some(uri);
    }
    Some(target_of(uri)).filter(|uri| !gruu::is_ours(uri, &stack.cfg))
}
