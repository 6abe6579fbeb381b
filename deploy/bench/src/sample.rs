//! One measurement of one system.

use hdrhistogram::Histogram;
use serde::Serialize;

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
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=1000).for_each(|us| histogram.record(us).unwrap());
        let expected = Latency { p50_us: 500, p99_us: 990, p999_us: 999, max_us: 1000 };
        assert_eq!(Latency::of(&histogram), expected);
    }
}
