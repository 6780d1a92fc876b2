//! The registrar against a map.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::timer::TimerKind;

use super::*;

/// The slow twin: for each contact, when it ends, and the CSeq and expiry that it was last registered with.
#[derive(Clone, Default)]
struct Model(BTreeMap<usize, (Instant, u32, u32)>);

impl Model {
    /// RFC 3261 §10.3 step 7 as it reads. `None`: refused.
    fn register(&self, contacts: &[(usize, u32)], cseq: u32, now: Instant) -> Option<Model> {
        let mut after = self.clone();
        let mut touched = BTreeSet::new();
        for &(n, expires) in contacts {
            if expires > 0 && expires < 60 {
                return None;
            }
            match self.0.get(&n) {
                Some(&(_, before, said)) if before == cseq && !touched.contains(&n) => {
                    if said != expires {
                        return None;
                    }
                    continue;
                }
                Some(_) | None => {}
            }
            touched.insert(n);
            match expires {
                0 => after.0.remove(&n),
                _ => after
                    .0
                    .insert(n, (now + Duration::from_secs(u64::from(expires)), cseq, expires)),
            };
        }
        let is_too_many = after.0.len() > 4 && after.0.len() > self.0.len();
        (!is_too_many).then_some(after)
    }
}

#[derive(Clone, Debug)]
enum Act {
    Register {
        contacts: Vec<(usize, u32)>,
        is_stale: bool,
    },
    Star,
    Pass {
        seconds: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let expires = prop_oneof![Just(0_u32), Just(30), 60..400_u32];
    prop_oneof![
        5 => (proptest::collection::vec((0..6_usize, expires), 0..4), proptest::bool::weighted(0.1))
            .prop_map(|(contacts, is_stale)| Act::Register { contacts, is_stale }),
        1 => Just(Act::Star),
        3 => (0..200_u64).prop_map(|seconds| Act::Pass { seconds }),
    ]
}

proptest! {
    #[test]
    fn the_registrar_agrees_with_a_map(acts in proptest::collection::vec(act(), 1..60)) {
        let mut rig = Rig::with(|cfg| cfg.limits.contacts_per_aor_max = 4);
        let mut model = Model::default();
        let mut cseq = 0;
        for act in acts {
            match act {
                Act::Pass { seconds } => {
                    rig.advance(seconds);
                    let now = rig.now;
                    model.0.retain(|_, (at, _, _)| *at > now);
                }
                Act::Star => {
                    cseq += 1;
                    prop_assert!(rig.register(cseq, &["Contact: *", "Expires: 0"]).is_ok());
                    model.0.clear();
                }
                Act::Register { contacts, is_stale } => {
                    cseq += u32::from(!is_stale);
                    // What each says differs from what it said under any other number.
                    let lines: Vec<String> = contacts
                        .iter()
                        .map(|(n, expires)| format!("Contact: <sip:c{n}@192.0.2.1>;expires={expires};n={cseq}-{expires}"))
                        .collect();
                    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                    let after = model.register(&contacts, cseq, rig.now);
                    prop_assert_eq!(rig.register(cseq, &lines).is_ok(), after.is_some());
                    model = after.unwrap_or(model);
                }
            }
            let mut found = rig.look_up(ALICE).1;
            found.sort();
            let expected: Vec<String> = model.0.keys().map(|n| format!("sip:c{n}@192.0.2.1")).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(rig.pool.in_use(), model.0.len());
            prop_assert_eq!(rig.location.bindings(), model.0.len());
            prop_assert!(rig.wheel.len() <= 1);
        }
        let timer = Timer { kind: TimerKind::Binding, slot: 99, generation: 99 };
        prop_assert!(rig.location.on_timer(timer, &mut rig.wheel, rig.now).is_none());
    }
}
