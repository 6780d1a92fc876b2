//! RFC 7339 toward a destination: how much less it wants to be sent, as its responses say in our Via.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::msg::lex;
use crate::msg::params::Params;
use crate::msg::via::Via;
use crate::time::Instant;

/// §5.2: how long a value holds whose response does not say it.
const VALIDITY_DEFAULT: Duration = Duration::from_millis(500);
/// Longest validity that is believed: one wrong value must not close a trunk for good.
const VALIDITY_MAX: Duration = Duration::from_secs(60);
/// How far a number may fall behind and still be a response that came late (§4.4); further is a server that began anew.
const SEQ_BEHIND_MAX: u64 = 60_000;

/// What is offered in the Via of a request: §5.1.
pub const OFFER: &[u8] = b";oc;oc-algo=\"loss\"";

/// What a response says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feedback {
    /// Percent of the requests that are not to be sent.
    pub loss: u8,
    pub validity: Duration,
    /// Thousandths of what `oc-seq` says.
    pub seq: u64,
}

impl Feedback {
    /// The parameters in the topmost Via of a response. `None`: there are none, or none that mean anything.
    pub fn of(via: &Via<'_>) -> Option<Feedback> {
        let (mut oc, mut validity, mut seq, mut is_loss) = (None, VALIDITY_DEFAULT, 0, true);
        let mut params = Params::new(via.params);
        while let Ok(Some(param)) = params.step() {
            let value = param.value_or_empty();
            if param.is(b"oc") {
                oc = lex::number(value);
            } else if param.is(b"oc-algo") {
                // §5.1: the server chooses one; only the one that was offered means something.
                is_loss = value
                    .trim_ascii()
                    .trim_matches_quotes()
                    .eq_ignore_ascii_case(b"loss");
            } else if param.is(b"oc-validity") {
                validity = Duration::from_millis(u64::from(lex::number(value)?));
            } else if param.is(b"oc-seq") {
                seq = thousandths(value)?;
            }
        }
        // §4.2: a percentage; without a value it is the client's own offer come back.
        let loss = u8::try_from(oc?).ok().filter(|loss| *loss <= 100 && is_loss)?;
        Some(Feedback {
            loss,
            validity: validity.min(VALIDITY_MAX),
            seq,
        })
    }
}

trait Quoted {
    fn trim_matches_quotes(&self) -> &[u8];
}

impl Quoted for [u8] {
    fn trim_matches_quotes(&self) -> &[u8] {
        self.strip_prefix(b"\"")
            .and_then(|rest| rest.strip_suffix(b"\""))
            .unwrap_or(self)
    }
}

/// §9: digits, and perhaps a point and more of them.
fn thousandths(text: &[u8]) -> Option<u64> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
    let mut thousandths = 0;
    for (place, digit) in fraction.iter().take(3).enumerate() {
        let digit = u64::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        thousandths += digit * [100, 10, 1][place];
    }
    number(whole)?.checked_mul(1_000)?.checked_add(thousandths)
}

/// What is in force toward one destination; any shard may hear of it, all obey it.
#[derive(Debug, Default)]
pub struct Throttle {
    loss: AtomicU32,
    until_ns: AtomicU64,
    seq: AtomicU64,
}

impl Throttle {
    /// §5.4: newer values replace older ones.
    pub fn hear(&self, feedback: Feedback, now: Instant) {
        let seq = self.seq.load(Relaxed);
        let is_late = feedback.seq < seq && seq - feedback.seq < SEQ_BEHIND_MAX;
        // The same number says the same again and changes nothing; zero is what a response without one has.
        if is_late || (feedback.seq == seq && seq != 0) {
            return;
        }
        self.seq.store(feedback.seq, Relaxed);
        self.loss.store(u32::from(feedback.loss), Relaxed);
        self.until_ns.store((now + feedback.validity).as_nanos(), Relaxed);
    }

    /// Percent of the requests that are not to be sent now.
    pub fn loss(&self, now: Instant) -> u32 {
        // §5.7: after its time there is no control.
        if now.as_nanos() >= self.until_ns.load(Relaxed) {
            return 0;
        }
        self.loss.load(Relaxed)
    }

    /// Whether this request may be sent. `drawn`: any number, equally distributed.
    pub fn admits(&self, drawn: u64, now: Instant) -> bool {
        let loss = u64::from(self.loss(now));
        loss == 0 || drawn % 100 >= loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(via: &str) -> Option<Feedback> {
        let via = format!("SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKa{via}");
        Feedback::of(&Via::parse(via.as_bytes()).expect("a Via"))
    }

    #[test]
    fn parameters_are_read_as_the_rfc_has_them() {
        let seen =
            feedback(";oc=20;oc-algo=\"loss\";oc-validity=1000;oc-seq=1282321615.782").expect("feedback");
        assert_eq!((seen.loss, seen.validity), (20, Duration::from_secs(1)));
        assert_eq!(seen.seq, 1_282_321_615_782);
        assert_eq!(
            feedback(";oc=7").map(|seen| seen.validity),
            Some(VALIDITY_DEFAULT)
        );
        for none in [
            "",
            ";oc",
            ";oc=101",
            ";oc=x",
            ";oc=20;oc-algo=\"rate\"",
            ";oc=5;oc-seq=x",
            ";oc=5;oc-validity=-1",
        ] {
            assert_eq!(feedback(none), None, "{none}");
        }
        assert_eq!(
            feedback(";oc=9;oc-validity=99999999").map(|seen| seen.validity),
            Some(VALIDITY_MAX)
        );
    }

    #[test]
    fn a_value_holds_for_its_time_and_newer_ones_replace_it() {
        let throttle = Throttle::default();
        let now = Instant::from_millis(1_000);
        let say = |loss, seq, at| {
            let validity = Duration::from_millis(500);
            throttle.hear(Feedback { loss, validity, seq }, at);
        };
        say(40, 10_000, now);
        assert_eq!(throttle.loss(now), 40);
        say(90, 9_000, now);
        assert_eq!(throttle.loss(now), 40, "a response that came late");
        say(90, 10_000, now + Duration::from_millis(400));
        assert_eq!(
            throttle.loss(now + Duration::from_millis(499)),
            40,
            "the same again"
        );
        assert_eq!(
            throttle.loss(now + Duration::from_millis(500)),
            0,
            "its time is over"
        );
        say(30, 11_000, now);
        assert_eq!(throttle.loss(now), 30);
        say(20, 1, now);
        assert_eq!(throttle.loss(now), 30);
        say(20, 200_000, now);
        say(10, 1, now);
        assert_eq!(throttle.loss(now), 10, "the server began anew");
        let sent = (0..1_000).filter(|drawn| throttle.admits(*drawn, now)).count();
        assert_eq!(sent, 900);
    }
}
