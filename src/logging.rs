//! The log: `tracing` events to standard error, for people by default, as JSON by option.
//!
//! An event is formatted in memory and written with one write, so a line is never torn and costs the thread that logs no
//! more than standard error does. Nothing is logged for each message at info: a busy server is silent.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{self, MakeWriter};

use crate::config::{Config, LogFormat, Notice};

/// Sends every event from now on to standard error, as `config` says.
///
/// # Errors
/// When the process logs already.
pub fn init(config: &Config) -> io::Result<()> {
    // https://no-color.org: any value but the empty one turns colours off.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stderr().is_terminal() && !no_color;
    tracing::subscriber::set_global_default(subscriber(config, colours, io::stderr)?)
        .map_err(io::Error::other)
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
fn subscriber<W>(config: &Config, colours: bool, writer: W) -> io::Result<Box<dyn Subscriber + Send + Sync>>
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
    Ok(match config.log_format {
        LogFormat::Human => Box::new(builder.compact().finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
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
        let config = Config {
            log: log.to_owned(),
            log_format,
            ..Config::default()
        };
        let page = Page::default();
        let writer = page.clone();
        let subscriber = subscriber(&config, false, move || writer.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, events);
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
