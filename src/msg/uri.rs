//! SIP, SIPS and tel URIs (RFC 3261 §19.1, §25.1; RFC 3966), and any other by its scheme alone.

use core::net::IpAddr;

use super::error::Malformed;
use super::lanes;
use super::lex::{self, ADDR, URI_TAIL, USER};

/// What a URI begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    Other,
}

/// Parameters, and headers, of which each is looked for among those of the URI that it is compared with. The RFCs know a dozen of either; a
/// URI of a thousand would keep whoever compares it for a long time.
pub const PAIRS_COMPARED_MAX: usize = 32;

/// A URI in its parts, none of them unescaped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uri<'a> {
    pub raw: &'a [u8],
    pub scheme: Scheme,
    pub scheme_text: &'a [u8],
    /// The user part, without a password. For `tel` the number.
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
    /// An IPv6 address keeps its brackets. Empty for `tel` and other schemes.
    pub host: &'a [u8],
    pub port: Option<u16>,
    /// After the first semicolon that follows the host (for `tel` the number); empty if none.
    pub params: &'a [u8],
    /// After the question mark; empty if none.
    pub headers: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Parses a whole URI: no white space, no `<>`.
    pub fn parse(raw: &'a [u8]) -> Result<Uri<'a>, Malformed> {
        let colon = match raw {
            [_, _, _, b':', ..] => 3,
            _ => memchr::memchr(b':', raw).ok_or(Malformed::at(raw.len()))?,
        };
        let (scheme_text, rest) = (&raw[..colon], &raw[colon + 1..]);
        let scheme = match scheme_text {
            b"sip" => Scheme::Sip,
            b"tel" => Scheme::Tel,
            _ => scheme_of(scheme_text)?,
        };
        let none = &raw[raw.len()..];
        let empty = Uri {
            raw,
            scheme,
            scheme_text,
            user: None,
            password: None,
            host: none,
            port: None,
            params: none,
            headers: none,
        };
        let parsed = match scheme {
            Scheme::Sip | Scheme::Sips => empty.sip(rest),
            Scheme::Tel => empty.tel(rest),
            Scheme::Other => empty.other(rest),
        };
        parsed.map_err(|malformed| malformed.shifted(colon + 1))
    }

    fn sip(mut self, rest: &'a [u8]) -> Result<Uri<'a>, Malformed> {
        let mut at = 0;
        // `@` may stand nowhere but behind the userinfo: elsewhere it is escaped.
        let plain = lex::alphanumeric_len(rest);
        if plain > 0 && rest.get(plain) == Some(&b'@') {
            self.user = Some(&rest[..plain]);
            at = plain + 1;
        } else if let userinfo = &rest[..lanes::find(rest, |block| block.eq(b'@'))]
            && userinfo.len() < rest.len()
        {
            let end = userinfo.len();
            let user = match memchr::memchr(b':', userinfo) {
                Some(colon) => {
                    self.password = Some(&userinfo[colon + 1..]);
                    escaped_run(&userinfo[colon + 1..], USER).map_err(|m| m.shifted(colon + 1))?;
                    &userinfo[..colon]
                }
                None => userinfo,
            };
            if user.is_empty() {
                return Err(Malformed::at(0));
            }
            escaped_run(user, USER)?;
            self.user = Some(user);
            at = end + 1;
        }
        let host_len = lex::host_len(&rest[at..]);
        if host_len == 0 {
            return Err(Malformed::at(at));
        }
        self.host = &rest[at..at + host_len];
        at += host_len;
        if rest.get(at) == Some(&b':') {
            let (number, digits) = lex::leading_number(&rest[at + 1..]);
            self.port = match u16::try_from(number) {
                Ok(port) if digits > 0 => Some(port),
                Ok(_) | Err(_) => return Err(Malformed::at(at + 1)),
            };
            at += 1 + digits;
        }
        match rest.get(at) {
            None => Ok(self),
            Some(b';' | b'?') => self.tail(rest, at),
            Some(_) => Err(Malformed::at(at)),
        }
    }

    /// Parameters and headers from the `;` or `?` at `at`.
    fn tail(mut self, rest: &'a [u8], at: usize) -> Result<Uri<'a>, Malformed> {
        let tail = &rest[at..];
        let plain = lex::plain_tail_len(tail);
        escaped_run(&tail[plain..], URI_TAIL).map_err(|m| m.shifted(at + plain))?;
        let question = plain + lanes::find(&tail[plain..], |block| block.eq(b'?'));
        if tail[0] == b';' {
            self.params = &tail[1..question];
        }
        if let Some(headers) = tail.get(question + 1..) {
            self.headers = headers;
        }
        Ok(self)
    }

    /// RFC 3966 §3: a number, global or local, then parameters.
    fn tel(mut self, rest: &'a [u8]) -> Result<Uri<'a>, Malformed> {
        let plain = lex::alphanumeric_len(rest);
        let end = plain + lanes::find(&rest[plain..], |block| block.eq(b';'));
        let number = &rest[..end];
        // Nearly all are digits alone.
        if number.is_empty() || lex::digits_len(number) < number.len() {
            number_of_tel(number)?;
        }
        self.user = Some(number);
        if end < rest.len() {
            let plain = end + lex::plain_tail_len(&rest[end..]);
            escaped_run(&rest[plain..], URI_TAIL).map_err(|m| m.shifted(plain))?;
            self.params = &rest[end + 1..];
        }
        Ok(self)
    }

    fn other(self, rest: &'a [u8]) -> Result<Uri<'a>, Malformed> {
        let end = lex::skip(rest, 0, ADDR);
        if rest.is_empty() || end < rest.len() {
            return Err(Malformed::at(end));
        }
        Ok(self)
    }

    /// The value of the first URI parameter called `name` (any case); empty for a flag.
    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.params;
        while !rest.is_empty() {
            if let Some((found, behind)) = rest.split_at_checked(name.len())
                && matches!(behind.first(), None | Some(b'=' | b';'))
                // Most write them in small letters: then it is one comparison instead of a loop.
                && (found == name || found.eq_ignore_ascii_case(name))
            {
                let value = behind.strip_prefix(b"=").unwrap_or(&behind[..0]);
                return Some(&value[..lanes::find(value, |block| block.eq(b';'))]);
            }
            let end = lanes::find(rest, |block| block.eq(b';'));
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        None
    }

    /// Names and values of the URI parameters.
    pub fn params_iter(&self) -> Pairs<'a> {
        Pairs::new(self.params, b';')
    }

    /// Names and values of the URI headers.
    pub fn headers_iter(&self) -> Pairs<'a> {
        Pairs::new(self.headers, b'&')
    }

    /// The address that the host is, `None` for a name.
    pub fn host_ip(&self) -> Option<IpAddr> {
        lex::host_ip(self.host)
    }

    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param(b"transport")
    }

    /// Whether both mean the same resource: RFC 3261 §19.1.4 for `sip` and `sips`, RFC 3966 §4 for `tel`, equal bytes for
    /// other schemes, and for those with more than [`PAIRS_COMPARED_MAX`] parameters, or headers.
    pub fn matches(&self, other: &Uri<'_>) -> bool {
        if self.scheme != other.scheme {
            return false;
        }
        if self.has_many_pairs() || other.has_many_pairs() {
            return self.raw == other.raw;
        }
        match self.scheme {
            Scheme::Sip | Scheme::Sips => self.matches_sip(other),
            Scheme::Tel => self.matches_tel(other),
            Scheme::Other => self.raw == other.raw,
        }
    }

    fn has_many_pairs(&self) -> bool {
        let are_many = |mut pairs: Pairs<'_>| pairs.nth(PAIRS_COMPARED_MAX).is_some();
        are_many(self.params_iter()) || are_many(self.headers_iter())
    }

    fn matches_sip(&self, other: &Uri<'_>) -> bool {
        // §19.1.4: the userinfo compares with case, and one without it never matches one with it; an escape equals the
        // character that it stands for. No port is another thing than the default port.
        same_part(self.user, other.user)
            && same_part(self.password, other.password)
            && same_host(self.host, other.host)
            && self.port == other.port
            && params_agree(self, other)
            && params_agree(other, self)
            && headers_within(self, other)
            && headers_within(other, self)
    }

    fn matches_tel(&self, other: &Uri<'_>) -> bool {
        let digits = |uri: &Uri<'a>| tel_digits(uri.user.unwrap_or_default());
        // RFC 3966 §4: visual separators and case don't count; every parameter must be in both and equal.
        let within = |one: &Uri<'_>, two: &Uri<'_>| {
            one.params_iter().all(|(name, value)| {
                two.params_iter().any(|(other_name, other_value)| {
                    name.eq_ignore_ascii_case(other_name)
                        && value
                            .unwrap_or_default()
                            .eq_ignore_ascii_case(other_value.unwrap_or_default())
                })
            })
        };
        digits(self).eq(tel_digits(other.user.unwrap_or_default()))
            && within(self, other)
            && within(other, self)
    }
}

/// RFC 3966 §3 `global-number-digits`, `local-number-digits`.
fn number_of_tel(number: &[u8]) -> Result<(), Malformed> {
    let digits = number.strip_prefix(b"+").unwrap_or(number);
    let shift = number.len() - digits.len();
    if let Some(at) = digits.iter().position(|&byte| !is_phone_digit(byte)) {
        return Err(Malformed::at(shift + at));
    }
    if !digits.iter().any(u8::is_ascii_hexdigit) && !digits.iter().any(|byte| b"*#".contains(byte)) {
        return Err(Malformed::at(shift));
    }
    Ok(())
}

fn scheme_of(text: &[u8]) -> Result<Scheme, Malformed> {
    if text.eq_ignore_ascii_case(b"sip") {
        Ok(Scheme::Sip)
    } else if text.eq_ignore_ascii_case(b"sips") {
        Ok(Scheme::Sips)
    } else if text.eq_ignore_ascii_case(b"tel") {
        Ok(Scheme::Tel)
    } else if text.first().is_some_and(u8::is_ascii_alphabetic)
        && text
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    {
        Ok(Scheme::Other)
    } else {
        Err(Malformed::at(0))
    }
}

/// Every byte of `class`, and every `%` the start of an escape (§25.1 `escaped`).
fn escaped_run(bytes: &[u8], class: u8) -> Result<(), Malformed> {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if !lex::is(byte, class) {
            return Err(Malformed::at(at));
        }
        if byte == b'%' {
            match bytes.get(at + 1..at + 3) {
                Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => at += 2,
                Some(_) | None => return Err(Malformed::at(at)),
            }
        }
        at += 1;
    }
    Ok(())
}

/// RFC 3966 §3 `phonedigit-hex` and `visual-separator`, with `*` and `#`.
const fn is_phone_digit(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b'*' | b'#' | b'-' | b'.' | b'(' | b')')
}

/// A phone number as it compares: without visual separators, letters in lower case (RFC 3966 §4).
pub fn tel_digits(number: &[u8]) -> impl Iterator<Item = u8> + '_ {
    number
        .iter()
        .filter(|byte| !b"-.()".contains(byte))
        .map(u8::to_ascii_lowercase)
}

/// `name[=value]` pairs between `separator`s, raw.
#[derive(Clone)]
pub struct Pairs<'a> {
    rest: &'a [u8],
    separator: u8,
}

impl<'a> Pairs<'a> {
    const fn new(rest: &'a [u8], separator: u8) -> Pairs<'a> {
        Pairs { rest, separator }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = lanes::find(self.rest, |block| block.eq(self.separator));
            let pair = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !pair.is_empty() {
                let equals = lanes::find(pair, |block| block.eq(b'='));
                return Some(match pair.get(equals + 1..) {
                    Some(value) => (&pair[..equals], Some(value)),
                    None => (pair, None),
                });
            }
        }
        None
    }
}

/// The bytes with `%HH` escapes resolved; a `%` that begins none stands for itself.
pub fn unescaped(text: &[u8]) -> Unescaped<'_> {
    Unescaped { rest: text }
}

/// Iterator of [`unescaped`].
#[derive(Clone)]
pub struct Unescaped<'a> {
    rest: &'a [u8],
}

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        if byte == b'%'
            && let [high, low, rest @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            self.rest = rest;
            return Some(high << 4 | low);
        }
        self.rest = rest;
        Some(byte)
    }
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The characters of a text as §19.1.4 compares them: an escape is the character that it stands for, except that those of
/// RFC 2396's `reserved` set differ from their escapes (256 is added to these).
fn compared(text: &[u8]) -> impl Iterator<Item = u16> + '_ {
    let mut rest = text;
    core::iter::from_fn(move || {
        let before = rest.len();
        let mut unescaped = Unescaped { rest };
        let byte = unescaped.next()?;
        rest = unescaped.rest;
        let was_escaped = before - rest.len() > 1;
        Some(if was_escaped && b";/?:@&=+$,".contains(&byte) {
            u16::from(byte) + 256
        } else {
            u16::from(byte)
        })
    })
}

fn same_part(one: Option<&[u8]>, two: Option<&[u8]>) -> bool {
    match (one, two) {
        (None, None) => true,
        (Some(one), Some(two)) => one == two || compared(one).eq(compared(two)),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn same_text(one: &[u8], two: &[u8]) -> bool {
    let lower = |unit: u16| match u8::try_from(unit) {
        Ok(byte) => u16::from(byte.to_ascii_lowercase()),
        Err(_) => unit,
    };
    compared(one).map(lower).eq(compared(two).map(lower))
}

/// Host names compare without case. RFC 5954 §4.2: IPv6 addresses compare as addresses, however they are written.
pub fn same_host(one: &[u8], two: &[u8]) -> bool {
    one.eq_ignore_ascii_case(two)
        || (one.first() == Some(&b'[') && two.first() == Some(&b'[') && {
            let address = lex::host_ip(one);
            address.is_some() && address == lex::host_ip(two)
        })
}

/// What §19.1.4 asks of each parameter of `one`: equal where both have it; `transport`, `user`, `ttl`, `method` and `maddr`
/// must be in both or in none; any other that is in one only is passed over.
fn params_agree(one: &Uri<'_>, two: &Uri<'_>) -> bool {
    one.params_iter().all(
        |(name, value)| match two.params_iter().find(|(other, _)| same_text(name, other)) {
            Some((_, other)) => same_text(value.unwrap_or_default(), other.unwrap_or_default()),
            None => ![&b"transport"[..], b"user", b"ttl", b"method", b"maddr"]
                .iter()
                .any(|mandatory| same_text(name, mandatory)),
        },
    )
}

/// §19.1.4: header components are never ignored.
fn headers_within(one: &Uri<'_>, two: &Uri<'_>) -> bool {
    one.headers_iter().all(|(name, value)| {
        two.headers_iter().any(|(other, other_value)| {
            same_text(name, other) && same_text(value.unwrap_or_default(), other_value.unwrap_or_default())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri<'_> {
        Uri::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn a_sip_uri_comes_apart() {
        let full = uri("SIPS:al%69ce;x=1?:pass@[2001:db8::1]:5061;transport=tcp;lr;Q=%20?subject=a&to=b%40c");
        assert_eq!((full.scheme, full.scheme_text), (Scheme::Sips, &b"SIPS"[..]));
        assert_eq!(full.user, Some(&b"al%69ce;x=1?"[..]));
        assert_eq!((full.host, full.port), (&b"[2001:db8::1]"[..], Some(5061)));
        assert_eq!(full.host_ip(), "2001:db8::1".parse().ok());
        assert_eq!(full.transport(), Some(&b"tcp"[..]));
        assert_eq!(
            (full.param(b"LR"), full.param(b"q")),
            (Some(&b""[..]), Some(&b"%20"[..]))
        );
        assert_eq!(full.param(b"subject"), None);
        assert_eq!(full.headers, b"subject=a&to=b%40c");
        let short = uri("sip:h?a=b");
        assert_eq!(
            (short.user, short.port, short.params, short.headers),
            (None, None, &b""[..], &b"a=b"[..])
        );
    }

    #[test]
    fn a_parameter_is_found_as_among_all() {
        for params in [
            "lr",
            "a;;lr=1;x",
            "lrx;lr",
            "LR=",
            "x=lr;lr=2;lr=3",
            "l=r;xlr",
            "transport=udp;Lr=a=b",
        ] {
            let text = format!("sip:h;{params}");
            let uri = uri(&text);
            let among_all = uri
                .params_iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(b"lr"))
                .map(|(_, value)| value.unwrap_or(b""));
            assert_eq!(uri.param(b"lr"), among_all, "{params}");
        }
    }

    #[test]
    fn other_schemes_have_what_they_have() {
        let tel = uri("tel:+1-201-555-0123;phone-context=one.att.net");
        assert_eq!(
            (tel.scheme, tel.user),
            (Scheme::Tel, Some(&b"+1-201-555-0123"[..]))
        );
        assert_eq!(tel.param(b"phone-context"), Some(&b"one.att.net"[..]));
        let urn = uri("urn:service:sos");
        assert_eq!((urn.scheme, urn.host, urn.user), (Scheme::Other, &b""[..], None));
    }

    #[test]
    fn what_is_no_uri_is_refused_at_the_byte() {
        for (bad, at) in [
            ("", 0),
            ("sip", 3),
            ("sip:", 4),
            (":a", 0),
            ("<sip:a>", 0),
            ("sip:@host", 4),
            ("sip:a@", 6),
            ("sip:a b@c", 5),
            ("sip:a%4@c", 5),
            ("sip:a%zz@c", 5),
            ("sip:a@b:65536", 8),
            ("sip:a@b:", 8),
            ("sip:a@b:5060x", 12),
            ("sip:a@[::1", 6),
            ("sip:a@b@c", 7),
            ("sip:a@b;x=\"1\"", 10),
            ("sip:a@b;x y", 9),
            ("tel:", 4),
            ("tel:+", 5),
            ("tel:12x", 6),
            ("urn:", 4),
            ("urn:a b", 5),
            ("9x:a", 0),
        ] {
            assert_eq!(Uri::parse(bad.as_bytes()), Err(Malformed { at }), "{bad}");
        }
    }

    fn all_match(uris: &[&str]) -> bool {
        uris.iter()
            .all(|one| uris.iter().all(|two| uri(one).matches(&uri(two))))
    }

    #[test]
    fn uris_compare_as_the_sets_of_the_rfc_do() {
        // RFC 3261 §19.1.4, its own examples.
        assert!(all_match(&[
            "sip:%61lice@atlanta.com;transport=TCP",
            "sip:alice@AtLanTa.CoM;Transport=tcp"
        ]));
        for same in [
            "sip:carol@chicago.com;newparam=5",
            "sip:carol@chicago.com;security=on",
        ] {
            assert!(all_match(&["sip:carol@chicago.com", same]));
        }
        assert!(all_match(&[
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com"
        ]));
        assert!(all_match(&[
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x"
        ]));
        for (one, two) in [
            (
                "SIP:ALICE@AtLanTa.CoM;Transport=udp",
                "sip:alice@AtLanTa.CoM;Transport=UDP",
            ),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            (
                "sip:carol@chicago.com",
                "sip:carol@chicago.com?Subject=next%20meeting",
            ),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            (
                "sip:carol@chicago.com;security=on",
                "sip:carol@chicago.com;security=off",
            ),
            // And one for each rule without an example.
            ("sip:a@b", "sips:a@b"),
            ("sip:a@b", "sip:b"),
            ("sip:a:x@b", "sip:a@b"),
            ("sip:a:x@b", "sip:a:X@b"),
            ("sip:a@b;user=phone", "sip:a@b"),
            ("sip:a@b;ttl=1", "sip:a@b"),
            ("sip:a@b;method=INVITE", "sip:a@b"),
            ("sip:a@b;maddr=c", "sip:a@b"),
            ("sip:a%3Bb@c", "sip:a;b@c"),
            ("sip:a@b?x=1", "sip:a@b?x=2"),
        ] {
            assert!(!uri(one).matches(&uri(two)), "{one} {two}");
            assert!(!uri(two).matches(&uri(one)), "{two} {one}");
        }
        for (many, separators) in [(";", ";"), ("?", "&")] {
            let of = |count: usize, last: &str| {
                let pairs: Vec<String> = (0..count)
                    .map(|n| format!("p{n}=1"))
                    .chain([last.to_owned()])
                    .collect();
                format!("sip:a@b{many}{}", pairs.join(separators))
            };
            let turned = |text: &str| {
                let (before, pairs) = text.split_once(many).expect("pairs");
                let turned: Vec<&str> = pairs.rsplit(separators).collect();
                format!("{before}{many}{}", turned.join(separators))
            };
            let most = of(PAIRS_COMPARED_MAX - 1, "x=1");
            assert!(all_match(&[&most, &turned(&most)]));
            let more = of(PAIRS_COMPARED_MAX, "x=1");
            assert!(
                all_match(&[&more]) && !all_match(&[&more, &turned(&more)]),
                "{more}"
            );
        }
        // RFC 5954 §4.2.
        assert!(all_match(&["sip:a@[2001:db8::9:1]", "sip:a@[2001:DB8:0::9:01]"]));
        assert!(!all_match(&["sip:a@[2001:db8::9:1]", "sip:a@[2001:db8::9:2]"]));
    }

    #[test]
    fn numbers_compare_without_what_only_helps_the_eye() {
        // RFC 3966 §4.
        assert!(all_match(&["tel:+1-201-555-0123", "TEL:+1(201)555.0123"]));
        assert!(all_match(&[
            "tel:7042;phone-context=Example.com;x",
            "tel:70-42;X;phone-context=example.COM"
        ]));
        assert!(!all_match(&["tel:+12015550123", "tel:12015550123"]));
        assert!(!all_match(&["tel:7042;phone-context=a.b", "tel:7042"]));
        assert!(!all_match(&["tel:1", "sip:1@a"]));
        assert!(all_match(&["urn:service:sos", "urn:service:sos"]));
        assert!(!all_match(&["urn:service:sos", "urn:service:SOS"]));
    }

    #[test]
    fn escapes_stand_for_their_character() {
        assert_eq!(unescaped(b"%61%6Aa%4%").collect::<Vec<_>>(), b"aja%4%");
    }
}
