//! What the configuration must know of the machine and of this process, read once at start and passed on as data.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// CPUs that this process may run on, in order; empty if that can't be known.
    pub cpus: Vec<usize>,
    /// How many threads are worth having: the CPUs, less what a cgroup quota takes. At least 1.
    pub parallelism: usize,
    /// Main memory, or less where a cgroup allows less. Bytes; `None` if unknown.
    pub memory_bytes: Option<u64>,
    /// How many files this process may open once it has raised its soft limit to the hard one; `None` if unlimited or
    /// unknown.
    pub files_max: Option<u64>,
    /// The address that packets for the outside world leave from.
    pub primary_v4: Option<Ipv4Addr>,
    pub primary_v6: Option<Ipv6Addr>,
}

impl Machine {
    pub fn read() -> Machine {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Machine {
            cpus: field(&status, "Cpus_allowed_list:")
                .and_then(parse_cpu_list)
                .unwrap_or_default(),
            parallelism: thread::available_parallelism().map_or(1, |n| n.get()),
            memory_bytes: memory_bytes(),
            files_max: files_max(&limits),
            primary_v4: primary_v4(),
            primary_v6: primary_v6(),
        }
    }

    /// The same machine, some time later. The CPUs are those of before: a thread that gives way to the shards keeps off theirs, and would
    /// take what is left for all there is.
    pub fn again(&self) -> Machine {
        Machine {
            cpus: self.cpus.clone(),
            parallelism: self.parallelism,
            ..Machine::read()
        }
    }

    /// The address under which others most likely reach a socket that is bound to every address of this machine.
    /// `bound` says which family. `None` when there is no route to the outside, so nothing can be told.
    pub fn advertised_for(&self, bound: IpAddr) -> Option<IpAddr> {
        match bound {
            IpAddr::V4(_) => self.primary_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.primary_v6.map(IpAddr::V6),
        }
    }
}

/// The rest of the first line of `text` that begins with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// A list of CPUs as the kernel writes it: `0-3,8`. Also what `--cpus` takes.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // Linux numbers at most 8,192 CPUs; anything larger is a slip, and would be a long list.
        if first > last || last >= 8_192 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn memory_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = field(&meminfo, "MemTotal:")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let total = kib.saturating_mul(1_024);
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(total.min(cgroup_memory_bytes(&cgroup).unwrap_or(u64::MAX)))
}

/// The tightest `memory.max` on the way from this process's cgroup (version 2) to the root.
fn cgroup_memory_bytes(cgroup: &str) -> Option<u64> {
    let path = field(cgroup, "0::")?.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(path);
    own.ancestors()
        .take_while(|at| at.starts_with(root))
        .filter_map(|at| {
            fs::read_to_string(at.join("memory.max"))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
        .min()
}

/// The hard limit of open files.
fn files_max(limits: &str) -> Option<u64> {
    field(limits, "Max open files")?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Connecting a UDP socket sends nothing: it only asks the routing table which address would be used.
fn primary(bind: IpAddr, towards: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(bind, 0)).ok()?;
    socket.connect(SocketAddr::new(towards, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// 192.0.2.1 and 2001:db8::1 stand for anything outside: they are set aside for documentation (RFC 5737, RFC 3849).
fn primary_v4() -> Option<Ipv4Addr> {
    match primary(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn primary_v6() -> Option<Ipv6Addr> {
    let outside = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    match primary(Ipv6Addr::UNSPECIFIED.into(), outside.into())? {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_list_is_read_as_the_kernel_writes_it() {
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        assert_eq!(parse_cpu_list("0-3,8, 10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        for wrong in ["", "a", "3-1", "1,,2", "-1", "0-99999999"] {
            assert_eq!(parse_cpu_list(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_hard_limit_of_files_is_the_one_that_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(files_max(limits), Some(524_288));
        assert_eq!(files_max(&limits.replace("524288   ", "unlimited")), None);
        assert_eq!(files_max(""), None);
    }

    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        let machine = Machine::read();
        assert!(!machine.cpus.is_empty() && machine.parallelism >= 1);
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }
}
