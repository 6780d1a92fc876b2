//! Connections that come in: by multishot ACCEPT (5.19), or by readiness and `accept4`.
//!
//! One-shot ACCEPT requests would serve on older kernels too, but take one connection a turn, and before 5.19 one that loses the
//! race for a connection is moved to a kernel thread that blocks.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use socket2::Socket;

use super::ring::{Completion, Ring};
use super::tag::{Op, Tag};
use super::tcp::{Cx, Phase, Tcp};
use super::tcp_send::errno;
use crate::time::Instant;
use crate::wire::ListenerId;

/// How long nothing is accepted when no descriptors or memory are left.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that are accepted in one turn, where the ring doesn't do it.
const ACCEPTS_MAX: usize = 64;

/// A listening socket.
pub(super) struct Acceptor {
    /// `None`: it takes no further connection. Those that there are, and those of our own, go on.
    socket: Option<TcpListener>,
    /// Where connections of our own come from.
    pub(super) local_ip: IpAddr,
    by_ring: bool,
    /// Set while accepting pauses.
    pub(super) retry_at: Option<Instant>,
}

impl Acceptor {
    /// `by_ring`: the kernel has multishot ACCEPT.
    pub(super) fn new(socket: TcpListener, by_ring: bool) -> io::Result<Acceptor> {
        // A ring request on a non-blocking socket may complete with EAGAIN instead of waiting.
        socket.set_nonblocking(!by_ring)?;
        Ok(Acceptor {
            local_ip: socket.local_addr()?.ip(),
            socket: Some(socket),
            by_ring,
            retry_at: None,
        })
    }

    fn arm(&self, index: usize, ring: &mut Ring) {
        let Some(socket) = &self.socket else { return };
        let fd = socket.as_raw_fd();
        if self.by_ring {
            ring.accept_multi(fd, self.tag(index));
        } else {
            ring.poll(fd, libc::POLLIN, self.tag(index));
        }
    }

    fn tag(&self, index: usize) -> Tag {
        let op = if self.by_ring { Op::Accept } else { Op::AcceptReady };
        Tag::new(op, index as u32, 0)
    }
}

/// What to do after an error of accept.
#[derive(PartialEq, Eq, Debug)]
enum After {
    /// It was about one connection: take the next.
    Next,
    /// There is none.
    None,
    /// No descriptors or memory, or something unknown: trying at once would only spin.
    Pause,
}

fn after(error: &io::Error) -> After {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => After::None,
        // accept(2): errors of the connection itself, already pending on it, which are to be treated like EAGAIN by retrying.
        Some(
            libc::EINTR
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH,
        ) => After::Next,
        _ => After::Pause,
    }
}

impl Tcp {
    /// Starts to accept, or starts again.
    pub(super) fn arm_accepts(&mut self, ring: &mut Ring) {
        for (index, acceptor) in self.acceptors.iter().enumerate() {
            if let Some(acceptor) = acceptor {
                acceptor.arm(index, ring);
            }
        }
    }

    pub(super) fn cancel_accepts(&self, ring: &mut Ring) {
        for (index, acceptor) in self.acceptors.iter().enumerate() {
            if let Some(acceptor) = acceptor
                && acceptor.socket.is_some()
            {
                ring.cancel(acceptor.tag(index));
            }
        }
    }

    /// Accepts on one more socket.
    pub(super) fn start_accepting(&mut self, index: usize, acceptor: Acceptor, ring: &mut Ring) {
        if self.acceptors.len() <= index {
            self.acceptors.resize_with(index + 1, || None);
        }
        acceptor.arm(index, ring);
        self.acceptors[index] = Some(acceptor);
    }

    /// Accepts no more on this one. A connection that the ring has taken meanwhile still counts.
    pub(super) fn stop_accepting(&mut self, index: usize, ring: &mut Ring) {
        if let Some(Some(acceptor)) = self.acceptors.get_mut(index)
            && acceptor.socket.take().is_some()
        {
            acceptor.retry_at = None;
            ring.cancel(acceptor.tag(index));
        }
    }

    /// A multishot ACCEPT has a connection, or came to an end.
    pub(super) fn accept_completed(&mut self, completion: Completion, cx: &mut Cx<'_>) {
        let index = completion.tag.slot as usize;
        let result = if completion.result >= 0 {
            // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(completion.result) });
            self.accepted(index, socket, cx);
            After::None
        } else {
            after(&errno(completion.result))
        };
        if completion.more() {
            return;
        }
        match result {
            After::Next | After::None => {
                self.metrics.multishot_rearmed.inc();
                self.rearm(index, cx);
            }
            After::Pause => self.pause(index, cx),
        }
    }

    /// A listening socket has connections.
    pub(super) fn accept_ready(&mut self, completion: Completion, cx: &mut Cx<'_>) {
        let index = completion.tag.slot as usize;
        for _ in 0..ACCEPTS_MAX {
            let Some(Some(acceptor)) = self.acceptors.get(index) else {
                return;
            };
            let Some(socket) = &acceptor.socket else { return };
            // Non-blocking and close-on-exec like the listener's; the address is asked for once for both ways.
            match socket.accept() {
                Ok((socket, _)) => self.accepted(index, socket.into(), cx),
                Err(error) => match after(&error) {
                    After::Next => {}
                    After::None => break,
                    After::Pause => return self.pause(index, cx),
                },
            }
        }
        self.rearm(index, cx);
    }

    fn accepted(&mut self, index: usize, socket: Socket, cx: &mut Cx<'_>) {
        // A peer that has gone again already has no address, and nobody is there to be told.
        let Some(peer) = socket.peer_addr().ok().and_then(|addr| addr.as_socket()) else {
            return;
        };
        let seat = match self.shared.admit(Some(peer.ip())) {
            Ok(seat) => seat,
            Err(reason) => return self.metrics.dropped(reason),
        };
        let listener = ListenerId(index as u16);
        let slot = self.insert(socket, listener, peer, Phase::Open, seat, cx.now);
        self.metrics.connections_accepted.inc();
        if let Some(connection) = self.connection(slot) {
            cx.notices.opened(connection.flow);
        }
        self.start_receive(slot, cx.ring);
    }

    fn rearm(&mut self, index: usize, cx: &mut Cx<'_>) {
        if let Some(Some(acceptor)) = self.acceptors.get(index) {
            acceptor.arm(index, cx.ring);
        }
    }

    fn pause(&mut self, index: usize, cx: &mut Cx<'_>) {
        if let Some(Some(acceptor)) = self.acceptors.get_mut(index)
            && acceptor.socket.is_some()
        {
            acceptor.retry_at = Some(cx.now + PAUSE);
        }
    }

    /// Accepts again where the pause is over.
    pub(super) fn retry_accepts(&mut self, cx: &mut Cx<'_>) {
        for (index, acceptor) in self.acceptors.iter_mut().enumerate() {
            if let Some(acceptor) = acceptor
                && acceptor.retry_at.is_some_and(|at| at <= cx.now)
            {
                acceptor.retry_at = None;
                acceptor.arm(index, cx.ring);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_pauses_and_a_lost_connection_does_not() {
        for (errno, expected) in [
            (libc::EMFILE, After::Pause),
            (libc::ENFILE, After::Pause),
            (libc::ENOMEM, After::Pause),
            (libc::EINVAL, After::Pause),
            (libc::ECONNABORTED, After::Next),
            (libc::EAGAIN, After::None),
        ] {
            assert_eq!(after(&io::Error::from_raw_os_error(errno)), expected);
        }
    }
}
