//! What programs share that run a local Tercet cluster to try something on it: the `tercet` program, a cluster that it
//! starts in a temporary directory, its processes, HTTP to its parts, a progress bar, and how a program ends.
//!
//! Tercet is used as a person uses it, through its program; nothing here is linked with it.

pub mod binary;
pub mod exit;
pub mod http;
pub mod ports;
pub mod processes;
pub mod progress;
pub mod up;
