//! LATENCY: spikes over a threshold, and a distribution per command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Samples kept per event, as in Redis.
const SAMPLES_MAX: usize = 160;

/// The worst of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Unix time.
    pub second: i64,
    pub millis: i64,
}

#[derive(Debug, Clone, Default)]
pub struct Series {
    pub samples: VecDeque<Sample>,
    /// Of all time since the last reset.
    pub worst_millis: i64,
}

/// Redis's latency monitor for the events `command` and `fast-command`. Off while the threshold is 0.
#[derive(Default)]
pub struct Monitor {
    threshold_ms: AtomicI64,
    events: Mutex<BTreeMap<&'static str, Series>>,
}

impl Monitor {
    pub fn threshold_ms(&self) -> i64 {
        self.threshold_ms.load(Ordering::Relaxed)
    }

    pub fn set_threshold_ms(&self, millis: i64) {
        self.threshold_ms.store(millis, Ordering::Relaxed);
    }

    pub fn record(&self, event: &'static str, took: Duration, second: i64) {
        let (threshold, millis) = (self.threshold_ms(), i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
        if threshold == 0 || millis < threshold {
            return;
        }
        let mut events = self.events.lock();
        let series = events.entry(event).or_default();
        series.worst_millis = series.worst_millis.max(millis);
        match series.samples.back_mut() {
            Some(last) if last.second == second => last.millis = last.millis.max(millis),
            _ => {
                if series.samples.len() == SAMPLES_MAX {
                    series.samples.pop_front();
                }
                series.samples.push_back(Sample { second, millis });
            }
        }
    }

    pub fn series(&self) -> Vec<(&'static str, Series)> {
        self.events.lock().iter().map(|(event, series)| (*event, series.clone())).collect()
    }

    /// Forgets an event, or all; the number forgotten.
    pub fn reset(&self, event: Option<&[u8]>) -> usize {
        let mut events = self.events.lock();
        let before = events.len();
        events.retain(|name, _| event.is_some_and(|e| !e.eq_ignore_ascii_case(name.as_bytes())));
        before - events.len()
    }
}

/// Bins below 2^40 µs (12 days), four to a power of two: a percentile is right to a quarter.
const BINS: usize = 4 * 40;

/// Durations counted in bins of growing width.
pub struct Histogram([AtomicU64; BINS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BINS])
    }
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0[bin(micros)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|bin| bin.load(Ordering::Relaxed)).sum()
    }

    /// The upper bound, in microseconds, of the bin in which this share (0 to 1) of the durations ends.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, bin) in self.0.iter().enumerate() {
            seen += bin.load(Ordering::Relaxed);
            if seen >= rank {
                return upper_bound(at);
            }
        }
        0
    }

    /// Upper bounds that are powers of two, with the number of durations up to each, where the number grows.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let (mut seen, mut shown, mut out) = (0, 0, Vec::new());
        for (at, bin) in self.0.iter().enumerate() {
            seen += bin.load(Ordering::Relaxed);
            if at % 4 == 3 && seen > shown {
                out.push((upper_bound(at) + 1, seen));
                shown = seen;
            }
        }
        out
    }

    pub fn clear(&self) {
        for bin in &self.0 {
            bin.store(0, Ordering::Relaxed);
        }
    }
}

/// Two bits after the leading one choose among the four bins of a power of two.
fn bin(micros: u64) -> usize {
    let micros = micros.max(1);
    let power = micros.ilog2();
    let quarter = if power >= 2 { (micros >> (power - 2)) & 3 } else { (micros << (2 - power)) & 3 };
    (power as usize * 4 + usize::try_from(quarter).unwrap_or(0)).min(BINS - 1)
}

fn upper_bound(bin: usize) -> u64 {
    let (power, quarter) = (bin / 4, bin as u64 % 4);
    ((5 + quarter) << power).div_ceil(4) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_each_second_is_kept() {
        let monitor = Monitor::default();
        monitor.record("command", Duration::from_secs(1), 7);
        assert!(monitor.series().is_empty(), "off by default");
        monitor.set_threshold_ms(10);
        for (millis, second) in [(9, 1), (20, 1), (30, 1), (25, 2)] {
            monitor.record("command", Duration::from_millis(millis), second);
        }
        let series = &monitor.series()[0].1;
        assert_eq!(series.samples, [Sample { second: 1, millis: 30 }, Sample { second: 2, millis: 25 }]);
        assert_eq!(series.worst_millis, 30);
        for second in 0..1_000 {
            monitor.record("command", Duration::from_millis(10), second);
        }
        assert_eq!(monitor.series()[0].1.samples.len(), SAMPLES_MAX);
        assert_eq!((monitor.reset(Some(b"fork")), monitor.reset(None)), (0, 1));
    }

    #[test]
    fn every_duration_is_in_its_bin() {
        for micros in (0..4_096).chain((12..40).map(|p| 1 << p)) {
            let bin = bin(micros);
            assert!(micros.max(1) <= upper_bound(bin), "{micros}");
            assert!(bin == 0 || micros > upper_bound(bin - 1) || micros < 4, "{micros}");
        }
        assert_eq!(bin(u64::MAX), BINS - 1);
    }

    #[test]
    fn percentiles_are_right_to_a_quarter() {
        let histogram = Histogram::default();
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (share, exact) in [(0.5, 500), (0.99, 990), (1.0, 1_000)] {
            let got = histogram.percentile(share);
            assert!((exact..exact * 5 / 4 + 1).contains(&got), "{share}: {got}");
        }
        assert_eq!(histogram.cumulative().last(), Some(&(1_024, 1_000)));
    }
}
