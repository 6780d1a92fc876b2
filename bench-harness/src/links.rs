//! A phone's sockets: one UDP socket and one TCP listener on the same address and port, and any number of connections.
//!
//! Every socket has a thread that reads it and puts what it read into one queue, with the time it came. So a phone that
//! waits for one message loses no other, whatever it comes on.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::ladder::{Direction, Trace};
use crate::sip::{Framer, Message, Unit};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// As it stands in a Via.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One TCP connection of one phone, opened by it or accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId(usize);

/// A message and how it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub message: Message,
    pub raw: Vec<u8>,
    pub transport: Transport,
    pub conn: Option<ConnId>,
    pub from: SocketAddr,
    pub at: Instant,
}

impl std::ops::Deref for Received {
    type Target = Message;
    fn deref(&self) -> &Message {
        &self.message
    }
}

#[derive(Debug)]
pub enum Event {
    Message(Box<Received>),
    /// A CRLF between messages: the other side's answer to a keepalive.
    Crlf(ConnId),
    /// The other side closed or reset the connection.
    Closed(ConnId),
    /// Something came that is no SIP.
    Unreadable {
        why: String,
        raw: Vec<u8>,
    },
}

/// What the reading threads share.
#[derive(Clone)]
struct Reader {
    events: Sender<Event>,
    stop: Arc<AtomicBool>,
    trace: Option<(Trace, usize)>,
    conns: Arc<Mutex<HashMap<ConnId, Arc<TcpStream>>>>,
    next_conn: Arc<AtomicUsize>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

pub struct Links {
    local: SocketAddr,
    udp: UdpSocket,
    events: Receiver<Event>,
    reader: Reader,
}

impl Links {
    /// Takes a free port of `ip` for UDP and TCP alike. `trace` gets everything sent and received, as this phone's.
    pub fn bind(ip: IpAddr, trace: Option<(Trace, usize)>) -> io::Result<Links> {
        let (udp, listener) = bind_pair(ip)?;
        let local = udp.local_addr()?;
        let (sender, events) = channel();
        let reader = Reader {
            events: sender,
            stop: Arc::default(),
            trace,
            conns: Arc::default(),
            next_conn: Arc::default(),
            threads: Arc::default(),
        };
        let socket = udp.try_clone()?;
        reader.spawn(move |reader| reader.read_datagrams(&socket))?;
        reader.spawn(move |reader| reader.accept(&listener))?;
        Ok(Links {
            local,
            udp,
            events,
            reader,
        })
    }

    /// The address of the UDP socket and of the listener.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn send_datagram(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.reader.record(Direction::Sent, Transport::Udp, bytes);
        let sent = self.udp.send_to(bytes, to)?;
        assert_eq!(sent, bytes.len(), "a datagram leaves whole or not at all");
        Ok(())
    }

    /// Opens a connection from this phone's address.
    pub fn connect(&self, to: SocketAddr) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        // Without it the kernel would choose 127.0.0.1 for any peer on loopback, whatever this phone's address is.
        socket.bind(&SocketAddr::new(self.local.ip(), 0).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
        self.reader.adopt(socket.into())
    }

    /// Sends each piece in a segment of its own; the whole counts as one message.
    pub fn send_stream(&self, conn: ConnId, pieces: &[&[u8]]) -> io::Result<()> {
        let whole = pieces.concat();
        self.reader.record(Direction::Sent, Transport::Tcp, &whole);
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "that connection is closed");
        // The lock is not held while writing: the other side may be slow.
        let stream = lock(&self.reader.conns).get(&conn).ok_or_else(gone)?.clone();
        for piece in pieces {
            (&*stream).write_all(piece)?;
            if pieces.len() > 1 {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    pub fn is_open(&self, conn: ConnId) -> bool {
        lock(&self.reader.conns).contains_key(&conn)
    }

    /// Closes in an orderly way (FIN). The connection stays open in the other direction until the other side closes too.
    pub fn close(&self, conn: ConnId) {
        if let Some(stream) = lock(&self.reader.conns).get(&conn) {
            // A connection that the other side closed first can't be shut down again; then it is closed already.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Breaks the connection off (RST).
    pub fn reset(&self, conn: ConnId) {
        if let Some(stream) = lock(&self.reader.conns).remove(&conn) {
            // With a linger time of zero, closing discards what is queued and resets (socket(7)). It is closed when the
            // reading thread lets go of it too.
            let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// The next thing that came, or `None` at the deadline.
    pub fn next(&self, deadline: Instant) -> Option<Event> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the phone holds a sender itself"),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.reader.stop.store(true, Ordering::Release);
        for (_, stream) in lock(&self.reader.conns).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Something to read wakes the two threads that wait for strangers.
        let _ = self.udp.send_to(b"", self.local);
        let _ = TcpStream::connect_timeout(&self.local, Duration::from_secs(1));
        let threads = std::mem::take(&mut *lock(&self.reader.threads));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Reader {
    fn spawn(&self, work: impl FnOnce(&Reader) + Send + 'static) -> io::Result<()> {
        let reader = self.clone();
        let thread = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || work(&reader))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn record(&self, direction: Direction, transport: Transport, bytes: &[u8]) {
        if let Some((trace, phone)) = &self.trace {
            trace.record(*phone, direction, transport, bytes);
        }
    }

    /// The phone may be gone already; then nobody misses the event.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn read_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 65_536];
        // The wake-up at the end is a datagram like any other and may be lost.
        let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
        while !self.stopped() {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            if length > 0 {
                self.arrived(&buffer[..length], Transport::Udp, None, from);
            }
        }
    }

    fn accept(&self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.stopped() || self.adopt(stream).is_err() {
                return;
            }
        }
    }

    fn adopt(&self, stream: TcpStream) -> io::Result<ConnId> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        let id = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let stream = Arc::new(stream);
        lock(&self.conns).insert(id, stream.clone());
        self.spawn(move |reader| reader.read_stream(&stream, id, peer))?;
        Ok(id)
    }

    fn read_stream(&self, mut stream: &TcpStream, id: ConnId, peer: SocketAddr) {
        let mut buffer = vec![0; 16_384];
        let mut framer = Framer::default();
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            framer.push(&buffer[..length]);
            while let Some(unit) = framer.next_unit() {
                match unit {
                    Unit::Message(bytes) => self.arrived(&bytes, Transport::Tcp, Some(id), peer),
                    Unit::Crlf => self.tell(Event::Crlf(id)),
                    Unit::Broken(why) => self.tell(Event::Unreadable {
                        why,
                        raw: buffer[..length].to_vec(),
                    }),
                }
            }
        }
        lock(&self.conns).remove(&id);
        self.tell(Event::Closed(id));
    }

    fn arrived(&self, bytes: &[u8], transport: Transport, conn: Option<ConnId>, from: SocketAddr) {
        let at = Instant::now();
        self.record(Direction::Received, transport, bytes);
        self.tell(match Message::parse(bytes) {
            Ok(message) => Event::Message(Box::new(Received {
                message,
                raw: bytes.to_vec(),
                transport,
                conn,
                from,
                at,
            })),
            Err(why) => Event::Unreadable {
                why,
                raw: bytes.to_vec(),
            },
        });
    }
}

/// One port for both: the kernel chooses for UDP, and TCP's may be taken by someone else.
fn bind_pair(ip: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..64 {
        let udp = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::DGRAM, None)?;
        // A burst of a thousand messages must find room while the phone's thread waits for a core.
        udp.set_recv_buffer_size(4 << 20)?;
        udp.bind(&SocketAddr::new(ip, 0).into())?;
        let udp: UdpSocket = udp.into();
        match TcpListener::bind(udp.local_addr()?) {
            Ok(listener) => return Ok((udp, listener)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// A thread that panicked while holding the lock left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
