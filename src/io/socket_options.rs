//! Socket options and process limits that the standard library has no words for.

use std::io;
use std::os::fd::RawFd;

/// Sets an integer option.
pub(super) fn set(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises the soft limit of locked memory to the hard one. What can't be raised shows when a ring is set up.
pub(super) fn raise_memory_lock() {
    let _ = raise(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY);
}

/// Raises the soft limit of open files as far as `wanted`, if the hard one allows. Gives the limit that then holds.
pub(super) fn raise_open_files(wanted: u64) -> io::Result<u64> {
    raise(libc::RLIMIT_NOFILE, wanted)
}

fn raise(resource: libc::__rlimit_resource_t, wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit to write to.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let reachable = wanted.min(limit.rlim_max);
    if reachable > limit.rlim_cur {
        limit.rlim_cur = reachable;
        // SAFETY: `limit` is a valid rlimit to read.
        if unsafe { libc::setrlimit(resource, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}
