//! A sequence of operations on the shards of a server: whatever peers send and whatever happens beside that, nothing panics,
//! every table keeps to its limit, what leaves can be read, and nothing is left over when all is quiet again.
//!
//! The input is a program: each operation takes what it needs from the bytes that follow, and refers back to what was sent and
//! received before. Bytes that are missing are zero.

mod server;
mod words;

use server::{Peer, Server};
use words::Text;

/// Operations of one input; what follows is not read.
const OPERATIONS_MAX: usize = 160;
/// Longer than anything that the server may remember: registrations, calls, Timer C, 64*T1.
const QUIET_MS: u64 = 1_500_000;

/// The rest of the input.
pub struct Input<'d>(&'d [u8]);

impl Input<'_> {
    pub fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.byte() % n.max(1)
    }

    pub fn is_one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The nth from the end, so that what happened last is what small numbers mean.
    pub fn recent<'l, T>(&mut self, list: &'l [T]) -> Option<&'l T> {
        let back = self.byte();
        list.len()
            .checked_sub(1 + back % list.len().max(1))
            .map(|at| &list[at])
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte() as u8).collect()
    }
}

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut server = Server::new(input.byte());
    let mut said = Said::default();
    for _ in 0..OPERATIONS_MAX {
        if input.0.is_empty() {
            break;
        }
        operate(&mut input, &mut server, &mut said);
        server.check_limits();
    }
    server.be_quiet(QUIET_MS);
    server.end();
}

/// What the peers have sent so far.
#[derive(Default)]
pub struct Said {
    pub messages: Vec<(Peer, Vec<u8>)>,
    serial: u32,
}

impl Said {
    pub fn next(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }
}

/// How long things take: a moment, T1, T2, a registration's least time, 64*T1, Timer C.
const WAITS_MS: &[u64] = &[1, 30, 500, 1_000, 4_000, 10_000, 32_001, 61_000, 181_001];

fn operate(input: &mut Input<'_>, server: &mut Server, said: &mut Said) {
    match input.below(16) {
        0..=3 => {
            let message = words::request(input, server, said);
            send(input, server, said, message);
        }
        4..=6 => {
            if let Some(message) = words::response(input, server, said) {
                send(input, server, said, message);
            }
        }
        7 => {
            if let Some(message) = words::within(input, server, said) {
                send(input, server, said, message);
            }
        }
        8 => {
            if let Some(message) = words::cancel_or_ack(input, server, said) {
                send(input, server, said, message);
            }
        }
        9 => {
            // The same once more, as it was or damaged in one place.
            let Some((peer, mut bytes)) = input.recent(&said.messages).cloned() else {
                return;
            };
            if input.is_one_in(4) && !bytes.is_empty() {
                let place = (input.byte() << 8 | input.byte()) % bytes.len();
                match input.below(3) {
                    0 => bytes[place] = input.byte() as u8,
                    1 => bytes.truncate(place),
                    _ => drop(bytes.remove(place)),
                }
            }
            server.receive(peer, &bytes, 0);
        }
        10 | 11 => server.advance(input.pick(WAITS_MS)),
        12 => {
            // A connection ends, whatever was half sent on it.
            let peer = Peer(input.below(server::PEERS));
            server.close(peer);
        }
        13 => server.ask(input.below(8), input.byte()),
        14 => {
            let (peer, len) = (Peer(input.below(server::PEERS)), input.byte());
            let bytes = input.bytes(len);
            let over = input.below(3);
            server.receive(peer, &bytes, over);
        }
        _ => match input.below(8) {
            0 | 4 => server.refuses_connections = !server.refuses_connections,
            1 | 5 => server.fails_sends = !server.fails_sends,
            2 | 6 => server.set_buffers_per_step(Some(input.below(12))),
            3 => server.set_buffers_per_step(None),
            _ => {
                // The network says that something has reached nobody, and how it began.
                if let Some(heard) = input.recent(&server.heard).cloned() {
                    let len = (input.byte() << 4).min(heard.bytes.len());
                    server.undelivered(heard.by, &heard.bytes[..len]);
                }
            }
        },
    }
}

/// Sends a message: over UDP, over TCP, or over TCP cut in two with something else in between.
fn send(input: &mut Input<'_>, server: &mut Server, said: &mut Said, message: (Peer, Text)) {
    let (peer, text) = message;
    let bytes = text.into_bytes();
    said.messages.push((peer, bytes.clone()));
    match input.below(8) {
        0..=4 => server.receive(peer, &bytes, 0),
        5 | 6 => server.receive(peer, &bytes, 1),
        _ => {
            let place = (input.byte() << 4) % (bytes.len() + 1);
            server.receive(peer, &bytes[..place], 1);
            if input.is_one_in(2) {
                server.advance(input.pick(&[1, 5_000, 11_000]));
            }
            server.receive(peer, &bytes[place..], 1);
        }
    }
}
