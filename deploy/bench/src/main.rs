//! `tercet-bench`: how fast Tercet is, as a ratio to what people would use instead.
//!
//! ```text
//!            ┌─ Tercet (tercet up) ─┐
//!   rows ──▶ │  PostgreSQL, trio    │ A B C A B C … ──▶ figures ──▶ medians, ratios ──▶ table, JSON, SVG
//!            └─ Redis, etcd ────────┘
//! ```
//!
//! A figure alone says more about the machine than about the program. So everything is measured in turn in one run on one
//! machine, clients included, and what counts is the median of the ratios of each turn. The rows are in [`rows::ROWS`].

mod cli;
mod figure;
mod load;
mod machine;
mod plot;
mod report;
mod rows;
mod sample;
mod systems;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use comfy_table::{Table, presets};
use tercet_harness::binary::Binary;
use tercet_harness::exit;
use tercet_harness::progress::Progress;
use tokio::signal::unix::{SignalKind, signal};

use self::cli::Args;
use self::machine::Machine;
use self::rows::{Bench, ROWS, Report};
use self::systems::{Kind, Place};

const NOT_MEASURED: u8 = 1;
/// Of the progress bar.
const TICK: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> ExitCode {
    exit::code("tercet-bench", NOT_MEASURED, Box::pin(measure(&Args::parse())).await)
}

async fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    if args.list {
        println!("{}", list());
        return Ok(ExitCode::SUCCESS);
    }
    let (rows, settings) = (args.rows(), args.settings());
    let place = Place {
        dir: args.dir.clone().unwrap_or_else(std::env::temp_dir),
        postgres: postgres_programs(args.postgres_bin.as_deref())?,
        tercet: Binary::locate(args.tercet.clone()).await?,
    };
    machine::check_is_disk(&place.dir)?;
    let programs =
        [place.tercet.path(), &place.postgres.join("postgres"), Path::new("redis-server"), Path::new("etcd")];
    let machine = Machine::look(&place.dir, &programs)?;
    let estimate: Duration = rows.iter().map(|row| row.estimate(&settings)).sum();
    let progress = Progress::new(estimate.as_secs());
    machine.lines().iter().for_each(|line| progress.say(line));
    // Both must end the servers with us.
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for signals")?;
    let mut bench =
        Bench { place: &place, settings, progress: &progress, running: BTreeMap::new(), missing: Vec::new() };
    let (mut reports, mut whole) = (Vec::new(), true);
    let begun = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    for (n, row) in rows.iter().enumerate() {
        let needed: Vec<Kind> = rows[n..].iter().flat_map(|row| row.systems()).collect();
        progress.say(&format!("{}: {}", row.name, row.says));
        let mut run = Box::pin(async {
            let ended = bench.end_all_but(&needed).await;
            let mut report = bench.run(row).await;
            report.failed.extend(ended.err().map(|error| format!("{error:#}")));
            report
        });
        let report = loop {
            tokio::select! {
                report = &mut run => break Some(report),
                _ = tick.tick() => {
                    progress.at(begun.elapsed(), format!("{}, {} of {} rows", row.name, n + 1, rows.len()));
                }
                // Dropping the run ends what it started.
                _ = interrupt.recv() => break None,
                _ = terminate.recv() => break None,
            }
        };
        drop(run);
        let Some(report) = report else {
            progress.say("interrupted");
            whole = false;
            break;
        };
        report::remarks(std::slice::from_ref(&report)).iter().for_each(|line| progress.say(line));
        reports.push(report);
    }
    let ended = bench.end_all_but(&[]).await;
    progress.finish();
    show(&machine, &reports);
    if let Some(path) = &args.json {
        let document = serde_json::json!({ "machine": machine, "settings": settings, "rows": reports });
        let written = std::fs::write(path, serde_json::to_vec_pretty(&document)?);
        written.with_context(|| format!("--json {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        draw(path, &machine, &reports).with_context(|| format!("--svg {}", path.display()))?;
    }
    ended?;
    Ok(match whole && reports.iter().all(|report| report.failed.is_empty()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NOT_MEASURED),
    })
}

fn show(machine: &Machine, reports: &[Report]) {
    let wide = reports.iter().filter(|report| report.wide).map(report::wide);
    let tables = std::iter::once(report::figures(reports)).chain(wide).chain([report::ratios(reports)]);
    tables.filter(|table| !table.is_empty()).for_each(|table| println!("{table}"));
    machine.lines().iter().chain(&report::remarks(reports)).for_each(|line| println!("{line}"));
}

fn draw(path: &Path, machine: &Machine, reports: &[Report]) -> anyhow::Result<()> {
    let report = reports.iter().find(|report| !report.curve.is_empty());
    let report = report.context("nothing was measured that could be drawn: choose the row half-peak")?;
    let caption = format!("Tercet, 4 workers, {}, {} cores, clients included", report.says, machine.cores);
    Ok(std::fs::write(path, plot::svg(&caption, &report.curve))?)
}

/// Where initdb, postgres, pg_basebackup and pgbench are.
fn postgres_programs(explicit: Option<&Path>) -> anyhow::Result<PathBuf> {
    const ALL: &[&str] = &["initdb", "postgres", "pg_basebackup", "pgbench"];
    let whole = |dir: &PathBuf| ALL.iter().all(|program| dir.join(program).is_file());
    if let Some(dir) = explicit {
        let dir = dir.to_owned();
        ensure!(whole(&dir), "--postgres-bin {}: not all of {} are there", dir.display(), ALL.join(", "));
        return Ok(dir);
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, dir)| whole(dir))
        .max();
    let asked = || {
        let output = std::process::Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())).filter(whole)
    };
    newest.map(|(_, dir)| dir).or_else(asked).with_context(|| {
        format!("no directory with {}: install PostgreSQL, or name it with --postgres-bin", ALL.join(", "))
    })
}

fn list() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["row", "what it measures", "systems"]);
    for row in ROWS {
        let systems: Vec<&str> = row.systems().iter().map(|kind| kind.name()).collect();
        let systems = if systems.is_empty() { "Tercet, of its own".to_owned() } else { systems.join("; ") };
        table.add_row([row.name, row.says, &systems]);
    }
    table
}
