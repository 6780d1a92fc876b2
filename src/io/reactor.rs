//! What the core's loop asks of the outside: one turn, one flush. The ring is one implementation, the simulator another.

use std::io;
use std::time::Duration;

use crate::config::Limits;
use crate::time::Instant;
use crate::wire::{Effects, Event};

/// The outside of one shard.
///
/// The loop is `turn`, then `flush` of what the events led to, and again. Each event comes with the time at which its batch was
/// taken up, read once a turn.
pub trait Reactor {
    /// One turn: submits what is queued, waits until something happens or `deadline`, and hands each event to `sink`.
    ///
    /// `None` waits without limit; a deadline that has passed doesn't wait at all. A turn may come back early and without an
    /// event: because the shard was woken ([`Effect::Wake`](crate::wire::Effect::Wake) or
    /// [`Wakers::wake`](super::waker::Wakers::wake)), or because the reactor had something of its own to do.
    /// Returns the time at which the turn began to work, the same that `sink` is given.
    ///
    /// # Errors
    /// Only what makes going on impossible; nothing that a peer can cause.
    fn turn(
        &mut self,
        deadline: Option<Instant>,
        sink: &mut dyn FnMut(Event<'_>, Instant),
    ) -> io::Result<Instant>;

    /// Applies everything in `effects` in order, releases the buffers, and clears the list. Datagrams have left when it returns (or
    /// wait in a bounded queue), and so has what goes out on connections, as far as their peers take it. Events that come of it,
    /// such as [`Event::SendFailed`], are delivered by the next turn, which then doesn't wait.
    fn flush(&mut self, effects: &mut Effects);

    /// How long the bytes on connections that the last turn took up had waited, as far as can be told: no time where the turn took all
    /// that there was. `None`: there were none.
    fn streams_wait(&self) -> Option<Duration> {
        None
    }

    /// Whether the last turn took fewer datagrams than there were: it had all that a turn takes. `false` where that is not known.
    fn leaves_datagrams(&self) -> bool {
        false
    }

    /// Goes by these limits from now on, and by what has changed of the listeners; what is beyond limits already stays. Without limits of
    /// its own there is nothing to do.
    fn configure(&mut self, _limits: &Limits) {}

    fn now(&self) -> Instant;
}
