//! HEPv3, the Homer encapsulation protocol (EEP/HEP network protocol specification, revision 36): a datagram a message, of chunks.

use std::net::IpAddr;

use crate::capture::Captured;
use crate::wire::Transport;

/// What all datagrams of one sender have in common.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sender {
    /// Which capture agent this is (chunk 0x000c).
    pub capture_id: u32,
    /// A password that the collector may want (chunk 0x000e); empty: none.
    pub auth_key: String,
}

/// Chunks of vendor 0.
mod chunk {
    pub const IP_FAMILY: u16 = 0x01;
    pub const IP_PROTOCOL: u16 = 0x02;
    pub const IPV4_FROM: u16 = 0x03;
    pub const IPV4_TO: u16 = 0x04;
    pub const IPV6_FROM: u16 = 0x05;
    pub const IPV6_TO: u16 = 0x06;
    pub const PORT_FROM: u16 = 0x07;
    pub const PORT_TO: u16 = 0x08;
    pub const SECONDS: u16 = 0x09;
    pub const MICROSECONDS: u16 = 0x0a;
    pub const PROTOCOL: u16 = 0x0b;
    pub const CAPTURE_ID: u16 = 0x0c;
    pub const AUTH_KEY: u16 = 0x0e;
    pub const PAYLOAD: u16 = 0x0f;
    pub const CORRELATION_ID: u16 = 0x11;
}

/// Protocol type of chunk 0x000b.
const SIP: u8 = 1;
/// What a datagram can carry over IPv4: 65,535 less the headers.
const DATAGRAM_MAX: usize = 65_507;

/// Writes the datagram for `message` into `datagram`, over what was there. `correlation` ties the legs of a call together: the
/// Call-ID of its first; empty: none. `false`: it does not fit into one datagram.
#[must_use]
pub fn write(
    datagram: &mut Vec<u8>,
    sender: &Sender,
    captured: &Captured,
    correlation: &[u8],
    message: &[u8],
) -> bool {
    datagram.clear();
    datagram.extend(b"HEP3\0\0");
    let from_ip = captured.from.ip();
    // AF_INET and AF_INET6 as Linux counts them, and everybody who speaks HEP.
    put(
        datagram,
        chunk::IP_FAMILY,
        &[if from_ip.is_ipv4() { 2 } else { 10 }],
    );
    let protocol = match captured.transport {
        Transport::Udp => 17,
        Transport::Tcp => 6,
    };
    put(datagram, chunk::IP_PROTOCOL, &[protocol]);
    let mut put_ip = |ip: IpAddr, v4: u16, v6: u16| match ip {
        IpAddr::V4(ip) => put(datagram, v4, &ip.octets()),
        IpAddr::V6(ip) => put(datagram, v6, &ip.octets()),
    };
    put_ip(from_ip, chunk::IPV4_FROM, chunk::IPV6_FROM);
    put_ip(captured.to.ip(), chunk::IPV4_TO, chunk::IPV6_TO);
    put(datagram, chunk::PORT_FROM, &captured.from.port().to_be_bytes());
    put(datagram, chunk::PORT_TO, &captured.to.port().to_be_bytes());
    let micros = captured.at.as_nanos() / 1_000;
    put(
        datagram,
        chunk::SECONDS,
        &((micros / 1_000_000) as u32).to_be_bytes(),
    );
    put(
        datagram,
        chunk::MICROSECONDS,
        &((micros % 1_000_000) as u32).to_be_bytes(),
    );
    put(datagram, chunk::PROTOCOL, &[SIP]);
    put(datagram, chunk::CAPTURE_ID, &sender.capture_id.to_be_bytes());
    if !sender.auth_key.is_empty() {
        put(datagram, chunk::AUTH_KEY, sender.auth_key.as_bytes());
    }
    if !correlation.is_empty() {
        put(datagram, chunk::CORRELATION_ID, correlation);
    }
    if datagram.len() + CHUNK_HEADER + message.len() > DATAGRAM_MAX {
        return false;
    }
    put(datagram, chunk::PAYLOAD, message);
    let len = datagram.len() as u16;
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    true
}

/// Vendor, type and length.
const CHUNK_HEADER: usize = 6;

fn put(datagram: &mut Vec<u8>, kind: u16, value: &[u8]) {
    datagram.extend(0u16.to_be_bytes());
    datagram.extend(kind.to_be_bytes());
    datagram.extend(((value.len() + CHUNK_HEADER) as u16).to_be_bytes());
    datagram.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;

    fn captured() -> Captured {
        Captured {
            at: Instant::from_nanos(1_800_000_000_123_456_789),
            transport: Transport::Tcp,
            from: ([127, 0, 0, 2], 5060).into(),
            to: ([127, 0, 0, 1], 5070).into(),
        }
    }

    #[test]
    fn a_datagram_is_its_chunks_and_says_how_long_it_is() {
        let mut datagram = Vec::new();
        let sender = Sender {
            capture_id: 7,
            auth_key: "secret".to_owned(),
        };
        assert!(write(&mut datagram, &sender, &captured(), b"call-1", b"BYE"));
        assert_eq!(&datagram[..4], b"HEP3");
        assert_eq!(
            usize::from(u16::from_be_bytes([datagram[4], datagram[5]])),
            datagram.len()
        );
        let mut chunks = Vec::new();
        let mut rest = &datagram[6..];
        while !rest.is_empty() {
            let len = usize::from(u16::from_be_bytes([rest[4], rest[5]]));
            chunks.push((u16::from_be_bytes([rest[2], rest[3]]), rest[6..len].to_vec()));
            rest = &rest[len..];
        }
        let of = |kind| {
            chunks
                .iter()
                .find(|chunk| chunk.0 == kind)
                .map(|chunk| &chunk.1[..])
        };
        assert_eq!(of(chunk::IP_FAMILY), Some(&[2][..]));
        assert_eq!(of(chunk::IP_PROTOCOL), Some(&[6][..]));
        assert_eq!(of(chunk::IPV4_FROM), Some(&[127, 0, 0, 2][..]));
        assert_eq!(of(chunk::PORT_TO), Some(&5070u16.to_be_bytes()[..]));
        assert_eq!(of(chunk::SECONDS), Some(&1_800_000_000u32.to_be_bytes()[..]));
        assert_eq!(of(chunk::MICROSECONDS), Some(&123_456u32.to_be_bytes()[..]));
        assert_eq!(of(chunk::AUTH_KEY), Some(&b"secret"[..]));
        assert_eq!(of(chunk::CORRELATION_ID), Some(&b"call-1"[..]));
        assert_eq!(of(chunk::PAYLOAD), Some(&b"BYE"[..]));
    }

    #[test]
    fn what_no_datagram_holds_is_not_written() {
        let mut datagram = Vec::new();
        let sender = Sender::default();
        assert!(!write(&mut datagram, &sender, &captured(), b"", &[b'x'; 65_500]));
        assert!(write(&mut datagram, &sender, &captured(), b"", &[b'x'; 65_000]));
    }
}
