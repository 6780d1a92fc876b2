//! The loop of one shard. Production runs it to its end on a thread of its own; the simulator turns it by hand.

use std::io;
use std::time::Duration;

use crate::io::reactor::Reactor;
use crate::metrics::Recorded;
use crate::port::Teller;
use crate::shard::{Leftovers, Shard};
use crate::time::Instant;
use crate::wire::Effects;

/// How often a shard publishes its gauges while nothing happens.
const IDLE_TURN_MAX: Duration = Duration::from_millis(500);

/// What one shard says when it has ended.
pub struct ShardReport {
    /// What the control thread has not taken yet.
    pub recorded: Box<Recorded>,
    pub leftovers: Leftovers,
}

/// One shard with all that it needs to be turned.
pub(crate) struct ShardLoop {
    shard: Shard,
    out: Effects,
    /// The last turn left work for the next, which must not wait.
    is_busy: bool,
}

impl ShardLoop {
    pub(crate) fn new(shard: Shard, out: Effects) -> ShardLoop {
        ShardLoop {
            shard,
            out,
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

    /// One turn: waits, hands the shard what happened, and lets out what it led to. `false`: it was asked to end.
    ///
    /// # Errors
    /// Those of the reactor: it can't go on.
    pub(crate) fn turn(&mut self, reactor: &mut impl Reactor) -> io::Result<bool> {
        let deadline = self.deadline(reactor.now());
        let (shard, out) = (&mut self.shard, &mut self.out);
        let now = reactor.turn(Some(deadline), &mut |event, now| shard.handle(event, now, out))?;
        if reactor.leaves_datagrams() {
            shard.note_datagrams_left(now);
        }
        if let Some(wait) = reactor.streams_wait() {
            shard.note_streams_wait(now, wait);
        }
        self.is_busy = shard.read_mail(now, out);
        self.is_busy |= shard.run_timers(now, out);
        self.is_busy |= shard.read_asks(now, out);
        if let Some(cfg) = shard.take_new_config() {
            reactor.configure(&cfg.limits);
        }
        shard.export(now, out);
        reactor.flush(out);
        shard.record_handled(now, reactor.now());
        shard.publish(&out.pool);
        Ok(!shard.is_stopping())
    }

    /// Whether the turns since this was last asked have told the control thread anything: then it is to be woken.
    pub(crate) fn take_has_told(&mut self) -> bool {
        self.out.teller.as_mut().is_some_and(Teller::take_has_told)
    }

    /// What the shard holds now.
    pub(crate) fn in_use(&self) -> Leftovers {
        self.shard.in_use(&self.out.pool)
    }

    /// Ends the shard in good order.
    pub(crate) fn end(mut self) -> ShardReport {
        let recorded = self.shard.take_recorded();
        let leftovers = self.shard.end(&mut self.out);
        ShardReport { recorded, leftovers }
    }
}

/// Turns a shard until it is asked to end.
pub(crate) fn turn_until_stopped(
    reactor: &mut impl Reactor,
    mut shard: ShardLoop,
    wake_control: impl Fn(),
) -> io::Result<ShardReport> {
    while shard.turn(reactor)? {
        if shard.take_has_told() {
            wake_control();
        }
    }
    Ok(shard.end())
}
