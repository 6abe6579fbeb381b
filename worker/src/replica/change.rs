//! Changes: errands that write to one partition beside the group commits, in a transaction of their own.
//!
//! They compete with group commits; the store compares ballots, and the rules here see to the rest:
//!
//! - From its acceptance to its end, no write of the partition is said to be known ([`crate::store::Write`]): what it is
//!   written over is what the change may be about to write.
//! - A change stands in the barrier like a write, and waits behind it like a prepare. So a prepare waits for it, a
//!   collection for an earlier install, and the changes of one partition run one after the other, in their order.
//! - A change that would change nothing durable is not sent: it ends when its turn comes, as if it had been.
//! - What a change touched is dropped from the cache, and a commit that raced it does not fill the cache.
//! - While a copy begins, no flush is accepted: the copy sets the flush, and must not undo one that is later.
//! - Once a copy has finished, nothing of a copy is accepted in its epoch any more.

use std::collections::VecDeque;

use tercet_common::{KeyHash, PartitionId, Promise, Refusal, ReplicaReply, SyncReply, VectorClock};

use super::barrier::Generation;
use super::copying::{Copied, Copying};
use super::errand::Deed;
use super::{Replica, Slot, Ticket};
use crate::store::{CommitOutcome, PartitionChange, RowOutcome, StoreError};

/// Names a change between [`Replica::next_change`] and [`Replica::on_change`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ChangeId(u64);

/// An accepted errand that writes.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) ticket: Ticket,
    pub(super) weight: usize,
    pub(super) partition: PartitionId,
    /// What must be promised, and not exceeded, when it is sent to the store.
    pub(super) need: Promise,
    pub(super) generation: Generation,
    pub(super) deed: Deed,
}

/// A change under way.
#[derive(Debug)]
pub(super) struct Changing {
    end: End,
    sent: PartitionChange,
    /// What the copy's progress is then.
    copying: Option<Copying>,
}

/// What is to be undone when a change ends, however it ends.
#[derive(Clone, Copy, Debug)]
struct End {
    ticket: Ticket,
    weight: usize,
    partition: PartitionId,
    generation: Generation,
    begins: bool,
}

impl Change {
    pub(super) fn collects(&self) -> bool {
        matches!(self.deed, Deed::Collect { .. })
    }

    fn end(&self) -> End {
        End {
            ticket: self.ticket,
            weight: self.weight,
            partition: self.partition,
            generation: self.generation,
            begins: matches!(self.deed, Deed::Begin { .. }),
        }
    }
}

/// Why a change ends without the store.
enum NotSent {
    Refused(Refusal),
    /// The copy of this epoch has finished.
    Whole,
}

impl From<NotSent> for ReplicaReply {
    fn from(not_sent: NotSent) -> Self {
        match not_sent {
            NotSent::Refused(refusal) => Self::Refused(refusal),
            NotSent::Whole => Self::Synced(Box::new(SyncReply::Whole)),
        }
    }
}

/// At most one of each partition: the barrier holds back the others.
#[derive(Debug, Default)]
pub(super) struct ChangeQueue {
    waiting: VecDeque<Change>,
}

impl ChangeQueue {
    pub(super) fn is_ready(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, change: Change) {
        self.waiting.push_back(change);
    }
}

impl Replica {
    /// The next change; `None` when none may start. Several may be under way, each on another partition. Call
    /// [`Self::on_change`] when it has ended.
    pub fn next_change(&mut self) -> Option<(ChangeId, PartitionChange)> {
        while self.work().change {
            let change = self.changes.waiting.pop_front()?;
            let (id, end) = (change.partition, change.end());
            match self.prepare_change(change) {
                Ok((sent, copying)) => {
                    let knows = self.partitions[id.index()].knows(&sent);
                    let id = ChangeId(self.next_id());
                    self.changing.insert(id, Changing { end, sent: sent.clone(), copying });
                    if !knows {
                        return Some((id, sent));
                    }
                    // Of an empty partition, only the end of the copy costs a transaction.
                    self.on_change(id, CommitOutcome::Committed { journal_seq: 0, rows: Vec::new() });
                }
                Err(not_sent) => {
                    self.end_change(end, not_sent.into());
                    self.release(id);
                }
            }
        }
        None
    }

    /// What to send to the store, and what the copy's progress is once that is durable; or the answer at once.
    fn prepare_change(&self, change: Change) -> Result<(PartitionChange, Option<Copying>), NotSent> {
        if let Some(refusal) = self.outdated(change.partition, change.need) {
            return Err(NotSent::Refused(refusal));
        }
        if self.read_only {
            return Err(NotSent::Refused(Refusal::Unavailable));
        }
        let partition = &self.partitions[change.partition.index()];
        let none = PartitionChange::none(change.partition);
        // Whatever was accepted under a promise is not durable without it.
        let mut sent = PartitionChange { promise: partition.promise, ..none };
        const INVALID: NotSent = NotSent::Refused(Refusal::Invalid);
        let begun = |copy| {
            let under_way = |copying: &Copying| copying.begun == Some(copy) && !copying.is_whole();
            partition.copying.filter(under_way).ok_or(INVALID)
        };
        let copying = match change.deed {
            Deed::Begin { copy, flush, clock } => {
                let copying = partition.copying.ok_or(INVALID)?;
                if copying.is_whole() {
                    return Err(NotSent::Whole);
                }
                // A flush of the joint epoch was accepted here, and one that an earlier copy of this epoch set explains
                // what that left out: they stay. What the worker had before counts for nothing.
                let own = partition.flush.epoch < copying.since && copying.begun.is_none();
                if own || partition.flush < flush {
                    sent.highest = flush;
                    sent.vector = clock.clone();
                    sent.flush = Some((flush, clock));
                }
                Some(Copying { begun: Some(copy), copied: Copied::NOTHING, ..copying })
            }
            Deed::Install { copy, rows, evict, copied_to } => {
                let copying = begun(copy)?;
                sent.highest = rows.iter().map(|row| row.ballot).max().unwrap_or_default();
                sent.vector = rows.iter().fold(VectorClock::new(), |mut vector, row| {
                    vector.join(&row.clock);
                    vector
                });
                (sent.rows, sent.evict) = (rows, evict);
                let copied = copied_to.map_or(copying.copied, |end| copying.copied.max(Copied::Below(end)));
                Some(Copying { copied, ..copying })
            }
            Deed::Finish { copy, floor, vector, highest } => {
                let copying = begun(copy)?;
                (sent.floor, sent.vector, sent.highest) = (floor, vector, highest);
                sent.copied = copying.since;
                Some(Copying { copied: Copied::All, ..copying })
            }
            Deed::Collect { floor, tombstones } => {
                (sent.floor, sent.evict) = (floor, tombstones);
                partition.copying
            }
        };
        Ok((sent, copying))
    }

    pub fn on_change(&mut self, id: ChangeId, outcome: CommitOutcome) {
        let Some(Changing { end, sent, copying }) = self.changing.remove(&id) else { return };
        let id = end.partition;
        self.changes_ended += 1;
        let now = self.changes_ended;
        let partition = self.partition_mut(id);
        partition.commits_ended += 1;
        partition.changed_at = now;
        let reply = match outcome {
            CommitOutcome::Committed { rows, .. } if rows.len() == sent.rows.len() => {
                let collided = rows.contains(&RowOutcome::KeyCollision);
                // A row that another key keeps out is not copied, so the copy has not passed it.
                self.change_committed(sent, copying.filter(|_| !collided));
                match collided {
                    false => ReplicaReply::Synced(Box::new(SyncReply::Done)),
                    true => ReplicaReply::Refused(Refusal::KeyCollision),
                }
            }
            CommitOutcome::Aborted(error) => {
                match error {
                    StoreError::DiskFull(_) => {
                        self.read_only = true;
                        self.refuse_waiting_writes();
                    }
                    StoreError::Unreachable(_) | StoreError::Refused(_) => self.lose(),
                    StoreError::Timeout(_) | StoreError::Failed(_) => {}
                }
                ReplicaReply::Refused(Refusal::Unavailable)
            }
            // Lost first, as in `on_commit`.
            CommitOutcome::Unknown(_) | CommitOutcome::Committed { .. } => {
                self.lose();
                ReplicaReply::Unknown
            }
        };
        self.end_change(end, reply);
        self.release(id);
    }

    fn change_committed(&mut self, sent: PartitionChange, progress: Option<Copying>) {
        let id = sent.partition;
        let touched = sent.rows.iter().map(|row| row.key.hash());
        let touched: Vec<KeyHash> = touched.chain(sent.evict.iter().map(|version| version.0)).collect();
        for hash in touched {
            self.cache.remove(&Slot { partition: id, hash });
        }
        let partition = self.partition_mut(id);
        partition.durable = partition.durable.max(sent.promise);
        partition.floor = partition.floor.max(sent.floor);
        partition.durable_floor = partition.durable_floor.max(sent.floor);
        partition.copied = partition.copied.max(sent.copied);
        partition.learn(sent.highest, &sent.vector);
        // The configuration may have changed meanwhile.
        if let (Some(copying), Some(progress)) = (&mut partition.copying, progress)
            && copying.since == progress.since
        {
            *copying = progress;
        }
        if let Some((flush, clock)) = sent.flush {
            let changed = partition.flush != flush;
            (partition.flush, partition.flush_clock) = (flush, clock);
            // Rows that the former flush covered were absent, and may be there now.
            if changed {
                self.cache.remove_partition(id);
            }
        }
    }

    fn end_change(&mut self, end: End, reply: ReplicaReply) {
        let partition = self.partition_mut(end.partition);
        partition.barrier.leave(end.generation);
        partition.changes -= 1;
        partition.beginning -= usize::from(end.begins);
        self.end_errand(end.ticket, end.weight, reply);
    }

    /// Refuses a change that was not sent. Those that it held back are released by the caller.
    pub(super) fn refuse_change(&mut self, change: &Change, refusal: Refusal) {
        self.end_change(change.end(), ReplicaReply::Refused(refusal));
    }

    pub(super) fn refuse_waiting_changes(&mut self) {
        let changes = std::mem::take(&mut self.changes.waiting);
        for change in &changes {
            self.refuse_change(change, Refusal::Unavailable);
        }
        for change in &changes {
            self.release(change.partition);
        }
    }
}
