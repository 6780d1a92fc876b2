//! SIPp through the proxy of the real binary: the README's recipes, the flows of RFC 3665 that apply to a proxy, forking.

// Processes are waited for in real time.
#![allow(clippy::disallowed_methods)]

use std::net::SocketAddr;

use stage::{Over, Stage, free_port};
use support::{Server, Setup};

#[path = "sipp/stage.rs"]
mod stage;
#[path = "flows/support.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

const CALLS: usize = 100;

/// The configuration that the README gives under the name of this file, without the keys above its rules: the tests set
/// those, and have a domain and ports of their own.
fn recipe(file: &str) -> String {
    let readme = include_str!("../README.md");
    let start = format!("```toml\n# {file}\n");
    let (_, text) = readme
        .split_once(&start)
        .unwrap_or_else(|| panic!("the README has no {file}"));
    let (text, _) = text.split_once("```").expect("the block ends");
    let (_, rules) = text.split_once("[[route]]").expect("a rule");
    format!("\n[[route]]{rules}").replace("example.com", "one.att.net")
}

fn play(name: &str, tables: &str, story: impl FnOnce(&Stage)) {
    let setup = Setup::of_production().tables(tables);
    stage::play(name, &setup, CALLS, story);
}

fn all_to(addr: SocketAddr) -> String {
    format!("\n[[route]]\naction = \"proxy\"\nto = [\"sip:{addr}\"]\n")
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn recipe_sipp_calls_sipp_with_nobody_registered() {
    let port = free_port();
    let tables = recipe("forward.toml").replace("127.0.0.1:5070", &local(port).to_string());
    play("recipe-forward", &tables, |stage| {
        let called = stage.sipp_built_in("uas", port);
        called.wait_listening();
        stage.sipp_built_in("uac", free_port()).succeeds();
        called.succeeds();
    });
}

#[test]
fn recipe_registrar_and_proxy_of_a_domain() {
    for (name, from, to) in [
        ("udp", Over::Udp, Over::Udp),
        ("tcp", Over::Tcp, Over::Udp),
        ("both", Over::Udp, Over::Tcp),
    ] {
        play(
            &format!("recipe-domain-{name}"),
            &recipe("domain.toml"),
            |stage| {
                stage.calls(["proxied_caller", "proxied_callee"], from, to);
            },
        );
    }
}

/// RFC 3665 §3.2: the caller's proxy sends everything to the callee's, where the callee is registered.
fn through_two_proxies(name: &str, story: impl FnOnce(&Stage, SocketAddr)) {
    play(name, &recipe("domain.toml"), |second| {
        let first = Server::start(&Setup::of_production().tables(&all_to(second.server.udp)));
        story(second, first.udp);
    });
}

fn scenario(stage: &Stage, server: SocketAddr, name: &str, port: u16) -> stage::Sipp {
    // No status is left to the test in these.
    stage.sipp_of_status(server, name, 0, port)
}

#[test]
fn a_session_through_two_proxies() {
    through_two_proxies("two-proxies", |stage, first| {
        let port = free_port();
        stage.register(Over::Udp, port, Over::Udp);
        let called = scenario(stage, first, "proxied_callee", port);
        called.wait_listening();
        scenario(stage, first, "proxied_caller", free_port()).succeeds();
        called.succeeds();
    });
}

#[test]
fn nobody_answers_and_the_caller_gives_up() {
    through_two_proxies("two-proxies-cancel", |stage, first| {
        let port = free_port();
        stage.register(Over::Udp, port, Over::Udp);
        let called = scenario(stage, first, "proxied_callee_is_cancelled", port);
        called.wait_listening();
        scenario(stage, first, "proxied_caller_cancels", free_port()).succeeds();
        called.succeeds();
    });
}

#[test]
fn busy_unavailable_and_declined_come_back() {
    for status in [486, 480, 603] {
        through_two_proxies(&format!("two-proxies-{status}"), |stage, first| {
            let port = free_port();
            stage.register(Over::Udp, port, Over::Udp);
            let called = stage.sipp_of_status(first, "callee_refuses", status, port);
            called.wait_listening();
            stage
                .sipp_of_status(first, "proxied_caller_is_refused", status, free_port())
                .succeeds();
            called.succeeds();
        });
    }
}

#[test]
fn who_is_not_registered_is_not_found() {
    through_two_proxies("two-proxies-404", |stage, first| {
        stage
            .sipp_of_status(first, "proxied_caller_is_refused", 404, free_port())
            .succeeds();
    });
}

#[test]
fn a_rule_sends_callers_elsewhere() {
    let tables = "\n[[route]]\naction = \"redirect\"\nto = [\"sip:new@192.0.2.1\"]\n";
    play("redirect", tables, |stage| {
        stage
            .sipp_of_status(stage.server.udp, "proxied_caller_is_refused", 302, free_port())
            .succeeds();
    });
}

#[test]
fn of_two_phones_that_ring_one_answers() {
    for fork in ["parallel", "serial"] {
        let (busy, free) = (free_port(), free_port());
        let tables = format!(
            "\n[[route]]\naction = \"proxy\"\nfork = \"{fork}\"\nto = [\"sip:a@{}\", \"sip:b@{}\"]\n",
            local(busy),
            local(free)
        );
        play(&format!("fork-{fork}"), &tables, |stage| {
            let server = stage.server.udp;
            let refuses = stage.sipp_of_status(server, "callee_refuses", 486, busy);
            let answers = scenario(stage, server, "proxied_callee", free);
            refuses.wait_listening();
            answers.wait_listening();
            scenario(stage, server, "proxied_caller", free_port()).succeeds();
            refuses.succeeds();
            answers.succeeds();
        });
    }
}
