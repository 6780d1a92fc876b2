//! The side that requests leave by: client transactions, their Via, CANCEL, and the responses that come back (RFC 3261 §17.1).

use crate::key_index::Key;
use crate::metrics::DropReason;
use crate::msg::build::{self, Writer};
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::{Request, Response};
use crate::msg::scan::{Message, scan};
use crate::pool::{BufId, Pool};
use crate::slots::Id;
use crate::time::Instant;
use crate::token::{Token, TokenKind};
use crate::wire::{Effects, Flow};

use super::{RESPONSE_SLACK, Stack, op};
use crate::transaction::{Cancel, Machine, Notice, Output, Transaction, TxId, User, ict, nict};

impl Stack {
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
            cancel: Cancel::NotSent,
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
        w.put(b"Via: ").padding();
        self.put_via_value(flow, token, w);
        w.crlf();
    }

    /// The value of such a line; the branch, which is its end, may go on.
    pub fn put_via_value(&self, flow: Flow, token: Token, w: &mut Writer<'_>) {
        if let Some(names) = self.names.get(usize::from(flow.listener.0)) {
            w.put(&names.via).put(&self.key.text(token));
        }
    }

    /// The URI that our Contact on `flow` has.
    pub fn contact_uri(&self, flow: Flow) -> &[u8] {
        self.names
            .get(usize::from(flow.listener.0))
            .map_or(b"", |names| &names.contact_uri)
    }

    /// What stands for us in a Via or Route on `flow`: `host:port`.
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
            ict::State::Calling
            | ict::State::Unheard
            | ict::State::Completed
            | ict::State::Accepted
            | ict::State::Terminated => return,
        }
        if self.txs.get(id).is_none_or(|tx| tx.cancel != Cancel::NotSent) {
            return;
        }
        let Some(buf) = self.write_from_invite(kept, Method::Cancel, None, reason_lines, out) else {
            return;
        };
        self.count_request(Method::Cancel, flow.transport);
        let by = self.open_client(User::None, Method::Cancel, flow);
        if let Some(tx) = self.txs.get_mut(id) {
            let has_reasons = !reason_lines.is_empty();
            tx.cancel = by.map_or(Cancel::Alone { has_reasons }, Cancel::By);
        }
        match by {
            Some(cancel) => self.send_request(cancel, buf, now, out),
            // It leaves all the same: how long what comes of it is awaited is the INVITE's own.
            None => out.send(flow, buf, None),
        }
    }

    /// The CANCEL that [`Stack::cancel_invite`] followed has come again: ours leaves again if nothing else repeats it.
    pub fn cancel_invite_again(&mut self, id: TxId, reason_lines: &[u8], now: Instant, out: &mut Effects) {
        let mut reason_lines = reason_lines;
        if let Some(tx) = self.txs.get_mut(id)
            && let Cancel::Alone { has_reasons } = tx.cancel
        {
            tx.cancel = Cancel::NotSent;
            // What bears its branch is the same: one that left for reasons of our own had none to say.
            if !has_reasons {
                reason_lines = b"";
            }
        }
        self.cancel_invite(id, reason_lines, now, out);
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
            let cancel = match tx.cancel {
                Cancel::By(cancel) if response.cseq.method == Method::Cancel => Some(cancel),
                Cancel::By(_) | Cancel::NotSent | Cancel::Alone { .. } => None,
            };
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
            Some(Notice::Timeout | Notice::Unanswered | Notice::Unreachable | Notice::Ended) => None,
            None => {
                self.metrics.retransmissions_absorbed.inc();
                None
            }
        }
    }

    /// The call of an INVITE is over before its transaction is: a 2xx that comes again in this dialog is still to be
    /// acknowledged (RFC 3261 §13.2.2.4, RFC 6026 §7.2: until Timer M), by the route set `routes`. A 2xx within the dialog does not say that.
    pub fn outlives_call(&mut self, id: TxId, key: Key, routes: Option<BufId>, pool: &mut Pool) {
        let unused = match self.txs.get_mut(id) {
            Some(tx) if tx.machine == Machine::Ict(ict::State::Accepted) => {
                tx.key = Some(key);
                std::mem::replace(&mut tx.kept, routes)
            }
            Some(_) | None => routes,
        };
        if let Some(unused) = unused {
            pool.release(unused);
        }
    }

    /// What [`Stack::outlives_call`] knows a dialog by.
    pub fn dialog_key(&self, call_id: &[u8], remote_tag: &[u8]) -> Key {
        self.keyer.dialog(call_id, remote_tag)
    }

    /// The route set that [`Stack::outlives_call`] was given.
    pub fn routes_of_ended_call(&self, id: TxId) -> Option<BufId> {
        self.txs.get(id)?.kept
    }

    /// Whether this 2xx, which has come again, is of the dialog that [`Stack::outlives_call`] named.
    pub fn is_of_ended_call(&self, id: TxId, response: &Response<'_>) -> bool {
        let tag = response.to_tag.unwrap_or(b"");
        let key = self.txs.get(id).and_then(|tx| tx.key);
        key.is_some_and(|key| key == self.keyer.dialog(response.call_id, tag))
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
                    Name::CallId => {
                        w.call_id_line(invite.msg.line_bytes(line), line.value_in_text());
                    }
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
}
