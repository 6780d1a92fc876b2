//! From a URI to the addresses to try, in order: RFC 3263 §4, as a function of what is known of DNS.
//!
//! [`plan`] is asked again from its start whenever an answer has come: it either has what it needs, or names the questions
//! whose answers it lacks. So it keeps no state between.

use std::net::{IpAddr, SocketAddr};

use crate::msg::uri::{Scheme, Uri};
use crate::transaction::destination::is_one_host;
use crate::wire::Transport;

use super::order::{Random, sort_srv};
use crate::domain::DomainName;
use crate::domain::{Naptr, Question, RECORDS_MAX, Record, RecordType, Srv};

/// The port of SIP over UDP and TCP (RFC 3261 §19.1.2).
pub const PORT_DEFAULT: u16 = 5060;
/// Most targets of one plan; what would come after them is left out.
pub const TARGETS_MAX: usize = 16;
/// Most questions that are asked at once for one plan.
pub const QUESTIONS_MAX: usize = 8;
/// SRV records of one answer whose addresses are asked for: those that come first.
const SRV_TRIED_MAX: usize = 8;

/// Where a request may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    pub transport: Transport,
    pub addr: SocketAddr,
}

/// A list in place, at most `MAX` long.
#[derive(Clone, Copy, Debug)]
pub struct Short<T, const MAX: usize> {
    items: [Option<T>; MAX],
    len: usize,
}

/// Targets in the order in which they are to be tried.
pub type Targets = Short<Target, TARGETS_MAX>;
pub type Questions = Short<Question, QUESTIONS_MAX>;

impl<T: Copy + PartialEq, const MAX: usize> Default for Short<T, MAX> {
    fn default() -> Self {
        Short {
            items: [None; MAX],
            len: 0,
        }
    }
}

impl<T: Copy + PartialEq, const MAX: usize> Short<T, MAX> {
    /// Adds what is not in the list yet; what finds no room is left out.
    pub fn add(&mut self, item: T) {
        if self.iter().any(|known| known == item) {
            return;
        }
        if let Some(place) = self.items.get_mut(self.len) {
            *place = Some(item);
            self.len += 1;
        }
    }

    pub fn get(&self, index: usize) -> Option<T> {
        self.items.get(index).copied().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.items[..self.len].iter().copied().flatten()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The part of a URI that says where to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub host: Host,
    pub port: Option<u16>,
    pub transport: Option<Transport>,
}

/// A name lies in place, so that looking it up allocates nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    Ip(IpAddr),
    Name(DomainName),
}

/// Why a URI leads nowhere, whatever DNS says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadTarget {
    /// Not `sip:`: `sips:` asks for TLS, which ringway does not speak.
    Scheme,
    /// A `transport` that ringway does not speak.
    Transport,
    /// No name of DNS and no address.
    Host,
}

impl Wanted {
    /// RFC 3263 §4: the target is the `maddr` parameter, else the host.
    pub fn of_uri(uri: &Uri<'_>) -> Result<Wanted, BadTarget> {
        if uri.scheme != Scheme::Sip {
            return Err(BadTarget::Scheme);
        }
        let transport = match uri.transport() {
            None => None,
            Some(name) => Some(transport_named(name).ok_or(BadTarget::Transport)?),
        };
        let host = match uri.param(b"maddr") {
            Some(maddr) => Host::parse(maddr),
            None => Host::parse(uri.host),
        };
        Ok(Wanted {
            host: host.ok_or(BadTarget::Host)?,
            port: uri.port,
            transport,
        })
    }
}

impl Host {
    pub fn parse(text: &[u8]) -> Option<Host> {
        match crate::msg::lex::host_ip(text) {
            Some(ip) => Some(Host::Ip(ip)),
            None => DomainName::new(text).map(Host::Name),
        }
    }
}

pub fn transport_named(name: &[u8]) -> Option<Transport> {
    [Transport::Udp, Transport::Tcp]
        .into_iter()
        .find(|transport| transport.name().as_bytes().eq_ignore_ascii_case(name))
}

/// Which transports and address families there is a listener to send from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Speaks {
    pub udp_v4: bool,
    pub udp_v6: bool,
    pub tcp_v4: bool,
    pub tcp_v6: bool,
}

impl Speaks {
    pub fn of(listeners: &[crate::config::Listener]) -> Speaks {
        let has = |transport, is_v4| {
            listeners
                .iter()
                .filter(|listener| listener.is_ours())
                .any(|listener| listener.transport == transport && listener.addr.is_ipv4() == is_v4)
        };
        Speaks {
            udp_v4: has(Transport::Udp, true),
            udp_v6: has(Transport::Udp, false),
            tcp_v4: has(Transport::Tcp, true),
            tcp_v6: has(Transport::Tcp, false),
        }
    }

    fn to(&self, transport: Transport, is_v4: bool) -> bool {
        match (transport, is_v4) {
            (Transport::Udp, true) => self.udp_v4,
            (Transport::Udp, false) => self.udp_v6,
            (Transport::Tcp, true) => self.tcp_v4,
            (Transport::Tcp, false) => self.tcp_v6,
        }
    }

    fn transport(&self, transport: Transport) -> bool {
        self.to(transport, true) || self.to(transport, false)
    }
}

/// What is known about a [`Question`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known<'a> {
    Records(&'a [Record]),
    /// There is nothing.
    Nothing,
    /// It was asked, and no answer came.
    Failed,
    /// It has to be asked.
    Unknown,
}

/// Knows answers: the cache with the table of hosts, or a test.
pub trait Answers {
    fn known(&self, question: &Question) -> Known<'_>;
}

/// What became of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// There is at least one target.
    Ready,
    /// The answers to the questions are needed first; there is at least one.
    Ask,
    /// DNS knows no address for this.
    NoAddress,
    /// DNS did not answer.
    Failed,
}

/// The targets of `wanted`, in order, or what has to be asked first. Both lists must be empty before.
pub fn plan(
    wanted: &Wanted,
    speaks: Speaks,
    answers: &impl Answers,
    random: &mut Random,
    targets: &mut Targets,
    questions: &mut Questions,
) -> Plan {
    let mut planner = Planner {
        speaks,
        answers,
        random,
        targets,
        questions,
        has_failed: false,
    };
    planner.run(wanted);
    let has_failed = planner.has_failed;
    // A plan with a gap in it would try what comes later first.
    if !questions.is_empty() {
        Plan::Ask
    } else if !targets.is_empty() {
        Plan::Ready
    } else if has_failed {
        Plan::Failed
    } else {
        Plan::NoAddress
    }
}

struct Planner<'a, A> {
    speaks: Speaks,
    answers: &'a A,
    random: &'a mut Random,
    targets: &'a mut Targets,
    questions: &'a mut Questions,
    has_failed: bool,
}

/// What SRV records of one name led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    /// To hosts, or to the word that there is none.
    Found,
    /// There are none.
    Absent,
    /// Not known, now or for good.
    Open,
}

impl<'a, A: Answers> Planner<'a, A> {
    fn run(&mut self, wanted: &Wanted) {
        let name = match wanted.host {
            // §4.1 and §4.2: an address is its own target, over UDP unless the URI says otherwise.
            Host::Ip(ip) => {
                let transport = wanted.transport.unwrap_or(Transport::Udp);
                self.target(transport, ip, wanted.port.unwrap_or(PORT_DEFAULT));
                return;
            }
            Host::Name(name) => name,
        };
        match (wanted.transport, wanted.port) {
            // §4.2: a port in the URI rules SRV out.
            (transport, Some(port)) => self.host(transport.unwrap_or(Transport::Udp), &name, port),
            // §4.1: the transport is given, so NAPTR is not asked.
            (Some(transport), None) => match self.service_of(transport, &name) {
                Service::Found | Service::Open => {}
                Service::Absent => self.host(transport, &name, PORT_DEFAULT),
            },
            (None, None) => self.domain(&name),
        }
    }

    /// §4.1 without port and transport: NAPTR, else SRV of each transport, else the addresses of the name over UDP.
    fn domain(&mut self, name: &DomainName) {
        match self.ask(*name, RecordType::Naptr) {
            Known::Unknown => return,
            Known::Records(records) => {
                if self.naptr(records) {
                    return;
                }
            }
            // A server that does not answer NAPTR questions is taken for one that has none: there are many.
            Known::Nothing | Known::Failed => {}
        }
        let mut is_absent = true;
        for transport in [Transport::Udp, Transport::Tcp] {
            if self.speaks.transport(transport) {
                is_absent &= self.service_of(transport, name) == Service::Absent;
            }
        }
        if is_absent {
            self.host(Transport::Udp, name, PORT_DEFAULT);
        }
    }

    /// Follows the NAPTR records that are for us. `false`: there are none.
    fn naptr(&mut self, records: &[Record]) -> bool {
        let mut list: Short<Naptr, RECORDS_MAX> = Short::default();
        for record in records {
            if let Record::Naptr(naptr) = record
                && self.speaks.transport(naptr.transport)
            {
                list.add(*naptr);
            }
        }
        let Some(order) = list.iter().map(|naptr| naptr.order).min() else {
            return false;
        };
        // RFC 3403 §4.1: once a record of one order fits, those of higher orders are not looked at; within an order all that
        // fit may be tried, by preference.
        list.items[..list.len].sort_unstable_by_key(|naptr| naptr.map(|n| (n.order, n.preference)));
        for naptr in list.iter().filter(|naptr| naptr.order == order) {
            _ = self.service(naptr.transport, &naptr.replacement);
        }
        true
    }

    fn service_of(&mut self, transport: Transport, name: &DomainName) -> Service {
        let prefix: &[u8] = match transport {
            Transport::Udp => b"_sip._udp.",
            Transport::Tcp => b"_sip._tcp.",
        };
        match DomainName::joined(prefix, name.as_bytes()) {
            Some(name) => self.service(transport, &name),
            None => Service::Absent,
        }
    }

    /// Adds the targets that the SRV records of `name` lead to.
    fn service(&mut self, transport: Transport, name: &DomainName) -> Service {
        let records = match self.ask(*name, RecordType::Srv) {
            Known::Records(records) => records,
            Known::Nothing => return Service::Absent,
            Known::Failed | Known::Unknown => return Service::Open,
        };
        let nobody = Srv {
            priority: 0,
            weight: 0,
            port: 0,
            target: None,
        };
        let mut list = [nobody; RECORDS_MAX];
        let mut len = 0;
        for record in records {
            if let (Record::Srv(srv), Some(place)) = (record, list.get_mut(len)) {
                *place = *srv;
                len += 1;
            }
        }
        let list = &mut list[..len];
        // One draw a name, whatever is known of the others: asked again after an answer, the same order comes out.
        let mut random = Random::new(self.random.next_u64());
        sort_srv(list, &mut random);
        for srv in list.iter().take(SRV_TRIED_MAX) {
            if let (Some(target), true) = (srv.target, srv.port != 0) {
                self.host(transport, &target, srv.port);
            }
        }
        Service::Found
    }

    /// Adds the addresses of a host. RFC 7984 §4 with RFC 6724: IPv6 first where there is a listener for it.
    fn host(&mut self, transport: Transport, name: &DomainName, port: u16) {
        for (record_type, is_v4) in [(RecordType::Aaaa, false), (RecordType::A, true)] {
            if !self.speaks.to(transport, is_v4) {
                continue;
            }
            let Known::Records(records) = self.ask(*name, record_type) else {
                continue;
            };
            for record in records {
                match record {
                    Record::A(ip) => self.target(transport, IpAddr::V4(*ip), port),
                    Record::Aaaa(ip) => self.target(transport, IpAddr::V6(*ip), port),
                    Record::Srv(_) | Record::Naptr(_) => {}
                }
            }
        }
    }

    fn target(&mut self, transport: Transport, ip: IpAddr, port: u16) {
        // One of IPv4 that stands in an AAAA record is no other host.
        let ip = ip.to_canonical();
        if port != 0 && is_one_host(ip) && self.speaks.to(transport, ip.is_ipv4()) {
            let addr = SocketAddr::new(ip, port);
            self.targets.add(Target { transport, addr });
        }
    }

    fn ask(&mut self, name: DomainName, record_type: RecordType) -> Known<'a> {
        let question = Question { name, record_type };
        let known = self.answers.known(&question);
        match known {
            Known::Unknown => self.questions.add(question),
            Known::Failed => self.has_failed = true,
            Known::Records(_) | Known::Nothing => {}
        }
        known
    }
}
