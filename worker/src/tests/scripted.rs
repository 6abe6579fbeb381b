//! A store in memory that fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tercet_common::sync::{Changes, DigestEntry, Memory};
use tercet_common::{KeyHash, PARTITIONS, PartitionId, Promise, Row, UnixMillis};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::store::{
    CommitBatch, CommitOutcome, Conflict, Count, Identity, Loaded, Page, PartitionChange, PartitionRecord,
    RingRegister, RowOutcome, ScanFrom, ScanOptions, Store, StoreError, Stretch, Usage, Write,
};

/// What is to become of the next commit.
pub(super) enum Fate {
    Abort(StoreError),
    /// The outcome is unknown; whether it happened is told.
    Lose {
        applied: bool,
    },
    /// Succeeds once told so.
    Hold(oneshot::Receiver<()>),
}

#[derive(Default)]
pub(super) struct State {
    pub(super) uuid: String,
    pub(super) journal_seq: u64,
    pub(super) generation: u64,
    pub(super) register: RingRegister,
    /// The next time the register is kept, it begins as a commit does, and succeeds once told so.
    pub(super) register_hold: Option<oneshot::Receiver<()>>,
    /// Whether the next renewal of the identity, whose outcome nobody learns, takes place.
    pub(super) lost_renewal: Option<bool>,
    pub(super) partitions: Vec<PartitionRecord>,
    pub(super) rows: BTreeMap<(PartitionId, KeyHash), Row>,
    /// Failures of the next openings and proofs.
    pub(super) openings: VecDeque<StoreError>,
    pub(super) proofs: VecDeque<StoreError>,
    pub(super) fates: VecDeque<Fate>,
    /// Rows of each batch that was committed.
    pub(super) batches: Vec<usize>,
    pub(super) closed: bool,
    pub(super) keys: u64,
}

pub(super) struct ScriptedStore {
    pub(super) state: Mutex<State>,
    /// Permits say that the store is lost, one loss each.
    pub(super) loss: Notify,
    /// Tells of every commit that begins.
    commits_begin: mpsc::UnboundedSender<usize>,
}

impl ScriptedStore {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<usize>) {
        let (commits_begin, receiver) = mpsc::unbounded_channel();
        let partitions = vec![PartitionRecord::default(); usize::from(PARTITIONS)];
        let state = State { uuid: "one".into(), partitions, ..State::default() };
        (Arc::new(Self { state: Mutex::new(state), loss: Notify::new(), commits_begin }), receiver)
    }
}

impl State {
    fn apply(&mut self, batch: CommitBatch) -> CommitOutcome {
        self.keep(&batch.promises);
        for (id, ballot, clock) in &batch.flushes {
            let partition = &mut self.partitions[id.index()];
            partition.flush = partition.flush.max(*ballot);
            partition.vector.join(clock);
        }
        self.batches.push(batch.rows.len());
        let rows = batch.rows.into_iter().map(|Write { place: slot, row, .. }| {
            if let Some(held) = self.rows.get(&slot).filter(|held| held.ballot > row.ballot) {
                return RowOutcome::Superseded { ballot: held.ballot };
            }
            let partition = &mut self.partitions[slot.0.index()];
            partition.vector.join(&row.clock);
            partition.highest = partition.highest.max(row.ballot);
            self.rows.insert(slot, row);
            RowOutcome::Stored
        });
        let rows = rows.collect();
        self.journal_seq += 1;
        CommitOutcome::Committed { journal_seq: self.journal_seq, rows }
    }

    fn keep(&mut self, promises: &[(PartitionId, Promise)]) {
        for (id, promise) in promises {
            let partition = &mut self.partitions[id.index()];
            partition.promise = partition.promise.max(*promise);
        }
    }
}

impl Store for ScriptedStore {
    fn open(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        let mut state = self.state.lock();
        if let Some(error) = state.openings.pop_front() {
            return async { Err(error) }.boxed();
        }
        state.generation += 1;
        let identity = Identity {
            worker_uuid: state.uuid.clone(),
            boot_generation: state.generation,
            journal_seq: state.journal_seq,
            register: state.register.clone(),
        };
        let loaded = Loaded { identity, partitions: state.partitions.clone() };
        async { Ok(loaded) }.boxed()
    }

    fn commit(&self, batch: CommitBatch) -> BoxFuture<'_, CommitOutcome> {
        let _ = self.commits_begin.send(batch.rows.len());
        async move {
            let fate = self.state.lock().fates.pop_front();
            match fate {
                Some(Fate::Abort(error)) => return CommitOutcome::Aborted(error),
                Some(Fate::Lose { applied }) => {
                    if applied {
                        self.state.lock().apply(batch);
                    }
                    return CommitOutcome::Unknown(StoreError::Unreachable("connection reset".into()));
                }
                Some(Fate::Hold(go)) => go.await.unwrap(),
                None => {}
            }
            self.state.lock().apply(batch)
        }
        .boxed()
    }

    fn read(&self, keys: Vec<(PartitionId, KeyHash)>) -> BoxFuture<'_, Result<Vec<Option<Row>>, StoreError>> {
        let state = self.state.lock();
        let rows = keys.iter().map(|slot| state.rows.get(slot).cloned()).collect();
        async { Ok(rows) }.boxed()
    }

    fn scan(&self, from: ScanFrom, options: ScanOptions) -> BoxFuture<'_, Result<Page, StoreError>> {
        let state = self.state.lock();
        let mut rows = state
            .rows
            .range((from.partition, from.hash)..)
            .filter(|(slot, _)| slot.0 <= options.last_partition)
            .map(|(slot, row)| (*slot, row.clone()));
        let page = rows.by_ref().take(options.limit).map(|(_, row)| row).collect();
        let next = rows.next().map(|(slot, _)| slot);
        let page = Page { rows: page, next };
        async { Ok(page) }.boxed()
    }

    fn count(
        &self,
        partitions: Vec<PartitionId>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Count, StoreError>> {
        let state = self.state.lock();
        let live = |slot: &(PartitionId, KeyHash), row: &Row| {
            partitions.contains(&slot.0) && row.content.is_live(now)
        };
        let live = state.rows.iter().filter(|(slot, row)| live(slot, row)).count() as u64;
        async move { Ok(Count { live, expiring: 0 }) }.boxed()
    }

    fn keep_register(&self, register: RingRegister) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let hold = self.state.lock().register_hold.take();
            if let Some(go) = hold {
                let _ = self.commits_begin.send(0);
                go.await.unwrap();
            }
            self.state.lock().register = register;
            Ok(())
        }
        .boxed()
    }

    fn renew_identity(&self) -> BoxFuture<'_, Result<String, StoreError>> {
        let mut state = self.state.lock();
        let lost = state.lost_renewal.take();
        if lost != Some(false) {
            state.uuid.push_str(" renewed");
        }
        let renewed = match lost {
            None => Ok(state.uuid.clone()),
            Some(_) => {
                self.loss.notify_one();
                Err(StoreError::Unreachable("connection reset".into()))
            }
        };
        async { renewed }.boxed()
    }

    // What no test of the engine over this store asks for.

    fn change(&self, _: PartitionChange) -> BoxFuture<'_, CommitOutcome> {
        async { CommitOutcome::Aborted(unscripted()) }.boxed()
    }

    fn digest(&self, _: PartitionId, _: KeyHash, _: usize) -> BoxFuture<'_, Result<Stretch, StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn look(&self, _: PartitionId, _: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<DigestEntry>, StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn changes(&self, _: u64, _: usize) -> BoxFuture<'_, Result<Changes, StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn remember(&self, _: Memory) -> BoxFuture<'_, Result<(), StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn recall(&self) -> BoxFuture<'_, Result<Memory, StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn drop_leftovers(&self, _: Vec<PartitionId>, _: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn keep_conflict(&self, _: Conflict) -> BoxFuture<'_, Result<bool, StoreError>> {
        async { Err(unscripted()) }.boxed()
    }

    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let failure = self.state.lock().proofs.pop_front();
        async { failure.map_or(Ok(()), Err) }.boxed()
    }

    fn keep_promises(&self, promises: Vec<(PartitionId, Promise)>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.state.lock().keep(&promises);
        async { Ok(()) }.boxed()
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        self.loss.notified().boxed()
    }

    fn usage(&self) -> Usage {
        Usage { keys: self.state.lock().keys, ..Usage::default() }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.state.lock().closed = true;
        async {}.boxed()
    }
}

fn unscripted() -> StoreError {
    StoreError::Failed("the script says nothing of this".to_owned())
}
