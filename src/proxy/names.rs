//! Places whose host is a name: RFC 3263 says which addresses it has, a branch waits for what DNS answers, and when one
//! address fails the next is tried (§4.3).

use crate::dns::plan::{self, BadTarget, Targets, Wanted};
use crate::dns::{Asker, Resolved, Untried};
use crate::metrics::DropReason;
use crate::msg::uri::Uri;
use crate::pool::Pool;
use crate::time::Instant;
use crate::transaction::Stack;
use crate::transaction::destination::{RouteError, flow_to, path_flow, route, to_path};
use crate::wire::{Effects, Flow};

use super::best::Candidate;
use super::context::{Branch, BranchPhase, Place};
use super::forward::{Source, unreachable};
use super::targets::Target;
use super::validate::{Refused, preprocess};
use super::{BranchId, ContextId, Proxy};

/// The addresses of a place whose host is a name, as they were when a message was to go there first. RFC 3263 §4.3 has these tried in turn:
/// what DNS says meanwhile is for the next message.
#[derive(Default)]
pub struct Addresses {
    /// `None`: they have not been looked up, or the place is no name.
    determined: Option<Targets>,
    /// How many of them are behind us.
    passed: usize,
}

impl Addresses {
    pub fn of(targets: &Targets) -> Addresses {
        Addresses {
            determined: Some(*targets),
            passed: 0,
        }
    }

    /// Keeps those that come after the one that [`way`] chose last. `None`: there are none, or there is no buffer.
    fn keep_left(&self, pool: &mut Pool) -> Option<Untried> {
        (self.determined.as_ref()).and_then(|targets| Untried::keep(targets, self.passed, pool))
    }

    pub fn are_left(&self) -> bool {
        (self.determined.as_ref()).is_some_and(|targets| self.passed < targets.len())
    }
}

/// Where a message goes.
#[allow(clippy::large_enum_variant)]
pub enum Way {
    There(Flow),
    /// DNS must be asked.
    Unknown(Wanted),
}

/// The way to `uri`: where that is a name, to the first of `addresses` that can be reached. They are looked up where they are not yet.
/// `seed` decides among what DNS calls equal; `prefer` as for [`route`].
pub fn way(
    stack: &Stack,
    uri: &Uri<'_>,
    prefer: Flow,
    addresses: &mut Addresses,
    seed: u64,
    now: Instant,
) -> Result<Way, Refused> {
    match route(&stack.cfg, uri, Some(prefer)) {
        Ok(flow) => return Ok(Way::There(flow)),
        Err(RouteError::HostName) => {}
        Err(
            error @ (RouteError::Scheme
            | RouteError::Transport
            | RouteError::NoListener
            | RouteError::Ourselves
            | RouteError::NotOneHost),
        ) => return Err(unreachable(error)),
    }
    let Addresses { determined, passed } = addresses;
    let targets = match determined {
        Some(targets) => targets,
        None => {
            let wanted = Wanted::of_uri(uri).map_err(|error| match error {
                BadTarget::Scheme => unreachable(RouteError::Scheme),
                BadTarget::Transport => unreachable(RouteError::Transport),
                BadTarget::Host => unreachable(RouteError::HostName),
            })?;
            let mut known = Targets::default();
            match stack.dns.resolve_known(&wanted, seed, now, &mut known) {
                Some(Resolved::Targets) => determined.insert(known),
                Some(
                    resolved @ (Resolved::NoAddress
                    | Resolved::Failed
                    | Resolved::Full
                    | Resolved::Waiting(_)),
                ) => return Err(unresolved(resolved)),
                None => return Ok(Way::Unknown(wanted)),
            }
        }
    };
    let mut refused = unresolved(Resolved::NoAddress);
    for target in targets.iter().skip(*passed) {
        *passed += 1;
        match flow_to(&stack.cfg, (target.transport, target.addr), Some(prefer)) {
            Ok(flow) => return Ok(Way::There(flow)),
            Err(error) => refused = unreachable(error),
        }
    }
    Err(refused)
}

/// The way to the first hop of a registered path. Where nothing is known of its name that is `came_over`, what its REGISTER came over: that is
/// mostly who sent it.
pub fn path_way(
    stack: &Stack,
    hop: &Uri<'_>,
    came_over: Flow,
    addresses: &mut Addresses,
    seed: u64,
    now: Instant,
) -> Result<Way, Refused> {
    match path_flow(&stack.cfg, hop, came_over) {
        Ok(flow) => return Ok(Way::There(flow)),
        Err(RouteError::HostName) => {}
        Err(error) => return Err(unreachable(error)),
    }
    match way(stack, hop, came_over, addresses, seed, now) {
        Ok(Way::There(flow)) => Ok(Way::There(to_path(flow, came_over))),
        Err(_) if addresses.determined.is_none() => Ok(Way::There(came_over)),
        otherwise => otherwise,
    }
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
        wanted: &Wanted,
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
        let Some(place) = self.keep_place(target, set_uri, &Addresses::default(), out) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return Err(Refused::with(503, "Buffer Limit Reached"));
        };
        let kept = place.kept;
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
            out.pool.release(kept);
            return Err(Refused::with(503, "Transaction Limit Reached"));
        };
        let asker = Asker::Branch {
            slot: branch.slot,
            generation: branch.generation,
        };
        let mut targets = Targets::default();
        let asked = (stack.dns).resolve(&mut stack.wheel, wanted, asker, seed, now, &mut targets);
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
        if branch.tx.is_some() {
            return;
        }
        let context = branch.context;
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
            Resolved::Targets => self.send_place(stack, id, Some(targets), now, out),
            Resolved::NoAddress | Resolved::Failed | Resolved::Full | Resolved::Waiting(_) => {
                match self.came_over_of_path(id, out) {
                    Some(targets) => self.send_place(stack, id, Some(&targets), now, out),
                    None => Err(unresolved(resolved)),
                }
            }
        };
        match sent {
            Ok(()) => self.remove_branch(stack, id, out),
            Err(refused) => self.failed(stack, id, Candidate::Own(refused), now, out),
        }
    }

    /// Where the REGISTER with the path of a branch's place came from, if it has a path: see [`path_way`].
    fn came_over_of_path(&mut self, id: BranchId, out: &Effects) -> Option<Targets> {
        let place = self.branches.get(id)?.place.as_ref()?;
        let set = self.targets.as_mut()?;
        set.set_from_bytes(out.pool.get(place.kept));
        let target = set.iter().next()?;
        let mut targets = Targets::default();
        targets.add(plan::Target {
            transport: target.prefer.transport,
            addr: target.prefer.peer,
        });
        (!target.path.is_empty()).then_some(targets)
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
        if branch.is_cancelled {
            return false;
        }
        let goes_on = (self.contexts.get(branch.context))
            .is_some_and(|context| !context.is_answered && !context.is_cancelled);
        if !goes_on || self.send_place(stack, id, None, now, out).is_err() {
            return false;
        }
        self.remove_branch(stack, id, out);
        true
    }

    /// Sends the request to the place of a branch, on another one: to the first of `resolved` that can be reached, or else of the
    /// addresses that were kept with it.
    fn send_place(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        resolved: Option<&Targets>,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        const GONE: Refused = Refused::with(503, "Request Gone");
        let Some(branch) = self.branches.get(id) else {
            return Err(GONE);
        };
        let (context_id, breadth) = (branch.context, branch.breadth);
        let Some(place) = &branch.place else {
            return Err(GONE);
        };
        let kept = place.kept;
        let mut addresses = match (resolved, &place.untried) {
            (Some(targets), _) => Addresses::of(targets),
            (None, Some(untried)) => Addresses::of(&untried.left(&out.pool)),
            (None, None) => return Err(GONE),
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
                        stack,
                        context_id,
                        &source,
                        &target,
                        uri,
                        &mut addresses,
                        breadth,
                        now,
                        out,
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
                            stack,
                            context_id,
                            &source,
                            &target,
                            uri,
                            &mut addresses,
                            breadth,
                            now,
                            out,
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

    /// Keeps a place for when its turn comes, with the addresses that are left of it. `None`: there is no buffer.
    pub(super) fn keep_place(
        &mut self,
        target: &Target<'_>,
        set_uri: &[u8],
        addresses: &Addresses,
        out: &mut Effects,
    ) -> Option<Place> {
        let set = &mut self.place;
        set.clear();
        if !set.push(target) {
            return None;
        }
        set.set_request_uri(set_uri);
        let kept = out.pool.put(set.as_bytes())?;
        let untried = addresses.keep_left(&mut out.pool);
        Some(Place { kept, untried })
    }
}
