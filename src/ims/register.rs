//! stub
use super::*;
use crate::registrar;
pub fn on_register(ims: &mut Ims, stack: &mut Stack, request: &Request<'_>, tx: TxId, now: Instant, out: &mut Effects) {
    let Ok(uri) = request.to.uri() else { return };
    let Ok(aor) = Aor::from_uri(&uri, &stack.cfg) else { return };
    let key = ims.aors.key(&aor);
    let flow = stack.flow_of(tx).unwrap();
    let cfg = stack.cfg.clone();
    match registrar::process(&mut ims.location, &cfg, request, key, flow, &mut stack.wheel, &mut out.pool, now) {
        Ok(_) => {
            let source = stack.source_of(tx).unwrap();
            let tag = stack.stateless_tag();
            let buf = stack.write(4000, out, |w, pool| {
                crate::msg::build::response_head(w, request, 200, "OK", Some(&tag), source);
                registrar::put_contacts(&ims.location, key, pool, now, w);
                crate::msg::build::end(w);
            });
            if let Some(buf) = buf { stack.send_response(tx, 200, buf, now, out); }
        }
        Err(r) => stack.respond_because(tx, request, (r.status(), r.reason()), None, |w| r.put_headers(&cfg, w), now, out),
    }
    ims.location.release_removed(&mut out.pool);
}
pub fn on_timer(ims: &mut Ims, stack: &mut Stack, t: Timer, now: Instant, out: &mut Effects) {
    ims.location.on_timer(t, &mut stack.wheel, now);
    ims.location.release_removed(&mut out.pool);
}
