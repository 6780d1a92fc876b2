//! In which order the destinations of a trunk are tried for one call.

use crate::config::trunk::{DESTINATIONS_MAX, Select};
use crate::dns::order::Random;

/// What choosing knows of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its place in the trunk.
    pub index: u8,
    pub priority: u16,
    pub weight: u16,
    /// It kept silent lately: after all others, whatever its priority.
    pub is_suspect: bool,
    /// Calls now.
    pub calls: u32,
    /// The hash of what names it: it stays the same whatever else the trunk has.
    pub key: u64,
}

/// What decides among those of one priority.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    pub select: Select,
    /// Counts the calls of the trunk.
    pub turn: u32,
    /// The hash of the Call-ID.
    pub call: u64,
    pub random: Random,
}

/// Places of destinations, in the order in which they are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    list: [u8; DESTINATIONS_MAX],
    len: u8,
}

impl Order {
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.list[..usize::from(self.len)]
            .iter()
            .map(|index| usize::from(*index))
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Puts `candidates` into order; at most [`DESTINATIONS_MAX`] of them count.
pub fn order(candidates: &mut [Candidate], mut draw: Draw) -> Order {
    let len = candidates.len().min(DESTINATIONS_MAX);
    let candidates = &mut candidates[..len];
    let group = |candidate: &Candidate| (candidate.is_suspect, candidate.priority);
    candidates.sort_unstable_by_key(|candidate| (group(candidate), candidate.index));
    let mut from = 0;
    while from < len {
        let here = group(&candidates[from]);
        let count = candidates[from..].iter().take_while(|c| group(c) == here).count();
        order_equals(&mut candidates[from..from + count], &mut draw);
        from += count;
    }
    let mut order = Order::default();
    for (place, candidate) in order.list.iter_mut().zip(candidates.iter()) {
        *place = candidate.index;
    }
    order.len = len as u8;
    order
}

fn order_equals(equals: &mut [Candidate], draw: &mut Draw) {
    match draw.select {
        Select::RoundRobin => rotate(equals, draw.turn),
        Select::Weight => {
            for from in 0..equals.len() {
                let rest = &mut equals[from..];
                let chosen = by_weight(rest, &mut draw.random);
                rest[..=chosen].rotate_right(1);
            }
        }
        Select::Hash => {
            let call = draw.call;
            equals.sort_unstable_by(|a, b| {
                let by_score = score(b, call).total_cmp(&score(a, call));
                (a.weight == 0).cmp(&(b.weight == 0)).then(by_score)
            });
        }
        Select::LeastCalls => {
            // Among equals in turn, so that the first few calls spread as well.
            rotate(equals, draw.turn);
            equals.sort_by(|a, b| {
                // Weight 0 is for what is to be tried last.
                let load = |one: &Candidate, other: &Candidate| {
                    (u64::from(one.calls) + u64::from(one.weight == 0)) * u64::from(other.weight.max(1))
                };
                (a.weight == 0, load(a, b)).cmp(&(b.weight == 0, load(b, a)))
            });
        }
    }
}

fn rotate(equals: &mut [Candidate], turn: u32) {
    let by = turn as usize % equals.len().max(1);
    equals.rotate_left(by);
}

/// The place of one drawn by weight; where no weight is left, the first.
fn by_weight(rest: &[Candidate], random: &mut Random) -> usize {
    let sum: u32 = rest.iter().map(|candidate| u32::from(candidate.weight)).sum();
    if sum == 0 {
        return 0;
    }
    let drawn = random.up_to(sum - 1);
    let mut running = 0;
    rest.iter()
        .position(|candidate| {
            running += u32::from(candidate.weight);
            drawn < running
        })
        .unwrap_or(0)
}

/// Weighted rendezvous hashing: every destination draws a number for the call by itself, and the highest wins. Taking one
/// destination away changes nobody else's number, so only its own calls move.
fn score(candidate: &Candidate, call: u64) -> f64 {
    let drawn = Random::new(candidate.key ^ call.rotate_left(32)).next_u64();
    // From the open interval between 0 and 1: 53 bits are what a double holds.
    let unit = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    // -ln(u) is exponentially distributed: divided by the weight, the least of several is each one's in proportion to it.
    unit.ln() / f64::from(candidate.weight.max(1))
}

/// A hash of what names a call or a destination that is the same in every process, so that two servers choose alike.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    // FNV-1a, whose result is mixed once more: nearby texts would otherwise stay near.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Random::new(hash).next_u64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(index: u8, priority: u16, weight: u16) -> Candidate {
        Candidate {
            index,
            priority,
            weight,
            is_suspect: false,
            calls: 0,
            key: stable_hash(format!("sip:127.0.0.{index}:5060").as_bytes()),
        }
    }

    fn draw(select: Select, n: u32) -> Draw {
        Draw {
            select,
            turn: n,
            call: stable_hash(format!("call-{n}").as_bytes()),
            random: Random::new(u64::from(n)),
        }
    }

    fn ordered(candidates: &[Candidate], draw: Draw) -> Vec<usize> {
        order(&mut candidates.to_vec(), draw).iter().collect()
    }

    #[test]
    fn round_robin_takes_turns_within_the_best_priority() {
        let all = [candidate(0, 2, 1), candidate(1, 1, 1), candidate(2, 1, 1)];
        assert_eq!(ordered(&all, draw(Select::RoundRobin, 0)), [1, 2, 0]);
        assert_eq!(ordered(&all, draw(Select::RoundRobin, 1)), [2, 1, 0]);
        assert_eq!(ordered(&all, draw(Select::RoundRobin, 2)), [1, 2, 0]);
        let suspect = [
            all[0],
            Candidate {
                is_suspect: true,
                ..all[1]
            },
            all[2],
        ];
        assert_eq!(ordered(&suspect, draw(Select::RoundRobin, 0)), [2, 0, 1]);
    }

    #[test]
    fn weights_decide_shares() {
        for select in [Select::Weight, Select::Hash] {
            let all = [candidate(0, 1, 1), candidate(1, 1, 3), candidate(2, 1, 0)];
            let mut first = [0u32; 3];
            for n in 0..40_000 {
                first[ordered(&all, draw(select, n))[0]] += 1;
            }
            assert!(first[0].abs_diff(10_000) < 600, "{select:?} {first:?}");
            assert_eq!(first[2], 0, "weight 0 comes last");
        }
    }

    #[test]
    fn least_calls_compares_calls_by_weight() {
        let with = |index, weight, calls| Candidate {
            calls,
            ..candidate(index, 1, weight)
        };
        let all = [with(0, 1, 10), with(1, 2, 18), with(2, 1, 11), with(3, 0, 0)];
        assert_eq!(ordered(&all, draw(Select::LeastCalls, 7)), [1, 0, 2, 3]);
    }

    #[test]
    fn a_destination_that_goes_leaves_its_share_to_the_others_by_their_weights() {
        const CALLS: u32 = 30_000;
        let all = [candidate(0, 1, 1), candidate(1, 1, 2), candidate(2, 1, 3)];
        let rest = [all[0], all[1]];
        let (mut moved, mut to) = (0u32, [0u32; 3]);
        for n in 0..CALLS {
            let before = ordered(&all, draw(Select::Hash, n))[0];
            let after = ordered(&rest, draw(Select::Hash, n))[0];
            if before != after {
                assert_eq!(before, 2, "a call moved that need not");
                moved += 1;
                to[after] += 1;
            }
        }
        // Half of all calls were its own; they go to the others one to two.
        assert!(moved.abs_diff(CALLS / 2) < 500, "{moved}");
        assert!(to[0].abs_diff(CALLS / 6) < 400, "{to:?}");
    }

    #[test]
    fn one_call_always_goes_to_one_destination_by_its_call_id() {
        let all: Vec<_> = (0..5).map(|index| candidate(index, 1, 1)).collect();
        for n in 0..100 {
            let hash = |turn, seed| Draw {
                turn,
                random: Random::new(seed),
                ..draw(Select::Hash, n)
            };
            assert_eq!(ordered(&all, hash(1, 7)), ordered(&all, hash(99, 8)));
        }
    }

    #[test]
    fn turns_go_on_where_their_count_begins_anew() {
        let all = [candidate(0, 1, 1), candidate(1, 1, 1)];
        let first = |turn| {
            let draw = Draw {
                turn,
                ..draw(Select::RoundRobin, 0)
            };
            ordered(&all, draw)[0]
        };
        assert_eq!([u32::MAX - 1, u32::MAX, 0, 1].map(first), [0, 1, 0, 1]);
    }

    fn trunk() -> impl Strategy<Value = Vec<Candidate>> {
        prop::collection::vec((1u16..3, 0u16..20, any::<bool>(), 0u32..9), 1..DESTINATIONS_MAX).prop_map(
            |list| {
                let one = |(index, (priority, weight, is_suspect, calls))| Candidate {
                    is_suspect,
                    calls,
                    ..candidate(index as u8, priority, weight)
                };
                list.into_iter().enumerate().map(one).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn an_order_has_each_destination_once_and_obeys_priorities(
            all in trunk(), n: u32,
            select in prop::sample::select(vec![Select::RoundRobin, Select::Weight, Select::Hash, Select::LeastCalls]),
        ) {
            let order = ordered(&all, draw(select, n));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..all.len()).collect::<Vec<_>>());
            prop_assert!(order.is_sorted_by_key(|index| (all[*index].is_suspect, all[*index].priority)));
        }

        #[test]
        fn the_one_with_the_fewest_calls_for_its_weight_comes_first(all in trunk(), n: u32) {
            let first = all[ordered(&all, draw(Select::LeastCalls, n))[0]];
            let rivals = all.iter().filter(|one| {
                (one.is_suspect, one.priority) == (first.is_suspect, first.priority) && one.weight > 0
            });
            for rival in rivals {
                prop_assert!(first.weight > 0);
                prop_assert!(u64::from(first.calls) * u64::from(rival.weight) <= u64::from(rival.calls) * u64::from(first.weight));
            }
        }

        #[test]
        fn as_many_turns_as_destinations_give_each_one_call(count in 1u8..(DESTINATIONS_MAX as u8), from in 0u32..1_000_000) {
            let all: Vec<_> = (0..count).map(|index| candidate(index, 1, 1)).collect();
            let firsts = (0..u32::from(count)).map(|turn| ordered(&all, draw(Select::RoundRobin, from + turn))[0]);
            let mut firsts: Vec<_> = firsts.collect();
            firsts.sort_unstable();
            prop_assert_eq!(firsts, (0..usize::from(count)).collect::<Vec<_>>());
        }

        /// What makes a hash consistent: taking one away leaves the order of all others as it was.
        #[test]
        fn when_a_destination_goes_only_its_own_calls_move(all in trunk(), n: u32, gone: prop::sample::Index) {
            let gone = gone.index(all.len());
            let before = ordered(&all, draw(Select::Hash, n));
            let rest: Vec<Candidate> = all.iter().filter(|c| usize::from(c.index) != gone).copied().collect();
            let after = ordered(&rest, draw(Select::Hash, n));
            let expected: Vec<usize> = before.into_iter().filter(|index| *index != gone).collect();
            prop_assert_eq!(after, expected);
        }
    }
}
