//! Patterns that a route matches texts of a message with: regular expressions over bytes, made into tables when the
//! configuration is loaded.
//!
//! A dense DFA looks at each byte once, and keeps nothing between two matches: no cache that shards would have to share, and
//! no text that a peer could choose to make it slow or large.

use std::error::Error;
use std::fmt;

use regex_automata::Input;
use regex_automata::dfa::dense::{BuildError, Builder, Config, DFA};
use regex_automata::dfa::{Automaton, StartKind};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

use super::value::Wrong;

/// A pattern that must match the whole of a text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    dfa: DFA<Vec<u32>>,
}

/// Bytes that the tables of one pattern may take, finished and while they are made.
const TABLE_BYTES_MAX: usize = 1 << 20;

/// What is taken for a pattern.
pub const PATTERN: &str = r#"a regular expression for the whole text, such as "[0-9]{4,}""#;

impl Pattern {
    /// # Errors
    /// Why `text` is no pattern; its tables may be too large, too.
    pub fn new(text: &str) -> Result<Pattern, Wrong> {
        // By itself first: a parenthesis too many must not be balanced by those put around it.
        let built = table(text).and_then(|_| table(&format!("(?:{text})$")));
        match built {
            Ok(dfa) => Ok(Pattern {
                text: text.to_owned(),
                dfa,
            }),
            Err(error) => Err(Some(reason(&error))),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `bytes` is what the pattern says. Allocates nothing.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let input = Input::new(bytes).anchored(regex_automata::Anchored::Yes);
        matches!(self.dfa.try_search_fwd(&input), Ok(Some(_)))
    }
}

fn table(text: &str) -> Result<DFA<Vec<u32>>, Box<BuildError>> {
    let limits = Config::new()
        .start_kind(StartKind::Anchored)
        .dfa_size_limit(Some(TABLE_BYTES_MAX))
        .determinize_size_limit(Some(TABLE_BYTES_MAX));
    Builder::new()
        .configure(limits)
        // SIP's texts are bytes.
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .thompson(
            thompson::Config::new()
                .utf8(false)
                .nfa_size_limit(Some(TABLE_BYTES_MAX)),
        )
        .build(text)
        .map_err(Box::new)
}

/// The innermost cause in one line.
fn reason(error: &BuildError) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let last = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    last.trim().trim_start_matches("error: ").to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_or_nothing() {
        for (pattern, text, expected) in [
            ("[+]49[0-9]+", &b"+4930123"[..], true),
            ("[+]49[0-9]+", b"+4930123x", false),
            ("[+]49[0-9]+", b"0+4930123", false),
            ("a|bc", b"a", true),
            ("a|bc", b"ac", false),
            ("a|bc", b"bc", true),
            ("(?i)gold", b"GoLd", true),
            ("", b"", true),
            ("", b"x", false),
            (".*", b"\xff\xfe", true),
        ] {
            let pattern = Pattern::new(pattern).expect(pattern);
            assert_eq!(
                pattern.matches(text),
                expected,
                "{pattern:?} on {}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_says_why() {
        for (text, why) in [
            ("a)|(b", "unopened group"),
            ("[0-9", "unclosed character class"),
            ("*", "repetition operator missing expression"),
        ] {
            let told = Pattern::new(text).expect_err(text).expect("a reason");
            assert_eq!(told, why, "{text}");
        }
        // States of the DFA, and of the NFA that it is made from.
        for text in ["(a|b)*a(a|b){30}", "(((a{100}){100}){100}){100}"] {
            let told = Pattern::new(text).expect_err("too large").expect("a reason");
            assert!(told.contains("exceed"), "{told}");
        }
    }
}
