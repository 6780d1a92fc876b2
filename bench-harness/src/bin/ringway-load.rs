//! The load generator's command line.

use std::process::ExitCode;

use bench_harness::load::plan::{Plan, Scenario, Side};
use bench_harness::load::report;
use bench_harness::load::run::{Meter, Outcome, run};
use bench_harness::load::search;
use clap::{Parser, Subcommand};

/// Loads a SIP server on this machine: both ends of every call, open loop, latencies from the intended start.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all went well; 1 something was lost or failed; 2 the command line is wrong."
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
            plan,
        } => find_max(&plan, scenario, trial),
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
    Ok(())
}

fn one(plan: &Plan, scenario: Scenario) -> Result<bool, String> {
    plan.check()?;
    let outcome = run(plan, scenario, &Meter::of(plan)).map_err(|error| error.to_string())?;
    let title = title(plan, scenario);
    print!("{}", report::table(&title, &outcome));
    write_files(plan, &title, &outcome)?;
    Ok(!outcome.stats.failed())
}

fn find_max(plan: &Plan, scenario: Scenario, seconds: f64) -> Result<bool, String> {
    plan.check()?;
    let found =
        search::find_max(plan, scenario, &Meter::of(plan), seconds).map_err(|error| error.to_string())?;
    for (part, outcome) in &found.at_part {
        let heading = format!(
            "at {:.0} % of the highest rate: {:.0} a second",
            part * 100.0,
            found.rate * part
        );
        println!("\n{}", report::table(&heading, outcome));
    }
    let _ = Side::Caller;
    println!("highest rate without a failure: {:.0} a second", found.rate);
    if found.own_limit {
        println!("The generator itself was the limit: the server may do more.");
    }
    Ok(found.rate > 0.0)
}
