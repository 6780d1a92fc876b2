//! Provided buffers (`IORING_REGISTER_PBUF_RING`, 5.19): the kernel takes one only when bytes have come, so that an idle
//! connection owns none.
//!
//! Layout shared with the kernel: an array of entries, the first of which holds the tail in its last two bytes. We write
//! entries and then the tail; the kernel reads both.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::memory::Pages;

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// Buffers: they are given back within the turn, so that this many chunks can arrive in one turn. A power of two.
const COUNT: u16 = 1_024;
/// Bytes a buffer: a SIP message or two; longer ones come in several chunks.
pub(super) const BUFFER_BYTES: usize = 4_096;

/// Buffers that the kernel fills, registered with one ring.
pub struct BufRing {
    entries: Pages,
    buffers: Pages,
    /// Entries written so far, published or not.
    tail: u16,
}

impl BufRing {
    /// Registers the buffers with `ring`.
    ///
    /// # Safety
    /// The value must outlive `ring` or every request that may still fill a buffer: see [`BufRing::leak`].
    pub(super) unsafe fn register(ring: &IoUring) -> io::Result<BufRing> {
        let mut buf_ring = BufRing {
            entries: Pages::new(usize::from(COUNT) * size_of::<BufRingEntry>())?,
            buffers: Pages::new(usize::from(COUNT) * BUFFER_BYTES)?,
            tail: 0,
        };
        // SAFETY: the entries are page-aligned, of the right size, zeroed, and outlive the registration (the caller).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buf_ring.entries.as_ptr() as u64,
                COUNT,
                GROUP,
                0,
            )?;
        }
        for id in 0..COUNT {
            buf_ring.give_back(id);
        }
        buf_ring.publish();
        Ok(buf_ring)
    }

    /// The first `len` bytes of buffer `id`, which a completion has just named. `None` for what the kernel never gives.
    pub(super) fn filled(&self, id: u16, len: usize) -> Option<&[u8]> {
        if id >= COUNT || len > BUFFER_BYTES {
            return None;
        }
        // SAFETY: the kernel writes to a buffer only between the publication of its entry and the completion that names it. That
        // completion has been seen, and `give_back`, which needs this value mutably, cannot run while the slice lives.
        Some(unsafe { self.buffers.slice(usize::from(id) * BUFFER_BYTES, len) })
    }

    /// Queues buffer `id` for the kernel again; [`publish`](Self::publish) makes it visible.
    pub(super) fn give_back(&mut self, id: u16) {
        debug_assert!(id < COUNT);
        let id = id % COUNT;
        let place = usize::from(self.tail % COUNT);
        // SAFETY: inside the mapping, aligned (pages), and the kernel doesn't read past the published tail. The fields are set
        // one by one: writing a whole first entry would overwrite the tail that it holds.
        unsafe {
            let entry = &mut *self.entries.as_ptr().cast::<BufRingEntry>().add(place);
            entry.set_addr(self.buffers.as_ptr().add(usize::from(id) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel have everything that was given back.
    pub(super) fn publish(&self) {
        // SAFETY: the first entry is initialised and holds the tail, two bytes that are two-byte aligned; the kernel only reads
        // them, with acquire order.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    /// Never gives the memory back: for when it can't be shown that the kernel is done with it.
    pub(super) fn leak(self) {
        std::mem::forget(self);
    }
}
