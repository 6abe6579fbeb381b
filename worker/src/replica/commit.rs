//! Writes: put, replicate and flush, from their checks to the outcome of their commit.

use tercet_common::mutants::{self, Mutant};
use tercet_common::{Ballot, Epoch, PartitionId, Promise, Refusal, ReplicaReply, Row, VectorClock};

use super::reads::Asker;
use super::writes::{FlushWrite, KeyWrite, Taken, Writer};
use super::{Replica, Slot, Ticket, fence, settled};
use crate::store::{CommitBatch, CommitOutcome, RowOutcome, StoreError, Write};

/// Names a batch between [`Replica::next_commit`] and [`Replica::on_commit`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CommitId(u64);

/// A transaction under way.
pub(super) struct InFlight {
    taken: Taken,
    promises: Vec<(PartitionId, Promise)>,
    /// How many changes had ended when it started.
    changes_ended: u64,
}

/// What becomes of a write at or below the floor.
#[expect(clippy::large_enum_variant, reason = "lives for one call")]
pub(super) enum Floor {
    Write,
    Answer(ReplicaReply),
}

/// What a flush counts for in the queue's bytes.
const FLUSH_WEIGHT: usize = 128;

impl Replica {
    pub(super) fn put(&mut self, ticket: Ticket, slot: Slot, row: Row) -> Result<(), Refusal> {
        let promise = row.ballot.promise();
        self.check_promise(slot.partition, promise)?;
        self.write(ticket, slot, row, promise)
    }

    /// Accepts a row and raises the promise to `promise`, which the caller has checked as far as it has to be.
    pub(super) fn write(
        &mut self,
        ticket: Ticket,
        slot: Slot,
        row: Row,
        promise: Promise,
    ) -> Result<(), Refusal> {
        if row.ballot == Ballot::ZERO || row.content.data_len() > self.limits.value_bytes_max {
            return Err(Refusal::Invalid);
        }
        let weight = row.weight();
        self.check_room(weight)?;
        let partition = self.partition(slot);
        if partition.hides(slot.hash, row.ballot) {
            // What is stored is shown. The copy brings it, if it is to be there.
            return Err(Refusal::Unavailable);
        }
        let flush = partition.flush();
        if row.ballot <= flush {
            self.answer(ticket, settled(row.ballot, flush));
            return Ok(());
        }
        let mut known = true;
        if row.ballot <= partition.floor && !mutants::on(Mutant::NoFloorCheck) {
            let stored = self.cache.peek(&slot);
            known = stored.is_some();
            if let Some(stored) = stored
                && let Floor::Answer(reply) = self.check_floor(slot, &row, stored.as_ref())
            {
                self.answer(ticket, reply);
                return Ok(());
            }
        }
        let writer = self.accept(ticket, slot.partition, row.ballot, promise, weight);
        if known {
            self.queue_write(slot, row, writer);
        } else {
            self.reads.push(slot, Asker::FloorCheck { writer, row });
        }
        Ok(())
    }

    /// Judges a write at or below the floor by the row that is stored.
    ///
    /// One that is there already is answered at once: in the queue, a collection could delete what is stored before
    /// its turn, and the write would come as new. Above what is stored it may be queued, since a collection deletes
    /// exact ballots that no replica has gone beyond.
    pub(super) fn check_floor(&self, slot: Slot, put: &Row, stored: Option<&Row>) -> Floor {
        match stored {
            None => {
                let floor = self.partition(slot).floor;
                Floor::Answer(ReplicaReply::Refused(Refusal::Floor { floor }))
            }
            Some(stored) if stored.key == put.key && stored.ballot >= put.ballot => {
                Floor::Answer(settled(put.ballot, stored.ballot))
            }
            Some(_) => Floor::Write,
        }
    }

    pub(super) fn flush(
        &mut self,
        ticket: Ticket,
        id: PartitionId,
        ballot: Ballot,
        clock: VectorClock,
        chosen: Option<Epoch>,
    ) -> Result<(), Refusal> {
        // One that a quorum holds cannot be refused any more, whoever owns the partition now.
        let promise = chosen.map_or(ballot.promise(), fence);
        if chosen.is_some_and(|epoch| ballot.epoch > epoch) {
            return Err(Refusal::Invalid);
        }
        if chosen.is_none() {
            self.check_promise(id, promise)?;
        }
        self.check_room(FLUSH_WEIGHT)?;
        let partition = &self.partitions[id.index()];
        if partition.hides_flush(ballot) {
            return Err(Refusal::Unavailable);
        }
        if partition.beginning > 0 {
            return Err(Refusal::Busy);
        }
        let held = partition.flush();
        if ballot <= held {
            self.answer(ticket, settled(ballot, held));
            return Ok(());
        }
        let writer = self.accept(ticket, id, ballot, promise, FLUSH_WEIGHT);
        self.writes.push_flush(ballot, clock, writer);
        Ok(())
    }

    fn check_room(&self, weight: usize) -> Result<(), Refusal> {
        if self.read_only {
            return Err(Refusal::Unavailable);
        }
        let bytes = self.writes.bytes();
        let full = self.writes.len() >= self.limits.queue_len_max
            || (bytes > 0 && bytes + weight > self.limits.queue_bytes_max);
        if full { Err(Refusal::Busy) } else { Ok(()) }
    }

    /// From here on a prepare waits for this write.
    fn accept(
        &mut self,
        ticket: Ticket,
        id: PartitionId,
        ballot: Ballot,
        promise: Promise,
        weight: usize,
    ) -> Writer {
        let partition = &mut self.partitions[id.index()];
        partition.raise(promise, &mut self.raised);
        let generation = partition.barrier.enter();
        let writer = Writer { ticket, partition: id, ballot, generation, weight };
        self.writes.accepted(&writer);
        writer
    }

    pub(super) fn queue_write(&mut self, slot: Slot, row: Row, writer: Writer) {
        if let Err(writer) = self.writes.push(slot, row, writer) {
            self.end_write(writer, ReplicaReply::Refused(Refusal::KeyCollision));
            self.release(slot.partition);
        }
    }

    pub(super) fn refuse_waiting_writes(&mut self) {
        let writers = self.writes.drain_waiting();
        for writer in &writers {
            self.end_write(*writer, ReplicaReply::Refused(Refusal::Unavailable));
        }
        for writer in &writers {
            self.release(writer.partition);
        }
    }

    /// The next transaction; `None` when nothing waits. Several may be under way. Call [`Self::on_commit`] when it
    /// has ended.
    pub fn next_commit(&mut self) -> Option<(CommitId, CommitBatch)> {
        if !self.work().commit {
            return None;
        }
        let mut taken = self.writes.take(self.limits.batch_rows_max, self.limits.batch_bytes_max);
        let mut touched: Vec<_> = taken.partitions().collect();
        touched.sort_unstable();
        touched.dedup();
        // Whatever was accepted under a promise is not durable without it.
        let promises: Vec<_> = touched
            .into_iter()
            .map(|id| (id, &self.partitions[id.index()]))
            .filter(|(_, partition)| partition.promise > partition.durable)
            .map(|(id, partition)| (id, partition.promise))
            .collect();
        let batch = CommitBatch {
            promises: promises.clone(),
            flushes: taken.flushes.iter().map(|f| (f.partition, f.ballot, f.clock.clone())).collect(),
            rows: taken.keys.iter_mut().map(|write| self.write_of(write)).collect(),
        };
        let id = CommitId(self.next_id());
        let changes_ended = self.changes_ended;
        if mutants::on(Mutant::AnswerBeforeCommit) {
            let writers = taken.keys.iter().flat_map(|write| &write.writers);
            let tickets: Vec<_> = writers.map(|writer| writer.ticket).collect();
            tickets.into_iter().for_each(|ticket| self.answer(ticket, ReplicaReply::Stored));
        }
        self.commits.insert(id, InFlight { taken, promises, changes_ended });
        Some((id, batch))
    }

    /// What the store is told of a write. The bytes of what is to be remembered are moved out of the message that they
    /// came in, once for all who will hold them.
    fn write_of(&self, KeyWrite { slot, row, .. }: &mut KeyWrite) -> Write {
        if self.cache.keeps(row) {
            *row = row.detached();
        }
        let lower = |stored: &Option<Row>| {
            stored.as_ref().is_none_or(|stored| stored.key == row.key && stored.ballot < row.ballot)
        };
        // A change that is accepted waits for the writes before it, and may run beside those that came later.
        let alone = self.partition(*slot).changes == 0 || mutants::on(Mutant::KnownWhileChanging);
        let known = alone && self.cache.peek(slot).is_some_and(lower);
        Write { place: (slot.partition, slot.hash), row: row.clone(), known }
    }

    pub fn on_commit(&mut self, id: CommitId, outcome: CommitOutcome) {
        let Some(InFlight { taken, promises, changes_ended }) = self.commits.remove(&id) else { return };
        for partition in taken.partitions() {
            self.partition_mut(partition).commits_ended += 1;
        }
        let mut touched: Vec<_> = taken.partitions().collect();
        touched.dedup();
        match outcome {
            CommitOutcome::Committed { rows, .. } if rows.len() == taken.keys.len() => {
                for (id, promise) in promises {
                    let partition = self.partition_mut(id);
                    partition.durable = partition.durable.max(promise);
                }
                taken.flushes.into_iter().for_each(|flush| self.flush_committed(flush));
                for (write, outcome) in taken.keys.into_iter().zip(rows) {
                    let raced = self.partition(write.slot).changed_at > changes_ended;
                    self.row_committed(write, outcome, raced);
                }
            }
            CommitOutcome::Aborted(error) => {
                match error {
                    // Those who wait would fail too, one batch after the other.
                    StoreError::DiskFull(_) => {
                        self.read_only = true;
                        self.refuse_waiting_writes();
                    }
                    StoreError::Unreachable(_) | StoreError::Refused(_) => self.lose(),
                    StoreError::Timeout(_) | StoreError::Failed(_) => {}
                }
                self.end_all(taken, ReplicaReply::Refused(Refusal::Unavailable));
            }
            // Closed first: a prepare that waits behind these writes must not be answered as if they had ended.
            // (A commit whose outcomes do not match its rows says nothing either.)
            CommitOutcome::Unknown(_) | CommitOutcome::Committed { .. } => {
                self.lose();
                let unknown = ReplicaReply::Unknown;
                let refused = ReplicaReply::Refused(Refusal::Unavailable);
                self.end_all(taken, if mutants::on(Mutant::UnknownAsRefused) { refused } else { unknown });
            }
        }
        for partition in touched {
            self.release(partition);
        }
    }

    fn flush_committed(&mut self, flush: FlushWrite) {
        let partition = self.partition_mut(flush.partition);
        if flush.ballot > partition.flush {
            (partition.flush, partition.flush_clock) = (flush.ballot, flush.clock.clone());
        }
        partition.learn(flush.ballot, &flush.clock);
        let winner = partition.flush;
        for writer in flush.writers {
            self.end_write(writer, settled(writer.ballot, winner));
        }
    }

    /// With `raced`, a change of the partition ended meanwhile, perhaps of this very key and after this commit.
    fn row_committed(&mut self, KeyWrite { slot, row, writers }: KeyWrite, outcome: RowOutcome, raced: bool) {
        let winner = match outcome {
            RowOutcome::Stored => {
                self.partition_mut(slot.partition).learn(row.ballot, &row.clock);
                Some(row.ballot)
            }
            RowOutcome::Superseded { ballot } => Some(ballot),
            RowOutcome::KeyCollision => None,
        };
        if raced || winner != Some(row.ballot) {
            // Rare, and cheaper than to reason about whether the cache knows what the database has.
            self.cache.remove(&slot);
        } else if self.is_open() {
            self.cache.insert(slot, Some(row));
        }
        for writer in writers {
            let reply = match winner {
                Some(winner) => settled(writer.ballot, winner),
                None => ReplicaReply::Refused(Refusal::KeyCollision),
            };
            self.end_write(writer, reply);
        }
        self.writes.landed(&slot);
    }

    fn end_all(&mut self, taken: Taken, reply: ReplicaReply) {
        for flush in taken.flushes {
            flush.writers.into_iter().for_each(|writer| self.end_write(writer, reply.clone()));
        }
        for write in taken.keys {
            write.writers.into_iter().for_each(|writer| self.end_write(writer, reply.clone()));
            self.writes.landed(&write.slot);
        }
    }
}

impl Taken {
    fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.keys.iter().map(|write| write.slot.partition).chain(self.flushes.iter().map(|f| f.partition))
    }
}
