//! The configuration from outside: the example file, every kind of mistake, and what is worked out from the machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use ringway::config::example::{effective, example};
use ringway::config::key::Kind;
use ringway::config::load::load_file;
use ringway::config::route::Route;
use ringway::config::schema::{KEYS, SECTIONS};
use ringway::config::{Config, Errors, Listener, Loaded, Machine, Notice, Origin, ROUTE_KEYS, load};
use ringway::wire::Transport;

/// One CPU and more of everything than the defaults take: nothing is cut down.
fn machine() -> Machine {
    Machine {
        cpus: vec![0],
        parallelism: 1,
        memory_bytes: Some(1 << 40),
        files_max: Some(1 << 20),
        primary_v4: None,
        primary_v6: None,
    }
}

fn loaded_on(text: &str, machine: &Machine) -> Result<Loaded, Errors> {
    load(Some((Path::new("r.toml"), text)), &[], machine)
}

fn config(text: &str) -> Config {
    match loaded_on(text, &machine()) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    }
}

fn errors_on(text: &str, machine: &Machine) -> Vec<String> {
    let errors = loaded_on(text, machine).expect_err(text);
    errors.to_string().lines().map(str::to_owned).collect()
}

fn errors(text: &str) -> Vec<String> {
    errors_on(text, &machine())
}

/// The example with the comment sign of every key removed.
fn uncommented() -> String {
    let is_key = |line: &str| {
        KEYS.iter()
            .any(|key| line.starts_with(&format!("#{} = ", key.name)))
    };
    let lines = example();
    // Tables that may stand many times follow the keys that stand once.
    let once = lines.split("#[[").next().unwrap_or_default();
    once.lines()
        .map(|line| if is_key(line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_committed_example_is_what_the_schema_writes() {
    let committed =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ringway.example.toml"))
            .expect("the example file");
    assert!(
        committed == example(),
        "ringway.example.toml is out of date: ringway example-config > ringway.example.toml"
    );
}

#[test]
fn the_example_as_it_stands_and_with_every_key_set_is_the_default() {
    assert_eq!(config(&example()), Config::default());
    let text = uncommented();
    let set = text
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#'));
    assert_eq!(
        set.count(),
        KEYS.len(),
        "every key is in the example once\n{text}"
    );
    assert_eq!(config(&text), Config::default());
    assert_eq!(config(""), Config::default());
}

/// A rule of the example with the comment sign of every key removed, and what it needs beside.
#[test]
fn a_rule_of_the_example_with_every_key_set_is_the_default_one() {
    let lines = example();
    let (_, rule) = lines.split_once("#[[route]]").expect("a rule");
    let is_key = |line: &&str| {
        ROUTE_KEYS
            .iter()
            .any(|key| line.starts_with(&format!("#{} = ", key.name)))
    };
    let keys: Vec<&str> = rule.lines().filter(is_key).map(|line| &line[1..]).collect();
    assert_eq!(keys.len(), ROUTE_KEYS.len(), "every key is in the example once");
    // What only means something with other actions is told of, and nothing else is.
    let told = errors(&format!("[[route]]\n{}\n", keys.join("\n")));
    assert!(
        told.iter().all(|line| line.contains("where action is \"ims\"")),
        "{told:#?}"
    );
    assert_eq!(config("[[route]]\naction = \"ims\"").routes, [Route::default()]);
}

const TABLE: &str = r#"
listen = ["127.0.0.1:5060", "tcp:[::1]:5070"]

[[route]]
name = "registrations"
method = ["REGISTER"]
action = "ims"

[[route]]
name = "gateway"
listener = ["udp:127.0.0.1:5060", "[::1]:5070"]
source = ["10.0.0.0/8", "::1"]
method = ["INVITE", "FROB"]
scheme = ["sip", "tel"]
user = ["alice"]
user_prefix = ["+49", "0049"]
user_pattern = '[+]?\d+'
host = ["Example.com", "*.example.net"]
from_user = ["bob"]
from_user_prefix = ["b"]
from_user_pattern = "bo?b"
from_host = ["192.0.2.1"]
header = ["Privacy", 'X-Tenant: "gold"|silver']
action = "proxy"
to = ["sip:10.0.0.1:5060", "<sip:x@10.0.0.2;transport=tcp>;q=0.5"]
fork = "serial"
ring_s = 20
record_route = false
add_path = true
recurse = true
tcp_when_large = true
strip = 1
prefix = "0"
set_host = "gw.example.com:5080"
set_header = ['X-A: b\c']
add_header = ["X-B: d, e"]
remove_header = ["X-C"]

[[route]]
action = "redirect"
to = ["sip:b@192.0.2.9"]
code = 301

[[route]]
action = "reject"
code = 503
reason = "Not Today"
retry_after_s = 30
add_header = ['Warning: 399 a "b"']

[[route]]
action = "drop"
"#;

#[test]
fn a_routing_table_loads_to_itself_from_what_is_printed() {
    let first = config(TABLE);
    assert_eq!(first.routes.len(), 5);
    assert_eq!(first.routes[1].listener_bits, 0b101);
    let statuses: Vec<u16> = first.routes.iter().map(Route::status).collect();
    assert_eq!(statuses, [403, 403, 301, 503, 403]);
    let printed = effective(&first);
    assert_eq!(config(&printed), first, "{printed}");
}

#[test]
fn mistakes_in_a_rule_are_told_as_others_are() {
    for (text, told) in [
        (
            "[[route]]\nmetod = [\"INVITE\"]\naction = \"ims\"",
            r#"r.toml:2:1: route.metod: expected a key of [[route]], found "metod"; did you mean "method"?"#,
        ),
        (
            "[[route]]\naction = \"imss\"",
            r#"r.toml:2:10: route.action: expected "ims", "proxy", "redirect", "reject" or "drop", found "imss"; did you mean "ims"?"#,
        ),
        (
            "\n[[route]]\nmethod = [\"INVITE\"]",
            "r.toml:2:1: route.action: expected what to do with the requests that match, found nothing; action is one of ims, proxy, redirect, reject, drop",
        ),
        (
            "[route]\naction = \"ims\"",
            "r.toml:1:2: route: expected tables, each beginning with [[route]], found [route]; did you mean [[route]]?",
        ),
        (
            "route = 5",
            "r.toml:1:1: route: expected tables, each beginning with [[route]], found 5; did you mean [[route]]?",
        ),
        (
            "[[route]]\naction = \"proxy\"",
            "r.toml:1:1: route.to: expected where to proxy, found nothing",
        ),
        (
            "[[route]]\naction = \"proxy\"\nto = \"registered\"",
            r#"r.toml:3:6: route.to: expected a list of texts, each "registered", "request-uri", "trunk:NAME", or a URI such as "sip:10.0.0.1:5060" or "<sip:b@10.0.0.1>;q=0.5", found "registered"; did you mean ["registered"]?"#,
        ),
        (
            "[[route]]\naction = \"ims\"\ncode = 404",
            r#"r.toml:3:8: route.code: expected no code where action is "ims", found one"#,
        ),
        (
            "[[route]]\naction = \"reject\"\ncode = 302",
            r#"r.toml:3:8: route.code: expected 400 to 699 where action is "reject", found 302"#,
        ),
        (
            "[[route]]\naction = \"redirect\"\nto = [\"registered\"]",
            "r.toml:3:6: route.to: expected URIs, found registered",
        ),
        (
            "[[route]]\naction = \"proxy\"\nmode = \"stateless\"\nto = [\"registered\"]",
            r#"r.toml:4:6: route.to: expected "request-uri" or one URI where mode is "stateless", found registered; without state a request goes to one place, and failures are not seen"#,
        ),
        (
            "[[route]]\naction = \"ims\"\nlistener = [\"127.0.0.1:5061\"]",
            r#"r.toml:3:13: route.listener: expected an address of listen, found "127.0.0.1:5061"; ringway listens on udp:127.0.0.1:5060, tcp:127.0.0.1:5060"#,
        ),
        (
            "[[route]]\naction = \"ims\"\nuser_pattern = \"[0-9\"",
            r#"r.toml:3:16: route.user_pattern: expected a regular expression for the whole text, such as "[0-9]{4,}", found "[0-9"; unclosed character class"#,
        ),
        (
            "[[route]]\naction = \"proxy\"\nto = [\"trunk:carrier\"]",
            r#"r.toml:3:6: route.to: expected a trunk of this file, found "trunk:carrier""#,
        ),
        (
            "[[route]]\naction = \"ims\"\nset_header = [\"Via: x\"]",
            r#"r.toml:3:15: route.set_header: expected "NAME: VALUE", such as "X-Tenant: gold", found "Via: x"; Via is not a rule's to change"#,
        ),
        (
            "[[route]]\naction = \"proxy\"\nto = [\"request-uri\"]\nset_user = \"a\"\nstrip = 1",
            "r.toml:4:12: route.set_user: expected either set_user, or strip and prefix, found both",
        ),
    ] {
        assert_eq!(errors(text), [told], "{text}");
    }
}

#[test]
fn more_tables_than_there_may_be_are_told_of_once_and_not_read() {
    let rules = |count: usize| "[[route]]\nactoin = \"ims\"\n".repeat(count);
    let all = errors(&rules(10_000));
    let first_beyond = "r.toml:2001:1: route: expected at most 1000 rules, found 10_000";
    assert_eq!(
        all.iter().filter(|told| *told == first_beyond).count(),
        1,
        "{}",
        all[0]
    );
    let lines = all
        .iter()
        .filter_map(|told| told.split(':').nth(1)?.parse::<usize>().ok());
    assert_eq!(lines.max(), Some(2_001), "what is beyond is not read");
    // Each of those that are read lacks its action, and has a key that there is not.
    assert_eq!(all.len(), 1 + 2 * 1_000);
    let trunks = errors(&"[[trunk]]\n".repeat(300));
    assert!(
        trunks.contains(&"r.toml:257:1: trunk: expected at most 256 trunks, found 300".to_owned()),
        "{trunks:?}"
    );
}

#[test]
fn a_key_moves_its_own_field_of_the_config() {
    // The shortest proof that the file's values arrive: one key of each kind and unit.
    let text = "drain_s = 7\nnotify_body = false\nextensions_required = [\"100Rel\"]\nlog.format = \"json\"\n\
                [timers]\nt1_ms = 20\n[limits]\nconnection_idle_s = 9\ncalls_max = 1_000\n[reg_event]\nexpires_min_s = 5\n";
    let mut expected = Config {
        drain: Duration::from_secs(7),
        ..Config::default()
    };
    expected.reg_event.notify_body = false;
    expected.extensions_required = vec!["100rel".to_owned()];
    expected.log_format = ringway::config::LogFormat::Json;
    expected.timers.t1 = Duration::from_millis(20);
    expected.limits.connection_idle = Duration::from_secs(9);
    expected.limits.calls_max = 1_000;
    expected.reg_event.expires_min_s = 5;
    assert_eq!(config(text), expected);
}

#[test]
fn the_effective_configuration_loads_to_itself() {
    let text = "listen = [\"127.0.0.1:5060\", \"tcp:[::]:5061\", \"udp:10.0.0.1:5062\", \"[::1]:0\"]\n\
                advertise = [\"tcp:[::]:5061=Sip.Example.net\", \"[::1]:0=b.example\", \"10.0.0.1:5062=203.0.113.9:6000\"]\n\
                open_registrar = true\nkernel_level = \"5.15\"\ncpus = [0, 0]\ndomains = [\"[2001:db8::0:1]\", \"ONE.att.net\"]\n\
                log.level = 'info,[call{id=\"a\\d\"}]=trace'\n";
    let first = config(text);
    assert_eq!(first.shards, 2);
    assert_eq!(first.domains, ["[2001:db8::1]", "one.att.net"]);
    assert_eq!(config(&effective(&first)), first, "{}", effective(&first));
}

#[test]
fn a_text_with_control_characters_is_printed_so_that_it_loads() {
    let first = config("[records]\ndirectory = \"/tmp/a\\nb\\u001b\\\"\\\\\\u007f\"\n");
    assert_eq!(config(&effective(&first)), first);
}

#[test]
fn every_mistake_names_place_key_expectation_finding_and_near_miss() {
    for (text, told) in [
        (
            "shards = \"two\"",
            r#"r.toml:1:10: shards: expected an integer from 0 to 64 (shards), found "two""#,
        ),
        (
            "shards = 65",
            "r.toml:1:10: shards: expected an integer from 0 to 64 (shards), found 65",
        ),
        (
            "shards = -1",
            "r.toml:1:10: shards: expected an integer from 0 to 64 (shards), found -1",
        ),
        (
            "shards = 99999999999999999999",
            "r.toml:1:10: shards: expected an integer from 0 to 64 (shards), found 99999999999999999999",
        ),
        (
            "shards = \"2\"",
            r#"r.toml:1:10: shards: expected an integer from 0 to 64 (shards), found "2"; did you mean 2, without quotes?"#,
        ),
        (
            "drain_s = \"30s\"",
            r#"r.toml:1:11: drain_s: expected an integer from 0 to 86_400 (seconds), found "30s"; a number alone: the unit is that of the key"#,
        ),
        (
            "open_registrar = 1",
            "r.toml:1:18: open_registrar: expected true or false, found 1",
        ),
        (
            "# \u{e9}\n\n  kernel_level = 5.10",
            r#"r.toml:3:18: kernel_level: expected "auto" or a kernel version of at least 5.10 in quotes, such as "5.10" or "6.1", found 5.10; did you mean "5.10", in quotes?"#,
        ),
        (
            "domains = \"a.example\"",
            r#"r.toml:1:11: domains: expected a list of texts, each a host name such as "one.att.net" or an IP address, found "a.example"; did you mean ["a.example"]?"#,
        ),
        (
            "domains = [\"a.example\", \"b_example\"]",
            r#"r.toml:1:25: domains: expected a host name such as "one.att.net" or an IP address, found "b_example""#,
        ),
        (
            "[timers]\ntimer_x_ms = 1",
            r#"r.toml:2:1: timers.timer_x_ms: expected a key of [timers], found "timer_x_ms"; did you mean "timer_d_ms"?"#,
        ),
        (
            "[timers]\ntimer_c = 1",
            r#"r.toml:2:1: timers.timer_c: expected a key of [timers], found "timer_c"; did you mean "timer_c_ms"?"#,
        ),
        (
            "t1_ms = 100",
            r#"r.toml:1:1: t1_ms: expected a key or section of ringway, found "t1_ms"; "t1_ms" belongs to [timers]"#,
        ),
        (
            "[log]\nshards = 2",
            r#"r.toml:2:1: log.shards: expected a key of [log], found "shards"; "shards" belongs to the top of the file, before the first section"#,
        ),
        (
            "call_max = 5",
            r#"r.toml:1:1: call_max: expected a key or section of ringway, found "call_max"; did you mean "calls_max" of [limits]?"#,
        ),
        (
            "[limit]\ncalls_max = 5",
            r#"r.toml:1:2: limit: expected a key or section of ringway, found "limit"; did you mean [limits]?"#,
        ),
        ("log = 3", "r.toml:1:1: log: expected a section, [log], found 3"),
        (
            "zzz = 3",
            r#"r.toml:1:1: zzz: expected a key or section of ringway, found "zzz""#,
        ),
        (
            "log.format = \"jsn\"",
            r#"r.toml:1:14: log.format: expected "human" or "json", found "jsn"; did you mean "json"?"#,
        ),
        (
            "shards = 1\nshards = 2",
            r#"r.toml:2:1: shards: expected each key and section once, found "shards" again"#,
        ),
        (
            "[limits]\ncalls_max =\n",
            r#"r.toml:2:12: limits.calls_max: expected TOML: key = value, found "calls_max ="; the value is missing"#,
        ),
    ] {
        assert_eq!(errors(text), [told]);
    }
}

#[test]
fn a_mistake_of_syntax_is_told_of_the_table_that_it_is_in() {
    for (table, key) in [
        ("[[route]]\naction =", "route.action"),
        ("[[trunk]]\nname =", "trunk.name"),
        ("[hosts]\npbx =", "hosts.pbx"),
    ] {
        let told = errors(&format!("[limits]\ncalls_max = 5\n{table}\n"));
        let of_line: Vec<&String> = told.iter().filter(|line| line.starts_with("r.toml:4:")).collect();
        assert!(
            matches!(of_line[..], [line] if line.contains(&format!(": {key}: expected TOML"))),
            "{told:?}"
        );
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_its_order() {
    let text = "shards = 99\nlisten = [\"x\", \"y\"]\nbad =\n[timers\nt1_ms = 7\nt9_ms = 1\n[limits]\ncalls = 1\n[log]\nlevel = 1\n";
    let places: Vec<Origin> = loaded_on(text, &machine())
        .expect_err("mistakes")
        .list
        .iter()
        .map(|error| error.origin)
        .collect();
    let at = |line, column| Origin::File { line, column };
    // The lines below the broken header are of no known section: nothing is said of them.
    assert_eq!(
        places,
        [
            at(1, 10),
            at(2, 11),
            at(2, 16),
            at(3, 6),
            at(4, 8),
            at(8, 1),
            at(10, 9)
        ]
    );
}

#[test]
fn addresses_are_told_apart_from_their_usual_slips() {
    for (listen, hint) in [
        ("127.0.0.1", "did you mean \"127.0.0.1:5060\"?"),
        ("::1", "did you mean \"[::1]:5060\"?"),
        ("[::1]", "did you mean \"[::1]:5060\"?"),
        ("fe80::1::5060", ""),
        (":5060", "did you mean \"0.0.0.0:5060\"?"),
        ("*:5060", "did you mean \"0.0.0.0:5060\"?"),
        ("5061", "did you mean \"0.0.0.0:5061\"?"),
        ("localhost:5060", "did you mean \"127.0.0.1:5060\"?"),
        (
            "sip.example.net:5060",
            "names are not looked up here: give the address",
        ),
        ("tls:127.0.0.1:5061", "the transports are udp and tcp"),
        ("224.0.0.1:5060", "224.0.0.1 is a multicast address"),
        ("127.0.0.1:99999", ""),
        ("", ""),
    ] {
        let text = format!("listen = [\"{listen}\"]");
        let told = &loaded_on(&text, &machine()).expect_err(listen).list;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].hint.as_deref().unwrap_or_default(), hint, "{listen}");
    }
}

#[test]
fn a_bare_address_is_udp_and_tcp_and_a_prefix_is_one_of_them() {
    let listeners =
        config("listen = [\"127.0.0.1:5060\", \"UDP:[::1]:5061\", \"tcp:127.0.0.1:5062\"]").listeners;
    let listener = |transport, addr: &str| Listener {
        transport,
        addr: addr.parse().expect("an address"),
        advertised: addr.to_owned(),
        state: ringway::config::ListenerState::Open,
    };
    assert_eq!(
        listeners,
        [
            listener(Transport::Udp, "127.0.0.1:5060"),
            listener(Transport::Tcp, "127.0.0.1:5060"),
            listener(Transport::Udp, "[::1]:5061"),
            listener(Transport::Tcp, "127.0.0.1:5062"),
        ]
    );
    assert_eq!(
        errors("listen = [\"127.0.0.1:5060\",\n \"tcp:127.0.0.1:5060\"]"),
        [
            r#"r.toml:2:2: listen: expected an address that no other entry has, found "tcp:127.0.0.1:5060"; TCP 127.0.0.1:5060 has it already"#
        ]
    );
    let told = errors(
        "open_registrar = true\nadvertise = [\"a.example\"]\nlisten = [\"10.0.0.1:5060\", \"udp:0.0.0.0:5060\"]",
    );
    assert!(
        told.len() == 1 && told[0].ends_with("found \"udp:0.0.0.0:5060\"; UDP 10.0.0.1:5060 has it already"),
        "{told:?}"
    );
    assert_eq!(
        config("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]")
            .listeners
            .len(),
        4,
        "two ports of the system's choice"
    );
    assert_eq!(
        errors("listen = []"),
        ["r.toml:1:10: listen: expected at least one address, found none"]
    );
}

#[test]
fn an_address_beyond_loopback_is_refused_until_the_registrar_is_declared_open() {
    for addr in ["10.0.0.1:5060", "[2001:db8::1]:5060", "[::ffff:10.0.0.1]:5060"] {
        let told = errors(&format!("listen = [\"127.0.0.1:5060\", \"{addr}\"]"));
        assert_eq!(told.len(), 1, "{told:?}");
        let start = format!(
            "r.toml:1:29: listen: expected a loopback address, found \"{addr}\"; nobody authenticates yet"
        );
        assert!(
            told[0].starts_with(&start) && told[0].contains("set open_registrar = true or --open-registrar"),
            "{told:?}"
        );
        config(&format!("open_registrar = true\nlisten = [\"{addr}\"]"));
    }
    config("listen = [\"127.9.9.9:5060\", \"[::1]:5060\", \"[::ffff:127.0.0.1]:5061\"]");
}

fn advertised(text: &str, machine: &Machine) -> Vec<String> {
    let loaded =
        loaded_on(&format!("open_registrar = true\n{text}"), machine).unwrap_or_else(|e| panic!("{e}"));
    loaded
        .config
        .listeners
        .iter()
        .map(|l| l.advertised.clone())
        .collect()
}

#[test]
fn a_wildcard_calls_itself_by_the_machines_primary_address_and_says_so() {
    let machine = Machine {
        primary_v4: Some([192, 0, 2, 7].into()),
        ..machine()
    };
    let text = "open_registrar = true\nlisten = [\"0.0.0.0:5060\"]\n";
    let loaded = loaded_on(text, &machine).expect("an address is known");
    assert!(
        loaded
            .config
            .listeners
            .iter()
            .all(|l| l.advertised == "192.0.2.7:5060")
    );
    let said = loaded
        .notices
        .iter()
        .filter(|n| matches!(n, Notice::Derived(text) if text.contains("192.0.2.7:5060")));
    assert_eq!(said.count(), 1);
    let told = errors_on("open_registrar = true\nlisten = [\"[::]:5060\"]", &machine);
    assert_eq!(told.len(), 1, "once for UDP and TCP: {told:?}");
    assert!(
        told[0].starts_with("r.toml:2:11: listen: expected an address that others can send to"),
        "{told:?}"
    );
}

#[test]
fn the_closest_entry_of_advertise_speaks_for_a_listener() {
    let m = machine();
    assert_eq!(
        advertised(
            "listen = [\"udp:0.0.0.0:5060\", \"udp:[::]:5060\"]\nadvertise = [\"203.0.113.1\", \"[2001:db8::1]:7\"]",
            &m
        ),
        ["203.0.113.1:5060", "[2001:db8::1]:7"],
        "an address is for its own family"
    );
    assert_eq!(
        advertised(
            "listen = [\"10.0.0.1:5060\", \"udp:10.0.0.2:5060\"]\n\
             advertise = [\"a.example\", \"10.0.0.1:5060=B.example:6000\", \"tcp:10.0.0.1:5060 = c.example\"]",
            &m
        ),
        ["b.example:6000", "c.example:5060", "a.example:5060"]
    );
    let told = errors("advertise = [\"a.example\", \"b.example\", \"127.0.0.1:7=c.example\"]");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("r.toml:1:27: advertise: expected one entry for UDP 127.0.0.1:5060"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("r.toml:1:40: advertise: expected an entry that some listener uses"),
        "{told:?}"
    );
}

#[test]
fn what_advertise_may_not_say_is_refused() {
    for (entry, hint) in [
        ("0.0.0.0", "nobody can send to 0.0.0.0"),
        ("::1", "did you mean \"[::1]\"?"),
        ("a_b.example", ""),
        ("-a.example", ""),
        ("10.0.0.300", ""),
        ("a.example:0", ""),
        ("a.example:sip", ""),
        ("a.example>;x", ""),
        ("127.0.0.1=a.example", "did you mean \"127.0.0.1:5060\"?"),
        ("", ""),
    ] {
        let told = &loaded_on(&format!("advertise = [\"{entry}\"]"), &machine())
            .expect_err(entry)
            .list;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].hint.as_deref().unwrap_or_default(), hint, "{entry}");
    }
}

#[test]
fn keys_that_contradict_each_other_are_told_where_one_was_set() {
    for (text, told) in [
        (
            "[registrar]\nexpires_min_s = 100\nexpires_default_s = 90",
            "r.toml:2:17: registrar.expires_min_s: expected at most registrar.expires_default_s, 90, found 100",
        ),
        (
            "[registrar]\nexpires_max_s = 3600",
            "r.toml:2:17: registrar.expires_max_s: expected at least registrar.expires_default_s, 600_000, found 3600",
        ),
        (
            "[reg_event]\nexpires_default_s = 700000",
            "r.toml:2:21: reg_event.expires_default_s: expected at most reg_event.expires_max_s, 600_000, found 700_000",
        ),
        (
            "[timers]\nt2_ms = 100",
            "r.toml:2:9: timers.t2_ms: expected at least timers.t1_ms, 500, found 100",
        ),
        (
            "[limits]\nmessage_bytes_max = 2_000\nbody_bytes_max = 3_000",
            "r.toml:3:18: limits.body_bytes_max: expected at most limits.message_bytes_max, 2000, found 3000",
        ),
        (
            "[limits]\nsend_queue_bytes_max = 5_000",
            "r.toml:2:24: limits.send_queue_bytes_max: expected at least limits.message_bytes_max, 65_535, found 5000",
        ),
        (
            "[limits]\nmailbox_bytes = 5_000",
            "r.toml:2:17: limits.mailbox_bytes: expected at least 65_791, room for one message, found 5000",
        ),
        (
            "shards = 4\n[limits]\ncalls_max = 3",
            "r.toml:3:13: limits.calls_max: expected at least 1 for each of 4 shards, found 3",
        ),
        (
            "domains = [\"a.example\", \"A.example\"]",
            "r.toml:1:11: domains: expected each domain once, found \"a.example\" again",
        ),
        (
            "cpus = [0, 5]",
            "r.toml:1:8: cpus: expected CPUs that this process may run on: [0], found 5",
        ),
    ] {
        assert_eq!(errors(text), [told]);
    }
    // Nothing is compared with a value that is itself wrong.
    assert_eq!(errors("[timers]\nt1_ms = 9_000\nt2_ms = 0").len(), 1);
}

#[test]
fn limits_that_nobody_set_follow_those_that_were() {
    let limits = config("[limits]\nmessage_bytes_max = 2_000\nconnections_max = 50").limits;
    assert_eq!(
        (limits.body_bytes_max, limits.connections_per_source_max),
        (2_000, 50)
    );
}

#[test]
fn shards_follow_the_cpus() {
    let machine = Machine {
        cpus: (0..100).collect(),
        parallelism: 90,
        ..machine()
    };
    let shards = |text: &str| loaded_on(text, &machine).expect(text).config.shards;
    assert_eq!(shards(""), 64, "the most that there can be");
    assert_eq!(shards("cpus = [1, 2, 3]"), 3);
    assert_eq!(shards("cpus = [1, 2, 3]\nshards = 2"), 2);
    let quota = Machine {
        parallelism: 2,
        ..machine.clone()
    };
    assert_eq!(
        loaded_on("", &quota).expect("defaults").config.shards,
        2,
        "a quota counts"
    );
    let unknown = Machine {
        cpus: Vec::new(),
        ..quota
    };
    assert_eq!(
        loaded_on("cpus = [7]", &unknown)
            .expect("can't be checked")
            .config
            .cpus,
        [7]
    );
}

#[test]
fn buffers_and_mailboxes_fit_the_memory_or_say_what_does_not() {
    let small = Machine {
        cpus: vec![0, 1],
        parallelism: 2,
        memory_bytes: Some(4 << 30),
        ..machine()
    };
    let loaded = loaded_on("", &small).expect("defaults are cut down");
    let mailboxes = 2 << 20;
    assert_eq!(loaded.config.limits.buffer_bytes_max, ((2 << 30) - mailboxes) / 2);
    assert!(
        loaded
            .notices
            .iter()
            .any(|n| n.text().contains("buffer_bytes_max"))
    );
    let told = errors_on("[limits]\nbuffer_bytes_max = 3_000_000_000", &small);
    assert_eq!(
        told,
        [
            "r.toml:2:20: limits.buffer_bytes_max: expected limits that fit this machine's memory of 4.00 GiB, \
          found 5.59 GiB for the buffers of 2 shards and 0.00 GiB for the mailboxes between them"
        ]
    );
    let told = errors_on("shards = 64\n[limits]\nmailbox_bytes = 10_000_000", &small);
    assert!(
        told.len() == 1 && told[0].starts_with("r.toml:3:17: limits.mailbox_bytes: "),
        "{told:?}"
    );
}

#[test]
fn connections_fit_the_open_files_or_say_what_does_not() {
    let few = Machine {
        files_max: Some(1_024),
        ..machine()
    };
    let loaded = loaded_on("", &few).expect("defaults are cut down");
    let limits = &loaded.config.limits;
    assert_eq!(
        (limits.connections_max, limits.connections_per_source_max),
        (514, 514)
    );
    // DNS has a quarter of them, at six sockets a question; what is asked for is counted, and goes before connections.
    assert_eq!(loaded.config.dns.questions_max, 1_024 / 4 / 6);
    let asked = loaded_on("[dns]\nquestions_max = 100", &few).expect("defaults are cut down");
    assert_eq!(
        (
            asked.config.dns.questions_max,
            asked.config.limits.connections_max
        ),
        (100, 1_024 - 258 - 600)
    );
    assert!(loaded.notices.iter().any(|n| n.text().contains("ulimit")));
    let told = errors_on("[limits]\nconnections_max = 1_000", &few);
    assert_eq!(
        told,
        [
            "r.toml:2:19: limits.connections_max: expected at most 514: this process may open 1024 files (ulimit -Hn) \
          and needs 510 for itself, found 1000"
        ]
    );
}

#[test]
fn what_is_legal_but_odd_is_a_warning() {
    let warned = |text: &str| {
        let loaded = loaded_on(text, &machine()).unwrap_or_else(|e| panic!("{e}"));
        let warnings = loaded.notices.iter().filter(|n| matches!(n, Notice::Warning(_)));
        warnings.map(|n| n.text().to_owned()).collect::<Vec<_>>()
    };
    assert!(warned("").is_empty());
    for (text, part) in [
        ("[timers]\ntimer_c_ms = 180_000", "timer_c_ms is 180_000"),
        ("[timers]\ntimer_d_ms = 31_999", "timer_d_ms is 31_999"),
        ("shards = 2", "2 shards share 1 CPU:"),
        (
            "open_registrar = true\nlisten = [\"udp:10.0.0.1:5060\"]",
            "UDP 10.0.0.1:5060",
        ),
    ] {
        let warnings = warned(text);
        assert!(warnings.len() == 1 && warnings[0].contains(part), "{warnings:?}");
    }
    assert!(
        warned("open_registrar = true").is_empty(),
        "loopback alone harms nobody"
    );
}

#[test]
fn log_filters_are_checked_before_they_silence_everything() {
    for right in [
        "off",
        "INFO",
        "warn,ringway::io=trace",
        "ringway::io",
        "info,[call{id=7}]=trace",
        "[call]",
    ] {
        assert_eq!(config(&format!("log.level = '{right}'")).log, right);
    }
    for wrong in ["inof", "", "info,", "ringway=loud", "sip", "3x"] {
        let told = errors(&format!("log.level = '{wrong}'"));
        assert!(
            told.len() == 1 && told[0].starts_with("r.toml:1:13: log.level: expected"),
            "{told:?}"
        );
    }
}

#[test]
fn a_file_that_is_no_text_or_no_file_is_told_by_its_name() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join("not-utf8.toml");
    std::fs::write(&path, b"shards = 1\n# \xff\n").expect("a writable directory");
    let told = load_file(Some(&path), &[], &machine())
        .expect_err("not UTF-8")
        .to_string();
    assert_eq!(
        told,
        format!("{}:2:3: expected UTF-8 text, found the byte 0xff", path.display())
    );
    let told = load_file(Some(&dir.join("none.toml")), &[], &machine())
        .expect_err("no file")
        .to_string();
    assert!(
        told.contains("none.toml: expected a file that can be read, found No such file"),
        "{told}"
    );
}

#[test]
fn every_range_in_the_schema_is_enforced_at_both_ends() {
    for key in KEYS.iter() {
        let Kind::Integer { min, max, .. } = key.kind else {
            continue;
        };
        let header = if key.section.is_empty() {
            String::new()
        } else {
            format!("[{}]\n", key.section)
        };
        let told = |n: i128| {
            let found = format!("found {n}");
            loaded_on(&format!("{header}{} = {n}\n", key.name), &machine()).is_err_and(|errors| {
                errors
                    .list
                    .iter()
                    .any(|e| e.key == key.path() && e.expected == key.expected())
                    && errors.to_string().contains(&found)
            })
        };
        assert!(
            told(i128::from(min) - 1) && told(i128::from(max) + 1),
            "{}",
            key.path()
        );
        assert!(!told(min.into()) && !told(max.into()), "{}", key.path());
    }
    assert!(
        SECTIONS
            .iter()
            .all(|(name, _)| KEYS.iter().any(|key| key.section == *name))
    );
}

#[test]
fn the_command_checks_a_file_prints_what_it_amounts_to_and_says_so_by_its_exit_code() {
    let ringway = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(args)
            .output()
            .expect("ringway starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checked.toml");
    let file = path.to_str().expect("a path in UTF-8");
    std::fs::write(
        &path,
        "shards = 1\n[limits]\nconnections_max = 10\n[timers]\ntimer_c_ms = 9\n",
    )
    .expect("a writable directory");
    let (code, out, err) = ringway(&["check", "-c", file]);
    assert_eq!(
        (code, out),
        (
            Some(0),
            format!("{file}: ok\nroutes: none, so every request goes to the phone service\n")
        ),
        "{err}"
    );
    assert!(
        err.starts_with(&format!("{file}: warning: timers.timer_c_ms is 9")),
        "{err}"
    );
    let (code, printed, _) = ringway(&["check", "--print", "-c", file]);
    assert_eq!(code, Some(0));
    assert!(printed.starts_with(&format!("# {file}: ok\n")));
    let effective = config(&printed);
    assert_eq!(
        (effective.limits.connections_max, effective.timers.timer_c),
        (10, Duration::from_millis(9))
    );
    std::fs::write(&path, "shard = 1\n[log]\nlevel = 3\n").expect("a writable directory");
    let (code, out, err) = ringway(&["check", "-c", file]);
    assert_eq!(
        (code, out.as_str(), err.lines().count()),
        (Some(2), "", 2),
        "{err}"
    );
    assert_eq!(ringway(&["example-config"]), (Some(0), example(), String::new()));
}

proptest! {
    /// A file is written by people, and may be anything.
    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC*") {
        let _ = loaded_on(&text, &machine());
    }

    #[test]
    fn no_slip_in_the_example_makes_the_loader_panic(at in any::<prop::sample::Index>(), len in 0usize..40, typed in "[\\[\\]={}\"',.#\n\u{e9}0a-]{0,3}") {
        let text = uncommented();
        let at = at.index(text.len());
        // The text has characters of two bytes.
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (start, end) = (boundary(at), boundary(at + len));
        let slipped = format!("{}{typed}{}", &text[..start], &text[end..]);
        if let Err(errors) = loaded_on(&slipped, &machine()) {
            let lines = slipped.lines().count() as u32 + 1;
            for error in &errors.list {
                prop_assert!(matches!(error.origin, Origin::File { line, .. } if (1..=lines).contains(&line)), "{errors}");
            }
        }
    }
}

#[test]
fn every_file_that_the_readme_shows_is_right() {
    let readme = include_str!("../README.md");
    let blocks: Vec<&str> = (readme.split("```toml\n").skip(1))
        .map(|rest| rest.split("```").next().expect("the block ends"))
        .collect();
    assert!(blocks.len() >= 8, "only {} are found", blocks.len());
    for block in blocks {
        config(block);
    }
}
