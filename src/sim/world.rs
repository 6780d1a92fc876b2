//! One run: the server's shards, the phones and the network between them, stepped in one thread by one clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::config::{Config, Listener};
use crate::domain::{Answer, Question};
use crate::location::AorHasher;
use crate::metrics::Metrics;
use crate::owner::OwnerKey;
use crate::pool::Pool;
use crate::port::{Ask, ConfigId, ControlPort, PORT_BYTES_MAX, Tell, port};
use crate::run::ShardLoop;
use crate::shard::{Keys, Leftovers, Mail, Shard};
use crate::time::Instant;
use crate::token::TokenKey;
use crate::trunk::board::{Board, Boards};
use crate::wire::{Effects, ShardId, Transport};

use super::Outcome;
use super::audit;
use super::book::{Book, Foresight};
use super::edge::Edge;
use super::exchange::{ByName, Exchange, GATEWAYS, OTHERS, Service};
use super::names::Zone;
use super::net::{Arrival, Happening, Net, PhoneEvent, SERVER, phone_addr};
use super::phone::{Cx, DOMAIN, Due, Phone};
use super::plan::{Habits, Mix, Weather};
use super::reactor::SimReactor;
use super::rng::Rng;
use super::trace::Line;

/// Longest answered call: the server ends what nobody else does.
const CALL_DURATION_MAX: Duration = Duration::from_secs(500);
const CONNECTION_IDLE: Duration = Duration::from_secs(200);
/// Longest registration and subscription.
const EXPIRES_MAX_S: u32 = 300;
/// How long the registrar remembers a subscriber without a contact.
const OFFLINE_MEMORY: Duration = Duration::from_secs(60);
/// How long after the last call was placed phones give up their registrations.
const WIND_DOWN: Duration = Duration::from_secs(120);
/// After that nothing new begins: the longest registration, call, Timer C and 64*T1 fit into it.
const QUIET: Duration = Duration::from_secs(900);
/// OPTIONS to the destinations of a trunk that may be on their way or remembered at a time: one a second, for T4 each.
const PINGS_MAX: usize = GATEWAYS * 7;
/// Calls, and transactions, that a shard has room for where nothing is scarce.
const ROOM: usize = 16_384;
/// An answer of DNS that takes longer is slow.
const DNS_SLOW: Duration = Duration::from_millis(100);
/// The loss up to which eleven transmissions of a message may be trusted, per mille.
const FAIR_LOSS: u32 = 50;

/// One shard at its place in the loop.
struct Place {
    shard: ShardLoop,
    reactor: SimReactor,
    port: ControlPort,
    /// Until when its turn waits, if nothing happens before.
    waits_until: Instant,
    /// It works until then.
    busy_until: Instant,
}

impl Place {
    fn turns_at(&self) -> Instant {
        if self.reactor.has_work() {
            self.busy_until
        } else {
            self.waits_until.max(self.busy_until)
        }
    }
}

pub(super) struct World {
    seed: u64,
    weather: Weather,
    cfg: Arc<Config>,
    net: Rc<RefCell<Net>>,
    server: Vec<Place>,
    phones: Vec<Phone>,
    book: Book,
    rng: Rng,
    start: Instant,
    lives: u64,
    exchange: Option<Exchange>,
    board: Arc<Board>,
    config_id: ConfigId,
    zone: Option<Zone>,
    edge: Option<Edge>,
    /// Where what a shard tells is read.
    telling: Vec<u8>,
    /// Shards that have told something.
    asked_dns: Vec<usize>,
}

impl World {
    pub fn new(seed: u64, mix: &Mix) -> World {
        let weather = Weather::of(seed, mix);
        let mut rng = Rng::part(seed, "world");
        let start = Instant::from_millis(1_800_000_000_000);
        let users: Vec<String> = (0..(mix.phones * 2 / 3).max(1))
            .map(|index| format!("138{index:08}"))
            .collect();
        let foresight = if weather.faults.damage > 0 {
            Foresight::Damaged
        } else if weather.is_calm() {
            Foresight::Calm
        } else if weather.is_fair() && weather.faults.loss <= FAIR_LOSS {
            Foresight::Fair
        } else {
            Foresight::Rough
        };
        let exchange = match weather.service {
            Service::Phones => None,
            Service::Proxy => {
                let mut drawn = Exchange::draw(mix.phones, &mut Rng::part(seed, "exchange"));
                if weather.has_names {
                    drawn.names = Some(ByName::draw(&mut Rng::part(seed, "by name")));
                }
                Some(drawn)
            }
        };
        let zone = weather
            .has_names
            .then(|| Zone::draw(seed, mix.phones, weather.has_dns_trouble, weather.span, start));
        let mut parties = mix.phones + exchange.map_or(0, |_| OTHERS);
        let edge = weather.has_flows.then(|| Edge::draw(parties, seed, weather.span));
        parties += usize::from(edge.is_some());
        let net = Net::new(seed, weather.faults.clone(), weather.shards, parties, start);
        let mut cfg = config(&weather);
        if let Some(exchange) = &exchange {
            exchange.configure(&mut cfg);
        }
        let cfg = Arc::new(cfg);
        let mut world = World {
            seed,
            cfg,
            net: Rc::new(RefCell::new(net)),
            server: Vec::new(),
            phones: Vec::new(),
            book: Book::new(users.clone(), foresight, exchange, start),
            rng: Rng::part(seed, "agenda"),
            start,
            lives: 0,
            exchange,
            board: Arc::default(),
            config_id: ConfigId::FIRST,
            zone,
            edge,
            telling: vec![0; PORT_BYTES_MAX],
            asked_dns: Vec::new(),
            weather,
        };
        for index in 0..mix.phones {
            let user = users[index % users.len()].clone();
            let habits = Habits::draw(&world.weather, &mut rng);
            let habits = match exchange {
                None => habits,
                Some(_) => {
                    let own = &mut Rng::part(seed, &format!("habits {index}"));
                    habits.behind_proxy(false, &world.weather, own)
                }
            };
            world.phones.push(Phone::new(index, user, seed, habits));
        }
        for index in mix.phones..mix.phones + exchange.map_or(0, |_| GATEWAYS) {
            let own = &mut Rng::part(seed, &format!("habits {index}"));
            let habits = Habits::draw(&world.weather, own).behind_proxy(true, &world.weather, own);
            let user = format!("gw{}", index - mix.phones);
            world.phones.push(Phone::new(index, user, seed, habits));
        }
        if world.weather.has_names {
            world.book.has_names = true;
            for phone in &mut world.phones {
                phone.habits.has_name = Rng::part(seed, &format!("name {}", phone.index)).one_in(3);
            }
        }
        if world.weather.has_flows {
            for phone in world.phones.iter_mut().filter(|phone| !phone.habits.is_gateway) {
                let own = &mut Rng::part(seed, &format!("flows {}", phone.index));
                let has_flows = own.one_in(2);
                phone.habits.has_flows = has_flows;
                phone.habits.has_ob = has_flows && own.one_in(2);
                let edge = world.edge.as_ref().filter(|_| has_flows && own.one_in(2));
                phone.habits.edge = edge.map(|edge| phone_addr(edge.index));
                phone.habits.has_name &= !has_flows;
            }
        }
        world.boot();
        world.agenda(mix);
        world
    }

    /// A new process: nothing is left of what one before it knew.
    fn boot(&mut self) {
        self.lives += 1;
        let mut rng = Rng::part(self.seed, &format!("keys {}", self.lives));
        let mut eight = || std::array::from_fn(|_| rng.draw());
        let (aors, tables, more): ([u64; 8], [u64; 8], [u64; 8]) = (eight(), eight(), eight());
        let token = (u128::from(more[4]) << 64 | u128::from(more[5])).to_ne_bytes();
        let keys = Keys {
            token: TokenKey::new(token),
            owner: OwnerKey::new((u128::from(more[0]) << 64 | u128::from(more[1])).to_ne_bytes()),
            aors: AorHasher::new(aors),
            tables,
        };
        let now = self.net.borrow().now;
        // A server that begins anew knows nothing.
        let boards = Arc::new(Boards::default());
        self.board = boards.of(ConfigId::FIRST, &self.cfg);
        self.config_id = ConfigId::FIRST;
        self.server = Mail::of_all(self.cfg.shards, self.cfg.limits.mailbox_bytes)
            .into_iter()
            .enumerate()
            .map(|(index, mut mail)| {
                let id = ShardId(index as u8);
                let metrics = Arc::new(Metrics::default());
                let (port, asks, teller) = port(metrics.clone());
                mail.asks = Some(asks);
                let mut shard = Shard::new(self.cfg.clone(), metrics, id, keys.clone(), mail, now);
                shard.start_trunks(boards.clone(), now);
                let mut out = Effects::new(Pool::new(self.cfg.limits.buffer_bytes_max));
                out.teller = Some(teller);
                Place {
                    shard: ShardLoop::new(shard, out),
                    reactor: SimReactor::new(self.net.clone(), index),
                    port,
                    waits_until: now,
                    busy_until: now,
                }
            })
            .collect();
        let mut net = self.net.borrow_mut();
        net.is_down = false;
        net.send_queue_bytes_max = self.cfg.limits.send_queue_bytes_max;
    }

    /// What the phones will do, and when.
    fn agenda(&mut self, mix: &Mix) {
        let span_ms = self.weather.span.as_millis() as u64;
        let net = self.net.clone();
        let mut net = net.borrow_mut();
        let cx = &mut Cx {
            net: &mut net,
            book: &mut self.book,
        };
        for phone in self.phones.iter_mut().filter(|phone| !phone.habits.is_gateway) {
            phone.after(self.rng.millis(0, 1_500), Due::Register, cx);
            phone.after(self.weather.span + WIND_DOWN, Due::Unregister, cx);
            if phone.habits.subscribes {
                let at = self.rng.millis(0, span_ms);
                phone.after(at, Due::Subscribe, cx);
            }
        }
        for _ in 0..mix.calls {
            let phone = self.rng.below(self.phones.len());
            let at = Duration::from_secs(2) + self.rng.millis(0, span_ms);
            self.phones[phone].after(at, Due::Place, cx);
        }
        for _ in 0..mix.calls / 4 {
            let phone = self.rng.below(self.phones.len());
            let at = Duration::from_secs(2) + self.rng.millis(0, span_ms);
            let due = if self.rng.one_in(2) {
                Due::Options
            } else {
                Due::Message
            };
            self.phones[phone].after(at, due, cx);
        }
    }

    pub fn run(mut self) -> Outcome {
        let end = self.start + self.weather.span + WIND_DOWN;
        let crashes = self.weather.crashes.clone();
        let crashes = crashes.into_iter().map(|(at, away)| (at, Some(away)));
        let reloads = self.weather.reloads.iter().map(|at| (*at, None));
        let mut shocks: Vec<(Duration, Option<Duration>)> = crashes.chain(reloads).collect();
        shocks.sort();
        for (at, away) in shocks {
            self.run_until(self.start + at);
            match away {
                Some(away) => self.crash(away),
                None => self.reload(),
            }
        }
        self.run_until(end);
        self.run_until(end + QUIET);
        self.finish()
    }

    /// The configuration is read again, and is as it was.
    fn reload(&mut self) {
        self.config_id = self.config_id.next();
        {
            let mut net = self.net.borrow_mut();
            net.counts.reloads += 1;
            net.note(|| "the configuration is read again".to_owned());
        }
        for place in &mut self.server {
            let ask = Ask::Config {
                id: self.config_id,
                config: self.cfg.clone(),
            };
            assert!(
                place.port.ask(ask, b"").is_ok(),
                "a shard has room for an order now and then"
            );
        }
    }

    fn crash(&mut self, away: Duration) {
        {
            let mut net = self.net.borrow_mut();
            let now = net.now;
            net.trace.lines.push(Line::Crash(now));
            net.counts.crashes += 1;
            net.is_down = true;
            net.reset_all();
            net.inbox.iter_mut().for_each(|inbox| inbox.clear());
            net.is_woken.iter_mut().for_each(|woken| *woken = false);
        }
        self.server.clear();
        let back = self.net.borrow().now + away;
        self.run_until(back);
        self.net.borrow_mut().note(|| "the server is back".to_owned());
        self.boot();
    }

    /// Lets everything happen that happens before `until`.
    fn run_until(&mut self, until: Instant) {
        loop {
            let shards_at = self.server.iter().map(Place::turns_at).min();
            let next = self.net.borrow().next_at().into_iter().chain(shards_at).min();
            {
                let mut net = self.net.borrow_mut();
                match next {
                    Some(at) if at < until => net.now = net.now.max(at),
                    Some(_) | None => {
                        net.now = net.now.max(until);
                        return;
                    }
                }
            }
            loop {
                let happening = self.net.borrow_mut().pop_due();
                let Some(happening) = happening else { break };
                self.happen(happening);
            }
            let now = self.net.borrow().now;
            for place in &mut self.server {
                if place.turns_at() > now {
                    continue;
                }
                place
                    .shard
                    .turn(&mut place.reactor)
                    .expect("the simulated network never fails");
                place.waits_until = place.shard.deadline(now);
                if place.shard.take_has_told() {
                    self.asked_dns.push(place.reactor.shard);
                }
                let worked = place.reactor.net.borrow_mut().rng.between(3, 40);
                place.busy_until = now + Duration::from_micros(worked);
            }
            self.ask_dns();
            self.watch_limits();
        }
    }

    /// What shards have told the control thread: questions for DNS.
    fn ask_dns(&mut self) {
        for shard in std::mem::take(&mut self.asked_dns) {
            let place = &mut self.server[shard];
            while let Some((tell, _)) = place.port.next_tell(&mut self.telling) {
                let (Tell::Resolve(question), Some(zone)) = (tell, &mut self.zone) else {
                    continue;
                };
                let net = &mut *self.net.borrow_mut();
                let reply = zone.ask(&question, net.now);
                net.counts.dns_questions += 1;
                net.heard(shard, *question, None);
                let Some(answer) = reply.answer else {
                    net.counts.dns_silences += 1;
                    continue;
                };
                net.counts.dns_slow += u64::from(reply.after > DNS_SLOW);
                match answer {
                    Answer::Records { .. } => net.counts.dns_answers += 1,
                    Answer::Nothing { .. } => net.counts.dns_nothing += 1,
                    Answer::Failed => net.counts.dns_failures += 1,
                }
                let told = Box::new((*question, answer));
                let life = self.lives;
                let at = net.now + reply.after;
                net.at(at, Happening::Told { shard, life, told });
            }
        }
    }

    /// DNS has answered.
    fn tell_dns(&mut self, shard: usize, life: u64, told: Box<(Question, Answer)>) {
        let Some(place) = self.server.get_mut(shard).filter(|_| life == self.lives) else {
            return;
        };
        let (question, answer) = (*told).clone();
        let mut net = self.net.borrow_mut();
        match place.port.ask(Ask::Resolved(told), b"") {
            Ok(()) => {
                net.heard(shard, question, Some(answer));
                net.is_woken[shard] = true;
            }
            // It has too much to do.
            Err(_) => {
                let at = net.now + Duration::from_millis(1);
                let told = Box::new((question, answer));
                net.at(at, Happening::Told { shard, life, told });
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        if let Happening::Told { shard, life, told } = happening {
            self.tell_dns(shard, life, told);
            return;
        }
        let mut net = self.net.borrow_mut();
        let (phone, event) = match happening {
            Happening::ToServer { shard, peer, load } => {
                if !net.is_down {
                    let received_at = net.now;
                    net.inbox[shard].push_back(Arrival::Datagram {
                        peer,
                        load,
                        received_at,
                    });
                }
                return;
            }
            Happening::Wake { shard } => {
                net.is_woken[shard] = true;
                return;
            }
            Happening::Stream(stream, step) => match net.stream_step(stream, step) {
                Some(heard) => heard,
                None => return,
            },
            Happening::ToPhone { phone, link, packet } => (phone, PhoneEvent::Packet { link, packet }),
            Happening::Timer { phone, token } => (phone, PhoneEvent::Timer(token)),
            Happening::Told { .. } => return,
        };
        if let Some(edge) = self.edge.as_ref().filter(|edge| edge.index == phone) {
            if let PhoneEvent::Packet { link, packet } = event {
                edge.happens(link, &packet, &mut net, &mut self.book);
            }
            return;
        }
        if phone == self.phones.len() {
            if let PhoneEvent::Packet { packet, .. } = event {
                super::mirror::reflect(phone, &packet, &mut net);
            }
            return;
        }
        let cx = &mut Cx {
            net: &mut net,
            book: &mut self.book,
        };
        self.phones[phone].happens(event, cx);
    }

    /// No call counts for a trunk any more.
    fn judge_trunks(&mut self, now: Instant) {
        for trunk in &self.board.trunks {
            let calls = trunk.calls.load(Relaxed);
            let each: Vec<u32> = (trunk.destinations.iter())
                .map(|destination| destination.calls.load(Relaxed))
                .collect();
            if calls != 0 || each.iter().any(|calls| *calls != 0) {
                self.book.leftover(
                    now,
                    format!(
                        "long after the last word the trunk counts {calls} calls, its destinations {each:?}"
                    ),
                );
            }
        }
    }

    /// A trunk never has more calls than it may.
    fn watch_limits(&mut self) {
        let Some(exchange) = self.exchange else { return };
        for trunk in &self.board.trunks {
            let is_beyond = |calls: u32, most: u32| most > 0 && calls > most;
            let calls = trunk.calls.load(Relaxed);
            let most = trunk.destinations.iter().map(|one| one.calls.load(Relaxed)).max();
            if is_beyond(calls, exchange.calls_max)
                || is_beyond(most.unwrap_or(0), exchange.destination_calls_max)
            {
                let now = self.net.borrow().now;
                self.book.leftover(
                    now,
                    format!("the trunk has {calls} calls, one destination {most:?}: more than it may"),
                );
                self.exchange = None;
                return;
            }
        }
    }

    /// Judges the run.
    fn finish(mut self) -> Outcome {
        let now = self.net.borrow().now;
        let mut left = Leftovers::default();
        for place in &self.server {
            left.add(&place.shard.in_use());
        }
        self.judge_trunks(now);
        // The addresses of a trunk are looked up for ever: a timer for each, or a question with one.
        let refreshed = (self.exchange.and_then(|exchange| exchange.names))
            .filter(|names| names.trunk)
            .map_or(0, |_| GATEWAYS * self.cfg.shards);
        let pinged = self.exchange.filter(|exchange| !exchange.ping_interval.is_zero());
        if pinged.is_some() || refreshed > 0 {
            // OPTIONS go on for ever: each destination has a timer, and so has each that is on its way.
            let timers_max = left.transactions + GATEWAYS + 4 * refreshed;
            left.look_ups = left.look_ups.saturating_sub(refreshed);
            if left.transactions <= PINGS_MAX
                && left.timers <= timers_max
                && left.buffers <= left.transactions
            {
                left.transactions = 0;
                left.timers = 0;
                left.buffers = 0;
            }
        }
        if !left.is_none() {
            self.book
                .leftover(now, format!("long after the last word the server holds {left:?}"));
        }
        let (pings, pongs) = {
            let counts = &self.net.borrow().counts;
            (counts.pings, counts.pongs)
        };
        if self.weather.is_calm() && pings != pongs {
            self.book
                .leftover(now, format!("{pings} pings had {pongs} pongs: RFC 5626 §4.4.1"));
        }
        let open = self.net.borrow().open_streams();
        if open > 0 {
            self.book.leftover(now, format!("{open} connections are left"));
        }
        for mut place in std::mem::take(&mut self.server) {
            assert!(
                place.port.ask(Ask::Stop, b"").is_ok(),
                "a shard listens while it lives"
            );
            let stays = place.shard.turn(&mut place.reactor);
            assert!(matches!(stays, Ok(false)), "a shard that is told to stop stops");
            let leftovers = place.shard.end().leftovers;
            if !leftovers.is_none() {
                self.book
                    .leftover(now, format!("after its end the server holds {leftovers:?}"));
            }
        }
        let mut net = self.net.borrow_mut();
        self.book.settle(&self.phones, &net.into_nowhere, now);
        for text in std::mem::take(&mut net.unreadable) {
            self.book
                .leftover(now, format!("the server sent what can't be read: {text}"));
        }
        let trace = std::mem::take(&mut net.trace);
        if self.weather.faults.damage == 0 {
            let faults = &self.weather.faults;
            let is_whole = !self.weather.is_scarce && faults.send_error + faults.reset + faults.refuse == 0;
            let terms = audit::Terms {
                is_whole,
                exchange: self.exchange,
            };
            self.book.findings.extend(audit::audit(&trace, terms));
            if self.weather.has_names {
                net.counts.failovers = audit::failovers(&trace, terms);
            }
        }
        Outcome {
            seed: self.seed,
            weather: self.weather.clone(),
            findings: std::mem::take(&mut self.book.findings),
            totals: self.book.totals,
            counts: net.counts,
            simulated: now - self.start,
            trace,
            exchange: self.exchange,
        }
    }
}

fn config(weather: &Weather) -> Config {
    let listener = |transport| Listener {
        transport,
        addr: SERVER,
        advertised: SERVER.to_string(),
        state: crate::config::ListenerState::Open,
    };
    let shards = weather.shards;
    let mut cfg = Config {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        domains: vec![DOMAIN.to_owned()],
        shards,
        ..Config::default()
    };
    cfg.limits.call_duration_max = CALL_DURATION_MAX;
    cfg.limits.connection_idle = CONNECTION_IDLE;
    cfg.registrar.offline_memory = OFFLINE_MEMORY;
    cfg.registrar.expires_max_s = EXPIRES_MAX_S;
    cfg.registrar.expires_default_s = EXPIRES_MAX_S;
    cfg.reg_event.expires_max_s = EXPIRES_MAX_S;
    cfg.reg_event.expires_default_s = EXPIRES_MAX_S;
    // More than a run ever has. The tables are made for their limits, and each run makes new ones.
    cfg.limits.calls_max = ROOM * shards;
    cfg.limits.transactions_max = ROOM * shards;
    if weather.is_scarce {
        cfg.limits.calls_max = 4 * shards;
        cfg.limits.transactions_max = 40 * shards;
        cfg.limits.aors_max = 3 * shards;
        cfg.limits.subscriptions_max = 2 * shards;
        cfg.limits.buffer_bytes_max = 120_000;
        cfg.limits.send_queue_bytes_max = 16_384;
    }
    cfg
}
