//! The coordinator: what RESP and REST call to read and write keys.

pub mod api;
pub mod memory;
pub mod status;

pub use api::{
    Change, Coordinator, Engine, Found, KeyCount, Op, OpError, ReadLevel, ReadOp, ScanFilter, ScanPage,
    ScanPosition, Update, WorkerReadError, WriteLevel, WriteOp, Written,
};
