//! What upstream servers are told to leave out: RFC 7339, the loss-based scheme, for those who say that they obey it.
//!
//! The door refuses what is too much for the shard; this tells the others how much that is, so that they keep it to themselves.
//! Whoever obeys sends less already, so what they would send is worked out first: with `x` from those who obey a loss of `l`,
//! and `y` from the others, `x / (1 - l) + y` is wanted, and what the door admits is what can be had of it. All are so cut by the
//! same part, the others by the door.
//!
//! A pure controller, as [`overload`](super::overload) is.

use std::time::Duration;

use crate::msg::build::Load;
use crate::time::Instant;

/// Another value is worked out so often: much longer than it takes until those who are told send less.
const PERIOD: Duration = Duration::from_millis(200);
/// RFC 7339 §4.3: a value holds so long, unless another one comes.
const VALIDITY_MS: u32 = 500;
/// How far a period goes toward the value that it finds right.
const GAIN: f64 = 0.5;
/// Something always gets in.
const LOSS_MAX: f64 = 0.95;
/// Less is nothing.
const LOSS_MIN: f64 = 0.005;

/// What one shard tells.
#[derive(Debug)]
pub struct Feedback {
    is_enabled: bool,
    /// Share of their requests that those who obey are to leave out.
    loss: f64,
    seq_ms: u64,
    period: Period,
}

/// New requests of a period, by their cost.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    began: Instant,
    from_obeying: f64,
    from_others: f64,
    admitted: f64,
}

impl Feedback {
    pub fn new(is_enabled: bool, now: Instant) -> Feedback {
        Feedback {
            is_enabled,
            loss: 0.0,
            seq_ms: now.as_millis(),
            period: Period {
                began: now,
                ..Period::default()
            },
        }
    }

    pub fn configure(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
    }

    /// A new request has come to the door. `obeys`: so does who sent it.
    pub fn offered(&mut self, cost: f64, obeys: bool, is_admitted: bool) {
        let from = if obeys {
            &mut self.period.from_obeying
        } else {
            &mut self.period.from_others
        };
        *from += cost;
        if is_admitted {
            self.period.admitted += cost;
        }
    }

    /// Time goes by. `rate`: what the door admits a second; `None`: everything. `true`: another value is told from now on.
    pub fn tick(&mut self, rate: Option<f64>, now: Instant) -> bool {
        let lasted = now.since(self.period.began);
        if lasted < PERIOD {
            return false;
        }
        let over = std::mem::replace(
            &mut self.period,
            Period {
                began: now,
                ..Period::default()
            },
        );
        let wanted = over.from_obeying / (1.0 - self.loss) + over.from_others;
        let right = match rate {
            Some(rate) if wanted > 0.0 => {
                let can_be_had = over.admitted.max(rate * lasted.as_secs_f64());
                (1.0 - can_be_had / wanted).clamp(0.0, LOSS_MAX)
            }
            Some(_) | None => 0.0,
        };
        let before = self.loss;
        self.loss += GAIN * (right - self.loss);
        if self.loss < LOSS_MIN {
            self.loss = 0.0;
        }
        // §4.4: each value has a number of its own; the same number would not make it hold any longer.
        let is_new = self.loss > 0.0 || before > 0.0;
        if is_new {
            self.seq_ms = now.as_millis();
        }
        is_new
    }

    /// What is told now.
    pub fn load(&self) -> Option<Load> {
        self.is_enabled.then(|| Load {
            loss: (self.loss * 100.0).round() as u8,
            // §5.1, §5.7: nothing is asked for.
            validity_ms: if self.loss > 0.0 { VALIDITY_MS } else { 0 },
            seq_ms: self.seq_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A door that admits 1,000 a second of what comes: from those who obey and from others, each in equal steps.
    struct Model {
        feedback: Feedback,
        now: Instant,
        admitted: f64,
        refused: f64,
    }

    impl Model {
        fn new() -> Model {
            let now = Instant::from_millis(1_000_000);
            Model {
                feedback: Feedback::new(true, now),
                now,
                admitted: 0.0,
                refused: 0.0,
            }
        }

        fn run(&mut self, ms: u64, obeying_per_ms: f64, others_per_ms: f64) {
            (self.admitted, self.refused) = (0.0, 0.0);
            for _ in 0..ms {
                self.now = self.now + Duration::from_millis(1);
                let loss = f64::from(self.feedback.load().expect("it is enabled").loss) / 100.0;
                let came = [obeying_per_ms * (1.0 - loss), others_per_ms];
                let share = (1.0 / (came[0] + came[1])).min(1.0);
                for (came, obeys) in came.into_iter().zip([true, false]) {
                    self.feedback.offered(came * share, obeys, true);
                    self.feedback.offered(came * (1.0 - share), obeys, false);
                    self.admitted += came * share;
                    self.refused += came * (1.0 - share);
                }
                let is_limiting = obeying_per_ms + others_per_ms > 1.0;
                self.feedback.tick(is_limiting.then_some(1_000.0), self.now);
            }
        }

        fn loss(&self) -> u8 {
            self.feedback.load().expect("it is enabled").loss
        }
    }

    #[test]
    fn those_who_obey_keep_to_themselves_what_is_too_much() {
        let mut model = Model::new();
        model.run(1_000, 0.5, 0.0);
        let calm = model.feedback.load().expect("it is enabled");
        assert_eq!((calm.loss, calm.validity_ms), (0, 0));
        model.run(5_000, 2.0, 0.0);
        assert!((45..=55).contains(&model.loss()), "{}", model.loss());
        let pressed = model.feedback.load().expect("it is enabled");
        assert!(pressed.seq_ms > calm.seq_ms && pressed.validity_ms > 0);
        model.run(5_000, 2.0, 0.0);
        // Nearly nothing is left to refuse, and all that can be done is done.
        assert!(model.refused < 0.1 * model.admitted, "{}", model.refused);
        assert!(model.admitted > 4_500.0, "{}", model.admitted);
        model.run(3_000, 0.5, 0.0);
        assert_eq!(model.loss(), 0);
    }

    #[test]
    fn those_who_obey_are_cut_no_more_than_those_who_do_not() {
        let mut model = Model::new();
        model.run(10_000, 1.0, 1.0);
        assert!((40..=60).contains(&model.loss()), "{}", model.loss());
        model.run(10_000, 0.0, 3.0);
        assert!((60..=70).contains(&model.loss()), "{}", model.loss());
    }

    #[test]
    fn less_is_asked_for_as_the_load_falls_while_the_door_still_limits() {
        let mut model = Model::new();
        model.run(5_000, 4.0, 0.0);
        assert!((70..=80).contains(&model.loss()), "{}", model.loss());
        model.run(5_000, 1.25, 0.0);
        assert!((15..=25).contains(&model.loss()), "{}", model.loss());
    }

    #[test]
    fn where_it_is_switched_off_nobody_is_told() {
        assert_eq!(Feedback::new(false, Instant::from_millis(9)).load(), None);
    }
}
