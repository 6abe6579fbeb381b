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
    #[serde(default)]
    pub ring: RingStatus,
    #[serde(default)]
    pub healing: HealingStatus,
    #[serde(default)]
    pub next_failure: NextFailure,
}

/// What the ring is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RingStatus {
    /// The change under way.
    pub change: Option<ChangeStatus>,
    /// Why something that is to be done does not begin.
    pub waiting: Option<String>,
}

/// A ring change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// `w4 goes out`
    pub what: String,
    /// Copies of partitions to be made in all, and made.
    pub copies: usize,
    pub copied: usize,
    /// Sent for them so far.
    pub rows: u64,
    pub bytes: u64,
    pub since_seconds: u64,
}

/// What is known to be unequal, or not yet known to be equal.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HealingStatus {
    /// Keys that a worker missed and that wait to be sent.
    pub missed_keys: usize,
    /// Partitions that wait to be compared because of a fault.
    pub suspect_partitions: usize,
    /// Age of the oldest comparison of all partitions; `None`: some was not compared since this frontend started.
    pub oldest_compare_seconds: Option<u64>,
}

/// What it would cost if one more worker died now: the worst case.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NextFailure {
    /// The worker whose loss would cost most; `None`: nobody's would cost anything.
    pub worker: Option<WorkerId>,
    /// Partitions that would have no quorum then and have one now.
    pub partitions: usize,
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
    /// What it is to the ring.
    #[serde(default)]
    pub role: Role,
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

/// What a worker is to the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It holds partitions and votes.
    #[default]
    Member,
    /// A member whose word does not count yet: it has not shown that its data is whole, or lacks the configuration.
    Joining,
    /// It is handing over, or has.
    Leaving,
    /// In no configuration: it waits for a ring change.
    Spare,
    /// Its data is not what the ring knows it by, or has lost something: it must not vote.
    Replaced,
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
    /// There is no connection.
    Disconnected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionStatus {
    pub total: usize,
    /// Partitions that this frontend has taken over.
    pub owned: usize,
    /// Partitions with at least one unreachable replica.
    pub under_replicated: usize,
    /// Partitions that are changing hands.
    #[serde(default)]
    pub moving: usize,
    /// Partitions without a reachable quorum: their keys cannot be read or written now.
    pub unavailable: usize,
}
