//! Ringway: a SIP proxy, registrar and IMS application server, one pinned io_uring thread a core.
//!
//! ARCHITECTURE.md describes the layers; a file imports only from layers above its own.

pub mod config;
pub mod io;
pub mod metrics;
pub mod pool;
pub mod slots;
pub mod time;
pub mod token;
pub mod wire;
