//! One io_uring, set up as the kernel allows: entries go in and are never refused, completions come out and are never lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, TimeoutFlags, Timespec};
use io_uring::{IoUring, opcode};

use super::clock::Clock;
use super::probe::{Feature, Features, SetupError};
use super::tag::{Op, Tag};
use crate::config::KernelLevel;
use crate::metrics::Metrics;
use crate::time::Instant;

/// How long an enter may wait for a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    No,
    Until(Instant),
    Forever,
}

/// One completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub tag: Tag,
    /// What the request returned; below zero an errno.
    pub result: i32,
    pub flags: u32,
}

impl Completion {
    /// Whether a multishot request goes on.
    pub(super) fn more(&self) -> bool {
        io_uring::cqueue::more(self.flags)
    }
}

/// Entries that are to be submitted together.
enum Queued {
    One(Entry),
    /// The second is linked to the first.
    Pair(Entry, Entry),
}

pub(super) struct Ring {
    inner: IoUring,
    skip_success: bool,
    /// Requests that have yet to complete, or to complete for the last time.
    in_flight: usize,
    /// What found the submission queue full and the kernel unwilling to take it. First out at the next enter.
    overdue: VecDeque<Queued>,
    /// TIMEOUT requests on the ring, latest deadline first.
    timeouts: Vec<ArmedTimeout>,
    timeout_generation: u32,
    /// What a TIMEOUT entry points to until it has been submitted.
    timeout_spec: Box<Timespec>,
    /// The same for time-outs that measure lag.
    lag_spec: Box<Timespec>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

struct ArmedTimeout {
    deadline: Instant,
    generation: u32,
}

/// After so long a time-out that measures lag fires: soon, but not so soon that a busy shard had to handle many.
pub(super) const LAG_PROBE: Duration = Duration::from_millis(1);

/// TIMEOUT requests that may be on the ring at once.
const TIMEOUTS_MAX: usize = 8;

/// How much later than asked a wait may end when nothing but a deadline ends it. SIP counts in half seconds; and where messages
/// come, a turn looks at what is due anyway, so that few time-outs ever fire.
const TIMER_SLACK: Duration = Duration::from_millis(4);

impl Ring {
    pub(super) fn new(features: &Features, clock: Clock, metrics: Arc<Metrics>) -> io::Result<Ring> {
        let inner = set_up(features).map_err(|error| io::Error::other(SetupError::explain(error)))?;
        Ok(Ring {
            inner,
            skip_success: features.has(Feature::CqeSkip),
            in_flight: 0,
            overdue: VecDeque::new(),
            timeouts: Vec::with_capacity(TIMEOUTS_MAX),
            timeout_generation: 0,
            timeout_spec: Box::new(Timespec::new()),
            lag_spec: Box::new(Timespec::from(LAG_PROBE)),
            clock,
            metrics,
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }

    pub(super) fn inner(&self) -> &IoUring {
        &self.inner
    }

    /// Requests that the kernel has, or is to get, and that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether entries wait that no enter has taken yet for want of room.
    pub(super) fn has_overdue(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// A one-shot poll for `events` (`POLLIN`, `POLLOUT`).
    pub(super) fn poll(&mut self, fd: RawFd, events: libc::c_short, tag: Tag) {
        let entry = opcode::PollAdd::new(Fd(fd), events as u32).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry, tag) }
    }

    /// Accepts connections until it ends without F_MORE. The sockets are close-on-exec and non-blocking.
    pub(super) fn accept_multi(&mut self, fd: RawFd, tag: Tag) {
        let entry = opcode::AcceptMulti::new(Fd(fd))
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry, tag) }
    }

    /// Receives into buffers of `buf_group` until it ends without F_MORE.
    ///
    /// # Safety
    /// The memory of the buffer group must outlive the request: until its last completion has been seen.
    pub(super) unsafe fn recv_multi(&mut self, fd: RawFd, buf_group: u16, tag: Tag) {
        let entry = opcode::RecvMulti::new(Fd(fd), buf_group).build();
        // SAFETY: the entry itself points to no memory; the caller vouches for the group's.
        unsafe { self.push(entry, tag) }
    }

    /// Sends what a non-blocking send takes and completes inside the enter that submits it: on EAGAIN the kernel neither
    /// waits nor keeps the pointer.
    ///
    /// # Safety
    /// `len` bytes at `bytes` must stay as they are until the completion has been seen.
    pub(super) unsafe fn send(&mut self, fd: RawFd, bytes: *const u8, len: u32, tag: Tag) {
        let entry = opcode::Send::new(Fd(fd), bytes, len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the caller keeps the bytes valid.
        unsafe { self.push(entry, tag) }
    }

    /// Connects, and gives up with ECANCELED at the time-out. The time-out completes too, with [`Op::ConnectTimeout`].
    ///
    /// # Safety
    /// `addr` and `timeout` must stay valid until the request has been submitted (the kernel then has copies:
    /// IORING_FEAT_SUBMIT_STABLE); being kept until the completion is more than enough.
    pub(super) unsafe fn connect(
        &mut self,
        fd: RawFd,
        addr: *const libc::sockaddr,
        addr_len: libc::socklen_t,
        timeout: *const Timespec,
        tag: Tag,
    ) {
        let connect = opcode::Connect::new(Fd(fd), addr, addr_len)
            .build()
            .flags(Flags::IO_LINK)
            .user_data(tag.bits());
        let timeout = opcode::LinkTimeout::new(timeout)
            .build()
            .user_data(Tag::new(Op::ConnectTimeout, tag.slot, 0).bits());
        self.in_flight += 2;
        self.queue(Queued::Pair(connect, timeout));
    }

    /// Completes with [`Op::Lag`] after [`LAG_PROBE`].
    pub(super) fn probe_lag(&mut self) {
        let entry = opcode::Timeout::new(&raw const *self.lag_spec).build();
        // SAFETY: the entry points to a box of the ring's that never changes.
        unsafe { self.push(entry, Tag::new(Op::Lag, 0, 0)) }
    }

    /// Cancels the request that has `target`, if it is still there.
    pub(super) fn cancel(&mut self, target: Tag) {
        let entry = opcode::AsyncCancel::new(target.bits()).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry, Tag::new(Op::Cancel, target.slot, 0)) }
    }

    /// Puts a completion with `message` into another ring. Only a failure need complete here, with `tag`.
    pub(super) fn send_message(&mut self, ring: RawFd, message: Tag, tag: Tag) {
        debug_assert!(tag.op == Op::WakeSent);
        let mut entry = opcode::MsgRingData::new(Fd(ring), 0, message.bits(), None).build();
        if self.skip_success {
            entry = entry.flags(Flags::SKIP_SUCCESS);
        }
        // Not counted: it is over when it is submitted, and may not say so.
        self.queue(Queued::One(entry.user_data(tag.bits())));
    }

    /// # Safety
    /// What `entry` points to must stay valid until the request completes.
    unsafe fn push(&mut self, entry: Entry, tag: Tag) {
        self.in_flight += 1;
        self.queue(Queued::One(entry.user_data(tag.bits())));
    }

    fn queue(&mut self, queued: Queued) {
        // What is overdue goes first, so that requests keep their order.
        if self.overdue.is_empty() {
            if self.try_queue(&queued) {
                return;
            }
            // The queue is full: have the kernel take it, and try once more. An error shows again at the next enter.
            let _ = self.submit_now();
            if self.try_queue(&queued) {
                return;
            }
        }
        self.overdue.push_back(queued);
    }

    fn try_queue(&mut self, queued: &Queued) -> bool {
        let mut queue = self.inner.submission();
        match queued {
            // SAFETY: whoever made the entry vouched for what it points to.
            Queued::One(entry) => unsafe { queue.push(entry) }.is_ok(),
            // A link holds only inside one submission: both or neither.
            Queued::Pair(first, second) => {
                let pair = [first.clone(), second.clone()];
                // SAFETY: as above.
                unsafe { queue.push_multiple(&pair) }.is_ok()
            }
        }
    }

    fn submit_now(&mut self) -> io::Result<()> {
        let result = self.inner.submit();
        self.metrics
            .ring_submissions
            .add(*result.as_ref().unwrap_or(&0) as u64);
        result.map(drop)
    }

    /// Submits what is queued and waits for a completion. Being interrupted, timed out or short of kernel memory is no error: the
    /// caller's next turn goes on.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        while let Some(queued) = self.overdue.pop_front() {
            if !self.try_queue(&queued) {
                self.overdue.push_front(queued);
                break;
            }
        }
        let wait = if self.overdue.is_empty() { wait } else { Wait::No };
        let result = match wait {
            Wait::No => {
                let queue = self.inner.submission();
                let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
                drop(queue);
                if idle {
                    return Ok(());
                }
                self.inner.submit()
            }
            Wait::Forever => self.inner.submit_and_wait(1),
            Wait::Until(deadline) => {
                self.arm_timeout(deadline);
                self.inner.submit_and_wait(1)
            }
        };
        match result {
            Ok(submitted) => {
                self.metrics.ring_submissions.add(submitted as u64);
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // A signal came.
                Some(libc::EINTR) => Ok(()),
                // The kernel holds completions back until we take some (EBUSY), or is short of memory (EAGAIN): what was not
                // submitted stays in the queue.
                Some(libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether something has completed, or would be seen to have on entering the kernel.
    pub(super) fn has_completions(&mut self) -> bool {
        let queue = self.inner.submission();
        let has_deferred = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        has_deferred || !self.inner.completion().is_empty()
    }

    /// Sees to it that a completion comes at most [`TIMER_SLACK`] after `deadline`. One that comes earlier stands in for it: it costs a
    /// turn without an event.
    ///
    /// A time-out stays on the ring until it fires, whatever ends the wait. One for each wait, as `io_uring_enter` takes it since 5.11,
    /// would have the kernel set the machine's timer at each time that the thread falls asleep and set it back when it wakes: on a
    /// busy shard, which always has a deadline within a millisecond or two, that costs more than the rest of falling asleep.
    fn arm_timeout(&mut self, deadline: Instant) {
        let deadline = deadline + TIMER_SLACK;
        if self
            .timeouts
            .last()
            .is_some_and(|armed| armed.deadline <= deadline)
        {
            return;
        }
        if self.timeouts.len() == TIMEOUTS_MAX {
            // The latest is needed least. Its completion finds no entry here and is ignored.
            let latest = self.timeouts.remove(0);
            self.remove_timeout(&latest);
        }
        self.timeout_generation = self.timeout_generation.wrapping_add(1);
        self.timeouts.push(ArmedTimeout {
            deadline,
            generation: self.timeout_generation,
        });
        *self.timeout_spec = Timespec::from(self.clock.monotonic(deadline));
        let entry = opcode::Timeout::new(&*self.timeout_spec)
            .flags(TimeoutFlags::ABS)
            .build();
        // SAFETY: the box outlives the ring, and the kernel copies the time when it takes the entry. An entry that is overdue may so
        // be submitted with the time of a later call, which by the test above is earlier: one turn too many.
        unsafe { self.push(entry, Tag::new(Op::Timeout, 0, self.timeout_generation)) }
    }

    /// To be called for each completion of an [`Op::Timeout`].
    pub(super) fn timeout_fired(&mut self, tag: Tag) {
        self.timeouts.retain(|armed| !tag.is_of(armed.generation));
    }

    /// Copies what has completed into `completions`, in order.
    pub(super) fn reap(&mut self, completions: &mut Vec<Completion>) {
        if self.inner.submission().cq_overflow() {
            // IORING_FEAT_NODROP: the kernel keeps what had no room, and the next enter brings it.
            self.metrics.overflows.inc();
        }
        let before = completions.len();
        for entry in self.inner.completion() {
            let Some(tag) = Tag::from_bits(entry.user_data()) else {
                debug_assert!(
                    false,
                    "a completion that nobody asked for: {:#x}",
                    entry.user_data()
                );
                continue;
            };
            let completion = Completion {
                tag,
                result: entry.result(),
                flags: entry.flags(),
            };
            let was_counted = match tag.op {
                Op::WakeMessage | Op::WakeSent => false,
                Op::WakeReady
                | Op::Timeout
                | Op::TimeoutRemove
                | Op::UdpReadable
                | Op::UdpWritable
                | Op::Accept
                | Op::AcceptReady
                | Op::Recv
                | Op::RecvReady
                | Op::Send
                | Op::SendReady
                | Op::Connect
                | Op::ConnectTimeout
                | Op::Cancel
                | Op::Lag => !completion.more(),
            };
            self.in_flight -= usize::from(was_counted);
            completions.push(completion);
        }
        self.metrics
            .ring_completions
            .add((completions.len() - before) as u64);
    }

    /// Cancels the time-outs of waits, for the end of the ring's life.
    pub(super) fn cancel_timeouts(&mut self) {
        for armed in std::mem::take(&mut self.timeouts) {
            self.remove_timeout(&armed);
        }
    }

    fn remove_timeout(&mut self, armed: &ArmedTimeout) {
        let target = Tag::new(Op::Timeout, 0, armed.generation);
        let entry = opcode::TimeoutRemove::new(target.bits()).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry, Tag::new(Op::TimeoutRemove, 0, 0)) }
    }
}

/// Entries of the submission and completion queue. A turn of a busy shard submits some hundred sends; thousands of connections
/// can complete at once.
const ENTRIES: (u32, u32) = (1_024, 8_192);
/// The same where a ring counts against RLIMIT_MEMLOCK (before 5.12): about 40 KiB, which fits the usual 64 KiB.
const ENTRIES_LOCKED: (u32, u32) = (256, 1_024);

fn set_up(features: &Features) -> io::Result<IoUring> {
    let locked = features.level() < KernelLevel { major: 5, minor: 12 };
    let (entries, completions) = if locked { ENTRIES_LOCKED } else { ENTRIES };
    let mut builder = IoUring::builder();
    builder.setup_cqsize(completions).dontfork();
    if features.has(Feature::SubmitAll) {
        // One bad entry doesn't keep those behind it from being submitted.
        builder.setup_submit_all();
    }
    if features.has(Feature::SingleIssuer) {
        builder.setup_single_issuer();
    }
    if features.has(Feature::DeferTaskrun) {
        // TASKRUN_FLAG shows deferred work, so that a turn that doesn't wait knows whether to enter at all; the crate's submit()
        // asks for completions (GETEVENTS) only when it sees that flag.
        builder.setup_defer_taskrun().setup_taskrun_flag();
    } else if features.has(Feature::CoopTaskrun) {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    builder.build(entries)
}
