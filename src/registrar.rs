//! What a REGISTER does to the bindings of a subscriber: RFC 3261 §10.3, steps 6 to 8, with the devices of RFC 5626.
//!
//! A request is read in full before anything is changed: it becomes a [`Plan`], and the plan is carried out whole or not at
//! all. Bindings are the same when their URIs are (§19.1.4); one that comes from a device (`+sip.instance`) under another
//! URI takes the place of what that device had before, unless their `reg-id`s say that both are to stay.

mod answer;
mod path;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::Config;
use crate::location::binding::{BINDING_TEXT_MAX, Change, EPOCH_TO_BEGIN, Wording};
use crate::location::{
    Aor, AorKey, Binding, BindingId, CommitError, Committed, Fresh, Location, Plan, Text, gruu,
};

use crate::msg::build::Writer;
use crate::msg::lex;
use crate::msg::name::Name;
use crate::msg::name_addr::{Contacts, NameAddr, contacts};
use crate::msg::params::{Params, unquoted};
use crate::msg::request::Request;
use crate::msg::uri::{Scheme, Uri};
use crate::pool::{Pool, Stay};
use crate::time::Instant;
use crate::timer::{Timer, Wheel};
use crate::transaction::destination::destination;
use crate::wire::{Flow, Transport};

pub use answer::{contacts_size, put_contacts, put_outbound, put_service_route, wants_gruus};
pub use path::{PATH_HOPS_MAX, put_path};

/// Option tags that a REGISTER may require.
pub const EXTENSIONS: &[&[u8]] = &[b"path", b"outbound", b"gruu"];

/// Why a REGISTER changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The body is in an encoding that we don't read.
    ContentEncoding,
    MalformedContact,
    /// `*` with other contacts, or without `Expires: 0`.
    Star,
    /// More text than a binding may have.
    ContactTooLong,
    /// RFC 3327 §5.3: a proxy has put itself into a path that the phone knows nothing of.
    PathNotSupported,
    /// A hop that can't be read, or is no loose router.
    MalformedPath,
    /// More hops, or more text, than a path may have.
    PathTooLong,
    /// RFC 5626 §6: the phone registers a flow through a proxy that knows nothing of flows.
    FirstHopLacksOutbound,
    /// RFC 5626 §6: a flow is registered with other contacts.
    SeveralWithFlow,
    /// RFC 5627 §5.1: the contact of a device leads back to the address-of-record, or nowhere.
    Circular,
    /// Below `registrar.expires_min_s`.
    IntervalTooBrief,
    /// A CSeq that is not higher than the one that the binding was last changed with.
    OutOfOrder,
    TooManyContacts,
    /// A limit of the whole server.
    Full,
}

/// Seconds after which to try again when the server is full.
const RETRY_AFTER_S: u64 = 60;
/// RFC 3261 §10.3 step 7: an interval of an hour or more is never too brief.
const NEVER_BRIEF_S: u32 = 3_600;
/// Preference of a contact that names none: the highest, as one contact alone has it.
const Q_DEFAULT: u16 = 1_000;

impl Refusal {
    pub const fn status(self) -> u16 {
        match self {
            Refusal::ContentEncoding => 415,
            Refusal::MalformedContact
            | Refusal::Star
            | Refusal::ContactTooLong
            | Refusal::MalformedPath
            | Refusal::PathTooLong
            | Refusal::SeveralWithFlow => 400,
            Refusal::PathNotSupported => 420,
            Refusal::FirstHopLacksOutbound => 439,
            Refusal::IntervalTooBrief => 423,
            // §10.3 step 7: the update is aborted and the request fails, with 500 as everything that fails there.
            Refusal::OutOfOrder => 500,
            Refusal::TooManyContacts | Refusal::Circular => 403,
            Refusal::Full => 503,
        }
    }

    pub const fn reason(self) -> &'static str {
        match self {
            Refusal::ContentEncoding => "Unsupported Content-Encoding",
            Refusal::MalformedContact => "Malformed Contact",
            Refusal::Star => "Contact * Needs Expires 0 And No Other Contact",
            Refusal::ContactTooLong => "Contact Too Long",
            Refusal::PathNotSupported => "Bad Extension",
            Refusal::MalformedPath => "Malformed Path",
            Refusal::PathTooLong => "Path Too Long",
            Refusal::FirstHopLacksOutbound => "First Hop Lacks Outbound Support",
            Refusal::Circular => "Contact Leads Back Here",
            Refusal::SeveralWithFlow => "A Contact With reg-id Comes Alone",
            Refusal::IntervalTooBrief => "Interval Too Brief",
            Refusal::OutOfOrder => "CSeq Out Of Order",
            Refusal::TooManyContacts => "Too Many Contacts",
            Refusal::Full => "Registrar Full",
        }
    }

    /// The header lines that go with the status. `expires_min_s`: the least that is granted, seconds.
    pub fn put_headers(self, expires_min_s: u32, w: &mut Writer<'_>) {
        match self {
            // RFC 3261 §8.2.3: the encodings that are read are listed.
            Refusal::ContentEncoding => {
                w.put(b"Accept-Encoding: identity\r\n");
            }
            Refusal::IntervalTooBrief => {
                w.header_num(Name::MinExpires, u64::from(expires_min_s.min(NEVER_BRIEF_S)));
            }
            Refusal::Full => {
                w.header_num(Name::RetryAfter, RETRY_AFTER_S);
            }
            Refusal::PathNotSupported => {
                w.header(Name::Unsupported, b"path");
            }
            Refusal::MalformedContact
            | Refusal::Star
            | Refusal::ContactTooLong
            | Refusal::MalformedPath
            | Refusal::PathTooLong
            | Refusal::FirstHopLacksOutbound
            | Refusal::SeveralWithFlow
            | Refusal::Circular
            | Refusal::OutOfOrder
            | Refusal::TooManyContacts => {}
        }
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Refusal {
        match error {
            CommitError::TooManyContacts => Refusal::TooManyContacts,
            CommitError::Full => Refusal::Full,
        }
    }
}

/// Registers, refreshes and removes the contacts of `request` for the subscriber `key`; `flow` is what its answer goes over, and
/// `source` the address that it came from.
/// Bindings that went are in [`Location::removed`] until the caller has them released.
#[allow(clippy::too_many_arguments)]
pub fn process(
    location: &mut Location,
    cfg: &Config,
    request: &Request<'_>,
    key: AorKey,
    (flow, source): (Flow, SocketAddr),
    wheel: &mut Wheel<Timer>,
    pool: &mut Pool,
    now: Instant,
) -> Result<Committed, Refusal> {
    // Who is registered may refresh, however many others would like to be.
    let is_new = location.bindings_of(key).next().is_none();
    let mut plan = std::mem::take(&mut location.plan);
    let done = path::check(request, cfg)
        .and_then(|path_len| {
            let planner = Planner {
                changes_max: location.changes_max(key),
                location,
                plan: &mut plan,
                request,
                key,
                flow,
                source,
                path_len,
                pool,
                now,
            };
            planner.plan(cfg)
        })
        .and_then(|()| {
            if is_new && plan.count_after(0) > 0 && !pool.takes_in(Stay::New) {
                return Err(Refusal::Full);
            }
            Ok(location.commit(key, &mut plan, wheel, pool, now)?)
        });
    plan.abandon(pool);
    location.plan = plan;
    done
}

/// Removes every binding of the subscriber `key`.
pub fn remove_all(
    location: &mut Location,
    key: AorKey,
    wheel: &mut Wheel<Timer>,
    pool: &mut Pool,
    now: Instant,
) -> Committed {
    let mut plan = std::mem::take(&mut location.plan);
    plan.changes
        .extend(location.bindings_of(key).map(|(id, _)| Change {
            target: Some(id),
            fresh: None,
        }));
    // Fewer contacts than before are within every limit.
    let done = location
        .commit(key, &mut plan, wheel, pool, now)
        .unwrap_or_default();
    plan.abandon(pool);
    location.plan = plan;
    done
}

/// One request being read.
struct Planner<'p> {
    location: &'p Location,
    plan: &'p mut Plan,
    /// See [`Location::changes_max`].
    changes_max: usize,
    request: &'p Request<'p>,
    key: AorKey,
    flow: Flow,
    source: SocketAddr,
    /// Bytes of the request's path.
    path_len: usize,
    pool: &'p mut Pool,
    now: Instant,
}

impl<'p> Planner<'p> {
    fn plan(mut self, cfg: &Config) -> Result<(), Refusal> {
        let msg = self.request.msg;
        let is_encoded = msg
            .elements(Name::ContentEncoding)
            .any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        if is_encoded {
            return Err(Refusal::ContentEncoding);
        }
        let expires_header = msg.value(Name::Expires);
        if let Some(said) = self.said_before(expires_header, cfg)? {
            return self.contact(&said);
        }
        match contacts(msg).map_err(|_| Refusal::MalformedContact)? {
            Contacts::None => Ok(()),
            Contacts::Star if expires_header.and_then(lex::number) == Some(0) => self.star(),
            Contacts::Star => Err(Refusal::Star),
            Contacts::List(list) => {
                let (mut kept, mut has_flow) = (0, false);
                for contact in list {
                    let contact = contact.map_err(|_| Refusal::MalformedContact)?;
                    let said = Said::read(&contact, self.request, expires_header, cfg)?;
                    self.contact(&said)?;
                    kept += usize::from(said.expires_s > 0);
                    has_flow |= said.reg_id.is_some() && said.expires_s > 0;
                }
                if has_flow && kept > 1 {
                    return Err(Refusal::SeveralWithFlow);
                }
                Ok(())
            }
        }
    }

    /// The one contact of the request where it is spelled as one that is bound, byte for byte, as in nearly every refresh: then it is known
    /// what it says. One with a `reg-id` means what the way of the request makes of it.
    fn said_before(&self, expires_header: Option<&[u8]>, cfg: &Config) -> Result<Option<Said<'p>>, Refusal> {
        let msg = self.request.msg;
        let mut lines = msg.lines_of(Name::Contact);
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Ok(None);
        };
        let bound = self.location.bindings_of(self.key).find_map(|(_, binding)| {
            let old = &binding.said;
            let same = old.text.parts_of(msg.value_of(line), self.pool)?;
            (!old.has_reg_id).then_some((same, old.q))
        });
        let Some((same, q)) = bound else { return Ok(None) };
        let features = Features {
            // It is not stored.
            expires: None,
            instance: same.instance,
            reg_id: None,
            q,
        };
        Said::of(same.uri, same.params, features, self.request, expires_header, cfg).map(Some)
    }

    /// §10.3 step 6: every binding goes.
    fn star(&mut self) -> Result<(), Refusal> {
        for (id, binding) in self.location.bindings_of(self.key) {
            if self.order(&binding.said) != Order::Newer {
                return Err(Refusal::OutOfOrder);
            }
            self.plan.changes.push(Change {
                target: Some(id),
                fresh: None,
            });
        }
        Ok(())
    }

    /// §10.3 step 7 for one contact.
    fn contact(&mut self, said: &Said<'_>) -> Result<(), Refusal> {
        let mut fresh = if said.expires_s == 0 {
            None
        } else {
            Some(self.fresh(said)?)
        };
        let pool = &mut *self.pool;
        let planned = self.plan.changes.iter_mut().find(|change| {
            change
                .fresh
                .as_ref()
                .is_some_and(|fresh| said.is_same(fresh, pool))
        });
        if let Some(change) = planned {
            // The same contact twice in one request: they are processed in turn, so the later one stands.
            release(std::mem::replace(&mut change.fresh, fresh), pool);
            return Ok(());
        }
        let same = self.find(|old| said.is_same(old, self.pool));
        let known = same.or_else(|| self.find(|old| said.is_same_device(old, self.pool)));
        if let Some(fresh) = &mut fresh {
            fresh.epoch = self.epoch(said, known.map(|(_, old)| &old.said));
        }
        let Some((id, old)) = known else {
            // Who takes away what is not there changes nothing.
            return match fresh {
                Some(_) => self.add(Change { target: None, fresh }),
                None => Ok(()),
            };
        };
        match (self.order(&old.said), fresh) {
            // The very request that made this binding, once more and beyond its transaction: nothing is left to do.
            (Order::Same, Some(fresh)) if fresh.text.says_the_same(&old.said.text, self.pool) => {
                fresh.text.release(self.pool);
            }
            (Order::Same | Order::Older, fresh) => {
                release(fresh, self.pool);
                return Err(Refusal::OutOfOrder);
            }
            // To those who watch it is another contact (RFC 3680 §5.1: its id differs when its URI does).
            (Order::Newer, fresh @ Some(_)) if same.is_none() => {
                self.plan.changes.push(Change {
                    target: Some(id),
                    fresh: None,
                });
                return self.add(Change { target: None, fresh });
            }
            (Order::Newer, fresh) => self.plan.changes.push(Change {
                target: Some(id),
                fresh,
            }),
        }
        Ok(())
    }

    /// Plans another contact, unless there are more than the plan could be carried out with: each of a request is compared with all
    /// before it.
    fn add(&mut self, change: Change) -> Result<(), Refusal> {
        let is_full = self.plan.changes.len() >= self.changes_max;
        self.plan.changes.push(change);
        // What was planned is released with the plan.
        if is_full {
            return Err(Refusal::TooManyContacts);
        }
        Ok(())
    }

    /// A binding that the plan does not touch yet.
    fn find(&self, is_it: impl Fn(&Fresh) -> bool) -> Option<(BindingId, &'p Binding)> {
        self.location
            .bindings_of(self.key)
            .find(|(id, binding)| is_it(&binding.said) && !self.plan.touches(*id))
    }

    /// Since when the temporary GRUUs of the device of a contact are valid: RFC 5627 §5.1. `old` is what the contact was before.
    fn epoch(&self, said: &Said<'_>, old: Option<&Fresh>) -> u32 {
        if said.instance.is_none() {
            return 0;
        }
        let epoch = match old {
            Some(old) if old.text.call_id(self.pool) == self.request.call_id => old.epoch,
            // Another Call-ID makes all of them invalid.
            Some(_) => 0,
            None => {
                let is_kin = |old: &Fresh| said.is_of_device(old, self.pool);
                let mut bindings = self.location.bindings_of(self.key);
                bindings
                    .find(|(_, binding)| is_kin(&binding.said))
                    .map_or(0, |(_, binding)| binding.said.epoch)
            }
        };
        if epoch == 0 && wants_gruus(self.request) {
            EPOCH_TO_BEGIN
        } else {
            epoch
        }
    }

    fn order(&self, old: &Fresh) -> Order {
        let (call_id, cseq) = (self.request.call_id, self.request.cseq.number);
        if old.text.call_id(self.pool) != call_id || cseq > old.cseq {
            Order::Newer
        } else if cseq == old.cseq {
            Order::Same
        } else {
            Order::Older
        }
    }

    /// The binding whose texts a contact without a path repeats, and those texts.
    fn stored(&mut self, said: &Said<'_>) -> Option<(Text, &'p Fresh)> {
        let request = self.request;
        let texts = [said.uri.raw, said.params, request.call_id, request.to.uri];
        self.location.bindings_of(self.key).find_map(|(_, binding)| {
            let text = binding.said.text.again(texts, self.pool)?;
            Some((text, &binding.said))
        })
    }

    fn fresh(&mut self, said: &Said<'_>) -> Result<Fresh, Refusal> {
        let old = match self.path_len {
            0 => self.stored(said),
            _ => None,
        };
        let wording = Wording {
            uri: said.uri.raw,
            params: Params::new(said.params),
            call_id: self.request.call_id,
            aor: self.request.to.uri,
            path: self.request.msg.elements(Name::Path),
        };
        // One more than received: a semicolon before the first parameter too.
        let size = said.uri.raw.len()
            + said.params.len()
            + self.request.call_id.len()
            + self.request.to.uri.len()
            + self.path_len
            + 1;
        let tcp = Transport::Tcp.name().as_bytes();
        // RFC 5626 §6: a flow is kept by the first hop, which is a proxy's where there is a path.
        let is_flow = said.reg_id.is_some() && self.path_len == 0;
        let flow = if is_flow {
            // What identifies the flow itself, which is where the request came from.
            Flow {
                peer: self.source,
                ..self.flow
            }
        } else {
            self.flow
        };
        let (text, old) = match old {
            Some((text, old)) => (text, Some(old)),
            None => (Text::store(&wording, size, self.pool).ok_or(Refusal::Full)?, None),
        };
        let says_tcp = |uri: &Uri<'_>| uri.transport().is_some_and(|name| name.eq_ignore_ascii_case(tcp));
        Ok(Fresh {
            text,
            q: said.q,
            tcp: old.map_or_else(|| says_tcp(&said.uri), |old| old.tcp),
            reg_id: said.reg_id,
            has_reg_id: said.has_reg_id,
            is_flow,
            epoch: 0,
            cseq: self.request.cseq.number,
            expires_at: self.now + Duration::from_secs(u64::from(said.expires_s)),
            is_at_peer: match old.filter(|old| old.flow.peer == flow.peer) {
                Some(old) => old.is_at_peer,
                None => {
                    said.uri.headers.is_empty() && destination(&said.uri) == Ok((Transport::Udp, flow.peer))
                }
            },
            flow,
        })
    }
}

fn release(fresh: Option<Fresh>, pool: &mut Pool) {
    if let Some(fresh) = fresh {
        fresh.text.release(pool);
    }
}

/// A request against the one that last changed a binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// Another Call-ID, or a higher CSeq.
    Newer,
    Same,
    Older,
}

/// What the parameters of a Contact say.
struct Features<'a> {
    expires: Option<&'a [u8]>,
    /// Not empty.
    instance: Option<&'a [u8]>,
    reg_id: Option<&'a [u8]>,
    q: u16,
}

/// One Contact of a REGISTER, read.
struct Said<'a> {
    uri: Uri<'a>,
    params: &'a [u8],
    instance: Option<&'a [u8]>,
    reg_id: Option<NonZeroU32>,
    has_reg_id: bool,
    q: u16,
    /// What will be granted, seconds; 0 removes.
    expires_s: u32,
}

impl<'a> Said<'a> {
    fn read(
        contact: &NameAddr<'a>,
        request: &Request<'_>,
        expires_header: Option<&[u8]>,
        cfg: &Config,
    ) -> Result<Said<'a>, Refusal> {
        let (mut expires, mut instance, mut reg_id, mut q) = (None, None, None, None);
        for param in contact.params_iter() {
            let first = if param.is(b"expires") {
                &mut expires
            } else if param.is(b"+sip.instance") {
                &mut instance
            } else if param.is(b"reg-id") {
                &mut reg_id
            } else if param.is(b"q") {
                &mut q
            } else {
                continue;
            };
            first.get_or_insert(param.value_or_empty());
        }
        let features = Features {
            expires,
            instance: instance.filter(|value| !value.is_empty()),
            reg_id,
            q: q.and_then(lex::qvalue).unwrap_or(Q_DEFAULT),
        };
        Said::of(
            contact.uri,
            contact.params,
            features,
            request,
            expires_header,
            cfg,
        )
    }

    fn of(
        uri: &'a [u8],
        params: &'a [u8],
        Features {
            expires,
            instance,
            reg_id,
            q,
        }: Features<'a>,
        request: &Request<'_>,
        expires_header: Option<&[u8]>,
        cfg: &Config,
    ) -> Result<Said<'a>, Refusal> {
        let limits = &cfg.registrar;
        // §10.3 step 7: the parameter, else the header field, else the default. What is malformed counts as not said
        // (§20.10 takes 3600 for it, which is the RFC's own default).
        let requested = expires
            .map(unquoted)
            .or(expires_header)
            .and_then(lex::number)
            .unwrap_or(limits.expires_default_s);
        if requested > 0 && requested < limits.expires_min_s.min(NEVER_BRIEF_S) {
            return Err(Refusal::IntervalTooBrief);
        }
        let uri = Uri::parse(uri).map_err(|_| Refusal::MalformedContact)?;
        let texts = [uri.raw, params, request.call_id, request.to.uri];
        if texts.iter().map(|text| text.len()).sum::<usize>() >= BINDING_TEXT_MAX {
            return Err(Refusal::ContactTooLong);
        }
        if instance.is_some() && requested > 0 && is_circular(&uri, request, cfg) {
            return Err(Refusal::Circular);
        }
        Ok(Said {
            uri,
            params,
            instance,
            has_reg_id: reg_id.is_some(),
            reg_id: match instance.and(reg_id).and_then(flow_number) {
                Some(number) if path::knows_flows(request)? => Some(number),
                Some(_) | None => None,
            },
            q,
            expires_s: requested.min(limits.expires_max_s),
        })
    }

    /// Whether `old` is the same binding, updated.
    fn is_same(&self, old: &Fresh, pool: &Pool) -> bool {
        // RFC 5626 §6: where both name a flow of a device, that is what names the binding. The flows of one device have one
        // URI.
        if self.reg_id.is_some() && old.reg_id.is_some() {
            return self.is_same_device(old, pool);
        }
        let old = old.text.uri(pool);
        // A phone that refreshes spells its contact as before.
        old == self.uri.raw || Uri::parse(old).is_ok_and(|uri| self.uri.matches(&uri))
    }

    /// Whether `old` is what the same device registered, for the same flow if it tells flows apart.
    fn is_same_device(&self, old: &Fresh, pool: &Pool) -> bool {
        self.is_of_device(old, pool) && self.reg_id == old.reg_id
    }

    /// Whether `old` is what the same device registered, whatever the flow.
    fn is_of_device(&self, old: &Fresh, pool: &Pool) -> bool {
        match (self.instance, old.text.instance(pool)) {
            (Some(new), Some(old)) => new.eq_ignore_ascii_case(old),
            (Some(_) | None, None) | (None, Some(_)) => false,
        }
    }
}

/// RFC 5627 §5.1: whether a contact is its own address-of-record or a GRUU of that, or no SIP URI: a request to it would come back here.
fn is_circular(contact: &Uri<'_>, request: &Request<'_>, cfg: &Config) -> bool {
    match contact.scheme {
        Scheme::Sip | Scheme::Sips => {}
        Scheme::Tel | Scheme::Other => return true,
    }
    // Nearly all contacts are at an address, and those are at another than the address-of-record.
    if contact.raw != request.to.uri
        && contact
            .host
            .first()
            .is_none_or(|byte| matches!(byte, b'0'..=b'9' | b'['))
    {
        return false;
    }
    let Ok(to) = request.to.uri() else { return false };
    let is_same = |one: &Uri<'_>, two: &Uri<'_>| {
        let names = [one, two].map(|uri| Aor::from_uri(uri, cfg));
        matches!(names, [Ok(one), Ok(two)] if one == two)
    };
    // A temporary GRUU does not show whose it is; what leads here at all leads in a circle.
    contact.matches(&to)
        || gruu::is_ours(contact.raw, cfg) && (contact.param(b"gr") == Some(b"") || is_same(contact, &to))
}

/// RFC 5626 §4.2: from 1 to 2^31 - 1.
fn flow_number(text: &[u8]) -> Option<NonZeroU32> {
    NonZeroU32::new(lex::number(text)?).filter(|number| number.get() <= i32::MAX as u32)
}

#[cfg(test)]
mod tests;
