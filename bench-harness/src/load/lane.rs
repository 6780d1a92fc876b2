//! The sockets of one side, callers or callees: one UDP socket for all phones, whose datagrams carry each phone's own source
//! address, or TCP connections, one a phone (one for all as a trunk).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::plan::{Peers, Plan, Side, address};
use super::sys::{Epoll, Outbox};

/// Asked of the kernel for every UDP socket, so that the generator does not lose what it was sent.
const UDP_BUFFER: usize = 8 << 20;
const READ_SIZE: usize = 1 << 16;

/// One TCP connection.
struct Connection {
    stream: TcpStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    open: bool,
}

pub struct Lane {
    pub side: Side,
    pub tcp: bool,
    peers: Peers,
    target: SocketAddrV4,
    udp: Option<UdpSocket>,
    outbox: Outbox,
    connections: Vec<Connection>,
    /// Connections that have something to send.
    dirty: Vec<u32>,
    /// What each phone calls its address, as text.
    texts: Vec<String>,
    pub epoll: Epoll,
}

impl Lane {
    /// Opens all sockets of `side` of thread number `thread`.
    pub fn open(plan: &Plan, side: Side, thread: usize) -> io::Result<Lane> {
        let tcp = plan.is_tcp(side);
        let port = plan.port + 2 * thread as u16 + u16::from(side == Side::Callee);
        let target = match (side, plan.callee_target) {
            (Side::Callee, Some(target)) => target,
            (Side::Callee, None) | (Side::Caller, _) => plan.target,
        };
        let phones = plan.phones_of_a_thread();
        let mut lane = Lane {
            side,
            tcp,
            peers: plan.peers,
            target,
            udp: None,
            outbox: Outbox::new(plan.peers == Peers::Trunk && !plan.no_segment),
            connections: Vec::new(),
            dirty: Vec::new(),
            texts: Vec::new(),
            epoll: Epoll::new()?,
        };
        if tcp {
            let count = if plan.peers == Peers::Trunk { 1 } else { phones };
            for phone in 0..count {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
                // The same address in every run, so that a phone's contact stays one; closing by a reset leaves it free.
                socket.set_reuse_address(true)?;
                socket.set_linger(Some(Duration::ZERO))?;
                socket.bind(&SocketAddr::from((address(plan.peers, side, phone), port)).into())?;
                socket.connect(&SocketAddr::V4(target).into())?;
                let stream = TcpStream::from(socket);
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                lane.epoll.add(stream.as_raw_fd(), u64::from(phone))?;
                lane.texts.push(stream.local_addr()?.to_string());
                let (incoming, outgoing) = (Vec::new(), Vec::new());
                lane.connections.push(Connection {
                    stream,
                    incoming,
                    outgoing,
                    open: true,
                });
            }
        } else {
            let bound = match plan.peers {
                Peers::Trunk => Ipv4Addr::LOCALHOST,
                Peers::Phones => Ipv4Addr::UNSPECIFIED,
            };
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            // The kernel gives what it may.
            let _ = socket.set_recv_buffer_size(UDP_BUFFER);
            let _ = socket.set_send_buffer_size(UDP_BUFFER);
            socket.set_nonblocking(true)?;
            socket.bind(&SocketAddr::from((bound, port)).into())?;
            let socket = UdpSocket::from(socket);
            lane.epoll.add(socket.as_raw_fd(), 0)?;
            lane.udp = Some(socket);
        }
        for phone in lane.texts.len() as u32..phones {
            match (tcp, plan.peers) {
                (true, _) => lane.texts.push(lane.texts[0].clone()),
                (false, peers) => lane.texts.push(format!("{}:{port}", address(peers, side, phone))),
            }
        }
        Ok(lane)
    }

    /// `address:port` of a phone.
    pub fn text(&self, phone: u32) -> &[u8] {
        self.texts.get(phone as usize).map_or(b"", |text| text.as_bytes())
    }

    /// The UDP socket, or what tells of all TCP connections.
    pub fn fd(&self) -> RawFd {
        self.udp
            .as_ref()
            .map_or(self.epoll.fd(), |socket| socket.as_raw_fd())
    }

    /// Queues a message from `phone` to the server. A lower `class` leaves first where several leave together.
    pub fn send(&mut self, phone: u32, class: u8, message: &[u8]) {
        if self.tcp {
            let connection = if self.peers == Peers::Trunk { 0 } else { phone };
            let Some(it) = self.connections.get_mut(connection as usize) else {
                return;
            };
            if it.outgoing.is_empty() {
                self.dirty.push(connection);
            }
            it.outgoing.extend_from_slice(message);
            return;
        }
        let source = match self.peers {
            Peers::Trunk => Ipv4Addr::UNSPECIFIED,
            Peers::Phones => address(self.peers, self.side, phone),
        };
        self.outbox.push(message, source, self.target, class);
    }

    /// Sends what is queued. Answers how many sends failed for good.
    pub fn flush(&mut self) -> u64 {
        if let Some(socket) = &self.udp {
            return self.outbox.flush(socket.as_raw_fd());
        }
        let mut failed = 0;
        let mut at = 0;
        while at < self.dirty.len() {
            let it = &mut self.connections[self.dirty[at] as usize];
            match it.stream.write(&it.outgoing) {
                Ok(count) => {
                    it.outgoing.drain(..count);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => {
                    failed += 1;
                    it.outgoing.clear();
                }
            }
            // What the socket did not take is tried again at the next turn.
            if it.outgoing.is_empty() {
                self.dirty.swap_remove(at);
            } else {
                at += 1;
            }
        }
        failed
    }

    pub fn is_queued(&self) -> bool {
        !self.dirty.is_empty() || !self.outbox.is_empty()
    }

    /// Reads a connection and answers its unread bytes, to be given back with [`Lane::keep`]; whether it has ended.
    pub fn read(&mut self, connection: u32) -> (Vec<u8>, bool) {
        let Some(it) = self.connections.get_mut(connection as usize) else {
            return (Vec::new(), false);
        };
        let mut bytes = std::mem::take(&mut it.incoming);
        let before = bytes.len();
        bytes.resize(before + READ_SIZE, 0);
        let (count, over) = match it.stream.read(&mut bytes[before..]) {
            Ok(0) => (0, true),
            Ok(count) => (count, false),
            Err(error) => (
                0,
                !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
            ),
        };
        bytes.truncate(before + count);
        let ended = over && std::mem::replace(&mut it.open, !over);
        if over {
            let _ = it.stream.shutdown(std::net::Shutdown::Both);
        }
        (bytes, ended)
    }

    /// Takes a connection's bytes back, `used` of which are done with.
    pub fn keep(&mut self, connection: u32, mut bytes: Vec<u8>, used: usize) {
        bytes.drain(..used);
        if let Some(it) = self.connections.get_mut(connection as usize) {
            it.incoming = bytes;
        }
    }
}
