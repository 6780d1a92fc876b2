//! The messages of the captured IMS call, with addresses and names as parameters: what VoLTE/VoNR phones really send.

use std::net::SocketAddr;

use crate::dialog::Dialog;
use crate::links::Transport;
use crate::phone::Phone;
use crate::sip::Message;

/// Home domain of the capture.
pub const DOMAIN: &str = "one.att.net";
/// The caller, UE1.
pub const CALLER: &str = "13800011101";
/// The callee, UE2.
pub const CALLEE: &str = "13800011103";
/// What a phone that asks for no expiry is granted, seconds.
pub const EXPIRES_S: u32 = 600_000;
/// Bytes of the session description in the captured INVITE.
pub const SDP_BYTES: usize = 1_466;

const MMTEL: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel";

/// The feature parameters that a phone registers with, instance included: it differs from phone to phone.
pub fn register_features(phone: &Phone) -> String {
    format!(
        "+g.3gpp.smsip;+g.3gpp.icsi-ref=\"{MMTEL}\";audio;video;+g-3gpp-ps-data-off=\"inactive\";\
         +sip.instance=\"<urn:gsma:imei:{}>\"",
        imei(phone)
    )
}

/// Eight digits, a serial number of six, and the spare digit, as TS 23.003 writes an IMEI in a URN.
fn imei(phone: &Phone) -> String {
    let digits: u64 = phone
        .user()
        .bytes()
        .filter(u8::is_ascii_digit)
        .fold(0, |n, d| (n * 10 + u64::from(d - b'0')) % 1_000_000);
    format!("86539405-{digits:06}-0")
}

/// The feature parameters that a caller's Contact carries.
pub const CALL_FEATURES: &str = "+g.3gpp.srvcc-alerting;+g.3gpp.mid-call;+g.3gpp.ps2cs-srvcc-orig-pre-alerting;\
    +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";audio;video";

/// REGISTER without any expiry, header by header in the capture's order.
pub fn register(phone: &mut Phone, transport: Transport) -> Message {
    let (tag, call_id, via) = (phone.ids().tag(), phone.call_id(), phone.via(transport));
    let features = register_features(phone);
    Message::request("REGISTER", &phone.registrar())
        .with("From", format!("<{}>;tag={tag}", phone.aor()))
        .with("To", format!("<{}>", phone.aor()))
        .with("Call-ID", call_id)
        .with("CSeq", "1 REGISTER")
        .with("Via", via)
        .with("Max-Forwards", 70)
        .with("Contact", format!("<{}>;{features}", phone.contact()))
        .with("Content-Length", 0)
}

/// SUBSCRIBE to the phone's own registration state.
pub fn subscribe(phone: &mut Phone, transport: Transport) -> Message {
    let (tag, call_id, via) = (phone.ids().tag(), phone.call_id(), phone.via(transport));
    let aor = phone.aor();
    Message::request("SUBSCRIBE", &aor)
        .with("From", format!("<{aor}>;tag={tag}"))
        .with("To", format!("<{aor}>"))
        .with("Call-ID", call_id)
        .with("CSeq", "10052 SUBSCRIBE")
        .with("Expires", EXPIRES_S)
        .with("Via", via)
        .with("Max-Forwards", 70)
        .with("Event", "reg")
        .with("Accept", "application/reginfo+xml")
        .with("Contact", format!("<{}>", phone.contact()))
        .with("Content-Length", 0)
}

/// INVITE to another phone's number, with the captured headers and a body of [`SDP_BYTES`].
pub fn invite(phone: &mut Phone, callee: &str, transport: Transport) -> Message {
    let (tag, call_id, via) = (phone.ids().tag(), phone.call_id(), phone.via(transport));
    let to = format!("tel:{callee};phone-context={DOMAIN}");
    Message::request("INVITE", &to)
        .with("From", format!("<{}>;tag={tag}", phone.aor()))
        .with("To", format!("<{to}>"))
        .with("Call-ID", call_id)
        .with("CSeq", "33302 INVITE")
        .with("Via", via)
        .with("Max-Forwards", 70)
        .with("Accept", "application/sdp, application/3gpp-ims+xml")
        .with("P-Preferred-Service", "urn:urn-7:3gpp-service.ims.icsi.mmtel")
        .with("Accept-Contact", format!("*;+g.3gpp.icsi-ref=\"{MMTEL}\";video"))
        .with(
            "Allow",
            "INVITE,CANCEL,BYE,ACK,REFER,NOTIFY,MESSAGE,INFO,PRACK,UPDATE,OPTIONS",
        )
        .with(
            "P-Access-Network-Info",
            "3GPP-NR-TDD;utran-cell-id-3gpp=0010100313200001c001",
        )
        .with("P-Early-Media", "supported")
        .with("P-Preferred-Identity", format!("<{}>", phone.aor()))
        .with("Contact", format!("<{}>;{CALL_FEATURES}", phone.contact()))
        .with_body("application/sdp", offer(phone.addr()))
}

/// BYE in an established dialog.
pub fn bye(phone: &mut Phone, dialog: &mut Dialog) -> Message {
    phone.request_in(dialog, "BYE")
}

/// A session offer of exactly [`SDP_BYTES`]: voice and video as a VoNR phone offers them, with preconditions.
pub fn offer(addr: SocketAddr) -> String {
    let family = if addr.is_ipv4() { "IP4" } else { "IP6" };
    let ip = addr.ip();
    let mut sdp = format!(
        "v=0\r\n\
         o=- 3875942116 3875942116 IN {family} {ip}\r\n\
         s=-\r\n\
         i=PAD\r\n\
         c=IN {family} {ip}\r\n\
         b=AS:1024\r\n\
         b=RS:600\r\n\
         b=RR:2000\r\n\
         t=0 0\r\n\
         m=audio 50010 RTP/AVP 107 106 105 104 101 102\r\n\
         b=AS:49\r\n\
         a=rtpmap:107 EVS/16000/1\r\n\
         a=fmtp:107 br=5.9-24.4;bw=nb-swb;max-red=220\r\n\
         a=rtpmap:106 AMR-WB/16000/1\r\n\
         a=fmtp:106 octet-align=0;mode-change-capability=2;max-red=220\r\n\
         a=rtpmap:105 AMR-WB/16000/1\r\n\
         a=fmtp:105 octet-align=1;mode-change-capability=2;max-red=220\r\n\
         a=rtpmap:104 AMR/8000/1\r\n\
         a=fmtp:104 octet-align=0;mode-change-capability=2;max-red=220\r\n\
         a=rtpmap:101 telephone-event/16000\r\n\
         a=fmtp:101 0-15\r\n\
         a=rtpmap:102 telephone-event/8000\r\n\
         a=fmtp:102 0-15\r\n\
         a=ptime:20\r\n\
         a=maxptime:240\r\n\
         a=curr:qos local none\r\n\
         a=curr:qos remote none\r\n\
         a=des:qos mandatory local sendrecv\r\n\
         a=des:qos optional remote sendrecv\r\n\
         a=sendrecv\r\n\
         m=video 50020 RTP/AVP 114 113\r\n\
         b=AS:960\r\n\
         a=rtpmap:114 H265/90000\r\n\
         a=fmtp:114 profile-id=1;level-id=93\r\n\
         a=rtpmap:113 H264/90000\r\n\
         a=fmtp:113 profile-level-id=42C01F;packetization-mode=1\r\n\
         a=tcap:1 RTP/AVPF\r\n\
         a=pcfg:1 t=1\r\n\
         a=curr:qos local none\r\n\
         a=curr:qos remote none\r\n\
         a=des:qos mandatory local sendrecv\r\n\
         a=des:qos optional remote sendrecv\r\n\
         a=extmap:4 urn:3gpp:video-orientation\r\n\
         a=sendrecv\r\n"
    );
    // The addresses are of any length: the information line takes up the difference.
    let short = (SDP_BYTES + "PAD".len()).saturating_sub(sdp.len());
    sdp = sdp.replacen("PAD", &"x".repeat(short), 1);
    assert_eq!(
        sdp.len(),
        SDP_BYTES,
        "the session description fits with an address of any length"
    );
    sdp
}

/// What the callee answers: its own, much shorter description.
pub fn answer(addr: SocketAddr) -> String {
    let family = if addr.is_ipv4() { "IP4" } else { "IP6" };
    let ip = addr.ip();
    format!(
        "v=0\r\no=- 2874659001 2874659001 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nb=AS:49\r\nt=0 0\r\n\
         m=audio 50030 RTP/AVP 107 101\r\na=rtpmap:107 EVS/16000/1\r\na=fmtp:107 br=5.9-24.4;bw=nb-swb\r\n\
         a=rtpmap:101 telephone-event/16000\r\na=ptime:20\r\na=sendrecv\r\nm=video 0 RTP/AVP 114\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_has_the_captured_length_with_any_address() {
        for addr in [
            "1.1.1.1:1",
            "182.0.123.56:5060",
            "[::1]:5060",
            "[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
        ] {
            let sdp = offer(addr.parse().unwrap());
            assert_eq!(sdp.len(), SDP_BYTES);
            assert!(sdp.lines().all(|line| line.as_bytes()[1] == b'='));
        }
    }
}
