//! In which order the records of one SRV answer are tried (RFC 2782), with the randomness as an argument.

use crate::domain::{RECORDS_MAX, Srv};

/// A source of numbers that is fully told by its seed: the same seed gives the same order, so that retransmissions that pass
/// a stateless proxy take one way (RFC 3263 §4.4), and a test can say what happens.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// SplitMix64: all seeds are good ones.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `max`, both included.
    pub const fn up_to(&mut self, max: u32) -> u32 {
        (((self.next_u64() >> 32) * (max as u64 + 1)) >> 32) as u32
    }
}

/// Puts `records` into the order of RFC 2782: by priority, and within one priority drawn by weight.
pub fn sort_srv(records: &mut [Srv], random: &mut Random) {
    // §"Weight": records of weight 0 come first before the draw, so that they have a chance, if a small one.
    records.sort_unstable_by_key(|srv| (srv.priority, srv.weight != 0));
    let mut from = 0;
    while from < records.len() {
        let priority = records[from].priority;
        let end = from
            + records[from..]
                .iter()
                .take_while(|srv| srv.priority == priority)
                .count();
        draw_by_weight(&mut records[from..end], random);
        from = end;
    }
}

/// One after another: the first whose running sum of weights is the number drawn or more comes next.
fn draw_by_weight(records: &mut [Srv], random: &mut Random) {
    for from in 0..records.len() {
        let rest = &mut records[from..];
        let sum: u32 = rest.iter().map(|srv| u32::from(srv.weight)).sum();
        let drawn = random.up_to(sum);
        let mut running = 0;
        let chosen = rest.iter().position(|srv| {
            running += u32::from(srv.weight);
            running >= drawn
        });
        // The others keep their order: those of weight 0 stay in front.
        rest[..=chosen.unwrap_or(0)].rotate_right(1);
    }
}

const _: () = assert!(
    RECORDS_MAX < u16::MAX as usize,
    "the sum of the weights of one answer fits 32 bits"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn srv(priority: u16, weight: u16, port: u16) -> Srv {
        Srv {
            priority,
            weight,
            port,
            target: None,
        }
    }

    #[test]
    fn weights_decide_how_often_a_record_is_first() {
        let mut first = [0u32; 3];
        for seed in 0..60_000 {
            let mut records = [srv(1, 10, 0), srv(1, 20, 1), srv(1, 30, 2)];
            sort_srv(&mut records, &mut Random::new(seed));
            first[usize::from(records[0].port)] += 1;
        }
        for (share, wanted) in first.iter().zip([10_000, 20_000, 30_000]) {
            // The numbers drawn run from 0 to the sum, both included, so that the first gets 1 in 61 more than its share.
            assert!(share.abs_diff(wanted) < 1_000, "{first:?}");
        }
    }

    #[test]
    fn weight_zero_is_chosen_rarely_but_is() {
        let mut first_is_zero = 0;
        for seed in 0..11_000 {
            let mut records = [srv(1, 10, 1), srv(1, 0, 0)];
            sort_srv(&mut records, &mut Random::new(seed));
            first_is_zero += u32::from(records[0].port == 0);
        }
        assert!((800..1_200).contains(&first_is_zero), "{first_is_zero} of 11,000");
    }

    proptest! {
        #[test]
        fn an_order_keeps_every_record_and_obeys_priorities(
            list in prop::collection::vec((0u16..4, 0u16..=u16::MAX), 0..RECORDS_MAX), seed: u64,
        ) {
            let before: Vec<Srv> = list.iter().enumerate().map(|(i, &(p, w))| srv(p, w, i as u16)).collect();
            let mut after = before.clone();
            sort_srv(&mut after, &mut Random::new(seed));
            prop_assert!(after.is_sorted_by_key(|srv| srv.priority));
            let mut again = before.clone();
            sort_srv(&mut again, &mut Random::new(seed));
            prop_assert_eq!(&after, &again, "a seed tells all");
            after.sort_by_key(|srv| srv.port);
            prop_assert_eq!(after, before);
        }
    }
}
