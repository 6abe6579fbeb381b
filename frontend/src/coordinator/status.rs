//! What `tercet status`, `/readyz` and INFO show of the cluster.

use serde::{Deserialize, Serialize};
use tercet_common::WorkerId;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub cluster_id: String,
    /// Every partition has a quorum of reachable replicas.
    pub ready: bool,
    /// The ring's configuration number; 0 before the cluster has formed.
    pub epoch: u64,
    /// This frontend's incarnation, in hexadecimal.
    pub incarnation: String,
    pub uptime_seconds: u64,
    /// Keys that this frontend has found expired and removed since it started.
    #[serde(default)]
    pub expired_keys: u64,
    pub replicas: usize,
    pub workers: Vec<WorkerStatus>,
    pub partitions: PartitionStatus,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub id: WorkerId,
    /// Where its Replica service is; `None` before it registered.
    pub address: Option<String>,
    pub zone: String,
    pub health: Health,
    pub breaker: Breaker,
    /// Milliseconds since the last heartbeat.
    pub heartbeat_age_ms: Option<u64>,
    /// The last heartbeat's Unix time in milliseconds (the original API shows it).
    pub last_heartbeat_ms: Option<i64>,
    /// What the worker said of itself in its last heartbeat.
    pub database_commits: Option<bool>,
    pub commit_micros: Option<u64>,
    pub write_backlog: Option<u64>,
    /// `None` also where the worker cannot see its database's disk.
    pub disk_free_bytes: Option<u64>,
    pub keys: Option<u64>,
    pub version: Option<String>,
    /// Partitions of which it is a replica, and of those the ones where it comes first.
    pub partitions: usize,
    pub primary_partitions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Heartbeats arrive and report commits.
    Alive,
    /// Heartbeats are late, or report that the database does not commit.
    Suspect,
    /// No heartbeat within the timeout.
    Dead,
    /// Has not registered since this frontend started.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Requests flow.
    Closed,
    /// Requests are not sent.
    Open,
    /// One probe is under way.
    HalfOpen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionStatus {
    pub total: usize,
    /// Partitions that this frontend has taken over.
    pub owned: usize,
    /// Partitions with at least one unreachable replica.
    pub under_replicated: usize,
    /// Partitions without a reachable quorum: their keys cannot be read or written now.
    pub unavailable: usize,
}
