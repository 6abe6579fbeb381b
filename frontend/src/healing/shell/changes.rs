//! Carries ring changes out (design 6).
//!
//! ```text
//! plan ─▶ hold and drain the partitions ─▶ decide the configuration ─▶ cores take it ─▶ newcomers copy ─▶ plan …
//! ```
//!
//! `tercet_common::ring_change` says what comes next, the register decides it, and [`crate::healing::copy`] copies. All
//! that is kept here is which copies are done: after a restart of the frontend they are made again, and send little.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet_common::detector::Verdict;
use tercet_common::ring_change::{self, Change, Decision, Sighting, Situation, Wait, What};
use tercet_common::{Epoch, PartitionId, RingConfig, WorkerId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Order;
use crate::coordinator::DrainError;
use crate::coordinator::cluster::Cluster;
use crate::coordinator::core::WorkerIx;
use crate::coordinator::roster::Peer;
use crate::coordinator::status::Health;
use crate::healing::HealError;
use crate::healing::copy::{self, Copied, CopyJob};
use crate::membership::{MembersView, Membership, MembershipHandle, Standing};

/// How often the plan is looked at.
const TICK: Duration = Duration::from_millis(250);
/// While partitions are being copied, configurations that complete some of them are at least this far apart.
const COMPLETE_EVERY: Duration = Duration::from_millis(1_000);
/// Copies under way at once.
const COPIES_AT_ONCE: usize = 8;
/// A copy that failed is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long puts that are under way may take to end before their partition changes all the same. (They are not lost
/// then: the new epoch finds out what became of them.)
const DRAIN_PATIENCE: Duration = Duration::from_millis(300);
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// How long a configuration may take to be decided.
const DECIDE_PATIENCE: Duration = Duration::from_secs(5);

/// A copy: of which partition, in which epoch, to whose data.
type CopyName = (PartitionId, Epoch, String);

struct Copying {
    name: CopyName,
    result: Result<(), HealError>,
}

/// See the module. Runs until `until`.
pub(crate) async fn run(
    cluster: &Arc<Cluster>,
    membership: &Arc<MembershipHandle>,
    tasks: &TaskTracker,
    until: &CancellationToken,
) {
    let mut ring = membership.ring();
    let Ok(first) = ring.wait_for(Option::is_some).await.map(|config| config.clone()) else { return };
    let Some(first) = first else { return };
    let Some(mut orders) = cluster.healing.queue.lock().take() else { return };
    let mut driver = Driver {
        cluster: cluster.clone(),
        membership: membership.clone(),
        register: membership.membership(),
        tasks: tasks.clone(),
        until: until.clone(),
        config: first.clone(),
        uptimes: BTreeMap::new(),
        began: Instant::now(),
        copies: JoinSet::new(),
        under_way: BTreeSet::new(),
        copied: BTreeSet::new(),
        retry: BTreeMap::new(),
        last_change: None,
    };
    driver.adopt(first);
    driver.take_over().await;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = ring.changed() => {
                if changed.is_err() {
                    return;
                }
                let newest = ring.borrow_and_update().clone();
                newest.into_iter().for_each(|config| driver.adopt(config));
            }
            Some(order) = orders.recv() => driver.obey(order).await,
            Some(Ok(done)) = driver.copies.join_next() => driver.copy_ended(done),
            _ = tick.tick() => driver.step().await,
        }
        driver.start_copies();
    }
}

struct Driver {
    cluster: Arc<Cluster>,
    membership: Arc<MembershipHandle>,
    register: Arc<dyn Membership>,
    tasks: TaskTracker,
    until: CancellationToken,
    config: Arc<RingConfig>,
    /// Since when each worker has been alive over the same data.
    uptimes: BTreeMap<WorkerId, (String, Instant)>,
    began: Instant,
    copies: JoinSet<Copying>,
    under_way: BTreeSet<CopyName>,
    copied: BTreeSet<CopyName>,
    /// Copies that failed, and when to try again.
    retry: BTreeMap<CopyName, Instant>,
    last_change: Option<Instant>,
}

impl Driver {
    /// A configuration is decided: cores and links take it.
    fn adopt(&mut self, config: Arc<RingConfig>) {
        for peer in self.cluster.apply(&config) {
            let (address, members) = (watch::channel(None), self.membership.subscribe());
            let follower = follow(peer.clone(), members, address.0);
            self.tasks.spawn(self.until.clone().run_until_cancelled_owned(follower));
            self.tasks.spawn(peer.link.run(address.1, self.cluster.clone(), self.until.clone()));
        }
        if config.epoch < self.config.epoch {
            return;
        }
        self.config = config;
        let current = |name: &CopyName| self.config.assignment(name.0).epoch == name.1;
        self.copied.retain(&current);
        self.retry.retain(|name, _| current(name));
        let progress = &self.cluster.healing.progress;
        if self.config.is_stable() {
            if let Some((what, took, copies, sent)) = progress.ended() {
                let Copied { rows, bytes, kept, evicted, .. } = sent;
                tracing::info!(what, copies, rows, bytes, kept, evicted, ?took, "ring change complete");
            }
        } else if !progress.is_changing() {
            let copies = self.config.partitions.iter().map(|row| row.newcomers().len()).sum();
            progress.began("a ring change that was under way".to_owned(), copies);
        }
    }

    /// Takes over every partition once a quorum of each is connected, so that first writes need not wait.
    async fn take_over(&self) {
        while self.cluster.status().partitions.unavailable > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.cluster.take_over_all();
    }

    /// One look at the plan, and what follows from it.
    async fn step(&mut self) {
        match self.plan() {
            Decision::Rest => self.waits(None),
            Decision::Wait(Wait::Copying { .. }) => self.waits(None),
            Decision::Wait(why) => self.waits(Some(why.to_string())),
            Decision::Change(change) => {
                self.waits(None);
                if self.is_due(&change) {
                    // Whatever stands in the way is there at the next look, too.
                    let _ = self.carry_out(*change).await;
                }
            }
        }
    }

    fn plan(&mut self) -> Decision {
        let workers = self.sightings();
        let copied = |partition: PartitionId, member: u16| {
            let uuid = &self.config.members[usize::from(member)].uuid;
            let epoch = self.config.assignment(partition).epoch;
            self.copied.contains(&(partition, epoch, uuid.clone()))
        };
        let situation = Situation {
            config: &self.config,
            workers: &workers,
            listening_for: self.began.elapsed(),
            copied: &copied,
        };
        ring_change::plan(&situation)
    }

    /// Partitions that have been copied one by one need not be completed one by one.
    fn is_due(&self, change: &Change) -> bool {
        let all = change.next.is_stable() || !matches!(change.what, What::Complete);
        all || self.last_change.is_none_or(|at| at.elapsed() >= COMPLETE_EVERY)
    }

    fn waits(&self, why: Option<String>) {
        if self.cluster.healing.progress.waits(why.clone())
            && let Some(why) = why
        {
            tracing::warn!(why, "no ring change begins");
        }
    }

    /// All who have registered, as the plan sees them.
    fn sightings(&mut self) -> Vec<Sighting> {
        let view = self.membership.members_now();
        let mut seen = Vec::new();
        for worker in &view.workers {
            let Some(said) = &worker.seen else { continue };
            let uuid = said.identity.uuid.clone();
            let verdict = match worker.health {
                // Its data has lost something: it is to come back as somebody else.
                _ if worker.standing == Standing::Lost => Verdict::Suspect,
                Health::Alive => Verdict::Alive,
                Health::Suspect => Verdict::Suspect,
                Health::Dead => Verdict::Dead,
                Health::Unknown => Verdict::Unknown,
            };
            let since =
                self.uptimes.entry(worker.id.clone()).or_insert_with(|| (uuid.clone(), Instant::now()));
            if verdict != Verdict::Alive || since.0 != uuid {
                *since = (uuid.clone(), Instant::now());
            }
            seen.push(Sighting {
                id: worker.id.clone(),
                uuid,
                verdict,
                up_for: since.1.elapsed(),
                returns: worker.returns,
                virtual_nodes: said.virtual_nodes,
                zone: said.zone.clone(),
            });
        }
        self.uptimes.retain(|id, _| seen.iter().any(|s| s.id == *id));
        seen
    }

    /// Decides a configuration and brings it to the cores. The partitions that change are held meanwhile.
    async fn carry_out(&mut self, change: Change) -> Result<(), String> {
        let Change { next, what, partitions } = change;
        let changed: Vec<PartitionId> = PartitionId::all()
            .filter(|id| next.assignment(*id).epoch != self.config.assignment(*id).epoch)
            .collect();
        let copies: usize = next.partitions.iter().map(|row| row.newcomers().len()).sum();
        let starts = self.config.is_stable() && !next.is_stable();
        if starts {
            let text = described(&what);
            tracing::info!(
                what = text,
                partitions,
                copies,
                about_keys = self.about_keys(copies),
                number = next.epoch.0,
                "starting proactive re-replication"
            );
            self.cluster.healing.progress.began(text, copies);
        }
        self.drain(&changed).await;
        let expected = self.config.epoch;
        let decided = self.register.compare_and_swap(expected, next.clone());
        let outcome = match tokio::time::timeout(DECIDE_PATIENCE, decided).await {
            Ok(Ok(())) => {
                self.last_change = Some(Instant::now());
                tracing::debug!(
                    what = described(&what),
                    number = next.epoch.0,
                    partitions,
                    "configuration decided"
                );
                self.adopt(Arc::new(next));
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("too few workers have answered".to_owned()),
        };
        if let Err(error) = &outcome {
            // It may be decided yet; then the watch tells of it.
            tracing::warn!(what = described(&what), error, "a configuration was not decided");
            self.cluster.with_partitions(&changed, |core, id| core.release(id));
            if starts {
                let _ = self.cluster.healing.progress.ended();
            }
        }
        outcome
    }

    /// An estimate of the rows to be copied: what the newcomers are to hold, of what all hold now.
    fn about_keys(&self, copies: usize) -> u64 {
        let view = self.membership.members_now();
        let keys: u64 =
            view.workers.iter().filter_map(|w| w.seen.as_ref()).map(|seen| seen.report.keys).sum();
        let held: usize = self.config.partitions.iter().map(|row| row.replicas.len()).sum();
        keys * copies as u64 / held.max(1) as u64
    }

    /// Holds new puts of these partitions and waits a moment for those under way.
    async fn drain(&self, partitions: &[PartitionId]) {
        self.cluster.with_partitions(partitions, |core, id| core.hold(id));
        let deadline = Instant::now() + DRAIN_PATIENCE;
        loop {
            let mut left = 0;
            self.cluster.with_partitions(partitions, |core, id| left += usize::from(!core.is_drained(id)));
            if left == 0 || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    async fn obey(&mut self, order: Order) {
        let Order { worker, leaving, decided } = order;
        let outcome = match ring_change::mark(&self.config, &worker, leaving) {
            None if self.config.index_of(&worker).is_none() => Err(DrainError::Unknown(worker.to_string())),
            // So marked already.
            None => Ok(()),
            Some(change) => self.carry_out(change).await.map_err(DrainError::Undecided),
        };
        // Who ordered it may be gone.
        let _ = decided.send(outcome);
    }

    fn start_copies(&mut self) {
        if self.config.is_stable() {
            return;
        }
        for partition in self.config.clone().joint_partitions() {
            for newcomer in self.config.assignment(partition).newcomers() {
                if self.copies.len() >= COPIES_AT_ONCE {
                    return;
                }
                self.start_copy(partition, newcomer);
            }
        }
    }

    fn start_copy(&mut self, partition: PartitionId, newcomer: u16) {
        let row = self.config.assignment(partition);
        let name = (partition, row.epoch, self.config.members[usize::from(newcomer)].uuid.clone());
        let waits = self.retry.get(&name).is_some_and(|at| Instant::now() < *at);
        if self.copied.contains(&name) || self.under_way.contains(&name) || waits {
            return;
        }
        let Some(group) = self.cluster.group(partition).filter(|group| group.epoch == row.epoch) else {
            return;
        };
        let Some(to) = self.cluster.number_of(&self.config, newcomer) else { return };
        let (up, down): (Vec<WorkerIx>, Vec<WorkerIx>) =
            group.replicas.iter().partition(|worker| self.cluster.is_available(**worker));
        if !self.cluster.is_available(to) {
            return;
        }
        let job = CopyJob { partition, epoch: row.epoch, old: [up, down].concat(), newcomer: to };
        let cluster = self.cluster.clone();
        self.under_way.insert(name.clone());
        self.copies.spawn(async move {
            let (mut done, mut told) = (Copied::default(), (0, 0));
            let mut progress = |now: &Copied| {
                cluster.healing.progress.sent(now.rows - told.0, now.bytes - told.1);
                told = (now.rows, now.bytes);
            };
            let result = copy::copy(&*cluster, &job, &mut done, &mut progress).await;
            Copying { name, result }
        });
    }

    fn copy_ended(&mut self, Copying { name, result }: Copying) {
        self.under_way.remove(&name);
        if self.config.assignment(name.0).epoch != name.1 {
            return;
        }
        match result {
            Ok(()) => {
                self.cluster.healing.progress.copied();
                self.retry.remove(&name);
                self.copied.insert(name);
            }
            Err(error) => {
                tracing::debug!(partition = %name.0, %error, "a copy failed; will try again");
                self.retry.insert(name, Instant::now() + RETRY_AFTER);
            }
        }
    }
}

fn described(what: &What) -> String {
    match what {
        What::Out(worker) => format!("{worker} goes out"),
        What::Drain(worker) => format!("{worker} hands over"),
        What::In(worker) => format!("{worker} comes in"),
        What::Replace(worker) => format!("{worker} is replaced"),
        What::Complete => "newcomers take over".to_owned(),
        What::Abort => "newcomers are given up".to_owned(),
        What::Tidy => "partitions go where they belong".to_owned(),
        What::Mark(worker) => format!("{worker} is told to leave or stay"),
    }
}

/// Tells a link where its worker is, for as long as the worker may be asked.
async fn follow(
    peer: Peer,
    mut members: watch::Receiver<Arc<MembersView>>,
    address: watch::Sender<Option<String>>,
) {
    loop {
        let now = {
            let view = members.borrow_and_update();
            let worker = view.get(&peer.id).filter(|worker| worker.standing == Standing::Member);
            let seen = worker.and_then(|worker| worker.seen.as_ref());
            let is_it = |uuid: &str| peer.uuid.is_empty() || peer.uuid == uuid;
            seen.filter(|seen| is_it(&seen.identity.uuid)).map(|seen| seen.address.clone())
        };
        address.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        if members.changed().await.is_err() {
            return;
        }
    }
}
