//! What a completion belongs to: its kind, a slot and a generation, packed into the 64 bits that the ring hands back.
//! A completion for something that is gone carries an old generation and so finds nothing.

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)+) => {
        /// The kinds of request that are on the ring.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(super) enum Op { $($(#[$doc])* $name = $value,)+ }

        impl Op {
            fn from_bits(bits: u8) -> Option<Op> {
                match bits {
                    $($value => Some(Op::$name),)+
                    _ => None,
                }
            }
        }
    };
}

ops! {
    /// The shard's eventfd was written to.
    WakeReady = 1,
    /// Another shard's MSG_RING arrived here. Nothing was submitted for it.
    WakeMessage = 2,
    /// A MSG_RING of ours failed; the slot is the shard that it was for.
    WakeSent = 3,
    /// The time-out of a wait where `io_uring_enter` takes none.
    Timeout = 4,
    /// The removal of such a time-out.
    TimeoutRemove = 5,
    /// A UDP socket is readable; the slot is the listener.
    UdpReadable = 6,
    /// A UDP socket takes datagrams again; the slot is the listener.
    UdpWritable = 7,
    /// A connection was accepted; the slot is the listener.
    Accept = 8,
    /// A listening socket has connections to accept; the slot is the listener.
    AcceptReady = 9,
    /// Bytes for a connection are in a buffer of the ring.
    Recv = 10,
    /// A connection has bytes to read.
    RecvReady = 11,
    /// Bytes of a connection's send queue were taken by the kernel.
    Send = 12,
    /// A connection takes bytes again.
    SendReady = 13,
    /// A connection of ours is established, or is not.
    Connect = 14,
    /// The time-out linked to a CONNECT.
    ConnectTimeout = 15,
    /// The cancellation of a request.
    Cancel = 16,
    /// A time-out whose lateness tells how long completions wait.
    Lag = 17,
}

/// Bits of the generation that fit: enough, since a slot is not used again while a request for it is on the ring.
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// The `user_data` of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub op: Op,
    pub slot: u32,
    generation: u32,
}

impl Tag {
    pub(super) const fn new(op: Op, slot: u32, generation: u32) -> Tag {
        Tag {
            op,
            slot,
            generation: generation & GENERATION_MASK,
        }
    }

    /// Whether the request was made for the holder of the slot that has `generation`.
    pub(super) const fn is_of(self, generation: u32) -> bool {
        self.generation == generation & GENERATION_MASK
    }

    pub(super) const fn bits(self) -> u64 {
        (self.op as u64) << 56 | (self.generation as u64) << 32 | self.slot as u64
    }

    pub(super) fn from_bits(bits: u64) -> Option<Tag> {
        Some(Tag {
            op: Op::from_bits((bits >> 56) as u8)?,
            slot: bits as u32,
            generation: (bits >> 32) as u32 & GENERATION_MASK,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_whole_and_knows_an_old_generation() {
        let tag = Tag::new(Op::Send, u32::MAX, 0xABCD_EF01);
        let back = Tag::from_bits(tag.bits()).expect("a tag of ours");
        assert_eq!(back, tag);
        assert!(back.is_of(0xABCD_EF01) && !back.is_of(0xABCD_EF02));
        assert_eq!(Tag::from_bits(0), None);
        assert_eq!(Tag::from_bits(u64::MAX), None);
    }
}
