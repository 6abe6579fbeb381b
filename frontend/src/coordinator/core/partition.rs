//! Owning partitions: take-over, and the flush of all a partition's keys.

use std::collections::BTreeSet;
use std::time::Duration;

use tercet_common::mutants::{self, Mutant};
use tercet_common::quorum::QuorumTracker;
use tercet_common::{
    Ballot, Incarnation, PartitionId, Promise, Refusal, ReplicaReply, ReplicaRequest, Term, VectorClock,
};

use super::super::api::OpError;
use super::arena::Id;
use super::group::Group;
use super::timer::Timer;
use super::{Answer, Completion, Core, FlushDone, Missed, Replicas, Target, WorkerIx};

/// The most entries of the clock of a put: each row carries one. More only come together where many lives of frontends
/// follow each other before the replicas have been compared once.
pub(super) const PUT_CLOCK_ENTRIES_MAX: usize = 32;

/// A partition as its would-be owner sees it.
pub(super) struct Partition {
    pub(super) group: Group,
    /// What the owner has seen: the vectors of the replicas that it took over from, and left-overs that it met since.
    pub(super) context: VectorClock,
    /// The highest term seen in any epoch; the next one goes above it. (Within an epoch it must, or a rival would refuse it.)
    seen: Term,
    ownership: Ownership,
    /// Slots that wait for ownership or for the end of a flush.
    waiting: BTreeSet<Id>,
    /// Puts under way; a flush waits until there are none.
    pub(super) puts: usize,
    /// How many there ever were.
    pub(super) puts_begun: u64,
    /// Who has answered a prepare of the present term: the promise is durable there, and all that was accepted before it has
    /// ended.
    promised: Replicas,
    flush: Option<Flush>,
    /// No new put begins before then, unless the hold is released.
    pub(super) held_until: Option<Duration>,
    /// Names the current prepare, so that answers to earlier ones are known as such.
    round: u32,
    /// The same for flushes.
    flush_round: u32,
    /// Failed take-overs in a row.
    attempts: u32,
    /// Nothing is tried again before then; a timer that comes at another time is of a pause that was called off.
    paused_until: Option<Duration>,
    /// Changes with every take-over, flush and epoch: what the owner remembers of keys is void then.
    generation: u64,
}

enum Ownership {
    None,
    /// `rival`: somebody has refused it for a higher term.
    Preparing {
        promise: Promise,
        tracker: QuorumTracker,
        rival: bool,
    },
    Owned {
        promise: Promise,
    },
}

struct Flush {
    waiters: Vec<FlushDone>,
    /// Those who came when it had been sent. Theirs follows: what another frontend wrote in between must go too.
    late: Vec<FlushDone>,
    since: Duration,
    deadline: Duration,
    sent: Option<FlushSent>,
    /// A ballot of this flush may be stored somewhere.
    touched: bool,
}

struct FlushSent {
    ballot: Ballot,
    clock: VectorClock,
    tracker: QuorumTracker,
    /// To be sent the same ballot again.
    retry: Vec<WorkerIx>,
    /// Calls under way.
    pending: usize,
}

impl Partition {
    pub(super) fn new(group: Group) -> Self {
        Self {
            group,
            context: VectorClock::new(),
            seen: Term::default(),
            ownership: Ownership::None,
            waiting: BTreeSet::new(),
            puts: 0,
            puts_begun: 0,
            promised: Replicas::new(),
            flush: None,
            held_until: None,
            round: 0,
            flush_round: 0,
            attempts: 0,
            paused_until: None,
            generation: 0,
        }
    }

    /// The promise under which puts may be issued now.
    pub(super) fn promise(&self) -> Option<Promise> {
        match self.ownership {
            Ownership::Owned { promise } => Some(promise),
            _ => None,
        }
    }

    /// As [`Self::promise`], unless a flush or a ring change holds new puts back.
    pub(super) fn open_promise(&self) -> Option<Promise> {
        let flushes = self.flush.is_some() && !mutants::on(Mutant::FlushWithoutHold);
        self.promise().filter(|_| !flushes && self.held_until.is_none())
    }

    pub(super) fn flush_ballot(&self) -> Option<Ballot> {
        Some(self.flush.as_ref()?.sent.as_ref()?.ballot)
    }

    pub(super) fn is_flush_sent(&self) -> bool {
        self.flush_ballot().is_some()
    }

    /// The replicas changed: terms and what is remembered of keys are void, and a hold has had its purpose. `true` if the
    /// partition was owned, or was about to be.
    pub(super) fn enter(&mut self, group: Group) -> bool {
        self.group = group;
        self.generation += 1;
        self.attempts = 0;
        self.held_until = None;
        let before = std::mem::replace(&mut self.ownership, Ownership::None);
        !matches!(before, Ownership::None) || self.flush.is_some() || self.paused_until.is_some()
    }

    pub(super) fn has_promised(&self, worker: WorkerIx) -> bool {
        self.promised.contains(&worker)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The clock of the owner's next put.
    pub(super) fn put_clock(&self, owner: Incarnation, seq: u64) -> VectorClock {
        let mut clock = self.context.with_dot(owner, seq);
        clock.cut(PUT_CLOCK_ENTRIES_MAX, owner);
        clock
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Operations wait for ownership.
    fn is_wanted(&self) -> bool {
        self.flush.is_some() || !self.waiting.is_empty()
    }

    pub(super) fn saw(&mut self, promise: Promise) {
        self.seen = self.seen.max(promise.term);
    }
}

impl Core {
    /// Puts a slot to sleep until the partition is owned and not being flushed.
    pub(super) fn wait_for_partition(&mut self, id: PartitionId, slot: Id) {
        if let Some(partition) = self.partition_mut(id) {
            partition.waiting.insert(slot);
        }
        self.ensure_owned(id);
    }

    pub(super) fn stop_waiting(&mut self, id: PartitionId, slot: Id) {
        if let Some(partition) = self.partition_mut(id) {
            partition.waiting.remove(&slot);
        }
    }

    pub(super) fn ensure_owned(&mut self, id: PartitionId) {
        let may_try = |p: &Partition| matches!(p.ownership, Ownership::None) && p.paused_until.is_none();
        if self.partition(id).is_some_and(may_try) {
            self.prepare(id);
        }
    }

    /// Gives up the term `over` and takes a higher one: after a refusal, and to fence an uncertain put. A higher term
    /// that is held already will do, unless somebody has been seen above that too: late refusals of an old term must
    /// not cost one take-over each.
    pub(super) fn retake(&mut self, id: PartitionId, over: Promise) {
        let Some(partition) = self.partition_mut(id) else { return };
        if let Ownership::Owned { promise } = partition.ownership
            && (promise <= over || promise.term < partition.seen)
        {
            partition.ownership = Ownership::None;
        }
        self.ensure_owned(id);
    }

    /// Takes the partition over now if it is not owned; also while a failed attempt waits for its time.
    pub fn take_over(&mut self, id: PartitionId) {
        if self.partition(id).is_some_and(|p| matches!(p.ownership, Ownership::None)) {
            self.prepare(id);
        }
    }

    /// The replicas were found equal, in a comparison that began and ended under this promise. So they all have passed what
    /// others than this owner ever wrote: nothing is left to be told apart by it, and it goes from the clocks to come.
    pub fn passed(&mut self, id: PartitionId, promise: Promise) {
        if let Some(partition) = self.partition_mut(id).filter(|p| p.promise() == Some(promise)) {
            partition.context = VectorClock::new();
        }
    }

    /// Lets those go on who wait for the partition.
    pub(super) fn go_on(&mut self, id: PartitionId) {
        self.drive_flush(id);
        self.wake_waiting(id);
    }

    fn prepare(&mut self, id: PartitionId) {
        if !self.is_reachable(id) {
            if let Some(partition) = self.partition_mut(id) {
                partition.attempts += 1;
            }
            return self.retry_partition(id);
        }
        let me = self.me;
        let Some(partition) = self.partition_mut(id) else { return };
        let term = Term { n: partition.seen.n + 1, incarnation: me };
        let promise = Promise { epoch: partition.group.epoch, term };
        partition.seen = term;
        partition.round += 1;
        partition.promised.clear();
        // What others have pruned meanwhile must not come back. A quorum knows of all that is chosen.
        partition.context = VectorClock::new();
        let round = partition.round;
        let mut tracker = partition.group.tracker();
        for worker in self.replicas(id) {
            if !self.call(
                worker,
                Target::Prepare(id, round),
                ReplicaRequest::Prepare { partition: id, promise },
            ) {
                tracker.fail(worker);
            }
        }
        if let Some(partition) = self.partition_mut(id) {
            partition.ownership = Ownership::Preparing { promise, tracker, rival: false };
        }
    }

    pub(super) fn prepare_answer(&mut self, id: PartitionId, round: u32, worker: WorkerIx, answer: Answer) {
        let Some(partition) = self.partition_mut(id) else { return };
        let rivals = match &answer {
            Answer::Reply(ReplicaReply::Refused(Refusal::Promise { promised })) => Some(*promised),
            // A replica that was repaired may hold what a quorum has chosen in a term that it never promised.
            Answer::Reply(ReplicaReply::Prepared { highest, .. }) => Some(highest.promise()),
            Answer::Reply(_) | Answer::Lost => None,
        };
        if let Some(rivals) = rivals {
            partition.saw(rivals);
        }
        if partition.round != round {
            return;
        }
        if matches!(answer, Answer::Reply(ReplicaReply::Prepared { .. })) {
            partition.promised.push(worker);
        }
        let Ownership::Preparing { promise, tracker, rival } = &mut partition.ownership else { return };
        let promise = *promise;
        let outranked = match &answer {
            Answer::Reply(ReplicaReply::Refused(Refusal::Promise { .. })) => true,
            _ => rivals.is_some_and(|rivals| rivals > promise),
        };
        *rival |= outranked;
        let rival = *rival;
        match answer {
            Answer::Reply(ReplicaReply::Prepared { vector, .. }) if !outranked => {
                tracker.ack(worker);
                // Not of a late answer: it may tell of puts of a higher term, which a put of this one must not claim to
                // have seen.
                partition.context.join(&vector);
            }
            Answer::Reply(_) | Answer::Lost => tracker.fail(worker),
        }
        if tracker.reached() {
            partition.ownership = Ownership::Owned { promise };
            partition.generation += 1;
            partition.attempts = 0;
            self.out.counts.takeovers += 1;
            self.go_on(id);
        } else if tracker.unreachable() {
            partition.ownership = Ownership::None;
            partition.attempts += 1;
            let (attempts, wanted) = (partition.attempts, partition.is_wanted());
            self.out.counts.takeovers_failed += 1;
            match rival {
                // It did not know of that term. Who has just begun knows of none.
                true if attempts == 1 => self.prepare(id),
                // Somebody has a use for the partition, and here nobody has: to take it away from them time and again
                // would only make those wait who wait there.
                true if !wanted => self.leave_unwanted(id),
                _ => self.retry_partition(id),
            }
        }
    }

    /// Gives up to take the partition over where nobody waits for it any more. Who comes next begins afresh: to sit out a
    /// pause that others earned could take all the time it has.
    pub(super) fn leave_unwanted(&mut self, id: PartitionId) {
        let idle = |p: &&mut Partition| matches!(p.ownership, Ownership::None) && !p.is_wanted();
        if let Some(partition) = self.partition_mut(id).filter(idle) {
            partition.attempts = 0;
            partition.paused_until = None;
        }
    }

    /// Tries again later: longer each time, and not at the same moment as a rival.
    fn retry_partition(&mut self, id: PartitionId) {
        let Some(partition) = self.partition(id) else { return };
        if partition.paused_until.is_some() {
            return;
        }
        let delay = self.resend_delay(partition.attempts);
        let until = self.now + delay + self.jitter(delay);
        self.timers.set(until, Timer::Partition(id));
        if let Some(partition) = self.partition_mut(id) {
            partition.paused_until = Some(until);
        }
    }

    pub(super) fn partition_timer(&mut self, id: PartitionId) {
        let now = self.now;
        let Some(partition) = self.partition_mut(id) else { return };
        if partition.paused_until.take_if(|until| now >= *until).is_none() {
            return;
        }
        if partition.is_wanted() || self.is_reachable(id) {
            self.ensure_owned(id);
            self.drive_flush(id);
        }
    }

    pub(super) fn flush_timer(&mut self, id: PartitionId) {
        let now = self.now;
        if self.partition(id).and_then(|p| p.flush.as_ref()).is_some_and(|f| now >= f.deadline) {
            let error = if self.flush_touched(id) { OpError::Uncertain } else { self.no_quorum(id) };
            self.end_flush(id, Err(error));
        }
    }

    /// A worker can be asked again: what waited for a quorum may go on.
    pub(super) fn wake_partitions_of(&mut self, worker: WorkerIx) {
        for id in PartitionId::all().take(self.partitions.len()) {
            if self.partition(id).is_some_and(|p| !p.waiting.is_empty() && p.group.contains(worker)) {
                self.ensure_owned(id);
                if self.partition(id).is_some_and(|p| p.open_promise().is_some()) {
                    self.wake_waiting(id);
                }
            }
        }
    }

    fn wake_waiting(&mut self, id: PartitionId) {
        let Some(partition) = self.partition_mut(id) else { return };
        for slot in std::mem::take(&mut partition.waiting) {
            self.advance(slot);
        }
    }

    pub(super) fn put_began(&mut self, id: PartitionId) {
        if let Some(partition) = self.partition_mut(id) {
            partition.puts += 1;
            partition.puts_begun += 1;
        }
    }

    pub(super) fn put_ended(&mut self, id: PartitionId) {
        if let Some(partition) = self.partition_mut(id) {
            partition.puts -= 1;
        }
        self.drive_flush(id);
    }

    /// Flush: hold new puts, let those under way end, put one flush ballot. A second flush that arrives before it is
    /// sent shares it.
    pub(super) fn start_flush(&mut self, id: PartitionId, done: FlushDone) {
        let since = self.now;
        let deadline = since + self.tuning.request_timeout;
        let Some(partition) = self.partition_mut(id) else {
            let (result, since) = (Err(OpError::Loading), since);
            return self.out.completions.push(Completion::Flush { done, result, since });
        };
        match &mut partition.flush {
            Some(flush) if flush.sent.is_none() && !flush.touched => flush.waiters.push(done),
            Some(flush) => flush.late.push(done),
            None => {
                let waiters = vec![done];
                partition.flush =
                    Some(Flush { waiters, late: Vec::new(), since, deadline, sent: None, touched: false });
                self.timers.set(deadline, Timer::Flush(id));
                self.ensure_owned(id);
                self.drive_flush(id);
            }
        }
    }

    fn drive_flush(&mut self, id: PartitionId) {
        let me = self.me;
        let Some(partition) = self.partition(id) else { return };
        let (Some(flush), Some(promise)) = (&partition.flush, partition.promise()) else { return };
        if partition.puts > 0 && !mutants::on(Mutant::FlushWithoutHold) {
            return;
        }
        if flush.sent.is_some() {
            return self.resend_flush(id);
        }
        if partition.held_until.is_some() {
            return;
        }
        let (tracker, retry) = (partition.group.tracker(), partition.group.everyone().to_vec());
        let seq = self.next_seq();
        let ballot = promise.ballot(seq);
        let Some(partition) = self.partition_mut(id) else { return };
        let clock = partition.put_clock(me, seq);
        partition.flush_round += 1;
        if let Some(flush) = &mut partition.flush {
            flush.sent = Some(FlushSent { ballot, clock, tracker, retry, pending: 0 });
        }
        self.resend_flush(id);
    }

    /// Sends the flush's ballot to the replicas that have not answered it.
    fn resend_flush(&mut self, id: PartitionId) {
        let Some(partition) = self.partition_mut(id) else { return };
        let round = partition.flush_round;
        let Some(sent) = partition.flush.as_mut().and_then(|f| f.sent.as_mut()) else { return };
        let request = ReplicaRequest::Flush {
            partition: id,
            ballot: sent.ballot,
            clock: sent.clock.clone(),
            chosen: None,
        };
        let targets = std::mem::take(&mut sent.retry);
        let asked = targets.len();
        let mut unsent = Vec::new();
        for worker in targets {
            if !self.call(worker, Target::Flush(id, round), request.clone()) {
                unsent.push(worker);
            }
        }
        let waits = !unsent.is_empty();
        let Some(flush) = self.partition_mut(id).and_then(|p| p.flush.as_mut()) else { return };
        if let Some(sent) = &mut flush.sent {
            sent.pending += asked - unsent.len();
            sent.retry = unsent;
        }
        if waits {
            self.retry_partition(id);
        }
    }

    pub(super) fn flush_answer(&mut self, id: PartitionId, round: u32, worker: WorkerIx, answer: Answer) {
        let Some(partition) = self.partition_mut(id) else { return };
        if let Answer::Reply(ReplicaReply::Refused(refusal)) = &answer {
            match refusal {
                Refusal::Promise { promised } => partition.saw(*promised),
                Refusal::Superseded { ballot } => partition.saw(ballot.promise()),
                _ => {}
            }
        }
        if partition.flush_round != round {
            return;
        }
        let Some(flush) = &mut partition.flush else { return };
        let Some(sent) = &mut flush.sent else { return };
        sent.pending -= 1;
        match answer {
            Answer::Reply(ReplicaReply::Stored) => {
                flush.touched = true;
                sent.tracker.ack(worker);
            }
            Answer::Reply(ReplicaReply::Refused(
                Refusal::Promise { .. }
                | Refusal::Superseded { .. }
                | Refusal::Epoch { .. }
                | Refusal::NotMember,
            )) => sent.tracker.fail(worker),
            Answer::Reply(ReplicaReply::Refused(_)) => sent.retry.push(worker),
            Answer::Reply(_) | Answer::Lost => {
                flush.touched = true;
                sent.retry.push(worker);
            }
        }
        if sent.tracker.reached() {
            self.end_flush(id, Ok(()));
        } else if sent.tracker.unreachable() {
            let over = sent.ballot.promise();
            if flush.touched {
                // Somebody may hold it, or have seen it: a second one would delete what was written since (design 4,
                // "one client operation, one ballot").
                return self.end_flush(id, Err(OpError::Uncertain));
            }
            if sent.pending > 0 {
                return;
            }
            // Deposed, and nobody has it: the same wish under a new ballot of a higher term.
            flush.sent = None;
            self.retake(id, over);
        } else {
            self.retry_partition(id);
        }
    }

    /// The epoch is over in which the flush was sent. Where somebody may hold it, a second ballot could delete what was
    /// written since.
    pub(super) fn cut_off_flush(&mut self, id: PartitionId) {
        let Some(flush) = self.partition_mut(id).and_then(|p| p.flush.as_mut()) else { return };
        let Some(sent) = flush.sent.take() else { return };
        if flush.touched || sent.pending > 0 {
            self.end_flush(id, Err(OpError::Uncertain));
        }
    }

    fn flush_touched(&self, id: PartitionId) -> bool {
        self.partition(id).and_then(|p| p.flush.as_ref()).is_some_and(|f| f.touched || f.sent.is_some())
    }

    fn end_flush(&mut self, id: PartitionId, result: Result<(), OpError>) {
        let Some(partition) = self.partition_mut(id) else { return };
        let Some(flush) = partition.flush.take() else { return };
        partition.generation += 1;
        let seen = Promise { epoch: partition.group.epoch, term: partition.seen };
        let everyone = partition.group.everyone().into_iter();
        match (&result, &flush.sent) {
            (Ok(()), Some(sent)) => {
                // Also those that may still answer: to store a flush twice is to store it.
                let (ballot, clock) = (sent.ballot, &sent.clock);
                let missed = || Missed::Flush { partition: id, ballot, clock: clock.clone() };
                let lacking = everyone.filter(|worker| !sent.tracker.has_acked(*worker));
                self.out.missed.extend(lacking.map(|worker| (worker, missed())));
            }
            // Some may hold it, and nobody knows who.
            (Err(OpError::Uncertain), _) => {
                self.out.missed.extend(everyone.map(|worker| (worker, Missed::UncertainFlush(id))));
            }
            _ => {}
        }
        for done in flush.waiters {
            self.out.completions.push(Completion::Flush { done, result: result.clone(), since: flush.since });
        }
        if result.is_err() {
            // It may still land: a new term fences it before the next base is read.
            self.retake(id, seen);
        }
        for done in flush.late {
            self.start_flush(id, done);
        }
        self.wake_waiting(id);
        self.leave_unwanted(id);
    }
}
