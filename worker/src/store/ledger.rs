//! Journal seqs, and what each partition has seen, without a write to the partition's row at every commit.
//!
//! A partition's `highest` ballot and its clock, the `vector`, must speak of every row that was ever stored, also after a
//! restart. Writing 1024 partition rows at the pace of the commits would double the work, so each journal row carries
//! where its commit got *above* what is durable already, and now and then a checkpoint writes the sums to the partition
//! rows. A restart reads the checkpoint and follows the journal rows after it.
//!
//! Two commits may be under way at once and end in any order. So an advance is measured against what has certainly
//! committed, and a checkpoint stands for the seq below the oldest commit that is still under way.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use tercet_common::{Ballot, PartitionId, VectorClock};

use super::codec::Advance;
use super::{CommitBatch, PartitionChange, Write};

/// What is known to be durable.
#[derive(Debug)]
pub(super) struct Ledger {
    last_seq: u64,
    /// The highest that has committed.
    durable_seq: u64,
    in_flight: BTreeSet<u64>,
    checkpoint_seq: u64,
    partitions: Vec<Seen>,
    /// Partitions that changed since the checkpoint.
    dirty: BTreeSet<PartitionId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) vector: VectorClock,
    pub(super) highest: Ballot,
}

impl Seen {
    pub(super) fn follow(&mut self, ballot: Ballot, clock: &VectorClock) {
        self.vector.follow(&mut self.highest, ballot, clock);
    }

    /// What a batch adds, partition by partition.
    pub(super) fn sums_of(batch: &CommitBatch) -> BTreeMap<PartitionId, Self> {
        let mut sums: BTreeMap<PartitionId, Self> = BTreeMap::new();
        for Write { place, row, .. } in &batch.rows {
            sums.entry(place.0).or_default().follow(row.ballot, &row.clock);
        }
        for (partition, ballot, clock) in &batch.flushes {
            sums.entry(*partition).or_default().follow(*ballot, clock);
        }
        sums
    }

    /// What a change adds. What it evicts was counted when it was stored.
    pub(super) fn sum_of(change: &PartitionChange) -> BTreeMap<PartitionId, Self> {
        let mut sum = Self { vector: change.vector.clone(), highest: change.highest };
        change.rows.iter().for_each(|row| sum.follow(row.ballot, &row.clock));
        change.flush.iter().for_each(|(ballot, clock)| sum.follow(*ballot, clock));
        BTreeMap::from([(change.partition, sum)])
    }
}

/// Sums to write to the partition rows: they cover every commit up to `seq`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) seq: u64,
    pub(super) partitions: Vec<(PartitionId, Seen)>,
}

impl Ledger {
    /// From what [`super::Store::open`] read. `replayed` are the partitions that the journal moved past the checkpoint.
    pub(super) fn new(
        last_seq: u64,
        checkpoint_seq: u64,
        partitions: Vec<Seen>,
        replayed: BTreeSet<PartitionId>,
    ) -> Self {
        let (durable_seq, in_flight) = (last_seq, BTreeSet::new());
        Self { last_seq, durable_seq, in_flight, checkpoint_seq, partitions, dirty: replayed }
    }

    /// A seq for a transaction that adds these sums, and what its journal row must say.
    pub(super) fn begin(&mut self, sums: BTreeMap<PartitionId, Seen>) -> (u64, Vec<Advance>) {
        let advances = sums.into_iter().filter_map(|(partition, sum)| {
            let seen = &self.partitions[partition.index()];
            let Seen { vector, highest } = sum;
            (highest > seen.highest).then_some(Advance { partition, highest, vector })
        });
        let advances = advances.collect();
        self.last_seq += 1;
        self.in_flight.insert(self.last_seq);
        (self.last_seq, advances)
    }

    pub(super) fn committed(&mut self, seq: u64, advances: &[Advance]) {
        self.in_flight.remove(&seq);
        self.durable_seq = self.durable_seq.max(seq);
        for advance in advances {
            self.partitions[advance.partition.index()].follow(advance.highest, &advance.vector);
            self.dirty.insert(advance.partition);
        }
    }

    /// The seq will never be in the journal.
    pub(super) fn aborted(&mut self, seq: u64) {
        self.in_flight.remove(&seq);
    }

    /// The highest seq that is in the journal for certain.
    pub(super) fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Every commit up to this seq has ended.
    pub(super) fn settled_seq(&self) -> u64 {
        self.in_flight.first().map_or(self.last_seq, |oldest| oldest - 1)
    }

    /// How many settled commits the last checkpoint does not cover.
    pub(super) fn since_checkpoint(&self) -> u64 {
        self.settled_seq().saturating_sub(self.checkpoint_seq)
    }

    /// What a checkpoint has to write. Say [`Self::checkpointed`] once it is durable, else [`Self::not_checkpointed`].
    pub(super) fn checkpoint(&mut self) -> Checkpoint {
        let dirty = mem::take(&mut self.dirty);
        let partitions = dirty.into_iter().map(|p| (p, self.partitions[p.index()].clone())).collect();
        Checkpoint { seq: self.settled_seq(), partitions }
    }

    pub(super) fn checkpointed(&mut self, checkpoint: &Checkpoint) {
        self.checkpoint_seq = checkpoint.seq;
    }

    pub(super) fn not_checkpointed(&mut self, checkpoint: Checkpoint) {
        self.dirty.extend(checkpoint.partitions.into_iter().map(|p| p.0));
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Content, Epoch, Incarnation, Key, PARTITIONS, Promise, Row, Term};

    use super::*;

    const OWNER: Incarnation = Incarnation(7);

    fn batch(seqs: impl IntoIterator<Item = u64>) -> CommitBatch {
        let promise = Promise { epoch: Epoch(1), term: Term { n: 1, incarnation: OWNER } };
        let row = |seq| Row {
            key: Key::new(format!("{{tag}}{seq}")).unwrap(),
            ballot: promise.ballot(seq),
            clock: VectorClock::new().with_dot(OWNER, seq),
            content: Content::string("v", None),
        };
        CommitBatch { rows: seqs.into_iter().map(|seq| row(seq).into()).collect(), ..CommitBatch::default() }
    }

    fn ledger() -> Ledger {
        Ledger::new(0, 0, vec![Seen::default(); usize::from(PARTITIONS)], BTreeSet::new())
    }

    fn counter(advances: &[Advance]) -> u64 {
        advances[0].vector.get(OWNER)
    }

    #[test]
    fn an_advance_is_the_highest_of_a_partitions_rows() {
        let (seq, advances) = ledger().begin(Seen::sums_of(&batch([3, 9, 5])));
        assert_eq!((seq, advances.len(), counter(&advances)), (1, 1, 9));
    }

    #[test]
    fn what_has_committed_is_not_said_again() {
        let mut ledger = ledger();
        let (seq, advances) = ledger.begin(Seen::sums_of(&batch([5])));
        ledger.committed(seq, &advances);
        assert_eq!(ledger.begin(Seen::sums_of(&batch([5]))).1, []);
        assert_eq!(counter(&ledger.begin(Seen::sums_of(&batch([6]))).1), 6);
    }

    #[test]
    fn a_commit_relies_on_no_other_that_may_still_abort() {
        let mut ledger = ledger();
        let (first, _) = ledger.begin(Seen::sums_of(&batch([5])));
        let (_, advances) = ledger.begin(Seen::sums_of(&batch([4])));
        assert_eq!(counter(&advances), 4, "5 is not durable yet");
        ledger.aborted(first);
    }

    #[test]
    fn a_checkpoint_stops_below_the_oldest_commit_under_way() {
        let mut ledger = ledger();
        let (first, first_advances) = ledger.begin(Seen::sums_of(&batch([1])));
        let (second, second_advances) = ledger.begin(Seen::sums_of(&batch([2])));
        ledger.committed(second, &second_advances);
        let checkpoint = ledger.checkpoint();
        assert_eq!(
            (checkpoint.seq, checkpoint.partitions.len()),
            (0, 1),
            "more than it stands for does no harm"
        );
        ledger.checkpointed(&checkpoint);
        assert_eq!(ledger.since_checkpoint(), 0);
        ledger.committed(first, &first_advances);
        assert_eq!((ledger.since_checkpoint(), ledger.checkpoint().seq), (2, 2));
    }

    #[test]
    fn a_checkpoint_that_failed_is_made_again() {
        let mut ledger = ledger();
        let (seq, advances) = ledger.begin(Seen::sums_of(&batch([1])));
        ledger.committed(seq, &advances);
        let checkpoint = ledger.checkpoint();
        ledger.not_checkpointed(checkpoint);
        assert_eq!(ledger.checkpoint().partitions.len(), 1);
    }
}
