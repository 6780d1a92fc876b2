//! The loop of one shard. Production runs it to its end on a thread of its own; the simulator turns it by hand.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::control::summary::Histograms;
use crate::io::reactor::Reactor;
use crate::metrics::MessageKind;
use crate::shard::{Leftovers, Shard};
use crate::time::Instant;
use crate::wire::Effects;

/// Shortest and longest time that is told apart, nanoseconds; what is longer counts as the longest.
const TIME_MIN_NS: u64 = 100;
const TIME_MAX_NS: u64 = 60_000_000_000;

/// How often a shard publishes its gauges while nothing happens, and looks whether it has orders.
const IDLE_TURN_MAX: Duration = Duration::from_millis(500);

/// What the control thread has told the shards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Order {
    Serve,
    /// No new calls.
    Drain,
    /// A BYE to both sides of every call.
    HangUp,
    Stop,
}

/// What one shard says when it has ended.
pub struct ShardReport {
    pub histograms: Histograms,
    pub leftovers: Leftovers,
}

/// One shard with all that it needs to be turned.
pub(crate) struct ShardLoop {
    shard: Shard,
    out: Effects,
    histograms: Histograms,
    /// The order that was obeyed last.
    obeyed: u8,
    /// The last turn left work for the next, which must not wait.
    is_busy: bool,
}

impl ShardLoop {
    pub(crate) fn new(shard: Shard, out: Effects) -> ShardLoop {
        ShardLoop {
            shard,
            out,
            histograms: new_histograms(),
            obeyed: Order::Serve as u8,
            is_busy: false,
        }
    }

    /// Until when a turn that begins `now` may wait for something to happen.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        if self.is_busy {
            return now;
        }
        let idle_until = now + IDLE_TURN_MAX;
        self.shard
            .next_deadline()
            .map_or(idle_until, |at| at.min(idle_until))
    }

    /// One turn: waits, hands the shard what happened, and lets out what it led to. `false`: it was ordered to stop.
    ///
    /// # Errors
    /// Those of the reactor: it can't go on.
    pub(crate) fn turn(&mut self, reactor: &mut impl Reactor, order: &AtomicU8) -> io::Result<bool> {
        let deadline = self.deadline(reactor.now());
        let (shard, out) = (&mut self.shard, &mut self.out);
        let now = reactor.turn(Some(deadline), &mut |event, now| shard.handle(event, now, out))?;
        self.is_busy = shard.read_mail(now, out);
        self.is_busy |= shard.run_timers(now, out);
        let ordered = order.load(Ordering::Acquire);
        if ordered != self.obeyed {
            self.obeyed = ordered;
            if ordered >= Order::Drain as u8 {
                shard.drain();
            }
            if ordered >= Order::HangUp as u8 {
                shard.hang_up_all(now, out);
            }
        }
        shard.export(out);
        reactor.flush(out);
        let sent_at = reactor.now();
        for (kind, received_at) in shard.drain_handled() {
            self.histograms[kind as usize].saturating_record(sent_at.since(received_at).as_nanos() as u64);
        }
        shard.publish(&out.pool);
        Ok(ordered != Order::Stop as u8)
    }

    /// Ends the shard in good order.
    pub(crate) fn end(mut self) -> ShardReport {
        let leftovers = self.shard.end(&mut self.out);
        ShardReport {
            histograms: self.histograms,
            leftovers,
        }
    }
}

/// Turns a shard until it is ordered to stop.
pub(crate) fn turn_until_stopped(
    reactor: &mut impl Reactor,
    mut shard: ShardLoop,
    order: &AtomicU8,
) -> io::Result<ShardReport> {
    while shard.turn(reactor, order)? {}
    Ok(shard.end())
}

pub(super) fn new_histograms() -> Histograms {
    MessageKind::ALL
        .iter()
        .map(|_| Histogram::new_with_bounds(TIME_MIN_NS, TIME_MAX_NS, 3).expect("the bounds are right"))
        .collect()
}
