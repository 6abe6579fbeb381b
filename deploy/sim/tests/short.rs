//! A thousand schedules, as every change must survive them; `tercet-sim` runs the millions.

use tercet_sim::{Campaign, Trace, run_traced};

#[test]
fn schedules_break_no_promise() {
    const SEEDS: u64 = 1_000;
    let campaign = Campaign { from: 0, seeds: SEEDS, time: None, threads: 2, violations_max: 1 };
    let totals = campaign.run(|| (), |_| ());
    let first = totals
        .violations
        .first()
        .map(|report| (report.seed, report.violation.as_deref().unwrap_or_default()));
    assert_eq!(first, None, "(seed, what must not be)");
    // The schedules must not be so rough that nothing happens in them.
    assert!(totals.answered > SEEDS * 20, "{totals:?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let traces = [(), ()].map(|()| match run_traced(seed, Trace::Keep(Vec::new())) {
            (_, Trace::Keep(lines)) => lines,
            _ => Vec::new(),
        });
        assert!(traces[0].len() > 100);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}
