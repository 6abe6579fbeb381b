//! The base of a read-modify-write: the highest version of a quorum of get-for-write answers.

use smallvec::SmallVec;
use tercet_common::message::Held;
use tercet_common::mutants::{self, Mutant};
use tercet_common::{PartitionId, Promise, Refusal, ReplicaReply, ReplicaRequest};

use super::super::api::OpError;
use super::arena::Id;
use super::slot::{Batch, Origin, Phase};
use super::{Answer, Core, Replicas, Target, WorkerIx};

pub(super) struct Base {
    pub(super) batch: Batch,
    /// The term in which all answers are asked for, and the partition's generation then. Once either is over the
    /// answers are no base: somebody else, or a flush, may have come in between.
    pub(super) promise: Promise,
    pub(super) generation: u64,
    pub(super) asked: SmallVec<[(WorkerIx, Asked); 3]>,
    pub(super) answers: SmallVec<[(WorkerIx, Held); 3]>,
    pub(super) attempts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Pending,
    Answered,
    Failed,
}

impl Core {
    /// Asks as few replicas as make a quorum; more when one is slow or fails.
    pub(super) fn start_base(&mut self, id: Id, batch: Batch) {
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        let open = self.partition(partition).and_then(|p| Some((p.open_promise()?, p.generation())));
        let Some((promise, generation)) = open else { return self.wait(id, Some(batch)) };
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.round += 1;
        let (asked, answers) = (SmallVec::new(), SmallVec::new());
        slot.phase = Phase::Base(Base { batch, promise, generation, asked, answers, attempts: 0 });
        let quorum = self.quorum_in_reach(partition);
        self.send_base(id, &quorum);
        self.set_slot_timer(id, self.tuning.hedge_after);
    }

    /// Asks a replica more, in a joint epoch all that are left: which of them would complete the quorum depends on who
    /// answers.
    fn ask_base_more(&mut self, id: Id) {
        let Some((partition, open)) = self.base_open(id, |state| state.is_none()) else { return };
        let joint = self.partition(partition).is_some_and(|p| p.group.is_joint());
        let open: Replicas = open.into_iter().filter(|w| self.is_available(*w)).collect();
        self.send_base(id, if joint { &open } else { open.get(..1).unwrap_or_default() });
    }

    /// The base's partition, and its replicas in such a state; `None`: not asked yet.
    fn base_open(&self, id: Id, is: impl Fn(Option<Asked>) -> bool) -> Option<(PartitionId, Replicas)> {
        let slot = self.slots.get(id)?;
        let Phase::Base(base) = &slot.phase else { return None };
        let state = |w: WorkerIx| base.asked.iter().find(|(asked, _)| *asked == w).map(|(_, state)| *state);
        let open = self.replicas(slot.partition).into_iter().filter(|w| is(state(*w))).collect();
        Some((slot.partition, open))
    }

    fn send_base(&mut self, id: Id, workers: &[WorkerIx]) {
        for worker in workers {
            let Some(slot) = self.slots.get(id) else { return };
            let Phase::Base(base) = &slot.phase else { return };
            let request = ReplicaRequest::GetForWrite { promise: base.promise, key: slot.key.clone() };
            if self.call(*worker, Target::Slot(id, slot.round), request)
                && let Some(Phase::Base(base)) = self.slots.get_mut(id).map(|slot| &mut slot.phase)
            {
                base.asked.retain(|(asked, _)| asked != worker);
                base.asked.push((*worker, Asked::Pending));
            }
        }
    }

    pub(super) fn base_answer(&mut self, id: Id, worker: WorkerIx, answer: Answer) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let partition = slot.partition;
        let Phase::Base(base) = &mut slot.phase else { return };
        let Some((_, state)) = base.asked.iter_mut().find(|(asked, _)| *asked == worker) else { return };
        match answer {
            // Repaired with what a quorum had chosen in a higher term, of which its promise tells nothing. A put of this
            // term would only be left over there, and claim by its clock to have seen what outranks it.
            Answer::Reply(ReplicaReply::Version(held)) if held.ballot.promise() > base.promise => {
                self.deposed_in_base(id, held.ballot.promise());
            }
            Answer::Reply(ReplicaReply::Version(held)) => {
                *state = Asked::Answered;
                base.answers.push((worker, held));
                let answered: Replicas = base.answers.iter().map(|(worker, _)| *worker).collect();
                if self.is_quorum(partition, |w| answered.contains(&w)) {
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
                self.ask_base_more(id);
            }
        }
    }

    pub(super) fn deposed_in_base(&mut self, id: Id, promised: Promise) {
        let Some(base) = self.take_base(id) else { return };
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        if let Some(p) = self.partition_mut(partition) {
            p.saw(promised);
        }
        self.retake(partition, base.promise);
        self.resume(id, base.batch);
    }

    /// Whether the partition is still, or again, in a state in which the base's answers count.
    fn is_current(&self, partition: PartitionId, base: &Base) -> bool {
        let now = self.partition(partition).map(|p| (p.open_promise(), p.generation()));
        now == Some((Some(base.promise), base.generation))
    }

    pub(super) fn take_base(&mut self, id: Id) -> Option<Base> {
        let slot = self.slots.get_mut(id)?;
        match std::mem::replace(&mut slot.phase, Phase::Idle) {
            Phase::Base(base) => Some(base),
            other => {
                slot.phase = other;
                None
            }
        }
    }

    pub(super) fn base_timer(&mut self, id: Id) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let partition = slot.partition;
        let Phase::Base(base) = &mut slot.phase else { return };
        let attempts = base.attempts;
        base.attempts += 1;
        let over = self.now >= base.batch.deadline();
        let Some(Phase::Base(base)) = self.slots.get(id).map(|slot| &slot.phase) else { return };
        let cut_off = !self.is_current(partition, base);
        if over {
            let Some(base) = self.take_base(id) else { return };
            let error = base.batch.failure(self.no_quorum(partition));
            self.fail_batch(id, base.batch, error);
            self.advance(id);
        } else if cut_off {
            // The partition is taken over again, or flushed; the base is read again after that.
            let Some(base) = self.take_base(id) else { return };
            self.resume(id, base.batch);
        } else {
            if attempts == 0 {
                self.out.counts.hedged_slow += 1;
            }
            let open = self.base_open(id, |state| state.is_none_or(|state| state == Asked::Failed));
            self.send_base(id, &open.map(|(_, open)| open).unwrap_or_default());
            self.set_slot_timer(id, self.resend_delay(attempts + 1));
        }
    }

    pub(super) fn base_done(&mut self, id: Id) {
        let Some(mut base) = self.take_base(id) else { return };
        let Some(partition) = self.slots.get(id).map(|slot| slot.partition) else { return };
        if !self.is_current(partition, &base) {
            return self.resume(id, base.batch);
        }
        base.answers.sort_by_key(|(_, held)| std::cmp::Reverse(held.ballot));
        let Some((holder, highest)) = base.answers.first().cloned() else { return };
        let holders = base.answers.iter().filter(|(_, held)| held.ballot == highest.ballot);
        let holders: Replicas = holders.map(|(worker, _)| *worker).collect();
        let chosen = self.is_quorum(partition, |w| holders.contains(&w));
        // What is chosen was seen at the take-over. Of a left-over the replicas that were asked then may not have known.
        if let Some(p) = self.partition_mut(partition).filter(|_| !chosen) {
            let rows = base.answers.iter().filter_map(|(_, held)| held.row.as_ref());
            rows.for_each(|row| p.context.join(&row.clock));
        }
        self.check_clocks(base.promise.epoch, &base.answers);
        let mut batch = base.batch;
        let sent = || batch.sent.iter().chain(&batch.abandoned);
        if batch.sent.contains(&highest.ballot) {
            // The put did arrive somewhere and nothing came after it: make it chosen, and acknowledge.
            let Some(row) = highest.row else {
                self.fail_batch(id, batch, OpError::Uncertain);
                return self.advance(id);
            };
            return self.put_again(id, batch, row);
        }
        // Where nothing is held any more, the put may have been there, been written over, and be collected.
        let collected = base.answers.iter().map(|(_, held)| held.floor).max().unwrap_or_default();
        let again = mutants::on(Mutant::RetryOverCollected);
        if !again && sent().any(|ballot| collected >= *ballot) {
            return self.judge_uncertain(id, batch);
        }
        let again = mutants::on(Mutant::RetryUncertain);
        if !again && sent().next().is_some() && sent().any(|ballot| highest.ballot >= *ballot) {
            return self.judge_uncertain(id, batch);
        }
        // Below all that was sent: a quorum has promised a higher term, so those puts can never be chosen as they are.
        let unsent = std::mem::take(&mut batch.sent);
        batch.abandoned.extend(unsent);
        self.apply(id, batch, highest.row, Origin::Replicas { chosen, ballot: highest.ballot, holder });
    }

    /// Nobody can tell what became of the batch's puts. Operations whose changes these carried are uncertain. The others,
    /// reads and what found nothing to change, have left nothing anywhere: a put that only made a version of somebody
    /// else's chosen is that other one's, and whoever meets it may. They begin again, as if they had just come.
    fn judge_uncertain(&mut self, id: Id, mut batch: Batch) {
        let uncertain = batch.ops.extract_if(.., |op| op.sent).collect();
        let fresh = std::mem::replace(&mut batch.ops, uncertain);
        if !batch.ops.is_empty() {
            self.fail_batch(id, batch, OpError::Uncertain);
        }
        if let Some(slot) = self.slots.get_mut(id) {
            fresh.into_iter().rev().for_each(|op| slot.queue.push_front(op));
        }
        self.advance(id);
    }
}
