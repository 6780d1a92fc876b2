//! What the shards record, brought together: every second each shard is handed an empty set to record in for its full one, and told what
//! dates are shown by. Sums since the
//! start are kept for whoever shows them, intervals are written to files.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

use crate::control::history::{History, Sums};
use crate::control::hlog::HlogFiles;
use crate::control::lock;
use crate::control::ports::Ports;
use crate::control::status::Gauges;
use crate::io::clock::Clock;
use crate::metrics::{Histograms, Metrics, Recorded};
use crate::port::{Ask, Tell};
use crate::time::Instant;
use crate::wire::ShardId;

/// How old what is shown may be.
const SWAP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a shard may take to answer before the others are not kept waiting any more; its answer counts when it comes.
const ANSWER_TIME: Duration = Duration::from_millis(250);
/// The same for what it has been asked for when collecting ends, after which nobody would hear it.
const LAST_ANSWER_TIME: Duration = Duration::from_secs(2);

/// The sums, and the second and the interval that are running.
pub struct Collector {
    history: Arc<Mutex<History>>,
    second: RefCell<Histograms<u64>>,
    interval: RefCell<Histograms<u64>>,
    /// Taken out while a file is written.
    files: RefCell<Option<HlogFiles>>,
    interval_length: Duration,
    interval_since: Cell<Instant>,
    clock: Clock,
    /// What the shards count.
    metrics: Vec<Arc<Metrics>>,
    /// Sets that wait for their turn: as many as there are shards.
    spare: RefCell<Vec<Box<Recorded>>>,
    ends: Notify,
}

impl Collector {
    /// Writes every `interval_length` to `files`, where there are any.
    pub fn new(
        files: Option<HlogFiles>,
        interval_length: Duration,
        clock: Clock,
        metrics: Vec<Arc<Metrics>>,
    ) -> Collector {
        Collector {
            history: Arc::default(),
            second: RefCell::default(),
            interval: RefCell::default(),
            files: RefCell::new(files),
            interval_length,
            interval_since: Cell::new(clock.now()),
            clock,
            metrics,
            spare: RefCell::default(),
            ends: Notify::new(),
        }
    }

    /// Everything that was timed since the start, a second ago or less.
    pub fn history(&self) -> Arc<Mutex<History>> {
        Arc::clone(&self.history)
    }

    /// Has [`Collector::run`] come to its end: nothing that a shard has handed over, and no interval that is being written, is lost by it.
    pub fn end(&self) {
        self.ends.notify_one();
    }

    /// Collects until [`Collector::end`].
    pub async fn run(&self, ports: &Ports) {
        let mut open: BTreeMap<u8, oneshot::Receiver<Tell>> = BTreeMap::new();
        let mut ticks = tokio::time::interval(SWAP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_over = tokio::select! {
                _ = ticks.tick() => false,
                () = self.ends.notified() => true,
            };
            let time = if is_over { LAST_ANSWER_TIME } else { ANSWER_TIME };
            if !is_over {
                self.follow_date(ports);
                for shard in ports.shards() {
                    self.ask(ports, shard, &mut open);
                }
            }
            for shard in ports.shards() {
                let Some(answer) = open.get_mut(&shard.0) else {
                    continue;
                };
                let Ok(answer) = tokio::time::timeout(time, answer).await else {
                    continue;
                };
                open.remove(&shard.0);
                if let Ok(Tell::Recorded { recorded, .. }) = answer {
                    self.add(recorded);
                }
            }
            if is_over {
                return;
            }
            self.end_second();
            let running = self.clock.now().since(self.interval_since.get());
            if running + SWAP_INTERVAL / 2 >= self.interval_length {
                self.end_interval().await;
            }
        }
    }

    /// The system's date may have been set: by hand, by a time server, or while the machine slept.
    fn follow_date(&self, ports: &Ports) {
        if let Some(seconds) = self.clock.follow_date() {
            tracing::info!(seconds, "the system's date was set, and dates follow it");
        }
        ports.dates.set(self.clock.date_shift());
    }

    fn ask(&self, ports: &Ports, shard: ShardId, open: &mut BTreeMap<u8, oneshot::Receiver<Tell>>) {
        if open.contains_key(&shard.0) {
            return;
        }
        let empty = self.spare.borrow_mut().pop().unwrap_or_default();
        let dates = self.clock.date_shift();
        let question = |request| Ask::Recorded {
            request,
            empty,
            dates,
        };
        if let Some(answer) = ports.question(shard, question, b"") {
            open.insert(shard.0, answer);
        }
    }

    fn add(&self, mut recorded: Box<Recorded>) {
        self.second.borrow_mut().add(&recorded.histograms);
        if self.files.borrow().is_some() {
            self.interval.borrow_mut().add(&recorded.histograms);
        }
        lock(&self.history).busiest.add(recorded.peers.iter());
        recorded.reset();
        self.spare.borrow_mut().push(recorded);
    }

    /// The shards have ended and had this left. Gives everything since the start.
    pub async fn finish(self, left: &Histograms<u64>) -> Histograms<u64> {
        self.second.borrow_mut().add(left);
        self.interval.borrow_mut().add(left);
        self.end_second();
        self.end_interval().await;
        lock(&self.history).total().clone()
    }

    fn end_second(&self) {
        let mut second = self.second.borrow_mut();
        let mut sums = Sums::default();
        for shard in self.metrics.iter().map(|metrics| Gauges::of(metrics)) {
            sums.received += shard.received;
            sums.sent += shard.sent;
            sums.calls += shard.calls;
        }
        lock(&self.history).add(&second, sums, self.clock.now());
        second.reset();
    }

    async fn end_interval(&self) {
        let Some(mut files) = self.files.take() else {
            return;
        };
        let now = self.clock.now();
        let begun = self.interval_since.replace(now);
        let mut interval = self.interval.take();
        files.write(&interval, begun, now, self.clock.date_shift()).await;
        interval.reset();
        *self.interval.borrow_mut() = interval;
        *self.files.borrow_mut() = Some(files);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::io::waker::{ControlWaker, Wakers};
    use crate::metrics::Timed;
    use crate::port::port;

    #[test]
    fn what_a_shard_was_asked_for_counts_although_collecting_is_to_end() {
        let (control, mut asks, mut teller) = port(Arc::default());
        let wakers = Arc::new(Wakers::new(1).expect("an eventfd"));
        let control_waker = Arc::new(ControlWaker::new().expect("an eventfd"));
        let ports = Rc::new(Ports::new(vec![control], wakers, Arc::clone(&control_waker)));
        // As if the date had been set an hour forward since.
        let clock = Clock::start_ahead_by(-3_600);
        let collector = Rc::new(Collector::new(None, SWAP_INTERVAL, clock, vec![Arc::default()]));
        let sums = tokio_uring::start(async {
            let hearing = tokio_uring::spawn({
                let ports = Rc::clone(&ports);
                async move { ports.hear().await }
            });
            let collecting = tokio_uring::spawn({
                let (ports, collector) = (Rc::clone(&ports), Rc::clone(&collector));
                async move { collector.run(&ports).await }
            });
            let (request, mut recorded, dates) = loop {
                match asks.pop(&mut []) {
                    Some((
                        Ask::Recorded {
                            request,
                            empty,
                            dates,
                        },
                        _,
                    )) => break (request, empty, dates),
                    Some(_) => panic!("nothing else is asked"),
                    None => tokio::task::yield_now().await,
                }
            };
            let step = Duration::from_nanos(dates.as_nanos().unsigned_abs());
            assert_eq!((step + Duration::from_millis(500)).as_secs(), 3_600);
            assert_eq!((dates, ports.dates.get()), (clock.date_shift(), dates));
            // It is late, so that nobody waits for it at the moment.
            tokio::time::sleep(2 * ANSWER_TIME).await;
            collector.end();
            tokio::task::yield_now().await;
            recorded.histograms.record(Timed::Turn, Duration::from_millis(1));
            assert!(teller.tell(Tell::Recorded { request, recorded }, b""));
            control_waker.wake();
            collecting.await.expect("it comes to its end");
            hearing.abort();
            let collector = Rc::into_inner(collector).expect("nobody else has it");
            collector.finish(&Histograms::default()).await
        });
        assert_eq!(sums.get(Timed::Turn).len(), 1);
    }
}
