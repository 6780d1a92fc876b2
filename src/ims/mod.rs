//! The phone service of an IMS lab: what to do with a request, by its method and by whom it is for.
//!
//! One box that plays P-CSCF, S-CSCF and registrar: REGISTER and the `reg` event are answered here, everything else that
//! names a subscriber is carried to its phones by the B2BUA. RFC 3261 §8.2 gives the order of the checks.

pub mod reg_event;
pub mod register;
#[cfg(test)]
mod rig;

use crate::b2bua::{B2bua, Begun, BranchId, CallId, ExchangeId};
use crate::config::Config;
use crate::key_index::Key;
use crate::location::{Aor, AorError, AorHasher, Asker, ContactSet, Location, LookUp, Named, Whom};
use crate::metrics::DropReason;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::named_dialog::NamedDialog;
use crate::msg::request::{Request, Response};
use crate::msg::status::reason_phrase;
use crate::msg::uri::{Scheme, Uri};
use crate::pool::Pool;
use crate::registrar;
use crate::time::Instant;
use crate::timer::{Timer, TimerKind};
use crate::token::TokenKind;
use crate::transaction::{Notice, Stack, TxId, User, UserEvent};
use crate::trunk::ping;
use crate::trunk::standing::Outcome;
use crate::wire::{Effects, Flow};

use reg_event::RegEvent;

/// Methods that are understood here: RFC 3261 §20.5.
pub const ALLOW: &[u8] =
    b"Allow: INVITE, ACK, CANCEL, BYE, REGISTER, OPTIONS, SUBSCRIBE, NOTIFY, MESSAGE, INFO, UPDATE, PRACK, REFER\r\n";

/// Option tags that are between the phones: the B2BUA carries what they ask for without having a part in it.
const END_TO_END_EXTENSIONS: &[&[u8]] = &[
    b"100rel",
    b"timer",
    b"precondition",
    b"replaces",
    b"join",
    b"norefersub",
    b"early-session",
    b"histinfo",
    b"from-change",
    b"tdialog",
    b"multiple-refer",
    b"answermode",
    b"resource-priority",
];

/// The services of one shard.
pub struct Ims {
    pub aors: AorHasher,
    pub location: Location,
    pub reg_event: RegEvent,
    pub calls: B2bua,
}

impl Ims {
    /// A request for the service that belongs to no transaction yet; `key` is that of the one to make. It may end in a look-up,
    /// whose answer goes to [`Ims::found`].
    pub fn on_new_request(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        key: Key,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) -> Option<LookUp> {
        let tx = stack.open_server(request, key, flow, now, &mut out.pool);
        if request.method == Method::Cancel {
            self.on_cancel(stack, request, key, tx, flow, now, out);
            return None;
        }
        let Some(tx) = tx else {
            stack.metrics.dropped(DropReason::TransactionsFull);
            let retry_after = |w: &mut crate::msg::build::Writer<'_>| _ = w.put(b"Retry-After: 5\r\n");
            stack.respond_stateless(
                request,
                flow,
                (503, "Transaction Limit Reached"),
                retry_after,
                out,
            );
            return None;
        };
        let (whom, is_near) = match self.check(stack, request, tx, now, out) {
            Verdict::Done => return None,
            Verdict::Named(named) => {
                let is_near = named.aor().shard(stack.shards) == stack.shard;
                (Whom::from(named), is_near)
            }
            // It may take two look-ups, of which the second comes without the request.
            Verdict::Dialog { or } => (Whom::Dialog { or }, false),
        };
        match self.calls.begin(stack, request, tx, is_near, now, out) {
            Begun::Waiting(exchange) => {
                let asker = Asker::Exchange {
                    slot: exchange.slot,
                    generation: exchange.generation,
                };
                Some(LookUp { whom, asker })
            }
            Begun::Answered => None,
        }
    }

    /// RFC 3261 §9.2. `tx`: that of the CANCEL, where there was a place for it. Without one what is in progress can be ended all the same.
    #[allow(clippy::too_many_arguments)]
    fn on_cancel(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        key: Key,
        tx: Option<TxId>,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) {
        let invite = stack.find_invite(request);
        let status = if invite.is_some() { 200 } else { 481 };
        // §9.2: the To tag of both answers, this one and that of the INVITE, should be the same.
        let tag = stack.repeatable_tag(key);
        match tx {
            Some(tx) => stack.respond(tx, request, status, Some(&tag), |_| {}, now, out),
            None => stack.respond_stateless(request, flow, (status, reason_phrase(status)), |_| {}, out),
        }
        if let Some(invite) = invite {
            self.calls.cancel(stack, invite, request, &tag, now, out);
        }
    }

    /// The ACK of a 2xx. `false`: no call awaits it.
    pub fn ack(&mut self, stack: &mut Stack, request: &Request<'_>, now: Instant, out: &mut Effects) -> bool {
        self.calls.ack(stack, request, now, out)
    }

    /// Whether a request belongs to a call or subscription of the service, whatever a routing table says.
    pub fn owns(&self, stack: &Stack, request: &Request<'_>, pool: &Pool) -> bool {
        let token = |text| stack.key.parse(text).map(|token| token.kind);
        match request.to_tag {
            // A call that takes the place of one of ours belongs where that is.
            None => [Some(request.call_id), named_call_id(request)]
                .into_iter()
                .flatten()
                .any(|call_id| token(call_id) == Some(TokenKind::Leg)),
            Some(tag) => {
                token(tag) == Some(TokenKind::Subscription)
                    || token(request.call_id) == Some(TokenKind::Leg)
                    || self.calls.has_dialog(stack, request, pool)
            }
        }
    }

    /// Answers what is wrong or for us, in the order of RFC 3261 §8.2; what is left is for a subscriber.
    fn check(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        now: Instant,
        out: &mut Effects,
    ) -> Verdict {
        let answer = |stack: &mut Stack, out: &mut Effects, status: u16| {
            stack.respond(tx, request, status, None, |_| {}, now, out);
            Verdict::Done
        };
        // §8.2.1: methods.
        match request.method {
            Method::Other if request.to_tag.is_none() => {
                stack.respond(tx, request, 501, None, |w| _ = w.put(ALLOW), now, out);
                return Verdict::Done;
            }
            Method::Publish => {
                stack.respond(tx, request, 405, None, |w| _ = w.put(ALLOW), now, out);
                return Verdict::Done;
            }
            Method::Invite
            | Method::Ack
            | Method::Cancel
            | Method::Bye
            | Method::Register
            | Method::Options
            | Method::Subscribe
            | Method::Notify
            | Method::Message
            | Method::Info
            | Method::Update
            | Method::Prack
            | Method::Refer
            | Method::Other => {}
        }
        // §8.2.2.1: the Request-URI.
        let uri = &request.request_uri;
        match uri.scheme {
            Scheme::Sip | Scheme::Tel => {}
            // Without TLS a `sips:` request could not be kept secure as it asks (§26.2.2).
            Scheme::Sips | Scheme::Other => return answer(stack, out, 416),
        }
        // §8.2.2.3: extensions that the request insists on.
        if self.refuses_extensions(stack, request, tx, now, out) {
            return Verdict::Done;
        }
        if request.method == Method::Register {
            register::on_register(self, stack, request, tx, now, out);
            return Verdict::Done;
        }
        if request.method == Method::Subscribe && !self.is_call_dialog(stack, request) {
            // §8.2.3: a filter, or whatever else the body is, would have to be obeyed, and none can be read.
            if !request.msg.body().is_empty() {
                stack.respond(tx, request, 415, None, |w| _ = w.put(b"Accept:\r\n"), now, out);
                return Verdict::Done;
            }
            self.reg_event
                .on_subscribe(stack, &self.aors, &self.location, request, tx, now, out);
            return Verdict::Done;
        }
        // §16.3 step 3: what goes on must have hops left.
        let is_ours = uri.scheme == Scheme::Sip && uri.user.is_none();
        if request.max_forwards == Some(0) && !is_ours {
            return answer(stack, out, 483);
        }
        if request.to_tag.is_some() {
            if !self.calls.in_dialog(stack, request, tx, now, out) {
                stack.respond(tx, request, 481, None, |_| {}, now, out);
            }
            return Verdict::Done;
        }
        match request.method {
            // §12.2.2: these live in dialogs only.
            Method::Bye | Method::Update | Method::Prack | Method::Info | Method::Notify => {
                return answer(stack, out, 481);
            }
            Method::Options if is_ours => {
                let extra = |w: &mut crate::msg::build::Writer<'_>| {
                    // §11.2.
                    w.put(ALLOW).put(
                        b"Accept: application/sdp, application/reginfo+xml\r\nAccept-Encoding: identity\r\n",
                    );
                    w.put(
                        b"Accept-Language: en\r\nSupported: 100rel, timer, replaces, join, tdialog, path, outbound, gruu\r\nAllow-Events: reg\r\n",
                    );
                };
                stack.respond(tx, request, 200, None, extra, now, out);
                return Verdict::Done;
            }
            Method::Invite
            | Method::Ack
            | Method::Cancel
            | Method::Register
            | Method::Options
            | Method::Subscribe
            | Method::Message
            | Method::Refer
            | Method::Publish
            | Method::Other => {}
        }
        let named = Named::from_uri(uri, &stack.cfg, &self.aors, &stack.key);
        match NamedDialog::to_act_on(&request.msg) {
            Ok(None) => {}
            // RFC 3891 §3 and §4: it is for the phone that has the dialog, whatever the Request-URI.
            Ok(Some(_)) if request.method == Method::Invite => return Verdict::Dialog { or: None },
            Ok(Some(_)) => {
                stack.respond_because(
                    tx,
                    request,
                    (400, "Replaces Or Join Outside INVITE"),
                    None,
                    |_| {},
                    now,
                    out,
                );
                return Verdict::Done;
            }
            Err(Name::Join) => {
                stack.respond_because(tx, request, (400, "Bad Join"), None, |_| {}, now, out);
                return Verdict::Done;
            }
            Err(_) => {
                stack.respond_because(tx, request, (400, "Bad Replaces"), None, |_| {}, now, out);
                return Verdict::Done;
            }
        }
        if NamedDialog::to_prove(&request.msg).is_some() {
            return Verdict::Dialog { or: named.ok() };
        }
        match named {
            Ok(named) => Verdict::Named(named),
            // The server itself takes neither calls nor messages.
            Err(AorError::NoUser) => {
                stack.respond(tx, request, 405, None, |w| _ = w.put(ALLOW), now, out);
                Verdict::Done
            }
            Err(error) => {
                stack.respond_because(
                    tx,
                    request,
                    (error.status(), error.reason()),
                    None,
                    |_| {},
                    now,
                    out,
                );
                Verdict::Done
            }
        }
    }

    /// RFC 3261 §8.2.2.3 and §21.4.15 to §21.4.16: 420 for what we don't understand, 421 for what we insist on.
    fn refuses_extensions(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let known = match request.method {
            Method::Register => registrar::EXTENSIONS,
            _ => END_TO_END_EXTENSIONS,
        };
        let is_unknown = |tag: &&[u8]| !known.iter().any(|known| known.eq_ignore_ascii_case(tag));
        // RFC 4028 §7.1: who asks that those on the way know timers may be told that we do.
        let keeps_timers = stack.cfg.session_timers.enabled && request.method != Method::Register;
        let is_beyond_proxy = |tag: &&[u8]| !(keeps_timers && tag.eq_ignore_ascii_case(b"timer"));
        let unsupported = || {
            request
                .msg
                .elements(Name::Require)
                .filter(is_unknown)
                .chain(request.msg.elements(Name::ProxyRequire).filter(is_beyond_proxy))
        };
        let asks =
            request.msg.line(Name::Require).is_some() || request.msg.line(Name::ProxyRequire).is_some();
        if asks && unsupported().next().is_some() {
            let extra = |w: &mut crate::msg::build::Writer<'_>| {
                w.put(b"Unsupported: ");
                for (i, tag) in unsupported().enumerate() {
                    w.put(if i == 0 { b"" } else { b", " }).put(tag);
                }
                w.crlf();
            };
            stack.respond(tx, request, 420, None, extra, now, out);
            return true;
        }
        let requires_any = !stack.cfg.extensions_required.is_empty();
        if requires_any && request.method == Method::Invite && request.to_tag.is_none() {
            let cfg = stack.cfg.clone();
            let missing = cfg.extensions_required.iter().find(|tag| {
                !request.msg.has_token(Name::Supported, tag.as_bytes())
                    && !request.msg.has_token(Name::Require, tag.as_bytes())
            });
            if let Some(tag) = missing {
                let extra = |w: &mut crate::msg::build::Writer<'_>| {
                    w.put(b"Require: ").put(tag.as_bytes()).crlf();
                };
                stack.respond(tx, request, 421, None, extra, now, out);
                return true;
            }
        }
        false
    }

    /// Whether a SUBSCRIBE belongs to a dialog that the B2BUA carries rather than to one of ours.
    fn is_call_dialog(&self, stack: &Stack, request: &Request<'_>) -> bool {
        request.to_tag.is_some_and(|tag| {
            stack
                .key
                .parse(tag)
                .is_none_or(|token| token.kind != TokenKind::Subscription)
        }) && !request.msg.value(Name::Event).is_some_and(is_reg)
    }

    /// The answer to a [`LookUp`]: `None` when it could not be made. `request` must be given if the subscriber is this
    /// shard's own, and the answer comes at once.
    pub fn found(
        &mut self,
        stack: &mut Stack,
        exchange: ExchangeId,
        contacts: Option<&ContactSet>,
        request: Option<&Request<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        match contacts {
            Some(contacts) => self.calls.found(stack, exchange, contacts, request, now, out),
            None => self.calls.not_found(stack, exchange, now, out),
        }
    }

    /// A response to one of our requests.
    pub fn on_response(
        &mut self,
        stack: &mut Stack,
        (user, tx): (User, TxId),
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) {
        match user {
            User::None if response.cseq.method == Method::Invite && (200..300).contains(&response.status) => {
                B2bua::acknowledge_after_end(stack, tx, response, out);
            }
            User::None | User::Exchange { .. } | User::ProxyBranch { .. } | User::ProxyContext { .. } => {}
            User::Ping { slot, generation } => {
                ping::on_answer(stack, slot, generation, Outcome::Status(response.status), now);
            }
            User::Branch { slot, generation } => {
                self.calls
                    .on_response(stack, BranchId::new(slot, generation), response, now, out);
            }
            User::Subscription { slot, generation } => {
                let id = reg_event::SubscriptionId::new(slot, generation);
                self.reg_event
                    .on_client_end(stack, &self.location, id, Some(response.status), now, out);
            }
        }
    }

    /// What a transaction says of itself.
    pub fn on_user_event(&mut self, stack: &mut Stack, event: UserEvent, now: Instant, out: &mut Effects) {
        match event.user {
            User::None | User::ProxyBranch { .. } | User::ProxyContext { .. } => {}
            User::Ping { slot, generation } => {
                let outcome = match event.notice {
                    Notice::Unreachable => Outcome::Unreachable,
                    Notice::Message | Notice::Timeout | Notice::Unanswered | Notice::Ended => {
                        Outcome::TimeOut
                    }
                };
                ping::on_answer(stack, slot, generation, outcome, now);
            }
            User::Branch { slot, generation } => {
                self.calls
                    .on_branch_event(stack, BranchId::new(slot, generation), event.notice, now, out);
            }
            User::Exchange { slot, generation } => {
                self.calls.on_exchange_event(
                    stack,
                    ExchangeId::new(slot, generation),
                    event.notice,
                    now,
                    out,
                );
            }
            User::Subscription { slot, generation } => {
                let id = reg_event::SubscriptionId::new(slot, generation);
                self.reg_event
                    .on_client_end(stack, &self.location, id, None, now, out);
            }
        }
    }

    /// Removes every binding of a subscriber. How many there were.
    pub fn unregister(&mut self, stack: &mut Stack, aor: &Aor, now: Instant, out: &mut Effects) -> u32 {
        let key = self.aors.key(aor);
        register::unregister(self, stack, key, now, out)
    }

    /// A timer that is not the transaction layer's.
    pub fn on_timer(&mut self, stack: &mut Stack, timer: Timer, now: Instant, out: &mut Effects) {
        let (slot, generation) = (timer.slot, timer.generation);
        match timer.kind {
            TimerKind::Call => self
                .calls
                .on_call_timer(stack, CallId::new(slot, generation), now, out),
            TimerKind::Binding | TimerKind::Aor => register::on_timer(self, stack, timer, now, out),
            TimerKind::Subscription => self.reg_event.on_timer(stack, &self.location, timer, now, out),
            TimerKind::Transaction
            | TimerKind::Context
            | TimerKind::Held
            | TimerKind::Stream
            | TimerKind::Question
            | TimerKind::Address
            | TimerKind::Ping
            | TimerKind::TrunkCall
            | TimerKind::ProxiedCall => {}
        }
    }
}

enum Verdict {
    Done,
    /// For a subscriber, or one device of his.
    Named(Named),
    /// For the phone that has a dialog, or else for whom the URI names.
    Dialog {
        or: Option<Named>,
    },
}

/// The subscriber whose shard answers this request, for REGISTER and the `reg` event: RFC 3261 §10.3, RFC 3680 §4.
pub fn owner_aor(request: &Request<'_>, cfg: &Config) -> Option<Aor> {
    let uri = match request.method {
        Method::Register => request.to.uri().ok()?,
        Method::Subscribe => Uri::parse(request.uri).ok()?,
        _ => return None,
    };
    Aor::from_uri(&uri, cfg).ok()
}

/// The Call-ID of the dialog that an INVITE is to replace or to join.
fn named_call_id<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    let named = NamedDialog::to_act_on(&request.msg).ok()??;
    Some(named.call_id)
}

fn is_reg(event: &[u8]) -> bool {
    let end = event.iter().position(|byte| *byte == b';').unwrap_or(event.len());
    event[..end].trim_ascii().eq_ignore_ascii_case(b"reg")
}
