//! `tercet frontend` and `tercet worker`: from checked settings to a running role. The only file that calls the two
//! libraries.

use std::io::Read;
use std::sync::Arc;

use anyhow::Context;
use tercet_common::metrics;
use tercet_worker::store::PostgresStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logging;
use crate::settings::process::Process;
use crate::settings::{Environment, Flags, frontend::FrontendRole, worker::WorkerRole};

/// More than clients, listeners and links ever take; some systems have no hard limit and refuse an infinite soft one.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// Runs a frontend until SIGTERM, SIGINT, or with `exit_with_parent` until standard input ends.
pub(crate) fn frontend(
    flags: Flags<FrontendRole>,
    env: &dyn Environment,
    exit_with_parent: bool,
) -> anyhow::Result<()> {
    let (config, process) = crate::settings::frontend::read(flags, env)?;
    run("frontend", &process, exit_with_parent, async move |metrics, shutdown| {
        linked::frontend(config, metrics, shutdown).await
    })
}

/// Runs a worker until SIGTERM, SIGINT, or with `exit_with_parent` until standard input ends.
pub(crate) fn worker(
    flags: Flags<WorkerRole>,
    env: &dyn Environment,
    exit_with_parent: bool,
) -> anyhow::Result<()> {
    let (config, process) = crate::settings::worker::read(flags, env)?;
    end_on_panic();
    run("worker", &process, exit_with_parent, async move |metrics, shutdown| {
        linked::worker(config, metrics, shutdown).await
    })
}

/// A worker of which one task has panicked would hold writes that are never answered, or answer what it no longer knows.
/// Dead, it is a case that everybody knows how to handle.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The calls into the libraries.
mod linked {
    use super::*;

    pub(super) async fn frontend(
        config: tercet_frontend::Config,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        Ok(tercet_frontend::run(config, metrics, shutdown).await?)
    }

    pub(super) async fn worker(
        config: tercet_worker::Config,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let store = Arc::new(PostgresStore::new(&config)?);
        Ok(tercet_worker::run(config, store, metrics, shutdown).await?)
    }
}

type Metrics = Option<metrics_exporter_prometheus::PrometheusHandle>;

/// What both roles share: logs, metrics, threads, signals.
fn run<F>(role: &'static str, process: &Process, exit_with_parent: bool, body: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(Metrics, CancellationToken) -> anyhow::Result<()>,
{
    logging::install(process)?;
    raise_file_limit();
    let handle = metrics::install().context("installing the metrics recorder")?;
    metrics::BUILD_INFO.gauge(&[env!("CARGO_PKG_VERSION"), role]).set(1.0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process.threads)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let shutdown = CancellationToken::new();
    if exit_with_parent {
        cancel_at_end_of_input(shutdown.clone())?;
    }
    let ended = runtime.block_on(async {
        cancel_on_signals(&shutdown)?;
        tracing::info!(role, version = env!("CARGO_PKG_VERSION"), threads = process.threads, "starting");
        Box::pin(body(Some(handle), shutdown)).await
    });
    // What is still running after its own shutdown deadline is not worth waiting for.
    runtime.shutdown_background();
    match &ended {
        Ok(()) => tracing::info!(role, "stopped"),
        Err(error) => tracing::error!(role, error = format!("{error:#}"), "stopped"),
    }
    ended
}

/// Every client takes a file descriptor, and the usual soft limit is 1024, far below `clients-max`. The hard limit is the
/// machine's word on what a process may take (Redis raises its own in the same way).
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES_MAX), hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is; it may allow fewer clients than wanted");
    }
}

/// SIGTERM and SIGINT ask for an orderly end.
fn cancel_on_signals(shutdown: &CancellationToken) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind).context("watching for signals")?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                shutdown.cancel();
            }
        });
    }
    Ok(())
}

/// `tercet up` holds the other end of standard input and never writes: the end of it means that `up` is gone, however
/// it went. A thread, because a blocked read of standard input would keep the runtime from ending.
fn cancel_at_end_of_input(shutdown: CancellationToken) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("parent-watch".to_owned())
        .spawn(move || {
            let mut buffer = [0; 64];
            let mut input = std::io::stdin().lock();
            while matches!(input.read(&mut buffer), Ok(n) if n > 0) {}
            shutdown.cancel();
        })
        .map(drop)
        .context("watching the parent")
}
