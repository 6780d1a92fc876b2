//! What a rule changes in the requests that it matches: the request URI and header lines.

use std::fmt;

use super::super::value::Wrong;
use super::header_name;
use crate::msg::name::Name;

/// A header line that a rule adds or sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderLine {
    pub name: String,
    pub value: String,
}

/// What is taken for a header line.
pub const HEADER_LINE: &str = r#""NAME: VALUE", such as "X-Tenant: gold""#;

/// What is taken for the name of one.
pub const HEADER_NAME: &str = r#"a header field's name such as "X-Tenant""#;

/// Lines that forwarding itself writes, or that say which transaction and dialog a message belongs to.
const KEPT: &[Name] = &[
    Name::Via,
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::MaxForwards,
    Name::MaxBreadth,
    Name::ContentLength,
    Name::Route,
    Name::RecordRoute,
];

/// A header field that a rule may change.
pub fn changeable(text: &str) -> Result<String, Wrong> {
    let name = header_name(text)?;
    if KEPT.contains(&Name::lookup(name.as_bytes())) {
        return Err(Some(format!("{name} is not a rule's to change")));
    }
    Ok(name)
}

impl HeaderLine {
    pub fn parse(text: &str) -> Result<HeaderLine, Wrong> {
        let (name, value) = text.split_once(':').ok_or(None)?;
        let value = value.trim();
        if value
            .bytes()
            .any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f)
        {
            return Err(Some("a value is one line".to_owned()));
        }
        Ok(HeaderLine {
            name: changeable(name)?,
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for HeaderLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

/// What a rule changes in the requests that it matches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// Characters taken from the front of the request URI's user part.
    pub strip: usize,
    /// Put before what is left of it.
    pub prefix: String,
    /// Put in its place instead; empty: nothing is.
    pub user: String,
    /// Put in the place of the request URI's host and port; empty: nothing is.
    pub host: String,
    pub set: Vec<HeaderLine>,
    pub add: Vec<HeaderLine>,
    pub remove: Vec<String>,
}

impl Rewrite {
    /// Whether the request URI may become another.
    pub fn changes_uri(&self) -> bool {
        self.strip > 0 || !self.prefix.is_empty() || !self.user.is_empty() || !self.host.is_empty()
    }

    pub fn changes_headers(&self) -> bool {
        !(self.set.is_empty() && self.add.is_empty() && self.remove.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forwarding_writes_itself_is_not_a_rules_to_change() {
        assert_eq!(changeable("X-A"), Ok("X-A".to_owned()));
        for name in ["Via", "v", "call-id", "Record-Route"] {
            assert!(matches!(changeable(name), Err(Some(_))), "{name}");
        }
        assert!(HeaderLine::parse("X: a\r\nVia: b").is_err());
        assert!(HeaderLine::parse("no colon").is_err());
    }
}
