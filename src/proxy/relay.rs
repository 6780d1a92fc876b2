//! Forwarding without state: RFC 3261 §16.11, and the ACK of a 2xx, which no transaction carries (§16.6, §17).
//!
//! The branch is worked out from what came, so that a retransmission, and the CANCEL of an INVITE, gets the same; and it says
//! where answers go back, so that any shard can send them.

use std::net::{Ipv4Addr, SocketAddr};

use crate::config::route::To;
use crate::dns::plan::{Targets, Wanted};
use crate::dns::{Asker, Resolved};
use crate::location::{AorHasher, Contact, LookUp};
use crate::metrics::DropReason;
use crate::msg::build::Writer;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::{Request, Response};
use crate::msg::status::reason_phrase;
use crate::msg::uri::Uri;
use crate::msg::via::Via;
use crate::pool::BufId;
use crate::slots::Id;
use crate::timer::TimerId;
use crate::token::{Token, TokenKind};
use crate::transaction::destination::flow_to;
use crate::transaction::{Stack, User};
use crate::wire::{ConnId, Effects, Flow, ListenerId, Transport, TxOp};

use super::context::{begins_dialog, caller_flow};
use super::flow_token::FlowToken;
use super::forward::next_route;
use super::held::{dialog_gruu, way_to};
use super::names::{Addresses, Way, unresolved, way};
use super::response::edit_relayed;
use super::trunk::flow_of_call;
use super::validate::{Arrived, Refused, check, preprocess, relay_digest};
use super::write::{edit_received, put_record_routes, put_via};
use super::{ContextId, Policy, Proxy, rewritten};

/// The lines that are put before those of the request.
const BLOCK_BYTES: usize = 2_048;
const SLACK: usize = 512;
/// RFC 3261 §18.2.2: the port of a Via that names none.
const PORT_DEFAULT: u16 = 5060;

impl Proxy {
    /// Sends a request on, and forgets it. It may end in a look-up, whose answer goes to [`Proxy::held_found`].
    #[allow(clippy::too_many_arguments)]
    pub fn relay(
        &mut self,
        stack: &mut Stack,
        aors: &AorHasher,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        policy: Policy,
        flow: Flow,
        out: &mut Effects,
    ) -> Option<LookUp> {
        let checked = match check(stack, request, arrived, None) {
            Ok(()) if self.is_draining && request.to_tag.is_none() && request.method == Method::Invite => {
                Err(Refused::with(503, "Server Stopping"))
            }
            checked => checked,
        };
        let sent = checked.and_then(|()| {
            if let Some(named) = dialog_gruu(stack, aors, request, arrived, policy) {
                return self
                    .hold_for_contact(stack, named, request, policy, flow, out)
                    .map(Some);
            }
            self.send_on(
                stack,
                request,
                arrived,
                policy,
                flow,
                None,
                &mut Addresses::default(),
                out,
            )
            .map(|()| None)
        });
        if sent.is_ok() && request.method == Method::Ack {
            self.note_ack(stack, request);
        }
        sent.unwrap_or_else(|refused| {
            refuse(stack, request, flow, Err(refused), out);
            None
        })
    }

    /// What came of the look-up that a held message waits for.
    pub fn held_resolved(
        &mut self,
        stack: &mut Stack,
        id: HeldId,
        resolved: Resolved,
        targets: &Targets,
        out: &mut Effects,
    ) {
        let Some(Held {
            buf, policy, flow, ..
        }) = self.held.remove(id)
        else {
            return;
        };
        self.read_again(buf, out, |proxy, request, out| {
            let arrived = preprocess(stack, request, flow);
            if request.method == Method::Cancel && proxy.meets_its_invite(stack, request, flow, out) {
                return;
            }
            let sent = match resolved {
                Resolved::Targets => {
                    let known = &mut Addresses::of(targets);
                    proxy.send_on(stack, request, &arrived, policy, flow, None, known, out)
                }
                Resolved::NoAddress | Resolved::Failed | Resolved::Full | Resolved::Waiting(_) => {
                    Err(unresolved(resolved))
                }
            };
            refuse(stack, request, flow, sent, out);
        });
        out.pool.release(buf);
    }

    /// Whether the INVITE of a CANCEL that was held has come since: then it is answered here, once (RFC 3261 §16.10).
    fn meets_its_invite(
        &mut self,
        stack: &mut Stack,
        cancel: &Request<'_>,
        flow: Flow,
        out: &mut Effects,
    ) -> bool {
        let now = out.received_at;
        let key = match stack.key_of_new(cancel) {
            Some(key) => key,
            // It has come again, and was answered then.
            None => return true,
        };
        let Some(invite) = stack.find_invite(cancel) else {
            return false;
        };
        match stack.user_of(invite) {
            Some(User::ProxyContext { slot, generation }) => {
                let id = ContextId::new(slot, generation);
                self.cancel(stack, id, cancel, key, flow, now, out);
            }
            // §9.2: it has had its final response, and a CANCEL changes nothing.
            Some(_) | None => {
                stack.respond_stateless(cancel, flow, (200, reason_phrase(200)), |_| {}, out);
            }
        }
        true
    }

    /// Keeps a message until it is known where it goes.
    #[allow(clippy::too_many_arguments)]
    fn hold(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        policy: Policy,
        flow: Flow,
        wanted: &Wanted,
        seed: u64,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        let (id, buf) = self.keep_held(stack, request, policy, flow, out)?;
        let asker = Asker::Held {
            slot: id.slot,
            generation: id.generation,
        };
        let now = out.received_at;
        let mut targets = Targets::default();
        let asked = (stack.dns).resolve(&mut stack.wheel, wanted, asker, seed, now, &mut targets);
        match asked {
            Resolved::Waiting(_) => Ok(()),
            Resolved::Targets | Resolved::NoAddress | Resolved::Failed | Resolved::Full => {
                self.held.remove(id);
                out.pool.release(buf);
                Err(unresolved(asked))
            }
        }
    }

    /// Keeps a message; what is to be given back of it.
    pub(super) fn keep_held(
        &mut self,
        stack: &Stack,
        request: &Request<'_>,
        policy: Policy,
        flow: Flow,
        out: &mut Effects,
    ) -> Result<(HeldId, BufId), Refused> {
        let Some(buf) = out.pool.put(&request.msg.bytes[..request.msg.len()]) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return Err(Refused::with(503, "Buffer Limit Reached"));
        };
        let timer = None;
        let held = Held {
            buf,
            policy,
            flow,
            timer,
        };
        match self.held.insert(held) {
            Some(id) => Ok((id, buf)),
            None => {
                out.pool.release(buf);
                Err(Refused::with(503, "Transaction Limit Reached"))
            }
        }
    }

    /// `contact`: whom the request is for, where its URI does not say where that is.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_on(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        policy: Policy,
        flow: Flow,
        contact: Option<&Contact<'_>>,
        addresses: &mut Addresses,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        // RFC 3263 §4.4: every copy of a message takes the same way.
        let seed = stack.key.digest(&[request.call_id]);
        let rule = policy.rule(stack);
        let mut bytes = self
            .uri
            .take()
            .expect("whoever takes the URI's bytes puts them back");
        let written = rewritten(rule, request, arrived, &mut bytes)
            .ok_or(Refused::with(414, "Request-URI Too Long"))
            .and_then(|len| {
                let place = match rule.map(|route| &route.to) {
                    Some(To::Uris(places)) => places.first(),
                    None | Some(To::Nowhere | To::Registered | To::RequestUri | To::Trunk(_)) => None,
                };
                let path = contact.map_or(&b""[..], |contact| contact.path);
                let (request_uri, hop) = match (place, contact) {
                    (Some(place), _) if place.is_whole => (place.uri.as_bytes(), None),
                    (Some(place), _) => (&bytes[..len], Some(place.uri.as_bytes())),
                    (None, Some(contact)) => (contact.uri, None),
                    (None, None) => (&bytes[..len], None),
                };
                let next = next_route(request, arrived);
                let hop_uri = Uri::parse(next.or(hop).unwrap_or(request_uri))
                    .map_err(|_| Refused::with(400, "Bad Route"))?;
                let is_strict = next.is_some() && hop_uri.param(b"lr").is_none();
                let like = Flow { conn: None, ..flow };
                let of_call = match rule.map(|route| &route.to) {
                    Some(To::Trunk(name)) => flow_of_call(stack, name, request, like),
                    Some(To::Nowhere | To::Registered | To::RequestUri | To::Uris(_)) | None => None,
                };
                let over = arrived.over.map(Flow::alone).or(of_call);
                let found = match (contact, over, next) {
                    (Some(contact), _, _) => way_to(stack, contact, addresses, seed, out)?,
                    (None, Some(flow), None) => Way::There(flow),
                    (None, Some(_) | None, _) => {
                        way(stack, &hop_uri, like, addresses, seed, out.received_at)?
                    }
                };
                let to = match found {
                    Way::There(flow) => flow,
                    Way::Unknown(wanted) => return Ok(Written::Waits(wanted)),
                };
                let (request_uri, strict_target) = if is_strict {
                    (hop_uri.raw, Some(request_uri))
                } else {
                    (request_uri, None)
                };
                let mut block = [0; BLOCK_BYTES];
                let mut w = Writer::new(&mut block);
                let own = branch_digest(stack, request);
                let token = token_for(stack, flow);
                // What a dialog's route leads here is led on by it: it comes to us again only where somebody else has it circle.
                match policy.route {
                    None => put_via(stack, to, token, &[own], b"", &mut w),
                    Some(_) => {
                        let digests = [own, relay_digest(stack, request, arrived)];
                        put_via(stack, to, token, &digests, b"", &mut w);
                    }
                }
                // What a flow token has led here is forwarded with state: only the caller may have a flow of its own.
                if begins_dialog(request) && policy.record_route {
                    let caller = caller_flow(request, flow).map(|flow| FlowToken::of(flow, &stack.key));
                    let dialog = stack.key.digest(&[request.call_id]);
                    let recorded = (policy.record_route_kind(), dialog);
                    put_record_routes(stack, recorded, (flow, caller.as_ref()), (to, None), &mut w);
                }
                let block_len = w.finish().ok_or(Refused::with(513, "Message Too Large"))?;
                let block = &block[..block_len];
                let change = rule.map(|route| &route.rewrite);
                let fits = edit_received(
                    &mut self.edits,
                    request,
                    arrived,
                    Some(flow.peer),
                    request_uri,
                    strict_target,
                    change,
                    block,
                    path,
                );
                let added = change.map_or(0, crate::routing::rewrite::bytes_added);
                let len =
                    request.msg.len() + block.len() + SLACK + added + 2 * request_uri.len() + path.len();
                let Some(mut draft) = out.pool.draft(len) else {
                    stack.metrics.dropped(DropReason::NoBuffer);
                    return Err(Refused::with(503, "Buffer Limit Reached"));
                };
                let written = fits
                    .then(|| self.edits.write_message(request.msg, &mut draft.bytes).ok())
                    .flatten();
                match written {
                    Some(len) => Ok(Written::Message(to, out.pool.commit(draft, len))),
                    None => {
                        out.pool.discard(draft);
                        Err(Refused::with(513, "Message Too Large"))
                    }
                }
            });
        self.uri = Some(bytes);
        match written? {
            Written::Message(to, buf) => {
                stack.count_request(request.method, to.transport);
                out.send(to, buf, None);
                Ok(())
            }
            Written::Waits(wanted) => self.hold(stack, request, policy, flow, &wanted, seed, out),
        }
    }

    /// A response whose Via of ours names no transaction but the way back: RFC 3261 §16.11, §18.2.2.
    pub fn relay_response(
        &mut self,
        stack: &mut Stack,
        token: Token,
        response: &Response<'_>,
        out: &mut Effects,
    ) {
        let transport = match token.kind {
            TokenKind::RelayUdp => Transport::Udp,
            TokenKind::RelayTcp
            | TokenKind::Transaction
            | TokenKind::Leg
            | TokenKind::Subscription
            | TokenKind::Stateless
            | TokenKind::RecordRoute
            | TokenKind::RecordRouteTcp => Transport::Tcp,
        };
        let (like, conn) = match transport {
            Transport::Udp => (u16::try_from(token.slot).ok().map(ListenerId), None),
            Transport::Tcp => {
                let conn = ConnId {
                    shard: token.shard,
                    slot: token.slot,
                    generation: token.generation,
                };
                (None, Some(conn))
            }
        };
        self.send_back(stack, response, Some(transport), like, conn, out);
    }

    /// A 2xx to an INVITE whose server transaction is over: it was refused, and the refusal acknowledged, or answered long ago.
    /// RFC 3261 §16.7 step 9: it goes back as it would without state, by the Via below ours.
    pub(super) fn send_success_back(
        &mut self,
        stack: &mut Stack,
        response: &Response<'_>,
        out: &mut Effects,
    ) {
        self.send_back(stack, response, None, None, None, out);
    }

    /// Sends a response to where the Via below ours says, over `transport`, or over that of the Via.
    fn send_back(
        &mut self,
        stack: &mut Stack,
        response: &Response<'_>,
        transport: Option<Transport>,
        like: Option<ListenerId>,
        conn: Option<ConnId>,
        out: &mut Effects,
    ) {
        let next = response.msg.elements(Name::Via).nth(1).map(Via::parse);
        let Some(Ok(via)) = next else {
            stack.metrics.dropped(DropReason::StrayResponse);
            return;
        };
        let ip = via.received_ip().or_else(|| via.host_ip());
        let transport = transport.unwrap_or(if via.transport.eq_ignore_ascii_case(b"TCP") {
            Transport::Tcp
        } else {
            Transport::Udp
        });
        let port = match transport {
            Transport::Udp => via.rport.flatten().or(via.port),
            Transport::Tcp => via.port,
        };
        let like = Flow {
            transport,
            listener: like.unwrap_or(ListenerId(0)),
            peer: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            conn,
        };
        let flow = match ip.map(|ip| SocketAddr::new(ip, port.unwrap_or(PORT_DEFAULT))) {
            // The Via is as the sender of the response has it: a group of hosts, or none, never asked us anything; nor do we ourselves,
            // and what has our Via a hundred times would come to us as often.
            Some(peer) => flow_to(&stack.cfg, (transport, peer), Some(like)),
            // We had put a `received` there, which is gone: the connection is left, or the name.
            None => Ok(like),
        };
        let Ok(flow) = flow else {
            stack.metrics.dropped(DropReason::StrayResponse);
            return;
        };
        edit_relayed(&mut self.edits, response, stack.load);
        let Some(mut draft) = out.pool.draft(response.msg.len() + SLACK) else {
            stack.metrics.dropped(DropReason::NoBuffer);
            return;
        };
        let written = self.edits.write_message(response.msg, &mut draft.bytes);
        if let Some(buf) = stack.keep_written(draft, written.ok(), &mut out.pool) {
            stack.count_response(response.status, transport);
            if ip.is_some() || conn.is_some() {
                out.send(flow, buf, Some(TxOp::ANSWER));
            } else {
                stack.send_by_sent_by(flow, buf, out.received_at, out);
            }
        }
    }
}

/// A message that waits for the address of its next hop.
pub struct Held {
    pub(super) buf: BufId,
    pub(super) policy: Policy,
    pub(super) flow: Flow,
    /// When its look-up is given up, where that is not DNS's.
    pub(super) timer: Option<TimerId>,
}

pub type HeldId = Id<Held>;

#[allow(clippy::large_enum_variant)]
enum Written {
    Message(Flow, BufId),
    /// DNS must be asked first.
    Waits(Wanted),
}

/// Answers what can't be sent on.
pub(super) fn refuse(
    stack: &mut Stack,
    request: &Request<'_>,
    flow: Flow,
    sent: Result<(), Refused>,
    out: &mut Effects,
) {
    match sent {
        Ok(()) => {}
        // §17: an ACK is never answered.
        Err(_) if request.method == Method::Ack => stack.metrics.dropped(DropReason::StrayAck),
        Err(refused) => refused.answer_stateless(stack, request, flow, out),
    }
}

/// Where answers to what came over `flow` go back.
fn token_for(stack: &Stack, flow: Flow) -> Token {
    match flow.conn {
        Some(conn) => Token {
            kind: TokenKind::RelayTcp,
            shard: conn.shard,
            slot: conn.slot,
            generation: conn.generation,
        },
        None => Token {
            kind: TokenKind::RelayUdp,
            shard: stack.shard,
            slot: u32::from(flow.listener.0),
            generation: 0,
        },
    }
}

/// §16.11: what makes the branch of a forwarded message its own, and the same for each copy of it. A CANCEL, and the ACK of a
/// failure, have the branch of their INVITE.
fn branch_digest(stack: &Stack, request: &Request<'_>) -> u64 {
    let number = request.cseq.number.to_be_bytes();
    let port = request.via.port.unwrap_or(0).to_be_bytes();
    match request.via.branch {
        Some(branch) if branch.starts_with(crate::token::BRANCH_COOKIE) => {
            stack
                .key
                .digest(&[b"branch", branch, request.via.host, &port, &number])
        }
        Some(_) | None => stack.key.digest(&[
            b"none",
            request.via.raw,
            request.call_id,
            request.from_tag.unwrap_or_default(),
            &number,
            request.uri,
        ]),
    }
}
