//! The configured table of hosts, which wins over DNS.
//!
//! It speaks for a name as a whole: once the table has anything for it (addresses of the name, or services below it), what it
//! does not have does not exist, and DNS is not asked.

use std::collections::HashMap;

use ahash::RandomState;

use crate::config::{HostEntry, HostRecord};

use super::plan::Known;
use crate::domain::DomainName;
use crate::domain::{Question, RECORDS_MAX, Record, RecordType, Srv};

/// The records of one name, by type.
#[derive(Default)]
struct Of {
    a: Vec<Record>,
    aaaa: Vec<Record>,
    srv: Vec<Record>,
}

pub struct Hosts {
    by_name: HashMap<DomainName, Of, RandomState>,
}

impl Hosts {
    /// Entries whose name is none of DNS are left out: the configuration has refused them before.
    pub fn new(entries: &[HostEntry], hasher: RandomState) -> Hosts {
        let mut hosts = Hosts {
            by_name: HashMap::with_hasher(hasher),
        };
        for entry in entries {
            let Some(name) = DomainName::new(entry.name.as_bytes()) else {
                continue;
            };
            if let Some(domain) = domain_of(&name) {
                hosts.by_name.entry(domain).or_default();
            }
            let of = hosts.by_name.entry(name).or_default();
            for record in &entry.records {
                let (list, record) = match record {
                    HostRecord::Address(std::net::IpAddr::V4(ip)) => (&mut of.a, Record::A(*ip)),
                    HostRecord::Address(std::net::IpAddr::V6(ip)) => (&mut of.aaaa, Record::Aaaa(*ip)),
                    HostRecord::Service {
                        priority,
                        weight,
                        port,
                        target,
                    } => {
                        let srv = Srv {
                            priority: *priority,
                            weight: *weight,
                            port: *port,
                            target: DomainName::new(target.as_bytes()),
                        };
                        (&mut of.srv, Record::Srv(srv))
                    }
                };
                if list.len() < RECORDS_MAX {
                    list.push(record);
                }
            }
        }
        hosts
    }

    /// `None`: the table has nothing to say about this name.
    pub fn known(&self, question: &Question) -> Option<Known<'_>> {
        if self.by_name.is_empty() {
            return None;
        }
        let Some(of) = self.by_name.get(&question.name) else {
            // `_sip._udp.NAME` where the table has NAME.
            let domain = domain_of(&question.name)?;
            return self.by_name.contains_key(&domain).then_some(Known::Nothing);
        };
        let records = match question.record_type {
            RecordType::A => &of.a,
            RecordType::Aaaa => &of.aaaa,
            RecordType::Srv => &of.srv,
            RecordType::Naptr => return Some(Known::Nothing),
        };
        Some(if records.is_empty() {
            Known::Nothing
        } else {
            Known::Records(records)
        })
    }
}

/// The domain whose service a name such as `_sip._udp.example.com` is.
fn domain_of(name: &DomainName) -> Option<DomainName> {
    let service = name.as_bytes();
    let rest = [b"_sip._udp.", b"_sip._tcp."]
        .into_iter()
        .find_map(|prefix| service.strip_prefix(prefix))?;
    DomainName::new(rest)
}
