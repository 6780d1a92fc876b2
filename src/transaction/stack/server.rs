//! The side that requests come to: retransmissions absorbed, server transactions made and answered (RFC 3261 §17.2, RFC 6026).

use std::net::SocketAddr;

use crate::metrics::{DropReason, Limit};
use crate::msg::build::{self, WayBack, Writer};
use crate::msg::method::Method;
use crate::msg::request::Request;
use crate::msg::status::reason_phrase;
use crate::pool::{BufId, Draft, Pool, Stay, Written};
use crate::time::Instant;
use crate::wire::{Effects, Flow, TxOp};

use super::{Known, RESPONSE_SLACK, Stack, reply_flow};
use crate::key_index::Key;
use crate::transaction::{Cancel, Machine, Transaction, TxId, User, ist, nist};

impl Stack {
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

    /// Makes the server transaction of a request that [`Stack::absorb`] found to be new. `None`: no room. Where buffers or places are
    /// scarce, what belongs to a dialog or ends an INVITE has room yet.
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
        if begins && self.len() >= self.begins_max() {
            self.metrics.limit_reached(Limit::Transactions);
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
            cancel: Cancel::NotSent,
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

    /// While there are so many transactions, none is made for a request that begins something: the last eighth of the places is for what
    /// goes on (the branches of what was let in, requests within dialogs) and for what ends it.
    fn begins_max(&self) -> usize {
        self.txs.limit() - self.txs.limit() / 8
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, transaction: Transaction) -> Option<TxId> {
        let id = self.txs.insert(transaction);
        if id.is_none() {
            self.metrics.limit_reached(Limit::Transactions);
        }
        id
    }

    /// What the server transaction of this request would be found by. `None`: there is one.
    pub fn key_of_new(&self, request: &Request<'_>) -> Option<Key> {
        let key = self.keyer.server(request, request.method, request.method_text);
        self.by_key.get(key).is_none().then_some(key)
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

    /// The answer to a request other than INVITE is somebody else's, who may take their time: its user is told [`Notice::Unanswered`] when
    /// that is too long.
    ///
    /// [`Notice::Unanswered`]: crate::transaction::Notice::Unanswered
    pub fn awaits_answer(&mut self, id: TxId) {
        let until_t2 = self.cfg.timers.until_t2();
        if let Some(tx) = self.txs.get_mut(id)
            && tx.machine == Machine::Nist(nist::State::Trying)
        {
            tx.retransmit_at = tx.begun_at + until_t2;
            self.schedule(id);
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
            is_named: None,
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
        let written = w.written().filter(|written| written.len > 0);
        self.keep_written(draft, written, &mut out.pool)
    }

    /// Writes a message into a buffer of `usual` bytes, which nearly all fit, or else of `most`: what is drafted much larger than it
    /// becomes has to move to a smaller buffer. Otherwise as [`Stack::write`].
    pub fn write_fitting(
        &self,
        (usual, most): (usize, usize),
        pool: &mut Pool,
        write: impl Fn(&mut [u8], &Pool) -> Option<Written>,
    ) -> Option<BufId> {
        let mut draft = pool.draft(usual)?;
        let mut written = write(&mut draft.bytes, pool);
        if written.is_none() && draft.bytes.len() < most {
            pool.discard(draft);
            draft = pool.draft(most)?;
            written = write(&mut draft.bytes, pool);
        }
        self.keep_written(draft, written, pool)
    }

    /// Keeps a draft with what was written. `None`, where it did not fit: the message is dropped and counted.
    pub fn keep_written(
        &self,
        draft: Draft,
        written: Option<impl Into<Written>>,
        pool: &mut Pool,
    ) -> Option<BufId> {
        if let Some(written) = written {
            return Some(pool.commit(draft, written));
        }
        pool.discard(draft);
        self.metrics.dropped(DropReason::TooLarge);
        None
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
                out.send(tx.flow, buf, Some(TxOp::ANSWER));
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
}
