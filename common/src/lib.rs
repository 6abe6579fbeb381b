//! The rules of Tercet as pure code.
//!
//! Nothing here opens a socket, reads a clock or spawns a task: events and `now` go in, decisions come out. The
//! shells (`frontend`, `worker`) do the input and output.

pub mod backoff;
pub mod ballot;
pub mod breaker;
pub mod cache;
pub mod clock;
pub mod detector;
pub mod key;
pub mod message;
pub mod metrics;
pub mod mutants;
pub mod quorum;
pub mod ring;
pub mod ring_change;
pub mod ring_config;
pub mod ring_proposer;
pub mod ring_register;
pub mod row;
pub mod sync;
pub mod time;
pub mod worker_id;

pub use ballot::{Ballot, Epoch, Incarnation, Promise, Term};
pub use clock::VectorClock;
pub use key::{Key, KeyHash, PARTITIONS, PartitionId};
pub use message::{Refusal, ReplicaReply, ReplicaRequest};
pub use quorum::QuorumTracker;
pub use ring::{REPLICAS, Ring};
pub use ring_config::{Assignment, Member, RingConfig, RingError};
pub use row::{Content, DataType, Row};
pub use sync::{SyncReply, SyncRequest};
pub use time::UnixMillis;
pub use worker_id::WorkerId;
