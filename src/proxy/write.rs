//! What a request is made of when it is sent on: the lines that differ by branch, and what else changes (RFC 3261 §16.6).

use std::net::SocketAddr;

use crate::msg::Span;
use crate::msg::build::{self, Writer};
use crate::msg::edit::Edits;
use crate::msg::lex::Elements;
use crate::msg::message::VERSION;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::request::Request;
use crate::msg::scan::{LINES_MAX, Message, scan};
use crate::pool::{Marks, Written};
use crate::routing::rewrite;
use crate::token::{BRANCH_LEN, DIGEST_LEN, TOKEN_LEN, Token, TokenKind, digest_text};
use crate::transaction::{Stack, TxId, User};
use crate::trunk::{DestinationId, overload};
use crate::wire::{Effects, Flow, Transport};

use super::context::Context;
use super::flow_token::{FLOW_TOKEN_LEN, FlowToken};
use super::validate::{Arrived, ROUTE_PARAM};
use super::{BranchId, ContextId, Proxy};

/// The lines that differ by branch: a Via, two Record-Route or a Path, and Max-Breadth, with the longest host name in each.
pub(super) const BLOCK_BYTES: usize =
    3 * (256 + BRANCH_LEN + DIGEST_LEN + TOKEN_LEN + 64) + 2 * FLOW_TOKEN_LEN + 32;
/// What the lines of a branch come to, about.
pub(super) const BLOCK_ESTIMATE: usize = 200;
/// What a forwarded request gains beside that: `received` and `rport`, Max-Forwards, Content-Length.
pub(super) const FORWARD_SLACK: usize = 256;
/// Header lines that a request may gain, beside those of its rule.
const LINES_ADDED_MAX: usize = 8;
/// RFC 3261 §16.6 step 3, where a request has none.
const MAX_FORWARDS: u64 = 70;
/// A Via element that can be completed.
const VIA_BYTES_MAX: usize = 2_048;
/// How a Via line of ours begins; white space may stand behind it.
const VIA_NAME: &[u8] = b"Via: ";

impl Proxy {
    /// The lines that differ by branch. `is_alone`: the flow is the only way to whom it leads to.
    pub(super) fn put_block(
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
        put_via(stack, flow, token, &[context.digest], params, w);
        // RFC 5393 §5.3.3: every request that is forwarded has one.
        w.put(b"Max-Breadth: ").num(u64::from(breadth)).crlf();
        // RFC 5626 §5.3.1: whom a flow token leads to is reached within the dialog by it alone.
        if context.begins_dialog && (context.policy.record_route || context.is_by_token) {
            let incoming = stack.flow_of(context.server).unwrap_or(flow);
            let token = |flow| FlowToken::of(flow, &stack.key);
            let caller = context.caller_flow.map(token);
            let callee = Some(flow).filter(|_| is_alone).map(token);
            let kind = context.policy.record_route_kind();
            put_record_routes(
                stack,
                (kind, context.dialog),
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
    pub(super) fn template_route<'t>(
        &mut self,
        id: ContextId,
        text: &'t mut [u8],
        out: &Effects,
    ) -> Option<&'t [u8]> {
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
    pub(super) fn write_from_template(
        &mut self,
        id: ContextId,
        request_uri: &[u8],
        block: &[u8],
        path: &[u8],
        dst: &mut [u8],
        out: &Effects,
    ) -> Option<Written> {
        let context = self.contexts.get(id)?;
        let template = context.template?;
        let bytes = out.pool.get(template);
        // `METHOD uri SIP/2.0`, as we wrote it.
        let uri_start = memchr::memchr(b' ', bytes)? + 1;
        let uri_end = uri_start + memchr::memchr(b' ', &bytes[uri_start..])?;
        let block_start = memchr::memchr(b'\n', bytes)? + 1;
        let mut w = Writer::new(dst);
        w.put(&bytes[..uri_start])
            .put(request_uri)
            .put(&bytes[uri_end..block_start]);
        put_block_lines(block, &mut w);
        put_path_line(path, &mut w);
        let rest = block_start + usize::from(context.block_len);
        put_marked(bytes, out.pool.marks(template), rest, &mut w)?;
        w.written().map(in_place)
    }
}

/// The lines that differ by branch begin with our Via: its name, behind which white space may stand, and the rest.
fn via_name(block: &[u8]) -> (&[u8], &[u8]) {
    block.split_at(VIA_NAME.len().min(block.len()))
}

pub(super) fn put_block_lines(block: &[u8], w: &mut Writer<'_>) {
    let (name, rest) = via_name(block);
    w.put(name).padding().put(rest);
}

/// As all that the proxy forwards.
pub(super) fn in_place(mut written: Written) -> Written {
    written.marks.keep_place();
    written
}

/// What stands from `at` on in a message that was sent, which names its call as that does.
pub(super) fn put_marked(bytes: &[u8], marks: Marks, at: usize, w: &mut Writer<'_>) -> Option<()> {
    let rest = bytes.get(at..)?;
    let call = marks.call(bytes);
    let place = (!call.is_empty()).then(|| call.as_ptr() as usize - bytes.as_ptr() as usize);
    let before = place.and_then(|place| place.checked_sub(at));
    match before.and_then(|before| rest.split_at_checked(before)) {
        Some((before, behind)) => _ = w.put(before).call_id(call).put(behind.get(call.len()..)?),
        None => _ = w.put(rest),
    }
    Some(())
}

/// The line that leads a request by the path of its contact. It belongs to what differs by branch, and stands behind the lines
/// that differ by transport too.
fn put_path_line(path: &[u8], w: &mut Writer<'_>) {
    if !path.is_empty() {
        w.header(Name::Route, path);
    }
}

pub(super) const fn path_line_len(path: &[u8]) -> usize {
    if path.is_empty() {
        0
    } else {
        b"Route: \r\n".len() + path.len()
    }
}

/// The destination that the branch of `tx` goes to.
fn destination_of(proxy: &Proxy, stack: &Stack, tx: TxId) -> Option<DestinationId> {
    match stack.user_of(tx)? {
        User::ProxyBranch { slot, generation } => {
            let branch = proxy.branches.get(BranchId::new(slot, generation))?;
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

/// A Via line of ours, with `digests` at the end of its branch and `params` behind it: §16.6 step 8.
pub fn put_via(stack: &Stack, flow: Flow, token: Token, digests: &[u64], params: &[u8], w: &mut Writer<'_>) {
    w.put(VIA_NAME);
    stack.put_via_value(flow, token, w);
    w.put(b".");
    for digest in digests {
        w.put(&digest_text(*digest));
    }
    w.put(params).crlf();
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
    (kind, dialog): (TokenKind, u64),
    incoming: (Flow, Option<&FlowToken>),
    outgoing: (Flow, Option<&FlowToken>),
    w: &mut Writer<'_>,
) {
    let token = Token {
        kind,
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
    if let Some(version) = msg.unusual_version() {
        edits.replace(version).put(VERSION);
    }
    let (name, rest) = via_name(block);
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
            let Some(len) = w.finish() else {
                return false;
            };
            edits.replace(msg.span_of(request.via.raw)).put(&text[..len]);
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
