//! Rules for dialogs with phones that want them on the flows which they began on: RFC 5626 §4.3, §5.3.

use std::collections::BTreeMap;

use bench_harness::sip::{self, Message};

use super::super::passage;
use super::super::trace::{Step, What};
use super::Found;
use super::flows::flow_number;
use super::ledger::{Ledger, Served};

/// One side of a dialog: life, Call-ID and tag.
type Party<'t> = (usize, &'t str, &'t str);

/// Whether it says that its dialog is to stay on the flow.
pub fn wants_flow(message: &Message) -> bool {
    let contact = message.get("Contact").map(sip::uri);
    contact.is_some_and(|uri| sip::param(uri, "ob").is_some())
}

/// Whether a proxy stays on the way of the dialog that a request begins: by its rule, or as the B2BUA that it is otherwise.
fn records_route(ledger: &Ledger<'_>, served: &Served<'_>) -> bool {
    let rule = (ledger.terms.exchange.as_ref()).map(|exchange| exchange.rule(served.dialled(ledger.terms)?));
    rule.is_none_or(|rule| rule.is_some_and(|rule| rule.record_route))
}

/// The messages over whose flows those may be reached who have put `ob` into their Contact.
fn parties<'t>(ledger: &Ledger<'t>) -> BTreeMap<Party<'t>, Vec<&'t Step>> {
    let mut parties: BTreeMap<Party<'t>, Vec<&'t Step>> = BTreeMap::new();
    // Who began it: §4.3. The first hop alone knows the flow, and whoever records a route is reached by that.
    let begins = (ledger.stateful()).filter(|served| served.is("INVITE") || served.is("SUBSCRIBE"));
    for served in begins {
        let packet = &served.first().packet;
        let is_first_hop = packet.message.elements("Via").len() == 1 && !packet.message.has("Record-Route");
        if packet.to_tag.is_empty()
            && is_first_hop
            && wants_flow(&packet.message)
            && records_route(ledger, served)
        {
            let party = (served.life, &*packet.call_id, &*packet.from_tag);
            parties.entry(party).or_default().extend(&served.got);
        }
    }
    // Who was called: a proxy knows the flow of those whom it has reached over one, §5.3.1.
    for asked in ledger.invites() {
        let packet = &asked.first().packet;
        let is_to_flow = packet.message.uri().is_some_and(|uri| flow_number(uri).is_some());
        let is_by_path = packet.message.has("Route");
        let parent = ledger.parent_of(asked.life, &packet.branch, "INVITE");
        let is_known = parent.is_none_or(|served| is_to_flow && records_route(ledger, served));
        if !packet.to_tag.is_empty() || is_by_path || !is_known {
            continue;
        }
        for answer in &asked.answers {
            let makes_dialog = answer
                .packet
                .status
                .is_some_and(|status| (101..300).contains(&status));
            if makes_dialog && !answer.packet.to_tag.is_empty() && wants_flow(&answer.packet.message) {
                let party = (asked.life, &*answer.packet.call_id, &*answer.packet.to_tag);
                let ways = parties.entry(party).or_default();
                if asked.is_forwarded() {
                    ways.extend(&asked.sent);
                } else {
                    ways.push(answer);
                }
            }
        }
    }
    // A B2BUA follows a phone that goes on over another flow.
    if ledger.terms.exchange.is_none() {
        for (life, step) in ledger
            .steps
            .iter()
            .filter(|(_, step)| step.what == What::Received)
        {
            let packet = &step.packet;
            let is_request = packet.request().is_some();
            let tag = if is_request {
                &packet.from_tag
            } else {
                &packet.to_tag
            };
            if let Some(ways) = parties.get_mut(&(*life, &*packet.call_id, &**tag)) {
                ways.push(step);
            }
        }
    }
    parties
}

/// Whether what a proxy sends on within a dialog came by a route of its own, which is why it knows of the flow.
fn came_by_route(ledger: &Ledger<'_>, life: usize, sent: &Step, ways: &[&Step]) -> bool {
    let came = ledger.of_call(life, &sent.packet.call_id).find(|step| {
        let is_it = step.packet.id == sent.packet.id && step.packet.request() == sent.packet.request();
        step.what == What::Received && is_it && step.at <= sent.at
    });
    let routes = |step: &Step| -> usize {
        let routes = step.packet.message.elements("Route").into_iter();
        routes.take_while(|route| passage::is_ours(route)).count()
    };
    // What comes over the flow of its one Route is on its way out (§5.3), as where a phone has called itself by way of another element.
    let is_outgoing = |step: &Step| routes(step) == 1 && ways.iter().any(|way| way.peer == step.peer);
    came.is_some_and(|step| routes(step) > 0 && !is_outgoing(step))
}

/// Whether nothing goes over the connection of `way` any more from `step` on.
fn has_ended(ledger: &Ledger<'_>, life: usize, way: &Step, step: &Step) -> bool {
    let goes_on =
        |(own, other): &(usize, &Step)| *own == life && other.conn == way.conn && other.at > step.at;
    way.conn.is_some() && !ledger.steps.iter().any(goes_on)
}

/// Requests within a dialog reach who has `ob` in the Contact over the flow that made the dialog, whatever that URI says.
pub fn a_dialog_stays_on_its_flow(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let parties = parties(ledger);
    for (life, step) in ledger.requests_sent() {
        let packet = &step.packet;
        let Some(ways) = parties.get(&(life, &*packet.call_id, &*packet.to_tag)) else {
            continue;
        };
        // These belong to the transaction of an INVITE, and go where that went.
        let is_of_invite = ledger.is_of_invite(life, packet);
        let is_proxied = ledger.terms.exchange.is_some();
        if is_of_invite || (is_proxied && !came_by_route(ledger, life, step, ways)) {
            continue;
        }
        let is_over = |way: &&Step| {
            // Its connection has ended: a proxy says so by port 0, where nobody listens, and the phone service tries where answers go.
            let is_gone = step.peer.ip() == way.peer.ip()
                && (step.peer.port() == 0 || !is_proxied && has_ended(ledger, life, way, step));
            way.at <= step.at && way.transport == step.transport && (way.peer == step.peer || is_gone)
        };
        if !ways.iter().any(is_over) {
            let known: Vec<_> = ways.iter().map(|way| (way.transport, way.peer)).collect();
            found.at(step, || {
                format!("goes over {:?}, and its flow is one of {known:?}", step.transport)
            });
        }
    }
}
