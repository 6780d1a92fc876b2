//! Every key there is, once: its place in the file, its type, unit and range, where it lives in [`Config`](super::Config)
//! and what it means. Parsing, range checks, error texts and the example file all follow from [`KEYS`]; the default of a
//! key is what [`Settings::default`] holds.

use std::time::Duration;

use super::Origin;
use super::dns;
use super::load::Settings;
use super::value::{self, Advertise, Listen, Wrong};
use crate::wire::SHARDS_MAX;

/// One key of the file, or of a table that stands in it more than once; its value lives in an `S`.
pub struct Key<S = Settings> {
    /// The section; empty for the keys before the first section.
    pub section: &'static str,
    pub name: &'static str,
    /// What a number counts; empty for what is no number.
    pub unit: &'static str,
    pub kind: Kind<S>,
    pub meaning: &'static str,
}

/// The type of a key, with how to read and write its place.
pub enum Kind<S = Settings> {
    /// True or false.
    Switch {
        get: fn(&S) -> bool,
        set: fn(&mut S, bool),
    },
    /// A whole number in the unit of the key; both bounds are legal.
    Integer {
        min: u64,
        max: u64,
        get: fn(&S) -> u64,
        set: fn(&mut S, u64),
    },
    Integers {
        min: u64,
        max: u64,
        get: fn(&S) -> Vec<u64>,
        set: fn(&mut S, Vec<u64>),
    },
    Text {
        expected: &'static str,
        get: fn(&S) -> String,
        set: fn(&mut S, &str) -> Result<(), Wrong>,
    },
    /// A list of texts, each of which is `item`.
    Texts {
        item: &'static str,
        get: fn(&S) -> Vec<String>,
        clear: fn(&mut S),
        push: fn(&mut S, &str, Origin) -> Result<(), Wrong>,
    },
}

impl<S> Key<S> {
    /// The name with its section, as errors show it.
    pub fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }

    /// What a value must be.
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Switch { .. } => "true or false".to_owned(),
            Kind::Integer { min, max, .. } => {
                format!(
                    "an integer from {} to {} ({})",
                    number(min),
                    number(max),
                    self.unit
                )
            }
            Kind::Integers { min, max, .. } => {
                format!("a list of integers from {} to {}", number(min), number(max))
            }
            Kind::Text { expected, .. } => expected.to_owned(),
            Kind::Texts { item, .. } => format!("a list of texts, each {item}"),
        }
    }

    /// The value in `settings` as TOML.
    pub fn toml(&self, settings: &S) -> String {
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        match self.kind {
            Kind::Switch { get, .. } => get(settings).to_string(),
            Kind::Integer { get, .. } => number(get(settings)),
            Kind::Integers { get, .. } => list(get(settings).into_iter().map(number).collect()),
            Kind::Text { get, .. } => quoted(&get(settings)),
            Kind::Texts { get, .. } => list(get(settings).iter().map(|text| quoted(text)).collect()),
        }
    }
}

impl Key {
    /// The value for people and logs: as [`Key::toml`], but a secret stays one.
    pub fn shown(&self, settings: &Settings) -> String {
        if matches!(self.name, "token" | "password" | "secret") {
            return "(secret)".to_owned();
        }
        self.toml(settings)
    }
}

/// A number as the file writes it: thousands set apart from 10,000 on.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// A TOML basic string. Log filters alone can hold a quotation mark or a backslash.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The sections in the order of the example file, with what each is about.
pub const SECTIONS: &[(&str, &str)] = &[
    (
        "",
        "Where ringway listens, what it calls its own, and how it runs.",
    ),
    ("log", "The log goes to standard error."),
    (
        "histograms",
        "What the server times (time in the server by kind of message, INVITE to 180 and to 200, ...), interval by interval in \
         files that HdrHistogram's readers and plotters open.",
    ),
    (
        "admin",
        "How a running server is asked what it does, and told what to do.",
    ),
    ("udp", "What is special to UDP."),
    (
        "timers",
        "The timers of RFC 3261 table 4; the others follow from t1_ms.",
    ),
    (
        "limits",
        "What may be used at most. At a limit a request is refused with 503, or what arrived is dropped and counted. \
         Counts are of the whole process and are shared out evenly to the shards, except where a limit is of one thing.",
    ),
    (
        "overload",
        "What a shard does that gets more than it can handle: it refuses new requests at the door, calls first, then MESSAGE and \
         OPTIONS, SUBSCRIBE, REGISTER, emergency calls last; never what belongs to a call or transaction that it has taken up.",
    ),
    ("registrar", "Registrations, RFC 3261 section 10."),
    (
        "reg_event",
        "Subscriptions to the state of a registration, RFC 3680.",
    ),
    (
        "records",
        "Call records: one line of JSON for each call that is over, in files of a directory.",
    ),
    (
        "session_timers",
        "How calls end whose phones have vanished, RFC 4028: the phones refresh, and ringway hangs up when they did not.",
    ),
    (
        "hep",
        "Copies of messages for a collector that speaks HEPv3, such as Homer or sngrep -L: both legs of a call under the Call-ID of its \
         caller.",
    ),
    (
        "dns",
        "How host names become addresses, RFC 3263: NAPTR, SRV, AAAA and A.",
    ),
];

macro_rules! switch {
    ($($at:ident).+) => {
        Kind::Switch { get: |s| s.config.$($at).+, set: |s, on| s.config.$($at).+ = on }
    };
}

/// The bounds must fit the field's type; a test sets both.
macro_rules! count {
    ($($at:ident).+, $min:expr, $max:expr) => {
        Kind::Integer { min: $min, max: $max, get: |s| s.config.$($at).+ as u64, set: |s, n| s.config.$($at).+ = n as _ }
    };
}

macro_rules! millis {
    ($($at:ident).+, $min:expr, $max:expr) => {
        Kind::Integer {
            min: $min,
            max: $max,
            get: |s| s.config.$($at).+.as_millis() as u64,
            set: |s, n| s.config.$($at).+ = Duration::from_millis(n),
        }
    };
}

macro_rules! seconds {
    ($($at:ident).+, $min:expr, $max:expr) => {
        Kind::Integer {
            min: $min,
            max: $max,
            get: |s| s.config.$($at).+.as_secs(),
            set: |s, n| s.config.$($at).+ = Duration::from_secs(n),
        }
    };
}

/// RFC 4028 §5: no interval, and no minimum, is below.
const SESSION_MIN_S: u64 = 90;
const DAY_S: u64 = 86_400;
const YEAR_S: u64 = 365 * 86_400;
const HOUR_MS: u64 = 3_600_000;
/// More of one kind than any machine holds, and few enough for 32-bit slots.
const COUNT_MAX: u64 = 1 << 28;
/// The pool names a buffer of the smallest class by 29 bits: 512 bytes each.
const BUFFER_BYTES_MAX: u64 = 1 << 38;
/// The largest `Expires` (RFC 3261 §20.19).
const EXPIRES_MAX_S: u64 = u32::MAX as u64;
/// 423 may only be said to an interval below one hour (RFC 3261 §10.3 item 7, RFC 6665 §4.2.1.1).
const EXPIRES_MIN_MAX_S: u64 = 3_600;

pub static KEYS: &[Key] = &[
    Key {
        section: "",
        name: "listen",
        unit: "",
        kind: Kind::Texts {
            item: value::LISTEN,
            get: |s| s.listen.iter().map(Listen::to_string).collect(),
            clear: |s| s.listen.clear(),
            push: |s, text, origin| {
                s.listen.push(Listen::parse(text, origin)?);
                Ok(())
            },
        },
        meaning: "Addresses to listen on. As nobody authenticates yet, one that is not a loopback address needs \
                  open_registrar.",
    },
    Key {
        section: "",
        name: "advertise",
        unit: "",
        kind: Kind::Texts {
            item: value::ADVERTISE,
            get: |s| s.advertise.iter().map(Advertise::to_string).collect(),
            clear: |s| s.advertise.clear(),
            push: |s, text, origin| {
                s.advertise.push(Advertise::parse(text, origin)?);
                Ok(())
            },
        },
        meaning: "What Via and Contact say of us instead of the address listened on: behind NAT, or for 0.0.0.0 and [::], \
                  which otherwise say the address that this machine's default route leaves from.",
    },
    Key {
        section: "",
        name: "domains",
        unit: "",
        kind: Kind::Texts {
            item: r#"a host name such as "one.att.net" or an IP address"#,
            get: |s| s.config.domains.clone(),
            clear: |s| s.config.domains.clear(),
            push: |s, text, _| {
                s.config.domains.push(value::host(text).ok_or(None)?);
                Ok(())
            },
        },
        meaning: "Domains whose subscribers live here. Empty: every domain is taken for ours, and a subscriber is named by \
                  the user part alone.",
    },
    Key {
        section: "",
        name: "shards",
        unit: "shards",
        kind: count!(shards, 0, SHARDS_MAX as u64),
        meaning: "Threads that each serve a share of the calls. 0: one for each CPU of cpus, or for each usable CPU.",
    },
    Key {
        section: "",
        name: "cpus",
        unit: "",
        kind: Kind::Integers {
            min: 0,
            max: 8_191,
            get: |s| s.config.cpus.iter().map(|&cpu| cpu as u64).collect(),
            set: |s, cpus| s.config.cpus = cpus.into_iter().map(|cpu| cpu as usize).collect(),
        },
        meaning: "CPUs that the shards are pinned to, in turn. Empty: those that the process may run on.",
    },
    Key {
        section: "",
        name: "kernel_level",
        unit: "",
        kind: Kind::Text {
            expected: value::KERNEL_LEVEL,
            get: |s| value::kernel_level_text(s.config.kernel_level),
            set: |s, text| {
                s.config.kernel_level = value::kernel_level(text)?;
                Ok(())
            },
        },
        meaning: "Use only what a kernel of this version offers, although a newer one runs. \"auto\": whatever is found.",
    },
    Key {
        section: "",
        name: "open_registrar",
        unit: "",
        kind: switch!(open_registrar),
        meaning: "Let anybody who reaches a listener register under any name and call: nobody authenticates yet.",
    },
    Key {
        section: "",
        name: "notify_body",
        unit: "",
        kind: switch!(reg_event.notify_body),
        meaning: "Whether a NOTIFY of the reg event carries the registration as application/reginfo+xml, or is empty.",
    },
    Key {
        section: "",
        name: "drain_s",
        unit: "seconds",
        kind: seconds!(drain, 0, 86_400),
        meaning: "How long calls in progress may go on after SIGTERM or SIGINT.",
    },
    Key {
        section: "",
        name: "extensions_required",
        unit: "",
        kind: Kind::Texts {
            item: r#"an option tag such as "100rel""#,
            get: |s| s.config.extensions_required.clone(),
            clear: |s| s.config.extensions_required.clear(),
            push: |s, text, _| {
                s.config.extensions_required.push(value::option_tag(text)?);
                Ok(())
            },
        },
        meaning: "Extensions that whoever calls must support: an INVITE without them is answered 421.",
    },
    Key {
        section: "log",
        name: "level",
        unit: "",
        kind: Kind::Text {
            expected: value::LOG_FILTER,
            get: |s| s.config.log.clone(),
            set: |s, text| {
                value::log_filter(text)?;
                s.config.log = text.to_owned();
                Ok(())
            },
        },
        meaning: "What is logged: a level, or comma-separated directives of the tracing crate. At \"debug\" a call can be \
                  followed by its Call-ID.",
    },
    Key {
        section: "log",
        name: "format",
        unit: "",
        kind: Kind::Text {
            expected: r#""human" or "json""#,
            get: |s| value::log_format_text(s.config.log_format).to_owned(),
            set: |s, text| {
                s.config.log_format = value::log_format(text)?;
                Ok(())
            },
        },
        meaning: "Lines for people, or one JSON object a line. Times are UTC in both.",
    },
    Key {
        section: "histograms",
        name: "directory",
        unit: "",
        kind: Kind::Text {
            expected: "a directory",
            get: |s| s.config.histograms.directory.clone(),
            set: |s, text| {
                s.config.histograms.directory = text.to_owned();
                Ok(())
            },
        },
        meaning: "Where the files are written, ringway-SECONDS.hlog each by the Unix time at which it was begun; the directory is made \
                  where it is missing. Empty: nowhere.",
    },
    Key {
        section: "histograms",
        name: "interval_s",
        unit: "seconds",
        kind: seconds!(histograms.interval, 1, 3_600),
        meaning: "The length of an interval: each kind that was timed in it is one line of the file.",
    },
    Key {
        section: "histograms",
        name: "rotate_after_s",
        unit: "seconds",
        kind: seconds!(histograms.rotate_after, 60, YEAR_S),
        meaning: "How long one file is written to before the next is begun.",
    },
    Key {
        section: "histograms",
        name: "files_max",
        unit: "files",
        kind: count!(histograms.files_max, 1, 10_000),
        meaning: "Files that are kept; older ones are removed.",
    },
    Key {
        section: "admin",
        name: "listen",
        unit: "",
        kind: Kind::Text {
            expected: value::ADMIN_LISTEN,
            get: |s| {
                s.config
                    .admin
                    .listen
                    .map_or(String::new(), |addr| addr.to_string())
            },
            set: |s, text| {
                s.config.admin.listen = value::admin_listen(text)?;
                Ok(())
            },
        },
        meaning: "Where the live page, /metrics, /healthz, /readyz and the JSON API under /api/v1/ are served over HTTP. An address that \
                  is not loopback needs a token. That the default is taken is a warning; that another is, an error.",
    },
    Key {
        section: "admin",
        name: "token",
        unit: "",
        kind: Kind::Text {
            expected: value::ADMIN_TOKEN,
            get: |s| s.config.admin.token.clone(),
            set: |s, text| {
                s.config.admin.token = value::admin_token(text)?;
                Ok(())
            },
        },
        meaning: "What whoever asks over HTTP must present as \"Authorization: Bearer TOKEN\". Empty: nobody is asked for it.",
    },
    Key {
        section: "admin",
        name: "socket",
        unit: "",
        kind: Kind::Text {
            expected: value::PATH,
            get: |s| value::path_text(s.config.admin.socket.as_deref()),
            set: |s, text| {
                s.config.admin.socket = value::path(text)?;
                Ok(())
            },
        },
        meaning: "The unix socket that the command line asks: ringway status and others. It is for the user alone who runs the server. \
                  Empty: none.",
    },
    Key {
        section: "udp",
        name: "steering",
        unit: "",
        kind: Kind::Text {
            expected: r#""auto" or "off""#,
            get: |s| value::steering_text(s.config.udp.steering).to_owned(),
            set: |s, text| {
                s.config.udp.steering = value::steering(text)?;
                Ok(())
            },
        },
        meaning: "\"auto\": with several shards the kernel brings a datagram to the shard that owns it, by an eBPF program, \
                  where the process may load one (CAP_BPF, before Linux 5.8 CAP_SYS_ADMIN); else, and with \"off\", it goes \
                  there by mail.",
    },
    Key {
        section: "udp",
        name: "segment",
        unit: "",
        kind: Kind::Text {
            expected: value::SEGMENT,
            get: |s| value::segment_text(s.config.udp.segment).to_owned(),
            set: |s, text| {
                s.config.udp.segment = value::segment(text)?;
                Ok(())
            },
        },
        meaning: "\"auto\": where two or more messages wait for one peer they leave in one send (UDP_SEGMENT), made equal in length \
                  by white space in a line of our own. \"off\": each leaves alone, as it was written.",
    },
    Key {
        section: "udp",
        name: "gro",
        unit: "",
        kind: Kind::Text {
            expected: value::GRO,
            get: |s| value::gro_text(s.config.udp.gro).to_owned(),
            set: |s, text| {
                s.config.udp.gro = value::gro(text)?;
                Ok(())
            },
        },
        meaning: "\"auto\": datagrams of one length that one peer sent together, or that a network card gathered, are received as \
                  one (UDP_GRO), unless the kernel steers each to its shard. \"off\": each is received alone.",
    },
    Key {
        section: "timers",
        name: "t1_ms",
        unit: "milliseconds",
        kind: millis!(timers.t1, 1, 60_000),
        meaning: "T1, the round-trip estimate: the first retransmission, and 64 times it the end of a transaction.",
    },
    Key {
        section: "timers",
        name: "t2_ms",
        unit: "milliseconds",
        kind: millis!(timers.t2, 1, 600_000),
        meaning: "T2, the longest interval between retransmissions of other requests than INVITE, and of responses to INVITE.",
    },
    Key {
        section: "timers",
        name: "t4_ms",
        unit: "milliseconds",
        kind: millis!(timers.t4, 1, 600_000),
        meaning: "T4, how long a message may stay in the network.",
    },
    Key {
        section: "timers",
        name: "timer_c_ms",
        unit: "milliseconds",
        kind: millis!(timers.timer_c, 1, HOUR_MS),
        meaning: "Timer C, how long a call may ring after the last provisional response. RFC 3261 asks for more than 180 s.",
    },
    Key {
        section: "timers",
        name: "timer_d_ms",
        unit: "milliseconds",
        kind: millis!(timers.timer_d, 1, HOUR_MS),
        meaning: "Timer D, how long a refused INVITE sent over UDP absorbs repeated answers. RFC 3261 asks for 32 s or more.",
    },
    Key {
        section: "limits",
        name: "message_bytes_max",
        unit: "bytes",
        kind: count!(limits.message_bytes_max, 1_024, 65_535),
        meaning: "One message, header section and body.",
    },
    Key {
        section: "limits",
        name: "body_bytes_max",
        unit: "bytes",
        kind: count!(limits.body_bytes_max, 0, 65_535),
        meaning: "The body of one message; beyond it the answer is 413.",
    },
    Key {
        section: "limits",
        name: "transactions_max",
        unit: "transactions",
        kind: count!(limits.transactions_max, 1, COUNT_MAX),
        meaning: "Transactions at a time.",
    },
    Key {
        section: "limits",
        name: "calls_max",
        unit: "calls",
        kind: count!(limits.calls_max, 1, COUNT_MAX),
        meaning: "Calls at a time, ringing ones included.",
    },
    Key {
        section: "limits",
        name: "call_duration_max_s",
        unit: "seconds",
        kind: seconds!(limits.call_duration_max, 1, YEAR_S),
        meaning: "How long an answered call may last before both sides get a BYE.",
    },
    Key {
        section: "limits",
        name: "forks_max",
        unit: "destinations",
        kind: count!(limits.forks_max, 1, 64),
        meaning: "Destinations that one request is forked to.",
    },
    Key {
        section: "limits",
        name: "aors_max",
        unit: "subscribers",
        kind: count!(limits.aors_max, 1, COUNT_MAX),
        meaning: "Subscribers that are registered or remembered.",
    },
    Key {
        section: "limits",
        name: "contacts_per_aor_max",
        unit: "contacts",
        kind: count!(limits.contacts_per_aor_max, 1, 64),
        meaning: "Contacts that one subscriber may register.",
    },
    Key {
        section: "limits",
        name: "subscriptions_max",
        unit: "subscriptions",
        kind: count!(limits.subscriptions_max, 1, COUNT_MAX),
        meaning: "Subscriptions at a time.",
    },
    Key {
        section: "limits",
        name: "subscriptions_per_aor_max",
        unit: "subscriptions",
        kind: count!(limits.subscriptions_per_aor_max, 1, 64),
        meaning: "Subscriptions to the state of one subscriber.",
    },
    Key {
        section: "limits",
        name: "connections_max",
        unit: "connections",
        kind: count!(limits.connections_max, 1, COUNT_MAX),
        meaning: "TCP connections at a time. Unless it is set, at most what the limit on open files leaves room for.",
    },
    Key {
        section: "limits",
        name: "connections_per_source_max",
        unit: "connections",
        kind: count!(limits.connections_per_source_max, 1, COUNT_MAX),
        meaning: "TCP connections from one IP address.",
    },
    Key {
        section: "limits",
        name: "send_queue_bytes_max",
        unit: "bytes",
        kind: count!(limits.send_queue_bytes_max, 4_096, 1 << 30),
        meaning: "What may wait to be sent on one TCP connection whose peer is slow to take it; beyond it, or beyond eight times that in one turn of the loop, the connection is closed.",
    },
    Key {
        section: "limits",
        name: "send_queue_bytes_sum_max",
        unit: "bytes",
        kind: count!(limits.send_queue_bytes_sum_max, 65_536, BUFFER_BYTES_MAX),
        meaning: "What may wait to be sent on all TCP connections together. Beyond it those whose peers have taken nothing for longest are closed, and where there is none a message is dropped, counted, and its sender told. Unless it is set, at most a sixteenth of the machine's memory.",
    },
    Key {
        section: "limits",
        name: "send_stalled_ms",
        unit: "milliseconds",
        kind: millis!(limits.send_stalled, 1, HOUR_MS),
        meaning: "A TCP connection whose peer takes nothing of what waits for it for so long is closed.",
    },
    Key {
        section: "limits",
        name: "connection_idle_s",
        unit: "seconds",
        kind: seconds!(limits.connection_idle, 1, YEAR_S),
        meaning: "A TCP connection that received nothing for so long is closed.",
    },
    Key {
        section: "limits",
        name: "message_partial_ms",
        unit: "milliseconds",
        kind: millis!(limits.message_partial, 1, HOUR_MS),
        meaning: "A message that was begun on a TCP connection must be whole after so long, or the connection is closed.",
    },
    Key {
        section: "limits",
        name: "connect_timeout_ms",
        unit: "milliseconds",
        kind: millis!(limits.connect_timeout, 1, HOUR_MS),
        meaning: "How long an attempt to connect may take.",
    },
    Key {
        section: "limits",
        name: "buffer_bytes_max",
        unit: "bytes",
        kind: count!(limits.buffer_bytes_max, 1 << 20, BUFFER_BYTES_MAX),
        meaning: "All message buffers of one shard. Unless it is set, at most the shard's part of half the machine's memory.",
    },
    Key {
        section: "limits",
        name: "mailbox_bytes",
        unit: "bytes",
        kind: count!(limits.mailbox_bytes, 4_096, 1 << 30),
        meaning: "What may wait in the mailbox from one shard to another. Each pair of shards has two, taken at start.",
    },
    Key {
        section: "overload",
        name: "enabled",
        unit: "",
        kind: switch!(overload.enabled),
        meaning: "Whether new requests are refused while datagrams wait too long.",
    },
    Key {
        section: "overload",
        name: "target_ms",
        unit: "milliseconds",
        kind: millis!(overload.target, 1, 1_000),
        meaning: "How long datagrams may wait in the socket. While they wait longer, fewer new requests are admitted. The socket's buffer \
                  must hold more than what comes in so long.",
    },
    Key {
        section: "overload",
        name: "retry_after_s",
        unit: "seconds",
        kind: count!(overload.retry_after_s, 1, 3_600),
        meaning: "The Retry-After of a 503 for overload, at least; up to twice as much, so that not all come back at once.",
    },
    Key {
        section: "overload",
        name: "refusals_per_admitted",
        unit: "answers",
        kind: count!(overload.refusals_per_admitted, 1, 1_000),
        meaning: "503s for each call that is admitted, at most. What is to be refused beyond that is dropped and counted, since answers \
                  cost time too; over TCP every refusal is answered.",
    },
    Key {
        section: "overload",
        name: "feedback",
        unit: "",
        kind: switch!(overload.feedback),
        meaning: "Whether answers to those who ask for it (RFC 7339: oc and oc-algo=\"loss\" in their Via) tell what part of their requests they \
                  should leave out. Nobody else is told.",
    },
    Key {
        section: "registrar",
        name: "expires_default_s",
        unit: "seconds",
        kind: count!(registrar.expires_default_s, 1, EXPIRES_MAX_S),
        meaning: "Granted when a REGISTER names no expiry.",
    },
    Key {
        section: "registrar",
        name: "expires_min_s",
        unit: "seconds",
        kind: count!(registrar.expires_min_s, 1, EXPIRES_MIN_MAX_S),
        meaning: "A REGISTER that asks for less is answered 423 with Min-Expires.",
    },
    Key {
        section: "registrar",
        name: "expires_max_s",
        unit: "seconds",
        kind: count!(registrar.expires_max_s, 1, EXPIRES_MAX_S),
        meaning: "A REGISTER that asks for more gets this.",
    },
    Key {
        section: "registrar",
        name: "offline_memory_s",
        unit: "seconds",
        kind: seconds!(registrar.offline_memory, 0, YEAR_S),
        meaning: "How long a subscriber without contacts is still known: calls are answered 480, and later 404.",
    },
    Key {
        section: "registrar",
        name: "service_route",
        unit: "",
        kind: Kind::Texts {
            item: value::ROUTER,
            get: |s| s.config.registrar.service_route.clone(),
            clear: |s| s.config.registrar.service_route.clear(),
            push: |s, text, _| {
                s.config.registrar.service_route.push(value::router(text)?);
                Ok(())
            },
        },
        meaning: "What phones are told to put into the Route of their requests: the Service-Route of RFC 3608 in the 200 to a \
                  REGISTER, the first to be visited first. Its hosts count as our own in a Route.",
    },
    Key {
        section: "registrar",
        name: "flow_timer_s",
        unit: "seconds",
        kind: count!(registrar.flow_timer_s, 0, EXPIRES_MAX_S),
        meaning: "The Flow-Timer for phones that register a flow (RFC 5626): within this time they are to send a keepalive. 0: none is \
                  said, and they choose.",
    },
    Key {
        section: "registrar",
        name: "path_without_support",
        unit: "",
        kind: switch!(registrar.path_without_support),
        meaning: "Take the Path (RFC 3327) that proxies put into a REGISTER although its phone does not say that it supports it. \
                  Otherwise such a REGISTER is answered 420, so that the phone learns of the proxy.",
    },
    Key {
        section: "reg_event",
        name: "expires_default_s",
        unit: "seconds",
        kind: count!(reg_event.expires_default_s, 1, EXPIRES_MAX_S),
        meaning: "Granted when a SUBSCRIBE names no expiry.",
    },
    Key {
        section: "reg_event",
        name: "expires_min_s",
        unit: "seconds",
        kind: count!(reg_event.expires_min_s, 1, EXPIRES_MIN_MAX_S),
        meaning: "A SUBSCRIBE that asks for less is answered 423 with Min-Expires.",
    },
    Key {
        section: "reg_event",
        name: "expires_max_s",
        unit: "seconds",
        kind: count!(reg_event.expires_max_s, 1, EXPIRES_MAX_S),
        meaning: "A SUBSCRIBE that asks for more gets this.",
    },
    Key {
        section: "records",
        name: "directory",
        unit: "",
        kind: Kind::Text {
            expected: "a directory, or \"\" for none",
            get: |s| {
                let directory = s.config.records.directory.as_deref();
                directory.map_or_else(String::new, |path| path.display().to_string())
            },
            set: |s, text| {
                s.config.records.directory = (!text.is_empty()).then(|| text.into());
                Ok(())
            },
        },
        meaning: "Where the files are written, calls-SECONDS.jsonl each by the Unix time at which it was begun; the directory is made \
                  where it is missing. Empty: no records are kept.",
    },
    Key {
        section: "records",
        name: "file_bytes_max",
        unit: "bytes",
        kind: count!(records.file_bytes_max, 4_096, 1 << 40),
        meaning: "A file that would grow beyond this is followed by the next.",
    },
    Key {
        section: "records",
        name: "file_age_max_s",
        unit: "seconds",
        kind: seconds!(records.file_age_max, 1, YEAR_S),
        meaning: "A file that has been written to for so long is followed by the next.",
    },
    Key {
        section: "records",
        name: "files_max",
        unit: "files",
        kind: count!(records.files_max, 2, 100_000),
        meaning: "Files that are kept, the one being written included: the oldest goes.",
    },
    Key {
        section: "records",
        name: "waiting_max",
        unit: "records",
        kind: count!(records.waiting_max, 1, 1_000_000),
        meaning: "Records that may wait for the disk. What does not fit is lost and counted; no call ever waits.",
    },
    Key {
        section: "records",
        name: "proxied_calls_max",
        unit: "calls",
        kind: count!(records.proxied_calls_max, 1, 10_000_000),
        meaning: "Calls in progress that a proxy route has forwarded and of which a record is kept; each takes up to 2 KB of the \
                  message buffers. A further one goes on without a record, counted.",
    },
    Key {
        section: "session_timers",
        name: "enabled",
        unit: "",
        kind: switch!(session_timers.enabled),
        meaning: "Whether a call gets a BYE on both sides when its session was not refreshed in time. Without it session timers are \
                  between the phones alone.",
    },
    Key {
        section: "session_timers",
        name: "request",
        unit: "",
        kind: switch!(session_timers.request),
        meaning: "Whether a timer is asked for where the calling phone asks for none. It takes at least one phone that supports timers.",
    },
    Key {
        section: "session_timers",
        name: "interval_s",
        unit: "seconds",
        kind: count!(session_timers.interval_s, SESSION_MIN_S, EXPIRES_MAX_S),
        meaning: "The interval that is asked for then.",
    },
    Key {
        section: "session_timers",
        name: "interval_min_s",
        unit: "seconds",
        kind: count!(session_timers.interval_min_s, SESSION_MIN_S, DAY_S),
        meaning: "An INVITE or UPDATE that asks for less is answered 422 with Min-SE.",
    },
    Key {
        section: "hep",
        name: "collector",
        unit: "",
        kind: Kind::Text {
            expected: value::COLLECTOR,
            get: |s| value::collector_text(s.config.hep.collector),
            set: |s, text| {
                s.config.hep.collector = value::collector(text)?;
                Ok(())
            },
        },
        meaning: "Where the collector listens. What can't be sent at once is dropped and counted.",
    },
    Key {
        section: "hep",
        name: "capture_id",
        unit: "a number",
        kind: count!(hep.capture_id, 0, u32::MAX as u64),
        meaning: "The number by which the collector knows this server.",
    },
    Key {
        section: "hep",
        name: "password",
        unit: "",
        kind: Kind::Text {
            expected: "a text",
            get: |s| s.config.hep.password.clone(),
            set: |s, text| {
                s.config.hep.password = text.to_owned();
                Ok(())
            },
        },
        meaning: "The authentication key that the collector wants. It goes over the wire as it is. Empty: none is sent.",
    },
    Key {
        section: "hep",
        name: "sample_percent",
        unit: "percent",
        kind: count!(hep.sample_percent, 1, 100),
        meaning: "Of the calls, chosen by their Call-ID: all messages of a call are sent, or none.",
    },
    Key {
        section: "dns",
        name: "servers",
        unit: "",
        kind: Kind::Texts {
            item: dns::SERVER,
            get: |s| s.config.dns.servers.iter().map(|addr| addr.to_string()).collect(),
            clear: |s| s.config.dns.servers.clear(),
            push: |s, text, _| {
                s.config.dns.servers.push(dns::server(text)?);
                Ok(())
            },
        },
        meaning: "The DNS servers to ask, in this order. Empty: those of /etc/resolv.conf.",
    },
    Key {
        section: "dns",
        name: "timeout_ms",
        unit: "milliseconds",
        kind: millis!(dns.timeout, 10, 60_000),
        meaning: "How long one question may take with all its tries; afterwards it counts as not answered.",
    },
    Key {
        section: "dns",
        name: "attempts",
        unit: "tries",
        kind: count!(dns.attempts, 1, 10),
        meaning: "How often each server is asked within that time.",
    },
    Key {
        section: "dns",
        name: "cache_max",
        unit: "answers",
        kind: count!(dns.cache_max, 1_024, COUNT_MAX),
        meaning: "Answers that are kept, those that say that there is nothing included. The least used go first.",
    },
    Key {
        section: "dns",
        name: "look_ups_max",
        unit: "look-ups",
        kind: count!(dns.look_ups_max, 64, COUNT_MAX),
        meaning: "Requests that may wait for DNS at once: beyond it 503.",
    },
    Key {
        section: "dns",
        name: "questions_max",
        unit: "questions",
        kind: count!(dns.questions_max, 1, 65_536),
        meaning: "Questions that may be out to the DNS servers at once; more wait.",
    },
    Key {
        section: "dns",
        name: "ttl_min_s",
        unit: "seconds",
        kind: seconds!(dns.ttl_min, 1, 3_600),
        meaning: "An answer is kept so long at least, whatever its TTL.",
    },
    Key {
        section: "dns",
        name: "ttl_max_s",
        unit: "seconds",
        kind: seconds!(dns.ttl_max, 1, 604_800),
        meaning: "An answer is kept so long at most, whatever its TTL.",
    },
    Key {
        section: "dns",
        name: "negative_ttl_max_s",
        unit: "seconds",
        kind: seconds!(dns.negative_ttl_max, 1, 10_800),
        meaning: "How long at most it is remembered that there is no such name or record (RFC 2308).",
    },
    Key {
        section: "dns",
        name: "failure_ttl_s",
        unit: "seconds",
        kind: seconds!(dns.failure_ttl, 1, 300),
        meaning: "How long it is remembered that DNS did not answer a question.",
    },
];

/// The place of a key in [`KEYS`].
pub fn index_of(section: &str, name: &str) -> Option<usize> {
    KEYS.iter()
        .position(|key| key.section == section && key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_their_thousands_apart() {
        let texts = [0, 999, 5_060, 10_000, 65_535, 4_294_967_296].map(number);
        assert_eq!(texts, ["0", "999", "5060", "10_000", "65_535", "4_294_967_296"]);
    }

    #[test]
    fn both_bounds_of_every_number_reach_their_place_unchanged() {
        for key in KEYS {
            let mut settings = Settings::default();
            if let Kind::Integer { min, max, get, set } = key.kind {
                assert!((min..=max).contains(&get(&settings)), "default of {}", key.path());
                for bound in [min, max] {
                    set(&mut settings, bound);
                    assert_eq!(get(&settings), bound, "{}", key.path());
                }
            }
        }
    }

    #[test]
    fn every_key_has_a_place_of_its_own_and_says_what_it_is() {
        for (i, key) in KEYS.iter().enumerate() {
            assert_eq!(
                index_of(key.section, key.name),
                Some(i),
                "{} stands twice",
                key.path()
            );
            assert!(SECTIONS.iter().any(|&(name, _)| name == key.section));
            assert!(
                key.meaning.ends_with('.') && key.meaning.len() > 20,
                "{}",
                key.path()
            );
            let mut settings = Settings::default();
            let before = KEYS.iter().map(|key| key.toml(&settings)).collect::<Vec<_>>();
            match key.kind {
                Kind::Switch { get, set } => set(&mut settings, !get(&Settings::default())),
                Kind::Integer { min, max, get, set } => {
                    set(
                        &mut settings,
                        if get(&Settings::default()) == min {
                            max
                        } else {
                            min
                        },
                    );
                }
                Kind::Integers { set, .. } => set(&mut settings, vec![7]),
                Kind::Text { set, .. } => {
                    let other = [
                        "5.15",
                        "debug",
                        "json",
                        "udp:127.0.0.9:9060",
                        "off",
                        "127.0.0.9:5061",
                        "token",
                        "/other",
                    ]
                    .iter()
                    .find(|text| set(&mut settings, text).is_ok());
                    assert!(other.is_some(), "{}", key.path());
                }
                Kind::Texts { clear, push, .. } => {
                    clear(&mut settings);
                    let other = [
                        "tcp:127.0.0.9:5061",
                        "a.example",
                        "127.0.0.9:53",
                        "sip:a.example;lr",
                    ]
                    .iter()
                    .find(|text| push(&mut settings, text, Origin::Default).is_ok());
                    assert!(other.is_some(), "{}", key.path());
                }
            }
            let changed = KEYS
                .iter()
                .zip(before)
                .filter(|(key, old)| key.toml(&settings) != *old);
            assert_eq!(changed.count(), 1, "{} changes itself alone", key.path());
        }
    }
}
