//! What is asked of DNS and what comes back, as far as SIP needs it (RFC 3263).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::Transport;

use super::name::DomainName;

/// The record types that RFC 3263 uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordType {
    A,
    Aaaa,
    Srv,
    Naptr,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    pub name: DomainName,
    pub record_type: RecordType,
}

/// RFC 2782.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// `None`: the root, by which a domain says that it does not offer the service.
    pub target: Option<DomainName>,
}

/// RFC 3403 and RFC 3263 §4.1, of the flag `s`: others lead to nothing that SIP knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naptr {
    pub order: u16,
    pub preference: u16,
    /// The transport of `SIP+D2U` and `SIP+D2T`. Records of other services are not kept.
    pub transport: Transport,
    /// The name to ask SRV records of.
    pub replacement: DomainName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv(Srv),
    Naptr(Naptr),
}

/// Most records that are kept of one answer; further ones are left out.
pub const RECORDS_MAX: usize = 32;

/// What came of a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Records of the type asked for, at least one and at most [`RECORDS_MAX`]. `ttl_s`: the least of theirs, seconds.
    Records { records: Box<[Record]>, ttl_s: u32 },
    /// There is no such name, or it has no such record (RFC 2308). `ttl_s`: from the SOA record, if there was one.
    Nothing { ttl_s: Option<u32> },
    /// No answer that means anything: a time-out, a refusal, a broken server.
    Failed,
}

impl Naptr {
    /// The transport that a NAPTR's `service` field stands for, if ringway speaks it. TLS (`SIPS+D2T`) is not among them.
    pub fn transport_of(service: &[u8]) -> Option<Transport> {
        if service.eq_ignore_ascii_case(b"SIP+D2U") {
            Some(Transport::Udp)
        } else if service.eq_ignore_ascii_case(b"SIP+D2T") {
            Some(Transport::Tcp)
        } else {
            None
        }
    }
}
