//! Every key of a rule, once: as [`schema::KEYS`](crate::config::schema::KEYS) for the keys that stand in the file once.

use crate::config::key::{Key, Kind};
use crate::config::pattern::{PATTERN, Pattern};
use crate::config::route::{
    self, Action, Fork, HEADER_LINE, HEADER_MATCH, HEADER_NAME, HOST, HeaderLine, HeaderMatch, HostMatch,
    NETWORK, Network, Route, TO, To,
};
use crate::config::value::{LISTEN, Listen};

/// What the table is called in the file, and what it is about.
pub const TABLE: (&str, &str) = (
    "route",
    "A rule of the routing table; there may be many, each beginning with [[route]]. A request goes by the first rule that \
     matches: every key before action that is given must. Requests that no rule matches go to the phone service, as all do \
     when there is no rule. Requests of calls that are under way go where the call went.",
);

macro_rules! texts {
    ($item:expr, $($at:ident).+, $parse:expr) => {
        Kind::Texts {
            item: $item,
            get: |r| r.$($at).+.iter().map(ToString::to_string).collect(),
            clear: |r| r.$($at).+.clear(),
            push: |r, text, _| {
                r.$($at).+.push($parse(text)?);
                Ok(())
            },
        }
    };
}

macro_rules! text {
    ($expected:expr, $($at:ident).+, $parse:expr) => {
        Kind::Text {
            expected: $expected,
            get: |r| r.$($at).+.to_string(),
            set: |r, text| {
                r.$($at).+ = if text.is_empty() { String::new() } else { $parse(text)? };
                Ok(())
            },
        }
    };
}

macro_rules! pattern {
    ($($at:ident).+) => {
        Kind::Text {
            expected: PATTERN,
            get: |r| r.$($at).+.as_ref().map_or_else(String::new, |own| own.text().to_owned()),
            set: |r, text| {
                r.$($at).+ = if text.is_empty() { None } else { Some(Pattern::new(text)?) };
                Ok(())
            },
        }
    };
}

macro_rules! number {
    ($($at:ident).+, $min:expr, $max:expr) => {
        Kind::Integer { min: $min, max: $max, get: |r| r.$($at).+ as u64, set: |r, n| r.$($at).+ = n as _ }
    };
}

macro_rules! switch {
    ($($at:ident).+) => {
        Kind::Switch { get: |r| r.$($at).+, set: |r, on| r.$($at).+ = on }
    };
}

const USER: &str = r#"a user part or number such as "alice" or "+4930123""#;

pub static ROUTE_KEYS: &[Key<Route>] = &[
    Key {
        section: "route",
        name: "name",
        unit: "",
        kind: text!("a text", name, route::reason),
        meaning: "What logs and explanations call the rule.",
    },
    Key {
        section: "route",
        name: "listener",
        unit: "",
        kind: Kind::Texts {
            item: LISTEN,
            get: |r| r.listeners.iter().map(Listen::to_string).collect(),
            clear: |r| r.listeners.clear(),
            push: |r, text, origin| {
                r.listeners.push(Listen::parse(text, origin)?);
                Ok(())
            },
        },
        meaning: "Match: it came in on one of these entries of listen.",
    },
    Key {
        section: "route",
        name: "source",
        unit: "",
        kind: texts!(NETWORK, sources, Network::parse),
        meaning: "Match: it came from one of these addresses or networks.",
    },
    Key {
        section: "route",
        name: "method",
        unit: "",
        kind: Kind::Texts {
            item: r#"a method such as "INVITE""#,
            get: |r| r.methods.texts.clone(),
            clear: |r| r.methods = route::Methods::default(),
            push: |r, text, _| r.methods.push(text),
        },
        meaning: "Match: its method is one of these.",
    },
    Key {
        section: "route",
        name: "scheme",
        unit: "",
        kind: texts!(r#"a scheme such as "sip" or "tel""#, schemes, route::scheme),
        meaning: "Match: the scheme of its request URI is one of these.",
    },
    Key {
        section: "route",
        name: "user",
        unit: "",
        kind: texts!(USER, request_uri.users, route::user),
        meaning: "Match: the user part of its request URI is one of these.",
    },
    Key {
        section: "route",
        name: "user_prefix",
        unit: "",
        kind: texts!(USER, request_uri.prefixes, route::user),
        meaning: "Match: the user part of its request URI begins with one of these.",
    },
    Key {
        section: "route",
        name: "user_pattern",
        unit: "",
        kind: pattern!(request_uri.pattern),
        meaning: "Match: the whole user part of its request URI matches this.",
    },
    Key {
        section: "route",
        name: "host",
        unit: "",
        kind: texts!(HOST, request_uri.hosts, HostMatch::parse),
        meaning: "Match: the host of its request URI is one of these.",
    },
    Key {
        section: "route",
        name: "from_user",
        unit: "",
        kind: texts!(USER, from.users, route::user),
        meaning: "Match: the user part of its From is one of these. Nobody has proved a From to be true.",
    },
    Key {
        section: "route",
        name: "from_user_prefix",
        unit: "",
        kind: texts!(USER, from.prefixes, route::user),
        meaning: "Match: the user part of its From begins with one of these.",
    },
    Key {
        section: "route",
        name: "from_user_pattern",
        unit: "",
        kind: pattern!(from.pattern),
        meaning: "Match: the whole user part of its From matches this.",
    },
    Key {
        section: "route",
        name: "from_host",
        unit: "",
        kind: texts!(HOST, from.hosts, HostMatch::parse),
        meaning: "Match: the host of its From is one of these.",
    },
    Key {
        section: "route",
        name: "header",
        unit: "",
        kind: texts!(HEADER_MATCH, headers, HeaderMatch::parse),
        meaning: "Match: it has all of these header fields, and where a pattern stands behind a name, a line that it matches.",
    },
    Key {
        section: "route",
        name: "action",
        unit: "",
        kind: Kind::Text {
            expected: r#""ims", "proxy", "redirect", "reject" or "drop""#,
            get: |r| r.action.text().to_owned(),
            set: |r, text| {
                r.action = Action::parse(text)?;
                Ok(())
            },
        },
        meaning: "What becomes of it: the phone service takes it, it is forwarded, answered with other places to try, answered \
                  with a failure, or dropped without an answer. Every rule needs one.",
    },
    Key {
        section: "route",
        name: "to",
        unit: "",
        kind: Kind::Texts {
            item: TO,
            get: |r| r.to.texts(),
            clear: |r| r.to = To::Nowhere,
            push: |r, text, _| r.to.push(text),
        },
        meaning: "Where it is forwarded, or the places that a redirect names. registered: to the contacts of the subscriber that \
                  the request URI names; request-uri: where that says; trunk:NAME: to a destination of the trunk. A URI with a \
                  user part takes the place of the request URI; one without only says where the request is sent.",
    },
    Key {
        section: "route",
        name: "fork",
        unit: "",
        kind: Kind::Text {
            expected: r#""by-q", "parallel" or "serial""#,
            get: |r| r.fork.text().to_owned(),
            set: |r, text| {
                r.fork = Fork::parse(text)?;
                Ok(())
            },
        },
        meaning: "The order in which several places are tried: those of equal q at once and one q after another, all at once, or \
                  one after another.",
    },
    Key {
        section: "route",
        name: "ring_s",
        unit: "seconds",
        kind: number!(ring_s, 1, 3_600),
        meaning: "How long places ring before those that come after them are tried instead.",
    },
    Key {
        section: "route",
        name: "mode",
        unit: "",
        kind: Kind::Text {
            expected: r#""stateful" or "stateless""#,
            get: |r| if r.stateless { "stateless" } else { "stateful" }.to_owned(),
            set: |r, text| {
                r.stateless = route::mode(text)?;
                Ok(())
            },
        },
        meaning: "Stateless forwards messages one by one, keeps no transaction, and so neither repeats, forks nor tries again.",
    },
    Key {
        section: "route",
        name: "record_route",
        unit: "",
        kind: switch!(record_route),
        meaning: "Whether later requests of the dialog come through here too.",
    },
    Key {
        section: "route",
        name: "add_path",
        unit: "",
        kind: switch!(add_path),
        meaning: "Whether calls to a phone that registers through here come through here too: a REGISTER that says Supported: path gets our \
                  URI in its Path (RFC 3327). Where the phone itself has sent it that names its connection or UDP flow, so that calls \
                  reach it behind a NAT (RFC 5626).",
    },
    Key {
        section: "route",
        name: "recurse",
        unit: "",
        kind: switch!(recurse),
        meaning: "Whether the contacts of a 3xx answer are tried here, rather than passed back to the caller.",
    },
    Key {
        section: "route",
        name: "tcp_when_large",
        unit: "",
        kind: switch!(tcp_when_large),
        meaning: "Whether a request of more than 1,300 bytes goes over TCP where UDP was not asked for by name (RFC 3261 section \
                  18.1.1), and over UDP after all where TCP is refused. Holds for later requests of a dialog that the rule records, \
                  too, but for the ACK of a 2xx, of which nobody would hear that TCP is refused.",
    },
    Key {
        section: "route",
        name: "strip",
        unit: "characters",
        kind: number!(rewrite.strip, 0, 64),
        meaning: "Taken from the front of the request URI's user part.",
    },
    Key {
        section: "route",
        name: "prefix",
        unit: "",
        kind: text!(USER, rewrite.prefix, route::user),
        meaning: "Put before what is left of the user part.",
    },
    Key {
        section: "route",
        name: "set_user",
        unit: "",
        kind: text!(USER, rewrite.user, route::user),
        meaning: "Put in the place of the user part. Empty: nothing is.",
    },
    Key {
        section: "route",
        name: "set_host",
        unit: "",
        kind: text!(r#""HOST" or "HOST:PORT""#, rewrite.host, route::host_port),
        meaning: "Put in the place of the request URI's host and port. Empty: nothing is.",
    },
    Key {
        section: "route",
        name: "set_header",
        unit: "",
        kind: texts!(HEADER_LINE, rewrite.set, HeaderLine::parse),
        meaning: "Header lines put in the place of all lines of their names.",
    },
    Key {
        section: "route",
        name: "add_header",
        unit: "",
        kind: texts!(HEADER_LINE, rewrite.add, HeaderLine::parse),
        meaning: "Header lines that are added; in a redirect or rejection, to the answer.",
    },
    Key {
        section: "route",
        name: "remove_header",
        unit: "",
        kind: texts!(HEADER_NAME, rewrite.remove, route::changeable),
        meaning: "Names of header fields whose lines are left out.",
    },
    Key {
        section: "route",
        name: "code",
        unit: "status",
        kind: number!(code, 0, 699),
        meaning: "The status of the answer. 0: 302 for a redirect, 403 for a rejection.",
    },
    Key {
        section: "route",
        name: "reason",
        unit: "",
        kind: text!("a reason phrase", reason, route::reason),
        meaning: "The reason phrase of the answer. Empty: that of the code.",
    },
    Key {
        section: "route",
        name: "retry_after_s",
        unit: "seconds",
        kind: number!(retry_after_s, 0, 1 << 30),
        meaning: "When to try again, as a rejection says it. 0: it says nothing.",
    },
];
