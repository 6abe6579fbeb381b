//! One partition's part of the state.

use tercet_common::mutants::{self, Mutant};
use tercet_common::{Ballot, Epoch, KeyHash, Promise, VectorClock};

use super::barrier::{Barrier, Mark};
use super::change::Change;
use super::copying::Copying;
use super::membership::{Place, Role};
use super::read::Wanted;
use super::scan::Scan;
use super::{Slot, Ticket, fence};
use crate::store::{PartitionChange, PartitionRecord};

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Binding from the moment it was seen. Set by [`Self::raise`] only.
    pub(super) promise: Promise,
    /// Which raise of the replica's promises it was.
    pub(super) raised_at: u64,
    /// The part of it that is known to be durable.
    pub(super) durable: Promise,
    /// Binding from the moment it was seen.
    pub(super) floor: Ballot,
    /// The part of it that is known to be durable: what others may build on.
    pub(super) durable_floor: Ballot,
    /// Committed. What counts is [`Self::flush`].
    pub(super) flush: Ballot,
    pub(super) flush_clock: VectorClock,
    /// The highest ballot that is committed, and its clock.
    pub(super) highest: Ballot,
    pub(super) vector: VectorClock,
    /// The worker is a newcomer.
    pub(super) copying: Option<Copying>,
    /// The last epoch in which a copy finished. Durable.
    pub(super) copied: Epoch,
    /// Changes that are accepted and not ended.
    pub(super) changes: usize,
    /// Those of them that begin a copy.
    pub(super) beginning: usize,
    /// Accepted writes and changes that have not ended.
    pub(super) barrier: Barrier,
    /// How many commits that concern the partition have ended.
    pub(super) commits_ended: u64,
    /// When a change of the partition ended last, counted in changes of the replica.
    pub(super) changed_at: u64,
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
    Read { slot: Slot, wanted: Wanted },
    Scan(Scan),
    Change(Box<Change>),
}

impl Partition {
    /// `raised` counts the raises of all promises of the replica.
    pub(super) fn raise(&mut self, promise: Promise, raised: &mut u64) {
        if promise > self.promise {
            self.promise = promise;
            *raised += 1;
            self.raised_at = *raised;
        }
    }

    pub(super) fn load(&mut self, record: PartitionRecord, raised: &mut u64) {
        let kept = if mutants::on(Mutant::ForgetPromises) { Promise::ZERO } else { record.promise };
        self.raise(kept, raised);
        self.durable = kept;
        self.floor = record.floor;
        self.durable_floor = record.floor;
        self.flush = record.flush;
        self.flush_clock = record.flush_clock;
        self.vector = record.vector;
        self.highest = record.highest;
        self.copied = record.copied;
        // How far an unfinished copy had come is not kept.
        self.copying = self.copying.map(|copying| Copying::new(copying.since, self.copied));
    }

    /// The place that a new configuration gives it. `true`: it is a newcomer that was none before.
    pub(super) fn hold(&mut self, place: Place, raised: &mut u64) -> bool {
        self.raise(fence(place.epoch), raised);
        let copying = self.copying.filter(|copying| copying.since == place.epoch);
        self.copying = (place.role == Role::Newcomer)
            .then(|| copying.unwrap_or_else(|| Copying::new(place.epoch, self.copied)));
        self.copying.is_some() && copying.is_none()
    }

    pub(super) fn hides(&self, hash: KeyHash, ballot: Ballot) -> bool {
        let shown = mutants::on(Mutant::NewcomerShowsHidden);
        !shown && self.copying.is_some_and(|copying| copying.hides(hash, ballot))
    }

    pub(super) fn hides_flush(&self, ballot: Ballot) -> bool {
        self.copying.is_some_and(|copying| copying.hides_flush(ballot))
    }

    /// The flush that counts.
    pub(super) fn flush(&self) -> Ballot {
        if self.hides_flush(self.flush) { Ballot::ZERO } else { self.flush }
    }

    /// A version is committed.
    pub(super) fn learn(&mut self, ballot: Ballot, clock: &VectorClock) {
        self.vector.follow(&mut self.highest, ballot, clock);
    }

    /// Whether all that the change would make durable is so already.
    pub(super) fn knows(&self, change: &PartitionChange) -> bool {
        let PartitionChange { partition: _, rows, evict, flush, floor, vector, highest, promise, copied } =
            change;
        let flushed =
            |(ballot, clock): &(Ballot, VectorClock)| *ballot == self.flush && *clock == self.flush_clock;
        rows.is_empty()
            && evict.is_empty()
            && flush.as_ref().is_none_or(flushed)
            && *floor <= self.durable_floor
            && self.vector.covers(vector)
            && *highest <= self.highest
            && *promise <= self.durable
            && *copied <= self.copied
    }

    pub(super) fn is_ready(&self, waiter: &PromiseWaiter) -> bool {
        let waits = match &waiter.then {
            Then::Change(change) if change.collects() => !mutants::on(Mutant::CollectWithoutBarrier),
            Then::AnswerPrepared | Then::Read { .. } => !mutants::on(Mutant::PrepareWithoutBarrier),
            _ => true,
        };
        self.durable >= waiter.need && (!waits || self.barrier.passed(waiter.behind))
    }
}
