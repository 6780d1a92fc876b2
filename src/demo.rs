//! `ringway demo`: a server on loopback and two phones with sockets of their own, in one process.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::DemoOptions;
use crate::config::resolve::advertised;
use crate::config::{Config, Listener};
use crate::control::summary::Percentiles;
use crate::run::Server;
use crate::wire::Transport;

/// How long the last transactions of the phones may take to be told the server.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Runs the demo; success only if every call went through as it should and nothing is left over.
pub fn demo(options: &DemoOptions) -> ExitCode {
    let mut out = io::stdout();
    match run(options, &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            _ = writeln!(out, "demo failed: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &DemoOptions, out: &mut dyn Write) -> Result<(), String> {
    let server = Server::start(config(options))?;
    let addr = server.listening().first().ok_or("no listener")?.addr;
    let kernel = match options.kernel_level {
        Some(level) => format!("features of Linux {}.{}", level.major, level.minor),
        None => "all kernel features found".to_owned(),
    };
    let print =
        |out: &mut dyn Write, text: String| writeln!(out, "{text}").map_err(|error| error.to_string());
    print(
        out,
        format!(
            "ringway on {addr}, UDP and TCP, {} shard(s), {kernel}\n",
            options.shards
        ),
    )?;
    let phones = bench_harness::demo::DemoOptions {
        calls: options.calls,
        plain: options.plain,
    };
    let result = bench_harness::demo::demo(addr, phones, out);
    server.drain();
    let mut waited = Duration::ZERO;
    while server.calls() > 0 && waited < DRAIN_TIME {
        std::thread::sleep(Duration::from_millis(10));
        waited += Duration::from_millis(10);
    }
    let report = server.stop()?;
    let done = result.map_err(|failure| failure.to_string())?;
    print(
        out,
        format!(
            "\n{done}\n\ntime in the server, from when a message came to after the send of what came of it"
        ),
    )?;
    print(out, Percentiles(&report.histograms).to_string())?;
    if !report.leftovers.is_none() {
        return Err(format!("left over at the end: {:?}", report.leftovers));
    }
    print(out, "leftovers: none".to_owned())
}

/// The embedded defaults: loopback, a port of the system's choice, the domain of the captured flows.
fn config(options: &DemoOptions) -> Config {
    let addr = ([127, 0, 0, 1], 0).into();
    let listener = |transport| Listener {
        transport,
        addr,
        advertised: advertised(addr),
        state: crate::config::ListenerState::Open,
    };
    Config {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        domains: vec!["one.att.net".to_owned()],
        shards: options.shards,
        kernel_level: options.kernel_level,
        ..Config::default()
    }
}
