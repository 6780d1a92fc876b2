//! `bpf(2)`: maps and programs.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::socket_options;
use super::steer_asm::Insn;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;

const PROG_TYPE_SK_REUSEPORT: u32 = 21;

/// No helper that the program calls asks for the GPL.
const LICENCE: &CStr = c"MIT OR Apache-2.0";
/// What the verifier may say of a refused program. It says the reason last, and only what fits is kept: the log is for
/// people who change the program.
const VERIFIER_LOG_BYTES: usize = 1 << 20;

/// How often a program is offered whose verification is broken off.
const LOAD_TRIES_MAX: usize = 32;

#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum MapKind {
    /// A value for each CPU.
    PerCpuArray = 6,
    /// Sockets that share an address.
    ReuseportSockArray = 20,
}

/// The start of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The same for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for BPF_PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// An array with 32-bit indices as keys.
pub(super) fn create_map(kind: MapKind, value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    let attr = MapCreate {
        kind: kind as u32,
        key_size: 4,
        value_size: value_bytes,
        max_entries: entries,
    };
    // SAFETY: the attributes are those of this command, and point to nothing.
    unsafe { new_fd(MAP_CREATE, &attr) }
}

/// Puts a socket that is bound into a map of sockets.
pub(super) fn put_socket(map: BorrowedFd<'_>, index: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let socket = socket.as_raw_fd() as u64;
    let attr = MapUpdate {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const index) as u64,
        value: (&raw const socket) as u64,
        flags: 0,
    };
    // SAFETY: the attributes are those of this command; key (4 bytes) and value (8 bytes) live through the call, which copies them.
    unsafe { bpf(MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Has the kernel verify and take a program that chooses among sockets.
///
/// # Errors
/// EPERM without CAP_BPF (CAP_SYS_ADMIN before 5.8); what the verifier objects to is logged as `debug`.
pub(super) fn load_program(code: &[Insn]) -> io::Result<OwnedFd> {
    let mut loaded = load(code, &mut []);
    // A signal, or work that the kernel has for this thread (the end of a ring's requests), breaks the verifier off: EAGAIN.
    for _ in 1..LOAD_TRIES_MAX {
        match &loaded {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => loaded = load(code, &mut []),
            Ok(_) | Err(_) => break,
        }
    }
    loaded.inspect_err(|error| {
        if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EAGAIN)) {
            return;
        }
        let mut log = vec![0; VERIFIER_LOG_BYTES];
        // The second try is for the log alone; with it ENOSPC may stand for the first error.
        if load(code, &mut log).is_err() {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
            tracing::debug!(
                "the verifier refuses the steering program:\n{}",
                log.to_string_lossy()
            );
        }
    })
}

fn load(code: &[Insn], log: &mut [u8]) -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        kind: PROG_TYPE_SK_REUSEPORT,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: LICENCE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buf: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the attributes are those of this command. Program and licence live through the call, which copies them, and the log
    // is written to within its length.
    unsafe { new_fd(PROG_LOAD, &attr) }
}

/// Lets `program` choose among all sockets that share the address of `socket`.
pub(super) fn attach(program: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<()> {
    socket_options::set(
        socket.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_EBPF,
        program.as_fd().as_raw_fd(),
    )
}

/// # Safety
/// `attr` must be what `command` takes, and what it points to valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the attributes, whose size is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// # Safety
/// As for [`bpf`]; `command` must give a new descriptor.
unsafe fn new_fd<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attributes.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it. It is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
