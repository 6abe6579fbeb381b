//! One kind of fault, over and over, under load; then everything heals, and is checked.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rand::RngExt;
use tercet_harness::progress::Progress;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::binary::Binary;
use crate::faults::{Kind, Needs};
use crate::judge::{history_of, judge};
use crate::load::{Load, Tally};
use crate::replicas::{Comparison, Difference, rows_of, wait_until_equal};
use crate::report::{Report, millis, write_stories};
use crate::seed::Seed;
use crate::violation::{Class, Violation};

/// After every fault the cluster must be whole, and in the end all copies equal, within this.
const HEAL_DEADLINE: Duration = Duration::from_secs(60);
/// Between two faults, milliseconds.
const CALM: std::ops::Range<u64> = 1_000..4_000;
/// Keys whose copies differ that are told one by one.
const DIFFERENCES_MAX: usize = 50;
/// Violations whose rows are added to the evidence.
const LOOKED_UP_MAX: usize = 20;
/// Room for a database, its log (see [`Cluster::put_on_small_disks`]) and the rows of a run.
const SMALL_DISK_MIB: u64 = 512;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) each: Duration,
    pub(crate) seed: u64,
    pub(crate) workers: u16,
    pub(crate) clients: usize,
    pub(crate) rate: u32,
    /// Where evidence goes.
    pub(crate) evidence: PathBuf,
}

/// Runs one kind. Whatever goes wrong is in the report.
pub(crate) async fn run(kind: &Kind, settings: &Settings, binary: &Binary, progress: &Progress) -> Report {
    let mut report = Report { fault: kind.name, does: kind.does, undone: kind.undone, ..Report::default() };
    report.skipped = kind.obstacle(binary).await;
    if report.skipped.is_some() {
        return report;
    }
    if let Err(error) = attempt(kind, settings, binary, progress, &mut report).await {
        report.violations.push(Violation::new(Class::Broken, format!("{error:#}")));
    }
    if !report.violations.is_empty() {
        let dir = evidence(settings, kind);
        match write_stories(&dir, settings.seed, &report) {
            Ok(()) => report.evidence = Some(dir),
            Err(error) => progress.say(&format!("evidence cannot be written to {}: {error}", dir.display())),
        }
    }
    report
}

fn evidence(settings: &Settings, kind: &Kind) -> PathBuf {
    settings.evidence.join(format!("{}-seed-{}", kind.name, settings.seed))
}

async fn attempt(
    kind: &Kind,
    settings: &Settings,
    binary: &Binary,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let seed = Seed::new(settings.seed, kind.name);
    progress.say(&format!("{}: {}; then {}", kind.name, kind.does, kind.undone));
    let mut cluster = Cluster::start(binary, settings.workers).await?;
    match kind.needs {
        Needs::Links => cluster.put_behind_links().await.context("putting workers behind proxies")?,
        Needs::SmallDisks => {
            cluster.put_on_small_disks(SMALL_DISK_MIB).await.context("putting data on small disks")?;
        }
        Needs::Nothing | Needs::Command(_) => {}
    }
    cluster.wait_until_whole(HEAL_DEADLINE).await?;
    let load = Load::start(cluster.resp(), settings.clients, settings.rate, &seed);
    let outcome = rounds(kind, settings, &seed, &mut cluster, &load, progress, report).await;
    let judged = finish(kind, &mut cluster, load, progress, report).await;
    if outcome.is_err() || judged.is_err() || !report.violations.is_empty() {
        cluster.copy_logs(&evidence(settings, kind).join("logs"))?;
    }
    outcome.and(judged)?;
    cluster.end().await
}

/// Faults until the time is over.
async fn rounds(
    kind: &Kind,
    settings: &Settings,
    seed: &Seed,
    cluster: &mut Cluster,
    load: &Load,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rng = seed.rng("faults");
    let begun = Instant::now();
    let left = || settings.each.saturating_sub(begun.elapsed());
    while !left().is_zero() {
        let (mut fault, hold) = kind.draw(&mut rng, cluster.workers());
        let calm = Duration::from_millis(rng.random_range(CALM));
        tokio::time::sleep(calm.min(left())).await;
        // The last one is cut short, so that the time is bounded.
        let hold = hold.min(left());
        let what = format!("{}: {} for {} ms", kind.name, fault.says(), hold.as_millis());
        progress.at(begun.elapsed(), format!("{what}, {} acked", load.acked()));
        progress.say(&format!("{what} ({} acked)", load.acked()));
        fault.inject(cluster).await.with_context(|| fault.says())?;
        tokio::time::sleep(hold).await;
        fault.heal(cluster).await.with_context(|| format!("undoing {}", fault.says()))?;
        report.rounds += 1;
        match cluster.wait_until_whole(HEAL_DEADLINE).await {
            Ok(took) => report.longest_heal_ms = report.longest_heal_ms.max(millis(took)),
            Err(error) => {
                let text = format!("after {}: {error:#}", fault.says());
                report.violations.push(Violation::new(Class::Unhealed, text));
                return Ok(());
            }
        }
        if kind.loses_data {
            // A second loss before the first is made good may cost the last copy, and rightly so.
            let pause = load.pause().await;
            let equal = compare(cluster, progress, report).await;
            drop(pause);
            if equal.is_none() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Heals everything, ends the load, and checks.
async fn finish(
    kind: &Kind,
    cluster: &mut Cluster,
    load: Load,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    progress.say(&format!("{}: healing and checking", report.fault));
    cluster.heal().await.context("healing in the end")?;
    if let Err(error) = cluster.wait_until_whole(HEAL_DEADLINE).await {
        report.violations.push(Violation::new(Class::Unhealed, format!("in the end: {error:#}")));
    }
    let finished = load.finish().await?;
    let already_unequal = report.count(|class| class == Class::Unequal) > 0;
    if !already_unequal {
        report.equal_after_ms = compare(cluster, progress, report).await.map(millis);
    }
    let record = finished.read().await?;
    let Tally { operations, acked, refused, uncertain, longest_stall, longest_command, .. } = record.tally;
    (report.operations, report.acked) = (operations, acked);
    (report.refused, report.uncertain) = (refused, uncertain);
    report.longest_stall_ms = millis(longest_stall);
    report.longest_command_ms = millis(longest_command);
    report.keys = record.keys.len() as u64;
    report.checked = record.keys.iter().map(|key| key.history.len() as u64 + 1).sum();
    for violation in &mut report.violations {
        if let Some(key) = &violation.key {
            violation.story = history_of(&record, key);
        }
    }
    if !kind.fails_commands && refused + uncertain > 0 {
        let words = record.tally.refusal.as_deref().map(|words| format!(": {words}")).unwrap_or_default();
        let text = format!("{uncertain} commands were left uncertain and {refused} refused{words}");
        report.violations.push(Violation::new(Class::Failed, text));
    }
    let violations = tokio::task::spawn_blocking(move || judge(&record)).await.context("judging")?;
    for mut violation in violations {
        if let Some(key) = violation.key.as_deref().filter(|_| report.violations.len() < LOOKED_UP_MAX) {
            violation.story.push_str(&rows_of(cluster, key).await);
        }
        report.violations.push(violation);
    }
    Ok(())
}

/// Waits until all copies are equal; if they are not in time, the report says which.
async fn compare(cluster: &Cluster, progress: &Progress, report: &mut Report) -> Option<Duration> {
    let Comparison { keys, rows, took, differences } = match wait_until_equal(cluster, HEAL_DEADLINE).await {
        Ok(comparison) => comparison,
        // What clients saw can be judged all the same.
        Err(error) => {
            report.violations.push(Violation::new(Class::Broken, format!("{error:#}")));
            return None;
        }
    };
    let verdict = if differences.is_empty() { "equal" } else { "not equal" };
    progress.say(&format!("{}: {keys} keys in {rows} rows, {verdict} after {took:.1?}", report.fault));
    if differences.is_empty() {
        return Some(took);
    }
    let more = differences.len().saturating_sub(DIFFERENCES_MAX);
    for Difference { key, text } in differences.into_iter().take(DIFFERENCES_MAX) {
        report.violations.push(Violation::of_key(Class::Unequal, &key, text, String::new()));
    }
    if more > 0 {
        report
            .violations
            .push(Violation::new(Class::Unequal, format!("the copies of {more} more keys differ")));
    }
    None
}
