//! The audit: rules of RFC 3261, 6026, 6665 and their kin, each a function with its clause, checked on a trace as the
//! server's sockets saw it.
//!
//! [`forward`] and [`branches`] are for a proxy: what it sends on, and what comes back.
//! [`ledger`] sorts the trace into transactions; [`client`] holds the rules for what the server asks, [`request`] those for
//! each single request of its, [`server`] and [`response`] the same for what it answers, [`event`] those for subscriptions and
//! registrations, [`names`] those for DNS, [`flows`] and [`dialogs`] those of RFC 5626 and 3327,
//! [`gruus`] those of RFC 5627. [`RULES`] lists them all, and a test has a trace that breaks each.

mod branches;
mod client;
mod dialogs;
mod event;
mod flows;
mod forward;
mod gruus;
mod ledger;
mod names;
mod request;
mod response;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::book::Finding;
use super::exchange::Exchange;
use super::trace::{Step, Trace};
use crate::time::Instant;
use ledger::Ledger;

/// The timers of RFC 3261 table 4, as they are by default.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(32);
/// When Timer E has come to T2: T1, 2*T1 and 4*T1 after the request.
const UNTIL_T2: Duration = Duration::from_millis(3_500);
/// How late a timer may run, and how long a message may be under way between two shards.
const SLACK: Duration = Duration::from_millis(20);
/// How much longer one message may be under way between two shards than the next.
const EARLY: Duration = Duration::from_millis(1);

/// How much can be asked of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// There was room for everything, and the network took what was sent: what must be said has been said. Otherwise only
    /// what must not be said is looked for.
    pub is_whole: bool,
    /// Where the server is a proxy: its routing table.
    pub exchange: Option<Exchange>,
}

/// One rule.
pub struct Rule {
    pub name: &'static str,
    /// Where it stands.
    pub clause: &'static str,
    check: fn(&Ledger<'_>, &mut Found<'_>),
}

/// Takes what one rule finds.
struct Found<'f> {
    rule: &'static Rule,
    findings: &'f mut Vec<Finding>,
}

impl Found<'_> {
    fn at(&mut self, step: &Step, what: impl FnOnce() -> String) {
        let Rule { name, clause, .. } = self.rule;
        let packet = &step.packet;
        let tags = [&packet.from_tag, &packet.to_tag]
            .into_iter()
            .filter(|tag| !tag.is_empty());
        self.findings.push(Finding {
            at: step.at,
            text: format!(
                "{name} ({clause}): {} with {}: {}",
                packet.message.title(),
                step.peer,
                what()
            ),
            tags: tags.cloned().collect(),
        });
    }
}

impl Found<'_> {
    /// The same of what is about no message.
    fn of_name(&mut self, at: Instant, what: impl FnOnce() -> String) {
        let Rule { name, clause, .. } = self.rule;
        self.findings.push(Finding {
            at,
            text: format!("{name} ({clause}): {}", what()),
            tags: Vec::new(),
        });
    }
}

macro_rules! rules {
    ($($module:ident::$name:ident, $clause:literal;)+) => {
        /// All rules.
        pub static RULES: &[Rule] = &[$(Rule {
            name: stringify!($name),
            clause: $clause,
            check: $module::$name,
        },)+];
    };
}

rules! {
    client::invite_is_repeated_at_timer_a, "RFC 3261 §17.1.1.2";
    client::invite_is_not_repeated_once_answered, "RFC 3261 §17.1.1.2";
    client::invite_is_given_up_at_timer_b, "RFC 3261 §17.1.1.2";
    client::request_is_repeated_at_timer_e, "RFC 3261 §17.1.2.2";
    client::request_is_not_repeated_once_answered, "RFC 3261 §17.1.2.2";
    client::request_is_given_up_at_timer_f, "RFC 3261 §17.1.2.2";
    client::request_is_not_repeated_over_tcp, "RFC 3261 §17.1.1.2, §17.1.2.2";
    client::repetition_is_the_same_request, "RFC 3261 §17.1.1.2";
    client::failure_is_acknowledged_each_time, "RFC 3261 §17.1.1.2";
    client::ack_of_failure_is_made_from_its_invite, "RFC 3261 §17.1.1.3";
    client::ack_of_success_has_a_branch_of_its_own, "RFC 3261 §13.2.2.4, §17.1.1.3";
    client::success_is_acknowledged_each_time, "RFC 3261 §13.2.2.4";
    client::cancel_comes_after_a_provisional, "RFC 3261 §9.1";
    client::cancel_comes_before_the_final, "RFC 3261 §9.1";
    client::cancel_is_made_from_its_invite, "RFC 3261 §9.1";
    client::branch_names_one_request, "RFC 3261 §8.1.1.7";
    request::request_has_what_it_must, "RFC 3261 §8.1.1";
    request::branch_begins_with_the_cookie, "RFC 3261 §8.1.1.7";
    request::cseq_says_the_method, "RFC 3261 §8.1.1.5";
    request::max_forwards_is_at_most_70, "RFC 3261 §8.1.1.6, §16.6";
    request::via_says_where_and_how, "RFC 3261 §18.1.1";
    request::invite_has_one_contact, "RFC 3261 §8.1.1.8";
    request::first_invite_has_no_to_tag, "RFC 3261 §8.1.1.2";
    request::cseq_rises_within_a_dialog, "RFC 3261 §12.2.1.1";
    request::ack_has_the_number_of_an_invite, "RFC 3261 §13.2.2.4, §17.1.1.3";
    request::stream_says_the_length, "RFC 3261 §18.3";
    request::these_have_no_body, "RFC 3261 §9.1, §17.1.1.3, §17.2.1";
    request::bye_ends_a_dialog, "RFC 3261 §15.1.1";
    server::invite_has_an_answer_within_200_ms, "RFC 3261 §17.2.1";
    server::request_has_one_final_response, "RFC 3261 §17.2.1, §17.2.2";
    server::nothing_provisional_after_the_final, "RFC 3261 §17.2.1, §17.2.2";
    server::failure_is_repeated_at_timer_g, "RFC 3261 §17.2.1";
    server::failure_is_not_repeated_once_acknowledged, "RFC 3261 §17.2.1";
    server::failure_is_given_up_at_timer_h, "RFC 3261 §17.2.1";
    server::failure_is_not_repeated_over_tcp, "RFC 3261 §17.2.1";
    server::success_is_repeated_until_its_ack, "RFC 3261 §13.3.1.4";
    server::success_is_not_repeated_once_acknowledged, "RFC 3261 §13.3.1.4";
    server::success_is_given_up_after_64_t1, "RFC 3261 §13.3.1.4";
    server::repeated_request_has_the_last_response_again, "RFC 3261 §17.2.1, §17.2.2";
    server::every_request_is_answered, "RFC 3261 §8.2, §17.2";
    server::cancel_ends_its_invite, "RFC 3261 §9.2";
    server::nothing_provisional_to_other_requests, "RFC 4320 §4.1";
    server::other_requests_hear_no_100_early, "RFC 4320 §4.1";
    server::other_requests_hear_that_they_have_arrived, "RFC 4320 §4.1";
    response::response_was_asked_for, "RFC 3261 §8.2.6";
    response::response_has_the_requests_headers, "RFC 3261 §8.2.6.2";
    response::to_has_a_tag, "RFC 3261 §8.2.6.2";
    response::to_is_kept, "RFC 3261 §8.2.6.2";
    response::ack_is_never_answered, "RFC 3261 §17";
    response::response_goes_back_where_it_came_from, "RFC 3261 §18.2.2, RFC 3581 §4";
    response::rport_is_filled_in, "RFC 3581 §4";
    response::record_route_is_returned, "RFC 3261 §12.1.1";
    response::success_says_the_contact, "RFC 3261 §12.1.1";
    response::refusal_says_what_would_do, "RFC 3261 §8.2.1, §8.2.2.3, §10.3";
    event::subscription_has_a_notify_at_once, "RFC 6665 §4.2.1";
    event::notify_comes_after_the_success, "RFC 6665 §4.2.1";
    event::notify_says_the_state, "RFC 6665 §4.1.3, §8.2.3";
    event::notify_says_the_event, "RFC 6665 §8.2.1";
    event::notify_is_in_the_dialog_of_its_subscription, "RFC 6665 §4.4.1";
    event::subscription_has_an_expiry, "RFC 6665 §4.2.1.1";
    event::notify_has_no_more_time_than_was_granted, "RFC 6665 §4.2.2";
    event::nothing_is_notified_after_the_end, "RFC 6665 §4.1.3";
    event::registration_lists_its_contacts, "RFC 3261 §10.3";
    forward::max_forwards_goes_down_by_one, "RFC 3261 §16.6 step 3";
    forward::a_request_without_hops_left_goes_nowhere, "RFC 3261 §16.3 step 3";
    forward::vias_stay_below_ours, "RFC 3261 §16.6 step 8, §18.2.1";
    forward::own_routes_are_taken_off, "RFC 3261 §16.4, §16.6 step 6";
    forward::own_record_route_comes_first, "RFC 3261 §16.6 step 4, RFC 5658";
    forward::everything_else_is_passed_as_it_came, "RFC 3261 §16.6 step 1";
    forward::request_uri_of_a_dialog_is_kept, "RFC 3261 §16.5, §16.6 step 2";
    forward::a_loop_goes_no_further, "RFC 3261 §16.3 step 4, RFC 5393 §4.2";
    forward::breadth_is_shared_out, "RFC 5393 §5.3.3";
    forward::no_breadth_is_refused, "RFC 5393 §5.3.3";
    forward::unknown_proxy_require_is_refused, "RFC 3261 §16.3 step 5";
    forward::each_place_is_tried_once, "RFC 3261 §16.5";
    forward::places_in_turn_wait_for_one_another, "RFC 3261 §16.6";
    forward::nothing_is_tried_after_the_end, "RFC 3261 §16.7 steps 5 and 10, §16.10";
    forward::ack_of_a_failure_goes_no_further, "RFC 3261 §17.1.1.3, §17.2.1";
    forward::ack_of_a_success_is_passed_on, "RFC 3261 §13.2.2.4, §16.6";
    forward::stateless_requests_are_passed_as_often_as_they_come, "RFC 3261 §16.11";
    branches::own_via_is_taken_off, "RFC 3261 §16.7 step 3";
    branches::trying_is_its_own, "RFC 3261 §16.7 step 5";
    branches::provisional_goes_back, "RFC 3261 §16.7 step 5";
    branches::each_success_goes_back, "RFC 3261 §16.7 step 5";
    branches::other_success_goes_back, "RFC 3261 §16.7 step 5";
    branches::one_failure_goes_back, "RFC 3261 §16.7 step 5";
    branches::the_best_failure_goes_back, "RFC 3261 §16.7 step 6";
    branches::a_6xx_is_the_best, "RFC 3261 §16.7 step 6";
    branches::a_503_stays_here, "RFC 3261 §16.7 step 6";
    branches::challenges_go_back_together, "RFC 3261 §16.7 step 7";
    branches::the_end_cancels_other_branches, "RFC 3261 §16.7 step 10";
    branches::a_cancel_reaches_every_branch, "RFC 3261 §16.10, §9.1";
    branches::a_cancel_is_answered_at_once, "RFC 3261 §16.10";
    branches::timer_c_cancels_a_branch, "RFC 3261 §16.8";
    branches::a_branch_is_cancelled_for_a_reason, "RFC 3261 §16.8, §16.10";
    branches::no_timeout_is_said_to_other_requests, "RFC 4320 §4.2";
    branches::stateless_means_silent, "RFC 3261 §16.11";
    flows::a_flow_is_what_its_register_came_over, "RFC 5626 §6, §7";
    flows::a_path_is_the_way_to_its_contact, "RFC 3327 §5.4, RFC 5626 §7";
    flows::the_path_is_returned, "RFC 3327 §5.3";
    flows::one_flow_of_a_device_at_a_time, "RFC 5626 §7";
    flows::another_flow_is_tried, "RFC 5626 §7";
    flows::a_flow_is_acknowledged_by_require, "RFC 5626 §6";
    gruus::an_instance_has_gruus, "RFC 5627 §5.2";
    gruus::a_gruu_leads_to_its_device, "RFC 5627 §6.1";
    gruus::each_register_gives_another_temporary_gruu, "RFC 5627 §5.1, §5.2";
    gruus::a_temporary_gruu_lasts_as_long_as_its_registration, "RFC 5627 §5.4";
    gruus::a_temporary_gruu_ends_with_its_registration, "RFC 5627 §5.1, §5.3";
    dialogs::a_dialog_stays_on_its_flow, "RFC 5626 §4.3, §5.3";
    names::a_name_leads_to_its_addresses, "RFC 3263 §4.1, §4.2; RFC 1035 §3.2.1";
    names::targets_are_tried_in_order, "RFC 3263 §4.1, §4.3; RFC 2782";
    names::the_next_target_is_tried, "RFC 3263 §4.3";
    names::a_question_is_asked_once, "RFC 1035 §7.4, RFC 2308 §5";
}

/// Checks every rule.
pub fn audit(trace: &Trace, terms: Terms) -> Vec<Finding> {
    let ledger = Ledger::new(trace, terms);
    let mut findings = Vec::new();
    for rule in RULES {
        let mut found = Found {
            rule,
            findings: &mut findings,
        };
        (rule.check)(&ledger, &mut found);
    }
    findings
}

/// How often a request went on to the next target of its name.
pub fn failovers(trace: &Trace, terms: Terms) -> u64 {
    names::failovers(&Ledger::new(trace, terms))
}

/// Whether `step`, `after` its forerunner, came when it was due: `interval` behind it. The forerunner may have had the longer
/// way out, by another shard.
fn is_on_time(interval: Duration, after: Duration) -> bool {
    after + EARLY >= interval && after <= interval + SLACK
}

/// The intervals of Timers E and G: T1, doubling up to T2.
fn doubling_to_t2() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(T1), |interval| Some((*interval * 2).min(T2)))
}

/// The times since the first transmission at which those intervals end, before 64*T1.
fn schedule_to_t2() -> impl Iterator<Item = Duration> {
    doubling_to_t2()
        .scan(Duration::ZERO, |at, interval| {
            *at += interval;
            Some(*at)
        })
        .take_while(|at| *at < TIMEOUT)
}
