//! What a run is asked to do: the options of every scenario.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// REGISTER: refreshes of known subscribers, and --fresh of ones not seen before.
    Register,
    /// INVITE, 100, 180, 200, ACK, hold, BYE, 200.
    Call,
    /// MESSAGE from phone to phone.
    Message,
    /// OPTIONS to the server itself.
    Options,
    /// A busy hour: of 100 transactions started, 50 REGISTER, 30 calls, 15 MESSAGE, 5 OPTIONS.
    Mixed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Peers {
    /// All callers behind one address and all callees behind another.
    Trunk,
    /// Every phone has an address of its own in 127.0.0.0/8.
    Phones,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Transport {
    Udp,
    Tcp,
    /// Callers on TCP, callees on UDP.
    TcpUdp,
}

/// The longest hold, ring or time-out, in milliseconds: an hour.
pub const WAIT_MAX_MS: u64 = 3_600_000;
/// The longest T1: 64 of it are a time-out.
const T1_MAX_MS: u64 = WAIT_MAX_MS / 64;

#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// The server. Every message goes there first.
    #[arg(long, default_value = "127.0.0.1:5060")]
    pub target: SocketAddrV4,
    /// The domain of all users.
    #[arg(long, default_value = "one.att.net")]
    pub domain: String,
    #[arg(long, value_enum, default_value = "trunk")]
    pub peers: Peers,
    #[arg(long, value_enum, default_value = "udp")]
    pub transport: Transport,
    /// Starts a second, all threads together.
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// Starts come at random (exponential gaps) instead of evenly.
    #[arg(long)]
    pub poisson: bool,
    /// Seconds during which calls are started.
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Ends the run after so many starts. 0: --duration alone ends it.
    #[arg(long, default_value_t = 0)]
    pub calls: u64,
    /// Milliseconds from ACK to BYE, at most an hour.
    #[arg(long, default_value_t = 0)]
    pub hold: u64,
    /// Milliseconds from 180 to 200, at most an hour.
    #[arg(long, default_value_t = 0)]
    pub ring: u64,
    /// Phones of each side a thread. 0: 1,000 as a trunk; as phones as many as keep each to one call at a time, at least 5,000 (1,000 on TCP).
    #[arg(long, default_value_t = 0)]
    pub phones: u32,
    /// First of the two ports of each thread: callers, callees.
    #[arg(long, default_value_t = 6000)]
    pub port: u16,
    /// Of 100 REGISTERs, how many are of a subscriber not seen before.
    #[arg(long, default_value_t = 10)]
    pub fresh: u32,
    /// Registers nobody first: the server knows the phones, or is a relay.
    #[arg(long)]
    pub no_register: bool,
    /// Milliseconds of T1 (RFC 3261 §17.1.1.1), 1 to 56,250.
    #[arg(long, default_value_t = 500)]
    pub t1: u64,
    /// Milliseconds after which a transaction without a final answer is lost, at most an hour. 0: 64 times T1.
    #[arg(long, default_value_t = 0)]
    pub timeout: u64,
    /// The long INVITE of a VoLTE phone (2.3 kB, 1,466 bytes of SDP) instead of one of 0.8 kB.
    #[arg(long)]
    pub ims: bool,
    /// Sends every datagram on its own, instead of runs of equal length by UDP_SEGMENT between trunks.
    #[arg(long)]
    pub no_segment: bool,
    /// Threads, each with phones and sockets of its own.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// CPUs that the threads are pinned to, in turn.
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Sleeps when there is nothing to do. It wakes up late by what the machine takes, and that is in every latency.
    #[arg(long)]
    pub sleep: bool,
    /// The server's process, whose CPU time (and its children's) is told a call. May be given several times.
    #[arg(long, value_delimiter = ',')]
    pub server_pid: Vec<i32>,
    /// Where the result goes as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where the histograms of each second go as an HdrHistogram interval log.
    #[arg(long)]
    pub hlog: Option<PathBuf>,
    /// Where the percentile plot goes, one self-contained page.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// No progress line.
    #[arg(long)]
    pub quiet: bool,
    /// Where the callee side sends to, if elsewhere than --target (the relay's other TCP port).
    #[arg(long, hide = true)]
    pub callee_target: Option<SocketAddrV4>,
}

impl Plan {
    /// Phones of each side a thread.
    pub fn phones_of_a_thread(&self) -> u32 {
        if self.phones > 0 {
            return self.phones;
        }
        match (self.peers, self.transport) {
            (Peers::Trunk, _) => 1000,
            (Peers::Phones, Transport::Tcp | Transport::TcpUdp) => 1000,
            (Peers::Phones, Transport::Udp) => {
                let calls =
                    self.rate / self.threads as f64 * ((self.hold + self.ring) as f64 / 1000.0 + 0.25);
                (calls as u32).max(5000)
            }
        }
    }

    /// Nanoseconds.
    pub fn timeout_ns(&self) -> u64 {
        (if self.timeout == 0 {
            64 * self.t1
        } else {
            self.timeout
        }) * 1_000_000
    }

    /// Of the starts that `--calls` asks for, how many are this thread's.
    pub fn calls_of_thread(&self, thread: usize) -> u64 {
        let threads = self.threads as u64;
        match self.calls {
            0 => u64::MAX,
            calls => calls / threads + u64::from((thread as u64) < calls % threads),
        }
    }

    /// What can't be done, in words.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |text: &str| Err(text.to_string());
        if !(self.rate > 0.0 && self.rate <= 10_000_000.0) {
            return wrong("--rate: above 0, at most 10,000,000");
        }
        if !(self.duration > 0.0 && self.duration <= 86_400.0) {
            return wrong("--duration: above 0, at most 86,400 seconds");
        }
        if self.threads == 0 || self.threads > 64 {
            return wrong("--threads: 1 to 64");
        }
        if u32::from(self.port) + 2 * self.threads as u32 > 65_536 {
            return wrong("--port: two ports a thread must fit below 65,536");
        }
        if self.phones_of_a_thread() as usize * self.threads > 1_000_000 {
            return wrong("--phones: at most 1,000,000 in all");
        }
        if self.fresh > 100 {
            return wrong("--fresh: at most 100");
        }
        if self.t1 == 0 || self.t1 > T1_MAX_MS {
            return wrong("--t1: 1 to 56,250 ms");
        }
        let longest = self.timeout.max(self.hold).max(self.ring);
        if longest > WAIT_MAX_MS {
            return wrong("--hold, --ring, --timeout: at most 3,600,000 ms");
        }
        if !self.target.ip().is_loopback() {
            return wrong("--target: a loopback address: this load is not for a network that others use");
        }
        Ok(())
    }

    /// What the callees' names begin with. Phones that are reached in another way are other users, so that no server forks
    /// a call to addresses of an earlier run.
    pub fn callee_prefix(&self) -> u8 {
        let peers = match self.peers {
            Peers::Trunk => b'a',
            Peers::Phones => b'd',
        };
        peers
            + match self.transport {
                Transport::Udp => 0,
                Transport::Tcp => 1,
                Transport::TcpUdp => 2,
            }
    }

    pub fn is_tcp(&self, side: Side) -> bool {
        match self.transport {
            Transport::Udp => false,
            Transport::Tcp => true,
            Transport::TcpUdp => side == Side::Caller,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Caller,
    Callee,
}

/// Where a phone lives: as a trunk all of a side at one address; else 127.1.0.0 and up for callers, 127.2.0.0 and up for
/// callees, 65,536 a block.
pub fn address(peers: Peers, side: Side, phone: u32) -> Ipv4Addr {
    match peers {
        Peers::Trunk => Ipv4Addr::LOCALHOST,
        Peers::Phones => {
            let block = 1 + 2 * (phone >> 16) + u32::from(side == Side::Callee);
            Ipv4Addr::new(127, block as u8, (phone >> 8) as u8, phone as u8)
        }
    }
}
