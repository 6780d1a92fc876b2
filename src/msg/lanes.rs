//! Sixteen bytes looked at in one step: which of them are this or that, as bits of a word.
//!
//! Header values are short, so a call of memchr costs as much as the search itself; and it knows three bytes to look for, not
//! the classes of RFC 3261 §25.1. A [`Block`] is inlined: one load, a few comparisons, one mask (SSE2 on x86-64, NEON on
//! AArch64).

use core::ops::BitOr;

use wide::u8x16;

/// Bytes in a block.
pub const LANES: usize = 16;

/// Sixteen bytes, or fewer with zeros behind them.
#[derive(Clone, Copy)]
pub struct Block(u8x16);

/// For each byte of a block whether it belongs.
#[derive(Clone, Copy)]
pub struct Set(u8x16);

impl Block {
    #[inline(always)]
    pub fn load(bytes: &[u8; LANES]) -> Block {
        Block(u8x16::new(*bytes))
    }

    /// What `bytes` begins with. Zeros stand for what it lacks, so a zero must be in none of the sets that are asked for.
    #[inline(always)]
    pub fn of(bytes: &[u8]) -> Block {
        match bytes.first_chunk() {
            Some(chunk) => Block::load(chunk),
            None => Block::load(&padded(bytes)),
        }
    }

    /// The bytes that are `byte`.
    #[inline(always)]
    pub fn eq(self, byte: u8) -> Set {
        Set(self.0.simd_eq(u8x16::splat(byte)))
    }

    /// The bytes from `first` to `last`; round the end of all bytes where `last` is less than `first`.
    #[inline(always)]
    pub fn within(self, first: u8, last: u8) -> Set {
        let above = self.0 - u8x16::splat(first);
        Set(above.min(u8x16::splat(last.wrapping_sub(first))).simd_eq(above))
    }

    /// The letters from `first` to `last`, which are small ones, and their capitals.
    #[inline(always)]
    pub fn letters(self, first: u8, last: u8) -> Set {
        Block(self.0 | u8x16::splat(0x20)).within(first, last)
    }
}

impl BitOr for Set {
    type Output = Set;

    #[inline(always)]
    fn bitor(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }
}

impl Set {
    /// The lowest bit is the first byte's.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0.to_bitmask()
    }

    /// How many bytes in a row from the first on belong.
    #[inline(always)]
    pub fn run(self) -> usize {
        (!self.bits()).trailing_zeros() as usize
    }
}

/// Index of the first byte that is one of `stops`; the length when none is.
#[inline(always)]
pub fn find(bytes: &[u8], stops: impl Fn(Block) -> Set) -> usize {
    let mut rest = bytes;
    while let Some((chunk, behind)) = rest.split_first_chunk() {
        let found = stops(Block::load(chunk)).bits();
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize;
        }
        rest = behind;
    }
    if rest.is_empty() {
        return bytes.len();
    }
    let found = stops(Block::load(&padded(rest))).bits();
    bytes.len() - rest.len() + (found.trailing_zeros() as usize).min(rest.len())
}

/// How many bytes in a row from the first on are in the set, to which zero must not belong.
#[inline(always)]
pub fn run(bytes: &[u8], set: impl Fn(Block) -> Set) -> usize {
    let mut rest = bytes;
    while let Some((chunk, behind)) = rest.split_first_chunk() {
        let run = set(Block::load(chunk)).run();
        if run < LANES {
            return bytes.len() - rest.len() + run;
        }
        rest = behind;
    }
    if rest.is_empty() {
        return bytes.len();
    }
    bytes.len() - rest.len() + set(Block::load(&padded(rest))).run()
}

/// The first eight bytes, the first one lowest; zeros stand for what is lacking.
#[inline(always)]
pub fn word(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk() {
        return u64::from_le_bytes(*first);
    }
    let len = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let last = u64::from(u32::from_le_bytes(*last));
        return u64::from(u32::from_le_bytes(*first)) | last << ((len - 4) * 8);
    }
    let byte = |at: usize| bytes.get(at).map_or(0, |byte| u64::from(*byte) << (at * 8));
    byte(0) | byte(1) | byte(2)
}

/// Fewer than sixteen bytes, with zeros behind. Two words that overlap cover them: no loop, and no call of memcpy.
#[inline(always)]
fn padded(bytes: &[u8]) -> [u8; LANES] {
    let len = bytes.len();
    let word = if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let last = u128::from(u64::from_le_bytes(*last));
        u128::from(u64::from_le_bytes(*first)) | last << ((len - 8) * 8)
    } else {
        u128::from(word(bytes))
    };
    word.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_sees_what_a_loop_sees() {
        for byte in 0..=u8::MAX {
            let bytes: [u8; LANES] = std::array::from_fn(|i| byte.wrapping_add(i as u8 * 17));
            let block = Block::load(&bytes);
            let bits = |belongs: &dyn Fn(u8) -> bool| {
                (0..LANES).fold(0, |bits, i| bits | u32::from(belongs(bytes[i])) << i)
            };
            assert_eq!(block.eq(b':').bits(), bits(&|byte| byte == b':'));
            for (first, last) in [
                (0, 0),
                (0x21, 0x7e),
                (b'0', b'9'),
                (0, 255),
                (200, 255),
                (0x7f, 0x20),
            ] {
                let slow = bits(&|byte| byte.wrapping_sub(first) <= last.wrapping_sub(first));
                assert_eq!(block.within(first, last).bits(), slow);
                assert_eq!(block.within(first, last).run(), slow.trailing_ones() as usize);
            }
            let slow = bits(&|byte| byte.is_ascii_alphabetic() || byte == b'.');
            assert_eq!((block.letters(b'a', b'z') | block.eq(b'.')).bits(), slow);
        }
    }

    #[test]
    fn what_is_shorter_than_a_block_has_zeros_behind() {
        let bytes: [u8; LANES] = std::array::from_fn(|i| i as u8 + 1);
        for len in 0..=LANES {
            let block = Block::of(&bytes[..len]);
            assert_eq!(block.within(1, 255).bits(), (1 << len) - 1);
            for (i, byte) in bytes[..len].iter().enumerate() {
                assert_eq!(block.eq(*byte).bits(), 1 << i, "{len}");
            }
        }
    }

    #[test]
    fn what_stops_a_run_is_found_wherever_it_stands() {
        for len in 0..40 {
            for at in 0..=len {
                let mut bytes = vec![b'a'; len];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = b';';
                }
                assert_eq!(find(&bytes, |block| block.eq(b';') | block.eq(0)), at);
                assert_eq!(run(&bytes, |block| block.letters(b'a', b'z')), at);
            }
        }
    }
}
