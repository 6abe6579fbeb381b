//! One schedule from its seed to its verdict.

use crate::agenda::SECOND;
use crate::client::Level;
use crate::history::Purpose;
use crate::model::Command;
use crate::trace::Trace;
use crate::world::World;

/// Simulated time that the clients of one schedule may take.
const RUSH_MAX: u64 = 60 * SECOND;

/// What a schedule came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// What must not be.
    pub violation: Option<String>,
    pub events: u64,
    pub answered: u64,
    pub uncertain: u64,
}

impl Report {
    /// Of a schedule of which nothing is known yet.
    pub(crate) fn of(seed: u64) -> Self {
        Self { seed, violation: None, events: 0, answered: 0, uncertain: 0 }
    }
}

/// Runs the schedule of a seed.
pub fn run(seed: u64) -> Report {
    run_traced(seed, Trace::Off).0
}

/// As [`run`], telling all that happens.
pub fn run_traced(seed: u64, trace: Trace) -> (Report, Trace) {
    let mut world = World::new(seed, trace);
    world.live();
    let count = |wanted: fn(&crate::history::Issued) -> bool| {
        world.record.issued.iter().filter(|issued| wanted(issued)).count() as u64
    };
    let answered = count(|i| matches!(i.outcome, Some(tercet_check::Outcome::Answered { .. })));
    let uncertain = count(|i| matches!(i.outcome, Some(tercet_check::Outcome::Uncertain)));
    let report =
        Report { seed, violation: world.violation.take(), events: world.events, answered, uncertain };
    (report, world.trace)
}

impl World {
    fn live(&mut self) {
        self.run(RUSH_MAX, |world| world.to_issue == 0 && world.record.unanswered() == 0);
        self.calm_down();
        self.settle("after trouble");
        if self.violation.is_none() {
            self.make_equal();
        }
        // What was said not to have happened must not turn up now, nor once tombstones are gone.
        for level in [Level::All, Level::Quorum] {
            for frontend in 0..self.frontends.len() {
                for key in 0..self.keys.len() {
                    if self.violation.is_none() {
                        self.issue(frontend, Purpose::Final, key, Command::Get, level);
                    }
                }
                self.settle("while reading");
            }
            if level == Level::All && self.violation.is_none() {
                self.collect_all();
            }
        }
        if self.violation.is_none() && self.now < self.quiet_at {
            // What was still on its way may have left somebody different again.
            self.run(self.quiet_at, |_| false);
            self.settle("in the quiet");
            self.make_equal();
        }
        if self.violation.is_none() {
            self.check_converged();
        }
        if self.violation.is_none() {
            self.check_clocks();
        }
        if self.violation.is_none() {
            self.check_histories();
        }
    }

    /// Everything comes to an end, and nothing is left.
    pub(crate) fn settle(&mut self, when: &str) {
        let until = self.now + self.patience();
        if !self.run(until, Self::is_idle) && self.violation.is_none() {
            let left = self.left();
            self.violate(format!("left in flight {when}: {left}"));
        }
    }
}
