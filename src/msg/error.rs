//! What is wrong with a message, and where: two words that cost nothing to make and to pass on.
//!
//! The text (`Display`) is what the reason phrase of the answer says, so that the phone's log tells its owner what to mend.

use core::fmt;
use core::fmt::Write as _;

use super::build::Writer;
use super::name::Name;

/// The kinds of malformed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The first line is neither a request line nor a status line of any SIP version.
    NotSip,
    /// The first line means to be SIP and breaks RFC 3261 §7.1 or §7.2.
    StartLine,
    /// A SIP version other than 2.0.
    Version,
    /// A header line without a name and colon, or with a CR that ends no line.
    HeaderLine,
    /// No empty line ends the header section.
    HeadUnterminated,
    /// More header lines than [`super::scan::LINES_MAX`].
    TooManyHeaders,
    /// A header field that every message must have (RFC 3261 §8.1.1) is not there.
    Missing(Name),
    /// A header field that may stand once stands twice.
    DuplicateHeader(Name),
    BadVia,
    BadNameAddr(Name),
    BadUri,
    BadCallId,
    BadCSeq,
    /// RFC 3261 §8.1.1.5: the number must be less than 2^31.
    CSeqOverflow,
    /// RFC 3261 §8.1.1.5: the method must be that of the request line.
    CSeqMethodMismatch,
    BadContentLength,
    /// Two Content-Length header fields that differ.
    ContentLengthMismatch,
    /// A datagram shorter than its Content-Length says (RFC 3261 §18.3).
    BodyTruncated,
    /// Not a number of 0 to 255 (RFC 3261 §20.22).
    BadMaxForwards,
    BadExpires,
    /// A `tag` parameter without a value.
    BadTag,
}

/// What is wrong, and at which byte of what was parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseError {
    pub kind: ErrorKind,
    pub at: u32,
}

/// A part that breaks its grammar at byte `at` of that part. Who knows which header it is makes a [`ParseError`] of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    pub at: u32,
}

impl Malformed {
    pub(super) const fn at(at: usize) -> Malformed {
        Malformed { at: at as u32 }
    }

    /// The same place counted from `by` bytes further ahead.
    pub(super) const fn shifted(self, by: usize) -> Malformed {
        Malformed {
            at: self.at.saturating_add(by as u32),
        }
    }

    /// The error that it is in a message where the part begins at `start`.
    pub const fn within(self, kind: ErrorKind, start: u32) -> ParseError {
        ParseError {
            kind,
            at: start.saturating_add(self.at),
        }
    }
}

impl ParseError {
    pub const fn new(kind: ErrorKind, at: u32) -> ParseError {
        ParseError { kind, at }
    }

    /// The same error of a part that begins at `start` of the message.
    pub const fn shifted(self, start: u32) -> ParseError {
        ParseError {
            kind: self.kind,
            at: self.at.saturating_add(start),
        }
    }

    /// The status code that answers a request with this mistake: 505 for another SIP version, else 400.
    pub const fn status(&self) -> u16 {
        match self.kind {
            ErrorKind::Version => 505,
            ErrorKind::NotSip
            | ErrorKind::StartLine
            | ErrorKind::HeaderLine
            | ErrorKind::HeadUnterminated
            | ErrorKind::TooManyHeaders
            | ErrorKind::Missing(_)
            | ErrorKind::DuplicateHeader(_)
            | ErrorKind::BadVia
            | ErrorKind::BadNameAddr(_)
            | ErrorKind::BadUri
            | ErrorKind::BadCallId
            | ErrorKind::BadCSeq
            | ErrorKind::CSeqOverflow
            | ErrorKind::CSeqMethodMismatch
            | ErrorKind::BadContentLength
            | ErrorKind::ContentLengthMismatch
            | ErrorKind::BodyTruncated
            | ErrorKind::BadMaxForwards
            | ErrorKind::BadExpires
            | ErrorKind::BadTag => 400,
        }
    }

    /// Writes the reason phrase.
    pub fn reason(&self, w: &mut Writer<'_>) {
        // A writer that is full remembers it by itself.
        let _ = write!(w, "{self}");
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::NotSip => f.write_str("Not a SIP message"),
            ErrorKind::StartLine => f.write_str("Malformed start line"),
            ErrorKind::Version => f.write_str("SIP version not supported"),
            ErrorKind::HeaderLine => f.write_str("Malformed header line"),
            ErrorKind::HeadUnterminated => f.write_str("No empty line ends the header section"),
            ErrorKind::TooManyHeaders => f.write_str("Too many header lines"),
            ErrorKind::Missing(name) => write!(f, "{} is missing", name.text()),
            ErrorKind::DuplicateHeader(name) => write!(f, "{} stands twice", name.text()),
            ErrorKind::BadVia => f.write_str("Malformed Via"),
            ErrorKind::BadNameAddr(name) => write!(f, "Malformed {}", name.text()),
            ErrorKind::BadUri => f.write_str("Malformed URI"),
            ErrorKind::BadCallId => f.write_str("Malformed Call-ID"),
            ErrorKind::BadCSeq => f.write_str("Malformed CSeq"),
            ErrorKind::CSeqOverflow => f.write_str("CSeq number exceeds 2^31"),
            ErrorKind::CSeqMethodMismatch => f.write_str("CSeq method differs from the request's"),
            ErrorKind::BadContentLength => f.write_str("Malformed Content-Length"),
            ErrorKind::ContentLengthMismatch => f.write_str("Two Content-Length values differ"),
            ErrorKind::BodyTruncated => f.write_str("Body is shorter than Content-Length"),
            ErrorKind::BadMaxForwards => f.write_str("Malformed Max-Forwards"),
            ErrorKind::BadExpires => f.write_str("Malformed Expires"),
            ErrorKind::BadTag => f.write_str("Malformed tag"),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            // A place is of no use where something is not there.
            ErrorKind::Missing(_) | ErrorKind::Version => write!(f, "{}", self.kind),
            ErrorKind::NotSip
            | ErrorKind::StartLine
            | ErrorKind::HeaderLine
            | ErrorKind::HeadUnterminated
            | ErrorKind::TooManyHeaders
            | ErrorKind::DuplicateHeader(_)
            | ErrorKind::BadVia
            | ErrorKind::BadNameAddr(_)
            | ErrorKind::BadUri
            | ErrorKind::BadCallId
            | ErrorKind::BadCSeq
            | ErrorKind::CSeqOverflow
            | ErrorKind::CSeqMethodMismatch
            | ErrorKind::BadContentLength
            | ErrorKind::ContentLengthMismatch
            | ErrorKind::BodyTruncated
            | ErrorKind::BadMaxForwards
            | ErrorKind::BadExpires
            | ErrorKind::BadTag => write!(f, "{} at byte {}", self.kind, self.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_phrase_says_what_and_where() {
        let mut buf = [0; 64];
        let mut w = Writer::new(&mut buf);
        ParseError::new(ErrorKind::CSeqOverflow, 217).reason(&mut w);
        let len = w.finish().expect("room");
        assert_eq!(&buf[..len], b"CSeq number exceeds 2^31 at byte 217");
        assert_eq!(
            ParseError::new(ErrorKind::Missing(Name::CallId), 9).to_string(),
            "Call-ID is missing"
        );
    }

    #[test]
    fn only_a_foreign_version_is_a_505() {
        assert_eq!(ParseError::new(ErrorKind::Version, 0).status(), 505);
        assert_eq!(ParseError::new(ErrorKind::BadVia, 0).status(), 400);
    }
}
