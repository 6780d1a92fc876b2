//! A hierarchical timing wheel: deadlines in ticks of 1 ms, inserted and cancelled in constant time.
//!
//! Eight levels of 64 slots: level 0 holds the ticks of the present 64 ms one a slot, each level above spans 64 times as
//! much. 64^8 ticks are more than an [`Instant`] can name, so there is no horizon. An entry lies at the level of the highest
//! bit in which its tick differs from the wheel's; when time reaches a slot of a higher level its entries move down. Lists
//! are doubly linked through one table, and a bitmap a level finds the next slot, so nothing is searched and nothing is
//! allocated once the table is as large as it needs to be.

use std::num::NonZeroU32;

use crate::room;
use crate::time::Instant;

/// What a deadline is for: the payload of the wheel of a shard. `slot` and `generation` name the entry of the table of that
/// kind; one that is gone by then makes the timer fall on nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer {
    pub kind: TimerKind,
    pub slot: u32,
    pub generation: u32,
}

/// Whose deadline it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerKind {
    /// A transaction: one of the timers of RFC 3261 table 4.
    Transaction,
    /// A call as a whole: its look-up, its longest duration.
    Call,
    /// The earliest expiry among the bindings of a subscriber (RFC 3261 §10.3).
    Binding,
    /// A subscription's expiry (RFC 6665 §4.2.1).
    Subscription,
    /// A subscriber without contacts is forgotten.
    Aor,
    /// A response context of a proxy: its look-up, or how long a group of places rings.
    Context,
    /// A TCP connection: idle, or a message that was begun.
    Stream,
    /// A question to DNS whose answer does not come.
    Question,
    /// The addresses of a trunk's destination hold no longer.
    Address,
    /// OPTIONS to a trunk's destination: to be sent, or not answered in time.
    Ping,
    /// A call over a trunk that is counted and whose end nobody has seen.
    TrunkCall,
    /// A call that the proxy has forwarded, of which a record is kept and whose end nobody has seen.
    ProxiedCall,
}

/// Names an entry of a [`Wheel`] until it is popped or cancelled; afterwards it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId {
    slot: u32,
    generation: NonZeroU32,
}

const TICK_NS: u64 = 1_000_000;
const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 8;

// The last tick that an `Instant` can name is within the top level.
const _: () = assert!(u64::MAX / TICK_NS < 1 << (LEVEL_BITS * LEVELS as u32));

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;
/// `Entry::list` of an entry that is free.
const FREE: u16 = u16::MAX;

struct Entry<T> {
    tick: u64,
    prev: u32,
    /// The next entry of the list, or of the free list.
    next: u32,
    generation: NonZeroU32,
    /// Index into `Wheel::lists`.
    list: u16,
    value: T,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List {
    head: NONE,
    tail: NONE,
};

/// Deadlines of one shard, each with a `T`.
pub struct Wheel<T> {
    /// Every entry due before this tick has been popped.
    tick: u64,
    /// For each level, which of its slots hold entries.
    occupied: [u64; LEVELS],
    lists: Box<[List; LEVELS * SLOTS]>,
    entries: Vec<Entry<T>>,
    /// How many there may well be.
    expected: usize,
    free: u32,
    len: usize,
}

impl<T: Copy> Wheel<T> {
    /// A wheel that grows without a stop to `expected` deadlines, and beyond.
    pub fn new(now: Instant, expected: usize) -> Wheel<T> {
        Wheel {
            tick: now.as_millis(),
            occupied: [0; LEVELS],
            lists: Box::new([EMPTY; LEVELS * SLOTS]),
            entries: Vec::new(),
            expected,
            free: NONE,
            len: 0,
        }
    }

    /// `value` becomes due at the first tick that is not before `deadline`: at once when that has passed, and never for
    /// [`Instant::FAR_FUTURE`].
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerId {
        let tick = deadline.as_nanos().div_ceil(TICK_NS).max(self.tick);
        let slot = self.take_entry(tick, value);
        self.link(slot);
        self.len += 1;
        TimerId {
            slot,
            generation: self.entries[slot as usize].generation,
        }
    }

    /// `false` when the entry was popped or cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let current = self
            .entries
            .get(id.slot as usize)
            .is_some_and(|entry| entry.generation == id.generation && entry.list != FREE);
        if current {
            self.unlink(id.slot);
            self.give_entry(id.slot);
        }
        current
    }

    /// What is due at `now`, the earliest tick first and within one tick in the order of insertion; `None` when no more is.
    /// An entry that is inserted meanwhile and is due already comes in the same round.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let now = now.as_millis().max(self.tick);
        while let Some((level, slot)) = self.first_slot() {
            let start = self.slot_start(level, slot);
            if start > now {
                break;
            }
            self.tick = self.tick.max(start);
            let list = level * SLOTS + slot;
            if level == 0 {
                let head = self.lists[list].head;
                self.unlink(head);
                let value = self.entries[head as usize].value;
                self.give_entry(head);
                return Some(value);
            }
            self.move_down(list);
        }
        self.tick = now;
        None
    }

    /// When to call [`Wheel::pop`] next: the earliest deadline, or for one further away a moment before it at which the
    /// entries that it lies among move closer. `None` when the wheel is empty.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (level, slot) = self.first_slot()?;
        Some(Instant::from_nanos(
            self.slot_start(level, slot).saturating_mul(TICK_NS),
        ))
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot whose time comes first. The slots of a level are all later than those of the levels below, and none lies
    /// behind the wheel's own tick, so it is the first bit of the first level that has any.
    fn first_slot(&self) -> Option<(usize, usize)> {
        self.occupied
            .iter()
            .enumerate()
            .find(|(_, occupied)| **occupied != 0)
            .map(|(level, occupied)| (level, occupied.trailing_zeros() as usize))
    }

    /// The first tick of a slot, which shares all bits above its level with the present tick.
    fn slot_start(&self, level: usize, slot: usize) -> u64 {
        let shift = LEVEL_BITS * level as u32;
        let above = self.tick >> (shift + LEVEL_BITS) << LEVEL_BITS;
        (above | slot as u64) << shift
    }

    /// Spreads the entries of a slot that time has reached over the levels below, in their order.
    fn move_down(&mut self, list: usize) {
        let mut slot = self.lists[list].head;
        self.lists[list] = EMPTY;
        self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        while slot != NONE {
            let next = self.entries[slot as usize].next;
            self.link(slot);
            slot = next;
        }
    }

    /// Appends an entry to the list that its tick belongs to.
    fn link(&mut self, slot: u32) {
        let tick = self.entries[slot as usize].tick;
        let level = (tick ^ self.tick)
            .checked_ilog2()
            .map_or(0, |bit| bit / LEVEL_BITS) as usize;
        let index = (tick >> (LEVEL_BITS * level as u32)) as usize % SLOTS;
        let list = level * SLOTS + index;
        let tail = self.lists[list].tail;
        let entry = &mut self.entries[slot as usize];
        entry.list = list as u16;
        entry.prev = tail;
        entry.next = NONE;
        match tail {
            NONE => self.lists[list].head = slot,
            tail => self.entries[tail as usize].next = slot,
        }
        self.lists[list].tail = slot;
        self.occupied[level] |= 1 << index;
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { prev, next, list, .. } = self.entries[slot as usize];
        let list = list as usize;
        match prev {
            NONE => self.lists[list].head = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.lists[list].tail = prev,
            next => self.entries[next as usize].prev = prev,
        }
        if self.lists[list].head == NONE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn take_entry(&mut self, tick: u64, value: T) -> u32 {
        if self.free == NONE {
            let slot = self.entries.len() as u32;
            assert!(slot < NONE, "four thousand million timers");
            let entry = Entry {
                tick,
                prev: NONE,
                next: NONE,
                generation: NonZeroU32::MIN,
                list: FREE,
                value,
            };
            room::push(&mut self.entries, self.expected, entry);
            return slot;
        }
        let slot = self.free;
        let entry = &mut self.entries[slot as usize];
        self.free = entry.next;
        entry.tick = tick;
        entry.value = value;
        slot
    }

    /// Gives an unlinked entry back. Its generation moves on, so that ids given out for it are stale from here.
    fn give_entry(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        entry.list = FREE;
        entry.next = self.free;
        self.free = slot;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_deadline_is_never_early_and_rounds_up_to_the_next_tick() {
        let mut wheel = Wheel::new(Instant::from_nanos(5_000_000_123), 64);
        wheel.insert(Instant::from_nanos(5_007_000_001), 'a');
        assert_eq!(wheel.pop(Instant::from_nanos(5_007_999_999)), None);
        assert_eq!(wheel.next_deadline(), Some(ms(5_008)));
        assert_eq!(wheel.pop(ms(5_008)), Some('a'));
        assert_eq!((wheel.pop(ms(9_000)), wheel.next_deadline()), (None, None));
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_once() {
        let mut wheel = Wheel::new(ms(1_000), 64);
        assert_eq!(wheel.pop(ms(70_000)), None);
        wheel.insert(ms(3), 'a');
        assert!(wheel.next_deadline().is_some_and(|at| at <= ms(70_000)));
        assert_eq!(wheel.pop(ms(70_000)), Some('a'));
        // A clock that is asked twice may say the same.
        wheel.insert(ms(70_000), 'b');
        assert_eq!(wheel.pop(ms(70_000)), Some('b'));
    }

    #[test]
    fn entries_of_one_tick_come_in_the_order_of_insertion_through_every_level() {
        let mut wheel = Wheel::new(ms(0), 64);
        let due = ms(600_000_000);
        wheel.insert(due, 1);
        assert_eq!(wheel.pop(ms(599_000_000)), None);
        wheel.insert(due, 2);
        assert_eq!(wheel.pop(ms(599_999_990)), None);
        wheel.insert(due, 3);
        wheel.insert(ms(599_999_999), 0);
        let popped: Vec<i32> = std::iter::from_fn(|| wheel.pop(due)).collect();
        assert_eq!(popped, [0, 1, 2, 3]);
    }

    #[test]
    fn a_stale_id_cancels_nothing() {
        let mut wheel = Wheel::new(ms(0), 64);
        let first = wheel.insert(ms(10), 'a');
        assert!(wheel.cancel(first));
        assert!(!wheel.cancel(first));
        let second = wheel.insert(ms(10), 'b');
        assert!(!wheel.cancel(first), "the slot is used again, the id is not");
        assert_eq!(wheel.pop(ms(10)), Some('b'));
        assert!(!wheel.cancel(second));
        assert!(wheel.is_empty());
    }

    #[test]
    fn the_end_of_time_never_comes() {
        let mut wheel = Wheel::new(ms(1), 64);
        let id = wheel.insert(Instant::FAR_FUTURE, 'a');
        assert_eq!(wheel.pop(Instant::from_nanos(u64::MAX)), None);
        assert!(wheel.next_deadline().is_some());
        assert!(wheel.cancel(id));
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn following_next_deadline_reaches_a_far_deadline_in_a_few_steps_on_time() {
        for after in [1, 63, 64, 65, 4_096, 600_000_000, 1 << 36, 1 << 43] {
            let start = ms(1_763_000_000_123);
            let mut wheel = Wheel::new(start, 64);
            let due = start + Duration::from_millis(after);
            wheel.insert(due, ());
            let mut steps = 0;
            let reached = loop {
                let at = wheel.next_deadline().expect("an entry waits");
                steps += 1;
                assert!(steps <= 2 * LEVELS, "{after} ms ahead: no progress");
                if wheel.pop(at).is_some() {
                    break at;
                }
            };
            assert_eq!(reached, due);
        }
    }

    #[test]
    fn a_warm_wheel_does_not_grow() {
        let mut wheel = Wheel::new(ms(0), 64);
        for round in 0..1_000 {
            let ids: Vec<TimerId> = (0..10)
                .map(|i| wheel.insert(ms(round * 37 + i * 100), i))
                .collect();
            for id in ids.iter().step_by(2) {
                assert!(wheel.cancel(*id));
            }
            while wheel.pop(ms(round * 37 + 2_000)).is_some() {}
        }
        assert_eq!((wheel.len(), wheel.entries.len()), (0, 10));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { after_ns: u64 },
        Cancel { nth: usize },
        Advance { by_ns: u64 },
    }

    fn span_ns() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..3_000_000_u64,
            0..100_000_000_u64,
            0..600_000_000_000_000_u64,
            // Beyond 64^6 ms, and so into the upper levels.
            0..(u64::MAX / 64),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => span_ns().prop_map(|after_ns| Step::Insert { after_ns }),
            2 => (0..64_usize).prop_map(|nth| Step::Cancel { nth }),
            3 => span_ns().prop_map(|by_ns| Step::Advance { by_ns }),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_a_sorted_list(
            start_ns in 0..(u64::MAX / 4),
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut now = Instant::from_nanos(start_ns);
            let mut wheel = Wheel::new(now, 64);
            // (tick, number of insertion, id): the list sorted by the first two is the order in which they are due.
            let mut list: Vec<(u64, usize, TimerId)> = Vec::new();
            let mut gone: Vec<TimerId> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert { after_ns } => {
                        let deadline = now + Duration::from_nanos(after_ns);
                        let tick = deadline.as_nanos().div_ceil(TICK_NS);
                        list.push((tick, number, wheel.insert(deadline, number)));
                    }
                    Step::Cancel { nth } if nth < list.len() => {
                        let (_, _, id) = list.remove(nth);
                        prop_assert!(wheel.cancel(id));
                        gone.push(id);
                    }
                    Step::Cancel { .. } => {
                        for id in &gone {
                            prop_assert!(!wheel.cancel(*id));
                        }
                    }
                    Step::Advance { by_ns } => {
                        now = now + Duration::from_nanos(by_ns);
                        list.sort_by_key(|(tick, number, _)| (*tick, *number));
                        let due = list.partition_point(|(tick, _, _)| *tick <= now.as_millis());
                        for (_, number, id) in list.drain(..due) {
                            prop_assert_eq!(wheel.pop(now), Some(number));
                            gone.push(id);
                        }
                        prop_assert_eq!(wheel.pop(now), None);
                    }
                }
                prop_assert_eq!(wheel.len(), list.len());
                let first = list.iter().map(|(tick, _, _)| *tick).min();
                match (wheel.next_deadline(), first) {
                    (Some(at), Some(first)) => {
                        prop_assert!(at.as_nanos().div_ceil(TICK_NS) <= first);
                        prop_assert!(at >= now || first <= now.as_millis() + 1);
                    }
                    (None, None) => {}
                    (at, first) => prop_assert!(false, "{at:?} against {first:?}"),
                }
            }
        }
    }
}
