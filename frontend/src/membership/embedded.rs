//! The embedded membership: the workers themselves keep the configuration, by the rules of
//! [`tercet_common::ring_proposer`].
//!
//! One task looks at who has registered, at what the proposer and the witnesses want to know of whom, and makes the
//! calls: at most one of a kind to a worker at a time, and after a failure only once its backoff has passed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tercet_common::backoff::{Backoff, BackoffPolicy};
use tercet_common::ring_proposer::{Progress, Proposer, Voter};
use tercet_common::ring_register::{Ask, RegisterState};
use tercet_common::sync::Witness;
use tercet_common::{Epoch, RingConfig, WorkerId, metrics};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use super::beat::{Identity, described};
use super::members::{Findings, Registered, Standing};
use super::shared::Shared;
use super::witnesses::{Soundness, Witnesses};
use super::{Formation, Membership, MembershipError};

/// Calls at a time; the rest of a large cluster waits for its turn.
const CALLS_MAX: usize = 64;

/// See the module.
pub struct Embedded {
    shared: Arc<Shared>,
    /// What the settings say, to tell where the workers' configuration differs.
    bootstrap: RingConfig,
    proposer: Mutex<Proposer>,
    proposed: Notify,
    formation: watch::Sender<Formation>,
    retry: BackoffPolicy,
}

impl Membership for Embedded {
    fn load(&self) -> BoxFuture<'_, Result<Option<Arc<RingConfig>>, MembershipError>> {
        let ring = self.shared.ring.borrow().clone();
        Box::pin(async { Ok(ring) })
    }

    fn compare_and_swap(
        &self,
        expected: Epoch,
        next: RingConfig,
    ) -> BoxFuture<'_, Result<(), MembershipError>> {
        Box::pin(self.swap(expected, next))
    }

    fn watch(&self) -> watch::Receiver<Option<Arc<RingConfig>>> {
        self.shared.ring.subscribe()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Decide,
    Recall,
    Renew,
}

/// What a worker answered.
enum Reply {
    State(RegisterState),
    Memory(Vec<Witness>),
    NewUuid(String),
}

struct Answer {
    worker: Registered,
    kind: Kind,
    reply: Result<Reply, Status>,
}

/// Calls of one kind to one worker.
struct Attempt {
    backoff: Backoff,
    not_before: Duration,
    in_flight: bool,
}

/// What the task keeps of a worker.
struct Known {
    voter: Voter,
    identity: Identity,
    address: String,
    attempts: HashMap<Kind, Attempt>,
}

/// The task's own state.
#[derive(Default)]
struct State {
    witnesses: Witnesses,
    known: HashMap<WorkerId, Known>,
    /// How often a worker was read again.
    looked: usize,
}

/// Withdraws a proposal when nobody waits for it any longer, if no worker can have voted for it.
struct Withdrawal<'a> {
    proposer: &'a Mutex<Proposer>,
    config: &'a Arc<RingConfig>,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.proposer.lock().withdraw(self.config);
    }
}

impl Embedded {
    pub(super) fn new(shared: Arc<Shared>, bootstrap: RingConfig, retry: BackoffPolicy) -> Self {
        let proposer = Proposer::new(shared.incarnation, Some(bootstrap.clone()), shared.timing.form_grace);
        let formation = watch::Sender::new(Formation::Forming { confirmed: 0, needed: 0 });
        Self { shared, bootstrap, proposer: Mutex::new(proposer), proposed: Notify::new(), formation, retry }
    }

    pub(super) fn formation(&self) -> watch::Receiver<Formation> {
        self.formation.subscribe()
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.proposer.lock().is_idle()
    }

    async fn swap(&self, expected: Epoch, next: RingConfig) -> Result<(), MembershipError> {
        if expected == Epoch(0) {
            return Err(MembershipError::NotFormed);
        }
        if next.epoch.0 != expected.0 + 1 {
            return Err(MembershipError::NotNext { expected, next: next.epoch });
        }
        let next = Arc::new(next);
        let mut ring = self.shared.ring.subscribe();
        let proposed = self.proposer.lock().propose(next.clone(), self.shared.now());
        proposed.map_err(|stale| MembershipError::Stale { expected, current: stale.current })?;
        let _withdrawal = Withdrawal { proposer: &self.proposer, config: &next };
        self.proposed.notify_one();
        let is_later =
            |ring: &Option<Arc<RingConfig>>| ring.as_ref().is_some_and(|ring| ring.epoch > expected);
        let decided = tokio::select! {
            decided = ring.wait_for(is_later) => decided.map_err(|_| MembershipError::Stopped)?.clone(),
            () = self.shared.stop.cancelled() => return Err(MembershipError::Stopped),
        };
        match decided {
            Some(decided) if decided == next => Ok(()),
            decided => {
                let current = tercet_common::ring_register::number(decided.as_ref());
                Err(MembershipError::Stale { expected, current })
            }
        }
    }

    /// Runs until the frontend stops.
    pub(super) async fn tend(self: Arc<Self>) {
        let mut members = self.shared.view.subscribe();
        let mut state = State::default();
        let mut calls = FuturesUnordered::new();
        let mut looks = tokio::time::interval(self.shared.timing.remind_interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            members.borrow_and_update();
            let workers = self.shared.read(|members, _| members.registered());
            self.follow(&mut state, &workers);
            self.judge(&mut state, &workers);
            self.name_members(&workers);
            self.publish();
            for (worker, kind, ask) in self.due(&mut state, workers, CALLS_MAX.saturating_sub(calls.len())) {
                calls.push(self.call(worker, kind, ask));
            }
            let wake = self.wakes_at(&state, calls.len()).map(|at| self.shared.instant(at));
            tokio::select! {
                Some(answer) = calls.next() => self.take(answer, &mut state),
                changed = members.changed() => if changed.is_err() { return },
                () = self.proposed.notified() => {}
                _ = looks.tick() => self.look_again(&mut state),
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)).await },
                    if wake.is_some() => self.proposer.lock().tick(self.shared.now()),
                () = self.shared.stop.cancelled() => return,
            }
        }
    }

    /// Tells the proposer who came, who went, and who came back.
    fn follow(&self, state: &mut State, workers: &[Registered]) {
        let mut proposer = self.proposer.lock();
        let there: HashSet<&WorkerId> = workers.iter().map(|worker| &worker.witness.worker).collect();
        state.known.retain(|id, known| {
            let stays = there.contains(id);
            if !stays {
                proposer.parted(&known.voter);
                state.witnesses.parted(&known.voter);
            }
            stays
        });
        for worker in workers {
            let (voter, identity) = (worker.voter(), worker.identity());
            let known = state.known.get(&voter.id);
            let same_start = known.is_some_and(|known| known.identity == identity);
            if same_start && known.is_some_and(|known| known.address == worker.address) {
                continue;
            }
            if !same_start {
                if let Some(known) = known {
                    proposer.parted(&known.voter);
                    state.witnesses.parted(&known.voter);
                }
                proposer.met(voter.clone());
                state.witnesses.started(&voter);
            }
            let address = worker.address.clone();
            let known = Known { voter, identity, address, attempts: HashMap::new() };
            state.known.insert(known.voter.id.clone(), known);
        }
        self.shared.peers.keep(workers.iter().map(|worker| worker.address.as_str()));
    }

    /// Another frontend may have decided or found out something: one worker after the other is read again.
    fn look_again(&self, state: &mut State) {
        let mut voters: Vec<&Voter> = state.known.values().map(|known| &known.voter).collect();
        voters.sort_unstable();
        state.looked = state.looked.wrapping_add(1);
        if let Some(voter) = voters.get(state.looked % voters.len().max(1)) {
            self.proposer.lock().revisit(voter);
            state.witnesses.revisit(voter);
        }
    }

    /// Finds out who may vote, and shows it.
    fn judge(&self, state: &mut State, workers: &[Registered]) {
        let mut findings = Vec::new();
        let now = self.shared.now();
        let mut proposer = self.proposer.lock();
        let newest = proposer.decided().cloned();
        for worker in workers {
            let voter = worker.voter();
            let soundness = state.witnesses.judge(worker.claim(), newest.as_deref());
            proposer.trust(&voter, soundness == Soundness::Sound, now);
            let holds = proposer.knows(&voter);
            if worker.standing == Standing::Member && soundness == Soundness::Sound {
                state.witnesses.saw(&worker.witness, worker.is_ours_alone);
            }
            findings.push((voter.id, worker.identity(), Findings { soundness, holds }));
        }
        drop(proposer);
        self.shared.change_if(|members| {
            let found = findings.iter().filter(|(id, identity, f)| members.found(id, identity, *f));
            found.count() > 0
        });
    }

    /// A member that was not there when the cluster formed has no identity in the configuration: it gets the one that it
    /// votes with, so that other data under its id is told apart from then on.
    fn name_members(&self, workers: &[Registered]) {
        let mut proposer = self.proposer.lock();
        let Some(config) = proposer.in_force().filter(|_| proposer.is_idle()).cloned() else { return };
        let unnamed = |worker: &&Registered| {
            worker.standing == Standing::Member
                && config.members.iter().any(|m| m.id == worker.witness.worker && m.uuid.is_empty())
        };
        let mut next = None;
        for Registered { witness, .. } in workers.iter().filter(unnamed) {
            let next = next.get_or_insert_with(|| RingConfig::clone(&config));
            for member in next.members.iter_mut().filter(|m| m.id == witness.worker && m.uuid.is_empty()) {
                member.uuid.clone_from(&witness.uuid);
            }
        }
        if let Some(mut next) = next {
            next.epoch = Epoch(config.epoch.0 + 1);
            // Stale: something newer was decided, and this is looked at again once that is in force.
            let _ = proposer.propose(Arc::new(next), self.shared.now());
        }
    }

    /// The calls to make now.
    fn due(
        &self,
        state: &mut State,
        workers: Vec<Registered>,
        room: usize,
    ) -> Vec<(Registered, Kind, Option<Ask>)> {
        let now = self.shared.now();
        let proposer = self.proposer.lock();
        let newest = proposer.decided();
        let mut due = Vec::new();
        for worker in workers {
            let voter = worker.voter();
            let Some(known) = state.known.get_mut(&voter.id) else { continue };
            let soundness = state.witnesses.judge(worker.claim(), newest.map(Arc::as_ref));
            let lost = soundness == Soundness::Lost;
            let recall = !lost && state.witnesses.wants_recall(&voter);
            let ask = if lost { None } else { proposer.ask_of(&voter) };
            for (kind, wanted) in [(Kind::Decide, ask.is_some()), (Kind::Recall, recall), (Kind::Renew, lost)]
            {
                if !wanted {
                    known.attempts.retain(|of, attempt| *of != kind || attempt.in_flight);
                    continue;
                }
                let seed = now.as_nanos() as u64;
                let fresh = || Attempt { backoff: self.retry.start(seed), not_before: now, in_flight: false };
                let attempt = known.attempts.entry(kind).or_insert_with(fresh);
                if !attempt.in_flight && attempt.not_before <= now && due.len() < room {
                    attempt.in_flight = true;
                    if kind == Kind::Recall {
                        state.witnesses.asks(voter.clone());
                    }
                    due.push((worker.clone(), kind, ask.clone()));
                }
            }
        }
        due
    }

    /// The next moment at which something is due. With all calls taken, that is when one of them ends.
    fn wakes_at(&self, state: &State, calls: usize) -> Option<Duration> {
        let attempts = state.known.values().flat_map(|known| known.attempts.values());
        let waiting = attempts.filter(|attempt| !attempt.in_flight && calls < CALLS_MAX);
        let proposer = self.proposer.lock().wakes_at();
        waiting.map(|attempt| attempt.not_before).chain(proposer).min()
    }

    fn call(&self, worker: Registered, kind: Kind, ask: Option<Ask>) -> impl Future<Output = Answer> + use<> {
        let shared = self.shared.clone();
        async move {
            let (peers, address, uuid) = (&shared.peers, &worker.address, &worker.witness.uuid);
            let reply = match kind {
                Kind::Decide => peers.decide(address, uuid, &ask.unwrap_or_default()).await.map(Reply::State),
                Kind::Recall => peers.recall(address).await.map(Reply::Memory),
                Kind::Renew => peers.renew(address, uuid).await.map(Reply::NewUuid),
            };
            Answer { worker, kind, reply }
        }
    }

    fn take(&self, answer: Answer, state: &mut State) {
        let Answer { worker: Registered { witness, address, .. }, kind, reply } = answer;
        let id = &witness.worker;
        // Void when the worker has come back since, perhaps with less.
        let Some(known) = state.known.get_mut(id) else { return };
        let same_start = known.voter.uuid == witness.uuid
            && known.identity.boot_generation == witness.boot_generation
            && known.address == address;
        if !same_start {
            return;
        }
        let now = self.shared.now();
        if let Some(attempt) = known.attempts.get_mut(&kind) {
            attempt.in_flight = false;
            if reply.is_ok() {
                attempt.backoff.reset();
            } else {
                attempt.not_before = now.saturating_add(attempt.backoff.next_wait());
            }
        }
        match reply {
            Ok(Reply::State(state)) => self.proposer.lock().answered(&known.voter, state, now),
            Ok(Reply::Memory(memory)) => state.witnesses.recalled(&known.voter, memory),
            Ok(Reply::NewUuid(uuid)) => {
                tracing::warn!(worker = %id, was = witness.uuid, uuid, boot_generation = witness.boot_generation,
                    journal_seq = witness.journal_seq, "worker lost something that it once said; it is another one now");
                self.shared.change(|members, _, _| members.renewed(id, &known.identity));
            }
            // Starting, stopping, or gone: heartbeats and breaker tell of it. Anything else needs a person.
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                tracing::debug!(worker = %id, ?kind, error = %status, "worker did not answer");
            }
            Err(status) => tracing::warn!(worker = %id, ?kind, error = %status, "worker refused a call"),
        }
    }

    /// Shows what the proposer has come to.
    fn publish(&self) {
        let (in_force, progress) = {
            let proposer = self.proposer.lock();
            (proposer.in_force().cloned(), proposer.progress())
        };
        let formation = match &in_force {
            Some(_) => Formation::Formed,
            None => {
                let Progress { confirmed, needed, .. } = progress;
                Formation::Forming { confirmed, needed }
            }
        };
        if let Some(config) = in_force.filter(|config| config.epoch > self.shared.epoch()) {
            if self.shared.epoch() == Epoch(0) {
                self.compare_with_settings(&config);
            }
            tracing::info!(
                number = config.epoch.0,
                members = config.member_list(),
                "ring configuration in force"
            );
            report_ring(&config);
            self.shared.change(|members, _, _| members.set_ring(config.clone()));
            self.shared.ring.send_replace(Some(config));
        }
        self.formation.send_if_modified(|shown| {
            let changed = *shown != formation;
            *shown = formation;
            changed
        });
    }

    fn compare_with_settings(&self, config: &RingConfig) {
        let (held, given) = (described(config), described(&self.bootstrap));
        if held == given {
            return;
        }
        if config.epoch == self.bootstrap.epoch {
            tracing::warn!(
                held,
                given,
                "the workers formed this cluster with another list than the settings give; \
                theirs is used, the list in the settings is for forming only"
            );
        } else {
            tracing::info!(
                number = config.epoch.0,
                held,
                given,
                "the workers' ring is used; the settings' list formed it"
            );
        }
    }
}

/// Tells what the ring asks of each member.
fn report_ring(config: &RingConfig) {
    metrics::RING_EPOCH.gauge(&[]).set(config.epoch.0 as f64);
    for (member, owned) in config.members.iter().zip(config.ownership()) {
        metrics::RING_OWNERSHIP.gauge(&[member.id.as_str()]).set(owned.replica_share);
    }
}
