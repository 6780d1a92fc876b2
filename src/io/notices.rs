//! Events without bytes, kept in order until the turn can hand them over.

use std::collections::VecDeque;

use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Event, Flow, TxOp};

enum Notice {
    Opened {
        flow: Flow,
    },
    Closed {
        conn: ConnId,
        reason: CloseReason,
    },
    SendFailed {
        op: TxOp,
        reason: CloseReason,
        was_sent: bool,
    },
}

/// What a turn or a flush found out about connections and messages.
#[derive(Default)]
pub(super) struct Notices(VecDeque<Notice>);

impl Notices {
    pub(super) fn opened(&mut self, flow: Flow) {
        self.0.push_back(Notice::Opened { flow });
    }

    pub(super) fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.0.push_back(Notice::Closed { conn, reason });
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
            self.0.push_back(Notice::SendFailed { op, reason, was_sent });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn deliver(&mut self, sink: &mut dyn FnMut(Event<'_>, Instant), now: Instant) {
        while let Some(notice) = self.0.pop_front() {
            let event = match notice {
                Notice::Opened { flow } => Event::Opened { flow },
                Notice::Closed { conn, reason } => Event::Closed { conn, reason },
                Notice::SendFailed { op, reason, was_sent } => Event::SendFailed { op, reason, was_sent },
            };
            sink(event, now);
        }
    }
}
