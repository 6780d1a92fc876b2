//! The notifier of the `reg` event: RFC 6665 §4.2, RFC 3680 §4.
//!
//! A subscription is a dialog of its own, named by the token in the tag that our 200 gave. Whoever subscribes gets the full
//! state at once and at every change: a contact added, removed, expired, or registered anew with other words. A refresh
//! that only moves an expiry is no change. One NOTIFY of a subscription is on its way at a time; what changes meanwhile is
//! told by the next, which follows when the first is answered. That bounds the rate, rather than the 5 seconds of RFC 3680
//! §4.10, so that a phone hears of its own registration at once. A subscription that ends is told so in a last NOTIFY and
//! lives until that is answered.

pub mod reginfo;
mod subscribe;

use crate::config::Config;
use crate::dialog::Dialog;
use crate::dns::plan::Targets;
use crate::dns::{Asker, Resolved, Untried};
use crate::key_index::KeyIndex;
use crate::location::{AorKey, Location};
use crate::metrics::DropReason;
use crate::msg::build::{self, Writer};
use crate::msg::method::Method;
use crate::pool::{BufId, Pool};
use crate::slots::{Id, Slots};
use crate::time::Instant;
use crate::timer::{Timer, TimerId, TimerKind, Wheel};
use crate::token::{TOKEN_LEN, Token, TokenKind};
use crate::transaction::destination::flow_to;
use crate::transaction::hop::Hop;
use crate::transaction::{Stack, TxId, User};
use crate::wire::{Effects, Flow};

use reginfo::Subject;

pub type SubscriptionId = Id<Subscription>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Active,
    /// It is over; the last NOTIFY is on its way or due.
    Terminated,
}

/// One subscription to the registration of one subscriber.
pub struct Subscription {
    key: AorKey,
    /// The next one for the same subscriber.
    next: Option<SubscriptionId>,
    dialog: Dialog,
    topic: Topic,
    /// Where its NOTIFYs go.
    flow: Flow,
    hop: Hop,
    /// Other addresses of the next hop, where that is a name, for the NOTIFY that is on its way.
    untried: Option<Untried>,
    state: State,
    remote_cseq: u32,
    /// Of the last NOTIFY.
    cseq: u32,
    /// Of the next document.
    version: u32,
    expires_at: Instant,
    timer: Option<TimerId>,
    /// When `timer` fires: not after `expires_at`.
    timer_at: Instant,
    /// The NOTIFY that is not answered yet.
    notify: Option<TxId>,
    /// Whether there is something to tell when that is answered.
    is_due: bool,
    /// `contact` elements of bindings that went since the last NOTIFY.
    gone: Option<BufId>,
}

/// A subscription as others may see it: for listings.
pub struct SubscriptionView<'a> {
    pub aor: &'a [u8],
    /// Where its NOTIFYs are addressed to.
    pub target: &'a [u8],
    pub call_id: &'a [u8],
    pub flow: Flow,
    pub expires_at: Instant,
}

/// What the NOTIFYs of a subscription say beside its dialog, in one buffer: the address-of-record as a URI, and the Event
/// value that was asked for, which may have an `id` (RFC 6665 §8.2.1).
struct Topic {
    text: BufId,
    aor_len: usize,
}

impl Topic {
    fn new(aor: &[u8], event: &[u8], pool: &mut Pool) -> Option<Topic> {
        let mut draft = pool.draft(aor.len() + event.len())?;
        draft.bytes[..aor.len()].copy_from_slice(aor);
        draft.bytes[aor.len()..aor.len() + event.len()].copy_from_slice(event);
        Some(Topic {
            text: pool.commit(draft, aor.len() + event.len()),
            aor_len: aor.len(),
        })
    }

    fn aor<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        &pool.get(self.text)[..self.aor_len]
    }

    fn event<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        &pool.get(self.text)[self.aor_len..]
    }
}

/// Most bytes that are kept of contacts that went while a NOTIFY is on its way; beyond it their absence tells.
const GONE_MAX: usize = 4_096;
/// Bytes of a NOTIFY beside the texts of its dialog and topic, and its body.
const NOTIFY_OVERHEAD: usize = 768;

/// All subscriptions of one shard.
pub struct RegEvent {
    subscriptions: Slots<Subscription>,
    /// The subscription that came last to each subscriber; the others follow from it.
    by_aor: KeyIndex,
    per_aor_max: usize,
    /// The document being written.
    document: Box<[u8]>,
    /// The `contact` elements of the bindings that the present change removed.
    gone: Box<[u8]>,
}

impl RegEvent {
    /// The share of one shard of the limits in `cfg`.
    pub fn new(cfg: &Config) -> RegEvent {
        let subscriptions_max = cfg.limits.subscriptions_max.div_ceil(cfg.shards);
        RegEvent {
            subscriptions: Slots::new(subscriptions_max),
            by_aor: KeyIndex::new(subscriptions_max),
            per_aor_max: cfg.limits.subscriptions_per_aor_max,
            document: vec![0; reginfo::DOCUMENT_MAX].into_boxed_slice(),
            gone: vec![0; GONE_MAX].into_boxed_slice(),
        }
    }

    /// The limits in `cfg` from now on; what is beyond them stays until it goes.
    pub fn configure(&mut self, cfg: &Config) {
        let subscriptions_max = cfg.limits.subscriptions_max.div_ceil(cfg.shards);
        self.subscriptions.set_limit(subscriptions_max);
        self.by_aor.set_slots(subscriptions_max);
        self.per_aor_max = cfg.limits.subscriptions_per_aor_max;
    }

    /// Has the system provide the memory that the first subscriptions would wait for. Before the first of them.
    pub fn make_ready(&mut self) {
        self.by_aor.make_ready();
    }

    /// Subscriptions that there were, modulo 2^32.
    pub fn begun(&self) -> u32 {
        self.subscriptions.inserted()
    }

    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// One past the highest slot of a subscription.
    pub fn slots(&self) -> u32 {
        self.subscriptions.slots()
    }

    /// The subscription in a slot.
    pub fn subscription_at<'a>(&'a self, slot: u32, pool: &'a Pool) -> Option<SubscriptionView<'a>> {
        let subscription = self.subscriptions.get(self.subscriptions.id_at(slot)?)?;
        let dialog = subscription.dialog.parts(pool);
        Some(SubscriptionView {
            aor: subscription.topic.aor(pool),
            target: dialog.target,
            call_id: dialog.call_id,
            flow: subscription.flow,
            expires_at: subscription.expires_at,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// The bindings of `key` have changed; those that went are in [`Location::removed`]. To be called before they are
    /// released, and after the answer to the REGISTER that did it.
    pub fn on_change(
        &mut self,
        stack: &mut Stack,
        location: &Location,
        key: AorKey,
        now: Instant,
        out: &mut Effects,
    ) {
        let mut next = self.newest(key);
        if next.is_none() {
            return;
        }
        let mut gone = std::mem::take(&mut self.gone);
        let mut gone_len = 0;
        // Without documents nobody is told what went.
        let told = if stack.cfg.reg_event.notify_body {
            location.removed()
        } else {
            &[]
        };
        for removed in told {
            let mut w = Writer::new(&mut gone[gone_len..]);
            reginfo::put_removed(removed, &out.pool, now, &mut w);
            gone_len += w.finish().unwrap_or(0);
        }
        while let Some(id) = next {
            let Some(subscription) = self.subscriptions.get_mut(id) else {
                break;
            };
            next = subscription.next;
            match subscription.state {
                State::Active => {
                    subscription.remember(&gone[..gone_len], &mut out.pool);
                    self.notify(stack, location, id, now, out);
                }
                State::Terminated => {}
            }
        }
        self.gone = gone;
    }

    /// What became of a NOTIFY: a status, or `None` when it timed out or could not be sent.
    pub fn on_client_end(
        &mut self,
        stack: &mut Stack,
        location: &Location,
        id: SubscriptionId,
        status: Option<u16>,
        now: Instant,
        out: &mut Effects,
    ) {
        if status.is_some_and(|status| status < 200) {
            return;
        }
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        subscription.notify = None;
        // RFC 3263 §4.3. The next address is told all there is to tell by then; what is gone does not stand in it.
        if matches!(status, None | Some(503)) && subscription.goes_elsewhere(stack, out) {
            self.notify(stack, location, id, now, out);
            return;
        }
        subscription.forget_untried(&mut out.pool);
        // RFC 6665 §4.2.2: who can't be told any more, or says that there is no such subscription, has none.
        if status.is_none_or(ends_subscription) {
            self.remove(stack, id, out);
        } else if subscription.is_due {
            self.notify(stack, location, id, now, out);
        } else if subscription.state == State::Terminated {
            self.remove(stack, id, out);
        }
    }

    /// A timer of kind [`TimerKind::Subscription`] fired.
    pub fn on_timer(
        &mut self,
        stack: &mut Stack,
        location: &Location,
        timer: Timer,
        now: Instant,
        out: &mut Effects,
    ) {
        let id = SubscriptionId::new(timer.slot, timer.generation);
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        subscription.timer = None;
        if subscription.expires_at > now {
            // It was refreshed; the timer was left where it was.
            subscription.start_timer(id, &mut stack.wheel);
            return;
        }
        // RFC 6665 §4.2.1.4: it was not refreshed in time, and is told so.
        subscription.state = State::Terminated;
        self.notify(stack, location, id, now, out);
    }

    /// Forgets all subscriptions: the server stops.
    pub fn clear(&mut self, stack: &mut Stack, out: &mut Effects) {
        for slot in 0..self.subscriptions.slots() {
            if let Some(id) = self.subscriptions.id_at(slot) {
                self.remove(stack, id, out);
            }
        }
    }

    /// Sends a NOTIFY with all there is to tell, or has it follow the one that is on its way.
    fn notify(
        &mut self,
        stack: &mut Stack,
        location: &Location,
        id: SubscriptionId,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        subscription.is_due = true;
        if subscription.notify.is_some() {
            return;
        }
        let user = User::Subscription {
            slot: id.slot,
            generation: id.generation,
        };
        subscription.find_hop(stack, id, out);
        let sent = match stack.open_client(user, Method::Notify, subscription.flow) {
            Some(tx) => match subscription.write_notify(stack, location, tx, &mut self.document, now, out) {
                Some(buf) => Some((tx, buf)),
                None => {
                    stack.abandon(tx, out);
                    None
                }
            },
            None => {
                stack.metrics.dropped(DropReason::TransactionsFull);
                None
            }
        };
        match (sent, subscription.state) {
            (Some((tx, buf)), State::Active | State::Terminated) => {
                subscription.notify = Some(tx);
                subscription.is_due = false;
                if let Some(gone) = subscription.gone.take() {
                    out.pool.release(gone);
                }
                stack.count_request(Method::Notify, subscription.flow.transport);
                stack.send_request(tx, buf, now, out);
            }
            // The next change or refresh tells it.
            (None, State::Active) => {}
            (None, State::Terminated) => self.remove(stack, id, out),
        }
    }

    fn remove(&mut self, stack: &mut Stack, id: SubscriptionId, out: &mut Effects) {
        let Some(subscription) = self.subscriptions.remove(id) else {
            return;
        };
        if let Some(timer) = subscription.timer {
            stack.wheel.cancel(timer);
        }
        if let Some(notify) = subscription.notify {
            stack.set_user(notify, User::None);
        }
        if let Some(gone) = subscription.gone {
            out.pool.release(gone);
        }
        if let Some(untried) = subscription.untried {
            untried.release(&mut out.pool);
        }
        subscription.dialog.release(&mut out.pool);
        out.pool.release(subscription.topic.text);
        self.unlink(subscription.key, id, subscription.next);
    }

    /// Takes a subscription that was removed out of the list of its subscriber.
    fn unlink(&mut self, key: AorKey, id: SubscriptionId, next: Option<SubscriptionId>) {
        self.by_aor.remove(key.into(), id.slot);
        let mut at = self.newest(key);
        while let Some(before) = at.and_then(|at| self.subscriptions.get_mut(at)) {
            if before.next == Some(id) {
                before.next = next;
                return;
            }
            at = before.next;
        }
    }

    fn link(&mut self, key: AorKey, id: SubscriptionId) {
        let next = self.newest(key);
        self.by_aor.insert(key.into(), id.slot);
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.next = next;
        }
    }

    /// The first of the subscriptions to a subscriber.
    fn newest(&self, key: AorKey) -> Option<SubscriptionId> {
        self.subscriptions.id_at(self.by_aor.get(key.into())?)
    }

    /// How many subscriptions there are to a subscriber: at most `limits.subscriptions_per_aor_max`.
    fn watchers(&self, key: AorKey) -> usize {
        let next = |id: &SubscriptionId| self.subscriptions.get(*id)?.next;
        std::iter::successors(self.newest(key), next).count()
    }
}

impl RegEvent {
    /// Whether the next hop of a subscription is a name, which is looked up then.
    fn set_named(&mut self, stack: &mut Stack, id: SubscriptionId, is_named: bool, out: &mut Effects) {
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.hop.is_named = is_named;
            subscription.forget_untried(&mut out.pool);
            subscription.find_hop(stack, id, out);
        }
    }

    /// What came of the look-up of a subscription's next hop.
    pub fn hop_found(
        &mut self,
        stack: &mut Stack,
        id: SubscriptionId,
        found: (Resolved, &Targets),
        out: &Effects,
    ) {
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            let dialog = subscription.dialog.parts(&out.pool);
            let dialog = (dialog.next_hop(), dialog.call_id);
            let flow = &mut subscription.flow;
            subscription.hop.found(stack, dialog, flow, asker(id), found, out);
        }
    }
}

const fn asker(id: SubscriptionId) -> Asker {
    Asker::Subscription {
        slot: id.slot,
        generation: id.generation,
    }
}

impl Subscription {
    /// Has the next NOTIFY go to an address of the next hop, where that is a name, and keeps the others.
    fn find_hop(&mut self, stack: &mut Stack, id: SubscriptionId, out: &mut Effects) {
        // One that goes to the next address has those left that were not tried.
        if !self.hop.is_named || self.untried.is_some() {
            return;
        }
        let dialog = self.dialog.parts(&out.pool);
        let dialog = (dialog.next_hop(), dialog.call_id);
        let others = self.hop.find(stack, dialog, &mut self.flow, asker(id), out);
        self.untried = others.and_then(|others| Untried::keep(&others, 0, &mut out.pool));
    }

    fn forget_untried(&mut self, pool: &mut Pool) {
        if let Some(untried) = self.untried.take() {
            untried.release(pool);
        }
    }

    /// Whether there is another address to go to, and goes there.
    fn goes_elsewhere(&mut self, stack: &Stack, out: &Effects) -> bool {
        let like = Flow {
            conn: None,
            ..self.flow
        };
        while let Some(target) = self.untried.as_mut().and_then(|untried| untried.next(&out.pool)) {
            if let Ok(flow) = flow_to(&stack.cfg, (target.transport, target.addr), Some(like)) {
                self.flow = flow;
                return true;
            }
        }
        false
    }

    /// Writes the next NOTIFY (RFC 6665 §4.2.2), with RFC 3680's document unless the configuration wants it empty.
    #[allow(clippy::too_many_arguments)]
    fn write_notify(
        &mut self,
        stack: &mut Stack,
        location: &Location,
        tx: TxId,
        document: &mut [u8],
        now: Instant,
        out: &mut Effects,
    ) -> Option<BufId> {
        let subject = Subject {
            aor: self.topic.aor(&out.pool),
            key: self.key,
            version: self.version,
            gone: self.gone.map_or(b"", |gone| out.pool.get(gone)),
        };
        let body = if stack.cfg.reg_event.notify_body {
            let (len, left_out) = reginfo::write(&subject, location, &out.pool, now, document);
            if left_out > 0 {
                stack.metrics.dropped(DropReason::TooLarge);
            }
            Some(&document[..len])
        } else {
            None
        };
        let texts = self.dialog.len() + out.pool.get(self.topic.text).len();
        // The target may stand twice, and the address-of-record does.
        let size = NOTIFY_OVERHEAD + 2 * texts + body.map_or(0, <[u8]>::len);
        let cseq = self.cseq.checked_add(1)?;
        let buf = stack.write(size, out, |w, pool| {
            let parts = self.dialog.parts(pool);
            w.put(b"NOTIFY ").put(parts.request_uri()).put(b" SIP/2.0\r\n");
            stack.put_via(tx, w);
            w.put(b"Max-Forwards: 70\r\n");
            parts.put_routes(w);
            w.put(b"From: ")
                .put(parts.local)
                .put(b"\r\nTo: ")
                .put(parts.remote);
            w.put(b"\r\nCall-ID: ")
                .call_id(parts.call_id)
                .put(b"\r\nCSeq: ")
                .num(u64::from(cseq));
            w.put(b" NOTIFY\r\nContact: <")
                .put(self.topic.aor(pool))
                .put(b">\r\nEvent: ")
                .put(self.topic.event(pool));
            w.put(b"\r\nSubscription-State: ");
            match self.state {
                State::Active => w.put(b"active;expires=").num(self.expires_s(now)),
                // RFC 6665 §4.2.1.4: whether it expired or was ended by its subscriber.
                State::Terminated => w.put(b"terminated;reason=timeout"),
            };
            w.crlf();
            match body {
                Some(body) => build::body(w, reginfo::CONTENT_TYPE, body),
                None => build::end(w),
            }
        })?;
        self.cseq = cseq;
        self.version = self.version.wrapping_add(u32::from(body.is_some()));
        Some(buf)
    }

    /// Whole seconds that will be left when the NOTIFY arrives: less than are left now, so one less than granted at once
    /// after the grant (RFC 6665 §4.2.2: never more than remains).
    fn expires_s(&self, now: Instant) -> u64 {
        (self.expires_at.since(now).as_nanos().saturating_sub(1) / 1_000_000_000) as u64
    }

    /// A timer that is early enough already stays.
    fn start_timer(&mut self, id: SubscriptionId, wheel: &mut Wheel<Timer>) {
        if self.timer.is_some() && self.timer_at <= self.expires_at {
            return;
        }
        let timer = Timer {
            kind: TimerKind::Subscription,
            slot: id.slot,
            generation: id.generation,
        };
        let timer = wheel.insert(self.expires_at, timer);
        if let Some(later) = self.timer.replace(timer) {
            wheel.cancel(later);
        }
        self.timer_at = self.expires_at;
    }

    fn stop_timer(&mut self, wheel: &mut Wheel<Timer>) {
        if let Some(timer) = self.timer.take() {
            wheel.cancel(timer);
        }
    }

    /// Keeps `contact` elements for the next NOTIFY. Where there is no room for them they are left out: state is full, so a
    /// contact that is not in it is gone.
    fn remember(&mut self, gone: &[u8], pool: &mut Pool) {
        if gone.is_empty() {
            return;
        }
        match self.gone {
            None => self.gone = pool.put(gone),
            Some(before) if pool.get(before).len() + gone.len() > GONE_MAX => {}
            Some(before) => self.gone = pool.append(before, gone).or(Some(before)),
        }
    }
}

/// The tag of our side of a subscription.
fn tag_of(stack: &Stack, id: SubscriptionId) -> [u8; TOKEN_LEN] {
    stack.key.text(Token {
        kind: TokenKind::Subscription,
        shard: stack.shard,
        slot: id.slot,
        generation: id.generation,
    })
}

/// RFC 6665 §4.2.2: the answers to a NOTIFY that end its subscription, and 408, which is Timer F as somebody else saw it.
const fn ends_subscription(status: u16) -> bool {
    matches!(status, 404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}

#[cfg(test)]
mod tests;
