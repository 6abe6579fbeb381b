//! The frontend's settings, checked. How they are read (flags, environment, file) is the binary's business.

use std::net::SocketAddr;
use std::time::Duration;

use tercet_common::WorkerId;

/// Everything a frontend needs to know at start. Every bound has a documented default in [`Config::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Workers keep it and refuse a frontend that names another.
    pub cluster_id: String,
    /// Shared by all parts of a cluster; demanded on listeners that are not loopback.
    pub cluster_secret: Option<Secret>,
    /// The workers of the first ring configuration, with virtual nodes and failure zone.
    pub workers: Vec<RingWorker>,
    pub resp_listen: SocketAddr,
    pub rest_listen: SocketAddr,
    /// Where workers send heartbeats.
    pub grpc_listen: SocketAddr,
    /// Demanded from RESP clients (AUTH, HELLO AUTH) and REST clients (Bearer).
    pub password: Option<Secret>,
    /// Without a password, refuses clients where others than this machine could reach the listener.
    pub protected_mode: bool,
    pub clients_max: usize,
    /// Commands of one connection that may be in flight at once.
    pub pipeline_max: usize,
    pub value_bytes_max: usize,
    /// For recent versions of keys, from which an owner answers once it is proven that it still is one. 0 keeps none.
    pub recall_bytes: usize,
    /// A read asks the third replica after this long without two answers.
    pub hedge_after: Duration,
    /// A call to a replica ends after this long, plus a second per 16 MiB of it.
    pub replica_timeout: Duration,
    /// A client's command ends after this long.
    pub request_timeout: Duration,
    /// Operations that may be in flight in the coordinator; above it clients get BUSY.
    pub operations_max: usize,
    /// Bytes of values in flight in one gateway; above it clients get BUSY.
    pub operation_bytes_max: usize,
    /// A worker without heartbeats for this long counts as dead.
    pub heartbeat_timeout: Duration,
    /// How often the sweeper looks for expired keys.
    pub sweep_interval: Duration,
}

/// A worker of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingWorker {
    pub id: WorkerId,
    pub virtual_nodes: u32,
    /// Empty: none.
    pub zone: String,
}

impl Config {
    pub const RESP_PORT: u16 = 6379;
    pub const REST_PORT: u16 = 8080;
    pub const GRPC_PORT: u16 = 7379;
    pub const VIRTUAL_NODES: u32 = 128;
    /// Redis's own ceiling for `value_bytes_max`.
    pub const VALUE_BYTES_CEILING: usize = 512 * 1024 * 1024;

    /// The documented defaults.
    pub fn new(workers: Vec<RingWorker>) -> Self {
        Self {
            cluster_id: "tercet".to_owned(),
            cluster_secret: None,
            workers,
            resp_listen: SocketAddr::from(([127, 0, 0, 1], Self::RESP_PORT)),
            rest_listen: SocketAddr::from(([127, 0, 0, 1], Self::REST_PORT)),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], Self::GRPC_PORT)),
            password: None,
            protected_mode: true,
            clients_max: 10_000,
            pipeline_max: 1_024,
            value_bytes_max: 64 * 1024 * 1024,
            recall_bytes: 128 * 1024 * 1024,
            hedge_after: Duration::from_millis(50),
            replica_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(5),
            operations_max: 100_000,
            operation_bytes_max: 1024 * 1024 * 1024,
            heartbeat_timeout: Duration::from_secs(6),
            sweep_interval: Duration::from_secs(1),
        }
    }
}

/// A password or key. Does not show itself in logs; compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `candidate` is the secret; the time taken does not depend on where they differ.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
