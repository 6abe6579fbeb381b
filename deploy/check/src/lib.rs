//! Judges recorded histories: did the store keep its promise to its clients?
//!
//! A client notes for each [`Operation`] when it called, when the answer came and what it was. [`check`] then looks for
//! one order of the operations of a key that explains every answer and contradicts no clock: what returned before
//! another was called must come before it. Linearizability is local (Herlihy and Wing 1990, section 3.3), so keys are
//! judged one by one.
//!
//! ```text
//!   client 1   |-- SET k a: OK --|
//!   client 2            |-- GET k: nil --|              fine: the GET came first
//!   client 2                                 |-- GET k: nil --|    a violation: the SET had returned
//! ```
//!
//! An operation with an unknown outcome ([`Outcome::Uncertain`]) may take effect at any time after its call, or never.
//! One that was refused ([`Outcome::NotApplied`]) must not have taken effect, so it is left out, and a trace of it in a
//! later answer is a violation.
//!
//! The search is exponential in the worst case. It gets a bound, and [`Verdict::Undecided`] is no pass: record less per
//! key, or fewer unknown outcomes.

mod counter;
mod history;
mod search;
mod string;

pub use counter::{Counter, CounterFault};
pub use history::{Operation, Outcome, Span};
pub use search::{Model, Verdict, check};
pub use string::{Answer, Command, StringModel, StringState};

/// Configurations that a search may visit unless told otherwise. Histories of a few hundred operations by a handful of
/// clients take some thousands.
pub const DEFAULT_BUDGET: usize = 1_000_000;
