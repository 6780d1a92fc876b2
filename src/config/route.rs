//! The routing table: `[[route]]`, one table a rule, read from the top; the first rule that matches a request says what
//! becomes of it. What no rule matches goes to the phone service.
//!
//! A rule is kept as the file gives it, each value in the form that matching wants. `routing` matches and explains.

mod change;
mod check;
mod keys;
mod matching;
mod places;

use super::value::{self, Listen, Wrong, near_miss};
use crate::msg::lex::{self, TOKEN};

pub use change::{HEADER_LINE, HEADER_NAME, HeaderLine, Rewrite, changeable};
pub use keys::{ROUTE_KEYS, TABLE};
pub use matching::{HEADER_MATCH, HOST, HeaderMatch, HostMatch, Methods, NETWORK, Network, UriMatch};
pub use places::{Place, TO, To, URIS_MAX};

/// Most rules of one table: each may be looked at for each request.
pub const ROUTES_MAX: usize = 1_000;

/// What a rule does with the requests that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Action {
    /// The phone service answers or carries them (registrar, `reg` event, B2BUA).
    #[default]
    Ims,
    /// They are forwarded: RFC 3261 §16.
    Proxy,
    /// They are answered 3xx with other places to try.
    Redirect,
    /// They are answered with a failure.
    Reject,
    /// Nothing comes of them; counted.
    Drop,
}

pub const ACTIONS: &[&str] = &["ims", "proxy", "redirect", "reject", "drop"];

impl Action {
    pub const fn text(self) -> &'static str {
        match self {
            Action::Ims => "ims",
            Action::Proxy => "proxy",
            Action::Redirect => "redirect",
            Action::Reject => "reject",
            Action::Drop => "drop",
        }
    }

    pub fn parse(text: &str) -> Result<Action, Wrong> {
        match text {
            "ims" => Ok(Action::Ims),
            "proxy" => Ok(Action::Proxy),
            "redirect" => Ok(Action::Redirect),
            "reject" => Ok(Action::Reject),
            "drop" => Ok(Action::Drop),
            _ => Err(did_you_mean(text, ACTIONS)),
        }
    }
}

/// The order in which several places are tried: RFC 3261 §16.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fork {
    /// Those of one q at once, one q after another.
    #[default]
    ByQ,
    /// All at once.
    Parallel,
    /// One after another.
    Serial,
}

pub const FORKS: &[&str] = &["by-q", "parallel", "serial"];

impl Fork {
    pub const fn text(self) -> &'static str {
        match self {
            Fork::ByQ => "by-q",
            Fork::Parallel => "parallel",
            Fork::Serial => "serial",
        }
    }

    pub fn parse(text: &str) -> Result<Fork, Wrong> {
        match text {
            "by-q" => Ok(Fork::ByQ),
            "parallel" => Ok(Fork::Parallel),
            "serial" => Ok(Fork::Serial),
            _ => Err(did_you_mean(text, FORKS)),
        }
    }
}

fn header_name(text: &str) -> Result<String, Wrong> {
    let name = text.trim();
    if name.is_empty() || !lex::all(name.as_bytes(), TOKEN) {
        return Err(None);
    }
    Ok(name.to_owned())
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// What logs and explanations call it; may be empty.
    pub name: String,
    pub listeners: Vec<Listen>,
    /// A bit for each listener of the configuration that `listeners` names.
    pub listener_bits: u64,
    pub sources: Vec<Network>,
    pub methods: Methods,
    pub schemes: Vec<String>,
    pub request_uri: UriMatch,
    pub from: UriMatch,
    pub headers: Vec<HeaderMatch>,
    pub action: Action,
    pub to: To,
    pub fork: Fork,
    /// Forwarded without a transaction: RFC 3261 §16.11.
    pub stateless: bool,
    /// Whether requests within the dialog come through here too.
    pub record_route: bool,
    /// Whether a REGISTER gets our own URI in its Path (RFC 3327), with its flow where we are the first hop (RFC 5626).
    pub add_path: bool,
    /// Whether the contacts of a 3xx are tried here rather than passed back.
    pub recurse: bool,
    /// RFC 3261 §18.1.1.
    pub tcp_when_large: bool,
    /// How long one group of places rings before the next is tried.
    pub ring_s: u32,
    /// The status of an answer; 0: 302 for a redirect, 403 for a rejection.
    pub code: u16,
    /// Its reason phrase; empty: that of the code.
    pub reason: String,
    /// 0: none is named.
    pub retry_after_s: u32,
    pub rewrite: Rewrite,
}

impl Default for Route {
    fn default() -> Route {
        Route {
            name: String::new(),
            listeners: Vec::new(),
            listener_bits: 0,
            sources: Vec::new(),
            methods: Methods::default(),
            schemes: Vec::new(),
            request_uri: UriMatch::default(),
            from: UriMatch::default(),
            headers: Vec::new(),
            action: Action::default(),
            to: To::default(),
            fork: Fork::default(),
            stateless: false,
            record_route: true,
            add_path: false,
            recurse: false,
            tcp_when_large: false,
            ring_s: 30,
            code: 0,
            reason: String::new(),
            retry_after_s: 0,
            rewrite: Rewrite::default(),
        }
    }
}

impl Route {
    /// The status that a redirect or rejection answers with.
    pub const fn status(&self) -> u16 {
        match (self.code, self.action) {
            (0, Action::Redirect) => 302,
            (0, Action::Ims | Action::Proxy | Action::Reject | Action::Drop) => 403,
            (code, _) => code,
        }
    }
}

pub const MODES: &[&str] = &["stateful", "stateless"];

/// Whether a mode is the stateless one.
pub fn mode(text: &str) -> Result<bool, Wrong> {
    match text {
        "stateful" => Ok(false),
        "stateless" => Ok(true),
        _ => Err(did_you_mean(text, MODES)),
    }
}

pub const SCHEMES: &[&str] = &["sip", "sips", "tel"];

/// Any scheme may be named, so that all others can be refused.
pub fn scheme(text: &str) -> Result<String, Wrong> {
    let is_scheme = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    if is_scheme {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(did_you_mean(text.trim_end_matches(':'), SCHEMES))
    }
}

/// A user part, or the beginning of one, as it is written when nothing in it is escaped.
pub fn user(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return Err(None);
    }
    match text
        .bytes()
        .find(|byte| !lex::is(*byte, lex::USER) || *byte == b'%')
    {
        None => Ok(text.to_owned()),
        Some(b'@') => Err(Some("the host is a key of its own".to_owned())),
        Some(_) => Err(None),
    }
}

/// A host with an optional port.
pub fn host_port(text: &str) -> Result<String, Wrong> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host = value::host(host).ok_or(None)?;
    match port.map(str::parse::<u16>) {
        None => Ok(host),
        Some(Ok(port @ 1..)) => Ok(format!("{host}:{port}")),
        Some(Ok(0) | Err(_)) => Err(Some("a port is a number from 1 to 65535".to_owned())),
    }
}

/// A reason phrase: RFC 3261 §25.1, one line.
pub fn reason(text: &str) -> Result<String, Wrong> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(Some("it is one line".to_owned()));
    }
    Ok(text.to_owned())
}

fn did_you_mean(text: &str, candidates: &[&'static str]) -> Wrong {
    near_miss(text, candidates.iter().copied()).map(|near| format!("did you mean {near:?}?"))
}
