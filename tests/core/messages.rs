//! What phones say in the tests of the core, and a call that stands.

// Each test takes what it needs.
#![allow(dead_code)]

use bench_harness::sip::{Header, Message};

use crate::world::World;

pub const ALICE: &str = "127.0.0.2:5062";
pub const BOB: &str = "127.0.0.3:5063";
pub const BOB_TABLET: &str = "127.0.0.4:5064";

pub fn via(at: &str, branch: &str) -> String {
    format!("SIP/2.0/UDP {at};branch=z9hG4bK{branch}")
}

pub fn register(user: &str, at: &str, call_id: &str) -> Message {
    Message::request("REGISTER", "sip:one.att.net")
        .with("Via", via(at, &format!("r{call_id}{user}")))
        .with("From", format!("<sip:{user}@one.att.net>;tag=r{call_id}"))
        .with("To", format!("<sip:{user}@one.att.net>"))
        .with("Call-ID", call_id)
        .with("CSeq", "1 REGISTER")
        .with("Contact", format!("<sip:{user}@{at}>;+g.3gpp.smsip;audio"))
        .with("Content-Length", 0)
}

/// A request as a proxy `at` sends it on.
pub fn forwarded(mut request: Message, at: &str) -> Message {
    let branch = format!("fwd{}{}", request.text("Call-ID"), request.cseq().0);
    request.headers.insert(0, Header::new("Via", via(at, &branch)));
    request
}

/// A phone behind a NAT registers a flow (RFC 5626): its contact says where it is in its own network.
pub fn register_flow(transport: &str, at: &str, reg_id: u32, call_id: &str) -> Message {
    let contact = format!("<sip:bob@192.0.2.5:5099;transport={transport};ob>");
    let device = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"";
    let via = format!(
        "SIP/2.0/{} {at};branch=z9hG4bKflow{call_id};rport",
        transport.to_uppercase()
    );
    register("bob", at, call_id)
        .setting("Via", via)
        .setting("Contact", format!("{contact};reg-id={reg_id};{device}"))
        .inserting("Supported", "path, outbound")
}

/// BOB's phone number `device` registers and asks for its GRUUs (RFC 5627).
pub fn register_device(at: &str, device: u8, call_id: &str, cseq: u32) -> Message {
    let instance = format!("+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-0000000000{device:02}>\"");
    register("bob", at, call_id)
        .setting("Via", via(at, &format!("gruu{call_id}{cseq}")))
        .setting("CSeq", format!("{cseq} REGISTER"))
        .setting("Contact", format!("<sip:bob@{at}>;{instance}"))
        .inserting("Supported", "gruu")
}

/// The URI in a parameter of a contact that is a quoted string.
pub fn quoted_uri(contact: &str, name: &str) -> Option<String> {
    let (_, rest) = contact.split_once(&format!(";{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

pub fn invite(from: &str, at: &str, to: &str, call_id: &str) -> Message {
    Message::request("INVITE", to)
        .with("Via", via(at, &format!("i{call_id}")))
        .with("From", format!("<sip:{from}@one.att.net>;tag=f{call_id}"))
        .with("To", format!("<{to}>"))
        .with("Call-ID", call_id)
        .with("CSeq", "33302 INVITE")
        .with("Max-Forwards", 70)
        .with("Contact", format!("<sip:{from}@{at}>;+g.3gpp.mid-call;audio"))
        .with("X-Unknown", "stays as it is")
        .with_body("application/sdp", "v=0\r\n")
}

pub fn answer(request: &Message, status: u16, reason: &str, tag: &str, at: &str) -> Message {
    let mut response = Message::response(status, reason);
    for via in request.lines("Via") {
        response.insert("Via", via.split_once(':').expect("a header line").1.trim());
    }
    let to = request.text("To");
    let to = if to.contains(";tag=") || status == 100 {
        to.to_owned()
    } else {
        format!("{to};tag={tag}")
    };
    response
        .with("From", request.text("From"))
        .with("To", to)
        .with("Call-ID", request.text("Call-ID"))
        .with("CSeq", request.text("CSeq"))
        .with("Contact", format!("<sip:bob@{at}>;video"))
        .with("Content-Length", 0)
}

pub fn in_dialog(method: &str, cseq: u32, at: &str, invite: &Message, response: &Message) -> Message {
    let contact = bench_harness::sip::uri(response.text("Contact"));
    Message::request(method, contact)
        .with(
            "Via",
            via(at, &format!("{method}{cseq}{}", invite.text("Call-ID"))),
        )
        .with("From", invite.text("From"))
        .with("To", response.text("To"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", format!("{cseq} {method}"))
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// ALICE's re-INVITE, which says that she is where she was.
pub fn reinvite(cseq: u32, standing: &Standing) -> Message {
    in_dialog("INVITE", cseq, ALICE, &standing.invite_a, &standing.ok_a)
        .with("Contact", format!("<sip:alice@{ALICE}>"))
}

/// RFC 3261 §9.1.
pub fn cancel(invite: &Message) -> Message {
    Message::request("CANCEL", invite.uri().expect("a request"))
        .with("Via", invite.text("Via"))
        .with("From", invite.text("From"))
        .with("To", invite.text("To"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", format!("{} CANCEL", invite.cseq().0))
        .with("Content-Length", 0)
}

/// The other way round: from the phone that was called.
pub fn in_dialog_from_callee(
    method: &str,
    cseq: u32,
    at: &str,
    invite: &Message,
    answer: &Message,
) -> Message {
    Message::request(method, bench_harness::sip::uri(invite.text("Contact")))
        .with(
            "Via",
            via(at, &format!("{method}{cseq}callee{}", invite.text("Call-ID"))),
        )
        .with("From", answer.text("To"))
        .with("To", invite.text("From"))
        .with("Call-ID", invite.text("Call-ID"))
        .with("CSeq", format!("{cseq} {method}"))
        .with("Max-Forwards", 70)
        .with("Content-Length", 0)
}

/// A call between ALICE and BOB that stands: the INVITEs and 200s of both legs.
pub struct Standing {
    pub invite_a: Message,
    pub invite_b: Message,
    pub ok_a: Message,
    pub ok_b: Message,
}

pub fn with_bob(shards: usize) -> World {
    let mut world = World::new(shards);
    world.udp(BOB, &register("bob", BOB, "reg-bob"));
    let ok = world.response(BOB, 200);
    assert!(
        ok.text("Contact").contains(";expires=600000"),
        "{}",
        ok.text("Contact")
    );
    world
}

/// ALICE calls BOB, and hears 100.
pub fn calls_bob(world: &mut World, call_id: &str) -> Message {
    let invite = invite("alice", ALICE, "sip:bob@one.att.net", call_id);
    world.udp(ALICE, &invite);
    world.response(ALICE, 100);
    invite
}

pub fn call(world: &mut World, call_id: &str) -> Standing {
    let invite_a = calls_bob(world, call_id);
    let invite_b = world.request(BOB, "INVITE");
    world.udp(BOB, &answer(&invite_b, 100, "Trying", "", BOB));
    world.udp(BOB, &answer(&invite_b, 180, "Ringing", "b1", BOB));
    world.response(ALICE, 180);
    let ok_b = answer(&invite_b, 200, "OK", "b1", BOB);
    world.udp(BOB, &ok_b);
    let ok_a = world.response(ALICE, 200);
    world.udp(ALICE, &in_dialog("ACK", 33302, ALICE, &invite_a, &ok_a));
    let ack = world.request(BOB, "ACK");
    assert_eq!(ack.text("CSeq"), "1 ACK");
    world.silent();
    Standing {
        invite_a,
        invite_b,
        ok_a,
        ok_b,
    }
}
