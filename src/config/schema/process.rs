//! Keys of the process itself: where it listens, what it calls its own, its log, its UDP sockets.

use std::time::Duration;

use crate::config::key::{Key, Kind};
use crate::config::value::{self, Advertise, Listen};
use crate::wire::SHARDS_MAX;

pub(super) static KEYS: &[Key] = &[
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
        name: "spin_us",
        unit: "microseconds",
        kind: micros!(spin, 0, 1_000),
        meaning: "How long a shard with nothing to do looks for more before it sleeps. It saves a message the time of a wake-up and \
                  takes all of a CPU while messages come that often: for shards with a CPU of their own each.",
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
];
