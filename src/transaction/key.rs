//! How a request finds its server transaction: RFC 3261 §17.2.3.
//!
//! A key is 128 bits of ahash under keys of this process over what the clause compares. Two requests of an honest network
//! share one with a chance below 2^-64, and who doesn't know the keys can't make two that do, so the bytes themselves need
//! not be kept.

use std::hash::Hasher;

use ahash::RandomState;

use crate::msg::method::Method;
use crate::msg::request::Request;
use crate::token::BRANCH_COOKIE;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key(pub u64, pub u64);

/// Makes keys; every shard has its own.
pub struct Keyer {
    low: RandomState,
    high: RandomState,
}

impl Keyer {
    pub fn new(seed: [u64; 8]) -> Keyer {
        let [a, b, c, d, e, f, g, h] = seed;
        Keyer {
            low: RandomState::with_seeds(a, b, c, d),
            high: RandomState::with_seeds(e, f, g, h),
        }
    }

    /// For other tables of the same shard.
    pub fn hasher(&self) -> RandomState {
        self.low.clone()
    }

    fn key<const N: usize>(&self, numbers: [u64; 2], parts: [&[u8]; N]) -> Key {
        Key(hash(&self.low, numbers, parts), hash(&self.high, numbers, parts))
    }

    /// The key of the server transaction that `request` belongs to; an ACK belongs to its INVITE's, a CANCEL has one of its
    /// own. `method` is that of the transaction.
    pub fn server(&self, request: &Request<'_>, method: Method, method_text: &[u8]) -> Key {
        let (method, method_text): (Method, &[u8]) = match method {
            Method::Ack => (Method::Invite, b""),
            Method::Other => (Method::Other, method_text),
            known => (known, b""),
        };
        match request.via.branch {
            // §17.2.3: branch with the magic cookie, sent-by, and method.
            Some(branch) if has_cookie(branch) => {
                let host = request.via.host;
                let port = request.via.port.unwrap_or(0);
                let kind = Kind::Branch as u64 | (method as u64) << 8 | u64::from(port) << 16;
                self.key([kind, lengths(branch, host)], [branch, host, method_text])
            }
            // §17.2.3 for RFC 2543 clients, less the Request-URI and To tag that an ACK may have changed.
            Some(_) | None => {
                let from_tag = request.from_tag.unwrap_or(b"");
                let number = u64::from(request.cseq.number);
                let numbers = [
                    Kind::NoBranch as u64 | (method as u64) << 8 | number << 16,
                    lengths(request.call_id, from_tag),
                ];
                let via = request.via.raw;
                let via_len = (via.len() as u64).to_be_bytes();
                let parts = [request.call_id, from_tag, &via_len, via, method_text];
                self.key(numbers, parts)
            }
        }
    }

    /// The key of a message that can't be read well enough to have another.
    pub fn bytes(&self, bytes: &[u8]) -> Key {
        self.key([Kind::Bytes as u64, bytes.len() as u64], [bytes])
    }

    /// The key of a request of which only the lines are known: it is the same whenever that request comes again.
    pub fn lines(&self, via: &[u8], call_id: &[u8], cseq: &[u8]) -> Key {
        self.key([Kind::Lines as u64, lengths(via, call_id)], [via, call_id, cseq])
    }

    /// The first half of that key, for who needs no more.
    pub fn lines_hash(&self, via: &[u8], call_id: &[u8], cseq: &[u8]) -> u64 {
        hash(
            &self.low,
            [Kind::Lines as u64, lengths(via, call_id)],
            [via, call_id, cseq],
        )
    }

    /// The key of a dialog's half: Call-ID and the tag of the party that began it.
    pub fn dialog(&self, call_id: &[u8], tag: &[u8]) -> Key {
        self.key([Kind::Dialog as u64, lengths(call_id, tag)], [call_id, tag])
    }
}

/// `numbers` say what kind of key it is and how long each of `parts` but the last is, so that no two lists of parts are
/// hashed alike.
#[inline]
fn hash<const N: usize>(state: &RandomState, numbers: [u64; 2], parts: [&[u8]; N]) -> u64 {
    let mut hasher = std::hash::BuildHasher::build_hasher(state);
    hasher.write_u64(numbers[0]);
    hasher.write_u64(numbers[1]);
    for part in parts {
        hasher.write(part);
    }
    hasher.finish()
}

/// What a key is of.
#[repr(u8)]
enum Kind {
    Branch,
    NoBranch,
    Dialog,
    Bytes,
    Lines,
}

/// Two lengths, neither of which fills half of it: a message is shorter.
fn lengths(one: &[u8], two: &[u8]) -> u64 {
    (one.len() as u64) << 32 | two.len() as u64
}

fn has_cookie(branch: &[u8]) -> bool {
    branch.len() > BRANCH_COOKIE.len() && branch[..BRANCH_COOKIE.len()].eq_ignore_ascii_case(BRANCH_COOKIE)
}

/// Finds the slot of a key. Slots with keys that fall together form chains through an array beside them, so that nothing
/// is ever hashed again or moved to make room: a table that grows by doubling does that to all it holds at once, and the
/// messages of that moment wait.
pub struct KeyIndex {
    /// The first slot of each chain, plus 1; 0 for none. Its length is a power of two.
    heads: Box<[u32]>,
    links: Vec<Link>,
}

#[derive(Clone, Copy)]
struct Link {
    key: Key,
    /// As in `heads`.
    next: u32,
}

/// Chains, at most: 16 MiB of heads, which the system provides as they are used.
const CHAINS_MAX: usize = 1 << 22;

impl KeyIndex {
    /// For about `slots_max` slots; more make the chains longer.
    pub fn new(slots_max: usize) -> KeyIndex {
        let chains = slots_max.clamp(64, CHAINS_MAX).next_power_of_two();
        KeyIndex {
            heads: vec![0; chains].into_boxed_slice(),
            links: Vec::new(),
        }
    }

    /// The slot that was given `key` last, of those that still have it.
    pub fn get(&self, key: Key) -> Option<u32> {
        let mut at = self.heads[self.chain(key)];
        while at != 0 {
            let link = self.links[at as usize - 1];
            if link.key == key {
                return Some(at - 1);
            }
            at = link.next;
        }
        None
    }

    /// Gives `key` to `slot`, which must have none.
    pub fn insert(&mut self, key: Key, slot: u32) {
        let (chain, index) = (self.chain(key), slot as usize);
        let next = self.heads[chain];
        let link = Link { key, next };
        if index >= self.links.len() {
            self.links.resize(index + 1, link);
        }
        self.links[index] = link;
        self.heads[chain] = slot + 1;
    }

    /// Takes `key` from `slot`, if it has it.
    pub fn remove(&mut self, key: Key, slot: u32) {
        let chain = self.chain(key);
        let mut before: Option<usize> = None;
        let mut at = self.heads[chain];
        while at != 0 {
            let next = self.links[at as usize - 1].next;
            if at - 1 == slot {
                match before {
                    None => self.heads[chain] = next,
                    Some(before) => self.links[before].next = next,
                }
                return;
            }
            before = Some(at as usize - 1);
            at = next;
        }
    }

    /// A key is a hash already.
    fn chain(&self, key: Key) -> usize {
        key.0 as usize & (self.heads.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_until_it_is_removed_also_where_chains_are_long() {
        let mut index = KeyIndex::new(0);
        let key = |i: u64| Key(i % 7, i);
        for i in 0..1_000 {
            index.insert(key(i), i as u32);
        }
        for i in (0..1_000).step_by(3) {
            index.remove(key(i), i as u32);
            index.remove(key(i), i as u32);
        }
        for i in 0..1_000 {
            assert_eq!(index.get(key(i)), (i % 3 != 0).then_some(i as u32));
        }
        index.insert(key(3), 999_999);
        assert_eq!(index.get(key(3)), Some(999_999));
    }

    #[test]
    fn the_slot_that_came_last_hides_one_with_the_same_key_until_it_goes() {
        let mut index = KeyIndex::new(64);
        let key = Key(1, 2);
        index.insert(key, 5);
        index.insert(key, 3);
        assert_eq!(index.get(key), Some(3));
        index.remove(key, 3);
        assert_eq!(index.get(key), Some(5));
        index.remove(key, 5);
        assert_eq!(index.get(key), None);
    }
}
