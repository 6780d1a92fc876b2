//! Texts that were found well-formed lately, so that the same bytes need not be looked at closely again.
//!
//! Phones of one model say of themselves the very same things: the feature parameters of a Contact (RFC 3840) are long, and hardly differ
//! from one phone to the next. What is remembered is bounded, and a text counts as known only where all its bytes are the same.

/// Texts remembered at a time.
const PLACES: usize = 16;
/// Longest text that is remembered.
const TEXT_BYTES_MAX: usize = 255;

/// A few texts, each in the one place that it may have: who comes later takes it. 4 KiB: box it once a shard.
pub struct Seen([Place; PLACES]);

struct Place {
    len: u8,
    bytes: [u8; TEXT_BYTES_MAX],
}

impl Seen {
    pub const fn new() -> Seen {
        const EMPTY: Place = Place {
            len: 0,
            bytes: [0; TEXT_BYTES_MAX],
        };
        Seen([EMPTY; PLACES])
    }

    /// Whether exactly this text is remembered.
    #[inline]
    pub fn has(&self, text: &[u8]) -> bool {
        let place = &self.0[place_of(text)];
        !text.is_empty() && place.bytes.get(..usize::from(place.len)) == Some(text)
    }

    pub fn remember(&mut self, text: &[u8]) {
        let place = &mut self.0[place_of(text)];
        if let Some(bytes) = place.bytes.get_mut(..text.len()) {
            bytes.copy_from_slice(text);
            place.len = text.len() as u8;
        }
    }
}

impl Default for Seen {
    fn default() -> Seen {
        Seen::new()
    }
}

/// By the length and the last bytes, in which lists that begin alike mostly differ.
#[inline]
fn place_of(text: &[u8]) -> usize {
    let last = text.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
    let mixed = (last ^ text.len() as u32).wrapping_mul(0x9E37_79B1);
    (mixed >> 28) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_are_known_and_the_last_of_a_place_counts() {
        let mut seen = Seen::new();
        assert!(!seen.has(b"") && !seen.has(b";audio"));
        seen.remember(b";audio");
        assert!(seen.has(b";audio"));
        assert!(!seen.has(b";audip") && !seen.has(b";audi") && !seen.has(b";audio;"));
        let long = [b'a'; TEXT_BYTES_MAX + 1];
        seen.remember(&long);
        assert!(!seen.has(&long));
        seen.remember(&long[1..]);
        assert!(seen.has(&long[1..]));
        // More than there is room for.
        let texts: Vec<Vec<u8>> = (0..100).map(|i| format!(";q=0.{i}").into_bytes()).collect();
        for text in &texts {
            seen.remember(text);
            assert!(seen.has(text));
        }
        assert!(texts.iter().filter(|text| seen.has(text)).count() <= PLACES);
    }
}
