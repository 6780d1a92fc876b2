//! Waking a shard out of its wait: from another shard by a message to its ring (`IORING_OP_MSG_RING`, 5.18+), from any thread
//! by an eventfd that the ring polls.
//!
//! A shard is only sent a message if it sleeps. It says so before it looks whether others have posted anything since it last read its
//! mail; they post before they look whether it sleeps. All four are sequentially consistent, so one of the two sees the other.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wire::ShardId;

/// One entry a shard; shared by all threads of the process.
pub struct Wakers {
    shards: Box<[Waker]>,
}

struct Waker {
    event: File,
    /// The shard's ring while it takes messages, else [`NO_RING`].
    ring: AtomicI32,
    /// The shard waits, or is about to, and nobody has begun to wake it.
    is_asleep: AtomicBool,
    /// How often other shards have had something for it, modulo 2^32.
    posted: AtomicU32,
}

const NO_RING: RawFd = -1;

impl Wakers {
    /// # Errors
    /// No file descriptors are left.
    pub fn new(shards: usize) -> io::Result<Wakers> {
        let shards = (0..shards)
            .map(|_| {
                Ok(Waker {
                    event: eventfd()?,
                    ring: AtomicI32::new(NO_RING),
                    is_asleep: AtomicBool::new(false),
                    posted: AtomicU32::new(0),
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Wakers { shards })
    }

    /// Makes the shard's turn return, now or the next time it would wait. From any thread.
    pub fn wake(&self, shard: ShardId) {
        let Some(waker) = self.shards.get(usize::from(shard.0)) else {
            debug_assert!(false, "shard {} does not exist", shard.0);
            return;
        };
        // It fails only when the counter is at its maximum, and then the shard is being woken anyway.
        let _ = (&waker.event).write(&1u64.to_ne_bytes());
    }

    /// Another shard has put something where `shard` finds it in its next turn. `true`: it sleeps, and the caller is to wake it.
    pub(super) fn post(&self, shard: ShardId) -> bool {
        self.shards.get(usize::from(shard.0)).is_some_and(|waker| {
            waker.posted.fetch_add(1, Ordering::SeqCst);
            // Looked at first: mostly it is awake, and then nothing is written.
            waker.is_asleep.load(Ordering::SeqCst) && waker.is_asleep.swap(false, Ordering::SeqCst)
        })
    }

    /// How often something was posted to `shard`; what was is there to be read.
    pub(super) fn posted(&self, shard: ShardId) -> u32 {
        self.shards
            .get(usize::from(shard.0))
            .map_or(0, |waker| waker.posted.load(Ordering::SeqCst))
    }

    /// `shard` is about to wait: from now on whoever posts wakes it. `false`: there is more than the `seen` that it has read.
    pub(super) fn fall_asleep(&self, shard: ShardId, seen: u32) -> bool {
        let Some(waker) = self.shards.get(usize::from(shard.0)) else {
            return true;
        };
        waker.is_asleep.store(true, Ordering::SeqCst);
        let may_sleep = waker.posted.load(Ordering::SeqCst) == seen;
        if !may_sleep {
            self.awake(shard);
        }
        may_sleep
    }

    /// `shard` is awake: it needs no waking.
    pub(super) fn awake(&self, shard: ShardId) {
        if let Some(waker) = self.shards.get(usize::from(shard.0)) {
            waker.is_asleep.store(false, Ordering::Relaxed);
        }
    }

    /// The file to poll for wake-ups of `shard`.
    pub(super) fn event_fd(&self, shard: ShardId) -> Option<RawFd> {
        self.shards
            .get(usize::from(shard.0))
            .map(|waker| waker.event.as_raw_fd())
    }

    /// Takes back the wake-ups that have come so far.
    pub(super) fn clear(&self, shard: ShardId) {
        if let Some(waker) = self.shards.get(usize::from(shard.0)) {
            // One read takes them all. Nothing to read means that they were taken before.
            let _ = (&waker.event).read(&mut [0; 8]);
        }
    }

    /// Says that `shard` takes messages on this ring from now on; `None` takes it back, before the ring is closed.
    pub(super) fn set_ring(&self, shard: ShardId, ring: Option<RawFd>) {
        if let Some(waker) = self.shards.get(usize::from(shard.0)) {
            waker.ring.store(ring.unwrap_or(NO_RING), Ordering::Release);
        }
    }

    pub(super) fn ring(&self, shard: ShardId) -> Option<RawFd> {
        let ring = self
            .shards
            .get(usize::from(shard.0))?
            .ring
            .load(Ordering::Acquire);
        (ring != NO_RING).then_some(ring)
    }
}

/// Wakes the control thread, from any shard. The control thread waits until the file can be read, and then reads it.
pub struct ControlWaker {
    event: File,
}

impl ControlWaker {
    /// # Errors
    /// No file descriptors are left.
    pub fn new() -> io::Result<ControlWaker> {
        Ok(ControlWaker { event: eventfd()? })
    }

    pub fn wake(&self) {
        // It fails only when the counter is at its maximum, and then the control thread is being woken anyway.
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }
}

impl AsRawFd for ControlWaker {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Where the control thread, on its tokio runtime, waits to be woken.
pub struct ControlEar {
    event: AsyncFd<Arc<ControlWaker>>,
}

impl ControlEar {
    /// # Errors
    /// The runtime can't poll it.
    pub fn new(waker: Arc<ControlWaker>) -> io::Result<ControlEar> {
        // SAFETY: the waker owns its descriptor, never replaces or closes it, and lives as long as the `Arc` that is registered.
        let event = unsafe { AsyncFd::register_with_interest(waker, Interest::READABLE) }?;
        Ok(ControlEar { event })
    }

    /// Waits for a wake-up and takes back all that have come so far. What was told before the wake-up is there to be read.
    ///
    /// # Errors
    /// The runtime is going down.
    pub async fn woken(&self) -> io::Result<()> {
        let mut ready = self.event.readable().await?;
        // Nothing to read means that they were taken before.
        let _ = (&self.event.get_ref().event).read(&mut [0; 8]);
        ready.clear_ready();
        Ok(())
    }
}

fn eventfd() -> io::Result<File> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_posts_first_to_a_sleeping_shard_wakes_it_and_nobody_else() {
        let wakers = Wakers::new(2).expect("eventfds");
        let shard = ShardId(1);
        assert!(!wakers.post(shard), "it is awake");
        let seen = wakers.posted(shard);
        assert!(wakers.fall_asleep(shard, seen));
        assert!(wakers.post(shard));
        assert!(!wakers.post(shard), "it is being woken");
        assert!(!wakers.post(ShardId(0)), "it is another");
    }

    #[test]
    fn what_was_posted_meanwhile_keeps_a_shard_awake() {
        let wakers = Wakers::new(1).expect("an eventfd");
        let shard = ShardId(0);
        let seen = wakers.posted(shard);
        wakers.post(shard);
        assert!(!wakers.fall_asleep(shard, seen));
        assert!(!wakers.post(shard), "it goes on by itself");
        assert!(wakers.fall_asleep(shard, wakers.posted(shard)));
        wakers.awake(shard);
        assert!(!wakers.post(shard));
    }
}
