//! `[[trunk]]`: servers that stand for one another, and how calls are spread over them.

use std::time::Duration;

use super::key::{Key, Kind};
use super::value::{Wrong, did_you_mean, near_miss};
use crate::msg::lex;
use crate::msg::uri::{Scheme, Uri};

/// Most trunks of one process.
pub const TRUNKS_MAX: usize = 256;
/// Most destinations of one trunk.
pub const DESTINATIONS_MAX: usize = 32;

/// How a destination is chosen among those of one priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Select {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Drawn by weight.
    Weight,
    /// By the Call-ID: the same call always goes to the same destination, and when one goes only its calls move.
    Hash,
    /// The one with the fewest calls for its weight.
    LeastCalls,
}

pub const SELECTS: &[&str] = &["round-robin", "weight", "hash", "least-calls"];

impl Select {
    pub const fn text(self) -> &'static str {
        match self {
            Select::RoundRobin => "round-robin",
            Select::Weight => "weight",
            Select::Hash => "hash",
            Select::LeastCalls => "least-calls",
        }
    }

    pub fn parse(text: &str) -> Result<Select, Wrong> {
        match text {
            "round-robin" => Ok(Select::RoundRobin),
            "weight" => Ok(Select::Weight),
            "hash" => Ok(Select::Hash),
            "least-calls" => Ok(Select::LeastCalls),
            _ => Err(near_miss(text, SELECTS.iter().copied()).and_then(did_you_mean)),
        }
    }
}

/// One server, or one name that DNS knows servers for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    pub uri: String,
    /// Lower ones are tried first.
    pub priority: u16,
    pub weight: u16,
    /// 0: no limit of its own.
    pub calls_max: u32,
    /// 0: no limit of its own.
    pub calls_per_second_max: u32,
}

/// What is taken for an entry of `destinations`.
pub const DESTINATION: &str = r#"a URI, then any of priority=N, weight=N, calls=N, cps=N, such as "sip:10.0.0.1:5060;transport=tcp priority=2 weight=10""#;

impl Destination {
    pub fn parse(text: &str) -> Result<Destination, Wrong> {
        let mut words = text.split_whitespace();
        let uri = words.next().ok_or(None)?;
        let parsed = Uri::parse(uri.as_bytes()).map_err(|_| None)?;
        if parsed.scheme != Scheme::Sip {
            return Err(Some("it must be a sip: URI".to_owned()));
        }
        if parsed.user.is_some() || !parsed.headers.is_empty() {
            return Err(Some(
                "it says only where to: no user part and no headers".to_owned(),
            ));
        }
        let known = parsed.params_iter().all(|(name, _)| {
            [b"transport".as_slice(), b"maddr", b"lr"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
        });
        if !known {
            return Err(Some(
                "of URI parameters only transport and maddr mean something here".to_owned(),
            ));
        }
        let mut destination = Destination {
            uri: uri.to_owned(),
            priority: 1,
            weight: 1,
            calls_max: 0,
            calls_per_second_max: 0,
        };
        for word in words {
            let (name, value) = word.split_once('=').ok_or(None)?;
            let number = lex::number(value.as_bytes()).ok_or(Some(format!("{name} is a number")))?;
            let small = u16::try_from(number);
            let too_large = || Some(format!("{name} is at most {}", u16::MAX));
            match name {
                "priority" => destination.priority = small.map_err(|_| too_large())?,
                "weight" => destination.weight = small.map_err(|_| too_large())?,
                "calls" => destination.calls_max = number,
                "cps" if number <= CALLS_PER_SECOND_MAX => destination.calls_per_second_max = number,
                "cps" => return Err(Some(format!("cps is at most {CALLS_PER_SECOND_MAX}"))),
                _ => {
                    let names = ["priority", "weight", "calls", "cps"];
                    return Err(near_miss(name, names.into_iter()).and_then(did_you_mean));
                }
            }
        }
        Ok(destination)
    }

    pub fn text(&self) -> String {
        let mut text = self.uri.clone();
        let mut add = |name: &str, value: u32, default: u32| {
            if value != default {
                text.push_str(&format!(" {name}={value}"));
            }
        };
        add("priority", self.priority.into(), 1);
        add("weight", self.weight.into(), 1);
        add("calls", self.calls_max, 0);
        add("cps", self.calls_per_second_max, 0);
        text
    }
}

const CALLS_PER_SECOND_MAX: u32 = 1_000_000;

/// A set of final status codes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Codes(pub Vec<CodeMatch>);

/// One status code, or all of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeMatch {
    One(u16),
    /// `4` for 400 to 499.
    Class(u16),
}

/// What is taken for a code.
pub const CODE: &str = r#"a final status code such as "503", or a class such as "5xx""#;

impl CodeMatch {
    pub fn parse(text: &str) -> Result<CodeMatch, Wrong> {
        if let Some(class) = text.strip_suffix("xx") {
            let class = class.parse().ok().filter(|class| (2..=6).contains(class));
            return class.map(CodeMatch::Class).ok_or(None);
        }
        let code = text.parse().ok().filter(|code| (200..=699).contains(code));
        code.map(CodeMatch::One).ok_or(None)
    }
}

impl std::fmt::Display for CodeMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CodeMatch::One(code) => write!(f, "{code}"),
            CodeMatch::Class(class) => write!(f, "{class}xx"),
        }
    }
}

impl Codes {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|code| match code {
            CodeMatch::One(code) => *code == status,
            CodeMatch::Class(class) => *class == status / 100,
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trunk {
    pub name: String,
    pub destinations: Vec<Destination>,
    pub select: Select,
    /// How long a destination may keep silent before the next is tried.
    pub answer_timeout: Duration,
    /// Final responses after which the next destination is tried.
    pub failover: Codes,
    /// How long a destination that kept silent or could not be reached comes last.
    pub hold_down: Duration,
    /// Seconds in the Retry-After of what it refuses; 0: none.
    pub retry_after_s: u32,
    /// 0: no limit.
    pub calls_max: u32,
    /// 0: no limit.
    pub calls_per_second_max: u32,
    /// Zero: no OPTIONS is sent.
    pub ping_interval: Duration,
    /// Which answers to OPTIONS say that the destination is alive.
    pub ping_alive: Codes,
    /// How long an answer to OPTIONS may take.
    pub ping_timeout: Duration,
    /// Answers in a row that bring a destination up again.
    pub up_after: u8,
    /// Failures in a row that take it down.
    pub down_after: u8,
    /// Whether RFC 7339 overload control is offered.
    pub overload_control: bool,
}

impl Default for Trunk {
    fn default() -> Trunk {
        Trunk {
            name: String::new(),
            destinations: Vec::new(),
            select: Select::default(),
            answer_timeout: Duration::from_secs(4),
            failover: Codes(vec![CodeMatch::One(503)]),
            hold_down: Duration::from_secs(10),
            retry_after_s: 0,
            calls_max: 0,
            calls_per_second_max: 0,
            ping_interval: Duration::ZERO,
            ping_alive: Codes(vec![
                CodeMatch::Class(2),
                CodeMatch::Class(3),
                CodeMatch::Class(4),
            ]),
            ping_timeout: Duration::from_secs(2),
            up_after: 2,
            down_after: 3,
            overload_control: true,
        }
    }
}

/// What the table is called in the file, and what it is about.
pub(super) const TRUNK_TABLE: (&str, &str) = (
    "trunk",
    "Servers that stand for one another; there may be many, each beginning with [[trunk]]. A rule sends requests there by \
     to = [\"trunk:NAME\"]. Counts are of the whole process. When no destination may be used requests get 503.",
);

macro_rules! codes {
    ($at:ident) => {
        Kind::Texts {
            item: CODE,
            get: |t| t.$at.0.iter().map(ToString::to_string).collect(),
            clear: |t| t.$at.0.clear(),
            push: |t, text, _| {
                t.$at.0.push(CodeMatch::parse(text)?);
                Ok(())
            },
        }
    };
}

macro_rules! number {
    ($at:ident, $min:expr, $max:expr) => {
        Kind::Integer {
            min: $min,
            max: $max,
            get: |t| t.$at as u64,
            set: |t, n| t.$at = n as _,
        }
    };
}

macro_rules! millis {
    ($at:ident, $min:expr, $max:expr) => {
        Kind::Integer {
            min: $min,
            max: $max,
            get: |t| t.$at.as_millis() as u64,
            set: |t, n| t.$at = Duration::from_millis(n),
        }
    };
}

const DAY_MS: u64 = 86_400_000;

/// Every key of a trunk, once.
pub static TRUNK_KEYS: &[Key<Trunk>] = &[
    Key {
        section: "trunk",
        name: "name",
        unit: "",
        kind: Kind::Text {
            expected: "a name of letters, digits, hyphens, dots and underscores",
            get: |t| t.name.clone(),
            set: |t, text| {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                if text.len() > 64 || !text.bytes().all(fits) {
                    return Err(None);
                }
                t.name = text.to_owned();
                Ok(())
            },
        },
        meaning: "What rules, metrics and logs call the trunk. Each trunk needs one of its own.",
    },
    Key {
        section: "trunk",
        name: "destinations",
        unit: "",
        kind: Kind::Texts {
            item: DESTINATION,
            get: |t| t.destinations.iter().map(Destination::text).collect(),
            clear: |t| t.destinations.clear(),
            push: |t, text, _| {
                t.destinations.push(Destination::parse(text)?);
                Ok(())
            },
        },
        meaning: "The servers, 1 to 32. Those of the lowest priority number come first, the others when none of these may be \
                  used; calls and cps are limits of one destination: calls at once, and new calls a second.",
    },
    Key {
        section: "trunk",
        name: "select",
        unit: "",
        kind: Kind::Text {
            expected: r#""round-robin", "weight", "hash" or "least-calls""#,
            get: |t| t.select.text().to_owned(),
            set: |t, text| {
                t.select = Select::parse(text)?;
                Ok(())
            },
        },
        meaning: "How one is chosen among those of one priority: in turn, drawn by weight, by the Call-ID (when a \
                  destination goes, only its calls move), or the one with the fewest calls for its weight.",
    },
    Key {
        section: "trunk",
        name: "answer_timeout_ms",
        unit: "milliseconds",
        kind: millis!(answer_timeout, 100, 64_000),
        meaning: "How long a destination may keep silent before the next one is tried. Any response ends the wait.",
    },
    Key {
        section: "trunk",
        name: "failover",
        unit: "",
        kind: codes!(failover),
        meaning: "Final responses after which the next destination is tried. A time-out and a destination that can't be \
                  reached always count.",
    },
    Key {
        section: "trunk",
        name: "hold_down_ms",
        unit: "milliseconds",
        kind: millis!(hold_down, 0, DAY_MS),
        meaning: "How long a destination that kept silent or could not be reached is tried only after all others. One that \
                  says 503 with Retry-After is not tried at all for the time that it says.",
    },
    Key {
        section: "trunk",
        name: "calls_max",
        unit: "calls",
        kind: number!(calls_max, 0, u32::MAX as u64),
        meaning: "Calls at once over this trunk; beyond it 503. 0: no limit.",
    },
    Key {
        section: "trunk",
        name: "calls_per_second_max",
        unit: "calls a second",
        kind: number!(calls_per_second_max, 0, CALLS_PER_SECOND_MAX as u64),
        meaning: "New calls a second over this trunk, of which those of a tenth of a second may come at once; beyond it 503. 0: \
                  no limit.",
    },
    Key {
        section: "trunk",
        name: "retry_after_s",
        unit: "seconds",
        kind: number!(retry_after_s, 0, 3_600),
        meaning: "The Retry-After of the 503 that a call gets where the trunk is full or none of its destinations may be used. 0: \
                  none, so that who sent the call tries another server of its own for this one and goes on sending others here \
                  (RFC 3261 section 21.5.4). With it nothing at all is sent here for that time, whatever it is for: where all \
                  comes for this trunk.",
    },
    Key {
        section: "trunk",
        name: "ping_interval_ms",
        unit: "milliseconds",
        kind: millis!(ping_interval, 0, DAY_MS),
        meaning: "How often each destination is sent OPTIONS, give or take a tenth. 0: never; then all count as up.",
    },
    Key {
        section: "trunk",
        name: "ping_alive",
        unit: "",
        kind: codes!(ping_alive),
        meaning: "Answers to OPTIONS that say that the destination is alive.",
    },
    Key {
        section: "trunk",
        name: "ping_timeout_ms",
        unit: "milliseconds",
        kind: millis!(ping_timeout, 10, 32_000),
        meaning: "How long the answer to OPTIONS may take; afterwards it counts as a failure.",
    },
    Key {
        section: "trunk",
        name: "up_after",
        unit: "answers",
        kind: number!(up_after, 1, 100),
        meaning: "Answers in a row after which a destination that was down is used again.",
    },
    Key {
        section: "trunk",
        name: "down_after",
        unit: "failures",
        kind: number!(down_after, 1, 100),
        meaning: "Failed OPTIONS in a row after which a destination is no longer used.",
    },
    Key {
        section: "trunk",
        name: "overload_control",
        unit: "",
        kind: Kind::Switch {
            get: |t| t.overload_control,
            set: |t, on| t.overload_control = on,
        },
        meaning: "Whether requests offer overload control (RFC 7339, loss-based), and fewer are sent when a destination asks for it.",
    },
];
