//! What one shard times: HdrHistograms, each from 1 µs to 60 s with 3 digits, in nanoseconds. The owner records by a plain write.

use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

use super::MessageKind;

/// The longest time that is told apart, nanoseconds; what is longer counts as this.
const TIME_MAX_NS: u64 = 60_000_000_000;

/// What a histogram holds the times of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timed {
    /// Time in the server of one kind of message: from when it was received to after the send of what came of it.
    InServer(MessageKind),
    /// From an INVITE that begins a call to the first 180 or 183 that goes back: the post-dial delay.
    Ringing,
    /// From an INVITE that begins a call to the 2xx that goes back: the answer delay.
    Answer,
    /// The life of a transaction, its waits for what may be repeated included.
    Transaction,
    /// A turn of the loop: from its end of waiting to after its sends.
    Turn,
    /// How long a message waited in the mailbox from another shard.
    Mailbox,
}

/// Those that are not times in the server, in the order of their places.
const OTHERS: [Timed; 5] = [
    Timed::Ringing,
    Timed::Answer,
    Timed::Transaction,
    Timed::Turn,
    Timed::Mailbox,
];

impl Timed {
    pub fn all() -> impl Iterator<Item = Timed> {
        let in_server = MessageKind::ALL.iter().map(|&kind| Timed::InServer(kind));
        in_server.chain(OTHERS)
    }

    /// The name as metrics, files and the command line show it: `INVITE` for the time in the server, `ringing` and so on.
    pub const fn text(self) -> &'static str {
        match self {
            Timed::InServer(kind) => kind.text(),
            Timed::Ringing => "ringing",
            Timed::Answer => "answer",
            Timed::Transaction => "transaction",
            Timed::Turn => "turn",
            Timed::Mailbox => "mailbox",
        }
    }

    /// What [`Timed::text`] names, in any case of letters.
    pub fn parse(text: &str) -> Option<Timed> {
        Timed::all().find(|timed| timed.text().eq_ignore_ascii_case(text))
    }

    const fn index(self) -> usize {
        match self {
            Timed::InServer(kind) => kind as usize,
            Timed::Ringing => MessageKind::COUNT,
            Timed::Answer => MessageKind::COUNT + 1,
            Timed::Transaction => MessageKind::COUNT + 2,
            Timed::Turn => MessageKind::COUNT + 3,
            Timed::Mailbox => MessageKind::COUNT + 4,
        }
    }
}

/// One histogram for each [`Timed`]. `u32` counts are what a shard records in for an interval, `u64` counts what sums are
/// kept in.
#[derive(Clone, Debug)]
pub struct Histograms<C: Counter = u32> {
    each: Vec<Histogram<C>>,
}

impl<C: Counter> Default for Histograms<C> {
    fn default() -> Self {
        let new = |_| Histogram::new_with_max(TIME_MAX_NS, 3).expect("the bounds are right");
        Histograms {
            each: Timed::all().map(new).collect(),
        }
    }
}

impl<C: Counter> Histograms<C> {
    pub fn record(&mut self, timed: Timed, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(TIME_MAX_NS);
        self.each[timed.index()].saturating_record(ns);
    }

    pub fn get(&self, timed: Timed) -> &Histogram<C> {
        &self.each[timed.index()]
    }

    /// Takes everything out.
    pub fn reset(&mut self) {
        self.each
            .iter_mut()
            .filter(|one| !one.is_empty())
            .for_each(Histogram::reset);
    }
}

impl Histograms<u64> {
    /// Adds what was recorded elsewhere.
    pub fn add<C: Counter>(&mut self, recorded: &Histograms<C>) {
        for (sum, one) in self.each.iter_mut().zip(&recorded.each) {
            for bucket in one.iter_recorded() {
                // The same bounds: every value of one fits the other.
                sum.saturating_record_n(bucket.value_iterated_to(), bucket.count_at_value().as_u64());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_and_a_name_of_its_own() {
        for (index, timed) in Timed::all().enumerate() {
            assert_eq!(timed.index(), index);
            assert_eq!(Timed::parse(&timed.text().to_ascii_lowercase()), Some(timed));
        }
    }

    #[test]
    fn times_are_told_apart_to_three_digits_and_sums_hold_them_all() {
        let mut shard = Histograms::<u32>::default();
        let timed = Timed::InServer(MessageKind::Invite);
        for (ns, times) in [(1_000, 3), (1_001, 2), (59_900_000_000, 1), (200_000_000_000, 1)] {
            for _ in 0..times {
                shard.record(timed, Duration::from_nanos(ns));
            }
        }
        let mut sum = Histograms::<u64>::default();
        sum.add(&shard);
        sum.add(&shard);
        let sum = sum.get(timed);
        assert_eq!(sum.len(), 14);
        assert_eq!((sum.count_at(1_000), sum.count_at(1_001)), (6, 4));
        assert!(sum.max().abs_diff(TIME_MAX_NS) <= TIME_MAX_NS / 1_000);
        assert!(sum.value_at_quantile(0.8).abs_diff(59_900_000_000) < 59_900_000);
        shard.reset();
        assert!(shard.get(timed).is_empty());
        assert!(shard.get(Timed::InServer(MessageKind::Ack)).is_empty());
    }
}
