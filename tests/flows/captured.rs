//! The captured flows, header by header: two phones register, watch their registration and call each other.

use bench_harness::failure::{Outcome, no_faults};
use bench_harness::links::Transport::{Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::{call, captured, contract, sip};

use crate::support::{Setup, on_every_server, registered, scene};

on_every_server![
    a_phone_registers_over_tcp,
    a_phone_watches_its_registration,
    a_call_over_tcp_reaches_a_phone_on_udp,
    the_caller_hangs_up,
    the_callee_hangs_up,
];

fn a_phone_registers_over_tcp(flags: &[&str]) {
    scene(Setup::new().flags(flags), |s| {
        let register = captured::register(&mut s.ue2, Tcp);
        let response = s.ue2.ask_for(&register, Tcp, 200)?;
        no_faults(contract::register_ok(&register, &response, captured::EXPIRES_S))?;
        assert_eq!(
            response.conn,
            Some(s.ue2.connection()?),
            "the answer is on the same connection"
        );
        assert_eq!(response.reason(), Some("OK"));
        assert_eq!(response.text("Content-Length"), "0");
        Ok(())
    });
}

fn a_phone_watches_its_registration(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| watch(&mut s.ue2));
}

fn watch(ue2: &mut Phone) -> Outcome {
    let subscribe = captured::subscribe(ue2, Udp);
    let accepted = ue2.ask_for(&subscribe, Udp, 200)?;
    no_faults(contract::subscribe_ok(&subscribe, &accepted))?;
    let notify = ue2.expect("NOTIFY")?;
    let server = ue2.server(Udp);
    no_faults(contract::notify(
        &subscribe,
        &accepted,
        &notify,
        1,
        captured::EXPIRES_S,
        server,
    ))?;
    assert_eq!(notify.transport, Udp);
    assert_eq!(notify.from, server);
    assert!(notify.at >= accepted.at, "the NOTIFY overtook its 200");
    ue2.answers(&notify, 200, "OK")?;
    Ok(())
}

fn a_call_over_tcp_reaches_a_phone_on_udp(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let server = s.server.udp;
        let contact = s.ue2.contact();
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        assert_eq!(call.leg_b.body.len(), captured::SDP_BYTES);
        no_faults(contract::trying(&call.invite, &call.trying, server))?;
        assert_eq!(
            sip::uri(call.trying.text("Contact")),
            format!("sip:{server};transport=UDP")
        );
        no_faults(contract::leg_b_invite(
            &call.invite,
            &call.leg_b,
            &contact,
            server,
        ))?;
        assert_eq!(
            call.leg_b.transport, Udp,
            "a contact without a transport is reached over UDP"
        );
        assert_eq!(
            call.leg_b.from, server,
            "requests leave from the socket that phones know"
        );
        for (answer, got) in [&call.ringing, &call.accepted] {
            no_faults(contract::passed_response(&call.invite, answer, got, server))?;
            assert_eq!(
                got.conn,
                Some(s.ue1.connection()?),
                "answers come on the caller's connection"
            );
        }
        let (ack, passed) = &call.ack;
        no_faults(contract::passed_request(
            ack,
            passed,
            &call.at_callee(Some(1)),
            server,
        ))?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

fn the_caller_hangs_up(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let server = s.server.udp;
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let bye = call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        no_faults(contract::passed_request(
            &bye.request,
            &bye.passed,
            &call.at_callee(Some(2)),
            server,
        ))?;
        no_faults(contract::passed_response(
            &bye.request,
            &bye.answer,
            &bye.response,
            server,
        ))?;
        assert_eq!(bye.passed.transport, Udp);
        assert_eq!(bye.response.transport, Tcp);
        Ok(())
    });
}

fn the_callee_hangs_up(flags: &[&str]) {
    registered(Setup::new().flags(flags), |s| {
        let server = s.server.udp;
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        let bye = call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        no_faults(contract::passed_request(
            &bye.request,
            &bye.passed,
            &call.at_caller(None),
            server,
        ))?;
        no_faults(contract::passed_response(
            &bye.request,
            &bye.answer,
            &bye.response,
            server,
        ))?;
        Ok(())
    });
}

#[test]
fn the_notify_of_the_capture_has_no_body_if_the_configuration_says_so() {
    registered(Setup::new().key("", "notify_body", "false"), |s| {
        let subscribe = captured::subscribe(&mut s.ue2, Udp);
        let accepted = s.ue2.ask_for(&subscribe, Udp, 200)?;
        let notify = s.ue2.expect("NOTIFY")?;
        no_faults(contract::notify(
            &subscribe,
            &accepted,
            &notify,
            1,
            captured::EXPIRES_S,
            s.server.udp,
        ))?;
        assert_eq!(notify.text("Content-Length"), "0");
        assert!(!notify.has("Content-Type"));
        s.ue2.answers(&notify, 200, "OK")?;
        Ok(())
    });
}

#[test]
fn twenty_calls_one_after_the_other_leave_nothing_behind() {
    registered(Setup::new(), |s| {
        for _ in 0..10 {
            let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
            let mut call = call::place(&mut s.ue2, &mut s.ue1, Udp)?;
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.callee)?;
        }
        Ok(())
    });
}
