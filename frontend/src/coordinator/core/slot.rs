//! A key's slot: the queue of its operations, and the one put that is under way.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;
use tercet_common::message::Held;
use tercet_common::quorum::{QuorumTracker, majority};
use tercet_common::{Ballot, Content, Key, PartitionId, Refusal, ReplicaReply, ReplicaRequest, Row};

use super::super::api::{Change, Found, OpError, ReadOp, Update, WriteLevel, WriteOp, Written};
use super::arena::Id;
use super::partition::Partition;
use super::timer::Timer;
use super::{Answer, COMBINE_BYTES_MAX, COMBINE_LEN_MAX, Completion, Core, Target, WorkerIx};

/// An operation that waits in a slot or travels with a put.
pub(super) struct Queued {
    key: Key,
    item: Item,
    since: Duration,
    deadline: Duration,
    /// Why this one fails although the put it shares succeeds.
    error: Option<OpError>,
}

enum Item {
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
}

impl Queued {
    pub(super) fn write(op: WriteOp, since: Duration, deadline: Duration) -> Self {
        let item = Item::Write { update: op.update, blind: op.blind, level: op.level };
        Self { key: op.key, item, since, deadline, error: None }
    }

    pub(super) fn confirm(op: ReadOp, since: Duration, deadline: Duration) -> Self {
        Self { key: op.key.clone(), item: Item::Confirm { op, seen: None }, since, deadline, error: None }
    }

    fn is_blind(&self) -> bool {
        matches!(self.item, Item::Write { blind: true, .. })
    }

    fn wants_all(&self) -> bool {
        matches!(self.item, Item::Write { level: WriteLevel::All, .. })
    }
}

/// See the module. Exists only while something is queued or under way.
pub(super) struct Slot {
    key: Key,
    partition: PartitionId,
    queue: VecDeque<Queued>,
    phase: Phase,
    /// What this owner itself last issued, and a quorum acknowledged; void when the partition's generation changed.
    known: Option<Known>,
    /// Names the current phase: answers and timers of earlier ones are ignored.
    round: u32,
}

struct Known {
    generation: u64,
    row: Option<Row>,
}

enum Phase {
    Idle,
    /// For ownership, or for a quorum of replicas to be in reach. The batch is one whose put was refused.
    Waiting {
        batch: Option<Batch>,
    },
    Base(Base),
    Put(Put),
}

/// Operations that share one put and its outcome.
struct Batch {
    ops: Vec<Queued>,
    /// Ballots under which the operations' present results were sent.
    sent: SmallVec<[Ballot; 1]>,
    /// Ballots of earlier applications, which were found not to have happened.
    abandoned: SmallVec<[Ballot; 1]>,
}

impl Batch {
    fn deadline(&self) -> Duration {
        self.ops.first().map_or(Duration::ZERO, |op| op.deadline)
    }
}

struct Base {
    batch: Batch,
    asked: SmallVec<[(WorkerIx, Asked); 3]>,
    answers: SmallVec<[(WorkerIx, Held); 3]>,
    attempts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Pending,
    Answered,
    Failed,
}

struct Put {
    batch: Batch,
    row: Row,
    replicas: SmallVec<[(WorkerIx, Delivery); 3]>,
    tracker: QuorumTracker,
    /// Some replica may hold the row although it has not said so.
    touched: bool,
    /// Refusals so far were all for lack of room.
    only_busy: bool,
    attempts: u32,
    timer_set: bool,
    began: Duration,
}

/// How far the put has come at one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Delivery {
    Pending,
    Stored,
    /// To be sent again, under the same ballot.
    Again,
    /// A higher term is there.
    Deposed,
    /// Refused for good, for another reason.
    Never,
}

/// Where a batch's base comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
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
        if let Some(waited) = batch.take_if(|b| self.now >= b.deadline()) {
            let error = if waited.sent.is_empty() { self.no_quorum(partition) } else { OpError::Uncertain };
            self.finish_err(waited, error);
        }
        self.expire_queue(id);
        let Some(slot) = self.slots.get_mut(id) else { return };
        if batch.is_none() && slot.queue.is_empty() {
            self.slot_of.remove(&slot.key);
            self.slots.remove(id);
            return;
        }
        let open = self.partition(partition).and_then(|p| p.open_promise().map(|_| p.generation()));
        let enough = self.reachable(partition) >= majority(self.replicas(partition).len());
        let Some(generation) = open.filter(|_| enough) else {
            return self.wait(id, batch);
        };
        if let Some(batch) = batch {
            return self.start_base(id, batch);
        }
        let Some(slot) = self.slots.get_mut(id) else { return };
        let known = slot.known.take().filter(|k| k.generation == generation);
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
    fn expire_queue(&mut self, id: Id) {
        let (now, grace) = (self.now, self.tuning.quorum_grace);
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        let enough = self.reachable(partition) >= majority(self.replicas(partition).len());
        let error = self.no_quorum(partition);
        let Some(slot) = self.slots.get_mut(id) else { return };
        let late = |op: &Queued| now >= op.deadline || (!enough && now >= op.since + grace);
        let mut expired = Vec::new();
        // In order of arrival, so the late ones come first.
        while slot.queue.front().is_some_and(late) {
            expired.extend(slot.queue.pop_front());
        }
        for op in expired {
            self.finish_op(op, Err(error.clone()));
        }
    }

    fn wait(&mut self, id: Id, batch: Option<Batch>) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.phase = Phase::Waiting { batch };
        slot.round += 1;
        let (round, partition) = (slot.round, slot.partition);
        let delay = self.tuning.quorum_grace.min(self.tuning.replica_timeout);
        self.timers.set(self.now + delay, Timer::Slot(id, round));
        self.wait_for_partition(partition, id);
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

    pub(super) fn slot_answer(&mut self, id: Id, round: u32, worker: WorkerIx, answer: Answer) {
        let Some(slot) = self.slots.get(id) else { return };
        if slot.round != round {
            return;
        }
        match &slot.phase {
            Phase::Base(_) => self.base_answer(id, worker, answer),
            Phase::Put(_) => self.put_answer(id, worker, answer),
            Phase::Idle | Phase::Waiting { .. } => {}
        }
    }

    // --- Reading the base ---

    /// Asks two replicas; a third when one is slow or fails.
    fn start_base(&mut self, id: Id, batch: Batch) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.round += 1;
        slot.phase =
            Phase::Base(Base { batch, asked: SmallVec::new(), answers: SmallVec::new(), attempts: 0 });
        let partition = slot.partition;
        let quorum = majority(self.replicas(partition).len());
        self.ask_base(id, quorum, false);
        self.set_slot_timer(id, self.tuning.hedge_after);
    }

    /// Sends get-for-write to up to `count` replicas that were not asked yet or, with `again`, whose call failed.
    fn ask_base(&mut self, id: Id, count: usize, again: bool) {
        let Some(slot) = self.slots.get(id) else { return };
        let (key, round, partition) = (slot.key.clone(), slot.round, slot.partition);
        let Phase::Base(base) = &slot.phase else { return };
        let open: SmallVec<[WorkerIx; 3]> = self
            .replicas(partition)
            .into_iter()
            .filter(|w| {
                let state = base.asked.iter().find(|(asked, _)| asked == w).map(|(_, state)| *state);
                state.is_none_or(|state| again && state == Asked::Failed)
            })
            .collect();
        let Some(promise) = self.partition(partition).and_then(|p| p.promise()) else { return };
        let mut sent = SmallVec::<[WorkerIx; 3]>::new();
        for worker in open {
            if sent.len() == count {
                break;
            }
            let request = ReplicaRequest::GetForWrite { promise, key: key.clone() };
            if self.call(worker, Target::Slot(id, round), request) {
                sent.push(worker);
            }
        }
        let Some(Phase::Base(base)) = self.slots.get_mut(id).map(|slot| &mut slot.phase) else { return };
        for worker in sent {
            base.asked.retain(|(asked, _)| *asked != worker);
            base.asked.push((worker, Asked::Pending));
        }
    }

    fn base_answer(&mut self, id: Id, worker: WorkerIx, answer: Answer) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let partition = slot.partition;
        let Phase::Base(base) = &mut slot.phase else { return };
        let Some((_, state)) = base.asked.iter_mut().find(|(asked, _)| *asked == worker) else { return };
        match answer {
            Answer::Reply(ReplicaReply::Version(held)) => {
                *state = Asked::Answered;
                base.answers.push((worker, held));
                let answers = base.answers.len();
                if answers >= majority(self.replicas(partition).len()) {
                    self.base_done(id);
                }
            }
            Answer::Reply(ReplicaReply::Refused(Refusal::Promise { promised })) => {
                self.deposed_in_base(id, promised);
            }
            Answer::Reply(_) | Answer::Lost => {
                *state = Asked::Failed;
                self.out.counts.hedged_failed += 1;
                // Another replica at once; the failed one again by the timer.
                self.ask_base(id, 1, false);
            }
        }
    }

    fn deposed_in_base(&mut self, id: Id, promised: tercet_common::Promise) {
        let Some(batch) = self.take_base(id) else { return };
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        if let Some(p) = self.partition_mut(partition) {
            p.saw(promised);
        }
        self.retake(partition);
        self.wait(id, Some(batch.batch));
    }

    fn take_base(&mut self, id: Id) -> Option<Base> {
        let slot = self.slots.get_mut(id)?;
        match std::mem::replace(&mut slot.phase, Phase::Idle) {
            Phase::Base(base) => Some(base),
            other => {
                slot.phase = other;
                None
            }
        }
    }

    fn base_timer(&mut self, id: Id) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let partition = slot.partition;
        let Phase::Base(base) = &mut slot.phase else { return };
        let attempts = base.attempts;
        base.attempts += 1;
        let over = self.now >= base.batch.deadline();
        let cut_off = self.partition(partition).is_none_or(|p| p.promise().is_none());
        if over {
            let Some(base) = self.take_base(id) else { return };
            let error =
                if base.batch.sent.is_empty() { self.no_quorum(partition) } else { OpError::Uncertain };
            self.finish_err(base.batch, error);
            self.advance(id);
        } else if cut_off {
            // The partition is being taken over again; the base is read under the new term.
            let Some(base) = self.take_base(id) else { return };
            self.wait(id, Some(base.batch));
        } else {
            if attempts == 0 {
                self.out.counts.hedged_slow += 1;
            }
            self.ask_base(id, usize::MAX, true);
            self.set_slot_timer(id, self.resend_delay(attempts + 1));
        }
    }

    fn set_slot_timer(&mut self, id: Id, delay: Duration) {
        if let Some(slot) = self.slots.get(id) {
            self.timers.set(self.now + delay, Timer::Slot(id, slot.round));
        }
    }

    fn base_done(&mut self, id: Id) {
        let Some(mut base) = self.take_base(id) else { return };
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        base.answers.sort_by_key(|(_, held)| std::cmp::Reverse(held.ballot));
        let Some((holder, highest)) = base.answers.first().cloned() else { return };
        let holders = base.answers.iter().filter(|(_, held)| held.ballot == highest.ballot).count();
        let chosen = holders >= majority(self.replicas(partition).len());
        let rows: Vec<Row> = base.answers.iter().filter_map(|(_, held)| held.row.clone()).collect();
        if let Some(p) = self.partition_mut(partition) {
            for row in &rows {
                p.context.join(&row.clock);
            }
        }
        if let [newer, older, ..] = rows.as_slice() {
            self.check_clocks((older.ballot, &older.clock), (newer.ballot, &newer.clock));
        }
        let mut batch = base.batch;
        let sent = || batch.sent.iter().chain(&batch.abandoned);
        if batch.sent.contains(&highest.ballot) {
            // The put did arrive somewhere and nothing came after it: make it chosen, and acknowledge.
            let Some(row) = highest.row else {
                self.finish_err(batch, OpError::Uncertain);
                return self.advance(id);
            };
            return self.rewrite(id, batch, row);
        }
        if sent().next().is_some() && sent().any(|ballot| highest.ballot >= *ballot) {
            self.finish_err(batch, OpError::Uncertain);
            return self.advance(id);
        }
        // Below all that was sent: a quorum has promised a higher term, so those puts can never be chosen.
        let unsent = std::mem::take(&mut batch.sent);
        batch.abandoned.extend(unsent);
        self.apply(id, batch, highest.row, Origin::Replicas { chosen, ballot: highest.ballot, holder });
    }

    /// Puts the content of an earlier put of the same batch again, under a fresh ballot.
    fn rewrite(&mut self, id: Id, batch: Batch, row: Row) {
        let Some((ballot, clock)) = self.next_version(id) else {
            return self.wait(id, Some(batch));
        };
        self.start_put(id, batch, Row { ballot, clock, ..row });
    }

    /// The ballot and clock of the slot's next put; `None` while the partition is not owned.
    fn next_version(&mut self, id: Id) -> Option<(Ballot, tercet_common::VectorClock)> {
        let partition = self.slots.get(id)?.partition;
        let promise = self.partition(partition)?.promise()?;
        let seq = self.next_seq();
        let clock = self.partition(partition)?.context.with_dot(self.me, seq);
        Some((promise.ballot(seq), clock))
    }

    // --- Applying and putting ---

    /// Runs the batch's operations over the base, one after the other, and puts what comes out.
    fn apply(&mut self, id: Id, mut batch: Batch, base: Option<Row>, origin: Origin) {
        let Some((ballot, clock)) = self.next_version(id) else {
            return self.wait(id, Some(batch));
        };
        let Some(key) = self.slots.get(id).map(|slot| slot.key.clone()) else { return };
        let (wall, max) = (self.wall, self.tuning.value_bytes_max);
        let expired =
            base.as_ref().is_some_and(|row| row.content.expires_at().is_some() && !row.content.is_live(wall));
        let mut next: Option<Row> = None;
        let mut bytes = 0;
        let mut applied = 0;
        for op in &mut batch.ops {
            if bytes > COMBINE_BYTES_MAX && batch.abandoned.is_empty() {
                break;
            }
            applied += 1;
            op.error = None;
            let live = next.as_ref().or(base.as_ref()).filter(|row| row.content.is_live(wall));
            match &mut op.item {
                Item::Confirm { seen, .. } => *seen = live.cloned(),
                Item::Write { update, blind, .. } => {
                    match update.apply(if *blind { None } else { live }, wall) {
                        Change::Keep => {}
                        Change::Write(content) if content.data_len() > max => {
                            op.error = Some(OpError::ValueTooLarge { len: content.data_len(), max });
                        }
                        Change::Write(content) => {
                            bytes += content.data_len();
                            next = Some(Row { key: key.clone(), ballot, clock: clock.clone(), content });
                        }
                    }
                }
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
            // Nothing changed, and a majority holds just this: the read was the answer (design 4, GET).
            Origin::Replicas { chosen: true, ballot, holder } if !expired => {
                let clock = base.as_ref().map(|row| row.clock.clone()).unwrap_or_default();
                let synchronous = vec![self.name(holder)];
                let written = Written { ballot, clock, synchronous, asynchronous: None };
                self.finish_ok(batch, &written);
                self.advance(id);
            }
            // Nothing changed, and the base is only the owner's memory of it: a deposed owner must not answer from that.
            Origin::Memory | Origin::Blind => self.start_base(id, batch),
            Origin::Replicas { .. } => {
                self.out.counts.expired += u64::from(expired);
                self.out.counts.repairs_rewritten += u64::from(!expired);
                let content = base.filter(|_| !expired).map_or(Content::Tombstone, |row| row.content);
                self.start_put(id, batch, Row { key, ballot, clock, content });
            }
        }
    }

    fn start_put(&mut self, id: Id, mut batch: Batch, row: Row) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.round += 1;
        let (round, partition) = (slot.round, slot.partition);
        batch.sent.push(row.ballot);
        let replicas = self.replicas(partition);
        let tracker = QuorumTracker::new(&replicas);
        let mut deliveries = SmallVec::new();
        for worker in replicas {
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

    fn put_answer(&mut self, id: Id, worker: WorkerIx, answer: Answer) {
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
                    Refusal::Epoch { .. } | Refusal::NotMember | Refusal::KeyCollision | Refusal::Invalid => {
                        Delivery::Never
                    }
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
    fn judge_put(&mut self, id: Id) {
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
                return self.end_put(id, None);
            }
        } else if put.tracker.unreachable() {
            if has(Delivery::Deposed) {
                let Some(put) = self.take_put(id) else { return };
                self.retake(partition);
                self.wait(id, Some(put.batch));
                return self.put_ended(partition);
            }
            let untouched =
                !put.touched && !has(Delivery::Stored) && !has(Delivery::Pending) && !has(Delivery::Again);
            let error = if untouched { self.no_quorum(partition) } else { OpError::Uncertain };
            return self.fail_put(id, error);
        } else if has(Delivery::Again) && !put.timer_set {
            put.timer_set = true;
            let attempts = put.attempts;
            self.set_slot_timer(id, self.resend_delay(attempts));
        }
    }

    /// Sends the same ballot again to whom it has not reached.
    fn put_timer(&mut self, id: Id) {
        let (now, grace) = (self.now, self.tuning.quorum_grace);
        let Some(slot) = self.slots.get_mut(id) else { return };
        let (partition, round) = (slot.partition, slot.round);
        let Phase::Put(put) = &mut slot.phase else { return };
        put.timer_set = false;
        put.attempts += 1;
        let untouched = !put.touched
            && put.replicas.iter().all(|(_, d)| !matches!(d, Delivery::Stored | Delivery::Pending));
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

    fn take_put(&mut self, id: Id) -> Option<Put> {
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
    fn fail_put(&mut self, id: Id, error: OpError) {
        let Some(put) = self.take_put(id) else { return };
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.known = None;
        let partition = slot.partition;
        if error == OpError::Uncertain {
            self.retake(partition);
        }
        self.finish_err(put.batch, error);
        self.put_ended(partition);
        self.advance(id);
    }

    /// A quorum has the put. `partial`: but not all, as was asked for.
    fn end_put(&mut self, id: Id, partial: Option<OpError>) {
        let Some(put) = self.take_put(id) else { return };
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        let stored = |d: &Delivery| *d == Delivery::Stored;
        let synchronous =
            put.replicas.iter().filter(|(_, d)| stored(d)).map(|(w, _)| self.name(*w)).collect::<Vec<_>>();
        let pending = put.replicas.iter().find(|(_, d)| *d == Delivery::Pending);
        let asynchronous = pending.map(|(w, _)| self.name(*w));
        let written =
            Written { ballot: put.row.ballot, clock: put.row.clock.clone(), synchronous, asynchronous };
        let generation = self.partition(partition).filter(|p| p.promise() == Some(put.row.ballot.promise()));
        let generation = generation.map(Partition::generation);
        match partial {
            None => self.finish_ok(put.batch, &written),
            Some(error) => self.finish_err(put.batch, error),
        }
        if let (Some(slot), Some(generation)) = (self.slots.get_mut(id), generation) {
            slot.known = Some(Known { generation, row: Some(put.row) });
        }
        self.put_ended(partition);
        self.advance(id);
    }

    // --- Answering ---

    fn finish_ok(&mut self, batch: Batch, written: &Written) {
        for op in batch.ops {
            self.finish_op(op, Ok(written.clone()));
        }
    }

    fn finish_err(&mut self, batch: Batch, error: OpError) {
        for op in batch.ops {
            self.finish_op(op, Err(error.clone()));
        }
    }

    fn finish_op(&mut self, op: Queued, outcome: Result<Written, OpError>) {
        let outcome = outcome.and_then(|written| op.error.map_or(Ok(written), Err));
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
        };
        self.out.completions.push(completion);
    }
}

/// What a read that went along with a put answers.
fn found(seen: Option<Row>, written: &Written) -> Option<Found> {
    let row = seen?;
    let source = written.synchronous.first()?.clone();
    Some(Found { row, source })
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
    Batch { ops, sent: SmallVec::new(), abandoned: SmallVec::new() }
}
