//! The values that have a syntax of their own: addresses, host names, kernel levels, log filters. The file and the command
//! line share them.
//!
//! Each parser answers with the value, or with a [`Wrong`]: a hint on how to say it right, where there is a likely one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

use super::{Gro, KernelLevel, LogFormat, Origin, Segment, Steering};
use crate::msg::uri::{Scheme, Uri};
use crate::wire::Transport;

/// Why a text is no value of its kind, as far as there is more to say than what was expected.
pub type Wrong = Option<String>;

pub fn did_you_mean(text: &str) -> Wrong {
    Some(format!("did you mean {text:?}?"))
}

/// One entry of `listen`: an address on one transport, or on both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    pub transport: Option<Transport>,
    pub addr: SocketAddr,
    pub origin: Origin,
}

/// What is taken for an entry of `listen`. Port 0 leaves the choice to the system, one for UDP and TCP.
pub const LISTEN: &str =
    r#""IP:PORT" (UDP and TCP), "udp:IP:PORT" or "tcp:IP:PORT", an IPv6 address in brackets"#;

impl Listen {
    pub fn parse(text: &str, origin: Origin) -> Result<Listen, Wrong> {
        let (transport, rest) = split_transport(text)?;
        Ok(Listen {
            transport,
            addr: socket_addr(rest)?,
            origin,
        })
    }

    pub fn covers(&self, transport: Transport) -> bool {
        self.transport.is_none_or(|own| own == transport)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", transport_prefix(self.transport), self.addr)
    }
}

fn transport_prefix(transport: Option<Transport>) -> &'static str {
    match transport {
        None => "",
        Some(Transport::Udp) => "udp:",
        Some(Transport::Tcp) => "tcp:",
    }
}

fn split_transport(text: &str) -> Result<(Option<Transport>, &str), Wrong> {
    let Some((prefix, rest)) = text.split_once(':') else {
        return Ok((None, text));
    };
    if prefix.eq_ignore_ascii_case("udp") {
        Ok((Some(Transport::Udp), rest))
    } else if prefix.eq_ignore_ascii_case("tcp") {
        Ok((Some(Transport::Tcp), rest))
    } else if ["tls", "sctp", "ws", "wss", "sip", "sips"].contains(&prefix.to_ascii_lowercase().as_str()) {
        Err(Some("the transports are udp and tcp".to_owned()))
    } else {
        Ok((None, text))
    }
}

fn socket_addr(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        if addr.ip().is_multicast() {
            return Err(Some(format!("{} is a multicast address", addr.ip())));
        }
        return Ok(addr);
    }
    // The usual slips: no port, no brackets, no address, a name.
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err(did_you_mean(&SocketAddr::new(ip, 5060).to_string()));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let Ok(port) = port.parse::<u16>() else {
        return Err(None);
    };
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return Err(did_you_mean(&SocketAddr::new(ip.into(), port).to_string()));
    }
    match host {
        "" | "*" => Err(did_you_mean(&SocketAddr::from(([0, 0, 0, 0], port)).to_string())),
        "localhost" => Err(did_you_mean(
            &SocketAddr::from(([127, 0, 0, 1], port)).to_string(),
        )),
        _ if host_name(host).is_some() => {
            Err(Some("names are not looked up here: give the address".to_owned()))
        }
        _ => Err(None),
    }
}

/// A host as Via and URIs write it (RFC 3261 §25.1 `host`), in lower case: an IPv4 address, an IPv6 address in brackets, or
/// a name.
pub fn host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().ok().map(|ip| format!("[{ip}]"));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Some(ip.to_string());
    }
    host_name(text)
}

/// RFC 3261 §25.1 `hostname`: labels of letters, digits and inner hyphens; the last begins with a letter.
pub fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().last()];
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && ends.into_iter().flatten().all(|b| b != b'-')
    };
    let last = name.rsplit('.').next()?;
    (name.len() <= 253
        && name.split('.').all(label)
        && last.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()))
    .then(|| name.to_ascii_lowercase())
}

/// `ip` as a host in a header: IPv6 in brackets, without a scope, which means nothing to others.
pub fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// One entry of `advertise`: what Via and Contact say for one listener, or for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertise {
    /// `None`: every listener that no other entry names, of the same family where `host` is an address.
    pub listener: Option<(Option<Transport>, SocketAddr)>,
    pub host: String,
    /// `None`: the listener's own.
    pub port: Option<u16>,
    pub origin: Origin,
}

/// What is taken for an entry of `advertise`.
pub const ADVERTISE: &str =
    r#""HOST", "HOST:PORT", or for one listener "IP:PORT=HOST", "udp:IP:PORT=HOST:PORT" and so on"#;

impl Advertise {
    pub fn parse(text: &str, origin: Origin) -> Result<Advertise, Wrong> {
        let (listener, target) = match text.split_once('=') {
            Some((listener, target)) => {
                let (transport, addr) = split_transport(listener.trim())?;
                (Some((transport, socket_addr(addr)?)), target.trim())
            }
            None => (None, text.trim()),
        };
        let (host_text, port) = match target.rsplit_once(':') {
            // A colon inside brackets is the address's own.
            Some((before, port)) if !port.contains(']') => match port.parse::<u16>() {
                Ok(port @ 1..) => (before, Some(port)),
                Ok(0) | Err(_) => return Err(unbracketed(target)),
            },
            _ => (target, None),
        };
        let Some(host) = host(host_text) else {
            return Err(unbracketed(target));
        };
        if matches!(host.as_str(), "0.0.0.0" | "[::]") {
            return Err(Some(format!("nobody can send to {host}")));
        }
        Ok(Advertise {
            listener,
            host,
            port,
            origin,
        })
    }

    /// Whether this entry speaks for a listener, and how closely: an entry for the transport too beats one for the address,
    /// and that beats one for all.
    pub fn closeness(&self, transport: Transport, addr: SocketAddr) -> Option<u8> {
        match self.listener {
            Some((None, own)) => (own == addr).then_some(1),
            Some((Some(only), own)) => (own == addr && only == transport).then_some(2),
            None => match (self.host.parse::<Ipv4Addr>().is_ok(), self.host.starts_with('[')) {
                (true, _) => addr.is_ipv4().then_some(0),
                (_, true) => addr.is_ipv6().then_some(0),
                (false, false) => Some(0),
            },
        }
    }
}

fn unbracketed(text: &str) -> Wrong {
    text.parse::<Ipv6Addr>()
        .ok()
        .and_then(|ip| did_you_mean(&host_of(ip.into())))
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((transport, addr)) = self.listener {
            write!(f, "{}{addr}=", transport_prefix(transport))?;
        }
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// The oldest kernel that is supported.
pub const KERNEL_LEVEL_MIN: KernelLevel = KernelLevel { major: 5, minor: 10 };

/// What is taken for `kernel_level`.
pub const KERNEL_LEVEL: &str =
    r#""auto" or a kernel version of at least 5.10 in quotes, such as "5.10" or "6.1""#;

pub fn kernel_level(text: &str) -> Result<Option<KernelLevel>, Wrong> {
    if text == "auto" {
        return Ok(None);
    }
    let level = text.split_once('.').and_then(|(major, minor)| {
        Some(KernelLevel {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    });
    match level {
        Some(level) if level < KERNEL_LEVEL_MIN => Err(Some(format!(
            "Linux {} is the oldest that is supported",
            kernel_level_text(Some(KERNEL_LEVEL_MIN))
        ))),
        Some(level) => Ok(Some(level)),
        None => Err(None),
    }
}

pub fn kernel_level_text(level: Option<KernelLevel>) -> String {
    match level {
        Some(level) => format!("{}.{}", level.major, level.minor),
        None => "auto".to_owned(),
    }
}

/// An option tag: RFC 3261 §25.1 `token`. Tags compare in any case (§7.3.1); lower case is what they are written in.
pub fn option_tag(text: &str) -> Result<String, Wrong> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b);
    (!text.is_empty() && text.bytes().all(token))
        .then(|| text.to_ascii_lowercase())
        .ok_or(None)
}

pub const ROUTER: &str = r#"the URI of a loose router such as "sip:orig@one.att.net;lr""#;

/// A `sip:` URI as it stands in a Route: with `lr`, without headers.
pub fn router(text: &str) -> Result<String, Wrong> {
    let uri = Uri::parse(text.as_bytes()).map_err(|_| None)?;
    if uri.scheme != Scheme::Sip || !uri.headers.is_empty() {
        return Err(None);
    }
    match uri.param(b"lr") {
        Some(_) => Ok(text.to_owned()),
        None => Err(Some("a route to it needs the parameter ;lr".to_owned())),
    }
}

pub const LOG_FORMATS: &[&str] = &["human", "json"];

pub fn log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err(near_miss(text, LOG_FORMATS.iter().copied()).and_then(did_you_mean)),
    }
}

pub fn log_format_text(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    }
}

pub const STEERINGS: &[&str] = &["auto", "off"];

pub fn steering(text: &str) -> Result<Steering, Wrong> {
    match text {
        "auto" => Ok(Steering::Auto),
        "off" => Ok(Steering::Off),
        _ => Err(near_miss(text, STEERINGS.iter().copied()).and_then(did_you_mean)),
    }
}

pub fn steering_text(steering: Steering) -> &'static str {
    match steering {
        Steering::Auto => "auto",
        Steering::Off => "off",
    }
}

const SEGMENTS: [&str; 2] = ["auto", "off"];
/// What is taken for `udp.segment`.
pub const SEGMENT: &str = r#""auto" or "off""#;

pub fn segment(text: &str) -> Result<Segment, Wrong> {
    match text {
        "auto" => Ok(Segment::Auto),
        "off" => Ok(Segment::Off),
        _ => Err(near_miss(text, SEGMENTS.iter().copied()).and_then(did_you_mean)),
    }
}

pub fn segment_text(segment: Segment) -> &'static str {
    match segment {
        Segment::Auto => "auto",
        Segment::Off => "off",
    }
}

/// What is taken for `udp.gro`.
pub const GRO: &str = SEGMENT;

pub fn gro(text: &str) -> Result<Gro, Wrong> {
    match text {
        "auto" => Ok(Gro::Auto),
        "off" => Ok(Gro::Off),
        _ => Err(near_miss(text, SEGMENTS.iter().copied()).and_then(did_you_mean)),
    }
}

pub fn gro_text(gro: Gro) -> &'static str {
    match gro {
        Gro::Auto => "auto",
        Gro::Off => "off",
    }
}

/// What is taken for `hep.collector`.
pub const COLLECTOR: &str = r#"an address such as "udp:127.0.0.1:9060", or "off""#;

pub fn collector(text: &str) -> Result<Option<SocketAddr>, Wrong> {
    if text == "off" {
        return Ok(None);
    }
    match text.strip_prefix("udp:") {
        Some(addr) => addr.parse().map(Some).map_err(|_| None),
        None if text.parse::<SocketAddr>().is_ok() => Err(did_you_mean(&format!("udp:{text}"))),
        None => Err(None),
    }
}

pub fn collector_text(collector: Option<SocketAddr>) -> String {
    collector.map_or_else(|| "off".to_owned(), |addr| format!("udp:{addr}"))
}

const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is taken for `admin.listen`.
pub const ADMIN_LISTEN: &str = r#""IP:PORT" such as "127.0.0.1:5080", or "" for nowhere"#;

pub fn admin_listen(text: &str) -> Result<Option<SocketAddr>, Wrong> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let with_port = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 5080));
            with_port.and_then(|addr| did_you_mean(&addr.to_string()))
        }),
    }
}

/// What is taken for `admin.token`: RFC 6750 §2.1.
pub const ADMIN_TOKEN: &str = r#"letters, digits and -._~+/= without white space, or """#;

pub fn admin_token(text: &str) -> Result<String, Wrong> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if text.bytes().all(is_token) {
        Ok(text.to_owned())
    } else {
        Err(None)
    }
}

/// What is taken for a path.
pub const PATH: &str = r#"an absolute path, or "" for none"#;

pub fn path(text: &str) -> Result<Option<PathBuf>, Wrong> {
    match text {
        "" => Ok(None),
        text if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        _ => Err(Some(
            "where a relative path leads depends on where the server was started".to_owned(),
        )),
    }
}

pub fn path_text(path: Option<&Path>) -> String {
    path.map_or(String::new(), |path| path.to_string_lossy().into_owned())
}

/// What is taken for `log.level`.
pub const LOG_FILTER: &str =
    r#""off", "error", "warn", "info", "debug", "trace", or directives such as "info,ringway::io=trace""#;

/// A `tracing` filter. A bare word that is no level would be taken for a module's name and silence everything else, so it
/// must look like a module of ours.
pub fn log_filter(text: &str) -> Result<(), Wrong> {
    for directive in text.split(',').map(str::trim) {
        let level = match directive.rsplit_once('=') {
            // A field filter, `[span{field=value}]`, has an equals sign of its own.
            Some((_, level)) if !level.contains(['}', ']']) => level,
            Some(_) => continue,
            None if directive.starts_with("ringway") || directive.starts_with('[') => continue,
            None => directive,
        };
        if !LOG_LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Err(near_miss(level, LOG_LEVELS.into_iter()).and_then(did_you_mean));
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map(|_| ())
        .map_err(|error| Some(error.to_string()))
}

/// The candidate most like `text`, if one is like enough to be what was meant.
pub fn near_miss<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LIKE_ENOUGH: f64 = 0.82;
    candidates
        .map(|candidate| {
            (
                strsim::jaro_winkler(&text.to_ascii_lowercase(), candidate),
                candidate,
            )
        })
        .filter(|&(likeness, _)| likeness >= LIKE_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
