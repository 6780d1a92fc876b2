//! Names on their way to addresses: what came of look-ups goes to whoever asked.

use std::sync::Arc;

use crate::b2bua::{ExchangeId, LegId};
use crate::dns::Asker;
use crate::dns::plan::Targets;
use crate::domain::Answer;
use crate::ims::reg_event::SubscriptionId;
use crate::port::Tell;
use crate::proxy::{BranchId, HeldId};
use crate::time::Instant;
use crate::transaction::UnsentId;
use crate::trunk::DestinationId;
use crate::trunk::board::Boards;
use crate::wire::Effects;

use super::Shard;

impl Shard {
    /// Shares the trunks with the other shards, has their addresses looked up and their OPTIONS begun.
    pub fn start_trunks(&mut self, boards: Arc<Boards>, now: Instant) {
        self.boards = boards;
        self.load_trunks(now);
    }

    /// Goes by the trunks and hosts of the present configuration.
    pub(super) fn load_trunks(&mut self, now: Instant) {
        let stack = &mut self.stack;
        let cfg = stack.cfg.clone();
        let board = self.boards.of(stack.config_id(), &cfg);
        stack.trunks.reload(&cfg, board, &mut stack.wheel);
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
    pub(super) fn finish_look_ups(&mut self, now: Instant, out: &mut Effects) {
        let mut targets = Targets::default();
        loop {
            let stack = &mut self.stack;
            let Some((asker, resolved)) = stack.dns.next_finished(&mut stack.wheel, now, &mut targets) else {
                break;
            };
            match asker {
                Asker::Destination { index, generation } => {
                    let id = DestinationId { index, generation };
                    stack
                        .trunks
                        .resolved(id, resolved, &targets, &stack.dns, &mut stack.wheel, now);
                }
                Asker::Branch { slot, generation } => {
                    let id = BranchId::new(slot, generation);
                    self.proxy.resolved(stack, id, resolved, &targets, now, out);
                }
                Asker::Held { slot, generation } => {
                    let id = HeldId::new(slot, generation);
                    self.proxy.held_resolved(stack, id, resolved, &targets, out);
                }
                Asker::Exchange { slot, generation } => {
                    let id = ExchangeId::new(slot, generation);
                    self.resolve_contacts(id, now, out);
                }
                Asker::Leg { slot, generation } => {
                    let id = LegId::new(slot, generation);
                    let found = (resolved, &targets);
                    self.ims.calls.hop_found(stack, id, found, out);
                }
                Asker::Subscription { slot, generation } => {
                    let id = SubscriptionId::new(slot, generation);
                    let found = (resolved, &targets);
                    self.ims.reg_event.hop_found(stack, id, found, out);
                }
                Asker::Answer { slot, generation } => {
                    let id = UnsentId::new(slot, generation);
                    stack.answer_resolved(id, resolved, &targets, now, out);
                }
            }
        }
    }
    /// A name among the contacts of a subscriber has been looked up: on with the call that waits for it.
    fn resolve_contacts(&mut self, id: ExchangeId, now: Instant, out: &mut Effects) {
        let Some(mut contacts) = self.contacts.take() else {
            return;
        };
        let calls = &mut self.ims.calls;
        calls.resolved(&mut self.stack, id, &mut contacts, now, out);
        self.contacts = Some(contacts);
    }
}
