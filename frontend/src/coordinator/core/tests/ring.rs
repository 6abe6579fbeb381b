//! Ring changes of one partition, step by step and at random: who learns of a configuration when, copies, and changes that
//! are given up.

use tercet_common::quorum::majority;
use tercet_common::{Epoch, Key, PartitionId};

use super::super::{Group, Replicas, WorkerIx};
use super::random::Random;
use super::replica::Snapshot;
use super::world::{World, key};

pub(super) struct Ring {
    partition: PartitionId,
    keys: Vec<Key>,
    /// All configurations that were decided; the last one stands.
    decided: Vec<Group>,
    copies: Vec<Copy>,
    /// The last change was told to the frontends beforehand, and waits for their puts to end.
    holding: bool,
    pub(super) changes: usize,
}

/// A newcomer's copy.
struct Copy {
    newcomer: WorkerIx,
    sources: Replicas,
    joined: Snapshot,
    /// Steps taken at the newcomer: the flush, then the keys.
    passed: usize,
}

impl Ring {
    /// The first three replicas hold the partition.
    pub(super) fn new(world: &mut World, keys: &[&str]) -> Self {
        let keys: Vec<Key> = keys.iter().map(|name| key(name)).collect();
        let (partition, first) = (keys[0].partition(), Group::stable(Epoch(1), 0..3));
        world.replicas.iter_mut().for_each(|r| r.configure(partition, first.clone()));
        Self { partition, keys, decided: vec![first], copies: Vec::new(), holding: false, changes: 0 }
    }

    fn group(&self) -> &Group {
        &self.decided[self.decided.len() - 1]
    }

    fn decide(&mut self, replicas: Replicas, next: Option<Replicas>) {
        let epoch = Epoch(self.group().epoch.0 + 1);
        let newcomers = next.iter().flatten().filter(|w| !replicas.contains(w));
        let copy =
            |newcomer| Copy { newcomer, sources: Replicas::new(), joined: Snapshot::default(), passed: 0 };
        self.copies = newcomers.copied().map(copy).collect();
        self.decided.push(Group { epoch, replicas, next });
        self.holding = false;
    }

    /// One thing happens.
    pub(super) fn step(&mut self, world: &mut World, random: &mut Random) {
        // The last configuration, or the one before it, to somebody.
        let nth = self.decided.len() - 1 - random.below(self.decided.len().min(2));
        match random.below(100) {
            0..=29 => {
                let worker = random.below(world.replicas.len());
                world.replicas[worker].configure(self.partition, self.decided[nth].clone());
            }
            30..=54 => self.tell(world, random.below(world.cores.len()), nth),
            55..=84 if self.group().is_joint() => {
                let copy = random.below(self.copies.len());
                let source = random.below(self.group().replicas.len());
                self.go_on(world, copy, source);
            }
            55..=69 if self.holding => {
                // Sometimes the puts are not waited for, or a frontend was not even told.
                let drained = world.cores.iter().all(|core| core.is_drained(self.partition));
                if drained || random.chance(10) {
                    self.start(world, random);
                }
            }
            55..=69 if random.chance(50) => {
                self.holding = true;
                (0..world.cores.len()).for_each(|f| world.with(f, |core| core.hold(self.partition)));
            }
            55..=69 => self.start(world, random),
            85..=87 if self.group().is_joint() => {
                // A newcomer is lost: the old set again.
                let old = self.group().replicas.clone();
                self.decide(old, None);
            }
            _ => {}
        }
    }

    fn tell(&self, world: &mut World, frontend: usize, nth: usize) {
        let group = self.decided[nth].clone();
        world.with(frontend, |core| core.reconfigure(self.partition, group));
    }

    /// Replaces one replica, or two.
    fn start(&mut self, world: &World, random: &mut Random) {
        let old = self.group().replicas.clone();
        let mut new = old.clone();
        for _ in 0..1 + usize::from(random.chance(20)) {
            let spares =
                (0..world.replicas.len() as WorkerIx).filter(|w| !old.contains(w) && !new.contains(w));
            let spares: Vec<WorkerIx> = spares.collect();
            if let Some(spare) = spares.get(random.below(spares.len().max(1))) {
                new[random.below(3)] = *spare;
            }
        }
        self.changes += 1;
        self.decide(old, Some(new));
    }

    /// The next step of a copy. When all copies are complete the change is, too.
    fn go_on(&mut self, world: &mut World, copy: usize, source: usize) {
        let group = self.group().clone();
        let fenced = |world: &World, w: WorkerIx| {
            world.replicas[usize::from(w)].epoch(self.partition) == Some(group.epoch)
        };
        let needed = majority(group.replicas.len());
        let copy = &mut self.copies[copy];
        let source = group.replicas[source];
        if copy.sources.len() < needed {
            // Every snapshot is taken after its fence.
            if !copy.sources.contains(&source) && fenced(world, source) && fenced(world, copy.newcomer) {
                copy.joined.join(world.replicas[usize::from(source)].snapshot(self.partition));
                copy.sources.push(source);
            }
            return;
        }
        let newcomer = &mut world.replicas[usize::from(copy.newcomer)];
        match copy.passed.checked_sub(1).map(|nth| self.keys.get(nth)) {
            None => newcomer.copy_flush(self.partition, &copy.joined),
            Some(Some(key)) => newcomer.copy_key(key, &copy.joined),
            Some(None) => {}
        }
        copy.passed += 1;
        if let Some(next) = group.next
            && self.copies.iter().all(|copy| copy.passed > self.keys.len())
        {
            self.decide(next, None);
        }
    }

    /// Completes the change that is under way, and tells everybody.
    pub(super) fn settle(&mut self, world: &mut World) {
        loop {
            let last = self.decided.len() - 1;
            let group = self.group().clone();
            world.replicas.iter_mut().for_each(|r| r.configure(self.partition, group.clone()));
            (0..world.cores.len()).for_each(|frontend| self.tell(world, frontend, last));
            if !group.is_joint() {
                return;
            }
            for copy in 0..self.copies.len() {
                for source in (0..group.replicas.len()).cycle().take(3 * (2 + self.keys.len())) {
                    if self.group().is_joint() {
                        self.go_on(world, copy, source);
                    }
                }
            }
        }
    }
}
