//! From a file and the command line to a [`Config`]: values are laid over the defaults by the schema, the command line last.

use std::fs;
use std::path::{Path, PathBuf};

use super::key::{Key, Kind};
use super::machine::parse_cpu_list;
use super::route::Route;
use super::rows::Row;
use super::schema::{self, KEYS};
use super::trunk::Trunk;
use super::value::{Advertise, Listen, Wrong};
use super::{Config, ConfigError, Errors, Machine, Notice, Origin, resolve, toml_file};
use crate::wire::Transport;

/// A configuration that may be served, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// To be shared by all shards as it is, once the sockets are bound.
    pub config: Config,
    pub notices: Vec<Notice>,
}

/// A key as the command line gives it, in place of what the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flag {
    /// The option's name with its hyphens, for errors.
    pub name: &'static str,
    pub section: &'static str,
    pub key: &'static str,
    pub value: FlagValue,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlagValue {
    On,
    Text(String),
    Texts(Vec<String>),
    Integer(String),
    /// Numbers and ranges as CPUs are listed: `0,1`, `0-3`.
    Integers(String),
}

/// Every key's value as given or by default, each in its range, not yet checked against the others or this machine.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Vec<Listen>,
    pub advertise: Vec<Advertise>,
    pub routes: Vec<Row<Route>>,
    pub trunks: Vec<Row<Trunk>>,
    /// All other keys. The listeners in it mean nothing yet, and `shards` may be 0.
    pub config: Config,
    /// For each of [`KEYS`] whether and where it was given.
    given: Vec<Given>,
}

/// Whether and where a key was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Given {
    Not,
    At(Origin),
    /// Given, but wrong: an error tells so already.
    Broken,
}

impl Default for Settings {
    fn default() -> Settings {
        let config = Config::default();
        let mut settings = Settings::from(&config);
        settings.config.shards = 0;
        settings
    }
}

impl From<&Config> for Settings {
    /// The settings that make this configuration on a machine that can hold it.
    fn from(config: &Config) -> Settings {
        let mut settings = Settings {
            listen: Vec::new(),
            advertise: Vec::new(),
            routes: Vec::new(),
            trunks: Vec::new(),
            config: config.clone(),
            given: vec![Given::Not; KEYS.len()],
        };
        for listener in &config.listeners {
            let (transport, addr) = (listener.transport, listener.addr);
            if listener.advertised != resolve::advertised(addr) || addr.ip().is_unspecified() {
                // A port that the system has yet to choose is the listener's own.
                let target = listener
                    .advertised
                    .strip_suffix(":0")
                    .unwrap_or(&listener.advertised);
                let text = format!("{}:{addr}={target}", transport.name());
                settings
                    .advertise
                    .extend(Advertise::parse(&text, Origin::Default));
            }
            match settings.listen.last_mut() {
                // UDP and TCP on one address, in this order, are one entry.
                Some(last)
                    if last.addr == addr
                        && (last.transport, transport) == (Some(Transport::Udp), Transport::Tcp) =>
                {
                    last.transport = None;
                }
                Some(_) | None => settings.listen.push(Listen {
                    transport: Some(transport),
                    addr,
                    origin: Origin::Default,
                }),
            }
        }
        settings
    }
}

/// A value as it was found, before the schema has judged it.
pub(super) struct Item {
    pub value: Value,
    /// As it was written.
    pub shown: String,
    pub origin: Origin,
}

pub(super) enum Value {
    Switch(bool),
    /// `None`: negative, or beyond 64 bits.
    Integer(Option<u64>),
    Text(String),
    List(Vec<Item>),
    /// A type that no key has: a float, a date, a table.
    Other,
}

impl Settings {
    /// Where a key was given; `Some(Default)` when nobody gave it, `None` when what was given is wrong and told already.
    pub(super) fn origin(&self, section: &str, name: &str) -> Option<Origin> {
        let index = schema::index_of(section, name).expect("the schema has the key");
        match self.given[index] {
            Given::Not => Some(Origin::Default),
            Given::At(origin) => Some(origin),
            Given::Broken => None,
        }
    }

    /// Whether nobody gave the key, so that it may follow others or the machine.
    pub(super) fn is_default(&self, section: &str, name: &str) -> bool {
        self.origin(section, name) == Some(Origin::Default)
    }

    /// Gives the key at `index` of [`KEYS`] a value, or says what is wrong with it.
    pub(super) fn give(&mut self, index: usize, item: &Item, errors: &mut Vec<ConfigError>) {
        self.given[index] = set(self, KEYS[index], item, errors);
    }
}

/// Gives `key` of `at` a value, or says what is wrong with it.
pub(super) fn set<S>(at: &mut S, key: &Key<S>, item: &Item, errors: &mut Vec<ConfigError>) -> Given {
    let before = errors.len();
    let mut wrong = |item: &Item, expected: String, hint: Wrong| {
        errors.push(ConfigError {
            origin: item.origin,
            key: key.path(),
            expected,
            found: item.shown.clone(),
            hint,
        });
    };
    match (&key.kind, &item.value) {
        (Kind::Switch { set, .. }, Value::Switch(on)) => set(at, *on),
        (Kind::Integer { min, max, set, .. }, Value::Integer(Some(n))) if (*min..=*max).contains(n) => {
            set(at, *n)
        }
        (Kind::Integers { min, max, set, .. }, Value::List(items)) => {
            let mut list = Vec::with_capacity(items.len());
            for item in items {
                match item.value {
                    Value::Integer(Some(n)) if (*min..=*max).contains(&n) => list.push(n),
                    Value::Integer(_) | Value::Switch(_) | Value::Text(_) | Value::List(_) | Value::Other => {
                        wrong(item, key.expected(), None);
                    }
                }
            }
            set(at, list);
        }
        (Kind::Text { expected, set, .. }, Value::Text(text)) => {
            if let Err(hint) = set(at, text) {
                wrong(item, (*expected).to_owned(), hint);
            }
        }
        (
            Kind::Texts {
                item: kind,
                clear,
                push,
                ..
            },
            Value::List(items),
        ) => {
            clear(at);
            for item in items {
                match &item.value {
                    Value::Text(text) => {
                        if let Err(hint) = push(at, text, item.origin) {
                            wrong(item, (*kind).to_owned(), hint);
                        }
                    }
                    Value::Switch(_) | Value::Integer(_) | Value::List(_) | Value::Other => {
                        wrong(item, (*kind).to_owned(), None);
                    }
                }
            }
        }
        (kind, value) => wrong(item, key.expected(), slip(kind, value, &item.shown)),
    }
    if errors.len() == before {
        Given::At(item.origin)
    } else {
        Given::Broken
    }
}

/// What to write instead, where a value has the wrong type.
fn slip<S>(kind: &Kind<S>, value: &Value, shown: &str) -> Wrong {
    match (kind, value) {
        (Kind::Texts { .. }, Value::Text(_)) | (Kind::Integers { .. }, Value::Integer(_)) => {
            Some(format!("did you mean [{shown}]?"))
        }
        (Kind::Switch { .. }, Value::Text(text)) if text.parse::<bool>().is_ok() => {
            Some(format!("did you mean {text}, without quotes?"))
        }
        (Kind::Integer { .. }, Value::Text(text)) if text.parse::<u64>().is_ok() => {
            Some(format!("did you mean {text}, without quotes?"))
        }
        (Kind::Integer { .. }, Value::Text(text)) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            Some("a number alone: the unit is that of the key".to_owned())
        }
        (Kind::Text { .. }, Value::Switch(_) | Value::Integer(_) | Value::Other)
            if !shown.starts_with(['{', '[']) =>
        {
            Some(format!("did you mean {shown:?}, in quotes?"))
        }
        (
            Kind::Switch { .. }
            | Kind::Integer { .. }
            | Kind::Integers { .. }
            | Kind::Text { .. }
            | Kind::Texts { .. },
            Value::Switch(_) | Value::Integer(_) | Value::Text(_) | Value::List(_) | Value::Other,
        ) => None,
    }
}

impl Flag {
    fn item(&self) -> Item {
        let origin = Origin::Flag(self.name);
        let item = |value, shown: &str| Item {
            value,
            shown: shown.to_owned(),
            origin,
        };
        let text = |text: &String| item(Value::Text(text.clone()), &format!("{text:?}"));
        match &self.value {
            FlagValue::On => item(Value::Switch(true), "true"),
            FlagValue::Text(given) => text(given),
            FlagValue::Texts(given) => item(Value::List(given.iter().map(text).collect()), ""),
            FlagValue::Integer(given) => match given.parse::<i128>() {
                Ok(n) => item(Value::Integer(u64::try_from(n).ok()), given),
                Err(_) => text(given),
            },
            FlagValue::Integers(given) => match parse_cpu_list(given) {
                Some(list) => {
                    let items = list
                        .iter()
                        .map(|n| item(Value::Integer(Some(*n as u64)), &n.to_string()));
                    item(Value::List(items.collect()), "")
                }
                None => text(given),
            },
        }
    }
}

/// The configuration that `file` (its name and text) and `flags` make on `machine`.
///
/// # Errors
/// All that is wrong with either, at once.
pub fn load(file: Option<(&Path, &str)>, flags: &[Flag], machine: &Machine) -> Result<Loaded, Errors> {
    let mut settings = Settings::default();
    let mut errors = Vec::new();
    if let Some((_, text)) = file {
        toml_file::read(text, &mut settings, &mut errors);
    }
    for flag in flags {
        let index = schema::index_of(flag.section, flag.key).expect("the schema has the key of every option");
        settings.give(index, &flag.item(), &mut errors);
    }
    let loaded = resolve::resolve(settings, machine, &mut errors);
    if errors.is_empty() {
        return Ok(loaded);
    }
    // Stable: what belongs to one place stays in the order in which it was found.
    errors.sort_by_key(|error| error.origin);
    Err(Errors {
        file: file.map(|(path, _)| path.to_owned()),
        list: errors,
    })
}

/// What a server was started with, from which it can read its configuration again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub file: Option<PathBuf>,
    pub flags: Vec<Flag>,
}

impl Source {
    /// # Errors
    /// As those of [`load_file`].
    pub fn load(&self, machine: &Machine) -> Result<Loaded, Errors> {
        load_file(self.file.as_deref(), &self.flags, machine)
    }
}

/// As [`load`], reading the file, if one is named.
///
/// # Errors
/// A file that can't be read, too.
pub fn load_file(path: Option<&Path>, flags: &[Flag], machine: &Machine) -> Result<Loaded, Errors> {
    let Some(path) = path else {
        return load(None, flags, machine);
    };
    let unreadable = |origin, expected: &str, found: String| Errors {
        file: Some(PathBuf::from(path)),
        list: vec![ConfigError {
            origin,
            key: String::new(),
            expected: expected.to_owned(),
            found,
            hint: None,
        }],
    };
    let bytes = fs::read(path)
        .map_err(|error| unreadable(Origin::Default, "a file that can be read", error.to_string()))?;
    match str::from_utf8(&bytes) {
        Ok(text) => load(Some((path, text)), flags, machine),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let origin = toml_file::Lines::of(&valid).place(valid.len());
            let byte = bytes[error.valid_up_to()];
            Err(unreadable(origin, "UTF-8 text", format!("the byte 0x{byte:02x}")))
        }
    }
}
