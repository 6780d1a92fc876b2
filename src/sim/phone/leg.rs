//! A phone's side of one call.

use std::rc::Rc;

use bench_harness::sip::Message;

use crate::sim::packet::Packet;
use crate::sim::plan::{CalleePlan, CallerPlan};

use super::{Cx, Over, Phone};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Caller,
    Callee,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It rings, or is about to.
    Early,
    /// A 2xx was sent or received.
    Up,
    Ended,
}

#[derive(Clone)]
pub struct Leg {
    pub role: Role,
    /// The call, as the book counts them.
    pub call: usize,
    pub standing: Standing,
    /// The transaction of the INVITE that began it.
    pub invite_key: String,
    pub invite: Rc<Packet>,
    pub call_id: String,
    /// This side's From value, with its tag, and the tag alone.
    pub local: String,
    pub local_tag: String,
    /// The other side's To value; its tag is empty until it is known.
    pub remote: String,
    pub remote_tag: String,
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
    pub remote_cseq: u32,
    pub over: Over,
    /// An INVITE of ours within the call is under way, or one of the other side's: a second would be glare.
    pub is_inviting: bool,
    pub is_invited: Option<String>,
    /// Who has sent a BYE, by their tags: it may come before the 2xx.
    pub byes: Vec<String>,
    /// The ACK of the 2xx that made the call has come, or was sent.
    pub is_confirmed: bool,
    /// The number of the reliable provisional that waits for its PRACK.
    pub rseq: Option<u32>,
    /// The reliable provisionals that were acknowledged: number, INVITE and dialog.
    pub pracked: Vec<String>,
    pub is_cancelled: bool,
    /// A CANCEL waits for a provisional response.
    pub wants_cancel: bool,
    pub caller: CallerPlan,
    pub callee: CalleePlan,
    /// Another 2xx of the same phone, whose dialog nobody wants.
    pub is_twin: bool,
}

impl Phone {
    /// A request within a call, in its dialog.
    pub(super) fn request_in(&mut self, leg: usize, method: &str, _cx: &mut Cx<'_>) -> Message {
        let over = self.legs[leg].over;
        let target = self.legs[leg].target.clone();
        let head = self.request(method, &target, over);
        let leg = &mut self.legs[leg];
        if method != "ACK" {
            leg.cseq += 1;
        }
        let mut message = head.with("Max-Forwards", 70);
        for route in &leg.routes {
            message = message.with("Route", route);
        }
        message
            .with("From", &leg.local)
            .with("To", &leg.remote)
            .with("Call-ID", &leg.call_id)
            .with("CSeq", format!("{} {method}", leg.cseq))
    }

    /// The leg that a request within a dialog belongs to.
    pub(super) fn leg_of(&self, packet: &Packet) -> Option<usize> {
        self.legs.iter().position(|leg| {
            leg.call_id == packet.call_id
                && leg.local_tag == packet.to_tag
                && (leg.remote_tag == packet.from_tag || leg.remote_tag.is_empty())
        })
    }
}
