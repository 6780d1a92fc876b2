//! The sockets that are listened on: bound once at start, one of each listener for every shard.
//!
//! Shards share an address by SO_REUSEPORT, by which the kernel spreads datagrams and connections over them. Nobody else
//! gets in: the address is first bound without it, which fails while any other socket holds it; and a later program that does the
//! same fails against ours. SO_REUSEADDR is never set on UDP, where it would let another process take the port over.
//!
//! A listener on a wildcard address answers from the address that routing chooses; on a host with several addresses name
//! each in a listener of its own.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::socket_options;
use crate::config::{Config, Listener};
use crate::wire::Transport;

/// Receive and send buffer of a UDP socket, bytes: the default of 208 KiB loses bursts.
const UDP_BUFFER_BYTES: usize = 4 << 20;
/// Connections that wait to be accepted; the kernel cuts it down to net.core.somaxconn.
const BACKLOG: i32 = 4_096;
/// How often another port is tried when the one that the kernel chose for UDP is taken for TCP, or the other way round.
const PORT_TRIES: usize = 32;

/// The listening sockets of one shard, in the order of the listeners.
pub struct ShardSockets {
    pub(super) sockets: Vec<BoundSocket>,
    /// The kernel chooses the shard of each datagram.
    pub(super) is_steered: bool,
}

impl ShardSockets {
    /// The next of them, in the order of the listeners.
    pub(super) fn next(&mut self) -> Option<BoundSocket> {
        (!self.sockets.is_empty()).then(|| self.sockets.remove(0))
    }
}

pub(super) enum BoundSocket {
    Udp(UdpSocket),
    Tcp(TcpListener),
}

/// A listener that can't be had.
#[derive(Debug)]
pub struct BindError {
    pub what: &'static str,
    pub addr: SocketAddr,
    pub source: io::Error,
    /// What to look at or to change; may be empty.
    pub hint: &'static str,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.what, self.addr)?;
        if self.source.raw_os_error() == Some(libc::EADDRINUSE) {
            f.write_str("address in use")?;
        } else {
            write!(f, "{}", self.source)?;
        }
        if self.hint.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.hint)
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Binds every listener once for every shard.
///
/// Gives the listeners with the ports that the kernel chose for port 0, and the sockets of each shard. A UDP and a TCP
/// listener on the same address with port 0 get the same port. Index in the list is the
/// [`ListenerId`](crate::wire::ListenerId).
///
/// # Errors
/// The first listener that can't be had, with the reason and what to do.
pub fn bind_all(cfg: &Config) -> Result<(Vec<Listener>, Vec<ShardSockets>), BindError> {
    raise_open_files(cfg);
    if let Some((_, listener)) = overlapping(&cfg.listeners) {
        return Err(bind_error(
            listener,
            io::Error::from_raw_os_error(libc::EADDRINUSE),
            "another listener of the configuration covers it",
        ));
    }
    let shards = cfg.shards.max(1);
    let mut listeners = cfg.listeners.clone();
    let mut sockets: Vec<Vec<BoundSocket>> = listeners.iter().map(|_| Vec::new()).collect();
    let mut buffers = BufferSizes::default();
    for group in port_groups(&listeners) {
        bind_group(&group, &mut listeners, &mut sockets, shards, &mut buffers)?;
    }
    buffers.warn();
    let mut per_listener: Vec<_> = sockets.into_iter().map(Vec::into_iter).collect();
    let shard_sockets = (0..shards)
        .map(|_| ShardSockets {
            is_steered: false,
            sockets: per_listener.iter_mut().filter_map(Iterator::next).collect(),
        })
        .collect();
    Ok((listeners, shard_sockets))
}

/// Two listeners of which one takes the other's address.
fn overlapping(listeners: &[Listener]) -> Option<(&Listener, &Listener)> {
    let overlap = |a: &Listener, b: &Listener| {
        let (ip_a, ip_b) = (a.addr.ip(), b.addr.ip());
        a.transport == b.transport
            && a.addr.port() == b.addr.port()
            && a.addr.port() != 0
            && ip_a.is_ipv4() == ip_b.is_ipv4()
            && (ip_a == ip_b || ip_a.is_unspecified() || ip_b.is_unspecified())
    };
    listeners.iter().enumerate().find_map(|(index, listener)| {
        listeners[..index]
            .iter()
            .find(|earlier| overlap(earlier, listener))
            .map(|earlier| (earlier, listener))
    })
}

/// Indices of listeners that must get one port: each alone, except UDP and TCP on the same address with port 0.
fn port_groups(listeners: &[Listener]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        let partner = groups.iter_mut().find(|group| {
            listener.addr.port() == 0
                && group.iter().all(|&i| {
                    listeners[i].addr == listener.addr && listeners[i].transport != listener.transport
                })
        });
        match partner {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn bind_group(
    group: &[usize],
    listeners: &mut [Listener],
    sockets: &mut [Vec<BoundSocket>],
    shards: usize,
    buffers: &mut BufferSizes,
) -> Result<(), BindError> {
    let tries = match group {
        [first, ..] if listeners[*first].addr.port() == 0 => PORT_TRIES,
        _ => 1,
    };
    let mut result = Ok(());
    for _ in 0..tries {
        match try_bind_group(group, listeners, shards, buffers) {
            Ok((port, bound)) => {
                for (&index, bound) in group.iter().zip(bound) {
                    sockets[index] = bound;
                    let listener = &mut listeners[index];
                    let configured = listener.addr;
                    listener.addr.set_port(port);
                    // What is advertised follows the address unless it was configured to be something else.
                    if listener.advertised == configured.to_string() {
                        listener.advertised = listener.addr.to_string();
                    }
                }
                return Ok(());
            }
            Err(error) => {
                let in_use = error.source.raw_os_error() == Some(libc::EADDRINUSE);
                result = Err(error);
                if !in_use {
                    break;
                }
            }
        }
    }
    result
}

/// Binds all listeners of a group to one port, and gives for each the sockets of all shards.
fn try_bind_group(
    group: &[usize],
    listeners: &[Listener],
    shards: usize,
    buffers: &mut BufferSizes,
) -> Result<(u16, Vec<Vec<BoundSocket>>), BindError> {
    let mut port = group.first().map_or(0, |&index| listeners[index].addr.port());
    let mut all = Vec::with_capacity(group.len());
    for &index in group {
        let listener = &listeners[index];
        let mut addr = listener.addr;
        addr.set_port(port);
        let fail_at = |addr| {
            move |error: io::Error| {
                let hint = hint(&error);
                bind_error(
                    &Listener {
                        addr,
                        ..listener.clone()
                    },
                    error,
                    hint,
                )
            }
        };
        // Alone first: it fails while anybody else holds the address.
        let exclusive = bind(listener.transport, addr, false, buffers).map_err(fail_at(addr))?;
        port = exclusive.local_port().map_err(fail_at(addr))?;
        addr.set_port(port);
        let bound = if shards == 1 {
            vec![exclusive]
        } else {
            drop(exclusive);
            (0..shards)
                .map(|_| bind(listener.transport, addr, true, buffers))
                .collect::<io::Result<_>>()
                .map_err(fail_at(addr))?
        };
        all.push(bound);
    }
    // Only now does anybody get a connection: a group that fails leaves nobody connected to nowhere.
    for bound in all.iter().flatten() {
        bound
            .listen()
            .map_err(|error| bind_error(&listeners[group[0]], error, ""))?;
    }
    Ok((port, all))
}

fn bind(
    transport: Transport,
    addr: SocketAddr,
    shared: bool,
    buffers: &mut BufferSizes,
) -> io::Result<BoundSocket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    // Close-on-exec comes with it.
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // IPv4 peers have listeners of their own; mapped addresses would make one peer two.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    match transport {
        Transport::Udp => buffers.raise(&socket),
        Transport::Tcp => {
            // Connections of an earlier run in TIME_WAIT would keep the address for a minute. On TCP this lets nobody take the port
            // of a listening socket.
            socket.set_reuse_address(true)?;
            // Accepted sockets inherit it. Their buffers are left to the kernel, which sizes them as needed.
            socket.set_tcp_nodelay(true)?;
        }
    }
    socket.bind(&addr.into())?;
    Ok(match transport {
        Transport::Udp => BoundSocket::Udp(socket.into()),
        Transport::Tcp => BoundSocket::Tcp(socket.into()),
    })
}

impl BoundSocket {
    fn local_port(&self) -> io::Result<u16> {
        match self {
            BoundSocket::Udp(socket) => socket.local_addr(),
            BoundSocket::Tcp(listener) => listener.local_addr(),
        }
        .map(|addr| addr.port())
    }

    fn listen(&self) -> io::Result<()> {
        match self {
            BoundSocket::Udp(_) => Ok(()),
            BoundSocket::Tcp(listener) => socket2::SockRef::from(listener).listen(BACKLOG),
        }
    }
}

/// A socket for a connection of our own to `peer`, from the address of the listener that our Via will name.
///
/// It blocks, unlike all others: on a non-blocking socket kernels before 5.11 may complete a CONNECT with EINPROGRESS. Nothing ever
/// waits on it: every call and request says MSG_DONTWAIT.
pub(super) fn outgoing(peer: &SocketAddr, local_ip: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(*peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if !local_ip.is_unspecified() {
        // The port is chosen at connect, when the peer is known: else 28,000 connections would use up all ports.
        let _ = socket_options::set(socket.as_raw_fd(), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        socket.bind(&SocketAddr::new(local_ip, 0).into())?;
    }
    Ok(socket)
}

/// The smallest buffers that the kernel granted, for one warning about them all.
struct BufferSizes {
    receive: usize,
    send: usize,
}

impl Default for BufferSizes {
    fn default() -> BufferSizes {
        BufferSizes {
            receive: usize::MAX,
            send: usize::MAX,
        }
    }
}

impl BufferSizes {
    fn raise(&mut self, socket: &Socket) {
        let raise = |force, plain| {
            let wanted = UDP_BUFFER_BYTES as libc::c_int;
            // The first needs CAP_NET_ADMIN and knows no limit. What either achieved is read back.
            if socket_options::set(socket.as_raw_fd(), libc::SOL_SOCKET, force, wanted).is_err() {
                let _ = socket_options::set(socket.as_raw_fd(), libc::SOL_SOCKET, plain, wanted);
            }
        };
        raise(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
        raise(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
        // The kernel doubles what it is given, to account for its own overhead.
        self.receive = self.receive.min(socket.recv_buffer_size().unwrap_or(0) / 2);
        self.send = self.send.min(socket.send_buffer_size().unwrap_or(0) / 2);
    }

    fn warn(&self) {
        for (granted, direction, sysctl) in [
            (self.receive, "receive", "net.core.rmem_max"),
            (self.send, "send", "net.core.wmem_max"),
        ] {
            if granted < UDP_BUFFER_BYTES {
                tracing::warn!(
                    "the UDP {direction} buffer is {granted} bytes, bursts may be lost: set {sysctl} to {UDP_BUFFER_BYTES} \
                     (sysctl -w {sysctl}={UDP_BUFFER_BYTES}) or give CAP_NET_ADMIN"
                );
            }
        }
    }
}

/// Raises the limit of open files to what `cfg` needs, or warns.
pub fn raise_open_files(cfg: &Config) {
    let wanted = crate::config::resolve::files_max(cfg);
    let has_tcp = cfg
        .listeners
        .iter()
        .any(|listener| listener.transport == Transport::Tcp);
    match socket_options::raise_open_files(wanted) {
        Ok(limit) if limit < wanted && has_tcp => tracing::warn!(
            "{limit} open files are allowed, fewer than limits.connections_max = {} needs: raise RLIMIT_NOFILE \
             (ulimit -n, LimitNOFILE= in a systemd unit) to {wanted}",
            cfg.limits.connections_max
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("the limit of open files can't be read or raised: {error}"),
    }
}

fn bind_error(listener: &Listener, source: io::Error, hint: &'static str) -> BindError {
    BindError {
        what: match listener.transport {
            Transport::Udp => "serve UDP on",
            Transport::Tcp => "serve TCP on",
        },
        addr: listener.addr,
        source,
        hint,
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program serves it (see ss -lnup, ss -lntp): stop it or listen elsewhere"
        }
        Some(libc::EADDRNOTAVAIL) => "no interface of this machine has this address (see ip address)",
        Some(libc::EACCES | libc::EPERM) => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        Some(libc::EAFNOSUPPORT) => "the kernel does not serve this address family",
        Some(libc::EMFILE | libc::ENFILE) => "raise RLIMIT_NOFILE",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listeners: &[(Transport, &str)], shards: usize) -> Config {
        Config {
            listeners: listeners
                .iter()
                .map(|&(transport, addr)| Listener {
                    transport,
                    addr: addr.parse().expect("an address"),
                    advertised: addr.to_owned(),
                    state: crate::config::ListenerState::Open,
                })
                .collect(),
            shards,
            ..Config::default()
        }
    }

    #[test]
    fn udp_and_tcp_on_port_0_get_one_port_and_say_so() {
        let cfg = config(
            &[
                (Transport::Udp, "127.0.0.1:0"),
                (Transport::Tcp, "127.0.0.1:0"),
                (Transport::Udp, "127.0.0.1:0"),
            ],
            1,
        );
        let (listeners, sockets) = bind_all(&cfg).expect("sockets");
        assert_eq!(listeners[0].addr, listeners[1].addr);
        assert_ne!(listeners[0].addr, listeners[2].addr);
        assert_ne!(listeners[0].addr.port(), 0);
        assert_eq!(listeners[1].advertised, listeners[1].addr.to_string());
        assert_eq!((sockets.len(), sockets[0].sockets.len()), (1, 3));
    }

    #[test]
    fn shards_share_an_address_that_nobody_else_can_have() {
        let both = [(Transport::Udp, "127.0.0.1:0"), (Transport::Tcp, "127.0.0.1:0")];
        let (listeners, sockets) = bind_all(&config(&both, 3)).expect("sockets");
        assert_eq!(sockets.len(), 3);
        let addr = listeners[0].addr.to_string();
        for transport in [Transport::Udp, Transport::Tcp] {
            for shards in [1, 2] {
                let error = bind_all(&config(&[(transport, &addr)], shards))
                    .err()
                    .expect("it is taken");
                assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
                let text = error.to_string();
                assert!(text.contains(&addr) && text.contains("address in use"), "{text}");
            }
        }
    }

    #[test]
    fn a_listener_that_covers_another_is_an_error_that_says_so() {
        let cfg = config(
            &[
                (Transport::Tcp, "0.0.0.0:5060"),
                (Transport::Tcp, "127.0.0.1:5060"),
            ],
            1,
        );
        let error = bind_all(&cfg).err().expect("an overlap").to_string();
        assert!(
            error.contains("127.0.0.1:5060") && error.contains("another listener"),
            "{error}"
        );
        let cfg = config(&[(Transport::Udp, "192.0.2.77:5060")], 1);
        let error = bind_all(&cfg).err().expect("not ours").to_string();
        assert!(error.contains("no interface"), "{error}");
    }

    #[test]
    fn an_accepted_connection_sends_without_delay() {
        let (listeners, sockets) = bind_all(&config(&[(Transport::Tcp, "127.0.0.1:0")], 1)).expect("sockets");
        let _client = std::net::TcpStream::connect(listeners[0].addr).expect("a connection");
        let BoundSocket::Tcp(listener) = &sockets[0].sockets[0] else {
            unreachable!("the only listener is TCP");
        };
        listener.set_nonblocking(false).expect("blocking");
        let (accepted, _) = listener.accept().expect("it connected");
        assert!(accepted.nodelay().expect("an option"));
    }
}
