//! A worker: one storage node over its own dedicated PostgreSQL, which it alone writes.

pub mod config;
pub mod replica;
pub mod store;

pub use config::Config;
