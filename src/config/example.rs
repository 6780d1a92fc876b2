//! The example file and the effective configuration, both written from the schema.

use std::fmt::Write;

use super::Config;
use super::dns::{HOSTS, HOSTS_EXAMPLE};
use super::key::{Key, Kind, number};
use super::load::Settings;
use super::route::{ROUTE_KEYS, TABLE};
use super::schema::{KEYS, SECTIONS};
use super::trunk::{TRUNK_KEYS, TRUNK_TABLE};

const COLUMNS: usize = 100;

/// `ringway.example.toml`: every key commented out with its default, unit and meaning.
pub fn example() -> String {
    let settings = Settings::default();
    let mut text = String::from(
        "# An example configuration of ringway: every key there is, commented out, with its default.\n\
         # `ringway check -c FILE` tells whether a file is right and, with --print, what it amounts to.\n",
    );
    for &(section, about) in SECTIONS {
        text.push('\n');
        comment(&mut text, about);
        if !section.is_empty() {
            text.push_str(&format!("[{section}]\n"));
        }
        for key in KEYS.iter().filter(|key| key.section == section) {
            text.push('\n');
            comment(&mut text, key.meaning);
            comment(&mut text, &value_line(key));
            text.push_str(&format!("#{} = {}\n", key.name, key.toml(&settings)));
        }
    }
    text.push('\n');
    comment(&mut text, HOSTS.1);
    text.push_str(&format!("[{}]\n{HOSTS_EXAMPLE}", HOSTS.0));
    table(&mut text, TRUNK_TABLE, TRUNK_KEYS);
    table(&mut text, TABLE, ROUTE_KEYS);
    text
}

/// The keys of a table that may stand many times, with the values that they have when they are not given.
fn table<S: Default>(text: &mut String, (name, about): (&str, &str), keys: &[Key<S>]) {
    let defaults = S::default();
    text.push('\n');
    comment(text, about);
    text.push_str(&format!("#[[{name}]]\n"));
    for key in keys {
        text.push('\n');
        comment(text, key.meaning);
        comment(text, &value_line(key));
        text.push_str(&format!("#{} = {}\n", key.name, key.toml(&defaults)));
    }
}

/// What the value may be, for the example: with the unit, where there is one.
fn value_line<S>(key: &Key<S>) -> String {
    match key.kind {
        Kind::Integer { min, max, .. } => {
            let mut unit = key.unit.to_owned();
            unit[..1].make_ascii_uppercase();
            format!("{unit}, {} to {}.", number(min), number(max))
        }
        Kind::Switch { .. } | Kind::Integers { .. } | Kind::Text { .. } | Kind::Texts { .. } => {
            let mut expected = key.expected();
            expected[..1].make_ascii_uppercase();
            format!("{expected}.")
        }
    }
}

/// `text` as comment lines of at most [`COLUMNS`].
fn comment(text: &mut String, about: &str) {
    let mut line = String::from("#");
    for word in about.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

/// The whole configuration as a file that loads to the same again.
pub fn effective(config: &Config) -> String {
    let settings = Settings::from(config);
    let mut text = String::new();
    for &(section, _) in SECTIONS {
        if !section.is_empty() {
            let _ = writeln!(text, "\n[{section}]");
        }
        for key in KEYS.iter().filter(|key| key.section == section) {
            let _ = writeln!(text, "{} = {}", key.name, key.toml(&settings));
        }
    }
    if !config.hosts.is_empty() {
        let _ = writeln!(text, "\n[{}]", HOSTS.0);
        for entry in &config.hosts {
            let _ = writeln!(text, "{}", entry.toml());
        }
    }
    for trunk in &config.trunks {
        row(&mut text, TRUNK_TABLE.0, TRUNK_KEYS, trunk, &["name"]);
    }
    for route in &config.routes {
        row(&mut text, TABLE.0, ROUTE_KEYS, route, &["action"]);
    }
    text
}

/// The whole configuration in one line, for the log: each key as `section.name=value`, secrets left out.
pub fn in_one_line(config: &Config) -> String {
    let settings = Settings::from(config);
    let mut line = String::new();
    for key in KEYS.iter() {
        let _ = write!(line, "{}={} ", key.path(), key.shown(&settings));
    }
    let mut put = |name: &str, keys: Vec<&str>| write!(line, "{name}={{ {} }} ", keys.join(", "));
    let hosts: Vec<String> = config.hosts.iter().map(|entry| entry.toml()).collect();
    if !hosts.is_empty() {
        let _ = put(HOSTS.0, hosts.iter().map(String::as_str).collect());
    }
    for (index, trunk) in config.trunks.iter().enumerate() {
        let mut table = String::new();
        row(&mut table, TRUNK_TABLE.0, TRUNK_KEYS, trunk, &["name"]);
        let _ = put(&format!("trunk.{}", index + 1), table.lines().skip(2).collect());
    }
    for (index, route) in config.routes.iter().enumerate() {
        let mut table = String::new();
        row(&mut table, TABLE.0, ROUTE_KEYS, route, &["action"]);
        let _ = put(&format!("route.{}", index + 1), table.lines().skip(2).collect());
    }
    line.truncate(line.trim_end().len());
    line
}

/// One table of several: the keys in `always`, and those that differ from what they are when they are not given.
fn row<S: Default>(text: &mut String, name: &str, keys: &[Key<S>], value: &S, always: &[&str]) {
    let defaults = S::default();
    let _ = writeln!(text, "\n[[{name}]]");
    for key in keys {
        let toml = key.toml(value);
        if always.contains(&key.name) || toml != key.toml(&defaults) {
            let _ = writeln!(text, "{} = {toml}", key.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load};

    #[test]
    fn one_line_holds_every_key_and_rule_and_no_secret() {
        let text = "[admin]\ntoken = \"hush-hush-hush-hush\"\n[hosts]\n\"gw.example\" = [\"127.0.0.9\"]\n\
             [[trunk]]\nname = \"carriers\"\ndestinations = [\"sip:127.0.0.9\"]\n\
             [[route]]\naction = \"drop\"\nmethod = [\"INFO\"]";
        let config = load(Some(("r.toml".as_ref(), text)), &[], &Machine::read())
            .expect("a good file")
            .config;
        let line = in_one_line(&config);
        assert!(line.lines().count() == 1 && !line.contains("hush"), "{line}");
        for key in KEYS.iter() {
            assert!(line.contains(&format!("{}=", key.path())), "{}", key.path());
        }
        for part in [
            "hosts={ \"gw.example\" = ",
            "trunk.1={ name = \"carriers\", destinations = ",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let (_, rule) = line.split_once("route.1={ ").expect("the rule");
        assert!(
            rule.contains("action = \"drop\"") && rule.contains("method = [\"INFO\"]"),
            "{rule}"
        );
    }
}
