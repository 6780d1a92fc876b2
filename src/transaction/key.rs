//! How a request finds its server transaction: RFC 3261 §17.2.3.
//!
//! A key is 128 bits of ahash under keys of this process over what the clause compares. Two requests of an honest network
//! share one with a chance below 2^-64, and who doesn't know the keys can't make two that do, so the bytes themselves need
//! not be kept.

use std::hash::Hasher;

use ahash::RandomState;

use crate::key_index::Key;
use crate::msg::method::Method;
use crate::msg::request::Request;
use crate::token::BRANCH_COOKIE;

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
