//! Connections that flows were registered over (RFC 5626 §7): the shard that has one tells those that have the flows when it ends.

use crate::ims::register;
use crate::time::Instant;
use crate::wire::{ConnId, Effects, ShardId};

use super::Shard;
use super::mailbox::Letter;

impl Shard {
    /// Asks for and passes on the ends of connections. What does not fit into a mailbox is tried again in the next turn.
    pub(super) fn carry_flows(&mut self, now: Instant, out: &mut Effects) {
        if !self.ims.location.has_new_flows() && self.ended_flows.is_empty() {
            return;
        }
        let own = self.stack.shard;
        while let Some(conn) = self.ims.location.next_new_flow() {
            if conn.shard == own {
                self.watch_flow(conn, own);
            } else if !self.post(conn.shard, Letter::Watch { conn, from: own }, b"") {
                // It is found out when a request can't be sent: the next flow is tried then all the same.
                continue;
            }
        }
        let mut ended = std::mem::take(&mut self.ended_flows);
        ended.retain_mut(|(conn, watchers)| {
            for shard in 0..self.stack.shards {
                let bit = 1 << shard;
                if *watchers & bit == 0 {
                    continue;
                }
                let to = ShardId(shard as u8);
                let is_told = if to == own {
                    register::on_flow_end(&mut self.ims, &mut self.stack, *conn, now, out);
                    true
                } else {
                    self.post(to, Letter::FlowEnded { conn: *conn }, b"")
                };
                if is_told {
                    *watchers &= !bit;
                }
            }
            *watchers > 0
        });
        ended.append(&mut self.ended_flows);
        self.ended_flows = ended;
    }

    /// `from` wants to know when a connection of this shard ends, which it may have done already.
    pub(super) fn watch_flow(&mut self, conn: ConnId, from: ShardId) {
        let bit = 1 << from.0;
        let stream = self.by_conn.get(&conn).and_then(|id| self.streams.get_mut(*id));
        match stream {
            Some(stream) => stream.watchers |= bit,
            None => self.ended_flows.push((conn, bit)),
        }
    }
}
