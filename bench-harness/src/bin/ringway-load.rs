//! The load generator's command line.

use std::net::{SocketAddrV4, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use bench_harness::load::plan::{Plan, Scenario, Transport};
use bench_harness::load::run::{Meter, Outcome, run};
use bench_harness::load::{overload, plot, relay, report, search, sys};
use clap::{Parser, Subcommand};

/// Loads a SIP server on this machine: both ends of every call, open loop, latencies from the intended start.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all went well; 1 something was lost or failed; 2 the command line is wrong, or no phone could be registered."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// REGISTER: refreshes of known subscribers, and --fresh of ones not seen before
    Register(Plan),
    /// INVITE, 100, 180, 200, ACK, hold, BYE, 200
    Call(Plan),
    /// MESSAGE from phone to phone
    Message(Plan),
    /// OPTIONS to the server itself
    Options(Plan),
    /// A busy hour: 50 % REGISTER, 30 % calls, 15 % MESSAGE, 5 % OPTIONS
    Mixed(Plan),
    /// The highest rate without a failure (RFC 7502), and the latency at 25, 50, 75 and 90 % of it
    FindMax {
        #[arg(long, value_enum, default_value = "call")]
        scenario: Scenario,
        /// Seconds that each trial takes
        #[arg(long, default_value_t = 5.0)]
        trial: f64,
        /// Leaves out the runs at 25, 50, 75 and 90 %
        #[arg(long)]
        search_only: bool,
        #[command(flatten)]
        plan: Plan,
    },
    /// Goodput at 1, 1.2, 1.5, 2, 5 and 10 times the highest rate, and at 0.8 times afterwards
    Overload {
        #[arg(long, value_enum, default_value = "call")]
        scenario: Scenario,
        /// The highest rate, if it is known. Else it is searched for from --rate upwards, in trials of --duration
        #[arg(long)]
        max: Option<f64>,
        /// Multiples of it that are run, in this order
        #[arg(long, value_delimiter = ',', default_values_t = overload::MULTIPLES)]
        multiples: Vec<f64>,
        #[command(flatten)]
        plan: Plan,
    },
    /// The floor by itself: relays UDP and TCP between the generator's callers and callees until it is ended
    Relay {
        /// UDP and the callers' TCP; the callees' TCP is one port higher
        #[arg(long, default_value = "127.0.0.1:5090")]
        listen: SocketAddrV4,
        /// The generator's --port
        #[arg(long, default_value_t = 6000)]
        port: u16,
        /// Sends runs of equal length by UDP_SEGMENT
        #[arg(long)]
        segment: bool,
        /// CPU to be bound to
        #[arg(long)]
        cpu: Option<usize>,
        /// UDP threads, 1 to 64, each with a socket of its own; the datagrams are shared out evenly
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        threads: u32,
    },
    /// The floor in one command: calls through a relay of its own at --target, with the relay's CPU time a call
    Floor {
        /// The relay sends runs of equal length by UDP_SEGMENT
        #[arg(long)]
        segment: bool,
        /// CPU of the relay
        #[arg(long)]
        relay_cpu: Option<usize>,
        /// UDP threads of the relay, 1 to 64, each with a socket of its own; the datagrams are shared out evenly
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        relay_threads: u32,
        /// Searches the highest rate, in trials of so many seconds
        #[arg(long)]
        find_max: Option<f64>,
        /// Leaves out the runs at 25, 50, 75 and 90 % of it
        #[arg(long, requires = "find_max")]
        search_only: bool,
        #[command(flatten)]
        plan: Plan,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Register(plan) => one(&plan, Scenario::Register),
        Command::Call(plan) => one(&plan, Scenario::Call),
        Command::Message(plan) => one(&plan, Scenario::Message),
        Command::Options(plan) => one(&plan, Scenario::Options),
        Command::Mixed(plan) => one(&plan, Scenario::Mixed),
        Command::FindMax {
            scenario,
            trial,
            search_only,
            plan,
        } => plan
            .check()
            .and_then(|()| find_max(&plan, scenario, &Meter::of(&plan), trial, search_only)),
        Command::Overload {
            scenario,
            max,
            multiples,
            plan,
        } => overloaded(&plan, scenario, max, &multiples),
        Command::Relay {
            listen,
            port,
            segment,
            cpu,
            threads,
        } => relay_alone(listen, port, (segment, threads), cpu),
        Command::Floor {
            segment,
            relay_cpu,
            relay_threads,
            find_max,
            search_only,
            plan,
        } => floor(
            plan,
            (segment, relay_threads),
            relay_cpu,
            find_max.map(|seconds| (seconds, search_only)),
        ),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn title(plan: &Plan, scenario: Scenario) -> String {
    format!(
        "{scenario:?} {:?} {:?} to {} at {} a second",
        plan.peers, plan.transport, plan.target, plan.rate
    )
    .to_lowercase()
}

fn write_files(plan: &Plan, title: &str, outcome: &Outcome) -> Result<(), String> {
    let told = |path: &std::path::Path, error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(path) = &plan.json {
        report::write_file(path, &report::json(title, plan.rate, outcome))
            .map_err(|error| told(path, error))?;
    }
    if let Some(path) = &plan.html {
        report::write_file(path, &plot::page(title, outcome)).map_err(|error| told(path, error))?;
    }
    Ok(())
}

fn one(plan: &Plan, scenario: Scenario) -> Result<bool, String> {
    plan.check()?;
    one_metered(plan, scenario, &Meter::of(plan))
}

fn one_metered(plan: &Plan, scenario: Scenario, meter: &Meter) -> Result<bool, String> {
    let outcome = run(plan, scenario, meter).map_err(|error| error.to_string())?;
    let title = title(plan, scenario);
    print!("{}", report::table(&title, &outcome));
    write_files(plan, &title, &outcome)?;
    Ok(!outcome.stats.failed())
}

fn find_max(
    plan: &Plan,
    scenario: Scenario,
    meter: &Meter,
    seconds: f64,
    search_only: bool,
) -> Result<bool, String> {
    if plan.hlog.is_some() {
        return Err("--hlog: a search writes none; --json and --html are of its runs".to_string());
    }
    let parts = if search_only { &[][..] } else { &search::PARTS[..] };
    let found = search::find_max(plan, scenario, meter, seconds, parts).map_err(|error| error.to_string())?;
    for (part, outcome) in &found.at_part {
        let rate = found.rate * part;
        let heading = format!("at {:.0} % of the highest rate: {rate:.0} a second", part * 100.0);
        println!("\n{}", report::table(&heading, outcome));
        // Files are of each part: "out.json" becomes "out-50.json".
        let mut at = plan.clone();
        at.rate = rate;
        for path in [&mut at.json, &mut at.html].into_iter().flatten() {
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let ending = path
                .extension()
                .map_or(String::new(), |it| format!(".{}", it.to_string_lossy()));
            path.set_file_name(format!("{stem}-{:.0}{ending}", part * 100.0));
        }
        write_files(&at, &heading, outcome)?;
    }
    println!("highest rate without a failure: {:.0} a second", found.rate);
    if !found.confirmed {
        println!(
            "It did not pass a second time: the machine has other things to do, or the rate is at the very edge."
        );
    }
    if found.own_limit {
        println!("The generator itself was the limit: the server may do more.");
    }
    Ok(found.rate > 0.0)
}

fn overloaded(plan: &Plan, scenario: Scenario, max: Option<f64>, multiples: &[f64]) -> Result<bool, String> {
    plan.check()?;
    if plan.hlog.is_some() || plan.html.is_some() {
        return Err("--hlog, --html: of multiples there is --json alone".to_string());
    }
    if !multiples.iter().all(|it| (0.01..=100.0).contains(it)) {
        return Err("--multiples: from 0.01 to 100".to_string());
    }
    let meter = Meter::of(plan);
    let told = |error: std::io::Error| error.to_string();
    let rate = match max {
        Some(rate) if rate > 0.0 => rate,
        Some(_) => return Err("--max: above 0".to_string()),
        None => {
            search::find_max(plan, scenario, &meter, plan.duration, &[])
                .map_err(told)?
                .rate
        }
    };
    if rate <= 0.0 {
        println!("No rate passed: there is nothing to take multiples of.");
        return Ok(false);
    }
    let steps = overload::steps(plan, scenario, &meter, rate, multiples).map_err(told)?;
    println!(
        "the highest rate: {rate:.0} a second\n\n{}",
        overload::table(rate, &steps)
    );
    if let Some(path) = &plan.json {
        report::write_file(path, &overload::json(rate, &steps))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(true)
}

fn relay_alone(
    listen: SocketAddrV4,
    port: u16,
    udp: (bool, u32),
    cpu: Option<usize>,
) -> Result<bool, String> {
    let (_threads, _stop) = start_relay(listen, port, udp, cpu)?;
    println!("relaying at {listen}; end with Ctrl-C");
    loop {
        thread::park();
    }
}

/// Starts the relay's threads, `udp_threads` and one for TCP, and answers their kernel numbers.
fn start_relay(
    listen: SocketAddrV4,
    port: u16,
    (segment, udp_threads): (bool, u32),
    cpu: Option<usize>,
) -> Result<(Vec<i32>, Arc<AtomicBool>), String> {
    let told = |error: std::io::Error| format!("{listen}: {error}");
    let Some(second) = listen.port().checked_add(1) else {
        return Err("no port above".to_string());
    };
    let sockets = relay::sockets(listen, udp_threads).map_err(told)?;
    let callers = TcpListener::bind(listen).map_err(told)?;
    let callees = TcpListener::bind(SocketAddrV4::new(*listen.ip(), second)).map_err(told)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (numbers, told) = channel();
    let begin = move |numbers: &std::sync::mpsc::Sender<i32>| {
        if let Some(cpu) = cpu
            && let Err(error) = sys::pin(cpu)
        {
            eprintln!("the relay could not be bound to CPU {cpu}: {error}");
        }
        // The main thread waits for it.
        let _ = numbers.send(sys::thread_id());
    };
    for socket in sockets {
        let (number, flag) = (numbers.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            begin(&number);
            if let Err(error) = relay::udp(&socket, port, segment, &flag) {
                eprintln!("UDP relay: {error}");
            }
        });
    }
    let flag = Arc::clone(&stop);
    thread::spawn(move || {
        begin(&numbers);
        if let Err(error) = relay::tcp(&callers, &callees, &flag) {
            eprintln!("TCP relay: {error}");
        }
    });
    Ok((told.iter().take(udp_threads as usize + 1).collect(), stop))
}

fn floor(
    mut plan: Plan,
    (segment, udp_threads): (bool, u32),
    cpu: Option<usize>,
    trial: Option<(f64, bool)>,
) -> Result<bool, String> {
    plan.check()?;
    if plan.transport == Transport::TcpUdp {
        return Err("--transport: a relay carries udp to udp or tcp to tcp".to_string());
    }
    plan.no_register = true;
    if plan.transport == Transport::Tcp {
        let second = plan.target.port().checked_add(1).ok_or("no port above")?;
        plan.callee_target = Some(SocketAddrV4::new(*plan.target.ip(), second));
    }
    let (threads, stop) = start_relay(plan.target, plan.port, (segment, udp_threads), cpu)?;
    let meter = Meter::Threads(threads);
    let done = match trial {
        Some((seconds, search_only)) => find_max(&plan, Scenario::Call, &meter, seconds, search_only),
        None => one_metered(&plan, Scenario::Call, &meter),
    };
    stop.store(true, Ordering::Relaxed);
    done
}
