//! Who a request is for: asked here, or by mail at the shard that knows. The answer reaches whoever asked in the same way.

use crate::b2bua::ExchangeId;
use crate::location::{Asker, ContactSet, LookUp, Outcome, Whom};
use crate::msg::named_dialog::NamedDialog;
use crate::msg::request::Request;
use crate::proxy::{ContextId, HeldId};
use crate::time::Instant;
use crate::wire::{Effects, Flow, ShardId};

use super::Shard;
use super::mailbox::Letter;

impl Shard {
    /// Asks. `request` is at hand at the first look-up for it.
    pub(super) fn look_up(
        &mut self,
        look_up: LookUp,
        request: Option<(&Request<'_>, Flow)>,
        now: Instant,
        out: &mut Effects,
    ) {
        let LookUp { whom, asker } = look_up;
        let named = match whom {
            Whom::Dialog { .. } => request.and_then(|(request, _)| named(request)),
            Whom::Subscriber(_) | Whom::Device(..) => None,
        };
        let owner = match (whom, &named) {
            (Whom::Subscriber(aor) | Whom::Device(aor, _), _) => aor.shard(self.stack.shards),
            (Whom::Dialog { .. }, Some(names)) => self.dialog_owner(names),
            (Whom::Dialog { .. }, None) => self.stack.shard,
        };
        if owner == self.stack.shard {
            let Some(mut contacts) = self.contacts.take() else {
                return;
            };
            self.find(whom, named, now, out, &mut contacts);
            let again = self.found(asker, whom, Some(&contacts), request, now, out);
            self.contacts = Some(contacts);
            if let Some(again) = again {
                self.look_up(again, request, now, out);
            }
            return;
        }
        let from = self.stack.shard;
        let letter = Letter::LookUp { from, asker, whom };
        let text = named.map_or(Vec::new(), |names| {
            let mut text = vec![0; names.text_len()];
            names.put_text(&mut text);
            text
        });
        if !self.post(owner, letter, &text) {
            self.found(asker, whom, None, None, now, out);
        }
    }

    /// Another shard asks. `bytes`: the names of the dialog, where it is for one.
    pub(super) fn answer_look_up(
        &mut self,
        from: ShardId,
        LookUp { whom, asker }: LookUp,
        bytes: &[u8],
        now: Instant,
        out: &Effects,
    ) {
        let Some(mut contacts) = self.contacts.take() else {
            return;
        };
        self.find(whom, NamedDialog::from_text(bytes), now, out, &mut contacts);
        self.post(from, Letter::Found { asker, whom }, contacts.as_bytes());
        self.contacts = Some(contacts);
    }

    /// Another shard has answered.
    pub(super) fn on_found(&mut self, look_up: LookUp, bytes: &[u8], now: Instant, out: &mut Effects) {
        let Some(mut contacts) = self.contacts.take() else {
            return;
        };
        contacts.set_from_bytes(bytes);
        let again = self.found(look_up.asker, look_up.whom, Some(&contacts), None, now, out);
        self.contacts = Some(contacts);
        if let Some(again) = again {
            self.look_up(again, None, now, out);
        }
    }

    fn find(
        &self,
        whom: Whom,
        named: Option<NamedDialog<'_>>,
        now: Instant,
        out: &Effects,
        contacts: &mut ContactSet,
    ) {
        match (whom, named) {
            (Whom::Subscriber(aor), _) => self.ims.location.look_up(aor, &out.pool, now, contacts),
            (Whom::Device(aor, device), _) => {
                let key = &self.stack.key;
                self.ims
                    .location
                    .look_up_device(aor, &device, key, &out.pool, now, contacts);
            }
            (Whom::Dialog { .. }, Some(names)) => {
                self.ims
                    .calls
                    .other_side(&self.stack, &names, &out.pool, contacts);
            }
            (Whom::Dialog { .. }, None) => contacts.set_dialog(None),
        }
    }

    /// Tells who asked what was found; `None` when the look-up could not be made. Returns what is to be asked instead.
    fn found(
        &mut self,
        asker: Asker,
        whom: Whom,
        contacts: Option<&ContactSet>,
        request: Option<(&Request<'_>, Flow)>,
        now: Instant,
        out: &mut Effects,
    ) -> Option<LookUp> {
        if let (Whom::Dialog { or: Some(named) }, Some(Outcome::NoDialog)) =
            (whom, contacts.map(ContactSet::outcome))
        {
            let whom = Whom::from(named);
            return Some(LookUp { whom, asker });
        }
        match asker {
            Asker::Exchange { slot, generation } => {
                let id = ExchangeId::new(slot, generation);
                let request = request.map(|(request, _)| request);
                self.ims.found(&mut self.stack, id, contacts, request, now, out);
            }
            Asker::Context { slot, generation } => {
                let id = ContextId::new(slot, generation);
                self.proxy.found(&mut self.stack, id, contacts, request, now, out);
            }
            Asker::Held { slot, generation } => {
                let id = HeldId::new(slot, generation);
                self.proxy.held_found(&mut self.stack, id, contacts, out);
            }
        }
        None
    }

    /// The shard that owns the call of a dialog.
    fn dialog_owner(&self, names: &NamedDialog<'_>) -> ShardId {
        match self.stack.key.parse(names.call_id) {
            Some(token) if usize::from(token.shard.0) < self.stack.shards => token.shard,
            Some(_) | None => self.owner_of(names.call_id),
        }
    }
}

/// The dialog that a request is about besides its own.
fn named<'a>(request: &Request<'a>) -> Option<NamedDialog<'a>> {
    match NamedDialog::to_act_on(&request.msg) {
        Ok(Some(names)) => Some(names),
        Ok(None) => NamedDialog::to_prove(&request.msg),
        Err(_) => None,
    }
}
