//! Tables that a file may have many of, such as `[[route]]`: each is a row with keys of its own, read by the same schema and
//! with the same error texts as the keys that stand once.

use super::key::Key;
use super::load::{Given, Item, set};
use super::{ConfigError, Origin};

/// One table: what it says, and where.
#[derive(Clone, Debug)]
pub struct Row<S> {
    pub value: S,
    /// Where the table begins.
    pub origin: Origin,
    /// For each of its keys whether and where it was given.
    given: Vec<Given>,
}

impl<S: Default> Row<S> {
    pub(super) fn new(keys: &[Key<S>], origin: Origin) -> Row<S> {
        Row {
            value: S::default(),
            origin,
            given: vec![Given::Not; keys.len()],
        }
    }

    /// Gives the key `name` a value, or says what is wrong with it. `false`: there is no such key.
    pub(super) fn give(
        &mut self,
        keys: &[Key<S>],
        name: &str,
        item: &Item,
        errors: &mut Vec<ConfigError>,
    ) -> bool {
        let Some(index) = keys.iter().position(|key| key.name == name) else {
            return false;
        };
        self.given[index] = set(&mut self.value, &keys[index], item, errors);
        true
    }

    /// Where a key was given; `Some(Default)` when nobody gave it, `None` when what was given is wrong and told already.
    pub(super) fn origin_of(&self, keys: &[Key<S>], name: &str) -> Option<Origin> {
        let index = keys
            .iter()
            .position(|key| key.name == name)
            .expect("the schema has the key");
        match self.given[index] {
            Given::Not => Some(Origin::Default),
            Given::At(origin) => Some(origin),
            Given::Broken => None,
        }
    }
}
