//! Places whose host is a name: RFC 3263 says which addresses it has, a branch waits for what DNS answers, and when one
//! address fails the next is tried (§4.3).

use crate::dns::plan::{BadTarget, Targets, Wanted};
use crate::dns::{Asker, Resolved};
use crate::metrics::DropReason;
use crate::msg::uri::Uri;
use crate::time::Instant;
use crate::transaction::Stack;
use crate::transaction::destination::{RouteError, flow_to, route};
use crate::wire::{Effects, Flow};

use super::best::Candidate;
use super::context::{Branch, BranchPhase, Place};
use super::forward::{Source, unreachable};
use super::targets::Target;
use super::validate::{Refused, preprocess};
use super::{BranchId, ContextId, Proxy};

/// Which of the addresses of a place is meant, if its host is a name.
#[derive(Clone, Copy)]
pub enum Address<'a> {
    /// Of those that are known, the first from here on that can be reached.
    From(usize),
    /// The same of these.
    Known(&'a Targets, usize),
}

/// Where a message goes.
#[allow(clippy::large_enum_variant)]
pub enum Way {
    /// `next`: the address to try after it.
    There { flow: Flow, next: Option<usize> },
    /// DNS must be asked.
    Unknown { wanted: Wanted, next: usize },
}

/// The way to `uri`. `seed` decides among what DNS calls equal; `prefer` as for [`route`].
pub fn way(
    stack: &Stack,
    uri: &Uri<'_>,
    prefer: Flow,
    address: Address<'_>,
    seed: u64,
    now: Instant,
) -> Result<Way, Refused> {
    match route(&stack.cfg, uri, Some(prefer)) {
        Ok(flow) => return Ok(Way::There { flow, next: None }),
        Err(RouteError::HostName) => {}
        Err(
            error @ (RouteError::Scheme
            | RouteError::Transport
            | RouteError::NoListener
            | RouteError::Ourselves
            | RouteError::NotOneHost),
        ) => return Err(unreachable(error)),
    }
    let mut known = Targets::default();
    let (targets, first) = match address {
        Address::Known(targets, first) => (targets, first),
        Address::From(first) => {
            let wanted = Wanted::of_uri(uri).map_err(|error| match error {
                BadTarget::Scheme => unreachable(RouteError::Scheme),
                BadTarget::Transport => unreachable(RouteError::Transport),
                BadTarget::Host => unreachable(RouteError::HostName),
            })?;
            match stack.dns.resolve_known(&wanted, seed, now, &mut known) {
                Some(Resolved::Targets) => (&known, first),
                Some(
                    resolved @ (Resolved::NoAddress
                    | Resolved::Failed
                    | Resolved::Full
                    | Resolved::Waiting(_)),
                ) => return Err(unresolved(resolved)),
                None => {
                    return Ok(Way::Unknown { wanted, next: first });
                }
            }
        }
    };
    let mut refused = unresolved(Resolved::NoAddress);
    for (place, target) in targets.iter().enumerate().skip(first) {
        match flow_to(&stack.cfg, (target.transport, target.addr), Some(prefer)) {
            Ok(flow) => {
                let next = Some(place + 1).filter(|next| *next < targets.len());
                return Ok(Way::There { flow, next });
            }
            Err(error) => refused = unreachable(error),
        }
    }
    Err(refused)
}

/// What it means for a request that no address is known of its next hop.
pub fn unresolved(resolved: Resolved) -> Refused {
    match resolved {
        Resolved::NoAddress => Refused::with(502, "Host Name Has No Address"),
        // RFC 3261 §21.5.5: another server, such as this one, did not answer in time.
        Resolved::Failed => Refused::with(504, "DNS Did Not Answer"),
        Resolved::Full => Refused::with(503, "Look-up Limit Reached"),
        Resolved::Targets | Resolved::Waiting(_) => Refused::with(503, "Look-up Failed"),
    }
}

impl Proxy {
    /// A branch that waits for the addresses of `target`; the request is kept for it.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn wait_for_name(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        source: &Source<'_, '_>,
        target: &Target<'_>,
        set_uri: &[u8],
        (wanted, next): (Wanted, usize),
        breadth: u8,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        let Some(context) = self.contexts.get_mut(id) else {
            return Err(Refused::with(503, "Context Gone"));
        };
        let seed = context.dialog;
        if let Source::Received { request, .. } = source
            && context.template.is_none()
            && context.asked.is_none()
        {
            context.asked = out.pool.put(&request.msg.bytes[..request.msg.len()]);
            if context.asked.is_none() {
                stack.metrics.dropped(DropReason::NoBuffer);
                return Err(Refused::with(503, "Buffer Limit Reached"));
            }
        }
        let Some(place) = self.keep_place(target, set_uri, next, out) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return Err(Refused::with(503, "Buffer Limit Reached"));
        };
        let branch = Branch {
            context: id,
            tx: None,
            phase: BranchPhase::Resolving,
            is_cancelled: false,
            breadth,
            destination: target.destination,
            is_given_up: false,
            flow: target.prefer,
            device: target.device,
            for_udp: None,
            place: Some(place),
            next: None,
        };
        let Some(branch) = self.add_branch(stack, branch) else {
            out.pool.release(place.kept);
            return Err(Refused::with(503, "Transaction Limit Reached"));
        };
        let asker = Asker::Branch {
            slot: branch.slot,
            generation: branch.generation,
        };
        let mut targets = Targets::default();
        let asked = (stack.dns).resolve(&mut stack.wheel, &wanted, asker, seed, now, &mut targets);
        match asked {
            Resolved::Waiting(_) => Ok(()),
            Resolved::Targets | Resolved::NoAddress | Resolved::Failed | Resolved::Full => {
                self.remove_branch(stack, branch, out);
                Err(unresolved(asked))
            }
        }
    }

    /// What came of the look-up that a branch waits for.
    pub fn resolved(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        resolved: Resolved,
        targets: &Targets,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get_mut(id) else {
            return;
        };
        let (context, Some(place), None) = (branch.context, branch.place, branch.tx) else {
            return;
        };
        if self
            .contexts
            .get(context)
            .is_none_or(|context| context.is_answered)
        {
            self.remove_branch(stack, id, out);
            self.remove_if_over(stack, context, out);
            return;
        }
        let sent = match resolved {
            Resolved::Targets => self.send_place(stack, id, Address::Known(targets, place.next), now, out),
            Resolved::NoAddress | Resolved::Failed | Resolved::Full | Resolved::Waiting(_) => {
                Err(unresolved(resolved))
            }
        };
        match sent {
            Ok(()) => self.remove_branch(stack, id, out),
            Err(refused) => self.failed(stack, id, Candidate::Own(refused), now, out),
        }
    }

    /// §4.3: a branch has failed at one address, and goes to the next that its name has. `false`: there is none.
    pub(super) fn try_next_address(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(branch) = self.branches.get(id) else {
            return false;
        };
        let (Some(place), false) = (branch.place, branch.is_cancelled) else {
            return false;
        };
        let goes_on = (self.contexts.get(branch.context))
            .is_some_and(|context| !context.is_answered && !context.is_cancelled);
        if !goes_on
            || self
                .send_place(stack, id, Address::From(place.next), now, out)
                .is_err()
        {
            return false;
        }
        self.remove_branch(stack, id, out);
        true
    }

    /// Sends the request to the place of a branch, on another one.
    fn send_place(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        address: Address<'_>,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        const GONE: Refused = Refused::with(503, "Request Gone");
        let Some(branch) = self.branches.get(id) else {
            return Err(GONE);
        };
        let (context_id, breadth) = (branch.context, branch.breadth);
        let Some(kept) = branch.place.map(|place| place.kept) else {
            return Err(GONE);
        };
        let Some(context) = self.contexts.get(context_id) else {
            return Err(GONE);
        };
        let (template, asked) = (context.template, context.asked);
        let Some(came_over) = context.came_over.or(stack.flow_of(context.server)) else {
            return Err(GONE);
        };
        // Its own, since sending may keep a place too.
        let mut set = self
            .targets
            .take()
            .expect("whoever takes the targets puts them back");
        set.set_from_bytes(out.pool.get(kept));
        let mut sent = Err(GONE);
        if let Some(target) = set.iter().next() {
            let uri = set.request_uri();
            match (template, asked) {
                (Some(_), _) => {
                    let source = Source::Template;
                    sent = self.send_branch(
                        stack, context_id, &source, &target, uri, address, breadth, now, out,
                    );
                }
                (None, Some(asked)) => {
                    // It is given up when the request has been written.
                    let asked = out.pool.retain(asked);
                    self.read_again(asked, out, |proxy, request, out| {
                        let arrived = preprocess(stack, request, came_over);
                        let arrived = &arrived;
                        let source = Source::Received { request, arrived };
                        sent = proxy.send_branch(
                            stack, context_id, &source, &target, uri, address, breadth, now, out,
                        );
                    });
                    out.pool.release(asked);
                }
                (None, None) => {}
            }
        }
        self.targets = Some(set);
        sent
    }

    /// Keeps a place for when its turn comes. `None`: there is no buffer.
    pub(super) fn keep_place(
        &mut self,
        target: &Target<'_>,
        set_uri: &[u8],
        next: usize,
        out: &mut Effects,
    ) -> Option<Place> {
        let set = &mut self.place;
        set.clear();
        if !set.push(target) {
            return None;
        }
        set.set_request_uri(set_uri);
        let kept = out.pool.put(set.as_bytes())?;
        Some(Place { kept, next })
    }
}
