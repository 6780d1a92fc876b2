//! Phones that do what they like: seeded crowds that call, answer late, twice or never, cancel, hang up from both ends, repeat
//! and lose messages, and send damaged ones. Whatever they do the core neither panics nor leaves anything behind.
//!
//! `CHAOS_SEEDS=from..to cargo test --test chaos` runs other seeds; a failing one is named.

#[path = "core/world.rs"]
mod world;

use bench_harness::sip::{Message, uri};
use world::World;

/// A small generator of its own (SplitMix64), so that a seed means the same for ever.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const PHONES: usize = 6;

fn at(phone: usize) -> String {
    format!("127.0.1.{}:5060", phone + 1)
}

struct Crowd {
    rng: Rng,
    world: World,
    serial: u64,
    /// What was sent lately, by whom: to be repeated, answered again, cancelled, or damaged.
    sent: Vec<(usize, Message)>,
    /// What each phone was sent lately.
    heard: Vec<(usize, Message)>,
    damages: bool,
}

impl Crowd {
    fn send(&mut self, phone: usize, message: Message) {
        let copies = match self.rng.below(20) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let mut bytes = message.to_bytes();
            if self.damages && self.rng.one_in(8) {
                self.damage(&mut bytes);
            }
            if self.rng.one_in(6) {
                self.world.tcp_bytes(&at(phone), &bytes);
            } else {
                self.world.udp_bytes(&at(phone), &bytes);
            }
        }
        self.sent.push((phone, message));
        if self.sent.len() > 60 {
            self.sent.remove(0);
        }
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.rng.below(3) {
            if bytes.is_empty() {
                return;
            }
            let place = self.rng.below(bytes.len());
            match self.rng.below(5) {
                0 => bytes[place] = self.rng.next() as u8,
                1 => bytes.truncate(place),
                2 => drop(bytes.remove(place)),
                3 => bytes.insert(place, b"\r\n;,<>\":@= \0"[self.rng.below(12)]),
                _ => {
                    let end = (place + self.rng.below(200)).min(bytes.len());
                    let part = bytes[place..end].to_vec();
                    bytes.splice(place..place, part);
                }
            }
        }
    }

    fn id(&mut self) -> String {
        self.serial += 1;
        format!("x{}", self.serial)
    }

    fn request(&mut self, phone: usize, method: &str, to: &str) -> Message {
        let (branch, tag, call_id) = (self.id(), self.id(), self.id());
        Message::request(method, to)
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{branch}", at(phone)))
            .with("From", format!("<sip:p{phone}@one.att.net>;tag={tag}"))
            .with("To", format!("<{to}>"))
            .with("Call-ID", call_id)
            .with("CSeq", format!("{} {method}", 1 + self.rng.below(1_000)))
            .with("Max-Forwards", self.rng.below(71))
            .with("Contact", self.contact(phone))
    }

    fn contact(&mut self, phone: usize) -> String {
        match self.rng.below(12) {
            0 => format!("<sip:p{phone}@{};transport=tcp>", at(phone)),
            1 => "<sip:127.0.0.1:5060>".to_owned(),
            2 => format!("sip:p{phone}@{}", at(phone)),
            _ => format!("<sip:p{phone}@{}>;audio", at(phone)),
        }
    }

    fn step(&mut self) {
        let phone = self.rng.below(PHONES);
        let other = self.rng.below(PHONES + 1);
        let callee = format!("sip:p{other}@one.att.net");
        match self.rng.below(14) {
            0 | 1 => {
                let register = self
                    .request(phone, "REGISTER", "sip:one.att.net")
                    .setting("To", format!("<sip:p{phone}@one.att.net>"));
                let register = match self.rng.below(6) {
                    0 => register.setting("Contact", "*").with("Expires", 0),
                    1 => register.with("Expires", 60 + self.rng.below(100)),
                    _ => register,
                };
                self.send(phone, register.with("Content-Length", 0));
            }
            2 => {
                let aor = format!("sip:p{}@one.att.net", self.rng.below(PHONES));
                let expires = [0, 61, 600_000][self.rng.below(3)];
                let subscribe = self
                    .request(phone, "SUBSCRIBE", &aor)
                    .with("Event", "reg")
                    .with("Expires", expires);
                self.send(phone, subscribe.with("Content-Length", 0));
            }
            3..=5 => {
                let invite = self
                    .request(phone, "INVITE", &callee)
                    .with_body("application/sdp", "v=0\r\n");
                self.send(phone, invite);
            }
            6 => {
                let message = self
                    .request(phone, "MESSAGE", &callee)
                    .with_body("text/plain", "hi");
                self.send(phone, message);
            }
            7 if !self.sent.is_empty() => {
                let (phone, message) = self.sent[self.rng.below(self.sent.len())].clone();
                if message.is_request("INVITE") && self.rng.one_in(2) {
                    let number = message.cseq().0;
                    let mut cancel = Message::request("CANCEL", message.uri().unwrap_or("sip:x"))
                        .with("CSeq", format!("{number} CANCEL"))
                        .with("Content-Length", 0);
                    for name in ["Via", "From", "To", "Call-ID"] {
                        cancel = cancel.with(name, message.text(name));
                    }
                    self.send(phone, cancel);
                } else {
                    self.send(phone, message);
                }
            }
            8..=11 if !self.heard.is_empty() => self.within_a_call(),
            _ => {
                let ms = [1, 20, 600, 5_000, 40_000][self.rng.below(5)];
                self.world.advance(ms);
            }
        }
        self.react();
    }

    /// A request in a dialog that a phone knows of: as caller by a response, as callee by an INVITE.
    fn within_a_call(&mut self) {
        let (phone, heard) = self.heard[self.rng.below(self.heard.len())].clone();
        let method = ["BYE", "INFO", "INVITE", "UPDATE", "ACK", "PRACK", "REFER"][self.rng.below(7)];
        let number = match self.rng.below(3) {
            0 => heard.cseq().0,
            _ => heard.cseq().0 + 1 + self.rng.below(5) as u32,
        };
        let (from, to) = match heard.status() {
            Some(_) => (heard.text("From").to_owned(), heard.text("To").to_owned()),
            None => {
                let tag = format!("t{phone}");
                (
                    format!("{};tag={tag}", heard.text("To")),
                    heard.text("From").to_owned(),
                )
            }
        };
        let branch = self.id();
        let mut routes = heard.get_all("Record-Route");
        if heard.status().is_some() {
            routes.reverse();
        }
        if self.rng.one_in(8) {
            routes.clear();
        }
        let mut request = Message::request(method, uri(heard.text("Contact")))
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{branch}", at(phone)));
        for route in routes {
            request = request.with("Route", route);
        }
        let request = request
            .with("From", from)
            .with("To", to)
            .with("Call-ID", heard.text("Call-ID"))
            .with("CSeq", format!("{number} {method}"))
            .with("RAck", format!("1 {} INVITE", heard.cseq().0))
            .with("Contact", self.contact(phone))
            .with("Content-Length", 0);
        self.send(phone, request);
    }

    /// Phones answer what they were sent, more or less.
    fn react(&mut self) {
        for _ in 0..100 {
            let Some((to, message)) = self.world.take_any() else {
                return;
            };
            let Some(phone) = (0..PHONES).find(|phone| at(*phone) == to.to_string()) else {
                continue;
            };
            self.heard.push((phone, message.clone()));
            if self.heard.len() > 60 {
                self.heard.remove(0);
            }
            if message.status().is_some() {
                if message.status() == Some(200) && message.cseq().1 == "INVITE" && !self.rng.one_in(5) {
                    let ack = Message::request("ACK", uri(message.text("Contact")))
                        .with(
                            "Via",
                            format!("SIP/2.0/UDP {};branch=z9hG4bK{}", at(phone), self.id()),
                        )
                        .with("From", message.text("From"))
                        .with("To", message.text("To"))
                        .with("Call-ID", message.text("Call-ID"))
                        .with("CSeq", format!("{} ACK", message.cseq().0))
                        .with("Content-Length", 0);
                    self.send(phone, ack);
                }
                continue;
            }
            if message.is_request("ACK") {
                continue;
            }
            let answers: &[u16] = match self.rng.below(10) {
                0 => &[],
                1 => &[486],
                2 => &[100, 180],
                3 => &[302],
                4 => &[200, 200],
                5 => &[603],
                6 => &[180, 480],
                _ => &[100, 180, 200],
            };
            for status in answers {
                let tag = if self.rng.one_in(15) {
                    self.id()
                } else {
                    format!("t{phone}")
                };
                let mut response = Message::response(*status, "Whatever");
                for name in ["Via", "Record-Route"] {
                    for value in message.get_all(name) {
                        response.insert(name, value);
                    }
                }
                let to = message.text("To");
                let to = if to.contains(";tag=") || *status == 100 {
                    to.to_owned()
                } else {
                    format!("{to};tag={tag}")
                };
                let response = response
                    .with("From", message.text("From"))
                    .with("To", to)
                    .with("Call-ID", message.text("Call-ID"))
                    .with("CSeq", message.text("CSeq"))
                    .with("Contact", self.contact(phone))
                    .with("Content-Length", 0);
                self.send(phone, response);
            }
        }
    }
}

/// Buffers that a step finds where they are withheld: none to more than it needs.
const BUFFERS_PER_STEP: usize = 9;

#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// Messages are damaged on their way.
    Damages,
    /// Each step of a shard finds few buffers free, or none.
    NoBuffers,
}

/// Where everything goes but registrations: the phone service, or the proxy in all its ways.
#[derive(Clone, Copy, Debug)]
enum Service {
    Phones,
    Proxy,
}

/// One rule of each kind, chosen by who is called.
const PROXY: &str = r#"
    [[route]]
    method = ["REGISTER"]
    action = "ims"
    [[route]]
    user = ["p0", "p1"]
    action = "proxy"
    to = ["registered"]
    ring_s = 5
    recurse = true
    tcp_when_large = true
    [[route]]
    user = ["p2"]
    action = "proxy"
    to = ["sip:p0@127.0.1.1:5060", "sip:p1@127.0.1.2:5060", "<sip:p3@127.0.1.4:5060;transport=tcp>;q=0.4", "sip:x@nowhere.example"]
    fork = "serial"
    ring_s = 5
    [[route]]
    user = ["p3"]
    action = "proxy"
    to = ["sip:p0@127.0.1.1:5060", "sip:p1@127.0.1.2:5060", "sip:127.0.1.5:5060"]
    fork = "parallel"
    add_header = ["X-Way: north"]
    [[route]]
    user = ["p4"]
    action = "proxy"
    to = ["sip:127.0.1.6:5060"]
    mode = "stateless"
    [[route]]
    user = ["p5"]
    action = "ims"
    set_user = "p0"
    [[route]]
    action = "proxy"
    to = ["request-uri"]
"#;

fn routes(service: Service) -> Vec<ringway::config::route::Route> {
    let text = match service {
        Service::Phones => "",
        Service::Proxy => PROXY,
    };
    let machine = ringway::config::Machine {
        cpus: Vec::new(),
        parallelism: 1,
        memory_bytes: None,
        files_max: None,
        primary_v4: None,
        primary_v6: None,
    };
    match ringway::config::load(Some((std::path::Path::new("r.toml"), text)), &[], &machine) {
        Ok(loaded) => loaded.config.routes,
        Err(errors) => panic!("{errors}"),
    }
}

fn run(seed: u64, trouble: Trouble, service: Service) {
    let mut rng = Rng(seed);
    let shards = [1, 2, 4][rng.below(3)];
    let mut world = World::with(shards, |cfg| {
        cfg.registrar.expires_min_s = 1;
        cfg.routes = routes(service);
        if seed.is_multiple_of(4) {
            // Now and then everything is scarce.
            cfg.limits.calls_max = 4 * shards;
            cfg.limits.transactions_max = 40 * shards;
            cfg.limits.aors_max = 3 * shards;
            cfg.limits.subscriptions_max = 2 * shards;
            cfg.limits.buffer_bytes_max = 200_000;
        }
        if matches!(trouble, Trouble::NoBuffers) {
            cfg.limits.buffer_bytes_max = 60 * 73_728;
        }
    });
    let damages = matches!(trouble, Trouble::Damages);
    world.is_damaged = damages;
    let mut crowd = Crowd {
        rng,
        world,
        serial: seed << 20,
        sent: Vec::new(),
        heard: Vec::new(),
        damages,
    };
    for _ in 0..150 {
        if matches!(trouble, Trouble::NoBuffers) {
            let left = crowd.rng.below(3 * BUFFERS_PER_STEP);
            crowd.world.shards.buffers_per_step = (left < BUFFERS_PER_STEP).then_some(left);
        }
        crowd.step();
    }
    // Long after the last word no call stands but those that were answered, and those end with their time.
    for _ in 0..40 {
        crowd.world.advance(10_000);
        while crowd.world.take_any().is_some() {}
    }
    crowd.world.advance(13 * 3_600_000);
    while crowd.world.take_any().is_some() {}
    assert_eq!(crowd.world.calls(), 0, "seed {seed}: a call outlived its time");
    assert_eq!(
        crowd.world.contexts(),
        0,
        "seed {seed}: a response context outlived its transactions"
    );
    crowd.world.end();
}

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("CHAOS_SEEDS").unwrap_or_else(|_| "0..150".to_owned());
    let (from, to) = text.split_once("..").expect("CHAOS_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn each_seed(trouble: Trouble) {
    each_seed_of(trouble, Service::Phones);
}

fn each_seed_of(trouble: Trouble, service: Service) {
    for seed in seeds() {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed, trouble, service)) {
            eprintln!(
                "replay with CHAOS_SEEDS={seed}..{} ({trouble:?}, {service:?})",
                seed + 1
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn phones_that_do_what_they_like_leave_nothing_behind() {
    each_seed(Trouble::None);
}

#[test]
fn damaged_messages_neither_panic_nor_leave_anything_behind() {
    each_seed(Trouble::Damages);
}

#[test]
fn a_step_that_runs_out_of_buffers_anywhere_leaves_nothing_behind() {
    each_seed(Trouble::NoBuffers);
}

#[test]
fn a_crowd_behind_the_proxy_leaves_nothing_behind() {
    each_seed_of(Trouble::None, Service::Proxy);
}

#[test]
fn damaged_messages_do_not_hurt_the_proxy() {
    each_seed_of(Trouble::Damages, Service::Proxy);
}

#[test]
fn a_proxy_that_runs_out_of_buffers_anywhere_leaves_nothing_behind() {
    each_seed_of(Trouble::NoBuffers, Service::Proxy);
}
