//! The RESP gateway: Redis's protocol over the coordinator.

pub mod command;
pub mod encode;
pub mod glob;
mod inline;
pub mod reply;
pub mod scanner;
