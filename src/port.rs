//! The control port: what the control thread asks of a shard, and what a shard tells the control thread. One bounded channel
//! each way for each shard, so nothing is shared and nobody waits.
//!
//! A shard reads its asks once a turn ([`Shard::read_asks`](crate::shard::Shard::read_asks)) and is woken for them through
//! [`Wakers`](crate::io::waker::Wakers). It tells through [`Effects::tell`](crate::wire::Effects::tell), from wherever in the core something is
//! to be told; whoever runs the shard wakes the control thread, once a turn at most.
//!
//! What a shard tells is of one of two kinds:
//! - **News**: it says so of its own accord. What does not fit is dropped and counted under its [`TellKind`]: the control
//!   thread is never waited for. Messages of traces get no more than half of the room, so that a trace of a busy server takes none from
//!   call records and questions for DNS.
//! - **Answers**: to a question, an ask with a [`RequestId`]. At most [`ANSWERS_MAX`] questions are open at a time
//!   and so many places are kept free of news, so an answer is never lost.
//!
//! What an answer is written in (a page of a listing, a set to record in) comes with the question: a shard allocates nothing,
//! and what it gives back is freed by the control thread.

use std::sync::Arc;

use crate::capture::{Captured, Filter, TraceSet, TraceSlot};
use crate::channel::{self, channel};
use crate::config::Config;
use crate::domain::{Answer, Question};
use crate::json::Page;
use crate::metrics::{Metrics, Recorded, TellKind};
use crate::record::CallRecord;
use crate::time::DateShift;

/// Which question is answered: any number that the control thread likes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u32);

/// What can be listed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Listing {
    Registrations,
    Calls,
    Subscriptions,
    Connections,
}

/// Which configuration: the first has 0, and each reload counts one up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConfigId(pub u32);

impl ConfigId {
    pub const FIRST: ConfigId = ConfigId(0);

    pub const fn next(self) -> ConfigId {
        ConfigId(self.0.wrapping_add(1))
    }
}

/// What the control thread asks of a shard. The bytes that go with it are named at each.
#[derive(Debug)]
pub enum Ask {
    /// Take no new calls.
    Drain,
    /// A BYE to both sides of every call.
    HangUpAll,
    /// End after this turn.
    Stop,
    /// Go by this configuration from now on. It has the same listeners and as many shards. That it was taken up is seen in
    /// [`Metrics::config_id`]. The control thread keeps its own reference for as long as a shard may have one.
    Config {
        id: ConfigId,
        config: Arc<Config>,
    },
    /// Go on recording in this empty set, and give the other back; and show dates by `dates`. A question: [`Tell::Recorded`].
    Recorded {
        request: RequestId,
        empty: Box<Recorded>,
        dates: DateShift,
    },
    /// Tell what matches from now on, in this slot, in place of what was traced in it before. A question: [`Tell::Done`].
    Trace {
        request: RequestId,
        slot: TraceSlot,
        filter: Box<Filter>,
    },
    EndTrace {
        slot: TraceSlot,
    },
    /// List what there is from the slot `cursor` on, as much as one turn may take and `page` holds. Bytes: an address-of-record or
    /// a Call-ID that alone is wanted; empty: everything. A question: [`Tell::Page`].
    List {
        request: RequestId,
        listing: Listing,
        cursor: u32,
        page: Box<Page>,
    },
    /// Remove all bindings of a subscriber. Bytes: the address-of-record. A question: [`Tell::Done`].
    Unregister {
        request: RequestId,
    },
    /// A BYE to both sides of a call. A question: [`Tell::Done`].
    HangUp {
        request: RequestId,
        slot: u32,
        generation: u32,
    },
    /// DNS has answered a question: [`Tell::Resolve`].
    Resolved(Box<(Question, Answer)>),
}

/// What a shard tells the control thread. The bytes that go with it are named at each.
#[derive(Debug)]
pub enum Tell {
    /// An answer: what was recorded since the last such answer.
    Recorded {
        request: RequestId,
        recorded: Box<Recorded>,
    },
    /// News, where call records are kept: a call is over. With it [`Texts`](crate::record::Texts).
    CallRecord(CallRecord),
    /// News, while traces go on: a message that is of `traces`. With it the Call-ID that its call goes by, `call_len` bytes, and then
    /// the message itself.
    Captured {
        message: Captured,
        is_received: bool,
        traces: TraceSet,
        call_len: u32,
    },
    /// An answer: a page of a listing; the rest begins at `next`.
    Page {
        request: RequestId,
        page: Box<Page>,
        next: Option<u32>,
    },
    /// An answer: how many bindings or calls were ended.
    Done { request: RequestId, count: u32 },
    /// News: a question for DNS. Its answer comes as [`Ask::Resolved`].
    Resolve(Box<Question>),
}

impl Ask {
    /// Whether the shard will answer.
    pub const fn is_question(&self) -> bool {
        match self {
            Ask::Drain
            | Ask::HangUpAll
            | Ask::Stop
            | Ask::Config { .. }
            | Ask::Resolved(_)
            | Ask::EndTrace { .. } => false,
            Ask::Recorded { .. }
            | Ask::Trace { .. }
            | Ask::List { .. }
            | Ask::Unregister { .. }
            | Ask::HangUp { .. } => true,
        }
    }

    /// Orders must reach a shard however much else is asked of it: places are kept free for them.
    const fn is_order(&self) -> bool {
        match self {
            // Of the end of a trace there is one for each beginning, which finds a place only where others do: no more than there may be
            // traces stand in the places for orders.
            Ask::Drain | Ask::HangUpAll | Ask::Stop | Ask::Config { .. } | Ask::EndTrace { .. } => true,
            Ask::Recorded { .. }
            | Ask::List { .. }
            | Ask::Unregister { .. }
            | Ask::HangUp { .. }
            | Ask::Resolved(_)
            | Ask::Trace { .. } => false,
        }
    }
}

impl Tell {
    pub const fn kind(&self) -> TellKind {
        match self {
            Tell::Recorded { .. } => TellKind::Recorded,
            Tell::CallRecord(_) => TellKind::CallRecord,
            Tell::Captured { .. } => TellKind::Captured,
            Tell::Page { .. } => TellKind::Page,
            Tell::Done { .. } => TellKind::Done,
            Tell::Resolve(_) => TellKind::Resolve,
        }
    }

    pub const fn is_answer(&self) -> bool {
        match self {
            Tell::Recorded { .. } | Tell::Page { .. } | Tell::Done { .. } => true,
            Tell::Resolve(_) | Tell::CallRecord(_) | Tell::Captured { .. } => false,
        }
    }
}

/// Asks that can wait for a shard.
const ASKS_MAX: usize = 256;
/// Of these, places for orders alone.
const ORDERS_MAX: usize = 16;
/// Bytes of asks that can wait.
const ASK_BYTES_MAX: usize = 64 * 1_024;
/// Questions to one shard that can be open at a time.
pub const ANSWERS_MAX: usize = 64;
/// News and answers that can wait for the control thread.
const TELLS_MAX: usize = 8_192;
/// Bytes of news that can wait: some thousand call records, or some hundred messages.
const TELL_BYTES_MAX: usize = 1 << 20;
/// Places and bytes that are kept free of messages of traces.
const FREE_OF_TRACES: (usize, usize) = (TELLS_MAX / 2, TELL_BYTES_MAX / 2);
/// The longest bytes of one ask or news: a message.
pub const PORT_BYTES_MAX: usize = 65_536;

/// The shard's end, to read: asks.
pub type Asks = channel::Receiver<Ask>;

/// The shard's end, to write.
pub struct Teller {
    tells: channel::Sender<Tell>,
    metrics: Arc<Metrics>,
    has_told: bool,
}

/// The control thread's end.
pub struct ControlPort {
    asks: channel::Sender<Ask>,
    tells: channel::Receiver<Tell>,
    open_questions: usize,
}

/// A port for the shard that counts in `metrics`.
pub fn port(metrics: Arc<Metrics>) -> (ControlPort, Asks, Teller) {
    let (ask_in, ask_out) = channel(ASKS_MAX, ASK_BYTES_MAX);
    let (tell_in, tell_out) = channel(TELLS_MAX, TELL_BYTES_MAX);
    (
        ControlPort {
            asks: ask_in,
            tells: tell_out,
            open_questions: 0,
        },
        ask_out,
        Teller {
            tells: tell_in,
            metrics,
            has_told: false,
        },
    )
}

impl Teller {
    /// `false`: there was no room, and it is dropped and counted.
    pub fn tell(&mut self, tell: Tell, bytes: &[u8]) -> bool {
        let kind = tell.kind();
        let kept_free = match kind {
            TellKind::Recorded | TellKind::Page | TellKind::Done => (0, 0),
            TellKind::CallRecord | TellKind::Resolve => (ANSWERS_MAX, 0),
            TellKind::Captured => FREE_OF_TRACES,
        };
        let is_told =
            bytes.len() <= PORT_BYTES_MAX && self.tells.push_leaving(kept_free, tell, bytes).is_ok();
        if !is_told {
            self.metrics.tells_dropped[kind as usize].inc();
        }
        self.has_told |= is_told;
        is_told
    }

    /// Whether anything was told since this was last asked: then the control thread is to be woken.
    pub fn take_has_told(&mut self) -> bool {
        std::mem::take(&mut self.has_told)
    }
}

impl ControlPort {
    /// # Errors
    /// The shard has too much to do already: the ask comes back, to be tried again when it has told something.
    pub fn ask(&mut self, ask: Ask, bytes: &[u8]) -> Result<(), Ask> {
        let is_question = ask.is_question();
        if bytes.len() > PORT_BYTES_MAX || (is_question && self.open_questions == ANSWERS_MAX) {
            return Err(ask);
        }
        let kept_free = (if ask.is_order() { 0 } else { ORDERS_MAX }, 0);
        self.asks.push_leaving(kept_free, ask, bytes)?;
        self.open_questions += usize::from(is_question);
        Ok(())
    }

    /// What the shard tells next, with its bytes in `into`, which has room for [`PORT_BYTES_MAX`].
    pub fn next_tell(&mut self, into: &mut [u8]) -> Option<(Tell, usize)> {
        let (tell, len) = self.tells.pop(into)?;
        if tell.is_answer() {
            self.open_questions = self.open_questions.saturating_sub(1);
        }
        Some((tell, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(request: u32) -> Ask {
        Ask::Recorded {
            request: RequestId(request),
            empty: Box::default(),
            dates: DateShift::default(),
        }
    }

    #[test]
    fn orders_get_through_when_nothing_else_does_and_answers_make_room_for_questions() {
        let (mut control, mut asks, mut teller) = port(Arc::default());
        let mut open = 0;
        while control.ask(question(open), b"").is_ok() {
            open += 1;
        }
        assert_eq!(open as usize, ANSWERS_MAX);
        assert!(control.ask(Ask::Drain, b"").is_ok(), "an order is no question");
        let mut into = vec![0; PORT_BYTES_MAX];
        assert!(!teller.take_has_told());
        while let Some((ask, _)) = asks.pop(&mut into) {
            if let Ask::Recorded { request, empty, .. } = ask {
                let answer = Tell::Recorded {
                    request,
                    recorded: empty,
                };
                assert!(teller.tell(answer, b""));
            }
        }
        assert!(teller.take_has_told() && !teller.take_has_told());
        let mut answers = 0;
        while let Some((Tell::Recorded { request, .. }, _)) = control.next_tell(&mut into) {
            assert_eq!(request, RequestId(answers), "in order");
            answers += 1;
        }
        assert_eq!(answers, open);
        assert!(control.ask(question(open), b"").is_ok());
    }

    #[test]
    fn messages_of_traces_leave_room_for_other_news() {
        // With many bytes it is the room for bytes that ends, with few the places.
        for len in [2_000, 10] {
            let (mut control, _asks, mut teller) = port(Arc::default());
            let captured = || Tell::Captured {
                message: Captured {
                    at: crate::time::Instant::from_millis(1),
                    transport: crate::wire::Transport::Udp,
                    from: "127.0.0.1:5060".parse().expect("an address"),
                    to: "127.0.0.2:5060".parse().expect("an address"),
                },
                is_received: true,
                traces: TraceSet::default(),
                call_len: 0,
            };
            let bytes = vec![b'x'; PORT_BYTES_MAX];
            let mut told = 0;
            while teller.tell(captured(), &bytes[..len]) {
                told += 1;
            }
            assert!(told >= 200, "{told}");
            for round in 0..100 {
                let name = crate::domain::DomainName::new(b"one.att.net").expect("a name");
                let record_type = crate::domain::RecordType::A;
                let resolve = Tell::Resolve(Box::new(Question { name, record_type }));
                assert!(teller.tell(resolve, &bytes[..1_000]), "{len}: news {round}");
            }
            let mut into = vec![0; PORT_BYTES_MAX];
            while control.next_tell(&mut into).is_some() {}
            assert!(teller.tell(captured(), &bytes[..len]), "there is room again");
            assert!(teller.tell(captured(), &bytes), "the longest message");
        }
    }
}
