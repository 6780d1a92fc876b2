//! The next hop of a dialog whose host is a name: RFC 3261 §12.2.1.1 and §8.1.2 have it looked up as RFC 3263 says.
//!
//! No request waits for that. Until DNS has answered, and where it knows no address that can be reached, requests go where those of the peer
//! came from, which has worked before. An address that requests go to already is kept while the name has it, so that a dialog stays with the
//! server that knows it.

use crate::dns::plan::{Targets, Wanted};
use crate::dns::{Asker, Resolved};
use crate::msg::uri::Uri;
use crate::wire::{Effects, Flow};

use super::Stack;
use super::destination::flow_to;

/// What is to be known of a next hop beside the flow to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    /// Its host is a name.
    pub is_named: bool,
    /// The digest of the URI that DNS is asked for.
    asked: Option<u64>,
}

impl Hop {
    /// Has `flow` lead to an address of the name in `uri`, the next hop of the dialog with this Call-ID, and gives the others that it has. DNS
    /// is asked where nothing is known; [`Hop::found`] is to be told what `asker` is told.
    pub fn find(
        &mut self,
        stack: &mut Stack,
        (uri, call_id): (&[u8], &[u8]),
        flow: &mut Flow,
        asker: Asker,
        out: &Effects,
    ) -> Option<Targets> {
        if !self.is_named {
            return None;
        }
        let wanted = wanted(uri)?;
        let (seed, now) = (seed(stack, call_id), out.received_at);
        let mut targets = Targets::default();
        match stack.dns.resolve_known(&wanted, seed, now, &mut targets) {
            Some(Resolved::Targets) => Some(lead(stack, flow, &targets)),
            Some(Resolved::NoAddress | Resolved::Failed | Resolved::Full | Resolved::Waiting(_)) => None,
            None => {
                let digest = stack.key.digest(&[uri]);
                if self.asked != Some(digest) {
                    let asked =
                        (stack.dns).resolve(&mut stack.wheel, &wanted, asker, seed, now, &mut targets);
                    self.asked = matches!(asked, Resolved::Waiting(_)).then_some(digest);
                }
                None
            }
        }
    }

    /// What came of the look-up. The next hop may be another by now: then that is asked for.
    pub fn found(
        &mut self,
        stack: &mut Stack,
        (uri, call_id): (&[u8], &[u8]),
        flow: &mut Flow,
        asker: Asker,
        (resolved, targets): (Resolved, &Targets),
        out: &Effects,
    ) {
        let asked = self.asked.take();
        if asked != Some(stack.key.digest(&[uri])) {
            self.find(stack, (uri, call_id), flow, asker, out);
        } else if resolved == Resolved::Targets && self.is_named {
            lead(stack, flow, targets);
        }
    }
}

/// The flow to the name in `uri`, by what is known of it alone; `flow` where that is nothing.
pub fn known_flow(stack: &Stack, (uri, call_id): (&[u8], &[u8]), mut flow: Flow, out: &Effects) -> Flow {
    let mut targets = Targets::default();
    let known = wanted(uri).and_then(|wanted| {
        let seed = seed(stack, call_id);
        (stack.dns).resolve_known(&wanted, seed, out.received_at, &mut targets)
    });
    if known == Some(Resolved::Targets) {
        lead(stack, &mut flow, &targets);
    }
    flow
}

fn wanted(uri: &[u8]) -> Option<Wanted> {
    Wanted::of_uri(&Uri::parse(uri).ok()?).ok()
}

/// RFC 3263 §4.4: all requests of a dialog take the same way.
fn seed(stack: &Stack, call_id: &[u8]) -> u64 {
    stack.key.digest(&[call_id])
}

/// Has `flow` lead to one of `targets`: where it leads already, else to the first that can be reached. Gives the others.
fn lead(stack: &Stack, flow: &mut Flow, targets: &Targets) -> Targets {
    let mut others = Targets::default();
    let here = (flow.transport, flow.peer);
    let mut leads = targets
        .iter()
        .any(|target| (target.transport, target.addr) == here);
    // A connection to one host is none to another.
    let like = Flow { conn: None, ..*flow };
    for target in targets.iter() {
        let to = (target.transport, target.addr);
        if leads {
            if to != (flow.transport, flow.peer) {
                others.add(target);
            }
        } else if let Ok(found) = flow_to(&stack.cfg, to, Some(like)) {
            *flow = found;
            leads = true;
        }
    }
    others
}
