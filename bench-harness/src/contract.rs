//! What ringway must make of the captured messages: the tables of the phone service, header by header.
//!
//! Each function compares what was sent with what came and returns what is wrong, a sentence a fault; none means it is
//! right. Where the table says "byte for byte", whole header lines are compared, in their order.

use std::net::SocketAddr;

use crate::links::{Received, Transport};
use crate::sip::{self, Message};

/// Collects faults.
#[derive(Default)]
struct Check {
    faults: Vec<String>,
    about: &'static str,
}

impl Check {
    fn about(about: &'static str) -> Check {
        Check {
            faults: Vec::new(),
            about,
        }
    }

    fn that(&mut self, right: bool, fault: impl FnOnce() -> String) {
        if !right {
            self.faults.push(format!("{}: {}", self.about, fault()));
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: T, want: T) {
        self.that(got == want, || format!("{what}: expected {want:?}, got {got:?}"));
    }

    /// The header lines of these names came back byte for byte.
    fn echoed(&mut self, names: &[&str], sent: &Message, got: &Message) {
        for name in names {
            self.equal(name, got.lines(name), sent.lines(name));
        }
    }

    /// To is what was sent plus a tag, and nothing else.
    fn tagged_to(&mut self, sent: &Message, got: &Message) {
        let (sent, got) = (sent.text("To"), got.text("To"));
        let tag = got.strip_prefix(sent).and_then(|rest| rest.strip_prefix(";tag="));
        self.that(tag.is_some_and(|t| !t.is_empty() && !t.contains(';')), || {
            format!("To: expected {sent:?} plus a fresh tag, got {got:?}")
        });
    }

    /// One Via, ours, with a fresh branch.
    fn our_via(&mut self, got: &Message, transport: Transport, server: SocketAddr, theirs: &Message) {
        let vias = got.elements("Via");
        self.equal("number of Via values", vias.len(), 1);
        let prefix = format!("SIP/2.0/{transport} {server};");
        self.that(got.top_via().starts_with(&prefix), || {
            format!(
                "Via: expected it to begin with {prefix:?}, got {:?}",
                got.top_via()
            )
        });
        self.that(
            got.branch().starts_with("z9hG4bK") && got.branch().len() > 7,
            || {
                format!(
                    "Via: expected a branch with the magic cookie, got {:?}",
                    got.top_via()
                )
            },
        );
        self.that(got.branch() != theirs.branch(), || {
            "Via: the branch is the other leg's".to_owned()
        });
    }

    /// Contact is ours: the server's address and nothing of the phone behind it.
    fn our_contact(&mut self, got: &Message, server: SocketAddr) {
        let uri = sip::uri(got.text("Contact"));
        let host = uri.strip_prefix("sip:").unwrap_or_default();
        let host = host.split(';').next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        self.equal("host and port of the Contact", host, &server.to_string());
        self.equal("number of Contacts", got.elements("Contact").len(), 1);
    }

    /// Every header but the named ones is there byte for byte, in the same order, and none was added.
    fn others_untouched(&mut self, own: &[&str], sent: &Message, got: &Message) {
        let others = |message: &Message| -> Vec<String> {
            let kept = message
                .headers
                .iter()
                .filter(|h| !own.iter().any(|name| h.is(name)));
            kept.map(|h| h.line().to_owned()).collect()
        };
        self.equal("headers that pass through, in order", others(got), others(sent));
        self.that(got.body == sent.body, || {
            format!(
                "body: {} bytes were sent, {} other ones came",
                sent.body.len(),
                got.body.len()
            )
        });
    }
}

/// 1. REGISTER: the 200.
pub fn register_ok(request: &Message, response: &Message, granted_s: u32) -> Vec<String> {
    let mut check = Check::about("200 to REGISTER");
    check.equal("status", response.status(), Some(200));
    check.echoed(&["From", "Call-ID", "CSeq", "Via"], request, response);
    check.tagged_to(request, response);
    check.equal("number of Contacts", response.elements("Contact").len(), 1);
    let (sent, got) = (request.text("Contact"), response.text("Contact"));
    check.equal("Contact URI", sip::uri(got), sip::uri(sent));
    let sent = sip::params(sent);
    let mut got = sip::params(got);
    check.that(got.contains(&("expires", &granted_s.to_string())), || {
        format!("Contact: expected ;expires={granted_s}, got {got:?}")
    });
    got.retain(|(name, _)| *name != "expires");
    for parameter in &sent {
        check.that(got.contains(parameter), || {
            format!("Contact: {parameter:?} is lost")
        });
    }
    check.equal("number of feature parameters", got.len(), sent.len());
    check.faults
}

/// 2. SUBSCRIBE: the 200.
pub fn subscribe_ok(request: &Message, response: &Message) -> Vec<String> {
    let mut check = Check::about("200 to SUBSCRIBE");
    check.equal("status", response.status(), Some(200));
    check.echoed(&["From", "Call-ID", "CSeq", "Via", "Expires"], request, response);
    check.tagged_to(request, response);
    let aor = format!("<{}>", request.uri().unwrap_or_default());
    check.equal("Contact", response.get_all("Contact"), vec![aor.as_str()]);
    check.equal("Content-Length", response.text("Content-Length"), "0");
    check.faults
}

/// 3. NOTIFY number `number` of the subscription that `accepted` grants for `granted_s` seconds.
pub fn notify(
    request: &Message,
    accepted: &Message,
    notify: &Received,
    number: u32,
    granted_s: u32,
    server: SocketAddr,
) -> Vec<String> {
    let mut check = Check::about("NOTIFY");
    check.equal(
        "request URI",
        notify.uri(),
        Some(sip::uri(request.text("Contact"))),
    );
    check.equal(
        "From URI",
        sip::uri(notify.text("From")),
        sip::uri(request.text("To")),
    );
    check.equal("From tag", notify.from_tag(), accepted.to_tag());
    check.equal(
        "To URI",
        sip::uri(notify.text("To")),
        sip::uri(request.text("From")),
    );
    check.equal("To tag", notify.to_tag(), request.from_tag());
    check.equal("Call-ID", notify.text("Call-ID"), request.text("Call-ID"));
    check.equal("CSeq", notify.text("CSeq"), &format!("{number} NOTIFY"));
    check.our_via(notify, notify.transport, server, request);
    let state = notify.text("Subscription-State");
    check.equal("subscription state", state.split(';').next(), Some("active"));
    let left: Option<u32> = sip::param(state, "expires").and_then(|e| e.parse().ok());
    // What is left now: less than was granted by the moment in between.
    check.that(
        left.is_some_and(|left| left <= granted_s && left + 60 >= granted_s),
        || format!("Subscription-State: expected about {granted_s} s left, got {state:?}"),
    );
    check.equal("Event", notify.text("Event"), "reg");
    check.equal("Max-Forwards", notify.text("Max-Forwards"), "70");
    let aor = format!("<{}>", request.uri().unwrap_or_default());
    check.equal("Contact", notify.get_all("Contact"), vec![aor.as_str()]);
    if !notify.body.is_empty() {
        check.equal(
            "Content-Type",
            notify.text("Content-Type"),
            "application/reginfo+xml",
        );
    }
    check.that(notify.has("Content-Length"), || "no Content-Length".to_owned());
    check.faults
}

/// 4. INVITE: the 100 to the caller.
pub fn trying(invite: &Message, response: &Message, server: SocketAddr) -> Vec<String> {
    let mut check = Check::about("100 Trying");
    check.equal("status", response.status(), Some(100));
    check.echoed(&["From", "To", "Call-ID", "CSeq", "Via"], invite, response);
    check.our_contact(response, server);
    check.equal("Content-Length", response.text("Content-Length"), "0");
    check.faults
}

/// 4. INVITE: what the callee gets. `contact` is the URI that the callee registered.
pub fn leg_b_invite(invite: &Message, got: &Received, contact: &str, server: SocketAddr) -> Vec<String> {
    let mut check = Check::about("INVITE on leg B");
    check.equal("request URI", got.uri(), Some(contact));
    check.equal("From", got.text("From"), invite.text("From"));
    check.equal("To", got.text("To"), &format!("<{contact}>"));
    check.that(got.text("Call-ID") != invite.text("Call-ID"), || {
        "the Call-ID is leg A's".to_owned()
    });
    check.equal("number of Call-IDs", got.get_all("Call-ID").len(), 1);
    check.equal("CSeq", got.text("CSeq"), "1 INVITE");
    check.our_via(got, got.transport, server, invite);
    let came: u32 = invite.text("Max-Forwards").parse().unwrap_or(70);
    let left: Option<u32> = got.text("Max-Forwards").parse().ok();
    check.that(left.is_some_and(|left| left > 0 && left < came), || {
        format!("Max-Forwards: {came} came, so expected less than that, got {left:?}")
    });
    check.our_contact(got, server);
    if got.transport == Transport::Udp {
        let transport = sip::uri(got.text("Contact")).split(';').nth(1);
        check.equal("Contact's transport", transport, Some("transport=UDP"));
    }
    let features = sip::params(invite.text("Contact"));
    check.equal(
        "Contact's feature parameters",
        sip::params(got.text("Contact")),
        features,
    );
    let own = ["Via", "From", "To", "Call-ID", "CSeq", "Max-Forwards", "Contact"];
    check.others_untouched(&own, invite, got);
    check.faults
}

/// 4. INVITE, 5. BYE and every other request: what the asking side gets of `answer`, the other side's response.
pub fn passed_response(
    request: &Message,
    answer: &Message,
    got: &Message,
    server: SocketAddr,
) -> Vec<String> {
    let mut check = Check::about("response that is passed on");
    check.equal("status line", got.start.to_string(), answer.start.to_string());
    check.echoed(&["From", "Via", "Call-ID", "CSeq"], request, got);
    check.equal("To URI", sip::uri(got.text("To")), sip::uri(request.text("To")));
    check.equal("To tag", got.to_tag(), answer.to_tag());
    // A 3xx names where to try instead: there the Contact is the message.
    let redirects = answer.status().is_some_and(|s| (300..400).contains(&s));
    let mut own = vec!["From", "To", "Via", "Call-ID", "CSeq"];
    if answer.has("Contact") && !redirects {
        check.our_contact(got, server);
        check.equal(
            "Contact's feature parameters",
            sip::params(got.text("Contact")),
            sip::params(answer.text("Contact")),
        );
        own.push("Contact");
    }
    check.others_untouched(&own, answer, got);
    check.faults
}

/// ACK, BYE and every other request in the dialog: what the other side gets of `sent`. `contact` is that side's remote
/// target, `leg` the message of the other leg that holds that leg's Call-ID and From tag as the receiving side knows them:
/// the INVITE that it received or sent.
pub fn passed_request(
    sent: &Message,
    got: &Received,
    expected: &InDialog<'_>,
    server: SocketAddr,
) -> Vec<String> {
    let mut check = Check::about("request that is passed on in the dialog");
    check.equal("method", got.method(), sent.method());
    check.equal("request URI", got.uri(), Some(expected.target));
    check.equal("Call-ID", got.text("Call-ID"), expected.call_id);
    check.equal("From URI", sip::uri(got.text("From")), sip::uri(expected.from));
    check.equal("From tag", got.from_tag(), sip::param(expected.from, "tag"));
    check.equal("To URI", sip::uri(got.text("To")), sip::uri(expected.to));
    check.equal("To tag", got.to_tag(), sip::param(expected.to, "tag"));
    let (number, method) = got.cseq();
    check.equal("CSeq method", Some(method), sent.method());
    if let Some(cseq) = expected.cseq {
        check.equal("CSeq number", number, cseq);
    }
    check.our_via(got, got.transport, server, sent);
    let mut own = vec![
        "Via",
        "From",
        "To",
        "Call-ID",
        "CSeq",
        "Max-Forwards",
        "Route",
        "RAck",
    ];
    if sent.has("Contact") {
        check.our_contact(got, server);
        own.push("Contact");
    }
    check.others_untouched(&own, sent, got);
    check.faults
}

/// What a request of one leg must carry, as the side that gets it knows the dialog.
#[derive(Clone, Copy, Debug)]
pub struct InDialog<'a> {
    /// The receiving side's Contact URI.
    pub target: &'a str,
    pub call_id: &'a str,
    /// The From value, tag included: the receiving side's remote URI.
    pub from: &'a str,
    /// The To value, tag included: the receiving side's local URI.
    pub to: &'a str,
    /// The CSeq number, where it is known.
    pub cseq: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTER: &str = "REGISTER sip:one.att.net SIP/2.0\r\n\
        From: <sip:13800011103@one.att.net>;tag=4VWkdTHOF9.Odc\r\n\
        To: <sip:13800011103@one.att.net>\r\n\
        Call-ID: XP0VHy42Rr8GeaFMRdy@182.0.123.58\r\n\
        CSeq: 1 REGISTER\r\n\
        Via: SIP/2.0/TCP 182.0.123.58:5060;branch=z9hG4bKLeyx3ZsUUnRM5mcCeQo69uP\r\n\
        Contact: <sip:13800011103@182.0.123.58:5060>;+g.3gpp.smsip;audio;\
        +sip.instance=\"<urn:gsma:imei:86539405-000273-0>\"\r\n\
        Content-Length: 0\r\n\r\n";

    fn registered() -> String {
        let text = REGISTER.replacen("REGISTER sip:one.att.net SIP/2.0", "SIP/2.0 200 OK", 1);
        let text = text.replacen("net>\r\nCall-ID", "net>;tag=5a8841e8\r\nCall-ID", 1);
        text.replacen(";audio;", ";expires=600000;audio;", 1)
    }

    fn read(text: &str) -> Message {
        Message::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_captured_answer_to_a_register_is_right_and_any_change_of_it_is_not() {
        let request = read(REGISTER);
        let right = registered();
        assert_eq!(
            register_ok(&request, &read(&right), 600_000),
            Vec::<String>::new()
        );
        for (old, new) in [
            ("200 OK", "202 Accepted"),
            ("tag=4VWkdTHOF9.Odc", "tag=4VWkdTHOF9.odc"),
            ("From:", "from:"),
            (";tag=5a8841e8", ""),
            (";tag=5a8841e8", ";tag=5a8841e8;x"),
            ("Call-ID: X", "Call-ID:  X"),
            ("1 REGISTER", "01 REGISTER"),
            ("branch=z9hG4bKL", "received=1.1.1.1;branch=z9hG4bKL"),
            (";expires=600000", ""),
            (";expires=600000", ";expires=3600"),
            (";audio", ""),
            (";audio", ";audio;video"),
            ("000273", "000274"),
            ("<sip:13800011103@182", "<sip:13800011103@183"),
            (
                "Content-Length",
                "Contact: <sip:another@1.1.1.1>\r\nContent-Length",
            ),
        ] {
            let wrong = right.replacen(old, new, 1);
            assert_ne!(wrong, right);
            let faults = register_ok(&request, &read(&wrong), 600_000);
            assert!(!faults.is_empty(), "{new:?} instead of {old:?} is not seen");
        }
    }

    /// An INVITE as the caller sends it, and what the callee must get of it.
    fn legs() -> (Message, String) {
        let invite = Message::request("INVITE", "tel:13800011103;phone-context=one.att.net")
            .with("From", "<sip:13800011101@one.att.net>;tag=X6E3R9v")
            .with("To", "<tel:13800011103;phone-context=one.att.net>")
            .with("Call-ID", "0rSzxKYZqGFRahidYb8I3Dc3doGY@182.0.123.56")
            .with("CSeq", "33302 INVITE")
            .with(
                "Via",
                "SIP/2.0/TCP 182.0.123.56:5060;branch=z9hG4bKb4MiHkghekvemEcWZotV2Pm9uu.",
            )
            .with("Max-Forwards", 70)
            .with("Accept", "application/sdp, application/3gpp-ims+xml")
            .with("P-Early-Media", "supported")
            .with(
                "Contact",
                "<sip:13800011101@182.0.123.56:5060>;+g.3gpp.mid-call;audio",
            )
            .with_body("application/sdp", "v=0\r\n");
        let leg_b = "INVITE sip:13800011103@182.0.123.58:5060 SIP/2.0\r\n\
            Via: SIP/2.0/UDP 10.88.120.110:5060;branch=z9hG4bK-65738974\r\n\
            Max-Forwards: 69\r\n\
            From: <sip:13800011101@one.att.net>;tag=X6E3R9v\r\n\
            To: <sip:13800011103@182.0.123.58:5060>\r\n\
            Call-ID: 2eefbb81-fc08a76\r\n\
            CSeq: 1 INVITE\r\n\
            Accept: application/sdp, application/3gpp-ims+xml\r\n\
            P-Early-Media: supported\r\n\
            Contact: <sip:10.88.120.110:5060;transport=UDP>;+g.3gpp.mid-call;audio\r\n\
            Content-Type: application/sdp\r\n\
            Content-Length: 5\r\n\r\nv=0\r\n";
        (invite, leg_b.to_owned())
    }

    #[test]
    fn the_captured_leg_b_is_right_and_any_change_of_it_is_not() {
        let server: SocketAddr = "10.88.120.110:5060".parse().unwrap();
        let contact = "sip:13800011103@182.0.123.58:5060";
        let (invite, right) = legs();
        let faults = |text: &str| {
            let got = Received {
                message: read(text),
                raw: text.into(),
                transport: Transport::Udp,
                conn: None,
                from: server,
                at: std::time::Instant::now(),
            };
            leg_b_invite(&invite, &got, contact, server)
        };
        assert_eq!(faults(&right), Vec::<String>::new());
        for (old, new) in [
            ("INVITE sip:13800011103@182", "INVITE tel:13800011103@182"),
            (";tag=X6E3R9v", ";tag=other"),
            ("To: <sip:13800011103@182.0.123.58:5060>", "To: <tel:13800011103>"),
            ("2eefbb81-fc08a76", "0rSzxKYZqGFRahidYb8I3Dc3doGY@182.0.123.56"),
            ("1 INVITE", "33302 INVITE"),
            ("UDP 10.88", "TCP 10.88"),
            ("z9hG4bK-65738974", "z9hG4bKb4MiHkghekvemEcWZotV2Pm9uu."),
            ("Max-Forwards: 69", "Max-Forwards: 70"),
            ("Max-Forwards: 69\r\n", ""),
            ("<sip:10.88.120.110:5060", "<sip:13800011101@182.0.123.56:5060"),
            (";transport=UDP", ""),
            (";audio", ""),
            ("Accept: application/sdp, ", "Accept: application/sdp,"),
            ("P-Early-Media: supported\r\n", ""),
            ("P-Early-Media", "X-Added: 1\r\nP-Early-Media"),
            ("v=0\r\n", "v=1\r\n"),
            (
                "Max-Forwards",
                "Via: SIP/2.0/TCP 182.0.123.56:5060\r\nMax-Forwards",
            ),
        ] {
            let wrong = right.replacen(old, new, 1);
            assert_ne!(wrong, right);
            assert!(
                !faults(&wrong).is_empty(),
                "{new:?} instead of {old:?} is not seen"
            );
        }
    }
}
