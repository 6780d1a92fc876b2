//! Events of the reactor's own, kept in order until the turn can hand them over.

use std::collections::VecDeque;

use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Event, Flow, TxOp};

/// Answers that may come back in a turn: each is read anew to find its next way. Those beyond are lost with their connection, as all once
/// were: whoever lets answers pile up on many connections and ends these at once must not keep the shard from everybody else.
const ANSWERS_PER_TURN_MAX: usize = 1_024;

/// What a turn or a flush found out about connections and messages.
#[derive(Default)]
pub(super) struct Notices {
    list: VecDeque<Notice>,
    /// Answers that came back in this turn.
    answers: usize,
}

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
    pub(super) fn begin_turn(&mut self) {
        self.answers = 0;
    }

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
            Some(TxOp::Answer { tried })
                if another_way_may_do(reason) && self.answers < ANSWERS_PER_TURN_MAX =>
            {
                self.answers += 1;
                let bytes = bytes.into();
                self.list.push_back(Notice::Answer {
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
        self.list.push_back(Notice::Event(event));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn deliver(&mut self, sink: &mut dyn FnMut(Event<'_>, Instant), now: Instant) {
        while let Some(notice) = self.list.pop_front() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ListenerId, Transport};

    #[test]
    fn so_many_answers_come_back_in_a_turn_and_the_next_has_as_many_again() {
        let mut notices = Notices::default();
        let flow = Flow {
            transport: Transport::Tcp,
            listener: ListenerId(0),
            peer: ([192, 0, 2, 1], 5060).into(),
            conn: None,
        };
        let mut in_a_turn = || {
            notices.begin_turn();
            for _ in 0..2 * ANSWERS_PER_TURN_MAX {
                notices.send_failed(Some(TxOp::ANSWER), flow, b"bytes", CloseReason::Reset);
            }
            let mut told = 0;
            let now = Instant::from_millis(1);
            notices.deliver(
                &mut |event, _| told += usize::from(matches!(event, Event::AnswerNotSent { .. })),
                now,
            );
            told
        };
        assert_eq!([in_a_turn(), in_a_turn()], [ANSWERS_PER_TURN_MAX; 2]);
    }
}
