//! Which of several final responses goes back: RFC 3261 §16.7 steps 4, 6 and 7.

use crate::msg::build::Writer;
use crate::msg::lex;
use crate::msg::method::Method;
use crate::msg::name::Name;
use crate::msg::name_addr::{self, Contacts};
use crate::msg::request::{Request, Response};
use crate::msg::status::reason_phrase;
use crate::msg::uri::Uri;
use crate::time::Instant;
use crate::transaction::Stack;
use crate::wire::{Effects, Flow};

use super::context::Best;
use super::targets::Target;
use super::trunk::settings;
use super::validate::Refused;
use super::{ContextId, Proxy, RETRY_AFTER_S};

/// Challenge lines that may be gathered: §16.7 step 7.
const CHALLENGES_BYTES_MAX: usize = 16_384;

/// A final response that is no 2xx.
pub(super) enum Candidate<'r, 'm> {
    Received(&'r Response<'m>),
    /// One of our own: nothing came, or nothing could be sent.
    Own(Refused),
}

impl Candidate<'_, '_> {
    /// Whether it says that a flow is no more, or nothing at all, rather than what the device behind it says: RFC 5626 §7.
    pub(super) fn is_of_flow(&self) -> bool {
        match self {
            Candidate::Received(response) => matches!(response.status, 408 | 430),
            Candidate::Own(refused) => refused.status == 408 || refused.could_not_be_sent(),
        }
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Candidate::Received(response) => response.status,
            Candidate::Own(refused) => refused.status,
        }
    }

    /// One of our own, of which no more is to be said.
    pub(super) fn own(status: u16) -> Self {
        Candidate::Own(Refused::with(status, reason_phrase(status)))
    }
}

/// Worse than every status.
const UNRANKED: u16 = 0;

pub(super) const fn is_challenge(status: u16) -> bool {
    matches!(status, 401 | 407)
}

/// §16.7 step 6: a 503 says that nothing at all can be served here, which a proxy does not know.
pub(super) const fn passed_on(status: u16) -> u16 {
    if status == 503 { 500 } else { status }
}

/// §16.7 step 6: a 6xx is the best, else the lowest class; within 4xx what helps the caller to do better.
const fn rank(status: u16) -> u16 {
    match status {
        UNRANKED => u16::MAX,
        600..=699 => 0,
        300..=399 => 10,
        401 | 407 => 20,
        415 | 420 | 484 => 21,
        // Our own of a branch that was silent, and those of branches that were cancelled, say the least.
        408 => 28,
        487 => 29,
        400..=499 => 22,
        503 => 39,
        _ => 30,
    }
}

/// The best there was, as one of our own. The reason of a response whose buffer could not be had is that of its status.
fn said(best: Best) -> Refused {
    Refused {
        status: best.status,
        reason: match best.reason {
            "" => reason_phrase(best.status),
            reason => reason,
        },
        is_of_trunk: best.is_of_trunk,
    }
}

impl Proxy {
    /// §16.5: the contacts of a 3xx become places to try. `None`: none does; else whether one of them comes first of all that waits.
    pub(super) fn follow(
        &mut self,
        stack: &Stack,
        id: ContextId,
        response: &Response<'_>,
        out: &mut Effects,
    ) -> Option<bool> {
        let context = self.contexts.get(id)?;
        if !context.policy.recurse
            || context.is_cancelled
            || usize::from(context.tried) >= stack.cfg.limits.forks_max
        {
            return None;
        }
        let flow = stack.flow_of(context.server)?;
        let Ok(Contacts::List(contacts)) = name_addr::contacts(response.msg) else {
            return None;
        };
        let mut targets = self
            .targets
            .take()
            .expect("whoever takes the targets puts them back");
        targets.clear();
        let waiting = context.targets;
        if let Some(waiting) = waiting {
            targets.set_from_bytes(out.pool.get(waiting));
        }
        let (mut is_followed, mut comes_first) = (false, false);
        for contact in contacts.flatten() {
            let is_uri = Uri::parse(contact.uri).is_ok_and(|uri| uri.headers.is_empty());
            // §16.5: no place stands in the target set twice, or two that redirect to one another are tried in turn.
            let is_new = is_uri
                && !context.was_tried(contact.uri, out)
                && targets.insert_by_q(&Target {
                    uri: contact.uri,
                    path: b"",
                    is_next_hop: false,
                    // §16.6: what is preferred more comes first, among what a redirection names and what waits.
                    q: contact.param(b"q").and_then(lex::qvalue).unwrap_or(1_000),
                    prefer: Flow { conn: None, ..flow },
                    is_flow: false,
                    device: 0,
                    destination: None,
                });
            is_followed |= is_new;
            comes_first |= is_new
                && targets
                    .iter()
                    .next()
                    .is_some_and(|first| first.uri == contact.uri);
        }
        let kept = is_followed.then(|| out.pool.put(targets.as_bytes())).flatten();
        self.targets = Some(targets);
        let kept = kept?;
        if let Some(old) = waiting {
            out.pool.release(old);
        }
        if let Some(context) = self.contexts.get_mut(id) {
            context.targets = Some(kept);
        }
        Some(comes_first)
    }

    /// A failure of our own among others: a place that could not be reached.
    pub(super) fn keep_own(&mut self, stack: &Stack, id: ContextId, refused: Refused, out: &mut Effects) {
        self.keep(stack, id, &Candidate::Own(refused), out);
    }

    /// Keeps a failure while others may still be better: §16.7 step 4.
    pub(super) fn keep(
        &mut self,
        stack: &Stack,
        id: ContextId,
        candidate: &Candidate<'_, '_>,
        out: &mut Effects,
    ) {
        if let Candidate::Received(response) = candidate
            && is_challenge(response.status)
        {
            self.gather_challenges(id, response, out);
        }
        let status = candidate.status();
        let is_better = self
            .contexts
            .get(id)
            .is_some_and(|context| context.best.is_none_or(|best| rank(status) < rank(best.status)));
        if !is_better {
            return;
        }
        let (response, reason, is_of_trunk) = match candidate {
            Candidate::Received(response) => (self.write_back(stack, response, Some(b""), out), "", false),
            Candidate::Own(refused) => (None, refused.reason, refused.is_of_trunk),
        };
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let old = context.best.replace(Best {
            status,
            reason,
            is_of_trunk,
            response,
        });
        if let Some(old) = old.and_then(|best| best.response) {
            out.pool.release(old);
        }
    }

    /// §16.7 step 7: the challenges of all 401 and 407 go back together.
    pub(super) fn gather_challenges(&mut self, id: ContextId, response: &Response<'_>, out: &mut Effects) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        for name in [Name::WwwAuthenticate, Name::ProxyAuthenticate] {
            for line in response.msg.lines_of(name) {
                let bytes = response.msg.line_bytes(line);
                context.challenges = match context.challenges {
                    None => out.pool.put(bytes),
                    Some(kept) if out.pool.get(kept).len() + bytes.len() > CHALLENGES_BYTES_MAX => Some(kept),
                    Some(kept) => Some(out.pool.append(kept, bytes).unwrap_or(kept)),
                };
            }
        }
    }

    /// Answers a context that nothing is open or left to try of, with the best there was.
    pub(super) fn conclude_if_nothing_is_open(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        request: Option<&Request<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        if context.is_answered || context.targets.is_some() || self.open(id).0 {
            return;
        }
        match context.best {
            Some(Best {
                response: Some(_), ..
            }) => {
                self.finish(stack, id, &Candidate::own(UNRANKED), now, out);
            }
            Some(best @ Best { response: None, .. }) => {
                self.conclude(stack, id, said(best), request, now, out);
            }
            None if context.is_cancelled => {
                self.conclude(stack, id, (487, reason_phrase(487)), request, now, out);
            }
            None => self.conclude(stack, id, (480, "No Place To Try"), request, now, out),
        }
    }

    /// All branches have failed, the last one with `last`: the best failure goes back. §16.7 step 6.
    pub(super) fn finish(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        last: &Candidate<'_, '_>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        let server = context.server;
        let best = context
            .best
            .filter(|best| rank(best.status) <= rank(last.status()));
        let challenges = context.challenges;
        let (status, buf) = match (best, last) {
            (Some(best @ Best { status, response, .. }), last) => {
                if let (Candidate::Received(response), true) = (last, is_challenge(status))
                    && is_challenge(response.status)
                {
                    self.gather_challenges(id, response, out);
                }
                match response {
                    Some(_) => (status, self.write_best(stack, id, status, out)),
                    None => {
                        self.conclude(stack, id, said(best), None, now, out);
                        return;
                    }
                }
            }
            (None, Candidate::Received(response)) => {
                let status = response.status;
                let more = challenges.filter(|_| is_challenge(status));
                let text = more.map(|more| out.pool.get(more).to_vec());
                (status, self.write_last(stack, response, text.as_deref(), out))
            }
            (None, Candidate::Own(refused)) => {
                self.conclude(stack, id, *refused, None, now, out);
                return;
            }
        };
        // The one that was kept said why in a message that is not at hand.
        let said = match (best, last) {
            (None, Candidate::Received(response)) => Some(&response.msg),
            (Some(_), _) | (None, Candidate::Own(_)) => None,
        };
        self.note_failed(stack, id, passed_on(status), true, said, now, out);
        match buf {
            Some(buf) => stack.send_response(server, passed_on(status), buf, now, out),
            None => stack.abandon(server, out),
        }
        self.settle(stack, id, Some(status), out);
    }

    /// Answers a context with a final response of our own. `request`: the request where it is at hand.
    pub(super) fn conclude(
        &mut self,
        stack: &mut Stack,
        id: ContextId,
        refused: impl Into<Refused>,
        request: Option<&Request<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(context) = self.contexts.get(id) else {
            return;
        };
        let (server, method, is_cancelled) = (context.server, context.method, context.is_cancelled);
        let policy = context.policy;
        let Refused {
            status,
            reason,
            is_of_trunk,
        } = refused.into();
        // Whoever hung up is told that, not that nobody answered.
        let (status, reason) = if is_cancelled && status == 408 {
            (487, reason_phrase(487))
        } else {
            (status, reason)
        };
        if status == 408 && method != Method::Invite {
            // RFC 4320 §4.2: a 408 to anything but INVITE comes too late for everybody.
            stack.abandon(server, out);
            self.settle(stack, id, None, out);
            return;
        }
        let retry_after_s = match is_of_trunk {
            // §21.5.4: it keeps whoever gets it from sending anything here, for other trunks and for phones too.
            true => settings(stack, policy).map_or(0, |trunk| trunk.retry_after_s),
            false => RETRY_AFTER_S,
        };
        self.note_failed(stack, id, status, false, None, now, out);
        let extra = |w: &mut Writer<'_>| {
            if status == 503 && retry_after_s > 0 {
                w.header_num(Name::RetryAfter, u64::from(retry_after_s));
            }
        };
        match request {
            Some(request) => {
                stack.respond_because(server, request, (status, reason), None, extra, now, out);
            }
            None => match self.write_own(stack, id, (status, reason), extra, out) {
                Some(buf) => stack.send_response(server, status, buf, now, out),
                None => stack.abandon(server, out),
            },
        }
        self.settle(stack, id, None, out);
    }
}
