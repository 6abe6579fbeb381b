//! Ring changes: from joint epoch to new epoch, partition by partition (design 6).
//!
//! The register that decides configurations is not simulated here: a decision is one moment. What follows from it is not:
//! every frontend and every worker hears of it at a time of its own, and acts on what it has heard.
//!
//! ```text
//!   hold ─▶ joint epoch decided ─▶ a frontend copies (the real procedure) ─▶ new epoch decided
//!                                   └─ fails ─▶ again, or the old set in a new epoch
//! ```

use std::sync::Arc;

use tercet_common::Epoch;
use tercet_frontend::coordinator::core::{Core, Group, Replicas, WorkerIx};
use tercet_frontend::healing::copy::CopyJob;
use tercet_worker::replica::{Membership, Place, Role};

use crate::agenda::{MILLISECOND, Time};
use crate::tasks::Job;
use crate::world::{Event, World};

/// Copies that may fail before the change is given up.
const COPIES_MAX: u32 = 6;

/// A decided configuration: of each partition its replicas.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) number: u64,
    pub(crate) groups: Vec<Group>,
}

impl Configuration {
    /// What it makes of a worker.
    pub(crate) fn membership(&self, worker: usize) -> Membership {
        let me = worker as WorkerIx;
        let place = |group: &Group| {
            let newcomer = group.next.as_ref().is_some_and(|next| next.contains(&me));
            let role = match group.replicas.contains(&me) {
                true => Role::Replica,
                false if newcomer => Role::Newcomer,
                false => Role::Stranger,
            };
            Place { epoch: group.epoch, joint: group.is_joint(), role }
        };
        Membership::from_places(Epoch(self.number), self.groups.iter().map(place))
    }
}

/// A change of one partition under way.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Tells changes apart: a step that was planned for one must not befall the next.
    nth: u64,
    out: WorkerIx,
    newcomer: WorkerIx,
    /// Copies that failed.
    failed: u32,
}

/// What happens to a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChangeStep {
    Join,
    Copy,
    Complete,
}

impl World {
    /// Begins to replace a replica, if there is somebody to take its place.
    pub(crate) fn begin_change(&mut self, partition: usize, wanted_out: Option<WorkerIx>) {
        let group = &self.configuration.groups[partition];
        if self.changes[partition].is_some() || group.is_joint() {
            return;
        }
        let able = |w: &usize| self.workers[*w].is_running() && !group.contains(*w as WorkerIx);
        let spare: Vec<usize> = (0..self.workers.len()).filter(able).collect();
        // One that is gone for good goes first.
        let gone = group.replicas.iter().copied().find(|w| self.workers[usize::from(*w)].is_gone);
        let nth = self.random.index(group.replicas.len());
        let out = gone.or(wanted_out).unwrap_or(group.replicas[nth]);
        if spare.is_empty() || !group.replicas.contains(&out) {
            return;
        }
        let newcomer = *self.random.pick(&spare) as WorkerIx;
        self.trace.say(self.now, || format!("p{partition}: w{} for w{}", newcomer + 1, out + 1));
        self.changes_begun += 1;
        self.changes[partition] = Some(Change { nth: self.changes_begun, out, newcomer, failed: 0 });
        self.hold_puts(partition);
        let at = self.now + self.random.spread(100, 100 * MILLISECOND);
        self.plan_step(at, partition, ChangeStep::Join);
    }

    /// Replicas whose data is lost are replaced, if nobody has done so yet.
    pub(crate) fn replace_gone(&mut self) {
        for partition in 0..self.changes.len() {
            let group = &self.configuration.groups[partition];
            let gone = group.replicas.iter().copied().find(|w| self.workers[usize::from(*w)].is_gone);
            if gone.is_some() {
                self.begin_change(partition, gone);
            }
        }
    }

    /// Sparing work, not needed for safety: sometimes nobody is held.
    fn hold_puts(&mut self, partition: usize) {
        let id = self.partition_id(partition);
        for frontend in 0..self.frontends.len() {
            if self.random.percent(60) {
                self.with_core(frontend, |core| core.hold(id));
            }
        }
    }

    /// Plans a step of the change that the partition is in.
    pub(crate) fn plan_step(&mut self, at: Time, partition: usize, step: ChangeStep) {
        if let Some(Change { nth, .. }) = self.changes[partition] {
            self.agenda.plan(at, Event::Change { partition, nth, step });
        }
    }

    /// A step of the partition's `nth` change; void once that has ended.
    pub(crate) fn change_step(&mut self, partition: usize, nth: u64, step: ChangeStep) {
        let Some(change) = self.changes[partition].clone().filter(|change| change.nth == nth) else { return };
        match step {
            ChangeStep::Join => {
                let replicas = self.configuration.groups[partition].replicas.clone();
                let place = |w: &WorkerIx| if *w == change.out { change.newcomer } else { *w };
                let next: Replicas = replicas.iter().map(place).collect();
                self.decide(partition, replicas, Some(next));
                let at = self.now + self.random.spread(100, 50 * MILLISECOND);
                self.plan_step(at, partition, ChangeStep::Copy);
            }
            ChangeStep::Copy => self.start_copy(partition, &change),
            ChangeStep::Complete => {
                let group = &self.configuration.groups[partition];
                let next = group.next.clone().unwrap_or_else(|| group.replicas.clone());
                self.changes[partition] = None;
                self.decide(partition, next, None);
                if self.calm {
                    self.replace_gone();
                }
            }
        }
    }

    /// A configuration is decided, and everybody is told, in time.
    fn decide(&mut self, partition: usize, replicas: Replicas, next: Option<Replicas>) {
        let mut configuration = Configuration::clone(&self.configuration);
        configuration.number += 1;
        let epoch = Epoch(configuration.number);
        configuration.groups[partition] = Group { epoch, replicas, next };
        self.trace.say(self.now, || format!("decided: {configuration:?}"));
        self.configuration = Arc::new(configuration);
        for worker in 0..self.workers.len() {
            self.tell_worker(worker);
        }
        for frontend in 0..self.frontends.len() {
            self.tell_frontend(frontend);
        }
    }

    pub(crate) fn tell_worker(&mut self, worker: usize) {
        let at = self.now + if self.calm { 1 } else { self.random.spread(100, 200 * MILLISECOND) };
        let configuration = self.configuration.clone();
        self.agenda.plan(at, Event::WorkerHolds { worker, configuration });
    }

    fn tell_frontend(&mut self, frontend: usize) {
        let at = self.now + if self.calm { 1 } else { self.random.spread(100, 200 * MILLISECOND) };
        let configuration = self.configuration.clone();
        self.agenda.plan(at, Event::FrontendHolds { frontend, configuration });
    }

    pub(crate) fn frontend_holds(&mut self, nth: usize, configuration: &Arc<Configuration>) {
        if self.frontends[nth].core.is_none() || self.frontends[nth].number() >= configuration.number {
            return;
        }
        self.trace.say(self.now, || format!("f{} holds configuration {}", nth + 1, configuration.number));
        self.frontends[nth].configuration = Some(configuration.clone());
        for partition in 0..configuration.groups.len() {
            let id = self.partition_id(partition);
            let group = configuration.groups[partition].clone();
            self.with_core(nth, |core: &mut Core| core.reconfigure(id, group));
        }
    }

    /// Some frontend that knows of the joint epoch has the newcomer copy.
    fn start_copy(&mut self, partition: usize, change: &Change) {
        let group = self.configuration.groups[partition].clone();
        let knows = |f: &usize| {
            let frontend = &self.frontends[*f];
            frontend.core.is_some() && frontend.number() >= group.epoch.0
        };
        let able: Vec<usize> = (0..self.frontends.len()).filter(knows).collect();
        let give_up = change.failed > COPIES_MAX && !self.calm
            || self.workers[usize::from(change.newcomer)].is_gone
            || !self.calm && self.random.percent(5);
        if give_up {
            self.trace.say(self.now, || format!("p{partition}: the change is given up"));
            self.changes[partition] = None;
            self.decide(partition, group.replicas, None);
            return if self.calm {
                self.replace_gone()
            };
        }
        if able.is_empty() {
            return self.plan_step(self.now + 10 * MILLISECOND, partition, ChangeStep::Copy);
        }
        let leader = *self.random.pick(&able);
        // Those that can be asked first.
        let link = |w: &WorkerIx| !self.frontends[leader].links[usize::from(*w)].up;
        let mut old = group.replicas.to_vec();
        let turn = self.random.index(old.len());
        old.rotate_left(turn);
        old.sort_by_key(link);
        let (id, epoch) = (self.partition_id(partition), group.epoch);
        let job = CopyJob { partition: id, epoch, old, newcomer: change.newcomer, name: self.random.next() };
        self.start_task(leader, Job::Copy(job));
    }

    pub(crate) fn copy_ended(&mut self, partition: usize, epoch: Epoch, copied: bool) {
        let joint = &self.configuration.groups[partition];
        if joint.epoch != epoch || !joint.is_joint() {
            return;
        }
        let Some(change) = &mut self.changes[partition] else { return };
        change.failed += u32::from(!copied);
        let step = if copied { ChangeStep::Complete } else { ChangeStep::Copy };
        if copied && !self.calm {
            self.hold_puts(partition);
        }
        let at = self.now + self.random.spread(100, 60 * MILLISECOND);
        self.plan_step(at, partition, step);
    }
}
