//! A slab with a generation for each entry and a limit for all: a stale id finds nothing instead of somebody else.

use std::fmt;
use std::marker::PhantomData;

use slab::Slab;

use crate::room;

/// Names one entry of a [`Slots<T>`] for as long as it lives.
pub struct Id<T> {
    pub slot: u32,
    pub generation: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    pub const fn new(slot: u32, generation: u32) -> Id<T> {
        Id {
            slot,
            generation,
            kind: PhantomData,
        }
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.slot, self.generation) == (other.slot, other.generation)
    }
}
impl<T> Eq for Id<T> {}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// Entries that can be named.
pub const SLOTS_MAX: usize = u32::MAX as usize;

/// Entries of one kind, at most `limit` of them. Ids of removed entries never match again (until 2^32 later inserts).
pub struct Slots<T> {
    entries: Slab<(u32, T)>,
    generation: u32,
    limit: usize,
    /// One past the highest slot that was ever used.
    fresh: u32,
}

impl<T> Slots<T> {
    pub fn new(limit: usize) -> Slots<T> {
        Slots {
            entries: Slab::new(),
            generation: 0,
            limit: limit.min(SLOTS_MAX),
            fresh: 0,
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Another limit from now on. What is beyond it already stays until it goes. What comes beyond the room for the limits before moves
    /// all there is, once.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(SLOTS_MAX);
    }

    /// How many entries there have been in all, modulo 2^32.
    pub fn inserted(&self) -> u32 {
        self.generation
    }

    /// `None` when the limit is reached. Inlined, so that the entry is made where it is to lie.
    #[inline(always)]
    pub fn insert(&mut self, entry: T) -> Option<Id<T>> {
        (!self.is_full()).then(|| self.insert_beyond(entry))
    }

    /// As [`Slots::insert`], whatever the limit: for what takes the place of something else, or is within other limits.
    ///
    /// # Panics
    /// There are [`SLOTS_MAX`] entries.
    #[inline(always)]
    pub fn insert_beyond(&mut self, entry: T) -> Id<T> {
        assert!(self.entries.len() < SLOTS_MAX, "an entry that can't be named");
        if self.entries.len() == self.entries.capacity() {
            self.grow();
        }
        self.generation = self.generation.wrapping_add(1);
        let slot = self.entries.insert((self.generation, entry)) as u32;
        self.fresh = self.fresh.max(slot + 1);
        Id::new(slot, self.generation)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let more = room::more::<(u64, u32, T)>(self.entries.len(), self.limit);
        self.entries.reserve_exact(more);
    }

    /// The id that the next [`Slots::insert`] gives, for an entry whose own text must name it.
    pub fn next_id(&self) -> Id<T> {
        Id::new(self.entries.vacant_key() as u32, self.generation.wrapping_add(1))
    }

    pub fn get(&self, id: Id<T>) -> Option<&T> {
        self.entries
            .get(id.slot as usize)
            .filter(|(generation, _)| *generation == id.generation)
            .map(|(_, entry)| entry)
    }

    pub fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        self.entries
            .get_mut(id.slot as usize)
            .filter(|(generation, _)| *generation == id.generation)
            .map(|(_, entry)| entry)
    }

    pub fn remove(&mut self, id: Id<T>) -> Option<T> {
        self.get(id)?;
        Some(self.entries.remove(id.slot as usize).1)
    }

    /// The whole id of the entry now in `slot`.
    pub fn id_at(&self, slot: u32) -> Option<Id<T>> {
        self.entries
            .get(slot as usize)
            .map(|(generation, _)| Id::new(slot, *generation))
    }

    /// One past the highest slot that was ever used: with [`Slots::id_at`] a walk that allows changes on the way.
    pub fn slots(&self) -> u32 {
        self.fresh
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// In slot order, which is the same on every run of the same events.
    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        self.entries
            .iter()
            .map(|(slot, (generation, entry))| (Id::new(slot as u32, *generation), entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing_in_a_slot_used_again() {
        let mut slots = Slots::new(1);
        let first = slots.insert("first").expect("room");
        assert!(slots.insert("second").is_none(), "the limit holds");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second").expect("room");
        assert_eq!(first.slot, second.slot);
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&"second")));
        assert_eq!(slots.remove(first), None);
    }

    #[test]
    fn a_walk_ends_at_the_highest_slot_that_was_used_whatever_room_there_is() {
        let mut slots = Slots::new(1_000_000);
        let ids: Vec<Id<u8>> = (0..2_000).filter_map(|_| slots.insert(0)).collect();
        assert_eq!((ids.len(), slots.slots()), (2_000, 2_000));
        slots.remove(ids[10]);
        slots.insert(1);
        slots.remove(ids[1_999]);
        assert_eq!(slots.slots(), 2_000);
    }

    #[test]
    fn another_limit_takes_nothing_away() {
        let mut slots = Slots::new(2);
        let ids = [slots.insert(1), slots.insert(2)].map(|id| id.expect("room"));
        slots.set_limit(1);
        assert_eq!(ids.map(|id| slots.get(id).copied()), [Some(1), Some(2)]);
        assert!(slots.is_full() && slots.insert(3).is_none());
        let beyond = slots.insert_beyond(4);
        assert_eq!((slots.remove(beyond), slots.len()), (Some(4), 2));
        slots.remove(ids[0]);
        assert!(slots.insert(3).is_none(), "one is still there");
        slots.set_limit(2);
        assert!(slots.insert(3).is_some());
    }
}
