//! What a machine says is to be done is done here: timers, failures to send, and each step carried out.

use std::net::SocketAddr;
use std::time::Duration;

use crate::metrics::{Timed, Undelivered};
use crate::msg::method::Method;
use crate::pool::BufId;
use crate::slots::Id;
use crate::time::Instant;
use crate::timer::{Timer, TimerKind};
use crate::token::Token;
use crate::wire::{Effects, Transport, TxOp};

use super::{Stack, op};
use crate::transaction::{
    Cancel, End, Machine, Notice, Output, Retransmit, Step, TxId, UserEvent, ict, ist, nict, nist,
};

impl Stack {
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
            Machine::Nist(state) => nist::step(
                state,
                if is_end {
                    nist::Input::End
                } else {
                    nist::Input::Late
                },
            )
            .map(Machine::Nist),
        };
        if step.send == Some(Output::Kept) {
            self.metrics.retransmissions_sent.inc();
        }
        self.tell(id, step, now, out)
    }

    /// A request of ours could not be sent; or it `was_sent`, and nobody knows whether it has arrived.
    pub fn on_send_failed(
        &mut self,
        id: TxId,
        was_sent: bool,
        now: Instant,
        out: &mut Effects,
    ) -> Option<UserEvent> {
        let step = match self.txs.get(id)?.machine {
            Machine::Ict(state) if was_sent => ict::step(state, ict::Input::Unheard).map(Machine::Ict),
            Machine::Nict(state) if was_sent => nict::step(state, nict::Input::Unheard).map(Machine::Nict),
            Machine::Ict(state) => ict::step(state, ict::Input::TransportError).map(Machine::Ict),
            Machine::Nict(state) => nict::step(state, nict::Input::TransportError).map(Machine::Nict),
            Machine::Ist(state) => ist::step(state, ist::Input::TransportError).map(Machine::Ist),
            Machine::Nist(state) => nist::step(state, nist::Input::TransportError).map(Machine::Nist),
        };
        self.tell(id, step, now, out)
    }

    /// The network says that a request with this token and method, sent `to` there, has reached nobody: RFC 3261 §17.1.4. It is asked of
    /// requests alone that have heard nothing yet: whoever has answered was there.
    pub fn on_undelivered(
        &mut self,
        token: Token,
        method: Method,
        to: SocketAddr,
        now: Instant,
        out: &mut Effects,
    ) -> Option<UserEvent> {
        // RFC 3261 §17.1.1.3, §9.1: these have the branch of their INVITE.
        if matches!(method, Method::Ack | Method::Cancel) {
            self.count_undelivered(Undelivered::NotAwaited);
            return None;
        }
        let id: TxId = Id::new(token.slot, token.generation);
        let is_invite = method == Method::Invite;
        let machine = self.txs.get(id).and_then(|tx| {
            let is_its = tx.flow.transport == Transport::Udp && tx.flow.peer == to;
            is_its.then_some(tx.machine)
        });
        let waits = match machine {
            Some(Machine::Ict(state)) if is_invite => state == ict::State::Calling,
            Some(Machine::Nict(state)) if !is_invite => state == nict::State::Trying,
            Some(Machine::Ict(_) | Machine::Nict(_) | Machine::Ist(_) | Machine::Nist(_)) | None => {
                self.count_undelivered(Undelivered::Unknown);
                return None;
            }
        };
        if !waits {
            self.count_undelivered(Undelivered::Answered);
            return None;
        }
        self.count_undelivered(Undelivered::Failed);
        self.on_send_failed(id, false, now, out)
    }

    pub fn count_undelivered(&self, what: Undelivered) {
        self.metrics.undelivered[what as usize].inc();
    }

    fn tell(&mut self, id: TxId, step: Step<Machine>, now: Instant, out: &mut Effects) -> Option<UserEvent> {
        let user = self.user_of(id)?;
        let notice = self.carry_out(id, step, None, now, out)?;
        Some(UserEvent { user, tx: id, notice })
    }

    /// Lets go of what would be sent again.
    pub(super) fn drop_kept(&mut self, id: TxId, out: &mut Effects) {
        if let Some(kept) = self.txs.get_mut(id).and_then(|tx| tx.kept.take()) {
            out.pool.release(kept);
        }
    }

    /// Ends a transaction at once, whatever its state. The CANCEL of an INVITE ends with it: its answer is found through the
    /// INVITE alone, and RFC 3261 §9.1 has nothing left for it to do.
    pub fn abandon(&mut self, id: TxId, out: &mut Effects) {
        let Some(tx) = self.txs.remove(id) else { return };
        if let Cancel::By(cancel) = tx.cancel {
            self.abandon(cancel, out);
        }
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
            match tx.machine {
                Machine::Ist(_) | Machine::Nist(_) => self.by_key.remove(key, id.slot),
                Machine::Ict(_) | Machine::Nict(_) => {}
            }
        }
    }

    /// Ends a server transaction that has sent no final response: nobody is left who could give it one, and no timer runs for it.
    pub fn abandon_unanswered(&mut self, id: TxId, out: &mut Effects) {
        let is_unanswered = self.txs.get(id).is_some_and(|tx| {
            matches!(
                tx.machine,
                Machine::Ist(ist::State::Proceeding)
                    | Machine::Nist(nist::State::Trying | nist::State::Proceeding)
            )
        });
        if is_unanswered {
            self.abandon(id, out);
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
    pub(super) fn carry_out(
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
            let op = if is_client {
                op(self.shard, id)
            } else {
                TxOp::ANSWER
            };
            out.send_kept(tx.flow, kept, Some(op));
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
            End::RoundTrip => Some(timers.t1),
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
    pub(super) fn schedule(&mut self, id: TxId) {
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
}
