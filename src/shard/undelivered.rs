//! Datagrams that have reached nobody, as the network says: RFC 3261 §18.4 and §17.1.4.
//!
//! Anybody can write an ICMP error. It is believed where it quotes a request of ours by the token in its branch, which nobody guesses, and
//! comes from where that request went; and it ends nothing of which anything has been heard.

use crate::metrics::Undelivered;
use crate::msg::method::Method;
use crate::msg::quoted::Quoted;
use crate::time::Instant;
use crate::token::{Token, TokenKind};
use crate::wire::{Effects, Flow};

use std::net::SocketAddr;

use super::Shard;
use super::mailbox::Letter;

impl Shard {
    /// A datagram that was sent over `flow` and begins with `bytes` has reached nobody.
    #[cold]
    pub(super) fn on_undelivered(&mut self, flow: Flow, bytes: &[u8], now: Instant, out: &mut Effects) {
        out.received_at = now;
        let (method, token) = match Quoted::read(bytes) {
            Some(Quoted::Request { method, via }) => {
                let token = via.branch.and_then(|branch| self.stack.key.parse_branch(branch));
                (method, token)
            }
            // RFC 3263 §5 would have it sent by another way. What came back is not all of it, and whoever misses it asks again.
            Some(Quoted::Response) => return self.stack.count_undelivered(Undelivered::NotAwaited),
            None => return self.stack.count_undelivered(Undelivered::Unknown),
        };
        let Some(token) = token.filter(|token| token.kind == TokenKind::Transaction) else {
            return self.stack.count_undelivered(Undelivered::Unknown);
        };
        // The kernel gives it to whichever shard it likes.
        if token.shard == self.stack.shard {
            self.on_request_undelivered(token, method, flow.peer, now, out);
        } else {
            let to = flow.peer;
            self.post(token.shard, Letter::Undelivered { token, method, to }, b"");
        }
    }

    /// The same of a request that is this shard's, if it is one.
    pub(super) fn on_request_undelivered(
        &mut self,
        token: Token,
        method: Method,
        to: SocketAddr,
        now: Instant,
        out: &mut Effects,
    ) {
        if let Some(event) = self.stack.on_undelivered(token, method, to, now, out) {
            tracing::debug!(peer = %to, ?method, "nobody is there");
            self.on_user_event(event, now, out);
        }
    }
}
