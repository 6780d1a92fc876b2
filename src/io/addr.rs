//! Socket addresses between the standard library's form and the kernel's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an IPv4 or IPv6 address in the kernel's form.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddr {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Bytes of a [`RawAddr`], for `msg_namelen` before a receive.
pub(super) const RAW_ADDR_LEN: libc::socklen_t = size_of::<RawAddr>() as libc::socklen_t;

impl RawAddr {
    pub(super) const fn unset() -> RawAddr {
        // SAFETY: all members are plain integers, for which zero is a value.
        unsafe { std::mem::zeroed() }
    }

    /// The address and how many of its bytes the kernel is to read.
    pub(super) fn from_std(addr: &SocketAddr) -> (RawAddr, libc::socklen_t) {
        let mut raw = RawAddr::unset();
        match addr {
            SocketAddr::V4(addr) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(addr.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(addr) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: addr.ip().octets(),
                    },
                    sin6_scope_id: addr.scope_id(),
                };
                (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// `None` for a family that is neither IPv4 nor IPv6. The flow label is left out, so that one peer is one address.
    pub(super) fn to_std(self) -> Option<SocketAddr> {
        // SAFETY: every member starts with the family, and every bit pattern of it is a value.
        let family = unsafe { self.family };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                // SAFETY: plain integers; any bits are a value.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: plain integers; any bits are a value.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_come_back_whole() {
        for text in ["192.0.2.1:5060", "[2001:db8::1]:65535", "[fe80::1%3]:5060"] {
            let addr: SocketAddr = text.parse().expect("an address");
            let (raw, len) = RawAddr::from_std(&addr);
            assert!(len <= RAW_ADDR_LEN);
            assert_eq!(raw.to_std(), Some(addr));
        }
        assert_eq!(RawAddr::unset().to_std(), None);
    }
}
