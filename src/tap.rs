//! Which messages of a shard are told to the control thread: those of traces that go on. A trace follows whole calls: once a message
//! matches, everything with its Call-ID does, and so do the legs that the B2BUA gives the call.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use ahash::RandomState;

use crate::capture::{Filter, TRACES_MAX, TraceSet, TraceSlot};
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::scan::{Message, Start};
use crate::msg::uri::Uri;

/// Call-IDs that are followed at a time; the oldest is forgotten for one more.
const FOLLOWED_MAX: usize = 16_384;
/// Bytes of what is kept of them. A Call-ID may be nearly as long as a message: the oldest are forgotten for long ones, too.
const FOLLOWED_BYTES_MAX: usize = 4 << 20;

/// The traces of one shard. There is none while nobody wants to see anything.
pub struct Tap {
    filters: [Option<Filter>; TRACES_MAX],
    hasher: RandomState,
    /// By the hash of a Call-ID.
    followed: HashMap<u64, Followed, RandomState>,
    /// In the order in which they came.
    oldest: VecDeque<u64>,
    /// Of all [`Followed::call`].
    call_bytes: usize,
    /// A message with what ties it to its call, on its way to the control thread.
    pub scratch: Vec<u8>,
}

struct Followed {
    traces: TraceSet,
    /// The Call-ID of the caller's leg, by which all legs of a call go together.
    call: Box<[u8]>,
}

impl Tap {
    pub fn new(keys: [u64; 4]) -> Tap {
        let [a, b, c, d] = keys;
        let hasher = RandomState::with_seeds(a, b, c, d);
        Tap {
            filters: Default::default(),
            followed: HashMap::with_hasher(hasher.clone()),
            hasher,
            oldest: VecDeque::new(),
            call_bytes: 0,
            scratch: Vec::new(),
        }
    }

    pub fn begin(&mut self, slot: TraceSlot, filter: Filter) {
        self.end(slot);
        if let Some(place) = self.filters.get_mut(usize::from(slot.0)) {
            *place = Some(filter);
        }
    }

    /// `true`: no trace is left.
    pub fn end(&mut self, slot: TraceSlot) -> bool {
        if let Some(place) = self.filters.get_mut(usize::from(slot.0)) {
            *place = None;
        }
        for followed in self.followed.values_mut() {
            followed.traces.remove(slot);
        }
        self.filters.iter().all(Option::is_none)
    }

    /// Which traces a message of the call is of, and the Call-ID that the call goes by.
    pub fn traces_of(&self, call_id: &[u8]) -> Option<(TraceSet, &[u8])> {
        let followed = self.followed.get(&self.hasher.hash_one(call_id))?;
        (!followed.traces.is_empty()).then_some((followed.traces, &followed.call))
    }

    /// Follows the call of a received message from here on, if a trace is of it. `is_leg`: its Call-ID is one of ours, which
    /// no sample counts.
    pub fn look_at(&mut self, msg: &Message<'_>, call_id: &[u8], peer: SocketAddr, is_leg: bool) {
        let mut traces = TraceSet::default();
        for (index, filter) in self.filters.iter().enumerate() {
            let matches = match filter {
                None => false,
                Some(Filter::CallId(wanted)) => wanted.as_bytes() == call_id,
                Some(Filter::Peer { ip, port }) => {
                    peer.ip().to_canonical() == *ip && port.is_none_or(|port| port == peer.port())
                }
                Some(Filter::Aor { user, host }) => names(msg, user, host.as_deref()),
                Some(Filter::Sample { per_myriad }) => !is_leg && sample_of(call_id) < u64::from(*per_myriad),
            };
            if matches {
                traces.add(TraceSet::of(TraceSlot(index as u8)));
            }
        }
        if !traces.is_empty() {
            self.follow(call_id, traces, None);
        }
    }

    /// Follows the call of a message of our own on its way to `peer`, if a trace is of everything there.
    pub fn look_at_sent(&mut self, call_id: &[u8], to: SocketAddr) {
        let mut traces = TraceSet::default();
        for (index, filter) in self.filters.iter().enumerate() {
            if let Some(Filter::Peer { ip, port }) = filter
                && to.ip().to_canonical() == *ip
                && port.is_none_or(|port| port == to.port())
            {
                traces.add(TraceSet::of(TraceSlot(index as u8)));
            }
        }
        if !traces.is_empty() && !call_id.is_empty() {
            self.follow(call_id, traces, None);
        }
    }

    /// A leg of a call has a Call-ID of its own.
    pub fn link(&mut self, call_id: &[u8], leg_call_id: &[u8]) {
        if let Some((traces, call)) = self.traces_of(call_id) {
            let call = Box::from(call);
            self.follow(leg_call_id, traces, Some(call));
            return;
        }
        // The trace is of the leg alone: its call joins.
        if self
            .filters
            .iter()
            .flatten()
            .any(|filter| matches!(filter, Filter::CallId(wanted) if wanted.as_bytes() == leg_call_id))
        {
            self.follow_named(leg_call_id, call_id);
        }
    }

    fn follow_named(&mut self, leg_call_id: &[u8], call_id: &[u8]) {
        let mut traces = TraceSet::default();
        for (index, filter) in self.filters.iter().enumerate() {
            if matches!(filter, Some(Filter::CallId(wanted)) if wanted.as_bytes() == leg_call_id) {
                traces.add(TraceSet::of(TraceSlot(index as u8)));
            }
        }
        self.follow(call_id, traces, None);
        self.follow(leg_call_id, traces, Some(call_id.into()));
    }

    fn follow(&mut self, call_id: &[u8], traces: TraceSet, call: Option<Box<[u8]>>) {
        let hash = self.hasher.hash_one(call_id);
        if let Some(followed) = self.followed.get_mut(&hash) {
            followed.traces.add(traces);
            return;
        }
        let call = call.unwrap_or_else(|| call_id.into());
        while (self.oldest.len() >= FOLLOWED_MAX || self.call_bytes + call.len() > FOLLOWED_BYTES_MAX)
            && let Some(oldest) = self.oldest.pop_front()
        {
            let gone = self.followed.remove(&oldest);
            self.call_bytes -= gone.map_or(0, |gone| gone.call.len());
        }
        self.oldest.push_back(hash);
        self.call_bytes += call.len();
        self.followed.insert(hash, Followed { traces, call });
    }
}

/// Where a Call-ID stands among 10,000, the same in every shard and every process: so whole calls are sampled, on all servers.
fn sample_of(call_id: &[u8]) -> u64 {
    // FNV-1a.
    let hash = call_id.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of so simple a hash are its worst.
    (hash >> 32) % 10_000
}

fn names(msg: &Message<'_>, user: &str, host: Option<&str>) -> bool {
    let is_user = |uri: &Uri<'_>| {
        uri.user
            .is_some_and(|found| found.eq_ignore_ascii_case(user.as_bytes()))
            && host.is_none_or(|host| uri.host.eq_ignore_ascii_case(host.as_bytes()))
    };
    let is_target = match msg.start() {
        Start::Request { uri, .. } => Uri::parse(uri.of(msg.bytes)).is_ok_and(|uri| is_user(&uri)),
        Start::Response { .. } | Start::Unreadable => false,
    };
    is_target
        || [
            Name::From,
            Name::To,
            Name::PAssertedIdentity,
            Name::PPreferredIdentity,
        ]
        .into_iter()
        .any(|name| {
            msg.value(name)
                .and_then(|value| NameAddr::parse(value).ok())
                .and_then(|addr| addr.uri().ok())
                .is_some_and(|uri| is_user(&uri))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(filter: Filter) -> Tap {
        let mut tap = Tap::new([1, 2, 3, 4]);
        tap.begin(TraceSlot(0), filter);
        tap
    }

    #[test]
    fn a_call_is_followed_by_either_call_id() {
        for wanted in ["c1", "leg-1"] {
            let mut tap = tap(Filter::CallId(wanted.into()));
            if wanted == "c1" {
                tap.follow(b"c1", TraceSet(1), None);
            }
            tap.link(b"c1", b"leg-1");
            for call_id in ["c1", "leg-1"] {
                let (traces, call) = tap.traces_of(call_id.as_bytes()).expect("it is followed");
                assert!(traces.has(TraceSlot(0)));
                assert_eq!(call, b"c1");
            }
            assert!(tap.traces_of(b"c2").is_none());
            assert!(tap.end(TraceSlot(0)));
            assert!(tap.traces_of(b"c1").is_none());
        }
    }

    #[test]
    fn what_is_followed_is_bounded() {
        let mut tap = tap(Filter::Sample { per_myriad: 10_000 });
        for call in 0..FOLLOWED_MAX + 10 {
            tap.follow(format!("c{call}").as_bytes(), TraceSet(1), None);
        }
        assert_eq!(
            (tap.followed.len(), tap.oldest.len()),
            (FOLLOWED_MAX, FOLLOWED_MAX)
        );
        assert!(tap.traces_of(b"c9").is_none() && tap.traces_of(b"c10").is_some());
    }

    #[test]
    fn long_call_ids_are_followed_no_further_than_there_is_room() {
        let mut tap = tap(Filter::Sample { per_myriad: 10_000 });
        let long = |call: usize| format!("{call:060000}");
        for call in 0..200 {
            tap.follow(long(call).as_bytes(), TraceSet(1), None);
            let kept: usize = tap.followed.values().map(|followed| followed.call.len()).sum();
            assert!(kept <= FOLLOWED_BYTES_MAX, "{kept} bytes of {call} calls");
        }
        assert!(
            tap.traces_of(long(130).as_bytes()).is_none() && tap.traces_of(long(131).as_bytes()).is_some()
        );
        for call in 0..FOLLOWED_MAX {
            tap.follow(format!("c{call}").as_bytes(), TraceSet(1), None);
        }
        assert_eq!(tap.followed.len(), FOLLOWED_MAX, "what went gave its room back");
    }

    #[test]
    fn a_sample_takes_its_share() {
        let taken = (0..20_000)
            .filter(|call| sample_of(format!("{call}@192.0.2.{}", call % 250).as_bytes()) < 1_000)
            .count();
        assert!(
            (1_800..2_200).contains(&taken),
            "{taken} of 20,000 are not a tenth"
        );
    }
}
