//! Which healing work is next.
//!
//! ```text
//! copies of ring changes   a partition is one failure from losing its quorum until they are done
//! partitions touched       by a fault: replicas may differ, and reads pay for it
//! delta syncs              of workers that were away
//! collections              of tombstones that a comparison has counted
//! scrub                    the partition compared longest ago, for good, at a low rate
//! ```
//!
//! A lower kind waits as long as a higher one can begin. No partition has two tasks at once, and no worker more than a
//! few, so that clients keep the larger part of every worker. A task that fails is tried again after a wait that doubles.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tercet_common::{PARTITIONS, PartitionId};

use super::HealError;
use crate::coordinator::core::WorkerIx;

/// A kind of work, the most urgent first. The names are those of metrics and status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    Copy,
    Touched,
    Delta,
    Collect,
    Scrub,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Copy, Self::Touched, Self::Delta, Self::Collect, Self::Scrub];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Touched => "touched",
            Self::Delta => "delta",
            Self::Collect => "collect",
            Self::Scrub => "scrub",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Work {
    Copy { partition: PartitionId, newcomer: WorkerIx },
    Compare { partition: PartitionId },
    Collect { partition: PartitionId },
    Delta { target: WorkerIx },
}

impl Work {
    fn partition(self) -> Option<PartitionId> {
        match self {
            Self::Copy { partition, .. } | Self::Compare { partition } | Self::Collect { partition } => {
                Some(partition)
            }
            Self::Delta { .. } => None,
        }
    }
}

/// A task that has begun. To be given back to [`Schedule::ended`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    pub kind: Kind,
    pub work: Work,
    pub began: Duration,
    /// Who is asked.
    workers: Vec<WorkerIx>,
    failures: u32,
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Done,
    /// To be tried again later.
    Failed,
    /// Nothing is left to be done: the ring has changed.
    Obsolete,
}

impl Ended {
    /// A copy for an epoch that is over is not needed any more. Anything else is as needed in the next one.
    pub fn of(kind: Kind, outcome: &Result<(), HealError>) -> Self {
        match outcome {
            Ok(()) => Self::Done,
            Err(HealError::Moved) if kind == Kind::Copy => Self::Obsolete,
            Err(_) => Self::Failed,
        }
    }
}

/// A partition of which a replica is gone is one failure away from losing its quorum: its copy may take so many times the
/// usual share of the workers from clients ...
const URGENT: usize = 2;
/// ... and one that somebody has asked for, and that can wait, this part of it.
const PLANNED: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Tasks under way, in all and by worker. Copies of partitions that lack a replica may be double as many, others half.
    pub at_once: usize,
    pub at_once_per_worker: usize,
    /// From one scrub to the next: the whole ring takes 1024 times as long.
    pub scrub_every: Duration,
    /// Waits behind the first failure and behind the last of many.
    pub retry_after: Duration,
    pub retry_after_max: Duration,
}

/// What waits, for status and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    pub copies: usize,
    pub touched: usize,
    pub deltas: usize,
    pub collections: usize,
    pub under_way: usize,
    /// Partitions that were never compared by this frontend.
    pub never_compared: usize,
    /// How long ago the partition was compared that was compared longest ago, of those that ever were.
    pub oldest_compare: Option<Duration>,
}

impl Backlog {
    pub fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Copy => self.copies,
            Kind::Touched => self.touched,
            Kind::Delta => self.deltas,
            Kind::Collect => self.collections,
            Kind::Scrub => self.never_compared,
        }
    }
}

#[derive(Default)]
struct Place {
    /// All replicas, old and new. Empty: not known.
    workers: Vec<WorkerIx>,
    joint: bool,
    busy: bool,
    compared: Option<Duration>,
}

/// A task that waits.
#[derive(Clone, Copy, Default)]
struct Waiting {
    failures: u32,
    not_before: Duration,
}

/// See the module.
pub struct Schedule {
    tuning: Tuning,
    places: Vec<Place>,
    waiting: BTreeMap<(Kind, Work), Waiting>,
    under_way: usize,
    by_worker: BTreeMap<WorkerIx, usize>,
    /// Targets of the delta syncs under way.
    syncing: BTreeSet<WorkerIx>,
    next_scrub: Duration,
    scrubbing: bool,
}

impl Schedule {
    pub fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            places: (0..PARTITIONS).map(|_| Place::default()).collect(),
            waiting: BTreeMap::new(),
            under_way: 0,
            by_worker: BTreeMap::new(),
            syncing: BTreeSet::new(),
            next_scrub: Duration::ZERO,
            scrubbing: false,
        }
    }

    /// Where a partition is: its replicas, and in a joint epoch its next ones too. Copies that the new place does not
    /// call for are forgotten.
    pub fn place(&mut self, partition: PartitionId, workers: Vec<WorkerIx>, newcomers: &[WorkerIx]) {
        let place = &mut self.places[partition.index()];
        (place.workers, place.joint) = (workers, !newcomers.is_empty());
        self.waiting.retain(|(_, work), _| match work {
            Work::Copy { partition: of, newcomer } => *of != partition || newcomers.contains(newcomer),
            _ => true,
        });
    }

    pub fn copy(&mut self, partition: PartitionId, newcomer: WorkerIx) {
        self.wait(Kind::Copy, Work::Copy { partition, newcomer });
    }

    /// The partition's replicas may differ.
    pub fn touched(&mut self, partition: PartitionId) {
        self.wait(Kind::Touched, Work::Compare { partition });
    }

    /// The worker was away, and nobody knows what it missed.
    pub fn touched_worker(&mut self, worker: WorkerIx) {
        for partition in PartitionId::all() {
            if self.places[partition.index()].workers.contains(&worker) {
                self.touched(partition);
            }
        }
    }

    /// The worker has missed something that its peers' journals tell of. While a sync of it is under way nothing is
    /// added: whoever finds it due is to say so again afterwards.
    pub fn delta(&mut self, target: WorkerIx) {
        if !self.syncing.contains(&target) {
            self.wait(Kind::Delta, Work::Delta { target });
        }
    }

    /// The partition holds tombstones.
    pub fn collect(&mut self, partition: PartitionId) {
        self.wait(Kind::Collect, Work::Collect { partition });
    }

    fn wait(&mut self, kind: Kind, work: Work) {
        self.waiting.entry((kind, work)).or_default();
    }

    /// The next task, if one may begin now. `usable`: whether a worker can be asked.
    pub fn next(&mut self, now: Duration, usable: impl Fn(WorkerIx) -> bool) -> Option<Task> {
        if self.under_way >= URGENT * self.tuning.at_once {
            return None;
        }
        // Sorted by kind first.
        let ready = self.waiting.iter().filter(|(_, waiting)| waiting.not_before <= now);
        let startable = ready.map(|((kind, work), waiting)| (*kind, *work, waiting.failures));
        let found = startable.into_iter().find(|(_, work, _)| self.may_begin(*work, &usable));
        let (kind, work, failures) = match found {
            Some(found) => found,
            None => (Kind::Scrub, self.scrub(now, &usable)?, 0),
        };
        self.waiting.remove(&(kind, work));
        Some(self.begin(kind, work, failures, now))
    }

    fn workers_of(&self, work: Work) -> Vec<WorkerIx> {
        match (work, work.partition()) {
            (Work::Delta { target }, _) => vec![target],
            (_, Some(partition)) => self.places[partition.index()].workers.clone(),
            (_, None) => Vec::new(),
        }
    }

    fn may_begin(&self, work: Work, usable: &impl Fn(WorkerIx) -> bool) -> bool {
        if let Some(place) = work.partition().map(|partition| &self.places[partition.index()]) {
            let copies = matches!(work, Work::Copy { .. });
            if place.busy || place.workers.is_empty() || place.joint != copies {
                return false;
            }
        }
        let workers = self.workers_of(work);
        let Tuning { at_once, at_once_per_worker: each, .. } = self.tuning;
        let (at_once, each) = match work {
            Work::Copy { .. } if workers.iter().all(|worker| usable(*worker)) => {
                (at_once.div_ceil(PLANNED), each.div_ceil(PLANNED))
            }
            Work::Copy { .. } => (at_once * URGENT, each * URGENT),
            _ => (at_once, each),
        };
        if self.under_way >= at_once {
            return false;
        }
        let free = |worker: &WorkerIx| self.by_worker.get(worker).is_none_or(|tasks| *tasks < each);
        match work {
            // A copy does without an old replica that is gone; that is what it is for.
            Work::Copy { newcomer, .. } => {
                usable(newcomer) && workers.iter().filter(|worker| usable(**worker)).all(free)
            }
            _ => workers.iter().all(|worker| usable(*worker) && free(worker)),
        }
    }

    /// The partition that was compared longest ago.
    fn scrub(&self, now: Duration, usable: &impl Fn(WorkerIx) -> bool) -> Option<Work> {
        if self.scrubbing || now < self.next_scrub {
            return None;
        }
        let works = PartitionId::all().map(|partition| Work::Compare { partition });
        let startable = works.filter(|work| self.may_begin(*work, usable));
        startable.min_by_key(|work| work.partition().map(|partition| self.places[partition.index()].compared))
    }

    fn begin(&mut self, kind: Kind, work: Work, failures: u32, now: Duration) -> Task {
        let workers = self.workers_of(work);
        self.under_way += 1;
        for worker in &workers {
            *self.by_worker.entry(*worker).or_default() += 1;
        }
        if let Some(partition) = work.partition() {
            self.places[partition.index()].busy = true;
        }
        if let Work::Delta { target } = work {
            self.syncing.insert(target);
        }
        if kind == Kind::Scrub {
            self.scrubbing = true;
            self.next_scrub = now + self.tuning.scrub_every;
        }
        Task { kind, work, began: now, workers, failures }
    }

    /// A task has ended. One that failed waits and is tried again; a scrub's turn comes again by itself.
    pub fn ended(&mut self, task: Task, how: Ended, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        for worker in &task.workers {
            if let Some(tasks) = self.by_worker.get_mut(worker) {
                *tasks -= 1;
                if *tasks == 0 {
                    self.by_worker.remove(worker);
                }
            }
        }
        if let Some(partition) = task.work.partition() {
            let place = &mut self.places[partition.index()];
            place.busy = false;
            if how == Ended::Done && matches!(task.work, Work::Compare { .. }) {
                place.compared = Some(now);
            }
        }
        if let Work::Delta { target } = task.work {
            self.syncing.remove(&target);
        }
        if task.kind == Kind::Scrub {
            self.scrubbing = false;
        } else if how == Ended::Failed {
            let failures = task.failures.saturating_add(1);
            let wait = self.tuning.retry_after.saturating_mul(1 << task.failures.min(16));
            let not_before = now + wait.min(self.tuning.retry_after_max);
            // It may have been asked for again meanwhile.
            self.waiting.insert((task.kind, task.work), Waiting { failures, not_before });
        }
    }

    /// When the partition was last compared in full by this frontend.
    pub fn compared(&self, partition: PartitionId) -> Option<Duration> {
        self.places[partition.index()].compared
    }

    /// What waits for or happens to a partition, the most urgent first.
    pub fn pending(&self, partition: PartitionId) -> impl Iterator<Item = Kind> {
        let of_it = self.waiting.keys().filter(move |(_, work)| work.partition() == Some(partition));
        of_it.map(|(kind, _)| *kind)
    }

    pub fn backlog(&self, now: Duration) -> Backlog {
        let waiting = |kind| self.waiting.keys().filter(|(of, _)| *of == kind).count();
        let known = || self.places.iter().filter(|place| !place.workers.is_empty());
        Backlog {
            copies: waiting(Kind::Copy),
            touched: waiting(Kind::Touched),
            deltas: waiting(Kind::Delta),
            collections: waiting(Kind::Collect),
            under_way: self.under_way,
            never_compared: known().filter(|place| place.compared.is_none()).count(),
            oldest_compare: known().filter_map(|place| place.compared).min().map(|at| now.saturating_sub(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning {
        at_once: 8,
        at_once_per_worker: 4,
        scrub_every: Duration::from_secs(10),
        retry_after: Duration::from_millis(250),
        retry_after_max: Duration::from_secs(15),
    };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn p(n: u16) -> PartitionId {
        PartitionId::new(n).unwrap()
    }

    /// Ten partitions on workers 0, 1, 2; the scrub is far away.
    fn schedule() -> Schedule {
        let mut schedule = Schedule::new(TUNING);
        (0..10).for_each(|n| schedule.place(p(n), vec![0, 1, 2], &[]));
        schedule.next_scrub = at(1_000_000);
        schedule
    }

    fn works(schedule: &mut Schedule, now: Duration) -> Vec<Work> {
        std::iter::from_fn(|| schedule.next(now, |_| true)).map(|task| task.work).collect()
    }

    #[test]
    fn the_most_urgent_kind_goes_first() {
        let mut schedule = schedule();
        schedule.place(p(5), vec![0, 1, 2, 3], &[3]);
        schedule.collect(p(1));
        schedule.delta(2);
        schedule.touched(p(2));
        schedule.copy(p(5), 3);
        let expected = [
            Work::Copy { partition: p(5), newcomer: 3 },
            Work::Compare { partition: p(2) },
            Work::Delta { target: 2 },
            Work::Collect { partition: p(1) },
        ];
        assert_eq!(works(&mut schedule, at(0)), expected);
    }

    #[test]
    fn no_worker_has_more_than_its_share_and_none_waits_for_another() {
        let mut schedule = schedule();
        schedule.place(p(20), vec![4, 5, 6], &[]);
        (0..10).for_each(|n| schedule.touched(p(n)));
        schedule.touched(p(20));
        let begun = works(&mut schedule, at(0));
        assert_eq!(begun.len(), 5);
        assert_eq!(begun[4], Work::Compare { partition: p(20) });
    }

    #[test]
    fn copies_of_partitions_that_lack_a_replica_may_take_more_than_others() {
        let begun = |alive: fn(WorkerIx) -> bool| {
            let mut schedule = schedule();
            for n in 0..40 {
                schedule.place(p(n), vec![0, 1, 2, 3], &[3]);
                schedule.copy(p(n), 3);
            }
            std::iter::from_fn(|| schedule.next(at(0), alive)).count()
        };
        let share = TUNING.at_once_per_worker;
        assert_eq!(begun(|_| true), share / PLANNED);
        assert_eq!(begun(|worker| worker != 0), URGENT * share);
    }

    #[test]
    fn a_partition_has_one_task_at_a_time_and_can_be_touched_meanwhile() {
        let mut schedule = schedule();
        schedule.touched(p(1));
        let task = schedule.next(at(0), |_| true).unwrap();
        schedule.touched(p(1));
        schedule.collect(p(1));
        assert_eq!(schedule.next(at(0), |_| true), None);
        schedule.ended(task, Ended::Done, at(5));
        assert_eq!(schedule.next(at(5), |_| true).unwrap().kind, Kind::Touched);
    }

    #[test]
    fn a_worker_has_one_delta_sync_at_a_time_and_a_failed_one_waits() {
        let mut schedule = schedule();
        schedule.delta(2);
        let task = schedule.next(at(0), |_| true).unwrap();
        // It stays due until it is done.
        schedule.delta(2);
        assert_eq!(schedule.next(at(0), |_| true), None);
        schedule.ended(task, Ended::Failed, at(10));
        schedule.delta(2);
        assert_eq!(schedule.next(at(10), |_| true), None);
        let again = schedule.next(at(260), |_| true).unwrap();
        schedule.ended(again, Ended::Done, at(270));
        assert_eq!(schedule.next(at(270), |_| true), None);
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut schedule = schedule();
        schedule.touched(p(1));
        let (mut now, mut waits) = (at(0), Vec::new());
        for _ in 0..8 {
            let task = schedule.next(now, |_| true).unwrap();
            schedule.ended(task, Ended::Failed, now);
            let not_before = schedule.waiting[&(Kind::Touched, Work::Compare { partition: p(1) })].not_before;
            assert_eq!(schedule.next(not_before - at(1), |_| true), None);
            waits.push((not_before - now).as_millis());
            now = not_before;
        }
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
    }

    #[test]
    fn work_waits_for_workers_but_a_copy_does_not_wait_for_the_dead() {
        let mut schedule = schedule();
        schedule.touched(p(1));
        schedule.place(p(5), vec![0, 1, 2, 3], &[3]);
        schedule.copy(p(5), 3);
        let without_2 = |worker| worker != 2;
        assert_eq!(schedule.next(at(0), without_2).unwrap().kind, Kind::Copy);
        assert_eq!(schedule.next(at(0), without_2), None);
    }

    #[test]
    fn a_partition_that_changes_hands_is_copied_only() {
        let mut schedule = schedule();
        schedule.touched(p(5));
        schedule.place(p(5), vec![0, 1, 2, 3], &[3]);
        schedule.copy(p(5), 3);
        assert_eq!(works(&mut schedule, at(0)), [Work::Copy { partition: p(5), newcomer: 3 }]);
        let mut other = self::schedule();
        other.place(p(5), vec![0, 1, 2, 3], &[3]);
        other.copy(p(5), 3);
        other.place(p(5), vec![0, 1, 2], &[]);
        assert_eq!(works(&mut other, at(0)), []);
    }

    #[test]
    fn the_scrub_goes_round_for_good_at_its_rate() {
        let mut schedule = schedule();
        schedule.next_scrub = at(0);
        let mut seen = Vec::new();
        for turn in 0..20 {
            let now = at(turn * 10_000);
            let task = schedule.next(now, |_| true).unwrap();
            assert_eq!((task.kind, schedule.next(now, |_| true)), (Kind::Scrub, None));
            seen.push(task.work.partition().unwrap().get());
            schedule.ended(task, Ended::Done, now + at(1));
            assert_eq!(schedule.next(now + at(9_999), |_| true), None);
        }
        assert_eq!(seen[..10], seen[10..]);
        let backlog = schedule.backlog(at(200_000));
        assert_eq!((backlog.never_compared, backlog.oldest_compare), (0, Some(at(99_999))));
    }

    #[test]
    fn a_worker_that_was_away_touches_all_its_partitions() {
        let mut schedule = schedule();
        schedule.place(p(20), vec![4, 5, 6], &[]);
        schedule.touched_worker(1);
        let backlog = schedule.backlog(at(0));
        assert_eq!((backlog.touched, backlog.never_compared, backlog.oldest_compare), (10, 11, None));
        assert_eq!(schedule.pending(p(3)).collect::<Vec<_>>(), [Kind::Touched]);
        assert_eq!(schedule.pending(p(20)).count(), 0);
    }
}
