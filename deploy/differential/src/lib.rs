//! The same random commands to a real Redis and to Tercet: their replies must be equal.
//!
//! ```text
//!              ┌─▶ redis-server, private, on a socket file ─▶ reply ─┐
//! grammar ─▶ command                                                 ├─▶ equal? ─no─▶ a deliberate difference? ─no─▶ report
//!              └─▶ Tercet: over an engine in memory, or a cluster ──▶ reply ─┘
//! ```
//!
//! The commands ([`grammar`]) are all that work on keys and values, with arguments that are often wrong: few keys, so
//! that commands meet each other's values; numbers at the ends of their ranges; options that exclude one another. Where
//! Tercet departs on purpose, [`differences`] says so and why; nothing else may differ. From time to time everything
//! that both hold is compared, and both begin again empty.

pub mod comparison;
pub mod differences;
pub mod generator;
pub mod grammar;
pub mod peer;
pub mod redis;
pub mod run;
pub mod tercet;

pub use run::{Options, Report, run};
