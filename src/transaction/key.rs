//! How a request finds its server transaction: RFC 3261 §17.2.3.
//!
//! A key is 128 bits of ahash under keys of this process over what the clause compares. Two requests of an honest network
//! share one with a chance below 2^-64, and who doesn't know the keys can't make two that do, so the bytes themselves need
//! not be kept.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

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

    fn key(&self, parts: &[&[u8]]) -> Key {
        let hash = |state: &RandomState| {
            let mut hasher = std::hash::BuildHasher::build_hasher(state);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.finish()
        };
        Key(hash(&self.low), hash(&self.high))
    }

    /// The key of the server transaction that `request` belongs to; an ACK belongs to its INVITE's, a CANCEL has one of its
    /// own. `method` is that of the transaction.
    pub fn server(&self, request: &Request<'_>, method: Method, method_text: &[u8]) -> Key {
        let method_text: &[u8] = match method {
            Method::Invite | Method::Ack => b"INVITE",
            _ => method_text,
        };
        match request.via.branch {
            // §17.2.3: branch with the magic cookie, sent-by, and method.
            Some(branch) if has_cookie(branch) => {
                let port = request.via.port.unwrap_or(0).to_be_bytes();
                self.key(&[b"3261", branch, request.via.host, &port, method_text])
            }
            // §17.2.3 for RFC 2543 clients, less the Request-URI and To tag that an ACK may have changed.
            Some(_) | None => {
                let number = request.cseq.number.to_be_bytes();
                let from_tag = request.from_tag.unwrap_or(b"");
                self.key(&[
                    b"2543",
                    request.call_id,
                    from_tag,
                    &number,
                    request.via.raw,
                    method_text,
                ])
            }
        }
    }

    /// The key of a dialog's half: Call-ID and the tag of the party that began it.
    pub fn dialog(&self, call_id: &[u8], tag: &[u8]) -> Key {
        self.key(&[b"dialog", call_id, tag])
    }
}

fn has_cookie(branch: &[u8]) -> bool {
    branch.len() > BRANCH_COOKIE.len() && branch[..BRANCH_COOKIE.len()].eq_ignore_ascii_case(BRANCH_COOKIE)
}

/// A key is a hash already.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is hashed as two u64");
    }

    fn write_u64(&mut self, half: u64) {
        self.0 ^= half;
    }
}

pub type KeyMap<T> = HashMap<Key, T, BuildHasherDefault<KeyHasher>>;
