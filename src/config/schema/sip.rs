//! Keys of what SIP and DNS say: timers, registrations, subscriptions, sessions, names.

use std::time::Duration;

use crate::config::dns;
use crate::config::key::{Key, Kind};
use crate::config::value;

use super::{COUNT_MAX, HOUR_MS, YEAR_S};

/// RFC 4028 §5: no interval, and no minimum, is below.
const SESSION_MIN_S: u64 = 90;
const DAY_S: u64 = 86_400;
/// The largest `Expires` (RFC 3261 §20.19).
const EXPIRES_MAX_S: u64 = u32::MAX as u64;
/// 423 may only be said to an interval below one hour (RFC 3261 §10.3 item 7, RFC 6665 §4.2.1.1).
const EXPIRES_MIN_MAX_S: u64 = 3_600;

pub(super) static KEYS: &[Key] = &[
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
        meaning: "Questions that may be out to the DNS servers at once, each of which may take six sockets; more wait. Fewer by default \
                  where the process may open few files: a quarter of them is for DNS.",
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
    Key {
        section: "dns",
        name: "response_failover",
        unit: "",
        kind: switch!(dns.response_failover),
        meaning: "An answer that can't go back to the host that its request came from (the connection ended, and no new one is to be had) \
                  goes where the Via of the request says: an address, or a name whose addresses are tried in turn (RFC 3263 §5). \
                  Whoever may send requests then chooses a host and port that ringway connects to and sends his answer.",
    },
];
