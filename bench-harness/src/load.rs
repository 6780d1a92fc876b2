//! The load generator: many calls at intended times, both ends of each in one process, and what became of them.
//!
//! Open loop: a call has an intended start, whatever the server does, and its latencies count from it. A slow answer can't
//! delay the calls after it, so it can't hide them from the histogram (no coordinated omission).
//!
//! - [`plan`]: what is asked for. [`run`]: carries it out. [`stats`]: what is counted; [`report`], [`plot`]: how it is shown.
//! - [`engine`]: one thread with its calls; [`wire`]: its messages; [`lane`]: its sockets; [`wheel`]: its timers; [`sys`]: its kernel.
//! - [`search`]: the highest rate without a failure (RFC 7502). [`overload`]: goodput beyond it. [`relay`]: the floor. [`cpu`]: the server's CPU time.

pub mod cpu;
pub mod engine;
pub mod lane;
pub mod overload;
pub mod plan;
pub mod plot;
pub mod relay;
pub mod report;
pub mod run;
pub mod search;
pub mod stats;
pub mod sys;
pub mod wheel;
pub mod wire;
