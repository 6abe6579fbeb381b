//! Lost disks and old backups.
//!
//! A worker whose disk is lost comes back under its id over an empty one, as a member that nobody knows yet, in another slot.
//! One whose disk is *set back* comes back as itself, with promises and votes forgotten, until a frontend finds out by what
//! others remember of it, and tells it to take another identity (design 7).
//!
//! **What is taken for given.** One disk at a time, and only where everybody knows the newest configuration: two of three
//! would be all that some writes have. A disk is set back only by more than what the others have not been told yet: what is
//! younger is not recognised, by design. And whoever could tell that the others are sound stays until the lost one is replaced,
//! for of three workers, one that was started again under a frontend that was, too, is not known to be. Members that hold nothing
//! count there like any other.

use std::collections::BTreeSet;

use tercet_common::quorum::majority;
use tercet_worker::store::memory::Snapshot;

use crate::agenda::Time;
use crate::ring::Configuration;
use crate::worker::Worker;
use crate::world::World;

/// A copy of a disk, and how far it had come.
#[derive(Clone)]
pub(crate) struct Backup {
    snapshot: Snapshot,
    number: u64,
    generation: u64,
    seq: u64,
}

impl World {
    pub(crate) fn back_up(&mut self, slot: usize) {
        let worker = &self.workers[slot];
        if !worker.is_open() || worker.set_back.is_some() {
            return;
        }
        let number = worker.register().map_or(0, |register| register.number().0);
        let snapshot = worker.disk.snapshot();
        self.backups[slot] = Some(Backup {
            snapshot,
            number,
            generation: worker.generation(),
            seq: worker.disk.journal_seq(),
        });
    }

    /// A worker's disk is lost.
    pub(crate) fn lose_disk(&mut self, slot: usize, until: Time) {
        let Some(newest) = self.newest() else { return };
        let Some(spare) = self.workers.iter().position(|w| w.life == 0 && !w.is_reserved) else { return };
        if !self.can_lose(slot, &newest) {
            return;
        }
        let backup = self.backups[slot].take();
        let recognised = backup.filter(|backup| self.is_recognised(slot, backup, &newest));
        self.crash_worker(slot, until);
        if let Some(Backup { snapshot, .. }) = recognised {
            let name = self.workers[spare].voter.uuid.clone();
            self.trace.say(self.now, || format!("the disk of w{} is set back", slot + 1));
            self.workers[slot].restore(&snapshot, spare, &name, self.plan.partitions);
            self.workers[spare].is_reserved = true;
        } else {
            self.workers[slot].is_gone = true;
            self.workers[spare].voter.id = self.workers[slot].voter.id.clone();
            self.start_worker(spare);
        }
    }

    fn can_lose(&self, slot: usize, newest: &Configuration) -> bool {
        let worker = &self.workers[slot];
        let is_lost = |w: &Worker| w.is_gone && w.voter.is_member(&newest.ring) || w.set_back.is_some();
        let knows = |slot: usize| {
            let register = self.workers[slot].register();
            register.is_some_and(|register| register.number() == newest.ring.epoch)
        };
        worker.is_running()
            && !newest.is_joint()
            && !newest.is_nameless()
            && !self.workers.iter().any(is_lost)
            && self.frontends.iter().all(|frontend| frontend.driver.deciding.is_none())
            && self.members(newest).into_iter().all(knows)
            && (0..self.frontends.len()).any(|nth| self.knows_others(nth, slot, newest))
    }

    /// Slots of the members whose data is not lost.
    fn members(&self, configuration: &Configuration) -> Vec<usize> {
        let member = |slot: &usize| {
            let worker = &self.workers[*slot];
            worker.life > 0 && !worker.is_gone && worker.voter.is_member(&configuration.ring)
        };
        (0..self.workers.len()).filter(member).collect()
    }

    /// A frontend has let all members but this one vote, and can tell that they are sound for as long as it lives.
    fn knows_others(&self, nth: usize, slot: usize, newest: &Configuration) -> bool {
        let Some(council) = &self.frontends[nth].council else { return false };
        self.members(newest).into_iter().all(|other| other == slot || council.is_member(other))
    }

    /// Whether a frontend may die.
    pub(crate) fn can_spare(&self, nth: usize) -> bool {
        let Some(newest) = self.newest() else { return true };
        let lost = self
            .workers
            .iter()
            .position(|w| (w.is_gone || w.set_back.is_some()) && w.voter.is_member(&newest.ring));
        let Some(lost) = lost else { return true };
        (0..self.frontends.len()).any(|other| other != nth && self.knows_others(other, lost, &newest))
    }

    /// A majority of the others remembers more than the worker will come to over its old data before anybody looks. (It may
    /// be told the configurations that it has missed, before.)
    fn is_recognised(&self, slot: usize, backup: &Backup, newest: &Configuration) -> bool {
        let worker = &self.workers[slot].voter;
        let told = newest.ring.epoch.0.saturating_sub(backup.number) + 2;
        let remembers = |other: &usize| {
            let memory = self.workers[*other].recall().unwrap_or_default();
            memory.iter().any(|then| {
                let same = then.worker == worker.id && then.uuid == worker.uuid;
                same && then.boot_generation >= backup.generation && then.journal_seq > backup.seq + told
            })
        };
        let others: BTreeSet<usize> =
            self.members(newest).into_iter().filter(|other| *other != slot).collect();
        others.iter().filter(|other| remembers(other)).count() >= majority(others.len())
    }

    /// A worker is told that its data is older than what it once said. The uuid that it takes.
    pub(crate) fn renew(&mut self, slot: usize) -> Option<String> {
        let Some(successor) = self.workers[slot].set_back.as_ref().map(|(_, successor)| *successor) else {
            self.violate(format!("w{} is told to be another one, but has lost nothing", slot + 1));
            return None;
        };
        let uuid = self.workers[slot].renew()?;
        self.trace.say(self.now, || format!("w{} becomes w{} over {uuid}", slot + 1, successor + 1));
        if let Ok([old, new]) = self.workers.get_disjoint_mut([slot, successor]) {
            new.succeed(old, uuid.clone());
        }
        self.tell_of_death(slot);
        self.start_worker(successor);
        Some(uuid)
    }
}
