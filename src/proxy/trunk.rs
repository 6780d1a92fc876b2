//! Requests that go to a trunk: its destinations are tried one after another, and what becomes of each is told to the trunk.

use std::time::Duration;

use crate::config;
use crate::config::route::To;
use crate::msg::lex;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::{Request, Response};
use crate::time::Instant;
use crate::transaction::Stack;
use crate::transaction::destination::flow_to;
use crate::trunk::overload::Feedback;
use crate::trunk::standing::Outcome;
use crate::trunk::{DestinationId, Entry, Hop, Refusal, Trunks};
use crate::wire::{Effects, Flow};

use super::context::BranchPhase;
use super::record::tag_digest;
use super::targets::{Target, TargetSet};
use super::validate::Refused;
use super::{BranchId, ContextId, Policy, Proxy};

impl Proxy {
    /// The addresses of the trunk's destinations, in the order in which they are tried. A call is counted from here on.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn trunk_targets(
        &self,
        stack: &mut Stack,
        id: ContextId,
        name: &str,
        request: &Request<'_>,
        like: Flow,
        now: Instant,
        targets: &mut TargetSet,
    ) -> Result<(), Refusal> {
        let cfg = &stack.cfg;
        let index = Trunks::index_of(cfg, name).ok_or(Refusal::Gone)?;
        let context = self.contexts.get(id).ok_or(Refusal::Gone)?;
        let mut push = |destination, hop: &Hop| {
            targets.push(&Target {
                uri: hop.uri.as_bytes(),
                path: b"",
                is_next_hop: true,
                q: 1_000,
                prefer: like,
                is_flow: false,
                device: 0,
                destination: Some(destination),
            });
        };
        if let Some((destination, hops)) = way_of_call(stack, index, request) {
            hops.iter().for_each(|hop| push(destination, hop));
            return Ok(());
        }
        if counts(request) {
            stack
                .trunks
                .begin_call(cfg, &mut stack.wheel, index, context.trunk_call, now)?;
        }
        stack.trunks.choose(cfg, index, request.call_id, now, push)
    }

    /// Whether the request may be sent to this destination now.
    pub(super) fn enter(
        &self,
        stack: &mut Stack,
        id: ContextId,
        destination: DestinationId,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(context) = self.contexts.get(id) else {
            return Ok(());
        };
        if context.tried > 0 {
            stack.trunks.failed_over(destination);
        }
        match stack
            .trunks
            .enter(&stack.cfg, destination, context.trunk_call, now)
        {
            Entry::Sent => Ok(()),
            Entry::Full => Err(Refused::of_trunk("Destination Full")),
            // RFC 7339 §5.8: a 503 of our own goes back where nobody else takes it.
            Entry::Throttled => Err(Refused::of_trunk("Destination Overloaded")),
        }
    }

    /// A response has come from a destination: any ends the wait for it. After a final one that the trunk does not fail over
    /// on, no other destination is tried. One that was left for its silence has no say in that any more.
    pub(super) fn trunk_heard(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(branch) = self.branches.get(id) else {
            return;
        };
        let (Some(destination), context_id) = (branch.destination, branch.context) else {
            return;
        };
        let is_given_up = branch.is_given_up;
        stack.trunks.heard(destination, now);
        if let Some(feedback) = Feedback::of(&response.via) {
            stack.trunks.feedback(destination, feedback, now);
        }
        let Some(context) = self.contexts.get_mut(context_id) else {
            return;
        };
        if !is_given_up && let Some(timer) = context.timer.take() {
            stack.wheel.cancel(timer);
        }
        if response.status < 300 {
            return;
        }
        let retry_after = response.msg.value(Name::RetryAfter).and_then(seconds);
        let settings = settings(stack, context.policy);
        let fails_over = settings.is_some_and(|trunk| trunk.failover.contains(response.status));
        stack
            .trunks
            .answered(destination, response.status, fails_over, retry_after, now);
        if !fails_over
            && !is_given_up
            && let Some(targets) = context.targets.take()
        {
            out.pool.release(targets);
        }
    }

    /// A destination kept silent, or there is no way to it.
    pub(super) fn trunk_failed(&self, stack: &mut Stack, id: BranchId, outcome: Outcome, now: Instant) {
        if let Some(destination) = self.branches.get(id).and_then(|branch| branch.destination) {
            stack.trunks.failed(&stack.cfg, destination, outcome, now);
        }
    }

    /// The time is over in which a destination must say something: its branch is no longer waited for, although a 2xx that
    /// comes late after all still goes back.
    pub(super) fn give_up_silent(&mut self, stack: &mut Stack, id: ContextId, now: Instant) {
        let mut next = self.contexts.get(id).and_then(|context| context.first_branch);
        while let Some((id, following)) = self.next_branch(next) {
            next = following;
            let is_silent = self.branches.get(id).is_some_and(|branch| {
                branch.phase == BranchPhase::Sent && branch.destination.is_some() && !branch.is_given_up
            });
            if is_silent {
                self.trunk_failed(stack, id, Outcome::TimeOut, now);
                if let Some(branch) = self.branches.get_mut(id) {
                    branch.is_given_up = true;
                }
            }
        }
    }

    /// How long a destination may keep silent before the next is tried; `None` where the request is for no trunk.
    pub(super) fn answer_timeout(
        &self,
        stack: &Stack,
        policy: Policy,
        target: &Target<'_>,
    ) -> Option<Duration> {
        target.destination?;
        settings(stack, policy).map(|trunk| trunk.answer_timeout)
    }

    /// A request has been answered for good: a call that failed, that has ended, or whose BYE will not pass here, is counted no more.
    pub(super) fn end_trunk_call(&self, stack: &mut Stack, id: ContextId, received: Option<u16>) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        if context.method == Method::Bye {
            if let Some(call) = context.ends_call.filter(|_| ends_dialog(received)) {
                stack.trunks.end_call(&mut stack.wheel, call);
            }
            return;
        }
        let goes_on = context.is_accepted && context.policy.record_route;
        if context.policy.is_trunk && context.begins_dialog && !goes_on {
            stack.trunks.end_call(&mut stack.wheel, context.trunk_call);
        }
    }
}

/// The trunk that a rule leads to, as it was configured when the request came: what has been tried of it since is tried by that.
pub(super) fn settings(stack: &Stack, policy: Policy) -> Option<&config::trunk::Trunk> {
    let cfg = stack.config_of(policy.config)?;
    match &policy.rule_in(cfg)?.to {
        To::Trunk(name) => cfg.trunks.get(Trunks::index_of(cfg, name)?),
        To::Nowhere | To::Registered | To::RequestUri | To::Uris(_) => None,
    }
}

/// What a call is counted under: its Call-ID and the tag of who began it. Else many calls of one Call-ID would count as one.
pub(super) fn call_of(stack: &Stack, call_id: &[u8], caller_tag: Option<&[u8]>) -> u64 {
    stack.key.digest(&[call_id, caller_tag.unwrap_or_default()])
}

/// The call between the two whom a BYE names. Either may have sent it.
pub(super) fn call_between(stack: &Stack, bye: &Request<'_>) -> Option<u64> {
    if stack.trunks.calls() == 0 {
        return None;
    }
    let sides = [(bye.from_tag, bye.to_tag), (bye.to_tag, bye.from_tag)];
    sides.into_iter().find_map(|(caller, callee)| {
        let call = call_of(stack, bye.call_id, caller);
        (stack.trunks.is_call_with(call, tag_digest(stack, callee))).then_some(call)
    })
}

/// Where the call went that a request within a dialog is of, if its caller sends it: to the one server that knows the dialog. Callers that
/// leave out the recorded route send their ACK and BYE by the table.
fn way_of_call<'s>(
    stack: &'s Stack,
    index: usize,
    request: &Request<'_>,
) -> Option<(DestinationId, &'s [Hop])> {
    if stack.trunks.calls() == 0 || request.to_tag.is_none() {
        return None;
    }
    let call = call_of(stack, request.call_id, request.from_tag);
    stack
        .trunks
        .is_call_with(call, tag_digest(stack, request.to_tag))
        .then(|| stack.trunks.hops_of_call(index, call))?
}

/// The same for a request that goes there without state, which is one with the To tag of a trunk's call: the ACK of its 2xx.
pub fn flow_of_call(stack: &Stack, name: &str, request: &Request<'_>, like: Flow) -> Option<Flow> {
    let index = Trunks::index_of(&stack.cfg, name)?;
    let (_, hops) = way_of_call(stack, index, request)?;
    let target = hops.first()?.target;
    flow_to(&stack.cfg, (target.transport, target.addr), Some(like)).ok()
}

/// Whether a BYE that ends so has ended its dialog: RFC 3261 §12.2.1.2. `received`: what whoever it was for says to it, `None` where it
/// could not be brought there or nothing was said. All else leaves the dialog as it is, or anybody could end it who can't.
pub(super) const fn ends_dialog(received: Option<u16>) -> bool {
    matches!(received, None | Some(200..=299 | 408 | 481))
}

/// Whether the request begins a call that limits count.
fn counts(request: &Request<'_>) -> bool {
    request.method == Method::Invite && request.to_tag.is_none()
}

/// RFC 3261 §20.33: seconds, then perhaps a comment and parameters.
fn seconds(value: &[u8]) -> Option<Duration> {
    let end = value
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(value.len());
    lex::number(&value[..end]).map(|seconds| Duration::from_secs(u64::from(seconds)))
}
