//! The trying itself: each function answers whether one thing works here and now.

use std::io::{self, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, Probe, opcode};

use super::buf_ring::{self, BufRing};
use super::probe::{Feature, FeatureSet, SetupError};
use super::socket_options::{self, raise_memory_lock};
use super::steer;
use crate::config::KernelLevel;
use crate::owner::OwnerKey;

/// Opcodes that everything stands on.
const REQUIRED: [(u8, &str); 7] = [
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::TimeoutRemove::CODE, "TIMEOUT_REMOVE"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::LinkTimeout::CODE, "LINK_TIMEOUT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Send::CODE, "SEND"),
];

/// What the running kernel is and has.
pub(super) fn probe() -> Result<(KernelLevel, FeatureSet), SetupError> {
    let kernel = version().map_err(SetupError::Other)?;
    // Before 5.12 rings count against it; later it is not looked at.
    raise_memory_lock();
    let mut found = FeatureSet::default();
    // First: the end of a ring would disturb it.
    found.set(Feature::ReuseportEbpf, reuseport_ebpf().unwrap_or(false));
    let ring = IoUring::builder().build(8).map_err(SetupError::explain)?;
    require(&ring)?;
    let params = ring.params();
    found.set(Feature::CqeSkip, params.is_feature_skip_cqe_on_success());
    found.set(Feature::SubmitAll, sets_up(|builder| builder.setup_submit_all()));
    found.set(
        Feature::CoopTaskrun,
        sets_up(|builder| builder.setup_coop_taskrun().setup_taskrun_flag()),
    );
    found.set(
        Feature::SingleIssuer,
        sets_up(|builder| builder.setup_single_issuer()),
    );
    found.set(
        Feature::DeferTaskrun,
        sets_up(|builder| {
            builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag()
        }),
    );
    // Without a time-out for the wait (EXT_ARG) a trial could hang; whatever has these features has that.
    if params.is_feature_ext_arg() {
        found.set(Feature::MsgRing, msg_ring().unwrap_or(false));
        found.set(Feature::MultishotAccept, multishot_accept().unwrap_or(false));
        found.set(Feature::BufferRing, buffer_ring().unwrap_or(false));
        found.set(Feature::MultishotRecv, multishot_recv().unwrap_or(false));
    }
    let option = |level, name, value| {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| socket_options::set(socket.as_raw_fd(), level, name, value))
            .is_ok()
    };
    found.set(Feature::UdpSegment, option(libc::SOL_UDP, libc::UDP_SEGMENT, 600));
    found.set(Feature::UdpGro, option(libc::SOL_UDP, libc::UDP_GRO, 1));
    found.set(
        Feature::TimestampNs,
        option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
    );
    Ok((kernel, found))
}

/// The value of the sysctl, if the kernel has it (6.6).
pub(super) fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn version() -> io::Result<KernelLevel> {
    // SAFETY: all fields are arrays of characters, for which zero is a value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a valid utsname to write to.
    if unsafe { libc::uname(&mut name) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let release = name.release.map(|c| c as u8);
    parse_release(&release).ok_or_else(|| io::Error::other("the kernel's release is no version"))
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
fn parse_release(release: &[u8]) -> Option<KernelLevel> {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
    Some(KernelLevel {
        major: numbers.next()??,
        minor: numbers.next()??,
    })
}

fn require(ring: &IoUring) -> Result<(), SetupError> {
    if !ring.params().is_feature_nodrop() {
        return Err(SetupError::TooOld { lacking: "NODROP" });
    }
    if !ring.params().is_feature_submit_stable() {
        return Err(SetupError::TooOld {
            lacking: "SUBMIT_STABLE",
        });
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(SetupError::explain)?;
    match REQUIRED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some(&(_, lacking)) => Err(SetupError::TooOld { lacking }),
        None => Ok(()),
    }
}

fn sets_up(flags: impl Fn(&mut Builder) -> &mut Builder) -> bool {
    flags(&mut IoUring::builder()).build(8).is_ok()
}

/// Submits `entry` and gives the result and flags of the first completion within a second.
///
/// # Safety
/// What `entry` points to must outlive `ring`.
unsafe fn submit(ring: &mut IoUring, entry: Entry) -> io::Result<(i32, u32)> {
    // SAFETY: the caller vouches for the entry.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    first_completion(ring)
}

fn first_completion(ring: &mut IoUring) -> io::Result<(i32, u32)> {
    let timeout = Timespec::from(Duration::from_secs(1));
    ring.submitter()
        .submit_with_args(1, &SubmitArgs::new().timespec(&timeout))?;
    let completion = ring.completion().next();
    completion
        .map(|entry| (entry.result(), entry.flags()))
        .ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
}

fn msg_ring() -> io::Result<bool> {
    let (mut from, mut to) = (IoUring::new(8)?, IoUring::new(8)?);
    let message = opcode::MsgRingData::new(Fd(to.as_raw_fd()), 0, 42, None).build();
    // SAFETY: the entry points to no memory.
    let (result, _) = unsafe { submit(&mut from, message) }?;
    let arrived = to
        .completion()
        .next()
        .is_some_and(|entry| entry.user_data() == 42);
    Ok(result >= 0 && arrived)
}

fn multishot_accept() -> io::Result<bool> {
    // An abstract local socket: no port, no file. The kernel's accept is the same for all families. Several probes may run at once.
    static PROBES: AtomicU32 = AtomicU32::new(0);
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringway-probe-{}-{number}", std::process::id());
    let addr = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&addr)?;
    let _client = UnixStream::connect_addr(&addr)?;
    let mut ring = IoUring::new(8)?;
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
        .flags(libc::SOCK_CLOEXEC)
        .build();
    // SAFETY: the entry points to no memory.
    let (result, flags) = unsafe { submit(&mut ring, accept) }?;
    if result < 0 {
        return Ok(false);
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(result) });
    Ok(io_uring::cqueue::more(flags))
}

fn buffer_ring() -> io::Result<bool> {
    let ring = IoUring::new(8)?;
    // SAFETY: no request is ever made that could fill a buffer.
    let buf_ring = unsafe { BufRing::register(&ring) };
    drop(ring);
    Ok(buf_ring.is_ok())
}

fn multishot_recv() -> io::Result<bool> {
    let (mut here, there) = UnixStream::pair()?;
    here.write_all(b"?")?;
    let mut ring = IoUring::new(8)?;
    // SAFETY: below the memory is given back only after the request's last completion, else leaked.
    let buf_ring = unsafe { BufRing::register(&ring) }?;
    let recv = opcode::RecvMulti::new(Fd(there.as_raw_fd()), buf_ring::GROUP).build();
    // SAFETY: the entry itself points to no memory; the group's is kept as said.
    let first = unsafe { submit(&mut ring, recv) };
    let works = first
        .as_ref()
        .is_ok_and(|&(result, flags)| result == 1 && io_uring::cqueue::more(flags));
    let mut ended = first
        .as_ref()
        .is_ok_and(|&(_, flags)| !io_uring::cqueue::more(flags));
    if works {
        // The end of the stream ends the request.
        drop(here);
        ended = first_completion(&mut ring).is_ok_and(|(_, flags)| !io_uring::cqueue::more(flags));
    }
    drop(ring);
    if ended {
        drop(buf_ring);
    } else {
        buf_ring.leak();
    }
    Ok(works)
}

/// Loads the program that steers, for two sockets. Needs CAP_BPF or CAP_SYS_ADMIN.
fn reuseport_ebpf() -> io::Result<bool> {
    let first = steer::sharing((Ipv4Addr::LOCALHOST, 0).into())?;
    let second = steer::sharing(first.local_addr()?)?;
    steer::steer_group(&[&first, &second], &OwnerKey::new([0; 16]))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_distributions_are_read() {
        for (release, expected) in [
            ("6.1.0-18-amd64\0\0", Some((6, 1))),
            ("5.10.0", Some((5, 10))),
            ("4.18.0-553.el8.x86_64", Some((4, 18))),
            ("6.19-rc1", Some((6, 19))),
            ("next", None),
            ("", None),
        ] {
            let level = expected.map(|(major, minor)| KernelLevel { major, minor });
            assert_eq!(parse_release(release.as_bytes()), level, "{release}");
        }
    }
}
