//! The lexical ground of RFC 3261 §25.1: character classes, LWS, quoted strings, numbers, comma lists.
//!
//! Short runs are read by a table of classes, a byte at a time; what is usually longer by [`lanes`], for which a class is
//! spelled out as comparisons. A test holds both to be the same.

use core::net::{IpAddr, Ipv4Addr};

use super::lanes::{self, Block, Set};

/// `token` of §25.1.
pub const TOKEN: u8 = 1;
/// Linear white space. CR and LF count because they stand in a value only where a line is folded.
pub const LWS: u8 = 2;
/// What may stand in a parameter's value without quotes: `token`, `host` (§25.1 `gen-value`), and the other visible
/// characters that end nothing. Phones use them, and what we only carry on need not be stricter.
pub const VALUE: u8 = 4;
/// User part of a SIP URI: `unreserved` and `user-unreserved`, `%` of an escape, and a bare `#`, which phones dial.
pub const USER: u8 = 8;
/// Parameters and headers of a SIP URI: `unreserved`, `param-unreserved`, `hnv-unreserved`, escapes, and `=` `&` `;` `?`.
pub const URI_TAIL: u8 = 16;
/// Host names and IPv4 addresses. `_` is in no RFC and in many host names.
pub const HOST: u8 = 32;
/// Visible ASCII, 0x21 to 0x7E.
pub const VISIBLE: u8 = 64;
/// What may stand inside `<` and `>`: visible, and neither of them nor a quote.
pub const ADDR: u8 = 128;

static CLASS: [u8; 256] = classes();

const fn add(table: &mut [u8; 256], bytes: &[u8], class: u8) {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] |= class;
        i += 1;
    }
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] |= VISIBLE | VALUE | ADDR;
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] |= TOKEN | USER | URI_TAIL | HOST;
        }
        byte += 1;
    }
    let mut i = 0;
    let not_in_value = b"\";,<>";
    while i < not_in_value.len() {
        table[not_in_value[i] as usize] &= !VALUE;
        i += 1;
    }
    table[b'<' as usize] &= !ADDR;
    table[b'>' as usize] &= !ADDR;
    table[b'"' as usize] &= !ADDR;
    add(&mut table, b"-.!%*_+`'~", TOKEN);
    add(&mut table, b" \t\r\n", LWS);
    let unreserved = b"-_.!~*'()%";
    add(&mut table, unreserved, USER | URI_TAIL);
    add(&mut table, b"&=+$,;?/#", USER);
    add(&mut table, b"[]/:&+$=;?", URI_TAIL);
    add(&mut table, b"-._", HOST);
    table
}

/// Whether `byte` is of any of the classes in `class`.
#[inline]
pub fn is(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0
}

/// Whether every byte is of `class`.
#[inline]
pub fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| is(byte, class))
}

/// All that is not [`VISIBLE`].
#[inline(always)]
fn invisible(block: Block) -> Set {
    block.within(0x7f, 0x20)
}

#[inline(always)]
fn alphanumeric(block: Block) -> Set {
    block.within(b'0', b'9') | block.letters(b'a', b'z')
}

/// Length of the run of [`VISIBLE`] that `bytes` begins with.
#[inline]
pub fn visible_len(bytes: &[u8]) -> usize {
    lanes::find(bytes, invisible)
}

/// Length of the run of [`ADDR`] that `bytes` begins with.
#[inline]
pub fn addr_len(bytes: &[u8]) -> usize {
    lanes::find(bytes, |block| {
        invisible(block) | block.eq(b'<') | block.eq(b'>') | block.eq(b'"')
    })
}

/// Length of the run of [`VALUE`] that `bytes` begins with.
#[inline]
pub fn value_len(bytes: &[u8]) -> usize {
    lanes::find(bytes, |block| {
        invisible(block) | block.eq(b';') | block.eq(b',') | block.eq(b'"') | block.eq(b'<') | block.eq(b'>')
    })
}

/// Length of the run of decimal digits that `bytes` begins with.
#[inline]
pub fn digits_len(bytes: &[u8]) -> usize {
    lanes::run(bytes, |block| block.within(b'0', b'9'))
}

/// Length of the run of letters and digits that `bytes` begins with: most of [`USER`] and [`URI_TAIL`] are no more.
#[inline]
pub fn alphanumeric_len(bytes: &[u8]) -> usize {
    lanes::run(bytes, alphanumeric)
}

/// Length of the run of what tokens are made of nearly always.
#[inline]
pub fn plain_token_len(bytes: &[u8]) -> usize {
    lanes::run(bytes, |block| {
        alphanumeric(block) | block.within(b'-', b'.') | block.eq(b'+')
    })
}

/// Length of the run of letters, digits and what most often stands between them in URI parameters.
#[inline]
pub fn plain_tail_len(bytes: &[u8]) -> usize {
    lanes::run(bytes, |block| {
        alphanumeric(block) | block.within(b'-', b'.') | block.eq(b'=') | block.eq(b';')
    })
}

/// A token of at least one character.
#[inline]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// First index from `at` on whose byte is not of `class`.
#[inline]
pub fn skip(bytes: &[u8], mut at: usize, class: u8) -> usize {
    // Eight at a time, for which one look at the length is enough.
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        for (i, &byte) in chunk.iter().enumerate() {
            if !is(byte, class) {
                return at + i;
            }
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at)
        && is(byte, class)
    {
        at += 1;
    }
    at
}

/// The same for LWS, of which there is little.
#[inline]
pub fn skip_lws(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at)
        && is(byte, LWS)
    {
        at += 1;
    }
    at
}

/// Without the LWS at both ends.
#[inline]
pub fn trim(bytes: &[u8]) -> &[u8] {
    trim_end(&bytes[skip_lws(bytes, 0)..])
}

/// Where the value of a header line stands in it, without the white space around it. Empty for a line without a colon.
pub fn value_of_line(line: &[u8]) -> core::ops::Range<usize> {
    let colon = lanes::find(line, |block| block.eq(b':'));
    if colon == line.len() {
        return 0..0;
    }
    let end = trim_end(line).len();
    skip_lws(line, colon + 1).min(end)..end
}

/// Without the LWS at the end.
#[inline]
pub fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., last] = bytes
        && is(*last, LWS)
    {
        bytes = rest;
    }
    bytes
}

/// Index one past the quoted string whose opening quote is at `at`; `None` when it does not close.
/// §25.1: within it a backslash takes the next character along, whatever that is.
pub fn skip_quoted(bytes: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        i += lanes::find(bytes.get(i..)?, |block| block.eq(b'"') | block.eq(b'\\'));
        match bytes.get(i)? {
            b'"' => return Some(i + 1),
            // A backslash, which takes the next along.
            _ => i += 2,
        }
    }
}

/// A number of decimal digits only, `None` when it is anything else; saturates at `u32::MAX`.
#[inline]
pub fn number(bytes: &[u8]) -> Option<u32> {
    let (value, len) = leading_number(bytes);
    (len > 0 && len == bytes.len()).then_some(value)
}

/// A `qvalue` of RFC 3261 §25.1 in thousandths.
pub fn qvalue(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole] => (whole, &b""[..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut value: u16 = match whole {
        b'0' => 0,
        b'1' => 1_000,
        _ => return None,
    };
    for (digit, unit) in decimals.iter().zip([100, 10, 1]) {
        if !digit.is_ascii_digit() {
            return None;
        }
        value += u16::from(digit - b'0') * unit;
    }
    (value <= 1_000).then_some(value)
}

/// The number that `bytes` begins with, and how many digits it has, 0 for none; saturates at `u32::MAX`.
#[inline]
pub fn leading_number(bytes: &[u8]) -> (u32, usize) {
    let word = lanes::word(bytes) ^ 0x3030_3030_3030_3030;
    // What is 10 or more now was no digit; a carry goes to what is behind the first of these only.
    let others = (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080;
    match others.trailing_zeros() {
        64.. => long_leading_number(bytes),
        bits => {
            let len = bits / 8;
            // The digits move to the end, behind zeros; neighbours are joined until all are one number.
            let word = word.checked_shl(64 - 8 * len).unwrap_or(0);
            let pairs = (word * 10 + (word >> 8)) & 0x00ff_00ff_00ff_00ff;
            let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
            ((fours * 10_000 + (fours >> 32)) as u32, len as usize)
        }
    }
}

/// The same for eight digits and more.
#[inline(never)]
fn long_leading_number(bytes: &[u8]) -> (u32, usize) {
    // So many digits fit 64 bits whatever they are: none needs a look at what came before it.
    const FITTING: usize = 19;
    let mut value: u64 = 0;
    let mut len = 0;
    for &byte in bytes.iter().take(FITTING) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value * 10 + u64::from(digit);
        len += 1;
    }
    if len == FITTING {
        let len = digits_len(bytes);
        let zeros = bytes.iter().take_while(|byte| **byte == b'0').count();
        return match len - zeros {
            0..FITTING => (long_leading_number(&bytes[zeros..]).0, len),
            _ => (u32::MAX, len),
        };
    }
    (u32::try_from(value).unwrap_or(u32::MAX), len)
}

/// A port, 0 to 65535.
pub fn port(bytes: &[u8]) -> Option<u16> {
    u16::try_from(number(bytes)?).ok()
}

/// Length of the `host` at the start of `bytes`: a bracketed IPv6 reference, or host name characters. 0 when there is none.
#[inline]
pub fn host_len(bytes: &[u8]) -> usize {
    if bytes.first() != Some(&b'[') {
        return lanes::run(bytes, |block| {
            alphanumeric(block) | block.within(b'-', b'.') | block.eq(b'_')
        });
    }
    let mut i = 1;
    while let Some(&byte) = bytes.get(i) {
        match byte {
            b']' => return if i > 1 { i + 1 } else { 0 },
            b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b':' | b'.' => i += 1,
            _ => return 0,
        }
    }
    0
}

/// The address that `host` is, brackets or not; `None` for a name. One of IPv4 that is written as one of IPv6 (RFC 4291 §2.5.5.2) is the
/// same host, and no other way to it.
pub fn host_ip(host: &[u8]) -> Option<IpAddr> {
    let inner = match host {
        [b'[', inner @ .., b']'] => inner,
        _ => host,
    };
    // Nearly every address is read here: the standard library's reader wants UTF-8 proven first, and takes three times as long.
    if let Some(ip) = ipv4(inner) {
        return Some(IpAddr::V4(ip));
    }
    // 45 is the longest text of an address; a name that is longer is not looked at, nor one that can be no IPv6 address.
    if inner.len() > 45 || !inner.contains(&b':') {
        return None;
    }
    let ip: IpAddr = core::str::from_utf8(inner).ok()?.parse().ok()?;
    Some(ip.to_canonical())
}

/// Four numbers of 0 to 255 with dots between them, none with a zero in front that means nothing.
fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut rest = text;
    for (i, octet) in octets.iter_mut().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let digit = |at: usize| {
            rest.get(at)
                .map(|byte| u32::from(byte.wrapping_sub(b'0')))
                .filter(|digit| *digit <= 9)
        };
        let first = digit(0)?;
        let (value, len) = match (digit(1), digit(2)) {
            (None, _) => (first, 1),
            (Some(_), _) if first == 0 => return None,
            (Some(second), None) => (first * 10 + second, 2),
            (Some(second), Some(third)) => (first * 100 + second * 10 + third, 3),
        };
        *octet = u8::try_from(value).ok()?;
        rest = &rest[len..];
    }
    rest.is_empty().then(|| Ipv4Addr::from(octets))
}

/// The elements of a comma-separated value (§7.3.1), trimmed; empty ones are passed over.
/// A comma within quotes or `<>` separates nothing.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub const fn new(value: &'a [u8]) -> Elements<'a> {
        Elements { rest: value }
    }

    /// What lies behind the comma after the element that came last.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = element_end(self.rest);
            let element = trim(&self.rest[..end]);
            self.rest = &self.rest[(end + 1).min(self.rest.len())..];
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    }
}

/// Index of the comma that ends the first element of `value`, or its length. A quote or bracket that does not close
/// takes all that is left.
fn element_end(value: &[u8]) -> usize {
    let mut at = 0;
    let mut in_brackets = false;
    // Most values have no comma at all.
    if lanes::find(value, |block| block.eq(b',')) == value.len() {
        return value.len();
    }
    while let Some(&byte) = value.get(at) {
        match byte {
            b',' if !in_brackets => return at,
            b'"' if !in_brackets => match skip_quoted(value, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => return value.len(),
            },
            b'<' => in_brackets = true,
            b'>' => in_brackets = false,
            _ => {}
        }
        at += 1;
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(value: &[u8]) -> Vec<&[u8]> {
        Elements::new(value).collect()
    }

    #[test]
    fn commas_in_quotes_and_brackets_separate_nothing() {
        let list = b"\"a, \\\",b\" <sip:a,b@c>;q=1 ,, <sip:d@e>\r\n ,\t\"\"<sip:f@g;x=\">";
        assert_eq!(
            elements(list),
            [
                &b"\"a, \\\",b\" <sip:a,b@c>;q=1"[..],
                b"<sip:d@e>",
                b"\"\"<sip:f@g;x=\">"
            ]
        );
        assert_eq!(elements(b""), [b""; 0]);
        assert_eq!(elements(b" , ,"), [b""; 0]);
        assert_eq!(elements(b"\"open, <a>, b"), [b"\"open, <a>, b"]);
    }

    #[test]
    fn q_is_read_as_the_grammar_has_it() {
        for (text, value) in [
            ("1", Some(1_000)),
            ("0", Some(0)),
            ("0.5", Some(500)),
            ("0.05", Some(50)),
            ("0.123", Some(123)),
            ("1.000", Some(1_000)),
            ("0.", Some(0)),
            ("1.001", None),
            ("0.1234", None),
            ("2", None),
            (".5", None),
            ("", None),
            ("0.x", None),
        ] {
            assert_eq!(qvalue(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn a_quoted_string_ends_at_the_first_quote_that_is_not_escaped() {
        assert_eq!(skip_quoted(b"\"a\\\"b\"c", 0), Some(6));
        assert_eq!(skip_quoted(b"\"a\\\\\"c", 0), Some(5));
        assert_eq!(skip_quoted(b"\"a\\\"", 0), None);
        assert_eq!(skip_quoted(b"\"a\\", 0), None);
    }

    #[test]
    fn lanes_and_the_table_see_the_same_classes() {
        for byte in 0..=u8::MAX {
            for before in [0, 5, 15, 16, 20] {
                for behind in [0, 3, 20] {
                    let text = [
                        &b"0123456789abcdefABCD"[..before],
                        &[byte],
                        &b"ghijklmnopqrstuvwxyz"[..behind],
                    ]
                    .concat();
                    let len = |class| text.iter().take_while(|&&byte| is(byte, class)).count();
                    assert_eq!(visible_len(&text), len(VISIBLE), "{byte}");
                    assert_eq!(addr_len(&text), len(ADDR), "{byte}");
                    assert_eq!(value_len(&text), len(VALUE), "{byte}");
                    assert!(plain_token_len(&text) <= len(TOKEN));
                    if text[0] != b'[' {
                        assert_eq!(host_len(&text), len(HOST), "{byte}");
                    }
                    assert!(alphanumeric_len(&text) <= len(USER).min(len(URI_TAIL)));
                    assert!(plain_tail_len(&text) <= len(URI_TAIL));
                }
            }
        }
    }

    #[test]
    fn addresses_are_those_of_the_standard_library() {
        for text in [
            "192.0.2.1",
            "0.0.0.0",
            "255.255.255.255",
            "256.0.0.1",
            "01.2.3.4",
            "1.2.3",
            "1.2.3.4.",
            "1.2.3.4.5",
            "1..2.3",
            ".1.2.3",
            "1.2.3.0004",
            "00.0.0.0",
            "1.2.3.4a",
            "",
            "a.b.c.d",
            "::1",
            "::ffff:192.0.2.1",
            "fe80::1%1",
            "1234",
        ] {
            let expected = text.parse().ok().map(|ip: IpAddr| ip.to_canonical());
            assert_eq!(host_ip(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn numbers_saturate_and_take_digits_only() {
        assert_eq!(number(b"0042"), Some(42));
        assert_eq!(number(b"99999999999999999999"), Some(u32::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"1 ", b"1.0", b"0x1"] {
            assert_eq!(number(bad), None);
        }
        assert_eq!((port(b"65535"), port(b"65536")), (Some(65535), None));
        for (text, found) in [
            (&b"5060;x"[..], (5060, 4)),
            (b"x", (0, 0)),
            (b"", (0, 0)),
            (b"9999999999999999999", (u32::MAX, 19)),
            (b"18446744073709551616 ", (u32::MAX, 20)),
            (b"00000000000000000000042-", (42, 23)),
            (b"0000000000000000000", (0, 19)),
        ] {
            assert_eq!(leading_number(text), found);
        }
        // Eight at a time as one by one, whatever follows.
        for number in [
            "", "0", "7", "42", "999", "5060", "33302", "123456", "9999999", "12345678",
        ] {
            for behind in 0..=u8::MAX {
                for filler in [&b""[..], b"9", b"\xff\xff\xff\xff\xff\xff\xff"] {
                    let text = [number.as_bytes(), &[behind], filler].concat();
                    assert_eq!(
                        leading_number(&text),
                        long_leading_number(&text),
                        "{number} {behind}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_host_ends_where_its_grammar_does() {
        assert_eq!(host_len(b"a-b.example;x"), 11);
        assert_eq!(host_len(b"[2001:db8::1]:5060"), 13);
        for none in [&b"[]"[..], b"[::1", b"[g]", b"", b";x"] {
            assert_eq!(host_len(none), 0);
        }
        assert_eq!(host_ip(b"[::1]"), "::1".parse().ok());
        assert_eq!(host_ip(b"192.0.2.1"), "192.0.2.1".parse().ok());
        assert_eq!(host_ip(b"[::ffff:192.0.2.1]"), "192.0.2.1".parse().ok());
        assert_eq!(host_ip(b"[::FFFF:C000:201]"), "192.0.2.1".parse().ok());
        assert_eq!(host_ip(b"example.com"), None);
    }
}
