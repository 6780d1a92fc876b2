//! Breaches of the rules for what the server asks, and for each request of its.

use super::*;

fn repeat(lines: &mut Lines, method: &'static str, udp: bool, after_ms: u64) -> bool {
    let Some(index) = lone(lines, method, udp) else {
        return false;
    };
    lines.again(index, index, after_ms);
    true
}

pub(super) static BREACHES: &[(&str, Breach)] = &[
    ("invite_is_repeated_at_timer_a", |l| {
        repeat(l, "INVITE", true, 700)
    }),
    ("invite_is_not_repeated_once_answered", |l| {
        let Some((sent, answer)) = l.find_both(
            |s| sends(s, "INVITE"),
            |a, b| hears(b, "INVITE", 100..700) && same_transaction(a, b),
        ) else {
            return false;
        };
        l.again(sent, answer, 1_000);
        true
    }),
    ("invite_is_given_up_at_timer_b", |l| {
        repeat(l, "INVITE", true, 33_000)
    }),
    ("request_is_repeated_at_timer_e", |l| repeat(l, "BYE", true, 700)),
    ("request_is_not_repeated_once_answered", |l| {
        let Some((sent, answer)) = l.find_both(
            |s| sends(s, "BYE"),
            |a, b| hears(b, "BYE", 200..700) && same_transaction(a, b),
        ) else {
            return false;
        };
        l.again(sent, answer, 1_000);
        true
    }),
    ("request_is_given_up_at_timer_f", |l| {
        repeat(l, "BYE", true, 33_000)
    }),
    ("request_is_not_repeated_over_tcp", |l| {
        repeat(l, "INVITE", false, 500)
    }),
    ("repetition_is_the_same_request", |l| {
        let Some(index) = lone(l, "BYE", true) else {
            return false;
        };
        let again = l.again(index, index, 500);
        l.edit(again, |m| m.set("Max-Forwards", 3));
        true
    }),
    ("failure_is_acknowledged_each_time", |l| {
        let Some((failure, ack)) = l.find_both(
            |s| hears(s, "INVITE", 300..700),
            |a, b| sends(b, "ACK") && a.packet.branch == b.packet.branch,
        ) else {
            return false;
        };
        let branch = l.step(ack).packet.branch.clone();
        let _ = failure;
        l.remove(|s| sends(s, "ACK") && s.packet.branch == branch);
        true
    }),
    ("ack_of_failure_is_made_from_its_invite", |l| {
        let Some((_, ack)) = l.find_both(
            |s| hears(s, "INVITE", 300..700),
            |a, b| sends(b, "ACK") && a.packet.branch == b.packet.branch,
        ) else {
            return false;
        };
        l.edit(ack, |m| m.set("To", "<sip:x@y>;tag=other"));
        true
    }),
    ("ack_of_success_has_a_branch_of_its_own", |l| {
        let Some((success, ack)) = l.find_both(
            |s| hears(s, "INVITE", 200..300),
            |a, b| sends(b, "ACK") && a.packet.call_id == b.packet.call_id,
        ) else {
            return false;
        };
        let branch = l.step(success).packet.branch.clone();
        l.edit(ack, |m| set_branch(m, &branch));
        true
    }),
    ("success_is_acknowledged_each_time", |l| {
        let both = l.find_both(
            |s| hears(s, "INVITE", 200..300),
            |a, b| {
                sends(b, "ACK")
                    && a.packet.call_id == b.packet.call_id
                    && a.packet.cseq == b.packet.cseq
                    && b.at.since(a.at) < Duration::from_millis(200)
            },
        );
        let Some((success, ack)) = both else { return false };
        let call_id = l.step(ack).packet.call_id.clone();
        l.again(success, ack, 300);
        l.remove(|s| s.packet.call_id == call_id && s.packet.method == "BYE");
        true
    }),
    ("cancel_comes_after_a_provisional", |l| {
        let Some(cancel) = l.find(|s| sends(s, "CANCEL")) else {
            return false;
        };
        let branch = l.step(cancel).packet.branch.clone();
        l.remove(|s| hears(s, "INVITE", 100..200) && s.packet.branch == branch);
        true
    }),
    ("cancel_comes_before_the_final", |l| {
        let Some((cancel, last)) = l.find_both(
            |s| sends(s, "CANCEL"),
            |a, b| hears(b, "INVITE", 200..700) && a.packet.branch == b.packet.branch,
        ) else {
            return false;
        };
        let branch = l.step(cancel).packet.branch.clone();
        let late = l.again(cancel, last, 1_000);
        let Line::Step(step) = l.0[late].clone() else {
            return false;
        };
        l.remove(|s| sends(s, "CANCEL") && s.packet.branch == branch);
        let place =
            l.0.iter()
                .position(|line| line.at() > step.at)
                .unwrap_or(l.0.len());
        l.0.insert(place, Line::Step(step));
        true
    }),
    ("cancel_is_made_from_its_invite", |l| {
        change(l, |s| sends(s, "CANCEL"), |m| m.set("From", "<sip:x@y>;tag=z"))
    }),
    ("branch_names_one_request", |l| {
        let Some(invite) = l.find(|s| sends(s, "INVITE")) else {
            return false;
        };
        let branch = l.step(invite).packet.branch.clone();
        change(l, |s| sends(s, "BYE"), |m| set_branch(m, &branch))
    }),
    ("request_has_what_it_must", |l| {
        change(l, |s| sends(s, "BYE"), |m| m.remove("Max-Forwards"))
    }),
    ("branch_begins_with_the_cookie", |l| {
        change(l, |s| sends(s, "BYE"), |m| set_branch(m, "1"))
    }),
    ("cseq_says_the_method", |l| {
        change(l, |s| sends(s, "BYE"), |m| m.set("CSeq", "7 INFO"))
    }),
    ("max_forwards_is_at_most_70", |l| {
        change(l, |s| sends(s, "INVITE"), |m| m.set("Max-Forwards", 71))
    }),
    ("via_says_where_and_how", |l| {
        change(
            l,
            |s| sends(s, "INVITE") && is_udp(s),
            |m| set_param(m, "Via", "UDP", "TCP"),
        )
    }),
    ("invite_has_one_contact", |l| {
        change(l, |s| sends(s, "INVITE"), |m| m.remove("Contact"))
    }),
    ("first_invite_has_no_to_tag", |l| {
        change(
            l,
            |s| sends(s, "INVITE") && s.packet.to_tag.is_empty(),
            |m| {
                let to = format!("{};tag=x", m.text("To"));
                m.set("To", to);
            },
        )
    }),
    ("cseq_rises_within_a_dialog", |l| {
        let Some((_, later)) = l.find_both(
            |s| sends(s, "INFO") || sends(s, "UPDATE"),
            |a, b| {
                sends(b, "BYE")
                    && a.packet.call_id == b.packet.call_id
                    && a.packet.from_tag == b.packet.from_tag
            },
        ) else {
            return false;
        };
        l.edit(later, |m| m.set("CSeq", "1 BYE"));
        true
    }),
    ("ack_has_the_number_of_an_invite", |l| {
        change(l, |s| sends(s, "ACK"), |m| m.set("CSeq", "999 ACK"))
    }),
    ("stream_says_the_length", |l| {
        change(
            l,
            |s| s.what == What::Sent && !is_udp(s),
            |m| m.remove("Content-Length"),
        )
    }),
    ("these_have_no_body", |l| {
        change(l, |s| sends(s, "CANCEL"), |m| m.body = b"x".to_vec())
    }),
    ("bye_ends_a_dialog", |l| {
        change(l, |s| sends(s, "BYE"), without_tag)
    }),
];
