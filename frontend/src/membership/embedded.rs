//! The embedded membership: the workers themselves keep the configuration, by the rules of [`super::agreement`].
//!
//! A task asks every registered member, through the Configure RPC, to keep the configuration, and goes on asking
//! those that are missing, with a backoff, for as long as the frontend runs: a member that appears late is configured
//! then. Nothing is kept on the frontend's side, so a frontend that lost its state reads it back from the workers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tercet_common::backoff::{Backoff, BackoffPolicy};
use tercet_common::{Epoch, Ring, RingConfig, WorkerId};
use tercet_proto::v1;
use tercet_proto::v1::replica_client::ReplicaClient;
use tokio::sync::{Notify, watch};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use super::agreement::{Agreement, Outcome, Progress};
use super::beat::Identity;
use super::shared::Shared;
use super::{Formation, Membership, MembershipError, RingView};

/// The largest answer to Configure: [`tercet_common::ring::MEMBERS_MAX`] members of some 150 bytes, with room.
const CONFIGURATION_BYTES_MAX: usize = 256 * 1024;
/// Calls at a time; the rest of a large cluster waits for its turn.
const CALLS_MAX: usize = 32;

/// See the module.
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` until something is proposed.
    agreement: Mutex<Option<Agreement>>,
    proposed: Notify,
    formation: watch::Sender<Formation>,
    retry: BackoffPolicy,
}

impl Membership for Embedded {
    fn load(&self) -> BoxFuture<'_, Result<Option<Arc<RingView>>, MembershipError>> {
        let ring = self.shared.ring.borrow().clone();
        Box::pin(async { Ok(ring) })
    }

    fn compare_and_swap(
        &self,
        expected: Epoch,
        next: RingConfig,
    ) -> BoxFuture<'_, Result<(), MembershipError>> {
        Box::pin(self.form(expected, next))
    }

    fn watch(&self) -> watch::Receiver<Option<Arc<RingView>>> {
        self.shared.ring.subscribe()
    }
}

/// A call to one member, and when the next may be made.
struct Attempt {
    identity: Identity,
    address: String,
    backoff: Backoff,
    not_before: Duration,
    in_flight: bool,
}

struct Answer {
    worker: WorkerId,
    identity: Identity,
    held: Result<RingConfig, Status>,
}

impl Embedded {
    pub(super) fn new(shared: Arc<Shared>, retry: BackoffPolicy) -> Self {
        let formation = watch::Sender::new(Formation::Forming { confirmed: 0, needed: 0 });
        Self { shared, agreement: Mutex::new(None), proposed: Notify::new(), formation, retry }
    }

    pub(super) fn formation(&self) -> watch::Receiver<Formation> {
        self.formation.subscribe()
    }

    async fn form(&self, expected: Epoch, next: RingConfig) -> Result<(), MembershipError> {
        let current = self.shared.epoch();
        if current != expected {
            return Err(MembershipError::Stale { expected, current });
        }
        if expected != Epoch(0) {
            return Err(MembershipError::CannotChange);
        }
        {
            let mut agreement = self.agreement.lock();
            let agreement =
                agreement.get_or_insert_with(|| Agreement::new(next.clone(), self.shared.timing.form_grace));
            if *agreement.candidate() != next {
                let current = agreement.candidate().epoch;
                return Err(MembershipError::Stale { expected, current });
            }
        }
        self.proposed.notify_one();
        let mut ring = self.shared.ring.subscribe();
        // The sender lives in `self.shared`.
        let formed = ring.wait_for(Option::is_some).await.map_err(|_| MembershipError::Stopped)?;
        match formed.as_ref() {
            Some(formed) if formed.config == next => Ok(()),
            Some(formed) => Err(MembershipError::Stale { expected, current: formed.config.epoch }),
            None => Err(MembershipError::Stopped),
        }
    }

    /// Runs until the frontend stops.
    pub(super) async fn tend(self: Arc<Self>) {
        let mut members = self.shared.view.subscribe();
        let mut attempts: HashMap<WorkerId, Attempt> = HashMap::new();
        let mut calls = FuturesUnordered::new();
        loop {
            let candidate = self.agreement.lock().as_ref().map(|agreement| agreement.candidate().clone());
            if let Some(candidate) = candidate {
                for attempt in self.due(&mut attempts, CALLS_MAX - calls.len().min(CALLS_MAX)) {
                    calls.push(self.ask(attempt, candidate.clone()));
                }
            }
            self.publish();
            let wake = self.wakes_at(&attempts, calls.len()).map(|at| self.shared.instant(at));
            tokio::select! {
                Some(answer) = calls.next() => self.take(answer, &mut attempts),
                changed = members.changed() => if changed.is_err() { return },
                () = self.proposed.notified() => {}
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)).await },
                    if wake.is_some() => {}
                () = self.shared.stop.cancelled() => return,
            }
        }
    }

    /// Members to ask now. One that came back as someone else, or elsewhere, is asked without waiting.
    fn due(
        &self,
        attempts: &mut HashMap<WorkerId, Attempt>,
        room: usize,
    ) -> Vec<(WorkerId, Identity, String)> {
        let (missing, now) = self.shared.read(|members, now| (members.to_confirm(), now));
        attempts.retain(|id, attempt| attempt.in_flight || missing.iter().any(|m| m.0 == *id));
        let mut due = Vec::new();
        for (id, identity, address) in missing {
            let seed = attempts.len() as u64;
            let fresh = || Attempt {
                identity: identity.clone(),
                address: address.clone(),
                backoff: self.retry.start(seed),
                not_before: now,
                in_flight: false,
            };
            let attempt = attempts.entry(id.clone()).or_insert_with(fresh);
            if !attempt.in_flight && (attempt.identity != identity || attempt.address != address) {
                *attempt = fresh();
            }
            if !attempt.in_flight && attempt.not_before <= now && due.len() < room {
                attempt.in_flight = true;
                due.push((id, identity, address));
            }
        }
        due
    }

    /// The next moment at which something is due. With all calls taken, that is when one of them ends.
    fn wakes_at(&self, attempts: &HashMap<WorkerId, Attempt>, calls: usize) -> Option<Duration> {
        let waiting = attempts.values().filter(|attempt| !attempt.in_flight && calls < CALLS_MAX);
        let forming = self.agreement.lock().as_ref().and_then(Agreement::wakes_at);
        waiting.map(|attempt| attempt.not_before).chain(forming).min()
    }

    fn ask(
        &self,
        (worker, identity, address): (WorkerId, Identity, String),
        config: RingConfig,
    ) -> impl Future<Output = Answer> + use<> {
        let shared = self.shared.clone();
        async move {
            let patience = shared.timing.configure_timeout;
            let call = tokio::time::timeout(patience, configure(&shared, &address, &config));
            let held = call.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            Answer { worker, identity, held }
        }
    }

    fn take(&self, answer: Answer, attempts: &mut HashMap<WorkerId, Attempt>) {
        let Answer { worker, identity, held } = answer;
        if let Some(attempt) = attempts.get_mut(&worker) {
            attempt.in_flight = false;
            attempt.not_before = self.shared.now().saturating_add(attempt.backoff.next_wait());
        }
        let held = match held {
            Ok(held) => held,
            Err(status) => {
                // Starting, stopping, or gone: heartbeats and breaker tell of it. Anything else needs a person.
                if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
                    tracing::debug!(%worker, error = %status, "worker was not configured yet");
                } else {
                    tracing::warn!(%worker, error = %status, "worker refused the ring configuration");
                }
                return;
            }
        };
        let mut agreement = self.agreement.lock();
        let Some(agreement) = agreement.as_mut() else { return };
        // Not counted when someone else has registered under the id meanwhile.
        let is_current = self.shared.read(|members, _| {
            members.to_confirm().iter().any(|(id, current, _)| *id == worker && *current == identity)
        });
        if !is_current {
            return;
        }
        let outcome = agreement.answer(&worker, held, self.shared.now());
        if outcome == Outcome::Adopted {
            let adopted = agreement.candidate().clone();
            tracing::info!(%worker, epoch = adopted.epoch.0, members = adopted.member_list(), "workers hold a later ring");
            self.shared.change(|members, _, _| members.set_ring(adopted));
        }
        match outcome {
            Outcome::Confirmed | Outcome::Adopted => {
                self.shared.change(|members, _, _| members.confirmed(&worker, &identity, true));
            }
            Outcome::Mismatch(mismatch) => {
                let changed =
                    self.shared.change(|members, _, _| members.confirmed(&worker, &identity, false));
                if changed {
                    tracing::error!(%worker, error = %mismatch, "a worker holds another ring configuration");
                }
            }
            Outcome::Behind => tracing::info!(%worker, "worker holds an earlier ring configuration still"),
        }
    }

    /// Shows what the agreement has come to.
    fn publish(&self) {
        let mut agreement = self.agreement.lock();
        let Some(agreement) = agreement.as_mut() else { return };
        let formation = match agreement.progress(self.shared.now()) {
            Progress::Forming { confirmed, needed } => Formation::Forming { confirmed, needed },
            Progress::Refused(mismatch) => Formation::Refused { reason: mismatch.to_string() },
            Progress::Formed => Formation::Formed,
        };
        if formation == Formation::Formed && self.shared.ring.borrow().is_none() {
            let config = agreement.candidate().clone();
            match Ring::build(&config.members, config.replicas) {
                Ok(ring) => {
                    tracing::info!(
                        epoch = config.epoch.0,
                        members = config.member_list(),
                        "the cluster has formed"
                    );
                    super::report_ring(&config, &ring);
                    self.shared.ring.send_replace(Some(Arc::new(RingView { config, ring })));
                }
                // A `RingConfig` has passed the same checks already.
                Err(error) => tracing::error!(%error, "the agreed configuration makes no ring"),
            }
        }
        self.formation.send_if_modified(|shown| {
            let changed = *shown != formation;
            *shown = formation;
            changed
        });
    }
}

/// One Configure call on a connection of its own: rare, and not to be mixed with the traffic of clients.
async fn configure(shared: &Shared, address: &str, config: &RingConfig) -> Result<RingConfig, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(shared.timing.configure_timeout);
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = ReplicaClient::new(channel).max_decoding_message_size(CONFIGURATION_BYTES_MAX);
    let mut request = Request::new(v1::RingConfiguration::from(config));
    if let Some(secret) = &shared.secret {
        let bearer = format!("Bearer {}", secret.expose()).parse();
        let bearer = bearer.map_err(|_| Status::internal("the cluster secret does not fit a header"))?;
        request.metadata_mut().insert("authorization", bearer);
    }
    let reply = client.configure(request).await?.into_inner();
    let held = reply.held.ok_or_else(|| Status::data_loss("the worker holds no configuration"))?;
    held.try_into()
        .map_err(|error| Status::data_loss(format!("the worker holds an unusable configuration: {error}")))
}
