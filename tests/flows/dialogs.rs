//! Everything that two phones say to each other within a call, both ways, with each leg's own numbers.

use bench_harness::call::{self, Call, invite_reply};
use bench_harness::dialog::Dialog;
use bench_harness::failure::{Outcome, no_faults};
use bench_harness::links::Transport::{self, Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::sip::Message;
use bench_harness::{captured, contract};

use crate::support::{Scene, Setup, on_every_server, register, register_for_tcp, registered, scene};

on_every_server![
    any_method_is_carried_both_ways,
    the_session_is_changed_both_ways,
    a_reliable_provisional_response_is_acknowledged,
];

/// A call, and afterwards its end.
fn in_a_call(setup: Setup, story: impl FnOnce(&mut Scene, &mut Call) -> Outcome) {
    registered(setup, |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        story(s, &mut call)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

/// What phones say in a call, and the answer to it.
fn conversation() -> Vec<(&'static str, Message, (u16, &'static str))> {
    let plain = |method| Message::request(method, "sip:to-be-replaced");
    vec![
        (
            "INFO",
            plain("INFO").with_body("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"),
            (200, "OK"),
        ),
        (
            "UPDATE",
            plain("UPDATE").with("Supported", "timer").with("Min-SE", "90"),
            (200, "OK"),
        ),
        (
            "REFER",
            plain("REFER").with("Refer-To", "<sip:13800011105@one.att.net>"),
            (202, "Accepted"),
        ),
        (
            "NOTIFY",
            plain("NOTIFY")
                .with("Event", "refer")
                .with("Subscription-State", "terminated;reason=noresource")
                .with_body("message/sipfrag", "SIP/2.0 200 OK\r\n"),
            (200, "OK"),
        ),
        (
            "MESSAGE",
            plain("MESSAGE").with_body("text/plain", "in the call: \u{4f60}\u{597d}"),
            (200, "OK"),
        ),
        (
            "OPTIONS",
            plain("OPTIONS").with("Accept", "application/sdp"),
            (200, "OK"),
        ),
        (
            "FROBNICATE",
            plain("FROBNICATE").with("X-Anything", "goes ; through=\"as, it is\""),
            (200, "OK"),
        ),
        (
            "INFO",
            plain("INFO").with("Info-Package", "nope"),
            (469, "Bad Info Package"),
        ),
    ]
}

/// Gives a request in the dialog the headers and body of `like`.
fn dressed(mut request: Message, like: &Message) -> Message {
    for header in &like.headers {
        request.set(header.name(), header.value());
    }
    request.body.clone_from(&like.body);
    request
}

fn any_method_is_carried_both_ways(flags: &[&str]) {
    in_a_call(Setup::new().flags(flags), |s, call| {
        let server = s.server.udp;
        let mut number = 1;
        for (method, like, answer) in conversation() {
            let request = dressed(s.ue1.request_in(&mut call.caller, method), &like);
            let said = call::exchange(&mut s.ue1, &mut s.ue2, request, Tcp, answer)?;
            number += 1;
            no_faults(contract::passed_request(
                &said.request,
                &said.passed,
                &call.at_callee(Some(number)),
                server,
            ))?;
            no_faults(contract::passed_response(
                &said.request,
                &said.answer,
                &said.response,
                server,
            ))?;
        }
        let mut number = None;
        for (method, like, answer) in conversation() {
            let request = dressed(s.ue2.request_in(&mut call.callee, method), &like);
            let said = call::exchange(&mut s.ue2, &mut s.ue1, request, Udp, answer)?;
            no_faults(contract::passed_request(
                &said.request,
                &said.passed,
                &call.at_caller(number),
                server,
            ))?;
            no_faults(contract::passed_response(
                &said.request,
                &said.answer,
                &said.response,
                server,
            ))?;
            // RFC 3261 §12.2.1.1: one more each time, whatever the other leg counts.
            number = Some(said.passed.cseq().0 + 1);
        }
        Ok(())
    });
}

/// A re-INVITE with an offer, its 200 with an answer, and the ACK.
fn changes_the_session(
    from: &mut Phone,
    to: &mut Phone,
    dialog: &mut Dialog,
    transport: Transport,
) -> Outcome<[call::Exchange; 2]> {
    let contact = format!("<{}>;audio", from.contact());
    let reinvite = from
        .request_in(dialog, "INVITE")
        .with("Contact", contact)
        .with_body("application/sdp", captured::offer(from.addr()));
    from.send(&reinvite, transport)?;
    let passed = to.expect("INVITE")?;
    let answer = invite_reply(to, &passed, 200, "OK");
    to.respond(&passed, &answer)?;
    let response = from.response(&reinvite, 200)?;
    let ack = from.ack_in(dialog, &reinvite);
    from.send(&ack, transport)?;
    let acknowledged = to.expect("ACK")?;
    let second = call::Exchange {
        request: ack,
        passed: acknowledged,
        answer: answer.clone(),
        response: response.clone(),
    };
    let first = call::Exchange {
        request: reinvite,
        passed,
        answer,
        response,
    };
    Ok([first, second])
}

fn the_session_is_changed_both_ways(flags: &[&str]) {
    in_a_call(Setup::new().flags(flags), |s, call| {
        let server = s.server.udp;
        for round in 0..2 {
            let mut dialog = call.caller.clone();
            let [said, ack] = changes_the_session(&mut s.ue1, &mut s.ue2, &mut dialog, Tcp)?;
            call.caller = dialog;
            let number = Some(2 + round);
            no_faults(contract::passed_request(
                &said.request,
                &said.passed,
                &call.at_callee(number),
                server,
            ))?;
            no_faults(contract::passed_response(
                &said.request,
                &said.answer,
                &said.response,
                server,
            ))?;
            no_faults(contract::passed_request(
                &ack.request,
                &ack.passed,
                &call.at_callee(number),
                server,
            ))?;

            let mut dialog = call.callee.clone();
            let [said, ack] = changes_the_session(&mut s.ue2, &mut s.ue1, &mut dialog, Udp)?;
            call.callee = dialog;
            no_faults(contract::passed_request(
                &said.request,
                &said.passed,
                &call.at_caller(None),
                server,
            ))?;
            no_faults(contract::passed_response(
                &said.request,
                &said.answer,
                &said.response,
                server,
            ))?;
            let number = Some(said.passed.cseq().0);
            no_faults(contract::passed_request(
                &ack.request,
                &ack.passed,
                &call.at_caller(number),
                server,
            ))?;
        }
        Ok(())
    });
}

/// RFC 4028 §8.2: UE2 knows no timers, so what UE1 asks for is granted in its place.
#[test]
fn a_timer_is_granted_for_a_phone_without_and_too_short_a_one_refused() {
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp)
            .inserting("Supported", "timer")
            .inserting("Session-Expires", "120");
        let mut call = call::place_with(&mut s.ue1, &mut s.ue2, invite, Tcp)?;
        assert_eq!(call.leg_b.text("Session-Expires"), "120");
        let accepted = &call.accepted.1;
        assert_eq!(accepted.text("Session-Expires"), "120;refresher=uac");
        assert_eq!(accepted.text("Require"), "timer");

        let timed = |message: Message, interval| {
            message
                .with("Supported", "timer")
                .with("Session-Expires", interval)
        };
        let short = timed(s.ue1.request_in(&mut call.caller, "UPDATE"), "30");
        let refused = s.ue1.ask_for(&short, Tcp, 422)?;
        assert_eq!(refused.text("Min-SE"), "90");

        let refresh = timed(s.ue1.request_in(&mut call.caller, "UPDATE"), "120;refresher=uac");
        let said = call::exchange(&mut s.ue1, &mut s.ue2, refresh, Tcp, (200, "OK"))?;
        assert_eq!(said.passed.text("Session-Expires"), "120;refresher=uac");
        assert_eq!(said.response.text("Session-Expires"), "120;refresher=uac");
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

#[test]
fn a_change_that_is_refused_leaves_the_call_as_it_was() {
    in_a_call(Setup::new(), |s, call| {
        let reinvite = s
            .ue1
            .request_in(&mut call.caller, "INVITE")
            .with("Contact", format!("<{}>", s.ue1.contact()))
            .with_body("application/sdp", captured::offer(s.ue1.addr()));
        s.ue1.send(&reinvite, Tcp)?;
        let passed = s.ue2.expect("INVITE")?;
        let answer = s.ue2.answers(&passed, 488, "Not Acceptable Here")?;
        s.ue2.expect("ACK")?;
        let response = s.ue1.response(&reinvite, 488)?;
        no_faults(contract::passed_response(
            &reinvite,
            &answer,
            &response,
            s.server.udp,
        ))?;
        s.ue1.send(&Phone::ack_of(&reinvite, &response), Tcp)?;
        let info = s.ue1.request_in(&mut call.caller, "INFO");
        call::exchange(&mut s.ue1, &mut s.ue2, info, Tcp, (200, "OK"))?;
        Ok(())
    });
}

#[test]
fn a_reinvite_is_cancelled() {
    in_a_call(Setup::new(), |s, call| {
        let reinvite = s
            .ue1
            .request_in(&mut call.caller, "INVITE")
            .with("Contact", format!("<{}>", s.ue1.contact()))
            .with_body("application/sdp", captured::offer(s.ue1.addr()));
        s.ue1.send(&reinvite, Tcp)?;
        let passed = s.ue2.expect("INVITE")?;
        s.ue2.answers(&passed, 100, "Trying")?;
        s.ue1.ask_for(&Phone::cancel_of(&reinvite), Tcp, 200)?;
        let cancel = s.ue2.expect("CANCEL")?;
        assert_eq!(cancel.branch(), passed.branch());
        s.ue2.answers(&cancel, 200, "OK")?;
        s.ue2.answers(&passed, 487, "Request Terminated")?;
        s.ue2.expect("ACK")?;
        let response = s.ue1.response(&reinvite, 487)?;
        s.ue1.send(&Phone::ack_of(&reinvite, &response), Tcp)?;
        Ok(())
    });
}

#[test]
fn a_callee_that_moved_is_followed() {
    // RFC 3261 §12.2.2: the Contact of a target refresh is the new remote target.
    in_a_call(Setup::new(), |s, call| {
        let elsewhere = format!("sip:moved@{}", s.ue2.addr());
        let update = s
            .ue2
            .request_in(&mut call.callee, "UPDATE")
            .inserting("Contact", format!("<{elsewhere}>"));
        s.ue2.send(&update, Udp)?;
        let passed = s.ue1.expect("UPDATE")?;
        let answer = s
            .ue1
            .reply(&passed, 200, "OK")
            .inserting("Contact", format!("<{}>", s.ue1.contact()));
        s.ue1.respond(&passed, &answer)?;
        s.ue2.response(&update, 200)?;
        let info = s.ue1.request_in(&mut call.caller, "INFO");
        let said = call::exchange(&mut s.ue1, &mut s.ue2, info, Tcp, (200, "OK"))?;
        assert_eq!(said.passed.uri(), Some(elsewhere.as_str()));
        Ok(())
    });
}

fn a_reliable_provisional_response_is_acknowledged(flags: &[&str]) {
    // RFC 3262: PRACK's RAck repeats the number and method of the INVITE, and each leg has its own number.
    registered(Setup::new().flags(flags), |s| {
        let server = s.server.udp;
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp)
            .inserting("Supported", "100rel, precondition");
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        assert_eq!(leg_b.get_all("Supported"), ["100rel, precondition"]);
        let progress = invite_reply(&mut s.ue2, &leg_b, 183, "Session Progress")
            .inserting("Require", "100rel, precondition")
            .inserting("RSeq", 9021)
            .with_body("application/sdp", captured::answer(s.ue2.addr()));
        s.ue2.respond(&leg_b, &progress)?;
        let got = s.ue1.response(&invite, 183)?;
        no_faults(contract::passed_response(&invite, &progress, &got, server))?;
        let mut caller = Dialog::of_caller(&invite, &got, Tcp);
        let mut callee = Dialog::of_callee(&leg_b, &progress, Udp);

        let prack = s
            .ue1
            .request_in(&mut caller, "PRACK")
            .with("RAck", format!("9021 {} INVITE", invite.cseq().0))
            .with_body("application/sdp", captured::offer(s.ue1.addr()));
        let said = call::exchange(&mut s.ue1, &mut s.ue2, prack, Tcp, (200, "OK"))?;
        assert_eq!(said.passed.text("RAck"), "9021 1 INVITE");
        assert_eq!(said.passed.cseq(), (2, "PRACK"));
        assert_eq!(said.passed.body, said.request.body);
        assert_eq!(said.passed.to_tag(), progress.to_tag());

        // Preconditions are met in the early dialog, from either side (RFC 3311).
        let update = s
            .ue1
            .request_in(&mut caller, "UPDATE")
            .with_body("application/sdp", captured::offer(s.ue1.addr()));
        let said = call::exchange(&mut s.ue1, &mut s.ue2, update, Tcp, (200, "OK"))?;
        assert_eq!(said.passed.cseq(), (3, "UPDATE"));
        let update = s.ue2.request_in(&mut callee, "UPDATE");
        call::exchange(&mut s.ue2, &mut s.ue1, update, Udp, (200, "OK"))?;

        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK");
        s.ue2.respond(&leg_b, &accepted)?;
        s.ue1.response(&invite, 200)?;
        let ack = s.ue1.ack_in(&caller, &invite);
        s.ue1.send(&ack, Udp)?;
        let acknowledged = s.ue2.expect("ACK")?;
        assert_eq!(
            acknowledged.cseq(),
            (1, "ACK"),
            "the ACK has the INVITE's number, not the last one"
        );
        let bye = call::hang_up(&mut s.ue1, &mut s.ue2, &mut caller)?;
        assert_eq!(bye.passed.cseq(), (4, "BYE"));
        Ok(())
    });
}

#[test]
fn an_offer_in_the_200_is_answered_in_the_ack() {
    registered(Setup::new(), |s| {
        let mut invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp).removing("Content-Type");
        invite.body.clear();
        invite.set("Content-Length", 0);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK")
            .with_body("application/sdp", captured::offer(s.ue2.addr()));
        s.ue2.respond(&leg_b, &accepted)?;
        let ok = s.ue1.response(&invite, 200)?;
        assert_eq!(ok.body.len(), captured::SDP_BYTES);
        let mut dialog = Dialog::of_caller(&invite, &ok, Tcp);
        let ack = s
            .ue1
            .ack_in(&dialog, &invite)
            .with_body("application/sdp", captured::answer(s.ue1.addr()));
        s.ue1.send(&ack, Tcp)?;
        let got = s.ue2.expect("ACK")?;
        assert_eq!(got.body, ack.body);
        assert_eq!(got.text("Content-Type"), "application/sdp");
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut dialog)?;
        Ok(())
    });
}

#[test]
fn a_request_out_of_order_is_refused() {
    // RFC 3261 §12.2.2: a CSeq number lower than the last one gets a 500.
    in_a_call(Setup::new(), |s, call| {
        let info = s.ue1.request_in(&mut call.caller, "INFO");
        call::exchange(&mut s.ue1, &mut s.ue2, info, Tcp, (200, "OK"))?;
        let mut past = call.caller.clone();
        past.cseq -= 2;
        let late = s.ue1.request_in(&mut past, "INFO");
        s.ue1.ask_for(&late, Tcp, 500)?;
        Ok(())
    });
}

#[test]
fn the_same_holds_between_two_phones_on_tcp() {
    scene(Setup::new(), |s| {
        register(&mut s.ue1, Tcp)?;
        register_for_tcp(&mut s.ue2)?;
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        for (method, like, answer) in conversation() {
            let request = dressed(s.ue2.request_in(&mut call.callee, method), &like);
            let said = call::exchange(&mut s.ue2, &mut s.ue1, request, Tcp, answer)?;
            no_faults(contract::passed_request(
                &said.request,
                &said.passed,
                &call.at_caller(None),
                s.server.udp,
            ))?;
        }
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        Ok(())
    });
}
