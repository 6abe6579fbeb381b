//! What a memory disk holds, and what a commit does to it.

use std::collections::{BTreeMap, BTreeSet};

use tercet_common::sync::{Changes, DigestEntry, Memory, Position, Witness};
use tercet_common::{Ballot, KeyHash, PartitionId, Promise, Row, WorkerId};

use super::super::{
    CONFLICT_BYTES_MAX, CONFLICTS_MAX, CommitBatch, Conflict, PartitionChange, PartitionRecord, RingRegister,
    RowOutcome, Stretch, Write, digest_entry, place_of,
};

/// A durable transaction.
pub(super) enum Work {
    Commit(CommitBatch),
    Change(PartitionChange),
}

#[derive(Clone, Default)]
struct JournalRow {
    entries: Vec<(PartitionId, KeyHash)>,
    flushed: Vec<PartitionId>,
}

/// All that outlives a store. Partitions, like rows, are there once something was written to them.
#[derive(Clone)]
pub(super) struct Durable {
    pub(super) worker_uuid: String,
    pub(super) boot_generation: u64,
    pub(super) register: RingRegister,
    /// Of the newest transaction.
    pub(super) journal_seq: u64,
    pub(super) rows: BTreeMap<(PartitionId, KeyHash), Row>,
    partitions: BTreeMap<PartitionId, PartitionRecord>,
    journal: BTreeMap<u64, JournalRow>,
    /// The highest seq that is no longer in the journal for its age.
    pruned_seq: u64,
    positions: BTreeMap<String, u64>,
    witnesses: BTreeMap<WorkerId, Witness>,
    conflicts: Vec<Conflict>,
}

impl Durable {
    pub(super) fn new(worker_uuid: String) -> Self {
        Self {
            worker_uuid,
            boot_generation: 0,
            register: RingRegister::default(),
            journal_seq: 0,
            rows: BTreeMap::new(),
            partitions: BTreeMap::new(),
            journal: BTreeMap::new(),
            pruned_seq: 0,
            positions: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            conflicts: Vec::new(),
        }
    }

    pub(super) fn partition_records(&self, first: usize) -> Vec<PartitionRecord> {
        PartitionId::all()
            .take(first)
            .map(|partition| self.partitions.get(&partition).cloned().unwrap_or_default())
            .collect()
    }

    pub(super) fn flushed(&self, row: &Row) -> bool {
        let record = self.partitions.get(&row.key.partition());
        record.is_some_and(|record| row.ballot < record.flush)
    }

    pub(super) fn apply(&mut self, seq: u64, work: Work) -> Vec<RowOutcome> {
        match work {
            Work::Commit(batch) => self.commit(seq, batch),
            Work::Change(change) => self.change(seq, change),
        }
    }

    fn commit(&mut self, seq: u64, batch: CommitBatch) -> Vec<RowOutcome> {
        let journal = self.journal(seq);
        journal.entries.extend(batch.rows.iter().map(|write| write.place));
        journal.flushed.extend(batch.flushes.iter().map(|flush| flush.0));
        for (partition, promise) in batch.promises {
            self.raise(partition, promise);
        }
        for (partition, ballot, clock) in batch.flushes {
            if ballot > self.record(partition).flush {
                self.flush(partition, ballot, clock.clone());
            }
            self.observe(partition, ballot, &clock);
        }
        let write = |Write { place, row, known }| {
            if known {
                // Not looked at, as is the contract: whoever breaks it shall be noticed.
                self.rows.remove(&place);
            }
            self.write(row)
        };
        batch.rows.into_iter().map(write).collect()
    }

    fn change(&mut self, seq: u64, change: PartitionChange) -> Vec<RowOutcome> {
        let partition = change.partition;
        let hashes: BTreeSet<_> =
            change.rows.iter().map(|row| row.key.hash()).chain(change.evict.iter().map(|e| e.0)).collect();
        let journal = self.journal(seq);
        journal.entries.extend(hashes.into_iter().map(|hash| (partition, hash)));
        journal.flushed.extend(change.flush.as_ref().map(|_| partition));
        self.raise(partition, change.promise);
        self.observe(partition, change.highest, &change.vector);
        let record = self.record(partition);
        record.floor = record.floor.max(change.floor);
        record.copied = record.copied.max(change.copied);
        if let Some((ballot, clock)) = change.flush {
            self.observe(partition, ballot, &clock);
            self.flush(partition, ballot, clock);
        }
        for (hash, ballot) in change.evict {
            let at = (partition, hash);
            if self.rows.get(&at).is_some_and(|row| row.ballot == ballot) {
                self.rows.remove(&at);
            }
        }
        change.rows.into_iter().map(|row| self.write(row)).collect()
    }

    /// The row of the journal for a transaction that becomes durable.
    fn journal(&mut self, seq: u64) -> &mut JournalRow {
        self.journal_seq = self.journal_seq.max(seq);
        self.journal.entry(seq).or_default()
    }

    /// A journal row that names nothing, for a transaction that writes no rows.
    pub(super) fn note(&mut self, seq: u64) {
        self.journal(seq);
    }

    pub(super) fn partition(&self, partition: PartitionId) -> PartitionRecord {
        self.partitions.get(&partition).cloned().unwrap_or_default()
    }

    fn record(&mut self, partition: PartitionId) -> &mut PartitionRecord {
        self.partitions.entry(partition).or_default()
    }

    pub(super) fn raise(&mut self, partition: PartitionId, promise: Promise) {
        let record = self.record(partition);
        record.promise = record.promise.max(promise);
    }

    fn observe(&mut self, partition: PartitionId, ballot: Ballot, clock: &tercet_common::VectorClock) {
        let record = self.record(partition);
        record.vector.follow(&mut record.highest, ballot, clock);
    }

    fn flush(&mut self, partition: PartitionId, ballot: Ballot, clock: tercet_common::VectorClock) {
        let record = self.record(partition);
        (record.flush, record.flush_clock) = (ballot, clock);
        let below: Vec<_> = stretch(&self.rows, partition, KeyHash([0; 16]))
            .filter(|(_, row)| row.ballot < ballot)
            .map(|(hash, _)| hash)
            .collect();
        for hash in below {
            self.rows.remove(&(partition, hash));
        }
    }

    fn write(&mut self, row: Row) -> RowOutcome {
        let place = place_of(&row);
        self.observe(place.0, row.ballot, &row.clock);
        match self.rows.get(&place) {
            Some(stored) if stored.key != row.key => RowOutcome::KeyCollision,
            Some(stored) if stored.ballot > row.ballot => RowOutcome::Superseded { ballot: stored.ballot },
            Some(stored) if stored.ballot == row.ballot => RowOutcome::Stored,
            _ => {
                self.rows.insert(place, row);
                RowOutcome::Stored
            }
        }
    }

    pub(super) fn digest(&self, partition: PartitionId, from: KeyHash, limit: usize) -> Stretch {
        let mut rows = stretch(&self.rows, partition, from);
        let looked_at = rows.by_ref().take(limit.max(1));
        let entries = looked_at
            .filter(|(_, row)| !self.flushed(row))
            .map(|(hash, row)| digest_entry(hash, row))
            .collect();
        Stretch { entries, next: rows.next().map(|(hash, _)| hash) }
    }

    pub(super) fn look(&self, partition: PartitionId, hashes: &[KeyHash]) -> Vec<DigestEntry> {
        let hashes: BTreeSet<_> = hashes.iter().copied().collect();
        let found = hashes.into_iter().filter_map(|hash| Some((hash, self.rows.get(&(partition, hash))?)));
        found.filter(|(_, row)| !self.flushed(row)).map(|(hash, row)| digest_entry(hash, row)).collect()
    }

    /// What was committed behind `since` up to `settled`.
    pub(super) fn changes(&self, since: u64, settled: u64, limit: usize) -> Changes {
        let mut changes = Changes { upto: since, pruned: since < self.pruned_seq, ..Changes::default() };
        if changes.pruned || settled <= since {
            return changes;
        }
        let mut entries = BTreeSet::new();
        let mut flushed = BTreeSet::new();
        for (seq, row) in self.journal.range(since + 1..=settled) {
            if changes.upto > since && entries.len() + row.entries.len() > limit {
                changes.more = true;
                break;
            }
            entries.extend(row.entries.iter().copied());
            flushed.extend(row.flushed.iter().copied());
            changes.upto = *seq;
        }
        changes.entries = entries.into_iter().collect();
        changes.flushed = flushed.into_iter().collect();
        changes
    }

    /// Forgets all but the newest `keep` seqs.
    pub(super) fn prune(&mut self, keep: u64) {
        let kept = self.journal.split_off(&(self.journal_seq.saturating_sub(keep) + 1));
        let gone = std::mem::replace(&mut self.journal, kept);
        self.pruned_seq = gone.last_key_value().map_or(self.pruned_seq, |(seq, _)| *seq);
    }

    pub(super) fn remember(&mut self, memory: Memory) {
        for Position { peer, seq } in memory.positions {
            let kept = self.positions.entry(peer).or_default();
            *kept = seq.max(*kept);
        }
        for mut witness in memory.witnesses {
            if let Some(kept) = self.witnesses.get(&witness.worker).filter(|kept| kept.uuid == witness.uuid) {
                witness.boot_generation = witness.boot_generation.max(kept.boot_generation);
                witness.journal_seq = witness.journal_seq.max(kept.journal_seq);
            }
            self.witnesses.insert(witness.worker.clone(), witness);
        }
    }

    pub(super) fn recall(&self) -> Memory {
        let positions = self.positions.iter().map(|(peer, seq)| Position { peer: peer.clone(), seq: *seq });
        Memory { positions: positions.collect(), witnesses: self.witnesses.values().cloned().collect() }
    }

    pub(super) fn keep_conflict(&mut self, conflict: Conflict) -> bool {
        let of = |kept: &Conflict| [&kept.higher, &kept.lower].map(|row| (row.key.clone(), row.ballot));
        let len = |row: &Row| row.content.data_len();
        let bytes: usize = self.conflicts.iter().map(|kept| len(&kept.higher) + len(&kept.lower)).sum();
        let known = self.conflicts.iter().any(|kept| of(kept) == of(&conflict));
        let keeps = !known && self.conflicts.len() < CONFLICTS_MAX && bytes < CONFLICT_BYTES_MAX;
        if keeps {
            self.conflicts.push(conflict);
        }
        keeps
    }

    pub(super) fn drop_leftovers(&mut self, partitions: &[PartitionId], limit: usize) -> u64 {
        let partitions: BTreeSet<_> = partitions.iter().copied().collect();
        let places = partitions.into_iter().flat_map(|partition| {
            stretch(&self.rows, partition, KeyHash([0; 16])).map(move |(hash, _)| (partition, hash))
        });
        let places: Vec<_> = places.take(limit).collect();
        for place in &places {
            self.rows.remove(place);
        }
        places.len() as u64
    }
}

/// The rows of a partition from a hash on.
fn stretch(
    rows: &BTreeMap<(PartitionId, KeyHash), Row>,
    partition: PartitionId,
    from: KeyHash,
) -> impl Iterator<Item = (KeyHash, &Row)> {
    let range = rows.range((partition, from)..=(partition, KeyHash([0xff; 16])));
    range.map(|((_, hash), row)| (*hash, row))
}
