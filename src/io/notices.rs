//! Events without bytes, kept in order until the turn can hand them over.

use std::collections::VecDeque;

use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Event, Flow, TxOp};

/// What a turn or a flush found out about connections and messages.
#[derive(Default)]
pub(super) struct Notices(VecDeque<Event<'static>>);

impl Notices {
    pub(super) fn opened(&mut self, flow: Flow) {
        self.0.push_back(Event::Opened { flow });
    }

    pub(super) fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.0.push_back(Event::Closed { conn, reason });
    }

    /// Nobody waits for a message without an `op`.
    pub(super) fn send_failed(&mut self, op: Option<TxOp>, reason: CloseReason) {
        self.failed(op, reason, false);
    }

    /// The same of one that its peer may have read.
    pub(super) fn unheard(&mut self, op: Option<TxOp>, reason: CloseReason) {
        self.failed(op, reason, true);
    }

    fn failed(&mut self, op: Option<TxOp>, reason: CloseReason, was_sent: bool) {
        if let Some(op) = op {
            self.0.push_back(Event::SendFailed { op, reason, was_sent });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn deliver(&mut self, sink: &mut dyn FnMut(Event<'_>, Instant), now: Instant) {
        while let Some(event) = self.0.pop_front() {
            sink(event, now);
        }
    }
}
