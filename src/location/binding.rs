//! One contact of a subscriber as the registrar keeps it, and the list of changes that a REGISTER makes.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::msg::build::Writer;
use crate::msg::params::Params;
use crate::msg::scan::ElementsOf;
use crate::pool::{BufId, Pool};
use crate::slots::Id;
use crate::time::Instant;
use crate::wire::{ConnId, Flow};

use super::Contact;

/// Most bytes of the texts of one binding: URI, parameters and Call-ID. [`super::ContactSet`] holds several such.
pub const BINDING_TEXT_MAX: usize = 1_536;
/// Most bytes of the path of one binding (RFC 3327), beside its other texts.
pub const PATH_BYTES_MAX: usize = 1_024;

pub type BindingId = Id<Binding>;

/// What last happened to a contact: the `event` of RFC 3680 §5.1. Those that only an administrator causes don't occur.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContactEvent {
    Registered,
    Refreshed,
    /// It was not refreshed in time.
    Expired,
    /// A REGISTER took it away, or put another contact of the same device in its place.
    Unregistered,
    /// The connection that it was reached over has ended; the phone is to register anew.
    Deactivated,
}

impl ContactEvent {
    pub const fn text(self) -> &'static str {
        match self {
            ContactEvent::Registered => "registered",
            ContactEvent::Refreshed => "refreshed",
            ContactEvent::Expired => "expired",
            ContactEvent::Unregistered => "unregistered",
            ContactEvent::Deactivated => "deactivated",
        }
    }
}

/// The epoch of what is to begin one when it is committed.
pub(crate) const EPOCH_TO_BEGIN: u32 = u32::MAX;

/// The texts of a binding, one behind the other in one buffer of the pool, which it holds a reference to. The last is the path,
/// which ends where the buffer does: a binding without one pays nothing for it.
#[derive(Debug)]
pub struct Text {
    buf: BufId,
    uri_len: u16,
    params_len: u16,
    call_id_len: u16,
    aor_len: u16,
    /// Where the value of `+sip.instance` stands among the parameters, quotes included; empty when there is none.
    instance_start: u16,
    instance_len: u16,
}

/// The parts of a contact that is spelled as one that is stored.
pub struct SameContact<'c> {
    pub uri: &'c [u8],
    pub params: &'c [u8],
    pub instance: Option<&'c [u8]>,
}

/// The texts of a binding before they are stored.
#[derive(Clone)]
pub struct Wording<'a> {
    pub uri: &'a [u8],
    /// Parameters with what does not belong to the phone (`expires`) still among them.
    pub params: Params<'a>,
    pub call_id: &'a [u8],
    /// The address-of-record as the phone writes it, for people to read.
    pub aor: &'a [u8],
    /// The hops of its path.
    pub path: ElementsOf<'a>,
}

impl Text {
    /// `None` when the pool has no buffer. `size` is at least what the texts need.
    pub(crate) fn store(wording: &Wording<'_>, size: usize, pool: &mut Pool) -> Option<Text> {
        let mut draft = pool.draft(size)?;
        let mut w = Writer::new(&mut draft.bytes);
        w.put(wording.uri);
        let (mut instance_start, mut instance_len) = (0, 0);
        let mut has_q = false;
        for param in wording.params.clone() {
            // What was granted replaces `expires`; a second `q` means nothing.
            // RFC 5627 §5.1: nobody says what his GRUUs are.
            let is_ours = param.is(b"expires") || param.is(b"pub-gruu") || param.is(b"temp-gruu");
            if is_ours || param.is(b"q") && has_q {
                continue;
            }
            has_q |= param.is(b"q");
            w.put(b";").put(param.name);
            if let Some(value) = param.value {
                w.put(b"=");
                // The first counts, as wherever parameters are read.
                if instance_len == 0 && param.is(b"+sip.instance") {
                    (instance_start, instance_len) = (w.len() - wording.uri.len(), value.len());
                }
                w.put(value);
            }
        }
        let params_len = w.len() - wording.uri.len();
        w.put(wording.call_id).put(wording.aor);
        let path_start = w.len();
        for (i, hop) in wording.path.clone().enumerate() {
            w.put(if i == 0 { b"" } else { b", " }).put(hop);
        }
        let fits = path_start <= BINDING_TEXT_MAX && w.len() - path_start <= PATH_BYTES_MAX;
        let Some(len) = w.finish().filter(|_| fits) else {
            pool.discard(draft);
            return None;
        };
        Some(Text {
            buf: pool.commit(draft, len),
            uri_len: wording.uri.len() as u16,
            params_len: params_len as u16,
            call_id_len: wording.call_id.len() as u16,
            aor_len: wording.aor.len() as u16,
            instance_start: instance_start as u16,
            instance_len: instance_len as u16,
        })
    }

    /// Where `contact`, a whole element, is spelled as URI and parameters are here: its parameters behind their first semicolon, and among
    /// them the value of `+sip.instance`.
    pub(crate) fn parts_of<'c>(&self, contact: &'c [u8], pool: &Pool) -> Option<SameContact<'c>> {
        let (uri, params) = contact
            .strip_prefix(b"<")?
            .split_at_checked(usize::from(self.uri_len))?;
        let params = params.strip_prefix(b">")?;
        if uri != self.uri(pool) || params != self.params(pool) {
            return None;
        }
        let start = usize::from(self.instance_start);
        let instance = params.get(start..start + usize::from(self.instance_len))?;
        Some(SameContact {
            uri,
            params: params.strip_prefix(b";").unwrap_or(params),
            instance: Some(instance).filter(|instance| !instance.is_empty()),
        })
    }

    /// These texts once more, if they are what would be stored of this URI, these raw parameters, Call-ID and address-of-record, without a
    /// path: a phone that refreshes its contact spells it as before.
    pub(crate) fn again(&self, [uri, params, call_id, aor]: [&[u8]; 4], pool: &mut Pool) -> Option<Text> {
        // What was stored holds no parameter that is not the phone's, so that nothing would be left out of the same bytes.
        let params_len = params.len() + usize::from(!params.is_empty());
        let lens = [uri.len(), params_len, call_id.len(), aor.len()];
        let own_lens = [self.uri_len, self.params_len, self.call_id_len, self.aor_len].map(usize::from);
        let is_same = lens == own_lens
            && self.path(pool).is_empty()
            && self.uri(pool) == uri
            && self.params(pool).strip_prefix(b";").unwrap_or_default() == params
            && self.call_id(pool) == call_id
            && self.aor(pool) == aor;
        is_same.then(|| Text {
            buf: pool.retain(self.buf),
            ..*self
        })
    }

    pub fn uri<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        &pool.get(self.buf)[..usize::from(self.uri_len)]
    }

    /// `;name=value` for each, in the order received; empty when there are none.
    pub fn params<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        let start = usize::from(self.uri_len);
        &pool.get(self.buf)[start..start + usize::from(self.params_len)]
    }

    pub fn call_id<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        let start = usize::from(self.uri_len) + usize::from(self.params_len);
        &pool.get(self.buf)[start..start + usize::from(self.call_id_len)]
    }

    /// The device, RFC 5626 §4.1: the value of `+sip.instance`.
    pub fn instance<'p>(&self, pool: &'p Pool) -> Option<&'p [u8]> {
        let start = usize::from(self.instance_start);
        let len = usize::from(self.instance_len);
        (len > 0).then(|| &self.params(pool)[start..start + len])
    }

    /// Whether both are contacts of one device.
    pub(super) fn is_of_device_of(&self, other: &Text, pool: &Pool) -> bool {
        match (self.instance(pool), other.instance(pool)) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            (Some(_) | None, _) => false,
        }
    }

    pub fn aor<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        let start = usize::from(self.uri_len) + usize::from(self.params_len) + usize::from(self.call_id_len);
        &pool.get(self.buf)[start..start + usize::from(self.aor_len)]
    }

    /// RFC 3327 §5.3: the hops on the way to the contact, comma-separated as in a Route; empty when there are none.
    pub fn path<'p>(&self, pool: &'p Pool) -> &'p [u8] {
        let lens = [self.uri_len, self.params_len, self.call_id_len, self.aor_len];
        let start: usize = lens.into_iter().map(usize::from).sum();
        &pool.get(self.buf)[start..]
    }

    /// Whether all texts are the same, byte for byte.
    pub(crate) fn says_the_same(&self, other: &Text, pool: &Pool) -> bool {
        (self.uri_len, self.params_len, self.call_id_len, self.aor_len)
            == (other.uri_len, other.params_len, other.call_id_len, other.aor_len)
            && pool.get(self.buf) == pool.get(other.buf)
    }

    pub(crate) fn release(self, pool: &mut Pool) {
        pool.release(self.buf);
    }
}

/// What a REGISTER says of one contact.
#[derive(Debug)]
pub struct Fresh {
    pub text: Text,
    /// Preference in thousandths, 0 to 1000.
    pub q: u16,
    /// Whether the URI asks for TCP.
    pub tcp: bool,
    /// Whether the URI has no headers and leads, over UDP, to the very address in `flow`: then it need not be read again to reach the
    /// phone.
    pub is_at_peer: bool,
    /// RFC 5626 §4.2: which of the flows of one device this is. It means something beside an instance only, and only where the
    /// first hop knows of flows.
    pub reg_id: Option<NonZeroU32>,
    /// Whether it has a `reg-id` at all.
    pub has_reg_id: bool,
    /// Whether it is a flow whose first hop we are: then the phone is reached over `flow` and no other way. The flow of a phone behind
    /// a path is that of the proxy which keeps it; what that proxy sends us a REGISTER over is none of the phone's.
    pub is_flow: bool,
    /// RFC 5627: since when the temporary GRUUs of its device are valid, by a number that all contacts of the device have; 0 where none
    /// was made.
    pub epoch: u32,
    pub cseq: u32,
    pub expires_at: Instant,
    /// What it registered through.
    pub flow: Flow,
}

impl Fresh {
    /// As a look-up gives it. `device`: the number of its device there.
    pub(super) fn contact<'p>(&self, device: u8, pool: &'p Pool) -> Contact<'p> {
        let text = &self.text;
        let lens = [text.uri_len, text.params_len, text.call_id_len + text.aor_len].map(usize::from);
        let (uri, rest) = pool.get(text.buf).split_at(lens[0]);
        let (params, rest) = rest.split_at(lens[1]);
        let (_, path) = rest.split_at(lens[2]);
        Contact {
            uri,
            params,
            path,
            device,
            is_flow: self.is_flow,
            q: self.q,
            flow: self.flow,
            tcp: self.tcp,
            is_at_peer: self.is_at_peer,
        }
    }

    /// The connection without which the contact is not reached: RFC 5626 §7.
    pub(super) fn flow_conn(&self) -> Option<ConnId> {
        self.flow.conn.filter(|_| self.is_flow)
    }

    pub(super) fn is_flow_on(&self, conn: ConnId) -> bool {
        self.flow_conn() == Some(conn)
    }
}

/// A contact bound to an address-of-record.
#[derive(Debug)]
pub struct Binding {
    pub said: Fresh,
    pub event: ContactEvent,
    pub registered_at: Instant,
    pub updated_at: Instant,
    pub(super) next: Option<BindingId>,
}

impl Binding {
    pub fn registered_for(&self, now: Instant) -> Duration {
        now.since(self.registered_at)
    }
}

/// One change of a [`Plan`].
#[derive(Debug)]
pub(crate) struct Change {
    /// The binding that is updated or removed; `None` adds one.
    pub(crate) target: Option<BindingId>,
    /// `None` removes the target.
    pub(crate) fresh: Option<Fresh>,
}

/// What a REGISTER would do to the bindings of one subscriber: RFC 3261 §10.3 step 7, all of it or nothing. Used again from
/// request to request, so that nothing is allocated once it has grown to the largest.
#[derive(Default, Debug)]
pub struct Plan {
    pub(crate) changes: Vec<Change>,
}

impl Plan {
    pub(crate) fn touches(&self, id: BindingId) -> bool {
        self.changes.iter().any(|change| change.target == Some(id))
    }

    /// The bindings that go.
    pub(super) fn removals(&self) -> impl Iterator<Item = BindingId> {
        self.changes
            .iter()
            .filter(|change| change.fresh.is_none())
            .filter_map(|change| change.target)
    }

    /// Bindings there will be where there are `now`.
    pub(crate) fn count_after(&self, now: usize) -> usize {
        self.changes
            .iter()
            .fold(now, |count, change| match (&change.target, &change.fresh) {
                (None, Some(_)) => count + 1,
                (Some(_), None) => count - 1,
                (Some(_), Some(_)) | (None, None) => count,
            })
    }

    /// Forgets everything that was planned.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        for change in self.changes.drain(..) {
            if let Some(fresh) = change.fresh {
                fresh.text.release(pool);
            }
        }
    }
}

/// Whole seconds until `deadline`, rounded up, so that what has just been granted is told as granted.
pub fn seconds_left(deadline: Instant, now: Instant) -> u64 {
    deadline.since(now).as_nanos().div_ceil(1_000_000_000) as u64
}
