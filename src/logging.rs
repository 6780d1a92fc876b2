//! The log: `tracing` events to standard error, for people by default, as JSON by option.
//!
//! An event is formatted in memory and written with one write, so a line is never torn and costs the thread that logs no
//! more than standard error does. Nothing is logged for each message at info: a busy server is silent.
//!
//! Where standard error is a stream to the journal (systemd.exec(5), `JOURNAL_STREAM`), each line begins with its priority
//! (sd-daemon(3): `<4>` for a warning), which the journal takes off and keeps as a field, and has no time of its own.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{Config, LOG_FILTER, LogFormat, Notice};

/// Sends every event from now on to standard error, as `config` says.
///
/// # Errors
/// When the process logs already.
pub fn init(config: &Config) -> io::Result<()> {
    // https://no-color.org: any value but the empty one turns colours off.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stderr().is_terminal() && !no_color;
    let to_journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stderr(&stream));
    let (subscriber, filter) = subscriber(config, colours && !to_journal, to_journal, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    // Only whoever initialises twice could find it set, and that has just failed.
    let _ = FILTER.set(filter);
    Ok(())
}

/// Changes what is logged, by the handle that [`init`] left.
static FILTER: OnceLock<SetFilter> = OnceLock::new();

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Has the log show what `directives` say from now on: as `log.level` in the configuration.
///
/// # Errors
/// They are none; the text says what was expected.
pub fn set_level(directives: &str) -> Result<(), String> {
    crate::config::log_filter(directives).map_err(|hint| {
        [Some(format!("expected {LOG_FILTER}")), hint]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    })?;
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|error| error.to_string())?;
    FILTER.get().ok_or("there is no log")?(filter)
}

/// What there is to say about the configuration, as the first lines of the log.
pub fn log_notices(notices: &[Notice]) {
    for notice in notices {
        match notice {
            Notice::Warning(text) => tracing::warn!(target: "ringway::config", "{text}"),
            Notice::Derived(text) => tracing::info!(target: "ringway::config", "{text}"),
        }
    }
}

/// Whether `stream`, `DEVICE:INODE`, is what standard error is: a service may have sent it elsewhere since.
fn is_stderr(stream: &str) -> bool {
    let found = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let metadata = found.and_then(|file| file.metadata());
    metadata.is_ok_and(|metadata| stream == format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// Puts the priority in front of a line, as sd-daemon(3) has it.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let level = *event.metadata().level();
        // syslog(3): error, warning, informational, debug.
        let priority = if level == Level::ERROR {
            "<3>"
        } else if level == Level::WARN {
            "<4>"
        } else if level == Level::INFO {
            "<6>"
        } else {
            "<7>"
        };
        writer.write_str(priority)?;
        self.0.format_event(context, writer, event)
    }
}

/// Formats events into `writer`. Times are UTC, RFC 3339; the journal has its own.
fn subscriber<W>(
    config: &Config,
    colours: bool,
    to_journal: bool,
    writer: W,
) -> io::Result<(Box<dyn Subscriber + Send + Sync>, SetFilter)>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&config.log)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let builder = fmt::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours)
        // A log that can't be written must not end the process: telling so on a closed standard error would panic.
        .log_internal_errors(false);
    fn setter<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> SetFilter {
        Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
    }
    macro_rules! finished {
        ($builder:expr) => {{
            let builder = $builder.with_filter_reloading();
            let set = setter(builder.reload_handle());
            (Box::new(builder.finish()), set)
        }};
    }
    Ok(match (config.log_format, to_journal) {
        (LogFormat::Human, false) => finished!(builder.compact()),
        (LogFormat::Human, true) => finished!(builder.compact().without_time().map_event_format(Prioritised)),
        (LogFormat::Json, false) => finished!(builder.json().flatten_event(true)),
        (LogFormat::Json, true) => {
            finished!(builder.json().flatten_event(true).map_event_format(Prioritised))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one writer").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: &str, log_format: LogFormat, events: impl FnOnce()) -> Vec<String> {
        logged_with(log, log_format, false, |_| events())
    }

    fn logged_with(
        log: &str,
        log_format: LogFormat,
        to_journal: bool,
        events: impl FnOnce(&SetFilter),
    ) -> Vec<String> {
        let config = Config {
            log: log.to_owned(),
            log_format,
            ..Config::default()
        };
        let page = Page::default();
        let writer = page.clone();
        let (subscriber, filter) =
            subscriber(&config, false, to_journal, move || writer.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, || events(&filter));
        let bytes = page.0.lock().expect("one writer").clone();
        String::from_utf8(bytes)
            .expect("text")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_line_for_people_holds_time_level_module_and_fields() {
        let lines = logged("info", LogFormat::Human, || {
            tracing::info!(target: "ringway::run", shards = 2, "serving");
            tracing::debug!("not at this level");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let (time, rest) = line.split_once(' ').expect("a time first");
        assert!(time.ends_with('Z') && time.contains('T'), "UTC: {time}");
        assert_eq!(rest.trim_start(), "INFO ringway::run: serving shards=2");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_same_parts() {
        let lines = logged("info", LogFormat::Json, || {
            tracing::warn!(target: "ringway::io", call_id = "a\"b", "odd");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        for part in [
            r#""level":"WARN""#,
            r#""target":"ringway::io""#,
            r#""message":"odd""#,
            r#""call_id":"a\"b""#,
            r#""timestamp":"#,
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(line.starts_with('{') && line.ends_with('}'));
    }

    #[test]
    fn a_line_for_the_journal_begins_with_its_priority_and_has_no_time() {
        let events = |_: &SetFilter| {
            tracing::error!(target: "ringway::run", "broken");
            tracing::warn!(target: "ringway::run", limit = "calls", "full");
            tracing::info!(target: "ringway::run", "serving");
            tracing::debug!(target: "ringway::run", "seen");
        };
        let lines = logged_with("debug", LogFormat::Human, true, events);
        let expected = [
            "<3>ERROR ringway::run: broken",
            "<4> WARN ringway::run: full limit=\"calls\"",
            "<6> INFO ringway::run: serving",
            "<7>DEBUG ringway::run: seen",
        ];
        assert_eq!(lines, expected);
        let lines = logged_with("debug", LogFormat::Json, true, events);
        for (line, start) in lines.iter().zip(["<3>{", "<4>{", "<6>{", "<7>{"]) {
            assert!(line.starts_with(start) && line.ends_with('}'), "{line}");
        }
    }

    #[test]
    fn a_directive_opens_one_module_alone() {
        let lines = logged("warn,ringway::io=trace", LogFormat::Human, || {
            tracing::trace!(target: "ringway::io", "seen");
            tracing::info!(target: "ringway::run", "unseen");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("seen"));
    }

    #[test]
    fn what_is_logged_changes_while_it_logs_in_both_formats() {
        for format in [LogFormat::Human, LogFormat::Json] {
            let lines = logged_with("info", format, false, |set| {
                tracing::debug!("before");
                set(EnvFilter::new("debug")).expect("a filter");
                tracing::debug!("between");
                set(EnvFilter::new("off")).expect("a filter");
                tracing::error!("after");
            });
            let [line] = &lines[..] else { panic!("{lines:?}") };
            assert!(line.contains("between"), "{line}");
        }
    }

    #[test]
    fn notices_are_logged_by_their_weight() {
        let lines = logged("warn", LogFormat::Human, || {
            log_notices(&[
                Notice::Warning("open".to_owned()),
                Notice::Derived("worked out".to_owned()),
            ]);
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains("WARN") && line.ends_with("open"), "{line}");
    }
}
