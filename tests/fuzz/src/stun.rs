//! STUN keepalives: whatever is answered was a request, and the answer is well-formed and says where it came from.

use std::net::SocketAddr;

use ringway::stun::{ANSWER_BYTES_MAX, Said, answer};

const PEERS: [([u8; 16], u8, u16); 2] = [
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1], 4, 5060),
    (
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        16,
        65_535,
    ),
];

pub fn check(data: &[u8]) {
    for (ip, ip_len, port) in PEERS {
        let address = std::net::Ipv6Addr::from(ip);
        let peer = match address.to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, port)),
            None => SocketAddr::from((address, port)),
        };
        let mut bytes = [0; ANSWER_BYTES_MAX];
        let Said::Answer(len) = answer(data, peer, &mut bytes) else {
            continue;
        };
        assert!(data.len() >= 20 && data[..2] == [0, 1] && data[4..8] == [0x21, 0x12, 0xa4, 0x42]);
        let said = &bytes[..len];
        assert_eq!(said[4..20], data[4..20], "the same transaction");
        assert_eq!(usize::from(u16::from_be_bytes([said[2], said[3]])), len - 20);
        if said[..2] == [1, 1] {
            let mapped = &said[20..];
            let port_there = u16::from_be_bytes([mapped[6] ^ data[4], mapped[7] ^ data[5]]);
            assert_eq!((port_there, mapped.len()), (port, 8 + usize::from(ip_len)));
            let there: Vec<u8> = mapped[8..].iter().zip(&data[4..]).map(|(a, b)| a ^ b).collect();
            assert_eq!(there, ip[16 - usize::from(ip_len)..]);
        } else {
            assert_eq!(said[..2], [1, 0x11]);
        }
    }
}
