//! Trunks: servers that stand for one another. Which of them a request goes to, which come next when it fails, and how many
//! calls each may have.
//!
//! [`select`] orders the destinations for one call, [`health`] tells by their OPTIONS whether they are up ([`ping`] sends
//! these), [`overload`] obeys those that ask for less, [`board`] is what all shards share. [`Trunks`] is what one shard has
//! beside that: the addresses, which it asks DNS for by itself, and the calls that it counts. Choosing allocates nothing.

pub mod board;
mod calls;
pub mod health;
pub mod overload;
pub mod ping;
mod rate;
pub mod select;
pub mod standing;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ahash::RandomState;

use crate::config::Config;
use crate::config::trunk::DESTINATIONS_MAX;
use crate::dns::order::Random;
use crate::dns::plan::{Target, Targets, Wanted};
use crate::dns::{Asker, Resolved, Resolver};
use crate::msg::uri::Uri;
use crate::time::Instant;
use crate::timer::{Timer, TimerId, TimerKind, Wheel};
use crate::wire::{ShardId, Transport};

use board::{Board, DestinationState, TrunkState, Usable};
use calls::Calls;
use health::Health;
use select::{Candidate, Draw, Order, order, stable_hash};
use standing::Outcome;

/// Names a destination of any trunk, until the configuration changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DestinationId {
    pub index: u16,
    pub generation: u32,
}

/// One address of a destination.
#[derive(Clone, Debug)]
pub struct Hop {
    pub target: Target,
    /// The same as a URI.
    pub uri: Box<str>,
}

/// A destination as one shard has it.
struct Destination {
    trunk: u16,
    /// Its place in the trunk.
    place: u8,
    wanted: Option<Wanted>,
    /// In the order in which they are tried.
    hops: Vec<Hop>,
    ping: ping::State,
    health: Health,
    ping_timer: Option<TimerId>,
    address_timer: Option<TimerId>,
    /// This shard sends its OPTIONS and tells its addresses.
    is_ours: bool,
}

/// Why a request can't go over a trunk now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such trunk: the configuration has changed.
    Gone,
    /// `calls_max` or `calls_per_second_max` of the trunk.
    Full,
    /// Every destination is down, closed or without an address.
    NoDestination,
}

impl Refusal {
    pub const fn reason(self) -> &'static str {
        match self {
            Refusal::Gone => "Trunk Gone",
            Refusal::Full => "Trunk Full",
            Refusal::NoDestination => "No Destination Up",
        }
    }
}

/// What became of one destination's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Sent,
    /// One of its own limits.
    Full,
    /// It asks for less: RFC 7339 §5.5.
    Throttled,
}

/// Shortest time until an address is asked for again.
const REFRESH_MIN: Duration = Duration::from_secs(5);

/// The trunks of one shard.
pub struct Trunks {
    board: Arc<Board>,
    /// Those of all trunks, one trunk after the other.
    destinations: Vec<Destination>,
    /// Where each trunk's destinations begin.
    first: Vec<u16>,
    generation: u32,
    calls: Calls,
    random: Random,
}

impl Trunks {
    /// `seed` decides among equals.
    pub fn new(cfg: &Config, board: Arc<Board>, hasher: RandomState, seed: u64) -> Trunks {
        let mut trunks = Trunks {
            board: Arc::default(),
            destinations: Vec::new(),
            first: Vec::new(),
            generation: 0,
            calls: Calls::new(cfg.limits.calls_max.div_ceil(cfg.shards), hasher),
            random: Random::new(seed),
        };
        trunks.load(cfg, board);
        trunks
    }

    /// Takes another configuration over. Calls that are counted end where they began.
    pub fn load(&mut self, cfg: &Config, board: Arc<Board>) {
        self.board = board;
        self.generation = self.generation.wrapping_add(1);
        self.destinations.clear();
        self.first.clear();
        for (trunk, settings) in cfg.trunks.iter().enumerate() {
            self.first.push(self.destinations.len() as u16);
            for (place, destination) in settings.destinations.iter().enumerate() {
                let uri = Uri::parse(destination.uri.as_bytes()).ok();
                let state = (self.board.trunks.get(trunk)).and_then(|trunk| trunk.destinations.get(place));
                self.destinations.push(Destination {
                    trunk: trunk as u16,
                    place: place as u8,
                    wanted: uri.and_then(|uri| Wanted::of_uri(&uri).ok()),
                    hops: Vec::new(),
                    ping: ping::State::Due,
                    // What was known of it before goes on.
                    health: Health::new(state.is_some_and(|state| state.known.is_down())),
                    ping_timer: None,
                    address_timer: None,
                    is_ours: false,
                });
            }
        }
    }

    /// Goes by the trunks of another configuration from now on, which [`Trunks::start`] then begins. What is under way is answered as it was
    /// asked: ids of before find nothing any more.
    pub fn reload(&mut self, cfg: &Config, board: Arc<Board>, wheel: &mut Wheel<Timer>) {
        self.forget_timers(wheel);
        self.load(cfg, board);
    }

    /// Forgets calls and timers: the server stops.
    pub fn clear(&mut self, wheel: &mut Wheel<Timer>) {
        self.forget_calls(wheel);
        self.forget_timers(wheel);
    }

    fn forget_timers(&mut self, wheel: &mut Wheel<Timer>) {
        for destination in &mut self.destinations {
            let timers = [destination.ping_timer.take(), destination.address_timer.take()];
            for timer in timers.into_iter().flatten() {
                wheel.cancel(timer);
            }
        }
    }

    /// Calls that are counted now.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    fn state(&self, id: DestinationId) -> Option<&Arc<DestinationState>> {
        let destination = self.get(id)?;
        let trunk = self.board.trunks.get(usize::from(destination.trunk))?;
        trunk.destinations.get(usize::from(destination.place))
    }

    fn trunk_of(&self, id: DestinationId) -> Option<&Arc<TrunkState>> {
        self.board.trunks.get(usize::from(self.get(id)?.trunk))
    }

    fn get(&self, id: DestinationId) -> Option<&Destination> {
        let is_current = id.generation == self.generation;
        is_current
            .then(|| self.destinations.get(usize::from(id.index)))
            .flatten()
    }

    fn get_mut(&mut self, id: DestinationId) -> Option<&mut Destination> {
        let is_current = id.generation == self.generation;
        is_current
            .then(|| self.destinations.get_mut(usize::from(id.index)))
            .flatten()
    }

    // ---- Addresses -------------------------------------------------------------------------------------------------

    /// Has every destination's addresses looked up, and the OPTIONS begun that this shard sends.
    pub fn start(
        &mut self,
        cfg: &Config,
        dns: &mut Resolver,
        wheel: &mut Wheel<Timer>,
        (shard, shards): (ShardId, usize),
        now: Instant,
    ) {
        for index in 0..self.destinations.len() {
            let id = DestinationId {
                index: index as u16,
                generation: self.generation,
            };
            // One shard for each destination: it would otherwise get an OPTIONS from every one.
            let is_ours = index % shards == usize::from(shard.0);
            self.destinations[index].is_ours = is_ours;
            self.look_up(id, dns, wheel, now);
            let trunk = usize::from(self.destinations[index].trunk);
            let interval = cfg
                .trunks
                .get(trunk)
                .map_or(Duration::ZERO, |trunk| trunk.ping_interval);
            if !interval.is_zero() && is_ours {
                // Spread over the first second, or over the interval where that is shorter.
                let spread = interval.min(Duration::from_secs(1));
                let at = now + spread.mul_f64(self.random.up_to(999).into()) / 1_000;
                self.destinations[index].ping_timer = Some(wheel.insert(at, timer(TimerKind::Ping, id)));
            }
        }
    }

    /// The addresses of a destination hold no longer, or DNS is to be tried again.
    pub fn on_address_timer(
        &mut self,
        timer: Timer,
        dns: &mut Resolver,
        wheel: &mut Wheel<Timer>,
        now: Instant,
    ) {
        let id = DestinationId {
            index: timer.slot as u16,
            generation: timer.generation,
        };
        self.look_up(id, dns, wheel, now);
    }

    fn look_up(&mut self, id: DestinationId, dns: &mut Resolver, wheel: &mut Wheel<Timer>, now: Instant) {
        let Some(wanted) = self.get(id).and_then(|destination| destination.wanted) else {
            return;
        };
        let asker = Asker::Destination {
            index: id.index,
            generation: id.generation,
        };
        let seed = self.random.next_u64();
        let mut targets = Targets::default();
        match dns.resolve(wheel, &wanted, asker, seed, now, &mut targets) {
            Resolved::Waiting(_) => {}
            resolved @ (Resolved::Targets | Resolved::NoAddress | Resolved::Failed | Resolved::Full) => {
                self.resolved(id, resolved, &targets, dns, wheel, now);
            }
        }
    }

    /// What came of the look-up of a destination. Without an answer its addresses stay as they were.
    pub fn resolved(
        &mut self,
        id: DestinationId,
        resolved: Resolved,
        targets: &Targets,
        dns: &Resolver,
        wheel: &mut Wheel<Timer>,
        now: Instant,
    ) {
        let Some(destination) = self.get_mut(id) else {
            return;
        };
        let names_transport = destination
            .wanted
            .is_some_and(|wanted| wanted.transport.is_some());
        let is_fixed = match resolved {
            Resolved::Targets => {
                let is_same = destination.hops.len() == targets.len()
                    && destination
                        .hops
                        .iter()
                        .zip(targets.iter())
                        .all(|(hop, target)| hop.target == target);
                if !is_same {
                    destination.hops = targets
                        .iter()
                        .map(|target| hop(target, names_transport))
                        .collect();
                    self.tell_addresses(id);
                }
                false
            }
            Resolved::NoAddress => {
                destination.hops.clear();
                self.tell_addresses(id);
                false
            }
            Resolved::Failed | Resolved::Full => false,
            Resolved::Waiting(_) => true,
        };
        let until = self
            .get(id)
            .and_then(|destination| destination.wanted)
            .and_then(|wanted| dns.holds_until(&wanted, now));
        // An address, or a name of the table of hosts, holds for good.
        let soon = now + REFRESH_MIN;
        let at = match until {
            Some(until) if !is_fixed => Some(until.max(soon)),
            None if resolved == Resolved::Full => Some(soon),
            Some(_) | None => None,
        };
        if let (Some(at), Some(destination)) = (at, self.get_mut(id)) {
            destination.address_timer = Some(wheel.insert(at, timer(TimerKind::Address, id)));
        }
    }

    /// The addresses have changed: whoever looks at the board sees those of one shard.
    fn tell_addresses(&self, id: DestinationId) {
        if let (Some(destination), Some(state)) = (self.get(id), self.state(id))
            && destination.is_ours
        {
            state
                .known
                .set_addresses(destination.hops.iter().map(|hop| hop.target));
        }
    }

    // ---- Choosing --------------------------------------------------------------------------------------------------

    /// The addresses of the destination that the call with this digest went to, in the order in which they are tried; none where it is no call
    /// of the trunk at `index`.
    pub fn hops_of_call(&self, index: usize, digest: u64) -> Option<(DestinationId, &[Hop])> {
        let id = self.destination_of(index, digest)?;
        let hops = &self.get(id)?.hops;
        (!hops.is_empty()).then_some((id, hops.as_slice()))
    }

    /// The order in which the destinations of the trunk at `index` are tried for a call, or why there is none. `each` is given
    /// the addresses one after another.
    pub fn choose(
        &mut self,
        cfg: &Config,
        index: usize,
        call_id: &[u8],
        now: Instant,
        mut each: impl FnMut(DestinationId, &Hop),
    ) -> Result<(), Refusal> {
        let (Some(settings), Some(state)) = (cfg.trunks.get(index), self.board.trunks.get(index)) else {
            return Err(Refusal::Gone);
        };
        let first = usize::from(*self.first.get(index).ok_or(Refusal::Gone)?);
        let mut candidates = [Candidate {
            index: 0,
            priority: 0,
            weight: 0,
            is_suspect: false,
            calls: 0,
            key: 0,
        }; DESTINATIONS_MAX];
        let mut len = 0;
        for (place, (destination, known)) in settings.destinations.iter().zip(&state.destinations).enumerate()
        {
            let usable = known.usable(now);
            let has_address = self
                .destinations
                .get(first + place)
                .is_some_and(|own| !own.hops.is_empty());
            if usable == Usable::No || !has_address || len == DESTINATIONS_MAX {
                continue;
            }
            candidates[len] = Candidate {
                index: place as u8,
                priority: destination.priority,
                weight: destination.weight,
                is_suspect: usable == Usable::Suspect,
                calls: known.calls.load(Relaxed),
                key: known.key,
            };
            len += 1;
        }
        let draw = Draw {
            select: settings.select,
            turn: state.next_turn(),
            call: stable_hash(call_id),
            random: Random::new(self.random.next_u64()),
        };
        let order: Order = order(&mut candidates[..len], draw);
        if order.is_empty() {
            state.calls_without_destination.fetch_add(1, Relaxed);
            return Err(Refusal::NoDestination);
        }
        for place in order.iter() {
            let id = DestinationId {
                index: (first + place) as u16,
                generation: self.generation,
            };
            for hop in &self.destinations[first + place].hops {
                each(id, hop);
            }
        }
        Ok(())
    }

    /// The place of the trunk of this name.
    pub fn index_of(cfg: &Config, name: &str) -> Option<usize> {
        cfg.trunks.iter().position(|trunk| trunk.name == name)
    }

    // ---- What comes of it ------------------------------------------------------------------------------------------

    /// It has answered, whatever it says.
    pub fn heard(&self, id: DestinationId, now: Instant) {
        if let Some(state) = self.state(id) {
            state.known.trust(now);
        }
    }

    /// It said how much it wants to be sent: RFC 7339.
    pub fn feedback(&self, id: DestinationId, feedback: overload::Feedback, now: Instant) {
        if let Some(state) = self.state(id) {
            state.throttle.hear(feedback, now);
        }
    }

    /// It kept silent for too long, or there was no way to it.
    pub fn failed(&self, cfg: &Config, id: DestinationId, outcome: Outcome, now: Instant) {
        let (Some(state), Some(destination)) = (self.state(id), self.get(id)) else {
            return;
        };
        state.calls_failed.fetch_add(1, Relaxed);
        state.known.call_failed(outcome);
        if let Some(trunk) = cfg.trunks.get(usize::from(destination.trunk)) {
            state.known.suspect(now + trunk.hold_down, now);
        }
    }

    /// It gave a final response, after which the next destination is tried if it `fails_over`. `retry_after`: of a 503.
    pub fn answered(
        &self,
        id: DestinationId,
        status: u16,
        fails_over: bool,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        let Some(state) = self.state(id) else { return };
        state.known.trust(now);
        // RFC 3261 §21.5.4: who says so is left alone for that time.
        if let (503, Some(retry_after)) = (status, retry_after) {
            state.known.close(retry_after, now);
        }
        if fails_over {
            state.calls_failed.fetch_add(1, Relaxed);
            state.known.call_failed(Outcome::Status(status));
        }
    }

    /// Another destination is tried.
    pub fn failed_over(&self, id: DestinationId) {
        if let Some(trunk) = self.trunk_of(id) {
            trunk.failovers.fetch_add(1, Relaxed);
        }
    }

    /// Whether requests to this destination offer overload control.
    pub fn offers_overload_control(&self, cfg: &Config, id: DestinationId) -> bool {
        self.get(id)
            .and_then(|destination| cfg.trunks.get(usize::from(destination.trunk)))
            .is_some_and(|trunk| trunk.overload_control)
    }
}

/// `names_transport`: the destination was configured with its transport, which then holds for large requests too.
fn hop(target: Target, names_transport: bool) -> Hop {
    let addr = target.addr;
    let uri = match target.transport {
        Transport::Udp if names_transport => format!("sip:{addr};transport=udp"),
        Transport::Udp => format!("sip:{addr}"),
        Transport::Tcp => format!("sip:{addr};transport=tcp"),
    };
    Hop {
        target,
        uri: uri.into_boxed_str(),
    }
}

fn timer(kind: TimerKind, id: DestinationId) -> Timer {
    Timer {
        kind,
        slot: u32::from(id.index),
        generation: id.generation,
    }
}
