//! Tercet in a box: the real coordinator and the real replica under a scheduler that a seed drives.
//!
//! ```text
//!   clients ─▶ frontends (coordinator core) ─▶ network ─▶ workers (replica over a store in memory)
//!                 crash, clocks apart         lose, double,    crash, disk full, commits out of order,
//!                                             delay, cut       unknown outcomes, orphans that land late
//! ```
//!
//! No thread, no runtime, no real time: futures are polled by hand, and the next event comes from an
//! [agenda](agenda::Agenda) in simulated microseconds. So a million schedules run in minutes, and each replays from its
//! seed. Clients' histories go through the checker of `tercet-check`; the disks are looked at too.

pub mod agenda;
pub mod campaign;
mod chores;
mod client;
mod clients;
mod frontend;
mod history;
mod judge;
mod keys;
mod model;
mod plan;
mod random;
mod ring;
pub mod schedule;
mod tasks;
pub mod trace;
mod trouble;
mod worker;
mod world;

pub use campaign::{Campaign, Totals};
pub use schedule::{Report, run, run_traced};
pub use trace::Trace;
