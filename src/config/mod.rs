//! The configuration: every key, its default and its unit. A leaf that all layers may read.
//!
//! [`Config`] is what the rest of the program sees: whole, checked and fit for this machine. It is made in three steps.
//! [`schema::KEYS`] says once what may be configured; [`mod@load`] lays a file and the command line over the defaults by that
//! list and makes [`Settings`] of them; [`resolve`] checks the settings against one another and against the [`Machine`],
//! fills in what only the machine knows (CPUs, memory, addresses) and gives the `Config`. Whatever is wrong is told at
//! once, as [`Errors`]. [`example`] writes the same list as a file to start from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::wire::Transport;

pub mod dns;
mod error;
pub mod example;
pub mod key;
pub mod load;
pub mod machine;
pub mod pattern;
pub mod reload;
pub mod resolve;
pub mod route;
mod rows;
pub mod schema;
mod toml_file;
pub mod trunk;
mod value;

pub use dns::{Dns, HostEntry, HostRecord};
pub use error::{ConfigError, Errors, Notice, Origin};
pub use load::{Flag, FlagValue, Loaded, Settings, Source, load};
pub use machine::Machine;
pub use route::ROUTE_KEYS;
pub use trunk::TRUNK_KEYS;
pub use value::{LOG_FILTER, log_filter, near_miss};

/// One local address and transport that is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    pub transport: Transport,
    pub addr: SocketAddr,
    /// What Via and Contact say of us, `host:port`; the bound address unless configured.
    pub advertised: String,
    pub state: ListenerState,
}

/// Whether a listener is listened on. A file has open ones alone; the others are of those that a reload has taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ListenerState {
    #[default]
    Open,
    /// Nothing new begins from it. TCP: no connection is accepted, and those that there are go on. UDP: for a while what comes is served.
    Leaving,
    /// A UDP listener whose socket is closed. Its address and name are those of the one that sends in its place, if there is any.
    Closed,
}

impl Listener {
    /// Whether its address is one of ours.
    pub fn is_ours(&self) -> bool {
        match self.state {
            ListenerState::Open | ListenerState::Leaving => true,
            ListenerState::Closed => false,
        }
    }
}

/// RFC 3261 table 4 and what else waits. Milliseconds in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timers {
    /// T1, the round-trip estimate.
    pub t1: Duration,
    /// T2, the longest interval between retransmissions of non-INVITE requests and INVITE responses.
    pub t2: Duration,
    /// T4, how long a message may stay in the network.
    pub t4: Duration,
    /// Timer C: how long a call may ring after the last provisional response (RFC 3261 §16.6 item 11: above 3 minutes).
    pub timer_c: Duration,
    /// Timer D: how long a finished INVITE client transaction absorbs retransmitted finals on UDP.
    pub timer_d: Duration,
}

impl Timers {
    /// 64*T1: timers B, F, H, J, L and M.
    pub fn timeout(&self) -> Duration {
        self.t1 * 64
    }

    /// How long after a request other than INVITE has left its client's Timer E is set to T2 (RFC 3261 §17.1.2.2): 3.5 s where T1 is
    /// 500 ms and T2 4 s.
    pub fn until_t2(&self) -> Duration {
        let mut interval = self.t1.max(Duration::from_millis(1));
        let mut until = interval;
        while interval * 2 < self.t2 {
            interval *= 2;
            until += interval;
        }
        until
    }
}

/// Every limit; full means 503 or a counted drop, never growth. Counts are for the whole process and are shared out
/// evenly to the shards, except where a limit is of one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// One message, header section and body; at most 65,535.
    pub message_bytes_max: usize,
    /// The body of one message: beyond it 413.
    pub body_bytes_max: usize,
    pub transactions_max: usize,
    pub calls_max: usize,
    /// How long an answered call may last before both sides get a BYE.
    pub call_duration_max: Duration,
    /// Destinations that one request is forked to.
    pub forks_max: usize,
    pub aors_max: usize,
    pub contacts_per_aor_max: usize,
    pub subscriptions_max: usize,
    pub subscriptions_per_aor_max: usize,
    pub connections_max: usize,
    pub connections_per_source_max: usize,
    /// Unsent bytes of one TCP connection.
    pub send_queue_bytes_max: usize,
    /// Unsent bytes of all TCP connections together.
    pub send_queue_bytes_sum_max: usize,
    /// A connection whose peer took nothing of what waits for it for so long is closed.
    pub send_stalled: Duration,
    /// A connection that received nothing for so long is closed.
    pub connection_idle: Duration,
    /// A message that was begun on a connection must be whole after so long.
    pub message_partial: Duration,
    /// How long an attempt to connect may take.
    pub connect_timeout: Duration,
    /// All message buffers of one shard, bytes.
    pub buffer_bytes_max: usize,
    /// Bytes waiting in the mailbox from one shard to another.
    pub mailbox_bytes: usize,
}

/// What a shard does that gets more than it can handle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overload {
    /// Whether anything is ever refused for it.
    pub enabled: bool,
    /// How long datagrams may wait in the socket before new requests are refused.
    pub target: Duration,
    /// Least time that a 503 asks to wait; up to twice as long, so that not all come back at once. Seconds.
    pub retry_after_s: u32,
    /// Most 503s for each request that is admitted; what is beyond is dropped.
    pub refusals_per_admitted: u32,
    /// Whether those who obey RFC 7339 are told how much less to send.
    pub feedback: bool,
}

/// RFC 3261 §10.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registrar {
    /// Granted when the request names no expiry, seconds.
    pub expires_default_s: u32,
    /// Below it 423 with Min-Expires, seconds.
    pub expires_min_s: u32,
    /// More is cut down to this, seconds.
    pub expires_max_s: u32,
    /// How long a subscriber without contacts is still known (480 rather than 404).
    pub offline_memory: Duration,
    /// RFC 3608: the URIs of the 200's Service-Route, in the order of use.
    pub service_route: Vec<String>,
    /// RFC 5626 §5.4: within what time phones that registered a flow are to send keepalives, seconds; 0: they choose.
    pub flow_timer_s: u32,
    /// Whether a Path is taken that the phone did not say it supports.
    pub path_without_support: bool,
}

/// RFC 4028.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionTimers {
    /// Whether calls end whose session was not refreshed in time.
    pub enabled: bool,
    /// Whether calls get a timer for which no phone has asked.
    pub request: bool,
    /// The interval asked for then, seconds.
    pub interval_s: u32,
    /// Below it 422 with Min-SE, seconds.
    pub interval_min_s: u32,
}

/// RFC 3680 and RFC 6665.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegEvent {
    /// Whether a NOTIFY carries `application/reginfo+xml`.
    pub notify_body: bool,
    pub expires_default_s: u32,
    pub expires_min_s: u32,
    pub expires_max_s: u32,
}

/// Whether datagrams for one peer share a send (UDP_SEGMENT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Where two or more wait for one peer.
    Auto,
    Off,
}

/// Whether what a peer sent together is received together (UDP_GRO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gro {
    /// Where the kernel does not choose the shard of each datagram.
    Auto,
    Off,
}

/// One line of JSON for each call that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    /// Where the files are written; `None`: no records are kept.
    pub directory: Option<PathBuf>,
    /// Beyond it, or when it is so old, a file is followed by the next.
    pub file_bytes_max: u64,
    pub file_age_max: Duration,
    /// Files that are kept, the one being written included.
    pub files_max: usize,
    /// Records that wait for the disk; what is beyond is counted and lost.
    pub waiting_max: usize,
    /// Calls in progress that the proxy has forwarded and of which a record will be told.
    pub proxied_calls_max: usize,
}

/// Where people and programs ask a running server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// Where HTTP is served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// What whoever asks over HTTP must present (`Authorization: Bearer`); empty: nobody is asked for it.
    pub token: String,
    /// The unix socket of the command line; `None`: none.
    pub socket: Option<PathBuf>,
    /// Connections at a time, of each of the two.
    pub connections_max: usize,
    /// How long the head of a request may take, from the end of the one before.
    pub head_timeout: Duration,
}

/// Where HTTP is served unless something else is said. That it is taken is no reason not to start.
pub const ADMIN_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5080);
pub const ADMIN_SOCKET_DEFAULT: &str = "/run/ringway/ringway.sock";

/// Messages copied to a collector (HEPv3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hep {
    /// Where the collector listens, over UDP; `None`: nothing is sent.
    pub collector: Option<SocketAddr>,
    /// The number by which the collector knows this server.
    pub capture_id: u32,
    /// What the collector wants to know us by; empty: nothing.
    pub password: String,
    /// Of the calls, chosen by their Call-ID.
    pub sample_percent: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Human,
    Json,
}

/// How a datagram gets to the shard that owns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steering {
    /// The kernel brings it there, where a program may be loaded that tells it; else the mailbox does.
    Auto,
    /// Always the mailbox.
    Off,
}

/// Interval histograms in files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistogramFiles {
    /// Where they are written; empty: nowhere.
    pub directory: String,
    pub interval: Duration,
    /// How old a file is when the next is begun.
    pub rotate_after: Duration,
    pub files_max: usize,
}

/// What is special to UDP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    pub steering: Steering,
    pub segment: Segment,
    pub gro: Gro,
}

/// Which kernel features the reactor may use: all that it finds, or only those of an older kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KernelLevel {
    pub major: u16,
    pub minor: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub listeners: Vec<Listener>,
    /// What reaches a listener that is bound to all addresses of its family, loopback ones apart; in order. The machine says it, no file.
    pub local_addresses: Vec<IpAddr>,
    /// Domains whose subscribers live here, lower case. Empty: every domain is taken for ours, and a subscriber is named by
    /// the user part alone.
    pub domains: Vec<String>,
    /// Number of shards, at least 1.
    pub shards: usize,
    /// CPUs that the shards are pinned to, in turn; empty: those that the process may run on.
    pub cpus: Vec<usize>,
    /// How long a shard with nothing to do looks for more before it sleeps.
    pub spin: Duration,
    /// `None`: everything that the probe finds.
    pub kernel_level: Option<KernelLevel>,
    pub open_registrar: bool,
    /// How long calls in progress may go on after SIGTERM.
    pub drain: Duration,
    /// A `tracing` filter directive: `info`, `debug`, `ringway::io=trace`.
    pub log: String,
    pub log_format: LogFormat,
    pub admin: Admin,
    pub histograms: HistogramFiles,
    /// Option tags that an INVITE must say it supports: else 421.
    pub extensions_required: Vec<String>,
    pub udp: Udp,
    pub timers: Timers,
    pub limits: Limits,
    pub overload: Overload,
    pub registrar: Registrar,
    pub reg_event: RegEvent,
    pub records: Records,
    pub session_timers: SessionTimers,
    pub hep: Hep,
    /// The routing table, in its order. Empty: everything goes to the phone service.
    pub routes: Vec<route::Route>,
    pub trunks: Vec<trunk::Trunk>,
    pub dns: Dns,
    /// Names that are known without DNS.
    pub hosts: Vec<HostEntry>,
}

impl Config {
    /// Whether what is sent to `ip` and a listener's port reaches that listener.
    pub fn is_address_of(&self, listener: &Listener, ip: IpAddr) -> bool {
        let bound = listener.addr.ip();
        let is_local = || ip.is_loopback() || self.local_addresses.binary_search(&ip).is_ok();
        bound == ip || bound.is_unspecified() && bound.is_ipv4() == ip.is_ipv4() && is_local()
    }
}

impl Default for Config {
    fn default() -> Config {
        let addr: SocketAddr = ([127, 0, 0, 1], 5060).into();
        let listener = |transport| Listener {
            transport,
            addr,
            advertised: addr.to_string(),
            state: crate::config::ListenerState::Open,
        };
        Config {
            listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
            local_addresses: Vec::new(),
            domains: Vec::new(),
            shards: 1,
            cpus: Vec::new(),
            spin: Duration::ZERO,
            kernel_level: None,
            open_registrar: false,
            drain: Duration::from_secs(30),
            log: "info".to_owned(),
            log_format: LogFormat::Human,
            admin: Admin {
                listen: Some(ADMIN_LISTEN_DEFAULT),
                token: String::new(),
                socket: Some(PathBuf::from(ADMIN_SOCKET_DEFAULT)),
                connections_max: 64,
                head_timeout: Duration::from_secs(5),
            },
            histograms: HistogramFiles {
                directory: String::new(),
                interval: Duration::from_secs(10),
                rotate_after: Duration::from_secs(86_400),
                files_max: 14,
            },
            extensions_required: Vec::new(),
            udp: Udp {
                steering: Steering::Auto,
                segment: Segment::Auto,
                gro: Gro::Auto,
            },
            timers: Timers {
                t1: Duration::from_millis(500),
                t2: Duration::from_secs(4),
                t4: Duration::from_secs(5),
                timer_c: Duration::from_secs(181),
                timer_d: Duration::from_secs(32),
            },
            limits: Limits {
                message_bytes_max: 65_535,
                body_bytes_max: 65_535,
                transactions_max: 4_000_000,
                calls_max: 1_000_000,
                call_duration_max: Duration::from_secs(12 * 3_600),
                forks_max: 8,
                aors_max: 4_000_000,
                contacts_per_aor_max: 8,
                subscriptions_max: 2_000_000,
                subscriptions_per_aor_max: 8,
                connections_max: 100_000,
                connections_per_source_max: 10_000,
                send_queue_bytes_max: 1 << 20,
                send_queue_bytes_sum_max: 256 << 20,
                send_stalled: Duration::from_secs(30),
                connection_idle: Duration::from_secs(3_600),
                message_partial: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(5),
                buffer_bytes_max: 4 << 30,
                mailbox_bytes: 1 << 20,
            },
            overload: Overload {
                enabled: true,
                target: Duration::from_millis(10),
                retry_after_s: 5,
                refusals_per_admitted: 3,
                feedback: true,
            },
            registrar: Registrar {
                expires_default_s: 600_000,
                expires_min_s: 60,
                expires_max_s: 600_000,
                offline_memory: Duration::from_secs(7 * 86_400),
                service_route: Vec::new(),
                flow_timer_s: 0,
                path_without_support: false,
            },
            reg_event: RegEvent {
                notify_body: true,
                expires_default_s: 600_000,
                expires_min_s: 60,
                expires_max_s: 600_000,
            },
            records: Records {
                directory: None,
                file_bytes_max: 100_000_000,
                file_age_max: Duration::from_secs(86_400),
                files_max: 30,
                waiting_max: 10_000,
                proxied_calls_max: 100_000,
            },
            session_timers: SessionTimers {
                enabled: true,
                request: false,
                interval_s: 1_800,
                interval_min_s: 90,
            },
            hep: Hep {
                collector: None,
                capture_id: 2_001,
                password: String::new(),
                sample_percent: 100,
            },
            routes: Vec::new(),
            trunks: Vec::new(),
            dns: Dns::default(),
            hosts: Vec::new(),
        }
    }
}
