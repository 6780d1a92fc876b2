//! Rules for what a proxy sends on: RFC 3261 §16.3 to §16.6 and §16.11, RFC 5393.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bench_harness::sip;

use super::super::edge::is_edges;
use super::super::exchange::Dialled;
use super::super::net::SERVER;
use super::super::passage;
use super::super::trace::{Step, What};
use super::dialogs::wants_flow;
use super::ledger::{Asked, Ledger, Served};
use super::server::given_up_at;
use super::{EARLY, Found, SLACK, TIMEOUT, flows, names};
use crate::config::route::Fork;

/// RFC 5393 §5.3.3: what a request has that says nothing.
const MAX_BREADTH: u32 = 60;

fn hops(step: &Step) -> Option<u32> {
    step.packet.message.text("Max-Forwards").parse().ok()
}

/// Everything that was forwarded, with and without a transaction, and what it came as.
fn all_forwarded<'l, 't>(
    ledger: &'l Ledger<'t>,
) -> impl Iterator<Item = (&'l Served<'t>, &'l Asked<'t>)> + use<'l, 't> {
    ledger
        .served
        .iter()
        .flat_map(|served| ledger.children(served).map(move |child| (served, child)))
}

/// One less than it came with; 70 where it came without.
pub fn max_forwards_goes_down_by_one(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        let wanted = hops(served.first()).map_or(Some(70), |left| left.checked_sub(1));
        let left = hops(child.first());
        if left != wanted {
            found.at(child.first(), || {
                format!("Max-Forwards is {left:?} where {wanted:?} is due")
            });
        }
    }
}

/// A request that may go no further is answered, with 483 where nothing else is wrong with it.
pub fn a_request_without_hops_left_goes_nowhere(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        if hops(served.first()) == Some(0) {
            found.at(child.first(), || "its Max-Forwards was 0".to_owned());
        }
    }
    for served in ledger
        .stateful()
        .filter(|served| served.dialled(ledger.terms).is_some())
    {
        let is_known = !matches!(
            served.dialled(ledger.terms),
            Some(Dialled::Redirected | Dialled::Stateless)
        );
        let last = served.finals().next();
        let is_plain = hops(served.first()) == Some(0) && !served.is("CANCEL") && is_known;
        if is_plain && last.is_some_and(|last| !matches!(last.packet.status, Some(483 | 503))) {
            found.at(served.first(), || {
                "its Max-Forwards is 0 and its answer is not 483".to_owned()
            });
        }
    }
}

/// The Vias of the request stand as they were below the new one, the first of them completed by where it came from.
pub fn vias_stay_below_ours(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        let before = served.first().packet.message.elements("Via");
        let after = child.first().packet.message.elements("Via");
        if !passage::are_completed(&before, &after[1..]) {
            found.at(child.first(), || format!("Via was {before:?} and is {after:?}"));
        }
        let source = served.first().peer;
        let came_from = after.get(1).copied().unwrap_or_default();
        let is_asked = before
            .first()
            .is_some_and(|via| sip::param(via, "rport").is_some());
        let is_told = sip::param(came_from, "received") == Some(&*source.ip().to_string())
            && sip::param(came_from, "rport") == Some(&*source.port().to_string());
        // RFC 3581 §4.
        if is_asked && !is_told && served.got.len() == 1 {
            found.at(child.first(), || {
                format!("Via is {came_from:?}: it came from {source}")
            });
        }
    }
}

/// Elements of Route that name us are behind us; what follows stays, and the path of a contact comes before it (RFC 3327 §5.4).
pub fn own_routes_are_taken_off(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        let before = served.first().packet.message.elements("Route");
        let after = child.first().packet.message.elements("Route");
        let own = before.iter().take_while(|route| passage::is_ours(route)).count();
        // Whether it is the right one is for another rule.
        let begins = served.first().packet.to_tag.is_empty();
        let path = after.iter().take_while(|route| begins && is_edges(route)).count();
        if before[own..] != after[path..] {
            found.at(child.first(), || format!("Route was {before:?} and is {after:?}"));
        }
    }
}

/// A request that may make a dialog gets a Record-Route of ours above all others where the rule says so, two where it leaves
/// by another transport; one within a dialog gets none.
pub fn own_record_route_comes_first(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        let (came, left) = (served.first(), child.first());
        let before = came.packet.message.elements("Record-Route");
        let after = left.packet.message.elements("Record-Route");
        let added = after.len().saturating_sub(before.len());
        let rule = served
            .dialled(ledger.terms)
            .zip(ledger.terms.exchange.as_ref())
            .and_then(|(dialled, exchange)| exchange.rule(dialled));
        let is_wanted = rule.is_some_and(|rule| rule.record_route)
            && came.packet.is_request("INVITE")
            && came.packet.to_tag.is_empty();
        // RFC 5626 §5.3.2: one of the two has the flow of who calls.
        let is_first_hop = came.packet.message.elements("Via").len() == 1;
        let has_flow = is_first_hop && wants_flow(&came.packet.message);
        let wanted = match (is_wanted, came.transport == left.transport && !has_flow) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        let is_loose = |route: &&str| passage::is_ours(route) && sip::uri(route).contains(";lr");
        if added != wanted || after[added..] != before[..] || !after[..added].iter().all(is_loose) {
            found.at(left, || {
                format!("Record-Route was {before:?} and is {after:?}, {wanted} of ours are due")
            });
        }
    }
}

/// Nothing else changes, not even in its order or its white space.
pub fn everything_else_is_passed_as_it_came(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        let (before, after) = (&served.first().packet.message, &child.first().packet.message);
        if let Some(what) = passage::difference(before, after, passage::OWN_OF_PROXY) {
            found.at(child.first(), || what);
        }
    }
}

/// Within a dialog a request goes where it says itself.
pub fn request_uri_of_a_dialog_is_kept(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        let (before, after) = (
            served.first().packet.message.uri(),
            child.first().packet.message.uri(),
        );
        if !served.first().packet.to_tag.is_empty() && before != after {
            found.at(child.first(), || {
                format!("Request-URI was {before:?} and is {after:?}")
            });
        }
    }
}

/// A request that has been here, for the same place, does not go on; that it came by another element does not matter.
pub fn a_loop_goes_no_further(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful().filter(|served| served.is_forwarded()) {
        let packet = &served.first().packet;
        let has_looped = packet.message.elements("Via").into_iter().skip(1).any(|via| {
            let branch = sip::param(via, "branch").unwrap_or_default();
            via.contains(&SERVER.to_string())
                && ledger
                    .parent_of(served.life, branch, &packet.method)
                    .is_some_and(|earlier| {
                        let before = &earlier.first().packet;
                        before.message.uri() == packet.message.uri()
                            && before.message.get_all("Route") == packet.message.get_all("Route")
                    })
        });
        if has_looped {
            found.at(served.first(), || "came a second time and went on".to_owned());
        }
    }
}

/// The Max-Breadth of branches that are open at a time is that of the request in all.
pub fn breadth_is_shared_out(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful().filter(|served| served.is_forwarded()) {
        let breadth = |step: &Step| step.packet.message.text("Max-Breadth").parse::<u32>().ok();
        let most = breadth(served.first()).map_or(MAX_BREADTH, |most| most.min(MAX_BREADTH));
        for child in ledger.children(served) {
            let at = child.first().at;
            // One that has kept silent may have been given up.
            let others = ledger.children(served).filter(|other| {
                other.first().at <= at
                    && other.answers.iter().any(|step| step.at <= at)
                    && !is_over(other, at)
                    && !std::ptr::eq(*other, child)
            });
            let own = breadth(child.first());
            let sum: u32 = others.filter_map(|other| breadth(other.first())).sum();
            if own.is_none_or(|own| own == 0 || own + sum > most) {
                found.at(child.first(), || {
                    format!("Max-Breadth is {own:?} beside {sum} in other branches, of {most}")
                });
            }
        }
    }
}

/// Whether a branch has had its end by then.
fn is_over(child: &Asked<'_>, at: crate::time::Instant) -> bool {
    child.first_final().is_some_and(|last| last.at <= at)
        || child.first().at + TIMEOUT <= at
        || child.unsent().is_some_and(|unsent| unsent <= at)
}

pub fn no_breadth_is_refused(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        if served.first().packet.message.text("Max-Breadth") == "0" {
            found.at(child.first(), || "its Max-Breadth was 0".to_owned());
        }
    }
}

/// A proxy that does not know what a request wants of proxies does not pass it on, and says what it does not know.
pub fn unknown_proxy_require_is_refused(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child) in all_forwarded(ledger) {
        if served.first().packet.message.has("Proxy-Require") {
            found.at(child.first(), || "with a Proxy-Require".to_owned());
        }
    }
    for (life, step) in ledger.responses_sent() {
        let wanted = ledger
            .served_by(life, &step.packet)
            .map(|served| served.first().packet.message.elements("Proxy-Require"));
        let is_own = step.packet.status == Some(420) && step.packet.id.is_none();
        if let Some(wanted) = wanted
            && is_own
            && step.packet.message.elements("Unsupported") != wanted
        {
            found.at(step, || format!("Unsupported is not {wanted:?}"));
        }
    }
}

/// No place stands in the target set twice: by its request URI, over one transport.
pub fn each_place_is_tried_once(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful() {
        let mut tried = BTreeMap::new();
        for child in ledger.children(served) {
            let first = child.first();
            let place = (first.packet.message.uri(), first.peer, first.transport.name());
            // An address that DNS has given to another host of the same name meanwhile is that one's.
            if let Some(earlier) = tried.insert(place, child)
                && !names::has_moved(ledger, served, (earlier, child))
                && given_up_at(served).is_none_or(|at| first.at + SLACK < at)
            {
                found.at(first, || "tried a second time".to_owned());
            }
        }
    }
}

/// Where places are tried one after another the next waits until the one before has come to its end, or its time is up.
pub fn places_in_turn_wait_for_one_another(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let Some(exchange) = ledger.terms.exchange else {
        return;
    };
    for served in ledger.stateful().filter(|served| served.children.len() > 1) {
        let Some(dialled) = served.dialled(ledger.terms) else {
            continue;
        };
        let Some(rule) = exchange.rule(dialled) else {
            continue;
        };
        // A destination of a trunk may keep silent so long, and whoever it redirects to may ring as long as anybody.
        let ring = Duration::from_secs(u64::from(rule.ring_s));
        let (is_serial, patience) = match dialled {
            Dialled::Trunk => (true, exchange.answer_timeout.min(ring)),
            _ => (rule.fork == Fork::Serial, ring),
        };
        if !is_serial {
            continue;
        }
        let mut before: Option<&Asked<'_>> = None;
        for child in ledger.children(served) {
            let at = child.first().at;
            if let Some(before) = before {
                // The flows of one device have one turn: RFC 5626 §7.
                let begun = flows::first_of_device(ledger, served, before);
                let waited = at.since(begun.first().at);
                // A connection may have been refused.
                let is_tcp = !super::ledger::is_udp(before.first()) || !super::ledger::is_udp(child.first());
                // The time of a place runs while DNS is asked where it is.
                let is_by_name = [before, child]
                    .iter()
                    .any(|each| names::is_by_name(ledger, served, each));
                let early = if is_by_name { names::LOOK_UP_MAX } else { EARLY };
                let is_right = is_over(before, at) || waited + early >= patience.min(TIMEOUT) || is_tcp;
                if !is_right && ledger.terms.is_whole {
                    found.at(child.first(), || {
                        format!("{waited:?} after {} and without its end", before.first().peer)
                    });
                }
            }
            before = Some(child);
        }
    }
}

/// A 2xx, a 6xx or a CANCEL ends the search.
pub fn nothing_is_tried_after_the_end(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful().filter(|served| served.is_forwarded()) {
        let Some(end) = end_of_search(ledger, served) else {
            continue;
        };
        for child in ledger.children(served) {
            if child.first().at > end.at + SLACK {
                found.at(child.first(), || format!("after {}", end.packet.message.title()));
            }
        }
    }
}

/// What ends the search for who will answer: the first of these.
pub fn end_of_search<'t>(ledger: &Ledger<'t>, served: &Served<'t>) -> Option<&'t Step> {
    let ends = ledger.children(served).filter_map(|child| {
        // What comes when the branch has long been given up is nobody's.
        child
            .first_final()
            .filter(|step| step.packet.is_success() || step.packet.status >= Some(600))
            .filter(|step| !super::branches::was_given_up(child, step))
    });
    let cancels = served
        .cancels
        .iter()
        .copied()
        .filter(|cancel| served.is("INVITE") && cancel.at >= served.first().at)
        // One that found no INVITE, or no room, has ended nothing.
        .filter(|cancel| ledger.was_taken(served.life, cancel));
    ends.chain(cancels).min_by_key(|step| step.at)
}

/// The ACK of a failure is for the proxy, which has acknowledged the failures of its branches itself.
pub fn ack_of_a_failure_goes_no_further(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.requests_sent() {
        let below = step.packet.message.elements("Via");
        let Some(branch) = below.get(1).and_then(|via| sip::param(via, "branch")) else {
            continue;
        };
        if !step.packet.is_request("ACK") {
            continue;
        }
        let refused = ledger
            .served_as(life, branch, "INVITE")
            .filter(|served| !served.is_stateless)
            .and_then(|served| served.finals().next())
            .filter(|last| last.packet.is_failure() && last.packet.to_tag == step.packet.to_tag);
        // Timer H: whose ACK it is nobody knows when that has gone off.
        if refused.is_some_and(|last| step.at.since(last.at) < TIMEOUT - SLACK) {
            found.at(step, || "the ACK of a failure".to_owned());
        }
    }
}

/// The ACK of a 2xx goes on each time that it comes by a route of ours.
pub fn ack_of_a_success_is_passed_on(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole || ledger.terms.exchange.is_none() {
        return;
    }
    for (life, step) in &ledger.steps {
        let packet = &step.packet;
        let is_ack = step.what == What::Received && packet.is_request("ACK");
        let has_route = packet
            .message
            .elements("Route")
            .first()
            .is_some_and(|route| passage::is_ours(route));
        if !is_ack || !has_route || hops(step) == Some(0) {
            continue;
        }
        // DNS may have to say where its target is.
        let due = step.at + names::wait_of(ledger);
        let mut is_known = false;
        let mut is_passed = false;
        for other in ledger.of_call(*life, &packet.call_id) {
            let is_sent = other.what == What::Sent;
            is_known |= is_sent
                && other.packet.is_request("INVITE")
                && (other.packet.message.elements("Record-Route").iter())
                    .any(|route| passage::is_ours(route));
            is_passed |= is_sent
                && other.packet.is_request("ACK")
                && other.at >= step.at
                && other.at <= due
                && (other.packet.message.elements("Via").get(1))
                    .is_some_and(|via| sip::param(via, "branch") == Some(&packet.branch));
        }
        if is_known && !is_passed && ledger.has_lived_to(*life, due) {
            found.at(step, || "does not go on".to_owned());
        }
    }
}

/// Without state a request goes on under one branch, once for each time that it comes.
pub fn stateless_requests_are_passed_as_often_as_they_come(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.served.iter().filter(|served| served.is_stateless) {
        let sent: usize = ledger.children(served).map(|child| child.sent.len()).sum();
        // Its branch says where answers go back, which for a stream is the connection: over another it is no repetition.
        let ways: BTreeSet<Option<u32>> = served.got.iter().map(|step| step.conn).collect();
        if served.children.len() > ways.len() {
            found.at(served.first(), || "under several branches".to_owned());
        }
        let is_refused = served.finals().any(|step| step.packet.id.is_none());
        let last = served.got[served.got.len() - 1];
        let is_whole =
            ledger.terms.is_whole && ledger.has_lived_to(served.life, last.at + names::wait_of(ledger));
        let is_missing = sent < served.got.len() && is_whole && !is_refused;
        if sent > served.got.len() || is_missing {
            found.at(served.first(), || {
                format!("came {} times and went on {sent} times", served.got.len())
            });
        }
    }
}
