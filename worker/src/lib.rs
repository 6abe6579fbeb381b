//! A worker: one storage node over its own dedicated PostgreSQL, which it alone writes.
//!
//! ```text
//!   frontend ──Exchange──▶ service ──▶ engine ──▶ replica   the rules, pure
//!                                        └──────▶ store     PostgreSQL
//!   frontend ◀─Heartbeat── heartbeat ──▶ engine
//!   Prometheus ──────────▶ http
//! ```

mod auth;
pub mod config;
pub mod engine;
mod heartbeat;
mod http;
pub mod replica;
mod service;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod worker;

pub use config::Config;
pub use worker::{RunError, Worker, run};
