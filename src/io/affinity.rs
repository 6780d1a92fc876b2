//! Pinning: a shard's thread stays on one CPU, and its caches with it. What works beside the shards gives way to them.

use std::io;

/// Pins the calling thread to `cpu`.
///
/// # Errors
/// The CPU does not exist, or the process may not run on it.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = empty();
    if cpu >= 8 * std::mem::size_of_val(&set) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `cpu` is below the number of bits in the set, as was just checked.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    apply(&set)
}

/// How much nicer than a shard whatever works beside it is.
const GIVES_WAY: libc::c_int = 10;

/// Has the calling thread, and threads that it starts, give way to the shards: it keeps off `cpus`, unless that would leave it none, and is
/// nicer than they are. What it does at a stretch would otherwise hold up a shard for some milliseconds.
///
/// # Errors
/// The system does not allow one of these.
pub fn give_way_on(cpus: &[usize]) -> io::Result<()> {
    let mut set = empty();
    // SAFETY: the set is as large as is said; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let bits = 8 * std::mem::size_of_val(&set);
    for &cpu in cpus.iter().filter(|&&cpu| cpu < bits) {
        // SAFETY: `cpu` is below the number of bits in the set.
        unsafe { libc::CPU_CLR(cpu, &mut set) };
    }
    // SAFETY: counts the bits of a set.
    if unsafe { libc::CPU_COUNT(&set) } > 0 {
        apply(&set)?;
    }
    // SAFETY: asks for and changes nothing but the priority of this thread, which 0 names.
    match unsafe {
        libc::setpriority(
            libc::PRIO_PROCESS,
            0,
            libc::getpriority(libc::PRIO_PROCESS, 0) + GIVES_WAY,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    unsafe { std::mem::zeroed() }
}

fn apply(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set is as large as is said; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(set), set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_does_not_exist_is_refused() {
        assert!(pin_to(1_000_000).is_err());
    }

    /// CPUs that the calling thread may run on.
    fn allowed() -> Vec<usize> {
        let mut set = empty();
        // SAFETY: the set is as large as is said; 0 is the calling thread.
        let result = unsafe { libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set) };
        assert_eq!(result, 0);
        // SAFETY: all of these are below the number of bits in the set.
        (0..8 * std::mem::size_of_val(&set))
            .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
            .collect()
    }

    #[test]
    fn a_thread_gives_way_as_long_as_a_cpu_is_left() {
        // On a thread of its own: others of this process shall run where they like.
        std::thread::spawn(|| {
            // SAFETY: asks for the priority of this thread.
            let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            let (before, nice_before) = (allowed(), niceness());
            give_way_on(&before).unwrap();
            assert_eq!(allowed(), before);
            assert_eq!(niceness(), (nice_before + GIVES_WAY).min(19));
            give_way_on(&[before[0], 1_000_000]).unwrap();
            let left = if before.len() == 1 { &before } else { &before[1..] };
            assert_eq!(allowed(), left);
        })
        .join()
        .unwrap();
    }
}
