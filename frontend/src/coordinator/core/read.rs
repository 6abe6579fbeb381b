//! Reads that need no ownership: two replicas that agree are an answer.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tercet_common::message::Held;
use tercet_common::mutants::{self, Mutant};
use tercet_common::{Ballot, Key, PartitionId, ReplicaReply, ReplicaRequest, Row};

use super::super::api::{Found, OpError, ReadLevel, ReadOp};
use super::arena::Id;
use super::slot::Queued;
use super::timer::Timer;
use super::{Answer, Core, Group, Replicas, Target, WorkerIx};

/// A read under way.
pub(super) struct Read {
    op: ReadOp,
    partition: PartitionId,
    since: Duration,
    deadline: Duration,
    /// Names the epoch's part of the read: answers to earlier ones are ignored.
    round: u32,
    asked: SmallVec<[Asked; 3]>,
    attempts: u32,
    /// What may be remembered of its answer.
    owned: Option<Owned>,
}

/// Under which ownership the replicas were asked, and how many puts of the partition had begun.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owned {
    generation: u64,
    puts_begun: u64,
}

struct Asked {
    worker: WorkerIx,
    digest: bool,
    /// It had answered the owner's prepare before.
    promised: bool,
    state: State,
}

#[expect(clippy::large_enum_variant, reason = "most of them come to hold the large one")]
enum State {
    Pending,
    Failed,
    Answered(Held),
}

/// What the answers so far amount to.
#[expect(clippy::large_enum_variant, reason = "lives for one call")]
enum Verdict {
    /// A majority holds this version; `None`: no version at all, or one below a flush.
    Agreed { row: Option<Row>, source: WorkerIx, stale: SmallVec<[(WorkerIx, Ballot); 1]> },
    /// A majority holds this version, but only its digest has come so far.
    NeedRow { holder: WorkerIx },
    /// Enough answers, and they differ.
    Unequal,
    /// More answers are needed.
    Open,
}

impl Core {
    pub(super) fn start_read(&mut self, op: ReadOp, since: Duration, deadline: Duration) {
        let partition = op.key.partition();
        let id = self.reads.insert(Read {
            op,
            partition,
            since,
            deadline,
            round: 0,
            asked: SmallVec::new(),
            attempts: 0,
            owned: None,
        });
        self.ask_first(id);
        self.set_read_timer(id, self.tuning.hedge_after);
    }

    fn ask_first(&mut self, id: Id) {
        let Some(read) = self.reads.get(id) else { return };
        let owned = self.ownership_for(&read.op.key);
        let Some(group) = self.partition(read.partition).map(|p| &p.group) else { return };
        let up = |w: WorkerIx| self.is_available(w);
        let first: Replicas = match read.op.level {
            ReadLevel::One => group.replicas.iter().copied().find(|w| up(*w)).into_iter().collect(),
            ReadLevel::Quorum => self.quorum_to_read(read.partition),
            ReadLevel::All => group.everyone().into_iter().filter(|w| up(*w)).collect(),
        };
        if let Some(read) = self.reads.get_mut(id) {
            read.owned = owned;
        }
        for (nth, worker) in first.into_iter().enumerate() {
            // The first is asked for the row, the others for its ballot.
            self.ask_worker(id, worker, nth > 0);
        }
    }

    /// As few replicas as make a quorum, of those in reach: if they suffice, of those that have answered this owner's prepare,
    /// so that what they say may be remembered.
    fn quorum_to_read(&self, id: PartitionId) -> Replicas {
        let Some(partition) = self.partition(id) else { return Replicas::new() };
        let group = &partition.group;
        let promised = group.smallest_quorum(|w| self.is_available(w) && partition.has_promised(w));
        match group.is_quorum(|w| promised.contains(&w)) {
            true => promised,
            false => group.smallest_quorum(|w| self.is_available(w)),
        }
    }

    /// The partition's epoch is over: answers of its replicas count no longer, and its reads begin again.
    pub(super) fn restart_reads(&mut self, partition: PartitionId) {
        let of_partition = self.reads.iter().filter(|(_, read)| read.partition == partition);
        let reads: Vec<Id> = of_partition.map(|(id, _)| id).collect();
        for id in reads {
            if let Some(read) = self.reads.get_mut(id) {
                read.round += 1;
                read.asked.clear();
            }
            self.ask_first(id);
        }
    }

    fn set_read_timer(&mut self, id: Id, delay: Duration) {
        self.timers.set(self.now + delay, Timer::Read(id));
    }

    /// Asks the next replica in preference order: one not asked yet or, with `again`, one whose call failed.
    fn ask(&mut self, id: Id, digest: bool, again: bool) -> bool {
        let Some(read) = self.reads.get(id) else { return false };
        let state_of = |w: WorkerIx| read.asked.iter().find(|a| a.worker == w).map(|a| &a.state);
        let Some(group) = self.partition(read.partition).map(|p| &p.group) else { return false };
        let candidates = match read.op.level {
            // Newcomers would show keys as absent that they have not copied yet.
            ReadLevel::One => group.replicas.clone(),
            ReadLevel::Quorum | ReadLevel::All => group.everyone(),
        };
        let open = |w: WorkerIx| state_of(w).is_none_or(|state| again && matches!(state, State::Failed));
        let open: Replicas = candidates.into_iter().filter(|w| open(*w)).collect();
        open.into_iter().any(|worker| self.ask_worker(id, worker, digest))
    }

    /// Asks a replica more, in a joint epoch all that are left: which of them would complete the quorum depends on who
    /// answers. `false`: none was left.
    fn ask_more(&mut self, id: Id) -> bool {
        let mut asked = self.ask(id, false, false);
        let partition = self.reads.get(id).and_then(|read| self.partition(read.partition));
        if partition.is_some_and(|p| p.group.is_joint()) {
            while self.ask(id, false, false) {
                asked = true;
            }
        }
        asked
    }

    fn ask_worker(&mut self, id: Id, worker: WorkerIx, digest: bool) -> bool {
        let Some(read) = self.reads.get(id) else { return false };
        let Some(partition) = self.partition(read.partition) else { return false };
        let promised = partition.has_promised(worker);
        let request = ReplicaRequest::Get { epoch: partition.group.epoch, key: read.op.key.clone(), digest };
        if !self.call(worker, Target::Read(id, read.round), request) {
            return false;
        }
        if let Some(read) = self.reads.get_mut(id) {
            read.asked.retain(|a| a.worker != worker);
            read.asked.push(Asked { worker, digest, promised, state: State::Pending });
        }
        true
    }

    pub(super) fn read_answer(&mut self, id: Id, round: u32, worker: WorkerIx, answer: Answer) {
        let Some(read) = self.reads.get_mut(id).filter(|read| read.round == round) else { return };
        let Some(asked) = read.asked.iter_mut().find(|a| a.worker == worker) else { return };
        match answer {
            Answer::Reply(ReplicaReply::Version(held)) => asked.state = State::Answered(held),
            Answer::Reply(_) | Answer::Lost => {
                asked.state = State::Failed;
                self.out.counts.hedged_failed += 1;
                self.ask_more(id);
            }
        }
        self.judge_read(id);
    }

    fn judge_read(&mut self, id: Id) {
        let Some(read) = self.reads.get(id) else { return };
        let Some(group) = self.partition(read.partition).map(|p| &p.group) else { return };
        match verdict(read, group) {
            Verdict::Agreed { row, source, stale } => self.agreed(id, row, source, &stale),
            Verdict::NeedRow { holder } => {
                // The one that was asked for the row is stale or silent.
                if !self.ask_worker(id, holder, false) {
                    self.ask(id, false, true);
                }
            }
            Verdict::Unequal => {
                let busy = self.slot_of.contains_key(&read.op.key);
                if mutants::on(Mutant::RepairWithoutPromise) {
                    self.repair_unchosen(id);
                }
                self.out.counts.hedged_unequal += 1;
                // Our own write is under way: its outcome decides. Else the third replica may.
                if busy || (!self.ask_more(id) && !self.awaits_more(id)) {
                    self.confirm(id);
                }
            }
            Verdict::Open => {}
        }
    }

    /// What must never be done.
    fn repair_unchosen(&mut self, id: Id) {
        let Some(read) = self.reads.get(id) else { return };
        let held = read.asked.iter().filter_map(|a| match &a.state {
            State::Answered(held) => Some((a.worker, held.clone())),
            _ => None,
        });
        let held: Vec<(WorkerIx, Held)> = held.collect();
        let highest = held.iter().filter_map(|(_, held)| held.row.clone()).max_by_key(|row| row.ballot);
        let Some(row) = highest else { return };
        let stale: Vec<_> =
            held.iter().map(|(w, held)| (*w, held.ballot)).filter(|s| s.1 < row.ballot).collect();
        self.repair(read.partition, &row, &stale);
    }

    fn awaits_more(&self, id: Id) -> bool {
        self.reads.get(id).is_some_and(|read| read.asked.iter().any(|a| matches!(a.state, State::Pending)))
    }

    fn agreed(&mut self, id: Id, row: Option<Row>, source: WorkerIx, stale: &[(WorkerIx, Ballot)]) {
        let expired = row
            .as_ref()
            .is_some_and(|row| row.content.expires_at().is_some() && !row.content.is_live(self.wall));
        if expired && !mutants::on(Mutant::ExpiryWithoutTombstone) {
            // "Expired" is answered only once its tombstone is acknowledged, so that no other clock revives it.
            return self.confirm(id);
        }
        let Some(read) = self.reads.remove(id) else { return };
        self.remember_read(&read, row.as_ref());
        if let Some(row) = &row {
            self.repair(read.partition, row, stale);
        }
        let wall = self.wall;
        let live = row.filter(|row| row.content.is_live(wall));
        let found = live.map(|row| Found { row: Arc::new(row), source: self.name(source) });
        self.complete_read(read.op, read.since, Ok(found));
    }

    /// The key's part in the present ownership of its partition; `None`: it is not owned, or something of the key is under way.
    fn ownership_for(&self, key: &Key) -> Option<Owned> {
        let partition = self.partition(key.partition())?;
        let promise = partition.open_promise().filter(|_| !self.slot_of.contains_key(key))?;
        if self.memory.is_outranked(key.partition(), promise, &partition.group) {
            return None;
        }
        Some(Owned { generation: partition.generation(), puts_begun: partition.puts_begun })
    }

    /// Remembers an answer, if nobody but this owner can have put anything since the replicas were asked, or can do so
    /// later: they had answered its prepare before. Without that a put of an earlier owner may still come in at one of
    /// them, which has missed the take-over, or end there that was accepted before it, and be chosen by that.
    fn remember_read(&mut self, read: &Read, row: Option<&Row>) {
        let Some(owned) = read.owned.filter(|owned| self.ownership_for(&read.op.key) == Some(*owned)) else {
            return;
        };
        let answered = || {
            read.asked.iter().filter_map(|a| match &a.state {
                State::Answered(held) => Some((a, held.ballot)),
                _ => None,
            })
        };
        let highest = answered().map(|(_, ballot)| ballot).max();
        let unpromised = mutants::on(Mutant::RememberUnpromised);
        let holders = answered().filter(|(a, ballot)| Some(*ballot) == highest && (a.promised || unpromised));
        let holders: Replicas = holders.map(|(a, _)| a.worker).collect();
        if self.is_quorum(read.partition, |w| holders.contains(&w)) {
            self.memory.keep(&read.op.key, owned.generation, row, holders);
        }
    }

    /// Read repair: re-sends the chosen version to replicas that were seen to lack it.
    fn repair(&mut self, partition: PartitionId, row: &Row, stale: &[(WorkerIx, Ballot)]) {
        let Some(epoch) = self.partition(partition).map(|p| p.group.epoch) else { return };
        for (worker, _) in stale {
            let request = ReplicaRequest::Replicate { row: row.clone(), chosen: true, epoch };
            if self.call(*worker, Target::Repair, request) {
                self.out.counts.repairs_replicated += 1;
            }
        }
    }

    /// Hands the read to the key's slot, which makes the highest version chosen before it answers.
    fn confirm(&mut self, id: Id) {
        let Some(read) = self.reads.remove(id) else { return };
        self.enqueue(Queued::confirm(read.op, read.since, read.deadline));
    }

    pub(super) fn read_timer(&mut self, id: Id) {
        let now = self.now;
        let Some(read) = self.reads.get_mut(id) else { return };
        let attempts = read.attempts;
        read.attempts += 1;
        let (since, deadline, partition) = (read.since, read.deadline, read.partition);
        let few = !self.is_reachable(partition);
        if now >= deadline || (few && now >= since + self.tuning.quorum_grace && !self.awaits_more(id)) {
            let Some(read) = self.reads.remove(id) else { return };
            return self.complete_read(read.op, read.since, Err(OpError::ReadUnavailable));
        }
        if attempts == 0 {
            self.out.counts.hedged_slow += 1;
        }
        while self.ask(id, false, true) {}
        self.set_read_timer(id, self.resend_delay(attempts + 1));
    }
}

fn verdict(read: &Read, group: &Group) -> Verdict {
    let answers = read.asked.iter().filter_map(|a| match &a.state {
        State::Answered(held) => Some((a.worker, a.digest, held)),
        _ => None,
    });
    let answers: SmallVec<[(WorkerIx, bool, &Held); 3]> = answers.collect();
    let has_answered = |w: WorkerIx| answers.iter().any(|(worker, ..)| *worker == w);
    let enough = match read.op.level {
        ReadLevel::One => !answers.is_empty(),
        ReadLevel::Quorum => group.is_quorum(has_answered),
        ReadLevel::All => group.everyone().into_iter().all(has_answered),
    };
    if !enough {
        return Verdict::Open;
    }
    let Some(highest) = answers.iter().map(|(_, _, held)| held.ballot).max() else { return Verdict::Open };
    let holders = || answers.iter().filter(|(_, _, held)| held.ballot == highest);
    let is_holder = |w: WorkerIx| holders().any(|(worker, ..)| *worker == w);
    let minority_will_do = mutants::on(Mutant::GetUnrewritten);
    if read.op.level != ReadLevel::One && !minority_will_do && !group.is_quorum(is_holder) {
        return Verdict::Unequal;
    }
    let stale = answers.iter().filter(|(_, _, held)| held.ballot < highest);
    let stale = stale.map(|(worker, _, held)| (*worker, held.ballot)).collect();
    // A whole answer, or nothing to fetch because nobody ever wrote the key.
    let whole = holders().find(|(_, digest, held)| !digest || held.ballot == Ballot::ZERO);
    match (whole, holders().next()) {
        (Some((source, _, held)), _) => Verdict::Agreed { row: held.row.clone(), source: *source, stale },
        (None, Some((holder, _, _))) => Verdict::NeedRow { holder: *holder },
        (None, None) => Verdict::Open,
    }
}
