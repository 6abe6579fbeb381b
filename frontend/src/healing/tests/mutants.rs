//! Each rule of the procedures can be broken, and a test notices.

use tercet_common::mutants::{Mutant, fails_without};

use super::{collect, copy};

const NOTICED_BY: &[(Mutant, fn())] = &[
    (Mutant::CopyFromOne, copy::absence_at_one_source_hides_nothing_of_the_other),
    (Mutant::StaleRowsKept, copy::the_dead_stay_dead),
    (Mutant::CollectWithoutAll, collect::tombstones_that_all_hold_go_and_the_others_stay),
];

#[test]
fn every_broken_rule_is_noticed() {
    for (mutant, test) in NOTICED_BY {
        assert!(fails_without(*mutant, *test), "{mutant:?} goes unnoticed");
    }
}
