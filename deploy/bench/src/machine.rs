//! What the figures were measured on, and whether it keeps what it is told to.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::Serialize;

use crate::figure::Spread;

const SYNCS: usize = 200;
/// PostgreSQL's page.
const SYNC_BYTES: usize = 8192;
/// What a process has open beside its connections.
const OTHER_FILES: u64 = 1_000;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// Of the last minute, before anything was started: others who want the processor make figures worthless.
    pub(crate) load: f64,
    /// To write 8 KiB and have them on the disk; `None`: it could not be tried.
    pub(crate) sync_ms: Option<Spread>,
    /// What the programs say of themselves.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn look(dir: &Path, programs: &[&Path]) -> anyhow::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok());
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            memory_gib: kibibytes(&read("/proc/meminfo"), "MemTotal").unwrap_or_default() / (1024.0 * 1024.0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.unwrap_or_default(),
            sync_ms: time_syncs(dir).with_context(|| format!("writing to {}", dir.display()))?,
            versions: programs.iter().filter_map(|program| version(program)).collect(),
        })
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let sync = self.sync_ms.map_or("unknown".to_owned(), |spread| {
            format!("{:.2} ms ({:.2}..{:.2})", spread.median, spread.min, spread.max)
        });
        let Self { cores, processor, memory_gib, kernel, load, versions, .. } = self;
        vec![
            format!(
                "machine: {cores} cores of {processor}, {memory_gib:.0} GiB, Linux {kernel}, load {load}"
            ),
            format!("disk: write and sync of 8 KiB in {sync}"),
            format!("programs: {}", versions.join("; ")),
        ]
    }
}

/// A file system in memory acknowledges what no disk has.
pub(crate) fn check_is_disk(dir: &Path) -> anyhow::Result<()> {
    let stat = statfs(dir).with_context(|| dir.display().to_string())?;
    ensure!(
        stat.filesystem_type() != TMPFS_MAGIC,
        "{} is in memory, so nothing there is durable: name another place with --dir",
        dir.display()
    );
    Ok(())
}

/// Raises what this process may have open, and with it what it starts, to so many connections.
pub(crate) fn allow_files(connections: usize) -> anyhow::Result<()> {
    let needed = connections as u64 + OTHER_FILES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= needed,
        "{needed} open files are needed, and no more than {hard} are allowed: raise the hard limit (ulimit -Hn)"
    );
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).context("raising the limit of open files")?;
    }
    Ok(())
}

fn time_syncs(dir: &Path) -> anyhow::Result<Option<Spread>> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(&times))
}

/// The first line of what it answers to `--version`; `None`: it is not there.
fn version(program: &Path) -> Option<String> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// `name : value`
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// `name:   value kB`
pub(crate) fn kibibytes(text: &str, name: &str) -> Option<f64> {
    field(text, name)?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_read() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n";
        assert_eq!(field(text, "model name"), Some("A CPU @ 2 GHz"));
        assert_eq!(kibibytes("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal"), Some(16384.0));
        assert_eq!(kibibytes("MemTotal:       16384 kB\n", "MemFree"), None);
    }

    #[test]
    fn more_open_files_than_are_allowed_are_refused() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if let Ok(all) = usize::try_from(hard) {
            assert!(allow_files(all).unwrap_err().to_string().contains(&hard.to_string()));
        }
        allow_files(1).unwrap();
        assert!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 >= soft);
    }
}
