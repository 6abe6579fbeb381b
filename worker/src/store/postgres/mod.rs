//! The store over PostgreSQL 13 or later. The schema is in `worker/migrations` and explained in `worker/SCHEMA.md`.
//!
//! ```text
//! control   one connection: the advisory lock, promises, the register, proofs of life; its end is the store's end
//! writers   a pool: one statement and one round trip per batch, each its own transaction; repairs beside them
//! readers   a pool, read-only: rows by key, scans, counts, digests, the journal
//! ```
//!
//! **When the store is lost.** A commit whose answer never came may have happened, and may still happen as long as a
//! backend of ours lives. From then on every call answers `Unreachable`, until [`Store::open`] has ended all backends
//! and read what is durable. The same when the control connection ends, because the lock is gone with it. A reader's or
//! an idle writer's connection that ends is no loss: the pool makes another, which first checks that the database is
//! still this worker's.

mod change;
mod columns;
mod commit;
mod conflict;
mod connect;
mod control;
mod digest;
mod disk;
mod error;
mod flight;
mod journal;
mod leftovers;
mod maintain;
mod memory;
mod metrics;
mod open;
mod purge;
mod read;
mod redo;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tercet_common::sync::{Changes, DigestEntry, Memory};
use tercet_common::{KeyHash, PartitionId, Promise, Row, UnixMillis};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use self::connect::{Connections, Lost, Role, Target, connect, set_up, within};
use self::control::ControlStatements;
use self::error::connect_error;
use self::metrics::Metrics;
use self::open::Owner;
use self::purge::Purge;
use self::redo::Settle;
use super::ledger::Ledger;
use super::memtable::Memtable;
use super::{
    CommitBatch, CommitOutcome, Conflict, Count, Loaded, Page, PartitionChange, RingRegister, ScanFrom,
    ScanOptions, Store, StoreError, Stretch, Usage,
};
use crate::Config;

/// How long another holder of the database's lock gets to go.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long [`Store::close`] waits for the control connection to end in order.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Repairs at once: changes, leftovers, what is remembered. More would take connections from commits.
const REPAIRS_MAX: usize = 2;

/// See the module.
pub struct PostgresStore {
    target: Target,
    owner: Owner,
    lock_patience: Duration,
    metrics: Arc<Metrics>,
    opened: RwLock<Option<Opened>>,
}

/// The tasks of a session end with it.
struct Opened {
    session: Arc<Session>,
    control_driver: JoinHandle<()>,
    maintenance: JoinHandle<()>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.session.lost.close();
        self.maintenance.abort();
        self.session.writers.close();
        self.session.readers.close();
    }
}

/// The store between one `open` and the next.
struct Session {
    control: Client,
    statements: ControlStatements,
    writers: Connections,
    readers: Connections,
    ledger: Mutex<Ledger>,
    /// A checkpoint is due.
    checkpoint_due: Notify,
    purge: Mutex<Purge>,
    /// Taken before a connection, and before `purge_turn`. Never closed.
    repairs: Semaphore,
    /// Flushed rows are to be deleted.
    purge_due: Notify,
    /// Held by a statement that deletes flushed rows, and by a change that may lower a flush. For no longer than one
    /// transaction.
    purge_turn: tokio::sync::Mutex<()>,
    /// Rows that are in the redo log and not in the table yet.
    memtable: Mutex<Memtable>,
    /// Something is to be applied, or earlier than it was. Or settled: one entry for each change, count, and deletion of
    /// leftovers, which are few at once.
    apply_due: Notify,
    settling: Mutex<Vec<Settle>>,
    /// Held shared by who reads the table and then the memtable, alone by who takes rows out of the memtable.
    table: tokio::sync::RwLock<()>,
    /// An estimate of the rows.
    rows: AtomicU64,
    lost: Lost,
    /// How long one statement may take, its answer included.
    patience: Duration,
    /// Where the database is, if that is in sight.
    data_directory: Option<PathBuf>,
    metrics: Arc<Metrics>,
}

impl PostgresStore {
    /// Checks the connection string; connects to nothing. PostgreSQL is spoken to without TLS.
    pub fn new(config: &Config) -> Result<Self, StoreError> {
        Ok(Self {
            target: Target::new(config)?,
            owner: Owner { worker_id: config.id.to_string(), cluster_id: config.cluster_id.clone() },
            lock_patience: LOCK_PATIENCE,
            metrics: Arc::new(Metrics::new()),
            opened: RwLock::new(None),
        })
    }

    fn session(&self) -> Result<Arc<Session>, StoreError> {
        match &*self.opened.read() {
            Some(opened) => opened.session.lost.check().map(|()| opened.session.clone()),
            None => Err(StoreError::Unreachable("the store is not open".to_owned())),
        }
    }

    async fn connect_and_load(&self) -> Result<(Opened, Loaded), StoreError> {
        let target = &self.target;
        let patience = target.patience();
        let lost = Lost::new(self.metrics.connected.clone());

        let on_end = {
            let lost = lost.clone();
            move |reason: Option<tokio_postgres::Error>| match reason {
                Some(error) => lost.lose(&connect_error(&error).to_string()),
                None => drop(lost.close()),
            }
        };
        let connected = tokio::time::timeout(target.connect_timeout * 2, connect(target, on_end)).await;
        let connected =
            connected.map_err(|_| StoreError::Unreachable("connecting took too long".to_owned()))?;
        let (mut control, control_driver) = connected.map_err(|e| connect_error(&e))?;

        open::check_server(&control, patience).await?;
        within(patience, set_up(&control, Role::Control, target)).await?;
        open::lock(&control, target, self.lock_patience).await?;
        open::end_other_backends(&control, patience).await?;
        open::migrate(&mut control, patience).await?;
        let generation = open::start_generation(&control, &self.owner, patience).await?;
        open::end_other_backends(&control, patience).await?;
        let (loaded, ledger) = open::load(&control, patience).await?;
        let data_directory = disk::data_directory(&control, target, patience).await?;

        let connections = |role, size| Connections::new(target, role, size, generation, &lost, &self.metrics);
        let session = Arc::new(Session {
            statements: within(patience, ControlStatements::prepare(&control)).await?,
            control,
            // More than commits at once, so that neither waits for the other: for checkpoints, purges, the redo log, and
            // repairs.
            writers: connections(Role::Writer, target.writers + 3 + REPAIRS_MAX)?,
            readers: connections(Role::Reader, target.readers)?,
            ledger: Mutex::new(ledger),
            checkpoint_due: Notify::new(),
            purge: Mutex::new(Purge::new(&loaded.partitions)),
            repairs: Semaphore::new(REPAIRS_MAX),
            purge_due: Notify::new(),
            purge_turn: tokio::sync::Mutex::new(()),
            memtable: Mutex::new(Memtable::new()),
            apply_due: Notify::new(),
            settling: Mutex::new(Vec::new()),
            table: tokio::sync::RwLock::new(()),
            rows: AtomicU64::new(0),
            lost,
            patience,
            data_directory,
            metrics: self.metrics.clone(),
        });
        self.metrics.journal_seq.set(loaded.identity.journal_seq as f64);
        let maintenance = tokio::spawn(maintain::run(session.clone()));
        Ok((Opened { session, control_driver, maintenance }, loaded))
    }
}

impl Session {
    fn usage(&self) -> Usage {
        let (writing, idle_writers) = self.writers.occupancy();
        let (reading, idle_readers) = self.readers.occupancy();
        let (in_use, idle) = (writing + reading, idle_writers + idle_readers);
        self.metrics.pool_in_use.set(in_use as f64);
        self.metrics.pool_idle.set(idle as f64);
        let disk = self.data_directory.as_deref().and_then(disk::space);
        if let Some(disk) = disk {
            self.metrics.observe_disk(disk);
        }
        let keys = self.rows.load(Ordering::Relaxed);
        let journal_seq = self.ledger.lock().durable_seq();
        Usage { disk, pool_in_use: in_use, pool_size: in_use + idle, keys, journal_seq }
    }
}

impl Store for PostgresStore {
    fn open(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        Box::pin(async {
            // First our own old connections, so that they do not stand in the way.
            let former = self.opened.write().take();
            let reconnect = former.is_some();
            drop(former);
            match self.connect_and_load().await {
                Ok((opened, loaded)) => {
                    *self.opened.write() = Some(opened);
                    if reconnect {
                        self.metrics.reconnects.increment(1);
                    }
                    Ok(loaded)
                }
                Err(error) => {
                    self.metrics.connected.set(0.0);
                    Err(error)
                }
            }
        })
    }

    fn commit(&self, batch: CommitBatch) -> BoxFuture<'_, CommitOutcome> {
        Box::pin(async move {
            match self.session() {
                Ok(session) => commit::commit(&session, &batch).await,
                Err(error) => CommitOutcome::Aborted(error),
            }
        })
    }

    fn read(&self, keys: Vec<(PartitionId, KeyHash)>) -> BoxFuture<'_, Result<Vec<Option<Row>>, StoreError>> {
        Box::pin(async move { read::read(&*self.session()?, &keys).await })
    }

    fn scan(&self, from: ScanFrom, options: ScanOptions) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move { read::scan(&*self.session()?, from, options).await })
    }

    fn count(
        &self,
        partitions: Vec<PartitionId>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Count, StoreError>> {
        Box::pin(async move { read::count(&*self.session()?, &partitions, now).await })
    }

    fn change(&self, change: PartitionChange) -> BoxFuture<'_, CommitOutcome> {
        Box::pin(async move {
            match self.session() {
                Ok(session) => change::change(&session, &change).await,
                Err(error) => CommitOutcome::Aborted(error),
            }
        })
    }

    fn digest(
        &self,
        partition: PartitionId,
        from: KeyHash,
        limit: usize,
    ) -> BoxFuture<'_, Result<Stretch, StoreError>> {
        Box::pin(async move { digest::digest(&*self.session()?, partition, from, limit).await })
    }

    fn look(
        &self,
        partition: PartitionId,
        hashes: Vec<KeyHash>,
    ) -> BoxFuture<'_, Result<Vec<DigestEntry>, StoreError>> {
        Box::pin(async move { digest::look(&*self.session()?, partition, &hashes).await })
    }

    fn changes(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(async move { journal::changes(&*self.session()?, since, limit).await })
    }

    fn remember(&self, memory: Memory) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { memory::remember(&*self.session()?, &memory).await })
    }

    fn recall(&self) -> BoxFuture<'_, Result<Memory, StoreError>> {
        Box::pin(async move { memory::recall(&*self.session()?).await })
    }

    fn keep_register(&self, register: RingRegister) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { control::keep_register(&*self.session()?, &register).await })
    }

    fn renew_identity(&self) -> BoxFuture<'_, Result<String, StoreError>> {
        Box::pin(async move { control::renew_identity(&*self.session()?).await })
    }

    fn drop_leftovers(
        &self,
        partitions: Vec<PartitionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { leftovers::drop_leftovers(&*self.session()?, &partitions, limit).await })
    }

    fn keep_conflict(&self, conflict: Conflict) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move { conflict::keep(&*self.session()?, &conflict).await })
    }

    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { control::prove_commit(&*self.session()?).await })
    }

    fn keep_promises(&self, promises: Vec<(PartitionId, Promise)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { control::keep_promises(&*self.session()?, &promises).await })
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Ok(session) = self.session() {
                let lost = session.lost.clone();
                // Not to keep the session's connections open.
                drop(session);
                lost.wait().await;
            }
        })
    }

    fn usage(&self) -> Usage {
        self.session().map(|session| session.usage()).unwrap_or_default()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let Some(mut opened) = self.opened.write().take() else { return };
            let driver = std::mem::replace(&mut opened.control_driver, tokio::spawn(async {}));
            drop(opened);
            // It ends once calls that are still under way have let go of the session.
            let _ = tokio::time::timeout(CLOSE_PATIENCE, driver).await;
        })
    }
}
