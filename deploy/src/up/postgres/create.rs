//! Making the workers' databases.
//!
//! `initdb` runs once, into a template that is copied: four of them at once would take longer on few cores. Each copy
//! is synced to the disk before it gets its name, so a directory that has its name is complete. That all copies carry one
//! system identifier matters to replication between PostgreSQLs only, which Tercet does not use.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::find::Installation;
use super::server::SUPERUSER;
use crate::up::account::Account;
use crate::up::datadir::DataDir;
use crate::up::death;

const SUFFIX: &str = ".incomplete";
/// How much of a failed program's output is shown.
const OUTPUT_LINES: usize = 15;

/// The workers whose database does not exist yet. Remains of an interrupted attempt are removed.
pub(in crate::up) fn missing(dir: &DataDir, workers: &[String]) -> anyhow::Result<Vec<String>> {
    for entry in std::fs::read_dir(dir.databases())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| SUFFIX.ends_with(&*extension.to_string_lossy())) {
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(workers.iter().filter(|id| !dir.databases().join(id).join("PG_VERSION").exists()).cloned().collect())
}

/// Makes the databases of `workers`. Must run on the thread that outlives all others (see [`death`]).
pub(in crate::up) async fn create(
    dir: &DataDir,
    installation: &Installation,
    account: &Account,
    workers: &[String],
) -> anyhow::Result<()> {
    let databases = dir.databases();
    let incomplete = |name: &str| databases.join(format!("{name}{SUFFIX}"));
    let template = incomplete("template");
    account.create_private_dir(&template)?;
    let mut initdb = program(installation, account, "initdb");
    initdb.arg("--pgdata").arg(&template).args([
        "--username",
        SUPERUSER,
        "--encoding=UTF8",
        // Keys are bytes and never sorted by a language's rules; C is also the fastest and never changes.
        "--locale=C",
        "--auth-local=peer",
        "--auth-host=reject",
        // Notices a disk that hands back something else than was written; peers then have the right copy.
        "--data-checksums",
        // The copies are synced below; the template itself is thrown away.
        "--no-sync",
    ]);
    run(initdb, "initdb").await?;

    let mut tasks = JoinSet::new();
    for id in workers {
        let copy = incomplete(id);
        account.create_private_dir(&copy)?;
        let mut cp = Command::new("cp");
        // As the databases' owner, so that the copies are its own. `/.`: the content, into the directory that is there.
        cp.args(["-R", "-p"]).arg(template.join(".")).arg(&copy);
        prepare(&mut cp, account);
        let mut sync = program(installation, account, "initdb");
        sync.arg("--sync-only").arg("--pgdata").arg(&copy);
        let done = databases.join(id);
        tasks.spawn_local(async move {
            run(cp, "cp").await?;
            run(sync, "initdb --sync-only").await?;
            std::fs::rename(&copy, &done).with_context(|| format!("renaming {}", copy.display()))
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.context("making a database")??;
    }
    std::fs::File::open(&databases)
        .and_then(|dir| dir.sync_all())
        .context("syncing the databases' directory")?;
    std::fs::remove_dir_all(&template).context("removing the template")
}

/// A program of PostgreSQL, as the account that runs it.
fn program(installation: &Installation, account: &Account, name: &str) -> Command {
    let mut command = Command::new(installation.program(name));
    prepare(&mut command, account);
    command
}

fn prepare(command: &mut Command, account: &Account) {
    // PGDATA and its like would lead it astray, and messages are to be in one language.
    scrub(command);
    account.run(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // The supervisor's own directory may be one that the account cannot enter.
    command.current_dir("/");
    death::with_parent(command, Signal::SIGKILL);
}

/// Keeps the caller's environment from changing what PostgreSQL does.
pub(super) fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("LC_") || text.starts_with("TERCET_") || text == "LANG"
        {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C");
}

async fn run(mut command: Command, what: &str) -> anyhow::Result<()> {
    let output = command.output().await.with_context(|| format!("running {what}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    bail!(
        "{what} failed ({}):\n{}",
        output.status,
        lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n")
    )
}

/// The major version that a database was made by.
pub(in crate::up) fn major_of(database: &Path) -> anyhow::Result<u32> {
    let path: PathBuf = database.join("PG_VERSION");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} does not name a major version", path.display()))
}
