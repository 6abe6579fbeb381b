//! The embedded membership: the workers themselves keep the configuration. [`Council`] says who may vote, what is decided and what
//! each worker is to be asked; one task here gives it what it needs to know, makes its calls, and shows what it has come to.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tercet_common::backoff::BackoffPolicy;
use tercet_common::ring_proposer::Progress;
use tercet_common::sync::Witness;
use tercet_common::{Epoch, RingConfig, metrics};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use super::beat::described;
use super::council::{CALLS_MAX, Call, Council, Errand, Kind, Reply, Taken};
use super::shared::Shared;
use super::{Formation, Membership, MembershipError};

/// See the module.
pub struct Embedded {
    shared: Arc<Shared>,
    /// What the settings say, to tell where the workers' configuration differs.
    bootstrap: Arc<RingConfig>,
    council: Mutex<Council>,
    proposed: Notify,
    formation: watch::Sender<Formation>,
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

/// Withdraws a proposal when nobody waits for it any longer, if no worker can have voted for it.
struct Withdrawal<'a> {
    council: &'a Mutex<Council>,
    config: &'a Arc<RingConfig>,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.council.lock().withdraw(self.config);
    }
}

impl Embedded {
    pub(super) fn new(shared: Arc<Shared>, bootstrap: Arc<RingConfig>, retry: BackoffPolicy) -> Self {
        let council = Council::new(shared.incarnation, bootstrap.clone(), shared.timing.form_grace, retry);
        let formation = watch::Sender::new(Formation::Forming { confirmed: 0, needed: 0 });
        Self { shared, bootstrap, council: Mutex::new(council), proposed: Notify::new(), formation }
    }

    pub(super) fn formation(&self) -> watch::Receiver<Formation> {
        self.formation.subscribe()
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.council.lock().is_idle()
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
        let proposed = self.council.lock().propose(next.clone(), self.shared.now());
        proposed.map_err(|stale| MembershipError::Stale { expected, current: stale.current })?;
        let _withdrawal = Withdrawal { council: &self.council, config: &next };
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
        let mut calls = FuturesUnordered::new();
        let mut reminders = tokio::time::interval(self.shared.timing.remind_interval);
        reminders.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            members.borrow_and_update();
            let due = self.step(CALLS_MAX.saturating_sub(calls.len()));
            calls.extend(due.into_iter().map(|errand| self.call(errand)));
            let wake = self.council.lock().wakes_at(calls.len() < CALLS_MAX);
            let wake = wake.map(|at| self.shared.instant(at));
            tokio::select! {
                Some((errand, reply)) = calls.next() => self.take(&errand, reply),
                changed = members.changed() => if changed.is_err() { return },
                () = self.proposed.notified() => {}
                _ = reminders.tick() => self.council.lock().remind(),
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)).await },
                    if wake.is_some() => {}
                () = self.shared.stop.cancelled() => return,
            }
        }
    }

    /// Lets the council look at who is there, and shows what it finds. The calls to make now, at most `room`.
    fn step(&self, room: usize) -> Vec<Errand> {
        let workers = self.shared.read(|members, _| members.registered());
        self.shared.peers.keep(workers.iter().map(|worker| worker.address.as_str()));
        let findings = self.council.lock().step(&workers, self.shared.now());
        self.shared.change_if(|members| {
            let news = findings.into_iter().filter(|(worker, found)| members.found(&worker.witness, *found));
            news.count() > 0
        });
        self.publish();
        self.council.lock().due(&workers, room, self.shared.now())
    }

    fn call(&self, errand: Errand) -> impl Future<Output = (Errand, Result<Reply, Status>)> + use<> {
        let shared = self.shared.clone();
        async move {
            let (peers, to) = (&shared.peers, &errand.to);
            let reply = match &errand.call {
                Call::Decide(ask) => peers.decide(to, ask).await.map(Reply::State),
                Call::Recall => peers.recall(to).await.map(Reply::Memory),
                Call::Renew => peers.renew(to).await.map(Reply::NewUuid),
                Call::Remember(witnesses) => {
                    peers.remember(to, witnesses.clone()).await.map(|()| Reply::Remembered)
                }
            };
            (errand, reply)
        }
    }

    fn take(&self, errand: &Errand, reply: Result<Reply, Status>) {
        let (reply, error) = match reply {
            Ok(reply) => (Some(reply), None),
            Err(status) => (None, Some(status)),
        };
        let taken = self.council.lock().answered(errand, reply, self.shared.now());
        let (worker, call) = (&errand.to.witness, errand.call.kind());
        let id = &worker.worker;
        match (taken, error) {
            (Taken::Void, _) | (Taken::Noted, None) => {}
            (Taken::Renewed(uuid), _) => {
                let Witness { uuid: was, boot_generation, journal_seq, .. } = worker;
                tracing::warn!(worker = %id, was, uuid, boot_generation, journal_seq,
                    "worker lost something that it once said; it is another one now");
                self.shared.change(|members, _, _| members.renewed(worker));
            }
            // Starting, stopping, gone, or another life by now: heartbeats and breaker tell of it. A reminder is made again
            // and again, and its failure costs nothing until a disk is lost. Anything else needs a person.
            (Taken::Noted, Some(status))
                if call == Kind::Remember
                    || matches!(
                        status.code(),
                        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted
                    ) =>
            {
                tracing::debug!(worker = %id, ?call, error = %status, "worker did not answer");
            }
            (Taken::Noted, Some(status)) => {
                tracing::warn!(worker = %id, ?call, error = %status, "worker refused a call");
            }
        }
    }

    /// Shows what the council has come to.
    fn publish(&self) {
        let (in_force, progress) = {
            let council = self.council.lock();
            (council.in_force().cloned(), council.progress())
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
