//! Reads of committed state: from the cache, or from the database in batches.

use tercet_common::message::Held;
use tercet_common::{Epoch, Key, KeyHash, PartitionId, Refusal, ReplicaReply, Row};

use super::commit::Floor;
use super::reads::{Asker, Began, LookUp};
use super::{Replica, Slot, Ticket};
use crate::store::StoreError;

/// Names a batch of look-ups between [`Replica::next_read`] and [`Replica::on_read`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadId(u64);

/// What a reader asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The epoch in which it was admitted.
    pub(super) epoch: Epoch,
    pub(super) key: Key,
    pub(super) digest: bool,
}

impl Replica {
    pub(super) fn look_up(&mut self, ticket: Ticket, slot: Slot, wanted: Wanted) {
        if let Some(row) = self.cache.get(&slot) {
            let row = row.clone();
            self.cache_hits += 1;
            self.answer_version(ticket, slot, &wanted, row.as_ref());
        } else if self.reads.len() >= self.limits.queue_len_max {
            self.answer(ticket, ReplicaReply::Refused(Refusal::Busy));
        } else {
            self.cache_misses += 1;
            self.reads.push(slot, Asker::Reader { ticket, wanted });
        }
    }

    fn answer_version(&mut self, ticket: Ticket, slot: Slot, wanted: &Wanted, row: Option<&Row>) {
        let partition = self.partition(slot);
        let flush = partition.flush();
        let reply = match row.filter(|row| !partition.hides(slot.hash, row.ballot)) {
            // It was asked as one of the replicas of an earlier epoch, and has to hide by now what it knew then.
            _ if partition.copying.is_some_and(|copying| wanted.epoch < copying.since) => {
                ReplicaReply::Refused(Refusal::Epoch { current: partition.promise.epoch })
            }
            Some(row) if row.key != wanted.key => ReplicaReply::Refused(Refusal::KeyCollision),
            Some(row) if row.ballot > flush => {
                let ballot = row.ballot;
                ReplicaReply::Version(Held { ballot, row: (!wanted.digest).then(|| row.clone()) })
            }
            // Absent, or flushed: a tombstone at the flush.
            _ => ReplicaReply::Version(Held { ballot: flush, row: None }),
        };
        self.answer(ticket, reply);
    }

    /// The next batch of keys to read, in any order; `None` when no one waits. Call [`Self::on_read`] when it has
    /// ended.
    pub fn next_read(&mut self) -> Option<(ReadId, Vec<(PartitionId, KeyHash)>)> {
        if !self.work().read {
            return None;
        }
        let partitions = &self.partitions;
        let look_ups = self.reads.take(|slot| {
            let partition = &partitions[slot.partition.index()];
            Began { commits_ended: partition.commits_ended, copying: partition.copying }
        });
        let keys = look_ups.iter().map(|look_up| (look_up.slot.partition, look_up.slot.hash)).collect();
        let id = ReadId(self.next_id());
        self.looking_up.insert(id, look_ups);
        Some((id, keys))
    }

    /// The rows in the order of the keys. Keys at the end that have none are read again.
    pub fn on_read(&mut self, id: ReadId, outcome: Result<Vec<Option<Row>>, StoreError>) {
        let Some(mut look_ups) = self.looking_up.remove(&id) else { return };
        if let Err(StoreError::Unreachable(_) | StoreError::Refused(_)) = outcome {
            self.lose();
        }
        // What was read from a store that has been lost since may be out of date.
        let rows = outcome.ok().filter(|rows| self.is_open() && (1..=look_ups.len()).contains(&rows.len()));
        let Some(rows) = rows else {
            for asker in look_ups.into_iter().flat_map(|look_up| look_up.askers) {
                self.refuse_asker(asker, Refusal::Unavailable);
            }
            return;
        };
        self.reads.put_back(look_ups.split_off(rows.len()));
        let bytes = rows.iter().flatten().map(Row::weight).sum();
        self.reads.brought(bytes);
        for (LookUp { slot, askers, began }, row) in look_ups.into_iter().zip(rows) {
            // The copy may have passed the row meanwhile, and replaced it behind this read.
            let hid = |row: &&Row| began.copying.is_some_and(|copying| copying.hides(slot.hash, row.ballot));
            let shown = row.as_ref().filter(|row| !hid(row));
            for asker in askers {
                match asker {
                    Asker::Reader { ticket, wanted } => self.answer_version(ticket, slot, &wanted, shown),
                    Asker::FloorCheck { writer, row: put } => {
                        match self.check_floor(slot, &put, row.as_ref()) {
                            Floor::Write => self.queue_write(slot, put, writer),
                            Floor::Answer(reply) => {
                                self.end_write(writer, reply);
                                self.release(slot.partition);
                            }
                        }
                    }
                }
            }
            // A commit that ended meanwhile may have written what this read did not see.
            if self.partition(slot).commits_ended == began.commits_ended {
                self.cache.insert(slot, row);
            }
        }
    }

    pub(super) fn refuse_asker(&mut self, asker: Asker, refusal: Refusal) {
        match asker {
            Asker::Reader { ticket, .. } => self.answer(ticket, ReplicaReply::Refused(refusal)),
            Asker::FloorCheck { writer, .. } => {
                self.end_write(writer, ReplicaReply::Refused(refusal));
                self.release(writer.partition);
            }
        }
    }
}
