//! From the configuration that is served and the one that the file now holds to the one that is served next: what takes effect
//! at once, and what waits for a restart.

use std::fmt;

use serde::Serialize;

use super::key::{Key, Kind};
use super::load::Settings;
use super::resolve::fits_mailbox;
use super::schema::KEYS;
use super::{Config, Listener, Origin};

/// Whether a running server goes by a new value of the key. What is made once waits for a restart: sockets, threads, rings,
/// mailboxes, the log's format. So does what is not named here.
pub fn takes_effect_at_once(key: &Key) -> bool {
    match (key.section, key.name) {
        ("limits", "mailbox_bytes") => false,
        ("timers" | "limits" | "overload" | "registrar" | "reg_event" | "session_timers", _) => true,
        ("log", "level") | ("dns", "response_failover") => true,
        (
            "",
            "listen"
            | "advertise"
            | "domains"
            | "open_registrar"
            | "notify_body"
            | "drain_s"
            | "extensions_required",
        ) => true,
        _ => false,
    }
}

/// A key with what it was and what it is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Change {
    pub key: String,
    pub from: String,
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.key, self.from, self.to)
    }
}

/// What a reload has done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Reloaded {
    /// What takes effect now.
    pub changed: Vec<Change>,
    /// What takes effect at the next start.
    pub waiting: Vec<Change>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.changed.len() {
            0 => f.write_str("nothing changed")?,
            1 => f.write_str("1 change")?,
            count => write!(f, "{count} changes")?,
        }
        match self.waiting.len() {
            0 => Ok(()),
            count => write!(f, ", {count} more at the next start"),
        }
    }
}

/// What becomes of a new configuration while the server runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reload {
    /// What is served from now on: the new configuration, with the old values of what waits.
    pub config: Config,
    /// What takes effect.
    pub changed: Vec<Change>,
    /// What takes effect at the next start.
    pub waiting: Vec<Change>,
}

/// Goes from `served` to as much of `wanted` as a running server can. Both hold the listeners as the file asks for them: a port 0
/// is one that the system chose.
pub fn reload(served: &Config, wanted: &Config) -> Reload {
    let before = Settings::from(served);
    let asked = Settings::from(wanted);
    let mut next = Settings::from(served);
    let (mut changed, mut waiting) = (Vec::new(), Vec::new());
    for key in KEYS.iter() {
        let Some(change) = change(key, &before, &asked) else {
            continue;
        };
        if takes_effect_at_once(key) && !must_wait(key, served, wanted) {
            if matches!((key.section, key.name), ("", "listen" | "advertise")) {
                // What the file says was worked out into listeners already.
                next.config.listeners.clone_from(&wanted.listeners);
            } else {
                copy(key, &asked, &mut next);
            }
            changed.push(change);
        } else {
            waiting.push(change);
        }
    }
    let mut config = next.config;
    // Tables are no keys: each is taken as a whole, or waits as a whole.
    let table = |name: &str, from: usize, to: usize| Change {
        key: name.to_owned(),
        from: rows(from),
        to: rows(to),
    };
    if wanted.trunks != served.trunks {
        config.trunks.clone_from(&wanted.trunks);
        changed.push(table("trunk", served.trunks.len(), wanted.trunks.len()));
    }
    if wanted.hosts != served.hosts {
        config.hosts.clone_from(&wanted.hosts);
        changed.push(table("hosts", served.hosts.len(), wanted.hosts.len()));
    }
    let mut routes = wanted.routes.clone();
    for route in &mut routes {
        route.find_listeners(&config.listeners);
    }
    if routes != served.routes {
        changed.push(table("route", served.routes.len(), routes.len()));
        config.routes = routes;
    }
    Reload {
        config,
        changed,
        waiting,
    }
}

/// Whether a key that could take effect at once may not with these values.
fn must_wait(key: &Key, served: &Config, wanted: &Config) -> bool {
    match (key.section, key.name) {
        ("", "listen" | "advertise") => renames(&served.listeners, &wanted.listeners),
        ("", "domains") => !keeps_subscribers(&served.domains, &wanted.domains),
        // It was worked out for another number of shards.
        ("limits", "buffer_bytes_max") => served.shards != wanted.shards,
        // The mailboxes stay as they are.
        ("limits", "message_bytes_max") => {
            !fits_mailbox(wanted.limits.message_bytes_max, served.limits.mailbox_bytes)
        }
        _ => false,
    }
}

/// Whether everybody who has registered is found under the same name by the new list: the first domain names those who give an address
/// of ours for a domain, and with an empty list the user part alone names everybody.
fn keeps_subscribers(old: &[String], new: &[String]) -> bool {
    if old.is_empty() {
        new.is_empty()
    } else {
        new.starts_with(old)
    }
}

/// Whether one that stays is to be called otherwise: dialogs know it by the name that it has.
fn renames(old: &[Listener], new: &[Listener]) -> bool {
    old.iter().any(|old| {
        let same = |new: &&Listener| (new.transport, new.addr) == (old.transport, old.addr);
        new.iter()
            .find(same)
            .is_some_and(|new| new.advertised != old.advertised)
    })
}

fn rows(count: usize) -> String {
    format!("{count} row{}", if count == 1 { "" } else { "s" })
}

fn change(key: &Key, from: &Settings, to: &Settings) -> Option<Change> {
    let (old, new) = (key.toml(from), key.toml(to));
    (old != new).then(|| Change {
        key: key.path(),
        from: key.shown(from),
        to: key.shown(to),
    })
}

/// Gives the key in `to` the value that it has in `from`, which was right there.
fn copy(key: &Key, from: &Settings, to: &mut Settings) {
    match &key.kind {
        Kind::Switch { get, set } => set(to, get(from)),
        Kind::Integer { get, set, .. } => set(to, get(from)),
        Kind::Integers { get, set, .. } => set(to, get(from)),
        Kind::Text { get, set, .. } => {
            let is_set = set(to, &get(from));
            debug_assert!(is_set.is_ok(), "{}", key.path());
        }
        Kind::Texts { get, clear, push, .. } => {
            clear(to);
            for text in get(from) {
                let is_pushed = push(to, &text, Origin::Default);
                debug_assert!(is_pushed.is_ok(), "{}", key.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load};

    fn config(text: &str) -> Config {
        let machine = Machine {
            cpus: (0..4).collect(),
            parallelism: 4,
            memory_bytes: None,
            files_max: None,
            primary_v4: None,
            primary_v6: None,
        };
        load(Some(("ringway.toml".as_ref(), text)), &[], &machine)
            .expect("a good file")
            .config
    }

    fn keys(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn the_same_file_again_changes_nothing() {
        let text = "listen = [\"127.0.0.1:0\"]\nadvertise = [\"sip.example\"]\ndomains = [\"a.example\"]\n[[route]]\naction = \"drop\"\nmethod = [\"INFO\"]";
        let served = config(text);
        let Reload {
            config: next,
            changed,
            waiting,
        } = reload(&served, &config(text));
        assert_eq!(next, served);
        assert_eq!((keys(&changed), keys(&waiting)), (vec![], vec![]));
    }

    #[test]
    fn what_can_change_does_and_is_told_with_both_values() {
        let served = config("[timers]\nt1_ms = 500");
        let wanted = config("open_registrar = true\n[timers]\nt1_ms = 400\n[limits]\ncalls_max = 10");
        let result = reload(&served, &wanted);
        assert_eq!(result.config, wanted);
        let told: Vec<String> = result.changed.iter().map(Change::to_string).collect();
        assert_eq!(
            told,
            [
                "open_registrar false -> true",
                "timers.t1_ms 500 -> 400",
                "limits.calls_max 1_000_000 -> 10"
            ]
        );
        assert!(result.waiting.is_empty());
    }

    #[test]
    fn what_is_made_once_keeps_its_value_and_is_told_of() {
        let served = config("");
        let wanted = config(
            "advertise = [\"sip.example\"]\nshards = 2\ncpus = [1]\nspin_us = 50\nkernel_level = \"5.10\"\n\
             [log]\nformat = \"json\"\n[udp]\nsteering = \"off\"\nsegment = \"off\"\ngro = \"off\"\n[limits]\nmailbox_bytes = 2_000_000",
        );
        let result = reload(&served, &wanted);
        assert_eq!(result.config, served);
        assert!(result.changed.is_empty(), "{:?}", result.changed);
        let expected = [
            "advertise",
            "shards",
            "cpus",
            "spin_us",
            "kernel_level",
            "log.format",
            "udp.steering",
            "udp.segment",
            "udp.gro",
            "limits.mailbox_bytes",
        ];
        assert_eq!(keys(&result.waiting), expected, "in the order of the schema");
    }

    #[test]
    fn every_key_has_its_value_copied_to_its_own_place() {
        // With a copy that misses its place, or reaches another, the two would differ afterwards.
        let wanted = config(
            "domains = [\"a.example\"]\nopen_registrar = true\nextensions_required = [\"100rel\"]\ndrain_s = 1\n\
             [log]\nlevel = \"ringway::io=trace\"\n[timers]\nt1_ms = 7",
        );
        let mut served = Config {
            shards: 4,
            ..Config::default()
        };
        served.domains = vec!["a.example".to_owned(), "b.example".to_owned()];
        let (from, mut to) = (Settings::from(&wanted), Settings::from(&served));
        for key in KEYS
            .iter()
            .filter(|key| !matches!(key.name, "listen" | "advertise"))
        {
            copy(key, &from, &mut to);
        }
        assert_eq!(to.config, wanted);
    }

    #[test]
    fn domains_may_be_added_behind_those_there_are_and_nothing_else() {
        let one = "domains = [\"a.example\"]";
        for (old, new, waits) in [
            (one, "domains = [\"a.example\", \"b.example\"]", false),
            (one, "domains = [\"b.example\", \"a.example\"]", true),
            (one, "", true),
            ("", one, true),
        ] {
            let (served, wanted) = (config(old), config(new));
            let result = reload(&served, &wanted);
            let expected = if waits { &served } else { &wanted };
            assert_eq!(result.config.domains, expected.domains, "{old} to {new}");
            assert_eq!(result.waiting.is_empty(), !waits, "{old} to {new}");
        }
    }

    #[test]
    fn listeners_come_and_go_and_keep_their_names() {
        let served = config("listen = [\"127.0.0.1:5060\"]");
        let wanted = config(
            "listen = [\"127.0.0.1:5060\", \"tcp:127.0.0.1:5070\"]\nadvertise = [\"127.0.0.1:5070=sip.example\"]",
        );
        let result = reload(&served, &wanted);
        assert_eq!(result.config, wanted);
        assert_eq!(
            (keys(&result.changed), keys(&result.waiting)),
            (vec!["listen", "advertise"], vec![])
        );
        let back = reload(&wanted, &served);
        assert_eq!(back.config, served);
        let renamed =
            config("listen = [\"127.0.0.1:5060\", \"127.0.0.1:5080\"]\nadvertise = [\"sip.example\"]");
        let result = reload(&served, &renamed);
        assert_eq!(
            result.config, served,
            "the one that stays would be called otherwise"
        );
        assert_eq!(
            (keys(&result.changed), keys(&result.waiting)),
            (vec![], vec!["listen", "advertise"])
        );
    }

    #[test]
    fn a_rule_means_the_listeners_that_there_are() {
        let served = config("listen = [\"127.0.0.1:5060\"]");
        let wanted = config(
            "listen = [\"127.0.0.2:5060\", \"127.0.0.1:5060\"]\n[[route]]\naction = \"drop\"\nlistener = [\"tcp:127.0.0.1:5060\"]\n\
             [[route]]\naction = \"drop\"\nlistener = [\"127.0.0.2:5060\"]",
        );
        let result = reload(&served, &wanted);
        let bits: Vec<u64> = (result.config.routes.iter())
            .map(|route| route.listener_bits)
            .collect();
        assert_eq!(bits, [0b1000, 0b11], "of the listeners that there will be");
        assert_eq!(
            (keys(&result.changed), keys(&result.waiting)),
            (vec!["listen", "route"], vec![])
        );
    }

    #[test]
    fn a_message_still_fits_a_mailbox() {
        let served =
            config("[limits]\nmessage_bytes_max = 8_192\nbody_bytes_max = 8_192\nmailbox_bytes = 65_536");
        let wanted =
            config("[limits]\nmessage_bytes_max = 65_535\nbody_bytes_max = 8_192\nmailbox_bytes = 100_000");
        let result = reload(&served, &wanted);
        assert_eq!(
            keys(&result.waiting),
            ["limits.message_bytes_max", "limits.mailbox_bytes"]
        );
        assert_eq!(result.config, served);
    }
}
