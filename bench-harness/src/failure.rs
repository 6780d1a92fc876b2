//! What a phone says when a flow goes wrong.

use std::fmt;
use std::io;

/// Why a phone could not go on; the text says what it waited for and what it got.
pub struct Failure {
    text: String,
}

impl Failure {
    pub fn new(text: impl Into<String>) -> Failure {
        Failure { text: text.into() }
    }
}

/// Faults that a comparison found are a failure; none are none.
pub fn no_faults(faults: Vec<String>) -> Outcome {
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(faults.join("\n"))),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The same as [`fmt::Display`]: a test that returns it shows readable text.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

pub type Outcome<T = ()> = Result<T, Failure>;
