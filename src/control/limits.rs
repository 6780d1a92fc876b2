//! Limits that were reached, as the log tells them: the first time at once, then at most once a second with how often since.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::{DropReason, Limit, Metrics, in_all};
use crate::time::Instant;

const PAUSE: Duration = Duration::from_secs(1);

/// How often a limit was reached, by shard.
type Count = fn(&Metrics) -> u64;

/// Limits that are counted elsewhere than in [`Metrics::limits_reached`], by the key that sets them.
const OTHERS: [(&str, Count); 5] = [
    ("limits.buffer_bytes_max", |m| m.buffers_refused.get()),
    ("limits.mailbox_bytes", |m| {
        m.drops[DropReason::MailboxFull as usize].get()
    }),
    ("limits.send_queue_bytes_sum_max", |m| {
        m.drops[DropReason::SendQueuesFull as usize].get()
    }),
    ("limits.connections_max", |m| {
        m.drops[DropReason::ConnectionsFull as usize].get()
    }),
    ("limits.connections_per_source_max", |m| {
        m.drops[DropReason::ConnectionsPerSourceFull as usize].get()
    }),
];

/// Every limit by the key that sets it, and how often all shards together have reached it.
pub fn reached(shards: &[Arc<Metrics>]) -> impl Iterator<Item = (&'static str, u64)> {
    let refusals = (Limit::ALL.iter()).map(|&limit| {
        (
            limit.text(),
            in_all(shards, |m| m.limits_reached[limit as usize].get()),
        )
    });
    refusals.chain(OTHERS.iter().map(|&(key, count)| (key, in_all(shards, count))))
}

/// What was seen of one limit.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// How often it had been reached when it was told last.
    told: u64,
    told_at: Option<Instant>,
}

/// One limit that is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    /// The key of the configuration.
    pub limit: String,
    /// How often since it was told last.
    pub times: u64,
}

#[derive(Default)]
pub struct LimitWatch {
    seen: HashMap<String, Seen>,
}

impl LimitWatch {
    /// What is to be told now. `counts`: limits by their keys, and how often each has been reached.
    pub fn look(
        &mut self,
        counts: impl Iterator<Item = (impl Into<String>, u64)>,
        now: Instant,
    ) -> Vec<Reached> {
        let mut told = Vec::new();
        for (limit, count) in counts.filter(|&(_, count)| count > 0) {
            let limit = limit.into();
            let seen = self.seen.entry(limit.clone()).or_default();
            // Fewer than before: a trunk that was taken out has come back.
            let times = count.checked_sub(seen.told).unwrap_or(count);
            if times == 0 || seen.told_at.is_some_and(|at| now.since(at) < PAUSE) {
                continue;
            }
            *seen = Seen {
                told: count,
                told_at: Some(now),
            };
            told.push(Reached { limit, times });
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_at_once_and_then_at_most_once_a_second_with_its_count() {
        let shards: Vec<Arc<Metrics>> = vec![Arc::default(), Arc::default()];
        let mut watch = LimitWatch::default();
        let mut told = |ms| watch.look(reached(&shards), Instant::from_millis(ms));
        assert_eq!(told(0), []);
        shards[0].limit_reached(Limit::Calls);
        shards[1].limit_reached(Limit::Calls);
        let calls = |times| Reached {
            limit: "limits.calls_max".to_owned(),
            times,
        };
        assert_eq!(told(500), [calls(2)]);
        shards[1].limit_reached(Limit::Calls);
        shards[0].buffers_refused.set(1);
        let buffers = Reached {
            limit: "limits.buffer_bytes_max".to_owned(),
            times: 1,
        };
        assert_eq!(told(1_499), [buffers], "calls have their pause");
        assert_eq!(told(1_500), [calls(1)]);
        assert_eq!(told(60_000), []);
    }
}
