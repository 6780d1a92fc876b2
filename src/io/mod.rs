//! The ring: everything between the kernel and the sans-IO core. One [`uring::Uring`] a shard, driven through the
//! [`reactor::Reactor`] trait, so that a simulator can stand in for it.
//!
//! Which paths are taken and why, with what they were measured to cost, stands in `kernel-notes.md`. In short:
//!
//! - UDP: a one-shot POLL_ADD, armed only when a `recvmmsg` came back short; what goes out leaves in runs (UDP_SEGMENT), in one `sendmmsg` a
//!   listener and turn.
//! - TCP: multishot ACCEPT and RECV into a ring of provided buffers where the kernel has them, else readiness and plain
//!   calls into one shared buffer; one SEND in flight a connection with everything that a turn queued for it.
//! - One `io_uring_enter` a turn both submits and waits.
//!
//! All `unsafe` code of the crate is in this module. It imports `time`, `wire`, `pool`, `token`, `owner`, `config` and
//! `metrics` only.

mod accept;
mod addr;
pub mod affinity;
mod arrival;
mod buf_ring;
pub mod clock;
pub mod connections;
pub mod interfaces;
mod looks;
mod memory;
mod notices;
pub mod probe;
mod probe_kernel;
pub mod reactor;
pub mod relisten;
mod ring;
mod send_queue;
pub mod socket;
mod socket_options;
mod stalled;
pub mod steer;
mod steer_asm;
mod steer_kernel;
mod steer_program;
mod stream_wait;
mod tag;
mod tcp;
mod tcp_receive;
mod tcp_send;
mod udp;
mod udp_batch;
mod udp_errors;
mod udp_runs;
mod udp_send;
pub mod uring;
pub mod waker;
