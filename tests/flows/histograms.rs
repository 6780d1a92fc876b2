//! Interval histograms: what was timed stands in files that HdrHistogram's readers open.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bench_harness::call;
use bench_harness::links::Transport::Udp;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::support::{Setup, registered};

/// Reads an interval log with HdrHistogram's Python package, and prints the count of each tag.
const READER: &str = "
import sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 60_000_000_000, 3))
counts = {}
while (histogram := reader.get_next_interval_histogram()) is not None:
    tag = histogram.get_tag()
    counts[tag] = counts.get(tag, 0) + histogram.get_total_count()
print(*(f'{tag}={count}' for tag, count in sorted(counts.items())))
";

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    directory
}

#[test]
fn a_call_stands_in_the_interval_log_by_its_messages_its_ringing_and_its_answer() {
    let directory = directory("flows-hlog");
    let path = directory.to_str().expect("text").to_owned();
    let setup = Setup::new()
        .key("histograms", "directory", &format!("\"{path}\""))
        .key("histograms", "interval_s", "1");
    registered(setup, |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Udp)?;
        call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        s.server.terminate();
        s.server.wait();
        Ok(())
    });
    let files: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("it was made")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let bytes = fs::read(file).expect("a file");
    let mut tags: Vec<String> = IntervalLogIterator::new(&bytes)
        .filter_map(|entry| match entry.expect("a line of the format") {
            LogEntry::Interval(line) => Some(line.tag().expect("a tag").as_str().to_owned()),
            LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
        })
        .collect();
    tags.sort();
    tags.dedup();
    for tag in ["ACK", "BYE", "INVITE", "REGISTER", "answer", "ringing", "turn"] {
        assert!(tags.iter().any(|known| known == tag), "{tag} in {tags:?}");
    }
    // The public reader is there where `tests/run` has installed it.
    if let Ok(python) = std::env::var("RINGWAY_HDRH_PYTHON") {
        let read = Command::new(python)
            .args(["-c", READER])
            .arg(file)
            .output()
            .expect("Python");
        let (text, told) = (
            String::from_utf8_lossy(&read.stdout),
            String::from_utf8_lossy(&read.stderr),
        );
        assert!(read.status.success(), "{told}");
        for count in ["INVITE=1", "BYE=1", "answer=1", "ringing=1"] {
            assert!(
                text.split_whitespace().any(|one| one == count),
                "{count} in {text}"
            );
        }
    }
    fs::remove_dir_all(&directory).expect("to be removed");
}
