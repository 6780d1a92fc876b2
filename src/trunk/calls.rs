//! The calls that a shard has brought to trunks: counted from the INVITE to the failure, the end of the BYE, or the longest time
//! that a call may last.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ahash::RandomState;

use crate::config::Config;
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::timer::{Timer, TimerId, TimerKind, Wheel};

use super::board::{DestinationState, TrunkState};
use super::{DestinationId, Entry, Refusal, Trunks};

pub struct Call {
    /// Which INVITE, BYE or failure is of this call: the digest of its Call-ID and its caller's tag.
    digest: u64,
    /// The digest of the tag of who has answered: a BYE names both.
    callee_tag: Option<u64>,
    trunk: Arc<TrunkState>,
    destination: Option<Arc<DestinationState>>,
    timer: TimerId,
}

pub struct Calls {
    slots: Slots<Call>,
    by_digest: HashMap<u64, Id<Call>, RandomState>,
}

impl Calls {
    pub fn new(calls_max: usize, hasher: RandomState) -> Calls {
        Calls {
            slots: Slots::new(calls_max),
            by_digest: HashMap::with_hasher(hasher),
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    fn remove(&mut self, id: Id<Call>) -> Option<Call> {
        let call = self.slots.remove(id)?;
        self.by_digest.remove(&call.digest);
        call.trunk.release();
        if let Some(destination) = &call.destination {
            destination.release();
        }
        Some(call)
    }
}

impl Trunks {
    /// An INVITE outside any dialog is for the trunk at `index`: counts its call, if the limits let it. The same call again (with
    /// credentials now, say) counts once.
    pub fn begin_call(
        &mut self,
        cfg: &Config,
        wheel: &mut Wheel<Timer>,
        index: usize,
        digest: u64,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.calls.by_digest.contains_key(&digest) {
            return Ok(());
        }
        let (Some(settings), Some(trunk)) = (cfg.trunks.get(index), self.board.trunks.get(index)) else {
            return Err(Refusal::Gone);
        };
        if !trunk.admit(settings, now) {
            trunk.calls_over_limit.fetch_add(1, Relaxed);
            return Err(Refusal::Full);
        }
        let trunk = trunk.clone();
        let next = self.calls.slots.next_id();
        let timer = wheel.insert(
            now + cfg.limits.call_duration_max,
            Timer {
                kind: TimerKind::TrunkCall,
                slot: next.slot,
                generation: next.generation,
            },
        );
        let call = Call {
            digest,
            callee_tag: None,
            trunk: trunk.clone(),
            destination: None,
            timer,
        };
        match self.calls.slots.insert(call) {
            Some(id) => {
                self.calls.by_digest.insert(digest, id);
                Ok(())
            }
            None => {
                wheel.cancel(timer);
                trunk.release();
                trunk.calls_over_limit.fetch_add(1, Relaxed);
                Err(Refusal::Full)
            }
        }
    }

    /// Whether a request may be sent to a destination: for a call that is counted, its place there.
    pub fn enter(&mut self, cfg: &Config, id: DestinationId, digest: u64, now: Instant) -> Entry {
        let drawn = self.random.next_u64();
        let (Some(state), Some(own)) = (self.state(id).cloned(), self.get(id)) else {
            return Entry::Sent;
        };
        let Some(limits) = cfg
            .trunks
            .get(usize::from(own.trunk))
            .and_then(|trunk| trunk.destinations.get(usize::from(own.place)))
        else {
            return Entry::Sent;
        };
        if !state.throttle.admits(drawn, now) {
            state.calls_throttled.fetch_add(1, Relaxed);
            return Entry::Throttled;
        }
        let Some(call) = self.calls.by_digest.get(&digest).copied() else {
            return Entry::Sent;
        };
        let Some(call) = self.calls.slots.get_mut(call) else {
            return Entry::Sent;
        };
        if call
            .destination
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(before, &state))
        {
            // Another address of the same destination.
            return Entry::Sent;
        }
        if !state.admit(limits.calls_max, limits.calls_per_second_max, now) {
            state.calls_over_limit.fetch_add(1, Relaxed);
            return Entry::Full;
        }
        match call.destination.replace(state.clone()) {
            Some(before) => before.release(),
            None => _ = call.trunk.calls_started.fetch_add(1, Relaxed),
        }
        state.calls_started.fetch_add(1, Relaxed);
        Entry::Sent
    }

    /// A call that is counted was answered. A further 2xx is that of another phone: the first is the call.
    pub fn call_answered(&mut self, digest: u64, callee_tag: u64) {
        let id = self.calls.by_digest.get(&digest).copied();
        if let Some(call) = id.and_then(|id| self.calls.slots.get_mut(id)) {
            call.callee_tag.get_or_insert(callee_tag);
        }
    }

    /// Whether there is such a call, between its caller and whom this tag is of.
    pub fn is_call_with(&self, digest: u64, callee_tag: u64) -> bool {
        let id = self.calls.by_digest.get(&digest).copied();
        id.and_then(|id| self.calls.slots.get(id))
            .is_some_and(|call| call.callee_tag == Some(callee_tag))
    }

    /// Where a call that is counted went, of the trunk at `index`: what comes of it later goes to no other.
    pub(super) fn destination_of(&self, index: usize, digest: u64) -> Option<DestinationId> {
        let call = self.calls.slots.get(*self.calls.by_digest.get(&digest)?)?;
        let (there, trunk) = (call.destination.as_ref()?, self.board.trunks.get(index)?);
        let place = trunk
            .destinations
            .iter()
            .position(|state| Arc::ptr_eq(state, there))?;
        Some(DestinationId {
            index: *self.first.get(index)? + place as u16,
            generation: self.generation,
        })
    }

    /// The call has failed, or ended.
    pub fn end_call(&mut self, wheel: &mut Wheel<Timer>, digest: u64) {
        let Some(id) = self.calls.by_digest.get(&digest).copied() else {
            return;
        };
        if let Some(call) = self.calls.remove(id) {
            wheel.cancel(call.timer);
        }
    }

    /// A call has lasted for as long as one may: nobody saw its BYE.
    pub fn on_call_timer(&mut self, timer: Timer) {
        self.calls.remove(Id::new(timer.slot, timer.generation));
    }

    /// The server stops.
    pub fn forget_calls(&mut self, wheel: &mut Wheel<Timer>) {
        for slot in 0..self.calls.slots.slots() {
            if let Some(call) = self.calls.slots.id_at(slot).and_then(|id| self.calls.remove(id)) {
                wheel.cancel(call.timer);
            }
        }
    }
}
