//! Session descriptions (RFC 8866, before it RFC 4566), read for one thing: where media is to be sent.
//!
//! Nothing is checked beyond that and nothing is ever changed: bodies pass through as they came.

use std::net::{IpAddr, SocketAddr};

use super::lex;

/// Lines that are looked at: the first video stream of a phone with many codecs comes well before.
const LINES_MAX: usize = 256;

/// Where who wrote the description wants its audio sent; its first stream where there is no audio. `None`: it names no stream
/// that is wanted, no IP address, or is no session description.
pub fn media_address(body: &[u8]) -> Option<SocketAddr> {
    let mut lines = body.split(|byte| *byte == b'\n').take(LINES_MAX);
    // RFC 8866 §5.1: the version comes first, and is 0.
    if lines.next()?.trim_ascii_end() != b"v=0" {
        return None;
    }
    // §5.7: a connection line before the first stream holds for all that have none of their own.
    let mut session = None;
    let mut best: Option<Stream> = None;
    let mut current: Option<Stream> = None;
    for line in lines {
        let Some((kind, value)) = line.trim_ascii_end().split_at_checked(2) else {
            continue;
        };
        match (kind, &mut current) {
            (b"m=", _) => {
                best = better(best, current.take());
                current = Stream::parse(value);
            }
            (b"c=", Some(stream)) => stream.ip = connection(value),
            (b"c=", None) if best.is_none() => session = connection(value),
            _ => {}
        }
    }
    let stream = better(best, current)?;
    Some(SocketAddr::new(stream.ip.or(session)?, stream.port))
}

#[derive(Clone, Copy)]
struct Stream {
    is_audio: bool,
    port: u16,
    ip: Option<IpAddr>,
}

impl Stream {
    /// §5.14: `m=<media> <port>/<number of ports> <proto> <fmt> ...`. Port 0 is a stream that is not wanted (RFC 3264 §6).
    fn parse(value: &[u8]) -> Option<Stream> {
        let mut words = value.split(|byte| *byte == b' ');
        let media = words.next()?;
        let port = words.next()?.split(|byte| *byte == b'/').next()?;
        let port = lex::port(port).filter(|port| *port > 0)?;
        Some(Stream {
            is_audio: media == b"audio",
            port,
            ip: None,
        })
    }
}

/// The first audio stream, else the first.
fn better(first: Option<Stream>, second: Option<Stream>) -> Option<Stream> {
    match (first, second) {
        (Some(first), Some(second)) if !first.is_audio && second.is_audio => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    }
}

/// §5.7: `c=IN IP4 <address>`, which may be followed by a TTL where it is a group. Host names are not looked up.
fn connection(value: &[u8]) -> Option<IpAddr> {
    let mut words = value.split(|byte| *byte == b' ');
    let (b"IN", b"IP4" | b"IP6") = (words.next()?, words.next()?) else {
        return None;
    };
    let address = words.next()?.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(address).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        media_address(text.as_bytes()).map(|addr| addr.to_string())
    }

    #[test]
    fn a_stream_has_the_address_of_the_session_unless_it_has_its_own() {
        let session = "v=0\r\no=- 1 1 IN IP4 127.0.0.3\r\ns=-\r\nc=IN IP4 127.0.0.2\r\nt=0 0\r\n";
        assert_eq!(
            of(&format!(
                "{session}m=audio 49170 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
            )),
            Some("127.0.0.2:49170".into())
        );
        assert_eq!(
            of(&format!("{session}m=audio 49170/2 RTP/AVP 0\r\nc=IN IP6 ::1\r\n")),
            Some("[::1]:49170".into())
        );
        assert_eq!(
            of("v=0\nm=audio 7 RTP/AVP 0\nc=IN IP4 239.255.0.1/127\n"),
            Some("239.255.0.1:7".into())
        );
    }

    #[test]
    fn audio_comes_before_what_stands_first_and_what_is_not_wanted_does_not_count() {
        let video = "m=video 5000 RTP/AVP 96\r\nc=IN IP4 127.0.0.5\r\n";
        let audio = "m=audio 6000 RTP/AVP 0\r\n";
        let head = "v=0\r\nc=IN IP4 127.0.0.2\r\n";
        assert_eq!(of(&format!("{head}{video}")), Some("127.0.0.5:5000".into()));
        assert_eq!(
            of(&format!("{head}{video}{audio}")),
            Some("127.0.0.2:6000".into())
        );
        assert_eq!(
            of(&format!("{head}{audio}{video}")),
            Some("127.0.0.2:6000".into())
        );
        assert_eq!(
            of(&format!("{head}m=audio 0 RTP/AVP 0\r\n{video}")),
            Some("127.0.0.5:5000".into())
        );
        assert_eq!(of(&format!("{head}m=audio 0 RTP/AVP 0\r\n")), None);
    }

    #[test]
    fn what_is_no_description_or_names_no_address_is_none() {
        for text in [
            "",
            "m=audio 7 RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\n",
            "v=1\r\nc=IN IP4 127.0.0.1\r\nm=audio 7 RTP/AVP 0\r\n",
            "v=0\r\nm=audio 7 RTP/AVP 0\r\n",
            "v=0\r\nc=IN IP4 phone.example\r\nm=audio 7 RTP/AVP 0\r\n",
            "v=0\r\nc=IN IP4\r\nm=audio\r\n",
            "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 70000 RTP/AVP 0\r\n",
        ] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }
}
