//! Listeners that come and go while a shard runs: what the control thread has for its reactor, taken up when the shard goes by the
//! configuration that speaks of them.
//!
//! An index is never used for a second socket, so that a completion for one that is closed finds nothing.

use std::sync::{Mutex, PoisonError};

use super::socket::BoundSocket;
use crate::wire::ListenerId;

/// One change of what a shard listens on.
pub(super) enum Change {
    /// From now on there is this listener too; its id is the next, or further on where others between are not this transport's.
    Open(ListenerId, BoundSocket),
    /// No connection is accepted any more; those that there are go on.
    StopAccepting(ListenerId),
    /// A UDP listener is closed. What is still to leave through it leaves through the other one, if there is any.
    Close(ListenerId, Option<ListenerId>),
}

/// The changes that wait for one shard.
#[derive(Default)]
pub struct Changes(Mutex<Vec<Change>>);

impl Changes {
    /// A listener to be opened.
    pub fn open(&self, id: ListenerId, sockets: &mut super::socket::ShardSockets) {
        if let Some(socket) = sockets.next() {
            self.push(Change::Open(id, socket));
        }
    }

    /// A TCP listener that is to take no further connection.
    pub fn stop_accepting(&self, id: ListenerId) {
        self.push(Change::StopAccepting(id));
    }

    /// A UDP listener to be closed, and the one that sends in its place.
    pub fn close(&self, id: ListenerId, in_its_place: Option<ListenerId>) {
        self.push(Change::Close(id, in_its_place));
    }

    fn push(&self, change: Change) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    pub(super) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
