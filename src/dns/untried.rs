//! The addresses of a name that a request may still go to: RFC 3263 §4.3. They are kept as they were determined when it was sent first, so
//! that each is tried once, whatever DNS says meanwhile.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::pool::{BufId, Pool};
use crate::wire::Transport;

use super::plan::{TARGETS_MAX, Target, Targets};

/// Transport (1), address (16) and port (2), big-endian; an IPv4 address in the IPv6 form that maps it.
const TARGET_BYTES: usize = 19;

/// Targets that were not tried yet, in one buffer of the pool, which must be given back with [`Untried::release`].
#[derive(Debug)]
pub struct Untried {
    list: BufId,
    /// Those before it were tried.
    next: u8,
}

impl Untried {
    /// Keeps those of `targets` from `first` on. `None`: there are none, or there is no buffer.
    pub fn keep(targets: &Targets, first: usize, pool: &mut Pool) -> Option<Untried> {
        let mut bytes = [0; TARGETS_MAX * TARGET_BYTES];
        let mut len = 0;
        for (target, place) in targets
            .iter()
            .skip(first)
            .zip(bytes.as_chunks_mut::<TARGET_BYTES>().0)
        {
            *place = to_bytes(target);
            len += TARGET_BYTES;
        }
        if len == 0 {
            return None;
        }
        let list = pool.put(&bytes[..len])?;
        Some(Untried { list, next: 0 })
    }

    /// The next target, which then counts as tried. `None`: all were.
    pub fn next(&mut self, pool: &Pool) -> Option<Target> {
        let (targets, _) = pool.get(self.list).as_chunks::<TARGET_BYTES>();
        let target = targets.get(usize::from(self.next)).map(from_bytes)?;
        self.next += 1;
        Some(target)
    }

    /// All that are left.
    pub fn left(&self, pool: &Pool) -> Targets {
        let (targets, _) = pool.get(self.list).as_chunks::<TARGET_BYTES>();
        let mut left = Targets::default();
        for target in targets.iter().skip(usize::from(self.next)) {
            left.add(from_bytes(target));
        }
        left
    }

    pub fn release(self, pool: &mut Pool) {
        pool.release(self.list);
    }
}

fn to_bytes(target: Target) -> [u8; TARGET_BYTES] {
    let mut bytes = [0; TARGET_BYTES];
    bytes[0] = match target.transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
    };
    let ip = match target.addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    bytes[1..17].copy_from_slice(&ip.octets());
    bytes[17..].copy_from_slice(&target.addr.port().to_be_bytes());
    bytes
}

fn from_bytes(bytes: &[u8; TARGET_BYTES]) -> Target {
    let ip = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[1 + i]));
    Target {
        transport: match bytes[0] {
            0 => Transport::Udp,
            _ => Transport::Tcp,
        },
        addr: SocketAddr::new(
            IpAddr::V6(ip).to_canonical(),
            u16::from_be_bytes([bytes[17], bytes[18]]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(transport: Transport, addr: &str) -> Target {
        let addr = addr.parse().expect("an address");
        Target { transport, addr }
    }

    #[test]
    fn each_that_is_left_comes_once_and_in_order() {
        let mut targets = Targets::default();
        let all = [
            target(Transport::Udp, "192.0.2.1:5060"),
            target(Transport::Tcp, "[2001:db8::1]:65535"),
            target(Transport::Udp, "192.0.2.3:1"),
        ];
        all.iter().for_each(|target| targets.add(*target));
        let mut pool = Pool::new(1 << 20);
        let mut untried = Untried::keep(&targets, 1, &mut pool).expect("room");
        assert!(untried.left(&pool).iter().eq(all[1..].iter().copied()));
        let left: Vec<Target> = std::iter::from_fn(|| untried.next(&pool)).collect();
        assert_eq!(left, all[1..]);
        assert_eq!(untried.left(&pool).len(), 0);
        assert_eq!(untried.next(&pool), None);
        untried.release(&mut pool);
        assert!(Untried::keep(&targets, 3, &mut pool).is_none());
        assert_eq!(pool.in_use(), 0);
    }
}
