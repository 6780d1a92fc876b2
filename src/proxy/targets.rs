//! The places that a request may go to, in the order in which they are tried: RFC 3261 §16.5.
//!
//! They lie in one flat run of bytes, so that what is not tried at once can wait in a buffer of the pool. Numbers are
//! big-endian: the request URI's length (2) and text; then for each place its length in all (2), q (2), flags (1), device (1), flow
//! ([`Flow::BYTES`]), destination index (2) and generation (4), length of path (2), path, and the URI.

use crate::trunk::DestinationId;
use crate::wire::Flow;

/// Bytes that the places of one request may take. Those that no longer fit are left out, the last first.
const SET_BYTES: usize = 16_384;
const HEAD_BYTES: usize = 14 + Flow::BYTES;

const FLAG_NEXT_HOP: u8 = 1;
const FLAG_DESTINATION: u8 = 2;
const FLAG_FLOW_ALONE: u8 = 4;

/// One place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    pub uri: &'a [u8],
    /// RFC 3327: the hops on the way there, comma-separated as in a Route; empty when there are none.
    pub path: &'a [u8],
    /// The URI only says where the request is sent; its request URI is that of the set.
    pub is_next_hop: bool,
    /// Preference in thousandths.
    pub q: u16,
    /// A flow like the one that is wanted: `transaction::destination::route`.
    pub prefer: Flow,
    /// RFC 5626: it is reached over `prefer` and no other way.
    pub is_flow: bool,
    /// The device of a subscriber that this is a contact of, as the look-up has numbered it; 0 where it has no other.
    pub device: u8,
    /// The destination of a trunk that this is an address of.
    pub destination: Option<DestinationId>,
}

pub struct TargetSet {
    bytes: Box<[u8; SET_BYTES]>,
    len: usize,
}

impl TargetSet {
    pub fn new() -> TargetSet {
        TargetSet {
            bytes: Box::new([0; SET_BYTES]),
            len: 2,
        }
    }

    pub fn clear(&mut self) {
        self.bytes[..2].fill(0);
        self.len = 2;
    }

    /// The request URI for places that only say where to send; set it when all places are there.
    pub fn set_request_uri(&mut self, uri: &[u8]) {
        let old = self.first_entry();
        let new = 2 + uri.len();
        let entries = self.len - old;
        if new + entries > SET_BYTES || uri.len() > usize::from(u16::MAX) {
            // No room for it beside the places: nobody can be reached.
            self.clear();
            return;
        }
        self.bytes.copy_within(old..self.len, new);
        self.bytes[..2].copy_from_slice(&(uri.len() as u16).to_be_bytes());
        self.bytes[2..new].copy_from_slice(uri);
        self.len = new + entries;
    }

    pub fn request_uri(&self) -> &[u8] {
        &self.bytes[2..self.first_entry()]
    }

    fn first_entry(&self) -> usize {
        2 + usize::from(u16::from_be_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// `false` when the place doesn't fit any more, or stands there already (§16.5: each URI once; phones behind different proxies or
    /// flows may well have one URI, which names each of them in its own network).
    pub fn push(&mut self, target: &Target<'_>) -> bool {
        let len = HEAD_BYTES + target.path.len() + target.uri.len();
        let end = self.len + len;
        let is_same = |own: Target<'_>| {
            own.uri == target.uri && own.path == target.path && !(own.is_flow && target.is_flow)
        };
        if end > SET_BYTES || self.iter().any(is_same) {
            return false;
        }
        let mut flags = 0;
        if target.is_next_hop {
            flags |= FLAG_NEXT_HOP;
        }
        if target.is_flow {
            flags |= FLAG_FLOW_ALONE;
        }
        if target.destination.is_some() {
            flags |= FLAG_DESTINATION;
        }
        let destination = target.destination.unwrap_or(DestinationId {
            index: 0,
            generation: 0,
        });
        let parts: [&[u8]; 10] = [
            &(len as u16).to_be_bytes(),
            &target.q.to_be_bytes(),
            &[flags],
            &[target.device],
            &target.prefer.to_bytes(),
            &destination.index.to_be_bytes(),
            &destination.generation.to_be_bytes(),
            &(target.path.len() as u16).to_be_bytes(),
            target.path,
            target.uri,
        ];
        for part in parts {
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        debug_assert_eq!(self.len, end);
        true
    }

    /// As [`TargetSet::push`], before the first that is preferred less.
    pub fn insert_by_q(&mut self, target: &Target<'_>) -> bool {
        let end = self.len;
        if !self.push(target) {
            return false;
        }
        let mut rest = self.iter();
        let mut at = self.first_entry();
        while let Some(own) = rest.next()
            && own.q >= target.q
            && at < end
        {
            at = self.len - rest.rest.len();
        }
        self.bytes[at.min(end)..self.len].rotate_right(self.len - end);
        true
    }

    pub fn iter(&self) -> Targets<'_> {
        Targets {
            rest: &self.bytes[self.first_entry()..self.len],
        }
    }

    /// Leaves the first `count` places out.
    pub fn skip(&mut self, count: usize) {
        let mut rest = self.iter();
        for _ in 0..count {
            rest.next();
        }
        let left = rest.rest.len();
        let first = self.first_entry();
        self.bytes.copy_within(self.len - left..self.len, first);
        self.len = first + left;
    }

    pub fn is_empty(&self) -> bool {
        self.len == self.first_entry()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Takes over what [`TargetSet::as_bytes`] gave.
    pub fn set_from_bytes(&mut self, bytes: &[u8]) {
        self.clear();
        if let Some(room) = self.bytes.get_mut(..bytes.len())
            && bytes.len() >= 2
        {
            room.copy_from_slice(bytes);
            self.len = bytes.len();
        }
    }
}

/// The places of a [`TargetSet`] in order.
#[derive(Clone)]
pub struct Targets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Targets<'a> {
    type Item = Target<'a>;

    fn next(&mut self) -> Option<Target<'a>> {
        let (len, _) = self.rest.split_first_chunk::<2>()?;
        let (entry, rest) = self
            .rest
            .split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        self.rest = rest;
        let mut at = &entry[2..];
        fn take<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
            let (part, rest) = at.split_first_chunk::<N>()?;
            *at = rest;
            Some(*part)
        }
        let q = u16::from_be_bytes(take(&mut at)?);
        let [flags] = take(&mut at)?;
        let [device] = take(&mut at)?;
        let prefer = Flow::from_bytes(&take(&mut at)?);
        let destination = DestinationId {
            index: u16::from_be_bytes(take(&mut at)?),
            generation: u32::from_be_bytes(take(&mut at)?),
        };
        let path_len = u16::from_be_bytes(take(&mut at)?);
        let (path, uri) = at.split_at_checked(usize::from(path_len))?;
        Some(Target {
            uri,
            path,
            is_next_hop: flags & FLAG_NEXT_HOP != 0,
            q,
            prefer,
            is_flow: flags & FLAG_FLOW_ALONE != 0,
            device,
            destination: (flags & FLAG_DESTINATION != 0).then_some(destination),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConnId, ListenerId, ShardId, Transport};

    fn target<'a>(uri: &'a [u8], q: u16, conn: Option<ConnId>) -> Target<'a> {
        Target {
            uri,
            path: if conn.is_some() { b"<sip:p;lr>" } else { b"" },
            is_flow: conn.is_some(),
            device: u8::from(conn.is_some()) * 3,
            destination: conn.map(|conn| DestinationId {
                index: 300,
                generation: conn.slot,
            }),
            is_next_hop: conn.is_none(),
            q,
            prefer: Flow {
                transport: if conn.is_some() {
                    Transport::Tcp
                } else {
                    Transport::Udp
                },
                listener: ListenerId(7),
                peer: "[2001:db8::1]:5060".parse().expect("an address"),
                conn,
            },
        }
    }

    #[test]
    fn places_wait_in_bytes_and_each_stands_once() {
        let conn = Some(ConnId {
            shard: ShardId(3),
            slot: 70_000,
            generation: 9,
        });
        let all = [
            target(b"sip:a@b", 1_000, None),
            target(b"sip:c@d", 500, conn),
            target(b"sip:e", 0, None),
        ];
        let mut set = TargetSet::new();
        assert!(all.iter().all(|target| set.push(target)));
        assert!(!set.push(&target(b"sip:a@b", 3, None)), "it stands there already");
        set.set_request_uri(b"sip:who@where");
        let mut other = TargetSet::new();
        other.set_from_bytes(set.as_bytes());
        assert_eq!(other.iter().collect::<Vec<_>>(), all);
        other.skip(1);
        assert_eq!(other.iter().collect::<Vec<_>>(), all[1..]);
        assert_eq!(other.request_uri(), b"sip:who@where");
        other.skip(5);
        assert!(other.is_empty() && other.iter().next().is_none());
    }

    #[test]
    fn a_set_is_bounded() {
        let mut set = TargetSet::new();
        let uris: Vec<Vec<u8>> = (b'a'..=b'h').map(|byte| vec![byte; 4_000]).collect();
        let pushed = uris.iter().filter(|uri| set.push(&target(uri, 0, None))).count();
        assert_eq!((pushed, set.iter().count()), (4, 4));
        set.set_request_uri(&[b'x'; 1_000]);
        assert!(
            set.is_empty(),
            "without room for the request URI nobody is reached"
        );
        set.set_from_bytes(&[0; SET_BYTES + 1]);
        assert!(set.is_empty());
        set.set_from_bytes(b"");
        assert!(set.is_empty());
    }
}
