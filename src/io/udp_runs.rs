//! Which datagrams of a turn share a send: runs of one peer and one length, which the kernel takes through its stack together
//! (UDP_SEGMENT).
//!
//! What waits for one peer is shared out to runs in the order in which it was queued. A datagram joins the first run that it fits,
//! but never one before the run that holds the last of its own call: a run keeps the order of its members, and runs leave in
//! turn, so **two messages of one call to one peer never change places**. Messages of different calls may, as they may in any
//! network. What names no call counts as a call of its own.
//!
//! Lengths are made equal by white space where whoever wrote a message marked that some may stand
//! ([`Marks`](crate::pool::Marks)). What is marked nowhere joins only a run of exactly its length. All members of a run are sent
//! with the same length, the last one too, so that no datagram can be split in the wrong place.
//!
//! Nothing waits for a run, and no peer is remembered as busy: what is there at the end of a turn decides, so a peer that
//! falls quiet gets its messages singly, unpadded and at once.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Datagrams that are looked at together; a turn with more is cut.
pub(super) const PLAN_MAX: usize = 256;
/// White space that a datagram may get, bytes.
pub(super) const PADDING_MAX: usize = 64;
/// UDP_MAX_SEGMENTS of kernels before 6.x; later ones take 128.
const RUN_DATAGRAMS_MAX: usize = 64;
/// What IP carries in one packet, less room for its header and UDP's.
const RUN_BYTES_MAX: usize = 65_000;
/// UDP payload within an Ethernet frame of 1,500 bytes. A larger datagram is sent alone, and IP cuts it into fragments; as a
/// segment of a run it would be refused.
const PAYLOAD_MAX_V4: usize = 1_472;
const PAYLOAD_MAX_V6: usize = 1_452;
/// Runs of one peer that a datagram is compared with: the newest.
const OPEN_RUNS_MAX: usize = 16;
/// Peers that can't be sent runs, of which each is remembered. Where there are more, it is the way out of this machine that
/// can't do it, and nobody is sent runs any more.
const REFUSED_PEERS_MAX: usize = 1_024;

/// A datagram as the plan sees it.
#[derive(Clone, Copy)]
pub(super) struct Waiting<'a> {
    pub peer: SocketAddr,
    pub len: usize,
    /// Whether white space can be put in.
    pub is_paddable: bool,
    /// The call that it belongs to; may be empty.
    pub call: &'a [u8],
}

/// One send: a datagram, or a run of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shipment {
    /// Its datagrams are those named by this part of [`Plan::order`].
    from: u16,
    pub count: u16,
    /// What each datagram of a run is padded to; no meaning for a single one.
    pub len: u16,
}

/// How the datagrams of a turn leave.
pub(super) struct Plan {
    /// In the order in which they leave.
    pub shipments: Vec<Shipment>,
    /// Indices of datagrams.
    order: Vec<u16>,
    scratch: Scratch,
}

/// Where [`Plan::make`] works; empty between calls, kept for its memory.
struct Scratch {
    hasher: ahash::RandomState,
    /// Peers in the order in which they are met, each with a chain of its datagrams.
    peers: Vec<Chain>,
    /// Runs of the peer at hand.
    runs: Vec<Run>,
    /// The next datagram of the same peer, and of the same run.
    next_of_peer: [u16; PLAN_MAX],
    next_of_run: [u16; PLAN_MAX],
    /// Open addressing: index of a peer.
    peer_table: [u16; TABLE],
    /// Open addressing: hash of a call, and the last run that holds a message of it. One hash for two calls only keeps more order.
    call_table: [(u64, u16); TABLE],
}

/// Twice the entries that there can be.
const TABLE: usize = 2 * PLAN_MAX;
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Chain {
    first: u16,
    last: u16,
    count: u16,
}

impl Chain {
    fn of(index: u16) -> Chain {
        Chain {
            first: index,
            last: index,
            count: 1,
        }
    }

    fn push(&mut self, index: u16, next: &mut [u16; PLAN_MAX]) {
        next[usize::from(self.last)] = index;
        self.last = index;
        self.count += 1;
    }
}

/// A run that is being gathered.
#[derive(Clone, Copy)]
struct Run {
    members: Chain,
    shortest: usize,
    longest: usize,
    /// The length of members that can't be padded.
    fixed: Option<usize>,
}

impl Run {
    fn of(index: u16, waiting: &Waiting<'_>) -> Run {
        Run {
            members: Chain::of(index),
            shortest: waiting.len,
            longest: waiting.len,
            fixed: (!waiting.is_paddable).then_some(waiting.len),
        }
    }

    /// The run with one more datagram; `None` where it does not fit.
    fn with(self, waiting: &Waiting<'_>) -> Option<Run> {
        let (shortest, longest) = (self.shortest.min(waiting.len), self.longest.max(waiting.len));
        let fixed = match self.fixed {
            None if !waiting.is_paddable => Some(waiting.len),
            fixed => fixed,
        };
        let count = usize::from(self.members.count) + 1;
        // To the kernel a length of 0 means no run.
        let fits = shortest > 0
            && longest - shortest <= PADDING_MAX
            && fixed.is_none_or(|fixed| fixed == longest)
            && (waiting.is_paddable || waiting.len == longest)
            && count <= RUN_DATAGRAMS_MAX
            && count * longest <= RUN_BYTES_MAX
            && longest <= payload_max(waiting.peer.ip());
        fits.then_some(Run {
            shortest,
            longest,
            fixed,
            ..self
        })
    }
}

/// The longest datagram of a run toward `ip`. The loopback interface takes what IP takes; of other ways an Ethernet's 1,500
/// bytes are assumed, and a peer behind a narrower one is found by its error ([`Refusals`]).
fn payload_max(ip: IpAddr) -> usize {
    match ip.to_canonical() {
        ip if ip.is_loopback() => RUN_BYTES_MAX,
        IpAddr::V4(_) => PAYLOAD_MAX_V4,
        IpAddr::V6(_) => PAYLOAD_MAX_V6,
    }
}

impl Plan {
    pub(super) fn new() -> Plan {
        Plan {
            shipments: Vec::with_capacity(PLAN_MAX),
            order: Vec::with_capacity(PLAN_MAX),
            scratch: Scratch {
                hasher: ahash::RandomState::new(),
                peers: Vec::with_capacity(PLAN_MAX),
                runs: Vec::with_capacity(PLAN_MAX),
                next_of_peer: [NONE; PLAN_MAX],
                next_of_run: [NONE; PLAN_MAX],
                peer_table: [NONE; TABLE],
                call_table: [(0, NONE); TABLE],
            },
        }
    }

    /// Every datagram for itself, in the order in which they were queued.
    pub(super) fn singly(&mut self, count: usize) {
        self.clear();
        for index in 0..count.min(PLAN_MAX) as u16 {
            self.push_single(index);
        }
    }

    /// Plans datagrams `0..count`, of which there are at most [`PLAN_MAX`].
    pub(super) fn make<'a>(
        &mut self,
        count: usize,
        waiting: impl Fn(usize) -> Waiting<'a>,
        refusals: &Refusals,
    ) {
        self.clear();
        let count = count.min(PLAN_MAX);
        let mask = (2 * count).next_power_of_two().min(TABLE) - 1;
        let scratch = &mut self.scratch;
        scratch.peers.clear();
        scratch.peer_table[..=mask].fill(NONE);
        let peer_of = |index: u16| waiting(usize::from(index)).peer;
        for index in 0..count as u16 {
            let peer = peer_of(index);
            let mut place = scratch.hasher.hash_one(peer) as usize & mask;
            loop {
                let found = scratch.peer_table[place];
                match scratch.peers.get_mut(usize::from(found)) {
                    None => {
                        scratch.peer_table[place] = scratch.peers.len() as u16;
                        scratch.peers.push(Chain::of(index));
                        break;
                    }
                    Some(chain) if peer_of(chain.first) == peer => {
                        chain.push(index, &mut scratch.next_of_peer);
                        break;
                    }
                    Some(_) => place = (place + 1) & mask,
                }
            }
        }
        for index in 0..self.scratch.peers.len() {
            let chain = self.scratch.peers[index];
            if chain.count > 1 && refusals.allow(&peer_of(chain.first)) {
                self.gather(chain, &waiting);
            } else {
                let mut at = chain.first;
                for _ in 0..chain.count {
                    self.push_single(at);
                    at = self.scratch.next_of_peer[usize::from(at)];
                }
            }
        }
    }

    /// Shares what waits for one peer out to runs.
    fn gather<'a>(&mut self, chain: Chain, waiting: &impl Fn(usize) -> Waiting<'a>) {
        let Scratch {
            hasher,
            runs,
            next_of_peer,
            next_of_run,
            call_table,
            ..
        } = &mut self.scratch;
        runs.clear();
        let mask = (2 * usize::from(chain.count)).next_power_of_two().min(TABLE) - 1;
        call_table[..=mask].fill((0, NONE));
        let mut index = chain.first;
        for _ in 0..chain.count {
            let this = waiting(usize::from(index));
            let call = hasher.hash_one(this.call);
            let mut place = call as usize & mask;
            while call_table[place].1 != NONE && call_table[place].0 != call {
                place = (place + 1) & mask;
            }
            let behind = match call_table[place].1 {
                NONE => 0,
                run => usize::from(run),
            };
            let oldest = behind.max(runs.len().saturating_sub(OPEN_RUNS_MAX));
            let joined = (oldest..runs.len()).find_map(|at| Some((at, runs[at].with(&this)?)));
            let at = match joined {
                Some((at, run)) => {
                    runs[at] = run;
                    runs[at].members.push(index, next_of_run);
                    at
                }
                None => {
                    runs.push(Run::of(index, &this));
                    runs.len() - 1
                }
            };
            call_table[place] = (call, at as u16);
            index = next_of_peer[usize::from(index)];
        }
        for run in runs {
            self.shipments.push(Shipment {
                from: self.order.len() as u16,
                count: run.members.count,
                // A single datagram may be longer than any run's; its length is not asked for.
                len: run.longest as u16,
            });
            let mut at = run.members.first;
            for _ in 0..run.members.count {
                self.order.push(at);
                at = next_of_run[usize::from(at)];
            }
        }
    }

    fn clear(&mut self) {
        self.shipments.clear();
        self.order.clear();
    }

    fn push_single(&mut self, index: u16) {
        self.shipments.push(Shipment {
            from: self.order.len() as u16,
            count: 1,
            len: 0,
        });
        self.order.push(index);
    }

    /// The datagrams of a shipment, in the order in which they leave.
    pub(super) fn datagrams(&self, shipment: Shipment) -> impl ExactSizeIterator<Item = usize> + '_ {
        let from = usize::from(shipment.from);
        self.order[from..from + usize::from(shipment.count)]
            .iter()
            .map(|&index| usize::from(index))
    }

    /// Puts the datagrams of the run at `at` in its place, each for itself.
    pub(super) fn split(&mut self, at: usize) {
        let run = self.shipments[at];
        let singles = (run.from..run.from + run.count).map(|from| Shipment {
            from,
            count: 1,
            len: 0,
        });
        self.shipments.splice(at..=at, singles);
    }
}

/// Peers that can't be sent runs: the kernel said so about the way to them, which it does not for a single datagram.
#[derive(Default)]
pub(super) struct Refusals {
    peers: HashSet<SocketAddr>,
}

impl Refusals {
    /// Notes what a run toward `peer` failed with. `true`: it is about runs, and `peer` is sent none any more.
    pub(super) fn note(&mut self, peer: SocketAddr, error: &io::Error) -> bool {
        let is_refusal = matches!(
            error.raw_os_error(),
            // No checksums by the device, or a tunnel in the way; a segment above the MTU, as older and as newer kernels put it; no
            // UDP_SEGMENT after all.
            Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
        );
        // A Via may name port 0, to which the kernel sends nothing, and says EINVAL: it is of no way out of here.
        let is_place = peer.port() != 0;
        is_refusal && is_place && self.peers.len() < REFUSED_PEERS_MAX && self.peers.insert(peer)
    }

    fn allow(&self, peer: &SocketAddr) -> bool {
        self.peers.is_empty() || (self.peers.len() < REFUSED_PEERS_MAX && !self.peers.contains(peer))
    }
}

#[cfg(test)]
mod tests;
