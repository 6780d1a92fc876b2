//! UDP loses messages: what is sent twice is done once, and what is not answered is sent again (RFC 3261 §17).

use bench_harness::call::{self, invite_reply};
use bench_harness::captured;
use bench_harness::dialog::Dialog;
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;

use crate::support::{Setup, alive, nothing_more, on_every_server, refused, registered};

on_every_server![
    an_invite_that_comes_again_is_absorbed_and_answered_again,
    a_200_that_comes_again_is_acknowledged_again,
    a_bye_that_comes_again_is_answered_again,
];

fn an_invite_that_comes_again_is_absorbed_and_answered_again(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        s.ue1.keeps_duplicates = true;
        s.ue1.send(&invite, Udp)?;
        s.ue1.response(&invite, 100)?;
        let leg_b = s.ue2.expect("INVITE")?;
        // §17.2.1: in Proceeding a retransmission gets the last provisional response again.
        s.ue1.send(&invite, Udp)?;
        s.ue1.response(&invite, 100)?;
        let ringing = invite_reply(&mut s.ue2, &leg_b, 180, "Ringing");
        s.ue2.respond(&leg_b, &ringing)?;
        s.ue1.response(&invite, 180)?;
        s.ue1.send(&invite, Udp)?;
        s.ue1.response(&invite, 180)?;
        s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue1.response(&invite, 486)?;
        // And in Completed the final one, whether timer G was faster or not.
        s.ue1.send(&invite, Udp)?;
        let busy = s.ue1.response(&invite, 486)?;
        s.ue1.send(&Phone::ack_of(&invite, &busy), Udp)?;
        s.ue2.expect("ACK")?;
        alive(&mut s.ue1, Udp)?;
        let repeated = s.ue1.leftovers();
        assert!(
            repeated.iter().all(|r| r.status() == Some(486)),
            "timer G's repetitions and nothing else"
        );
        nothing_more(&mut s.ue2)
    });
}

fn a_200_that_comes_again_is_acknowledged_again(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        // The callee has missed the ACK, it thinks: its 200 comes again, and so does the ACK.
        s.ue2.respond(&call.leg_b, &call.accepted.0)?;
        s.ue2.wait_duplicates("ACK", 1)?;
        s.ue2.respond(&call.leg_b, &call.accepted.0)?;
        s.ue2.wait_duplicates("ACK", 2)?;
        // The caller, on TCP, has heard it once; a second 200 there would be somebody's mistake.
        nothing_more(&mut s.ue1)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

fn a_bye_that_comes_again_is_answered_again(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Udp)?;
        let bye = call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        s.ue1.send(&bye.request, Udp)?;
        s.ue1.wait_duplicates("200 OK (BYE)", 1)?;
        let again = s.ue2.duplicates().iter().filter(|d| *d == "BYE").count();
        assert_eq!(again, 0, "the second BYE went no further");
        Ok(())
    });
}

#[test]
fn an_invite_is_repeated_until_the_callee_says_anything() {
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        s.ue2.wait_duplicates("INVITE", 2)?;
        s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        refused(&mut s.ue1, &invite, 486, Tcp)?;
        Ok(())
    });
}

#[test]
fn a_200_is_repeated_until_the_caller_acknowledges_it() {
    // RFC 3261 §13.3.1.4.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        s.ue1.send(&invite, Udp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        let accepted = invite_reply(&mut s.ue2, &leg_b, 200, "OK");
        s.ue2.respond(&leg_b, &accepted)?;
        let ok = s.ue1.response(&invite, 200)?;
        s.ue1.wait_duplicates("200 OK (INVITE)", 2)?;
        let mut dialog = Dialog::of_caller(&invite, &ok, Udp);
        let ack = s.ue1.ack_in(&dialog, &invite);
        s.ue1.send(&ack, Udp)?;
        s.ue2.expect("ACK")?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut dialog)?;
        Ok(())
    });
}

#[test]
fn a_refusal_is_repeated_until_the_caller_acknowledges_it() {
    // RFC 3261 §17.2.1, timer G.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
        s.ue1.send(&invite, Udp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        let busy = s.ue1.response(&invite, 486)?;
        s.ue1.wait_duplicates("486 Busy Here (INVITE)", 2)?;
        s.ue1.send(&Phone::ack_of(&invite, &busy), Udp)?;
        Ok(())
    });
}

#[test]
fn a_refusal_that_comes_again_is_acknowledged_again() {
    // RFC 3261 §17.1.1.2: in Completed every further final response gets the ACK.
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        let busy = s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        refused(&mut s.ue1, &invite, 486, Tcp)?;
        s.ue2.respond(&leg_b, &busy)?;
        s.ue2.wait_duplicates("ACK", 1)
    });
}

#[test]
fn a_bye_is_repeated_until_it_is_answered() {
    registered(Setup::new(), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let bye = s.ue1.request_in(&mut call.caller, "BYE");
        s.ue1.send(&bye, Tcp)?;
        let got = s.ue2.expect("BYE")?;
        s.ue2.wait_duplicates("BYE", 2)?;
        s.ue2.answers(&got, 200, "OK")?;
        s.ue1.response(&bye, 200)?;
        Ok(())
    });
}

#[test]
fn a_register_that_comes_again_is_answered_again_and_done_once() {
    registered(Setup::new(), |s| {
        s.ue1.keeps_duplicates = true;
        let register = captured::register(&mut s.ue1, Udp);
        let first = s.ue1.ask_for(&register, Udp, 200)?;
        // The same transaction: were it a new one, its CSeq would be out of order (RFC 3261 §10.3).
        let second = s.ue1.ask_for(&register, Udp, 200)?;
        assert_eq!(first.raw, second.raw);
        Ok(())
    });
}
