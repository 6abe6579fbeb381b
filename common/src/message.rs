//! What frontend and worker say to each other about keys. The wire form lives in `proto`.

use crate::{Ballot, Epoch, Key, PartitionId, Promise, Row, SyncReply, SyncRequest, VectorClock};

/// A request of a frontend to one replica. Requests travel in batches, each under a number of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicaRequest {
    /// Take over a partition: promise to refuse everything below `promise`. → [`ReplicaReply::Prepared`]
    Prepare { partition: PartitionId, promise: Promise },
    /// Store a version if nothing higher is promised or stored. → [`ReplicaReply::Stored`]
    Put { row: Row },
    /// Read a version; `digest` asks for its ballot only. → [`ReplicaReply::Version`]
    Get { epoch: Epoch, key: Key, digest: bool },
    /// `Prepare` of the key's partition, then `Get`. → [`ReplicaReply::Version`]
    GetForWrite { promise: Promise, key: Key },
    /// Re-send of an original put to a replica that missed it. With `chosen` (a quorum holds the row at this very
    /// ballot) it installs without the promise check; without, it is a put. → [`ReplicaReply::Stored`]
    Replicate { row: Row, chosen: bool, epoch: Epoch },
    /// Every version of the partition below `ballot` counts as a tombstone at `ballot`. With `chosen` (a quorum holds
    /// this flush; the partition's present epoch) it installs without the promise check. → [`ReplicaReply::Stored`]
    Flush { partition: PartitionId, ballot: Ballot, clock: VectorClock, chosen: Option<Epoch> },
    /// Which promises the worker holds now; of those that it told before, only what is new. → [`ReplicaReply::Promises`]
    Promises { since: u64 },
    /// What makes replicas equal. → [`ReplicaReply::Synced`]
    Sync(Box<SyncRequest>),
}

impl ReplicaRequest {
    /// The partition that it concerns, and the epoch of the partition in which the sender speaks; `None`: the worker as
    /// a whole.
    pub fn scope(&self) -> Option<(PartitionId, Epoch)> {
        Some(match self {
            Self::Prepare { partition, promise } => (*partition, promise.epoch),
            Self::Put { row } => (row.key.partition(), row.ballot.epoch),
            Self::Get { epoch, key, .. } => (key.partition(), *epoch),
            Self::GetForWrite { promise, key } => (key.partition(), promise.epoch),
            Self::Replicate { row, epoch, .. } => (row.key.partition(), *epoch),
            Self::Flush { partition, ballot, chosen, .. } => (*partition, chosen.unwrap_or(ballot.epoch)),
            Self::Promises { .. } => return None,
            Self::Sync(request) => return request.scope(),
        })
    }

    /// Roughly what the request costs in memory, for byte bounds.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 96;
        match self {
            Self::Put { row } | Self::Replicate { row, .. } => row.weight(),
            Self::Get { key, .. } | Self::GetForWrite { key, .. } => FIXED + key.as_bytes().len(),
            Self::Prepare { .. } | Self::Flush { .. } | Self::Promises { .. } => FIXED,
            Self::Sync(request) => request.weight(),
        }
    }
}

/// A replica's answer. No answer at all means: unknown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicaReply {
    /// The promise is durable and every transaction accepted before it has ended.
    Prepared {
        /// Join of the clocks of all that the replica holds of the partition.
        vector: VectorClock,
        /// Highest ballot that the replica has seen in the partition.
        highest: Ballot,
    },
    /// Durable: the version, or a later put of the same term for the key, is committed.
    Stored,
    /// What the replica holds of the key: see [`Held`].
    Version(Held),
    /// See [`Promises`].
    Promises(Promises),
    /// Done, or what was asked for.
    Synced(Box<SyncReply>),
    /// Not applied, and never will be.
    Refused(Refusal),
    /// The database did not say how the commit ended: it may have been applied.
    Unknown,
}

/// The promises of a worker at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Promises {
    /// As in the request.
    pub since: u64,
    /// How many times one was raised since the worker's process began.
    pub upto: u64,
    /// Those that were raised behind `since`, as they are now. They bind, but need not be durable yet.
    pub raised: Vec<(PartitionId, Promise)>,
}

/// What a replica holds of a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// The row's ballot, or the partition's flush ballot where that is higher, or zero.
    pub ballot: Ballot,
    /// The row at `ballot`; absent for a digest, for a key never seen, and for one below the flush.
    pub row: Option<Row>,
    /// Where there is no row, the partition's floor: a version at or below it may have been here, with a tombstone above
    /// it, and both be collected. Else zero.
    pub floor: Ballot,
}

/// Why a replica did not apply a request. Every variant means: no effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A higher term owns the partition.
    #[error("a higher promise is held")]
    Promise { promised: Promise },
    /// The row is absent and its ballot is not above the floor of collected tombstones.
    #[error("the ballot is at or below the floor {floor}")]
    Floor { floor: Ballot },
    /// A version of a higher term is stored already.
    #[error("a version of a higher term is stored at {ballot}")]
    Superseded { ballot: Ballot },
    /// The request speaks in an older epoch than the replica's.
    #[error("the partition is in epoch {current:?}")]
    Epoch { current: Epoch },
    /// The worker is no replica of the partition in that epoch.
    #[error("not a replica of the partition")]
    NotMember,
    /// Another key has the same 128-bit hash.
    #[error("another key has the same hash")]
    KeyCollision,
    /// A queue is full; try again later.
    #[error("the worker is overloaded")]
    Busy,
    /// The worker cannot use its database now: starting, reconnecting, disk full.
    #[error("the worker's store is unavailable")]
    Unavailable,
    /// The request breaks a limit or a rule of the format.
    #[error("invalid request")]
    Invalid,
}
