//! Events of the reactor's own, kept in order until the turn can hand them over.

use std::collections::VecDeque;

use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Event, Flow, TxOp};

/// What a turn or a flush found out about connections and messages.
#[derive(Default)]
pub(super) struct Notices(VecDeque<Notice>);

enum Notice {
    Event(Event<'static>),
    /// [`Event::AnswerNotSent`].
    Answer {
        flow: Flow,
        bytes: Box<[u8]>,
        tried: u8,
        reason: CloseReason,
    },
}

impl Notices {
    pub(super) fn opened(&mut self, flow: Flow) {
        self.event(Event::Opened { flow });
    }

    pub(super) fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.event(Event::Closed { conn, reason });
    }

    /// A message was not sent, or not whole. Nobody waits for one without an `op`.
    pub(super) fn send_failed(&mut self, op: Option<TxOp>, flow: Flow, bytes: &[u8], reason: CloseReason) {
        match op {
            Some(op @ TxOp::Request { .. }) => self.failed(op, reason, false),
            Some(TxOp::Answer { tried }) if another_way_may_do(reason) => {
                let bytes = bytes.into();
                self.0.push_back(Notice::Answer {
                    flow,
                    bytes,
                    tried,
                    reason,
                });
            }
            Some(TxOp::Answer { .. }) | None => {}
        }
    }

    /// A request was sent that its peer may have read or not.
    pub(super) fn unheard(&mut self, op: Option<TxOp>, reason: CloseReason) {
        if let Some(op) = op {
            self.failed(op, reason, true);
        }
    }

    fn failed(&mut self, op: TxOp, reason: CloseReason, was_sent: bool) {
        self.event(Event::SendFailed { op, reason, was_sent });
    }

    fn event(&mut self, event: Event<'static>) {
        self.0.push_back(Notice::Event(event));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn deliver(&mut self, sink: &mut dyn FnMut(Event<'_>, Instant), now: Instant) {
        while let Some(notice) = self.0.pop_front() {
            let event = match &notice {
                Notice::Event(event) => event,
                Notice::Answer {
                    flow,
                    bytes,
                    tried,
                    reason,
                } => &Event::AnswerNotSent {
                    flow: *flow,
                    bytes,
                    tried: *tried,
                    reason: *reason,
                },
            };
            sink(*event, now);
        }
    }
}

/// Whether it is the way that failed. Whoever reads too slowly for us, or met a limit, would be helped by no other.
fn another_way_may_do(reason: CloseReason) -> bool {
    match reason {
        CloseReason::PeerClosed | CloseReason::Reset | CloseReason::ConnectFailed => true,
        CloseReason::SendQueueFull
        | CloseReason::SendStalled
        | CloseReason::Idle
        | CloseReason::PartialMessage
        | CloseReason::Framing
        | CloseReason::Limit
        | CloseReason::Shutdown => false,
    }
}
