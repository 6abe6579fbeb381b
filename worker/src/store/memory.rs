//! The store in memory: for tests of what is above it, and for the simulation.
//!
//! It keeps the contract of [`Store`] and adds what a test needs to be cruel: a [`MemoryDisk`] outlives the stores over
//! it as a database outlives a worker, holds commits under way and lets them end in any order, fails them, answers
//! nothing about them, or lets them land long after the worker has given up on them. Nothing here waits on time or
//! draws a random number: one order of calls has one result.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tercet_common::{Ballot, Content, Epoch, KeyHash, PARTITIONS, PartitionId, Promise, Row, UnixMillis};
use tokio::sync::{Notify, oneshot};

use super::{
    CommitBatch, CommitOutcome, Count, Identity, Loaded, Page, PartitionRecord, RowOutcome, ScanFrom,
    ScanOptions, Store, StoreError, Usage,
};

/// What happens to one commit instead of its usual end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is rolled back, and the store is told.
    Abort(StoreError),
    /// It is durable, but the answer is lost and with it the store.
    UnknownApplied,
    /// It never happens, and nobody is told.
    UnknownLost,
    /// Nobody is told, and it goes on without its client: it lands when [`MemoryDisk::land_orphans`] says so, unless a
    /// store was opened first.
    Orphaned,
}

/// The durable part, and the hands on it. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Shared>);

struct Shared {
    data: Mutex<Data>,
    /// A commit was held.
    held: Notify,
    /// The store that was open is lost.
    lost: Notify,
}

struct Data {
    worker_uuid: String,
    boot_generation: u64,
    /// The boot generation of the store that may use the disk now.
    live: Option<u64>,
    ring: Option<(Epoch, Vec<u8>)>,
    partitions: Vec<PartitionRecord>,
    rows: BTreeMap<(PartitionId, KeyHash), Row>,
    /// Of the newest commit that is durable.
    journal_seq: u64,
    /// Of the newest commit that was begun.
    last_seq: u64,
    holding: bool,
    held: BTreeMap<u64, (CommitBatch, oneshot::Sender<CommitOutcome>)>,
    orphans: Vec<(u64, CommitBatch)>,
    faults: VecDeque<Fault>,
    full: bool,
}

impl MemoryDisk {
    /// An empty disk; the name becomes the worker's uuid.
    pub fn new(worker_uuid: impl Into<String>) -> Self {
        Self::with_partitions(worker_uuid, usize::from(PARTITIONS))
    }

    /// One that has room for the first partitions only: a simulation makes thousands of disks in a second.
    pub fn with_partitions(worker_uuid: impl Into<String>, partitions: usize) -> Self {
        let data = Data {
            worker_uuid: worker_uuid.into(),
            boot_generation: 0,
            live: None,
            ring: None,
            partitions: vec![PartitionRecord::default(); partitions],
            rows: BTreeMap::new(),
            journal_seq: 0,
            last_seq: 0,
            holding: false,
            held: BTreeMap::new(),
            orphans: Vec::new(),
            faults: VecDeque::new(),
            full: false,
        };
        Self(Arc::new(Shared { data: Mutex::new(data), held: Notify::new(), lost: Notify::new() }))
    }

    /// A store over this disk, to be opened.
    pub fn store(&self) -> MemoryStore {
        MemoryStore { disk: self.clone(), session: Mutex::new(None) }
    }

    /// Whether commits from now on wait for [`Self::release`].
    pub fn hold_commits(&self, hold: bool) {
        self.0.data.lock().holding = hold;
    }

    /// Journal seqs of the commits that wait.
    pub fn held(&self) -> Vec<u64> {
        self.0.data.lock().held.keys().copied().collect()
    }

    /// Returns once at least `count` commits wait.
    pub async fn wait_held(&self, count: usize) {
        loop {
            let notified = self.0.held.notified();
            if self.0.data.lock().held.len() >= count {
                return;
            }
            notified.await;
        }
    }

    /// Ends one waiting commit, in whatever order the caller likes; `false` when there is none of that seq.
    pub fn release(&self, seq: u64) -> bool {
        let mut data = self.0.data.lock();
        let Some((batch, answer)) = data.held.remove(&seq) else { return false };
        let outcome = data.end(seq, batch);
        drop(data);
        self.0.lost.notify_waiters();
        // The caller may have stopped waiting; the commit has ended all the same.
        let _ = answer.send(outcome);
        true
    }

    /// Ends all waiting commits, oldest first.
    pub fn release_all(&self) {
        for seq in self.held() {
            self.release(seq);
        }
    }

    /// Adds to the faults of commits to come, one each, in order, as they end.
    pub fn fail_next(&self, fault: Fault) {
        self.0.data.lock().faults.push_back(fault);
    }

    /// While set, every commit is aborted with [`StoreError::DiskFull`]. Reads go on.
    pub fn set_full(&self, full: bool) {
        self.0.data.lock().full = full;
    }

    /// The connection breaks. Commits under way answer `Unknown` and become orphans.
    pub fn lose(&self) {
        self.0.data.lock().lose();
        self.0.lost.notify_waiters();
    }

    /// Orphaned commits reach the disk after all, oldest first.
    pub fn land_orphans(&self) {
        let mut data = self.0.data.lock();
        for (seq, batch) in std::mem::take(&mut data.orphans) {
            data.apply(seq, batch);
        }
    }

    /// The durable row of a key, if it is not below a flush, and else the flush's ballot: what a read would find.
    pub fn peek(&self, partition: PartitionId, hash: KeyHash) -> (Ballot, Option<Row>) {
        let data = self.0.data.lock();
        let flush = data.partitions[partition.index()].flush;
        let row = data.rows.get(&(partition, hash)).filter(|row| row.ballot > flush);
        (row.map_or(flush, |row| row.ballot), row.cloned())
    }

    /// Puts a row where its key does not belong, to stand for another key with the same hash.
    pub fn plant(&self, row: Row, hash: KeyHash) {
        self.0.data.lock().rows.insert((row.key.partition(), hash), row);
    }
}

impl Data {
    fn lose(&mut self) {
        self.live = None;
        for (seq, (batch, answer)) in std::mem::take(&mut self.held) {
            self.orphans.push((seq, batch));
            let _ = answer.send(CommitOutcome::Unknown(lost()));
        }
    }

    fn end(&mut self, seq: u64, batch: CommitBatch) -> CommitOutcome {
        if self.full {
            return CommitOutcome::Aborted(disk_full());
        }
        match self.faults.pop_front() {
            None => CommitOutcome::Committed { journal_seq: seq, rows: self.apply(seq, batch) },
            Some(Fault::Abort(error)) => CommitOutcome::Aborted(error),
            Some(unknown) => {
                match unknown {
                    Fault::UnknownApplied => drop(self.apply(seq, batch)),
                    Fault::Orphaned => self.orphans.push((seq, batch)),
                    Fault::UnknownLost | Fault::Abort(_) => {}
                }
                self.lose();
                CommitOutcome::Unknown(lost())
            }
        }
    }

    fn apply(&mut self, seq: u64, batch: CommitBatch) -> Vec<RowOutcome> {
        self.journal_seq = self.journal_seq.max(seq);
        for (partition, promise) in batch.promises {
            self.raise(partition, promise);
        }
        for (partition, ballot, clock) in batch.flushes {
            let record = &mut self.partitions[partition.index()];
            record.flush = record.flush.max(ballot);
            record.highest = record.highest.max(ballot);
            record.vector.join(&clock);
            self.rows.retain(|place, row| place.0 != partition || row.ballot >= ballot);
        }
        batch.rows.into_iter().map(|row| self.write(row)).collect()
    }

    fn raise(&mut self, partition: PartitionId, promise: Promise) {
        let record = &mut self.partitions[partition.index()];
        record.promise = record.promise.max(promise);
    }

    fn write(&mut self, row: Row) -> RowOutcome {
        let place = (row.key.partition(), row.key.hash());
        let record = &mut self.partitions[place.0.index()];
        record.highest = record.highest.max(row.ballot);
        record.vector.join(&row.clock);
        match self.rows.get(&place) {
            Some(stored) if stored.key != row.key => RowOutcome::KeyCollision,
            Some(stored) if stored.ballot > row.ballot => RowOutcome::Superseded { ballot: stored.ballot },
            Some(stored) if stored.ballot == row.ballot => RowOutcome::Stored,
            _ => {
                self.rows.insert(place, row);
                RowOutcome::Stored
            }
        }
    }

    fn flushed(&self, row: &Row) -> bool {
        row.ballot < self.partitions[row.key.partition().index()].flush
    }
}

/// PostgreSQL's numbers are signed, and the contract is one.
fn storable(ballot: Ballot) -> bool {
    [ballot.epoch.0, ballot.term.n, ballot.term.incarnation.0, ballot.seq].into_iter().all(|n| n >> 63 == 0)
}

fn lost() -> StoreError {
    StoreError::Unreachable("the connection was lost".to_owned())
}

fn disk_full() -> StoreError {
    StoreError::DiskFull("no space left".to_owned())
}

/// See the module. Dropping it frees the disk for another store, as the end of a process does.
pub struct MemoryStore {
    disk: MemoryDisk,
    /// The boot generation that it opened.
    session: Mutex<Option<u64>>,
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.leave();
    }
}

impl MemoryStore {
    fn leave(&self) {
        let session = self.session.lock().take();
        let mut data = self.disk.0.data.lock();
        if session.is_some() && data.live == session {
            data.lose();
        }
        drop(data);
        self.disk.0.lost.notify_waiters();
    }

    /// Runs `work` on the disk while the store may use it.
    fn with<T>(&self, work: impl FnOnce(&mut Data) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let session = *self.session.lock();
        let mut data = self.disk.0.data.lock();
        if session.is_none() || data.live != session {
            return Err(lost());
        }
        work(&mut data)
    }

    fn begin(&self, batch: CommitBatch) -> Result<Begun, StoreError> {
        if batch.rows.iter().any(|row| !storable(row.ballot)) || batch.flushes.iter().any(|f| !storable(f.1))
        {
            return Err(StoreError::Failed("a number does not fit 63 bits".to_owned()));
        }
        self.with(|data| {
            data.last_seq += 1;
            let seq = data.last_seq;
            if !data.holding {
                let outcome = data.end(seq, batch);
                self.disk.0.lost.notify_waiters();
                return Ok(Begun::Ended(outcome));
            }
            let (answer, outcome) = oneshot::channel();
            data.held.insert(seq, (batch, answer));
            Ok(Begun::Held(outcome))
        })
    }
}

enum Begun {
    Ended(CommitOutcome),
    Held(oneshot::Receiver<CommitOutcome>),
}

/// A commit that nobody waits for any more has an unknown outcome.
struct Unanswered<'a>(Option<&'a MemoryStore>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(store) = self.0 {
            store.leave();
        }
    }
}

impl Store for MemoryStore {
    fn open(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        Box::pin(async {
            self.leave();
            let mut data = self.disk.0.data.lock();
            if data.live.is_some() {
                return Err(StoreError::Refused("another worker uses this database".to_owned()));
            }
            data.orphans.clear();
            data.boot_generation += 1;
            data.last_seq = data.journal_seq;
            data.live = Some(data.boot_generation);
            *self.session.lock() = data.live;
            let identity = Identity {
                worker_uuid: data.worker_uuid.clone(),
                boot_generation: data.boot_generation,
                journal_seq: data.journal_seq,
                ring: data.ring.as_ref().map(|ring| ring.1.clone()),
            };
            Ok(Loaded { identity, partitions: data.partitions.clone() })
        })
    }

    fn commit(&self, batch: CommitBatch) -> BoxFuture<'_, CommitOutcome> {
        let places: Vec<_> = batch.rows.iter().map(|row| (row.key.partition(), row.key.hash())).collect();
        debug_assert!(
            places.is_sorted_by(|a, b| a < b),
            "rows must be sorted by (partition, key hash), each key once"
        );
        Box::pin(async move {
            match self.begin(batch) {
                Err(error) => CommitOutcome::Aborted(error),
                Ok(Begun::Ended(outcome)) => outcome,
                Ok(Begun::Held(outcome)) => {
                    let mut unanswered = Unanswered(Some(self));
                    self.disk.0.held.notify_waiters();
                    let outcome = outcome.await.unwrap_or_else(|_| CommitOutcome::Unknown(lost()));
                    unanswered.0 = None;
                    outcome
                }
            }
        })
    }

    fn read(&self, keys: Vec<(PartitionId, KeyHash)>) -> BoxFuture<'_, Result<Vec<Option<Row>>, StoreError>> {
        Box::pin(async move {
            self.with(|data| Ok(keys.iter().map(|place| data.rows.get(place).cloned()).collect()))
        })
    }

    fn scan(&self, from: ScanFrom, options: ScanOptions) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                let mut page = Page::default();
                let mut bytes = 0;
                let start = Bound::Included((from.partition, from.hash));
                for (place, row) in data.rows.range((start, Bound::Unbounded)) {
                    if place.0 > options.last_partition {
                        break;
                    }
                    let tombstone = matches!(row.content, Content::Tombstone);
                    let expired = row.content.expires_at();
                    if tombstone && !options.with_tombstones
                        || data.flushed(row)
                        || options.expired_by.is_some_and(|by| expired.is_none_or(|at| at > by))
                    {
                        continue;
                    }
                    bytes += row.weight();
                    if page.rows.len() >= options.limit.max(1)
                        || bytes > options.bytes_max && !page.rows.is_empty()
                    {
                        page.next = Some(*place);
                        break;
                    }
                    page.rows.push(if options.with_data { row.clone() } else { without_data(row) });
                }
                Ok(page)
            })
        })
    }

    fn count(
        &self,
        partitions: Vec<PartitionId>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Count, StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                let wanted = |row: &&Row| {
                    partitions.contains(&row.key.partition())
                        && row.content.is_live(now)
                        && !data.flushed(row)
                };
                let mut count = Count::default();
                for row in data.rows.values().filter(wanted) {
                    count.live += 1;
                    count.expiring += u64::from(row.content.expires_at().is_some());
                }
                Ok(count)
            })
        })
    }

    fn keep_ring(&self, epoch: Epoch, ring: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            self.with(|data| match &data.ring {
                Some((kept, bytes)) if *kept >= epoch => Ok(bytes.clone()),
                _ => {
                    data.ring = Some((epoch, ring.clone()));
                    Ok(ring)
                }
            })
        })
    }

    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.with(|data| if data.full { Err(disk_full()) } else { Ok(()) }) })
    }

    fn keep_promises(&self, promises: Vec<(PartitionId, Promise)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                if data.full {
                    return Err(disk_full());
                }
                promises.into_iter().for_each(|(partition, promise)| data.raise(partition, promise));
                Ok(())
            })
        })
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let notified = self.disk.0.lost.notified();
                if self.with(|_| Ok(())).is_err() {
                    return;
                }
                notified.await;
            }
        })
    }

    fn usage(&self) -> Usage {
        let keys = self.disk.0.data.lock().rows.len() as u64;
        Usage { keys, ..Usage::default() }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.leave() })
    }
}

fn without_data(row: &Row) -> Row {
    let mut row = row.clone();
    if let Content::Value { data, .. } = &mut row.content {
        data.clear();
    }
    row
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join;

    use super::super::suite::{self, Fixture, batch, read_one, row};
    use super::*;

    struct OnMemory(MemoryDisk);

    impl Fixture for OnMemory {
        fn store(&self) -> Arc<dyn Store> {
            Arc::new(self.0.store())
        }

        fn plant(&self, row: Row, hash: KeyHash) -> BoxFuture<'_, ()> {
            self.0.plant(row, hash);
            Box::pin(async {})
        }
    }

    suite::tests!(OnMemory(MemoryDisk::new("memory")));

    #[tokio::test]
    async fn commits_end_in_the_order_of_their_release() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        disk.hold_commits(true);
        let commits =
            join(store.commit(batch([row("k", 1, "old")])), store.commit(batch([row("k", 2, "new")])));
        let release = async {
            disk.wait_held(2).await;
            assert!(disk.release(2) && disk.release(1) && !disk.release(1));
        };
        let ((first, second), ()) = join(commits, release).await;
        let superseded = RowOutcome::Superseded { ballot: row("k", 2, "").ballot };
        assert_eq!(first, CommitOutcome::Committed { journal_seq: 1, rows: vec![superseded] });
        assert_eq!(second, CommitOutcome::Committed { journal_seq: 2, rows: vec![RowOutcome::Stored] });
    }

    #[tokio::test]
    async fn an_orphan_lands_only_until_the_next_open() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        for (key, lands) in [("late", true), ("dead", false)] {
            store.open().await.unwrap();
            disk.fail_next(Fault::Orphaned);
            assert!(matches!(store.commit(batch([row(key, 1, "v")])).await, CommitOutcome::Unknown(_)));
            assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
            if lands {
                disk.land_orphans();
            }
            store.open().await.unwrap();
            disk.land_orphans();
            assert_eq!(read_one(&store, key).await.is_some(), lands, "{key}");
        }
    }

    #[tokio::test]
    async fn faults_come_one_per_commit() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        let full = StoreError::DiskFull("test".to_owned());
        disk.fail_next(Fault::Abort(full.clone()));
        disk.fail_next(Fault::UnknownApplied);
        assert_eq!(store.commit(batch([row("a", 1, "v")])).await, CommitOutcome::Aborted(full));
        assert!(matches!(store.commit(batch([row("b", 1, "v")])).await, CommitOutcome::Unknown(_)));
        assert!(matches!(store.commit(batch([row("c", 1, "v")])).await, CommitOutcome::Aborted(_)), "lost");
        store.open().await.unwrap();
        assert_eq!(read_one(&store, "a").await, None);
        assert!(read_one(&store, "b").await.is_some());
    }

    #[tokio::test]
    async fn a_full_disk_refuses_commits_and_serves_reads() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        disk.set_full(true);
        let outcome = store.commit(batch([row("a", 1, "v")])).await;
        assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::DiskFull(_))));
        assert_eq!(read_one(&store, "a").await, None);
        disk.set_full(false);
        assert!(matches!(store.commit(batch([row("a", 1, "v")])).await, CommitOutcome::Committed { .. }));
    }

    #[tokio::test]
    async fn a_commit_that_nobody_waits_for_loses_the_store() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        disk.hold_commits(true);
        assert!(store.commit(batch([row("a", 1, "v")])).now_or_never().is_none());
        assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
    }
}
