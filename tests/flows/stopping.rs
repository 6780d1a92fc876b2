//! SIGTERM: no new calls, those in progress go on, and nothing is left over.

use bench_harness::call;
use bench_harness::captured;
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;

use crate::errors::has_retry_after;
use crate::support::{Server, Setup, on_every_server, refused, registered};

on_every_server![a_call_in_progress_goes_on_while_new_ones_are_refused];

fn a_call_in_progress_goes_on_while_new_ones_are_refused(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        s.server.terminate();
        // The signal takes its time: until then a call is a call.
        let refusal = loop {
            let invite = captured::invite(&mut s.ue1, captured::CALLEE, Udp);
            s.ue1.send(&invite, Udp)?;
            let mut first = s.ue1.any_response(&invite)?;
            if first.status() == Some(100) {
                let answered = s.ue2.wait_for("the INVITE", |r| r.is_request("INVITE"));
                if let Ok(leg_b) = answered {
                    s.ue2.answers(&leg_b, 486, "Busy Here")?;
                    s.ue2.expect("ACK")?;
                }
                first = s.ue1.final_response(&invite)?;
            }
            s.ue1.send(&Phone::ack_of(&invite, &first), Udp)?;
            if first.status() != Some(486) {
                break first;
            }
        };
        assert_eq!(refusal.status(), Some(503), "{}", refusal.message);
        has_retry_after(&refusal);
        let info = s.ue2.request_in(&mut call.callee, "INFO");
        call::exchange(&mut s.ue2, &mut s.ue1, info, Udp, (200, "OK"))?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        let summary = s.server.wait();
        assert!(
            summary.lines().any(|l| l.trim() == "leftovers: none"),
            "{summary}"
        );
        Ok(())
    });
}

#[test]
fn a_call_that_outlasts_the_drain_is_ended() {
    registered(Setup::new().key("", "drain_s", "1"), |s| {
        call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        s.server.terminate();
        for phone in [&mut s.ue1, &mut s.ue2] {
            let bye = phone.expect("BYE")?;
            phone.answers(&bye, 200, "OK")?;
        }
        let summary = s.server.wait();
        assert!(
            summary.lines().any(|l| l.trim() == "leftovers: none"),
            "{summary}"
        );
        Ok(())
    });
}

#[test]
fn an_idle_server_stops_at_once_and_says_what_it_did() {
    let mut server = Server::start(&Setup::new());
    server.terminate();
    let summary = server.wait();
    assert!(
        summary.lines().any(|l| l.trim() == "leftovers: none"),
        "{summary}"
    );
    assert!(summary.lines().count() < 70, "one page:\n{summary}");
}

#[test]
fn a_ringing_call_is_not_forgotten_by_the_drain() {
    registered(Setup::new(), |s| {
        let invite = captured::invite(&mut s.ue1, captured::CALLEE, Tcp);
        s.ue1.send(&invite, Tcp)?;
        let leg_b = s.ue2.expect("INVITE")?;
        s.ue2.answers(&leg_b, 180, "Ringing")?;
        s.ue1.response(&invite, 180)?;
        s.server.terminate();
        s.ue2.answers(&leg_b, 486, "Busy Here")?;
        s.ue2.expect("ACK")?;
        refused(&mut s.ue1, &invite, 486, Tcp)?;
        let summary = s.server.wait();
        assert!(
            summary.lines().any(|l| l.trim() == "leftovers: none"),
            "{summary}"
        );
        Ok(())
    });
}

#[test]
fn that_nobody_reads_the_last_page_is_no_failure() {
    let mut server = Server::start(&Setup::new());
    server.close_stdout();
    server.terminate();
    server.wait();
    assert!(
        server.log().contains("the last page can't be printed"),
        "{}",
        server.log()
    );
}
