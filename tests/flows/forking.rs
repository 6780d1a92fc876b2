//! One subscriber with several phones: all ring, the first that answers has the call (RFC 3261 §16.7).

use bench_harness::call::{self, invite_reply};
use bench_harness::dialog::Dialog;
use bench_harness::failure::{Failure, Outcome, no_faults};
use bench_harness::links::Received;
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::sip::Message;
use bench_harness::{captured, contract};

use crate::support::{
    Scene, Setup, alive, bindings, nothing_more, on_every_server, refused, register, register_contact,
    registered, scene,
};

on_every_server![the_first_that_answers_has_the_call];

/// UE1, UE2, and UE3, which registered the same subscriber as UE2.
fn two_phones_of_one_subscriber(setup: Setup, story: impl FnOnce(&mut Scene, &mut Phone) -> Outcome) {
    registered(setup, |s| {
        let mut ue3 = s.phone("UE3", captured::CALLEE)?;
        let contact = format!(
            "<{}>;audio;+sip.instance=\"<urn:gsma:imei:86539405-999999-0>\"",
            ue3.contact()
        );
        register_contact(&mut ue3, &contact, Tcp)?;
        assert_eq!(bindings(&mut ue3)?.len(), 2);
        story(s, &mut ue3)?;
        nothing_more(&mut ue3)
    });
}

/// Both phones' INVITEs of one call, and the caller's.
fn both_ring(s: &mut Scene, ue3: &mut Phone) -> Outcome<(Message, Received, Received)> {
    let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
    s.ue1.send(&invite, Tcp)?;
    let at_ue2 = s.ue2.expect("INVITE")?;
    let at_ue3 = ue3.expect("INVITE")?;
    no_faults(contract::leg_b_invite(
        &invite,
        &at_ue2,
        &s.ue2.contact(),
        s.server.udp,
    ))?;
    no_faults(contract::leg_b_invite(
        &invite,
        &at_ue3,
        &ue3.contact(),
        s.server.udp,
    ))?;
    if at_ue2.branch() == at_ue3.branch() {
        return Err(Failure::new(
            "RFC 3261 §16.6: every branch of a fork has a branch parameter of its own",
        ));
    }
    for (phone, leg) in [(&mut s.ue2, &at_ue2), (ue3, &at_ue3)] {
        let ringing = invite_reply(phone, leg, 180, "Ringing");
        phone.respond(leg, &ringing)?;
        let got = s.ue1.response(&invite, 180)?;
        assert_eq!(
            got.to_tag(),
            ringing.to_tag(),
            "each phone is an early dialog of its own"
        );
    }
    Ok((invite, at_ue2, at_ue3))
}

/// This phone was rung in vain.
fn stops_ringing(phone: &mut Phone, leg: &Received) -> Outcome {
    let cancel = phone.expect("CANCEL")?;
    assert_eq!(cancel.branch(), leg.branch());
    phone.answers(&cancel, 200, "OK")?;
    phone.answers(leg, 487, "Request Terminated")?;
    phone.expect("ACK")?;
    Ok(())
}

fn the_first_that_answers_has_the_call(flags: &[&str]) {
    two_phones_of_one_subscriber(Setup::new().flags(flags), |s, ue3| {
        let (invite, at_ue2, at_ue3) = both_ring(s, ue3)?;
        let accepted = invite_reply(ue3, &at_ue3, 200, "OK");
        ue3.respond(&at_ue3, &accepted)?;
        let ok = s.ue1.response(&invite, 200)?;
        no_faults(contract::passed_response(&invite, &accepted, &ok, s.server.udp))?;
        stops_ringing(&mut s.ue2, &at_ue2)?;
        let mut dialog = Dialog::of_caller(&invite, &ok, Tcp);
        let ack = s.ue1.ack_in(&dialog, &invite);
        s.ue1.send(&ack, Udp)?;
        ue3.expect("ACK")?;
        call::hang_up(&mut s.ue1, ue3, &mut dialog)?;
        Ok(())
    });
}

#[test]
fn when_both_answer_at_once_one_has_the_call_and_the_other_is_hung_up() {
    two_phones_of_one_subscriber(Setup::new(), |s, ue3| {
        let (invite, at_ue2, at_ue3) = both_ring(s, ue3)?;
        let by_ue2 = invite_reply(&mut s.ue2, &at_ue2, 200, "OK");
        let by_ue3 = invite_reply(ue3, &at_ue3, 200, "OK");
        s.ue2.respond(&at_ue2, &by_ue2)?;
        ue3.respond(&at_ue3, &by_ue3)?;
        let ok = s.ue1.response(&invite, 200)?;
        let ue2_has_it = ok.to_tag() == by_ue2.to_tag();
        assert!(ue2_has_it || ok.to_tag() == by_ue3.to_tag());
        let mut dialog = Dialog::of_caller(&invite, &ok, Tcp);
        let ack = s.ue1.ack_in(&dialog, &invite);
        s.ue1.send(&ack, Tcp)?;
        let (winner, loser) = match ue2_has_it {
            true => (&mut s.ue2, &mut *ue3),
            false => (&mut *ue3, &mut s.ue2),
        };
        winner.expect("ACK")?;
        // A 2xx must be acknowledged even if nobody wants it any more (RFC 3261 §13.2.2.4); then it is ended.
        loser.expect("ACK")?;
        let bye = loser.expect("BYE")?;
        loser.answers(&bye, 200, "OK")?;
        // It may have been told to stop ringing before its 200 arrived.
        for late in loser.leftovers() {
            assert!(late.is_request("CANCEL"), "{}", late.title());
            loser.answers(&late, 200, "OK")?;
        }
        call::hang_up(&mut s.ue1, winner, &mut dialog)?;
        Ok(())
    });
}

#[test]
fn one_is_busy_and_the_other_answers() {
    two_phones_of_one_subscriber(Setup::new(), |s, ue3| {
        let (invite, at_ue2, at_ue3) = both_ring(s, ue3)?;
        s.ue2.answers(&at_ue2, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        let accepted = invite_reply(ue3, &at_ue3, 200, "OK");
        ue3.respond(&at_ue3, &accepted)?;
        let ok = s.ue1.response(&invite, 200)?;
        let ack = s.ue1.ack_in(&Dialog::of_caller(&invite, &ok, Tcp), &invite);
        s.ue1.send(&ack, Tcp)?;
        ue3.expect("ACK")?;
        call::hang_up(ue3, &mut s.ue1, &mut Dialog::of_callee(&at_ue3, &accepted, Udp))?;
        Ok(())
    });
}

#[test]
fn when_all_refuse_the_best_refusal_is_passed_on() {
    // RFC 3261 §16.7 step 6: from the lowest class, one that says most.
    two_phones_of_one_subscriber(Setup::new(), |s, ue3| {
        let (invite, at_ue2, at_ue3) = both_ring(s, ue3)?;
        s.ue2.answers(&at_ue2, 500, "Server Internal Error")?;
        s.ue2.expect("ACK")?;
        ue3.answers(&at_ue3, 486, "Busy Here")?;
        ue3.expect("ACK")?;
        refused(&mut s.ue1, &invite, 486, Tcp)?;
        Ok(())
    });
}

#[test]
fn a_6xx_ends_the_ringing_everywhere() {
    // RFC 3261 §16.7 step 5: on a 6xx all pending branches are cancelled.
    two_phones_of_one_subscriber(Setup::new(), |s, ue3| {
        let (invite, at_ue2, at_ue3) = both_ring(s, ue3)?;
        s.ue2.answers(&at_ue2, 603, "Decline")?;
        s.ue2.expect("ACK")?;
        stops_ringing(ue3, &at_ue3)?;
        refused(&mut s.ue1, &invite, 603, Tcp)?;
        Ok(())
    });
}

#[test]
fn a_caller_that_gives_up_stops_every_phone() {
    two_phones_of_one_subscriber(Setup::new(), |s, ue3| {
        let (invite, at_ue2, at_ue3) = both_ring(s, ue3)?;
        s.ue1.ask_for(&Phone::cancel_of(&invite), Tcp, 200)?;
        stops_ringing(&mut s.ue2, &at_ue2)?;
        stops_ringing(ue3, &at_ue3)?;
        refused(&mut s.ue1, &invite, 487, Tcp)?;
        Ok(())
    });
}

#[test]
fn a_message_goes_to_every_phone_and_is_answered_once() {
    two_phones_of_one_subscriber(Setup::new(), |s, ue3| {
        let message = s
            .ue1
            .request("MESSAGE", &s.ue2.aor(), Udp)
            .with_body("text/plain", "to all");
        s.ue1.send(&message, Udp)?;
        for phone in [&mut s.ue2, ue3] {
            let got = phone.expect("MESSAGE")?;
            assert_eq!(got.body, message.body);
            phone.answers(&got, 200, "OK")?;
        }
        s.ue1.response(&message, 200)?;
        alive(&mut s.ue1, Udp)?;
        nothing_more(&mut s.ue1)
    });
}

#[test]
fn more_phones_than_may_ring_are_not_all_rung() {
    scene(Setup::new().key("limits", "forks_max", "1"), |s| {
        register(&mut s.ue1, Tcp)?;
        let mut ue3 = s.phone("UE3", captured::CALLEE)?;
        for (phone, q) in [(&mut s.ue2, "0.2"), (&mut ue3, "0.9")] {
            let contact = format!("<{}>;q={q}", phone.contact());
            register_contact(phone, &contact, Tcp)?;
        }
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        // The one with the higher q (RFC 3261 §20.10).
        let leg_b = ue3.expect("INVITE")?;
        ue3.answers(&leg_b, 486, "Busy Here")?;
        ue3.expect("ACK")?;
        refused(&mut s.ue1, &invite, 486, Tcp)?;
        Ok(())
    });
}
