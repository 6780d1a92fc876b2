//! The routing table: `[[route]]`, one table a rule, read from the top; the first rule that matches a request says what
//! becomes of it. What no rule matches goes to the phone service.
//!
//! A rule is kept as the file gives it, each value in the form that matching wants. `routing` matches and explains.

use std::fmt;

use super::value::{self, Listen, Wrong, near_miss};
use super::{ConfigError, Listener, Origin};
use crate::msg::lex::{self, TOKEN};
use crate::msg::name::Name;
use crate::msg::name_addr::NameAddr;
use crate::msg::uri::{Scheme, Uri};

pub use super::route_match::{
    HEADER_MATCH, HOST, HeaderMatch, HostMatch, Methods, NETWORK, Network, UriMatch,
};

/// Most rules of one table: each may be looked at for each request.
pub const ROUTES_MAX: usize = 1_000;
/// Most URIs that one rule may name.
pub const URIS_MAX: usize = 64;

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

/// Where a rule sends, or points, to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum To {
    /// The file names nothing.
    #[default]
    Nowhere,
    /// The contacts that the request's subscriber has registered.
    Registered,
    /// What the request URI says.
    RequestUri,
    /// A trunk of the file, by its name.
    Trunk(String),
    /// Each a URI, or one in angle brackets with a `q` behind it.
    Uris(Vec<Place>),
}

/// One URI that a rule names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// As the file has it.
    pub text: String,
    pub uri: String,
    /// Preference in thousandths.
    pub q: u16,
    /// Whether the URI has a user part: then it takes the place of the request URI. Without one it only says where the
    /// request is sent.
    pub is_whole: bool,
}

/// What is taken for `to`.
pub const TO: &str = r#""registered", "request-uri", "trunk:NAME", or a URI such as "sip:10.0.0.1:5060" or "<sip:b@10.0.0.1>;q=0.5""#;

impl To {
    pub fn texts(&self) -> Vec<String> {
        match self {
            To::Nowhere => Vec::new(),
            To::Registered => vec!["registered".to_owned()],
            To::RequestUri => vec!["request-uri".to_owned()],
            To::Trunk(name) => vec![format!("trunk:{name}")],
            To::Uris(places) => places.iter().map(|place| place.text.clone()).collect(),
        }
    }

    pub fn push(&mut self, text: &str) -> Result<(), Wrong> {
        let alone = match text {
            "registered" => Some(To::Registered),
            "request-uri" => Some(To::RequestUri),
            _ => text.strip_prefix("trunk:").map(|name| To::Trunk(name.to_owned())),
        };
        match (alone, &mut *self) {
            (Some(to), To::Nowhere) => *self = to,
            (None, To::Nowhere) => *self = To::Uris(vec![Place::parse(text)?]),
            (None, To::Uris(places)) if places.len() < URIS_MAX => places.push(Place::parse(text)?),
            (None, To::Uris(_)) => return Err(Some(format!("{URIS_MAX} URIs are the most"))),
            (Some(_), To::Registered | To::RequestUri | To::Trunk(_) | To::Uris(_))
            | (None, To::Registered | To::RequestUri | To::Trunk(_)) => {
                return Err(Some("only URIs may stand beside one another".to_owned()));
            }
        }
        Ok(())
    }
}

impl Place {
    fn parse(text: &str) -> Result<Place, Wrong> {
        let hint = || did_you_mean(text, &["registered", "request-uri"]);
        // Without brackets what follows a semicolon is the URI's own here, as nowhere else is there a header to belong to.
        let (uri, q) = if text.contains('<') {
            let address = NameAddr::parse(text.as_bytes()).map_err(|_| hint())?;
            let q = match address.param(b"q") {
                None => 1_000,
                Some(q) => thousandths(q).ok_or(Some("q is a number from 0 to 1".to_owned()))?,
            };
            (String::from_utf8_lossy(address.uri).into_owned(), q)
        } else {
            (text.to_owned(), 1_000)
        };
        let parsed = Uri::parse(uri.as_bytes()).map_err(|_| hint())?;
        match parsed.scheme {
            Scheme::Sip => {}
            Scheme::Sips | Scheme::Tel | Scheme::Other => {
                return Err(Some("it must be a sip: URI".to_owned()));
            }
        }
        if !parsed.headers.is_empty() {
            return Err(Some("headers of a URI are not sent on".to_owned()));
        }
        let is_whole = parsed.user.is_some();
        Ok(Place {
            text: text.to_owned(),
            uri,
            q,
            is_whole,
        })
    }
}

/// RFC 3261 §25.1 `qvalue`.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(b"000").take(3);
    let fraction = digits.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, fraction) {
        (b"0", fraction) => Some(fraction),
        (b"1", 0) => Some(1_000),
        _ => None,
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

pub(super) fn header_name(text: &str) -> Result<String, Wrong> {
    let name = text.trim();
    if name.is_empty() || !lex::all(name.as_bytes(), TOKEN) {
        return Err(None);
    }
    Ok(name.to_owned())
}

/// A header line that a rule adds or sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderLine {
    pub name: String,
    pub value: String,
}

/// What is taken for a header line.
pub const HEADER_LINE: &str = r#""NAME: VALUE", such as "X-Tenant: gold""#;
/// What is taken for the name of one.
pub const HEADER_NAME: &str = r#"a header field's name such as "X-Tenant""#;

/// Lines that forwarding itself writes, or that say which transaction and dialog a message belongs to.
const KEPT: &[Name] = &[
    Name::Via,
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::MaxForwards,
    Name::MaxBreadth,
    Name::ContentLength,
    Name::Route,
    Name::RecordRoute,
];

/// A header field that a rule may change.
pub fn changeable(text: &str) -> Result<String, Wrong> {
    let name = header_name(text)?;
    if KEPT.contains(&Name::lookup(name.as_bytes())) {
        return Err(Some(format!("{name} is not a rule's to change")));
    }
    Ok(name)
}

impl HeaderLine {
    pub fn parse(text: &str) -> Result<HeaderLine, Wrong> {
        let (name, value) = text.split_once(':').ok_or(None)?;
        let value = value.trim();
        if value
            .bytes()
            .any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f)
        {
            return Err(Some("a value is one line".to_owned()));
        }
        Ok(HeaderLine {
            name: changeable(name)?,
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for HeaderLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

/// What a rule changes in the requests that it matches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// Characters taken from the front of the request URI's user part.
    pub strip: usize,
    /// Put before what is left of it.
    pub prefix: String,
    /// Put in its place instead; empty: nothing is.
    pub user: String,
    /// Put in the place of the request URI's host and port; empty: nothing is.
    pub host: String,
    pub set: Vec<HeaderLine>,
    pub add: Vec<HeaderLine>,
    pub remove: Vec<String>,
}

impl Rewrite {
    /// Whether the request URI may become another.
    pub fn changes_uri(&self) -> bool {
        self.strip > 0 || !self.prefix.is_empty() || !self.user.is_empty() || !self.host.is_empty()
    }

    pub fn changes_headers(&self) -> bool {
        !(self.set.is_empty() && self.add.is_empty() && self.remove.is_empty())
    }
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

/// Where the keys of a rule that are told of were given.
pub(super) type OriginOf<'a> = &'a dyn Fn(&str) -> Option<Origin>;

/// A bit for each of `listeners` that `listen` covers.
fn bits_of(listen: &Listen, listeners: &[Listener]) -> u64 {
    let own = listeners.iter().enumerate();
    own.filter(|(_, own)| own.addr == listen.addr && listen.covers(own.transport))
        .fold(0, |bits, (index, _)| bits | 1 << index)
}

impl Route {
    /// Works out which of `listeners` the rule means.
    pub(super) fn find_listeners(&mut self, listeners: &[Listener]) {
        let named = self.listeners.iter();
        self.listener_bits = named.fold(0, |bits, listen| bits | bits_of(listen, listeners));
    }

    /// Completes a rule, and tells what its keys can't be together.
    pub(super) fn resolve(
        &mut self,
        listeners: &[Listener],
        trunks: &[&str],
        at: Origin,
        given: OriginOf<'_>,
        errors: &mut Vec<ConfigError>,
    ) {
        let mut wrong = |origin: Origin, key: &str, expected: &str, found: String, hint: Option<String>| {
            errors.push(ConfigError {
                origin,
                key: format!("route.{key}"),
                expected: expected.to_owned(),
                found,
                hint,
            });
        };
        self.find_listeners(listeners);
        for listen in &self.listeners {
            if bits_of(listen, listeners) == 0 {
                let known: Vec<String> = (listeners.iter())
                    .map(|own| format!("{}:{}", own.transport.name().to_ascii_lowercase(), own.addr))
                    .collect();
                wrong(
                    listen.origin,
                    "listener",
                    "an address of listen",
                    format!("\"{listen}\""),
                    Some(format!("ringway listens on {}", known.join(", "))),
                );
            }
        }
        // Where an entry stood does not make a rule another one.
        for listen in &mut self.listeners {
            listen.origin = Origin::Default;
        }
        if let (Fork::ByQ, To::Uris(places)) = (self.fork, &mut self.to) {
            // What is preferred comes first; among equals the order of the file stays.
            places.sort_by_key(|place| std::cmp::Reverse(place.q));
        }
        if given("action") == Some(Origin::Default) {
            let expected = "what to do with the requests that match";
            let hint = Some(format!("action is one of {}", ACTIONS.join(", ")));
            wrong(at, "action", expected, "nothing".to_owned(), hint);
            return;
        }
        let action = self.action;
        let is_given = |key: &str| given(key).filter(|origin| *origin != Origin::Default);
        // What only means something with some actions is no mistake to overlook elsewhere.
        let of: &[(&str, &[Action])] = &[
            ("to", &[Action::Proxy, Action::Redirect]),
            ("fork", &[Action::Proxy]),
            ("mode", &[Action::Proxy]),
            ("record_route", &[Action::Proxy]),
            ("add_path", &[Action::Proxy]),
            ("recurse", &[Action::Proxy]),
            ("tcp_when_large", &[Action::Proxy]),
            ("ring_s", &[Action::Proxy]),
            ("code", &[Action::Redirect, Action::Reject]),
            ("reason", &[Action::Redirect, Action::Reject]),
            ("retry_after_s", &[Action::Reject]),
            ("strip", &[Action::Ims, Action::Proxy]),
            ("prefix", &[Action::Ims, Action::Proxy]),
            ("set_user", &[Action::Ims, Action::Proxy]),
            ("set_host", &[Action::Ims, Action::Proxy]),
            ("set_header", &[Action::Ims, Action::Proxy]),
            (
                "add_header",
                &[Action::Ims, Action::Proxy, Action::Redirect, Action::Reject],
            ),
            ("remove_header", &[Action::Ims, Action::Proxy]),
        ];
        for (key, actions) in of {
            if let Some(origin) = is_given(key)
                && !actions.contains(&action)
            {
                let expected = format!("no {key} where action is {:?}", action.text());
                wrong(origin, key, &expected, "one".to_owned(), None);
            }
        }
        let needs_to = action == Action::Proxy || action == Action::Redirect;
        if needs_to && given("to").is_some() && self.to == To::Nowhere {
            let expected = format!("where to {}", action.text());
            wrong(
                is_given("to").unwrap_or(at),
                "to",
                &expected,
                "nothing".to_owned(),
                None,
            );
        }
        let to_origin = is_given("to").unwrap_or(at);
        match (&self.to, action) {
            (To::Registered | To::RequestUri | To::Trunk(_), Action::Redirect) => {
                wrong(to_origin, "to", "URIs", self.to.texts().join(", "), None);
            }
            (To::Trunk(name), _) if !trunks.contains(&name.as_str()) => {
                let hint = near_miss(name, trunks.iter().copied())
                    .map(|near| format!("did you mean \"trunk:{near}\"?"));
                wrong(
                    to_origin,
                    "to",
                    "a trunk of this file",
                    format!("\"trunk:{name}\""),
                    hint,
                );
            }
            (To::Nowhere | To::Registered | To::RequestUri | To::Trunk(_) | To::Uris(_), _) => {}
        }
        if self.stateless {
            let several = match &self.to {
                To::Uris(places) => places.len() > 1,
                To::Registered => true,
                To::Nowhere | To::RequestUri | To::Trunk(_) => false,
            };
            if several || matches!(self.to, To::Trunk(_)) {
                // RFC 3261 §16.11: a stateless proxy must not fork, and chooses the same target each time.
                let hint =
                    Some("without state a request goes to one place, and failures are not seen".to_owned());
                let expected = "\"request-uri\" or one URI where mode is \"stateless\"";
                wrong(to_origin, "to", expected, self.to.texts().join(", "), hint);
            }
            for key in ["fork", "recurse", "ring_s", "tcp_when_large"] {
                if let Some(origin) = is_given(key) {
                    let expected = format!("no {key} where mode is \"stateless\"");
                    wrong(origin, key, &expected, "one".to_owned(), None);
                }
            }
        }
        if let Some(origin) = is_given("code") {
            let (range, expected) = match action {
                Action::Redirect => (300..=399, "300 to 399 where action is \"redirect\""),
                Action::Reject => (400..=699, "400 to 699 where action is \"reject\""),
                Action::Ims | Action::Proxy | Action::Drop => (0..=699, ""),
            };
            if self.code != 0 && !range.contains(&self.code) {
                wrong(origin, "code", expected, self.code.to_string(), None);
            }
        }
        if let (Some(origin), false) = (is_given("set_user"), self.rewrite.user.is_empty())
            && (is_given("strip").is_some() || is_given("prefix").is_some())
        {
            let expected = "either set_user, or strip and prefix";
            wrong(origin, "set_user", expected, "both".to_owned(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_to_the_thousandth() {
        let all = [
            "0", "1", "0.5", "1.000", "0.125", "0.", "1.5", "2", "0.1234", "", ".5",
        ];
        let read = all.map(|text| thousandths(text.as_bytes()));
        let none = None;
        assert_eq!(
            read,
            [
                Some(0),
                Some(1_000),
                Some(500),
                Some(1_000),
                Some(125),
                Some(0),
                none,
                none,
                none,
                none,
                none
            ]
        );
    }

    #[test]
    fn places_are_uris_alone_or_together() {
        let mut to = To::default();
        for text in ["sip:10.0.0.1:5060;transport=tcp", "<sip:b@10.0.0.2>;q=0.3"] {
            to.push(text).expect(text);
        }
        let To::Uris(places) = &to else { panic!("{to:?}") };
        let flat: Vec<_> = places.iter().map(|p| (p.uri.as_str(), p.q, p.is_whole)).collect();
        assert_eq!(
            flat,
            [
                ("sip:10.0.0.1:5060;transport=tcp", 1_000, false),
                ("sip:b@10.0.0.2", 300, true)
            ]
        );
        assert!(to.push("registered").is_err());
        for (text, hint) in [
            ("tel:+49", Some("it must be a sip: URI")),
            ("registred", Some("did you mean \"registered\"?")),
            ("<sip:a@b>;q=2", Some("q is a number from 0 to 1")),
            ("sip:a@b?subject=x", Some("headers of a URI are not sent on")),
        ] {
            assert_eq!(To::default().push(text), Err(hint.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_forwarding_writes_itself_is_not_a_rules_to_change() {
        assert_eq!(changeable("X-A"), Ok("X-A".to_owned()));
        for name in ["Via", "v", "call-id", "Record-Route"] {
            assert!(matches!(changeable(name), Err(Some(_))), "{name}");
        }
        assert!(HeaderLine::parse("X: a\r\nVia: b").is_err());
        assert!(HeaderLine::parse("no colon").is_err());
    }
}
