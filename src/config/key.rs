//! What a key is: its name, type, unit and range, and how its place is read and written. Which there are say
//! [`schema`](super::schema), [`ROUTE_KEYS`](super::ROUTE_KEYS) and [`trunk`](super::trunk).

use super::Origin;
use super::load::Settings;
use super::value::Wrong;

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

/// A TOML basic string, on one line whatever is in `text`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' | '"' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_their_thousands_apart() {
        let texts = [0, 999, 5_060, 10_000, 65_535, 4_294_967_296].map(number);
        assert_eq!(texts, ["0", "999", "5060", "10_000", "65_535", "4_294_967_296"]);
    }
}
