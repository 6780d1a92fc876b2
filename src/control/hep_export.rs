//! Messages sent to a HEP collector as they come: Homer, or `sngrep -L`. Over UDP, and never waiting: what can't be sent at once is
//! counted and gone.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::Filter;
use crate::config::Hep;
use crate::control::capture::hep;
use crate::control::ports::Ports;
use crate::control::status::Sent;
use crate::control::traces::{Trace, Traced};
use crate::io::clock::Clock;
use crate::time::Instant;

/// How often is said that messages are dropped.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

pub struct HepExport {
    trace: Trace,
    socket: UdpSocket,
    sender: hep::Sender,
    clock: Clock,
    counts: Arc<Sent>,
    told_at: Option<Instant>,
    told: u64,
}

impl HepExport {
    /// `None` where there is no collector.
    ///
    /// # Errors
    /// There is no way to the collector, or too much is traced already.
    pub fn open(cfg: &Hep, ports: &Rc<Ports>, clock: Clock) -> io::Result<Option<HepExport>> {
        let Some(collector) = cfg.collector else {
            return Ok(None);
        };
        let anywhere = match collector {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(anywhere)?;
        socket.connect(collector)?;
        socket.set_nonblocking(true)?;
        let filter = Filter::Sample {
            per_myriad: cfg.sample_percent * 100,
        };
        let (trace, _) =
            Trace::begin(ports, &filter).ok_or_else(|| io::Error::other("the shards can't be asked"))?;
        Ok(Some(HepExport {
            trace,
            socket,
            sender: hep::Sender {
                capture_id: cfg.capture_id,
                auth_key: cfg.password.clone(),
            },
            clock,
            counts: Arc::default(),
            told_at: None,
            told: 0,
        }))
    }

    pub fn counts(&self) -> Arc<Sent> {
        Arc::clone(&self.counts)
    }

    /// Sends until the traces end.
    pub async fn run(mut self) {
        let mut datagram = Vec::new();
        while let Some(traced) = self.trace.next().await {
            let error = self.send(&traced, &mut datagram).err();
            let dropped = Sent::get(&self.counts.lost) + self.trace.dropped();
            if dropped > self.told {
                self.tell(dropped, error);
            }
        }
    }

    fn send(&self, traced: &Traced, datagram: &mut Vec<u8>) -> io::Result<()> {
        let is_written = hep::write(
            datagram,
            &self.sender,
            &traced.message,
            &traced.call,
            &traced.bytes,
        );
        let sent = if is_written {
            self.socket.send(datagram).map(drop)
        } else {
            Err(io::Error::from(io::ErrorKind::FileTooLarge))
        };
        let count = match sent {
            Ok(()) => &self.counts.sent,
            Err(_) => &self.counts.lost,
        };
        Sent::add(count, 1);
        sent
    }

    /// At once, and then at most once a minute.
    fn tell(&mut self, dropped: u64, error: Option<io::Error>) {
        let now = self.clock.now();
        if self.told_at.is_some_and(|at| now.since(at) < TELL_INTERVAL) {
            return;
        }
        let messages = dropped - self.told;
        match error {
            Some(error) => tracing::warn!(messages, %error, "messages do not reach the HEP collector"),
            None => tracing::warn!(messages, "messages came too fast for the HEP collector"),
        }
        (self.told_at, self.told) = (Some(now), dropped);
    }
}
