//! What people see of a server, and what they tell it: never on the packet path.

pub mod api;
pub mod busiest;
pub mod capture;
pub mod client;
pub mod collect;
pub mod desk;
pub mod hep_export;
pub mod history;
pub mod hlog;
mod in_order;
pub mod ladder;
pub mod limits;
pub mod listen;
pub mod names;
pub mod origin;
pub mod page;
pub mod places;
pub mod ports;
pub mod prometheus;
pub mod records;
pub mod rotation;
pub mod status;
pub mod summary;
pub mod tables;
pub mod traces;
pub mod trial;
pub mod trunks;
pub mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a panic elsewhere left is whole: it is changed in one step.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a terminal would take for a command is shown as U+FFFD, not sent to it.
pub fn printable(c: char) -> char {
    if c.is_control() {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}
