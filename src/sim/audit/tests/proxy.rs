//! The same for the rules of a proxy.

use std::time::Duration;

use bench_harness::sip::{Header, Message, Start};

use super::*;
use crate::sim::exchange::{Dialled, Service};
use crate::sim::packet::ID_HEADER;
use crate::sim::trace::{Line, Step, What};

/// Seeds whose traces hold, between them, all that the breaches below need.
const SEEDS: std::ops::Range<u64> = 1..90;

/// A request that was forwarded: there is a Via below ours.
fn passes(step: &Step, method: &str) -> bool {
    sends(step, method) && step.packet.message.elements("Via").len() > 1
}

fn dialled(step: &Step) -> Option<Dialled> {
    Dialled::uri(step.packet.message.uri()?)
}

/// It came, with that as its only way on, for a rule that forwards with state.
fn comes(step: &Step, method: &str) -> bool {
    let is_forwarded = matches!(
        dialled(step),
        Some(Dialled::Subscriber | Dialled::Trunk | Dialled::Several | Dialled::Spiral)
    );
    gets(step, method) && step.packet.to_tag.is_empty() && is_forwarded
}

/// Whether `sent` is what was made of `came`.
fn is_child(came: &Step, sent: &Step) -> bool {
    let vias = sent.packet.message.elements("Via");
    sent.what == What::Sent
        && sent.packet.request() == came.packet.request()
        && vias.get(1).is_some_and(|via| via.contains(&came.packet.branch))
}

/// Changes the first request that came so and its every forwarding is left as it is.
fn change_came(lines: &mut Lines, wanted: impl Fn(&Step) -> bool, edit: impl Fn(&mut Message)) -> bool {
    let Some((came, _)) = lines.find_both(|step| comes(step, "INVITE") && wanted(step), is_child) else {
        return false;
    };
    let branch = lines.step(came).packet.branch.clone();
    for index in 0..lines.0.len() {
        let is_it = matches!(&lines.0[index], Line::Step(step) if gets(step, "INVITE") && step.packet.branch == branch);
        if is_it {
            lines.edit(index, &edit);
        }
    }
    true
}

/// A response that came on a branch and what went back of it.
fn returned(lines: &Lines, method: &str, status: std::ops::Range<u16>) -> Option<(usize, usize)> {
    returned_where(lines, method, status, |_| true)
}

fn returned_where(
    lines: &Lines,
    method: &str,
    status: std::ops::Range<u16>,
    wanted: impl Fn(&Step) -> bool,
) -> Option<(usize, usize)> {
    // What goes on without state is of other rules.
    let is_stateless = |step: &Step| step.packet.message.text("To").contains(":4");
    lines.find_both(
        |step| {
            hears(step, method, status.clone())
                && step.packet.id.is_some()
                && !is_stateless(step)
                && wanted(step)
        },
        |came, back| answers(back, method, 100..700) && back.packet.id == came.packet.id,
    )
}

/// Whether the call is over on either side, or being cancelled, so soon after that nobody need hear any more of how it rings.
fn ends_at_once(lines: &Lines, came: &Step) -> bool {
    let ends = |step: &Step| {
        let ends_it = step.packet.method == "INVITE" && step.packet.is_final();
        (ends_it || sends(step, "CANCEL")) && step.packet.call_id == came.packet.call_id
    };
    let soon = came.at..=came.at + Duration::from_millis(40);
    lines
        .0
        .iter()
        .any(|line| soon.contains(&line.at()) && matches!(line, Line::Step(step) if ends(step)))
}

/// Takes away what went back, as often as it did.
fn keep_back(lines: &mut Lines, method: &'static str, status: std::ops::Range<u16>) -> bool {
    let Some((_, back)) = returned(lines, method, status) else {
        return false;
    };
    take_away(lines, back)
}

fn take_away(lines: &mut Lines, back: usize) -> bool {
    let id = lines.step(back).packet.id;
    lines.remove(|step| step.what == What::Sent && step.packet.id == id && step.packet.status.is_some());
    true
}

/// The answer of a branch becomes another.
fn change_final(lines: &mut Lines, from: std::ops::Range<u16>, to: u16) -> bool {
    let Some((came, _)) = returned(lines, "INVITE", from) else {
        return false;
    };
    let branch = lines.step(came).packet.branch.clone();
    for index in 0..lines.0.len() {
        let is_it = matches!(&lines.0[index], Line::Step(step)
            if step.what == What::Received && step.packet.branch == branch && step.packet.is_failure()
                && step.packet.method == "INVITE");
        if is_it {
            lines.edit(index, |m| set_status(m, to));
        }
    }
    true
}

/// No CANCEL leaves under the branches of what was forwarded for one that the caller cancelled, or that ended otherwise.
fn never_cancel(lines: &mut Lines, is_callers: bool) -> bool {
    let Some((_, cancel)) = lines.find_both(
        |step| {
            if is_callers {
                gets(step, "CANCEL")
            } else {
                hears(step, "INVITE", 200..300)
            }
        },
        |end, step| {
            sends(step, "CANCEL")
                && step.packet.call_id == end.packet.call_id
                && step.at.since(end.at) < Duration::from_millis(5)
        },
    ) else {
        return false;
    };
    let branch = lines.step(cancel).packet.branch.clone();
    lines.remove(|step| {
        step.packet.branch == branch && (step.packet.method == "CANCEL" || step.packet.is_failure())
    });
    true
}

/// Another branch for a request that was forwarded, so much after `behind`.
fn add_branch(lines: &mut Lines, sent: usize, behind: usize, after_ms: u64, uri: Option<&str>) {
    let place = lines.again(sent, behind, after_ms);
    let uri = uri.map(str::to_owned);
    lines.edit(place, |message| {
        set_branch(message, "z9hG4bKanother");
        if let (Some(uri), Start::Request { uri: own, .. }) = (uri, &mut message.start) {
            *own = uri;
        }
    });
}

/// Puts a Via of ours above one of that branch, in the place of all there are.
fn under(message: &mut Message, own: &str, branch: &str) {
    message.headers.retain(|header| !header.is("Via"));
    let below = format!("SIP/2.0/UDP 9.9.9.9;branch={branch}");
    message.headers.insert(0, Header::new("Via", below));
    let via = format!("SIP/2.0/UDP 10.0.0.1:5060;branch={own}");
    message.headers.insert(0, Header::new("Via", via));
}

pub(super) static BREACHES: &[(&str, Breach)] = &[
    ("max_forwards_goes_down_by_one", |l| {
        change(l, |s| passes(s, "INVITE"), |m| m.set("Max-Forwards", 1))
    }),
    ("a_request_without_hops_left_goes_nowhere", |l| {
        change_came(l, |_| true, |m| m.set("Max-Forwards", 0))
    }),
    ("vias_stay_below_ours", |l| {
        let Some((_, sent)) = l.find_both(|s| comes(s, "INVITE"), is_child) else {
            return false;
        };
        l.edit(sent, |m| {
            if let Some(last) = m.headers.iter().rposition(|header| header.is("Via")) {
                let value = m.headers[last].value().replace("10.0.1.", "10.9.9.");
                m.headers[last] = Header::new("Via", value);
            }
        });
        true
    }),
    ("own_routes_are_taken_off", |l| {
        change(
            l,
            |s| passes(s, "BYE"),
            |m| m.insert("Route", "<sip:10.0.0.1:5060;lr>"),
        )
    }),
    ("own_record_route_comes_first", |l| {
        change(
            l,
            |s| passes(s, "INVITE") && s.packet.message.has("Record-Route"),
            |m| m.insert("Record-Route", "<sip:10.0.0.1:5060;lr>"),
        )
    }),
    ("everything_else_is_passed_as_it_came", |l| {
        change(l, |s| passes(s, "INVITE"), |m| m.insert("X-More", "1"))
    }),
    ("request_uri_of_a_dialog_is_kept", |l| {
        change(
            l,
            |s| passes(s, "BYE"),
            |m| {
                if let Start::Request { uri, .. } = &mut m.start {
                    *uri = "sip:somebody@else".to_owned();
                }
            },
        )
    }),
    ("a_loop_goes_no_further", |l| {
        // What came back from a loop and was refused is sent on all the same.
        let Some((came, _)) = l.find_both(
            |s| {
                gets(s, "INVITE")
                    && dialled(s) == Some(Dialled::Loop)
                    && s.packet.message.elements("Via").len() > 1
            },
            |a, b| answers(b, "INVITE", 482..483) && same_transaction(a, b),
        ) else {
            return false;
        };
        let Some(sent) = l.find(|s| passes(s, "INVITE") && dialled(s) == Some(Dialled::Loop)) else {
            return false;
        };
        let branch = l.step(came).packet.branch.clone();
        let place = l.again(sent, came, 1);
        l.edit(place, |m| under(m, "z9hG4bKloops", &branch));
        true
    }),
    ("breadth_is_shared_out", |l| {
        let Some((_, sent)) = l.find_both(|s| comes(s, "INVITE"), is_child) else {
            return false;
        };
        l.edit(sent, |m| m.set("Max-Breadth", 61));
        true
    }),
    ("no_breadth_is_refused", |l| {
        change_came(l, |_| true, |m| m.set("Max-Breadth", 0))
    }),
    ("unknown_proxy_require_is_refused", |l| {
        change(
            l,
            |s| answers(s, "INVITE", 420..421),
            |m| m.set("Unsupported", "something-else"),
        )
    }),
    ("each_place_is_tried_once", |l| {
        let Some((_, sent)) = l.find_both(|s| comes(s, "INVITE"), is_child) else {
            return false;
        };
        add_branch(l, sent, sent, 1, None);
        true
    }),
    ("places_in_turn_wait_for_one_another", |l| {
        let Some((_, sent)) = l.find_both(
            |s| gets(s, "INVITE") && dialled(s) == Some(Dialled::Trunk) && is_udp(s),
            |came, s| is_child(came, s) && is_udp(s),
        ) else {
            return false;
        };
        add_branch(l, sent, sent, 1, Some("sip:somewhere@else"));
        true
    }),
    ("nothing_is_tried_after_the_end", |l| {
        let Some((sent, end)) = l.find_both(
            |s| passes(s, "INVITE") && s.packet.to_tag.is_empty(),
            |a, b| hears(b, "INVITE", 200..300) && same_transaction(a, b),
        ) else {
            return false;
        };
        add_branch(l, sent, end, 900, Some("sip:somewhere@else"));
        true
    }),
    ("ack_of_a_failure_goes_no_further", |l| {
        let Some((came, failure)) = l.find_both(
            |s| comes(s, "INVITE"),
            |a, b| answers(b, "INVITE", 400..503) && b.packet.id.is_some() && same_transaction(a, b),
        ) else {
            return false;
        };
        let Some(sent) = l.find(|s| passes(s, "ACK")) else {
            return false;
        };
        let branch = l.step(came).packet.branch.clone();
        let to = l.step(failure).packet.message.text("To").to_owned();
        let place = l.again(sent, failure, 30);
        l.edit(place, |m| {
            m.set("To", to);
            under(m, "z9hG4bKacks", &branch);
        });
        true
    }),
    ("ack_of_a_success_is_passed_on", |l| {
        let has_route = |step: &Step| step.packet.message.text("Route").contains("10.0.0.1");
        let Some((_, sent)) = l.find_both(|s| gets(s, "ACK") && has_route(s), is_child) else {
            return false;
        };
        let branch = l.step(sent).packet.branch.clone();
        l.remove(|s| sends(s, "ACK") && s.packet.branch == branch);
        true
    }),
    ("stateless_requests_are_passed_as_often_as_they_come", |l| {
        let Some((_, sent)) = l.find_both(
            |s| gets(s, "INVITE") && dialled(s) == Some(Dialled::Stateless),
            |a, b| passes(b, "INVITE") && a.packet.call_id == b.packet.call_id,
        ) else {
            return false;
        };
        l.again(sent, sent, 2);
        true
    }),
    ("own_via_is_taken_off", |l| {
        let Some((came, _)) = returned(l, "INVITE", 200..300) else {
            return false;
        };
        let id = l.step(came).packet.id;
        for index in 0..l.0.len() {
            let is_it = matches!(&l.0[index], Line::Step(step) if step.what == What::Received && step.packet.id == id);
            if is_it {
                l.edit(index, |m| m.set("Via", format!("{};more", m.text("Via"))));
                l.edit(index, |m| {
                    m.headers.retain({
                        let mut vias = 0;
                        move |header| {
                            vias += usize::from(header.is("Via"));
                            !header.is("Via") || vias == 1
                        }
                    })
                });
            }
        }
        true
    }),
    ("trying_is_its_own", |l| {
        change(
            l,
            |s| answers(s, "INVITE", 100..101) && s.packet.id.is_none(),
            |m| m.insert(ID_HEADER, 7),
        )
    }),
    ("provisional_goes_back", |l| {
        let Some((_, back)) = returned_where(l, "INVITE", 180..200, |came| !ends_at_once(l, came)) else {
            return false;
        };
        take_away(l, back)
    }),
    ("each_success_goes_back", |l| keep_back(l, "INVITE", 200..300)),
    ("other_success_goes_back", |l| keep_back(l, "MESSAGE", 200..300)),
    ("one_failure_goes_back", |l| {
        let Some((_, back)) = returned(l, "INVITE", 400..503) else {
            return false;
        };
        let again = l.again(back, back, 5);
        l.edit(again, |m| set_status(m, 499));
        true
    }),
    ("the_best_failure_goes_back", |l| change_final(l, 400..500, 305)),
    ("a_6xx_is_the_best", |l| change_final(l, 400..500, 604)),
    ("a_503_stays_here", |l| {
        let Some((_, back)) = returned(l, "INVITE", 400..500) else {
            return false;
        };
        l.edit(back, |m| set_status(m, 503));
        true
    }),
    ("challenges_go_back_together", |l| {
        let Some((_, back)) = returned(l, "INVITE", 401..402) else {
            return false;
        };
        let id = l.step(back).packet.id;
        for index in 0..l.0.len() {
            let is_it =
                matches!(&l.0[index], Line::Step(step) if step.what == What::Sent && step.packet.id == id);
            if is_it {
                l.edit(index, |m| m.remove("WWW-Authenticate"));
            }
        }
        true
    }),
    ("the_end_cancels_other_branches", |l| never_cancel(l, false)),
    ("a_cancel_reaches_every_branch", |l| never_cancel(l, true)),
    ("a_cancel_is_answered_at_once", |l| {
        // One that is in time: its INVITE has no final response yet.
        let has_ended = |cancel: &Step| {
            l.0.iter().any(|line| match line {
                Line::Step(s) => {
                    answers(s, "INVITE", 200..700)
                        && s.packet.branch == cancel.packet.branch
                        && s.at <= cancel.at
                }
                _ => false,
            })
        };
        let Some((_, back)) = l.find_both(
            |s| comes(s, "CANCEL") && !has_ended(s),
            |a, b| answers(b, "CANCEL", 200..201) && same_transaction(a, b),
        ) else {
            return false;
        };
        let branch = l.step(back).packet.branch.clone();
        l.remove(|s| answers(s, "CANCEL", 200..700) && s.packet.branch == branch);
        true
    }),
    ("timer_c_cancels_a_branch", |l| {
        let Some((rings, cancel)) = l.find_both(
            |s| hears(s, "INVITE", 100..200),
            |a, b| {
                sends(b, "CANCEL")
                    && a.packet.branch == b.packet.branch
                    && b.at.since(a.at) > Duration::from_secs(180)
            },
        ) else {
            return false;
        };
        let _ = cancel;
        let branch = l.step(rings).packet.branch.clone();
        l.remove(|s| s.packet.branch == branch && (s.packet.method == "CANCEL" || s.packet.is_final()));
        // Nothing may come after it: the trace must not end too early to be asked.
        let end = l.step(rings).at + Duration::from_secs(600);
        l.0.push(Line::Note(end, "the end".to_owned()));
        true
    }),
    ("a_branch_is_cancelled_for_a_reason", |l| {
        let Some((_, cancel)) = l.find_both(
            |s| gets(s, "CANCEL"),
            |a, b| {
                sends(b, "CANCEL")
                    && a.packet.call_id == b.packet.call_id
                    && b.at.since(a.at) < Duration::from_millis(5)
            },
        ) else {
            return false;
        };
        let call_id = l.step(cancel).packet.call_id.clone();
        l.remove(|s| gets(s, "CANCEL") && s.packet.call_id == call_id);
        true
    }),
    ("no_timeout_is_said_to_other_requests", |l| {
        let Some((_, back)) = returned(l, "MESSAGE", 200..300) else {
            return false;
        };
        l.edit(back, |m| {
            set_status(m, 408);
            m.remove(ID_HEADER);
        });
        true
    }),
    ("stateless_means_silent", |l| {
        let Some((_, back)) = l.find_both(
            |s| gets(s, "INVITE") && dialled(s) == Some(Dialled::Stateless),
            |a, b| answers(b, "INVITE", 100..300) && same_transaction(a, b),
        ) else {
            return false;
        };
        l.edit(back, |m| m.remove(ID_HEADER));
        true
    }),
];

#[test]
fn each_rule_of_a_proxy_can_be_broken() {
    break_each(BREACHES, plain(Service::Proxy), SEEDS);
}
