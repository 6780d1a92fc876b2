//! Tags, branches and Call-IDs that differ from each other and come out the same for the same seed.

/// SplitMix64: small, well mixed, and every seed gives a full period.
#[derive(Clone, Debug)]
pub struct Ids {
    state: u64,
}

impl Ids {
    pub fn new(seed: u64) -> Ids {
        Ids { state: seed }
    }

    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `length` letters and digits, as phones put into tags.
    pub fn text(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        (0..length)
            .map(|_| ALPHABET[(self.number() % ALPHABET.len() as u64) as usize] as char)
            .collect()
    }

    pub fn tag(&mut self) -> String {
        self.text(10)
    }

    /// RFC 3261 §8.1.1.7: a branch begins with the magic cookie.
    pub fn branch(&mut self) -> String {
        format!("z9hG4bK{}", self.text(22))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_same_seed_gives_the_same_ids_and_no_id_comes_twice() {
        let (mut one, mut two) = (Ids::new(7), Ids::new(7));
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let tag = one.tag();
            assert_eq!(tag, two.tag());
            assert!(seen.insert(tag));
        }
        assert_ne!(Ids::new(8).tag(), Ids::new(7).tag());
    }
}
