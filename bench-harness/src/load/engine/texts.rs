//! The messages, as text with fields.

use super::super::plan::{Plan, Side};
use super::super::wire::Template;

/// What a small phone offers.
const SDP: &str = "v=0\r\no=- 3916 3916 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\n\
a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n";

/// What a VoLTE phone says of itself in an INVITE.
const IMS_HEADERS: &str = "Accept: application/sdp,application/3gpp-ims+xml\r\n\
Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\"\r\n\
P-Access-Network-Info: 3GPP-NR-TDD;utran-cell-id-3gpp=0010100000100000\r\n\
P-Early-Media: supported\r\n\
P-Preferred-Identity: <sip:{caller}@{domain}>\r\n\
P-Preferred-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel\r\n";

/// Bytes of SDP that a VoLTE phone sends.
const IMS_SDP: usize = 1466;

pub struct Texts {
    pub invite: Template,
    pub ack: Template,
    pub bye: Template,
    pub register: Template,
    pub message: Template,
    pub options: Template,
    /// What a callee's responses end with.
    pub ringing_end: Template,
    pub answer_end: Template,
    pub domain: String,
}

impl Texts {
    pub fn new(plan: &Plan) -> Texts {
        let mut sdp = SDP.to_string();
        while plan.ims && sdp.len() < IMS_SDP {
            let room = (IMS_SDP - sdp.len()).saturating_sub(4).min(60);
            sdp += &format!("a={}\r\n", "x".repeat(room.max(1)));
        }
        let ims = if plan.ims { IMS_HEADERS } else { "" };
        let make = |text: &str, side: Side| {
            let (upper, lower) = if plan.is_tcp(side) {
                ("TCP", ";transport=tcp")
            } else {
                ("UDP", "")
            };
            let text = text
                .replace("{ims}", ims)
                .replace("{domain}", &plan.domain)
                .replace("{sdp}", &sdp);
            let text = text
                .replace("{sdp-length}", &sdp.len().to_string())
                .replace("{transport}", upper);
            Template::new(&text.replace("{parameter}", lower))
        };
        let via = "Via: SIP/2.0/{transport} {local};branch=z9hG4bK{branch}\r\n";
        let body = "Content-Type: application/sdp\r\nContent-Length: {sdp-length}\r\n\r\n{sdp}";
        let first = "Max-Forwards: 70\r\nFrom: <sip:{caller}@{domain}>;tag={from-tag}\r\nTo: <sip:{callee}@{domain}>\r\nCall-ID: {call-id}\r\n";
        let later = "{routes}Max-Forwards: 70\r\nFrom: <sip:{caller}@{domain}>;tag={from-tag}\r\nTo: {to}\r\nCall-ID: {call-id}\r\n";
        let contact = "Contact: <sip:{caller}@{local}{parameter}>\r\n";
        Texts {
            invite: make(
                &format!(
                    "INVITE sip:{{callee}}@{{domain}} SIP/2.0\r\n{via}{first}CSeq: 1 INVITE\r\n{contact}User-Agent: ringway-load\r\n\
                    Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE\r\n{{ims}}{body}"
                ),
                Side::Caller,
            ),
            ack: make(
                &format!("ACK {{target}} SIP/2.0\r\n{via}{later}CSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"),
                Side::Caller,
            ),
            bye: make(
                &format!("BYE {{target}} SIP/2.0\r\n{via}{later}CSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n"),
                Side::Caller,
            ),
            register: make(
                &format!(
                    "REGISTER sip:{{domain}} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: <sip:{{callee}}@{{domain}}>;tag={{from-tag}}\r\n\
                    To: <sip:{{callee}}@{{domain}}>\r\nCall-ID: {{call-id}}\r\nCSeq: {{cseq}} REGISTER\r\n\
                    Contact: <sip:{{callee}}@{{local}}{{parameter}}>\r\nExpires: {{expires}}\r\nContent-Length: 0\r\n\r\n"
                ),
                Side::Callee,
            ),
            message: make(
                &format!(
                    "MESSAGE sip:{{callee}}@{{domain}} SIP/2.0\r\n{via}{first}CSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\n\
                    Content-Length: 32\r\n\r\nThe train is late, start without"
                ),
                Side::Caller,
            ),
            options: make(
                &format!(
                    "OPTIONS sip:{{domain}} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: <sip:{{caller}}@{{domain}}>;tag={{from-tag}}\r\n\
                    To: <sip:{{domain}}>\r\nCall-ID: {{call-id}}\r\nCSeq: 1 OPTIONS\r\n{contact}Accept: application/sdp\r\n\
                    Content-Length: 0\r\n\r\n"
                ),
                Side::Caller,
            ),
            ringing_end: make(
                "Contact: <sip:{callee}@{local}{parameter}>\r\nContent-Length: 0\r\n\r\n",
                Side::Callee,
            ),
            answer_end: make(
                &format!("Contact: <sip:{{callee}}@{{local}}{{parameter}}>\r\n{body}"),
                Side::Callee,
            ),
            domain: plan.domain.clone(),
        }
    }
}
