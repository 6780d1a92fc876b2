//! The log: `tracing` events to standard error, for people by default, as JSON by option.
//!
//! An event is formatted in memory and written with one write, so a line is never torn and costs the thread that logs no
//! more than standard error does. Nothing is logged for each message at info: a busy server is silent.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_subscriber::fmt::{self, MakeWriter};
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
    let (subscriber, filter) = subscriber(config, colours, io::stderr)?;
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

/// Formats events into `writer`. Times are UTC, RFC 3339.
fn subscriber<W>(
    config: &Config,
    colours: bool,
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
    Ok(match config.log_format {
        LogFormat::Human => {
            let builder = builder.compact().with_filter_reloading();
            let set = setter(builder.reload_handle());
            (Box::new(builder.finish()), set)
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let set = setter(builder.reload_handle());
            (Box::new(builder.finish()), set)
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
        logged_with(log, log_format, |_| events())
    }

    fn logged_with(log: &str, log_format: LogFormat, events: impl FnOnce(&SetFilter)) -> Vec<String> {
        let config = Config {
            log: log.to_owned(),
            log_format,
            ..Config::default()
        };
        let page = Page::default();
        let writer = page.clone();
        let (subscriber, filter) = subscriber(&config, false, move || writer.clone()).expect("a filter");
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
            let lines = logged_with("info", format, |set| {
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
