//! Applying a batch to its base, and the put that comes out of it.

use std::time::Duration;

use smallvec::SmallVec;
use tercet_common::mutants::{self, Mutant};
use tercet_common::quorum::QuorumTracker;
use tercet_common::{Ballot, Content, PartitionId, Refusal, ReplicaReply, ReplicaRequest, Row, VectorClock};

use super::super::api::{Change, OpError, Written};
use super::arena::Id;
use super::partition::Partition;
use super::slot::{Batch, Item, Known, Origin, Phase, Queued};
use super::{Answer, COMBINE_BYTES_MAX, Core, Target, WorkerIx};

pub(super) struct Put {
    pub(super) batch: Batch,
    pub(super) row: Row,
    pub(super) replicas: SmallVec<[(WorkerIx, Delivery); 3]>,
    pub(super) tracker: QuorumTracker,
    /// Some replica may hold the row although it has not said so.
    pub(super) touched: bool,
    /// Refusals so far were all for lack of room.
    pub(super) only_busy: bool,
    pub(super) attempts: u32,
    pub(super) timer_set: bool,
    pub(super) began: Duration,
}

/// How far the put has come at one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    Pending,
    Stored,
    /// To be sent again, under the same ballot.
    Again,
    /// A higher term or epoch is there.
    Deposed,
    /// Refused for good, for another reason.
    Never,
}

impl Put {
    /// Some replica holds this put or an earlier one of its batch, or may do so yet.
    pub(super) fn may_be_stored(&self) -> bool {
        // A refusal for a higher promise speaks of the copy that it answers: an earlier copy of the same put, on a network
        // that doubles messages, may have come before that promise.
        let stored = |d: Delivery| matches!(d, Delivery::Stored | Delivery::Pending | Delivery::Deposed);
        if mutants::on(Mutant::UnansweredAsRefused) {
            return false;
        }
        self.touched || self.batch.touched || self.replicas.iter().any(|(_, d)| stored(*d))
    }
}

impl Core {
    /// Puts the content of an earlier put of the same batch again, under a fresh ballot.
    pub(super) fn put_again(&mut self, id: Id, mut batch: Batch, row: Row) {
        let Some((ballot, clock)) = self.next_version(id) else {
            return self.wait(id, Some(batch));
        };
        // Also what an attempt in between was to be, which nobody holds.
        let sent = batch.sent.clone();
        batch.restamp(ballot, &clock, |version| sent.contains(&version));
        self.start_put(id, batch, Row { ballot, clock, ..row });
    }

    /// The ballot and clock of the slot's next put; `None` while the partition is not owned.
    pub(super) fn next_version(&mut self, id: Id) -> Option<(Ballot, VectorClock)> {
        let partition = self.slots.get(id)?.partition;
        let promise = self.partition(partition)?.promise()?;
        let seq = self.next_seq();
        let clock = self.partition(partition)?.put_clock(self.me, seq);
        Some((promise.ballot(seq), clock))
    }

    /// Runs the batch's operations over the base, one after the other, and puts what comes out.
    pub(super) fn apply(&mut self, id: Id, mut batch: Batch, base: Option<Row>, origin: Origin) {
        let Some(slot) = self.slots.get(id) else { return };
        let (key, partition) = (slot.key.clone(), slot.partition);
        if self.partition(partition).is_none_or(|p| p.promise().is_none()) {
            return self.wait(id, Some(batch));
        }
        let (wall, max) = (self.wall, self.tuning.value_bytes_max);
        let expired =
            base.as_ref().is_some_and(|row| row.content.expires_at().is_some() && !row.content.is_live(wall));
        let mut next: Option<Row> = None;
        let mut bytes = 0;
        let mut applied = 0;
        let mut must_put = batch.touched;
        for op in &mut batch.ops {
            if bytes > COMBINE_BYTES_MAX && batch.abandoned.is_empty() {
                break;
            }
            applied += 1;
            op.error = None;
            op.version = next.as_ref().or(base.as_ref()).map(|row| (row.ballot, row.clock.clone()));
            let live = next.as_ref().or(base.as_ref()).filter(|row| row.content.is_live(wall));
            match &mut op.item {
                Item::Confirm { seen, .. } => *seen = live.cloned(),
                // Also where the quorum has nothing: somebody else holds a left-over, and a tombstone ends it.
                Item::Rewrite(_) => must_put = true,
                Item::Write { update, blind, .. } => {
                    match update.apply(if *blind { None } else { live }, wall) {
                        Change::Keep => {}
                        Change::Write(content) if content.data_len() > max => {
                            op.error = Some(OpError::ValueTooLarge { len: content.data_len(), max });
                        }
                        Change::Write(content) => {
                            bytes += content.data_len();
                            // Over before it is written: who comes behind it finds nothing, and no other clock may find it.
                            let over = !content.is_live(wall) && !mutants::on(Mutant::ExpiryWithoutTombstone);
                            let content = if over { Content::Tombstone } else { content };
                            // A version for each, although only the last is put: who holds an earlier one as ETag must
                            // find that it no longer stands.
                            let Some((ballot, clock)) = self.next_version(id) else { break };
                            op.version = Some((ballot, clock.clone()));
                            next = Some(Row { key: key.clone(), ballot, clock, content });
                            op.sent = true;
                        }
                    }
                }
            }
            if origin == Origin::Blind && next.is_none() {
                // The blind write did not come about, and those behind it must not take the key for absent.
                return self.start_base(id, batch);
            }
        }
        if let Some(slot) = self.slots.get_mut(id) {
            // What would make too much work at once takes its place at the head of the queue again.
            for op in batch.ops.drain(applied..).rev() {
                slot.queue.push_front(op);
            }
        }
        if let Some(row) = next {
            return self.start_put(id, batch, row);
        }
        match origin {
            // Nothing changed, and a quorum holds just this: the read was the answer (design 4, GET). Not after an
            // earlier attempt that did change something: a put above that one must keep it from coming back.
            Origin::Replicas { chosen: true, ballot, holder }
                if !must_put && (!expired || mutants::on(Mutant::ExpiryWithoutTombstone)) =>
            {
                let clock = base.as_ref().map(|row| row.clock.clone()).unwrap_or_default();
                let synchronous = vec![self.name(holder)];
                let written = Written { ballot, clock, synchronous, asynchronous: None };
                self.finish_ok(batch, &written);
                self.advance(id);
            }
            // Nothing changed, and the base is only the owner's memory of it: a deposed owner must not answer from that.
            Origin::Memory if mutants::on(Mutant::GetFromOwnerMemory) => {
                let (ballot, clock) = base.map(|row| (row.ballot, row.clock)).unwrap_or_default();
                let synchronous = vec![self.name(0)];
                self.finish_ok(batch, &Written { ballot, clock, synchronous, asynchronous: None });
                self.advance(id);
            }
            Origin::Memory | Origin::Blind => self.start_base(id, batch),
            Origin::Replicas { .. } => {
                self.out.counts.expired += u64::from(expired);
                self.out.counts.repairs_rewritten += u64::from(!expired);
                let content = base.filter(|_| !expired).map_or(Content::Tombstone, |row| row.content);
                let Some((ballot, clock)) = self.next_version(id) else {
                    return self.wait(id, Some(batch));
                };
                batch.restamp(ballot, &clock, |_| true);
                self.start_put(id, batch, Row { key, ballot, clock, content });
            }
        }
    }

    pub(super) fn start_put(&mut self, id: Id, mut batch: Batch, row: Row) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.round += 1;
        let (round, partition) = (slot.round, slot.partition);
        batch.sent.push(row.ballot);
        let Some(tracker) = self.partition(partition).map(|p| p.group.tracker()) else { return };
        // Whatever becomes of it, it is no longer what it was.
        self.memory.forget(&row.key);
        let mut deliveries = SmallVec::new();
        for worker in self.replicas(partition) {
            let sent = self.call(worker, Target::Slot(id, round), ReplicaRequest::Put { row: row.clone() });
            deliveries.push((worker, if sent { Delivery::Pending } else { Delivery::Again }));
        }
        let put = Put {
            batch,
            row,
            replicas: deliveries,
            tracker,
            touched: false,
            only_busy: true,
            attempts: 0,
            timer_set: false,
            began: self.now,
        };
        self.put_began(partition);
        if let Some(slot) = self.slots.get_mut(id) {
            slot.phase = Phase::Put(put);
        }
        self.judge_put(id);
    }

    pub(super) fn put_answer(&mut self, id: Id, worker: WorkerIx, answer: Answer) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let partition = slot.partition;
        let Phase::Put(put) = &mut slot.phase else { return };
        let Some((_, delivery)) = put.replicas.iter_mut().find(|(w, _)| *w == worker) else { return };
        let mut saw = None;
        match answer {
            Answer::Reply(ReplicaReply::Stored) => {
                *delivery = Delivery::Stored;
                put.tracker.ack(worker);
            }
            Answer::Reply(ReplicaReply::Refused(refusal)) => {
                put.only_busy &= refusal == Refusal::Busy;
                *delivery = match refusal {
                    Refusal::Busy | Refusal::Unavailable => Delivery::Again,
                    Refusal::Promise { promised } => {
                        saw = Some(promised);
                        Delivery::Deposed
                    }
                    Refusal::Superseded { ballot } | Refusal::Floor { floor: ballot } => {
                        saw = Some(ballot.promise());
                        Delivery::Deposed
                    }
                    Refusal::Epoch { .. } | Refusal::NotMember => Delivery::Deposed,
                    Refusal::KeyCollision | Refusal::Invalid => Delivery::Never,
                };
                if matches!(*delivery, Delivery::Deposed | Delivery::Never) {
                    put.tracker.fail(worker);
                }
            }
            Answer::Reply(_) | Answer::Lost => {
                put.touched = true;
                *delivery = Delivery::Again;
            }
        }
        if let (Some(promise), Some(p)) = (saw, self.partition_mut(partition)) {
            p.saw(promise);
        }
        self.judge_put(id);
    }

    /// Looks at where a put stands, and ends it or sees to its next step.
    pub(super) fn judge_put(&mut self, id: Id) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let partition = slot.partition;
        let Phase::Put(put) = &mut slot.phase else { return };
        let has = |wanted: Delivery| put.replicas.iter().any(|(_, d)| *d == wanted);
        let all = put.batch.ops.iter().any(Queued::wants_all);
        if put.tracker.reached() {
            let missing = has(Delivery::Again) || has(Delivery::Deposed) || has(Delivery::Never);
            if all && missing {
                return self.end_put(id, Some(OpError::Uncertain));
            }
            if !all || !has(Delivery::Pending) {
                self.end_put(id, None)
            }
        } else if put.tracker.unreachable() {
            if has(Delivery::Deposed) {
                let Some(mut put) = self.take_put(id) else { return };
                put.batch.touched |= put.may_be_stored();
                self.retake(partition, put.row.ballot.promise());
                self.resume(id, put.batch);
                return self.put_ended(partition);
            }
            let error = if put.may_be_stored() { OpError::Uncertain } else { self.no_quorum(partition) };
            self.fail_put(id, error)
        } else if has(Delivery::Again) && !put.timer_set {
            put.timer_set = true;
            let attempts = put.attempts;
            self.set_slot_timer(id, self.resend_delay(attempts));
        }
    }

    /// Sends the same ballot again to whom it has not reached.
    pub(super) fn put_timer(&mut self, id: Id) {
        let (now, grace) = (self.now, self.tuning.quorum_grace);
        let Some(slot) = self.slots.get_mut(id) else { return };
        let (partition, round) = (slot.partition, slot.round);
        let Phase::Put(put) = &mut slot.phase else { return };
        put.timer_set = false;
        put.attempts += 1;
        let untouched = !put.may_be_stored();
        if untouched && now >= put.began + grace {
            // Everybody refused, and nobody changed their mind: it was not applied and never will be.
            let busy = put.only_busy;
            let error = if busy { OpError::Busy } else { self.no_quorum(partition) };
            return self.fail_put(id, error);
        }
        if now >= put.batch.deadline() {
            let error = if untouched { self.no_quorum(partition) } else { OpError::Uncertain };
            return self.fail_put(id, error);
        }
        let row = put.row.clone();
        let again: SmallVec<[WorkerIx; 3]> =
            put.replicas.iter().filter(|(_, d)| *d == Delivery::Again).map(|(w, _)| *w).collect();
        let mut sent = SmallVec::<[WorkerIx; 3]>::new();
        for worker in again {
            if self.call(worker, Target::Slot(id, round), ReplicaRequest::Put { row: row.clone() }) {
                sent.push(worker);
            }
        }
        let Some(Phase::Put(put)) = self.slots.get_mut(id).map(|slot| &mut slot.phase) else { return };
        for (worker, delivery) in &mut put.replicas {
            if sent.contains(worker) {
                *delivery = Delivery::Pending;
            }
        }
        // Also when all are pending: the deadline must be looked at.
        put.timer_set = true;
        let attempts = put.attempts;
        self.set_slot_timer(id, self.resend_delay(attempts));
        self.expire_queue(id);
    }

    pub(super) fn take_put(&mut self, id: Id) -> Option<Put> {
        let slot = self.slots.get_mut(id)?;
        match std::mem::replace(&mut slot.phase, Phase::Idle) {
            Phase::Put(put) => Some(put),
            other => {
                slot.phase = other;
                None
            }
        }
    }

    /// The put failed. If it may still land, the partition gets a new term before anything else is read or written.
    pub(super) fn fail_put(&mut self, id: Id, error: OpError) {
        let Some(put) = self.take_put(id) else { return };
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.known = None;
        let partition = slot.partition;
        if error == OpError::Uncertain {
            self.retake(partition, put.row.ballot.promise());
        }
        self.fail_batch(id, put.batch, error);
        self.put_ended(partition);
        self.advance(id);
    }

    /// What a put came to, for its operations. In a joint epoch those replicas come first that stay; the others are named
    /// where that makes no more names than there are copies.
    fn written(&self, partition: PartitionId, put: &Put) -> Written {
        let group = self.partition(partition).map(|p| &p.group);
        let stays = |w: WorkerIx| group.is_some_and(|g| g.stays(w));
        let in_state = |state: Delivery| {
            let of = |wanted: bool| {
                put.replicas.iter().filter(move |(w, d)| *d == state && stays(*w) == wanted).map(|(w, _)| *w)
            };
            of(true).chain(of(false))
        };
        let copies = group.map_or(0, |g| g.replicas.len());
        Written {
            ballot: put.row.ballot,
            clock: put.row.clock.clone(),
            synchronous: in_state(Delivery::Stored).take(copies).map(|w| self.name(w)).collect(),
            asynchronous: in_state(Delivery::Pending).next().map(|w| self.name(w)),
        }
    }

    /// A quorum has the put. `partial`: but not all, as was asked for.
    pub(super) fn end_put(&mut self, id: Id, partial: Option<OpError>) {
        let Some(put) = self.take_put(id) else { return };
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        for (worker, _) in
            put.replicas.iter().filter(|(_, d)| matches!(d, Delivery::Again | Delivery::Deposed))
        {
            self.missed(*worker, &put.row.key);
        }
        let written = self.written(partition, &put);
        let generation = self.partition(partition).filter(|p| p.promise() == Some(put.row.ballot.promise()));
        let generation = generation.map(Partition::generation);
        match partial {
            None => self.finish_ok(put.batch, &written),
            Some(error) => self.finish_err(put.batch, error),
        }
        if let Some(generation) = generation {
            let holders = put.replicas.iter().filter(|(_, d)| *d == Delivery::Stored).map(|(w, _)| *w);
            self.memory.keep(&put.row.key, generation, Some(&put.row), holders.collect());
        }
        if let (Some(slot), Some(generation)) = (self.slots.get_mut(id), generation) {
            slot.known = Some(Known { generation, row: Some(put.row) });
        }
        self.put_ended(partition);
        self.advance(id);
    }
}
