//! The controller: two gateways (RESP and REST) over one coordinator, the ring, and membership. It keeps no user data.
//!
//! ```text
//! resp ─┐                                   ┌─ replica (one link per worker: batches over gRPC streams)
//!       ├─▶ coordinator (pure core, shell) ─┤
//! rest ─┘                                   └─ membership (heartbeats in, ring out)
//! ```

pub mod config;
pub mod coordinator;
pub mod healing;
pub mod membership;
pub mod replica;
pub mod resp;
pub mod rest;
pub mod server;

pub use config::Config;
pub use server::{Frontend, StartError, run};
