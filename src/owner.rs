//! Which shard a Call-ID belongs to.
//!
//! The kernel computes the same for each datagram where a program steers it to its owner (`io::steer`), so the hash is one that
//! eBPF can do: SipHash-1-3 has nothing but additions, rotations and exclusive ors of 64-bit words. It is keyed and covers the
//! whole Call-ID, so nobody who does not know the key finds Call-IDs that all fall on one shard.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::wire::ShardId;

/// The key that all shards of one process share, and the kernel with them.
#[derive(Clone, Copy)]
pub struct OwnerKey([u8; 16]);

impl OwnerKey {
    /// `bytes` must come from the system's random source.
    pub const fn new(bytes: [u8; 16]) -> OwnerKey {
        OwnerKey(bytes)
    }

    /// The shard that owns `call_id`, one of `shards`.
    pub fn shard(&self, call_id: &[u8], shards: usize) -> ShardId {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(call_id);
        ShardId((hasher.finish() % shards as u64) as u8)
    }

    /// The two words of the key as SipHash takes them.
    pub fn words(&self) -> [u64; 2] {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| self.0[at + i]));
        [word(0), word(8)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_ids_spread_over_the_shards_and_differently_under_another_key() {
        let (one, other) = (OwnerKey::new([1; 16]), OwnerKey::new([2; 16]));
        let mut counts = [0; 4];
        let mut moved = 0;
        for number in 0..4_000 {
            let call_id = format!("{number}@192.0.2.1");
            let owner = one.shard(call_id.as_bytes(), 4);
            counts[usize::from(owner.0)] += 1;
            moved += usize::from(owner != other.shard(call_id.as_bytes(), 4));
        }
        assert!(
            counts.iter().all(|count| (900..1_100).contains(count)),
            "{counts:?}"
        );
        assert!((2_800..3_200).contains(&moved), "{moved}");
    }

    #[test]
    fn a_long_call_id_counts_to_its_end() {
        let key = OwnerKey::new([7; 16]);
        let owners: std::collections::BTreeSet<u8> = (0..64)
            .map(|number| key.shard(format!("{:0300}-{number}", 0).as_bytes(), 8).0)
            .collect();
        assert_eq!(owners.len(), 8);
    }
}
