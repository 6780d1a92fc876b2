//! What the control thread asks of a shard.

use crate::b2bua::CallId;
use crate::port::{Ask, Tell};
use crate::tap::Tap;
use crate::time::Instant;
use crate::wire::Effects;

use super::Shard;
use super::listing::aor_of;

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
        match ask {
            Ask::Drain => {
                self.ims.calls.is_draining = true;
                self.proxy.is_draining = true;
            }
            Ask::HangUpAll => self.ims.calls.hang_up_all(&mut self.stack, now, out),
            Ask::Stop => self.is_stopping = true,
            Ask::Trace { slot, filter } => {
                let [keys @ .., _, _, _, _] = self.keys.tables;
                let tap = self.stack.tap.get_or_insert_with(|| Box::new(Tap::new(keys)));
                tap.begin(slot, *filter);
            }
            Ask::EndTrace { slot } => {
                if self.stack.tap.as_mut().is_some_and(|tap| tap.end(slot)) {
                    self.stack.tap = None;
                }
            }
            Ask::Histograms { request, empty } => {
                let recorded = std::mem::replace(&mut self.stack.histograms, empty);
                out.tell(Tell::Histograms { request, recorded }, b"");
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

    /// Whether the shard was asked to end.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }
}
