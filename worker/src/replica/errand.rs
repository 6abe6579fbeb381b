//! Errands: requests that make replicas equal, from their checks to the queue of scans or of changes.
//!
//! All that concern a partition wait like a prepare: until their epoch is durable and every write accepted before has
//! ended. So a digest misses nothing that an older epoch may still acknowledge, and a collected tombstone is deleted
//! only behind the older puts that it protects from.

use tercet_common::sync::SYNC_ENTRIES_MAX;
use tercet_common::{
    Ballot, Epoch, KeyHash, PartitionId, Promise, Refusal, ReplicaReply, Row, SyncReply, SyncRequest,
    VectorClock,
};

use super::change::Change;
use super::membership::Role;
use super::partition::Then;
use super::scan::{Scan, ScanJob};
use super::{Replica, Ticket, fence};

/// A sync request, checked as far as that needs no state.
#[derive(Debug)]
pub(super) struct Errand {
    weight: usize,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// Concerns no partition.
    Worker(ScanJob),
    Scan(PartitionId, Epoch, ScanJob),
    Change(PartitionId, Promise, Deed),
}

/// What is to be changed in a partition. Versions are sorted by hash, each hash once.
#[derive(Debug)]
pub(super) enum Deed {
    Begin { copy: u64, flush: Ballot, clock: VectorClock },
    Install { copy: u64, rows: Vec<Row>, evict: Vec<(KeyHash, Ballot)>, copied_to: Option<KeyHash> },
    Finish { copy: u64, floor: Ballot, vector: VectorClock, highest: Ballot },
    Collect { floor: Ballot, tombstones: Vec<(KeyHash, Ballot)> },
}

/// Errands that are accepted and not ended.
#[derive(Debug, Default)]
pub(super) struct Errands {
    len: usize,
    bytes: usize,
}

impl Errands {
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Errand {
    pub(super) fn parse(request: SyncRequest) -> Result<Self, Refusal> {
        let weight = request.weight();
        let task = match request {
            SyncRequest::Digest { partition, epoch, from, limit } => {
                let job = ScanJob::Digest { partition, from, limit: bounded(limit) };
                Task::Scan(partition, epoch, job)
            }
            SyncRequest::Summary { partition, epoch, from } => {
                Task::Scan(partition, epoch, ScanJob::Summary { partition, from })
            }
            SyncRequest::Look { partition, epoch, hashes } => {
                check(hashes.len() <= SYNC_ENTRIES_MAX)?;
                Task::Scan(partition, epoch, ScanJob::Look { partition, hashes })
            }
            SyncRequest::Fetch { partition, epoch, hashes } => {
                check(hashes.len() <= SYNC_ENTRIES_MAX)?;
                Task::Scan(partition, epoch, ScanJob::Fetch { partition, hashes })
            }
            SyncRequest::Begin { partition, epoch, copy, flush, flush_clock } => {
                check(flush.epoch <= epoch)?;
                Task::Change(partition, fence(epoch), Deed::Begin { copy, flush, clock: flush_clock })
            }
            SyncRequest::Install { partition, epoch, copy, rows, evict, copied_to } => {
                let fits = |row: &Row| {
                    row.key.partition() == partition
                        && row.ballot != Ballot::ZERO
                        && row.ballot.epoch <= epoch
                };
                check(rows.iter().all(fits))?;
                let deed = Deed::Install { copy, rows: sorted_rows(rows)?, evict: sorted(evict)?, copied_to };
                Task::Change(partition, fence(epoch), deed)
            }
            SyncRequest::Finish { partition, epoch, copy, floor, vector, highest } => {
                check(floor.epoch <= epoch && highest.epoch <= epoch)?;
                Task::Change(partition, fence(epoch), Deed::Finish { copy, floor, vector, highest })
            }
            SyncRequest::Collect { partition, promise, floor, tombstones } => {
                // A collected tombstone above the floor would let in the puts below it.
                check(floor.promise() <= promise && tombstones.iter().all(|t| t.1 <= floor))?;
                Task::Change(partition, promise, Deed::Collect { floor, tombstones: sorted(tombstones)? })
            }
            SyncRequest::Changes { since, limit } => {
                Task::Worker(ScanJob::Changes { since, limit: bounded(limit) })
            }
            SyncRequest::Remember { memory } => Task::Worker(ScanJob::Remember { memory }),
            SyncRequest::Recall => Task::Worker(ScanJob::Recall),
        };
        Ok(Self { weight, task })
    }
}

fn check(valid: bool) -> Result<(), Refusal> {
    if valid { Ok(()) } else { Err(Refusal::Invalid) }
}

fn bounded(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, SYNC_ENTRIES_MAX)
}

fn sorted(mut versions: Vec<(KeyHash, Ballot)>) -> Result<Vec<(KeyHash, Ballot)>, Refusal> {
    check(versions.len() <= SYNC_ENTRIES_MAX)?;
    versions.sort_unstable();
    check(versions.is_sorted_by(|a, b| a.0 < b.0))?;
    Ok(versions)
}

fn sorted_rows(rows: Vec<Row>) -> Result<Vec<Row>, Refusal> {
    check(rows.len() <= SYNC_ENTRIES_MAX)?;
    let mut rows: Vec<_> = rows.into_iter().map(|row| (row.key.hash(), row)).collect();
    rows.sort_unstable_by_key(|row| row.0);
    check(rows.is_sorted_by(|a, b| a.0 < b.0))?;
    Ok(rows.into_iter().map(|row| row.1).collect())
}

impl Replica {
    /// Accepts an errand whose epoch is the partition's.
    pub(super) fn errand(&mut self, ticket: Ticket, errand: Errand) -> Result<(), Refusal> {
        let Errand { weight, task } = errand;
        let full = self.errands.len >= self.limits.queue_len_max
            || (self.errands.bytes > 0 && self.errands.bytes + weight > self.limits.queue_bytes_max);
        if full {
            return Err(Refusal::Busy);
        }
        match task {
            Task::Worker(job) => self.scans.push(Scan { ticket, weight, job }),
            Task::Scan(id, epoch, job) => {
                let scan = Scan { ticket, weight, job };
                self.await_promise(ticket, id, fence(epoch), Then::Scan(scan))?;
            }
            Task::Change(id, need, deed) => self.await_change(ticket, weight, id, need, deed)?,
        }
        self.errands.len += 1;
        self.errands.bytes += weight;
        Ok(())
    }

    fn await_change(
        &mut self,
        ticket: Ticket,
        weight: usize,
        id: PartitionId,
        need: Promise,
        deed: Deed,
    ) -> Result<(), Refusal> {
        if self.read_only {
            return Err(Refusal::Unavailable);
        }
        self.check_waiting()?;
        match &deed {
            Deed::Collect { floor, .. } => {
                let place = self.membership.place(id);
                check(place.is_none_or(|place| place.role == Role::Replica && !place.joint))?;
                self.check_promise(id, need)?;
                let partition = self.partition_mut(id);
                // From here on no put at or below it comes as new: the tombstone that would stop it may go any time.
                partition.floor = partition.floor.max(*floor);
            }
            Deed::Begin { .. } => {
                let partition = self.partition_mut(id);
                check(partition.copying.is_some())?;
                partition.beginning += 1;
            }
            Deed::Install { rows, .. } => {
                let largest = rows.iter().map(|row| row.content.data_len()).max();
                check(largest <= Some(self.limits.value_bytes_max))?;
                check(self.partition_mut(id).copying.is_some())?;
            }
            Deed::Finish { .. } => check(self.partition_mut(id).copying.is_some())?,
        }
        // Behind all that was accepted earlier, and before all that comes later. In this order: else it would wait for
        // itself.
        let partition = self.partition_mut(id);
        partition.changes += 1;
        let behind = partition.barrier.mark();
        let generation = partition.barrier.enter();
        let change = Change { ticket, weight, partition: id, need, generation, deed };
        self.wait(ticket, id, need, behind, Then::Change(Box::new(change)));
        Ok(())
    }

    /// Ends an accepted errand.
    pub(super) fn end_errand(&mut self, ticket: Ticket, weight: usize, reply: ReplicaReply) {
        self.errands.len -= 1;
        self.errands.bytes -= weight;
        self.answer(ticket, reply);
    }

    pub(super) fn synced(&mut self, ticket: Ticket, weight: usize, reply: SyncReply) {
        self.end_errand(ticket, weight, ReplicaReply::Synced(Box::new(reply)));
    }
}
