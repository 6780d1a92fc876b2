//! Names as DNS knows them: at most 255 bytes, in any case the same, kept in lower case and without the final dot.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Longest name in its textual form without the final dot (RFC 1035 §2.3.4: 255 octets with length bytes and root).
pub const NAME_BYTES_MAX: usize = 253;

/// A domain name. It lies in place, so that looking one up in a table allocates nothing.
#[derive(Clone, Copy)]
pub struct DomainName {
    len: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

impl DomainName {
    /// `None` for what is no name: empty, too long, an empty or too long label, a byte that is neither letter, digit, hyphen
    /// nor underscore (SRV names begin their labels with one, RFC 2782).
    pub fn new(text: &[u8]) -> Option<DomainName> {
        DomainName::joined(b"", text)
    }

    /// `prefix` right before `text`: `_sip._udp.` and a domain.
    pub fn joined(prefix: &[u8], text: &[u8]) -> Option<DomainName> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        let len = prefix.len() + text.len();
        if text.is_empty() || len > NAME_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..prefix.len()].copy_from_slice(prefix);
        bytes[prefix.len()..len].copy_from_slice(text);
        let written = &mut bytes[..len];
        written.make_ascii_lowercase();
        let is_label = |label: &[u8]| {
            (1..=63).contains(&label.len())
                && label
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        written
            .split(|byte| *byte == b'.')
            .all(is_label)
            .then_some(DomainName {
                len: len as u8,
                bytes,
            })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl PartialEq for DomainName {
    fn eq(&self, other: &DomainName) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for DomainName {}

impl Hash for DomainName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_a_final_dot_make_no_difference() {
        assert_eq!(DomainName::new(b"Example.COM."), DomainName::new(b"example.com"));
        let srv = DomainName::joined(b"_sip._udp.", b"Example.com").expect("a name");
        assert_eq!(srv.as_str(), "_sip._udp.example.com");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_label = [b'a'; 64];
        let long_name = [b"a.".as_slice(); 128].concat();
        for text in [
            b"".as_slice(),
            b".",
            b"a..b",
            b".a",
            b"a b",
            b"a\0",
            b"\xc3\xa4.de",
            &long_label,
            &long_name,
        ] {
            assert_eq!(DomainName::new(text), None, "{}", text.escape_ascii());
        }
        assert!(DomainName::new(&long_name[..253]).is_some());
    }
}
