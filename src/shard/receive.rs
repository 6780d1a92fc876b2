//! From bytes to the service: framing, scanning, the checks that need no state, and the way to the shard that owns a message.

use crate::ims::owner_aor;
use crate::metrics::{DropReason, MessageKind};
use crate::msg::build::{self, Writer};
use crate::msg::error::ParseError;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::{Request, Response, Salvage};
use crate::msg::scan::{Message, Start, scan, with_line_ends};
use crate::msg::status::reason_phrase;
use crate::msg::stream::{Frame, FrameLimits, frame, frame_after, is_idle};
use crate::pool::Draft;
use crate::proxy::BranchId;
use crate::stun;
use crate::time::Instant;
use crate::timer::{Timer, TimerKind};
use crate::token::TokenKind;
use crate::transaction::{User, request_kind};
use crate::wire::{CloseReason, ConnId, Effect, Effects, Flow, ShardId, Transport};

use super::Shard;
use super::mailbox::Letter;
use super::streams::{Stream, StreamId};

/// How a message came to be whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framed {
    Datagram,
    Stream,
    /// Another shard sent it here: it is ours.
    Mail,
}

/// A refused message is read to its end and thrown away if its body is no longer; else its connection is closed.
const SKIP_BYTES_MAX: usize = 1 << 20;

/// RFC 5626 §3.5.1: the answer to a double CRLF.
const PONG: &[u8] = b"\r\n";

impl Shard {
    /// One whole message.
    pub(super) fn on_message(
        &mut self,
        bytes: &[u8],
        flow: Flow,
        framed: Framed,
        now: Instant,
        out: &mut Effects,
    ) {
        // RFC 5626 §3.5.1 is for streams; over UDP phones send CRLF or a lone NUL to keep a NAT open, and want no answer.
        if framed == Framed::Datagram && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0 | b' ')) {
            self.stack.metrics.keepalives.inc();
            return;
        }
        // RFC 5626 §8: no SIP message begins with an octet of 0 or 1, and every STUN message of Binding does.
        if framed == Framed::Datagram
            && bytes.first().is_some_and(|first| *first < 2)
            && self.on_stun(bytes, flow, out)
        {
            return;
        }
        let Some(mut table) = self.table.take() else {
            return;
        };
        let scanned = scan(bytes, &mut table);
        let msg = Message { bytes, table: &table };
        if scanned.is_ok() && msg.has_bare_lf() {
            let whole = with_crlf(msg, out);
            self.table = Some(table);
            match whole {
                Some((draft, len)) => {
                    self.on_message(&draft.bytes[..len], flow, framed, now, out);
                    out.pool.discard(draft);
                }
                None => self.stack.metrics.dropped(DropReason::NoBuffer),
            }
            return;
        }
        match (scanned, msg.start()) {
            (Ok(()), Start::Request { method, uri, .. }) => {
                if framed == Framed::Mail || self.admits(msg, (method, uri), flow, now, out) {
                    // Borrowed where it is made: it is half a kilobyte, not to be moved.
                    match &Request::check(msg) {
                        Ok(request) => self.on_request(request, flow, framed, now, out),
                        Err(error) => self.refuse(msg, *error, flow, out),
                    }
                }
            }
            (Ok(()), Start::Response { .. }) => match &Response::check(msg) {
                Ok(response) => self.on_response(response, flow, framed, now, out),
                Err(_) => self.stack.metrics.dropped(DropReason::BadResponse),
            },
            (Err(error), Start::Request { .. }) => self.refuse(msg, error, flow, out),
            (Err(_), Start::Response { .. }) => self.stack.metrics.dropped(DropReason::BadResponse),
            // RFC 4475 §3.1.2.7 to §3.1.2.9: whose first line alone is wrong has a right to hear so. A response has no Via and
            // CSeq to be answered by.
            (Err(error), Start::Unreadable) if Salvage::of(msg).is_some() => {
                self.refuse(msg, error, flow, out);
            }
            (_, Start::Unreadable) => self.stack.metrics.dropped(DropReason::Garbage),
        }
        self.table = Some(table);
    }

    fn on_request(
        &mut self,
        request: &Request<'_>,
        flow: Flow,
        framed: Framed,
        now: Instant,
        out: &mut Effects,
    ) {
        let owner = self.request_owner(request);
        if framed != Framed::Mail && owner != self.stack.shard {
            let letter = Letter::Message {
                flow,
                received_at: out.received_at,
                posted_at: now,
            };
            if !self.post(owner, letter, &request.msg.bytes[..request.msg.len()])
                && request.method != Method::Ack
            {
                self.refuse_full(request, flow, out);
            }
            return;
        }
        let kind = request_kind(request.method);
        self.stack.metrics.received.count(flow.transport, kind);
        self.handled.push((kind, out.received_at));
        tracing::debug!(
            call_id = %request.call_id.escape_ascii(),
            method = %request.method_text.escape_ascii(),
            cseq = request.cseq.number,
            peer = %flow.peer,
            transport = flow.transport.name(),
            "request"
        );
        if self.stack.tap.is_some() {
            self.tap_received(&request.msg, request.call_id, flow, out);
        }
        let limits = &self.stack.cfg.limits;
        let (is_long, is_fat) = (
            request.msg.bytes.len() > limits.message_bytes_max,
            request.msg.body().len() > limits.body_bytes_max,
        );
        if (is_long || is_fat) && request.method != Method::Ack {
            let status = if is_fat { 413 } else { 513 };
            self.stack
                .respond_stateless(request, flow, (status, reason_phrase(status)), |_| {}, out);
            return;
        }
        self.dispatch(request, flow, now, out);
    }

    fn on_response(
        &mut self,
        response: &Response<'_>,
        flow: Flow,
        framed: Framed,
        now: Instant,
        out: &mut Effects,
    ) {
        // RFC 3261 §18.1.2: the top Via must be ours; the token in its branch says whose it is.
        let token = response
            .via
            .branch
            .and_then(|branch| self.stack.key.parse_branch(branch));
        let is_relayed = match token.map(|token| token.kind) {
            Some(TokenKind::Transaction) => false,
            Some(TokenKind::RelayTcp | TokenKind::RelayUdp) => true,
            Some(
                TokenKind::Leg
                | TokenKind::Subscription
                | TokenKind::Stateless
                | TokenKind::RecordRoute
                | TokenKind::RecordRouteTcp,
            )
            | None => {
                self.stack.metrics.dropped(DropReason::StrayResponse);
                return;
            }
        };
        let Some(token) = token else { return };
        // What is forwarded without state goes back from wherever it arrives.
        if !is_relayed && framed != Framed::Mail && token.shard != self.stack.shard {
            let letter = Letter::Message {
                flow,
                received_at: out.received_at,
                posted_at: now,
            };
            self.post(token.shard, letter, &response.msg.bytes[..response.msg.len()]);
            return;
        }
        let kind = MessageKind::of_status(response.status);
        self.stack.metrics.received.count(flow.transport, kind);
        self.handled.push((kind, out.received_at));
        tracing::debug!(
            call_id = %response.call_id.escape_ascii(),
            status = response.status,
            cseq = response.cseq.number,
            method = %response.cseq.method_text.escape_ascii(),
            peer = %flow.peer,
            transport = flow.transport.name(),
            "response"
        );
        if self.stack.tap.is_some() {
            self.tap_received(&response.msg, response.call_id, flow, out);
        }
        if is_relayed {
            self.proxy.relay_response(&mut self.stack, token, response, out);
            return;
        }
        match self.stack.on_response(token, response, now, out) {
            Some((User::ProxyBranch { slot, generation }, _)) => {
                let id = BranchId::new(slot, generation);
                self.proxy.on_response(&mut self.stack, id, response, now, out);
            }
            Some(told) => self.ims.on_response(&mut self.stack, told, response, now, out),
            None => {}
        }
    }

    /// `false`: it is no STUN message.
    #[cold]
    fn on_stun(&mut self, bytes: &[u8], flow: Flow, out: &mut Effects) -> bool {
        let mut answer = [0; stun::ANSWER_BYTES_MAX];
        match stun::answer(bytes, flow.peer, &mut answer) {
            stun::Said::Other => return false,
            stun::Said::Indication => {}
            stun::Said::Answer(len) => match out.pool.put(&answer[..len]) {
                Some(buf) => out.send(flow, buf, None),
                None => self.stack.metrics.dropped(DropReason::NoBuffer),
            },
        }
        self.stack.metrics.keepalives.inc();
        true
    }

    /// The shard that a request belongs to.
    fn request_owner(&self, request: &Request<'_>) -> ShardId {
        let own = self.stack.shard;
        if self.stack.shards == 1 {
            return own;
        }
        let token = match self.stack.key.parse(request.call_id) {
            Some(token) => Some(token),
            None => request.to_tag.and_then(|tag| self.stack.key.parse(tag)),
        };
        if let Some(token) = token.filter(|token| usize::from(token.shard.0) < self.stack.shards) {
            match token.kind {
                TokenKind::Leg | TokenKind::Subscription | TokenKind::Transaction => return token.shard,
                TokenKind::Stateless
                | TokenKind::RecordRoute
                | TokenKind::RecordRouteTcp
                | TokenKind::RelayTcp
                | TokenKind::RelayUdp => {}
            }
        }
        match owner_aor(request, &self.stack.cfg) {
            Some(aor) => self.keys.aors.key(&aor).shard(self.stack.shards),
            None => self.owner_of(request.call_id),
        }
    }

    /// The mailbox of the owner is full: 503 without state.
    fn refuse_full(&mut self, request: &Request<'_>, flow: Flow, out: &mut Effects) {
        let retry_after = |w: &mut Writer<'_>| _ = w.put(b"Retry-After: 1\r\n");
        self.stack
            .respond_stateless(request, flow, (503, "Shard Busy"), retry_after, out);
    }

    /// A request that can't be read: 400 (or 505) with what and where, if enough of it can be read for an answer.
    fn refuse(&mut self, msg: Message<'_>, error: ParseError, flow: Flow, out: &mut Effects) {
        let Some(salvage) = Salvage::of(msg) else {
            self.stack.metrics.dropped(DropReason::UnanswerableRequest);
            return;
        };
        let status = error.status();
        self.respond_salvaged(&salvage, msg.bytes.len(), status, |w| error.reason(w), flow, out);
    }

    fn respond_salvaged(
        &mut self,
        salvage: &Salvage<'_>,
        len: usize,
        status: u16,
        reason: impl FnOnce(&mut Writer<'_>),
        flow: Flow,
        out: &mut Effects,
    ) {
        let tag = self
            .stack
            .repeatable_tag(self.stack.keyer.bytes(salvage.msg.bytes));
        let back = self.stack.way_back(flow.peer);
        let buf = self.stack.write(len + 1_024, out, |w, _| {
            build::response_head_salvaged(w, salvage, status, reason, Some(&tag), back);
            build::end(w);
        });
        if let Some(buf) = buf {
            self.stack.count_response(status, flow.transport);
            out.send(salvage.reply_flow(flow), buf, None);
        }
    }

    // ---- Streams ---------------------------------------------------------------------------------------------------

    pub(super) fn on_opened(&mut self, flow: Flow, now: Instant) {
        let Some(conn) = flow.conn else { return };
        let stream = Stream {
            conn,
            flow,
            partial: None,
            line_ends: 0,
            searched: 0,
            to_skip: 0,
            partial_since: now,
            last_received: now,
            timer: None,
            watchers: 0,
        };
        if let Some(id) = self.streams.insert(stream) {
            self.by_conn.insert(conn, id);
            self.schedule_stream(id);
        }
    }

    pub(super) fn on_closed(&mut self, conn: ConnId, out: &mut Effects) {
        let Some(id) = self.by_conn.remove(&conn) else {
            return;
        };
        let Some(mut stream) = self.streams.remove(id) else {
            return;
        };
        if stream.partial.is_some() {
            self.stack.metrics.dropped(DropReason::PartialMessage);
        }
        stream.forget_partial(&mut out.pool);
        if stream.watchers > 0 {
            self.ended_flows.push((conn, stream.watchers));
        }
        if let Some(timer) = stream.timer {
            self.stack.wheel.cancel(timer);
        }
    }

    pub(super) fn forget_streams(&mut self, out: &mut Effects) {
        for slot in 0..self.streams.slots() {
            if let Some(conn) = self
                .streams
                .id_at(slot)
                .and_then(|id| self.streams.get(id))
                .map(|stream| stream.conn)
            {
                self.on_closed(conn, out);
            }
        }
    }

    /// Bytes of a connection: whole messages are handled where they lie, the rest is kept.
    pub(super) fn on_stream(&mut self, flow: Flow, bytes: &[u8], now: Instant, out: &mut Effects) {
        let Some(&id) = flow.conn.and_then(|conn| self.by_conn.get(&conn)) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        stream.last_received = now;
        let mut rest = bytes;
        // What is kept is never longer than a message may be, but a chunk with the end of one may hold much more behind it.
        while let Some(partial) = self.streams.get(id).and_then(|stream| stream.partial) {
            let room = self.letter.len() - out.pool.get(partial).len();
            let (next, behind) = rest.split_at(rest.len().min(room));
            if room == 0 || !self.go_on_with_partial(id, next, now, out) || behind.is_empty() {
                return;
            }
            rest = behind;
        }
        self.frames(id, rest, now, out);
    }

    /// Bytes that follow the beginning of a message. `false`: there is nobody left to hear what comes behind them.
    fn go_on_with_partial(&mut self, id: StreamId, bytes: &[u8], now: Instant, out: &mut Effects) -> bool {
        let limits = self.frame_limits();
        let Some(stream) = self.streams.get_mut(id) else {
            return false;
        };
        if !stream.keep(bytes, now, &mut out.pool) {
            self.stack.metrics.dropped(DropReason::NoBuffer);
            self.close_stream(id, CloseReason::Limit, out);
            return false;
        }
        // Most chunks of a message in pieces do not end it: that is seen where the bytes lie.
        let Some(partial) = stream.partial else {
            return false;
        };
        if frame(out.pool.get(partial), &mut stream.searched, limits) == Frame::Incomplete {
            return true;
        }
        // What is kept moves aside while it is read; what is not used of it is kept again.
        stream.forget_partial_id();
        let mut whole = std::mem::take(&mut self.letter);
        let len = out.pool.get(partial).len();
        whole[..len].copy_from_slice(out.pool.get(partial));
        out.pool.release(partial);
        self.frames(id, &whole[..len], now, out);
        self.letter = whole;
        true
    }

    fn frame_limits(&self) -> FrameLimits {
        FrameLimits {
            message_bytes_max: self.stack.cfg.limits.message_bytes_max,
            body_bytes_max: self.stack.cfg.limits.body_bytes_max,
        }
    }

    fn frames(&mut self, id: StreamId, bytes: &[u8], now: Instant, out: &mut Effects) {
        let limits = self.frame_limits();
        let mut at = 0;
        let mut has_answered_ping = false;
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        let begun = usize::from(std::mem::take(&mut stream.line_ends));
        let mut resumed = Some(begun).filter(|begun| *begun > 0);
        while at < bytes.len() {
            let Some(stream) = self.streams.get_mut(id) else {
                return;
            };
            let flow = stream.flow;
            if stream.to_skip > 0 {
                let skipped = stream.to_skip.min(bytes.len() - at);
                stream.to_skip -= skipped;
                at += skipped;
                continue;
            }
            let rest = &bytes[at..];
            let resumed = resumed.take();
            let framed = match resumed {
                Some(begun) => frame_after(begun, rest),
                None => frame(rest, &mut stream.searched, limits),
            };
            match framed {
                Frame::Message { len } => {
                    stream.searched = 0;
                    self.stack.recorded.peers.received(flow.peer.ip());
                    self.on_message(&rest[..len], flow, Framed::Stream, now, out);
                    at += len;
                }
                Frame::Ping { len } => {
                    stream.searched = 0;
                    self.stack.metrics.keepalives.inc();
                    // Whoever pings waits for the answer (RFC 5626 §4.4.1): one is enough for all that came at once, and a
                    // chunk of nothing else takes one buffer rather than a thousand.
                    if !has_answered_ping && let Some(buf) = out.pool.put(PONG) {
                        out.send(flow, buf, None);
                    }
                    has_answered_ping = true;
                    at += len;
                }
                Frame::Skip { len } => {
                    stream.searched = 0;
                    at += len;
                }
                Frame::Incomplete if is_idle(rest) => {
                    stream.searched = 0;
                    stream.line_ends = (resumed.unwrap_or(0) + rest.len()) as u8;
                    return;
                }
                Frame::Incomplete => {
                    let searched = stream.searched;
                    if !stream.keep(rest, now, &mut out.pool) {
                        self.stack.metrics.dropped(DropReason::NoBuffer);
                        self.close_stream(id, CloseReason::Limit, out);
                        return;
                    }
                    stream.searched = searched;
                    self.schedule_stream(id);
                    return;
                }
                Frame::TooLarge {
                    head: Some(head),
                    body,
                } => {
                    stream.searched = 0;
                    let body_len = self.refuse_large(&rest[..head], body, flow, out);
                    let Some(stream) = self.streams.get_mut(id) else {
                        return;
                    };
                    match body_len.filter(|len| *len <= SKIP_BYTES_MAX) {
                        Some(len) => {
                            at += head;
                            stream.to_skip = len;
                        }
                        None => {
                            self.close_stream(id, CloseReason::Framing, out);
                            return;
                        }
                    }
                }
                Frame::TooLarge { head: None, body: _ } => {
                    self.stack.metrics.dropped(DropReason::Framing);
                    self.close_stream(id, CloseReason::Framing, out);
                    return;
                }
                Frame::Bad(_) => {
                    self.stack.metrics.dropped(DropReason::Framing);
                    if let Some(mut table) = self.table.take() {
                        if let Err(error) = scan(rest, &mut table) {
                            self.refuse(
                                Message {
                                    bytes: rest,
                                    table: &table,
                                },
                                error,
                                flow,
                                out,
                            );
                        }
                        self.table = Some(table);
                    }
                    self.close_stream(id, CloseReason::Framing, out);
                    return;
                }
            }
        }
    }

    /// 413 for a body, 513 for a message over the limit (RFC 3261 §21.4.11, §21.5.7). Returns the length of the body that
    /// follows, if that can be told.
    fn refuse_large(&mut self, head: &[u8], body: bool, flow: Flow, out: &mut Effects) -> Option<usize> {
        let mut table = self.table.take()?;
        // The body is not looked at, so that it is missing is no matter.
        _ = scan(head, &mut table);
        let msg = Message::new(head, &table);
        match Salvage::of(msg) {
            Some(salvage) => {
                let status = if body { 413 } else { 513 };
                let reason = |w: &mut Writer<'_>| _ = w.put(reason_phrase(status).as_bytes());
                self.respond_salvaged(&salvage, head.len(), status, reason, flow, out);
            }
            None => self.stack.metrics.dropped(DropReason::Framing),
        }
        let len = msg
            .value(Name::ContentLength)
            .map_or(Some(0), |text| std::str::from_utf8(text).ok()?.parse().ok());
        self.table = Some(table);
        len
    }

    fn close_stream(&mut self, id: StreamId, reason: CloseReason, out: &mut Effects) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        stream.forget_partial(&mut out.pool);
        let conn = stream.conn;
        out.push(Effect::Close { conn, reason });
        // What still comes of it is not looked at.
        self.on_closed(conn, out);
    }

    pub(super) fn on_stream_timer(&mut self, id: StreamId, now: Instant, out: &mut Effects) {
        let limits = &self.stack.cfg.limits;
        let (idle, partial) = (limits.connection_idle, limits.message_partial);
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        stream.timer = None;
        if now < stream.deadline(idle, partial) {
            self.schedule_stream(id);
            return;
        }
        let reason = match stream.partial {
            Some(_) => {
                self.stack.metrics.dropped(DropReason::PartialMessage);
                CloseReason::PartialMessage
            }
            None => CloseReason::Idle,
        };
        self.close_stream(id, reason, out);
    }

    /// One timer a connection, which looks again rather than being moved with every message; only a partial message, whose
    /// time is short, brings it forward.
    fn schedule_stream(&mut self, id: StreamId) {
        let limits = &self.stack.cfg.limits;
        let (idle, partial) = (limits.connection_idle, limits.message_partial);
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        if let Some(timer) = stream.timer {
            if stream.partial.is_none() {
                return;
            }
            self.stack.wheel.cancel(timer);
        }
        let timer = Timer {
            kind: TimerKind::Stream,
            slot: id.slot,
            generation: id.generation,
        };
        stream.timer = Some(self.stack.wheel.insert(stream.deadline(idle, partial), timer));
    }
}

/// The message as if its sender had ended each line of its head with CRLF: whoever it is passed on to may read it in no other
/// way. `None`: there is no buffer.
#[cold]
fn with_crlf(msg: Message<'_>, out: &mut Effects) -> Option<(Draft, usize)> {
    let head = &msg.bytes[..msg.head_end() as usize];
    let added = head.iter().filter(|byte| **byte == b'\n').count();
    let mut draft = out.pool.draft(msg.len() + added)?;
    match with_line_ends(msg, &mut draft.bytes) {
        Some(len) => Some((draft, len)),
        None => {
            out.pool.discard(draft);
            None
        }
    }
}

/// Salvaged requests are answered where RFC 3261 §18.2.2 says, as whole ones are.
impl Salvage<'_> {
    pub(super) fn reply_flow(&self, flow: Flow) -> Flow {
        match (flow.transport, self.via.rport) {
            (Transport::Udp, Some(_)) => flow,
            (Transport::Udp, None) | (Transport::Tcp, _) => flow.at_port(self.via.port.unwrap_or(5060)),
        }
    }
}
