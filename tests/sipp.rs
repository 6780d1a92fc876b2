//! SIPp against the real binary: a thousand calls of every kind, with no failed call and no unexpected message.
//!
//! The scenarios in `tests/sipp` are our own. Each test starts a server, registers a thousand callees by SIPp, and lets a
//! SIPp that calls and one that is called play with each other through the server.

// Processes are waited for in real time.
#![allow(clippy::disallowed_methods)]

use stage::{Over, Stage};
use support::Setup;

#[path = "sipp/stage.rs"]
mod stage;
#[path = "flows/support.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

const CALLS: usize = 1_000;

fn play(name: &str, story: impl FnOnce(&Stage)) {
    stage::play(name, &Setup::of_production(), CALLS, story);
}

#[test]
fn a_thousand_phones_register_over_udp() {
    play("register-udp", |stage| stage.register(Over::Udp, 5060, Over::Udp));
}

#[test]
fn a_thousand_phones_register_over_tcp() {
    play("register-tcp", |stage| stage.register(Over::Tcp, 5060, Over::Udp));
}

#[test]
fn a_thousand_calls_from_tcp_to_udp() {
    play("tcp-udp", |stage| {
        stage.calls(["caller", "callee"], Over::Tcp, Over::Udp)
    });
}

#[test]
fn a_thousand_calls_from_udp_to_udp() {
    play("udp-udp", |stage| {
        stage.calls(["caller", "callee"], Over::Udp, Over::Udp)
    });
}

#[test]
fn a_thousand_calls_from_tcp_to_tcp() {
    play("tcp-tcp", |stage| {
        stage.calls(["caller", "callee"], Over::Tcp, Over::Tcp)
    });
}

#[test]
fn a_thousand_calls_are_cancelled() {
    play("cancel", |stage| {
        stage.calls(["caller_cancels", "callee_is_cancelled"], Over::Tcp, Over::Udp)
    });
}

#[test]
fn a_thousand_calls_find_busy() {
    play("busy", |stage| {
        stage.calls(["caller_finds_busy", "callee_is_busy"], Over::Udp, Over::Udp)
    });
}

#[test]
fn a_thousand_messages_arrive() {
    play("message", |stage| {
        stage.calls(["sends_message", "takes_message"], Over::Udp, Over::Udp)
    });
}
