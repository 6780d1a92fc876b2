//! Whose business a request is: the phone service's, the proxy's, or that of a rule which answers or drops it.
//!
//! What belongs to a transaction, to a call of the phone service or to a dialog that we record-routed goes where that is;
//! everything else by the routing table.

use crate::config::route::{Action, Route, To};
use crate::key_index::Key;
use crate::metrics::DropReason;
use crate::msg::build::Writer;
use crate::msg::edit::Edits;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::Request;
use crate::msg::scan::{Message, scan};
use crate::msg::status::reason_phrase;
use crate::proxy::{Arrived, ContextId, Policy, flow_of_call, preprocess};
use crate::routing::{self, rewrite};
use crate::time::Instant;
use crate::token::TokenKind;
use crate::transaction::{Known, User};
use crate::wire::{Effects, Flow};

use super::Shard;

impl Shard {
    /// A request that this shard owns.
    pub(super) fn dispatch(&mut self, request: &Request<'_>, flow: Flow, now: Instant, out: &mut Effects) {
        match self.stack.absorb(request, now, out) {
            Known::Absorbed => {}
            Known::AckForSuccess => self.dispatch_ack(request, flow, now, out),
            Known::New(key) => self.dispatch_new(request, key, flow, now, out),
        }
    }

    fn dispatch_new(&mut self, request: &Request<'_>, key: Key, flow: Flow, now: Instant, out: &mut Effects) {
        if request.method == Method::Cancel {
            // RFC 3261 §16.10: a CANCEL goes where its INVITE is.
            let invite = self.stack.find_invite(request);
            match invite.and_then(|invite| self.stack.user_of(invite)) {
                Some(User::ProxyContext { slot, generation }) => {
                    let id = ContextId::new(slot, generation);
                    self.proxy
                        .cancel(&mut self.stack, id, request, key, flow, now, out);
                    return;
                }
                Some(
                    User::None
                    | User::Branch { .. }
                    | User::Exchange { .. }
                    | User::ProxyBranch { .. }
                    | User::Ping { .. }
                    | User::Subscription { .. },
                ) => {
                    self.serve(request, key, flow, now, out);
                    return;
                }
                None => {}
            }
        }
        let arrived = preprocess(&self.stack, request, flow);
        if arrived.is_in_dialog || arrived.over.is_some() || arrived.is_forged {
            let policy = Policy::of_dialog(&arrived);
            self.forward(request, &arrived, policy, key, flow, now, out);
            return;
        }
        if self.stack.cfg.routes.is_empty() || self.ims.owns(&self.stack, request, &out.pool) {
            self.serve(request, key, flow, now, out);
            return;
        }
        let Some(index) = routing::find_index(&self.stack.cfg, request, flow) else {
            self.serve(request, key, flow, now, out);
            return;
        };
        let route = &self.stack.cfg.routes[index];
        tracing::debug!(
            call_id = %request.call_id.escape_ascii(),
            rule = index + 1,
            name = route.name,
            "route"
        );
        match route.action {
            Action::Ims if route.rewrite.changes_uri() || route.rewrite.changes_headers() => {
                self.serve_rewritten(index, request, key, flow, now, out);
            }
            Action::Ims => self.serve(request, key, flow, now, out),
            // §9.2: what goes to one of several is forwarded with state, and there is none.
            Action::Proxy if request.method == Method::Cancel && !goes_alone(&route.to) => {
                self.stack
                    .respond_stateless(request, flow, (481, reason_phrase(481)), |_| {}, out);
            }
            // Without its INVITE's context a CANCEL goes on as that would have: §16.10.
            Action::Proxy if route.stateless || request.method == Method::Cancel => {
                let policy = Policy::of(&self.stack, index, route);
                self.relay(request, &arrived, policy, flow, now, out);
            }
            Action::Proxy => {
                let policy = Policy::of(&self.stack, index, route);
                self.forward(request, &arrived, policy, key, flow, now, out);
            }
            Action::Redirect | Action::Reject => self.answer_by_rule(index, request, flow, out),
            Action::Drop => self.stack.metrics.dropped(DropReason::Rule),
        }
    }

    /// An ACK that no transaction awaits: that of a 2xx.
    fn dispatch_ack(&mut self, request: &Request<'_>, flow: Flow, now: Instant, out: &mut Effects) {
        let arrived = preprocess(&self.stack, request, flow);
        if arrived.is_in_dialog || arrived.over.is_some() || arrived.is_forged {
            let policy = Policy::of_dialog(&arrived);
            self.relay(request, &arrived, policy, flow, now, out);
            return;
        }
        if self.ims.ack(&mut self.stack, request, now, out) {
            return;
        }
        // §8.2.7: that of a failure which we answered with no transaction is for nobody else.
        let tag = request.to_tag.and_then(|tag| self.stack.key.parse(tag));
        if tag.is_some_and(|token| token.kind == TokenKind::Stateless) {
            self.stack.metrics.dropped(DropReason::StrayAck);
            return;
        }
        let cfg = &self.stack.cfg;
        let index = routing::find_index(cfg, request, flow);
        let policy = index.and_then(|index| {
            let route = cfg.routes.get(index)?;
            let knows_way = match &route.to {
                To::Trunk(name) => flow_of_call(&self.stack, name, request, flow).is_some(),
                To::Nowhere | To::Registered | To::RequestUri | To::Uris(_) => goes_alone(&route.to),
            };
            (route.action == Action::Proxy && knows_way).then(|| Policy::of(&self.stack, index, route))
        });
        match policy {
            Some(policy) => self.relay(request, &arrived, policy, flow, now, out),
            None => self.stack.metrics.dropped(DropReason::StrayAck),
        }
    }

    fn serve(&mut self, request: &Request<'_>, key: Key, flow: Flow, now: Instant, out: &mut Effects) {
        let look_up = self
            .ims
            .on_new_request(&mut self.stack, request, key, flow, now, out);
        if let Some(look_up) = look_up {
            self.look_up(look_up, Some((request, flow)), now, out);
        }
    }

    fn relay(
        &mut self,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        policy: Policy,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) {
        let aors = &self.ims.aors;
        let look_up = self
            .proxy
            .relay(&mut self.stack, aors, request, arrived, policy, flow, out);
        if let Some(look_up) = look_up {
            self.look_up(look_up, None, now, out);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn forward(
        &mut self,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        policy: Policy,
        key: Key,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) {
        let aors = &self.ims.aors;
        let look_up = self.proxy.begin(
            &mut self.stack,
            aors,
            request,
            arrived,
            policy,
            key,
            flow,
            now,
            out,
        );
        if let Some(look_up) = look_up {
            self.look_up(look_up, Some((request, flow)), now, out);
        }
    }

    /// The phone service is given the request as the rule makes it.
    fn serve_rewritten(
        &mut self,
        index: usize,
        request: &Request<'_>,
        key: Key,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some((mut table, mut edits, mut bytes)) = self.rewriting.take() else {
            return;
        };
        let written = self.rewrite(index, request, &mut edits, &mut bytes);
        let checked = written.and_then(|len| {
            let bytes = &bytes[..len];
            scan(bytes, &mut table).ok()?;
            Request::check(Message::new(bytes, &table)).ok()
        });
        match checked {
            Some(request) => self.serve(&request, key, flow, now, out),
            None => {
                self.stack
                    .respond_stateless(request, flow, (513, "Message Too Large"), |_| {}, out);
            }
        }
        self.rewriting = Some((table, edits, bytes));
    }

    fn rewrite(
        &self,
        index: usize,
        request: &Request<'_>,
        edits: &mut Edits,
        bytes: &mut [u8],
    ) -> Option<usize> {
        let change = &self.stack.cfg.routes.get(index)?.rewrite;
        edits.clear();
        let mut uri = [0; 1_024];
        if change.changes_uri() {
            let mut w = Writer::new(&mut uri);
            rewrite::put_uri(change, &request.request_uri, &mut w);
            let len = w.finish()?;
            edits.replace(request.msg.span_of(request.uri)).put(&uri[..len]);
        }
        rewrite::edit_headers(change, request.msg, edits);
        edits
            .write_message(request.msg, bytes)
            .ok()
            .map(|written| written.len)
    }

    /// A redirection or rejection, without a transaction: the same request gets the same answer (RFC 3261 §8.2.7).
    fn answer_by_rule(&mut self, index: usize, request: &Request<'_>, flow: Flow, out: &mut Effects) {
        if request.method == Method::Cancel {
            // §9.2: what it is about was answered already.
            self.stack
                .respond_stateless(request, flow, (481, reason_phrase(481)), |_| {}, out);
            return;
        }
        let cfg = self.stack.cfg.clone();
        let Some(route) = cfg.routes.get(index) else {
            return;
        };
        let status = route.status();
        let reason = match route.reason.as_str() {
            "" => reason_phrase(status),
            reason => reason,
        };
        let extra = |w: &mut Writer<'_>| put_answer_lines(route, w);
        self.stack
            .respond_stateless(request, flow, (status, reason), extra, out);
    }
}

/// Whether what a rule forwards can go there without anything being known of what went there before.
fn goes_alone(to: &To) -> bool {
    match to {
        To::RequestUri | To::Uris(_) => true,
        To::Nowhere | To::Registered | To::Trunk(_) => false,
    }
}

fn put_answer_lines(route: &Route, w: &mut Writer<'_>) {
    if let (Action::Redirect, To::Uris(places)) = (route.action, &route.to) {
        for place in places {
            w.put(Name::Contact.text().as_bytes())
                .put(b": <")
                .put(place.uri.as_bytes())
                .put(b">");
            if place.q < 1_000 {
                let q = u64::from(place.q);
                w.put(b";q=0.").num(q / 100).num(q / 10 % 10).num(q % 10);
            }
            w.crlf();
        }
    }
    if route.retry_after_s > 0 {
        w.header_num(Name::RetryAfter, u64::from(route.retry_after_s));
    }
    rewrite::put_added(&route.rewrite, w);
}
