//! Many schedules on all cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::schedule::{Report, run};

/// Seeds that a thread takes at once.
const SHARE: u64 = 64;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    pub from: u64,
    pub seeds: u64,
    /// Ends early after this long.
    pub time: Option<Duration>,
    pub threads: usize,
    /// Ends early after so many violations.
    pub violations_max: usize,
}

/// What has been run so far.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub schedules: u64,
    pub events: u64,
    pub answered: u64,
    pub uncertain: u64,
    pub violations: Vec<Report>,
    pub took: Duration,
}

impl Totals {
    pub fn per_second(&self) -> f64 {
        self.schedules as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn add(&mut self, report: Report) {
        self.schedules += 1;
        self.events += report.events;
        self.answered += report.answered;
        self.uncertain += report.uncertain;
        if report.violation.is_some() {
            self.violations.push(report);
        }
    }
}

/// Runs the schedule of a seed; a panic in it is a violation too.
pub fn run_caught(seed: u64) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Report { violation: Some(format!("panic: {text}")), ..Report::of(seed) }
    })
}

impl Campaign {
    /// Runs it. `begin` is called on each thread first; `tell` now and then with what has been run.
    pub fn run(self, begin: impl Fn() + Sync, mut tell: impl FnMut(&Totals)) -> Totals {
        let began = Instant::now();
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel::<Vec<Report>>();
        let mut totals = Totals::default();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                let sender = sender.clone();
                let (next, stop, begin) = (&next, &stop, &begin);
                scope.spawn(move || {
                    begin();
                    loop {
                        let share = next.fetch_add(SHARE, Ordering::Relaxed);
                        if share >= self.seeds || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let seeds = share..(share + SHARE).min(self.seeds);
                        let reports = seeds.map(|nth| run_caught(self.from.wrapping_add(nth))).collect();
                        // Nobody listens any more: the campaign has ended.
                        if sender.send(reports).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for reports in receiver {
                reports.into_iter().for_each(|report| totals.add(report));
                totals.took = began.elapsed();
                let over = self.time.is_some_and(|time| totals.took >= time);
                if over || totals.violations.len() >= self.violations_max {
                    stop.store(true, Ordering::Relaxed);
                }
                tell(&totals);
            }
        });
        totals.violations.sort_by_key(|report| report.seed);
        totals
    }
}
