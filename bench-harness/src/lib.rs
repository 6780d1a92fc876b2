//! SIP phones of our own, which test ringway from outside, show it off and load it.
//!
//! The SIP here is small and independent on purpose: nothing of ringway's crate is used, so that a mistake in ringway's
//! parser can't hide behind the same mistake in its tests. It is written to be read, not to be fast: messages own their
//! text, calls block, every socket has a thread that reads it.
//!
//! - [`sip`]: one message as text, and framing of a stream.
//! - [`links`]: a phone's sockets; [`phone`]: the user agent on them; [`dialog`]: its view of one dialog; [`call`]: whole calls between two.
//! - [`ladder`]: what went over the wire, drawn.
//! - [`captured`]: the messages of the captured call flows; [`contract`]: what ringway must make of them.
//! - [`demo`]: the flows shown once, then some thousand calls.
//! - `load` (feature `load`): the load generator, which is written to be fast and shares nothing with the rest.

// Phones live in real time: they read the clock themselves, unlike the server's core, which is handed it.
#![allow(clippy::disallowed_methods)]

pub mod call;
pub mod captured;
pub mod contract;
pub mod demo;
pub mod dialog;
pub mod failure;
pub mod ids;
pub mod ladder;
pub mod links;
#[cfg(feature = "load")]
pub mod load;
mod memory;
pub mod phone;
pub mod sip;
