//! Names that we give away and recognise again: the branch, tag and Call-ID that ringway generates say which shard, which
//! slot and which generation they stand for, under a MAC, so that an answer finds its owner without a look-up that is
//! shared between shards, and a guess finds nothing.
//!
//! A token is 16 bytes in lower-case hexadecimal: kind, shard, slot (4), generation (4), MAC (6).
//! RFC 3261 §8.1.1.7 (branch), §19.3 (tags: at least 32 random bits; the MAC has 48 under a key of this process).

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::wire::ShardId;

/// What a token stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TokenKind {
    /// A client transaction: in a Via branch.
    Transaction = 1,
    /// A leg of a call: in a Call-ID and tag of ours.
    Leg = 2,
    /// A subscription: in the To tag of its SUBSCRIBE.
    Subscription = 3,
    /// Nothing that lives on: the To tag of an answer that made no dialog.
    Stateless = 4,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    pub kind: TokenKind,
    pub shard: ShardId,
    pub slot: u32,
    pub generation: u32,
}

/// Length of a token as text.
pub const TOKEN_LEN: usize = 32;
/// RFC 3261 §8.1.1.7: the magic cookie.
pub const BRANCH_COOKIE: &[u8; 7] = b"z9hG4bK";
/// Length of a branch of ours.
pub const BRANCH_LEN: usize = BRANCH_COOKIE.len() + TOKEN_LEN;

/// The key that all shards of one process share.
#[derive(Clone, Copy)]
pub struct TokenKey([u8; 16]);

impl TokenKey {
    /// `bytes` must come from the system's random source.
    pub const fn new(bytes: [u8; 16]) -> TokenKey {
        TokenKey(bytes)
    }

    pub fn text(&self, token: Token) -> [u8; TOKEN_LEN] {
        let mut raw = [0; 16];
        raw[0] = token.kind as u8;
        raw[1] = token.shard.0;
        raw[2..6].copy_from_slice(&token.slot.to_be_bytes());
        raw[6..10].copy_from_slice(&token.generation.to_be_bytes());
        let mac = self.mac(&raw[..10]);
        raw[10..].copy_from_slice(&mac);
        let mut text = [0; TOKEN_LEN];
        for (pair, byte) in text.chunks_exact_mut(2).zip(raw) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }

    pub fn branch(&self, token: Token) -> [u8; BRANCH_LEN] {
        let mut text = [0; BRANCH_LEN];
        text[..BRANCH_COOKIE.len()].copy_from_slice(BRANCH_COOKIE);
        text[BRANCH_COOKIE.len()..].copy_from_slice(&self.text(token));
        text
    }

    /// The token that `text` is, if we made it. Any case is accepted: tokens compare without case in SIP.
    pub fn parse(&self, text: &[u8]) -> Option<Token> {
        if text.len() != TOKEN_LEN {
            return None;
        }
        let mut raw = [0; 16];
        for (byte, pair) in raw.iter_mut().zip(text.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        if raw[10..] != self.mac(&raw[..10]) {
            return None;
        }
        let kind = match raw[0] {
            1 => TokenKind::Transaction,
            2 => TokenKind::Leg,
            3 => TokenKind::Subscription,
            4 => TokenKind::Stateless,
            _ => return None,
        };
        let be32 = |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        Some(Token {
            kind,
            shard: ShardId(raw[1]),
            slot: be32(2),
            generation: be32(6),
        })
    }

    /// The token in a branch of ours.
    pub fn parse_branch(&self, branch: &[u8]) -> Option<Token> {
        let (cookie, token) = branch.split_at_checked(BRANCH_COOKIE.len())?;
        if cookie.eq_ignore_ascii_case(BRANCH_COOKIE) {
            self.parse(token)
        } else {
            None
        }
    }

    fn mac(&self, bytes: &[u8]) -> [u8; 6] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(bytes);
        let mac = hasher.finish().to_be_bytes();
        [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_whole_and_a_forged_one_does_not() {
        let key = TokenKey::new([7; 16]);
        let token = Token {
            kind: TokenKind::Leg,
            shard: ShardId(3),
            slot: 70_000,
            generation: 4_000_000_000,
        };
        let text = key.text(token);
        assert_eq!(key.parse(&text), Some(token));
        assert_eq!(key.parse(&text.to_ascii_uppercase()), Some(token));
        assert_eq!(key.parse_branch(&key.branch(token)), Some(token));
        for at in 0..TOKEN_LEN {
            let mut forged = text;
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(key.parse(&forged), None, "digit {at}");
        }
        assert_eq!(TokenKey::new([8; 16]).parse(&text), None);
        assert_eq!(key.parse(&text[1..]), None);
    }
}
