//! Tercet in a box: the real coordinator and the real replica under a scheduler that a seed drives, and the real ring changes.
//!
//! ```text
//!   clients ─▶ frontends (coordinator core) ─▶ network ─▶ workers (replica over a store in memory)
//!              membership, planner            lose, double,    register of ring configurations
//!                 crash, clocks apart         delay, cut       crash, disk full, lost or set back, commits out of
//!                                                              order, unknown outcomes, orphans that land late
//! ```
//!
//! Nobody is told which ring there is. A frontend that starts finds it out from the workers, several of them change it at
//! once, and each acts on what is in force as far as it knows (`council`, `decide`, `change`).
//!
//! No thread, no runtime, no real time: futures are polled by hand, and the next event comes from an
//! [agenda](agenda::Agenda) in simulated microseconds. So a million schedules run in minutes, and each replays from its
//! seed. Clients' histories go through the checker of `tercet-check`; the disks are looked at too.

mod acceptor;
pub mod agenda;
mod calls;
pub mod campaign;
mod change;
mod chores;
mod client;
mod clients;
mod council;
mod decide;
mod driver;
mod frontend;
mod history;
mod judge;
mod keys;
mod loss;
mod model;
mod network;
mod plan;
mod random;
mod repair;
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
