//! Ringway: a SIP proxy, registrar and IMS application server, one pinned io_uring thread a core.
//!
//! ARCHITECTURE.md describes the layers; a file imports only from layers above its own.

// The pages are for who works on it: `cargo doc --document-private-items`.
#![allow(rustdoc::private_intra_doc_links)]

pub mod ask;
pub mod b2bua;
pub mod capture;
pub mod channel;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod dialog;
pub mod dns;
pub mod domain;
pub mod help;
pub mod ims;
pub mod io;
pub mod json;
pub mod key_index;
pub mod location;
pub mod logging;
pub mod metrics;
pub mod msg;
pub mod owner;
pub mod pool;
pub mod port;
pub mod proxy;
pub mod record;
pub mod registrar;
pub mod room;
pub mod routing;
pub mod run;
pub mod shard;
pub mod sim;
pub mod slots;
pub mod stun;
pub mod tap;
pub mod time;
pub mod timer;
pub mod token;
pub mod transaction;
pub mod trunk;
pub mod wire;
