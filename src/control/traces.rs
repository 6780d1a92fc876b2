//! Traces that go on: who asked for one gets the messages that the shards tell of it. Nobody waits for who asked: a bounded number of
//! messages, and of their bytes, may wait to be taken, and what does not fit is counted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::capture::{Captured, Filter, TRACES_MAX, TraceSet, TraceSlot};
use crate::control::in_order::{InOrder, Told};
use crate::control::ports::Ports;
use crate::port::{Ask, Tell};

/// Messages of one trace that may wait to be taken.
const WAITING_MAX: usize = 8_192;
/// Bytes of them: who stops reading keeps no more than this, however long the messages are.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// How long a message waits at least, and half of how long it waits at most, for those before it that another shard has to tell.
const ORDER_TIME: Duration = Duration::from_millis(10);

/// A message as a trace has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traced {
    pub message: Captured,
    pub is_received: bool,
    /// The Call-ID that all legs of its call go by: that of the caller's.
    pub call: Box<[u8]>,
    pub bytes: Box<[u8]>,
}

impl Traced {
    /// Bytes of the message and of what its call is named by.
    pub fn size(&self) -> usize {
        self.call.len() + self.bytes.len()
    }
}

/// All traces, by their slots.
#[derive(Default)]
pub struct Traces {
    takers: RefCell<[Option<Taker>; TRACES_MAX]>,
    order: RefCell<InOrder>,
    /// Something was put in order.
    come: Notify,
    /// The slot given last: one that was given back is left alone for as long as can be, since what was told of it may still come.
    last: Cell<usize>,
}

struct Taker {
    messages: mpsc::Sender<Rc<Traced>>,
    counts: Rc<Counts>,
}

/// What both ends of a trace count.
#[derive(Default)]
struct Counts {
    dropped: Cell<u64>,
    /// Of the messages that wait to be taken.
    waiting_bytes: Cell<usize>,
}

impl Taker {
    fn offer(&self, traced: &Rc<Traced>) {
        let waiting = self.counts.waiting_bytes.get() + traced.size();
        if waiting <= WAITING_BYTES_MAX && self.messages.try_send(Rc::clone(traced)).is_ok() {
            self.counts.waiting_bytes.set(waiting);
        } else {
            self.counts.dropped.set(self.counts.dropped.get() + 1);
        }
    }
}

/// One trace. It ends when this is dropped.
pub struct Trace {
    ports: Rc<Ports>,
    slot: TraceSlot,
    /// Shards that were told to trace, the first of all.
    asked: usize,
    messages: mpsc::Receiver<Rc<Traced>>,
    counts: Rc<Counts>,
}

impl Traces {
    /// A message that a shard has told.
    pub fn on_captured(
        &self,
        message: Captured,
        is_received: bool,
        traces: TraceSet,
        call: &[u8],
        bytes: &[u8],
    ) {
        let traced = Rc::new(Traced {
            message,
            is_received,
            call: call.into(),
            bytes: bytes.into(),
        });
        self.order.borrow_mut().add(traced, traces);
        self.come.notify_one();
        let first = || self.order.borrow_mut().too_many();
        while let Some(told) = first() {
            self.offer(&told);
        }
    }

    /// Has messages come to who asked for them in the order of their times, for ever.
    pub async fn keep_order(&self) {
        loop {
            self.come.notified().await;
            while !self.order.borrow().is_empty() {
                tokio::time::sleep(ORDER_TIME).await;
                self.order.borrow_mut().pass(|told| self.offer(&told));
            }
        }
    }

    /// All traces end when their messages have been taken.
    pub fn end(&self) {
        self.takers.borrow_mut().fill_with(|| None);
    }

    /// Nothing more will be told.
    pub fn pass_all(&self) {
        let first = || self.order.borrow_mut().first();
        while let Some(told) = first() {
            self.offer(&told);
        }
    }

    fn offer(&self, (traced, traces): &Told) {
        for (index, taker) in self.takers.borrow().iter().enumerate() {
            if let Some(taker) = taker
                && traces.has(TraceSlot(index as u8))
            {
                taker.offer(traced);
            }
        }
    }

    fn add(&self, taker: Taker) -> Option<TraceSlot> {
        let mut takers = self.takers.borrow_mut();
        let free = (1..=TRACES_MAX)
            .map(|step| (self.last.get() + step) % TRACES_MAX)
            .find(|slot| takers[*slot].is_none())?;
        takers[free] = Some(taker);
        self.last.set(free);
        Some(TraceSlot(free as u8))
    }

    fn remove(&self, slot: TraceSlot) {
        self.takers.borrow_mut()[usize::from(slot.0)] = None;
    }
}

impl Trace {
    /// Begins to trace in all shards, each from when it has read that it is to. `None`: there are [`TRACES_MAX`] traces, or a shard has
    /// too much to do.
    pub fn begin(ports: &Rc<Ports>, filter: &Filter) -> Option<(Trace, Begun)> {
        let (message_in, message_out) = mpsc::channel(WAITING_MAX);
        let counts = Rc::new(Counts::default());
        let taker = Taker {
            messages: message_in,
            counts: Rc::clone(&counts),
        };
        let mut trace = Trace {
            asked: 0,
            slot: ports.traces.add(taker)?,
            ports: Rc::clone(ports),
            messages: message_out,
            counts,
        };
        let slot = trace.slot;
        let ask = |request| Ask::Trace {
            request,
            slot,
            filter: Box::new(filter.clone()),
        };
        let mut begun = Vec::new();
        for shard in ports.shards() {
            begun.push(ports.question(shard, ask, b"")?);
            trace.asked += 1;
        }
        Some((trace, Begun(begun)))
    }

    /// The next message. `None`: the server stops.
    pub async fn next(&mut self) -> Option<Rc<Traced>> {
        let traced = self.messages.recv().await?;
        let waiting = &self.counts.waiting_bytes;
        waiting.set(waiting.get().saturating_sub(traced.size()));
        Some(traced)
    }

    /// Messages that came faster than they were taken.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.get()
    }
}

/// Answers of the shards that a trace has begun.
pub struct Begun(Vec<oneshot::Receiver<Tell>>);

impl Begun {
    /// Waits for all of them: from then on nothing that matches is missed.
    pub async fn everywhere(self) {
        for answer in self.0 {
            // A shard that ends has nothing more to be traced.
            let _ = answer.await;
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let slot = self.slot;
        for shard in self.ports.shards().take(self.asked) {
            if self.ports.ask(shard, Ask::EndTrace { slot }, b"").is_err() {
                tracing::error!(shard = shard.0, "the shard does not listen any more");
            }
        }
        self.ports.traces.remove(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::domain::{Answer, DomainName, Question, RecordType};
    use crate::io::waker::{ControlWaker, Wakers};
    use crate::port::{Asks, Teller, port};
    use crate::time::Instant;
    use crate::wire::{ShardId, Transport};

    /// Ports to one shard that is not there, and its ends of them.
    fn ports() -> (Rc<Ports>, Asks, Teller) {
        let (control, asks, teller) = port(Arc::default());
        let wakers = Arc::new(Wakers::new(1).expect("an eventfd"));
        let control_waker = Arc::new(ControlWaker::new().expect("an eventfd"));
        let ports = Ports::new(vec![control], wakers, control_waker);
        (Rc::new(ports), asks, teller)
    }

    fn begun(ports: &Rc<Ports>) -> Option<(Trace, Begun)> {
        Trace::begin(ports, &Filter::CallId("c".into()))
    }

    #[test]
    fn the_end_of_a_trace_reaches_a_shard_that_has_no_time_for_anything_else() {
        let (ports, mut asks, _teller) = ports();
        let (trace, _begun) = begun(&ports).expect("a place");
        let slot = trace.slot;
        let resolved = || {
            let question = Question {
                name: DomainName::new(b"gw.example").expect("a name"),
                record_type: RecordType::A,
            };
            Ask::Resolved(Box::new((question, Answer::Failed)))
        };
        while ports.ask(ShardId(0), resolved(), b"").is_ok() {}
        assert!(begun(&ports).is_none());
        drop(trace);
        let mut ended = Vec::new();
        while let Some((ask, _)) = asks.pop(&mut []) {
            if let Ask::EndTrace { slot } = ask {
                ended.push(slot);
            }
        }
        assert_eq!(ended, [slot]);
    }

    #[test]
    fn who_stops_reading_keeps_no_more_bytes_than_may_wait_and_goes_on_later() {
        let (ports, _asks, _teller) = ports();
        let (mut trace, _begun) = begun(&ports).expect("a place");
        let traces = TraceSet::of(trace.slot);
        let message = Captured {
            at: Instant::from_millis(0),
            transport: Transport::Udp,
            from: ([127, 0, 0, 2], 5060).into(),
            to: ([127, 0, 0, 1], 5060).into(),
        };
        let tell = || {
            ports
                .traces
                .on_captured(message, true, traces, b"c", &[b'x'; 60_000])
        };
        (0..WAITING_MAX).for_each(|_| tell());
        ports.traces.pass_all();
        let fit = WAITING_BYTES_MAX / 60_001;
        assert_eq!(trace.dropped(), (WAITING_MAX - fit) as u64);
        tokio_uring::start(async {
            for _ in 0..fit {
                assert!(trace.next().await.is_some());
            }
            let dropped = trace.dropped();
            (0..fit).for_each(|_| tell());
            ports.traces.pass_all();
            assert_eq!(trace.dropped(), dropped, "there is room again");
        });
    }
}
