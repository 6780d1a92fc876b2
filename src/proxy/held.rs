//! Requests within a dialog to a GRUU of ours that nothing carries but their route: the ACK of a 2xx. Whom a GRUU leads to is known here alone
//! (RFC 5627 §6.1), perhaps on another shard, so that they are held until that is known.

use crate::location::gruu::{self, Named};
use crate::location::{AorHasher, Asker, Contact, ContactSet, LookUp, Outcome, Whom};
use crate::msg::request::Request;
use crate::msg::uri::Uri;
use crate::timer::{Timer, TimerKind};
use crate::transaction::Stack;
use crate::transaction::destination::path_hop;
use crate::wire::{Effects, Flow};

use super::forward::{next_route, unreachable};
use super::names::{Addresses, Way, path_way, way};
use super::relay::{Held, HeldId, refuse};
use super::validate::{Arrived, Refused, preprocess};
use super::{LOOK_UP_TIMEOUT, Policy, Proxy};

/// Whom a request within a dialog is for, where its URI is a GRUU of ours and nothing else leads it on.
pub fn dialog_gruu(
    stack: &Stack,
    aors: &AorHasher,
    request: &Request<'_>,
    arrived: &Arrived<'_>,
    policy: Policy,
) -> Option<Named> {
    let uri = arrived.repaired.unwrap_or(request.uri);
    let is_led = policy.route.is_some() || arrived.over.is_some() || next_route(request, arrived).is_some();
    if is_led || !gruu::is_ours(uri, &stack.cfg) {
        return None;
    }
    Named::from_uri(&Uri::parse(uri).ok()?, &stack.cfg, aors, &stack.key).ok()
}

/// The way to a contact: its flow, its path, or where it says.
pub fn way_to(
    stack: &Stack,
    contact: &Contact<'_>,
    addresses: &mut Addresses,
    seed: u64,
    out: &Effects,
) -> Result<Way, Refused> {
    let now = out.received_at;
    if !contact.path.is_empty() {
        let hop = path_hop(contact.path).map_err(unreachable)?;
        return path_way(stack, &hop, contact.flow, addresses, seed, now);
    }
    if contact.is_flow {
        return Ok(Way::There(contact.flow.alone()));
    }
    let uri = Uri::parse(contact.uri).map_err(|_| Refused::with(400, "Bad Contact"))?;
    way(stack, &uri, contact.flow, addresses, seed, now)
}

impl Held {
    pub(super) fn release(self, stack: &mut Stack, out: &mut Effects) {
        if let Some(timer) = self.timer {
            stack.wheel.cancel(timer);
        }
        out.pool.release(self.buf);
    }
}

impl Proxy {
    /// Keeps a request until it is known where `named` is; what is to be looked up for that.
    pub(super) fn hold_for_contact(
        &mut self,
        stack: &mut Stack,
        named: Named,
        request: &Request<'_>,
        policy: Policy,
        flow: Flow,
        out: &mut Effects,
    ) -> Result<LookUp, Refused> {
        let (id, _) = self.keep_held(stack, request, policy, flow, out)?;
        let (slot, generation) = (id.slot, id.generation);
        let timer = Timer {
            kind: TimerKind::Held,
            slot,
            generation,
        };
        let timer = stack.wheel.insert(out.received_at + LOOK_UP_TIMEOUT, timer);
        if let Some(held) = self.held.get_mut(id) {
            held.timer = Some(timer);
        }
        let (whom, asker) = (Whom::from(named), Asker::Held { slot, generation });
        Ok(LookUp { whom, asker })
    }

    /// The answer to the look-up that a held request waits for; `None` when it could not be made.
    pub fn held_found(
        &mut self,
        stack: &mut Stack,
        id: HeldId,
        contacts: Option<&ContactSet>,
        out: &mut Effects,
    ) {
        let Some(held) = self.held.remove(id) else {
            return;
        };
        let contact = contacts
            .filter(|contacts| contacts.outcome() == Outcome::Contacts)
            .and_then(|contacts| contacts.iter().next());
        let (policy, flow) = (held.policy, held.flow);
        self.read_again(held.buf, out, |proxy, request, out| {
            let arrived = preprocess(stack, request, flow);
            let sent = match contact {
                Some(contact) => {
                    let (whom, known) = (Some(&contact), &mut Addresses::default());
                    proxy.send_on(stack, request, &arrived, policy, flow, whom, known, out)
                }
                None => Err(Refused::with(480, "Temporarily Unavailable")),
            };
            refuse(stack, request, flow, sent, out);
        });
        held.release(stack, out);
    }

    /// The look-up of a held request was not answered.
    pub fn on_held_timer(&mut self, stack: &mut Stack, id: HeldId, out: &mut Effects) {
        if let Some(held) = self.held.get_mut(id) {
            held.timer = None;
            self.held_found(stack, id, None, out);
        }
    }
}
