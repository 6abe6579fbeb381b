//! Reads of committed state: from the cache, or from the database in batches.

use tercet_common::message::Held;
use tercet_common::{Key, KeyHash, PartitionId, Refusal, ReplicaReply, Row};

use super::reads::{Asker, LookUp};
use super::{Replica, Slot, Ticket};
use crate::store::StoreError;

/// Names a batch of look-ups between [`Replica::next_read`] and [`Replica::on_read`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadId(u64);

impl Replica {
    pub(super) fn look_up(&mut self, ticket: Ticket, slot: Slot, key: Key, digest: bool) {
        if let Some(row) = self.cache.get(&slot) {
            let row = row.clone();
            self.cache_hits += 1;
            self.answer_version(ticket, slot, &key, row.as_ref(), digest);
        } else if self.reads.len() >= self.limits.queue_len_max {
            self.answer(ticket, ReplicaReply::Refused(Refusal::Busy));
        } else {
            self.cache_misses += 1;
            self.reads.push(slot, Asker::Reader { ticket, key, digest });
        }
    }

    fn answer_version(&mut self, ticket: Ticket, slot: Slot, key: &Key, row: Option<&Row>, digest: bool) {
        let flush = self.partition(slot).flush;
        let reply = match row {
            Some(row) if row.key != *key => ReplicaReply::Refused(Refusal::KeyCollision),
            Some(row) if row.ballot > flush => {
                let ballot = row.ballot;
                ReplicaReply::Version(Held { ballot, row: (!digest).then(|| row.clone()) })
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
        let look_ups = self.reads.take(|slot| partitions[slot.partition.index()].commits_ended);
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
        for (LookUp { slot, askers, began_at }, row) in look_ups.into_iter().zip(rows) {
            for asker in askers {
                match asker {
                    Asker::Reader { ticket, key, digest } => {
                        self.answer_version(ticket, slot, &key, row.as_ref(), digest);
                    }
                    Asker::FloorCheck { writer, row: put } if row.is_some() => {
                        self.queue_write(slot, put, writer);
                    }
                    check @ Asker::FloorCheck { .. } => {
                        let floor = self.partition(slot).floor;
                        self.refuse_asker(check, Refusal::Floor { floor });
                    }
                }
            }
            // A commit that ended meanwhile may have written what this read did not see.
            if self.partition(slot).commits_ended == began_at {
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
