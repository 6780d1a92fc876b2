//! How a call begins: a request outside any dialog is taken in and gets its 100, and the subscriber that it is for is looked up.
//! [`ring`](super::ring) goes on from there.

use crate::dialog::{Dialog, Parts, ROUTES_BYTES_MAX, put_route_set, target_of};
use crate::key_index::Key;
use crate::metrics::Limit;
use crate::msg::build::{WayBack, Writer};
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr;
use crate::msg::request::Request;
use crate::msg::uri::Uri;
use crate::msg::via::Via;
use crate::pool::Stay;
use crate::record::Place;
use crate::time::Instant;
use crate::transaction::destination::{RouteError, route, wants_flow};
use crate::transaction::hop::Hop;
use crate::transaction::{Stack, TxId, User};
use crate::wire::{Effects, Flow, Transport};

use super::asked::Asked;
use super::call::{Call, Exchange, Leg, Phase, Side};
use super::session::Refresh;
use super::write::ContactPlace;
use super::{B2bua, CallId, ExchangeId, LegId};

/// What became of a request that may begin a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It waits for [`B2bua::found`] with this id.
    Waiting(ExchangeId),
    /// It was answered.
    Answered,
}

/// How long a look-up on another shard, or DNS, may take before the request is answered with 503.
pub(super) const LOOK_UP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl B2bua {
    /// Takes in a request outside any dialog, on its server transaction `tx`. An INVITE gets its 100 at once.
    /// `comes_back`: [`B2bua::found`] will be given the request again, so that no copy of it need be kept.
    pub fn begin(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        comes_back: bool,
        now: Instant,
        out: &mut Effects,
    ) -> Begun {
        let is_invite = request.method == Method::Invite;
        if self.is_draining {
            return self.unavailable(stack, tx, request, "Server Stopping", now, out);
        }
        let Some(from_tag) = request.from_tag else {
            stack.respond_because(tx, request, (400, "Missing From Tag"), None, |_| {}, now, out);
            return Begun::Answered;
        };
        let contact = match name_addr::first_seen(request.msg, Name::Contact, &mut self.features) {
            Some(Ok(contact)) => Some(contact),
            Some(Err(_)) => {
                stack.respond_because(tx, request, (400, "Bad Contact"), None, |_| {}, now, out);
                return Begun::Answered;
            }
            // RFC 3261 §8.1.1.8: an INVITE must name where its dialog is reached.
            None if is_invite => {
                stack.respond_because(tx, request, (400, "Missing Contact"), None, |_| {}, now, out);
                return Begun::Answered;
            }
            None => None,
        };
        // §8.2.2.2: the same request over another path is "merged"; it has a transaction of its own, and so came this far.
        let key = stack.keyer.dialog(request.call_id, from_tag);
        // While a call stands a later number does not begin another beside it, which would take its requests.
        let is_merged = self.call_by_key(key).is_some_and(|call| {
            call.phase != Phase::Ending
                && (call.is_invite
                    || self
                        .legs
                        .get(call.caller)
                        .is_some_and(|leg| leg.remote_cseq >= request.cseq.number))
        });
        // A Call-ID of ours outside a dialog has come back to us: one of the contacts leads here.
        if is_merged || stack.key.parse(request.call_id).is_some() {
            stack.respond(tx, request, 482, None, |_| {}, now, out);
            return Begun::Answered;
        }
        if self.refuses_interval(stack, request, tx, now, out) {
            return Begun::Answered;
        }
        let (Some(source_flow), Some(source)) = (stack.flow_of(tx), stack.source_of(tx)) else {
            return Begun::Answered;
        };
        let back = WayBack {
            is_named: Some(request.via.is_of(source_flow.peer.ip())),
            ..stack.way_back(source)
        };
        let contact_uri = contact.map_or(&b""[..], |contact| contact.uri);
        let is_at_source = back.is_named == Some(true) && leads_back(contact_uri, &request.via, source_flow);
        // One that ends with the sent-by has nothing behind it.
        let target = if is_at_source {
            contact_uri
        } else {
            target_of(contact_uri)
        };
        // §12.2.1.1: the way back is the route set that the request leaves, which begins with the nearest proxy.
        let next_hop = match name_addr::first(request.msg, Name::RecordRoute) {
            Some(Ok(route)) => Some(route.uri),
            Some(Err(_)) | None => None,
        };
        let mut is_named = false;
        let flow = if next_hop.is_none() && is_at_source {
            source_flow
        } else {
            match Uri::parse(next_hop.unwrap_or(target)) {
                Ok(uri) if wants_flow(&uri) => source_flow,
                Ok(uri) => route(&stack.cfg, &uri, Some(source_flow)).unwrap_or_else(|error| {
                    is_named = error == RouteError::HostName;
                    // A transport that we lack, or a name until it is known: answers reach it, so requests may too.
                    source_flow
                }),
                Err(_) => source_flow,
            }
        };
        let mut room;
        let routes = match request.msg.line(Name::RecordRoute) {
            None => &b""[..],
            Some(_) => {
                room = [0; ROUTES_BYTES_MAX];
                let mut w = Writer::new(&mut room);
                let fits = put_route_set(&request.msg, false, &mut w);
                match w.finish().filter(|_| fits) {
                    Some(len) => &room[..len],
                    // §12.1.1: a route set that is cut short leads nowhere.
                    None => {
                        let said = (513, "Record-Route Too Long");
                        stack.respond_because(tx, request, said, None, |_| {}, now, out);
                        return Begun::Answered;
                    }
                }
            }
        };
        let way = (target, routes);
        let contact = contact.map(|contact| ContactPlace::of(&contact, request.msg));
        let Some((call, exchange)) =
            self.add_call(stack, request, key, from_tag, way, (flow, back), contact, tx, out)
        else {
            return self.unavailable(stack, tx, request, "Call Limit Reached", now, out);
        };
        stack.set_user(
            tx,
            User::Exchange {
                slot: exchange.slot,
                generation: exchange.generation,
            },
        );
        if is_named {
            self.name_caller_hop(stack, call, out);
        }
        if is_invite {
            stack.metrics.calls_started.inc();
            let came_from = Place {
                transport: source_flow.transport,
                peer: source,
            };
            self.note_begun(call, request, came_from, now, out);
            // At once, since a look-up may take its time; with our Contact, as in the captured flows.
            self.send_trying(stack, exchange, tx, now, out);
        } else {
            stack.awaits_answer(tx);
        }
        if !comes_back && !self.keep_request(exchange, request, out) {
            self.fail(stack, exchange, (503, "Buffer Limit Reached"), now, out);
            return Begun::Answered;
        }
        if !comes_back {
            self.set_call_timer(stack, call, now + LOOK_UP_TIMEOUT);
        }
        Begun::Waiting(exchange)
    }

    /// The 100 that [`Asked`] is kept in.
    fn send_trying(
        &mut self,
        stack: &mut Stack,
        exchange: ExchangeId,
        tx: TxId,
        now: Instant,
        out: &mut Effects,
    ) {
        if let Some(asked) = self.exchanges.get(exchange).and_then(|exchange| exchange.asked) {
            let buf = out.pool.retain(asked.text());
            stack.send_response(tx, 100, buf, now, out);
        }
    }

    /// A call in [`Phase::Locating`] with its caller's leg and the exchange of `request`.
    #[allow(clippy::too_many_arguments)]
    fn add_call(
        &mut self,
        stack: &Stack,
        request: &Request<'_>,
        key: Key,
        from_tag: &[u8],
        (target, routes): (&[u8], &[u8]),
        (flow, back): (Flow, WayBack),
        contact: Option<ContactPlace>,
        tx: TxId,
        out: &mut Effects,
    ) -> Option<(CallId, ExchangeId)> {
        if self.calls.is_full() {
            stack.metrics.limit_reached(Limit::Calls);
            return None;
        }
        if !out.pool.takes_in(Stay::New) {
            return None;
        }
        let parts = Parts {
            call_id: request.call_id,
            local: request.to.raw,
            local_tag: b"",
            remote: request.from.raw,
            remote_tag: from_tag,
            target,
            routes,
        };
        let is_invite = request.method == Method::Invite;
        let trying = is_invite.then(|| stack.contact_uri(flow));
        let asked = Asked::keep(request, back, trying, &mut out.pool)?;
        let Some(dialog) = Dialog::new(&parts, &mut out.pool) else {
            asked.release(&mut out.pool);
            return None;
        };
        let call = self.calls.insert(Call {
            key,
            phase: Phase::Locating,
            // Its leg follows; a call that can't have one goes again before anybody sees it.
            caller: LegId::new(u32::MAX, 0),
            first_callee: None,
            answered: None,
            first_exchange: None,
            exchanges: 0,
            is_invite,
            timer: None,
            ends_at: Instant::FAR_FUTURE,
            session_ends_at: Instant::FAR_FUTURE,
            begun_at: out.received_at,
            has_rung: false,
        })?;
        let leg = self.legs.insert(Leg {
            call,
            side: Side::Caller,
            dialog,
            local_cseq: 0,
            remote_cseq: request.cseq.number,
            target_cseq: request.cseq.number,
            flow,
            hop: Hop::default(),
            device: 0,
            flows_failed: 0,
            unacknowledged: None,
            acks: [None; 2],
            refers: None,
            next: None,
        });
        let exchange = leg.and_then(|leg| {
            self.calls.get_mut(call)?.caller = leg;
            self.add_exchange(Exchange {
                call,
                server: Some(tx),
                asked: Some(asked),
                request: None,
                contact,
                target: None,
                contacts: None,
                method: request.method,
                refresh: Refresh::of(&stack.cfg.session_timers, request),
                from: leg,
                cseq: request.cseq.number,
                first_branch: None,
                next: None,
                best: None,
                is_answered: false,
            })
        });
        match exchange {
            Some(exchange) => {
                // What bore the key before is over, or waits for one answer only. Each key stands once: whoever sends a
                // thousand requests with one would otherwise have a thousand links looked at whenever one of them ends.
                if let Some(before) = self.by_key.get(key) {
                    self.by_key.remove(key, before);
                }
                self.by_key.insert(key, call.slot);
                Some((call, exchange))
            }
            None => {
                // The slots of legs and exchanges are sized after those of calls: only a crowd of forks gets here.
                if let Some(leg) = leg {
                    self.remove_leg(leg, out);
                }
                self.calls.remove(call);
                asked.release(&mut out.pool);
                None
            }
        }
    }

    /// Keeps the whole request until its look-up is answered. `false`: there is no buffer.
    fn keep_request(&mut self, id: ExchangeId, request: &Request<'_>, out: &mut Effects) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return false;
        };
        exchange.request = out.pool.put(&request.msg.bytes[..request.msg.len()]);
        exchange.request.is_some()
    }

    /// 503: no call is begun.
    fn unavailable(
        &mut self,
        stack: &mut Stack,
        tx: TxId,
        request: &Request<'_>,
        reason: &str,
        now: Instant,
        out: &mut Effects,
    ) -> Begun {
        self.tell_turned_away(stack, tx, request, 503, now, out);
        stack.respond_because(
            tx,
            request,
            (503, reason),
            None,
            |w| _ = w.put(RETRY_AFTER),
            now,
            out,
        );
        Begun::Answered
    }
}

/// Whether `uri` is that of a user at the very port, and by UDP, that answers go to over `flow`, and at the host of `via`, which must be
/// where they go: nearly every phone's Contact is, and then need not be read.
fn leads_back(uri: &[u8], via: &Via<'_>, flow: Flow) -> bool {
    const PORT_DEFAULT: u16 = 5060;
    flow.transport == Transport::Udp
        && uri.starts_with(b"sip:")
        && uri
            .strip_suffix(via.sent_by)
            .is_some_and(|user| user.ends_with(b"@"))
        && flow.peer.port() == via.port.unwrap_or(PORT_DEFAULT)
}

/// Seconds after which a caller may try again when there was no room: RFC 3261 §20.33.
pub(super) const RETRY_AFTER: &[u8] = b"Retry-After: 5\r\n";
