//! Interval histograms in files: the text format of HdrHistogram's log, version 1.3 with V2 compressed histograms, as its
//! public readers and plotters take it. One line for each histogram of an interval that is not empty, tagged by its name; values
//! are nanoseconds, shown in milliseconds in the column of maxima as the format has it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use tokio_uring::fs::{File, OpenOptions};

use crate::metrics::{Histograms, Timed};
use crate::time::{DateShift, Instant};

/// Nanoseconds in the unit of the column of maxima.
const MAX_UNIT_NS: f64 = 1_000_000.0;
const PREFIX: &str = "ringway-";
const SUFFIX: &str = ".hlog";

/// Files in one directory, each begun at the second that its name says. When the last one is old enough the next is begun, and
/// when there are too many the oldest is removed.
pub struct HlogFiles {
    directory: PathBuf,
    rotate_after: Duration,
    files_max: usize,
    serializer: V2DeflateSerializer,
    current: Option<Current>,
    /// The second in the name of the last file.
    last_begun: u64,
    /// A failure was told, and nothing was written since.
    is_failing: bool,
}

struct Current {
    file: File,
    len: u64,
    begun: Instant,
}

impl HlogFiles {
    /// Begins the first file.
    ///
    /// # Errors
    /// The directory can't be made, or no file in it.
    pub async fn open(
        directory: &Path,
        rotate_after: Duration,
        files_max: usize,
        now: Instant,
        dates: DateShift,
    ) -> io::Result<HlogFiles> {
        let mut files = HlogFiles {
            directory: directory.to_owned(),
            rotate_after,
            files_max,
            serializer: V2DeflateSerializer::new(),
            current: None,
            last_begun: 0,
            is_failing: false,
        };
        files.begin(now, dates).await?;
        Ok(files)
    }

    /// Writes the interval from `begun` to `now`. A disk that is full is told in the log, once, and the interval is lost.
    pub async fn write(
        &mut self,
        interval: &Histograms<u64>,
        begun: Instant,
        now: Instant,
        dates: DateShift,
    ) {
        let text = lines(interval, dates.date(begun), dates.date(now), &mut self.serializer);
        match self.append(text, now, dates).await {
            Ok(()) if self.is_failing => {
                tracing::info!(directory = %self.directory.display(), "histograms are written again");
                self.is_failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                if !self.is_failing {
                    tracing::error!(directory = %self.directory.display(), %error, "histograms can't be written");
                }
                self.is_failing = true;
                // What was written of a line must not stand before another.
                self.current = None;
            }
        }
    }

    async fn append(&mut self, text: String, now: Instant, dates: DateShift) -> io::Result<()> {
        let is_old = |current: &Current| now.since(current.begun) >= self.rotate_after;
        if self.current.as_ref().is_none_or(is_old) {
            self.begin(now, dates).await?;
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let len = text.len() as u64;
        let (written, _) = current.file.write_all_at(text.into_bytes(), current.len).await;
        written?;
        current.len += len;
        Ok(())
    }

    async fn begin(&mut self, now: Instant, dates: DateShift) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        if let Some(last) = self.current.take() {
            last.file.close().await?;
        }
        let date = dates.date(now);
        // The last file has the highest number, also when the date was set back: the lowest are removed first.
        let seconds = date.unix_secs().max(self.last_begun + 1);
        self.last_begun = seconds;
        let path = self.directory.join(format!("{PREFIX}{seconds}{SUFFIX}"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .await?;
        let head = head(date);
        let len = head.len() as u64;
        let (written, _) = file.write_all_at(head.into_bytes(), 0).await;
        written?;
        self.current = Some(Current {
            file,
            len,
            begun: now,
        });
        self.remove_old()
    }

    fn remove_old(&self) -> io::Result<()> {
        let mut begun: Vec<u64> = fs::read_dir(&self.directory)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                let name = name.to_str()?;
                name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
            })
            .collect();
        begun.sort_unstable();
        let too_many = begun.len().saturating_sub(self.files_max);
        for seconds in &begun[..too_many] {
            fs::remove_file(self.directory.join(format!("{PREFIX}{seconds}{SUFFIX}")))?;
        }
        Ok(())
    }
}

/// Seconds since the Unix epoch.
fn unix(time: Instant) -> f64 {
    time.as_millis() as f64 / 1_000.0
}

/// Times of lines count from the base time: the Unix epoch, so that files can be laid side by side.
fn head(now: Instant) -> String {
    format!(
        "#[Written by ringway {}; values are nanoseconds]\n\
         #[Histogram log format version 1.3]\n\
         #[BaseTime: 0.000 (seconds since epoch)]\n\
         #[StartTime: {:.3} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        env!("CARGO_PKG_VERSION"),
        unix(now),
    )
}

/// A whole log of one histogram, of what was timed from `begun` to `now`.
pub fn whole(timed: Timed, histogram: &Histogram<u64>, begun: Instant, now: Instant) -> String {
    let mut text = head(begun);
    put_line(
        &mut text,
        timed,
        histogram,
        begun,
        now,
        &mut V2DeflateSerializer::new(),
    );
    text
}

/// The lines of the interval from `begun` to `now`.
fn lines(
    interval: &Histograms<u64>,
    begun: Instant,
    now: Instant,
    serializer: &mut V2DeflateSerializer,
) -> String {
    let mut text = String::new();
    for timed in Timed::all() {
        let histogram = interval.get(timed);
        if !histogram.is_empty() {
            put_line(&mut text, timed, histogram, begun, now, serializer);
        }
    }
    text
}

fn put_line(
    text: &mut String,
    timed: Timed,
    histogram: &Histogram<u64>,
    begun: Instant,
    now: Instant,
    serializer: &mut V2DeflateSerializer,
) {
    let mut bytes = Vec::new();
    if let Err(error) = serializer.serialize(histogram, &mut bytes) {
        tracing::error!(?error, tag = timed.text(), "a histogram can't be encoded");
        return;
    }
    let _ = write!(
        text,
        "Tag={},{:.3},{:.3},{:.3},",
        timed.text(),
        unix(begun),
        now.since(begun).as_secs_f64(),
        histogram.max() as f64 / MAX_UNIT_NS,
    );
    BASE64_STANDARD.encode_string(&bytes, text);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use crate::metrics::MessageKind;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(1_800_000_000_000 + seconds * 1_000)
    }

    fn interval() -> Histograms<u64> {
        let mut interval = Histograms::default();
        interval.record(Timed::Ringing, Duration::from_millis(250));
        for us in 1..=1_000 {
            interval.record(Timed::InServer(MessageKind::Invite), Duration::from_micros(us));
        }
        interval
    }

    /// The tag and the histogram of every line.
    fn read_back(bytes: &[u8]) -> Vec<(String, Histogram<u64>)> {
        IntervalLogIterator::new(bytes)
            .filter_map(|entry| match entry.expect("a line of the format") {
                LogEntry::Interval(line) => Some(line),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .map(|line| {
                let bytes = BASE64_STANDARD.decode(line.encoded_histogram()).expect("base 64");
                let histogram = Deserializer::new()
                    .deserialize(&mut &bytes[..])
                    .expect("a histogram");
                (line.tag().expect("a tag").as_str().to_owned(), histogram)
            })
            .collect()
    }

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn an_interval_is_read_back_as_it_was_recorded_a_histogram_a_tag() {
        let directory = directory("hlog");
        tokio_uring::start(async {
            let mut files = HlogFiles::open(
                &directory,
                Duration::from_secs(3_600),
                3,
                at(0),
                DateShift::default(),
            )
            .await
            .expect("a file");
            files
                .write(&interval(), at(0), at(10), DateShift::default())
                .await;
            files
                .write(&Histograms::default(), at(10), at(20), DateShift::default())
                .await;
            files
                .write(&interval(), at(0), at(10), DateShift::default())
                .await;
        });
        let names: Vec<_> = fs::read_dir(&directory).expect("it was made").collect();
        assert_eq!(names.len(), 1);
        let bytes = fs::read(names[0].as_ref().expect("an entry").path()).expect("a file");
        let read = read_back(&bytes);
        let tags: Vec<&str> = read.iter().map(|(tag, _)| &**tag).collect();
        assert_eq!(tags, ["INVITE", "ringing", "INVITE", "ringing"]);
        assert_eq!(read[0].1, *interval().get(Timed::InServer(MessageKind::Invite)));
        fs::remove_dir_all(&directory).expect("to be removed");
    }

    #[test]
    fn files_that_are_too_old_are_removed_and_others_are_left_alone() {
        let directory = directory("hlog-rotated");
        fs::create_dir_all(&directory).expect("a directory");
        for name in [
            "ringway-1.hlog",
            "ringway-20.hlog",
            "ringway-3.hlog",
            "other-1.hlog",
        ] {
            fs::write(directory.join(name), "").expect("a file");
        }
        tokio_uring::start(async {
            let mut files = HlogFiles::open(&directory, Duration::ZERO, 2, at(0), DateShift::default())
                .await
                .expect("a file");
            files.write(&interval(), at(0), at(1), DateShift::default()).await;
        });
        let mut left: Vec<String> = fs::read_dir(&directory)
            .expect("it is there")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert_eq!(left.len(), 3, "{left:?}");
        assert_eq!(left[0], "other-1.hlog");
        assert!(!left.contains(&"ringway-1.hlog".to_owned()) && !left.contains(&"ringway-3.hlog".to_owned()));
        fs::remove_dir_all(&directory).expect("to be removed");
    }

    #[test]
    fn a_date_that_is_set_back_or_forward_is_followed_and_no_file_is_written_over() {
        let directory = directory("hlog-dates");
        let hour = 3_600_000_000_000;
        tokio_uring::start(async {
            let mut files = HlogFiles::open(
                &directory,
                Duration::from_secs(10),
                9,
                at(0),
                DateShift::default(),
            )
            .await
            .expect("a file");
            for (ends, nanos) in [(10, -hour), (15, -hour), (20, hour)] {
                let dates = DateShift::from_nanos(nanos);
                files.write(&interval(), at(ends - 5), at(ends), dates).await;
            }
        });
        let mut all: Vec<(String, String)> = fs::read_dir(&directory)
            .expect("it is there")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).expect("text");
                (entry.file_name().into_string().expect("text"), text)
            })
            .collect();
        all.sort();
        let names: Vec<&str> = all.iter().map(|(name, _)| &**name).collect();
        let [first, second, third] =
            ["1800000000", "1800000001", "1800003620"].map(|s| format!("ringway-{s}.hlog"));
        assert_eq!(names, [&*first, &*second, &*third]);
        let begins =
            |text: &str, second: &str| text.lines().any(|line| line.contains(&format!(",{second}.000,")));
        assert!(
            begins(&all[1].1, "1799996405") && begins(&all[1].1, "1799996410"),
            "{}",
            all[1].1
        );
        assert!(begins(&all[2].1, "1800003615"), "{}", all[2].1);
        fs::remove_dir_all(&directory).expect("to be removed");
    }

    #[test]
    fn a_directory_that_goes_away_is_made_again_and_one_that_cant_be_made_is_an_error() {
        let directory = directory("hlog-lost");
        tokio_uring::start(async {
            let mut files = HlogFiles::open(&directory, Duration::ZERO, 2, at(0), DateShift::default())
                .await
                .expect("a file");
            fs::remove_dir_all(&directory).expect("to be removed");
            fs::write(&directory, "in the way").expect("a file");
            files.write(&interval(), at(0), at(1), DateShift::default()).await;
            assert!(files.is_failing);
            assert!(
                HlogFiles::open(&directory, Duration::ZERO, 2, at(0), DateShift::default())
                    .await
                    .is_err()
            );
            fs::remove_file(&directory).expect("to be removed");
            files.write(&interval(), at(0), at(1), DateShift::default()).await;
            assert!(!files.is_failing);
        });
        fs::remove_dir_all(&directory).expect("to be removed");
    }
}
