//! What a worker needs of its database.
//!
//! One suite of tests holds every implementation to this contract: PostgreSQL, and memory for the simulation. The
//! rules of the protocol (promises, who may write) are decided above, in the replica core; a store only compares
//! ballots, so that a late commit cannot overwrite a newer version.

mod codec;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod ledger;
pub mod memory;
mod postgres;
#[cfg(test)]
mod suite;

pub use memory::{MemoryDisk, MemoryStore};
pub use postgres::PostgresStore;

use futures_util::future::BoxFuture;
use tercet_common::{Ballot, Epoch, KeyHash, PartitionId, Promise, Row, UnixMillis, VectorClock};

/// A partition as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PartitionRecord {
    pub promise: Promise,
    /// Tombstones at or below it may have been collected: an absent row's put must be above it.
    pub floor: Ballot,
    /// Versions below it count as tombstones at it.
    pub flush: Ballot,
    /// Join of the clocks of all rows and flushes that were ever stored. A row that came too late counts too.
    pub vector: VectorClock,
    /// The highest ballot of them.
    pub highest: Ballot,
}

/// Who the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the database was first used.
    pub worker_uuid: String,
    /// Grows with every [`Store::open`].
    pub boot_generation: u64,
    pub journal_seq: u64,
    /// The ring configuration that was accepted, as its wire bytes; `None` before the first.
    pub ring: Option<Vec<u8>>,
}

/// All that a worker keeps in memory of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub identity: Identity,
    /// One for each of the 1024 partitions, by index.
    pub partitions: Vec<PartitionRecord>,
}

/// One transaction: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitBatch {
    /// Raised promises. A stored promise is never lowered.
    pub promises: Vec<(PartitionId, Promise)>,
    /// Flush ballots with their clocks. Never lowered.
    pub flushes: Vec<(PartitionId, Ballot, VectorClock)>,
    /// Each key once, sorted by (partition, key hash). A row is written only over a lower ballot.
    pub rows: Vec<Row>,
}

/// What became of one row of a committed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    /// This very version, or this ballot already, is stored.
    Stored,
    /// A higher ballot was there.
    Superseded { ballot: Ballot },
    /// Another key with the same hash was there.
    KeyCollision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Durable. Outcomes in the order of [`CommitBatch::rows`].
    Committed { journal_seq: u64, rows: Vec<RowOutcome> },
    /// Nothing of it happened or ever will; the store is still good.
    Aborted(StoreError),
    /// It may or may not have happened. The store is lost until [`Store::open`] succeeds again.
    Unknown(StoreError),
}

/// Where a scan goes on: rows at or after `hash` in `partition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanFrom {
    pub partition: PartitionId,
    pub hash: KeyHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    pub last_partition: PartitionId,
    pub limit: usize,
    /// Stop before the page weighs more (one row alone may).
    pub bytes_max: usize,
    /// Else values come empty.
    pub with_data: bool,
    pub with_tombstones: bool,
    /// Only rows whose expiry is at or before this.
    pub expired_by: Option<UnixMillis>,
}

/// A page may come short, even empty, and still have a `next`: the rows that it may look at are bounded too.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// Rows below their partition's flush are left out.
    pub rows: Vec<Row>,
    /// Where the scan goes on; `None` at its end.
    pub next: Option<(PartitionId, KeyHash)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Count {
    pub live: u64,
    pub expiring: u64,
}

/// What a store takes of its machine, as far as the worker can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of the file system with the database. `None`: it is out of sight, on another machine for example.
    pub disk: Option<Disk>,
    pub pool_in_use: usize,
    pub pool_size: usize,
    /// Rows, those of tombstones included; an estimate that lags behind. 0 before the first one.
    pub keys: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Why a store could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The connection to the database is gone or was never there. From a call other than [`Store::open`]: the store is
    /// lost, or was about to be; open it again.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// Did not end in time.
    #[error("the database did not answer in time: {0}")]
    Timeout(String),
    /// No space left. Reads go on.
    #[error("the database's disk is full: {0}")]
    DiskFull(String),
    /// The database must not be used: settings, schema, another writer. Waiting does not help.
    #[error("{0}")]
    Refused(String),
    /// Anything else that the database answered.
    #[error("the database answered: {0}")]
    Failed(String),
}

/// See the module. All calls may run at once, except [`Store::open`], which runs alone.
pub trait Store: Send + Sync + 'static {
    /// Makes the store usable, at start and after it was lost: connects, checks settings and schema, becomes the only
    /// writer, ends this database's other backends and waits until they are gone, so that no orphaned commit lands
    /// later, and loads what the worker keeps in memory.
    fn open(&self) -> BoxFuture<'_, Result<Loaded, StoreError>>;
    /// One durable transaction with one journal row. Several may be under way; they may end in any order.
    ///
    /// Not cancel-safe: a future that is dropped before it ends counts as [`CommitOutcome::Unknown`].
    fn commit(&self, batch: CommitBatch) -> BoxFuture<'_, CommitOutcome>;
    /// The committed rows of these keys, in order. Those below their partition's flush may still be there, or not.
    /// Where the values are large, the answer may end early, after at least one key: ask for the rest again.
    fn read(&self, keys: Vec<(PartitionId, KeyHash)>) -> BoxFuture<'_, Result<Vec<Option<Row>>, StoreError>>;
    fn scan(&self, from: ScanFrom, options: ScanOptions) -> BoxFuture<'_, Result<Page, StoreError>>;
    /// Live values at `now`.
    fn count(
        &self,
        partitions: Vec<PartitionId>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Count, StoreError>>;
    /// Keeps the ring configuration, unless one of the same or a later epoch is kept; answers what is kept now.
    fn keep_ring(&self, epoch: Epoch, ring: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, StoreError>>;
    /// Proves with a real commit, on a connection reserved for it, that the database commits.
    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Persists promises on the reserved connection, past the queue of group commits. After an error they may be
    /// durable or not.
    fn keep_promises(&self, promises: Vec<(PartitionId, Promise)>) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Ends when the store is lost (at once, if it is not open), although nobody may be asking it anything. Cancel-safe.
    fn lost(&self) -> BoxFuture<'_, ()>;
    /// Looked at whenever the store is proven; cheap.
    fn usage(&self) -> Usage {
        Usage::default()
    }
    /// Ends the connections in order. [`Store::open`] may follow.
    fn close(&self) -> BoxFuture<'_, ()>;
}
