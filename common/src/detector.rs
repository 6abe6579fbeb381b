//! The failure detector: who is alive, judged by heartbeats.
//!
//! A worker beats every [`DetectorConfig::interval`] and says in each beat whether its database has just committed
//! something. The verdict follows from two ages, that of the last beat and that of the last beat with a commit:
//!
//! ```text
//!  beat     beat              suspect_after            dead_after
//!   ●────────●─────────────────────┼────────────────────────┼──────────▶ time since the last beat
//!    Alive     Alive                    Suspect                Dead
//! ```
//!
//! A worker whose beats say that its database does not commit is Suspect at once, and Dead when that has lasted for
//! `dead_after`: a node that cannot commit is of no use, however loudly it beats. Fixed time-outs, not phi-accrual
//! (Hayashibara et al. 2004): the verdict only steers repair and ring changes, while requests are steered by the
//! breaker, which needs no heartbeat to notice. So being a few seconds late is cheap, and being explainable is worth more.
//!
//! `now` is the time since any fixed moment; an earlier `now` than the last one counts as the same moment.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::WorkerId;

/// Ages at which the verdict changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DetectorConfig {
    interval: Duration,
    suspect_after: Duration,
    dead_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DetectorError {
    #[error("the heartbeat interval must be above zero")]
    ZeroInterval,
    #[error("a heartbeat timeout of {timeout:?} leaves no room for two missed beats ({suspect_after:?})")]
    TimeoutTooShort { timeout: Duration, suspect_after: Duration },
}

impl DetectorConfig {
    /// The interval that workers beat with, unless told otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// The age of a dead worker's last beat, unless told otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(6);

    /// Suspect after two missed beats and a quarter interval for the network; dead after `timeout`.
    pub fn new(interval: Duration, timeout: Duration) -> Result<Self, DetectorError> {
        if interval.is_zero() {
            return Err(DetectorError::ZeroInterval);
        }
        let suspect_after = interval.saturating_mul(2).saturating_add(interval / 4);
        if timeout <= suspect_after {
            return Err(DetectorError::TimeoutTooShort { timeout, suspect_after });
        }
        Ok(Self { interval, suspect_after, dead_after: timeout })
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub fn dead_after(&self) -> Duration {
        self.dead_after
    }
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            interval: Self::INTERVAL,
            suspect_after: Duration::from_millis(4_500),
            dead_after: Self::TIMEOUT,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Never heard of since this detector started.
    Unknown,
    Alive,
    /// Late, or its database did not commit for the last beat.
    Suspect,
    /// Silent, or without a commit, for the whole timeout.
    Dead,
}

/// A verdict that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    pub worker: WorkerId,
    pub from: Verdict,
    pub to: Verdict,
}

#[derive(Clone, Debug)]
struct Beats {
    last: Duration,
    /// The last beat that reported a commit; the first beat, until there was one.
    last_commit: Duration,
    commits: bool,
    returns: u32,
    /// What [`Detector::changes`] last reported.
    reported: Verdict,
}

impl Beats {
    fn verdict(&self, config: &DetectorConfig, now: Duration) -> Verdict {
        let silence = now.saturating_sub(self.last);
        if silence >= config.dead_after || now.saturating_sub(self.last_commit) >= config.dead_after {
            Verdict::Dead
        } else if silence >= config.suspect_after || !self.commits {
            Verdict::Suspect
        } else {
            Verdict::Alive
        }
    }
}

/// Takes heartbeats, gives verdicts. Holds as many workers as it was told of: the caller bounds them.
#[derive(Clone, Debug)]
pub struct Detector {
    config: DetectorConfig,
    workers: BTreeMap<WorkerId, Beats>,
}

impl Detector {
    pub fn new(config: DetectorConfig) -> Self {
        Self { config, workers: BTreeMap::new() }
    }

    pub fn config(&self) -> &DetectorConfig {
        &self.config
    }

    /// A beat arrived; `commits` says that the worker's database committed for it.
    pub fn heartbeat(&mut self, id: &WorkerId, now: Duration, commits: bool) {
        let Some(beats) = self.workers.get_mut(id) else {
            let first =
                Beats { last: now, last_commit: now, commits, returns: 0, reported: Verdict::Unknown };
            self.workers.insert(id.clone(), first);
            return;
        };
        let was_dead = beats.verdict(&self.config, now) == Verdict::Dead;
        beats.last = beats.last.max(now);
        beats.commits = commits;
        if commits {
            beats.last_commit = beats.last_commit.max(now);
        }
        if was_dead && beats.verdict(&self.config, now) != Verdict::Dead {
            beats.returns = beats.returns.saturating_add(1);
        }
    }

    pub fn verdict(&self, id: &WorkerId, now: Duration) -> Verdict {
        self.workers.get(id).map_or(Verdict::Unknown, |beats| beats.verdict(&self.config, now))
    }

    /// Time since the last beat; `None` before the first.
    pub fn age(&self, id: &WorkerId, now: Duration) -> Option<Duration> {
        self.workers.get(id).map(|beats| now.saturating_sub(beats.last))
    }

    /// How often the worker came back from the dead: a flapping worker has to wait longer before it is trusted.
    pub fn returns(&self, id: &WorkerId) -> u32 {
        self.workers.get(id).map_or(0, |beats| beats.returns)
    }

    /// Verdicts that differ from those of the last call, in order of worker ids. For logs and notices: a verdict that
    /// changed and changed back in between is not told.
    pub fn changes(&mut self, now: Duration) -> Vec<Transition> {
        let mut changes = Vec::new();
        for (worker, beats) in &mut self.workers {
            let to = beats.verdict(&self.config, now);
            let from = std::mem::replace(&mut beats.reported, to);
            if from != to {
                changes.push(Transition { worker: worker.clone(), from, to });
            }
        }
        changes
    }

    /// Forgets a worker that is no longer of interest.
    pub fn forget(&mut self, id: &WorkerId) {
        self.workers.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn w1() -> WorkerId {
        WorkerId::new("w1").unwrap()
    }

    fn beaten_at(now: Duration, commits: bool) -> Detector {
        let mut detector = Detector::new(DetectorConfig::default());
        detector.heartbeat(&w1(), now, commits);
        detector
    }

    #[test]
    fn silence_makes_suspect_then_dead() {
        let detector = beaten_at(ms(1_000), true);
        let verdicts = [1_000, 5_499, 5_500, 6_999, 7_000].map(|now| detector.verdict(&w1(), ms(now)));
        use Verdict::{Alive, Dead, Suspect};
        assert_eq!(verdicts, [Alive, Alive, Suspect, Suspect, Dead]);
    }

    #[test]
    fn a_worker_never_heard_of_is_unknown() {
        let detector = Detector::new(DetectorConfig::default());
        assert_eq!(detector.verdict(&w1(), ms(99_000)), Verdict::Unknown);
        assert_eq!(detector.age(&w1(), ms(99_000)), None);
    }

    #[test]
    fn beats_without_commits_make_suspect_at_once_and_dead_after_the_timeout() {
        let mut detector = beaten_at(ms(0), true);
        for (now, verdict) in [(2_000, Verdict::Suspect), (4_000, Verdict::Suspect), (6_000, Verdict::Dead)] {
            detector.heartbeat(&w1(), ms(now), false);
            assert_eq!(detector.verdict(&w1(), ms(now)), verdict, "{now}");
        }
        detector.heartbeat(&w1(), ms(8_000), true);
        assert_eq!(detector.verdict(&w1(), ms(8_000)), Verdict::Alive);
        assert_eq!(detector.returns(&w1()), 1);
    }

    #[test]
    fn a_first_beat_without_a_commit_starts_the_timeout() {
        let detector = beaten_at(ms(50_000), false);
        assert_eq!(detector.verdict(&w1(), ms(50_000)), Verdict::Suspect);
    }

    #[test]
    fn returns_are_counted_once_per_death() {
        let mut detector = beaten_at(ms(0), true);
        for now in [7_000, 8_000, 12_000, 20_000] {
            detector.heartbeat(&w1(), ms(now), true);
        }
        assert_eq!(detector.returns(&w1()), 2);
    }

    #[test]
    fn changes_are_told_once() {
        let mut detector = beaten_at(ms(0), true);
        let change = |from, to| vec![Transition { worker: w1(), from, to }];
        assert_eq!(detector.changes(ms(0)), change(Verdict::Unknown, Verdict::Alive));
        assert_eq!(detector.changes(ms(1)), []);
        assert_eq!(detector.changes(ms(9_000)), change(Verdict::Alive, Verdict::Dead));
        assert_eq!(detector.changes(ms(10_000)), []);
        detector.heartbeat(&w1(), ms(10_000), true);
        assert_eq!(detector.changes(ms(10_000)), change(Verdict::Dead, Verdict::Alive));
    }

    #[test]
    fn a_clock_that_goes_back_kills_no_one() {
        let mut detector = beaten_at(ms(10_000), true);
        detector.heartbeat(&w1(), ms(1_000), true);
        assert_eq!(detector.verdict(&w1(), ms(500)), Verdict::Alive);
        assert_eq!(detector.age(&w1(), ms(500)), Some(ms(0)));
        assert_eq!(detector.verdict(&w1(), ms(12_000)), Verdict::Alive);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert_eq!(DetectorConfig::new(ms(2_000), ms(6_000)), Ok(DetectorConfig::default()));
        assert_eq!(DetectorConfig::new(ms(0), ms(6_000)), Err(DetectorError::ZeroInterval));
        assert!(matches!(
            DetectorConfig::new(ms(2_000), ms(4_500)),
            Err(DetectorError::TimeoutTooShort { .. })
        ));
    }
}
