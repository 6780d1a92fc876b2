//! How calls begin and end when they don't go as in the capture.

use std::time::{Duration, Instant};

use bench_harness::call::{self, invite_reply};
use bench_harness::dialog::Dialog;
use bench_harness::failure::{Outcome, no_faults};
use bench_harness::links::Received;
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::sip::Message;
use bench_harness::{captured, contract, sip};

use crate::support::{
    Scene, Setup, on_every_server, refused, register, register_contact, register_for_tcp, registered, scene,
    wait_until_offline,
};

on_every_server![
    cancelled_while_it_rings,
    busy,
    the_call_goes_from_udp_to_udp,
    the_call_goes_from_tcp_to_tcp,
    the_call_goes_from_udp_to_tcp,
    the_callee_never_registered,
];

/// The caller's INVITE over TCP, and the callee's with a 180 that has come back to the caller.
fn ring(s: &mut Scene) -> Outcome<(Message, Received)> {
    let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
    s.ue1.send(&invite, Tcp)?;
    let leg_b = s.ue2.expect("INVITE")?;
    let ringing = invite_reply(&mut s.ue2, &leg_b, 180, "Ringing");
    s.ue2.respond(&leg_b, &ringing)?;
    s.ue1.response(&invite, 180)?;
    Ok((invite, leg_b))
}

/// RFC 3261 §9.1: what a CANCEL shares with the INVITE that it cancels.
fn is_the_cancel_of(cancel: &Received, invite: &Received) {
    assert_eq!(cancel.uri(), invite.uri());
    assert_eq!(cancel.get_all("Via"), invite.get_all("Via"));
    for name in ["From", "To", "Call-ID"] {
        assert_eq!(cancel.text(name), invite.text(name), "{name}");
    }
    assert_eq!(cancel.cseq(), (invite.cseq().0, "CANCEL"));
    assert_eq!(cancel.transport, invite.transport);
    assert!(!cancel.has("Require") && !cancel.has("Proxy-Require"));
}

/// §17.1.1.3: the ACK for a final response above 299 is the INVITE transaction's.
fn is_the_ack_of(ack: &Received, invite: &Received, response: &Message) {
    assert_eq!(ack.uri(), invite.uri());
    assert_eq!(ack.get_all("Via"), [invite.top_via()]);
    assert_eq!(ack.text("Call-ID"), invite.text("Call-ID"));
    assert_eq!(ack.text("From"), invite.text("From"));
    assert_eq!(ack.text("To"), response.text("To"));
    assert_eq!(ack.cseq(), (invite.cseq().0, "ACK"));
    assert!(ack.body.is_empty());
}

/// The callee gives up a cancelled INVITE: 200 to the CANCEL, 487 to the INVITE, and an ACK for that.
fn gives_up(callee: &mut Phone, invite: &Received) -> Outcome {
    let cancel = callee.expect("CANCEL")?;
    is_the_cancel_of(&cancel, invite);
    callee.answers(&cancel, 200, "OK")?;
    let terminated = callee.answers(invite, 487, "Request Terminated")?;
    let ack = callee.expect("ACK")?;
    is_the_ack_of(&ack, invite, &terminated);
    Ok(())
}

fn cancelled_while_it_rings(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let (invite, leg_b) = ring(s)?;
        let cancel = Phone::cancel_of(&invite);
        let accepted = s.ue1.ask_for(&cancel, Tcp, 200)?;
        for name in ["Via", "From", "Call-ID", "CSeq"] {
            assert_eq!(accepted.lines(name), cancel.lines(name), "{name}");
        }
        gives_up(&mut s.ue2, &leg_b)?;
        let terminated = refused(&mut s.ue1, &invite, 487, Tcp)?;
        // §9.2: the To tags of the answers to INVITE and CANCEL should be the same.
        assert!(terminated.to_tag().is_some());
        Ok(())
    });
}

#[test]
fn a_cancel_waits_until_the_callee_has_said_anything() {
    // §9.1: "if no provisional response has been received, the CANCEL request MUST NOT be sent".
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        s.ue1.ask_for(&Phone::cancel_of(&invite), Tcp, 200)?;
        s.ue2.wait_duplicates("INVITE", 1)?;
        assert!(s.ue2.leftovers().is_empty(), "a CANCEL came before any response");
        s.ue2.answers(&leg_b, 100, "Trying")?;
        gives_up(&mut s.ue2, &leg_b)?;
        refused(&mut s.ue1, &invite, 487, Tcp)?;
        Ok(())
    });
}

#[test]
fn a_cancel_that_crosses_the_200_ends_the_call_on_both_sides() {
    registered(Setup::new(), |s| {
        let (invite, leg_b) = ring(s)?;
        s.ue1.ask_for(&Phone::cancel_of(&invite), Tcp, 200)?;
        let cancel = s.ue2.expect("CANCEL")?;
        // The callee had answered when the CANCEL came: it says so, and its 200 stands (§9.2).
        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK");
        s.ue2.respond(&leg_b, &accepted)?;
        s.ue2.answers(&cancel, 200, "OK")?;
        let outcome = s.ue1.final_response(&invite)?;
        match outcome.status() {
            // The answer went through after all: then the caller has a call to end.
            Some(200) => {
                let mut dialog = Dialog::of_caller(&invite, &outcome, Tcp);
                let ack = s.ue1.ack_in(&dialog, &invite);
                s.ue1.send(&ack, Tcp)?;
                s.ue2.expect("ACK")?;
                call::hang_up(&mut s.ue1, &mut s.ue2, &mut dialog)?;
            }
            // The caller was told that it is over: then the callee's call is ended for it.
            Some(487) => {
                s.ue1.send(&Phone::ack_of(&invite, &outcome), Tcp)?;
                s.ue2.expect("ACK")?;
                let bye = s.ue2.expect("BYE")?;
                assert_eq!(bye.text("Call-ID"), leg_b.text("Call-ID"));
                assert_eq!(bye.to_tag(), accepted.to_tag());
                s.ue2.answers(&bye, 200, "OK")?;
            }
            other => panic!("{other:?} ends the caller's INVITE"),
        }
        Ok(())
    });
}

#[test]
fn a_cancel_after_the_200_changes_nothing() {
    // §9.2: a CANCEL has no effect on a request that has its final response.
    registered(Setup::new(), |s| {
        let (invite, leg_b) = ring(s)?;
        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK");
        s.ue2.respond(&leg_b, &accepted)?;
        let ok = s.ue1.response(&invite, 200)?;
        let cancelled = s.ue1.ask(&Phone::cancel_of(&invite), Tcp)?;
        assert!(
            matches!(cancelled.status(), Some(200 | 481)),
            "{}",
            cancelled.message
        );
        let mut dialog = Dialog::of_caller(&invite, &ok, Tcp);
        let ack = s.ue1.ack_in(&dialog, &invite);
        s.ue1.send(&ack, Tcp)?;
        s.ue2.expect("ACK")?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut dialog)?;
        Ok(())
    });
}

fn busy(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        is_refused_with(s, 486, "Busy Here")
    });
}

/// The callee refuses; the caller hears it as it was said, and both sides' INVITEs are acknowledged.
fn is_refused_with(s: &mut Scene, status: u16, reason: &str) -> Outcome {
    let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
    s.ue1.send(&invite, Tcp)?;
    let leg_b = s.ue2.expect("INVITE")?;
    let mut answer = s.ue2.reply(&leg_b, status, reason);
    answer.insert("Warning", "399 phone \"for the record\"");
    answer.insert("X-Of-The-Callee", "kept");
    s.ue2.respond(&leg_b, &answer)?;
    let got = refused(&mut s.ue1, &invite, status, Tcp)?;
    no_faults(contract::passed_response(&invite, &answer, &got, s.server.udp))?;
    let ack = s.ue2.expect("ACK")?;
    is_the_ack_of(&ack, &leg_b, &answer);
    Ok(())
}

#[test]
fn every_refusal_is_passed_on_as_it_was_said() {
    registered(Setup::new(), |s| {
        is_refused_with(s, 403, "Forbidden")?;
        is_refused_with(s, 480, "Temporarily Unavailable")?;
        is_refused_with(s, 488, "Not Acceptable Here")?;
        is_refused_with(s, 500, "Server Internal Error")?;
        is_refused_with(s, 580, "Precondition Failure")?;
        is_refused_with(s, 603, "Decline")?;
        is_refused_with(s, 499, "A Reason Of Its Own")
    });
}

#[test]
fn a_redirection_is_passed_on_with_its_contact() {
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        let answer = s
            .ue2
            .reply(&leg_b, 302, "Moved Temporarily")
            .inserting("Contact", "<sip:elsewhere@192.0.2.7:5070>;q=0.7");
        s.ue2.respond(&leg_b, &answer)?;
        let got = refused(&mut s.ue1, &invite, 302, Tcp)?;
        no_faults(contract::passed_response(&invite, &answer, &got, s.server.udp))?;
        assert_eq!(got.text("Contact"), "<sip:elsewhere@192.0.2.7:5070>;q=0.7");
        s.ue2.expect("ACK")?;
        Ok(())
    });
}

fn the_callee_never_registered(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        register(&mut s.ue1, Tcp)?;
        let invite = captured::invite(&mut s.ue1, "13800019999", Tcp);
        s.ue1.send(&invite, Tcp)?;
        let got = refused(&mut s.ue1, &invite, 404, Tcp)?;
        for name in ["Via", "From", "Call-ID", "CSeq"] {
            assert_eq!(got.lines(name), invite.lines(name), "{name}");
        }
        assert!(
            got.to_tag().is_some(),
            "RFC 3261 §8.2.6.2: a final response has a To tag"
        );
        Ok(())
    });
}

#[test]
fn the_callee_is_known_but_offline() {
    registered(Setup::new(), |s| {
        let gone = captured::register(&mut s.ue2, Tcp).setting("Expires", 0);
        s.ue2.ask_for(&gone, Tcp, 200)?;
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        refused(&mut s.ue1, &invite, 480, Tcp)?;
        Ok(())
    });
}

#[test]
fn the_callee_does_not_answer_at_all() {
    // RFC 3261 §17.1.1.2 timer B, seen as a 408 (§8.1.3.1); the caller is told what that means.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        s.ue2.expect("INVITE")?;
        refused(&mut s.ue1, &invite, 408, Tcp)?;
        Ok(())
    });
}

#[test]
fn the_callee_rings_for_too_long() {
    // §16.8: when timer C fires after a provisional response, the INVITE is cancelled.
    registered(Setup::new().key("timers", "timer_c_ms", "300"), |s| {
        let (invite, leg_b) = ring(s)?;
        gives_up(&mut s.ue2, &leg_b)?;
        refused(&mut s.ue1, &invite, 408, Tcp)?;
        Ok(())
    });
}

fn the_call_goes_from_udp_to_udp(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| whole_call(s, Udp, Udp));
}

fn the_call_goes_from_tcp_to_tcp(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        register(&mut s.ue1, Tcp)?;
        register_for_tcp(&mut s.ue2)?;
        whole_call(s, Tcp, Tcp)
    });
}

fn the_call_goes_from_udp_to_tcp(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        register(&mut s.ue1, Udp)?;
        register_for_tcp(&mut s.ue2)?;
        whole_call(s, Udp, Tcp)
    });
}

/// A call whose INVITE comes over one transport and goes on over another; each side hangs up once.
fn whole_call(
    s: &mut Scene,
    from: bench_harness::links::Transport,
    to: bench_harness::links::Transport,
) -> Outcome {
    for caller_hangs_up in [true, false] {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, from)?;
        assert_eq!(call.leg_b.transport, to);
        assert_eq!(call.accepted.1.transport, from);
        if to == Tcp {
            let own = s.ue2.connection()?;
            assert_eq!(
                call.leg_b.conn,
                Some(own),
                "the connection that registered is used"
            );
        }
        match caller_hangs_up {
            true => call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?,
            false => call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?,
        };
    }
    Ok(())
}

#[test]
fn one_subscriber_is_reached_by_tel_uri_by_sip_uri_and_by_either_spelling_of_the_domain() {
    registered(Setup::new(), |s| {
        for uri in [
            format!("tel:{}", captured::CALLEE),
            format!("tel:{};phone-context={}", captured::CALLEE, captured::DOMAIN),
            format!("sip:{}@{}", captured::CALLEE, captured::DOMAIN),
            format!("sip:{}@{};user=phone", captured::CALLEE, captured::DOMAIN),
            format!("sip:{}@ONE.ATT.NET", captured::CALLEE),
            // RFC 3261 §19.1.4: an escaped character and the character itself are the same.
            format!("sip:%31{}@{}", &captured::CALLEE[1..], captured::DOMAIN),
        ] {
            let mut invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
            invite.start = Message::request("INVITE", &uri).start;
            invite.set("To", format!("<{uri}>"));
            let mut call = call::place_with(&mut s.ue1, &mut s.ue2, invite, Tcp)?;
            assert_eq!(sip::uri(call.accepted.1.text("To")), uri);
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        }
        Ok(())
    });
}

#[test]
fn both_sides_hang_up_at_once() {
    registered(Setup::new(), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let (from_1, from_2) = (
            s.ue1.request_in(&mut call.caller, "BYE"),
            s.ue2.request_in(&mut call.callee, "BYE"),
        );
        s.ue1.send(&from_1, Tcp)?;
        s.ue2.send(&from_2, Udp)?;
        // Each phone is in the middle of its own BYE when the other's comes, if it comes: it takes part in both.
        let mut answered = [false, false];
        let deadline = Instant::now() + s.ue1.patience;
        while answered != [true, true] && Instant::now() < deadline {
            let phones = [(&mut s.ue1, &from_1), (&mut s.ue2, &from_2)];
            for ((phone, own), answered) in phones.into_iter().zip(&mut answered) {
                for got in phone.leftovers() {
                    if got.is_request("BYE") {
                        phone.answers(&got, 200, "OK")?;
                        continue;
                    }
                    assert_eq!(got.branch(), own.branch());
                    assert!(matches!(got.status(), Some(200 | 481)), "{}", got.message);
                    *answered = true;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(answered, [true, true], "both BYEs have their answer");
        Ok(())
    });
}

#[test]
fn an_answered_call_that_is_never_acknowledged_is_ended() {
    // RFC 3261 §13.3.1.4: without an ACK for 64*T1 the side that answered ends the session.
    registered(Setup::new(), |s| {
        let (invite, leg_b) = ring(s)?;
        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK");
        s.ue2.respond(&leg_b, &accepted)?;
        s.ue1.response(&invite, 200)?;
        for phone in [&mut s.ue1, &mut s.ue2] {
            let bye = phone.wait_for("a BYE", |r| r.is_request("BYE"))?;
            phone.answers(&bye, 200, "OK")?;
        }
        // Leg B's 200 is acknowledged, at the latest before its BYE.
        s.ue2
            .leftovers()
            .iter()
            .for_each(|r| assert!(r.is_request("ACK"), "{}", r.title()));
        Ok(())
    });
}

#[test]
fn a_call_that_lasts_too_long_is_ended_on_both_sides() {
    registered(Setup::new().key("limits", "call_duration_max_s", "1"), |s| {
        let call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let bye = s.ue1.expect("BYE")?;
        assert_eq!(bye.to_tag(), sip::param(&call.caller.local, "tag"));
        s.ue1.answers(&bye, 200, "OK")?;
        let bye = s.ue2.expect("BYE")?;
        assert_eq!(bye.to_tag(), sip::param(&call.callee.local, "tag"));
        s.ue2.answers(&bye, 200, "OK")?;
        Ok(())
    });
}

#[test]
fn a_phone_whose_registration_expired_is_offline() {
    registered(Setup::new(), |s| {
        let brief = format!("<{}>;expires=1", s.ue2.contact());
        register_contact(&mut s.ue2, &brief, Udp)?;
        wait_until_offline(&mut s.ue2)?;
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        refused(&mut s.ue1, &invite, 480, Tcp)?;
        Ok(())
    });
}
