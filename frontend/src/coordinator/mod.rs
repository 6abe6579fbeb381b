//! The coordinator: what RESP and REST call to read and write keys.

pub mod api;
pub mod cluster;

pub mod core;

mod instruments;
pub mod memory;
pub mod repair;
mod scan;

pub mod status;
pub mod sweeper;

pub use api::{
    Change, Coordinator, Engine, Found, KeyCount, Op, OpError, ReadLevel, ReadOp, ScanFilter, ScanPage,
    ScanPosition, Update, WorkerReadError, WriteLevel, WriteOp, Written,
};
