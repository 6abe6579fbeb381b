//! Ring changes: from joint epoch to new epoch (design 6). Every frontend drives them, several at once.
//!
//! ```text
//!   wish, or plan ─▶ hold ─▶ propose joint ─▶ in force ─▶ copy (the real procedure) ─▶ propose new ─▶ in force
//!                                                          └─ fails ─▶ again, or propose the old set in a new epoch
//! ```
//!
//! What comes next is, by the schedule, a table that is made by hand (any replica of a partition for any worker, the partitions
//! each by itself) or what the real [`ring_change`] plans for workers that leave, stay, die and come back. Whether it comes
//! is for the register to say: another frontend may have proposed something else, and each acts on what is in force for it.

use std::sync::Arc;
use std::time::Duration;

use tercet_common::ring_change::{self, Decision, Sighting, Situation, Wait};
use tercet_common::{PartitionId, RingConfig};
use tercet_frontend::coordinator::core::{Group, WorkerIx};
use tercet_frontend::healing::copy::CopyJob;
use tercet_frontend::membership::{Seen, WorkerView};

use crate::agenda::{MILLISECOND, SECOND, Time};
use crate::council::slot_of;
use crate::driver::{CopyName, Deciding, Wish};
use crate::ring::{Configuration, Step, after, without};
use crate::tasks::Job;
use crate::worker::Worker;
use crate::world::{Event, World};

/// Copies that may fail before the change is given up.
const COPIES_MAX: u32 = 6;
/// Of a hundred looks at a joint configuration, those that give it up for no reason.
const WHIMS: u64 = 2;

impl World {
    /// Somebody wants the ring changed, at one frontend or at all of them: then each is to do something else.
    pub(crate) fn wish(&mut self) {
        let everywhere = self.random.percent(self.plan.rivals);
        let one = self.random.index(self.frontends.len());
        for nth in 0..self.frontends.len() {
            if !everywhere && nth != one {
                continue;
            }
            let Some(configuration) = self.frontends[nth].configuration.clone() else { continue };
            let wish = if self.plan.planned {
                let member = self.random.pick(&configuration.ring.members).clone();
                Wish::Mark { worker: member.id, leaving: !member.leaving }
            } else {
                Wish::Replace { partition: self.random.index(self.plan.partitions) }
            };
            self.trace.say(self.now, || format!("f{} is to {wish:?}", nth + 1));
            self.frontends[nth].driver.wish = Some(wish);
            let at = self.now + self.random.spread(50, 10 * MILLISECOND);
            self.plan_drive(nth, at);
        }
    }

    /// The frontend looks at what it is changing, no later than `at`.
    pub(crate) fn plan_drive(&mut self, nth: usize, at: Time) {
        let frontend = &mut self.frontends[nth];
        frontend.driver.rests = false;
        if frontend.driver.look_at.is_none_or(|planned| at < planned) {
            frontend.driver.look_at = Some(at);
            self.agenda.plan(at, Event::Drive { frontend: nth, life: frontend.life });
        }
    }

    pub(crate) fn drive(&mut self, nth: usize) {
        let driver = &mut self.frontends[nth].driver;
        if driver.look_at.take_if(|at| *at <= self.now).is_none() {
            return;
        }
        let Some(configuration) = self.frontends[nth].configuration.clone() else { return };
        if self.is_deciding(nth, &configuration) {
            return;
        }
        self.forget_copies(nth, &configuration);
        self.start_copies(nth, &configuration);
        let next = match self.plan.planned {
            true => self.next_by_plan(nth, &configuration),
            false => self.next_by_hand(nth, &configuration),
        };
        if let Some(next) = next {
            self.propose(nth, next);
        } else if self.is_whole(&configuration) {
            self.frontends[nth].driver.rests = true;
        } else {
            let at = self.now + self.random.spread(5 * MILLISECOND, 100 * MILLISECOND);
            self.plan_drive(nth, at);
        }
    }

    /// Nothing is to be changed any more: no partition changes hands, and none belongs to whose data is lost.
    pub(crate) fn is_whole(&self, configuration: &Configuration) -> bool {
        let lost = |worker: &&Worker| worker.is_gone || worker.set_back.is_some();
        let mut lost = self.workers.iter().filter(lost);
        !configuration.is_joint() && !lost.any(|worker| configuration.is_voter(&worker.voter))
    }

    /// Looks at what became of what was proposed. `true`: nothing yet.
    fn is_deciding(&mut self, nth: usize, configuration: &Configuration) -> bool {
        let now = self.now;
        let frontend = &mut self.frontends[nth];
        let Some(deciding) = frontend.driver.deciding.take() else { return false };
        if configuration.ring.epoch < deciding.next.epoch && now < deciding.until {
            let until = deciding.until;
            frontend.driver.deciding = Some(deciding);
            self.plan_drive(nth, until);
            return true;
        }
        if configuration.ring != deciding.next {
            self.trace.say(now, || format!("f{} has not got #{}", nth + 1, deciding.next.epoch.0));
            if let Some(council) = &mut self.frontends[nth].council {
                council.withdraw(&deciding.next);
            }
            for partition in deciding.held {
                let id = self.partition_id(partition);
                self.with_core(nth, |core| core.release(id));
            }
        }
        false
    }

    fn propose(&mut self, nth: usize, next: RingConfig) {
        let Some(configuration) = self.frontends[nth].configuration.clone() else { return };
        let (next, now) = (Arc::new(next), self.now);
        let Some(council) = &mut self.frontends[nth].council else { return };
        if council.propose(next.clone(), now).is_err() {
            // Something newer is decided, and not in force yet.
            let at = now + self.random.spread(MILLISECOND, 50 * MILLISECOND);
            return self.plan_drive(nth, at);
        }
        self.trace.say(now, || format!("f{} proposes #{}", nth + 1, next.epoch.0));
        let mut held = Vec::new();
        for partition in 0..self.plan.partitions {
            let id = self.partition_id(partition);
            let changes = next.assignment(id).epoch != configuration.ring.assignment(id).epoch;
            // Sparing work, not needed for safety: sometimes nobody is held.
            if changes && self.random.percent(60) {
                self.with_core(nth, |core| core.hold(id));
                held.push(partition);
            }
        }
        let patience = if self.calm { SECOND } else { self.random.spread(20 * MILLISECOND, SECOND) };
        let until = now + patience;
        self.frontends[nth].driver.deciding = Some(Deciding { next, held, until });
        self.plan_attend(nth, now);
        self.plan_drive(nth, until);
    }

    /// What the real planner makes of what the frontend sees.
    fn next_by_plan(&mut self, nth: usize, configuration: &Configuration) -> Option<RingConfig> {
        let wish = self.frontends[nth].driver.wish.take();
        if let Some(Wish::Mark { worker, leaving }) = wish.filter(|_| !self.calm)
            && let Some(change) = ring_change::mark(&configuration.ring, &worker, leaving)
        {
            return Some(change.next);
        }
        let workers = self.sightings(nth);
        // Partitions without keys take no time, but not always none.
        let others = self.calm || self.random.percent(50);
        let frontend = &mut self.frontends[nth];
        let copied = &frontend.driver.copied;
        let groups = &configuration.groups;
        let whole = |partition: usize| {
            let group = &groups[partition];
            newcomers(group).all(|newcomer| copied.contains(&(partition, group.epoch, newcomer)))
        };
        let copied = |id: PartitionId, _: u16| groups.get(id.index()).map_or(others, |_| whole(id.index()));
        let situation = Situation {
            config: &configuration.ring,
            workers: &workers,
            listening_for: Duration::from_micros(self.now - frontend.began),
            copied: &copied,
        };
        match frontend.driver.planner.plan(&situation) {
            Decision::Change(change) => Some(change.next),
            Decision::Rest | Decision::Wait(Wait::Copying { .. }) => None,
            Decision::Wait(why) => {
                self.trace.say(self.now, || format!("f{} waits: {why}", nth + 1));
                None
            }
        }
    }

    /// All who have registered at the frontend, as its plan sees them.
    fn sightings(&mut self, nth: usize) -> Vec<Sighting> {
        let now = self.now;
        let frontend = &mut self.frontends[nth];
        let Some(council) = &frontend.council else { return Vec::new() };
        let links = &frontend.links;
        let is_connected = |_: &WorkerView, seen: &Seen| {
            let link = &links[slot_of(&seen.address)?];
            Some(link.up && link.suspected_until <= now)
        };
        let (view, at) = (council.view(now), Duration::from_micros(now));
        let mut sightings = frontend.driver.sightings.look(&view, is_connected, at);
        for sighting in &mut sightings {
            // A schedule is over before a worker that flaps may join.
            (sighting.up_for, sighting.returns) = (at, 0);
        }
        sightings
    }

    /// Any table that may come next, at random.
    fn next_by_hand(&mut self, nth: usize, configuration: &Configuration) -> Option<RingConfig> {
        let partitions = self.plan.partitions;
        let wish = self.frontends[nth].driver.wish.take().filter(|_| !self.calm);
        for partition in 0..partitions {
            let group = &configuration.groups[partition];
            let gone = |slot: &WorkerIx| self.workers[usize::from(*slot)].is_gone;
            let driver = &self.frontends[nth].driver;
            let step = if group.is_joint() {
                let done = |slot: WorkerIx| driver.copied.contains(&(partition, group.epoch, slot));
                let hopeless =
                    driver.failed > COPIES_MAX && !self.calm || newcomers(group).any(|slot| gone(&slot));
                if newcomers(group).all(done) {
                    Some(Step::Complete)
                } else {
                    let whim = !self.calm && self.random.percent(WHIMS);
                    (hopeless || whim).then_some(Step::Abort)
                }
            } else {
                let lost = group.replicas.iter().position(gone);
                let wished = wish == Some(Wish::Replace { partition });
                // Sooner or later somebody sees to it.
                let wanted = wished || lost.is_some() && (self.calm || self.random.percent(40));
                wanted.then(|| self.replacement(group.replicas.to_vec(), lost)).flatten()
            };
            if let Some(step) = step {
                let mut next = after(&configuration.ring, partitions, partition, &step);
                if next.is_stable() {
                    let gone = |slot: &usize| self.workers[*slot].is_gone;
                    let dead: Vec<_> =
                        (0..self.workers.len()).filter(gone).map(|slot| &self.workers[slot].voter).collect();
                    without(&mut next, |m| dead.iter().any(|dead| m.id == dead.id && m.uuid == dead.uuid));
                }
                return Some(next);
            }
        }
        None
    }

    /// Somebody who runs takes the place of a replica: of the one that is lost, or of any.
    fn replacement(&mut self, replicas: Vec<WorkerIx>, lost: Option<usize>) -> Option<Step> {
        let able = |slot: &usize| {
            let worker = &self.workers[*slot];
            worker.is_running() && worker.set_back.is_none() && !replicas.contains(&(*slot as WorkerIx))
        };
        let able: Vec<usize> = (0..self.workers.len()).filter(able).collect();
        if able.is_empty() {
            return None;
        }
        let newcomer = self.workers[*self.random.pick(&able)].voter.clone();
        let out = self.random.index(replicas.len());
        Some(Step::Begin { out: lost.unwrap_or(out), newcomer })
    }

    /// What belongs to other epochs is over.
    fn forget_copies(&mut self, nth: usize, configuration: &Configuration) {
        let groups = &configuration.groups;
        let is_current = |(partition, epoch, newcomer): &CopyName| {
            let group = &groups[*partition];
            group.epoch == *epoch && group.contains(*newcomer)
        };
        let driver = &mut self.frontends[nth].driver;
        driver.copied.retain(is_current);
        driver.running.retain(is_current);
        if !configuration.is_joint() {
            driver.failed = 0;
        }
    }

    /// Has newcomers copy that nobody has seen copy yet; perhaps another frontend does so, too.
    fn start_copies(&mut self, nth: usize, configuration: &Configuration) {
        for (partition, group) in configuration.groups.iter().enumerate() {
            for newcomer in newcomers(group) {
                let name = (partition, group.epoch, newcomer);
                let driver = &self.frontends[nth].driver;
                if driver.copied.contains(&name) || driver.running.contains(&name) {
                    continue;
                }
                if !self.frontends[nth].links[usize::from(newcomer)].usable {
                    self.frontends[nth].driver.failed += 1;
                    continue;
                }
                if !self.calm && self.random.percent(40) {
                    continue;
                }
                // Those that can be asked first.
                let mut old = group.replicas.to_vec();
                let turn = self.random.index(old.len());
                old.rotate_left(turn);
                old.sort_by_key(|slot| !self.frontends[nth].links[usize::from(*slot)].usable);
                let (id, name_of_copy) = (self.partition_id(partition), self.random.next());
                self.frontends[nth].driver.running.insert(name);
                let job = CopyJob { partition: id, epoch: group.epoch, old, newcomer, name: name_of_copy };
                self.start_task(nth, Job::Copy(job));
            }
        }
    }

    pub(crate) fn copy_ended(&mut self, nth: usize, name: CopyName, copied: bool) {
        let driver = &mut self.frontends[nth].driver;
        if !driver.running.remove(&name) {
            return;
        }
        if copied {
            driver.copied.insert(name);
        } else {
            driver.failed += 1;
        }
        let at = self.now + self.random.spread(100, 60 * MILLISECOND);
        self.plan_drive(nth, at);
    }
}

/// Those who have to copy.
fn newcomers(group: &Group) -> impl Iterator<Item = WorkerIx> + '_ {
    group.next.iter().flatten().filter(move |slot| !group.replicas.contains(slot)).copied()
}
