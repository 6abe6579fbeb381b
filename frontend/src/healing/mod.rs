//! What makes replicas equal: the copies of ring changes, comparison and repair, delta sync, the collection of
//! tombstones (design 6 and 7).
//!
//! ```text
//! schedule ── what next? ──▶ copy     a newcomer, from a majority of the old replicas
//!                            compare  the replicas of a stable partition, or of some keys of it
//!                            delta    a worker that was away, from its peers' journals
//!                            collect  tombstones that all replicas hold
//!                               │
//!                               ▼
//!                             Peers   one request to one worker; rewrite a key; the owner's view
//! ```
//!
//! The procedures are straight-line `async fn`s over [`Peers`]. They read no clock, spawn nothing and keep nothing: what
//! they have done is in the workers, and a procedure that failed or was dropped half-way is simply run again. So the
//! simulation polls exactly this code, and a throttle is a [`Peers::ask`] that takes its time.
//!
//! Why none of this can undo what a client was told: rows only ever move *up* in ballots, and only two kinds of row
//! move at all. One that a majority holds is chosen, and may be given to anybody. Any other one goes to the owner, who
//! puts the highest version again under a fresh ballot, like a read that found a minority. The exception is the copy of
//! a ring change, whose rule (a majority of the old replicas, each snapshot taken after its fence) stands in [`copy`].

pub mod collect;
pub mod compare;
pub mod copy;
pub mod delta;
pub mod instruments;
pub mod positions;
pub mod schedule;
pub(crate) mod shell;
mod stretch;
#[cfg(test)]
mod tests;

use futures_util::future::join_all;
use tercet_common::message::Refusal;
use tercet_common::sync::{DigestEntry, PartitionState};
use tercet_common::{
    Ballot, Epoch, Key, KeyHash, PartitionId, Promise, Row, SyncReply, SyncRequest, VectorClock,
};

use crate::coordinator::OpError;
use crate::coordinator::core::WorkerIx;

/// What the procedures need of the rest. Every call ends in bounded time; that is the implementation's duty.
pub trait Peers: Sync {
    /// Asks one worker. The answer fits the request, or counts as [`Unanswered::Lost`].
    fn ask(
        &self,
        worker: WorkerIx,
        request: SyncRequest,
    ) -> impl Future<Output = Result<SyncReply, Unanswered>> + Send;
    /// Gives a worker a row that a quorum holds at this very ballot.
    fn replicate(
        &self,
        worker: WorkerIx,
        row: Row,
        epoch: Epoch,
    ) -> impl Future<Output = Result<(), Unanswered>> + Send;
    /// Gives a worker a flush that a quorum holds, in the partition's present epoch.
    fn replicate_flush(
        &self,
        worker: WorkerIx,
        flush: ChosenFlush,
    ) -> impl Future<Output = Result<(), Unanswered>> + Send;
    /// Has the owner put the key's highest version again under a fresh ballot, tombstones too.
    fn rewrite(&self, key: Key) -> impl Future<Output = Result<(), OpError>> + Send;
    /// What the partition's owner is about; `None`: this frontend does not own it.
    fn owner_view(&self, partition: PartitionId) -> Option<OwnerView>;
    /// The partition's replicas were found equal, while this frontend owned it under this promise. Whoever wrote to it
    /// earlier has been passed by all of them (design 5).
    fn passed(&self, partition: PartitionId, promise: Promise);
    /// The partition's replicas, unless it is changing hands.
    fn stable(&self, partition: PartitionId) -> Option<Stable>;
}

/// No effect that can be relied on. Refused: none at all; lost: unknown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("no answer")]
    Lost,
}

/// A flush to be given to a replica that missed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChosenFlush {
    pub partition: PartitionId,
    /// The partition's present epoch; the flush may be of an older one.
    pub epoch: Epoch,
    pub ballot: Ballot,
    pub clock: VectorClock,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerView {
    pub promise: Promise,
    /// Of the puts and flushes whose calls have not all ended, and of those whose outcome is still to be learned.
    pub lowest_in_flight: Option<Ballot>,
    /// Keys whose base is being read: an answer that has come may be older than a tombstone that is collected before the
    /// others come.
    pub reading: Vec<KeyHash>,
}

/// A partition in a stable epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stable {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub replicas: Vec<WorkerIx>,
}

impl Stable {
    fn scope(&self) -> Scope {
        Scope { partition: self.partition, epoch: self.epoch }
    }
}

/// Why a procedure stopped. What it did until then is done; running it again goes on from there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HealError {
    #[error("worker {worker}: {why}")]
    Worker { worker: WorkerIx, why: Unanswered },
    /// Its answer breaks the rules of `tercet_common::sync`.
    #[error("worker {worker} gave a malformed answer")]
    Malformed { worker: WorkerIx },
    /// The task is obsolete: make a new one from the present ring.
    #[error("the partition is in another epoch by now")]
    Moved,
    #[error("fewer than a majority of the old replicas can be copied from")]
    TooFewSources,
    /// Flushes kept coming while it was copied.
    #[error("the partition was flushed again and again")]
    Unsteady,
    #[error("this frontend does not own the partition")]
    NotOwned,
    /// A fault of ours; the next run may meet it again.
    #[error("the task has panicked")]
    Panicked,
    #[error("the owner could not rewrite a key: {0}")]
    Rewrite(#[from] OpError),
}

impl HealError {
    fn of(worker: WorkerIx, why: Unanswered) -> Self {
        match why {
            Unanswered::Refused(Refusal::Epoch { .. } | Refusal::NotMember) => Self::Moved,
            why => Self::Worker { worker, why },
        }
    }

    /// The worker to blame, if there is one.
    pub fn worker(&self) -> Option<WorkerIx> {
        match self {
            Self::Worker { worker, .. } | Self::Malformed { worker } => Some(*worker),
            _ => None,
        }
    }
}

/// What every request of a procedure names.
#[derive(Clone, Copy, Debug)]
struct Scope {
    partition: PartitionId,
    epoch: Epoch,
}

/// Hashes of one look or fetch.
const HASHES_MAX: usize = 1_024;
/// Calls of one procedure under way at once, where each concerns one key: below client traffic.
const CALLS_AT_ONCE: usize = 16;

/// Asks for something whose answer is only that it is done.
async fn order<P: Peers>(peers: &P, worker: WorkerIx, request: SyncRequest) -> Result<(), HealError> {
    match peers.ask(worker, request).await {
        Ok(SyncReply::Done) => Ok(()),
        Ok(_) => Err(HealError::Malformed { worker }),
        Err(why) => Err(HealError::of(worker, why)),
    }
}

/// The rows of the first of these hashes, at least one (of a non-empty list).
async fn fetch<P: Peers>(
    peers: &P,
    scope: Scope,
    worker: WorkerIx,
    hashes: &[KeyHash],
) -> Result<Vec<Option<Row>>, HealError> {
    let Scope { partition, epoch } = scope;
    let hashes = &hashes[..hashes.len().min(HASHES_MAX)];
    let request = SyncRequest::Fetch { partition, epoch, hashes: hashes.to_vec() };
    let rows = match peers.ask(worker, request).await {
        Ok(SyncReply::Rows(rows)) => rows,
        Ok(_) => return Err(HealError::Malformed { worker }),
        Err(why) => return Err(HealError::of(worker, why)),
    };
    let fits = |(row, hash): (&Option<Row>, &KeyHash)| {
        row.as_ref().is_none_or(|row| row.key.hash() == *hash && row.key.partition() == partition)
    };
    let sized = (1..=hashes.len()).contains(&rows.len()) || hashes.is_empty() && rows.is_empty();
    if sized && rows.iter().zip(hashes).all(fits) { Ok(rows) } else { Err(HealError::Malformed { worker }) }
}

/// What one worker has of a set of hashes, and of the partition.
struct Part {
    worker: WorkerIx,
    state: PartitionState,
    /// In the order of hashes.
    entries: Vec<DigestEntry>,
}

/// What each worker has of these hashes (sorted, at most [`HASHES_MAX`]).
async fn look<P: Peers>(
    peers: &P,
    scope: Scope,
    workers: &[WorkerIx],
    hashes: &[KeyHash],
) -> Result<Vec<Part>, HealError> {
    let Scope { partition, epoch } = scope;
    let request = || SyncRequest::Look { partition, epoch, hashes: hashes.to_vec() };
    let answers = join_all(workers.iter().map(|worker| peers.ask(*worker, request()))).await;
    let mut parts = Vec::with_capacity(workers.len());
    for (worker, answer) in workers.iter().copied().zip(answers) {
        match answer {
            Ok(SyncReply::Digested(digest))
                if digest.entries.is_sorted_by(|a, b| a.hash < b.hash)
                    && digest.entries.iter().all(|e| hashes.binary_search(&e.hash).is_ok()) =>
            {
                parts.push(Part { worker, state: digest.state, entries: digest.entries });
            }
            Ok(_) => return Err(HealError::Malformed { worker }),
            Err(why) => return Err(HealError::of(worker, why)),
        }
    }
    Ok(parts)
}
