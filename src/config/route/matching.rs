//! What rules ask of a request: URIs, hosts, networks, methods, header fields.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::pattern::Pattern;
use super::super::value::{self, Wrong};
use super::header_name;
use crate::msg::lex::{self, TOKEN};
use crate::msg::method::Method;
use crate::msg::uri::same_host;

/// What a URI must be like. An empty list, or no pattern, asks for nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UriMatch {
    pub users: Vec<String>,
    pub prefixes: Vec<String>,
    pub pattern: Option<Pattern>,
    pub hosts: Vec<HostMatch>,
}

/// A host, or every host below a domain (`*.example.com`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostMatch {
    pub host: String,
    pub below: bool,
}

/// What is taken for a host of a rule.
pub const HOST: &str = r#"a host name or address such as "example.com", or "*.example.com" for all below it"#;

impl HostMatch {
    pub fn parse(text: &str) -> Result<HostMatch, Wrong> {
        let (below, host) = match text.strip_prefix("*.") {
            Some(host) => (true, host),
            None => (false, text),
        };
        let host = value::host(host).ok_or(None)?;
        Ok(HostMatch { host, below })
    }

    pub fn matches(&self, host: &[u8]) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        if !self.below {
            return same_host(host, self.host.as_bytes());
        }
        host.len().checked_sub(self.host.len() + 1).is_some_and(|at| {
            at > 0 && host[at] == b'.' && host[at + 1..].eq_ignore_ascii_case(self.host.as_bytes())
        })
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.host)
    }
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    pub ip: IpAddr,
    pub bits: u8,
}

/// What is taken for a network.
pub const NETWORK: &str = r#"an address or network such as "192.0.2.7", "10.0.0.0/8" or "2001:db8::/32""#;

impl Network {
    pub fn parse(text: &str) -> Result<Network, Wrong> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.trim_matches(['[', ']']).parse().map_err(|_| {
            ip.parse::<std::net::SocketAddr>()
                .ok()
                .map(|addr| format!("a source has no port: did you mean {:?}?", addr.ip().to_string()))
        })?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse::<u8>) {
            None => most,
            Some(Ok(bits)) if bits <= most => bits,
            Some(_) => return Err(Some(format!("a prefix has 0 to {most} bits"))),
        };
        let network = Network { ip, bits };
        let first = network.first();
        if first != ip {
            return Err(Some(format!("did you mean \"{first}/{bits}\"?")));
        }
        Ok(network)
    }

    fn first(self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & mask_v4(self.bits)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & mask_v6(self.bits)).into(),
        }
    }

    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v4(self.bits) == 0,
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v6(self.bits) == 0,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.bits) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{}", self.ip),
            _ => write!(f, "{}/{}", self.ip, self.bits),
        }
    }
}

/// Which methods a rule is for; none asks for nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Methods {
    pub texts: Vec<String>,
    /// A bit for each known one.
    known: u32,
}

impl Methods {
    pub fn push(&mut self, text: &str) -> Result<(), Wrong> {
        if text.is_empty() || !lex::all(text.as_bytes(), TOKEN) {
            return Err(None);
        }
        let upper = text.to_ascii_uppercase();
        if upper != text && Method::lookup(upper.as_bytes()) != Method::Other {
            // RFC 3261 §7.1: methods have case.
            return Err(Some(format!("did you mean {upper:?}?")));
        }
        match Method::lookup(text.as_bytes()) {
            Method::Other => {}
            known => self.known |= 1 << known as u32,
        }
        self.texts.push(text.to_owned());
        Ok(())
    }

    pub fn matches(&self, method: Method, text: &[u8]) -> bool {
        self.texts.is_empty()
            || match method {
                Method::Other => self.texts.iter().any(|own| own.as_bytes() == text),
                known => self.known & 1 << known as u32 != 0,
            }
    }
}

/// A header field that must be there, and with a pattern one line of it must match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderMatch {
    pub name: String,
    pub pattern: Option<Pattern>,
}

/// What is taken for an entry of `header`.
pub const HEADER_MATCH: &str = r#""NAME" (the header field is there) or "NAME: REGEX" (a line's whole value matches), such as "X-Tenant: gold""#;

impl HeaderMatch {
    pub fn parse(text: &str) -> Result<HeaderMatch, Wrong> {
        let (name, pattern) = match text.split_once(':') {
            Some((name, pattern)) => (name, Some(Pattern::new(pattern.trim())?)),
            None => (text, None),
        };
        let name = header_name(name)?;
        Ok(HeaderMatch { name, pattern })
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Some(pattern) => write!(f, "{}: {}", self.name, pattern.text()),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_shares_their_bits() {
        for (network, ip, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("2001:db8::/32", "2001:db8:9::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ] {
            let own = Network::parse(network).expect(network);
            assert_eq!(own.contains(ip.parse().expect(ip)), expected, "{ip} in {network}");
            assert_eq!(own.to_string(), network);
        }
        for (text, hint) in [
            ("10.0.0.1/8", Some("did you mean \"10.0.0.0/8\"?")),
            ("10.0.0.0/33", Some("a prefix has 0 to 32 bits")),
            (
                "10.0.0.1:5060",
                Some("a source has no port: did you mean \"10.0.0.1\"?"),
            ),
            ("example.com", None),
        ] {
            assert_eq!(Network::parse(text), Err(hint.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn hosts_match_themselves_or_what_is_below() {
        let below = HostMatch::parse("*.Example.com").expect("a host");
        for (host, expected) in [
            ("a.example.COM", true),
            ("a.b.example.com.", true),
            ("example.com", false),
            (".example.com", false),
            ("notexample.com", false),
        ] {
            assert_eq!(below.matches(host.as_bytes()), expected, "{host}");
        }
        assert!(
            HostMatch::parse("example.com")
                .expect("a host")
                .matches(b"EXAMPLE.com")
        );
        // RFC 5954 §4.2.
        let v6 = HostMatch::parse("[2001:db8:0::1]").expect("a host");
        assert!(v6.matches(b"[2001:DB8::0:1]") && !v6.matches(b"[2001:db8::2]"));
        assert_eq!(HostMatch::parse("*"), Err(None));
    }
}
