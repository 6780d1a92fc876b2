//! The command line: what is asked for, with its configuration loaded and checked.
//!
//! Options override the file key by key, through the same schema and with the same error texts. Nothing is done here:
//! [`parse`] answers with a [`Command`] that is ready to be carried out, or with a [`Refusal`] that is ready to be printed.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::ask;
use crate::config::load::load_file;
use crate::config::{Errors, Flag, FlagValue, KernelLevel, Loaded, Machine, Source, load};
use crate::control::trial::Question;
use crate::help;
use crate::wire::Transport;

/// Done as asked.
pub const EXIT_OK: u8 = 0;
/// Something failed that was rightly asked for: an address that can't be bound, a demo whose checks failed.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong; nothing was started.
pub const EXIT_USAGE: u8 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0  done: the server stopped as asked, the check or the demo found nothing wrong
  1  failed: an address that can't be bound, a kernel without io_uring, a call that went wrong
  2  the command line or the configuration is wrong; every mistake is told, nothing was started
  3  no server answers where one was to be asked
  4  the server has no such subscriber, call, trunk or histogram";

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Command {
    /// Serve until stopped.
    Run { loaded: Loaded, source: Source },
    /// Say that the configuration is right, and with `print` what it amounts to.
    Check {
        file: PathBuf,
        loaded: Loaded,
        print: bool,
    },
    /// Say which rule of the routing table a request goes by, and what would be sent where.
    Route { loaded: Loaded, question: Question },
    /// Show what this kernel offers and what of it is used at this level.
    Probe(Option<KernelLevel>),
    /// Place calls through a server of our own and show them.
    Demo(DemoOptions),
    /// Print the example file.
    ExampleConfig,
    /// Ask a running server.
    Ask(ask::Question),
    /// Print a text: a page of help.
    Help(String),
    /// Print the completion script of a shell.
    Completions(Shell),
    /// Write the man pages into a directory.
    ManPages(PathBuf),
}

/// What the demo may be told. It chooses its listeners itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DemoOptions {
    /// Calls to measure after the one that is shown.
    pub calls: usize,
    /// At least 1.
    pub shards: usize,
    pub kernel_level: Option<KernelLevel>,
    /// Neither colours nor a progress bar.
    pub plain: bool,
}

/// Why there is no [`Command`].
#[derive(Debug)]
pub enum Refusal {
    /// The command line is wrong, or it asks for help or the version: clap's to print.
    Usage(clap::Error),
    Config(Errors),
    /// Help was asked for on something that there is not.
    NoTopic(String),
}

impl Refusal {
    pub fn exit_code(&self) -> u8 {
        match self {
            Refusal::Usage(error) if !error.use_stderr() => EXIT_OK,
            Refusal::Usage(_) | Refusal::Config(_) | Refusal::NoTopic(_) => EXIT_USAGE,
        }
    }

    /// Prints it: help and version on standard output, all else on standard error.
    pub fn print(&self) {
        // With the terminal gone there is nobody left to tell.
        let _ = match self {
            Refusal::Usage(error) => error.print(),
            Refusal::Config(errors) => writeln!(std::io::stderr(), "{errors}"),
            Refusal::NoTopic(text) => writeln!(std::io::stderr(), "ringway: {text}"),
        };
    }
}

/// SIP proxy, registrar and IMS application server on io_uring, one pinned thread a core.
#[derive(Parser)]
#[command(name = "ringway", version, after_help = EXIT_CODES, arg_required_else_help = true, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve phones until SIGTERM or SIGINT
    ///
    /// Without a file and options ringway serves 127.0.0.1:5060 over UDP and TCP. Options override the file; of an option that
    /// is given twice and takes one value, the last counts.
    #[command(after_help = EXIT_CODES, args_override_self = true)]
    Run(RunArgs),
    /// Tell whether a configuration file is right, and every mistake in it if not
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Say which rule of the routing table a request goes by and what would be sent where; nothing is started
    #[command(after_help = EXIT_CODES)]
    Route(RouteArgs),
    /// Show which io_uring and socket features this kernel has, and what stands in for those it lacks
    #[command(after_help = EXIT_CODES)]
    Probe(ProbeArgs),
    /// Place calls between two phones through a server on loopback, and show them
    #[command(after_help = EXIT_CODES)]
    Demo(DemoArgs),
    /// Print a configuration file with every key, its default, unit and meaning
    ExampleConfig,
    #[command(flatten)]
    Ask(ask::Question),
    /// Explain a topic or a command; without a name list the topics
    Help {
        #[arg(value_name = "TOPIC")]
        topic: Option<String>,
    },
    /// Print the completion script of a shell
    Completions { shell: Shell },
    /// Write the man pages into a directory
    Man {
        /// Where they go; it must exist
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

// What is said of an option is for the terminal: brackets are no links there.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Args)]
struct RunArgs {
    /// Configuration file, TOML; `ringway example-config` prints one to start from
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, UDP and TCP, e.g. 127.0.0.1:5060 or [::1]:5060; udp: or tcp: before it for one alone. Replaces
    /// the file's list; may be repeated
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// What Via and Contact say instead of the address listened on, HOST or HOST:PORT; for one listener ADDR=HOST. May be
    /// repeated
    #[arg(long, value_name = "HOST")]
    advertise: Vec<String>,
    /// Domain whose subscribers live here; may be repeated [default: every domain]
    #[arg(long, value_name = "DOMAIN")]
    domain: Vec<String>,
    /// Threads that serve calls, each on its own CPU; 0: one a usable CPU [default: 0]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// CPUs to pin the shards to, e.g. 0,1 or 0-3 [default: all usable ones]
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// Use only what a kernel of this version offers, e.g. 5.10 [default: auto]
    #[arg(long, value_name = "LEVEL")]
    kernel_level: Option<String>,
    /// What is logged: off, error, warn, info, debug, trace, or directives such as info,ringway::io=trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// How it is logged: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Where the admin server speaks HTTP, e.g. 127.0.0.1:5080; "" for nowhere [default: 127.0.0.1:5080]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Serve addresses that are not loopback although nobody authenticates yet: whoever reaches one may register under any
    /// name and call
    #[arg(long)]
    open_registrar: bool,
}

#[derive(Args)]
struct CheckArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print the effective configuration too, as a file that loads to the same
    #[arg(long)]
    print: bool,
}

#[derive(Args)]
struct RouteArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The request's method and URI, e.g. 'INVITE sip:+4930123@example.com'
    #[arg(value_name = "REQUEST")]
    request: String,
    /// Where it comes from
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.2:5060")]
    from: SocketAddr,
    /// The transport that it comes over: udp or tcp
    #[arg(long, value_name = "TRANSPORT", default_value = "udp", value_parser = ["udp", "tcp"])]
    over: String,
    /// The address of listen that it arrives at [default: the first that fits]
    #[arg(long, value_name = "ADDR")]
    at: Option<SocketAddr>,
    /// The URI of its From
    #[arg(long, value_name = "URI", default_value = "sip:trial@trial.invalid")]
    caller: String,
    /// A further header line, e.g. 'X-Tenant: gold'; may be repeated
    #[arg(long, value_name = "LINE")]
    header: Vec<String>,
}

#[derive(Args)]
struct ProbeArgs {
    /// Show what would be used on a kernel of this version, e.g. 5.10 [default: auto]
    #[arg(long, value_name = "LEVEL")]
    kernel_level: Option<String>,
}

#[derive(Args)]
struct DemoArgs {
    /// Calls to measure after the one that is shown, 0 to 1000000
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    calls: u32,
    /// Threads that serve the calls; 0: one a usable CPU [default: 0]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Use only what a kernel of this version offers, e.g. 5.10 [default: auto]
    #[arg(long, value_name = "LEVEL")]
    kernel_level: Option<String>,
    /// Neither colours nor a progress bar: for logs and pipes
    #[arg(long)]
    plain: bool,
}

/// The command line as clap describes it: what completions and man pages are made from.
pub fn description() -> clap::Command {
    CommandLine::command()
}

/// What the command line `args`, the program's name first, asks for on `machine`.
///
/// # Errors
/// What is to be printed instead: help, the version, or what is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>, machine: &Machine) -> Result<Command, Refusal> {
    let line = CommandLine::try_parse_from(args).map_err(Refusal::Usage)?;
    match line.verb {
        Verb::Run(mut args) => {
            let file = args.config.take();
            let flags = args.flags();
            let source = Source { file, flags };
            (source.load(machine)).map(|loaded| Command::Run { loaded, source })
        }
        Verb::Check(CheckArgs { config: file, print }) => {
            load_file(Some(&file), &[], machine).map(|loaded| Command::Check { file, loaded, print })
        }
        Verb::Route(args) => {
            let file = args.config.clone();
            load_file(Some(&file), &[], machine).map(|loaded| Command::Route {
                loaded,
                question: args.question(),
            })
        }
        Verb::Probe(args) => {
            let flags: Vec<Flag> = kernel_level(args.kernel_level).into_iter().collect();
            load(None, &flags, machine).map(|loaded| Command::Probe(loaded.config.kernel_level))
        }
        Verb::Demo(args) => {
            let flags: Vec<Flag> = shards(args.shards)
                .into_iter()
                .chain(kernel_level(args.kernel_level))
                .collect();
            load(None, &flags, machine).map(|loaded| {
                Command::Demo(DemoOptions {
                    calls: args.calls as usize,
                    shards: loaded.config.shards,
                    kernel_level: loaded.config.kernel_level,
                    plain: args.plain,
                })
            })
        }
        Verb::ExampleConfig => Ok(Command::ExampleConfig),
        Verb::Help { topic } => {
            return help::page(CommandLine::command(), topic.as_deref())
                .map(Command::Help)
                .map_err(Refusal::NoTopic);
        }
        Verb::Ask(question) => Ok(Command::Ask(question)),
        Verb::Completions { shell } => Ok(Command::Completions(shell)),
        Verb::Man { directory } => Ok(Command::ManPages(directory)),
    }
    .map_err(Refusal::Config)
}

impl RouteArgs {
    fn question(self) -> Question {
        Question {
            request: self.request,
            from: self.from,
            transport: if self.over == "tcp" {
                Transport::Tcp
            } else {
                Transport::Udp
            },
            at: self.at,
            caller: self.caller,
            headers: self.header,
        }
    }
}

impl RunArgs {
    /// The options that were given, as keys of the file.
    fn flags(self) -> Vec<Flag> {
        let texts = |name, key, given: Vec<String>| {
            (!given.is_empty()).then_some(Flag {
                name,
                section: "",
                key,
                value: FlagValue::Texts(given),
            })
        };
        let log = |name, key, given: Option<String>| {
            given.map(|text| Flag {
                name,
                section: "log",
                key,
                value: FlagValue::Text(text),
            })
        };
        [
            texts("--listen", "listen", self.listen),
            texts("--advertise", "advertise", self.advertise),
            texts("--domain", "domains", self.domain),
            shards(self.shards),
            self.cpus.map(|cpus| Flag {
                name: "--cpus",
                section: "",
                key: "cpus",
                value: FlagValue::Integers(cpus),
            }),
            kernel_level(self.kernel_level),
            self.admin.map(|text| Flag {
                name: "--admin",
                section: "admin",
                key: "listen",
                value: FlagValue::Text(text),
            }),
            log("--log", "level", self.log),
            log("--log-format", "format", self.log_format),
            self.open_registrar.then_some(Flag {
                name: "--open-registrar",
                section: "",
                key: "open_registrar",
                value: FlagValue::On,
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn shards(given: Option<String>) -> Option<Flag> {
    given.map(|text| Flag {
        name: "--shards",
        section: "",
        key: "shards",
        value: FlagValue::Integer(text),
    })
}

fn kernel_level(given: Option<String>) -> Option<Flag> {
    given.map(|text| Flag {
        name: "--kernel-level",
        section: "",
        key: "kernel_level",
        value: FlagValue::Text(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Listener, LogFormat, Origin};

    #[test]
    fn what_is_asked_for_by_an_empty_name_is_a_mistake_in_the_command() {
        for command in [
            "call",
            "hangup",
            "unregister",
            "registrations",
            "trunks",
            "histogram",
        ] {
            let named = CommandLine::try_parse_from(["ringway", command, "x"]);
            assert!(named.is_ok(), "{command}");
            let unnamed = CommandLine::try_parse_from(["ringway", command, ""]);
            assert!(unnamed.is_err(), "{command}");
        }
    }

    fn machine() -> Machine {
        Machine {
            cpus: vec![0, 1, 2, 3],
            parallelism: 4,
            memory_bytes: Some(1 << 40),
            files_max: Some(1 << 20),
            primary_v4: Some([192, 0, 2, 7].into()),
            primary_v6: None,
        }
    }

    fn parse(line: &str) -> Result<Command, Refusal> {
        super::parse(line.split_whitespace().map(OsString::from), &machine())
    }

    fn run(line: &str) -> Config {
        match parse(line) {
            Ok(Command::Run { loaded, .. }) => loaded.config,
            other => panic!("{other:?}"),
        }
    }

    fn errors(line: &str) -> Errors {
        match parse(line) {
            Err(refusal @ Refusal::Config(_)) if refusal.exit_code() != EXIT_USAGE => {
                panic!("wrong exit code")
            }
            Err(Refusal::Config(errors)) => errors,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_one_that_clap_takes() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn run_alone_serves_loopback_over_udp_and_tcp_on_every_cpu() {
        let expected = Config {
            shards: 4,
            ..Config::default()
        };
        assert_eq!(run("ringway run"), expected);
    }

    #[test]
    fn every_option_of_run_reaches_its_key() {
        let config = run(
            "ringway run --listen [::1]:5070 --listen udp:10.0.0.1:5071 --open-registrar --domain One.ATT.net --domain b.example \
             --shards 2 --cpus 1-2 --kernel-level 5.10 --log ringway::io=trace --log-format json --advertise 10.0.0.1:5071=sip.example",
        );
        let listener = |transport, addr: &str, advertised: &str| Listener {
            transport,
            addr: addr.parse().expect("an address"),
            advertised: advertised.to_owned(),
            state: crate::config::ListenerState::Open,
        };
        let expected = Config {
            listeners: vec![
                listener(Transport::Udp, "[::1]:5070", "[::1]:5070"),
                listener(Transport::Tcp, "[::1]:5070", "[::1]:5070"),
                listener(Transport::Udp, "10.0.0.1:5071", "sip.example:5071"),
            ],
            domains: vec!["one.att.net".to_owned(), "b.example".to_owned()],
            shards: 2,
            cpus: vec![1, 2],
            kernel_level: Some(KernelLevel { major: 5, minor: 10 }),
            open_registrar: true,
            log: "ringway::io=trace".to_owned(),
            log_format: LogFormat::Json,
            ..Config::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn mistakes_on_the_command_line_are_told_at_once_by_the_options_name() {
        let errors =
            errors("ringway run --shards two --listen 127.0.0.1 --log inof --kernel-level 4.19 --cpus 0-");
        let mut told: Vec<Origin> = errors.list.iter().map(|error| error.origin).collect();
        told.sort();
        assert_eq!(
            told,
            ["--cpus", "--kernel-level", "--listen", "--log", "--shards"].map(Origin::Flag)
        );
        let text = errors.to_string();
        assert!(
            text.contains("--shards: expected an integer from 0 to 64 (shards), found \"two\""),
            "{text}"
        );
        assert!(text.contains("did you mean \"127.0.0.1:5060\"?"), "{text}");
        assert!(text.contains("did you mean \"info\"?"), "{text}");
    }

    #[test]
    fn the_last_of_two_values_counts_and_lists_add_up() {
        let config = run("ringway run --shards 1 --domain a.example --shards 2 --domain b.example");
        assert_eq!((config.shards, config.domains.len()), (2, 2));
    }

    #[test]
    fn an_open_address_needs_to_be_meant() {
        let text = errors("ringway run --listen 10.0.0.1:5060").to_string();
        assert!(
            text.contains("nobody authenticates yet") && text.contains("--open-registrar"),
            "{text}"
        );
        assert!(run("ringway run --listen 10.0.0.1:5060 --open-registrar").open_registrar);
    }

    #[test]
    fn probe_and_demo_carry_what_was_asked_for() {
        assert!(matches!(parse("ringway probe"), Ok(Command::Probe(None))));
        let level = KernelLevel { major: 6, minor: 1 };
        assert!(
            matches!(parse("ringway probe --kernel-level 6.1"), Ok(Command::Probe(Some(l))) if l == level)
        );
        let Ok(Command::Demo(options)) =
            parse("ringway demo --calls 10 --shards 2 --kernel-level 6.1 --plain")
        else {
            panic!("a demo")
        };
        let expected = DemoOptions {
            calls: 10,
            shards: 2,
            kernel_level: Some(level),
            plain: true,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn help_and_version_are_no_mistakes_and_the_rest_is() {
        for (line, code) in [
            ("ringway --help", EXIT_OK),
            ("ringway run --help", EXIT_OK),
            ("ringway --version", EXIT_OK),
            ("ringway", EXIT_USAGE),
            ("ringway walk", EXIT_USAGE),
            ("ringway help walk", EXIT_USAGE),
            ("ringway completions cmd", EXIT_USAGE),
            ("ringway demo --calls x", EXIT_USAGE),
            ("ringway check", EXIT_USAGE),
            ("ringway check -c /nonexistent/ringway.toml", EXIT_USAGE),
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), code, "{line}");
        }
    }

    #[test]
    fn help_names_every_command_and_the_exit_codes() {
        let help = CommandLine::command().render_help().to_string();
        for name in [
            "run",
            "check",
            "probe",
            "demo",
            "example-config",
            "help",
            "completions",
            "man",
            "Exit codes:",
        ] {
            assert!(help.contains(name), "{name} in\n{help}");
        }
    }
}
