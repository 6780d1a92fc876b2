//! Breaches of the rules for what the server answers, and for subscriptions and registrations.

use super::*;

/// Sends the answer to an INVITE once more, so much after the first.
fn repeat_answer(lines: &mut Lines, status: std::ops::Range<u16>, udp: bool, after_ms: u64) -> bool {
    let wanted = |step: &Step| answers(step, "INVITE", status.clone()) && is_udp(step) == udp;
    let Some(index) = (0..lines.0.len()).find(|index| {
        matches!(&lines.0[*index], Line::Step(step) if wanted(step)) && alone_answer(lines, *index)
    }) else {
        return false;
    };
    lines.again(index, index, after_ms);
    true
}

fn alone_answer(lines: &Lines, index: usize) -> bool {
    let step = lines.step(index);
    let own = |other: &&Line| {
        matches!(other, Line::Step(other) if other.what == What::Sent
        && other.packet.status == step.packet.status && same_transaction(step, other))
    };
    lines.0.iter().filter(own).count() == 1
}

pub(super) static BREACHES: &[(&str, Breach)] = &[
    ("invite_has_an_answer_within_200_ms", |l| {
        let Some(trying) = l.find(|s| answers(s, "INVITE", 100..101)) else {
            return false;
        };
        let branch = l.step(trying).packet.branch.clone();
        l.remove(|s| answers(s, "INVITE", 100..700) && s.packet.branch == branch);
        true
    }),
    ("request_has_one_final_response", |l| {
        let Some(index) = l.find(|s| answers(s, "INVITE", 200..503)) else {
            return false;
        };
        let again = l.again(index, index, 5);
        l.edit(again, |m| set_status(m, 486));
        true
    }),
    ("nothing_provisional_after_the_final", |l| {
        let Some((trying, last)) = l.find_both(
            |s| answers(s, "INVITE", 100..200),
            |a, b| answers(b, "INVITE", 200..503) && same_transaction(a, b),
        ) else {
            return false;
        };
        l.again(trying, last, 5);
        true
    }),
    ("failure_is_repeated_at_timer_g", |l| {
        repeat_answer(l, 300..503, true, 300)
    }),
    ("failure_is_not_repeated_once_acknowledged", |l| {
        let Some((failure, ack)) = l.find_both(
            |s| answers(s, "INVITE", 300..503),
            |a, b| gets(b, "ACK") && a.packet.branch == b.packet.branch,
        ) else {
            return false;
        };
        l.again(failure, ack, 1_000);
        true
    }),
    ("failure_is_given_up_at_timer_h", |l| {
        repeat_answer(l, 300..503, true, 33_000)
    }),
    ("failure_is_not_repeated_over_tcp", |l| {
        repeat_answer(l, 300..503, false, 500)
    }),
    ("success_is_repeated_until_its_ack", |l| {
        repeat_answer(l, 200..300, true, 300)
    }),
    ("success_is_not_repeated_once_acknowledged", |l| {
        let Some((success, ack)) = l.find_both(
            |s| answers(s, "INVITE", 200..300),
            |a, b| gets(b, "ACK") && a.packet.call_id == b.packet.call_id && a.packet.cseq == b.packet.cseq,
        ) else {
            return false;
        };
        l.again(success, ack, 1_000);
        true
    }),
    ("success_is_given_up_after_64_t1", |l| {
        repeat_answer(l, 200..300, true, 33_000)
    }),
    ("repeated_request_has_the_last_response_again", |l| {
        let Some((got, said)) = l.find_both(
            |s| gets(s, "REGISTER") && is_udp(s),
            |a, b| answers(b, "REGISTER", 200..300) && same_transaction(a, b),
        ) else {
            return false;
        };
        l.again(got, said, 1_000);
        true
    }),
    ("every_request_is_answered", |l| {
        let Some(index) = l.find(|s| answers(s, "OPTIONS", 200..700)) else {
            return false;
        };
        let branch = l.step(index).packet.branch.clone();
        l.remove(|s| answers(s, "OPTIONS", 100..700) && s.packet.branch == branch);
        true
    }),
    ("cancel_ends_its_invite", |l| {
        let Some((_, last)) = l.find_both(
            |s| gets(s, "CANCEL"),
            |a, b| answers(b, "INVITE", 487..488) && a.packet.branch == b.packet.branch,
        ) else {
            return false;
        };
        let branch = l.step(last).packet.branch.clone();
        l.remove(|s| answers(s, "INVITE", 200..700) && s.packet.branch == branch);
        true
    }),
    ("nothing_provisional_to_other_requests", |l| {
        change(l, |s| answers(s, "BYE", 200..300), |m| set_status(m, 183))
    }),
    ("other_requests_hear_no_100_early", |l| {
        change(l, |s| answers(s, "BYE", 200..300), |m| set_status(m, 100))
    }),
    ("other_requests_hear_that_they_have_arrived", |l| {
        let Some(ok) = l.find(|s| answers(s, "BYE", 200..300)) else {
            return false;
        };
        let branch = l.step(ok).packet.branch.clone();
        l.remove(|s| answers(s, "BYE", 100..700) && s.packet.branch == branch);
        true
    }),
    ("response_was_asked_for", |l| {
        change(
            l,
            |s| answers(s, "BYE", 200..300),
            |m| set_branch(m, "z9hG4bKnobody"),
        )
    }),
    ("response_has_the_requests_headers", |l| {
        change(
            l,
            |s| answers(s, "BYE", 200..300),
            |m| m.set("From", "<sip:x@y>;tag=z"),
        )
    }),
    ("to_has_a_tag", |l| {
        change(l, |s| answers(s, "REGISTER", 200..300), without_tag)
    }),
    ("to_is_kept", |l| {
        change(
            l,
            |s| answers(s, "BYE", 200..300),
            |m| m.set("To", "<sip:x@y>;tag=z"),
        )
    }),
    ("ack_is_never_answered", |l| {
        change(l, |s| answers(s, "BYE", 200..300), |m| m.set("CSeq", "1 ACK"))
    }),
    ("response_goes_back_where_it_came_from", |l| {
        let Some(index) = l.find(|s| answers(s, "REGISTER", 200..300) && is_udp(s)) else {
            return false;
        };
        if let Line::Step(step) = &mut l.0[index] {
            step.peer.set_port(5061);
        }
        true
    }),
    ("rport_is_filled_in", |l| {
        change(
            l,
            |s| {
                s.what == What::Sent
                    && is_udp(s)
                    && s.packet.status.is_some()
                    && s.packet.message.text("Via").contains("rport=")
            },
            |m| set_param(m, "Via", "rport=5060", "rport=1"),
        )
    }),
    ("record_route_is_returned", |l| {
        change(
            l,
            |s| answers(s, "INVITE", 200..300) && s.packet.message.has("Record-Route"),
            |m| m.remove("Record-Route"),
        )
    }),
    ("success_says_the_contact", |l| {
        change(l, |s| answers(s, "INVITE", 200..300), |m| m.remove("Contact"))
    }),
    ("refusal_says_what_would_do", |l| {
        change(l, |s| answers(s, "INVITE", 404..405), |m| set_status(m, 405))
    }),
    ("subscription_has_a_notify_at_once", |l| {
        let Some(index) = l.find(|s| answers(s, "SUBSCRIBE", 200..300)) else {
            return false;
        };
        let call_id = l.step(index).packet.call_id.clone();
        l.remove(|s| sends(s, "NOTIFY") && s.packet.call_id == call_id);
        true
    }),
    ("notify_comes_after_the_success", |l| {
        let Some((success, notify)) = l.find_both(
            |s| answers(s, "SUBSCRIBE", 200..300),
            |a, b| sends(b, "NOTIFY") && a.packet.call_id == b.packet.call_id,
        ) else {
            return false;
        };
        l.0.swap(success, notify);
        true
    }),
    ("notify_says_the_state", |l| {
        change(l, |s| sends(s, "NOTIFY"), |m| m.remove("Subscription-State"))
    }),
    ("notify_says_the_event", |l| {
        change(l, |s| sends(s, "NOTIFY"), |m| m.set("Event", "presence"))
    }),
    ("notify_is_in_the_dialog_of_its_subscription", |l| {
        change(l, |s| sends(s, "NOTIFY"), |m| m.set("Call-ID", "other"))
    }),
    ("subscription_has_an_expiry", |l| {
        change(l, |s| answers(s, "SUBSCRIBE", 200..300), |m| m.remove("Expires"))
    }),
    ("notify_has_no_more_time_than_was_granted", |l| {
        change(
            l,
            |s| sends(s, "NOTIFY"),
            |m| m.set("Subscription-State", "active;expires=999999"),
        )
    }),
    ("nothing_is_notified_after_the_end", |l| {
        let Some(end) = l.find(|s| {
            sends(s, "NOTIFY")
                && s.packet
                    .message
                    .text("Subscription-State")
                    .starts_with("terminated")
        }) else {
            return false;
        };
        let again = l.again(end, end, 100);
        l.edit(again, |m| {
            m.set("CSeq", "99 NOTIFY");
            set_branch(m, "z9hG4bKlate");
        });
        true
    }),
    ("registration_lists_its_contacts", |l| {
        change(
            l,
            |s| answers(s, "REGISTER", 200..300) && s.packet.message.has("Contact"),
            |m| set_param(m, "Contact", "expires", "q"),
        )
    }),
];
