//! Every rule is broken once: a trace that obeys them all is changed in one place, and the rule must say so.

mod client;
mod flows;
mod gruus;
mod names;
mod proxy;
mod server;

use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip::{Message, Start};

use super::super::exchange::Service;
use super::super::packet::Packet;
use super::super::plan::{Mix, Weather};
use super::super::run;
use super::super::trace::{Line, Step, Trace, What};
use super::*;
use crate::wire::Transport;

/// Seeds whose traces hold, between them, all that the breaches below need: losses, both transports, subscriptions.
const SEEDS: std::ops::Range<u64> = 1..40;

/// Changes a trace. `false`: it has not what the breach needs.
type Breach = fn(&mut Lines) -> bool;

struct Lines(Vec<Line>);

impl Lines {
    fn step(&self, index: usize) -> &Step {
        match &self.0[index] {
            Line::Step(step) => step,
            Line::Note(..) | Line::Dns(_) | Line::Crash(_) => panic!("line {index} is no step"),
        }
    }

    fn find(&self, wanted: impl Fn(&Step) -> bool) -> Option<usize> {
        self.0
            .iter()
            .position(|line| matches!(line, Line::Step(step) if wanted(step)))
    }

    /// The first such step that another one follows.
    fn find_both(
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

    fn edit(&mut self, index: usize, change: impl FnOnce(&mut Message)) {
        if let Line::Step(step) = &mut self.0[index] {
            let mut message = step.packet.message.clone();
            change(&mut message);
            step.packet = Rc::new(Packet::new(message));
        }
    }

    /// The same step once more, so much after another one; its new place is returned.
    fn again(&mut self, index: usize, behind: usize, after_ms: u64) -> usize {
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

    fn remove(&mut self, unwanted: impl Fn(&Step) -> bool) {
        self.0
            .retain(|line| !matches!(line, Line::Step(step) if unwanted(step)));
    }
}

fn is_udp(step: &Step) -> bool {
    step.transport == Transport::Udp
}

fn sends(step: &Step, method: &str) -> bool {
    step.what == What::Sent && step.packet.is_request(method)
}

fn gets(step: &Step, method: &str) -> bool {
    step.what == What::Received && step.packet.is_request(method)
}

fn answers(step: &Step, method: &str, status: std::ops::Range<u16>) -> bool {
    step.what == What::Sent
        && step.packet.method == method
        && step.packet.status.is_some_and(|own| status.contains(&own))
}

fn hears(step: &Step, method: &str, status: std::ops::Range<u16>) -> bool {
    step.what == What::Received
        && step.packet.method == method
        && step.packet.status.is_some_and(|own| status.contains(&own))
}

fn same_transaction(a: &Step, b: &Step) -> bool {
    a.packet.branch == b.packet.branch && a.packet.method == b.packet.method
}

fn alone(lines: &Lines, index: usize) -> bool {
    let step = lines.step(index);
    let own = |other: &&Line| {
        matches!(other, Line::Step(other) if other.what == step.what
        && other.packet.request() == step.packet.request() && same_transaction(step, other))
    };
    lines.0.iter().filter(own).count() == 1
}

/// A request that left once, over that transport.
fn lone(lines: &Lines, method: &'static str, udp: bool) -> Option<usize> {
    (0..lines.0.len()).find(|index| {
        matches!(&lines.0[*index], Line::Step(step) if sends(step, method) && is_udp(step) == udp)
            && alone(lines, *index)
    })
}

fn change(lines: &mut Lines, wanted: impl Fn(&Step) -> bool, edit: impl FnOnce(&mut Message)) -> bool {
    let Some(index) = lines.find(wanted) else {
        return false;
    };
    lines.edit(index, edit);
    true
}

fn set_param(message: &mut Message, header: &str, from: &str, to: &str) {
    let value = message.text(header).replace(from, to);
    message.set(header, value);
}

fn set_branch(message: &mut Message, branch: &str) {
    let own = message.branch().to_owned();
    set_param(message, "Via", &own, branch);
}

fn without_tag(message: &mut Message) {
    let to = message
        .text("To")
        .split(";tag=")
        .next()
        .unwrap_or_default()
        .to_owned();
    message.set("To", to);
}

fn set_status(message: &mut Message, to: u16) {
    if let Start::Response { status, .. } = &mut message.start {
        *status = to;
    }
}

#[test]
fn each_rule_can_be_broken() {
    let breaches: Vec<_> = client::BREACHES.iter().chain(server::BREACHES).copied().collect();
    break_each(&breaches, plain(Service::Phones), SEEDS);
}

/// Polite phones, without names and flows.
fn plain(service: Service) -> Mix {
    Mix {
        calls: 25,
        polite: true,
        service: Some(service),
        names: Some(false),
        flows: Some(false),
        ..Mix::default()
    }
}

/// Breaks each rule in the first trace that has what it takes.
fn break_each(breaches: &[(&str, Breach)], mix: Mix, seeds: std::ops::Range<u64>) {
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
            "seed {seed} obeys every rule: {:?}",
            audit(&outcome.trace, terms)
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
    let breaches = || {
        let own = client::BREACHES.iter().chain(server::BREACHES);
        own.chain(proxy::BREACHES)
            .chain(names::BREACHES)
            .chain(flows::BREACHES)
            .chain(gruus::BREACHES)
    };
    for rule in RULES {
        assert!(
            breaches().any(|(name, _)| *name == rule.name),
            "nothing breaks {}",
            rule.name
        );
    }
    assert_eq!(RULES.len(), breaches().count());
}
