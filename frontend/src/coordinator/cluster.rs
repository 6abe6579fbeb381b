//! The real engine: cores behind locks, links to the workers, timers.
//!
//! Partitions are dealt out to a few cores, each behind a lock of its own. Whoever has an event (a client's task with an
//! operation, a link's task with a batch of replies, the ticker) takes the lock, feeds the core, moves what is to be sent
//! into the links' queues, and delivers completions after it has let go.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tercet_common::breaker::BreakerState;
use tercet_common::ring_config::RingConfig;
use tercet_common::{
    Ballot, Incarnation, PARTITIONS, PartitionId, ReplicaReply, UnixMillis, VectorClock, WorkerId,
};
use tokio::sync::{Notify, oneshot};

use super::api::{Engine, KeyCount, Op, OpError, ScanFilter, ScanPage, ScanPosition, WorkerReadError};
use super::core::{CallId, Completion, Core, Counts, Ended, Tuning, WorkerIx};
use super::instruments::Instruments;
use super::repair::RepairQueue;
use super::status::{Breaker, ClusterStatus, PartitionStatus, WorkerStatus};
use crate::config::Config;
use crate::membership::{MembershipHandle, WorkerView};
use crate::replica::link::{Events, Link};

/// How many cores there are. More would let more tasks work at once; on few processor cores that gains nothing.
const CORES: usize = 4;
/// Timers are looked at this often while any is set.
const TICK: Duration = Duration::from_millis(5);

/// A tick that is later than this says that the process was held up.
const HELD_UP: Duration = Duration::from_millis(50);

struct Shard {
    core: Mutex<Core>,
    /// Microseconds since the origin; `u64::MAX`: no timer.
    next_timer: AtomicU64,
}

/// What exists once the cluster has a ring.
pub(super) struct Formed {
    pub(super) config: Arc<RingConfig>,
    pub(super) links: Vec<Arc<Link>>,
    shards: Vec<Shard>,
    repairs: RepairQueue,
}

/// See the module.
pub struct Cluster {
    pub(super) config: Arc<Config>,
    membership: Arc<MembershipHandle>,
    formed: OnceLock<Formed>,
    me: Incarnation,
    origin: Instant,
    in_flight: AtomicUsize,
    expired_keys: AtomicU64,
    timers_set: Notify,
    instruments: Instruments,
}

impl Cluster {
    pub fn new(config: Arc<Config>, membership: Arc<MembershipHandle>, me: Incarnation) -> Arc<Self> {
        Arc::new(Self {
            config,
            membership,
            formed: OnceLock::new(),
            me,
            origin: Instant::now(),
            in_flight: AtomicUsize::new(0),
            expired_keys: AtomicU64::new(0),
            timers_set: Notify::new(),
            instruments: Instruments::new(),
        })
    }

    pub(super) fn formed(&self) -> Option<&Formed> {
        self.formed.get()
    }

    /// Builds cores and links for a ring. Later calls change nothing: ring changes come as epochs of partitions.
    pub fn form(&self, config: Arc<RingConfig>) -> &[Arc<Link>] {
        let formed = self.formed.get_or_init(|| {
            let names: Vec<WorkerId> = config.members.iter().map(|m| m.id.clone()).collect();
            self.instruments.name_workers(&names);
            let links = names.iter().enumerate().map(|(ix, id)| {
                let seed = self.me.0.wrapping_add(ix as u64) | 1;
                Link::new(ix as WorkerIx, id.clone(), self.config.cluster_secret.clone(), seed)
            });
            let links = links.collect();
            let shards = (0..CORES).map(|shard| self.shard(shard, &config, names.clone())).collect();
            let repairs = RepairQueue::new(&names);
            Formed { config, links, shards, repairs }
        });
        &formed.links
    }

    fn shard(&self, shard: usize, config: &RingConfig, names: Vec<WorkerId>) -> Shard {
        let mine = PartitionId::all().filter(|id| shard_of(*id) == shard).map(|id| {
            let row = config.assignment(id);
            (id, row.epoch, row.replicas.iter().copied().collect())
        });
        let tuning = Tuning {
            hedge_after: self.config.hedge_after,
            replica_timeout: self.config.replica_timeout,
            request_timeout: self.config.request_timeout,
            quorum_grace: self.config.replica_timeout,
            value_bytes_max: self.config.value_bytes_max,
        };
        let core = Core::new(self.me, tuning, names, mine);
        Shard { core: Mutex::new(core), next_timer: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn repairs(&self) -> Option<&RepairQueue> {
        self.formed().map(|formed| &formed.repairs)
    }

    /// Workers that missed something and can be asked now.
    pub(super) fn workers_to_repair(&self) -> Vec<usize> {
        let Some(formed) = self.formed() else { return Vec::new() };
        let wants = |ix: &usize| formed.repairs.depth(*ix) > 0 && formed.links[*ix].is_available();
        (0..formed.links.len()).filter(wants).collect()
    }

    pub(super) fn repair_flush(
        &self,
        worker: WorkerIx,
        partition: PartitionId,
        ballot: Ballot,
        clock: VectorClock,
    ) {
        if let Some(formed) = self.formed() {
            self.with_core(formed, shard_of(partition), |core| {
                core.repair_flush(worker, partition, ballot, clock)
            });
        }
    }

    /// Takes over all partitions, so that first writes need not wait for it.
    pub fn take_over_all(&self) {
        self.each_core(Core::take_over_all);
    }

    /// Runs the cores' timers, for as long as it is polled.
    ///
    /// Timers that are late because this process was held up wait until the replies that came meanwhile have had their
    /// turn: otherwise an overload here would look like dead workers.
    pub async fn run_timers(&self) {
        let mut due = Instant::now() + TICK;
        loop {
            if due.elapsed() > HELD_UP {
                tokio::time::sleep(TICK).await;
            }
            due = Instant::now() + TICK;
            let Some(formed) = self.formed() else {
                self.timers_set.notified().await;
                continue;
            };
            let now = self.micros();
            let mut set = false;
            for shard in 0..formed.shards.len() {
                let next = formed.shards[shard].next_timer.load(Ordering::Relaxed);
                if next <= now {
                    self.with_core(formed, shard, Core::tick);
                }
                set |= next != u64::MAX;
            }
            if set {
                tokio::time::sleep(TICK).await;
            } else {
                self.timers_set.notified().await;
            }
        }
    }

    fn micros(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    fn each_core(&self, mut event: impl FnMut(&mut Core)) {
        if let Some(formed) = self.formed() {
            for shard in 0..formed.shards.len() {
                self.with_core(formed, shard, &mut event);
            }
        }
    }

    /// Feeds one core and carries out what it decides.
    fn with_core(&self, formed: &Formed, shard: usize, event: impl FnOnce(&mut Core)) {
        let (completions, ended, counts, missed) = {
            let mut core = formed.shards[shard].core.lock();
            core.at(self.origin.elapsed(), UnixMillis::now());
            event(&mut core);
            send_all(&mut core, formed, shard);
            let next = core.next_timer().map_or(u64::MAX, |at| at.as_micros() as u64);
            let before = formed.shards[shard].next_timer.swap(next, Ordering::Relaxed);
            if before == u64::MAX && next != u64::MAX {
                self.timers_set.notify_one();
            }
            let out = &mut core.out;
            (
                std::mem::take(&mut out.completions),
                std::mem::take(&mut out.ended),
                std::mem::take(&mut out.counts),
                std::mem::take(&mut out.missed),
            )
        };
        self.account(formed, &completions, &ended, &counts);
        formed.repairs.add(missed);
        for completion in completions {
            completion.deliver();
        }
    }

    fn account(&self, formed: &Formed, completions: &[Completion], ended: &[Ended], counts: &Counts) {
        if !completions.is_empty() {
            let now = self.origin.elapsed();
            let left = self.in_flight.fetch_sub(completions.len(), Ordering::Relaxed) - completions.len();
            self.instruments.completions(completions, now, left);
        }
        self.instruments.calls(ended);
        if counts.expired > 0 {
            self.expired_keys.fetch_add(counts.expired, Ordering::Relaxed);
        }
        self.instruments.counts(counts);
        for call in ended.iter().filter(|c| c.outcome == super::core::CallOutcome::Timeout) {
            formed.links[usize::from(call.worker)].timed_out(self);
        }
    }

    /// One flush per partition, all at once. An error means that some partitions may still hold their keys.
    async fn flush_all(&self) -> Result<(), OpError> {
        let Some(formed) = self.formed() else { return Err(OpError::Loading) };
        let mut answers = Vec::with_capacity(usize::from(PARTITIONS));
        for shard in 0..formed.shards.len() {
            self.with_core(formed, shard, |core| {
                for id in PartitionId::all().filter(|id| shard_of(*id) == shard) {
                    let (tx, rx) = oneshot::channel();
                    answers.push(rx);
                    self.in_flight.fetch_add(1, Ordering::Relaxed);
                    // The asker may be gone.
                    core.flush(id, Box::new(move |result| drop(tx.send(result))));
                }
            });
        }
        let mut outcome = Ok(());
        for answer in answers {
            let result = answer.await.unwrap_or(Err(OpError::Uncertain));
            outcome = outcome.and(result);
        }
        outcome
    }

    pub fn status(&self) -> ClusterStatus {
        let formed = self.formed();
        let mut workers: Vec<WorkerStatus> =
            self.membership.members_now().workers.into_iter().map(status_of).collect();
        let mut partitions = PartitionStatus::default();
        if let Some(formed) = formed {
            partitions = self.partition_status(formed);
            let ownership = formed.config.ownership();
            for worker in &mut workers {
                let Some(ix) = formed.config.index_of(&worker.id) else { continue };
                worker.breaker = match formed.links[ix].breaker_state() {
                    BreakerState::Closed => Breaker::Closed,
                    BreakerState::Open => Breaker::Open,
                    BreakerState::HalfOpen => Breaker::HalfOpen,
                };
                worker.partitions = ownership[ix].replicas;
                worker.primary_partitions = ownership[ix].primaries;
            }
        }
        ClusterStatus {
            cluster_id: self.config.cluster_id.clone(),
            ready: formed.is_some() && partitions.unavailable == 0,
            epoch: formed.map_or(0, |f| f.config.epoch.0),
            incarnation: format!("{:016x}", self.me.0),
            uptime_seconds: self.origin.elapsed().as_secs(),
            expired_keys: self.expired_keys.load(Ordering::Relaxed),
            replicas: formed.map_or(tercet_common::ring::REPLICAS, |f| f.config.replicas),
            workers,
            partitions,
        }
    }

    /// Counts partitions by what can be reached.
    fn partition_status(&self, formed: &Formed) -> PartitionStatus {
        let up: Vec<bool> = formed.links.iter().map(|link| link.is_available()).collect();
        let mut status = PartitionStatus { total: usize::from(PARTITIONS), ..PartitionStatus::default() };
        for id in PartitionId::all() {
            let replicas = &formed.config.assignment(id).replicas;
            let reachable = replicas.iter().filter(|ix| up[usize::from(**ix)]).count();
            status.under_replicated += usize::from(reachable < formed.config.replicas);
            status.unavailable +=
                usize::from(reachable < tercet_common::quorum::majority(formed.config.replicas));
        }
        status.owned = formed.shards.iter().map(|shard| shard.core.lock().owned()).sum();
        status
    }

    /// Tells links what heartbeats say of the workers' databases, and metrics what the cluster looks like.
    pub fn refresh(&self) {
        let Some(formed) = self.formed() else { return };
        let members = self.membership.members_now();
        for link in &formed.links {
            let seen = members.get(link.id()).and_then(|worker| worker.seen.as_ref());
            link.set_healthy(seen.is_none_or(|seen| seen.report.database_commits), self);
        }
        self.instruments.partitions(&self.partition_status(formed));
    }
}

/// What membership knows of a worker; placement and breaker are filled in by those who know them.
fn status_of(worker: WorkerView) -> WorkerStatus {
    let seen = worker.seen.as_ref();
    WorkerStatus {
        address: seen.map(|s| s.address.clone()),
        zone: seen.map(|s| s.zone.clone()).unwrap_or_default(),
        health: worker.health,
        breaker: Breaker::Closed,
        heartbeat_age_ms: seen.map(|s| s.age.as_millis() as u64),
        last_heartbeat_ms: seen.map(|s| s.last_beat.0),
        database_commits: seen.map(|s| s.report.database_commits),
        commit_micros: seen.map(|s| s.report.commit_micros),
        write_backlog: seen.map(|s| s.report.write_backlog),
        disk_free_bytes: seen.filter(|s| s.report.disk_total_bytes > 0).map(|s| s.report.disk_free_bytes),
        keys: seen.map(|s| s.report.keys),
        version: seen.map(|s| s.version.clone()),
        partitions: 0,
        primary_partitions: 0,
        id: worker.id,
    }
}

fn shard_of(id: PartitionId) -> usize {
    id.index() % CORES
}

/// Moves requests into the links' queues; a full queue is a refusal, which may make more requests.
fn send_all(core: &mut Core, formed: &Formed, shard: usize) {
    let mut touched = 0u64;
    while !core.out.sends.is_empty() {
        for (worker, call, request) in std::mem::take(&mut core.out.sends) {
            let id = (shard as u64) << CallId::BITS | call.raw();
            match formed.links[usize::from(worker)].push(id, request) {
                Ok(()) => touched |= 1 << (worker % 64),
                Err(_) => core.not_sent(call),
            }
        }
    }
    for (ix, link) in formed.links.iter().enumerate() {
        if touched & (1 << (ix % 64)) != 0 {
            link.wake();
        }
    }
}

/// The links' way back into the cores.
impl Events for Cluster {
    fn replies(&self, worker: WorkerIx, replies: Vec<(u64, ReplicaReply)>) {
        let Some(formed) = self.formed() else { return };
        let mut by_shard: [Vec<(CallId, ReplicaReply)>; CORES] = Default::default();
        for (id, reply) in replies {
            let (shard, call) = ((id >> CallId::BITS) as usize, id & ((1 << CallId::BITS) - 1));
            match by_shard.get_mut(shard) {
                Some(replies) => replies.push((CallId::from_raw(call), reply)),
                None => tracing::warn!(worker, id, "reply to a request that was never made"),
            }
        }
        for (shard, replies) in by_shard.into_iter().enumerate() {
            if !replies.is_empty() {
                self.with_core(formed, shard, |core| {
                    for (call, reply) in replies {
                        core.reply(call, reply);
                    }
                });
            }
        }
    }

    fn lost(&self, worker: WorkerIx) {
        self.each_core(|core| core.link_lost(worker));
    }

    fn available(&self, worker: WorkerIx, available: bool) {
        self.each_core(|core| core.peer(worker, available));
    }
}

impl Engine for ClusterEngine {
    fn submit(&self, op: Op) {
        let cluster = &*self.0;
        let Some(formed) = cluster.formed() else { return refuse(op, OpError::Loading) };
        if cluster.in_flight.fetch_add(1, Ordering::Relaxed) >= cluster.config.operations_max {
            cluster.in_flight.fetch_sub(1, Ordering::Relaxed);
            return refuse(op, OpError::Busy);
        }
        let key = match &op {
            Op::Read(op) => &op.key,
            Op::Write(op) => &op.key,
        };
        cluster.with_core(formed, shard_of(key.partition()), |core| core.submit(op));
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), OpError>> {
        let cluster = self.0.clone();
        Box::pin(async move { cluster.flush_all().await })
    }

    fn scan(&self, from: ScanPosition, filter: ScanFilter) -> BoxFuture<'static, Result<ScanPage, OpError>> {
        let cluster = self.0.clone();
        Box::pin(async move { super::scan::scan(&cluster, from, filter).await })
    }

    fn count(&self) -> BoxFuture<'static, Result<KeyCount, OpError>> {
        let cluster = self.0.clone();
        Box::pin(async move { super::scan::count(&cluster).await })
    }

    fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> BoxFuture<'static, Result<ScanPage, WorkerReadError>> {
        let (cluster, worker) = (self.0.clone(), worker.to_owned());
        Box::pin(async move { super::scan::worker_page(&cluster, worker, from, limit).await })
    }

    fn status(&self) -> ClusterStatus {
        self.0.status()
    }

    fn value_bytes_max(&self) -> usize {
        self.0.config.value_bytes_max
    }
}

/// The [`Engine`] over a [`Cluster`].
pub struct ClusterEngine(pub Arc<Cluster>);

fn refuse(op: Op, error: OpError) {
    match op {
        Op::Read(op) => (op.done)(Err(error)),
        Op::Write(op) => op.update.finish(Err(error)),
    }
}
