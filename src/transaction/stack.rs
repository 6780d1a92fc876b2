//! The transactions of one shard: found, timed and carried out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::dns::Resolver;
use crate::metrics::{DropReason, Histograms, Limit, MessageKind, Metrics, Peers, Recorded, Timed};
use crate::msg::build::{self, Load, WayBack, Writer};
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::{Request, Response};
use crate::msg::scan::{Message, Table, scan};
use crate::msg::status::reason_phrase;
use crate::pool::{BufId, Pool, Stay};
use crate::port::ConfigId;
use crate::slots::{Id, Slots};
use crate::tap::Tap;
use crate::time::Instant;
use crate::timer::{Timer, TimerKind, Wheel};
use crate::token::{TOKEN_LEN, Token, TokenKey, TokenKind};
use crate::trunk::Trunks;
use crate::trunk::board::Board;
use crate::wire::{Effects, Flow, ShardId, Transport, TxOp};

use super::key::{Key, KeyIndex, Keyer};
use super::{
    End, Machine, Notice, Output, Retransmit, Step, Transaction, TxId, User, UserEvent, ict, ist, nict, nist,
};

/// What is known of a request that came in, before a transaction is made for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing: its server transaction would have this key.
    New(Key),
    /// Retransmitted, or the ACK of a 300 to 699: dealt with.
    Absorbed,
    /// An ACK that no transaction knows, or that of a 2xx.
    AckForSuccess,
}

/// Room that a message needs beyond its request for what we add: our tag, `received`, `rport`, a reason phrase, `Date`.
const RESPONSE_SLACK: usize = 1_024;

/// Configurations before the present one that are kept: a request that waits for a look-up through more reloads loses its rule.
const FORMER_MAX: usize = 4;

/// The transaction layer of one shard, with what it stands on: configuration, timers, tokens, counters.
pub struct Stack {
    pub cfg: Arc<Config>,
    config_id: ConfigId,
    /// Earlier ones, the last first: for what began under them.
    former: [Option<Arc<Config>>; FORMER_MAX],
    pub metrics: Arc<Metrics>,
    /// What is timed and who is busy, since the control thread last took it.
    pub recorded: Box<Recorded>,
    pub shard: ShardId,
    /// Shards in all.
    pub shards: usize,
    pub key: TokenKey,
    pub keyer: Keyer,
    pub wheel: Wheel<Timer>,
    /// Host names.
    pub dns: Resolver,
    pub trunks: Trunks,
    txs: Slots<Transaction>,
    by_key: KeyIndex,
    /// For a message of ours that is read again while a received one is still in the shard's own table.
    scratch: Option<Box<Table>>,
    stateless_serial: u64,
    /// What those are told who obey it (RFC 7339); `None`: nobody is told.
    pub load: Option<Load>,
    /// While somebody wants to see messages.
    pub tap: Option<Box<Tap>>,
}

impl Stack {
    /// The limits of `cfg` are shared out evenly to `shards`.
    pub fn new(
        cfg: Arc<Config>,
        metrics: Arc<Metrics>,
        shard: ShardId,
        key: TokenKey,
        keyer: Keyer,
        now: Instant,
    ) -> Stack {
        let shards = cfg.shards;
        let transactions_max = cfg.limits.transactions_max.div_ceil(shards);
        let hasher = keyer.hasher();
        let board = Arc::new(Board::new(&cfg, None));
        Stack {
            dns: Resolver::new(&cfg, hasher.clone()),
            trunks: Trunks::new(&cfg, board, hasher.clone(), hasher.hash_one(shard)),
            txs: Slots::new(transactions_max),
            by_key: KeyIndex::new(transactions_max),
            cfg,
            config_id: ConfigId::FIRST,
            former: [const { None }; FORMER_MAX],
            metrics,
            recorded: Box::new(Recorded {
                histograms: Histograms::default(),
                peers: Peers::new(hasher),
            }),
            shard,
            shards,
            key,
            keyer,
            wheel: Wheel::new(now),
            scratch: Some(Box::new(Table::new())),
            stateless_serial: 0,
            load: None,
            tap: None,
        }
    }

    /// Goes by `cfg` from now on. Timers that run keep their time, transactions beyond the new limit go on.
    ///
    /// The control thread holds every configuration too, so that none is freed here.
    pub fn configure(&mut self, cfg: Arc<Config>, config_id: ConfigId) {
        self.txs
            .set_limit(cfg.limits.transactions_max.div_ceil(self.shards));
        self.former.rotate_right(1);
        self.former[0] = Some(std::mem::replace(&mut self.cfg, cfg));
        self.config_id = config_id;
        self.metrics.config_id.set(u64::from(config_id.0));
    }

    pub fn config_id(&self) -> ConfigId {
        self.config_id
    }

    /// The present configuration or one of the last few; `None` for an older one.
    pub fn config_of(&self, id: ConfigId) -> Option<&Arc<Config>> {
        match self.config_id.0.wrapping_sub(id.0) {
            0 => Some(&self.cfg),
            age => self.former.get(age as usize - 1)?.as_ref(),
        }
    }

    /// Transactions that there were, modulo 2^32.
    pub fn begun(&self) -> u32 {
        self.txs.inserted()
    }

    /// Transactions now.
    pub fn len(&self) -> usize {
        self.txs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.txs.is_empty()
    }

    /// A fresh To tag, or branch, that stands for nothing that lives on.
    pub fn stateless_token(&mut self) -> Token {
        self.stateless_serial += 1;
        Token {
            kind: TokenKind::Stateless,
            shard: self.shard,
            slot: self.stateless_serial as u32,
            generation: (self.stateless_serial >> 32) as u32,
        }
    }

    pub fn stateless_tag(&mut self) -> [u8; TOKEN_LEN] {
        let token = self.stateless_token();
        self.key.text(token)
    }

    /// The To tag of an answer without a transaction. RFC 3261 §8.2.7: the same request, coming again, gets the same.
    pub fn repeatable_tag(&self, key: Key) -> [u8; TOKEN_LEN] {
        let Key(hash, _) = key;
        self.key.text(Token {
            kind: TokenKind::Stateless,
            shard: self.shard,
            slot: hash as u32,
            generation: (hash >> 32) as u32,
        })
    }

    // ---- Server side -----------------------------------------------------------------------------------------------

    /// Deals with a request that belongs to a server transaction there is.
    pub fn absorb(&mut self, request: &Request<'_>, now: Instant, out: &mut Effects) -> Known {
        let key = self.keyer.server(request, request.method, request.method_text);
        let is_ack = request.method == Method::Ack;
        let Some(id) = self.by_key.get(key).and_then(|slot| self.txs.id_at(slot)) else {
            return if is_ack {
                Known::AckForSuccess
            } else {
                Known::New(key)
            };
        };
        let Some(tx) = self.txs.get(id) else {
            return Known::Absorbed;
        };
        if is_ack
            && matches!(
                tx.machine,
                Machine::Ist(ist::State::Accepted | ist::State::Acknowledged)
            )
        {
            // RFC 6026 §7.1: an ACK for a 2xx that uses the INVITE's branch is the user's all the same.
            return Known::AckForSuccess;
        }
        self.metrics.retransmissions_absorbed.inc();
        let step = match tx.machine {
            Machine::Ist(state) => ist::step(
                state,
                if is_ack {
                    ist::Input::Ack
                } else {
                    ist::Input::Request
                },
            )
            .map(Machine::Ist),
            Machine::Nist(state) => nist::step(state, nist::Input::Request).map(Machine::Nist),
            Machine::Ict(_) | Machine::Nict(_) => return Known::Absorbed,
        };
        self.carry_out(id, step, None, now, out);
        Known::Absorbed
    }

    /// Makes the server transaction of a request that [`Stack::absorb`] found to be new. `None`: no room. Where buffers are scarce, what
    /// belongs to a dialog or ends an INVITE has room yet.
    pub fn open_server(
        &mut self,
        request: &Request<'_>,
        key: Key,
        flow: Flow,
        now: Instant,
        pool: &mut Pool,
    ) -> Option<TxId> {
        let begins = request.to_tag.is_none() && request.method != Method::Cancel;
        if begins && !pool.takes_in(Stay::Request) {
            return None;
        }
        let machine = match request.method {
            Method::Invite => Machine::Ist(ist::State::Proceeding),
            _ => Machine::Nist(nist::State::Trying),
        };
        let id = self.insert(Transaction {
            machine,
            user: User::None,
            flow: reply_flow(request, flow),
            source: flow.peer,
            key: Some(key),
            kept: None,
            cancel: None,
            timer: None,
            timer_at: Instant::FAR_FUTURE,
            retransmit_at: Instant::FAR_FUTURE,
            end_at: Instant::FAR_FUTURE,
            interval_ms: 0,
            begun_at: now,
        })?;
        self.by_key.insert(key, id.slot);
        Some(id)
    }

    fn insert(&mut self, transaction: Transaction) -> Option<TxId> {
        let id = self.txs.insert(transaction);
        if id.is_none() {
            self.metrics.limit_reached(Limit::Transactions);
        }
        id
    }

    /// The INVITE server transaction that a CANCEL is about (RFC 3261 §9.2).
    pub fn find_invite(&self, cancel: &Request<'_>) -> Option<TxId> {
        let key = self.keyer.server(cancel, Method::Invite, b"INVITE");
        self.by_key.get(key).and_then(|slot| self.txs.id_at(slot))
    }

    pub fn user_of(&self, id: TxId) -> Option<User> {
        self.txs.get(id).map(|tx| tx.user)
    }

    /// Whom to tell of this transaction from now on.
    pub fn set_user(&mut self, id: TxId, user: User) {
        if let Some(tx) = self.txs.get_mut(id) {
            tx.user = user;
        }
    }

    /// Where answers on this transaction go, or where its request went.
    pub fn flow_of(&self, id: TxId) -> Option<Flow> {
        self.txs.get(id).map(|tx| tx.flow)
    }

    /// The address that the request really came from.
    pub fn source_of(&self, id: TxId) -> Option<SocketAddr> {
        self.txs.get(id).map(|tx| tx.source)
    }

    /// Writes and sends a response without a body. `to_tag`: the tag to add to a To that has none; `None` takes a fresh one
    /// except for 100. `extra` writes further header lines, each with its CRLF.
    #[allow(clippy::too_many_arguments)]
    pub fn respond(
        &mut self,
        id: TxId,
        request: &Request<'_>,
        status: u16,
        to_tag: Option<&[u8]>,
        extra: impl FnOnce(&mut Writer<'_>),
        now: Instant,
        out: &mut Effects,
    ) {
        self.respond_because(
            id,
            request,
            (status, reason_phrase(status)),
            to_tag,
            extra,
            now,
            out,
        );
    }

    /// As [`Stack::respond`], with a reason phrase of its own.
    #[allow(clippy::too_many_arguments)]
    pub fn respond_because(
        &mut self,
        id: TxId,
        request: &Request<'_>,
        (status, reason): (u16, &str),
        to_tag: Option<&[u8]>,
        extra: impl FnOnce(&mut Writer<'_>),
        now: Instant,
        out: &mut Effects,
    ) {
        tracing::debug!(
            call_id = %request.call_id.escape_ascii(),
            method = %request.method_text.escape_ascii(),
            status,
            reason,
            "answer"
        );
        let Some(source) = self.source_of(id) else { return };
        match self.write_response(request, (status, reason), to_tag, source, extra, out) {
            Some(buf) => self.send_response(id, status, buf, now, out),
            // The final response may still find a buffer.
            None if status < 200 => {}
            None => self.abandon(id, out),
        }
    }

    /// Answers without a transaction (RFC 3261 §8.2.7): where there is no room for one.
    pub fn respond_stateless(
        &mut self,
        request: &Request<'_>,
        flow: Flow,
        (status, reason): (u16, &str),
        extra: impl FnOnce(&mut Writer<'_>),
        out: &mut Effects,
    ) {
        let to = reply_flow(request, flow);
        let tag = self.repeatable_tag(self.keyer.server(request, request.method, request.method_text));
        if let Some(buf) = self.write_response(request, (status, reason), Some(&tag), flow.peer, extra, out) {
            self.count_response(status, to.transport);
            out.send(to, buf, None);
        }
    }

    /// For the answers to a request that came from `peer`.
    pub const fn way_back(&self, peer: SocketAddr) -> WayBack {
        WayBack {
            peer,
            load: self.load,
        }
    }

    fn write_response(
        &mut self,
        request: &Request<'_>,
        (status, reason): (u16, &str),
        to_tag: Option<&[u8]>,
        source: SocketAddr,
        extra: impl FnOnce(&mut Writer<'_>),
        out: &mut Effects,
    ) -> Option<BufId> {
        let fresh;
        let to_tag = match to_tag {
            Some(tag) => Some(tag),
            None if status > 100 && request.to_tag.is_none() => {
                fresh = self.stateless_tag();
                Some(&fresh[..])
            }
            None => None,
        };
        let head = request.msg.head_end() as usize;
        let back = self.way_back(source);
        self.write(head + RESPONSE_SLACK, out, |w, _| {
            build::response_head(w, request, status, reason, to_tag, back);
            extra(w);
            build::end(w);
        })
    }

    /// Writes a message into a buffer of at least `len_min` bytes. Where it does not fit, or nothing is written, the message is
    /// dropped and counted, as when there is no buffer.
    pub fn write(
        &self,
        len_min: usize,
        out: &mut Effects,
        f: impl FnOnce(&mut Writer<'_>, &crate::pool::Pool),
    ) -> Option<BufId> {
        let Some(mut draft) = out.pool.draft(len_min) else {
            self.metrics.dropped(DropReason::NoBuffer);
            return None;
        };
        let mut w = Writer::new(&mut draft.bytes);
        f(&mut w, &out.pool);
        match w.written().filter(|written| written.len > 0) {
            Some(written) => Some(out.pool.commit(draft, written)),
            None => {
                out.pool.discard(draft);
                self.metrics.dropped(DropReason::TooLarge);
                None
            }
        }
    }

    /// Sends a response that the user has written; its reference goes to the transaction.
    pub fn send_response(&mut self, id: TxId, status: u16, buf: BufId, now: Instant, out: &mut Effects) {
        let Some(tx) = self.txs.get(id) else {
            out.pool.release(buf);
            return;
        };
        let transport = tx.flow.transport;
        let step = match tx.machine {
            Machine::Ist(state) => {
                let input = match status {
                    100..=199 => ist::Input::SendProvisional,
                    200..=299 => ist::Input::SendSuccess,
                    _ => ist::Input::SendFailure,
                };
                ist::step(state, input).map(Machine::Ist)
            }
            Machine::Nist(state) => {
                let input = if status < 200 {
                    nist::Input::SendProvisional
                } else {
                    nist::Input::SendFinal
                };
                nist::step(state, input).map(Machine::Nist)
            }
            Machine::Ict(_) | Machine::Nict(_) => {
                out.pool.release(buf);
                return;
            }
        };
        self.count_response(status, transport);
        self.carry_out(id, step, Some(buf), now, out);
    }

    /// Sends a 2xx to INVITE that a proxy passes on; its reference goes with it. RFC 3261 §16.7 step 5: also where another final
    /// response has gone before it.
    pub fn forward_success(&mut self, id: TxId, status: u16, buf: BufId, now: Instant, out: &mut Effects) {
        let Some(tx) = self.txs.get(id) else {
            out.pool.release(buf);
            return;
        };
        let (machine, transport) = (tx.machine, tx.flow.transport);
        self.count_response(status, transport);
        match machine {
            Machine::Ist(state @ (ist::State::Proceeding | ist::State::Acknowledged)) => {
                let step = ist::step(state, ist::Input::ForwardSuccess).map(Machine::Ist);
                self.carry_out(id, step, Some(buf), now, out);
            }
            Machine::Ist(_) | Machine::Ict(_) | Machine::Nict(_) | Machine::Nist(_) => {
                out.send(tx.flow, buf, None);
            }
        }
    }

    /// The ACK of the 2xx that this INVITE was answered with has come. `false` when it had come before.
    pub fn acknowledged(&mut self, id: TxId, now: Instant, out: &mut Effects) -> bool {
        let Some(tx) = self.txs.get(id) else { return false };
        let Machine::Ist(state) = tx.machine else {
            return false;
        };
        self.carry_out(
            id,
            ist::step(state, ist::Input::Ack).map(Machine::Ist),
            None,
            now,
            out,
        );
        state == ist::State::Accepted
    }

    /// Whether this INVITE was answered with a 2xx whose ACK has not come.
    pub fn awaits_ack(&self, id: TxId) -> bool {
        self.txs
            .get(id)
            .is_some_and(|tx| tx.machine == Machine::Ist(ist::State::Accepted))
    }

    // ---- Client side -----------------------------------------------------------------------------------------------

    /// Makes a client transaction toward `flow`; nothing is sent before [`Stack::send_request`]. `None`: no room.
    pub fn open_client(&mut self, user: User, method: Method, flow: Flow) -> Option<TxId> {
        let machine = match method {
            Method::Invite => Machine::Ict(ict::State::Calling),
            _ => Machine::Nict(nict::State::Trying),
        };
        self.insert(Transaction {
            machine,
            user,
            flow,
            source: flow.peer,
            key: None,
            kept: None,
            cancel: None,
            timer: None,
            timer_at: Instant::FAR_FUTURE,
            retransmit_at: Instant::FAR_FUTURE,
            end_at: Instant::FAR_FUTURE,
            interval_ms: 0,
            begun_at: Instant::FAR_FUTURE,
        })
    }

    /// The Via line of a request on this client transaction, with its CRLF.
    pub fn put_via(&self, id: TxId, w: &mut Writer<'_>) {
        let Some(tx) = self.txs.get(id) else { return };
        let token = Token {
            kind: TokenKind::Transaction,
            shard: self.shard,
            slot: id.slot,
            generation: id.generation,
        };
        self.put_via_line(tx.flow, token, w);
    }

    /// A Via line of ours for a message that goes over `flow`.
    pub fn put_via_line(&self, flow: Flow, token: Token, w: &mut Writer<'_>) {
        w.put(b"Via: ")
            .padding()
            .put(b"SIP/2.0/")
            .put(flow.transport.name().as_bytes())
            .put(b" ")
            .put(self.advertised(flow).as_bytes())
            .put(b";branch=")
            .put(&self.key.branch(token))
            .crlf();
    }

    /// What stands for us in a Via or Contact on `flow`: `host:port`.
    pub fn advertised(&self, flow: Flow) -> &str {
        self.cfg
            .listeners
            .get(usize::from(flow.listener.0))
            .map_or("", |listener| &listener.advertised)
    }

    /// Sends the request that was written for this transaction; its reference goes to the transaction.
    pub fn send_request(&mut self, id: TxId, buf: BufId, now: Instant, out: &mut Effects) {
        let timeout = self.cfg.timers.timeout();
        let t1 = self.cfg.timers.t1;
        let Some(tx) = self.txs.get_mut(id) else {
            out.pool.release(buf);
            return;
        };
        if let Some(old) = tx.kept.replace(buf) {
            out.pool.release(old);
        }
        tx.begun_at = now;
        // §17.1.1.2, §17.1.2.2: Timer A or E over an unreliable transport, B or F over any.
        tx.end_at = now + timeout;
        if !tx.flow.transport.is_reliable() {
            tx.interval_ms = t1.as_millis() as u32;
            tx.retransmit_at = now + t1;
        }
        out.send_kept(tx.flow, buf, Some(op(self.shard, id)));
        self.schedule(id);
    }

    /// Sends a CANCEL for this INVITE, once: RFC 3261 §9.1. `reason_lines` are whole header lines (`Reason`, RFC 3326), or
    /// empty. Nothing happens before a provisional response has come.
    pub fn cancel_invite(&mut self, id: TxId, reason_lines: &[u8], now: Instant, out: &mut Effects) {
        let Some(tx) = self.txs.get(id) else { return };
        let Machine::Ict(state) = tx.machine else { return };
        let (flow, Some(kept)) = (tx.flow, tx.kept) else {
            return;
        };
        match state {
            ict::State::Proceeding => {
                let step = ict::step(state, ict::Input::Cancel).map(Machine::Ict);
                self.carry_out(id, step, None, now, out);
            }
            // Timer C has been here already.
            ict::State::Cancelling => {}
            ict::State::Calling | ict::State::Completed | ict::State::Accepted | ict::State::Terminated => {
                return;
            }
        }
        if self.txs.get(id).is_none_or(|tx| tx.cancel.is_some()) {
            return;
        }
        let Some(cancel) = self.open_client(User::None, Method::Cancel, flow) else {
            self.metrics.dropped(DropReason::TransactionsFull);
            return;
        };
        let Some(buf) = self.write_from_invite(kept, Method::Cancel, None, reason_lines, out) else {
            self.abandon(cancel, out);
            return;
        };
        if let Some(tx) = self.txs.get_mut(id) {
            tx.cancel = Some(cancel);
        }
        self.count_request(Method::Cancel, flow.transport);
        self.send_request(cancel, buf, now, out);
    }

    /// A response whose top Via carries a branch of ours. `None`: it is dealt with.
    pub fn on_response(
        &mut self,
        token: Token,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) -> Option<(User, TxId)> {
        let mut id: TxId = Id::new(token.slot, token.generation);
        let Some(mut tx) = self.txs.get(id) else {
            self.metrics.dropped(
                if (200..300).contains(&response.status) && response.cseq.method == Method::Invite {
                    DropReason::StrayOk
                } else {
                    DropReason::StrayResponse
                },
            );
            return None;
        };
        let is_invite = response.cseq.method == Method::Invite;
        if let (Machine::Ict(_), false) = (tx.machine, is_invite) {
            // RFC 3261 §17.1.3: a CANCEL shares the branch; the CSeq method tells them apart.
            let cancel = tx.cancel.filter(|_| response.cseq.method == Method::Cancel);
            match cancel.and_then(|cancel| self.txs.get(cancel).map(|tx| (cancel, tx))) {
                Some((cancel, cancel_tx)) => (id, tx) = (cancel, cancel_tx),
                None => {
                    self.metrics.dropped(DropReason::StrayResponse);
                    return None;
                }
            }
        }
        let user = tx.user;
        let step = match (tx.machine, response.status) {
            (Machine::Ict(state), status) => {
                let input = match status {
                    100 => ict::Input::Trying,
                    101..=199 => ict::Input::Provisional,
                    200..=299 => ict::Input::Success,
                    _ => ict::Input::Failure,
                };
                ict::step(state, input).map(Machine::Ict)
            }
            (Machine::Nict(state), status) => {
                let input = if status < 200 {
                    nict::Input::Provisional
                } else {
                    nict::Input::Final
                };
                nict::step(state, input).map(Machine::Nict)
            }
            (Machine::Ist(_) | Machine::Nist(_), _) => {
                self.metrics.dropped(DropReason::StrayResponse);
                return None;
            }
        };
        let mut new = None;
        if step.send == Some(Output::Ack) {
            let (kept, transport) = (tx.kept?, tx.flow.transport);
            let to = response
                .msg
                .line(Name::To)
                .map(|line| response.msg.line_bytes(line));
            new = self.write_from_invite(kept, Method::Ack, to, b"", out);
            match new {
                Some(_) => self.count_request(Method::Ack, transport),
                // Without an ACK there is nothing to send again: the INVITE would have the failure come again, and again.
                None => self.drop_kept(id, out),
            }
        }
        match self.carry_out(id, step, new, now, out) {
            Some(Notice::Message) => Some((user, id)),
            Some(Notice::Timeout | Notice::Unreachable | Notice::Ended) => None,
            None => {
                self.metrics.retransmissions_absorbed.inc();
                None
            }
        }
    }

    /// The ACK of RFC 3261 §17.1.1.3 or the CANCEL of §9.1 for the INVITE in `invite`: its Request-URI, its only Via, Route,
    /// From, Call-ID, CSeq number and Max-Forwards; its To unless `to_line` is given.
    fn write_from_invite(
        &mut self,
        invite: BufId,
        method: Method,
        to_line: Option<&[u8]>,
        extra_lines: &[u8],
        out: &mut Effects,
    ) -> Option<BufId> {
        let head = out.pool.get(invite).len();
        let mut scratch = self.scratch.take()?;
        let buf = self.write(head + RESPONSE_SLACK, out, |w, pool| {
            let bytes = pool.get(invite);
            if scan(bytes, &mut scratch).is_err() {
                return;
            }
            let Ok(invite) = Request::check(Message {
                bytes,
                table: &scratch,
            }) else {
                return;
            };
            w.put(method.text().as_bytes())
                .put(b" ")
                .put(invite.uri)
                .put(b" SIP/2.0\r\n");
            let mut has_via = false;
            for line in invite.msg.lines() {
                match line.name {
                    // §9.1, §17.1.1.3: a single Via, the topmost. Those of a proxy's request go on below it.
                    Name::Via if has_via => {}
                    Name::Via => {
                        has_via = true;
                        w.put(invite.msg.line_bytes(line));
                    }
                    Name::From | Name::Route | Name::MaxForwards => {
                        w.put(invite.msg.line_bytes(line));
                    }
                    Name::CallId => _ = w.call_id_line(invite.msg.line_bytes(line)),
                    Name::To => {
                        w.put(to_line.unwrap_or_else(|| invite.msg.line_bytes(line)));
                    }
                    Name::CSeq => {
                        w.put(b"CSeq: ").num(u64::from(invite.cseq.number)).put(b" ");
                        w.put(method.text().as_bytes()).crlf();
                    }
                    _ => {}
                }
            }
            w.put(extra_lines);
            build::end(w);
        });
        self.scratch = Some(scratch);
        buf
    }

    // ---- Time and failure ------------------------------------------------------------------------------------------

    /// A timer of kind [`TimerKind::Transaction`] has fired.
    pub fn on_timer(
        &mut self,
        slot: u32,
        generation: u32,
        now: Instant,
        out: &mut Effects,
    ) -> Option<UserEvent> {
        let id: TxId = Id::new(slot, generation);
        let tx = self.txs.get_mut(id)?;
        tx.timer = None;
        tx.timer_at = Instant::FAR_FUTURE;
        let (is_end, is_retransmit) = (now >= tx.end_at, now >= tx.retransmit_at);
        if !is_end && !is_retransmit {
            self.schedule(id);
            return None;
        }
        let step = match tx.machine {
            Machine::Ict(state) => ict::step(
                state,
                if is_end {
                    ict::Input::End
                } else {
                    ict::Input::Retransmit
                },
            )
            .map(Machine::Ict),
            Machine::Nict(state) => nict::step(
                state,
                if is_end {
                    nict::Input::End
                } else {
                    nict::Input::Retransmit
                },
            )
            .map(Machine::Nict),
            Machine::Ist(state) => ist::step(
                state,
                if is_end {
                    ist::Input::End
                } else {
                    ist::Input::Retransmit
                },
            )
            .map(Machine::Ist),
            Machine::Nist(state) => nist::step(state, nist::Input::End).map(Machine::Nist),
        };
        if step.send == Some(Output::Kept) {
            self.metrics.retransmissions_sent.inc();
        }
        self.tell(id, step, now, out)
    }

    /// A request of ours could not be sent.
    pub fn on_send_failed(&mut self, op: TxOp, now: Instant, out: &mut Effects) -> Option<UserEvent> {
        let id: TxId = Id::new(op.slot, op.generation);
        let step = match self.txs.get(id)?.machine {
            Machine::Ict(state) => ict::step(state, ict::Input::TransportError).map(Machine::Ict),
            Machine::Nict(state) => nict::step(state, nict::Input::TransportError).map(Machine::Nict),
            Machine::Ist(state) => ist::step(state, ist::Input::TransportError).map(Machine::Ist),
            Machine::Nist(state) => nist::step(state, nist::Input::TransportError).map(Machine::Nist),
        };
        self.tell(id, step, now, out)
    }

    fn tell(&mut self, id: TxId, step: Step<Machine>, now: Instant, out: &mut Effects) -> Option<UserEvent> {
        let user = self.user_of(id)?;
        let notice = self.carry_out(id, step, None, now, out)?;
        Some(UserEvent { user, tx: id, notice })
    }

    /// Lets go of what would be sent again.
    fn drop_kept(&mut self, id: TxId, out: &mut Effects) {
        if let Some(kept) = self.txs.get_mut(id).and_then(|tx| tx.kept.take()) {
            out.pool.release(kept);
        }
    }

    /// Ends a transaction at once, whatever its state.
    pub fn abandon(&mut self, id: TxId, out: &mut Effects) {
        let Some(tx) = self.txs.remove(id) else { return };
        self.recorded
            .histograms
            .record(Timed::Transaction, out.received_at.since(tx.begun_at));
        if let Some(kept) = tx.kept {
            out.pool.release(kept);
        }
        if let Some(timer) = tx.timer {
            self.wheel.cancel(timer);
        }
        if let Some(key) = tx.key {
            self.by_key.remove(key, id.slot);
        }
    }

    /// Ends all transactions: the server stops.
    pub fn abandon_all(&mut self, out: &mut Effects) {
        for slot in 0..self.txs.slots() {
            if let Some(id) = self.txs.id_at(slot) {
                self.abandon(id, out);
            }
        }
    }

    /// Carries out one step. `new` is the message that goes with it, if any; its reference is used up.
    fn carry_out(
        &mut self,
        id: TxId,
        step: Step<Machine>,
        new: Option<BufId>,
        now: Instant,
        out: &mut Effects,
    ) -> Option<Notice> {
        let timers = &self.cfg.timers;
        let Some(tx) = self.txs.get_mut(id) else {
            if let Some(buf) = new {
                out.pool.release(buf);
            }
            return None;
        };
        tx.machine = step.next;
        let is_reliable = tx.flow.transport.is_reliable();
        let is_client = match step.next {
            Machine::Ict(_) | Machine::Nict(_) => true,
            Machine::Ist(_) | Machine::Nist(_) => false,
        };
        match (step.send, new) {
            (Some(Output::New | Output::Ack), Some(buf)) => {
                if let Some(old) = tx.kept.replace(buf) {
                    out.pool.release(old);
                }
            }
            (Some(Output::Kept) | None, Some(buf)) => out.pool.release(buf),
            (Some(Output::Kept | Output::New | Output::Ack) | None, None) => {}
        }
        if step.send.is_some()
            && let Some(kept) = tx.kept
        {
            let op = is_client.then_some(op(self.shard, id));
            out.send_kept(tx.flow, kept, op);
        }
        if step.drop_kept
            && let Some(kept) = tx.kept.take()
        {
            out.pool.release(kept);
        }
        let t1_ms = timers.t1.as_millis() as u32;
        let t2_ms = timers.t2.as_millis() as u32;
        let interval_ms = match step.retransmit {
            Retransmit::Keep => None,
            Retransmit::Stop => {
                tx.retransmit_at = Instant::FAR_FUTURE;
                None
            }
            Retransmit::Start if is_reliable => None,
            Retransmit::Start | Retransmit::StartAlways => Some(t1_ms),
            Retransmit::Double => Some(tx.interval_ms.saturating_mul(2)),
            Retransmit::DoubleToT2 => Some(tx.interval_ms.saturating_mul(2).min(t2_ms)),
            Retransmit::AtT2 if is_reliable => None,
            Retransmit::AtT2 => Some(t2_ms),
        };
        if let Some(ms) = interval_ms {
            tx.interval_ms = ms;
            tx.retransmit_at = now + Duration::from_millis(u64::from(ms.max(1)));
        }
        let linger = |unreliable: Duration| if is_reliable { Duration::ZERO } else { unreliable };
        let end = match step.end {
            End::Keep => None,
            End::Timeout => Some(timers.timeout()),
            End::TimerC => Some(timers.timer_c),
            End::TimerD => Some(linger(timers.timer_d)),
            End::TimerI | End::TimerK => Some(linger(timers.t4)),
            End::TimerJ => Some(linger(timers.timeout())),
        };
        if let Some(after) = end {
            tx.end_at = now + after;
        }
        if step.next.is_terminated() || end == Some(Duration::ZERO) {
            self.abandon(id, out);
        } else {
            self.schedule(id);
        }
        step.notice
    }

    /// Has the one timer of a transaction fire by its next deadline. An entry that is early enough stays: most deadlines
    /// move on before they come, and a timer that fires early only looks again.
    fn schedule(&mut self, id: TxId) {
        let Some(tx) = self.txs.get_mut(id) else { return };
        let due = tx.retransmit_at.min(tx.end_at);
        if due >= tx.timer_at || due == Instant::FAR_FUTURE {
            return;
        }
        if let Some(timer) = tx.timer.take() {
            self.wheel.cancel(timer);
        }
        let timer = Timer {
            kind: TimerKind::Transaction,
            slot: id.slot,
            generation: id.generation,
        };
        tx.timer = Some(self.wheel.insert(due, timer));
        tx.timer_at = due;
    }

    /// A response that is new leaves over `transport`.
    pub fn count_response(&self, status: u16, transport: Transport) {
        self.metrics.sent.count(transport, MessageKind::of_status(status));
        if let Some(rejected) = usize::from(status / 100)
            .checked_sub(4)
            .and_then(|i| self.metrics.rejected.get(i))
        {
            rejected.inc();
        }
    }

    /// A request that is new leaves over `transport`.
    pub fn count_request(&self, method: Method, transport: Transport) {
        self.metrics.sent.count(transport, request_kind(method));
    }
}

pub const fn request_kind(method: Method) -> MessageKind {
    match method {
        Method::Invite => MessageKind::Invite,
        Method::Ack => MessageKind::Ack,
        Method::Bye => MessageKind::Bye,
        Method::Cancel => MessageKind::Cancel,
        Method::Register => MessageKind::Register,
        Method::Options => MessageKind::Options,
        Method::Subscribe => MessageKind::Subscribe,
        Method::Notify => MessageKind::Notify,
        Method::Message => MessageKind::Message,
        Method::Info | Method::Update | Method::Prack | Method::Refer | Method::Publish | Method::Other => {
            MessageKind::OtherRequest
        }
    }
}

/// Where the response to a request that came over `flow` goes: RFC 3261 §18.2.2 and RFC 3581 §4.
pub fn reply_flow(request: &Request<'_>, flow: Flow) -> Flow {
    let sent_by_port = request.via.port.unwrap_or(5060);
    let peer = match (flow.transport, request.via.rport) {
        // RFC 3581 §4: `rport` asks for the source port.
        (Transport::Udp, Some(_)) => flow.peer,
        // §18.2.2: else the source address and the port of sent-by. Over TCP that is only for when the connection is gone.
        (Transport::Udp, None) | (Transport::Tcp, _) => SocketAddr::new(flow.peer.ip(), sent_by_port),
    };
    Flow { peer, ..flow }
}

fn op(shard: ShardId, id: TxId) -> TxOp {
    TxOp {
        shard,
        slot: id.slot,
        generation: id.generation,
    }
}
