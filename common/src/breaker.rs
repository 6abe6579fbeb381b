//! The circuit breaker: stops asking a worker that does not answer.
//!
//! ```text
//!            N failures in a row, or one "unreachable"
//!   Closed ─────────────────────────────────────────────▶ Open   nothing is sent
//!     ▲                                                  │    ▲
//!     │ success                          wait is over    │    │ failure: the next wait is twice as long
//!     └────────────────────── HalfOpen ◀────────────────┘    │
//!                             one probe under way ────────────┘
//! ```
//!
//! Names as in common usage: *closed* lets requests pass. A failed quorum member costs nothing but its deadline;
//! the breaker saves that deadline for every request after the first few.
//!
//! `now` is the time since any fixed moment; the caller's clock does not go back.

use std::time::Duration;

use crate::backoff::{Backoff, BackoffPolicy};

/// When a breaker opens and how long it stays so.
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// Failures in a row that open it; at least 1.
    pub failures_to_open: u32,
    /// How long it stays open, growing with every failed probe.
    pub backoff: BackoffPolicy,
    /// A probe that has not ended after this long is given up, and another may go.
    pub probe_timeout: Duration,
}

/// What went wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// No answer in time. The worker may be slow only, so it takes several in a row.
    Timeout,
    /// The connection is refused or gone: the next request would fail too.
    Unreachable,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Requests do not pass.
    Open,
    /// The wait is over: a probe is under way, or the next request will be it.
    HalfOpen,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    Probing { until: Duration },
}

/// The breaker of one worker.
#[derive(Clone, Debug)]
pub struct Breaker {
    failures_to_open: u32,
    probe_timeout: Duration,
    backoff: Backoff,
    state: State,
}

impl Breaker {
    /// Closed. `seed` decides the jitter of its waits.
    pub fn new(config: BreakerConfig, seed: u64) -> Self {
        Self {
            failures_to_open: config.failures_to_open.max(1),
            probe_timeout: config.probe_timeout,
            backoff: config.backoff.start(seed),
            state: State::Closed { failures: 0 },
        }
    }

    /// Whether a request may be sent now. Who gets `true` sends it and reports how it ended: after a wait, `true` is
    /// given to one caller, whose request is the probe.
    pub fn allow(&mut self, now: Duration) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } | State::Probing { until } if now < until => false,
            State::Open { .. } | State::Probing { .. } => {
                self.state = State::Probing { until: now.saturating_add(self.probe_timeout) };
                true
            }
        }
    }

    /// A request ended with an answer, be it a refusal. While open, answers of requests sent before are no proof
    /// that the worker keeps up, and are ignored.
    pub fn on_success(&mut self, now: Duration) {
        match self.state {
            State::Open { until } if now < until => {}
            _ => self.reset(),
        }
    }

    pub fn on_failure(&mut self, now: Duration, kind: FailureKind) {
        match self.state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                if kind == FailureKind::Unreachable || failures >= self.failures_to_open {
                    self.open(now);
                } else {
                    self.state = State::Closed { failures };
                }
            }
            State::Probing { .. } => self.open(now),
            // The failures of requests sent before it opened do not prolong the wait.
            State::Open { .. } => {}
        }
    }

    /// Closes it: the worker was reached by other means, such as a new connection.
    pub fn reset(&mut self) {
        self.backoff.reset();
        self.state = State::Closed { failures: 0 };
    }

    pub fn state(&self, now: Duration) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    fn open(&mut self, now: Duration) {
        self.state = State::Open { until: now.saturating_add(self.backoff.next_wait()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Opens after 3, waits 100, 200, 400, 400 ms, without jitter.
    fn breaker() -> Breaker {
        let backoff = BackoffPolicy::new(ms(100), ms(400), 0.0).unwrap();
        Breaker::new(BreakerConfig { failures_to_open: 3, backoff, probe_timeout: ms(500) }, 1)
    }

    fn open_at_zero() -> Breaker {
        let mut breaker = breaker();
        breaker.on_failure(ms(0), FailureKind::Unreachable);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let mut breaker = breaker();
        for _ in 0..2 {
            breaker.on_failure(ms(0), FailureKind::Timeout);
            assert!(breaker.allow(ms(0)));
        }
        breaker.on_failure(ms(0), FailureKind::Timeout);
        assert!(!breaker.allow(ms(99)));
        assert_eq!(breaker.state(ms(99)), BreakerState::Open);
    }

    #[test]
    fn a_success_between_failures_starts_the_count_over() {
        let mut breaker = breaker();
        for _ in 0..10 {
            breaker.on_failure(ms(0), FailureKind::Timeout);
            breaker.on_failure(ms(0), FailureKind::Timeout);
            breaker.on_success(ms(0));
        }
        assert_eq!(breaker.state(ms(0)), BreakerState::Closed);
    }

    #[test]
    fn unreachable_opens_at_once() {
        assert_eq!(open_at_zero().state(ms(0)), BreakerState::Open);
    }

    #[test]
    fn one_probe_passes_and_its_success_closes() {
        let mut breaker = open_at_zero();
        assert_eq!(breaker.state(ms(100)), BreakerState::HalfOpen);
        assert_eq!((0..5).filter(|_| breaker.allow(ms(100))).count(), 1);
        breaker.on_success(ms(101));
        assert_eq!(breaker.state(ms(101)), BreakerState::Closed);
        assert!(breaker.allow(ms(101)) && breaker.allow(ms(101)));
    }

    #[test]
    fn failed_probes_double_the_wait_up_to_the_bound_and_a_success_ends_that() {
        let mut breaker = open_at_zero();
        let mut now = ms(100);
        for wait in [200, 400, 400] {
            assert!(breaker.allow(now));
            breaker.on_failure(now, FailureKind::Timeout);
            assert!(!breaker.allow(now + ms(wait - 1)));
            now += ms(wait);
        }
        assert!(breaker.allow(now));
        breaker.on_success(now);
        breaker.on_failure(now, FailureKind::Unreachable);
        assert!(breaker.allow(now + ms(100)), "the first wait is the shortest again");
    }

    #[test]
    fn a_probe_without_an_end_is_given_up() {
        let mut breaker = open_at_zero();
        assert!(breaker.allow(ms(100)));
        assert!(!breaker.allow(ms(599)));
        assert!(breaker.allow(ms(600)));
        assert!(!breaker.allow(ms(601)));
    }

    #[test]
    fn stragglers_change_nothing_while_it_is_open() {
        let mut breaker = open_at_zero();
        breaker.on_failure(ms(90), FailureKind::Timeout);
        breaker.on_success(ms(95));
        assert_eq!(breaker.state(ms(99)), BreakerState::Open);
        assert!(breaker.allow(ms(100)));
    }

    #[test]
    fn a_new_connection_closes_it() {
        let mut breaker = open_at_zero();
        breaker.reset();
        assert!(breaker.allow(ms(1)));
    }
}
