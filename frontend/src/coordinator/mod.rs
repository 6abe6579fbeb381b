//! The coordinator: what RESP and REST call to read and write keys.

pub mod api;
mod asks;
pub mod cluster;

pub mod core;

mod gather;
mod instruments;
pub mod memory;
pub mod repair;
pub mod room;
pub(crate) mod roster;
mod scan;

pub mod status;
pub mod sweeper;

pub use api::{
    Change, Coordinator, DrainError, Engine, Found, KeyCount, Op, OpError, ReadLevel, ReadOp, ScanFilter,
    ScanPage, ScanPosition, Update, WorkerReadError, WriteLevel, WriteOp, Written,
};
