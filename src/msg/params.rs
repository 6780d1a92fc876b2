//! Header field parameters: `;name`, `;name=value`, `;name="quoted"` (RFC 3261 §7.3.1, §25.1 `generic-param`).

use super::error::Malformed;
use super::lanes;
use super::lex::{TOKEN, plain_token_len, skip, skip_lws, skip_quoted, value_len};

/// One parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Param<'a> {
    /// From the first byte of the name to the last of the value.
    pub raw: &'a [u8],
    pub name: &'a [u8],
    /// As received: a quoted string keeps its quotes. `None` for a flag.
    pub value: Option<&'a [u8]>,
}

impl<'a> Param<'a> {
    /// RFC 3261 §7.3.1: names compare without case.
    #[inline(always)]
    pub fn is(&self, name: &[u8]) -> bool {
        // Most write them in small letters: then it is one comparison instead of a loop.
        self.name == name || self.name.eq_ignore_ascii_case(name)
    }

    /// The value as received; for a flag the empty place behind its name.
    pub fn value_or_empty(&self) -> &'a [u8] {
        self.value.unwrap_or(&self.raw[self.raw.len()..])
    }
}

/// The parameters of a list, in order. Ends early where the list breaks the grammar; views check that when they are made.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Params<'a> {
    /// `bytes` begins after the first semicolon. Empty means no parameters.
    pub const fn new(bytes: &'a [u8]) -> Params<'a> {
        Params { bytes, at: 0 }
    }

    /// The value of the first parameter where the list begins with `name`, its `=` included, spelled just so, and a value without
    /// quotes: nearly all have the one that matters in front, and no end of a name needs to be looked for. `None` leaves it to
    /// [`Params::step`].
    #[inline(always)]
    pub fn take_first(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        let rest = self.bytes.strip_prefix(name)?;
        let len = value_len(rest);
        let end = name.len() + len;
        self.at = match rest.get(len) {
            _ if len == 0 => return None,
            None => end,
            // Something must follow a semicolon.
            Some(b';') if end + 1 < self.bytes.len() => end + 1,
            Some(_) => return None,
        };
        Some(&rest[..len])
    }

    /// The next parameter, `Ok(None)` behind the last.
    #[inline(always)]
    pub fn step(&mut self) -> Result<Option<Param<'a>>, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        match usual_param(rest) {
            Some((param, next)) => {
                self.at += next;
                Ok(Some(param))
            }
            None => self.step_closely().map(Some),
        }
    }

    /// The parameter at `at`, which there is, however it is spelled.
    #[inline(never)]
    fn step_closely(&mut self) -> Result<Param<'a>, Malformed> {
        let bytes = self.bytes;
        let start = skip_lws(bytes, self.at);
        let name_end = skip(bytes, start, TOKEN);
        if name_end == start {
            return Err(Malformed::at(start));
        }
        let mut end = name_end;
        let mut next = skip_lws(bytes, name_end);
        let mut value = None;
        if bytes.get(next) == Some(&b'=') {
            let value_start = skip_lws(bytes, next + 1);
            end = match bytes.get(value_start) {
                Some(b'"') => skip_quoted(bytes, value_start).ok_or(Malformed::at(value_start))?,
                Some(_) => value_start + value_len(&bytes[value_start..]),
                None => value_start,
            };
            value = Some(&bytes[value_start..end]);
            next = skip_lws(bytes, end);
        }
        match bytes.get(next) {
            // Something must follow a semicolon.
            Some(b';') if next + 1 < bytes.len() => self.at = next + 1,
            Some(_) => return Err(Malformed::at(next)),
            None => self.at = next,
        }
        Ok(Param {
            raw: &bytes[start..end],
            name: &bytes[start..name_end],
            value,
        })
    }
}

/// The parameter that `rest` begins with, and where the next begins, if it is spelled as nearly all are: a name of common
/// characters, perhaps a value, no white space.
#[inline(always)]
fn usual_param(rest: &[u8]) -> Option<(Param<'_>, usize)> {
    let name_len = plain_token_len(rest);
    let mut end = name_len;
    let mut value = None;
    if rest.get(name_len) == Some(&b'=') {
        end = match rest.get(name_len + 1)? {
            b'"' => skip_quoted(rest, name_len + 1)?,
            _ => name_len + 1 + value_len(&rest[name_len + 1..]),
        };
        value = rest.get(name_len + 1..end);
    }
    let next = match rest.get(end) {
        // Something must follow a semicolon.
        Some(b';') if end + 1 < rest.len() => end + 1,
        Some(_) => return None,
        None => end,
    };
    let param = Param {
        raw: rest.get(..end)?,
        name: rest.get(..name_len).filter(|name| !name.is_empty())?,
        value,
    };
    Some((param, next))
}

impl<'a> Iterator for Params<'a> {
    type Item = Param<'a>;

    #[inline]
    fn next(&mut self) -> Option<Param<'a>> {
        match self.step() {
            Ok(param) => param,
            Err(Malformed { .. }) => {
                self.at = self.bytes.len();
                None
            }
        }
    }
}

/// The value of the first parameter called `name` (any case), as received; empty for a flag.
pub fn find<'a>(params: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    Params::new(params)
        .find(|param| param.is(name))
        .map(|param| param.value_or_empty())
}

/// A header field value of the form `first *(;param)`, as Event (RFC 6665), Subscription-State, Session-Expires (RFC 4028),
/// Reason (RFC 3326), Replaces (RFC 3891), Content-Type and q-valued tokens have it: the first part, trimmed, and the raw
/// parameters.
pub fn split(value: &[u8]) -> (&[u8], &[u8]) {
    let at = lanes::find(value, |block| block.eq(b';'));
    let params = value.get(at + 1..).unwrap_or(&value[value.len()..]);
    (super::lex::trim(&value[..at]), params)
}

/// What a value means: a quoted string without its quotes, escapes left as they are; anything else as it is.
pub fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Param<'_>>, Malformed> {
        let mut params = Params::new(bytes);
        let mut list = Vec::new();
        while let Some(param) = params.step()? {
            list.push(param);
        }
        Ok(list)
    }

    #[test]
    fn parameters_are_found_with_white_space_folds_and_quotes() {
        let list = all(b"lr ; Q\t=\r\n 0.5;+sip.instance=\"<urn:x;\\\"y>\" ;received=2001:db8::1;e=")
            .expect("well-formed");
        let flat: Vec<_> = list.iter().map(|param| (param.name, param.value)).collect();
        assert_eq!(
            flat,
            [
                (&b"lr"[..], None),
                (b"Q", Some(&b"0.5"[..])),
                (b"+sip.instance", Some(b"\"<urn:x;\\\"y>\"")),
                (b"received", Some(b"2001:db8::1")),
                (b"e", Some(b"")),
            ]
        );
        assert_eq!(list[1].raw, b"Q\t=\r\n 0.5");
    }

    #[test]
    fn a_list_that_breaks_the_grammar_is_refused_at_the_byte() {
        for (bad, at) in [
            (&b";"[..], 0),
            (b"a;;b", 2),
            (b"a;", 1),
            (b"a b", 2),
            (b"a=\"x", 2),
            (b"a=b c", 4),
            (b"a=\"x\"y", 5),
            (b"=b", 0),
            (b"a=b,c", 3),
        ] {
            assert_eq!(all(bad), Err(Malformed { at }), "{}", bad.escape_ascii());
        }
        assert_eq!(Params::new(b"a;;b").count(), 1);
    }

    #[test]
    fn the_first_is_taken_only_where_the_list_goes_on_as_it_should() {
        for (list, taken, rest) in [
            (&b"tag=a"[..], Some(&b"a"[..]), &b""[..]),
            (b"tag=a;b", Some(b"a"), b"b"),
            (b"Tag=a", None, b"Tag=a"),
            (b"tag=", None, b"tag="),
            (b"tag=\"a\"", None, b"tag=\"a\""),
            (b"tag=a;", None, b"tag=a;"),
            (b"tag=a b", None, b"tag=a b"),
            (b"tags=a", None, b"tags=a"),
        ] {
            let mut params = Params::new(list);
            assert_eq!((params.take_first(b"tag="), &list[params.at..]), (taken, rest));
        }
    }

    #[test]
    fn a_flag_has_an_empty_value_and_names_have_no_case() {
        assert_eq!(find(b"a=1;LR;b=2", b"lr"), Some(&b""[..]));
        assert_eq!(find(b"a=1;b=2;B=3", b"B"), Some(&b"2"[..]));
        assert_eq!(find(b"x=\"b=2\"", b"b"), None);
        assert_eq!(split(b"active ;expires=5"), (&b"active"[..], &b"expires=5"[..]));
        assert_eq!(unquoted(b"\"a\""), b"a");
        assert_eq!(unquoted(b"\""), b"\"");
    }
}
