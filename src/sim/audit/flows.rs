//! Rules for phones that have registered flows: RFC 5626.

use bench_harness::sip;

use super::super::exchange::Dialled;
use super::super::trace::Step;
use super::branches::{is_turn_over, was_given_up};
use super::forward::end_of_search;
use super::ledger::{Asked, Ledger, Served};
use super::{EARLY, Found, SLACK};
use crate::time::Instant;

/// The URI of a flow as simulated phones write it: with the number of the flow in it.
pub fn flow_number(uri: &str) -> Option<&str> {
    sip::param(uri, "flow")
}

/// A REGISTER for a flow that was accepted, with its 2xx and the URI of its contact.
fn accepted<'l, 't>(
    ledger: &'l Ledger<'t>,
    life: usize,
) -> impl Iterator<Item = (&'l Served<'t>, &'t Step, &'t str)> {
    (ledger.served.iter())
        .filter(move |served| served.life == life && served.is("REGISTER"))
        .filter_map(|served| {
            let uri = sip::uri(served.first().packet.message.get("Contact")?);
            flow_number(uri)?;
            let success = served.finals().find(|step| step.packet.is_success())?;
            Some((served, success, uri))
        })
}

/// When the contacts of a request were looked up, at the earliest: those that are tried in turn are known from the beginning.
fn looked_up(ledger: &Ledger<'_>, asked: &Asked<'_>) -> Instant {
    let first = asked.first();
    match ledger.parent_of(asked.life, &first.packet.branch, &first.packet.method) {
        Some(served) => served.first().at,
        // The phone service has a phone's flows follow each other within 64*T1.
        None => Instant::from_nanos(first.at.as_nanos() - super::TIMEOUT.as_nanos() as u64),
    }
}

/// A request to a contact that has a flow leaves over what its REGISTER came over, and over nothing else.
pub fn a_flow_is_what_its_register_came_over(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in &ledger.asked {
        let first = asked.first();
        let begins = matches!(first.packet.method.as_str(), "INVITE" | "MESSAGE" | "OPTIONS");
        let uri = first
            .packet
            .message
            .uri()
            .filter(|uri| flow_number(uri).is_some());
        let Some(uri) = uri.filter(|_| begins && !first.packet.message.has("Route")) else {
            continue;
        };
        let registers = registered_for(ledger, asked, uri);
        let is_right = registers.iter().any(|step| {
            step.transport == first.transport && step.peer == first.peer && step.conn == first.conn
        });
        // Nobody listens on port 0: the connection has ended, and nothing else takes its place.
        let is_gone = first.peer.port() == 0;
        if !is_right && !is_gone {
            let came: Vec<_> = registers.iter().map(|step| (step.peer, step.conn)).collect();
            found.at(first, || {
                format!("{uri} came over {came:?}, and this goes over {:?}", first.conn)
            });
        }
    }
}

/// A request to a contact that was registered with a Path leaves by that path, and any other by none.
pub fn a_path_is_the_way_to_its_contact(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for asked in &ledger.asked {
        let first = asked.first();
        let begins = matches!(first.packet.method.as_str(), "INVITE" | "MESSAGE" | "OPTIONS");
        let Some(uri) = first
            .packet
            .message
            .uri()
            .filter(|uri| begins && flow_number(uri).is_some())
        else {
            continue;
        };
        let routes = first.packet.message.elements("Route");
        let is_right = registered_for(ledger, asked, uri)
            .iter()
            .any(|step| step.packet.message.elements("Path") == routes);
        if !is_right {
            found.at(first, || {
                format!("{uri} was not registered with the path {routes:?}")
            });
        }
    }
}

/// The REGISTERs of which any may have been the last for `uri` when `asked` was looked up.
fn registered_for<'t>(ledger: &Ledger<'t>, asked: &Asked<'t>, uri: &str) -> Vec<&'t Step> {
    let first = asked.first();
    let registers: Vec<(&'t Step, Instant)> = accepted(ledger, asked.life)
        .filter(|(_, success, own)| *own == uri && success.at <= first.at)
        .filter(|(served, ..)| served.first().packet.message.text("Expires") != "0")
        .map(|(served, success, _)| (served.first(), success.at))
        .collect();
    let looked_up = looked_up(ledger, asked);
    let times = registers.iter().map(|(_, at)| *at);
    let last = times.filter(|at| *at <= looked_up).max();
    // What another shard has looked up may be older by the way between them.
    let may_be_last = |at: Instant| last.is_none_or(|last| at >= last || last + SLACK >= looked_up);
    let of_these = registers.into_iter().filter(|(_, at)| may_be_last(*at));
    of_these.map(|(step, _)| step).collect()
}

/// Whoever has registered with a Path, and knows of paths, is told which is kept.
pub fn the_path_is_returned(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for life in 0..=ledger.served.iter().map(|served| served.life).max().unwrap_or(0) {
        for (served, success, _) in accepted(ledger, life) {
            let request = &served.first().packet.message;
            let knows_paths = request.elements("Supported").contains(&"path");
            if knows_paths && success.packet.message.elements("Path") != request.elements("Path") {
                found.at(success, || format!("without {:?}", request.elements("Path")));
            }
        }
    }
}

/// The branches of a request to the flows of one device, in turn.
fn to_device<'l, 't>(
    ledger: &'l Ledger<'t>,
    served: &'l Served<'t>,
) -> Vec<(&'l Asked<'t>, &'t str, &'t str)> {
    (ledger.children(served))
        .filter_map(|child| {
            let uri = child.first().packet.message.uri()?;
            let device = uri.split_once(";flow=")?.0;
            // One of them is over TCP.
            let device = device.strip_suffix(";transport=tcp").unwrap_or(device);
            Some((child, device, flow_number(uri)?))
        })
        .collect()
}

/// The first branch to the device of `child`; that itself where it goes to no flow.
pub fn first_of_device<'l, 't>(
    ledger: &'l Ledger<'t>,
    served: &'l Served<'t>,
    child: &'l Asked<'t>,
) -> &'l Asked<'t> {
    let all = to_device(ledger, served);
    let own = all.iter().find(|(other, ..)| std::ptr::eq(*other, child));
    let first = own.and_then(|(_, device, _)| all.iter().find(|(_, other, _)| other == device));
    first.map_or(child, |(first, ..)| *first)
}

/// Of several flows of one device one is tried, and the next when that has failed.
pub fn one_flow_of_a_device_at_a_time(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful() {
        let all = to_device(ledger, served);
        for (place, (child, device, _)) in all.iter().enumerate() {
            let at = child.first().at;
            let is_open = |other: &Asked<'_>| {
                let is_over = other.first_final().is_some_and(|last| last.at <= at)
                    || other.unsent().is_some_and(|unsent| unsent <= at)
                    || at.since(other.first().at) + EARLY >= super::TIMEOUT;
                !is_over
            };
            if let Some((other, ..)) =
                (all[..place].iter()).find(|(other, own, _)| own == device && is_open(other))
            {
                found.at(child.first(), || format!("while {} is tried", other.first().peer));
            }
        }
    }
}

/// 430: the flow has failed, and the device has said nothing: the next flow is tried.
pub fn another_flow_is_tried(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in ledger
        .stateful()
        .filter(|served| served.dialled(ledger.terms) == Some(Dialled::Subscriber))
    {
        let all = to_device(ledger, served);
        for (child, device, number) in &all {
            let Some(failed) = child.first_final().filter(|step| step.packet.status == Some(430)) else {
                continue;
            };
            let due = failed.at + SLACK;
            let other = if *number == "1" { "2" } else { "1" };
            let transport = if other == "1" { ";transport=tcp" } else { "" };
            let wanted = format!("{device}{transport};flow={other}");
            let last = accepted(ledger, served.life)
                .filter(|(_, success, uri)| *uri == wanted && success.at + SLACK <= served.first().at)
                .last();
            let is_registered = last.is_some_and(|(register, success, _)| {
                let granted: u64 = register
                    .first()
                    .packet
                    .message
                    .text("Expires")
                    .parse()
                    .unwrap_or(0);
                success.at + std::time::Duration::from_secs(granted) > due
            });
            let is_tried = all.iter().any(|(other, own, number)| {
                own == device
                    && *number
                        != flow_number(child.first().packet.message.uri().unwrap_or_default())
                            .unwrap_or_default()
                    && other.first().at <= due
            });
            let is_over = end_of_search(ledger, served).is_some_and(|end| end.at <= due)
                || served.finals().next().is_some_and(|step| step.at < failed.at)
                || child.cancels.first().is_some_and(|cancel| cancel.at <= due)
                || is_turn_over(ledger, served, child, failed.at)
                || was_given_up(child, failed);
            if is_registered && !is_tried && !is_over && ledger.has_lived_to(served.life, due) {
                found.at(failed, || format!("{wanted} is not tried"));
            }
        }
    }
}

/// Whoever has registered a flow is told that the registrar knows of them.
pub fn a_flow_is_acknowledged_by_require(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for life in 0..=ledger.served.iter().map(|served| served.life).max().unwrap_or(0) {
        for (_, success, _) in accepted(ledger, life) {
            if !success.packet.message.elements("Require").contains(&"outbound") {
                found.at(success, || "without Require: outbound".to_owned());
            }
        }
    }
}
