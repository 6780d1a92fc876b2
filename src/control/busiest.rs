//! Which peers are busiest: of each of the last seconds those with most messages, brought together when somebody asks.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::metrics::PeerCount;
use crate::time::Instant;

/// The longest span that can be asked for.
pub const SPAN_MAX_S: usize = 60;
/// Peers that are remembered of one second.
const PEERS_PER_SECOND: usize = 256;

/// What one peer sent and was sent over a span of time. Counts are no greater than what there was; of a peer that is not among the
/// busiest of each second they may be less.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peer {
    pub peer: IpAddr,
    pub received: u64,
    pub sent: u64,
    pub received_per_s: f64,
    pub sent_per_s: f64,
}

/// One second.
struct Second {
    since: Instant,
    until: Instant,
    peers: Vec<PeerCount>,
}

/// The last seconds.
#[derive(Default)]
pub struct Busiest {
    seconds: VecDeque<Second>,
    /// The second that is running: what shards have handed over.
    running: HashMap<IpAddr, PeerCount>,
}

impl Busiest {
    /// Takes in what one shard counted.
    pub fn add(&mut self, counts: impl Iterator<Item = PeerCount>) {
        counts.for_each(|count| add(&mut self.running, &count));
    }

    /// The running second is over.
    pub fn end_second(&mut self, now: Instant) {
        // Room is kept for as many as there are mostly, not for as many as there were once.
        let mut peers: Vec<PeerCount> = std::mem::take(&mut self.running).into_values().collect();
        keep_busiest(&mut peers, PEERS_PER_SECOND);
        peers.shrink_to_fit();
        let since = self.seconds.back().map_or(now, |last| last.until);
        if self.seconds.len() == SPAN_MAX_S {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second {
            since,
            until: now,
            peers,
        });
    }

    /// The `count` busiest of the last `seconds`, the busiest first.
    pub fn last(&self, seconds: usize, count: usize) -> Vec<Peer> {
        let from = self.seconds.len().saturating_sub(seconds.max(1));
        let span = self.seconds.range(from..);
        let mut sums = HashMap::new();
        for peer in span.clone().flat_map(|second| &second.peers) {
            add(&mut sums, peer);
        }
        let length: f64 = span
            .map(|second| second.until.since(second.since).as_secs_f64())
            .sum();
        let per_s = |messages: u64| {
            if length > 0.0 {
                messages as f64 / length
            } else {
                0.0
            }
        };
        let mut sums: Vec<PeerCount> = sums.into_values().collect();
        keep_busiest(&mut sums, count);
        sums.into_iter()
            .map(|sum| Peer {
                peer: sum.ip,
                received: sum.received,
                sent: sum.sent,
                received_per_s: per_s(sum.received),
                sent_per_s: per_s(sum.sent),
            })
            .collect()
    }
}

fn add(sums: &mut HashMap<IpAddr, PeerCount>, count: &PeerCount) {
    let sum = sums.entry(count.ip).or_insert(PeerCount {
        received: 0,
        sent: 0,
        ..*count
    });
    sum.received += count.received;
    sum.sent += count.sent;
}

/// Those with most messages, the busiest first.
fn keep_busiest(peers: &mut Vec<PeerCount>, count: usize) {
    peers.sort_unstable_by_key(|peer| (std::cmp::Reverse(peer.received + peer.sent), peer.ip));
    peers.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(last: u8, received: u64, sent: u64) -> PeerCount {
        PeerCount {
            ip: [192, 0, 2, last].into(),
            received,
            sent,
        }
    }

    #[test]
    fn shards_and_seconds_add_up_and_the_busiest_come_first() {
        let mut busiest = Busiest::default();
        assert!(busiest.last(10, 5).is_empty());
        busiest.end_second(Instant::from_millis(10_000));
        busiest.add([count(1, 90, 10), count(2, 1, 0)].into_iter());
        busiest.end_second(Instant::from_millis(11_000));
        busiest.add([count(1, 2, 0), count(2, 20, 20)].into_iter());
        busiest.add([count(2, 4, 0)].into_iter());
        busiest.end_second(Instant::from_millis(13_000));
        let one = |last: u8, received: u64, sent: u64, length: f64| Peer {
            peer: [192, 0, 2, last].into(),
            received,
            sent,
            received_per_s: received as f64 / length,
            sent_per_s: sent as f64 / length,
        };
        assert_eq!(busiest.last(1, 5), [one(2, 24, 20, 2.0), one(1, 2, 0, 2.0)]);
        assert_eq!(busiest.last(2, 5), [one(1, 92, 10, 3.0), one(2, 25, 20, 3.0)]);
        assert_eq!(busiest.last(usize::MAX, 1), [one(1, 92, 10, 3.0)]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut busiest = Busiest::default();
        for second in 0..SPAN_MAX_S as u64 * 2 {
            let crowd = (0..2_000u32).map(|number| PeerCount {
                ip: number.to_be_bytes().into(),
                received: u64::from(number),
                sent: second,
            });
            busiest.add(crowd);
            busiest.end_second(Instant::from_millis(second * 1_000));
        }
        assert_eq!(busiest.seconds.len(), SPAN_MAX_S);
        assert!(
            busiest
                .seconds
                .iter()
                .all(|second| second.peers.len() == PEERS_PER_SECOND)
        );
        let least = busiest.last(SPAN_MAX_S, usize::MAX).pop().map(|peer| peer.peer);
        assert_eq!(least, Some(1_744u32.to_be_bytes().into()));
    }
}
