//! Promises: prepare, get-for-write, and the fence of a new epoch.

use tercet_common::{Epoch, Key, PartitionId, Promise, Refusal, ReplicaReply};

use super::partition::{PromiseWaiter, Then};
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
        self.check_promise(slot.partition, promise)?;
        self.await_promise(ticket, slot.partition, promise, Then::Read { slot, key, digest: false })
    }

    pub(super) fn get(
        &mut self,
        ticket: Ticket,
        slot: Slot,
        epoch: Epoch,
        key: Key,
        digest: bool,
    ) -> Result<(), Refusal> {
        // An epoch that is seen for the first time is a fence: it is kept, and what older epochs were allowed to
        // write ends, before anything is answered in it.
        if fence(epoch) > self.partition(slot).durable {
            return self.await_promise(
                ticket,
                slot.partition,
                fence(epoch),
                Then::Read { slot, key, digest },
            );
        }
        self.look_up(ticket, slot, key, digest);
        Ok(())
    }

    /// The partition's epoch was checked already.
    pub(super) fn check_promise(&self, partition: PartitionId, promise: Promise) -> Result<(), Refusal> {
        let promised = self.partitions[partition.index()].promise;
        if promise < promised { Err(Refusal::Promise { promised }) } else { Ok(()) }
    }

    fn await_promise(
        &mut self,
        ticket: Ticket,
        id: PartitionId,
        need: Promise,
        then: Then,
    ) -> Result<(), Refusal> {
        if self.waiting_promises >= self.limits.queue_len_max {
            return Err(Refusal::Busy);
        }
        self.waiting_promises += 1;
        let partition = &mut self.partitions[id.index()];
        partition.promise = partition.promise.max(need);
        let behind = partition.barrier.mark();
        partition.waiting.push(PromiseWaiter { ticket, need, behind, then });
        if partition.durable < need && !partition.unkept {
            partition.unkept = true;
            self.unkept.push(id);
        }
        self.release(id);
        Ok(())
    }

    /// Answers those whose wait is over. Called whenever a write ended or a promise became durable.
    pub(super) fn release(&mut self, id: PartitionId) {
        let partition = &mut self.partitions[id.index()];
        if partition.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut partition.waiting);
        let ready: Vec<_> = waiting.extract_if(.., |waiter| partition.is_ready(waiter)).collect();
        partition.waiting = waiting;
        self.waiting_promises -= ready.len();
        for PromiseWaiter { ticket, need, then, .. } in ready {
            let partition = &self.partitions[id.index()];
            let promised = partition.promise;
            match then {
                // A get claims no term: a higher one in its epoch does not concern it.
                _ if need.epoch < promised.epoch => {
                    let refusal = Refusal::Epoch { current: promised.epoch };
                    self.answer(ticket, ReplicaReply::Refused(refusal));
                }
                _ if need != fence(need.epoch) && need < promised => {
                    self.answer(ticket, ReplicaReply::Refused(Refusal::Promise { promised }));
                }
                Then::AnswerPrepared => {
                    let (vector, highest) = (partition.vector.clone(), partition.highest);
                    self.answer(ticket, ReplicaReply::Prepared { vector, highest });
                }
                Then::Read { slot, key, digest } => self.look_up(ticket, slot, key, digest),
            }
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
            let partition = &mut self.partitions[id.index()];
            if outcome.is_ok() {
                partition.durable = partition.durable.max(promise);
                self.release(id);
            } else {
                let durable = partition.durable;
                let failed = |w: &mut PromiseWaiter| durable < w.need && w.need <= promise;
                let failed: Vec<_> = partition.waiting.extract_if(.., failed).collect();
                self.refuse_promises(failed);
            }
        }
    }

    pub(super) fn refuse_waiting_promises(&mut self) {
        for id in PartitionId::all().take(self.partitions.len()) {
            let waiting = std::mem::take(&mut self.partition_mut(id).waiting);
            self.refuse_promises(waiting);
        }
        for id in std::mem::take(&mut self.unkept) {
            self.partition_mut(id).unkept = false;
        }
    }

    fn refuse_promises(&mut self, waiters: Vec<PromiseWaiter>) {
        self.waiting_promises -= waiters.len();
        for waiter in waiters {
            self.answer(waiter.ticket, ReplicaReply::Refused(Refusal::Unavailable));
        }
    }
}
