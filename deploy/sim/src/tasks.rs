//! The healing procedures of a frontend, polled by hand: the real code, over [`Peers`] that put requests on the
//! simulated network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tercet_common::{
    Epoch, Key, PartitionId, Promise, ReplicaReply, ReplicaRequest, Row, SyncReply, SyncRequest,
};
use tercet_frontend::coordinator::api::OpError;
use tercet_frontend::coordinator::core::{CallId, WorkerIx};
use tercet_frontend::healing::collect::{Collected, collect};
use tercet_frontend::healing::compare::{Compared, compare};
use tercet_frontend::healing::copy::{Copied, CopyJob, copy};
use tercet_frontend::healing::delta::{Delta, DeltaJob, delta};
use tercet_frontend::healing::{ChosenFlush, HealError, OwnerView, Peers, Stable, Unanswered};
use tokio::sync::oneshot;

use crate::driver::CopyName;
use crate::world::{Event, World};

/// Set in the numbers of calls that are not the core's.
const ASK: u64 = 1 << CallId::BITS;

pub(crate) fn is_ask(call: CallId) -> bool {
    call.raw() & ASK != 0
}

/// What a procedure is to do.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Copy(CopyJob),
    Compare(Stable),
    Collect(Stable),
    Delta(DeltaJob),
}

/// What it came to.
#[derive(Debug)]
pub(crate) enum Done {
    Copy { name: CopyName, result: Result<(), HealError> },
    Compare { compared: Compared, result: Result<(), HealError> },
    Other,
}

type Answer = Result<ReplicaReply, Unanswered>;

/// What procedures want done.
enum Order {
    Ask(WorkerIx, ReplicaRequest, oneshot::Sender<Answer>),
    Rewrite(Key, oneshot::Sender<Result<(), OpError>>),
    Passed(PartitionId, Promise),
}

#[derive(Default)]
struct Papers {
    orders: Vec<Order>,
    /// By partition, as the core says just now.
    views: Vec<Option<OwnerView>>,
    stables: Vec<Option<Stable>>,
}

/// What passes between the procedures of a frontend and the world.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Papers>>);

impl Desk {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, worker: WorkerIx, request: ReplicaRequest) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.papers().orders.push(Order::Ask(worker, request, sender));
        match answer.await {
            Ok(Ok(ReplicaReply::Refused(refusal))) => Err(Unanswered::Refused(refusal)),
            Ok(answer) => answer,
            Err(_) => Err(Unanswered::Lost),
        }
    }

    async fn store(&self, worker: WorkerIx, request: ReplicaRequest) -> Result<(), Unanswered> {
        match self.send(worker, request).await? {
            ReplicaReply::Stored => Ok(()),
            _ => Err(Unanswered::Lost),
        }
    }
}

impl Peers for Desk {
    async fn ask(&self, worker: WorkerIx, request: SyncRequest) -> Result<SyncReply, Unanswered> {
        match self.send(worker, ReplicaRequest::Sync(Box::new(request))).await? {
            ReplicaReply::Synced(reply) => Ok(*reply),
            _ => Err(Unanswered::Lost),
        }
    }

    async fn replicate(&self, worker: WorkerIx, row: Row, epoch: Epoch) -> Result<(), Unanswered> {
        self.store(worker, ReplicaRequest::Replicate { row, chosen: true, epoch }).await
    }

    async fn replicate_flush(&self, worker: WorkerIx, flush: ChosenFlush) -> Result<(), Unanswered> {
        let ChosenFlush { partition, epoch, ballot, clock } = flush;
        self.store(worker, ReplicaRequest::Flush { partition, ballot, clock, chosen: Some(epoch) }).await
    }

    async fn rewrite(&self, key: Key) -> Result<(), OpError> {
        let (sender, done) = oneshot::channel();
        self.papers().orders.push(Order::Rewrite(key, sender));
        done.await.unwrap_or(Err(OpError::Uncertain))
    }

    fn owner_view(&self, partition: PartitionId) -> Option<OwnerView> {
        self.papers().views.get(partition.index()).cloned().flatten()
    }

    fn passed(&self, partition: PartitionId, promise: Promise) {
        self.papers().orders.push(Order::Passed(partition, promise));
    }

    fn stable(&self, partition: PartitionId) -> Option<Stable> {
        self.papers().stables.get(partition.index()).cloned().flatten()
    }
}

/// The procedures under way at a frontend.
#[derive(Default)]
pub(crate) struct Tasks {
    desk: Desk,
    running: Vec<BoxFuture<'static, Done>>,
    asks: BTreeMap<u64, (WorkerIx, oneshot::Sender<Answer>)>,
    last_ask: u64,
    polling: bool,
}

impl Tasks {
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// No answer comes over this link any more.
    pub(crate) fn link_lost(&mut self, worker: WorkerIx) {
        self.asks.retain(|_, (asked, _)| *asked != worker);
    }

    fn start(&mut self, job: Job) {
        let desk = self.desk.clone();
        self.running.push(Box::pin(async move {
            match job {
                Job::Copy(job) => {
                    let result = copy(&desk, &job, &mut Copied::default(), &mut |_| ()).await;
                    Done::Copy { name: (job.partition.index(), job.epoch, job.newcomer), result }
                }
                Job::Compare(group) => {
                    let mut compared = Compared::default();
                    let result = compare(&desk, &group, &mut compared).await;
                    Done::Compare { compared, result }
                }
                Job::Collect(group) => {
                    let _ = collect(&desk, &group, &mut Collected::default()).await;
                    Done::Other
                }
                Job::Delta(job) => {
                    let _ = delta(&desk, &job, &mut Delta::default()).await;
                    Done::Other
                }
            }
        }));
    }
}

impl World {
    pub(crate) fn start_task(&mut self, nth: usize, job: Job) {
        self.trace.say(self.now, || format!("f{} begins {job:?}", nth + 1));
        self.frontends[nth].tasks.start(job);
        self.poll_tasks(nth);
    }

    /// Lets procedures go on as far as they can.
    pub(crate) fn poll_tasks(&mut self, nth: usize) {
        if self.frontends[nth].tasks.running.is_empty()
            || std::mem::replace(&mut self.frontends[nth].tasks.polling, true)
        {
            return;
        }
        loop {
            self.show_core(nth);
            let mut done = Vec::new();
            self.frontends[nth].tasks.running.retain_mut(|task| match task.now_or_never() {
                Some(what) => {
                    done.push(what);
                    false
                }
                None => true,
            });
            done.into_iter().for_each(|done| self.task_ended(nth, done));
            let orders = std::mem::take(&mut self.frontends[nth].tasks.desk.papers().orders);
            if orders.is_empty() {
                break;
            }
            orders.into_iter().for_each(|order| self.carry_order(nth, order));
        }
        self.frontends[nth].tasks.polling = false;
    }

    /// Puts on the desk what the core knows.
    fn show_core(&mut self, nth: usize) {
        let frontend = &self.frontends[nth];
        let (Some(core), Some(configuration)) = (&frontend.core, &frontend.configuration) else { return };
        let mut papers = frontend.tasks.desk.papers();
        let Papers { views, stables, .. } = &mut *papers;
        (*views, *stables) = (Vec::new(), Vec::new());
        for (partition, group) in configuration.groups.iter().enumerate() {
            let id = self.partition_id(partition);
            let view = core.promise_of(id);
            views.push(view.map(|promise| OwnerView {
                promise,
                lowest_in_flight: core.lowest_in_flight(id),
                reading: core.reading(id),
            }));
            let replicas = group.replicas.to_vec();
            let stable = Stable { partition: id, epoch: group.epoch, replicas };
            stables.push((!group.is_joint()).then_some(stable));
        }
    }

    fn carry_order(&mut self, nth: usize, order: Order) {
        match order {
            Order::Ask(worker, request, answer) => {
                if !self.frontends[nth].links[usize::from(worker)].usable {
                    return;
                }
                let tasks = &mut self.frontends[nth].tasks;
                tasks.last_ask += 1;
                let ask = ASK | tasks.last_ask;
                tasks.asks.insert(ask, (worker, answer));
                let life = self.frontends[nth].life;
                let patience = self.plan.tuning.replica_timeout.as_micros() as u64 * 4;
                self.agenda.plan(self.now + patience, Event::AskTimeout { frontend: nth, life, ask });
                self.send(nth, worker, CallId::from_raw(ask), request);
            }
            Order::Passed(partition, promise) => {
                let core = self.frontends[nth].core.as_ref();
                if core.is_some_and(|core| core.promise_of(partition) == Some(promise)) {
                    self.record.pruned.insert((partition, promise));
                }
                self.with_core(nth, |core| core.passed(partition, promise));
            }
            Order::Rewrite(key, done) => {
                let done = Box::new(move |result| {
                    // The procedure may have been given up.
                    let _ = done.send(result);
                });
                self.with_core(nth, |core| core.rewrite(key, done));
            }
        }
    }

    pub(crate) fn ask_answered(&mut self, nth: usize, call: CallId, reply: ReplicaReply) {
        if let Some((_, answer)) = self.frontends[nth].tasks.asks.remove(&call.raw()) {
            // The procedure may have been given up.
            let _ = answer.send(Ok(reply));
            self.poll_tasks(nth);
        }
    }

    pub(crate) fn ask_timeout(&mut self, nth: usize, ask: u64) {
        if self.frontends[nth].tasks.asks.remove(&ask).is_some() {
            self.poll_tasks(nth);
        }
    }

    fn task_ended(&mut self, nth: usize, done: Done) {
        self.trace.say(self.now, || format!("f{} ended {done:?}", nth + 1));
        match done {
            Done::Copy { name, result } => self.copy_ended(nth, name, result.is_ok()),
            Done::Compare { compared, result } => self.equal &= result.is_ok() && compared.was_equal(),
            Done::Other => {}
        }
    }
}
