//! pcapng (draft-ietf-opsawg-pcapng): a section header, one interface, and a packet a message.
//!
//! The link type is 252, "Wireshark Upper PDU": a message goes in as it was framed, with its addresses, ports and transport as
//! tags, and Wireshark hands it to its SIP dissector whatever the port. No IP or TCP header is made up.

use std::net::{IpAddr, SocketAddr};

use crate::capture::Captured;
use crate::wire::Transport;

/// LINKTYPE_WIRESHARK_UPPER_PDU.
const LINK_TYPE: u16 = 252;
/// Longest packet that is promised: a SIP message of 65,535 bytes with its tags.
const SNAP_LEN: u32 = 66_000;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1A2B_3C4D;
/// Time stamps count in 10^-9 s.
const OPTION_TSRESOL: u16 = 9;
const OPTION_USER_APPLICATION: u16 = 4;

/// Tags of an upper PDU (Wireshark, `exported_pdu.h`). Unlike pcapng itself they are in network byte order.
mod tag {
    pub const DISSECTOR: u16 = 12;
    pub const IPV4_FROM: u16 = 20;
    pub const IPV4_TO: u16 = 21;
    pub const IPV6_FROM: u16 = 22;
    pub const IPV6_TO: u16 = 23;
    pub const PORT_TYPE: u16 = 24;
    pub const PORT_FROM: u16 = 25;
    pub const PORT_TO: u16 = 26;
    pub const END: u16 = 0;
}

/// The beginning of a file.
pub fn put_header(file: &mut Vec<u8>) {
    put_block(file, SECTION_HEADER, |body| {
        body.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // The length of the section is not known in advance.
        body.extend((-1i64).to_le_bytes());
        put_option(
            body,
            OPTION_USER_APPLICATION,
            concat!("ringway ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        put_option(body, 0, b"");
    });
    put_block(file, INTERFACE_DESCRIPTION, |body| {
        body.extend(LINK_TYPE.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(SNAP_LEN.to_le_bytes());
        put_option(body, OPTION_TSRESOL, &[9]);
        put_option(body, 0, b"");
    });
}

/// One message.
pub fn put_packet(file: &mut Vec<u8>, captured: &Captured, message: &[u8]) {
    put_block(file, ENHANCED_PACKET, |body| {
        let at = captured.at.as_nanos();
        body.extend(0u32.to_le_bytes());
        body.extend(((at >> 32) as u32).to_le_bytes());
        body.extend((at as u32).to_le_bytes());
        let lengths_at = body.len();
        body.extend([0; 8]);
        let begin = body.len();
        put_tags(body, captured);
        body.extend(message);
        let len = (body.len() - begin) as u32;
        body[lengths_at..lengths_at + 4].copy_from_slice(&len.to_le_bytes());
        body[lengths_at + 4..lengths_at + 8].copy_from_slice(&len.to_le_bytes());
        pad(body);
    });
}

fn put_tags(body: &mut Vec<u8>, captured: &Captured) {
    put_tag(body, tag::DISSECTOR, b"sip\0");
    let mut put_address = |addr: SocketAddr, v4: u16, v6: u16| match addr.ip() {
        IpAddr::V4(ip) => put_tag(body, v4, &ip.octets()),
        IpAddr::V6(ip) => put_tag(body, v6, &ip.octets()),
    };
    put_address(captured.from, tag::IPV4_FROM, tag::IPV6_FROM);
    put_address(captured.to, tag::IPV4_TO, tag::IPV6_TO);
    // EXP_PDU_PT_TCP and EXP_PDU_PT_UDP.
    let port_type: u32 = match captured.transport {
        Transport::Tcp => 2,
        Transport::Udp => 3,
    };
    put_tag(body, tag::PORT_TYPE, &port_type.to_be_bytes());
    put_tag(
        body,
        tag::PORT_FROM,
        &u32::from(captured.from.port()).to_be_bytes(),
    );
    put_tag(body, tag::PORT_TO, &u32::from(captured.to.port()).to_be_bytes());
    put_tag(body, tag::END, b"");
}

/// The values above are multiples of 4 bytes, as tags must be.
fn put_tag(body: &mut Vec<u8>, tag: u16, value: &[u8]) {
    body.extend(tag.to_be_bytes());
    body.extend((value.len() as u16).to_be_bytes());
    body.extend(value);
}

fn put_option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

/// Blocks carry their length before and behind, so that a reader can go both ways.
fn put_block(file: &mut Vec<u8>, kind: u32, put_body: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    put_body(&mut body);
    let len = (body.len() + 12) as u32;
    file.extend(kind.to_le_bytes());
    file.extend(len.to_le_bytes());
    file.extend(&body);
    file.extend(len.to_le_bytes());
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_and_of_multiples_of_four() {
        let captured = Captured {
            at: Instant::from_nanos(1_800_000_000_123_456_789),
            transport: Transport::Udp,
            from: ([127, 0, 0, 2], 5060).into(),
            to: ("::1".parse::<IpAddr>().expect("an address"), 5070).into(),
        };
        let mut file = Vec::new();
        put_header(&mut file);
        put_packet(&mut file, &captured, b"OPTIONS sip:a SIP/2.0\r\n\r\n");
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let len = word(at + 4) as usize;
            assert_eq!((len % 4, word(at + len - 4) as usize), (0, len));
            kinds.push(word(at));
            if word(at) == ENHANCED_PACKET {
                let nanos = u64::from(word(at + 12)) << 32 | u64::from(word(at + 16));
                assert_eq!(nanos, captured.at.as_nanos());
                let packet = &file[at + 28..at + 28 + word(at + 20) as usize];
                assert!(packet.ends_with(b"\0\0\0\0OPTIONS sip:a SIP/2.0\r\n\r\n"));
                assert!(packet.starts_with(&[
                    0, 12, 0, 4, b's', b'i', b'p', 0, 0, 20, 0, 4, 127, 0, 0, 2, 0, 23, 0, 16
                ]));
            }
            at += len;
        }
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET]);
    }

    use crate::time::Instant;
}
