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
mod memtable;
mod merge;
mod postgres;
#[cfg(test)]
mod suite;

pub use memory::{MemoryDisk, MemoryStore, Snapshot};
pub use postgres::PostgresStore;

use futures_util::future::BoxFuture;
use tercet_common::sync::{Changes, DigestEntry, Memory};
use tercet_common::{
    Ballot, Content, Epoch, KeyHash, PartitionId, Promise, Row, Term, UnixMillis, VectorClock,
};

/// A partition as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PartitionRecord {
    pub promise: Promise,
    /// Tombstones at or below it may have been collected: an absent row's put must be above it.
    pub floor: Ballot,
    /// Versions below it count as tombstones at it.
    pub flush: Ballot,
    /// The clock of that flush.
    pub flush_clock: VectorClock,
    /// The highest ballot of all rows and flushes that were ever stored, and its clock. A row that came too late counts
    /// too.
    pub highest: Ballot,
    pub vector: VectorClock,
    /// The last joint epoch whose copy has finished here.
    pub copied: Epoch,
}

/// Who the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the database was first used, and by [`Store::renew_identity`].
    pub worker_uuid: String,
    /// Grows with every [`Store::open`].
    pub boot_generation: u64,
    /// Grows with every durable change of rows, partitions, promises and the register.
    pub journal_seq: u64,
    pub register: RingRegister,
}

/// What is kept of the register that decides ring configurations (`tercet_common::ring_register`), its configuration as
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RingRegister {
    pub promised: Term,
    pub accepted: Term,
    /// The configuration that was accepted, with its number; `None` before the first.
    pub ring: Option<(Epoch, Vec<u8>)>,
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
    /// Each place once, in their order. A row is written only over a lower ballot. No two commits that are under way at once
    /// write to one place.
    pub rows: Vec<Write>,
}

/// Where a row is kept: its key's partition and hash.
pub type Place = (PartitionId, KeyHash);

/// A row to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub place: Place,
    pub row: Row,
    /// The caller knows that the same key is there with a lower ballot, or nothing, so the store need not look. Then no
    /// [`Store::change`] of the partition is under way, and none begins before the commit has ended.
    pub known: bool,
}

impl CommitBatch {
    /// The contract of the rows.
    fn is_sorted(&self) -> bool {
        self.rows.is_sorted_by(|a, b| a.place < b.place)
            && self.rows.iter().all(|write| write.place == place_of(&write.row))
    }
}

impl From<Row> for Write {
    fn from(row: Row) -> Self {
        Self { place: place_of(&row), row, known: false }
    }
}

pub(crate) fn place_of(row: &Row) -> Place {
    (row.key.partition(), row.key.hash())
}

/// One durable transaction on one partition, for the repair of what it holds. The highest ballot and the clocks of its
/// rows and its flush count for the partition's record as those of a [`CommitBatch`] do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionChange {
    pub partition: PartitionId,
    /// Rows of this partition, sorted by hash, each once. A row is written only over a lower ballot.
    pub rows: Vec<Row>,
    /// Deleted where exactly this ballot stands, before the rows are written: a row may take the place of a higher
    /// ballot that is evicted. Sorted by hash, each once.
    pub evict: Vec<(KeyHash, Ballot)>,
    /// The flush becomes exactly this, even a lower one.
    pub flush: Option<(Ballot, VectorClock)>,
    /// Raised.
    pub floor: Ballot,
    /// The clock of [`Self::highest`].
    pub vector: VectorClock,
    /// Raised.
    pub highest: Ballot,
    /// Raised.
    pub promise: Promise,
    /// Raised.
    pub copied: Epoch,
}

impl PartitionChange {
    /// Nothing but a journal row.
    pub fn none(partition: PartitionId) -> Self {
        Self {
            partition,
            rows: Vec::new(),
            evict: Vec::new(),
            flush: None,
            floor: Ballot::ZERO,
            vector: VectorClock::new(),
            highest: Ballot::ZERO,
            promise: Promise::ZERO,
            copied: Epoch::default(),
        }
    }

    /// The contract of the fields.
    fn is_sorted(&self) -> bool {
        self.rows.iter().all(|row| row.key.partition() == self.partition)
            && self.rows.is_sorted_by(|a, b| a.key.hash() < b.key.hash())
            && self.evict.is_sorted_by(|a, b| a.0 < b.0)
    }
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
    /// Durable. Outcomes in the order of [`CommitBatch::rows`] or [`PartitionChange::rows`].
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

impl ScanOptions {
    /// Whether a row that is not flushed belongs to a page.
    fn wants(&self, row: &Row) -> bool {
        let kind = self.with_tombstones || row.content != Content::Tombstone;
        let expires = |by: UnixMillis| row.content.expires_at().is_some_and(|at| at <= by);
        kind && self.expired_by.is_none_or(expires)
    }

    /// A row as a page shows it.
    fn shown(&self, row: &Row) -> Row {
        let mut row = row.clone();
        if let Content::Value { data, .. } = &mut row.content
            && !self.with_data
        {
            data.clear();
        }
        row
    }
}

/// A page may come short, even empty, and still have a `next`: the rows that it may look at are bounded too.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// Rows below their partition's flush are left out.
    pub rows: Vec<Row>,
    /// Where the scan goes on; `None` at its end.
    pub next: Option<(PartitionId, KeyHash)>,
}

/// A page that rows are put on, in their order, until it is full.
struct Filling {
    page: Page,
    bytes: usize,
    options: ScanOptions,
}

impl Filling {
    fn new(options: ScanOptions) -> Self {
        Self { page: Page::default(), bytes: 0, options }
    }

    /// `false`: the page is full, and the next one begins with this row.
    fn push(&mut self, place: Place, weight: usize, row: Row) -> bool {
        self.bytes += weight;
        let rows = &mut self.page.rows;
        if rows.len() >= self.options.limit.max(1) || self.bytes > self.options.bytes_max && !rows.is_empty()
        {
            self.page.next = Some(place);
            return false;
        }
        rows.push(row);
        true
    }
}

fn digest_entry(hash: KeyHash, row: &Row) -> DigestEntry {
    DigestEntry { hash, ballot: row.ballot, tombstone: row.content == Content::Tombstone }
}

/// The ballots of a stretch of a partition. It may come short, even empty, and still have a `next`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Stretch {
    /// In the order of hashes. Rows below the flush are left out.
    pub entries: Vec<DigestEntry>,
    /// Where the next stretch begins; `None` at the end of the partition.
    pub next: Option<KeyHash>,
}

/// The conflicts that a store keeps, and the bytes of their values at which it takes no more. The first ones are what tells
/// how it began.
pub const CONFLICTS_MAX: usize = 100;
pub const CONFLICT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Two versions of one key of which the lower has seen the higher ([`Row::contradicts`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub higher: Row,
    pub lower: Row,
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
    /// Of the newest durable change, also of those that answer no seq.
    pub journal_seq: u64,
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
    /// One durable transaction with one journal row. Several may be under way; they may end in any order. Every other call
    /// sees what is committed, wherever the store keeps it.
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
    /// Like [`Store::commit`], beside the group commits, with a journal row that names the hashes of `rows` and `evict`.
    ///
    /// Not cancel-safe: a future that is dropped before it ends counts as [`CommitOutcome::Unknown`].
    fn change(&self, change: PartitionChange) -> BoxFuture<'_, CommitOutcome>;
    /// The ballots of up to `limit` rows of a partition from the hash `from` on, tombstones too. Reads no values.
    fn digest(
        &self,
        partition: PartitionId,
        from: KeyHash,
        limit: usize,
    ) -> BoxFuture<'_, Result<Stretch, StoreError>>;
    /// The ballots of those of these hashes that are there and not below the flush, in the order of hashes, each once.
    fn look(
        &self,
        partition: PartitionId,
        hashes: Vec<KeyHash>,
    ) -> BoxFuture<'_, Result<Vec<DigestEntry>, StoreError>>;
    /// What the journal says was written behind the seq `since`, up to the first commit that is still under way. At most
    /// `limit` entries, unless the first commit alone has more: a commit is never torn. `upto` is the seq of a commit
    /// that is durable (or `since`), so that it means the same after a crash; `more` says that the limit ended it.
    fn changes(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<Changes, StoreError>>;
    /// Keeps positions and witnesses, whose numbers only grow. A witness of another uuid of the same worker replaces.
    fn remember(&self, memory: Memory) -> BoxFuture<'_, Result<(), StoreError>>;
    /// All that was remembered, sorted by peer and by worker.
    fn recall(&self) -> BoxFuture<'_, Result<Memory, StoreError>>;
    /// Overwrites the register. After an error the new one may be durable or not.
    fn keep_register(&self, register: RingRegister) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Draws and keeps a new `worker_uuid`: for others, the data is from now on of another worker. After an error it may be
    /// kept or not; then [`Store::open`] tells, if the store is lost, and nothing has happened, if it is not.
    fn renew_identity(&self) -> BoxFuture<'_, Result<String, StoreError>>;
    /// Deletes up to `limit` rows of partitions that the worker no longer holds, in small transactions without journal
    /// rows, and says how many; 0: nothing is left. The caller sees to it that nothing writes to them meanwhile.
    fn drop_leftovers(
        &self,
        partitions: Vec<PartitionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<u64, StoreError>>;
    /// Keeps both versions, for people to look at. `false`: they were kept before, or there is no room for more. No part of
    /// the protocol reads them again.
    fn keep_conflict(&self, conflict: Conflict) -> BoxFuture<'_, Result<bool, StoreError>>;
    /// Proves with a real commit, on a connection reserved for it, that the database commits.
    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Persists promises on the reserved connection, past the queue of group commits, with a journal row that names no
    /// key. After an error they may be durable or not.
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
