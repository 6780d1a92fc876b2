//! Every key that stands in the file once: its place there, its type, unit and range, where it lives in [`Config`](super::Config)
//! and what it means. Parsing, range checks, error texts and the example file all follow from [`KEYS`]; the default of a
//! key is what [`Settings::default`](super::load::Settings::default) holds.

use std::sync::LazyLock;

use super::key::Key;

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

macro_rules! micros {
    ($($at:ident).+, $min:expr, $max:expr) => {
        Kind::Integer {
            min: $min,
            max: $max,
            get: |s| s.config.$($at).+.as_micros() as u64,
            set: |s, n| s.config.$($at).+ = Duration::from_micros(n),
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

const YEAR_S: u64 = 365 * 86_400;
const HOUR_MS: u64 = 3_600_000;
/// More of one kind than any machine holds, and few enough for 32-bit slots.
const COUNT_MAX: u64 = 1 << 28;

mod insight;
mod limits;
mod process;
mod sip;

/// All of them. The place of a key here is its number in [`Settings`](super::load::Settings).
pub static KEYS: LazyLock<Vec<&'static Key>> = LazyLock::new(|| {
    let tables = [process::KEYS, insight::KEYS, sip::KEYS, limits::KEYS];
    tables.into_iter().flatten().collect()
});

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

/// The place of a key in [`KEYS`].
pub fn index_of(section: &str, name: &str) -> Option<usize> {
    KEYS.iter()
        .position(|key| key.section == section && key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::config::key::Kind;
    use crate::config::load::Settings;

    #[test]
    fn both_bounds_of_every_number_reach_their_place_unchanged() {
        for key in KEYS.iter() {
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
