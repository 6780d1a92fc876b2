//! The network between the phones and the server's sockets: one queue of what is to happen, and a seeded lot of what goes
//! wrong. Datagrams are here, connections in [`streams`](super::streams).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use crate::domain::{Answer, Question};
use crate::time::Instant;
use crate::wire::{ListenerId, Transport, TxOp};

use super::packet::Packet;
use super::rng::Rng;
use super::streams::Stream;
use super::tally::tally;
use super::trace::{Heard, Line, Step, Trace, What};

/// The server's one address, for both transports.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 5060);
pub const UDP: ListenerId = ListenerId(0);
pub const TCP: ListenerId = ListenerId(1);

/// Where phone `index` is.
pub fn phone_addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1 + (index / 250) as u8, 1 + (index % 250) as u8], 5060))
}

/// Where a phone behind a NAT says that it is. The NAT lets through what comes there, for not every call keeps to a flow: who was called
/// past its own, or without state, has none. The audit sees what should have kept to one.
pub fn inner_addr(index: usize) -> SocketAddr {
    SocketAddr::new(phone_addr(index).ip(), 5099)
}

/// Whether a phone is reached at an address.
pub fn is_at(phone: usize, addr: SocketAddr) -> bool {
    phone_addr(phone) == addr || inner_addr(phone) == addr
}

/// What may go wrong on the way. Rates are per mille.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub loss: u32,
    pub duplicate: u32,
    /// A datagram that takes up to half a second longer.
    pub late: u32,
    pub damage: u32,
    /// The kernel refuses to send.
    pub send_error: u32,
    /// Shortest and longest way, microseconds.
    pub delay_us: (u64, u64),
    /// A connection is reset after, or in the middle of, a message.
    pub reset: u32,
    /// A phone does not take a connection.
    pub refuse: u32,
    /// A chunk of a stream that waits seconds at the phone before it is read.
    pub slow_reader: u32,
    /// Streams are cut anywhere.
    pub cuts: bool,
    /// Any shard may receive what any phone sends, rather than one and the same.
    pub any_shard: bool,
}

impl Faults {
    /// Whether what is sent arrives, once and in order.
    pub fn is_calm(&self) -> bool {
        self.loss + self.duplicate + self.late + self.damage + self.send_error == 0
            && self.reset + self.refuse + self.slow_reader == 0
            && self.delay_us.0 == self.delay_us.1
    }
}

tally! {
    /// How often each fault struck.
    pub struct Counts {
        datagrams,
        stream_messages,
        lost,
        duplicated,
        late,
        /// Datagrams that came before one which was sent earlier, the same way.
        reordered,
        damaged,
        send_errors,
        resets,
        /// Messages on streams that came in pieces, and those of which the end never came.
        cut,
        torn,
        refused,
        slow,
        crashes,
        reloads,
        /// Requests that came back to the server by way of another element.
        mirrored,
        /// REGISTERs and other requests that the edge has passed on to the server and to phones, and those that it says 430 to.
        edge_registers,
        edge_requests,
        edge_failures,
        /// Keep-alives on connections, and what came back (RFC 5626 §4.4.1).
        pings,
        pongs,
        dns_questions,
        dns_answers,
        dns_slow,
        dns_nothing,
        dns_failures,
        dns_silences,
        /// Requests that went on to the next target of their name.
        failovers,
    }
}

impl Counts {
    pub fn faults(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.reordered
            + self.damaged
            + self.send_errors
            + self.resets
            + self.cut
            + self.refused
            + self.slow
            + self.crashes
    }
}

/// A message on its way, or what damage has made of one.
#[derive(Clone, Debug)]
pub enum Load {
    Whole(Rc<Packet>),
    Raw(Rc<[u8]>),
}

impl Load {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Load::Whole(packet) => &packet.bytes,
            Load::Raw(bytes) => bytes,
        }
    }
}

/// What a shard's next turn takes up.
#[derive(Debug)]
pub enum Arrival {
    Datagram {
        peer: SocketAddr,
        load: Load,
        received_at: Instant,
    },
    /// A connection is established.
    Opened { stream: u32 },
    /// Bytes of a stream, with the messages that are whole by them.
    Bytes {
        stream: u32,
        bytes: Rc<[u8]>,
        whole: Vec<Rc<Packet>>,
    },
    /// The phone has closed its side.
    Fin { stream: u32 },
    Closed {
        stream: u32,
        reason: crate::wire::CloseReason,
    },
    SendFailed {
        op: TxOp,
        reason: crate::wire::CloseReason,
        was_sent: bool,
    },
}

/// Over what a phone got a message, and so answers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    Udp,
    Tcp(u32),
    /// From that phone, past the server.
    Direct(usize),
}

impl Link {
    pub fn transport(self) -> Transport {
        match self {
            Link::Udp | Link::Direct(_) => Transport::Udp,
            Link::Tcp(_) => Transport::Tcp,
        }
    }
}

/// What happens to a phone.
#[derive(Debug)]
pub enum PhoneEvent {
    Packet { link: Link, packet: Rc<Packet> },
    Closed { stream: u32 },
    Timer(u64),
}

/// What is to happen.
#[derive(Debug)]
pub(super) enum Happening {
    ToServer {
        shard: usize,
        peer: SocketAddr,
        load: Load,
    },
    ToPhone {
        phone: usize,
        link: Link,
        packet: Rc<Packet>,
    },
    Stream(u32, super::streams::StreamStep),
    Wake {
        shard: usize,
    },
    Timer {
        phone: usize,
        token: u64,
    },
    /// DNS tells a shard, if the server still lives that life.
    Told {
        shard: usize,
        life: u64,
        told: Box<(Question, Answer)>,
    },
}

pub struct Net {
    pub now: Instant,
    pub faults: Faults,
    pub counts: Counts,
    pub trace: Trace,
    pub(super) rng: Rng,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    serial: u64,
    phones: BTreeMap<IpAddr, usize>,
    /// By party: when the last datagram to the server arrives, and the last from it.
    up_at: Vec<Instant>,
    down_at: Vec<Instant>,
    /// By shard: what has arrived and is not taken up.
    pub(super) inbox: Vec<VecDeque<Arrival>>,
    pub(super) is_woken: Vec<bool>,
    pub(super) streams: Vec<Stream>,
    pub(super) send_queue_bytes_max: usize,
    /// The server is down: what arrives is lost.
    pub is_down: bool,
    /// What the server sent that is no SIP message. There must be none.
    pub unreadable: Vec<String>,
    /// Requests that a transaction of the server's sent where nobody is, by the numbers that their phones gave them.
    pub into_nowhere: BTreeSet<u64>,
    /// Messages that came on connections of which the server had closed its side, by the same numbers: nobody has read them, and over TCP
    /// nobody says them again.
    pub thrown_away: BTreeSet<u64>,
}

impl Net {
    pub fn new(seed: u64, faults: Faults, shards: usize, phones: usize, start: Instant) -> Net {
        Net {
            now: start,
            faults,
            counts: Counts::default(),
            trace: Trace::default(),
            rng: Rng::part(seed, "net"),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            serial: 0,
            phones: (0..phones).map(|index| (phone_addr(index).ip(), index)).collect(),
            up_at: vec![start; phones],
            down_at: vec![start; phones],
            inbox: (0..shards).map(|_| VecDeque::new()).collect(),
            is_woken: vec![false; shards],
            streams: Vec::new(),
            send_queue_bytes_max: 1 << 20,
            is_down: false,
            unreadable: Vec::new(),
            into_nowhere: BTreeSet::new(),
            thrown_away: BTreeSet::new(),
        }
    }

    pub(super) fn at(&mut self, at: Instant, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((at, self.serial)));
        self.happenings.insert(self.serial, happening);
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// The next thing that is due, if any.
    pub(super) fn pop_due(&mut self) -> Option<Happening> {
        let Reverse((at, serial)) = *self.queue.peek()?;
        if at > self.now {
            return None;
        }
        self.queue.pop();
        self.happenings.remove(&serial)
    }

    /// Has `phone` get `token` back after a while.
    pub fn timer(&mut self, phone: usize, after: Duration, token: u64) {
        self.at(self.now + after, Happening::Timer { phone, token });
    }

    pub(super) fn delay(&mut self) -> Duration {
        let (low, high) = self.faults.delay_us;
        Duration::from_micros(self.rng.between(low, high))
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.lines.push(Line::Note(self.now, text()));
    }

    /// What DNS is asked, or tells.
    pub(super) fn heard(&mut self, shard: usize, question: Question, answer: Option<Answer>) {
        let at = self.now;
        let heard = Heard {
            at,
            shard,
            question,
            answer,
        };
        self.trace.lines.push(Line::Dns(Box::new(heard)));
    }

    pub(super) fn record(
        &mut self,
        what: What,
        transport: Transport,
        peer: SocketAddr,
        conn: Option<u32>,
        packet: &Rc<Packet>,
    ) {
        self.trace.lines.push(Line::Step(Step {
            at: self.now,
            what,
            transport,
            peer,
            conn,
            packet: packet.clone(),
        }));
    }

    pub(super) fn phone_at(&self, addr: SocketAddr) -> Option<usize> {
        self.phones.get(&addr.ip()).copied()
    }

    /// The shard whose socket the kernel gives the packets of this peer to.
    pub(super) fn shard_for(&mut self, peer: SocketAddr) -> usize {
        let shards = self.inbox.len();
        if self.faults.any_shard {
            return self.rng.below(shards);
        }
        let text = peer.to_string();
        Rng::part(0, &text).below(shards)
    }

    /// A phone sends a datagram to the server.
    pub fn send_datagram(&mut self, from: usize, packet: &Rc<Packet>) {
        self.counts.datagrams += 1;
        let peer = phone_addr(from);
        if self.rng.permille(self.faults.loss) {
            self.counts.lost += 1;
            self.record(What::LostIn, Transport::Udp, peer, None, packet);
            return;
        }
        for _ in 0..self.copies() {
            let at = self.now + self.way();
            note_order(&mut self.up_at[from], at, &mut self.counts);
            let shard = self.shard_for(peer);
            let load = if self.rng.permille(self.faults.damage) {
                self.counts.damaged += 1;
                Load::Raw(damaged(&packet.bytes, &mut self.rng).into())
            } else {
                Load::Whole(packet.clone())
            };
            self.at(at, Happening::ToServer { shard, peer, load });
        }
    }

    /// The server sends a datagram. `false`: the kernel refuses.
    pub(super) fn send_datagram_out(&mut self, to: SocketAddr, bytes: &[u8]) -> bool {
        self.counts.datagrams += 1;
        let is_refused = self.rng.permille(self.faults.send_error);
        let Some(packet) = self.read_out(bytes) else {
            return true;
        };
        let phone = self.phone_at(to).filter(|phone| is_at(*phone, to));
        if phone.is_none() && to != SERVER && packet.status.is_none() {
            self.into_nowhere.extend(packet.id);
        }
        let is_lost = self.rng.permille(self.faults.loss);
        let is_damaged = self.rng.permille(self.faults.damage);
        self.record(What::Sent, Transport::Udp, to, None, &packet);
        if is_refused {
            self.counts.send_errors += 1;
            self.record(What::Unsent, Transport::Udp, to, None, &packet);
            return false;
        }
        if to == SERVER && !is_lost && !is_damaged {
            self.send_datagram_back(&packet);
            return true;
        }
        let Some(phone) = phone.filter(|_| !is_lost && !is_damaged) else {
            // A phone throws away what is damaged: it is lost either way.
            self.counts.lost += u64::from(is_lost);
            self.counts.damaged += u64::from(is_damaged);
            self.record(What::LostOut, Transport::Udp, to, None, &packet);
            return true;
        };
        for _ in 0..self.copies() {
            let at = self.now + self.way();
            note_order(&mut self.down_at[phone], at, &mut self.counts);
            let packet = packet.clone();
            let link = Link::Udp;
            self.at(at, Happening::ToPhone { phone, link, packet });
        }
        true
    }

    /// What the server sends to its own address comes in there.
    fn send_datagram_back(&mut self, packet: &Rc<Packet>) {
        for _ in 0..self.copies() {
            let at = self.now + self.way();
            let shard = self.shard_for(SERVER);
            let (peer, load) = (SERVER, Load::Whole(packet.clone()));
            self.at(at, Happening::ToServer { shard, peer, load });
        }
    }

    /// A phone sends a datagram to another, past the server.
    pub fn send_direct(&mut self, from: usize, to: SocketAddr, packet: &Rc<Packet>) {
        self.counts.datagrams += 1;
        let phone = self.phone_at(to).filter(|phone| is_at(*phone, to));
        let is_lost = self.rng.permille(self.faults.loss);
        self.counts.lost += u64::from(is_lost);
        let Some(phone) = phone.filter(|_| !is_lost) else {
            return;
        };
        for _ in 0..self.copies() {
            let at = self.now + self.way();
            let (link, packet) = (Link::Direct(from), packet.clone());
            self.at(at, Happening::ToPhone { phone, link, packet });
        }
    }

    /// What the server sends must be readable to a strict reader.
    pub(super) fn read_out(&mut self, bytes: &[u8]) -> Option<Rc<Packet>> {
        match Packet::parse(bytes) {
            Ok(packet) => Some(Rc::new(packet)),
            Err(error) => {
                self.unreadable.push(format!("{error}: {}", bytes.escape_ascii()));
                None
            }
        }
    }

    fn copies(&mut self) -> usize {
        let is_twice = self.rng.permille(self.faults.duplicate);
        self.counts.duplicated += u64::from(is_twice);
        1 + usize::from(is_twice)
    }

    fn way(&mut self) -> Duration {
        let way = self.delay();
        if !self.rng.permille(self.faults.late) {
            return way;
        }
        self.counts.late += 1;
        way + self.rng.millis(20, 500)
    }
}

/// A datagram arrives `at`, and the last before it on its way at `last`.
fn note_order(last: &mut Instant, at: Instant, counts: &mut Counts) {
    counts.reordered += u64::from(at < *last);
    *last = at.max(*last);
}

/// Bytes changed, lost, added or repeated at a few places.
fn damaged(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            break;
        }
        let place = rng.below(bytes.len());
        match rng.below(5) {
            0 => bytes[place] = rng.draw() as u8,
            1 => bytes.truncate(place),
            2 => drop(bytes.remove(place)),
            3 => bytes.insert(place, b"\r\n;,<>\":@= \0"[rng.below(12)]),
            _ => {
                let end = (place + rng.below(200)).min(bytes.len());
                let part = bytes[place..end].to_vec();
                bytes.splice(place..place, part);
            }
        }
    }
    bytes
}
