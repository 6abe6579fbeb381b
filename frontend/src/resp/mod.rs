//! The RESP gateway: Redis's protocol over the coordinator.

pub mod command;
pub mod glob;
pub mod reply;
