//! STUN on the SIP port: the keepalive of RFC 5626 §5.4 and §8, as little of RFC 5389 as that needs. A Binding request over UDP
//! is answered with the address that it came from; nobody authenticates and nothing is remembered.

use std::net::{IpAddr, SocketAddr};

/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 48;

const HEADER_BYTES: usize = 20;
/// RFC 5389 §6: what tells STUN from everything else, and what mapped addresses are hidden under.
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_INDICATION: u16 = 0x0011;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 5389 §15: attributes up to here must be understood by who gets them.
const MUST_UNDERSTAND_MAX: u16 = 0x7fff;
/// Those of RFC 5389 that a request may have: MAPPED-ADDRESS, USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, XOR-MAPPED-ADDRESS. What
/// proves who asks is passed over, since everybody is answered.
const UNDERSTOOD: [u16; 6] = [0x0001, 0x0006, 0x0008, 0x0014, 0x0015, XOR_MAPPED_ADDRESS];

/// What a datagram is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// No STUN message, or one that is broken.
    Other,
    /// A Binding indication, which keeps a NAT open and wants no answer.
    Indication,
    /// A Binding request; its answer has so many bytes.
    Answer(usize),
}

/// Reads a datagram from `peer` and writes the answer that it wants.
pub fn answer(datagram: &[u8], peer: SocketAddr, into: &mut [u8; ANSWER_BYTES_MAX]) -> Said {
    let Some((header, attributes)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
        return Said::Other;
    };
    let [t0, t1, l0, l1, cookie @ ..] = header;
    let is_whole = usize::from(u16::from_be_bytes([*l0, *l1])) == attributes.len();
    if !is_whole || !attributes.len().is_multiple_of(4) || !cookie.starts_with(&MAGIC_COOKIE) {
        return Said::Other;
    }
    let unknown = match first_unknown(attributes) {
        Ok(unknown) => unknown,
        Err(Broken) => return Said::Other,
    };
    match (u16::from_be_bytes([*t0, *t1]), unknown) {
        (BINDING_INDICATION, _) => Said::Indication,
        (BINDING_REQUEST, None) => {
            let mut w = Answer::new(BINDING_SUCCESS, cookie, into);
            w.mapped_address(peer);
            Said::Answer(w.finish())
        }
        (BINDING_REQUEST, Some(unknown)) => {
            // §7.3.1: 420, and what was not understood.
            let mut w = Answer::new(BINDING_ERROR, cookie, into);
            w.attribute(ERROR_CODE, &[0, 0, 4, 20]);
            w.attribute(UNKNOWN_ATTRIBUTES, &unknown.to_be_bytes());
            Said::Answer(w.finish())
        }
        (_, _) => Said::Other,
    }
}

struct Broken;

/// The first attribute that must be understood and is not.
fn first_unknown(mut attributes: &[u8]) -> Result<Option<u16>, Broken> {
    let mut unknown = None;
    while let Some(([k0, k1, l0, l1], rest)) = attributes.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([*k0, *k1]);
        // §15: the length leaves out what fills the value up to a word.
        let len = usize::from(u16::from_be_bytes([*l0, *l1])).next_multiple_of(4);
        attributes = rest.get(len..).ok_or(Broken)?;
        if kind <= MUST_UNDERSTAND_MAX && !UNDERSTOOD.contains(&kind) {
            unknown = unknown.or(Some(kind));
        }
    }
    Ok(unknown)
}

/// An answer being written. What is put into one always fits: [`ANSWER_BYTES_MAX`] is what the longest takes.
struct Answer<'a> {
    bytes: &'a mut [u8; ANSWER_BYTES_MAX],
    len: usize,
}

impl<'a> Answer<'a> {
    /// `cookie`: the magic cookie and the transaction's id, as they came.
    fn new(kind: u16, cookie: &[u8], bytes: &'a mut [u8; ANSWER_BYTES_MAX]) -> Answer<'a> {
        let mut answer = Answer { bytes, len: 0 };
        answer.put(&kind.to_be_bytes());
        answer.put(&[0, 0]);
        answer.put(cookie);
        answer
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.put(&kind.to_be_bytes());
        self.put(&(value.len() as u16).to_be_bytes());
        self.put(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.put(&[0; 4][..padding]);
    }

    /// §15.2: the address under the cookie, and an IPv6 one under the transaction's id too, so that no NAT on the way takes it for one
    /// that it should rewrite.
    fn mapped_address(&mut self, peer: SocketAddr) {
        let mut mask = [0; 16];
        mask.copy_from_slice(&self.bytes[4..HEADER_BYTES]);
        let mut value = [0; 20];
        let [p0, p1] = peer.port().to_be_bytes();
        (value[2], value[3]) = (p0 ^ mask[0], p1 ^ mask[1]);
        let mut hide = |family: u8, address: &[u8]| {
            value[1] = family;
            for ((hidden, byte), mask) in value[4..].iter_mut().zip(address).zip(mask) {
                *hidden = byte ^ mask;
            }
            4 + address.len()
        };
        let len = match peer.ip() {
            IpAddr::V4(ip) => hide(1, &ip.octets()),
            IpAddr::V6(ip) => hide(2, &ip.octets()),
        };
        self.attribute(XOR_MAPPED_ADDRESS, &value[..len]);
    }

    fn finish(self) -> usize {
        let len = (self.len - HEADER_BYTES) as u16;
        self.bytes[2..4].copy_from_slice(&len.to_be_bytes());
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.2 and §2.3: the transaction of the test vectors.
    const ID: [u8; 12] = [
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ];

    fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let len = attributes.len() as u16;
        [
            &kind.to_be_bytes()[..],
            &len.to_be_bytes(),
            &MAGIC_COOKIE,
            &ID,
            attributes,
        ]
        .concat()
    }

    fn answered(datagram: &[u8], peer: &str) -> Option<Vec<u8>> {
        let mut into = [0; ANSWER_BYTES_MAX];
        match answer(datagram, peer.parse().expect("an address"), &mut into) {
            Said::Answer(len) => Some(into[..len].to_vec()),
            Said::Other | Said::Indication => None,
        }
    }

    #[test]
    fn a_request_is_answered_with_the_address_of_the_test_vectors() {
        let request = message(BINDING_REQUEST, b"");
        // RFC 5769 §2.2.
        let v4 = [
            0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
        ];
        assert_eq!(
            answered(&request, "192.0.2.1:32853"),
            Some(message(BINDING_SUCCESS, &v4))
        );
        // RFC 5769 §2.3.
        let v6 = [
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
            0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(
            answered(&request, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
            Some(message(BINDING_SUCCESS, &v6))
        );
    }

    #[test]
    fn what_a_request_may_say_besides_is_passed_over_or_refused() {
        // SOFTWARE of three bytes and their filling, USERNAME.
        let known = [
            0x80, 0x22, 0, 3, b'a', b'b', b'c', 0, 0, 6, 0, 4, b'u', b's', b'e', b'r',
        ];
        assert!(answered(&message(BINDING_REQUEST, &known), "192.0.2.1:1").is_some());
        // RFC 5780 §7.2: CHANGE-REQUEST.
        let unknown = [0, 3, 0, 4, 0, 0, 0, 6];
        let refusal = [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 3, 0, 0];
        assert_eq!(
            answered(&message(BINDING_REQUEST, &unknown), "192.0.2.1:1"),
            Some(message(BINDING_ERROR, &refusal))
        );
    }

    #[test]
    fn nothing_else_is_answered() {
        let request = message(BINDING_REQUEST, &[0x80, 0x22, 0, 4, 1, 2, 3, 4]);
        for cut in 0..request.len() {
            assert_eq!(answered(&request[..cut], "192.0.2.1:1"), None, "cut at {cut}");
        }
        let mut other_cookie = message(BINDING_REQUEST, b"");
        other_cookie[4] ^= 1;
        for other in [
            other_cookie,
            message(BINDING_SUCCESS, b""),
            message(0x0003, b""),
            message(BINDING_REQUEST, &[0, 6, 0, 8, 1, 2, 3, 4]),
            message(BINDING_REQUEST, &[1, 2, 3]),
            b"OPTIONS sip:a SIP/2.0\r\n\r\n".to_vec(),
        ] {
            assert_eq!(answered(&other, "192.0.2.1:1"), None, "{other:02x?}");
        }
        let mut into = [0; ANSWER_BYTES_MAX];
        let indication = message(BINDING_INDICATION, b"");
        let peer = "192.0.2.1:1".parse().expect("an address");
        assert_eq!(answer(&indication, peer, &mut into), Said::Indication);
    }
}
