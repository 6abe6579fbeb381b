//! The surface between the gateways and the engine below.
//!
//! A gateway holds a [`Coordinator`] and thinks in "read this key, compute, put this version". It never sees ballots
//! being made, quorums being counted or gRPC. The engine is the real one or, in tests of the gateways,
//! [`super::memory::MemoryEngine`].

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tercet_common::{Ballot, Content, Key, KeyHash, PartitionId, Row, UnixMillis, VectorClock, WorkerId};
use tokio::sync::oneshot;

use super::room::{Room, Taken};
use super::status::ClusterStatus;

/// Why an operation gave no result. Design 2.3: an answer is the result or exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// A write reached no quorum, and no put of it is left: it was not applied and never will be.
    #[error("{available} of {needed} replicas needed for the write can be reached; it was not applied")]
    NoQuorum { needed: usize, available: usize },
    /// The outcome of a write is unknown: it may have been applied, or may apply later.
    #[error("the write may or may not have been applied: not enough replicas answered in time")]
    Uncertain,
    /// Shed before any effect.
    #[error("too many operations are in flight; nothing was done")]
    Busy,
    /// A read reached no quorum.
    #[error("not enough replicas answered the read")]
    ReadUnavailable,
    /// The cluster has not formed yet.
    #[error("the cluster is still starting: waiting for workers to register")]
    Loading,
    /// The value is larger than the configured limit.
    #[error("value of {len} bytes is larger than the limit of {max} bytes")]
    ValueTooLarge { len: usize, max: usize },
}

/// What a read trades for speed or safety (design 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadLevel {
    /// One replica: may be stale, may even show a value that is never committed.
    One,
    /// Linearizable.
    #[default]
    Quorum,
    /// Linearizable, and all replicas answered.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteLevel {
    #[default]
    Quorum,
    /// All replicas; a write that reached only a quorum is [`OpError::Uncertain`].
    All,
}

/// What a read-modify-write decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Leave the key as it is. The answer is still linearizable: the engine confirms the base before it replies.
    Keep,
    Write(Content),
}

/// What the engine tells of a write that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The version that now stands for the key (for [`Change::Keep`]: the one that was confirmed).
    pub ballot: Ballot,
    pub clock: VectorClock,
    /// Replicas whose commit was waited for, in preference order.
    pub synchronous: Vec<WorkerId>,
    /// The replica that was sent the write and not waited for.
    pub asynchronous: Option<WorkerId>,
}

/// A successful read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Shared with the owner's memory.
    pub row: Arc<Row>,
    /// The replica whose copy this is.
    pub source: WorkerId,
}

/// A read-modify-write of one key, or a blind write.
pub trait Update: Send {
    /// Decides the key's next content. `current` is the live version: never a tombstone, never an expired one.
    ///
    /// May be called several times (after a takeover or ring change the operation is applied afresh), so it must
    /// decide from its arguments alone. The last call is the one that counts. Runs inside the coordinator: it must
    /// not block, and its cost should be linear in the value.
    fn apply(&mut self, current: Option<&Row>, now: UnixMillis) -> Change;

    /// Called exactly once. After an error other than [`OpError::Uncertain`], nothing was applied.
    fn finish(self: Box<Self>, outcome: Result<Written, OpError>);
}

/// A read. `done` is called exactly once; `None` means that no live version exists.
pub struct ReadOp {
    pub key: Key,
    pub level: ReadLevel,
    pub done: Box<dyn FnOnce(Result<Option<Found>, OpError>) + Send>,
}

pub struct WriteOp {
    pub key: Key,
    pub level: WriteLevel,
    /// The update ignores `current` (a plain SET): it is called with `None` and costs no read.
    pub blind: bool,
    pub update: Box<dyn Update>,
}

/// One single-key operation.
pub enum Op {
    Read(ReadOp),
    Write(WriteOp),
}

/// A place in the order in which keys are scanned: by partition, then by key hash. Inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanPosition {
    pub partition: PartitionId,
    pub hash: KeyHash,
}

impl ScanPosition {
    pub fn start_of(partition: PartitionId) -> Self {
        Self { partition, hash: KeyHash([0; 16]) }
    }

    /// The first position after `hash` in `partition`; `None` past the last one of all.
    pub fn after(partition: PartitionId, hash: KeyHash) -> Option<Self> {
        match u128::from_be_bytes(hash.0).checked_add(1) {
            Some(next) => Some(Self { partition, hash: KeyHash(next.to_be_bytes()) }),
            None => PartitionId::new(partition.get() + 1).map(Self::start_of),
        }
    }
}

/// What a scan wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanFilter {
    /// About how many keys a page holds. A page may be empty although more pages follow.
    pub limit: usize,
    /// Values too. Without, `Content::Value::data` of the rows is empty.
    pub with_data: bool,
    /// Rows at or past their expiry at this time, instead of live ones.
    pub expired_by: Option<UnixMillis>,
}

/// Live rows (or expired ones, where asked for) of a page, in scan order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanPage {
    pub rows: Vec<Row>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<ScanPosition>,
}

/// Weak, like all scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyCount {
    pub live: u64,
    /// Of those, the ones with an expiry.
    pub expiring: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerReadError {
    #[error("there is no worker `{0}`, or it is offline")]
    Unknown(String),
    #[error("worker `{0}` did not answer: {1}")]
    Failed(String, String),
}

/// Why a worker is not told to leave, or to stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    #[error("there is no worker `{0}` in the ring")]
    Unknown(String),
    /// Nothing was decided; ask again.
    #[error("the workers did not decide it in time: {0}")]
    Undecided(String),
}

/// What stands under a [`Coordinator`].
pub trait Engine: Send + Sync + 'static {
    /// Starts an operation. Operations on one key that are submitted one after the other, each before the earlier
    /// one's answer, take effect in that order as far as one frontend goes: this is what pipelining rests on. With one
    /// exception: a read may see a write that is submitted before the read is answered. Who minds waits for the read.
    fn submit(&self, op: Op);
    /// Deletes everything. One chosen flush per partition; not atomic across partitions.
    fn flush(&self) -> BoxFuture<'static, Result<(), OpError>>;
    /// A page of the keys at or after `from`. Weak: a key that lives through the whole scan is seen at least once.
    fn scan(&self, from: ScanPosition, filter: ScanFilter) -> BoxFuture<'static, Result<ScanPage, OpError>>;
    fn count(&self) -> BoxFuture<'static, Result<KeyCount, OpError>>;
    /// A page of what one worker itself holds, whether current or not: live rows with data.
    fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> BoxFuture<'static, Result<ScanPage, WorkerReadError>>;
    /// Has a worker hand over all that it holds (`leaving`), or stay after all. Returns once that is decided, not once
    /// it is done: see [`ClusterStatus`].
    fn drain(&self, worker: &str, leaving: bool) -> BoxFuture<'static, Result<(), DrainError>>;
    fn status(&self) -> ClusterStatus;
    fn value_bytes_max(&self) -> usize;
}

/// The gateways' handle. Cheap to clone. Futures may be dropped at any time: a write that was submitted goes on.
#[derive(Clone)]
pub struct Coordinator {
    engine: Arc<dyn Engine>,
    room: Room,
    /// What all writes through this handle hold until they have ended.
    taken: Option<Taken>,
}

impl Coordinator {
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, room: Room::default(), taken: None }
    }

    /// Where commands with large values wait before they are begun.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// A handle for one command: its writes keep the room until they have ended.
    pub fn with_room(&self, taken: Option<Taken>) -> Self {
        Self { taken, ..self.clone() }
    }

    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The live version of a key. The operation is submitted when this is called, not when the future is polled.
    pub fn read(
        &self,
        key: Key,
        level: ReadLevel,
    ) -> impl Future<Output = Result<Option<Found>, OpError>> + Send + use<> {
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| {
            // The asker may be gone.
            let _ = tx.send(result);
        });
        self.engine.submit(Op::Read(ReadOp { key, level, done }));
        async move { rx.await.unwrap_or(Err(OpError::ReadUnavailable)) }
    }

    /// The live value of a key at the default level.
    pub fn get(&self, key: Key) -> impl Future<Output = Result<Option<Arc<Row>>, OpError>> + Send + use<> {
        let found = self.read(key, ReadLevel::Quorum);
        async move { Ok(found.await?.map(|f| f.row)) }
    }

    /// Writes without looking at what is there. Submitted at once, as [`Self::read`].
    pub fn set(
        &self,
        key: Key,
        content: Content,
    ) -> impl Future<Output = Result<Written, OpError>> + Send + use<> {
        let answer =
            self.write(key, WriteLevel::Quorum, true, move |_, _| (Change::Write(content.clone()), ()));
        async move { answer.await.map(|(written, ())| written) }
    }

    /// A linearizable read-modify-write; see [`Update::apply`] for what `f` may do. Submitted at once.
    pub fn update<T, F>(&self, key: Key, f: F) -> impl Future<Output = Result<T, OpError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnMut(Option<&Row>, UnixMillis) -> (Change, T) + Send + 'static,
    {
        let answer = self.write(key, WriteLevel::Quorum, false, f);
        async move { answer.await.map(|(_, out)| out) }
    }

    /// The general form of [`Self::set`] and [`Self::update`].
    pub fn write<T, F>(
        &self,
        key: Key,
        level: WriteLevel,
        blind: bool,
        f: F,
    ) -> impl Future<Output = Result<(Written, T), OpError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnMut(Option<&Row>, UnixMillis) -> (Change, T) + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let update = Box::new(Closure { f, out: None, tx, _taken: self.taken.clone() });
        self.engine.submit(Op::Write(WriteOp { key, level, blind, update }));
        async move { rx.await.unwrap_or(Err(OpError::Uncertain)) }
    }

    pub fn value_bytes_max(&self) -> usize {
        self.engine.value_bytes_max()
    }

    pub async fn flush(&self) -> Result<(), OpError> {
        self.engine.flush().await
    }

    pub async fn scan(&self, from: ScanPosition, filter: ScanFilter) -> Result<ScanPage, OpError> {
        self.engine.scan(from, filter).await
    }

    pub async fn count(&self) -> Result<KeyCount, OpError> {
        self.engine.count().await
    }

    pub async fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> Result<ScanPage, WorkerReadError> {
        self.engine.worker_page(worker, from, limit).await
    }

    pub async fn drain(&self, worker: &str, leaving: bool) -> Result<(), DrainError> {
        self.engine.drain(worker, leaving).await
    }

    pub fn status(&self) -> ClusterStatus {
        self.engine.status()
    }
}

/// An [`Update`] out of a closure that also yields the caller's answer.
struct Closure<F, T> {
    f: F,
    out: Option<T>,
    tx: oneshot::Sender<Result<(Written, T), OpError>>,
    _taken: Option<Taken>,
}

impl<F, T> Update for Closure<F, T>
where
    F: FnMut(Option<&Row>, UnixMillis) -> (Change, T) + Send,
    T: Send,
{
    fn apply(&mut self, current: Option<&Row>, now: UnixMillis) -> Change {
        let (change, out) = (self.f)(current, now);
        self.out = Some(out);
        change
    }

    fn finish(self: Box<Self>, outcome: Result<Written, OpError>) {
        let answer = match (outcome, self.out) {
            (Ok(written), Some(out)) => Ok((written, out)),
            (Ok(_), None) => Err(OpError::Uncertain),
            (Err(e), _) => Err(e),
        };
        // The asker may be gone.
        let _ = self.tx.send(answer);
    }
}

/// The data of a row that holds a value; empty for a tombstone.
pub fn data_of(row: &Row) -> Bytes {
    match &row.content {
        Content::Tombstone => Bytes::new(),
        Content::Value { data, .. } => data.clone(),
    }
}
