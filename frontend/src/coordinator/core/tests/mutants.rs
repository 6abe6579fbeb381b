//! Each rule of the coordinator can be broken, and a test notices.

use tercet_common::mutants::{Mutant, fails_without};

use super::{contended, directed, overtaken, recalled, reconfigured};

const NOTICED_BY: &[(Mutant, fn())] = &[
    (Mutant::GetFromOwnerMemory, overtaken::a_read_behind_a_put_that_was_written_over_sees_what_did),
    (Mutant::ProofOfOne, recalled::a_deposed_owner_does_not_answer_what_it_remembers),
    (Mutant::RememberUnpromised, recalled::what_those_said_who_did_not_promise_is_not_remembered),
    (Mutant::GetUnrewritten, directed::a_version_that_only_a_minority_holds_is_not_passed_on_as_chosen),
    (Mutant::RepairWithoutPromise, directed::a_version_that_only_a_minority_holds_is_not_passed_on_as_chosen),
    (Mutant::NoJointQuorums, reconfigured::a_write_in_a_joint_epoch_needs_both_majorities),
    (Mutant::RetryUncertain, overtaken::only_what_changed_something_is_uncertain_when_a_put_was_written_over),
    (Mutant::RetryOverCollected, contended::a_put_whose_successor_may_be_collected_is_not_applied_again),
    (Mutant::UnansweredAsRefused, directed::a_put_that_only_one_replica_stored_is_uncertain),
    (Mutant::ExpiryWithoutTombstone, directed::an_expired_value_is_absent_once_its_tombstone_is_acknowledged),
    (Mutant::MemoryOverGenerations, contended::what_waits_behind_a_flush_does_not_build_on_what_it_deleted),
    (Mutant::FlushWithoutHold, contended::a_flush_waits_for_puts_under_way),
];

#[test]
fn every_broken_rule_is_noticed() {
    for (mutant, test) in NOTICED_BY {
        assert!(fails_without(*mutant, *test), "{mutant:?} goes unnoticed");
    }
}
