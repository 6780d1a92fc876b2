//! A timing wheel: deadlines in ticks of 1 ms, inserted and cancelled in constant time.
//!
//! Two rings turn with time. The near one has a slot for each of the next 65,536 ticks (65 s): nearly all deadlines of SIP lie there from
//! their insertion to their end, since the timers of transactions take 32 s at most. The far one has 1,024 slots of 8,192 ticks each (2.3
//! hours), for what lies beyond; and what lies beyond that too waits in its last slot, to be looked at again. What is in a far slot moves to
//! the near ring as soon as all of it has room there, some 57 s before it is due, and a few entries a tick: there is no moment at which
//! much has to be moved at once, however many deadlines there are.
//!
//! Lists are doubly linked through one table, and a bitmap a ring finds the next slot, so nothing is searched and nothing is allocated
//! once the table is as large as it needs to be.

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
    /// A message that the proxy holds without a context: its look-up.
    Held,
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
/// Slots of the near ring, of a tick each.
const NEAR: usize = 1 << 16;
/// Slots of the far ring.
const FAR: usize = 1 << 10;
/// Ticks of a slot of the far ring.
const FAR_TICKS: u64 = 1 << 13;
/// Entries that move from the far ring to the near one in a tick: those of a slot have some 57,000 ticks to do so.
const MOVED_PER_TICK: usize = 64;

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;
/// `Entry::list` of an entry that is free.
const FREE: u32 = u32::MAX;

struct Entry<T> {
    tick: u64,
    prev: u32,
    /// The next entry of the list, or of the free list.
    next: u32,
    generation: NonZeroU32,
    /// Index into `Wheel::lists`: the near slots, then the far ones.
    list: u32,
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

/// Which slots of a ring hold entries: a bit each, and a bit for each word of these that is not zero.
struct Occupied {
    words: Box<[u64]>,
    summary: Box<[u64]>,
}

impl Occupied {
    fn new(slots: usize) -> Occupied {
        let words = slots.div_ceil(64);
        Occupied {
            words: vec![0; words].into(),
            summary: vec![0; words.div_ceil(64)].into(),
        }
    }

    fn set(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
        self.summary[slot / 4_096] |= 1 << (slot / 64 % 64);
    }

    fn clear(&mut self, slot: usize) {
        self.words[slot / 64] &= !(1 << (slot % 64));
        if self.words[slot / 64] == 0 {
            self.summary[slot / 4_096] &= !(1 << (slot / 64 % 64));
        }
    }

    /// The first slot at `from` or after it that holds entries, once around the ring.
    fn first_from(&self, from: usize) -> Option<usize> {
        let here = self.words[from / 64] >> (from % 64);
        if here != 0 {
            return Some(from + here.trailing_zeros() as usize);
        }
        let word = (self.word_from(from / 64 + 1)).or_else(|| self.word_from(0))?;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }

    /// The first word at `from` or after it that is not zero.
    fn word_from(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut here = *self.summary.get(at)? & (u64::MAX << (from % 64));
        while here == 0 {
            at += 1;
            here = *self.summary.get(at)?;
        }
        Some(at * 64 + here.trailing_zeros() as usize)
    }
}

/// Deadlines of one shard, each with a `T`.
pub struct Wheel<T> {
    /// Every entry due before this tick has been popped. All that the near ring holds is due less than [`NEAR`] ticks after it.
    tick: u64,
    /// No entry outside the near ring is due before this tick; `u64::MAX` when there is none.
    far_from: u64,
    near: Occupied,
    far: Occupied,
    lists: Box<[List]>,
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
            far_from: u64::MAX,
            near: Occupied::new(NEAR),
            far: Occupied::new(FAR),
            lists: vec![EMPTY; NEAR + FAR].into(),
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
        self.place(slot);
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

    /// What is due at `now`, the earliest tick first; `None` when no more is. Within one tick those that were inserted in its last 65 s come
    /// in the order of insertion. An entry that is inserted meanwhile and is due already comes in the same round.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let now = now.as_millis().max(self.tick);
        if now > self.tick && self.far_from.saturating_add(FAR_TICKS) <= now + NEAR as u64 {
            self.move_some(now);
        }
        loop {
            let next = self.first_near().unwrap_or(u64::MAX);
            if self.far_from <= next.min(now) {
                self.move_all();
                continue;
            }
            if next > now {
                self.tick = now;
                return None;
            }
            self.tick = next;
            let head = self.lists[next as usize % NEAR].head;
            self.unlink(head);
            let value = self.entries[head as usize].value;
            self.give_entry(head);
            return Some(value);
        }
    }

    /// When to call [`Wheel::pop`] next: the earliest deadline, or before it a moment at which entries move closer. `None` when the wheel
    /// is empty.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let moves_at = self
            .far_from
            .saturating_add(FAR_TICKS)
            .saturating_sub(NEAR as u64);
        let tick = self.first_near().unwrap_or(u64::MAX);
        let tick = tick.min(moves_at.max(self.tick + 1));
        Some(Instant::from_nanos(tick.saturating_mul(TICK_NS)))
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first tick for which the near ring holds an entry.
    fn first_near(&self) -> Option<u64> {
        let from = self.tick as usize % NEAR;
        let slot = self.near.first_from(from)?;
        Some(self.tick + (slot.wrapping_sub(from) % NEAR) as u64)
    }

    /// The first slot of the far ring that holds entries, by its number since time began.
    fn first_far(&self) -> Option<u64> {
        let number = self.tick / FAR_TICKS;
        let from = number as usize % FAR;
        let slot = self.far.first_from(from)?;
        Some(number + (slot.wrapping_sub(from) % FAR) as u64)
    }

    /// Time goes on to `now`, and some entries of the first far slot move closer, if all of them have room in the near ring.
    fn move_some(&mut self, now: u64) {
        // As far as nothing is due.
        self.tick = now.min(self.far_from).min(self.first_near().unwrap_or(u64::MAX));
        self.find_far();
        if self.far_from.saturating_add(FAR_TICKS) <= self.tick + NEAR as u64 {
            self.move_first_slot(MOVED_PER_TICK);
        }
    }

    /// Moves all entries that may be due at `far_from`, or finds that there are none any more. Nothing is due before.
    #[cold]
    fn move_all(&mut self) {
        self.tick = self.tick.max(self.far_from);
        self.find_far();
        if self.far_from <= self.tick {
            self.move_first_slot(usize::MAX);
        }
    }

    /// Moves up to `count` entries of the slot at `far_from`. No far entry is placed there meanwhile: the last slot of the ring lies before
    /// the one of the present tick.
    fn move_first_slot(&mut self, count: usize) {
        let list = NEAR + (self.far_from / FAR_TICKS) as usize % FAR;
        for _ in 0..count {
            let slot = self.lists[list].head;
            if slot == NONE {
                break;
            }
            self.unlink(slot);
            self.place(slot);
        }
        self.find_far();
    }

    fn find_far(&mut self) {
        self.far_from = self.first_far().map_or(u64::MAX, |number| number * FAR_TICKS);
    }

    /// Appends an entry to the list that its tick belongs to.
    fn place(&mut self, slot: u32) {
        let tick = self.entries[slot as usize].tick;
        if tick - self.tick < NEAR as u64 {
            let index = tick as usize % NEAR;
            self.near.set(index);
            self.append(index, slot);
        } else {
            let last = self.tick / FAR_TICKS + (FAR as u64 - 1);
            let number = last.min(tick / FAR_TICKS);
            self.far_from = self.far_from.min(number * FAR_TICKS);
            self.far.set(number as usize % FAR);
            self.append(NEAR + number as usize % FAR, slot);
        }
    }

    fn append(&mut self, list: usize, slot: u32) {
        let tail = self.lists[list].tail;
        let entry = &mut self.entries[slot as usize];
        entry.list = list as u32;
        entry.prev = tail;
        entry.next = NONE;
        match tail {
            NONE => self.lists[list].head = slot,
            tail => self.entries[tail as usize].next = slot,
        }
        self.lists[list].tail = slot;
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
            match list.checked_sub(NEAR) {
                None => self.near.clear(list),
                Some(far) => self.far.clear(far),
            }
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
    fn entries_of_one_tick_come_in_the_order_of_insertion() {
        let mut wheel = Wheel::new(ms(0), 64);
        let due = ms(600_000_000);
        wheel.insert(due, 1);
        assert_eq!(wheel.pop(ms(599_900_000)), None);
        wheel.insert(due, 2);
        assert_eq!(wheel.pop(ms(599_999_990)), None);
        wheel.insert(due, 3);
        wheel.insert(ms(599_999_999), 0);
        let popped: Vec<i32> = std::iter::from_fn(|| wheel.pop(due)).collect();
        assert_eq!(popped, [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_far_away_moves_closer_a_few_at_a_time_and_in_time() {
        const MANY: usize = 50_000;
        let mut wheel = Wheel::new(ms(0), MANY);
        // Some within one far slot, some in the last, which holds what is beyond.
        for i in 0..MANY as u64 {
            wheel.insert(ms(100_000 + i % 1_000), i);
            wheel.insert(ms(20_000_000 + i), i);
        }
        let far = |wheel: &Wheel<u64>| {
            let far = wheel
                .entries
                .iter()
                .filter(|entry| entry.list != FREE && entry.list as usize >= NEAR);
            far.count()
        };
        let (mut before, mut now, mut popped) = (far(&wheel), 0, 0);
        assert_eq!(before, 2 * MANY);
        while popped < MANY {
            // Whoever is late by some ticks moves no more for it.
            now += 7;
            while wheel.pop(ms(now)).is_some() {
                popped += 1;
            }
            if now % 49 == 0 {
                let after = far(&wheel);
                assert!(
                    before - after <= 7 * MOVED_PER_TICK,
                    "{} at {now}",
                    before - after
                );
                before = after;
            }
        }
        assert_eq!((before, wheel.len()), (MANY, MANY));
        assert!((100_999..=101_006).contains(&now), "{now}");
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
                // What is beyond the far ring is looked at once a turn of it.
                let turns = after / (FAR_TICKS * FAR as u64);
                assert!(steps <= 2 * turns + 8, "{after} ms ahead: no progress");
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
            // Some hundred turns of the far ring.
            0..(1_u64 << 50),
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
            // (tick, number of insertion, id, whether it was far): the list sorted by the first two is the order in which they are due.
            let mut list: Vec<(u64, usize, TimerId, bool)> = Vec::new();
            let mut gone: Vec<TimerId> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert { after_ns } => {
                        let deadline = now + Duration::from_nanos(after_ns);
                        let tick = deadline.as_nanos().div_ceil(TICK_NS);
                        let is_far = tick >= now.as_millis() + NEAR as u64;
                        list.push((tick, number, wheel.insert(deadline, number), is_far));
                    }
                    Step::Cancel { nth } if nth < list.len() => {
                        let (_, _, id, _) = list.remove(nth);
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
                        list.sort_by_key(|(tick, number, ..)| (*tick, *number));
                        while let Some((first, ..)) = list.first().copied().filter(|first| first.0 <= now.as_millis()) {
                            let popped = wheel.pop(now);
                            let at = list.iter().position(|(_, number, ..)| Some(*number) == popped);
                            let Some(at) = at else {
                                return Err(TestCaseError::fail(format!("popped {popped:?}, not of {first}")));
                            };
                            prop_assert_eq!(list[at].0, first);
                            prop_assert!(list[..at].iter().all(|(.., was_far)| *was_far));
                            gone.push(list.remove(at).2);
                        }
                        prop_assert_eq!(wheel.pop(now), None);
                    }
                }
                prop_assert_eq!(wheel.len(), list.len());
                let first = list.iter().map(|(tick, ..)| *tick).min();
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
