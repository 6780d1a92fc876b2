//! SIPp through the proxy of the real binary: the README's recipes, the flows of RFC 3665 that apply to a proxy, forking.

// Processes are waited for in real time.
#![allow(clippy::disallowed_methods)]

use std::net::{SocketAddr, UdpSocket};

use stage::{Over, Sipp, Stage, free_port};
use support::{Server, Setup};

#[path = "sipp/stage.rs"]
mod stage;
#[path = "flows/support.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

const CALLS: usize = 100;

/// The configuration that the README gives under the name of this file, at a port of its own and with other ports for the
/// servers that it names.
fn recipe(file: &str, ports: &[(u16, u16)]) -> Setup {
    let readme = include_str!("../README.md");
    let start = format!("```toml\n# {file}\n");
    let (_, text) = readme
        .split_once(&start)
        .unwrap_or_else(|| panic!("the README has no {file}"));
    let (text, _) = text.split_once("```").expect("the block ends");
    let mut text = with_addr(text, 5060, 0);
    for (of_readme, port) in ports {
        text = with_addr(&text, *of_readme, *port);
    }
    Setup::of_file(&text)
}

fn with_addr(text: &str, from: u16, to: u16) -> String {
    let (from, to) = (local(from).to_string(), local(to).to_string());
    assert!(text.contains(&from), "{from} is in the recipe:\n{text}");
    text.replace(&from, &to)
}

fn play(name: &str, setup: &Setup, story: impl FnOnce(&Stage)) {
    stage::play(name, setup, CALLS, story);
}

fn by(tables: &str) -> Setup {
    Setup::of_production().tables(tables)
}

fn all_to(addr: SocketAddr) -> String {
    format!("\n[[route]]\naction = \"proxy\"\nto = [\"sip:{addr}\"]\n")
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

// ---- The README's recipes ------------------------------------------------------------------------------------------

#[test]
fn recipe_sipp_calls_sipp_with_nobody_registered() {
    let port = free_port();
    play(
        "recipe-forward",
        &recipe("forward.toml", &[(5070, port)]),
        |stage| {
            let called = stage.built_in("uas").at(port).listens();
            stage.built_in("uac").start().succeeds();
            called.succeeds();
        },
    );
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
            &recipe("domain.toml", &[]),
            |stage| {
                stage.calls(["proxied_caller", "proxied_callee"], from, to);
            },
        );
    }
}

/// The balancer of the README, and what its three servers are to listen at.
fn balancer() -> (Setup, [u16; 3]) {
    let ports = [(); 3].map(|()| free_port());
    let [one, two, three] = ports;
    let setup = recipe("balancer.toml", &[(5071, one), (5072, two), (5073, three)]);
    (setup, ports)
}

/// A server that answers every call, and OPTIONS.
fn answers(stage: &Stage, port: u16) -> Sipp {
    let name = format!("server-{port}");
    stage
        .part("proxied_server")
        .named(&name)
        .at(port)
        .endless()
        .listens()
}

fn refuses(stage: &Stage, port: u16, status: u16) -> Sipp {
    let name = format!("refuses-{port}");
    let part = stage.part("server_refuses").named(&name).of_status(status);
    part.at(port).endless().listens()
}

/// The calls that a server was sent.
fn called(server: Sipp) -> usize {
    server.stop().counter(1)
}

#[test]
fn recipe_three_servers_take_turns() {
    let (setup, ports) = balancer();
    play("recipe-balancer", &setup, |stage| {
        let servers = ports.map(|port| answers(stage, port));
        stage.part("proxied_caller").start().succeeds();
        let mut shares = servers.map(called);
        shares.sort_unstable();
        assert_eq!(shares, [33, 33, 34]);
    });
}

#[test]
fn recipe_calls_pass_over_a_server_that_is_stopped() {
    let (setup, ports) = balancer();
    play("recipe-balancer-stopped", &setup, |stage| {
        let [first, second, third] = ports.map(|port| answers(stage, port));
        stage.part("proxied_caller").named("before").start().succeeds();
        assert_ne!(called(first), 0, "it took calls while it was there");
        stage.part("proxied_caller").named("after").start().succeeds();
        assert!(called(second) + called(third) > CALLS);
    });
}

#[test]
fn recipe_calls_pass_over_servers_that_are_unavailable() {
    let (setup, ports) = balancer();
    play("recipe-balancer-503", &setup, |stage| {
        let refusing = [ports[0], ports[1]].map(|port| refuses(stage, port, 503));
        let last = answers(stage, ports[2]);
        stage.part("proxied_caller").start().succeeds();
        assert_eq!(called(last), CALLS);
        // Each call begins at the next of the three in turn.
        for server in refusing {
            assert!(called(server) >= CALLS / 3);
        }
    });
}

#[test]
fn recipe_phones_call_each_other_and_numbers_outside() {
    let (carrier, backup) = (free_port(), free_port());
    let setup = recipe("office.toml", &[(5080, carrier), (5081, backup)]);
    play("recipe-office", &setup, |stage| {
        let outside = |name: &str| {
            let part = stage.part("proxied_caller").named(name);
            part.with("sip:[field1]@", "sip:+49[field1]@").at_once(20)
        };
        let lines = [carrier, backup].map(|port| answers(stage, port));
        stage.calls(["proxied_caller", "proxied_callee"], Over::Udp, Over::Tcp);
        outside("outside").start().succeeds();
        let [first, second] = lines;
        assert_eq!(called(first), CALLS, "the carrier has them all");
        // Each line at a time waits for the carrier that has gone, until it is known to have gone.
        outside("by-the-backup").start().succeeds();
        assert_eq!(called(second), CALLS);
    });
}

#[test]
fn recipe_no_more_calls_leave_the_office_than_the_trunk_takes() {
    let (carrier, backup) = (free_port(), free_port());
    let setup = recipe("office.toml", &[(5080, carrier), (5081, backup)]);
    play("recipe-office-full", &setup, |stage| {
        let line = answers(stage, carrier);
        // Those of the first have ended when the second begins.
        for name in ["first", "second"] {
            let part = stage.part("proxied_caller_counts").named(name).calls(40);
            let counted = part.with("sip:[field1]@", "sip:+49[field1]@").start().ends();
            assert_eq!((counted.counter(1), counted.counter(2)), (30, 10));
        }
        assert_eq!(called(line), 60);
    });
}

#[test]
fn a_heavier_server_gets_more_calls() {
    let ports = [(); 3].map(|()| free_port());
    let [one, two, three] = ports.map(local);
    let tables = format!(
        "\n[[trunk]]\nname = \"servers\"\nselect = \"weight\"\n\
         destinations = [\"sip:{one} weight=1\", \"sip:{two} weight=4\", \"sip:{three} weight=0\"]\n\
         [[route]]\naction = \"proxy\"\nto = [\"trunk:servers\"]\n"
    );
    play("weights", &by(&tables), |stage| {
        let servers = ports.map(|port| answers(stage, port));
        stage.part("proxied_caller").start().succeeds();
        let [light, heavy, spare] = servers.map(called);
        assert_eq!(light + heavy, CALLS);
        assert!(light > 0 && heavy > light, "{light} and {heavy} calls");
        assert_eq!(spare, 0, "a weight of 0 waits for the others to fail");
    });
}

// ---- RFC 3665, registrar and proxies -------------------------------------------------------------------------------

#[test]
fn phones_register_and_leave() {
    for over in [Over::Udp, Over::Tcp] {
        play("registers", &recipe("domain.toml", &[]), |stage| {
            stage.part("registers_and_leaves").over(over).start().succeeds();
        });
    }
}

/// RFC 3665 §3.2: the caller's proxy sends everything to the callee's, where the callee is registered.
fn through_two_proxies(name: &str, story: impl FnOnce(&Stage, SocketAddr)) {
    play(name, &recipe("domain.toml", &[]), |second| {
        let first = Server::start(&by(&all_to(second.server.udp)));
        story(second, first.udp);
    });
}

/// The same for a pair of scenarios.
fn pair_through_two_proxies(name: &str, [caller, callee]: [&str; 2]) {
    through_two_proxies(name, |stage, first| {
        let port = free_port();
        stage.register(Over::Udp, port, Over::Udp);
        let called = stage.part(callee).at(port).listens();
        stage.part(caller).to(first).start().succeeds();
        called.succeeds();
    });
}

#[test]
fn a_session_through_two_proxies() {
    pair_through_two_proxies("two-proxies", ["proxied_caller", "proxied_callee"]);
}

#[test]
fn offers_in_answers_and_a_change_of_media_cross_two_proxies() {
    let pair = ["proxied_caller_offers_late", "proxied_callee_offers"];
    pair_through_two_proxies("two-proxies-reinvite", pair);
}

#[test]
fn nobody_answers_and_the_caller_gives_up() {
    let pair = ["proxied_caller_cancels", "proxied_callee_is_cancelled"];
    pair_through_two_proxies("two-proxies-cancel", pair);
}

#[test]
fn busy_unavailable_and_declined_come_back() {
    for status in [486, 480, 603] {
        through_two_proxies(&format!("two-proxies-{status}"), |stage, first| {
            let port = free_port();
            stage.register(Over::Udp, port, Over::Udp);
            let called = stage.part("callee_refuses").of_status(status).at(port).listens();
            let caller = stage.part("proxied_caller_is_refused").of_status(status);
            caller.to(first).start().succeeds();
            called.succeeds();
        });
    }
}

#[test]
fn who_is_not_registered_is_not_found() {
    through_two_proxies("two-proxies-404", |stage, first| {
        let caller = stage.part("proxied_caller_is_refused").of_status(404);
        caller.to(first).start().succeeds();
    });
}

/// RFC 3665 §3.10.
#[test]
fn a_phone_that_says_nothing_times_out() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let at = silent.local_addr().expect("an address");
    // The transaction of the proxy must give up long before the caller does.
    play("silent", &Setup::new().tables(&all_to(at)), |stage| {
        let caller = stage.part("proxied_caller_is_refused").of_status(408);
        caller.start().succeeds();
    });
}

#[test]
fn a_rule_sends_callers_elsewhere() {
    let tables = "\n[[route]]\naction = \"redirect\"\nto = [\"sip:new@192.0.2.1\"]\n";
    play("redirect", &by(tables), |stage| {
        let caller = stage.part("proxied_caller_is_refused").of_status(302);
        caller.start().succeeds();
    });
}

// ---- Forking and forwarding ----------------------------------------------------------------------------------------

fn fork(how: &str, [first, second]: [u16; 2]) -> String {
    format!(
        "\n[[route]]\naction = \"proxy\"\n{how}\nto = [\"sip:a@{}\", \"sip:b@{}\"]\n",
        local(first),
        local(second)
    )
}

#[test]
fn of_two_phones_that_ring_one_answers() {
    for how in ["parallel", "serial"] {
        let ports = [free_port(), free_port()];
        let tables = fork(&format!("fork = \"{how}\""), ports);
        play(&format!("fork-{how}"), &by(&tables), |stage| {
            let refuses = stage.part("callee_refuses").of_status(486).at(ports[0]).listens();
            let answers = stage.part("proxied_callee").at(ports[1]).listens();
            stage.part("proxied_caller").start().succeeds();
            refuses.succeeds();
            answers.succeeds();
        });
    }
}

/// Both phones ring: at once, or one after the other because nobody takes the first up in time.
#[test]
fn the_phone_that_does_not_answer_is_cancelled() {
    for how in ["fork = \"parallel\"", "fork = \"serial\"\nring_s = 1"] {
        let ports = [free_port(), free_port()];
        let name = format!("fork-cancel-{}", how.len());
        play(&name, &by(&fork(how, ports)), |stage| {
            let first = Server::start(&by(&all_to(stage.server.udp)));
            let rings = stage.part("proxied_callee_is_cancelled").at(ports[0]).listens();
            let answers = stage.part("proxied_callee_slow").at(ports[1]).listens();
            stage
                .part("proxied_caller_rings_twice")
                .to(first.udp)
                .start()
                .succeeds();
            rings.succeeds();
            answers.succeeds();
        });
    }
}

#[test]
fn a_call_follows_who_has_moved() {
    let (old, new) = (free_port(), free_port());
    let tables = format!("{}recurse = true\n", all_to(local(old)));
    play("moved", &by(&tables), |stage| {
        let moved_to = format!("sip:new@{}", local(new));
        let moved = stage
            .part("callee_moved")
            .key("moved_to", &moved_to)
            .at(old)
            .listens();
        let answers = stage.part("proxied_callee").at(new).listens();
        stage.part("proxied_caller").start().succeeds();
        moved.succeeds();
        answers.succeeds();
    });
}
