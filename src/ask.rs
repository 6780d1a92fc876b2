//! `ringway status` and the other commands that ask a running server, over its unix socket.

pub mod top;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use crate::capture::Captured;
use crate::config::ADMIN_SOCKET_DEFAULT;
use crate::control::capture::pcapng;
use crate::control::client::{ClientError, ask, segment};
use crate::control::ladder::{self, Ladder};
use crate::control::tables::{self, Column};
use crate::control::watch::{Line, Wanted};

/// Nobody answers at the socket.
pub const EXIT_NO_SERVER: u8 = 3;
/// The server has no such subscriber, call, trunk or histogram.
pub const EXIT_NOT_FOUND: u8 = 4;

/// Where the server is asked, and how its answer is shown.
// What is said of an option is for the terminal: brackets are no links there.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Args, Clone, Debug)]
pub struct Way {
    /// The server's unix socket, [admin] socket in its configuration
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET_DEFAULT, global = true)]
    socket: PathBuf,
    /// Print what the server says, as JSON: one object, or one a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Question {
    /// Show what a running server does
    Status(Way),
    /// Watch a running server on a screen: rates, times, busiest peers, shards, drops
    ///
    /// The screen is drawn anew as the numbers come. q or Ctrl-C ends it, p pauses it, s sorts the busiest peers by another column, t
    /// has the times of the last second or since the start, and Tab gives one table all of the screen, one after the other. A
    /// server that goes away is waited for; with --once or --json it ends with exit code 3.
    Top {
        /// How often the server is asked, 0.1 to 60
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: Duration,
        /// Print one screen as text (with --json one line), and end; no terminal is needed
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        way: Way,
    },
    /// List the registrations, or those of one subscriber
    Registrations {
        /// sip:USER@DOMAIN, USER@DOMAIN, or USER of the first domain served
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        aor: Option<String>,
        #[command(flatten)]
        way: Way,
    },
    /// List the calls in progress
    Calls(Way),
    /// Show one call with its legs
    Call {
        /// The Call-ID of either leg
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        call_id: String,
        #[command(flatten)]
        way: Way,
    },
    /// List the subscriptions to the reg event
    Subscriptions(Way),
    /// List the TCP connections
    Connections(Way),
    /// List the peers that send and get most messages, the busiest first
    Peers {
        /// Over the last so many seconds
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=60))]
        seconds: u8,
        #[command(flatten)]
        way: Way,
    },
    /// Show the trunks: which destinations are up, since when and why, and their calls
    Trunks {
        /// One of them alone
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
        #[command(flatten)]
        way: Way,
    },
    /// Show percentiles of the time in the server of one kind of message, or of another time; without a kind those of all
    Histogram {
        /// A method (INVITE), a status class (2xx), ringing, answer, transaction, turn or mailbox
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        kind: Option<String>,
        /// Print an HdrHistogram log, version 2
        #[arg(long, requires = "kind", conflicts_with = "json")]
        hlog: bool,
        #[command(flatten)]
        way: Way,
    },
    /// Set what the running server logs
    Log {
        /// off, error, warn, info, debug, trace, or directives such as info,ringway::io=trace
        level: String,
        #[command(flatten)]
        way: Way,
    },
    /// Have the server read its configuration again; what changes and what waits for a restart is told
    Reload(Way),
    /// Show the messages of a subscriber, a call or a peer as they come and go, as a ladder; both legs of each call
    Trace {
        #[command(flatten)]
        of: TraceOf,
        /// Write them into a pcapng file too, which Wireshark opens
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// End after so many messages
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// End after so many seconds; an hour at most
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
        /// The ladder alone, without the messages
        #[arg(long)]
        ladder: bool,
        #[command(flatten)]
        way: Way,
    },
    /// Have the server refuse new calls, and end with the last
    Drain(Way),
    /// Remove all bindings of a subscriber
    Unregister {
        /// sip:USER@DOMAIN, USER@DOMAIN, or USER of the first domain served
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        aor: String,
        #[command(flatten)]
        way: Way,
    },
    /// End a call: a BYE to both sides
    Hangup {
        /// The Call-ID of either leg
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        call_id: String,
        #[command(flatten)]
        way: Way,
    },
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it takes seconds, 0.1 to 60".to_owned())
}

/// What a trace is of.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct TraceOf {
    /// Whom: sip:USER@DOMAIN, or USER of any domain, in From, To, Request-URI or identities
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    aor: Option<String>,
    /// Which call: the Call-ID of either leg
    #[arg(long, value_name = "CALL-ID")]
    call_id: Option<String>,
    /// Which peer: IP or IP:PORT
    #[arg(long, value_name = "IP")]
    peer: Option<String>,
}

impl Question {
    fn way(&self) -> &Way {
        match self {
            Question::Status(way)
            | Question::Calls(way)
            | Question::Subscriptions(way)
            | Question::Connections(way)
            | Question::Reload(way)
            | Question::Drain(way)
            | Question::Top { way, .. }
            | Question::Registrations { way, .. }
            | Question::Peers { way, .. }
            | Question::Call { way, .. }
            | Question::Trunks { way, .. }
            | Question::Histogram { way, .. }
            | Question::Log { way, .. }
            | Question::Trace { way, .. }
            | Question::Unregister { way, .. }
            | Question::Hangup { way, .. } => way,
        }
    }
}

/// Where answers are printed, with what kept them from it: whoever asks stops at the first line that can't be written.
struct Printed<W> {
    to: W,
    failed: Option<io::Error>,
}

impl<W> Printed<W> {
    fn kept<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        // A reader that went away early (`| head`) has what it wanted, and an interrupted one is tried again.
        let is_passed = |kind| matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted);
        done.map_err(|error| {
            let kind = error.kind();
            if !is_passed(kind) && self.failed.is_none() {
                self.failed = Some(error);
            }
            io::Error::from(kind)
        })
    }
}

impl<W: Write> Write for Printed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.to.write(bytes);
        self.kept(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.to.flush();
        self.kept(done)
    }
}

/// Asks, prints the answer, and says how it went: an exit code.
pub fn run(question: &Question) -> u8 {
    let way = question.way();
    let mut out = io::BufWriter::new(Printed {
        to: io::stdout(),
        failed: None,
    });
    let outcome = answer(question, &way.socket, way.json, &mut out);
    // What it says is kept there.
    let _ = out.flush();
    let failed = out.get_mut().failed.take();
    match outcome {
        Ok(()) => match failed {
            None => crate::cli::EXIT_OK,
            Some(error) => {
                eprintln!("ringway: the answer can't be written: {error}");
                crate::cli::EXIT_FAILED
            }
        },
        Err(ClientError::NoServer(error)) => {
            eprintln!("ringway: no server answers at {}: {error}", way.socket.display());
            EXIT_NO_SERVER
        }
        Err(ClientError::NotFound(text)) => {
            eprintln!("ringway: {text}");
            EXIT_NOT_FOUND
        }
        Err(ClientError::Local(text)) => {
            eprintln!("ringway: {text}");
            crate::cli::EXIT_FAILED
        }
        Err(ClientError::Refused(text)) => {
            eprintln!("ringway: the server refuses: {text}");
            crate::cli::EXIT_FAILED
        }
    }
}

fn answer(question: &Question, socket: &Path, json: bool, out: &mut impl Write) -> Result<(), ClientError> {
    let mut asker = Asker { socket, json, out };
    match question {
        Question::Status(_) => asker.shown("/api/v1/status", tables::status),
        Question::Top { interval, once, .. } => {
            let options = top::Options {
                interval: *interval,
                is_once: *once,
                is_json: json,
            };
            top::top(socket, options, asker.out)
        }
        Question::Registrations { aor: None, .. } => {
            asker.listed("/api/v1/registrations", tables::REGISTRATIONS)
        }
        Question::Registrations { aor: Some(aor), .. } => {
            let path = format!("/api/v1/registrations/{}", segment(aor));
            asker.listed(&path, tables::REGISTRATIONS)
        }
        Question::Calls(_) => asker.listed("/api/v1/calls", tables::CALLS),
        Question::Call { call_id, .. } => {
            let path = format!("/api/v1/calls/{}", segment(call_id));
            let json = asker.json;
            asker.each(Method::GET, &path, "", |line| {
                if json {
                    format!("{line}\n")
                } else {
                    tables::call(line)
                }
            })
        }
        Question::Subscriptions(_) => asker.listed("/api/v1/subscriptions", tables::SUBSCRIPTIONS),
        Question::Connections(_) => asker.listed("/api/v1/connections", tables::CONNECTIONS),
        Question::Peers { seconds, .. } => {
            asker.listed(&format!("/api/v1/peers?seconds={seconds}"), tables::PEERS)
        }
        Question::Trunks { name, .. } => {
            let path = name.as_ref().map_or("/api/v1/trunks".to_owned(), |name| {
                format!("/api/v1/trunks/{}", segment(name))
            });
            let json = asker.json;
            asker.each(Method::GET, &path, "", |line| {
                if json {
                    format!("{line}\n")
                } else {
                    tables::trunk(line)
                }
            })
        }
        Question::Histogram { kind: None, .. } => asker.shown("/api/v1/histograms", tables::histograms),
        Question::Histogram {
            kind: Some(kind),
            hlog: true,
            ..
        } => {
            let path = format!("/api/v1/histograms/{}.hlog", segment(kind));
            asker.each(Method::GET, &path, "", |line| format!("{line}\n"))
        }
        Question::Histogram { kind: Some(kind), .. } => asker.shown(
            &format!("/api/v1/histograms/{}", segment(kind)),
            tables::histogram,
        ),
        Question::Log { level, .. } => asker.told(Method::POST, "/api/v1/log", level),
        Question::Reload(_) => asker.page(Method::POST, "/api/v1/reload", tables::reload),
        Question::Trace {
            of,
            write,
            count,
            seconds,
            ladder,
            ..
        } => {
            let wanted = Wanted {
                aor: of.aor.clone(),
                call_id: of.call_id.clone(),
                peer: of.peer.clone(),
                count: *count,
                seconds: *seconds,
            };
            asker.traced(&wanted, write.as_deref(), *ladder)
        }
        Question::Drain(_) => asker.told(Method::POST, "/api/v1/drain", ""),
        Question::Unregister { aor, .. } => {
            let path = format!("/api/v1/registrations/{}", segment(aor));
            asker.told(Method::DELETE, &path, "")
        }
        Question::Hangup { call_id, .. } => {
            asker.told(Method::DELETE, &format!("/api/v1/calls/{}", segment(call_id)), "")
        }
    }
}

fn trace_path(wanted: &Wanted) -> String {
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let pairs = [
        ("aor", wanted.aor.clone()),
        ("call_id", wanted.call_id.clone()),
        ("peer", wanted.peer.clone()),
        ("count", number(wanted.count)),
        ("seconds", number(wanted.seconds)),
    ];
    let given = pairs
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_deref()?))));
    format!("/api/v1/trace?{}", given.collect::<Vec<_>>().join("&"))
}

/// A file for Wireshark that can be read while it grows.
struct PcapngFile {
    path: PathBuf,
    file: std::fs::File,
}

impl PcapngFile {
    fn begin(path: &Path) -> Result<PcapngFile, ClientError> {
        let mut head = Vec::new();
        pcapng::put_header(&mut head);
        let created = std::fs::File::create(path).and_then(|mut file| {
            file.write_all(&head)?;
            Ok(file)
        });
        match created {
            Ok(file) => Ok(PcapngFile {
                path: path.to_owned(),
                file,
            }),
            Err(error) => Err(ClientError::Local(format!("{}: {error}", path.display()))),
        }
    }

    fn put(&mut self, captured: &Captured, bytes: &[u8]) -> Result<(), ClientError> {
        let mut packet = Vec::new();
        pcapng::put_packet(&mut packet, captured, bytes);
        self.file
            .write_all(&packet)
            .map_err(|error| ClientError::Local(format!("{}: {error}", self.path.display())))
    }
}

struct Asker<'a, W> {
    socket: &'a Path,
    json: bool,
    out: &'a mut W,
}

impl<W: Write> Asker<'_, W> {
    /// Every line of the answer as `show` has it.
    fn each(
        &mut self,
        method: Method,
        path: &str,
        body: &str,
        mut show: impl FnMut(&str) -> String,
    ) -> Result<(), ClientError> {
        let out = &mut *self.out;
        ask(self.socket, method, path, body, |line| {
            out.write_all(show(line).as_bytes()).is_ok()
        })
    }

    /// One object as a page.
    fn shown(&mut self, path: &str, page: fn(&Value) -> String) -> Result<(), ClientError> {
        self.page(Method::GET, path, page)
    }

    fn page(&mut self, method: Method, path: &str, page: fn(&Value) -> String) -> Result<(), ClientError> {
        let json = self.json;
        self.each(method, path, "", |line| match serde_json::from_str(line) {
            Ok(value) if !json => page(&value),
            Ok(_) | Err(_) => format!("{line}\n"),
        })
    }

    /// A listing as a table. The headings go to people alone: `ringway calls | wc -l` counts calls.
    fn listed(&mut self, path: &str, columns: &'static [Column]) -> Result<(), ClientError> {
        let json = self.json;
        let mut heading = (!json && io::stdout().is_terminal()).then(|| tables::heading(columns) + "\n");
        self.each(Method::GET, path, "", |line| {
            let row = if json {
                line.to_owned()
            } else {
                tables::line(columns, line)
            };
            heading.take().unwrap_or_default() + &row + "\n"
        })
    }

    /// A trace, each message as it comes.
    fn traced(&mut self, wanted: &Wanted, file: Option<&Path>, is_bare: bool) -> Result<(), ClientError> {
        let mut file = file.map(PcapngFile::begin).transpose()?;
        let (mut drawn, mut dropped) = (Ladder::default(), 0);
        let (json, out) = (self.json, &mut *self.out);
        let mut broken = None;
        ask(self.socket, Method::GET, &trace_path(wanted), "", |text| {
            let Ok(line) = serde_json::from_str::<Line>(text) else {
                return false;
            };
            if line.dropped > dropped {
                eprintln!(
                    "ringway: {} messages came too fast to be shown",
                    line.dropped - dropped
                );
                dropped = line.dropped;
            }
            let Some(message) = &line.message else {
                eprintln!("ringway: tracing; Ctrl-C ends it");
                return true;
            };
            let Some((captured, bytes)) = message.decode(line.at_ns) else {
                return false;
            };
            if let Some(Err(error)) = file.as_mut().map(|file| file.put(&captured, &bytes)) {
                broken = Some(error);
                return false;
            }
            let shown = if json {
                format!("{text}\n")
            } else {
                let rung = drawn.line(&captured, message.is_received, &message.call, &bytes);
                let below = if is_bare {
                    String::new()
                } else {
                    ladder::message(&bytes)
                };
                format!("{rung}\n{below}")
            };
            // Somebody watches: each at once.
            out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_ok()
        })?;
        broken.map_or(Ok(()), Err)
    }

    /// Something to do, whose answer is a number or nothing.
    fn told(&mut self, method: Method, path: &str, body: &str) -> Result<(), ClientError> {
        let json = self.json;
        self.each(method, path, body, |line| {
            if json && !line.is_empty() {
                format!("{line}\n")
            } else {
                String::new()
            }
        })
    }
}
