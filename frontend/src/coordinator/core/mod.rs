//! The coordinator's rules, without sockets, tasks or a clock of their own.
//!
//! Events go in ([`Core::submit`], [`Core::reply`], [`Core::peer`], [`Core::tick`]), each after [`Core::at`] has said what
//! time it is; what is to be sent and who is to be answered comes out of [`Core::out`]. A core serves some of the
//! partitions and never talks to another one.
//!
//! # What happens to a write
//!
//! ```text
//! submit ─▶ the key's slot ─▶ queue ─┬─ blind ───────────────────────▶ put ─▶ two of three stored ─▶ answer
//!                                    ├─ base known from the last put ▶ put     (the third goes on)
//!                                    └─ else: base from a quorum of
//!                                       get-for-write ──────────────▶ put
//! ```
//!
//! One put per key is under way at a time; what arrives meanwhile waits and is then combined into one put, whose outcome it
//! shares. Reads of a key whose slot is busy join it. Of all other reads those of a key that is remembered wait for a
//! proof that the partition is still owned (`memory`); the rest ask two replicas and need no ownership.
//!
//! # Being deposed
//!
//! A replica that has promised a higher term refuses. The slot then keeps its operations, the partition is taken over
//! under a higher term, and get-for-write tells what became of the put: its ballot is the highest → rewrite and
//! acknowledge; the highest is below all that was sent → it never happened and never will, apply afresh; anything
//! else → UNCERTAIN (design 4, "one client operation, one ballot").
//!
//! # Ring changes
//!
//! A partition's replicas and epoch come and change from outside: see `reconfigure`.
//!
//! # Forgetting
//!
//! The owner's memory of a key as the base of writes (its last issued state) lives only while a put is under way or has
//! just been acknowledged with more operations waiting. After an uncertain put the partition gets a new term instead: the fence makes the
//! next base read safe.

mod arena;
mod base;
mod group;
mod memory;
mod partition;
mod put;
mod read;
mod reconfigure;
mod slot;
#[cfg(test)]
mod tests;
mod timer;

use std::time::Duration;

use hashbrown::HashMap;
use tercet_common::message::Held;
use tercet_common::{
    Ballot, Epoch, Incarnation, Key, PartitionId, Refusal, ReplicaReply, ReplicaRequest, Row, UnixMillis,
    VectorClock, WorkerId,
};

use self::arena::{Arena, Id};
pub use self::group::{Group, Replicas};
use self::memory::Memory;
use self::partition::Partition;
use self::read::Read;
use self::slot::{Queued, Slot};
use self::timer::{Timer, Timers};
use super::api::{Found, Op, OpError, ReadLevel, ReadOp, Update, Written};

/// A worker's place in the list of all workers that this process came to know. Never given to another one.
pub type WorkerIx = u16;

/// The name of one request to one replica. Its top byte is zero and free for the shell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallId(u64);

impl CallId {
    /// Bits that the core uses.
    pub const BITS: u32 = 56;

    pub fn raw(self) -> u64 {
        self.0
    }

    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// Durations and limits of the rules.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// A read or base read asks the next replica after this long.
    pub hedge_after: Duration,
    /// A call counts as lost when for this long (plus a second per 16 MiB) neither it nor any other of the worker's was
    /// answered.
    pub replica_timeout: Duration,
    /// An operation without an outcome for this long ends with an error.
    pub request_timeout: Duration,
    /// With less than a quorum in reach, an operation waits this long for a replica to come back.
    pub quorum_grace: Duration,
    pub value_bytes_max: usize,
    /// For what is remembered of keys.
    pub memory_bytes: usize,
}

/// How long lost or refused requests wait before they are sent again; doubles up to the replica timeout.
const RESEND_AFTER: Duration = Duration::from_millis(20);
/// The most operations that share one put.
const COMBINE_LEN_MAX: usize = 1_024;
/// Bytes of values that combined operations may produce on the way; bounds the work of APPEND storms.
const COMBINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that a replica call may carry per second beyond its base timeout.
const CALL_BYTES_PER_SECOND: usize = 16 * 1024 * 1024;

/// How many replica timeouts a call may wait in the line of a worker that answers others.
const CALL_PATIENCE: u32 = 4;

/// Something that is finished: the shell delivers it outside its lock.
///
/// `since` is when the operation was submitted.
pub enum Completion {
    Read {
        done: ReadDone,
        result: Result<Option<Found>, OpError>,
        since: Duration,
    },
    Write {
        update: Box<dyn Update>,
        outcome: Result<Written, OpError>,
        blind: bool,
        since: Duration,
    },
    Flush {
        done: FlushDone,
        result: Result<(), OpError>,
        since: Duration,
    },
    /// Of [`Core::rewrite`]: no client waits for it.
    Rewrite {
        done: FlushDone,
        result: Result<(), OpError>,
    },
}

impl Completion {
    pub fn deliver(self) {
        match self {
            Self::Read { done, result, .. } => done(result),
            Self::Write { update, outcome, .. } => update.finish(outcome),
            Self::Flush { done, result, .. } | Self::Rewrite { done, result } => done(result),
        }
    }
}

pub type ReadDone = Box<dyn FnOnce(Result<Option<Found>, OpError>) + Send>;
pub type FlushDone = Box<dyn FnOnce(Result<(), OpError>) + Send>;

/// What the shell is to do.
#[derive(Default)]
pub struct Outbox {
    pub sends: Vec<(WorkerIx, CallId, ReplicaRequest)>,
    pub completions: Vec<Completion>,
    /// Calls that ended: food for metrics and circuit breakers.
    pub ended: Vec<Ended>,
    pub counts: Counts,
    /// What a replica lacks or may lack: food for the repair queue, and a reason to compare.
    pub missed: Vec<(WorkerIx, Missed)>,
    /// Reads wait for [`Core::prove`].
    pub proof_due: bool,
}

/// Something that others hold, or may hold, and a replica does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Missed {
    Key(Key),
    /// A quorum holds it.
    Flush {
        partition: PartitionId,
        ballot: Ballot,
        clock: VectorClock,
    },
    /// Whether a flush has come to be is not known, so that it is nobody's to send again. Comparing the replicas finds out.
    UncertainFlush(PartitionId),
}

/// Things that happened, for metrics. The shell adds them up and clears them.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub combined: u64,
    pub repairs_replicated: u64,
    pub repairs_rewritten: u64,
    pub hedged_unequal: u64,
    pub hedged_slow: u64,
    pub hedged_failed: u64,
    pub takeovers: u64,
    pub takeovers_failed: u64,
    pub clock_conflicts: u64,
    pub expired: u64,
    /// Reads that were answered from memory, and those that might have been but for the lack of a proof.
    pub remembered: u64,
    pub unproven: u64,
}

/// A replica call that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub worker: WorkerIx,
    pub kind: CallKind,
    pub outcome: CallOutcome,
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Prepare,
    Put,
    Get,
    GetForWrite,
    Replicate,
    Flush,
    Promises,
    Sync,
}

impl CallKind {
    /// In the order of their discriminants.
    pub const NAMES: [&str; 8] =
        ["prepare", "put", "get", "get_for_write", "replicate", "flush", "promises", "sync"];

    fn of(request: &ReplicaRequest) -> Self {
        match request {
            ReplicaRequest::Prepare { .. } => Self::Prepare,
            ReplicaRequest::Put { .. } => Self::Put,
            ReplicaRequest::Get { .. } => Self::Get,
            ReplicaRequest::GetForWrite { .. } => Self::GetForWrite,
            ReplicaRequest::Replicate { .. } => Self::Replicate,
            ReplicaRequest::Flush { .. } => Self::Flush,
            ReplicaRequest::Promises { .. } => Self::Promises,
            ReplicaRequest::Sync(_) => Self::Sync,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Ok,
    Refused,
    Unknown,
    Timeout,
    Unreachable,
}

impl CallOutcome {
    /// In the order of their discriminants.
    pub const NAMES: [&str; 5] = ["ok", "refused", "unknown", "timeout", "unreachable"];
}

/// What a call was for.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Read and round, in the same sense.
    Read(Id, u32),
    /// Slot and round: an answer to an earlier round of the slot is stale.
    Slot(Id, u32),
    Prepare(PartitionId, u32),
    Flush(PartitionId, u32),
    /// Whether this owner has not been deposed.
    Proof(Id),
    /// Nobody waits: read repair.
    Repair,
}

struct Call {
    worker: WorkerIx,
    target: Target,
    kind: CallKind,
    sent: Duration,
    /// What a put puts; the call may outlive its slot's interest in it.
    put: Option<(Key, Ballot)>,
}

/// How a call ended.
#[expect(clippy::large_enum_variant, reason = "lives for one call")]
enum Answer {
    Reply(ReplicaReply),
    /// No answer will come: time-out, or the link broke. It may have had its effect.
    Lost,
}

/// See the module.
pub struct Core {
    me: Incarnation,
    tuning: Tuning,
    /// Never restarts; see [`Ballot`].
    seq: u64,
    now: Duration,
    wall: UnixMillis,
    names: Vec<WorkerId>,
    available: Vec<bool>,
    /// When each worker last answered anything.
    last_reply: Vec<Duration>,
    partitions: Vec<Option<Partition>>,
    slots: Arena<Slot>,
    slot_of: HashMap<Key, Id>,
    reads: Arena<Read>,
    memory: Memory,
    calls: Arena<Call>,
    timers: Timers,
    /// Feeds the jitter of take-over back-off.
    jitter: u64,
    pub out: Outbox,
}

impl Core {
    /// A core for the given partitions, each with its replicas. `me` must never have been used before.
    pub fn new(
        me: Incarnation,
        tuning: Tuning,
        names: Vec<WorkerId>,
        partitions: impl IntoIterator<Item = (PartitionId, Group)>,
    ) -> Self {
        let mut table: Vec<Option<Partition>> = Vec::new();
        for (id, group) in partitions {
            // As long as it must be: a simulation makes thousands of cores in a second.
            if table.len() <= id.index() {
                table.resize_with(id.index() + 1, || None);
            }
            table[id.index()] = Some(Partition::new(group));
        }
        let (available, last_reply) = (vec![false; names.len()], vec![Duration::ZERO; names.len()]);
        let memory = Memory::new(tuning.memory_bytes);
        Self {
            me,
            tuning,
            seq: 0,
            now: Duration::ZERO,
            wall: UnixMillis(0),
            names,
            available,
            last_reply,
            partitions: table,
            slots: Arena::new(CallId::BITS),
            slot_of: HashMap::new(),
            reads: Arena::new(CallId::BITS),
            memory,
            calls: Arena::new(CallId::BITS),
            timers: Timers::default(),
            jitter: me.0 | 1,
            out: Outbox::default(),
        }
    }

    /// Says what time it is: `now` on a clock that never goes back, `wall` for expiry.
    pub fn at(&mut self, now: Duration, wall: UnixMillis) {
        self.now = self.now.max(now);
        self.wall = wall;
    }

    /// Starts a client's operation. Its completion comes out exactly once.
    pub fn submit(&mut self, op: Op) {
        let deadline = self.now + self.tuning.request_timeout;
        match op {
            Op::Write(op) => {
                let queued = Queued::write(op, self.now, deadline);
                self.enqueue(queued);
            }
            Op::Read(op) => match self.slot_of.contains_key(&op.key) {
                true => self.ask_replicas(op, self.now, deadline),
                false => {
                    if let Some(op) = self.recall(op, deadline) {
                        self.start_read(op, self.now, deadline);
                    }
                }
            },
        }
    }

    fn ask_replicas(&mut self, op: ReadOp, since: Duration, deadline: Duration) {
        if op.level == ReadLevel::Quorum && self.slot_of.contains_key(&op.key) {
            // The key has a write under way or waiting: the read takes its place behind it.
            self.enqueue(Queued::confirm(op, since, deadline));
        } else {
            self.start_read(op, since, deadline);
        }
    }

    /// Deletes all keys of a partition.
    pub fn flush(&mut self, partition: PartitionId, done: FlushDone) {
        self.start_flush(partition, done);
    }

    /// A replica answered.
    pub fn reply(&mut self, call: CallId, reply: ReplicaReply) {
        if let Some(call) = self.calls.remove(Id::from_raw(call.0)) {
            self.last_reply[usize::from(call.worker)] = self.now;
            let outcome = match &reply {
                ReplicaReply::Refused(_) => CallOutcome::Refused,
                ReplicaReply::Unknown => CallOutcome::Unknown,
                ReplicaReply::Prepared { .. }
                | ReplicaReply::Stored
                | ReplicaReply::Version(_)
                | ReplicaReply::Promises(_)
                | ReplicaReply::Synced(_) => CallOutcome::Ok,
            };
            self.answer(call, Answer::Reply(reply), outcome);
        }
    }

    /// A worker may be asked (`available`), or must not be: its link is down or its circuit breaker open.
    pub fn peer(&mut self, worker: WorkerIx, available: bool) {
        let Some(flag) = self.available.get_mut(usize::from(worker)) else { return };
        let came_back = available && !*flag;
        *flag = available;
        if came_back {
            self.wake_partitions_of(worker);
        }
    }

    /// The link to a worker broke: what it was asked will not be answered.
    pub fn link_lost(&mut self, worker: WorkerIx) {
        self.memory.link_lost(worker);
        let lost: Vec<Id> =
            self.calls.iter().filter(|(_, call)| call.worker == worker).map(|(id, _)| id).collect();
        for id in lost {
            self.lose(id, CallOutcome::Unreachable);
        }
    }

    /// A request could not even be queued for its link: it has had no effect.
    pub fn not_sent(&mut self, call: CallId) {
        if let Some(call) = self.calls.remove(Id::from_raw(call.0)) {
            self.answer(call, Answer::Reply(ReplicaReply::Refused(Refusal::Busy)), CallOutcome::Refused);
        }
    }

    /// Takes over every partition that is not owned; done once the cluster has formed, so that first writes need not wait.
    pub fn take_over_all(&mut self) {
        for id in PartitionId::all() {
            self.ensure_owned(id);
        }
    }

    /// Runs all timers that are due.
    pub fn tick(&mut self) {
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Call(id) => self.call_timer(id),
                Timer::Read(id) => self.read_timer(id),
                Timer::Slot(id, round) => self.slot_timer(id, round),
                Timer::Partition(id) => self.partition_timer(id),
                Timer::Flush(id) => self.flush_timer(id),
                Timer::Proof(id) => self.proof_timer(id),
                Timer::Hold(id) => self.hold_timer(id),
            }
        }
    }

    /// When [`Self::tick`] has something to do; `None`: nothing is under way.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Partitions owned now.
    pub fn owned(&self) -> usize {
        self.partitions.iter().flatten().filter(|p| p.promise().is_some()).count()
    }

    /// Operations and replica calls under way, for tests and status.
    pub fn in_flight(&self) -> (usize, usize, usize) {
        (self.slots.len(), self.reads.len() + self.memory.reads(), self.calls.len())
    }

    /// Of which partitions there are writes that a replica has not answered.
    pub fn being_written(&self) -> impl Iterator<Item = (PartitionId, WorkerIx)> {
        let partition = |call: &Call| match (&call.put, call.target) {
            (Some((key, _)), _) => Some(key.partition()),
            (None, Target::Flush(id, _)) => Some(id),
            _ => None,
        };
        self.calls.iter().filter_map(move |(_, call)| Some((partition(call)?, call.worker)))
    }

    /// A worker that answers others has this call in its line, behind large rows for example. To give it up and ask again
    /// would make the line longer, until no answer comes in time and a healthy worker's circuit breaker opens.
    fn call_timer(&mut self, id: Id) {
        let Some(call) = self.calls.get(id) else { return };
        let timeout = self.tuning.replica_timeout;
        let last_reply = self.last_reply[usize::from(call.worker)];
        let patient_until = (last_reply + timeout).min(call.sent + timeout * CALL_PATIENCE);
        if patient_until > self.now {
            self.timers.set(patient_until, Timer::Call(id));
        } else {
            self.lose(id, CallOutcome::Timeout);
        }
    }

    /// Slots that wait for their partition.
    pub fn waiting(&self) -> usize {
        self.partitions.iter().flatten().map(Partition::waiting).sum()
    }

    fn lose(&mut self, id: Id, outcome: CallOutcome) {
        if let Some(call) = self.calls.remove(id) {
            self.answer(call, Answer::Lost, outcome);
        }
    }

    fn answer(&mut self, call: Call, answer: Answer, outcome: CallOutcome) {
        let took = self.now.saturating_sub(call.sent);
        self.out.ended.push(Ended { worker: call.worker, kind: call.kind, outcome, took });
        match call.target {
            Target::Read(id, round) => self.read_answer(id, round, call.worker, answer),
            Target::Slot(id, round) if self.awaits(id, round) => self.slot_answer(id, call.worker, answer),
            Target::Slot(..) => self.late_put(call, &answer),
            Target::Prepare(id, round) => self.prepare_answer(id, round, call.worker, answer),
            Target::Flush(id, round) => self.flush_answer(id, round, call.worker, answer),
            Target::Proof(id) => self.proof_answer(id, call.worker, answer),
            Target::Repair => {}
        }
    }

    /// An answer to a put that nobody waits for: a quorum has acknowledged it, or its epoch is over. What did not arrive
    /// was missed, unless the replica has something newer or has left.
    fn late_put(&mut self, call: Call, answer: &Answer) {
        let missed = match answer {
            Answer::Lost | Answer::Reply(ReplicaReply::Unknown) => true,
            Answer::Reply(ReplicaReply::Refused(refusal)) => match refusal {
                Refusal::Busy
                | Refusal::Unavailable
                | Refusal::Promise { .. }
                | Refusal::Floor { .. }
                | Refusal::Epoch { .. }
                | Refusal::NotMember => true,
                Refusal::Superseded { .. } | Refusal::KeyCollision | Refusal::Invalid => false,
            },
            Answer::Reply(_) => false,
        };
        if let (true, Some((key, _))) = (missed, call.put) {
            self.missed(call.worker, &key);
        }
    }

    /// A replica may lack a version of the key that others have. It is told once for each time that it may.
    fn missed(&mut self, worker: WorkerIx, key: &Key) {
        if self.partition(key.partition()).is_some_and(|p| p.group.contains(worker)) {
            self.out.missed.push((worker, Missed::Key(key.clone())));
        }
    }

    /// Re-sends a flush that a quorum holds to a replica that missed it. Nobody waits for the answer.
    pub fn repair_flush(
        &mut self,
        worker: WorkerIx,
        partition: PartitionId,
        ballot: Ballot,
        clock: VectorClock,
    ) {
        let Some(epoch) = self.partition(partition).map(|p| p.group.epoch) else { return };
        let request = ReplicaRequest::Flush { partition, ballot, clock, chosen: Some(epoch) };
        self.call(worker, Target::Repair, request);
    }

    /// Sends a request, if the worker may be asked.
    fn call(&mut self, worker: WorkerIx, target: Target, request: ReplicaRequest) -> bool {
        if !self.is_available(worker) {
            return false;
        }
        let weight = request.weight();
        let kind = CallKind::of(&request);
        let put = match &request {
            ReplicaRequest::Put { row } => Some((row.key.clone(), row.ballot)),
            _ => None,
        };
        let id = self.calls.insert(Call { worker, target, kind, sent: self.now, put });
        self.out.sends.push((worker, CallId(id.raw()), request));
        let extra = Duration::from_millis((weight * 1_000 / CALL_BYTES_PER_SECOND) as u64);
        self.timers.set_call(self.now + self.tuning.replica_timeout + extra, id, extra.is_zero());
        true
    }

    fn is_available(&self, worker: WorkerIx) -> bool {
        self.available.get(usize::from(worker)).copied().unwrap_or(false)
    }

    fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(id.index())?.as_ref()
    }

    fn partition_mut(&mut self, id: PartitionId) -> Option<&mut Partition> {
        self.partitions.get_mut(id.index())?.as_mut()
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// A pseudo-random share of `span` (xorshift64*; only spreads retries).
    fn jitter(&mut self, span: Duration) -> Duration {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        span.mul_f64((self.jitter >> 40) as f64 / (1u64 << 24) as f64)
    }

    fn resend_delay(&self, attempt: u32) -> Duration {
        (RESEND_AFTER * (1 << attempt.min(8))).min(self.tuning.replica_timeout)
    }

    fn name(&self, worker: WorkerIx) -> WorkerId {
        self.names[usize::from(worker)].clone()
    }

    fn complete_read(&mut self, op: ReadOp, since: Duration, result: Result<Option<Found>, OpError>) {
        self.out.completions.push(Completion::Read { done: op.done, result, since });
    }

    /// Ballot order and clock order must not contradict each other (design 5). Where they do, who holds the lower version
    /// is sent the higher one as it is: a worker that meets both keeps both for people to look at.
    fn check_clocks(&mut self, epoch: Epoch, answers: &[(WorkerIx, Held)]) {
        let rows = || answers.iter().filter_map(|(worker, held)| Some((*worker, held.row.as_ref()?)));
        let pairs = rows().flat_map(|(_, higher)| rows().map(move |(worker, lower)| (worker, lower, higher)));
        let wrong =
            pairs.filter(|(_, lower, higher)| lower.ballot < higher.ballot && lower.contradicts(higher));
        let wrong: Vec<(WorkerIx, Row)> = wrong.map(|(worker, _, higher)| (worker, higher.clone())).collect();
        for (worker, row) in wrong {
            self.out.counts.clock_conflicts += 1;
            self.call(worker, Target::Repair, ReplicaRequest::Replicate { row, chosen: false, epoch });
        }
    }
}
