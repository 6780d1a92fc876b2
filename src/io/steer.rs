//! Steering: the kernel brings each datagram to the shard that owns it, by a program of ours
//! (BPF_PROG_TYPE_SK_REUSEPORT) that reads the message. Without it a message goes to the shard that the kernel chose by
//! addresses and ports, and from there to its owner by mail.
//!
//! The sockets of a listener hold the program, and it holds its maps: closing the last socket ends them all. A socket that is
//! closed leaves its place empty, and what belongs there is spread by the kernel.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use socket2::{Domain, Socket, Type};

use super::socket::{BoundSocket, ShardSockets};
use super::steer_kernel::{self, MapKind};
use super::steer_program::{SCRATCH_BYTES, program};
use crate::owner::OwnerKey;

/// Has the kernel steer what arrives on every UDP listener of several shards.
///
/// # Errors
/// The kernel refuses the program or the maps, most likely because the process lacks CAP_BPF (CAP_SYS_ADMIN before 5.8). Listeners
/// that it got to before are steered: that is as right as not to be.
pub fn steer(shards: &mut [ShardSockets], key: &OwnerKey) -> io::Result<()> {
    let listeners = shards.first().map_or(0, |shard| shard.sockets.len());
    for listener in 0..listeners {
        let sockets: Vec<&UdpSocket> = shards
            .iter()
            .filter_map(|shard| match shard.sockets.get(listener) {
                Some(BoundSocket::Udp(socket)) => Some(socket),
                Some(BoundSocket::Tcp(_)) | None => None,
            })
            .collect();
        if sockets.len() > 1 {
            steer_group(&sockets, key)?;
        }
    }
    for shard in shards {
        shard.is_steered = true;
    }
    Ok(())
}

/// Steers among bound sockets that share an address, in the order of the shards.
pub(super) fn steer_group(sockets: &[&UdpSocket], key: &OwnerKey) -> io::Result<()> {
    if cfg!(target_endian = "big") {
        // The program compares text by words.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let count = sockets.len() as u32;
    let places = steer_kernel::create_map(MapKind::ReuseportSockArray, 8, count)?;
    let scratch = steer_kernel::create_map(MapKind::PerCpuArray, SCRATCH_BYTES, 1)?;
    let code = program(places.as_fd(), scratch.as_fd(), key, sockets.len());
    let program = steer_kernel::load_program(&code)?;
    for (index, socket) in (0..).zip(sockets) {
        steer_kernel::put_socket(places.as_fd(), index, socket.as_fd())?;
    }
    match sockets.first() {
        Some(first) => steer_kernel::attach(program.as_fd(), first.as_fd()),
        None => Ok(()),
    }
}

/// A socket that shares `addr` with others of this user.
pub(super) fn sharing(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Token, TokenKey, TokenKind};
    use crate::wire::ShardId;
    use std::io::Write;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    const SHARDS: usize = 5;

    struct Group {
        sockets: Vec<UdpSocket>,
        client: UdpSocket,
        key: OwnerKey,
        tokens: TokenKey,
    }

    /// `None`, with a word, where the kernel does not let us.
    fn steered(any: SocketAddr) -> Option<Group> {
        let mut addr = any;
        let mut sockets = Vec::new();
        for _ in 0..SHARDS {
            let socket = sharing(addr).expect("a socket");
            addr = socket.local_addr().expect("an address");
            socket.set_nonblocking(true).expect("an option");
            sockets.push(socket);
        }
        let key = OwnerKey::new(*b"a key of 16 byte");
        let group: Vec<&UdpSocket> = sockets.iter().collect();
        match steer_group(&group, &key) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                // Past the test harness, which keeps what a passing test prints to itself.
                writeln!(
                    std::io::stderr(),
                    "skipped: no permission to load an eBPF program"
                )
                .expect("standard error");
                return None;
            }
            Err(error) => panic!("{error}"),
        }
        let client = UdpSocket::bind((any.ip(), 0)).expect("a socket");
        client.connect(addr).expect("a peer");
        let tokens = TokenKey::new([3; 16]);
        Some(Group {
            sockets,
            client,
            key,
            tokens,
        })
    }

    impl Group {
        /// Which shard gets it. Loopback delivers inside the send.
        fn arrives_at(&self, message: &[u8]) -> Option<usize> {
            self.client.send(message).expect("it is sent");
            let mut into = vec![0; 65_536];
            let mut at = None;
            for (index, socket) in self.sockets.iter().enumerate() {
                while let Ok(len) = socket.recv(&mut into) {
                    assert_eq!(&into[..len], message);
                    assert_eq!(at.replace(index), None, "it arrives once");
                }
            }
            at
        }

        fn token(&self, kind: TokenKind, shard: usize) -> String {
            let token = Token {
                kind,
                shard: ShardId(shard as u8),
                slot: 123_456,
                generation: 77,
            };
            String::from_utf8(self.tokens.text(token).to_vec()).expect("ASCII")
        }

        fn owner(&self, call_id: &str) -> usize {
            usize::from(self.key.shard(call_id.as_bytes(), SHARDS).0)
        }
    }

    fn request(call_id_line: &str, before: usize, body: usize) -> Vec<u8> {
        let mut text = String::from("INVITE sip:bob@one.att.net SIP/2.0\r\n");
        text += "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK0104aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
        // Names that begin like those looked for.
        text += "Call-Info: <http://192.0.2.1/>\r\nVia2: x\r\ni2: y\r\n";
        while text.len() < before {
            text += "Record-Route: <sip:192.0.2.7;lr>\r\n";
        }
        text += "To: <sip:bob@one.att.net>\r\nFrom: <sip:alice@one.att.net>;tag=1\r\n";
        text += call_id_line;
        text += "\r\nCSeq: 1 INVITE\r\n\r\n";
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len() + body, b'v');
        bytes
    }

    #[test]
    fn a_request_arrives_at_the_owner_of_its_call_id() {
        for any in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        ] {
            let Some(group) = steered(any) else { return };
            for len in 0..=127 {
                let call_id: String = (0..len)
                    .map(|at| char::from(b'!' + (at * 7 + len) as u8 % 90))
                    .collect();
                let wanted = Some(group.owner(&call_id));
                for line in [
                    format!("Call-ID: {call_id}"),
                    format!("CALL-id:{call_id}"),
                    format!("i: {call_id}"),
                    format!("I:{call_id}"),
                ] {
                    for before in [0, 300 + len, 1_500] {
                        let message = request(&line, before, 0);
                        assert_eq!(group.arrives_at(&message), wanted, "{line} behind {before}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_message_that_does_not_lie_in_one_piece_arrives_at_its_owner() {
        let Some(group) = steered((Ipv4Addr::LOCALHOST, 0).into()) else {
            return;
        };
        for number in 0..20 {
            let call_id = format!("{number}@large");
            let message = request(&format!("Call-ID: {call_id}"), 0, 60_000);
            assert_eq!(group.arrives_at(&message), Some(group.owner(&call_id)));
        }
    }

    #[test]
    fn our_tokens_name_the_shard() {
        let Some(group) = steered((Ipv4Addr::LOCALHOST, 0).into()) else {
            return;
        };
        for shard in 0..SHARDS {
            let leg = group.token(TokenKind::Leg, shard);
            assert_eq!(
                group.arrives_at(&request(&format!("Call-ID: {leg}"), 0, 0)),
                Some(shard)
            );
            let branch = group.token(TokenKind::Transaction, shard);
            let upper = branch.to_ascii_uppercase();
            for via in [
                format!(
                    "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK{branch};received=192.0.2.1;rport=5060"
                ),
                format!("v: SIP/2.0/UDP [2001:db8::1]:5060;rport;branch=Z9HG4BK{upper}"),
                format!(
                    "VIA: SIP/2.0/TCP {}.example ; rport = 1 ;branch=z9hG4bK{branch}",
                    "long".repeat(15)
                ),
            ] {
                for first in ["", "Content-Length: 0\r\n", "l: 0\r\n"] {
                    let text = format!(
                        "SIP/2.0 180 Ringing\r\n{first}{via}\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK77\r\n\
                         Call-ID: 4711\r\n\r\n"
                    );
                    assert_eq!(group.arrives_at(text.as_bytes()), Some(shard), "{text}");
                }
            }
            let tag = group.token(TokenKind::Subscription, shard);
            for to in [
                format!("To: <sip:bob@one.att.net>;tag={tag}"),
                format!("t: \"a=b\" <sip:bob@one.att.net;tag=no>;x=y;TAG={tag};z"),
            ] {
                let text = format!(
                    "SUBSCRIBE sip:bob@one.att.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
                     From: <sip:bob@one.att.net>;tag=77\r\n{to}\r\nCall-ID: 4711\r\n\r\n"
                );
                assert_eq!(group.arrives_at(text.as_bytes()), Some(shard), "{text}");
            }
        }
    }

    /// A token that we did not make is one by its form alone; a shard that there is not makes it none.
    #[test]
    fn a_token_of_no_shard_is_a_call_id_like_another() {
        let Some(group) = steered((Ipv4Addr::LOCALHOST, 0).into()) else {
            return;
        };
        for shard in [SHARDS, 63, 255] {
            let call_id = group.token(TokenKind::Leg, shard);
            let message = request(&format!("Call-ID: {call_id}"), 0, 0);
            assert_eq!(group.arrives_at(&message), Some(group.owner(&call_id)));
        }
    }

    #[test]
    fn what_names_no_owner_arrives_too() {
        let Some(group) = steered((Ipv4Addr::LOCALHOST, 0).into()) else {
            return;
        };
        let long = "x".repeat(200);
        let mut messages: Vec<Vec<u8>> = [
            "\r\n\r\n".to_owned(),
            "\0".to_owned(),
            "x".repeat(31),
            "\n".repeat(40),
            "\n".repeat(3_000),
            "\r\n".repeat(5_000),
            "=".repeat(4_000),
            "Call-ID: ".repeat(300),
            "\nCall-ID:".repeat(300),
            format!("SIP/2.0 200 OK\r\nVia: {}\r\n\r\n", "=z9hG4bK".repeat(400)),
            format!("SIP/2.0 200 OK\r\nVia: {}\r\n\r\n", "=".repeat(4_000)),
            format!("SUBSCRIBE x SIP/2.0\r\nTo: {}", "tag=".repeat(900)),
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK01ff\r\n\r\n".to_owned(),
            "REGISTER sip:one.att.net SIP/2.0\r\nCSeq: 1 REGISTER\r\n\r\n".to_owned(),
            format!("OPTIONS sip:one.att.net SIP/2.0\r\nCall-ID: {long}\r\n\r\n"),
            format!("OPTIONS sip:one.att.net SIP/2.0\r\nCall-ID: {long}"),
        ]
        .map(String::into_bytes)
        .into();
        messages.push(vec![0xff; 65_000]);
        // Every way to end too early, at the end of what is looked at too.
        let whole = request("Call-ID: 4711", 2_020, 0);
        messages.extend((0..200).map(|cut| whole[..whole.len() - cut].to_vec()));
        for message in messages {
            assert!(group.arrives_at(&message).is_some(), "{}", message.escape_ascii());
        }
        // An empty datagram is received as zero bytes.
        assert!(group.arrives_at(b"").is_some());
    }

    #[test]
    fn what_belonged_to_a_closed_socket_goes_to_another() {
        let Some(mut group) = steered((Ipv4Addr::LOCALHOST, 0).into()) else {
            return;
        };
        let gone = SHARDS - 1;
        group.sockets.pop();
        let mut spread = 0;
        for number in 0..100 {
            let call_id = format!("{number}@closed");
            let at = group.arrives_at(&request(&format!("Call-ID: {call_id}"), 0, 0));
            match group.owner(&call_id) {
                owner if owner == gone => {
                    assert!(at.is_some());
                    spread += 1;
                }
                owner => assert_eq!(at, Some(owner)),
            }
        }
        assert!(spread > 0);
        drop(std::mem::take(&mut group.sockets));
        group
            .client
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("an option");
        // With the last socket the group ends: the peer is told.
        _ = group.client.send(b"anybody there?");
        assert!(group.client.recv(&mut [0; 8]).is_err());
    }
}
