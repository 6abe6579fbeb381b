//! The store over PostgreSQL 13 or later. The schema is in `worker/migrations` and explained in `worker/SCHEMA.md`.
//!
//! ```text
//! control   one connection: the advisory lock, promises, the ring, proofs of life; its end is the store's end
//! writers   a pool: one statement and one round trip per batch, each its own transaction
//! readers   a pool, read-only: rows by key, scans, counts
//! ```
//!
//! **When the store is lost.** A commit whose answer never came may have happened, and may still happen as long as a
//! backend of ours lives. From then on every call answers `Unreachable`, until [`Store::open`] has ended all backends
//! and read what is durable. The same when the control connection ends, because the lock is gone with it. A reader's or
//! an idle writer's connection that ends is no loss: the pool makes another, which first checks that the database is
//! still this worker's.

mod columns;
mod commit;
mod connect;
mod disk;
mod error;
mod maintain;
mod metrics;
mod open;
mod purge;
mod read;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tercet_common::{Epoch, KeyHash, PartitionId, Promise, Row, UnixMillis};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use self::columns::PartitionColumns;
use self::connect::{Connections, Lost, Role, Target, connect, set_up, within};
use self::error::connect_error;
use self::metrics::Metrics;
use self::open::Owner;
use self::purge::Purge;
use super::ledger::Ledger;
use super::{
    CommitBatch, CommitOutcome, Count, Loaded, Page, ScanFrom, ScanOptions, Store, StoreError, Usage,
};
use crate::Config;

/// How long another holder of the database's lock gets to go.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long [`Store::close`] waits for the control connection to end in order.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

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
    /// Flushed rows are to be deleted.
    purge_due: Notify,
    /// An estimate of the rows.
    rows: AtomicU64,
    lost: Lost,
    /// How long one statement may take, its answer included.
    patience: Duration,
    /// Where the database is, if that is in sight.
    data_directory: Option<PathBuf>,
    metrics: Arc<Metrics>,
}

/// Prepared once, so that a prepare of the protocol costs one round trip.
struct ControlStatements {
    prove: Statement,
    raise: Statement,
    keep_ring: Statement,
}

impl ControlStatements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        const PROVE: &str = "UPDATE tercet.proof SET commits = commits + 1, proved_at = now()";
        // The second branch sees the snapshot from before the update, which is right when there was none.
        const KEEP_RING: &str = "WITH kept AS ( \
             UPDATE tercet.identity SET ring_epoch = $1, ring = $2 \
             WHERE ring_epoch IS NULL OR ring_epoch < $1 RETURNING ring) \
             SELECT ring FROM kept UNION ALL \
             SELECT ring FROM tercet.identity WHERE NOT EXISTS (SELECT FROM kept)";
        Ok(Self {
            prove: client.prepare(PROVE).await?,
            raise: client.prepare(&commit::raise_partitions(1)).await?,
            keep_ring: client.prepare(KEEP_RING).await?,
        })
    }
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
            // Two more than commits at once: checkpoints and purges never wait for them, nor they for these.
            writers: connections(Role::Writer, target.writers + 2)?,
            readers: connections(Role::Reader, target.readers)?,
            ledger: Mutex::new(ledger),
            checkpoint_due: Notify::new(),
            purge: Mutex::new(Purge::new(&loaded.partitions)),
            purge_due: Notify::new(),
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
    /// One statement on the control connection. No answer in time means that the connection cannot be relied on.
    async fn on_control<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let result = within(self.patience, statement).await;
        if let Err(error @ (StoreError::Timeout(_) | StoreError::Unreachable(_))) = &result {
            self.lost.lose(&error.to_string());
        }
        result
    }

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
        Usage { disk, pool_in_use: in_use, pool_size: in_use + idle, keys }
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

    fn keep_ring(&self, epoch: Epoch, ring: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let session = self.session()?;
            let epoch = columns::signed(epoch.0)?;
            let params: [&(dyn ToSql + Sync); 2] = [&epoch, &ring];
            let kept = session.control.query_one(&session.statements.keep_ring, &params);
            Ok(session.on_control(kept).await?.get(0))
        })
    }

    fn prove_commit(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            let session = self.session()?;
            session.on_control(session.control.execute(&session.statements.prove, &[])).await.map(drop)
        })
    }

    fn keep_promises(&self, promises: Vec<(PartitionId, Promise)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let session = self.session()?;
            let raised = PartitionColumns::new(&promises, &[])?;
            let params = raised.params();
            session.on_control(session.control.execute(&session.statements.raise, &params)).await.map(drop)
        })
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
