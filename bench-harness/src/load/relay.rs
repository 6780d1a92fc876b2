//! The floor: a relay that receives every message, changes nothing and sends it on, as cheaply as sockets allow.
//!
//! UDP: one socket, or one for each of several threads, between which the kernel draws. What comes from a caller's address goes to the callee's and back: 127.1.x.y and 127.2.x.y are each
//! other's partner (127.0.0.1 its own), and so are the two ports of a thread of the generator. An INVITE brings one more
//! datagram, to its sender, as long as a 100 is but of line ends alone, which the generator reads past: so a call costs the relay as many messages as it costs a server.
//! TCP: two listeners; connection number n of one is joined to number n of the other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::sys::{self, BATCH, Epoll, Inbox, Outbox};

/// Bytes of the answer to an INVITE: about what a server's 100 has.
const TRYING: usize = 320;

/// The other end for what came from `source`, for a generator whose first port is `port`.
pub fn partner(source: SocketAddrV4, port: u16) -> SocketAddrV4 {
    let [first, block, high, low] = source.ip().octets();
    let block = if source.ip().is_loopback() && *source.ip() != Ipv4Addr::LOCALHOST {
        (block.wrapping_sub(1) ^ 1).wrapping_add(1)
    } else {
        block
    };
    let port = (source.port().wrapping_sub(port) ^ 1).wrapping_add(port);
    SocketAddrV4::new(Ipv4Addr::new(first, block, high, low), port)
}

/// `count` sockets at one address, for as many threads of a relay. Where there are several, which of them gets a datagram is drawn
/// at random: two busy addresses would else be two of the kernel's hash values, and so two threads at most.
pub fn sockets(listen: SocketAddrV4, count: u32) -> io::Result<Vec<UdpSocket>> {
    let mut at = SocketAddr::V4(listen);
    let mut sockets = Vec::new();
    for _ in 0..count.max(1) {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(count > 1)?;
        socket.bind(&at.into())?;
        let socket = UdpSocket::from(socket);
        // Port 0 is whichever the first has got.
        at = socket.local_addr()?;
        sockets.push(socket);
    }
    if count > 1 {
        sys::spread_at_random(sockets[0].as_raw_fd(), count)?;
    }
    Ok(sockets)
}

/// Relays datagrams until `stop` is set.
pub fn udp(socket: &UdpSocket, port: u16, segment: bool, stop: &AtomicBool) -> io::Result<()> {
    let _ = SockRef::from(socket).set_recv_buffer_size(8 << 20);
    let _ = SockRef::from(socket).set_send_buffer_size(8 << 20);
    socket.set_nonblocking(true)?;
    let fd = socket.as_raw_fd();
    let mut inbox = Inbox::new();
    let mut outbox = Outbox::new(segment);
    let trying = b"\r\n".repeat(TRYING / 2);
    while !stop.load(Ordering::Relaxed) {
        let count = inbox.receive(fd);
        for at in 0..count {
            let Some(message) = inbox.datagram(at) else {
                continue;
            };
            let source = inbox.source(at);
            // As the generator does: of messages of several lengths the earlier of a call leave first.
            let class = match message.get(..9) {
                Some(b"SIP/2.0 1") => 4,
                Some(b"SIP/2.0 2") => 5,
                Some(start) if start.starts_with(b"INVITE") => {
                    outbox.push(&trying, Ipv4Addr::UNSPECIFIED, source, 0);
                    1
                }
                Some(start) if start.starts_with(b"ACK") => 2,
                Some(_) | None => 3,
            };
            outbox.push(message, Ipv4Addr::UNSPECIFIED, partner(source, port), class);
        }
        outbox.flush(fd);
        if count < BATCH {
            sys::wait(&[fd], 100_000_000);
        }
    }
    Ok(())
}

/// Relays streams until `stop` is set.
pub fn tcp(callers: &TcpListener, callees: &TcpListener, stop: &AtomicBool) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let mut sides: [Vec<TcpStream>; 2] = [Vec::new(), Vec::new()];
    for (side, listener) in [callers, callees].into_iter().enumerate() {
        listener.set_nonblocking(true)?;
        epoll.add(listener.as_raw_fd(), u64::MAX - side as u64)?;
    }
    let mut room = vec![0u8; 1 << 16];
    let mut ready = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ready.clear();
        epoll.ready(&mut ready);
        if ready.is_empty() {
            sys::wait(&[epoll.fd()], 100_000_000);
        }
        for key in &ready {
            if *key >= u64::MAX - 1 {
                let side = (u64::MAX - *key) as usize;
                let listener = if side == 0 { callers } else { callees };
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll.add(stream.as_raw_fd(), (sides[side].len() as u64) << 1 | side as u64)?;
                    sides[side].push(stream);
                }
                continue;
            }
            let (side, number) = ((key & 1) as usize, (key >> 1) as usize);
            // A connection whose partner has not come yet waits for it.
            let (Some(mut from), Some(mut to)) = (sides[side].get(number), sides[1 - side].get(number))
            else {
                continue;
            };
            if let Ok(count @ 1..) = from.read(&mut room) {
                let mut rest = &room[..count];
                while !rest.is_empty() {
                    match to.write(rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(error)
                            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                        {
                            sys::wait(&[], 100_000);
                        }
                        Err(_) => break,
                    }
                }
            } else {
                // Ended: its end must not be told again and again.
                let _ = from.shutdown(std::net::Shutdown::Both);
                epoll.remove(from.as_raw_fd());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partner_of_a_partner_is_oneself() {
        let address = |text: &str| text.parse::<SocketAddrV4>().unwrap();
        for (one, two) in [
            ("127.0.0.1:6000", "127.0.0.1:6001"),
            ("127.1.2.3:6002", "127.2.2.3:6003"),
            ("127.3.0.0:6001", "127.4.0.0:6000"),
        ] {
            assert_eq!(partner(address(one), 6000), address(two));
            assert_eq!(partner(address(two), 6000), address(one));
        }
    }
}
