//! Starting and stopping a worker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tercet_common::metrics::BUILD_INFO;
use tercet_proto::MESSAGE_BYTES_MAX;
use tercet_proto::v1::replica_server::ReplicaServer;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Endpoint, Server};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::auth::{InvalidSecret, Secret};
use crate::config::Config;
use crate::engine::Engine;
use crate::service::Service;
use crate::store::{Store, StoreError};
use crate::{heartbeat, http};

/// How long a database that cannot be reached is waited for at start.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// How long streams may take to get their last answers at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_BACKLOG: u32 = 1_024;
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(
        "{listen} can be reached from other machines: set a cluster secret, or listen on a loopback address"
    )]
    SecretMissing { listen: SocketAddr },
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    #[error("`{0}` is not the address of a frontend: host:port is expected")]
    Frontend(String),
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot use the database: {0}")]
    Store(#[from] StoreError),
    #[error("the gRPC server failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error("the gRPC server ended unexpectedly")]
    Ended,
}

/// Runs a worker until `shutdown`, or until its server fails. The database that cannot be reached at first is waited
/// for; one that must not be used is an error. `metrics`: the recorder that the process has installed.
pub async fn run(
    config: Config,
    store: Arc<dyn Store>,
    metrics: Option<PrometheusHandle>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let mut worker = tokio::select! {
        worker = Worker::start(config, store, metrics) => worker?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let ended = tokio::select! {
        ended = &mut worker.server => Some(ended),
        () = shutdown.cancelled() => None,
    };
    match ended {
        None => worker.stop().await,
        Some(ended) => {
            worker.end_store().await;
            ended.unwrap_or(Err(RunError::Ended)).and(Err(RunError::Ended))
        }
    }
}

/// A worker that runs. Dropping it leaves tasks behind: [`Worker::stop`] it.
pub struct Worker {
    local_addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    engine: Arc<Engine>,
    server: JoinHandle<Result<(), RunError>>,
    /// Ends the streams and the server.
    stop_serving: CancellationToken,
    /// Ends the engine's tasks and everything else.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Worker {
    /// Returns when the store is open and the worker serves. Dropped before that, it leaves nothing that matters.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, RunError> {
        let secret = Secret::new(config.cluster_secret.as_deref())?;
        if config.cluster_secret.is_none() && !config.grpc_listen.ip().is_loopback() {
            return Err(RunError::SecretMissing { listen: config.grpc_listen });
        }
        let frontends = config.frontends.iter().map(|f| frontend_endpoint(f, &config));
        let frontends = frontends.collect::<Result<Vec<_>, _>>()?;
        let metrics_listener =
            config.metrics_listen.map(|a| Port::take("metrics", a)?.listen()).transpose()?;
        let metrics_addr = metrics_listener.as_ref().map(|(_, address)| *address);
        // A taken port is told at once, but nobody can connect before there is an answer.
        let port = Port::take("gRPC", config.grpc_listen)?;

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        // Whatever fails below ends what was started above it.
        let stop_on_error = stop.clone().drop_guard();
        let engine = Arc::new(Engine::new(&config, store));
        BUILD_INFO.gauge(&[env!("CARGO_PKG_VERSION"), "worker"]).set(1.0);
        if let Some((listener, _)) = metrics_listener {
            let pages = http::Pages::new(metrics.clone(), engine.watch_open());
            until(&tasks, &stop, http::serve(listener, pages));
        }
        until(&tasks, &stop, publish_metrics(engine.clone(), metrics));

        engine.open_within(OPEN_PATIENCE).await?;
        let (listener, local_addr) = port.listen()?;
        engine.spawn(config.writers, config.readers, &tasks, &stop);
        let stop_serving = stop.child_token();
        let (health, health_service) = tonic_health::server::health_reporter();
        until(&tasks, &stop, report_health(health, engine.watch_open()));
        let router = router(engine.clone(), secret.clone(), &stop_serving).add_service(health_service);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stopped = stop_serving.clone().cancelled_owned();
        let server =
            tokio::spawn(async { Ok(router.serve_with_incoming_shutdown(incoming, stopped).await?) });

        let address = config.advertise.clone().unwrap_or_else(|| local_addr.to_string());
        info!(worker = %config.id, %local_addr, address, "serving");
        let beats = watch::Sender::new(heartbeat::first_beat(&config, address));
        for frontend in frontends {
            let receiver = beats.subscribe();
            until(&tasks, &stop, heartbeat::beat(frontend, secret.clone(), receiver));
        }
        until(&tasks, &stop, heartbeat::probe(engine.clone(), config.heartbeat_interval, beats));
        stop_on_error.disarm();
        Ok(Self { local_addr, metrics_addr, engine, server, stop_serving, stop, tasks })
    }

    /// Where the Replica service listens; with the real port where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Stops in order: no new requests, the last answers, the end of every commit, the database's connections.
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.stop_serving.cancel();
        let result = match tokio::time::timeout(DRAIN_MAX, &mut self.server).await {
            Ok(ended) => ended.unwrap_or(Err(RunError::Ended)),
            Err(_) => {
                warn!("callers did not take their last answers in time");
                self.server.abort();
                Ok(())
            }
        };
        self.end_store().await;
        result
    }

    async fn end_store(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.engine.close().await;
        info!("stopped");
    }
}

/// A task that may be dropped wherever it waits.
fn until(tasks: &TaskTracker, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

/// A port that is taken, but not listened on yet.
struct Port {
    what: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl Port {
    fn take(what: &'static str, address: SocketAddr) -> Result<Self, RunError> {
        let bound = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Not to wait for the connections of an earlier life.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = bound().map_err(|source| RunError::Listen { what, address, source })?;
        Ok(Self { what, address, socket })
    }

    fn listen(self) -> Result<(TcpListener, SocketAddr), RunError> {
        let Self { what, address, socket } = self;
        let listening = || {
            let listener = socket.listen(ACCEPT_BACKLOG)?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        listening().map_err(|source| RunError::Listen { what, address, source })
    }
}

fn router(engine: Arc<Engine>, secret: Secret, stop: &CancellationToken) -> Router {
    let service = ReplicaServer::new(Service::new(engine, stop.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(InterceptedService::new(service, secret))
}

/// The gRPC health protocol: serving while the store is open. It asks for no secret, as it tells none.
async fn report_health(health: HealthReporter, mut open: watch::Receiver<bool>) {
    loop {
        let serving = *open.borrow_and_update();
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(<ReplicaServer<Service> as NamedService>::NAME, status).await;
        if open.changed().await.is_err() {
            return;
        }
    }
}

fn frontend_endpoint(frontend: &str, config: &Config) -> Result<Endpoint, RunError> {
    let invalid = || RunError::Frontend(frontend.to_owned());
    let authority: ::http::uri::Authority = frontend.parse().map_err(|_| invalid())?;
    authority.port().ok_or_else(invalid)?;
    let endpoint = Endpoint::from_shared(format!("http://{frontend}")).map_err(|_| invalid())?;
    Ok(endpoint
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.heartbeat_interval)
        .keep_alive_timeout(config.heartbeat_interval))
}

async fn publish_metrics(engine: Arc<Engine>, metrics: Option<PrometheusHandle>) {
    let mut ticks = tokio::time::interval(METRICS_INTERVAL);
    loop {
        ticks.tick().await;
        engine.publish_metrics();
        if let Some(metrics) = &metrics {
            metrics.run_upkeep();
        }
    }
}
