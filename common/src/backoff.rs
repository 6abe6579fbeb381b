//! Exponential backoff: how long to wait before the next try.

use std::time::Duration;

/// The bounds of a backoff, checked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BackoffPolicy {
    min: Duration,
    max: Duration,
    jitter: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BackoffError {
    #[error("the first wait must be above zero")]
    Zero,
    #[error("the first wait ({min:?}) is above the longest ({max:?})")]
    MinAboveMax { min: Duration, max: Duration },
    #[error("jitter is a share from 0 to 1, not {0}")]
    Jitter(f64),
}

impl BackoffPolicy {
    /// Waits start at `min` and double up to `max`. `jitter` is the share of a wait that is left to chance, so that
    /// many who failed together do not try again together: a wait of `d` lasts from `d * (1 - jitter)` to `d`.
    pub fn new(min: Duration, max: Duration, jitter: f64) -> Result<Self, BackoffError> {
        if min.is_zero() {
            return Err(BackoffError::Zero);
        }
        if min > max {
            return Err(BackoffError::MinAboveMax { min, max });
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(BackoffError::Jitter(jitter));
        }
        Ok(Self { min, max, jitter })
    }

    /// Starts at the shortest wait. The same seed gives the same waits.
    pub fn start(self, seed: u64) -> Backoff {
        Backoff { policy: self, attempts: 0, random: seed }
    }
}

/// The state of one backoff.
#[derive(Clone, PartialEq, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempts: u32,
    random: u64,
}

impl Backoff {
    /// The wait before the next try; each is twice as long as the one before, up to the bound.
    pub fn next_wait(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let wait = self.policy.min.saturating_mul(factor).min(self.policy.max);
        self.attempts = self.attempts.saturating_add(1);
        wait.mul_f64(1.0 - self.policy.jitter * self.unit())
    }

    /// After a success: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Waits taken since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// A number from 0 to 1, by SplitMix64 (Steele, Lea and Flood 2014). Chance here only has to spread, not to hide.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_double_up_to_the_bound_and_start_over() {
        let mut backoff = BackoffPolicy::new(ms(100), ms(1_000), 0.0).unwrap().start(1);
        let waits: Vec<_> = (0..6).map(|_| backoff.next_wait()).collect();
        assert_eq!(waits, [ms(100), ms(200), ms(400), ms(800), ms(1_000), ms(1_000)]);
        backoff.reset();
        assert_eq!(backoff.next_wait(), ms(100));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(BackoffPolicy::new(ms(0), ms(1), 0.0), Err(BackoffError::Zero));
        let above = BackoffError::MinAboveMax { min: ms(2), max: ms(1) };
        assert_eq!(BackoffPolicy::new(ms(2), ms(1), 0.0), Err(above));
        assert_eq!(BackoffPolicy::new(ms(1), ms(1), 1.5), Err(BackoffError::Jitter(1.5)));
        assert!(matches!(BackoffPolicy::new(ms(1), ms(1), f64::NAN), Err(BackoffError::Jitter(_))));
    }

    #[test]
    fn the_seed_decides_the_jitter() {
        let policy = BackoffPolicy::new(ms(100), ms(10_000), 0.5).unwrap();
        let waits = |seed| {
            let mut backoff = policy.start(seed);
            (0..8).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds(
            min in 1_u64..10_000, more in 0_u64..100_000, jitter in 0.0..=1.0, seed: u64, tries in 1_usize..80,
        ) {
            let (min, max) = (ms(min), ms(min + more));
            let mut backoff = BackoffPolicy::new(min, max, jitter).unwrap().start(seed);
            for attempt in 0..tries {
                let full = min.saturating_mul(1 << attempt.min(31)).min(max);
                let wait = backoff.next_wait();
                prop_assert!(wait <= full + Duration::from_micros(1));
                prop_assert!(wait + Duration::from_micros(1) >= full.mul_f64(1.0 - jitter));
            }
        }
    }
}
