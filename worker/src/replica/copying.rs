//! What a newcomer shows of a partition while it copies it.
//!
//! It may have been a replica before, and hold values that were deleted since and whose tombstones are collected, or
//! a flush that never was chosen. So of what is older than its joint epoch it shows only what the copy has passed:
//!
//! ```text
//!   hash:    00 ─────────────── copied to ─────────────── ff
//!   shown:   every row            │       rows of the joint epoch
//! ```
//!
//! How far the copy has come is kept in memory only. After a restart all is hidden again, and the copy begins anew;
//! rows that are there already are not sent again.
//!
//! That it has **finished** is durable, and final in its epoch: the configuration that makes the newcomer a full replica
//! may be decided, by a frontend that is slow or dead by now, at any time from then on. A second copy would evict rows
//! and set a flush that its own sources explain only when it has come to its end, so it is not let in.

use tercet_common::mutants::{self, Mutant};
use tercet_common::{Ballot, Epoch, KeyHash};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copying {
    /// The joint epoch. Whatever was accepted in it is shown.
    pub(super) since: Epoch,
    /// The copy that has begun last: the flush is its sources'.
    pub(super) begun: Option<u64>,
    pub(super) copied: Copied,
}

/// How far the copy has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Copied {
    /// All hashes below this one.
    Below(KeyHash),
    All,
}

impl Copied {
    pub(super) const NOTHING: Self = Self::Below(KeyHash([0; 16]));
}

impl Copying {
    /// At the beginning of the joint epoch `since`, or behind the copy that has finished in it. `finished`: the last
    /// epoch whose copy has.
    pub(super) fn new(since: Epoch, finished: Epoch) -> Self {
        let whole = finished == since && !mutants::on(Mutant::CopyAfterFinish);
        Self { since, begun: None, copied: if whole { Copied::All } else { Copied::NOTHING } }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.copied == Copied::All && !mutants::on(Mutant::CopyAfterFinish)
    }

    pub(super) fn hides(&self, hash: KeyHash, ballot: Ballot) -> bool {
        let passed = match self.copied {
            Copied::Below(end) => hash < end,
            Copied::All => true,
        };
        ballot.epoch < self.since && !passed
    }

    pub(super) fn hides_flush(&self, ballot: Ballot) -> bool {
        ballot.epoch < self.since && self.begun.is_none() && !self.is_whole()
    }
}
