//! Every rule is broken once: a trace that obeys them all is changed in one place, and the rule must say so.

use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::{Message, Start};

use super::super::exchange::Service;
use super::super::packet::Packet;
use super::super::plan::{Mix, Weather};
use super::super::run;
use super::super::trace::{Line, Step, Trace, What};
use super::*;

/// Seeds whose traces hold, between them, all that the breaches below need: losses, both transports, subscriptions.
const SEEDS: std::ops::Range<u64> = 1..40;

/// Changes a trace. `false`: it has not what the breach needs.
pub(super) type Breach = fn(&mut Lines) -> bool;

pub(super) struct Lines(pub(super) Vec<Line>);

impl Lines {
    pub(super) fn step(&self, index: usize) -> &Step {
        match &self.0[index] {
            Line::Step(step) => step,
            Line::Note(..) | Line::Crash(_) => panic!("line {index} is no step"),
        }
    }

    pub(super) fn find(&self, wanted: impl Fn(&Step) -> bool) -> Option<usize> {
        self.0
            .iter()
            .position(|line| matches!(line, Line::Step(step) if wanted(step)))
    }

    /// The first such step that another one follows.
    pub(super) fn find_both(
        &self,
        first: impl Fn(&Step) -> bool,
        then: impl Fn(&Step, &Step) -> bool,
    ) -> Option<(usize, usize)> {
        (0..self.0.len()).find_map(|index| {
            let Line::Step(step) = &self.0[index] else {
                return None;
            };
            if !first(step) {
                return None;
            }
            let rest = self.0[index + 1..]
                .iter()
                .position(|line| matches!(line, Line::Step(other) if then(step, other)))?;
            Some((index, index + 1 + rest))
        })
    }

    pub(super) fn edit(&mut self, index: usize, change: impl FnOnce(&mut Message)) {
        if let Line::Step(step) = &mut self.0[index] {
            let mut message = step.packet.message.clone();
            change(&mut message);
            step.packet = Rc::new(Packet::new(message));
        }
    }

    /// The same step once more, so much after another one; its new place is returned.
    pub(super) fn again(&mut self, index: usize, behind: usize, after_ms: u64) -> usize {
        let mut step = self.step(index).clone();
        step.at = self.step(behind).at + Duration::from_millis(after_ms);
        let place = self
            .0
            .iter()
            .position(|line| line.at() > step.at)
            .unwrap_or(self.0.len());
        self.0.insert(place, Line::Step(step));
        place
    }

    pub(super) fn remove(&mut self, unwanted: impl Fn(&Step) -> bool) {
        self.0
            .retain(|line| !matches!(line, Line::Step(step) if unwanted(step)));
    }
}

pub(super) fn is_udp(step: &Step) -> bool {
    step.transport == Transport::Udp
}

pub(super) fn sends(step: &Step, method: &str) -> bool {
    step.what == What::Sent && step.packet.is_request(method)
}

pub(super) fn gets(step: &Step, method: &str) -> bool {
    step.what == What::Received && step.packet.is_request(method)
}

pub(super) fn answers(step: &Step, method: &str, status: std::ops::Range<u16>) -> bool {
    step.what == What::Sent
        && step.packet.method == method
        && step.packet.status.is_some_and(|own| status.contains(&own))
}

pub(super) fn hears(step: &Step, method: &str, status: std::ops::Range<u16>) -> bool {
    step.what == What::Received
        && step.packet.method == method
        && step.packet.status.is_some_and(|own| status.contains(&own))
}

pub(super) fn same_transaction(a: &Step, b: &Step) -> bool {
    a.packet.branch == b.packet.branch && a.packet.method == b.packet.method
}

pub(super) fn alone(lines: &Lines, index: usize) -> bool {
    let step = lines.step(index);
    let own = |other: &&Line| {
        matches!(other, Line::Step(other) if other.what == step.what
        && other.packet.request() == step.packet.request() && same_transaction(step, other))
    };
    lines.0.iter().filter(own).count() == 1
}

/// A request that left once, over that transport.
pub(super) fn lone(lines: &Lines, method: &'static str, udp: bool) -> Option<usize> {
    (0..lines.0.len()).find(|index| {
        matches!(&lines.0[*index], Line::Step(step) if sends(step, method) && is_udp(step) == udp)
            && alone(lines, *index)
    })
}

pub(super) fn change(
    lines: &mut Lines,
    wanted: impl Fn(&Step) -> bool,
    edit: impl FnOnce(&mut Message),
) -> bool {
    let Some(index) = lines.find(wanted) else {
        return false;
    };
    lines.edit(index, edit);
    true
}

fn repeat(lines: &mut Lines, method: &'static str, udp: bool, after_ms: u64) -> bool {
    let Some(index) = lone(lines, method, udp) else {
        return false;
    };
    lines.again(index, index, after_ms);
    true
}

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

pub(super) fn set_param(message: &mut Message, header: &str, from: &str, to: &str) {
    let value = message.text(header).replace(from, to);
    message.set(header, value);
}

pub(super) fn set_branch(message: &mut Message, branch: &str) {
    let own = message.branch().to_owned();
    set_param(message, "Via", &own, branch);
}

pub(super) fn without_tag(message: &mut Message) {
    let to = message
        .text("To")
        .split(";tag=")
        .next()
        .unwrap_or_default()
        .to_owned();
    message.set("To", to);
}

pub(super) fn set_status(message: &mut Message, to: u16) {
    if let Start::Response { status, .. } = &mut message.start {
        *status = to;
    }
}

static BREACHES: &[(&str, Breach)] = &[
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

#[test]
fn each_rule_can_be_broken() {
    break_each(BREACHES, Service::Phones, SEEDS);
}

/// Breaks each rule in the first trace that has what it takes.
pub(super) fn break_each(breaches: &[(&str, Breach)], service: Service, seeds: std::ops::Range<u64>) {
    let mix = Mix {
        calls: 25,
        polite: true,
        service: Some(service),
        ..Mix::default()
    };
    let mut unseen = Vec::new();
    let mut open: Vec<&(&str, Breach)> = breaches.iter().collect();
    for seed in seeds {
        if open.is_empty() {
            break;
        }
        if !Weather::of(seed, &mix).is_fair() {
            continue;
        }
        let outcome = run(seed, &mix);
        let terms = Terms {
            is_whole: true,
            exchange: outcome.exchange,
        };
        assert!(
            audit(&outcome.trace, terms).is_empty(),
            "seed {seed} obeys every rule"
        );
        open.retain(|(name, breach)| {
            let mut lines = Lines(outcome.trace.lines.clone());
            if !breach(&mut lines) {
                return true;
            }
            let found = audit(&Trace { lines: lines.0 }, terms);
            if !found.iter().any(|finding| finding.text.starts_with(name)) {
                unseen.push((*name, seed, found.len()));
            }
            false
        });
    }
    assert!(unseen.is_empty(), "broken and not seen: {unseen:?}");
    let left: Vec<&str> = open.iter().map(|(name, _)| *name).collect();
    assert!(left.is_empty(), "no trace has what it takes to break {left:?}");
}

#[test]
fn no_rule_is_without_a_breach() {
    let breaches = || BREACHES.iter().chain(super::tests_proxy::BREACHES);
    for rule in RULES {
        assert!(
            breaches().any(|(name, _)| *name == rule.name),
            "nothing breaks {}",
            rule.name
        );
    }
    assert_eq!(RULES.len(), breaches().count());
}
