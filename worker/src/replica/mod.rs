//! The rules of a replica: what a worker may accept, when it may answer, and what.
//!
//! Nothing here waits, reads a clock or touches a socket. A driver feeds requests and the outcomes of database calls
//! in, asks for the next call to make, and takes the answers out; so a simulation can drive exactly this code.
//!
//! ```text
//!   submit ──▶ ┌─────────┐ ──▶ next_commit    ─▶ database ─▶ on_commit
//!              │ Replica │ ──▶ next_read      ─▶ database ─▶ on_read
//!   answers ◀─ │         │ ──▶ next_promises  ─▶ database ─▶ on_promises
//!              │         │ ──▶ next_scan      ─▶ database ─▶ on_scan
//!              └─────────┘ ──▶ next_change    ─▶ database ─▶ on_change
//! ```
//!
//! The golden rule: *refused* means not applied, and never will be; *stored* means durable; everything else is
//! *unknown*. From it, and from the register protocol (CASPaxos, Rystsov, arXiv 1802.07000, with the promise held per
//! partition):
//!
//! - A promise binds from its arrival. It is answered once it is durable **and** every write that was accepted before
//!   it has ended; otherwise a write that passed its check would commit behind it.
//! - A write raises the promise to its own term, in the same transaction.
//! - The cache changes only after COMMIT, and a read fills it only if no commit ended in its partition meanwhile.
//! - What concerns a partition is answered only in the epoch that the held configuration gives it, and holding one binds
//!   like a promise of that epoch.
//! - A newcomer shows nothing of its own from before its epoch until the copy has passed it.
//! - A commit without an outcome closes the replica: nothing is answered until the store was opened again, which
//!   ends whatever was still under way.
//!
//! Example: `a@1.1.7` waits for its commit when `prepare(term 2)` arrives. From now on term 1 is refused. When `a` is
//! committed and the promise is durable, the prepare is answered with a vector that includes `a`.

mod barrier;
mod cache;
mod change;
mod commit;
mod conflict;
mod copying;
mod errand;
mod membership;
mod partition;
mod promise;
mod read;
mod reads;
mod scan;
mod summary;
#[cfg(test)]
mod tests;
mod writes;

use hashbrown::HashMap;
use tercet_common::mutants::{self, Mutant};
use tercet_common::{
    Ballot, Epoch, KeyHash, PARTITIONS, PartitionId, Promise, Refusal, ReplicaReply, ReplicaRequest,
};

use self::cache::RowCache;
pub use self::change::ChangeId;
use self::change::{ChangeQueue, Changing};
pub use self::commit::CommitId;
use self::conflict::Conflicts;
use self::errand::{Errand, Errands};
pub use self::membership::{Membership, Place, Role};
use self::partition::Partition;
pub use self::read::ReadId;
use self::reads::{LookUp, ReadQueue};
pub use self::scan::{ScanId, ScanJob, ScanResult};
use self::scan::{ScanQueue, Scanning};
pub use self::summary::SummaryFold;
use self::writes::{WriteQueue, Writer};
use crate::store::PartitionRecord;

/// Bounds of a replica.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes that are accepted and not ended: number and bytes. One write alone may be larger. The same again of sync
    /// requests.
    pub queue_len_max: usize,
    pub queue_bytes_max: usize,
    pub cache_bytes: usize,
    pub value_bytes_max: usize,
    /// Rows of one transaction, and their bytes (one row alone may be larger).
    pub batch_rows_max: usize,
    pub batch_bytes_max: usize,
}

/// What a request asks for; a label of metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Op {
    Put,
    Get,
    GetForWrite,
    Prepare,
    Replicate,
    Flush,
    Promises,
    Sync,
}

impl Op {
    pub const ALL: [Self; 8] = [
        Self::Put,
        Self::Get,
        Self::GetForWrite,
        Self::Prepare,
        Self::Replicate,
        Self::Flush,
        Self::Promises,
        Self::Sync,
    ];

    fn of(request: &ReplicaRequest) -> Self {
        match request {
            ReplicaRequest::Put { .. } => Self::Put,
            ReplicaRequest::Get { .. } => Self::Get,
            ReplicaRequest::GetForWrite { .. } => Self::GetForWrite,
            ReplicaRequest::Prepare { .. } => Self::Prepare,
            ReplicaRequest::Replicate { .. } => Self::Replicate,
            ReplicaRequest::Flush { .. } => Self::Flush,
            ReplicaRequest::Promises { .. } => Self::Promises,
            ReplicaRequest::Sync(_) => Self::Sync,
        }
    }

    pub const fn label(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetForWrite => "get_for_write",
            Self::Prepare => "prepare",
            Self::Replicate => "replicate",
            Self::Flush => "flush",
            Self::Promises => "promises",
            Self::Sync => "sync",
        }
    }
}

/// Whose request it is, echoed with the answer. The replica only compares tickets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket {
    pub caller: u64,
    pub id: u64,
    pub op: Op,
    /// When it arrived, in microseconds on the driver's clock.
    pub arrived_us: u64,
}

/// A request with what is derived from its key, computed outside of any lock.
#[derive(Debug)]
pub struct Arrival {
    ticket: Ticket,
    /// The partition that it concerns, and the epoch in which it speaks.
    scope: Option<(PartitionId, Epoch)>,
    slot: Slot,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Any but a sync request.
    Request(ReplicaRequest),
    /// What is checked of it without any state.
    Sync(Result<Errand, Refusal>),
}

impl Arrival {
    pub fn new(caller: u64, id: u64, arrived_us: u64, request: ReplicaRequest) -> Self {
        let ticket = Ticket { caller, id, op: Op::of(&request), arrived_us };
        let scope = request.scope();
        let hash = match &request {
            ReplicaRequest::Put { row } | ReplicaRequest::Replicate { row, .. } => row.key.hash(),
            ReplicaRequest::Get { key, .. } | ReplicaRequest::GetForWrite { key, .. } => key.hash(),
            _ => KeyHash([0; 16]),
        };
        let partition = scope.map_or(PartitionId::MIN, |(partition, _)| partition);
        let body = match request {
            ReplicaRequest::Sync(request) => Body::Sync(Errand::parse(*request)),
            request => Body::Request(request),
        };
        Self { ticket, scope, slot: Slot { partition, hash }, body }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub ticket: Ticket,
    pub reply: ReplicaReply,
}

/// A key's place in the database. Ordered as batches are sorted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Slot {
    partition: PartitionId,
    hash: KeyHash,
}

#[cfg(test)]
impl Slot {
    fn of(key: &tercet_common::Key) -> Self {
        Self { partition: key.partition(), hash: key.hash() }
    }
}

/// What the driver may ask for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    pub commit: bool,
    pub read: bool,
    pub promises: bool,
    pub scan: bool,
    pub change: bool,
    pub conflict: bool,
    /// The store is lost: open it again once every call has ended.
    pub reopen: bool,
}

/// Numbers for metrics and heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub waiting_writes: usize,
    pub waiting_reads: usize,
    /// Sync requests that are accepted and not ended.
    pub errands: usize,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: usize,
    pub cache_rows: usize,
    pub read_only: bool,
    /// Rows that came whose clocks contradict their ballots.
    pub conflicts: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not opened yet, or closed for good.
    Closed,
    Open,
    Lost,
}

/// See the module.
pub struct Replica {
    limits: Limits,
    phase: Phase,
    /// The disk is full: writes are refused until a probe commits.
    read_only: bool,
    membership: Membership,
    partitions: Vec<Partition>,
    writes: WriteQueue,
    commits: HashMap<CommitId, commit::InFlight>,
    reads: ReadQueue,
    looking_up: HashMap<ReadId, Vec<LookUp>>,
    errands: Errands,
    scans: ScanQueue,
    scanning: HashMap<ScanId, Scanning>,
    changes: ChangeQueue,
    changing: HashMap<ChangeId, Changing>,
    changes_ended: u64,
    /// Partitions whose promise is above the durable one and waited for.
    unkept: Vec<PartitionId>,
    /// The promises being persisted, one call at a time.
    keeping: Option<Vec<(PartitionId, Promise)>>,
    /// Prepares, and all that waits like one.
    waiting_promises: usize,
    /// How many times a promise was raised.
    raised: u64,
    conflicts: Conflicts,
    cache: RowCache,
    cache_hits: u64,
    cache_misses: u64,
    last_id: u64,
    answers: Vec<Answer>,
}

impl Replica {
    /// Closed: refuses everything until [`Self::open`].
    pub fn new(limits: Limits) -> Self {
        Self::with_partitions(limits, usize::from(PARTITIONS))
    }

    /// One of the first partitions only, which is asked for no other: a simulation makes thousands in a second.
    pub fn with_partitions(limits: Limits, partitions: usize) -> Self {
        Self {
            limits,
            phase: Phase::Closed,
            read_only: false,
            membership: Membership::default(),
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            writes: WriteQueue::default(),
            commits: HashMap::new(),
            reads: ReadQueue::default(),
            looking_up: HashMap::new(),
            errands: Errands::default(),
            scans: ScanQueue::default(),
            scanning: HashMap::new(),
            changes: ChangeQueue::default(),
            changing: HashMap::new(),
            changes_ended: 0,
            unkept: Vec::new(),
            keeping: None,
            waiting_promises: 0,
            raised: 0,
            conflicts: Conflicts::default(),
            cache: RowCache::new(limits.cache_bytes),
            cache_hits: 0,
            cache_misses: 0,
            last_id: 0,
            answers: Vec::new(),
        }
    }

    /// Takes what the store loaded, by partition index, and begins to answer. No call to the store may be under way.
    /// A promise in memory is joined with the loaded one, never lowered.
    pub fn open(&mut self, loaded: Vec<PartitionRecord>) {
        debug_assert!(self.commits.is_empty() && self.looking_up.is_empty() && self.keeping.is_none());
        debug_assert!(self.scanning.is_empty() && self.changing.is_empty() && self.errands.len() == 0);
        debug_assert!(self.partitions.iter().all(|p| p.barrier.is_idle() && p.waiting.is_empty()));
        debug_assert_eq!(loaded.len(), self.partitions.len());
        for (partition, record) in self.partitions.iter_mut().zip(loaded) {
            partition.load(record, &mut self.raised);
        }
        self.cache.clear();
        self.read_only = false;
        self.phase = Phase::Open;
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The store is gone. What waits is refused; what is under way is answered by its own outcome.
    pub fn lose(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Lost;
            self.refuse_all_waiting();
        }
    }

    /// Refuses what waits, and all that comes, for good.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
        self.refuse_all_waiting();
    }

    /// Promises first: nobody may be answered because the writes that held him back were refused here.
    fn refuse_all_waiting(&mut self) {
        self.refuse_waiting_promises();
        self.refuse_waiting_writes();
        self.refuse_waiting_changes();
        self.refuse_waiting_scans();
        for asker in self.reads.drain() {
            self.refuse_asker(asker, Refusal::Unavailable);
        }
    }

    /// Holds a configuration, unless a later one is held. Its epochs bind at once; the first request of each makes
    /// it durable.
    pub fn set_membership(&mut self, membership: Membership) {
        if membership.number() < self.membership.number() {
            return;
        }
        self.membership = membership;
        let mut begins = vec![false; self.partitions.len()];
        for id in PartitionId::all().take(self.partitions.len()) {
            if let Some(place) = self.membership.place(id) {
                if self.partitions[id.index()].hold(place, &mut self.raised) {
                    begins[id.index()] = true;
                    self.partition_mut(id).commits_ended += 1;
                }
                self.refuse_older_epochs(id);
            }
        }
        // What is remembered of what it comes to hold may have been deleted since it was held before. One pass for all: there
        // may be many partitions, and many rows.
        if begins.contains(&true) {
            self.cache.remove_where(|slot| begins[slot.partition.index()]);
        }
    }

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Whether a row is this worker's to show: that of a replica, or of a newcomer as far as its copy has come.
    pub fn shows(&self, id: PartitionId, hash: KeyHash, ballot: Ballot) -> bool {
        self.membership.contains(id) && !self.partitions[id.index()].hides(hash, ballot)
    }

    /// Rows of these partitions were deleted behind the back of the rules, as the worker holds them no longer.
    pub fn dropped(&mut self, partitions: &[PartitionId]) {
        self.cache.clear();
        for id in partitions {
            self.partition_mut(*id).commits_ended += 1;
        }
    }

    /// What became of a probing commit. A success ends read-only.
    pub fn on_probe(&mut self, committed: bool) {
        self.read_only &= !committed;
    }

    /// Takes the answers that are ready. Their order means nothing.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    pub fn work(&self) -> Work {
        let open = self.is_open();
        Work {
            commit: open && self.writes.is_ready(),
            read: open && self.reads.len() > 0,
            promises: open && self.keeping.is_none() && !self.unkept.is_empty(),
            scan: open && self.scans.is_ready(),
            change: open && self.changes.is_ready(),
            conflict: open && self.conflicts.is_waiting(),
            reopen: self.phase == Phase::Lost,
        }
    }

    pub fn stats(&self) -> Stats {
        Stats {
            waiting_writes: self.writes.len(),
            waiting_reads: self.reads.len(),
            errands: self.errands.len(),
            cache_hits: self.cache_hits,
            cache_misses: self.cache_misses,
            cache_bytes: self.cache.bytes(),
            cache_rows: self.cache.len(),
            read_only: self.read_only,
            conflicts: self.conflicts.met(),
        }
    }

    /// Decides a request at once or queues it. Every request gets exactly one answer.
    pub fn submit(&mut self, arrival: Arrival) {
        let ticket = arrival.ticket;
        if let Err(refusal) = self.admit(arrival) {
            self.answer(ticket, ReplicaReply::Refused(refusal));
        }
    }

    /// `Err` is the answer; after `Ok` it is given or will be.
    fn admit(&mut self, Arrival { ticket, scope, slot, body }: Arrival) -> Result<(), Refusal> {
        if !self.is_open() {
            return Err(Refusal::Unavailable);
        }
        if let Some((id, epoch)) = scope {
            self.check_epoch(id, epoch)?;
        }
        let request = match body {
            Body::Sync(errand) => return self.errand(ticket, errand?),
            Body::Request(request) => request,
        };
        match request {
            ReplicaRequest::Prepare { promise, .. } => self.prepare(ticket, slot.partition, promise),
            ReplicaRequest::GetForWrite { promise, key } => self.get_for_write(ticket, slot, promise, key),
            ReplicaRequest::Get { epoch, key, digest } => self.get(ticket, slot, epoch, key, digest),
            ReplicaRequest::Put { row } => {
                self.meet(&slot, &row);
                self.put(ticket, slot, row)
            }
            ReplicaRequest::Replicate { row, epoch, .. } if row.ballot.epoch > epoch => Err(Refusal::Invalid),
            ReplicaRequest::Replicate { row, chosen, epoch } => {
                self.meet(&slot, &row);
                if chosen { self.write(ticket, slot, row, fence(epoch)) } else { self.put(ticket, slot, row) }
            }
            ReplicaRequest::Flush { ballot, clock, chosen, .. } => {
                self.flush(ticket, slot.partition, ballot, clock, chosen)
            }
            ReplicaRequest::Promises { since } => {
                self.tell_promises(ticket, since);
                Ok(())
            }
            // Became an errand on its arrival.
            ReplicaRequest::Sync(_) => Err(Refusal::Invalid),
        }
    }

    /// Whether this is the epoch of the partition, and the worker one of its replicas in it.
    fn check_epoch(&self, id: PartitionId, epoch: Epoch) -> Result<(), Refusal> {
        let current = self.partitions[id.index()].promise.epoch;
        if epoch < current {
            return Err(Refusal::Epoch { current });
        }
        match self.membership.place(id) {
            // Whether it is one of its replicas in that epoch is not known yet.
            Some(place) if epoch > place.epoch => Err(Refusal::Unavailable),
            Some(place) if place.role == Role::Stranger => Err(Refusal::NotMember),
            _ => Ok(()),
        }
    }

    fn partition(&self, slot: Slot) -> &Partition {
        &self.partitions[slot.partition.index()]
    }

    fn partition_mut(&mut self, partition: PartitionId) -> &mut Partition {
        &mut self.partitions[partition.index()]
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn answer(&mut self, ticket: Ticket, reply: ReplicaReply) {
        self.answers.push(Answer { ticket, reply });
    }

    /// Ends an accepted write: with this it no longer holds back those who wait for it.
    fn end_write(&mut self, writer: Writer, reply: ReplicaReply) {
        self.writes.ended(&writer);
        self.partition_mut(writer.partition).barrier.leave(writer.generation);
        if !(mutants::on(Mutant::AnswerBeforeCommit) && reply == ReplicaReply::Stored) {
            self.answer(writer.ticket, reply);
        }
    }
}

/// The least promise of an epoch: below every term's, above all of earlier epochs. This is how an epoch is held that
/// was seen in a request that claims no term.
fn fence(epoch: Epoch) -> Promise {
    Promise { epoch, ..Promise::ZERO }
}

/// The answer to a write at `ballot` when `winner`, at or above it, is what is durable.
fn settled(ballot: Ballot, winner: Ballot) -> ReplicaReply {
    if ballot.promise() == winner.promise() {
        ReplicaReply::Stored
    } else {
        ReplicaReply::Refused(Refusal::Superseded { ballot: winner })
    }
}
