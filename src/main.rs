//! The `ringway` command.

use std::io::Write;
use std::process::ExitCode;

use ringway::cli::{self, Command, EXIT_FAILED, EXIT_OK, EXIT_USAGE};
use ringway::config::{Machine, example};
use ringway::control::trial;
use ringway::io::probe::Features;
use ringway::routing::explain;
use ringway::{ask, demo, help, logging, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os(), &Machine::read()) {
        Ok(Command::Run { loaded, source }) => {
            if let Err(error) = logging::init(&loaded.config) {
                return failed(&format!("the log can't be opened: {error}"));
            }
            logging::log_notices(&loaded.notices);
            run::serve(loaded.config, source)
        }
        Ok(Command::Probe(level)) => match Features::probe() {
            Ok(features) => {
                let features = level.map_or(features, |level| features.limited_to(level));
                print_out(&features.probe_table())
            }
            Err(error) => failed(&error.to_string()),
        },
        Ok(Command::Demo(options)) => demo::demo(&options),
        Ok(Command::Check { file, loaded, print }) => {
            for notice in &loaded.notices {
                tell(&format!("{}: {notice}", file.display()));
            }
            // What is printed is a configuration file itself.
            if print {
                let effective = example::effective(&loaded.config);
                print_out(&format!("# {}: ok\n\n{effective}", file.display()))
            } else {
                let routes = explain::table(&loaded.config);
                print_out(&format!("{}: ok\n{routes}", file.display()))
            }
        }
        Ok(Command::Route { loaded, question }) => match trial::route(&loaded.config, &question) {
            Ok(text) => print_out(&text),
            Err(error) => {
                tell(&format!("ringway: {error}"));
                ExitCode::from(EXIT_USAGE)
            }
        },
        Ok(Command::ExampleConfig) => print_out(&example::example()),
        Ok(Command::Ask(question)) => ExitCode::from(ask::run(&question)),
        Ok(Command::Help(text)) => print_out(&text),
        Ok(Command::Completions(shell)) => print_out(&String::from_utf8_lossy(&help::completions(
            &mut cli::description(),
            shell,
        ))),
        Ok(Command::ManPages(directory)) => match help::man_pages(cli::description(), &directory) {
            Ok(()) => ExitCode::from(EXIT_OK),
            Err(error) => failed(&format!("{}: {error}", directory.display())),
        },
        Err(refusal) => {
            refusal.print();
            ExitCode::from(refusal.exit_code())
        }
    }
}

/// Writes to standard output. A reader that went away early (`| head`) is no panic.
fn print_out(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(_) => ExitCode::from(EXIT_FAILED),
    }
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn failed(text: &str) -> ExitCode {
    tell(&format!("ringway: {text}"));
    ExitCode::from(EXIT_FAILED)
}
