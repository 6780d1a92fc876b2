//! Names on their way to addresses: what came of look-ups goes to whoever asked.

use std::sync::Arc;

use crate::dns::Asker;
use crate::dns::plan::Targets;
use crate::domain::Answer;
use crate::port::Tell;
use crate::time::Instant;
use crate::trunk::DestinationId;
use crate::trunk::board::Board;
use crate::wire::Effects;

use super::Shard;

impl Shard {
    /// Shares the trunks with the other shards, has their addresses looked up and their OPTIONS begun.
    pub fn start_trunks(&mut self, board: Arc<Board>, now: Instant) {
        let stack = &mut self.stack;
        let cfg = stack.cfg.clone();
        stack.trunks.load(&cfg, board);
        let place = (stack.shard, stack.shards);
        stack
            .trunks
            .start(&cfg, &mut stack.dns, &mut stack.wheel, place, now);
    }

    /// Hands the questions for DNS on. One that there is no room for counts as not answered.
    pub(super) fn tell_questions(&mut self, out: &mut Effects) {
        while let Some(question) = self.stack.dns.next_question() {
            if !out.tell(Tell::Resolve(Box::new(question)), b"") {
                let stack = &mut self.stack;
                let now = out.received_at;
                stack
                    .dns
                    .answered(&mut stack.wheel, &question, Answer::Failed, now);
                self.finish_look_ups(now, out);
            }
        }
    }

    /// Tells whoever waited what came of the look-ups that have ended.
    pub(super) fn finish_look_ups(&mut self, now: Instant, _out: &mut Effects) {
        let stack = &mut self.stack;
        let mut targets = Targets::default();
        while let Some((asker, resolved)) = stack.dns.next_finished(&mut stack.wheel, now, &mut targets) {
            match asker {
                Asker::Destination { index, generation } => {
                    let id = DestinationId { index, generation };
                    stack
                        .trunks
                        .resolved(id, resolved, &targets, &stack.dns, &mut stack.wheel, now);
                }
            }
        }
    }
}
