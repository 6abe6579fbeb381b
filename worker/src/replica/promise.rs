//! Promises: prepare, get-for-write, and the fence of a new epoch.

use tercet_common::message::Promises;
use tercet_common::mutants::{self, Mutant};
use tercet_common::{Epoch, Key, PartitionId, Promise, Refusal, ReplicaReply};

use super::barrier::Mark;
use super::partition::{PromiseWaiter, Then};
use super::read::Wanted;
use super::{Replica, Slot, Ticket, fence};
use crate::store::StoreError;

impl Replica {
    pub(super) fn prepare(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        promise: Promise,
    ) -> Result<(), Refusal> {
        self.check_promise(partition, promise)?;
        self.await_promise(ticket, partition, promise, Then::AnswerPrepared)
    }

    pub(super) fn get_for_write(
        &mut self,
        ticket: Ticket,
        slot: Slot,
        promise: Promise,
        key: Key,
    ) -> Result<(), Refusal> {
        if mutants::on(Mutant::BaseWithoutPromise) {
            return self.get(ticket, slot, promise.epoch, key, false);
        }
        self.check_promise(slot.partition, promise)?;
        let wanted = Wanted { epoch: promise.epoch, key, digest: false };
        self.await_promise(ticket, slot.partition, promise, Then::Read { slot, wanted })
    }

    pub(super) fn get(
        &mut self,
        ticket: Ticket,
        slot: Slot,
        epoch: Epoch,
        key: Key,
        digest: bool,
    ) -> Result<(), Refusal> {
        let wanted = Wanted { epoch, key, digest };
        // An epoch that is seen for the first time is a fence: it is kept, and what older epochs were allowed to
        // write ends, before anything is answered in it.
        let fenced = mutants::on(Mutant::EpochWithoutFence);
        if fence(epoch) > self.partition(slot).durable && !fenced {
            return self.await_promise(ticket, slot.partition, fence(epoch), Then::Read { slot, wanted });
        }
        self.look_up(ticket, slot, wanted);
        Ok(())
    }

    /// The partition's epoch was checked already.
    pub(super) fn check_promise(&self, partition: PartitionId, promise: Promise) -> Result<(), Refusal> {
        let promised = self.partitions[partition.index()].promise;
        if promise < promised { Err(Refusal::Promise { promised }) } else { Ok(()) }
    }

    pub(super) fn check_waiting(&self) -> Result<(), Refusal> {
        if self.waiting_promises >= self.limits.queue_len_max { Err(Refusal::Busy) } else { Ok(()) }
    }

    /// Waits until the promise is durable and all that was accepted so far has ended.
    pub(super) fn await_promise(
        &mut self,
        ticket: Ticket,
        id: PartitionId,
        need: Promise,
        then: Then,
    ) -> Result<(), Refusal> {
        self.check_waiting()?;
        let behind = self.partition_mut(id).barrier.mark();
        self.wait(ticket, id, need, behind, then);
        Ok(())
    }

    pub(super) fn wait(&mut self, ticket: Ticket, id: PartitionId, need: Promise, behind: Mark, then: Then) {
        self.waiting_promises += 1;
        let partition = &mut self.partitions[id.index()];
        partition.raise(need, &mut self.raised);
        partition.waiting.push(PromiseWaiter { ticket, need, behind, then });
        if partition.durable < need && !partition.unkept {
            partition.unkept = true;
            self.unkept.push(id);
        }
        self.release(id);
    }

    /// Tells the promises that were raised behind `since`. Also those that are not durable yet: a put that was let in under
    /// one may be in the database already, and be read there.
    pub(super) fn tell_promises(&mut self, ticket: Ticket, since: u64) {
        let mut promises = Promises { since, upto: self.raised, raised: Vec::new() };
        if since < self.raised {
            let partitions = PartitionId::all().zip(&self.partitions);
            let news = partitions.filter(|(_, partition)| partition.raised_at > since);
            promises.raised = news.map(|(id, partition)| (id, partition.promise)).collect();
        }
        self.answer(ticket, ReplicaReply::Promises(promises));
    }

    /// Why what asked for `need` is out of date.
    pub(super) fn outdated(&self, id: PartitionId, need: Promise) -> Option<Refusal> {
        let promised = self.partitions[id.index()].promise;
        if need.epoch < promised.epoch {
            return Some(Refusal::Epoch { current: promised.epoch });
        }
        // What claims no term is not deposed by one.
        (need != fence(need.epoch) && need < promised).then_some(Refusal::Promise { promised })
    }

    /// Answers those whose wait is over. Called whenever a write ended or a promise became durable.
    pub(super) fn release(&mut self, id: PartitionId) {
        // Again and again: a change that is refused here no longer holds back those behind it.
        loop {
            let partition = &mut self.partitions[id.index()];
            if partition.waiting.is_empty() {
                return;
            }
            let mut waiting = std::mem::take(&mut partition.waiting);
            let ready: Vec<_> = waiting.extract_if(.., |waiter| partition.is_ready(waiter)).collect();
            partition.waiting = waiting;
            if ready.is_empty() {
                return;
            }
            for waiter in ready {
                match self.outdated(id, waiter.need) {
                    Some(refusal) => self.refuse_waiter(waiter, refusal),
                    None => self.pass(id, waiter),
                }
            }
        }
    }

    fn pass(&mut self, id: PartitionId, PromiseWaiter { ticket, then, .. }: PromiseWaiter) {
        self.waiting_promises -= 1;
        match then {
            Then::AnswerPrepared => {
                let partition = &self.partitions[id.index()];
                let (vector, highest) = (partition.vector.clone(), partition.highest);
                self.answer(ticket, ReplicaReply::Prepared { vector, highest });
            }
            Then::Read { slot, wanted } => self.look_up(ticket, slot, wanted),
            Then::Scan(scan) => self.scans.push(scan),
            Then::Change(change) => self.changes.push(*change),
        }
    }

    /// The promises to persist now, sorted; `None` while a call is under way or nothing waits for one. Call
    /// [`Self::on_promises`] when it has ended.
    pub fn next_promises(&mut self) -> Option<Vec<(PartitionId, Promise)>> {
        if !self.work().promises {
            return None;
        }
        let mut promises = Vec::with_capacity(self.unkept.len());
        for id in self.unkept.drain(..) {
            let partition = &mut self.partitions[id.index()];
            partition.unkept = false;
            if partition.promise > partition.durable {
                promises.push((id, partition.promise));
            }
        }
        if promises.is_empty() {
            return None;
        }
        promises.sort_unstable();
        self.keeping = Some(promises.clone());
        Some(promises)
    }

    /// After a failure those who wait are refused, but what was promised in memory stays promised: whether it is
    /// durable is not known.
    pub fn on_promises(&mut self, outcome: Result<(), StoreError>) {
        let kept = self.keeping.take().unwrap_or_default();
        if let Err(StoreError::Unreachable(_) | StoreError::Refused(_)) = outcome {
            self.lose();
        }
        for (id, promise) in kept {
            if outcome.is_ok() {
                let partition = &mut self.partitions[id.index()];
                partition.durable = partition.durable.max(promise);
                self.release(id);
            } else {
                let durable = self.partitions[id.index()].durable;
                let failed = |w: &mut PromiseWaiter| durable < w.need && w.need <= promise;
                self.refuse_waiters(id, failed, &Refusal::Unavailable);
                self.release(id);
            }
        }
    }

    /// Those of an epoch that a new configuration ended. What was accepted and waits no more ends as usual: all that
    /// comes later waits for it.
    pub(super) fn refuse_older_epochs(&mut self, id: PartitionId) {
        let current = self.partitions[id.index()].promise.epoch;
        self.refuse_waiters(id, |waiter| waiter.need.epoch < current, &Refusal::Epoch { current });
        self.release(id);
    }

    /// The caller releases those who waited behind them.
    fn refuse_waiters(
        &mut self,
        id: PartitionId,
        which: impl FnMut(&mut PromiseWaiter) -> bool,
        refusal: &Refusal,
    ) {
        let waiting = &mut self.partition_mut(id).waiting;
        if waiting.is_empty() {
            return;
        }
        let waiters: Vec<_> = waiting.extract_if(.., which).collect();
        for waiter in waiters {
            self.refuse_waiter(waiter, refusal.clone());
        }
    }

    fn refuse_waiter(&mut self, PromiseWaiter { ticket, then, .. }: PromiseWaiter, refusal: Refusal) {
        self.waiting_promises -= 1;
        match then {
            Then::AnswerPrepared | Then::Read { .. } => self.answer(ticket, ReplicaReply::Refused(refusal)),
            Then::Scan(scan) => self.end_errand(ticket, scan.weight, ReplicaReply::Refused(refusal)),
            Then::Change(change) => self.refuse_change(&change, refusal),
        }
    }

    /// Releases nobody: everyone is refused.
    pub(super) fn refuse_waiting_promises(&mut self) {
        for id in PartitionId::all().take(self.partitions.len()) {
            self.refuse_waiters(id, |_| true, &Refusal::Unavailable);
        }
        for id in std::mem::take(&mut self.unkept) {
            self.partition_mut(id).unkept = false;
        }
    }
}
