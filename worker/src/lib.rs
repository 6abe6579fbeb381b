//! A worker: one storage node over its own dedicated PostgreSQL, which it alone writes.

pub mod config;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use config::Config;
