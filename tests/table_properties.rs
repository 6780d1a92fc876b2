//! The tables below the protocol against models that are plain lists: buffers, slots, and the choice of a shard.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use ringway::location::AorHasher;
use ringway::owner::OwnerKey;
use ringway::pool::{BufId, CLASS_BYTES, Pool};
use ringway::slots::{Id, Slots};

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    Append(prop::sample::Index, Vec<u8>),
    Retain(prop::sample::Index),
    Release(prop::sample::Index),
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        3 => vec(any::<u8>(), 0..3_000).prop_map(Step::Put),
        2 => (which(), vec(any::<u8>(), 0..3_000)).prop_map(|(which, bytes)| Step::Append(which, bytes)),
        1 => which().prop_map(Step::Retain),
        4 => which().prop_map(Step::Release),
        1 => (0..100_000_usize).prop_map(Step::Limit),
    ]
}

proptest! {
    #![proptest_config(config())]

    /// Buffers hold what was put into them until the last reference goes, and there are never more than the limit.
    #[test]
    fn a_pool_holds_what_a_map_holds(steps in vec(step(), 1..120)) {
        let mut pool = Pool::new(60_000);
        // What each buffer holds, and the references to it.
        let mut model: Vec<(BufId, Vec<u8>, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Put(bytes) => {
                    if let Some(id) = pool.put(&bytes) {
                        prop_assert!(model.iter().all(|(own, ..)| *own != id), "two buffers of one name");
                        model.push((id, bytes, 1));
                    }
                }
                Step::Append(which, bytes) if !model.is_empty() => {
                    let at = which.index(model.len());
                    let (id, held, references) = model[at].clone();
                    if let Some(new) = pool.append(id, &bytes) {
                        let whole = [held.clone(), bytes].concat();
                        model.remove(at);
                        // Another reference keeps what it had.
                        if references > 1 {
                            model.push((id, held, references - 1));
                        }
                        model.push((new, whole, 1));
                    }
                }
                Step::Retain(which) if !model.is_empty() => {
                    let at = which.index(model.len());
                    _ = pool.retain(model[at].0);
                    model[at].2 += 1;
                }
                Step::Release(which) if !model.is_empty() => {
                    let at = which.index(model.len());
                    pool.release(model[at].0);
                    model[at].2 -= 1;
                    if model[at].2 == 0 {
                        model.remove(at);
                    }
                }
                Step::Limit(bytes) => pool.set_limit(bytes),
                Step::Append(..) | Step::Retain(_) | Step::Release(_) => {}
            }
            for (id, bytes, _) in &model {
                prop_assert_eq!(pool.get(*id), &bytes[..]);
            }
            prop_assert_eq!(pool.in_use(), model.len());
        }
        for (id, _, references) in model {
            for _ in 0..references {
                pool.release(id);
            }
        }
        prop_assert_eq!(pool.in_use(), 0);
        prop_assert!(pool.draft(CLASS_BYTES[CLASS_BYTES.len() - 1] + 1).is_none());
    }

    /// An id finds its own entry while that lives, and nothing afterwards, however its slot is used again.
    #[test]
    fn slots_hold_what_a_map_holds(steps in vec((0..3_u8, any::<prop::sample::Index>(), 0..12_usize), 1..200)) {
        let mut slots: Slots<usize> = Slots::new(6);
        let mut alive: Vec<(Id<usize>, usize)> = Vec::new();
        let mut gone: Vec<Id<usize>> = Vec::new();
        for (nth, (what, which, limit)) in steps.into_iter().enumerate() {
            match what {
                0 => {
                    let next = slots.next_id();
                    let inserted = slots.insert(nth);
                    prop_assert_eq!(inserted.is_some(), alive.len() < slots.limit());
                    if let Some(id) = inserted {
                        prop_assert_eq!(id, next);
                        alive.push((id, nth));
                    }
                }
                1 if !alive.is_empty() => {
                    let (id, entry) = alive.swap_remove(which.index(alive.len()));
                    prop_assert_eq!(slots.remove(id), Some(entry));
                    gone.push(id);
                }
                1 => {}
                _ => slots.set_limit(limit),
            }
            prop_assert_eq!(slots.len(), alive.len());
            for (id, entry) in &alive {
                prop_assert_eq!(slots.get(*id), Some(entry));
                prop_assert_eq!(slots.id_at(id.slot), Some(*id));
            }
            for id in &gone {
                prop_assert!(slots.get(*id).is_none() && slots.get_mut(*id).is_none() && slots.remove(*id).is_none());
            }
        }
        let walked: Vec<Id<usize>> = (0..slots.slots()).filter_map(|slot| slots.id_at(slot)).collect();
        prop_assert_eq!(walked.len(), alive.len());
    }

    /// A Call-ID has one owner, the same wherever it is asked, under every number of shards; and so has a subscriber.
    #[test]
    fn whatever_has_an_owner_has_one(key: [u8; 16], words: [u64; 8], call_id in vec(any::<u8>(), 0..120), shards in 1..=64_usize) {
        let one = OwnerKey::new(key);
        let owner = one.shard(&call_id, shards);
        prop_assert!(usize::from(owner.0) < shards);
        prop_assert_eq!(OwnerKey::new(key).shard(&call_id, shards), owner);
        prop_assert_eq!(one.shard(&call_id, 1).0, 0);
        let user = format!("sip:{}@one.att.net", call_id.iter().map(|b| char::from(b'a' + b % 26)).collect::<String>());
        let aor = |hasher: &AorHasher| {
            let uri = ringway::msg::uri::Uri::parse(user.as_bytes()).ok()?;
            let cfg = ringway::config::Config::default();
            let aor = ringway::location::Aor::from_uri(&uri, &cfg).ok()?;
            Some(hasher.key(&aor).shard(shards))
        };
        let first = aor(&AorHasher::new(words));
        prop_assert_eq!(first, aor(&AorHasher::new(words)));
        prop_assert!(first.is_none_or(|shard| usize::from(shard.0) < shards));
    }
}

/// No shard gets much more than its part: of subscribers as of calls.
#[test]
fn owners_are_spread_evenly() {
    let key = OwnerKey::new([3; 16]);
    for shards in [2, 3, 8] {
        let mut counts = BTreeMap::new();
        for call in 0..16_000 {
            let owner = key.shard(format!("call-{call}@10.0.0.1").as_bytes(), shards);
            *counts.entry(owner.0).or_insert(0_usize) += 1;
        }
        let fair = 16_000 / shards;
        assert_eq!(counts.len(), shards);
        assert!(
            counts.values().all(|count| count.abs_diff(fair) < fair / 5),
            "{counts:?}"
        );
    }
}
