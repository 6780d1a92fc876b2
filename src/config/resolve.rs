//! Settings against one another and against the machine: what no single key can tell.

use std::net::SocketAddr;
use std::time::Duration;

use super::key::{Kind, number};
use super::load::{Loaded, Settings};
use super::route::ROUTE_KEYS;
use super::schema::{self, KEYS};
use super::trunk::{DESTINATIONS_MAX, TRUNK_KEYS};
use super::value::{self, Advertise, Listen};
use super::{Config, ConfigError, Listener, Machine, Notice, Origin};
use crate::wire::{SHARDS_MAX, Transport};

/// Most listeners of one process, one a transport and address: every shard has a socket for each.
pub const LISTENERS_MAX: usize = 64;
/// Files that a shard opens beside its listeners and connections: its ring, eventfds, sockets to busy peers.
const FILES_PER_SHARD: u64 = 64;
/// Files of the process beside the admin server's connections: the log, journals, sockets.
const FILES_OF_PROCESS: u64 = 64;
/// Sockets of one question to DNS: two servers at a time, each asked up to three times before the first answer is given up.
const FILES_PER_QUESTION: u64 = 6;
/// Questions may take this part of the files that may be open.
const QUESTIONS_PART: u64 = 4;
/// What stands beside a message in a mailbox: where it came from, when, and its length.
const MAILBOX_ENTRY_BYTES: u64 = 256;

/// The bound address as Via and Contact say it.
pub fn advertised(addr: SocketAddr) -> String {
    format!("{}:{}", value::host_of(addr.ip()), addr.port())
}

/// Checks `settings` as a whole and completes them. The result may be used if nothing joined `errors`.
pub fn resolve(settings: Settings, machine: &Machine, errors: &mut Vec<ConfigError>) -> Loaded {
    let config = settings.config.clone();
    let mut resolver = Resolver {
        settings,
        machine,
        errors,
        notices: Vec::new(),
        config,
    };
    resolver.shards();
    resolver.listeners();
    resolver.admin();
    resolver.domains();
    resolver.trunks();
    resolver.routes();
    resolver.memory();
    resolver.files();
    resolver.order();
    resolver.shares();
    resolver.warnings();
    Loaded {
        config: resolver.config,
        notices: resolver.notices,
    }
}

/// Whether the kernel lets only one of two sockets of one transport have its address. A port 0 is another one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip(), b.ip());
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (ip_a == ip_b || ip_a.is_unspecified() || ip_b.is_unspecified())
}

/// Whether a mailbox has room for the largest message.
pub fn fits_mailbox(message_bytes_max: usize, mailbox_bytes: usize) -> bool {
    message_bytes_max as u64 + MAILBOX_ENTRY_BYTES <= mailbox_bytes as u64
}

/// Files that this configuration may have open at a time, connections included.
pub fn files_max(config: &Config) -> u64 {
    let of_a_shard = config.listeners.len() as u64 + FILES_PER_SHARD;
    let admin = 2 * config.admin.connections_max as u64;
    let questions = config.dns.questions_max as u64 * FILES_PER_QUESTION;
    config.limits.connections_max as u64
        + FILES_OF_PROCESS
        + admin
        + questions
        + config.shards as u64 * of_a_shard
}

struct Resolver<'a> {
    /// As given; `config` below is what becomes of it.
    settings: Settings,
    machine: &'a Machine,
    errors: &'a mut Vec<ConfigError>,
    notices: Vec<Notice>,
    config: Config,
}

impl Resolver<'_> {
    fn error(&mut self, origin: Origin, key: &str, expected: String, found: String, hint: Option<String>) {
        self.errors.push(ConfigError {
            origin,
            key: key.to_owned(),
            expected,
            found,
            hint,
        });
    }

    fn warn(&mut self, text: String) {
        self.notices.push(Notice::Warning(text));
    }

    fn derived(&mut self, text: String) {
        self.notices.push(Notice::Derived(text));
    }

    fn shards(&mut self) {
        let machine = self.machine;
        if let Some(origin) = self.settings.origin("", "cpus") {
            let unusable = |cpu: &&usize| !machine.cpus.is_empty() && !machine.cpus.contains(cpu);
            if let Some(cpu) = self.config.cpus.iter().find(unusable).copied() {
                let expected = format!("CPUs that this process may run on: {:?}", machine.cpus);
                self.error(origin, "cpus", expected, cpu.to_string(), None);
            }
        }
        let usable = match (self.config.cpus.len(), machine.cpus.len()) {
            (0, 0) => machine.parallelism,
            (0, cpus) => cpus.min(machine.parallelism),
            (given, _) => given,
        };
        if self.config.shards == 0 {
            self.config.shards = usable.clamp(1, SHARDS_MAX);
        } else if self.config.shards > usable {
            self.warn(format!(
                "{} shards share {usable} CPU{}: more shards than CPUs serve nothing faster",
                self.config.shards,
                if usable == 1 { "" } else { "s" }
            ));
        }
    }

    /// One listener for each transport and address, with what it advertises.
    fn listeners(&mut self) {
        self.config.listeners.clear();
        let Some(origin) = self.settings.origin("", "listen") else {
            return;
        };
        let listen = std::mem::take(&mut self.settings.listen);
        let advertise = std::mem::take(&mut self.settings.advertise);
        if listen.is_empty() {
            self.error(
                origin,
                "listen",
                "at least one address".to_owned(),
                "none".to_owned(),
                None,
            );
        }
        let mut used = vec![false; advertise.len()];
        for entry in &listen {
            self.entry(entry, &advertise, &mut used);
            self.refuse_open(entry);
        }
        if self.config.listeners.len() > LISTENERS_MAX {
            let found = format!("{}", self.config.listeners.len());
            let expected = format!("at most {LISTENERS_MAX} listeners, UDP and TCP counted apart");
            self.error(origin, "listen", expected, found, None);
        }
        if self.settings.origin("", "advertise").is_some() && !listen.is_empty() {
            for (entry, _) in advertise.iter().zip(used).filter(|&(_, used)| !used) {
                self.error(
                    entry.origin,
                    "advertise",
                    "an entry that some listener uses".to_owned(),
                    format!("\"{entry}\""),
                    Some(
                        "no listener has this address or family, or a closer entry speaks for it".to_owned(),
                    ),
                );
            }
        }
    }

    /// The listeners of one entry of `listen`.
    fn entry(&mut self, entry: &Listen, advertise: &[Advertise], used: &mut [bool]) {
        let mut taken = None;
        for transport in [Transport::Udp, Transport::Tcp] {
            if !entry.covers(transport) {
                continue;
            }
            let overlapping = |own: &&Listener| own.transport == transport && overlap(own.addr, entry.addr);
            if let Some(own) = self.config.listeners.iter().find(overlapping) {
                taken = taken.or(Some(format!("{} {} has it already", transport.name(), own.addr)));
                continue;
            }
            let advertised = self.advertised(advertise, used, transport, entry.addr, entry.origin);
            self.config.listeners.push(Listener {
                transport,
                addr: entry.addr,
                advertised,
                state: crate::config::ListenerState::Open,
            });
        }
        if taken.is_some() {
            let expected = "an address that no other entry has".to_owned();
            self.error(entry.origin, "listen", expected, format!("\"{entry}\""), taken);
        }
    }

    /// Nobody authenticates yet, so what others can reach must be meant to be open.
    fn refuse_open(&mut self, entry: &Listen) {
        let loopback = entry.addr.ip().to_canonical().is_loopback();
        // Nothing is said of a switch that is itself in error.
        let told_closed = !self.config.open_registrar && self.settings.origin("", "open_registrar").is_some();
        if loopback || !told_closed {
            return;
        }
        let hint = "nobody authenticates yet: whoever reaches this address may register under any name and call; \
                    set open_registrar = true or --open-registrar if you mean it";
        self.error(
            entry.origin,
            "listen",
            "a loopback address".to_owned(),
            format!("\"{entry}\""),
            Some(hint.to_owned()),
        );
    }

    /// Whoever reaches the admin server may end every call, so one that others reach asks for a token.
    fn admin(&mut self) {
        let Some(origin) = self.settings.origin("admin", "listen") else {
            return;
        };
        let open = self
            .config
            .admin
            .listen
            .filter(|addr| !addr.ip().to_canonical().is_loopback());
        if let Some(addr) = open
            && self.config.admin.token.is_empty()
        {
            self.error(
                origin,
                "admin.listen",
                "a loopback address, or a token in admin.token".to_owned(),
                format!("\"{addr}\""),
                Some("whoever reaches this address could end every call; set [admin] token".to_owned()),
            );
        }
    }

    /// What one listener says of itself.
    fn advertised(
        &mut self,
        advertise: &[Advertise],
        used: &mut [bool],
        transport: Transport,
        addr: SocketAddr,
        origin: Origin,
    ) -> String {
        let closest = advertise
            .iter()
            .filter_map(|entry| entry.closeness(transport, addr))
            .max();
        if let Some(closeness) = closest {
            let mut chosen: Option<&Advertise> = None;
            for (entry, used) in advertise.iter().zip(used) {
                if entry.closeness(transport, addr) != Some(closeness) {
                    continue;
                }
                // A second one is told of once, not for each transport.
                if chosen.is_some() && !*used {
                    let expected = format!("one entry for {} {addr}", transport.name());
                    self.error(
                        entry.origin,
                        "advertise",
                        expected,
                        format!("\"{entry}\" too"),
                        None,
                    );
                }
                *used = true;
                chosen = chosen.or(Some(entry));
            }
            if let Some(entry) = chosen {
                return format!("{}:{}", entry.host, entry.port.unwrap_or(addr.port()));
            }
        }
        if !addr.ip().is_unspecified() {
            return advertised(addr);
        }
        match self.machine.advertised_for(addr.ip()) {
            Some(ip) => {
                let text = advertised(SocketAddr::new(ip, addr.port()));
                // Told once for both transports.
                let notice = Notice::Derived(format!(
                    "what listens on {addr} calls itself {text} in Via and Contact, from this machine's default route; \
                     advertise says otherwise"
                ));
                if !self.notices.contains(&notice) {
                    self.notices.push(notice);
                }
                text
            }
            None => {
                // Both transports of one entry lack it for the same reason.
                if !self
                    .errors
                    .iter()
                    .any(|e| e.origin == origin && e.found == format!("\"{addr}\""))
                {
                    self.error(
                        origin,
                        "listen",
                        "an address that others can send to, or an entry of advertise for it".to_owned(),
                        format!("\"{addr}\""),
                        Some("this machine has no default route to tell its address from".to_owned()),
                    );
                }
                advertised(addr)
            }
        }
    }

    fn domains(&mut self) {
        let Some(origin) = self.settings.origin("", "domains") else {
            return;
        };
        let domains = &self.config.domains;
        let twice = domains
            .iter()
            .enumerate()
            .find(|&(i, domain)| domains[..i].contains(domain));
        if let Some((_, domain)) = twice {
            let found = format!("{domain:?} again");
            self.error(origin, "domains", "each domain once".to_owned(), found, None);
        }
    }

    /// Each trunk by itself, and its name among the others.
    fn trunks(&mut self) {
        let rows = std::mem::take(&mut self.settings.trunks);
        self.config.trunks.clear();
        for row in rows {
            let trunk = &row.value;
            // Where a key is wrong that is told already; where it is not given the table is to blame.
            let place = |name: &str| {
                let origin = row.origin_of(TRUNK_KEYS, name)?;
                Some(if origin == Origin::Default {
                    row.origin
                } else {
                    origin
                })
            };
            if let Some(origin) = place("name") {
                if trunk.name.is_empty() {
                    let expected = "a name for each trunk".to_owned();
                    self.error(origin, "trunk.name", expected, "none".to_owned(), None);
                } else if self.config.trunks.iter().any(|other| other.name == trunk.name) {
                    let found = format!("{:?} again", trunk.name);
                    self.error(origin, "trunk.name", "each name once".to_owned(), found, None);
                }
            }
            if let Some(origin) = place("destinations") {
                let uris: Vec<&str> = trunk.destinations.iter().map(|d| d.uri.as_str()).collect();
                let twice = uris.iter().enumerate().find(|(i, uri)| uris[..*i].contains(uri));
                if uris.is_empty() || uris.len() > DESTINATIONS_MAX {
                    let expected = format!("1 to {DESTINATIONS_MAX} destinations");
                    self.error(
                        origin,
                        "trunk.destinations",
                        expected,
                        number(uris.len() as u64),
                        None,
                    );
                } else if let Some((_, uri)) = twice {
                    let (expected, found) = ("each URI once".to_owned(), format!("{uri:?} again"));
                    self.error(origin, "trunk.destinations", expected, found, None);
                }
            }
            self.config.trunks.push(row.value);
        }
    }

    /// Each rule by itself, with the listeners that it names.
    fn routes(&mut self) {
        let rows = std::mem::take(&mut self.settings.routes);
        self.config.routes.clear();
        let trunks: Vec<&str> = self
            .config
            .trunks
            .iter()
            .map(|trunk| trunk.name.as_str())
            .collect();
        for mut row in rows {
            let origins: Vec<_> = ROUTE_KEYS
                .iter()
                .map(|key| (key.name, row.origin_of(ROUTE_KEYS, key.name)))
                .collect();
            let given = |name: &str| {
                origins
                    .iter()
                    .find(|(key, _)| *key == name)
                    .and_then(|(_, origin)| *origin)
            };
            row.value
                .resolve(&self.config.listeners, &trunks, row.origin, &given, self.errors);
            self.config.routes.push(row.value);
        }
    }

    /// Keys that must not exceed others. Those that merely follow when nobody gave them are cut down first.
    fn order(&mut self) {
        let limits = &mut self.config.limits;
        if self.settings.is_default("limits", "body_bytes_max") {
            limits.body_bytes_max = limits.body_bytes_max.min(limits.message_bytes_max);
        }
        if self.settings.is_default("limits", "connections_per_source_max") {
            limits.connections_per_source_max = limits.connections_per_source_max.min(limits.connections_max);
        }
        self.at_most("timers", "t1_ms", "t2_ms");
        self.at_most("limits", "body_bytes_max", "message_bytes_max");
        self.at_most("limits", "message_bytes_max", "send_queue_bytes_max");
        self.at_most("limits", "send_queue_bytes_max", "send_queue_bytes_sum_max");
        self.at_most("limits", "connections_per_source_max", "connections_max");
        for section in ["registrar", "reg_event"] {
            self.at_most(section, "expires_min_s", "expires_default_s");
            self.at_most(section, "expires_default_s", "expires_max_s");
        }
        self.at_most("session_timers", "interval_min_s", "interval_s");
        self.at_most("dns", "ttl_min_s", "ttl_max_s");
    }

    fn integer(&self, section: &str, name: &str) -> u64 {
        let index = schema::index_of(section, name).expect("the schema has the key");
        let settings = Settings::from(&self.config);
        match KEYS[index].kind {
            Kind::Integer { get, .. } => get(&settings),
            Kind::Switch { .. } | Kind::Integers { .. } | Kind::Text { .. } | Kind::Texts { .. } => {
                unreachable!("only numbers are compared")
            }
        }
    }

    /// Asks that the number of one key is at most that of another. The one that was given is to blame; of two, the first.
    fn at_most(&mut self, section: &str, smaller: &str, larger: &str) {
        let places = (
            self.settings.origin(section, smaller),
            self.settings.origin(section, larger),
        );
        let (Some(at_smaller), Some(at_larger)) = places else {
            return;
        };
        let (low, high) = (self.integer(section, smaller), self.integer(section, larger));
        if low <= high {
            return;
        }
        let (origin, blamed, expected, found) = if at_smaller == Origin::Default {
            (
                at_larger,
                larger,
                format!("at least {section}.{smaller}, {}", number(low)),
                high,
            )
        } else {
            (
                at_smaller,
                smaller,
                format!("at most {section}.{larger}, {}", number(high)),
                low,
            )
        };
        self.error(
            origin,
            &format!("{section}.{blamed}"),
            expected,
            number(found),
            None,
        );
    }

    /// A limit of the process that is shared out must leave every shard something.
    fn shares(&mut self) {
        let shards = self.config.shards as u64;
        let shared = [
            "transactions_max",
            "calls_max",
            "aors_max",
            "subscriptions_max",
            "connections_max",
        ];
        for name in shared {
            let have = self.integer("limits", name);
            if let Some(origin) = self.settings.origin("limits", name)
                && have < shards
            {
                let expected = format!("at least 1 for each of {shards} shards");
                self.error(origin, &format!("limits.{name}"), expected, number(have), None);
            }
        }
        let message = self.config.limits.message_bytes_max as u64 + MAILBOX_ENTRY_BYTES;
        let mailbox = self.config.limits.mailbox_bytes as u64;
        if let Some(origin) = self.settings.origin("limits", "mailbox_bytes")
            && mailbox < message
        {
            let expected = format!("at least {}, room for one message", number(message));
            self.error(origin, "limits.mailbox_bytes", expected, number(mailbox), None);
        }
    }

    /// Buffers and mailboxes, the memory that is bounded in bytes, must fit the machine.
    fn memory(&mut self) {
        let Some(memory) = self.machine.memory_bytes else {
            return;
        };
        let (Some(at_buffers), Some(at_mailboxes)) = (
            self.settings.origin("limits", "buffer_bytes_max"),
            self.settings.origin("limits", "mailbox_bytes"),
        ) else {
            return;
        };
        let shards = self.config.shards as u64;
        let mailboxes = shards * (shards - 1) * self.config.limits.mailbox_bytes as u64;
        if at_buffers == Origin::Default {
            let fits = (memory / 2).saturating_sub(mailboxes) / shards;
            let default = self.config.limits.buffer_bytes_max as u64;
            if fits < default {
                self.config.limits.buffer_bytes_max = fits.max(1 << 20) as usize;
                self.derived(format!(
                    "limits.buffer_bytes_max is {} instead of {}: {shards} shards on {} of memory",
                    number(self.config.limits.buffer_bytes_max as u64),
                    number(default),
                    gib(memory)
                ));
            }
        }
        if self.settings.is_default("limits", "send_queue_bytes_sum_max") {
            let limits = &mut self.config.limits;
            let default = limits.send_queue_bytes_sum_max as u64;
            let fits = (memory / 16).max(limits.send_queue_bytes_max as u64);
            if fits < default {
                limits.send_queue_bytes_sum_max = fits as usize;
                self.derived(format!(
                    "limits.send_queue_bytes_sum_max is {} instead of {}: a sixteenth of {} of memory",
                    number(fits),
                    number(default),
                    gib(memory)
                ));
            }
        }
        let buffers = shards * self.config.limits.buffer_bytes_max as u64;
        if buffers + mailboxes > memory {
            let (origin, key) = if mailboxes > buffers {
                (at_mailboxes, "limits.mailbox_bytes")
            } else {
                (at_buffers, "limits.buffer_bytes_max")
            };
            self.error(
                origin,
                key,
                format!("limits that fit this machine's memory of {}", gib(memory)),
                format!(
                    "{} for the buffers of {shards} shards and {} for the mailboxes between them",
                    gib(buffers),
                    gib(mailboxes)
                ),
                None,
            );
        }
    }

    /// Connections and sockets must fit the limit on open files.
    fn files(&mut self) {
        let Some(allowed) = self.machine.files_max else {
            return;
        };
        let Some(origin) = self.settings.origin("limits", "connections_max") else {
            return;
        };
        let questions = self.config.dns.questions_max as u64;
        let at_once = (allowed / QUESTIONS_PART / FILES_PER_QUESTION).max(1);
        if questions > at_once && self.settings.origin("dns", "questions_max") == Some(Origin::Default) {
            // Enough for any rate of names that are answered for: nobody needs to be told.
            self.config.dns.questions_max = at_once as usize;
        }
        let shards = self.config.shards as u64;
        let connections = self.config.limits.connections_max as u64;
        let own = files_max(&self.config) - connections;
        let room = allowed.saturating_sub(own);
        if connections <= room {
            return;
        }
        if origin == Origin::Default && room >= shards {
            self.config.limits.connections_max = room as usize;
            self.derived(format!(
                "limits.connections_max is {} instead of {}: this process may open {} files (ulimit -Hn)",
                number(room),
                number(connections),
                number(allowed)
            ));
        } else {
            self.error(
                origin,
                "limits.connections_max",
                format!(
                    "at most {}: this process may open {} files (ulimit -Hn) and needs {own} for itself",
                    number(room),
                    number(allowed)
                ),
                number(connections),
                None,
            );
        }
    }

    fn warnings(&mut self) {
        let timers = &self.config.timers;
        let (timer_c, timer_d) = (timers.timer_c, timers.timer_d);
        if timer_c <= Duration::from_secs(180) {
            self.warn(format!(
                "timers.timer_c_ms is {}: RFC 3261 section 16.6 asks for more than 180_000, so calls are cut off that may still \
                 be ringing",
                number(timer_c.as_millis() as u64)
            ));
        }
        if timer_d < Duration::from_secs(32) {
            self.warn(format!(
                "timers.timer_d_ms is {}: RFC 3261 section 17.1.1.2 asks for at least 32_000 over UDP",
                number(timer_d.as_millis() as u64)
            ));
        }
        let open: Vec<String> = (self.config.listeners.iter())
            .filter(|listener| !listener.addr.ip().to_canonical().is_loopback())
            .map(|listener| format!("{} {}", listener.transport.name(), listener.addr))
            .collect();
        if !open.is_empty() && self.config.open_registrar {
            self.warn(format!(
                "open registrar: whoever reaches {} may register under any name and call",
                open.join(", ")
            ));
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
