//! One measurement of one system.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// How long something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    /// Of the same work, before it counts.
    pub(crate) warm_up: Duration,
    pub(crate) lasting: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// How long was measured.
    pub(crate) seconds: f64,
    /// Operations that succeeded.
    pub(crate) per_second: f64,
    /// `None`: it was not recorded.
    pub(crate) latency: Option<Latency>,
    /// Operations that did not succeed. Any is one too many, unless the server was asked for more than it can.
    pub(crate) failures: u64,
    /// The words of one of them.
    pub(crate) failure: Option<String>,
}

/// A minute, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// A histogram of microseconds, precise to a thousandth. Longer ones, recorded as saturating, count as the longest.
pub(crate) fn histogram() -> Histogram<u64> {
    // One without bounds would take the first that is longer than a few milliseconds for next to nothing.
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are sound")
}

/// Records a latency.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(us.max(1));
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Latency {
    /// Of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_from_the_histogram() {
        let mut histogram = histogram();
        (1..=1000).for_each(|us| record(&mut histogram, Duration::from_micros(us)));
        let expected = Latency { p50_us: 500, p99_us: 990, p999_us: 999, max_us: 1000 };
        assert_eq!(Latency::of(&histogram), expected);
    }
    /// A histogram that grows by itself does not when it is told to saturate: milliseconds became 2 µs.
    #[test]
    fn long_latencies_are_not_taken_for_short_ones() {
        for us in [5_000, 1_000_000, 59_000_000] {
            let mut histogram = histogram();
            record(&mut histogram, Duration::from_micros(us));
            let p50_us = Latency::of(&histogram).p50_us;
            assert!(p50_us.abs_diff(us) <= us / 500, "{us} became {p50_us}");
        }
        let mut histogram = histogram();
        record(&mut histogram, Duration::from_secs(3600));
        assert!(Latency::of(&histogram).max_us >= LATENCY_MAX_US);
    }
}
