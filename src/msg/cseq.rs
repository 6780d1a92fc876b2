//! CSeq (RFC 3261 §8.1.1.5, §20.16).

use super::error::{ErrorKind, ParseError};
use super::lex;
use super::method::Method;

/// `4711 INVITE`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CSeq<'a> {
    /// Less than 2^31.
    pub number: u32,
    pub method: Method,
    pub method_text: &'a [u8],
}

impl<'a> CSeq<'a> {
    /// Numbers from this on are refused.
    pub const NUMBER_END: u32 = 1 << 31;

    /// Parses a trimmed value; the place of an error counts from its start.
    pub fn parse(value: &'a [u8]) -> Result<CSeq<'a>, ParseError> {
        let (number, digits_end) = lex::leading_number(value);
        if digits_end == 0 {
            return Err(ParseError::new(ErrorKind::BadCSeq, 0));
        }
        let method_start = lex::skip_lws(value, digits_end);
        let method_text = &value[method_start..];
        let method = Method::lookup(method_text);
        if method_start == digits_end || method == Method::Other && !lex::is_token(method_text) {
            return Err(ParseError::new(ErrorKind::BadCSeq, method_start as u32));
        }
        if number >= Self::NUMBER_END {
            return Err(ParseError::new(ErrorKind::CSeqOverflow, 0));
        }
        Ok(CSeq {
            number,
            method,
            method_text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_method_are_read() {
        let cseq = CSeq::parse(b"0000000000000004711 \r\n\tINVITE").expect("well-formed");
        assert_eq!((cseq.number, cseq.method), (4711, Method::Invite));
        let odd = CSeq::parse(b"2147483647 invite").expect("well-formed");
        assert_eq!((odd.method, odd.method_text), (Method::Other, &b"invite"[..]));
    }

    #[test]
    fn what_is_no_cseq_is_refused() {
        for (bad, kind, at) in [
            (&b""[..], ErrorKind::BadCSeq, 0),
            (b"INVITE", ErrorKind::BadCSeq, 0),
            (b"-1 INVITE", ErrorKind::BadCSeq, 0),
            (b"1", ErrorKind::BadCSeq, 1),
            (b"1INVITE", ErrorKind::BadCSeq, 1),
            (b"1 INV ITE", ErrorKind::BadCSeq, 2),
            (b"2147483648 BYE", ErrorKind::CSeqOverflow, 0),
            (b"36893488147419103232 BYE", ErrorKind::CSeqOverflow, 0),
        ] {
            assert_eq!(
                CSeq::parse(bad),
                Err(ParseError::new(kind, at)),
                "{}",
                bad.escape_ascii()
            );
        }
    }
}
