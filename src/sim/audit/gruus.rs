//! Rules for GRUUs: RFC 5627.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bench_harness::sip::{self, Message};

use super::flows::flow_number;
use super::ledger::{Ledger, Served, is_udp};
use super::{Found, SLACK};
use crate::time::Instant;

/// A contact whose instance was given GRUUs says them where they are asked for.
pub fn an_instance_has_gruus(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (life, step) in ledger.responses_sent() {
        let asked = ledger
            .served_by(life, &step.packet)
            .filter(|served| served.is("REGISTER"));
        let Some(request) = asked.map(|served| &served.first().packet.message) else {
            continue;
        };
        if !step.packet.is_success() || !request.elements("Supported").contains(&"gruu") {
            continue;
        }
        for contact in step.packet.message.elements("Contact") {
            // Who has not asked for GRUUs has none assigned.
            let has_instance =
                sip::param(contact, "+sip.instance").is_some() && flow_number(sip::uri(contact)).is_some();
            let has_both = ["pub-gruu", "temp-gruu"]
                .iter()
                .all(|name| sip::param(contact, name).is_some());
            if has_instance && !has_both {
                found.at(step, || format!("{contact} has no GRUU"));
            }
        }
    }
}

/// A request to the public GRUU of a device goes to contacts of that device alone.
pub fn a_gruu_leads_to_its_device(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for served in ledger.stateful() {
        let request = &served.first().packet;
        let Some(wanted) = request.message.uri().and_then(|uri| sip::param(uri, "gr")) else {
            continue;
        };
        for child in ledger.children(served) {
            let uri = child.first().packet.message.uri().unwrap_or_default();
            let last = (ledger.served.iter())
                .filter(|other| other.life == served.life && other.is("REGISTER"))
                .filter(|other| other.first().at <= child.first().at)
                .rfind(|other| {
                    other
                        .first()
                        .packet
                        .message
                        .get("Contact")
                        .is_some_and(|contact| sip::uri(contact) == uri)
                });
            let instance = last.and_then(|register| {
                let contact = register.first().packet.message.get("Contact")?;
                sip::param(contact, "+sip.instance")
            });
            if let Some(instance) = instance.filter(|instance| !instance.contains(wanted)) {
                found.at(child.first(), || {
                    format!("for {wanted}, and the contact is of {instance}")
                });
            }
        }
    }
}

/// How late the registrar may notice that a registration has run out, beside its rounding to seconds.
const EXPIRY_SLACK: Duration = Duration::from_secs(1);

/// A REGISTER of a phone that wants GRUUs, which was accepted.
struct Registered<'t> {
    served: &'t Served<'t>,
    /// When it came, and when its answer left.
    came: Instant,
    at: Instant,
    /// The subscriber, and the device.
    device: (&'t str, &'t str),
    reg_id: &'t str,
    call_id: &'t str,
    /// Until when; `None`: it takes the contact away.
    until: Option<Instant>,
    temporary: Option<&'t str>,
}

impl Registered<'_> {
    fn new<'t>(served: &'t Served<'_>) -> Option<Registered<'t>> {
        let request: &'t Message = &served.first().packet.message;
        let is_meant = served.is("REGISTER") && request.elements("Supported").contains(&"gruu");
        let contact = request.get("Contact").filter(|_| is_meant)?;
        let success = served.finals().find(|step| step.packet.is_success())?;
        let own = (success.packet.message.elements("Contact").into_iter())
            .find(|own| sip::uri(own) == sip::uri(contact));
        let granted = own.and_then(|own| sip::param(own, "expires")?.parse().ok());
        Some(Registered {
            served,
            came: served.first().at,
            at: success.at,
            device: (
                sip::uri(request.text("To")),
                sip::param(contact, "+sip.instance")?,
            ),
            reg_id: sip::param(contact, "reg-id").unwrap_or_default(),
            call_id: &served.first().packet.call_id,
            until: granted.map(|seconds| success.at + Duration::from_secs(seconds)),
            temporary: own.and_then(|own| Some(sip::param(own, "temp-gruu")?.trim_matches('"'))),
        })
    }
}

/// Every REGISTER that goes through, and takes no contact away, has a temporary GRUU that was never given before.
pub fn each_register_gives_another_temporary_gruu(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let mut given = BTreeSet::new();
    let mut all: Vec<_> = ledger.served.iter().filter_map(Registered::new).collect();
    all.sort_by_key(|registered| registered.at);
    for registered in all.iter().filter(|registered| registered.until.is_some()) {
        let Some(temporary) = registered.temporary else {
            continue;
        };
        if !given.insert(temporary) {
            found.at(registered.served.first(), || {
                format!("{temporary} was given before")
            });
        }
    }
}

/// What is known of a temporary GRUU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Valid,
    Invalid,
    /// It depends on what the trace does not show: a REGISTER that is under way, or whether the registrar has heard that a flow is gone.
    Unsure,
}

/// How the temporary GRUU in the Request-URI of `served` stood when that came. `None`: it was not given in this life of the server.
fn standing_of(all: &[Registered<'_>], served: &Served<'_>) -> Option<Standing> {
    let (uri, now) = (served.first().packet.message.uri()?, served.first().at);
    let given = all
        .iter()
        .position(|registered| registered.temporary == Some(uri))?;
    let own = &all[given];
    let device = own.device;
    let of_device = || all.iter().filter(move |registered| registered.device == device);
    if of_device().any(|other| other.came <= now + SLACK && other.at + SLACK >= now) {
        return Some(Standing::Unsure);
    }
    // By reg-id: the Call-ID, until when, and whether nothing but that ends it.
    let mut bindings: BTreeMap<&str, (&str, Instant, bool)> = BTreeMap::new();
    let mut is_sure = true;
    for registered in of_device().filter(|registered| registered.at <= now) {
        let is_behind = registered.at > own.at;
        // Which of two was taken in first need not show in their answers.
        let may_be_behind = !std::ptr::eq(registered, own) && registered.at + SLACK >= own.came;
        let is_surely_behind = registered.came > own.at + SLACK;
        let last = |bindings: &BTreeMap<&str, (&str, Instant, bool)>| {
            bindings.values().map(|(_, until, _)| *until).max()
        };
        // §5.3: all of them ended with the last contact.
        if is_behind && last(&bindings).is_none_or(|until| until + EXPIRY_SLACK < registered.came) {
            return Some(Standing::Invalid);
        }
        let lasts = |(_, until, is_udp): &(&str, Instant, bool)| *is_udp && *until > registered.at;
        is_sure &= !is_behind || bindings.values().any(lasts);
        // §5.1: another Call-ID than the contact had which is there.
        if let Some(before) = bindings.get(registered.reg_id)
            && may_be_behind
            && before.0 != registered.call_id
        {
            // Whether one that takes the contact away counts, §5.1 does not say.
            if is_surely_behind && registered.until.is_some() && lasts(before) {
                return Some(Standing::Invalid);
            }
            is_sure = false;
        }
        match registered.until {
            None => _ = bindings.remove(registered.reg_id),
            Some(until) => {
                let is_udp = is_udp(registered.served.first());
                bindings.insert(registered.reg_id, (registered.call_id, until, is_udp));
            }
        }
    }
    if bindings.values().all(|(_, until, _)| *until + EXPIRY_SLACK < now) {
        return Some(Standing::Invalid);
    }
    let is_sure = is_sure
        && bindings
            .values()
            .any(|(_, until, is_udp)| *is_udp && *until > now + SLACK);
    Some(if is_sure {
        Standing::Valid
    } else {
        Standing::Unsure
    })
}

/// The requests to temporary GRUUs, and how those stand.
fn to_temporary<'l, 't>(ledger: &'l Ledger<'t>) -> Vec<(&'l Served<'t>, Standing)> {
    let lives = ledger.served.iter().map(|served| served.life).max().unwrap_or(0);
    let mut requests = Vec::new();
    for life in 0..=lives {
        let own = || ledger.served.iter().filter(move |served| served.life == life);
        let mut all: Vec<_> = own().filter_map(Registered::new).collect();
        all.sort_by_key(|registered| registered.at);
        let is_stateful =
            |served: &&Served<'_>| !served.is_stateless && served.first().packet.to_tag.is_empty();
        let known = own().filter(is_stateful);
        requests.extend(known.filter_map(|served| Some((served, standing_of(&all, served)?))));
    }
    requests
}

/// All that were given are valid while a contact of the device stays registered under the same Call-ID.
pub fn a_temporary_gruu_lasts_as_long_as_its_registration(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, standing) in to_temporary(ledger) {
        let unknown = served
            .finals()
            .find(|step| step.packet.status == Some(404) && step.packet.id.is_none());
        if let Some(unknown) = unknown.filter(|_| standing == Standing::Valid && ledger.terms.is_whole) {
            found.at(unknown, || {
                format!("{:?} is valid", served.first().packet.message.uri())
            });
        }
    }
}

/// They become invalid together, with the last contact of the device or by another Call-ID: then they lead nowhere, and are not found.
pub fn a_temporary_gruu_ends_with_its_registration(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, _) in to_temporary(ledger)
        .iter()
        .filter(|(_, standing)| *standing == Standing::Invalid)
    {
        let rung = ledger.children(served).next().map(|child| child.first());
        let unavailable = served
            .finals()
            .find(|step| step.packet.status == Some(480) && step.packet.id.is_none());
        if let Some(step) = rung.or(unavailable) {
            found.at(step, || {
                format!("{:?} is valid no more", served.first().packet.message.uri())
            });
        }
    }
}
