//! `name-addr` and `addr-spec` with header parameters: From, To, Contact, Route and their like (RFC 3261 §20.10, §25.1).

use super::error::{ErrorKind, Malformed, ParseError};
use super::lanes;
use super::lex::{self, ADDR, Elements, LWS, TOKEN};
use super::name::Name;
use super::params::{self, Params};
use super::scan::{Line, LinesOf, Message};
use super::seen::Seen;
use super::uri::Uri;

pub use super::params::Param;

/// One address with what goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameAddr<'a> {
    /// The whole element, trimmed.
    pub raw: &'a [u8],
    /// The display name as received, a quoted one with its quotes; may be empty.
    pub display: &'a [u8],
    /// The URI without `<>`. Not parsed yet: see [`NameAddr::uri`].
    pub uri: &'a [u8],
    /// After the first semicolon that follows the URI, well-formed; empty if none.
    pub params: &'a [u8],
    /// Seen when the parameters were checked.
    tag: Option<&'a [u8]>,
}

impl<'a> NameAddr<'a> {
    /// Parses one element: `[display] <uri> *(;param)` or `uri *(;param)`.
    #[inline]
    pub fn parse(element: &'a [u8]) -> Result<NameAddr<'a>, Malformed> {
        // Most need no trimming and have no display name.
        if let [b'<', .., last] = element
            && *last > b' '
        {
            return Self::bracketed(element, &element[..0], 0);
        }
        Self::parse_any(element)
    }

    /// The same. Parameters behind a bracket that are in `seen` were found well-formed before; those that are found so now are
    /// remembered there.
    pub fn parse_seen(element: &'a [u8], seen: &mut Seen) -> Result<NameAddr<'a>, Malformed> {
        if let [b'<', inner @ ..] = element
            && let (uri, Some((b'>', params))) = {
                let (uri, rest) = inner.split_at(lex::addr_len(inner));
                (uri, rest.split_first())
            }
            && !uri.is_empty()
            && seen.has(params)
        {
            return Ok(NameAddr {
                raw: element,
                display: &element[..0],
                uri,
                // They begin with their semicolon.
                params: &params[1..],
                tag: None,
            });
        }
        let parsed = NameAddr::parse(element)?;
        let before = element.len().saturating_sub(parsed.params.len() + 1);
        let (before, params) = element.split_at(before);
        if before.ends_with(b">") && before.len() == parsed.uri.len() + 2 && parsed.tag.is_none() {
            seen.remember(params);
        }
        Ok(parsed)
    }

    #[inline(never)]
    fn parse_any(element: &'a [u8]) -> Result<NameAddr<'a>, Malformed> {
        let lead = lex::skip_lws(element, 0);
        let raw = lex::trim_end(&element[lead..]);
        Self::parse_trimmed(raw).map_err(|malformed| malformed.shifted(lead))
    }

    /// The URI of an element, without a look at its parameters: for one that was parsed before, or is only passed on.
    pub fn uri_of(element: &'a [u8]) -> Option<&'a [u8]> {
        // Most have no display name.
        if let [b'<', inner @ ..] = element {
            let len = lex::addr_len(inner);
            return (len > 0 && inner.get(len) == Some(&b'>')).then(|| &inner[..len]);
        }
        let raw = lex::trim(element);
        let open = match raw.first() {
            Some(b'"') => lex::skip_lws(raw, lex::skip_quoted(raw, 0)?),
            Some(_) | None => match tokens_before_bracket(raw).ok()? {
                Some(open) => open,
                None => return Some(&raw[..addr_spec_len(raw)]).filter(|uri| !uri.is_empty()),
            },
        };
        let end = open + 1 + lex::addr_len(raw.get(open + 1..)?);
        (raw.get(open) == Some(&b'<') && raw.get(end) == Some(&b'>') && end > open + 1)
            .then(|| &raw[open + 1..end])
    }

    fn parse_trimmed(raw: &'a [u8]) -> Result<NameAddr<'a>, Malformed> {
        let (display, open) = match raw.first() {
            Some(b'"') => {
                let end = lex::skip_quoted(raw, 0).ok_or(Malformed::at(0))?;
                (&raw[..end], lex::skip_lws(raw, end))
            }
            Some(_) | None => match tokens_before_bracket(raw)? {
                Some(open) => (lex::trim_end(&raw[..open]), open),
                None => return Self::parse_addr_spec(raw),
            },
        };
        if raw.get(open) != Some(&b'<') {
            return Err(Malformed::at(open));
        }
        Self::bracketed(raw, display, open)
    }

    /// What begins with the bracket at `open`.
    #[inline(always)]
    fn bracketed(raw: &'a [u8], display: &'a [u8], open: usize) -> Result<NameAddr<'a>, Malformed> {
        let uri_end = open + 1 + lex::addr_len(&raw[open + 1..]);
        if raw.get(uri_end) != Some(&b'>') || uri_end == open + 1 {
            return Err(Malformed::at(uri_end));
        }
        let (params, tag) = params_from(raw, uri_end + 1)?;
        Ok(NameAddr {
            raw,
            display,
            uri: &raw[open + 1..uri_end],
            params,
            tag,
        })
    }

    /// RFC 3261 §20.10: without `<>` the parameters belong to the header field, not to the URI; and a URI that holds a
    /// comma, question mark or semicolon must have them.
    fn parse_addr_spec(raw: &'a [u8]) -> Result<NameAddr<'a>, Malformed> {
        let uri_end = addr_spec_len(raw);
        if uri_end == 0 {
            return Err(Malformed::at(0));
        }
        let (params, tag) = params_from(raw, uri_end)?;
        Ok(NameAddr {
            raw,
            display: &raw[..0],
            uri: &raw[..uri_end],
            params,
            tag,
        })
    }

    /// The raw value of the parameter `name` (any case); empty for a flag.
    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        params::find(self.params, name)
    }

    pub fn params_iter(&self) -> Params<'a> {
        Params::new(self.params)
    }

    /// The value of the `tag` parameter; empty for a flag.
    pub const fn tag(&self) -> Option<&'a [u8]> {
        self.tag
    }

    pub fn uri(&self) -> Result<Uri<'a>, Malformed> {
        Uri::parse(self.uri)
    }
}

/// Length of the URI that `raw` begins with, where it stands without brackets.
fn addr_spec_len(raw: &[u8]) -> usize {
    raw.iter()
        .position(|&byte| !lex::is(byte, ADDR) || matches!(byte, b';' | b',' | b'?'))
        .unwrap_or(raw.len())
}

/// Index of the `<` that follows a display name of tokens or nothing; `None` when what begins here is an addr-spec.
/// Bytes from 0x80 on pass in a display name: the grammar asks for quotes around them, and phones leave them away.
fn tokens_before_bracket(raw: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    loop {
        match raw.get(at) {
            Some(b'<') => return Ok(Some(at)),
            // The first thing that is no token ends a scheme: `sip:`.
            Some(b':') => return Ok(None),
            Some(&byte) if lex::is(byte, TOKEN | LWS) || byte >= 0x80 => at += 1,
            Some(_) | None => return Err(Malformed::at(at)),
        }
    }
}

/// The parameters that begin at `at`, behind the URI, checked, and the tag among them.
#[inline(always)]
fn params_from(raw: &[u8], at: usize) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let rest = &raw[at..];
    if rest.is_empty() {
        return Ok((rest, None));
    }
    // Most have a tag and nothing else.
    if let Some(tag) = rest.strip_prefix(b";tag=")
        && !tag.is_empty()
        && lex::value_len(tag) == tag.len()
    {
        return Ok((&rest[1..], Some(tag)));
    }
    any_params_from(raw, at)
}

#[inline(never)]
fn any_params_from(raw: &[u8], at: usize) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let semicolon = lex::skip_lws(raw, at);
    let bytes = match raw.get(semicolon) {
        None => return Ok((&raw[raw.len()..], None)),
        Some(b';') => &raw[semicolon + 1..],
        Some(_) => return Err(Malformed::at(semicolon)),
    };
    if bytes.is_empty() {
        return Err(Malformed::at(semicolon));
    }
    let mut params = Params::new(bytes);
    let mut tag = params.take_first(b"tag=");
    while let Some(param) = params.step().map_err(|m| m.shifted(semicolon + 1))? {
        if tag.is_none() && param.is(b"tag") {
            tag = Some(param.value_or_empty());
        }
    }
    Ok((bytes, tag))
}

/// The Contact header fields of a message.
#[derive(Clone)]
pub enum Contacts<'a> {
    /// No line of that name.
    None,
    /// `Contact: *`, alone (RFC 3261 §10.2.2).
    Star,
    /// Those of all lines; none where the lines are empty.
    List(ContactList<'a>),
}

/// One after another, each parsed as it is asked for.
#[derive(Clone)]
pub struct ContactList<'a> {
    msg: Message<'a>,
    lines: LinesOf<'a>,
    /// Of a line that holds more than one.
    elements: Elements<'a>,
}

impl<'a> Iterator for ContactList<'a> {
    type Item = Result<NameAddr<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(element) = self.elements.next() {
                return Some(in_message(self.msg, Name::Contact, element));
            }
            // What has a comma that separates can't be parsed as a whole: most lines hold one element, which is not looked for first.
            let value = self.msg.value_of(self.lines.next()?);
            match NameAddr::parse(value) {
                Ok(contact) => return Some(Ok(contact)),
                Err(Malformed { .. }) => self.elements = Elements::new(value),
            }
        }
    }
}

/// Parses `element` of a header field `name` of `msg`; an error says where in the message it is.
pub fn in_message<'a>(msg: Message<'a>, name: Name, element: &'a [u8]) -> Result<NameAddr<'a>, ParseError> {
    NameAddr::parse(element).map_err(|m| m.within(ErrorKind::BadNameAddr(name), msg.span_of(element).start))
}

/// The first element of the header fields `name` of `msg`, parsed; `None` when there is none.
pub fn first<'a>(msg: Message<'a>, name: Name) -> Option<Result<NameAddr<'a>, Malformed>> {
    // What has a comma that separates can't be parsed as a whole: most lines hold one element, which is not looked for first.
    match NameAddr::parse(msg.value(name)?) {
        Ok(address) => Some(Ok(address)),
        Err(Malformed { .. }) => msg.elements(name).next().map(NameAddr::parse),
    }
}

/// The same by [`NameAddr::parse_seen`].
pub fn first_seen<'a>(
    msg: Message<'a>,
    name: Name,
    seen: &mut Seen,
) -> Option<Result<NameAddr<'a>, Malformed>> {
    match NameAddr::parse_seen(msg.value(name)?, seen) {
        Ok(address) => Some(Ok(address)),
        Err(Malformed { .. }) => first(msg, name),
    }
}

/// The URI of the first element of the header fields `name` of `msg`, without a look at its parameters.
pub fn first_uri(msg: Message<'_>, name: Name) -> Option<&[u8]> {
    match msg.value(name)? {
        // Where it begins with its URI, its end need not be known.
        value @ [b'<', ..] => NameAddr::uri_of(value),
        _ => NameAddr::uri_of(msg.elements(name).next()?),
    }
}

/// The contacts of `msg`. A star beside anything else is an error.
pub fn contacts<'a>(msg: Message<'a>) -> Result<Contacts<'a>, ParseError> {
    let lines = msg.lines_of(Name::Contact);
    let has_asterisk =
        |line: &Line| lanes::find(msg.value_of(line), |block| block.eq(b'*')) < line.value.len();
    let mut star = None;
    let mut count = 0;
    if lines.clone().any(has_asterisk) {
        for element in msg.elements(Name::Contact) {
            count += 1;
            if element == b"*" {
                star = Some(element);
            }
        }
    }
    match star {
        Some(_) if count == 1 => Ok(Contacts::Star),
        Some(star) => Err(ParseError::new(
            ErrorKind::BadNameAddr(Name::Contact),
            msg.span_of(star).start,
        )),
        None if msg.line(Name::Contact).is_none() => Ok(Contacts::None),
        None => Ok(Contacts::List(ContactList {
            msg,
            lines,
            elements: Elements::new(b""),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Table, scan};
    use super::*;

    fn parts(element: &str) -> (&str, &str, &str) {
        let address = NameAddr::parse(element.as_bytes()).expect(element);
        let text = |bytes| std::str::from_utf8(bytes).expect("text");
        (text(address.display), text(address.uri), text(address.params))
    }

    #[test]
    fn brackets_decide_whose_the_parameters_are() {
        assert_eq!(parts("<sip:a@b>;tag=x"), ("", "sip:a@b", "tag=x"));
        assert_eq!(parts("<sip:a@b;tag=x>"), ("", "sip:a@b;tag=x", ""));
        assert_eq!(parts("sip:a@b;tag=x"), ("", "sip:a@b", "tag=x"));
        assert_eq!(parts("sip:a@b ; tag=x"), ("", "sip:a@b", " tag=x"));
        assert_eq!(
            parts(" Al ice\t<sip:a@b>\r\n ; tag = x "),
            ("Al ice", "sip:a@b", " tag = x")
        );
        assert_eq!(parts("caller<sip:a@b>"), ("caller", "sip:a@b", ""));
        assert_eq!(parts("J\u{f6}rg <sip:a@b>"), ("J\u{f6}rg", "sip:a@b", ""));
    }

    #[test]
    fn parameters_seen_before_read_as_they_did() {
        let mut seen = Seen::new();
        for text in [
            "<sip:a@b>;+g.3gpp.mid-call;audio;q=\"x\"",
            "<sip:other@c:5>;+g.3gpp.mid-call;audio;q=\"x\"",
            "<sip:a@b>;tag=1;audio",
            "<sip:a@b>;tag=1;audio",
            "<sip:a@b>",
            "<sip:a@b>",
            " <sip:a@b>;x ",
            "\"n\" <sip:a@b>;x",
            "sip:a@b;x",
            "sip:a@b>;x",
            "<sip:a@b> ;x",
            "<sip:a@b>;x;",
            "<>;+g.3gpp.mid-call;audio;q=\"x\"",
            "<sip:a b>;+g.3gpp.mid-call;audio;q=\"x\"",
            "<sip:a@b>;+g.3gpp.mid-call;audio;q=\"x\", <sip:c>",
        ] {
            for _ in 0..2 {
                assert_eq!(
                    NameAddr::parse_seen(text.as_bytes(), &mut seen),
                    NameAddr::parse(text.as_bytes()),
                    "{text}"
                );
            }
        }
        assert!(seen.has(b";+g.3gpp.mid-call;audio;q=\"x\""));
        assert!(!seen.has(b";tag=1;audio") && !seen.has(b";x"));
    }

    #[test]
    fn a_quoted_display_name_hides_what_it_holds() {
        assert_eq!(
            parts("\"<sip:x@y>;tag=no, \\\" \\\\\" <sip:a@b>;TAG=yes"),
            ("\"<sip:x@y>;tag=no, \\\" \\\\\"", "sip:a@b", "TAG=yes")
        );
        let address = NameAddr::parse(b"\";tag=1\" <sip:a@b;tag=2>;x=\";tag=3\";tag=4").expect("well-formed");
        assert_eq!(address.tag(), Some(&b"4"[..]));
    }

    fn contacts_of(lines: &str) -> Result<Option<Vec<String>>, ParseError> {
        let text = format!("REGISTER sip:a SIP/2.0\r\n{lines}\r\n");
        let mut table = Table::new();
        scan(text.as_bytes(), &mut table)?;
        match contacts(Message::new(text.as_bytes(), &table))? {
            Contacts::None => Ok(Some(Vec::new())),
            Contacts::Star => Ok(None),
            Contacts::List(list) => list
                .map(|contact| Ok(String::from_utf8_lossy(contact?.uri).into_owned()))
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
        }
    }

    #[test]
    fn a_star_stands_alone() {
        assert_eq!(contacts_of(""), Ok(Some(Vec::new())));
        assert_eq!(contacts_of("m: *\r\n"), Ok(None));
        let list = ["sip:a", "sip:b", "sip:c"].map(str::to_owned).to_vec();
        assert_eq!(
            contacts_of("m: <sip:a>;q=1, sip:b;q=0.5\r\nContact: c <sip:c>\r\n"),
            Ok(Some(list))
        );
        for (lines, at) in [
            ("m: *\r\nm: <sip:a>\r\n", 27),
            ("m: <sip:a>, *\r\n", 36),
            ("m: *, *\r\n", 30),
            ("m: <sip:a>, *;expires=0\r\n", 37),
            ("m: <sip:a>, <sip:b\r\n", 42),
        ] {
            let kind = ErrorKind::BadNameAddr(Name::Contact);
            assert_eq!(contacts_of(lines), Err(ParseError::new(kind, at)), "{lines}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_refused_at_the_byte() {
        for (bad, at) in [
            ("", 0),
            ("\"open <sip:a@b>", 0),
            ("\"x\" sip:a@b", 4),
            ("Bell, A <sip:a@b>", 4),
            ("<sip:a@b", 8),
            ("<>", 1),
            ("< sip:a@b>", 1),
            ("<sip:a@b >", 8),
            ("<sip:a@b>x", 9),
            ("<sip:a@b>;", 9),
            ("<sip:a@b>;;", 10),
            ("sip:a@b?x=y", 7),
            ("sip:a@b,c", 7),
            ("sip:a@b c", 8),
            ("alice", 5),
            ("*", 1),
        ] {
            assert_eq!(NameAddr::parse(bad.as_bytes()), Err(Malformed { at }), "{bad}");
        }
    }
}
