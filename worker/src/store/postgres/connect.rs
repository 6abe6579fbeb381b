//! Connections: how they are made, what they are told first, and the two pools.
//!
//! TLS to PostgreSQL is not spoken: a worker's database is its own, on the same machine, in the same pod or behind a
//! Unix socket. A connection string that demands it (`sslmode=require`) is refused rather than weakened.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Client as Pooled, Connect, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, QueueMode,
    RecyclingMethod, Runtime,
};
use futures_util::future::BoxFuture;
use metrics::Gauge;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

use super::super::StoreError;
use super::error::{TAKEN_OVER, connect_error, statement_error};
use super::metrics::Metrics;
use crate::Config;

/// Every application name of ours begins with it: `tercet <instance> <worker id>`.
pub(super) const APPLICATION: &str = "tercet";
/// A dead peer is noticed after about idle + retries × interval, on both sides.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;
/// A pooled connection that was idle for longer is tried before it is used.
const TRY_AFTER_IDLE: Duration = Duration::from_secs(15);
/// How much longer the worker waits for an answer than PostgreSQL should need for its own time-out.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);

/// How to reach the database, and how long to wait for it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) config: tokio_postgres::Config,
    /// Names this life of this process. PostgreSQL cuts application names at 63 bytes; this part always fits.
    pub(super) instance: String,
    pub(super) statement_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) readers: usize,
    pub(super) writers: usize,
}

impl Target {
    pub(super) fn new(config: &Config) -> Result<Self, StoreError> {
        let instance = format!("{APPLICATION} {:016x}", rand::random::<u64>());
        let mut target: tokio_postgres::Config = config.postgres.parse().map_err(|e| connect_error(&e))?;
        if let Some(password) = &config.postgres_password {
            target.password(password);
        }
        target
            .application_name(format!("{instance} {}", config.id))
            .connect_timeout(config.connect_timeout)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(config.statement_timeout + TIMEOUT_MARGIN);
        Ok(Self {
            config: target,
            instance,
            statement_timeout: config.statement_timeout,
            connect_timeout: config.connect_timeout,
            readers: config.readers.max(1),
            writers: config.writers.max(1),
        })
    }

    /// How long a call may take before it counts as unanswered.
    pub(super) fn patience(&self) -> Duration {
        self.statement_timeout + TIMEOUT_MARGIN
    }
}

/// Whether the store may still be used. Once lost it stays lost; [`super::super::Store::open`] makes a new one.
#[derive(Clone)]
pub(super) struct Lost {
    lost: watch::Sender<bool>,
    connected: Gauge,
}

impl Lost {
    pub(super) fn new(connected: Gauge) -> Self {
        connected.set(1.0);
        Self { lost: watch::Sender::new(false), connected }
    }

    /// Logs the first reason only: what follows is its consequence.
    pub(super) fn lose(&self, reason: &str) {
        if self.close() {
            tracing::warn!(reason, "the database is lost until it is opened again");
        }
    }

    /// The end was asked for. Whether it came by this call.
    pub(super) fn close(&self) -> bool {
        let first = self.lost.send_if_modified(|lost| !std::mem::replace(lost, true));
        if first {
            self.connected.set(0.0);
        }
        first
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        if *self.lost.borrow() {
            return Err(StoreError::Unreachable("the connection was lost".to_owned()));
        }
        Ok(())
    }

    /// Returns once it is lost. Cancel-safe.
    pub(super) async fn wait(&self) {
        // Never an error: the sender is borrowed.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Control,
    Writer,
    Reader,
}

/// Settings that this server knows, of those we want. The join leaves out what came with later versions.
fn session_settings(role: Role, statement_timeout: Duration) -> String {
    let statement_ms = statement_timeout.as_millis().to_string();
    let keepalive = |duration: Duration| duration.as_secs().to_string();
    let mut settings = vec![
        ("statement_timeout", statement_ms.clone()),
        ("lock_timeout", statement_ms.clone()),
        ("idle_in_transaction_session_timeout", statement_ms),
        ("idle_session_timeout", "0".to_owned()),
        ("tcp_keepalives_idle", keepalive(KEEPALIVE_IDLE)),
        ("tcp_keepalives_interval", keepalive(KEEPALIVE_INTERVAL)),
        ("tcp_keepalives_count", KEEPALIVE_RETRIES.to_string()),
        ("search_path", "pg_catalog".to_owned()),
        ("default_transaction_isolation", "read committed".to_owned()),
        ("jit", "off".to_owned()),
        // Our statements have one good plan each, whatever the parameters: planning them once is enough.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
    ];
    match role {
        Role::Control | Role::Writer => {
            settings.push(("synchronous_commit", "on".to_owned()));
            settings.push(("default_transaction_read_only", "off".to_owned()));
        }
        Role::Reader => {
            settings.push(("default_transaction_read_only", "on".to_owned()));
        }
    }
    if role != Role::Control {
        // A generic plan made while the table was small must not scan it once it is large.
        settings.push(("enable_seqscan", "off".to_owned()));
    }
    if role == Role::Writer {
        // One batch of values must not spill to a temporary file.
        settings.push(("work_mem", "65536".to_owned()));
    }
    let values: Vec<_> = settings.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    format!(
        "SELECT pg_catalog.set_config(s.name, v.value, false) \
         FROM (VALUES {}) AS v (name, value) JOIN pg_catalog.pg_settings AS s ON s.name = v.name",
        values.join(", ")
    )
}

/// Connects, without any settings. `ended` runs when the connection is gone, with the reason unless it was in order.
pub(super) async fn connect(
    target: &Target,
    ended: impl FnOnce(Option<Error>) + Send + 'static,
) -> Result<(Client, JoinHandle<()>), Error> {
    let (client, connection) = target.config.connect(NoTls).await?;
    let driver = tokio::spawn(async move { ended(connection.await.err()) });
    Ok((client, driver))
}

pub(super) async fn set_up(client: &Client, role: Role, target: &Target) -> Result<(), Error> {
    client.simple_query(&session_settings(role, target.statement_timeout)).await.map(drop)
}

/// Makes pooled connections, and turns away those that come after another worker took the database over: one that
/// checks before the take-over is seen and ended by it, one that checks after fails.
struct Connector {
    target: Target,
    role: Role,
    boot_generation: i64,
}

impl Connect for Connector {
    fn connect(&self, _: &tokio_postgres::Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        Box::pin(async {
            let (client, driver) = connect(&self.target, |reason| {
                if let Some(error) = reason {
                    tracing::debug!(%error, "a pooled connection to the database ended");
                }
            })
            .await?;
            set_up(&client, self.role, &self.target).await?;
            let check = format!(
                "DO $$ BEGIN \
                 IF (SELECT boot_generation FROM tercet.identity) IS DISTINCT FROM {} THEN \
                 RAISE EXCEPTION 'another worker has taken this database over' USING ERRCODE = '{TAKEN_OVER}'; \
                 END IF; END $$",
                self.boot_generation
            );
            client.batch_execute(&check).await?;
            Ok((client, driver))
        })
    }
}

/// A bounded pool of connections of one role.
pub(super) struct Connections {
    pool: Pool,
    patience: Duration,
    lost: Lost,
    metrics: Arc<Metrics>,
}

impl Connections {
    pub(super) fn new(
        target: &Target,
        role: Role,
        size: usize,
        boot_generation: i64,
        lost: &Lost,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let connector = Connector { target: target.clone(), role, boot_generation };
        // `Fast` looks only at whether the driver has noticed the end; the hook asks the server.
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(target.config.clone(), connector, manager_config);
        let pool = Pool::builder(manager)
            .max_size(size)
            // The connection that is warm: its server process has plans and catalogue in its caches, and in those of the core.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(target.patience()))
            .create_timeout(Some(target.connect_timeout))
            .recycle_timeout(Some(target.connect_timeout))
            .pre_recycle(Hook::async_fn(|client, metrics| {
                Box::pin(async move {
                    if metrics.last_used() > TRY_AFTER_IDLE {
                        client.simple_query("").await.map_err(HookError::Backend)?;
                    }
                    Ok(())
                })
            }))
            .build()
            .map_err(|e| StoreError::Failed(e.to_string()))?;
        Ok(Self { pool, patience: target.patience(), lost: lost.clone(), metrics: metrics.clone() })
    }

    /// A connection that was alive a moment ago. Nothing was sent on it for the caller yet.
    pub(super) async fn get(&self) -> Result<Pooled, StoreError> {
        self.lost.check()?;
        let started = std::time::Instant::now();
        // Around the pool's own time-outs: the hook has none.
        let client = match tokio::time::timeout(self.patience, self.pool.get()).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(PoolError::Backend(error))) => Err(connect_error(&error)),
            Ok(Err(PoolError::Closed)) => Err(StoreError::Unreachable("the pool is closed".to_owned())),
            Ok(Err(error)) => Err(StoreError::Timeout(error.to_string())),
            Err(_) => Err(StoreError::Timeout("no connection was free".to_owned())),
        };
        self.metrics.pool_wait.record(started.elapsed());
        if let Err(StoreError::Refused(reason)) = &client {
            self.lost.lose(reason);
        }
        client
    }

    /// (in use, idle)
    pub(super) fn occupancy(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.available)
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }
}

/// Awaits one statement for no longer than `patience`.
pub(super) async fn within<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(patience, statement).await {
        Ok(result) => result.map_err(|e| statement_error(&e)),
        Err(_) => Err(StoreError::Timeout(format!("no answer within {patience:?}"))),
    }
}
