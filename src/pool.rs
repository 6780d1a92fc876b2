//! Reference-counted message buffers of a few size classes, bounded by a limit known at start.
//!
//! Whatever is to stay for long asks first whether the pool [takes it in](Pool::takes_in): the last part of the pool is for messages
//! that pass, so that a flood of what stays costs those who bring it and nobody else.
//!
//! A message that ringway sends is written once into a buffer of the pool; the transaction that may have to retransmit it
//! and the effect that sends it hold a reference each. Nothing is allocated once the pool is warm.

use crate::room;

/// A buffer of the pool. Copying the id does not count as a reference: [`Pool::retain`] does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BufId(u32);

/// Capacity in bytes of each size class. The small ones are those of bindings and dialogs, of which there are many; the
/// largest takes a message of the largest legal size with what we add to it.
pub const CLASS_BYTES: [usize; 8] = [256, 384, 512, 768, 1_536, 4_096, 16_384, 73_728];

/// All classes up to the sixth are multiples of this, and their lengths in it make a table.
const CLASS_UNIT: usize = 128;

/// The smallest class of so many units.
static CLASS_OF_UNITS: [u8; CLASS_BYTES[5] / CLASS_UNIT + 1] = {
    let mut classes = [0; CLASS_BYTES[5] / CLASS_UNIT + 1];
    let mut units = 0;
    let mut class = 0;
    while units < classes.len() {
        while CLASS_BYTES[class] < units * CLASS_UNIT {
            class += 1;
        }
        assert!(CLASS_BYTES[class].is_multiple_of(CLASS_UNIT));
        classes[units] = class as u8;
        units += 1;
    }
    classes
};

/// The smallest class of at least so many bytes.
fn class_for(bytes: usize) -> Option<usize> {
    match CLASS_OF_UNITS.get(bytes.div_ceil(CLASS_UNIT)) {
        Some(class) => Some(usize::from(*class)),
        None => CLASS_BYTES.iter().position(|&class_bytes| class_bytes >= bytes),
    }
}

const CLASS_SHIFT: u32 = 29;
const INDEX_MASK: u32 = (1 << CLASS_SHIFT) - 1;

// An id has three bits for the class.
const _: () = assert!(CLASS_BYTES.len() <= 1 << (32 - CLASS_SHIFT));

impl BufId {
    const fn class(self) -> usize {
        (self.0 >> CLASS_SHIFT) as usize
    }

    const fn index(self) -> usize {
        (self.0 & INDEX_MASK) as usize
    }
}

/// What may be known of a message without reading it: where it could be made longer, and what it belongs to.
///
/// Places beyond the first 65,535 bytes can't be named; they go unmarked, as do all in [`Marks::default`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Marks {
    pad_at: u16,
    call_start: u16,
    call_end: u16,
    keeps_its_place: bool,
}

impl Marks {
    /// It is sent behind whatever else of that kind was queued for its peer before, and as it is written. A run that one receiver gets whole,
    /// on the same machine, is read by one of its threads: the next of a proxy's messages of the same call, alone, may be read before.
    pub fn keep_place(&mut self) {
        self.keeps_its_place = true;
    }

    /// What sets its order against others for its peer: the call that it belongs to, or with all those that keep their place.
    pub fn order(self, message: &[u8]) -> &[u8] {
        if self.keeps_its_place {
            b""
        } else {
            self.call(message)
        }
    }

    /// White space may be put in before the byte at `at` without changing what the message says. The first place stays.
    pub fn mark_padding(&mut self, at: usize) {
        if self.pad_at == 0 {
            self.pad_at = u16::try_from(at).unwrap_or(0);
        }
    }

    /// The Call-ID stands at `start..end`.
    pub fn mark_call(&mut self, start: usize, end: usize) {
        if let (Ok(start), Ok(end)) = (u16::try_from(start), u16::try_from(end)) {
            (self.call_start, self.call_end) = (start, end);
        }
    }

    /// Where white space may be put in.
    pub fn padding(self) -> Option<usize> {
        (self.pad_at > 0 && !self.keeps_its_place).then_some(usize::from(self.pad_at))
    }

    /// The bytes of `message` that name the call which it belongs to; empty where none are marked.
    pub fn call(self, message: &[u8]) -> &[u8] {
        message
            .get(usize::from(self.call_start)..usize::from(self.call_end))
            .unwrap_or(b"")
    }
}

/// How much of a draft was written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Written {
    pub len: usize,
    pub marks: Marks,
}

impl From<usize> for Written {
    fn from(len: usize) -> Written {
        Written {
            len,
            marks: Marks::default(),
        }
    }
}

/// What stays in the pool for longer than a message takes to pass, the first to be refused first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stay {
    /// The beginning of a message, whose rest may never come.
    Partial,
    /// A new subscriber, subscription or call.
    New,
    /// A request that begins something: what answers it is kept for as long as it may come again.
    Request,
}

impl Stay {
    /// Eighths of the pool that may be in use when it is taken in.
    const fn eighths(self) -> usize {
        match self {
            Stay::Partial => 4,
            Stay::New => 6,
            Stay::Request => 7,
        }
    }
}

#[derive(Default)]
struct Class {
    buffers: Vec<Buffer>,
    free: Vec<u32>,
    /// Places whose buffers were given back to the system.
    vacant: Vec<u32>,
}

/// A buffer with what is known of it in one cache line.
struct Buffer {
    /// `None` while it is out as a [`Draft`], or given back to the system.
    bytes: Option<Box<[u8]>>,
    used_bytes: u32,
    references: u32,
    marks: Marks,
}

/// A buffer being written. It must go back by [`Pool::commit`] or [`Pool::discard`].
#[must_use]
pub struct Draft {
    id: BufId,
    pub bytes: Box<[u8]>,
}

/// Buffers of one shard.
pub struct Pool {
    classes: [Class; CLASS_BYTES.len()],
    allocated_bytes: usize,
    limit_bytes: usize,
    in_use: usize,
    refused: u64,
    in_use_bytes: usize,
}

impl Pool {
    /// A pool that never allocates more than `limit_bytes` in all.
    pub fn new(limit_bytes: usize) -> Pool {
        Pool {
            classes: Default::default(),
            allocated_bytes: 0,
            limit_bytes,
            in_use: 0,
            refused: 0,
            in_use_bytes: 0,
        }
    }

    /// Whether there is room for one more of `stay` and for messages beside it. If not, that counts as refused.
    pub fn takes_in(&mut self, stay: Stay) -> bool {
        let has_room = self.in_use_bytes < self.limit_bytes / 8 * stay.eighths();
        self.refused += u64::from(!has_room);
        has_room
    }

    /// Another limit from now on. What is allocated beyond it already stays.
    pub fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// A writable buffer of at least `len_min` bytes, or `None` when the pool is at its limit or no class is so large.
    pub fn draft(&mut self, len_min: usize) -> Option<Draft> {
        let class_index = class_for(len_min)?;
        match self.draft_of(class_index) {
            None => self.draft_near_limit(class_index),
            draft => draft,
        }
    }

    /// A buffer of this class or a larger one, as there is none of it and no room for more.
    #[cold]
    #[inline(never)]
    fn draft_near_limit(&mut self, mut class_index: usize) -> Option<Draft> {
        loop {
            if let Some(draft) = self.draft_of(class_index) {
                return Some(draft);
            }
            // At the limit a free buffer of a larger class serves rather than none, and free ones of smaller classes make room.
            match (class_index + 1..CLASS_BYTES.len()).find(|&i| !self.classes[i].free.is_empty()) {
                Some(larger) => class_index = larger,
                None if self.gives_back(CLASS_BYTES[class_index]) => {}
                None => {
                    self.refused += 1;
                    return None;
                }
            }
        }
    }

    /// A free buffer of this class, or a new one where the limit allows.
    #[inline]
    fn draft_of(&mut self, class_index: usize) -> Option<Draft> {
        if self.classes[class_index].free.is_empty() {
            if self.allocated_bytes + CLASS_BYTES[class_index] > self.limit_bytes {
                return None;
            }
            self.grow(class_index);
        }
        let class = &mut self.classes[class_index];
        let index = class.free.pop()?;
        let bytes = class.buffers[index as usize]
            .bytes
            .take()
            .expect("a free buffer is in its place");
        self.in_use += 1;
        self.in_use_bytes += CLASS_BYTES[class_index];
        Some(Draft {
            id: BufId((class_index as u32) << CLASS_SHIFT | index),
            bytes,
        })
    }

    /// Gives free buffers back to the system until there is room for `bytes` more. `false`: there are not enough.
    #[cold]
    fn gives_back(&mut self, bytes: usize) -> bool {
        if self.in_use_bytes + bytes > self.limit_bytes {
            return false;
        }
        for (class, class_bytes) in self.classes.iter_mut().zip(CLASS_BYTES).rev() {
            while self.allocated_bytes + bytes > self.limit_bytes
                && let Some(index) = class.free.pop()
            {
                class.buffers[index as usize].bytes = None;
                class.vacant.push(index);
                self.allocated_bytes -= class_bytes;
            }
        }
        self.allocated_bytes + bytes <= self.limit_bytes
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, class_index: usize) {
        let class = &mut self.classes[class_index];
        let buffer = vec![0; CLASS_BYTES[class_index]].into_boxed_slice();
        self.allocated_bytes += CLASS_BYTES[class_index];
        if let Some(index) = class.vacant.pop() {
            class.buffers[index as usize].bytes = Some(buffer);
            class.free.push(index);
            return;
        }
        let index = class.buffers.len() as u32;
        assert!(index <= INDEX_MASK);
        let place = Buffer {
            bytes: Some(buffer),
            used_bytes: 0,
            references: 0,
            marks: Marks::default(),
        };
        room::push(
            &mut class.buffers,
            self.limit_bytes / CLASS_BYTES[class_index],
            place,
        );
        // Room for every buffer at once, so that giving one back never allocates.
        if class.free.capacity() < class.buffers.len() {
            class
                .free
                .reserve_exact(class.buffers.capacity() - class.free.len());
        }
        class.free.push(index);
    }

    /// Puts a written draft in its place with one reference, holding its first bytes as far as they were written. What fills less than
    /// half of its buffer moves to a smaller one: drafts are as long as a message may become, and most are kept for long.
    pub fn commit(&mut self, draft: Draft, written: impl Into<Written>) -> BufId {
        let written = written.into();
        assert!(written.len <= draft.bytes.len());
        if let Some(class) =
            class_for(written.len).filter(|&class| 2 * CLASS_BYTES[class] <= draft.bytes.len())
            && let Some(mut smaller) = self.draft_of(class)
        {
            smaller.bytes[..written.len].copy_from_slice(&draft.bytes[..written.len]);
            self.discard(draft);
            return self.keep(smaller, written);
        }
        self.keep(draft, written)
    }

    fn keep(&mut self, draft: Draft, Written { len, marks }: Written) -> BufId {
        *self.buffer_mut(draft.id) = Buffer {
            bytes: Some(draft.bytes),
            used_bytes: len as u32,
            references: 1,
            marks,
        };
        draft.id
    }

    /// Gives a draft back unwritten.
    pub fn discard(&mut self, draft: Draft) {
        let id = self.keep(draft, Written::default());
        self.release(id);
    }

    /// A copy of `bytes` with one reference.
    pub fn put(&mut self, bytes: &[u8]) -> Option<BufId> {
        let mut draft = self.draft(bytes.len())?;
        draft.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(self.commit(draft, bytes.len()))
    }

    /// Puts `bytes` behind what the buffer holds: in place where there is room and no other reference, else in a larger
    /// buffer. The id that is returned stands for the one given. `None`: no buffer is that large; `id` is unchanged.
    pub fn append(&mut self, id: BufId, bytes: &[u8]) -> Option<BufId> {
        let buffer = self.buffer_mut(id);
        let used = buffer.used_bytes as usize;
        let len = used + bytes.len();
        if buffer.references == 1
            && let Some(room) = buffer.bytes.as_deref_mut().and_then(|all| all.get_mut(used..len))
        {
            room.copy_from_slice(bytes);
            buffer.used_bytes = len as u32;
            return Some(id);
        }
        let mut draft = self.draft(len)?;
        draft.bytes[..used].copy_from_slice(self.get(id));
        draft.bytes[used..len].copy_from_slice(bytes);
        let marks = self.marks(id);
        self.release(id);
        Some(self.commit(draft, Written { len, marks }))
    }

    pub fn get(&self, id: BufId) -> &[u8] {
        let buffer = self.buffer(id);
        let bytes = buffer
            .bytes
            .as_deref()
            .expect("a buffer that is referred to is in its place");
        &bytes[..buffer.used_bytes as usize]
    }

    /// What whoever wrote the buffer marked in it.
    pub fn marks(&self, id: BufId) -> Marks {
        self.buffer(id).marks
    }

    /// One more reference. The id is returned for convenience.
    pub fn retain(&mut self, id: BufId) -> BufId {
        self.buffer_mut(id).references += 1;
        id
    }

    /// One reference less; the last one frees the buffer.
    pub fn release(&mut self, id: BufId) {
        let buffer = self.buffer_mut(id);
        assert!(buffer.references > 0, "released more often than retained");
        buffer.references -= 1;
        if buffer.references == 0 {
            self.classes[id.class()].free.push(id.index() as u32);
            self.in_use -= 1;
            self.in_use_bytes -= CLASS_BYTES[id.class()];
        }
    }

    /// Buffers that are referred to or being written; zero when nothing is left over.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// How often there was no buffer because the pool was at its limit.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    pub fn allocated_bytes(&self) -> usize {
        self.allocated_bytes
    }

    fn buffer(&self, id: BufId) -> &Buffer {
        &self.classes[id.class()].buffers[id.index()]
    }

    fn buffer_mut(&mut self, id: BufId) -> &mut Buffer {
        &mut self.classes[id.class()].buffers[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_class_that_fits_is_found() {
        for bytes in 0..=CLASS_BYTES[CLASS_BYTES.len() - 1] + 1 {
            let slow = CLASS_BYTES.iter().position(|&class_bytes| class_bytes >= bytes);
            assert_eq!(class_for(bytes), slow, "{bytes}");
        }
    }

    #[test]
    fn the_last_reference_frees_a_buffer_for_use_again() {
        let mut pool = Pool::new(1 << 20);
        let id = pool.put(b"INVITE").expect("room");
        pool.retain(id);
        pool.release(id);
        assert_eq!((pool.get(id), pool.in_use()), (&b"INVITE"[..], 1));
        pool.release(id);
        assert_eq!(pool.in_use(), 0);
        let allocated = pool.allocated_bytes();
        let again = pool.put(b"BYE").expect("room");
        assert_eq!((again, pool.allocated_bytes()), (id, allocated));
    }

    /// What a request that comes again is answered with is sent again, and hundreds of connections bring some megabytes of it in one turn.
    #[test]
    fn a_buffer_may_be_sent_very_often_in_one_turn() {
        let mut pool = Pool::new(1 << 20);
        let id = pool.put(b"SIP/2.0 200 OK").expect("room");
        for _ in 0..100_000 {
            pool.retain(id);
        }
        for _ in 0..100_000 {
            pool.release(id);
        }
        assert_eq!((pool.get(id), pool.in_use()), (&b"SIP/2.0 200 OK"[..], 1));
    }

    #[test]
    fn what_is_appended_stays_in_place_while_it_fits_and_alone() {
        let mut pool = Pool::new(1 << 20);
        let id = pool.put(b"SIP").expect("room");
        assert_eq!(pool.append(id, b"/2.0"), Some(id));
        assert_eq!(pool.get(id), b"SIP/2.0");
        pool.retain(id);
        let other = pool.append(id, b" 200").expect("room");
        assert_ne!(other, id);
        assert_eq!(
            (pool.get(id), pool.get(other)),
            (&b"SIP/2.0"[..], &b"SIP/2.0 200"[..])
        );
        let large = pool.append(other, &[b'x'; 2_000]).expect("room");
        assert_eq!(pool.get(large).len(), 2_011);
        assert!(pool.append(large, &[0; 100_000]).is_none());
        pool.release(large);
        pool.release(id);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_full_pool_says_no_and_never_grows() {
        let mut pool = Pool::new(CLASS_BYTES[0] + CLASS_BYTES[4]);
        let large = pool.put(&[7; 1_000]).expect("room");
        let small = pool.put(b"x").expect("room");
        assert!(pool.put(b"y").is_none());
        assert_eq!(pool.refused(), 1);
        pool.release(large);
        // A larger buffer that is free stands in for a small one.
        let stand_in = pool.put(b"y").expect("room");
        assert_eq!(pool.get(stand_in), b"y");
        assert!(pool.put(&[0; 100_000]).is_none(), "no class is so large");
        assert_eq!(pool.refused(), 1, "that is not the limit's doing");
        pool.release(small);
        pool.release(stand_in);
        assert_eq!(
            (pool.in_use(), pool.allocated_bytes()),
            (0, CLASS_BYTES[0] + CLASS_BYTES[4])
        );
    }

    #[test]
    fn free_buffers_of_other_sizes_make_room_at_the_limit() {
        let mut pool = Pool::new(4 * CLASS_BYTES[0] + CLASS_BYTES[4]);
        let ids: Vec<_> = std::iter::from_fn(|| pool.put(b"small")).collect();
        assert_eq!(ids.len(), 4 + CLASS_BYTES[4] / CLASS_BYTES[0]);
        assert!(pool.put(&[1; 1_000]).is_none(), "all are in use");
        for &id in &ids[1..] {
            pool.release(id);
        }
        let large = pool.put(&[1; 1_000]).expect("room is made");
        assert_eq!(pool.get(ids[0]), b"small");
        pool.release(large);
        pool.release(ids[0]);
        // And back again, in the places that there were.
        let places = pool.classes[0].buffers.len();
        let again: Vec<_> = std::iter::from_fn(|| pool.put(b"small")).collect();
        assert!(pool.allocated_bytes() <= 4 * CLASS_BYTES[0] + CLASS_BYTES[4]);
        assert!(again.len() >= 4, "{}", again.len());
        assert_eq!(pool.classes[0].buffers.len(), places);
        for id in again {
            pool.release(id);
        }
        assert_eq!((pool.in_use(), pool.in_use_bytes), (0, 0));
    }

    #[test]
    fn a_short_message_does_not_keep_a_long_buffer() {
        let mut pool = Pool::new(1 << 20);
        let mut draft = pool.draft(1_500).expect("room");
        draft.bytes[..5].copy_from_slice(b"short");
        let mut marks = Marks::default();
        marks.mark_padding(3);
        let id = pool.commit(draft, Written { len: 5, marks });
        assert_eq!(
            (pool.get(id), pool.marks(id), pool.in_use()),
            (&b"short"[..], marks, 1)
        );
        assert_eq!(pool.in_use_bytes, CLASS_BYTES[0]);
        // More than half of it stays where it is.
        let draft = pool.draft(1_500).expect("room");
        let long = pool.commit(draft, 800);
        assert_eq!(pool.in_use_bytes, CLASS_BYTES[0] + CLASS_BYTES[4]);
        pool.release(long);
        pool.release(id);
        // Where no smaller one can be had the long one serves, and that is no refusal.
        let mut pool = Pool::new(CLASS_BYTES[4]);
        let draft = pool.draft(1_500).expect("room");
        let id = pool.commit(draft, 5);
        assert_eq!((pool.in_use_bytes, pool.refused()), (CLASS_BYTES[4], 0));
        pool.release(id);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn the_last_part_is_for_messages_that_pass() {
        let mut pool = Pool::new(16 * CLASS_BYTES[0]);
        let mut ids = Vec::new();
        let mut taken = |pool: &mut Pool, stay: Stay| {
            while pool.takes_in(stay) {
                ids.push(pool.put(b"x").expect("room"));
            }
            ids.len()
        };
        assert_eq!(taken(&mut pool, Stay::Partial), 8);
        assert_eq!(taken(&mut pool, Stay::New), 12);
        for id in ids {
            pool.release(id);
        }
        assert!(pool.takes_in(Stay::Partial));
    }
}
