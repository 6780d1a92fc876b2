//! A SUBSCRIBE for the `reg` event: begins, refreshes or ends a subscription (RFC 6665 §4.2.1).

use std::time::Duration;

use crate::config::Config;
use crate::dialog::{Change, Dialog, Parts, ROUTES_BYTES_MAX, put_route_set, target_of};
use crate::location::{Aor, AorError, AorHasher, Location};
use crate::metrics::Limit;
use crate::msg::build::{self, Writer};
use crate::msg::lex;
use crate::msg::name::Name;
use crate::msg::name_addr::{Contacts, NameAddr, contacts};
use crate::msg::params;
use crate::msg::request::Request;
use crate::msg::status::reason_phrase;
use crate::msg::uri::{Scheme, Uri};
use crate::pool::Stay;
use crate::time::Instant;
use crate::token::TokenKind;
use crate::transaction::destination::{RouteError, route, wants_flow};
use crate::transaction::hop::Hop;
use crate::transaction::{Stack, TxId};
use crate::wire::{Effects, Flow};

use super::reginfo::CONTENT_TYPE;
use super::{RegEvent, State, Subscription, SubscriptionId, Topic, tag_of};

/// Why a SUBSCRIBE was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// No Event, or another package than `reg`.
    Event,
    /// The subscriber does not take documents of RFC 3680.
    Accept,
    /// Below `reg_event.expires_min_s`.
    IntervalTooBrief,
    /// The Request-URI names nobody of ours.
    Aor(AorError),
    /// None, several, or one that can't be read.
    Contact,
    /// No NOTIFY could go where Contact or Record-Route say.
    Unreachable,
    /// More text than a dialog of a subscription may have.
    TooLong,
    /// No such subscription.
    Unknown,
    /// RFC 3261 §12.2.2: a CSeq lower than one that came before.
    OutOfOrder,
    /// A limit was reached.
    Full,
}

/// Seconds after which to try again when there is no room.
const RETRY_AFTER_S: u64 = 60;
/// RFC 6665 §4.2.1.1: an interval of an hour or more is never too brief.
const NEVER_BRIEF_S: u32 = 3_600;
/// Most bytes of the texts of one subscription.
const TEXTS_MAX: usize = 6_144;
/// Room in a 200 beside what the SUBSCRIBE and the address-of-record take.
const OK_OVERHEAD: usize = 512;

impl Refusal {
    fn status(self) -> u16 {
        match self {
            Refusal::Event => 489,
            Refusal::Accept => 406,
            Refusal::IntervalTooBrief => 423,
            Refusal::Aor(error) => error.status(),
            Refusal::Contact | Refusal::Unreachable | Refusal::TooLong => 400,
            Refusal::Unknown => 481,
            Refusal::OutOfOrder => 500,
            Refusal::Full => 503,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Refusal::Aor(error) => error.reason(),
            Refusal::Contact => "Contact Missing Or Malformed",
            Refusal::Unreachable => "Contact Or Record-Route Can't Be Reached",
            Refusal::TooLong => "Dialog Headers Too Long",
            Refusal::OutOfOrder => "CSeq Out Of Order",
            Refusal::Full => "Subscription Limit Reached",
            Refusal::Event | Refusal::Accept | Refusal::IntervalTooBrief | Refusal::Unknown => {
                reason_phrase(self.status())
            }
        }
    }

    fn put_headers(self, expires_min_s: u32, w: &mut Writer<'_>) {
        match self {
            // RFC 6665 §8.3.2: a 489 lists what there is.
            Refusal::Event => w.put(b"Allow-Events: reg\r\n"),
            Refusal::Accept => w.header(Name::Accept, CONTENT_TYPE),
            Refusal::IntervalTooBrief => {
                w.header_num(Name::MinExpires, u64::from(expires_min_s.min(NEVER_BRIEF_S)))
            }
            Refusal::Full => w.header_num(Name::RetryAfter, RETRY_AFTER_S),
            Refusal::Aor(_)
            | Refusal::Contact
            | Refusal::Unreachable
            | Refusal::TooLong
            | Refusal::Unknown
            | Refusal::OutOfOrder => w,
        };
    }
}

/// What a SUBSCRIBE asks for, in order.
struct Asked<'a> {
    event: &'a [u8],
    /// What will be granted, seconds; 0 ends or only fetches.
    expires_s: u32,
    /// Whether that is what was asked for, so that Expires can go back as it came.
    is_as_asked: bool,
}

impl RegEvent {
    /// Answers a SUBSCRIBE that is new, and sends the NOTIFY that follows its 200.
    #[allow(clippy::too_many_arguments)]
    pub fn on_subscribe(
        &mut self,
        stack: &mut Stack,
        aors: &AorHasher,
        location: &Location,
        request: &Request<'_>,
        tx: TxId,
        now: Instant,
        out: &mut Effects,
    ) {
        let subscribed = Asked::read(request, &stack.cfg).and_then(|asked| {
            let id = match request.to_tag {
                None => self.begin(stack, aors, request, tx, &asked, out)?,
                Some(tag) => self.refresh(stack, request, tag, tx, &asked, out)?,
            };
            Ok((id, asked))
        });
        match subscribed {
            Ok((id, asked)) => {
                self.grant(stack, id, asked.expires_s, now);
                self.accept(stack, request, tx, id, &asked, now, out);
                self.notify(stack, location, id, now, out);
            }
            Err(refusal) => {
                let expires_min_s = stack.cfg.reg_event.expires_min_s;
                let extra = |w: &mut Writer<'_>| refusal.put_headers(expires_min_s, w);
                let said = (refusal.status(), refusal.reason());
                stack.respond_because(tx, request, said, None, extra, now, out);
            }
        }
    }

    /// A subscription and its dialog (§4.2.1.1, RFC 3261 §12.1.1).
    fn begin(
        &mut self,
        stack: &mut Stack,
        aors: &AorHasher,
        request: &Request<'_>,
        tx: TxId,
        asked: &Asked<'_>,
        out: &mut Effects,
    ) -> Result<SubscriptionId, Refusal> {
        // RFC 3680 §4.7.1: one who never registered has a state too, so nobody of ours is unknown here.
        let uri = Uri::parse(request.uri).map_err(|_| Refusal::Aor(AorError::NoUser))?;
        let aor = Aor::from_uri(&uri, &stack.cfg).map_err(Refusal::Aor)?;
        let contact = contact_of(request)?.ok_or(Refusal::Contact)?;
        let mut routes = [0; ROUTES_BYTES_MAX];
        let mut w = Writer::new(&mut routes);
        if !put_route_set(&request.msg, false, &mut w) {
            return Err(Refusal::TooLong);
        }
        let routes_len = w.finish().ok_or(Refusal::TooLong)?;
        let key = aors.key(&aor);
        let limit = if self.watchers(key) >= self.per_aor_max {
            Some(Limit::SubscriptionsPerAor)
        } else {
            self.subscriptions.is_full().then_some(Limit::Subscriptions)
        };
        if let Some(limit) = limit {
            stack.metrics.limit_reached(limit);
            return Err(Refusal::Full);
        }
        if !out.pool.takes_in(Stay::New) {
            return Err(Refusal::Full);
        }
        let id = self.subscriptions.next_id();
        let tag = tag_of(stack, id);
        let mut local = [0; TEXTS_MAX];
        let mut w = Writer::new(&mut local);
        w.put(request.to.raw).put(b";tag=").put(&tag);
        let local_len = w.finish().ok_or(Refusal::TooLong)?;
        let parts = Parts {
            call_id: request.call_id,
            local: &local[..local_len],
            local_tag: &tag,
            remote: request.from.raw,
            remote_tag: request.from_tag.unwrap_or_default(),
            target: target_of(contact.uri),
            routes: &routes[..routes_len],
        };
        if parts.len() + asked.event.len() > TEXTS_MAX {
            return Err(Refusal::TooLong);
        }
        let (flow, is_named) = flow_to(stack, request, tx, &parts)?;
        let mut aor_uri = [0; TEXTS_MAX];
        let mut w = Writer::new(&mut aor_uri);
        put_asked_for(&aor, &uri, stack.advertised(flow), &mut w);
        let aor_len = w.finish().ok_or(Refusal::TooLong)?;
        let dialog = Dialog::new(&parts, &mut out.pool).ok_or(Refusal::Full)?;
        let Some(topic) = Topic::new(&aor_uri[..aor_len], asked.event, &mut out.pool) else {
            dialog.release(&mut out.pool);
            return Err(Refusal::Full);
        };
        let subscription = Subscription {
            key,
            next: None,
            dialog,
            topic,
            flow,
            hop: Hop::default(),
            untried: None,
            state: State::Active,
            remote_cseq: request.cseq.number,
            cseq: 0,
            version: 0,
            expires_at: Instant::FAR_FUTURE,
            timer: None,
            timer_at: Instant::FAR_FUTURE,
            notify: None,
            is_due: false,
            gone: None,
        };
        let inserted = self.subscriptions.insert(subscription);
        assert_eq!(inserted, Some(id), "there was room, and the tag names the slot");
        self.link(key, id);
        self.set_named(stack, id, is_named, out);
        Ok(id)
    }

    /// A SUBSCRIBE within the dialog (§4.2.1.4).
    fn refresh(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        tag: &[u8],
        tx: TxId,
        asked: &Asked<'_>,
        out: &mut Effects,
    ) -> Result<SubscriptionId, Refusal> {
        let token = stack.key.parse(tag).ok_or(Refusal::Unknown)?;
        if token.kind != TokenKind::Subscription || token.shard != stack.shard {
            return Err(Refusal::Unknown);
        }
        let id = SubscriptionId::new(token.slot, token.generation);
        let subscription = self.subscriptions.get_mut(id).ok_or(Refusal::Unknown)?;
        let parts = subscription.dialog.parts(&out.pool);
        let is_dialog = parts.call_id == request.call_id
            && parts
                .remote_tag
                .eq_ignore_ascii_case(request.from_tag.unwrap_or_default());
        match subscription.state {
            State::Active if is_dialog => {}
            State::Active | State::Terminated => return Err(Refusal::Unknown),
        }
        if request.cseq.number < subscription.remote_cseq {
            return Err(Refusal::OutOfOrder);
        }
        // RFC 3261 §12.2.2: a SUBSCRIBE is a target refresh request; the route set stays.
        if let Some(contact) = contact_of(request)? {
            let new = Parts {
                target: target_of(contact.uri),
                ..parts
            };
            if new.len() + asked.event.len() > TEXTS_MAX {
                return Err(Refusal::TooLong);
            }
            let (flow, is_named) = flow_to(stack, request, tx, &new)?;
            if target_of(contact.uri) != parts.target {
                let change = Change {
                    target: Some(target_of(contact.uri)),
                    ..Change::default()
                };
                if !subscription.dialog.change(&change, &mut out.pool) {
                    return Err(Refusal::Full);
                }
            }
            subscription.flow = flow;
            subscription.remote_cseq = request.cseq.number;
            self.set_named(stack, id, is_named, out);
            return Ok(id);
        }
        subscription.remote_cseq = request.cseq.number;
        Ok(id)
    }

    fn grant(&mut self, stack: &mut Stack, id: SubscriptionId, expires_s: u32, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        subscription.expires_at = now + Duration::from_secs(u64::from(expires_s));
        if expires_s == 0 {
            // §4.2.1.4, §4.4.3: ended by its subscriber, or a fetch that never was more.
            subscription.state = State::Terminated;
            subscription.stop_timer(&mut stack.wheel);
        } else {
            subscription.start_timer(id, &mut stack.wheel);
        }
    }

    /// The 200: Expires as it came where it was granted so, and the address-of-record as Contact.
    #[allow(clippy::too_many_arguments)]
    fn accept(
        &self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        id: SubscriptionId,
        asked: &Asked<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let (Some(subscription), Some(source)) = (self.subscriptions.get(id), stack.source_of(tx)) else {
            return;
        };
        let topic = &subscription.topic;
        let size = request.msg.head_end() as usize + topic.aor(&out.pool).len() + OK_OVERHEAD;
        let tag = tag_of(stack, id);
        let back = stack.way_back(source);
        let buf = stack.write(size, out, |w, pool| {
            build::response_head(w, request, 200, reason_phrase(200), Some(&tag), back);
            match request.msg.line(Name::Expires) {
                Some(line) if asked.is_as_asked => {
                    w.put(&request.msg.bytes[line.start as usize..line.value.end as usize])
                        .crlf();
                }
                Some(_) | None => _ = w.header_num(Name::Expires, u64::from(asked.expires_s)),
            }
            w.put(b"Contact: <").put(topic.aor(pool)).put(b">\r\n");
            build::end(w);
        });
        match buf {
            Some(buf) => stack.send_response(tx, 200, buf, now, out),
            None => stack.abandon(tx, out),
        }
    }
}

impl<'a> Asked<'a> {
    fn read(request: &Request<'a>, cfg: &Config) -> Result<Asked<'a>, Refusal> {
        let msg = request.msg;
        // RFC 6665 §4.2.1.1, §8.2.1: what is subscribed to.
        let event = msg.value(Name::Event).ok_or(Refusal::Event)?;
        if !params::split(event).0.eq_ignore_ascii_case(b"reg") {
            return Err(Refusal::Event);
        }
        // RFC 3680 §4.5: without Accept it is `application/reginfo+xml`.
        let accepts = |range: &[u8]| {
            let range = params::split(range).0;
            [CONTENT_TYPE, b"application/*", b"*/*"]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(range))
        };
        let has_accept = msg.line(Name::Accept).is_some();
        if cfg.reg_event.notify_body && has_accept && !msg.elements(Name::Accept).any(accepts) {
            return Err(Refusal::Accept);
        }
        let limits = &cfg.reg_event;
        let requested = msg.value(Name::Expires).and_then(lex::number);
        let expires_s = requested
            .unwrap_or(limits.expires_default_s)
            .min(limits.expires_max_s);
        if requested.is_some_and(|asked| asked > 0 && asked < limits.expires_min_s.min(NEVER_BRIEF_S)) {
            return Err(Refusal::IntervalTooBrief);
        }
        Ok(Asked {
            event,
            expires_s,
            is_as_asked: requested == Some(expires_s),
        })
    }
}

/// The one Contact of a SUBSCRIBE: RFC 6665 §4.1.2.1 wants exactly one in the first, and in a refresh it may stand.
fn contact_of<'a>(request: &Request<'a>) -> Result<Option<NameAddr<'a>>, Refusal> {
    match contacts(request.msg) {
        Ok(Contacts::None) => Ok(None),
        Ok(Contacts::List(mut list)) => match (list.next(), list.next()) {
            (Some(Ok(contact)), None) => Ok(Some(contact)),
            (None, _) => Ok(None),
            (Some(Ok(_) | Err(_)), _) => Err(Refusal::Contact),
        },
        Ok(Contacts::Star) | Err(_) => Err(Refusal::Contact),
    }
}

/// Writes the address-of-record as it was asked for: at the host of a SIP URI, or for a number at the domain that its plan
/// belongs to. `us` stands where there is none.
fn put_asked_for(aor: &Aor, uri: &Uri<'_>, us: &str, w: &mut Writer<'_>) {
    match uri.scheme {
        Scheme::Sip | Scheme::Sips => {
            aor.put_uri(uri.host, w);
            if let Some(port) = uri.port {
                w.put(b":").num(u64::from(port));
            }
        }
        Scheme::Tel | Scheme::Other => {
            let context = uri
                .param(b"phone-context")
                .filter(|context| context.first() != Some(&b'+'));
            let host = match (aor.domain(), context) {
                (b"", Some(context)) => context,
                (b"", None) => us.as_bytes(),
                (domain, _) => domain,
            };
            aor.put_uri(host, w);
        }
    }
}

/// Where the NOTIFYs of this dialog go, and whether that is a name.
fn flow_to(
    stack: &Stack,
    request: &Request<'_>,
    tx: TxId,
    parts: &Parts<'_>,
) -> Result<(Flow, bool), Refusal> {
    let came_over = stack.flow_of(tx).ok_or(Refusal::Unreachable)?;
    let next_hop = Uri::parse(parts.next_hop()).map_err(|_| Refusal::Contact)?;
    if wants_flow(&next_hop) {
        return Ok((came_over, false));
    }
    match route(&stack.cfg, &next_hop, Some(came_over)) {
        Ok(flow) => {
            // A connection is the subscriber's own if nobody stands between, or the next hop is who opened it.
            let is_theirs =
                request.msg.elements(Name::Via).nth(1).is_none() || flow.peer.ip() == came_over.peer.ip();
            let conn = flow.conn.filter(|_| is_theirs);
            Ok((Flow { conn, ..flow }, false))
        }
        // Until DNS has answered the way that the SUBSCRIBE came is the one that is known.
        Err(RouteError::HostName) => Ok((came_over, true)),
        Err(
            RouteError::Scheme
            | RouteError::Transport
            | RouteError::NoListener
            | RouteError::Ourselves
            | RouteError::NotOneHost,
        ) => Err(Refusal::Unreachable),
    }
}
