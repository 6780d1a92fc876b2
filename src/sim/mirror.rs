//! A proxy next door that sends everything back: requests come to the server a second time, by way of another element, as in a
//! loop or a spiral (RFC 3261 §16.3 step 4).

use std::rc::Rc;

use bench_harness::sip::Header;

use super::net::{Net, phone_addr};
use super::packet::Packet;

/// The party `index` has got `packet` from the server.
pub fn reflect(index: usize, packet: &Packet, net: &mut Net) {
    let mut message = packet.message.clone();
    if packet.status.is_some() {
        // RFC 3261 §16.11: without its own Via a response goes to the next.
        if let Some(own) = message.headers.iter().position(|header| header.is("Via")) {
            message.headers.remove(own);
        }
    } else {
        let Ok(hops @ 1..) = message.text("Max-Forwards").parse::<u32>() else {
            return;
        };
        net.counts.mirrored += 1;
        message.set("Max-Forwards", hops - 1);
        // The branch of the server's own names the transaction, so that an ACK and a CANCEL have that of their INVITE.
        let branch = packet.branch.replacen("z9hG4bK", "z9hG4bKmirror", 1);
        let via = format!("SIP/2.0/UDP {};branch={branch}", phone_addr(index));
        message.headers.insert(0, Header::new("Via", via));
    }
    net.send_datagram(index, &Rc::new(Packet::new(message)));
}
