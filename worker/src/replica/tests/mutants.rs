//! Each rule of the replica can be broken, and a test notices.

use tercet_common::mutants::{Mutant, fails_without};

use super::*;

const NOTICED_BY: &[(Mutant, fn())] = &[
    (Mutant::BaseWithoutPromise, promises::get_for_write_promises_waits_and_then_reads),
    (
        Mutant::PrepareWithoutBarrier,
        promises::a_prepare_waits_for_writes_accepted_earlier_and_for_no_later_ones,
    ),
    (Mutant::ForgetPromises, promises::a_promise_that_was_kept_binds_after_a_restart),
    (Mutant::EpochWithoutFence, promises::a_get_of_a_new_epoch_fences_the_older_one_durably),
    (Mutant::NoFloorCheck, writing::at_or_below_the_floor_only_a_row_that_exists_is_written),
    (Mutant::AnswerBeforeCommit, reading::a_write_is_seen_only_after_its_commit),
    (Mutant::UnknownAsRefused, writing::an_unknown_outcome_is_never_a_refusal),
    (Mutant::CacheFilledLate, reading::a_read_that_raced_a_commit_does_not_fill_the_cache),
    (Mutant::CollectWithoutBarrier, collecting::a_collection_waits_for_an_install_of_the_epoch_before),
    (Mutant::KnownWhileChanging, collecting::a_write_beside_a_change_is_not_said_to_be_known),
    (Mutant::NewcomerShowsHidden, copying::a_stale_row_is_never_shown_from_the_database_or_the_cache),
    (Mutant::CopyAfterFinish, copying::a_copy_that_has_finished_is_final_in_its_epoch),
];

#[test]
fn every_broken_rule_is_noticed() {
    for (mutant, test) in NOTICED_BY {
        assert!(fails_without(*mutant, *test), "{mutant:?} goes unnoticed");
    }
}
