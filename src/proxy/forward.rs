//! How a request is sent on: to which of its places at once, and on a branch of its own to each (RFC 3261 §16.6).
//! [`write`](super::write) has what is sent.

use std::time::Duration;

use crate::config::route::Fork;
use crate::dns::plan::Wanted;
use crate::metrics::DropReason;
use crate::msg::build::Writer;
use crate::msg::lex::Elements;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::request::Request;
use crate::msg::uri::Uri;
use crate::pool::BufId;
use crate::routing::rewrite;
use crate::time::Instant;
use crate::transaction::destination::{RouteError, listener_for};
use crate::transaction::{Stack, TxId, User};
use crate::trunk::DestinationId;
use crate::wire::{Effects, Flow, Transport};

use super::context::{Branch, BranchPhase};
use super::names::{Addresses, Way, path_way, way};
use super::targets::{Target, TargetSet};
use super::validate::{Arrived, Refused};
use super::write::{
    BLOCK_BYTES, BLOCK_ESTIMATE, FORWARD_SLACK, edit_received, in_place, path_line_len, put_block_lines,
    put_marked,
};
use super::{BranchId, ContextId, Proxy};

/// RFC 3261 §18.1.1: a request above this goes over a transport that controls congestion, where the path MTU is not known.
const UDP_BYTES_MAX: usize = 1_300;

/// Where a branch goes.
#[derive(Clone, Copy)]
struct Place {
    flow: Flow,
    /// Of a trunk.
    destination: Option<DestinationId>,
    /// Of a subscriber.
    device: u8,
}

/// The way of a branch, and what it is written with.
struct Hop<'u> {
    flow: Flow,
    /// It goes over TCP for its size alone.
    goes_for_size: bool,
    /// The flow is the only way there.
    is_alone: bool,
    request_uri: &'u [u8],
    /// What stood there, where the next hop is a strict router.
    strict_target: Option<&'u [u8]>,
}

/// Where a branch goes, or what has to be known first.
#[allow(clippy::large_enum_variant)]
enum Next<'u> {
    Hop(Hop<'u>),
    /// DNS must be asked.
    Unknown(Wanted),
}

/// What a branch is written from.
pub enum Source<'r, 'm> {
    /// The request as it came.
    Received {
        request: &'r Request<'m>,
        arrived: &'r Arrived<'m>,
    },
    /// The request as it was forwarded first.
    Template,
}

impl Proxy {
    /// Sends the request to the first of `targets` that are tried together, and keeps the others for later.
    pub(super) fn send_group(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        targets: &mut TargetSet,
        source: &Source<'_, '_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let mut silence_max;
        loop {
            let Some(context) = self.contexts.get(id) else {
                return;
            };
            let (policy, incoming) = (context.policy, context.breadth);
            let tries_left = (stack.cfg.limits.forks_max).saturating_sub(usize::from(context.tried));
            let (_, used) = self.open(id);
            let breadth = usize::from(incoming.saturating_sub(used));
            let Some(first) = targets.iter().next() else {
                return;
            };
            silence_max = self.answer_timeout(stack, policy, &first);
            let wanted = match policy.fork {
                Fork::Parallel => targets.iter().count(),
                Fork::Serial => 1,
                Fork::ByQ => targets.iter().take_while(|target| target.q == first.q).count(),
            };
            // RFC 5393 §5.3.3: where there is not enough breadth for all at once, the rest come after them.
            let count = wanted.min(tries_left).min(breadth);
            if tries_left == 0 {
                targets.clear();
                return;
            }
            // Whoever comes next may come before those who are cancelled for it have ended, and until then they have their share.
            let later = targets.iter().skip(count).count();
            let spared = later.min(tries_left - count).min(breadth - count);
            let mut has_sent = false;
            for (i, target) in targets.iter().take(count).enumerate() {
                // The breadth there is, in equal parts.
                let here = breadth - spared;
                let share = (here / count + usize::from(i < here % count)) as u8;
                let request_uri = targets.request_uri();
                let addresses = &mut Addresses::default();
                match self.send_branch(
                    stack,
                    id,
                    source,
                    &target,
                    request_uri,
                    addresses,
                    share,
                    now,
                    out,
                ) {
                    Ok(()) => has_sent = true,
                    Err(refused) => self.keep_own(stack, id, refused, out),
                }
                if let Some(context) = self.contexts.get_mut(id) {
                    context.tried += 1;
                    context.remember_tried(target.uri, out);
                }
            }
            targets.skip(count);
            if !has_sent && count > 0 {
                // Nobody of these can be reached: on to the next.
                continue;
            }
            break;
        }
        if targets.is_empty() {
            return;
        }
        if let Some(context) = self.contexts.get_mut(id) {
            context.targets = out.pool.put(targets.as_bytes());
            let ring = Duration::from_secs(u64::from(context.policy.ring_s));
            // A destination that rings is not left for another; one that says nothing is, and soon.
            self.set_timer(stack, id, now + silence_max.unwrap_or(ring));
        }
    }

    /// The same with what waits, from what was forwarded first.
    pub(super) fn send_next_group(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let Some(kept) = context.targets.take() else {
            return;
        };
        if let Some(timer) = context.timer.take() {
            stack.wheel.cancel(timer);
        }
        let mut targets = self
            .targets
            .take()
            .expect("whoever takes the targets puts them back");
        targets.set_from_bytes(out.pool.get(kept));
        out.pool.release(kept);
        self.send_group(stack, id, &mut targets, &Source::Template, now, out);
        self.targets = Some(targets);
    }

    /// RFC 5626 §7: the flow of a branch to `device` has failed, and the device has said nothing: the next one takes its place.
    /// `false`: there is none.
    pub(super) fn send_by_other_flow(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        device: u8,
        breadth: u8,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let tries_max = stack.cfg.limits.forks_max;
        loop {
            let Some(context) = self.contexts.get_mut(id) else {
                return false;
            };
            if context.is_cancelled || usize::from(context.tried) >= tries_max {
                return false;
            }
            let Some(kept) = context.others.take() else {
                return false;
            };
            let mut all = self
                .targets
                .take()
                .expect("whoever takes the targets puts them back");
            let mut rest = self
                .others
                .take()
                .expect("whoever takes the others puts them back");
            all.set_from_bytes(out.pool.get(kept));
            out.pool.release(kept);
            rest.clear();
            let mut chosen = None;
            for target in all.iter() {
                if chosen.is_none() && target.device == device {
                    chosen = Some(target);
                } else {
                    rest.push(&target);
                }
            }
            if !rest.is_empty()
                && let Some(context) = self.contexts.get_mut(id)
            {
                context.others = out.pool.put(rest.as_bytes());
            }
            self.others = Some(rest);
            let sent = chosen.map(|target| {
                self.send_branch(
                    stack,
                    id,
                    &Source::Template,
                    &target,
                    b"",
                    &mut Addresses::default(),
                    breadth,
                    now,
                    out,
                )
                .is_ok()
            });
            self.targets = Some(all);
            if let (Some(_), Some(context)) = (sent, self.contexts.get_mut(id)) {
                context.tried += 1;
            }
            match sent {
                None => return false,
                Some(true) => return true,
                Some(false) => {}
            }
        }
    }

    /// Sends the request to one place, on a branch of its own. Where DNS must be asked first it waits for that.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_branch(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        source: &Source<'_, '_>,
        target: &Target<'_>,
        set_uri: &[u8],
        addresses: &mut Addresses,
        breadth: u8,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        let Some(context) = self.contexts.get(id) else {
            return Err(Refused::with(503, "Context Gone"));
        };
        let (method, policy) = (context.method, context.policy);
        let received_len = match (source, context.template) {
            (Source::Received { request, .. }, _) => request.msg.len(),
            (Source::Template, Some(template)) => out.pool.get(template).len(),
            (Source::Template, None) => return Err(Refused::with(503, "Request Gone")),
        };
        let mut text = [0; 1_024];
        let hop = match self.next_hop(
            stack,
            id,
            source,
            target,
            set_uri,
            addresses,
            received_len,
            &mut text,
            now,
            out,
        )? {
            Next::Hop(hop) => hop,
            Next::Unknown(wanted) => {
                return self.wait_for_name(stack, id, source, target, set_uri, &wanted, breadth, now, out);
            }
        };
        let flow = hop.flow;
        let to = Place {
            flow,
            destination: target.destination,
            device: target.device,
        };
        if let Some(destination) = target.destination {
            self.enter(stack, id, destination, now)?;
        }
        let added = policy
            .rule(stack)
            .map_or(0, |rule| rewrite::bytes_added(&rule.rewrite));
        let uris = 2 * hop
            .request_uri
            .len()
            .max(hop.strict_target.map_or(0, <[u8]>::len));
        let len = received_len + BLOCK_BYTES + FORWARD_SLACK + added + target.path.len() + uris;
        let Some(mut draft) = out.pool.draft(len) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return Err(Refused::with(503, "Buffer Limit Reached"));
        };
        let tx = match self.open_branch(stack, id, to, breadth, out) {
            Some(tx) => tx,
            None => {
                out.pool.discard(draft);
                return Err(Refused::with(503, "Transaction Limit Reached"));
            }
        };
        let mut block = [0; BLOCK_BYTES];
        let mut w = Writer::new(&mut block);
        self.put_block(stack, id, tx, (flow, hop.is_alone), breadth, &mut w);
        let block_len = w.finish();
        let block = &block[..block_len.unwrap_or(0)];
        let written = match source {
            Source::Received { request, arrived } => {
                let came_from = self
                    .contexts
                    .get(id)
                    .and_then(|context| stack.source_of(context.server));
                let fits = edit_received(
                    &mut self.edits,
                    request,
                    arrived,
                    came_from,
                    hop.request_uri,
                    hop.strict_target,
                    policy.rule(stack).map(|rule| &rule.rewrite),
                    block,
                    target.path,
                );
                fits.then(|| self.edits.write_message(request.msg, &mut draft.bytes).ok())
                    .flatten()
            }
            Source::Template => {
                self.write_from_template(id, hop.request_uri, block, target.path, &mut draft.bytes, out)
            }
        };
        let Some(written) = written.filter(|_| block_len.is_some()) else {
            out.pool.discard(draft);
            self.close_branch(stack, tx, out);
            stack.metrics.dropped(DropReason::TooLarge);
            return Err(Refused::with(513, "Message Too Large"));
        };
        let buf = out.pool.commit(draft, written);
        let block_len = block.len();
        let place = match addresses.are_left() {
            true => self.keep_place(target, set_uri, addresses, out),
            false => None,
        };
        if let Some(User::ProxyBranch { slot, generation }) = stack.user_of(tx)
            && let Some(branch) = self.branches.get_mut(BranchId::new(slot, generation))
        {
            branch.for_udp = hop
                .goes_for_size
                .then(|| (out.pool.retain(buf), block_len as u16));
            branch.place = place;
        }
        self.keep_template(id, buf, block_len + path_line_len(target.path), out);
        stack.count_request(method, flow.transport);
        stack.send_request(tx, buf, now, out);
        self.note_rung(id, flow);
        Ok(())
    }

    /// Which way a branch goes, and with which request URI: §16.6 steps 6 and 7, §18.1.1.
    #[allow(clippy::too_many_arguments)]
    fn next_hop<'u>(
        &mut self,
        stack: &Stack,
        id: ContextId,
        source: &Source<'u, '_>,
        target: &Target<'u>,
        set_uri: &'u [u8],
        addresses: &mut Addresses,
        received_len: usize,
        text: &'u mut [u8],
        now: Instant,
        out: &Effects,
    ) -> Result<Next<'u>, Refused> {
        let Some(context) = self.contexts.get(id) else {
            return Err(Refused::with(503, "Context Gone"));
        };
        let (policy, seed) = (context.policy, context.dialog);
        let hop = match source {
            // RFC 3327 §5.4: the path comes before whatever route the request has.
            _ if !target.path.is_empty() => Elements::new(target.path).next().and_then(NameAddr::uri_of),
            Source::Received { request, arrived } => next_route(request, arrived),
            Source::Template => self.template_route(id, text, out),
        };
        // §16.6 step 7: a route decides; else what says where to send; else the request URI.
        let hop_uri = Uri::parse(hop.unwrap_or(target.uri)).map_err(|_| Refused::with(400, "Bad Route"))?;
        let is_strict = hop.is_some() && hop_uri.param(b"lr").is_none();
        if is_strict && matches!(source, Source::Template) {
            return Err(Refused::with(502, "Strict Route Can Not Be Forked"));
        }
        let over_flow = target.is_flow && hop.is_none();
        let found = match target.path {
            b"" if over_flow => Way::There(target.prefer),
            b"" => way(stack, &hop_uri, target.prefer, addresses, seed, now)?,
            _ => path_way(stack, &hop_uri, target.prefer, addresses, seed, now)?,
        };
        let mut flow = match found {
            Way::There(flow) => flow,
            Way::Unknown(wanted) => return Ok(Next::Unknown(wanted)),
        };
        // §18.1.1: a large request takes TCP, unless its transport is named, or its flow is all there is.
        let is_large = received_len + BLOCK_ESTIMATE > UDP_BYTES_MAX;
        let mut goes_for_size = false;
        if policy.tcp_when_large
            && is_large
            && flow.transport == Transport::Udp
            && hop_uri.transport().is_none()
            && !over_flow
            && let Some(listener) =
                listener_for(&stack.cfg, Transport::Tcp, flow.peer.ip(), Some(flow.listener))
        {
            goes_for_size = true;
            flow = Flow {
                transport: Transport::Tcp,
                listener,
                ..flow
            };
        }
        let request_uri = if target.is_next_hop { set_uri } else { target.uri };
        let (request_uri, strict_target) = match is_strict {
            true => (hop_uri.raw, Some(request_uri)),
            false => (request_uri, None),
        };
        Ok(Next::Hop(Hop {
            flow,
            goes_for_size,
            is_alone: over_flow,
            request_uri,
            strict_target,
        }))
    }

    /// What is written first is what further branches, and answers of our own, are made from.
    fn keep_template(&mut self, id: ContextId, buf: BufId, block_len: usize, out: &mut Effects) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        if context.template.is_some() {
            return;
        }
        context.template = Some(out.pool.retain(buf));
        context.block_len = block_len as u16;
        if let Some(asked) = context.asked.take() {
            out.pool.release(asked);
        }
    }

    /// Sends what went over TCP for its size alone over UDP after all: RFC 3261 §18.1.1. `false`: there is no such message.
    pub(super) fn send_over_udp(
        &mut self,
        stack: &mut Stack,
        id: BranchId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(branch) = self.branches.get_mut(id) else {
            return false;
        };
        let (context_id, breadth) = (branch.context, branch.breadth);
        let (destination, device) = (branch.destination, branch.device);
        let (Some((kept, block_len)), flow) = (branch.for_udp.take(), branch.flow) else {
            return false;
        };
        // Where else it can go goes with it.
        let place = branch.place.take();
        let sent = listener_for(&stack.cfg, Transport::Udp, flow.peer.ip(), Some(flow.listener)).and_then(
            |listener| {
                let flow = Flow {
                    transport: Transport::Udp,
                    listener,
                    conn: None,
                    peer: flow.peer,
                };
                let to = Place {
                    flow,
                    destination,
                    device,
                };
                self.resend(stack, context_id, (kept, block_len), to, breadth, now, out)
            },
        );
        out.pool.release(kept);
        let heir = sent.and_then(|tx| match stack.user_of(tx) {
            Some(User::ProxyBranch { slot, generation }) => Some(BranchId::new(slot, generation)),
            Some(_) | None => None,
        });
        if let Some(branch) = self.branches.get_mut(heir.unwrap_or(id)) {
            branch.place = place;
        }
        if sent.is_some() {
            self.remove_branch(stack, id, out);
        }
        sent.is_some()
    }

    /// The message in `kept` on a branch of its own over another flow.
    #[allow(clippy::too_many_arguments)]
    fn resend(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        (kept, block_len): (BufId, u16),
        to: Place,
        breadth: u8,
        now: Instant,
        out: &mut Effects,
    ) -> Option<TxId> {
        let method = self.contexts.get(id)?.method;
        let len = out.pool.get(kept).len();
        let mut draft = out.pool.draft(len + BLOCK_BYTES)?;
        let Some(tx) = self.open_branch(stack, id, to, breadth, out) else {
            out.pool.discard(draft);
            return None;
        };
        let mut block = [0; BLOCK_BYTES];
        let mut block_w = Writer::new(&mut block);
        self.put_block(stack, id, tx, (to.flow, false), breadth, &mut block_w);
        let new_block_len = block_w.finish();
        let bytes = out.pool.get(kept);
        let start = memchr::memchr(b'\n', bytes).map_or(0, |at| at + 1);
        let mut w = Writer::new(&mut draft.bytes);
        w.put(&bytes[..start]);
        put_block_lines(&block[..new_block_len.unwrap_or(0)], &mut w);
        let rest = put_marked(
            bytes,
            out.pool.marks(kept),
            start + usize::from(block_len),
            &mut w,
        );
        match w.written().filter(|_| new_block_len.is_some() && rest.is_some()) {
            Some(written) => {
                let buf = out.pool.commit(draft, in_place(written));
                stack.count_request(method, to.flow.transport);
                stack.send_request(tx, buf, now, out);
                Some(tx)
            }
            None => {
                out.pool.discard(draft);
                self.close_branch(stack, tx, out);
                None
            }
        }
    }

    fn open_branch(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        to: Place,
        breadth: u8,
        out: &mut Effects,
    ) -> Option<TxId> {
        let method = self.contexts.get(id)?.method;
        let tx = stack.open_client(User::None, method, to.flow)?;
        let branch = Branch {
            context: id,
            tx: Some(tx),
            phase: BranchPhase::Sent,
            is_cancelled: false,
            breadth,
            destination: to.destination,
            is_given_up: false,
            flow: to.flow,
            device: to.device,
            for_udp: None,
            place: None,
            next: None,
        };
        if self.add_branch(stack, branch).is_none() {
            stack.abandon(tx, out);
            return None;
        }
        Some(tx)
    }

    /// Takes back [`Proxy::open_branch`]: nothing was sent.
    fn close_branch(&mut self, stack: &mut Stack, tx: TxId, out: &mut Effects) {
        if let Some(User::ProxyBranch { slot, generation }) = stack.user_of(tx) {
            self.remove_branch(stack, BranchId::new(slot, generation), out);
        }
        stack.abandon(tx, out);
    }
}

/// §16.6 step 6: the route that is left, if any.
pub fn next_route<'m>(request: &Request<'m>, arrived: &Arrived<'m>) -> Option<&'m [u8]> {
    let mut routes = request.msg.elements(Name::Route).skip(arrived.popped);
    let first = routes.next()?;
    // The last one has become the request URI.
    if arrived.repaired.is_some() && routes.next().is_none() {
        return None;
    }
    NameAddr::uri_of(first)
}

/// What it means for a branch that its place can't be reached.
pub fn unreachable(error: RouteError) -> Refused {
    match error {
        RouteError::Scheme => Refused::with(416, "Unsupported URI Scheme"),
        RouteError::HostName => Refused::with(502, "Host Name Not Resolved"),
        RouteError::Transport => Refused::with(502, "Transport Not Supported"),
        RouteError::NoListener => Refused::with(502, "No Listener Of That Kind"),
        RouteError::Ourselves => Refused::with(482, "Loop Detected"),
        RouteError::NotOneHost => Refused::with(502, "Not One Host"),
    }
}
