//! A short run with a fixed seed; the program makes long ones.

use tercet_differential::{Options, run};

#[test]
fn replies_are_those_of_redis() {
    let options = Options { commands: 5_000, seed: 1, tercet: None };
    let Some(report) = run(&options).expect("both can be asked") else {
        eprintln!("skipped: redis-server is not installed");
        return;
    };
    assert!(report.differences.is_empty(), "{report}");
    // A run in which everything fails would prove little.
    assert!(report.commands >= options.commands && report.errors < report.commands / 2, "{report}");
}
