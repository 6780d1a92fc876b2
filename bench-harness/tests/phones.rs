//! Two phones that talk to each other without anything in between: what tests ringway must itself be right.

use std::net::{IpAddr, SocketAddr};

use bench_harness::call;
use bench_harness::captured;
use bench_harness::demo::{DemoOptions, demo};
use bench_harness::failure::Outcome;
use bench_harness::ladder::{Ladder, Trace};
use bench_harness::links::Transport;
use bench_harness::phone::{Account, Phone};

/// UE1 takes UE2 for its server.
fn pair(ip: &str, trace: &Trace) -> Outcome<(Phone, Phone)> {
    let ip: IpAddr = ip.parse().map_err(|_| std::io::Error::other("an address"))?;
    let nobody = SocketAddr::new(ip, 9);
    let ue2 = Account::new("UE2", captured::CALLEE, captured::DOMAIN, ip, nobody, 2);
    let ue2 = Phone::start(ue2, Some((trace.clone(), 1)))?;
    let ue1 = Account::new("UE1", captured::CALLER, captured::DOMAIN, ip, ue2.addr(), 1);
    Ok((Phone::start(ue1, Some((trace.clone(), 0)))?, ue2))
}

#[test]
fn two_phones_call_each_other_over_either_transport_and_address_family() -> Outcome {
    for ip in ["127.0.0.2", "::1"] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let trace = Trace::default();
            let (mut ue1, mut ue2) = pair(ip, &trace)?;
            let mut call = call::place(&mut ue1, &mut ue2, transport)?;
            assert_eq!(call.leg_b.message, call.invite);
            assert_eq!(call.leg_b.transport, transport);
            assert_eq!(call.leg_b.from.ip(), ue1.addr().ip());
            assert_eq!(call.ack.1.transport, Transport::Udp);
            call::hang_up(&mut ue1, &mut ue2, &mut call.caller)?;
            assert!(ue1.leftovers().is_empty() && ue2.leftovers().is_empty());
            let ladder = Ladder::new(&["UE1", "UE2"], true).draw(&trace);
            // Seven messages, each seen leaving and arriving.
            assert_eq!(ladder.lines().count(), 1 + 14, "{ladder}");
        }
    }
    Ok(())
}

#[test]
fn a_retransmitted_request_is_answered_again_and_a_retransmitted_200_acknowledged_again() -> Outcome {
    let (mut ue1, mut ue2) = pair("127.0.0.1", &Trace::default())?;
    let call = call::place(&mut ue1, &mut ue2, Transport::Udp)?;
    ue1.send(&call.invite, Transport::Udp)?;
    ue2.wait_duplicates("INVITE", 1)?;
    ue1.wait_duplicates("200 OK (INVITE)", 1)?;
    ue2.wait_duplicates("ACK", 1)?;
    assert!(ue1.leftovers().is_empty() && ue2.leftovers().is_empty());
    Ok(())
}

#[test]
fn what_is_not_answered_is_repeated_if_the_phone_is_told_to() -> Outcome {
    let (mut ue1, mut ue2) = pair("127.0.0.1", &Trace::default())?;
    ue1.retransmit = Some(std::time::Duration::from_millis(5));
    ue1.patience = std::time::Duration::from_millis(50);
    let options = ue1.request("OPTIONS", "sip:x", Transport::Udp);
    ue1.send(&options, Transport::Udp)?;
    assert!(ue1.response(&options, 200).is_err());
    ue2.wait_duplicates("OPTIONS", 2)
}

#[test]
fn a_failure_says_what_came_instead() -> Outcome {
    let (mut ue1, mut ue2) = pair("127.0.0.1", &Trace::default())?;
    let options = ue1.request("OPTIONS", "sip:x", Transport::Udp);
    ue1.send(&options, Transport::Udp)?;
    let got = ue2.expect("OPTIONS")?;
    ue2.answers(&got, 486, "Busy Here")?;
    let failure = ue1.response(&options, 200).unwrap_err().to_string();
    assert!(
        failure.contains("expected 200 to OPTIONS") && failure.contains("486 Busy Here"),
        "{failure}"
    );
    Ok(())
}

#[test]
fn a_connection_that_is_broken_off_is_seen_by_the_other_side() -> Outcome {
    let (mut ue1, mut ue2) = pair("127.0.0.1", &Trace::default())?;
    let options = ue1.request("OPTIONS", "sip:x", Transport::Tcp);
    ue1.send_pieces(&[b"\r\n\r\n", &options.to_bytes()])?;
    let got = ue2.expect("OPTIONS")?;
    ue2.wait_crlfs(2)?;
    ue1.reset_connection();
    ue2.wait_closed(got.conn.expect("it came over TCP"))?;
    let again = ue1.request("OPTIONS", "sip:x", Transport::Tcp);
    ue1.send(&again, Transport::Tcp)?;
    assert_ne!(ue2.expect("OPTIONS")?.conn, got.conn);
    Ok(())
}

#[test]
fn the_demo_says_what_was_wrong_where_nobody_serves() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .unwrap();
    let options = DemoOptions {
        calls: 1,
        plain: true,
    };
    let mut shown = Vec::new();
    let failure = demo(closed, options, &mut shown).unwrap_err();
    assert_eq!((failure.calls_done, failure.calls_failed), (0, 1));
    assert!(failure.to_string().contains("refused"), "{failure}");
    assert!(
        String::from_utf8(shown).unwrap().contains("ringway"),
        "the ladder was begun"
    );
}
