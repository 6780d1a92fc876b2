//! What the 200 to a REGISTER says: the contacts that there are, with their GRUUs; that a flow is kept; the route of later requests.

use crate::config::Config;
use crate::location::{AorKey, Fresh, Gruus, Location, seconds_left};
use crate::msg::build::Writer;
use crate::msg::name::Name;
use crate::msg::name_addr::{Contacts, contacts};
use crate::msg::request::Request;
use crate::pool::Pool;
use crate::time::Instant;

use super::flow_number;

/// `Contact: <>;expires=4294967295` and its line end.
const CONTACT_LINE_OVERHEAD: usize = 40;

/// Writes a Contact line for every binding of the subscriber: RFC 3261 §10.3 step 8. `gruus`: for a phone that wants to know its own.
pub fn put_contacts(
    location: &Location,
    key: AorKey,
    gruus: Option<&Gruus<'_>>,
    pool: &Pool,
    now: Instant,
    w: &mut Writer<'_>,
) {
    for said in current(location, key, now) {
        w.put(b"Contact: <").put(said.text.uri(pool)).put(b">;expires=");
        w.num(seconds_left(said.expires_at, now));
        if let Some(gruus) = gruus {
            gruus.put(location, said, pool, w);
        }
        w.put(said.text.params(pool)).crlf();
    }
}

/// Bytes that [`put_contacts`] writes at most.
pub fn contacts_size(
    location: &Location,
    key: AorKey,
    gruus: Option<&Gruus<'_>>,
    pool: &Pool,
    now: Instant,
) -> usize {
    current(location, key, now)
        .map(|said| {
            let text = &said.text;
            let gruus = gruus.map_or(0, |gruus| {
                // Each byte of the device may take three.
                Gruus::SIZE + 3 * (gruus.host.len() + text.instance(pool).map_or(0, <[u8]>::len))
            });
            CONTACT_LINE_OVERHEAD + text.uri(pool).len() + text.params(pool).len() + gruus
        })
        .sum()
}

fn current(location: &Location, key: AorKey, now: Instant) -> impl Iterator<Item = &Fresh> {
    location
        .bindings_of(key)
        .map(|(_, binding)| &binding.said)
        .filter(move |said| said.expires_at > now)
}

/// RFC 5627 §5.2: whether the phone wants to know its GRUUs.
pub fn wants_gruus(request: &Request<'_>) -> bool {
    let msg = request.msg;
    msg.line(Name::Supported).is_some() && msg.has_token(Name::Supported, b"gruu")
}

/// Writes what a phone is to put into the Route of its requests: RFC 3608 §6.2.
pub fn put_service_route(cfg: &Config, w: &mut Writer<'_>) {
    for (i, uri) in cfg.registrar.service_route.iter().enumerate() {
        w.put(if i == 0 { b"Service-Route: <" } else { b">, <" })
            .put(uri.as_bytes());
    }
    if !cfg.registrar.service_route.is_empty() {
        w.put(b">\r\n");
    }
}

/// Whether the 200 to `request` says that a flow was registered: RFC 5626 §6.
fn says_outbound(request: &Request<'_>) -> bool {
    let msg = request.msg;
    if msg.line(Name::Supported).is_none() || !msg.has_token(Name::Supported, b"outbound") {
        return false;
    }
    let Ok(Contacts::List(mut list)) = contacts(msg) else {
        return false;
    };
    list.any(|contact| {
        contact.is_ok_and(|contact| {
            let is_flow = contact.param(b"reg-id").and_then(flow_number).is_some();
            is_flow
                && contact
                    .param(b"+sip.instance")
                    .is_some_and(|value| !value.is_empty())
        })
    })
}

/// Writes what the 200 to a phone says that registered a flow: RFC 5626 §6, §5.4.
pub fn put_outbound(cfg: &Config, request: &Request<'_>, w: &mut Writer<'_>) {
    if says_outbound(request) {
        w.header(Name::Require, b"outbound");
        if cfg.registrar.flow_timer_s > 0 {
            w.header_num(Name::FlowTimer, u64::from(cfg.registrar.flow_timer_s));
        }
    }
}
