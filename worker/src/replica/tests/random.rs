//! Random schedules of requests, commits, losses and reopenings over a model of the database, which holds the golden
//! rule against every answer. The seed is printed on failure.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// What a database with this history holds.
#[derive(Default)]
struct Model {
    rows: BTreeMap<KeyHash, Row>,
    /// Every row that was ever applied.
    applied: BTreeSet<Ballot>,
    promise: Promise,
    vector: VectorClock,
    highest: Ballot,
}

impl Model {
    fn apply(&mut self, batch: &CommitBatch) -> Vec<RowOutcome> {
        self.promise = batch.promises.iter().map(|p| p.1).fold(self.promise, Promise::max);
        let outcome = |Write { row, known, .. }: &Write| match self.rows.get(&row.key.hash()) {
            Some(held) if held.ballot > row.ballot => {
                assert!(!known, "{} is not known to be over {held:?}", row.ballot);
                RowOutcome::Superseded { ballot: held.ballot }
            }
            _ => {
                self.applied.insert(row.ballot);
                self.rows.insert(row.key.hash(), row.clone());
                self.vector.follow(&mut self.highest, row.ballot, &row.clock);
                RowOutcome::Stored
            }
        };
        batch.rows.iter().map(outcome).collect()
    }

    fn record(&self) -> PartitionRecord {
        let (vector, highest) = (self.vector.clone(), self.highest);
        PartitionRecord { promise: self.promise, vector, highest, ..Default::default() }
    }
}

enum Asked {
    Put {
        ballot: Ballot,
        hash: KeyHash,
    },
    /// With the ballots acknowledged for the key before it was asked.
    Get {
        hash: KeyHash,
        at_least: Ballot,
    },
    Prepare(Promise),
}

struct World {
    rng: StdRng,
    rig: Rig,
    model: Model,
    asked: BTreeMap<u64, Asked>,
    commits: Vec<(CommitId, CommitBatch)>,
    reads: Vec<(ReadId, Vec<Option<Row>>)>,
    promises: Option<Vec<(PartitionId, Promise)>>,
    acknowledged: BTreeMap<KeyHash, Ballot>,
    refused: BTreeSet<Ballot>,
    /// The highest promise that was answered.
    prepared: Promise,
    term: u64,
    seq: u64,
    answers: usize,
}

impl World {
    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.put(),
            30..50 => self.get(),
            50..54 => {
                self.term += self.rng.random_range(0..2);
                let promise = term(self.term);
                let id = self.rig.submit(prepare(promise));
                self.asked.insert(id, Asked::Prepare(promise));
            }
            54..68 if self.commits.len() < 3 => self.commits.extend(self.rig.replica.next_commit()),
            68..80 if !self.commits.is_empty() => self.end_commit(),
            80..86 => {
                if let Some((id, keys)) = self.rig.replica.next_read() {
                    let rows = keys.iter().map(|(_, hash)| self.model.rows.get(hash).cloned()).collect();
                    self.reads.push((id, rows));
                }
            }
            86..92 if !self.reads.is_empty() => {
                let i = self.rng.random_range(0..self.reads.len());
                let (id, rows) = self.reads.swap_remove(i);
                self.rig.replica.on_read(id, Ok(rows));
            }
            92..95 if self.promises.is_none() => self.promises = self.rig.replica.next_promises(),
            95..98 => {
                if let Some(promises) = self.promises.take() {
                    let kept = self.rng.random_bool(0.8);
                    if kept {
                        self.model.promise =
                            promises.iter().map(|p| p.1).fold(self.model.promise, Promise::max);
                    }
                    let outcome = if kept { Ok(()) } else { Err(StoreError::Timeout("in the model".into())) };
                    self.rig.replica.on_promises(outcome);
                }
            }
            _ => self.reopen_if_lost(),
        }
        self.check_answers();
    }

    fn put(&mut self) {
        self.seq += 1;
        // Now and then of the term before, as from an owner that does not know that it is deposed.
        let n = self.term - u64::from(self.term > 1 && self.rng.random_bool(0.2));
        let row = row_at(&self.rng.random_range(0..4).to_string(), term(n).ballot(self.seq));
        let (ballot, hash) = (row.ballot, row.key.hash());
        let id = self.rig.submit(ReplicaRequest::Put { row });
        self.asked.insert(id, Asked::Put { ballot, hash });
    }

    fn get(&mut self) {
        let name = self.rng.random_range(0..4).to_string();
        let hash = key(&name).hash();
        let at_least = self.acknowledged.get(&hash).copied().unwrap_or_default();
        let request =
            if self.rng.random_bool(0.3) { get_for_write(&name, term(self.term)) } else { get(&name) };
        let id = self.rig.submit(request);
        self.asked.insert(id, Asked::Get { hash, at_least });
    }

    fn end_commit(&mut self) {
        let i = self.rng.random_range(0..self.commits.len());
        let (id, batch) = self.commits.swap_remove(i);
        let outcome = match self.rng.random_range(0..20) {
            0 => aborted(),
            1 => lost(),
            2 => {
                self.model.apply(&batch);
                lost()
            }
            _ => CommitOutcome::Committed { journal_seq: 1, rows: self.model.apply(&batch) },
        };
        self.rig.replica.on_commit(id, outcome);
    }

    fn reopen_if_lost(&mut self) {
        if !self.rig.replica.work().reopen {
            return;
        }
        while !self.commits.is_empty() {
            self.end_commit();
        }
        for (id, rows) in std::mem::take(&mut self.reads) {
            self.rig.replica.on_read(id, Ok(rows));
        }
        if self.promises.take().is_some() {
            self.rig.replica.on_promises(Err(StoreError::Unreachable("in the model".into())));
        }
        self.check_answers();
        assert!(self.asked.is_empty(), "a lost store leaves nobody without an answer");
        self.rig.open(self.model.record());
    }

    fn check_answers(&mut self) {
        for (id, reply) in self.rig.answers() {
            self.answers += 1;
            match (self.asked.remove(&id).expect("one answer each"), reply) {
                (Asked::Put { ballot, hash }, ReplicaReply::Stored) => {
                    let held = &self.model.rows[&hash];
                    assert!(held.ballot >= ballot, "{ballot} was answered and is not there");
                    let acknowledged = self.acknowledged.entry(hash).or_default();
                    *acknowledged = ballot.max(*acknowledged);
                }
                (Asked::Put { ballot, .. }, ReplicaReply::Refused(_)) => _ = self.refused.insert(ballot),
                (Asked::Put { .. }, ReplicaReply::Unknown) => {}
                (Asked::Get { hash, at_least }, ReplicaReply::Version(held)) => {
                    assert!(held.ballot >= at_least, "{} is older than {at_least}", held.ballot);
                    let known = self.model.rows.get(&hash).map_or(Ballot::ZERO, |row| row.ballot);
                    assert!(held.ballot <= known, "{} was never committed", held.ballot);
                }
                (Asked::Prepare(promise), ReplicaReply::Prepared { highest, vector }) => {
                    assert!(self.model.promise >= promise, "answered before it was durable");
                    assert_eq!((highest, vector), (self.model.highest, self.model.vector.clone()));
                    self.prepared = self.prepared.max(promise);
                    for (_, batch) in &self.commits {
                        let behind = batch.rows.iter().find(|write| write.row.ballot.promise() < promise);
                        assert!(behind.is_none(), "{behind:?} may still commit behind {promise:?}");
                    }
                }
                (Asked::Get { .. } | Asked::Prepare(_), ReplicaReply::Refused(_)) => {}
                (_, reply) => panic!("not an answer to what was asked: {reply:?}"),
            }
        }
        let broken = self.refused.intersection(&self.model.applied).next();
        assert!(broken.is_none(), "{broken:?} was refused and applied");
        assert!(self.model.promise >= self.prepared);
    }
}

#[test]
fn no_answer_lies_in_random_schedules() {
    for seed in 0..300 {
        let result = std::panic::catch_unwind(|| {
            let mut world = World {
                rng: StdRng::seed_from_u64(seed),
                rig: Rig::with_limits(LIMITS),
                model: Model::default(),
                asked: BTreeMap::new(),
                commits: Vec::new(),
                reads: Vec::new(),
                promises: None,
                acknowledged: BTreeMap::new(),
                refused: BTreeSet::new(),
                prepared: Promise::ZERO,
                term: 1,
                seq: 0,
                answers: 0,
            };
            (0..600).for_each(|_| world.step());
            assert!(world.answers > 30, "the schedule did nothing");
        });
        if let Err(panic) = result {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
