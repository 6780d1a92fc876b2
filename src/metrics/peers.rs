//! Who sends and gets most: messages by the address of the other end, in a table of fixed size.
//!
//! The table is a Space-Saving sketch (Metwally, Agrawal, El Abbadi 2005) cut into sets by a keyed hash: an address has its place in one
//! set of [`WAYS`], and one that finds none takes that of the least there, with the least's weight as its own to begin with. So whoever is
//! busy keeps its place however many others come by, a message costs a look at one set, and nobody who does not know the key can push
//! a certain address out.

use std::net::{IpAddr, Ipv6Addr};

use ahash::RandomState;

/// Bits of the hash that choose a set.
const SET_BITS: u32 = 7;
const SETS: usize = 1 << SET_BITS;
/// Places of a set.
const WAYS: usize = 4;
/// Addresses that one table has room for.
pub const PEERS_MAX: usize = SETS * WAYS;

/// What RFC 4291 §2.5.5.2 puts before an IPv4 address.
const MAPPED: u128 = 0xffff << 32;

/// Messages that one address sent and was sent. No less: those before it had its place in the table are not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCount {
    pub ip: IpAddr,
    pub received: u64,
    pub sent: u64,
}

/// Two to a cache line.
#[derive(Clone, Copy, Default, Debug)]
struct Place {
    /// The address, of IPv4 as mapped. 0, which no peer has: the place is free.
    key: u128,
    received: u32,
    sent: u32,
    /// The weight of whoever was here before.
    inherited: u32,
}

impl Place {
    fn weight(&self) -> u32 {
        self.inherited
            .saturating_add(self.received)
            .saturating_add(self.sent)
    }
}

/// Messages by peer address, since the control thread last took them.
#[derive(Debug)]
pub struct Peers {
    /// By which an address has its set.
    keys: [u64; 2],
    sets: [[Place; WAYS]; SETS],
}

impl Default for Peers {
    fn default() -> Self {
        Peers::new(RandomState::new())
    }
}

impl Peers {
    /// A table whose addresses have their sets by keys that `hasher` gives.
    pub fn new(hasher: RandomState) -> Peers {
        Peers {
            // Neither factor of the hash is mostly 0.
            keys: [hasher.hash_one(0), hasher.hash_one(1) | 1],
            sets: [[Place::default(); WAYS]; SETS],
        }
    }

    /// A message, or whatever it is, has come from `ip`.
    pub fn received(&mut self, ip: IpAddr) {
        let place = self.place(ip);
        place.received = place.received.saturating_add(1);
    }

    /// A message goes to `ip`.
    pub fn sent(&mut self, ip: IpAddr) {
        let place = self.place(ip);
        place.sent = place.sent.saturating_add(1);
    }

    fn place(&mut self, ip: IpAddr) -> &mut Place {
        let key = match ip {
            // As `to_ipv6_mapped` has it, without the way over bytes.
            IpAddr::V4(v4) => MAPPED | u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let set = &mut self.sets[self.set(key)];
        let way = match set.iter().position(|place| place.key == key) {
            Some(way) => way,
            None => {
                let least = (1..WAYS).fold(0, |least, way| {
                    if set[way].weight() < set[least].weight() {
                        way
                    } else {
                        least
                    }
                });
                set[least] = Place {
                    key,
                    inherited: set[least].weight(),
                    ..Place::default()
                };
                least
            }
        };
        &mut set[way]
    }

    /// One multiplication under secret keys, folded: it is enough to choose a set by, and a third of what a hash for all purposes takes.
    fn set(&self, key: u128) -> usize {
        let (low, high) = (key as u64 ^ self.keys[0], (key >> 64) as u64 ^ self.keys[1]);
        let product = u128::from(low) * u128::from(high);
        let folded = product as u64 ^ (product >> 64) as u64;
        (folded >> (u64::BITS - SET_BITS)) as usize
    }

    /// Those that have a place, in no order.
    pub fn iter(&self) -> impl Iterator<Item = PeerCount> {
        let places = self.sets.as_flattened().iter();
        places.filter(|place| place.key != 0).map(|place| PeerCount {
            ip: Ipv6Addr::from_bits(place.key).to_canonical(),
            received: place.received.into(),
            sent: place.sent.into(),
        })
    }

    /// Takes everything out.
    pub fn reset(&mut self) {
        self.sets.as_flattened_mut().fill(Place::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn of(peers: &Peers, ip: IpAddr) -> Option<(u64, u64)> {
        let mut found = peers.iter().filter(|count| count.ip == ip);
        let counts = found.next().map(|count| (count.received, count.sent));
        assert!(found.next().is_none(), "one place an address");
        counts
    }

    #[test]
    fn an_address_is_counted_whatever_its_family() {
        let mut peers = Peers::default();
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        let v4: IpAddr = "192.0.2.1".parse().expect("an address");
        for _ in 0..3 {
            peers.received(v6);
            peers.sent(mapped);
        }
        peers.received(v4);
        assert_eq!((of(&peers, v6), of(&peers, v4)), (Some((3, 0)), Some((1, 3))));
        assert_eq!(peers.iter().count(), 2);
        peers.reset();
        assert_eq!(peers.iter().count(), 0);
    }

    #[test]
    fn who_is_busy_keeps_its_place_among_a_hundred_thousand_who_are_not() {
        let mut peers = Peers::default();
        let busy: Vec<IpAddr> = (0..8).map(ip).collect();
        let mut stranger = 1_000;
        for _ in 0..2_000 {
            for &busy in &busy {
                peers.received(busy);
                peers.sent(busy);
            }
            for _ in 0..50 {
                stranger += 1;
                peers.received(ip(stranger));
            }
        }
        let mut all: Vec<PeerCount> = peers.iter().collect();
        assert!(all.len() <= PEERS_MAX);
        all.sort_by_key(|count| std::cmp::Reverse(count.received));
        let first: std::collections::BTreeSet<IpAddr> = all[..8].iter().map(|count| count.ip).collect();
        assert_eq!(first, busy.iter().copied().collect());
        for count in &all[..8] {
            assert!(
                (1_900..=2_000).contains(&count.received) && (1_900..=2_000).contains(&count.sent),
                "{count:?}: no more than there were, and hardly any less"
            );
        }
        assert!(
            all[8].received < 100,
            "a stranger inherits no counts: {:?}",
            all[8]
        );
    }
}
