//! The CPU time of the server's processes, read from /proc.

use std::collections::BTreeSet;
use std::fs;

/// `pids` and all their descendants: Kamailio's workers are children of the process one knows.
pub fn family(pids: &[i32]) -> Vec<i32> {
    let mut known: BTreeSet<i32> = pids.iter().copied().collect();
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may hold anything; what follows its last ")" is state and parent.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    loop {
        let before = known.len();
        known.extend(
            parents
                .iter()
                .filter(|(_, parent)| known.contains(parent))
                .map(|it| it.0)
                .collect::<Vec<_>>(),
        );
        if known.len() == before {
            return known.into_iter().collect();
        }
    }
}

/// Nanoseconds that all threads of the processes have run, from the first field of their `schedstat`.
pub fn time_of_processes(pids: &[i32]) -> u64 {
    let threads = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flatten();
    threads
        .filter_map(|entry| time_in(&entry.ok()?.path().join("schedstat").to_string_lossy()))
        .sum()
}

/// Nanoseconds that one thread of this process has run.
pub fn time_of_thread(thread: i32) -> u64 {
    time_in(&format!("/proc/self/task/{thread}/schedstat")).unwrap_or(0)
}

fn time_in(path: &str) -> Option<u64> {
    fs::read_to_string(path)
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_this_process_grows_and_its_family_holds_it() {
        let me = std::process::id() as i32;
        let before = time_of_processes(&[me]);
        let mut sum = 0u64;
        while time_of_processes(&[me]) == before {
            sum = sum.wrapping_add((0..100_000u64).map(std::hint::black_box).sum());
        }
        assert!(family(&[me]).contains(&me));
    }
}
