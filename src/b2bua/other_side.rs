//! Dialogs that a request names without belonging to them. Whoever writes a Replaces, Join or Target-Dialog knows the dialog by the
//! names that it has on their side of the call; the phone that is meant knows it by those on its own.

use crate::location::{Contact, ContactSet};
use crate::msg::named_dialog::NamedDialog;
use crate::pool::Pool;
use crate::transaction::Stack;
use crate::wire::Transport;

use super::B2bua;
use super::call::Side;

impl B2bua {
    /// Finds the phone on the other side of the dialog that `names` names, and what that phone calls it.
    pub fn other_side(&self, stack: &Stack, names: &NamedDialog<'_>, pool: &Pool, found: &mut ContactSet) {
        found.set_dialog(None);
        let Some((_, other)) = self.find_named(stack, names, pool) else {
            return;
        };
        let Some(leg) = self.legs.get(other) else { return };
        // RFC 3891 §3: a dialog that an INVITE made.
        if self.calls.get(leg.call).is_none_or(|call| !call.is_invite) {
            return;
        }
        let parts = leg.dialog.parts(pool);
        let there = NamedDialog {
            call_id: parts.call_id,
            local_tag: parts.remote_tag,
            remote_tag: match leg.side {
                // Toward the caller we bear the tag of the phone that answered.
                Side::Caller => names.remote_tag,
                Side::Callee => parts.local_tag,
            },
        };
        let phone = Contact {
            uri: parts.target,
            params: b"",
            path: b"",
            device: 0,
            is_flow: false,
            q: 1_000,
            flow: leg.flow,
            tcp: leg.flow.transport == Transport::Tcp,
            is_at_peer: leg.flow.transport == Transport::Udp,
        };
        found.set_dialog(Some((&there, &phone)));
    }
}
