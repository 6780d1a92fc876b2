//! What the load generator asks of Linux: the clock, a CPU of its own, and many datagrams in one system call.
//!
//! All of the generator's `unsafe` is here.

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Binds this thread to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::other("no such CPU"));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set; the index is below CPU_SETSIZE.
    let done = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set)
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel's number of this thread.
pub fn thread_id() -> i32 {
    // SAFETY: no arguments, never fails.
    unsafe { libc::gettid() }
}

/// Has timers of this thread fire when they are due instead of up to 50 µs later.
pub fn fire_timers_sharply() {
    // SAFETY: PR_SET_TIMERSLACK takes one number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1usize) };
}

/// Raises the limit on open files as far as it may be raised, and says what it is.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls take a pointer to a rlimit of ours.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
    }
    limit.rlim_cur
}

/// Waits until one of at most eight `sockets` can be read, or `nanoseconds` have passed.
pub fn wait(sockets: &[RawFd], nanoseconds: u64) {
    let mut polls = [libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    }; 8];
    for (poll, socket) in polls.iter_mut().zip(sockets) {
        poll.fd = *socket;
    }
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: polls has 8 entries and outlives the call; an entry with fd -1 is ignored.
    unsafe {
        libc::ppoll(
            polls.as_mut_ptr(),
            polls.len() as libc::nfds_t,
            &time,
            ptr::null(),
        )
    };
}

/// Has the kernel spread what comes for one port over the `count` sockets that share it (SO_REUSEPORT), each datagram to one drawn
/// at random. Said to one of the sockets, once all are bound.
pub fn spread_at_random(socket: RawFd, count: u32) -> io::Result<()> {
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut steps = [
        step(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32,
        ),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count.max(1)),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program points to three steps of ours, which the kernel copies during the call.
    let done = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            mem::size_of::<libc::sock_fprog>() as u32,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Datagrams that one call receives or sends at most.
pub const BATCH: usize = 64;
/// Room for one datagram. A longer one is told as none.
const DATAGRAM_MAX: usize = 8192;

/// Room for what one recvmmsg brings.
pub struct Inbox {
    bytes: Box<[u8]>,
    sources: Box<[libc::sockaddr_in; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    pub fn new() -> Inbox {
        let mut bytes = vec![0u8; BATCH * DATAGRAM_MAX].into_boxed_slice();
        // SAFETY: all three are plain C structures for which all-zero is valid.
        let mut inbox = unsafe {
            Inbox {
                sources: Box::new(mem::zeroed()),
                vectors: Box::new(mem::zeroed()),
                headers: Box::new(mem::zeroed()),
                bytes: Box::default(),
            }
        };
        for at in 0..BATCH {
            let room = &mut bytes[at * DATAGRAM_MAX..(at + 1) * DATAGRAM_MAX];
            inbox.vectors[at] = libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len(),
            };
            inbox.headers[at].msg_hdr.msg_iov = &mut inbox.vectors[at];
            inbox.headers[at].msg_hdr.msg_iovlen = 1;
            inbox.headers[at].msg_hdr.msg_name = (&raw mut inbox.sources[at]).cast();
        }
        inbox.bytes = bytes;
        inbox
    }

    /// How many datagrams were waiting, up to [`BATCH`].
    pub fn receive(&mut self, socket: RawFd) -> usize {
        for header in self.headers.iter_mut() {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
        }
        // SAFETY: headers, vectors, sources and bytes are boxed, so they stay where the headers point; each vector is of its own
        // part of bytes; nothing else borrows them during the call.
        let count = unsafe {
            libc::recvmmsg(
                socket,
                self.headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        count.max(0) as usize
    }

    /// The datagram numbered `at` of the last receive: nothing if it was longer than there is room for.
    pub fn datagram(&self, at: usize) -> Option<&[u8]> {
        let header = &self.headers[at];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        Some(&self.bytes[at * DATAGRAM_MAX..][..header.msg_len as usize])
    }

    /// Where it came from.
    pub fn source(&self, at: usize) -> SocketAddrV4 {
        let source = &self.sources[at];
        SocketAddrV4::new(
            Ipv4Addr::from(u32::from_be(source.sin_addr.s_addr)),
            u16::from_be(source.sin_port),
        )
    }
}

/// One datagram that waits to be sent.
#[derive(Clone, Copy)]
struct Waiting {
    start: u32,
    length: u32,
    /// The source address; unspecified leaves it to the socket.
    source: Ipv4Addr,
    target: SocketAddrV4,
    /// Datagrams of a lower class leave first.
    class: u8,
}

/// One control buffer: IP_PKTINFO (16 + 12 bytes, padded to 32) and UDP_SEGMENT (16 + 2, padded to 24).
type Control = [u64; 7];

/// Segments of one send: the kernel takes 128 and 65 kB.
const SEGMENTS_MAX: usize = 60;
const SEGMENTED_BYTES_MAX: usize = 60_000;

/// Datagrams of one socket that leave together.
pub struct Outbox {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    controls: Vec<Control>,
    targets: Vec<libc::sockaddr_in>,
    /// Whether datagrams of one length and way share one send by UDP_SEGMENT.
    segment: bool,
}

// SAFETY: its pointers are into its own vectors, are set anew by every flush, and are not used after it.
unsafe impl Send for Outbox {}

impl Outbox {
    pub fn new(segment: bool) -> Outbox {
        Outbox {
            bytes: Vec::with_capacity(1 << 18),
            waiting: Vec::with_capacity(256),
            vectors: Vec::with_capacity(256),
            headers: Vec::with_capacity(256),
            controls: Vec::with_capacity(256),
            targets: Vec::with_capacity(256),
            segment,
        }
    }

    pub fn push(&mut self, message: &[u8], source: Ipv4Addr, target: SocketAddrV4, class: u8) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(message);
        self.waiting.push(Waiting {
            start,
            length: message.len() as u32,
            source,
            target,
            class,
        });
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends all, waiting while the socket's buffer is full. Answers how many the kernel refused for another reason.
    pub fn flush(&mut self, socket: RawFd) -> u64 {
        if self.waiting.is_empty() {
            return 0;
        }
        if self.segment {
            self.waiting
                .sort_by_key(|it| (it.class, it.target, it.source, it.length));
        }
        self.lay_out();
        let mut refused = 0;
        let mut done = 0;
        while done < self.headers.len() {
            let rest = &mut self.headers[done..];
            // SAFETY: every pointer in the headers was set by lay_out, into vectors that have not changed since.
            let sent = unsafe {
                libc::sendmmsg(
                    socket,
                    rest.as_mut_ptr(),
                    rest.len().min(1024) as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent > 0 {
                done += sent as usize;
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => {
                    let mut poll = libc::pollfd {
                        fd: socket,
                        events: libc::POLLOUT,
                        revents: 0,
                    };
                    // SAFETY: one pollfd of ours.
                    unsafe { libc::poll(&mut poll, 1, 10) };
                }
                Some(libc::EINTR) => {}
                // A pending ICMP error is told to whoever sends next (ECONNREFUSED): that datagram was not looked at.
                _ => {
                    refused += rest[0].msg_hdr.msg_iovlen as u64;
                    done += 1;
                }
            }
        }
        self.bytes.clear();
        self.waiting.clear();
        refused
    }

    /// Makes headers, vectors and control buffers of what waits. All four lists get their final length before a pointer
    /// into one is taken.
    fn lay_out(&mut self) {
        let count = self.waiting.len();
        // SAFETY: plain C structures for which all-zero is valid.
        let (no_vector, no_header, no_target): (libc::iovec, libc::mmsghdr, libc::sockaddr_in) =
            unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        self.vectors.clear();
        self.vectors.resize(count, no_vector);
        self.headers.clear();
        self.headers.resize(count, no_header);
        self.controls.clear();
        self.controls.resize(count, [0; 7]);
        self.targets.clear();
        self.targets.resize(count, no_target);
        let (mut at, mut used) = (0, 0);
        while at < count {
            let first = self.waiting[at];
            let mut end = at + 1;
            if self.segment {
                let most = SEGMENTS_MAX.min(SEGMENTED_BYTES_MAX / (first.length as usize).max(1));
                let same = |it: &Waiting| {
                    it.length == first.length && it.source == first.source && it.target == first.target
                };
                while end < count && end - at < most && same(&self.waiting[end]) {
                    end += 1;
                }
            }
            for each in at..end {
                let it = self.waiting[each];
                let piece = &self.bytes[it.start as usize..][..it.length as usize];
                self.vectors[each] = libc::iovec {
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                };
            }
            self.targets[used] = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: first.target.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*first.target.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            let segment = (end - at > 1).then_some(first.length as u16);
            let length = write_control(&mut self.controls[used], first.source, segment);
            let header = &mut self.headers[used].msg_hdr;
            header.msg_name = (&raw mut self.targets[used]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
            header.msg_iov = &mut self.vectors[at];
            header.msg_iovlen = (end - at) as _;
            if length > 0 {
                header.msg_control = self.controls[used].as_mut_ptr().cast();
                header.msg_controllen = length as _;
            }
            used += 1;
            at = end;
        }
        self.headers.truncate(used);
    }
}

/// Writes the control messages and says how many bytes they take. The layout of a cmsghdr on 64-bit Linux: length (8 bytes),
/// level (4), type (4), then the data, padded to 8.
fn write_control(control: &mut Control, source: Ipv4Addr, segment: Option<u16>) -> usize {
    let kind = |level: i32, kind: i32| u64::from(level as u32) | u64::from(kind as u32) << 32;
    let mut used = 0;
    if !source.is_unspecified() {
        // in_pktinfo: interface index (none), the source to use, and a field that only a receiver reads.
        control[0] = 16 + 12;
        control[1] = kind(libc::IPPROTO_IP, libc::IP_PKTINFO);
        control[2] = u64::from(u32::from(source).to_be()) << 32;
        used = 4;
    }
    if let Some(length) = segment {
        control[used] = 16 + 2;
        control[used + 1] = kind(libc::SOL_UDP, libc::UDP_SEGMENT);
        control[used + 2] = u64::from(length);
        used += 3;
    }
    used * 8
}

#[cfg(all(target_endian = "little", target_pointer_width = "64"))]
const _: () = assert!(mem::size_of::<libc::cmsghdr>() == 16);
#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("the control messages are laid out for a little-endian 64-bit Linux");

/// Which of many sockets can be read.
pub struct Epoll {
    file: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the descriptor is new and ours.
        let file = unsafe {
            match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
                -1 => return Err(io::Error::last_os_error()),
                file => OwnedFd::from_raw_fd(file),
            }
        };
        Ok(Epoll {
            file,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 256],
        })
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub fn add(&self, socket: RawFd, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: key,
        };
        // SAFETY: one epoll_event of ours, read during the call.
        let done = unsafe { libc::epoll_ctl(self.fd(), libc::EPOLL_CTL_ADD, socket, &mut event) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    pub fn remove(&self, socket: RawFd) {
        // SAFETY: EPOLL_CTL_DEL reads no event.
        unsafe { libc::epoll_ctl(self.fd(), libc::EPOLL_CTL_DEL, socket, ptr::null_mut()) };
    }

    /// Appends the keys of what can be read now.
    pub fn ready(&mut self, keys: &mut Vec<u64>) {
        // SAFETY: events has the length that is told and outlives the call.
        let count =
            unsafe { libc::epoll_wait(self.fd(), self.events.as_mut_ptr(), self.events.len() as i32, 0) };
        keys.extend(self.events[..count.max(0) as usize].iter().map(|event| event.u64));
    }
}
