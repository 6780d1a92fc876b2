//! REGISTER: names the subscriber, has the registrar do what is asked, answers, and tells who watches (RFC 3261 §10.3).

use crate::location::{Aor, AorError, AorKey, Gruus, served_domain};
use crate::metrics::Limit;
use crate::msg::build::{self, Writer};
use crate::msg::request::Request;
use crate::msg::status::reason_phrase;
use crate::msg::uri::Scheme;
use crate::registrar;
use crate::registrar::Refusal;
use crate::time::Instant;
use crate::timer::Timer;
use crate::transaction::{Stack, TxId};
use crate::wire::{ConnId, Effects};

use super::Ims;

/// Room in a 200 beside what the REGISTER and the contacts take: our tag, `received`, Date.
const OK_OVERHEAD: usize = 512;

/// Answers a REGISTER that is new; the NOTIFYs that it causes go out behind the answer.
pub fn on_register(
    ims: &mut Ims,
    stack: &mut Stack,
    request: &Request<'_>,
    tx: TxId,
    now: Instant,
    out: &mut Effects,
) {
    let aor = match subscriber(stack, request) {
        Ok(aor) => aor,
        Err(error) => {
            let (status, reason) = match error {
                // Step 5: a To that is no address-of-record of this domain. 414 and 416 would speak of the Request-URI.
                AorError::ForeignDomain | AorError::NoUser | AorError::BadGruu => (404, error.reason()),
                AorError::UnsupportedScheme | AorError::TooLong | AorError::BadNumber => {
                    (400, error.reason())
                }
            };
            stack.respond_because(tx, request, (status, reason), None, |_| {}, now, out);
            return;
        }
    };
    let (Some(flow), Some(source)) = (stack.flow_of(tx), stack.source_of(tx)) else {
        return;
    };
    let key = ims.aors.key(&aor);
    let buffers_refused = out.pool.refused();
    let done = registrar::process(
        &mut ims.location,
        &stack.cfg,
        request,
        key,
        (flow, source),
        &mut stack.wheel,
        &mut out.pool,
        now,
    );
    let done = match done {
        Ok(done) => done,
        Err(refusal) => {
            let limit = match refusal {
                Refusal::TooManyContacts => Some(Limit::ContactsPerAor),
                // Else it was a buffer that lacked.
                Refusal::Full if out.pool.refused() == buffers_refused => Some(Limit::Aors),
                Refusal::Full
                | Refusal::ContentEncoding
                | Refusal::MalformedContact
                | Refusal::Star
                | Refusal::ContactTooLong
                | Refusal::IntervalTooBrief
                | Refusal::PathNotSupported
                | Refusal::MalformedPath
                | Refusal::PathTooLong
                | Refusal::FirstHopLacksOutbound
                | Refusal::SeveralWithFlow
                | Refusal::Circular
                | Refusal::OutOfOrder => None,
            };
            if let Some(limit) = limit {
                stack.metrics.limit_reached(limit);
            }
            let said = (refusal.status(), refusal.reason());
            let expires_min_s = stack.cfg.registrar.expires_min_s;
            let extra = |w: &mut Writer<'_>| refusal.put_headers(expires_min_s, w);
            stack.respond_because(tx, request, said, None, extra, now, out);
            return;
        }
    };
    stack.metrics.registrations_added.add(done.added as u64);
    stack.metrics.registrations_removed.add(done.removed as u64);
    accept(ims, stack, request, tx, &aor, key, now, out);
    if done.changed {
        ims.reg_event.on_change(stack, &ims.location, key, now, out);
    }
    ims.location.release_removed(&mut out.pool);
}

/// Removes every binding of a subscriber, as somebody who runs the server wants it; whoever watches is told. How many there
/// were.
pub fn unregister(ims: &mut Ims, stack: &mut Stack, key: AorKey, now: Instant, out: &mut Effects) -> u32 {
    let done = registrar::remove_all(&mut ims.location, key, &mut stack.wheel, &mut out.pool, now);
    stack.metrics.registrations_removed.add(done.removed as u64);
    if done.changed {
        ims.reg_event.on_change(stack, &ims.location, key, now, out);
    }
    ims.location.release_removed(&mut out.pool);
    done.removed as u32
}

/// A connection has ended: whoever registered a flow over it is not reached by that any more (RFC 5626 §7), and whoever watches is told.
pub fn on_flow_end(ims: &mut Ims, stack: &mut Stack, conn: ConnId, now: Instant, out: &mut Effects) {
    while let Some(key) = ims.location.end_flow(conn, &mut stack.wheel, now) {
        let removed = ims.location.removed().len() as u64;
        stack.metrics.registrations_removed.add(removed);
        ims.reg_event.on_change(stack, &ims.location, key, now, out);
        ims.location.release_removed(&mut out.pool);
    }
}

/// A timer of kind [`crate::timer::TimerKind::Binding`] or [`crate::timer::TimerKind::Aor`] fired.
pub fn on_timer(ims: &mut Ims, stack: &mut Stack, timer: Timer, now: Instant, out: &mut Effects) {
    let expired = ims.location.on_timer(timer, &mut stack.wheel, now);
    stack
        .metrics
        .registrations_removed
        .add(ims.location.removed().len() as u64);
    if let Some(key) = expired {
        ims.reg_event.on_change(stack, &ims.location, key, now, out);
    }
    ims.location.release_removed(&mut out.pool);
}

/// Whom the REGISTER is for.
fn subscriber(stack: &Stack, request: &Request<'_>) -> Result<Aor, AorError> {
    // Step 1: the domain that the Request-URI names must be one of ours. It has no user part (§10.2), and one that has is
    // taken for its domain.
    let uri = &request.request_uri;
    match uri.scheme {
        Scheme::Sip | Scheme::Sips => served_domain(uri.host, &stack.cfg).ok_or(AorError::ForeignDomain)?,
        Scheme::Tel | Scheme::Other => return Err(AorError::ForeignDomain),
    };
    // Step 5: the address-of-record is the To, whoever the From is: one may register for another.
    let to = request.to.uri().map_err(|_| AorError::NoUser)?;
    Aor::from_uri(&to, &stack.cfg)
}

/// Step 8: the 200 with all bindings there are, each with the time it has left.
#[allow(clippy::too_many_arguments)]
fn accept(
    ims: &Ims,
    stack: &mut Stack,
    request: &Request<'_>,
    tx: TxId,
    aor: &Aor,
    key: AorKey,
    now: Instant,
    out: &mut Effects,
) {
    let Some(source) = stack.source_of(tx) else { return };
    let tokens = stack.key;
    let host = match aor.domain() {
        // Every domain is ours: then the one that the phone says.
        b"" => request.to.uri().map_or(&b""[..], |to| to.host),
        domain => domain,
    };
    let gruus = Gruus {
        key: &tokens,
        aor_key: key,
        aor,
        host,
        cseq: request.cseq.number,
    };
    let gruus = Some(&gruus).filter(|gruus| !gruus.host.is_empty() && registrar::wants_gruus(request));
    let contacts_size = registrar::contacts_size(&ims.location, key, gruus, &out.pool, now);
    let service_route_size: usize = stack
        .cfg
        .registrar
        .service_route
        .iter()
        .map(|uri| uri.len() + 4)
        .sum();
    let size = request.msg.head_end() as usize + contacts_size + service_route_size + OK_OVERHEAD;
    let tag = stack.stateless_tag();
    let back = stack.way_back(source);
    let dates = stack.dates;
    let buf = stack.write(size, out, |w, pool| {
        build::response_head(w, request, 200, reason_phrase(200), Some(&tag), back);
        registrar::put_contacts(&ims.location, key, gruus, pool, now, w);
        registrar::put_path(request, w);
        registrar::put_outbound(&stack.cfg, request, w);
        registrar::put_service_route(&stack.cfg, w);
        w.put(b"Date: ");
        build::http_date(w, dates.date(now).unix_secs());
        w.crlf();
        build::end(w);
    });
    match buf {
        Some(buf) => stack.send_response(tx, 200, buf, now, out),
        None => stack.abandon(tx, out),
    }
}

#[cfg(test)]
mod tests;
