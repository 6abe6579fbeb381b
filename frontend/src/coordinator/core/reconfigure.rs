//! Ring changes, as the owner of a partition sees them (design 4 and 6).
//!
//! ```text
//! hold ─▶ is_drained ─▶ reconfigure(joint) ─▶ promise_of ─▶ … newcomers copy … ─▶ hold ─▶ reconfigure(new)
//! ```
//!
//! Holding and draining only spare work: [`Core::reconfigure`] is safe at any moment. A new epoch voids the terms and what
//! the owner remembers of keys, and answers of one epoch never count in another. So
//!
//! - a put that is caught under way is as good as deposed: get-for-write in the new epoch tells what became of it;
//! - bases and reads under way begin again;
//! - a flush that may have reached somebody is uncertain; one that has not goes under a ballot of the new epoch;
//! - queues wait, each operation until its deadline;
//! - calls of the old epoch are left to end: what they say is counted by nobody, but a put that did not arrive is still
//!   reported as missed.
//!
//! A worker that learns of the epoch first refuses with `Epoch`. Such refusals end puts and take-overs as a higher promise
//! would; take-overs are then tried again until `reconfigure` comes.

use std::time::Duration;

use tercet_common::{Ballot, Key, KeyHash, PartitionId, Promise, WorkerId};

use super::arena::Id;
use super::group::Group;
use super::slot::{Batch, Phase, Queued, Slot};
use super::timer::Timer;
use super::{Core, FlushDone, WorkerIx};

/// A hold ends by itself after this long, so that a ring change that is given up cannot stop writes for good.
const HOLD_MAX: Duration = Duration::from_secs(1);

impl Core {
    /// Makes a worker known, not available yet. Its place is never given to another one, also once it is gone.
    pub fn add_worker(&mut self, name: WorkerId) -> WorkerIx {
        self.names.push(name);
        self.available.push(false);
        self.last_reply.push(self.now);
        (self.names.len() - 1) as WorkerIx
    }

    /// Lets no new put of the partition begin, until [`Self::release`] or [`Self::reconfigure`], for a second at most.
    /// Operations wait meanwhile.
    pub fn hold(&mut self, id: PartitionId) {
        let until = self.now + HOLD_MAX;
        let Some(partition) = self.partition_mut(id) else { return };
        partition.held_until = Some(until);
        self.timers.set(until, Timer::Hold(id));
    }

    pub fn release(&mut self, id: PartitionId) {
        let Some(partition) = self.partition_mut(id) else { return };
        if partition.held_until.take().is_some() {
            self.go_on(id);
        }
    }

    pub(super) fn hold_timer(&mut self, id: PartitionId) {
        let now = self.now;
        if self.partition(id).and_then(|p| p.held_until).is_some_and(|until| now >= until) {
            self.release(id);
        }
    }

    /// No put and no flush of the partition is under way, except that the last replica's answer may be outstanding where a
    /// quorum has acknowledged.
    pub fn is_drained(&self, id: PartitionId) -> bool {
        self.partition(id).is_none_or(|p| p.puts == 0 && !p.is_flush_sent())
    }

    /// The promise under which this core owns the partition now: in a joint epoch it says that the fence stands.
    pub fn promise_of(&self, id: PartitionId) -> Option<Promise> {
        self.partition(id).and_then(|p| p.promise())
    }

    /// The lowest ballot that a replica may yet come to see from this core for the first time, or of which a waiting
    /// operation is still to learn what became of it: tombstones may be collected below it. `None`: there is none.
    pub fn lowest_in_flight(&self, id: PartitionId) -> Option<Ballot> {
        let of_batch = |batch: &Batch| batch.sent.iter().chain(&batch.abandoned).copied().min();
        let of_slot = |phase: &Phase| match phase {
            Phase::Put(put) => Some(put.row.ballot).into_iter().chain(of_batch(&put.batch)).min(),
            Phase::Waiting { batch } => batch.as_ref().and_then(of_batch),
            Phase::Base(base) => of_batch(&base.batch),
            Phase::Idle => None,
        };
        let slots = self.slots.iter().filter(|(_, slot)| slot.partition == id);
        let puts = slots.filter_map(|(_, slot)| of_slot(&slot.phase));
        let calls = self.calls.iter().filter_map(|(_, call)| call.put.as_ref());
        let calls = calls.filter(|(key, _)| key.partition() == id).map(|(_, ballot)| *ballot);
        let flush = self.partition(id).and_then(|p| p.flush_ballot());
        puts.chain(calls).chain(flush).min()
    }

    /// Keys of the partition whose base is being read.
    pub fn reading(&self, id: PartitionId) -> Vec<KeyHash> {
        let reads = |slot: &&Slot| slot.partition == id && matches!(slot.phase, Phase::Base(_));
        self.slots.iter().map(|(_, slot)| slot).filter(reads).map(|slot| slot.key.hash()).collect()
    }

    /// Puts the highest version of a key, also a tombstone, again under a fresh ballot: for rows that a replica refuses for
    /// its floor. `Ok`: a quorum has it, or there is no version at all.
    pub fn rewrite(&mut self, key: Key, done: FlushDone) {
        let deadline = self.now + self.tuning.request_timeout;
        self.enqueue(Queued::rewrite(key, done, self.now, deadline));
    }

    /// The partition's replicas changed. Ignored unless the epoch is higher than the present one; see the module for the
    /// rest. The partition is taken over at once if it was owned, or somebody waits for it.
    pub fn reconfigure(&mut self, id: PartitionId, group: Group) {
        let Some(partition) = self.partition_mut(id) else { return };
        if group.epoch <= partition.group.epoch {
            return;
        }
        let wanted = partition.enter(group);
        self.cut_off_flush(id);
        let slots = self.slots.iter().filter(|(_, slot)| slot.partition == id);
        let slots: Vec<Id> = slots.map(|(slot, _)| slot).collect();
        for slot in &slots {
            self.cut_off(*slot);
        }
        if wanted || !slots.is_empty() {
            self.take_over(id);
        }
        self.restart_reads(id);
    }

    /// Ends what a slot has under way in an epoch that is over; its operations wait for the new one.
    fn cut_off(&mut self, id: Id) {
        let Some(slot) = self.slots.get(id) else { return };
        let partition = slot.partition;
        match &slot.phase {
            Phase::Put(_) => {
                let Some(mut put) = self.take_put(id) else { return };
                put.batch.touched |= put.may_be_stored();
                self.resume(id, put.batch);
                self.put_ended(partition);
            }
            Phase::Base(_) => {
                let Some(base) = self.take_base(id) else { return };
                self.resume(id, base.batch);
            }
            Phase::Idle | Phase::Waiting { .. } => {}
        }
    }
}
