//! What DNS says in a run: the names of gateways and phones, with NAPTR, SRV and address records; some answers are slow, some
//! never come, some say that there is nothing, and some are another when they are asked for again.
//!
//! | name | leads to |
//! | --- | --- |
//! | `phone7.test` | that phone |
//! | `gw2.test` | that gateway |
//! | `carrier.test` | the services of a carrier, whose hosts are `h0.carrier.test` to `h3.carrier.test`: gateways, that change places once |
//! | `h5.carrier.test` | an address where nobody is |
//! | `dead.test` | nowhere |

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::domain::{Answer, DomainName, Naptr, Question, Record, RecordType, Srv};
use crate::time::Instant;
use crate::wire::Transport;

use super::exchange::GATEWAYS;
use super::net::phone_addr;
use super::rng::Rng;

/// The name of a phone or gateway by its place among the parties.
pub fn host_of(index: usize) -> String {
    format!("phone{index}.test")
}

/// Where the name of a party leads, which everybody but the server knows by heart.
pub fn place_of(host: &str) -> Option<SocketAddr> {
    let (name, port) = host.split_once(':').unwrap_or((host, "5060"));
    let index = name.strip_prefix("phone")?.strip_suffix(".test")?.parse().ok()?;
    Some(SocketAddr::new(phone_addr(index).ip(), port.parse().ok()?))
}

/// What records the carrier has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    /// NAPTR, which lead to services of either transport.
    Naptr,
    /// SRV under the usual names.
    Srv,
    /// Addresses alone.
    Hosts,
}

/// How one question is mostly answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Prompt,
    Slow,
    Silent,
    Failing,
    /// There is nothing, although there should be.
    Empty,
}

/// What becomes of a question.
pub struct Reply {
    pub after: Duration,
    /// `None`: it never comes.
    pub answer: Option<Answer>,
}

/// Hosts of the carrier that are no gateways: one without an address, and one where nobody is.
const DEAD: usize = GATEWAYS;
const SILENT: usize = GATEWAYS + 1;
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 5060);

/// One SRV record of the carrier: priority, weight, its host.
type Service = (u16, u16, usize);

pub struct Zone {
    seed: u64,
    shape: Shape,
    first_gateway: usize,
    /// When the hosts of the carrier change places.
    moves_at: Instant,
    /// Answers about the carrier that are missing, wrong or late.
    has_trouble: bool,
    ttls: [u32; 3],
    services: Vec<Service>,
    rng: Rng,
}

impl Zone {
    pub fn draw(seed: u64, first_gateway: usize, has_trouble: bool, span: Duration, start: Instant) -> Zone {
        let mut rng = Rng::part(seed, "zone");
        let count = 1 + rng.below(4);
        let services = (0..count)
            .map(|nth| {
                let host = match rng.below(8) {
                    0 => DEAD,
                    1 => SILENT,
                    _ => nth,
                };
                (rng.pick(&[1, 1, 2, 3]), rng.pick(&[0, 1, 10, 60]), host)
            })
            .collect();
        Zone {
            seed,
            shape: rng.pick(&[Shape::Naptr, Shape::Srv, Shape::Srv, Shape::Hosts]),
            first_gateway,
            moves_at: start + rng.millis(0, span.as_millis() as u64),
            has_trouble,
            ttls: std::array::from_fn(|_| rng.pick(&[0, 1, 5, 30, 300])),
            services,
            rng,
        }
    }

    /// What becomes of `question`, asked now.
    pub fn ask(&mut self, question: &Question, now: Instant) -> Reply {
        let manner = self.manner(question);
        let prompt = self.rng.millis(0, 30);
        let after = if manner == Manner::Slow {
            prompt + self.rng.millis(200, 2_500)
        } else {
            prompt
        };
        let answer = match manner {
            Manner::Prompt | Manner::Slow => Some(self.records(question, now)),
            Manner::Silent => None,
            Manner::Failing => Some(Answer::Failed),
            Manner::Empty => Some(self.nothing()),
        };
        Reply { after, answer }
    }

    fn manner(&mut self, question: &Question) -> Manner {
        let name = question.name.as_str();
        let mut own = Rng::part(self.seed, &format!("{:?} {name}", question.record_type));
        let is_slow = own.one_in(6);
        let is_troubled = self.has_trouble && name.ends_with("carrier.test") && own.one_in(5);
        let trouble = own.pick(&[Manner::Silent, Manner::Failing, Manner::Empty]);
        // Now and then whoever answers has a bad moment.
        let bad_moment = self.has_trouble && name.ends_with("carrier.test") && self.rng.one_in(12);
        match (is_troubled, bad_moment, is_slow) {
            (true, ..) => trouble,
            (false, true, _) => self.rng.pick(&[Manner::Silent, Manner::Failing]),
            (false, false, true) => Manner::Slow,
            (false, false, false) => Manner::Prompt,
        }
    }

    fn nothing(&mut self) -> Answer {
        let ttl_s = self.rng.pick(&[None, Some(0), Some(5), Some(600)]);
        Answer::Nothing { ttl_s }
    }

    fn records(&mut self, question: &Question, now: Instant) -> Answer {
        let name = question.name.as_str();
        let records = match question.record_type {
            RecordType::A => self.addresses(name, now),
            RecordType::Srv => self.services(name),
            RecordType::Naptr => self.naptrs(name),
            RecordType::Aaaa => Vec::new(),
        };
        if records.is_empty() {
            return self.nothing();
        }
        let ttl_s = match question.record_type {
            RecordType::A | RecordType::Aaaa => self.ttls[0],
            RecordType::Srv => self.ttls[1],
            RecordType::Naptr => self.ttls[2],
        };
        Answer::Records {
            records: records.into(),
            ttl_s,
        }
    }

    fn addresses(&self, name: &str, now: Instant) -> Vec<Record> {
        let gateway = |nth: usize| a(phone_addr(self.first_gateway + nth));
        let shift = usize::from(now >= self.moves_at);
        if let Some(place) = place_of(name) {
            return vec![a(place)];
        }
        let number = |prefix: &str, suffix: &str| -> Option<usize> {
            name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
        };
        if let Some(nth) = number("gw", ".test") {
            return vec![gateway(nth)];
        }
        match number("h", ".carrier.test") {
            Some(SILENT) => return vec![a(NOBODY)],
            Some(nth) => return vec![gateway((nth + shift) % GATEWAYS)],
            None => {}
        }
        if name == "carrier.test" && self.shape == Shape::Hosts {
            let hosts = self.services.iter().filter(|(.., host)| *host < GATEWAYS);
            return hosts
                .map(|(.., host)| gateway((host + shift) % GATEWAYS))
                .collect();
        }
        Vec::new()
    }

    fn services(&self, name: &str) -> Vec<Record> {
        let has_services = match self.shape {
            Shape::Naptr => matches!(
                name,
                "_sip._udp.over.carrier.test" | "_sip._tcp.over.carrier.test"
            ),
            Shape::Srv => matches!(name, "_sip._udp.carrier.test" | "_sip._tcp.carrier.test"),
            Shape::Hosts => false,
        };
        if !has_services {
            return Vec::new();
        }
        let service = |(priority, weight, host): &Service| {
            let target = match *host {
                DEAD => "dead.test".to_owned(),
                nth => format!("h{nth}.carrier.test"),
            };
            Record::Srv(Srv {
                priority: *priority,
                weight: *weight,
                port: 5060,
                target: DomainName::new(target.as_bytes()),
            })
        };
        self.services.iter().map(service).collect()
    }

    fn naptrs(&self, name: &str) -> Vec<Record> {
        if name != "carrier.test" || self.shape != Shape::Naptr {
            return Vec::new();
        }
        let naptr = |order, preference, transport, replacement: &str| {
            Some(Record::Naptr(Naptr {
                order,
                preference,
                transport,
                replacement: DomainName::new(replacement.as_bytes())?,
            }))
        };
        [
            naptr(10, 50, Transport::Udp, "_sip._udp.over.carrier.test"),
            naptr(10, 60, Transport::Tcp, "_sip._tcp.over.carrier.test"),
            // Of a higher order: nobody may look at it.
            naptr(20, 10, Transport::Udp, "_sip._udp.dead.test"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn a(addr: SocketAddr) -> Record {
    match addr.ip() {
        IpAddr::V4(ip) => Record::A(ip),
        IpAddr::V6(ip) => Record::Aaaa(ip),
    }
}
