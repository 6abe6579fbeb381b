//! A key's slot: the queue of its operations, and what it does now: wait, read the base (`base`), or put (`put`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tercet_common::mutants::{self, Mutant};
use tercet_common::{Ballot, Key, PartitionId, Row, VectorClock};

use super::super::api::{Found, OpError, ReadOp, Update, WriteLevel, WriteOp, Written};
use super::arena::Id;
use super::base::Base;
use super::put::Put;
use super::timer::Timer;
use super::{Answer, COMBINE_LEN_MAX, Completion, Core, FlushDone, WorkerIx};

/// An operation that waits in a slot or travels with a put.
pub(super) struct Queued {
    pub(super) key: Key,
    pub(super) item: Item,
    pub(super) since: Duration,
    pub(super) deadline: Duration,
    /// A put that carries a change of its own was sent: only then does it matter what became of that put.
    pub(super) sent: bool,
    /// Why this one fails although the put it shares succeeds.
    pub(super) error: Option<OpError>,
    /// The version that it made or found, which is not the put's where a later operation of the batch wrote again.
    pub(super) version: Option<(Ballot, VectorClock)>,
}

pub(super) enum Item {
    Write {
        update: Box<dyn Update>,
        blind: bool,
        level: WriteLevel,
    },
    /// A read that needs the key's state confirmed by a put or by agreeing replicas.
    Confirm {
        op: ReadOp,
        seen: Option<Row>,
    },
    /// The version that stands is to be put again.
    Rewrite(FlushDone),
}

impl Queued {
    pub(super) fn write(op: WriteOp, since: Duration, deadline: Duration) -> Self {
        let item = Item::Write { update: op.update, blind: op.blind, level: op.level };
        Self::new(op.key, item, since, deadline)
    }

    pub(super) fn confirm(op: ReadOp, since: Duration, deadline: Duration) -> Self {
        Self::new(op.key.clone(), Item::Confirm { op, seen: None }, since, deadline)
    }

    pub(super) fn rewrite(key: Key, done: FlushDone, since: Duration, deadline: Duration) -> Self {
        Self::new(key, Item::Rewrite(done), since, deadline)
    }

    fn new(key: Key, item: Item, since: Duration, deadline: Duration) -> Self {
        Self { key, item, since, deadline, sent: false, error: None, version: None }
    }

    pub(super) fn is_blind(&self) -> bool {
        matches!(self.item, Item::Write { blind: true, .. })
    }

    pub(super) fn wants_all(&self) -> bool {
        matches!(self.item, Item::Write { level: WriteLevel::All, .. })
    }
}

/// See the module. Exists only while something is queued or under way.
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) partition: PartitionId,
    pub(super) queue: VecDeque<Queued>,
    pub(super) phase: Phase,
    /// What this owner itself last issued, and a quorum acknowledged; void when the partition's generation changed.
    pub(super) known: Option<Known>,
    /// Names the current phase: answers and timers of earlier ones are ignored.
    pub(super) round: u32,
}

pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) row: Option<Row>,
}

#[expect(clippy::large_enum_variant, reason = "a box would cost an allocation per write")]
pub(super) enum Phase {
    Idle,
    /// For ownership, or for a quorum of replicas to be in reach. The batch is one whose put was refused.
    Waiting {
        batch: Option<Batch>,
    },
    Base(Base),
    Put(Put),
}

/// Operations that share one put and its outcome.
pub(super) struct Batch {
    pub(super) ops: Vec<Queued>,
    /// Ballots under which the operations' present results were sent.
    pub(super) sent: SmallVec<[Ballot; 1]>,
    /// Ballots of earlier applications, which were found not to have happened.
    pub(super) abandoned: SmallVec<[Ballot; 1]>,
    /// A minority may hold one of these puts, and whoever meets it there makes it happen: until a put above them is
    /// acknowledged nobody can say that the operations were not applied.
    pub(super) touched: bool,
}

impl Batch {
    /// A version is put again under a fresh ballot: operations that answer it answer the fresh one.
    pub(super) fn restamp(&mut self, ballot: Ballot, clock: &VectorClock, old: impl Fn(Ballot) -> bool) {
        for op in &mut self.ops {
            if op.version.as_ref().is_none_or(|(version, _)| old(*version)) {
                op.version = Some((ballot, clock.clone()));
            }
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.ops.first().map_or(Duration::ZERO, |op| op.deadline)
    }

    /// Why the batch failed: `unapplied`, if that is certain.
    pub(super) fn failure(&self, unapplied: OpError) -> OpError {
        if self.touched { OpError::Uncertain } else { unapplied }
    }
}

/// Where a batch's base comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The first operation does not look at it.
    Blind,
    /// The owner's own last put, acknowledged.
    Memory,
    /// A quorum of get-for-write; `chosen`: a majority holds that very version.
    Replicas { chosen: bool, ballot: Ballot, holder: WorkerIx },
}

impl Core {
    pub(super) fn enqueue(&mut self, queued: Queued) {
        let id = match self.slot_of.get(&queued.key) {
            Some(id) => *id,
            None => {
                let key = queued.key.clone();
                let (partition, queue) = (key.partition(), VecDeque::new());
                let slot =
                    Slot { key: key.clone(), partition, queue, phase: Phase::Idle, known: None, round: 0 };
                let id = self.slots.insert(slot);
                self.slot_of.insert(key, id);
                id
            }
        };
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.queue.push_back(queued);
        if matches!(slot.phase, Phase::Idle) {
            self.advance(id);
        }
    }

    /// Starts the next thing that a slot has to do, if it does nothing yet.
    pub(super) fn advance(&mut self, id: Id) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let mut batch = match std::mem::replace(&mut slot.phase, Phase::Idle) {
            Phase::Idle => None,
            Phase::Waiting { batch } => batch,
            busy => {
                slot.phase = busy;
                return;
            }
        };
        let partition = slot.partition;
        self.stop_waiting(partition, id);
        if let Some(waited) = batch.take_if(|b| self.now >= b.deadline()) {
            let error = waited.failure(self.no_quorum(partition));
            self.fail_batch(id, waited, error);
        }
        self.expire_queue(id);
        let Some(slot) = self.slots.get_mut(id) else { return };
        if batch.is_none() && slot.queue.is_empty() {
            self.slot_of.remove(&slot.key);
            self.slots.remove(id);
            return self.leave_unwanted(partition);
        }
        let open = self.partition(partition).and_then(|p| p.open_promise().map(|_| p.generation()));
        let Some(generation) = open.filter(|_| self.is_reachable(partition)) else {
            return self.wait(id, batch);
        };
        if let Some(batch) = batch {
            return self.start_base(id, batch);
        }
        let Some(slot) = self.slots.get_mut(id) else { return };
        let known = slot
            .known
            .take()
            .filter(|k| k.generation == generation || mutants::on(Mutant::MemoryOverGenerations));
        let batch = form_batch(&mut slot.queue);
        if batch.ops.len() > 1 {
            self.out.counts.combined += batch.ops.len() as u64 - 1;
        }
        match (known, batch.ops.first().is_some_and(Queued::is_blind)) {
            (Some(known), _) => self.apply(id, batch, known.row, Origin::Memory),
            (None, true) => self.apply(id, batch, None, Origin::Blind),
            (None, false) => self.start_base(id, batch),
        }
    }

    /// Fails what has waited too long: its deadline passed, or no quorum came into reach within the grace.
    pub(super) fn expire_queue(&mut self, id: Id) {
        let (now, grace) = (self.now, self.tuning.quorum_grace);
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        let enough = self.is_reachable(partition);
        let Some(slot) = self.slots.get_mut(id) else { return };
        let late = |op: &Queued| now >= op.deadline || (!enough && now >= op.since + grace);
        let mut expired = Vec::new();
        // In order of arrival, so the late ones come first.
        while slot.queue.front().is_some_and(late) {
            expired.extend(slot.queue.pop_front());
        }
        if expired.is_empty() {
            return;
        }
        let error = self.no_quorum(partition);
        for op in expired {
            self.finish_op(op, Err(error.clone()));
        }
    }

    /// Goes on with a batch from its base, at once if the partition is ready for it.
    pub(super) fn resume(&mut self, id: Id, batch: Batch) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.phase = Phase::Waiting { batch: Some(batch) };
        self.advance(id);
    }

    pub(super) fn wait(&mut self, id: Id, batch: Option<Batch>) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.phase = Phase::Waiting { batch };
        slot.round += 1;
        let (round, partition) = (slot.round, slot.partition);
        let delay = self.tuning.quorum_grace.min(self.tuning.replica_timeout);
        self.timers.set(self.now + delay, Timer::Slot(id, round));
        self.wait_for_partition(partition, id);
    }

    pub(super) fn set_slot_timer(&mut self, id: Id, delay: Duration) {
        if let Some(slot) = self.slots.get(id) {
            self.timers.set(self.now + delay, Timer::Slot(id, slot.round));
        }
    }

    pub(super) fn slot_timer(&mut self, id: Id, round: u32) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.round == round) else { return };
        match &slot.phase {
            Phase::Idle => {}
            Phase::Waiting { .. } => self.advance(id),
            Phase::Base(_) => self.base_timer(id),
            Phase::Put(_) => self.put_timer(id),
        }
    }

    /// Whether the slot still does what it did in this round.
    pub(super) fn awaits(&self, id: Id, round: u32) -> bool {
        self.slots.get(id).is_some_and(|slot| slot.round == round && !matches!(slot.phase, Phase::Idle))
    }

    pub(super) fn slot_answer(&mut self, id: Id, worker: WorkerIx, answer: Answer) {
        let Some(slot) = self.slots.get(id) else { return };
        match &slot.phase {
            Phase::Base(_) => self.base_answer(id, worker, answer),
            Phase::Put(_) => self.put_answer(id, worker, answer),
            Phase::Idle | Phase::Waiting { .. } => {}
        }
    }

    pub(super) fn finish_ok(&mut self, batch: Batch, written: &Written) {
        for op in batch.ops {
            self.finish_op(op, Ok(written.clone()));
        }
    }

    pub(super) fn finish_err(&mut self, batch: Batch, error: OpError) {
        for op in batch.ops {
            self.finish_op(op, Err(error.clone()));
        }
    }

    /// As [`Self::finish_err`]. Where the outcome is uncertain some replica may hold what others lack, and nobody else would
    /// look at the key.
    pub(super) fn fail_batch(&mut self, id: Id, batch: Batch, error: OpError) {
        if error == OpError::Uncertain
            && let Some(slot) = self.slots.get(id)
        {
            let key = slot.key.clone();
            for worker in self.replicas(slot.partition) {
                self.missed(worker, &key);
            }
        }
        self.finish_err(batch, error);
    }

    pub(super) fn finish_op(&mut self, op: Queued, outcome: Result<Written, OpError>) {
        let outcome = outcome.and_then(|mut written| {
            if let Some(version) = op.version {
                (written.ballot, written.clock) = version;
            }
            op.error.map_or(Ok(written), Err)
        });
        let completion = match op.item {
            Item::Write { update, blind, .. } => {
                Completion::Write { update, outcome, blind, since: op.since }
            }
            Item::Confirm { op: read, seen } => {
                let result = match outcome {
                    Ok(written) => Ok(found(seen, &written)),
                    Err(OpError::Busy) => Err(OpError::Busy),
                    Err(_) => Err(OpError::ReadUnavailable),
                };
                Completion::Read { done: read.done, result, since: op.since }
            }
            Item::Rewrite(done) => Completion::Rewrite { done, result: outcome.map(|_| ()) },
        };
        self.out.completions.push(completion);
    }
}

/// What a read that went along with a put answers.
fn found(seen: Option<Row>, written: &Written) -> Option<Found> {
    let row = Row { ballot: written.ballot, clock: written.clock.clone(), ..seen? };
    let source = written.synchronous.first()?.clone();
    Some(Found { row: Arc::new(row), source })
}

/// Takes what may share one put: all that waits, up to the bounds. An operation that wants all replicas goes alone.
fn form_batch(queue: &mut VecDeque<Queued>) -> Batch {
    let mut ops = Vec::new();
    while let Some(next) = queue.front() {
        let last = next.wants_all();
        if (last && !ops.is_empty()) || ops.len() == COMBINE_LEN_MAX {
            break;
        }
        ops.extend(queue.pop_front());
        if last {
            break;
        }
    }
    Batch { ops, sent: SmallVec::new(), abandoned: SmallVec::new(), touched: false }
}
