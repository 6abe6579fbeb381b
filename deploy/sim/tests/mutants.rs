//! Each rule of the protocol can be broken, and one named seed notices. The seeds come from `tercet-sim --mutant all`.

use tercet_common::mutants::{Mutant, switch};
use tercet_sim::campaign::run_caught;

const KILLERS: &[(Mutant, u64)] = &[];

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
    let missing: Vec<_> = Mutant::ALL.iter().filter(|m| !KILLERS.iter().any(|(k, _)| k == *m)).collect();
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
