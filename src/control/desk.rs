//! The way from the admin server's connections to the ports: many ask, one loop of the control thread carries it out.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::capture::Filter;
use crate::config::reload::Reloaded;
use crate::json::Page;
use crate::metrics::Metrics;
use crate::port::{Ask, Listing, Tell};
use crate::time::Instant;
use crate::wire::ShardId;

use super::ports::Ports;
use super::traces::Trace;
use super::watch::{self, Wanted};

/// Bytes of one page of a listing. Of an entry that is longer (a call whose names are as long as messages may be) the texts are cut.
const PAGE_BYTES: usize = 256 * 1_024;

/// A page of a listing, and where the next begins.
pub type PageAnswer = (Box<Page>, Option<u32>);

/// Jobs that can wait for the loop.
const JOBS_MAX: usize = 256;

/// Something that only who owns the ports can do.
pub enum Job {
    List {
        shard: ShardId,
        listing: Listing,
        cursor: u32,
        wanted: Vec<u8>,
        to: oneshot::Sender<PageAnswer>,
    },
    Unregister {
        shard: ShardId,
        aor: Vec<u8>,
        to: oneshot::Sender<u32>,
    },
    HangUp {
        shard: ShardId,
        slot: u32,
        generation: u32,
        to: oneshot::Sender<u32>,
    },
    /// Its lines, as long as they are taken.
    Trace {
        filter: Filter,
        wanted: Wanted,
        now: Instant,
        metrics: Vec<Arc<Metrics>>,
        to: oneshot::Sender<mpsc::Receiver<Bytes>>,
    },
    Order(Order),
}

/// Something for whoever runs the server as a whole, and not for its shards one by one. `by` says who wants it, for the log.
pub enum Order {
    /// New calls get 503 from now on, and the server ends with the last call.
    Drain { by: By },
    /// Read the configuration again. The answer is what it led to, or what is wrong with it.
    Reload {
        by: By,
        to: oneshot::Sender<Result<Reloaded, String>>,
    },
}

/// Who asks: the user and process at the other end of the unix socket, or an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct By(pub Arc<str>);

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where jobs are handed in.
#[derive(Clone)]
pub struct Desk {
    jobs: mpsc::Sender<Job>,
    shards: usize,
}

/// The other end of the desk.
pub type Jobs = mpsc::Receiver<Job>;

/// The shard did not take the question, or the server is ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

pub fn desk(shards: usize) -> (Desk, Jobs) {
    let (jobs, rest) = mpsc::channel(JOBS_MAX);
    (Desk { jobs, shards }, rest)
}

impl Desk {
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(|index| ShardId(index as u8))
    }

    /// # Errors
    /// [`Busy`].
    pub async fn list(
        &self,
        shard: ShardId,
        listing: Listing,
        cursor: u32,
        wanted: &[u8],
    ) -> Result<PageAnswer, Busy> {
        let wanted = wanted.to_vec();
        self.ask(|to| Job::List {
            shard,
            listing,
            cursor,
            wanted,
            to,
        })
        .await
    }

    /// How many bindings were removed.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn unregister(&self, aor: &[u8]) -> Result<u32, Busy> {
        let mut sum = 0;
        for shard in self.shards() {
            // Which shard owns the subscriber is for the shards to know: the others have nothing to remove.
            let aor = aor.to_vec();
            sum += self.ask(|to| Job::Unregister { shard, aor, to }).await?;
        }
        Ok(sum)
    }

    /// How many calls were ended: 1 or 0.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn hang_up(&self, shard: ShardId, slot: u32, generation: u32) -> Result<u32, Busy> {
        self.ask(|to| Job::HangUp {
            shard,
            slot,
            generation,
            to,
        })
        .await
    }

    /// Begins a trace, which ends when its lines are not taken any more.
    ///
    /// # Errors
    /// [`Busy`]; also when there are as many traces as there may be.
    pub async fn trace(
        &self,
        filter: Filter,
        wanted: Wanted,
        now: Instant,
        metrics: Vec<Arc<Metrics>>,
    ) -> Result<mpsc::Receiver<Bytes>, Busy> {
        self.ask(|to| Job::Trace {
            filter,
            wanted,
            now,
            metrics,
            to,
        })
        .await
    }

    /// # Errors
    /// [`Busy`].
    pub async fn drain(&self, by: By) -> Result<(), Busy> {
        self.jobs
            .send(Job::Order(Order::Drain { by }))
            .await
            .map_err(|_| Busy)
    }

    /// What the new configuration led to, or what is wrong with it.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn reload(&self, by: By) -> Result<Result<Reloaded, String>, Busy> {
        self.ask(|to| Job::Order(Order::Reload { by, to })).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, Busy> {
        let (to, answer) = oneshot::channel();
        self.jobs.send(job(to)).await.map_err(|_| Busy)?;
        answer.await.map_err(|_| Busy)
    }
}

impl Job {
    /// Carries the job out; whoever waits is answered when the shard has. An order comes back.
    pub fn carry_out(self, ports: &Rc<Ports>) -> Option<Order> {
        match self {
            Job::List {
                shard,
                listing,
                cursor,
                wanted,
                to,
            } => {
                let ask = |request| Ask::List {
                    request,
                    listing,
                    cursor,
                    page: Box::new(Page::new(PAGE_BYTES)),
                };
                pass_on(ports.question(shard, ask, &wanted), to, |tell| match tell {
                    Tell::Page { page, next, .. } => Some((page, next)),
                    _ => None,
                });
            }
            Job::Unregister { shard, aor, to } => {
                let ask = |request| Ask::Unregister { request };
                pass_on(ports.question(shard, ask, &aor), to, count_of);
            }
            Job::HangUp {
                shard,
                slot,
                generation,
                to,
            } => {
                let ask = |request| Ask::HangUp {
                    request,
                    slot,
                    generation,
                };
                pass_on(ports.question(shard, ask, b""), to, count_of);
            }
            Job::Trace {
                filter,
                wanted,
                now,
                metrics,
                to,
            } => {
                if let Some((trace, begun)) = Trace::begin(ports, &filter) {
                    tokio::task::spawn_local(async move {
                        begun.everywhere().await;
                        let _ = to.send(watch::show(trace, &wanted, now, metrics));
                    });
                }
            }
            Job::Order(order) => return Some(order),
        }
        None
    }
}

fn count_of(tell: Tell) -> Option<u32> {
    match tell {
        Tell::Done { count, .. } => Some(count),
        _ => None,
    }
}

/// Hands the answer on when it comes. One that never comes drops `to`, which tells whoever waits.
fn pass_on<T: 'static>(
    answer: Option<oneshot::Receiver<Tell>>,
    to: oneshot::Sender<T>,
    pick: impl FnOnce(Tell) -> Option<T> + 'static,
) {
    let Some(answer) = answer else { return };
    tokio::task::spawn_local(async move {
        if let Some(picked) = answer.await.ok().and_then(pick) {
            // Who asked may have gone away since.
            let _ = to.send(picked);
        }
    });
}
