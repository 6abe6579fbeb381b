//! A frontend at work: membership, coordinator, gateways, and the order in which they start and stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tercet_common::Incarnation;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::coordinator::cluster::{Cluster, ClusterEngine};
use crate::coordinator::{repair, sweeper};
use crate::healing::shell::changes;
use crate::membership;
use crate::{resp, rest};

/// How often metrics are drained and gauges looked at.
const UPKEEP: Duration = Duration::from_secs(1);
/// How long tasks may take to end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Membership(#[from] membership::StartError),
    #[error("the {protocol} listener {address} cannot be opened: {source} (setting `{setting}`)")]
    Listen { protocol: &'static str, setting: &'static str, address: SocketAddr, source: io::Error },
}

/// Where a frontend listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub resp: SocketAddr,
    pub rest: SocketAddr,
    pub grpc: SocketAddr,
}

/// A frontend that has been started.
pub struct Frontend {
    pub addresses: Addresses,
    pub coordinator: Coordinator,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Runs a frontend until `shutdown`.
pub async fn run(
    config: Config,
    prometheus: Option<PrometheusHandle>,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let frontend = Frontend::start(config, prometheus, shutdown.clone()).await?;
    shutdown.cancelled().await;
    frontend.stop().await;
    Ok(())
}

impl Frontend {
    /// Opens all listeners and returns; clients get LOADING until the cluster has formed.
    pub async fn start(
        config: Config,
        prometheus: Option<PrometheusHandle>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let resp_listener = listen("RESP", "resp", config.resp_listen).await?;
        let rest_listener = listen("REST", "rest", config.rest_listen).await?;
        // 63 bits that no other life of a frontend has: see `Incarnation`.
        let incarnation = Incarnation(rand::random::<u64>() >> 1 | 1);
        let membership = Arc::new(membership::start(&config, incarnation).await?);
        let addresses = Addresses {
            resp: resp_listener.local_addr().unwrap_or(config.resp_listen),
            rest: rest_listener.local_addr().unwrap_or(config.rest_listen),
            grpc: membership.local_addr(),
        };
        tracing::info!(incarnation = format!("{:016x}", incarnation.0), resp = %addresses.resp, rest = %addresses.rest,
            grpc = %addresses.grpc, "frontend starting");

        let cluster = Cluster::new(config.clone(), membership.clone(), incarnation);
        let coordinator = Coordinator::new(Arc::new(ClusterEngine(cluster.clone())));
        let tasks = TaskTracker::new();
        let until = shutdown.clone();
        let background = {
            let (cluster, coordinator) = (cluster.clone(), coordinator.clone());
            let (tasks, prometheus) = (tasks.clone(), prometheus.clone());
            let sweep_interval = config.sweep_interval;
            async move {
                tokio::join!(
                    changes::run(&cluster, &membership, &tasks, &until),
                    cluster.run_timers(),
                    sweeper::run(coordinator.clone(), sweep_interval),
                    repair::run(&cluster, coordinator),
                    upkeep(&cluster, prometheus),
                );
            }
        };
        let until = shutdown.clone();
        tasks.spawn(async move { until.run_until_cancelled(background).await });
        let (until, prover) = (shutdown.clone(), cluster.clone());
        // A task of its own: clients wait for it.
        tasks.spawn(async move { until.run_until_cancelled(prover.run_proofs()).await });
        let rest =
            rest::serve(rest_listener, config.clone(), coordinator.clone(), prometheus, shutdown.clone());
        tasks.spawn(rest);
        let resp = resp::serve(resp_listener, config, coordinator.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = resp.await {
                tracing::error!(%error, "the RESP gateway has ended");
            }
        });
        tasks.close();
        Ok(Self { addresses, coordinator, tasks, shutdown })
    }

    /// Lets commands that are under way end, closes connections, and waits for all tasks, a bounded time.
    pub async fn stop(self) {
        self.shutdown.cancel();
        if tokio::time::timeout(SHUTDOWN_PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        tracing::info!("frontend stopped");
    }
}

async fn listen(
    protocol: &'static str,
    setting: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { protocol, setting, address, source };
    TcpListener::bind(address).await.map_err(failed)
}

async fn upkeep(cluster: &Cluster, prometheus: Option<PrometheusHandle>) {
    loop {
        cluster.refresh();
        if let Some(prometheus) = &prometheus {
            prometheus.run_upkeep();
        }
        tokio::time::sleep(UPKEEP).await;
    }
}
