//! Membership: how the frontend learns of its workers, and how they become a cluster.
//!
//! ```text
//!  worker ──Heartbeat stream──▶ service ──▶ members (registry, failure detector) ──watch──▶ replica links, status
//!                                              │ who registered      ▲ sound? what does it know?
//!                                              ▼                     │
//!  worker ◀──Decide, Recall, Renew, Remember── embedded: council ────┴──watch──▶ ring ──▶ coordinator
//!                                                        (proposer, witnesses)
//! ```
//!
//! `members`, `council`, `witnesses`, `beat`, `sightings` and the proposer (`tercet_common::ring_proposer`) are plain rules,
//! tested without sockets, and run by the simulation (`deploy/sim`) as they are. The first configuration comes from the
//! frontend's settings as number 1; the workers keep it, and from then on theirs is the truth. Nothing is kept here: a
//! frontend that restarts asks each worker once.
//!
//! **What is guaranteed.** No number has two configurations, whoever proposes. A ring is shown only once a majority of its
//! members knows it durably. A worker that comes back over other data, or over older data than it once had by what
//! others remember, is not let vote.

pub mod beat;
pub mod council;
mod embedded;
pub mod members;
mod peers;
mod service;
mod shared;
pub mod sightings;
mod ticker;
pub mod witnesses;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tercet_common::backoff::BackoffPolicy;
use tercet_common::detector::{DetectorConfig, DetectorError};
use tercet_common::{Epoch, Incarnation, Member, REPLICAS, RingConfig, RingError};
use tercet_proto::v1::controller_server::ControllerServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub use embedded::Embedded;
pub use members::{MembersView, Seen, Standing, WorkerView};
pub use witnesses::Soundness;

use crate::Config;
use members::Members;
use service::ControllerService;
use shared::Shared;

/// The largest heartbeat, in bytes. A real one has about 200.
const HEARTBEAT_BYTES_MAX: usize = 4 * 1024;
/// The most bytes of headers of a call: the secret and some.
const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// Calls at a time on one connection. A worker makes one.
const CALLS_PER_CONNECTION_MAX: u32 = 8;
/// How long [`MembershipHandle::shutdown`] waits for streams to end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// Where the ring configuration lives.
pub trait Membership: Send + Sync + 'static {
    /// The configuration that is in force; `None` before the first.
    fn load(&self) -> BoxFuture<'_, Result<Option<Arc<RingConfig>>, MembershipError>>;

    /// Decides `next` if number `expected` is in force, and returns once it is in force itself. Waits for as long as it
    /// takes. When the future is dropped, or ends in an error other than [`MembershipError::Stale`], `next` is withdrawn;
    /// only where a worker may have been asked to vote for it, it may be decided later.
    fn compare_and_swap(
        &self,
        expected: Epoch,
        next: RingConfig,
    ) -> BoxFuture<'_, Result<(), MembershipError>>;

    /// The configuration in force, now and whenever it changes. One that is soon followed by another may not be seen.
    fn watch(&self) -> watch::Receiver<Option<Arc<RingConfig>>>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Also when someone else's configuration was decided instead.
    #[error("configuration {} is in force or decided, {} was expected", current.0, expected.0)]
    Stale { expected: Epoch, current: Epoch },
    #[error("configuration {} cannot follow {}", next.0, expected.0)]
    NotNext { expected: Epoch, next: Epoch },
    /// The first configuration comes from the settings.
    #[error("the cluster has not formed yet")]
    NotFormed,
    #[error("membership has stopped")]
    Stopped,
}

/// Whether the cluster can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formation {
    /// Not enough of the members are there, or know the configuration yet.
    Forming {
        confirmed: usize,
        needed: usize,
    },
    Formed,
}

/// Why membership could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the ring cannot be built: {0}")]
    Ring(#[from] RingError),
    #[error("the heartbeat timeout cannot be used: {0}")]
    Detector(#[from] DetectorError),
    #[error("the gRPC listener {0} is not loopback, so a cluster secret has to be set")]
    SecretMissing(SocketAddr),
    #[error("the gRPC listener {address} cannot be opened: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Every wait of membership.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A worker is dead, and its stream is cut, after this long without a heartbeat.
    pub heartbeat_timeout: Duration,
    /// A stream that does not register is cut after this long.
    pub first_beat: Duration,
    /// How long a majority of members waits for the others before the cluster forms.
    pub form_grace: Duration,
    /// The deadline of one call to a worker, connection included.
    pub call_timeout: Duration,
    /// How often workers are told what the others have come to.
    pub remind_interval: Duration,
    /// How often verdicts are looked at.
    pub tick: Duration,
}

impl Timing {
    /// The documented defaults.
    pub const fn new(heartbeat_timeout: Duration) -> Self {
        Self {
            heartbeat_timeout,
            first_beat: Duration::from_secs(5),
            form_grace: Duration::from_secs(1),
            call_timeout: Duration::from_secs(3),
            remind_interval: Duration::from_secs(2),
            tick: Duration::from_millis(250),
        }
    }
}

/// Membership at work. Stops when dropped.
pub struct MembershipHandle {
    shared: Arc<Shared>,
    embedded: Arc<Embedded>,
    local_addr: SocketAddr,
    tasks: TaskTracker,
}

/// Opens the gRPC listener and begins to form the cluster of `config.workers`. Returns at once: see
/// [`MembershipHandle::ring`] and [`MembershipHandle::formation`].
pub async fn start(config: &Config, incarnation: Incarnation) -> Result<MembershipHandle, StartError> {
    start_with(config, incarnation, Timing::new(config.heartbeat_timeout)).await
}

pub(crate) async fn start_with(
    config: &Config,
    incarnation: Incarnation,
    timing: Timing,
) -> Result<MembershipHandle, StartError> {
    let member = |w: &crate::config::RingWorker| Member::named(w.id.clone(), w.virtual_nodes, w.zone.clone());
    let members = config.workers.iter().map(member).collect();
    let bootstrap = Arc::new(RingConfig::new(config.cluster_id.clone(), Epoch(1), REPLICAS, members)?);
    // Three beats fit the timeout, as with the defaults of 2 s and 6 s.
    let detector = DetectorConfig::new(timing.heartbeat_timeout / 3, timing.heartbeat_timeout)?;
    let address = config.grpc_listen;
    if !address.ip().is_loopback() && config.cluster_secret.is_none() {
        return Err(StartError::SecretMissing(address));
    }
    let listen_error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let local_addr = listener.local_addr().map_err(listen_error)?;

    let members = Members::new(detector, bootstrap.clone());
    let (cluster_id, secret) = (config.cluster_id.clone(), config.cluster_secret.clone());
    let shared = Arc::new(Shared::new(cluster_id, secret, incarnation, timing, members));
    let embedded = Arc::new(Embedded::new(shared.clone(), bootstrap, retry_policy()));
    let tasks = TaskTracker::new();
    tasks.spawn(serve(shared.clone(), listener));
    tasks.spawn(ticker::run(shared.clone()));
    tasks.spawn(embedded.clone().tend());
    tasks.close();
    Ok(MembershipHandle { shared, embedded, local_addr, tasks })
}

fn retry_policy() -> BackoffPolicy {
    let (min, max) = (Duration::from_millis(200), Duration::from_secs(5));
    BackoffPolicy::new(min, max, 0.3).expect("constants in range")
}

async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let service = ControllerServer::new(ControllerService::new(shared.clone()))
        .max_decoding_message_size(HEARTBEAT_BYTES_MAX);
    let served = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(shared.timing.heartbeat_timeout))
        .http2_keepalive_timeout(Some(shared.timing.heartbeat_timeout))
        .add_service(service)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shared.stop.clone().cancelled_owned(),
        );
    if let Err(error) = served.await {
        tracing::error!(%error, "the gRPC server has ended");
    }
}

impl MembershipHandle {
    /// Decides ring changes.
    pub fn membership(&self) -> Arc<dyn Membership> {
        self.embedded.clone()
    }

    /// The configuration in force; `None` until the cluster has formed.
    pub fn ring(&self) -> watch::Receiver<Option<Arc<RingConfig>>> {
        self.embedded.watch()
    }

    /// Whether the cluster has formed, and if not, why.
    pub fn formation(&self) -> watch::Receiver<Formation> {
        self.embedded.formation()
    }

    /// All workers, with a new view after every beat, registration and change of a verdict. Ages are those of the
    /// moment the view was taken; for current ones see [`MembershipHandle::members_now`].
    pub fn subscribe(&self) -> watch::Receiver<Arc<MembersView>> {
        self.shared.view.subscribe()
    }

    /// All workers as of now.
    pub fn members_now(&self) -> MembersView {
        self.shared.read(|members, now| members.view(now))
    }

    /// Where heartbeats are taken: the actual port, where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Ends all streams and tasks, and waits for them a moment.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        // What is still open then ends with the process.
        let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, self.tasks.wait()).await;
    }
}

impl Drop for MembershipHandle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
