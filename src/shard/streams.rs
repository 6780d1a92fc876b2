//! What has come of each TCP connection and is not a whole message yet.
//!
//! An idle connection owns no buffer. The messages of one chunk are handled where they lie; only the beginning of one that is
//! cut off is kept, in a buffer of the pool, until the rest comes or `limits.message_partial` has passed. Line ends between messages
//! are none: many a phone puts some behind each message, or sends a pair of them to keep its connection.

use std::time::Duration;

use crate::pool::{BufId, Pool, Stay};
use crate::slots::Id;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::wire::{ConnId, Flow};

/// One connection of this shard.
pub struct Stream {
    pub conn: ConnId,
    pub flow: Flow,
    /// The beginning of a message.
    pub partial: Option<BufId>,
    /// Bytes of a keep-alive that has begun, where there is no `partial`.
    pub line_ends: u8,
    /// How far the end of the header section has been looked for in it.
    pub searched: usize,
    /// Bytes still to come of a message that was refused for its size.
    pub to_skip: usize,
    pub partial_since: Instant,
    pub last_received: Instant,
    pub timer: Option<TimerId>,
    /// The shards that are told when it ends, one bit each: they have flows that were registered over it.
    pub watchers: u64,
}

pub type StreamId = Id<Stream>;

impl Stream {
    /// When this connection is to be looked at again: a message too long in coming, or nothing for too long.
    pub fn deadline(&self, idle: Duration, partial: Duration) -> Instant {
        let idle_at = self.last_received + idle;
        match self.partial {
            Some(_) => idle_at.min(self.partial_since + partial),
            None => idle_at,
        }
    }

    /// Puts `bytes` behind what is kept. `false`: there is no buffer for so much, or too many wait for the rest of a message.
    #[must_use]
    pub fn keep(&mut self, bytes: &[u8], now: Instant, pool: &mut Pool) -> bool {
        if !pool.takes_in(Stay::Partial) {
            return false;
        }
        let Some(old) = self.partial else {
            self.partial = pool.put(bytes);
            self.searched = 0;
            self.partial_since = now;
            return self.partial.is_some();
        };
        match pool.append(old, bytes) {
            Some(whole) => {
                self.partial = Some(whole);
                true
            }
            None => false,
        }
    }

    /// The kept beginning is somebody else's now.
    pub fn forget_partial_id(&mut self) {
        self.partial = None;
        self.searched = 0;
    }

    pub fn forget_partial(&mut self, pool: &mut Pool) {
        if let Some(partial) = self.partial.take() {
            pool.release(partial);
        }
        self.searched = 0;
    }
}
