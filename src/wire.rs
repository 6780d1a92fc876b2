//! The vocabulary between the sans-IO core and the reactor: events go in, effects come out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::pool::{BufId, Pool};
use crate::port::{Tell, Teller};
use crate::time::Instant;

/// Transport protocols that ringway listens on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub const ALL: [Transport; 2] = [Transport::Udp, Transport::Tcp];

    /// Whether the transport itself delivers what was sent (RFC 3261 §17: no retransmission timers then).
    pub const fn is_reliable(self) -> bool {
        match self {
            Transport::Udp => false,
            Transport::Tcp => true,
        }
    }

    /// The token as it stands in a Via header and a `transport` parameter of a Contact.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        }
    }
}

/// Index of a shard: one pinned thread with one ring and all state of its calls. At most [`SHARDS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShardId(pub u8);

/// Most shards in one process: a token carries the shard in one byte, and 64 cores are plenty.
pub const SHARDS_MAX: usize = 64;

/// Index into the list of listeners that the configuration expands to (one entry a transport and address).
/// Every shard has a socket of its own for each listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u16);

/// A TCP connection. It lives in the shard that accepted or opened it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    pub shard: ShardId,
    pub slot: u32,
    pub generation: u32,
}

/// Where a message came from, and so where its answer goes; or where a request is to be sent.
///
/// With `conn` set the message goes out on that connection while it lives; when it is gone, or none is given, a connection
/// to `peer` is used again or opened. Nobody listens on port 0: with such a peer the message goes out on that connection or not
/// at all. For UDP `conn` is always `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    pub transport: Transport,
    /// The local socket (UDP), or the listener whose address stands in our Via (TCP).
    pub listener: ListenerId,
    pub peer: SocketAddr,
    pub conn: Option<ConnId>,
}

impl Flow {
    /// Length of [`Flow::to_bytes`].
    pub const BYTES: usize = 30;
    const FLAG_TCP: u8 = 1;
    const FLAG_CONN: u8 = 2;

    /// Numbers big-endian: flags (1), connection shard (1), listener (2), peer address (16) and port (2), connection slot (4) and
    /// generation (4). An IPv4 address stands in the IPv6 form that maps it, which no peer of an IPv6 listener has: those listen on IPv6
    /// alone.
    pub fn to_bytes(self) -> [u8; Flow::BYTES] {
        let mut bytes = [0; Flow::BYTES];
        match self.transport {
            Transport::Udp => {}
            Transport::Tcp => bytes[0] |= Flow::FLAG_TCP,
        }
        let ip = match self.peer.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes[2..4].copy_from_slice(&self.listener.0.to_be_bytes());
        bytes[4..20].copy_from_slice(&ip.octets());
        bytes[20..22].copy_from_slice(&self.peer.port().to_be_bytes());
        if let Some(conn) = self.conn {
            bytes[0] |= Flow::FLAG_CONN;
            bytes[1] = conn.shard.0;
            bytes[22..26].copy_from_slice(&conn.slot.to_be_bytes());
            bytes[26..].copy_from_slice(&conn.generation.to_be_bytes());
        }
        bytes
    }

    /// What [`Flow::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8; Flow::BYTES]) -> Flow {
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let four = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let ip = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[4 + i]));
        Flow {
            transport: match bytes[0] & Flow::FLAG_TCP {
                0 => Transport::Udp,
                _ => Transport::Tcp,
            },
            listener: ListenerId(two(2)),
            peer: SocketAddr::new(IpAddr::V6(ip).to_canonical(), two(20)),
            conn: (bytes[0] & Flow::FLAG_CONN != 0).then_some(ConnId {
                shard: ShardId(bytes[1]),
                slot: four(22),
                generation: four(26),
            }),
        }
    }

    /// This flow and nothing else: when its connection is gone, none is opened in its place.
    pub const fn alone(self) -> Flow {
        match self.transport {
            Transport::Udp => self,
            Transport::Tcp => self.at_port(0),
        }
    }

    /// To another port of the same peer. A link-local address stays on its link (RFC 4007 §6), without which it leads nowhere.
    pub const fn at_port(self, port: u16) -> Flow {
        let mut peer = self.peer;
        peer.set_port(port);
        Flow { peer, ..self }
    }
}

/// Who wants to hear that a message could not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TxOp {
    /// The transaction of a request: a slot and generation that mean something to the sender alone.
    Request {
        /// The shard that the sender lives in.
        shard: ShardId,
        slot: u32,
        generation: u32,
    },
    /// Nobody in particular: an answer comes back itself ([`Event::AnswerNotSent`]), since all that says where else it may go stands in it.
    Answer {
        /// The ways that were tried before this one.
        tried: u8,
    },
}

impl TxOp {
    /// An answer that leaves by the way that its request came.
    pub const ANSWER: TxOp = TxOp::Answer { tried: 0 };
}

/// Why a TCP connection ended, or could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed it in an orderly way.
    PeerClosed,
    /// Reset or another socket error.
    Reset,
    /// A connection that we opened was refused or timed out.
    ConnectFailed,
    /// The bounded send queue is full: the peer reads too slowly.
    SendQueueFull,
    /// The peer took nothing of what waited for it for too long, or for longer than all others when send queues were full together.
    SendStalled,
    /// Nothing was received for the idle time-out.
    Idle,
    /// A message was begun and not finished in time.
    PartialMessage,
    /// What was received can't be framed as SIP.
    Framing,
    /// A named limit (connections, buffers) was reached.
    Limit,
    /// The server is stopping.
    Shutdown,
}

/// What happened outside the core.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// One whole UDP datagram. It reached the machine at `received_at`: how long it waited for us is part of its time in the server.
    Datagram {
        flow: Flow,
        bytes: &'a [u8],
        received_at: Instant,
    },
    /// A connection was accepted or is now established. `flow.conn` is set.
    Opened { flow: Flow },
    /// Bytes of a TCP stream, in order, cut anywhere. `flow.conn` is set. They count as received when they are read: the kernel stamps
    /// the segment that ended a read, not the one that began the message.
    Stream { flow: Flow, bytes: &'a [u8] },
    /// The connection is gone; its id will not be heard of again.
    Closed { conn: ConnId, reason: CloseReason },
    /// A message with an `op` could not be sent, or was still queued when its connection ended; or, where it `was_sent`, its connection has
    /// ended before anything came back on it: its peer may have read it or not.
    SendFailed {
        op: TxOp,
        reason: CloseReason,
        was_sent: bool,
    },
    /// An answer that was to come back where it can't be sent ([`TxOp::Answer`]) could not leave by `flow`: the connection was not to be
    /// had, or ended before all of it was sent, or the kernel knows of no way there.
    AnswerNotSent {
        flow: Flow,
        bytes: &'a [u8],
        tried: u8,
        reason: CloseReason,
    },
    /// The network says that a datagram which was sent over `flow` has reached nobody (a fatal ICMP error, RFC 3261 §18.4). `bytes`: as much
    /// of its beginning as came back, which may be nothing. Anybody can have made it up.
    Undelivered { flow: Flow, bytes: &'a [u8] },
}

/// What the core wants done outside. Whoever applies a `Send` releases its buffer reference.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// Send the whole buffer as one message. One reference to `buf` travels with the effect.
    Send {
        flow: Flow,
        buf: BufId,
        op: Option<TxOp>,
    },
    /// Close the connection after what is queued on it has been sent.
    Close { conn: ConnId, reason: CloseReason },
    /// It was taken out of the list: [`Effects::take`].
    Nothing,
    /// Something was put into that shard's mailbox: wake it.
    Wake { shard: ShardId },
}

/// What came out of the core in one turn, and the buffers that it is written in.
pub struct Effects {
    pub pool: Pool,
    list: Vec<Effect>,
    /// When the event now being handled was received: the start of the time in the server.
    pub received_at: Instant,
    /// The way to the control thread, where there is one.
    pub teller: Option<Teller>,
}

impl Effects {
    /// Effects that a turn usually holds; the list grows past it only when one event fans out widely.
    const CAPACITY: usize = 1024;

    pub fn new(pool: Pool) -> Effects {
        Effects {
            pool,
            list: Vec::with_capacity(Self::CAPACITY),
            received_at: Instant::default(),
            teller: None,
        }
    }

    /// Tells the control thread. `false`: there was no room, or nobody hears.
    pub fn tell(&mut self, tell: Tell, bytes: &[u8]) -> bool {
        self.teller
            .as_mut()
            .is_some_and(|teller| teller.tell(tell, bytes))
    }

    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Sends `buf`; the caller's reference goes with it.
    pub fn send(&mut self, flow: Flow, buf: BufId, op: Option<TxOp>) {
        self.push(Effect::Send { flow, buf, op });
    }

    /// Sends `buf` and keeps the caller's reference, for a retransmission later.
    pub fn send_kept(&mut self, flow: Flow, buf: BufId, op: Option<TxOp>) {
        self.pool.retain(buf);
        self.push(Effect::Send { flow, buf, op });
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The effect at `index` in the order in which they came.
    pub fn get(&self, index: usize) -> Option<Effect> {
        self.list.get(index).copied()
    }

    /// All of them, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Effect> {
        self.list.iter()
    }

    /// Takes one effect out; [`Effect::Nothing`] stays in its place. Its buffer is the caller's.
    pub fn take(&mut self, index: usize) {
        if let Some(effect) = self.list.get_mut(index) {
            *effect = Effect::Nothing;
        }
    }

    /// Forgets the list once every effect has been applied. Buffers are not touched.
    pub fn clear(&mut self) {
        self.list.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_one_link_stays_on_it() {
        let flow = Flow {
            transport: Transport::Udp,
            listener: ListenerId(0),
            peer: "[fe80::1%7]:40000".parse().expect("an address"),
            conn: None,
        };
        assert_eq!(Ok(flow.at_port(5060).peer), "[fe80::1%7]:5060".parse());
    }

    #[test]
    fn a_flow_comes_back_from_its_bytes() {
        let conn = ConnId {
            shard: ShardId(63),
            slot: 70_000,
            generation: 4_000_000_000,
        };
        for (transport, peer, conn) in [
            (Transport::Udp, "192.0.2.1:5060", None),
            (Transport::Udp, "[2001:db8::1]:65535", None),
            (Transport::Tcp, "192.0.2.1:40000", Some(conn)),
            (Transport::Tcp, "[2001:db8::1]:0", None),
        ] {
            let flow = Flow {
                transport,
                listener: ListenerId(513),
                peer: peer.parse().expect("an address"),
                conn,
            };
            assert_eq!(Flow::from_bytes(&flow.to_bytes()), flow);
        }
    }
}
