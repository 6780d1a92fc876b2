//! Errors that come back from the network for datagrams: a host without such a port, a router without a way (ICMP, ICMPv6).
//!
//! With IP_RECVERR the kernel keeps each in the error queue of the socket that sent the datagram, with the beginning of it. It does one
//! more thing, which nobody wants here: the next call on that socket, whatever it sends or receives, fails once with the error. So a call
//! that fails in such a way is made again ([`may_be_old`]), and is a sign that the queue holds something; the poll of the socket is the other.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

use super::socket_options;
use super::udp_batch::{BATCH, ReceiveBatch};
use super::udp_send::flow_to;
use crate::metrics::{IcmpError, Metrics};
use crate::time::Instant;
use crate::wire::{Event, ListenerId};

/// How often a call is made again that failed with what may be an old error: each time takes another error that arrives meanwhile to fail.
pub(super) const TRIES_MAX: usize = 4;

/// Has the kernel keep errors about what `socket` sends.
pub(super) fn keep_errors(socket: &UdpSocket) -> io::Result<()> {
    let (level, name) = if socket.local_addr()?.is_ipv4() {
        (libc::SOL_IP, libc::IP_RECVERR)
    } else {
        (libc::SOL_IPV6, libc::IPV6_RECVERR)
    };
    socket_options::set(socket.as_raw_fd(), level, name, 1)
}

/// Whether a call may have failed with this because of a datagram that was sent before: what the kernel makes of ICMP errors. All but
/// ECONNREFUSED may be about the datagram at hand, too.
pub(super) fn may_be_old(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EACCES
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPROTO
                | libc::EMSGSIZE
        )
    )
}

/// Hands over what waits in the error queue of a listener, at most one batch. `true`: there may be more.
#[cold]
pub(super) fn take(
    (id, fd): (ListenerId, RawFd),
    batch: &mut ReceiveBatch,
    metrics: &Metrics,
    sink: &mut dyn FnMut(Event<'_>, Instant),
    now: Instant,
) -> bool {
    let count = match batch.receive_errors(fd) {
        Ok(count) => count,
        Err(error) => return error.kind() == io::ErrorKind::Interrupted,
    };
    for received in (0..count).filter_map(|at| batch.received(at)) {
        let Some(error) = received.error else { continue };
        let kind = kind(&error);
        metrics.icmp_errors[kind as usize].inc();
        if kind.is_fatal() {
            let flow = flow_to(id, received.peer);
            let bytes = received.bytes();
            sink(Event::Undelivered { flow, bytes }, now);
        }
    }
    count == BATCH
}

/// What an error says, by the types and codes of RFC 792 and RFC 1812 §5.2.7, and of RFC 4443 §3.
fn kind(error: &libc::sock_extended_err) -> IcmpError {
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP, 3, 3) | (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => IcmpError::PortUnreachable,
        (libc::SO_EE_ORIGIN_ICMP, 3, 2) => IcmpError::ProtocolUnreachable,
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) | (libc::SO_EE_ORIGIN_ICMP6, 2, _) => IcmpError::TooLarge,
        (libc::SO_EE_ORIGIN_ICMP, 3, 0 | 6 | 9 | 11) => IcmpError::NetworkUnreachable,
        // No route; beyond the scope of the source address; a route that says no.
        (libc::SO_EE_ORIGIN_ICMP6, 1, 0 | 2 | 6) => IcmpError::NetworkUnreachable,
        (libc::SO_EE_ORIGIN_ICMP, 3, _) | (libc::SO_EE_ORIGIN_ICMP6, 1, _) => IcmpError::HostUnreachable,
        (libc::SO_EE_ORIGIN_ICMP, 11, _) | (libc::SO_EE_ORIGIN_ICMP6, 3, _) => IcmpError::TimeExceeded,
        (libc::SO_EE_ORIGIN_ICMP, 12, _) | (libc::SO_EE_ORIGIN_ICMP6, 4, _) => IcmpError::ParameterProblem,
        _ => IcmpError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_names_of_their_rfcs() {
        let named = |origin, kind_and_code: (u8, u8)| {
            let (ee_type, ee_code) = kind_and_code;
            kind(&libc::sock_extended_err {
                ee_errno: 0,
                ee_origin: origin,
                ee_type,
                ee_code,
                ee_pad: 0,
                ee_info: 0,
                ee_data: 0,
            })
        };
        let v4 = [
            ((3, 0), IcmpError::NetworkUnreachable),
            ((3, 1), IcmpError::HostUnreachable),
            ((3, 2), IcmpError::ProtocolUnreachable),
            ((3, 3), IcmpError::PortUnreachable),
            ((3, 4), IcmpError::TooLarge),
            ((3, 13), IcmpError::HostUnreachable),
            ((11, 0), IcmpError::TimeExceeded),
            ((12, 0), IcmpError::ParameterProblem),
            ((5, 0), IcmpError::Other),
        ];
        let v6 = [
            ((1, 0), IcmpError::NetworkUnreachable),
            ((1, 1), IcmpError::HostUnreachable),
            ((1, 3), IcmpError::HostUnreachable),
            ((1, 4), IcmpError::PortUnreachable),
            ((2, 0), IcmpError::TooLarge),
            ((3, 1), IcmpError::TimeExceeded),
            ((4, 2), IcmpError::ParameterProblem),
        ];
        for (what, is) in v4 {
            assert_eq!(named(libc::SO_EE_ORIGIN_ICMP, what), is, "{what:?}");
        }
        for (what, is) in v6 {
            assert_eq!(named(libc::SO_EE_ORIGIN_ICMP6, what), is, "{what:?}");
        }
        assert_eq!(named(libc::SO_EE_ORIGIN_LOCAL, (3, 3)), IcmpError::Other);
    }
}
