//! The control thread's side of all ports: the one place that asks shards, and the one reader of what they tell.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::control::records::CallRecords;
use crate::control::traces::Traces;
use crate::domain::Question;
use crate::io::waker::{ControlEar, ControlWaker, Wakers};
use crate::port::{Ask, ControlPort, PORT_BYTES_MAX, RequestId, Tell};
use crate::time::DateShift;
use crate::wire::ShardId;

/// Ports to all shards. Everything that runs on the control thread shares them.
pub struct Ports {
    ports: RefCell<Vec<ControlPort>>,
    /// Who waits for which answer.
    open: RefCell<HashMap<RequestId, oneshot::Sender<Tell>>>,
    next_request: Cell<u32>,
    /// What the times that shards tell are dated by.
    pub dates: Cell<DateShift>,
    /// Where call records go, if they are kept.
    records: RefCell<Option<CallRecords>>,
    pub traces: Traces,
    /// Questions for DNS, on their way to [`Names`](super::names::Names).
    questions_in: mpsc::UnboundedSender<(ShardId, Question)>,
    questions: Cell<Option<Questions>>,
    wakers: Arc<Wakers>,
    control_waker: Arc<ControlWaker>,
}

/// Tells read before others on the control thread have their turn.
const TELLS_PER_TURN: usize = 1_024;

/// Questions of the shards for DNS. Each shard bounds how many it has.
pub type Questions = mpsc::UnboundedReceiver<(ShardId, Question)>;

impl Ports {
    pub fn new(ports: Vec<ControlPort>, wakers: Arc<Wakers>, control_waker: Arc<ControlWaker>) -> Ports {
        let (questions_in, questions) = mpsc::unbounded_channel();
        Ports {
            questions_in,
            questions: Cell::new(Some(questions)),
            ports: RefCell::new(ports),
            open: RefCell::default(),
            next_request: Cell::new(0),
            dates: Cell::default(),
            records: RefCell::default(),
            traces: Traces::default(),
            wakers,
            control_waker,
        }
    }

    /// The questions for DNS, for the one who asks them.
    pub fn take_questions(&self) -> Option<Questions> {
        self.questions.take()
    }

    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.ports.borrow().len()).map(|index| ShardId(index as u8))
    }

    /// Tells every shard to do something that has no answer. `false`: one of them does not listen.
    pub fn order(&self, ask: impl Fn() -> Ask) -> bool {
        let mut all = true;
        for shard in self.shards() {
            if self.ask(shard, ask(), b"").is_err() {
                tracing::error!(shard = shard.0, "the shard does not listen any more");
                all = false;
            }
        }
        all
    }

    /// Asks a shard a question, made for the id that its answer will have. `None`: the shard has too many open already. The
    /// answer never comes if the shard ends before.
    pub fn question(
        &self,
        shard: ShardId,
        ask: impl FnOnce(RequestId) -> Ask,
        bytes: &[u8],
    ) -> Option<oneshot::Receiver<Tell>> {
        let request = RequestId(self.next_request.get());
        self.next_request.set(request.0.wrapping_add(1));
        self.ask(shard, ask(request), bytes).ok()?;
        let (answer_in, answer_out) = oneshot::channel();
        self.open.borrow_mut().insert(request, answer_in);
        Some(answer_out)
    }

    /// # Errors
    /// The shard has too much to do already: the ask comes back, to be tried again.
    pub fn ask(&self, shard: ShardId, ask: Ask, bytes: &[u8]) -> Result<(), Ask> {
        let mut ports = self.ports.borrow_mut();
        let asked = match ports.get_mut(usize::from(shard.0)) {
            Some(port) => port.ask(ask, bytes),
            None => Err(ask),
        };
        // Even a full port: the shard is to read it.
        self.wakers.wake(shard);
        asked
    }

    /// From now on call records go there, and no longer where they went before.
    pub fn set_records(&self, records: Option<CallRecords>) {
        *self.records.borrow_mut() = records;
    }

    /// What the shards have told before they ended.
    pub fn hear_the_rest(&self) {
        let mut bytes = vec![0; PORT_BYTES_MAX].into_boxed_slice();
        while self.read_tells(&mut bytes) {}
        self.traces.pass_all();
    }

    /// Reads what the shards tell, for ever.
    ///
    /// # Errors
    /// The eventfd can't be waited for.
    pub async fn hear(&self) -> io::Result<()> {
        tokio::select! {
            heard = self.read_for_ever() => heard,
            () = self.traces.keep_order() => Ok(()),
        }
    }

    async fn read_for_ever(&self) -> io::Result<()> {
        let ear = ControlEar::new(Arc::clone(&self.control_waker))?;
        let mut bytes = vec![0; PORT_BYTES_MAX].into_boxed_slice();
        loop {
            ear.woken().await?;
            while self.read_tells(&mut bytes) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// `true`: there may be more.
    fn read_tells(&self, bytes: &mut [u8]) -> bool {
        let mut more = false;
        for shard in self.shards() {
            for taken in 0.. {
                if taken == TELLS_PER_TURN {
                    more = true;
                    break;
                }
                let told = self.ports.borrow_mut()[usize::from(shard.0)].next_tell(bytes);
                let Some((tell, len)) = told else { break };
                self.on_tell(shard, tell, &bytes[..len]);
            }
        }
        more
    }

    fn on_tell(&self, shard: ShardId, mut tell: Tell, bytes: &[u8]) {
        put_dates(&mut tell, self.dates.get());
        match tell {
            Tell::Recorded { request, .. } | Tell::Page { request, .. } | Tell::Done { request, .. } => {
                self.answered(request, tell);
            }
            // Without anybody to ask, the shard ends the question itself when its time is over.
            Tell::Resolve(question) => _ = self.questions_in.send((shard, *question)),
            Tell::CallRecord(record) => {
                if let Some(records) = &*self.records.borrow() {
                    records.take(&record, bytes);
                }
            }
            Tell::Captured {
                message,
                is_received,
                traces,
                call_len,
            } => {
                let (call, bytes) = bytes.split_at(call_len as usize);
                self.traces.on_captured(message, is_received, traces, call, bytes);
            }
        }
    }

    fn answered(&self, request: RequestId, tell: Tell) {
        if let Some(asker) = self.open.borrow_mut().remove(&request) {
            // Who asked may have gone away since.
            let _ = asker.send(tell);
        }
    }
}

/// Times that are for people are dates from here on.
fn put_dates(tell: &mut Tell, dates: DateShift) {
    match tell {
        Tell::CallRecord(record) => {
            (record.began, record.ended) = (dates.date(record.began), dates.date(record.ended));
        }
        Tell::Captured { message, .. } => message.at = dates.date(message.at),
        Tell::Recorded { .. } | Tell::Page { .. } | Tell::Done { .. } | Tell::Resolve(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capture::{Captured, TraceSet};
    use crate::port::port;
    use crate::record::{CallRecord, Place};
    use crate::time::Instant;
    use crate::wire::Transport;

    #[test]
    fn an_answer_finds_who_asked_and_one_that_nobody_waits_for_does_no_harm() {
        let (control, mut asks, mut teller) = port(Arc::default());
        let wakers = Arc::new(Wakers::new(1).expect("an eventfd"));
        let control_waker = Arc::new(ControlWaker::new().expect("an eventfd"));
        let ports = Ports::new(vec![control], wakers, Arc::clone(&control_waker));
        let question = |request| Ask::Recorded {
            dates: DateShift::default(),
            request,
            empty: Box::default(),
        };
        let gone = ports.question(ShardId(0), question, b"");
        drop(gone);
        let asked = ports.question(ShardId(0), question, b"").expect("it has time");
        while let Some((Ask::Recorded { request, empty, .. }, _)) = asks.pop(&mut []) {
            let recorded = empty;
            assert!(teller.tell(Tell::Recorded { request, recorded }, b""));
        }
        assert!(teller.take_has_told());
        control_waker.wake();
        tokio_uring::start(async {
            tokio::select! {
                heard = ports.hear() => panic!("{heard:?}"),
                answer = asked => assert!(matches!(answer, Ok(Tell::Recorded { .. }))),
            }
        });
        assert!(ports.open.borrow().is_empty());
    }

    #[test]
    fn what_shards_tell_of_times_is_dated_as_the_systems_date_is() {
        let peer = ([127, 0, 0, 2], 5062).into();
        let transport = Transport::Udp;
        let [began, ended, dated] = [1_000, 1_090, 1_000 - 60].map(|s| Instant::from_millis(s * 1_000));
        let mut record = CallRecord::begun(began, Place { transport, peer }, None);
        record.ended = ended;
        let message = Captured {
            at: began,
            transport,
            from: peer,
            to: peer,
        };
        let dates = DateShift::from_nanos(-60_000_000_000);
        let mut told = [
            Tell::CallRecord(record),
            Tell::Captured {
                message,
                is_received: true,
                traces: TraceSet::default(),
                call_len: 0,
            },
        ];
        told.iter_mut().for_each(|tell| put_dates(tell, dates));
        let [Tell::CallRecord(record), Tell::Captured { message, .. }] = told else {
            panic!("they stay what they are")
        };
        assert_eq!((record.began, message.at), (dated, dated));
        assert_eq!(record.ended.since(record.began), Duration::from_secs(90));
    }
}
