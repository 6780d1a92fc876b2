use bench_harness::sip::Message;

use crate::ims::rig::{Rig, SERVER, Sent, register, subscribe};

mod asked;
mod routes;

const UE: &str = "182.0.123.58:5060";
const USER: &str = "13800011103";

fn without_body() -> Rig {
    Rig::with(|cfg| cfg.reg_event.notify_body = false)
}

/// The start line and header lines.
fn head(sent: &Sent) -> Vec<String> {
    let lines = sent.message.headers.iter().map(|header| header.line().to_owned());
    std::iter::once(sent.message.start.to_string())
        .chain(lines)
        .collect()
}

fn status(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| sent.message.start.to_string()).collect()
}

fn body(sent: &Sent) -> String {
    String::from_utf8(sent.message.body.clone()).expect("UTF-8")
}

fn state(sent: &Sent) -> &str {
    sent.message.text("Subscription-State")
}

/// One subscribed phone: what was sent, 200 and NOTIFY; the NOTIFY is answered.
fn subscribed(rig: &mut Rig, call_id: &str) -> (Message, Message) {
    let sent = rig.udp(UE, &subscribe(USER, UE, call_id, 1, 600_000));
    assert_eq!(status(&sent).len(), 2);
    assert!(rig.answer(&sent[1].message, 200).is_empty());
    let [ok, notify]: [Sent; 2] = sent.try_into().expect("two messages");
    (ok.message, notify.message)
}

/// A SUBSCRIBE in the dialog that `ok` began.
fn again(ok: &Message, cseq: u32, expires: u32) -> Message {
    subscribe(USER, UE, ok.text("Call-ID"), cseq, expires).setting("To", ok.text("To"))
}

#[test]
fn the_200_and_the_notify_are_those_of_the_capture() {
    let mut rig = without_body();
    let from = "<sip:13800011103@one.att.net>;tag=ZkTGAlN2H5";
    let call_id = "Nd3Rs8wJK6F2aG4ryvU9@182.0.123.58";
    let asked = Message::request("SUBSCRIBE", "sip:13800011103@one.att.net")
        .with("From", from)
        .with("To", "<sip:13800011103@one.att.net>")
        .with("Call-ID", call_id)
        .with("CSeq", "10052 SUBSCRIBE")
        .with("Expires", "600000")
        .with(
            "Via",
            "SIP/2.0/UDP 182.0.123.58:5060;branch=z9hG4bKB18mqR9Q7jiQfecpW0kA3",
        )
        .with("Event", "reg")
        .with("Contact", "<sip:13800011103@182.0.123.58:5060>")
        .with("Content-Length", "0");
    let sent = rig.udp(UE, &asked);
    let tag = sent[0].message.to_tag().expect("a tag").to_owned();
    assert_eq!(
        head(&sent[0]),
        [
            "SIP/2.0 200 OK",
            "Via: SIP/2.0/UDP 182.0.123.58:5060;branch=z9hG4bKB18mqR9Q7jiQfecpW0kA3",
            &format!("From: {from}"),
            &format!("To: <sip:13800011103@one.att.net>;tag={tag}"),
            &format!("Call-ID: {call_id}"),
            "CSeq: 10052 SUBSCRIBE",
            "Expires: 600000",
            "Contact: <sip:13800011103@one.att.net>",
            "Content-Length: 0",
        ]
    );
    let branch = sent[1].message.branch();
    assert_eq!(
        head(&sent[1]),
        [
            "NOTIFY sip:13800011103@182.0.123.58:5060 SIP/2.0",
            &format!("Via: SIP/2.0/UDP {SERVER};branch={branch}"),
            "Max-Forwards: 70",
            &format!("From: <sip:13800011103@one.att.net>;tag={tag}"),
            &format!("To: {from}"),
            &format!("Call-ID: {call_id}"),
            "CSeq: 1 NOTIFY",
            "Contact: <sip:13800011103@one.att.net>",
            "Event: reg",
            "Subscription-State: active;expires=599999",
            "Content-Length: 0",
        ]
    );
    assert_eq!(sent[1].flow.peer.to_string(), UE);
    assert_eq!(sent[0].flow.listener, sent[1].flow.listener, "the same socket");
    rig.end();
}

#[test]
fn the_document_has_the_full_state_and_its_version_counts_up() {
    let mut rig = Rig::new();
    let (_, notify) = subscribed(&mut rig, "s1");
    assert_eq!(notify.text("Content-Type"), "application/reginfo+xml");
    let document = |version: u32, rest: &str| {
        format!(
            "<?xml version=\"1.0\"?>\n\
             <reginfo xmlns=\"urn:ietf:params:xml:ns:reginfo\" version=\"{version}\" state=\"full\">\n\
             <registration aor=\"sip:13800011103@one.att.net\" id=\"r\" {rest}</registration>\n</reginfo>\n"
        )
    };
    assert_eq!(
        String::from_utf8_lossy(&notify.body),
        document(0, "state=\"init\">\n")
    );
    let sent = rig.udp(
        UE,
        &register(USER, UE, 1, ";q=0.5;audio;+sip.instance=\"<urn:x:1>\""),
    );
    assert_eq!(
        status(&sent),
        ["SIP/2.0 200 OK", &format!("NOTIFY sip:{USER}@{UE} SIP/2.0")]
    );
    assert_eq!(sent[1].message.text("CSeq"), "2 NOTIFY");
    let contact = |id: &str, words: &str| {
        format!(
            "<contact id=\"{id}\" {words}>\n<uri>sip:{USER}@{UE}</uri>\n\
             <unknown-param name=\"audio\"></unknown-param>\n\
             <unknown-param name=\"+sip.instance\">&quot;&lt;urn:x:1&gt;&quot;</unknown-param>\n</contact>\n"
        )
    };
    let active =
        "state=\"active\" event=\"registered\" duration-registered=\"0\" expires=\"600000\" q=\"0.5\"";
    let text = body(&sent[1]);
    let id = text
        .split("contact id=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("an id")
        .to_owned();
    assert_eq!(
        text,
        document(1, &format!("state=\"active\">\n{}", contact(&id, active)))
    );
    rig.answer(&sent[1].message, 200);
    rig.advance(5_000);
    let sent = rig.udp(
        UE,
        &register(USER, UE, 2, ";q=0.5;audio;+sip.instance=\"<urn:x:1>\";expires=0"),
    );
    let gone = "state=\"terminated\" event=\"unregistered\" duration-registered=\"5\" q=\"0.5\"";
    assert_eq!(
        body(&sent[1]),
        document(2, &format!("state=\"terminated\">\n{}", contact(&id, gone)))
    );
    rig.answer(&sent[1].message, 200);
    rig.end();
}

#[test]
fn only_a_change_of_the_registration_is_told() {
    let mut rig = Rig::new();
    subscribed(&mut rig, "s1");
    let sent = rig.udp(UE, &register(USER, UE, 1, ";audio"));
    rig.answer(&sent[1].message, 200);
    rig.advance(1_000);
    assert_eq!(
        rig.udp(UE, &register(USER, UE, 2, ";audio")).len(),
        1,
        "a refresh moves the expiry only"
    );
    let sent = rig.udp(UE, &register(USER, UE, 3, ";video"));
    assert_eq!(sent.len(), 2);
    assert!(body(&sent[1]).contains("event=\"refreshed\""));
    // Who is somebody else is not concerned.
    assert_eq!(
        rig.udp(
            "182.0.123.56:5060",
            &register("13800011101", "182.0.123.56:5060", 1, "")
        )
        .len(),
        1
    );
    rig.end();
}

#[test]
fn an_expired_binding_is_told_by_a_timer() {
    let mut rig = Rig::new();
    subscribed(&mut rig, "s1");
    let sent = rig.udp(UE, &register(USER, UE, 1, ";expires=100"));
    rig.answer(&sent[1].message, 200);
    let sent = rig.advance(100_000);
    assert_eq!(sent.len(), 1);
    let text = body(&sent[0]);
    assert!(text.contains("id=\"r\" state=\"terminated\""), "{text}");
    assert!(
        text.contains("state=\"terminated\" event=\"expired\" duration-registered=\"100\""),
        "{text}"
    );
    assert_eq!(state(&sent[0]), "active;expires=599899");
    rig.answer(&sent[0].message, 200);
    assert_eq!(rig.stack.metrics.registrations_removed.get(), 1);
    rig.end();
}

#[test]
fn one_notify_is_on_its_way_at_a_time_and_the_next_tells_all_that_changed_meanwhile() {
    let mut rig = Rig::new();
    let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000));
    let first = &sent[1].message;
    assert_eq!(rig.udp(UE, &register(USER, UE, 1, ";x=1")).len(), 1);
    assert_eq!(rig.udp(UE, &register(USER, UE, 2, ";expires=0")).len(), 1);
    assert_eq!(rig.udp(UE, &register(USER, "182.0.123.58:5070", 3, "")).len(), 1);
    assert_eq!(
        rig.udp(UE, &register(USER, "182.0.123.58:5070", 4, ";expires=0"))
            .len(),
        1
    );
    assert_eq!(rig.udp(UE, &register(USER, UE, 5, ";x=2")).len(), 1);
    assert!(rig.answer(first, 100).is_empty(), "a provisional answer is none");
    let sent = rig.answer(first, 200);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].message.text("CSeq"), "2 NOTIFY");
    let text = body(&sent[0]);
    assert_eq!(
        text.matches("state=\"active\"").count(),
        2,
        "the registration and its contact: {text}"
    );
    assert_eq!(text.matches("event=\"unregistered\"").count(), 2, "{text}");
    // What was told once is not told again.
    rig.answer(&sent[0].message, 200);
    let sent = rig.udp(UE, &register(USER, UE, 6, ";x=3"));
    assert!(!body(&sent[1]).contains("terminated"));
    rig.end();
}

#[test]
fn a_refresh_in_the_dialog_is_granted_and_told() {
    let mut rig = Rig::new();
    let (ok, _) = subscribed(&mut rig, "s1");
    rig.advance(500_000_000);
    let sent = rig.udp(UE, &again(&ok, 2, 300_000).removing("Contact"));
    assert_eq!(
        status(&sent),
        ["SIP/2.0 200 OK", &format!("NOTIFY sip:{USER}@{UE} SIP/2.0")]
    );
    assert_eq!(sent[0].message.text("To"), ok.text("To"));
    assert_eq!(sent[0].message.text("Expires"), "300000");
    assert_eq!(sent[1].message.text("CSeq"), "2 NOTIFY");
    assert_eq!(state(&sent[1]), "active;expires=299999");
    rig.answer(&sent[1].message, 200);
    assert!(
        rig.advance(299_999_000).is_empty(),
        "the first expiry has passed unnoticed"
    );
    assert_eq!(rig.advance(1_000).len(), 1);
    rig.end();
}

#[test]
fn a_refresh_may_move_the_target_and_shorten_the_time() {
    let mut rig = Rig::new();
    let (ok, _) = subscribed(&mut rig, "s1");
    let moved = again(&ok, 2, 60).setting("Contact", "<sip:me@182.0.123.58:5099>");
    let sent = rig.udp(UE, &moved);
    assert_eq!(
        sent[1].message.start.to_string(),
        "NOTIFY sip:me@182.0.123.58:5099 SIP/2.0"
    );
    assert_eq!(sent[1].flow.peer.to_string(), "182.0.123.58:5099");
    rig.answer(&sent[1].message, 200);
    assert!(rig.advance(59_000).is_empty());
    let sent = rig.advance(1_000);
    assert_eq!(state(&sent[0]), "terminated;reason=timeout");
    rig.end();
}

#[test]
fn a_subscription_that_is_not_refreshed_ends_with_a_last_notify() {
    let mut rig = Rig::new();
    let (ok, _) = subscribed(&mut rig, "s1");
    assert!(rig.advance(599_999_000).is_empty());
    let sent = rig.advance(1_000);
    assert_eq!((sent.len(), state(&sent[0])), (1, "terminated;reason=timeout"));
    assert_eq!(
        status(&rig.udp(UE, &again(&ok, 2, 600_000)))[0],
        "SIP/2.0 481 Call/Transaction Does Not Exist"
    );
    // It is over: what changes now is not for it.
    assert_eq!(rig.udp(UE, &register(USER, UE, 1, "")).len(), 1);
    assert_eq!(rig.ims.reg_event.len(), 1);
    rig.answer(&sent[0].message, 200);
    assert_eq!(rig.ims.reg_event.len(), 0);
    rig.end();
}

#[test]
fn an_unsubscription_is_answered_before_the_last_notify() {
    let mut rig = Rig::new();
    let (ok, _) = subscribed(&mut rig, "s1");
    let sent = rig.udp(UE, &again(&ok, 2, 0));
    assert_eq!(sent.len(), 2);
    assert_eq!(
        (sent[0].message.status(), sent[0].message.text("Expires")),
        (Some(200), "0")
    );
    assert_eq!(state(&sent[1]), "terminated;reason=timeout");
    rig.answer(&sent[1].message, 200);
    assert_eq!(rig.ims.reg_event.len(), 0);
    assert!(rig.advance(700_000_000).is_empty());
    rig.end();
}

#[test]
fn an_end_waits_for_the_notify_that_is_on_its_way() {
    let mut rig = Rig::new();
    let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000));
    let ended = rig.udp(UE, &again(&sent[0].message, 2, 0));
    assert_eq!(status(&ended), ["SIP/2.0 200 OK"]);
    let last = rig.answer(&sent[1].message, 200);
    assert_eq!(state(&last[0]), "terminated;reason=timeout");
    rig.answer(&last[0].message, 481);
    assert_eq!(rig.ims.reg_event.len(), 0);
    rig.end();
}

#[test]
fn a_fetch_gets_the_state_once() {
    let mut rig = Rig::new();
    rig.udp(UE, &register(USER, UE, 1, ""));
    let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 0));
    assert_eq!(
        (sent[0].message.status(), sent[0].message.text("Expires")),
        (Some(200), "0")
    );
    assert_eq!(state(&sent[1]), "terminated;reason=timeout");
    assert!(body(&sent[1]).contains(&format!("<uri>sip:{USER}@{UE}</uri>")));
    rig.answer(&sent[1].message, 200);
    assert_eq!(rig.ims.reg_event.len(), 0);
    rig.end();
}

#[test]
fn a_subscriber_who_says_no_or_nothing_has_no_subscription() {
    for (status, is_kept) in [
        (200, true),
        (202, true),
        (401, true),
        (500, true),
        (503, true),
        (404, false),
        (408, false),
        (480, false),
        (481, false),
        (485, false),
        (489, false),
        (604, false),
    ] {
        let mut rig = Rig::new();
        let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000));
        rig.answer(&sent[1].message, status);
        assert_eq!(rig.ims.reg_event.len(), usize::from(is_kept), "{status}");
        rig.end();
    }
    let mut rig = Rig::new();
    rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000));
    let retransmitted = rig.advance(31_000).len();
    assert!(retransmitted >= 9, "{retransmitted}");
    assert_eq!(rig.ims.reg_event.len(), 1);
    rig.advance(2_000);
    assert_eq!(rig.ims.reg_event.len(), 0, "Timer F");
    rig.end();
}

#[test]
fn a_request_that_is_not_of_the_dialog_finds_no_subscription() {
    let mut rig = Rig::new();
    let (ok, _) = subscribed(&mut rig, "s1");
    let foreign = again(&ok, 2, 600_000).setting("Call-ID", "other");
    assert_eq!(rig.udp(UE, &foreign)[0].message.status(), Some(481));
    let foreign = again(&ok, 3, 600_000).setting("From", format!("<sip:{USER}@one.att.net>;tag=other"));
    assert_eq!(rig.udp(UE, &foreign)[0].message.status(), Some(481));
    let sent = rig.udp(UE, &again(&ok, 9, 600_000));
    rig.answer(&sent[1].message, 200);
    assert_eq!(
        rig.udp(UE, &again(&ok, 8, 600_000))[0].message.status(),
        Some(500)
    );
    assert_eq!(rig.ims.reg_event.len(), 1);
    rig.end();
}

#[test]
fn limits_are_kept_and_say_when_to_come_again() {
    let mut rig = Rig::with(|cfg| {
        cfg.limits.subscriptions_max = 3;
        cfg.limits.subscriptions_per_aor_max = 2;
    });
    for call_id in ["s1", "s2"] {
        subscribed(&mut rig, call_id);
    }
    let refused = |sent: &[Sent]| {
        (
            sent.len(),
            sent[0].message.status(),
            sent[0].message.text("Retry-After").to_owned(),
        )
    };
    let full = (1, Some(503), "60".to_owned());
    assert_eq!(
        refused(&rig.udp(UE, &subscribe(USER, UE, "s3", 1, 600_000))),
        full
    );
    assert_eq!(rig.udp(UE, &subscribe("a", UE, "s4", 1, 600_000)).len(), 2);
    assert_eq!(refused(&rig.udp(UE, &subscribe("b", UE, "s5", 1, 600_000))), full);
    rig.end();
}

#[test]
fn every_watcher_is_told_and_one_that_leaves_takes_nobody_along() {
    let mut rig = Rig::new();
    let oks: Vec<Message> = ["s1", "s2", "s3"]
        .iter()
        .map(|call_id| subscribed(&mut rig, call_id).0)
        .collect();
    let told = |rig: &mut Rig, cseq: u32| {
        let sent = rig.udp(UE, &register(USER, UE, cseq, &format!(";x={cseq}")));
        let mut call_ids: Vec<String> = sent[1..]
            .iter()
            .map(|sent| sent.message.text("Call-ID").to_owned())
            .collect();
        for notify in &sent[1..] {
            rig.answer(&notify.message, 200);
        }
        call_ids.sort();
        call_ids
    };
    assert_eq!(told(&mut rig, 1), ["s1", "s2", "s3"]);
    for (gone, left) in [(1, &["s1", "s3"][..]), (2, &["s1"]), (0, &[])] {
        let sent = rig.udp(UE, &again(&oks[gone], 2, 0));
        rig.answer(&sent[1].message, 200);
        assert_eq!(
            told(&mut rig, 10 + gone as u32 + 3 * (3 - left.len() as u32)),
            left
        );
    }
    assert_eq!(rig.ims.reg_event.len(), 0);
    rig.end();
}

#[test]
fn without_room_for_a_transaction_the_notify_waits_for_the_next_occasion() {
    let mut rig = Rig::with(|cfg| cfg.limits.transactions_max = 2);
    rig.udp(UE, &register(USER, UE, 1, ""));
    let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000));
    assert_eq!(status(&sent), ["SIP/2.0 200 OK"]);
    rig.advance(40_000);
    let sent = rig.udp(UE, &register(USER, UE, 2, ";x"));
    assert_eq!((sent.len(), state(&sent[1])), (2, "active;expires=599959"));
    rig.answer(&sent[1].message, 200);
    rig.advance(40_000);
    // One that ends and can't be told so is forgotten.
    rig.udp(UE, &register(USER, UE, 3, ";x"));
    let ok = subscribe(USER, UE, "s1", 2, 0).setting("To", sent[1].message.text("From"));
    assert_eq!(status(&rig.udp(UE, &ok)), ["SIP/2.0 200 OK"]);
    assert_eq!(rig.ims.reg_event.len(), 0);
    rig.end();
}

#[test]
fn a_document_that_would_be_too_large_leaves_parameters_out_and_names_every_contact() {
    let mut rig = Rig::new();
    for n in 0..8 {
        // A quote of five bytes each: `&gt;` and the like.
        let params = format!(";x=\"{}\"", "<".repeat(1_300));
        let mut asked = register(USER, &format!("182.0.123.58:{}", 6_000 + n), n + 1, &params);
        asked.set("Call-ID", format!("r{n}"));
        assert_eq!(rig.udp(UE, &asked)[0].message.status(), Some(200));
    }
    let sent = rig.udp(UE, &subscribe(USER, UE, "s1", 1, 600_000));
    let text = body(&sent[1]);
    assert_eq!(text.matches("<uri>").count(), 8);
    assert!(!text.contains("unknown-param") && text.ends_with("</reginfo>\n"));
    rig.end();
}
