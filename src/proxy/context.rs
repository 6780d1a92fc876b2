//! The response context: what is known of a request while it is forwarded (RFC 3261 §16.2), and its branches.

use crate::dns::Untried;
use crate::metrics::Limit;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::request::Request;
use crate::pool::{BufId, Pool};
use crate::slots::Id;
use crate::time::Instant;
use crate::timer::{Timer, TimerId, TimerKind};
use crate::transaction::destination::wants_flow;
use crate::transaction::{Stack, TxId, User};
use crate::trunk::DestinationId;
use crate::wire::{Effects, Flow};

use super::validate::max_breadth;
use super::{Arrived, Policy, Proxy};

pub type ContextId = Id<Context>;
pub type BranchId = Id<Branch>;

pub struct Context {
    pub(super) server: TxId,
    pub(super) policy: Policy,
    pub(super) method: Method,
    /// What stands for the request in our branches, so that it is known again when it comes back (RFC 5393 §4.2).
    pub(super) digest: u64,
    /// Incoming Max-Breadth (RFC 5393 §5.3.2).
    pub(super) breadth: u8,
    /// Whether it goes to the contacts of a subscriber.
    pub(super) is_of_registered: bool,
    /// Whether it may begin a dialog.
    pub(super) begins_dialog: bool,
    /// RFC 5626 §5: a flow that we are the first hop of. It goes into the Path of a REGISTER, and into the Record-Route of a request whose
    /// Contact asks for it.
    pub(super) caller_flow: Option<Flow>,
    /// Whether the REGISTER is for a flow.
    pub(super) registers_flow: bool,
    /// §5.3.1: whether a flow token of ours has led it here.
    pub(super) is_by_token: bool,
    /// The Call-ID's digest, for Record-Route.
    pub(super) dialog: u64,
    /// What its call is counted under, where it goes to a trunk.
    pub(super) trunk_call: u64,
    /// The call of a trunk that it ends, where it is a BYE.
    pub(super) ends_call: Option<u64>,
    /// The request as it was first forwarded; the block of lines that differ by branch begins its header section.
    pub(super) template: Option<BufId>,
    pub(super) block_len: u16,
    /// The request as it came, while it waits for a look-up on another shard, or for DNS.
    pub(super) asked: Option<BufId>,
    /// How it came, where another shard was asked.
    pub(super) came_over: Option<Flow>,
    /// The timer bounds the wait for the other shard.
    pub(super) is_looked_up: bool,
    /// Places that were not tried yet.
    pub(super) targets: Option<BufId>,
    /// Further flows of devices that are tried: RFC 5626 §7.
    pub(super) others: Option<BufId>,
    /// The URIs of those that were, where redirections are followed: their lengths (2) and texts.
    pub(super) tried_uris: Option<BufId>,
    /// Branches that there were, those that could not be sent included.
    pub(super) tried: u16,
    pub(super) first_branch: Option<BranchId>,
    pub(super) best: Option<Best>,
    /// Challenge lines of all 401 and 407 that were kept: §16.7 step 7.
    pub(super) challenges: Option<BufId>,
    pub(super) timer: Option<TimerId>,
    /// A final response has gone back.
    pub(super) is_answered: bool,
    /// A CANCEL or a 6xx has come: no further place is tried.
    pub(super) is_cancelled: bool,
    /// A 2xx has come.
    pub(super) is_accepted: bool,
}

/// The best final response so far that is not a 2xx: §16.7 step 6.
#[derive(Clone, Copy)]
pub struct Best {
    pub(super) status: u16,
    /// Of one of our own.
    pub(super) reason: &'static str,
    pub(super) is_of_trunk: bool,
    /// `None`: one of our own.
    pub(super) response: Option<BufId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BranchPhase {
    /// The addresses of its place are looked up, and nothing was sent yet.
    Resolving,
    /// Nothing came back yet.
    Sent,
    Provisional,
    /// An INVITE was answered with a 2xx; more of them may follow.
    Accepted,
}

pub struct Branch {
    pub(super) context: ContextId,
    /// `None` while it is [`BranchPhase::Resolving`].
    pub(super) tx: Option<TxId>,
    pub(super) phase: BranchPhase,
    /// It is to be cancelled as soon as something has come back, or has been (§9.1).
    pub(super) is_cancelled: bool,
    pub(super) breadth: u8,
    /// Of a trunk.
    pub(super) destination: Option<DestinationId>,
    /// It kept silent for too long, and another has been tried.
    pub(super) is_given_up: bool,
    /// Where the request went.
    pub(super) flow: Flow,
    /// The device that it went to.
    pub(super) device: u8,
    /// The message and the length of its block, where it went over TCP for its size alone: it goes over UDP if TCP is refused.
    pub(super) for_udp: Option<(BufId, u16)>,
    /// Where else it can go.
    pub(super) place: Option<Place>,
    pub(super) next: Option<BranchId>,
}

/// A place whose host is a name, while DNS is asked for its addresses or there are some that were not tried.
#[derive(Debug)]
pub struct Place {
    /// A `TargetSet` of this one.
    pub(super) kept: BufId,
    /// `None`: DNS is being asked.
    pub(super) untried: Option<Untried>,
}

impl Place {
    pub(super) fn release(self, pool: &mut Pool) {
        pool.release(self.kept);
        if let Some(untried) = self.untried {
            untried.release(pool);
        }
    }
}

impl Context {
    pub(super) fn new(
        request: &Request<'_>,
        server: TxId,
        policy: Policy,
        digest: u64,
        dialog: u64,
    ) -> Context {
        Context {
            server,
            policy,
            method: request.method,
            digest,
            breadth: max_breadth(&request.msg),
            is_of_registered: false,
            begins_dialog: begins_dialog(request),
            caller_flow: None,
            registers_flow: false,
            is_by_token: false,
            dialog,
            trunk_call: 0,
            ends_call: None,
            template: None,
            block_len: 0,
            asked: None,
            came_over: None,
            is_looked_up: false,
            targets: None,
            others: None,
            tried_uris: None,
            tried: 0,
            first_branch: None,
            best: None,
            challenges: None,
            timer: None,
            is_answered: false,
            is_cancelled: false,
            is_accepted: false,
        }
    }

    /// What RFC 5626 §5 has an edge proxy look at.
    pub(super) fn note_flows(&mut self, request: &Request<'_>, arrived: &Arrived<'_>, flow: Flow) {
        self.is_by_token = arrived.over.is_some();
        let is_register = self.method == Method::Register;
        if !(is_register && self.policy.add_path || self.begins_dialog && self.policy.record_route) {
            return;
        }
        if is_register {
            let msg = request.msg;
            let contact = name_addr::first(msg, Name::Contact).and_then(Result::ok);
            let is_first_hop = is_first_hop(request);
            // RFC 3327 §5.2: only for a phone that knows of it.
            self.policy.add_path = msg.has_token(Name::Supported, b"path");
            let names_flow = contact.is_some_and(|contact| contact.param(b"reg-id").is_some());
            self.registers_flow = is_first_hop && names_flow;
            self.caller_flow = is_first_hop.then_some(flow);
        } else {
            self.caller_flow = caller_flow(request, flow);
        }
    }
}

/// Whether the request may begin a dialog, so that a Record-Route has a meaning in it.
pub(super) fn begins_dialog(request: &Request<'_>) -> bool {
    request.to_tag.is_none()
        && match request.method {
            Method::Invite | Method::Subscribe | Method::Refer => true,
            Method::Ack
            | Method::Bye
            | Method::Cancel
            | Method::Register
            | Method::Options
            | Method::Notify
            | Method::Message
            | Method::Info
            | Method::Update
            | Method::Prack
            | Method::Publish
            | Method::Other => false,
        }
}

/// RFC 5626 §5.1: the first hop is whom no Via stands below.
fn is_first_hop(request: &Request<'_>) -> bool {
    request.msg.elements(Name::Via).nth(1).is_none()
}

/// RFC 5626 §5.3: the flow that a request came over, where we are its first hop and its Contact asks for the requests of the dialog over
/// it.
pub(super) fn caller_flow(request: &Request<'_>, flow: Flow) -> Option<Flow> {
    let asks = || {
        let contact = name_addr::first(request.msg, Name::Contact)?.ok()?;
        contact.uri().ok().map(|uri| wants_flow(&uri))
    };
    (is_first_hop(request) && asks() == Some(true)).then_some(flow)
}

impl Context {
    /// Where redirections are followed a place is remembered when it is tried. What there is no room for may be tried again:
    /// `limits.forks_max` bounds that.
    pub(super) fn remember_tried(&mut self, uri: &[u8], out: &mut Effects) {
        let Ok(len) = u16::try_from(uri.len()) else {
            return;
        };
        if !self.policy.recurse {
            return;
        }
        let len = len.to_be_bytes();
        let begun = match self.tried_uris {
            None => out.pool.put(&len),
            Some(kept) => out.pool.append(kept, &len),
        };
        if let Some(begun) = begun {
            self.tried_uris = Some(out.pool.append(begun, uri).unwrap_or(begun));
        }
    }

    pub(super) fn was_tried(&self, uri: &[u8], out: &Effects) -> bool {
        let mut rest = self.tried_uris.map_or(&b""[..], |kept| out.pool.get(kept));
        while let Some((len, more)) = rest.split_first_chunk::<2>() {
            let Some((own, after)) = more.split_at_checked(usize::from(u16::from_be_bytes(*len))) else {
                return false;
            };
            if own == uri {
                return true;
            }
            rest = after;
        }
        false
    }
}

impl Proxy {
    pub(super) fn add_branch(&mut self, stack: &mut Stack, branch: Branch) -> Option<BranchId> {
        let (context_id, tx) = (branch.context, branch.tx);
        let next = self.contexts.get(context_id)?.first_branch;
        let Some(id) = self.branches.insert(Branch { next, ..branch }) else {
            stack.metrics.limit_reached(Limit::Transactions);
            return None;
        };
        self.contexts.get_mut(context_id)?.first_branch = Some(id);
        let (slot, generation) = (id.slot, id.generation);
        if let Some(tx) = tx {
            stack.set_user(tx, User::ProxyBranch { slot, generation });
        }
        Some(id)
    }

    /// Forgets a branch; its client transaction ends by itself.
    pub(super) fn remove_branch(&mut self, stack: &mut Stack, id: BranchId, out: &mut Effects) {
        let Some(branch) = self.branches.remove(id) else {
            return;
        };
        if let Some(tx) = branch.tx {
            stack.set_user(tx, User::None);
        }
        if let Some((kept, _)) = branch.for_udp {
            out.pool.release(kept);
        }
        if let Some(place) = branch.place {
            place.release(&mut out.pool);
        }
        let Some(context) = self.contexts.get_mut(branch.context) else {
            return;
        };
        if context.first_branch == Some(id) {
            context.first_branch = branch.next;
            return;
        }
        let mut at = context.first_branch;
        while let Some(previous) = at.and_then(|at| self.branches.get_mut(at)) {
            if previous.next == Some(id) {
                previous.next = branch.next;
                return;
            }
            at = previous.next;
        }
    }

    /// The branches of a context in turn; the walk allows that the one at hand is removed.
    pub(super) fn next_branch(&self, id: Option<BranchId>) -> Option<(BranchId, Option<BranchId>)> {
        let id = id?;
        self.branches.get(id).map(|branch| (id, branch.next))
    }

    /// Whether a final response is still to come on some branch, and the Max-Breadth that those branches have.
    pub(super) fn open(&self, id: ContextId) -> (bool, u8) {
        let mut next = self.contexts.get(id).and_then(|context| context.first_branch);
        let (mut is_open, mut breadth) = (false, 0_u8);
        while let Some(branch) = next.and_then(|id| self.branches.get(id)) {
            match branch.phase {
                BranchPhase::Sent if branch.is_given_up => {}
                BranchPhase::Resolving | BranchPhase::Sent | BranchPhase::Provisional => {
                    is_open = true;
                    breadth = breadth.saturating_add(branch.breadth);
                }
                BranchPhase::Accepted => {}
            }
            next = branch.next;
        }
        (is_open, breadth)
    }

    pub(super) fn set_timer(&mut self, stack: &mut Stack, id: ContextId, at: Instant) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        if let Some(timer) = context.timer.take() {
            stack.wheel.cancel(timer);
        }
        let timer = Timer {
            kind: TimerKind::Context,
            slot: id.slot,
            generation: id.generation,
        };
        context.timer = Some(stack.wheel.insert(at, timer));
    }

    /// A final response has gone back: what only served to find one is given up. `received`: its status, where it is not one of our own.
    pub(super) fn settle(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        received: Option<u16>,
        out: &mut Effects,
    ) {
        self.end_trunk_call(stack, id, received);
        self.note_bye_over(stack, id, received, out);
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        context.is_answered = true;
        let buffers = [
            context.template.take(),
            context.asked.take(),
            context.targets.take(),
            context.others.take(),
            context.tried_uris.take(),
            context.challenges.take(),
            context.best.take().and_then(|best| best.response),
        ];
        for buf in buffers.into_iter().flatten() {
            out.pool.release(buf);
        }
        if let Some(timer) = context.timer.take() {
            stack.wheel.cancel(timer);
        }
        self.remove_if_over(stack, id, out);
    }

    /// Forgets a context that was answered and has no branch left.
    pub(super) fn remove_if_over(&mut self, stack: &mut Stack, id: ContextId, out: &mut Effects) {
        let is_over = self
            .contexts
            .get(id)
            .is_some_and(|context| context.is_answered && context.first_branch.is_none());
        if is_over {
            self.remove(stack, id, out);
        }
    }

    fn remove(&mut self, stack: &mut Stack, id: ContextId, out: &mut Effects) {
        while let Some(branch) = self.contexts.get(id).and_then(|context| context.first_branch) {
            self.remove_branch(stack, branch, out);
        }
        if let Some(context) = self.contexts.remove(id) {
            stack.set_user(context.server, User::None);
            // A 2xx to INVITE that found no buffer comes again from whoever sent it, but not for ever.
            stack.abandon_unanswered(context.server, out);
        }
    }

    /// Forgets all: the server stops.
    pub fn forget_all(&mut self, stack: &mut Stack, out: &mut Effects) {
        self.tell_all_records(stack, out);
        for slot in 0..self.contexts.slots() {
            if let Some(id) = self.contexts.id_at(slot) {
                self.settle(stack, id, None, out);
                self.remove(stack, id, out);
            }
        }
        for slot in 0..self.held.slots() {
            if let Some(held) = self.held.id_at(slot).and_then(|id| self.held.remove(id)) {
                held.release(stack, out);
            }
        }
    }
}
