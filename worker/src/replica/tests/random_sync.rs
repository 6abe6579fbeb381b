//! Random schedules of a newcomer that copies while it is written to, then collects tombstones as a replica, over a model
//! of the database whose transactions end in any order, and some time before the replica hears of it. The seed is
//! printed on failure.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;

const JOINT: u64 = 5;
const STABLE: u64 = 6;
const KEYS: usize = 5;

fn name(rng: &mut StdRng) -> String {
    rng.random_range(0..KEYS).to_string()
}

#[derive(Default)]
struct Disk {
    record: PartitionRecord,
    rows: BTreeMap<KeyHash, Row>,
    /// All that ever was stored, flushes too.
    applied: BTreeSet<Ballot>,
    /// The highest ballot that was collected, per key.
    collected: BTreeMap<KeyHash, Ballot>,
}

impl Disk {
    fn write(&mut self, row: &Row) -> RowOutcome {
        let hash = row.key.hash();
        match self.rows.get(&hash) {
            Some(held) if held.ballot > row.ballot => RowOutcome::Superseded { ballot: held.ballot },
            Some(held) if held.ballot == row.ballot => RowOutcome::Stored,
            held => {
                let collected = self.collected.get(&hash);
                assert!(held.is_some() || collected < Some(&row.ballot), "{} comes back", row.ballot);
                self.applied.insert(row.ballot);
                self.rows.insert(hash, row.clone());
                RowOutcome::Stored
            }
        }
    }

    fn learn(&mut self, ballot: Ballot, clock: &VectorClock) {
        self.record.vector.follow(&mut self.record.highest, ballot, clock);
    }

    fn commit(&mut self, batch: &CommitBatch) -> Vec<RowOutcome> {
        self.promise(&batch.promises);
        for (_, ballot, clock) in &batch.flushes {
            self.applied.insert(*ballot);
            if *ballot > self.record.flush {
                (self.record.flush, self.record.flush_clock) = (*ballot, clock.clone());
            }
            self.learn(*ballot, clock);
        }
        batch.rows.iter().for_each(|write| self.learn(write.row.ballot, &write.row.clock));
        let write = |Write { row, known, .. }: &Write| {
            let held = self.rows.get(&row.key.hash());
            let lower = held.is_none_or(|held| held.ballot < row.ballot);
            assert!(lower || !known, "{} is not known to be over {held:?}", row.ballot);
            self.write(row)
        };
        batch.rows.iter().map(write).collect()
    }

    fn promise(&mut self, promises: &[(PartitionId, Promise)]) {
        self.record.promise = promises.iter().map(|p| p.1).fold(self.record.promise, Promise::max);
    }

    fn change(&mut self, change: &PartitionChange) -> Vec<RowOutcome> {
        self.record.promise = self.record.promise.max(change.promise);
        self.record.floor = self.record.floor.max(change.floor);
        self.learn(change.highest, &change.vector);
        for (hash, ballot) in &change.evict {
            if self.rows.get(hash).is_some_and(|row| row.ballot == *ballot) {
                self.rows.remove(hash);
                // Behind the copy only tombstones are evicted.
                if change.floor > Ballot::ZERO {
                    self.collected.insert(*hash, *ballot);
                }
            }
        }
        if let Some((ballot, clock)) = &change.flush {
            (self.record.flush, self.record.flush_clock) = (*ballot, clock.clone());
        }
        change.rows.iter().map(|row| self.write(row)).collect()
    }
}

/// What the copy brings: the merged snapshot of the sources.
struct Sources {
    rows: BTreeMap<KeyHash, Row>,
    flush: Ballot,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Begin,
    /// Up to this many of the hashes.
    Install(usize),
    Finish,
    Finished,
}

enum Asked {
    Put { hash: KeyHash, ballot: Ballot },
    Get { hash: KeyHash, at_least: Ballot },
    Copy,
    Other,
}

enum Call {
    Commit(CommitId, CommitBatch),
    Change(ChangeId, PartitionChange),
    Promises(Vec<(PartitionId, Promise)>),
    Read(ReadId, Vec<KeyHash>),
}

enum Ended {
    Commit(CommitId, CommitOutcome),
    Change(ChangeId, CommitOutcome),
    Promises(bool),
    Read(ReadId, Vec<Option<Row>>),
}

struct World {
    rng: StdRng,
    rig: Rig,
    disk: Disk,
    sources: Sources,
    /// All hashes, in order.
    hashes: Vec<KeyHash>,
    asked: BTreeMap<u64, Asked>,
    calls: Vec<Call>,
    ended: Vec<Ended>,
    acknowledged: BTreeMap<KeyHash, Ballot>,
    copy: Step,
    copying: bool,
    epoch: u64,
    seq: u64,
    /// Puts whose packets are on the way for long.
    delayed: Vec<ReplicaRequest>,
    answered: usize,
    collections: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = Disk::default();
        let mut rows = BTreeMap::new();
        for n in 0..KEYS {
            let hash = key(&n.to_string()).hash();
            let mut version =
                || row_at(&n.to_string(), promise_in(rng.random_range(1..5), 1).ballot(n as u64 + 1));
            let (own, theirs) = (version(), version());
            if rng.random_bool(0.6) {
                disk.rows.insert(hash, own);
            }
            if rng.random_bool(0.6) {
                rows.insert(hash, theirs);
            }
        }
        let mut flush = || {
            if rng.random_bool(0.5) { promise_in(rng.random_range(1..4), 2).ballot(99) } else { Ballot::ZERO }
        };
        disk.record.flush = flush();
        let flush = flush();
        rows.retain(|_, row| row.ballot > flush);
        let mut world = Self {
            rng,
            rig: Rig { replica: Replica::new(LIMITS), last: 0 },
            disk,
            sources: Sources { rows, flush },
            hashes: BTreeSet::from_iter((0..KEYS).map(|n| key(&n.to_string()).hash())).into_iter().collect(),
            asked: BTreeMap::new(),
            calls: Vec::new(),
            ended: Vec::new(),
            acknowledged: BTreeMap::new(),
            copy: Step::Begin,
            copying: false,
            epoch: JOINT,
            seq: 0,
            delayed: Vec::new(),
            answered: 0,
            collections: 0,
        };
        world.rig.hold(JOINT, &Says::Newcomer);
        world.rig.open(world.disk.record.clone());
        world
    }

    fn submit(&mut self, request: ReplicaRequest, asked: Asked) {
        let id = self.rig.submit(request);
        self.asked.insert(id, asked);
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..16 => self.put(),
            16..32 => self.get(),
            32..34 => {
                self.seq += 1;
                let request = flush(promise_in(self.epoch, 1).ballot(self.seq));
                self.submit(request, Asked::Other);
            }
            34..36 => self.submit(prepare(promise_in(self.epoch, 1)), Asked::Other),
            36..46 if self.epoch == JOINT => self.copy(),
            36..46 => self.collect(),
            46..70 => self.call(),
            70..83 if !self.calls.is_empty() => self.land(),
            83..97 if !self.ended.is_empty() => self.tell(),
            97 if self.copy == Step::Finished && self.epoch == JOINT => {
                self.epoch = STABLE;
                self.rig.hold(STABLE, &Says::Replica);
            }
            98.. => self.reopen_if_lost(),
            _ => {}
        }
        self.check_answers();
    }

    fn put(&mut self) {
        self.seq += 1;
        let mut row = row_at(&name(&mut self.rng), promise_in(self.epoch, 1).ballot(self.seq));
        if self.rng.random_bool(0.4) {
            row.content = Content::Tombstone;
        }
        self.delayed.push(ReplicaRequest::Put { row });
        // Mostly the one just made, now and then an old one; and some come twice.
        let i = if self.rng.random_bool(0.6) {
            self.delayed.len() - 1
        } else {
            self.rng.random_range(0..self.delayed.len())
        };
        let request =
            if self.rng.random_bool(0.2) { self.delayed[i].clone() } else { self.delayed.swap_remove(i) };
        let ReplicaRequest::Put { row } = &request else { unreachable!("only puts are delayed") };
        let asked = Asked::Put { hash: row.key.hash(), ballot: row.ballot };
        self.submit(request, asked);
    }

    fn get(&mut self) {
        let key = key(&name(&mut self.rng));
        let hash = key.hash();
        let mut at_least = self.acknowledged.get(&hash).copied().unwrap_or_default();
        if self.copy == Step::Finished {
            let copied = self.sources.rows.get(&hash).map_or(Ballot::ZERO, |row| row.ballot);
            at_least = at_least.max(copied).max(self.sources.flush);
        }
        if self.epoch == STABLE {
            // What is collected was seen by all.
            at_least = if self.collections > 0 { Ballot::ZERO } else { at_least };
        }
        let request = ReplicaRequest::Get { epoch: Epoch(self.epoch), key, digest: false };
        self.submit(request, Asked::Get { hash, at_least });
    }

    /// The next step of the copy, if the last one has been answered.
    fn copy(&mut self) {
        if self.copying {
            return;
        }
        let (partition, epoch) = (partition(), Epoch(JOINT));
        let request = match self.copy {
            Step::Begin => {
                let flush_clock = VectorClock::new();
                SyncRequest::Begin { partition, epoch, copy: 1, flush: self.sources.flush, flush_clock }
            }
            Step::Install(n) => {
                let stretch = &self.hashes[n - 1..n];
                let theirs = |hash: &KeyHash| self.sources.rows.get(hash);
                let mut evict = Vec::new();
                let mut rows = Vec::new();
                for hash in stretch {
                    let stale = self.disk.rows.get(hash).filter(|row| row.ballot.epoch < epoch);
                    let same = stale.map(|row| row.ballot) == theirs(hash).map(|row| row.ballot);
                    evict.extend(stale.filter(|_| !same).map(|row| (*hash, row.ballot)));
                    rows.extend(theirs(hash).filter(|_| !same).cloned());
                }
                let copied_to = self.hashes.get(n).copied();
                SyncRequest::Install { partition, epoch, copy: 1, rows, evict, copied_to }
            }
            Step::Finish => {
                let (floor, vector) = (Ballot::ZERO, VectorClock::new());
                SyncRequest::Finish { partition, epoch, copy: 1, floor, vector, highest: Ballot::ZERO }
            }
            Step::Finished => return,
        };
        self.copying = true;
        self.submit(sync(request), Asked::Copy);
    }

    fn copied(&mut self, reply: &ReplicaReply) {
        self.copying = false;
        self.copy = match (self.copy, reply) {
            (step, reply) if *reply != done() => {
                assert!(step != Step::Finished, "it was finished already");
                Step::Begin
            }
            (Step::Begin, _) => Step::Install(1),
            (Step::Install(n), _) if n < KEYS => Step::Install(n + 1),
            (Step::Install(_), _) => Step::Finish,
            _ => Step::Finished,
        };
    }

    fn collect(&mut self) {
        let tombstones = self.disk.rows.iter().filter(|(_, row)| row.content == Content::Tombstone);
        let tombstones: Vec<_> = tombstones.map(|(hash, row)| (*hash, row.ballot)).collect();
        let Some(tombstone) = tombstones.choose(&mut self.rng).copied() else { return };
        let promise = promise_in(STABLE, 1);
        let floor = tombstone.1.max(promise.ballot(self.rng.random_range(0..=self.seq)));
        let tombstones = vec![tombstone];
        self.collections += 1;
        let request = SyncRequest::Collect { partition: partition(), promise, floor, tombstones };
        self.submit(sync(request), Asked::Other);
    }

    /// The driver asks for work.
    fn call(&mut self) {
        let replica = &mut self.rig.replica;
        let call = match self.rng.random_range(0..5) {
            0 | 1 => replica.next_commit().map(|(id, batch)| Call::Commit(id, batch)),
            2 => replica.next_change().map(|(id, change)| Call::Change(id, change)),
            3 => replica.next_promises().map(Call::Promises),
            _ => {
                replica.next_read().map(|(id, keys)| Call::Read(id, keys.into_iter().map(|k| k.1).collect()))
            }
        };
        self.calls.extend(call);
    }

    /// A call reaches the database.
    fn land(&mut self) {
        let i = self.rng.random_range(0..self.calls.len());
        let fate = self.rng.random_range(0..40);
        let outcome = |rows: Vec<RowOutcome>| match fate {
            0 => lost(),
            _ => CommitOutcome::Committed { journal_seq: 1, rows },
        };
        let ended = match self.calls.swap_remove(i) {
            Call::Commit(id, _) if fate == 1 => Ended::Commit(id, aborted()),
            Call::Change(id, _) if fate == 1 => Ended::Change(id, aborted()),
            Call::Commit(id, batch) => Ended::Commit(id, outcome(self.disk.commit(&batch))),
            Call::Change(id, change) => Ended::Change(id, outcome(self.disk.change(&change))),
            Call::Promises(promises) => {
                self.disk.promise(&promises);
                Ended::Promises(fate > 3)
            }
            Call::Read(id, keys) => {
                Ended::Read(id, keys.iter().map(|hash| self.disk.rows.get(hash).cloned()).collect())
            }
        };
        self.ended.push(ended);
    }

    /// The replica hears of an outcome.
    fn tell(&mut self) {
        let i = self.rng.random_range(0..self.ended.len());
        let replica = &mut self.rig.replica;
        match self.ended.swap_remove(i) {
            Ended::Commit(id, outcome) => replica.on_commit(id, outcome),
            Ended::Change(id, outcome) => replica.on_change(id, outcome),
            Ended::Promises(true) => replica.on_promises(Ok(())),
            Ended::Promises(false) => replica.on_promises(Err(StoreError::Timeout("in the model".into()))),
            Ended::Read(id, rows) => replica.on_read(id, Ok(rows)),
        }
    }

    fn reopen_if_lost(&mut self) {
        if !self.rig.replica.work().reopen {
            return;
        }
        while !self.calls.is_empty() {
            self.land();
        }
        while !self.ended.is_empty() {
            self.tell();
        }
        self.check_answers();
        assert!(self.asked.is_empty(), "a lost store leaves nobody without an answer");
        // What was finished is hidden again, unless the change is over.
        if self.epoch == JOINT {
            self.copy = Step::Begin;
        }
        self.rig.open(self.disk.record.clone());
    }

    fn check_answers(&mut self) {
        for (id, reply) in self.rig.answers() {
            self.answered += 1;
            match (self.asked.remove(&id).expect("one answer each"), reply) {
                (Asked::Copy, reply) => self.copied(&reply),
                (Asked::Put { hash, ballot }, ReplicaReply::Stored) => {
                    let acknowledged = self.acknowledged.entry(hash).or_default();
                    *acknowledged = ballot.max(*acknowledged);
                }
                (Asked::Get { hash, at_least }, ReplicaReply::Version(held)) => {
                    assert!(held.ballot >= at_least, "{} is older than {at_least}", held.ballot);
                    self.check_shown(hash, &held);
                }
                _ => {}
            }
        }
    }

    /// Nothing stale is ever shown, neither a row nor a flush.
    fn check_shown(&self, hash: KeyHash, held: &Held) {
        let Held { ballot, row, .. } = held;
        if ballot.epoch >= Epoch(JOINT) {
            assert!(self.disk.applied.contains(ballot), "{ballot} was never stored");
        } else if row.is_some() {
            assert_eq!(row.as_ref(), self.sources.rows.get(&hash), "a stale row");
        } else {
            assert!([Ballot::ZERO, self.sources.flush].contains(ballot), "{ballot} is a stale flush");
        }
    }

    /// Lets all end, and compares what the replica says with what the database has.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.reopen_if_lost();
            (0..10).for_each(|_| self.call());
            while !self.calls.is_empty() {
                self.land();
            }
            while !self.ended.is_empty() {
                self.tell();
            }
            self.check_answers();
            if self.asked.is_empty() && self.rig.replica.is_open() {
                break;
            }
        }
        assert!(self.asked.is_empty(), "somebody waits for ever");
        assert_eq!(self.rig.replica.stats().errands, 0);
    }

    fn check_end(&mut self) {
        self.settle();
        if self.epoch != STABLE {
            return;
        }
        for n in 0..KEYS {
            let key = key(&n.to_string());
            let stored =
                self.disk.rows.get(&key.hash()).filter(|row| row.ballot > self.disk.record.flush).cloned();
            let ballot = stored.as_ref().map_or(self.disk.record.flush, |row| row.ballot);
            let get = self.rig.submit(ReplicaRequest::Get { epoch: Epoch(STABLE), key, digest: false });
            // Mostly a hit; else one look-up.
            let mut answers = self.rig.answers();
            while answers.is_empty() {
                self.call();
                while !self.calls.is_empty() {
                    self.land();
                }
                while !self.ended.is_empty() {
                    self.tell();
                }
                answers = self.rig.answers();
            }
            let (id, reply) = &answers[0];
            assert_eq!(*id, get);
            // The model may have lost the store at the very end.
            if self.rig.replica.is_open() && !matches!(reply, ReplicaReply::Refused(_)) {
                let ReplicaReply::Version(held) = reply else { panic!("{reply:?}") };
                assert_eq!((held.ballot, &held.row), (ballot, &stored), "the cache is wrong");
            }
        }
    }
}

#[test]
fn nothing_stale_is_shown_and_nothing_comes_back_in_random_schedules() {
    let (mut stable, mut collections) = (0, 0);
    for seed in 0..80 {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..1_500).for_each(|_| world.step());
            world.check_end();
            assert!(world.answered > 100, "the schedule did nothing");
            (u32::from(world.epoch == STABLE), world.disk.collected.len())
        });
        match result {
            Ok((finished, collected)) => {
                stable += finished;
                collections += collected;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(stable > 25 && collections > 25, "{stable} copies, {collections} collected keys");
}
