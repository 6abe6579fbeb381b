//! `tercet-faults`: breaks a real cluster and checks that it keeps its promises.
//!
//! ```text
//!            ┌─ load: clients on hot and cold keys ──────▶ record ──▶ judge: linearizable? nothing lost?
//!   seed ──▶ │                                 tercet up
//!            └─ faults: one kind, round by round ────────▶ heal ────▶ replicas: equal in SQL?
//! ```
//!
//! Each kind of fault ([`faults::KINDS`]) gets a fresh cluster and the same time. A seed decides what clients send and
//! which fault comes when; the machine decides the rest, so a run cannot be replayed to the letter.

mod cli;
mod cluster;
mod faults;
mod judge;
mod load;
mod proxy;
mod replicas;
mod report;
mod run;
mod seed;
mod violation;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use comfy_table::{Table, presets};
use tercet_harness::exit;
use tercet_harness::progress::Progress;
use tokio::signal::unix::{SignalKind, signal};

use self::cli::Args;
use self::cluster::binary::Binary;
use self::faults::{KINDS, Kind};
use self::report::Report;
use self::run::Settings;

const VIOLATED: u8 = 1;
const NOT_TRIED: u8 = 2;
/// What a kind takes beside its faults: a start, healing, checks. For the progress bar.
const OVERHEAD_SECONDS: u64 = 20;

#[tokio::main]
async fn main() -> ExitCode {
    exit::code("tercet-faults", NOT_TRIED, Box::pin(try_all(&Args::parse())).await)
}

async fn try_all(args: &Args) -> anyhow::Result<ExitCode> {
    if args.list {
        println!("{}", list());
        return Ok(ExitCode::SUCCESS);
    }
    let kinds = args.kinds();
    let settings = Settings {
        each: args.minutes_per_fault,
        seed: args.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        workers: args.workers,
        clients: args.clients.into(),
        rate: args.rate,
        evidence: args.evidence.clone().unwrap_or_else(|| std::env::temp_dir().join("tercet-faults")),
    };
    let binary = Binary::locate(args.tercet.clone()).await?;
    let seconds = (settings.each.as_secs() + OVERHEAD_SECONDS) * kinds.len() as u64;
    let progress = Progress::new(seconds);
    progress.say(&format!(
        "{} kinds of fault, seed {}, {}",
        kinds.len(),
        settings.seed,
        binary.path().display()
    ));
    // Both must end the cluster with us.
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for signals")?;
    let (mut reports, mut whole) = (Vec::new(), true);
    for kind in kinds {
        if !whole {
            break;
        }
        tokio::select! {
            report = run::run(kind, &settings, &binary, &progress) => {
                report::summary(&report).iter().for_each(|line| progress.say(line));
                reports.push(report);
            }
            // Dropping the run ends its cluster.
            _ = interrupt.recv() => whole = false,
            _ = terminate.recv() => whole = false,
        }
    }
    if !whole {
        progress.say("interrupted");
    }
    progress.finish();
    show(&reports, settings.seed);
    if let Some(path) = &args.json {
        write_json(path, settings.seed, &reports).with_context(|| format!("--json {}", path.display()))?;
    }
    let violated = reports.iter().any(|report| !report.violations.is_empty());
    Ok(match (violated, whole) {
        (true, _) => ExitCode::from(VIOLATED),
        (false, false) => ExitCode::from(NOT_TRIED),
        (false, true) => ExitCode::SUCCESS,
    })
}

fn show(reports: &[Report], seed: u64) {
    println!("{}", report::table(reports));
    println!("seed {seed}");
    for report in reports {
        report::summary(report).iter().for_each(|line| println!("{line}"));
        if let Some(evidence) = &report.evidence {
            println!("{}: evidence in {}", report.fault, evidence.display());
        }
    }
}

fn write_json(path: &std::path::Path, seed: u64, reports: &[Report]) -> anyhow::Result<()> {
    let document = serde_json::json!({ "seed": seed, "faults": reports });
    std::fs::write(path, serde_json::to_vec_pretty(&document)?)?;
    Ok(())
}

fn list() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["fault", "what it does", "how it is undone"]);
    for Kind { name, does, undone, .. } in KINDS {
        table.add_row([name, does, undone]);
    }
    table
}
