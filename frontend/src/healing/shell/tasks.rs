//! The work that the schedule hands out, each piece a task of its own: copies, comparisons, delta syncs, collections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet_common::sync::Memory;
use tercet_common::{Epoch, PartitionId, SyncRequest};
use tokio::task::JoinSet;

use super::super::collect::{self, Collected};
use super::super::compare::{self, Compared};
use super::super::copy::{self, Copied, CopyJob};
use super::super::delta::{self, Delta, DeltaJob, Peer};
use super::super::instruments::Instruments;
use super::super::positions::Positions;
use super::super::schedule::{Ended, Schedule, Task, Tuning, Work};
use super::super::{HealError, Peers};
use crate::coordinator::cluster::Cluster;
use crate::coordinator::core::WorkerIx;
use crate::coordinator::status::HealingStatus;
use crate::membership::MembersView;

/// Where clients come first, but a missing replica must not wait for long.
const TUNING: Tuning = Tuning {
    at_once: 16,
    at_once_per_worker: 8,
    // All partitions within an hour.
    scrub_every: Duration::from_millis(3_500),
    retry_after: Duration::from_millis(250),
    retry_after_max: Duration::from_secs(15),
};

/// A copy: of which partition, in which joint epoch, to whom.
pub(super) type CopyName = (PartitionId, Epoch, WorkerIx);

/// Runs tasks and keeps their books. Times are those since it was made.
pub(super) struct Tasks {
    cluster: Arc<Cluster>,
    instruments: Arc<Instruments>,
    schedule: Schedule,
    positions: Positions,
    running: JoinSet<Finished>,
    /// By the number of the task, for one that panics.
    names: HashMap<tokio::task::Id, Task>,
    began: Instant,
    /// Copies that this ring change calls for, as far as they were handed to the schedule; and those that are done.
    called_for: BTreeSet<CopyName>,
    copied: BTreeSet<CopyName>,
    /// Whether each worker could be asked when it was last looked at.
    usable: BTreeMap<WorkerIx, bool>,
}

/// A task that has ended, and what it found.
pub(super) struct Finished {
    task: Task,
    outcome: Result<(), HealError>,
    found: Found,
}

enum Found {
    /// In which epoch it was copied.
    Copy(Epoch),
    Compare(Compared),
    Collect,
    Delta(Delta),
    /// The ring has changed before it could begin.
    Nothing,
}

impl Tasks {
    /// `call_life`: the longest that a put may be under way.
    pub(super) fn new(cluster: Arc<Cluster>, call_life: Duration) -> Self {
        Self {
            cluster,
            instruments: Arc::default(),
            schedule: Schedule::new(TUNING),
            positions: Positions::new(call_life),
            running: JoinSet::new(),
            names: HashMap::new(),
            began: Instant::now(),
            called_for: BTreeSet::new(),
            copied: BTreeSet::new(),
            usable: BTreeMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The cores have taken a configuration: newcomers are to copy, and what was planned for other replicas is void.
    pub(super) fn placed(&mut self) {
        let mut workers = BTreeSet::new();
        let mut epochs = BTreeMap::new();
        for partition in PartitionId::all() {
            let Some(group) = self.cluster.group(partition) else { continue };
            let everyone = group.everyone().to_vec();
            workers.extend(everyone.iter().copied());
            let newcomers: Vec<WorkerIx> =
                everyone.iter().copied().filter(|worker| !group.replicas.contains(worker)).collect();
            self.schedule.place(partition, everyone, &newcomers);
            epochs.insert(partition, group.epoch);
            for newcomer in newcomers {
                if self.called_for.insert((partition, group.epoch, newcomer)) {
                    self.schedule.copy(partition, newcomer);
                }
            }
        }
        let is_current = |(partition, epoch, _): &CopyName| epochs.get(partition) == Some(epoch);
        self.called_for.retain(is_current);
        self.copied.retain(is_current);
        let now = self.now();
        for worker in &workers {
            self.positions.add(*worker, now);
        }
        for gone in self.usable.keys().filter(|worker| !workers.contains(worker)) {
            self.positions.remove(*gone);
        }
        self.usable.retain(|worker, _| workers.contains(worker));
        for worker in workers {
            self.usable.entry(worker).or_insert(false);
        }
    }

    pub(super) fn has_copied(&self, name: &CopyName) -> bool {
        self.copied.contains(name)
    }

    /// Looks at what has happened to workers, moves positions, and says what waits.
    pub(super) fn look(&mut self, members: &MembersView) {
        let now = self.now();
        for (worker, at) in self.cluster.healing.take_missed() {
            self.positions.missed(worker, at.saturating_duration_since(self.began));
        }
        for (worker, peer) in self.peers(members) {
            self.positions.observe(worker, &peer.uuid, peer.journal_seq, now);
        }
        let known: Vec<WorkerIx> = self.usable.keys().copied().collect();
        for worker in known {
            let usable = self.cluster.is_available(worker);
            let was = self.usable.insert(worker, usable).unwrap_or(false);
            if usable && !was {
                // A fault has ended, or this frontend is new: compared before anything that nothing happened to.
                self.schedule.touched_worker(worker);
            }
            if usable && self.positions.is_due(worker, now) {
                self.schedule.delta(worker);
            }
        }
        self.remember();
        let backlog = self.schedule.backlog(now);
        self.instruments.backlog(&backlog);
        self.cluster.healing.progress.heals(HealingStatus {
            missed_keys: self.cluster.missed_keys(),
            suspect_partitions: backlog.touched,
            oldest_compare_seconds: (backlog.never_compared == 0)
                .then(|| backlog.oldest_compare.unwrap_or_default().as_secs()),
        });
    }

    /// Tells targets the positions that were confirmed. One that is lost on the way is made good by a later one.
    fn remember(&mut self) {
        for (target, positions) in self.positions.take_confirmed() {
            let cluster = self.cluster.clone();
            let memory = Memory { positions, witnesses: Vec::new() };
            tokio::spawn(async move {
                Peers::ask(&*cluster, target, SyncRequest::Remember { memory }).await.is_ok()
            });
        }
    }

    /// Members whose heartbeats tell of a journal.
    fn peers(&self, members: &MembersView) -> Vec<(WorkerIx, Peer)> {
        let seen = members.workers.iter().filter_map(|worker| Some((worker, worker.seen.as_ref()?)));
        seen.filter_map(|(worker, seen)| {
            let uuid = seen.identity.uuid.clone();
            let ix = self.cluster.find_worker(&worker.id, &uuid)?;
            Some((ix, Peer { worker: ix, uuid, journal_seq: seen.journal_seq }))
        })
        .collect()
    }

    /// Begins whatever may begin now.
    pub(super) fn start(&mut self, members: &MembersView) {
        let now = self.now();
        while let Some(task) = self.schedule.next(now, |worker| self.cluster.is_available(worker)) {
            let (cluster, instruments) = (self.cluster.clone(), self.instruments.clone());
            match task.work {
                Work::Copy { partition, newcomer } => {
                    let run = run_copy(cluster, instruments, task.clone(), partition, newcomer);
                    self.run(task, run);
                }
                Work::Compare { partition } => {
                    let run = run_compare(cluster, instruments, task.clone(), partition);
                    self.run(task, run);
                }
                Work::Collect { partition } => {
                    let run = run_collect(cluster, instruments, task.clone(), partition);
                    self.run(task, run);
                }
                Work::Delta { target } => {
                    let groups = PartitionId::all().filter_map(|id| self.cluster.group(id));
                    let shared = groups.filter(|group| group.contains(target));
                    let sharers: BTreeSet<WorkerIx> = shared.flat_map(|group| group.everyone()).collect();
                    let shares = |worker: &WorkerIx| *worker != target && sharers.contains(worker);
                    let peers = self.peers(members).into_iter().filter(|(worker, _)| shares(worker));
                    let job = DeltaJob { target, peers: peers.map(|(_, peer)| peer).collect() };
                    let run = run_delta(cluster, instruments, task.clone(), job);
                    self.run(task, run);
                }
            }
        }
    }

    fn run(&mut self, task: Task, run: impl Future<Output = Finished> + Send + 'static) {
        let name = self.running.spawn(run).id();
        self.names.insert(name, task);
    }

    /// The next task that has ended; never, while none runs. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Option<Finished> {
        let Some(ended) = self.running.join_next_with_id().await else { return std::future::pending().await };
        match ended {
            Ok((name, finished)) => {
                self.names.remove(&name);
                Some(finished)
            }
            Err(error) => {
                tracing::error!(%error, "a healing task has panicked; it will be tried again");
                let task = self.names.remove(&error.id())?;
                let outcome = Err(HealError::Panicked);
                Some(Finished { task, outcome, found: Found::Nothing })
            }
        }
    }

    pub(super) fn ended(&mut self, Finished { task, outcome, found }: Finished) {
        let (now, kind, began) = (self.now(), task.kind, task.began);
        if let Err(error) = &outcome {
            tracing::debug!(kind = kind.name(), work = ?task.work, %error, "a healing task failed; will try again");
        }
        let how = Ended::of(kind, &outcome);
        match (found, task.work) {
            (Found::Copy(epoch), Work::Copy { partition, newcomer })
                if how == Ended::Done && self.copied.insert((partition, epoch, newcomer)) =>
            {
                self.cluster.healing.progress.copied();
            }
            (Found::Compare(compared), Work::Compare { partition }) => {
                if compared.tombstones > 0 {
                    self.schedule.collect(partition);
                }
                if !compared.unsettled.is_empty() {
                    self.schedule.touched(partition);
                }
            }
            (Found::Delta(delta), Work::Delta { target }) => {
                delta.later.iter().for_each(|partition| self.schedule.touched(*partition));
                if how == Ended::Done {
                    self.positions.synced(target, began);
                    tracing::debug!(
                        target,
                        keys = delta.keys,
                        rows = delta.compared.replicated,
                        "delta sync done"
                    );
                }
            }
            _ => {}
        }
        self.instruments.ended(kind, how);
        self.schedule.ended(task, how, now);
    }
}

async fn run_copy(
    cluster: Arc<Cluster>,
    instruments: Arc<Instruments>,
    task: Task,
    partition: PartitionId,
    newcomer: WorkerIx,
) -> Finished {
    let moved = |task| Finished { task, outcome: Err(HealError::Moved), found: Found::Nothing };
    let Some(group) = cluster.group(partition).filter(|group| group.is_joint()) else { return moved(task) };
    if group.replicas.contains(&newcomer) || !group.contains(newcomer) {
        return moved(task);
    }
    let (up, down): (Vec<WorkerIx>, Vec<WorkerIx>) =
        group.replicas.iter().partition(|worker| cluster.is_available(**worker));
    let (old, name) = ([up, down].concat(), rand::random());
    let job = CopyJob { partition, epoch: group.epoch, old, newcomer, name };
    let (mut done, mut told) = (Copied::default(), Copied::default());
    let mut progress = |now: &Copied| {
        instruments.copied(&told, now);
        cluster.healing.progress.sent(&told, now);
        told = *now;
    };
    let outcome = copy::copy(&*cluster, &job, &mut done, &mut progress).await;
    progress(&done);
    Finished { task, outcome, found: Found::Copy(job.epoch) }
}

async fn run_compare(
    cluster: Arc<Cluster>,
    instruments: Arc<Instruments>,
    task: Task,
    partition: PartitionId,
) -> Finished {
    let mut done = Compared::default();
    let outcome = match cluster.stable(partition) {
        Some(group) => compare::compare(&*cluster, &group, &mut done).await,
        None => Err(HealError::Moved),
    };
    match &outcome {
        Ok(()) => instruments.compared(&done),
        Err(_) => instruments.repaired(&done),
    }
    Finished { task, outcome, found: Found::Compare(done) }
}

async fn run_collect(
    cluster: Arc<Cluster>,
    instruments: Arc<Instruments>,
    task: Task,
    partition: PartitionId,
) -> Finished {
    let mut done = Collected::default();
    let outcome = match cluster.stable(partition) {
        Some(group) => collect::collect(&*cluster, &group, &mut done).await,
        None => Err(HealError::Moved),
    };
    instruments.collected(&done);
    Finished { task, outcome, found: Found::Collect }
}

async fn run_delta(
    cluster: Arc<Cluster>,
    instruments: Arc<Instruments>,
    task: Task,
    job: DeltaJob,
) -> Finished {
    let mut done = Delta::default();
    let outcome = delta::delta(&*cluster, &job, &mut done).await;
    instruments.delta(&done);
    Finished { task, outcome, found: Found::Delta(done) }
}
