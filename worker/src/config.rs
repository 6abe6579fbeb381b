//! The worker's settings, checked. How they are read (flags, environment, file) is the binary's business.

use std::net::SocketAddr;
use std::time::Duration;

use tercet_common::WorkerId;

/// Everything a worker needs to know at start. Defaults are in [`Config::new`].
#[derive(Clone, Debug)]
pub struct Config {
    pub id: WorkerId,
    pub cluster_id: String,
    /// Demanded from callers when set; must be set when `grpc_listen` is not loopback.
    pub cluster_secret: Option<String>,
    /// Where the Replica service listens. Port 0 picks a free one.
    pub grpc_listen: SocketAddr,
    /// What frontends are told to dial, `host:port`. `None`: the address it listens on.
    pub advertise: Option<String>,
    /// Frontends to send heartbeats to, `host:port` each.
    pub frontends: Vec<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served. `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// libpq-style connection string or URL of the worker's own PostgreSQL.
    pub postgres: String,
    /// Overrides the password in `postgres`, so that it can come from a secret file.
    pub postgres_password: Option<String>,
    /// Connections that commit; one fsync overlaps the next batch.
    pub writers: usize,
    /// Connections for reads and scans.
    pub readers: usize,
    pub cache_bytes: usize,
    /// Bytes and requests that may wait for a commit; above it the worker answers BUSY.
    pub queue_bytes_max: usize,
    pub queue_len_max: usize,
    /// PostgreSQL's own `statement_timeout`, and the worker's patience with a commit.
    pub statement_timeout: Duration,
    pub connect_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub value_bytes_max: usize,
    pub virtual_nodes: u32,
    pub zone: String,
}

impl Config {
    pub const GRPC_PORT: u16 = 7380;
    pub const METRICS_PORT: u16 = 9380;

    /// The documented defaults.
    pub fn new(id: WorkerId, postgres: impl Into<String>) -> Self {
        Self {
            id,
            cluster_id: "tercet".to_owned(),
            cluster_secret: None,
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], Self::GRPC_PORT)),
            advertise: None,
            frontends: vec!["127.0.0.1:7379".to_owned()],
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], Self::METRICS_PORT))),
            postgres: postgres.into(),
            postgres_password: None,
            writers: 2,
            readers: 4,
            cache_bytes: 256 * 1024 * 1024,
            queue_bytes_max: 256 * 1024 * 1024,
            queue_len_max: 65_536,
            statement_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_secs(2),
            value_bytes_max: 64 * 1024 * 1024,
            virtual_nodes: 128,
            zone: String::new(),
        }
    }
}
