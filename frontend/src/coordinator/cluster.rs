//! The real engine: cores behind locks, links to the workers, timers.
//!
//! Partitions are dealt out to a few cores, each behind a lock of its own. Whoever has an event (a client's task with an
//! operation, a link's task with a batch of replies, the ticker) takes the lock, feeds the core, moves what is to be sent
//! into the links' queues, and delivers completions after it has let go.
//!
//! A new configuration reaches the cores through [`Cluster::apply`]; who decides on one is in `healing`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tercet_common::{
    Ballot, Incarnation, Key, Member, PARTITIONS, PartitionId, ReplicaReply, ReplicaRequest, RingConfig,
    UnixMillis, VectorClock, WorkerId,
};
use tokio::sync::{Notify, oneshot};

use super::api::{
    DrainError, Engine, KeyCount, Op, OpError, ScanFilter, ScanPage, ScanPosition, WorkerReadError,
};
use super::asks::Asks;
use super::core::{CallId, Completion, Core, Counts, Ended, Group, Tuning, WorkerIx};
use super::gather::{self, Survey};
use super::instruments::Instruments;
use super::repair::RepairQueue;
use super::roster::{Peer, RingState, Roster};
use super::status::ClusterStatus;
use crate::config::Config;
use crate::healing::shell::Healing;
use crate::membership::MembershipHandle;
use crate::replica::link::{Events, Link};

/// The most cores that there are: one for each thread of the runtime. More would gain nothing, and each begins rounds of
/// proofs of its own.
const CORES_MAX: usize = 4;
/// Timers are looked at this often while any is set.
const TICK: Duration = Duration::from_millis(5);

/// How long an operation waits where fewer than a quorum are in reach. Longer than a worker takes that is not gone but slow: on
/// a machine with too much to do a breaker opens for some tenths of a second, while another worker is dead.
const QUORUM_GRACE: Duration = Duration::from_secs(2);

/// A tick that is later than this says that the process was held up.
const HELD_UP: Duration = Duration::from_millis(50);

struct Shard {
    core: Mutex<Core>,
    /// Microseconds since the origin; `u64::MAX`: no timer.
    next_timer: AtomicU64,
    /// Reads wait for a proof.
    proof_due: AtomicBool,
}

/// What exists once the cluster has a ring.
pub(super) struct Formed {
    ring: RwLock<Arc<RingState>>,
    pub(super) roster: Roster,
    shards: Vec<Shard>,
    pub(super) repairs: RepairQueue,
}

impl Formed {
    pub(super) fn ring(&self) -> Arc<RingState> {
        self.ring.read().clone()
    }

    /// The link of a member of this configuration.
    pub(super) fn link(&self, ring: &RingState, member: usize) -> Option<Arc<Link>> {
        self.roster.get(*ring.workers.get(member)?).map(|peer| peer.link)
    }

    /// The core that serves a partition.
    fn shard_of(&self, id: PartitionId) -> usize {
        id.index() % self.shards.len()
    }

    /// The partitions that a core serves.
    fn partitions_of(&self, shard: usize) -> impl Iterator<Item = PartitionId> {
        PartitionId::all().filter(move |id| self.shard_of(*id) == shard)
    }

    /// Which members can be asked now.
    pub(super) fn up(&self, ring: &RingState) -> Vec<bool> {
        self.roster.with_links(|peers| {
            ring.workers.iter().map(|ix| peers[usize::from(*ix)].link.is_available()).collect()
        })
    }

    /// Of which partitions workers have not answered all writes, or missed some.
    pub(super) fn behind(&self) -> HashSet<(PartitionId, WorkerIx)> {
        let unanswered = |shard: &Shard| shard.core.lock().being_written().collect::<Vec<_>>();
        // In this order: what is given up goes from the one to the other.
        let mut behind: HashSet<_> = self.shards.iter().flat_map(unanswered).collect();
        behind.extend(self.repairs.missed());
        behind
    }

    /// Partitions owned now.
    pub(super) fn owned(&self) -> usize {
        self.shards.iter().map(|shard| shard.core.lock().owned()).sum()
    }
}

/// See the module.
pub struct Cluster {
    pub(crate) config: Arc<Config>,
    pub(super) membership: Arc<MembershipHandle>,
    formed: OnceLock<Formed>,
    pub(super) me: Incarnation,
    pub(super) origin: Instant,
    in_flight: AtomicUsize,
    expired_keys: AtomicU64,
    /// How many.
    cores: usize,
    timers_set: Notify,
    proofs_due: Notify,
    pub(super) instruments: Instruments,
    asks: Asks,
    pub(crate) healing: Healing,
}

impl Cluster {
    pub fn new(config: Arc<Config>, membership: Arc<MembershipHandle>, me: Incarnation) -> Arc<Self> {
        let threads =
            tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Arc::new(Self {
            config,
            membership,
            formed: OnceLock::new(),
            me,
            origin: Instant::now(),
            in_flight: AtomicUsize::new(0),
            expired_keys: AtomicU64::new(0),
            cores: threads.clamp(1, CORES_MAX),
            timers_set: Notify::new(),
            proofs_due: Notify::new(),
            instruments: Instruments::new(),
            asks: Asks::default(),
            healing: Healing::new(),
        })
    }

    pub(super) fn formed(&self) -> Option<&Formed> {
        self.formed.get()
    }

    /// A partition's replicas by number; `None` before the cluster has formed.
    pub(crate) fn group(&self, id: PartitionId) -> Option<Group> {
        self.formed().map(|formed| formed.ring().group(id))
    }

    /// The number of a member of the configuration that the cores work with.
    pub(crate) fn number_of(&self, config: &RingConfig, member: u16) -> Option<WorkerIx> {
        let ring = self.formed()?.ring();
        (ring.config.epoch == config.epoch).then(|| ring.workers.get(usize::from(member)).copied())?
    }

    /// The number of a worker over certain data, if it is or was a member.
    pub(crate) fn find_worker(&self, id: &WorkerId, uuid: &str) -> Option<WorkerIx> {
        self.formed()?.roster.find(id, uuid)
    }

    /// Partitions without a quorum in reach; all of them before the cluster has formed.
    pub(crate) fn unavailable_partitions(&self) -> usize {
        let survey = |formed: &Formed| Survey::of(formed, &formed.ring()).partitions.unavailable;
        self.formed().map_or(usize::from(PARTITIONS), survey)
    }

    /// Keys that workers missed and that wait to be repaired.
    pub(crate) fn missed_keys(&self) -> usize {
        self.formed().map_or(0, |formed| formed.repairs.len())
    }

    /// Whether a worker can be asked now.
    pub(crate) fn is_available(&self, worker: WorkerIx) -> bool {
        let peer = self.formed().and_then(|formed| formed.roster.get(worker));
        peer.is_some_and(|peer| peer.link.is_available())
    }

    /// Brings a decided configuration to the cores, the first one or a later one, and makes links to members that are
    /// new. Returns their peers: the links do not run yet. What is not newer changes nothing.
    pub(crate) fn apply(&self, config: &Arc<RingConfig>) -> Vec<Peer> {
        let mut new = Vec::new();
        let formed = match self.formed() {
            Some(formed) if formed.ring().config.epoch >= config.epoch => return new,
            Some(formed) => {
                let ring = self.number(&formed.roster, &formed.repairs, config, &mut new);
                for peer in &new {
                    self.each_core(|core| {
                        core.add_worker(peer.id.clone());
                    });
                }
                for shard in 0..formed.shards.len() {
                    self.with_core(formed, shard, |core| {
                        for id in formed.partitions_of(shard) {
                            core.reconfigure(id, ring.group(id));
                        }
                    });
                }
                formed.repairs.retain(|worker| ring.workers.contains(&worker));
                *formed.ring.write() = Arc::new(ring);
                formed
            }
            None => self.formed.get_or_init(|| {
                let (roster, repairs) = (Roster::default(), RepairQueue::default());
                let ring = self.number(&roster, &repairs, config, &mut new);
                let shards = (0..self.cores).map(|shard| self.shard(shard, &ring, &new)).collect();
                Formed { ring: RwLock::new(Arc::new(ring)), roster, shards, repairs }
            }),
        };
        debug_assert_eq!(formed.ring().config.epoch, config.epoch);
        new
    }

    /// Gives every member its number; those that had none are told in `new`.
    fn number(
        &self,
        roster: &Roster,
        repairs: &RepairQueue,
        config: &Arc<RingConfig>,
        new: &mut Vec<Peer>,
    ) -> RingState {
        let mut number = |member: &Member| {
            if let Some(known) = roster.find_member(&member.id, &member.uuid) {
                return known;
            }
            let peer = roster.add(|ix| {
                let seed = self.me.0.wrapping_add(u64::from(ix)) | 1;
                let link = Link::new(ix, member.id.clone(), self.config.cluster_secret.clone(), seed);
                Peer::new(ix, member.id.clone(), &member.uuid, link)
            });
            self.instruments.add_worker(&peer.id);
            repairs.add_worker(&peer.id);
            new.push(peer.clone());
            peer.ix
        };
        let workers = config.members.iter().map(&mut number).collect();
        RingState { config: config.clone(), workers }
    }

    fn shard(&self, shard: usize, ring: &RingState, peers: &[Peer]) -> Shard {
        let mine = PartitionId::all().filter(|id| id.index() % self.cores == shard);
        let mine = mine.map(|id| (id, ring.group(id)));
        let tuning = Tuning {
            hedge_after: self.config.hedge_after,
            replica_timeout: self.config.replica_timeout,
            request_timeout: self.config.request_timeout,
            quorum_grace: QUORUM_GRACE,
            value_bytes_max: self.config.value_bytes_max,
            memory_bytes: self.config.recall_bytes / self.cores,
        };
        let names = peers.iter().map(|peer| peer.id.clone()).collect();
        let core = Core::new(self.me, tuning, names, mine);
        Shard {
            core: Mutex::new(core),
            next_timer: AtomicU64::new(u64::MAX),
            proof_due: AtomicBool::new(false),
        }
    }

    /// Does something with the core that serves a partition; `None` before the cluster has formed.
    pub(crate) fn with_partition<T>(&self, id: PartitionId, event: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let formed = self.formed()?;
        let mut result = None;
        self.with_core(formed, formed.shard_of(id), |core| result = Some(event(core)));
        result
    }

    /// Does something for each of these partitions, core by core.
    pub(crate) fn with_partitions(
        &self,
        partitions: &[PartitionId],
        mut event: impl FnMut(&mut Core, PartitionId),
    ) {
        let Some(formed) = self.formed() else { return };
        for shard in 0..formed.shards.len() {
            let mut mine = partitions.iter().filter(|id| formed.shard_of(**id) == shard).peekable();
            if mine.peek().is_some() {
                self.with_core(formed, shard, |core| mine.for_each(|id| event(core, *id)));
            }
        }
    }

    /// Sends one request that no core makes, and awaits its reply, for at most `patience`. `None`: it was not sent, or no
    /// reply came; it may have had its effect.
    pub(crate) async fn ask(
        &self,
        worker: WorkerIx,
        request: ReplicaRequest,
        patience: Duration,
    ) -> Option<ReplicaReply> {
        let link = self.formed()?.roster.get(worker)?.link;
        if !link.is_available() {
            return None;
        }
        let (id, reply) = self.asks.register(worker);
        let forgotten = GiveUp { asks: &self.asks, id };
        link.push(id, request).ok()?;
        link.wake();
        let reply = tokio::time::timeout(patience, reply).await;
        drop(forgotten);
        reply.ok()?.ok()
    }

    /// Puts the highest version of a key again, under a fresh ballot.
    pub(crate) async fn rewrite(&self, key: Key) -> Result<(), OpError> {
        let (tx, rx) = oneshot::channel();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        // The asker may be gone.
        let done = Box::new(move |result| drop(tx.send(result)));
        if self.with_partition(key.partition(), |core| core.rewrite(key, done)).is_none() {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(OpError::Loading);
        }
        rx.await.unwrap_or(Err(OpError::Uncertain))
    }

    /// Operations of clients under way.
    pub(crate) fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn repairs(&self) -> Option<&RepairQueue> {
        self.formed().map(|formed| &formed.repairs)
    }

    /// Workers that missed something and can be asked now.
    pub(super) fn workers_to_repair(&self) -> Vec<usize> {
        let Some(formed) = self.formed() else { return Vec::new() };
        let wants = |peer: &Peer| formed.repairs.depth(usize::from(peer.ix)) > 0 && peer.link.is_available();
        let peers = formed.roster.all().into_iter().filter(wants);
        peers.map(|peer| usize::from(peer.ix)).collect()
    }

    pub(super) fn repair_flush(
        &self,
        worker: WorkerIx,
        partition: PartitionId,
        ballot: Ballot,
        clock: VectorClock,
    ) {
        if let Some(formed) = self.formed() {
            self.with_core(formed, formed.shard_of(partition), |core| {
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

    /// Begins the cores' rounds of proofs, for as long as it is polled.
    pub async fn run_proofs(&self) {
        loop {
            self.proofs_due.notified().await;
            // Whoever read first woke this task. Everybody else who is ready has their turn before, and their reads go along.
            tokio::task::yield_now().await;
            let Some(formed) = self.formed() else { continue };
            for (nth, shard) in formed.shards.iter().enumerate() {
                if shard.proof_due.swap(false, Ordering::Relaxed) {
                    self.with_core(formed, nth, Core::prove);
                }
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
            if std::mem::take(&mut core.out.proof_due)
                && !formed.shards[shard].proof_due.swap(true, Ordering::Relaxed)
            {
                self.proofs_due.notify_one();
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
        if !missed.is_empty() {
            self.healing.missed(missed.iter().map(|(worker, _)| *worker));
            formed.repairs.add(missed);
        }
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
            if let Some(peer) = formed.roster.get(call.worker) {
                peer.link.timed_out(self);
            }
        }
    }

    /// One flush per partition, all at once. An error means that some partitions may still hold their keys.
    async fn flush_all(&self) -> Result<(), OpError> {
        let Some(formed) = self.formed() else { return Err(OpError::Loading) };
        let mut answers = Vec::with_capacity(usize::from(PARTITIONS));
        for shard in 0..formed.shards.len() {
            self.with_core(formed, shard, |core| {
                for id in formed.partitions_of(shard) {
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
        gather::status(self)
    }

    pub(super) fn expired_keys(&self) -> u64 {
        self.expired_keys.load(Ordering::Relaxed)
    }

    /// Tells links what heartbeats say of the workers' databases, and metrics what the cluster looks like.
    pub fn refresh(&self) {
        let Some(formed) = self.formed() else { return };
        let members = self.membership.members_now();
        for peer in formed.roster.all() {
            let seen = members.get(&peer.id).and_then(|worker| worker.seen.as_ref());
            peer.link.set_healthy(seen.is_none_or(|seen| seen.report.database_commits), self);
        }
        self.instruments.partitions(&Survey::of(formed, &formed.ring()).partitions);
    }
}

/// Forgets an ask that nobody awaits any more, however that came about.
struct GiveUp<'a> {
    asks: &'a Asks,
    id: u64,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.asks.give_up(self.id);
    }
}

/// Moves requests into the links' queues; a full queue is a refusal, which may make more requests.
fn send_all(core: &mut Core, formed: &Formed, shard: usize) {
    if core.out.sends.is_empty() {
        return;
    }
    formed.roster.with_links(|peers| {
        let mut touched = 0u64;
        while !core.out.sends.is_empty() {
            for (worker, call, request) in std::mem::take(&mut core.out.sends) {
                let id = (shard as u64) << CallId::BITS | call.raw();
                match peers[usize::from(worker)].link.push(id, request) {
                    Ok(()) => touched |= 1 << (worker % 64),
                    Err(_) => core.not_sent(call),
                }
            }
        }
        for peer in peers.iter().filter(|peer| touched & (1 << (peer.ix % 64)) != 0) {
            peer.link.wake();
        }
    });
}

/// The links' way back into the cores.
impl Events for Cluster {
    fn replies(&self, worker: WorkerIx, replies: Vec<(u64, ReplicaReply)>) {
        let Some(formed) = self.formed() else { return };
        let mut by_shard: [Vec<(CallId, ReplicaReply)>; CORES_MAX] = Default::default();
        for (id, reply) in replies {
            if Asks::owns(id) {
                self.asks.reply(id, reply);
                continue;
            }
            let (shard, call) = ((id >> CallId::BITS) as usize, id & ((1 << CallId::BITS) - 1));
            match by_shard.get_mut(shard).filter(|_| shard < formed.shards.len()) {
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
        self.asks.lost(worker);
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
        cluster.with_core(formed, formed.shard_of(key.partition()), |core| core.submit(op));
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

    fn drain(&self, worker: &str, leaving: bool) -> BoxFuture<'static, Result<(), DrainError>> {
        let (cluster, worker) = (self.0.clone(), worker.to_owned());
        Box::pin(async move { cluster.healing.drain(worker, leaving).await })
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
