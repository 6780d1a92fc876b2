//! Timers of one thread: buckets of a millisecond, cancelled by being ignored.

use std::mem;

const BUCKETS: u64 = 8192;
const MILLISECOND: u64 = 1_000_000;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer<T> {
    /// Nanoseconds.
    pub at: u64,
    pub what: T,
}

/// Fires a timer up to a millisecond late and never early.
pub struct Wheel<T> {
    buckets: Vec<Vec<Timer<T>>>,
    /// The millisecond up to which all has fired.
    tick: u64,
    spare: Vec<Timer<T>>,
}

impl<T: Copy> Wheel<T> {
    pub fn new(now: u64) -> Wheel<T> {
        Wheel {
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            tick: now / MILLISECOND,
            spare: Vec::new(),
        }
    }

    pub fn set(&mut self, at: u64, what: T) {
        let tick = at
            .div_ceil(MILLISECOND)
            .clamp(self.tick + 1, self.tick + BUCKETS - 1);
        self.buckets[(tick % BUCKETS) as usize].push(Timer { at, what });
    }

    /// Moves what is due to `out`. What lies further ahead than the wheel is long is put back.
    pub fn advance(&mut self, now: u64, out: &mut Vec<Timer<T>>) {
        let until = now / MILLISECOND;
        while self.tick < until {
            self.tick += 1;
            let bucket = &mut self.buckets[(self.tick % BUCKETS) as usize];
            if bucket.is_empty() {
                continue;
            }
            mem::swap(bucket, &mut self.spare);
            let mut due = mem::take(&mut self.spare);
            for timer in due.drain(..) {
                if timer.at <= self.tick * MILLISECOND {
                    out.push(timer)
                } else {
                    self.set(timer.at, timer.what)
                }
            }
            self.spare = due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_and_never_early_even_beyond_the_wheel() {
        let start = 5_000_000_000;
        let mut wheel = Wheel::new(start);
        for what in 0..2000u64 {
            wheel.set(start + what * 17_345_678, what);
        }
        let (mut now, mut fired, mut out) = (start, 0, Vec::new());
        while fired < 2000 {
            now += 700_000;
            wheel.advance(now, &mut out);
            for timer in out.drain(..) {
                assert_eq!(timer.what, fired);
                assert!(timer.at <= now && now - timer.at < 2 * MILLISECOND);
                fired += 1;
            }
        }
        wheel.advance(now + 20_000 * MILLISECOND, &mut out);
        assert!(out.is_empty());
    }
}
