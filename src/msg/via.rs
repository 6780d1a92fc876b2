//! One element of a Via header field (RFC 3261 §20.42, §25.1 `via-parm`; RFC 3581).

use core::net::IpAddr;

use super::error::{ErrorKind, Malformed, ParseError};
use super::lex::{self, TOKEN};
use super::name::Name;
use super::params::{self, Params};
use super::scan::Message;

/// `SIP/2.0/UDP host:port;branch=...`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Via<'a> {
    /// This element alone, trimmed.
    pub raw: &'a [u8],
    pub transport: &'a [u8],
    /// Host and port as received, white space around the colon included.
    pub sent_by: &'a [u8],
    /// An IPv6 address keeps its brackets.
    pub host: &'a [u8],
    pub port: Option<u16>,
    /// After the first semicolon, well-formed; empty if none.
    pub params: &'a [u8],
    /// Never empty.
    pub branch: Option<&'a [u8]>,
    /// Whether it has a `received`, which [`Via::received_ip`] reads.
    pub has_received: bool,
    /// `Some(None)` is the flag that asks for it (RFC 3581 §3), `Some(Some(_))` a port.
    pub rport: Option<Option<u16>>,
    /// Whether it has an `oc` (RFC 7339 §4.1), which is empty where the client only says that it knows overload control.
    pub has_oc: bool,
}

impl<'a> Via<'a> {
    pub fn parse(element: &'a [u8]) -> Result<Via<'a>, Malformed> {
        let lead = lex::skip_lws(element, 0);
        let raw = lex::trim_end(&element[lead..]);
        Self::parse_trimmed(raw).map_err(|malformed| malformed.shifted(lead))
    }

    fn parse_trimmed(raw: &'a [u8]) -> Result<Via<'a>, Malformed> {
        // Spelled as nearly all spell it, the protocol is one comparison.
        let (transport, sent_by_start) =
            if raw.starts_with(b"SIP/2.0/UDP ") || raw.starts_with(b"SIP/2.0/TCP ") {
                (&raw[8..11], lex::skip_lws(raw, 12))
            } else {
                sent_protocol(raw)?
            };
        let host_end = sent_by_start + lex::host_len(&raw[sent_by_start..]);
        if host_end == sent_by_start {
            return Err(Malformed::at(sent_by_start));
        }
        let mut sent_by_end = host_end;
        let mut next = lex::skip_lws(raw, host_end);
        let mut port = None;
        if raw.get(next) == Some(&b':') {
            let port_start = lex::skip_lws(raw, next + 1);
            let (number, digits) = lex::leading_number(&raw[port_start..]);
            sent_by_end = port_start + digits;
            port = match u16::try_from(number) {
                Ok(port) if digits > 0 && raw.get(sent_by_end).is_none_or(|&byte| !lex::is(byte, TOKEN)) => {
                    Some(port)
                }
                Ok(_) | Err(_) => return Err(Malformed::at(port_start)),
            };
            next = lex::skip_lws(raw, sent_by_end);
        }
        let mut via = Via {
            raw,
            transport,
            sent_by: &raw[sent_by_start..sent_by_end],
            host: &raw[sent_by_start..host_end],
            port,
            params: &raw[raw.len()..],
            branch: None,
            has_received: false,
            rport: None,
            has_oc: false,
        };
        match raw.get(next) {
            None => {}
            Some(b';') if next + 1 < raw.len() => {
                via.params = &raw[next + 1..];
                via.read_params().map_err(|m| m.shifted(next + 1))?;
            }
            Some(_) => return Err(Malformed::at(next)),
        }
        Ok(via)
    }

    /// The first of each parameter counts, as for every reader behind us.
    fn read_params(&mut self) -> Result<(), Malformed> {
        let bytes = self.params;
        let place = |part: &[u8]| Malformed::at(part.as_ptr() as usize - bytes.as_ptr() as usize);
        let mut params = Params::new(bytes);
        self.branch = params.take_first(b"branch=");
        let mut has_ttl = false;
        while let Some(param) = params.step()? {
            let value = param.value_or_empty();
            if self.branch.is_none() && param.is(b"branch") {
                if value.is_empty() {
                    return Err(place(param.name));
                }
                self.branch = Some(value);
            } else if param.is(b"received") {
                self.has_received = true;
            } else if self.rport.is_none() && param.is(b"rport") {
                self.rport = Some(match value {
                    b"" => None,
                    digits => Some(lex::port(digits).ok_or(place(param.name))?),
                });
            } else if !has_ttl && param.is(b"ttl") {
                let ttl = lex::number(value).and_then(|ttl| u8::try_from(ttl).ok());
                ttl.ok_or(place(param.name))?;
                has_ttl = true;
            } else if param.is(b"oc") {
                self.has_oc = true;
            }
        }
        Ok(())
    }

    /// The topmost Via of a message (RFC 3261 §8.1.1.7: there is one at least).
    #[inline]
    pub fn top(msg: Message<'a>) -> Result<Via<'a>, ParseError> {
        let line = msg
            .line(Name::Via)
            .ok_or(ParseError::new(ErrorKind::Missing(Name::Via), msg.head_end()))?;
        let value = msg.value_of(line);
        // What has a comma that separates is no Via as a whole: most lines hold one element, which is not looked for first.
        // Nor is the white space at its ends, which the scan has left out.
        if let Ok(via) = Via::parse_trimmed(value) {
            return Ok(via);
        }
        let element = lex::Elements::new(value).next().unwrap_or(value);
        Via::parse(element).map_err(|m| m.within(ErrorKind::BadVia, msg.span_of(element).start))
    }

    /// The parameter `name` (any case), as received; empty for a flag.
    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        params::find(self.params, name)
    }

    /// Whether whoever wrote it obeys the loss-based overload control of RFC 7339.
    pub fn obeys_loss(&self) -> bool {
        // §4.2: a list of algorithms, in quotes.
        self.has_oc
            && self.param(b"oc-algo").is_some_and(|list| {
                let list = list.strip_prefix(b"\"").unwrap_or(list);
                let list = list.strip_suffix(b"\"").unwrap_or(list);
                list.split(|byte| *byte == b',')
                    .any(|algorithm| algorithm.trim_ascii().eq_ignore_ascii_case(b"loss"))
            })
    }

    /// The address that the sent-by host is, `None` for a name.
    pub fn host_ip(&self) -> Option<IpAddr> {
        lex::host_ip(self.host)
    }

    /// Whether the sent-by host is this address.
    pub fn is_of(&self, ip: IpAddr) -> bool {
        self.host_ip().map(|ip| ip.to_canonical()) == Some(ip.to_canonical())
    }

    /// The address in `received`, with or without the brackets that some write around IPv6.
    pub fn received_ip(&self) -> Option<IpAddr> {
        lex::host_ip(self.param(b"received")?)
    }
}

/// Three tokens with slashes, white space around them allowed: the transport, and where sent-by begins.
fn sent_protocol(raw: &[u8]) -> Result<(&[u8], usize), Malformed> {
    let at = slash(raw, token_end(raw, 0)?)?;
    let at = slash(raw, token_end(raw, at)?)?;
    let transport_end = token_end(raw, at)?;
    let sent_by_start = lex::skip_lws(raw, transport_end);
    if sent_by_start == transport_end {
        return Err(Malformed::at(transport_end));
    }
    Ok((&raw[at..transport_end], sent_by_start))
}

fn token_end(raw: &[u8], at: usize) -> Result<usize, Malformed> {
    match lex::skip(raw, at, TOKEN) {
        end if end > at => Ok(end),
        _ => Err(Malformed::at(at)),
    }
}

/// Index behind a slash and the white space around it (§25.1 `SLASH`).
fn slash(raw: &[u8], at: usize) -> Result<usize, Malformed> {
    let at = lex::skip_lws(raw, at);
    match raw.get(at) {
        Some(b'/') => Ok(lex::skip_lws(raw, at + 1)),
        Some(_) | None => Err(Malformed::at(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_via_comes_apart_however_it_is_spaced() {
        let via = Via::parse(b"SIP / 2.0\r\n / UDP\t[2001:db8::9] : 5070 ; Branch = z9hG4bKx;rport ;received=192.0.2.1;ttl=16;maddr=224.2.0.1")
            .expect("well-formed");
        assert_eq!(
            (via.transport, via.host, via.port),
            (&b"UDP"[..], &b"[2001:db8::9]"[..], Some(5070))
        );
        assert_eq!(via.sent_by, b"[2001:db8::9] : 5070");
        assert_eq!(via.branch, Some(&b"z9hG4bKx"[..]));
        assert_eq!(
            (via.rport, via.has_received, via.has_oc),
            (Some(None), true, false)
        );
        assert_eq!(via.received_ip(), "192.0.2.1".parse().ok());
        assert_eq!(via.param(b"maddr"), Some(&b"224.2.0.1"[..]));
        let short = Via::parse(b"SIP/2.0/TCP a.example;rport=5").expect("well-formed");
        assert_eq!(
            (short.port, short.branch, short.rport),
            (None, None, Some(Some(5)))
        );
    }

    #[test]
    fn what_breaks_the_grammar_is_refused_at_the_byte() {
        for (bad, at) in [
            ("", 0),
            ("SIP/2.0", 7),
            ("SIP/2.0/", 8),
            ("SIP/2.0/UDP", 11),
            ("SIP/2.0/UDP;x", 11),
            ("SIP/2.0/UDP ;x", 12),
            ("SIP/2.0/UDP h:", 14),
            ("SIP/2.0/UDP h:65536", 14),
            ("SIP/2.0/UDP h:5x", 14),
            ("SIP/2.0/UDP [::1", 12),
            ("SIP/2.0/UDP h i", 14),
            ("SIP/2.0/UDP h;", 13),
            ("SIP/2.0/UDP h;;a", 14),
            ("SIP/2.0/UDP h;branch", 14),
            ("SIP/2.0/UDP h;branch=", 14),
            ("SIP/2.0/UDP h;a;rport=x", 16),
            ("SIP/2.0/UDP h;ttl=256", 14),
        ] {
            assert_eq!(Via::parse(bad.as_bytes()), Err(Malformed { at }), "{bad}");
        }
    }
}
