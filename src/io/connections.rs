//! How many TCP connections the process holds, in all and per source. All shards share it; it is touched only when a
//! connection comes or goes.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::AHashMap;

use crate::config::Limits;
use crate::metrics::DropReason;

/// Counts against `limits.connections_max` and `limits.connections_per_source_max`.
#[derive(Debug)]
pub struct Connections {
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    total_max: usize,
    per_source_max: usize,
    total: usize,
    by_source: AHashMap<IpAddr, usize>,
}

/// The right to hold one connection; given back on drop.
#[derive(Debug)]
pub(super) struct Seat {
    connections: Arc<Connections>,
    source: Option<IpAddr>,
}

impl Connections {
    pub fn new(limits: &Limits) -> Connections {
        Connections {
            counts: Mutex::new(Counts {
                total_max: limits.connections_max,
                per_source_max: limits.connections_per_source_max,
                total: 0,
                by_source: AHashMap::new(),
            }),
        }
    }

    /// Other limits from now on. Connections beyond them stay.
    pub fn set_limits(&self, limits: &Limits) {
        let mut counts = self.lock();
        counts.total_max = limits.connections_max;
        counts.per_source_max = limits.connections_per_source_max;
    }

    /// Connections of the whole process, accepted and opened.
    pub fn total(&self) -> usize {
        self.lock().total
    }

    /// A seat for a connection accepted from `source`, or for one of our own (`None`), which counts only in all.
    pub(super) fn admit(self: &Arc<Self>, source: Option<IpAddr>) -> Result<Seat, DropReason> {
        let source = source.map(source_of);
        let mut counts = self.lock();
        if counts.total >= counts.total_max {
            return Err(DropReason::ConnectionsFull);
        }
        if let Some(source) = source {
            // No entry is made for a source that is turned away.
            if counts.by_source.get(&source).copied().unwrap_or(0) >= counts.per_source_max {
                return Err(DropReason::ConnectionsPerSourceFull);
            }
            *counts.by_source.entry(source).or_insert(0) += 1;
        }
        counts.total += 1;
        Ok(Seat {
            connections: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // The counts are whole at every point where a holder could panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.connections.lock();
        counts.total -= 1;
        if let Some(source) = self.source {
            let left = counts.by_source.get(&source).map_or(0, |count| count - 1);
            if left == 0 {
                counts.by_source.remove(&source);
            } else {
                counts.by_source.insert(source, left);
            }
        }
    }
}

/// One source is one IPv4 address or one IPv6 network of 64 bits: whoever has one address of such a network has them all.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn connections(total: usize, per_source: usize) -> Arc<Connections> {
        let limits = Limits {
            connections_max: total,
            connections_per_source_max: per_source,
            ..Config::default().limits
        };
        Arc::new(Connections::new(&limits))
    }

    #[test]
    fn a_source_at_its_limit_keeps_nobody_else_out() {
        let connections = connections(3, 1);
        let (one, other) = (
            IpAddr::from([192, 0, 2, 1]),
            "2001:db8::1".parse().expect("an address"),
        );
        let seat = connections.admit(Some(one)).expect("room");
        assert_eq!(
            connections.admit(Some(one)).err(),
            Some(DropReason::ConnectionsPerSourceFull)
        );
        let _other = connections.admit(Some(other)).expect("room");
        let neighbour = "2001:db8::ffff".parse().expect("an address");
        assert_eq!(
            connections.admit(Some(neighbour)).err(),
            Some(DropReason::ConnectionsPerSourceFull),
            "the same /64"
        );
        drop(seat);
        assert!(connections.admit(Some(one)).is_ok());
    }

    #[test]
    fn other_limits_are_for_who_comes_next() {
        let connections = connections(2, 2);
        let seats = [1, 2].map(|last| connections.admit(Some([192, 0, 2, last].into())));
        assert!(seats.iter().all(Result::is_ok));
        let limits = |total, per_source| Limits {
            connections_max: total,
            connections_per_source_max: per_source,
            ..Config::default().limits
        };
        connections.set_limits(&limits(1, 1));
        assert_eq!(connections.total(), 2, "both stay");
        assert_eq!(connections.admit(None).err(), Some(DropReason::ConnectionsFull));
        connections.set_limits(&limits(9, 1));
        assert!(connections.admit(None).is_ok());
        assert_eq!(
            connections.admit(Some([192, 0, 2, 1].into())).err(),
            Some(DropReason::ConnectionsPerSourceFull)
        );
    }

    #[test]
    fn the_limit_in_all_counts_our_own_connections_too_and_is_given_back() {
        let connections = connections(2, 9);
        let seats = [
            connections.admit(None),
            connections.admit(Some([127, 0, 0, 1].into())),
        ];
        assert!(seats.iter().all(Result::is_ok));
        assert_eq!(connections.admit(None).err(), Some(DropReason::ConnectionsFull));
        drop(seats);
        assert_eq!(connections.total(), 0);
        assert!(
            connections.lock().by_source.is_empty(),
            "nothing is left of a source that has gone"
        );
    }
}
