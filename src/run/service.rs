//! What the service manager is told: systemd's notification protocol, sd_notify(3).
//!
//! Without NOTIFY_SOCKET in the environment nobody listens and nothing is sent.

use sd_notify::NotifyState;

use crate::metrics::Metrics;

/// The ear of the service manager, and what it must hear in time.
pub struct Service {
    /// Whether the manager wants signs of life.
    is_watched: bool,
    /// Turns of each shard at the last sign of life.
    turns: Vec<u64>,
}

impl Service {
    /// Reads what the manager wants from the environment (WATCHDOG_USEC).
    pub fn new() -> Service {
        Service {
            is_watched: sd_notify::watchdog_enabled().is_some(),
            turns: Vec::new(),
        }
    }

    /// Serving has begun.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is being read again; [`Service::ready`] says when that is over. Newer managers (systemd 253) want to know when
    /// it began.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The end has begun: no new calls.
    pub fn stopping(&self, status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// A sign of life, given only if every shard has turned since the last one: a shard that hangs is what the watchdog is for,
    /// and an idle one turns twice a second all the same. Called at least that often, it serves a WatchdogSec of 2 s and more.
    pub fn alive<'a>(&mut self, shards: impl Iterator<Item = &'a Metrics>) {
        let turns: Vec<u64> = shards.map(|metrics| metrics.turns.get()).collect();
        if self.is_watched && has_every_shard_turned(&self.turns, &turns) {
            tell(&[NotifyState::Watchdog]);
            self.turns = turns;
        }
    }
}

/// Whether every shard has turned between two looks; of a shard that was not there before, any turn counts.
fn has_every_shard_turned(before: &[u64], now: &[u64]) -> bool {
    now.iter()
        .enumerate()
        .all(|(shard, now)| before.get(shard) != Some(now))
}

/// A manager that can't be told is not worth ending for; it will notice.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

#[cfg(test)]
mod tests {
    use super::has_every_shard_turned;

    #[test]
    fn one_shard_that_hangs_silences_the_sign_of_life() {
        assert!(has_every_shard_turned(&[], &[5, 7]));
        assert!(has_every_shard_turned(&[5, 7], &[6, 8]));
        assert!(!has_every_shard_turned(&[5, 7], &[6, 7]));
        assert!(!has_every_shard_turned(&[5, 7], &[5, 8]));
    }
}
