//! The routing table at work: which rule a request goes by, and what the rule changes in it.
//!
//! Rules are looked at from the top, each key of a rule in the order of what it costs; nothing is allocated. [`rewrite`]
//! carries out what a rule changes, [`explain`] says in words what a table does.

pub mod explain;
pub mod rewrite;

use crate::config::Config;
use crate::config::route::{HeaderMatch, Route, UriMatch};
use crate::msg::name::Name;
use crate::msg::request::Request;
use crate::msg::scan::Message;
use crate::msg::uri::{Scheme, Uri, tel_digits, unescaped};
use crate::wire::Flow;

/// Bytes of a user part that are compared without their escapes; of a longer one the escapes stay.
const USER_BYTES_MAX: usize = 256;

/// The first rule that `request`, which came over `flow`, matches.
pub fn find<'c>(cfg: &'c Config, request: &Request<'_>, flow: Flow) -> Option<&'c Route> {
    find_index(cfg, request, flow).and_then(|index| cfg.routes.get(index))
}

/// Its place in the table.
pub fn find_index(cfg: &Config, request: &Request<'_>, flow: Flow) -> Option<usize> {
    let mut facts = Facts::new(request, flow);
    cfg.routes.iter().position(|route| facts.match_rule(route))
}

/// What rules ask for, each worked out once and when the first rule asks.
struct Facts<'r, 'm> {
    request: &'r Request<'m>,
    flow: Flow,
    to_user: User,
    /// `None`: not looked at yet. Inside: the From may be of a scheme or form that has no parts.
    from: Option<Option<Uri<'m>>>,
    from_user: User,
}

impl<'r, 'm> Facts<'r, 'm> {
    fn new(request: &'r Request<'m>, flow: Flow) -> Facts<'r, 'm> {
        Facts {
            request,
            flow,
            to_user: User::new(),
            from: None,
            from_user: User::new(),
        }
    }

    fn match_rule(&mut self, route: &Route) -> bool {
        let request = self.request;
        let is_here = route.listeners.is_empty()
            || route.listener_bits & 1_u64.checked_shl(self.flow.listener.0.into()).unwrap_or(0) != 0;
        is_here
            && route.methods.matches(request.method, request.method_text)
            && (route.sources.is_empty()
                || (route.sources.iter()).any(|source| source.contains(self.flow.peer.ip())))
            && (route.schemes.is_empty()
                || (route.schemes.iter()).any(|own| {
                    request
                        .request_uri
                        .scheme_text
                        .eq_ignore_ascii_case(own.as_bytes())
                }))
            && match_uri(&route.request_uri, &request.request_uri, &mut self.to_user)
            && self.match_from(&route.from)
            && (route.headers.iter()).all(|header| match_header(header, &request.msg))
    }

    fn match_from(&mut self, from: &UriMatch) -> bool {
        if *from == UriMatch::default() {
            return true;
        }
        let uri = self.from.get_or_insert_with(|| self.request.from.uri().ok());
        match uri {
            Some(uri) => match_uri(from, uri, &mut self.from_user),
            None => false,
        }
    }
}

fn match_uri(wanted: &UriMatch, uri: &Uri<'_>, user: &mut User) -> bool {
    if !wanted.hosts.is_empty() && !wanted.hosts.iter().any(|host| host.matches(uri.host)) {
        return false;
    }
    let is_for_any = wanted.users.is_empty() && wanted.prefixes.is_empty() && wanted.pattern.is_none();
    if is_for_any {
        return true;
    }
    let Some(user) = user.of(uri) else { return false };
    (wanted.users.is_empty() || wanted.users.iter().any(|own| own.as_bytes() == user))
        && (wanted.prefixes.is_empty() || wanted.prefixes.iter().any(|own| user.starts_with(own.as_bytes())))
        && wanted
            .pattern
            .as_ref()
            .is_none_or(|pattern| pattern.matches(user))
}

fn match_header(wanted: &HeaderMatch, msg: &Message<'_>) -> bool {
    let name = Name::lookup(wanted.name.as_bytes());
    msg.lines_of(name)
        .filter(|line| {
            name != Name::Other || msg.name_bytes(line).eq_ignore_ascii_case(wanted.name.as_bytes())
        })
        .any(|line| (wanted.pattern.as_ref()).is_none_or(|pattern| pattern.matches(msg.value_of(line))))
}

/// The user part of one URI in the form that compares: RFC 3261 §19.1.4 resolves escapes, RFC 3966 §4 leaves the separators
/// of a number out. Else `%2B49` would pass by a rule for `+49`.
struct User {
    bytes: [u8; USER_BYTES_MAX],
    len: Option<usize>,
}

impl User {
    const fn new() -> User {
        User {
            bytes: [0; USER_BYTES_MAX],
            len: None,
        }
    }

    /// `uri` must be the same each time.
    fn of<'s>(&'s mut self, uri: &Uri<'s>) -> Option<&'s [u8]> {
        let raw = uri.user?;
        if raw.len() > USER_BYTES_MAX {
            return Some(raw);
        }
        let len = *self.len.get_or_insert_with(|| {
            let mut len = 0;
            let mut put = |byte| {
                self.bytes[len] = byte;
                len += 1;
            };
            match uri.scheme {
                Scheme::Tel => tel_digits(raw).for_each(&mut put),
                Scheme::Sip | Scheme::Sips | Scheme::Other => unescaped(raw).for_each(&mut put),
            }
            len
        });
        Some(&self.bytes[..len])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Machine, load};
    use crate::msg::scan::{Table, scan};
    use crate::wire::{ListenerId, Transport};

    pub(super) fn config(text: &str) -> Config {
        let machine = Machine {
            cpus: Vec::new(),
            parallelism: 1,
            memory_bytes: None,
            files_max: None,
            primary_v4: None,
            primary_v6: None,
        };
        match load(Some((Path::new("r.toml"), text)), &[], &machine) {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("{errors}"),
        }
    }

    /// The place of the rule that `start` from 10.0.0.7 goes by.
    fn rule(cfg: &Config, start: &str, lines: &str) -> Option<usize> {
        let method = start.split(' ').next().unwrap_or_default();
        let text = format!(
            "{start} SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: \"A\" <sip:bob@home.example>;tag=1\r\n\
             To: <sip:b@b>\r\nCall-ID: x\r\nCSeq: 1 {method}\r\n{lines}\r\n"
        );
        let mut table = Table::new();
        scan(text.as_bytes(), &mut table).expect("well-formed");
        let request = Request::check(Message::new(text.as_bytes(), &table)).expect("whole");
        let flow = Flow {
            transport: Transport::Udp,
            listener: ListenerId(1),
            peer: "10.0.0.7:5060".parse().expect("an address"),
            conn: None,
        };
        find_index(cfg, &request, flow)
    }

    /// A table of one rule with these keys.
    fn matches(keys: &str, start: &str, lines: &str) -> bool {
        let cfg = config(&format!("[[route]]\naction = \"drop\"\n{keys}"));
        rule(&cfg, start, lines).is_some()
    }

    #[test]
    fn every_key_that_is_given_must_match() {
        let invite = "INVITE sip:+4930123@gw.example.com:5070;user=phone";
        for (keys, expected) in [
            ("", true),
            ("listener = [\"tcp:127.0.0.1:5060\"]", true),
            ("listener = [\"udp:127.0.0.1:5060\"]", false),
            ("source = [\"192.0.2.1\", \"10.0.0.0/8\"]", true),
            ("source = [\"192.0.2.1\"]", false),
            ("method = [\"REGISTER\", \"INVITE\"]", true),
            ("method = [\"REGISTER\"]", false),
            ("scheme = [\"sip\"]", true),
            ("scheme = [\"tel\", \"sips\"]", false),
            ("user = [\"+4930123\"]", true),
            ("user = [\"+493012\"]", false),
            ("user_prefix = [\"0\", \"+49\"]", true),
            ("user_prefix = [\"0\"]", false),
            ("user_pattern = \"[+]\\\\d+\"", true),
            ("user_pattern = \"\\\\d+\"", false),
            ("host = [\"*.example.com\"]", true),
            ("host = [\"example.com\"]", false),
            ("from_user = [\"bob\"]", true),
            ("from_user = [\"Bob\"]", false),
            ("from_user_prefix = [\"b\"]", true),
            ("from_user_pattern = \"b.b\"", true),
            ("from_host = [\"Home.example\"]", true),
            ("from_host = [\"away.example\"]", false),
            ("header = [\"x-tenant\"]", true),
            ("header = [\"X-Tenant: gold.*\", \"k: 100rel\"]", true),
            ("header = [\"X-Tenant: gold\"]", false),
            ("header = [\"X-Tenant\", \"Privacy\"]", false),
            ("user_prefix = [\"+49\"]\nhost = [\"other.example\"]", false),
        ] {
            let lines = "X-TENANT: bronze\r\nX-Tenant:  gold-7\r\nSupported: 100rel\r\n";
            assert_eq!(matches(keys, invite, lines), expected, "{keys}");
        }
    }

    #[test]
    fn escapes_and_separators_hide_no_number() {
        let keys = "user_prefix = [\"+49\"]";
        for (start, expected) in [
            ("INVITE sip:%2B4930@a", true),
            ("INVITE sip:%2b%34%39@a", true),
            ("INVITE tel:+4-9-30", true),
            ("INVITE tel:+(49)30", true),
            ("INVITE sip:4930@a", false),
            ("INVITE sip:a", false),
            ("INVITE urn:service:sos", false),
        ] {
            assert_eq!(matches(keys, start, ""), expected, "{start}");
        }
        let long = format!("INVITE sip:+49{}@a", "1".repeat(5_000));
        assert!(matches(keys, &long, ""));
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let cfg = config(
            "[[route]]\nmethod = [\"INVITE\"]\nuser = [\"a\"]\naction = \"drop\"\n\
             [[route]]\nmethod = [\"INVITE\"]\naction = \"ims\"\n[[route]]\nuser = [\"a\"]\naction = \"drop\"\n",
        );
        assert_eq!(rule(&cfg, "INVITE sip:a@b", ""), Some(0));
        assert_eq!(rule(&cfg, "INVITE sip:b@b", ""), Some(1));
        assert_eq!(rule(&cfg, "MESSAGE sip:a@b", ""), Some(2));
        assert_eq!(rule(&cfg, "MESSAGE sip:b@b", ""), None);
        assert_eq!(rule(&config(""), "INVITE sip:a@b", ""), None);
    }

    #[test]
    fn methods_of_all_kinds_match_by_their_bytes() {
        let keys = "method = [\"FROB\"]";
        assert!(matches(keys, "FROB sip:a", ""));
        assert!(!matches(keys, "FROBS sip:a", ""));
        assert!(!matches("method = [\"INVITE\"]", "FROB sip:a", ""));
    }
}
