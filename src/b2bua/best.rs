//! The best of several failures: RFC 3261 §16.7 steps 5 and 6.

use crate::msg::request::Response;
use crate::time::Instant;
use crate::transaction::Stack;
use crate::wire::Effects;

use super::call::Best;
use super::{B2bua, ExchangeId, LegId};

impl B2bua {
    /// A branch has ended in a final failure. The best of them goes back when no branch is open any more. `leg`: that of the branch,
    /// unless it was cancelled: then no other flow of its device is tried.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn failed(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        leg: Option<LegId>,
        status: u16,
        response: Option<&Response<'_>>,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        if exchange.is_answered {
            self.finish(stack, id, out);
            return;
        }
        if is_flow_failure(status, response.is_some())
            && let Some(leg) = leg
            && self.ring_next_flow(stack, id, leg, now, out)
        {
            return;
        }
        // RFC 5626 §11.5: a phone never gets a 430.
        let (status, response) = match status {
            430 => (480, None),
            _ => (status, response),
        };
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let is_open = self.has_open_branch(exchange);
        let is_better = exchange.best.is_none_or(|best| rank(status) < rank(best.status));
        if is_open {
            if is_better {
                let response =
                    response.and_then(|response| out.pool.put(&response.msg.bytes[..response.msg.len()]));
                self.set_best(id, Some(Best { status, response }), out);
            }
            // RFC 3261 §16.7 step 5: a 6xx ends the search.
            if status >= 600 {
                self.cancel_branches(stack, id, None, b"", now, out);
            }
            return;
        }
        let best = exchange.best;
        match (is_better, response, best) {
            (true, Some(response), _) => {
                if !self.pass_back(stack, id, response, now, out) {
                    self.reject(stack, id, (500, "Server Internal Error"), b"", now, out);
                }
            }
            (
                false,
                _,
                Some(Best {
                    response: Some(buf), ..
                }),
            ) => self.pass_back_kept(stack, id, buf, now, out),
            (true, None, _) => {
                self.note_no_answer(id, status, now);
                self.reject(stack, id, own_failure(status), b"", now, out);
            }
            (
                false,
                _,
                Some(Best {
                    response: None,
                    status,
                }),
            ) => {
                self.note_no_answer(id, status, now);
                self.reject(stack, id, own_failure(status), b"", now, out);
            }
            (false, _, None) => {}
        }
        self.finish(stack, id, out);
    }

    fn set_best(&mut self, id: ExchangeId, best: Option<Best>, out: &mut Effects) {
        let Some(exchange) = self.exchanges.get_mut(id) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut exchange.best, best).and_then(|best| best.response) {
            out.pool.release(old);
        }
    }
}

/// Whether a failure says that a flow is no more, or nothing at all, rather than what the device behind it says: RFC 5626 §7. Our own
/// 480 is that of a place that could not be reached.
const fn is_flow_failure(status: u16, is_received: bool) -> bool {
    matches!((status, is_received), (408 | 430, _) | (480, false))
}

/// RFC 3261 §16.7 step 6: 6xx first, then the lowest class; within a class what a user can act on first.
fn rank(status: u16) -> u16 {
    match status {
        600.. => 0,
        401 | 407 | 415 | 420 | 484 => 400,
        408 => 499,
        other => other.max(1),
    }
}

/// A failure that no phone has sent.
pub(super) fn own_failure(status: u16) -> (u16, &'static str) {
    match status {
        408 => (408, "Request Timeout"),
        480 => (480, "Temporarily Unavailable"),
        _ => (500, "Server Internal Error"),
    }
}
