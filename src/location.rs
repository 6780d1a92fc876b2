//! The location service of one shard: which contacts each subscriber has registered (RFC 3261 §10), and which it had.
//!
//! A subscriber without contacts stays known for a while, so that a caller hears 480 rather than 404; when the table is
//! full the one that has been offline longest makes room. Texts lie in buffers of the pool, everything else in two slabs,
//! and one timer a subscriber waits for the first of its bindings to expire, so a refresh allocates nothing and mostly
//! leaves the timer alone: it fires, looks again and sleeps on.

pub mod aor;
pub mod binding;
pub mod contact_set;
pub mod flows;
pub mod gruu;

use std::cmp::Reverse;
use std::time::Duration;

use crate::config::Config;
use crate::key_index::KeyIndex;
use crate::pool::Pool;
use crate::slots::{Id, SLOTS_MAX, Slots};
use crate::time::Instant;
use crate::timer::{Timer, TimerId, TimerKind, Wheel};
use crate::token::TokenKey;
use crate::wire::ConnId;

pub use aor::{Aor, AorError, AorHasher, AorKey, served_domain};
pub use binding::{Binding, BindingId, ContactEvent, Fresh, Plan, Text, seconds_left};
pub use contact_set::{Contact, ContactSet, Outcome};
pub use gruu::{Device, Gruus, Named};

use binding::{Change, EPOCH_TO_BEGIN};
use flows::Flows;

/// Who asks for the contacts of a subscriber; slot and generation mean something to that user alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// An exchange of a B2BUA.
    Exchange { slot: u32, generation: u32 },
    /// A response context of a proxy.
    Context { slot: u32, generation: u32 },
    /// A message that a proxy holds without a context.
    Held { slot: u32, generation: u32 },
}

/// Whom a transaction user needs to know of before it can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whom {
    Subscriber(AorKey),
    /// One device of a subscriber.
    Device(AorKey, Device),
    /// The phone on the other side of the dialog that the request names; where no such dialog is known, the subscriber `or`.
    Dialog {
        or: Option<Named>,
    },
}

impl From<Named> for Whom {
    fn from(named: Named) -> Whom {
        match named {
            Named::Subscriber(aor) => Whom::Subscriber(aor),
            Named::Device(aor, device) => Whom::Device(aor, device),
        }
    }
}

/// What a transaction user needs from outside the shard before it can go on: who is this?
#[derive(Clone, Copy, Debug)]
pub struct LookUp {
    pub whom: Whom,
    /// Whom to tell.
    pub asker: Asker,
}

pub type SubscriberId = Id<Subscriber>;

/// A subscriber who has contacts or had some.
pub struct Subscriber {
    key: AorKey,
    first: Option<BindingId>,
    bindings: u16,
    is_offline: bool,
    /// Neighbours in the order of going offline.
    older: Option<SubscriberId>,
    newer: Option<SubscriberId>,
    timer: Option<TimerId>,
    /// When `timer` fires: not after the first expiry among the bindings.
    timer_at: Instant,
}

/// A binding that is no more. Its text lives until [`Location::release_removed`].
#[derive(Debug)]
pub struct Removed {
    pub id: BindingId,
    pub binding: Binding,
    pub event: ContactEvent,
}

/// What [`Location::commit`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    pub added: usize,
    pub removed: usize,
    /// Whether anything but expiry times is different now.
    pub changed: bool,
}

/// Why nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitError {
    /// `limits.contacts_per_aor_max`.
    TooManyContacts,
    /// `limits.aors_max`, and nobody offline to make room.
    Full,
}

/// All subscribers of one shard. Whatever takes the place of something else needs no room, so what is counted against a limit is by how
/// much a table grows.
pub struct Location {
    subscribers: Slots<Subscriber>,
    /// As many as the limits for subscribers allow: that of the table is only what it takes room for.
    bindings: Slots<Binding>,
    by_aor: KeyIndex,
    oldest_offline: Option<SubscriberId>,
    newest_offline: Option<SubscriberId>,
    contacts_max: usize,
    offline_memory: Duration,
    removed: Vec<Removed>,
    /// The last epoch of a device that was begun.
    last_epoch: u32,
    flows: Flows,
    /// For the registrar, empty between requests.
    pub(crate) plan: Plan,
}

/// Subscribers of one shard, and contacts of each.
fn limits_of(cfg: &Config) -> (usize, usize) {
    let aors_max = cfg.limits.aors_max.div_ceil(cfg.shards);
    let contacts_max = cfg.limits.contacts_per_aor_max.min(usize::from(u16::MAX));
    (aors_max, contacts_max)
}

impl Location {
    /// The share of one shard of the limits in `cfg`.
    pub fn new(cfg: &Config) -> Location {
        let (aors_max, contacts_max) = limits_of(cfg);
        Location {
            subscribers: Slots::new(aors_max),
            bindings: Slots::new(aors_max.saturating_mul(contacts_max)),
            by_aor: KeyIndex::new(aors_max),
            oldest_offline: None,
            newest_offline: None,
            contacts_max,
            offline_memory: cfg.registrar.offline_memory,
            removed: Vec::new(),
            last_epoch: 0,
            flows: Flows::default(),
            plan: Plan::default(),
        }
    }

    /// Has the system provide the memory that the first registrations would wait for. Before the first of them.
    pub fn make_ready(&mut self) {
        self.by_aor.make_ready();
    }

    /// The limits in `cfg` from now on; what is beyond them stays until it goes.
    pub fn configure(&mut self, cfg: &Config) {
        let (aors_max, contacts_max) = limits_of(cfg);
        self.subscribers.set_limit(aors_max);
        self.by_aor.set_slots(aors_max);
        self.bindings.set_limit(aors_max.saturating_mul(contacts_max));
        self.contacts_max = contacts_max;
        self.offline_memory = cfg.registrar.offline_memory;
    }

    /// Subscribers, offline ones included.
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    pub fn bindings(&self) -> usize {
        self.bindings.len()
    }

    /// One past the highest slot of a binding.
    pub fn slots(&self) -> u32 {
        self.bindings.slots()
    }

    /// The binding in a slot.
    pub fn binding_at(&self, slot: u32) -> Option<&Binding> {
        self.bindings.get(self.bindings.id_at(slot)?)
    }

    /// Changes that a plan for the subscriber needs at most: each contact that there is goes or is updated, and as many as there may be
    /// come.
    pub(crate) fn changes_max(&self, key: AorKey) -> usize {
        let bound = self.bindings_of(key).count();
        bound + self.contacts_max.max(bound)
    }

    /// The bindings of a subscriber in the order in which they were added.
    pub fn bindings_of(&self, key: AorKey) -> impl Iterator<Item = (BindingId, &Binding)> {
        let subscriber = self.subscriber_of(key).and_then(|id| self.subscribers.get(id));
        self.bindings_from(subscriber.and_then(|subscriber| subscriber.first))
    }

    fn bindings_from(&self, first: Option<BindingId>) -> impl Iterator<Item = (BindingId, &Binding)> {
        std::iter::successors(self.link(first), |(_, binding)| self.link(binding.next))
    }

    fn link(&self, id: Option<BindingId>) -> Option<(BindingId, &Binding)> {
        id.and_then(|id| self.bindings.get(id).map(|binding| (id, binding)))
    }

    /// Where the subscriber can be reached at `now`.
    pub fn look_up(&self, key: AorKey, pool: &Pool, now: Instant, set: &mut ContactSet) {
        self.look_up_those(key, |_| true, pool, now, set);
    }

    /// Where one device of the subscriber can be reached at `now`: RFC 5627 §6.1.
    pub fn look_up_device(
        &self,
        key: AorKey,
        device: &Device,
        tokens: &TokenKey,
        pool: &Pool,
        now: Instant,
        set: &mut ContactSet,
    ) {
        self.look_up_those(key, |said| device.has(said, pool, tokens), pool, now, set);
        if set.outcome() == Outcome::Offline && !device.is_public() {
            set.reset(Outcome::Unknown);
        }
    }

    fn look_up_those(
        &self,
        key: AorKey,
        is_wanted: impl Fn(&Fresh) -> bool,
        pool: &Pool,
        now: Instant,
        set: &mut ContactSet,
    ) {
        let Some(subscriber) = self.subscriber_of(key).and_then(|id| self.subscribers.get(id)) else {
            set.reset(Outcome::Unknown);
            return;
        };
        set.reset(Outcome::Offline);
        let is_found = |binding: &Binding| binding.said.expires_at > now && is_wanted(&binding.said);
        if subscriber.bindings == 1 {
            let only = self.link(subscriber.first).map(|(_, binding)| binding);
            if let Some(binding) = only.filter(|binding| is_found(binding)) {
                // Who has one contact has one device.
                set.push(&binding.said.contact(0, pool));
            }
            return;
        }
        // Each round finds the next in rank; a subscriber has a handful of contacts.
        let mut last = None;
        for _ in 0..subscriber.bindings {
            let next = self
                .bindings_from(subscriber.first)
                .filter(|(_, binding)| is_found(binding))
                .enumerate()
                .map(|(place, (_, binding))| {
                    let rank = (
                        Reverse(binding.said.q),
                        Reverse(binding.updated_at),
                        Reverse(place),
                    );
                    (rank, binding)
                })
                .filter(|(rank, _)| last.is_none_or(|last| *rank > last))
                .min_by_key(|(rank, _)| *rank);
            let Some((rank, binding)) = next else { return };
            last = Some(rank);
            let device = match binding.said.text.instance(pool) {
                Some(instance) => self.device(subscriber, instance, pool),
                None => 0,
            };
            if !set.push(&binding.said.contact(device, pool)) {
                return;
            }
        }
    }

    /// A number that all contacts of one device have and no other contact of the subscriber. 0, for none, beyond what a byte counts.
    fn device(&self, subscriber: &Subscriber, instance: &[u8], pool: &Pool) -> u8 {
        let first = self.bindings_from(subscriber.first).position(|(_, binding)| {
            let own = binding.said.text.instance(pool);
            own.is_some_and(|own| own.eq_ignore_ascii_case(instance))
        });
        first.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
    }

    /// Carries out all of `plan`, or nothing: then the plan stays as it is. Bindings that went are in
    /// [`Location::removed`] until [`Location::release_removed`].
    pub fn commit(
        &mut self,
        key: AorKey,
        plan: &mut Plan,
        wheel: &mut Wheel<Timer>,
        pool: &mut Pool,
        now: Instant,
    ) -> Result<Committed, CommitError> {
        let known = self.subscriber_of(key);
        let before = known
            .and_then(|id| self.subscribers.get(id))
            .map_or(0, |subscriber| usize::from(subscriber.bindings));
        let after = plan.count_after(before);
        if after > self.contacts_max && after > before {
            return Err(CommitError::TooManyContacts);
        }
        if after.saturating_sub(before) > SLOTS_MAX - self.bindings.len() {
            return Err(CommitError::Full);
        }
        let id = match known {
            Some(id) => id,
            // Whoever has nothing and gets nothing is not remembered.
            None if after == 0 => return Ok(Committed::default()),
            None => self.admit(key, wheel)?,
        };
        let mut done = Committed::default();
        // What goes makes room for what comes, in whatever order the request names them.
        for binding in plan.removals() {
            self.remove(id, binding, ContactEvent::Unregistered);
            done.removed += 1;
        }
        for Change { target, fresh } in plan.changes.drain(..) {
            match (target, fresh) {
                (Some(binding), Some(mut fresh)) => {
                    self.begin_epoch(&mut fresh);
                    done.changed |= self.update(id, binding, fresh, pool, now);
                    self.spread_epoch(id, binding, pool);
                }
                (None, Some(mut fresh)) => {
                    self.begin_epoch(&mut fresh);
                    let binding = self.add(id, fresh, now);
                    self.spread_epoch(id, binding, pool);
                    done.added += 1;
                }
                (Some(_) | None, None) => {}
            }
        }
        done.changed |= done.added + done.removed > 0;
        self.settle(id, wheel, now);
        Ok(done)
    }

    /// A connection that flows were newly registered over: whoever has it is to tell when it ends.
    pub fn next_new_flow(&mut self) -> Option<ConnId> {
        self.flows.next_new()
    }

    pub fn has_new_flows(&self) -> bool {
        self.flows.has_new()
    }

    /// A connection has ended, and the flows on it with it (RFC 5626 §7). Whose they were, one after another; the bindings are in
    /// [`Location::removed`].
    pub fn end_flow(&mut self, conn: ConnId, wheel: &mut Wheel<Timer>, now: Instant) -> Option<AorKey> {
        let key = self.flows.next_of(conn)?;
        self.flows.remove(conn, key);
        let id = self.subscriber_of(key)?;
        let mut next = self.subscriber_mut(id).first;
        while let Some((binding_id, binding)) = self.link(next) {
            next = binding.next;
            if binding.said.is_flow_on(conn) {
                self.remove(id, binding_id, ContactEvent::Deactivated);
            }
        }
        self.settle(id, wheel, now);
        Some(key)
    }

    /// The bindings that the last commit or timer removed.
    pub fn removed(&self) -> &[Removed] {
        &self.removed
    }

    /// Gives back what [`Location::removed`] holds, when everybody who wants to know has been told.
    pub fn release_removed(&mut self, pool: &mut Pool) {
        for removed in self.removed.drain(..) {
            removed.binding.said.text.release(pool);
        }
    }

    /// A timer of kind [`TimerKind::Binding`] or [`TimerKind::Aor`] fired. Whose bindings expired, if any did: they are in
    /// [`Location::removed`].
    pub fn on_timer(&mut self, timer: Timer, wheel: &mut Wheel<Timer>, now: Instant) -> Option<AorKey> {
        let id: SubscriberId = Id::new(timer.slot, timer.generation);
        let subscriber = self.subscribers.get_mut(id)?;
        subscriber.timer = None;
        let key = subscriber.key;
        if subscriber.is_offline {
            self.forget(id, wheel);
            return None;
        }
        let mut next = subscriber.first;
        let mut any = false;
        while let Some((binding_id, binding)) = self.link(next) {
            next = binding.next;
            if binding.said.expires_at <= now {
                self.remove(id, binding_id, ContactEvent::Expired);
                any = true;
            }
        }
        self.settle(id, wheel, now);
        any.then_some(key)
    }

    /// Forgets everybody: the server stops.
    pub fn clear(&mut self, wheel: &mut Wheel<Timer>, pool: &mut Pool) {
        for slot in 0..self.subscribers.slots() {
            if let Some(id) = self.subscribers.id_at(slot) {
                while let Some(binding) = self.subscriber_mut(id).first {
                    self.remove(id, binding, ContactEvent::Unregistered);
                }
                self.forget(id, wheel);
            }
        }
        self.release_removed(pool);
        debug_assert!(self.flows.is_empty(), "no binding is left");
    }

    fn admit(&mut self, key: AorKey, wheel: &mut Wheel<Timer>) -> Result<SubscriberId, CommitError> {
        if self.subscribers.is_full() {
            let oldest = self.oldest_offline.ok_or(CommitError::Full)?;
            self.forget(oldest, wheel);
            // Where the limit has been lowered, two go for one that comes until it holds.
            if let Some(oldest) = self.oldest_offline
                && self.subscribers.is_full()
            {
                self.forget(oldest, wheel);
            }
        }
        let id = self.subscribers.insert_beyond(Subscriber {
            key,
            first: None,
            bindings: 0,
            is_offline: false,
            older: None,
            newer: None,
            timer: None,
            timer_at: Instant::FAR_FUTURE,
        });
        self.by_aor.insert(key.into(), id.slot);
        Ok(id)
    }

    fn begin_epoch(&mut self, fresh: &mut Fresh) {
        if fresh.epoch == EPOCH_TO_BEGIN {
            self.last_epoch = self.last_epoch % (EPOCH_TO_BEGIN - 1) + 1;
            fresh.epoch = self.last_epoch;
        }
    }

    /// RFC 5627 §5.1: the temporary GRUUs of a device become invalid together, whichever of its contacts made them so.
    fn spread_epoch(&mut self, id: SubscriberId, from: BindingId, pool: &Pool) {
        let subscriber = self.subscriber_mut(id);
        let (mut next, bindings) = (subscriber.first, subscriber.bindings);
        let Some(said) = self.bindings.get(from).map(|binding| &binding.said) else {
            return;
        };
        if bindings < 2 || said.epoch == 0 {
            return;
        }
        let epoch = said.epoch;
        while let Some((at, binding)) = self.link(next) {
            next = binding.next;
            let text = self.bindings.get(from).map(|binding| &binding.said.text);
            if text.is_some_and(|text| text.is_of_device_of(&binding.said.text, pool)) {
                self.binding_mut(at).said.epoch = epoch;
            }
        }
    }

    fn add(&mut self, id: SubscriberId, said: Fresh, now: Instant) -> BindingId {
        self.enter_flow(id, &said);
        let binding = self.bindings.insert_beyond(Binding {
            said,
            event: ContactEvent::Registered,
            registered_at: now,
            updated_at: now,
            next: None,
        });
        let subscriber = self.subscriber_mut(id);
        subscriber.bindings += 1;
        let Some(mut last) = subscriber.first else {
            subscriber.first = Some(binding);
            return binding;
        };
        while let Some(next) = self.binding_mut(last).next {
            last = next;
        }
        self.binding_mut(last).next = Some(binding);
        binding
    }

    /// A binding that has come may lie on a connection.
    fn enter_flow(&mut self, id: SubscriberId, said: &Fresh) {
        if said.flow_conn().is_some() {
            let key = self.subscriber_mut(id).key;
            self.flows.add(said.flow, key);
        }
    }

    /// A binding lies on `conn` no more; others of the subscriber may.
    fn leave_flow(&mut self, id: SubscriberId, conn: ConnId) {
        let (key, first) = {
            let subscriber = self.subscriber_mut(id);
            (subscriber.key, subscriber.first)
        };
        let has_other = self
            .bindings_from(first)
            .any(|(_, binding)| binding.said.is_flow_on(conn));
        if !has_other {
            self.flows.remove(conn, key);
        }
    }

    /// Whether more than the expiry is different.
    fn update(
        &mut self,
        subscriber: SubscriberId,
        id: BindingId,
        said: Fresh,
        pool: &mut Pool,
        now: Instant,
    ) -> bool {
        let (new_flow, old_flow) = (said.flow_conn(), self.binding_mut(id).said.flow_conn());
        if new_flow != old_flow {
            self.enter_flow(subscriber, &said);
        }
        let binding = self.binding_mut(id);
        let old = std::mem::replace(&mut binding.said, said);
        binding.event = ContactEvent::Refreshed;
        binding.updated_at = now;
        let new = &binding.said.text;
        let same = old.text.uri(pool) == new.uri(pool) && old.text.params(pool) == new.params(pool);
        old.text.release(pool);
        if let Some(conn) = old_flow.filter(|_| new_flow != old_flow) {
            self.leave_flow(subscriber, conn);
        }
        !same
    }

    /// Moves a binding to the list of those removed.
    fn remove(&mut self, id: SubscriberId, gone: BindingId, event: ContactEvent) {
        let binding = self
            .bindings
            .remove(gone)
            .expect("a binding of a plan or list lives");
        let subscriber = self.subscriber_mut(id);
        subscriber.bindings -= 1;
        if subscriber.first == Some(gone) {
            subscriber.first = binding.next;
        } else {
            let mut before = subscriber.first;
            while let Some(at) = before {
                let at = self.binding_mut(at);
                if at.next == Some(gone) {
                    at.next = binding.next;
                    break;
                }
                before = at.next;
            }
        }
        if let Some(conn) = binding.said.flow_conn() {
            self.leave_flow(id, conn);
        }
        self.removed.push(Removed {
            id: gone,
            binding,
            event,
        });
    }

    /// After a change: the subscriber is where it belongs, with the timer that it needs.
    fn settle(&mut self, id: SubscriberId, wheel: &mut Wheel<Timer>, now: Instant) {
        let (first, was_offline) = {
            let subscriber = self.subscriber_mut(id);
            (subscriber.first, subscriber.is_offline)
        };
        let first_expiry = std::iter::successors(self.link(first), |(_, binding)| self.link(binding.next))
            .map(|(_, binding)| binding.said.expires_at)
            .min();
        match first_expiry {
            Some(at) => {
                if was_offline {
                    self.leave_offline(id);
                    self.stop_timer(id, wheel);
                }
                self.start_timer(id, TimerKind::Binding, at, wheel);
            }
            None if was_offline => {}
            None => {
                self.enter_offline(id);
                self.stop_timer(id, wheel);
                self.start_timer(id, TimerKind::Aor, now + self.offline_memory, wheel);
            }
        }
    }

    /// A timer that is early enough already stays.
    fn start_timer(&mut self, id: SubscriberId, kind: TimerKind, at: Instant, wheel: &mut Wheel<Timer>) {
        let subscriber = self.subscriber_mut(id);
        if subscriber.timer.is_some() && subscriber.timer_at <= at {
            return;
        }
        let (slot, generation) = (id.slot, id.generation);
        let timer = wheel.insert(
            at,
            Timer {
                kind,
                slot,
                generation,
            },
        );
        if let Some(later) = subscriber.timer.replace(timer) {
            wheel.cancel(later);
        }
        subscriber.timer_at = at;
    }

    fn stop_timer(&mut self, id: SubscriberId, wheel: &mut Wheel<Timer>) {
        if let Some(timer) = self.subscriber_mut(id).timer.take() {
            wheel.cancel(timer);
        }
    }

    fn enter_offline(&mut self, id: SubscriberId) {
        let older = self.newest_offline.replace(id);
        let subscriber = self.subscriber_mut(id);
        subscriber.is_offline = true;
        (subscriber.older, subscriber.newer) = (older, None);
        match older {
            Some(older) => self.subscriber_mut(older).newer = Some(id),
            None => self.oldest_offline = Some(id),
        }
    }

    fn leave_offline(&mut self, id: SubscriberId) {
        let subscriber = self.subscriber_mut(id);
        subscriber.is_offline = false;
        let (older, newer) = (subscriber.older.take(), subscriber.newer.take());
        match older {
            Some(older) => self.subscriber_mut(older).newer = newer,
            None => self.oldest_offline = newer,
        }
        match newer {
            Some(newer) => self.subscriber_mut(newer).older = older,
            None => self.newest_offline = older,
        }
    }

    fn forget(&mut self, id: SubscriberId, wheel: &mut Wheel<Timer>) {
        if self.subscriber_mut(id).is_offline {
            self.leave_offline(id);
        }
        self.stop_timer(id, wheel);
        let key = self.subscriber_mut(id).key;
        self.by_aor.remove(key.into(), id.slot);
        self.subscribers.remove(id);
    }

    fn subscriber_of(&self, key: AorKey) -> Option<SubscriberId> {
        self.subscribers.id_at(self.by_aor.get(key.into())?)
    }

    fn subscriber_mut(&mut self, id: SubscriberId) -> &mut Subscriber {
        self.subscribers
            .get_mut(id)
            .expect("a subscriber of a list lives")
    }

    fn binding_mut(&mut self, id: BindingId) -> &mut Binding {
        self.bindings.get_mut(id).expect("a binding of a list lives")
    }
}
