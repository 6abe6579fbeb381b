//! What programs share that run a local Tercet cluster to try something on it: the `tercet` program, a cluster that it
//! starts in a temporary directory, the processes of such a cluster, and a progress bar.
//!
//! Tercet is used as a person uses it, through its program; nothing here is linked with it.

pub mod binary;
pub mod ports;
pub mod processes;
pub mod progress;
pub mod up;
