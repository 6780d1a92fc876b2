//! The beginning of a message of ours as an ICMP error quotes it: as much as fits into the error, which is 520 bytes where Linux answers
//! over IPv4 and some 1,180 over IPv6, and none of the message at the least (RFC 792).

use memchr::memmem;

use super::lex;
use super::message::VERSION;
use super::method::Method;
use super::name::Name;
use super::via::Via;

/// What was quoted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quoted<'a> {
    Request {
        method: Method,
        /// The topmost.
        via: Via<'a>,
    },
    Response,
}

impl Quoted<'_> {
    /// Reads what it takes to know a message again, and nothing behind that. `None`: too little came back, or it is no message.
    pub fn read(bytes: &[u8]) -> Option<Quoted<'_>> {
        let mut rest = bytes;
        // What has no end was cut, and an empty line ends the head.
        let mut lines = std::iter::from_fn(|| {
            let (line, behind) = rest.split_at(memmem::find(rest, b"\r\n")?);
            rest = &behind[2..];
            Some(line).filter(|line| !line.is_empty())
        });
        // As we write it. What the scanner reads a first line with has one caller, and is part of it: another one costs every message
        // some fifty instructions.
        let first = lines.next()?;
        if first.starts_with(VERSION) {
            return Some(Quoted::Response);
        }
        let (method, rest) = first.split_at(memchr::memchr(b' ', first)?);
        if !lex::is_token(method) || !rest.ends_with(VERSION) {
            return None;
        }
        let method = Method::lookup(method);
        let value = lines.find_map(|line| {
            let (name, value) = line.split_at(memchr::memchr(b':', line)?);
            (Name::lookup(lex::trim(name)) == Name::Via).then(|| &value[1..])
        })?;
        let via = Via::parse(lex::Elements::new(value).next()?).ok()?;
        Some(Quoted::Request { method, via })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] = b"INVITE sip:b@192.0.2.2 SIP/2.0\r\nMax-Forwards: 70\r\n\
        Via:        SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa, SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKb\r\n\
        Via: SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKc\r\nCall-ID: x\r\n\r\n";

    #[test]
    fn a_request_is_known_by_its_topmost_via_as_soon_as_that_is_whole() {
        let whole = memmem::find(INVITE, b"z9hG4bKb\r\n").expect("it is there") + 10;
        for len in 0..=INVITE.len() {
            let read = Quoted::read(&INVITE[..len]);
            if len < whole {
                assert_eq!(read, None, "{len}");
                continue;
            }
            let Some(Quoted::Request { method, via }) = read else {
                panic!("{read:?} of {len}");
            };
            assert_eq!((method, via.branch), (Method::Invite, Some(&b"z9hG4bKa"[..])));
        }
    }

    #[test]
    fn what_is_no_request_is_none() {
        assert_eq!(Quoted::read(b"SIP/2.0 200 OK\r\nVia:"), Some(Quoted::Response));
        for none in [
            &b"\r\n\r\n"[..],
            b"\0\x01\0\0",
            b"INVITE sip:b@192.0.2.2 SIP/2.0\r\nCall-ID: x\r\n\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n",
            b"INVITE sip:b@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP \r\n",
            b"INVITE sip:b@192.0.2.2 SIP/2.0\r\nVia:\r\n",
        ] {
            assert_eq!(Quoted::read(none), None, "{}", none.escape_ascii());
        }
    }
}
