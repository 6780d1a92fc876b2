//! A call as others may see it: for listings.

use crate::dialog::Parts;
use crate::pool::Pool;
use crate::time::Instant;
use crate::wire::Flow;

use super::call::{Call, Leg, Phase, Side};
use super::{B2bua, CallId};

/// A call that is not forgotten yet.
pub struct CallView<'a> {
    pub id: CallId,
    call: &'a Call,
    calls: &'a B2bua,
}

/// One leg of it.
pub struct LegView<'a> {
    pub side: &'static str,
    pub dialog: Parts<'a>,
    pub flow: Flow,
}

impl B2bua {
    /// One past the highest slot of a call.
    pub fn slots(&self) -> u32 {
        self.calls.slots()
    }

    /// The call in a slot: one that an INVITE began, and no other request.
    pub fn call_at(&self, slot: u32) -> Option<CallView<'_>> {
        let id = self.calls.id_at(slot)?;
        let call = self.calls.get(id).filter(|call| call.is_invite)?;
        Some(CallView {
            id,
            call,
            calls: self,
        })
    }
}

impl<'a> CallView<'a> {
    pub fn state(&self) -> &'static str {
        match self.call.phase {
            Phase::Locating => "locating",
            Phase::Ringing => "ringing",
            Phase::Answered => "answered",
            Phase::Ending => "ending",
        }
    }

    pub fn begun_at(&self) -> Instant {
        self.call.begun_at
    }

    /// The caller's leg, then those of the phones, the newest first; once one has answered, that alone.
    pub fn legs(&self, pool: &'a Pool) -> impl Iterator<Item = LegView<'a>> {
        let legs = &self.calls.legs;
        let caller = legs.get(self.call.caller);
        let answered = self.call.answered;
        let callees = std::iter::successors(self.call.first_callee, move |&id| legs.get(id)?.next)
            .filter(move |&id| answered.is_none_or(|answered| answered == id))
            .filter_map(move |id| legs.get(id));
        caller
            .into_iter()
            .chain(callees)
            .map(move |leg| view_of(leg, pool))
    }
}

fn view_of<'a>(leg: &Leg, pool: &'a Pool) -> LegView<'a> {
    LegView {
        side: match leg.side {
            Side::Caller => "caller",
            Side::Callee => "callee",
        },
        dialog: leg.dialog.parts(pool),
        flow: leg.flow,
    }
}
