//! The addresses of this machine: what reaches a socket that is bound to all of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// The addresses of all interfaces, in order and each once, without loopback ones (all of 127.0.0.0/8 reaches this machine, whatever its
/// interface says) and link-local IPv6 ones (which mean nothing without an interface's name, for which a SIP URI has no place).
///
/// # Errors
/// Those of getifaddrs(3), which asks the kernel over a netlink socket.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: it writes one pointer, to a place of ours.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut next = first;
    // SAFETY: each entry is null or one that the call above has made, and they are not freed before all have been looked at.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: as above; the address of an entry lives as long as the entry.
        all.extend(unsafe { ip_of(entry.ifa_addr) });
        next = entry.ifa_next;
    }
    // SAFETY: it was made above and is not used any more.
    unsafe { libc::freeifaddrs(first) };
    all.retain(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    });
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// # Safety
/// `addr` is null or points to a socket address of the family that it names.
unsafe fn ip_of(addr: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let family = i32::from(unsafe { addr.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: of this family it is a `sockaddr_in`; it may lie anywhere.
            let addr = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is a `sockaddr_in6`.
            let addr = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(addr.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn they_are_addresses_that_can_be_bound_here() {
        let all = local_addresses().expect("the kernel tells them");
        assert!(all.is_sorted(), "{all:?}");
        for ip in all {
            assert!(!ip.is_loopback());
            UdpSocket::bind((ip, 0)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        }
    }
}
