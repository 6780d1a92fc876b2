//! Traces that go on: who asked for one gets the messages that the shards tell of it. Nobody waits for who asked: a bounded number of
//! messages may wait to be taken, and what does not fit is counted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use crate::capture::{Captured, Filter, TRACES_MAX, TraceSet, TraceSlot};
use crate::control::ports::Ports;
use crate::port::{Ask, Tell};

/// Messages of one trace that may wait to be taken.
const WAITING_MAX: usize = 8_192;

/// A message as a trace has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traced {
    pub message: Captured,
    pub is_received: bool,
    /// The Call-ID that all legs of its call go by: that of the caller's.
    pub call: Box<[u8]>,
    pub bytes: Box<[u8]>,
}

/// All traces, by their slots.
#[derive(Default)]
pub struct Traces {
    takers: RefCell<[Option<Taker>; TRACES_MAX]>,
    /// The slot given last: one that was given back is left alone for as long as can be, since what was told of it may still come.
    last: Cell<usize>,
}

struct Taker {
    messages: mpsc::Sender<Rc<Traced>>,
    dropped: Rc<Cell<u64>>,
}

/// One trace. It ends when this is dropped.
pub struct Trace {
    ports: Rc<Ports>,
    slot: TraceSlot,
    messages: mpsc::Receiver<Rc<Traced>>,
    dropped: Rc<Cell<u64>>,
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
        for (index, taker) in self.takers.borrow().iter().enumerate() {
            if let Some(taker) = taker
                && traces.has(TraceSlot(index as u8))
                && taker.messages.try_send(Rc::clone(&traced)).is_err()
            {
                taker.dropped.set(taker.dropped.get() + 1);
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
        let dropped = Rc::new(Cell::new(0));
        let taker = Taker {
            messages: message_in,
            dropped: Rc::clone(&dropped),
        };
        let trace = Trace {
            slot: ports.traces.add(taker)?,
            ports: Rc::clone(ports),
            messages: message_out,
            dropped,
        };
        let ask = |request| Ask::Trace {
            request,
            slot: trace.slot,
            filter: Box::new(filter.clone()),
        };
        let begun = ports.shards().map(|shard| ports.question(shard, ask, b""));
        let begun = begun.collect::<Option<_>>()?;
        Some((trace, Begun(begun)))
    }

    /// The next message. `None`: the server stops.
    pub async fn next(&mut self) -> Option<Rc<Traced>> {
        self.messages.recv().await
    }

    /// Messages that came faster than they were taken.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
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
        self.ports.order(|| Ask::EndTrace { slot });
        self.ports.traces.remove(slot);
    }
}
