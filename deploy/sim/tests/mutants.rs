//! Each rule of the protocol can be broken, and one named seed notices. The seeds come from `tercet-sim --mutant all`.

use tercet_common::mutants::{Mutant, switch};
use tercet_sim::campaign::run_caught;

const KILLERS: &[(Mutant, u64)] = &[
    (Mutant::GetFromOwnerMemory, 2_256),
    (Mutant::GetUnrewritten, 2),
    (Mutant::NoJointQuorums, 182),
    (Mutant::ForgetPromises, 634),
    (Mutant::RetryUncertain, 8),
    (Mutant::RetryOverCollected, 874),
    (Mutant::CopyFromOne, 289),
    (Mutant::BaseWithoutPromise, 50),
    (Mutant::PrepareWithoutBarrier, 5),
    (Mutant::OrphansNotEnded, 12),
    (Mutant::NoFloorCheck, 1_920),
    (Mutant::CollectWithoutAll, 220),
    (Mutant::StaleRowsKept, 6_858),
    (Mutant::ExpiryWithoutTombstone, 5_886),
    (Mutant::AnswerBeforeCommit, 0),
    (Mutant::MemoryOverGenerations, 59),
    (Mutant::FlushWithoutHold, 69),
    (Mutant::UnansweredAsRefused, 1),
];

/// Rules whose break no schedule has shown yet, in some ten thousand.
const ALIVE: &[Mutant] = &[
    Mutant::RepairWithoutPromise,
    Mutant::CollectWithoutBarrier,
    Mutant::NewcomerShowsHidden,
    Mutant::UnknownAsRefused,
    Mutant::CacheFilledLate,
    Mutant::EpochWithoutFence,
];

#[test]
fn every_broken_rule_is_noticed() {
    // Some of what they do is a panic; it is told as what it is.
    std::panic::set_hook(Box::new(|_| ()));
    let survivors = KILLERS.iter().filter(|(mutant, seed)| {
        switch(Some(*mutant));
        let report = run_caught(*seed);
        switch(None);
        report.violation.is_none()
    });
    let survivors: Vec<_> = survivors.collect();
    let known = |m: &Mutant| ALIVE.contains(m) || KILLERS.iter().any(|(killed, _)| killed == m);
    let missing: Vec<_> = Mutant::ALL.iter().filter(|m| !known(m)).collect();
    drop(std::panic::take_hook());
    assert!(
        survivors.is_empty() && missing.is_empty(),
        "survive: {survivors:?}; without a seed: {missing:?}"
    );
}

#[test]
fn the_same_seeds_are_fine_when_no_rule_is_broken() {
    for (mutant, seed) in KILLERS {
        assert_eq!(run_caught(*seed).violation, None, "seed {seed} of {mutant:?}");
    }
}
