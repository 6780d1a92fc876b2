//! Requests that name the dialog of another call: Replaces (RFC 3891), Join (RFC 3911), Target-Dialog (RFC 4538). Whoever names a
//! dialog knows it from one side of the call; the phone that it is about must be told by the names of its own side.

use bench_harness::call::{self, Call, invite_reply};
use bench_harness::dialog::Dialog;
use bench_harness::failure::Outcome;
use bench_harness::links::Transport::{self, Tcp, Udp};
use bench_harness::phone::Phone;
use bench_harness::{captured, sip};

use crate::support::{Scene, Setup, nothing_more, on_every_server, refused, register, registered};

on_every_server![
    a_transferred_call_takes_the_place_of_the_callees,
    the_callers_phone_is_found_by_the_dialog_alone,
    a_call_that_nobody_has_is_not_replaced,
    a_target_dialog_is_named_as_its_phone_knows_it,
];

const THIRD: &str = "13800011105";

/// UE1 in a call with UE2, and UE3 beside them.
fn beside_a_call(flags: &[&str], story: impl FnOnce(&mut Scene, &mut Phone, &mut Call) -> Outcome) {
    registered(Setup::new().flags(flags), |s| {
        let mut ue3 = s.phone("UE3", THIRD)?;
        register(&mut ue3, Tcp)?;
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        story(s, &mut ue3, &mut call)?;
        nothing_more(&mut s.ue1)?;
        nothing_more(&mut s.ue2)?;
        nothing_more(&mut ue3)
    });
}

fn tag(value: &str) -> &str {
    sip::param(value, "tag").expect("a tag")
}

/// The dialog as the other side of `seen` is asked to understand it: Call-ID, its own tag, the tag of whoever tells.
fn names(seen: &Dialog) -> (&str, &str, &str) {
    (&seen.call_id, tag(&seen.remote), tag(&seen.local))
}

/// The dialog as the phone that has it knows it.
fn own_names(own: &Dialog) -> (&str, &str, &str) {
    (&own.call_id, tag(&own.local), tag(&own.remote))
}

fn replaces((call_id, to, from): (&str, &str, &str)) -> String {
    format!("{call_id};to-tag={to};from-tag={from};early-only;x=\"a;from-tag=b\"")
}

/// UE3 takes the place of one phone in the call of `invite`, which reached `phone`.
fn takes_over(
    ue3: &mut Phone,
    phone: &mut Phone,
    invite: &sip::Message,
    header: &str,
    value: &str,
) -> Outcome<Dialog> {
    let got = phone.expect("INVITE")?;
    assert_eq!(got.get_all(header), [value]);
    let accepted = invite_reply(phone, &got, 200, "OK");
    phone.respond(&got, &accepted)?;
    let ok = ue3.response(invite, 200)?;
    let dialog = Dialog::of_caller(invite, &ok, Tcp);
    let ack = ue3.ack_in(&dialog, invite);
    ue3.send(&ack, Tcp)?;
    phone.expect("ACK")?;
    Ok(dialog)
}

fn a_transferred_call_takes_the_place_of_the_callees(flags: &[&str]) {
    beside_a_call(flags, |s, ue3, call| {
        // RFC 3891 §1: UE1 told UE3 to replace its call with UE2.
        let invite =
            captured::invite(ue3, captured::CALLEE, Tcp).with("Replaces", replaces(names(&call.caller)));
        ue3.send(&invite, Tcp)?;
        let expected = replaces(own_names(&call.callee));
        let mut taken = takes_over(ue3, &mut s.ue2, &invite, "Replaces", &expected)?;
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        call::hang_up(ue3, &mut s.ue2, &mut taken)?;
        Ok(())
    });
}

fn the_callers_phone_is_found_by_the_dialog_alone(flags: &[&str]) {
    beside_a_call(flags, |s, ue3, call| {
        // What UE2 knows of UE1 is a Contact of ours, which names nobody.
        let invite = captured::invite(ue3, captured::CALLEE, Tcp).with("Join", replaces(names(&call.callee)));
        let invite = sip::Message {
            start: sip::Message::request("INVITE", &call.callee.target).start,
            ..invite
        };
        ue3.send(&invite, Tcp)?;
        let expected = replaces(own_names(&call.caller));
        let mut joined = takes_over(ue3, &mut s.ue1, &invite, "Join", &expected)?;
        call::hang_up(ue3, &mut s.ue1, &mut joined)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

fn a_call_that_nobody_has_is_not_replaced(flags: &[&str]) {
    beside_a_call(flags, |s, ue3, call| {
        let (call_id, to, from) = names(&call.caller);
        let (leg, leg_to, leg_from) = names(&call.callee);
        for unknown in [
            ("nobody@nowhere", to, from),
            (call_id, "other", from),
            (call_id, to, "other"),
            // Each tag is right, but on the other side.
            (call_id, from, to),
            (leg, leg_from, leg_to),
            (leg, leg_to, "other"),
        ] {
            let invite = captured::invite(ue3, captured::CALLEE, Tcp).with("Replaces", replaces(unknown));
            ue3.send(&invite, Tcp)?;
            refused(ue3, &invite, 481, Tcp)?;
        }
        for (header, bad) in [
            ("Replaces", format!("{call_id};to-tag={to}")),
            (
                "Replaces",
                format!("{call_id};to-tag={to};from-tag={from};to-tag={to}"),
            ),
            ("Join", call_id.to_owned()),
        ] {
            let invite = captured::invite(ue3, captured::CALLEE, Tcp).with(header, bad);
            ue3.send(&invite, Tcp)?;
            let answer = refused(ue3, &invite, 400, Tcp)?;
            assert_eq!(answer.reason(), Some(&*format!("Bad {header}")));
        }
        // RFC 3891 §3: one, and in an INVITE.
        let named = replaces((call_id, to, from));
        let twice = captured::invite(ue3, captured::CALLEE, Tcp)
            .with("Replaces", named.clone())
            .with("Join", named.clone());
        ue3.send(&twice, Tcp)?;
        refused(ue3, &twice, 400, Tcp)?;
        let message = page(ue3, Udp).with("Replaces", named);
        ue3.ask_for(&message, Udp, 400)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}

fn page(phone: &mut Phone, transport: Transport) -> sip::Message {
    let uri = format!("sip:{}@{}", captured::CALLEE, captured::DOMAIN);
    phone
        .request("MESSAGE", &uri, transport)
        .with_body("text/plain", "x")
}

fn a_target_dialog_is_named_as_its_phone_knows_it(flags: &[&str]) {
    beside_a_call(flags, |s, ue3, call| {
        let target_dialog = |(call_id, local, remote): (&str, &str, &str)| {
            format!("{call_id};local-tag={local};remote-tag={remote}")
        };
        let known = target_dialog(names(&call.caller));
        let at_ue2 = target_dialog(own_names(&call.callee));
        // RFC 4538 §4: what matches nothing is ignored, and goes where it would have gone without.
        let unknown = target_dialog(("nobody@nowhere", "a", "b"));
        for (said, heard) in [(&known, &at_ue2), (&unknown, &unknown)] {
            let message = page(ue3, Udp)
                .with("Require", "tdialog")
                .with("Target-Dialog", said.clone());
            ue3.send(&message, Udp)?;
            let got = s.ue2.expect("MESSAGE")?;
            assert_eq!(got.get_all("Target-Dialog"), [heard]);
            s.ue2.answers(&got, 200, "OK")?;
            ue3.response(&message, 200)?;
        }
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        Ok(())
    });
}
