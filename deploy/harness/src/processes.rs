//! Processes as /proc shows them. A signal is only ever sent to those of our own cluster's directory.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn all() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = std::process::id();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(move |pid: &i32| *pid > 1 && u32::try_from(*pid) != Ok(own))
}

fn place(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The arguments that a process was started with, its program first.
pub fn arguments(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The program that a process runs.
pub fn program(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Every process of a PostgreSQL: all of them, and only they, work in its data directory.
pub fn of_database(data: &Path) -> Vec<i32> {
    all().filter(|pid| place(*pid).as_deref() == Some(data)).collect()
}

/// All that belong to a cluster: they name its directory or work in it.
pub fn of_cluster(dir: &Path) -> Vec<i32> {
    let name = dir.display().to_string();
    let names_it = |pid: i32| arguments(pid).iter().any(|argument| argument.contains(&name));
    all().filter(|pid| place(*pid).is_some_and(|place| place.starts_with(dir)) || names_it(*pid)).collect()
}

/// To as many as still exist.
pub fn signal(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter(|pid| **pid > 1) {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}
