//! How a request is sent on: RFC 3261 §16.6.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::route::Fork;
use crate::metrics::DropReason;
use crate::msg::Span;
use crate::msg::build::{self, Writer};
use crate::msg::edit::Edits;
use crate::msg::lex::Elements;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::request::Request;
use crate::msg::scan::{LINES_MAX, Message, scan};
use crate::msg::uri::Uri;
use crate::pool::BufId;
use crate::routing::rewrite;
use crate::time::Instant;
use crate::token::{BRANCH_LEN, DIGEST_LEN, TOKEN_LEN, Token, TokenKind, digest_text};
use crate::transaction::destination::{RouteError, listener_for, path_flow};
use crate::transaction::{Stack, TxId, User};
use crate::trunk::{DestinationId, overload};
use crate::wire::{Effects, Flow, Transport};

use super::context::{Branch, BranchPhase, Context};
use super::flow_token::{FLOW_TOKEN_LEN, FlowToken};
use super::names::{Address, Way, way};
use super::targets::{Target, TargetSet};
use super::validate::{Arrived, ROUTE_PARAM, Refused};
use super::{ContextId, Proxy};

/// RFC 3261 §18.1.1: a request above this goes over a transport that controls congestion, where the path MTU is not known.
const UDP_BYTES_MAX: usize = 1_300;
/// The lines that differ by branch: a Via, two Record-Route or a Path, and Max-Breadth, with the longest host name in each.
const BLOCK_BYTES: usize = 3 * (256 + BRANCH_LEN + DIGEST_LEN + TOKEN_LEN + 64) + 2 * FLOW_TOKEN_LEN + 32;
/// What a forwarded request gains beside that: `received` and `rport`, Max-Forwards, Content-Length.
const FORWARD_SLACK: usize = 256;
/// Header lines that a request may gain, beside those of its rule.
const LINES_ADDED_MAX: usize = 8;
/// RFC 3261 §16.6 step 3, where a request has none.
const MAX_FORWARDS: u64 = 70;
/// A Via element that can be completed.
const VIA_BYTES_MAX: usize = 2_048;

/// How a Via line of ours begins; white space may stand behind it.
const VIA_NAME: &[u8] = b"Via: ";

/// Where a branch goes.
#[derive(Clone, Copy)]
struct Place {
    flow: Flow,
    /// Of a trunk.
    destination: Option<DestinationId>,
    /// Of a subscriber.
    device: u8,
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
            silence_max = self.answer_timeout(stack, &first);
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
            let mut has_sent = false;
            for (i, target) in targets.iter().take(count).enumerate() {
                // The breadth there is, in equal parts.
                let share = (breadth / count + usize::from(i < breadth % count)) as u8;
                let request_uri = targets.request_uri();
                let from = Address::From(0);
                match self.send_branch(stack, id, source, &target, request_uri, from, share, now, out) {
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
                let from = Address::From(0);
                self.send_branch(
                    stack,
                    id,
                    &Source::Template,
                    &target,
                    b"",
                    from,
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
        address: Address<'_>,
        breadth: u8,
        now: Instant,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        let Some(context) = self.contexts.get(id) else {
            return Err(Refused::with(503, "Context Gone"));
        };
        let (method, policy, seed) = (context.method, context.policy, context.dialog);
        let request_uri = if target.is_next_hop { set_uri } else { target.uri };
        let received_len = match (source, context.template) {
            (Source::Received { request, .. }, _) => request.msg.len(),
            (Source::Template, Some(template)) => out.pool.get(template).len(),
            (Source::Template, None) => return Err(Refused::with(503, "Request Gone")),
        };
        let mut hop_text = [0; 1_024];
        let hop = match source {
            // RFC 3327 §5.4: the path comes before whatever route the request has.
            _ if !target.path.is_empty() => Elements::new(target.path).next().and_then(NameAddr::uri_of),
            Source::Received { request, arrived } => next_route(request, arrived),
            Source::Template => self.template_route(id, &mut hop_text, out),
        };
        // §16.6 step 7: a route decides; else what says where to send; else the request URI.
        let hop_uri = Uri::parse(hop.unwrap_or(target.uri)).map_err(|_| Refused::with(400, "Bad Route"))?;
        let is_strict = hop.is_some() && hop_uri.param(b"lr").is_none();
        if is_strict && matches!(source, Source::Template) {
            return Err(Refused::with(502, "Strict Route Can Not Be Forked"));
        }
        let over_flow = target.is_flow && hop.is_none();
        let found = match target.path {
            b"" if over_flow => Way::There {
                flow: target.prefer,
                next: None,
            },
            b"" => way(stack, &hop_uri, target.prefer, address, seed, now)?,
            path => Way::There {
                flow: path_flow(&stack.cfg, path, target.prefer).map_err(unreachable)?,
                next: None,
            },
        };
        let (mut flow, next_address) = match found {
            Way::There { flow, next } => (flow, next),
            Way::Unknown { wanted, next } => {
                let wanted = (wanted, next);
                return self.wait_for_name(stack, id, source, target, set_uri, wanted, breadth, now, out);
            }
        };
        let names_udp = hop_uri.transport().is_some();
        // §18.1.1: a large request takes TCP.
        let is_large = received_len + BLOCK_ESTIMATE > UDP_BYTES_MAX;
        let mut goes_for_size = false;
        if policy.tcp_when_large
            && is_large
            && flow.transport == Transport::Udp
            && !names_udp
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
        let added = policy
            .rule(stack)
            .map_or(0, |rule| rewrite::bytes_added(&rule.rewrite));
        let len =
            received_len + BLOCK_BYTES + FORWARD_SLACK + added + target.path.len() + 2 * request_uri.len();
        let strict_target = if is_strict { Some(request_uri) } else { None };
        let request_uri = if is_strict { hop_uri.raw } else { request_uri };
        let to = Place {
            flow,
            destination: target.destination,
            device: target.device,
        };
        if let Some(destination) = target.destination {
            self.enter(stack, id, destination, now)?;
        }
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
        self.put_block(stack, id, tx, (flow, over_flow), breadth, &mut w);
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
                    request_uri,
                    strict_target,
                    policy.rule(stack).map(|rule| &rule.rewrite),
                    block,
                    target.path,
                );
                fits.then(|| self.edits.apply_message(request.msg, &mut draft.bytes).ok())
                    .flatten()
            }
            Source::Template => {
                self.write_from_template(id, request_uri, block, target.path, &mut draft.bytes, out)
            }
        };
        let Some(len) = written.filter(|_| block_len.is_some()) else {
            out.pool.discard(draft);
            self.close_branch(stack, tx, out);
            stack.metrics.dropped(DropReason::TooLarge);
            return Err(Refused::with(513, "Message Too Large"));
        };
        let buf = out.pool.commit(draft, len);
        let place = next_address.and_then(|next| self.keep_place(target, set_uri, next, out));
        if let Some(User::ProxyBranch { slot, generation }) = stack.user_of(tx)
            && let Some(branch) = self.branches.get_mut(super::BranchId::new(slot, generation))
        {
            branch.for_udp = goes_for_size.then(|| (out.pool.retain(buf), block.len() as u16));
            branch.place = place;
        }
        if let Some(context) = self.contexts.get_mut(id)
            && context.template.is_none()
        {
            context.template = Some(out.pool.retain(buf));
            context.block_len = (block.len() + path_line_len(target.path)) as u16;
            if let Some(asked) = context.asked.take() {
                out.pool.release(asked);
            }
        }
        stack.count_request(method, flow.transport);
        stack.send_request(tx, buf, now, out);
        self.note_rung(id, flow);
        Ok(())
    }

    /// Sends what went over TCP for its size alone over UDP after all: RFC 3261 §18.1.1. `false`: there is no such message.
    pub(super) fn send_over_udp(
        &mut self,
        stack: &mut Stack,
        id: super::BranchId,
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
    ) -> Option<()> {
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
        let bytes = out.pool.get(kept);
        let start = memchr::memchr(b'\n', bytes).map_or(0, |at| at + 1);
        let mut w = Writer::new(&mut draft.bytes);
        w.put(&bytes[..start]).put(block_w.as_bytes());
        w.put(bytes.get(start + usize::from(block_len)..).unwrap_or_default());
        match w.finish().filter(|_| block_w.finish().is_some()) {
            Some(len) => {
                let buf = out.pool.commit(draft, len);
                stack.count_request(method, to.flow.transport);
                stack.send_request(tx, buf, now, out);
                Some(())
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
            self.remove_branch(stack, super::BranchId::new(slot, generation), out);
        }
        stack.abandon(tx, out);
    }

    /// The lines that differ by branch. `is_alone`: the flow is the only way to whom it leads to.
    fn put_block(
        &self,
        stack: &Stack,
        id: ContextId,
        tx: TxId,
        (flow, is_alone): (Flow, bool),
        breadth: u8,
        w: &mut Writer<'_>,
    ) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        let token = Token {
            kind: TokenKind::Transaction,
            shard: stack.shard,
            slot: tx.slot,
            generation: tx.generation,
        };
        let offers = destination_of(self, stack, tx)
            .is_some_and(|destination| stack.trunks.offers_overload_control(&stack.cfg, destination));
        let params = if offers { overload::OFFER } else { b"" };
        put_via(stack, flow, token, context.digest, params, w);
        // RFC 5393 §5.3.3: every request that is forwarded has one.
        w.put(b"Max-Breadth: ").num(u64::from(breadth)).crlf();
        // RFC 5626 §5.3.1: whom a flow token leads to is reached within the dialog by it alone.
        if context.begins_dialog && (context.policy.record_route || context.is_by_token) {
            let incoming = stack.flow_of(context.server).unwrap_or(flow);
            let token = |flow| FlowToken::of(flow, &stack.key);
            let caller = context.caller_flow.map(token);
            let callee = Some(flow).filter(|_| is_alone).map(token);
            put_record_routes(
                stack,
                context.dialog,
                (incoming, caller.as_ref()),
                (flow, callee.as_ref()),
                w,
            );
        }
        if context.method == Method::Register && context.policy.add_path {
            put_path(stack, context, flow, w);
        }
    }

    /// The first Route URI of what was forwarded first, apart from the path of the contact that it went to.
    fn template_route<'t>(&mut self, id: ContextId, text: &'t mut [u8], out: &Effects) -> Option<&'t [u8]> {
        let context = self.contexts.get(id)?;
        let (template, block_len) = (context.template?, u32::from(context.block_len));
        let mut table = self.table.take().expect("whoever takes the table puts it back");
        let bytes = out.pool.get(template);
        let uri = scan(bytes, &mut table).ok().and_then(|()| {
            let msg = Message::new(bytes, &table);
            let block_end = msg.first_line_start() + block_len;
            let line = msg.lines_of(Name::Route).find(|line| line.start >= block_end)?;
            Elements::new(msg.value_of(line))
                .next()
                .and_then(NameAddr::uri_of)
        });
        let len = uri.and_then(|uri| {
            text.get_mut(..uri.len())?.copy_from_slice(uri);
            Some(uri.len())
        });
        self.table = Some(table);
        len.map(|len| &text[..len])
    }

    /// What was forwarded first, with another request URI and other lines of a branch.
    fn write_from_template(
        &mut self,
        id: ContextId,
        request_uri: &[u8],
        block: &[u8],
        path: &[u8],
        dst: &mut [u8],
        out: &Effects,
    ) -> Option<usize> {
        let context = self.contexts.get(id)?;
        let bytes = out.pool.get(context.template?);
        // `METHOD uri SIP/2.0`, as we wrote it.
        let uri_start = memchr::memchr(b' ', bytes)? + 1;
        let uri_end = uri_start + memchr::memchr(b' ', &bytes[uri_start..])?;
        let block_start = memchr::memchr(b'\n', bytes)? + 1;
        let mut w = Writer::new(dst);
        w.put(&bytes[..uri_start])
            .put(request_uri)
            .put(&bytes[uri_end..block_start])
            .put(block);
        put_path_line(path, &mut w);
        w.put(bytes.get(block_start + usize::from(context.block_len)..)?);
        w.finish()
    }
}

/// The line that leads a request by the path of its contact. It belongs to what differs by branch, and stands behind the lines
/// that differ by transport too.
fn put_path_line(path: &[u8], w: &mut Writer<'_>) {
    if !path.is_empty() {
        w.header(Name::Route, path);
    }
}

const fn path_line_len(path: &[u8]) -> usize {
    if path.is_empty() {
        0
    } else {
        b"Route: \r\n".len() + path.len()
    }
}

/// What the lines of a branch come to, about.
const BLOCK_ESTIMATE: usize = 200;

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

/// The destination that the branch of `tx` goes to.
fn destination_of(proxy: &Proxy, stack: &Stack, tx: TxId) -> Option<DestinationId> {
    match stack.user_of(tx)? {
        User::ProxyBranch { slot, generation } => {
            let branch = proxy.branches.get(super::BranchId::new(slot, generation))?;
            branch.destination
        }
        User::None
        | User::Branch { .. }
        | User::Exchange { .. }
        | User::ProxyContext { .. }
        | User::Ping { .. }
        | User::Subscription { .. } => None,
    }
}

/// A Via line of ours, with `params` behind its branch: §16.6 step 8.
pub fn put_via(stack: &Stack, flow: Flow, token: Token, digest: u64, params: &[u8], w: &mut Writer<'_>) {
    w.put(VIA_NAME)
        .put(b"SIP/2.0/")
        .put(flow.transport.name().as_bytes())
        .put(b" ")
        .put(stack.advertised(flow).as_bytes())
        .put(b";branch=")
        .put(&stack.key.branch(token))
        .put(b".")
        .put(&digest_text(digest))
        .put(params)
        .crlf();
}

/// RFC 3327 §5.2: the way to us for requests to whom is registered, with the flow that leads on from here (RFC 5626 §5.1).
fn put_path(stack: &Stack, context: &Context, outgoing: Flow, w: &mut Writer<'_>) {
    w.put(b"Path: <sip:");
    if let Some(flow) = context.caller_flow {
        w.put(FlowToken::of(flow, &stack.key).as_bytes()).put(b"@");
    }
    put_own_address(stack, outgoing, w);
    w.put(b";lr");
    if context.registers_flow {
        w.put(b";ob");
    }
    w.put(b">\r\n");
}

/// What leads to us on the side of `flow`.
fn put_own_address(stack: &Stack, flow: Flow, w: &mut Writer<'_>) {
    w.put(stack.advertised(flow).as_bytes());
    match flow.transport {
        Transport::Udp => {}
        Transport::Tcp => _ = w.put(b";transport=tcp"),
    }
}

/// §16.6 step 4: our Record-Route; two of them where the request leaves by another transport, address family or address than
/// it came by, so that each side finds its own (RFC 5658), or where each side has a flow of its own.
pub fn put_record_routes(
    stack: &Stack,
    dialog: u64,
    incoming: (Flow, Option<&FlowToken>),
    outgoing: (Flow, Option<&FlowToken>),
    w: &mut Writer<'_>,
) {
    let token = Token {
        kind: TokenKind::RecordRoute,
        shard: stack.shard,
        slot: (dialog >> 32) as u32,
        generation: dialog as u32,
    };
    let text = stack.key.text(token);
    let mut put = |(flow, token): (Flow, Option<&FlowToken>)| {
        w.put(b"Record-Route: <sip:");
        if let Some(token) = token {
            w.put(token.as_bytes()).put(b"@");
        }
        put_own_address(stack, flow, w);
        w.put(b";lr;").put(ROUTE_PARAM).put(b"=").put(&text).put(b">\r\n");
    };
    put(outgoing);
    if outgoing.0.listener != incoming.0.listener || incoming.1.is_some() {
        put(incoming);
    }
}

/// Notes down what changes in a request between its arrival and its forwarding. `false`: there is no room for it.
#[must_use]
#[allow(clippy::too_many_arguments)]
pub fn edit_received(
    edits: &mut Edits,
    request: &Request<'_>,
    arrived: &Arrived<'_>,
    came_from: Option<SocketAddr>,
    request_uri: &[u8],
    strict_target: Option<&[u8]>,
    change: Option<&crate::config::route::Rewrite>,
    block: &[u8],
    path: &[u8],
) -> bool {
    edits.clear();
    let msg = request.msg;
    let of_rule = change.map_or(0, rewrite::lines_added);
    // The ACK and the CANCEL of an INVITE, and further branches, are made from what is sent, so that must be readable too.
    if msg.lines().len() + LINES_ADDED_MAX + of_rule > LINES_MAX {
        return false;
    }
    if request_uri != request.uri {
        edits.replace(msg.span_of(request.uri)).put(request_uri);
    }
    let (name, rest) = block.split_at(VIA_NAME.len().min(block.len()));
    let mut front = edits.insert(msg.first_line_start());
    front.put(name).padding().put(rest);
    if !path.is_empty() {
        front.put(b"Route: ").put(path).put(b"\r\n");
    }
    if let Some(peer) = came_from {
        // §18.2.1, RFC 3581 §4: where the request came from, for its answers.
        if build::needs_completion(&request.via, peer) {
            let mut text = [0; VIA_BYTES_MAX];
            let mut w = Writer::new(&mut text);
            build::put_top_via(&mut w, &request.via, peer);
            if w.finish().is_none() {
                return false;
            }
            edits.replace(msg.span_of(request.via.raw)).put(w.as_bytes());
        }
    }
    let mut has_length = false;
    for line in msg.lines() {
        match line.name {
            // §16.6 step 3.
            Name::MaxForwards => {
                let left = u64::from(request.max_forwards.unwrap_or(1).saturating_sub(1));
                edits.replace(line.value).num(left);
            }
            Name::MaxBreadth => edits.delete(Span::new(line.start, line.end)),
            Name::CallId => _ = edits.replace(line.value).call_id(msg.value_of(line)),
            Name::ContentLength => has_length = true,
            _ => {}
        }
    }
    let last_popped = usize::from(arrived.repaired.is_some());
    let first_popped = arrived.popped + usize::from(strict_target.is_some());
    if first_popped + last_popped > 0 {
        edit_routes(edits, msg, first_popped, last_popped);
    }
    if let Some(change) = change {
        rewrite::edit_headers(change, msg, edits);
    }
    if request.max_forwards.is_none() || !has_length || strict_target.is_some() {
        let mut end = edits.insert(msg.lines_end());
        if request.max_forwards.is_none() {
            end.put(b"Max-Forwards: ").num(MAX_FORWARDS).put(b"\r\n");
        }
        if let Some(target) = strict_target {
            // §16.6 step 6: a strict router takes the request URI, which goes to the end of the route.
            end.put(b"Route: <").put(target).put(b">\r\n");
        }
        if !has_length {
            end.put(b"Content-Length: ")
                .num(msg.body().len() as u64)
                .put(b"\r\n");
        }
    }
    true
}

/// Leaves the first and last elements of the Route header fields out.
fn edit_routes(edits: &mut Edits, msg: Message<'_>, first: usize, last: usize) {
    let total = msg.elements(Name::Route).count();
    let kept = first..total.saturating_sub(last);
    let mut index = 0;
    for line in msg.lines_of(Name::Route) {
        let value = msg.value_of(line);
        let count = Elements::new(value).count();
        let here = index..index + count;
        index += count;
        let from = kept.start.max(here.start);
        let to = kept.end.min(here.end);
        if from >= to {
            edits.delete(Span::new(line.start, line.end));
            continue;
        }
        let mut elements = Elements::new(value).skip(from - here.start);
        let first_kept = elements.next();
        let last_kept = elements.take(to - from - 1).last().or(first_kept);
        if let (Some(first_kept), Some(last_kept)) = (first_kept, last_kept) {
            edits.delete(Span::new(line.value.start, msg.span_of(first_kept).start));
            edits.delete(Span::new(msg.span_of(last_kept).end, line.value.end));
        }
    }
}
