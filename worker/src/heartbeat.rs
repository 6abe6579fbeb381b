//! Heartbeats: the worker proves to itself that its database commits, and tells every frontend.
//!
//! One prober, one proof per interval, shared by all streams; a beat goes out with every proof, good or bad. A
//! database that hangs makes the proof overdue, and beats go on saying so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tercet_common::backoff::BackoffPolicy;
use tercet_proto::v1;
use tercet_proto::v1::controller_client::ControllerClient;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tracing::{debug, info, warn};

use crate::auth::Secret;
use crate::config::Config;
use crate::engine::Engine;
use crate::store::StoreError;

/// A frontend that restarts is to serve within 3 s, and knows nobody before.
const RECONNECT_WAIT_MAX: Duration = Duration::from_millis(500);

type Proof = Pin<Box<dyn Future<Output = Result<Duration, StoreError>> + Send>>;

/// Probes for good, once per `interval`, and publishes what it finds.
pub(crate) async fn probe(
    engine: Arc<Engine>,
    interval: Duration,
    beats: watch::Sender<v1::HeartbeatRequest>,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Kept when it is overdue: a commit must not be dropped half-way, and a second one would only queue behind it.
    let mut overdue: Option<Proof> = None;
    let mut healthy = true;
    loop {
        ticks.tick().await;
        let mut proof = overdue.take().unwrap_or_else(|| {
            let engine = engine.clone();
            Box::pin(async move { engine.prove_commit().await })
        });
        let proven = match tokio::time::timeout(interval, &mut proof).await {
            Ok(proven) => proven,
            Err(_) => {
                overdue = Some(proof);
                Err(StoreError::Timeout(format!("no commit within {interval:?}")))
            }
        };
        match &proven {
            Err(error) if healthy => warn!(%error, "the database does not commit"),
            Ok(_) if !healthy => info!("the database commits again"),
            _ => {}
        }
        healthy = proven.is_ok();
        let (stats, usage) = (engine.stats(), engine.usage());
        beats.send_modify(|beat| {
            if let Some(identity) = engine.identity() {
                beat.worker_uuid = identity.worker_uuid;
                beat.boot_generation = identity.boot_generation;
                beat.opened_journal_seq = identity.journal_seq;
            }
            beat.journal_seq = engine.journal_seq();
            beat.health = Some(v1::WorkerHealth {
                database_commits: proven.is_ok(),
                commit_micros: proven.map_or(0, |took| took.as_micros() as u64),
                write_backlog: stats.waiting_writes as u64,
                disk_free_bytes: usage.disk.map_or(0, |disk| disk.free_bytes),
                disk_total_bytes: usage.disk.map_or(0, |disk| disk.total_bytes),
                pool_in_use: usage.pool_in_use as u32,
                pool_size: usage.pool_size as u32,
                read_only: stats.read_only,
                keys: usage.keys,
            });
        });
    }
}

/// The part of a beat that never changes.
pub(crate) fn first_beat(config: &Config, address: String) -> v1::HeartbeatRequest {
    v1::HeartbeatRequest {
        cluster_id: config.cluster_id.clone(),
        worker_id: config.id.to_string(),
        address,
        zone: config.zone.clone(),
        virtual_nodes: config.virtual_nodes,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        frontends: u32::try_from(config.frontends.len()).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

/// Beats to one frontend for good, connecting again whenever it has to.
pub(crate) async fn beat(frontend: Endpoint, secret: Secret, beats: watch::Receiver<v1::HeartbeatRequest>) {
    let name = frontend.uri().to_string();
    let policy = BackoffPolicy::new(Duration::from_millis(50), RECONNECT_WAIT_MAX, 0.5);
    let mut backoff = policy.expect("constants in order").start(rand::random());
    let mut reported = false;
    loop {
        let mut registered = false;
        let status = match beat_once(&frontend, &secret, beats.clone(), &mut registered).await {
            Ok(()) => Status::unavailable("the frontend ended the stream"),
            Err(status) => status,
        };
        if registered {
            backoff.reset();
            reported = false;
        }
        if reported {
            debug!(frontend = name, code = ?status.code(), error = status.message(), "no heartbeat");
        } else {
            warn!(frontend = name, code = ?status.code(), error = status.message(), "no heartbeat; will try again");
            reported = true;
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn beat_once(
    frontend: &Endpoint,
    secret: &Secret,
    beats: watch::Receiver<v1::HeartbeatRequest>,
    registered: &mut bool,
) -> Result<(), Status> {
    let channel = frontend.connect().await.map_err(|e| Status::unavailable(with_causes(&e)))?;
    let mut request = Request::new(each(beats));
    secret.attach(&mut request);
    let mut replies = ControllerClient::new(channel).heartbeat(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        if !std::mem::replace(registered, true) {
            info!(frontend = %frontend.uri(), epoch = reply.epoch, "registered");
        }
    }
    Ok(())
}

/// The newest beat at once, if there was a proof yet, then every new one. What a slow stream misses is not sent late.
/// (`beats` has seen only what stood there before the first proof.)
fn each(beats: watch::Receiver<v1::HeartbeatRequest>) -> impl Stream<Item = v1::HeartbeatRequest> {
    stream::unfold(beats, async |mut beats| {
        beats.changed().await.ok()?;
        let beat = beats.borrow_and_update().clone();
        Some((beat, beats))
    })
}

/// `tonic` says "transport error" and keeps the reason below.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}
