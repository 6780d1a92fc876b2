//! What is wrong with a configuration, and what is only worth saying. Every error names the place, the key, what was
//! expected and what was found, so that it can be mended without opening the documentation.

use std::fmt;
use std::path::PathBuf;

/// Where a value was given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// In the file; line and column count from 1, columns in characters.
    File { line: u32, column: u32 },
    /// On the command line, by the option of this name.
    Flag(&'static str),
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    pub origin: Origin,
    /// The key with its section, `timers.timer_c_ms`; empty where the file can't be read so far.
    pub key: String,
    pub expected: String,
    pub found: String,
    /// A way out, where there is a likely one.
    pub hint: Option<String>,
}

/// All that is wrong, in the order of the file, what the command line gave last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors {
    pub file: Option<PathBuf>,
    pub list: Vec<ConfigError>,
}

/// Something to tell whoever starts the server, that does not stop it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Legal, and likely not what is wanted.
    Warning(String),
    /// A value that was worked out from the machine.
    Derived(String),
}

impl Notice {
    pub fn text(&self) -> &str {
        match self {
            Notice::Warning(text) | Notice::Derived(text) => text,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Notice::Warning(_) => "warning",
            Notice::Derived(_) => "note",
        };
        write!(f, "{kind}: {}", self.text())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match (error.origin, &self.file) {
                (Origin::File { line, column }, Some(file)) => {
                    write!(f, "{}:{line}:{column}: ", file.display())?
                }
                (Origin::File { line, column }, None) => write!(f, "line {line}:{column}: ")?,
                (Origin::Flag(flag), _) => write!(f, "{flag}: ")?,
                (Origin::Default, Some(file)) => write!(f, "{}: ", file.display())?,
                (Origin::Default, None) => {}
            }
            // An option's name says as much as its key's.
            if !error.key.is_empty() && !matches!(error.origin, Origin::Flag(_)) {
                write!(f, "{}: ", error.key)?;
            }
            write!(f, "expected {}, found {}", error.expected, error.found)?;
            if let Some(hint) = &error.hint {
                write!(f, "; {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
