//! Session timers (RFC 4028): how the end of a phone that has vanished is noticed.
//!
//! The two legs have one session. What one phone asks for crosses to the other as it is, for who is `uac` and who `uas` is the same
//! on both legs; what the other grants crosses back, and from that moment both legs last as long. So one of the phones refreshes,
//! its refresh crosses as any re-INVITE or UPDATE does, and where none came in time each leg gets a BYE, as from a user agent that
//! waited for it (§10). In between we do what §8 allows whoever stands on the way: ask for a timer where nobody did, turn down
//! what is too short, and grant it in the place of a phone that knows no timers to one that does.

use std::time::Duration;

use crate::config::SessionTimers;
use crate::msg::build::Writer;
use crate::msg::edit::Rewrite;
use crate::msg::lex;
use crate::msg::message::Message;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::params;
use crate::msg::request::{Request, Response};
use crate::msg::scan::Line;
use crate::time::Instant;
use crate::transaction::{Stack, TxId};
use crate::wire::Effects;

use super::call::Phase;
use super::{B2bua, CallId};

/// RFC 4028 §5: what Min-SE is where it is not said, seconds.
const MIN_SE_DEFAULT_S: u32 = 90;
const TIMER: &[u8] = b"timer";

/// What a request does for the session of its call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refresh {
    /// It leaves the timer alone: another method, or timers are not kept.
    No,
    /// It is a session refresh request (§3). Where whoever gets it grants nothing, we grant what it asks for as it goes on,
    /// if it asks and who sent it supports timers.
    Yes { ours_s: Option<u32> },
}

impl Refresh {
    pub fn of(cfg: &SessionTimers, request: &Request<'_>) -> Refresh {
        if !cfg.enabled || !is_refresh(request.method) {
            return Refresh::No;
        }
        let asked_s = match Onward::of(cfg, request) {
            Onward::AsItCame => interval_of(&request.msg),
            Onward::Raised(interval_s) | Onward::Added(interval_s) => Some(interval_s),
        };
        Refresh::Yes {
            ours_s: asked_s.filter(|_| supports(request)),
        }
    }

    /// What a 2xx to the request makes of the session.
    pub fn granted(self, response: &Response<'_>) -> Granted {
        let Refresh::Yes { ours_s } = self else {
            return Granted::Unchanged;
        };
        match (interval_of(&response.msg), ours_s) {
            // §5: no interval is below 90 s; who says so would have its call cut off at once.
            (Some(granted_s), _) => Granted::ByPeer(granted_s.max(MIN_SE_DEFAULT_S)),
            (None, Some(asked_s)) => Granted::ByUs(asked_s.max(MIN_SE_DEFAULT_S)),
            // §9: without Session-Expires there is no expiration.
            (None, None) => Granted::Nothing,
        }
    }
}

/// How long a session lasts from a 2xx on, seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    /// The 2xx says nothing of it.
    Unchanged,
    /// Without end.
    Nothing,
    ByPeer(u32),
    /// The phone that answered knows no timers, the one that asked does: the 2xx is completed on its way back (§8.2).
    ByUs(u32),
}

impl Granted {
    /// The lines that a 2xx gains where the grant is ours. §8.2: the one that asked refreshes.
    pub fn complete(self, msg: &Message<'_>, w: &mut Writer<'_>) {
        let Granted::ByUs(interval_s) = self else { return };
        w.put(b"Session-Expires: ")
            .num(u64::from(interval_s))
            .put(b";refresher=uac\r\n");
        if !msg.has_token(Name::Require, TIMER) {
            w.put(b"Require: timer\r\n");
        }
    }
}

/// How a session refresh request says its interval on the other leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Onward {
    AsItCame,
    /// It asks for less than our minimum and could not make use of a 422 (§8.1).
    Raised(u32),
    /// It asks for none, and we want one.
    Added(u32),
}

impl Onward {
    pub fn of(cfg: &SessionTimers, request: &Request<'_>) -> Onward {
        if !cfg.enabled || !is_refresh(request.method) {
            return Onward::AsItCame;
        }
        match request.msg.value(Name::SessionExpires) {
            None if cfg.request => Onward::Added(cfg.interval_s.max(min_se(&request.msg).unwrap_or(0))),
            None => Onward::AsItCame,
            Some(value) => match interval(value) {
                Some(asked_s) if asked_s < cfg.interval_min_s && !supports(request) => {
                    Onward::Raised(cfg.interval_min_s.max(min_se(&request.msg).unwrap_or(0)))
                }
                Some(_) | None => Onward::AsItCame,
            },
        }
    }

    /// One of the request's Session-Expires and Min-SE lines.
    pub fn rewrite(self, line: &Line, msg: &Message<'_>, out: &mut Rewrite<'_, '_>) {
        match self {
            Onward::AsItCame | Onward::Added(_) => {}
            Onward::Raised(interval_s) => {
                let seconds = params::split(msg.value_of(line)).0;
                out.replace(msg.span_of(seconds)).num(u64::from(interval_s));
            }
        }
    }

    /// The lines that the request gains.
    pub fn put_lines(self, msg: &Message<'_>, w: &mut Writer<'_>) {
        match self {
            Onward::AsItCame => {}
            Onward::Added(interval_s) => _ = w.header_num(Name::SessionExpires, u64::from(interval_s)),
            Onward::Raised(interval_s) => {
                if msg.line(Name::MinSE).is_none() {
                    w.header_num(Name::MinSE, u64::from(interval_s));
                }
            }
        }
    }
}

/// RFC 4028 §3.
fn is_refresh(method: Method) -> bool {
    matches!(method, Method::Invite | Method::Update)
}

fn supports(request: &Request<'_>) -> bool {
    request.msg.has_token(Name::Supported, TIMER) || request.msg.has_token(Name::Require, TIMER)
}

fn interval_of(msg: &Message<'_>) -> Option<u32> {
    interval(msg.value(Name::SessionExpires)?)
}

fn min_se(msg: &Message<'_>) -> Option<u32> {
    interval(msg.value(Name::MinSE)?)
}

/// The seconds of a Session-Expires or Min-SE; what is no number asks for nothing.
fn interval(value: &[u8]) -> Option<u32> {
    lex::number(params::split(value).0)
}

impl B2bua {
    /// RFC 4028 §8.1, §9: an interval below our minimum is turned down where the phone understands that. `true`: it was.
    pub(super) fn refuses_interval(
        &self,
        stack: &mut Stack,
        request: &Request<'_>,
        tx: TxId,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(value) = request.msg.value(Name::SessionExpires) else {
            return false;
        };
        let cfg = &stack.cfg.session_timers;
        let interval_min_s = cfg.interval_min_s;
        let is_too_short = cfg.enabled
            && is_refresh(request.method)
            && interval(value).is_some_and(|asked_s| asked_s < interval_min_s)
            && supports(request);
        if is_too_short {
            let extra = |w: &mut Writer<'_>| {
                w.header_num(Name::MinSE, u64::from(interval_min_s));
            };
            stack.respond(tx, request, 422, None, extra, now, out);
        }
        is_too_short
    }

    /// A 2xx to a session refresh request has gone back.
    pub(super) fn refreshed(&mut self, stack: &mut Stack, id: CallId, granted: Granted, now: Instant) {
        let interval_s = match granted {
            Granted::Unchanged => return,
            Granted::Nothing => None,
            Granted::ByPeer(interval_s) | Granted::ByUs(interval_s) => Some(interval_s),
        };
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        match call.phase {
            Phase::Answered => {}
            // An UPDATE before the answer: the answer itself says how long the session lasts (§7.4).
            Phase::Locating | Phase::Ringing | Phase::Ending => return,
        }
        let deadline = interval_s.map_or(Instant::FAR_FUTURE, |interval_s| {
            let interval = Duration::from_secs(u64::from(interval_s));
            // §10: the BYE leaves before firewalls on the way forget the session.
            now + (interval - (interval / 3).min(Duration::from_secs(32)))
        });
        if deadline == call.session_ends_at {
            return;
        }
        call.session_ends_at = deadline;
        let at = deadline.min(call.ends_at);
        self.set_call_timer(stack, id, at);
    }
}
