//! Call records: what shards tell of calls that are over becomes a line of JSON each, in rotated files. Nobody waits for the disk: a
//! bounded number of lines, and of their bytes, may wait for it, and what does not fit is lost and counted.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::config::Records;
use crate::control::rotation::{RotatedFiles, Rotation};
use crate::control::status::Sent;
use crate::io::clock::Clock;
use crate::record::{CallRecord, EndReason, Place, Texts};
use crate::time::Instant;

/// Bytes of lines that may wait. Peers choose most of what stands in a line, and `records.waiting_max` of the longest would be a gigabyte.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Lines that are written at once.
const LINES_PER_WRITE: usize = 512;
/// After a write that failed the next is tried no sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often is said that records are lost, after the first time.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// The end that takes records. When it is dropped, the [`Writer`] writes what it has and ends.
pub struct CallRecords {
    lines: mpsc::Sender<Vec<u8>>,
    /// Of the lines that are not written yet.
    waiting_bytes: Rc<Cell<usize>>,
    counts: Arc<Sent>,
}

/// The end that writes them.
pub struct Writer {
    lines: mpsc::Receiver<Vec<u8>>,
    waiting_bytes: Rc<Cell<usize>>,
    files: RotatedFiles,
    counts: Arc<Sent>,
    clock: Clock,
    told: Told,
}

/// `None` where no records are kept.
///
/// # Errors
/// The directory can't be made, or no file in it.
pub async fn open(cfg: &Records, clock: Clock) -> io::Result<Option<(CallRecords, Writer)>> {
    let Some(directory) = &cfg.directory else {
        return Ok(None);
    };
    let rotation = Rotation {
        directory: directory.clone(),
        prefix: "calls-",
        suffix: ".jsonl",
        bytes_max: cfg.file_bytes_max,
        age_max: cfg.file_age_max,
        files_max: cfg.files_max,
    };
    let files = RotatedFiles::open(rotation, clock.now(), clock.date_shift()).await?;
    let (line_in, line_out) = mpsc::channel(cfg.waiting_max);
    let counts = Arc::new(Sent::default());
    let waiting_bytes = Rc::new(Cell::new(0));
    let records = CallRecords {
        lines: line_in,
        waiting_bytes: Rc::clone(&waiting_bytes),
        counts: Arc::clone(&counts),
    };
    let writer = Writer {
        lines: line_out,
        waiting_bytes,
        files,
        counts,
        clock,
        told: Told::default(),
    };
    Ok(Some((records, writer)))
}

impl CallRecords {
    /// A call is over.
    pub fn take(&self, record: &CallRecord, texts: &[u8]) {
        let line = line(record, texts);
        let waiting = self.waiting_bytes.get() + line.len();
        if waiting <= WAITING_BYTES_MAX && self.lines.try_send(line).is_ok() {
            self.waiting_bytes.set(waiting);
        } else {
            Sent::add(&self.counts.lost, 1);
        }
    }

    pub fn counts(&self) -> Arc<Sent> {
        Arc::clone(&self.counts)
    }
}

impl Writer {
    /// Writes until the other end is dropped.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(LINES_PER_WRITE);
        while self.lines.recv_many(&mut batch, LINES_PER_WRITE).await > 0 {
            let count = batch.len() as u64;
            let lines = batch.concat();
            batch.clear();
            let len = lines.len();
            let (now, dates) = (self.clock.now(), self.clock.date_shift());
            let written = self.files.append(lines, now, dates).await;
            self.waiting_bytes
                .set(self.waiting_bytes.get().saturating_sub(len));
            match written {
                Ok(()) => {
                    Sent::add(&self.counts.sent, count);
                    self.told
                        .works_again(Sent::get(&self.counts.lost), self.clock.now());
                }
                Err(error) => {
                    Sent::add(&self.counts.lost, count);
                    self.told
                        .fails(&error, Sent::get(&self.counts.lost), self.clock.now());
                    if !self.lines.is_closed() {
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
            }
        }
    }
}

/// What was said of a disk that fails.
#[derive(Default)]
struct Told {
    failing_since: Option<Instant>,
    last: Option<Instant>,
    lost: u64,
}

impl Told {
    /// At once, and then at most once a minute.
    fn fails(&mut self, error: &io::Error, lost: u64, now: Instant) {
        self.failing_since.get_or_insert(now);
        if self.last.is_none_or(|last| now.since(last) >= TELL_INTERVAL) {
            self.last = Some(now);
            tracing::error!(%error, lost = lost - self.lost, "call records can't be written; calls go on");
            self.lost = lost;
        }
    }

    fn works_again(&mut self, lost: u64, now: Instant) {
        if let Some(since) = self.failing_since.take() {
            let failed_s = now.since(since).as_secs();
            tracing::info!(
                failed_s,
                lost = lost - self.lost,
                "call records are written again"
            );
        } else if lost > self.lost && self.last.is_none_or(|last| now.since(last) >= TELL_INTERVAL) {
            self.last = Some(now);
            tracing::warn!(
                lost = lost - self.lost,
                "call records are lost: the disk is too slow"
            );
        } else {
            return;
        }
        self.lost = lost;
    }
}

// ---- The line --------------------------------------------------------------------------------------------------------

/// A call as its line has it.
#[derive(Serialize)]
struct Line<'a> {
    began: String,
    rang: Option<String>,
    answered: Option<String>,
    ended: String,
    /// INVITE to the first 18x.
    setup_to_ringing_ms: Option<u32>,
    /// INVITE to its 200.
    setup_to_answer_ms: Option<u32>,
    talk_ms: Option<u64>,
    reason: &'static str,
    status: u16,
    q850_cause: Option<u8>,
    from: Text<'a>,
    to: Text<'a>,
    request_uri: Text<'a>,
    asserted_identity: Option<Text<'a>>,
    preferred_identity: Option<Text<'a>>,
    phones_rung: u16,
    /// What carried the call.
    service: &'static str,
    trunk: Option<Text<'a>>,
    extent: &'static str,
    caller: Leg<'a>,
    callee: Option<Leg<'a>>,
}

#[derive(Serialize)]
struct Leg<'a> {
    call_id: Text<'a>,
    contact: Option<Text<'a>>,
    transport: &'static str,
    peer: SocketAddr,
    media: Option<SocketAddr>,
}

type Text<'a> = std::borrow::Cow<'a, str>;

fn text(bytes: &[u8]) -> Text<'_> {
    String::from_utf8_lossy(bytes)
}

fn known(bytes: &[u8]) -> Option<Text<'_>> {
    (!bytes.is_empty()).then(|| text(bytes))
}

/// One record as a line with its end.
fn line(record: &CallRecord, texts: &[u8]) -> Vec<u8> {
    let texts = Texts::read(record.ends, texts);
    let began = wall(record.began);
    let after = |ms: u32| began + Duration::from_millis(u64::from(ms));
    let leg = |place: Place, call_id, contact, media| Leg {
        call_id: text(call_id),
        contact: known(contact),
        transport: place.transport.name(),
        peer: place.peer,
        media,
    };
    let line = Line {
        began: rfc3339(began),
        rang: record.rang_after_ms.map(|ms| rfc3339(after(ms))),
        answered: record.answered_after_ms.map(|ms| rfc3339(after(ms))),
        ended: rfc3339(wall(record.ended)),
        setup_to_ringing_ms: record.rang_after_ms,
        setup_to_answer_ms: record.answered_after_ms,
        talk_ms: record
            .answered_after_ms
            .filter(|_| is_end_seen(record))
            .map(|ms| {
                let whole_ms = record.ended.since(record.began).as_millis() as u64;
                whole_ms.saturating_sub(u64::from(ms))
            }),
        reason: record.reason.text(),
        status: record.status,
        q850_cause: record.q850.or_else(|| q850_cause(record)),
        from: text(texts.from),
        to: text(texts.to),
        request_uri: text(texts.request_uri),
        asserted_identity: known(texts.asserted_identity),
        preferred_identity: known(texts.preferred_identity),
        phones_rung: record.rung,
        service: if record.is_proxied { "proxy" } else { "phone" },
        trunk: known(texts.trunk),
        extent: record.extent.text(),
        caller: leg(
            record.caller,
            texts.caller_call_id,
            texts.caller_contact,
            record.caller_media,
        ),
        callee: record.callee.map(|place| {
            leg(
                place,
                texts.callee_call_id,
                texts.callee_contact,
                record.callee_media,
            )
        }),
    };
    let mut line = serde_json::to_vec(&line).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Whether it is known how long was talked.
fn is_end_seen(record: &CallRecord) -> bool {
    !matches!(record.reason, EndReason::Answered | EndReason::NotSeen)
}

/// What comes from [`Ports`](super::ports::Ports) is dated already.
fn wall(at: Instant) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(at.as_nanos())
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The Q.850 cause that a gateway would say, where nobody has given one. `None`: there is no mapping.
fn q850_cause(record: &CallRecord) -> Option<u8> {
    match record.reason {
        // RFC 3398 §8.2.6: BYE and CANCEL are 16, normal clearing.
        EndReason::CallerHungUp | EndReason::CalleeHungUp | EndReason::Cancelled => Some(16),
        EndReason::Rejected
        | EndReason::Refused
        | EndReason::NoAnswer
        | EndReason::TimerC
        | EndReason::Unreachable
        | EndReason::NoAck
        | EndReason::DurationLimit
        | EndReason::NotRefreshed
        | EndReason::Limit
        | EndReason::Crossed
        | EndReason::Shutdown
        | EndReason::Answered
        | EndReason::NotSeen
        | EndReason::Operator => q850_of_status(record.status),
    }
}

/// RFC 3398 §8.2.6.1.
fn q850_of_status(status: u16) -> Option<u8> {
    Some(match status {
        400 | 481 | 500 | 503 => 41,
        401 | 402 | 403 | 407 | 603 => 21,
        404 | 485 | 604 => 1,
        405 => 63,
        406 | 415 | 501 => 79,
        408 | 504 => 102,
        410 => 22,
        413 | 414 | 416 | 420 | 421 | 423 | 505 | 513 => 127,
        480 => 18,
        482 | 483 => 25,
        484 => 28,
        486 | 600 => 17,
        // By the Warning header, and 31 by default.
        488 | 606 => 31,
        502 => 38,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rotation::tests::{directory, texts};
    use crate::record::{Ends, Extent};
    use crate::wire::Transport;

    fn record(ends: Ends) -> CallRecord {
        CallRecord {
            began: Instant::from_millis(1_800_000_000_123),
            rang_after_ms: Some(100),
            answered_after_ms: Some(2_100),
            ended: Instant::from_millis(1_800_000_062_223),
            reason: EndReason::CalleeHungUp,
            status: 200,
            q850: None,
            rung: 1,
            extent: Extent::WholeCall,
            is_proxied: false,
            caller: Place {
                transport: Transport::Tcp,
                peer: ([127, 0, 0, 2], 5062).into(),
            },
            callee: None,
            caller_media: Some(([127, 0, 0, 2], 6000).into()),
            callee_media: None,
            ends,
        }
    }

    #[test]
    fn a_record_is_one_line_of_json_whatever_a_peer_has_sent() {
        let mut room = [0; 256];
        let ends = Texts {
            from: b"\"A \\\" \xff\n\" <sip:a@one.att.net>;tag=1",
            caller_call_id: b"c1",
            ..Texts::default()
        }
        .put(&mut room);
        let line = line(&record(ends), &room);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let json: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(json["began"], "2027-01-15T08:00:00.123Z");
        assert_eq!(json["answered"], "2027-01-15T08:00:02.223Z");
        assert_eq!(json["ended"], "2027-01-15T08:01:02.223Z");
        assert_eq!(json["talk_ms"], 60_000);
        assert_eq!(json["from"], "\"A \\\" \u{fffd}\n\" <sip:a@one.att.net>;tag=1");
        assert_eq!(json["reason"], "callee_hung_up");
        assert_eq!(json["q850_cause"], 16);
        assert_eq!(json["caller"]["peer"], "127.0.0.2:5062");
        assert_eq!(json["caller"]["media"], "127.0.0.2:6000");
        assert!(json["callee"].is_null() && json["asserted_identity"].is_null());
    }

    #[test]
    fn causes_are_those_of_rfc_3398_where_nobody_gave_one() {
        let cause = |reason, status, q850| {
            let record = CallRecord {
                reason,
                status,
                q850,
                ..record(Ends::default())
            };
            let json: serde_json::Value = serde_json::from_slice(&line(&record, b"")).expect("JSON");
            json["q850_cause"].as_u64()
        };
        assert_eq!(cause(EndReason::Rejected, 486, None), Some(17));
        assert_eq!(cause(EndReason::Rejected, 486, Some(21)), Some(21));
        assert_eq!(cause(EndReason::Cancelled, 487, None), Some(16));
        assert_eq!(cause(EndReason::NoAnswer, 408, None), Some(102));
        assert_eq!(cause(EndReason::Operator, 200, None), None);
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_is_counted_and_all_that_waits_is_written_at_the_end() {
        let directory = directory("records");
        let cfg = Records {
            directory: Some(directory.clone()),
            waiting_max: 3,
            ..crate::config::Config::default().records
        };
        tokio_uring::start(async {
            let (records, writer) = open(&cfg, Clock::start())
                .await
                .expect("a file")
                .expect("a directory");
            for _ in 0..5 {
                records.take(&record(Ends::default()), b"");
            }
            assert_eq!(Sent::get(&records.counts().lost), 2);
            let counts = records.counts();
            drop(records);
            writer.run().await;
            assert_eq!((Sent::get(&counts.sent), Sent::get(&counts.lost)), (3, 2));
        });
        let texts = texts(&directory);
        assert_eq!(texts.iter().map(|text| text.lines().count()).sum::<usize>(), 3);
        std::fs::remove_dir_all(&directory).expect("to be removed");
    }

    #[test]
    fn long_lines_wait_no_further_than_there_is_room_for_and_go_on_when_it_is_there_again() {
        let directory = directory("records-long");
        let cfg = Records {
            directory: Some(directory.clone()),
            ..crate::config::Config::default().records
        };
        let mut room = vec![0; 16_384];
        let ends = Texts {
            from: &[1; 16_000],
            ..Texts::default()
        }
        .put(&mut room);
        let record = record(ends);
        tokio_uring::start(async {
            let (records, writer) = open(&cfg, Clock::start())
                .await
                .expect("a file")
                .expect("a directory");
            let counts = records.counts();
            (0..1_000).for_each(|_| records.take(&record, &room));
            let lost = Sent::get(&counts.lost);
            let waiting = (1_000 - lost) as usize * line(&record, &room).len();
            assert!(
                (1..500).contains(&lost) && waiting <= WAITING_BYTES_MAX,
                "{lost} of 1,000"
            );
            let writing = tokio_uring::spawn(writer.run());
            while Sent::get(&counts.sent) + lost < 1_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            records.take(&record, &room);
            assert_eq!(Sent::get(&counts.lost), lost, "there is room again");
            drop(records);
            writing.await.expect("it writes to the end");
        });
        std::fs::remove_dir_all(&directory).expect("to be removed");
    }
}
