//! What the server does with requests in a run where it is a proxy: its routing table, drawn by the seed, and whom that names.
//!
//! The first digit of a number says which rule it goes by ([`Dialled`]). Behind the numbers of no subscriber stand gateways:
//! parties that never register, answer the OPTIONS of their trunk, and are called as the table says.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::config::route::Fork;
use crate::config::{Config, Machine, load};

use super::net::{SERVER, phone_addr};
use super::phone::DOMAIN;
use super::rng::Rng;

/// What the server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// The phone service: a B2BUA between registered phones.
    Phones,
    /// A proxy before registered phones and gateways.
    Proxy,
}

/// Parties that a run with a proxy has beside its phones.
pub const GATEWAYS: usize = 4;
/// Those, and the [`mirror`](super::mirror).
pub const OTHERS: usize = GATEWAYS + 1;

/// Which rule a number goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialled {
    /// `1...`: a subscriber, at all contacts; or a temporary GRUU, `tgruu....`
    Subscriber,
    /// `2...`: the trunk.
    Trunk,
    /// `3...`: three gateways.
    Several,
    /// `4...`: a gateway, without state.
    Stateless,
    /// `5...`: the mirror, and so the same again.
    Loop,
    /// `6...`: the mirror, without that digit.
    Spiral,
    /// `8...`: the server's own address.
    Itself,
    /// `7...`: answered with a redirection.
    Redirected,
    /// `9...`: a place that has a name.
    Named,
}

impl Dialled {
    /// By the number itself.
    pub fn number(number: &str) -> Option<Dialled> {
        match number.as_bytes().first()? {
            b'1' | b't' => Some(Dialled::Subscriber),
            b'2' => Some(Dialled::Trunk),
            b'3' => Some(Dialled::Several),
            b'4' => Some(Dialled::Stateless),
            b'5' => Some(Dialled::Loop),
            b'6' => Some(Dialled::Spiral),
            b'7' => Some(Dialled::Redirected),
            b'8' => Some(Dialled::Itself),
            b'9' => Some(Dialled::Named),
            _ => None,
        }
    }

    /// By a request URI.
    pub fn uri(uri: &str) -> Option<Dialled> {
        let (scheme, rest) = uri.split_once(':')?;
        let number = match scheme {
            "tel" => rest,
            _ => rest.split_once('@')?.0,
        };
        Dialled::number(number)
    }
}

/// How one rule forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    pub fork: Fork,
    pub record_route: bool,
    pub recurse: bool,
    pub tcp_when_large: bool,
    pub ring_s: u32,
}

/// The routing table of a run, and its trunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exchange {
    pub subscribers: Rule,
    pub several: Rule,
    /// Whether the places of that rule are request URIs of their own, and the thousandths of their preference.
    several_whole: bool,
    several_q: [u16; 3],
    pub trunk: Rule,
    pub stateless: Rule,
    pub to_mirror: Rule,
    select: &'static str,
    priorities: [u16; GATEWAYS],
    pub answer_timeout: Duration,
    pub fails_over_on: &'static [u16],
    /// 0: none.
    pub calls_max: u32,
    pub destination_calls_max: u32,
    calls_per_second_max: u32,
    pub ping_interval: Duration,
    /// Where the gateways begin among the parties.
    first_gateway: usize,
    pub names: Option<ByName>,
}

/// What is written as a name where DNS is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByName {
    rule: Rule,
    place: &'static str,
    stateless: bool,
    pub trunk: bool,
}

impl ByName {
    pub fn draw(own: &mut Rng) -> ByName {
        ByName {
            rule: rule(own),
            place: own.pick(&[
                "sip:carrier.test",
                "sip:carrier.test",
                "sip:carrier.test;transport=udp",
                "sip:carrier.test;transport=tcp",
                "sip:h1.carrier.test:5060",
            ]),
            stateless: own.one_in(2),
            trunk: own.one_in(2),
        }
    }
}

impl Exchange {
    /// Whether the large requests of some dialogs go over TCP and the small ones over UDP.
    pub fn splits_dialogs(&self) -> bool {
        let rules = [self.subscribers, self.several, self.trunk, self.to_mirror];
        rules.iter().any(|rule| rule.record_route && rule.tcp_when_large)
    }

    pub fn draw(phones: usize, rng: &mut Rng) -> Exchange {
        Exchange {
            subscribers: rule(rng),
            several: rule(rng),
            several_whole: rng.one_in(2),
            several_q: std::array::from_fn(|_| rng.pick(&[1_000, 1_000, 500, 250])),
            trunk: rule(rng),
            stateless: rule(rng),
            to_mirror: rule(rng),
            select: rng.pick(&["round-robin", "weight", "hash", "least-calls"]),
            priorities: std::array::from_fn(|_| rng.pick(&[1, 1, 2])),
            answer_timeout: rng.pick(&[
                Duration::from_millis(300),
                Duration::from_secs(4),
                Duration::from_secs(40),
            ]),
            fails_over_on: rng.pick(&[&[503], &[503, 500, 486], &[]]),
            calls_max: rng.pick(&[0, 0, 2, 5]),
            destination_calls_max: rng.pick(&[0, 0, 1, 3]),
            calls_per_second_max: rng.pick(&[0, 0, 2]),
            ping_interval: rng.pick(&[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(30)]),
            first_gateway: phones,
            names: None,
        }
    }

    /// The place of a rule that has one by name.
    pub fn place_of(&self, dialled: Dialled) -> Option<String> {
        let names = self.names?;
        match dialled {
            Dialled::Named => Some(names.place.to_owned()),
            Dialled::Stateless => names.stateless.then(|| "sip:gw0.test".to_owned()),
            Dialled::Subscriber
            | Dialled::Trunk
            | Dialled::Several
            | Dialled::Loop
            | Dialled::Spiral
            | Dialled::Itself
            | Dialled::Redirected => None,
        }
    }

    pub fn gateway(&self, nth: usize) -> usize {
        self.first_gateway + nth
    }

    pub fn mirror(&self) -> usize {
        self.first_gateway + GATEWAYS
    }

    /// The rule that a request goes by which does not belong to a dialog.
    pub fn rule(&self, dialled: Dialled) -> Option<&Rule> {
        match dialled {
            Dialled::Subscriber => Some(&self.subscribers),
            Dialled::Trunk => Some(&self.trunk),
            Dialled::Several => Some(&self.several),
            Dialled::Stateless => Some(&self.stateless),
            Dialled::Loop | Dialled::Spiral | Dialled::Itself => Some(&self.to_mirror),
            Dialled::Named => self.names.as_ref().map(|names| &names.rule),
            Dialled::Redirected => None,
        }
    }

    /// The routing table as a configuration file has it.
    pub fn table(&self) -> String {
        let mut text = String::new();
        _ = write!(
            text,
            "[[trunk]]\nname = \"carrier\"\nselect = \"{}\"\n",
            self.select
        );
        let destinations: Vec<String> = (0..GATEWAYS)
            .map(|nth| {
                let calls = match self.destination_calls_max {
                    0 => String::new(),
                    most => format!(" calls={most}"),
                };
                let priority = self.priorities[nth];
                let place = match self.names {
                    Some(ByName { trunk: true, .. }) => format!("gw{nth}.test"),
                    Some(_) | None => self.at(nth).to_string(),
                };
                format!("\"sip:{place} priority={priority}{calls}\"")
            })
            .collect();
        let failover: Vec<String> = (self.fails_over_on.iter())
            .map(|code| format!("\"{code}\""))
            .collect();
        _ = writeln!(
            text,
            "destinations = [{}]\nfailover = [{}]\nanswer_timeout_ms = {}\ncalls_max = {}\n\
             calls_per_second_max = {}\nping_interval_ms = {}",
            destinations.join(", "),
            failover.join(", "),
            self.answer_timeout.as_millis(),
            self.calls_max,
            self.calls_per_second_max,
            self.ping_interval.as_millis(),
        );
        let several: Vec<String> = (0..3)
            .map(|nth| {
                let user = if self.several_whole {
                    format!("gw{nth}@")
                } else {
                    String::new()
                };
                let q = self.several_q[nth];
                let q = if q == 1_000 {
                    "1".to_owned()
                } else {
                    format!("0.{q:03}")
                };
                format!("\"<sip:{user}{}>;q={q}\"", self.at(nth))
            })
            .collect();
        let itself = format!("\"sip:{SERVER}\"");
        let mirror = format!("\"sip:{}\"", phone_addr(self.mirror()));
        let stateless = match self.place_of(Dialled::Stateless) {
            Some(place) => format!("\"{place}\""),
            None => format!("\"sip:{}\"", self.at(0)),
        };
        let mut add = |digit: &str, to: &str, rule: &Rule, more: &str| {
            let Rule {
                fork,
                record_route,
                recurse,
                tcp_when_large,
                ring_s,
            } = rule;
            _ = writeln!(
                text,
                "[[route]]\nmethod = [\"INVITE\", \"MESSAGE\", \"OPTIONS\", \"CANCEL\", \"ACK\"]\nuser_prefix = [\"{digit}\"]\n\
                 action = \"proxy\"\nto = [{to}]\nrecord_route = {record_route}{more}"
            );
            // Without state there is but one place.
            if digit != "4" {
                _ = writeln!(
                    text,
                    "fork = \"{}\"\nrecurse = {recurse}\nring_s = {ring_s}\ntcp_when_large = {tcp_when_large}",
                    fork.text()
                );
            }
        };
        add("1\", \"tgruu.", "\"registered\"", &self.subscribers, "");
        add("2", "\"trunk:carrier\"", &self.trunk, "");
        add("3", &several.join(", "), &self.several, "");
        add("4", &stateless, &self.stateless, "\nmode = \"stateless\"");
        add("5", &mirror, &self.to_mirror, "");
        add("6", &mirror, &self.to_mirror, "\nstrip = 1");
        add("8", &itself, &self.to_mirror, "");
        if let Some(names) = &self.names {
            add("9", &format!("\"{}\"", names.place), &names.rule, "");
        }
        _ = writeln!(
            text,
            "[[route]]\nmethod = [\"INVITE\", \"MESSAGE\", \"OPTIONS\"]\nuser_prefix = [\"7\"]\naction = \"redirect\"\n\
             to = [\"sip:gw0@{}\"]",
            self.at(0)
        );
        text
    }

    fn at(&self, nth: usize) -> std::net::SocketAddr {
        phone_addr(self.gateway(nth))
    }

    /// Has `cfg` go by the table.
    pub fn configure(&self, cfg: &mut Config) {
        let machine = Machine {
            cpus: Vec::new(),
            parallelism: 1,
            memory_bytes: None,
            files_max: None,
            primary_v4: None,
            primary_v6: None,
        };
        let loaded = load(Some((Path::new("exchange.toml"), &self.table())), &[], &machine);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}")).config;
        cfg.routes = loaded.routes;
        cfg.trunks = loaded.trunks;
    }

    /// A number that somebody may dial, and how likely each kind is.
    pub fn some_number(&self, users: &[String], rng: &mut Rng) -> String {
        if self.names.is_some() && rng.one_in(4) {
            return format!("9{:04}", rng.below(10_000));
        }
        let subscriber = |rng: &mut Rng| users[rng.below(users.len())].clone();
        match rng.below(40) {
            0..=15 => subscriber(rng),
            16..=23 => format!("2{:04}", rng.below(10_000)),
            24..=30 => format!("3{:04}", rng.below(10_000)),
            31..=33 => format!("4{:04}", rng.below(10_000)),
            34 => format!("5{:04}", rng.below(10_000)),
            35 => format!("6{}", subscriber(rng)),
            36 => format!("62{:04}", rng.below(10_000)),
            37 => format!("63{:04}", rng.below(10_000)),
            38 if rng.one_in(2) => format!("8{:04}", rng.below(10_000)),
            38 => format!("7{:04}", rng.below(10_000)),
            _ => "13800099999".to_owned(),
        }
    }

    /// Where a party that is called says that another is: mostly one there is.
    pub fn elsewhere(&self, users: &[String], rng: &mut Rng) -> String {
        if self.names.is_some() && rng.one_in(4) {
            return rng
                .pick(&["sip:p@carrier.test", "sip:p@gw1.test", "sip:p@dead.test"])
                .to_owned();
        }
        match rng.below(8) {
            0 => "sip:elsewhere@192.0.2.7:5060".to_owned(),
            1 => format!("sip:{}@{SERVER}", users[rng.below(users.len())]),
            2 => format!("sip:2777@{SERVER}"),
            3 => format!("sip:nobody@{DOMAIN}"),
            _ => {
                let party = rng.below(self.first_gateway + GATEWAYS);
                format!("sip:p{party}@{}", phone_addr(party))
            }
        }
    }
}

fn rule(rng: &mut Rng) -> Rule {
    Rule {
        fork: rng.pick(&[Fork::ByQ, Fork::Parallel, Fork::Serial]),
        record_route: !rng.one_in(3),
        recurse: rng.one_in(2),
        tcp_when_large: rng.one_in(4),
        ring_s: rng.pick(&[1, 5, 30]),
    }
}
