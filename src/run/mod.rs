//! Puts a server together: binds its sockets, starts and pins one thread a shard, and takes it down again.

mod admin;
mod listeners;
mod reload;
mod serve;
mod service;
mod shard_loop;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::config::{Config, Listener, Steering};
use crate::control::lock;
use crate::control::ports::Ports;
use crate::control::summary::Report;
use crate::control::trunks::Trunks;
use crate::io::clock::Clock;
use crate::io::connections::Connections;
use crate::io::probe::{Feature, Features};
use crate::io::reactor::Reactor;
use crate::io::relisten::Changes;
use crate::io::socket::{ShardSockets, bind_all};
use crate::io::steer::steer;
use crate::io::uring::Uring;
use crate::io::waker::{ControlWaker, Wakers};
use crate::location::AorHasher;
use crate::metrics::{Histograms, Metrics};
use crate::owner::OwnerKey;
use crate::pool::Pool;
use crate::port::{Ask, ConfigId, Teller, port};
use crate::shard::{Keys, Leftovers, Mail, Shard};
use crate::token::TokenKey;
use crate::trunk::board::Boards;
use crate::wire::{Effects, ShardId, Transport};

pub use listeners::Listeners;
pub use serve::serve;
pub use shard_loop::ShardReport;
pub(crate) use shard_loop::{ShardLoop, turn_until_stopped};

/// A running server.
pub struct Server {
    /// What is listened on; the control thread alone changes it.
    pub listeners: Arc<Mutex<Listeners>>,
    owner_key: OwnerKey,
    pub metrics: Vec<Arc<Metrics>>,
    pub features: Features,
    threads: Vec<JoinHandle<io::Result<ShardReport>>>,
    pub clock: Clock,
    /// How to ask the shards.
    pub ports: Rc<Ports>,
    /// The trunks as people see them.
    pub trunks: Arc<Trunks>,
    boards: Arc<Boards>,
}

impl Server {
    /// Binds, starts and pins the shards. `Err` says what could not be done and what to change.
    pub fn start(mut cfg: Config) -> Result<Server, String> {
        let features = Features::probe().map_err(|error| error.to_string())?;
        let features = match cfg.kernel_level {
            Some(level) => features.limited_to(level),
            None => features,
        };
        let (bound, mut sockets) = bind_all(&cfg).map_err(|error| error.to_string())?;
        let listeners = Listeners::new(&cfg.listeners, &bound, cfg.shards);
        cfg.listeners = bound;
        cfg.local_addresses = listeners.local_addresses().to_vec();
        let cfg = Arc::new(cfg);
        let keys = draw_keys().map_err(|error| format!("no random numbers from the system: {error}"))?;
        steer_datagrams(&cfg, &features, &mut sockets, &keys.owner);
        let clock = Clock::start();
        let wakers = Arc::new(Wakers::new(cfg.shards).map_err(|error| format!("eventfd: {error}"))?);
        let connections = Arc::new(Connections::new(&cfg.limits));
        let control_waker = Arc::new(ControlWaker::new().map_err(|error| format!("eventfd: {error}"))?);
        let boards = Arc::new(Boards::default());
        let metrics: Vec<Arc<Metrics>> = (0..cfg.shards).map(|_| Arc::default()).collect();
        let mut threads = Vec::new();
        let mut ports = Vec::new();
        let (ready_in, ready_out) = std::sync::mpsc::channel();
        let mails = Mail::of_all(cfg.shards, cfg.limits.mailbox_bytes);
        for ((index, sockets), mut mail) in sockets.into_iter().enumerate().zip(mails) {
            let (control_port, asks, teller) = port(metrics[index].clone());
            mail.asks = Some(asks);
            ports.push(control_port);
            let setup = ShardSetup {
                cfg: cfg.clone(),
                id: ShardId(index as u8),
                cpu: cfg.cpus.get(index % cfg.cpus.len().max(1)).copied(),
                features,
                sockets,
                mail,
                keys: keys.clone(),
                clock,
                wakers: wakers.clone(),
                connections: connections.clone(),
                metrics: metrics[index].clone(),
                teller,
                control_waker: control_waker.clone(),
                changes: listeners.changes(index),
                boards: boards.clone(),
            };
            let ready = ready_in.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || setup.run(&ready))
                .map_err(|error| format!("shard {index}: {error}"))?;
            threads.push(thread);
        }
        drop(ready_in);
        let trunks = Arc::new(Trunks::new(&cfg, boards.of(ConfigId::FIRST, &cfg)));
        let server = Server {
            trunks,
            boards,
            listeners: Arc::new(Mutex::new(listeners)),
            owner_key: keys.owner,
            metrics,
            features,
            threads,
            clock,
            ports: Rc::new(Ports::new(ports, wakers, control_waker)),
        };
        for _ in 0..server.threads.len() {
            match ready_out.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    server.ports.order(|| Ask::Stop);
                    return Err(error);
                }
                Err(_) => return Err("a shard ended before it was ready".to_owned()),
            }
        }
        Ok(server)
    }

    /// From now on new calls get 503.
    pub fn drain(&self) {
        self.ports.order(|| Ask::Drain);
    }

    /// Both sides of every call get a BYE.
    pub fn hang_up(&self) {
        self.ports.order(|| Ask::HangUpAll);
    }

    /// What is listened on now, by place.
    pub fn listening(&self) -> Vec<Listener> {
        lock(&self.listeners).bound()
    }

    /// Listens on what `cfg` asks for.
    ///
    /// # Errors
    /// See [`Listeners::change`].
    fn relisten(&self, cfg: &Config) -> Result<(), String> {
        lock(&self.listeners).change(cfg, self.clock.now(), |new, sockets| {
            steer_datagrams(new, &self.features, sockets, &self.owner_key);
        })
    }

    /// Calls in progress on all shards.
    pub fn calls(&self) -> u64 {
        self.metrics.iter().map(|metrics| metrics.calls.get()).sum()
    }

    /// Whether a shard has ended although nobody asked it to.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the shards and gathers what they have to say.
    pub fn stop(self) -> Result<Report, String> {
        self.ports.order(|| Ask::Stop);
        let mut histograms = Histograms::<u64>::default();
        let mut leftovers = Leftovers::default();
        for thread in self.threads {
            let report = thread
                .join()
                .map_err(|_| "a shard has panicked".to_owned())?
                .map_err(|error| format!("a shard has failed: {error}"))?;
            histograms.add(&report.recorded.histograms);
            leftovers.add(&report.leftovers);
        }
        Ok(Report {
            metrics: self.metrics,
            histograms,
            leftovers,
        })
    }
}

/// Where the kernel may choose the shard of a datagram, it does from now on; else the mailbox brings it there, and the log says why.
fn steer_datagrams(cfg: &Config, features: &Features, sockets: &mut [ShardSockets], key: &OwnerKey) {
    let has_udp = cfg
        .listeners
        .iter()
        .any(|listener| listener.transport == Transport::Udp);
    if cfg.shards < 2 || !has_udp {
        return;
    }
    match cfg.udp.steering {
        Steering::Off => tracing::info!("steering is off: datagrams go to their shard by mail"),
        Steering::Auto if !features.has(Feature::ReuseportEbpf) => tracing::info!(
            "the kernel does not steer datagrams to their shard, mail does: that needs CAP_BPF, before Linux 5.8 CAP_SYS_ADMIN"
        ),
        Steering::Auto => match steer(sockets, key) {
            Ok(()) => tracing::info!("the kernel steers datagrams to their shard"),
            Err(error) => {
                tracing::warn!(%error, "the kernel does not steer datagrams to their shard, mail does")
            }
        },
    }
}

fn draw_keys() -> Result<Keys, getrandom::Error> {
    let (mut token, mut owner) = ([0; 16], [0; 16]);
    getrandom::fill(&mut token)?;
    getrandom::fill(&mut owner)?;
    let mut seeds = [0u64; 16];
    for seed in &mut seeds {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        *seed = u64::from_ne_bytes(bytes);
    }
    let eight = |from: usize| std::array::from_fn(|i| seeds[from + i]);
    Ok(Keys {
        token: TokenKey::new(token),
        owner: OwnerKey::new(owner),
        aors: AorHasher::new(eight(0)),
        tables: eight(8),
    })
}

/// All that a shard's thread needs.
struct ShardSetup {
    cfg: Arc<Config>,
    id: ShardId,
    cpu: Option<usize>,
    features: Features,
    sockets: ShardSockets,
    mail: Mail,
    keys: Keys,
    clock: Clock,
    wakers: Arc<Wakers>,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    teller: Teller,
    control_waker: Arc<ControlWaker>,
    changes: Arc<Changes>,
    boards: Arc<Boards>,
}

impl ShardSetup {
    fn run(self, ready: &std::sync::mpsc::Sender<Result<(), String>>) -> io::Result<ShardReport> {
        if let Some(cpu) = self.cpu
            && let Err(error) = crate::io::affinity::pin_to(cpu)
        {
            tracing::warn!(shard = self.id.0, cpu, %error, "the shard is not pinned");
        }
        let reactor = Uring::new(
            &self.cfg,
            self.id,
            self.sockets,
            self.features,
            self.connections,
            self.wakers,
            self.metrics.clone(),
            self.clock,
        );
        let mut reactor = match reactor {
            Ok(reactor) => reactor,
            Err(error) => {
                _ = ready.send(Err(format!("shard {}: {error}", self.id.0)));
                return Err(error);
            }
        };
        reactor.set_changes(self.changes);
        let now = reactor.now();
        let mut out = Effects::new(Pool::new(self.cfg.limits.buffer_bytes_max));
        // The shard alone has the configuration from now on, so that one that it no longer goes by can be given up.
        let mut shard = Shard::new(self.cfg, self.metrics, self.id, self.keys, self.mail, now);
        shard.make_ready();
        shard.start_trunks(self.boards, now);
        _ = ready.send(Ok(()));
        out.teller = Some(self.teller);
        turn_until_stopped(&mut reactor, ShardLoop::new(shard, out), || {
            self.control_waker.wake()
        })
    }
}
