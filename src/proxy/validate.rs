//! Whether a request may be forwarded (RFC 3261 §16.3), and what its Route header fields say of us (§16.4).

use crate::config::Config;
use crate::msg::build::Writer;
use crate::msg::lex;
use crate::msg::message::Message;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::request::Request;
use crate::msg::uri::{Scheme, Uri, same_host};
use crate::msg::via::Via;
use crate::time::Instant;
use crate::token::{BRANCH_COOKIE, DIGEST_LEN, TOKEN_LEN, TokenKind, digest_text};
use crate::transaction::{Stack, TxId};
use crate::wire::{Effects, Flow, Transport};

use super::flow_token::{self, FLOW_TOKEN_LEN};
use super::{MAX_BREADTH, RETRY_AFTER_S};

/// RFC 3261 §19.1.2.
const PORT_DEFAULT: u16 = 5060;
/// The parameter of our Record-Route URIs that holds a token.
pub const ROUTE_PARAM: &[u8] = b"rw";

/// A request as it has arrived: what of its route is behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrived<'a> {
    /// Elements at the front of its Route header fields that name us; they are left out.
    pub popped: usize,
    /// §16.4: a strict router before us has put our own URI in the place of the request URI, which this is; it stands last in
    /// the Route header fields and is left out there.
    pub repaired: Option<&'a [u8]>,
    /// §16.4: the `maddr` of the request URI has led it here. What remains of the URI without that says where it goes on.
    pub is_by_maddr: bool,
    /// A Record-Route of ours for this very dialog has led it here.
    pub is_in_dialog: bool,
    /// The rule that the dialog began by has large requests go over TCP.
    pub tcp_when_large: bool,
    /// RFC 5626 §5.3.1: a flow token of ours has led it here, and it goes on over that flow.
    pub over: Option<Flow>,
    /// What stands in the place of a flow token is none of ours.
    pub is_forged: bool,
}

/// Reads the Route header fields of `request`, which came over `flow`.
pub fn preprocess<'a>(stack: &Stack, request: &Request<'a>, flow: Flow) -> Arrived<'a> {
    let mut arrived = Arrived::default();
    let has_route = request.msg.line(Name::Route).is_some();
    if request.request_uri.params.is_empty() && !has_route {
        return arrived;
    }
    let is_recorded = |uri: &Uri<'_>| recorded(stack, request, uri);
    match is_recorded(&request.request_uri) {
        Recorded::No => {}
        ours @ (Recorded::ThisDialog { .. } | Recorded::Another) => {
            arrived.note_dialog(ours);
            arrived.repaired = request
                .msg
                .elements(Name::Route)
                .last()
                .and_then(NameAddr::uri_of);
        }
    }
    for element in request.msg.elements(Name::Route) {
        let Some(uri) = NameAddr::uri_of(element).and_then(|uri| Uri::parse(uri).ok()) else {
            break;
        };
        match is_recorded(&uri) {
            Recorded::No if !names_us(&stack.cfg, &uri) => break,
            ours => arrived.note_dialog(ours),
        }
        arrived.note_flow(stack, &uri, flow);
        arrived.popped += 1;
    }
    arrived.is_by_maddr = match arrived.repaired.map(Uri::parse) {
        None => is_by_maddr(stack, &request.request_uri, flow),
        Some(uri) => uri.is_ok_and(|uri| is_by_maddr(stack, &uri, flow)),
    };
    // RFC 3261 §12.2: within a dialog both tags stand. Whoever has got our Record-Route once would otherwise send new requests past
    // the table by it.
    arrived.is_in_dialog &= request.to_tag.is_some();
    arrived
}

impl Arrived<'_> {
    fn note_dialog(&mut self, ours: Recorded) {
        if let Recorded::ThisDialog { tcp_when_large } = ours {
            self.is_in_dialog = true;
            self.tcp_when_large |= tcp_when_large;
        }
    }

    /// A URI of ours in a Route may name a flow: RFC 5626 §5.3. Behind the first of ours it is as if we had sent the request to ourselves: it
    /// comes from nobody's flow then, and both sides of a dialog may have the same one.
    fn note_flow(&mut self, stack: &Stack, uri: &Uri<'_>, came_over: Flow) {
        let Some(user) = uri.user.filter(|user| user.len() == FLOW_TOKEN_LEN) else {
            return;
        };
        match flow_token::parse(user, &stack.key) {
            None => self.is_forged = true,
            // §5.3: it comes from there, and is on its way out.
            Some(flow) if self.popped == 0 && flow_token::is_same(flow, came_over) => {}
            Some(flow) => self.over = Some(flow),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Recorded {
    No,
    ThisDialog {
        tcp_when_large: bool,
    },
    /// We wrote it, into another dialog: it lets nothing through.
    Another,
}

fn recorded(stack: &Stack, request: &Request<'_>, uri: &Uri<'_>) -> Recorded {
    // What we record is a `sip:` URI.
    if uri.scheme != Scheme::Sip {
        return Recorded::No;
    }
    let token = uri.param(ROUTE_PARAM).and_then(|text| stack.key.parse(text));
    let is_record_route = |kind| matches!(kind, TokenKind::RecordRoute | TokenKind::RecordRouteTcp);
    match token.filter(|token| is_record_route(token.kind)) {
        None => Recorded::No,
        Some(token) => {
            let digest = stack.key.digest(&[request.call_id]);
            if (u64::from(token.slot) << 32 | u64::from(token.generation)) == digest {
                let tcp_when_large = token.kind == TokenKind::RecordRouteTcp;
                Recorded::ThisDialog { tcp_when_large }
            } else {
                Recorded::Another
            }
        }
    }
}

/// Whether a URI is that of a listener of ours or of a domain of ours, or one that we told phones to route by (RFC 3608 §6.1).
fn names_us(cfg: &Config, uri: &Uri<'_>) -> bool {
    let port = uri.port.unwrap_or(PORT_DEFAULT);
    let ip = uri.host_ip();
    cfg.listeners.iter().filter(|own| own.is_ours()).any(|listener| {
        let is_address = listener.addr.port() == port && ip.is_some_and(|ip| cfg.is_address_of(listener, ip));
        let (host, own_port) = listener
            .advertised
            .rsplit_once(':')
            .unwrap_or((&listener.advertised, ""));
        let is_name = uri.host.eq_ignore_ascii_case(host.as_bytes())
            && own_port
                .parse()
                .map_or(port == PORT_DEFAULT, |own: u16| own == port);
        is_address || is_name
    }) || is_domain(cfg, uri)
        || is_service_route(cfg, uri)
}

/// §16.4: whether the `maddr` of a request URI is ours, with the port and the transport that the request came to.
fn is_by_maddr(stack: &Stack, uri: &Uri<'_>, flow: Flow) -> bool {
    if uri.scheme != Scheme::Sip {
        return false;
    }
    let Some(host) = uri.param(b"maddr").filter(|host| !host.is_empty()) else {
        return false;
    };
    let Some(listener) = stack.cfg.listeners.get(usize::from(flow.listener.0)) else {
        return false;
    };
    let transport = uri.transport().unwrap_or(Transport::Udp.name().as_bytes());
    transport.eq_ignore_ascii_case(flow.transport.name().as_bytes())
        && uri.port.unwrap_or(PORT_DEFAULT) == listener.addr.port()
        && names_us(&stack.cfg, &Uri { host, ..*uri })
}

/// §16.4: the URI without what has led the request here.
pub fn put_without_maddr(uri: &Uri<'_>, w: &mut Writer<'_>) {
    let spent = [&b"maddr"[..], b"transport", b"ttl"];
    w.put(uri.scheme_text).put(b":");
    if let Some(user) = uri.user {
        w.put(user);
        if let Some(password) = uri.password {
            w.put(b":").put(password);
        }
        w.put(b"@");
    }
    w.put(uri.host);
    for param in uri.params.split(|byte| *byte == b';') {
        let name = param.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !param.is_empty() && !spent.iter().any(|spent| spent.eq_ignore_ascii_case(name)) {
            w.put(b";").put(param);
        }
    }
    if !uri.headers.is_empty() {
        w.put(b"?").put(uri.headers);
    }
}

/// Phones name their proxy by its domain too.
fn is_domain(cfg: &Config, uri: &Uri<'_>) -> bool {
    let is_port = |port| cfg.listeners.iter().any(|listener| listener.addr.port() == port);
    cfg.domains
        .iter()
        .any(|domain| same_host(domain.as_bytes(), uri.host))
        && uri.port.is_none_or(is_port)
}

fn is_service_route(cfg: &Config, uri: &Uri<'_>) -> bool {
    cfg.registrar.service_route.iter().any(|own| {
        Uri::parse(own.as_bytes()).is_ok_and(|own| same_host(own.host, uri.host) && own.port == uri.port)
    })
}

/// Why a request is not forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub status: u16,
    pub reason: &'static str,
    /// It is said of a trunk alone, not of this server.
    pub is_of_trunk: bool,
}

impl From<(u16, &'static str)> for Refused {
    fn from((status, reason): (u16, &'static str)) -> Refused {
        Refused::with(status, reason)
    }
}

impl Refused {
    /// The transport could bring a request to nobody. §16.9: as if a 503 had come from there; and §16.7 step 6: which goes no further, since
    /// a 503 of ours says that nothing at all can be served here, and with Retry-After keeps whoever gets it from asking.
    pub const UNREACHABLE: Refused = Refused::with(500, "Next Hop Unreachable");

    /// Whether nothing has left for the place, or has reached it.
    pub fn could_not_be_sent(self) -> bool {
        self.status == 503 || self == Refused::UNREACHABLE
    }

    pub const fn with(status: u16, reason: &'static str) -> Refused {
        Refused {
            status,
            reason,
            is_of_trunk: false,
        }
    }

    /// RFC 3261 §21.5.4: whoever gets this may try another server, for it goes no further here.
    pub const fn of_trunk(reason: &'static str) -> Refused {
        Refused {
            is_of_trunk: true,
            ..Refused::with(503, reason)
        }
    }

    pub fn answer(self, stack: &mut Stack, tx: TxId, request: &Request<'_>, now: Instant, out: &mut Effects) {
        let extra = |w: &mut Writer<'_>| self.put_lines(request, w);
        stack.respond_because(tx, request, (self.status, self.reason), None, extra, now, out);
    }

    pub fn answer_stateless(self, stack: &mut Stack, request: &Request<'_>, flow: Flow, out: &mut Effects) {
        let extra = |w: &mut Writer<'_>| self.put_lines(request, w);
        stack.respond_stateless(request, flow, (self.status, self.reason), extra, out);
    }

    fn put_lines(self, request: &Request<'_>, w: &mut Writer<'_>) {
        match self.status {
            420 => {
                // §16.3 step 5.
                w.put(b"Unsupported: ");
                for (i, tag) in request.msg.elements(Name::ProxyRequire).enumerate() {
                    w.put(if i == 0 { b"" } else { b", " }).put(tag);
                }
                w.crlf();
            }
            503 => _ = w.header_num(Name::RetryAfter, u64::from(RETRY_AFTER_S)),
            _ => {}
        }
    }
}

/// §16.3. `digest`: that of the request, where it is worked out already.
pub fn check(
    stack: &Stack,
    request: &Request<'_>,
    arrived: &Arrived<'_>,
    digest: Option<u64>,
) -> Result<(), Refused> {
    // RFC 5626 §5.3.1.
    if arrived.is_forged {
        return Err(Refused::with(403, "Flow Token Not Ours"));
    }
    // §16.3 step 3.
    if request.max_forwards == Some(0) {
        return Err(Refused::with(483, "Too Many Hops"));
    }
    // RFC 5393 §5.3: the value is a positive number.
    if max_breadth(&request.msg) == 0 {
        return Err(Refused::with(440, "Max-Breadth Exceeded"));
    }
    // §16.3 step 4, RFC 5393 §4.2: it has been here before, and was for the same place then.
    if is_loop(stack, request, arrived, digest) {
        return Err(Refused::with(482, "Loop Detected"));
    }
    // §16.3 step 5: no extension of a proxy is understood here.
    if request.msg.elements(Name::ProxyRequire).next().is_some() {
        return Err(Refused::with(420, "Bad Extension"));
    }
    Ok(())
}

/// The Max-Breadth that a request goes by: 60 where it has none, or one that is no number, and more is not believed (RFC 5393 §5.3.3).
pub fn max_breadth(msg: &Message<'_>) -> u8 {
    let said = msg.value(Name::MaxBreadth).and_then(lex::number);
    said.and_then(|breadth| u8::try_from(breadth).ok())
        .map_or(MAX_BREADTH, |breadth| breadth.min(MAX_BREADTH))
}

/// What stands for a request in our branches. RFC 5393 §4.2.1: over all that decides where the request goes, and what tells it from others.
pub fn digest(stack: &Stack, request: &Request<'_>, arrived: &Arrived<'_>) -> u64 {
    let own = [request.to_tag.unwrap_or_default(), request.method_text];
    digest_with(stack, request, arrived, own)
}

/// The same for a branch of what is forwarded without state, which the CANCEL of an INVITE and the ACK of its failure have too.
pub fn relay_digest(stack: &Stack, request: &Request<'_>, arrived: &Arrived<'_>) -> u64 {
    digest_with(stack, request, arrived, [b"", b""])
}

/// `own`: what a request has that is not shared by those that belong to it.
fn digest_with(stack: &Stack, request: &Request<'_>, arrived: &Arrived<'_>, own: [&[u8]; 2]) -> u64 {
    let next_route = request.msg.elements(Name::Route).nth(arrived.popped);
    stack.key.digest(&[
        request.uri,
        next_route.unwrap_or_default(),
        request.call_id,
        request.from_tag.unwrap_or_default(),
        &request.cseq.number.to_be_bytes(),
        own[0],
        own[1],
    ])
}

/// Whether a Via is ours and stands for the same request. Most requests have one Via, which is read already.
fn is_loop(stack: &Stack, request: &Request<'_>, arrived: &Arrived<'_>, known: Option<u64>) -> bool {
    const OURS_LEN: usize = BRANCH_COOKIE.len() + TOKEN_LEN + 1 + DIGEST_LEN;
    const RELAYED_LEN: usize = OURS_LEN + DIGEST_LEN;
    let mut text = known.map(digest_text);
    let mut relayed = None;
    let mut is_same = |branch: Option<&[u8]>| {
        let Some(branch) = branch else { return false };
        let (text, is_relayed) = match branch.len() {
            OURS_LEN => {
                let text = text.get_or_insert_with(|| digest_text(digest(stack, request, arrived)));
                (text, false)
            }
            RELAYED_LEN => {
                let digest = || digest_text(relay_digest(stack, request, arrived));
                (relayed.get_or_insert_with(digest), true)
            }
            _ => return false,
        };
        let kind = || stack.key.parse_branch(branch).map(|token| token.kind);
        branch.ends_with(&text[..])
            && match kind() {
                Some(TokenKind::Transaction) => !is_relayed,
                Some(TokenKind::RelayTcp | TokenKind::RelayUdp) => is_relayed,
                Some(_) | None => false,
            }
    };
    is_same(request.via.branch)
        || (request.msg.elements(Name::Via).skip(1))
            .any(|element| Via::parse(element).is_ok_and(|via| is_same(via.branch)))
}
