//! The Path of a REGISTER: the proxies that it came through and that requests to its contacts go through (RFC 3327 §5.3), and
//! whether the first of them knows of flows (RFC 5626 §6).

use crate::config::Config;
use crate::location::binding::PATH_BYTES_MAX;
use crate::msg::build::Writer;
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::request::Request;
use crate::msg::uri::{Scheme, Uri};

use super::Refusal;

/// Most hops of a path.
pub const PATH_HOPS_MAX: usize = 8;
/// What stands between two hops.
const SEPARATOR_LEN: usize = 2;

/// Whether the path of `request` may be kept; one that has none may. Returns its length, bytes.
pub(super) fn check(request: &Request<'_>, cfg: &Config) -> Result<usize, Refusal> {
    let msg = request.msg;
    if msg.line(Name::Path).is_none() {
        return Ok(0);
    }
    // §5.3: so the phone learns that a proxy has put itself between us without being asked.
    if !cfg.registrar.path_without_support && !msg.has_token(Name::Supported, b"path") {
        return Err(Refusal::PathNotSupported);
    }
    let mut len = 0;
    for (i, element) in msg.elements(Name::Path).enumerate() {
        let hop = NameAddr::parse(element).map_err(|_| Refusal::MalformedPath)?;
        // §4: each is a loose router. Requests go there, so it must be a place that they can go to.
        let is_router = hop
            .uri()
            .is_ok_and(|uri| uri.scheme == Scheme::Sip && uri.param(b"lr").is_some());
        if !is_router {
            return Err(Refusal::MalformedPath);
        }
        len += element.len() + if i == 0 { 0 } else { SEPARATOR_LEN };
        if i == PATH_HOPS_MAX || len > PATH_BYTES_MAX {
            return Err(Refusal::PathTooLong);
        }
    }
    Ok(len)
}

/// Whether the first hop of a REGISTER that names a flow keeps it: that is we, or a proxy that has said so.
pub(super) fn knows_flows(request: &Request<'_>) -> Result<bool, Refusal> {
    let msg = request.msg;
    // RFC 5626 §6: the Via tell who the first hop is.
    if msg.elements(Name::Via).nth(1).is_none() {
        return Ok(true);
    }
    // §5.1: nobody but the first hop says so of itself.
    let mut hops = msg.elements(Name::Path).filter_map(NameAddr::uri_of);
    if hops.any(|uri| Uri::parse(uri).is_ok_and(|uri| uri.param(b"ob").is_some())) {
        return Ok(true);
    }
    match msg.has_token(Name::Supported, b"outbound") {
        true => Err(Refusal::FirstHopLacksOutbound),
        // A phone that does not insist has registered as RFC 3261 has it.
        false => Ok(false),
    }
}

/// Writes the Path lines of a REGISTER into its 200: §5.3.
pub fn put_path(request: &Request<'_>, w: &mut Writer<'_>) {
    for line in request.msg.lines_of(Name::Path) {
        w.put(request.msg.line_bytes(line));
    }
}
