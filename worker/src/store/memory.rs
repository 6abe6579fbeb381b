//! The store in memory: for tests of what is above it, and for the simulation.
//!
//! It keeps the contract of [`Store`] and adds what a test needs to be cruel: a [`MemoryDisk`] outlives the stores over
//! it as a database outlives a worker, holds commits under way and lets them end in any order, fails them, answers
//! nothing about them, or lets them land long after the worker has given up on them. It can be wiped, or be set back to
//! what it was. Nothing here waits on time or
//! draws a random number: one order of calls has one result.

mod durable;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tercet_common::mutants::{self, Mutant};
use tercet_common::sync::{Changes, DigestEntry, Memory};
use tercet_common::{Ballot, Epoch, KeyHash, PARTITIONS, PartitionId, Promise, Row, Term, UnixMillis};
use tokio::sync::{Notify, oneshot};

use self::durable::{Durable, Work};
use super::{
    CommitBatch, CommitOutcome, Conflict, Count, Filling, Identity, Loaded, Page, PartitionChange,
    PartitionRecord, RingRegister, ScanFrom, ScanOptions, Store, StoreError, Stretch, Usage,
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
    /// How many partitions a store is told of when it opens.
    partitions: usize,
    /// Worker uuids begin with it.
    name: String,
    /// How many uuids were drawn. Not part of what a backup brings back: no uuid is drawn twice.
    drawn: u64,
    durable: Durable,
    /// How often stores were opened over it.
    opened: u64,
    /// The opening of the store that may use the disk now.
    live: Option<u64>,
    /// Of the newest commit that was begun.
    last_seq: u64,
    holding: bool,
    held: BTreeMap<u64, (Work, oneshot::Sender<CommitOutcome>)>,
    orphans: Vec<(u64, Work)>,
    faults: VecDeque<Fault>,
    full: bool,
}

/// What a disk holds of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peeked {
    /// The row's, or the flush's where that is higher.
    pub ballot: Ballot,
    /// Unless it is below the flush.
    pub row: Option<Row>,
    /// Of the partition.
    pub floor: Ballot,
}

/// What a disk held at one time: a backup of it.
#[derive(Clone)]
pub struct Snapshot(Durable);

impl MemoryDisk {
    /// An empty disk; the name becomes the worker's uuid. Cheap: nothing is allocated for what is not there.
    pub fn new(worker_uuid: impl Into<String>) -> Self {
        Self::with_partitions(worker_uuid, usize::from(PARTITIONS))
    }

    /// One that tells of the first partitions only: a simulation makes and opens thousands of disks in a second.
    pub fn with_partitions(worker_uuid: impl Into<String>, partitions: usize) -> Self {
        let name = worker_uuid.into();
        let data = Data {
            partitions,
            durable: Durable::new(name.clone()),
            name,
            drawn: 0,
            opened: 0,
            live: None,
            last_seq: 0,
            holding: false,
            held: BTreeMap::new(),
            orphans: Vec::new(),
            faults: VecDeque::new(),
            full: false,
        };
        Self(Arc::new(Shared { data: Mutex::new(data), held: Notify::new(), lost: Notify::new() }))
    }

    /// What is durable now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.data.lock().durable.clone())
    }

    /// Sets the disk back to an old backup. A store that is open is lost, and what was under way never happens.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.replace(|_| snapshot.0.clone());
    }

    /// Puts an empty disk in its place, whose data has a uuid of its own. A store that is open is lost, and what was under
    /// way never happens.
    pub fn wipe(&self) {
        self.replace(|data| Durable::new(data.draw_uuid()));
    }

    fn replace(&self, durable: impl FnOnce(&mut Data) -> Durable) {
        let mut data = self.0.data.lock();
        data.lose();
        data.orphans.clear();
        data.durable = durable(&mut data);
        drop(data);
        self.0.lost.notify_waiters();
    }

    /// Forgets all but the newest `keep` seqs of the journal.
    pub fn prune_journal(&self, keep: u64) {
        self.0.data.lock().durable.prune(keep);
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
            data.durable.apply(seq, batch);
        }
    }

    /// What is durable of a key.
    pub fn peek(&self, partition: PartitionId, hash: KeyHash) -> Peeked {
        let data = self.0.data.lock();
        let PartitionRecord { flush, floor, .. } = data.durable.partition(partition);
        let row = data.durable.rows.get(&(partition, hash)).filter(|row| row.ballot > flush);
        Peeked { ballot: row.map_or(flush, |row| row.ballot), row: row.cloned(), floor }
    }

    /// Leaves out so many boot generations. PostgreSQL's leave out a random number of them with each start.
    pub fn skip_generations(&self, count: u64) {
        self.0.data.lock().durable.boot_generation += count;
    }

    /// Of the newest transaction that is durable.
    pub fn journal_seq(&self) -> u64 {
        self.0.data.lock().durable.journal_seq
    }

    /// Puts a row where its key does not belong, to stand for another key with the same hash.
    pub fn plant(&self, row: Row, hash: KeyHash) {
        self.0.data.lock().durable.rows.insert((row.key.partition(), hash), row);
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

    fn end(&mut self, seq: u64, work: Work) -> CommitOutcome {
        if self.full {
            return CommitOutcome::Aborted(disk_full());
        }
        match self.faults.pop_front() {
            None => CommitOutcome::Committed { journal_seq: seq, rows: self.durable.apply(seq, work) },
            Some(Fault::Abort(error)) => CommitOutcome::Aborted(error),
            Some(unknown) => {
                match unknown {
                    Fault::UnknownApplied => drop(self.durable.apply(seq, work)),
                    Fault::Orphaned => self.orphans.push((seq, work)),
                    Fault::UnknownLost | Fault::Abort(_) => {}
                }
                self.lose();
                CommitOutcome::Unknown(lost())
            }
        }
    }

    /// A seq for what ends at once.
    fn note(&mut self) {
        self.last_seq += 1;
        self.durable.note(self.last_seq);
    }

    /// Every commit up to this seq has ended.
    fn settled_seq(&self) -> u64 {
        self.held.first_key_value().map_or(self.last_seq, |(oldest, _)| oldest - 1)
    }

    fn draw_uuid(&mut self) -> String {
        self.drawn += 1;
        format!("{}/{}", self.name, self.drawn)
    }

    fn room(&self) -> Result<(), StoreError> {
        if self.full { Err(disk_full()) } else { Ok(()) }
    }
}

/// PostgreSQL's numbers are signed, and the contract is one.
fn storable(ballots: impl IntoIterator<Item = Ballot>) -> Result<(), StoreError> {
    let fits = |b: Ballot| [b.epoch.0, b.term.n, b.term.incarnation.0, b.seq].iter().all(|n| n >> 63 == 0);
    if ballots.into_iter().all(fits) { Ok(()) } else { Err(beyond_63_bits()) }
}

fn beyond_63_bits() -> StoreError {
    StoreError::Failed("a number does not fit 63 bits".to_owned())
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
    /// Which opening of the disk was its.
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

    fn begin(&self, work: Work) -> Result<Begun, StoreError> {
        self.with(|data| {
            data.last_seq += 1;
            let seq = data.last_seq;
            if !data.holding {
                let outcome = data.end(seq, work);
                self.disk.0.lost.notify_waiters();
                return Ok(Begun::Ended(outcome));
            }
            let (answer, outcome) = oneshot::channel();
            data.held.insert(seq, (work, answer));
            Ok(Begun::Held(outcome))
        })
    }

    async fn end(&self, begun: Result<Begun, StoreError>) -> CommitOutcome {
        match begun {
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
            if !mutants::on(Mutant::OrphansNotEnded) {
                data.orphans.clear();
            }
            data.durable.boot_generation += 1;
            data.opened += 1;
            data.last_seq = data.durable.journal_seq;
            data.live = Some(data.opened);
            *self.session.lock() = data.live;
            let Durable { worker_uuid, boot_generation, journal_seq, register, .. } = &data.durable;
            let identity = Identity {
                worker_uuid: worker_uuid.clone(),
                boot_generation: *boot_generation,
                journal_seq: *journal_seq,
                register: register.clone(),
            };
            Ok(Loaded { identity, partitions: data.durable.partition_records(data.partitions) })
        })
    }

    fn commit(&self, batch: CommitBatch) -> BoxFuture<'_, CommitOutcome> {
        debug_assert!(batch.is_sorted(), "rows must be sorted by their places, each once");
        Box::pin(async move {
            let ballots =
                batch.rows.iter().map(|write| write.row.ballot).chain(batch.flushes.iter().map(|f| f.1));
            let begun = storable(ballots).and_then(|()| self.begin(Work::Commit(batch)));
            self.end(begun).await
        })
    }

    fn change(&self, change: PartitionChange) -> BoxFuture<'_, CommitOutcome> {
        debug_assert!(change.is_sorted(), "rows and evictions must be sorted by hash, each once");
        Box::pin(async move {
            let copied = Ballot { epoch: change.copied, ..Ballot::ZERO };
            let one = [change.floor, change.highest, change.promise.ballot(0), copied];
            let ballots = one.into_iter().chain(change.rows.iter().map(|row| row.ballot));
            let ballots = ballots.chain(change.evict.iter().map(|evicted| evicted.1));
            let ballots = ballots.chain(change.flush.iter().map(|flush| flush.0));
            let begun = storable(ballots).and_then(|()| self.begin(Work::Change(change)));
            self.end(begun).await
        })
    }

    fn read(&self, keys: Vec<(PartitionId, KeyHash)>) -> BoxFuture<'_, Result<Vec<Option<Row>>, StoreError>> {
        Box::pin(async move {
            self.with(|data| Ok(keys.iter().map(|place| data.durable.rows.get(place).cloned()).collect()))
        })
    }

    fn scan(&self, from: ScanFrom, options: ScanOptions) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                let mut page = Filling::new(options);
                let start = Bound::Included((from.partition, from.hash));
                for (place, row) in data.durable.rows.range((start, Bound::Unbounded)) {
                    if place.0 > options.last_partition {
                        break;
                    }
                    let wanted = options.wants(row) && !data.durable.flushed(row);
                    if wanted && !page.push(*place, row.weight(), options.shown(row)) {
                        break;
                    }
                }
                Ok(page.page)
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
                        && !data.durable.flushed(row)
                };
                let mut count = Count::default();
                for row in data.durable.rows.values().filter(wanted) {
                    count.live += 1;
                    count.expiring += u64::from(row.content.expires_at().is_some());
                }
                Ok(count)
            })
        })
    }

    fn digest(
        &self,
        partition: PartitionId,
        from: KeyHash,
        limit: usize,
    ) -> BoxFuture<'_, Result<Stretch, StoreError>> {
        Box::pin(async move { self.with(|data| Ok(data.durable.digest(partition, from, limit))) })
    }

    fn look(
        &self,
        partition: PartitionId,
        hashes: Vec<KeyHash>,
    ) -> BoxFuture<'_, Result<Vec<DigestEntry>, StoreError>> {
        Box::pin(async move { self.with(|data| Ok(data.durable.look(partition, &hashes))) })
    }

    fn changes(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(async move { self.with(|data| Ok(data.durable.changes(since, data.settled_seq(), limit))) })
    }

    fn remember(&self, memory: Memory) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                data.room()?;
                data.durable.remember(memory);
                Ok(())
            })
        })
    }

    fn recall(&self) -> BoxFuture<'_, Result<Memory, StoreError>> {
        Box::pin(async { self.with(|data| Ok(data.durable.recall())) })
    }

    fn keep_register(&self, register: RingRegister) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let ballot = |term: Term| Promise { epoch: Epoch(0), term }.ballot(0);
            storable([ballot(register.promised), ballot(register.accepted)])?;
            self.with(|data| {
                data.room()?;
                data.note();
                data.durable.register = register;
                Ok(())
            })
        })
    }

    fn renew_identity(&self) -> BoxFuture<'_, Result<String, StoreError>> {
        Box::pin(async {
            self.with(|data| {
                data.room()?;
                data.durable.worker_uuid = data.draw_uuid();
                Ok(data.durable.worker_uuid.clone())
            })
        })
    }

    fn drop_leftovers(
        &self,
        partitions: Vec<PartitionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                data.room()?;
                Ok(data.durable.drop_leftovers(&partitions, limit))
            })
        })
    }

    fn keep_conflict(&self, conflict: Conflict) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                data.room()?;
                Ok(data.durable.keep_conflict(conflict))
            })
        })
    }

    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.with(|data| data.room()) })
    }

    fn keep_promises(&self, promises: Vec<(PartitionId, Promise)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.with(|data| {
                data.room()?;
                data.note();
                promises.into_iter().for_each(|(partition, promise)| data.durable.raise(partition, promise));
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
        let data = self.disk.0.data.lock();
        let keys = data.durable.rows.len() as u64;
        Usage { keys, journal_seq: data.durable.journal_seq, ..Usage::default() }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.leave() })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join;

    use super::super::RowOutcome;
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

    mod knowing {
        use super::*;

        suite::tests!(knowing; OnMemory(MemoryDisk::new("memory")));
    }

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

    #[test]
    fn an_orphan_that_lands_later_is_noticed() {
        assert!(mutants::fails_without(Mutant::OrphansNotEnded, an_orphan_lands_only_until_the_next_open));
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

    #[tokio::test]
    async fn changes_are_held_like_commits_and_end_in_any_order() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        disk.hold_commits(true);
        let (put, late) = (row("k", 5, "v"), row("k", 4, "v"));
        let partition = put.key.partition();
        let change = PartitionChange {
            rows: vec![late],
            evict: vec![(put.key.hash(), put.ballot)],
            ..PartitionChange::none(partition)
        };
        let works = join(store.commit(batch([put])), store.change(change));
        let release = async {
            disk.wait_held(2).await;
            assert!(disk.release(2));
            assert_eq!(store.changes(0, 10).await.unwrap().upto, 0, "the first is under way");
            assert!(disk.release(1));
        };
        let ((first, second), ()) = join(works, release).await;
        assert_eq!(first, CommitOutcome::Committed { journal_seq: 1, rows: vec![RowOutcome::Stored] });
        assert_eq!(second, CommitOutcome::Committed { journal_seq: 2, rows: vec![RowOutcome::Stored] });
        assert_eq!(read_one(&store, "k").await, Some(row("k", 5, "v")), "evicted before it came");
        assert_eq!(store.changes(0, 10).await.unwrap().upto, 2);
    }

    #[tokio::test]
    async fn a_disk_is_set_back_to_a_backup() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        store.commit(batch([row("a", 1, "v")])).await;
        let backup = disk.snapshot();
        store.commit(batch([row("a", 2, "v"), row("b", 2, "v")])).await;
        let renewed = store.renew_identity().await.unwrap();
        disk.restore(&backup);
        assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
        let identity = store.open().await.unwrap().identity;
        assert_eq!((identity.worker_uuid.as_str(), identity.journal_seq), ("memory", 1));
        assert_eq!(read_one(&store, "a").await, Some(row("a", 1, "v")));
        assert_eq!(read_one(&store, "b").await, None);
        assert_ne!(store.renew_identity().await.unwrap(), renewed, "no uuid is drawn twice");
    }

    #[tokio::test]
    async fn a_wiped_disk_is_another() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        let before = store.open().await.unwrap().identity;
        disk.hold_commits(true);
        let under_way = store.commit(batch([row("a", 1, "v")]));
        let wipe = async {
            disk.wait_held(1).await;
            disk.wipe();
        };
        let (outcome, ()) = join(under_way, wipe).await;
        assert!(matches!(outcome, CommitOutcome::Unknown(_)), "{outcome:?}");
        disk.land_orphans();
        let after = store.open().await.unwrap();
        assert_ne!(after.identity.worker_uuid, before.worker_uuid);
        assert_eq!((after.identity.journal_seq, after.identity.boot_generation), (0, 1));
        assert_eq!(read_one(&store, "a").await, None);
    }

    #[tokio::test]
    async fn a_journal_that_was_pruned_says_so() {
        let disk = MemoryDisk::new("memory");
        let store = disk.store();
        store.open().await.unwrap();
        disk.prune_journal(0);
        assert!(!store.changes(0, 10).await.unwrap().pruned, "there was nothing to forget");
        for seq in 1..=9 {
            store.commit(batch([row("k", seq, "v")])).await;
        }
        disk.prune_journal(2);
        assert_eq!(store.changes(6, 10).await, Ok(Changes { upto: 6, pruned: true, ..Changes::default() }));
        let told = store.changes(7, 10).await.unwrap();
        assert_eq!((told.upto, told.entries.len(), told.pruned), (9, 1, false));
    }
}
