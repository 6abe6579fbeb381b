//! Switches that break one rule of the protocol each, to show that a test would notice (design 4, 6 and 7).
//!
//! Only with the feature `mutants`, and only on a thread that has switched one on; otherwise [`on`] is `false`, and without
//! the feature a constant, so that nothing of it is left in a program for use.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// A rule that is broken.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

mutants! {
    /// A read that waits behind the owner's put is answered from what the owner remembers.
    GetFromOwnerMemory => "get-from-owner-memory",
    /// A read answers the highest version that it met, although only a minority holds it.
    GetUnrewritten => "get-unrewritten",
    /// While replicas change, the new ones alone make a quorum.
    NoJointQuorums => "no-joint-quorums",
    /// A worker forgets at a restart what it promised.
    ForgetPromises => "forget-promises",
    /// An operation whose put somebody has written over is applied again.
    RetryUncertain => "retry-uncertain",
    /// An operation of whose put nothing is found is applied again, although that may be collected.
    RetryOverCollected => "retry-over-collected",
    /// A newcomer copies from one old replica.
    CopyFromOne => "copy-from-one",
    /// The base of a read-modify-write is read without a promise.
    BaseWithoutPromise => "base-without-promise",
    /// Read repair gives a version that no quorum holds to everybody, whatever they promised.
    RepairWithoutPromise => "repair-without-promise",
    /// A prepare is answered although earlier puts are still under way.
    PrepareWithoutBarrier => "prepare-without-barrier",
    /// A store opens a database while transactions of an earlier life may still land.
    OrphansNotEnded => "orphans-not-ended",
    /// A put at or below the floor comes in, although the key has no row.
    NoFloorCheck => "no-floor-check",
    /// Tombstones are deleted without waiting for puts accepted before.
    CollectWithoutBarrier => "collect-without-barrier",
    /// Tombstones are collected that one replica lacks.
    CollectWithoutAll => "collect-without-all",
    /// A newcomer shows what it held before the copy.
    NewcomerShowsHidden => "newcomer-shows-hidden",
    /// What a newcomer held before, and the others have not, stays after the copy.
    StaleRowsKept => "stale-rows-kept",
    /// A copy begins in a newcomer whose copy has finished.
    CopyAfterFinish => "copy-after-finish",
    /// An expired value is answered as gone without a tombstone.
    ExpiryWithoutTombstone => "expiry-without-tombstone",
    /// A put is answered when its commit begins.
    AnswerBeforeCommit => "answer-before-commit",
    /// A commit without an outcome is answered as refused.
    UnknownAsRefused => "unknown-as-refused",
    /// What the owner remembers of a key survives take-overs and flushes.
    MemoryOverGenerations => "memory-over-generations",
    /// One replica proves that the owner is not deposed.
    ProofOfOne => "proof-of-one",
    /// What was read is remembered although who answered has not promised the owner's term.
    RememberUnpromised => "remember-unpromised",
    /// A flush is put while puts are under way, and puts while a flush is.
    FlushWithoutHold => "flush-without-hold",
    /// A write is said to be over what the cache holds, while a change may put something else there.
    KnownWhileChanging => "known-while-changing",
    /// A look-up fills the cache although a commit ended meanwhile.
    CacheFilledLate => "cache-filled-late",
    /// An unanswered put is reported as not applied.
    UnansweredAsRefused => "unanswered-as-refused",
    /// A new epoch is answered before older ones are fenced off durably.
    EpochWithoutFence => "epoch-without-fence",
    /// A worker votes on ring configurations below what it promised.
    VoteBelowPromise => "vote-below-promise",
    /// A worker votes for any number, not only for the one behind what it knows to be decided.
    VoteOutOfTurn => "vote-out-of-turn",
    /// A configuration is put to the vote although no majority has promised its term.
    VoteWithoutPromises => "vote-without-promises",
    /// A configuration is put to the vote although those who promised have voted for another one.
    VoteUnbound => "vote-unbound",
    /// The voters of the next configuration alone decide it.
    DecideWithoutElectors => "decide-without-electors",
    /// A worker that forgot promises and votes counts as a voter.
    CountForgetful => "count-forgetful",
}

#[cfg(any(test, feature = "mutants"))]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether the rule is broken on this thread.
    pub fn on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Breaks one rule on this thread, or none.
    pub fn switch(mutant: Option<Mutant>) {
        ON.set(mutant);
    }

    /// Whether a test, all of which runs on this thread, fails when the rule is broken.
    pub fn fails_without(mutant: Mutant, test: fn()) -> bool {
        switch(Some(mutant));
        let outcome = std::panic::catch_unwind(test);
        switch(None);
        outcome.is_err()
    }
}

#[cfg(any(test, feature = "mutants"))]
pub use switch::{fails_without, on, switch};

/// Whether the rule is broken: never.
#[cfg(not(any(test, feature = "mutants")))]
pub const fn on(_: Mutant) -> bool {
    false
}
