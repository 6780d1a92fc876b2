//! Whether a destination is up, by the answers to its OPTIONS: a pure machine.

/// What its OPTIONS came to, lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Health {
    is_down: bool,
    /// Answers in a row that speak against the state that it is in.
    against: u8,
}

/// It has gone up or down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Up,
    Down,
}

impl Health {
    /// One that is `is_down`.
    pub fn new(is_down: bool) -> Health {
        Health { is_down, against: 0 }
    }

    pub fn is_down(self) -> bool {
        self.is_down
    }

    /// Takes the outcome of one OPTIONS in. Thresholds are at least 1.
    pub fn hear(&mut self, is_alive: bool, up_after: u8, down_after: u8) -> Option<Change> {
        if is_alive != self.is_down {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let (enough, change) = if self.is_down {
            (up_after, Change::Up)
        } else {
            (down_after, Change::Down)
        };
        if self.against < enough {
            return None;
        }
        *self = Health {
            is_down: !self.is_down,
            against: 0,
        };
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_decide_in_both_directions_and_one_word_against_starts_anew() {
        let mut health = Health::default();
        let mut hear = |is_alive| health.hear(is_alive, 2, 3);
        let heard: Vec<_> = [false, false, true, false, false, false, true, false, true, true]
            .map(&mut hear)
            .into();
        let mut expected = vec![None; 10];
        expected[5] = Some(Change::Down);
        expected[9] = Some(Change::Up);
        assert_eq!(heard, expected);
    }

    proptest! {
        #[test]
        fn changes_take_turns(pings in prop::collection::vec(any::<bool>(), 0..300), up in 1u8..5, down in 1u8..5) {
            let mut health = Health::default();
            let changes: Vec<_> = pings.iter().filter_map(|alive| health.hear(*alive, up, down)).collect();
            for (i, change) in changes.iter().enumerate() {
                prop_assert_eq!(*change, if i % 2 == 0 { Change::Down } else { Change::Up });
            }
            prop_assert_eq!(health.is_down(), changes.len() % 2 == 1);
        }
    }
}
