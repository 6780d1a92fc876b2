//! Serving until a signal: starting, draining and the last page. It runs on tokio-uring's runtime, beside the shards.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::reload::Reloaded;
use crate::config::{Config, HistogramFiles, Machine, Source, example};
use crate::control::collect::Collector;
use crate::control::desk::Order;
use crate::control::hep_export::HepExport;
use crate::control::hlog::HlogFiles;
use crate::control::limits::{LimitWatch, reached};
use crate::control::names::Names;
use crate::control::ports::Ports;
use crate::control::records;
use crate::control::status::Outlets;
use crate::control::summary::Summary;
use crate::control::trunks::{TrunkWatch, limits_reached};
use crate::io::affinity;
use crate::io::clock::Clock;

use super::Server;
use super::admin::Admin;
use super::reload::Configured;
use super::service::Service;

/// How often draining looks whether the last call has ended.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the BYEs of the last calls are given after the time for draining is over.
const HANG_UP_TIME: Duration = Duration::from_secs(2);
/// How long the disk is given for the last call records.
const LAST_RECORDS_TIME: Duration = Duration::from_secs(5);
/// How long the last messages for a HEP collector may take to be sent.
const LAST_MESSAGES_TIME: Duration = Duration::from_secs(1);
/// How often the control thread looks after the shards.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often it looks which addresses this machine has. Each change is a configuration of its own to the shards.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, drains, and prints the summary on standard output.
///
/// SIGHUP has the configuration read again from `source`, which gave `cfg`.
pub fn serve(cfg: Config, source: Source) -> ExitCode {
    tracing::info!(configuration = %example::in_one_line(&cfg), "starting");
    log_memory(&cfg);
    let server = match Server::start(cfg.clone()) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("ringway: {error}");
            return ExitCode::FAILURE;
        }
    };
    for listener in &server.listening() {
        let transport = listener.transport.name().to_ascii_lowercase();
        tracing::info!(transport, addr = %listener.addr, advertised = %listener.advertised, "listening");
    }
    let machine = Machine::read();
    // The shards run. This thread adds up histograms and answers the admin server, which can wait.
    if let Err(error) = affinity::give_way_on(&cfg.cpus) {
        tracing::debug!(%error, "the control thread does not give way to the shards");
    }
    tokio_uring::start(supervise(server, Configured::new(source, machine, cfg)))
}

/// The sums that memory for messages may reach.
fn log_memory(cfg: &Config) {
    let (shards, limits) = (cfg.shards, &cfg.limits);
    tracing::info!(
        message_buffer_bytes_max = shards * limits.buffer_bytes_max,
        mailbox_bytes = shards * (shards - 1) * limits.mailbox_bytes,
        connections_max = limits.connections_max,
        send_queue_bytes_max = limits.send_queue_bytes_sum_max,
        "memory for messages"
    );
}

async fn supervise(server: Server, mut configured: Configured) -> ExitCode {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (mut terminate, mut interrupt, mut hangup) = match signals {
        (Ok(terminate), Ok(interrupt), Ok(hangup)) => (terminate, interrupt, hangup),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
            tracing::error!(%error, "signals can't be received");
            return ExitCode::FAILURE;
        }
    };
    let histograms = configured.config().histograms.clone();
    let records = configured.config().records.clone();
    let collector = match open_files(&histograms, server.clock).await {
        Ok(files) => Rc::new(Collector::new(
            files,
            histograms.interval,
            server.clock,
            server.metrics.clone(),
        )),
        Err(error) => {
            tracing::error!(directory = histograms.directory, %error, "histograms can't be written");
            eprintln!("ringway: histograms.directory {}: {error}", histograms.directory);
            // It has just begun to serve: nothing is there to be drained.
            let _ = server.stop();
            return ExitCode::FAILURE;
        }
    };
    let mut outlets = Outlets::default();
    let writing_records = match records::open(&records, server.clock).await {
        Ok(None) => None,
        Ok(Some((records, writer))) => {
            outlets.records = Some(records.counts());
            server.ports.set_records(Some(records));
            Some(tokio_uring::spawn(writer.run()))
        }
        Err(error) => {
            let directory = records.directory.unwrap_or_default();
            let directory = directory.display();
            tracing::error!(%directory, %error, "call records can't be written");
            eprintln!("ringway: records.directory {directory}: {error}");
            let _ = server.stop();
            return ExitCode::FAILURE;
        }
    };
    let names = Names::new(&configured.config().dns, server.clock);
    let hearing = tokio_uring::spawn(hear(Rc::clone(&server.ports)));
    let resolving = tokio_uring::spawn({
        let ports = Rc::clone(&server.ports);
        async move { names.run(&ports).await }
    });
    let collecting = tokio_uring::spawn({
        let (ports, collector) = (Rc::clone(&server.ports), Rc::clone(&collector));
        async move { collector.run(&ports).await }
    });
    let hep = &configured.config().hep;
    let exporting = match HepExport::open(hep, &server.ports, server.clock) {
        Ok(export) => export.map(|export| {
            outlets.hep = Some(export.counts());
            tokio_uring::spawn(export.run())
        }),
        Err(error) => {
            tracing::error!(collector = ?hep.collector, %error, "no messages go to the HEP collector");
            None
        }
    };
    let mut admin = match Admin::start(&server, &collector, outlets, configured.config()).await {
        Ok(admin) => admin,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("ringway: {error}");
            let _ = server.stop();
            return ExitCode::FAILURE;
        }
    };
    tracing::info!("ready");
    let mut service = Service::new();
    let (mut limits, mut peers) = (LimitWatch::default(), TrunkWatch::default());
    let mut addresses_at = server.clock.now() + ADDRESSES_INTERVAL;
    service.ready("serving");
    let by = loop {
        tokio::select! {
            () = either(&mut terminate, &mut interrupt) => break "a signal".to_owned(),
            order = admin.ordered() => match order {
                Order::Drain { by } => break by.to_string(),
                Order::Reload { by, to } => {
                    let reloaded = reload(&mut configured, &server, &service, &by.0).await;
                    // Who asked may have gone away since.
                    let _ = to.send(reloaded);
                }
            },
            _ = hangup.recv() => {
                let _ = reload(&mut configured, &server, &service, "SIGHUP").await;
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if server.has_failed() {
            tracing::error!("a shard has ended by itself");
            break "a shard that ended".to_owned();
        }
        service.alive(server.metrics.iter().map(AsRef::as_ref));
        let (now, board) = (server.clock.now(), server.trunks.board());
        let counts = reached(&server.metrics).chain(admin.limits_reached());
        let counts = counts.map(|(limit, count)| (limit.to_owned(), count));
        for reached in limits.look(counts.chain(limits_reached(&board)), now) {
            tracing::warn!(
                limit = reached.limit,
                times = reached.times,
                "a limit was reached"
            );
        }
        peers.look(&board, now);
        configured.close_listeners(&server).await;
        if now >= addresses_at {
            addresses_at = now + ADDRESSES_INTERVAL;
            configured.look_at_addresses(&server).await;
        }
    };
    let drain = configured.config().drain;
    let calls = server.calls();
    tracing::info!(
        by,
        calls,
        drain_s = drain.as_secs(),
        "draining: new calls get 503; a second signal hangs up"
    );
    service.stopping(&format!("draining: {calls} calls in progress"));
    admin.set_draining();
    server.drain();
    let until_empty = async {
        // A shard publishes its calls at the end of a turn: one more look than seems needed.
        loop {
            tokio::time::sleep(DRAIN_LOOK_INTERVAL).await;
            service.alive(server.metrics.iter().map(AsRef::as_ref));
            if server.calls() == 0 || server.has_failed() {
                return;
            }
        }
    };
    let drained = tokio::select! {
        () = until_empty => true,
        () = either(&mut terminate, &mut interrupt) => false,
        () = tokio::time::sleep(drain) => false,
    };
    if !drained {
        tracing::warn!(calls = server.calls(), "hanging up");
        server.hang_up();
        let until = tokio::time::sleep(HANG_UP_TIME);
        tokio::pin!(until);
        while server.calls() > 0 {
            tokio::select! {
                () = &mut until => break,
                () = tokio::time::sleep(DRAIN_LOOK_INTERVAL) => {}
            }
        }
    }
    admin.end().await;
    // While the shards can still be heard: what they have handed over is not to be lost.
    collector.end();
    let _ = collecting.await;
    for task in [hearing, resolving] {
        task.abort();
        let _ = task.await;
    }
    let ports = Rc::clone(&server.ports);
    let stopped = server.stop();
    ports.hear_the_rest();
    ports.traces.end();
    if let Some(exporting) = exporting
        && tokio::time::timeout(LAST_MESSAGES_TIME, exporting).await.is_err()
    {
        tracing::error!("the last messages could not be sent to the HEP collector");
    }
    ports.set_records(None);
    if let Some(writing) = writing_records
        && tokio::time::timeout(LAST_RECORDS_TIME, writing).await.is_err()
    {
        tracing::error!("the last call records could not be written");
    }
    match stopped {
        Ok(mut report) => {
            if let Some(collector) = Rc::into_inner(collector) {
                report.histograms = collector.finish(&report.histograms).await;
            }
            let page = Summary(&report).to_string();
            // A reader that went away early (`| head`) is no reason to fail at the very end.
            if let Err(error) = io::stdout().write_all(page.as_bytes()) {
                tracing::warn!(%error, "the last page can't be printed");
            }
            if report.leftovers.is_none() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn open_files(histograms: &HistogramFiles, clock: Clock) -> io::Result<Option<HlogFiles>> {
    let HistogramFiles {
        directory,
        interval: _,
        rotate_after,
        files_max,
    } = histograms;
    if directory.is_empty() {
        return Ok(None);
    }
    HlogFiles::open(
        Path::new(directory),
        *rotate_after,
        *files_max,
        clock.now(),
        clock.date_shift(),
    )
    .await
    .map(Some)
}

/// Reads the configuration again, and tells the service manager so before and after.
async fn reload(
    configured: &mut Configured,
    server: &Server,
    service: &Service,
    by: &str,
) -> Result<Reloaded, String> {
    service.reloading();
    let reloaded = configured.reload(server, by).await;
    match &reloaded {
        Ok(reloaded) => service.ready(&format!("serving; reloaded: {reloaded}")),
        Err(_) => service.ready("serving; not reloaded: see the log"),
    }
    reloaded
}

/// Without what the shards tell, calls go on all the same.
async fn hear(ports: Rc<Ports>) {
    if let Err(error) = ports.hear().await {
        tracing::error!(%error, "the shards can't be heard");
    }
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
