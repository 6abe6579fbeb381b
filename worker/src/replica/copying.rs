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
    pub(super) fn new(since: Epoch) -> Self {
        Self { since, begun: None, copied: Copied::NOTHING }
    }

    pub(super) fn hides(&self, hash: KeyHash, ballot: Ballot) -> bool {
        let passed = match self.copied {
            Copied::Below(end) => hash < end,
            Copied::All => true,
        };
        ballot.epoch < self.since && !passed
    }

    pub(super) fn hides_flush(&self, ballot: Ballot) -> bool {
        ballot.epoch < self.since && self.begun.is_none()
    }
}
