//! What a message may look like when it has passed a server: RFC 3261 §16.6 and §16.7 step 3 for a proxy, "A message's way"
//! of ARCHITECTURE.md for the phone service. Everything else is as it was sent, byte for byte and in order.

use bench_harness::sip::{self, Message};

use super::edge::{is_edges, is_edges_via};
use super::net::SERVER;
use super::packet::Packet;

/// Headers that the B2BUA gives values of its own.
const OWN_OF_B2BUA: &[&str] = &[
    "Via",
    "Route",
    "Record-Route",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Max-Forwards",
    "Contact",
    "RAck",
    "Content-Length",
];

/// Headers that each hop of a proxy changes, in requests.
pub const OWN_OF_PROXY: &[&str] = &["Via", "Route", "Record-Route", "Max-Forwards", "Max-Breadth"];

/// Headers of a response that a proxy changes: its Via goes, and the challenges of others may come (§16.7 step 7).
const OWN_OF_PROXY_BACK: &[&str] = &["Via", "WWW-Authenticate", "Proxy-Authenticate"];

fn rest<'m>(message: &'m Message, own: &[&str]) -> Vec<&'m str> {
    message
        .headers
        .iter()
        .filter(|header| !own.iter().any(|name| header.is(name)))
        .map(|header| header.line())
        .collect()
}

/// What is not as it was sent, where it should be.
pub fn difference(sent: &Message, got: &Message, own: &[&str]) -> Option<String> {
    let (before, after) = (rest(sent, own), rest(got, own));
    if before != after {
        return Some(format!("headers were {before:?} and are {after:?}"));
    }
    (sent.body != got.body).then(|| "the body is another".to_owned())
}

/// A request or response that has passed the B2BUA.
pub fn b2bua(sent: &Message, got: &Message) -> Option<String> {
    difference(sent, got, OWN_OF_B2BUA).or_else(|| {
        // The parameters of a Contact say what the phone can do; they stay.
        let features = |message: &Message| message.get("Contact").map(|contact| sip::params(contact).len());
        (features(sent) != features(got)).then(|| "the Contact has other parameters".to_owned())
    })
}

/// A request that has passed the proxy, as often as its Vias say.
pub fn request(sent: &Packet, got: &Packet) -> Vec<String> {
    let (before, after) = (&sent.message, &got.message);
    let mut wrong: Vec<String> = difference(before, after, OWN_OF_PROXY).into_iter().collect();
    let (old, new) = (before.elements("Via"), after.elements("Via"));
    let hops = new.len().saturating_sub(old.len());
    let is_hop = |via: &&str| {
        via.contains(&SERVER.to_string()) || via.contains("branch=z9hG4bKmirror") || is_edges_via(via)
    };
    if !new[..hops].iter().all(is_hop) || !are_completed(&old, &new[hops..]) {
        wrong.push(format!("Via was {old:?} and is {new:?}"));
    }
    let left = |message: &Message| message.text("Max-Forwards").parse::<usize>().ok();
    match (left(before), left(after)) {
        (Some(before), Some(after)) if before == after + hops => {}
        (before, after) => {
            wrong.push(format!(
                "Max-Forwards was {before:?} and is {after:?} {hops} hops later"
            ));
        }
    }
    let is_hop = |route: &&str| is_ours(route) || is_edges(route);
    let (old, new) = (before.elements("Record-Route"), after.elements("Record-Route"));
    let added = new.len().saturating_sub(old.len());
    if new[added..] != old[..] || !new[..added].iter().all(is_hop) {
        wrong.push(format!("Record-Route was {old:?} and is {new:?}"));
    }
    let (old, new) = (before.elements("Route"), after.elements("Route"));
    let popped = old.len().saturating_sub(new.len());
    if old[popped..] != new[..] || !old[..popped].iter().all(is_hop) {
        wrong.push(format!("Route was {old:?} and is {new:?}"));
    }
    wrong
}

/// A response that has passed the proxy on its way back to who sent `request`.
pub fn response(sent: &Message, got: &Message) -> Option<String> {
    let lines = |name: &str| (sent.lines(name), got.lines(name));
    difference(sent, got, OWN_OF_PROXY_BACK).or_else(|| {
        ["WWW-Authenticate", "Proxy-Authenticate"]
            .into_iter()
            .map(lines)
            .find(|(before, after)| before.iter().any(|line| !after.contains(line)))
            .map(|(before, after)| format!("challenges were {before:?} and are {after:?}"))
    })
}

/// Whether `after` are the Vias of `before`, of which the topmost may have been completed: §18.2.1.
pub fn are_completed(before: &[&str], after: &[&str]) -> bool {
    before.len() == after.len()
        && before.get(1..) == after.get(1..)
        && before.first().zip(after.first()).is_none_or(|(before, after)| {
            before.split(';').next() == after.split(';').next()
                && sip::params(before)
                    .into_iter()
                    .filter(|(name, _)| *name != "rport")
                    .all(|param| sip::params(after).contains(&param))
        })
}

/// Whether an element of Route or Record-Route names the server.
pub fn is_ours(route: &str) -> bool {
    // RFC 5626 §5.3: the user part may be the token of a flow.
    sip::uri(route).strip_prefix("sip:").is_some_and(|rest| {
        let place = rest.split_once('@').map_or(rest, |(_, place)| place);
        place.starts_with(&SERVER.to_string())
    })
}
