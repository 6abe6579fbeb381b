//! The Controller service: heartbeat streams of workers.
//!
//! A stream is driven by its reader: the next reply is produced from the next beat, so a worker that does not read its
//! replies stops being read, and nothing is queued. Limits come first: the secret before the stream, the message size
//! in the decoder, every field in [`Beat::from_wire`], a deadline on every wait.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tercet_common::WorkerId;
use tercet_proto::v1;
use tercet_proto::v1::controller_server::Controller;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::beat::{Beat, BeatError};
use super::members::{RegisterError, Session, Standing, WORKERS_MAX};
use super::shared::Shared;
use crate::config::Secret;

/// Heartbeat streams at a time: two per worker, so that a reconnect does not wait for the end of the old one.
const STREAMS_MAX: usize = 2 * WORKERS_MAX;

pub(super) struct ControllerService {
    shared: Arc<Shared>,
    streams: Arc<Semaphore>,
}

impl ControllerService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// Whether a call carries the cluster's secret as `authorization: Bearer …`.
pub(super) fn check_secret(secret: Option<&Secret>, metadata: &MetadataMap) -> Result<(), Status> {
    let Some(secret) = secret else { return Ok(()) };
    let given = metadata.get("authorization").map(|value| value.as_bytes());
    match given.and_then(|value| value.strip_prefix(b"Bearer ")) {
        Some(given) if secret.matches(given) => Ok(()),
        Some(_) => Err(Status::unauthenticated("wrong cluster secret")),
        None => Err(Status::unauthenticated("this cluster demands a secret (`authorization: Bearer …`)")),
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<v1::HeartbeatReply, Status>> + Send>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        check_secret(self.shared.secret.as_ref(), request.metadata())?;
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::resource_exhausted("too many heartbeat streams"))?;
        let beats = Beats {
            shared: self.shared.clone(),
            inbound: request.into_inner(),
            worker: None,
            _permit: permit,
        };
        // Ends after the first error.
        let replies = futures_util::stream::unfold(Some(beats), |beats| async {
            let mut beats = beats?;
            match beats.next().await {
                Ok(Some(reply)) => Some((Ok(reply), Some(beats))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// One stream.
struct Beats {
    shared: Arc<Shared>,
    inbound: Streaming<v1::HeartbeatRequest>,
    worker: Option<(WorkerId, Session)>,
    _permit: OwnedSemaphorePermit,
}

impl Beats {
    async fn next(&mut self) -> Result<Option<v1::HeartbeatReply>, Status> {
        let timing = &self.shared.timing;
        let patience = if self.worker.is_none() { timing.first_beat } else { timing.heartbeat_timeout };
        let message = tokio::select! {
            message = tokio::time::timeout(patience, self.inbound.message()) => message,
            () = self.shared.stop.cancelled() => return Err(Status::unavailable("the frontend is stopping")),
        };
        let message =
            message.map_err(|_| Status::deadline_exceeded(format!("no heartbeat within {patience:?}")))?;
        let Some(message) = message? else { return Ok(None) };
        self.take(message)?;
        let epoch = self.shared.epoch().0;
        Ok(Some(v1::HeartbeatReply { incarnation: self.shared.incarnation.0, epoch }))
    }

    fn take(&mut self, message: v1::HeartbeatRequest) -> Result<(), Status> {
        let beat = Beat::from_wire(message, &self.shared.cluster_id).map_err(|error| {
            tracing::warn!(%error, "refused a heartbeat");
            beat_status(&error)
        })?;
        let Some((worker, session)) = &self.worker else { return self.register(beat) };
        if beat.worker != *worker {
            return Err(register_status(&RegisterError::OtherWorker));
        }
        let result = self.shared.change(|members, now, wall| members.beat(*session, beat, now, wall));
        result.map_err(|error| register_status(&error))
    }

    fn register(&mut self, beat: Beat) -> Result<(), Status> {
        let (id, address, identity) = (beat.worker.clone(), beat.address.clone(), beat.identity.clone());
        match self.shared.change(|members, now, wall| members.register(beat, now, wall)) {
            Ok(session) => {
                let (uuid, generation) = (identity.uuid, identity.boot_generation);
                tracing::info!(worker = %id, address, uuid, generation, "worker registered");
                let view = self.shared.view.borrow().clone();
                if view.get(&id).is_some_and(|worker| worker.standing == Standing::Replaced) {
                    tracing::warn!(worker = %id, uuid, "worker came back over other data: it is not let vote");
                }
                self.worker = Some((id, session));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(worker = %id, address, %error, "refused a worker");
                Err(register_status(&error))
            }
        }
    }
}

fn beat_status(error: &BeatError) -> Status {
    match error {
        BeatError::OtherCluster { .. } => Status::failed_precondition(error.to_string()),
        BeatError::WorkerId(_)
        | BeatError::Address(_)
        | BeatError::Text { .. }
        | BeatError::VirtualNodes(_) => Status::invalid_argument(error.to_string()),
    }
}

fn register_status(error: &RegisterError) -> Status {
    match error {
        RegisterError::IdInUse { .. } => Status::already_exists(error.to_string()),
        RegisterError::OutOfDate { .. } => Status::failed_precondition(error.to_string()),
        RegisterError::TooMany => Status::resource_exhausted(error.to_string()),
        RegisterError::Superseded(_) => Status::aborted(error.to_string()),
        RegisterError::OtherWorker => Status::invalid_argument(error.to_string()),
    }
}
