//! Names that we give away and recognise again: the branch, tag and Call-ID that ringway generates say which shard, which
//! slot and which generation they stand for, under a MAC, so that an answer finds its owner without a look-up that is
//! shared between shards, and a guess finds nothing.
//!
//! A token is 16 bytes in lower-case hexadecimal: kind, shard, slot (4), generation (4), MAC (6).
//! RFC 3261 §8.1.1.7 (branch), §19.3 (tags: at least 32 random bits; the MAC has 48 under a key of this process).

use std::hash::Hasher;

use siphasher::sip::{SipHasher13, SipHasher24};
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24To128};
use wide::u8x16;

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
    /// A dialog that a proxy asked to see the requests of: in a Record-Route. Slot and generation are a digest of its Call-ID.
    RecordRoute = 5,
    /// The same of a dialog whose large requests go over TCP.
    RecordRouteTcp = 8,
    /// A message that is forwarded without state: in a Via branch. Shard, slot and generation are those of the connection
    /// that the answer goes back on.
    RelayTcp = 6,
    /// The same over UDP: the slot is the listener that the answer goes back from.
    RelayUdp = 7,
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
/// Length of a digest as text.
pub const DIGEST_LEN: usize = 16;

/// A digest in lower-case hexadecimal.
pub fn digest_text(digest: u64) -> [u8; DIGEST_LEN] {
    let [a, b, c, d, e, f, g, h] = digest.to_be_bytes();
    let mut text = [0; DIGEST_LEN];
    text[..8].copy_from_slice(&hex([a, b, c, d]));
    text[8..].copy_from_slice(&hex([e, f, g, h]));
    text
}

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
        hex_of_16(raw)
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
        let raw = unhex_to_16(text.first_chunk()?)?;
        if raw[10..] != self.mac(&raw[..10]) {
            return None;
        }
        let kind = match raw[0] {
            1 => TokenKind::Transaction,
            2 => TokenKind::Leg,
            3 => TokenKind::Subscription,
            4 => TokenKind::Stateless,
            5 => TokenKind::RecordRoute,
            6 => TokenKind::RelayTcp,
            7 => TokenKind::RelayUdp,
            8 => TokenKind::RecordRouteTcp,
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

    /// The token in a branch of ours. A proxy's has a [`DIGEST_LEN`] long digest behind a dot, or two.
    pub fn parse_branch(&self, branch: &[u8]) -> Option<Token> {
        let (cookie, token) = branch.split_at_checked(BRANCH_COOKIE.len())?;
        if !cookie.eq_ignore_ascii_case(BRANCH_COOKIE) {
            return None;
        }
        match token.split_at_checked(TOKEN_LEN)? {
            (token, []) => self.parse(token),
            (token, [b'.', digests @ ..]) if [DIGEST_LEN, 2 * DIGEST_LEN].contains(&digests.len()) => {
                self.parse(token)
            }
            (_, [_, ..]) => None,
        }
    }

    /// 64 bits that stand for `parts`, the same in every shard. Who does not know the key can't make two of one digest.
    pub fn digest(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        for part in parts {
            hasher.write(&(part.len() as u32).to_be_bytes());
            hasher.write(part);
        }
        hasher.finish()
    }

    fn mac(&self, bytes: &[u8]) -> [u8; 6] {
        let mac = SipHasher24::new_with_key(&self.0).hash(bytes).to_be_bytes();
        [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]
    }
}

/// What a sealed text is for: one that was made for another purpose is not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// A temporary GRUU: RFC 5627.
    Gruu = 1,
    /// A flow in a Path or Record-Route: RFC 5626 §5.2.
    Flow = 2,
}

const SEAL_BYTES: usize = 16;
/// Most bytes that are sealed.
pub const SEALED_BYTES_MAX: usize = 48;
/// Longest sealed text.
pub const SEALED_LEN_MAX: usize = sealed_len(SEALED_BYTES_MAX);

/// Length of the text that so many bytes are sealed in.
pub const fn sealed_len(bytes: usize) -> usize {
    2 * (SEAL_BYTES + bytes)
}

impl TokenKey {
    /// Writes `plain` so that nobody else can read it, change it, or tell whose two such texts are: in lower-case hexadecimal, a MAC of
    /// 128 bits, and the bytes under what follows from that (the construction of RFC 5297, over SipHash). The same bytes give the same text.
    pub fn seal<const N: usize>(
        &self,
        purpose: Purpose,
        plain: [u8; N],
        into: &mut [u8; SEALED_LEN_MAX],
    ) -> usize {
        const { assert!(N <= SEALED_BYTES_MAX && N.is_multiple_of(4)) };
        let mac = self.seal_mac(purpose, &plain);
        let mut hidden = plain;
        self.hide(&mac, &mut hidden);
        let quads = mac.as_chunks::<4>().0.iter().chain(hidden.as_chunks::<4>().0);
        for (digits, bytes) in into.as_chunks_mut::<8>().0.iter_mut().zip(quads) {
            *digits = hex(*bytes);
        }
        sealed_len(N)
    }

    /// What [`TokenKey::seal`] has sealed; `None` where it was not we, or for another purpose. Any case is accepted.
    pub fn open<const N: usize>(&self, purpose: Purpose, text: &[u8]) -> Option<[u8; N]> {
        if text.len() != sealed_len(N) {
            return None;
        }
        let (mut mac, mut plain) = ([0; SEAL_BYTES], [0; N]);
        let (mac_text, plain_text) = text.split_at(2 * SEAL_BYTES);
        for (bytes, digits) in mac
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(mac_text.as_chunks::<8>().0)
        {
            *bytes = unhex(*digits)?;
        }
        for (bytes, digits) in plain
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(plain_text.as_chunks::<8>().0)
        {
            *bytes = unhex(*digits)?;
        }
        self.hide(&mac, &mut plain);
        (self.seal_mac(purpose, &plain) == mac).then_some(plain)
    }

    fn seal_mac(&self, purpose: Purpose, plain: &[u8]) -> [u8; SEAL_BYTES] {
        let mut hasher = SipHasher24To128::new_with_key(&self.0);
        hasher.write(&[0, purpose as u8]);
        hasher.write(plain);
        hasher.finish128().as_bytes()
    }

    /// Puts `bytes` under the stream that belongs to `mac`, or takes them from under it.
    fn hide(&self, mac: &[u8; SEAL_BYTES], bytes: &mut [u8]) {
        for (block, chunk) in bytes.chunks_mut(SEAL_BYTES).enumerate() {
            let mut hasher = SipHasher24To128::new_with_key(&self.0);
            // No MAC is made of what begins so.
            hasher.write(&[1, block as u8]);
            hasher.write(mac);
            for (byte, mask) in chunk.iter_mut().zip(hasher.finish128().as_bytes()) {
                *byte ^= mask;
            }
        }
    }
}

/// Every byte of a word.
const fn each(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// Four bytes in hexadecimal, all eight digits in one word: a quarter of what a table takes.
const fn hex(bytes: [u8; 4]) -> [u8; 8] {
    // The halves of a byte move apart until each digit has a byte to itself.
    let mut word = u32::from_be_bytes(bytes) as u64;
    word = (word << 16 | word) & 0x0000_ffff_0000_ffff;
    word = (word << 8 | word) & 0x00ff_00ff_00ff_00ff;
    word = (word << 4 | word) & each(0x0f);
    let is_letter = (word + each(6)) >> 4 & each(1);
    (word + each(b'0') + is_letter * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

/// Sixteen bytes in hexadecimal, all digits in two steps.
fn hex_of_16(bytes: [u8; 16]) -> [u8; 32] {
    const HALVES: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    let word = u128::from_le_bytes(bytes);
    let [high, low] = [word >> 4, word].map(|word| u8x16::new((word & HALVES).to_le_bytes()));
    let digits = |halves: u8x16| {
        let is_letter = halves.max(u8x16::splat(10)).simd_eq(halves);
        let letters = is_letter & u8x16::splat(b'a' - b'0' - 10);
        (halves + u8x16::splat(b'0') + letters).to_array()
    };
    let mut text = [0; 32];
    let (first, last) = text.split_at_mut(16);
    first.copy_from_slice(&digits(u8x16::unpack_low(high, low)));
    last.copy_from_slice(&digits(u8x16::unpack_high(high, low)));
    text
}

/// The bytes that eight digits of any case stand for.
fn unhex(digits: [u8; 8]) -> Option<[u8; 4]> {
    let bytes = unhex_unproven(digits);
    // Whatever else there was comes out another way again.
    (hex(bytes) == lower(digits)).then_some(bytes)
}

/// The same for thirty-two, which are proven in one.
fn unhex_to_16(text: &[u8; 32]) -> Option<[u8; 16]> {
    let (mut bytes, mut digits) = ([0; 16], [0; 32]);
    let texts = text.as_chunks().0.iter();
    let places = bytes.as_chunks_mut().0.iter_mut().zip(digits.as_chunks_mut().0);
    for (text, (bytes, digits)) in texts.zip(places) {
        *bytes = unhex_unproven(*text);
        *digits = lower(*text);
    }
    (hex_of_16(bytes) == digits).then_some(bytes)
}

/// What eight digits of any case stand for; anything, if they are none.
const fn unhex_unproven(digits: [u8; 8]) -> [u8; 4] {
    let text = u64::from_be_bytes(digits);
    // Letters have bit 6; the last four bits of `a` are 1.
    let mut word = (text & each(0x0f)).wrapping_add((text >> 6 & each(1)) * 9);
    word = (word >> 4 | word) & 0x00ff_00ff_00ff_00ff;
    word = (word >> 8 | word) & 0x0000_ffff_0000_ffff;
    ((word >> 16 | word) as u32).to_be_bytes()
}

/// Digits with their letters small.
const fn lower(digits: [u8; 8]) -> [u8; 8] {
    let text = u64::from_be_bytes(digits);
    (text | (text >> 6 & each(1)) << 5).to_be_bytes()
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
        let with_digest = [&key.branch(token)[..], b".", &digest_text(0x0123_4567_89ab_cdef)].concat();
        assert!(with_digest.ends_with(b".0123456789abcdef"));
        assert_eq!(key.parse_branch(&with_digest), Some(token));
        let with_two = [&with_digest[..], &digest_text(7)].concat();
        assert_eq!(key.parse_branch(&with_two), Some(token));
        assert_eq!(key.parse_branch(&[&with_two[..], &digest_text(7)].concat()), None);
        assert_eq!(key.parse_branch(&with_digest[..with_digest.len() - 1]), None);
    }

    #[test]
    fn what_is_sealed_is_opened_by_its_own_key_for_its_own_purpose() {
        let (key, other) = (TokenKey::new([7; 16]), TokenKey::new([8; 16]));
        let plain: [u8; 36] = std::array::from_fn(|i| i as u8);
        let mut text = [0; SEALED_LEN_MAX];
        let len = key.seal(Purpose::Gruu, plain, &mut text);
        let text = &mut text[..len];
        assert_eq!((len, text.is_ascii()), (104, true));
        assert_eq!(key.open(Purpose::Gruu, text), Some(plain));
        assert_eq!(key.open(Purpose::Gruu, &text.to_ascii_uppercase()), Some(plain));
        assert_eq!(key.open::<36>(Purpose::Flow, text), None);
        assert_eq!(key.open::<32>(Purpose::Gruu, text), None);
        assert_eq!(other.open::<36>(Purpose::Gruu, text), None);
        for at in 0..len {
            let was = text[at];
            text[at] = if was == b'0' { b'1' } else { b'0' };
            assert_eq!(key.open::<36>(Purpose::Gruu, text), None, "digit {at}");
            text[at] = was;
        }
    }

    #[test]
    fn two_sealed_texts_of_nearly_the_same_have_nothing_in_common() {
        let key = TokenKey::new([7; 16]);
        let text = |serial: u8| {
            let mut plain = [9; 36];
            plain[35] = serial;
            let mut text = [0; SEALED_LEN_MAX];
            key.seal(Purpose::Gruu, plain, &mut text);
            text
        };
        let (one, two) = (text(1), text(2));
        let same = one[..104].iter().zip(&two[..104]).filter(|(a, b)| a == b).count();
        // One digit in sixteen is the same by chance.
        assert!(same < 26, "{same} of 104");
        assert_eq!(one, text(1));
    }

    #[test]
    fn digits_are_read_and_nothing_else() {
        for byte in 0..=u8::MAX {
            assert_eq!(
                hex([byte, 0x5a, 0, !byte]),
                *format!("{byte:02x}5a00{:02x}", !byte).as_bytes()
            );
            for at in 0..8 {
                let mut digits = *b"09afAF7e";
                digits[at] = byte;
                let text = String::from_utf8(digits.to_vec()).ok();
                let value = text.filter(|_| byte.is_ascii_hexdigit());
                let value = value.and_then(|text| u32::from_str_radix(&text, 16).ok());
                assert_eq!(unhex(digits), value.map(u32::to_be_bytes), "{byte} at {at}");
            }
        }
    }
}
