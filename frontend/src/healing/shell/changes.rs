//! Carries ring changes out (design 6).
//!
//! ```text
//! plan ─▶ hold and drain the partitions ─▶ decide the configuration ─▶ cores take it ─▶ newcomers copy ─▶ plan …
//! ```
//!
//! `tercet_common::ring_change` says what comes next, the register decides it, and newcomers copy (`tasks`). Nothing of it
//! is kept: after a restart of the frontend copies are made again, and send little.

use std::mem::Discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet_common::ring_change::{self, Change, Decision, Planner, Sighting, Situation, Wait, What};
use tercet_common::{PartitionId, RingConfig};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Order;
use super::tasks::Tasks;
use crate::coordinator::DrainError;
use crate::coordinator::cluster::Cluster;
use crate::coordinator::roster::Peer;
use crate::healing::copy::Copied;
use crate::membership::sightings::Sightings;
use crate::membership::{MembersView, Membership, MembershipHandle, Seen, Standing, WorkerView};
use crate::replica::link::Target;

/// How often the plan is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often a frontend that starts looks whether all partitions can be taken over.
const STARTING_TICK: Duration = Duration::from_millis(20);
/// While partitions are being copied, a configuration completes at least this share of those that are left ...
const COMPLETE_SHARE: usize = 4;
/// ... or whatever is copied after this long.
const COMPLETE_EVERY: Duration = Duration::from_secs(5);
/// How long puts that are under way may take to end before their partition changes all the same. (They are not lost
/// then: the new epoch finds out what became of them.)
const DRAIN_PATIENCE: Duration = Duration::from_millis(300);
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// How long a configuration may take to be decided.
const DECIDE_PATIENCE: Duration = Duration::from_secs(5);

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
        planner: Planner::default(),
        sightings: Sightings::default(),
        began: Instant::now(),
        healer: Tasks::new(cluster.clone(), call_life(cluster.config.replica_timeout)),
        last_change: None,
        adopted: false,
        taken_over: false,
        waits_for: None,
        deciding: None,
    };
    driver.adopt(first);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut starting = tokio::time::interval(STARTING_TICK);
    loop {
        tokio::select! {
            changed = ring.changed() => {
                if changed.is_err() {
                    return;
                }
                let newest = ring.borrow_and_update().clone();
                newest.into_iter().for_each(|config| driver.adopt(config));
            }
            Some(order) = orders.recv(), if driver.deciding.is_none() => driver.obey(order),
            finished = driver.healer.finished() => finished.into_iter().for_each(|done| driver.healer.ended(done)),
            outcome = decision(&mut driver.deciding) => driver.decided(outcome),
            _ = starting.tick(), if !driver.taken_over => driver.take_over(),
            _ = tick.tick() => driver.step(),
        }
        driver.healer.start(&driver.membership.members_now());
    }
}

/// A configuration on its way to be decided.
struct Deciding {
    outcome: JoinHandle<Result<(), String>>,
    change: Change,
    /// Partitions that are held meanwhile.
    held: Vec<PartitionId>,
    /// A ring change begins with it.
    starts: bool,
    /// Whose order it is.
    order: Option<oneshot::Sender<Result<(), DrainError>>>,
}

/// The outcome of what is being decided; never, while nothing is.
async fn decision(deciding: &mut Option<Deciding>) -> Result<(), String> {
    match deciding {
        Some(deciding) => (&mut deciding.outcome).await.unwrap_or_else(|error| Err(error.to_string())),
        None => std::future::pending().await,
    }
}

struct Driver {
    cluster: Arc<Cluster>,
    membership: Arc<MembershipHandle>,
    register: Arc<dyn Membership>,
    tasks: TaskTracker,
    until: CancellationToken,
    config: Arc<RingConfig>,
    planner: Planner,
    sightings: Sightings,
    began: Instant,
    healer: Tasks,
    last_change: Option<Instant>,
    /// The cores have the configuration.
    adopted: bool,
    /// Every partition was taken over once, so that first writes need not wait.
    taken_over: bool,
    /// What was told last of why nothing begins.
    waits_for: Option<Discriminant<Wait>>,
    /// One at a time.
    deciding: Option<Deciding>,
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
        if config.epoch <= self.config.epoch && self.adopted {
            return;
        }
        self.adopted = true;
        self.config = config;
        self.healer.placed();
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

    /// Takes over every partition once a quorum of each is connected, so that first writes need not wait. (What is wanted
    /// before is taken over by whoever wants it.)
    fn take_over(&mut self) {
        if self.cluster.unavailable_partitions() == 0 {
            self.taken_over = true;
            self.cluster.take_over_all();
        }
    }

    /// One look at the plan, and what follows from it.
    fn step(&mut self) {
        self.healer.look(&self.membership.members_now());
        if self.deciding.is_some() {
            return;
        }
        match self.plan() {
            Decision::Rest | Decision::Wait(Wait::Copying { .. }) => self.waits(None),
            Decision::Wait(why) => self.waits(Some(why)),
            Decision::Change(change) => {
                self.waits(None);
                if self.is_due(&change) {
                    self.decide(*change, None);
                }
            }
        }
    }

    fn plan(&mut self) -> Decision {
        let workers = self.sightings();
        let copied = |partition: PartitionId, member: u16| {
            let epoch = self.config.assignment(partition).epoch;
            let newcomer = self.cluster.number_of(&self.config, member);
            newcomer.is_some_and(|newcomer| self.healer.has_copied(&(partition, epoch, newcomer)))
        };
        let situation = Situation {
            config: &self.config,
            workers: &workers,
            listening_for: self.began.elapsed(),
            copied: &copied,
        };
        self.planner.plan(&situation)
    }

    /// Partitions that have been copied one by one need not be completed one by one.
    fn is_due(&self, change: &Change) -> bool {
        let left = self.config.joint_partitions().count();
        let many = change.next.is_stable() || change.partitions * COMPLETE_SHARE >= left;
        !matches!(change.what, What::Complete)
            || many
            || self.last_change.is_none_or(|at| at.elapsed() >= COMPLETE_EVERY)
    }

    fn waits(&mut self, why: Option<Wait>) {
        let kind = why.as_ref().map(std::mem::discriminant);
        if let Some(why) = &why
            && kind != self.waits_for
        {
            tracing::info!(%why, "a ring change waits");
        }
        self.waits_for = kind;
        self.cluster.healing.progress.waits(why.map(|why| why.to_string()));
    }

    /// All who have registered, as the plan sees them.
    fn sightings(&mut self) -> Vec<Sighting> {
        let cluster = &self.cluster;
        let is_connected = |worker: &WorkerView, seen: &Seen| {
            let worker = cluster.find_worker(&worker.id, &seen.identity.uuid)?;
            Some(cluster.is_available(worker))
        };
        self.sightings.look(&self.membership.members_now(), is_connected, self.began.elapsed())
    }

    /// Begins to decide a configuration. The partitions that change are held meanwhile.
    fn decide(&mut self, change: Change, order: Option<oneshot::Sender<Result<(), DrainError>>>) {
        let Change { next, what, partitions } = &change;
        let changed = |id: &PartitionId| next.assignment(*id).epoch != self.config.assignment(*id).epoch;
        let held: Vec<PartitionId> = PartitionId::all().filter(changed).collect();
        let starts = self.config.is_stable() && !next.is_stable();
        if starts {
            let copies: usize = next.partitions.iter().map(|row| row.newcomers().len()).sum();
            let (what, about_keys) = (described(what), self.about_keys(copies));
            let number = next.epoch.0;
            tracing::info!(what, partitions, copies, about_keys, number, "starting proactive re-replication");
            self.cluster.healing.progress.began(what, copies);
        }
        let (cluster, register) = (self.cluster.clone(), self.register.clone());
        let (expected, next, drained) = (self.config.epoch, next.clone(), held.clone());
        let outcome = tokio::spawn(async move {
            drain(&cluster, &drained).await;
            match tokio::time::timeout(DECIDE_PATIENCE, register.compare_and_swap(expected, next)).await {
                Ok(decided) => decided.map_err(|error| error.to_string()),
                Err(_) => Err("too few workers have answered".to_owned()),
            }
        });
        self.deciding = Some(Deciding { outcome, change, held, starts, order });
    }

    fn decided(&mut self, outcome: Result<(), String>) {
        let Some(Deciding { change, held, starts, order, .. }) = self.deciding.take() else { return };
        let what = described(&change.what);
        match &outcome {
            Ok(()) => {
                self.last_change = Some(Instant::now());
                tracing::debug!(what, number = change.next.epoch.0, "configuration decided");
                self.adopt(Arc::new(change.next));
            }
            Err(error) => {
                // It may be decided yet; then the watch tells of it.
                tracing::warn!(what, error, "a configuration was not decided");
                self.cluster.with_partitions(&held, |core, id| core.release(id));
                if starts {
                    let _ = self.cluster.healing.progress.ended();
                }
            }
        }
        if let Some(order) = order {
            // Who ordered it may be gone.
            let _ = order.send(outcome.map_err(DrainError::Undecided));
        }
    }

    /// An estimate of the rows to be copied: what the newcomers are to hold, of what all hold now.
    fn about_keys(&self, copies: usize) -> u64 {
        let view = self.membership.members_now();
        let keys: u64 =
            view.workers.iter().filter_map(|w| w.seen.as_ref()).map(|seen| seen.report.keys).sum();
        let held: usize = self.config.partitions.iter().map(|row| row.replicas.len()).sum();
        keys * copies as u64 / held.max(1) as u64
    }

    fn obey(&mut self, order: Order) {
        let Order { worker, leaving, decided } = order;
        let outcome = match ring_change::mark(&self.config, &worker, leaving) {
            Some(change) => return self.decide(change, Some(decided)),
            // So marked already.
            None if self.config.index_of(&worker).is_some() => Ok(()),
            // A drained worker that was away is in the ring no longer, nor is the order to leave it: it comes in as any other.
            None if !leaving && self.membership.members_now().get(&worker).is_some() => Ok(()),
            None => Err(DrainError::Unknown(worker.to_string())),
        };
        let _ = decided.send(outcome);
    }
}

/// The longest that a put is under way: the core gives a call up after some timeouts, and large rows take longer; doubled
/// for what a worker still commits then.
fn call_life(replica_timeout: Duration) -> Duration {
    (replica_timeout * 8).max(Duration::from_secs(10))
}

/// Holds new puts of these partitions and waits a moment for those under way.
async fn drain(cluster: &Cluster, partitions: &[PartitionId]) {
    cluster.with_partitions(partitions, |core, id| core.hold(id));
    let deadline = Instant::now() + DRAIN_PATIENCE;
    loop {
        let mut left = 0;
        cluster.with_partitions(partitions, |core, id| left += usize::from(!core.is_drained(id)));
        if left == 0 || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(DRAIN_POLL).await;
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
    address: watch::Sender<Option<Target>>,
) {
    loop {
        let now = {
            let view = members.borrow_and_update();
            let worker = view.get(&peer.id).filter(|worker| worker.standing == Standing::Member);
            let seen = worker.and_then(|worker| worker.seen.as_ref());
            seen.filter(|seen| peer.is_over(&seen.identity.uuid)).map(|seen| Target {
                address: seen.address.clone(),
                uuid: seen.identity.uuid.clone(),
                boot_generation: seen.identity.boot_generation,
            })
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
