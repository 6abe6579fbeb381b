//! The owner's memory of keys, and reads from it.
//!
//! ```text
//! read ─▶ remembered? ─▶ wait for the next round ─▶ promises of all workers ─▶ a quorum has none above ours ─▶ answer
//!             └── no, or not proven ─▶ ask the replicas (`read`)
//! ```
//!
//! An owner knows which version of a key is chosen last where it has put or read it itself in its term, and has nothing of
//! the key under way: a later one can come only from a frontend that has taken the partition over. That this had not
//! happened when the read came has to be proven, else a deposed owner would answer what is no longer so. The proof is
//! that a quorum of the replicas holds no promise above the owner's, at some moment after the read came: a put of a higher
//! term is chosen only once a quorum has promised that term, and the two quorums meet. So one question to each worker
//! proves it for all reads that came before, of any partition (ReadIndex: Ongaro, "Consensus: Bridging Theory and
//! Practice", 2014, section 6.4).
//!
//! Writes do not build on it: get-for-write finds out that the owner is deposed before anything was sent, and an operation
//! whose put is refused may be uncertain.
//!
//! What is remembered is void with the partition's generation: after a take-over, a flush, or a ring change. After a put
//! whose outcome is uncertain the partition is taken over again, and so the fence is there before anything else is
//! remembered.

use std::sync::Arc;
use std::time::Duration;

use tercet_common::cache::{Cache, Weight};
use tercet_common::message::Promises;
use tercet_common::mutants::{self, Mutant};
use tercet_common::quorum::majority;
use tercet_common::{Key, PARTITIONS, PartitionId, Promise, ReplicaReply, ReplicaRequest, Row, WorkerId};

use super::super::api::{Found, ReadLevel, ReadOp};
use super::arena::{Arena, Id};
use super::timer::Timer;
use super::{Answer, CallId, Core, Group, Replicas, Target, WorkerIx};

/// Rounds under way of which most workers have not answered yet. More would only carry fewer reads each.
const ROUNDS_MAX: usize = 1;

pub(super) struct Memory {
    keys: Cache<Key, Remembered>,
    /// By worker.
    standings: Vec<Standing>,
    /// Reads for the next round.
    waiting: Vec<Recalled>,
    rounds: Arena<Round>,
    /// An empty list, for its room.
    spare: Vec<Recalled>,
    /// Counts rounds.
    spared: usize,
}

/// The version of a key that is chosen last, as long as the partition's generation lasts.
#[derive(Clone)]
struct Remembered {
    generation: u64,
    /// `None`: there is none, or it is below a flush.
    row: Option<Arc<Row>>,
    /// A quorum that holds it.
    holders: Replicas,
    /// Of the key, where there is no row that shares its bytes.
    key_bytes: usize,
}

impl Weight for Remembered {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.key_bytes + self.row.as_deref().map_or(0, Weight::weight)
    }
}

/// What a worker has said of its promises.
#[derive(Default)]
struct Standing {
    upto: u64,
    /// By partition, as far as any is known. Others are zero.
    promises: Vec<Promise>,
}

impl Standing {
    /// `false`: what is new is not known in full.
    fn update(&mut self, told: Promises) -> bool {
        if told.since > self.upto || told.upto < self.upto {
            return false;
        }
        self.upto = told.upto;
        for (id, promise) in told.raised {
            if self.promises.len() <= id.index() {
                self.promises.resize(id.index() + 1, Promise::ZERO);
            }
            self.promises[id.index()] = promise;
        }
        true
    }

    fn promise(&self, id: PartitionId) -> Promise {
        self.promises.get(id.index()).copied().unwrap_or(Promise::ZERO)
    }
}

/// A read whose answer is known and has to be proven.
struct Recalled {
    op: ReadOp,
    partition: PartitionId,
    since: Duration,
    deadline: Duration,
    promise: Promise,
    remembered: Remembered,
}

/// One question to all workers.
struct Round {
    /// Those that are not proven yet.
    reads: Vec<Recalled>,
    answered: Replicas,
    asked: usize,
    ended: usize,
}

impl Memory {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            keys: Cache::new(bytes_max),
            standings: Vec::new(),
            waiting: Vec::new(),
            rounds: Arena::new(CallId::BITS),
            spare: Vec::new(),
            spared: 0,
        }
    }

    /// Reads under way.
    pub(super) fn reads(&self) -> usize {
        self.waiting.len() + self.rounds.iter().map(|(_, round)| round.reads.len()).sum::<usize>()
    }

    fn get(&mut self, key: &Key, generation: u64) -> Option<&Remembered> {
        let current = |held: &&Remembered| held.generation == generation;
        self.keys.get(key).filter(|held| current(held) || mutants::on(Mutant::MemoryOverGenerations))
    }

    pub(super) fn keep(&mut self, key: &Key, generation: u64, row: Option<&Row>, holders: Replicas) {
        if !self.keys.keeps(size_of::<Remembered>() + row.map_or(key.as_bytes().len(), Weight::weight)) {
            return self.forget(key);
        }
        // In a buffer of its own: it may stay long, and what it came in may be large.
        let row = row.map(|row| Arc::new(row.detached()));
        let (key, key_bytes) = match &row {
            Some(row) => (row.key.clone(), 0),
            None => (key.detached(), key.as_bytes().len()),
        };
        // The key that is kept shares the bytes of its own row, not of an earlier one.
        self.forget(&key);
        self.keys.insert(key, Remembered { generation, row, holders, key_bytes });
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.keys.remove(key);
    }

    fn standing(&mut self, worker: WorkerIx) -> &mut Standing {
        let at = usize::from(worker);
        if self.standings.len() <= at {
            self.standings.resize_with(at + 1, Standing::default);
        }
        &mut self.standings[at]
    }

    /// What a worker says from now on is of another stream, and perhaps of another life. What it said counts no longer:
    /// it is not known any more.
    pub(super) fn link_lost(&mut self, worker: WorkerIx) {
        *self.standing(worker) = Standing::default();
        for round in self.rounds.iter_mut() {
            round.answered.retain(|answered| *answered != worker);
        }
    }

    /// Whether a worker, as far as is known, has promised nothing higher.
    fn stands(&self, worker: WorkerIx, id: PartitionId, promise: Promise) -> bool {
        let standing = self.standings.get(usize::from(worker));
        standing.is_none_or(|standing| standing.promise(id) <= promise)
    }

    /// Whether so many have promised a higher term, as far as is known, that nothing can be proven any more.
    pub(super) fn is_outranked(&self, id: PartitionId, promise: Promise, group: &Group) -> bool {
        !group.is_quorum(|w| self.stands(w, id, promise))
    }
}

impl Core {
    /// Takes a read whose answer is remembered; else gives it back.
    pub(super) fn recall(&mut self, op: ReadOp, deadline: Duration) -> Option<ReadOp> {
        let partition = op.key.partition();
        let open = self.partition(partition).and_then(|p| Some((p.open_promise()?, p.generation())));
        let Some((promise, generation)) = open.filter(|_| op.level == ReadLevel::Quorum) else {
            return Some(op);
        };
        let Some(held) = self.memory.get(&op.key, generation) else { return Some(op) };
        let remembered = held.clone();
        let since = self.now;
        let read = Recalled { op, partition, since, deadline, promise, remembered };
        if self.is_expired(&read) {
            // Its tombstone comes first.
            return Some(read.op);
        }
        if mutants::on(Mutant::GetFromOwnerMemory) {
            let source = self.name(0);
            self.answer_recalled(read, source);
            return None;
        }
        self.memory.waiting.push(read);
        self.out.proof_due = true;
        None
    }

    fn is_expired(&self, read: &Recalled) -> bool {
        let expired = |row: &Row| row.content.expires_at().is_some() && !row.content.is_live(self.wall);
        read.remembered.row.as_deref().is_some_and(expired)
    }

    fn answer_recalled(&mut self, read: Recalled, source: WorkerId) {
        self.out.counts.remembered += 1;
        let wall = self.wall;
        let live = read.remembered.row.filter(|row| row.content.is_live(wall));
        let found = live.map(|row| Found { row, source });
        self.complete_read(read.op, read.since, Ok(found));
    }

    /// Begins a round for the reads that wait, unless enough are under way. To be called soon after [`super::Outbox::proof_due`]
    /// was set; reads that come until then go along.
    pub fn prove(&mut self) {
        let open = |round: &Round| round.ended * 2 < round.asked;
        let rounds = self.memory.rounds.iter().filter(|(_, round)| open(round)).count();
        if self.memory.waiting.is_empty() || rounds >= ROUNDS_MAX {
            return;
        }
        let spare = std::mem::take(&mut self.memory.spare);
        let reads = std::mem::replace(&mut self.memory.waiting, spare);
        let workers = self.witnesses(&reads);
        let id = self.memory.rounds.insert(Round { reads, answered: Replicas::new(), asked: 0, ended: 0 });
        let mut asked = 0;
        for worker in workers {
            let since = self.memory.standing(worker).upto;
            asked += usize::from(self.call(worker, Target::Proof(id), ReplicaRequest::Promises { since }));
        }
        if let Some(round) = self.memory.rounds.get_mut(id) {
            round.asked = asked;
        }
        self.timers.set(self.now + self.tuning.hedge_after, Timer::Proof(id));
        self.judge_round(id);
    }

    /// Workers whose answers can prove all of these reads that can be proven: of those in reach, as few as leave each its
    /// quorum. Whom it spares changes from round to round.
    fn witnesses(&mut self, reads: &[Recalled]) -> Replicas {
        let mut workers: Replicas =
            (0..self.names.len() as WorkerIx).filter(|w| self.is_available(*w)).collect();
        self.memory.spared = self.memory.spared.wrapping_add(1);
        let turns = self.memory.spared % workers.len().max(1);
        workers.rotate_left(turns);
        // Many reads are of few partitions.
        let mut seen = [false; PARTITIONS as usize];
        let first = |read: &&Recalled| !std::mem::replace(&mut seen[read.partition.index()], true);
        let group_of =
            |read: &'_ Recalled| Some((&self.partition(read.partition)?.group, read.partition, read.promise));
        let groups: Vec<_> = reads.iter().filter(first).filter_map(group_of).collect();
        let mut at = 0;
        while at < workers.len() {
            let spared = workers[at];
            let others = |w: WorkerIx| w != spared && workers.contains(&w);
            // One without a quorum loses nothing.
            let lost = |(group, id, promise): &(&Group, PartitionId, Promise)| {
                let stands = |w: WorkerIx| self.memory.stands(w, *id, *promise);
                group.is_quorum(|w| workers.contains(&w) && stands(w))
                    && !group.is_quorum(|w| others(w) && stands(w))
            };
            if groups.iter().any(lost) {
                at += 1;
            } else {
                workers.remove(at);
            }
        }
        workers
    }

    pub(super) fn proof_answer(&mut self, id: Id, worker: WorkerIx, answer: Answer) {
        let told = match answer {
            Answer::Reply(ReplicaReply::Promises(told)) => self.memory.standing(worker).update(told),
            Answer::Reply(_) | Answer::Lost => false,
        };
        if let Some(round) = self.memory.rounds.get_mut(id) {
            round.ended += 1;
            if told {
                round.answered.push(worker);
            }
            self.judge_round(id);
        }
        self.out.proof_due |= !self.memory.waiting.is_empty();
    }

    /// Answers what is proven. What cannot be any more asks the replicas.
    fn judge_round(&mut self, id: Id) {
        let Some(round) = self.memory.rounds.get_mut(id) else { return };
        let over = round.ended == round.asked;
        // Nearly all groups are of one size, so that there is no use in looking before so many have answered.
        let group =
            round.reads.first().and_then(|read| self.partitions.get(read.partition.index())?.as_ref());
        let enough = group.map_or(0, |p| majority(p.group.replicas.len()));
        if !over && round.answered.len() < enough {
            return;
        }
        let (mut reads, answered) = (std::mem::take(&mut round.reads), round.answered.clone());
        let mut left = Vec::new();
        self.out.completions.reserve(reads.len());
        for read in reads.drain(..) {
            match self.proof(&read, &answered) {
                Some(source) => self.answer_recalled(read, source),
                None => left.push(read),
            }
        }
        if self.memory.spare.capacity() < reads.capacity() {
            self.memory.spare = reads;
        }
        if over || left.is_empty() {
            self.memory.rounds.remove(id);
            self.reread(left);
        } else if let Some(round) = self.memory.rounds.get_mut(id) {
            round.reads = left;
        }
    }

    /// A replica that holds the version and has helped to prove that it was the last when the read came.
    fn proof(&self, read: &Recalled, answered: &[WorkerIx]) -> Option<WorkerId> {
        let partition = self.partition(read.partition)?;
        let standings = &self.memory.standings;
        let stands = |w: WorkerIx| {
            let standing = standings.get(usize::from(w)).filter(|_| answered.contains(&w));
            standing.is_some_and(|standing| standing.promise(read.partition) <= read.promise)
        };
        let group = &partition.group;
        let proven = match mutants::on(Mutant::ProofOfOne) {
            true => group.everyone().into_iter().any(stands),
            false => group.is_quorum(stands),
        };
        if !proven || partition.generation() != read.remembered.generation || self.is_expired(read) {
            return None;
        }
        let source = group.replicas.iter().find(|w| read.remembered.holders.contains(w) && stands(**w))?;
        Some(self.name(*source))
    }

    /// The round takes too long.
    pub(super) fn proof_timer(&mut self, id: Id) {
        if let Some(round) = self.memory.rounds.remove(id) {
            self.reread(round.reads);
        }
        self.out.proof_due |= !self.memory.waiting.is_empty();
    }

    fn reread(&mut self, reads: Vec<Recalled>) {
        for Recalled { op, partition, promise, since, deadline, .. } in reads {
            self.out.counts.unproven += 1;
            let group = self.partition(partition).map(|p| &p.group);
            if group.is_some_and(|group| self.memory.is_outranked(partition, promise, group)) {
                self.memory.forget(&op.key);
            }
            self.ask_replicas(op, since, deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Ballot, Content, VectorClock};

    use super::*;

    #[test]
    fn that_there_is_nothing_weighs_as_much_as_the_key() {
        let mut memory = Memory::new(100_000);
        for n in 0..1_000 {
            let key = Key::new(format!("{n:01000}")).unwrap();
            memory.keep(&key, 1, None, Replicas::new());
        }
        assert!((10..100).contains(&memory.keys.len()), "{}", memory.keys.len());
    }

    #[test]
    fn what_is_too_large_takes_the_place_of_what_was_remembered() {
        let mut memory = Memory::new(100_000);
        let key = Key::new("k").unwrap();
        let row = |len: usize| Row {
            key: key.clone(),
            ballot: Ballot::ZERO,
            clock: VectorClock::new(),
            content: Content::string(vec![b'v'; len], None),
        };
        memory.keep(&key, 1, Some(&row(100)), Replicas::new());
        assert!(memory.get(&key, 1).is_some() && memory.get(&key, 2).is_none());
        memory.keep(&key, 1, Some(&row(90_000)), Replicas::new());
        assert!(memory.get(&key, 1).is_none());
    }
}
