//! The proxy: requests are forwarded as they are but for what RFC 3261 §16 has changed, and their responses go back.
//!
//! A request that is forwarded with state has a response context ([`context`]): its server transaction, and a branch with a
//! client transaction for each place that it was sent to. [`validate`] is §16.3 and §16.4, [`forward`] and [`mod@write`] §16.6,
//! [`response`] and [`best`] §16.7 to §16.10, [`relay`] §16.11, [`names`] RFC 3263. Dialogs have no state here: their later requests come back by our
//! Record-Route and go on to where they say themselves.
//!
//! Nothing is copied but once: a request is written with its edits into the buffer that its first client transaction keeps.
//! Further branches, and answers of our own, are made from that buffer.

mod best;
mod context;
mod flow_token;
mod forward;
mod held;
mod names;
mod record;
mod relay;
mod response;
mod targets;
mod trunk;
mod validate;
mod write;

use std::time::Duration;

use crate::config::Config;
use crate::config::route::{Fork, Route, To};
use crate::key_index::Key;
use crate::location::{AorHasher, Asker, ContactSet, LookUp, Named, Outcome, Whom};
use crate::metrics::{DropReason, Limit};
use crate::msg::build::Writer;
use crate::msg::edit::Edits;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::request::Request;
use crate::msg::scan::{Message, Table, scan};
use crate::msg::uri::Uri;
use crate::pool::{BufId, CLASS_BYTES};
use crate::port::ConfigId;
use crate::routing::rewrite;
use crate::slots::Slots;
use crate::time::Instant;
use crate::token::TokenKind;
use crate::transaction::{Stack, TxId, User};
use crate::wire::{Effects, Flow};

pub use context::{BranchId, ContextId};
pub use relay::HeldId;
pub use trunk::flow_of_call;
pub use validate::{Arrived, Refused, preprocess};

use context::{Branch, Context};
use forward::Source;
use relay::Held;
use targets::{Target, TargetSet};

/// RFC 5393 §5.3.3: Max-Breadth where a request has none, and the most that is believed.
pub const MAX_BREADTH: u8 = 60;
/// How long a look-up on another shard may take before the request is answered with 503.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request URI that a rule may make.
const URI_BYTES_MAX: usize = 4_096;

/// How the requests of one rule are forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The rule's place in the table; `None`: a request of a dialog that began earlier.
    pub route: Option<usize>,
    /// The configuration that the table is part of: a request that a rule has taken up ends by it, whatever is configured since.
    pub config: ConfigId,
    pub fork: Fork,
    pub recurse: bool,
    pub record_route: bool,
    /// Whether a REGISTER gets a Path of ours.
    pub add_path: bool,
    pub tcp_when_large: bool,
    pub ring_s: u32,
    /// Whether it goes to a trunk.
    pub is_trunk: bool,
}

impl Policy {
    /// Requests within a dialog go where they say.
    const DIALOG: Policy = Policy {
        route: None,
        config: ConfigId::FIRST,
        fork: Fork::ByQ,
        recurse: false,
        record_route: false,
        add_path: false,
        tcp_when_large: false,
        ring_s: 30,
        is_trunk: false,
    };

    /// What the rule in this place of the present table says.
    pub fn of(stack: &Stack, index: usize, route: &Route) -> Policy {
        let is_trunk = matches!(route.to, To::Trunk(_));
        Policy {
            route: Some(index),
            config: stack.config_id(),
            // The destinations of a trunk stand for one another.
            fork: if is_trunk { Fork::Serial } else { route.fork },
            recurse: route.recurse,
            record_route: route.record_route,
            add_path: route.add_path,
            tcp_when_large: route.tcp_when_large,
            ring_s: route.ring_s,
            is_trunk,
        }
    }

    /// For a request of a dialog that began earlier, as its rule said then.
    pub fn of_dialog(arrived: &Arrived<'_>) -> Policy {
        Policy {
            tcp_when_large: arrived.tcp_when_large,
            ..Policy::DIALOG
        }
    }

    /// What stands for a dialog that begins by this.
    fn record_route_kind(self) -> TokenKind {
        match self.tcp_when_large {
            true => TokenKind::RecordRouteTcp,
            false => TokenKind::RecordRoute,
        }
    }

    fn rule(self, stack: &Stack) -> Option<&Route> {
        self.rule_in(stack.config_of(self.config)?)
    }

    fn rule_in(self, cfg: &Config) -> Option<&Route> {
        self.route.and_then(|index| cfg.routes.get(index))
    }
}

/// All response contexts of one shard.
pub struct Proxy {
    contexts: Slots<Context>,
    branches: Slots<Branch>,
    held: Slots<Held>,
    edits: Box<Edits>,
    /// For a message that is read again from its buffer.
    table: Option<Box<Table>>,
    /// For a request whose look-up was answered by another shard, and its bytes.
    asked: Option<Box<Table>>,
    copy: Option<Box<[u8]>>,
    /// The places that a request goes to, while they are worked out.
    targets: Option<Box<TargetSet>>,
    /// Further flows of devices that are among them.
    others: Option<Box<TargetSet>>,
    /// One place that is kept, or was.
    place: Box<TargetSet>,
    /// The request URI that a rule makes.
    uri: Option<Box<[u8]>>,
    /// What call records will say; `None` where none are kept.
    notes: Option<Box<record::Notes>>,
    /// No new dialogs: the server stops.
    pub is_draining: bool,
}

impl Proxy {
    /// At most so many contexts, and as many branches: each has at least one transaction. As many messages may be held without one.
    pub fn new(transactions_max: usize) -> Proxy {
        Proxy {
            contexts: Slots::new(transactions_max),
            branches: Slots::new(transactions_max),
            held: Slots::new(transactions_max),
            edits: Box::new(Edits::new()),
            table: Some(Box::new(Table::new())),
            asked: Some(Box::new(Table::new())),
            copy: Some(vec![0; CLASS_BYTES[CLASS_BYTES.len() - 1]].into_boxed_slice()),
            targets: Some(Box::new(TargetSet::new())),
            others: Some(Box::new(TargetSet::new())),
            place: Box::new(TargetSet::new()),
            uri: Some(vec![0; URI_BYTES_MAX].into_boxed_slice()),
            notes: None,
            is_draining: false,
        }
    }

    /// Another limit from now on; contexts beyond it go on.
    pub fn set_limit(&mut self, transactions_max: usize) {
        self.contexts.set_limit(transactions_max);
        self.branches.set_limit(transactions_max);
        self.held.set_limit(transactions_max);
    }

    /// Response contexts that there were, modulo 2^32.
    pub fn begun(&self) -> u32 {
        self.contexts.inserted()
    }

    /// Response contexts now.
    pub fn contexts(&self) -> usize {
        self.contexts.len()
    }

    /// Messages that are held for a look-up, without a context.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Branches now; zero when no context is left.
    pub fn branches(&self) -> usize {
        self.branches.len()
    }

    /// Takes in a request that is new, and forwards it or answers what is wrong with it. It may end in a look-up, whose answer
    /// goes to [`Proxy::found`].
    #[allow(clippy::too_many_arguments)]
    pub fn begin(
        &mut self,
        stack: &mut Stack,
        aors: &AorHasher,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        policy: Policy,
        key: Key,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) -> Option<LookUp> {
        let Some(tx) = stack.open_server(request, key, flow, now, &mut out.pool) else {
            refuse_full(stack, request, flow, out);
            return None;
        };
        let digest = validate::digest(stack, request, arrived);
        let mut refused = validate::check(stack, request, arrived, Some(digest)).err();
        if refused.is_none() && self.is_draining && request.to_tag.is_none() {
            refused = Some(Refused::with(503, "Server Stopping"));
        }
        if let Some(refused) = refused {
            self.tell_refused(stack, tx, request, policy, refused.status, now, out);
            refused.answer(stack, tx, request, now, out);
            return None;
        }
        if request.method == Method::Bye {
            self.note_bye(stack, request, now);
        }
        if request.method == Method::Invite {
            // §16.2: at once, so that whoever sent it does not send it again.
            stack.respond(tx, request, 100, None, |_| {}, now, out);
        }
        let Some(id) = self.add_context(stack, request, arrived, flow, tx, policy, digest) else {
            self.tell_refused(stack, tx, request, policy, 503, now, out);
            Refused::with(503, "Context Limit Reached").answer(stack, tx, request, now, out);
            return None;
        };
        self.note_begun(stack, id, request, policy, now, out);
        if matches!(policy.rule(stack).map(|route| &route.to), Some(To::Registered))
            || held::dialog_gruu(stack, aors, request, arrived, policy).is_some()
        {
            return self.look_up(stack, aors, id, request, arrived, flow, now, out);
        }
        self.start(stack, id, request, arrived, flow, None, now, out);
        None
    }

    /// Asks for the contacts of the subscriber that the request URI names.
    #[allow(clippy::too_many_arguments)]
    fn look_up(
        &mut self,
        stack: &mut Stack,
        aors: &AorHasher,
        id: ContextId,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) -> Option<LookUp> {
        let uri = self
            .uri
            .take()
            .expect("whoever takes the URI's bytes puts them back");
        let mut uri = uri;
        let rule = self
            .contexts
            .get(id)
            .and_then(|context| context.policy.rule(stack));
        let named = rewritten(rule, request, arrived, &mut uri)
            .and_then(|len| Uri::parse(&uri[..len]).ok())
            .map(|uri| Named::from_uri(&uri, &stack.cfg, aors, &stack.key));
        self.uri = Some(uri);
        let refusal = match named {
            Some(Ok(named)) => {
                let is_near = named.aor().shard(stack.shards) == stack.shard;
                if is_near || self.keep_request(stack, id, request, flow, now, out) {
                    let asker = Asker::Context {
                        slot: id.slot,
                        generation: id.generation,
                    };
                    let whom = Whom::from(named);
                    return Some(LookUp { whom, asker });
                }
                (503, "Buffer Limit Reached")
            }
            Some(Err(error)) => (error.status(), error.reason()),
            None => (414, "Request-URI Too Long"),
        };
        self.conclude(stack, id, refusal, Some(request), now, out);
        None
    }

    /// Keeps the request as it came until its look-up is answered. `false`: there is no buffer.
    fn keep_request(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        request: &Request<'_>,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(context) = self.contexts.get_mut(id) else {
            return false;
        };
        context.asked = out.pool.put(&request.msg.bytes[..request.msg.len()]);
        context.came_over = Some(flow);
        let is_kept = context.asked.is_some();
        context.is_looked_up = is_kept;
        if is_kept {
            self.set_timer(stack, id, now + LOOK_UP_TIMEOUT);
        }
        is_kept
    }

    /// The answer to the look-up that `id` waits for; `None` when it could not be made. `request` is given where it is still at
    /// hand.
    #[allow(clippy::too_many_arguments)]
    pub fn found(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        contacts: Option<&ContactSet>,
        request: Option<(&Request<'_>, Flow)>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let kept = context.asked.take();
        context.is_looked_up = false;
        let came_over = context.came_over;
        if let Some(timer) = context.timer.take() {
            stack.wheel.cancel(timer);
        }
        match (request, kept, came_over) {
            (Some((request, flow)), _, _) => self.go_on(stack, id, contacts, request, flow, now, out),
            (None, Some(kept), Some(flow)) => {
                self.read_again(kept, out, |proxy, request, out| {
                    proxy.go_on(stack, id, contacts, request, flow, now, out);
                });
            }
            (None, Some(_) | None, _) => {}
        }
        if let Some(kept) = kept {
            out.pool.release(kept);
        }
    }

    /// Reads a request again that was kept as it came.
    fn read_again(
        &mut self,
        kept: BufId,
        out: &mut Effects,
        then: impl FnOnce(&mut Proxy, &Request<'_>, &mut Effects),
    ) {
        let mut table = self.asked.take().expect("whoever takes the table puts it back");
        // The pool must be free to be written to meanwhile.
        let mut copy = self.copy.take().expect("whoever takes the copy puts it back");
        let len = out.pool.get(kept).len();
        copy[..len].copy_from_slice(out.pool.get(kept));
        if let Ok(request) =
            scan(&copy[..len], &mut table).and_then(|()| Request::check(Message::new(&copy[..len], &table)))
        {
            then(self, &request, out);
        }
        self.copy = Some(copy);
        self.asked = Some(table);
    }

    #[allow(clippy::too_many_arguments)]
    fn go_on(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        contacts: Option<&ContactSet>,
        request: &Request<'_>,
        flow: Flow,
        now: Instant,
        out: &mut Effects,
    ) {
        if self.contexts.get(id).is_none_or(|context| context.is_answered) {
            // Cancelled, or given up, meanwhile.
            self.remove_if_over(stack, id, out);
            return;
        }
        let refusal = match contacts.map(|contacts| (contacts, contacts.outcome())) {
            Some((contacts, Outcome::Contacts | Outcome::Dialog)) => {
                let arrived = preprocess(stack, request, flow);
                self.start(stack, id, request, &arrived, flow, Some(contacts), now, out);
                return;
            }
            Some((_, Outcome::Unknown | Outcome::NoDialog)) => (404, "Not Found"),
            Some((_, Outcome::Offline)) => (480, "Temporarily Unavailable"),
            None => (503, "Look-up Failed"),
        };
        self.conclude(stack, id, refusal, Some(request), now, out);
    }

    /// Works out where the request goes and sends it to the first of those places. §16.5.
    #[allow(clippy::too_many_arguments)]
    fn start(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        flow: Flow,
        contacts: Option<&ContactSet>,
        now: Instant,
        out: &mut Effects,
    ) {
        let mut bytes = self
            .uri
            .take()
            .expect("whoever takes the URI's bytes puts them back");
        let mut targets = self
            .targets
            .take()
            .expect("whoever takes the targets puts them back");
        targets.clear();
        let policy = self
            .contexts
            .get(id)
            .map_or(Policy::DIALOG, |context| context.policy);
        // Held, for a trunk changes what is known of its destinations while the rule is looked at.
        let cfg = stack.config_of(policy.config).cloned();
        let rule = cfg.as_deref().and_then(|cfg| policy.rule_in(cfg));
        let mut refusal = None;
        let len = rewritten(rule, request, arrived, &mut bytes);
        // What comes from a connection does not go back on it.
        let like = Flow { conn: None, ..flow };
        match (len, contacts, rule.map(|route| &route.to)) {
            (None, _, _) => {}
            (Some(len), Some(contacts), _) => {
                let mut others = self
                    .others
                    .take()
                    .expect("whoever takes the others puts them back");
                others.clear();
                // RFC 5627 §6.1: within a dialog, whose route is there already, the path would lead a request in a circle.
                let has_route = is_gruu(&bytes[..len]) && forward::next_route(request, arrived).is_some();
                for (place, contact) in contacts.iter().enumerate() {
                    // RFC 5626 §7: the flows of one device are tried one after another.
                    let set = match contacts.is_first_of_device(place, &contact) {
                        true => &mut targets,
                        false => &mut others,
                    };
                    set.push(&Target {
                        uri: contact.uri,
                        path: if has_route { b"" } else { contact.path },
                        is_next_hop: false,
                        q: contact.q,
                        prefer: match contact.is_flow {
                            true => contact.flow.alone(),
                            false => contact.flow,
                        },
                        is_flow: contact.is_flow,
                        device: contact.device,
                        destination: None,
                    });
                }
                if let Some(context) = self.contexts.get_mut(id) {
                    context.is_of_registered = true;
                    if !others.is_empty() {
                        context.others = out.pool.put(others.as_bytes());
                    }
                }
                self.others = Some(others);
            }
            (Some(len), None, Some(To::Uris(places))) => {
                for place in places {
                    targets.push(&Target {
                        uri: place.uri.as_bytes(),
                        path: b"",
                        is_next_hop: !place.is_whole,
                        q: place.q,
                        prefer: like,
                        is_flow: false,
                        device: 0,
                        destination: None,
                    });
                }
                targets.set_request_uri(&bytes[..len]);
            }
            (Some(len), None, Some(To::Trunk(name))) => {
                let chosen = self.trunk_targets(stack, id, name, request, like, now, &mut targets);
                targets.set_request_uri(&bytes[..len]);
                refusal = chosen.err();
            }
            (Some(len), None, None | Some(To::Nowhere | To::Registered | To::RequestUri)) => {
                targets.push(&Target {
                    uri: &bytes[..len],
                    path: b"",
                    is_next_hop: false,
                    q: 1_000,
                    prefer: arrived.over.map_or(like, Flow::alone),
                    is_flow: arrived.over.is_some(),
                    device: 0,
                    destination: None,
                });
            }
        }
        self.uri = Some(bytes);
        if len.is_none() {
            self.targets = Some(targets);
            self.conclude(stack, id, (414, "Request-URI Too Long"), Some(request), now, out);
            return;
        }
        if let Some(refusal) = refusal {
            self.targets = Some(targets);
            let refused = Refused::of_trunk(refusal.reason());
            self.conclude(stack, id, refused, Some(request), now, out);
            return;
        }
        let source = Source::Received { request, arrived };
        self.send_group(stack, id, &mut targets, &source, now, out);
        self.targets = Some(targets);
        self.conclude_if_nothing_is_open(stack, id, Some(request), now, out);
    }

    /// The context's own timer: a look-up that was not answered, or a group that rang long enough.
    pub fn on_timer(&mut self, stack: &mut Stack, id: ContextId, now: Instant, out: &mut Effects) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        context.timer = None;
        if context.is_answered {
            return;
        }
        if context.is_looked_up {
            self.conclude(stack, id, (503, "Look-up Timed Out"), None, now, out);
            return;
        }
        self.give_up_silent(stack, id, now);
        self.cancel_branches(stack, id, b"", false, now, out);
        self.send_next_group(stack, id, now, out);
        self.conclude_if_nothing_is_open(stack, id, None, now, out);
    }
}

fn is_gruu(uri: &[u8]) -> bool {
    Uri::parse(uri).is_ok_and(|uri| uri.param(b"gr").is_some())
}

/// The request URI as `rule` makes it, or as it came; its length, `None` where it does not fit.
fn rewritten(
    rule: Option<&Route>,
    request: &Request<'_>,
    arrived: &Arrived<'_>,
    into: &mut [u8],
) -> Option<usize> {
    let raw = arrived.repaired.unwrap_or(request.uri);
    if arrived.is_by_maddr {
        let mut bytes = [0; URI_BYTES_MAX];
        let mut w = Writer::new(&mut bytes);
        validate::put_without_maddr(&Uri::parse(raw).ok()?, &mut w);
        let len = w.finish()?;
        return put_rewritten(rule, &bytes[..len], into);
    }
    put_rewritten(rule, raw, into)
}

fn put_rewritten(rule: Option<&Route>, raw: &[u8], into: &mut [u8]) -> Option<usize> {
    let mut w = Writer::new(into);
    match rule
        .map(|route| &route.rewrite)
        .filter(|rewrite| rewrite.changes_uri())
    {
        None => _ = w.put(raw),
        Some(change) => match Uri::parse(raw) {
            Ok(uri) => rewrite::put_uri(change, &uri, &mut w),
            Err(_) => _ = w.put(raw),
        },
    }
    w.finish()
}

/// No room for a transaction: 503 without one.
fn refuse_full(stack: &mut Stack, request: &Request<'_>, flow: Flow, out: &mut Effects) {
    stack.metrics.dropped(DropReason::TransactionsFull);
    let retry_after = |w: &mut Writer<'_>| _ = w.header_num(Name::RetryAfter, u64::from(RETRY_AFTER_S));
    stack.respond_stateless(
        request,
        flow,
        (503, "Transaction Limit Reached"),
        retry_after,
        out,
    );
}

/// Seconds after which a caller may try again when there was no room: RFC 3261 §20.33.
const RETRY_AFTER_S: u32 = 5;

const fn user_of(id: ContextId) -> User {
    User::ProxyContext {
        slot: id.slot,
        generation: id.generation,
    }
}

impl Proxy {
    #[allow(clippy::too_many_arguments)]
    fn add_context(
        &mut self,
        stack: &mut Stack,
        request: &Request<'_>,
        arrived: &Arrived<'_>,
        flow: Flow,
        tx: TxId,
        policy: Policy,
        digest: u64,
    ) -> Option<ContextId> {
        let dialog = stack.key.digest(&[request.call_id]);
        let mut context = Context::new(request, tx, policy, digest, dialog);
        if policy.is_trunk {
            context.trunk_call = trunk::call_of(stack, request.call_id, request.from_tag);
        }
        if request.method == Method::Bye {
            context.ends_call = trunk::call_between(stack, request);
        }
        context.note_flows(request, arrived, flow);
        let Some(id) = self.contexts.insert(context) else {
            stack.metrics.limit_reached(Limit::Transactions);
            return None;
        };
        stack.set_user(tx, user_of(id));
        stack.awaits_answer(tx);
        Some(id)
    }
}
