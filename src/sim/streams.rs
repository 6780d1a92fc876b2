//! TCP as the simulator has it: bytes in order, cut anywhere, delayed; connections that are refused, reset in the middle of
//! a message, or read slowly. What the server's side of a connection does follows `io::tcp`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::time::Instant;
use crate::wire::{CloseReason, ConnId, Flow, ShardId, Transport, TxOp};

use super::net::{Arrival, Happening, Link, Net, PhoneEvent, TCP, is_at, phone_addr};
use super::packet::Packet;
use super::trace::What;

/// Requests that a peer which resets its connection may not have read, as `io::send_queue` keeps them.
const UNHEARD_MAX: usize = 4;
/// How long the server tries to connect, as the default of `limits.connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of one chunk where streams are cut anywhere.
const CHUNK_MAX: usize = 700;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The server waits for the phone to take it.
    Connecting,
    Open,
    /// The server has closed its side: what still comes is thrown away.
    Closing,
    Gone,
}

/// One connection.
pub(super) struct Stream {
    shard: usize,
    /// The phone's side of it.
    peer: SocketAddr,
    phone: usize,
    phase: Phase,
    /// When the last bytes of each direction arrive: later ones come behind.
    up_at: Instant,
    down_at: Instant,
    /// Messages that wait for the connection.
    waiting: Vec<Outgoing>,
    /// Bytes that the phone has not read.
    unread: usize,
    in_flight: VecDeque<Option<Asking>>,
    unheard: VecDeque<Asking>,
}

/// A message whose sender wants to hear if nobody may have read it.
type Asking = (TxOp, Rc<Packet>);

/// What the server has handed over for a connection.
struct Outgoing {
    /// `None`: the answer to a keep-alive, which is no message (RFC 5626 §3.5.1).
    packet: Option<Rc<Packet>>,
    len: usize,
    op: Option<TxOp>,
}

#[derive(Debug)]
pub(super) enum StreamStep {
    Accepted,
    Connected,
    Refused,
    Up { bytes: Rc<[u8]>, whole: Vec<Rc<Packet>> },
    UpEnd,
    Down { packet: Option<Rc<Packet>>, len: usize },
    DownEnd,
    Reset,
}

impl Stream {
    pub(super) fn flow(&self, index: u32) -> Flow {
        Flow {
            transport: Transport::Tcp,
            listener: TCP,
            peer: self.peer,
            conn: Some(ConnId {
                shard: ShardId(self.shard as u8),
                slot: index,
                generation: 1,
            }),
        }
    }
}

impl Net {
    fn add_stream(&mut self, shard: usize, phone: usize, peer: SocketAddr, phase: Phase) -> u32 {
        self.streams.push(Stream {
            shard,
            peer,
            phone,
            phase,
            up_at: self.now,
            down_at: self.now,
            waiting: Vec::new(),
            unread: 0,
            in_flight: VecDeque::new(),
            unheard: VecDeque::new(),
        });
        self.streams.len() as u32 - 1
    }

    /// A phone opens a connection to the server; it may send at once.
    pub fn connect(&mut self, phone: usize) -> u32 {
        let port = 20_000 + (self.streams.len() % 40_000) as u16;
        let peer = SocketAddr::new(phone_addr(phone).ip(), port);
        let shard = self.shard_for(peer);
        let index = self.add_stream(shard, phone, peer, Phase::Open);
        let at = self.now + self.delay();
        let step = if self.is_down {
            StreamStep::Reset
        } else {
            StreamStep::Accepted
        };
        self.streams[index as usize].up_at = at;
        self.at(at, Happening::Stream(index, step));
        index
    }

    /// Whether a phone may send on the connection.
    pub fn is_open(&self, stream: u32) -> bool {
        self.streams
            .get(stream as usize)
            .is_some_and(|stream| stream.phase == Phase::Open)
    }

    /// A phone sends a message on a connection. `keep`: so many of its bytes only, and then a reset.
    pub fn send_stream(&mut self, stream: u32, packet: &Rc<Packet>, keep: Option<usize>) {
        self.counts.stream_messages += 1;
        let bytes = &packet.bytes;
        let is_reset = self.rng.permille(self.faults.reset);
        let keep = keep.or_else(|| is_reset.then(|| self.rng.below(bytes.len() + 1)));
        let end = keep.map_or(bytes.len(), |keep| keep.min(bytes.len()));
        self.counts.torn += u64::from(end > 0 && end < bytes.len());
        let mut from = 0;
        while from < end {
            let most = end - from;
            let len = if self.faults.cuts {
                1 + self.rng.below(most.min(CHUNK_MAX))
            } else {
                most
            };
            self.counts.cut += u64::from(from == 0 && len < end);
            let whole = if from + len == bytes.len() {
                vec![packet.clone()]
            } else {
                Vec::new()
            };
            let bytes = bytes[from..from + len].into();
            self.up(stream, StreamStep::Up { bytes, whole });
            from += len;
        }
        if keep.is_some() {
            self.up(stream, StreamStep::Reset);
        }
    }

    /// A phone shows that it is still there: RFC 5626 §4.4.1.
    pub fn send_ping(&mut self, stream: u32) {
        self.counts.pings += 1;
        let bytes = b"\r\n\r\n".as_slice().into();
        let whole = Vec::new();
        self.up(stream, StreamStep::Up { bytes, whole });
    }

    /// A phone closes its side.
    pub fn close_stream(&mut self, stream: u32) {
        self.up(stream, StreamStep::UpEnd);
    }

    fn up(&mut self, stream: u32, step: StreamStep) {
        let delay = self.delay();
        let now = self.now;
        let Some(ends) = self.streams.get_mut(stream as usize) else {
            return;
        };
        // One microsecond at least lies between two chunks, or they would be one.
        ends.up_at = (now + delay).max(ends.up_at + Duration::from_micros(1));
        let at = ends.up_at;
        self.at(at, Happening::Stream(stream, step));
    }

    // ---- The server's side -----------------------------------------------------------------------------------------

    /// The connection that a flow means, as `io::tcp_send` finds it; a new one where there is none.
    fn route(&mut self, shard: usize, flow: &Flow) -> Option<u32> {
        let takes = |stream: &Stream| {
            stream.shard == shard
                && match stream.phase {
                    Phase::Connecting | Phase::Open => true,
                    Phase::Closing | Phase::Gone => false,
                }
        };
        if let Some(conn) = flow.conn {
            assert_eq!(
                usize::from(conn.shard.0),
                shard,
                "only its own shard sends on a connection"
            );
            if self.streams.get(conn.slot as usize).is_some_and(takes) {
                return Some(conn.slot);
            }
        }
        if let Some(known) = self
            .streams
            .iter()
            .rposition(|stream| stream.peer == flow.peer && takes(stream))
        {
            return Some(known as u32);
        }
        let phone = self.phone_at(flow.peer);
        let is_refused =
            phone.is_none_or(|phone| !is_at(phone, flow.peer)) || self.rng.permille(self.faults.refuse);
        let index = self.add_stream(shard, phone.unwrap_or(0), flow.peer, Phase::Connecting);
        let delay = self.delay() * 2;
        let (after, step) = match (is_refused, self.rng.one_in(4)) {
            (false, _) => (delay, StreamStep::Connected),
            // Nobody answers at all.
            (true, true) => (CONNECT_TIMEOUT, StreamStep::Refused),
            (true, false) => (delay, StreamStep::Refused),
        };
        self.counts.refused += u64::from(is_refused);
        self.at(self.now + after, Happening::Stream(index, step));
        Some(index)
    }

    /// The server sends a message on the connection that `flow` means.
    pub(super) fn send_stream_out(&mut self, shard: usize, flow: &Flow, bytes: &[u8], op: Option<TxOp>) {
        let Some(index) = self.route(shard, flow) else {
            return;
        };
        let limit = self.send_queue_bytes_max;
        let stream = &mut self.streams[index as usize];
        if stream.unread + bytes.len() > limit {
            self.end_stream(index, CloseReason::SendQueueFull);
            if let Some(op) = op {
                let reason = CloseReason::SendQueueFull;
                self.inbox[shard].push_back(Arrival::SendFailed {
                    op,
                    reason,
                    was_sent: false,
                });
            }
            return;
        }
        let (phase, peer) = (stream.phase, stream.peer);
        let packet = if bytes == b"\r\n" {
            None
        } else {
            self.read_out(bytes)
        };
        // It is sent when it is handed over, however long the connection takes to open: the server's timers run from then on.
        if let Some(packet) = &packet {
            self.record(What::Sent, Transport::Tcp, peer, Some(index), packet);
        }
        let len = bytes.len();
        let outgoing = Outgoing { packet, len, op };
        match phase {
            Phase::Connecting => self.streams[index as usize].waiting.push(outgoing),
            Phase::Open | Phase::Closing | Phase::Gone => self.down(index, outgoing),
        }
    }

    fn down(&mut self, index: u32, outgoing: Outgoing) {
        self.counts.stream_messages += 1;
        let Outgoing { packet, len, op } = outgoing;
        let mut delay = self.delay();
        if self.rng.permille(self.faults.slow_reader) {
            self.counts.slow += 1;
            delay += self.rng.millis(500, 20_000);
        }
        let is_reset = self.rng.permille(self.faults.reset);
        let now = self.now;
        let stream = &mut self.streams[index as usize];
        stream.unread += len;
        stream.in_flight.push_back(op.zip(packet.clone()));
        stream.down_at = (now + delay).max(stream.down_at);
        let at = stream.down_at;
        let step = if is_reset {
            StreamStep::Reset
        } else {
            StreamStep::Down { packet, len }
        };
        self.at(at, Happening::Stream(index, step));
    }

    /// The server closes a connection after what is queued on it.
    pub(super) fn close_out(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(stream) = self.streams.get_mut(conn.slot as usize) else {
            return;
        };
        match stream.phase {
            Phase::Connecting => self.end_stream(conn.slot, reason),
            Phase::Open => {
                stream.phase = Phase::Closing;
                let at = stream.down_at.max(self.now) + Duration::from_micros(1);
                self.at(at, Happening::Stream(conn.slot, StreamStep::DownEnd));
                let shard = usize::from(conn.shard.0);
                let stream = conn.slot;
                self.inbox[shard].push_back(Arrival::Closed { stream, reason });
            }
            Phase::Closing | Phase::Gone => {}
        }
    }

    /// The server has seen, in an earlier turn, that the phone closed its side: it closes its own.
    pub(super) fn close_half_closed(&mut self, index: u32) {
        if self.is_open(index) {
            self.end_stream(index, CloseReason::PeerClosed);
        }
    }

    /// The connection is gone: whoever has sent on it is told, and then the core of it.
    fn end_stream(&mut self, index: u32, reason: CloseReason) {
        let stream = &mut self.streams[index as usize];
        let (phase, shard, phone) = (stream.phase, stream.shard, stream.phone);
        stream.phase = Phase::Gone;
        let unheard = std::mem::take(&mut stream.unheard).into_iter();
        let in_flight = std::mem::take(&mut stream.in_flight).into_iter().flatten();
        let waiting = std::mem::take(&mut stream.waiting);
        let peer = stream.peer;
        let sent: Vec<Asking> = unheard.chain(in_flight).collect();
        let unsent = waiting
            .iter()
            .filter_map(|outgoing| outgoing.op)
            .map(|op| (op, false));
        let ops: Vec<(TxOp, bool)> = sent.iter().map(|(op, _)| (*op, true)).chain(unsent).collect();
        for (_, packet) in &sent {
            self.record(What::Unheard, Transport::Tcp, peer, Some(index), packet);
        }
        for packet in waiting.iter().filter_map(|outgoing| outgoing.packet.as_ref()) {
            self.record(What::Unsent, Transport::Tcp, peer, Some(index), packet);
        }
        match phase {
            Phase::Connecting | Phase::Open => {
                for (op, was_sent) in ops {
                    self.inbox[shard].push_back(Arrival::SendFailed { op, reason, was_sent });
                }
                self.inbox[shard].push_back(Arrival::Closed {
                    stream: index,
                    reason,
                });
            }
            Phase::Closing | Phase::Gone => {}
        }
        let at = self.now + self.delay();
        // The phone hears of it too, at its end of the way.
        self.at(at, Happening::Stream(index, StreamStep::DownEnd));
        let _ = phone;
    }

    /// The server is gone: its connections are reset.
    pub(super) fn reset_all(&mut self) {
        for index in 0..self.streams.len() {
            if self.streams[index].phase != Phase::Gone {
                self.streams[index].phase = Phase::Gone;
                let at = self.now + self.delay();
                self.at(at, Happening::Stream(index as u32, StreamStep::DownEnd));
            }
        }
    }

    // ---- What happens on the way -----------------------------------------------------------------------------------

    /// Carries out one step. What it means for a phone is returned.
    pub(super) fn stream_step(&mut self, index: u32, step: StreamStep) -> Option<(usize, PhoneEvent)> {
        let stream = &mut self.streams[index as usize];
        let (shard, phone, phase) = (stream.shard, stream.phone, stream.phase);
        match step {
            StreamStep::DownEnd => return Some((phone, PhoneEvent::Closed { stream: index })),
            StreamStep::Accepted if phase == Phase::Open => {
                self.inbox[shard].push_back(Arrival::Opened { stream: index });
            }
            StreamStep::Connected if phase == Phase::Connecting => {
                stream.phase = Phase::Open;
                let waiting = std::mem::take(&mut stream.waiting);
                self.inbox[shard].push_back(Arrival::Opened { stream: index });
                for outgoing in waiting {
                    self.down(index, outgoing);
                }
            }
            StreamStep::Refused if phase == Phase::Connecting => {
                self.end_stream(index, CloseReason::ConnectFailed);
            }
            StreamStep::Up { bytes, whole } if phase == Phase::Open => {
                stream.unheard.clear();
                let stream = index;
                self.inbox[shard].push_back(Arrival::Bytes { stream, bytes, whole });
            }
            StreamStep::Up { whole, .. } if phase == Phase::Closing => {
                self.thrown_away
                    .extend(whole.iter().filter_map(|packet| packet.id));
            }
            StreamStep::UpEnd if phase == Phase::Open => {
                self.inbox[shard].push_back(Arrival::Fin { stream: index });
            }
            StreamStep::Down { packet, len } if phase == Phase::Open || phase == Phase::Closing => {
                stream.unread -= len;
                if let Some(Some(op)) = stream.in_flight.pop_front() {
                    stream.unheard.push_back(op);
                    if stream.unheard.len() > UNHEARD_MAX {
                        stream.unheard.pop_front();
                    }
                }
                let link = Link::Tcp(index);
                self.counts.pongs += u64::from(packet.is_none());
                return packet.map(|packet| (phone, PhoneEvent::Packet { link, packet }));
            }
            StreamStep::Reset if phase != Phase::Gone => {
                self.counts.resets += 1;
                self.note(|| format!("connection {index} of phone {phone} is reset"));
                self.end_stream(index, CloseReason::Reset);
            }
            // It is over, or nobody listens any more.
            StreamStep::Accepted
            | StreamStep::Connected
            | StreamStep::Refused
            | StreamStep::Up { .. }
            | StreamStep::UpEnd
            | StreamStep::Down { .. }
            | StreamStep::Reset => {}
        }
        None
    }

    pub(super) fn peer_of(&self, stream: u32) -> SocketAddr {
        self.streams[stream as usize].peer
    }

    /// Connections that the server has.
    pub(super) fn open_streams(&self) -> usize {
        let is_open = |stream: &&Stream| match stream.phase {
            Phase::Connecting | Phase::Open => true,
            Phase::Closing | Phase::Gone => false,
        };
        self.streams.iter().filter(is_open).count()
    }
}
