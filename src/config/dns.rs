//! `[dns]` and `[hosts]`: whom to ask for host names (RFC 3263), and those that need no asking.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::load::{Item, Value};
use super::value::{self, Wrong};

/// What bounds questions and answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// How long one question may take, all tries together.
    pub timeout: Duration,
    /// How often one server is asked.
    pub attempts: usize,
    pub cache_max: usize,
    pub look_ups_max: usize,
    /// Questions that are out at once, of the whole process.
    pub questions_max: usize,
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    pub negative_ttl_max: Duration,
    pub failure_ttl: Duration,
    /// An answer that can't go back where its request came from goes where the sent-by of its Via leads.
    pub response_failover: bool,
}

impl Default for Dns {
    fn default() -> Dns {
        Dns {
            servers: Vec::new(),
            timeout: Duration::from_secs(3),
            attempts: 2,
            cache_max: 65_536,
            look_ups_max: 16_384,
            questions_max: 1_024,
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(86_400),
            negative_ttl_max: Duration::from_secs(60),
            failure_ttl: Duration::from_secs(5),
            response_failover: true,
        }
    }
}

/// Most names of the table of hosts.
pub const HOSTS_MAX: usize = 4_096;
/// Most records of one name.
pub const HOST_RECORDS_MAX: usize = 32;

/// One name of the table of hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostEntry {
    /// Lower case; a host, or `_sip._udp.` or `_sip._tcp.` and one.
    pub name: String,
    pub records: Vec<HostRecord>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostRecord {
    Address(IpAddr),
    /// As an SRV record (RFC 2782).
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
}

/// The section's name, with what it is about.
pub(super) const HOSTS: (&str, &str) = (
    "hosts",
    "Host names that are known without asking DNS, for labs and tests: a name with its addresses, or a service with \
     \"PRIORITY WEIGHT PORT HOST\" as in an SRV record. What stands here for a name wins over DNS, which is not asked for it \
     at all.",
);

/// Lines for the example file.
pub(super) const HOSTS_EXAMPLE: &str = "\
#\"pbx.example.net\" = [\"127.0.0.2\", \"::1\"]
#\"_sip._udp.example.net\" = [\"10 60 5060 pbx.example.net\", \"20 0 5070 pbx.example.net\"]
";

const NAME: &str = r#"a host name, or one after "_sip._udp." or "_sip._tcp.""#;
const ADDRESSES: &str = r#"a list of texts, each an IP address such as "127.0.0.2""#;
const SERVICES: &str =
    r#"a list of texts, each "PRIORITY WEIGHT PORT HOST" such as "10 60 5060 pbx.example.net""#;

/// What is wrong with an entry, and where.
pub(super) struct BadHost {
    pub expected: &'static str,
    /// The list's item that is wrong; `None`: the name, or the value as a whole.
    pub item: Option<usize>,
}

impl HostEntry {
    pub(super) fn parse(name: &str, value: &Item) -> Result<HostEntry, BadHost> {
        let lower = name.to_ascii_lowercase();
        let service = ["_sip._udp.", "_sip._tcp."]
            .iter()
            .find_map(|prefix| lower.strip_prefix(prefix));
        let is_service = service.is_some();
        let host = value::host_name(service.unwrap_or(&lower)).filter(|host| host.len() <= 243);
        if host.is_none() {
            let (expected, item) = (NAME, None);
            return Err(BadHost { expected, item });
        }
        let expected = if is_service { SERVICES } else { ADDRESSES };
        let texts = match &value.value {
            Value::List(items) if (1..=HOST_RECORDS_MAX).contains(&items.len()) => items,
            Value::List(_) | Value::Switch(_) | Value::Integer(_) | Value::Text(_) | Value::Other => {
                return Err(BadHost { expected, item: None });
            }
        };
        let mut records = Vec::with_capacity(texts.len());
        for (index, item) in texts.iter().enumerate() {
            let record = match &item.value {
                Value::Text(text) if is_service => service_record(text),
                Value::Text(text) => address(text).map(HostRecord::Address),
                Value::Switch(_) | Value::Integer(_) | Value::List(_) | Value::Other => None,
            };
            records.push(record.ok_or(BadHost {
                expected,
                item: Some(index),
            })?);
        }
        let name = lower.strip_suffix('.').unwrap_or(&lower).to_owned();
        Ok(HostEntry { name, records })
    }

    /// The entry as a line of the file.
    pub fn toml(&self) -> String {
        let mut text = format!("\"{}\" = [", self.name);
        for (index, record) in self.records.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            _ = write!(text, "{comma}\"{record}\"");
        }
        text + "]"
    }
}

impl fmt::Display for HostRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostRecord::Address(ip) => write!(f, "{ip}"),
            HostRecord::Service {
                priority,
                weight,
                port,
                target,
            } => write!(f, "{priority} {weight} {port} {target}"),
        }
    }
}

fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(ip) => ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

fn service_record(text: &str) -> Option<HostRecord> {
    let mut words = text.split_whitespace();
    let record = HostRecord::Service {
        priority: words.next()?.parse().ok()?,
        weight: words.next()?.parse().ok()?,
        port: words.next()?.parse().ok().filter(|port| *port != 0)?,
        target: value::host_name(words.next()?)?,
    };
    words.next().is_none().then_some(record)
}

/// What is taken for an entry of `dns.servers`.
pub const SERVER: &str = r#"an IP address, or one with a port, such as "127.0.0.1:53""#;

/// A DNS server; port 53 unless it says otherwise.
pub fn server(text: &str) -> Result<SocketAddr, Wrong> {
    let addr = match address(text) {
        Some(ip) => SocketAddr::new(ip, 53),
        None => text.parse().map_err(|_| None)?,
    };
    if addr.port() == 0 { Err(None) } else { Ok(addr) }
}
