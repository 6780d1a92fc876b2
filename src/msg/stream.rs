//! Where messages end on TCP (RFC 3261 §7.5, §18.3), and the keep-alive between them (RFC 5626 §3.5.1, §4.4.1).

use memchr::memchr;

use super::error::ErrorKind;
use super::lex::{self, TOKEN};
use super::name::Name;
use super::scan::leading_line_ends;

/// What stands at the start of the bytes received so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A whole message of `len` bytes.
    Message { len: usize },
    /// A keep-alive of `len` bytes, CRLFCRLF: to be answered with CRLF.
    Ping { len: usize },
    /// `len` bytes of CR and LF that mean nothing.
    Skip { len: usize },
    /// More bytes are needed.
    Incomplete,
    /// The message is over a limit: `body` when it is its body that makes it so. `head` is the length of its head where the
    /// end of that is known, and then an answer (413 or 513) can be made from it.
    TooLarge { head: Option<usize>, body: bool },
    /// Bytes that can't be cut into messages.
    Bad(ErrorKind),
}

/// A head that is over the limit is read for so many bytes more: with its end the answer (513) is a whole one.
pub const HEAD_GRACE: usize = 4_096;

/// Limits in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameLimits {
    /// Head and body together.
    pub message_bytes_max: usize,
    pub body_bytes_max: usize,
}

/// Set in `searched` when the rest of it is the length of the whole message, and the head need not be looked at until it is
/// there.
const LENGTH_KNOWN: usize = 1 << (usize::BITS - 1);

/// Looks at `buf`, which begins where the last message ended.
///
/// `searched` is to be 0 for the first bytes of each message, and otherwise what the call before left in it: with it a message
/// that arrives a byte at a time is looked at once. It means nothing to the caller.
///
/// RFC 3261 §18.3 makes Content-Length mandatory on streams. A message without it is taken as one without a body, which is
/// what those that leave it away mean.
pub fn frame(buf: &[u8], searched: &mut usize, limits: FrameLimits) -> Frame {
    match buf.first() {
        None => return Frame::Incomplete,
        Some(b'\r' | b'\n') => return between_messages(buf),
        // A start line begins with a token: the method, or "SIP".
        Some(&byte) if !lex::is(byte, TOKEN) => return Frame::Bad(ErrorKind::NotSip),
        Some(_) => {}
    }
    let from = if *searched & LENGTH_KNOWN == 0 {
        *searched
    } else if buf.len() < *searched & !LENGTH_KNOWN {
        return Frame::Incomplete;
    } else {
        0
    };
    let mut found = search(buf, from);
    let Some(head) = found.head_len else {
        *searched = found.searched;
        if buf.len() >= limits.message_bytes_max + HEAD_GRACE {
            return Frame::TooLarge {
                head: None,
                body: false,
            };
        }
        return Frame::Incomplete;
    };
    if from > 0 {
        // Lines before `from` have been looked at and forgotten. This happens once a message.
        found = search(&buf[..head], 0);
    }
    if head > limits.message_bytes_max {
        return Frame::TooLarge {
            head: Some(head),
            body: false,
        };
    }
    let body = match found.content_length {
        Ok(len) => len.unwrap_or(0) as usize,
        Err(kind) => return Frame::Bad(kind),
    };
    if body > limits.body_bytes_max || body > limits.message_bytes_max - head {
        return Frame::TooLarge {
            head: Some(head),
            body: true,
        };
    }
    let len = head + body;
    if buf.len() < len {
        *searched = len | LENGTH_KNOWN;
        return Frame::Incomplete;
    }
    Frame::Message { len }
}

/// The keep-alive of RFC 5626 §3.5.1.
const PING: &[u8] = b"\r\n\r\n";

/// Whether what is [`Frame::Incomplete`] is no message that has begun but the beginning of a keep-alive, or line ends that mean nothing:
/// then the connection is idle, not half-way, and how many bytes there are says all. [`frame_after`] takes that up again.
pub fn is_idle(buf: &[u8]) -> bool {
    leading_line_ends(buf) == buf.len()
}

/// What `buf` begins with where the first `begun` bytes of a keep-alive came before it: [`Frame::Ping`] with the bytes of `buf` that it
/// takes, [`Frame::Incomplete`], or [`Frame::Skip`] of nothing where those line ends meant nothing and `buf` is to be looked at anew.
pub fn frame_after(begun: usize, buf: &[u8]) -> Frame {
    let missing = PING.get(begun..).unwrap_or_default();
    if buf.starts_with(missing) {
        Frame::Ping { len: missing.len() }
    } else if missing.starts_with(buf) {
        Frame::Incomplete
    } else {
        Frame::Skip { len: 0 }
    }
}

/// `buf` begins with CR or LF.
fn between_messages(buf: &[u8]) -> Frame {
    if buf.starts_with(PING) {
        return Frame::Ping { len: PING.len() };
    }
    // A ping may come in pieces.
    if PING.starts_with(buf) {
        return Frame::Incomplete;
    }
    // Up to where a ping might begin. What lies behind that is not looked at: it is anew each time, and there may be thousands of pings.
    let len = (1..buf.len())
        .take_while(|&at| matches!(buf[at], b'\r' | b'\n'))
        .find(|&at| buf[at..].starts_with(PING) || PING.starts_with(&buf[at..]))
        .unwrap_or_else(|| leading_line_ends(buf));
    Frame::Skip { len }
}

/// What one look through the lines of a head finds.
struct Search {
    /// Length of the head with the empty line that ends it, when that is there.
    head_len: Option<usize>,
    /// From where to look when more has come.
    searched: usize,
    /// Of the lines that begin behind where the search began.
    content_length: Result<Option<u32>, ErrorKind>,
}

/// Looks for the end of the head in `buf` from `from` on, which is 0 or where an earlier search stopped.
fn search(buf: &[u8], from: usize) -> Search {
    let mut found = Search {
        head_len: None,
        searched: from,
        content_length: Ok(None),
    };
    let mut at = from;
    while let Some(offset) = memchr(b'\n', &buf[at..]) {
        at += offset + 1;
        match &buf[at..] {
            [b'\n', ..] => {
                found.head_len = Some(at + 1);
                return found;
            }
            [b'\r', b'\n', ..] => {
                found.head_len = Some(at + 2);
                return found;
            }
            // What follows decides, and is not here yet.
            [] | [b'\r'] => {
                found.searched = at - 1;
                return found;
            }
            [b'c' | b'C' | b'l' | b'L', ..] => {
                if let Ok(before) = found.content_length {
                    found.content_length = content_length(buf, at, before);
                }
            }
            [..] => {}
        }
    }
    found.searched = buf.len();
    found
}

/// Reads the line that begins at `at` as [`super::scan::scan`] reads it: `before`, or its number if it is a Content-Length.
fn content_length(buf: &[u8], at: usize, before: Option<u32>) -> Result<Option<u32>, ErrorKind> {
    let mut end = next_line(buf, at);
    let Some(colon) = memchr(b':', &buf[at..end]) else {
        return Ok(before);
    };
    if Name::lookup(trim_blanks(&buf[at..at + colon])) != Name::ContentLength {
        return Ok(before);
    }
    // The value may be folded onto the lines that follow.
    while matches!(buf.get(end), Some(b' ' | b'\t')) {
        end = next_line(buf, end);
    }
    let len = lex::number(lex::trim(&buf[at + colon + 1..end])).ok_or(ErrorKind::BadContentLength)?;
    if before.is_some_and(|before| before != len) {
        return Err(ErrorKind::ContentLengthMismatch);
    }
    Ok(Some(len))
}

fn next_line(head: &[u8], at: usize) -> usize {
    memchr(b'\n', &head[at..]).map_or(head.len(), |offset| at + offset + 1)
}

fn trim_blanks(mut name: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = name {
        name = rest;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        message_bytes_max: 100,
        body_bytes_max: 50,
    };

    fn once(buf: &[u8]) -> Frame {
        frame(buf, &mut 0, LIMITS)
    }

    #[test]
    fn content_length_says_where_a_message_ends() {
        assert_eq!(
            once(b"A b SIP/2.0\r\nl: 3\r\n\r\nabcX"),
            Frame::Message { len: 24 }
        );
        assert_eq!(
            once(b"A b SIP/2.0\r\nCONTENT-length \t:\r\n 3 \r\n\r\nabcX"),
            Frame::Message { len: 42 }
        );
        assert_eq!(once(b"A b SIP/2.0\nl: 3\n\nabcX"), Frame::Message { len: 21 });
        assert_eq!(once(b"A b SIP/2.0\r\n\r\nabc"), Frame::Message { len: 15 });
        assert_eq!(
            once(b"A b SIP/2.0\r\nX: y\r\n l: 3\r\n\r\nabc"),
            Frame::Message { len: 28 }
        );
        assert_eq!(once(b"A b SIP/2.0\r\nl: 3\r\n\r\nab"), Frame::Incomplete);
        assert_eq!(
            once(b"A b SIP/2.0\r\nl: 3\r\nl: 4\r\n\r\n"),
            Frame::Bad(ErrorKind::ContentLengthMismatch)
        );
        assert_eq!(
            once(b"A b SIP/2.0\r\nl: -3\r\n\r\n"),
            Frame::Bad(ErrorKind::BadContentLength)
        );
        assert_eq!(once(b"\x16\x03\x01"), Frame::Bad(ErrorKind::NotSip));
    }

    #[test]
    fn a_message_that_comes_slowly_is_looked_at_once() {
        let mut searched = 0;
        let mut next = |buf: &[u8]| {
            let found = frame(buf, &mut searched, LIMITS);
            (found, searched & !LENGTH_KNOWN)
        };
        assert_eq!(next(b"A b SIP/2.0"), (Frame::Incomplete, 11));
        // The line feed decides together with what follows it.
        assert_eq!(next(b"A b SIP/2.0\r\n"), (Frame::Incomplete, 12));
        assert_eq!(next(b"A b SIP/2.0\r\n\r"), (Frame::Incomplete, 12));
        assert_eq!(next(b"A b SIP/2.0\r\nl: 3"), (Frame::Incomplete, 17));
        // From here on the length is known.
        assert_eq!(next(b"A b SIP/2.0\r\nl: 3\r\n\r\na"), (Frame::Incomplete, 24));
        assert_eq!(
            next(b"A b SIP/2.0\r\nl: 3\r\n\r\nabc"),
            (Frame::Message { len: 24 }, 24)
        );
    }

    #[test]
    fn limits_hold_for_head_and_body() {
        let head = |filler: usize, len: &str| {
            format!("A b SIP/2.0\r\nl: {len}\r\nx: {}\r\n\r\n", "y".repeat(filler))
        };
        assert_eq!(
            once(head(0, "51").as_bytes()),
            Frame::TooLarge {
                head: Some(27),
                body: true
            }
        );
        assert_eq!(
            once(head(30, "50").as_bytes()),
            Frame::TooLarge {
                head: Some(57),
                body: true
            }
        );
        assert_eq!(
            once(head(0, "99999999999").as_bytes()),
            Frame::TooLarge {
                head: Some(36),
                body: true
            }
        );
        assert_eq!(
            once(head(90, "0").as_bytes()),
            Frame::TooLarge {
                head: Some(116),
                body: false
            }
        );
        assert_eq!(once(&[b'a'; 99 + HEAD_GRACE]), Frame::Incomplete);
        assert_eq!(
            once(&[b'a'; 100 + HEAD_GRACE]),
            Frame::TooLarge {
                head: None,
                body: false
            }
        );
    }

    #[test]
    fn line_ends_between_messages_are_pings_or_nothing() {
        assert_eq!(once(b"\r\n\r\n"), Frame::Ping { len: 4 });
        assert_eq!(once(b"\r\n\r\nA"), Frame::Ping { len: 4 });
        for waiting in [&b""[..], b"\r", b"\r\n", b"\r\n\r"] {
            assert_eq!(once(waiting), Frame::Incomplete);
            assert!(is_idle(waiting));
        }
        assert_eq!(once(b"\r\nA"), Frame::Skip { len: 2 });
        assert_eq!(once(b"\n\r\n\r\n"), Frame::Skip { len: 1 });
        assert_eq!(once(b"\n\r\n"), Frame::Skip { len: 1 });
        assert_eq!(once(b"\n\n"), Frame::Skip { len: 2 });
        assert!(!is_idle(b"\r\nA"));
    }

    /// Looking at all line ends for each ping among them, this does not end within the hour.
    #[test]
    fn of_many_line_ends_each_is_looked_at_a_few_times() {
        let text = b"\n\r\n\r\n".repeat(1 << 20);
        let (mut rest, mut pings) = (&text[..], 0);
        while !rest.is_empty() {
            rest = match once(rest) {
                Frame::Ping { len } => {
                    pings += 1;
                    &rest[len..]
                }
                Frame::Skip { len } => &rest[len..],
                other => panic!("{other:?}"),
            };
        }
        assert_eq!(pings, 1 << 20);
    }

    #[test]
    fn line_ends_that_came_before_are_remembered_by_how_many_there_were() {
        // However line ends and the beginning of a message are cut: as if they had come at once.
        let seen = |chunks: &[&[u8]]| {
            let (mut begun, mut pings) = (0, 0);
            for chunk in chunks {
                let mut rest = *chunk;
                let mut framed = match begun {
                    0 => once(rest),
                    begun => frame_after(begun, rest),
                };
                loop {
                    match framed {
                        Frame::Ping { len } => {
                            pings += 1;
                            rest = &rest[len..];
                        }
                        Frame::Skip { len } => rest = &rest[len..],
                        Frame::Incomplete if is_idle(rest) => {
                            let before = if rest.len() == chunk.len() { begun } else { 0 };
                            begun = before + rest.len();
                            break;
                        }
                        _ => return (pings, rest.first().copied()),
                    }
                    begun = 0;
                    framed = once(rest);
                }
            }
            (pings, None)
        };
        for text in [
            &b"\r\n\r\nA"[..],
            b"\r\nA",
            b"\rA",
            b"\r\n\r\n\r\n\r\nA",
            b"\n\r\n\r\n\rA",
            b"\r\r\n\r\nA",
        ] {
            let whole = seen(&[text]);
            assert_eq!(whole.1, Some(b'A'));
            for one in 0..=text.len() {
                for two in one..=text.len() {
                    let chunks = [&text[..one], &text[one..two], &text[two..]];
                    assert_eq!(seen(&chunks), whole, "{chunks:?}");
                }
            }
        }
    }
}
