//! Contacts whose host is a name: a request waits until DNS has said where they are (RFC 3263).

use crate::dns::plan::{Targets, Wanted};
use crate::dns::{Asker, Resolved, Untried};
use crate::location::{Contact, ContactSet};
use crate::msg::request::Request;
use crate::msg::uri::Uri;
use crate::pool::{BufId, Pool};
use crate::time::Instant;
use crate::transaction::Stack;
use crate::transaction::destination::{RouteError, destination, flow_to, path_hop};
use crate::wire::{Effects, Flow};

use super::{B2bua, ExchangeId};

impl B2bua {
    /// Has DNS asked for the first contact whose addresses are not known; request and contacts are kept until
    /// [`B2bua::resolved`] is called. `false`: there is nothing to wait for.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn waits_for_names(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        contacts: &ContactSet,
        request: Option<&Request<'_>>,
        kept: Option<BufId>,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        if contacts.needs_no_names() {
            return false;
        }
        let mut rung = contacts.iter().take(stack.cfg.limits.forks_max);
        let Some(wanted) = rung.find_map(|contact| unknown(stack, id, &contact, now)) else {
            return false;
        };
        let request = match (kept, request) {
            (Some(kept), _) => Some(out.pool.retain(kept)),
            (None, Some(request)) => out.pool.put(&request.msg.bytes[..request.msg.len()]),
            (None, None) => None,
        };
        let contacts = out.pool.put(contacts.as_bytes());
        let (slot, generation) = (id.slot, id.generation);
        let is_asked = request.is_some() && contacts.is_some() && {
            let asker = Asker::Exchange { slot, generation };
            let seed = seed(stack, id);
            let mut targets = Targets::default();
            let asked = (stack.dns).resolve(&mut stack.wheel, &wanted, asker, seed, now, &mut targets);
            match asked {
                Resolved::Waiting(_) => true,
                Resolved::Targets | Resolved::NoAddress | Resolved::Failed | Resolved::Full => false,
            }
        };
        match self.exchanges.get_mut(id) {
            Some(exchange) if is_asked => {
                exchange.request = request;
                exchange.contacts = contacts;
                true
            }
            // The contacts that are known are rung all the same.
            Some(_) | None => {
                for buf in [request, contacts].into_iter().flatten() {
                    out.pool.release(buf);
                }
                false
            }
        }
    }

    /// DNS has been asked for a name that `id` waits for. `room`: for its contacts.
    pub fn resolved(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        room: &mut ContactSet,
        now: Instant,
        out: &mut Effects,
    ) {
        let kept = self
            .exchanges
            .get_mut(id)
            .and_then(|exchange| exchange.contacts.take());
        let Some(kept) = kept else {
            return;
        };
        room.set_from_bytes(out.pool.get(kept));
        out.pool.release(kept);
        self.found(stack, id, room, None, now, out);
    }
}

/// What has to be asked before the contact can be rung.
fn unknown(stack: &Stack, id: ExchangeId, contact: &Contact<'_>, now: Instant) -> Option<Wanted> {
    // A path (RFC 3327) or a flow (RFC 5626) decides instead.
    let uri = match contact.path {
        b"" if contact.is_at_peer || contact.is_flow => return None,
        b"" => Uri::parse(crate::dialog::target_of(contact.uri)).ok()?,
        path => path_hop(path).ok()?,
    };
    if destination(&uri) != Err(RouteError::HostName) {
        return None;
    }
    let wanted = Wanted::of_uri(&uri).ok()?;
    let known = (stack.dns).resolve_known(&wanted, seed(stack, id), now, &mut Targets::default());
    known.is_none().then_some(wanted)
}

/// The way to the first address of a host name that can be reached, of those that are known, and those that come after it. `prefer`: what
/// the phone registered through.
pub(super) fn way_to_name(
    stack: &Stack,
    id: ExchangeId,
    uri: &Uri<'_>,
    prefer: Flow,
    now: Instant,
    pool: &mut Pool,
) -> Result<(Flow, Option<Untried>), RouteError> {
    let wanted = Wanted::of_uri(uri).map_err(|_| RouteError::HostName)?;
    let mut targets = Targets::default();
    match stack
        .dns
        .resolve_known(&wanted, seed(stack, id), now, &mut targets)
    {
        Some(Resolved::Targets) => {}
        Some(Resolved::NoAddress | Resolved::Failed | Resolved::Full | Resolved::Waiting(_)) | None => {
            return Err(RouteError::HostName);
        }
    }
    let mut last = RouteError::HostName;
    for (place, target) in targets.iter().enumerate() {
        match flow_to(&stack.cfg, (target.transport, target.addr), Some(prefer)) {
            Ok(flow) => return Ok((flow, Untried::keep(&targets, place + 1, pool))),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Decides among what DNS calls equal, for one request always in the same way.
fn seed(stack: &Stack, id: ExchangeId) -> u64 {
    stack
        .key
        .digest(&[&id.slot.to_be_bytes(), &id.generation.to_be_bytes()])
}
