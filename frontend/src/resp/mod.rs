//! The RESP gateway: Redis's protocol over the coordinator.
//!
//! ```text
//! socket ─bytes─▶ scanner ─words─▶ table ─row─▶ handler ─▶ coordinator
//!    ▲                                             │
//!    └─bytes── encode ◀─reply, in order── pipeline ◀┘
//! ```
//!
//! `server` accepts, `connection` runs one client, `gateway` is what they share. Commands live in `command`, a file
//! each or a file per family, and see no bytes of the protocol.

pub mod clients;
pub mod command;
pub mod connection;
pub mod encode;
pub mod gateway;
pub mod glob;
mod inline;
pub mod latency;
pub mod output;
pub mod pause;
pub mod pipeline;
pub mod reply;
pub mod scanner;
pub mod server;
pub mod session;
pub mod slowlog;
pub mod stats;
#[cfg(test)]
mod tests;

pub use server::serve;
