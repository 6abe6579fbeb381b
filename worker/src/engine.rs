//! Drives the replica's rules: tasks that commit, read, keep promises, scan, change and reopen the store.
//!
//! The rules sit behind one lock that is held for microseconds and never across a database call. Whoever changes them
//! (a batch of requests, the outcome of a call) takes the answers and learns what may be done next in the same go.
//!
//! ```text
//!   streams ─submit─▶ Mutex<Replica> ◀─next / outcome─ writers, readers, promise keeper ──▶ store
//!                          └──answers──▶ reply queue of each stream
//! ```
//!
//! A store call holds the gate shared; reopening holds it alone. So the store is opened again only once every call
//! has ended, and no outcome of an earlier life reaches a replica that was loaded anew.

mod leftovers;
mod metrics;
mod register;
mod replies;
pub mod scans;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tercet_common::backoff::{Backoff, BackoffPolicy};
use tercet_common::ring_register::RegisterState;
use tercet_common::{PARTITIONS, RingConfig, WorkerId};
use tercet_proto::BATCH_BYTES_TARGET;
use tokio::sync::{Notify, RwLockReadGuard, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use self::metrics::EngineMetrics;
pub(crate) use self::register::Refused;
pub(crate) use self::replies::ReplyQueue;
use crate::config::Config;
use crate::replica::{Answer, Arrival, Limits, Membership, Replica, Stats};
use crate::store::{CommitOutcome, Count, Identity, Loaded, Page, Store, StoreError, Usage};

/// The most rows of one transaction.
const COMMIT_ROWS_MAX: usize = 4_096;

/// Tasks that scan and that change partitions, to make replicas equal. Few: each call may be long, and clients' reads and
/// writes share the connections.
const SCANNERS: usize = 2;
const CHANGERS: usize = 2;

/// A worker's replica over its store.
pub struct Engine {
    id: WorkerId,
    cluster_id: String,
    store: Arc<dyn Store>,
    replica: Mutex<Replica>,
    /// Held shared by every store call, alone by opening and closing.
    gate: tokio::sync::RwLock<()>,
    commits: Notify,
    reads: Notify,
    promises: Notify,
    scans: Notify,
    changes: Notify,
    conflicts: Notify,
    lost: Notify,
    callers: RwLock<HashMap<u64, Arc<ReplyQueue>>>,
    last_caller: AtomicU64,
    /// Whose data it is; set by the first opening.
    identity: Mutex<Option<Identity>>,
    /// A new identity was drawn, and whether it is the data's shows only when the store opens again.
    renewing: AtomicBool,
    journal_seq: AtomicU64,
    open: watch::Sender<bool>,
    /// The ring register as it is kept. One step at a time, so that the membership follows it.
    register: tokio::sync::Mutex<RegisterState>,
    metrics: EngineMetrics,
    started: Instant,
}

impl Engine {
    pub fn new(config: &Config, store: Arc<dyn Store>) -> Self {
        let limits = Limits {
            queue_len_max: config.queue_len_max,
            queue_bytes_max: config.queue_bytes_max,
            cache_bytes: config.cache_bytes,
            value_bytes_max: config.value_bytes_max,
            batch_rows_max: COMMIT_ROWS_MAX,
            batch_bytes_max: BATCH_BYTES_TARGET,
        };
        Self {
            id: config.id.clone(),
            cluster_id: config.cluster_id.clone(),
            store,
            replica: Mutex::new(Replica::new(limits)),
            gate: tokio::sync::RwLock::new(()),
            commits: Notify::new(),
            reads: Notify::new(),
            promises: Notify::new(),
            scans: Notify::new(),
            changes: Notify::new(),
            conflicts: Notify::new(),
            lost: Notify::new(),
            callers: RwLock::new(HashMap::new()),
            last_caller: AtomicU64::new(0),
            identity: Mutex::new(None),
            renewing: AtomicBool::new(false),
            journal_seq: AtomicU64::new(0),
            open: watch::Sender::new(false),
            register: tokio::sync::Mutex::new(RegisterState::default()),
            metrics: EngineMetrics::new(),
            started: Instant::now(),
        }
    }

    /// Whether the store may be used.
    pub fn watch_open(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// `None` before the first opening.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.lock().clone()
    }

    /// The highest journal seq that is known to be durable.
    pub fn journal_seq(&self) -> u64 {
        self.journal_seq.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> Stats {
        self.replica.lock().stats()
    }

    /// What the store takes of its machine.
    pub fn usage(&self) -> Usage {
        let usage = self.store.usage();
        self.journal_seq.fetch_max(usage.journal_seq, Ordering::Relaxed);
        usage
    }

    pub fn publish_metrics(&self) {
        self.metrics.publish(self.stats());
    }

    /// Opens the store once. Waits until every call to it has ended.
    pub async fn open(&self) -> Result<(), StoreError> {
        let _alone = self.gate.write().await;
        let loaded = self.store.open().await?;
        let register = self.check(&loaded)?;
        let Loaded { identity, partitions } = loaded;
        let member =
            |config: &Arc<RingConfig>| Membership::from_config(config, &self.id, &identity.worker_uuid);
        let membership = register.decided.as_ref().map(member);
        *self.register.lock().await = register;
        self.journal_seq.fetch_max(identity.journal_seq, Ordering::Relaxed);
        info!(
            uuid = identity.worker_uuid,
            generation = identity.boot_generation,
            journal = identity.journal_seq,
            "the store is open"
        );
        *self.identity.lock() = Some(identity);
        self.renewing.store(false, Ordering::Relaxed);
        self.with(|replica| {
            if let Some(membership) = membership {
                replica.set_membership(membership);
            }
            replica.open(partitions);
        });
        self.open.send_replace(true);
        Ok(())
    }

    /// Whether the data is this worker's, and no older than what it has seen.
    fn check(&self, loaded: &Loaded) -> Result<RegisterState, StoreError> {
        if loaded.partitions.len() != usize::from(PARTITIONS) {
            let n = loaded.partitions.len();
            return Err(StoreError::Refused(format!("the database has {n} partitions, not {PARTITIONS}")));
        }
        let new = &loaded.identity;
        if let Some(old) = self.identity.lock().as_ref() {
            if old.worker_uuid != new.worker_uuid && !self.renewing.load(Ordering::Relaxed) {
                let (old, new) = (&old.worker_uuid, &new.worker_uuid);
                return Err(StoreError::Refused(format!(
                    "the database is another one than before: {new}, not {old}"
                )));
            }
            let (then, now) = (self.journal_seq(), new.journal_seq);
            if now < then {
                return Err(StoreError::Refused(format!(
                    "the database has lost commits: its journal ends at {now}, but {then} was durable"
                )));
            }
        }
        let register = register::register_from_store(&new.register);
        let register = register.map_err(|error| StoreError::Refused(error.to_string()))?;
        if let Some(config) = register.decided.as_ref().filter(|config| config.cluster_id != self.cluster_id)
        {
            let (held, ours) = (&config.cluster_id, &self.cluster_id);
            return Err(StoreError::Refused(format!(
                "the data belongs to cluster `{held}`, not to `{ours}`"
            )));
        }
        Ok(register)
    }

    /// Opens the store for the first time. A database that cannot be reached yet is waited for, up to `patience`;
    /// one that must not be used is not.
    pub async fn open_within(&self, patience: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + patience;
        let mut backoff = reopen_backoff();
        loop {
            match self.open().await {
                Ok(()) => return Ok(()),
                Err(refused @ StoreError::Refused(_)) => return Err(refused),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(error) => warn!(%error, "waiting for the database"),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Starts the tasks that work on what waits. They end at `stop`, each after the call it is in.
    pub fn spawn(
        self: &Arc<Self>,
        writers: usize,
        readers: usize,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        for _ in 0..writers.max(1) {
            let (engine, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move { engine.commit_until(&stop).await });
        }
        for _ in 0..readers.max(1) {
            let (engine, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move { engine.read_until(&stop).await });
        }
        for _ in 0..SCANNERS {
            let (engine, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move { engine.scan_until(&stop).await });
        }
        for _ in 0..CHANGERS {
            let (engine, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move { engine.change_until(&stop).await });
        }
        let (engine, token) = (self.clone(), stop.clone());
        tasks.spawn(async move { engine.keep_promises_until(&token).await });
        let (engine, token) = (self.clone(), stop.clone());
        tasks.spawn(async move { engine.keep_conflicts_until(&token).await });
        let (engine, token) = (self.clone(), stop.clone());
        tasks.spawn(async move { engine.drop_leftovers_until(&token).await });
        let (engine, token) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = engine.reopen_when_lost() => {}
            }
        });
    }

    /// Refuses all that waits and all that comes, lets calls end, and closes the store.
    pub async fn close(&self) {
        self.with(Replica::close);
        self.open.send_replace(false);
        let _alone = self.gate.write().await;
        self.store.close().await;
    }

    /// Does something with the replica under its lock, then hands out answers and work.
    fn with<R>(&self, f: impl FnOnce(&mut Replica) -> R) -> R {
        let (result, answers, work) = {
            let mut replica = self.replica.lock();
            let result = f(&mut replica);
            (result, replica.take_answers(), replica.work())
        };
        // A permit that nobody needed costs its taker one look under the lock.
        if work.commit {
            self.commits.notify_one();
        }
        if work.read {
            self.reads.notify_one();
        }
        if work.promises {
            self.promises.notify_one();
        }
        if work.scan {
            self.scans.notify_one();
        }
        if work.change {
            self.changes.notify_one();
        }
        if work.conflict {
            self.conflicts.notify_one();
        }
        if work.reopen && self.open.send_if_modified(std::mem::take) {
            self.lost.notify_one();
        }
        self.deliver(answers);
        result
    }

    fn deliver(&self, mut answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        self.metrics.answered(&answers, self.now_us());
        if !answers.is_sorted_by_key(|answer| answer.ticket.caller) {
            answers.sort_unstable_by_key(|answer| answer.ticket.caller);
        }
        let callers = self.callers.read();
        let mut answers = answers.into_iter().map(|a| (a.ticket, a.reply)).peekable();
        while let Some(caller) = answers.peek().map(|(ticket, _)| ticket.caller) {
            let theirs = std::iter::from_fn(|| answers.next_if(|(ticket, _)| ticket.caller == caller));
            match callers.get(&caller) {
                Some(queue) => queue.push(theirs.map(|(ticket, reply)| (ticket.id, reply))),
                // The stream is gone, and with it who wanted to know.
                None => theirs.for_each(drop),
            }
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// A new stream of requests. It is forgotten when the registration is dropped.
    pub(crate) fn register(self: &Arc<Self>) -> Registration {
        let caller = self.last_caller.fetch_add(1, Ordering::Relaxed) + 1;
        let replies = Arc::new(ReplyQueue::default());
        self.callers.write().insert(caller, replies.clone());
        Registration { engine: self.clone(), caller, replies }
    }

    /// Hands requests in under one lock. Every one is answered exactly once, through its caller's reply queue.
    pub(crate) fn submit(&self, arrivals: Vec<Arrival>) {
        self.with(|replica| arrivals.into_iter().for_each(|arrival| replica.submit(arrival)));
    }

    async fn commit_until(&self, stop: &CancellationToken) {
        loop {
            let gate = self.gate.read().await;
            let mut next = self.with(Replica::next_commit);
            while let Some((id, batch)) = next {
                let outcome = self.store.commit(batch).await;
                self.note("group commit", &outcome);
                next = self.with(|replica| {
                    replica.on_commit(id, outcome);
                    replica.next_commit()
                });
            }
            drop(gate);
            tokio::select! {
                () = self.commits.notified() => {}
                () = stop.cancelled() => return,
            }
            // Batches of other streams that are there already go along.
            tokio::task::yield_now().await;
        }
    }

    fn note(&self, what: &'static str, outcome: &CommitOutcome) {
        match outcome {
            CommitOutcome::Committed { journal_seq, .. } => {
                self.journal_seq.fetch_max(*journal_seq, Ordering::Relaxed);
            }
            // Told when the store was found to be lost; and of this commit nothing was sent.
            CommitOutcome::Aborted(error @ StoreError::Unreachable(_)) => {
                debug!(%error, what, "a transaction was not begun");
            }
            CommitOutcome::Aborted(error) => warn!(%error, what, "a transaction did not happen"),
            CommitOutcome::Unknown(error) => {
                error!(%error, what, "the outcome of a transaction is unknown");
            }
        }
    }

    async fn read_until(&self, stop: &CancellationToken) {
        loop {
            let gate = self.gate.read().await;
            let mut next = self.with(Replica::next_read);
            while let Some((id, keys)) = next {
                let outcome = self.store.read(keys).await;
                if let Err(error) = &outcome {
                    warn!(%error, "a batch of reads failed");
                }
                next = self.with(|replica| {
                    replica.on_read(id, outcome);
                    replica.next_read()
                });
            }
            drop(gate);
            tokio::select! {
                () = self.reads.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn scan_until(&self, stop: &CancellationToken) {
        loop {
            let gate = self.gate.read().await;
            let mut next = self.with(Replica::next_scan);
            while let Some((id, job)) = next {
                let outcome = scans::run(&*self.store, job).await;
                if let Err(error) = &outcome {
                    warn!(%error, "a scan failed");
                }
                next = self.with(|replica| {
                    replica.on_scan(id, outcome);
                    replica.next_scan()
                });
            }
            drop(gate);
            tokio::select! {
                () = self.scans.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn change_until(&self, stop: &CancellationToken) {
        loop {
            let gate = self.gate.read().await;
            let mut next = self.with(Replica::next_change);
            while let Some((id, change)) = next {
                let outcome = self.store.change(change).await;
                self.note("change of a partition", &outcome);
                next = self.with(|replica| {
                    replica.on_change(id, outcome);
                    replica.next_change()
                });
            }
            drop(gate);
            tokio::select! {
                () = self.changes.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn keep_promises_until(&self, stop: &CancellationToken) {
        loop {
            let gate = self.gate.read().await;
            while let Some(promises) = self.with(Replica::next_promises) {
                let outcome = self.store.keep_promises(promises).await;
                if let Err(error) = &outcome {
                    warn!(%error, "promises could not be kept");
                }
                self.with(|replica| replica.on_promises(outcome));
            }
            drop(gate);
            tokio::select! {
                () = self.promises.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn keep_conflicts_until(&self, stop: &CancellationToken) {
        loop {
            let gate = self.gate.read().await;
            while let Some(conflict) = self.with(Replica::next_conflict) {
                self.metrics.clock_conflicts.increment(1);
                let (key, higher, lower) =
                    (conflict.higher.key.hash(), conflict.higher.ballot, conflict.lower.ballot);
                match self.store.keep_conflict(conflict).await {
                    // Told once for each pair, not each time that it is met.
                    Ok(true) => error!(
                        key_hash = format_args!("{:032x}", u128::from_be_bytes(key.0)),
                        %higher,
                        %lower,
                        "a version has seen one of a higher ballot; both are in tercet.conflict"
                    ),
                    Ok(false) => {}
                    Err(error) => warn!(%error, %higher, %lower, "a conflict of clocks could not be kept"),
                }
            }
            drop(gate);
            tokio::select! {
                () = self.conflicts.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Opens the store again, for as long as it takes. A refusal is reported and tried again too: an operator may
    /// mend it.
    async fn reopen_when_lost(&self) {
        loop {
            tokio::select! {
                () = self.lost.notified() => {}
                // Perhaps nobody has asked it anything since: cached rows must not be answered any longer.
                () = self.store.lost() => {
                    self.with(Replica::lose);
                    self.lost.notified().await;
                }
            }
            warn!("the store is lost; requests are refused until it is open again");
            let mut backoff = reopen_backoff();
            let mut reported = None;
            while let Err(error) = self.open().await {
                if reported.as_ref() == Some(&error) {
                    debug!(%error, attempts = backoff.attempts(), "the store cannot be opened yet");
                } else {
                    warn!(%error, "the store cannot be opened");
                    reported = Some(error);
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }

    /// The gate, for a call outside the queues: fails at once where waiting for a reopening would hide it.
    fn pass(&self) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        let gate = self.gate.try_read().ok().filter(|_| self.is_open());
        gate.ok_or_else(|| StoreError::Unreachable("the store is being opened".to_owned()))
    }

    /// Proves that the database commits, and how long that took. Dropped half-way, it leaves the store's reserved
    /// connection in the middle of a commit: poll it to its end.
    pub async fn prove_commit(&self) -> Result<Duration, StoreError> {
        let _gate = self.pass()?;
        let began = Instant::now();
        let outcome = self.store.prove_commit().await;
        let took = began.elapsed();
        self.with(|replica| {
            replica.on_probe(outcome.is_ok());
            if let Err(StoreError::Unreachable(_) | StoreError::Refused(_)) = outcome {
                replica.lose();
            }
        });
        outcome.map(|()| took)
    }

    pub(crate) async fn scan(
        &self,
        from: crate::store::ScanFrom,
        options: crate::store::ScanOptions,
    ) -> Result<Page, StoreError> {
        let _gate = self.pass()?;
        let mut page = self.store.scan(from, options).await?;
        // Leftovers of former partitions are nobody's business: what they say may have been deleted since.
        let replica = self.replica.lock();
        page.rows.retain(|row| replica.shows(row.key.partition(), row.key.hash(), row.ballot));
        drop(replica);
        Ok(page)
    }

    pub(crate) async fn count(
        &self,
        partitions: Vec<tercet_common::PartitionId>,
        now: tercet_common::UnixMillis,
    ) -> Result<Count, StoreError> {
        let _gate = self.pass()?;
        self.store.count(partitions, now).await
    }
}

/// One stream's place in the engine.
pub(crate) struct Registration {
    engine: Arc<Engine>,
    pub(crate) caller: u64,
    pub(crate) replies: Arc<ReplyQueue>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.engine.callers.write().remove(&self.caller);
    }
}

/// Quick at first, since most losses are restarts; then sparing a database that is in trouble.
fn reopen_backoff() -> Backoff {
    let policy = BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(5), 0.5);
    policy.expect("constants in order").start(rand::random())
}
