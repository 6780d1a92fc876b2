//! Messages that go out on connections: finding or opening the connection, gathering what a turn has for it, and one SEND a
//! connection on the ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::types::Timespec;

use super::addr::RawAddr;
use super::ring::{Completion, Ring};
use super::send_queue::{Full, Sending};
use super::socket;
use super::tag::Op;
use super::tcp::{ConnectArgs, Cx, Phase, Tcp};
use crate::metrics::DropReason;
use crate::wire::{CloseReason, Flow, ListenerId, TxOp};

impl Tcp {
    /// Queues a message on the connection that `flow` means, opening one if need be.
    pub(super) fn send(&mut self, flow: &Flow, bytes: &[u8], op: Option<TxOp>, cx: &mut Cx<'_>) {
        let slot = match self.route(flow, cx) {
            Ok(slot) => slot,
            Err(reason) => return self.not_sent(op, *flow, bytes, reason, cx),
        };
        loop {
            let Some(connection) = self.connections.get_mut(slot as usize) else {
                return;
            };
            match connection.queue.push(bytes, op, &mut self.store) {
                Ok(()) => {
                    if !connection.dirty {
                        connection.dirty = true;
                        self.dirty.push(slot);
                    }
                    return;
                }
                // What one turn says to a peer it had no chance to take: what the kernel takes now makes room.
                Err(Full::Queue) if self.send_at_once(slot, cx) => {}
                // The peer reads too slowly. It costs this connection, nobody else.
                Err(Full::Queue) => {
                    self.abort(slot, CloseReason::SendQueueFull, cx);
                    return self.not_sent(op, *flow, bytes, CloseReason::SendQueueFull, cx);
                }
                // Whoever has taken nothing for longest makes room.
                Err(Full::Store) => match self.stalled.longest() {
                    Some((longest, _)) => {
                        self.give_up_stalled(longest, cx);
                        if longest == slot {
                            return self.not_sent(op, *flow, bytes, CloseReason::SendStalled, cx);
                        }
                    }
                    None => {
                        self.metrics.dropped(DropReason::SendQueuesFull);
                        return cx.notices.send_failed(op, *flow, bytes, CloseReason::Limit);
                    }
                },
            }
        }
    }

    /// The connection that `flow` names; else the one known for its peer; else a new one. Without a port there is no else.
    fn route(&mut self, flow: &Flow, cx: &mut Cx<'_>) -> Result<u32, CloseReason> {
        if let Some(conn) = flow.conn {
            if conn.shard != self.shard {
                debug_assert!(
                    false,
                    "a connection of shard {} in shard {}",
                    conn.shard.0, self.shard.0
                );
                return Err(CloseReason::ConnectFailed);
            }
            if let Some(slot) = self.find(conn) {
                return Ok(slot);
            }
        }
        if flow.peer.port() == 0 {
            return Err(CloseReason::ConnectFailed);
        }
        match self.by_peer.get(&(flow.listener, flow.peer)) {
            Some(&slot) => Ok(slot),
            None => self.open(flow.listener, flow.peer, cx),
        }
    }

    fn open(&mut self, listener: ListenerId, peer: SocketAddr, cx: &mut Cx<'_>) -> Result<u32, CloseReason> {
        let Some(Some(acceptor)) = self.acceptors.get(usize::from(listener.0)) else {
            debug_assert!(false, "listener {} is not TCP", listener.0);
            return Err(CloseReason::ConnectFailed);
        };
        let seat = self.shared.admit(None).map_err(|reason| {
            self.metrics.dropped(reason);
            CloseReason::Limit
        })?;
        let socket =
            socket::outgoing(&peer, acceptor.local_ip).map_err(|error| match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => CloseReason::Limit,
                _ => CloseReason::ConnectFailed,
            })?;
        let fd = socket.as_raw_fd();
        let slot = self.insert(socket, listener, peer, Phase::Connecting, seat, cx.now);
        let (addr, addr_len) = RawAddr::from_std(&peer);
        let args = Box::new(ConnectArgs {
            addr,
            addr_len,
            timeout: Timespec::from(self.connect_timeout),
        });
        if let Some(connection) = self.connection(slot) {
            // SAFETY: the connection keeps the box until the CONNECT has completed.
            unsafe {
                cx.ring.connect(
                    fd,
                    (&raw const args.addr).cast(),
                    args.addr_len,
                    &raw const args.timeout,
                    connection.tag(Op::Connect, slot),
                );
            }
            connection.connecting = Some(args);
            // It takes nothing until it is there.
            self.stalled.put(slot, cx.now);
        }
        Ok(slot)
    }

    /// A connection of ours is established, or is not.
    pub(super) fn connect_completed(&mut self, completion: Completion, cx: &mut Cx<'_>) {
        let slot = completion.tag.slot;
        let Some(connection) = self.by_tag(completion.tag) else {
            return;
        };
        connection.connecting = None;
        match connection.phase {
            Phase::Connecting if completion.result == 0 || completion.result == -libc::EISCONN => {
                connection.phase = Phase::Open;
                connection.heard_at = cx.now;
                cx.notices.opened(connection.flow);
                self.stalled.take_out(slot);
                self.metrics.connections_opened.inc();
                self.start_receive(slot, cx.ring);
                self.start_send(slot, cx.ring);
            }
            // Refused, no route, or ECANCELED by the linked time-out.
            Phase::Connecting => self.finish(slot, CloseReason::ConnectFailed, cx),
            Phase::Gone => self.remove_if_done(slot),
            Phase::Open | Phase::Draining { .. } | Phase::Lingering { .. } => {}
        }
    }

    /// Starts to send what this turn has queued: one SEND a connection, for all of it. Returns whether there was anything.
    pub(super) fn flush(&mut self, ring: &mut Ring) -> bool {
        let any = !self.dirty.is_empty();
        for index in 0..self.dirty.len() {
            let slot = self.dirty[index];
            if let Some(connection) = self.connection(slot)
                && std::mem::take(&mut connection.dirty)
            {
                self.start_send(slot, ring);
            }
        }
        self.dirty.clear();
        any
    }

    fn start_send(&mut self, slot: u32, ring: &mut Ring) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        let may_send = match connection.phase {
            Phase::Open | Phase::Draining { .. } => true,
            Phase::Connecting | Phase::Lingering { .. } | Phase::Gone => false,
        };
        if !may_send || connection.queue.sending != Sending::Idle || connection.queue.is_empty() {
            return;
        }
        let tag = connection.tag(Op::Send, slot);
        let fd = connection.socket.as_raw_fd();
        let bytes = connection.queue.next();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // SAFETY: the queue leaves these bytes alone while `sending` is `Submitted`, and the connection is kept until then.
        unsafe { ring.send(fd, bytes.as_ptr(), len, tag) };
        connection.queue.sending = Sending::Submitted;
    }

    /// The kernel took bytes, or wouldn't.
    pub(super) fn send_completed(&mut self, completion: Completion, cx: &mut Cx<'_>) {
        let slot = completion.tag.slot;
        let Some(connection) = self
            .connections
            .get_mut(slot as usize)
            .filter(|connection| completion.tag.is_of(connection.generation))
        else {
            return;
        };
        connection.queue.sending = Sending::Idle;
        if connection.phase == Phase::Gone {
            return self.remove_if_done(slot);
        }
        self.took(slot, completion.result, cx);
    }

    /// Sends what waits without the ring. Returns whether the kernel took any of it.
    fn send_at_once(&mut self, slot: u32, cx: &mut Cx<'_>) -> bool {
        let Some(connection) = self.connection(slot) else {
            return false;
        };
        if connection.phase != Phase::Open || connection.queue.sending != Sending::Idle {
            return false;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let result = match connection.socket.send_with_flags(connection.queue.next(), flags) {
            Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        self.took(slot, result, cx);
        result > 0
    }

    /// `result`: how many bytes of what was to be sent the kernel took, or an errno below zero.
    fn took(&mut self, slot: u32, result: i32, cx: &mut Cx<'_>) {
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        let whole = match usize::try_from(result) {
            Ok(count) => {
                self.metrics.stream_bytes_out.add(count as u64);
                if count > 0 {
                    self.stalled.take_out(slot);
                }
                connection.queue.sent(count, &mut self.store)
            }
            Err(_) => match -result {
                libc::EAGAIN => false,
                libc::EINTR => return self.start_send(slot, cx.ring),
                _ => return self.fail(slot, CloseReason::Reset, cx),
            },
        };
        if !whole {
            // The socket is full.
            self.stalled.put(slot, cx.now);
            connection.queue.sending = Sending::AwaitRoom;
            let tag = connection.tag(Op::SendReady, slot);
            cx.ring.poll(connection.socket.as_raw_fd(), libc::POLLOUT, tag);
        } else if connection.queue.is_empty() {
            self.drained(slot, cx);
        } else {
            self.start_send(slot, cx.ring);
        }
    }

    /// A full socket takes bytes again, or is broken, which the send finds out.
    pub(super) fn send_ready(&mut self, completion: Completion, cx: &mut Cx<'_>) {
        let Some(connection) = self.by_tag(completion.tag) else {
            return;
        };
        connection.queue.sending = Sending::Idle;
        if connection.phase == Phase::Gone {
            self.remove_if_done(completion.tag.slot);
        } else {
            self.start_send(completion.tag.slot, cx.ring);
        }
    }

    fn not_sent(&mut self, op: Option<TxOp>, flow: Flow, bytes: &[u8], reason: CloseReason, cx: &mut Cx<'_>) {
        self.metrics.dropped(DropReason::ConnectionLost);
        cx.notices.send_failed(op, flow, bytes, reason);
    }
}

/// What an errno below zero in a completion means, for log lines.
pub(super) fn errno(result: i32) -> io::Error {
    io::Error::from_raw_os_error(-result)
}
