//! SIP messages: received bytes, a table of where things lie in them, and typed views that borrow both (RFC 3261 §7, §25).
//!
//! Nothing here allocates, copies or reads a clock. [`scan::scan`] walks the bytes once and fills a [`scan::Table`];
//! [`request::Request::check`] proves what RFC 3261 §8.1.1 asks of every message; the views ([`via::Via`],
//! [`name_addr::NameAddr`], [`uri::Uri`], [`cseq::CSeq`]) parse a part when it is asked for. [`edit::Edits`] turns a received
//! message into the one sent on, [`build`] writes new ones, [`stream::frame`] finds where messages end on TCP.
//!
//! Whatever a peer sends yields a value or a [`error::ParseError`], never a panic.

pub mod build;
pub mod cseq;
pub mod edit;
pub mod error;
pub mod lanes;
pub mod lex;
pub mod message;
pub mod method;
pub mod name;
pub mod name_addr;
pub mod named_dialog;
pub mod params;
pub mod quoted;
pub mod reason;
pub mod request;
pub mod scan;
pub mod sdp;
pub mod seen;
pub mod start;
pub mod status;
pub mod stream;
pub mod uri;
pub mod via;

/// A part of a message: byte offsets, `start` included, `end` not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub const fn new(start: u32, end: u32) -> Span {
        Span { start, end }
    }

    /// The bytes it names in `bytes`, which must be those that it was made from.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }
}
