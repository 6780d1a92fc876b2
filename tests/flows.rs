//! What phones see on the wire: the real binary, real sockets, and phones that share no code with ringway.
//!
//! Every test is a call flow with a server of its own. `RINGWAY_TEST_FLAGS` adds flags to every server, so that all of them
//! can be run on two shards or with the fallbacks for an old kernel.

// The phones live in real time.
#![allow(clippy::disallowed_methods)]

#[path = "flows/admin.rs"]
mod admin;
#[path = "flows/admin_places.rs"]
mod admin_places;
#[path = "flows/calls.rs"]
mod calls;
#[path = "flows/captured.rs"]
mod captured;
#[path = "flows/dialogs.rs"]
mod dialogs;
#[path = "flows/dns_server.rs"]
mod dns_server;
#[path = "flows/errors.rs"]
mod errors;
#[path = "flows/forking.rs"]
mod forking;
#[path = "flows/histograms.rs"]
mod histograms;
#[path = "flows/listeners.rs"]
mod listeners;
#[path = "flows/logs.rs"]
mod logs;
#[path = "flows/messages.rs"]
mod messages;
#[path = "flows/names.rs"]
mod names;
#[path = "flows/page.rs"]
mod page;
#[path = "flows/proxy.rs"]
mod proxy;
#[path = "flows/records.rs"]
mod records;
#[path = "flows/reg_event.rs"]
mod reg_event;
#[path = "flows/registered.rs"]
mod registered;
#[path = "flows/registrar.rs"]
mod registrar;
#[path = "flows/reload.rs"]
mod reload;
#[path = "flows/replaces.rs"]
mod replaces;
#[path = "flows/retransmissions.rs"]
mod retransmissions;
#[path = "flows/runs.rs"]
mod runs;
#[path = "flows/service.rs"]
mod service;
#[path = "flows/stopping.rs"]
mod stopping;
#[path = "flows/support.rs"]
mod support;
#[path = "flows/top.rs"]
mod top;
#[path = "flows/torture.rs"]
mod torture;
#[path = "flows/tracing.rs"]
mod tracing;
#[path = "flows/transports.rs"]
mod transports;
#[path = "flows/trunks.rs"]
mod trunks;
#[path = "flows/undelivered.rs"]
mod undelivered;
