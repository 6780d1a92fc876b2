//! From keys to slots of a table, without anything that moves when it grows.

use crate::room;

/// 128 bits of a keyed hash over what names something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key(pub u64, pub u64);

/// Finds the slot of a key. Slots with keys that fall together form chains through an array beside them, so that nothing
/// is ever hashed again or moved to make room: a table that grows by doubling does that to all it holds at once, and the
/// messages of that moment wait.
pub struct KeyIndex {
    /// The first slot of each chain, plus 1; 0 for none. Its length is a power of two.
    heads: Box<[u32]>,
    links: Vec<Link>,
    slots_max: usize,
}

#[derive(Clone, Copy)]
struct Link {
    key: Key,
    /// As in `heads`.
    next: u32,
}

/// Chains, at most: 16 MiB of heads, which the system provides as they are used, or all at once ([`KeyIndex::make_ready`]).
const CHAINS_MAX: usize = 1 << 22;

/// Heads in the smallest page that a system has.
const PAGE_HEADS: usize = 4_096 / size_of::<u32>();

fn chains_for(slots_max: usize) -> usize {
    slots_max.clamp(64, CHAINS_MAX).next_power_of_two()
}

impl KeyIndex {
    /// For about `slots_max` slots; more make the chains longer.
    pub fn new(slots_max: usize) -> KeyIndex {
        KeyIndex {
            heads: vec![0; chains_for(slots_max)].into_boxed_slice(),
            links: Vec::new(),
            slots_max,
        }
    }

    /// Has the system provide the memory of all heads now. Keys fall anywhere among them: otherwise each of the first messages waits while
    /// a page is found and cleared, with huge pages 2 MiB of it. For an index that holds nothing yet.
    ///
    /// # Panics
    /// The index was used.
    pub fn make_ready(&mut self) {
        assert!(self.links.is_empty(), "an index in use is ready");
        // That the heads are zero already is nothing that the compiler may rely on.
        for page in std::hint::black_box(&mut self.heads).chunks_mut(PAGE_HEADS) {
            page[0] = 0;
        }
    }

    /// For about `slots_max` slots from now on. Where that asks for more chains, all keys find their new ones at once: this is for
    /// limits that an operator raises.
    pub fn set_slots(&mut self, slots_max: usize) {
        self.slots_max = slots_max;
        let chains = chains_for(slots_max);
        if chains <= self.heads.len() {
            return;
        }
        let more = vec![0; chains].into_boxed_slice();
        for head in std::mem::replace(&mut self.heads, more) {
            // The chain from its end, so that what came last comes first again.
            let mut slots = Vec::new();
            let mut at = head;
            while at != 0 {
                slots.push(at - 1);
                at = self.links[at as usize - 1].next;
            }
            for slot in slots.into_iter().rev() {
                self.insert(self.links[slot as usize].key, slot);
            }
        }
    }

    /// The slot that was given `key` last, of those that still have it.
    pub fn get(&self, key: Key) -> Option<u32> {
        let mut at = self.heads[self.chain(key)];
        while at != 0 {
            let link = self.links[at as usize - 1];
            if link.key == key {
                return Some(at - 1);
            }
            at = link.next;
        }
        None
    }

    /// Gives `key` to `slot`, which must have none.
    pub fn insert(&mut self, key: Key, slot: u32) {
        let (chain, index) = (self.chain(key), slot as usize);
        let next = self.heads[chain];
        let link = Link { key, next };
        while index >= self.links.len() {
            room::push(&mut self.links, self.slots_max, link);
        }
        self.links[index] = link;
        self.heads[chain] = slot + 1;
    }

    /// Takes `key` from `slot`, if it has it.
    pub fn remove(&mut self, key: Key, slot: u32) {
        let chain = self.chain(key);
        let mut before: Option<usize> = None;
        let mut at = self.heads[chain];
        while at != 0 {
            let next = self.links[at as usize - 1].next;
            if at - 1 == slot {
                match before {
                    None => self.heads[chain] = next,
                    Some(before) => self.links[before].next = next,
                }
                return;
            }
            before = Some(at as usize - 1);
            at = next;
        }
    }

    /// A key is a hash already.
    fn chain(&self, key: Key) -> usize {
        key.0 as usize & (self.heads.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_until_it_is_removed_also_where_chains_are_long() {
        let mut index = KeyIndex::new(0);
        let key = |i: u64| Key(i % 7, i);
        for i in 0..1_000 {
            index.insert(key(i), i as u32);
        }
        for i in (0..1_000).step_by(3) {
            index.remove(key(i), i as u32);
            index.remove(key(i), i as u32);
        }
        for i in 0..1_000 {
            assert_eq!(index.get(key(i)), (i % 3 != 0).then_some(i as u32));
        }
        index.insert(key(3), 999_999);
        assert_eq!(index.get(key(3)), Some(999_999));
    }

    #[test]
    fn an_index_made_ready_is_an_empty_one() {
        let mut index = KeyIndex::new(10_000);
        index.make_ready();
        assert_eq!(index.get(Key(1_024, 0)), None);
        index.insert(Key(1_024, 0), 0);
        assert_eq!(index.get(Key(1_024, 0)), Some(0));
    }

    #[test]
    fn the_slot_that_came_last_hides_one_with_the_same_key_until_it_goes() {
        let mut index = KeyIndex::new(64);
        let key = Key(1, 2);
        index.insert(key, 5);
        index.insert(key, 3);
        assert_eq!(index.get(key), Some(3));
        index.remove(key, 3);
        assert_eq!(index.get(key), Some(5));
        index.remove(key, 5);
        assert_eq!(index.get(key), None);
    }

    #[test]
    fn more_chains_hold_the_same_keys() {
        let mut index = KeyIndex::new(64);
        let key = |i: u64| Key(i / 2, 0);
        for i in 0..1_000 {
            index.insert(key(i), i as u32);
        }
        index.set_slots(10);
        assert_eq!(index.heads.len(), 64, "fewer would only be slower");
        index.set_slots(1_000);
        assert_eq!(index.heads.len(), 1_024);
        for i in 0..500 {
            let slots = [2 * i + 1, 2 * i];
            for slot in slots {
                assert_eq!(index.get(key(2 * i)), Some(slot as u32));
                index.remove(key(2 * i), slot as u32);
            }
            assert_eq!(index.get(key(2 * i)), None);
        }
    }
}
