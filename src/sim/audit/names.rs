//! Rules for host names: RFC 3263, RFC 2782, and how long answers of DNS hold. Where a name leads is worked out here anew, from
//! what DNS has told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bench_harness::sip;

use crate::domain::{Answer, Record, RecordType};
use crate::time::Instant;
use crate::wire::Transport;

use super::super::exchange::Dialled;
use super::super::passage;
use super::super::trace::Heard;
use super::branches::was_given_up;
use super::forward::end_of_search;
use super::ledger::{Asked, Ledger, Served};
use super::{Found, SLACK, TIMEOUT};

/// How long the server waits for one answer, as the default of `dns.timeout` and what it grants beyond.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(3_500);
/// NAPTR, SRV and address one after another: what held when that began holds to its end.
pub const LOOK_UP_MAX: Duration = Duration::from_secs(14);

/// How long a request may wait before it goes on: where there are names DNS may have to say where they are.
pub fn wait_of(ledger: &Ledger<'_>) -> Duration {
    if ledger.dns.is_empty() { SLACK } else { LOOK_UP_MAX }
}
/// As the defaults of `dns.ttl_min_s` and `dns.negative_ttl_max_s`.
const TTL_MIN: Duration = Duration::from_secs(1);
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(60);

/// A place as a URI names it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Hop {
    host: String,
    port: Option<u16>,
    transport: Option<Transport>,
}

type Target = (Transport, SocketAddr);
/// Those of one priority, in any order, one priority after the other.
type Groups = Vec<BTreeSet<(&'static str, SocketAddr)>>;

impl Hop {
    /// `None`: it is no name.
    fn of_uri(uri: &str) -> Option<Hop> {
        let rest = uri.strip_prefix("sip:")?;
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let (place, params) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = match place.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (place, None),
        };
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let transport = params.split(';').find_map(|param| match param {
            "transport=udp" => Some(Transport::Udp),
            "transport=tcp" => Some(Transport::Tcp),
            _ => None,
        });
        Some(Hop {
            host: host.to_owned(),
            port,
            transport,
        })
    }
}

/// Where a request was sent by name, if it was.
fn hop(ledger: &Ledger<'_>, served: &Served<'_>, child: &Asked<'_>) -> Option<Hop> {
    let exchange = ledger.terms.exchange?;
    let uri = child.first().packet.message.uri()?;
    let is_kept = served.first().packet.message.uri() == Some(uri);
    if child.first().packet.message.has("Route") {
        return None;
    }
    // RFC 5626 §5.3.2: the token of a flow in the Route decides, whatever the request is for.
    let routes = served.first().packet.message.elements("Route");
    if routes
        .iter()
        .any(|route| passage::is_ours(route) && sip::uri(route).contains('@'))
    {
        return None;
    }
    let own = || Hop::of_uri(uri).filter(|hop| hop.host.ends_with(".test"));
    match served.dialled(ledger.terms) {
        Some(Dialled::Named | Dialled::Stateless) if is_kept => {
            let place = exchange.place_of(served.dialled(ledger.terms)?)?;
            Hop::of_uri(&place)
        }
        Some(Dialled::Trunk | Dialled::Several | Dialled::Loop | Dialled::Spiral | Dialled::Itself)
            if is_kept =>
        {
            None
        }
        _ => own(),
    }
}

/// Whether a request had to wait for DNS, or may have had to.
pub fn is_by_name(ledger: &Ledger<'_>, served: &Served<'_>, child: &Asked<'_>) -> bool {
    hop(ledger, served, child).is_some()
}

/// Whether a request went to the targets of one name twice, and DNS told others in between; or it took TCP both times, once for its size.
pub fn has_moved(
    ledger: &Ledger<'_>,
    served: &Served<'_>,
    (earlier, later): (&Asked<'_>, &Asked<'_>),
) -> bool {
    hop(ledger, served, earlier).is_some_and(|hop| {
        let at = |child: &Asked<'_>| groups_at(ledger, served.life, &hop, child.first().at, false);
        at(earlier) != at(later) || may_be_large(ledger, served)
    })
}

/// What one shard knew of DNS at a time.
struct Knowledge<'l, 't> {
    ledger: &'l Ledger<'t>,
    life: usize,
    shard: usize,
    at: Instant,
    slack: Duration,
}

impl<'t> Knowledge<'_, 't> {
    fn of(&self, name: &str, record_type: RecordType) -> &'t [Record] {
        let told = self
            .ledger
            .told_last(self.life, self.shard, name, record_type, self.at);
        match told {
            Some(Heard {
                at,
                answer: Some(Answer::Records { records, ttl_s }),
                ..
            }) if *at + ttl(Duration::from_secs(u64::from(*ttl_s))) + self.slack >= self.at => records,
            Some(_) | None => &[],
        }
    }

    /// RFC 3263 §4.1 and §4.2, for a server that speaks UDP and TCP over IPv4.
    fn groups(&self, hop: &Hop) -> Groups {
        let mut groups = Groups::new();
        match (hop.transport, hop.port) {
            (transport, Some(port)) => {
                groups.push(self.hosts(transport.unwrap_or(Transport::Udp), &hop.host, port));
            }
            (Some(transport), None) => {
                let name = service_name(transport, &hop.host);
                groups.extend(self.services(transport, &name));
                if groups.is_empty() {
                    groups.push(self.hosts(transport, &hop.host, 5060));
                }
            }
            (None, None) => {
                groups.extend(self.naptr(&hop.host));
                if groups.is_empty() {
                    for transport in [Transport::Udp, Transport::Tcp] {
                        let name = service_name(transport, &hop.host);
                        groups.extend(self.services(transport, &name));
                    }
                }
                if groups.is_empty() {
                    groups.push(self.hosts(Transport::Udp, &hop.host, 5060));
                }
            }
        }
        groups
    }

    fn naptr(&self, host: &str) -> Groups {
        let mut list: Vec<_> = (self.of(host, RecordType::Naptr).iter())
            .filter_map(|record| match record {
                Record::Naptr(naptr) => Some(*naptr),
                Record::A(_) | Record::Aaaa(_) | Record::Srv(_) => None,
            })
            .collect();
        let lowest = list.iter().map(|naptr| naptr.order).min();
        list.retain(|naptr| Some(naptr.order) == lowest);
        list.sort_by_key(|naptr| naptr.preference);
        (list.iter())
            .flat_map(|naptr| self.services(naptr.transport, naptr.replacement.as_str()))
            .collect()
    }

    fn services(&self, transport: Transport, name: &str) -> Groups {
        let mut by_priority: BTreeMap<u16, BTreeSet<(&'static str, SocketAddr)>> = BTreeMap::new();
        for record in self.of(name, RecordType::Srv) {
            if let Record::Srv(srv) = record
                && let Some(target) = srv.target
            {
                let hosts = self.hosts(transport, target.as_str(), srv.port);
                by_priority.entry(srv.priority).or_default().extend(hosts);
            }
        }
        by_priority.into_values().collect()
    }

    fn hosts(&self, transport: Transport, name: &str, port: u16) -> BTreeSet<(&'static str, SocketAddr)> {
        (self.of(name, RecordType::A).iter())
            .filter_map(|record| match record {
                Record::A(ip) => Some((transport.name(), SocketAddr::new(IpAddr::V4(*ip), port))),
                Record::Aaaa(_) | Record::Srv(_) | Record::Naptr(_) => None,
            })
            .collect()
    }
}

fn service_name(transport: Transport, host: &str) -> String {
    format!("_sip._{}.{host}", transport.name().to_ascii_lowercase())
}

fn ttl(ttl: Duration) -> Duration {
    ttl.max(TTL_MIN)
}

fn holds_for(answer: &Answer) -> Duration {
    match answer {
        Answer::Records { ttl_s, .. } => ttl(Duration::from_secs(u64::from(*ttl_s))),
        Answer::Nothing { ttl_s } => {
            let seconds = ttl_s.map_or(NEGATIVE_TTL_MAX, |ttl_s| Duration::from_secs(u64::from(ttl_s)));
            ttl(seconds).min(NEGATIVE_TTL_MAX)
        }
        // It may be asked again sooner than that, which does no harm.
        Answer::Failed => Duration::ZERO,
    }
}

fn target_of(child: &Asked<'_>) -> Target {
    (child.first().transport, child.first().peer)
}

/// The groups of each shard that knows of the name, at a time. `is_strict`: no look-up may have been under way.
fn groups_at(ledger: &Ledger<'_>, life: usize, hop: &Hop, at: Instant, is_strict: bool) -> Vec<Groups> {
    ledger
        .shards_that_know(life, &hop.host)
        .into_iter()
        .map(|shard| {
            let is_asking = ledger.has_asked(life, shard, at, LOOK_UP_MAX);
            let slack = match (is_strict, is_asking) {
                (true, _) => Duration::ZERO,
                (false, true) => LOOK_UP_MAX,
                (false, false) => SLACK,
            };
            let known = Knowledge {
                ledger,
                life,
                shard,
                at,
                slack,
            };
            known.groups(hop)
        })
        .collect()
}

fn place_in(groups: &Groups, (transport, addr): Target, any_transport: bool) -> Option<usize> {
    // Over TCP the connection that the phone has opened serves as well.
    let is_it = |known: &(&'static str, SocketAddr)| {
        let is_there = known.1 == addr || transport == Transport::Tcp && known.1.ip() == addr.ip();
        is_there && (any_transport || known.0 == transport.name())
    };
    groups.iter().position(|group| group.iter().any(is_it))
}

/// A large request may take TCP whatever DNS says: RFC 3261 §18.1.1.
fn may_be_large(ledger: &Ledger<'_>, served: &Served<'_>) -> bool {
    let rule = (served.dialled(ledger.terms))
        .zip(ledger.terms.exchange)
        .and_then(|(dialled, exchange)| exchange.rule(dialled).copied());
    // The requests of a dialog go as the rule says by which it began.
    rule.is_none_or(|rule| rule.tcp_when_large)
}

fn named<'l, 't>(
    ledger: &'l Ledger<'t>,
) -> impl Iterator<Item = (&'l Served<'t>, &'l Asked<'t>, Hop)> + use<'l, 't> {
    ledger.served.iter().flat_map(move |served| {
        ledger
            .children(served)
            .filter_map(move |child| Some((served, child, hop(ledger, served, child)?)))
    })
}

/// A request for a name goes to an address that DNS has told, while that holds, over the transport that it was told for. Those that are tried
/// after the first were determined with it (RFC 3263 §4.3), and hold for as long as that takes.
pub fn a_name_leads_to_its_addresses(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    for (served, child, hop) in named(ledger) {
        let any_transport = may_be_large(ledger, served);
        let uri = child.first().packet.message.uri();
        let earlier = ledger
            .children(served)
            .filter(|other| other.first().at < child.first().at && other.first().packet.message.uri() == uri);
        let determined_at = earlier.map(|other| other.first().at).chain([child.first().at]);
        let all: Vec<Groups> = determined_at
            .flat_map(|at| groups_at(ledger, served.life, &hop, at, false))
            .collect();
        let is_right = (all.iter()).any(|groups| place_in(groups, target_of(child), any_transport).is_some());
        if !is_right {
            found.at(child.first(), || format!("{} leads to {all:?}", hop.host));
        }
    }
}

/// Where one target fails the next one of no better priority follows, in the order of NAPTR and SRV.
pub fn targets_are_tried_in_order(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let mut before: Option<(&Served<'_>, &Asked<'_>, Hop)> = None;
    for (served, child, hop) in named(ledger) {
        if let Some((other, earlier, same)) = &before
            && std::ptr::eq(*other, served)
            && *same == hop
            && earlier.first().packet.message.uri() == child.first().packet.message.uri()
        {
            let any_transport = may_be_large(ledger, served);
            let is_tcp = |child: &Asked<'_>| child.first().transport == Transport::Tcp;
            if any_transport && (is_tcp(earlier) || is_tcp(child)) {
                // Whether it took TCP for its size or because DNS says so does not show.
                before = Some((served, child, hop));
                continue;
            }
            // §4.3: those that were determined when the first was sent, whatever DNS has said since.
            let uri = child.first().packet.message.uri();
            let first = ledger
                .children(served)
                .filter(|other| other.first().packet.message.uri() == uri)
                .map(|other| other.first().at)
                .min();
            let at = first.unwrap_or(child.first().at);
            let groups = groups_at(ledger, served.life, &hop, at, false);
            let is_sure = groups == groups_at(ledger, served.life, &hop, at, true);
            let rises = |groups: &Groups| {
                let place = |child| place_in(groups, target_of(child), false);
                place(earlier) <= place(child)
            };
            if is_sure && !groups.iter().any(rises) {
                found.at(child.first(), || {
                    format!("after {} of {groups:?}", earlier.first().peer)
                });
            }
        }
        before = Some((served, child, hop));
    }
}

/// A 503, a time-out or no way there: the next target is tried while there is one.
pub fn the_next_target_is_tried(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    if !ledger.terms.is_whole {
        return;
    }
    for served in ledger.stateful().filter(|served| served.is("INVITE")) {
        if served.dialled(ledger.terms) != Some(Dialled::Named) {
            continue;
        }
        let tried: Vec<(&Asked<'_>, Hop)> = (ledger.children(served))
            .filter_map(|child| Some((child, hop(ledger, served, child)?)))
            .collect();
        let Some((last, hop)) = tried.last() else { continue };
        let uri = |child: &Asked<'_>| child.first().packet.message.uri().map(str::to_owned);
        // A redirection may name the same host for something else.
        if tried[0].1 != *hop || tried.iter().any(|(child, _)| uri(child) != uri(last)) {
            continue;
        }
        let failed_at = match last.answers.first() {
            None => last.first().at + TIMEOUT,
            Some(_) => match last.first_final() {
                Some(step) if step.packet.status == Some(503) && !was_given_up(last, step) => step.at,
                Some(_) | None => continue,
            },
        };
        let due = failed_at + LOOK_UP_MAX;
        let is_over = end_of_search(ledger, served).is_some_and(|end| end.at <= due)
            || served.finals().next().is_some_and(|step| step.at < failed_at);
        if is_over || !ledger.has_lived_to(served.life, due) {
            continue;
        }
        let any_transport = may_be_large(ledger, served);
        let first = groups_at(ledger, served.life, hop, tried[0].0.first().at, false);
        let now = groups_at(ledger, served.life, hop, failed_at, true);
        let is_left = |groups: &Groups| {
            let is_tried = |target: &(&'static str, SocketAddr)| {
                tried.iter().any(|(child, _)| {
                    let (transport, addr) = target_of(child);
                    addr == target.1 && (any_transport || transport.name() == target.0)
                })
            };
            groups.iter().flatten().any(|target| !is_tried(target))
        };
        if first == now && !now.is_empty() && now.iter().all(is_left) {
            found.at(last.first(), || {
                format!("failed, and nothing followed of {now:?}")
            });
        }
    }
}

/// What is being asked, and what is known, is not asked.
pub fn a_question_is_asked_once(ledger: &Ledger<'_>, found: &mut Found<'_>) {
    let mut out: BTreeMap<(usize, usize, String), Instant> = BTreeMap::new();
    for (life, heard) in &ledger.dns {
        let question = &heard.question;
        let asked = format!("{:?} {}", question.record_type, question.name);
        let key = (*life, heard.shard, asked.clone());
        match &heard.answer {
            Some(answer) => _ = out.insert(key, heard.at + holds_for(answer)),
            None => {
                let until = out.insert(key, heard.at + QUESTION_TIMEOUT);
                if until.is_some_and(|until| heard.at + SLACK < until) {
                    found.of_name(heard.at, || format!("{asked} is asked again"));
                }
            }
        }
    }
}

/// How often a request was sent to the next target of its name.
pub fn failovers(ledger: &Ledger<'_>) -> u64 {
    let mut count = 0;
    for served in &ledger.served {
        let mut hops = ledger
            .children(served)
            .filter_map(|child| hop(ledger, served, child));
        let first = hops.next();
        count += hops.filter(|hop| Some(hop) == first.as_ref()).count() as u64;
    }
    count
}
