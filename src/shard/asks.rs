//! What the control thread asks of a shard.

use std::sync::Arc;

use crate::b2bua::CallId;
use crate::config::Config;
use crate::port::{Ask, ConfigId, Tell};
use crate::tap::Tap;
use crate::time::Instant;
use crate::wire::Effects;

use super::listing::aor_of;
use super::{Shard, hasher};

/// Asks read in one turn, so that the control thread does not starve the sockets.
const ASKS_PER_TURN: usize = 32;

impl Shard {
    /// What the control thread has asked. `true`: more may be waiting.
    pub fn read_asks(&mut self, now: Instant, out: &mut Effects) -> bool {
        for _ in 0..ASKS_PER_TURN {
            // No ask brings more bytes than a message.
            let asked = self
                .mail
                .asks
                .as_mut()
                .and_then(|asks| asks.pop(&mut self.letter));
            let Some((ask, len)) = asked else { return false };
            self.on_ask(ask, len, now, out);
        }
        true
    }

    fn on_ask(&mut self, ask: Ask, len: usize, now: Instant, out: &mut Effects) {
        out.received_at = now;
        match ask {
            Ask::Drain => {
                self.ims.calls.is_draining = true;
                self.proxy.is_draining = true;
            }
            Ask::HangUpAll => self.ims.calls.hang_up_all(&mut self.stack, now, out),
            Ask::Stop => self.is_stopping = true,
            Ask::Trace {
                request,
                slot,
                filter,
            } => {
                let [keys @ .., _, _, _, _] = self.keys.tables;
                let tap = self.stack.tap.get_or_insert_with(|| Box::new(Tap::new(keys)));
                tap.begin(slot, *filter);
                out.tell(Tell::Done { request, count: 0 }, b"");
            }
            Ask::EndTrace { slot } => {
                if self.stack.tap.as_mut().is_some_and(|tap| tap.end(slot)) {
                    self.stack.tap = None;
                }
            }
            Ask::Config { id, config } => self.configure(config, id, now, out),
            Ask::Resolved(resolved) => {
                let (question, answer) = *resolved;
                let stack = &mut self.stack;
                stack.dns.answered(&mut stack.wheel, &question, answer, now);
                self.finish_look_ups(now, out);
            }
            Ask::Recorded {
                request,
                empty,
                dates,
            } => {
                self.stack.dates = dates;
                let recorded = std::mem::replace(&mut self.stack.recorded, empty);
                out.tell(Tell::Recorded { request, recorded }, b"");
            }
            Ask::List {
                request,
                listing,
                cursor,
                mut page,
            } => {
                let next = self.list(listing, cursor, &self.letter[..len], &mut page, now, &out.pool);
                out.tell(Tell::Page { request, page, next }, b"");
            }
            Ask::Unregister { request } => {
                let count = match aor_of(&self.letter[..len], &self.stack.cfg) {
                    Some(aor) => self.ims.unregister(&mut self.stack, &aor, now, out),
                    None => 0,
                };
                out.tell(Tell::Done { request, count }, b"");
            }
            Ask::HangUp {
                request,
                slot,
                generation,
            } => {
                let id = CallId::new(slot, generation);
                let count = u32::from(self.ims.calls.end_call(&mut self.stack, id, now, out));
                out.tell(Tell::Done { request, count }, b"");
            }
        }
    }

    /// Goes by `cfg` from now on. Nothing that there is ends by it: limits are for what is new.
    fn configure(&mut self, cfg: Arc<Config>, id: ConfigId, now: Instant, out: &mut Effects) {
        let (limits, shards) = (&cfg.limits, cfg.shards);
        self.ims.calls.set_limit(limits.calls_max.div_ceil(shards));
        self.proxy.set_limit(limits.transactions_max.div_ceil(shards));
        self.streams.set_limit(limits.connections_max);
        self.ims.location.configure(&cfg);
        self.ims.reg_event.configure(&cfg);
        self.overload.configure(&cfg.overload, cfg.timers.t1);
        self.feedback.configure(cfg.overload.feedback);
        self.stack.load = self.feedback.load();
        out.pool.set_limit(limits.buffer_bytes_max);
        let before = self.stack.cfg.clone();
        self.stack.configure(cfg, id);
        let cfg = &self.stack.cfg;
        if cfg.hosts != before.hosts || cfg.listeners != before.listeners {
            self.stack.dns.reload(cfg, hasher(&self.keys));
        }
        if cfg.trunks != before.trunks || cfg.hosts != before.hosts {
            self.load_trunks(now);
            self.tell_questions(out);
            self.finish_look_ups(now, out);
        } else {
            // The one that all shards have for this configuration, of which the next is made.
            self.boards.of(id, &self.stack.cfg);
        }
        self.is_reconfigured = true;
    }

    /// The configuration, if it is another than when this was last asked: for what stands outside of the core.
    pub fn take_new_config(&mut self) -> Option<Arc<Config>> {
        std::mem::take(&mut self.is_reconfigured).then(|| self.stack.cfg.clone())
    }

    /// Whether the shard was asked to end.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }
}
