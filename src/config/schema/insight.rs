//! Keys of how the server is seen and asked: histograms, the admin server, call records, copies of messages.

use std::time::Duration;

use crate::config::key::{Key, Kind};
use crate::config::value;

use super::{HOUR_MS, YEAR_S};

pub(super) static KEYS: &[Key] = &[
    Key {
        section: "histograms",
        name: "directory",
        unit: "",
        kind: Kind::Text {
            expected: "a directory",
            get: |s| s.config.histograms.directory.clone(),
            set: |s, text| {
                s.config.histograms.directory = text.to_owned();
                Ok(())
            },
        },
        meaning: "Where the files are written, ringway-SECONDS.hlog each by the Unix time at which it was begun; the directory is made \
                  where it is missing. Empty: nowhere.",
    },
    Key {
        section: "histograms",
        name: "interval_s",
        unit: "seconds",
        kind: seconds!(histograms.interval, 1, 3_600),
        meaning: "The length of an interval: each kind that was timed in it is one line of the file.",
    },
    Key {
        section: "histograms",
        name: "rotate_after_s",
        unit: "seconds",
        kind: seconds!(histograms.rotate_after, 60, YEAR_S),
        meaning: "How long one file is written to before the next is begun.",
    },
    Key {
        section: "histograms",
        name: "files_max",
        unit: "files",
        kind: count!(histograms.files_max, 1, 10_000),
        meaning: "Files that are kept; older ones are removed.",
    },
    Key {
        section: "admin",
        name: "listen",
        unit: "",
        kind: Kind::Text {
            expected: value::ADMIN_LISTEN,
            get: |s| {
                s.config
                    .admin
                    .listen
                    .map_or(String::new(), |addr| addr.to_string())
            },
            set: |s, text| {
                s.config.admin.listen = value::admin_listen(text)?;
                Ok(())
            },
        },
        meaning: "Where the live page, /metrics, /healthz, /readyz and the JSON API under /api/v1/ are served over HTTP. An address that \
                  is not loopback needs a token. That the default is taken is a warning; that another is, an error.",
    },
    Key {
        section: "admin",
        name: "token",
        unit: "",
        kind: Kind::Text {
            expected: value::ADMIN_TOKEN,
            get: |s| s.config.admin.token.clone(),
            set: |s, text| {
                s.config.admin.token = value::admin_token(text)?;
                Ok(())
            },
        },
        meaning: "What whoever asks over HTTP must present as \"Authorization: Bearer TOKEN\". Empty: nobody is asked for it.",
    },
    Key {
        section: "admin",
        name: "socket",
        unit: "",
        kind: Kind::Text {
            expected: value::PATH,
            get: |s| value::path_text(s.config.admin.socket.as_deref()),
            set: |s, text| {
                s.config.admin.socket = value::path(text)?;
                Ok(())
            },
        },
        meaning: "The unix socket that the command line asks: ringway status and others. It is for the user alone who runs the server. \
                  Empty: none.",
    },
    Key {
        section: "admin",
        name: "connections_max",
        unit: "connections",
        kind: count!(admin.connections_max, 1, 4_096),
        meaning: "Connections at a time, over HTTP and over the socket each. When one more comes, one goes that keeps the server waiting, \
                  for a request or for its answer to be taken: the oldest of whoever has most. Whoever watches a trace goes last.",
    },
    Key {
        section: "admin",
        name: "head_timeout_ms",
        unit: "milliseconds",
        kind: millis!(admin.head_timeout, 1, HOUR_MS),
        meaning: "How long a connection may take to send the head of a request; one without a request ends as soon.",
    },
    Key {
        section: "records",
        name: "directory",
        unit: "",
        kind: Kind::Text {
            expected: "a directory, or \"\" for none",
            get: |s| {
                let directory = s.config.records.directory.as_deref();
                directory.map_or_else(String::new, |path| path.display().to_string())
            },
            set: |s, text| {
                s.config.records.directory = (!text.is_empty()).then(|| text.into());
                Ok(())
            },
        },
        meaning: "Where the files are written, calls-SECONDS.jsonl each by the Unix time at which it was begun; the directory is made \
                  where it is missing. Empty: no records are kept.",
    },
    Key {
        section: "records",
        name: "file_bytes_max",
        unit: "bytes",
        kind: count!(records.file_bytes_max, 4_096, 1 << 40),
        meaning: "A file that would grow beyond this is followed by the next.",
    },
    Key {
        section: "records",
        name: "file_age_max_s",
        unit: "seconds",
        kind: seconds!(records.file_age_max, 1, YEAR_S),
        meaning: "A file that has been written to for so long is followed by the next.",
    },
    Key {
        section: "records",
        name: "files_max",
        unit: "files",
        kind: count!(records.files_max, 2, 100_000),
        meaning: "Files that are kept, the one being written included: the oldest goes.",
    },
    Key {
        section: "records",
        name: "waiting_max",
        unit: "records",
        kind: count!(records.waiting_max, 1, 1_000_000),
        meaning: "Records that may wait for the disk. What does not fit is lost and counted; no call ever waits.",
    },
    Key {
        section: "records",
        name: "proxied_calls_max",
        unit: "calls",
        kind: count!(records.proxied_calls_max, 1, 10_000_000),
        meaning: "Calls in progress that a proxy route has forwarded and of which a record is kept; each takes up to 2 KB of the \
                  message buffers. A further one goes on without a record, counted.",
    },
    Key {
        section: "hep",
        name: "collector",
        unit: "",
        kind: Kind::Text {
            expected: value::COLLECTOR,
            get: |s| value::collector_text(s.config.hep.collector),
            set: |s, text| {
                s.config.hep.collector = value::collector(text)?;
                Ok(())
            },
        },
        meaning: "Where the collector listens. What can't be sent at once is dropped and counted.",
    },
    Key {
        section: "hep",
        name: "capture_id",
        unit: "a number",
        kind: count!(hep.capture_id, 0, u32::MAX as u64),
        meaning: "The number by which the collector knows this server.",
    },
    Key {
        section: "hep",
        name: "password",
        unit: "",
        kind: Kind::Text {
            expected: "a text",
            get: |s| s.config.hep.password.clone(),
            set: |s, text| {
                s.config.hep.password = text.to_owned();
                Ok(())
            },
        },
        meaning: "The authentication key that the collector wants. It goes over the wire as it is. Empty: none is sent.",
    },
    Key {
        section: "hep",
        name: "sample_percent",
        unit: "percent",
        kind: count!(hep.sample_percent, 1, 100),
        meaning: "Of the calls, chosen by their Call-ID: all messages of a call are sent, or none.",
    },
];
