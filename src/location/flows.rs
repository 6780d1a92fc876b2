//! Whose bindings lie on which connection: when one ends, the flows that were registered over it are no more (RFC 5626 §7).

use std::collections::HashMap;

use ahash::RandomState;

use crate::wire::{ConnId, Flow};

use super::AorKey;

/// Subscribers of one connection that are remembered. Who registers more over one is found out when a request to them can't be sent.
pub const FLOW_SUBSCRIBERS_MAX: usize = 64;

/// The connections that flows were registered over.
#[derive(Default)]
pub(super) struct Flows {
    by_conn: HashMap<ConnId, Vec<AorKey>, RandomState>,
    /// Connections of whose end nobody tells us yet.
    new: Vec<ConnId>,
}

impl Flows {
    /// A flow of `key` lies on this connection now.
    pub(super) fn add(&mut self, flow: Flow, key: AorKey) {
        let Some(conn) = flow.conn else { return };
        let keys = self.by_conn.entry(conn).or_default();
        if keys.is_empty() {
            self.new.push(conn);
        }
        if keys.len() < FLOW_SUBSCRIBERS_MAX && !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// No flow of `key` lies on it any more.
    pub(super) fn remove(&mut self, conn: ConnId, key: AorKey) {
        if let Some(keys) = self.by_conn.get_mut(&conn) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_conn.remove(&conn);
            }
        }
    }

    /// A connection whose end is to be told from now on.
    pub(super) fn next_new(&mut self) -> Option<ConnId> {
        self.new.pop()
    }

    pub(super) fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// It has ended: somebody whose flow lay on it, until there is none.
    pub(super) fn next_of(&self, conn: ConnId) -> Option<AorKey> {
        self.by_conn.get(&conn)?.last().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_conn.is_empty()
    }
}
