//! One partition's part of the state.

use tercet_common::{Ballot, Key, Promise, VectorClock};

use super::barrier::{Barrier, Mark};
use super::{Slot, Ticket};
use crate::store::PartitionRecord;

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Binding from the moment it was seen.
    pub(super) promise: Promise,
    /// The part of it that is known to be durable.
    pub(super) durable: Promise,
    pub(super) floor: Ballot,
    /// Committed.
    pub(super) flush: Ballot,
    /// Join of the clocks, and maximum of the ballots, of all that is committed.
    pub(super) vector: VectorClock,
    pub(super) highest: Ballot,
    /// Accepted writes that have not ended.
    pub(super) barrier: Barrier,
    /// How many commits that concern the partition have ended.
    pub(super) commits_ended: u64,
    pub(super) waiting: Vec<PromiseWaiter>,
    /// Listed among those whose promise is to be persisted.
    pub(super) unkept: bool,
}

/// A request that is answered once `need` is durable and all writes accepted before it have ended.
#[derive(Debug)]
pub(super) struct PromiseWaiter {
    pub(super) ticket: Ticket,
    pub(super) need: Promise,
    pub(super) behind: Mark,
    pub(super) then: Then,
}

#[derive(Debug)]
pub(super) enum Then {
    AnswerPrepared,
    Read { slot: Slot, key: Key, digest: bool },
}

impl Partition {
    pub(super) fn load(&mut self, record: PartitionRecord) {
        self.promise = self.promise.max(record.promise);
        self.durable = record.promise;
        self.floor = record.floor;
        self.flush = record.flush;
        self.vector = record.vector;
        self.highest = record.highest;
    }

    /// A version is committed.
    pub(super) fn learn(&mut self, ballot: Ballot, clock: &VectorClock) {
        self.highest = self.highest.max(ballot);
        if !self.vector.covers(clock) {
            self.vector.join(clock);
        }
    }

    pub(super) fn is_ready(&self, waiter: &PromiseWaiter) -> bool {
        self.durable >= waiter.need && self.barrier.passed(waiter.behind)
    }
}
